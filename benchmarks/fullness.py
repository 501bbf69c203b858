"""What a sleep does when the weights are full: tell more and more, sleep, and see what the guard let in.

    python benchmarks/fullness.py [--model mini] [--rules additive,nested] [--facts 32,64,128] [--json FILE]

One held-out persona tells so many facts that the rules can read, through `nestmem.Memory`; then it sleeps. Then every
fact is asked for in a held-out phrasing, from the weights alone. `in weights`: memories in the slow level; `right of
them` and `right of all`: exact answers; `rounds`: candidates the guard measured; `gates`: which failed in each.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from nestmem.agent import extract
from nestmem.agent.controller import Memory
from nestmem.assemble import LocalLearner, load_learner
from nestmem.evals.record import environment, write_json
from nestmem.personas import Fact, PersonaGenerator
from nestmem.store import Ledger, Scope


def readable(fact: Fact) -> bool:
    """Whether the rules read this fact, and nothing else, from its statement."""
    items = extract.extract(fact.statement).items
    return len(items) == 1 and items[0].answer == fact.value and items[0].question is not None


def night(learner: LocalLearner, facts: list[Fact], generator: PersonaGenerator, rng: random.Random) -> dict:
    """One life of one day, and its sleep."""
    memory = Memory(Ledger(":memory:"), learner=learner)
    memory.observe([{"role": "user", "content": fact.statement} for fact in facts], "ada")
    memory.learn("ada")
    started = time.process_time()
    report = memory.sleep("ada")
    seconds = time.process_time() - started
    head = memory.ledger.head(Scope(user="ada"))
    updates = memory.ledger.updates(Scope(user="ada"), ids=head.update_ids if head else ())
    inside = {update.memory_id for update in updates if update.level == "slow"}
    answers = {m.event_id: m.id for m in memory.ledger.memories(Scope(user="ada"))}
    events = [event.id for event in memory.ledger.events(Scope(user="ada"))]
    state, _ = memory.weights.state(Scope(user="ada"))
    pairs = [(generator.question(fact.key, rng), fact.value) for fact in facts]
    right = [exact for exact, _ in learner.exact(pairs, [state] * len(pairs))]
    held = [answers.get(event) in inside for event in events]
    return {
        "told": len(facts),
        "outcome": report.outcome,
        "in_weights": sum(held),
        "right_of_them": sum(r for r, h in zip(right, held, strict=True) if h) / max(1, sum(held)),
        "right_of_all": sum(right) / len(right),
        "rounds": len(report.rounds),
        "failed_gates": [[gate.name for gate in gates if not gate.passed] for gates in report.rounds],
        "kept_out": dict(Counter(out.gate for out in memory.ledger.kept_out(Scope(user="ada")).values())),
        "sleep_cpu_seconds": round(seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--rules", default="additive,nested")
    parser.add_argument("--facts", default="32,64,128")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = PersonaGenerator("test")
    rows: list[dict[str, Any]] = []
    for rule in options.rules.split(","):
        learner = load_learner(options.model, rule=rule, device="cpu", dtype="float32")
        for count in map(int, options.facts.split(",")):
            rng = random.Random(options.seed)
            told = [fact for fact in generator.facts(3 * count, rng) if readable(fact)][:count]
            rows.append({"rule": rule, **night(learner, told, generator, rng)})
            print(rows[-1], flush=True)
    if options.json:
        write_json(
            options.json,
            {
                "environment": environment(),
                "config": {k: str(v) for k, v in vars(options).items()},
                "nights": rows,
            },
        )


if __name__ == "__main__":
    main()
