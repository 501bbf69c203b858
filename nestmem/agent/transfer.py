"""A user's memory as JSON lines, out of one ledger and into another.

Line 1 says what the file is; then one line per event, in order, then one per memory and per dependency.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from nestmem.agent.messages import check_content, parse_time
from nestmem.errors import InputError
from nestmem.store import Ledger
from nestmem.store.records import Event, MemoryRecord, NewEvent, Scope

FORMAT = "nestmem-export"
VERSION = 1


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
    """Reads the file into `owner`, everything or nothing; returns the number of new events."""
    lines = _read(path)
    events = [_checked(_new_event, line, f"{path}, line {n}") for n, line in lines if line["type"] == "event"]
    memories = [_checked(_record, line, f"{path}, line {n}") for n, line in lines if line["type"] == "memory"]
    learned = {line["id"] for _, line in lines if line["type"] == "event" and line.get("learned")}
    with ledger.transaction():
        before = ledger.count(owner)
        known_events = {e.id for e in ledger.events(owner)}
        known = {m.id for m in ledger.memories(owner, active_only=False)}
        ledger.append(owner, events)
        ledger.add_memories(owner, [replace(m, scope=owner) for m in memories if m.id not in known])
        for _, line in lines:
            if line["type"] == "depends_on":
                ledger.add_edge(owner, line["src"], line["dst"], "depends_on")
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


def _read(path: Path) -> list[tuple[int, dict[str, Any]]]:
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
            except ValueError as error:
                raise InputError(f"{path}, line {number}: broken JSON: {error}") from error
            if not isinstance(data, dict) or not isinstance(data.get("type"), str):
                raise InputError(f"{path}, line {number}: expected an object with a type")
            lines.append((number, data))
    if not lines or lines[0][1].get("type") != FORMAT:
        raise InputError(f"{path}: not an export of nestmem; to read messages use observe")
    if lines[0][1].get("version") != VERSION:
        raise InputError(
            f"{path}: export version {lines[0][1].get('version')!r}, this nestmem reads {VERSION}; update nestmem"
        )
    return lines


def _checked(make: Any, line: dict[str, Any], where: str) -> Any:
    try:
        return make(line, where)
    except (KeyError, TypeError) as error:
        raise InputError(f"{where}: a field is missing or of the wrong kind: {error}") from error


def _new_event(line: dict[str, Any], where: str) -> NewEvent:
    return NewEvent(
        id=line["id"],
        session=line["session"],
        role=line["role"],
        content=check_content(line["content"], where),
        occurred_at=parse_time(line["occurred_at"], where),
        recorded_at=parse_time(line["recorded_at"], where),
        source=line["source"],
        name=line["name"],
        meta=dict(line["meta"]),
    )


def _record(line: dict[str, Any], where: str) -> MemoryRecord:
    fields = {k: v for k, v in line.items() if k != "type"}
    for name in ("valid_from", "valid_to", "believed_from", "believed_to"):
        fields[name] = parse_time(fields[name], where)
    fields["span"] = tuple(fields["span"])
    return MemoryRecord(scope=Scope(), **fields)
