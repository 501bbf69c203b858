"""The judge: verdicts that are asked for once, and an error that is measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nestmem.agent.types import Chat
from nestmem.errors import InputError, LLMError
from nestmem.evals import judging
from nestmem.evals.datasets.base import Question
from nestmem.evals.judging import (
    Judge,
    Verdicts,
    chat,
    judge_lines,
    measure,
    parse,
    plant,
    read_errors,
    read_verdicts,
)
from nestmem.evals.log import Line
from nestmem.evals.reading import holds
from nestmem.evals.systems.base import Reading, Reply

NAMES = ("Nimbus", "Pixel", "Rex", "Bruno", "Tilly", "Otto", "Greta", "Ziggy")
QUESTIONS = tuple(
    Question(
        id=f"q{n}",
        text=f"What is the pet of neighbour {n} called?",
        kind="fact",
        after=3,
        answers=(name,),
        rejected=(f"Old{name}",),
    )
    for n, name in enumerate(NAMES)
)
NEVER = Question(id="never", text="What is Bo's cat called?", kind="never", after=3, answerable=False)


class Scripted:
    """Judges by a rule on the prompt's parts, and counts how often it is asked."""

    def __init__(self, rule: str, name: str = "scripted") -> None:
        self.rule, self.name, self.asked = rule, name, 0

    def chat(self, messages: Chat, *, max_tokens: int = 256) -> str:
        self.asked += 1
        if self.rule == "down":
            raise LLMError("nobody there")
        if self.rule == "junk":
            return "Looks fine to me."
        if self.rule in ("yes", "no"):
            return json.dumps({"correct": self.rule == "yes"})
        text = messages[0]["content"]
        right = re.findall(r"^- (.*)$", text.split("Outdated")[0], re.M)
        reply = text.partition("<reply>\n")[2].partition("\n</reply>")[0]
        known = "It was never said" not in text
        good = any(holds(reply, answer) for answer in right) if known else "know" in reply
        return f'Here: {{"correct": {str(good).lower()}}}'


def kept(path: Path) -> Verdicts:
    """The verdicts in a file, which are there."""
    found = read_verdicts(path)
    assert found is not None
    return found


def line(question: Question, text: str | None, failed: str | None = None) -> Line:
    reply = Reply(reading=Reading(text=text, failed=failed))
    return Line(task="t", system="x", stream="ada", question=question, reply=reply)


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [
        ('{"correct": true}', True),
        ('```json\n{"why": {"a": 1}, "correct": false}\n```', False),
        ('{oops} {"correct": true}', True),
        ('{"correct": "yes"}', None),
        ("true", None),
        ("", None),
        ('{"correct": 1}', None),
    ],
)
def test_how_a_verdict_is_read(raw: str, verdict: bool | None) -> None:
    assert parse(raw) is verdict


def test_the_prompt_holds_all_parts_and_a_reply_cannot_stand_for_another() -> None:
    content = chat(QUESTIONS[0], "{accepted} {question}")[0]["content"]
    assert "neighbour 0" in content and "- Nimbus" in content and "- OldNimbus" in content
    assert "<reply>\n{accepted} {question}\n</reply>" in content
    assert "never said" in chat(NEVER, "x")[0]["content"]


def test_verdicts_are_kept_and_never_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "judged" / "x.jsonl"
    lines = [line(QUESTIONS[0], "Nimbus"), line(QUESTIONS[1], "Rex"), line(NEVER, "I don't know")]
    lines.append(line(QUESTIONS[2], None, failed="refused: policy"))
    llm = Scripted("perfect")
    assert judge_lines(Judge(llm), lines, path) == 3
    before = path.read_bytes()
    assert judge_lines(Judge(llm), lines, path) == 0 and path.read_bytes() == before
    verdicts = kept(path)
    assert verdicts.unparsed == 0
    assert [verdicts.score(each) for each in lines] == [1.0, 0.0, 1.0, 0.0]
    assert verdicts.score(line(QUESTIONS[5], "Otto")) is None
    assert json.loads(before.splitlines()[0])["raw"].startswith("Here:")


