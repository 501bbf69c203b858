"""What recall promises: the right things first, within the budget, in order, as of a time."""

import itertools
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestmem.agent import answering, dates
from nestmem.agent.controller import Memory
from nestmem.agent.recall import count_tokens, embed_missing, recall
from nestmem.embedders import load
from nestmem.embedders.fakes import HashEmbedder
from nestmem.errors import EmbedderChanged, EmbedderError, InputError
from nestmem.store import Ledger, MemoryRecord, NewEvent, Scope, ranking

START = datetime(2026, 1, 1, tzinfo=UTC)
ANN = Scope(user="ann")
FILLER = "We talked about the weather, the traffic and nothing else of note that day"


class Counted:
    """A clock that moves a minute at each look."""

    def __init__(self) -> None:
        self._minutes = itertools.count()

    def __call__(self) -> datetime:
        return START + timedelta(minutes=next(self._minutes))


@pytest.fixture
def ledger():
    with Ledger(clock=Counted()) as opened:
        yield opened


def tell(ledger, *lines, scope=ANN, session="s1", at=None, role="user", name=None):
    new = [NewEvent(role=role, content=line, session=session, occurred_at=at, name=name) for line in lines]
    return ledger.append(scope, new)


def long_history(ledger, *needles, sessions=20):
    """Each needle in a session of its own among filler."""
    told = []
    for number in range(sessions):
        at = START + timedelta(days=number)
        lines = [f"{FILLER}, number {number} {n}." for n in range(10)]
        if number < len(needles):
            lines[5] = needles[number]
        told.append(tell(ledger, *lines, session=f"s{number}", at=at)[5])
    return told


def ids(context):
    return [item.id for item in context.items]


def test_a_small_history_comes_whole_and_in_order(ledger):
    late = tell(ledger, "Then I moved to Oslo.", session="b", at=START + timedelta(days=3))
    early = tell(ledger, "I live in Rome.", "It rains.", session="a", at=START)
    context = recall(ledger, None, ANN, "anything")
    assert context.whole
    assert ids(context) == [event.id for event in (*early, *late)]
    assert context.text == (
        "[2026-01-01]\nuser: I live in Rome.\nuser: It rains.\n[2026-01-04]\nuser: Then I moved to Oslo."
    )
    assert context.tokens == count_tokens(context.text)


def test_nothing_is_recalled_from_nothing(ledger):
    context = recall(ledger, None, ANN, "Where do I live?", explain=True)
    assert (context.text, context.items, context.tokens, context.whole) == ("", [], 0, True)


@pytest.mark.parametrize("budget", [1, 7, 60, 200, 777, 3000])
def test_the_budget_is_kept(ledger, budget):
    long_history(ledger, "My dog is called Biscuit.")
    context = recall(ledger, None, ANN, "What is my dog called?", budget_tokens=budget)
    assert context.tokens <= budget
    assert context.tokens == count_tokens(context.text)
    assert not context.whole


@pytest.mark.parametrize("embedder", [None, HashEmbedder()])
def test_the_needle_is_found(ledger, embedder):
    told = long_history(
        ledger, "My dog is called Biscuit.", "My sister Mia paints.", "I am allergic to nuts."
    )
    for question, event in (
        ("What is my dog called?", told[0]),
        ("Is Mia painting?", told[1]),
        ("Which nuts am I allergic to?", told[2]),
    ):
        context = recall(ledger, embedder, ANN, question, budget_tokens=100)
        assert max(context.items, key=lambda item: item.score).id == event.id


def test_neighbours_come_with_a_hit(ledger):
    long_history(ledger, "Do you remember the name of the Patagonian penguin?")
    around = {event.id for event in ledger.events(ANN, session="s0")[3:8]}
    context = recall(ledger, None, ANN, "Patagonian penguin", budget_tokens=60)
    assert len(context.items) > 1
    assert set(ids(context)) <= around


