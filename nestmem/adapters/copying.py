"""Extractive decoding: an answer is a span of words of a given text, or one fixed phrase.

A small model finds the right place in a text long before it copies an unusual name without a slip. So while it
answers from text, only tokens that continue a span of the text are allowed; which span, and where it ends, the
model says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Spans:
    """The spans of words of a source, as token sequences, and the fixed `phrases` that are allowed beside them.

    `starts` and `ends` say of each source token whether a span may begin there and end after it.
    """

    source: tuple[int, ...]
    starts: tuple[bool, ...]
    ends: tuple[bool, ...]
    phrases: tuple[tuple[int, ...], ...]
    stop: tuple[int, ...]

    def allowed(self, made: list[int]) -> list[int]:
        """The tokens that may follow `made`, the answer so far; those of `stop` where a span or phrase may end."""
        found: set[int] = set()
        size = len(made)
        for first in range(len(self.source) - size + 1):
            if self.starts[first : first + 1] != (True,) or list(self.source[first : first + size]) != made:
                continue
            if first + size < len(self.source):
                found.add(self.source[first + size])
            if size and self.ends[first + size - 1]:
                found.update(self.stop)
        for phrase in self.phrases:
            if list(phrase[:size]) == made:
                found.update(phrase[size : size + 1] or self.stop)
        return sorted(found) or list(self.stop)


def spans_of(
    tokenizer: PreTrainedTokenizerBase, text: str, *, phrases: tuple[str, ...] = (), stop: tuple[int, ...]
) -> Spans:
    """The word spans of `text` under a tokenizer whose words carry their leading space."""
    source = tokenizer(" " + text, add_special_tokens=False)["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(source)
    starts = tuple(piece.startswith("Ġ") for piece in pieces)
    following = [*pieces[1:], "Ġ"]
    ends = tuple(not _continues(piece) for piece in following)
    fixed = tuple(tuple(tokenizer(" " + p, add_special_tokens=False)["input_ids"]) for p in phrases)
    return Spans(tuple(source), starts, ends, fixed, stop)


def _continues(piece: str) -> bool:
    """Whether a token goes on with the word before it: it starts with a letter, a digit or part of a character."""
    return not piece.startswith(("Ġ", "Ċ")) and (piece[:1].isalnum() or not piece[:1].isascii())


def reading_constraint(
    sources: list[Spans | None], prompt_tokens: int, vocabulary: list[int]
) -> Callable[[int, Any], list[int]]:
    """For `generate`: row b of a batch answers by a span of `sources[b]`; None leaves the row free."""

    def allowed(row: int, ids: Any) -> list[int]:
        spans = sources[row]
        return vocabulary if spans is None else spans.allowed(ids[prompt_tokens:].tolist())

    return allowed


def writing_constraint(
    sources: list[Spans], prompt_tokens: int, marker: list[int], newline: int, vocabulary: list[int]
) -> Callable[[int, Any], list[int]]:
    """For `generate`: what a writer puts after `marker` (" A:") on a line is a span of `sources[b]`."""

    def allowed(row: int, ids: Any) -> list[int]:
        line = ids[prompt_tokens:].tolist()
        if newline in line:
            line = line[len(line) - line[::-1].index(newline) :]
        for first in range(len(line) - len(marker) + 1):
            if line[first : first + len(marker)] == marker:
                return sources[row].allowed(line[first + len(marker) :])
        return vocabulary

    return allowed
