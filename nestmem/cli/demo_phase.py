"""The part of the demo that lives through sessions: `python -m nestmem.cli.demo_phase DB MODEL EMBEDDER PART`.

Each part runs in a process of its own and leaves nothing behind but the database. It prints one JSON line
per session.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nestmem
from nestmem.cli.options import quiet_libraries
from nestmem.errors import NestmemError

if TYPE_CHECKING:
    from nestmem.agent.controller import Memory

Played = dict[str, Any]


def conversation() -> dict[str, Any]:
    """The packaged conversation: sessions, questions, and what is forgotten at the end."""
    return json.loads((files("nestmem.cli") / "demo_data" / "conversation.json").read_text(encoding="utf-8"))


def parts(sessions: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The sessions, cut where the process is restarted."""
    cut: list[list[dict[str, Any]]] = [[]]
    for session in sessions:
        if session.get("restart_before"):
            cut.append([])
        cut[-1].append(session)
    return cut


def live_through(memory: Memory, sessions: Iterable[dict[str, Any]], first: int = 0) -> Iterator[Played]:
    """Observes and learns each session, and carries out what it asks to forget. Nothing is passed from one
    session to the next but the memory."""
    from nestmem.store.records import Scope

    for number, session in enumerate(sessions, first + 1):
        scope = Scope(user=session["user"], session=f"session-{number}")
        memory.observe(session["messages"], scope, occurred_at=datetime.fromisoformat(session["at"]))
        report = memory.learn(Scope(user=session["user"]))
        forgotten = []
        for request, what in report.forget_requests:
            memory.forget({"text": what}, Scope(user=session["user"]))
            memory.forget(request, Scope(user=session["user"]))
            forgotten.append(what)
        yield {
            "session": number,
            "user": session["user"],
            "at": session["at"],
            "learned": list(report.learned),
            "superseded": report.superseded,
            "updates": report.updates,
            "forgotten": forgotten,
            "ms": report.ms,
        }


def main() -> None:
    """Plays one part of the conversation into a database."""
    quiet_libraries()
    path, model, embedder, part = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    cut = parts(conversation()["sessions"])
    first = sum(len(sessions) for sessions in cut[:part])
    try:
        with nestmem.open(path, model=None if model == "none" else model, embedder=embedder) as memory:
            for played in live_through(memory, cut[part], first):
                print(json.dumps(played), flush=True)
    except NestmemError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
