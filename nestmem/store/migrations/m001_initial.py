"""The first schema.

`event` is the source of truth and is only appended to (and deleted from by forget). `passage` cuts
events and memories' questions into pieces that are searched; `passage_fts` is a contentless index of
them (it holds terms, not text), `vector` their embeddings. `scope.version` counts changes, and
`scope.rewrites` those changes that were not appends: readers keep what they have loaded in memory
while the two numbers stand.
"""

import sqlite3

STATEMENTS = (
    """CREATE TABLE scope(
        id INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL, user TEXT NOT NULL, agent TEXT NOT NULL,
        next_seq INTEGER NOT NULL DEFAULT 1,
        version INTEGER NOT NULL DEFAULT 0,
        rewrites INTEGER NOT NULL DEFAULT 0,
        UNIQUE(tenant, user, agent))""",
    """CREATE TABLE event(
        scope_id INTEGER NOT NULL REFERENCES scope(id),
        seq INTEGER NOT NULL,
        id TEXT NOT NULL,
        session TEXT NOT NULL,
        role TEXT NOT NULL, name TEXT, content TEXT NOT NULL,
        occurred_at TEXT, recorded_at TEXT NOT NULL,
        source TEXT NOT NULL, meta TEXT NOT NULL,
        idempotency_key TEXT,
        PRIMARY KEY(scope_id, seq)) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX event_id ON event(scope_id, id)",
    "CREATE INDEX event_session ON event(scope_id, session, seq)",
    """CREATE UNIQUE INDEX event_idempotency ON event(scope_id, idempotency_key)
        WHERE idempotency_key IS NOT NULL""",
    """CREATE TABLE memory(
        scope_id INTEGER NOT NULL,
        id TEXT NOT NULL,
        key TEXT NOT NULL, text TEXT NOT NULL, question TEXT, answer TEXT, kind TEXT NOT NULL,
        event_id TEXT NOT NULL, span_start INTEGER NOT NULL, span_end INTEGER NOT NULL,
        valid_from TEXT NOT NULL, valid_to TEXT, believed_from TEXT NOT NULL, believed_to TEXT,
        status TEXT NOT NULL, supersedes TEXT, superseded_by TEXT, extractor TEXT NOT NULL,
        rank INTEGER NOT NULL,
        PRIMARY KEY(scope_id, id),
        FOREIGN KEY(scope_id, event_id) REFERENCES event(scope_id, id))""",
    "CREATE INDEX memory_key ON memory(scope_id, key)",
    "CREATE INDEX memory_superseded ON memory(scope_id, rank) WHERE status = 'superseded'",
    "CREATE INDEX memory_event ON memory(scope_id, event_id)",
    """CREATE TABLE edge(
        scope_id INTEGER NOT NULL REFERENCES scope(id),
        src TEXT NOT NULL, dst TEXT NOT NULL, kind TEXT NOT NULL,
        PRIMARY KEY(scope_id, src, kind, dst)) WITHOUT ROWID""",
    "CREATE INDEX edge_dst ON edge(scope_id, dst, kind)",
    """CREATE TABLE passage(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        scope_id INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        memory_id TEXT,
        start INTEGER NOT NULL, end INTEGER NOT NULL, words INTEGER NOT NULL,
        FOREIGN KEY(scope_id, seq) REFERENCES event(scope_id, seq))""",
    "CREATE INDEX passage_scope ON passage(scope_id, seq)",
    """CREATE VIRTUAL TABLE passage_fts USING fts5(
        scope, text, content='', columnsize=0, detail=column, tokenize='porter unicode61')""",
    """CREATE TABLE vector(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        scope_id INTEGER NOT NULL REFERENCES scope(id),
        model TEXT NOT NULL, dim INTEGER NOT NULL,
        passage_id INTEGER NOT NULL REFERENCES passage(id),
        data BLOB NOT NULL)""",
    "CREATE UNIQUE INDEX vector_owner ON vector(scope_id, model, dim, passage_id)",
    "CREATE INDEX vector_passage ON vector(passage_id)",
    """CREATE TABLE weight_update(
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        scope_id INTEGER NOT NULL REFERENCES scope(id),
        id TEXT NOT NULL, memory_id TEXT NOT NULL, level TEXT NOT NULL,
        payload BLOB NOT NULL, digest TEXT NOT NULL, learner TEXT NOT NULL,
        examples TEXT NOT NULL, created_at TEXT NOT NULL,
        UNIQUE(scope_id, id))""",
    "CREATE INDEX weight_update_memory ON weight_update(scope_id, memory_id)",
    """CREATE TABLE weight_update_event(
        scope_id INTEGER NOT NULL, update_id TEXT NOT NULL, event_id TEXT NOT NULL, position INTEGER NOT NULL,
        PRIMARY KEY(scope_id, update_id, event_id),
        FOREIGN KEY(scope_id, update_id) REFERENCES weight_update(scope_id, id) ON DELETE CASCADE
        ) WITHOUT ROWID""",
    "CREATE INDEX weight_update_event_event ON weight_update_event(scope_id, event_id)",
    """CREATE TABLE weight_version(
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        scope_id INTEGER NOT NULL REFERENCES scope(id),
        id TEXT NOT NULL, parent TEXT, update_ids TEXT NOT NULL,
        digest TEXT NOT NULL, learner TEXT NOT NULL, reason TEXT NOT NULL, created_at TEXT NOT NULL,
        UNIQUE(scope_id, id))""",
    """CREATE TABLE receipt(
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        scope_id INTEGER NOT NULL REFERENCES scope(id),
        id TEXT NOT NULL, selector TEXT NOT NULL, removed TEXT NOT NULL, event_ids TEXT NOT NULL,
        digest_before TEXT, digest_after TEXT, replayed INTEGER NOT NULL,
        created_at TEXT NOT NULL, environment TEXT NOT NULL,
        UNIQUE(scope_id, id))""",
    """CREATE TABLE work(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        scope_id INTEGER NOT NULL,
        kind TEXT NOT NULL, event_id TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0, last_error TEXT, state TEXT NOT NULL DEFAULT 'pending',
        UNIQUE(scope_id, kind, event_id),
        FOREIGN KEY(scope_id, event_id) REFERENCES event(scope_id, id))""",
    "CREATE INDEX work_open ON work(scope_id, id) WHERE state <> 'done'",
    "CREATE TABLE flag(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)


def apply(connection: sqlite3.Connection) -> None:
    """Creates all tables. Runs inside the caller's transaction."""
    for statement in STATEMENTS:
        connection.execute(statement)
