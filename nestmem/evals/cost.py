"""What a run will cost, said before it starts: each system plays the beginning of one stream."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nestmem.embedders import Embedder
from nestmem.evals import readers
from nestmem.evals.datasets.base import Dataset, Stream
from nestmem.evals.running import Chosen, Plan, finished_streams, play
from nestmem.evals.systems.base import Reader, Setup
from nestmem.evals.veil import Veil

SAMPLE_TURNS = 60
SAMPLE_QUESTIONS = 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one system over a whole data set, extrapolated from a sample. tokens_in: what a reader will be sent."""

    system: str
    minutes: float
    tokens_in: int


def estimate(
    plan: Plan, dataset: Dataset, *, reader: Reader, embedder: Embedder | None, folder: Path | None = None
) -> list[Cost]:
    """Plays the first turns of the first stream with its first questions in each system of `plan`, and extrapolates:
    telling, and what the first answer takes longer than the second (an index is built), by characters; answering by
    questions and by the length of a history. folder: of a run that goes on; the streams that are done cost nothing.
    A system that lives elsewhere is not tried, since it would remember: its minutes are nan."""
    sample = _sample(dataset.streams[0])
    costs = []
    for chosen in plan.systems:
        done = (
            finished_streams(folder, chosen, mend=False) if folder is not None and folder.is_dir() else set()
        )
        rest = [stream for stream in dataset.streams if stream.id not in done]
        if chosen.kind.remote:
            costs.append(Cost(system=chosen.spec, minutes=math.nan, tokens_in=0))
        else:
            costs.append(_cost(plan, rest, sample, chosen, reader, embedder))
    return costs


def record(costs: Sequence[Cost]) -> dict[str, Any]:
    """Plain values for run.json."""
    return {"minutes": total(costs), "systems": [asdict(cost) for cost in costs]}


def total(costs: Sequence[Cost]) -> float:
    """Minutes of all that are known."""
    return sum(cost.minutes for cost in costs if not math.isnan(cost.minutes))


def _sample(stream: Stream) -> Stream:
    """The first turns; the first question, asked twice after them, and others, all without evidence."""
    turns = stream.turns[:SAMPLE_TURNS]
    asked = [*stream.questions[:1], *stream.questions[: SAMPLE_QUESTIONS - 1]]
    questions = tuple(
        replace(question, id=f"{number}", after=len(turns), evidence=())
        for number, question in enumerate(asked)
    )
    return replace(stream, turns=turns, questions=questions, forgets=())


def _cost(
    plan: Plan,
    streams: Sequence[Stream],
    sample: Stream,
    chosen: Chosen,
    reader: Reader,
    embedder: Embedder | None,
) -> Cost:
    if not streams:
        return Cost(system=chosen.spec, minutes=0.0, tokens_in=0)
    veil = Veil(stream=sample, number=0)
    with tempfile.TemporaryDirectory(prefix="nestmem-cost-") as own:
        setup = Setup(
            folder=Path(own),
            key=veil.key() if chosen.kind.reads_key else None,
            donor=Veil(stream=sample, number=1).told(),
            reader=readers.scripted(plan.reader, sample) or reader,
            embedder=embedder,
            budget_tokens=plan.budget_tokens,
            window_tokens=plan.window_tokens,
            depth=plan.depth,
            seed=plan.seed,
        )
        started = time.perf_counter()
        lines, timing = play(plan.task.name, chosen, veil, setup)
        opening = time.perf_counter() - started - timing.observe_s - timing.settle_s - sum(timing.answer_s)
    characters, told = sum(stream.characters for stream in streams), max(1, sample.characters)
    questions = sum(len(stream.questions) for stream in streams)
    grown = max(1.0, min(characters / len(streams), 4 * plan.window_tokens) / told)
    answer, once, tokens = 0.0, 0.0, 0.0
    if lines:
        again = timing.answer_s[1:] or timing.answer_s
        answer = sum(again) / len(again)
        once = max(0.0, timing.answer_s[0] - answer)
        whole = max(len(line.reply.context) for line in lines) >= 0.9 * told
        shown = sum(line.reply.reading.tokens_in for line in lines) / len(lines)
        tokens = shown * questions * (grown if whole else 1.0)
    telling = (timing.observe_s + timing.settle_s + once) * characters / told
    seconds = telling + answer * questions * grown + opening * len(streams)
    return Cost(system=chosen.spec, minutes=seconds / 60, tokens_in=round(tokens))
