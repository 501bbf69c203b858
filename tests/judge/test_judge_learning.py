"""Test-time learning of labels: told with their number, asked without, and bad files."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets import learning
from nestmem.evals.datasets.base import Dataset, Task, load
from nestmem.evals.personas import normalise

THINGS = ["kettle", "bridge", "carrot", "lantern", "violin", "anchor", "pillow", "ladder", "magnet", "saddle"]
SIZES = {"intents": 4, "shots": 3, "questions": 12, "streams": 2, "seed": 0}


def utterances(part: str, count: int) -> list[tuple[str, str]]:
    return [(f"{part} wish {n} about my {thing}", f"ask_{thing}") for thing in THINGS for n in range(count)]


@pytest.fixture
def clinc(tmp_path: Path) -> Path:
    shared = ["Train wish 0 about my kettle!", "ask_kettle"]
    data = {"train": utterances("train", 6), "test": [*utterances("test", 4), shared], "oos_train": []}
    (tmp_path / "data_full.json").write_text(json.dumps(data))
    return tmp_path


@pytest.fixture
def banking(tmp_path: Path) -> Path:
    for part, count in (("train", 6), ("test", 4)):
        rows = [f'"{text}, please",{intent}' for text, intent in utterances(part, count)]
        (tmp_path / f"{part}.csv").write_text("\n".join(["text,category", *rows]) + "\n")
    return tmp_path


def check(dataset: Dataset) -> None:
    """What every stream of labels has to be."""
    assert len(dataset.streams) == 2
    for stream in dataset.streams:
        told = dict(turn.text.rsplit(" -> ", 1) for turn in stream.turns)
        assert sorted(Counter(told.values()).values()) == [3, 3, 3, 3]
        things = {text.split(" my ")[1].split(",")[0]: label for text, label in told.items()}
        assert len(things) == len(set(told.values())) == 4
        assert len(stream.questions) == 12
        for question in stream.questions:
            asked = question.text.split('"')[1]
            assert question.answers == (things[asked.split(" my ")[1].split(",")[0]],)
            assert set(question.candidates) == set(told.values())
            assert normalise(asked) not in map(normalise, told)
            assert question.evidence == ()
            assert not any(label in question.text for label in told.values())
    one, other = ({turn.text.rsplit(" -> ")[1] for turn in stream.turns} for stream in dataset.streams)
    assert one != other


def test_clinc(clinc: Path) -> None:
    dataset = learning.load_clinc(clinc, **SIZES)
    check(dataset)
    assert dataset.left_out == {"questions that are also told in the train part": 1}
    assert dataset.notes == ("10 of the 150 published intents",)
    assert dataset.digest() == learning.load_clinc(clinc, **SIZES).digest()
    assert dataset.digest() != learning.load_clinc(clinc, **{**SIZES, "seed": 1}).digest()


def test_banking(banking: Path) -> None:
    check(learning.load_banking(banking, **SIZES))


def test_candidates_are_ten_with_the_right_one(clinc: Path) -> None:
    (stream,) = learning.load_clinc(clinc, **{**SIZES, "intents": 10, "streams": 1}).streams
    assert all(len(question.candidates) == 10 for question in stream.questions)
    assert all(question.answers[0] in question.candidates for question in stream.questions)


def test_bad_files_say_what_is_wrong(tmp_path: Path, clinc: Path) -> None:
    with pytest.raises(InputError, match="10 intents have 3 examples"):
        learning.load_clinc(clinc, **{**SIZES, "intents": 11})
    with pytest.raises(InputError, match="--data"):
        learning.load_clinc(None)
    (tmp_path / "data_full.json").write_text('{"train": [["a", 3]]}')
    with pytest.raises(InputError, match="no list 'train'"):
        learning.load_clinc(tmp_path)
    (tmp_path / "data_full.json").write_text('{"train"')
    with pytest.raises(InputError, match="is not JSON"):
        learning.load_clinc(tmp_path)
    (tmp_path / "train.csv").write_text("words,category\na,b\n")
    with pytest.raises(InputError, match="text,category"):
        learning.load_banking(tmp_path)
    (tmp_path / "train.csv").write_text("text,category\nhello,\n")
    with pytest.raises(InputError, match="row 1"):
        learning.load_banking(tmp_path)


@pytest.mark.skipif("TEST_DATA" not in os.environ, reason="TEST_DATA names no folder of data")
@pytest.mark.parametrize("task", learning.TASKS)
def test_real_labels(task: Task) -> None:
    dataset = load(task, Path(os.environ["TEST_DATA"]), task.options)
    assert (len(dataset.streams), dataset.questions, dataset.notes) == (2, 200, ())
