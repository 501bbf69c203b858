"""Which of several memories of one key holds: pure functions of the memories, whatever order they came in.

All memories of a key form a chain by the time they became true. The last one holds; each other is
superseded by its successor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from nestmem.agent.types import Level
from nestmem.store.records import Event, MemoryRecord

SLOW_AFTER = timedelta(days=1)


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


def level(event: Event, last_of_session: Mapping[str, datetime]) -> Level:
    """The level where what was told in `event` belongs, from what came after it.

    `last_of_session`: the time of the last event of each session. "slow" when the newest event of all is more
    than SLOW_AFTER later, "medium" when another session went on after it, else "fast". A function of the
    events alone, so that a life without some event has the same levels as one in which it was forgotten.
    """
    session = event.scope.session or "default"
    if last_of_session and max(last_of_session.values()) - event.when > SLOW_AFTER:
        return "slow"
    later = any(when > event.when for name, when in last_of_session.items() if name != session)
    return "medium" if later else "fast"
