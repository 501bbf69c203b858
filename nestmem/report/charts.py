"""What the plots show, as plain values made from scores.json. `svg` draws them into the page, `plots` into PNG files.

Positions are those of the drawing: where an axis is logarithmic they are log10(1 + value), so that 0 has a place,
and `x_ticks` say what stands there. Heights are in percent where the score is a share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nestmem.errors import InputError
from nestmem.evals.scorers import SCORERS
from nestmem.evals.tables import named

UNITS = {"probe_margin": "nats per token"}
"""What scores are counted in that are no shares."""

MOST_TICKS = 10
"""Up to so many sizes of a history stand on the axis themselves."""

Ticks = tuple[tuple[float, str], ...]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A mean with its interval (95 %); place: the value on the other axis, or the number of its group."""

    place: float
    mean: float
    low: float
    high: float
    about: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """One system. number: its place among the systems of the run, which gives its colour and mark everywhere."""

    name: str
    number: int
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One plot. key: the end of its file's name. form: single points, points joined by lines, or bars in groups
    (`x_ticks` then names the groups, and the bars lie). marks: places on the x axis with a word on each."""

    key: str
    title: str
    form: Literal["points", "lines", "bars"]
    x_label: str
    y_label: str
    x_ticks: Ticks
    y_ticks: Ticks
    series: tuple[Series, ...]
    marks: Ticks = ()


def is_share(score: str) -> bool:
    """Whether its values are 0..1; what is no score of a line (a judge's) is taken for one."""
    return score not in SCORERS or SCORERS[score].share


def is_lower_better(score: str) -> bool:
    """Whether a small value is the good one."""
    return score in SCORERS and SCORERS[score].better == "lower"


def scale(score: str) -> float:
    """What a value of the score is multiplied with to be shown: 100 for a share."""
    return 100.0 if is_share(score) else 1.0


def label(score: str) -> str:
    """A score's name with its unit.

    >>> label("stale"), label("probe_margin")
    ('stale ↓, % (lower is better)', 'probe margin, nats per token')
    """
    lower = " (lower is better)" if is_lower_better(score) else ""
    unit = "%" if is_share(score) else UNITS.get(score, "not a share")
    return f"{named(score).replace('_', ' ')}, {unit}{lower}"


def charts(scores: Mapping[str, Any]) -> list[Chart]:
    """The plots that these scores have numbers for."""
    made = (by_tokens(scores), by_age(scores), by_kind(scores), by_history(scores))
    return [chart for chart in made if chart is not None]


def by_tokens(scores: Mapping[str, Any]) -> Chart | None:
    """The headline score against the tokens of recalled text per question, one point for each system."""
    name = scores["headline"]
    found = [
        (number, spec, system["scores"][name], system["tokens"]["context"]["mean"])
        for number, (spec, system) in enumerate(scores["systems"].items())
        if _known(system["scores"].get(name)) and system["tokens"]["context"]["mean"] is not None
    ]
    if not found:
        return None
    ticks, log = number_ticks([tokens for *_, tokens in found])
    series = tuple(
        Series(
            name=spec,
            number=number,
            points=(_point(name, estimate, _at(tokens, log), f"{tokens:,.0f} tokens"),),
        )
        for number, spec, estimate, tokens in found
    )
    return Chart(
        key="tokens",
        title="Score against tokens",
        form="points",
        x_label="tokens of recalled text per question, mean" + (" (logarithmic)" if log else ""),
        y_label=label(name),
        x_ticks=ticks,
        y_ticks=_heights(name, series),
        series=series,
    )


def by_age(scores: Mapping[str, Any]) -> Chart | None:
    """The headline score by the age of the evidence, with the number of questions under each bin."""
    return _grouped(scores, "by_age", "age", "Retention against age", "lines", "age of the evidence, turns")


def by_kind(scores: Mapping[str, Any]) -> Chart | None:
    """The headline score by question type; None when there is only one."""
    chart = _grouped(scores, "by_kind", "kind", "By question type", "bars", "question type")
    return None if chart is None or len(chart.x_ticks) < 2 else chart


def by_history(scores: Mapping[str, Any]) -> Chart | None:
    """A score by the size of the history, and where the full context is overtaken (the `growing` task alone)."""
    switch = scores.get("switch")
    if not switch:
        return None
    name, curves, specs = switch["score"], switch["curves"], list(scores["systems"])
    sizes = sorted({int(size) for curve in curves.values() for size in curve})
    if not sizes:
        return None
    ticks, log = number_ticks(sizes)
    if len(sizes) <= MOST_TICKS:
        ticks = tuple((_at(size, log), f"{size:,}") for size in sizes)
    series = tuple(
        Series(
            name=spec,
            number=specs.index(spec),
            points=tuple(
                _point(name, curve[size], _at(int(size), log), f"{int(size):,} {switch['unit']}")
                for size in sorted(curve, key=int)
                if _known(curve[size])
            ),
        )
        for spec, curve in curves.items()
        if spec in specs
    )
    return Chart(
        key="history",
        title="Score against the size of the history",
        form="lines",
        x_label=f"history, {switch['unit']}" + (" (logarithmic)" if log else ""),
        y_label=label(name),
        x_ticks=ticks,
        y_ticks=_heights(name, series),
        series=series,
        marks=_switches(switch, log),
    )


def groups(scores: Mapping[str, Any], part: str) -> list[str]:
    """The kinds or ages that any system has, in the order in which they first stand; ages ascending."""
    found = dict.fromkeys(group for system in scores["systems"].values() for group in system[part])
    return sorted(found, key=_youngest) if part == "by_age" else list(found)


def counted(scores: Mapping[str, Any], part: str, group: str, name: str) -> str:
    """How many questions a group holds for this score: "12", or "8–12" where the systems differ."""
    found = (system[part].get(group, {}).get(name) for system in scores["systems"].values())
    numbers = sorted({estimate["n"] for estimate in found if estimate})
    return "0" if not numbers else "–".join(f"{n:,}" for n in dict.fromkeys((numbers[0], numbers[-1])))


def number_ticks(values: Iterable[float]) -> tuple[Ticks, bool]:
    """Ticks for the values, and whether they stand at log10(1 + value): when the largest is more than thirty times the
    smallest that is not 0. Even ticks begin at 0; others are powers of ten, and 0 where a value is.

    >>> number_ticks([0, 900])[0]
    ((0.0, '0'), (200.0, '200'), (400.0, '400'), (600.0, '600'), (800.0, '800'), (1000.0, '1,000'))
    >>> [text for _, text in number_ticks([0, 20, 1900])[0]]
    ['0', '10', '100', '1,000']
    """
    given = list(values)
    present = [value for value in given if value > 0] or [1.0]
    top = max(present)
    if top <= 30 * min(present):
        return _even(0.0, top), False
    first, last = (math.floor(math.log10(max(value, 1.0))) for value in (min(present), top))
    zero = [0] if min(given) <= 0 else []
    return tuple(
        (_at(value, True), f"{value:,}") for value in (*zero, *(10**k for k in range(first, last + 1)))
    ), True


def sides(chart: Chart) -> tuple[float, float]:
    """From where to where the x axis goes: all ticks and points, and a margin."""
    places = [place for place, _ in chart.x_ticks]
    if any("\n" in text for _, text in chart.x_ticks):
        return min(places) - 0.5, max(places) + 0.5
    places += [point.place for one in chart.series for point in one.points]
    margin = 0.04 * (max(places) - min(places) or 1.0)
    return min(places) - margin, max(places) + margin


def _grouped(
    scores: Mapping[str, Any],
    part: str,
    key: str,
    title: str,
    form: Literal["lines", "bars"],
    x_label: str,
) -> Chart | None:
    name = scores["headline"]
    names = [
        group
        for group in groups(scores, part)
        if any(_known(system[part].get(group, {}).get(name)) for system in scores["systems"].values())
    ]
    if not names:
        return None
    many = len(scores["systems"])

    def aside(number: int) -> float:
        """Systems stand a little beside each other, so that their intervals can be told apart."""
        return (number - (many - 1) / 2) * min(0.05, 0.5 / many)

    series = tuple(
        Series(
            name=spec,
            number=number,
            points=tuple(
                _point(name, system[part][group][name], place + aside(number) * (form == "lines"), group)
                for place, group in enumerate(names)
                if _known(system[part].get(group, {}).get(name))
            ),
        )
        for number, (spec, system) in enumerate(scores["systems"].items())
    )
    series = tuple(one for one in series if one.points)
    return Chart(
        key=key,
        title=title,
        form=form,
        x_label=x_label,
        y_label=label(name),
        x_ticks=tuple(
            (float(place), f"{group}\nn {counted(scores, part, group, name)}")
            for place, group in enumerate(names)
        ),
        y_ticks=_heights(name, series),
        series=series,
    )


def _switches(switch: Mapping[str, Any], log: bool) -> Ticks:
    """Where the full context is overtaken for good, the systems that overtake it at one place together."""
    places: dict[int, list[str]] = {}
    for spec, size in switch["at"].items():
        if size is not None:
            places.setdefault(int(size), []).append(spec)
    return tuple((_at(size, log), ", ".join(places[size])) for size in sorted(places))


def _known(estimate: Mapping[str, Any] | None) -> bool:
    return bool(estimate) and estimate["mean"] is not None and estimate["n"] > 0


def _point(name: str, estimate: Mapping[str, Any], place: float, where: str) -> Point:
    mean = estimate["mean"]
    low = mean if estimate["low"] is None else estimate["low"]
    high = mean if estimate["high"] is None else estimate["high"]
    times = scale(name)
    return Point(
        place=float(place),
        mean=times * mean,
        low=times * low,
        high=times * high,
        about=f"{where}: {times * mean:.1f} ({times * low:.1f} to {times * high:.1f}), n {estimate['n']:,}",
    )


def _heights(name: str, series: Sequence[Series]) -> Ticks:
    if is_share(name):
        return tuple((float(value), f"{value}") for value in range(0, 101, 20))
    points = [point for one in series for point in one.points]
    return _even(min(0.0, *(p.low for p in points)), max(0.0, *(p.high for p in points)))


def _even(low: float, high: float) -> Ticks:
    """Four to eight round ticks that cover low..high."""
    span = (high - low) or 1.0
    size = 10 ** math.floor(math.log10(span))
    step = next(size * times for times in (0.2, 0.5, 1.0, 2.0) if span / (size * times) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return tuple(
        (round(k * step, 9), f"{round(k * step, 9):,.6g}" if step < 1 else f"{k * step:,.0f}")
        for k in range(first, last + 1)
    )


def _at(value: float, log: bool) -> float:
    return math.log10(1 + value) if log else float(value)


def _youngest(bin_: str) -> int:
    """The first age of "10-99" or "1000+". InputError when it is neither."""
    first = bin_.rstrip("+").split("-")[0]
    if not first.isdigit():
        raise InputError(
            f"scores.json: the age {bin_!r} is none; expected LOW-HIGH or LOW+; score the run again"
        )
    return int(first)
