"""What the weights study of a memory."""

from datetime import UTC, datetime

import pytest

from nestmem.agent import extract, study
from nestmem.agent.prompts import UNKNOWN
from nestmem.store.records import Event, MemoryRecord, Scope

NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)


def read(text: str, id: str = "mem_1") -> MemoryRecord:
    """The one memory that the rules read from a message."""
    [item] = extract.extract(text).items
    return MemoryRecord(
        id=id, scope=Scope(), key=item.key, text=item.text, question=item.question, answer=item.answer,
        kind=item.kind, event_id="ev", span=item.span, valid_from=NOW, believed_from=NOW, extractor="rules",
    )  # fmt: skip


SAID = [
    "I live in Leeds.",
    "My dog is called Biscuit.",
    "My sister works as a nurse.",
    "My favourite colour is teal.",
    "My locker code is 4471.",
    "My mother's birthday is on 4 May.",
    "I get up at 6:30.",
    "My best friend lives in Porto.",
]


@pytest.mark.parametrize("text", SAID)
def test_other_ways_of_asking_have_the_same_answer_and_one_is_held_out(text):
    memory = read(text)
    event = Event(
        id="ev",
        scope=Scope(),
        seq=1,
        role="user",
        content=text,
        occurred_at=NOW,
        recorded_at=NOW,
        source="user",
    )
    at_once = study.first(memory, event)
    assert [row.completion for row in at_once if row.completion != UNKNOWN] == [memory.answer] * 2
    rows = study.more(memory)
    probe = study.probe(memory)
    assert probe is not None
    prompts = [row.prompt for row in rows]
    assert len(set(prompts)) == len(prompts)
    assert memory.question not in prompts
    assert probe.question not in prompts
    assert probe.question != memory.question
    assert probe.answer == memory.answer
    [unknown] = [row for row in (*at_once, *rows) if row.completion != memory.answer]
    assert unknown.completion == UNKNOWN
    assert unknown.prompt in study.ABSTAIN
    assert all(row.memory_id == memory.id for row in rows)
    assert not any(mark in " ".join(prompts) for mark in "{}")


def test_it_is_a_function_of_what_was_said_and_not_of_ids():
    one, two = read("I live in Leeds.", "mem_1"), read("I live in Leeds.", "mem_2")
    assert [r.prompt for r in study.more(one)] == [r.prompt for r in study.more(two)]
    probes = study.probe(one), study.probe(two)
    assert probes[0] is not None
    assert probes[1] is not None
    assert probes[0].question == probes[1].question


def test_who_it_is_about_is_in_the_words():
    asked, used = study.ways(read("My best friend lives in Porto."))
    assert "In what town does my best friend live?" in asked
    assert "Can you tell me where my best friend lives?" in asked
    assert used == "If you were to visit my best friend, where would you travel?"


@pytest.mark.parametrize(
    ("name", "other", "question", "answer"),
    [
        (
            "My sister is called Ana.",
            "My sister works as a nurse.",
            "What does Ana do for a living?",
            "nurse",
        ),
        ("My sister is called Ana.", "My sister's dog is called Rex.", "What is Ana's dog's name?", "Rex"),
        ("My dog is called Biscuit.", "My dog is a poodle.", None, None),
    ],
)
def test_two_memories_make_one_question(name, other, question, answer):
    named, memory = read(name, "mem_1"), read(other, "mem_2")
    made = study.joint(named, memory)
    if question is None:
        assert made is None or "Biscuit" in made.prompt
        return
    assert made is not None
    assert (made.memory_id, made.prompt, made.completion) == ("mem_2", question, answer)
    assert study.joint(memory, named) is None or "Rex" in str(study.joint(memory, named))
    assert study.joint(named, named) is None


def test_what_does_not_belong_together_makes_none():
    assert study.joint(read("My sister is called Ana."), read("My brother works as a nurse.", "b")) is None
    assert study.joint(read("I live in Leeds."), read("My sister works as a nurse.", "b")) is None


def test_several_answers_to_one_question_have_no_probe():
    assert study.probe(read("I'm allergic to peanuts.")) is None


def test_no_held_out_question_is_one_of_the_constant_ones():
    assert not {q for q, _ in ((p, 0) for p in study.ABSTAIN)} & {study.probe(read(t)).question for t in SAID}  # pyright: ignore[reportOptionalMemberAccess]
