"""Scores of a run, made from its folder alone: no clock, no model. Scoring twice gives the same bytes.

Each score of each system is a mean over the questions that it applies to, with a standard error clustered by
`Line.cluster` (questions on one stream go together) and a 95 % interval (`stats`: Student's t with as many degrees of
freedom as clusters, less one; where there is one cluster, its questions count as if independent, and tables say so).
A failed reading counts as wrong. The age of a question is that of its oldest evidence, in turns. A run that was
interrupted is scored as far as it is there: only streams that a system finished count, and `missing_streams` says how
many it did not. Nothing here holds more than one line of a log at a time.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestmem.agent.recall import CHARS_PER_TOKEN
from nestmem.errors import InputError
from nestmem.evals import judging
from nestmem.evals.folder import finished, read_run
from nestmem.evals.log import Line, Timing
from nestmem.evals.record import plain, write_json
from nestmem.evals.scorers import JUDGED, SCORERS
from nestmem.evals.stats import (
    Estimate,
    clustered_difference,
    clustered_mean,
    clustered_share,
    percentile,
)
from nestmem.evals.tables import render, render_compare

__all__ = ["Paired", "compare", "paired", "render", "render_compare", "score", "write"]

AGES = ((0, 9), (10, 99), (100, 999), (1000, None))
FAILURES = ("refused", "empty", "error")
FULL = "full"
"""The system of the whole context, which `switch` compares with."""
SETTINGS = ("reader", "embedder", "budget_tokens", "window_tokens", "depth", "seed")
SIZE = re.compile(r"size-(\d+)/")
Key = tuple[str, str]
"""A stream's and a question's id."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is kept of a line. age: of its oldest evidence, None without evidence."""

    key: Key
    kind: str
    cluster: str
    age: int | None
    values: Mapping[str, float]
    context_chars: int
    tokens_in: int
    tokens_out: int
    failed: str | None
    notes: tuple[str, ...]
    evidence: bool


@dataclass(frozen=True, kw_only=True)
class Part:
    """One system's part of a run. ranks: whether any of its replies holds a ranking."""

    spec: str
    asked: tuple[Asked, ...]
    timings: tuple[Timing, ...]
    sha256: str
    ranks: bool
    verdicts: judging.Verdicts | None


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The mean of A minus B over the questions that both have; not_shared: questions only one of them was asked."""

    estimate: Estimate
    not_shared: int

    def record(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {**self.estimate.record(), "not_shared": self.not_shared}


def read_part(folder: Path, spec: str, names: Sequence[str]) -> Part:
    """One system's finished streams. InputError when its log is damaged."""
    done = finished(folder, spec)
    verdicts = judging.read_verdicts(judging.verdict_file(folder, spec))
    asked, ranks = [], False
    for line in done.lines():
        asked.append(_asked(line, names, verdicts))
        ranks = ranks or bool(line.reply.ranked)
    return Part(
        spec=spec,
        asked=tuple(asked),
        timings=done.timings,
        sha256=done.sha256,
        ranks=ranks,
        verdicts=verdicts,
    )


def _asked(line: Line, names: Sequence[str], verdicts: judging.Verdicts | None) -> Asked:
    values = {}
    for name in names:
        function = _function(name, verdicts)
        value = None if function is None else function(line)
        if value is not None:
            values[name] = float(value)
    reading = line.reply.reading
    return Asked(
        key=(line.stream, line.question.id),
        kind=line.question.kind,
        cluster=line.cluster,
        age=max(line.ages, default=None),
        values=values,
        context_chars=len(line.reply.context),
        tokens_in=reading.tokens_in,
        tokens_out=reading.tokens_out,
        failed=reading.failed,
        notes=line.reply.notes,
        evidence=bool(line.question.evidence),
    )


def _function(name: str, verdicts: judging.Verdicts | None) -> Callable[[Line], float | None] | None:
    if name == JUDGED:
        return verdicts.score if verdicts else None
    return SCORERS[name]


# --- the record ------------------------------------------------------------------------------------


