"""Does recall strength help what is used, and what does it cost what is not? Prints a table; --json writes the record.

    python benchmarks/strength.py [--lives 12] [--json FILE]

Generated lives (nestmem.personas, no data of anybody): facts told over a year among small talk, and every few
messages a question about a fact told before. Which fact is asked for follows Zipf's law over a random order of the
facts. The memory that the answer would have rested on is noted as used: with --uses own that of the first-ranked
passage of a recall with strength, right or wrong (a system that believes its own recall); with --uses right the
right one (somebody corrects it).

At the end of each life questions are drawn by the same law ("skew"), and others about memories that were never used
("unused"). Each is ranked twice in the same ledger, with strength and without, by three cues: the held-out question,
one content word of it, and the statement as it was told. MRR: mean of 1 / rank of the right passage. In budget: the
share of right passages among those recalled in so many tokens. Intervals: 95 %, bootstrap over lives; the
differences are paired.

The weight was chosen on lives of the split "train" (--sweep); the record is of the split "test".
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from nestmem.agent.recall import Context, Weights, recall
from nestmem.evals.record import environment, write_json
from nestmem.personas import Fact, PersonaGenerator
from nestmem.store import Ledger, MemoryRecord, NewEvent, Scope
from nestmem.store.passages import words
from nestmem.store.ranking import STOP_WORDS

START = datetime(2025, 1, 1, tzinfo=UTC)
SCOPE = Scope(user="life")
CUES = ("question", "one word", "statement")
BOOTSTRAP = 2000
EVERYTHING = 1_000_000
PLAIN = Weights(strength=0.0)


@dataclass(kw_only=True)
class Lived:
    """A life in a ledger: its facts in the order of how often they are asked for, and their events."""

    ledger: Ledger
    maker: PersonaGenerator
    rng: random.Random
    facts: list[Fact]
    share: list[float]
    told: dict[str, str] = field(default_factory=dict)

    def draw(self) -> Fact:
        """One of the told facts, by the law of this life."""
        return self.rng.choices(self.facts, [s if f.key in self.told else 0.0 for f, s in self.pairs()])[0]

    def pairs(self) -> list[tuple[Fact, float]]:
        return list(zip(self.facts, self.share, strict=True))


def live(seed: int, given: argparse.Namespace, weights: Weights, split: str, uses: str) -> Lived:
    """Tells the facts over a year and asks all along."""
    rng = random.Random(seed)
    maker = PersonaGenerator("train" if split == "train" else "test")
    facts = maker.facts(given.facts, rng)
    share = [1 / (rank + 1) ** given.zipf for rank in range(len(facts))]
    life = Lived(ledger=Ledger(), maker=maker, rng=rng, facts=facts, share=share)
    for number, fact in enumerate(rng.sample(facts, len(facts))):
        at = START + timedelta(days=365 * number / len(facts))
        tell(life, fact, at, session=f"s{number // 4}")
        for turn in range(given.asked):
            ask(life, at + timedelta(hours=1 + turn), uses, weights)
    return life


def tell(life: Lived, fact: Fact, at: datetime, session: str) -> None:
    """The fact and some small talk, and the memory as the extractor would write it."""
    maker, rng = life.maker, life.rng
    talk = [("user", maker.told(fact, rng)), ("assistant", maker.acknowledge(rng))]
    if rng.random() < 0.5:
        talk += [("user", maker.smalltalk(rng)), ("assistant", maker.reply(rng))]
    new = [NewEvent(role=r, content=c, session=session, occurred_at=at, recorded_at=at) for r, c in talk]
    event = life.ledger.append(SCOPE, new)[0]
    record = MemoryRecord(
        id=fact.key,
        scope=SCOPE,
        key=fact.key,
        text=fact.statement,
        question=fact.canonical,
        answer=fact.value,
        kind=fact.kind,
        event_id=event.id,
        span=(0, len(event.content)),
        valid_from=at,
        believed_from=at,
        extractor="benchmark",
    )
    life.ledger.add_memories(SCOPE, [record])
    life.told[fact.key] = event.id


def ask(life: Lived, at: datetime, uses: str, weights: Weights) -> None:
    """One question of the life; notes the memory that its answer rests on."""
    fact = life.draw()
    if uses == "right":
        rests_on = [fact.key]
    else:
        found = recall(
            life.ledger,
            None,
            SCOPE,
            life.maker.question(fact.key, life.rng),
            budget_tokens=200,
            weights=weights,
        )
        rests_on = list(best_first(found)[0].memory_ids) if found.items else []
    life.ledger.note_use(SCOPE, rests_on, at)


def best_first(found: Context) -> list:
    """Items by score; of two with the same the later first."""
    return [
        found.items[i] for i in sorted(range(len(found.items)), key=lambda i: (-found.items[i].score, -i))
    ]


def questions(life: Lived, count: int) -> list[tuple[str, Fact]]:
    """(group, fact): as many by the law of the life as about memories that were never used."""
    used = life.ledger.uses(SCOPE)
    never = [fact for fact in life.facts if fact.key not in used]
    unused = life.rng.sample(never, min(count, len(never)))
    return [("skew", life.draw()) for _ in range(count)] + [("unused", fact) for fact in unused]


def cue_text(life: Lived, cue: str, fact: Fact) -> str:
    question = life.maker.question(fact.key, life.rng)
    if cue == "statement":
        return fact.statement
    if cue == "one word":
        content = [word for word in words(question) if word not in STOP_WORDS]
        return life.rng.choice(content) if content else question
    return question


def measure(life: Lived, weights: Weights, given: argparse.Namespace) -> list[dict]:
    """A row per question, cue and arm: reciprocal rank, and whether it was in each budget."""
    found = []
    for group, fact in questions(life, given.questions):
        right = life.told[fact.key]
        for cue in CUES:
            text = cue_text(life, cue, fact)
            for arm, arm_weights in (("without", PLAIN), ("with", weights)):
                ranked = best_first(
                    recall(life.ledger, None, SCOPE, text, budget_tokens=EVERYTHING, weights=arm_weights)
                )
                row = {"group": group, "cue": cue, "arm": arm}
                row["mrr"] = 1 / (1 + [item.id for item in ranked].index(right))
                for budget in given.budgets:
                    items = recall(
                        life.ledger, None, SCOPE, text, budget_tokens=budget, weights=arm_weights
                    ).items
                    row[f"in_{budget}"] = float(right in [item.id for item in items])
                found.append(row)
    return found


def interval(values_L: Sequence[Sequence[float]], rng: np.random.Generator) -> dict[str, float]:
    """Mean of all values of L lives and its 95 % interval, lives drawn with replacement."""
    sums_L = np.array([sum(values) for values in values_L])
    counts_L = np.array([len(values) for values in values_L], dtype=float)
    drawn_BL = rng.integers(0, len(sums_L), (BOOTSTRAP, len(sums_L)))
    means_B = sums_L[drawn_BL].sum(1) / np.maximum(counts_L[drawn_BL].sum(1), 1.0)
    low, high = np.percentile(means_B, [2.5, 97.5])
    return {
        "mean": float(sums_L.sum() / max(counts_L.sum(), 1.0)),
        "low": float(low),
        "high": float(high),
        "n": int(counts_L.sum()),
        "lives": len(sums_L),
    }


def summary(lives: list[list[dict]], metrics: Sequence[str]) -> list[dict]:
    """Per group, cue and metric: with, without, and the paired difference."""
    rng = np.random.default_rng(0)
    table = []
    for group in ("skew", "unused"):
        for cue in CUES:
            for metric in metrics:
                of = {
                    arm: [
                        [r[metric] for r in rows if (r["group"], r["cue"], r["arm"]) == (group, cue, arm)]
                        for rows in lives
                    ]
                    for arm in ("without", "with")
                }
                gain = [
                    [b - a for a, b in zip(x, y, strict=True)]
                    for x, y in zip(of["without"], of["with"], strict=True)
                ]
                line = {"group": group, "cue": cue, "metric": metric}
                for name, values in (("without", of["without"]), ("with", of["with"]), ("gain", gain)):
                    line[name] = interval(values, rng)
                table.append(line)
    return table


def show(table: list[dict]) -> None:
    print(f"{'group':8}{'cue':11}{'metric':9}{'without':>9}{'with':>9}   gain (95 %)            n")
    for line in table:
        gain = line["gain"]
        print(
            f"{line['group']:8}{line['cue']:11}{line['metric']:9}{line['without']['mean']:9.3f}"
            f"{line['with']['mean']:9.3f}   {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
            f"{gain['n']:7}"
        )


def run(given: argparse.Namespace, weight: float, split: str, uses: str) -> dict:
    """Lives and measures them, with strength weighted so and uses noted so."""
    weights, found, used = Weights(strength=weight), [], []
    for seed in range(given.lives):
        life = live(seed, given, weights, split, uses)
        with life.ledger:
            found.append(measure(life, weights, given))
            used.append(len(life.ledger.uses(SCOPE)) / len(life.facts))
    metrics = ["mrr", *(f"in_{budget}" for budget in given.budgets)]
    return {
        "weight": weight,
        "split": split,
        "uses": uses,
        "share_used": float(np.mean(used)),
        "table": summary(found, metrics),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lives", type=int, default=12)
    parser.add_argument("--facts", type=int, default=100, help="facts per life")
    parser.add_argument("--asked", type=int, default=2, help="questions after each told fact")
    parser.add_argument("--questions", type=int, default=30, help="questions per group at the end")
    parser.add_argument("--zipf", type=float, default=1.0, help="exponent of the law")
    parser.add_argument("--uses", choices=("own", "right"), nargs="+", default=["own", "right"])
    parser.add_argument("--budgets", type=int, nargs="+", default=[60, 200], help="tokens")
    parser.add_argument("--weight", type=float, default=Weights().strength)
    parser.add_argument("--sweep", type=float, nargs="+", help="weights to try on the split train instead")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    config = {name: value for name, value in vars(given).items() if name != "json"}
    runs = []
    for uses in given.uses:
        for weight in given.sweep or [given.weight]:
            runs.append(run(given, weight, "train" if given.sweep else "test", uses))
            done = runs[-1]
            print(
                f"\nuses: {uses}, weight {weight}, split {done['split']}, {done['share_used']:.0%} of memories used"
            )
            show(done["table"])
    if given.json is not None:
        write_json(given.json, {"config": config, "runs": runs, "environment": environment()})


if __name__ == "__main__":
    main()
