"""Text to rows of tokens: documents read, tokenised once, and packed so that none is mixed up with another.

    documents -> token ids on disk (`tokenise`) -> training and held-out documents (`split`) -> rows (`Rows.pack`)

Sizes: D documents, R rows, T tokens of a row (the context).
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from nestmem.errors import InputError, MissingExtra
from nestmem.train.corpus import read_texts, text_files
from nestmem.train.loop import Batch

PACKINGS = ("pack", "stream")
OPEN_ROWS = 256
"""Rows that `Rows.pack` keeps open for a document that fits."""
CHUNK_CHARACTERS = 1_000_000
"""About so many characters are tokenised at a time."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where documents come from: `files` (text files and folders, see `corpus`), or a Hugging Face dataset.

    dataset    a folder written by `save_to_disk`, or a name on the hub, "name" or "name:configuration"
    split      of the dataset
    field      that holds the text: of a line of .jsonl, or of a row of the dataset
    separator  what stands between documents in plain text files; empty: a file is a document
    """

    files: tuple[Path, ...] = ()
    dataset: str = ""
    split: str = "train"
    field: str = "text"
    separator: str = ""

    def __post_init__(self) -> None:
        if bool(self.files) == bool(self.dataset):
            raise InputError(
                f"files={[str(p) for p in self.files]} and dataset={self.dataset!r}: expected text files (--data) or a "
                "dataset (--dataset), one of them"
            )

    def documents(self) -> Iterator[str]:
        """All documents in order, empty ones too."""
        if self.files:
            for path in text_files(self.files):
                yield from read_texts(path, field=self.field, separator=self.separator)
            return
        rows = self._rows()
        for text in rows[self.field]:
            if not isinstance(text, str) or "\0" in text:
                raise InputError(
                    f"{self.dataset}: field {self.field!r} holds something that is not text: {text!r:.80}"
                )
            yield text

    def digest(self) -> str:
        """A name for the content: of the bytes of the files, or the dataset's own fingerprint."""
        made = hashlib.sha256(json.dumps([self.field, self.separator]).encode())
        if self.files:
            for path in text_files(self.files):
                with path.open("rb") as file:
                    made.update(hashlib.file_digest(file, "sha256").digest())
        else:
            made.update(f"{self.split} {self._rows()._fingerprint}".encode())
        return made.hexdigest()[:32]

    def _rows(self) -> Any:
        try:
            import datasets  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtra("data", "datasets") from error
        name, _, configuration = self.dataset.partition(":")
        try:
            if Path(self.dataset).is_dir():
                found = datasets.load_from_disk(self.dataset)
            else:
                found = datasets.load_dataset(name, configuration or None)
        except (FileNotFoundError, ConnectionError, ValueError) as error:
            raise InputError(
                f"cannot load the dataset {self.dataset!r}: {error}. Expected a folder written by save_to_disk, or a "
                "name on the Hugging Face hub, 'name' or 'name:configuration'"
            ) from error
        if isinstance(found, dict):
            if self.split not in found:
                raise InputError(f"{self.dataset} has no split {self.split!r}; it has {', '.join(found)}")
            found = found[self.split]
        if self.field not in found.column_names:
            raise InputError(
                f"{self.dataset} has no field {self.field!r}; it has {', '.join(found.column_names)}"
            )
        return found


