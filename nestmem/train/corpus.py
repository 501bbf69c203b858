"""Reading training text from files a person has at hand."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from nestmem.errors import InputError

OPENERS = {".gz": gzip.open, ".xz": lzma.open}
PLAIN = (".txt", ".md")
KINDS = (*PLAIN, ".jsonl")
EXPECTED = "expected .txt, .md or .jsonl, plain, .gz or .xz"
INVALID_SHARE = 0.001
"""The share of invalid UTF-8 above which a file is taken for something else than text."""


def kind_of(path: Path) -> str:
    """The suffix that says what is inside, the one of a compression left out."""
    return path.with_suffix("").suffix if path.suffix in OPENERS else path.suffix


def text_files(paths: Iterable[Path]) -> list[Path]:
    """The files named, and those of a known kind in the folders named, by path.

    Raises `InputError` for a path that is not there, a folder without such files, and a file of another kind.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and kind_of(p) in KINDS)
            if not inside:
                raise InputError(f"the folder {path} holds no training text; {EXPECTED}")
            found += inside
        elif not path.exists():
            raise InputError(f"{path} does not exist; {EXPECTED}, or a folder of such files")
        elif kind_of(path) not in KINDS:
            raise InputError(f"cannot read training text from {path}: {EXPECTED}")
        else:
            found.append(path)
    return found


def read_texts(path: Path, *, field: str = "text", separator: str = "") -> Iterator[str]:
    """Yield the documents of one file: `.txt` or `.md`, or `.jsonl` with the text in `field`; all may be `.gz`, `.xz`.

    A plain text file is one document or, with a `separator`, the documents between its occurrences; empty ones are
    yielded too. A byte that is no UTF-8 becomes U+FFFD. Raises `InputError` naming the file for any other kind of file,
    a damaged one, and one that is no text: it holds NUL bytes, or invalid UTF-8 in more than `INVALID_SHARE`.
    """
    if kind_of(path) not in KINDS:
        raise InputError(f"cannot read training text from {path}: {EXPECTED}")
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            if kind_of(path) in PLAIN:
                text = _decode(file.read(), path).removeprefix("\ufeff")
                yield from text.split(separator) if separator else [text]
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _field(_decode(line, f"{path}:{number}"), field, f"{path}:{number}")
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} is cut or damaged and cannot be unpacked: {error}") from error


def _decode(data: bytes, place: object) -> str:
    """UTF-8 with every kind of line end as a newline. Raises `InputError` when it is no text."""
    if b"\0" in data:
        raise InputError(f"{place} is not text: it holds NUL bytes. {EXPECTED.capitalize()}, in UTF-8")
    text = data.decode("utf-8", errors="replace")
    invalid = text.count("\ufffd") - data.count("\ufffd".encode())
    if invalid > INVALID_SHARE * len(text) + 1:
        raise InputError(
            f"{place} is not UTF-8 text: {invalid} of {len(text)} characters are invalid; convert it to UTF-8 first"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _field(line: str, field: str, place: str) -> str:
    """The text in a line of JSON."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: not JSON ({error}); expected an object a line, with {field!r}") from error
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        got = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise InputError(f"{place}: expected a field {field!r} that holds text, got {got}")
    if "\0" in row[field]:
        raise InputError(f"{place}: field {field!r} is not text: it holds NUL characters")
    return row[field]


def training_text(paths: list[Path], *, keep_aside: int = 2, max_characters: int = 12_000_000) -> str:
    """Join the documents of all files, `max_characters` characters at most, spread evenly over the files.

    The last `keep_aside` documents of every file with more than that many stay out: they are for evaluation.
    """
    parts = []
    for path in paths:
        documents = list(read_texts(path))
        if len(documents) > keep_aside:
            documents = documents[: len(documents) - keep_aside]
        share = max_characters // (len(paths) * len(documents))
        parts += [document.replace("\r", "")[:share] for document in documents]
    return "\n\n".join(parts)
