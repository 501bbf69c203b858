"""What a forget removes, and the removal itself. The caller holds the transaction.

Deleted rows are zeroed (secure_delete), the word index is merged into one segment without them
(FTS5 'optimize'), and after the commit the write-ahead log is folded into the file and cut to zero
bytes. After that no byte of the text is left in the ledger's files (tests/store/test_forget.py looks).
Copies outside these files (backups, the file system's own snapshots) are not reached.
"""

import json
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nestmem.store import rows
from nestmem.store.records import ForgetPlan
from nestmem.store.search import SearchIndex

# What `execute` counts, in the order in which it goes.
KINDS = (
    "passages",
    "updates",
    "versions",
    "edges",
    "uses",
    "kept_out",
    "snapshots",
    "memories",
    "work",
    "events",
)


def plan(raw: sqlite3.Connection, scope_id: int, event_ids: list[str]) -> ForgetPlan:
    """Everything that goes with these events; ids that are not there are left out."""
    events = [row[0] for row in _where_in(raw, "SELECT id FROM event", scope_id, "id", event_ids, "seq")]
    memories = _with_dependents(raw, scope_id, _memories_of(raw, scope_id, events))
    updates = _updates_of(raw, scope_id, events, memories)
    gone = set(memories)
    restored = [
        row[0]
        for row in _where_in(raw, "SELECT id FROM memory", scope_id, "superseded_by", memories, "rank")
        if row[0] not in gone and _successor(raw, scope_id, row[0], gone) is None
    ]
    return ForgetPlan(
        event_ids=tuple(events),
        memory_ids=tuple(memories),
        update_ids=tuple(updates),
        version_ids=tuple(_versions_of(raw, scope_id, set(updates))),
        restored_ids=tuple(restored),
        requeued_event_ids=tuple(_other_sources(raw, scope_id, memories, set(events))),
    )


def execute(raw: sqlite3.Connection, scope_id: int, index: SearchIndex, todo: ForgetPlan) -> dict[str, int]:
    """Carries out a plan and returns how many rows of each kind went."""
    _hand_over(raw, scope_id, set(todo.memory_ids))
    removed = {
        "passages": _remove_passages(raw, scope_id, index, todo),
        "updates": _delete(raw, "weight_update", scope_id, "id", todo.update_ids),
        "versions": _remove_versions(raw, scope_id, todo.version_ids),
        "edges": sum(
            _delete(raw, "edge", scope_id, column, (*todo.memory_ids, *todo.event_ids, *todo.update_ids))
            for column in ("src", "dst")
        ),
        "uses": _delete(raw, "memory_use", scope_id, "memory_id", todo.memory_ids),
        "kept_out": _delete(raw, "kept_out", scope_id, "memory_id", todo.memory_ids),
        # A saved state holds what was learned from the events, in numbers.
        "snapshots": raw.execute("DELETE FROM snapshot WHERE scope_id = ?", (scope_id,)).rowcount,
        "memories": _delete(raw, "memory", scope_id, "id", todo.memory_ids),
        "work": _delete(raw, "work", scope_id, "event_id", todo.event_ids),
        "events": _delete(raw, "event", scope_id, "id", todo.event_ids),
    }
    # A sleep that is under way may hold text of the events in its process: its holder finds it gone.
    raw.execute("DELETE FROM sleep_run WHERE scope_id = ? AND ended_at IS NULL", (scope_id,))
    _drop_mentions(raw, scope_id, todo)
    for event_id in todo.requeued_event_ids:
        raw.execute(
            """UPDATE work SET state = 'pending', attempts = 0, last_error = NULL
               WHERE scope_id = ? AND event_id = ?""",
            (scope_id, event_id),
        )
    raw.execute("INSERT INTO passage_fts(passage_fts) VALUES('optimize')")
    return removed


def _memories_of(raw: sqlite3.Connection, scope_id: int, events: list[str]) -> list[str]:
    """Memories whose text came from these events. One that another event also supports goes too (its
    wording is the forgotten event's); that other event is learned anew."""
    return [row[0] for row in _where_in(raw, "SELECT id FROM memory", scope_id, "event_id", events, "rank")]


