"""A forget removes events, what came from them, and their bytes."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from nestmem.store import Ledger, Scope, WeightUpdate, WeightVersion

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SECRET = "Quetzalcoatlus"


def update(scope: Scope, id: str, memory_id: str, *event_ids: str, text: str = "") -> WeightUpdate:
    return WeightUpdate(
        id=id,
        scope=scope,
        memory_id=memory_id,
        event_ids=event_ids,
        level="fast",
        payload=text.encode(),
        digest=id,
        learner="l",
        examples=[{"prompt": "q", "completion": text}],
        created_at=NOON,
    )


def version(scope: Scope, id: str, parent: str | None, *update_ids: str) -> WeightVersion:
    return WeightVersion(
        id=id,
        scope=scope,
        parent=parent,
        update_ids=update_ids,
        digest=id,
        learner="l",
        reason="learn",
        created_at=NOON,
    )


def copies(ledger: Ledger, text: str) -> int:
    """How often the bytes stand in the ledger's files, in any case."""
    files = Path(ledger.path).parent.glob(f"{Path(ledger.path).name}*")
    needle = text.lower().encode()
    return sum(file.read_bytes().lower().count(needle) for file in files)


def test_no_byte_is_left(ledger, ann, say, remember):
    kept = [say(ledger, ann, f"The weather on day {n} was fine.") for n in range(50)]
    said = say(ledger, ann, f"My password is {SECRET}.", meta={"note": SECRET}, name=f"{SECRET} Smith")
    remember(ledger, said, "m1", key=SECRET, text=SECRET)
    ledger.add_updates(ann, [update(ann, "u1", "m1", said.id, text=SECRET)])
    [work, *_] = [work for work in ledger.pending(ann) if work.event_id == said.id]
    ledger.failed(work.id, f"could not read {SECRET}")
    for number in range(50):
        say(ledger, ann, f"More talk number {number}.")
    assert copies(ledger, SECRET) > 0
    removed = ledger.forget(ann, [said.id])
    assert removed == {
        "passages": 2,
        "updates": 1,
        "versions": 0,
        "edges": 1,
        "uses": 0,
        "kept_out": 0,
        "snapshots": 0,
        "memories": 1,
        "work": 1,
        "events": 1,
    }
    assert copies(ledger, SECRET) == 0
    assert ledger.count(ann) == len(kept) + 50
    assert len(ledger.postings(ann, ["weather"])[0]) == 50
    assert ledger.postings(ann, [SECRET.lower()])[0].tolist() == []
    assert ledger.check() == []
    ledger.close()
    assert copies(ledger, SECRET) == 0


def test_no_byte_of_a_long_message_is_left(ledger, ann, say):
    said = say(ledger, ann, f"{SECRET} is everywhere. " * 2000)
    say(ledger, ann, "short")
    ledger.forget(ann, [said.id])
    assert copies(ledger, SECRET) == 0


def test_a_forgotten_vector_leaves(ledger, ann, say):
    said = say(ledger, ann, "secret")
    say(ledger, ann, "open")
    row = np.frombuffer(SECRET[:12].encode(), "<f4").reshape(1, 3)
    [(passage, _), _] = ledger.missing_vectors(ann, "m", 3)
    ledger.add_vectors(ann, [passage], "m", row)
    assert len(ledger.vectors(ann, "m", 3)[0]) == 1
    ledger.forget(ann, [said.id])
    assert len(ledger.vectors(ann, "m", 3)[0]) == 0
    assert copies(ledger, SECRET[:12]) == 0


def test_the_whole_transaction_around_it_is_scrubbed(ledger, ann, say):
    said = say(ledger, ann, SECRET)
    with ledger.transaction():
        ledger.forget(ann, [said.id])
        say(ledger, ann, "and another thing")
    assert copies(ledger, SECRET) == 0


def test_a_forget_that_fails_changes_nothing(ledger, ann, say):
    said = say(ledger, ann, SECRET)
    try:
        with ledger.transaction():
            ledger.forget(ann, [said.id])
            raise RuntimeError
    except RuntimeError:
        pass
    assert ledger.event(ann, said.id) == said
    assert len(ledger.postings(ann, [SECRET.lower()])[0]) == 1


def test_a_reader_delays_the_scrub(open_ledger, ann, say):
    writer, reader = open_ledger(busy_timeout_ms=50), open_ledger()
    said = say(writer, ann, SECRET)
    with reader.transaction():
        pass
    raw = reader._connection.raw
    raw.execute("BEGIN")
    raw.execute("SELECT count(*) FROM event").fetchone()
    writer.forget(ann, [said.id])
    assert writer.status(ann)["scrub_pending"] is True
    raw.execute("COMMIT")
    assert writer.scrub() is True
    assert writer.status(ann)["scrub_pending"] is False
    assert copies(writer, SECRET) == 0


