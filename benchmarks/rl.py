"""What reinforcement learning changed: the writer before and after, in front of the reader before and after.

    python benchmarks/rl.py RUN [RUN ...] --out DIR

RUN is a folder of `nestmem train rl` (one a seed, all from the same --model). On the held-out personas of the run's
own evaluation ("unread": statements that the agent's rules cannot read) each pair of writer and reader is tried in
two ways: as "trained" (the writer under the rollout's banks, additive writes of the questions alone) and as the
"agent" does it (the bare model writes, statements are learned too, the rule "nested"). Writes DIR/<run>_<way>.json for
each run (kept if it is there), DIR/rl.json with everything, DIR/curves.png, and prints the tables. Intervals: one
standard error over personas; differences to "before" are paired by question.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from nestmem.adapters.fast_weights import FastWeights, load_fast_weights
from nestmem.evals.record import environment, write_json
from nestmem.evals.stats import clustered_mean
from nestmem.personas import PersonaGenerator
from nestmem.train.dialogues import reading, unknown, writing
from nestmem.train.mini import reading_accuracy
from nestmem.train.reward import screen
from nestmem.train.rl import RLConfig, evaluation_sets, recalled, written
from nestmem.train.rollout import Rollout, StreamShape

WAYS = ("trained", "agent")
PAIRS = (("before", "before"), ("after", "before"), ("before", "after"), ("after", "after"))


def config_of(run: Path) -> tuple[RLConfig, dict[str, Any]]:
    """The parts of a run's config that its evaluation depends on, and its whole record."""
    record = json.loads((run / "config.json").read_text())
    saved = record["config"]
    config = RLConfig(
        out=run,
        model=saved["model"],
        rule=saved["rule"],
        shape=StreamShape(**saved["shape"]),
        evaluation_personas=saved["evaluation_personas"],
        statements=saved["statements"],
    )
    return config, record


def as_agent(weights: FastWeights, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts with what the bare model writes about each message."""
    places = [(u, place) for u, life in enumerate(rollouts) for place in life.accepted]
    texts = [rollouts[u].stream.sessions[s][m] for u, (s, m) in places]
    found: list[dict[tuple[int, int], Any]] = [{} for _ in rollouts]
    for (u, place), text, pairs in zip(places, texts, weights.questions(texts), strict=True):
        found[u][place] = screen(pairs, text)
    return [replace(life, accepted=own) for life, own in zip(rollouts, found, strict=True)]


def crossed(run: Path, way: str) -> dict[str, list[int]]:
    """For each (writer, reader): 1 or 0 for every question, in order."""
    config, _ = config_of(run)
    streams = evaluation_sets(config)["unread"]
    folders = {"before": config.model, "after": str(run / "model")}
    agent = way == "agent"
    models = {
        name: load_fast_weights(folder, rule="nested" if agent else config.rule)
        for name, folder in folders.items()
    }
    lives = {name: written(model, streams, config) for name, model in models.items()}
    if agent:
        lives = {name: as_agent(models[name], own) for name, own in lives.items()}
    return {
        f"{writer} -> {reader}": recalled(
            models[reader], lives[writer], config, statements=agent or config.statements
        )["right"]
        for writer, reader in PAIRS
    }


def abilities(folder: str) -> dict[str, float]:
    """What the model could do before and must still do, without any memory in its weights: the share of assistant
    turns of which every token is the most likely one, in 100 held-out dialogues of each kind."""
    weights = load_fast_weights(folder)
    generator = PersonaGenerator("test")
    kinds = {
        "answer from context": lambda rng: reading(generator, rng, in_system=True),
        "say that it does not know": lambda rng: unknown(generator, rng),
        "write as it was taught": lambda rng: writing(generator, rng),
    }
    model: Any = weights.model
    tokenizer: Any = weights.tokenizer
    return {
        kind: reading_accuracy(model, tokenizer, [make(random.Random(n)) for n in range(100)])
        for kind, make in kinds.items()
    }


def table(runs: list[Path], rows: list[dict[str, dict[str, list[int]]]]) -> dict[str, Any]:
    """Shares of exact answers over all runs, and differences to before, with standard errors over personas."""
    config, _ = config_of(runs[0])
    streams = evaluation_sets(config)["unread"]
    personas = [u for u, stream in enumerate(streams) for _ in stream.probes]
    found: dict[str, Any] = {}
    for way in rows[0]:
        start = rows[0][way]["before -> before"]
        for name in rows[0][way]:
            each = [row[way][name] for row in rows]
            mean = [sum(column) / len(column) for column in zip(*each, strict=True)]
            share = clustered_mean(mean, personas)
            change = clustered_mean([a - b for a, b in zip(mean, start, strict=True)], personas)
            found[f"{way}: {name}"] = {
                "share": share.mean,
                "se": share.se,
                "change": change.mean,
                "change_se": change.se,
                "by_run": [sum(own) / len(own) for own in each],
                "questions": len(start),
                "personas": len(streams),
            }
    return found


def draw(runs: list[Path], out: Path) -> None:
    """Training outcome and the writer's own numbers, by step, one line a run."""
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    names = ("outcome", "gain", "true_value", "tokens_per_message")
    for axes, name in zip(figure.subplots(1, 4), names, strict=True):
        for run in runs:
            rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
            points = [(row["step"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), label=run.name, linewidth=1)
        axes.set(xlabel="step", title=f"training: {name.replace('_', ' ')}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(out, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of nestmem train rl")
    parser.add_argument("--out", type=Path, required=True, help="folder of the record")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="which ways to try")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    kept: dict[str, dict[str, float]] = {}
    for run in options.runs:
        row = {}
        for name, folder in (("before", config_of(run)[0].model), (run.name, str(run / "model"))):
            file = options.out / f"{name}_abilities.json"
            if not file.exists():
                write_json(file, abilities(folder))
            kept[name] = json.loads(file.read_text())
        for way in options.ways:
            file = options.out / f"{run.name}_{way}.json"
            if not file.exists():
                write_json(file, crossed(run, way))
            row[way] = json.loads(file.read_text())
        rows.append(row)
    found = table(options.runs, rows)
    reports = {run.name: json.loads((run / "report.json").read_text()) for run in options.runs}
    configs = {run.name: config_of(run)[1] for run in options.runs}
    for record in configs.values():
        record["config"]["out"] = Path(record["config"]["out"]).name
    write_json(
        options.out / "rl.json",
        {
            "environment": environment(),
            "runs": configs,
            "reports": reports,
            "crossed": found,
            "abilities": kept,
        },
    )
    draw(options.runs, options.out / "curves.png")
    for name, row in found.items():
        print(
            f"{name:34s} {row['share']:.1%} +- {row['se']:.1%}   change {row['change']:+.1%} +- {row['change_se']:.1%}"
            f"   runs {' '.join(f'{share:.1%}' for share in row['by_run'])}"
        )
    for name, own in kept.items():
        print(name, "without memory:", " ".join(f"{kind} {share:.3f}" for kind, share in own.items()))
    for moment in ("before", "after"):
        for kind in ("unread", "counterfactual"):
            own = [report[moment][kind] for report in reports.values()]
            plain = {
                name: sum(row[name] for row in own) / len(own)
                for name in own[0]
                if name not in ("pairs", "agent")
            }
            recall = {
                f"{how} {name}": sum(row[how][name] for row in own) / len(own)
                for how in ("pairs", "agent")
                for name in ("accuracy", "placebo", "drift")
            }
            print(moment, kind, " ".join(f"{name} {value:.3f}" for name, value in (plain | recall).items()))


if __name__ == "__main__":
    main()
