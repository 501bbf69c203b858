"""A client for any OpenAI-compatible chat endpoint, with the standard library only."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from nestmem.agent.types import Chat
from nestmem.errors import InputError, LLMError

RETRIED = (408, 409, 429, 500, 502, 503, 504)


class ChatEndpoint:
    """Talks to `{url}/chat/completions`.

    url: base URL ("http://localhost:11434/v1") or the whole path. model: the name the server knows.
    timeout_s bounds each attempt; `retries` more attempts follow a timeout, a refused connection, a
    reply that was cut off or is no HTTP, or an overloaded server, waiting backoff_s, then twice that, and so on.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "default",
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 2,
        backoff_s: float = 0.5,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(
                f"an LLM endpoint is an http(s) URL such as http://localhost:8000/v1, not {url!r}"
            )
        base = url.rstrip("/")
        self.url = base if base.endswith("/chat/completions") else base + "/chat/completions"
        self.model = model
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._retries = retries
        self._backoff_s = backoff_s
        self._sleep = sleep

    @property
    def name(self) -> str:
        """The model and the host, for reports. Never the key."""
        return f"{self.model} at {urlsplit(self.url).netloc}"

    def chat(
        self,
        messages: Chat,
        *,
        max_tokens: int = 256,
        extra: Mapping[str, Any] = {},
        headers: Mapping[str, str] = {},
    ) -> str:
        """The answer's text. Raises LLMError when the endpoint is down, refuses, or answers junk.

        extra: more fields of the body ("user"). headers: more headers; neither replaces what is sent anyway.
        """
        own = {"model": self.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
        body = {**extra, **own}
        for attempt in range(self._retries + 1):
            try:
                return _content(self._post(body, headers), self.url)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code} {error.reason}"
                if error.code not in RETRIED:
                    raise LLMError(
                        f"{self.url} refused the request: {reason}; check the URL, model and key"
                    ) from error
            except (OSError, http.client.HTTPException) as error:
                # No connection, a timeout, or a reply that is no HTTP or was cut off.
                said = str(getattr(error, "reason", error)).strip()
                reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
            if attempt < self._retries:
                self._sleep(self._backoff_s * 2**attempt)
        raise LLMError(
            f"{self.url} did not answer in {self._retries + 1} attempts of {self._timeout_s:g} s ({reason}); "
            "is the server running?"
        )

    def _post(self, body: dict[str, Any], more: Mapping[str, str]) -> bytes:
        headers = {**more, "Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
            return response.read()


def endpoint(spec: str, *, api_key: str | None = None) -> ChatEndpoint:
    """The endpoint that "URL" or "URL#model" names. InputError when it is no http(s) URL."""
    url, _, model = spec.partition("#")
    return ChatEndpoint(url, model=model or "default", api_key=api_key)


def _content(raw: bytes, url: str) -> str:
    """The text of the first choice of a chat completion. LLMError "... refused to answer: WHY" when the model
    refused, or a filter of the server took its answer away."""
    try:
        choice = json.loads(raw)["choices"][0]
        content = choice["message"]["content"]
        filtered = "content_filter" if choice.get("finish_reason") == "content_filter" else None
        refusal = choice["message"].get("refusal") or filtered
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise LLMError(f"{url} answered something that is no chat completion: {raw[:200]!r}") from error
    if refusal:
        raise LLMError(f"{url} refused to answer: {refusal}")
    if not isinstance(content, str) or not content.strip():
        raise LLMError(f"{url} answered an empty message")
    return content.strip()
