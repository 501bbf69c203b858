"""What is used stays near; what is unused needs more of a cue and is never lost."""

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestmem.agent import strength
from nestmem.agent.recall import Weights, recall
from nestmem.store import Event, Ledger, MemoryRecord, NewEvent, Scope, Use

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ANN = Scope(user="ann")
USUAL, PLAIN = Weights(), Weights(strength=0.0)


@pytest.fixture
def ledger():
    with Ledger(clock=lambda: START) as opened:
        yield opened


def tell(ledger: Ledger, text: str, id: str, at: datetime, question: str | None = None) -> Event:
    """An event in a session of its own, and a memory that is the whole of it."""
    [event] = ledger.append(ANN, [NewEvent(role="user", content=text, session=id, occurred_at=at)])
    record = MemoryRecord(
        id=id,
        scope=ANN,
        key=id,
        text=text,
        question=question or text,
        answer="yes",
        kind="fact",
        event_id=event.id,
        span=(0, len(text)),
        valid_from=at,
        believed_from=at,
        extractor="test",
    )
    ledger.add_memories(ANN, [record])
    return event


def use(ledger: Ledger, memory_id: str, times: int, last: datetime) -> None:
    for _ in range(times):
        ledger.note_use(ANN, [memory_id], last)


def ranked(ledger: Ledger, query: str, weights: Weights = USUAL, budget: int = 10_000) -> list[str]:
    """Ids of the recalled events, best first; of two with one score the later."""
    items = recall(ledger, None, ANN, query, budget_tokens=budget, weights=weights).items
    places = sorted(range(len(items)), key=lambda place: (-items[place].score, -place))
    return [items[place].id for place in places]


# Activation


def exact(ages_days: list[float]) -> float:
    """The sum that ACT-R writes, over the times of all presentations."""
    return float(np.log(sum(age**-0.5 for age in ages_days)))


def activation(told: float, last: float, uses: int) -> float:
    return float(strength.activation(np.array([told]), np.array([last]), np.array([uses]))[0])


@settings(max_examples=50, deadline=None)
@given(told=st.floats(0.05, 5000), share=st.floats(0.0, 1.0))
def test_up_to_one_use_it_lies_within_the_exact_sum_and_that_of_even_spread(told, share):
    last = max(told * share, strength.MIN_AGE_DAYS)
    assert activation(told, last, 0) == pytest.approx(exact([told]))
    # The telling itself is put in the middle of the time since, a bound of a factor 2.
    assert exact([told, last]) - 1e-9 <= activation(told, last, 1) <= exact([told, last]) + np.log(2)


@pytest.mark.parametrize(("told", "last", "uses"), [(400, 3, 20), (30, 0.1, 100), (1000, 500, 40)])
def test_many_even_uses_come_near_the_exact_sum(told, last, uses):
    ages = np.linspace(last, told, uses + 1).tolist()
    assert activation(told, last, uses) == pytest.approx(exact(ages), abs=0.1)


def test_the_power_law_of_recency_and_frequency():
    """Half the log odds per log time, and ln 2 for twice as many uses."""
    ages = np.array([1.0, 10.0, 100.0, 1000.0])
    falls = np.diff(strength.activation(ages, ages, np.full(4, 7)))
    assert falls == pytest.approx(-0.5 * np.log(10))
    counts = np.array([999, 1999])
    [grows] = np.diff(strength.activation(np.full(2, 100.0), np.full(2, 100.0), counts))
    assert grows == pytest.approx(np.log(2))


@settings(max_examples=50, deadline=None)
@given(
    told=st.floats(-10, 1e5),
    last=st.floats(-10, 1e5),
    uses=st.integers(1, 10**6),
    more=st.integers(1, 100),
    later=st.floats(0.01, 1e4),
)
def test_it_is_finite_grows_with_uses_and_fades_with_time(told, last, uses, more, later):
    now = activation(told, last, uses)
    assert np.isfinite(now)
    assert activation(told, last, uses + more) > now
    assert activation(told + later, last + later, uses) <= now
    near = float(strength.nearness(np.array([now]))[0])
    assert 0.0 <= near <= 1.0


