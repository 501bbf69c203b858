"""The files of the real data sets: where they are looked for, and what to say when they are not there.

`data` is a folder with one folder for each set. Nothing of them is in this package. Files may be plain, or
compressed with gzip or xz.
"""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from nestmem.errors import InputError

# Set -> where its originals are, for the message when it is missing.
ORIGINALS = {
    "ai2_arc": "https://allenai.org/data/arc, as JSON lines {id, question {stem, choices}, answerKey}",
    "babi": "the bAbI tasks v1.2, folder en, as JSON lines {task, name, split, text}",
    "banking77": "https://github.com/PolyAI-LDN/task-specific-datasets, folder banking_data",
    "boolq": "https://github.com/google-research-datasets/boolean-questions, as JSON lines {question, passage, label}",
    "clinc150": "https://github.com/clinc/oos-eval, data/data_full.json and data/domains.json",
    "hellaswag": "https://github.com/rowanz/hellaswag, as JSON lines {ctx, label, endings}",
    "lambada": "https://zenodo.org/records/2630551 (detokenised), as JSON lines {text}",
    "pg19_books": "https://github.com/google-deepmind/pg19, as JSON lines {id, text}",
    "piqa": "https://yonatanbisk.com/piqa, as JSON lines {goal, sol1, sol2, label}",
    "tinystories_sample": "https://huggingface.co/datasets/roneneldan/TinyStories, text with <|endoftext|> between",
    "wikitext2": "WikiText-2 (Merity et al., 2016), test.txt and valid.txt with their ' = Title = ' lines",
}
ENDINGS = ("", ".gz", ".xz")
CHUNK_CHARACTERS = 1 << 22


def find_set(data: Path, name: str, file: str) -> Path:
    """The file `data/name/file`, plain or compressed."""
    for ending in ENDINGS:
        path = data / name / f"{file}{ending}"
        if path.is_file():
            return path
    raise InputError(
        f"{data / name / file} does not exist (nor with {' or '.join(ENDINGS[1:])}); expected a folder of data sets "
        f"with {name}/{file} in it. Get it from: {ORIGINALS[name]}"
    )


def text(path: Path) -> str:
    """The whole text of a file, UTF-8, decompressed by its ending."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
        elif path.suffix == ".xz":
            raw = lzma.decompress(raw)
        return raw.decode("utf-8")
    except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as text ({error}); expected UTF-8, plain or compressed; fetch it again"
        ) from error


def find(folder: Path, names: Sequence[str], what: str) -> Path:
    """The first file of `names` in `folder`, plain or compressed with gzip or xz. InputError when none is there."""
    for name in names:
        for ending in ENDINGS:
            path = folder / f"{name}{ending}"
            if path.is_file():
                return path
    raise InputError(
        f"{folder} has none of {', '.join(names)} (nor with .gz or .xz); expected {what}. "
        "`nestmem eval fetch` gets it"
    )


def rows(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, or of one JSON list, each with these fields. Lines end at a newline only:
    texts may hold the other characters that `str.splitlines` splits at."""
    whole = text(path)
    if whole.lstrip()[:1] == "[":
        found = [("record", number, row) for number, row in enumerate(_json(whole, f"{path}"), 1)]
    else:
        lines = [(number, line) for number, line in enumerate(whole.split("\n"), 1) if line.strip()]
        found = [("line", number, _json(line, f"{path}, line {number}")) for number, line in lines]
    for unit, number, row in found:
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            raise InputError(
                f"{path}, {unit} {number} has no {', '.join(missing)}; expected {', '.join(fields)}"
            )
    if not found:
        raise InputError(f"{path} is empty; expected objects with {', '.join(fields)}")
    return [row for _, _, row in found]


def _json(given: str, where: str) -> Any:
    try:
        return json.loads(given)
    except ValueError as error:
        raise InputError(
            f"{where} is not JSON ({error}); expected one object a line, or one list; it may be half: get it again"
        ) from error


def _open(path: Path) -> TextIO:
    opener: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
    return opener.get(path.suffix, open)(path, "rt", encoding="utf-8")


def records(path: Path) -> Iterator[Any]:
    """The objects of a JSON list one after another, for files too large to be held as one text."""
    decoder = json.JSONDecoder()
    held, place, opened = "", 0, False
    try:
        with _open(path) as stream:
            while True:
                piece = stream.read(CHUNK_CHARACTERS)
                held, place = held[place:] + piece, 0
                if not opened:
                    if held.lstrip()[:1] != "[":
                        raise ValueError("it does not begin with [")
                    held, opened = held.lstrip()[1:], True
                while (place := _past(held, place)) < len(held):
                    if held[place] == "]":
                        return
                    try:
                        record, place = decoder.raw_decode(held, place)
                    except json.JSONDecodeError:
                        if not piece:
                            raise
                        break
                    yield record
                if not piece:
                    raise ValueError("it breaks off before the last ]")
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read ({error}); expected a JSON list; it may be half: fetch it again"
        ) from error


def _past(text: str, place: int) -> int:
    """Where the next thing begins after blanks and commas."""
    while place < len(text) and text[place] in " \t\r\n,":
        place += 1
    return place
