"""Runs systems over the streams of a task and writes the log. Nothing is scored here (see `scoring`).

A run is a folder (`nestmem.evals.log` says what is in it). Each stream of each system is a unit: it is told from
its first turn, its questions are asked at their places from one state, and its lines are appended when it is over.
An interrupted run goes on with the first unit that is not there; what a broken unit left is cut off.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from nestmem.embedders import Embedder
from nestmem.errors import InputError
from nestmem.evals import audit, energy, log, readers
from nestmem.evals.datasets.base import Dataset, Forget, Question, Stream, Task
from nestmem.evals.folder import file_name
from nestmem.evals.log import Line, Timing
from nestmem.evals.record import environment, plain, write_json
from nestmem.evals.systems.base import Kind, NotSupported, Reader, Reply, Setup, System
from nestmem.evals.veil import Veil, shuffled

Progress = Callable[[int, int, str], None]
QUESTION_UNITS = 20
"""What a question counts in the progress, where a turn counts 1."""
ERRORS_IN_A_ROW = 5
"""Errors (not refusals, not empty answers) of a reader after which a run stops."""


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
    if name == "import":
        return Chosen(spec=spec, kind=_imported(rest), options={})
    if name not in kinds:
        known = ", ".join(sorted(kinds))
        raise InputError(
            f"there is no system {name!r}; expected one of {known}, or import:MODULE.NAME of your own"
        )
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
    if "url" in options:
        readers.without_password(str(options["url"]))
    return Chosen(spec=spec, kind=kind, options=options)


def _imported(path: str) -> Kind:
    """A system of somebody's own: what MODULE.NAME makes of a Setup."""
    module, _, attribute = path.rpartition(".")
    try:
        make = getattr(importlib.import_module(module), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise InputError(
            f"system 'import:{path}' is not found ({error}); expected import:MODULE.NAME of a module on the path"
        ) from error
    return Kind(name=attribute, about=f"{module}.{attribute}", make=make)


def run(
    plan: Plan,
    dataset: Dataset,
    folder: Path,
    *,
    reader: Reader,
    embedder: Embedder | None,
    api_key: str | None = None,
    cost: Mapping[str, Any] | None = None,
    started: datetime | None = None,
    attempt: str = "",
    progress: Progress | None = None,
) -> Path:
    """Runs what is not yet there of `plan` in `folder` and returns it. InputError when the folder holds another run, or
    another process runs in it.

    reader: what `plan.reader` names ("perfect" and other scripted ones are made anew for each stream). api_key: for
    systems behind a URL. started: the moment that run.json names (of a run that goes on, its first beginning stays).
    attempt: ends the names of users; a new one for each attempt keeps what a server remembers of an earlier one apart.
    """
    described = describe(plan, dataset, reader, embedder)
    folder = Path(folder)
    work = folder / "work"
    for part in (folder, folder / "log", folder / "times"):
        part.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        described["systems"] = _with_those_there(folder, described)
        described["started"] = _started(folder, started)
        described["cost"] = cost or {}
        write_json(folder / "run.json", {**described, "finished": False})
        shutil.rmtree(work, ignore_errors=True)
        given = _Given(
            plan=plan, reader=reader, embedder=embedder, api_key=api_key, attempt=attempt, work=work
        )
        total = len(plan.systems) * sum(_units(stream) for stream in dataset.streams)
        done = 0
        for chosen in plan.systems:
            known = finished_streams(folder, chosen)
            streak, held = _Streak(), []
            for number, stream in enumerate(dataset.streams):
                if stream.id not in known:
                    report = partial(_moved, progress, done, total, chosen.spec)
                    held.append(_unit(given, dataset.streams, number, chosen, streak, report))
                    if streak.errors == 0:
                        _append_all(folder, chosen, held)
                done += _units(stream)
                _moved(progress, done, total, chosen.spec, 0)
            _append_all(folder, chosen, held)
        shutil.rmtree(work, ignore_errors=True)
        write_json(folder / "run.json", {**described, "finished": True})
    return folder


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What all units of a run share. work: a folder for the systems' own folders."""

    plan: Plan
    reader: Reader
    embedder: Embedder | None
    api_key: str | None
    attempt: str
    work: Path


@dataclass(kw_only=True)
class _Streak:
    """Errors of a reader one after another, over streams. Streams that end within one are not yet stored."""

    errors: int = 0


def _moved(progress: Progress | None, before: int, total: int, spec: str, units: int) -> None:
    if progress is not None:
        progress(before + units, total, spec)


def _unit(
    given: _Given,
    streams: Sequence[Stream],
    number: int,
    chosen: Chosen,
    streak: _Streak,
    report: Callable[[int], None],
) -> tuple[list[Line], Timing]:
    plan, stream = given.plan, streams[number]
    veil = Veil(stream=stream, number=number, attempt=given.attempt)
    donor = donor_of(streams, number)
    given.work.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.work) as own:
        setup = Setup(
            folder=Path(own),
            key=veil.key() if chosen.kind.reads_key else None,
            donor=None if donor is None else Veil(stream=streams[donor], number=donor).told(),
            reader=readers.scripted(plan.reader, stream) or given.reader,
            embedder=given.embedder,
            api_key=given.api_key,
            budget_tokens=plan.budget_tokens,
            window_tokens=plan.window_tokens,
            depth=plan.depth,
            seed=plan.seed,
        )
        return play(plan.task.name, chosen, veil, setup, report, streak)


