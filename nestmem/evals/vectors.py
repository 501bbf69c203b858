"""Vectors kept on disk: an evaluation embeds the same texts many times, and one machine embeds few a second."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import numpy as np

from nestmem.embedders import Embedder
from nestmem.errors import EmbedderError

BATCH = 256


class CachedEmbedder:
    """An embedder that asks `inner` for each text once, ever: vectors live in the SQLite file `path`, by the
    embedder's name, its dimension and the sha256 of the text. No text is stored."""

    def __init__(self, inner: Embedder, path: Path) -> None:
        self._inner = inner
        self.name = inner.name
        self.dim = inner.dim
        try:
            self._file = sqlite3.connect(path, timeout=60)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS vector (model TEXT, digest BLOB, row BLOB, PRIMARY KEY (model, digest)) "
                "WITHOUT ROWID"
            )
        except sqlite3.Error as error:
            raise EmbedderError(f"{path} cannot hold vectors ({error}); give another --cache file") from error
        self._model = f"{inner.name}/{inner.dim}"

    def embed(self, texts: list[str]) -> np.ndarray:
        """(n, dim) float32 rows of unit norm, in the order of `texts`. What is new is stored batch by batch, so an
        interrupted run goes on where it stopped."""
        digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        rows = self._stored(set(digests))
        new = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in rows}
        missing = sorted(new, key=lambda digest: len(new[digest]))
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            made = self._inner.embed([new[digest] for digest in part])
            rows |= zip(part, made, strict=True)
            with self._file:
                self._file.executemany(
                    "INSERT OR IGNORE INTO vector VALUES (?, ?, ?)",
                    [
                        (self._model, digest, row.astype(np.float32).tobytes())
                        for digest, row in zip(part, made, strict=True)
                    ],
                )
        return np.array([rows[digest] for digest in digests], np.float32).reshape(len(texts), self.dim)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _stored(self, digests: set[bytes]) -> dict[bytes, np.ndarray]:
        found: dict[bytes, np.ndarray] = {}
        wanted = list(digests)
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT digest, row FROM vector WHERE model = ? AND digest IN ({marks})"
            for digest, raw in self._file.execute(query, (self._model, *part)):
                found[digest] = np.frombuffer(raw, np.float32)
        return found
