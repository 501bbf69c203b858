"""Lives as streams: what was told, by the generator's own plan; files of lives; older values."""

from __future__ import annotations

import json
import random

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets import lives
from nestmem.evals.datasets.base import Question, Stream, Turn, load
from nestmem.evals.datasets.telling import holds
from nestmem.evals.personas import normalise
from nestmem.personas import PersonaGenerator


def plan(number: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Key -> values in the order in which the generator tells them in life `number` of seed 0."""
    generator = PersonaGenerator("test")
    plans = []
    draw = generator._plan

    def keep(*args):
        plans.append(draw(*args))
        return plans[-1]

    monkeypatch.setattr(generator, "_plan", keep)
    generator.life(f"life-{number}", random.Random(f"0/{number}"), sessions=6, facts_per_session=8)
    told: dict[str, list[str]] = {}
    for session in plans[0]:
        for fact in session:
            told.setdefault(fact.key, []).append(fact.value)
    return told


@pytest.fixture(scope="module")
def dataset():
    return lives.load(None, lives=6)


def test_streams_follow_the_sessions(dataset):
    for stream in dataset.streams:
        sessions = [turn.session for turn in stream.turns]
        assert sessions == sorted(sessions) and len(set(sessions)) == 6
        ends = {
            place
            for place in range(1, len(sessions) + 1)
            if sessions[place - 1 :][:2] != [sessions[place - 1]] * 2
        }
        assert {question.after for question in stream.questions} <= ends


def test_evidence_is_the_message_that_told_it(dataset):
    for stream in dataset.streams:
        turns = {turn.id: turn for turn in stream.turns}
        for question in stream.questions:
            assert question.answerable == (question.kind != "never_told")
            assert len(question.evidence) == question.answerable
            if question.answerable:
                assert turns[question.evidence[0]].role == "user"
                assert holds(turns[question.evidence[0]].text, question.answers)


def test_a_value_that_stands_elsewhere_too_is_not_taken_for_the_telling():
    generator, rng = PersonaGenerator("test"), random.Random("elsewhere")
    told = [generator.fact("cat/age", rng, value="12").statement]
    told.append(generator.fact("cat/age", rng, value="19", old="12").statement)
    texts = [*told, "The birthday of my colleague falls on 19 June."]
    turns = tuple(Turn(id=str(n), session="0", role="user", text=text) for n, text in enumerate(texts))
    question = Question(
        id="q",
        text=generator.question("cat/age", rng),
        kind="updated",
        after=3,
        answers=("19",),
        evidence=("2",),
    )
    stream = Stream(id="cat", turns=turns, questions=(question,))
    (asked,) = lives._generated(stream, generator, lives._Wordings(generator, rng), rng).questions
    assert asked.evidence == ("1",) and asked.rejected == ("12",)


def test_older_values_are_those_of_the_plan(dataset, monkeypatch):
    seen = 0
    for number, stream in enumerate(dataset.streams):
        told = plan(number, monkeypatch)
        for question in stream.questions:
            if question.kind != "updated":
                assert question.rejected == ()
                continue
            seen += 1
            (values,) = [v for v in told.values() if question.answers[0] in v and len(v) > 1]
            older = values[: values.index(question.answers[0])]
            assert {normalise(v) for v in question.rejected} == {normalise(v) for v in older}
    assert seen >= 10


def test_candidates_begin_with_the_answer(dataset):
    for stream in dataset.streams:
        for question in stream.questions:
            if question.answerable:
                assert question.candidates[0] == question.answers[0]
                assert len({normalise(c) for c in question.candidates}) == len(question.candidates)
                assert len(question.candidates) >= 2


def test_one_seed_gives_one_dataset():
    first = lives.load(None, lives=2, sessions=2, facts=3)
    assert first.digest() == lives.load(None, lives=2, sessions=2, facts=3).digest()
    assert first.digest() != lives.load(None, lives=2, sessions=2, facts=3, seed=1).digest()
    assert load(lives.TASK, None, {"lives": 1}).source == "generated"


def life(name: str, cat: str) -> str:
    """A line of a file of lives."""
    sessions = [
        {"at": "2026-03-02T09:00:00Z", "messages": [{"role": "user", "content": f"My cat is called {cat}."}]},
        {
            "messages": [
                {"role": "user", "content": "It rains."},
                {"role": "assistant", "content": "So it does."},
            ]
        },
    ]
    questions = [
        {"question": "What is my cat's name?", "answers": [cat], "after_session": 1},
        {"question": "What is my dog's name?", "answers": ["I don't know"], "kind": "never_told"},
        {"question": "Who am I?", "answers": ["Nobody told"]},
    ]
    return json.dumps({"id": name, "sessions": sessions, "questions": questions})


def test_a_file_of_lives_is_read(tmp_path):
    path = tmp_path / "two.jsonl"
    path.write_text(f"{life('ada', 'Ink')}\n{life('bob', 'Soot')}\n", encoding="utf-8")
    dataset = lives.load(None, file=str(path))
    assert dataset.source == "two.jsonl" and dataset.left_out == {"without evidence": 2}
    ada = dataset.streams[0]
    cat, dog, who = ada.questions
    assert cat.evidence == (ada.turns[0].id,) and cat.after == 3 and cat.answers == ("Ink",)
    assert cat.candidates == ("Ink", "Soot", "Nobody told")
    assert not dog.answerable and dog.candidates == ()
    assert who.answerable and who.evidence == ()
    assert dataset.digest() == lives.load(None, file=str(tmp_path)).digest(), (
        "a folder of files is read as well"
    )


def test_bad_files_and_options_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no"):
        lives.load(None, file=str(tmp_path))
    (tmp_path / "a.jsonl").write_text(life("ada", "Ink"), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(life("ada", "Ink"), encoding="utf-8")
    with pytest.raises(InputError, match="in another file too"):
        lives.load(None, file=str(tmp_path))
    (tmp_path / "c.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="line 1"):
        lives.load(None, file=str(tmp_path / "c.jsonl"))
    with pytest.raises(InputError, match="facts=0"):
        lives.load(None, facts=0)
