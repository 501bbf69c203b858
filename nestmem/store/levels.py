"""What the levels of the weights need beside the updates: uses, gates, reports, sleep, saved states.

All of it is by tenant, user and agent; a scope's session is ignored here. Rows about a memory that is
not there (any more) are not stored: another process may have forgotten it meanwhile.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from nestmem.errors import InputError, SleepBusy
from nestmem.store import rows
from nestmem.store.records import (
    OUTCOMES,
    REPORT_KINDS,
    KeptOut,
    Report,
    Scope,
    SleepRun,
    Use,
    from_text,
    require_object,
    require_text,
    to_text,
    to_utc,
)
from nestmem.store.scoped import Scoped

MAX_SNAPSHOTS = 2


class Levels(Scoped):
    """The ledger's tables of m002. Every method is one transaction, or part of the one around it."""

    # Uses

    def note_use(self, scope: Scope, memory_ids: Iterable[str], at: datetime) -> None:
        """Counts one use of each of these memories (an id given twice counts once) at the moment `at`."""
        with self._connection.transaction() as raw:
            scope_id = self._scope_id(scope)
            raw.executemany(
                """INSERT INTO memory_use(scope_id, memory_id, uses, last_used)
                   SELECT scope_id, id, 1, ? FROM memory WHERE scope_id = ? AND id = ?
                   ON CONFLICT(scope_id, memory_id) DO UPDATE
                     SET uses = uses + 1, last_used = max(last_used, excluded.last_used)""",
                [(to_text(at), scope_id, memory_id) for memory_id in dict.fromkeys(memory_ids)],
            )

    def uses(self, scope: Scope) -> dict[str, Use]:
        """Memory id -> its uses; a memory that was never used is not in it."""
        found = self._read(
            "SELECT memory_id, uses, last_used FROM memory_use WHERE scope_id = ?", [self._scope_id(scope)]
        )
        return {memory_id: Use(uses=count, last_used=_moment(last)) for memory_id, count, last in found}

    # What the guard refused and said

    def keep_out(self, scope: Scope, refused: Mapping[str, tuple[str, str]], at: datetime) -> None:
        """Memory id -> (gate, reason): these stay out of the weights. A later refusal replaces an earlier one.

        A reason must not hold text of the user.
        """
        for gate, reason in refused.values():
            require_text("gate", gate)
            require_text("reason", reason)
        with self._connection.transaction() as raw:
            scope_id = self._scope_id(scope)
            raw.executemany(
                """INSERT OR REPLACE INTO kept_out(scope_id, memory_id, gate, reason, at)
                   SELECT scope_id, id, ?, ?, ? FROM memory WHERE scope_id = ? AND id = ?""",
                [
                    (gate, reason, to_text(at), scope_id, memory_id)
                    for memory_id, (gate, reason) in refused.items()
                ],
            )

    def kept_out(self, scope: Scope) -> dict[str, KeptOut]:
        """Memory id -> why it is kept out of the weights."""
        found = self._read(
            "SELECT memory_id, gate, reason, at FROM kept_out WHERE scope_id = ? ORDER BY at, memory_id",
            [self._scope_id(scope)],
        )
        return {
            memory_id: KeptOut(gate=gate, reason=reason, at=_moment(at))
            for memory_id, gate, reason, at in found
        }

    def let_in(self, scope: Scope, memory_ids: Iterable[str]) -> None:
        """Takes memories off the list of those kept out; ids that are not on it are left out."""
        with self._connection.transaction() as raw:
            scope_id = self._scope_id(scope)
            raw.executemany(
                "DELETE FROM kept_out WHERE scope_id = ? AND memory_id = ?",
                [(scope_id, memory_id) for memory_id in memory_ids],
            )

    def add_report(self, scope: Scope, report: Report) -> None:
        """Stores a report. InputError for a kind or outcome that is not known, or a detail that is no JSON."""
        _check_one_of("kind of a report", report.kind, REPORT_KINDS)
        _check_one_of("outcome of a report", report.outcome, OUTCOMES)
        require_object("detail of a report", report.detail)
        with self._connection.transaction() as raw:
            raw.execute(
                f"INSERT INTO report(scope_id, {rows.REPORT_COLUMNS}) VALUES(?, ?, ?, ?, ?, ?, ?)",
                (
                    self._scope_id(scope, create=True),
                    report.id,
                    report.version_id,
                    report.kind,
                    report.outcome,
                    rows.dump(report.detail),
                    to_text(report.created_at),
                ),
            )

    def reports(self, scope: Scope, version_id: str | None = None) -> list[Report]:
        """The reports, oldest first; those of one version when it is given."""
        sql, values = (
            f"SELECT {rows.REPORT_COLUMNS} FROM report WHERE scope_id = ?",
            [self._scope_id(scope)],
        )
        if version_id is not None:
            sql, values = f"{sql} AND version_id = ?", [*values, version_id]
        return [rows.report(scope, row) for row in self._read(f"{sql} ORDER BY number", values)]

    # Sleep

    def begin_sleep(self, scope: Scope, owner: str, lease: timedelta, now: datetime) -> SleepRun:
        """Begins a sleep, or takes up the unfinished one when its lease has run out or it is the owner's own.

        The run is held until `now + lease`; `note_sleep` says for how much longer. SleepBusy when another sleeper
        holds it. A run that is taken up keeps its cursor, stage and detail, and gets a new id: its former holder
        can write nothing more.
        """
        if not owner:
            raise InputError("owner of a sleep is empty; give a name, for example the host and process id")
        if lease <= timedelta(0):
            raise InputError(f"lease is {lease}; expected a positive timedelta, for example two minutes")
        with self._connection.transaction() as raw:
            scope_id = self._scope_id(scope, create=True)
            found = self._read(
                f"SELECT {rows.SLEEP_COLUMNS} FROM sleep_run WHERE scope_id = ? AND ended_at IS NULL",
                [scope_id],
            )
            id_, until = self.new_id("sl"), to_text(now + lease)
            if not found:
                raw.execute(
                    f"""INSERT INTO sleep_run(scope_id, {rows.SLEEP_COLUMNS})
                        SELECT id, ?, next_seq - 1, '', ?, ?, '{{}}', ?, NULL FROM scope WHERE id = ?""",
                    (id_, owner, until, to_text(now), scope_id),
                )
            else:
                run = rows.sleep_run(scope, found[0])
                if run.owner != owner and run.lease_until > to_utc(now):
                    raise SleepBusy(
                        f"user {scope.user!r} is already asleep: {run.owner} holds it until "
                        f"{to_text(run.lease_until)}. Wait for it; if it was killed, try again after that time"
                    )
                raw.execute(
                    "UPDATE sleep_run SET id = ?, owner = ?, lease_until = ? WHERE id = ?",
                    (id_, owner, until, run.id),
                )
            return self._sleep_run(scope, id_, resumed=bool(found))

    def note_sleep(self, run_id: str, stage: str, detail: dict, lease_until: datetime) -> None:
        """Stores how far a sleep has come and holds it for longer. SleepBusy when it is no longer the caller's."""
        require_object("detail of a sleep", detail)
        with self._connection.transaction() as raw:
            changed = raw.execute(
                """UPDATE sleep_run SET stage = ?, detail = ?, lease_until = ?
                   WHERE id = ? AND ended_at IS NULL""",
                (stage, rows.dump(detail), to_text(lease_until), run_id),
            ).rowcount
            _check_held(run_id, changed)

    def end_sleep(self, run_id: str, now: datetime, cursor: int) -> None:
        """Ends a sleep: events up to seq `cursor` have been slept on. SleepBusy when it is no longer the caller's,
        so that what was written in the same transaction is undone."""
        with self._connection.transaction() as raw:
            changed = raw.execute(
                "UPDATE sleep_run SET ended_at = ?, cursor = ? WHERE id = ? AND ended_at IS NULL",
                (to_text(now), cursor, run_id),
            ).rowcount
            _check_held(run_id, changed)

    def sleep_cursor(self, scope: Scope) -> int:
        """The seq up to which events have been slept on, as of the last sleep that ended; 0 before the first."""
        found = self._read(
            """SELECT cursor FROM sleep_run WHERE scope_id = ? AND ended_at IS NOT NULL
               ORDER BY number DESC LIMIT 1""",
            [self._scope_id(scope)],
        )
        return found[0][0] if found else 0

    def sleeps(self, scope: Scope) -> list[SleepRun]:
        """All sleeps, oldest first; an unfinished one is the last and has no `ended_at`."""
        found = self._read(
            f"SELECT {rows.SLEEP_COLUMNS} FROM sleep_run WHERE scope_id = ? ORDER BY number",
            [self._scope_id(scope)],
        )
        return [rows.sleep_run(scope, row) for row in found]

    # Saved states of the weights

    def put_snapshot(self, scope: Scope, key: str, data: bytes) -> None:
        """Saves a state of the weights under `key`; the newest MAX_SNAPSHOTS of a scope are kept.

        A forget deletes all of them. Call it in the transaction that commits the version it was made from (or has
        read its updates again): a state made before a forget must not be saved after it.
        """
        require_text("key of a snapshot", key)
        if not isinstance(data, bytes):
            raise InputError(f"the data of a snapshot are {type(data).__name__}; expected bytes")
        with self._connection.transaction() as raw:
            scope_id = self._scope_id(scope, create=True)
            raw.execute(
                "INSERT OR REPLACE INTO snapshot(scope_id, key, data) VALUES(?, ?, ?)", (scope_id, key, data)
            )
            raw.execute(
                """DELETE FROM snapshot WHERE scope_id = ? AND number NOT IN
                     (SELECT number FROM snapshot WHERE scope_id = ? ORDER BY number DESC LIMIT ?)""",
                (scope_id, scope_id, MAX_SNAPSHOTS),
            )

    def snapshot(self, scope: Scope, key: str) -> bytes | None:
        """The state saved under `key`, None when there is none."""
        found = self._read(
            "SELECT data FROM snapshot WHERE scope_id = ? AND key = ?", [self._scope_id(scope), key]
        )
        return found[0][0] if found else None

    # Private

    def _sleep_run(self, scope: Scope, run_id: str, *, resumed: bool) -> SleepRun:
        [row] = self._read(f"SELECT {rows.SLEEP_COLUMNS} FROM sleep_run WHERE id = ?", [run_id])
        return rows.sleep_run(scope, row, resumed=resumed)


def _moment(text: str) -> datetime:
    moment = from_text(text)
    assert moment is not None
    return moment


def _check_one_of(what: str, value: str, expected: tuple[str, ...]) -> None:
    if value not in expected:
        raise InputError(f"{what} is {value!r}; expected one of {', '.join(expected)}")


def _check_held(run_id: str, changed: int) -> None:
    if not changed:
        raise SleepBusy(
            f"the sleep {run_id!r} is no longer held: it has ended, another sleeper took it over after its lease "
            "ran out, or a forget ended it. Nothing was written; begin again with begin_sleep"
        )