@pytest.mark.parametrize("again", ["open", "forget"])
def test_a_scrub_that_finds_the_file_locked_is_made_up_for(open_ledger, ann, say, again, monkeypatch):
    writer, other = open_ledger(busy_timeout_ms=50), open_ledger()
    said, more = say(writer, ann, SECRET), say(writer, ann, "something else")
    raw, scrub = other._connection.raw, writer.scrub

    def taken_meanwhile() -> bool:
        raw.execute("BEGIN IMMEDIATE")
        return scrub()

    monkeypatch.setattr(writer, "scrub", taken_meanwhile)
    assert writer.forget(ann, [said.id])["events"] == 1
    assert scrub() is False
    assert writer.status(ann)["scrub_pending"] is True
    assert open_ledger(busy_timeout_ms=50).status(ann)["scrub_pending"] is True
    raw.execute("COMMIT")
    monkeypatch.undo()
    if again == "open":
        writer.close()
        writer = open_ledger()
    else:
        writer.forget(ann, [more.id])
    assert writer.status(ann)["scrub_pending"] is False
    assert copies(writer, SECRET) == 0


def test_what_was_superseded_only_by_it_is_current_again(ledger, ann, say, remember):
    rome = say(ledger, ann, "I live in Rome.")
    original = remember(ledger, rome, "rome")
    oslo = say(ledger, ann, "I moved to Oslo.")
    remember(ledger, oslo, "oslo")
    ledger.supersede(ann, "rome", "oslo", oslo.when)
    plan = ledger.forget_plan(ann, [oslo.id])
    assert (plan.memory_ids, plan.restored_ids) == (("oslo",), ("rome",))
    ledger.forget(ann, [oslo.id])
    assert ledger.memory(ann, "rome") == original
    assert ledger.memories(ann) == [original]
    assert ledger.edges(ann, kind="supersedes") == []


def test_a_chain_is_closed_over_the_gap(ledger, ann, say, remember):
    said = [say(ledger, ann, f"I live in {city}.") for city in ("Rome", "Oslo", "Bern")]
    for event, id in zip(said, ("rome", "oslo", "bern"), strict=True):
        remember(ledger, event, id)
    ledger.supersede(ann, "rome", "oslo", said[1].when)
    ledger.supersede(ann, "oslo", "bern", said[2].when)
    assert ledger.forget_plan(ann, [said[1].id]).restored_ids == ()
    ledger.forget(ann, [said[1].id])
    rome, bern = ledger.history(ann, "home_city")
    assert (rome.superseded_by, rome.status, rome.valid_to) == ("bern", "superseded", bern.valid_from)
    assert rome.believed_to == bern.believed_from
    assert bern.supersedes == "rome"
    assert [(edge.src, edge.dst) for edge in ledger.edges(ann, kind="supersedes")] == [("bern", "rome")]


def test_versions_that_list_it_leave_too(ledger, ann, say, remember):
    one, two = say(ledger, ann, "one"), say(ledger, ann, "two")
    remember(ledger, one, "m1")
    remember(ledger, two, "m2")
    ledger.add_updates(ann, [update(ann, "u1", "m1", one.id), update(ann, "u2", "m2", two.id)])
    for item in (
        version(ann, "v0", None),
        version(ann, "v1", "v0", "u1"),
        version(ann, "v2", "v1", "u1", "u2"),
    ):
        ledger.commit_version(ann, item)
    ledger.commit_version(ann, version(ann, "v3", "v2", "u2"))
    plan = ledger.forget_plan(ann, [one.id])
    assert (plan.update_ids, plan.version_ids) == (("u1",), ("v1", "v2"))
    ledger.forget(ann, [one.id])
    assert [(item.id, item.parent) for item in ledger.versions(ann)] == [("v0", None), ("v3", "v0")]
    assert [item.id for item in ledger.updates(ann)] == ["u2"]


def test_an_update_of_two_events_goes_with_either(ledger, ann, say, remember):
    one, two = say(ledger, ann, "one"), say(ledger, ann, "two")
    remember(ledger, one, "m1")
    ledger.add_updates(ann, [update(ann, "u1", "m1", one.id, two.id)])
    ledger.forget(ann, [two.id])
    assert ledger.updates(ann) == []
    assert ledger.memory(ann, "m1").status == "active"


def test_another_source_is_learned_anew(ledger, ann, say, remember):
    one, two = say(ledger, ann, "I live in Rome."), say(ledger, ann, "Yes, in Rome.")
    remember(ledger, one, "m1")
    ledger.add_edge(ann, "m1", two.id, "derived_from")
    ledger.done([work.id for work in ledger.pending(ann)])
    assert ledger.forget_plan(ann, [one.id]).requeued_event_ids == (two.id,)
    ledger.forget(ann, [one.id])
    assert [work.event_id for work in ledger.pending(ann)] == [two.id]
    assert ledger.memories(ann) == []


def test_forgetting_what_is_not_there_is_nothing(ledger, ann):
    assert sum(ledger.forget(ann, ["nope"]).values()) == 0
    assert sum(ledger.forget(ann, []).values()) == 0


def test_a_number_is_never_used_twice(ledger, ann, say):
    say(ledger, ann, "one")
    last = say(ledger, ann, "two")
    ledger.forget(ann, [last.id])
    assert say(ledger, ann, "three").seq == 3
