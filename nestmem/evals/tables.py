"""Scores as tables of plain text. An arrow down marks a score of which less is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nestmem.evals.scorers import JUDGED, SCORERS

NONE = "–"
SCRIPTED = ("oracle", "useless")
UNUSABLE = 0.2
"""The share of planted wrong replies from which on a judge's score says little."""
DOWN = " ↓"


def named(score: str) -> str:
    """A score's name, marked where less is better.

    >>> named("contains"), named("stale")
    ('contains', 'stale ↓')
    """
    return score + DOWN if score in SCORERS and SCORERS[score].better == "lower" else score


def doubt(estimate: Mapping[str, Any], *, times: float = 1.0, places: int = 3) -> str:
    """What stands after a mean: its standard error, or where that is 0 and says nothing, its interval.

    >>> doubt({"mean": 0.5, "se": 0.0126, "low": 0.475, "high": 0.525})
    ' ± 0.013'
    >>> doubt({"mean": 1.0, "se": 0.0, "low": 0.93, "high": 1.0}, times=100, places=1)
    ' (≥ 93.0)'
    >>> doubt({"mean": 0.0, "se": 0.0, "low": -0.2, "high": 0.2}, places=1)
    ' (-0.2 to 0.2)'
    """
    low, high = ((None if estimate.get(key) is None else times * estimate[key]) for key in ("low", "high"))
    mean = times * estimate["mean"]
    if estimate["se"] or low is None or high is None:
        return f" ± {_number(None if not estimate['se'] else times * estimate['se'], places)}"
    if mean >= high and low < high:
        return f" (≥ {_number(low, places)})"
    if mean <= low and low < high:
        return f" (≤ {_number(high, places)})"
    return f" ({_number(low, places)} to {_number(high, places)})"


def one_cluster(record: Mapping[str, Any]) -> list[str]:
    """Lines on scores whose questions all are of one cluster, so that nothing tells how they go together."""
    lines, headline = [], record["headline"]
    for part, what in (("by_kind", "kind"), ("by_age", "age")):
        found = {
            group: None
            for system in record["systems"].values()
            for group, scores in system[part].items()
            if _alone(scores.get(headline))
        }
        if found:
            lines.append(
                f"{what} {', '.join(found)}: one cluster: its interval is as if questions were independent"
            )
    specs = {
        spec: system["asked"]
        for spec, system in record["systems"].items()
        if any(_alone(score) for score in system["scores"].values())
    }
    if not specs:
        return lines
    who = "all systems" if len(specs) == len(record["systems"]) else ", ".join(specs)
    return [
        f"{who}: one cluster: questions that may go together count as if independent, so the intervals are too narrow"
    ]


def _alone(score: Mapping[str, Any] | None) -> bool:
    return score is not None and score.get("clusters") == 1 and score["n"] > 1


def render(record: Mapping[str, Any]) -> str:
    """The record of `scoring.score` as text: a row for each system, what failed, and the differences from the first."""
    names = list(dict.fromkeys(name for system in record["systems"].values() for name in system["scores"]))
    names.sort(key=lambda name: name != record["headline"])
    shown = names[:6]
    rows = [["system", *map(named, shown), "n", "clusters", "tokens", "answer p50", "KB"]]
    for spec, system in record["systems"].items():
        scores = system["scores"]
        headline = scores.get(record["headline"], {})
        rows.append(
            [
                spec,
                *(_estimate(scores.get(name)) for name in shown),
                str(headline.get("n", 0)),
                str(headline.get("clusters", 0)),
                _number(system["tokens"]["context"]["mean"], 0),
                f"{_number(system['seconds']['answer']['p50'], 3)} s",
                _number(None if system["bytes"]["mean"] is None else system["bytes"]["mean"] / 1000, 0),
            ]
        )
    said = (
        f"{record['task']}, headline {named(record['headline'])}, mean ± standard error, or its 95 % interval"
    )
    if any(DOWN in name for name in map(named, names)):
        said += "; ↓: less is better"
    parts = [said, _table(rows)]
    if len(names) > len(shown):
        parts.append(f"also scored: {', '.join(map(named, names[len(shown) :]))} (scores.json)")
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
    names = {name for pair in record["pairs"] for name in pair["scores"]}
    if any(DOWN in named(name) for name in names):
        parts.append("↓: less is better")
    for pair in record["pairs"]:
        rows = [["score", f"A {pair['a']}", f"B {pair['b']}", "A - B", "95 %", "n", "clusters", "not shared"]]
        for name, scores in pair["scores"].items():
            difference = scores["difference"]
            rows.append(
                [
                    named(name),
                    _estimate(scores["a"]),
                    _estimate(scores["b"]),
                    _signed(difference["mean"]),
                    _interval(difference),
                    str(difference["n"]),
                    str(difference["clusters"]),
                    str(difference["not_shared"]),
                ]
            )
        parts.append(_table(rows) if len(rows) > 1 else f"{pair['a']} and {pair['b']}: no score in common")
        parts += pair.get("left_out", [])
        if any(_alone(scores["difference"]) for scores in pair["scores"].values()):
            parts.append("one cluster: the intervals are as if its questions were independent")
    return "\n".join(parts)


