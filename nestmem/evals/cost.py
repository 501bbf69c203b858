"""What a run will cost, said before it starts: each system plays the beginning of one stream."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nestmem.embedders import Embedder
from nestmem.evals import readers
from nestmem.evals.datasets.base import Dataset, Stream
from nestmem.evals.running import Chosen, Plan, play
from nestmem.evals.systems.base import Reader, Setup

SAMPLE_TURNS = 60
SAMPLE_QUESTIONS = 2


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one system over a whole data set, extrapolated from a sample. tokens_in: what a reader will be sent."""

    system: str
    minutes: float
    tokens_in: int


def estimate(plan: Plan, dataset: Dataset, *, reader: Reader, embedder: Embedder | None) -> list[Cost]:
    """Plays the first turns of the first stream with its first questions in each system of `plan`, and extrapolates:
    telling by characters, answering by questions, and by the length of the history up to what a context holds."""
    sample = _sample(dataset.streams[0])
    return [_cost(plan, dataset, sample, chosen, reader, embedder) for chosen in plan.systems]


def record(costs: Sequence[Cost]) -> dict[str, Any]:
    """Plain values for run.json."""
    return {"minutes": sum(cost.minutes for cost in costs), "systems": [asdict(cost) for cost in costs]}


def _sample(stream: Stream) -> Stream:
    """The first turns; the first questions, asked after them and without evidence."""
    turns = stream.turns[:SAMPLE_TURNS]
    questions = tuple(
        replace(question, after=len(turns), evidence=()) for question in stream.questions[:SAMPLE_QUESTIONS]
    )
    return replace(stream, turns=turns, questions=questions, forgets=())


def _cost(
    plan: Plan, dataset: Dataset, sample: Stream, chosen: Chosen, reader: Reader, embedder: Embedder | None
) -> Cost:
    with tempfile.TemporaryDirectory(prefix="nestmem-cost-") as own:
        setup = Setup(
            folder=Path(own),
            stream=sample,
            donor=replace(sample, id=f"{sample.id}/donor"),
            reader=readers.scripted(plan.reader, sample) or reader,
            embedder=embedder,
            budget_tokens=plan.budget_tokens,
            window_tokens=plan.window_tokens,
            depth=plan.depth,
            seed=plan.seed,
        )
        started = time.perf_counter()
        lines, timing = play(plan.task.name, chosen, sample, setup)
        opening = time.perf_counter() - started - timing.observe_s - timing.settle_s - sum(timing.answer_s)
    characters = sum(stream.characters for stream in dataset.streams)
    told = max(1, sample.characters)
    telling = (timing.observe_s + timing.settle_s) * characters / told
    answering = tokens = 0.0
    if lines:
        grown = min(characters / len(dataset.streams), 4 * plan.window_tokens) / told
        answering = sum(timing.answer_s) / len(lines) * dataset.questions * max(1.0, grown)
        shown = sum(line.reply.reading.tokens_in for line in lines) / len(lines)
        holds = max(len(line.reply.context) for line in lines) >= 0.9 * told
        tokens = shown * dataset.questions * (max(1.0, grown) if holds else 1.0)
    seconds = telling + answering + opening * len(dataset.streams)
    return Cost(system=chosen.spec, minutes=seconds / 60, tokens_in=round(tokens))
