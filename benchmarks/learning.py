"""Milliseconds to learn 16 facts into weights: one user, 32 users in one batch, and PEFT one user at a time.

    python benchmarks/learning.py [--model mini] [--json FILE]

All three learn the same token rows (question -> value, statement -> value) into the same feed-forward layers. PEFT
trains the B of a LoRA of the same rank by the published recipe of TMEM (5 epochs of SGD, batches of 16), one adapter
a user, since its adapters are not trained in one batch. Time only: what is learned is measured by `nestmem eval`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F

from nestmem.adapters.fast_weights import FastWeights, load_fast_weights
from nestmem.adapters.rows import Row
from nestmem.evals.record import environment
from nestmem.personas import PersonaGenerator

FACTS = 16
USERS = 32


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall milliseconds of `work`, after one run that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return round(statistics.median(times), 1)


def memories(users: int, rng: random.Random) -> list[list[list[tuple[str, str]]]]:
    """Users -> facts -> the two pairs by which a fact is written."""
    generator = PersonaGenerator("test")
    people = [generator.facts(FACTS, rng) for _ in range(users)]
    return [[[(f.canonical, f.value), (f.statement, f.value)] for f in facts] for facts in people]


def peft_trainer(weights: FastWeights, rows: list[Row]) -> Callable[[], None]:
    """A function that trains one user's LoRA on the rows, from B = 0."""
    names = [site.name for site in weights.banked.sites]
    rank = max(basis.shape[0] for basis in weights.banked.bases)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names, lora_dropout=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(weights.model, config)
    bs = [p.requires_grad_() for name, p in model.named_parameters() if "lora_B" in name]
    for name, p in model.named_parameters():
        if "lora_A" in name:
            p.requires_grad_(False)
    batches = []
    for start in range(0, len(rows), 16):
        part = rows[start : start + 16]
        longest = max(len(row.ids) for row in part)
        ids = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in part])
        chosen = torch.tensor([row.weights + [0.0] * (longest - len(row.ids)) for row in part])[:, 1:] > 0
        batches.append((ids, chosen))

    def train() -> None:
        with torch.no_grad():
            for b in bs:
                b.zero_()
        optimizer = torch.optim.SGD(bs, lr=5e-4)
        for _ in range(5):
            for ids, chosen in batches:
                optimizer.zero_grad()
                F.cross_entropy(model(input_ids=ids).logits[:, :-1][chosen], ids[:, 1:][chosen]).backward()
                optimizer.step()

    return train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights = load_fast_weights(options.model)
    empty = weights.rule_object.empty()
    people = memories(USERS, random.Random(0))

    def anew(users: int) -> list:
        """A write that meets no fit of the repeat before."""
        weights.discard()
        return weights.write([empty] * users, people[:users])

    one = milliseconds(lambda: anew(1), options.repeats)
    batch = milliseconds(lambda: anew(USERS), max(1, options.repeats // 2))
    banks = milliseconds(lambda: weights.rule_object.banks(anew(1)[0][0]), options.repeats)
    rows = [weights.encode_pair(*pair) for fact in people[0] for pair in fact]
    peft = milliseconds(peft_trainer(weights, rows), options.repeats)
    record = {
        "facts": FACTS,
        "users": USERS,
        "ms_one_user": one,
        "ms_one_user_with_banks": banks,
        "ms_batch": batch,
        "ms_per_user_in_batch": round(batch / USERS, 1),
        "ms_peft_one_user": peft,
        "ms_peft_users_one_by_one": round(peft * USERS, 1),
        "peft_over_batch": round(peft * USERS / batch, 2),
        "threads": options.threads,
        "environment": environment(),
    }
    print(json.dumps(record, indent=1))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
