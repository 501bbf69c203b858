"""Runs systems over the streams of a task and writes the log. Nothing is scored here (see `scoring`).

A run is a folder (`nestmem.evals.log` says what is in it). Each stream of each system is a unit: it is told from
its first turn, its questions are asked at their places from one state, and its lines are appended when it is over.
An interrupted run goes on with the first unit that is not there; what a broken unit left is cut off.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from nestmem.embedders import Embedder
from nestmem.errors import InputError
from nestmem.evals import audit, energy, log, readers
from nestmem.evals.datasets.base import Dataset, Forget, Question, Stream, Task
from nestmem.evals.folder import file_name
from nestmem.evals.log import Line, Timing
from nestmem.evals.record import environment, plain, write_json
from nestmem.evals.systems.base import Kind, NotSupported, Reader, Setup, System

Progress = Callable[[int, int, str], None]
QUESTION_UNITS = 20
"""What a question counts in the progress, where a turn counts 1."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A system as it was asked for: `spec` is "NAME" or "NAME:option=value,option=value"."""

    spec: str
    kind: Kind
    options: Mapping[str, int | str]

    @property
    def file(self) -> str:
        """What the names of its files begin with."""
        return file_name(self.spec)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole run. budget_tokens: of recalled text for each question (a token is 4 characters); window_tokens: of a
    whole context; depth: how many turns a ranking holds."""

    task: Task
    options: Mapping[str, int | str]
    systems: tuple[Chosen, ...]
    reader: str = "none"
    embedder: str = "auto"
    budget_tokens: int = 2000
    window_tokens: int = 128_000
    depth: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("budget_tokens", "window_tokens", "depth"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        files = [chosen.file for chosen in self.systems]
        if not files or len(set(files)) != len(files):
            raise InputError(
                f"systems are {[c.spec for c in self.systems]}; expected at least one, each once"
            )


def choose(spec: str, kinds: Mapping[str, Kind]) -> Chosen:
    """Reads "bm25:unit=session". InputError on an unknown system or option, or a value of another type.

    >>> from nestmem.evals.systems.catalogue import KINDS
    >>> choose("bm25:unit=session", KINDS).options
    {'unit': 'session'}
    """
    name, _, rest = spec.partition(":")
    if name not in kinds:
        raise InputError(f"there is no system {name!r}; expected one of {', '.join(sorted(kinds))}")
    kind, options = kinds[name], {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in kind.options:
            known = ", ".join(f"{key}={value}" for key, value in kind.options.items()) or "none"
            raise InputError(f"system {spec!r}: cannot read {part!r}; its options are: {known}")
        wanted = type(kind.options[key])
        try:
            options[key] = wanted(value)
        except ValueError as error:
            raise InputError(f"system {spec!r}: {key}={value!r}, expected {wanted.__name__}") from error
    return Chosen(spec=spec, kind=kind, options=options)


def run(
    plan: Plan,
    dataset: Dataset,
    folder: Path,
    *,
    reader: Reader,
    embedder: Embedder | None,
    cost: Mapping[str, Any] | None = None,
    started: datetime | None = None,
    progress: Progress | None = None,
) -> Path:
    """Runs what is not yet there of `plan` in `folder` and returns it. InputError when the folder holds another run.

    started: the moment that run.json names (of a run that goes on, its first beginning stays).

    reader: what `plan.reader` names ("perfect" and other scripted ones are made anew for each stream).
    """
    described = describe(plan, dataset, reader, embedder)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("log", "times"):
        (folder / part).mkdir(exist_ok=True)
    described["systems"] = _with_those_there(folder, described)
    described["started"] = _started(folder, started)
    write_json(folder / "run.json", {**described, "cost": cost or {}, "finished": False})
    total = len(plan.systems) * sum(_units(stream) for stream in dataset.streams)
    done = 0
    for chosen in plan.systems:
        known = _finished_streams(folder, chosen)
        for number, stream in enumerate(dataset.streams):
            if stream.id not in known:
                donor = dataset.streams[(number + 1) % len(dataset.streams)]
                with tempfile.TemporaryDirectory(prefix="nestmem-judge-") as own:
                    setup = Setup(
                        folder=Path(own),
                        stream=stream,
                        donor=donor if donor is not stream else None,
                        reader=readers.scripted(plan.reader, stream) or reader,
                        embedder=embedder,
                        budget_tokens=plan.budget_tokens,
                        window_tokens=plan.window_tokens,
                        depth=plan.depth,
                        seed=plan.seed,
                    )
                    before = done
                    report = (
                        None
                        if progress is None
                        else lambda units, b=before, s=chosen.spec: progress(b + units, total, s)
                    )
                    lines, timing = play(plan.task.name, chosen, stream, setup, report)
                _append(folder, chosen, lines, timing)
            done += _units(stream)
            if progress is not None:
                progress(done, total, chosen.spec)
    write_json(folder / "run.json", {**described, "cost": cost or {}, "finished": True})
    return folder


def describe(plan: Plan, dataset: Dataset, reader: Reader, embedder: Embedder | None) -> dict[str, Any]:
    """What run.json says of a run before it starts."""
    task = plan.task
    return {
        "version": log.VERSION,
        "task": {
            "name": task.name,
            "version": task.version,
            "title": task.title,
            "paper": task.paper,
            "options": dict(plan.options),
            "digest": dataset.digest(),
            "source": dataset.source,
            "streams": len(dataset.streams),
            "turns": sum(len(stream.turns) for stream in dataset.streams),
            "characters": sum(stream.characters for stream in dataset.streams),
            "questions": dataset.questions,
            "left_out": dict(dataset.left_out),
            "notes": list(dataset.notes),
            "licence": asdict(task.licence),
            "known_errors": list(task.known_errors),
            "scorers": list(task.scorers),
            "without_reader": task.without_reader,
        },
        "systems": [
            {"spec": c.spec, "name": c.kind.name, "options": {**c.kind.options, **c.options}}
            for c in plan.systems
        ],
        "reader": {
            "spec": plan.reader,
            "name": (readers.scripted(plan.reader, dataset.streams[0]) or reader).name,
        },
        "embedder": None if embedder is None else f"{embedder.name}/{embedder.dim}",
        "budget_tokens": plan.budget_tokens,
        "window_tokens": plan.window_tokens,
        "depth": plan.depth,
        "seed": plan.seed,
        "audit": [asdict(finding) for finding in audit.audit(dataset)],
        "environment": environment(),
    }


def play(
    task: str, chosen: Chosen, stream: Stream, setup: Setup, report: Callable[[int], None] | None = None
) -> tuple[list[Line], Timing]:
    """One system through one stream: its lines in the order asked, and what it cost."""
    system = chosen.kind.make(setup, **{**chosen.kind.options, **chosen.options})
    power = energy.read()
    try:
        told = _Telling(task=task, spec=chosen.spec, system=system, stream=stream, report=report)
        told.play()
        kept = system.bytes(stream.id)
    finally:
        system.close()
    return told.lines, Timing(
        system=chosen.spec,
        stream=stream.id,
        turns=len(stream.turns),
        characters=stream.characters,
        observe_s=told.observe_s,
        settle_s=told.settle_s,
        answer_s=tuple(told.answer_s),
        bytes=kept,
        joules=energy.joules(power, energy.read()),
        unsupported=tuple(told.unsupported),
    )


@dataclass(kw_only=True)
class _Telling:
    """A stream on its way through a system, with the seconds spent."""

    task: str
    spec: str
    system: System
    stream: Stream
    report: Callable[[int], None] | None
    lines: list[Line] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    observe_s: float = 0.0
    settle_s: float = 0.0
    places: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.places = {turn.id: place for place, turn in enumerate(self.stream.turns)}

    def play(self) -> None:
        """All turns, and before each what stands there: the end of a session, requests to forget, questions."""
        turns, scope = self.stream.turns, self.stream.id
        questions = _by_place(self.stream.questions)
        forgets = _by_place(self.stream.forgets)
        for place in range(len(turns) + 1):
            over = place > 0 and (place == len(turns) or turns[place].session != turns[place - 1].session)
            if over or (place > 0 and (place in questions or place in forgets)):
                self.settle_s += _seconds(lambda: self.system.settle(scope))
            for forget in forgets.get(place, ()):
                self._forget(forget)
            for question in questions.get(place, ()):
                self._ask(question)
                self._tell_progress(place)
            if place < len(turns) and turns[place].text.strip():
                turn = turns[place]
                self.observe_s += _seconds(lambda t=turn: self.system.observe(t, t.at, scope))
            if place % 100 == 0:
                self._tell_progress(place)

    def _ask(self, question: Question) -> None:
        started = time.perf_counter()
        reply = self.system.answer(question.text, question.at, self.stream.id)
        self.answer_s.append(time.perf_counter() - started)
        probe = None
        if question.candidates:
            probe = self.system.probe(question.text, question.candidates, self.stream.id)
        self.lines.append(
            Line(
                task=self.task,
                system=self.spec,
                stream=self.stream.id,
                question=question,
                reply=reply,
                ages=tuple(question.after - self.places[id_] for id_ in question.evidence),
                sessions=tuple(self.stream.turns[self.places[id_]].session for id_ in question.evidence),
                probe=None if probe is None else tuple(probe),
            )
        )

    def _forget(self, forget: Forget) -> None:
        started = time.perf_counter()
        try:
            self.system.forget(forget.turns, self.stream.id)
        except NotSupported as error:
            self.unsupported.append(str(error))
        self.settle_s += time.perf_counter() - started

    def _tell_progress(self, place: int) -> None:
        if self.report is not None:
            self.report(place + QUESTION_UNITS * len(self.lines))


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _by_place(items: Sequence[Any]) -> dict[int, list[Any]]:
    places: dict[int, list[Any]] = {}
    for item in items:
        places.setdefault(item.after, []).append(item)
    return places


def _units(stream: Stream) -> int:
    """Of progress: a turn is one, a question QUESTION_UNITS."""
    return len(stream.turns) + QUESTION_UNITS * len(stream.questions)


def _append(folder: Path, chosen: Chosen, lines: list[Line], timing: Timing) -> None:
    """Lines first, then their timing, which makes the unit count as done and says where its lines end."""
    path = folder / "log" / f"{chosen.file}.jsonl.gz"
    log.append_lines(path, lines)
    with (folder / "times" / f"{chosen.file}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**asdict(timing), "log_bytes": path.stat().st_size}) + "\n")


def _finished_streams(folder: Path, chosen: Chosen) -> set[str]:
    """The streams whose unit is done; what a broken unit left behind them is cut off the log."""
    times = folder / "times" / f"{chosen.file}.jsonl"
    path = folder / "log" / f"{chosen.file}.jsonl.gz"
    whole, ends = [], 0
    for row in times.read_text(encoding="utf-8").splitlines(keepends=True) if times.is_file() else []:
        try:
            ends = int(json.loads(row)["log_bytes"])
        except (ValueError, KeyError):
            break
        whole.append(row)
    if path.is_file():
        if path.stat().st_size < ends:
            raise InputError(
                f"{path} has {path.stat().st_size} bytes, {times} says {ends}; it was cut: remove both and run again"
            )
        os.truncate(path, ends)
    elif whole:
        raise InputError(f"{path} is missing while {times} counts its lines; remove that too and run again")
    if times.is_file():
        times.write_text("".join(whole), encoding="utf-8")
    return {json.loads(row)["stream"] for row in whole}


# What may differ between the two halves of an interrupted run.
_FREE = ("cost", "finished", "environment", "audit", "systems", "started")


def _started(folder: Path, now: datetime | None) -> str | None:
    path = folder / "run.json"
    before = json.loads(path.read_text(encoding="utf-8")).get("started") if path.is_file() else None
    return before or (now.isoformat(timespec="seconds") if now else None)


def _with_those_there(folder: Path, described: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The systems that the folder already holds, and the new ones. InputError when it holds another run."""
    path = folder / "run.json"
    if not path.is_file():
        return described["systems"]
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); remove it, or give another folder") from error
    now = plain(described)
    differ = [key for key in now if key not in _FREE and there.get(key) != now[key]]
    if differ:
        key = differ[0]
        raise InputError(
            f"{folder} holds another run: its {', '.join(differ)} differ ({key}: {str(there.get(key))[:200]} there, "
            f"{str(now[key])[:200]} asked for); give another folder"
        )
    return list({system["spec"]: system for system in [*there["systems"], *now["systems"]]}.values())
