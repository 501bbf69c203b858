"""Accurate retrieval over passages, and the published MemoryAgentBench exported to JSON lines."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets import retrieval
from nestmem.evals.datasets.base import load


def passage(title: str, number: int) -> dict[str, Any]:
    return {
        "title": title,
        "context": f"The well of {title} number {number} is {number + 100} feet deep and was dug by the smith.",
        "questions": [
            {"question": f"How deep is well {number} of {title}?", "answer": f"{number + 100} feet"},
            {"question": "Who dug the well?", "answer": "the smith"},
            {"question": f"What is left of {title} {number}?", "answer": "nothing"},
        ],
    }


@pytest.fixture
def squad(tmp_path: Path) -> Path:
    rows = [passage(title, number) for title in ("Ord_Vale", "Kemp", "Lorn", "Tay") for number in range(10)]
    rows.append(rows[0])
    (tmp_path / "squad_val.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    return tmp_path


def test_each_answer_stands_in_its_evidence(squad: Path) -> None:
    dataset = retrieval.load_squad(squad, passages=15, questions=10)
    assert [len(stream.turns) for stream in dataset.streams] == [15, 15]
    assert dataset.left_out == {
        "passages that occur twice": 1,
        "questions whose answer is not in the passage as whole words": 40,
    }
    assert dataset.notes == ("40 of the 2,067 passages of the source",)
    titles = [{turn.session for turn in stream.turns} for stream in dataset.streams]
    assert not titles[0] & titles[1]
    for stream in dataset.streams:
        told = {turn.id: turn for turn in stream.turns}
        assert len(stream.questions) == 10
        for question in stream.questions:
            (evidence,) = question.evidence
            assert question.answers[0] in told[evidence].text and question.cluster == told[evidence].session
            assert question.text != "Who dug the well?", (
                "asked of every passage, so it has no single evidence"
            )


def test_draws_repeat_and_a_shortage_is_said(squad: Path) -> None:
    first = retrieval.load_squad(squad, passages=50)
    assert first.digest() == retrieval.load_squad(squad, passages=50).digest()
    assert first.digest() != retrieval.load_squad(squad, passages=50, seed=1).digest()
    assert any(note.startswith("fewer than 50 passages") for note in first.notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not JSON"),
        ("{}", "expected a list"),
        ('[{"title": "A", "context": "b"}]', "passage 1"),
        ('[{"title": "A", "context": "b", "questions": [{"question": "c"}]}]', "passage 1"),
    ],
)
def test_bad_squad_says_where(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "squad_val.json").write_text(content)
    with pytest.raises(InputError, match=message):
        retrieval.load_squad(tmp_path)


def published_row(**changes: object) -> str:
    row = {
        "context": "0. The river Ord is blue.\n1. The river Ord is green.\n\n"
        + "\n".join(["More of it."] * 20),
        "questions": ["What is the colour of the river Ord?", "And of the sea?"],
        "answers": [["green", "Green"], "grey"],
        "metadata": {"source": "factconsolidation_sh_6k"},
    }
    return json.dumps({**row, **changes})


def test_published_rows_are_streams(tmp_path: Path) -> None:
    (tmp_path / "Conflict_Resolution.jsonl").write_text(published_row() + "\n" + published_row(metadata=None))
    (tmp_path / "Test_Time_Learning.jsonl").write_text(published_row())
    dataset = retrieval.load_published(tmp_path, chunk_words=20)
    assert [stream.id for stream in dataset.streams] == [
        "Conflict_Resolution/1",
        "Conflict_Resolution/2",
        "Test_Time_Learning/1",
    ]
    first = dataset.streams[0]
    assert first.turns[0].text.startswith("0. The river Ord is blue.\n1. The river") and len(first.turns) == 4
    assert [question.answers for question in first.questions] == [("green", "Green"), ("grey",)]
    assert {q.kind for s in dataset.streams for q in s.questions} == {
        "factconsolidation_sh_6k",
        "Conflict_Resolution",
    }
    assert dataset.left_out == {"without evidence": 6}
    assert len(retrieval.load_published(tmp_path, limit=1).streams) == 1
    assert len(retrieval.load_published(tmp_path, part="Test_Time_Learning").streams) == 1


def test_bad_published_rows_say_where(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="JSON lines"):
        retrieval.load_published(tmp_path)
    file = tmp_path / "Accurate_Retrieval.jsonl"
    file.write_text(published_row(answers=["one"]))
    with pytest.raises(InputError, match="row 1: 2 questions"):
        retrieval.load_published(tmp_path)
    file.write_text(published_row() + "\n" + published_row(answers=[["a"], []]))
    with pytest.raises(InputError, match="row 2, question 2"):
        retrieval.load_published(tmp_path)
    file.write_text(published_row(context=None))
    with pytest.raises(InputError, match="row 1: expected a text"):
        retrieval.load_published(tmp_path)


@pytest.mark.skipif("TEST_DATA" not in os.environ, reason="TEST_DATA names no folder of data")
def test_real_squad() -> None:
    dataset = load(retrieval.SQUAD, Path(os.environ["TEST_DATA"]), retrieval.SQUAD.options)
    assert dataset.questions == 200 and sum(len(stream.turns) for stream in dataset.streams) == 400
