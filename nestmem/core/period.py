"""When a memory writes, and which of its states is used for what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from nestmem.core.checks import check_whole
from nestmem.errors import InputError


@dataclass(frozen=True)
class Period:
    """The clock of one memory, in tokens.

    chunk     gradients of these many tokens are taken at one state, the one before the chunk; chunk = 1 is the
              sequential rule. A chunk longer than the sequence is a state that is never refreshed within it.
    gradient  "chunk": at the state before the chunk; "current": at the state before the token, whatever the chunk
    window    each token's write looks at its own and the window - 1 tokens before it (Omega rule), weighted by
              `Gates.window`
    reset     the weights start again from their initial values every `reset` tokens (TNT), and no window looks
              back across that: after a reset the memory is a fresh one; None: never
    read      "token": y_t = M_t(q_t), after the token's own write; "previous": M_{t-1}(q_t), before it;
              "chunk": the state before the chunk (self-modifying Titans)
    """

    chunk: int = 1
    gradient: Literal["chunk", "current"] = "chunk"
    window: int = 1
    reset: int | None = None
    read: Literal["token", "previous", "chunk"] = "token"

    def __post_init__(self) -> None:
        for name in ("chunk", "window") + (("reset",) if self.reset is not None else ()):
            check_whole(name, getattr(self, name), unit=" of tokens")
        if self.gradient not in ("chunk", "current"):
            raise InputError(f'gradient is taken at "chunk" or "current"; got {self.gradient!r}')
        if self.read not in ("token", "previous", "chunk"):
            raise InputError(f'read is "token", "previous" or "chunk"; got {self.read!r}')
        if self.reset is not None and self.reset % self.chunk:
            raise InputError(
                f"reset falls between chunks: make it a multiple of chunk={self.chunk}; got {self.reset}"
            )

    def pieces(self, position: int, tokens: int, chunked: bool = True) -> Iterator[tuple[int, int]]:
        """Spans [start, stop) of the next `tokens` tokens that no chunk boundary cuts; single tokens if not chunked.

        >>> list(Period(chunk=4).pieces(position=3, tokens=7))
        [(0, 1), (1, 5), (5, 7)]
        """
        start = 0
        while start < tokens:
            length = self.chunk - (position + start) % self.chunk if chunked else 1
            if self.gradient == "current":
                length = 1
            stop = min(start + length, tokens)
            yield start, stop
            start = stop
