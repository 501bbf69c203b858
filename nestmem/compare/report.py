"""The report of a comparison, from the results of its cells alone: one Markdown page and plots."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nestmem.compare.cells import Cell, read_result, tuned
from nestmem.compare.plan import Suite, Text
from nestmem.errors import InputError, MissingExtra


def results(suite: Suite, out: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(task, model) -> the results with the rate that was best on validation data, one for each seed that is there."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for task in suite.tasks:
        for model in suite.models:
            losses = tuned(suite, task, model, out)
            if not losses:
                continue
            best = min(losses, key=lambda rate: losses[rate])
            cells = (Cell(task=task, model=model, rate=best, seed=seed) for seed in suite.seeds)
            found[task, model] = [r for cell in cells if (r := read_result(cell, out)) is not None]
    return found


def over_seeds(values: Iterable[float]) -> tuple[float, float | None, int]:
    """Mean, standard error of the mean over seeds (None for one seed), and their number.

    >>> over_seeds([1.0, 3.0])
    (2.0, 1.0, 2)
    """
    all_of = list(values)
    if not all_of:
        return float("nan"), None, 0
    error = statistics.stdev(all_of) / len(all_of) ** 0.5 if len(all_of) > 1 else None
    return statistics.fmean(all_of), error, len(all_of)


def shown(mean: float, error: float | None, n: int, *, percent: bool = True) -> str:
    """A mean with its standard error and number of seeds.

    >>> shown(0.5, 0.01, 3), shown(0.5, None, 1)
    ('50.0 ± 1.0 (3)', '50.0 (1)')
    """
    scale = 100 if percent else 1
    plus = f" ± {scale * error:.1f}" if error is not None else ""
    return f"{scale * mean:.1f}{plus} ({n})"


def page(suite: Suite, out: Path, *, title: str) -> str:
    """The tables of a suite as Markdown. Raises InputError when nothing has been run."""
    found = results(suite, out)
    if not found:
        raise InputError(f"{out} has no results of this suite; run it first")
    lines = [f"# {title}", "", suite.about, ""]
    steps = next(iter(found.values()))[0].get("steps", suite.steps)
    rates = ", ".join(f"{rate:g}" for rate in suite.rates)
    chosen = f"learning rates {rates}, the best on validation data by the first seed"
    lines += [
        f"Each model: {steps} steps of {suite.batch} sequences, the same data in the same order; "
        f"{chosen if len(suite.rates) > 1 else f'learning rate {rates}, not tuned'}; about {suite.parameters:,} "
        "parameters. Numbers are means ± standard error over seeds (number of seeds).",
        "",
    ]
    if any(not isinstance(options, Text) for options in suite.tasks.values()):
        lines += [
            f"Cells: % of {suite.examples} test sequences with every asked position right [% of asked positions].",
            "",
        ]
    for task in suite.tasks:
        here = {model: found[task, model] for model in suite.models if (task, model) in found}
        if not here:
            continue
        if isinstance(suite.tasks[task], Text):
            lines += _text_table(here)
            continue
        whole = [r for rs in here.values() for r in rs if "test" in r]
        lengths = list(whole[0]["test"]) if whole else []
        lines += [f"## {task}", ""]
        lines += ["| model | parameters | " + " | ".join(lengths) + " | state bytes | train tokens/s |"]
        lines += ["|---|--:|" + "--:|" * (len(lengths) + 2)]
        for model, rs in here.items():
            good = [r for r in rs if "test" in r]
            broken = len(rs) - len(good)
            cells = []
            for length in lengths:
                exact = over_seeds(r["test"][length]["exact"]["mean"] for r in good)
                tokens = over_seeds(r["test"][length]["tokens"]["mean"] for r in good)
                cells.append(f"{shown(*exact)} [{100 * tokens[0]:.1f}]" if good else "")
            state = f"{good[0]['state_bytes']:,}" if good else ""
            speed = f"{over_seeds(r['tokens_per_second'] for r in good)[0]:,.0f}" if good else ""
            note = f" ({broken} of {len(rs)} ended in numbers that are not finite)" if broken else ""
            lines.append(
                f"| {model}{note} | {rs[0]['parameters']:,} | "
                + " | ".join(cells)
                + f" | {state} | {speed} |"
            )
        lines.append("")
    if (out / "speed.json").exists():
        lines += speed_table(json.loads((out / "speed.json").read_text()))
    return "\n".join(lines)


def speed_table(record: dict[str, Any]) -> list[str]:
    """What `nestmem compare speed` measured, as the lines of a Markdown table: a model's shortest and longest context."""
    lines = ["## Speed", "", f"{record['layers']} blocks of width {record['width']}, one sequence.", ""]
    lines += [
        "| model | train tokens/s | context | prefill, s per 1,000 | decode, s per 1,000 | state bytes |"
    ]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for model, each in record["models"].items():
        rows = each["contexts"]
        for i, row in enumerate([rows[0], rows[-1]] if len(rows) > 1 else rows):
            first = f"| {model} | {each['training']['tokens_per_second']:,.0f} " if not i else "| | "
            lines.append(
                f"{first}| {row['context']:,} | {row['prefill_seconds_per_1k']:.3f} | "
                f"{row['decode_seconds_per_1k']:.2f} | {row['state_bytes']:,} |"
            )
    return [*lines, ""]


