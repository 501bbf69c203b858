"""`nestmem eval`: runs an evaluation, shows its table, writes its record and log."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nestmem.cli import show
from nestmem.cli.options import Where
from nestmem.errors import InputError

if TYPE_CHECKING:
    from nestmem.agent.types import Arm
    from nestmem.evals.personas import Life


def personas(
    where: Where,
    *,
    data: Path | None,
    made: dict[str, int],
    arms: Sequence[Arm],
    budget: int | None,
    json_path: Path | None,
    log_path: Path | None,
) -> None:
    """Runs `nestmem.evals.personas` in a database of its own, which is gone afterwards."""
    from nestmem.evals import personas as task
    from nestmem.evals.record import environment, write_json

    for path in (json_path, log_path):
        check_folder(path)
    lives = task.read_lives(data) if data else _generated(made)
    if where.model == "none" and set(arms) & {"weights", "both"}:
        raise InputError("--model none has no weights; ask for the arms it has: --arm none,text")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="nestmem-eval-") as folder, bar() as progress:
        log = log_path.open("w", encoding="utf-8") if log_path else nullcontext()
        with replace(where, db=Path(folder) / "memory.db").open(create=True) as memory, log as log_file:
            fingerprint = memory.learner.fingerprint if memory.learner else None
            numbers = task.evaluate(
                memory, lives, arms=arms, budget_tokens=budget, on_progress=progress, log=log_file
            )
    config = {
        "data": data.name if data else {"generator": "test", **made},
        "model": where.model,
        "learner": fingerprint,
        "rule": where.rule,
        "embedder": where.embedder,
        "llm": where.llm,
        "arms": list(arms),
        "budget_tokens": budget,
        "seed": None if data else made["seed"],
    }
    record = {
        "task": task.VERSION,
        "config": config,
        "environment": environment(),
        "lives": len(lives),
        "sessions": sum(len(life.sessions) for life in lives),
        "questions": sum(len(life.questions) for life in lives),
        "seconds": time.perf_counter() - began,
        **numbers,
    }
    if json_path:
        write_json(json_path, record)
    show_personas(record)


def _generated(made: dict[str, int]) -> list[Life]:
    """Lives of held-out personas, phrasings and values. Each life has a generator seeded by its number."""
    from nestmem.evals.personas import life_from
    from nestmem.personas import PersonaGenerator

    generator = PersonaGenerator("test")
    lives = []
    for number in range(made["lives"]):
        life = generator.life(
            f"life-{number}",
            random.Random(f"{made['seed']}/{number}"),
            sessions=made["sessions"],
            facts_per_session=made["facts"],
        )
        lives.append(life_from(json.loads(life.to_json()), life.id))
    return lives


def show_personas(record: dict[str, Any]) -> None:
    """A table of arms, then of kinds and ages."""
    arms = record["arms"]
    counts = ", ".join(f"{record[what]} {what}" for what in ("lives", "sessions", "questions"))
    table = Table(title=counts)
    for column in ("arm", "n", "contained", "95 %", "exact", "95 %", "tokens", "ms p50"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for name, arm in arms.items():
        table.add_row(
            name,
            str(arm["n"]),
            percent(arm["accuracy"]),
            interval(arm["accuracy_interval"]),
            percent(arm["exact"]),
            interval(arm["exact_interval"]),
            f"{arm['tokens']['mean']:.0f}",
            f"{arm['ms']['p50']:.0f}",
        )
    show.out.print(table)
    for field, title in (("by_kind", "by kind"), ("by_age", "by age in sessions")):
        show.out.print(_groups(arms, field, title))
    if record["chance"] is not None:
        show.line(f"chance (the answer to this question in another life): {percent(record['chance'])}", "dim")
    learn = record["learn_ms"]
    batch = f"learning a session of {learn['users_in_a_batch']} lives in one batch"
    show.line(f"{batch}: p50 {learn['p50']:.0f} ms, p95 {learn['p95']:.0f} ms", "dim")
    if learn["failed_events"]:
        show.line(f"{learn['failed_events']} events could not be learned; see nestmem doctor", "yellow")
    show.line(f"{record['seconds']:.1f} s in all", "dim")


def _groups(arms: dict[str, Any], field: str, title: str) -> Table:
    table = Table(title=title)
    table.add_column(title.split()[1])
    table.add_column("n", justify="right")
    for name in arms:
        table.add_column(name, justify="right")
    first = next(iter(arms.values()))[field]
    for group, counted in first.items():
        cells = [percent(arm[field][group]["accuracy"]) for arm in arms.values()]
        table.add_row(group, str(counted["n"]), *cells)
    return table


def percent(share: float) -> str:
    """0.5 as "50.0"."""
    return f"{100 * share:.1f}"


def interval(bounds: Sequence[float]) -> str:
    """(0.4, 0.6) as "40-60"."""
    return f"{100 * bounds[0]:.0f}-{100 * bounds[1]:.0f}"


@contextmanager
def bar() -> Iterator[Any]:
    """A progress bar on stderr, as the function (done, total, what) that evaluations call."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=show.err, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda done, total, what: progress.update(task, completed=done, total=total, description=what)


def check_folder(path: Path | None) -> None:
    """Fails before the work rather than after it."""
    if path is not None and not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; create it first")
