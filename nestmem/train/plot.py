"""Loss and recall curves of a run, from its log alone."""

from __future__ import annotations

import json
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
    rows = [json.loads(line) for line in log.read_text().splitlines()]
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


def _line(axes, points: list[tuple[int, float]], label: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
