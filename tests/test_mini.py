"""The embedded model as it ships: what it was trained for holds, on facts of our own."""

import pytest

import nestmem
from nestmem import Memory, Scope
from nestmem.adapters.fast_weights import mini_folder
from nestmem.agent.types import Learner

TOLD = [
    ("My dog is called Zibolt.", "What's my dog called?", "Zibolt"),
    ("I live in Ghent.", "Which city do I live in?", "Ghent"),
    ("My sister's name is Linnea.", "What's the name of my sister?", "Linnea"),
    ("I work as a beekeeper.", "What's my job?", "beekeeper"),
    ("I'm allergic to walnuts.", "What am I allergic to?", "walnuts"),
    ("My favourite colour is teal.", "Which colour do I like best?", "teal"),
    ("I play the cello.", "Which instrument do I play?", "cello"),
    ("My brother lives in Porto.", "Where does my brother live?", "Porto"),
]


@pytest.fixture(scope="module")
def memory() -> Memory:
    memory = nestmem.open(":memory:", embedder="none")
    for statement, _, _ in TOLD:
        memory.observe(statement, Scope(user="maya", session="one"))
    memory.observe("My dog is called Pepper.", "tomas")
    memory.learn_many(["maya", "tomas"])
    return memory


def right(memory: Memory, user: str, arm: str) -> int:
    answers = [memory.answer(question, user, arm=arm).text for _, question, _ in TOLD]
    return sum(value in answer for answer, (_, _, value) in zip(answers, TOLD, strict=True))


def test_the_package_holds_a_small_model() -> None:
    size = sum(file.stat().st_size for file in mini_folder().iterdir())
    assert size < 20_000_000


def test_told_facts_are_answered_from_the_weights_alone(memory: Memory) -> None:
    assert right(memory, "maya", "weights") >= 6
    assert right(memory, "maya", "none") == 0


def test_another_users_weights_know_nothing_of_it(memory: Memory) -> None:
    assert right(memory, "tomas", "weights") == 0
    assert memory.answer("What's my dog called?", "tomas", arm="weights").text == "Pepper"


def test_forgetting_leaves_the_weights_of_a_life_without_it(memory: Memory) -> None:
    """With the real model: the digest after forgetting one fact is that of a life that never had it."""
    whole = nestmem.open(":memory:", embedder="none")
    part = nestmem.open(":memory:", embedder="none")
    for number, (statement, _, _) in enumerate(TOLD):
        stamp = f"2026-03-02T09:{number:02d}:00Z"
        whole.observe(statement, Scope(user="maya", session="one"), occurred_at=stamp)
        if number:
            part.observe(statement, Scope(user="maya", session="one"), occurred_at=stamp)
    whole.learn("maya")
    part.learn("maya")
    first = whole.ledger.events(Scope(user="maya"))[0]
    before = whole.status("maya")["digest"]
    whole.forget(first.id, "maya")
    assert whole.status("maya")["digest"] == part.status("maya")["digest"] != before
    assert "Zibolt" not in whole.answer("What's my dog called?", "maya", arm="both").text


@pytest.mark.parametrize("rule", ["nested", "additive", "rls", "tmem"])
def test_a_local_learner_is_all_that_the_agent_asks_for(rule: str) -> None:
    learner = nestmem.open(":memory:", rule=rule, embedder="none").learner
    asked = {name for name in vars(Learner) if not name.startswith("_")}
    assert asked <= set(dir(learner))
    learner.discard()
    assert learner.digest(learner.rebuild([])) == learner.digest(learner.empty())
