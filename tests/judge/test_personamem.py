"""The loader of PersonaMem, on users written here in the form of its files."""

import gzip
import json
import os
from pathlib import Path

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets import base
from nestmem.evals.datasets.personamem import TASK, load

FIXTURES = Path(__file__).parent / "fixtures"
HERE = FIXTURES / "personamem_32k"
REAL = os.environ.get("TEST_DATA")


@pytest.fixture
def files():
    return {
        name: json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("documents", "queries")
    }


def written(folder, files, lines=False):
    for name, rows in files.items():
        text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows)
        (folder / f"{name}.json{'l' if lines else ''}.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def asked(dataset):
    return {question.id: question for stream in dataset.streams for question in stream.questions}


def test_documents_are_sessions_in_the_order_of_their_numbers():
    stream = load(HERE).streams[0]
    assert [turn.id for turn in stream.turns] == ["0/0", "0/1", "0/2", "1/0", "1/1", "1/2", "1/3", "1/4"]
    assert [turn.role for turn in stream.turns[3:]] == ["system", "user", "assistant", "user", "user"]
    assert stream.turns[1].text == "I love my chess club."
    assert stream.turns[2].text == "Chess is a fine game."
    assert stream.turns[6].text == "However, I still read about endgames."
    assert stream.turns[0].text.startswith("Current user persona: Name: Ada Holm")
    assert stream.turns[3].session == "session-1"


def test_choices_and_answers():
    found = asked(load(HERE))
    assert found["q1"].choices == (
        "A chess club!",
        "A rowing club!\nBy the river.",
        "Stay at home!",
        "I cannot say.",
    )
    assert found["q1"].answers == ("A rowing club!\nBy the river.", "b")
    assert found["q2"].answers == ("I cannot say.", "d")
    assert all(question.answers[0] in question.choices for question in found.values())
    assert found["q1"].text.endswith("(d) I cannot say.") and found["q1"].kind == "suggest_new_ideas"


def test_a_question_comes_after_the_last_of_its_sessions():
    found = asked(load(HERE))
    assert (found["q1"].after, found["q2"].after) == (8, 3)


def test_a_question_whose_message_was_said_is_asked_before_it():
    dataset = load(HERE)
    question = asked(dataset)["q3"]
    assert dataset.streams[0].turns[question.after].text.startswith("I gave up my chess club")
    assert question.after == 4
    assert any(note.startswith("1 questions are asked where their message stands") for note in dataset.notes)


def test_a_short_turn_does_not_place_a_question(tmp_path, files):
    files["queries"][0]["query"] = files["queries"][0]["query"].replace(
        "Where shall I go on Sunday?", "I row on Sundays."
    )
    assert asked(load(written(tmp_path, files)))["q1"].after == 8


def test_users_of_one_persona_are_one_cluster():
    found = asked(load(HERE))
    assert {question.cluster for question in found.values()} == {"persona-7"}


def test_what_is_missing_is_counted(tmp_path, files):
    dataset = load(HERE)
    assert dataset.left_out == {"questions whose sessions are not there": 1, "without evidence": 4}
    assert "4 of the 589 published questions" in dataset.notes
    files["documents"] = [row for row in files["documents"] if row["user_id"] == "u1"]
    assert load(written(tmp_path, files)).left_out["questions whose sessions are not there"] == 2


def test_a_right_option_under_two_letters_is_counted(tmp_path, files):
    files["queries"][0]["query"] = files["queries"][0]["query"].replace(
        "(c) Stay at home!", "(c) A rowing club!\nBy the river."
    )
    assert (
        "1 questions offer the right option under two letters: both count"
        in load(written(tmp_path, files)).notes
    )


def test_lists_and_lines_give_the_same(tmp_path, files):
    assert load(written(tmp_path, files, lines=True)).digest() == load(HERE).digest()
    assert [stream.id for stream in load(tmp_path, limit=1).streams] == ["u1"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda f: f["documents"][0].update(content="hello"), "document u1_1: begins with 'hello'"),
        (lambda f: f["queries"][0].update(gold_answers=["(e)", "e"]), "expected four options"),
        (lambda f: f["queries"][0].update(gold_answers=[]), "expected four options"),
        (lambda f: f["queries"][0].update(query="Which?"), "expected four options"),
        (lambda f: f["queries"][0].update(meta={}), "no persona_id"),
        (lambda f: f["queries"][0].pop("gold_ids"), "has no gold_ids"),
    ],
)
def test_bad_data_is_named(tmp_path, files, broken, said):
    broken(files)
    with pytest.raises(InputError, match=said):
        load(written(tmp_path, files))


def test_half_data(tmp_path, files):
    with pytest.raises(InputError, match=r"has none of documents\.jsonl"):
        load(tmp_path)
    written(tmp_path, files)
    raw = (tmp_path / "queries.json.gz").read_bytes()
    (tmp_path / "queries.json.gz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError, match=r"queries\.json\.gz cannot be read"):
        load(tmp_path)


def test_the_task():
    assert base.load(TASK, FIXTURES, TASK.options).questions == 4


def test_the_task_says_that_it_needs_a_reader():
    (said,) = [line for line in TASK.known_errors if "choice_support is at chance" in line]
    assert "the task needs a reader" in said


@pytest.mark.skipif(not REAL, reason="TEST_DATA names no folder of data sets")
def test_real_data():
    dataset = load(Path(str(REAL)) / "personamem_32k")
    found = asked(dataset)
    placed = 0
    for stream in dataset.streams:
        for question in stream.questions:
            assert len(question.choices) == 4 and question.answers[0] in question.choices
            placed += question.after < len(stream.turns)
            later = " ".join(turn.text for turn in stream.turns[question.after :])
            earlier = " ".join(turn.text for turn in stream.turns[: question.after])
            if question.kind == "track_full_preference_evolution":
                message = question.text.split("(a) ")[0].strip()[-60:]
                assert message in later and message not in earlier
    assert placed > 100 and len(found) > 300
