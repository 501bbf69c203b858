"""Deletion, cascade, absence: what was told, when it stops to be right, and that nothing else gives it away."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from nestmem.errors import InputError
from nestmem.evals import readers, running
from nestmem.evals.datasets import cascade, forgetting
from nestmem.evals.datasets.telling import holds
from nestmem.evals.scorers import SCORERS
from nestmem.evals.systems import baselines
from nestmem.evals.systems.base import Setup
from nestmem.evals.veil import Veil

LIVES = 8
KINDS = {kind.name: kind for kind in baselines.KINDS}
DELETION, CASCADE, ABSENCE = forgetting.TASKS


@pytest.fixture(scope="module")
def deletion():
    return forgetting.load_deletion(None, lives=LIVES)


@pytest.fixture(scope="module")
def cascades():
    return cascade.load(None, lives=LIVES)


@pytest.fixture(scope="module")
def absence():
    return forgetting.load_absence(None, lives=LIVES)


def test_deleted_values_stand_in_the_forgotten_messages_alone(deletion):
    for stream in deletion.streams:
        (forget,) = stream.forgets
        for question in stream.questions:
            if question.kind.startswith("deleted"):
                told = {turn.id for turn in stream.turns if holds(turn.text, question.rejected)}
                assert told and told <= set(forget.turns)
                assert not question.answerable and question.after >= forget.after


def test_a_forget_leaves_nothing_of_what_was_told_and_takes_nothing_else(deletion):
    for stream in deletion.streams:
        (forget,) = stream.forgets
        kept = [turn for turn in stream.turns if turn.id not in forget.turns]
        for question in stream.questions:
            if question.kind.startswith("kept"):
                assert not set(question.evidence) & set(forget.turns)
                assert any(holds(turn.text, question.answers) for turn in kept)


def test_deleted_facts_are_known_before_and_kept_ones_throughout(deletion):
    for stream in deletion.streams:
        kinds = Counter(question.kind for question in stream.questions)
        assert kinds == {"before": 7, "deleted": 3, "kept": 4, "deleted, later": 3, "kept, later": 4}
        before = {q.text: q for q in stream.questions if q.kind == "before"}
        (forget,) = stream.forgets
        assert all(question.after < forget.after and not question.rejected for question in before.values())
        for question in stream.questions:
            if question.kind == "deleted":
                assert set(before[question.text].answers) <= set(question.rejected)
            elif question.kind == "kept":
                assert before[question.text].answers == question.answers
        later = [q.after for q in stream.questions if q.kind.endswith("later")]
        assert min(later) == max(later) == len(stream.turns) > forget.after


def test_each_life_deletes_a_replaced_fact_and_one_told_twice(deletion):
    for stream in deletion.streams:
        gone = [q for q in stream.questions if q.kind == "deleted"]
        assert sorted(len(q.rejected) for q in gone) == [1, 1, 2]
        told = [sum(holds(turn.text, q.rejected) for turn in stream.turns) for q in gone]
        assert sorted(told) == [1, 2, 2] and len(stream.forgets[0].turns) == 5


def test_the_request_is_said_too_and_names_no_value(deletion):
    for stream in deletion.streams:
        (forget,) = stream.forgets
        last = stream.turns[forget.after - 1].session
        session = [turn.text for turn in stream.turns if turn.session == last]
        values = [value for q in stream.questions if q.kind == "deleted" for value in q.rejected]
        assert (
            sum(
                "forget" in text or "strike" in text or "remember" in text or "knew" in text
                for text in session
            )
            >= 3
        )
        assert not any(holds(text, values) for text in session)


def test_a_deleted_question_has_the_candidates_that_it_had_before(deletion):
    for stream in deletion.streams:
        before = {q.text: q.candidates for q in stream.questions if q.kind == "before"}
        for question in stream.questions:
            if question.kind.startswith("deleted"):
                assert question.candidates == before[question.text] and len(question.candidates) >= 2
                assert question.candidates[0] == question.rejected[-1]


def test_a_dependent_is_stale_only_after_its_ground_changed(cascades):
    for stream in cascades.streams:
        place = {turn.id: number for number, turn in enumerate(stream.turns)}
        before = {q.text: q for q in stream.questions if q.kind == "before"}
        assert len(before) == 4
        stale = [q for q in stream.questions if q.kind == "cascade"]
        changed = [q for q in stream.questions if q.kind == "changed"]
        assert len(stale) == len(changed) == 2
        for question, ground in zip(stale, changed, strict=True):
            asked = before[question.text]
            assert question.rejected == asked.answers and not question.answerable
            assert question.evidence == (*asked.evidence, *ground.evidence)
            assert place[question.evidence[0]] < asked.after <= place[question.evidence[1]] < question.after
            assert holds(stream.turns[place[ground.evidence[0]]].text, ground.answers)
            assert ground.rejected and not holds(
                stream.turns[place[ground.evidence[0]]].text, ground.rejected
            )


def test_what_did_not_change_stays_known(cascades):
    for stream in cascades.streams:
        before = {q.text: q for q in stream.questions if q.kind == "before"}
        same = [q for q in stream.questions if q.kind.startswith("not affected")]
        assert len(same) == 3
        for question in same:
            assert question.answers == before[question.text].answers and question.answerable
        stale = {q.text for q in stream.questions if q.kind.startswith("cascade")}
        assert not stale & {q.text for q in same}
        (restated,) = [q for q in stream.questions if q.kind == "restated"]
        assert restated.text in stale and restated.rejected == before[restated.text].answers
        assert restated.answers != restated.rejected
        assert sum(q.kind == "independent" for q in stream.questions) == 3


def test_every_answer_of_a_cascade_life_is_told_once(cascades, absence):
    for stream in (*cascades.streams, *absence.streams):
        for question in stream.questions:
            if question.answers:
                told = [turn.id for turn in stream.turns if holds(turn.text, question.answers)]
                assert told == list(question.evidence), question
                assert question.candidates[0] == question.answers[0]


def test_dependencies_are_written_out():
    names = [dependency.name for dependency in cascade.DEPENDENCIES]
    assert len(set(names)) == len(names) >= 8
    everything = [value for d in cascade.DEPENDENCIES for value in (*d.grounds, *d.values)]
    for dependency in cascade.DEPENDENCIES:
        for text in (
            dependency.told,
            dependency.changed,
            dependency.elsewhere,
            dependency.dependent,
            dependency.again,
        ):
            assert text.count("{v}") == 1
        for text in (dependency.question, dependency.ground_question):
            assert "{" not in text and not holds(text, everything)
        for value in (*dependency.grounds, *dependency.values):
            assert sum(holds(other, [value]) for other in everything) == 1, value


def test_absent_things_are_not_told(absence):
    for stream in absence.streams:
        kinds = Counter(question.kind for question in stream.questions)
        assert kinds == {"told": 5, "absent attribute": 4, "absent person": 3}
        for question in stream.questions:
            assert question.answerable == (question.kind == "told") == bool(question.evidence)


@pytest.mark.parametrize("task", forgetting.TASKS, ids=lambda task: task.name)
def test_one_seed_gives_one_dataset(task):
    first = task.load(None, lives=2)
    assert first.digest() == task.load(None, lives=2).digest()
    assert first.digest() != task.load(None, lives=2, seed=1).digest()
    with pytest.raises(InputError, match="lives=0"):
        task.load(None, lives=0)


def test_questions_do_not_hold_their_answers(deletion, cascades, absence):
    for dataset in (deletion, cascades, absence):
        for stream in dataset.streams:
            for question in stream.questions:
                assert not holds(question.text, [*question.answers, *question.rejected]), question


def played(spec: str, reader: str, stream, tmp_path) -> list:
    """The lines of one stream through one system."""
    veil = Veil(stream=stream, number=0)
    setup = Setup(
        folder=tmp_path,
        key=veil.key(),
        donor=None,
        reader=readers.scripted(reader, stream) or readers.NoReader(),
        embedder=None,
    )
    chosen = running.Chosen(spec=spec, kind=KINDS[spec], options={})
    return running.play("deletion", chosen, veil, setup)[0]


def test_a_history_that_forgets_recalls_what_was_deleted_only_before(deletion, tmp_path):
    for line in played("full", "none", deletion.streams[0], tmp_path):
        if line.question.answerable:
            assert SCORERS["answer_in_context"](line) == 1
        else:
            assert SCORERS["stale_in_context"](line) == 0


def test_the_headline_of_deletion_needs_both_to_keep_and_to_forget(deletion, tmp_path):
    assert DELETION.without_reader == "kept_and_gone" and {"kept_and_gone", "probe_stale"} <= set(
        DELETION.scorers
    )
    headline = SCORERS[DELETION.without_reader]
    (stream,) = deletion.streams[:1]
    assert {headline(line) for line in played("full", "none", stream, tmp_path)} == {1.0}
    nothing = [headline(line) for line in played("none", "none", stream, tmp_path)]
    assert (nothing.count(0.0), nothing.count(1.0)) == (15, 6)
    # Without the forget all of it is kept.
    kept = [headline(line) for line in played("full", "none", replace(stream, forgets=()), tmp_path)]
    assert (kept.count(1.0), kept.count(0.0)) == (15, 6)


def test_weights_that_still_know_a_deleted_value_are_stale(deletion, tmp_path):
    for line in played("none", "none", deletion.streams[0], tmp_path):
        first = (-1.0, *(-2.0 for _ in line.question.candidates[1:]))
        last = tuple(reversed(first))
        if line.question.kind.startswith("deleted"):
            assert SCORERS["probe_stale"](replace(line, probe=first)) == 1.0
            assert SCORERS["probe_stale"](replace(line, probe=last)) == float(
                line.question.candidates[-1] in line.question.rejected
            )
            assert SCORERS["probe_first"](replace(line, probe=first)) is None
        else:
            assert SCORERS["probe_stale"](replace(line, probe=first)) is None


@pytest.mark.parametrize(("reader", "share"), [("perfect", 1.0), ("useless", 0.0)])
@pytest.mark.parametrize("task", forgetting.TASKS, ids=lambda task: task.name)
def test_scripted_readers_bracket_the_headline(task, reader, share, tmp_path):
    (stream,) = task.load(None, lives=1).streams
    lines = played("none", reader, stream, tmp_path)
    assert {SCORERS[task.scorers[0]](line) for line in lines} == {share}
    assert {SCORERS["abstains"](line) for line in lines if not line.question.answerable} == {share}
