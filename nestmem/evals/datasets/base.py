"""What a task of the judge is made of: streams of turns, and questions with their evidence. Plain values.

A stream is what one memory lives through: turns in the order they were said. Questions stand at places in the
stream, and so do requests to forget; one state answers all of them. What a system is told of a question is its
text and its time, never its answers, evidence, kind or choices (where there are choices, they are in the text).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from nestmem.errors import InputError

Role = Literal["user", "assistant", "system", "tool"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message. id: unique in its stream. session: the sitting it belongs to; the turns of a session stand
    together. speaker: a named person, where several people talk (`group`) or the data names the user."""

    id: str
    session: str
    role: Role
    text: str
    at: datetime | None = None
    speaker: str | None = None
    group: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with what is needed to judge a reply, and nothing that a system may see but `text` and `at`.

    after: how many turns of the stream were said when it is asked. kind: its type, by which results are split.
    answers: accepted replies; empty when it is judged by `rubric` alone. answerable: False when the right reply is
    that it is not known; `answers` is then empty. evidence: ids of the turns that hold the answer, within the first
    `after`; empty where the data names none. choices: what a multiple-choice question offers; answers[0] is one of
    them. rubric: points that a free answer is to hold. rejected: replies that were right once, or would be without
    a forget: a reply that holds one is stale. candidates: replies a model's weights are compared on; an accepted, or
    for a question that cannot be answered a rejected, reply is among them; chance is 1 / len. cluster: questions with
    the same cluster go together in standard errors (None: the stream).
    """

    id: str
    text: str
    kind: str
    after: int
    at: datetime | None = None
    answers: tuple[str, ...] = ()
    answerable: bool = True
    evidence: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    rubric: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    cluster: str | None = None


@dataclass(frozen=True, kw_only=True)
class Forget:
    """After `after` turns the user asks that `turns` be forgotten (the exact messages, by id)."""

    after: int
    turns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One life of a memory. InputError when a question or a forget names a turn that is not (yet) there."""

    id: str
    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]
    forgets: tuple[Forget, ...] = ()

    def __post_init__(self) -> None:
        place = {turn.id: index for index, turn in enumerate(self.turns)}
        if len(place) != len(self.turns):
            twice = next(id_ for id_, count in Counter(turn.id for turn in self.turns).items() if count > 1)
            raise InputError(
                f"stream {self.id!r}: two turns have the id {twice!r}; ids are unique in a stream"
            )
        if len({question.id for question in self.questions}) != len(self.questions):
            raise InputError(f"stream {self.id!r}: two questions have one id; ids are unique in a stream")
        blank = next((question.id for question in self.questions if not question.text.strip()), None)
        if blank is not None:
            raise InputError(f"stream {self.id!r}: question {blank!r} has no text; expected a question")
        for item in (*self.questions, *self.forgets):
            named = item.evidence if isinstance(item, Question) else item.turns
            late = [id_ for id_ in named if place.get(id_, item.after) >= item.after]
            if late or not 0 <= item.after <= len(self.turns):
                what = f"question {item.id!r}" if isinstance(item, Question) else "a forget"
                raise InputError(
                    f"stream {self.id!r}: {what} at turn {item.after} of {len(self.turns)} names {late[:3]}, "
                    "which are not said by then; evidence stands before the question"
                )

    @property
    def characters(self) -> int:
        """Of all turns together."""
        return sum(len(turn.text) for turn in self.turns)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a task loaded. left_out: what could not be used, and why -> how often. notes: what a reader of the
    results should know (a part of the data, known errors in the key). source: where it came from ("generated",
    or the file)."""

    streams: tuple[Stream, ...]
    source: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def questions(self) -> int:
        """How many, over all streams."""
        return sum(len(stream.questions) for stream in self.streams)

    def digest(self) -> str:
        """sha256 over every turn, question and forget: two runs compare only when it is the same."""
        state = hashlib.sha256()
        for stream in self.streams:
            state.update(json.dumps(asdict(stream), sort_keys=True, default=str, ensure_ascii=False).encode())
        return state.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Under which terms the data is had, and whether its text may be passed on ("yes", "share-alike", "no")."""

    name: str
    redistribution: Literal["yes", "share-alike", "no"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A public file that `nestmem eval fetch` downloads: `file` within the task's folder, from `url`. bytes and
    sha256 are checked where they are known."""

    file: str
    url: str
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task by name. `load(folder, options)` reads or generates a `Dataset`.

    folder: the data set's name under --data; None when all of it is generated. options: name -> default of what
    `load` takes (whole numbers or texts); `seed` is one where something is drawn. scorers: names of the scores
    (nestmem.evals.scorers) that apply; the first is the headline when there is a reader, `without_reader` when
    there is none. budget_tokens: of recalled text, unless asked otherwise; well below a whole history.
    known_errors: mistakes in the published key that are known, each as one line.
    """

    name: str
    version: str
    title: str
    paper: str
    source: str
    licence: Licence
    load: Callable[..., Dataset]
    scorers: tuple[str, ...]
    without_reader: str
    folder: str | None = None
    budget_tokens: int = 2000
    options: Mapping[str, int | str] = field(default_factory=dict)
    fetch: tuple[Part, ...] = ()
    known_errors: tuple[str, ...] = ()


def after_all(turns: Sequence[Turn]) -> int:
    """The place of a question that is asked when everything was said."""
    return len(turns)


def load(task: Task, data: Path | None, options: Mapping[str, int | str]) -> Dataset:
    """The task's data set: read from its folder under `data`, or generated. InputError when it is not there, is
    not what it should be, or holds no question."""
    folder = None if task.folder is None else data_folder(data, task)
    dataset = task.load(folder, **options)
    if not dataset.questions:
        raise InputError(
            f"{task.name} with {dict(options)} has no question; give it more data, or other options"
        )
    return dataset


def data_folder(data: Path | None, task: Task) -> Path:
    """The folder of a task's data under `data`. InputError when none was given or it is not there."""
    if data is None:
        raise InputError(
            f"{task.name} reads {task.title}; give its folder with --data, or get it with: nestmem eval fetch {task.name}"
        )
    folder = data / str(task.folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder} does not exist; expected the data of {task.title} there ({task.source}). "
            f"Get it with: nestmem eval fetch {task.name} --data {data}"
        )
    return folder


def check_options(task: Task, given: Mapping[str, Any]) -> dict[str, int | str]:
    """The task's options with those given, each of its default's type. InputError on an unknown one."""
    unknown = sorted(set(given) - set(task.options))
    if unknown:
        known = ", ".join(task.options) or "none"
        raise InputError(f"{task.name} has no option {', '.join(unknown)}; it has: {known}")
    checked = dict(task.options)
    for name, value in given.items():
        kind = type(task.options[name])
        try:
            checked[name] = kind(value)
        except ValueError as error:
            raise InputError(
                f"{task.name}: {name}={value!r}, expected {kind.__name__} like {task.options[name]!r}"
            ) from error
    return checked
