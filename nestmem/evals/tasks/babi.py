"""bAbI (Weston et al., arXiv 1502.05698): twenty tasks of questions about short stories, and their long form.

    John travelled to the hallway. Mary journeyed to the bathroom. Question: Where is John? Answer: hallway

In the long form, as in BABILong (arXiv 2406.10149), the sentences of the story stand in their order among sentences
of books, up to a given number of tokens, and the question comes at the end.

A question is asked with all statements of its story before it, and without the questions before it. It is
answered when greedy decoding gives the whole answer; questions of one story go together in the standard errors.
Every tenth story of the training file is for validation; the test file is the test. Books are read in parts by split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from nestmem.errors import InputError
from nestmem.evals import files
from nestmem.evals.stats import clustered_share
from nestmem.evals.tasks.base import (
    IGNORE,
    Batch,
    FixedLength,
    LogitsFunction,
    generator,
    make_batch,
)
from nestmem.evals.tasks.haystack import anywhere, between, part, sentences

TASKS = range(1, 21)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question of task 1..20: the statements before it, its answer, and the story it belongs to."""

    task: int
    name: str
    story: str
    statements: tuple[str, ...]
    question: str
    answer: str


def read(data: Path, tasks: Sequence[int] = TASKS) -> dict[str, tuple[Question, ...]]:
    """All questions of some tasks by split: train, validation, test."""
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown or not tasks:
        raise InputError(f"tasks are {list(tasks)}; expected some of 1 to 20")
    path = files.find_set(data, "babi", "babi_en_1k.jsonl")
    found: dict[str, list[Question]] = {"train": [], "validation": [], "test": []}
    seen = set()
    for row in files.rows(path, ("task", "name", "split", "text")):
        if row["task"] in tasks:
            seen.add((row["task"], row["split"]))
            for number, question in _questions(row, path):
                held = row["split"] == "train" and number % 10 == 9
                found["validation" if held else row["split"]].append(question)
    missing = [
        f"{task} {split}" for task in tasks for split in ("train", "test") if (task, split) not in seen
    ]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; expected a train and a test row for each task")
    return {split: tuple(questions) for split, questions in found.items()}


def _questions(row: dict[str, Any], path: Path) -> list[tuple[int, Question]]:
    """The questions of a file in the original format, each with the number of its story."""
    found: list[tuple[int, Question]] = []
    statements: list[str] = []
    story = -1
    for line in row["text"].splitlines():
        number, _, rest = line.partition(" ")
        if not number.isdigit() or not rest:
            raise InputError(f"{path}, task {row['task']}: {line!r} is no numbered line of bAbI")
        if number == "1":
            story, statements = story + 1, []
        asked, tab, answer = rest.partition("\t")
        if not tab:
            statements.append(rest.strip())
            continue
        question = Question(
            task=row["task"],
            name=row["name"],
            story=f"{row['task']}/{row['split']}/{story}",
            statements=tuple(statements),
            question=asked.strip(),
            answer=answer.split("\t")[0].strip(),
        )
        found.append((story, question))
    return found


@dataclass(frozen=True, kw_only=True)
class Babi(FixedLength):
    """Questions as token sequences, for training and for `judge_babi`.

    questions: from `read`. encode: text -> token ids, without special tokens at the ends. book: text for the long
    form. length: tokens of a training sequence; 0 is the story alone, and then rows of a batch are padded on the
    right with `pad`. lengths: of the tests. start: ids in front of everything.
    """

    questions: dict[str, tuple[Question, ...]]
    encode: Callable[[str], list[int]]
    vocab_size: int
    book: str = ""
    length: int = 0
    lengths: tuple[int, ...] = (0,)
    pad: int = 0
    start: tuple[int, ...] = ()
    seed: int = 0

    version: ClassVar[str] = "babi/1"

    def __post_init__(self) -> None:
        if any((self.length, *self.lengths)) and not self.book.strip():
            raise InputError(
                "the long form pads stories with book text; give book, or length=0 and lengths=(0,)"
            )

    @property
    def name(self) -> str:
        return "babi"

    def _draw(self, rng: np.random.Generator, size: int, length: int, split: str) -> Batch:
        """`size` questions drawn at random from a split."""
        asked = self.questions[split]
        return self.batch_of([asked[i] for i in rng.integers(len(asked), size=size)], rng, length, split)

    def batch_of(
        self, questions: Sequence[Question], rng: np.random.Generator, length: int, split: str
    ) -> Batch:
        """These questions; `rng` places their statements in the book."""
        rows = [self._row(question, rng, length, split) for question in questions]
        longest = max(len(tokens) for tokens, _ in rows)
        return make_batch(
            np.array([tokens + [self.pad] * (longest - len(tokens)) for tokens, _ in rows]),
            np.array([labels + [IGNORE] * (longest - len(labels)) for _, labels in rows]),
        )

    def _row(
        self, question: Question, rng: np.random.Generator, length: int, split: str
    ) -> tuple[list[int], list[int]]:
        statements = [self.encode(f" {statement}") for statement in question.statements]
        ending = self.encode(f" Question: {question.question} Answer:")
        answer = self.encode(f" {question.answer}")
        if length == 0:
            body = [token for statement in statements for token in statement]
        else:
            space = length - len(self.start) - sum(map(len, statements)) - len(ending) - len(answer)
            if space < 0:
                raise InputError(
                    f"length is {length}; a question of task {question.task} needs {length - space} tokens without "
                    "any book; give a larger length, or 0 for the story alone"
                )
            text = part(self.book, split)
            hay = sentences(self.encode, text, tokens=space, place=anywhere(rng, text, space))
            places = np.sort(rng.integers(0, len(hay) + 1, len(statements)))
            body = between(hay, statements, places)
        told = [*self.start, *body, *ending]
        return told + answer, [IGNORE] * len(told) + answer


@torch.no_grad()
def judge_babi(
    task: Babi,
    logits_fn: LogitsFunction,
    *,
    per_task: int = 100,
    batch_size: int = 16,
    split: str = "test",
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """{length: {"all": share, "tasks": {"1 single-supporting-fact": share, ...}}}, by `task.lengths`.

    The first `per_task` questions of each task in an order that depends on the seed only. Shares are of answers
    that are wholly right, with standard errors clustered by story.
    """
    if per_task < 1:
        raise InputError(f"per_task is {per_task}; expected at least 1")
    record: dict[str, Any] = {}
    by_task: dict[str, list[Question]] = {}
    for question in task.questions[split]:
        by_task.setdefault(f"{question.task} {question.name}", []).append(question)
    for length in task.lengths:
        right: dict[str, list[float]] = {}
        stories: dict[str, list[str]] = {}
        for number, (name, questions) in enumerate(by_task.items()):
            rng = generator(name, task.seed, split, number, 1, length)
            chosen = [questions[i] for i in rng.permutation(len(questions))[:per_task]]
            right[name], stories[name] = [], [question.story for question in chosen]
            for at in range(0, len(chosen), batch_size):
                batch = task.batch_of(chosen[at : at + batch_size], rng, length, split).to(device)
                right[name] += task.score(logits_fn(batch.input_ids), batch).tolist()
        record[str(length)] = {
            "all": clustered_share(list(chain(*right.values())), list(chain(*stories.values()))).record(),
            "tasks": {name: clustered_share(right[name], stories[name]).record() for name in right},
        }
    return record
