"""Which of several memories of one key holds, and at which level the weights hold it: pure functions.

All memories of a key form a chain by the time they became true. The last one holds; each other is
superseded by its successor. A level follows from the events and from how far the last sleep read, never from
other memories: so a life without some event has the levels of one in which it was forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from nestmem.agent.types import Level
from nestmem.errors import InputError
from nestmem.store.records import Event, MemoryRecord


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """When a memory moves from the fast to the medium level; only a sleep makes it slow.

    session: at the end of its session, that is once another session went on after it. flushes: once so many
    later batches of its session came (0: at once); a batch are the messages of one `observe` (those recorded at one
    moment).
    """

    session: bool = True
    flushes: int = 16

    def __post_init__(self) -> None:
        if isinstance(self.flushes, bool) or not isinstance(self.flushes, int) or self.flushes < 0:
            raise InputError(
                f"Clocks(flushes={self.flushes!r}): expected a whole number of batches, at least 0"
            )


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """What the levels are read from. last: the time of the last event of each session. batches: the moments at
    which messages of the user were recorded, of the sessions that may still be open. slept: the seq up to which
    the last sleep read, 0 before the first."""

    last: Mapping[str, datetime] = field(default_factory=dict)
    batches: Mapping[str, Sequence[datetime]] = field(default_factory=dict)
    slept: int = 0


@dataclass(frozen=True, kw_only=True)
class Link:
    """`old` is superseded by `new` from `at` on, known since `believed_to`."""

    old: str
    new: str
    at: datetime
    believed_to: datetime


def chain(records: Iterable[MemoryRecord], seq: Mapping[str, int]) -> list[MemoryRecord]:
    """The records of one key, oldest truth first. Ties are broken by the order in which they were told."""
    return sorted(records, key=lambda r: (r.valid_from, seq.get(r.event_id, 0), r.span, r.id))


def links(held: Sequence[MemoryRecord], new: Sequence[MemoryRecord], seq: Mapping[str, int]) -> list[Link]:
    """What has to be marked superseded once `new` joins the memories `held` (active or not) of the same keys."""
    by_key: dict[str, list[MemoryRecord]] = {}
    for record in (*held, *new):
        by_key.setdefault(record.key, []).append(record)
    found = []
    for records in by_key.values():
        ordered = chain(records, seq)
        for old, following in pairwise(ordered):
            if old.superseded_by != following.id:
                believed_to = max(old.believed_from, following.believed_from)
                found.append(
                    Link(old=old.id, new=following.id, at=following.valid_from, believed_to=believed_to)
                )
    return found


def level(event: Event, calendar: Calendar, clocks: Clocks) -> Level:
    """The level where what was told in `event` belongs: "slow" when a sleep has read it, "medium" when its session
    has ended or went on for `clocks.flushes` batches, else "fast"."""
    if event.seq <= calendar.slept:
        return "slow"
    session = event.scope.session or "default"
    later = any(when > event.when for name, when in calendar.last.items() if name != session)
    if clocks.session and later:
        return "medium"
    since = sum(moment > event.recorded_at for moment in set(calendar.batches.get(session, ())))
    return "medium" if since >= clocks.flushes else "fast"
