"""The ledger: one SQLite file that holds what was said, what was read from it, and what was learned."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from nestmem.errors import InputError, LedgerLocked
from nestmem.store import forgetting, rows
from nestmem.store.connection import Connection
from nestmem.store.levels import Levels
from nestmem.store.migrations import migrate
from nestmem.store.records import (
    LEVELS,
    Edge,
    Event,
    ForgetPlan,
    MemoryRecord,
    NewEvent,
    Receipt,
    Scope,
    WeightUpdate,
    WeightVersion,
    Work,
    to_text,
    utc_now,
)
from nestmem.store.search import PassageTable, SearchIndex, memory_index_text


def random_id(prefix: str) -> str:
    """An id that is never used twice: the prefix and 128 random bits."""
    return f"{prefix}_{uuid.uuid4().hex}"


class Ledger(Levels):
    """Append-only events and everything derived from them, by scope.

    Each write is one transaction and has reached the disk when the call returns; several writes
    become one with `transaction()`. Any number of threads and processes may use one file. Errors are
    the LedgerErrors of nestmem.errors.

    >>> ledger = Ledger()
    >>> ann = Scope(user="ann")
    >>> [event] = ledger.append(ann, [NewEvent(role="user", content="My dog is called Biscuit.")])
    >>> ledger.event(ann, event.id).content
    'My dog is called Biscuit.'
    >>> ledger.count(Scope(user="bob"))
    0
    """

    def __init__(
        self,
        path: str | Path = ":memory:",
        *,
        clock: Callable[[], datetime] = utc_now,
        new_id: Callable[[str], str] = random_id,
        busy_timeout_ms: int = 5000,
        read_only: bool = False,
    ) -> None:
        self.path = str(path)
        self.read_only = read_only
        self._clock = clock
        super().__init__(
            Connection(self.path, busy_timeout_ms=busy_timeout_ms, read_only=read_only), new_id=new_id
        )
        self._index = SearchIndex(self._connection)
        self._connection.on_rollback = self._index.forget_loaded
        with ExitStack() as failed:
            failed.callback(self._connection.close)
            with self._connection.errors():
                migrate(self._connection.raw, self.path, read_only=read_only)
            if not read_only and self._scrub_pending():
                self.scrub(wait=False)
            failed.pop_all()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. SQLite folds the write-ahead log into it when this was the last user."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside become one; if the block raises, none of them happened."""
        with self._connection.transaction():
            yield

    def changes(self, scope: Scope) -> int:
        """A number that grows with each change of the scope's events and memories."""
        found = self._read("SELECT version FROM scope WHERE id = ?", [self._scope_id(scope)])
        return found[0][0] if found else 0

    # Events

    def append(self, scope: Scope, events: Sequence[NewEvent]) -> list[Event]:
        """Stores messages, indexes their words and queues them to be learned from, in one transaction.

        The session is the event's, else the scope's, else "default". An event whose
        `meta["idempotency_key"]` or id is in the scope already is not stored again: that one is returned.
        """
        if not events:
            return []
        now = self._clock()
        with self._connection.transaction():
            scope_id = self._scope_id(scope, create=True)
            stored = [self._append_one(scope_id, scope, event, now) for event in events]
            self._changed(scope_id)
        return stored

    def event(self, scope: Scope, event_id: str) -> Event:
        """One event; InputError when the scope has none of that id."""
        found = self.events(scope, ids=[event_id])
        if not found:
            raise InputError(
                f"no event {event_id!r} in {_name(scope)}; it may belong to another user or be forgotten"
            )
        return found[0]

    def events(
        self,
        scope: Scope,
        *,
        ids: Iterable[str] | None = None,
        seqs: Iterable[int] | None = None,
        session: str | None = None,
        after_seq: int | None = None,
        until: datetime | None = None,
        recorded_until: datetime | None = None,
        last: int | None = None,
    ) -> list[Event]:
        """Events in the order they were recorded. `until` bounds when they were said (both inclusive).

        `last` keeps only so many of the newest. A scope with a session sees that session only.
        """
        session = session or scope.session
        where = ["scope_id = ?"]
        values: list[Any] = [self._scope_id(scope)]
        for condition, value in (
            ("session = ?", session),
            ("seq > ?", after_seq),
            ("coalesce(occurred_at, recorded_at) <= ?", to_text(until)),
            ("recorded_at <= ?", to_text(recorded_until)),
        ):
            if value is not None:
                where.append(condition)
                values.append(value)
        if ids is not None or seqs is not None:
            column, wanted = ("id", list(ids)) if ids is not None else ("seq", list(seqs or ()))
            found = self._by_ids("event", rows.EVENT_COLUMNS, where, values, column, wanted, "seq")
            return [rows.event(scope, row) for row in sorted(found, key=lambda row: row[0])]
        sql = f"SELECT {rows.EVENT_COLUMNS} FROM event WHERE {' AND '.join(where)} ORDER BY seq"
        if last is not None:
            found = self._read(f"{sql} DESC LIMIT ?", (*values, last))[::-1]
        else:
            found = self._read(sql, values)
        return [rows.event(scope, row) for row in found]

    def count(self, scope: Scope) -> int:
        """How many events the scope has."""
        sql, values = "SELECT count(*) FROM event WHERE scope_id = ?", [self._scope_id(scope)]
        if scope.session is not None:
            sql, values = f"{sql} AND session = ?", [*values, scope.session]
        return self._read(sql, values)[0][0]

    # Memories

    def add_memories(self, scope: Scope, records: Sequence[MemoryRecord]) -> None:
        """Stores memories with an edge derived_from to their events, and indexes their questions.

        InputError when a record's event is not in the scope or its span lies outside the event.
        """
        with self._connection.transaction() as raw:
            scope_id = self._scope_id(scope, create=True)
            for record in records:
                seq = self._check_memory(scope_id, scope, record)
                raw.execute(
                    f"""INSERT INTO memory(scope_id, rank, {rows.MEMORY_COLUMNS}) VALUES(?,
                        (SELECT coalesce(max(rank), 0) + 1 FROM memory WHERE scope_id = ?),
                        ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                    (scope_id, scope_id, *_memory_values(record)),
                )
                self._index_memory(scope_id, seq, record)
                self.add_edge(scope, record.id, record.event_id, "derived_from")
            if records:
                self._changed(scope_id)

    def supersede(
        self, scope: Scope, old_id: str, new_id: str, at: datetime, believed_to: datetime | None = None
    ) -> None:
        """From `at` on (time of the world) `new_id` holds instead of `old_id`.

        `believed_to` is when we learned that, by default now. A correction (the old one was never
        true) is `at=old.valid_from`.
        """
        with self._connection.transaction() as raw:
            scope_id = self._scope_id(scope)
            ended = to_text(believed_to or self._clock())
            changed = raw.execute(
                """UPDATE memory SET status = 'superseded', valid_to = ?, believed_to = ?, superseded_by = ?
                   WHERE scope_id = ? AND id = ?""",
                (to_text(at), ended, new_id, scope_id, old_id),
            ).rowcount
            changed += raw.execute(
                "UPDATE memory SET supersedes = ? WHERE scope_id = ? AND id = ?", (old_id, scope_id, new_id)
            ).rowcount
            if changed != 2:
                raise InputError(f"memories {old_id!r} and {new_id!r} are not both in {_name(scope)}")
            self.add_edge(scope, new_id, old_id, "supersedes")
            self._changed(scope_id)

    def memories(
        self,
        scope: Scope,
        *,
        active_only: bool = True,
        as_of: datetime | None = None,
        at: datetime | None = None,
        keys: Iterable[str] | None = None,
        event_ids: Iterable[str] | None = None,
    ) -> list[MemoryRecord]:
        """Memories in the order they were added.

        With neither time: those active now. `as_of`: those that were believed at that moment.
        `at`: those true at that moment, as we know it now (or as known at `as_of`, when both are
        given). `active_only=False` leaves out the test of belief and truth at the present.
        """
        records = self._memory_rows(scope, keys=keys, event_ids=event_ids)
        if as_of is None and at is None:
            return [record for record in records if not active_only or record.status == "active"]
        return [record for record in records if holds(record, as_of=as_of, at=at)]

    def superseded(self, scope: Scope) -> list[MemoryRecord]:
        """Memories of the scope, of all sessions, whose belief has ended."""
        found = self._read(
            f"SELECT {rows.MEMORY_COLUMNS} FROM memory WHERE scope_id = ? AND status = 'superseded' ORDER BY rank",
            [self._scope_id(scope)],
        )
        return [rows.memory(scope.owner, row) for row in found]

    def memory(self, scope: Scope, memory_id: str) -> MemoryRecord:
        """One memory; InputError when the scope has none of that id."""
        found = self._memory_rows(scope, ids=[memory_id])
        if not found:
            raise InputError(
                f"no memory {memory_id!r} in {_name(scope)}; it may belong to another user or be forgotten"
            )
        return found[0]

    def history(self, scope: Scope, key: str) -> list[MemoryRecord]:
        """All that was ever held under a key, by when it became true."""
        return sorted(self._memory_rows(scope, keys=[key]), key=lambda record: record.valid_from)

    # Edges

    def add_edge(self, scope: Scope, src: str, dst: str, kind: str) -> None:
        """Links two ids; the same link twice is one."""
        with self._connection.transaction() as raw:
            raw.execute(
                "INSERT OR IGNORE INTO edge(scope_id, src, dst, kind) VALUES(?, ?, ?, ?)",
                (self._scope_id(scope, create=True), src, dst, kind),
            )

    def edges(
        self, scope: Scope, *, src: str | None = None, dst: str | None = None, kind: str | None = None
    ) -> list[Edge]:
        """The links of a scope, filtered by either end and kind."""
        where = ["scope_id = ?"]
        values: list[Any] = [self._scope_id(scope)]
        for column, value in (("src", src), ("dst", dst), ("kind", kind)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        found = self._read(
            f"SELECT src, dst, kind FROM edge WHERE {' AND '.join(where)} ORDER BY src, kind, dst", values
        )
        return [Edge(scope=scope, src=src_, dst=dst_, kind=kind_) for src_, dst_, kind_ in found]

    # Work

    def pending(self, scope: Scope | None = None, *, kind: str = "learn") -> list[Work]:
        """Work that is not done, oldest first, failed attempts included. Without a scope: of everybody."""
        sql = """SELECT w.id, s.tenant, s.user, s.agent, e.session,
                        w.kind, w.event_id, w.attempts, w.last_error, w.state
                 FROM work w JOIN scope s ON s.id = w.scope_id
                 JOIN event e ON e.scope_id = w.scope_id AND e.id = w.event_id
                 WHERE w.state <> 'done' AND w.kind = ?"""
        values: list[Any] = [kind]
        if scope is not None:
            sql += " AND w.scope_id = ?"
            values.append(self._scope_id(scope))
            if scope.session is not None:
                sql += " AND e.session = ?"
                values.append(scope.session)
        return [rows.work(row) for row in self._read(f"{sql} ORDER BY w.id", values)]

    def done(self, work_ids: Iterable[int]) -> None:
        """Takes work off the queue."""
        with self._connection.transaction() as raw:
            raw.executemany(
                "UPDATE work SET state = 'done', last_error = NULL WHERE id = ?", [(id_,) for id_ in work_ids]
            )

    def failed(self, work_id: int, error: str) -> None:
        """Notes a failed attempt; the work stays in the queue."""
        with self._connection.transaction() as raw:
            raw.execute(
                "UPDATE work SET state = 'failed', attempts = attempts + 1, last_error = ? WHERE id = ?",
                (error[:1000], work_id),
            )

    # Search: passages, words, vectors

    def passages(self, scope: Scope) -> PassageTable:
        """The scope's passages as arrays (of all sessions), kept in memory between calls."""
        with self._connection.reading():
            return self._index.table(self._scope_id(scope))

    def postings(self, scope: Scope, terms: list[str]) -> list[np.ndarray]:
        """For each word (as cut by store.passages.words), the positions in `passages(scope)` that hold it."""
        with self._connection.reading():
            return self._index.postings(self._scope_id(scope), terms)

    def passage_texts(self, scope: Scope, passage_ids: Iterable[int]) -> dict[int, str]:
        """The text of passages by id."""
        with self._connection.reading() as raw:
            return dict(self._index.texts(raw, self._scope_id(scope), passage_ids))

    def add_vectors(self, scope: Scope, passage_ids: Sequence[int], model: str, matrix: np.ndarray) -> None:
        """Stores one float32 row per passage for this model; passages that are gone meanwhile are skipped."""
        if matrix.ndim != 2 or len(matrix) != len(passage_ids):
            raise InputError(
                f"{len(passage_ids)} passages but a matrix of shape {matrix.shape}; expected one row each"
            )
        data = np.ascontiguousarray(matrix, dtype="<f4")
        dim = data.shape[1]
        with self._connection.transaction() as raw:
            scope_id = self._scope_id(scope)
            raw.executemany(
                """INSERT OR IGNORE INTO vector(scope_id, model, dim, passage_id, data)
                   SELECT scope_id, ?, ?, id, ? FROM passage WHERE id = ? AND scope_id = ?""",
                [
                    (model, dim, row.tobytes(), int(id_), scope_id)
                    for id_, row in zip(passage_ids, data, strict=True)
                ],
            )

    def vectors(self, scope: Scope, model: str, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """(positions in `passages(scope)`, matrix) of the stored vectors of this model and dimension."""
        with self._connection.reading():
            return self._index.vectors(self._scope_id(scope), model, dim)

    def missing_vectors(self, scope: Scope, model: str, dim: int) -> list[tuple[int, str]]:
        """(passage id, text) of the passages without a vector of this model and dimension."""
        with self._connection.reading() as raw:
            scope_id = self._scope_id(scope)
            missing = raw.execute(
                """SELECT id FROM passage p WHERE scope_id = ? AND NOT EXISTS (SELECT 1 FROM vector v
                   WHERE v.scope_id = p.scope_id AND v.model = ? AND v.dim = ? AND v.passage_id = p.id)
                   ORDER BY id""",
                (scope_id, model, dim),
            ).fetchall()
            return self._index.texts(raw, scope_id, [row[0] for row in missing])

    # Weights

    def add_updates(self, scope: Scope, updates: Sequence[WeightUpdate]) -> None:
        """Stores weight updates with the events they came from."""
        with self._connection.transaction() as raw:
            scope_id = self._scope_id(scope, create=True)
            for update in updates:
                _check_level(update.level)
                raw.execute(
                    f"""INSERT INTO weight_update(scope_id, {rows.UPDATE_COLUMNS})
                        VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                    (
                        scope_id,
                        update.id,
                        update.memory_id,
                        update.level,
                        update.payload,
                        update.digest,
                        update.learner,
                        rows.dump(update.examples),
                        to_text(update.created_at),
                    ),
                )
                raw.executemany(
                    """INSERT INTO weight_update_event(scope_id, update_id, event_id, position)
                       VALUES(?, ?, ?, ?)""",
                    [
                        (scope_id, update.id, event_id, place)
                        for place, event_id in enumerate(update.event_ids)
                    ],
                )

    def move_updates(self, scope: Scope, ids: Iterable[str], level: str) -> None:
        """Moves updates to another level."""
        _check_level(level)
        with self._connection.transaction() as raw:
            scope_id = self._scope_id(scope)
            raw.executemany(
                "UPDATE weight_update SET level = ? WHERE scope_id = ? AND id = ?",
                [(level, scope_id, id_) for id_ in ids],
            )

    def updates(
        self,
        scope: Scope,
        *,
        ids: Iterable[str] | None = None,
        memory_ids: Iterable[str] | None = None,
        payloads: bool = True,
    ) -> list[WeightUpdate]:
        """Weight updates in the order they were written. With payloads=False their payloads are left empty,
        which makes a list of many updates cheap."""
        scope_id = self._scope_id(scope)
        column, wanted = ("id", ids) if ids is not None else ("memory_id", memory_ids)
        columns = f"{rows.UPDATE_COLUMNS if payloads else rows.UPDATE_COLUMNS_LIGHT}, number"
        if wanted is None:
            found = self._read(
                f"SELECT {columns} FROM weight_update WHERE scope_id = ? ORDER BY number", [scope_id]
            )
        else:
            found = self._by_ids(
                "weight_update", columns, ["scope_id = ?"], [scope_id], column, list(wanted), "number"
            )
        sources: dict[str, list[str]] = {}
        for update_id, event_id in self._read(
            """SELECT update_id, event_id FROM weight_update_event
               WHERE scope_id = ? ORDER BY update_id, position""",
            [scope_id],
        ):
            sources.setdefault(update_id, []).append(event_id)
        return [
            rows.update(scope, row[:-1], tuple(sources.get(row[0], ())))
            for row in sorted(found, key=lambda row: row[-1])
        ]

    def delete_updates(self, scope: Scope, ids: Iterable[str]) -> int:
        """Deletes updates (those of superseded memories) and returns how many there were."""
        with self._connection.transaction() as raw:
            scope_id = self._scope_id(scope)
            return sum(
                raw.execute(
                    "DELETE FROM weight_update WHERE scope_id = ? AND id = ?", (scope_id, id_)
                ).rowcount
                for id_ in ids
            )

    def commit_version(self, scope: Scope, version: WeightVersion) -> None:
        """Makes `version` the head of the scope's weights."""
        with self._connection.transaction() as raw:
            raw.execute(
                f"""INSERT INTO weight_version(scope_id, {rows.VERSION_COLUMNS})
                    VALUES(?, ?, ?, ?, ?, ?, ?, ?)""",
                (
                    self._scope_id(scope, create=True),
                    version.id,
                    version.parent,
                    rows.dump(list(version.update_ids)),
                    version.digest,
                    version.learner,
                    version.reason,
                    to_text(version.created_at),
                ),
            )

    def head(self, scope: Scope) -> WeightVersion | None:
        """The newest weight version, None before the first."""
        found = self._read(
            f"""SELECT {rows.VERSION_COLUMNS} FROM weight_version
                WHERE scope_id = ? ORDER BY number DESC LIMIT 1""",
            [self._scope_id(scope)],
        )
        return rows.version(scope, found[0]) if found else None

    def versions(self, scope: Scope) -> list[WeightVersion]:
        """All weight versions, oldest first."""
        found = self._read(
            f"SELECT {rows.VERSION_COLUMNS} FROM weight_version WHERE scope_id = ? ORDER BY number",
            [self._scope_id(scope)],
        )
        return [rows.version(scope, row) for row in found]

    # Forgetting

    def forget_plan(self, scope: Scope, event_ids: Iterable[str]) -> ForgetPlan:
        """What `forget` would remove, and which memories it would make current again."""
        with self._connection.reading() as raw:
            return forgetting.plan(raw, self._scope_id(scope), list(event_ids))

    def forget(self, scope: Scope, event_ids: Iterable[str]) -> dict[str, int]:
        """Removes events and all that came from them; returns how many rows of each kind went.

        When it (or the transaction around it) has returned, no byte of them is left in the file or
        its write-ahead log, unless another process was reading all the while: see `scrub`.
        """
        with self._connection.transaction() as raw:
            scope_id = self._scope_id(scope)
            todo = forgetting.plan(raw, scope_id, list(event_ids))
            if not todo.event_ids:
                return dict.fromkeys(forgetting.KINDS, 0)
            removed = forgetting.execute(raw, scope_id, self._index, todo)
            raw.execute("INSERT OR REPLACE INTO flag(name, value) VALUES('scrub', 'pending')")
            self._changed(scope_id, rewritten=True)
            self._connection.after_commit("scrub", self.scrub)
        return removed

    def scrub(self, *, wait: bool = True) -> bool:
        """Folds the write-ahead log into the file and cuts it to zero bytes.

        False when another connection was writing, or still reading old pages, all through the busy timeout (or
        right now, with wait=False). `status` then says that it is pending, and the ledger tries again at the next
        forget and when the file is next opened.
        """
        with self._connection.reading() as raw:
            timeout = raw.execute("PRAGMA busy_timeout").fetchone()[0]
            try:
                if not wait:
                    raw.execute("PRAGMA busy_timeout = 0").fetchone()
                with self._connection.errors():
                    if raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                        return False
                with self._connection.transaction():
                    raw.execute("DELETE FROM flag WHERE name = 'scrub'")
            except LedgerLocked:
                return False
            finally:
                raw.execute(f"PRAGMA busy_timeout = {timeout}").fetchone()
        return True

    def add_receipt(self, scope: Scope, receipt: Receipt) -> None:
        """Stores a receipt."""
        with self._connection.transaction() as raw:
            raw.execute(
                f"INSERT INTO receipt(scope_id, {rows.RECEIPT_COLUMNS}) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self._scope_id(scope, create=True),
                    receipt.id,
                    rows.dump(receipt.selector),
                    rows.dump(receipt.removed),
                    rows.dump(list(receipt.event_ids)),
                    receipt.digest_before,
                    receipt.digest_after,
                    receipt.replayed,
                    to_text(receipt.created_at),
                    rows.dump(receipt.environment),
                ),
            )

    def receipts(self, scope: Scope) -> list[Receipt]:
        """All receipts, oldest first."""
        found = self._read(
            f"SELECT {rows.RECEIPT_COLUMNS} FROM receipt WHERE scope_id = ? ORDER BY number",
            [self._scope_id(scope)],
        )
        return [rows.receipt(scope, row) for row in found]

    # The file

    def rebuild(self, scope: Scope | None = None) -> dict[str, int]:
        """Makes passages, the word index and edges again from events and memories.

        Vectors are dropped and come back when they are next needed. The word index is one for the
        file: without a scope it is emptied first, so this also repairs a damaged one.
        """
        with self._connection.transaction() as raw:
            scope_ids = (
                [self._scope_id(scope)] if scope else [row[0] for row in raw.execute("SELECT id FROM scope")]
            )
            if scope is None:
                raw.execute("INSERT INTO passage_fts(passage_fts) VALUES('delete-all')")
            counts = {"events": 0, "memories": 0, "edges": 0}
            for scope_id in scope_ids:
                self._clear_derived(scope_id, words=scope is not None)
                for name, number in self._derive(scope_id).items():
                    counts[name] += number
                self._changed(scope_id, rewritten=True)
        return counts

    def scopes(self) -> list[Scope]:
        """Every tenant, user and agent in the file."""
        found = self._read("SELECT tenant, user, agent FROM scope ORDER BY id", [])
        return [Scope(tenant=tenant, user=user, agent=agent) for tenant, user, agent in found]

    def sessions(self, scope: Scope) -> list[str]:
        """The scope's sessions in the order they began."""
        found = self._read(
            "SELECT session FROM event WHERE scope_id = ? GROUP BY session ORDER BY min(seq)",
            [self._scope_id(scope)],
        )
        return [row[0] for row in found]

    def status(self, scope: Scope) -> dict[str, Any]:
        """Counts of what the scope has, the state of its queue, and the bytes of the whole file."""
        scope_id = self._scope_id(scope)
        counted = {
            name: self._read(f"SELECT count(*) FROM {table} WHERE scope_id = ?{extra}", [scope_id])[0][0]
            for name, table, extra in (
                ("events", "event", ""),
                ("memories", "memory", " AND status = 'active'"),
                ("superseded", "memory", " AND status = 'superseded'"),
                ("passages", "passage", ""),
                ("updates", "weight_update", ""),
                ("versions", "weight_version", ""),
                ("receipts", "receipt", ""),
                ("pending", "work", " AND state = 'pending'"),
                ("failed", "work", " AND state = 'failed'"),
                ("used", "memory_use", ""),
                ("kept_out", "kept_out", ""),
                ("reports", "report", ""),
                ("snapshots", "snapshot", ""),
                ("sleeps", "sleep_run", " AND ended_at IS NOT NULL"),
            )
        }
        vectors = self._read(
            """SELECT model, dim, count(*) FROM vector
               WHERE scope_id = ? GROUP BY model, dim ORDER BY model, dim""",
            [scope_id],
        )
        errors = self._read(
            """SELECT DISTINCT last_error FROM work
               WHERE scope_id = ? AND state = 'failed' ORDER BY id LIMIT 5""",
            [scope_id],
        )
        return {
            **counted,
            "sessions": len(self.sessions(scope)),
            "vectors": {f"{model}/{dim}": number for model, dim, number in vectors},
            "errors": [row[0] for row in errors],
            "scrub_pending": self._scrub_pending(),
            "backups": [str(path) for path in self.backups()],
            "bytes": self.bytes_on_disk(),
        }

    def bytes_on_disk(self) -> int:
        """Size of the file and its write-ahead log; of the pages in use for a ledger in memory."""
        if self.path == ":memory:":
            return self._read("PRAGMA page_count", [])[0][0] * self._read("PRAGMA page_size", [])[0][0]
        files = (Path(self.path), Path(f"{self.path}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def backups(self) -> list[Path]:
        """Copies made before schema changes. A forget does not reach them: delete them by hand."""
        if self.path == ":memory:":
            return []
        file = Path(self.path)
        return sorted(file.parent.glob(f"{file.name}.backup-v*"))

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file; empty when it is healthy. Reads all of it."""
        found = [row[0] for row in self._read("PRAGMA integrity_check", [])]
        return [] if found == ["ok"] else found

    # Private

    def _scrub_pending(self) -> bool:
        return bool(self._read("SELECT 1 FROM flag WHERE name = 'scrub'", []))

    def _changed(self, scope_id: int, *, rewritten: bool = False) -> None:
        """Tells readers that what they keep in memory has grown or, if `rewritten`, is wrong."""
        self._connection.raw.execute(
            "UPDATE scope SET version = version + 1, rewrites = rewrites + ? WHERE id = ?",
            (int(rewritten), scope_id),
        )

    def _append_one(self, scope_id: int, scope: Scope, new: NewEvent, now: datetime) -> Event:
        raw = self._connection.raw
        key = new.meta.get("idempotency_key")
        known = (
            raw.execute(
                f"""SELECT {rows.EVENT_COLUMNS} FROM event
                    WHERE scope_id = ? AND (idempotency_key = ? OR id = ?)""",
                (scope_id, key, new.id),
            ).fetchone()
            if key is not None or new.id is not None
            else None
        )
        if known is not None:
            return rows.event(scope, known)
        seq = raw.execute(
            "UPDATE scope SET next_seq = next_seq + 1 WHERE id = ? RETURNING next_seq - 1", (scope_id,)
        ).fetchone()[0]
        event = Event(
            id=new.id or self.new_id("ev"),
            scope=rows.with_session(scope, new.session or scope.session or "default"),
            seq=seq,
            role=new.role,
            content=new.content,
            occurred_at=new.occurred_at,
            recorded_at=new.recorded_at or now,
            source=new.source,
            name=new.name,
            meta=new.meta,
        )
        raw.execute(
            f"""INSERT INTO event(scope_id, idempotency_key, {rows.EVENT_COLUMNS})
                VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (
                scope_id,
                key,
                seq,
                event.id,
                event.scope.session,
                event.role,
                event.name,
                event.content,
                to_text(event.occurred_at),
                to_text(event.recorded_at),
                event.source,
                rows.dump(event.meta),
            ),
        )
        self._index.add_event(raw, scope_id, seq, event.content)
        raw.execute("INSERT INTO work(scope_id, kind, event_id) VALUES(?, 'learn', ?)", (scope_id, event.id))
        return event

    def _check_memory(self, scope_id: int, scope: Scope, record: MemoryRecord) -> int:
        """The seq of the memory's event; InputError when the event or the span does not exist."""
        found = self._read(
            "SELECT seq, content FROM event WHERE scope_id = ? AND id = ?", (scope_id, record.event_id)
        )
        if not found:
            raise InputError(
                f"memory {record.id!r} names event {record.event_id!r}, which is not in {_name(scope)}"
            )
        seq, content = found[0]
        start, end = record.span
        if not 0 <= start <= end <= len(content):
            raise InputError(
                f"memory {record.id!r} has span {record.span}; its event has {len(content)} characters"
            )
        return seq

    def _index_memory(self, scope_id: int, seq: int, record: MemoryRecord) -> None:
        text = memory_index_text(record.question, record.answer)
        if text:
            self._index.add_memory(self._connection.raw, scope_id, seq, record.id, record.span, text)

    def _memory_rows(
        self,
        scope: Scope,
        *,
        ids: Iterable[str] | None = None,
        keys: Iterable[str] | None = None,
        event_ids: Iterable[str] | None = None,
    ) -> list[MemoryRecord]:
        owner, columns = scope.owner, f"{rows.MEMORY_COLUMNS}, rank"
        where = ["scope_id = ?"]
        values: list[Any] = [self._scope_id(scope)]
        if scope.session is not None:
            where.append(
                """EXISTS (SELECT 1 FROM event e WHERE e.scope_id = memory.scope_id
                   AND e.id = memory.event_id AND e.session = ?)"""
            )
            values.append(scope.session)
        filters = [
            (name, list(wanted))
            for name, wanted in (("id", ids), ("key", keys), ("event_id", event_ids))
            if wanted is not None
        ]
        if not filters:
            found = self._read(
                f"SELECT {columns} FROM memory WHERE {' AND '.join(where)} ORDER BY rank", values
            )
        else:
            column, wanted = filters[0]
            found = self._by_ids("memory", columns, where, values, column, wanted, "rank")
        records = [rows.memory(owner, row[:-1]) for row in sorted(found, key=lambda row: row[-1])]
        for column, wanted in filters[1:]:
            records = [record for record in records if getattr(record, column) in wanted]
        return records

    def _clear_derived(self, scope_id: int, *, words: bool) -> None:
        raw = self._connection.raw
        if words:
            ids = [row[0] for row in raw.execute("SELECT id FROM passage WHERE scope_id = ?", (scope_id,))]
            self._index.remove(raw, scope_id, ids)
        raw.execute("DELETE FROM vector WHERE scope_id = ?", (scope_id,))
        raw.execute("DELETE FROM passage WHERE scope_id = ?", (scope_id,))

    def _derive(self, scope_id: int) -> dict[str, int]:
        raw = self._connection.raw
        events = raw.execute(
            "SELECT seq, content FROM event WHERE scope_id = ? ORDER BY seq", (scope_id,)
        ).fetchall()
        for seq, content in events:
            self._index.add_event(raw, scope_id, seq, content)
        memories = raw.execute(
            """SELECT m.id, m.span_start, m.span_end, m.question, m.answer, m.event_id, m.supersedes, e.seq
               FROM memory m JOIN event e ON e.scope_id = m.scope_id AND e.id = m.event_id
               WHERE m.scope_id = ? ORDER BY m.rank""",
            (scope_id,),
        ).fetchall()
        links: set[tuple[str, str, str]] = set()
        for memory_id, start, end, question, answer, event_id, supersedes, seq in memories:
            text = memory_index_text(question, answer)
            if text:
                self._index.add_memory(raw, scope_id, seq, memory_id, (start, end), text)
            links.add((memory_id, event_id, "derived_from"))
            if supersedes is not None:
                links.add((memory_id, supersedes, "supersedes"))
        raw.executemany(
            "INSERT OR IGNORE INTO edge(scope_id, src, dst, kind) VALUES(?, ?, ?, ?)",
            [(scope_id, *link) for link in sorted(links)],
        )
        return {"events": len(events), "memories": len(memories), "edges": len(links)}


def holds(record: MemoryRecord, *, as_of: datetime | None = None, at: datetime | None = None) -> bool:
    """Whether a memory was believed at `as_of` and true at `at`, as far as was known at `as_of`.

    The end of a memory's validity is known from the moment its belief ended (`believed_to`).
    """
    ended = record.believed_to is not None and (as_of is None or record.believed_to <= as_of)
    if as_of is not None and record.believed_from > as_of:
        return False
    if at is None:
        return not ended
    valid_to = record.valid_to if ended or record.believed_to is None else None
    return record.valid_from <= at and (valid_to is None or at < valid_to)


def _memory_values(record: MemoryRecord) -> tuple:
    return (
        record.id,
        record.key,
        record.text,
        record.question,
        record.answer,
        record.kind,
        record.event_id,
        *record.span,
        to_text(record.valid_from),
        to_text(record.valid_to),
        to_text(record.believed_from),
        to_text(record.believed_to),
        record.status,
        record.supersedes,
        record.superseded_by,
        record.extractor,
    )


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise InputError(f"level is {level!r}; expected one of {', '.join(LEVELS)}")


def _name(scope: Scope) -> str:
    parts = [f"tenant {scope.tenant!r}", f"user {scope.user!r}", f"agent {scope.agent!r}"]
    return ", ".join(parts if scope.session is None else [*parts, f"session {scope.session!r}"])
