"""Nothing of one tenant, user or agent can be read or changed from another."""

from datetime import timedelta

import numpy as np
import pytest

from nestmem.errors import InputError
from nestmem.store import Report, Scope, WeightUpdate, WeightVersion, utc_now

OWNER = Scope(tenant="t1", user="ann", agent="a1")
STRANGERS = [
    Scope(tenant="t2", user="ann", agent="a1"),
    Scope(tenant="t1", user="bob", agent="a1"),
    Scope(tenant="t1", user="ann", agent="a2"),
    Scope(tenant="t1", user="Ann", agent="a1"),
    Scope(tenant="t1", user="ann%", agent="a1"),
]


@pytest.fixture
def full(ledger, say, remember):
    """A ledger in which the owner has one of everything; each stranger has one event."""
    said = say(ledger, OWNER, "My secret word is xylophone.")
    remember(ledger, said, "m1")
    [(passage, _), *_] = ledger.missing_vectors(OWNER, "m", 2)
    ledger.add_vectors(OWNER, [passage], "m", np.array([[1, 0]], np.float32))
    ledger.add_updates(
        OWNER,
        [
            WeightUpdate(
                id="u1",
                scope=OWNER,
                memory_id="m1",
                event_ids=(said.id,),
                level="fast",
                payload=b"x",
                digest="d",
                learner="l",
                examples=[],
                created_at=utc_now(),
            )
        ],
    )
    ledger.commit_version(
        OWNER,
        WeightVersion(
            id="v1",
            scope=OWNER,
            parent=None,
            update_ids=("u1",),
            digest="d",
            learner="l",
            reason="",
            created_at=utc_now(),
        ),
    )
    ledger.note_use(OWNER, ["m1"], utc_now())
    ledger.keep_out(OWNER, {"m1": ("grounding", "not in the event")}, utc_now())
    ledger.put_snapshot(OWNER, "d", b"weights")
    report = {"kind": "write", "outcome": "noted", "detail": {}, "created_at": utc_now()}
    ledger.add_report(OWNER, Report(id="r1", scope=OWNER, version_id="v1", **report))
    run = ledger.begin_sleep(OWNER, "sleeper", timedelta(minutes=1), utc_now())
    ledger.end_sleep(run.id, utc_now(), run.cursor)
    ledger.begin_sleep(OWNER, "sleeper", timedelta(minutes=1), utc_now())
    for stranger in STRANGERS:
        say(ledger, stranger, "Nothing to see.")
    return ledger, said, passage


@pytest.mark.parametrize("stranger", STRANGERS)
def test_nothing_can_be_read(full, stranger):
    ledger, said, passage = full
    assert [event.content for event in ledger.events(stranger)] == ["Nothing to see."]
    assert ledger.events(stranger, ids=[said.id]) == []
    assert ledger.memories(stranger, active_only=False) == []
    assert ledger.memories(stranger, event_ids=[said.id]) == []
    assert ledger.history(stranger, "home_city") == []
    assert ledger.edges(stranger) == ledger.updates(stranger) == ledger.versions(stranger) == []
    assert ledger.updates(stranger, ids=["u1"]) == ledger.updates(stranger, memory_ids=["m1"]) == []
    assert ledger.head(stranger) is None
    assert ledger.uses(stranger) == ledger.kept_out(stranger) == {}
    assert ledger.reports(stranger) == ledger.reports(stranger, "v1") == []
    assert ledger.snapshot(stranger, "d") is None
    assert (ledger.sleep_cursor(stranger), ledger.sleeps(stranger)) == (0, [])
    assert ledger.postings(stranger, ["xylophone"])[0].tolist() == []
    assert ledger.passage_texts(stranger, [passage]) == {}
    assert len(ledger.vectors(stranger, "m", 2)[0]) == 0
    assert {work.event_id for work in ledger.pending(stranger)}.isdisjoint({said.id})
    with pytest.raises(InputError):
        ledger.event(stranger, said.id)
    with pytest.raises(InputError):
        ledger.memory(stranger, "m1")


@pytest.mark.parametrize("stranger", STRANGERS)
def test_nothing_can_be_changed(full, stranger):
    ledger, said, passage = full
    before = ledger.status(OWNER)
    assert sum(ledger.forget(stranger, [said.id]).values()) == 0
    assert ledger.delete_updates(stranger, ["u1"]) == 0
    ledger.move_updates(stranger, ["u1"], "slow")
    ledger.add_vectors(stranger, [passage], "other", np.array([[0, 1]], np.float32))
    ledger.note_use(stranger, ["m1"], utc_now())
    ledger.keep_out(stranger, {"m1": ("trust", "")}, utc_now())
    ledger.let_in(stranger, ["m1"])
    for key in ("d", "e", "f"):
        ledger.put_snapshot(stranger, key, b"other")
    ledger.begin_sleep(stranger, "other sleeper", timedelta(minutes=1), utc_now())
    with pytest.raises(InputError):
        ledger.supersede(stranger, "m1", "m1", utc_now())
    ledger.rebuild(stranger)
    assert ledger.status(OWNER) | {"bytes": 0} == before | {"bytes": 0}
    assert ledger.updates(OWNER)[0].level == "fast"
    assert ledger.memory(OWNER, "m1").status == "active"
    assert [use.uses for use in ledger.uses(OWNER).values()] == [1]
    assert ledger.kept_out(OWNER)["m1"].gate == "grounding"
    assert ledger.snapshot(OWNER, "d") == b"weights"
    assert [run.owner for run in ledger.sleeps(OWNER)] == ["sleeper", "sleeper"]
    assert ledger.uses(stranger) == ledger.kept_out(stranger) == {}
    assert len(ledger.postings(OWNER, ["xylophone"])[0]) > 0


def test_scopes_are_listed(full):
    ledger, *_ = full
    assert ledger.scopes() == [OWNER, *STRANGERS]
