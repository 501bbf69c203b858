"""A small transformer trained by each optimizer: held-out loss against steps and CPU seconds.

    python benchmarks/optimizers.py --data DIR --out DIR [--plot]
    python benchmarks/optimizers.py --out DIR --toy

DIR of `--data` holds .txt or .txt.gz files (TinyStories, WikiText-2); the last tenth of the text is held out. Every
arm steps the matrices inside the blocks; embeddings, head and norms go by Adam at one rate, the same in all arms. Every
arm gets the same tuning: short runs at five rates half a decade apart around its centre, and up to six more where the
best is at an edge; then a run of full length at the best rate and up to two at the next higher ones, as long as these
are better; then three seeds at that rate. Finished runs are kept in DIR/runs.json and not run again.
`--plot` draws what runs.json holds. Losses are nats per token; seconds are CPU seconds of one thread, without evaluation.

`--toy` compares delta momentum with momentum on the toy of Nested Learning (arXiv 2512.24695), Fig. 4, over a sweep of
its constants, which the paper does not give; see `toy`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from nestmem.evals.record import environment, write_json
from nestmem.optim import DGD, DMGD, M3, DeltaMomentum, Momentum, Muon, inner
from nestmem.train.corpus import read_texts


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of model and runs; lengths in tokens."""

    vocabulary: int = 1024
    width: int = 96
    layers: int = 3
    heads: int = 4
    context: int = 64
    batch: int = 8
    short_steps: int = 400
    steps: int = 1000
    every: int = 50
    seeds: tuple[int, ...] = (0, 1, 2)
    tuning_seed: int = 100
    extensions: int = 6
    raises: int = 2
    adam_rate: float = 3e-3
    adam_betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    held_out_tokens: int = 8192
    final_tokens: int = 32768


@dataclass(frozen=True)
class Arm:
    """An optimizer for the matrices, the rate its search starts from, and its steps as a multiple of the others'."""

    centre: float
    make: Callable[..., torch.optim.Optimizer]
    options: dict[str, Any] = field(default_factory=dict)
    length: float = 1.0


ARMS = {
    "adamw": Arm(3e-3, torch.optim.AdamW, {"betas": (0.9, 0.95)}),
    "muon": Arm(2e-2, Muon),
    "m3": Arm(2e-2, M3),
    "m3_as_printed": Arm(2e-4, M3, {"as_printed": True}),
    "dmgd": Arm(2e-2, DMGD),
    "dmgd_orthogonal": Arm(2e-2, DMGD, {"orthogonal": True}),
    "delta_momentum": Arm(1e-1, DeltaMomentum),
    "delta_momentum_adam": Arm(3e-4, DeltaMomentum, {"precondition": 0.95}),
    "dgd": Arm(1e-3, DGD, {"model": None}),
    "dgd_adam": Arm(3e-4, DGD, {"model": None, "precondition": 0.95, "momentum": 0.9, "forget": 0.1}),
    "momentum": Arm(1e-1, Momentum),
    # The blocks stay as they start, where they pass their input on: what embeddings and head learn alone.
    "frozen": Arm(0.0, Momentum),
    # About as many CPU seconds as M3 takes.
    "adamw_longer": Arm(3e-3, torch.optim.AdamW, {"betas": (0.9, 0.95)}, length=1.7),
}


