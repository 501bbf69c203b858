"""The loader of LongMemEval, on questions written here in the form of its files."""

import gzip
import json
import lzma
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nestmem.errors import InputError
from nestmem.evals import files
from nestmem.evals.datasets import base
from nestmem.evals.datasets.longmemeval import TASKS, accepted, load, load_pooled

FIXTURES = Path(__file__).parent / "fixtures"
S = FIXTURES / "longmemeval_s"
REAL = os.environ.get("TEST_DATA")


@pytest.fixture
def questions():
    return json.loads((S / "longmemeval_s_cleaned.json").read_text(encoding="utf-8"))


def written(folder, questions):
    (folder / "longmemeval_s.json").write_text(json.dumps(questions), encoding="utf-8")
    return folder


def as_pool(folder, questions):
    """The same questions in the form that keeps each session once."""
    pool = {}
    rows = []
    for question in questions:
        rows.append({key: value for key, value in question.items() if key != "haystack_sessions"})
        pool |= dict(zip(question["haystack_session_ids"], question["haystack_sessions"], strict=True))
    parts = [list(pool.items())[0::2], list(pool.items())[1::2]]
    for number, part in enumerate(parts):
        lines = [json.dumps({"id": id_, "turns": turns}, ensure_ascii=False) for id_, turns in part]
        (folder / f"sessions-{number}.jsonl.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    (folder / "questions.jsonl.gz").write_bytes(
        gzip.compress("\n".join(json.dumps(row) for row in rows).encode())
    )
    return folder


def asked(dataset):
    return {question.id: question for stream in dataset.streams for question in stream.questions}


def test_one_stream_for_each_question_in_the_order_of_dates():
    dataset = load(S)
    stream = dataset.streams[0]
    assert [stream.id for stream in dataset.streams] == ["a1", "a1_abs", "b1", "b2", "c1", "d1"]
    assert list(dict.fromkeys(turn.session for turn in stream.turns)) == ["f1", "f2", "answer_a_1"]
    assert stream.turns[0].at == datetime(2023, 5, 3, 7, 3, tzinfo=UTC)
    assert [turn.role for turn in stream.turns] == ["user", "assistant", "user", "user", "assistant"]
    assert stream.questions[0].after == 5 and stream.questions[0].at == datetime(
        2023, 5, 28, 7, 28, tzinfo=UTC
    )


def test_evidence_is_the_labelled_turns():
    found = asked(load(S))
    assert found["b1"].evidence == ("answer_b_1/0", "answer_b_2/2")
    assert found["b2"].evidence == ("answer_b_2/2", "answer_b_1/0")
    assert found["c1"].evidence == ("answer_c_1/1",)


def test_answers_rubrics_and_abstention():
    found = asked(load(S))
    assert found["b1"].answers == ("3 days", "4 days") and found["b2"].answers == ("13",)
    assert found["d1"].answers == () and found["d1"].rubric == ("The user would like Assam tea.",)
    unknown = found["a1_abs"]
    assert (unknown.kind, unknown.answerable, unknown.answers, unknown.evidence) == (
        "abstention",
        False,
        (),
        (),
    )


def test_clusters_join_shared_sessions_and_twins():
    found = asked(load(S))
    clusters = {id_: question.cluster for id_, question in found.items()}
    assert clusters == {"a1": "a1", "a1_abs": "a1", "b1": "b1", "b2": "b1", "c1": "c1", "d1": "d1"}


def test_a_session_that_stands_twice_has_two_ids():
    stream = load(S).streams[2]
    sessions = list(dict.fromkeys(turn.session for turn in stream.turns))
    assert sessions == ["answer_b_1", "f1", "answer_b_2", "f1#2", "answer_b_3"]
    assert {turn.id for turn in stream.turns if turn.session == "f1#2"} == {"f1#2/0", "f1#2/1"}


def test_notes_count_what_is_odd():
    dataset = load(S)
    notes = "\n".join(dataset.notes)
    assert "6 of the 500 published questions" in notes
    assert "answer sessions without a turn with has_answer (not counted as evidence): 1" in notes
    assert "dated after their question (told before it all the same, as upstream does): 1" in notes
    assert "stand twice in a haystack (told twice; in a pool once): 1" in notes
    assert dataset.left_out == {"empty turns": 2}


def test_the_users_side_alone():
    dataset = load(S, sides="user")
    assert {turn.role for stream in dataset.streams for turn in stream.turns} == {"user"}
    found = asked(dataset)
    assert found["c1"].evidence == () and found["b1"].evidence == ("answer_b_1/0", "answer_b_2/2")
    assert dataset.left_out["without evidence"] == 1
    assert dataset.left_out["evidence turns of the assistant (sides=user)"] == 1
    with pytest.raises(InputError, match="expected 'both' or 'user'"):
        load(S, sides="assistant")