def score(folder: Path, *, names: Sequence[str] = ()) -> dict[str, Any]:
    """The scores of the run in `folder`, as plain values in a fixed order.

    names: scores to make; those of the task when none are given. InputError on an unknown name, or a folder that is
    no run or is damaged.
    """
    folder = Path(folder)
    run = read_run(folder)
    task = run["task"]
    wanted = list(dict.fromkeys([*(names or task["scorers"]), *(() if names else (task["without_reader"],))]))
    for name in wanted:
        if name != JUDGED:
            SCORERS[name]
    specs = [system["spec"] for system in run["systems"]]
    if not names and any(judging.verdict_file(folder, spec).is_file() for spec in specs):
        wanted = list(dict.fromkeys([*wanted, JUDGED]))
    parts = {spec: read_part(folder, spec, wanted) for spec in specs}
    headline = task["without_reader"] if run["reader"]["spec"] == "none" else task["scorers"][0]
    headline = headline if headline in wanted else wanted[0]
    everyone = {one.key: one.evidence for part in parts.values() for one in part.asked}
    record = {
        "version": run["version"],
        "task": task["name"],
        "digest": task["digest"],
        "headline": headline,
        "systems": {spec: _system(part, wanted) for spec, part in parts.items()},
        "paired": _all_pairs(parts, wanted),
        "without_evidence": sum(not evidence for evidence in everyone.values()),
        "streams": task["streams"],
        "missing_streams": {spec: task["streams"] - len(part.timings) for spec, part in parts.items()},
        "switch": _switch(parts, headline, run),
    }
    if any(part.verdicts for part in parts.values()):
        record["judge"] = _judge(folder, parts)
    return plain(record)


def write(folder: Path) -> dict[str, Any]:
    """Scores a run, writes scores.json beside its log, and returns the record."""
    record = score(folder)
    write_json(Path(folder) / "scores.json", record)
    return record


