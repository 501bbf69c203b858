"""How fast are a durable write and a recall? Prints a line per measurement; --json writes the record.

    python benchmarks/ledger.py [--events 10000] [--json FILE]

Write: `Ledger.append` of one message with its index entries, on disk (WAL, synchronous=FULL) when it
returns. Recall: `nestmem.agent.recall.recall` of 2,000 tokens over one user's events, of which every
tenth also has a memory record; lexical, and with the offline embedder when it is installed (the
vectors of the history are random there: the time does not depend on them). Wall-clock milliseconds;
the process time is beside it, because a busy machine doubles the former.
"""

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from nestmem import embedders
from nestmem.agent.recall import recall
from nestmem.evals.record import environment, write_json
from nestmem.evals.stats import percentile
from nestmem.store import Ledger, MemoryRecord, NewEvent, Scope

START = datetime(2026, 1, 1, tzinfo=UTC)
VOCABULARY = 20_000
WORDS = 20
SESSION = 50
SCOPE = Scope(user="bench")


class Talk:
    """Messages of words drawn by Zipf's law, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._words = [f"word{number}" for number in range(VOCABULARY)]
        self._weights = [1 / (number + 1) for number in range(VOCABULARY)]

    def message(self) -> str:
        return " ".join(self._random.choices(self._words, self._weights, k=WORDS))

    def question(self) -> str:
        return "What did I say about " + " ".join(self._random.choices(self._words, self._weights, k=5))


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """(wall, process) milliseconds of one call."""
    wall, process = time.perf_counter(), time.process_time()
    run()
    return (time.perf_counter() - wall) * 1000, (time.process_time() - process) * 1000


def summary(times: list[tuple[float, float]]) -> dict[str, float]:
    """Percentiles of the wall time and the median of the process time."""
    wall = [pair[0] for pair in times]
    return {
        "p50_ms": percentile(wall, 50),
        "p95_ms": percentile(wall, 95),
        "process_p50_ms": percentile([pair[1] for pair in times], 50),
        "n": len(times),
    }


def measure_writes(path: Path, count: int) -> dict[str, float]:
    """One message per transaction on a new file."""
    talk, times = Talk(1), []
    with Ledger(path) as ledger:
        for number in range(count):
            event = NewEvent(role="user", content=talk.message(), session=f"s{number // SESSION}")
            times.append(timed(lambda event=event: ledger.append(SCOPE, [event])))
    return summary(times)


def fill(ledger: Ledger, events: int) -> None:
    """One user's history: a day per session, and a memory for every tenth event."""
    talk = Talk(2)
    for session in range(-(-events // SESSION)):
        at = START + timedelta(days=session)
        new = [NewEvent(role="user", content=talk.message(), occurred_at=at) for _ in range(SESSION)]
        stored = ledger.append(
            Scope(user=SCOPE.user, session=f"s{session}"), new[: events - session * SESSION]
        )
        records = [
            MemoryRecord(
                id=ledger.new_id("me"),
                scope=SCOPE,
                key=f"key{event.seq}",
                text=event.content,
                question=talk.question(),
                answer="yes",
                kind="fact",
                event_id=event.id,
                span=(0, len(event.content)),
                valid_from=event.when,
                believed_from=event.recorded_at,
                extractor="benchmark",
            )
            for event in stored[::10]
        ]
        ledger.add_memories(SCOPE, records)


def measure_recall(ledger: Ledger, embedder: embedders.Embedder | None, count: int) -> dict[str, float]:
    """Different questions, after a few that fill the caches."""
    talk = Talk(3)
    for _ in range(5):
        recall(ledger, embedder, SCOPE, talk.question())
    questions = [talk.question() for _ in range(count)]
    return summary([timed(lambda q=q: recall(ledger, embedder, SCOPE, q)) for q in questions])


def fill_vectors(ledger: Ledger, embedder: embedders.Embedder) -> None:
    """Random unit vectors for every passage."""
    owners = [owner for owner, _ in ledger.missing_vectors(SCOPE, embedder.name, embedder.dim)]
    rows = np.random.default_rng(4).standard_normal((len(owners), embedder.dim), dtype=np.float32)
    ledger.add_vectors(SCOPE, owners, embedder.name, rows / np.linalg.norm(rows, axis=1, keepdims=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--writes", type=int, default=1_000)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--embedder", default="auto")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    record: dict[str, object] = {"config": {k: str(v) for k, v in vars(given).items() if k != "json"}}
    with tempfile.TemporaryDirectory(prefix="nestmem-bench-") as folder:
        record["durable_write"] = measure_writes(Path(folder) / "writes.db", given.writes)
        print("durable write ", json.dumps(record["durable_write"]), flush=True)
        with Ledger(Path(folder) / "recall.db") as ledger:
            fill(ledger, given.events)
            record["recall_lexical"] = measure_recall(ledger, None, given.questions)
            print("recall lexical", json.dumps(record["recall_lexical"]), flush=True)
            embedder = embedders.load(given.embedder)
            if embedder is not None:
                fill_vectors(ledger, embedder)
                record["recall_with_embeddings"] = measure_recall(ledger, embedder, given.questions)
                print("recall with embeddings", json.dumps(record["recall_with_embeddings"]), flush=True)
            ledger.scrub()
            record["bytes"] = ledger.bytes_on_disk()
    record["environment"] = environment()
    print(f"{record['bytes']:,} bytes; Python {platform.python_version()}", file=sys.stderr)
    if given.json is not None:
        write_json(given.json, record)


if __name__ == "__main__":
    main()
