"""What binds facts into a pretrained model: one additive step, targets found by a few steps, or several passes?

    python benchmarks/pretrained.py --text FILE [--model mini] [--parts writes,long,...] [--json FILE]

The open questions of the additive write, on any causal language model (`--model`: a folder or Hugging Face name) and
a text it should not be changed on (`--text`, plain or .gz). Parts:

    writes   4, 16, 48 facts by each write (48: some): recalled as written, asked in held-out words, damage elsewhere
    long     16 facts with answers of 2, 8 and 32 words
    layers   16 facts in the last 1, 2, 4 blocks
    rank     facts recalled by rank of the banks and number of facts
    belief   answers that contradict what the base holds for likely (over 0.9) or unlikely (under 0.3)

Writes: `one step` (the additive rule's), `one step xN` (its rate times N), `targets`: each event's wanted change of
the outputs is found by a few Polyak steps on the change itself, as MEMIT does (arXiv 2210.07229, eq. 4), alone and
from the base, so that events still add up; `moved keys` takes the keys as the change leaves them, `base keys` as they
were; `passes`: `adapters.nested.fit`, the ridge step repeated over all rows at the current banks (nothing adds up).
`protected N`: the keys of N tokens of other parts of the text (their second moments) join the regression with the
wish to change nothing: C0.
Banks other than the mini's own are the calibrated ones (bases of singular vectors). Scores: `exact`, `tokens`, `nats`
as in `nestmem.evals.seal`; `kl` in nats per token of unrelated text.
"""

from __future__ import annotations

import argparse
import gzip
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from nestmem.adapters.banks import BankedModel, ridge_banks
from nestmem.adapters.fast_weights import FastWeights, load_fast_weights, mini_folder
from nestmem.adapters.nested import fit, key_moments
from nestmem.adapters.rows import Row, fixed_batches
from nestmem.adapters.sites import Site
from nestmem.evals.record import environment, write_json
from nestmem.evals.seal import SCORES, Scored, forced, kl_to_base
from nestmem.personas import Fact, PersonaGenerator

Events = Sequence[Sequence[Row]]
"""What is written: events, each of the token rows that belong together."""
Write = Callable[[FastWeights, Events, Sequence[Tensor]], list[Tensor]]
"""From a model, events and the mean key moments C0 (R, R) per site of other text to banks (O, R) per site."""


# --- the writes ----------------------------------------------------------------------------------------


