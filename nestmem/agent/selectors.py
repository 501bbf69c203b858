"""What a `forget` means: from a selector to event ids. Never guesses between two things."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from nestmem.agent import extract, speech
from nestmem.errors import InputError
from nestmem.store import Ledger
from nestmem.store.records import Event, MemoryRecord, Scope

CLOSE_ENOUGH = 0.6


def select(ledger: Ledger, scope: Scope, selector: Any, *, exclude: Iterable[str] = ()) -> list[str]:
    """The events a selector names, as `Memory.forget` describes. `exclude`: events that are no candidates."""
    owner = scope.owner
    if selector == "everything":
        found = [e.id for e in ledger.events(scope)]
        if not found:
            raise InputError(f"there is nothing to forget of user {owner.user!r}")
        return found
    if isinstance(selector, str):
        return _by_id(ledger, owner, selector)
    if isinstance(selector, list | tuple) and selector and all(isinstance(s, str) for s in selector):
        return list(dict.fromkeys(id_ for s in selector for id_ in _by_id(ledger, owner, s)))
    if isinstance(selector, dict) and set(selector) == {"session"} and isinstance(selector["session"], str):
        found = [e.id for e in ledger.events(owner, session=selector["session"])]
        if not found:
            raise InputError(f"user {owner.user!r} has no session {selector['session']!r}")
        return found
    if (
        isinstance(selector, dict)
        and set(selector) == {"text"}
        and isinstance(selector["text"], str)
        and selector["text"].strip()
    ):
        return _by_text(ledger, scope, selector["text"], set(exclude))
    raise InputError(
        f"cannot forget {selector!r}; expected an event or memory id, a list of ids, "
        '{"session": id}, {"text": what}, or "everything"'
    )


def without_text(selector: Any) -> Any:
    """The selector as a receipt may hold it: what was searched for is left out."""
    return {"text": "(not kept)"} if isinstance(selector, dict) and "text" in selector else selector


def _by_id(ledger: Ledger, owner: Scope, id_: str) -> list[str]:
    if ledger.events(owner, ids=[id_]):
        return [id_]
    memory = next((m for m in ledger.memories(owner, active_only=False) if m.id == id_), None)
    if memory is None:
        raise InputError(
            f'user {owner.user!r} has no event or memory {id_!r}; to forget by what was said use {{"text": ...}}'
        )
    return [memory.event_id]


def _by_text(ledger: Ledger, scope: Scope, what: str, exclude: set[str]) -> list[str]:
    owner = scope.owner
    inside = {e.id for e in ledger.events(scope)} - exclude
    memories = [m for m in ledger.memories(owner, active_only=False) if m.event_id in inside]
    chosen = _same_key(what, memories) or _most_alike(what, memories)
    if chosen:
        echoes = [e.id for e in ledger.events(scope) if e.role == "assistant" and _echoes(e, chosen)]
        return list(dict.fromkeys([m.event_id for m in chosen] + echoes))
    wanted = speech.content(what)
    events = [
        e for e in ledger.events(scope) if e.id in inside and wanted and wanted <= speech.content(e.content)
    ]
    if not events:
        raise InputError(f"nothing that was said matches {what!r}; give an id, or say it in other words")
    if len(events) > 1:
        shown = "; ".join(f"{e.id}: {e.content[:80]}" for e in events[:5])
        raise InputError(f"{len(events)} messages match {what!r}; forget one by its id: {shown}")
    return [events[0].id]


def _same_key(what: str, memories: list[MemoryRecord]) -> list[MemoryRecord]:
    """Reads "my locker code", "where I live", "that my dog is called Biscuit" as what a statement is about."""
    bare = re.sub(
        r"^(?:that|about|everything about|all about|the fact that) ",
        "",
        what.strip(" .!?"),
        flags=re.IGNORECASE,
    )
    for phrase in (bare, f"{bare} is Zzyx", f"my {bare} is Zzyx", f"{re.sub('^the ', 'my ', bare)} is Zzyx"):
        keys = {item.key for item in extract.extract(phrase).items if item.question}
        bases = {key.removesuffix("/zzyx") for key in keys}
        found = [
            m
            for m in memories
            if m.key in keys
            or (m.key in bases or (m.key.rsplit("/", 1)[0] in bases and m.key.count("/") > 1))
        ]
        if found:
            return found
    return []


def _most_alike(what: str, memories: list[MemoryRecord]) -> list[MemoryRecord]:
    """All memories of the one key that is most like `what`; InputError when several keys are equally like it."""
    wanted = speech.content(what)
    if not wanted:
        return []
    scores: dict[str, float] = {}
    for memory in memories:
        about = re.sub("[/_.]", " ", memory.key)
        held = speech.content(f"{memory.question or ''} {memory.answer or ''} {memory.text} {about}")
        scores[memory.key] = max(scores.get(memory.key, 0.0), len(wanted & held) / len(wanted))
    best = max(scores.values(), default=0.0)
    if best < CLOSE_ENOUGH:
        return []
    keys = [key for key, score in scores.items() if score == best]
    if len({m.event_id for m in memories if m.key in keys}) > 1 and len(keys) > 1:
        shown = "; ".join(f"{m.id}: {m.text[:80]}" for m in memories if m.key in keys[:5])
        raise InputError(f"{len(keys)} memories match {what!r}; forget one by its id: {shown}")
    return [m for m in memories if m.key in keys]


def _echoes(event: Event, memories: list[MemoryRecord]) -> bool:
    """Whether an assistant's message repeats a value that is to be forgotten."""
    return any(m.answer and speech.holds_answer(event.content, m.answer) for m in memories)
