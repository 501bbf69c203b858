"""Charts as SVG inside the page: colours come from its style sheet, so they follow its light and dark."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nestmem.report.charts import Chart, Point, Series, sides
from nestmem.report.markup import Html, tag

COLOURS = 8
DASHES = ("", "6 3", "2 3", "8 3 2 3")
"""Of lines, where there are more systems than colours."""

WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 22, 62
"""Of a chart with upright y axis, in the units of its drawing."""

NAMES = 190
"""Width that the names of the groups of bars take."""
BAR, BETWEEN = 12, 16

Axis = Callable[[float], float]


def draw(chart: Chart) -> Html:
    """A figure: the drawing, its legend and what its intervals are."""
    drawn = _bars(chart) if chart.form == "bars" else _upright(chart)
    legend = tag("ul", *(tag("li", _key(one), " ", one.name) for one in chart.series), class_="legend")
    words = tag("figcaption", f"{chart.title}: {chart.y_label}, by {chart.x_label}. Intervals cover 95 %.")
    return tag("figure", drawn, legend, words)


def _upright(chart: Chart) -> Html:
    """Points, or points joined by lines, above an x axis."""
    x = _axis(*sides(chart), LEFT, WIDTH - RIGHT)
    y = _axis(chart.y_ticks[0][0], chart.y_ticks[-1][0], HEIGHT - BOTTOM, TOP)
    parts = [_line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid") for value, _ in chart.y_ticks]
    parts += [_text(LEFT - 8, y(value) + 4, text, "end") for value, text in chart.y_ticks]
    for value, text in chart.x_ticks:
        parts.append(_line(x(value), HEIGHT - BOTTOM, x(value), HEIGHT - BOTTOM + 4, "axis"))
        parts += [
            _text(x(value), HEIGHT - BOTTOM + 17 + 13 * i, row) for i, row in enumerate(text.split("\n"))
        ]
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, chart.x_label, class_="label"))
    parts.append(_text(LEFT - 50, TOP - 9, chart.y_label, "start", class_="label"))
    for row, (value, text) in enumerate(chart.marks):
        right = x(value) > WIDTH / 2
        parts.append(_line(x(value), TOP, x(value), HEIGHT - BOTTOM, "mark"))
        place = x(value) - 4 if right else x(value) + 4
        parts.append(_text(place, TOP + 10 + 13 * row, f"overtaken by {text}", "end" if right else "start"))
    parts += [_one(series, chart.form == "lines", x, y) for series in chart.series]
    return _svg(chart, HEIGHT, parts)


def _one(series: Series, joined: bool, x: Axis, y: Axis) -> Html:
    parts = []
    if joined and len(series.points) > 1:
        path = "M" + "L".join(f"{x(p.place):.1f} {y(p.mean):.1f}" for p in series.points)
        parts.append(tag("path", d=path, class_="line", stroke_dasharray=_dash(series.number)))
    for point in series.points:
        here = x(point.place)
        whisker = _line(here, y(point.low), here, y(point.high), "whisker")
        parts.append(tag("g", _title(series, point), whisker, _mark(series.number, here, y(point.mean))))
    return tag("g", *parts, class_=_colour(series.number))


def _bars(chart: Chart) -> Html:
    """Lying bars, grouped under the names of the x axis."""
    x = _axis(chart.y_ticks[0][0], chart.y_ticks[-1][0], NAMES, WIDTH - 60)
    tall = len(chart.series) * BAR + BETWEEN
    height = TOP + 12 + tall * len(chart.x_ticks) + 24
    parts = [_line(x(value), TOP, x(value), height - 24, "grid") for value, _ in chart.y_ticks]
    parts += [_text(x(value), height - 8, text) for value, text in chart.y_ticks]
    parts.append(_text(NAMES, TOP - 9, chart.y_label, "start", class_="label"))
    for place, name in chart.x_ticks:
        middle = TOP + 12 + tall * (place + 0.5) - BETWEEN / 2
        parts += [
            _text(NAMES - 10, middle - 2 + 13 * i, _short(row), "end")
            for i, row in enumerate(name.split("\n"))
        ]
    for number, series in enumerate(chart.series):
        bars = [
            _bar(series, point, x, TOP + 12 + tall * point.place + BAR * number) for point in series.points
        ]
        parts.append(tag("g", *bars, class_=_colour(series.number)))
    return _svg(chart, height, parts)


def _bar(series: Series, point: Point, x: Axis, top: float) -> Html:
    zero, end, middle = x(0.0), x(point.mean), top + BAR / 2 - 1
    body = tag(
        "rect",
        x=f"{min(zero, end):.1f}",
        y=f"{top:.1f}",
        width=f"{abs(end - zero):.1f}",
        height=BAR - 2,
        class_="bar",
    )
    whisker = _line(x(point.low), middle, x(point.high), middle, "whisker")
    value = _text(
        x(max(point.high, point.mean)) + 5, middle + 3, f"{point.mean:.0f}", "start", class_="value"
    )
    mark = _mark(series.number, end, middle)
    return tag("g", _title(series, point), body, whisker, mark, value)


def _svg(chart: Chart, height: float, parts: Sequence[Html]) -> Html:
    name = tag("title", f"{chart.title}; the numbers stand in the tables")
    return tag("svg", name, *parts, viewBox=f"0 0 {WIDTH} {height:g}", role="img", class_="chart")


def _key(series: Series) -> Html:
    mark = tag("g", _mark(series.number, 7, 7), class_=_colour(series.number))
    return tag("svg", mark, viewBox="0 0 14 14", class_="key", aria_hidden="true")


def _mark(number: int, x: float, y: float) -> Html:
    """A filled shape of its own for each of five systems; with eight colours, forty differ."""
    shapes = (
        ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
        ((0, -5), (5, 4), (-5, 4)),
        ((0, 5), (5, -4), (-5, -4)),
    )
    kind = number % (len(shapes) + 1)
    if kind == 0:
        return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4.5, class_="dot")
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shapes[kind - 1])
    return tag("polygon", points=corners, class_="dot")


def _title(series: Series, point: Point) -> Html:
    return tag("title", f"{series.name}, {point.about}")


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=class_)


def _text(x: float, y: float, text: str, anchor: str = "middle", class_: str | None = None) -> Html:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_)


def _axis(low: float, high: float, first: float, last: float) -> Axis:
    """Values low..high to places first..last; what lies outside stands at the edge."""
    span = (high - low) or 1.0
    return lambda value: first + (last - first) * min(1.0, max(0.0, (value - low) / span))


def _colour(number: int) -> str:
    return f"c{number % COLOURS}"


def _dash(number: int) -> str | None:
    return DASHES[number // COLOURS % len(DASHES)] or None


def _short(text: str, size: int = 28) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"
