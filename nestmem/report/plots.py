"""Charts as PNG files, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestmem.errors import MissingExtra
from nestmem.report.charts import Chart, Series, charts, sides

COLOURS = ("#1f6fb4", "#c2570c", "#1b7f4f", "#a63a8c", "#8a6d00", "#b3261e", "#5b4fc4", "#4a5560")
MARKS = ("o", "s", "D", "^", "v")
DASHES = ("-", "--", ":", "-.")


def write(scores: Mapping[str, Any], folder: Path, *, title: str) -> list[Path]:
    """Draws plot_tokens.png, plot_age.png, plot_kind.png and plot_history.png, as far as there are numbers for them.

    One version of matplotlib draws the same bytes each time. Raises MissingExtra without it.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("plot", "matplotlib") from error
    # A name may hold a "$", which is no formula here.
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 9}):
        return [_draw(chart, folder / f"plot_{chart.key}.png", title) for chart in charts(scores)]


def _draw(chart: Chart, path: Path, title: str) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = chart.form == "bars"
    many = len(chart.series)
    high = 1.4 + 0.17 * many * len(chart.x_ticks) if bars else 4.2
    rows = -(-many // 3)
    figure = Figure(figsize=(7.6, high + 0.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    (_bars if bars else _upright)(axes, chart)
    axes.set_title(f"{title}: {chart.title.lower()}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    handles = [axes.plot([], [], **_style(one), linestyle="none")[0] for one in chart.series]
    figure.legend(
        handles, [one.name for one in chart.series], loc="outside lower center", ncols=3, fontsize=7.5
    )
    figure.savefig(path, dpi=130, metadata={"Software": None})
    figure.clear()
    return path


def _upright(axes: Any, chart: Chart) -> None:
    for one in chart.series:
        places = [point.place for point in one.points]
        means = [point.mean for point in one.points]
        below = [max(0.0, point.mean - point.low) for point in one.points]
        above = [max(0.0, point.high - point.mean) for point in one.points]
        dash = DASHES[one.number // len(COLOURS) % len(DASHES)] if chart.form == "lines" else "none"
        style = {**_style(one), "linestyle": dash, "linewidth": 1.2, "elinewidth": 1.0}
        axes.errorbar(places, means, yerr=[below, above], **style)
    left, right = sides(chart)
    for row, (place, text) in enumerate(chart.marks):
        late = place > (left + right) / 2
        axes.axvline(place, color="#8a4b00", linestyle="--", linewidth=1)
        axes.annotate(
            f"overtaken by {text}",
            (place, 0.98 - 0.04 * row),
            (-4 if late else 4, 0),
            ("data", "axes fraction"),
            "offset points",
            ha="right" if late else "left",
            fontsize=7,
        )
    axes.set_xticks([place for place, _ in chart.x_ticks], [text for _, text in chart.x_ticks])
    axes.set_yticks([value for value, _ in chart.y_ticks], [text for _, text in chart.y_ticks])
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label, xlim=(left, right))
    axes.set_ylim(_edges(chart))
    axes.grid(axis="y", alpha=0.3)


def _bars(axes: Any, chart: Chart) -> None:
    many = len(chart.series)
    high = 0.84 / many
    for row, one in enumerate(chart.series):
        places = [point.place + (row - (many - 1) / 2) * high for point in one.points]
        means = [point.mean for point in one.points]
        errors = [
            [max(0.0, point.mean - point.low) for point in one.points],
            [max(0.0, point.high - point.mean) for point in one.points],
        ]
        colour = COLOURS[one.number % len(COLOURS)]
        axes.barh(places, means, height=0.9 * high, color=colour, alpha=0.5)
        axes.errorbar(means, places, xerr=errors, **_style(one), linestyle="none", elinewidth=1)
    axes.set_yticks([place for place, _ in chart.x_ticks], [text for _, text in chart.x_ticks])
    axes.set_xticks([value for value, _ in chart.y_ticks], [text for _, text in chart.y_ticks])
    axes.set_ylim(max(place for place, _ in chart.x_ticks) + 0.5, -0.5)
    axes.set(xlabel=chart.y_label, xlim=_edges(chart))
    axes.grid(axis="x", alpha=0.3)


def _edges(chart: Chart) -> tuple[float, float]:
    """Of the score's axis, with room for a mark on the first and the last tick."""
    first, last = chart.y_ticks[0][0], chart.y_ticks[-1][0]
    return first - 0.02 * (last - first), last + 0.02 * (last - first)


def _style(one: Series) -> dict[str, Any]:
    return {
        "color": COLOURS[one.number % len(COLOURS)],
        "marker": MARKS[one.number % len(MARKS)],
        "markersize": 5,
    }
