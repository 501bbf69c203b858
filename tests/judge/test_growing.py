"""Growing histories: the same life at every size, and every answer where it was told and nowhere else."""

from __future__ import annotations

import random

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets import editing, forgetting, growing, incorporation, lives, telling
from nestmem.evals.datasets.base import check_options
from nestmem.evals.datasets.telling import holds
from nestmem.evals.scorers import SCORERS

SIZES = "1,3,12"


@pytest.fixture(scope="module")
def dataset():
    return growing.load(None, sizes=SIZES, lives=2, questions=2)


def test_streams_have_their_sizes_and_all_kinds(dataset):
    assert [stream.id for stream in dataset.streams] == [
        f"size-{size:04d}/{life}" for size in (1, 3, 12) for life in (0, 1)
    ]
    for stream in dataset.streams:
        size = int(stream.id[5:9])
        sessions = [turn.session for turn in stream.turns]
        assert len(set(sessions)) == size and sessions == sorted(sessions)
        assert [sum(q.kind == kind for q in stream.questions) for kind in growing.KINDS] == [2] * 6
        assert all(question.after == len(stream.turns) for question in stream.questions)


def test_a_life_is_the_same_at_every_size(dataset):
    def asked(stream):
        return [(q.kind, q.text, q.answers, q.rejected, q.candidates, q.cluster) for q in stream.questions]

    small, middle, large = (dataset.streams[place] for place in (0, 2, 4))
    assert asked(small) == asked(middle) == asked(large)
    assert asked(small) != asked(dataset.streams[1])
    assert small.characters < middle.characters < large.characters


def test_an_answer_stands_in_its_evidence_and_nowhere_else(dataset):
    for stream in dataset.streams:
        for question in stream.questions:
            holding = [turn.id for turn in stream.turns if holds(turn.text, question.answers)]
            assert holding == list(question.evidence), question
            assert not holds(question.text, [*question.answers, *question.rejected])


def test_kinds_mean_what_they_say(dataset):
    for stream in dataset.streams:
        turns = {turn.id: (place, turn) for place, turn in enumerate(stream.turns)}
        for question in stream.questions:
            if question.kind == "abstention":
                assert not question.answerable and not question.answers and not question.evidence
                continue
            place, turn = turns[question.evidence[0]]
            assert turn.role == ("assistant" if question.kind == "assistant_facts" else "user")
            assert question.candidates[0] == question.answers[0] and len(question.candidates) >= 2
            assert bool(question.rejected) == (question.kind == "changing_facts")
            for old in question.rejected:
                told = [p for p, t in turns.values() if holds(t.text, [old])]
                assert told and max(told) < place, "an older value is told before the last one, and not after"


def test_times_go_up_and_questions_come_last(dataset):
    for stream in dataset.streams:
        times = [turn.at for turn in stream.turns]
        assert times == sorted(times)
        assert all(question.at > times[-1] for question in stream.questions)


def test_one_seed_gives_one_dataset():
    first = growing.load(None, sizes="2", lives=1, questions=1)
    assert first.digest() == growing.load(None, sizes="2", lives=1, questions=1).digest()
    assert first.digest() != growing.load(None, sizes="2", lives=1, questions=1, seed=1).digest()


def test_more_talk_makes_a_longer_history():
    short = growing.load(None, sizes="4", lives=1, questions=1, talk=1)
    long = growing.load(None, sizes="4", lives=1, questions=1, talk=8)
    assert long.streams[0].characters > 2 * short.streams[0].characters


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sizes": "1,two"}, "whole numbers"),
        ({"sizes": "4,4"}, "each once"),
        ({"sizes": "0"}, "from 1"),
        ({"lives": 0}, "lives=0"),
        ({"questions": 99}, "questions=99"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(InputError, match=said):
        growing.load(None, **options)


def test_the_task_describes_what_load_takes(dataset):
    options = check_options(growing.TASK, {"sizes": "1", "lives": "1"})
    assert growing.TASK.load(None, **options).questions == 18


@pytest.mark.parametrize(
    "task",
    [growing.TASK, incorporation.TASK, lives.TASK, *editing.TASKS, *forgetting.TASKS],
    ids=lambda task: task.name,
)
def test_tasks_name_scores_that_there_are(task):
    assert len(set(task.scorers)) == len(task.scorers)
    assert all(name in SCORERS for name in task.scorers)
    assert SCORERS[task.scorers[0]].needs == "reader"
    assert task.without_reader in task.scorers and SCORERS[task.without_reader].needs != "reader"
    assert bool(task.fetch) == (task.folder is not None)


def test_talk_holds_no_guarded_value_and_does_not_repeat_itself():
    rng, said, replies = random.Random("talk"), set(), []
    for _ in range(50):
        talk = telling.small_talk(rng, ["straw", "torch", "winter"], exchanges=4, said=said)
        replies += [reply for _, reply in talk]
        assert len({user for user, _ in talk}) == 4
        assert not any(holds(f"{user} {reply}", ["straw", "torch", "winter"]) for user, reply in talk)
    assert len(set(replies)) == len(replies) == 200
