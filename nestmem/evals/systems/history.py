"""What most systems share: the turns of each scope in the order said, and text made of the best of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nestmem.agent.recall import CHARS_PER_TOKEN
from nestmem.evals.datasets.base import Turn

LEAST_CUT_CHARS = 200
"""A turn that is longer than the budget is cut to what is left of it, when at least this much is left."""


@dataclass(kw_only=True)
class History:
    """The turns of one scope. `dropped` counts the calls of `drop` that took something out: whoever keeps an index
    of the turns makes it anew when it changed."""

    turns: list[Turn] = field(default_factory=list)
    bytes: int = 0
    dropped: int = 0

    def add(self, turn: Turn) -> None:
        """Takes a turn to the end."""
        self.turns.append(turn)
        self.bytes += size(turn)

    def drop(self, ids: Iterable[str]) -> None:
        """Takes the turns with these ids out; ids that are not there are passed over."""
        gone = set(ids)
        kept = [turn for turn in self.turns if turn.id not in gone]
        if len(kept) < len(self.turns):
            self.turns, self.bytes = kept, sum(map(size, kept))
            self.dropped += 1


class Histories:
    """A `History` for each scope, empty until something is added."""

    def __init__(self) -> None:
        self._by_scope: dict[str, History] = {}

    def __getitem__(self, scope: str) -> History:
        return self._by_scope.setdefault(scope, History())


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Text of a turn, all of it or a part. place: pieces are shown in the order of their places."""

    turn: Turn
    text: str
    place: tuple[int, ...]


def size(turn: Turn) -> int:
    """Bytes of a turn's text, UTF-8."""
    return len(turn.text.encode("utf-8", "surrogatepass"))


def pieces(turns: Sequence[Turn]) -> list[Piece]:
    """Each turn whole, at its place."""
    return [Piece(turn=turn, text=turn.text, place=(place,)) for place, turn in enumerate(turns)]


def render(shown: Sequence[Piece]) -> str:
    """A line with the date whenever it changes ("[no date]" where dates end), then "speaker: text" lines, as
    `nestmem.agent.recall.render` shows what it recalled."""
    lines: list[str] = []
    day = ""
    for piece in shown:
        if _day(piece.turn) != day:
            day = _day(piece.turn)
            lines.append(f"[{day or 'no date'}]")
        lines.append(_line(piece))
    return "\n".join(lines)


def pack(best_first: Iterable[Piece], budget_tokens: int) -> list[Piece]:
    """Pieces whose rendering has at most 4 * budget_tokens characters, in the order of their places.

    They are taken best first. One that does not fit into what is left is passed over; one that no budget of this
    size could hold is cut to its first part, so that a long turn does not empty the context.
    """
    budget = CHARS_PER_TOKEN * budget_tokens
    chosen: list[Piece] = []
    left, least = budget + 1, min(LEAST_CUT_CHARS, budget)
    for piece in best_first:
        if left < least and len(piece.text) >= left:
            continue
        at = bisect_left(chosen, piece.place, key=_place)
        opening = _more_dates(chosen[at - 1] if at else None, piece, chosen[at] if at < len(chosen) else None)
        cost = opening + len(_line(piece)) + 1
        if cost > budget + 1 and left >= least:
            piece = _cut(piece, left - opening - 1)
            cost = opening + len(_line(piece)) + 1
        if cost <= left and piece.text:
            left -= cost
            chosen.insert(at, piece)
        if left < LEAST_CUT_CHARS // 10:
            break
    return chosen


def latest(turns: Sequence[Turn], budget_tokens: int) -> list[Piece]:
    """The last turns whose rendering has at most 4 * budget_tokens characters, whole and without a gap; when not
    even the last one fits, the end of it."""
    budget = CHARS_PER_TOKEN * budget_tokens
    chosen: list[Piece] = []
    used, day = -1, None
    for place in range(len(turns) - 1, -1, -1):
        piece = Piece(turn=turns[place], text=turns[place].text, place=(place,))
        opening = 0 if _day(piece.turn) == day else _header_chars(piece.turn)
        cost = opening + len(_line(piece)) + 1
        if used + cost > budget:
            break
        used, day = used + cost, _day(piece.turn)
        chosen.append(piece)
    # A turn without a date after one with a date shows that.
    while chosen and len(render(chosen[::-1])) > budget:
        chosen.pop()
    if not chosen and turns:
        empty = Piece(turn=turns[-1], text="", place=(len(turns) - 1,))
        room = budget - len(render([empty]))
        if room > 0:
            chosen.append(Piece(turn=turns[-1], text=turns[-1].text[-room:], place=empty.place))
    return chosen[::-1]


def whole(turns: Sequence[Turn], budget_tokens: int) -> list[Piece] | None:
    """All turns, when the budget holds them; None when it does not."""
    budget = CHARS_PER_TOKEN * budget_tokens
    # Each turn has a line of its own: this stops early for a long history.
    if 2 * len(turns) > budget + 1:
        return None
    left = budget + 1
    for turn in turns:
        left -= len(turn.text) + 1
        if left < 0:
            return None
    shown = pieces(turns)
    return shown if len(render(shown)) <= budget else None


def ids(shown: Iterable[Piece]) -> tuple[str, ...]:
    """The ids of the turns that pieces come from, each once, in order."""
    return tuple(dict.fromkeys(piece.turn.id for piece in shown))


def _line(piece: Piece) -> str:
    return f"{piece.turn.speaker or piece.turn.role}: {piece.text}"


def _cut(piece: Piece, chars: int) -> Piece:
    """The first part of a piece whose line has at most `chars` characters."""
    room = chars - (len(_line(piece)) - len(piece.text))
    return Piece(turn=piece.turn, text=piece.text[: max(0, room)], place=piece.place)


def _more_dates(before: Piece | None, piece: Piece, after: Piece | None) -> int:
    """By how many characters the date lines grow when a piece is shown between these two."""
    days = ["" if before is None else _day(before.turn), _day(piece.turn)]
    more = _date_chars(*days)
    if after is not None:
        day = _day(after.turn)
        more += _date_chars(days[1], day) - _date_chars(days[0], day)
    return more


def _date_chars(before: str, day: str) -> int:
    """Of the date line that stands between two days."""
    return 0 if before == day else len(f"[{day or 'no date'}]\n")


def _header_chars(turn: Turn) -> int:
    return 0 if turn.at is None else len("[2026-03-02]\n")


def _day(turn: Turn) -> str:
    return "" if turn.at is None else turn.at.strftime("%Y-%m-%d")


def _place(piece: Piece) -> tuple[int, ...]:
    return piece.place
