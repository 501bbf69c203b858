"""Reading training text from files a person has at hand."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

from nestmem.errors import InputError


def read_texts(path: Path) -> Iterator[str]:
    """Yield the documents of one file: `.txt`, or `.jsonl` with a field `text`; either may be `.gz` or `.xz`.

    A plain text file is one document. Raises `InputError` for any other kind of file.
    """
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    kind = path.with_suffix("").suffix if path.suffix in (".gz", ".xz") else path.suffix
    if kind not in (".txt", ".jsonl"):
        raise InputError(f"cannot read training text from {path}: expected .txt or .jsonl, plain, .gz or .xz")
    with opener(path, "rt", encoding="utf-8", errors="replace") as file:
        if kind == ".txt":
            yield file.read()
            return
        for number, line in enumerate(file, 1):
            row = json.loads(line)
            if "text" not in row:
                raise InputError(f"{path}:{number}: expected a field 'text', got {sorted(row)}")
            yield row["text"]


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
