"""What is written is read back, whole and in order."""

import threading
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from nestmem.errors import InputError, LedgerError
from nestmem.store import Ledger, NewEvent, Receipt, Scope, WeightUpdate, WeightVersion

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def test_events_come_back_as_written(ledger, ann):
    new = NewEvent(
        role="user",
        content="Grüße 犬 \x00 end",
        occurred_at=datetime(2026, 3, 2, 14, tzinfo=timezone(timedelta(hours=2))),
        source="import",
        name="Ann",
        meta={"n": [1, 2]},
    )
    [stored] = ledger.append(Scope(user="ann", session="s1"), [new])
    assert ledger.event(ann, stored.id) == stored
    assert stored.occurred_at == NOON
    assert stored.scope == Scope(user="ann", session="s1")
    assert (stored.seq, stored.speaker, stored.meta, stored.content) == (1, "Ann", {"n": [1, 2]}, new.content)


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ({"idempotency_key": ["a"]}, "idempotency_key"),
        ({"idempotency_key": 3}, "idempotency_key"),
        ({"at": NOON}, "JSON"),
        ({"tags": {"a"}}, "JSON"),
        ({"score": float("nan")}, "JSON"),
        ({"said": "\ud800"}, "lone surrogate"),
        ({"in": {1: "a", "b": 2}}, "JSON"),
        ({3: "x"}, "key of meta"),
        (["x"], "expected a dict"),
    ],
)
def test_meta_that_cannot_be_stored_is_refused(ledger, ann, meta, says):
    with pytest.raises(InputError, match=says):
        ledger.append(ann, [NewEvent(role="user", content="hi", meta=meta)])
    assert ledger.count(ann) == 0


@pytest.mark.parametrize("field", ["content", "role", "name", "id", "session"])
def test_a_lone_surrogate_is_refused_everywhere(field):
    with pytest.raises(InputError, match="lone surrogate"):
        NewEvent(**{"role": "user", "content": "hi", field: "bad \ud800"})


def test_a_nested_write_that_fails_is_undone_when_the_error_is_caught(ledger, ann, say, remember):
    def forget_and_fail() -> None:
        with ledger.transaction():
            ledger.forget(ann, [kept.id])
            raise RuntimeError

    with ledger.transaction():
        kept = say(ledger, ann, "My dog is called Biscuit.")
        with pytest.raises(InputError, match="span"):
            remember(ledger, kept, "bad", span=(0, 999))
        remember(ledger, kept, "good")
        with pytest.raises(RuntimeError):
            forget_and_fail()
        with pytest.raises(InputError, match="not both"):
            ledger.supersede(ann, "good", "none", NOON)
        say(ledger, ann, "I live in Rome.")
    assert [event.content for event in ledger.events(ann)] == ["My dog is called Biscuit.", "I live in Rome."]
    assert [(m.id, m.status) for m in ledger.memories(ann, active_only=False)] == [("good", "active")]
    assert len(ledger.postings(ann, ["biscuit"])[0]) >= 1
    assert ledger.status(ann)["scrub_pending"] is False
    assert ledger.check() == []


def test_events_survive_the_process(open_ledger, ann, say):
    first = open_ledger()
    said = say(first, ann, "My dog is called Biscuit.")
    first.close()
    assert open_ledger().events(ann) == [said]
    with pytest.raises(LedgerError, match="closed"):
        first.events(ann)


def test_events_are_filtered(ledger, ann, say):
    old = say(ledger, ann, "one", occurred_at=NOON, session="a")
    new = say(ledger, ann, "two", occurred_at=NOON + timedelta(days=1), session="b")
    assert ledger.events(ann, session="a") == ledger.events(Scope(user="ann", session="a")) == [old]
    assert (
        ledger.events(ann, after_seq=1)
        == ledger.events(ann, last=1)
        == ledger.events(ann, ids=[new.id])
        == [new]
    )
    assert ledger.events(ann, until=NOON) == ledger.events(ann, recorded_until=old.recorded_at) == [old]
    assert ledger.count(ann) == 2
    assert ledger.count(Scope(user="ann", session="b")) == 1
    assert ledger.sessions(ann) == ["a", "b"]


