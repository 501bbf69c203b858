"""The loader of LoCoMo, on conversations written here (nothing of the data set is in the repository)."""

import gzip
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets import base
from nestmem.evals.datasets.locomo import TASK, load, parse_evidence
from nestmem.evals.log import Line
from nestmem.evals.scorers import SCORERS
from nestmem.evals.systems.base import Reading, Reply

FIXTURES = Path(__file__).parent / "fixtures"
REAL = os.environ.get("TEST_DATA")


@pytest.fixture
def samples():
    return json.loads((FIXTURES / "locomo" / "locomo10.json").read_text(encoding="utf-8"))


def written(folder, samples, name="locomo10.json"):
    raw = json.dumps(samples).encode()
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return folder


def by_number(dataset, stream=0):
    return {question.id.split("/")[1]: question for question in dataset.streams[stream].questions}


def test_turns_are_those_of_the_file():
    stream = load(FIXTURES / "locomo").streams[0]
    assert [turn.id for turn in stream.turns] == ["D1:1", "D1:2", "D1:3", "D2:1", "D2:2"]
    assert [turn.speaker for turn in stream.turns[:2]] == ["Ada", "Bo"]
    assert all(turn.group and turn.role == "user" for turn in stream.turns)
    assert stream.turns[2].text == "Look at this. [shares a photo of a ferret on a sofa]"
    assert [turn.session for turn in stream.turns] == ["session_1"] * 3 + ["session_2"] * 2
    assert stream.turns[0].at == datetime(2023, 5, 8, 13, 56, tzinfo=UTC)


def test_questions_answers_and_evidence():
    asked = by_number(load(FIXTURES / "locomo"))
    assert asked["2"].kind == "multi-hop" and asked["2"].evidence == ("D1:2", "D2:2")
    assert asked["3"].evidence == ("D1:2",)
    assert asked["3"].answers == ("Yes", "Yes; he plays the oboe")
    assert asked["4"].answers == ("14",) and asked["4"].evidence == ("D2:2",)
    assert asked["5"].evidence == () and asked["5"].answerable
    assert {question.after for question in asked.values()} == {5}
    assert asked["0"].at == datetime(2023, 6, 2, 10, 5, tzinfo=UTC)


def test_adversarial_questions_are_traps_without_evidence():
    asked = by_number(load(FIXTURES / "locomo"))
    assert asked["6"].kind == "adversarial" and not asked["6"].answerable
    assert (asked["6"].answers, asked["6"].rejected, asked["6"].evidence) == ((), ("nuts",), ())
    assert not asked["7"].answerable and asked["7"].rejected == ("Yes",)
    without = load(FIXTURES / "locomo", adversarial=0)
    assert without.questions == 7
    assert without.left_out["adversarial questions (adversarial=0)"] == 2


def test_faults_of_the_key_are_counted():
    dataset = load(FIXTURES / "locomo")
    assert dataset.left_out == {
        "without evidence": 1,
        "evidence entries that name no turn": 1,
        "evidence ids whose turn is not there": 1,
    }
    notes = "\n".join(dataset.notes)
    assert "2 of the 10 published conversations, with 9 of 1,986 questions" in notes
    for said in ("zeros, colons): 3", "(both are asked): 1", "not answerable): 1"):
        assert said in notes


def test_limit_compressed_files_and_the_same_digest(tmp_path, samples):
    one = load(written(tmp_path, samples, "locomo.json.gz"), limit=1)
    assert [stream.id for stream in one.streams] == ["conv-1"]
    assert load(tmp_path).digest() == load(FIXTURES / "locomo").digest()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda s: s[0]["qa"][0].pop("question"), "has no text 'question'"),
        (lambda s: s[0]["qa"][0].update(category=7), "from 1 to 5"),
        (lambda s: s[0]["qa"][0].update(evidence="D1:1"), "expected a list of dia_ids"),
        (lambda s: s[0]["conversation"]["session_1"][0].pop("dia_id"), "no 'dia_id'"),
        (lambda s: s[0].pop("qa"), "'conversation' and 'qa'"),
        (lambda s: s[0]["conversation"]["session_1"][1].update(dia_id="D1:1"), "two turns have the id"),
    ],
)
def test_bad_data_is_named(tmp_path, samples, broken, said):
    broken(samples)
    with pytest.raises(InputError, match=said):
        load(written(tmp_path, samples))


def test_half_a_file_and_no_file(tmp_path):
    with pytest.raises(InputError, match=r"has none of locomo10\.json"):
        load(tmp_path)
    (tmp_path / "locomo10.json").write_text('[{"qa": [')
    with pytest.raises(InputError, match="is not JSON"):
        load(tmp_path)


def test_evidence_in_all_its_spellings():
    assert parse_evidence(["D8:6; D9:17", "D:11:26", "D3:04", "D"]) == (
        ["D8:6", "D9:17", "D11:26", "D3:4"],
        1,
    )


def test_the_task_may_not_be_passed_on():
    assert TASK.licence.redistribution == "no"
    assert TASK.fetch[0].bytes == 2_805_274
    assert base.load(TASK, FIXTURES, TASK.options).questions == 9


def test_the_headline_is_over_the_categories_that_have_answers():
    (stream, *_) = load(FIXTURES / "locomo").streams
    for question in stream.questions:
        reply = Reply(reading=Reading(text="That was not mentioned."))
        line = Line(task="locomo", system="x", stream=stream.id, question=question, reply=reply)
        adversarial = question.kind == "adversarial"
        assert (SCORERS[TASK.scorers[0]](line) is None) == (SCORERS["exact"](line) is None) == adversarial
        assert SCORERS["abstains"](line) == (1.0 if adversarial else None)
        assert SCORERS["contains"](line) == float(adversarial)


@pytest.mark.skipif(not REAL, reason="TEST_DATA names no folder of data sets")
def test_real_data():
    dataset = load(Path(str(REAL)) / "locomo")
    assert all(len(stream.turns) > 300 for stream in dataset.streams)
    asked = [question for stream in dataset.streams for question in stream.questions]
    with_evidence = sum(bool(question.evidence) for question in asked if question.answerable)
    assert with_evidence >= 0.99 * sum(question.answerable for question in asked)
    assert not any(question.evidence for question in asked if not question.answerable)
