"""A language model as a judge of replies, and how often it is wrong itself.

The judge sees the question, what is accepted and the reply, and says {"correct": true} or {"correct": false}. Each
verdict is kept in judged/SYSTEM.jsonl beside the log, with the judge's own words, so scoring again asks nobody. A
verdict that cannot be read counts as wrong, and is counted.

Its error is measured on replies whose verdict is known (`plants`): wrong ones, most of them near misses (a number
changed by one, the answer denied, left open or halved), and right ones, as the data has them and within a sentence.
The share of wrong ones that it accepts and of right ones that it rejects stand in judged/planted.json, of each kind of
reply and together, with Wilson's intervals, and are printed beside its score. The rate over all kinds is of this mix of
replies; a reader's mistakes are another mix, so look at the kinds too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from nestmem.agent.types import Chat
from nestmem.errors import InputError
from nestmem.evals.datasets.base import Question
from nestmem.evals.folder import file_name, finished, read_run
from nestmem.evals.log import Line
from nestmem.evals.plants import plant
from nestmem.evals.record import write_json
from nestmem.evals.stats import wilson

PROMPT = "judge.v1"
MAX_TOKENS = 64
PLANTED = "planted.json"
Key = tuple[str, str]
"""A stream's and a question's id."""


class LLM(Protocol):
    """What a judge is made of, such as `nestmem.agent.llm.ChatEndpoint`."""

    @property
    def name(self) -> str: ...

    def chat(self, messages: Chat, *, max_tokens: int = 256) -> str:
        """The answer's text."""
        ...


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """correct: None when the judge's words could not be read; that counts as wrong. raw: its words."""

    correct: bool | None
    raw: str


@cache
def prompt(name: str = PROMPT) -> str:
    """The text of a prompt file."""
    return (files("nestmem.evals") / "prompts" / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")


def chat(question: Question, reply: str) -> Chat:
    """What the judge is asked about a reply. The three texts are put in at once, so none can stand for another."""
    parts = {"question": question.text, "accepted": _accepted(question), "reply": reply}
    text = re.sub(r"\{(question|accepted|reply)\}", lambda match: parts[match.group(1)], prompt())
    return [{"role": "user", "content": text}]


def _accepted(question: Question) -> str:
    if not question.answerable:
        return "It was never said: a right reply says that it is not known."
    lines = [f"- {answer}" for answer in question.answers]
    if lines:
        lines.insert(0, "One of these is enough:" if len(lines) > 1 else "This:")
    if question.rubric:
        lines += ["Its points:", *(f"- {point}" for point in question.rubric)]
    if question.rejected:
        lines += ["Outdated or wrong:", *(f"- {value}" for value in question.rejected)]
    return "\n".join(lines)


def parse(raw: str) -> bool | None:
    """The verdict in a judge's words: the first JSON object with a true or false "correct"; None without one.

    >>> parse('Sure: {"correct": true}'), parse("I think it is right")
    (True, None)
    """
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", raw):
        try:
            value, _ = decoder.raw_decode(raw, match.start())
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("correct"), bool):
            return value["correct"]
    return None


class Judge:
    """Judges replies with a language model. An LLMError of the model is not caught: what was judged until then is
    kept, and the next call goes on from there."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    @property
    def name(self) -> str:
        """The model and the prompt's version."""
        return f"{self._llm.name}, {PROMPT}"

    def verdict(self, question: Question, reply: str) -> Verdict:
        """What the model says about a reply that is not empty."""
        raw = self._llm.chat(chat(question, reply), max_tokens=MAX_TOKENS)
        return Verdict(correct=parse(raw), raw=raw)


# --- the verdicts of a run -------------------------------------------------------------------------


def verdict_file(folder: Path, spec: str) -> Path:
    """Where the verdicts on a system are."""
    return folder / "judged" / f"{file_name(spec)}.jsonl"


def judge_run(
    folder: Path, llm: LLM, *, n: int = 50, progress: Callable[[int, int, str], None] | None = None
) -> None:
    """Judges every reply of a run that has no verdict yet, and measures the judge on planted replies about `n` of
    its questions. InputError when the run had no reader."""
    run, judge = read_run(folder), Judge(llm)
    if run["reader"]["spec"] == "none":
        raise InputError(f"{folder} was run without a reader; there is no reply to judge")
    specs = [system["spec"] for system in run["systems"]]
    total = len(specs) * run["task"]["questions"]
    questions: dict[Key, Question] = {}
    done = 0

    def told(lines: Iterable[Line], spec: str) -> Iterator[Line]:
        nonlocal done
        for line in lines:
            questions.setdefault((line.stream, line.question.id), line.question)
            yield line
            done += 1
            if progress is not None:
                progress(done, total, spec)

    for spec in specs:
        judge_lines(judge, told(finished(folder, spec).lines(), spec), verdict_file(folder, spec))
    measure(judge, list(questions.values()), folder / "judged" / PLANTED, n=n, seed=run["seed"])