def test_many_ids_are_asked_in_chunks(ledger, ann):
    stored = ledger.append(ann, [NewEvent(role="user", content=f"note {n}") for n in range(1201)])
    assert ledger.events(ann, ids=[event.id for event in reversed(stored)]) == stored


def test_the_same_message_twice_is_stored_once(ledger, ann, say):
    first = say(ledger, ann, "pay 5 euros", meta={"idempotency_key": "k1"})
    assert say(ledger, ann, "pay 5 euros", meta={"idempotency_key": "k1"}) == first
    assert say(ledger, Scope(user="bob"), "pay 5 euros", meta={"idempotency_key": "k1"}) != first
    assert ledger.append(ann, [NewEvent(role="user", content="again", id=first.id)]) == [first]
    assert ledger.count(ann) == 1
    assert len(ledger.pending(ann)) == 1


def test_a_failed_transaction_leaves_nothing(ledger, ann, say):
    say(ledger, ann, "kept")

    def fail() -> None:
        with ledger.transaction():
            say(ledger, ann, "lost zebra")
            assert len(ledger.postings(ann, ["zebra"])[0]) == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [event.content for event in ledger.events(ann)] == ["kept"]
    say(ledger, ann, "kept too")
    assert len(ledger.postings(ann, ["zebra"])[0]) == 0
    assert len(ledger.passages(ann)) == 2


def test_nested_transactions_are_one(ledger, ann, say):
    def fail() -> None:
        with ledger.transaction():
            with ledger.transaction():
                say(ledger, ann, "inner")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert ledger.count(ann) == 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: NewEvent(role="user", content="broken \ud800"),
        lambda: NewEvent(role="user", content=b"bytes"),  # type: ignore[arg-type]
        lambda: NewEvent(role="", content="x"),
        lambda: NewEvent(role="user", content="x", source="rumour"),
        lambda: Scope(user=""),
        lambda: Scope(user="x" * 257),
        lambda: Scope(tenant=None),  # type: ignore[arg-type]
        lambda: Scope(session=""),
    ],
)
def test_bad_values_are_refused(build):
    with pytest.raises(InputError):
        build()


def test_unknown_ids_are_refused(ledger, ann, say):
    said = say(ledger, ann, "hello")
    with pytest.raises(InputError, match="forgotten"):
        ledger.event(ann, "nope")
    with pytest.raises(InputError, match="forgotten"):
        ledger.memory(ann, "nope")
    with pytest.raises(InputError, match="not both"):
        ledger.supersede(ann, "a", "b", said.recorded_at)


def test_memories_must_rest_on_their_event(ledger, ann, say, remember):
    said = say(ledger, ann, "I live in Rome.")
    with pytest.raises(InputError, match="span"):
        remember(ledger, said, "m1", span=(0, 99))
    with pytest.raises(InputError, match="names event"):
        remember(ledger, said, "m1", event_id="nope")
    record = remember(ledger, said, "m1")
    assert ledger.memory(ann, "m1") == record
    assert [(edge.src, edge.dst) for edge in ledger.edges(ann, kind="derived_from")] == [("m1", said.id)]
    assert ledger.memories(Scope(user="ann", session="other")) == []


def test_what_was_believed_and_what_was_true(ledger, ann, say, remember):
    """Rome until June 10, which we were told on January 1 (ledger time) two minutes after the start."""
    rome = say(ledger, ann, "I live in Rome.", occurred_at=datetime(2025, 1, 1, tzinfo=UTC))
    remember(ledger, rome, "rome")
    oslo = say(ledger, ann, "I moved to Oslo.", occurred_at=datetime(2025, 6, 10, tzinfo=UTC))
    remember(ledger, oslo, "oslo")
    ledger.supersede(ann, "rome", "oslo", oslo.when)
    ended = ledger.memory(ann, "rome").believed_to
    assert ended is not None

    def ids(**when):
        return [record.id for record in ledger.memories(ann, **when)]

    may, july = datetime(2025, 5, 1, tzinfo=UTC), datetime(2025, 7, 1, tzinfo=UTC)
    assert ids() == ["oslo"]
    assert ids(active_only=False) == ["rome", "oslo"]
    assert ids(at=may) == ["rome"]
    assert ids(at=july) == ["oslo"]
    assert ids(at=oslo.when) == ["oslo"]
    assert ids(as_of=rome.recorded_at) == ["rome"]
    assert ids(as_of=ended) == ["oslo"]
    assert ids(as_of=rome.recorded_at, at=july) == ["rome"]
    assert ids(as_of=rome.recorded_at - timedelta(seconds=1)) == []
    assert ids(at=datetime(2024, 1, 1, tzinfo=UTC)) == []
    assert [record.id for record in ledger.history(ann, "home_city")] == ["rome", "oslo"]
    assert ledger.memory(ann, "oslo").supersedes == "rome"
    assert ledger.memory(ann, "rome").superseded_by == "oslo"


