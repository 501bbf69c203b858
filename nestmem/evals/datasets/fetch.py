"""Public files of the tasks: downloaded once, checked, found again in their folder, and read.

Nothing of the data sets is in this package. `fetch` gets a task's files from where their authors keep them, at a
fixed commit where there is one. A file appears under its name only when it is whole: it is written beside it,
checked (length, sha256 where it is known, not a web page), and then put in its place. SOURCE.json in the folder
says what came from where, with its sha256 and licence.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Part, Task

SOURCE = "SOURCE.json"
CHUNK = 1 << 20
TIMEOUT_SECONDS = 60

Opener = Callable[..., Any]
"""Like `urllib.request.urlopen`: called with a URL and `timeout`, gives a response to be used in `with`."""


def fetch(
    task: Task,
    data: Path,
    *,
    date: str | None = None,
    opener: Opener = urllib.request.urlopen,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Downloads the task's files into `data`/FOLDER and returns their paths.

    date: written into SOURCE.json (None: today, UTC). progress: gets one line at a time, the licence first (default:
    printed to stderr). A file that SOURCE.json names and that still has its sha256 is not downloaded again, so an
    interrupted fetch goes on with the files that are missing. Raises InputError when a server refuses, a body is
    short, a check fails or a file is in the way; no part of a file is then left.
    """
    say = progress or _print
    if not task.fetch or task.folder is None:
        raise InputError(f"{task.name} has nothing to fetch: {task.source}")
    shared = {
        "yes": "may be passed on",
        "share-alike": "may be passed on under the same licence",
        "no": "for evaluation only: its text may not be passed on",
    }
    say(f"{task.title}: licence {task.licence.name} ({shared[task.licence.redistribution]})")
    folder = Path(data) / task.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made ({error}); give --data a folder that can be written"
        ) from error
    on = date or datetime.now(UTC).date().isoformat()
    found = []
    for number, part in enumerate(task.fetch, 1):
        path = folder / part.file
        say(f"{number}/{len(task.fetch)} {part.file} {_once(task, folder, part, on, opener)}")
        found.append(path)
    return found


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _once(task: Task, folder: Path, part: Part, date: str, opener: Opener) -> str:
    """Gets one file unless it is there; returns what was done, for the progress."""
    path = folder / part.file
    record = _source(folder)
    known = record["files"].get(part.file, {})
    if path.exists():
        if known.get("url") == part.url and known.get("sha256") == _sha256(path):
            return "is there"
        raise InputError(
            f"{path} is in the way: {SOURCE} does not say that it is {part.url}, or it was changed since. "
            "Move or delete it, then fetch again"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    size, digest = _download(part, path, opener)
    record.update(
        task=task.name,
        title=task.title,
        licence={"name": task.licence.name, "redistribution": task.licence.redistribution},
    )
    record["files"][part.file] = {"url": part.url, "bytes": size, "sha256": digest, "date": date}
    _put(folder / SOURCE, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
    return f"{size:,} bytes"


def _source(folder: Path) -> dict[str, Any]:
    path = folder / SOURCE
    if not path.exists():
        return {"files": {}}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); delete it and the files beside it, then fetch again"
        ) from error
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        raise InputError(
            f"{path} has no 'files'; expected what an earlier fetch wrote. Delete it, then fetch again"
        )
    return record


def _download(part: Part, path: Path, opener: Opener) -> tuple[int, str]:
    """Writes the file at its place once it is whole; returns its length in bytes and its sha256."""
    handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            size, digest = _copy(part, out, opener)
        os.replace(name, path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = (
            f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else str(error) or repr(error)
        )
        raise InputError(
            f"{part.url} could not be downloaded ({reason}); nothing was left, try again"
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)
    return size, digest


def _copy(part: Part, out: Any, opener: Opener) -> tuple[int, str]:
    state = hashlib.sha256()
    size = 0
    with opener(part.url, timeout=TIMEOUT_SECONDS) as response:
        status = getattr(response, "status", 200)
        if status not in (None, 200):
            raise InputError(f"{part.url} answered with HTTP {status}; expected 200 and the file")
        kind = str(response.headers.get("Content-Type") or "")
        promised = response.headers.get("Content-Length")
        while chunk := response.read(CHUNK):
            if size == 0 and _is_page(chunk, kind):
                raise InputError(
                    f"{part.url} gave a web page ({kind or 'HTML'}) and not the file; it may have moved, or asks for "
                    "a login: get it by hand"
                )
            out.write(chunk)
            state.update(chunk)
            size += len(chunk)
    digest = state.hexdigest()
    if promised is not None and size != int(promised):
        raise InputError(f"{part.url} broke off after {size:,} of {int(promised):,} bytes; fetch again")
    if size == 0:
        raise InputError(f"{part.url} gave an empty file; fetch again")
    if part.bytes is not None and size != part.bytes:
        raise InputError(
            f"{part.url} has {size:,} bytes, expected {part.bytes:,}: another version of the data"
        )
    if part.sha256 is not None and digest != part.sha256:
        raise InputError(
            f"{part.url} has sha256 {digest}, expected {part.sha256}: another version of the data, or damaged"
        )
    return size, digest


def _is_page(start: bytes, kind: str) -> bool:
    head = start.lstrip()[:15].lower()
    return "text/html" in kind.lower() or head.startswith((b"<!doctype html", b"<html"))


def _sha256(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()


def _put(path: Path, content: bytes) -> None:
    """Writes a small file in one step."""
    handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
