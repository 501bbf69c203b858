"""What a run lacks, said on its page: halves, failures, known mistakes, and what the audit of the data found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nestmem.report.markup import Html, items, tag

LONG = 8
"""Lines of a list that stand open."""


def count(run: Mapping[str, Any], scores: Mapping[str, Any]) -> int:
    """How many streams of systems were not run to their end."""
    absent = [each["spec"] for each in run["systems"] if each["spec"] not in scores["systems"]]
    known = sum(lacking for spec, lacking in scores["missing_streams"].items() if spec not in absent)
    return known + len(absent) * run["task"]["streams"]


def show(run: Mapping[str, Any], scores: Mapping[str, Any], *, damaged: Sequence[str] = ()) -> list[Html]:
    """Paragraphs and lists. damaged: systems whose log cannot be read to its end."""
    parts = []
    for title, lines in (
        ("The run", [*_of_run(run, scores), *map(_damage, damaged)]),
        ("The systems", _of_systems(scores)),
        ("The data", _of_data(run, scores)),
    ):
        if lines:
            parts += [tag("h3", title), _list(lines)]
    known = run["task"].get("known_errors", [])
    if known:
        parts += [tag("h3", "Known errors of the published key"), _list(known)]
    findings = run.get("audit", [])
    if findings:
        parts += [
            tag("h3", "What the audit of the data found"),
            _list([_finding(each) for each in findings]),
        ]
    if not parts:
        return [
            tag(
                "p",
                "Nothing: all streams were run, no reading failed, and nothing is known against the data.",
            )
        ]
    return [tag("div", *parts, class_="warn")]


def _of_run(run: Mapping[str, Any], scores: Mapping[str, Any]) -> list[str]:
    lines = []
    streams = run["task"]["streams"]
    if count(run, scores) or not run["finished"]:
        lines.append("It was interrupted; all numbers are of what was run. The same command goes on with it.")
    for each in run["systems"]:
        spec = each["spec"]
        lacking = scores["missing_streams"].get(spec, 0 if spec in scores["systems"] else streams)
        if lacking:
            lines.append(f"{spec}: {streams - lacking:,} of {streams:,} streams were run.")
    if run["reader"]["spec"] == "none":
        lines.append("There is no reader: what is found and what weights hold is scored, no answers.")
    if all(system.get("joules") is None for system in scores["systems"].values()):
        lines.append("Energy was not measured.")
    return lines


def _list(lines: Sequence[object]) -> Html:
    """A list; a long one opens."""
    if len(lines) <= LONG:
        return items(lines)
    rest = tag("details", tag("summary", f"{len(lines) - LONG:,} more"), items(lines[LONG:]))
    return tag("div", items(lines[:LONG]), rest)


def _damage(spec: str) -> str:
    return f"{spec}: its log cannot be read to its end; the examples are from before that."


def _of_systems(scores: Mapping[str, Any]) -> list[str]:
    lines = []
    for spec, system in scores["systems"].items():
        failed = {why: times for why, times in system["failed"].items() if times}
        if failed:
            why = ", ".join(f"{why} {times:,}" for why, times in failed.items())
            lines.append(
                f"{spec}: {sum(failed.values()):,} of {system['asked']:,} readings failed ({why}); they count as wrong."
            )
        if system["unsupported"]:
            lines.append(f"{spec}: {system['unsupported']:,} requests to forget are not supported.")
        lines += [f"{spec}: {note} ({times:,} times)" for note, times in system.get("notes", {}).items()]
        if system["asked"] and scores["headline"] not in system["scores"]:
            lines.append(f"{spec}: has no {scores['headline']}, which does not apply to it.")
    return lines


def _of_data(run: Mapping[str, Any], scores: Mapping[str, Any]) -> list[str]:
    task = run["task"]
    lines = list(task.get("notes", []))
    without = scores["without_evidence"]
    if without:
        lines.append(
            f"{without:,} of {task['questions']:,} questions name no evidence; retrieval is not scored on them."
        )
    lines += [f"{times:,} left out: {why}" for why, times in task.get("left_out", {}).items() if times]
    if task["digest"] != scores["digest"]:
        lines.append("The scores are of another version of the data than this run; score it again.")
    return lines


def _finding(finding: Mapping[str, Any]) -> str:
    """A line; its examples are ids, never the data's text."""
    line = f"{finding['severity']}: {finding['what']} ({finding['count']:,} times"
    examples = ", ".join(str(example) for example in finding.get("examples", [])[:3])
    return f"{line}; for example {examples})" if examples else f"{line})"
