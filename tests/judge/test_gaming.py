"""Replies that know nothing but how they are scored: each headline of a reader gives them less than a right one.

Who dumps quotes all that was said; who hedges names three values, the right one among them, and takes them back; who
abstains says that nothing is known. `contains` and `rubric` do not punish what else a reply holds, and say so: there
a dump may come up to a right reply, but not above it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import mean

import pytest

from nestmem.evals.datasets import cascade, episodic, forgetting, growing, learning, locomo, personamem
from nestmem.evals.datasets.base import Dataset, Question, Stream
from nestmem.evals.datasets.catalogue import TASKS
from nestmem.evals.log import Line
from nestmem.evals.scorers import SCORERS
from nestmem.evals.systems.base import Reading, Reply
from nestmem.evals.systems.scripted import right_reply

FIXTURES = Path(__file__).parent / "fixtures"
LENIENT = {"contains", "rubric"}
"""Headlines under which a dump may equal a right reply."""


def dump(stream: Stream, question: Question) -> str:
    """All that was said so far."""
    return "\n".join(turn.text for turn in stream.turns[: question.after])


def hedge(stream: Stream, question: Question) -> str:
    """Three values, the right one (or the one that was right once) first, taken back."""
    return f"{' or '.join(_values(stream, question))}, but I don't know."


def listing(stream: Stream, question: Question) -> str:
    """Three values, the right one first."""
    return f"{' or '.join(_values(stream, question))}."


def _values(stream: Stream, question: Question) -> list[str]:
    own = (
        *question.answers[:1],
        *question.choices,
        *question.rejected,
        *question.rubric,
        *question.candidates,
    )
    others = (answer for other in stream.questions for answer in (*other.answers[:1], *other.rubric))
    return list(islice(dict.fromkeys((*own, *others)), 3))


def abstain(stream: Stream, question: Question) -> str:
    """Nothing is known."""
    return "I don't know."


def _labels(folder: Path) -> Dataset:
    rows = [
        [f"{word} my {thing}", f"{word}_{thing}"] for thing in ("card", "loan") for word in ("lose", "find")
    ]
    parts = {
        "train": [[f"{text} {n}", label] for text, label in rows for n in ("now", "then", "here")],
        "val": [],
        "test": [[f"please {text}", label] for text, label in rows],
    }
    (folder / "data_full.json").write_text(json.dumps(parts))
    return learning.load_clinc(folder, intents=4, shots=3, questions=4, streams=1)


LOADED: dict[str, tuple[str, Callable[[Path], Dataset]]] = {
    "locomo": ("token_f1", lambda folder: locomo.load(FIXTURES / "locomo")),
    "deletion": ("contains", lambda folder: forgetting.load_deletion(None, lives=2)),
    "cascade": ("contains", lambda folder: cascade.load(None, lives=2)),
    "absence": ("contains", lambda folder: forgetting.load_absence(None, lives=2)),
    "growing": ("contains", lambda folder: growing.load(None, sizes="1,4", lives=1)),
    "personamem": ("choice", lambda folder: personamem.load(FIXTURES / "personamem_32k")),
    "episodic": ("rubric", lambda folder: episodic.TASK.load(None, events=40, questions=20, books=1)),
    "learn_clinc": ("exact", _labels),
}


def scored(
    headline: str, dataset: Dataset, say: Callable[[Stream, Question], str]
) -> list[tuple[Question, float]]:
    """The questions that the headline applies to, each with its score."""
    found = []
    for stream in dataset.streams:
        for question in stream.questions:
            reply = Reply(reading=Reading(text=say(stream, question)))
            value = SCORERS[headline](
                Line(task="t", system="x", stream=stream.id, question=question, reply=reply)
            )
            if value is not None:
                found.append((question, value))
    assert found
    return found


def test_every_headline_of_a_reader_is_gamed_here() -> None:
    headlines = {task.scorers[0] for task in TASKS.values() if SCORERS[task.scorers[0]].needs == "reader"}
    assert headlines == {headline for headline, _ in LOADED.values()}
    assert {name: TASKS[name].scorers[0] for name in LOADED} == {name: LOADED[name][0] for name in LOADED}
    for name in headlines:
        assert ("not punished" in SCORERS[name].about) == (name in LENIENT)


@pytest.mark.parametrize("task", LOADED)
def test_gaming_replies_stay_below_right_ones(task: str, tmp_path: Path) -> None:
    headline, load = LOADED[task]
    dataset = load(tmp_path)
    share = {
        say.__name__: mean(value for _, value in scored(headline, dataset, say))
        for say in (dump, hedge, listing, abstain)
    }
    right = scored(headline, dataset, lambda _, question: right_reply(question))
    assert {value for _, value in right} == {1.0}
    assert share["hedge"] < 1 and share["abstain"] < 1, share
    for lenient in ("dump", "listing"):
        assert share[lenient] <= 1 if headline in LENIENT else share[lenient] < 0.8, share


@pytest.mark.parametrize("task", [name for name, (headline, _) in LOADED.items() if headline != "rubric"])
def test_who_hedges_or_abstains_never_answers(task: str, tmp_path: Path) -> None:
    headline, load = LOADED[task]
    dataset = load(tmp_path)
    for say in (hedge, abstain):
        assert all(value < 1 for question, value in scored(headline, dataset, say) if question.answerable)
    if headline == "contains":
        for question, value in scored(headline, dataset, hedge):
            # Three guesses and "I don't know": wrong where something was told once, deleted or replaced.
            assert value == float(not question.answerable and not question.rejected)


def test_a_dump_does_not_say_that_nothing_is_known() -> None:
    for load in (forgetting.load_deletion, forgetting.load_absence):
        dataset = load(None, lives=2)
        assert {v for q, v in scored("contains", dataset, dump) if not q.answerable} == {0.0}
        assert {v for q, v in scored("contains", dataset, abstain) if not q.answerable} == {1.0}
