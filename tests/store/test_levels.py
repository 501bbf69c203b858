"""Uses, gates, reports, sleep and saved states: kept, removed by a forget, and safe when a sleeper dies."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from nestmem.errors import InputError, LedgerError, LedgerReadOnly, SleepBusy
from nestmem.store import Ledger, NewEvent, Report, Scope, Use, WeightUpdate, WeightVersion

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SECRET = "Quetzalcoatlus"


def report(scope: Scope, id: str, version_id: str | None = None, **detail: object) -> Report:
    return Report(
        id=id,
        scope=scope,
        version_id=version_id,
        kind="write",
        outcome="committed",
        detail=detail,
        created_at=NOON,
    )


@pytest.fixture
def told(ledger, ann, say, remember):
    """Two memories, m1 and m10, each of its own event."""
    events = [say(ledger, ann, "I live in Rome."), say(ledger, ann, "My dog is called Biscuit.")]
    for event, id in zip(events, ("m1", "m10"), strict=True):
        remember(ledger, event, id, key=id)
    return events


# Uses


def test_uses_are_counted(ledger, ann, told):
    assert ledger.uses(ann) == {}
    ledger.note_use(ann, ["m1", "m1", "nope"], NOON)
    ledger.note_use(ann, ["m1", "m10"], NOON + MINUTE)
    ledger.note_use(Scope(user="ann", session="any"), ["m1"], NOON - MINUTE)
    assert ledger.uses(ann) == {
        "m1": Use(uses=3, last_used=NOON + MINUTE),
        "m10": Use(uses=1, last_used=NOON + MINUTE),
    }
    assert ledger.status(ann)["used"] == 2


def test_the_zone_of_a_use_does_not_matter(ledger, ann, told):
    ledger.note_use(ann, ["m1"], NOON.astimezone(timezone(timedelta(hours=9))))
    assert ledger.uses(ann)["m1"].last_used == NOON


def test_a_use_changes_neither_events_nor_memories(ledger, ann, told):
    before = ledger.changes(ann), ledger.memories(ann)
    ledger.note_use(ann, ["m1"], NOON)
    assert (ledger.changes(ann), ledger.memories(ann)) == before


# Kept out


def test_what_is_kept_out_can_be_let_in(ledger, ann, told):
    ledger.keep_out(ann, {"m1": ("grounding", "the answer is not in its event"), "nope": ("x", "y")}, NOON)
    ledger.keep_out(ann, {"m1": ("capacity", "loss 0.3 over 0.2"), "m10": ("private", "")}, NOON + MINUTE)
    assert {id: (k.gate, k.reason, k.at) for id, k in ledger.kept_out(ann).items()} == {
        "m1": ("capacity", "loss 0.3 over 0.2", NOON + MINUTE),
        "m10": ("private", "", NOON + MINUTE),
    }
    ledger.let_in(ann, ["m1", "nope"])
    assert list(ledger.kept_out(ann)) == ["m10"]
    assert ledger.status(ann)["kept_out"] == 1


def test_a_gate_must_be_text(ledger, ann, told):
    with pytest.raises(InputError, match="gate"):
        ledger.keep_out(ann, {"m1": (None, "x")}, NOON)
    assert ledger.kept_out(ann) == {}


# Reports


def test_reports_come_back_as_written(ledger, ann):
    one, two = report(ann, "r1", "v1", kl=0.01, gates=["canary"]), report(ann, "r2")
    ledger.add_report(ann, one)
    ledger.add_report(ann, two)
    assert ledger.reports(ann) == [one, two]
    assert ledger.reports(ann, "v1") == [one]
    assert ledger.reports(ann, "v2") == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "rumour"}, "expected one of write, nap"),
        ({"outcome": "maybe"}, "expected one of committed, refused"),
        ({"detail": {"kl": float("nan")}}, "JSON"),
        ({"detail": {"at": NOON}}, "JSON"),
        ({"detail": ["kl"]}, "expected a dict"),
    ],
)
def test_reports_that_cannot_be_stored_are_refused(ledger, ann, fields, says):
    whole = {"kind": "write", "outcome": "noted", "detail": {}, **fields}
    with pytest.raises(InputError, match=says):
        ledger.add_report(ann, Report(id="r1", scope=ann, version_id=None, created_at=NOON, **whole))
    assert ledger.reports(ann) == []


# Sleep


def test_a_sleep_covers_what_was_told_when_it_began(ledger, ann, told, say):
    assert ledger.sleep_cursor(ann) == 0
    run = ledger.begin_sleep(ann, "host:1", MINUTE, NOON)
    assert (run.cursor, run.owner, run.lease_until, run.started_at) == (2, "host:1", NOON + MINUTE, NOON)
    assert (run.stage, run.detail, run.ended_at, run.resumed) == ("", {}, None, False)
    say(ledger, ann, "said while asleep")
    assert ledger.sleep_cursor(ann) == 0
    ledger.end_sleep(run.id, NOON + MINUTE, run.cursor)
    assert ledger.sleep_cursor(ann) == 2
    [ended] = ledger.sleeps(ann)
    assert (ended.ended_at, ledger.status(ann)["sleeps"]) == (NOON + MINUTE, 1)
    following = ledger.begin_sleep(ann, "host:1", MINUTE, NOON)
    assert (following.cursor, following.resumed) == (3, False)
    assert ledger.sleep_cursor(ann) == 2


def test_a_user_without_events_may_sleep(ledger, ann):
    run = ledger.begin_sleep(ann, "host:1", MINUTE, NOON)
    ledger.end_sleep(run.id, NOON, run.cursor)
    assert (run.cursor, ledger.sleep_cursor(ann)) == (0, 0)


def test_two_sleepers_on_one_user(open_ledger, ann):
    one, two = open_ledger(), open_ledger()
    run = one.begin_sleep(ann, "host:1", MINUTE, NOON)
    with pytest.raises(SleepBusy, match=r"host:1 holds it until 2026-03-02T12:01"):
        two.begin_sleep(ann, "host:2", MINUTE, NOON + MINUTE / 2)
    two.begin_sleep(Scope(user="bob"), "host:2", MINUTE, NOON)
    one.note_sleep(run.id, "study", {"done": 3}, NOON + 5 * MINUTE)
    with pytest.raises(SleepBusy):
        two.begin_sleep(ann, "host:2", MINUTE, NOON + 2 * MINUTE)
    one.end_sleep(run.id, NOON + 2 * MINUTE, run.cursor)
    assert two.begin_sleep(ann, "host:2", MINUTE, NOON + 2 * MINUTE).resumed is False


def test_a_dead_sleeper_is_replaced_and_cannot_write_when_it_wakes(open_ledger, ann, say):
    one, two = open_ledger(), open_ledger()
    say(one, ann, "hello")
    run = one.begin_sleep(ann, "host:1", MINUTE, NOON)
    one.note_sleep(run.id, "study", {"done": 3}, NOON + MINUTE)
    say(one, ann, "said after it began")
    taken = two.begin_sleep(ann, "host:2", MINUTE, NOON + MINUTE)
    assert (taken.resumed, taken.stage, taken.detail, taken.cursor) == (True, "study", {"done": 3}, 1)
    assert (taken.owner, taken.started_at) == ("host:2", NOON)

    def finish_late() -> None:
        with one.transaction():
            say(one, ann, "written by a sleeper that is presumed dead")
            one.end_sleep(run.id, NOON + 2 * MINUTE, 1)

    for act in (lambda: one.note_sleep(run.id, "write", {}, NOON + 9 * MINUTE), finish_late):
        with pytest.raises(SleepBusy, match="took it over"):
            act()
    assert (one.count(ann), two.sleep_cursor(ann)) == (2, 0)
    two.end_sleep(taken.id, NOON + 2 * MINUTE, taken.cursor)
    assert one.sleep_cursor(ann) == 1
    with pytest.raises(SleepBusy, match="has ended"):
        two.end_sleep(taken.id, NOON, 5)
    assert one.sleep_cursor(ann) == 1


def test_the_same_owner_takes_its_own_sleep_up_at_once(ledger, ann):
    run = ledger.begin_sleep(ann, "host:1", MINUTE, NOON)
    ledger.note_sleep(run.id, "study", {"done": 1}, NOON + MINUTE)
    again = ledger.begin_sleep(ann, "host:1", MINUTE, NOON)
    assert (again.resumed, again.stage, again.detail) == (True, "study", {"done": 1})
    assert again.id != run.id


@pytest.mark.parametrize(("owner", "lease", "says"), [("", MINUTE, "owner"), ("a", timedelta(0), "lease")])
def test_a_sleeper_must_have_a_name_and_a_lease(ledger, ann, owner, lease, says):
    with pytest.raises(InputError, match=says):
        ledger.begin_sleep(ann, owner, lease, NOON)
    assert ledger.sleeps(ann) == []


SLEEPER = """
import sys, time
from datetime import datetime, timedelta, UTC
from nestmem.store import Ledger, Scope
with Ledger(sys.argv[1]) as ledger:
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)
    run = ledger.begin_sleep(Scope(user="ann"), "dead", timedelta(minutes=1), noon)
    with ledger.transaction():
        ledger.note_sleep(run.id, "one", {"done": ["m1"]}, noon + timedelta(minutes=1))
        ledger.put_snapshot(Scope(user="ann"), "one", b"one")
    with ledger.transaction():
        ledger.note_sleep(run.id, "two", {"done": ["m1", "m10"]}, noon + timedelta(minutes=1))
        ledger.put_snapshot(Scope(user="ann"), "two", b"two")
        print("half", flush=True)
        time.sleep(60)