def judge_lines(judge: Judge, lines: Iterable[Line], path: Path) -> int:
    """Judges each line that `path` (judged/SYSTEM.jsonl) has no verdict on, and appends it; how many were asked.

    A failed reading is wrong without asking; without a reader there is nothing to judge. InputError when the file
    holds another judge's verdicts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    known = _rows(path)
    others = {row["judge"] for row in known.values()} - {judge.name}
    if others:
        raise InputError(
            f"{path} holds the verdicts of {sorted(others)[0]!r}, not of {judge.name!r}; remove it to judge again"
        )
    asked = 0
    with path.open("a", encoding="utf-8") as file:
        for line in lines:
            digest, reading = _digest(line), line.reply.reading
            key = (line.stream, line.question.id)
            if (key in known and known[key]["sha256"] == digest) or not applies(line):
                continue
            if reading.failed or not (reading.text or "").strip():
                verdict = Verdict(correct=False, raw="")
            else:
                verdict = judge.verdict(line.question, str(reading.text))
                asked += 1
            row = {"stream": key[0], "question": key[1], **asdict(verdict)}
            row |= {"judge": judge.name, "sha256": digest}
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
            file.flush()
    return asked


def applies(line: Line) -> bool:
    """Whether there is a reading, and something to hold it against."""
    question, reading = line.question, line.reply.reading
    return (reading.text is not None or reading.failed is not None) and bool(
        question.answers or question.rubric or not question.answerable
    )


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """The verdicts on one system's replies."""

    judge: str
    rows: Mapping[Key, Mapping[str, Any]]

    def score(self, line: Line) -> float | None:
        """1 or 0; None for a line that was not judged. A failed reading and an unreadable verdict are 0."""
        row = self.rows.get((line.stream, line.question.id))
        if row is None or row["sha256"] != _digest(line) or not applies(line):
            return None
        return float(row["correct"] is True)

    @property
    def unparsed(self) -> int:
        """Verdicts that could not be read."""
        return sum(row["correct"] is None for row in self.rows.values())


def read_verdicts(path: Path) -> Verdicts | None:
    """The verdicts in a file; None when it is not there or empty. InputError when it is damaged."""
    rows = _rows(path)
    return Verdicts(judge=next(iter(rows.values()))["judge"], rows=rows) if rows else None


def _rows(path: Path) -> dict[Key, dict[str, Any]]:
    """Verdicts by question. A last line without its newline is one that an interruption cut: it is cut off."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    found = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            row = json.loads(line)
            found[row["stream"], row["question"]] = {key: row[key] for key in ("correct", "judge", "sha256")}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: is no verdict ({error!r}); remove the file to judge again"
            ) from error
    return found


def _digest(line: Line) -> str:
    """Of what the judge is asked: a reply that changed is judged again."""
    asked = json.dumps(chat(line.question, line.reply.reading.text or ""), sort_keys=True)
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()


# --- how often the judge is wrong ------------------------------------------------------------------


def measure(judge: Judge, questions: Sequence[Question], path: Path, *, n: int = 50, seed: int = 0) -> None:
    """Asks the judge about planted replies (up to nine about each of `n` questions) and writes what it said to `path`
    (judged/planted.json), unless that holds this judge's errors on these replies."""
    planted = plant(questions, n=n, seed=seed)
    state = hashlib.sha256(repr([(p.question.id, p.reply, p.right) for p in planted]).encode()).hexdigest()
    if path.is_file():
        there = read_errors(path)
        if there["judge"] == judge.name and there["sha256"] == state:
            return
    said = [(each, judge.verdict(each.question, each.reply).correct) for each in planted]
    wrong = [(each.kind, correct is True) for each, correct in said if not each.right]
    right = [(each.kind, correct is not True) for each, correct in said if each.right]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "judge": judge.name,
            "seed": seed,
            "sha256": state,
            "false_accept": _share([failed for _, failed in wrong]),
            "false_accept_by_kind": _by_kind(wrong),
            "false_reject": _share([failed for _, failed in right]),
            "false_reject_by_kind": _by_kind(right),
            "unparsed": sum(correct is None for _, correct in said),
        },
    )


def read_errors(path: Path) -> dict[str, Any]:
    """What `measure` wrote. InputError when it is something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if {"judge", "sha256", "false_accept", "false_reject"} <= set(found):
            return found
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not JSON ({error}); remove it to measure the judge again") from error
    raise InputError(f"{path} does not hold a judge's errors; remove it to measure the judge again")


def _by_kind(failed: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    kinds = sorted({kind for kind, _ in failed})
    return {kind: _share([one for other, one in failed if other == kind]) for kind in kinds}


def _share(failed: Sequence[bool]) -> dict[str, Any]:
    low, high = wilson(sum(failed), len(failed))
    mean = sum(failed) / len(failed) if failed else None
    return {"mean": mean, "low": low, "high": high, "n": len(failed), "wrong": sum(failed)}
