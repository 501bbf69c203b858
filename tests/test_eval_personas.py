"""The personas evaluation: reading lives, scoring answers, counting."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from nestmem.errors import InputError
from nestmem.evals import personas
from nestmem.evals.stats import clustered_se, clustered_share, wilson

LIFE: dict[str, Any] = {
    "id": "ada",
    "sessions": [
        {
            "at": "2026-03-02T09:00:00Z",
            "messages": [
                {"role": "user", "content": "My dog is called Biscuit."},
                {"role": "assistant", "content": "Good to know."},
            ],
        },
        {"at": None, "messages": [{"role": "user", "content": "I moved to Ghent."}]},
    ],
    "questions": [
        {"question": "What's my dog called?", "answers": ["Biscuit"], "kind": "fact", "after_session": 1},
        {"question": "Where do I live?", "answers": ["Ghent"], "kind": "updated", "after_session": 1},
        {"question": "What is my blood type?", "answers": ["I don't know"], "kind": "never_told"},
    ],
}


def written(tmp_path: Path, *lines: str | bytes | dict[str, Any]) -> Path:
    """A file of lives with these lines; dictionaries become JSON."""
    raw = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    path = tmp_path / "lives.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in raw))
    return path


def changed(**changes: Any) -> dict[str, Any]:
    """LIFE with other fields at the top."""
    return {**LIFE, **changes}


def test_reads_a_file(tmp_path: Path) -> None:
    (life, other) = personas.read_lives(written(tmp_path, LIFE, "", changed(id="bo")))
    assert (life.id, other.id) == ("ada", "bo")
    assert life.sessions[0].at is not None
    assert life.sessions[0].at.utcoffset() is not None
    assert life.sessions[1].at is None
    assert [q.after_session for q in life.questions] == [1, 1, 1]
    assert [q.age for q in life.questions] == [1, 0, None]


def test_reads_a_byte_order_mark(tmp_path: Path) -> None:
    assert len(personas.read_lives(written(tmp_path, b"\xef\xbb\xbf" + json.dumps(LIFE).encode()))) == 1


SESSION = LIFE["sessions"][0]
QUESTION = LIFE["questions"][0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        (b"\xff\xfe", "is not UTF-8"),
        ("[]", "a life is list"),
        ({"id": "bo"}, "has no 'sessions'"),
        (changed(id=""), "id is empty"),
        (changed(id=7), "id is int"),
        (changed(sessions=[]), "sessions is empty"),
        (changed(sessions=[{"at": "2026-01-01"}]), "session 0: has no 'messages'"),
        (changed(sessions=[{**SESSION, "at": "soon"}]), "session 0: at is 'soon'"),
        (changed(sessions=[{**SESSION, "at": 3}]), "session 0: at is 3"),
        (changed(sessions=[{"messages": [{"role": "bard", "content": "x"}]}]), "role is 'bard'"),
        (changed(sessions=[{"messages": [{"role": "user", "content": "  "}]}]), "content is empty"),
        (changed(sessions=[{"messages": ["hello"]}]), "a message is str"),
        (changed(questions=[]), "questions is empty"),
        (changed(questions=[{"question": "?"}]), "question 0: has no 'answers'"),
        (changed(questions=[{**QUESTION, "answers": [""]}]), "answers is ['']"),
        (changed(questions=[{**QUESTION, "answers": [3]}]), "answers is [3]"),
        (changed(questions=[{**QUESTION, "after_session": 2}]), "after_session is 2; the life has 2"),
        (changed(questions=[{**QUESTION, "after_session": -1}]), "after_session is -1"),
        (changed(questions=[{**QUESTION, "after_session": True}]), "after_session is True"),
        (changed(questions=[{**QUESTION, "kind": 1}]), "kind is int"),
        (LIFE, "id 'ada' is already used in line 1"),
    ],
)
def test_names_the_bad_line(tmp_path: Path, line: str | bytes | dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=r"lives\.jsonl, line 3") as caught:
        personas.read_lives(written(tmp_path, LIFE, "", line))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refuses_an_empty_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no life"):
        personas.read_lives(written(tmp_path, "", " "))
    with pytest.raises(InputError, match="cannot be read"):
        personas.read_lives(tmp_path / "none.jsonl")


def test_reads_what_the_generator_writes() -> None:
    from nestmem.personas import PersonaGenerator

    life = PersonaGenerator("test").life("one", random.Random(3), sessions=3, facts_per_session=4)
    read = personas.life_from(json.loads(life.to_json()), "generated")
    assert len(read.questions) == len(life.questions)
    told = [question for question in read.questions if question.kind != "never_told"]
    assert all(question.age is not None and question.age >= 0 for question in told)


@pytest.mark.parametrize(
    ("reply", "answers", "expected"),
    [
        ("Biscuit", ["Biscuit"], (True, True)),
        (" the BISCUIT. ", ["Biscuit"], (True, True)),
        ("Your dog is called Biscuit.", ["Biscuit"], (True, False)),
        ("Biscuits", ["Biscuit"], (False, False)),
        ("", ["Biscuit"], (False, False)),
        ("New York", ["York"], (True, False)),
        ("O’Hara", ["O'Hara"], (True, True)),
        ("I don't know.", ["Biscuit"], (False, False)),
        ("I don't know.", ["I don't know"], (True, True)),
        ("You have not told me; I do not know that.", ["I don't know"], (True, True)),
        ("Your type is B.", ["I don't know"], (False, False)),
        ("A positive", ["I don't know", "A positive"], (True, True)),
    ],
)
def test_scores(reply: str, answers: list[str], expected: tuple[bool, bool]) -> None:
    assert personas.score(reply, answers) == expected


def test_chance_is_knowing_the_answers_but_not_whose() -> None:
    def life(name: str, answer: str) -> personas.Life:
        question = {"question": "What is my dog's name?", "answers": [answer]}
        return personas.life_from({**LIFE, "id": name, "questions": [question]}, name)

    assert personas.chance([life("a", "Rex"), life("b", "Rex"), life("c", "Bo")]) == pytest.approx(1 / 3)
    assert personas.chance([life("a", "Rex")]) is None


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = random.Random(0)
    held = 0
    for _ in range(400):
        shares = [rng.betavariate(4, 4) for _ in range(20)]
        values = [rng.random() < share for share in shares for _ in range(10)]
        estimate = clustered_share(values, [i // 10 for i in range(200)])
        held += estimate.low <= 0.5 <= estimate.high
    assert 0.9 < held / 400 < 0.99


def test_one_cluster_counts_each_answer() -> None:
    assert clustered_se([1, 0, 1, 0], ["a"] * 4) == pytest.approx((1 / 3 * 0.25 * 4) ** 0.5 / 4 * 2)
    assert wilson(0, 0) == (0.0, 1.0)
