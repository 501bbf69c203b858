"""What the weights hold when extraction is given: exact answers after one session, by number of facts.

    python benchmarks/binding.py [--model mini] [--rule nested] [--users 13] [--facts 4,8,16,32,64] [--json FILE]

Each user of the held-out split tells so many facts, written as (canonical question -> value) and (statement ->
value); then each fact is asked for in a held-out phrasing, with nothing in the prompt. Arms: the user's own weights,
the next user's weights (placebo), no weights. Questions, exact share, 95 % interval over users (bootstrap).
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch

from nestmem.adapters.fast_weights import FastWeights, load_fast_weights
from nestmem.evals.record import environment
from nestmem.personas import PersonaGenerator


def exact(weights: FastWeights, states: list, people: list, asked: list[list[str]]) -> np.ndarray:
    """Share of each user's facts that are answered exactly."""
    shares = []
    for state, facts, questions in zip(states, people, asked, strict=True):
        pairs = [(question, fact.value) for question, fact in zip(questions, facts, strict=True)]
        shares.append(np.mean([right for right, _ in weights.exact(pairs, [state] * len(pairs))]))
    return np.array(shares)


def interval(shares: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over users."""
    rng = np.random.default_rng(seed)
    means = rng.choice(shares, (2000, len(shares))).mean(1)
    return tuple(np.quantile(means, (0.025, 0.975)).round(4).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--rule", default="nested")
    parser.add_argument("--users", type=int, default=13)
    parser.add_argument("--facts", default="4,8,16,32,64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    weights = load_fast_weights(options.model, rule=options.rule)
    generator = PersonaGenerator("test")
    record: dict = {
        "config": {k: str(v) for k, v in vars(options).items()},
        "environment": environment(),
        "facts": {},
    }
    for count in map(int, options.facts.split(",")):
        rng = random.Random(options.seed + count)
        people = [generator.facts(count, rng) for _ in range(options.users)]
        asked = [[generator.question(fact.key, rng) for fact in facts] for facts in people]
        pairs = [[[(f.canonical, f.value), (f.statement, f.value)] for f in facts] for facts in people]
        states = [state for state, _ in weights.write([weights.rule_object.empty()] * options.users, pairs)]
        arms = {"weights": states, "placebo": [*states[1:], states[0]], "none": [None] * options.users}
        shares = {arm: exact(weights, given, people, asked) for arm, given in arms.items()}
        found = {
            arm: {"exact": round(float(s.mean()), 4), "interval": interval(s)} for arm, s in shares.items()
        }
        record["facts"][str(count)] = {"questions": count * options.users, **found}
        print(count, "facts:", json.dumps(record["facts"][str(count)]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