class Block(nn.Module):
    """Pre-norm attention and MLP, one matrix per projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (m(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A decoder with learned positions; tokens [B, T] -> logits [B, T, vocabulary]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(torch.zeros(config.context, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.3)
        nn.init.zeros_(self.head.weight)
        for name, weight in self.named_parameters():
            if name.endswith(("o.weight", "down.weight")):
                nn.init.zeros_(weight)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def read_tokens(folder: Path, config: Config) -> tuple[Tensor, Tensor]:
    """Tokens of the first nine tenths of the text and of the last; the vocabulary is learned on the first."""
    files = sorted(path for path in folder.iterdir() if ".txt" in path.suffixes)
    text = "\n\n".join(document for path in files for document in read_texts(path))
    cut = len(text) * 9 // 10
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text[:cut]], trainer)
    train, held = (torch.tensor(tokenizer.encode(part).ids) for part in (text[:cut], text[cut:]))
    return train, held


def held_out_loss(model: Transformer, tokens: Tensor, config: Config, count: int) -> float:
    """Nats per token over the first `count` tokens, in windows of the context."""
    windows = min(count, len(tokens) - 1) // config.context
    end = windows * config.context
    x, y = (tokens[i : i + end].view(windows, config.context) for i in (0, 1))
    with torch.no_grad():
        parts = [
            F.cross_entropy(model(a).flatten(0, 1), b.flatten(), reduction="sum").item()
            for a, b in zip(x.split(config.batch), y.split(config.batch), strict=True)
        ]
    return sum(parts) / end


def run(arm: str, rate: float, seed: int, steps: int, data: tuple[Tensor, Tensor], config: Config) -> dict:
    """One training run: its curve of (step, CPU seconds, held-out loss) and its last loss, None where it diverged."""
    torch.manual_seed(seed)
    model = Transformer(config)
    order = torch.Generator().manual_seed(seed)
    matrices = [w for block in model.blocks for w in block.parameters() if w.ndim == 2]
    inside = {id(w) for w in matrices}
    others = [w for w in model.parameters() if id(w) not in inside]
    decay = config.weight_decay
    chosen = ARMS[arm].make(matrices, lr=rate, weight_decay=decay, **ARMS[arm].options)
    if isinstance(chosen, DGD):
        chosen.attach(model)
    adam = torch.optim.AdamW(others, lr=config.adam_rate, betas=config.adam_betas, weight_decay=decay)
    optimizers = [chosen, adam]

    def share(step: int) -> float:
        warm = min(1.0, (step + 1) / (0.05 * steps))
        return warm * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))

    schedules = [torch.optim.lr_scheduler.LambdaLR(o, share) for o in optimizers]
    curve, seconds, training = [], 0.0, data[0]
    for step in range(steps):
        start = time.process_time()
        at = torch.randint(len(training) - config.context - 1, (config.batch,), generator=order)
        rows = torch.stack([training[i : i + config.context + 1] for i in at.tolist()])
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        for schedule in schedules:
            schedule.step()
        seconds += time.process_time() - start
        if not math.isfinite(loss.item()) or loss.item() > 3 * math.log(config.vocabulary):
            return {"curve": curve, "loss": None, "seconds": seconds, "diverged_at": step}
        if (step + 1) % config.every == 0 and step + 1 < steps:
            curve.append([step + 1, seconds, held_out_loss(model, data[1], config, config.held_out_tokens)])
    last = held_out_loss(model, data[1], config, config.final_tokens)
    return {
        "curve": [*curve, [steps, seconds, last]],
        "loss": last if math.isfinite(last) else None,
        "seconds": seconds,
    }


class Record:
    """runs.json: config, environment, and every finished run."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        wanted = json.loads(json.dumps(asdict(config)))
        arms = {n: {"centre": a.centre, "options": a.options, "length": a.length} for n, a in ARMS.items()}
        if path.exists():
            self.content = json.loads(path.read_text())
            if self.content["config"] != wanted:
                raise SystemExit(f"{path} holds runs of another config: {self.content['config']}")
            self.content["arms"] = arms
        else:
            arms = {
                n: {"centre": a.centre, "options": a.options, "length": a.length} for n, a in ARMS.items()
            }
            self.content = {"config": wanted, "environment": environment(), "arms": arms, "runs": []}

    def find(self, **about: Any) -> dict | None:
        """The run of that description, if it is finished."""
        return next((r for r in self.content["runs"] if all(r[k] == v for k, v in about.items())), None)

    def add(self, run: dict) -> None:
        """Keep a finished run."""
        self.content["runs"].append(run)
        write_json(self.path, self.content)


def rate_of(arm: str, index: int) -> float:
    """Half a decade per index, 0 at the arm's centre."""
    return ARMS[arm].centre * 10 ** (index / 2)


def best_index(record: Record, arm: str) -> int:
    """The index of the rate with the least loss among the arm's tuning runs."""
    runs = [r for r in record.content["runs"] if r["arm"] == arm and r["kind"] == "tuning"]
    return min(runs, key=lambda r: math.inf if r["loss"] is None else r["loss"])["index"]


