"""Embeddings from an OpenAI-compatible URL, with the standard library only."""

import http.client
import json
import urllib.request
from typing import Any

import numpy as np

from nestmem.errors import EmbedderError

BATCH = 64


class OpenAIEmbedder:
    """POSTs texts to `<url>/embeddings`.

    The URL is the base, for example http://localhost:8080/v1; a model is named after "#":
    http://localhost:8080/v1#nomic-embed-text. The dimension is asked for once, at the start.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_seconds: float = 30.0) -> None:
        base, _, model = url.partition("#")
        self._url = f"{base.rstrip('/')}/embeddings"
        self._model = model or "default"
        self._api_key = api_key
        self._timeout = timeout_seconds
        self.name = f"{base.rstrip('/')}#{self._model}"
        self.dim = self._ask(["dimension"]).shape[1]

    def embed(self, texts: list[str]) -> np.ndarray:
        """(n, dim) float32 rows of unit norm. EmbedderError when the server does not give them."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        parts = [self._ask(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        return np.concatenate(parts)

    def _ask(self, texts: list[str]) -> np.ndarray:
        headers = {"Content-Type": "application/json"}
        if self._api_key is not None:
            headers["Authorization"] = f"Bearer {self._api_key}"
        body = json.dumps({"model": self._model, "input": texts}).encode()
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EmbedderError(
                f"{self._url} did not give embeddings ({type(error).__name__}: {error}); "
                "check the URL and that the server runs"
            ) from error
        return _unit_rows(answer, len(texts), self._url)


def _unit_rows(answer: Any, expected: int, url: str) -> np.ndarray:
    try:
        items = sorted(answer["data"], key=lambda item: item["index"])
        rows = np.array([item["embedding"] for item in items], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise EmbedderError(f"{url} answered without data[].embedding: {str(answer)[:200]}") from error
    if rows.ndim != 2 or len(rows) != expected or not np.isfinite(rows).all():
        raise EmbedderError(
            f"{url} answered rows of shape {rows.shape} for {expected} texts; expected one each"
        )
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