def _with_dependents(raw: sqlite3.Connection, scope_id: int, memories: list[str]) -> list[str]:
    """These memories and all that could only be read because of them ("sorry, I meant York"). The events
    of such dependents stay and are read anew."""
    found = list(memories)
    for memory_id in found:
        rows = raw.execute(
            "SELECT src FROM edge WHERE scope_id = ? AND dst = ? AND kind = 'depends_on' ORDER BY src",
            (scope_id, memory_id),
        )
        found += [src for (src,) in rows if src not in found]
    return found


def _updates_of(raw: sqlite3.Connection, scope_id: int, events: list[str], memories: list[str]) -> list[str]:
    select = "SELECT update_id FROM weight_update_event"
    by_event = {row[0] for row in _where_in(raw, select, scope_id, "event_id", events, "update_id")}
    select = "SELECT id FROM weight_update"
    by_memory = {row[0] for row in _where_in(raw, select, scope_id, "memory_id", memories, "number")}
    ordered = raw.execute("SELECT id FROM weight_update WHERE scope_id = ? ORDER BY number", (scope_id,))
    return [row[0] for row in ordered if row[0] in by_event or row[0] in by_memory]


def _versions_of(raw: sqlite3.Connection, scope_id: int, updates: set[str]) -> list[str]:
    rows = raw.execute(
        "SELECT id, update_ids FROM weight_version WHERE scope_id = ? ORDER BY number", (scope_id,)
    )
    return [id_ for id_, listed in rows if not updates.isdisjoint(json.loads(listed))]


def _other_sources(raw: sqlite3.Connection, scope_id: int, memories: list[str], gone: set[str]) -> list[str]:
    """Events that a removed memory was also derived from and that stay."""
    select = "SELECT DISTINCT dst FROM edge WHERE kind = 'derived_from' AND"
    linked = [row[0] for row in _where_in(raw, select, scope_id, "src", memories, "dst")]
    stay = [id_ for id_ in linked if id_ not in gone]
    return [row[0] for row in _where_in(raw, "SELECT id FROM event", scope_id, "id", stay, "seq")]


@dataclass(frozen=True)
class _Successor:
    id: str
    valid_from: str
    believed_from: str


def _successor(raw: sqlite3.Connection, scope_id: int, memory_id: str, gone: set[str]) -> _Successor | None:
    """The first memory after this one in its chain of successors that stays."""
    seen = {memory_id}
    following = memory_id
    while True:
        row = raw.execute(
            """SELECT n.id, n.valid_from, n.believed_from FROM memory o
               JOIN memory n ON n.scope_id = o.scope_id AND n.id = o.superseded_by
               WHERE o.scope_id = ? AND o.id = ?""",
            (scope_id, following),
        ).fetchone()
        if row is None or row[0] in seen:
            return None
        if row[0] not in gone:
            return _Successor(*row)
        following = row[0]
        seen.add(following)


def _hand_over(raw: sqlite3.Connection, scope_id: int, gone: set[str]) -> None:
    """Gives each memory that a removed one superseded its next successor, or makes it active again."""
    rows = _where_in(raw, "SELECT id FROM memory", scope_id, "superseded_by", sorted(gone), "rank")
    for (memory_id,) in rows:
        if memory_id in gone:
            continue
        heir = _successor(raw, scope_id, memory_id, gone)
        if heir is None:
            raw.execute(
                """UPDATE memory
                   SET status = 'active', valid_to = NULL, believed_to = NULL, superseded_by = NULL
                   WHERE scope_id = ? AND id = ?""",
                (scope_id, memory_id),
            )
            continue
        raw.execute(
            """UPDATE memory SET valid_to = ?, believed_to = max(believed_from, ?), superseded_by = ?
               WHERE scope_id = ? AND id = ?""",
            (heir.valid_from, heir.believed_from, heir.id, scope_id, memory_id),
        )
        raw.execute(
            "UPDATE memory SET supersedes = ? WHERE scope_id = ? AND id = ?", (memory_id, scope_id, heir.id)
        )
        raw.execute(
            "INSERT OR IGNORE INTO edge(scope_id, src, dst, kind) VALUES(?, ?, ?, 'supersedes')",
            (scope_id, heir.id, memory_id),
        )
    for memory_id in gone:
        raw.execute(
            "UPDATE memory SET supersedes = NULL WHERE scope_id = ? AND supersedes = ?", (scope_id, memory_id)
        )