def donor_of(streams: Sequence[Stream], number: int) -> int | None:
    """The next stream that is somebody else's: it shares no cluster with this one, and under a tenth of its turns. None
    when there is none. A placebo is told it."""
    own = streams[number]
    texts = {turn.text for turn in own.turns}
    clusters = {question.cluster for question in own.questions} - {None}
    for step in range(1, len(streams)):
        place = (number + step) % len(streams)
        other = streams[place]
        shared = sum(turn.text in texts for turn in other.turns)
        if 10 * shared < len(other.turns) and clusters.isdisjoint(q.cluster for q in other.questions):
            return place
    return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder; a killed process leaves no lock."""
    lock = sqlite3.connect(folder / "lock", timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        raise InputError(
            f"{folder} cannot be locked ({error}); another process runs in it: wait for it, or give another folder"
        ) from error
    try:
        yield
    finally:
        lock.close()


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
            "blank_turns": sum(not turn.text.strip() for stream in dataset.streams for turn in stream.turns),
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
    task: str,
    chosen: Chosen,
    veil: Veil,
    setup: Setup,
    report: Callable[[int], None] | None = None,
    streak: _Streak | None = None,
) -> tuple[list[Line], Timing]:
    """One system through one stream: its lines in the order asked, and what it cost. The system sees the names of
    the veil, the lines have those of the stream. streak: of errors, over the streams before."""
    stream = veil.stream
    system = chosen.kind.make(setup, **{**chosen.kind.options, **chosen.options})
    lacks = [name for name in _METHODS if not callable(getattr(system, name, None))]
    if lacks:
        raise InputError(
            f"system {chosen.spec!r} has no method {', '.join(lacks)}; `nestmem.evals.systems.base.System` has them all"
        )
    power = energy.read()
    try:
        told = _Telling(
            task=task, spec=chosen.spec, system=system, veil=veil, report=report, streak=streak or _Streak()
        )
        told.play()
        kept = system.bytes(veil.scope)
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
        commit=environment()["commit"],
    )


_METHODS = ("observe", "settle", "answer", "forget", "probe", "bytes", "close")


@dataclass(kw_only=True)
class _Telling:
    """A stream on its way through a system, with the seconds spent."""

    task: str
    spec: str
    system: System
    veil: Veil
    report: Callable[[int], None] | None
    streak: _Streak
    lines: list[Line] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    observe_s: float = 0.0
    settle_s: float = 0.0
    stream: Stream = field(init=False)
    places: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.stream = self.veil.stream
        self.places = {turn.id: place for place, turn in enumerate(self.stream.turns)}

    def play(self) -> None:
        """All turns, and before each what stands there: the end of a session, requests to forget, questions."""
        turns, scope = self.veil.turns, self.veil.scope
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
        reply = self.system.answer(question.text, question.at, self.veil.scope)
        self.answer_s.append(time.perf_counter() - started)
        self._check(reply)
        self.lines.append(
            Line(
                task=self.task,
                system=self.spec,
                stream=self.stream.id,
                question=question,
                reply=self.veil.lift(reply, self.spec),
                ages=tuple(question.after - self.places[id_] for id_ in question.evidence),
                sessions=tuple(self.stream.turns[self.places[id_]].session for id_ in question.evidence),
                probe=self._probe(question),
            )
        )

    def _check(self, reply: Reply) -> None:
        """Stops at what is no answer, and at a reader that is down: its errors would stand as results."""
        if not isinstance(reply, Reply):
            raise InputError(f"system {self.spec!r} answered {type(reply).__name__}; expected a Reply")
        if not all(math.isfinite(hit.score) for hit in reply.ranked):
            raise InputError(f"system {self.spec!r} ranks with a score that is no finite number")
        failed = reply.reading.failed or ""
        self.streak.errors = self.streak.errors + 1 if failed.startswith("error") else 0
        if self.streak.errors == ERRORS_IN_A_ROW:
            raise InputError(
                f"the reader of system {self.spec!r} failed {ERRORS_IN_A_ROW} times in a row ({failed}); mend it and "
                "give the same command again: what was finished before stays, the rest is asked anew"
            )

    def _probe(self, question: Question) -> tuple[float, ...] | None:
        order = shuffled(question.candidates)
        if not order:
            return None
        asked = [question.candidates[place] for place in order]
        found = self.system.probe(question.text, asked, self.veil.scope)
        if found is None:
            return None
        if len(found) != len(asked):
            raise InputError(
                f"system {self.spec!r} gave {len(found)} log-probabilities for {len(asked)} candidates"
            )
        given = dict(zip(order, found, strict=True))
        return tuple(given[place] for place in range(len(order)))

    def _forget(self, forget: Forget) -> None:
        started = time.perf_counter()
        try:
            self.system.forget(self.veil.ids(forget.turns), self.veil.scope)
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


def _append_all(folder: Path, chosen: Chosen, held: list[tuple[list[Line], Timing]]) -> None:
    for lines, timing in held:
        _append(folder, chosen, lines, timing)
    held.clear()


def _append(folder: Path, chosen: Chosen, lines: list[Line], timing: Timing) -> None:
    """Lines first, then their timing, which makes the unit count as done and says where its lines end."""
    path = folder / "log" / f"{chosen.file}.jsonl.gz"
    log.append_lines(path, lines)
    with (folder / "times" / f"{chosen.file}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**asdict(timing), "log_bytes": path.stat().st_size}) + "\n")


def finished_streams(folder: Path, chosen: Chosen, *, mend: bool = True) -> set[str]:
    """The streams whose unit is done. mend: what a broken unit left behind them is cut off the log."""
    times = folder / "times" / f"{chosen.file}.jsonl"
    path = folder / "log" / f"{chosen.file}.jsonl.gz"
    rows = times.read_text(encoding="utf-8").splitlines(keepends=True) if times.is_file() else []
    whole, ends = [], 0
    for row in rows:
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
        if mend:
            os.truncate(path, ends)
    elif whole:
        raise InputError(f"{path} is missing while {times} counts its lines; remove that too and run again")
    if mend and len(whole) < len(rows):
        # Beside it and then in its place: a full disk must not cost what was done.
        kept = times.with_name(times.name + ".tmp")
        kept.write_text("".join(whole), encoding="utf-8")
        kept.replace(times)
    return {json.loads(row)["stream"] for row in whole}


# What may differ between the two halves of an interrupted run.
_FREE = ("cost", "finished", "environment", "audit", "systems", "started")


def _differences(there: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """ "seed 0 there, 1 here": the values that differ, those within a group by themselves."""
    found = []
    for key in keys:
        old, new = there.get(key), now[key]
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, [name for name in new if old.get(name) != new[name]])
        else:
            found.append(f"{key} {str(old)[:60]} there, {str(new)[:60]} here")
    return found


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
        raise InputError(
            f"{folder} holds another run: {'; '.join(_differences(there, now, differ))}; give another folder"
        )
    return list({system["spec"]: system for system in [*there["systems"], *now["systems"]]}.values())