@contextmanager
def shifted(banked: BankedModel, deltas: Sequence[Tensor]) -> Iterator[None]:
    """Within the block, `deltas[s]` (B, T, O) is added to the output of each site."""
    handles = [
        site.module.register_forward_hook(lambda _module, _inputs, output, delta=delta: output + delta)
        for site, delta in zip(banked.sites, deltas, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def targets(
    banked: BankedModel, ids_BT: Tensor, weights_BT: Tensor, *, steps: int, moved: bool, aim: float = 0.05
) -> tuple[list[Tensor], list[Tensor]]:
    """Keys (B, T-1, R) and wanted changes (B, T-1, O) of the outputs of every site, each row on its own.

    A step goes part of Polyak's way along the errors of the row's written tokens, with the sites together:
    delta -= part (loss - aim) / |e|^2 e, loss and `aim` (nats a token) summed over the row. `part` starts at a half,
    grows while the row's loss falls, and shrinks where it would rise; such a step is taken back. `moved`: keys as they
    are under the change.
    """
    written_BT = (weights_BT[:, 1:] > 0).to(weights_BT)[..., None]
    aim_B = aim * written_BT.sum((1, 2))
    tried = [banked.bases[0].new_zeros(*ids_BT.shape, site.d_out) for site in banked.sites]
    base, errors, loss_B = banked.keys_errors(ids_BT, weights_BT)
    keys, deltas = base, tried
    part_B = torch.full_like(loss_B, 0.5)
    for _ in range(steps):
        errors = [error * written_BT for error in errors]
        squares_B = sum(error.square().sum((1, 2)) for error in errors)
        step_B = part_B * (loss_B - aim_B).clamp(min=0) / squares_B.clamp(min=1e-12)
        tried = [
            delta - nn.functional.pad(step_B[:, None, None] * error, (0, 0, 0, 1))
            for delta, error in zip(deltas, errors, strict=True)
        ]
        with shifted(banked, tried):
            tried_keys, tried_errors, tried_loss_B = banked.keys_errors(ids_BT, weights_BT)
        better_B = tried_loss_B < loss_B
        part_B = torch.where(better_B, (part_B * 1.3).clamp(max=1.0), part_B * 0.4)
        loss_B = torch.where(better_B, tried_loss_B, loss_B)
        deltas, errors, keys = (
            [torch.where(better_B[:, None, None], new, old) for new, old in zip(news, olds, strict=True)]
            for news, olds in ((tried, deltas), (tried_errors, errors), (tried_keys, keys))
        )
    return keys if moved else base, [delta[:, :-1] for delta in deltas]


def solved(
    weights: FastWeights, events: Events, wanted: Callable, rates: Sequence[float], protect: Sequence[Tensor]
) -> list[Tensor]:
    """Banks of the ridge regression from keys to changes, B = rate C (C0 + S + ridge I)^-1 with C0 = `protect`;
    `wanted` gives keys and changes of a batch."""
    banked, settings = weights.banked, weights.settings
    moments: list[Any] = list(protect)
    cross: list[Any] = [0.0] * len(banked.sites)
    rows = [row for event in events for row in event]
    for _, ids_BT, weights_BT in fixed_batches(rows, device=banked.bases[0].device):
        keys, changes = wanted(banked, ids_BT, weights_BT)
        for s, (key, change) in enumerate(zip(keys, changes, strict=True)):
            root = (2 * torch.sigmoid(key @ settings.token[s].to(key)) * (weights_BT[:, 1:] > 0)).sqrt()
            k, c = (((x * root[..., None]).flatten(0, 1)).double() for x in (key, change))
            moments[s], cross[s] = moments[s] + k.T @ k, cross[s] + c.T @ k
    ridge, rate = (torch.tensor(values, dtype=torch.float64) for values in (settings.ridge, rates))
    banks = ridge_banks([m[None] for m in moments], [c[None] for c in cross], list(ridge), list(rate))
    return [bank[0].to(banked.bases[0]) for bank in banks]


def one_step(scale: float) -> Write:
    """The additive rule's write with its rates times `scale`."""

    def wanted(banked: BankedModel, ids_BT: Tensor, weights_BT: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        keys, errors, _ = banked.keys_errors(ids_BT, weights_BT)
        return keys, [-error for error in errors]

    def write(weights: FastWeights, events: Events, c0: Sequence[Tensor]) -> list[Tensor]:
        rates = [scale * rate for rate in weights.settings.rate]
        return solved(weights, events, wanted, rates, [0 * moment for moment in c0])

    return write


def by_targets(steps: int, *, moved: bool, protected: float = 0) -> Write:
    """Targets found by `steps` steps; the regression takes them whole."""

    def wanted(banked: BankedModel, ids_BT: Tensor, weights_BT: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return targets(banked, ids_BT, weights_BT, steps=steps, moved=moved)

    def write(weights: FastWeights, events: Events, c0: Sequence[Tensor]) -> list[Tensor]:
        return solved(weights, events, wanted, [1.0] * len(c0), [protected * moment for moment in c0])

    return write


def by_passes(passes: int, *, protected: float = 0) -> Write:
    """At most so many ridge steps over all rows, each at the banks of the one before."""

    def write(weights: FastWeights, events: Events, c0: Sequence[Tensor]) -> list[Tensor]:
        rows = [row for event in events for row in event]
        moments = [protected * moment for moment in c0]
        return list(fit(weights.banked, weights.settings, rows, moments=moments, passes=passes).banks)

    return write


WRITES: dict[str, Write] = {
    "one step": one_step(1),
    "one step x4": one_step(4),
    "one step x16": one_step(16),
    "targets 4, moved keys": by_targets(4, moved=True),
    "targets 16, base keys": by_targets(16, moved=False),
    "targets 16, moved keys": by_targets(16, moved=True),
    "targets 16, moved keys, protected 10": by_targets(16, moved=True, protected=10),
    "passes 4": by_passes(4),
    "passes 20": by_passes(20),
    "passes 20, protected 10": by_passes(20, protected=10),
    "passes 20, protected 100": by_passes(20, protected=100),
}
SHORT = ("one step", "one step x16", "targets 16, moved keys", "passes 20", "passes 20, protected 100")
KL_ROWS, KL_LENGTH = 16, 64
"""Tokens of the text on which the damage is measured; C0 is taken from as many after them."""


# --- what is measured ----------------------------------------------------------------------------------


class Bench:
    """A model by name, the text that should stay as it is, and the people whose facts are written."""

    def __init__(self, name: str, text: str, *, questions: int, seed: int):
        self.name, self.text, self.questions, self.seed = name, text, questions, seed
        self.folder = mini_folder() if name == "mini" else Path(name) if Path(name).exists() else name

    def load(self, *, rank: int | None = None, last: int = 2) -> FastWeights:
        """The model with banks of its own (where it has them), or with calibrated ones of this rank."""
        if rank is None:
            return load_fast_weights(self.name, last=last)
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        return FastWeights(model, AutoTokenizer.from_pretrained(self.folder), rank=rank, last=last)

    def windows(self, weights: FastWeights, *, rows: int, length: int, skip: int = 0) -> Tensor:
        """Tokens (rows, length) of the text, from its token `skip` on. Raises `ValueError` when it is too short."""
        needed = skip + rows * length
        ids: list[int] = []
        for line in self.text.splitlines():
            ids += weights.tokenizer(line, add_special_tokens=False)["input_ids"]
            if len(ids) >= needed:
                return torch.tensor(ids[skip:needed]).reshape(rows, length)
        raise ValueError(f"--text has {len(ids)} tokens, {needed} are needed; give a longer text")

    def facts(self, count: int) -> list[tuple[list[Fact], list[str]]]:
        """Lives enough for the number of questions: the facts and, for each, a question in held-out words."""
        generator = PersonaGenerator("test")
        people = []
        for user in range(max(1, self.questions // count)):
            rng = random.Random(1000 * self.seed + 100 * count + user)
            facts = generator.facts(count, rng)
            people.append((facts, [generator.question(fact.key, rng) for fact in facts]))
        return people

    def measured(self, weights: FastWeights, write: Write, lives: Sequence[Life]) -> dict[str, Any]:
        """Means over lives: scores as written and reworded, KL on the text, seconds and KB of a state."""
        text = self.windows(weights, rows=KL_ROWS, length=KL_LENGTH)
        other = self.windows(weights, rows=KL_ROWS, length=KL_LENGTH, skip=text.numel())
        everything = [[1.0] * KL_LENGTH] * KL_ROWS
        rows = [Row(ids=ids, weights=w) for ids, w in zip(other.tolist(), everything, strict=True)]
        c0 = key_moments(weights.banked, rows)
        found: dict[str, list[Scored]] = {}
        kl, seconds = 0.0, 0.0
        for life in lives:
            start = time.perf_counter()
            banks = write(weights, life.events, c0)
            seconds += time.perf_counter() - start
            for name, rows in life.asked.items():
                found.setdefault(name, []).extend(forced(weights.banked, rows, banks))
                found.setdefault(f"{name}, base", []).extend(forced(weights.banked, rows, None))
            kl += kl_to_base(weights.banked, banks, text)
        floats = sum(site.d_out * basis.shape[0] for site, basis in _sites(weights))
        return {
            **{name: _mean(scored) for name, scored in found.items()},
            "kl": kl / len(lives),
            "seconds": seconds / len(lives),
            "state_kb": floats * 4 / 1024,
        }


@dataclass(frozen=True)
class Life:
    """Events to write, and rows to score by name."""

    events: list[list[Row]]
    asked: dict[str, list[Row]]


def _sites(weights: FastWeights) -> Iterator[tuple[Site, Tensor]]:
    return zip(weights.banked.sites, weights.banked.bases, strict=True)


def _mean(scored: Sequence[Scored]) -> dict[str, float]:
    return {name: sum(float(getattr(one, name)) for one in scored) / len(scored) for name in SCORES}


def told(weights: FastWeights, people: list[tuple[list[Fact], list[str]]]) -> list[Life]:
    """Each fact is written as its canonical question and as its statement."""
    lives = []
    for facts, questions in people:
        events = [
            [weights.encode_pair(fact.canonical, fact.value), weights.encode_pair(fact.statement, fact.value)]
            for fact in facts
        ]
        reworded = [weights.encode_pair(q, fact.value) for q, fact in zip(questions, facts, strict=True)]
        lives.append(Life(events, {"written": [event[0] for event in events], "reworded": reworded}))
    return lives


def writes(bench: Bench) -> Iterator[dict[str, Any]]:
    """Every write, on 4, 16 and 48 facts."""
    weights = bench.load()
    for count in (4, 16, 48):
        lives = told(weights, bench.facts(count))
        for name in WRITES if count < 48 else SHORT:
            yield {"facts": count, "write": name, **bench.measured(weights, WRITES[name], lives)}


def long(bench: Bench) -> Iterator[dict[str, Any]]:
    """16 questions with answers of 2, 8 and 32 words, made of other people's values."""
    weights = bench.load()
    for words in (2, 8, 32):
        lives = []
        for facts, _ in bench.facts(16):
            rng = random.Random(f"{bench.seed} {words}")
            pool = " ".join(fact.value for fact in PersonaGenerator("test").facts(60, rng)).split()
            events = [
                [weights.encode_pair(fact.canonical, " ".join(rng.sample(pool, words)))] for fact in facts
            ]
            lives.append(Life(events, {"written": [event[0] for event in events]}))
        for name in SHORT:
            yield {"words": words, "write": name, **bench.measured(weights, WRITES[name], lives)}


def layers(bench: Bench) -> Iterator[dict[str, Any]]:
    """16 facts in the last 1, 2, 4 blocks, banks of rank 32, calibrated."""
    for last in (1, 2, 4):
        weights = bench.load(rank=32, last=last)
        lives = told(weights, bench.facts(16))
        for name in SHORT:
            yield {"last": last, "write": name, **bench.measured(weights, WRITES[name], lives)}


def rank(bench: Bench) -> Iterator[dict[str, Any]]:
    """Facts by rank: the last two blocks, calibrated banks."""
    for size in (8, 16, 32, 64, 128):
        weights = bench.load(rank=size)
        for count in (4, 16, 48):
            lives = told(weights, bench.facts(count))
            for name in ("one step x16", "passes 20, protected 10"):
                yield {
                    "rank": size,
                    "facts": count,
                    "write": name,
                    **bench.measured(weights, WRITES[name], lives),
                }


def belief(bench: Bench) -> Iterator[dict[str, Any]]:
    """16 contexts of 24 tokens of the text whose next token the base is sure of, and 16 where it is not: another
    token, drawn from the text, is written. `cut` asks with the last 16 tokens of the context."""
    weights = bench.load()
    contexts = bench.windows(weights, rows=2000, length=24, skip=2 * KL_ROWS * KL_LENGTH)
    with torch.no_grad():
        chances = torch.cat(
            [
                weights.model(input_ids=part, use_cache=False).logits[:, -1].float().softmax(-1)
                for part in contexts.split(100)
            ]
        )
    believed, first = chances.max(-1)
    for name, chosen in (("over 0.9", believed > 0.9), ("under 0.3", believed < 0.3)):
        places = chosen.nonzero()[:16, 0].tolist()
        if not places:
            raise ValueError(f"the base is {name} nowhere in 2,000 contexts of --text; give another text")
        rng = random.Random(bench.seed)
        events, old, cut = [], [], []
        for place in places:
            ids = contexts[place].tolist()
            other = rng.choice([token for token in contexts[:, 0].tolist() if token != int(first[place])])
            events.append([Row(ids=[*ids, other], weights=[0.0] * 24 + [1.0])])
            old.append(Row(ids=[*ids, int(first[place])], weights=[0.0] * 24 + [1.0]))
            cut.append(Row(ids=[*ids[8:], other], weights=[0.0] * 16 + [1.0]))
        life = Life(events, {"written": [event[0] for event in events], "cut": cut, "old answer": old})
        for write in WRITES:
            found = bench.measured(weights, WRITES[write], [life])
            yield {"believed": name, "contexts": len(places), "write": write, **found}


PARTS = {"writes": writes, "long": long, "layers": layers, "rank": rank, "belief": belief}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini", help="mini, a folder, or a Hugging Face name")
    parser.add_argument("--text", type=Path, required=True, help="unrelated text, plain or .gz")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--questions", type=int, default=16, help="at least so many a line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--parts names {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    torch.set_num_threads(1)
    data = options.text.read_bytes()
    text = (gzip.decompress(data) if options.text.suffix == ".gz" else data).decode("utf-8")
    bench = Bench(options.model, text, questions=options.questions, seed=options.seed)
    record: dict[str, Any] = {
        "config": {name: str(value) for name, value in vars(options).items()},
        "environment": environment(),
        "parts": {},
    }
    for part in options.parts.split(","):
        record["parts"][part] = []
        for row in PARTS[part](bench):
            record["parts"][part].append(row)
            print(part, _line(row), flush=True)
            if options.json:
                write_json(options.json, record)


def _line(row: dict[str, Any]) -> str:
    """A measured row on one line: scores as exact/tokens/nats."""
    parts = []
    for name, value in row.items():
        if name.endswith(", base"):
            continue
        if isinstance(value, dict):
            parts.append(f"{name} {value['exact']:.3f}/{value['tokens']:.3f}/{value['nats']:.2f}")
        else:
            parts.append(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}")
    return " | ".join(parts)


if __name__ == "__main__":
    main()