def _text_table(here: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Held-out loss of each model, the best first."""
    lines = ["## text", "", "| model | parameters | held-out loss, nats per token | train tokens/s |"]
    lines += ["|---|--:|--:|--:|"]
    order = sorted(here, key=lambda m: over_seeds(r["validation"]["loss"] for r in here[m] if "test" in r)[0])
    for model in order:
        good = [r for r in here[model] if "test" in r]
        mean, error, n = over_seeds(r["validation"]["loss"] for r in good)
        shows = f"{mean:.3f}" + (f" ± {error:.3f}" if error is not None else "") + f" ({n})"
        speed = f"{over_seeds(r['tokens_per_second'] for r in good)[0]:,.0f}" if good else ""
        lines.append(f"| {model} | {here[model][0]['parameters']:,} | {shows} | {speed} |")
    return [*lines, ""]


def plot(suite: Suite, out: Path, picture: Path) -> Path:
    """Exact answers by test length, one panel for each task, one line for each model; bars are standard errors.

    Raises MissingExtra without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plot", "matplotlib") from error
    found = results(suite, out)
    tasks = [
        task
        for task, options in suite.tasks.items()
        if any((task, model) in found for model in suite.models) and not isinstance(options, Text)
    ]
    if not tasks:
        raise InputError(f"{out} has no results of synthetic tasks of this suite; run it first")
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    colours = {model: f"C{i % 10}" for i, model in enumerate(suite.models)}
    for panel, task in zip(panels, tasks, strict=False):
        for i, model in enumerate(suite.models):
            good = [r for r in found.get((task, model), []) if "test" in r]
            if not good:
                continue
            lengths = list(good[0]["test"])
            values = [over_seeds(r["test"][length]["exact"]["mean"] for r in good) for length in lengths]
            panel.errorbar(
                range(len(lengths)),
                [v[0] for v in values],
                yerr=[v[1] or 0 for v in values],
                label=model,
                color=colours[model],
                linestyle="-" if i < 10 else "--",
                marker="o",
                markersize=3,
                linewidth=1.2,
            )
            panel.set_xticks(range(len(lengths)), lengths)
        panel.set(title=task, ylim=(-0.04, 1.04), xlabel="tokens", ylabel="sequences right")
        panel.grid(alpha=0.3)
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    handles: dict[str, Any] = {}
    for panel in panels[: len(tasks)]:
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=7)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)
    return picture


def plot_speed(rows: dict[str, list[dict[str, Any]]], picture: Path) -> Path:
    """Seconds per 1,000 tokens of prefill and decode, and bytes of memory, by context length, in one picture."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plot", "matplotlib") from error
    figure = Figure(figsize=(12.5, 4.0), layout="constrained")
    panels = figure.subplots(1, 3)
    shows = (
        ("prefill_seconds_per_1k", "seconds per 1,000 tokens read"),
        ("decode_seconds_per_1k", "seconds per 1,000 tokens decoded"),
        ("state_bytes", "bytes of memory"),
    )
    for panel, (key, label) in zip(panels, shows, strict=True):
        for i, (model, each) in enumerate(rows.items()):
            style = "-" if i < 10 else "--"
            panel.plot(
                [r["context"] for r in each],
                [r[key] for r in each],
                style,
                label=model,
                marker="o",
                markersize=3,
                linewidth=1.2,
            )
        panel.set(xscale="log", yscale="log", xlabel="tokens of context", ylabel=label)
        panel.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=7)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)
    return picture


def read_speed(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Model -> rows of `speed.by_context`, as `nestmem compare speed` wrote them."""
    path = out / "speed.json"
    if not path.exists():
        raise InputError(f"{path} does not exist; run `nestmem compare speed` first")
    return {model: each["contexts"] for model, each in json.loads(path.read_text())["models"].items()}
