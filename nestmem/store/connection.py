"""One SQLite connection: settings, transactions, and errors that say what to do."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nestmem.errors import InputError, LedgerCorrupt, LedgerError, LedgerLocked, LedgerReadOnly

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_READ_ONLY = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)


def explain(error: sqlite3.Error, path: str) -> LedgerError:
    """The LedgerError for an error of SQLite: what happened to which file and the likely fix."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _LOCKED:
        return LedgerLocked(
            f"{path} is locked by another process ({error}). Nothing was written; "
            "try again, or close the other program that holds it"
        )
    if code in _READ_ONLY:
        return LedgerReadOnly(
            f"{path} cannot be written ({error}). Make the file and its folder writable, "
            "or open it for reading with read_only=True"
        )
    if code in _CORRUPT:
        return LedgerCorrupt(
            f"{path} is not a healthy SQLite database ({error}). It was left as it is; restore a copy "
            f"(look for {Path(path).name}.backup-v*), or recover what is left with: sqlite3 {path} .recover"
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return LedgerError(
            f"{path} cannot be opened ({error}). Check that its folder exists and can be written"
        )
    if code == sqlite3.SQLITE_FULL:
        return LedgerError(f"{path}: the disk is full. Nothing was written; free some space and try again")
    return LedgerError(f"{path}: SQLite says: {error}")


class Connection:
    """A connection that several threads may share; one transaction at a time, one thread in it.

    WAL, synchronous=FULL (a commit has reached the disk), secure_delete (freed bytes are zeroed),
    foreign keys. `after_commit` functions run once when the outermost transaction has committed.
    """

    def __init__(self, path: str, *, busy_timeout_ms: int, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._lock = threading.RLock()
        self._depth = 0
        self._after_commit: dict[str, Callable[[], object]] = {}
        self.on_rollback: Callable[[], None] = lambda: None
        self._raw: sqlite3.Connection | None = None
        check_path(path, read_only=read_only)
        try:
            self._raw = _connect(path, busy_timeout_ms, read_only)
        except sqlite3.Error as error:
            raise explain(error, path) from error

    @property
    def raw(self) -> sqlite3.Connection:
        """The sqlite3 connection; LedgerError after `close`."""
        if self._raw is None:
            raise LedgerError(f"the ledger {self.path} is closed; open it again")
        return self._raw

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns an error of SQLite into the LedgerError that explains it."""
        try:
            yield
        except sqlite3.Error as error:
            raise explain(error, self.path) from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The raw connection, held by this thread."""
        with self._lock, self.errors():
            yield self.raw

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable write. An exception undoes all of it.

        A nested call is part of the outer one and reaches the disk with it; an exception that leaves the nested
        block undoes that block, also when the outer one catches it and goes on.
        """
        with self._lock, self.errors():
            if self._depth:
                with self._nested():
                    yield self.raw
                return
            self._begin()
            self._depth = 1
            with ExitStack() as failed:
                failed.callback(self._roll_back)
                try:
                    yield self.raw
                finally:
                    self._depth = 0
                failed.pop_all()
            self._commit()

    def after_commit(self, name: str, function: Callable[[], object]) -> None:
        """Runs `function` after the outermost commit, once per `name`."""
        self._after_commit[name] = function

    def close(self) -> None:
        """Closes the connection; a second call does nothing."""
        with self._lock:
            if self._raw is not None:
                self._raw.close()
                self._raw = None

    @contextmanager
    def _nested(self) -> Iterator[None]:
        name = f"nested_{self._depth}"
        hooks = dict(self._after_commit)
        self.raw.execute(f"SAVEPOINT {name}")
        self._depth += 1
        with ExitStack() as always:
            always.callback(self._leave)
            with ExitStack() as failed:
                failed.callback(self._undo, name, hooks)
                yield
                failed.pop_all()
            self.raw.execute(f"RELEASE {name}")

    def _leave(self) -> None:
        self._depth -= 1

    def _undo(self, name: str, hooks: dict[str, Callable[[], object]]) -> None:
        """Back to the savepoint."""
        self._after_commit = hooks
        # SQLite has undone everything itself after some errors, a full disk for one.
        if self.raw.in_transaction:
            self.raw.execute(f"ROLLBACK TO {name}")
            self.raw.execute(f"RELEASE {name}")
        self.on_rollback()

    def _begin(self) -> None:
        if self.read_only:
            raise LedgerReadOnly(f"{self.path} was opened with read_only=True; open it without to write")
        self.raw.execute("BEGIN IMMEDIATE")

    def _commit(self) -> None:
        with ExitStack() as failed:
            failed.callback(self._roll_back)
            self.raw.execute("COMMIT")
            failed.pop_all()
        hooks, self._after_commit = self._after_commit, {}
        for hook in hooks.values():
            hook()

    def _roll_back(self) -> None:
        self._after_commit = {}
        if self.raw.in_transaction:
            self.raw.execute("ROLLBACK")
        self.on_rollback()


def check_path(path: str, *, read_only: bool) -> None:
    """Raises before SQLite is asked, where its own message would not help."""
    if path == ":memory:":
        return
    file = Path(path)
    if file.is_dir():
        raise InputError(f"{path} is a folder; expected a file, for example {file / 'memory.db'}")
    if not file.parent.is_dir():
        raise InputError(f"the folder {file.parent} does not exist; create it with: mkdir -p {file.parent}")
    if file.exists():
        if not os.access(file, os.R_OK):
            raise LedgerReadOnly(f"{path} cannot be read by this user; fix it with: chmod u+rw {path}")
        if not read_only and not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
            raise LedgerReadOnly(
                f"{path} or its folder cannot be written by this user. Open it with read_only=True, "
                f"or make it writable with: chmod u+w {path} {file.parent}"
            )
    elif read_only:
        raise InputError(f"{path} does not exist and cannot be created with read_only=True")
    elif not os.access(file.parent, os.W_OK):
        raise LedgerReadOnly(f"{file.parent} cannot be written by this user, so {path} cannot be created")


def _connect(path: str, busy_timeout_ms: int, read_only: bool) -> sqlite3.Connection:
    if read_only and path != ":memory:":
        raw = _connect_for_reading(path, busy_timeout_ms)
    else:
        raw = sqlite3.connect(
            path,
            timeout=busy_timeout_ms / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
    try:
        if not read_only:
            raw.execute("PRAGMA journal_mode = WAL").fetchone()
            raw.execute("PRAGMA synchronous = FULL")
            raw.execute("PRAGMA secure_delete = ON").fetchone()
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute("PRAGMA temp_store = MEMORY")
    except sqlite3.Error:
        raw.close()
        raise
    return raw


def _connect_for_reading(path: str, busy_timeout_ms: int) -> sqlite3.Connection:
    """Opens read-only. Where no -shm file can be made, a ledger without a -wal file is taken as immutable."""
    file = Path(path).resolve()
    uri = f"{file.as_uri()}?mode=ro"
    if not os.access(file.parent, os.W_OK) and not Path(f"{file}-wal").exists():
        uri += "&immutable=1"
    return sqlite3.connect(
        uri, uri=True, timeout=busy_timeout_ms / 1000, isolation_level=None, check_same_thread=False
    )
