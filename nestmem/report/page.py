"""The page of one run, from its records: everything that comes from data is escaped (`markup`), nothing is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from nestmem.errors import InputError
from nestmem.evals import scorers
from nestmem.evals.log import Line
from nestmem.evals.tables import doubt, one_cluster
from nestmem.report import missing
from nestmem.report.charts import charts, counted, groups, is_lower_better, label, scale
from nestmem.report.examples import Example, chosen_score, sample, show
from nestmem.report.markup import Html, breakable, escape, items, join, section, table, tag
from nestmem.report.svg import draw

LIMIT = 400_000
"""Bytes that a page stays under: texts of examples are cut shorter until it does."""

SIZES = (1600, 800, 400, 200, 100, 50)
"""Characters of context in an example, tried in this order."""

NONE = "–"


def page(
    run: Mapping[str, Any],
    scores: Mapping[str, Any],
    lines: Mapping[str, Iterable[Line]],
    *,
    text: bool = True,
    examples: int = 5,
    baseline: str | None = None,
) -> str:
    """The whole page as HTML, from what run.json and scores.json hold and the lines of each system's log.

    text: whether the data is quoted. examples: questions per system. baseline: the system that differences are taken
    from (None: the first bm25, or the first).
    """
    told_by = chosen_score(run, scores)
    drawn, damaged = ({}, []) if told_by is None else _draw(lines, told_by, run["seed"], examples)
    heading = f"{run['task']['title']}: {len(scores['systems'])} systems"
    parts = [
        section("missing", "What is missing", *missing.show(run, scores, damaged=damaged)),
        section("scores", "Scores", *_scores(scores)),
        section("plots", "Plots", *_plots(scores)),
        section(
            "differences", "Paired differences", *_differences(scores, baseline or _baseline(run, scores))
        ),
        section("costs", "Tokens, seconds, bytes", *_costs(scores)),
        section("kinds", "By question type", *_split(scores, "by_kind", "question type")),
        section("ages", "By age of the evidence", *_split(scores, "by_age", "age, turns")),
    ]
    head = tag("header", tag("h1", heading), _head(run, scores), _contents())
    whole = ""
    for size in SIZES:
        shown = section("examples", "Examples", *_examples(run, drawn, told_by, text=text, size=size))
        whole = render(heading, join([head, tag("main", *parts, shown, id="main", tabindex="-1")]))
        if len(whole.encode()) < LIMIT:
            break
    return whole


def render(title: str, body: Html) -> str:
    """A page of the template with this title (plain text) and body."""
    template = resources.files("nestmem.report").joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(title=escape(title), body=body)


def value(name: str, estimate: Mapping[str, Any] | None, usual: int | None = None) -> str:
    """A mean with its standard error (its interval, where that is 0), in percent where it is a share; n where it is
    not the `usual` one.

    >>> value("exact", {"mean": 0.5, "se": 0.0126, "n": 80}, 100)
    '50.0 ± 1.3 (n 80)'
    >>> value("exact", {"mean": 1.0, "se": 0.0, "low": 0.93, "high": 1.0, "n": 50})
    '100.0 (≥ 93.0)'
    """
    if not estimate or estimate["mean"] is None:
        return NONE
    times, places = scale(name), 1 if scale(name) > 1 else 3
    n = "" if usual in (None, estimate["n"]) else f" (n {estimate['n']:,})"
    # Adding 0 turns -0.0 into 0.0.
    return f"{round(times * estimate['mean'], places) + 0.0:.{places}f}{doubt(estimate, times=times, places=places)}{n}"


def usual_n(estimates: Iterable[Mapping[str, Any] | None]) -> int | None:
    """The n that most of the estimates have, the largest where several are as common; None when there is none."""
    numbers = Counter(estimate["n"] for estimate in estimates if estimate)
    return max(numbers, key=lambda n: (numbers[n], n), default=None)


def paired(scores: Mapping[str, Any], name: str, a: str, b: str) -> dict[str, Any] | None:
    """The difference a - b of a score on the questions both were asked, whichever way round it is recorded."""
    found = scores["paired"].get(name, {})
    if f"{a}|{b}" in found:
        return dict(found[f"{a}|{b}"])
    if f"{b}|{a}" not in found:
        return None
    turned = dict(found[f"{b}|{a}"])
    for key, other in (("mean", "mean"), ("low", "high"), ("high", "low")):
        before = found[f"{b}|{a}"][other]
        turned[key] = None if before is None else -before
    return turned


def _head(run: Mapping[str, Any], scores: Mapping[str, Any]) -> Html:
    task, machine = run["task"], run.get("environment", {})
    options = ", ".join(f"{key}={value}" for key, value in task["options"].items())
    licence = task["licence"]
    cores = ", ".join(f"{machine[key]} {key}" for key in ("cores", "threads") if machine.get(key))
    hardware = [machine.get("cpu"), cores, machine.get("gpu"), machine.get("machine")]
    versions = [
        f"{key} {machine[key]}" for key in ("nestmem", "python", "torch", "numpy") if machine.get(key)
    ]
    facts = [
        ("task", f"{task['name']}, version {task['version']}" + (f" ({options})" if options else "")),
        ("data", f"{task['source']}, sha256 {task['digest'][:16]}"),
        ("licence", f"{licence['name']} (may be passed on: {licence['redistribution']})"),
        ("asked", f"{task['questions']:,} questions in {task['streams']:,} streams"),
        ("headline score", label(scores["headline"])),
        ("reader", run["reader"]["name"] if run["reader"]["spec"] != "none" else "none"),
        ("embedder", run.get("embedder") or "none"),
        ("budget", f"{run['budget_tokens']:,} tokens of recalled text; a window of {run['window_tokens']:,}"),
        ("ranking", f"{run['depth']} turns deep"),
        ("seed", run["seed"]),
        ("commit", machine.get("commit") or "not known"),
        ("hardware", ", ".join(part for part in hardware if part) or "not known"),
        ("versions", ", ".join(versions) or "not known"),
        ("started", run.get("started") or "not recorded"),
    ]
    if minutes := run.get("cost", {}).get("minutes"):
        facts.append(("cost", f"about {minutes:.1f} minutes, as estimated before it started"))
    return tag("dl", *(part for name, fact in facts for part in (tag("dt", name), tag("dd", fact))))


def _contents() -> Html:
    links = ("missing", "scores", "plots", "differences", "costs", "kinds", "ages", "examples")
    return tag("nav", items(tag("a", link, href=f"#{link}") for link in links), aria_label="contents")


def _scores(scores: Mapping[str, Any]) -> list[Html]:
    """Systems by scores; the mean is bold where a system leads every other beyond doubt."""
    names = list(dict.fromkeys(name for system in scores["systems"].values() for name in system["scores"]))
    names.sort(key=lambda name: name != scores["headline"])
    usual = {
        name: usual_n(system["scores"].get(name) for system in scores["systems"].values()) for name in names
    }
    rows = []
    for spec, system in scores["systems"].items():
        cells: list[object] = [spec, f"{system['asked']:,}"]
        for name in names:
            shown = value(name, system["scores"].get(name), usual[name])
            cells.append(tag("b", shown) if _leads(scores, name, spec) else shown)
        rows.append(cells)
    about = (
        "Mean ± standard error, clustered by conversation, or the 95 % interval where that error is 0; n: the questions "
        "that a score applies to, in a cell where it is another than in most. A failed reading counts as wrong. ↓: less "
        "is better. Bold: better than every other system, each paired 95 % interval without 0."
    )
    return [
        table("Systems and scores", ["system", "asked", *_headings(usual)], rows),
        tag("p", about, class_="soft"),
        *(tag("p", f"{line}.", class_="warn") for line in one_cluster(scores)),
        *_judge(scores.get("judge")),
        *_meanings(names),
    ]


def _judge(judge: Mapping[str, Any] | None) -> list[Html]:
    """Who judged, and how often it errs on replies whose right verdict is known."""
    if not judge:
        return []
    names = ", ".join(dict.fromkeys(judge["name"].values()))
    unread = sum(judge["unparsed"].values())
    said = f"Judged by {names}; {unread:,} verdicts could not be read and count as wrong. "
    errors = judge["errors"]
    if errors is None:
        return [tag("p", said, "Its errors were not measured.", class_="warn")]
    took, refused = (_share(errors[key]) for key in ("false_accept", "false_reject"))
    rows = [
        [kind, verdict, _share(share)]
        for key, verdict in (("false_accept", "wrong, accepted"), ("false_reject", "right, refused"))
        for kind, share in errors.get(f"{key}_by_kind", {}).items()
    ]
    return [
        tag(
            "p", said, f"Of planted replies it accepted {took} wrong ones, and refused {refused} right ones."
        ),
        *(
            [table("The judge's errors by kind of planted reply", ["reply", "error", "share"], rows)]
            if rows
            else []
        ),
    ]


def _share(part: Mapping[str, Any]) -> str:
    """A share with its interval, in percent."""
    if part["mean"] is None:
        return "none of 0"
    return (
        f"{100 * part['mean']:.1f} % ({100 * part['low']:.1f} to {100 * part['high']:.1f}) of {part['n']:,}"
    )


def _meanings(names: Sequence[str]) -> list[Html]:
    """What each score says, in a list that opens."""
    known = [
        (label(name), scorers.SCORERS[name].about) for name in dict.fromkeys(names) if name in scorers.SCORERS
    ]
    if not known:
        return []
    listed = tag("dl", *(part for name, about in known for part in (tag("dt", name), tag("dd", about))))
    return [tag("details", tag("summary", "What the scores say"), listed, class_="meanings")]


def _plots(scores: Mapping[str, Any]) -> list[Html]:
    """All plots, and in a table where the full context is overtaken."""
    drawings = [draw(chart) for chart in charts(scores)]
    switch = scores.get("switch")
    if not switch:
        return drawings or [tag("p", "No system has the headline score.")]
    sure = switch.get("sure_at", {})
    rows = [[spec, _size(size), _size(sure.get(spec))] for spec, size in switch["at"].items()]
    caption = f"From how many {switch['unit']} on a system stays above {switch['baseline']}"
    head = ["system", "its mean", "the paired 95 % interval"]
    return [*drawings, table(caption, head, rows)]


def _size(size: int | None) -> str:
    return "never" if size is None else f"{size:,}"


def _leads(scores: Mapping[str, Any], name: str, spec: str) -> bool:
    """Whether every paired difference to another system that has the score is better, its interval without 0."""
    others = [
        other for other, each in scores["systems"].items() if other != spec and each["scores"].get(name)
    ]
    sign = -1 if is_lower_better(name) else 1
    found = [paired(scores, name, spec, other) for other in others]
    return bool(found) and all(one and _sure(one) and sign * one["mean"] > 0 for one in found)


def _sure(estimate: Mapping[str, Any]) -> bool:
    """Whether the interval leaves out 0."""
    return estimate["low"] is not None and (estimate["low"] > 0 or estimate["high"] < 0)


def _baseline(run: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    """The first bm25 that was asked anything, or the first system that was, or the first."""
    specs = [each["spec"] for each in run["systems"]]
    asked = [each for each in run["systems"] if scores["systems"].get(each["spec"], {}).get("asked")]
    bm25 = [each["spec"] for each in asked if each["name"] == "bm25"]
    return next(iter((*bm25, *(each["spec"] for each in asked), *specs)))


def _differences(scores: Mapping[str, Any], baseline: str) -> list[Html]:
    others = [spec for spec in scores["systems"] if spec != baseline]
    names = [
        name
        for name in scores["paired"]
        if any(paired(scores, name, spec, baseline) is not None for spec in others)
    ]
    names.sort(key=lambda name: name != scores["headline"])
    if not names:
        return [tag("p", f"No other system was asked the same questions as {baseline}.")]
    usual = {name: usual_n(paired(scores, name, spec, baseline) for spec in others) for name in names}
    rows = [
        [spec, *(_difference(scores, name, spec, baseline, usual[name]) for name in names)] for spec in others
    ]
    about = (
        f"System minus {baseline}, ± standard error, or the 95 % interval where that error is 0, on the questions that "
        "both were asked. "
        "Bold: the 95 % interval leaves out 0."
    )
    caption = f"Differences to {baseline}"
    return [table(caption, ["system", *_headings(usual)], rows), tag("p", about, class_="soft")]


def _headings(usual: Mapping[str, int | None]) -> list[str]:
    """Names of scores with their usual n."""
    return [f"{label(name)} (n {n or 0:,})" for name, n in usual.items()]


def _difference(scores: Mapping[str, Any], name: str, spec: str, baseline: str, usual: int | None) -> object:
    found = paired(scores, name, spec, baseline)
    if found is None or found["mean"] is None:
        return NONE
    shown = value(name, found, usual)
    shown = f"+{shown}" if found["mean"] > 0 else shown
    return tag("b", shown) if _sure(found) else shown


def _costs(scores: Mapping[str, Any]) -> list[Html]:
    head = ["system", "recalled tokens per question, mean", "95th percentile", "reader tokens in", "out"]
    head += ["telling, s per 1,000 turns", "idle work, s", "answering, ms, median", "95th percentile"]
    head += ["kept, kB per stream", "kept, bytes per 1,000 characters told", "energy, J"]
    rows = []
    for spec, system in scores["systems"].items():
        tokens, seconds, kept = system["tokens"], system["seconds"], system["bytes"]
        answer = seconds["answer"]
        rows.append(
            [
                spec,
                number(tokens["context"]["mean"]),
                number(tokens["context"]["p95"]),
                number(tokens["in"]),
                number(tokens["out"]),
                number(seconds["tell_per_1000_turns"], places=2),
                number(seconds["settle"], places=1),
                number(answer["p50"], times=1000, places=1),
                number(answer["p95"], times=1000, places=1),
                number(kept["mean"], times=0.001, places=1),
                number(kept["per_1000_characters"]),
                number(system.get("joules")),
            ]
        )
    about = (
        "A recalled token is 4 characters; the reader's tokens are as it counts them. "
        "Energy is that of the whole machine meanwhile."
    )
    return [table("What each system costs", head, rows), tag("p", about, class_="soft")]


def number(given: float | None, *, times: float = 1.0, places: int = 0) -> str:
    """A number with separators, or a dash.

    >>> number(12345.6), number(None), number(0.0123, times=1000, places=1)
    ('12,346', '–', '12.3')
    """
    return NONE if given is None else f"{times * given:,.{places}f}"


def _split(scores: Mapping[str, Any], part: str, what: str) -> list[Html]:
    """The headline score by kind or age: a row for each, a column for each system."""
    name, names = scores["headline"], groups(scores, part)
    if not names:
        return [tag("p", "No question of this run has one.")]
    rows = [
        [
            group,
            counted(scores, part, group, name),
            *(value(name, system[part].get(group, {}).get(name)) for system in scores["systems"].values()),
        ]
        for group in names
    ]
    return [table(f"{label(name)}, by {what}", [what, "n", *map(breakable, scores["systems"])], rows)]


def _draw(
    lines: Mapping[str, Iterable[Line]], told_by: str, seed: int, wanted: int
) -> tuple[dict[str, list[Example]], list[str]]:
    """The examples of each system, and the systems whose log ends in the middle of a line: they have examples of what
    stands before."""
    drawn: dict[str, list[Example]] = {}
    damaged: list[str] = []
    for spec, log in lines.items():

        def readable(log: Iterable[Line] = log, spec: str = spec) -> Iterator[Line]:
            try:
                yield from log
            except InputError:
                damaged.append(spec)

        drawn[spec] = sample(readable(), told_by, scorers.SCORERS[told_by], seed=seed, wanted=wanted)
    return drawn, damaged


def _examples(
    run: Mapping[str, Any],
    examples: Mapping[str, Iterable[Example]],
    told_by: str | None,
    *,
    text: bool,
    size: int,
) -> list[Html]:
    if told_by is None:
        return [tag("p", "No score of this task is made from one line of the log.")]
    about = (
        f"Drawn by the seed {run['seed']}, the same questions for each system where they came out the same. "
        f"✗ and ✓ are by {label(told_by)}."
    )
    if not text:
        about += " The text of the data is left out."
    else:
        about += f" Texts are cut at {size:,} characters; an accepted answer in what was shown is marked."
    parts = [tag("p", about, class_="soft")]
    for spec, drawn in examples.items():
        found = [show(example, text=text, size=size) for example in drawn]
        parts += [
            tag("h3", spec),
            *(found or [tag("p", "None: this score applies to no question of its log.")]),
        ]
    return parts