"""


def test_a_killed_sleep_is_taken_up_where_it_had_committed(tmp_path, open_ledger, ann, told):
    path = tmp_path / "memory.db"
    sleeper = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert sleeper.stdout is not None
    assert sleeper.stdout.readline().strip() == "half"
    sleeper.send_signal(signal.SIGKILL)
    sleeper.communicate(timeout=30)
    ledger = open_ledger()
    with pytest.raises(SleepBusy, match="dead holds it"):
        ledger.begin_sleep(ann, "next", MINUTE, NOON)
    run = ledger.begin_sleep(ann, "next", MINUTE, NOON + MINUTE)
    assert (run.resumed, run.stage, run.detail, run.cursor) == (True, "one", {"done": ["m1"]}, 2)
    assert (ledger.snapshot(ann, "one"), ledger.snapshot(ann, "two")) == (b"one", None)
    assert len(ledger.memories(ann)) == ledger.count(ann) == 2
    assert ledger.check() == []


def test_a_disk_that_fills_up_during_sleep_loses_nothing(ledger, ann, told):
    run = ledger.begin_sleep(ann, "host:1", MINUTE, NOON)
    ledger.note_sleep(run.id, "plan", {"done": 1}, NOON + MINUTE)
    ledger.put_snapshot(ann, "before", b"x" * 1000)
    ledger.note_use(ann, ["m1"], NOON)
    before = ledger.status(ann)
    raw = ledger._connection.raw
    pages = raw.execute("PRAGMA page_count").fetchone()[0]
    raw.execute(f"PRAGMA max_page_count = {pages}")

    def commit() -> None:
        with ledger.transaction():
            ledger.let_in(ann, ["m1"])
            ledger.put_snapshot(ann, "after", b"x" * 900_000)
            ledger.end_sleep(run.id, NOON, run.cursor)

    with pytest.raises(LedgerError, match="disk is full"):
        commit()
    assert ledger.status(ann) == before
    assert (ledger.snapshot(ann, "before"), ledger.snapshot(ann, "after")) == (b"x" * 1000, None)
    assert ledger.sleep_cursor(ann) == 0
    assert ledger.check() == []
    raw.execute(f"PRAGMA max_page_count = {pages + 10_000}")
    commit()
    assert ledger.sleep_cursor(ann) == 2


# Saved states


def test_the_newest_two_states_are_kept(ledger, ann):
    for key, data in (("a", b"1"), ("b", b"2"), ("a", b"3"), ("c", b"4")):
        ledger.put_snapshot(ann, key, data)
    assert [ledger.snapshot(ann, key) for key in "abc"] == [b"3", None, b"4"]
    with pytest.raises(InputError, match="expected bytes"):
        ledger.put_snapshot(ann, "d", "text")


# Forgetting


def files(ledger: Ledger) -> list[Path]:
    return list(Path(ledger.path).parent.glob(f"{Path(ledger.path).name}*"))


def fill(ledger: Ledger, scope: Scope, memory_id: str) -> None:
    """One of everything about one memory. The secret stands where callers are told not to put text, too."""
    ledger.note_use(scope, [memory_id], NOON)
    ledger.keep_out(scope, {memory_id: ("private", SECRET)}, NOON)
    ledger.put_snapshot(scope, f"state {memory_id}", SECRET.encode() * 500)


def test_a_forget_leaves_no_trace(ledger, ann, told):
    forgotten, _ = told
    fill(ledger, ann, "m1")
    ledger.note_use(ann, ["m10"], NOON)
    ledger.keep_out(ann, {"m10": ("capacity", "")}, NOON)
    removed = ledger.forget(ann, [forgotten.id])
    assert [removed[kind] for kind in ("uses", "kept_out", "snapshots")] == [1, 1, 1]
    assert list(ledger.uses(ann)) == list(ledger.kept_out(ann)) == ["m10"]
    assert ledger.snapshot(ann, "state m1") is None
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in files(ledger))
    assert ledger.check() == []


def test_every_saved_state_goes_with_any_forget(ledger, ann, told):
    ledger.put_snapshot(ann, "a", b"1")
    ledger.put_snapshot(ann, "b", b"2")
    ledger.put_snapshot(Scope(user="bob"), "c", b"3")
    ledger.forget(ann, [told[0].id])
    assert (ledger.snapshot(ann, "a"), ledger.snapshot(ann, "b")) == (None, None)
    assert ledger.snapshot(Scope(user="bob"), "c") == b"3"


def test_reports_no_longer_mention_what_was_forgotten(ledger, ann, told):
    forgotten, kept = told
    update = WeightUpdate(
        id="u1",
        scope=ann,
        memory_id="m1",
        event_ids=(forgotten.id,),
        level="fast",
        payload=b"",
        digest="d",
        learner="l",
        examples=[],
        created_at=NOON,
    )
    version = WeightVersion(
        id="v1",
        scope=ann,
        parent=None,
        update_ids=("u1",),
        digest="d",
        learner="l",
        reason="learn",
        created_at=NOON,
    )
    ledger.add_updates(ann, [update])
    ledger.commit_version(ann, version)
    detail = {
        "memories": ["m1", "m10"],
        "losses": {"m1": 0.5, "m10": 0.25},
        "first": "m1",
        "nested": [{"update": "u1", "event": forgotten.id, "kept": kept.id}],
        "why": "m1, then m10; m1-like is another",
        "count": 2,
        "of": "v1",
    }
    ledger.add_report(ann, report(ann, "r1", "v1", **detail))
    run = ledger.begin_sleep(ann, "host:1", MINUTE, NOON)
    ledger.note_sleep(run.id, "study", detail, NOON + MINUTE)
    ledger.end_sleep(run.id, NOON, run.cursor)
    ledger.forget(ann, [forgotten.id])
    expected = {
        "memories": ["m10"],
        "losses": {"m10": 0.25},
        "nested": [{"kept": kept.id}],
        "why": "(forgotten), then m10; m1-like is another",
        "count": 2,
    }
    assert ledger.reports(ann) == [report(ann, "r1", None, **expected)]
    [slept] = ledger.sleeps(ann)
    assert (slept.detail, ledger.sleep_cursor(ann)) == (expected, 2)


def test_a_sleeper_does_not_bring_back_what_is_forgotten_meanwhile(open_ledger, ann, say, remember):
    sleeper, other = open_ledger(), open_ledger()
    said = say(sleeper, ann, f"My password is {SECRET}.")
    remember(sleeper, said, "m1", answer=SECRET)
    run = sleeper.begin_sleep(ann, "host:1", MINUTE, NOON)
    other.forget(ann, [said.id])

    def commit() -> None:
        with sleeper.transaction():
            sleeper.put_snapshot(ann, "state", SECRET.encode())
            sleeper.end_sleep(run.id, NOON, run.cursor)

    with pytest.raises(SleepBusy, match="a forget ended it"):
        commit()
    assert sleeper.snapshot(ann, "state") is None
    assert other.begin_sleep(ann, "host:2", MINUTE, NOON).resumed is False
    sleeper.close()
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in files(other))


def test_a_reader_can_read_all_of_it_and_write_none(tmp_path, ledger, ann, told):
    fill(ledger, ann, "m1")
    ledger.close()
    with Ledger(tmp_path / "memory.db", read_only=True) as reader:
        assert list(reader.uses(ann)) == list(reader.kept_out(ann)) == ["m1"]
        assert reader.snapshot(ann, "state m1") == SECRET.encode() * 500
        for write in (
            lambda: reader.note_use(ann, ["m1"], NOON),
            lambda: reader.begin_sleep(ann, "x", MINUTE, NOON),
            lambda: reader.put_snapshot(ann, "x", b""),
        ):
            with pytest.raises(LedgerReadOnly):
                write()


def test_a_rebuild_keeps_all_of_it(ledger, ann, told):
    fill(ledger, ann, "m1")
    before = ledger.uses(ann), ledger.kept_out(ann), ledger.snapshot(ann, "state m1")
    ledger.rebuild()
    after = ledger.uses(ann), ledger.kept_out(ann), ledger.snapshot(ann, "state m1")
    assert after == before
    ledger.append(ann, [NewEvent(role="user", content="more")])
    assert ledger.status(ann)["used"] == 1