# -- tokens --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokenised documents. `ids` of all in a row; document d is ids[ends[d-1] : ends[d]]; `keys` [D] are the first 64
    bits of the SHA-256 of each text; `empty` documents were left out."""

    ids: np.ndarray
    ends: np.ndarray
    keys: np.ndarray
    empty: int
    fingerprint: str


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A name for what a tokenizer does to text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    ends = json.dumps([_prefix(tokenizer), tokenizer.eos_token_id])
    return hashlib.sha256((rules + ends).encode()).hexdigest()[:32]


def tokenise(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    *,
    on_event: Callable[[str], None] = print,
) -> Tokens:
    """The documents of `source` as tokens, from the folder `cache` where they are there already.

    A document is what the tokenizer puts before a text (a beginning token, if it has that habit), the text's tokens,
    and its end token, if it has one. Documents of nothing but white space are left out and counted. Raises
    `InputError` when no document is left.
    """
    fingerprint = hashlib.sha256(f"{source.digest()} {tokenizer_digest(tokenizer)}".encode()).hexdigest()[:16]
    folder = cache / fingerprint
    found = _load(folder, fingerprint)
    if found is not None:
        return found
    temporary = cache / f"{fingerprint}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    on_event("tokenising the documents, once; the tokens are kept in " + str(folder))
    kind = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    prefix = _prefix(tokenizer)
    suffix = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    empty, end = 0, 0
    ends: list[int] = []
    keys: list[int] = []

    def write(texts: list[str], file: Any) -> None:
        nonlocal end
        for text, row in zip(texts, _encode(tokenizer, texts), strict=True):
            ids = np.asarray(prefix + row + suffix, dtype=kind)
            file.write(ids.tobytes())
            end += len(ids)
            ends.append(end)
            keys.append(document_key(text))

    with (temporary / "ids.bin").open("wb") as file:
        waiting: list[str] = []
        characters = 0
        for text in source.documents():
            if not text.strip():
                empty += 1
                continue
            waiting.append(text)
            characters += len(text)
            if characters > CHUNK_CHARACTERS:
                write(waiting, file)
                waiting, characters = [], 0
        write(waiting, file)
    if not ends:
        shutil.rmtree(temporary)
        raise InputError(f"the training data holds no text: {empty} documents, all of them empty")
    np.asarray(ends, dtype=np.int64).tofile(temporary / "ends.bin")
    np.asarray(keys, dtype=np.uint64).tofile(temporary / "keys.bin")
    info = {
        "fingerprint": fingerprint,
        "tokens": end,
        "documents": len(ends),
        "empty": empty,
        "dtype": kind.name,
    }
    (temporary / "info.json").write_text(json.dumps(info) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    made = _load(folder, fingerprint)
    assert made is not None
    return made


def document_key(text: str) -> int:
    """64 bits of a document's hash, which decide whether it is held out."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def is_held_out(key: int | np.ndarray, share: float) -> Any:
    """Whether a document with this key is held out, when `share` of the documents are."""
    return key < np.uint64(min(share, 1.0) * (2**64 - 2**11))


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    made: Any = tokenizer(texts, add_special_tokens=False, verbose=False)
    return made["input_ids"]


def _prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer itself puts before a text."""
    bos: Any = tokenizer.bos_token_id
    made: Any = tokenizer("", verbose=False)
    return [bos] if bos is not None and made["input_ids"][:1] == [bos] else []


def _load(folder: Path, fingerprint: str) -> Tokens | None:
    """The cache in a folder; None when it is not there or not whole."""
    try:
        info = json.loads((folder / "info.json").read_text())
        kind = np.dtype(info["dtype"])
        sizes = {
            "ids.bin": info["tokens"] * kind.itemsize,
            "ends.bin": info["documents"] * 8,
            "keys.bin": info["documents"] * 8,
        }
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None
    return Tokens(
        ids=np.memmap(folder / "ids.bin", dtype=kind, mode="r"),
        ends=np.fromfile(folder / "ends.bin", dtype=np.int64),
        keys=np.fromfile(folder / "keys.bin", dtype=np.uint64),
        empty=info["empty"],
        fingerprint=fingerprint,
    )


def split(tokens: Tokens, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the training documents and of the held-out ones, apart by the hash of their text.

    Equal documents land on the same side, and a document stays on its side when others are added. When `share` is above 0
    and the hashes leave nothing on one side, the document with the smallest hash is the held-out one; nothing is held
    out when all documents are equal.
    """
    held = is_held_out(tokens.keys, share)
    if share > 0 and (held.all() or not held.any()):
        held = tokens.keys == tokens.keys.min()
        if held.all():
            held = np.zeros_like(held)
    return np.flatnonzero(~held), np.flatnonzero(held)


