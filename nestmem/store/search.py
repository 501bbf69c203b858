"""The word index of the ledger and what is kept in memory to search one user's passages.

One FTS5 table holds the stemmed words of every passage. A query asks it for the passages of each of
its words; all else (BM25, neighbour windows, sessions) is arithmetic on those lists, see ranking.py.
So the statistics are those of one user alone, and an append touches one row of one index.
"""

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from nestmem.store.connection import Connection
from nestmem.store.passages import split, words
from nestmem.store.records import from_text

MAX_SCOPES_IN_MEMORY = 64
# Above this share of all passages a user's own are not selected inside FTS5 but afterwards: cheaper.
_OWN_SHARE = 0.3
_FTS_INSERT = "INSERT INTO passage_fts(rowid, scope, text) VALUES(?, ?, ?)"
_FTS_DELETE = "INSERT INTO passage_fts(passage_fts, rowid, scope, text) VALUES('delete', ?, ?, ?)"


@dataclass(frozen=True, kw_only=True)
class PassageTable:
    """One user's passages as parallel arrays, ordered by passage id.

    `session` and `speaker` are positions in `sessions` and `speakers`; `when` and `recorded` are
    seconds since 1970; `memory` is "" for a passage of an event.
    """

    ids: np.ndarray
    seq: np.ndarray
    start: np.ndarray
    end: np.ndarray
    words: np.ndarray
    session: np.ndarray
    speaker: np.ndarray
    when: np.ndarray
    recorded: np.ndarray
    memory: np.ndarray
    sessions: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def event_rows(self) -> np.ndarray:
        """Positions of the events' passages: session by session, in the order in which they began and went on."""
        rows = np.flatnonzero(self.memory == "")
        began = np.full(len(self.sessions), np.inf)
        np.minimum.at(began, self.session[rows], self.when[rows])
        place = np.empty(len(began), dtype=np.int64)
        place[np.argsort(began, kind="stable")] = np.arange(len(began))
        return rows[np.lexsort((self.start[rows], self.seq[rows], place[self.session[rows]]))]

    @cached_property
    def memory_rows(self) -> np.ndarray:
        """Positions of the passages that are a memory's question."""
        return np.flatnonzero(self.memory != "")

    def positions(self, passage_ids: np.ndarray) -> np.ndarray:
        """Where these passage ids stand in the table; ids of other users are dropped."""
        if not len(self.ids):
            return np.zeros(0, dtype=np.int64)
        found = np.minimum(np.searchsorted(self.ids, passage_ids), len(self.ids) - 1)
        return found[self.ids[found] == passage_ids]


@dataclass(kw_only=True)
class _Loaded:
    """What is in memory of one scope, and the counters it was read at."""

    version: int
    rewrites: int
    table: PassageTable
    vectors: dict[tuple[str, int], tuple[int, np.ndarray, np.ndarray]] = field(default_factory=dict)


_EMPTY = PassageTable(
    ids=np.zeros(0, np.int64),
    seq=np.zeros(0, np.int64),
    start=np.zeros(0, np.int64),
    end=np.zeros(0, np.int64),
    words=np.zeros(0, np.int64),
    session=np.zeros(0, np.int64),
    speaker=np.zeros(0, np.int64),
    when=np.zeros(0),
    recorded=np.zeros(0),
    memory=np.zeros(0, dtype=object),
)


