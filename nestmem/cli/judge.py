"""`nestmem eval list|systems|fetch|run|score|compare|report`: agent memories, judged by what they answer."""

from __future__ import annotations

import math
import os
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from nestmem.cli import show
from nestmem.cli.options import quiet_libraries
from nestmem.errors import InputError

if TYPE_CHECKING:
    from nestmem.embedders import Embedder
    from nestmem.evals.cost import Cost
    from nestmem.evals.datasets.base import Dataset, Task
    from nestmem.evals.running import Plan
    from nestmem.evals.systems.base import Reader

Data = Annotated[
    Path | None,
    typer.Option("--data", envvar="NESTMEM_DATA", help="The folder that holds one folder for each data set."),
]
Runs = Annotated[list[Path], typer.Argument(help="Folders of runs.")]


def commands(app: typer.Typer) -> None:
    """Gives the judge's commands to `nestmem eval`."""
    for name, function in (
        ("list", list_tasks),
        ("systems", list_systems),
        ("fetch", fetch),
        ("run", run),
        ("score", score),
        ("compare", compare),
        ("report", report),
    ):
        app.command(name)(function)


def list_tasks(
    name: Annotated[str | None, typer.Argument(help="All about one task.")] = None, data: Data = None
) -> None:
    """The tasks, with the licence of their data and whether it is here; or all about one of them."""
    from nestmem.evals.datasets.catalogue import TASKS

    if data is not None and not data.is_dir():
        raise InputError(f"--data {data} is no folder; expected one that holds a folder for each data set")
    if name is not None:
        _describe(_task(name))
        return
    for task in TASKS.values():
        licence = re.split(r"[;(]", task.licence.name)[0].strip()
        print(f"{task.name:21} {_here(task, data):10} {licence:23} {task.title}")


def _here(task: Task, data: Path | None) -> str:
    if task.folder is None:
        return "generated"
    return "?" if data is None else "here" if (data / task.folder).is_dir() else "not here"


def _describe(task: Task) -> None:
    import inspect

    lines = {
        "task": f"{task.name}, version {task.version}: {task.title}",
        "paper": task.paper,
        "data": f"{task.source}; licence {task.licence.name}, may be passed on: {task.licence.redistribution}",
        "folder": task.folder or "none: it is generated",
        "budget": f"{task.budget_tokens} tokens of recalled text",
        "options": ", ".join(f"{key}={value}" for key, value in task.options.items()) or "none",
        "scores": ", ".join(task.scorers),
        "headline": f"{task.scorers[0]} with a reader, {task.without_reader} without",
    }
    for key, value in lines.items():
        show.line(f"{key:9} {value}")
    for error in task.known_errors:
        show.line(f"known     {error}")
    show.line(inspect.getdoc(task.load.func if isinstance(task.load, partial) else task.load) or "", "dim")


def list_systems() -> None:
    """What can be judged, with the options that a name takes, as in bm25:unit=session."""
    from nestmem.evals.systems.catalogue import KINDS

    table = Table(box=None, pad_edge=False)
    for column in ("system", "what it is", "options", "needs"):
        table.add_column(column, no_wrap=column == "system")
    for kind in KINDS.values():
        options = " ".join(f"{key}={value}" for key, value in kind.options.items())
        table.add_row(kind.name, kind.about, options, kind.needs or "")
    show.out.print(table)


def fetch(
    name: Annotated[str, typer.Argument(help="A task, as `nestmem eval list` names it.")],
    data: Annotated[Path, typer.Option("--data", envvar="NESTMEM_DATA", help="Where data sets go.")],
) -> None:
    """Download a task's public data, with its licence beside it."""
    from nestmem.evals.datasets import fetch as fetching

    task = _task(name)
    show.line(f"{task.title}: {task.licence.name}, from {task.source}")
    for path in fetching.fetch(task, data, progress=lambda what: show.line(what, "dim")):
        show.line(f"wrote {path}")