def test_the_pool_holds_each_session_once_at_its_earliest_date():
    dataset = load_pooled(S)
    [stream] = dataset.streams
    sessions = list(dict.fromkeys(turn.session for turn in stream.turns))
    assert len(sessions) == len(set(sessions)) == 8
    assert sessions[:3] == ["f2", "f1", "answer_a_1"]
    dates = [turn.at for turn in stream.turns if turn.at]
    assert dates == sorted(dates) and len(dates) == len(stream.turns)
    assert next(turn.at for turn in stream.turns if turn.session == "f1") == datetime(
        2023, 5, 2, 7, 2, tzinfo=UTC
    )
    assert {question.after for question in stream.questions} == {len(stream.turns)}
    alone = asked(load(S))
    assert all(alone[question.id].evidence == question.evidence for question in stream.questions)


def test_a_text_under_two_ids_is_told_once_in_a_pool(tmp_path, questions):
    twin = json.loads(json.dumps(questions[0]).replace("answer_a_1", "answer_z_9").replace('"a1"', '"z9"'))
    folder = written(tmp_path, [*questions, twin])
    [stream] = load_pooled(folder).streams
    found = {question.id: question for question in stream.questions}
    assert found["z9"].evidence == found["a1"].evidence == ("answer_a_1/0",)
    assert not any(turn.session == "answer_z_9" for turn in stream.turns)
    assert found["z9"].cluster == "a1"
    alone = asked(load(folder))
    assert alone["z9"].evidence == ("answer_z_9/0",) and alone["z9"].cluster == "a1"


def test_a_pool_is_made_of_the_first_questions():
    [stream] = load_pooled(S, limit=1).streams
    assert [question.id for question in stream.questions] == ["a1"] and len(stream.turns) == 5


def test_both_forms_give_the_same(tmp_path, questions):
    folder = as_pool(tmp_path, questions)
    assert load(folder).digest() == load(S).digest()
    assert load_pooled(folder).digest() == load_pooled(S).digest()


def test_a_list_is_read_piece_by_piece(monkeypatch):
    whole = load(S).digest()
    for characters in (7, 64, 1000):
        monkeypatch.setattr(files, "CHUNK_CHARACTERS", characters)
        assert load(S).digest() == whole


def test_texts_that_occur_again_are_one_object():
    dataset = load(S)
    texts = [turn.text for stream in dataset.streams for turn in stream.turns if turn.id == "f1/1"]
    assert len(texts) == 3 and len({id(text) for text in texts}) == 1


def test_half_files_are_refused(tmp_path, questions):
    raw = json.dumps(questions)
    (tmp_path / "longmemeval_s.json").write_text(raw[: len(raw) // 2])
    with pytest.raises(InputError, match="may be half"):
        load(tmp_path)
    (tmp_path / "longmemeval_s.json").write_text("<html>")
    with pytest.raises(InputError, match="does not begin"):
        load(tmp_path)
    (tmp_path / "longmemeval_s.json").unlink()
    folder = as_pool(tmp_path, questions)
    (folder / "sessions-1.jsonl.xz").unlink()
    with pytest.raises(InputError, match=r"4 of 8 sessions are in none of its 1 files"):
        load(folder)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda q: q[1].update(question_id="a1"), "two questions have the id 'a1'"),
        (lambda q: q[0].pop("haystack_dates"), "has no haystack_dates"),
        (lambda q: q[0]["haystack_dates"].pop(), "3 session ids, 2 dates and 3 sessions"),
        (lambda q: q[0].update(question_date="yesterday"), "'yesterday' is no time"),
        (lambda q: q[0]["haystack_sessions"][0][0].update(role="bot"), "expected role user or assistant"),
    ],
)
def test_bad_data_is_named(tmp_path, questions, broken, said):
    broken(questions)
    with pytest.raises(InputError, match=said):
        load(written(tmp_path, questions))


def test_two_texts_of_one_session_cannot_be_pooled(tmp_path, questions):
    questions[1]["haystack_sessions"][1][0]["content"] = "Something else."
    assert load(written(tmp_path, questions)).questions == 6
    with pytest.raises(InputError, match="'f1' of a1_abs has another text"):
        load_pooled(tmp_path)


def test_accepted_answers():
    assert accepted("19 days ago. 20 days (including the last day) is also acceptable.") == (
        "19 days ago",
        "20 days",
    )
    assert accepted("Dr. Who. Also acceptable.") == ("Dr. Who. Also acceptable.",)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_tasks_load_from_the_fixtures(task):
    dataset = base.load(task, FIXTURES, task.options)
    assert dataset.questions == 6 and task.without_reader in task.scorers


def test_the_oracle_has_the_evidence_sessions_alone():
    oracle = base.load(TASKS[2], FIXTURES, TASKS[2].options)
    assert {turn.session for turn in oracle.streams[0].turns} == {"answer_a_1"}


@pytest.mark.skipif(not REAL, reason="TEST_DATA names no folder of data sets")
def test_real_data():
    dataset = load(Path(str(REAL)) / "longmemeval_s", limit=40)
    for stream in dataset.streams:
        assert 300 < len(stream.turns) < 800 and stream.characters > 400_000
        assert bool(stream.questions[0].evidence) is stream.questions[0].answerable
    assert (
        sum(len(s.questions) for s in load(Path(str(REAL)) / "longmemeval_oracle", oracle=True).streams) > 200
    )
