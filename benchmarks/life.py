"""A life of 1,000 writes over 200 sessions: what is still answered, at which age, in which arm.

    python benchmarks/life.py --data TEXT [--model mini] [--seeds 0,1,2] [--arms a;b] [--keys 64] --out FILE.jsonl
    python benchmarks/life.py --out FILE.jsonl --report FOLDER

Held-out personas tell 5 facts a session about --keys keys; most get new values again and again, a quarter never. The
arms and what they mean are in `nestmem.evals.life`. --data is the text whose loss must not rise (WikiText-2; plain or
.gz). Every arm and seed is one line of --out, and what is there already is not run again, so an ended run goes on
where it stopped. --report writes summary.json and retention.png from the lines.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from nestmem.adapters.fast_weights import load_fast_weights
from nestmem.errors import InputError
from nestmem.evals import life
from nestmem.evals.record import environment, write_json
from nestmem.personas import PersonaGenerator

CHECKPOINTS = "45,225,525,1000"


def read_text(path: Path) -> str:
    """A text file, plain or .gz. Raises `InputError` when it cannot be read."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give --data a text, plain or .gz") from error


def lines(path: Path) -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def run(options: argparse.Namespace) -> None:
    generator = PersonaGenerator("test")
    checkpoints = tuple(int(value) for value in options.checkpoints.split(","))
    chosen = [arm for arm in life.ARMS if not options.arms or arm.name in options.arms.split(";")]
    if not chosen:
        names = "; ".join(arm.name for arm in life.ARMS)
        raise InputError(f"--arms {options.arms!r}: expected some of {names}, joined by ';'")
    text = read_text(options.data)
    done = {(one["arm"], one["seed"]) for one in lines(options.out)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in map(int, options.seeds.split(",")):
        own, other = (
            life.draw_life(generator, random.Random(number), writes=options.writes, keys=options.keys)
            for number in (seed, seed + 1_000_000)
        )
        for arm in chosen:
            if (arm.name, seed) in done:
                continue
            weights = load_fast_weights(options.model)
            ids_BT = life.windows(weights, text, count=options.windows, length=128)
            setting = life.Setting(
                checkpoints=checkpoints,
                sleep_every=options.sleep_every,
                questions=options.questions,
                text=ids_BT,
            )
            found = life.play(weights, arm, own, other, setting, generator=generator, seed=seed)
            record = {
                "version": life.VERSION,
                "arm": arm.name,
                "seed": seed,
                "model": str(options.model) if options.model == "mini" else Path(options.model).name,
                "fingerprint": weights.fingerprint,
                "keys": options.keys,
                "writes": options.writes,
                "sleep_every": options.sleep_every,
                "environment": environment(),
                "checkpoints": found,
            }
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            said = life.summary([record])
            print(
                f"seed {seed} {arm.name}: exact {said['exact']['mean']:.3f}, at the end "
                f"{said['exact_at_end']['mean']:.3f}, stale {(said['stale'] or {'mean': 0})['mean']:.3f}, text loss "
                f"{found[-1].get('text_rise', 0):+.2%}",
                flush=True,
            )


def report(path: Path, folder: Path) -> None:
    """summary.json, retention.png and a table on the screen."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in lines(path):
        runs[one["arm"]].append(one)
    if not runs:
        raise InputError(f"{path} holds no runs; run without --report first")
    found = {arm: life.summary(of_arm) for arm, of_arm in runs.items()}
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(runs.values()))[0]
    about = {k: first[k] for k in ("version", "model", "fingerprint", "keys", "writes", "sleep_every")}
    stem = path.stem
    ages = [f"{low}-{high}" for low, high in life.AGES]
    print("| arm | " + " | ".join(ages) + " | all | stale | text loss | kl | MB kept | seeds |")
    print("|---|" + "---|" * (len(ages) + 6))
    for arm, one in found.items():
        last = list(one["by_checkpoint"].values())[-1]
        cells = [_percent(one["by_age"][age]) for age in ages]
        rise = max((at.get("text_rise", 0.0) for at in one["by_checkpoint"].values()), default=0.0)
        print(
            f"| {arm} | {' | '.join(cells)} | {_percent(one['exact'])} | {_percent(one['stale'])} | {rise:+.1%} | "
            f"{last.get('kl', 0.0):.2f} | {last['bytes'] / 1e6:.2f} | {len(one['seeds'])} |"
        )
    kinds = sorted({kind for one in found.values() for kind in one["by_kind"]})
    print("\n| arm | " + " | ".join(kinds) + " | indirect | at the end | retained | row passes |")
    print("|---|" + "---|" * (len(kinds) + 4))
    for arm, one in found.items():
        work = [at["row_passes"] for at in one["by_checkpoint"].values() if at.get("row_passes") is not None]
        kept = "-" if one["retained"] is None else f"{100 * one['retained']:.0f}"
        cells = [_percent(one["by_kind"].get(kind)) for kind in kinds]
        print(
            f"| {arm} | {' | '.join(cells)} | {_percent(one['indirect'])} | {_percent(one['exact_at_end'])} | {kept} | "
            f"{f'{sum(work) / len(work):.0f}' if work else '-'} |"
        )
    levels = _levels(runs, kinds)
    write_json(
        folder / f"{stem}_summary.json",
        about | {"environment": first["environment"], "arms": found, "one_level_less_others": levels},
    )
    plot(found, ages, folder / f"{stem}.png", about)


def _levels(runs: dict[str, list[dict[str, Any]]], kinds: list[str]) -> dict[str, Any]:
    """One level less the arms with more, by kind of question, with a line each on the screen."""
    one = runs.get("nested 1 level", [])
    found: dict[str, Any] = {}
    for arm in ("nested 2 levels", "nested 3 levels", "nested 3 levels, equal bytes", "random A"):
        found[arm] = {
            kind or "all": life.difference(one, runs.get(arm, []), kind=kind)
            for kind in (None, *kinds, "indirect")
        }
        shown = [
            f"{kind} {100 * d['mean']:+.1f} ({100 * d['low']:+.1f} to {100 * d['high']:+.1f})"
            for kind, d in found[arm].items()
            if d is not None
        ]
        print(f"\none level less {arm}, points: {'; '.join(shown)}")
    return found


def _percent(share: dict[str, Any] | None) -> str:
    return "-" if share is None else f"{100 * share['mean']:.0f}"


def plot(found: dict[str, Any], ages: list[str], path: Path, about: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 6))
    styles = ["-", "--", ":", "-."]
    for number, (arm, one) in enumerate(found.items()):
        points = [(high, one["by_age"][age]) for (_, high), age in zip(life.AGES, ages, strict=True)]
        points = [(age, share["mean"]) for age, share in points if share is not None]
        axes.plot(*zip(*points, strict=True), styles[number // 10 % 4], marker=".", label=arm)
    axes.set_xscale("log")
    axes.set_xlabel("age of the fact in writes (right end of the bin)")
    axes.set_ylabel("share answered exactly")
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(f"{about['model']}: {about['writes']} writes about {about['keys']} keys")
    axes.legend(fontsize=7, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--data", type=Path, help="a text whose loss must not rise, such as WikiText-2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", type=Path, metavar="FOLDER")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--arms", default="")
    parser.add_argument("--keys", type=int, default=64)
    parser.add_argument("--writes", type=int, default=1000)
    parser.add_argument("--sleep-every", type=int, default=10)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--checkpoints", default=CHECKPOINTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.report:
        report(options.out, options.report)
    elif options.data is None:
        parser.error("--data is missing: the text whose loss must not rise, such as WikiText-2's test.txt.gz")
    else:
        run(options)


if __name__ == "__main__":
    main()