def run(
    names: Annotated[list[str], typer.Argument(help="Tasks, or 'all'.")],
    data: Data = None,
    system: Annotated[
        list[str] | None,
        typer.Option("--system", help="What is judged, as bm25:unit=session; may be given again."),
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option("--llm", envvar="NESTMEM_LLM", help="An OpenAI-compatible URL that reads: URL#model."),
    ] = None,
    reader: Annotated[
        str,
        typer.Option("--reader", help="'none', 'mini', a Hugging Face name or folder, or a scripted one."),
    ] = "none",
    embedder: Annotated[
        str, typer.Option("--embedder", envvar="NESTMEM_EMBEDDER", help="As in the other commands.")
    ] = "auto",
    cache: Annotated[
        Path | None, typer.Option("--cache", help="A file that keeps vectors from run to run.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option("--budget", min=1, help="Tokens of recalled text; by default the task's.")
    ] = None,
    window: Annotated[int, typer.Option("--window", min=1, help="Tokens of a whole context.")] = 128_000,
    depth: Annotated[int, typer.Option("--depth", min=1, help="How many turns are ranked.")] = 50,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Of the task, as limit=20; may be given again.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Each task is a folder in this one.")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and stop.")] = False,
) -> None:
    """Run systems over tasks; says the cost first, shows the progress, and goes on where it stopped."""
    from nestmem.evals import cost as costing
    from nestmem.evals.datasets.catalogue import TASKS

    quiet_libraries()
    if any(spec.startswith("import:") for spec in system or ()):
        sys.path.append(str(Path.cwd()))
    everything = names == ["all"]
    tasks = list(TASKS.values()) if everything else [_task(name) for name in names]
    if llm is not None and reader != "none":
        raise InputError(f"both --llm {llm} and --reader {reader} were given; one of them reads")
    options = _pairs(option or ())
    strange = [key for key in options if not any(key in task.options for task in tasks)]
    if strange:
        known = sorted({key for task in tasks for key in task.options})
        raise InputError(
            f"no task of these has an option {', '.join(strange)}; they have: {', '.join(known) or 'none'}"
        )
    with _Opened(llm or reader, embedder, cache) as opened:
        prepared, not_run = [], {}
        for task in tasks:
            chosen = {key: value for key, value in options.items() if key in task.options}
            plan = opened.plan(task, chosen, system, seed=seed)
            if everything and task.folder and not (data and (data / task.folder).is_dir()):
                hint = f"nestmem eval fetch {task.name}" if task.fetch else f"nestmem eval list {task.name}"
                not_run[task.name] = f"its data is not here ({hint})"
                continue
            prepared.append(opened.prepare(plan, data, (budget, window, depth), out / task.name))
            _show_cost(*prepared[-1])
        minutes = sum(costing.total(costs) for _, _, costs in prepared)
        show.line(f"about {minutes:.1f} minutes in all, on this machine as it is now")
        for name, why in not_run.items():
            show.line(f"{name} is not run: {why}", "yellow")
        if dry_run:
            return
        try:
            for plan, dataset, costs in prepared:
                _run_one(opened, plan, dataset, costs, out)
        except KeyboardInterrupt:
            show.line("interrupted; what is finished stays, and the same command goes on", "yellow")
            raise
        for name, why in not_run.items():
            show.line(f"{name} was not run: {why}", "yellow")


class _Opened:
    """The reader and the embedder of a command, opened once."""

    def __init__(self, reader: str, embedder: str, cache: Path | None) -> None:
        from nestmem import embedders
        from nestmem.evals import readers
        from nestmem.evals.vectors import CachedEmbedder

        key = os.environ.get("OPENAI_API_KEY")
        self.spec = reader
        self.key = key
        self.reader: Reader = readers.load(reader, api_key=key)
        self.embedder: Embedder | None = embedders.load(embedder, api_key=key)
        self._cached = None
        if self.embedder is not None and cache is not None:
            self.embedder = self._cached = CachedEmbedder(self.embedder, cache)

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        if self._cached is not None:
            self._cached.close()

    def plan(self, task: Task, options: dict[str, str], systems: Sequence[str] | None, *, seed: int) -> Plan:
        """The run of one task, before its sizes are known."""
        from nestmem.evals.datasets.base import check_options
        from nestmem.evals.running import Plan, choose
        from nestmem.evals.systems.catalogue import DEFAULT, KINDS

        if "seed" in task.options:
            options = {"seed": str(seed), **options}
        named = systems or [name for name in DEFAULT if self.embedder or KINDS[name].needs != "embedder"]
        return Plan(
            task=task,
            options=check_options(task, options),
            systems=tuple(choose(spec, KINDS) for spec in named),
            reader=self.spec,
            seed=seed,
        )

    def prepare(
        self, plan: Plan, data: Path | None, sizes: tuple[int | None, int, int], folder: Path
    ) -> tuple[Plan, Dataset, list[Cost]]:
        """The plan with its sizes, the data, and what is left of it in `folder` will cost."""
        from dataclasses import replace

        from nestmem.evals import cost
        from nestmem.evals.datasets.base import load

        budget, window, depth = sizes
        budget = plan.task.budget_tokens if budget is None else budget
        plan = replace(plan, budget_tokens=budget, window_tokens=window, depth=depth)
        with show.err.status(f"{plan.task.name}: reading, and trying each system on a few turns ..."):
            dataset = load(plan.task, data, plan.options)
            costs = cost.estimate(plan, dataset, reader=self.reader, embedder=self.embedder, folder=folder)
        return plan, dataset, costs


