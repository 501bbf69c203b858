"""Passages told and asked: evidence, kinds, candidates that are not in the passage, broken files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets import incorporation
from nestmem.evals.datasets.base import load
from nestmem.evals.datasets.telling import holds

REAL = os.environ.get("TEST_DATA")


def passage(number: int) -> dict[str, object]:
    """A record in the file's form, in words of our own."""
    return {
        "title": f"Land_{number // 2}",
        "context": f"Port {number} was founded in 17{number:02d} by Captain Nr{number}. It lies on river R{number}.",
        "questions": [
            {"question": f"When was port {number} founded?", "answer": f"17{number:02d}"},
            {"question": f"Who founded port {number}?", "answer": f"Captain Nr{number}"},
            {"question": f"On which river does port {number} lie?", "answer": f"R{number}"},
        ],
    }


def write(folder: Path, records: object) -> Path:
    (folder / incorporation.FILE).write_text(json.dumps(records), encoding="utf-8")
    return folder


def test_passages_are_told_and_asked(tmp_path):
    dataset = incorporation.load(write(tmp_path, [passage(n) for n in range(10)]), passages=10, questions=2)
    (stream,) = dataset.streams
    texts = {turn.id: turn.text for turn in stream.turns}
    assert len(stream.turns) == 10 and len({turn.session for turn in stream.turns}) == 10
    assert len(stream.questions) == 20
    for question in stream.questions:
        assert question.after == 10
        assert question.answers[0] in texts[question.evidence[0]]
        assert question.candidates[0] == question.answers[0] and len(question.candidates) == 4
        assert not holds(texts[question.evidence[0]], question.candidates[1:])
        assert question.cluster and question.cluster.replace("_", " ") in texts[question.evidence[0]]
        assert question.kind == {"W": "when", "C": "who", "R": "which", "1": "when"}[question.answers[0][0]]
    assert dataset.notes == ("10 of the 2067 published passages",)
    assert dataset.digest() == incorporation.load(tmp_path, passages=10, questions=2).digest()
    assert dataset.digest() != incorporation.load(tmp_path, passages=10, questions=2, seed=1).digest()


def test_all_questions_and_no_passage_twice(tmp_path):
    folder = write(tmp_path, [*(passage(n) for n in range(8)), passage(0)])
    dataset = incorporation.load(folder, passages=4, questions=0, streams=2)
    texts = [turn.text for stream in dataset.streams for turn in stream.turns]
    assert len(set(texts)) == 8 and dataset.questions == 24
    assert dataset.left_out == {"passages that are there twice": 1}


def test_an_answer_that_is_not_in_its_passage_has_no_evidence(tmp_path):
    odd = passage(0) | {"questions": [{"question": "What is odd?", "answer": "nothing of it"}]}
    dataset = incorporation.load(write(tmp_path, [odd, passage(1)]), passages=2)
    assert dataset.left_out == {"without evidence": 1}
    assert [q.evidence for q in dataset.streams[0].questions if q.text == "What is odd?"] == [()]


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "empty"),
        ([{"title": "x"}], "record 1 has no context"),
        ([passage(0), {**passage(1), "context": 3}], "record 2: context is '3'"),
        ([passage(0), {**passage(1), "questions": None}], "record 2: expected"),
        ([{**passage(0), "questions": [{"question": "Who?"}]}], "a question reads"),
        ([{**passage(0), "questions": [{"question": "Who?", "answer": " "}]}], "a question reads"),
    ],
)
def test_a_broken_file_is_named(tmp_path, records, said):
    with pytest.raises(InputError, match=said):
        incorporation.load(write(tmp_path, records), passages=1)


def test_bad_options_are_named(tmp_path):
    folder = write(tmp_path, [passage(0)])
    with pytest.raises(InputError, match="ask for fewer"):
        incorporation.load(folder, passages=2)
    with pytest.raises(InputError, match="passages=0"):
        incorporation.load(folder, passages=0)
    with pytest.raises(InputError, match="eval fetch squad_incorporation"):
        incorporation.load(None)


@pytest.mark.skipif(not REAL, reason="TEST_DATA names no folder of data sets")
def test_the_real_file_has_evidence_for_every_question():
    dataset = load(incorporation.TASK, Path(str(REAL)), {"passages": 1000, "questions": 0})
    assert "without evidence" not in dataset.left_out
    assert all(len(question.candidates) == 4 for question in dataset.streams[0].questions)
