"""How results look in a terminal. Each function takes a value of the library and prints it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from nestmem.agent.types import Answer, LearnReport, Why
    from nestmem.store.records import Receipt

PIPED_WIDTH = 120
out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
err = Console(stderr=True, highlight=False)


def as_json(value: Any) -> None:
    """One JSON document on stdout, for programs."""
    print(json.dumps(plain(value), ensure_ascii=False, indent=1))


def plain(value: Any) -> Any:
    """Dataclasses, times and tuples as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return value


def line(text: str, style: str = "") -> None:
    """One line of plain text; brackets in it are not markup."""
    out.print(Text(text, style=style))


def typed(text: str) -> None:
    """Text word by word where somebody watches, at once where nobody does."""
    for word in text.split(" "):
        out.print(Text(f"{word} "), end="")
        if out.is_terminal:
            time.sleep(0.01)
    out.print()


def answer(given: Answer, sources: Iterable[str]) -> None:
    """The answer, then in grey what it rests on."""
    line(given.text, "bold")
    line(f"  {from_where(given)}", "dim")
    for source in sources:
        line(f"  {source}", "dim")


def from_where(given: Answer) -> str:
    """One line: which half spoke, the size of the prompt, the time."""
    spoke = {
        "both": "text and weights agree",
        "text": "from the text memory",
        "weights": "from the weights",
        "none": "from no memory",
    }[given.spoke]
    return f"{spoke} · {given.tokens} tokens · {given.milliseconds:.0f} ms"


def learned(report: LearnReport) -> None:
    """What one `learn` did, in a line or a few."""
    if report.updates and not report.memories:
        line(f"{report.updates} known memories into the weights in {report.ms:.0f} ms")
    elif report.memories:
        superseded = f", {report.superseded} superseded" if report.superseded else ""
        into = f"{report.updates} into the weights{superseded}"
        line(f"learned {report.memories} memories ({into}) in {report.ms:.0f} ms")
    else:
        line("nothing new to learn", "dim")
    if report.kept_out:
        line(
            f"{report.kept_out} memories stay text: a gate kept them out of the weights (nestmem status)",
            "dim",
        )
    if report.waiting:
        line(f"{report.waiting} memories are text only until a writer is configured (--llm URL)", "dim")
    for problem in report.errors:
        line(f"to be retried: {problem}", "yellow")
    for event_id, what in report.forget_requests:
        line(f'asked to forget "{what}" in {event_id}; to do it: nestmem forget --text "{what}"', "yellow")


def why(given: Why) -> None:
    """The steps from the source to the weights."""
    table = Table(show_header=True, header_style="bold", box=None)
    for column in ("what", "id", "text"):
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    for step in given.steps:
        table.add_row(step.kind, step.id, Text(step.text))
    out.print(table)


def receipt(given: Receipt) -> None:
    """What was removed, and the digests of the weights before and after."""
    table = Table(title=f"receipt {given.id}", title_justify="left", show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    removed = ", ".join(f"{count} {what}" for what, count in given.removed.items() if count)
    table.add_row("removed", removed or "nothing")
    table.add_row("events", Text("\n".join(given.event_ids) or "none"))
    table.add_row("weights before", given.digest_before or "none")
    table.add_row("weights after", given.digest_after or "none")
    table.add_row("replayed updates", str(given.replayed))
    out.print(table)


def pairs(title: str, values: dict[str, Any]) -> None:
    """A dictionary as a two-column table; dictionaries inside are flattened with dots."""
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in flat(values):
        table.add_row(key, Text(str(value)))
    out.print(table)


def flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """("a.b", value) for each leaf."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list) or len(value) < 9:
            yield f"{prefix}{key}", value
        else:
            yield f"{prefix}{key}", f"{len(value)} entries"