def test_a_changed_reply_is_judged_again(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    judge_lines(Judge(Scripted("perfect")), [line(QUESTIONS[0], "Rex")], path)
    assert kept(path).score(line(QUESTIONS[0], "Nimbus")) is None
    assert judge_lines(Judge(Scripted("perfect")), [line(QUESTIONS[0], "Nimbus")], path) == 1
    assert kept(path).score(line(QUESTIONS[0], "Nimbus")) == 1.0


def test_without_a_reader_nothing_is_judged(tmp_path: Path) -> None:
    llm = Scripted("yes")
    assert judge_lines(Judge(llm), [line(QUESTIONS[0], None)], tmp_path / "x.jsonl") == 0 == llm.asked
    assert read_verdicts(tmp_path / "x.jsonl") is None


def test_junk_is_counted_and_wrong(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    judge_lines(Judge(Scripted("junk")), [line(QUESTIONS[0], "Nimbus")], path)
    verdicts = kept(path)
    assert verdicts.unparsed == 1 and verdicts.score(line(QUESTIONS[0], "Nimbus")) == 0.0


def test_an_outage_is_no_verdict_and_what_was_cut_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = [line(question, "Nimbus") for question in QUESTIONS[:2]]
    judge_lines(Judge(Scripted("no")), lines[:1], path)
    with pytest.raises(LLMError):
        judge_lines(Judge(Scripted("down")), lines, path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"correct": tr')
    llm = Scripted("no")
    assert judge_lines(Judge(llm), lines, path) == 1 == llm.asked
    assert path.read_bytes().startswith(whole) and len(path.read_bytes().splitlines()) == 2


def test_another_judge_and_damage_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    judge_lines(Judge(Scripted("yes")), [line(QUESTIONS[0], "Nimbus")], path)
    with pytest.raises(InputError, match="holds the verdicts of"):
        judge_lines(Judge(Scripted("yes", name="other")), [line(QUESTIONS[1], "Rex")], path)
    path.write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1: is no verdict"):
        read_verdicts(path)


def test_planted_replies_are_what_they_say() -> None:
    planted = plant((*QUESTIONS, NEVER), n=50, seed=3)
    assert planted == plant((*QUESTIONS, NEVER), n=50, seed=3)
    assert {each.source for each in planted} == {"accepted", "other answer", "outdated", "no answer"}
    for each in planted:
        accepted = any(holds(each.reply, answer) for answer in each.question.answers)
        assert accepted == (each.right and each.question.answerable)
    never = [each for each in planted if each.question is NEVER]
    assert [each.right for each in never] == [True, False, False] and "know" in never[0].reply
    assert len({each.question.id for each in plant(QUESTIONS, n=3, seed=0)}) == 3


@pytest.mark.parametrize(
    ("rule", "accepts", "rejects"),
    [("perfect", 0.0, 0.0), ("yes", 1.0, 0.0), ("no", 0.0, 1.0), ("junk", 0.0, 1.0)],
)
def test_the_error_of_scripted_judges(tmp_path: Path, rule: str, accepts: float, rejects: float) -> None:
    path = tmp_path / "planted.json"
    questions, llm = (*QUESTIONS, NEVER), Scripted(rule)
    measure(Judge(llm), questions, path, seed=1)
    errors, asked, before = read_errors(path), llm.asked, path.read_bytes()
    assert (errors["false_accept"]["mean"], errors["false_reject"]["mean"]) == (accepts, rejects)
    assert errors["false_accept"]["n"] == 26 and errors["false_reject"]["n"] == 9
    assert errors["false_accept"]["low"] <= accepts <= errors["false_accept"]["high"]
    assert errors["unparsed"] == (asked if rule == "junk" else 0)
    measure(Judge(llm), questions, path, seed=1)
    assert llm.asked == asked == 35 and path.read_bytes() == before


def test_a_damaged_record_of_errors_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "planted.json"
    for text in ("{", "[]", "{}"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"planted\.json"):
            read_errors(path)


def test_the_prompt_is_a_versioned_file() -> None:
    assert judging.PROMPT == "judge.v1" and "{reply}" in judging.prompt()
