"""Vectors on disk: asked for once, the same bytes ever after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nestmem.embedders.fakes import HashEmbedder
from nestmem.errors import EmbedderError
from nestmem.evals import vectors
from nestmem.evals.vectors import CachedEmbedder


class Counting(HashEmbedder):
    """Keeps the texts of each call, and breaks down at `break_at` calls."""

    def __init__(self, *, dim: int = 8, name: str = "hash", break_at: int = 1 << 30) -> None:
        super().__init__(dim=dim, name=name)
        self.calls: list[list[str]] = []
        self.break_at = break_at

    def embed(self, texts: list[str]) -> np.ndarray:
        if len(self.calls) >= self.break_at:
            raise EmbedderError("the server is gone")
        self.calls.append(texts)
        return super().embed(texts)


def test_rows_are_those_of_the_inner_embedder_in_the_order_asked(tmp_path: Path) -> None:
    inner = Counting()
    cached = CachedEmbedder(inner, tmp_path / "vectors.db")
    texts = ["a longer text", "b", "", "b", "a longer text", "\ud800 alone"]
    found = cached.embed(texts)
    assert (cached.name, cached.dim) == (inner.name, inner.dim)
    assert found.dtype == np.float32
    assert np.array_equal(found, HashEmbedder(dim=8).embed(texts))
    # Each text once, short ones first.
    assert inner.calls == [["", "b", "\ud800 alone", "a longer text"]]
    cached.close()


def test_nothing_is_asked_twice_also_by_the_next_process(tmp_path: Path) -> None:
    first = CachedEmbedder(Counting(), tmp_path / "vectors.db")
    expected = first.embed(["a", "b"])
    first.close()
    inner = Counting()
    again = CachedEmbedder(inner, tmp_path / "vectors.db")
    assert np.array_equal(again.embed(["b", "c", "a"])[[2, 0]], expected)
    assert inner.calls == [["c"]]
    again.close()


def test_no_texts_are_no_rows(tmp_path: Path) -> None:
    cached = CachedEmbedder(Counting(), tmp_path / "vectors.db")
    assert cached.embed([]).shape == (0, 8)
    cached.close()


def test_a_vector_can_be_changed_without_changing_the_next(tmp_path: Path) -> None:
    cached = CachedEmbedder(Counting(), tmp_path / "vectors.db")
    cached.embed(["a"])[0] = 0
    assert np.array_equal(cached.embed(["a"]), HashEmbedder(dim=8).embed(["a"]))
    cached.close()


def test_another_model_or_dimension_has_its_own_vectors(tmp_path: Path) -> None:
    for other in (Counting(), Counting(name="other"), Counting(dim=4)):
        cached = CachedEmbedder(other, tmp_path / "vectors.db")
        assert cached.embed(["a"]).shape == (1, other.dim)
        assert other.calls == [["a"]]
        cached.close()


def test_what_was_made_before_a_breakdown_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "BATCH", 2)
    texts = [f"{'x' * n}" for n in range(1, 6)]
    broken = CachedEmbedder(Counting(break_at=1), tmp_path / "vectors.db")
    with pytest.raises(EmbedderError, match="gone"):
        broken.embed(texts)
    broken.close()
    inner = Counting()
    cached = CachedEmbedder(inner, tmp_path / "vectors.db")
    assert np.array_equal(cached.embed(texts), HashEmbedder(dim=8).embed(texts))
    assert inner.calls == [["xxx", "xxxx"], ["xxxxx"]]
    cached.close()


def test_more_texts_than_one_query_takes(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(1203)]
    cached = CachedEmbedder(Counting(), tmp_path / "vectors.db")
    first = cached.embed(texts)
    inner = Counting()
    again = CachedEmbedder(inner, tmp_path / "vectors.db")
    assert np.array_equal(again.embed(texts), first) and inner.calls == []
    again.close()
    cached.close()


def test_no_text_is_in_the_file(tmp_path: Path) -> None:
    cached = CachedEmbedder(Counting(), tmp_path / "vectors.db")
    cached.embed(["a secret sentence"])
    cached.close()
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "vectors.db").write_bytes(b"this is a text file, and no database at all\n" * 50)
    with pytest.raises(EmbedderError, match="--cache"):
        CachedEmbedder(Counting(), tmp_path / "vectors.db")
    with pytest.raises(EmbedderError, match="--cache"):
        CachedEmbedder(Counting(), tmp_path / "no folder" / "vectors.db")
