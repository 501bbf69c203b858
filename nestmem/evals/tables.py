"""Scores as tables of plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nestmem.evals.scorers import SCORERS

NONE = "–"


def render(record: Mapping[str, Any]) -> str:
    """The record of `scoring.score` as text: a row for each system, what failed, and the differences from the first."""
    names = list(dict.fromkeys(name for system in record["systems"].values() for name in system["scores"]))
    names.sort(key=lambda name: name != record["headline"])
    shown = names[:6]
    rows = [["system", *shown, "n", "tokens", "answer p50", "KB"]]
    for spec, system in record["systems"].items():
        scores = system["scores"]
        n = scores.get(record["headline"], {}).get("n", 0)
        rows.append(
            [
                spec,
                *(_estimate(scores.get(name)) for name in shown),
                str(n),
                _number(system["tokens"]["context"]["mean"], 0),
                f"{_number(system['seconds']['answer']['p50'], 3)} s",
                _number(None if system["bytes"]["mean"] is None else system["bytes"]["mean"] / 1000, 0),
            ]
        )
    parts = [f"{record['task']}, headline {record['headline']}, mean ± standard error", _table(rows)]
    if len(names) > len(shown):
        parts.append(f"also scored: {', '.join(names[len(shown) :])} (scores.json)")
    parts += _kinds(record)
    parts += _pairs(record)
    parts += _switch(record)
    parts += _judge(record)
    parts += _lacks(record)
    return "\n".join(parts)


def render_compare(record: Mapping[str, Any]) -> str:
    """The record of `scoring.compare` as text."""
    parts = [f"{record['task']} ({record['version']}): A is {record['runs'][0]}, B is {record['runs'][1]}"]
    for key, (left, right) in record["differ"].items():
        parts.append(f"they differ in {key}: {left} and {right}")
    for pair in record["pairs"]:
        rows = [["score", f"A {pair['a']}", f"B {pair['b']}", "A - B", "95 %", "n", "not shared"]]
        for name, scores in pair["scores"].items():
            difference = scores["difference"]
            rows.append(
                [
                    name,
                    _estimate(scores["a"]),
                    _estimate(scores["b"]),
                    _signed(difference["mean"]),
                    _interval(difference),
                    str(difference["n"]),
                    str(difference["not_shared"]),
                ]
            )
        parts.append(_table(rows) if len(rows) > 1 else f"{pair['a']} and {pair['b']}: no score in common")
    return "\n".join(parts)


def _kinds(record: Mapping[str, Any]) -> list[str]:
    name = record["headline"]
    systems = record["systems"]
    kinds = list(dict.fromkeys(kind for system in systems.values() for kind in system["by_kind"]))
    kinds = [k for k in kinds if any(name in s["by_kind"].get(k, {}) for s in systems.values())]
    if len(kinds) < 2:
        return []
    rows = [[f"{name} by kind", *systems]]
    for kind in kinds:
        found = [system["by_kind"].get(kind, {}).get(name) for system in systems.values()]
        rows.append([kind, *map(_estimate, found)])
    return ["", _table(rows)]


def _pairs(record: Mapping[str, Any]) -> list[str]:
    """The differences of the system with the best headline from each other one."""
    name = record["headline"]
    means = {spec: s["scores"][name]["mean"] for spec, s in record["systems"].items() if name in s["scores"]}
    if not means:
        return []
    best = (min if name in SCORERS and SCORERS[name].better == "lower" else max)(
        means, key=lambda spec: means[spec]
    )
    rows = []
    for key, pair in record["paired"].get(name, {}).items():
        a, b = key.split("|")
        if best in (a, b):
            sign = 1 if a == best else -1
            low, high = sorted((sign * pair["low"], sign * pair["high"]))
            shown = [_signed(sign * pair["mean"]), _interval({"low": low, "high": high}), str(pair["n"])]
            rows.append([f"{best} - {b if a == best else a}", *shown])
    return ["", _table([[f"paired {name}", "difference", "95 %", "n"], *rows])] if rows else []


def _switch(record: Mapping[str, Any]) -> list[str]:
    switch = record["switch"]
    if switch is None:
        return []
    lines = [""]
    for spec, size in switch["at"].items():
        sure = switch["sure_at"][spec]
        said = "never" if size is None else f"from {size} {switch['unit']} on"
        certain = "never" if sure is None else f"from {sure} on"
        lines.append(f"{spec} is above {switch['baseline']} {said}; with its interval above 0: {certain}")
    return lines


def _judge(record: Mapping[str, Any]) -> list[str]:
    judge = record.get("judge")
    if judge is None:
        return []
    lines = ["", f"judged by {', '.join(dict.fromkeys(judge['name'].values()))}"]
    errors = judge["errors"]
    if errors is None:
        lines.append("the judge's own errors were not measured")
    else:
        for key, what in (
            ("false_accept", "accepts planted wrong replies"),
            ("false_reject", "rejects right replies"),
        ):
            share = errors[key]
            if share["n"]:
                lines.append(f"it {what}: {share['wrong']} of {share['n']} (95 % {_interval(share)})")
    unparsed = {spec: count for spec, count in judge["unparsed"].items() if count}
    lines += [
        f"{spec}: verdicts that could not be read, and count as wrong: {count}"
        for spec, count in unparsed.items()
    ]
    return lines


def _lacks(record: Mapping[str, Any]) -> list[str]:
    lines = []
    if record["without_evidence"]:
        lines.append(
            f"questions without evidence, which scores of evidence leave out: {record['without_evidence']}"
        )
    for spec, system in record["systems"].items():
        failed = {why: count for why, count in system["failed"].items() if count}
        if failed:
            said = ", ".join(f"{why} {count}" for why, count in failed.items())
            lines.append(f"{spec}: of {system['asked']} readings failed, and count as wrong: {said}")
        if system["unsupported"]:
            lines.append(f"{spec}: requests to forget that it does not support: {system['unsupported']}")
        missing = record["missing_streams"][spec]
        if missing:
            lines.append(f"{spec}: {record['streams'] - missing} of {record['streams']} streams were run")
        lines += [f"{spec}: {note} ({count})" for note, count in list(system["notes"].items())[:5]]
    return ["", *lines] if lines else []


def _estimate(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return NONE
    return f"{_number(score['mean'], 3)} ± {_number(score['se'], 3)}"


def _interval(score: Mapping[str, Any]) -> str:
    return f"{_number(score['low'], 3)} to {_number(score['high'], 3)}"


def _signed(value: float | None) -> str:
    return NONE if value is None else f"{value:+.3f}"


def _number(value: float | None, places: int) -> str:
    return NONE if value is None else f"{value:,.{places}f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns in line: the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
