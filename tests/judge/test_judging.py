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
    read_errors,
    read_verdicts,
)
from nestmem.evals.log import Line
from nestmem.evals.plants import changed, half, negated, plant, wrapped
from nestmem.evals.reading import content_words, flat, holds, right_choices
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


MIXED = (
    *(
        Question(
            id=f"n{n}",
            text=f"When did I see the {n}th whale?",
            kind="date",
            after=3,
            answers=(f"On the {n}th of August {2000 + n}",),
        )
        for n in range(4, 8)
    ),
    *(
        Question(
            id=f"l{n}",
            text=f"What did I buy on trip {n}?",
            kind="list",
            after=3,
            answers=(f"rope {n}, a lamp, wax and nails",),
        )
        for n in range(4)
    ),
    *(
        Question(
            id=f"c{n}",
            text="Which reply fits?",
            kind="choice",
            after=3,
            answers=(f"Since you like boats, try harbour {n}.", "b"),
            choices=("Since you like bears, try the zoo.", f"Since you like boats, try harbour {n}."),
        )
        for n in range(4)
    ),
    *(
        Question(
            id=f"r{n}",
            text=f"Tell me of plan {n}.",
            kind="plan",
            after=3,
            rubric=(f"the bridge opens in {1990 + n}", f"the mayor of town {n} pays {n + 3} crowns"),
        )
        for n in range(4)
    ),
    NEVER,
)


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
        if self.rule == "overlap":
            good = any(content_words(reply) & content_words(answer) for answer in right)
            return json.dumps({"correct": good})
        known = "It was never said" not in text
        told = flat(re.sub("^As far as I remember(, it was|:) ", "", reply))
        whole = flat(" ".join(right)) if "Its points" in text else None
        good = told in (*map(flat, right), whole) if known else "know" in reply
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
    planted = plant((*QUESTIONS, *MIXED), n=50, seed=3)
    assert planted == plant((*QUESTIONS, *MIXED), n=50, seed=3)
    assert {each.kind for each in planted if each.right} == {"accepted", "wrapped"}
    wrong = {"other answer", "outdated", "changed", "negated", "hedge", "half", "wrong option"}
    assert {each.kind for each in planted if not each.right} == wrong | {"other points", "changed points"}
    for each in planted:
        answers = each.question.answers
        if each.right:
            assert each.reply and (not answers or holds(each.reply, answers[0]))
        elif each.kind not in ("negated", "hedge"):
            assert not any(holds(each.reply, answer) for answer in answers), each
        if each.kind == "wrong option":
            assert not right_choices([each.reply], answers) and each.reply in each.question.choices
    never = [each for each in planted if each.question is NEVER]
    assert [each.right for each in never] == [True, True, False] and "know" in never[1].reply
    assert len({each.question.id for each in plant(QUESTIONS, n=3, seed=0)}) == 3


def test_near_misses_of_an_answer() -> None:
    assert changed("21st May 2023, at 9:59") == "22nd May 2024, at 10:59"
    assert changed("In May, perhaps") == "In May, perhaps" and changed("next Sunday") == "next Monday"
    assert changed("the Mk2, 11th of 012") == "the Mk2, 12th of 013"
    assert negated("You did it.") == "It is not the case that you did it."
    assert half("a rope\na lamp\nwax\nnails") == "a rope, a lamp" and half("May 7, 2023, Oslo") is None
    assert half("You went there, bought it and came back again at night, late") is None
    assert wrapped("Rex") != "Rex" and holds(wrapped("Rex"), "Rex")


def test_an_answer_that_is_right_all_the_same_is_not_planted_as_wrong() -> None:
    days = Question(
        id="d", text="How long?", kind="days", after=3, answers=("14 days", "15 days (both ends)")
    )
    both = Question(id="e", text="How long?", kind="days", after=3, answers=("14 days", "15 days"))
    assert [each.reply for each in plant([days]) if each.kind == "changed"] == []
    assert [each.reply for each in plant([both]) if each.kind == "changed"] == []
    sibling = Question(id="s", text="Where?", kind="place", after=3, answers=("Paris, France",))
    other = Question(id="o", text="Which town?", kind="place", after=3, answers=("Paris",))
    assert not [each for each in plant([sibling, other]) if each.kind in ("other answer", "hedge")]


@pytest.mark.parametrize(
    ("rule", "accepts", "rejects"),
    [("perfect", 0.0, 0.0), ("yes", 1.0, 0.0), ("no", 0.0, 1.0), ("junk", 0.0, 1.0)],
)
def test_the_error_of_scripted_judges(tmp_path: Path, rule: str, accepts: float, rejects: float) -> None:
    path = tmp_path / "planted.json"
    questions, llm = (*QUESTIONS, *MIXED), Scripted(rule)
    measure(Judge(llm), questions, path, seed=1)
    errors, asked, before = read_errors(path), llm.asked, path.read_bytes()
    assert (errors["false_accept"]["mean"], errors["false_reject"]["mean"]) == (accepts, rejects)
    assert errors["false_reject"]["n"] == 2 * len(questions) and errors["false_accept"]["n"] == asked - 50
    assert errors["false_accept"]["low"] <= accepts <= errors["false_accept"]["high"]
    for key, rate in (("false_accept", accepts), ("false_reject", rejects)):
        kinds = errors[f"{key}_by_kind"]
        assert sum(share["n"] for share in kinds.values()) == errors[key]["n"]
        assert {share["mean"] for share in kinds.values()} == {rate}
        assert all(share["low"] <= rate <= share["high"] for share in kinds.values())
    assert errors["unparsed"] == (asked if rule == "junk" else 0)
    measure(Judge(llm), questions, path, seed=1)
    assert llm.asked == asked and path.read_bytes() == before


def test_a_judge_that_takes_any_shared_word_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "planted.json"
    measure(Judge(Scripted("overlap")), MIXED, path)
    errors = read_errors(path)
    assert errors["false_accept"]["low"] > 0.5
    by_kind = errors["false_accept_by_kind"]
    for kind in ("changed", "negated", "hedge", "half", "wrong option", "changed points"):
        assert by_kind[kind]["mean"] == 1.0, kind


def test_a_damaged_record_of_errors_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "planted.json"
    for text in ("{", "[]", "{}"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"planted\.json"):
            read_errors(path)


def test_the_prompt_is_a_versioned_file() -> None:
    assert judging.PROMPT == "judge.v1" and "{reply}" in judging.prompt()
