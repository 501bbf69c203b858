"""Curves of runs, from their logs alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from nestmem.errors import InputError, MissingExtra


def plot_run(run: Path, out: Path) -> Path:
    """Draw what `run/log.jsonl` holds: losses in nats per answer token and shares of exact answers, by step.

    Raises `InputError` without a log, `MissingExtra` without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plot", "matplotlib") from error
    log = run / "log.jsonl"
    if not log.exists():
        raise InputError(f"{run} has no log.jsonl; expected the folder of a training run")
    rows = _rows(run)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, shares = figure.subplots(1, 2)
    for name in ("dialogue_loss", "outer", "rehearsal"):
        _line(losses, [(row["step"], row[name]) for row in rows if name in row], name.replace("_", " "))
    for name in ("held_out_reading", "told"):
        _line(shares, [(row["step"], row[name]) for row in rows if name in row], name.replace("_", " "))
    checked = [row for row in rows if "validation" in row]
    for setting in checked[-1]["validation"] if checked else ():
        for name in ("told", "never_told", "placebo"):
            points = [
                (r["step"], r["validation"][setting][name])
                for r in checked
                if name in r["validation"].get(setting, {})
            ]
            _line(shares, points, f"{setting}: {name.replace('_', ' ')}")
        points = [
            (r["step"], r["validation"][setting]["loss"])
            for r in checked
            if "loss" in r["validation"].get(setting, {})
        ]
        _line(losses, points, f"{setting}: loss")
    losses.set(xlabel="step", ylabel="nats per token", title="loss")
    shares.set(xlabel="step", ylabel="share", title="exact answers", ylim=(-0.02, 1.02))
    for axes in (losses, shares):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=7)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out


def is_language_run(run: Path) -> bool:
    """Whether a folder holds the log of `nestmem train lm`, or of another run of `loop.fit`."""
    return (run / "log.jsonl").exists() and any("tokens_per_second" in row for row in _rows(run))


def plot_language(runs: Sequence[Path], out: Path) -> Path:
    """Draw losses in nats per token and speeds, by tokens read, of one or more runs of a language model.

    The loss on training text is a thin line, that on held-out text a thick one with points. Raises `InputError` for a
    folder without such a log, `MissingExtra` without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plot", "matplotlib") from error
    if not runs:
        raise InputError("no run was given; expected the folders of one or more training runs")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, speeds = figure.subplots(1, 2)
    names = [run.name for run in runs]
    for number, run in enumerate(runs):
        if not is_language_run(run):
            raise InputError(f"{run} holds no log of `nestmem train lm`; expected the folder of such a run")
        name = run.name if names.count(run.name) == 1 else str(run)
        colour, tokens, held = f"C{number % 10}", 0, []
        steps = []
        for row in _rows(run):
            if "tokens_per_second" in row:
                tokens = row["tokens"]
                steps.append((tokens, row["loss"], row["tokens_per_second"]))
            if "held_out_loss" in row:
                held.append((row.get("tokens", tokens), row["held_out_loss"]))
        losses.plot([s[0] for s in steps], [s[1] for s in steps], color=colour, linewidth=0.7, label=name)
        if held:
            losses.plot(
                *zip(*held, strict=True), color=colour, linewidth=1.8, marker=".", label=f"{name}, held out"
            )
        speeds.plot([s[0] for s in steps], [s[2] for s in steps], color=colour, linewidth=1.0, label=name)
    losses.set(xlabel="tokens", ylabel="nats per token", title="loss")
    speeds.set(xlabel="tokens", ylabel="tokens per second", title="speed", ylim=(0, None))
    for axes in (losses, speeds):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out


def _rows(run: Path) -> list[dict]:
    """The log, without a last line that is only half written."""
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _line(axes, points: list[tuple[int, float]], label: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
