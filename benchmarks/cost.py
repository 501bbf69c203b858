"""What a write and a sleep cost: milliseconds and bytes per memory, for one user and for many.

    python benchmarks/cost.py [--model mini] [--users 64] [--held 64] [--json FILE]

A session of 5 facts is written by a user who holds nothing yet, by one who holds --held facts in the slow level, and
by --users users in one call; then all is refitted at once, as sleep does. Milliseconds are CPU time of this process on
one thread (`wall_ms` beside it: the machine may be shared), medians; a fact is two rows (question and statement). PEFT:
`python benchmarks/learning.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nestmem.adapters.fast_weights import FastWeights, load_fast_weights
from nestmem.adapters.nested import NestedState
from nestmem.evals import life
from nestmem.evals.record import environment, write_json
from nestmem.personas import PersonaGenerator

SESSION = 5
RULES = ("nested", "additive", "rls")


def timed(work: Callable[[int], Any], repeats: int) -> dict[str, float]:
    """Medians of CPU and wall milliseconds; `work` gets the number of the repeat (fits of the same set are cached)."""
    own, wall = [], []
    for number in range(repeats):
        first, start = time.process_time(), time.perf_counter()
        work(number)
        own.append(1000 * (time.process_time() - first))
        wall.append(1000 * (time.perf_counter() - start))
    return {"ms": round(statistics.median(own), 1), "wall_ms": round(statistics.median(wall), 1)}


def told(count: int, seed: int) -> list[list[tuple[str, str]]]:
    """Facts as the two pairs by which each is written."""
    facts = PersonaGenerator("test").facts(count, random.Random(seed))
    return [[(fact.canonical, fact.value), (fact.statement, fact.value)] for fact in facts]


def measure(weights: FastWeights, held: int, users: int, repeats: int) -> dict[str, Any]:
    """All costs of one rule."""
    rule = weights.rule_object
    empty = rule.empty()
    weights.write([empty], [told(SESSION, 999)], "fast")
    first = timed(lambda n: weights.write([empty], [told(SESSION, n)], "fast"), repeats)
    [(full, payloads)] = weights.write([empty], [told(held, 100)], "slow")
    later = timed(lambda n: weights.write([full], [told(SESSION, 200 + n)], "fast"), repeats)
    people = [[told(SESSION, 1000 * n + user) for user in range(users)] for n in range(1, 2)]
    many = timed(lambda n: weights.write([empty] * users, people[n], "fast"), 1)
    stored = [("slow", payload) for payload in payloads]
    fresh = [life.variant(weights, weights.rule)]
    sleep = timed(lambda n: fresh[n].rule_object.rebuild(stored), 1)
    reading = timed(lambda n: rule.banks(full), repeats)
    banks = sum(bank.numel() * bank.element_size() for bank in rule.banks(full))
    return {
        "write_session_first": first,
        "write_session_later": later,
        "ms_per_fact_later": round(later["ms"] / SESSION, 1),
        "users_in_one_call": users,
        "many_users": many,
        "ms_per_fact_many_users": round(many["ms"] / users / SESSION, 1),
        "sleep": sleep,
        "sleep_facts": held,
        "banks_for_reading": reading,
        "payload_bytes_per_fact": round(sum(map(len, payloads)) / held),
        "bank_bytes": banks,
        "kept_bytes": _kept(rule.snapshot(full), full, banks),
    }


def _kept(snapshot: bytes, state: Any, banks: int) -> int:
    """Bytes of a state in memory, its statistics included."""
    if isinstance(state, NestedState):
        return len(snapshot)
    tensors = (
        [tensor for part in state.levels.values() for tensor in (*part.moments, *part.cross)]
        if hasattr(state, "levels")
        else [*state.banks, *state.moments]
    )
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--held", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {"session": SESSION, "environment": environment(), "rules": {}}
    for rule in options.rules.split(","):
        weights = load_fast_weights(options.model, rule=rule)
        found = measure(weights, options.held, options.users, options.repeats)
        record["rules"][rule] = found
        print(rule, json.dumps(found), flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, record)


if __name__ == "__main__":
    main()