def test_the_named_speaker_comes_first(ledger):
    both = "I bought a bicycle in the market."
    for number in range(30):
        tell(ledger, f"{FILLER} {number}.", name="Mia", session="f", at=START)
    mia = tell(ledger, both, name="Mia", session="a", at=START)[0]
    tell(ledger, both, name="Tom", session="b", at=START)
    best = max(
        recall(ledger, None, ANN, "Which bicycle was bought by Mia?", budget_tokens=40).items,
        key=lambda i: i.score,
    )
    assert (best.id, best.speaker) == (mia.id, "Mia")


def test_the_named_day_comes_first(ledger):
    for month in range(1, 13):
        tell(
            ledger,
            *(f"I went to a concert of band {month} {n}. {FILLER}" for n in range(5)),
            session=f"m{month}",
            at=datetime(2025, month, 20, tzinfo=UTC),
        )
    context = recall(ledger, None, ANN, "Which concert did I go to in March 2025?", budget_tokens=100)
    assert {item.session for item in context.items} == {"m3"}


def test_only_the_session_of_the_scope_is_seen(ledger):
    tell(ledger, "I live in Rome.", session="a")
    tell(ledger, "I live in Oslo.", session="b")
    context = recall(ledger, None, Scope(user="ann", session="b"), "Where do I live?")
    assert [item.text for item in context.items] == ["I live in Oslo."]
    assert recall(ledger, None, Scope(user="ann", session="c"), "Where?").items == []
    assert recall(ledger, None, Scope(user="bob"), "Where do I live?").items == []


def told_of_a_move(ledger):
    rome = tell(ledger, "I live in Rome.", session="a", at=START - timedelta(days=100))[0]
    oslo = tell(ledger, "I moved to Oslo.", session="b", at=START - timedelta(days=50))[0]
    for id, event in (("rome", rome), ("oslo", oslo)):
        record = MemoryRecord(
            id=id,
            scope=ANN,
            key="home_city",
            text=event.content,
            question="In which town is my home?",
            answer=id,
            kind="fact",
            event_id=event.id,
            span=(0, len(event.content)),
            valid_from=event.when,
            believed_from=event.recorded_at,
            extractor="test",
        )
        ledger.add_memories(ANN, [record])
    ledger.supersede(ANN, "rome", "oslo", oslo.when)
    return rome, oslo


def test_what_no_longer_holds_is_marked(ledger):
    rome, oslo = told_of_a_move(ledger)
    old, new = recall(ledger, None, ANN, "Where do I live?").items
    assert (old.id, old.status, old.until) == (rome.id, "superseded", oslo.when)
    assert (new.id, new.status, new.memory_ids) == (oslo.id, "active", ("oslo",))
    assert "I live in Rome. (no longer true since 2025-11-12)" in recall(ledger, None, ANN, "Where?").text


def test_only_the_sentence_that_no_longer_holds_is_marked(ledger):
    memory = Memory(ledger, learner=None)
    memory.observe("My dog is called Biscuit. I live in Leeds. The gate squeaks.", ANN, occurred_at=START)
    memory.observe("I moved to York.", ANN, occurred_at=START + timedelta(days=2))
    memory.learn(ANN)
    context = recall(ledger, None, ANN, "Where do I live?")
    since = START + timedelta(days=2)
    assert (
        "user: My dog is called Biscuit. "
        f"I live in Leeds. (no longer true since {since:%Y-%m-%d}) The gate squeaks.\n"
    ) in context.text
    assert " ".join(context.items[0].holding.split()) == "My dog is called Biscuit. The gate squeaks."
    lines, _ = answering.quotable(context, ())
    assert "Leeds" not in " ".join(lines)
    answer = memory.answer("Does the gate squeak?", ANN, arm="text")
    assert "gate squeaks" in answer.text
    assert "Leeds" not in answer.text
    tight = recall(ledger, None, ANN, "Where do I live?", budget_tokens=context.tokens)
    assert tight.whole
    assert not recall(ledger, None, ANN, "Where do I live?", budget_tokens=context.tokens - 1).whole


