"""The loader of BEAM, on a conversation written here in the form of its files."""

import json
import lzma
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets import base
from nestmem.evals.datasets.beam import ABILITIES, TASK, load

FIXTURES = Path(__file__).parent / "fixtures"
ONE = FIXTURES / "beam_100k" / "chats" / "100K" / "1"
REAL = os.environ.get("TEST_DATA")


@pytest.fixture
def row():
    chat = json.loads((ONE / "chat.json").read_text(encoding="utf-8"))
    questions = json.loads((ONE / "probing_questions" / "probing_questions.json").read_text(encoding="utf-8"))
    return {
        "conversation_id": "1",
        "topic": {"title": "A boat"},
        "chat": chat,
        "probing_questions": questions,
    }


def written(folder, *rows):
    (folder / "beam_100k.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def by_kind(dataset):
    return {question.kind: question for question in dataset.streams[0].questions}


def test_turns_sessions_dates_and_marks():
    [stream] = load(FIXTURES / "beam_100k").streams
    assert [turn.id for turn in stream.turns] == ["0", "1", "2", "3", "4", "5"]
    assert stream.turns[0].text == "I paid 300 euros for boat paint, how do I go on?"
    assert stream.turns[2].text == "Always answer me in metric units."
    assert [turn.session for turn in stream.turns] == ["batch-1"] * 4 + ["batch-2"] * 2
    first, second = datetime(2024, 3, 15, tzinfo=UTC), datetime(2024, 4, 2, tzinfo=UTC)
    assert [turn.at for turn in stream.turns] == [first] * 4 + [second] * 2


def test_questions_of_each_ability():
    found = by_kind(load(FIXTURES / "beam_100k"))
    assert found["knowledge_update"].answers == ("It is 340 euros.", "340 euros")
    assert found["knowledge_update"].evidence == ("0", "4")
    assert found["information_extraction"].answers == ("You were advised to book it for 9 April.",)
    assert found["information_extraction"].rubric == ("9 April", "the crane")
    assert found["contradiction_resolution"].answers == ()
    assert found["contradiction_resolution"].rubric == ("there is contradictory information",)
    assert found["event_ordering"].rubric == ("Paint price", "Metric units", "Primer price")
    assert found["event_ordering"].evidence == ("0", "2", "4")
    unknown = found["abstention"]
    assert (unknown.answerable, unknown.rubric, unknown.answers, unknown.evidence) == (False, (), (), ())
    assert {(question.after, question.at) for question in found.values()} == {
        (6, datetime(2024, 4, 2, tzinfo=UTC))
    }


def test_what_is_missing_is_counted():
    dataset = load(FIXTURES / "beam_100k")
    assert dataset.left_out == {"evidence ids whose turn is not there": 1, "without evidence": 1}
    assert "1 of the 20 published conversations of 100K" in dataset.notes


def test_rows_and_folders_give_the_same(tmp_path, row):
    assert load(written(tmp_path, row)).digest() == load(FIXTURES / "beam_100k").digest()
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "beam_100k.jsonl.xz").write_bytes(lzma.compress(json.dumps(row).encode()))
    assert load(packed).digest() == load(tmp_path).digest()


def test_conversations_come_in_the_order_of_their_numbers(tmp_path, row):
    folder = written(tmp_path, *[row | {"conversation_id": name} for name in ("10", "2", "1")])
    assert [stream.id for stream in load(folder).streams] == ["1", "2", "10"]
    assert [stream.id for stream in load(folder, limit=2).streams] == ["1", "2"]


def test_a_strange_date_is_counted_and_the_one_before_holds(tmp_path, row):
    row["chat"][1]["turns"][0][0]["time_anchor"] = "Spring 2024"
    dataset = load(written(tmp_path, row))
    assert dataset.streams[0].turns[-1].at == datetime(2024, 3, 15, tzinfo=UTC)
    assert dataset.left_out["time anchors that are no date (the date before holds)"] == 1


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda r: r["chat"][0].pop("turns"), "expected batch_number and turns"),
        (lambda r: r["chat"][0]["turns"][0][0].pop("content"), "expected role, id and content"),
        (lambda r: r["chat"][0]["turns"][0][1].update(id=0), "two turns have the id '0'"),
        (lambda r: r["probing_questions"].update(mind_reading=[]), "mind_reading"),
        (lambda r: r["probing_questions"]["abstention"][0].pop("question"), "has no text 'question'"),
        (lambda r: r.update(chat=[]), "has no turn"),
        (lambda r: r.pop("chat"), "has no chat"),
    ],
)
def test_bad_data_is_named(tmp_path, row, broken, said):
    broken(row)
    with pytest.raises(InputError, match=said):
        load(written(tmp_path, row))


def test_half_a_folder(tmp_path):
    with pytest.raises(InputError, match="neither beam_100k"):
        load(tmp_path)
    folder = tmp_path / "chats" / "100K" / "3"
    folder.mkdir(parents=True)
    (folder / "chat.json").write_text("[")
    with pytest.raises(InputError, match=r"probing_questions\.json does not exist"):
        load(tmp_path)
    (folder / "probing_questions").mkdir()
    (folder / "probing_questions" / "probing_questions.json").write_text("{}")
    with pytest.raises(InputError, match="is not JSON"):
        load(tmp_path)


def test_the_task():
    assert base.load(TASK, FIXTURES, TASK.options).questions == 7
    assert len(TASK.fetch) == 40 and TASK.fetch[0].file == "chats/100K/1/chat.json"


@pytest.mark.skipif(not REAL, reason="TEST_DATA names no folder of data sets")
def test_real_data():
    dataset = load(Path(str(REAL)) / "beam_100k")
    for stream in dataset.streams:
        assert len(stream.questions) == 20 and {question.kind for question in stream.questions} == set(
            ABILITIES
        )
        assert stream.characters > 400_000 and not any("->->" in turn.text for turn in stream.turns)
    assert dataset.left_out.get("evidence ids whose turn is not there", 0) == 0