# Strengths and their order


def records(*days_ago: int) -> list[MemoryRecord]:
    return [
        MemoryRecord(
            id=f"m{number}",
            scope=ANN,
            key="k",
            text="t",
            kind="fact",
            event_id="e",
            span=(0, 1),
            valid_from=START - DAY * days,
            believed_from=START,
            extractor="test",
        )
        for number, days in enumerate(days_ago)
    ]


def test_strengths_are_given_for_every_memory():
    found = strength.strengths(
        records(1, 1, 365),
        {"m1": Use(uses=9, last_used=START - DAY), "other": Use(uses=5, last_used=START)},
        START,
    )
    assert found == pytest.approx({"m0": 0.0, "m1": np.log(10), "m2": -0.5 * np.log(365)})
    assert strength.strengths([], {}, START) == {}


def test_the_strongest_comes_first_and_the_weakest_leaves_first():
    memories = records(400, 400, 2, 30, 400, 400)
    uses = {"m0": Use(uses=50, last_used=START - DAY), "m4": Use(uses=50, last_used=START - DAY * 300)}
    assert strength.order(memories, uses, START) == ["m0", "m4", "m2", "m3", "m5", "m1"]
    assert strength.order(reversed(memories), uses, START) == strength.order(memories, uses, START)
    assert strength.order(memories, {}, START) == ["m2", "m3", "m5", "m4", "m1", "m0"]


def test_the_zone_of_now_does_not_matter():
    naive = START.replace(tzinfo=None)
    assert strength.order(records(3, 1), {}, naive) == strength.order(records(3, 1), {}, START)
    assert strength.strengths(records(3), {}, naive) == strength.strengths(records(3), {}, START)


# In recall


def test_of_two_that_fit_as_well_the_used_one_comes_first(ledger):
    rex = tell(ledger, "Tina keeps a parrot in the kitchen.", "a", START)
    later = tell(ledger, "Vera keeps a parrot in the garden.", "b", START + DAY)
    assert ranked(ledger, "Which parrot?")[0] == later.id
    use(ledger, "a", 5, START + DAY)
    assert ranked(ledger, "Which parrot?")[0] == rex.id
    assert ranked(ledger, "Which parrot?", PLAIN)[0] == later.id


def test_a_use_fades(ledger):
    old = tell(ledger, "Tina keeps a parrot in the kitchen.", "a", START - DAY * 4000)
    tell(ledger, "Vera keeps a parrot in the garden.", "b", START - DAY * 3999)
    use(ledger, "a", 1, START - DAY * 3990)
    tell(ledger, "The weather is fine.", "c", START)
    assert ranked(ledger, "Which parrot?") == ranked(ledger, "Which parrot?", PLAIN)
    use(ledger, "a", 1, START)
    assert ranked(ledger, "Which parrot?")[0] == old.id


def test_strength_is_no_cue(ledger):
    parrot = tell(ledger, "Vera keeps a parrot.", "a", START)
    tell(ledger, "Rain again today, the third day running.", "b", START)
    use(ledger, "b", 1000, START)
    items = recall(ledger, None, ANN, "Which parrot?", explain=True).items
    assert max(items, key=lambda item: item.score).id == parrot.id
    assert [item.score for item in items if item.id != parrot.id] == [0.0]


def test_what_no_longer_holds_is_not_raised(ledger):
    rome = tell(ledger, "My parrot lives in Rome.", "a", START)
    oslo = tell(ledger, "My parrot lives in Oslo.", "b", START + DAY)
    ledger.supersede(ANN, "a", "b", oslo.when)
    use(ledger, "a", 1000, START + DAY)
    assert ranked(ledger, "parrot") == ranked(ledger, "parrot", PLAIN) == [oslo.id, rome.id]