def test_at_is_what_was_true_and_as_of_what_was_believed(ledger):
    rome, oslo = told_of_a_move(ledger)
    ended = ledger.memory(ANN, "rome").believed_to
    [then] = recall(ledger, None, ANN, "Where do I live?", at=START - timedelta(days=80)).items
    assert (then.id, then.status) == (rome.id, "active")
    [believed] = recall(ledger, None, ANN, "Where do I live?", as_of=rome.recorded_at).items
    assert (believed.id, believed.status) == (rome.id, "active")
    before = recall(ledger, None, ANN, "Where do I live?", as_of=ended - timedelta(seconds=1)).items
    assert [item.status for item in before] == ["active", "active"]
    assert [item.status for item in recall(ledger, None, ANN, "Where?", as_of=ended).items] == [
        "superseded",
        "active",
    ]
    assert oslo.id in ids(recall(ledger, None, ANN, "Where?", at=START))


def test_the_question_of_a_memory_finds_its_event(ledger):
    told_of_a_move(ledger)
    long_history(ledger)
    best = max(recall(ledger, None, ANN, "Which town?", budget_tokens=40).items, key=lambda item: item.score)
    assert best.text == "I moved to Oslo."


def test_a_piece_of_a_long_message_is_recalled(ledger):
    text = (
        "".join(f"{FILLER}, part {n}. " for n in range(100))
        + "The password of the boat is walrus. "
        + FILLER * 20
    )
    tell(ledger, text)
    context = recall(ledger, None, ANN, "boat password", budget_tokens=250)
    [item] = [item for item in context.items if "walrus" in item.text]
    assert text[slice(*item.span)] == item.text
    assert context.tokens <= 250


def test_a_trace_says_how(ledger):
    long_history(ledger, "My dog is called Biscuit.")
    trace = recall(ledger, None, ANN, "When was my dog called?", budget_tokens=100, explain=True).trace
    assert trace is not None
    assert trace["terms"] == ["dog", "called"]
    assert trace["asks_when"] is True
    assert trace["best"][0]["turn"] == 1.0
    assert recall(ledger, None, ANN, "dog").trace is None


def test_a_budget_must_be_positive(ledger):
    with pytest.raises(InputError, match="budget_tokens"):
        recall(ledger, None, ANN, "x", budget_tokens=0)


# Embedders


class Broken(HashEmbedder):
    """A server that has gone away."""

    def embed(self, texts):
        raise EmbedderError("http://localhost:1 did not give embeddings")


class Grown(HashEmbedder):
    """An embedder whose vectors have another length than it says."""

    def embed(self, texts):
        return np.concatenate([super().embed(texts)] * 2, axis=1)


def test_vectors_are_made_once(ledger):
    long_history(ledger, "My dog is called Biscuit.")
    embedder = HashEmbedder()
    assert embed_missing(ledger, embedder, ANN) == 200
    assert embed_missing(ledger, embedder, ANN) == 0
    tell(ledger, "one more")
    recall(ledger, embedder, ANN, "dog", budget_tokens=100)
    assert embed_missing(ledger, embedder, ANN) == 0


def test_another_embedder_or_dimension_is_no_error(ledger):
    long_history(ledger, "My dog is called Biscuit.")
    for embedder in (HashEmbedder(dim=16), HashEmbedder(dim=32), HashEmbedder(name="other", dim=16)):
        context = recall(ledger, embedder, ANN, "What is my dog called?", budget_tokens=60)
        assert any("Biscuit" in item.text for item in context.items)
        assert context.notes == ()
    assert ledger.status(ANN)["vectors"] == {"hash/16": 200, "hash/32": 200, "other/16": 200}


def test_an_embedder_that_is_down_is_said(ledger):
    long_history(ledger, "My dog is called Biscuit.")
    context = recall(ledger, Broken(), ANN, "What is my dog called?", budget_tokens=60)
    assert any("Biscuit" in item.text for item in context.items)
    assert "by words alone" in context.notes[0]


