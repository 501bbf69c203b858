"""A user's memory as JSON lines, out of one ledger and into another.

Line 1 says what the file is; then one line per event, in order, then one per memory and per dependency.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from nestmem.agent.messages import check_content, parse_time
from nestmem.errors import InputError
from nestmem.store import Ledger
from nestmem.store.records import Event, MemoryRecord, NewEvent, Scope, require_text

T = TypeVar("T")

FORMAT = "nestmem-export"
VERSION = 1
TYPES = ("event", "memory", "depends_on")
STATUSES = ("active", "superseded")


def export(ledger: Ledger, owner: Scope, path: Path) -> int:
    """Writes the file whole or not at all; returns the number of lines."""
    pending = {w.event_id for w in ledger.pending(owner)}
    lines: list[dict[str, Any]] = [{"type": FORMAT, "version": VERSION, "user": owner.user}]
    lines += [_event_line(e, e.id not in pending) for e in ledger.events(owner)]
    lines += [_memory_line(m) for m in ledger.memories(owner, active_only=False)]
    lines += [
        {"type": "depends_on", "src": e.src, "dst": e.dst} for e in ledger.edges(owner, kind="depends_on")
    ]
    written = path.with_name(path.name + ".part")
    try:
        with written.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")
        os.replace(written, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose a folder that exists"
        ) from error
    return len(lines)


def import_(ledger: Ledger, owner: Scope, path: Path) -> int:
    """Reads the file into `owner`, everything or nothing; returns the number of new events. InputError with the
    number of the line when one cannot be used."""
    lines = _read(path)
    events = [
        (_checked(_new_event, line, where), _checked(_learned, line, where))
        for where, line in lines
        if line["type"] == "event"
    ]
    memories = [(where, _checked(_record, line, where)) for where, line in lines if line["type"] == "memory"]
    edges = [_checked(_ends, line, where) for where, line in lines if line["type"] == "depends_on"]
    with ledger.transaction():
        before = ledger.count(owner)
        known_events = {e.id for e in ledger.events(owner)}
        known = {m.id for m in ledger.memories(owner, active_only=False)}
        stored = ledger.append(owner, [event for event, _ in events])
        # An event that is there already under the same idempotency key keeps the id that it has.
        ids = {event.id: there.id for (event, _), there in zip(events, stored, strict=True)}
        added: list[MemoryRecord] = []
        seen: set[str] = set()
        for where, memory in memories:
            if memory.id in seen:
                raise InputError(f"{where}: memory {memory.id!r} is in the file twice; leave one of them out")
            seen.add(memory.id)
            if memory.id not in known:
                added.append(replace(memory, scope=owner, event_id=ids.get(memory.event_id, memory.event_id)))
                _checked(lambda record, _: ledger.add_memories(owner, [record]), added[-1], where)
        for memory in added:
            if memory.supersedes:
                ledger.add_edge(owner, memory.id, memory.supersedes, "supersedes")
            if memory.superseded_by:
                ledger.add_edge(owner, memory.superseded_by, memory.id, "supersedes")
        for src, dst in edges:
            ledger.add_edge(owner, ids.get(src, src), ids.get(dst, dst), "depends_on")
        learned = {ids[event.id] for event, is_learned in events if is_learned}
        ledger.done([w.id for w in ledger.pending(owner) if w.event_id in learned - known_events])
        return ledger.count(owner) - before


def _event_line(event: Event, learned: bool) -> dict[str, Any]:
    return {
        "type": "event",
        "id": event.id,
        "session": event.scope.session,
        "role": event.role,
        "content": event.content,
        "occurred_at": _iso(event.occurred_at),
        "recorded_at": _iso(event.recorded_at),
        "source": event.source,
        "name": event.name,
        "meta": event.meta,
        "learned": learned,
    }


def _memory_line(memory: MemoryRecord) -> dict[str, Any]:
    fields = asdict(memory)
    del fields["scope"]
    return {"type": "memory", **{k: _iso(v) if isinstance(v, datetime) else v for k, v in fields.items()}}


def _iso(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _read(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines after the first, each with where it stands."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected a file written by export"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 (byte {error.start}); expected a file written by export"
        ) from error
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                data = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: broken JSON: {error}") from error
            if not isinstance(data, dict) or not isinstance(data.get("type"), str):
                raise InputError(f"{path}, line {number}: expected an object with a type")
            lines.append((f"{path}, line {number}", data))
    if not lines or lines[0][1].get("type") != FORMAT:
        raise InputError(f"{path}: not an export of nestmem; to read messages use observe")
    if lines[0][1].get("version") != VERSION:
        raise InputError(
            f"{path}: export version {lines[0][1].get('version')!r}, this nestmem reads {VERSION}; update nestmem"
        )
    for where, data in lines[1:]:
        if data["type"] not in TYPES:
            raise InputError(f"{where}: type is {data['type']!r}; expected one of {', '.join(TYPES)}")
    return lines[1:]


def _checked(make: Callable[[Any, str], T], line: Any, where: str) -> T:
    try:
        return make(line, where)
    except InputError as error:
        if str(error).startswith(where):
            raise
        raise InputError(f"{where}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: a field is missing or of the wrong kind: {error}") from error


def _new_event(line: dict[str, Any], where: str) -> NewEvent:
    return NewEvent(
        id=_text(line, "id"),
        session=Scope(session=_text(line, "session")).session,
        role=line["role"],
        content=check_content(line["content"], where),
        occurred_at=parse_time(line["occurred_at"], where),
        recorded_at=parse_time(line["recorded_at"], where),
        source=line["source"],
        name=line["name"],
        meta=line["meta"],
    )


def _learned(line: dict[str, Any], _: str) -> bool:
    learned = line.get("learned", False)
    if not isinstance(learned, bool):
        raise InputError(f"learned is {learned!r}; expected true or false")
    return learned


def _record(line: dict[str, Any], where: str) -> MemoryRecord:
    fields = {k: v for k, v in line.items() if k != "type"}
    for name in ("id", "key", "text", "kind", "event_id", "extractor", "status"):
        _text(fields, name)
    for name in ("question", "answer", "supersedes", "superseded_by"):
        if fields.get(name) is not None:
            require_text(name, fields[name])
    if fields["status"] not in STATUSES:
        raise InputError(f"status is {fields['status']!r}; expected one of {', '.join(STATUSES)}")
    for name in ("valid_from", "valid_to", "believed_from", "believed_to"):
        fields[name] = parse_time(fields[name], where)
        if fields[name] is None and name.endswith("_from"):
            raise InputError(f"{name} is empty; expected a time")
    span = fields["span"]
    if not (isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span)):
        raise InputError(f"span is {span!r}; expected two whole numbers")
    fields["span"] = tuple(span)
    return MemoryRecord(scope=Scope(), **fields)


def _ends(line: dict[str, Any], _: str) -> tuple[str, str]:
    return _text(line, "src"), _text(line, "dst")


def _text(line: dict[str, Any], name: str) -> str:
    text = require_text(name, line[name])
    if not text:
        raise InputError(f"{name} is empty")
    return text