def test_a_look_into_the_past_leaves_strength_out(ledger):
    tell(ledger, "Tina keeps a parrot in the kitchen.", "a", START)
    tell(ledger, "Vera keeps a parrot in the garden.", "b", START + DAY)
    tell(ledger, "I have a cold.", "c", START + DAY * 9)
    use(ledger, "a", 50, START + DAY * 9)
    for at, as_of in ((START + DAY * 5, None), (None, START + DAY * 5)):
        with_uses = recall(ledger, None, ANN, "Which parrot?", at=at, as_of=as_of)
        assert with_uses == recall(ledger, None, ANN, "Which parrot?", at=at, as_of=as_of, weights=PLAIN)


def test_the_trace_shows_strength_only_where_there_is_some(ledger):
    tell(ledger, "Tina keeps a parrot.", "a", START)
    before = recall(ledger, None, ANN, "parrot", explain=True).trace
    use(ledger, "a", 9, START)
    after = recall(ledger, None, ANN, "parrot", explain=True).trace
    assert before is not None
    assert after is not None
    assert "strength" not in before["best"][0]
    assert after["best"][0]["strength"] == 1.0


WORDS = ["parrot", "kitchen", "harbour", "violin", "market", "ladder", "winter", "copper", "tunnel", "candle"]
histories = st.lists(
    st.tuples(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=7),
        st.integers(0, 2000),
        st.integers(0, 30),
        st.integers(0, 2000),
    ),
    min_size=1,
    max_size=15,
)


@settings(max_examples=60, deadline=None)
@given(histories, st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))
def test_without_a_use_the_ranking_is_that_without_strength(history, query):
    with Ledger(clock=lambda: START) as ledger:
        for number, (words, told, _, _) in enumerate(history):
            tell(ledger, " ".join(words), f"m{number}", START - DAY * told)
        question, budget = " ".join(query), 40
        assert recall(ledger, None, ANN, question, budget_tokens=budget) == recall(
            ledger, None, ANN, question, budget_tokens=budget, weights=PLAIN
        )


@settings(max_examples=100, deadline=None)
@given(histories, st.sets(st.sampled_from(WORDS), min_size=1, max_size=5), st.floats(0.0, 100.0))
def test_an_unused_memory_is_always_found_by_its_words(history, cue, weight):
    """The oldest and never used one is asked for by all of its words. No other holds them all; those that hold some
    may have been used a moment ago and strength may count as much as one likes."""
    others = [entry for entry in history if not cue <= set(entry[0])]
    with Ledger(clock=lambda: START) as ledger:
        old = tell(ledger, " ".join(sorted(cue)), "old", START - DAY * 9000)
        for number, (words, told, uses, last) in enumerate(others):
            tell(ledger, " ".join(words), f"m{number}", START - DAY * told)
            use(ledger, f"m{number}", uses, START - DAY * min(told, last))
        question = " ".join(sorted(cue))
        before = ranked(ledger, question, PLAIN).index(old.id)
        assert ranked(ledger, question, Weights(strength=weight)).index(old.id) <= before
        if before == 0:
            # A budget for one passage and the line with its date.
            items = recall(
                ledger, None, ANN, question, budget_tokens=17, weights=Weights(strength=weight)
            ).items
            assert old.id in [item.id for item in items]


def test_an_unused_memory_is_first_for_its_own_words_among_many_used_ones(ledger):
    words = itertools.cycle(WORDS)
    old = tell(ledger, "The password of the boat is walrus.", "old", START - DAY * 3000)
    for number in range(60):
        text = f"The boat of {next(words)} and its {next(words)} has number {number}."
        tell(ledger, text, f"m{number}", START - DAY * number)
        use(ledger, f"m{number}", 30, START)
    assert ranked(ledger, "boat password walrus", budget=60)[0] == old.id
    assert ranked(ledger, "password boat", budget=60)[0] == old.id
    used = ranked(ledger, "Which boat has a number?", budget=60)
    assert old.id not in used


def test_forgetting_the_uses_is_part_of_forgetting(ledger):
    one = tell(ledger, "Tina keeps a parrot in the kitchen.", "a", START)
    tell(ledger, "Vera keeps a parrot in the garden.", "b", START + DAY)
    use(ledger, "a", 5, START)
    ledger.forget(ANN, [one.id])
    assert recall(ledger, None, ANN, "parrot") == recall(ledger, None, ANN, "parrot", weights=PLAIN)