def chosen_index(record: Record, arm: str, config: Config) -> int:
    """The index of the rate with the least loss among the arm's full runs of the first seed."""
    runs = [r for r in record.content["runs"] if r["arm"] == arm and r["kind"] == "full"]
    runs = [r for r in runs if r["seed"] == config.seeds[0]]
    return min(runs, key=lambda r: math.inf if r["loss"] is None else r["loss"])["index"]


def full_runs(record: Record, arm: str) -> list[dict]:
    """The arm's runs of full length at its chosen rate."""
    runs = [r for r in record.content["runs"] if r["arm"] == arm and r["kind"] == "full"]
    return [r for r in runs if r["index"] == chosen_index(record, arm, Config())]


def measure(arm: str, record: Record, data: tuple[Tensor, Tensor], config: Config) -> None:
    """Tune, then three seeds; only what is not in the record yet."""

    def once(kind: str, index: int, seed: int, steps: int) -> None:
        about = {"arm": arm, "kind": kind, "index": index, "seed": seed}
        if record.find(**about) is None:
            made = run(arm, rate_of(arm, index), seed, round(steps * ARMS[arm].length), data, config)
            record.add({**about, "rate": f"{rate_of(arm, index):.3e}", **made})
            print(f"{arm} {kind} rate {rate_of(arm, index):.2e} seed {seed}: {made['loss']}", flush=True)

    low, high = (-2, 2) if ARMS[arm].centre else (0, 0)
    for index in range(low, high + 1):
        once("tuning", index, config.tuning_seed, config.short_steps)
    for _ in range(config.extensions if ARMS[arm].centre else 0):
        best = best_index(record, arm)
        if low < best < high:
            break
        low, high = (low - 1, high) if best <= low else (low, high + 1)
        once("tuning", low if best <= low + 1 else high, config.tuning_seed, config.short_steps)
    # Longer runs bear, and want, higher rates than the short ones that chose.
    first, index = config.seeds[0], best_index(record, arm)
    once("full", index, first, config.steps)
    for _ in range(config.raises if ARMS[arm].centre else 0):
        once("full", index + 1, first, config.steps)
        if chosen_index(record, arm, config) <= index:
            break
        index += 1
    for seed in config.seeds:
        once("full", chosen_index(record, arm, config), seed, config.steps)


