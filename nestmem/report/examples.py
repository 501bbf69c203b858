"""A few questions of each system with what was shown and replied, drawn from its log by the run's seed."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nestmem.evals import scorers
from nestmem.evals.log import Line
from nestmem.report.charts import is_lower_better, is_share
from nestmem.report.markup import Html, escape, join, tag

Score = Callable[[Line], float | None]
RANKED = 5
"""How many turns of a ranking an example lists."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A line of the log with its value under the score that tells right from wrong."""

    line: Line
    value: float
    right: bool


def sample(lines: Iterable[Line], name: str, score: Score, *, seed: int, wanted: int) -> list[Example]:
    """Up to `wanted` questions, the wrong ones first and one more of them than of the right where it is odd; where
    one side has too few, more of the other. The draw looks at the question alone, so systems share their examples.
    Only what is drawn is held."""
    kept: dict[bool, list[tuple[int, int, Example]]] = {False: [], True: []}
    for number, line in enumerate(lines):
        value = score(line)
        if value is None:
            continue
        example = Example(line=line, value=value, right=_is_right(name, value))
        drawn = hashlib.sha256(f"{seed}/{line.stream}/{line.question.id}".encode()).digest()
        entry = (-int.from_bytes(drawn, "big"), -number, example)
        if len(kept[example.right]) < wanted:
            heapq.heappush(kept[example.right], entry)
        elif wanted:
            heapq.heappushpop(kept[example.right], entry)
    wrong, right = ([entry[2] for entry in sorted(kept[side], reverse=True)] for side in (False, True))
    rights = max(min(len(right), wanted // 2), wanted - len(wrong))
    return wrong[: wanted - min(len(right), rights)] + right[:rights]


def show(example: Example, *, text: bool, size: int) -> Html:
    """An example as an element that opens. text: whether it quotes the data; size: characters of the context and,
    in all, twice as many of everything else."""
    line, question = example.line, example.line.question
    title = _clip(question.text, size) if text else f"question {question.id}"
    verdict = tag("span", title, class_="right" if example.right else "wrong")
    facts: list[tuple[str, object]] = [
        ("score", f"{example.value:.3g}"),
        ("question", f"{question.id}, {question.kind}, stream {line.stream}"),
        ("evidence", _evidence(line)),
    ]
    if question.at is not None:
        facts.append(("asked at", question.at.isoformat(" ", "minutes")))
    if text:
        facts += _words(line, size)
    elif line.reply.reading.failed:
        facts.append(("reply", f"none: {line.reply.reading.failed.split(':')[0]}"))
    shown = [tag("dl", *(part for name, value in facts for part in (tag("dt", name), tag("dd", value))))]
    if line.reply.ranked:
        shown.append(tag("p", "First of the ranking: ", _ranking(line), class_="soft"))
    if text and line.reply.context:
        shown += [tag("p", "What was shown:", class_="soft"), _context(line, size)]
    return tag("details", tag("summary", verdict), *shown, class_="example")


def _is_right(name: str, value: float) -> bool:
    if not is_share(name):
        return value > 0
    return (value < 0.5) if is_lower_better(name) else (value >= 0.5)


def _evidence(line: Line) -> str:
    """How much of it was shown, and how old it was."""
    evidence = line.question.evidence
    if not evidence:
        return "the data names none"
    there = len(set(evidence) & set(line.reply.shown))
    ages = sorted(set(line.ages))
    old = (
        f", said {'–'.join(f'{age:,}' for age in dict.fromkeys((ages[0], ages[-1])))} turns before"
        if ages
        else ""
    )
    return f"{there} of {len(evidence)} turns are among the {len(line.reply.shown):,} shown{old}"


def _words(line: Line, size: int) -> list[tuple[str, object]]:
    """What was expected and what was said."""
    question, reading = line.question, line.reply.reading
    part = max(40, size // 3)
    rows: list[tuple[str, object]] = []
    if not question.answerable:
        rows.append(("accepted", "that it is not known"))
    for name, texts in (
        ("accepted", question.answers),
        ("points", question.rubric),
        ("outdated", question.rejected),
    ):
        if texts:
            rows.append((name, _clip(" · ".join(texts), part)))
    if reading.failed:
        rows.append(("reply", f"none: {_clip(reading.failed, part)}"))
    else:
        rows.append(("reply", "no reader" if reading.text is None else _clip(reading.text, part)))
    if line.probe is not None:
        pairs = sorted(zip(question.candidates, line.probe, strict=False), key=lambda pair: -pair[1])
        weights = " · ".join(f"{candidate} {value:.2f}" for candidate, value in pairs[:RANKED])
        rows.append(("weights, nats per token", _clip(weights, part)))
    if line.reply.spoke:
        rows.append(("spoke", line.reply.spoke))
    return rows


def _ranking(line: Line) -> Html:
    """Turn ids with their scores, evidence marked."""
    evidence = set(line.question.evidence)
    shown = []
    for hit in line.reply.ranked[:RANKED]:
        text = f"{_clip(hit.turn, 60)} {hit.score:.3g}"
        shown.append(tag("mark", text, title="evidence") if hit.turn in evidence else escape(text))
    return join(shown, " · ")


def _context(line: Line, size: int) -> Html:
    """`size` characters of the context around the first accepted answer in it, which is marked; else its beginning."""
    context = line.reply.context
    found = _first(context, line.question.answers)
    if found is None:
        return tag("pre", _clip(context, size), dir="auto")
    start, end = found
    first = max(0, min(start - (size - (end - start)) // 2, len(context) - size))
    last = max(first + size, end)
    before = ("… " if first else "") + context[first:start]
    after = context[end:last] + (" …" if last < len(context) else "")
    return tag("pre", before, tag("mark", context[start:end]), after, dir="auto")


def _first(context: str, answers: Sequence[str]) -> tuple[int, int] | None:
    """Where the first of the answers stands as whole words, whatever the case."""
    found = (
        re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", context, re.IGNORECASE)
        for answer in answers
        if answer.strip()
    )
    places = [match.span() for match in found if match]
    return min(places) if places else None


def _clip(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


def chosen_score(run: Mapping[str, Any], scores: Mapping[str, Any]) -> str | None:
    """The score that tells right from wrong: the headline, or where that is not made from one line of a log (a judge's,
    say) the task's first that is. None when no score is."""
    names = (scores["headline"], *run["task"].get("scorers", ()), run["task"].get("without_reader", ""))
    return next((name for name in names if name in scorers.SCORERS), None)