def _show_cost(plan: Plan, dataset: Dataset, costs: list[Cost]) -> None:
    from nestmem.evals import cost as costing

    size = f"{len(dataset.streams)} streams, {dataset.questions} questions"
    each = ", ".join(
        f"{cost.system} {'unknown' if math.isnan(cost.minutes) else f'{cost.minutes:.1f}'}" for cost in costs
    )
    print(f"{plan.task.name}: {size}; about {costing.total(costs):.1f} minutes ({each})")
    for note in dataset.notes:
        show.line(f"  {note}", "dim")
    if plan.reader != "none":
        show.line(f"  about {sum(cost.tokens_in for cost in costs):,} tokens to read", "dim")


def _run_one(opened: _Opened, plan: Plan, dataset: Dataset, costs: list[Cost], out: Path) -> None:
    from nestmem.cli.evaluate import bar
    from nestmem.evals import cost, running, scoring

    folder = out / plan.task.name
    with bar() as progress:
        running.run(
            plan,
            dataset,
            folder,
            reader=opened.reader,
            embedder=opened.embedder,
            cost=cost.record(costs),
            started=datetime.now(UTC),
            api_key=opened.key,
            attempt=f"-{secrets.token_hex(4)}",
            progress=progress,
        )
    _print(scoring.write(folder), scoring.render, json=False)
    show.line(f"the log is in {folder}; a page of it: nestmem eval report {folder}", "dim")


def score(
    folders: Runs,
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="An OpenAI-compatible URL that judges answers: URL#model."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
) -> None:
    """Score runs again from their logs; with --judge also by a language model, whose errors are measured."""
    from nestmem.agent.llm import endpoint
    from nestmem.evals import judging, scoring

    for folder in folders:
        _check_run(folder)
        if judge is not None:
            from nestmem.cli.evaluate import bar

            with bar() as progress:
                llm = endpoint(judge, api_key=os.environ.get("OPENAI_API_KEY"))
                judging.judge_run(folder, llm, progress=progress)
        record = scoring.write(folder)
        _print(record, scoring.render, json)


def compare(
    a: Annotated[str, typer.Argument(help="A run's folder, and after a '#' the system: runs/locomo#bm25.")],
    b: Annotated[str, typer.Argument(help="The same for the other.")],
    json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Two systems on the questions both were asked: paired differences with their intervals."""
    from nestmem.evals import scoring

    sides = [_side(given) for given in (a, b)]
    record = scoring.compare(*sides[0], *sides[1])
    _print(record, scoring.render_compare, json)


def _side(given: str) -> tuple[Path, str | None]:
    folder, _, system = given.partition("#")
    _check_run(Path(folder))
    return Path(folder), system or None


def report(
    folders: Runs,
    text: Annotated[
        bool | None,
        typer.Option(
            "--text/--no-text", help="Quote the data; by default where its licence lets it be passed on."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the overview of several runs goes.")
    ] = None,
) -> None:
    """One page and plots for each run, and an overview of several, from the logs alone."""
    from nestmem import report as reporting
    from nestmem.evals import scoring

    for folder in folders:
        _check_run(folder)
        scoring.write(folder)
        for path in reporting.write(folder, text=text):
            show.line(f"wrote {path}")
    if len(folders) > 1:
        path = out or folders[0].parent / "index.html"
        reporting.overview(folders, path)
        show.line(f"wrote {path}")


def _check_run(folder: Path) -> None:
    if not (folder / "run.json").is_file():
        raise InputError(
            f"{folder} holds no run (no run.json); make one with: nestmem eval run TASK --out ..."
        )


def _task(name: str) -> Task:
    from nestmem.evals.datasets.catalogue import TASKS

    if name not in TASKS:
        raise InputError(f"there is no task {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise InputError(f"--option {item!r} is not read; expected name=value, as limit=20")
        pairs[key] = value
    return pairs


def _print(record: dict[str, Any], render: Callable[[dict[str, Any]], str], json: bool) -> None:
    if json:
        show.as_json(record)
    else:
        # As wide as it is: a table that is wrapped cannot be read.
        print(render(record))
