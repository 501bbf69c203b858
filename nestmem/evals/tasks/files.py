"""The files of the real data sets: where they are looked for, and what to say when they are not there.

`data` is a folder with one folder for each set. Nothing of them is in this package. Files may be plain, or
compressed with gzip or xz.
"""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def find(data: Path, name: str, file: str) -> Path:
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


def rows(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, each with these fields."""
    found = []
    for number, line in enumerate(text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number} is not JSON ({error}); expected one object a line"
            ) from error
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            raise InputError(
                f"{path}, line {number} has no {', '.join(missing)}; expected {', '.join(fields)}"
            )
        found.append(row)
    if not found:
        raise InputError(f"{path} is empty; expected one JSON object a line with {', '.join(fields)}")
    return found
