"""A ledger whose clock and ids are counted, so that every test is repeatable."""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nestmem.store import Event, Ledger, MemoryRecord, NewEvent, Scope

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def ann() -> Scope:
    return Scope(user="ann")


@pytest.fixture
def open_ledger(tmp_path: Path) -> Iterator[Callable[..., Ledger]]:
    """Opens ledgers on one file with a clock that moves a minute at each look; closes them at the end."""
    opened: list[Ledger] = []
    minutes, numbers = itertools.count(), itertools.count(1)

    def build(path: Path | str = tmp_path / "memory.db", **settings: Any) -> Ledger:
        ledger = Ledger(
            path,
            clock=lambda: START + timedelta(minutes=next(minutes)),
            new_id=lambda prefix: f"{prefix}_{next(numbers):03d}",
            **settings,
        )
        opened.append(ledger)
        return ledger

    yield build
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Callable[..., Ledger]) -> Ledger:
    return open_ledger()


@pytest.fixture
def say() -> Callable[..., Event]:
    def append(ledger: Ledger, scope: Scope, content: str, **fields: Any) -> Event:
        return ledger.append(scope, [NewEvent(role="user", content=content, **fields)])[0]

    return append


@pytest.fixture
def remember() -> Callable[..., MemoryRecord]:
    """Adds a memory that covers its whole event."""

    def add(ledger: Ledger, event: Event, id: str, **fields: Any) -> MemoryRecord:
        record = MemoryRecord(
            **{
                "id": id,
                "scope": event.scope.owner,
                "key": "home_city",
                "text": event.content,
                "question": "Where do I live?",
                "answer": event.content.split()[-1].strip("."),
                "kind": "fact",
                "event_id": event.id,
                "span": (0, len(event.content)),
                "valid_from": event.when,
                "believed_from": event.recorded_at,
                "extractor": "test",
                **fields,
            }
        )
        ledger.add_memories(event.scope, [record])
        return record

    return add
