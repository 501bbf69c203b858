"""The log of a run: one line for each question and system, from which every score is made again.

A run is a folder:

    run.json                what was run: task, version, data digest, systems, reader, seed, environment
    log/SYSTEM.jsonl.gz     `Line`s, in order; nothing in them depends on the clock of the machine
    times/SYSTEM.jsonl      seconds and bytes of the same questions and streams (`Timing`)
    scores.json             what `nestmem.evals.scoring` makes of the two; report.html and plots beside it

Two runs with one seed have the same bytes in log/. The log holds the data's text: treat it under the data's licence.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Question
from nestmem.evals.systems.base import Hit, Reading, Reply

VERSION = "judge/1"
CONTEXT = "\x00context\x00"
"""Stands in a logged prompt where it quotes the reply's context."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One question put to one system.

    ages: per turn of the evidence, how many turns ago it was said.
    sessions: per turn of the evidence, its session. probe: mean log-probability (nats per token) of each of the
    question's candidates, None for a system without weights."""

    task: str
    system: str
    stream: str
    question: Question
    reply: Reply
    ages: tuple[int, ...] = ()
    sessions: tuple[str, ...] = ()
    probe: tuple[float, ...] | None = None

    @property
    def cluster(self) -> str:
        """Questions of one cluster go together in a standard error."""
        return self.question.cluster or self.stream


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What a stream cost one system. observe_s: telling it, settle_s: its idle work, answer_s: one number per
    question in the order of the log; bytes: what it kept when the stream was over; joules: of the whole machine
    meanwhile, None where it is not measured; commit: of the source tree that ran it; unsupported: what it could not do.
    """

    system: str
    stream: str
    turns: int
    characters: int
    observe_s: float
    settle_s: float
    answer_s: tuple[float, ...]
    bytes: int
    joules: float | None = None
    commit: str | None = None
    unsupported: tuple[str, ...] = ()


def dump(line: Line) -> str:
    """A line as JSON text without a newline; the same line gives the same text."""
    raw = _plain(asdict(line))
    context = raw["reply"]["context"]
    # The prompt quotes the context: it is written once.
    for message in raw["reply"]["reading"]["prompt"]:
        if context and CONTEXT not in message["content"]:
            message["content"] = message["content"].replace(context, CONTEXT, 1)
    return json.dumps(raw, ensure_ascii=False, sort_keys=True)


def load(text: str, where: str) -> Line:
    """The line that `dump` wrote. InputError names `where` when it is none."""
    try:
        raw = json.loads(text)
        question = _question(raw.pop("question"))
        reply = raw.pop("reply")
        said = reply.pop("reading")
        for message in said["prompt"]:
            message["content"] = message["content"].replace(CONTEXT, reply["context"], 1)
        reading = Reading(**said)
        ranked = tuple(Hit(**hit) for hit in reply.pop("ranked"))
        made = Reply(reading=reading, ranked=ranked, **{key: _frozen(value) for key, value in reply.items()})
        return Line(question=question, reply=made, **{key: _frozen(value) for key, value in raw.items()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{where}: is no line of a {VERSION} log ({error}); run the evaluation again, or score it with the "
            "nestmem that wrote it"
        ) from error


def read_lines(raw: bytes, where: str) -> Iterator[Line]:
    """The lines of a log's bytes, in order. InputError names `where` when they are damaged."""
    try:
        with gzip.open(io.BytesIO(raw), "rt", encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                yield load(text, f"{where}, line {number}")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(
            f"{where}: cannot be read to its end ({error}); remove it and its times and run again"
        ) from error


def append_lines(path: Path, lines: Sequence[Line]) -> None:
    """Appends the lines of one stream as one gzip member without a time in it: equal lines, equal bytes."""
    # A reply may hold half a surrogate pair, which no file can: it becomes "?".
    text = "".join(dump(line) + "\n" for line in lines).encode("utf-8", "replace")
    with path.open("ab") as file:
        file.write(gzip.compress(text, mtime=0))
        file.flush()


def _question(raw: dict[str, Any]) -> Question:
    at = raw.pop("at")
    values = {key: _frozen(value) for key, value in raw.items()}
    return Question(at=datetime.fromisoformat(at) if at else None, **values)


def _plain(value: Any) -> Any:
    """JSON values; a time as ISO text, numbers of a score rounded so that they read back the same."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return round(value, 6)
    return value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