def estimate(name: str, values: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """The mean of a score: with Wilson's interval at the effective number of questions where it is a share."""
    return (clustered_share if _is_share(name) else clustered_mean)(values, clusters)


def _is_share(name: str) -> bool:
    return name == JUDGED or SCORERS[name].share


def _system(part: Part, names: Sequence[str]) -> dict[str, Any]:
    asked, timings = part.asked, part.timings
    kinds = sorted({one.kind for one in asked})
    context = [one.context_chars / CHARS_PER_TOKEN for one in asked]
    notes = Counter(note for one in asked for note in one.notes)
    joules = [timing.joules for timing in timings]
    return {
        "asked": len(asked),
        "streams": len(timings),
        "failed": _failed(asked),
        "unsupported": sum(len(timing.unsupported) for timing in timings),
        "scores": _scores(part, asked, names),
        "by_kind": {kind: _scores(part, [one for one in asked if one.kind == kind], names) for kind in kinds},
        "by_age": _by_age(part, names),
        "tokens": {
            "context": {"mean": _mean(context), "p95": percentile(context, 95)},
            "in": sum(one.tokens_in for one in asked),
            "out": sum(one.tokens_out for one in asked),
        },
        "seconds": _seconds(timings),
        "bytes": {
            "mean": _mean([timing.bytes for timing in timings]),
            "per_1000_characters": _per_1000([t.bytes for t in timings], [t.characters for t in timings]),
        },
        "joules": sum(j for j in joules if j is not None) if joules and None not in joules else None,
        "notes": dict(sorted(notes.items(), key=lambda item: (-item[1], item[0]))),
        "log_sha256": part.sha256,
    }


def _scores(part: Part, asked: Sequence[Asked], names: Sequence[str]) -> dict[str, Any]:
    found = {}
    for name in names:
        if name in SCORERS and SCORERS[name].needs == "ranking" and not part.ranks:
            continue
        having = [one for one in asked if name in one.values]
        if having:
            made = estimate(name, [one.values[name] for one in having], [one.cluster for one in having])
            found[name] = made.record()
    return found


def _by_age(part: Part, names: Sequence[str]) -> dict[str, Any]:
    found = {}
    for low, high in AGES:
        within = [
            one
            for one in part.asked
            if one.age is not None and low <= one.age and one.age <= (high or one.age)
        ]
        if within:
            found[f"{low}+" if high is None else f"{low}-{high}"] = _scores(part, within, names)
    return found


def _failed(asked: Sequence[Asked]) -> dict[str, int]:
    """By the word a failure begins with; any other counts as an error."""
    counts = Counter(one.failed.partition(":")[0].strip() for one in asked if one.failed)
    known = {why: counts[why] for why in FAILURES}
    known["error"] += sum(counts.values()) - sum(known.values())
    return known


def _seconds(timings: Sequence[Timing]) -> dict[str, Any]:
    answers = [seconds for timing in timings for seconds in timing.answer_s]
    return {
        "tell_per_1000_turns": _per_1000([t.observe_s for t in timings], [t.turns for t in timings]),
        "settle": sum(timing.settle_s for timing in timings),
        "answer": {"p50": percentile(answers, 50), "p95": percentile(answers, 95)},
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _per_1000(amounts: Sequence[float], units: Sequence[int]) -> float | None:
    return 1000 * sum(amounts) / sum(units) if sum(units) else None


def _judge(folder: Path, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Who judged, its errors on planted replies (None when they were not measured), and unreadable verdicts."""
    path = folder / "judged" / judging.PLANTED
    return {
        "name": {spec: part.verdicts.judge for spec, part in parts.items() if part.verdicts},
        "unparsed": {spec: part.verdicts.unparsed for spec, part in parts.items() if part.verdicts},
        "errors": judging.read_errors(path) if path.is_file() else None,
    }


# --- differences -----------------------------------------------------------------------------------


def paired(a: Iterable[Line], b: Iterable[Line], name: str) -> Paired:
    """A minus B in the score `name`, over the questions (by stream and id) that both lines have and it applies to."""
    rows = [[_asked(line, [name], None) for line in lines] for lines in (a, b)]
    return _paired(name, *rows)


def _paired(name: str, a: Iterable[Asked], b: Iterable[Asked]) -> Paired:
    left, right = {one.key: one for one in a}, {one.key: one for one in b}
    shared = [key for key in left if key in right and name in left[key].values and name in right[key].values]
    made = (clustered_difference if _is_share(name) else clustered_mean)(
        [left[key].values[name] - right[key].values[name] for key in shared],
        [left[key].cluster for key in shared],
    )
    return Paired(estimate=made, not_shared=len(left.keys() ^ right.keys()))


def _all_pairs(parts: Mapping[str, Part], names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    specs = list(parts)
    for name in names:
        ranking = name in SCORERS and SCORERS[name].needs == "ranking"
        fit = [spec for spec in specs if parts[spec].ranks or not ranking]
        pairs = {}
        for place, a in enumerate(fit):
            for b in fit[place + 1 :]:
                if name == JUDGED and _judges(parts[a], parts[b]):
                    continue
                difference = _paired(name, parts[a].asked, parts[b].asked)
                if difference.estimate.n:
                    pairs[f"{a}|{b}"] = difference.record()
        if pairs:
            found[name] = pairs
    return found


def _judges(a: Part, b: Part) -> list[str]:
    """The two judges where two systems were judged by different ones: their verdicts say nothing about a difference."""
    if a.verdicts is None or b.verdicts is None or a.verdicts.judge == b.verdicts.judge:
        return []
    return [a.verdicts.judge, b.verdicts.judge]


def compare(a: Path, system_a: str | None, b: Path, system_b: str | None) -> dict[str, Any]:
    """The differences A minus B of two systems on the questions that both were asked.

    a, b: folders of runs. A system that is None is the run's only one; where neither is named, each system that both
    runs hold is compared with itself. InputError when the runs are of other tasks, versions or data, or a system is
    not there. Other settings may differ; `differ` says which do. Where different judges judged, `judged` is left out, and
    the pair's `left_out` says so.
    """
    runs = [read_run(Path(folder)) for folder in (a, b)]
    for key in ("name", "version", "digest"):
        if runs[0]["task"][key] != runs[1]["task"][key]:
            raise InputError(
                f"{a} and {b} do not compare: their task's {key} is {runs[0]['task'][key]!r} and "
                f"{runs[1]['task'][key]!r}; run both on the same data with the same version"
            )
    task = runs[0]["task"]
    names = list(dict.fromkeys([*task["scorers"], task["without_reader"]]))
    pairs = []
    for left, right in _chosen(runs, (a, b), (system_a, system_b)):
        one, other = read_part(Path(a), left, names), read_part(Path(b), right, names)
        judges = _judges(one, other)
        both = [name for name in names if name != JUDGED or not judges]
        said = [f"{JUDGED} is left out: A was judged by {judges[0]}, B by {judges[1]}"] if judges else []
        pairs.append(
            {
                "a": left,
                "b": right,
                "scores": _differences(one, other, both),
                **({"left_out": said} if said else {}),
            }
        )
    differ = {key: [run.get(key) for run in runs] for key in SETTINGS if runs[0].get(key) != runs[1].get(key)}
    return plain(
        {
            "task": task["name"],
            "version": task["version"],
            "digest": task["digest"],
            "runs": [str(a), str(b)],
            "differ": differ,
            "pairs": pairs,
        }
    )


def _chosen(
    runs: Sequence[Mapping[str, Any]], folders: Sequence[Path], wanted: Sequence[str | None]
) -> list[tuple[str, str]]:
    specs = [[system["spec"] for system in run["systems"]] for run in runs]
    for folder, known, spec in zip(folders, specs, wanted, strict=True):
        if spec is not None and spec not in known:
            raise InputError(f"{folder} has no system {spec!r}; expected one of {', '.join(known)}")
    if wanted[0] is None and wanted[1] is None and max(map(len, specs)) > 1:
        both = [spec for spec in specs[0] if spec in specs[1]]
        if not both:
            raise InputError(f"{folders[0]} and {folders[1]} have no system in common; name one of each")
        return [(spec, spec) for spec in both]
    chosen = []
    for folder, known, spec in zip(folders, specs, wanted, strict=True):
        if spec is None and len(known) > 1:
            raise InputError(f"{folder} has {len(known)} systems; name one of {', '.join(known)}")
        chosen.append(spec or known[0])
    return [(chosen[0], chosen[1])]


def _differences(a: Part, b: Part, names: Sequence[str]) -> dict[str, Any]:
    found = {}
    left, right = _scores(a, a.asked, names), _scores(b, b.asked, names)
    for name in names:
        if name in left and name in right:
            difference = _paired(name, a.asked, b.asked)
            if difference.estimate.n:
                found[name] = {"a": left[name], "b": right[name], "difference": difference.record()}
    return found


def _switch(parts: Mapping[str, Part], name: str, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """Over growing histories (streams "size-NNNN/...") the curve of each system, and the size from which on it is
    above the full context: `at` by the mean, `sure_at` by the paired interval. None for other tasks, or when no
    system shows the full context."""
    baseline = next((s["spec"] for s in run["systems"] if s["name"] == FULL and s["spec"] in parts), None)
    if baseline is None or not all(SIZE.match(one.key[0]) for part in parts.values() for one in part.asked):
        return None
    by_size = {spec: _sizes(part.asked, name) for spec, part in parts.items()}
    if not by_size[baseline]:
        return None
    at, sure = {}, {}
    for spec, sizes in by_size.items():
        if spec != baseline:
            differences = {
                size: _paired(name, sizes[size], by_size[baseline][size]).estimate
                for size in sorted(set(sizes) & set(by_size[baseline]))
            }
            at[spec] = _from_which(differences, lambda difference: difference.mean)
            sure[spec] = _from_which(differences, lambda difference: difference.low)
    curves = {
        spec: {
            str(size): estimate(name, [o.values[name] for o in rows], [o.cluster for o in rows]).record()
            for size, rows in sorted(sizes.items())
        }
        for spec, sizes in by_size.items()
    }
    kept = {"score": name, "unit": "conversations", "baseline": baseline}
    return {**kept, "curves": curves, "at": at, "sure_at": sure}


def _sizes(asked: Iterable[Asked], name: str) -> dict[int, list[Asked]]:
    sizes: dict[int, list[Asked]] = defaultdict(list)
    for one in asked:
        match = SIZE.match(one.key[0])
        if match and name in one.values:
            sizes[int(match.group(1))].append(one)
    return dict(sizes)


def _from_which(differences: Mapping[int, Estimate], value: Callable[[Estimate], float]) -> int | None:
    """The smallest size at and after which the value is always above 0."""
    found = None
    for size in sorted(differences, reverse=True):
        if not value(differences[size]) > 0:
            break
        found = size
    return found