def test_a_correction_was_never_true(ledger, ann, say, remember):
    said = say(ledger, ann, "I live in Rome.", occurred_at=NOON)
    wrong = remember(ledger, said, "wrong")
    remember(ledger, say(ledger, ann, "I meant Oslo.", occurred_at=NOON), "right")
    ledger.supersede(ann, "wrong", "right", wrong.valid_from)
    assert [record.id for record in ledger.memories(ann, at=NOON)] == ["right"]


def test_work_is_retried_until_done(ledger, ann, say):
    say(ledger, ann, "one", session="a")
    say(ledger, Scope(user="bob"), "two")
    [mine] = ledger.pending(ann)
    assert mine.scope == Scope(user="ann", session="a")
    ledger.failed(mine.id, "the model is down")
    [again] = ledger.pending(ann)
    assert (again.state, again.attempts, again.last_error) == ("failed", 1, "the model is down")
    assert ledger.status(ann)["errors"] == ["the model is down"]
    ledger.done([again.id])
    assert ledger.pending(ann) == []
    assert len(ledger.pending()) == 1
    assert ledger.pending(Scope(user="ann", session="b")) == []


def test_weights_are_kept_with_their_sources(ledger, ann, say, remember):
    said = say(ledger, ann, "I live in Rome.")
    remember(ledger, said, "m1")
    update = WeightUpdate(
        id="u1",
        scope=ann,
        memory_id="m1",
        event_ids=(said.id,),
        level="fast",
        payload=b"\x00\x01",
        digest="d",
        learner="l",
        examples=[{"prompt": "Where do I live?", "completion": "Rome"}],
        created_at=NOON,
    )
    first = WeightVersion(
        id="v1",
        scope=ann,
        parent=None,
        update_ids=("u1",),
        digest="d",
        learner="l",
        reason="learn",
        created_at=NOON,
    )
    with ledger.transaction():
        ledger.add_updates(ann, [update])
        ledger.commit_version(ann, first)
    assert (
        ledger.updates(ann)
        == ledger.updates(ann, ids=["u1"])
        == ledger.updates(ann, memory_ids=["m1"])
        == [update]
    )
    assert ledger.head(ann) == first
    assert ledger.head(Scope(user="bob")) is None
    ledger.move_updates(ann, ["u1"], "slow")
    assert ledger.updates(ann)[0].level == "slow"
    with pytest.raises(InputError, match="glacial"):
        ledger.move_updates(ann, ["u1"], "glacial")
    assert ledger.delete_updates(Scope(user="bob"), ["u1"]) == 0
    assert ledger.delete_updates(ann, ["u1"]) == 1
    assert ledger.updates(ann) == []


def test_receipts_come_back_as_written(ledger, ann):
    receipt = Receipt(
        id="r1",
        scope=ann,
        selector={"events": ["e1"]},
        removed={"events": 1},
        event_ids=("e1",),
        digest_before="a",
        digest_after="b",
        replayed=0,
        created_at=NOON,
        environment={"torch": "2.13.0"},
    )
    ledger.add_receipt(ann, receipt)
    assert ledger.receipts(ann) == [receipt]