def table(record: Record) -> str:
    """Markdown: rate, steps, what was tried, held-out loss (mean and standard deviation over seeds), time of a step."""
    lines = [
        "| arm | rate | steps | short runs | rates at full length | held-out loss | CPU ms per step |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    rows = []
    for arm in ARMS:
        full = full_runs(record, arm)
        runs = [r for r in record.content["runs"] if r["arm"] == arm]
        short = sum(r["kind"] == "tuning" for r in runs)
        tried = len({r["index"] for r in runs if r["kind"] == "full"})
        losses = [r["loss"] for r in full if r["loss"] is not None]
        if not full:
            continue
        if len(losses) < len(full):
            text, key = f"{len(full) - len(losses)} of {len(full)} diverged", math.inf
        else:
            text, key = f"{np.mean(losses):.3f} ± {np.std(losses, ddof=1):.3f}", float(np.mean(losses))
        steps = max(r["curve"][-1][0] for r in full if r["curve"])
        speed = 1000 * np.mean([r["seconds"] / r["curve"][-1][0] for r in full if r["curve"]])
        rows.append(
            (
                key,
                f"| {arm} | {rate_of(arm, full[0]['index']):.1e} | {steps} | {short} | {tried} | {text} | {speed:.0f} |",
            )
        )
    return "\n".join([*lines, *(row for _, row in sorted(rows))])


def plot(record: Record, out: Path) -> None:
    """loss_steps.png and loss_seconds.png: every seed thin, the mean thick."""
    from matplotlib.figure import Figure

    for name, column, label in (("steps", 0, "step"), ("seconds", 1, "CPU seconds, one thread")):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for i, arm in enumerate(ARMS):
            runs = [r for r in full_runs(record, arm) if r["loss"] is not None]
            if not runs:
                continue
            # The last point is the table's, over more tokens than the others.
            curves = np.array([r["curve"][:-1] for r in runs])
            colour, style = f"C{i % 10}", "-" if i < 10 else "--"
            for curve in curves:
                axes.plot(curve[:, column], curve[:, 2], color=colour, linewidth=0.5, alpha=0.5)
            mean = curves.mean(0)
            axes.plot(mean[:, column], mean[:, 2], style, color=colour, linewidth=1.6, label=arm)
        axes.set(xlabel=label, ylabel="held-out loss, nats per token")
        axes.grid(alpha=0.3)
        axes.set_ylim(top=4.5)
        axes.legend(fontsize=8)
        figure.savefig(out / f"loss_{name}.png", dpi=130)


TOY_RATES = 43
TOY_FIXED, TOY_FORGET = 0.9, 0.25


def toy_steps(k: float, a: float, omega: float, momentum: float, forget: float, steps: int = 2000) -> float:
    """Steps until psi(r, theta) = r^2 + k (r - theta + a sin(omega r))^2 stays below 1e-3, from (-3.5, 2), at the best
    of 43 rates between 1e-5 and 1.8; infinite where none gets there."""
    rule = inner.DeltaMomentum(forget=forget)
    rates = torch.logspace(-5, 0.25, TOY_RATES, dtype=torch.float64)[:, None]
    weights = {"0": torch.tensor([[[-3.5], [2.0]]], dtype=torch.float64).repeat(TOY_RATES, 1, 1, 1)}
    slots, one, last = rule.init(weights), torch.ones_like(rates), torch.zeros(TOY_RATES)
    below = last > 0
    for step in range(1, steps + 1):
        r, theta = weights["0"][:, :, 0], weights["0"][:, :, 1]
        gap = r - theta + a * torch.sin(omega * r)
        slope = 1 + a * omega * torch.cos(omega * r)
        below = (r**2 + k * gap**2 < 1e-3).flatten()
        last[~below] = step
        if step > 50 + 2 * last.min():  # below for as long again
            break
        g = torch.stack([2 * r + 2 * k * gap * slope, -2 * k * gap], dim=2).nan_to_num()
        weights, slots = rule.update(weights, {"0": g}, slots, rates, one, momentum * one, {})
    last[~below] = math.inf
    return last.min().item()


def toy() -> dict[str, Any]:
    """Momentum and delta momentum, both at the best of 43 rates: with fixed coefficients (0.9; 0.9 and forget 0.25),
    and with the best of ten settings each."""
    plain = [(m, 0.0) for m in (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)]
    delta = [(m, c) for m in (0.8, 0.95) for c in (0.1, 0.25, 0.5, 0.75, 1.0)]
    rows = []
    for k, a, omega in itertools.product((1, 3, 10, 30, 100), (0, 0.25, 0.5, 1.0), (1, 2, 4)):
        if a == 0 and omega > 1:
            continue
        about = (k, a, omega)
        row = {"k": k, "alpha": a, "omega": omega}
        row["momentum"] = toy_steps(*about, TOY_FIXED, 0.0)
        row["delta"] = toy_steps(*about, TOY_FIXED, TOY_FORGET)
        row["momentum_tuned"] = min(toy_steps(*about, *setting) for setting in plain)
        row["delta_tuned"] = min(toy_steps(*about, *setting) for setting in delta)
        rows.append(row)
        print(row, flush=True)
    summary = {}
    for end in ("", "_tuned"):
        pairs = [(row[f"momentum{end}"], row[f"delta{end}"]) for row in rows]
        both = [m / d for m, d in pairs if math.isfinite(m) and math.isfinite(d)]
        summary["tuned" if end else "fixed"] = {
            "settings": len(pairs),
            "delta_faster": sum(d < m for m, d in pairs),
            "momentum_faster": sum(m < d for m, d in pairs),
            "median_speedup": float(np.median(both)),
            "least": min(both),
            "most": max(both),
        }
    print(json.dumps(summary, indent=1))
    return {"environment": environment(), "summary": summary, "steps": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of .txt or .txt.gz files")
    parser.add_argument("--out", type=Path, required=True, help="folder of runs.json and the plots")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--plot", action="store_true")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.toy:
        write_json(options.out / "toy.json", toy())
        return
    config = Config()
    record = Record(options.out / "runs.json", config)
    if options.data is not None:
        data = read_tokens(options.data, config)
        print(f"{len(data[0])} training tokens, {len(data[1])} held out", flush=True)
        for arm in options.arms.split(","):
            measure(arm, record, data, config)
    if options.plot:
        plot(record, options.out)
    print(table(record))


if __name__ == "__main__":
    main()
