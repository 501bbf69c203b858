"""Episodic recall: every answer is derived again from the text of the chapters."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets import episodic
from nestmem.evals.datasets.base import Question, Stream, load

TARGETS = {name: aspect for aspect, name in episodic.TARGETS.items()} | {
    name: aspect for aspect, name in episodic.ONE.items()
}
PATTERNS = {
    "t": rf"\b(\d+ (?:{'|'.join(episodic.MONTHS)}))\b",
    "s": rf"\b[Tt]he ({'|'.join(episodic.PLACES)})\b",
    "p": rf"\b((?:{'|'.join(episodic.FIRST)}) (?:{'|'.join(episodic.LAST)}))\b",
    "c": rf"\b[Tt]he ({'|'.join(episodic.HAPPENINGS)})\b",
}


@pytest.fixture(scope="module")
def stream() -> Stream:
    return episodic.book(events=200, questions=120, seed=0)


def read(text: str) -> dict[str, str]:
    """Date, place, person and happening as a chapter's text says them, each exactly once."""
    found = {aspect: re.findall(pattern, text) for aspect, pattern in PATTERNS.items()}
    assert all(len(values) == 1 for values in found.values()), (text, found)
    return {aspect: f"the {values[0]}" if aspect == "s" else values[0] for aspect, values in found.items()}


def asked(question: Question) -> tuple[dict[str, str], str]:
    """What is given, and what is asked for."""
    given = question.text.split(". ")[0]
    cues = {}
    for aspect, phrase in episodic.CUES.items():
        match = re.search(re.escape(phrase).replace(r"\{\}", "(.+?)") + r"(?= and |$)", given)
        if match:
            cues[aspect] = match[1]
    target = re.search(rf"({'|'.join(sorted(TARGETS, key=len, reverse=True))})", question.text.split(". ")[1])
    assert cues and target, question.text
    return cues, TARGETS[target[1]]


def day(value: str) -> datetime:
    return datetime.strptime(f"{value} {episodic.START.year}", "%d %B %Y")


def test_answers_follow_from_the_text(stream: Stream) -> None:
    events = {turn.id: read(turn.text) for turn in stream.turns}
    for question in stream.questions:
        cues, target = asked(question)
        matching = [id_ for id_, event in events.items() if all(event[a] == v for a, v in cues.items())]
        assert sorted(question.evidence) == sorted(matching)
        by_time = sorted(matching, key=lambda id_: day(events[id_]["t"]))
        values = [events[id_][target] for id_ in by_time]
        if question.kind == "chronological":
            assert list(question.rubric) == values and question.answers == () and len(values) >= 3
        elif question.kind == "latest":
            assert question.answers == (values[-1],) == question.rubric
            assert set(question.rejected) == set(values[:-1]) and values[-1] not in values[:-1]
        else:
            assert set(question.rubric) == set(values)
            assert question.kind == episodic.kind_of(len(set(values)))
            assert question.answers == (question.rubric if len(question.rubric) == 1 else ())
            assert question.answerable is bool(values)


def test_kinds_are_even_and_texts_differ(stream: Stream) -> None:
    kinds = Counter(question.kind for question in stream.questions)
    assert set(kinds) == set(episodic.KINDS) and min(kinds.values()) >= 17
    assert len({question.text for question in stream.questions}) == 120
    assert all(q.answers[0] in q.candidates for q in stream.questions if q.answers)


def test_what_is_given_was_told_even_where_nothing_matches(stream: Stream) -> None:
    told = " ".join(turn.text for turn in stream.turns)
    for question in stream.questions:
        assert all(value.removeprefix("the ") in told for value in asked(question)[0].values())


def test_no_word_stands_in_two_values() -> None:
    lists = (episodic.FIRST, episodic.LAST, episodic.PLACES, episodic.HAPPENINGS)
    words = Counter(word for each in lists for value in each for word in value.lower().split())
    assert min(map(len, lists)) >= 40 and [word for word, count in words.items() if count > 1] == []
    said = " ".join((*episodic.DETAILS, *episodic.OPENERS, *episodic.MIDDLES, *episodic.ENDS))
    for values in (episodic.PLACES, episodic.HAPPENINGS):
        assert not any(value.lower() in said.lower() for value in values)


def test_books_differ_and_share_no_cluster() -> None:
    one, two = episodic.load(None, events=60, questions=20).streams
    assert one.id != two.id and {turn.text for turn in one.turns}.isdisjoint(turn.text for turn in two.turns)
    assert {q.cluster for q in one.questions}.isdisjoint(q.cluster for q in two.questions)


def test_seed_and_size(stream: Stream) -> None:
    assert stream == episodic.book(events=200, questions=120, seed=0)
    assert stream.turns != episodic.book(events=200, questions=120, seed=1).turns
    small = load(episodic.TASK, None, {"events": 20, "questions": 120, "books": 1, "seed": 0})
    assert small.questions + sum(small.left_out.values()) == 120 and small.left_out
    with pytest.raises(InputError, match="20 or more"):
        episodic.load(None, events=3)
