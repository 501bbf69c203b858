"""Laws of whole lives: forgetting equals never having been told, whatever was told in whatever order."""

from collections.abc import Set
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestmem.agent.controller import Memory
from nestmem.agent.fakes import EchoLearner, ReplayLearner
from nestmem.agent.guard import GuardSettings
from nestmem.store import Ledger, Scope

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
SAID = [
    "I live in Leeds.",
    "I moved to York.",
    "I no longer live in York, I live in Porto now.",
    "My dog is called Biscuit.",
    "We renamed the dog to Captain Fluff.",
    "My sister Anna works as a nurse.",
    "I'm allergic to peanuts.",
    "I'm not allergic to peanuts any more.",
    "My locker code is 4471.",
    "What should I cook tonight?",
    "The museum opens at nine.",
    "My favourite colour is teal.",
    "I'm allergic to peanuts and cats.",
]
CORRECTED = [*SAID, "Sorry, I meant Rook.", "Sorry, I meant Bergen."]

Told = tuple[int, int, int]
lives = st.lists(
    st.tuples(st.integers(0, len(SAID) - 1), st.integers(0, 3), st.integers(0, 60)), min_size=1, max_size=9
)


def live(told: list[Told], learner, *, learn_after: Set[int] = frozenset()) -> tuple[Memory, list[str]]:
    """A memory to which `told` was said: (sentence, session, hours after the start), one message each."""
    memory = Memory(Ledger(":memory:"), learner=learner, guard=GuardSettings(recall=0))
    ids = []
    for place, (said, session, hours) in enumerate(told):
        scope = Scope(user="ada", session=f"s{session}")
        ids += memory.observe(
            CORRECTED[said], scope, occurred_at=START + timedelta(hours=hours, minutes=place)
        )
        if place in learn_after:
            memory.learn("ada")
    memory.learn("ada")
    return memory, ids


def digest(memory: Memory) -> str:
    assert memory.learner is not None
    state, _ = memory._weights(Scope(user="ada"))
    return memory.learner.digest(state)


@pytest.mark.parametrize("learner", [EchoLearner, ReplayLearner])
@settings(max_examples=60, deadline=None)
@given(told=lives, data=st.data())
def test_forgetting_is_never_having_been_told(learner, told, data):
    gone = data.draw(st.sets(st.integers(0, len(told) - 1), min_size=1, max_size=len(told)))
    stops = data.draw(st.sets(st.integers(0, len(told) - 1)))
    memory, ids = live(told, learner(), learn_after=stops)
    memory.forget([ids[i] for i in sorted(gone)], "ada")
    kept = [t for i, t in enumerate(told) if i not in gone]
    minutes = [i for i in range(len(told)) if i not in gone]
    other = Memory(Ledger(":memory:"), learner=learner())
    for (said, session, hours), place in zip(kept, minutes, strict=True):
        when = START + timedelta(hours=hours, minutes=place)
        other.observe(SAID[said], Scope(user="ada", session=f"s{session}"), occurred_at=when)
    other.learn("ada")
    assert digest(memory) == digest(other)
    held = {(m.key, m.answer) for m in memory.ledger.memories(Scope(user="ada"))}
    assert held == {(m.key, m.answer) for m in other.ledger.memories(Scope(user="ada"))}


@settings(max_examples=60, deadline=None)
@given(told=st.lists(st.integers(0, len(CORRECTED) - 1), min_size=1, max_size=7), data=st.data())
def test_what_a_correction_put_right_takes_the_correction_along(told, data):
    """In order of time: a correction is read with what was known when it was said."""
    places = range(len(told))
    gone = data.draw(st.sets(st.integers(0, len(told) - 1), min_size=1, max_size=len(told)))
    memory, ids = live([(said, 0, i) for i, said in enumerate(told)], EchoLearner(), learn_after=set(places))
    memory.forget([ids[i] for i in sorted(gone)], "ada")
    other = Memory(Ledger(":memory:"), learner=EchoLearner())
    for i in sorted(set(places) - gone):
        when = START + timedelta(hours=i, minutes=i)
        other.observe(CORRECTED[told[i]], Scope(user="ada", session="s0"), occurred_at=when)
        other.learn("ada")
    held = [{(m.key, m.answer) for m in mem.ledger.memories(Scope(user="ada"))} for mem in (memory, other)]
    assert held[0] == held[1]
    assert digest(memory) == digest(other)