def test_vectors_are_kept_per_model_and_dimension(ledger, ann, say):
    say(ledger, ann, "first")
    assert [text for _, text in ledger.missing_vectors(ann, "m", 2)] == ["first"]
    [(owner, _)] = ledger.missing_vectors(ann, "m", 2)
    ledger.add_vectors(ann, [owner], "m", np.array([[0.6, 0.8]], np.float32))
    assert ledger.missing_vectors(ann, "m", 2) == []
    assert len(ledger.missing_vectors(ann, "m", 3)) == len(ledger.missing_vectors(ann, "other", 2)) == 1
    say(ledger, ann, "second")
    [(other, _)] = ledger.missing_vectors(ann, "m", 2)
    positions, matrix = ledger.vectors(ann, "m", 2)
    assert (positions.tolist(), matrix.tolist()) == ([0], [[np.float32(0.6), np.float32(0.8)]])
    ledger.add_vectors(ann, [other], "m", np.array([[1, 0]], np.float32))
    positions, matrix = ledger.vectors(ann, "m", 2)
    assert positions.tolist() == [0, 1]
    assert matrix[1].tolist() == [1, 0]
    with pytest.raises(InputError, match="shape"):
        ledger.add_vectors(ann, [owner], "m", np.zeros((2, 2), np.float32))
    assert ledger.status(ann)["vectors"] == {"m/2": 2}


def test_a_reader_sees_what_another_connection_wrote(open_ledger, ann, say):
    one, two = open_ledger(), open_ledger()
    say(one, ann, "alpha")
    assert len(two.passages(ann)) == 1
    said = say(one, ann, "beta")
    assert [len(found) for found in two.postings(ann, ["alpha", "beta"])] == [1, 1]
    one.forget(ann, [said.id])
    assert [len(found) for found in two.postings(ann, ["alpha", "beta"])] == [1, 0]


def test_words_are_stemmed_and_unspaced_scripts_are_cut(ledger, ann, say):
    say(ledger, ann, "She was painting sunsets")
    say(ledger, ann, "我的狗叫饼干")
    assert [found.tolist() for found in ledger.postings(ann, ["paint", "sunset", "狗", "x"])] == [
        [0],
        [0],
        [1],
        [],
    ]


def test_a_long_message_is_cut_into_passages(ledger, ann, say):
    text = "".join(f"Sentence number {n} says something. " for n in range(200))
    said = say(ledger, ann, text)
    table = ledger.passages(ann)
    spans = list(zip(table.start.tolist(), table.end.tolist(), strict=True))
    assert "".join(text[start:end] for start, end in spans) == text
    assert max(end - start for start, end in spans) <= 800
    assert set(table.seq.tolist()) == {said.seq}
    [hit] = ledger.postings(ann, ["150"])[0]
    passage = ledger.passage_texts(ann, [int(table.ids[hit])])
    assert "number 150 says" in next(iter(passage.values()))


def test_threads_share_a_ledger(ledger, ann):
    def write(number: int) -> None:
        for step in range(20):
            ledger.append(ann, [NewEvent(role="user", content=f"thread {number} step {step}")])
            ledger.passages(ann)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.seq for event in ledger.events(ann)] == list(range(1, 81))


def test_rebuild_gives_the_same(ledger, ann, say, remember):
    bob = Scope(user="bob")
    rome = say(ledger, ann, "I live in Rome.")
    remember(ledger, rome, "rome")
    oslo = say(ledger, ann, "I moved to Oslo.")
    remember(ledger, oslo, "oslo")
    ledger.supersede(ann, "rome", "oslo", oslo.when)
    say(ledger, bob, "Rome is where I was born.")

    def view(scope: Scope) -> tuple:
        table = ledger.passages(scope)
        return (
            [found.tolist() for found in ledger.postings(scope, ["rome", "live", "oslo"])],
            list(zip(table.seq.tolist(), table.start.tolist(), table.end.tolist(), strict=True)),
            ledger.edges(scope),
        )

    def order(scope: Scope) -> tuple:
        hits, spans, edges = view(scope)
        return sorted(tuple(spans[hit] for hit in found) for found in hits), sorted(spans), edges

    before = [order(ann), order(bob)]
    assert ledger.rebuild(ann) == {"events": 2, "memories": 2, "edges": 3}
    assert [order(ann), order(bob)] == before
    assert ledger.rebuild() == {"events": 3, "memories": 2, "edges": 3}
    assert [order(ann), order(bob)] == before
    assert ledger.check() == []


def test_status_counts(ledger, ann, say, remember):
    said = say(ledger, ann, "I live in Rome.")
    remember(ledger, said, "m1")
    status = ledger.status(ann)
    assert (status["events"], status["memories"], status["passages"], status["pending"]) == (1, 1, 2, 1)
    assert status["bytes"] > 0
    assert status["scrub_pending"] is False
    assert Ledger().bytes_on_disk() > 0