def test_an_embedder_that_lies_about_its_dimension_is_refused(ledger):
    long_history(ledger, "My dog is called Biscuit.")
    with pytest.raises(EmbedderChanged, match="dimension"):
        recall(ledger, Grown(), ANN, "dog", budget_tokens=60)


def test_a_read_only_ledger_is_recalled_with_the_vectors_it_has(tmp_path):
    with Ledger(tmp_path / "m.db", clock=Counted()) as writer:
        long_history(writer, "My dog is called Biscuit.")
    with Ledger(tmp_path / "m.db", read_only=True) as reader:
        context = recall(reader, HashEmbedder(), ANN, "What is my dog called?", budget_tokens=60)
    assert any("Biscuit" in item.text for item in context.items)
    assert "read-only" in context.notes[0]


def test_an_unknown_embedder_is_explained():
    assert load("none") is None
    with pytest.raises(EmbedderError, match="expected auto"):
        load("nowhere")
    with pytest.raises(EmbedderError, match="did not give embeddings"):
        load("http://127.0.0.1:9/v1")


def test_a_folder_without_a_model_is_explained(tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(EmbedderError, match=r"config\.json"):
        load(str(tmp_path))


# Dates and ranking


@pytest.mark.parametrize(
    ("question", "first", "last"),
    [
        ("on 2023-05-07", "2023-05-07", "2023-05-07"),
        ("on 7 May 2023", "2023-05-07", "2023-05-07"),
        ("on the 7th of May, 2023", "2023-05-07", "2023-05-07"),
        ("on May 7th, 2023", "2023-05-07", "2023-05-07"),
        ("in February 2023", "2023-02-01", "2023-02-28"),
        ("in 2022", "2022-01-01", "2022-12-31"),
        ("in march", "2024-03-01", "2024-03-31"),
        ("on 29 Feb", "2024-02-29", "2024-02-29"),
        ("last week", "2025-12-19", "2025-12-31"),
        ("yesterday", "2025-12-31", "2025-12-31"),
    ],
)
def test_dates_are_read(question, first, last):
    [found] = dates.find(f"What happened {question}?", START)
    assert (str(found.first), str(found.last)) == (first, last)


@pytest.mark.parametrize(
    "question", ["May I ask?", "Where do I live?", "on 2023-13-45", "room 2000b", "march on"]
)
def test_what_is_no_date_is_not_read(question):
    assert dates.find(question, START) == []


def test_a_month_without_a_year_fits_any_year():
    [march] = dates.find("in March")
    assert march.holds(date(2021, 3, 31))
    assert march.holds(date(2023, 4, 2), late_days=7)
    assert not march.holds(date(2023, 5, 2), late_days=7)
    [december] = dates.find("in December")
    assert december.holds(date(2024, 1, 3), late_days=7)


def test_a_rarer_word_counts_more_and_a_longer_text_less():
    hits = np.array([[1, 1, 1, 0], [0, 0, 1, 0]], dtype=np.float32)
    scores = ranking.bm25(hits, ranking.idf(hits), np.array([5.0, 50.0, 5.0, 5.0]))
    assert scores[2] > scores[0] > scores[1] > scores[3] == 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=12),
    st.text(max_size=40),
    st.integers(1, 80),
)
def test_any_text_is_recalled_within_the_budget(contents, query, budget):
    contents = [text.encode("utf-8", "replace").decode("utf-8") for text in contents]
    query = query.encode("utf-8", "replace").decode("utf-8")
    with Ledger(clock=Counted()) as ledger:
        tell(ledger, *contents)
        context = recall(ledger, None, ANN, query, budget_tokens=budget)
        assert context.tokens <= budget
        assert context.whole == (len(context.items) == len(contents))
        if context.whole:
            assert [item.text for item in context.items] == contents
