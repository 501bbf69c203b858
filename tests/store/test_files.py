"""Files that cannot be used: one clear error each, and nothing lost."""

import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nestmem.errors import (
    InputError,
    LedgerCorrupt,
    LedgerError,
    LedgerLocked,
    LedgerReadOnly,
    LedgerTooNew,
    NestmemError,
)
from nestmem.store import Ledger, NewEvent, Scope
from nestmem.store.migrations import MIGRATIONS, migrate

ANN = Scope(user="ann")
HELLO = [NewEvent(role="user", content="hello")]
NOBODY = 65534


def as_ordinary_user(act: Callable[[], object]) -> str:
    """Runs `act` in a child that is not root (root may write everything); the name of the error it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            act()
            answer = "fine"
        except NestmemError as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode()[:4000])
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return pipe.read()


@pytest.fixture
def open_folder():
    """A folder that every user may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="nestmem-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def test_a_locked_file(tmp_path):
    path = tmp_path / "m.db"
    with Ledger(path) as ledger:
        ledger.append(ANN, HELLO)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Ledger(path, busy_timeout_ms=20) as ledger:
        assert ledger.count(ANN) == 1
        with pytest.raises(LedgerLocked, match="another process"):
            ledger.append(ANN, HELLO)
        other.execute("ROLLBACK")
        other.close()
        ledger.append(ANN, HELLO)
        assert ledger.count(ANN) == 2


def test_a_new_file_that_is_locked(tmp_path):
    path = tmp_path / "m.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerLocked):
        Ledger(path, busy_timeout_ms=20)
    other.close()


def test_read_only_on_purpose(tmp_path):
    path = tmp_path / "m.db"
    with Ledger(path) as ledger:
        ledger.append(ANN, HELLO)
    with Ledger(path, read_only=True) as ledger:
        assert ledger.count(ANN) == 1
        assert len(ledger.postings(ANN, ["hello"])[0]) == 1
        for write in (lambda: ledger.append(ANN, HELLO), lambda: ledger.forget(ANN, ["x"]), ledger.rebuild):
            with pytest.raises(LedgerReadOnly, match="read_only=True"):
                write()
    with pytest.raises(InputError, match="does not exist"):
        Ledger(tmp_path / "none.db", read_only=True)


def test_a_read_only_file(open_folder):
    path = open_folder / "m.db"
    with Ledger(path) as ledger:
        ledger.append(ANN, HELLO)
    path.chmod(0o444)
    assert as_ordinary_user(lambda: Ledger(path)).startswith("LedgerReadOnly")

    def read() -> None:
        with Ledger(path, read_only=True) as ledger:
            assert ledger.count(ANN) == 1

    assert as_ordinary_user(read) == "fine"
    path.chmod(0o000)
    assert "cannot be read" in as_ordinary_user(lambda: Ledger(path, read_only=True))


def test_a_read_only_folder(open_folder):
    open_folder.chmod(0o555)
    assert "cannot be created" in as_ordinary_user(lambda: Ledger(open_folder / "m.db"))


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        Ledger(tmp_path)
    with pytest.raises(InputError, match="mkdir"):
        Ledger(tmp_path / "none" / "m.db")


@pytest.mark.parametrize(
    "content", [b"this is no database, but long enough to be read as one" * 40, b"\x00" * 5000]
)
def test_a_file_that_is_no_database(tmp_path, content):
    path = tmp_path / "m.db"
    path.write_bytes(content)
    with pytest.raises(LedgerCorrupt, match=r"not a healthy|another program"):
        Ledger(path)
    assert path.read_bytes() == content


def test_a_damaged_file(tmp_path):
    path = tmp_path / "m.db"
    with Ledger(path) as ledger:
        ledger.append(ANN, [NewEvent(role="user", content=f"line {n} " * 50) for n in range(200)])
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)

    def use() -> None:
        with Ledger(path) as ledger:
            ledger.events(ANN)

    with pytest.raises(LedgerCorrupt):
        use()


