"""Several processes on one file, and processes that die."""

import os
import signal
import subprocess
import sys

from nestmem.store import Ledger, Scope

ANN = Scope(user="ann")

WRITER = """
import sys
from nestmem.store import Ledger, NewEvent, Scope
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Ledger(path, busy_timeout_ms=30000) as ledger:
    for number in range(count):
        [event] = ledger.append(Scope(user="ann"), [NewEvent(role="user", content=f"writer {name} line {number}")])
        print(event.id, flush=True)
"""


def start(path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def check_whole(ledger: Ledger) -> None:
    """Every event has its passage, its words and its work, and the file is healthy."""
    events = ledger.events(ANN)
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert ledger.passages(ANN).seq.tolist() == [event.seq for event in events]
    assert len(ledger.postings(ANN, ["writer"])[0]) == len(events)
    assert [work.event_id for work in ledger.pending(ANN)] == [event.id for event in events]
    assert ledger.check() == []


def test_eight_writers_on_one_file(tmp_path):
    path = tmp_path / "m.db"
    writers = [start(path, f"w{number}", 15) for number in range(8)]
    acknowledged = [id for writer in writers for id in writer.communicate(timeout=120)[0].split()]
    assert [writer.returncode for writer in writers] == [0] * 8
    with Ledger(path) as ledger:
        assert sorted(event.id for event in ledger.events(ANN)) == sorted(acknowledged)
        assert len(acknowledged) == 120
        check_whole(ledger)


def test_what_was_acknowledged_survives_a_kill(tmp_path):
    path = tmp_path / "m.db"
    acknowledged: set[str] = set()
    for round in range(4):
        writer = start(path, f"r{round}", 100_000)
        assert writer.stdout is not None
        acknowledged |= {writer.stdout.readline().strip() for _ in range(5 + 7 * round)}
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate(timeout=60)[0]
        # A line cut by the kill was not acknowledged.
        acknowledged |= set(rest[: rest.rfind("\n") + 1].split())
        with Ledger(path) as ledger:
            stored = {event.id for event in ledger.events(ANN)}
            assert acknowledged <= stored
            assert len(stored - acknowledged) <= round + 1
            check_whole(ledger)
