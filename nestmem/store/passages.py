"""Cuts text into passages, the units that are searched, and into the words that are indexed."""

import re

MAX_PASSAGE_CHARS = 800

_BREAK = re.compile(r"\n+|(?<=[.!?])\s+|(?<=[。！？])")
# Thai, Lao, Japanese, Chinese and Korean characters are words of their own: these scripts do not
# (or not reliably) put spaces between words.
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")


def split(content: str, max_chars: int = MAX_PASSAGE_CHARS) -> list[tuple[int, int]]:
    """Character spans that cover `content`, each of at most `max_chars`, cut at sentence ends where possible.

    >>> split("short")
    [(0, 5)]
    """
    if len(content) <= max_chars:
        return [(0, len(content))]
    spans: list[tuple[int, int]] = []
    start = 0
    while len(content) - start > max_chars:
        end = _last_break(content, start, start + max_chars)
        spans.append((start, end))
        start = end
    spans.append((start, len(content)))
    return spans


def _last_break(content: str, start: int, limit: int) -> int:
    """Where to cut in the second half of [start, limit]: at a sentence end, else a space, else limit."""
    middle = (start + limit) // 2
    breaks = [match.end() for match in _BREAK.finditer(content, middle, limit)]
    if breaks and breaks[-1] > start:
        return breaks[-1]
    space = content.rfind(" ", middle, limit)
    return space + 1 if space >= 0 else limit


def words(text: str) -> list[str]:
    """The lower-case words of `text`, not yet stemmed (the index stems them).

    >>> words("Caroline's dog, 犬")
    ['caroline', 's', 'dog', '犬']
    """
    return _WORD.findall(text.lower())
