"""The options that every command on a memory takes, and the memory that they describe.

This is the only place in the package that reads the environment: NESTMEM_DB, NESTMEM_MODEL, NESTMEM_LLM and
NESTMEM_EMBEDDER (named in `--help`), OPENAI_API_KEY (for --llm and for an embeddings URL) and NESTMEM_DEBUG.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import nestmem
from nestmem.errors import InputError

if TYPE_CHECKING:
    from nestmem.agent.controller import Memory
    from nestmem.agent.types import LLM
    from nestmem.store.records import Scope

PANEL = "Which memory"
Db = Annotated[
    Path,
    typer.Option(
        "--db", envvar="NESTMEM_DB", help="The SQLite file that holds the memory.", rich_help_panel=PANEL
    ),
]
User = Annotated[str, typer.Option("--user", help="Whose memory.", rich_help_panel=PANEL)]
Tenant = Annotated[
    str, typer.Option("--tenant", help="The tenant the user belongs to.", rich_help_panel=PANEL)
]
Session = Annotated[
    str | None,
    typer.Option("--session", help="One session; all sessions when left out.", rich_help_panel=PANEL),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        envvar="NESTMEM_MODEL",
        help="The model whose weights learn: 'mini' (embedded), a Hugging Face name, a folder, or 'none'.",
        rich_help_panel=PANEL,
    ),
]
Llm = Annotated[
    str | None,
    typer.Option(
        "--llm",
        envvar="NESTMEM_LLM",
        help="An OpenAI-compatible URL that writes and answers, e.g. http://localhost:11434/v1#model.",
        rich_help_panel=PANEL,
    ),
]
Embedder = Annotated[
    str,
    typer.Option(
        "--embedder",
        envvar="NESTMEM_EMBEDDER",
        help="'auto', 'none', 'minilm', a sentence-transformers folder, or an embeddings URL.",
        rich_help_panel=PANEL,
    ),
]
Rule = Annotated[
    str,
    typer.Option(
        "--rule", help="How weights are written: nested, additive, rls or tmem.", rich_help_panel=PANEL
    ),
]


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which memory a command works on. The field names are the options' names."""

    db: Db = Path("memory.db")
    user: User = "default"
    tenant: Tenant = "default"
    session: Session = None
    model: Model = "mini"
    llm: Llm = None
    embedder: Embedder = "auto"
    rule: Rule = "nested"

    def scope(self, session: str | None = None) -> Scope:
        """The scope of --tenant, --user and --session; `session` stands in when --session is not given."""
        from nestmem.store.records import Scope

        return Scope(tenant=self.tenant, user=self.user, session=self.session or session)

    def open(self, *, create: bool = False, reads: bool = False) -> Memory:
        """The memory with its model and embedder. Without `create` the file must exist. A command that
        only `reads` also works on a file that cannot be written."""
        if self.model == "none":
            return self.open_text(create=create, reads=reads, embedder=True, llm=True)
        self._must_exist(create)
        quiet_libraries()
        memory = nestmem.open(
            self.db, model=self.model, rule=self.rule, embedder="none", read_only=reads and self._locked()
        )
        memory.embedder = self._load_embedder()
        memory.llm = self.endpoint()
        return memory

    def open_text(
        self, *, create: bool = False, reads: bool = False, embedder: bool = False, llm: bool = False
    ) -> Memory:
        """The memory without a model; torch is not needed, unless for the embedder."""
        self._must_exist(create)
        from nestmem.agent.controller import Memory
        from nestmem.store import Ledger

        found = self._load_embedder() if embedder else None
        ledger = Ledger(self.db, read_only=reads and self._locked())
        return Memory(ledger, embedder=found, llm=self.endpoint() if llm else None)

    def _load_embedder(self) -> Any:
        from nestmem import embedders

        quiet_libraries()
        return embedders.load(self.embedder, api_key=os.environ.get("OPENAI_API_KEY"))

    def _locked(self) -> bool:
        return self.db.is_file() and not os.access(self.db, os.W_OK)

    def _must_exist(self, create: bool) -> None:
        if not create and str(self.db) != ":memory:" and not self.db.exists():
            raise InputError(
                f"there is no memory at {self.db}; name the file with --db, or start one with: nestmem chat"
            )

    def endpoint(self) -> LLM | None:
        """The chat endpoint of --llm, or None. The model's name may follow the URL after a '#'."""
        if self.llm is None:
            return None
        from nestmem.agent.llm import endpoint

        return endpoint(self.llm, api_key=os.environ.get("OPENAI_API_KEY"))


def quiet_libraries() -> None:
    """Keeps progress bars and notes of other libraries out of the terminal. Call before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def debugging() -> bool:
    """Whether the user asked for stack traces (NESTMEM_DEBUG=1)."""
    return os.environ.get("NESTMEM_DEBUG", "") not in ("", "0")


def on_memory(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `Where` in the place of its parameter `where`."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "where"]
    kinds = inspect.get_annotations(Where, eval_str=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=kinds[f.name])
        for f in fields(Where)
    ]
    names = [p.name for p in shared]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        command(where=Where(**{name: values.pop(name) for name in names}), **values)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    del with_options.__wrapped__  # typer would look through it and miss the shared options
    return with_options
