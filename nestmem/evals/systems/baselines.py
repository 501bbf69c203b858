"""Systems that keep the turns as they are and search nothing: no memory, everything, and what was said last."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from nestmem.evals.datasets.base import Turn
from nestmem.evals.systems.base import Kind, Reader, Reply, Setup
from nestmem.evals.systems.history import Histories, ids, latest, render


class Nothing:
    """The bare model: it keeps nothing, and the question alone goes to the reader."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Keeps nothing."""

    def settle(self, scope: str) -> None:
        """Does nothing."""

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """What the reader says without a context."""
        return Reply(reading=self._reader.read(question, "", at=time))

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """Nothing was kept."""

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        """None: nothing is learned."""
        return None

    def bytes(self, scope: str) -> int:
        """0."""
        return 0

    def close(self) -> None:
        """Holds nothing."""


class Latest:
    """The last turns that fit into `tokens`, cut from the old end and shown whole. Nothing is ranked.

    A forgotten turn is taken out; older ones that fit again come back into the context."""

    def __init__(self, reader: Reader, tokens: int) -> None:
        self._reader = reader
        self._tokens = tokens
        self._histories = Histories()

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Keeps the turn."""
        self._histories[scope].add(message)

    def settle(self, scope: str) -> None:
        """Does nothing."""

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """What the reader says to the last turns."""
        shown = latest(self._histories[scope].turns, self._tokens)
        context = render(shown)
        reading = self._reader.read(question, context, at=time)
        return Reply(reading=reading, context=context, shown=ids(shown))

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """Takes the turns out."""
        self._histories[scope].drop(turns)

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        """None: nothing is learned."""
        return None

    def bytes(self, scope: str) -> int:
        """Of the text kept."""
        return self._histories[scope].bytes

    def close(self) -> None:
        """Holds nothing."""


def make_none(setup: Setup) -> Nothing:
    """The bare model."""
    return Nothing(setup.reader)


def make_full(setup: Setup) -> Latest:
    """As much of the history as the window holds."""
    return Latest(setup.reader, setup.window_tokens)


def make_recent(setup: Setup) -> Latest:
    """As much of the end of the history as the budget holds."""
    return Latest(setup.reader, setup.budget_tokens)


KINDS = (
    Kind(name="none", about="the bare model: no context at all", make=make_none),
    Kind(name="full", about="the whole history up to the window, cut from the old end", make=make_full),
    Kind(name="recent", about="the end of the history, up to the budget", make=make_recent),
)
