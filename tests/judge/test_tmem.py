"""TMEM: what is written stays, one LoRA for all questions or one for each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nestmem.agent.fakes import ReplayLearner
from nestmem.agent.recall import count_tokens
from nestmem.evals.datasets.base import Turn
from nestmem.evals.systems import ours, tmem
from nestmem.evals.systems.base import NotSupported, Reading, Setup

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
SAID = (
    ("s0", "user", "I live in Leeds."),
    ("s0", "assistant", "I live in Paris."),
    ("s1", "user", "My dog is called Biscuit."),
    ("s2", "user", "I moved to York."),
    ("s3", "user", "Yesterday I ran my first marathon."),
)
DOG, HOME = "What is my dog's name?", "Where do I live?"


class Silent:
    name = "none"

    def read(self, question: str, context: str, *, at: datetime | None) -> Reading:
        return Reading(text=None)

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        return None


def turns() -> tuple[Turn, ...]:
    return tuple(
        Turn(id=f"t{n}", session=session, role=role, text=text, at=AT + timedelta(days=n))
        for n, (session, role, text) in enumerate(SAID)
    )


def setup(folder: Path, **kwargs) -> Setup:
    folder.mkdir(exist_ok=True)
    return Setup(
        folder=folder,
        key=None,
        donor=None,
        reader=Silent(),
        embedder=None,
        **kwargs,
    )


def learner() -> ReplayLearner:
    def writer(statement: str) -> list[tuple[str, str]]:
        return [
            ("What did I run yesterday?", "my first marathon"),
            ("Where?", "Paris"),
            ("No question", "ran"),
        ]

    return ReplayLearner(writer=writer)


def tell(system, scope: str = "ada") -> None:
    for place, turn in enumerate(turns()):
        system.observe(turn, turn.at, scope)
        if place + 1 == len(SAID) or SAID[place + 1][0] != turn.session:
            system.settle(scope)


def say(system, question: str, scope: str = "ada") -> str:
    return system.answer(question, AT, scope).reading.text


def test_one_state_is_written_as_the_stream_passes_and_nothing_leaves_it(tmp_path):
    system = tmem.Agnostic(setup(tmp_path), model := learner())
    tell(system)
    assert (say(system, DOG), say(system, HOME)) == ("Biscuit", "York")
    assert say(system, "What did I run yesterday?") == "my first marathon"
    written = repr(system._state("ada"))
    assert "Leeds" in written
    assert "Paris" not in written
    assert len(model.writes) == 4
    assert say(system, DOG, "bob") == "I don't know."
    assert system.probe(DOG, ("Biscuit", "Rook"), "ada") == [0.0, -5.0]
    with pytest.raises(NotSupported):
        system.forget(["t2"], "ada")
    before = system._state("ada")
    system.settle("ada")
    assert system._state("ada") == before
    assert system.bytes("ada") > 0
    system.close()


def test_each_question_has_a_state_of_its_own(tmp_path):
    # Room for one turn with its date.
    system = tmem.Conditioned(setup(tmp_path, budget_tokens=11, depth=2), learner())
    tell(system)
    for _ in range(2):
        reply = system.answer(DOG, AT, "ada")
        assert reply.reading.text == "Biscuit"
        assert (reply.reading.tokens_in, reply.reading.tokens_out) == (
            count_tokens(DOG),
            count_tokens("Biscuit"),
        )
        assert reply.context == ""
        assert reply.ranked[0].turn == "t2"
        assert len(reply.ranked) == 2
        assert "York" not in repr(system._written(DOG, "ada"))
        assert system.probe(HOME, ("Biscuit", "York"), "ada") != [0.0, 0.0]
        assert system.probe(DOG, ("Biscuit", "Rook"), "ada") == [0.0, -5.0]
    assert say(system, DOG, "bob") == "I don't know."
    system.forget(["t2"], "ada")
    assert say(system, DOG) == "I don't know."
    assert system.bytes("ada") > 0
    system.close()


def test_it_writes_the_embedded_model(tmp_path):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    system = tmem.make_agnostic(setup(tmp_path))
    base = system.probe(DOG, ("Biscuit", "Rook"), "ada")
    spoken = Turn(id="t", session="s", role="user", text="My dog is called Biscuit.")
    system.observe(spoken, None, "ada")
    system.settle("ada")
    state = system._state("ada")
    assert {bank.shape[1] for bank in state.banks} == {6}
    assert any(bool(bank.any()) for bank in state.banks)
    after = system.probe(DOG, ("Biscuit", "Rook"), "ada")
    assert after[0] > base[0]
    other = tmem.make_conditioned(setup(tmp_path / "other"))
    other.observe(spoken, None, "ada")
    other.settle("ada")
    assert other.probe(DOG, ("Biscuit", "Rook"), "ada") == after
    assert system.bytes("ada") > other.bytes("ada")
    assert ours.shared("mini", "tmem", "cpu", "float32").rule == "tmem"
    other.close()
    system.close()