# -- rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of T tokens made of pieces of documents: row r is the pieces first[r] to first[r+1] - 1.

    ids      all tokens; piece p is ids[start[p] : start[p] + length[p]]
    context  T
    pad      the token that fills a row up
    across   documents of a row flow into each other: no document_ids are given but for padding
    """

    ids: np.ndarray
    start: np.ndarray
    length: np.ndarray
    first: np.ndarray
    context: int
    pad: int
    across: bool

    def __len__(self) -> int:
        return len(self.first) - 1

    @classmethod
    def pack(
        cls, tokens: Tokens, documents: np.ndarray, *, context: int, pad: int, seed: int, packing: str
    ) -> Rows:
        """Pack documents, shuffled by the seed.

        pack    a row is whole documents, each with a number of its own in `document_ids`, so that memories start anew
                in it. A document longer than a row is split over consecutive rows, each part of which starts anew; the
                rest of it is packed as a document, or left out when it is one token. What stays free is padding
        stream  all documents in one stream, cut every T tokens, without document_ids: what is before in a row, of
                whatever document, is context. The last tokens, fewer than a row, are left out where there are others
        """
        order = np.random.default_rng([seed, 0]).permutation(documents)
        starts = np.concatenate([[0], tokens.ends[:-1]])[order]
        lengths = tokens.ends[order] - starts
        place = _streamed if packing == "stream" else _packed
        rows = place(starts.tolist(), lengths.tolist(), context)
        if not rows:
            raise InputError("no document has two tokens, one to read and one to predict; give more text")
        return cls(
            ids=tokens.ids,
            start=np.asarray([start for row in rows for start, _ in row], dtype=np.int64),
            length=np.asarray([length for row in rows for _, length in row], dtype=np.int64),
            first=np.cumsum([0, *map(len, rows)]),
            context=context,
            pad=pad,
            across=packing == "stream",
        )

    def batch(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """The rows of these numbers: input_ids, labels and document_ids, each [len(numbers), T]."""
        shape = (len(numbers), self.context)
        ids, documents = np.full(shape, self.pad, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
        for i, row in enumerate(numbers):
            at = 0
            for d, piece in enumerate(range(self.first[row], self.first[row + 1])):
                start, length = self.start[piece], self.length[piece]
                ids[i, at : at + length] = self.ids[start : start + length]
                documents[i, at : at + length] = 0 if self.across else d
                at += length
        labels = np.where(documents < 0, -100, ids)
        made = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
        if self.across and (documents >= 0).all():
            return made
        return {**made, "document_ids": torch.from_numpy(documents)}

    def by_step(self, size: int, seed: int) -> Callable[[int], Batch]:
        """Batches of `size` rows by step, pass after pass over all rows, each pass in an order of its own."""
        orders: dict[int, np.ndarray] = {}

        def order(epoch: int) -> np.ndarray:
            if epoch not in orders:
                for old in [number for number in orders if number < epoch - 1]:
                    del orders[old]
                orders[epoch] = np.random.default_rng([seed, 1 + epoch]).permutation(len(self))
            return orders[epoch]

        def batch(step: int) -> Batch:
            numbers = range(step * size, (step + 1) * size)
            return self.batch([order(n // len(self))[n % len(self)] for n in numbers])

        return batch

    def in_order(self, size: int, most: int) -> list[Batch]:
        """The first rows, `most` at most, in batches of `size`."""
        numbers = range(min(most, len(self)))
        return [self.batch(numbers[i : i + size]) for i in range(0, len(numbers), size)]


def _packed(starts: list[int], lengths: list[int], context: int) -> list[list[tuple[int, int]]]:
    """Best fit: a document goes to the open row that it leaves the least room in."""
    rows: list[list[tuple[int, int]]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), ascending
    for start, length in zip(starts, lengths, strict=True):
        while length > context:
            rows.append([(start, context)])
            start, length = start + context, length - context
        if length < 2:
            continue
        at = bisect.bisect_left(room, (length, -1))
        if at < len(room):
            free, row = room.pop(at)
        else:
            free, row = context, len(rows)
            rows.append([])
        rows[row].append((start, length))
        if free - length >= 2:
            bisect.insort(room, (free - length, row))
            if len(room) > OPEN_ROWS:
                room.pop(0)
    return rows


def _streamed(starts: list[int], lengths: list[int], context: int) -> list[list[tuple[int, int]]]:
    """Cut every `context` tokens; the last row, when it is not full, only where it is the only one."""
    rows: list[list[tuple[int, int]]] = []
    row: list[tuple[int, int]] = []
    free = context
    for start, length in zip(starts, lengths, strict=True):
        while length:
            taken = min(free, length)
            row.append((start, taken))
            start, length, free = start + taken, length - taken, free - taken
            if not free:
                rows.append(row)
                row, free = [], context
    return rows if rows or context - free < 2 else [row]
