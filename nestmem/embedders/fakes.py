"""An embedder without a model, for tests and examples."""

import hashlib
import re

import numpy as np


class HashEmbedder:
    """Each word is a pseudo-random direction, a text the sum of its words: like words, like vectors.

    >>> HashEmbedder(dim=8).embed(["a b", "b a"]).shape
    (2, 8)
    """

    def __init__(self, *, dim: int = 64, name: str = "hash") -> None:
        self.name = name
        self.dim = dim

    def embed(self, texts: list[str]) -> np.ndarray:
        """(n, dim) float32 rows of unit norm."""
        rows = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or [""]:
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
                rows[row] += np.random.default_rng(seed).standard_normal(self.dim, dtype=np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
