"""Use of memories, reports of the guard, sleep, and saved states of the weights.

Rows about a memory go with it (ON DELETE CASCADE). `sleep_run.id` changes whenever a run is taken up
again: a sleeper that was presumed dead and wakes finds its id gone and can write nothing more.
"""

import sqlite3

STATEMENTS = (
    """CREATE TABLE memory_use(
        scope_id INTEGER NOT NULL, memory_id TEXT NOT NULL,
        uses INTEGER NOT NULL, last_used TEXT NOT NULL,
        PRIMARY KEY(scope_id, memory_id),
        FOREIGN KEY(scope_id, memory_id) REFERENCES memory(scope_id, id) ON DELETE CASCADE) WITHOUT ROWID""",
    """CREATE TABLE kept_out(
        scope_id INTEGER NOT NULL, memory_id TEXT NOT NULL,
        gate TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL,
        PRIMARY KEY(scope_id, memory_id),
        FOREIGN KEY(scope_id, memory_id) REFERENCES memory(scope_id, id) ON DELETE CASCADE) WITHOUT ROWID""",
    """CREATE TABLE report(
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        scope_id INTEGER NOT NULL REFERENCES scope(id),
        id TEXT NOT NULL, version_id TEXT, kind TEXT NOT NULL, outcome TEXT NOT NULL,
        detail TEXT NOT NULL, created_at TEXT NOT NULL,
        UNIQUE(scope_id, id))""",
    "CREATE INDEX report_version ON report(scope_id, version_id)",
    """CREATE TABLE sleep_run(
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        scope_id INTEGER NOT NULL REFERENCES scope(id),
        id TEXT NOT NULL UNIQUE,
        cursor INTEGER NOT NULL, stage TEXT NOT NULL, detail TEXT NOT NULL,
        owner TEXT NOT NULL, lease_until TEXT NOT NULL,
        started_at TEXT NOT NULL, ended_at TEXT)""",
    "CREATE UNIQUE INDEX sleep_run_open ON sleep_run(scope_id) WHERE ended_at IS NULL",
    """CREATE TABLE snapshot(
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        scope_id INTEGER NOT NULL REFERENCES scope(id),
        key TEXT NOT NULL, data BLOB NOT NULL,
        UNIQUE(scope_id, key))""",
)


def apply(connection: sqlite3.Connection) -> None:
    """Adds the tables. Runs inside the caller's transaction."""
    for statement in STATEMENTS:
        connection.execute(statement)
