"""Books in the public domain, cut into passages and sentences: what the tasks on long texts are made from.

A folder of books holds `books.jsonl` (plain, .gz or .xz; one {gutenberg_id or id or title, text} a line), or plain
texts as Project Gutenberg gives them (*.txt; the id is the file's name). What stands outside of Gutenberg's START
and END lines is left out, and so are lines of the volunteers who made the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Licence, Part, Turn
from nestmem.evals.files import ENDINGS, rows
from nestmem.evals.files import text as read_text

NAMES = ("gutenberg_id", "id", "title")
SESSION_PASSAGES = 10
MARKS = re.compile(
    r"^\*\*\* ?(START|END) OF (?:THE|THIS) PROJECT GUTENBERG E-?BOOK.*$", re.MULTILINE | re.IGNORECASE
)
VOLUNTEERS = re.compile(
    r"^(produced by|e-?text prepared|end of (the )?project gutenberg|transcriber|\[the end of|\[illustration"
    r"|\[cover|note: project gutenberg|\*\*\*)",
    re.IGNORECASE,
)
SENTENCE = re.compile(
    r"""\S.*?(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)[.!?]["”’')\]]*(?=\s+["“‘'(]?[A-Z]|\s*$)""", re.DOTALL
)
# Books of SORT, by their Gutenberg number, at the commit that the project's data was taken from.
BOOKSORT_COMMIT = "ba136318b721f1bfe690927c41abb13f0c61f323"
BOOKSORT = ("69087", "72578", "72600", "72869", "72958", "72963", "72972", "73017", "73042")
BOOKSORT_LICENCE = Licence(
    name="texts in the public domain (Project Gutenberg), data CC0", redistribution="yes"
)
BOOKSORT_PARTS = tuple(
    Part(
        file=f"{number}-0.txt",
        url=f"https://raw.githubusercontent.com/bridge-ai-neuro/SORT/{BOOKSORT_COMMIT}/data/pg/full_text/{number}-0.txt",
    )
    for number in BOOKSORT
)


@dataclass(frozen=True, kw_only=True)
class Book:
    """A book's number or title, and its text with one line for each paragraph."""

    id: str
    text: str


def read_books(folder: Path, *, count: int, characters: int) -> list[Book]:
    """The first `count` books of a folder by id, each its first `characters` characters (0: all of both).

    InputError when there is none, or a file is not what it should be.
    """
    for ending in ENDINGS:
        path = folder / f"books.jsonl{ending}"
        if path.is_file():
            texts = _from_rows(path)
            break
    else:
        texts = {path.stem.removesuffix("-0"): read_text(path) for path in sorted(folder.glob("*.txt"))}
    if not texts:
        raise InputError(
            f"{folder} holds no books; expected books.jsonl (or .gz, .xz) with {{id, text}} a line, or *.txt"
        )
    chosen = sorted(texts)[: count or None]
    return [Book(id=name, text=_cut(clean(texts[name]), characters)) for name in chosen]


def _from_rows(path: Path) -> dict[str, str]:
    texts = {}
    for number, row in enumerate(rows(path, ["text"]), 1):
        name = next((str(row[key]) for key in NAMES if row.get(key)), None)
        if name is None or not isinstance(row["text"], str) or name in texts:
            raise InputError(
                f"{path}, book {number}: expected one of {', '.join(NAMES)} that no other book has, and a text"
            )
        texts[name] = row["text"]
    return texts


def clean(raw: str) -> str:
    """A text of Project Gutenberg as paragraphs, one a line, without what is not the book's.

    >>> clean("*** START OF THE PROJECT GUTENBERG EBOOK X ***\\n\\nIt was\\nlate.\\n\\n\\nShe left.\\n")
    'It was late.\\nShe left.'
    """
    text = raw.lstrip("\ufeff").replace("\r\n", "\n")
    start, end = 0, len(text)
    for mark in MARKS.finditer(text):
        if mark[1].upper() == "START":
            start = mark.end()
        else:
            end = min(end, mark.start())
    paragraphs = (" ".join(block.split()) for block in re.split(r"\n\s*\n", text[start:end]))
    return "\n".join(one for one in paragraphs if re.search(r"\w", one) and not VOLUNTEERS.match(one))


def _cut(text: str, characters: int) -> str:
    """The first paragraphs of a text that together have at most `characters`, one at least."""
    if not characters or len(text) <= characters:
        return text
    end = text.rfind("\n", 0, characters + 1)
    return text[: end if end > 0 else characters]


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph or passage, in order.

    >>> sentences('Mr. Bell came in. "Sit down!" he said. Nobody did.')
    ['Mr. Bell came in.', '"Sit down!" he said.', 'Nobody did.']
    """
    return [found[0].strip() for line in text.split("\n") for found in SENTENCE.finditer(line)]


def passages(text: str, words: int) -> list[str]:
    """A text in passages of about `words` words each: whole paragraphs, and long paragraphs by sentences."""
    pieces: list[str] = []
    for paragraph in text.split("\n"):
        pieces += [paragraph] if len(paragraph.split()) <= words else _halved(paragraph, words)
    found, current, size = [], [], 0
    for piece in pieces:
        length = len(piece.split())
        if current and size + length > words:
            found.append("\n".join(current))
            current, size = [], 0
        current.append(piece)
        size += length
    return [*found, "\n".join(current)] if size else found


def _halved(paragraph: str, words: int) -> list[str]:
    """A long paragraph in pieces of at most `words` words, at the ends of sentences where it has them."""
    ends = [found.end() for found in SENTENCE.finditer(paragraph)]
    starts = [0, *ends]
    pieces, current = [], ""
    for start, end in zip(starts, [*ends, len(paragraph)], strict=True):
        sentence = paragraph[start:end]
        if current and len((current + sentence).split()) > words:
            pieces.append(current.strip())
            current = ""
        current += sentence
    every = [piece.split() for piece in (*pieces, current.strip())]
    return [" ".join(piece[at : at + words]) for piece in every for at in range(0, len(piece), words)]


def told(book: Book, words: int) -> tuple[Turn, ...]:
    """The book as messages of the user, a passage each, ten to a session."""
    return tuple(
        Turn(
            id=f"{book.id}:{number}",
            session=f"{book.id}/{number // SESSION_PASSAGES}",
            role="user",
            text=text,
        )
        for number, text in enumerate(passages(book.text, words))
    )


def flat(turns: Sequence[Turn]) -> str:
    """The told text in one line, to see how often a piece of it occurs."""
    return " ".join(turn.text.replace("\n", " ") for turn in turns)
