"""Numbered schema changes, each applied once; `PRAGMA user_version` holds the last number applied.

A file with data is copied to `<file>.backup-v<old version>` before its schema changes.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from nestmem.errors import LedgerCorrupt, LedgerReadOnly, LedgerTooNew
from nestmem.store.migrations import m001_initial, m002_levels

APPLICATION_ID = 0x6E657374  # "nest"
MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (m001_initial.apply, m002_levels.apply)


def version(connection: sqlite3.Connection) -> int:
    """The schema's number, 0 for a new file. LedgerCorrupt when the file belongs to another program."""
    number = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION_ID and tables:
        raise LedgerCorrupt(
            "the file is an SQLite database of another program; "
            "give the path of a nestmem ledger or of a new file"
        )
    return number


def migrate(
    connection: sqlite3.Connection,
    path: str,
    *,
    read_only: bool = False,
    migrations: Sequence[Callable[[sqlite3.Connection], None]] = MIGRATIONS,
) -> int:
    """Brings the schema to `len(migrations)` and returns how many were applied.

    Two processes may open a file at the same moment: the number is read again under the write lock.
    """
    current = version(connection)
    latest = len(migrations)
    if current > latest:
        raise LedgerTooNew(
            f"{path} has schema {current}; this nestmem knows schemas up to {latest}. "
            "Upgrade it with: pip install -U nestmem"
        )
    if current == latest:
        return 0
    if read_only:
        raise LedgerReadOnly(
            f"{path} has schema {current} and needs {latest}, but was opened read-only; "
            "open it once with write access"
        )
    if current > 0 and path != ":memory:":
        backup(connection, f"{path}.backup-v{current}")
    connection.execute("BEGIN IMMEDIATE")
    with ExitStack() as failed:
        failed.callback(connection.execute, "ROLLBACK")
        start = connection.execute("PRAGMA user_version").fetchone()[0]
        for number in range(start, latest):
            migrations[number](connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {max(latest, start)}")
        connection.execute("COMMIT")
        failed.pop_all()
    return max(0, latest - start)


def backup(connection: sqlite3.Connection, target: str) -> Path:
    """A consistent copy of the open database at `target` (an older copy there is replaced)."""
    partial = Path(f"{target}.partial")
    copy = sqlite3.connect(partial)
    try:
        connection.backup(copy)
    finally:
        copy.close()
    return partial.replace(target)