def _kinds(record: Mapping[str, Any]) -> list[str]:
    name = record["headline"]
    systems = record["systems"]
    kinds = list(dict.fromkeys(kind for system in systems.values() for kind in system["by_kind"]))
    kinds = [k for k in kinds if any(name in s["by_kind"].get(k, {}) for s in systems.values())]
    if len(kinds) < 2:
        return []
    rows = [[f"{named(name)} by kind", *systems]]
    for kind in kinds:
        found = [system["by_kind"].get(kind, {}).get(name) for system in systems.values()]
        rows.append([kind, *map(_estimate, found)])
    return ["", _table(rows)]


def _pairs(record: Mapping[str, Any]) -> list[str]:
    """The differences of the system with the best headline from each other one. Those that know the key are no
    rivals: the best of the others is compared with them too."""
    name = record["headline"]
    means = {
        spec: s["scores"][name]["mean"]
        for spec, s in record["systems"].items()
        if name in s["scores"] and spec.partition(":")[0] not in SCRIPTED
    }
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
            low, high = _turned(pair, sign)
            shown = [_signed(sign * pair["mean"]), _interval({"low": low, "high": high}), str(pair["n"])]
            shown.append(str(pair["clusters"]))
            rows.append([f"{best} - {b if a == best else a}", *shown])
    return (
        ["", _table([[f"paired {named(name)}", "difference", "95 %", "n", "clusters"], *rows])]
        if rows
        else []
    )


def _turned(pair: Mapping[str, Any], sign: int) -> tuple[float | None, float | None]:
    """The interval of a difference, or of the difference the other way round."""
    if sign > 0 or pair["low"] is None or pair["high"] is None:
        return pair["low"], pair["high"]
    return -pair["high"], -pair["low"]


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
            lines += [
                f"{head}: {share['wrong']} of {share['n']} (95 % {_interval(share)})"
                for head, share in (
                    (f"it {what}", errors[key]),
                    *((f"  {kind}", share) for kind, share in errors.get(f"{key}_by_kind", {}).items()),
                )
                if share["n"]
            ]
        wrong = [what for what in ("false_accept", "false_reject") if _rate(errors[what]) > UNUSABLE]
        if wrong:
            lines.append(f"this judge errs too often ({', '.join(wrong)}): do not use its score")
    unparsed = {spec: count for spec, count in judge["unparsed"].items() if count}
    if len(set(judge["name"].values())) > 1:
        lines.append(f"systems that different judges judged are not compared in {JUDGED}")
    lines += [
        f"{spec}: verdicts that could not be read, and count as wrong: {count}"
        for spec, count in unparsed.items()
    ]
    return lines


def _rate(share: Mapping[str, Any]) -> float:
    return share["wrong"] / share["n"] if share["n"] else 0.0


def _lacks(record: Mapping[str, Any]) -> list[str]:
    lines = one_cluster(record)
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
    return NONE if score["mean"] is None else f"{_number(score['mean'], 3)}{doubt(score)}"


def _interval(score: Mapping[str, Any]) -> str:
    return f"{_number(score['low'], 3)} to {_number(score['high'], 3)}"


def _signed(value: float | None) -> str:
    return NONE if value is None else f"{value:+.3f}"


def _number(value: float | None, places: int) -> str:
    # Adding 0 turns -0.0 into 0.0.
    return NONE if value is None else f"{round(value, places) + 0.0:,.{places}f}"


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
