"""`nestmem chat`: tell it things, ask about them later."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nestmem.cli import show
from nestmem.cli.options import Where
from nestmem.errors import InputError, NestmemError

if TYPE_CHECKING:
    from nestmem.agent.controller import Memory
    from nestmem.agent.types import Answer
    from nestmem.store.records import Scope

SMALL = (
    "The embedded model is small: it learns what you tell it and answers about that, and is no general "
    "assistant. For one, use --model NAME (Hugging Face) or --llm URL (OpenAI-compatible)."
)
HELP = """Tell me something, or ask me about what you told me.
/memory        what is remembered of you
/why [ID]      where the last answer, or the thing with this id, came from
/forget WORDS  forget what these words find (or an id)
/quit          leave; the memory stays in the file"""


def talk(where: Where, *, sleep_after: float | None = None) -> None:
    """Reads lines from stdin until /quit or its end. Each run is a session of its own. sleep_after: seconds without a
    word after which the memory sleeps (None: never by itself)."""
    if find_spec("readline"):
        import_module("readline")  # arrow keys and history for input()
    started = f"chat-{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
    from nestmem.agent.idle import IdleSleeper

    with show.out.status("opening the memory ..."):
        memory = where.open(create=True)
    if sleep_after and memory.learner is None:
        raise InputError("--sleep-after needs the model whose weights sleep; leave out --model none")
    with memory:
        show.line(f"{where.db} · {where.user} · /help for help", "dim")
        if where.model == "mini" and where.llm is None:
            show.line(SMALL, "dim")
        with IdleSleeper(memory, after_seconds=sleep_after) if sleep_after else nullcontext():
            Conversation(memory, where.scope(started)).run()


class Conversation:
    """One user at a terminal. Keeps the last answer, for /why."""

    def __init__(self, memory: Memory, scope: Scope) -> None:
        self.memory = memory
        self.scope = scope
        self.everything = replace(scope, session=None)
        self.last: Answer | None = None

    def run(self) -> None:
        """The loop. An error of nestmem is shown and the conversation goes on."""
        while True:
            try:
                said = show.out.input("[bold green]> [/bold green]").strip()
            except EOFError:
                return
            if said in ("/quit", "/exit"):
                return
            try:
                self.turn(said)
            except NestmemError as error:
                show.line(str(error), "red")

    def turn(self, said: str) -> None:
        """One line of the user."""
        command, _, rest = said.partition(" ")
        commands = {"/help": self.help, "/memory": self.list, "/why": self.why, "/forget": self.forget}
        if not said:
            return
        if not command.startswith("/"):
            self.respond(said)
        elif command in commands:
            commands[command](rest.strip())
        else:
            raise InputError(f"{command} is not known; /help lists what is")

    def respond(self, said: str) -> None:
        """An answer to what was said."""
        with show.out.status("..."):
            reply = self.memory.respond(said, self.scope)
        show.typed(reply.text)
        if reply.answer is not None:
            self.last = reply.answer
            show.line(f"  {show.from_where(reply.answer)} · /why", "dim")

    def help(self, _: str) -> None:
        """What can be typed."""
        show.line(HELP)

    def list(self, _: str) -> None:
        """What is remembered of the user."""
        memories = self.memory.ledger.memories(self.everything)
        if not memories:
            show.line("nothing yet: tell me something about you", "dim")
            return
        table = Table(box=None, header_style="bold")
        for column in ("since", "what", "id"):
            table.add_column(column, overflow="fold", no_wrap=column == "id")
        for one in memories:
            what = f"{one.question} {one.answer}" if one.question else one.text
            table.add_row(str(one.valid_from.date()), Text(what), Text(one.id, style="dim"))
        show.out.print(table)

    def why(self, id: str) -> None:
        """The derivation of the last answer, or of one thing."""
        if id:
            show.why(self.memory.why(id, self.everything))
            return
        if self.last is None:
            raise InputError("there is no answer yet to explain; ask something first, or give an id")
        show.line(show.from_where(self.last))
        for source in self.last.memory_ids or self.last.sources:
            show.why(self.memory.why(source, self.everything))

    def forget(self, words: str) -> None:
        """Forgets an id or what the words find, after asking back."""
        if not words:
            raise InputError("say what to forget: /forget my dog's name, or /forget ID")
        known = {one.id for one in self.memory.ledger.memories(self.everything, active_only=False)}
        selector = words if words in known else {"text": words}
        plan = self.memory.forget(selector, self.everything, dry_run=True)
        for event in self.memory.ledger.events(self.everything, ids=plan.event_ids):
            show.line(f"  {event.when.date()} {event.content}")
        if show.out.input("forget this for good? [y/N] ", markup=False).strip().lower() in ("y", "yes"):
            show.receipt(self.memory.forget(list(plan.event_ids), self.everything))
        else:
            show.line("kept", "dim")
