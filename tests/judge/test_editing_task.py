"""Edits: each asked three ways, locality apart, and records that cannot be judged counted."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets import editing
from nestmem.evals.datasets.base import load

REAL = os.environ.get("TEST_DATA")
ZSRE, COUNTERFACT = editing.TASKS


def counterfact(number: int, **changed: str) -> dict[str, object]:
    """A record in the file's form, in words of our own."""
    return {
        "case_id": number,
        "prompt": f"The capital of Farland {number} is",
        "target_new": f"Port Neu {number}",
        "subject": f"Farland {number}",
        "ground_truth": "Altstadt",
        "rephrase_prompt": f"It rained. The government of Farland {number} sits in",
        "locality_prompt": f"The capital of Nearland {number} is",
        "locality_ground_truth": "Mitte",
        **changed,
    }


def zsre(number: int, **changed: object) -> dict[str, object]:
    return {
        "subject": f"Farland {number}",
        "src": f"What is the capital of Farland {number}?",
        "pred": "Altstadt",
        "rephrase": f"Which city is the capital of Farland {number}?",
        "alt": f"Port Neu {number}",
        "answers": ["Altstadt", "Old Town"],
        "loc": f"nq question: who sang anthem {number}",
        "loc_ans": "A. Singer",
        "cond": "Altstadt >> Port Neu || What is the capital of Farland?",
        **changed,
    }


def write(folder: Path, file: str, records: list[dict[str, object]], *, packed: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    raw = json.dumps(records).encode()
    path = folder / (f"{file}.gz" if packed else file)
    path.write_bytes(gzip.compress(raw) if packed else raw)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_counterfact_is_told_and_asked(tmp_path, packed):
    folder = write(tmp_path, editing.COUNTERFACT, [counterfact(n) for n in range(12)], packed=packed)
    dataset = editing.load_counterfact(folder, edits=12)
    (stream,) = dataset.streams
    assert [turn.session for turn in stream.turns] == ["s0000"] * 10 + ["s0001"] * 2
    first = {question.kind: question for question in stream.questions[:3]}
    number = first["reliability"].answers[0].split()[-1]
    assert stream.turns[0].text == f"Correction: The capital of Farland {number} is Port Neu {number}."
    assert first["reliability"].text == f"Complete the sentence: The capital of Farland {number} is ..."
    assert first["generality"].text.endswith(f"The government of Farland {number} sits in ...")
    assert first["generality"].answers == first["reliability"].answers
    assert first["reliability"].rejected == ("Altstadt",)
    assert first["reliability"].evidence == (stream.turns[0].id,)
    near = first["locality"]
    assert near.answers == ("Mitte",) and near.rejected == (f"Port Neu {number}",) and near.evidence == ()
    assert near.candidates == ("Mitte", f"Port Neu {number}")
    assert {question.after for question in stream.questions} == {12}
    assert dataset.left_out == {"without evidence": 12}
    assert any("12 of the 10000" in note for note in dataset.notes)


def test_zsre_is_told_and_asked(tmp_path):
    folder = write(tmp_path, editing.ZSRE, [zsre(0)])
    (stream,) = editing.load_zsre(folder, edits=1).streams
    reliability, generality, locality = stream.questions
    assert stream.turns[0].text == (
        'Correction: the answer to "What is the capital of Farland 0?" is Port Neu 0.'
    )
    assert reliability.text == "What is the capital of Farland 0?"
    assert generality.text == "Which city is the capital of Farland 0?"
    assert reliability.rejected == ("Altstadt", "Old Town")
    assert reliability.candidates == ("Port Neu 0", "Altstadt", "Old Town")
    assert locality.text == "who sang anthem 0?", "the mark of Natural Questions is no part of the question"


def test_records_that_cannot_be_judged_are_counted(tmp_path):
    records = [
        zsre(0),
        zsre(1, alt=""),
        zsre(2, alt="Old Town"),
        zsre(3, src="What is the capital of Farland 0?", alt="Elsewhere"),
        zsre(4, loc_ans="("),
    ]
    dataset = editing.load_zsre(write(tmp_path, editing.ZSRE, records), edits=1)
    assert dataset.left_out == {
        "records that edit what another edits": 1,
        "records whose new answer is the old one": 1,
        "records with a field that holds no word": 2,
        "without evidence": 1,
    }


def test_locality_that_another_edit_answers_is_not_asked(tmp_path):
    records = [counterfact(0), counterfact(1, locality_prompt="The capital of Farland 0 is")]
    dataset = editing.load_counterfact(write(tmp_path, editing.COUNTERFACT, records), edits=2)
    assert dataset.left_out["locality questions that another edit of the stream answers"] == 1
    assert sum(question.kind == "locality" for question in dataset.streams[0].questions) == 1


def test_no_record_is_told_twice_and_limit_cuts(tmp_path):
    folder = write(tmp_path, editing.COUNTERFACT, [counterfact(n) for n in range(9)])
    dataset = editing.load_counterfact(folder, edits=4, streams=2)
    texts = [turn.text for stream in dataset.streams for turn in stream.turns]
    assert len(texts) == len(set(texts)) == 8
    assert dataset.digest() == editing.load_counterfact(folder, edits=4, streams=2).digest()
    assert dataset.digest() != editing.load_counterfact(folder, edits=4, streams=2, seed=1).digest()
    cut = editing.load_counterfact(folder, edits=4, streams=2, limit=5)
    assert [len(stream.turns) for stream in cut.streams] == [4, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[{", "not JSON"),
        ("[]", "empty"),
        (json.dumps([{"prompt": "x"}]), "record 1 has no target_new"),
        (
            json.dumps([counterfact(0), {**counterfact(1), "ground_truth": 7}]),
            "record 2: ground_truth is '7'",
        ),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, said):
    (tmp_path / editing.COUNTERFACT).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        editing.load_counterfact(tmp_path, edits=1)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="edit_zsre"):
        editing.load_zsre(None)
    with pytest.raises(InputError, match="zsre_mend_train-1k"):
        editing.load_zsre(tmp_path)
    folder = write(tmp_path, editing.ZSRE, [zsre(0)])
    with pytest.raises(InputError, match="ask for fewer"):
        editing.load_zsre(folder, edits=2)
    with pytest.raises(InputError, match="edits=0"):
        editing.load_zsre(folder, edits=0)


@pytest.mark.skipif(not REAL, reason="TEST_DATA names no folder of data sets")
@pytest.mark.parametrize(("task", "most"), [(ZSRE, 974), (COUNTERFACT, 9917)])
def test_real_files_can_be_told_whole(task, most):
    dataset = load(task, Path(str(REAL)), {"edits": most})
    assert len(dataset.streams[0].turns) == most
    with pytest.raises(InputError, match=f"{most} of its"):
        load(task, Path(str(REAL)), {"edits": most + 1})
