"""Compare the ways of meta-training a write: none, first order, truncated, full second order, evolution strategies.

All start from the same calibrated settings on the same frozen base and see the same streams; each runs until it has
made `--steps` outer steps and spent `--cpu-seconds` of processor time, whichever comes last, and is scored on held-out
people at both marks (and every `--score-every` steps). Processor time of this process, so that a busy machine does not
decide. Scores are of the same people for all arms.

    python benchmarks/meta.py --out results/DATE_meta_HARDWARE --steps 30 --cpu-seconds 30 --seeds 0 1
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from nestmem.train.inner import WriteLearner
from nestmem.train.meta import (
    Bench,
    bench_of,
    learner_of,
    lengths_of,
    optimizer_of,
    outcome,
    outer_step,
    prepared,
    preset,
)
from nestmem.train.record import environment

ARMS = ("none", "own", "first", "truncated", "full", "es")


def score(bench: Bench, learner: WriteLearner, users: int) -> dict[str, Any]:
    """Per held-out part: outer loss, and exact answers to what was told, with the standard error over people."""
    found: dict[str, Any] = {}
    for part in ("people", "families"):
        with torch.no_grad():
            rng = random.Random(f"score {part}")
            made = prepared(bench, part, rng, users=users, sessions=bench.config.sessions)
            seen = outcome(bench, learner, made, order="none")
        told = made.batch.told.reshape(users, -1)
        right = seen.right.reshape(users, -1)
        age = made.batch.age.reshape(users, -1)
        share = (right & told).sum(1) / told.sum(1)
        found[part] = {
            "loss": seen.loss.item(),
            "told": float((right & told).sum() / told.sum()),
            "error": float(share.std() / math.sqrt(users)),
            "asked": int(told.sum()),
            "age 0": float(right[told & (age == 0)].float().mean()),
            "age 1+": float(right[told & (age > 0)].float().mean()),
            **{name: seen.terms[name] for name in ("new", "old", "kl")},
        }
        never = (made.batch.real & ~made.batch.told).reshape(users, -1)
        if bool(never.any()):
            found[part]["never_told"] = float(right[never].float().mean())
    return found


def run(arm: str, seed: int, options: argparse.Namespace, weights: Any, source: Any) -> dict[str, Any]:
    """One arm with one seed: scores by step and processor seconds."""
    order = "truncated" if arm in ("none", "own") else arm
    config = preset(
        "sessions",
        model=options.model,
        out=options.out,
        fresh=arm != "own",
        order=order,
        users=options.users,
        sessions=options.sessions,
        facts=options.facts,
        scalar_rate=options.scalar_rate,
        es_pairs=options.es_pairs,
        evaluate_users=options.score_users,
        warm_up=5,
        seed=seed,
    )
    bench = bench_of(weights, source, config)
    learner = learner_of(bench)
    made: dict[str, Any] = {"arm": arm, "seed": seed, "scores": []}

    def note(step: int, cpu: float, marks: list[str]) -> None:
        row = {"step": step, "cpu_seconds": round(cpu, 2), "marks": marks}
        made["scores"].append(row | score(bench, learner, options.score_users))
        people = made["scores"][-1]["people"]
        print(
            f"{arm:9} seed {seed} step {step:3} {cpu:6.1f} s  loss {people['loss']:.3f}  told {people['told']:.3f} "
            f"kl {people['kl']:.4f} {' '.join(marks)}",
            flush=True,
        )

    if arm in ("none", "own"):
        note(0, 0.0, ["steps", "seconds"])
        return made
    optimizer = optimizer_of(config, learner)
    lengths = lengths_of(bench)
    step, cpu, failed, seen = 0, 0.0, 0, set()
    each: list[float] = []
    while len(seen) < 2:
        row = outer_step(bench, learner, optimizer, lengths, step)
        step, cpu = step + 1, cpu + row["cpu_seconds"]
        each.append(row["cpu_seconds"])
        failed += not row["finite"]
        marks = []
        if step == options.steps:
            marks.append("steps")
        if cpu >= options.cpu_seconds and "seconds" not in seen:
            marks.append("seconds")
        seen.update(marks)
        if marks or step % options.score_every == 0:
            note(step, cpu, marks)
    made["seconds_per_step"] = sum(each) / len(each)
    made["not_finite"] = failed
    made["learned"] = {
        "rate": learner.rate().tolist(),
        "ridge": learner.ridge().tolist(),
        "decay": learner.decay().tolist(),
        "transfer": learner.transfer().tolist(),
        "form": learner.log_form.exp().tolist(),
        "tau": learner.tau.item(),
    }
    return made


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: per arm and mark the means over seeds."""
    lines = [
        "| arm | at | steps | CPU s/step | outer loss, people | families | told, people | families | told after the "
        "last session / earlier | never told | KL |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        mine = [r for r in runs if r["arm"] == arm]
        for mark in ("steps", "seconds"):
            rows = [row for r in mine for row in r["scores"] if mark in row["marks"]]
            if not rows or (arm in ("none", "own") and mark == "seconds"):
                continue

            def mean(part: str, name: str, rows: list[dict[str, Any]] = rows) -> float:
                return sum(row[part][name] for row in rows) / len(rows)

            pace = [r["seconds_per_step"] for r in mine if "seconds_per_step" in r]
            at = "- | 0 | -"
            if pace:
                steps = ", ".join(str(row["step"]) for row in rows)
                at = f"equal {mark} | {steps} | {sum(pace) / len(pace):.2f}"
            lines.append(
                f"| {arm} | {at} | {mean('people', 'loss'):.2f} | {mean('families', 'loss'):.2f} "
                f"| {100 * mean('people', 'told'):.1f} % ± {100 * mean('people', 'error'):.1f} "
                f"| {100 * mean('families', 'told'):.1f} % ± {100 * mean('families', 'error'):.1f} "
                f"| {100 * mean('people', 'age 0'):.0f} / {100 * mean('people', 'age 1+'):.0f} % "
                f"| {100 * mean('people', 'never_told'):.0f} % | {mean('people', 'kl'):.3f} |"
            )
    return "\n".join(lines)


def draw(runs: list[dict[str, Any]], out: Path) -> None:
    """Held-out loss and answers by outer step and by processor seconds."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2)
    colours = dict(zip(ARMS, ("grey", "black", "C0", "C1", "C2", "C3"), strict=True))
    for r in runs:
        for row, name in enumerate(("loss", "told")):
            for column, by in enumerate(("step", "cpu_seconds")):
                panel = axes[row][column]
                values = [s["people"][name] for s in r["scores"]]
                label = r["arm"] if r["seed"] == min(x["seed"] for x in runs) else None
                if r["arm"] in ("none", "own"):
                    panel.axhline(values[0], color=colours[r["arm"]], lw=0.8, ls="--", label=label)
                else:
                    panel.plot(
                        [s[by] for s in r["scores"]], values, color=colours[r["arm"]], lw=1.2, label=label
                    )
                panel.set_xlabel("outer step" if by == "step" else "processor seconds")
                panel.set_ylabel("outer loss (nats)" if name == "loss" else "share of told, exact")
                panel.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    figure.savefig(out / "curves.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cpu-seconds", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--sessions", type=int, default=6)
    parser.add_argument("--facts", type=int, default=2)
    parser.add_argument("--scalar-rate", type=float, default=0.1)
    parser.add_argument("--es-pairs", type=int, default=3)
    parser.add_argument("--score-every", type=int, default=10)
    parser.add_argument("--score-users", type=int, default=12)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--redraw", action="store_true", help="only draw what OUT/meta.json holds")
    options = parser.parse_args()
    if options.redraw:
        runs = json.loads((options.out / "meta.json").read_text())["runs"]
        (options.out / "table.md").write_text(table(runs) + "\n")
        draw(runs, options.out)
        return
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    from nestmem.adapters.fast_weights import load_fast_weights
    from nestmem.train.streams import Personas

    weights = load_fast_weights(options.model, rule="additive")
    source = Personas(facts=options.facts)
    started, worked = time.time(), time.process_time()
    runs = []
    for seed in options.seeds:
        for arm in options.arms:
            runs.append(run(arm, seed, options, weights, source))
            about = {
                "options": {k: v for k, v in vars(options).items() if k != "out"},
                "environment": environment(),
                "wall_seconds": round(time.time() - started, 1),
                "cpu_seconds": round(time.process_time() - worked, 1),
            }
            (options.out / "meta.json").write_text(json.dumps(about | {"runs": runs}, indent=1) + "\n")
            (options.out / "table.md").write_text(table(runs) + "\n")
    print(table(runs))
    draw(runs, options.out)


if __name__ == "__main__":
    main()
