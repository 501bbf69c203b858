"""Turns the options of `nestmem forget` into one selector."""

from __future__ import annotations

from typing import Any

from nestmem.errors import InputError


def choose(ids: list[str], text: str | None, session: str | None, everything: bool) -> Any:
    """The selector for `Memory.forget`. Exactly one way of choosing must be given."""
    ways = [bool(ids), text is not None, session is not None and not ids and text is None, everything]
    if sum(ways) != 1:
        raise InputError(
            "say what to forget in one way: ids, --text WORDS, --session NAME, or --everything; "
            "`nestmem recall WORDS` shows ids"
        )
    if ids:
        return ids if len(ids) > 1 else ids[0]
    if text is not None:
        return {"text": text}
    return "everything" if everything else {"session": session}
