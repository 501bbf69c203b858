"""`nestmem observe`: from a file, stdin or an option to stored and learned messages."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nestmem.cli import show
from nestmem.cli.options import Where
from nestmem.errors import InputError

if TYPE_CHECKING:
    from nestmem.agent.messages import Message, Session
    from nestmem.store.records import Scope


def store(
    where: Where, *, file: Path | None, text: str | None, at: str | None, source: str, learn: bool
) -> None:
    """Stores one message or a whole file, then learns. Nothing is stored unless all of it can be read."""
    sessions = read(file, text)
    scopes: list[Scope] = []
    stored = 0
    with (where.open if learn else where.open_text)(create=True) as memory:
        before = sum(memory.ledger.count(scope) for scope in memory.ledger.scopes())
        for session in sessions:
            scope = scope_of(where, session)
            messages = [keyed(message, session, index) for index, message in enumerate(session.messages)]
            stored += len(
                memory.observe(
                    messages if file else list(session.messages), scope, occurred_at=at, source=source
                )
            )
            if replace(scope, session=None) not in scopes:
                scopes.append(replace(scope, session=None))
        new = sum(memory.ledger.count(scope) for scope in memory.ledger.scopes()) - before
        known = f" ({stored - new} were known already)" if stored > new else ""
        show.line(f"stored {new} messages in {where.db}{known}")
        if learn:
            with show.out.status("learning ..."):
                reports = memory.learn_many(scopes)
            for report in reports:
                show.learned(report)


def read(file: Path | None, text: str | None) -> list[Session]:
    """The sessions of `nestmem observe`'s arguments."""
    from nestmem.agent.messages import Session as Sitting
    from nestmem.agent.messages import check_messages, parse

    if (file is None) == (text is None):
        raise InputError("give a file to observe ('-' for stdin), or one message with --text")
    if text is not None:
        return [Sitting(id="", messages=tuple(check_messages(text)))]
    assert file is not None
    if str(file) == "-":
        return parse(sys.stdin.buffer.read())
    return [replace(session, id=f"{file.stem}/{session.id}") for session in parse(file)]


def scope_of(where: Where, session: Session) -> Scope:
    """Whose session it is: a file of several people's lives names the user, unless --user does."""
    if session.conversation and where.user == "default":
        return replace(where.scope(session.id or None), user=session.conversation)
    return where.scope("/".join(part for part in (session.conversation, session.id) if part) or None)


def keyed(message: Message, session: Session, index: int) -> Message:
    """The message with an idempotency key, so that observing the same file again stores nothing twice."""
    if "idempotency_key" in message.meta:
        return message
    said = "\0".join(
        (
            session.conversation,
            session.id,
            str(index),
            message.role,
            str(message.occurred_at),
            message.content,
        )
    )
    key = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
    return replace(message, meta={**message.meta, "idempotency_key": key})
