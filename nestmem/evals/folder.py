"""Reads a run's folder: what was run, and the lines and timings of the streams that a system finished."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.evals import log
from nestmem.evals.log import Line, Timing


def read_run(folder: Path) -> dict[str, Any]:
    """What run.json holds. InputError when it is not there or of another version."""
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); expected a run's folder") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); run the evaluation again") from error
    version = run.get("version") if isinstance(run, dict) else None
    if version != log.VERSION:
        raise InputError(
            f"{path} is of version {version!r}, expected {log.VERSION!r}; score it with the nestmem that wrote it"
        )
    return run


def file_name(spec: str) -> str:
    """What the names of a system's files begin with.

    >>> file_name("bm25:unit=session")
    'bm25_unit=session'
    """
    return re.sub(r"[^A-Za-z0-9._=-]", "_", spec)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a system finished: a timing for each stream, and the bytes of its log up to the last of them."""

    path: Path
    timings: tuple[Timing, ...]
    raw: bytes

    @property
    def sha256(self) -> str:
        """Of the log's bytes."""
        return hashlib.sha256(self.raw).hexdigest()

    def lines(self) -> Iterator[Line]:
        """One after the other. InputError when the log is damaged, or holds a stream without a timing."""
        streams = {timing.stream for timing in self.timings}
        for number, line in enumerate(log.read_lines(self.raw, f"{self.path}"), 1):
            if line.stream not in streams:
                raise InputError(
                    f"{self.path}, line {number}: is of stream {line.stream!r}, which its times do not name; "
                    "remove both files and run again"
                )
            yield line


def finished(folder: Path, spec: str) -> Finished:
    """The finished streams of a system; none where it was not begun. InputError when its files are damaged."""
    path = folder / "log" / f"{file_name(spec)}.jsonl.gz"
    timings, ends = _timings(folder / "times" / f"{file_name(spec)}.jsonl")
    raw = b""
    if timings:
        try:
            raw = path.read_bytes()[:ends]
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}), and its times are there; remove them and run again"
            ) from error
    return Finished(path=path, timings=tuple(timings), raw=raw)


def _timings(path: Path) -> tuple[list[Timing], int | None]:
    """The finished streams, and where the last of them ends in the log (None: at its end). A last line that an
    interruption cut is none."""
    known = {field.name for field in fields(Timing)}
    timings: list[Timing] = []
    ends = None
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    for number, text in enumerate(rows, 1):
        if number == len(rows) and not text.endswith("\n"):
            break
        try:
            row = json.loads(text)
            ends = row.get("log_bytes", ends)
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in row.items()
                if key in known
            }
            timings.append(Timing(**values))
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}, line {number}: is no timing ({error}); run again") from error
    return timings, ends
