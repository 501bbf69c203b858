"""bAbI on stories written here."""

import json

import pytest
import torch

from nestmem.errors import InputError
from nestmem.evals.tasks import babi
from nestmem.evals.tasks.babi import Babi, judge_babi
from nestmem.evals.tasks.base import IGNORE
from nestmem.evals.tasks.haystack import PARTS, between, sentences

BOOK = " ".join(f"Line {i} of the book says nothing." for i in range(2000))


def letters(text):
    return [ord(c) for c in text]


def spelled(ids):
    return "".join(chr(i) for i in ids if i > 0)


def story(name, place):
    lines = (f"1 {name} went to the {place}.", "2 Nobody spoke.", f"3 Where is {name}? \t{place}\t1")
    return "\n".join((*lines, f"4 {name} slept.", f"5 Who slept? \t{name}\t4", ""))


PLACES = ["attic", "barn", "cellar", "den"]


@pytest.fixture
def data(tmp_path):
    rows = []
    for split, names in (("train", 20), ("test", 6)):
        for task in (1, 2):
            text = "".join(story(f"P{task}{split[0]}{i}", PLACES[i % 4]) for i in range(names))
            rows.append({"task": task, "name": f"task-{task}", "split": split, "text": text})
    (tmp_path / "babi").mkdir()
    (tmp_path / "babi/babi_en_1k.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.fixture
def questions(data):
    return babi.read(data, tasks=(1, 2))


def task_of(questions, **options):
    return Babi(questions=questions, encode=letters, vocab_size=256, **options)


def test_questions_and_their_statements(questions):
    assert {split: len(found) for split, found in questions.items()} == {
        "train": 72,
        "validation": 8,
        "test": 24,
    }
    first, second = questions["test"][:2]
    assert first.statements == ("P1t0 went to the attic.", "Nobody spoke.")
    assert (first.question, first.answer, first.story) == ("Where is P1t0?", "attic", "1/test/0")
    assert second.statements == (*first.statements, "P1t0 slept.")
    stories = {split: {q.story for q in found} for split, found in questions.items()}
    assert not stories["train"] & stories["validation"]


def test_a_plain_batch(questions):
    task = task_of(questions)
    batch = task.batch(0, 8)
    again = task.batch(0, 8)
    assert torch.equal(batch.input_ids, again.input_ids)
    for tokens, labels in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
        text = spelled(tokens)
        answer = spelled(label for label in labels if label != IGNORE)
        assert text.endswith(f" Answer:{answer}") and " Question: " in text
        asked = [t for t, label in enumerate(labels) if label != IGNORE]
        assert [tokens[t] for t in asked] == letters(answer)


def test_the_long_form_keeps_statements_in_order(questions):
    task = task_of(questions, book=BOOK, length=500, lengths=(500,), start=(1,))
    batch = task.batch(0, 6, split="test")
    assert batch.input_ids.shape == (6, 500)
    low, high = (share * 2000 for share in PARTS["test"])
    for tokens in batch.input_ids.tolist():
        assert tokens[0] == 1
        text = spelled(tokens)
        went, spoke = text.index(" went to the "), text.index(" Nobody spoke.")
        assert went < spoke < text.index(" Question: ")
        assert "Line " in text
        numbers = [int(piece.split()[0]) for piece in text.split("Line ")[1:] if piece.split()[0].isdigit()]
        assert all(low - 2 <= n < high for n in numbers[:-1])
    seen = {tuple(row) for row in task.batch(0, 6, split="train").input_ids.tolist()}
    assert not seen & {tuple(row) for row in batch.input_ids.tolist()}


def answering(task, questions, wrong_task=None):
    """A reader that finds the answer in the text of the sequence."""
    answers = {(q.statements[0], q.question): q for found in questions.values() for q in found}

    def logits_fn(input_ids):
        logits = torch.zeros(*input_ids.shape, 256)
        for row, tokens in enumerate(input_ids.tolist()):
            text = spelled(tokens)
            for (first, asked), q in answers.items():
                if first in text and f"{asked} Answer:" in text and q.task != wrong_task:
                    at = len(text[: text.index(" Answer:")]) + len(" Answer:")
                    for offset, token in enumerate(letters(f" {q.answer}")):
                        logits[row, at + offset - 1, token] = 1
        return logits

    return logits_fn


def test_judging_by_task_and_length(questions):
    task = task_of(questions, book=BOOK, lengths=(0, 400))
    good = judge_babi(task, answering(task, questions), per_task=7, batch_size=3)
    assert list(good) == ["0", "400"]
    for found in good.values():
        assert found["all"]["mean"] == 1.0 and found["all"]["n"] == 14
        assert {name: part["n"] for name, part in found["tasks"].items()} == {"1 task-1": 7, "2 task-2": 7}
    half = judge_babi(task, answering(task, questions, wrong_task=2), per_task=7)["0"]
    assert [half["tasks"][name]["mean"] for name in ("1 task-1", "2 task-2")] == [1.0, 0.0]
    assert half["all"]["mean"] == 0.5 and half["all"]["clusters"] <= 12
    nothing = judge_babi(task, lambda ids: torch.zeros(*ids.shape, 256), per_task=3)
    assert nothing["400"]["all"]["mean"] == 0.0


def test_what_does_not_fit(questions, data, tmp_path):
    with pytest.raises(InputError, match="give book, or length=0"):
        task_of(questions, length=100)
    with pytest.raises(InputError, match=r"needs .* tokens without any book"):
        task_of(questions, book=BOOK, length=20).batch(0, 1)
    with pytest.raises(InputError, match="some of 1 to 20"):
        babi.read(data, tasks=(0, 1))
    with pytest.raises(InputError, match="lacks 3 train, 3 test"):
        babi.read(data, tasks=(1, 3))
    with pytest.raises(InputError, match="per_task is 0"):
        judge_babi(task_of(questions), lambda ids: ids, per_task=0)
    with pytest.raises(InputError, match="Get it from: the bAbI tasks"):
        babi.read(tmp_path / "nothing")
    row = {"task": 1, "name": "x", "split": "train", "text": "Mary went."}
    (data / "babi/babi_en_1k.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="no numbered line"):
        babi.read(data, tasks=(1,))


def test_a_haystack_is_cut_to_its_size_and_starts_over():
    found = sentences(letters, "One two.  Three\nfour. Five", tokens=60, place=9)
    assert sum(map(len, found)) == 60
    assert [spelled(piece) for piece in found[:4]] == [" Three four.", " Five", " One two.", " Three four."]
    assert sentences(letters, "One.", tokens=0) == []
    assert between([[1], [2]], [[7], [8], [9]], [0, 0, 2]) == [7, 8, 1, 2, 9]
