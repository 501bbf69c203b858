"""How many facts a state holds: exact answers by number of facts, write rule, rank and blocks, and where it breaks.

    python benchmarks/capacity.py [--model mini] [--facts 8,16,...] [--ranks 128,64,32] [--blocks 2,1] [--users 1]
        --out FILE.jsonl
    python benchmarks/capacity.py --out FILE.jsonl --report FOLDER

Held-out personas tell so many facts in one go (questions in held-out phrasings, nothing in the prompt, exact answers).
Rules: additive, rls (a step for every 5 facts), nested with one level. Ranks below the model's own take the first
directions of each basis. `facts per KB` are facts answered for each 1,024 bytes of banks that an answer needs. `guard`
is whether the trust region of `nestmem.agent.guard` (drift and norm) would let the state through. A cell is
one line of --out and is not run again.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch

from nestmem.adapters.fast_weights import FastWeights, load_fast_weights
from nestmem.agent.guard import GuardSettings
from nestmem.errors import InputError
from nestmem.evals import life
from nestmem.evals.record import environment, write_json
from nestmem.evals.stats import clustered_share
from nestmem.personas import Fact, PersonaGenerator

RULES = ("additive", "nested", "rls")
SESSION = 5


def pairs_of(fact: Fact) -> list[tuple[str, str]]:
    return [(fact.canonical, fact.value), (fact.statement, fact.value)]


def learned(weights: FastWeights, facts: list[Fact]) -> Any:
    """The state that holds the facts, by the rule of `weights`."""
    rule = weights.rule_object
    if rule.name != "rls":
        return weights.write([rule.empty()], [[pairs_of(fact) for fact in facts]], "slow")[0][0]
    state = rule.empty()
    for first in range(0, len(facts), SESSION):
        together = [pair for fact in facts[first : first + SESSION] for pair in pairs_of(fact)]
        [(state, _)] = weights.write([state], [[together]], "slow")
    return state


def cell(weights: FastWeights, count: int, users: int) -> dict[str, Any]:
    """So many facts under the rule of `weights`: answers, drift, bytes, seconds."""
    generator, limits = PersonaGenerator("test"), GuardSettings()
    right: list[bool] = []
    whose: list[int] = []
    moved, seconds = [], 0.0
    for user in range(users):
        rng = random.Random(1000 * user + count)
        facts = generator.facts(count, rng)
        start = time.process_time()
        state = learned(weights, facts)
        seconds += time.process_time() - start
        asked = [(generator.question(fact.key, rng), fact.value) for fact in facts]
        right += [exact for exact, _ in weights.exact(asked, [state] * count)]
        whose += [user] * count
        moved.append(weights.drift(state))
    size = sum(b.numel() * b.element_size() for b in weights.banks_of(weights.rule_object.empty()))
    share = clustered_share(right, whose)
    kl = sum(m.kl for m in moved) / users
    norm = sum(m.norm for m in moved) / users
    return {
        "exact": share.record(),
        "bank_bytes": size,
        "answered_per_KB": share.mean * count / (size / 1024),
        "kl": kl,
        "norm": norm,
        "guard": all(m.finite and m.kl <= limits.kl and m.norm <= limits.norm for m in moved),
        "cpu_seconds_per_user": round(seconds / users, 2),
    }


def run(options: argparse.Namespace) -> None:
    done = {(o["rule"], o["rank"], o["blocks"], o["facts"]) for o in read(options.out)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    counts = [int(value) for value in options.facts.split(",")]
    for blocks in map(int, options.blocks.split(",")):
        for rank in map(int, options.ranks.split(",")):
            for rule in options.rules.split(","):
                base = load_fast_weights(options.model)
                if rule not in RULES:
                    raise InputError(f"--rules {rule!r}: expected some of {', '.join(RULES)}")
                weights = life.variant(base, rule, rank=rank, blocks=blocks)
                for count in counts:
                    if (rule, rank, blocks, count) in done:
                        continue
                    found = cell(weights, count, options.users)
                    record = {"rule": rule, "rank": rank, "blocks": blocks, "facts": count} | found
                    record |= {
                        "users": options.users,
                        "fingerprint": base.fingerprint,
                        "environment": environment(),
                    }
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(record) + "\n")
                    print(
                        f"{rule} rank {rank} blocks {blocks} facts {count}: exact {found['exact']['mean']:.3f}, "
                        f"{found['answered_per_KB']:.3f} facts/KB, kl {found['kl']:.2f}, norm {found['norm']:.2f}, "
                        f"guard {'lets through' if found['guard'] else 'refuses'}",
                        flush=True,
                    )


def read(path: Path) -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def report(path: Path, folder: Path) -> None:
    """capacity.json and a table; "breaks" is the first count below 80 % of the share at the smallest count."""
    cells = read(path)
    if not cells:
        raise InputError(f"{path} holds no cells; run without --report first")
    folder.mkdir(parents=True, exist_ok=True)
    environment_ = cells[0]["environment"]
    plain = [{k: v for k, v in one.items() if k != "environment"} for one in cells]
    counts = sorted({one["facts"] for one in plain})
    print("| rule | rank | blocks | " + " | ".join(map(str, counts)) + " | breaks at | guard refuses from |")
    print("|---|---|---|" + "---|" * (len(counts) + 2))
    kinds = sorted({(o["rule"], -o["blocks"], -o["rank"]) for o in plain})
    for rule, blocks, rank in kinds:
        row = {o["facts"]: o for o in plain if (o["rule"], -o["blocks"], -o["rank"]) == (rule, blocks, rank)}
        first = row[min(row)]["exact"]["mean"]
        broken = [c for c in sorted(row) if row[c]["exact"]["mean"] < 0.8 * first]
        refused = [c for c in sorted(row) if not row[c]["guard"]]
        shares = [f"{100 * row[c]['exact']['mean']:.0f}" if c in row else "-" for c in counts]
        print(
            f"| {rule} | {-rank} | {-blocks} | {' | '.join(shares)} | {broken[0] if broken else '-'} | "
            f"{refused[0] if refused else '-'} |"
        )
    write_json(folder / "capacity.json", {"environment": environment_, "cells": plain})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--facts", default="8,16,32,64,128,256,384")
    parser.add_argument("--ranks", default="128,64,32")
    parser.add_argument("--blocks", default="2,1")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--users", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report(options.out, options.report) if options.report else run(options)


if __name__ == "__main__":
    main()