def _remove_passages(raw: sqlite3.Connection, scope_id: int, index: SearchIndex, todo: ForgetPlan) -> int:
    seqs = [row[0] for row in _where_in(raw, "SELECT seq FROM event", scope_id, "id", todo.event_ids, "seq")]
    ids = {row[0] for row in _where_in(raw, "SELECT id FROM passage", scope_id, "seq", seqs, "id")}
    ids |= {
        row[0]
        for row in _where_in(raw, "SELECT id FROM passage", scope_id, "memory_id", todo.memory_ids, "id")
    }
    index.remove(raw, scope_id, sorted(ids))
    return len(ids)


def _remove_versions(raw: sqlite3.Connection, scope_id: int, version_ids: tuple[str, ...]) -> int:
    """Deletes versions; those that follow get the nearest remaining parent."""
    for version_id in version_ids:
        raw.execute(
            """UPDATE weight_version SET parent =
                 (SELECT parent FROM weight_version WHERE scope_id = ? AND id = ?)
               WHERE scope_id = ? AND parent = ?""",
            (scope_id, version_id, scope_id, version_id),
        )
        raw.execute("DELETE FROM weight_version WHERE scope_id = ? AND id = ?", (scope_id, version_id))
    return len(version_ids)


def _drop_mentions(raw: sqlite3.Connection, scope_id: int, todo: ForgetPlan) -> None:
    """Takes the removed ids out of reports and out of what sleeps noted."""
    gone = {*todo.event_ids, *todo.memory_ids, *todo.update_ids, *todo.version_ids}
    for version_id in todo.version_ids:
        raw.execute(
            "UPDATE report SET version_id = NULL WHERE scope_id = ? AND version_id = ?",
            (scope_id, version_id),
        )
    names = "|".join(re.escape(id_) for id_ in sorted(gone, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w-])(?:{names})(?![\w-])")
    for table in ("report", "sleep_run"):
        found = raw.execute(f"SELECT number, detail FROM {table} WHERE scope_id = ?", (scope_id,)).fetchall()
        for number, detail in found:
            kept = rows.dump(_without(json.loads(detail), pattern))
            if kept != detail:
                raw.execute(f"UPDATE {table} SET detail = ? WHERE number = ?", (kept, number))


def _without(value: Any, gone: re.Pattern[str]) -> Any:
    """A JSON value without the ids that `gone` finds: what is or is called by one goes, and in a text with other
    words it is replaced."""
    if isinstance(value, dict):
        return {
            key: _without(item, gone)
            for key, item in value.items()
            if not gone.search(key) and not _is_one(item, gone)
        }
    if isinstance(value, list):
        return [_without(item, gone) for item in value if not _is_one(item, gone)]
    return gone.sub("(forgotten)", value) if isinstance(value, str) else value


def _is_one(value: Any, gone: re.Pattern[str]) -> bool:
    return isinstance(value, str) and gone.fullmatch(value) is not None


def _delete(raw: sqlite3.Connection, table: str, scope_id: int, column: str, ids: tuple[str, ...]) -> int:
    count = 0
    for id_ in ids:
        count += raw.execute(
            f"DELETE FROM {table} WHERE scope_id = ? AND {column} = ?", (scope_id, id_)
        ).rowcount
    return count


def _where_in(
    raw: sqlite3.Connection,
    select: str,
    scope_id: int,
    column: str,
    values: Sequence[str] | Sequence[int],
    order: str,
) -> list[tuple]:
    """Rows of `select` in the scope whose `column` is one of `values`, in chunks SQLite accepts."""
    joint = select if select.rstrip().endswith(("WHERE", "AND")) else f"{select} WHERE"
    rows: list[tuple] = []
    for start in range(0, len(values), 500):
        chunk = list(values[start : start + 500])
        marks = ",".join("?" * len(chunk))
        rows += raw.execute(
            f"{joint} scope_id = ? AND {column} IN ({marks}) ORDER BY {order}", (scope_id, *chunk)
        ).fetchall()
    return rows