def test_a_corrected_list_and_what_ended_it_go_together():
    memory, ids = live([(12, 0, 0), (13, 0, 1)], EchoLearner())
    held = {(m.key, m.answer) for m in memory.ledger.memories(Scope(user="ada"))}
    assert ("self/allergy/rook", "Rook") in held
    memory.forget(ids[0], "ada")
    other, _ = live([(13, 0, 1)], EchoLearner())
    held = {(m.key, m.answer) for m in memory.ledger.memories(Scope(user="ada"))}
    assert held == {(m.key, m.answer) for m in other.ledger.memories(Scope(user="ada"))}
    assert digest(memory) == digest(other)


@settings(max_examples=40, deadline=None)
@given(told=lives, data=st.data())
def test_the_order_of_arrival_does_not_matter(told, data):
    told = [(said, session, hours) for said, session, hours in told]
    places = data.draw(st.permutations(range(len(told))))
    one, two = (
        Memory(Ledger(":memory:"), learner=EchoLearner()),
        Memory(Ledger(":memory:"), learner=EchoLearner()),
    )
    for memory, order in ((one, range(len(told))), (two, places)):
        for place in order:
            said, session, hours = told[place]
            when = START + timedelta(hours=hours, minutes=place)
            memory.observe(SAID[said], Scope(user="ada", session=f"s{session}"), occurred_at=when)
            memory.learn("ada")
    held = [{(m.key, m.answer) for m in memory.ledger.memories(Scope(user="ada"))} for memory in (one, two)]
    assert held[0] == held[1]
    assert (
        one.answer("Where do I live?", "ada", arm="weights").text
        == two.answer("Where do I live?", "ada", arm="weights").text
    )


@settings(max_examples=25, deadline=None)
@given(told=lives)
def test_the_stored_weights_add_up(told):
    memory, _ = live(told, EchoLearner(), learn_after=set(range(len(told))))
    head = memory.ledger.head(Scope(user="ada"))
    kept = digest(memory)
    if head is not None:
        assert head.digest == kept
    assert memory._book is not None
    memory._book.drop(Scope(user="ada"))
    assert digest(memory) == kept


@pytest.mark.parametrize("learner", [EchoLearner, ReplayLearner])
def test_a_superseded_fact_leaves_the_weights_and_comes_back_when_its_successor_is_forgotten(learner):
    memory, ids = live([(0, 0, 0), (1, 1, 1)], learner(), learn_after={0})
    assert memory.answer("Where do I live?", "ada", arm="weights").text == "York"
    head = memory.ledger.head(Scope(user="ada"))
    assert head is not None
    assert len(head.update_ids) == 1
    memory.forget(ids[1], "ada")
    assert memory.answer("Where do I live?", "ada", arm="weights").text == "Leeds"


def test_forgetting_the_older_value_leaves_the_newer():
    memory, ids = live([(0, 0, 0), (1, 0, 1)], EchoLearner())
    memory.forget(ids[0], "ada")
    assert memory.answer("Where do I live?", "ada", arm="weights").text == "York"
    assert [m.answer for m in memory.ledger.memories(Scope(user="ada"), active_only=False)] == ["York"]


def test_sequential_rules_replay_what_remains():
    memory, ids = live([(3, 0, 0), (6, 0, 1), (8, 0, 2)], ReplayLearner())
    receipt = memory.forget(ids[1], "ada")
    assert receipt.replayed == 2
    other, _ = live([(3, 0, 0), (8, 0, 2)], ReplayLearner())
    assert digest(memory) == digest(other)


def test_levels_follow_the_sessions_and_sleep():
    memory, _ = live([(3, 0, 0)], EchoLearner())
    levels = lambda: sorted(u.level for u in memory.ledger.updates(Scope(user="ada")))  # noqa: E731
    assert levels() == ["fast"]
    memory.observe(
        "My favourite colour is teal.",
        Scope(user="ada", session="next"),
        occurred_at=START + timedelta(hours=2),
    )
    assert memory.learn("ada").promoted == 1
    assert levels() == ["fast", "medium"]
    memory.observe(
        "I'm allergic to peanuts.", Scope(user="ada", session="late"), occurred_at=START + timedelta(days=3)
    )
    memory.learn("ada")
    assert levels() == ["fast", "medium", "medium"]
    assert memory.sleep("ada").new == 3
    assert memory.status("ada")["levels"] == {"fast": 0, "medium": 0, "slow": 3}