def test_a_database_of_another_program(tmp_path):
    path = tmp_path / "m.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE songs(title)")
    other.close()
    with pytest.raises(LedgerCorrupt, match="another program"):
        Ledger(path)


def test_a_newer_schema(tmp_path):
    path = tmp_path / "m.db"
    Ledger(path).close()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    for read_only in (False, True):
        with pytest.raises(LedgerTooNew, match="schema 99"):
            Ledger(path, read_only=read_only)


def test_an_empty_file_is_a_new_ledger(tmp_path):
    path = tmp_path / "m.db"
    path.touch()
    with Ledger(path) as ledger:
        ledger.append(ANN, HELLO)
        assert ledger.backups() == []


def test_a_migration_backs_up_and_is_applied_once(tmp_path):
    path = tmp_path / "m.db"
    with Ledger(path) as ledger:
        ledger.append(ANN, HELLO)
    steps = (*MIGRATIONS, lambda raw: raw.execute("ALTER TABLE event ADD COLUMN mood TEXT"))
    raw = sqlite3.connect(path, isolation_level=None)
    assert migrate(raw, str(path), migrations=steps) == 1
    assert migrate(raw, str(path), migrations=steps) == 0
    assert raw.execute("SELECT content, mood FROM event").fetchall() == [("hello", None)]
    raw.close()
    [backup] = tmp_path.glob("*.backup-v*")
    assert backup.name == f"m.db.backup-v{len(MIGRATIONS)}"
    with Ledger(backup) as copy:
        assert copy.count(ANN) == 1


def test_a_migration_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "m.db"
    with Ledger(path) as ledger:
        ledger.append(ANN, HELLO)

    def broken(raw: sqlite3.Connection) -> None:
        raw.execute("DROP TABLE receipt")
        raw.execute("NOT SQL")

    raw = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        migrate(raw, str(path), migrations=(*MIGRATIONS, broken))
    raw.close()
    with Ledger(path) as ledger:
        assert ledger.receipts(ANN) == []
        assert ledger.count(ANN) == 1


def test_a_ledger_of_the_first_schema_gets_all_later_tables(tmp_path):
    path = tmp_path / "m.db"
    raw = sqlite3.connect(path, isolation_level=None)
    assert migrate(raw, str(path), migrations=MIGRATIONS[:1]) == 1
    raw.execute("INSERT INTO scope(tenant, user, agent, next_seq) VALUES('default', 'ann', 'default', 2)")
    raw.execute(
        """INSERT INTO event(scope_id, seq, id, session, role, content, recorded_at, source, meta)
           VALUES(1, 1, 'e1', 's', 'user', 'hello', '2026-03-02T12:00:00.000000Z', 'user', '{}')"""
    )
    raw.close()
    with Ledger(path) as ledger:
        assert [event.content for event in ledger.events(ANN)] == ["hello"]
        assert ledger.uses(ANN) == ledger.kept_out(ANN) == {}
        assert ledger.reports(ANN) == ledger.sleeps(ANN) == []
        assert [backup.name for backup in ledger.backups()] == ["m.db.backup-v1"]
        assert ledger.forget(ANN, ["e1"])["events"] == 1
        assert ledger.check() == []


def test_an_older_schema_is_not_changed_by_a_reader(tmp_path):
    path = tmp_path / "m.db"
    Ledger(path).close()
    raw = sqlite3.connect(path)
    with pytest.raises(LedgerReadOnly, match=f"needs {len(MIGRATIONS) + 1}"):
        migrate(raw, str(path), read_only=True, migrations=(*MIGRATIONS, lambda raw: None))
    raw.close()


def test_a_full_disk(tmp_path):
    with Ledger(tmp_path / "m.db") as ledger:
        ledger.append(ANN, HELLO)
        raw = ledger._connection.raw
        raw.execute(f"PRAGMA max_page_count = {raw.execute('PRAGMA page_count').fetchone()[0]}")
        with pytest.raises(LedgerError, match="disk is full"):
            ledger.append(ANN, [NewEvent(role="user", content="x" * 900_000)])
        assert ledger.count(ANN) == 1
        assert ledger.check() == []
