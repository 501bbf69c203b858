"""The package mem0ai as a system, offline: `mem0.Memory` with a local Qdrant and the run's embedder.

Written against mem0ai 2.2.1. Turns are added with infer=False: mem0 stores each as it is and asks no language model,
so this is mem0's store and search, not its writing of facts. Search keeps its default threshold (0.1); its keyword
half needs the package fastembed and is off without it. A message of the role "system" is not stored by mem0.
`delete` takes a message out of what is found; its text stays in the file mem0 keeps its history in, which the notes of
later replies say.

mem0 reads its settings from the environment when it is first imported. `make` sets two before that: MEM0_TELEMETRY
to "False", so that nothing is sent, and MEM0_DIR, so that nothing is written to the user's home: a temporary folder,
removed when the last system is closed.

What the search does not find is shown last, newest first, until the budget is full, and a history that fits into the
budget is shown whole, as other systems that search do it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from nestmem.embedders import Embedder
from nestmem.errors import InputError, MissingExtra
from nestmem.evals.datasets.base import Turn
from nestmem.evals.systems import history
from nestmem.evals.systems.base import Hit, Kind, Reply, Setup, System
from nestmem.evals.systems.retrieval import named

SEARCHED = 200
"""How many messages a search asks for at least."""
NO_KEY = "offline"
"""mem0 makes a client for a language model even where none is asked; this stands for its key."""

_open: set[int] = set()
"""The systems of this process that are not closed (their `id`s)."""


class Mem0:
    """`mem0.Memory` over one folder. Turns of all scopes are in one collection, told apart by mem0's user_id."""

    def __init__(self, setup: Setup, memory: Any) -> None:
        self._setup = setup
        self._memory = memory
        self._stored: dict[tuple[str, str], list[str]] = {}
        self._turns: dict[str, tuple[int, Turn]] = {}
        self._skipped: dict[str, int] = {}
        self._count = 0
        self._forgot: set[str] = set()
        _open.add(id(self))

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Adds the message as it is."""
        text = message.text.encode("utf-8", "replace").decode()
        # The name stands in what is embedded, as for the other retrievers (`retrieval.named`).
        said = {"role": message.role, "content": named(message, text)}
        added: list[dict[str, Any]] = []
        if text.strip():
            metadata = {"turn": message.id, "at": time.isoformat() if time else ""}
            added = self._memory.add([said], user_id=scope, metadata=metadata, infer=False)["results"]
        self._skipped[scope] = self._skipped.get(scope, 0) + (not added)
        for one in added:
            self._stored.setdefault((scope, message.id), []).append(one["id"])
            self._turns[one["id"]] = (self._count, message)
            self._count += 1

    def settle(self, scope: str) -> None:
        """mem0 has no idle work."""

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """The reader reads what mem0's search finds, best first within the budget."""
        top = max(SEARCHED, self._setup.depth)
        found = self._memory.search(question, top_k=top, filters={"user_id": scope})["results"]
        scored = [(self._turns[one["id"]], one) for one in found]
        pieces = [history.Piece(turn=turn, text=turn.text, place=(place,)) for (place, turn), _ in scored]
        told = [self._turns[id_] for (whose, _), ids in self._stored.items() if whose == scope for id_ in ids]
        told.sort(key=lambda one: one[0])
        shown = history.whole([turn for _, turn in told], self._setup.budget_tokens)
        if shown is None:
            there = {piece.place for piece in pieces}
            others = [
                history.Piece(turn=turn, text=turn.text, place=(place,))
                for place, turn in reversed(told)
                if (place,) not in there
            ]
            shown = history.pack([*pieces, *others], self._setup.budget_tokens)
        best: dict[str, Hit] = {}
        for (_, turn), one in scored:
            best.setdefault(turn.id, Hit(turn=turn.id, session=turn.session, score=float(one["score"])))
        context = history.render(shown)
        skipped = self._skipped.get(scope, 0)
        return Reply(
            reading=self._setup.reader.read(question, context, at=time),
            context=context,
            shown=history.ids(shown),
            ranked=tuple(best.values())[: self._setup.depth],
            notes=(
                *([f"mem0 did not store {skipped} turns (empty, or of the role system)"] if skipped else []),
                *(["the package keeps forgotten messages in its history"] if scope in self._forgot else []),
            ),
        )

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """Deletes these messages."""
        for id_ in turns:
            for memory_id in self._stored.pop((scope, id_), ()):
                self._memory.delete(memory_id)
                self._forgot.add(scope)
                del self._turns[memory_id]

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        """None: no weights learn."""
        return None

    def bytes(self, scope: str) -> int:
        """Of all files mem0 wrote, of all scopes."""
        return sum(file.stat().st_size for file in self._setup.folder.rglob("*") if file.is_file())

    def close(self) -> None:
        """Closes mem0's files; with the last system its temporary folder goes."""
        self._memory.vector_store.client.close()
        self._memory.close()
        _open.discard(id(self))
        _clear()


class _Embedding:
    """The run's embedder as mem0 calls one."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        return self._embedder.embed([text])[0].tolist()

    def embed_batch(self, texts: list[str], memory_action: str | None = None) -> list[list[float]]:
        return self._embedder.embed(texts).tolist()


def _clear() -> None:
    """Removes mem0's temporary folder, unless a system uses it."""
    if not _open:
        shutil.rmtree(os.environ["MEM0_DIR"], ignore_errors=True)


@cache
def _package() -> Any:
    """The class `mem0.Memory`, imported with telemetry off."""
    os.environ["MEM0_TELEMETRY"] = "False"
    os.environ["MEM0_DIR"] = tempfile.mkdtemp(prefix="nestmem-mem0-")
    try:
        package = import_module("mem0")
        import_module("qdrant_client")
    except ImportError as error:
        _clear()
        raise MissingExtra("mem0", error.name or "mem0ai") from error
    return package.Memory


def make(setup: Setup) -> System:
    """mem0 in `setup.folder`. MissingExtra without the package, InputError without an embedder."""
    package = _package()
    if setup.embedder is None:
        _clear()
        raise InputError("mem0 finds messages by vectors; run it with an embedder (--embedder minilm)")
    Path(os.environ["MEM0_DIR"]).mkdir(mode=0o700, exist_ok=True)
    client = {"provider": "openai", "config": {"api_key": NO_KEY}}
    store = {
        "collection_name": "turns",
        "path": str(setup.folder / "qdrant"),
        "embedding_model_dims": setup.embedder.dim,
        "on_disk": True,
    }
    memory = package.from_config(
        {
            "vector_store": {"provider": "qdrant", "config": store},
            "history_db_path": str(setup.folder / "history.db"),
            "llm": client,
            "embedder": client,
        }
    )
    memory.embedding_model = _Embedding(setup.embedder)
    return Mem0(setup, memory)


KINDS: tuple[Kind, ...] = (
    Kind(
        name="mem0",
        about="the package mem0ai with a local store, messages kept as they are",
        make=make,
        needs="mem0ai",
    ),
)