class SearchIndex:
    """Writes and reads passages, their words and their vectors. The caller holds the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loaded: OrderedDict[int, _Loaded] = OrderedDict()

    def add_event(self, raw: sqlite3.Connection, scope_id: int, seq: int, content: str) -> None:
        """Cuts and indexes one event."""
        for start, end in split(content):
            _add_passage(raw, scope_id, seq, None, start, end, content[start:end])

    def add_memory(
        self,
        raw: sqlite3.Connection,
        scope_id: int,
        seq: int,
        memory_id: str,
        span: tuple[int, int],
        text: str,
    ) -> None:
        """Indexes a memory's question and answer, which then point to the span of the event."""
        _add_passage(raw, scope_id, seq, memory_id, *span, text)

    def remove(self, raw: sqlite3.Connection, scope_id: int, passage_ids: list[int]) -> None:
        """Removes passages, their words and their vectors; their events and memories must still be there."""
        for passage_id, text in self.texts(raw, scope_id, passage_ids):
            raw.execute(_FTS_DELETE, (passage_id, scope_token(scope_id), " ".join(words(text))))
            raw.execute("DELETE FROM vector WHERE passage_id = ?", (passage_id,))
            raw.execute("DELETE FROM passage WHERE id = ?", (passage_id,))

    def texts(
        self, raw: sqlite3.Connection, scope_id: int, passage_ids: Iterable[int]
    ) -> list[tuple[int, str]]:
        """(passage id, the text that is indexed for it); ids of other scopes are left out."""
        wanted = [int(passage_id) for passage_id in passage_ids]
        rows = _in_chunks(
            raw,
            """SELECT p.id, p.seq, p.start, p.end, p.memory_id, m.question, m.answer FROM passage p
               LEFT JOIN memory m ON m.scope_id = p.scope_id AND m.id = p.memory_id
               WHERE p.scope_id = ? AND p.id IN""",
            scope_id,
            wanted,
        )
        seqs = dict.fromkeys(row[1] for row in rows if row[4] is None)
        contents = dict(
            _in_chunks(
                raw, "SELECT seq, content FROM event WHERE scope_id = ? AND seq IN", scope_id, list(seqs)
            )
        )
        texts = {
            id_: contents[seq][start:end] if memory_id is None else memory_index_text(question, answer)
            for id_, seq, start, end, memory_id, question, answer in rows
        }
        return [(passage_id, texts[passage_id]) for passage_id in wanted if passage_id in texts]

    def table(self, scope_id: int) -> PassageTable:
        """The scope's passages, read again only as far as they have changed."""
        return self._load(scope_id).table

    def postings(self, scope_id: int, terms: list[str]) -> list[np.ndarray]:
        """For each word, the positions in `table(scope_id)` of the passages that hold it."""
        table = self.table(scope_id)
        raw = self._connection.raw
        total = raw.execute("SELECT seq FROM sqlite_sequence WHERE name = 'passage'").fetchone()
        own = len(table) >= _OWN_SHARE * (total[0] if total else 0)
        prefix = "" if own else f"scope:{scope_token(scope_id)} AND "
        return [table.positions(_rowids(raw, f'{prefix}text:"{term}"')) for term in terms]

    def vectors(self, scope_id: int, model: str, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """(positions in the table, matrix of float32 rows) of all stored vectors of this model."""
        loaded = self._load(scope_id)
        last, ids, matrix = loaded.vectors.get(
            (model, dim), (0, np.zeros(0, np.int64), np.zeros((0, dim), np.float32))
        )
        rows = self._connection.raw.execute(
            """SELECT id, passage_id, data FROM vector
               WHERE scope_id = ? AND model = ? AND dim = ? AND id > ? ORDER BY id""",
            (scope_id, model, dim, last),
        ).fetchall()
        if rows:
            new = np.frombuffer(b"".join(row[2] for row in rows), dtype="<f4").reshape(len(rows), dim)
            ids = np.concatenate([ids, np.array([row[1] for row in rows], np.int64)])
            matrix = np.concatenate([matrix, new.astype(np.float32, copy=False)])
            loaded.vectors[(model, dim)] = (rows[-1][0], ids, matrix)
        return np.searchsorted(loaded.table.ids, ids), matrix

    def forget_loaded(self) -> None:
        """Drops all that is kept in memory, for example after a transaction was undone."""
        self._loaded.clear()

    def _load(self, scope_id: int) -> _Loaded:
        raw = self._connection.raw
        counters = raw.execute("SELECT version, rewrites FROM scope WHERE id = ?", (scope_id,)).fetchone()
        version, rewrites = counters or (0, 0)
        loaded = self._loaded.get(scope_id)
        if loaded is None or loaded.rewrites != rewrites or loaded.version > version:
            loaded = _Loaded(version=-1, rewrites=rewrites, table=_EMPTY)
        if loaded.version != version:
            last = int(loaded.table.ids[-1]) if len(loaded.table) else 0
            loaded.table = _extend(loaded.table, _read_passages(raw, scope_id, last))
            loaded.version = version
        self._loaded[scope_id] = loaded
        self._loaded.move_to_end(scope_id)
        while len(self._loaded) > MAX_SCOPES_IN_MEMORY:
            self._loaded.popitem(last=False)
        return loaded


def _in_chunks(raw: sqlite3.Connection, select: str, scope_id: int, values: list[int]) -> list[tuple]:
    """Rows of `select`, which ends in "IN", for values in chunks that SQLite accepts."""
    rows: list[tuple] = []
    for start in range(0, len(values), 500):
        chunk = values[start : start + 500]
        rows += raw.execute(f"{select} ({','.join('?' * len(chunk))})", (scope_id, *chunk)).fetchall()
    return rows


def scope_token(scope_id: int) -> str:
    """The word that marks a scope's rows in the index's scope column."""
    return f"s{scope_id}"


def memory_index_text(question: str | None, answer: str | None) -> str:
    """What is indexed of a memory beside its event's own words."""
    return f"{question or ''} {answer or ''}".strip()


def _add_passage(
    raw: sqlite3.Connection, scope_id: int, seq: int, memory_id: str | None, start: int, end: int, text: str
) -> None:
    found = words(text)
    cursor = raw.execute(
        "INSERT INTO passage(scope_id, seq, memory_id, start, end, words) VALUES(?, ?, ?, ?, ?, ?)",
        (scope_id, seq, memory_id, start, end, len(found)),
    )
    raw.execute(_FTS_INSERT, (cursor.lastrowid, scope_token(scope_id), " ".join(found)))


def _rowids(raw: sqlite3.Connection, match: str) -> np.ndarray:
    """Passage ids of one FTS5 query. Joined to one string in SQLite: five times as fast as rows.

    A word of a script newer than SQLite's tables may be cut in two by it; such a phrase cannot be
    asked of this index, and the word then finds nothing.
    """
    try:
        joined = raw.execute(
            "SELECT group_concat(rowid) FROM passage_fts WHERE passage_fts MATCH ?", (match,)
        ).fetchone()[0]
    except sqlite3.OperationalError as error:
        if "phrase queries are not supported" in str(error):
            return np.zeros(0, np.int64)
        raise
    return np.fromstring(joined, dtype=np.int64, sep=",") if joined else np.zeros(0, np.int64)


def _read_passages(raw: sqlite3.Connection, scope_id: int, after: int) -> list[tuple]:
    return raw.execute(
        """SELECT p.id, p.seq, p.start, p.end, p.words, e.session, coalesce(e.name, e.role),
                  coalesce(e.occurred_at, e.recorded_at), e.recorded_at, coalesce(p.memory_id, '')
           FROM passage p JOIN event e ON e.scope_id = p.scope_id AND e.seq = p.seq
           WHERE p.scope_id = ? AND p.id > ? ORDER BY p.id""",
        (scope_id, after),
    ).fetchall()


def _extend(table: PassageTable, rows: list[tuple]) -> PassageTable:
    if not rows:
        return table
    ids, seq, start, end, count, session, speaker, when, recorded, memory = zip(*rows, strict=True)
    sessions, session_codes = _codes(table.sessions, session)
    speakers, speaker_codes = _codes(table.speakers, speaker)
    return replace(
        table,
        ids=_join(table.ids, ids),
        seq=_join(table.seq, seq),
        start=_join(table.start, start),
        end=_join(table.end, end),
        words=_join(table.words, count),
        session=_join(table.session, session_codes),
        speaker=_join(table.speaker, speaker_codes),
        when=np.concatenate([table.when, [_seconds(value) for value in when]]),
        recorded=np.concatenate([table.recorded, [_seconds(value) for value in recorded]]),
        memory=np.concatenate([table.memory, np.array(memory, dtype=object)]),
        sessions=sessions,
        speakers=speakers,
    )


def _join(old: np.ndarray, new: tuple[int, ...] | list[int]) -> np.ndarray:
    return np.concatenate([old, np.array(new, dtype=np.int64)])


def _codes(known: tuple[str, ...], values: tuple[str, ...]) -> tuple[tuple[str, ...], list[int]]:
    """Positions of `values` in `known`, which grows by those that are new."""
    codes = {name: code for code, name in enumerate(known)}
    found = [codes.setdefault(value, len(codes)) for value in values]
    return tuple(codes), found


def _seconds(value: str) -> float:
    moment = from_text(value)
    assert moment is not None
    return moment.timestamp()
