"""SORT: which of two short pieces of a text came first, after the whole text was told.

Paper: Pink et al., "Assessing Episodic Memory in LLMs with Sequence Order Recall Tasks" (arXiv 2410.08133). Books,
told passage by passage; then pairs of segments of the told text, each from the start of a sentence, with equal
chances of either order. A question's kind is the distance between the two in words. Scored is the choice; evidence
is the one or two passages that hold the segments. Chance is 1/2.

The pairs are drawn here: the published ones (BookSORT, 36,000 pairs) are cut from the same nine books in the same
manner, but are not in the authors' repository. The books are in the public domain (Project Gutenberg), the data of
SORT is CC0.

An example, from a text written for this docstring:

>>> from nestmem.evals.datasets.books import Book
>>> text = "\\n".join(f"On day {n} the crew of the boat saw {n} birds at sea. They wrote it down." for n in range(60))
>>> stream = sort_stream(Book(id="log", text=text), questions=1, words=40, segment_words=8, seed=2)
>>> print(stream.turns[0].text.splitlines()[0])
On day 0 the crew of the boat saw 0 birds at sea. They wrote it down.
>>> print(stream.questions[0].text)
Here are two pieces of the text that you were told. Which of them came first in it?
(a) On day 23 the crew of the boat
(b) They wrote it down. On day 37 the
>>> stream.questions[0].answers, stream.questions[0].kind, stream.questions[0].evidence
(('On day 23 the crew of the boat',), '0,000-250 words', ('log:11', 'log:18'))
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestmem.errors import InputError
from nestmem.evals.datasets import books as library
from nestmem.evals.datasets.base import Dataset, Question, Stream, Task, Turn

# Distances between the two segments, in words: from, up to (not included).
BINS = ((0, 250), (250, 1_000), (1_000, 4_000), (4_000, 16_000), (16_000, 1_000_000))
TRIES = 400


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of the told text: its words, the turn that holds it, and where it begins (in words of the text)."""

    text: str
    turn: str
    at: int


def load(
    folder: Path | None,
    *,
    books: int = 9,
    characters: int = 100_000,
    questions: int = 30,
    passage_words: int = 200,
    segment_words: int = 20,
    seed: int = 0,
) -> Dataset:
    """Streams of books (one each, its first `characters`; 0: all of it), `questions` a book."""
    if folder is None:
        raise InputError("sort needs a folder of books; give --data")
    found = library.read_books(folder, count=books, characters=characters)
    streams = tuple(
        sort_stream(book, questions=questions, words=passage_words, segment_words=segment_words, seed=seed)
        for book in found
    )
    missing = len(found) * questions - sum(len(stream.questions) for stream in streams)
    notes = (f"{len(found)} of the {len(library.BOOKSORT)} books of SORT",)
    return Dataset(
        streams=streams,
        source=folder.name,
        left_out={"pairs that the text is too short for": missing} if missing else {},
        notes=notes if len(found) < len(library.BOOKSORT) else (),
    )


def sort_stream(book: library.Book, *, questions: int, words: int, segment_words: int, seed: int) -> Stream:
    """A book in passages of about `words` words, then the pairs: as many of each distance as the text has room for."""
    rng = random.Random(f"sort/{seed}/{book.id}")
    turns = library.told(book, words)
    segments = find_segments(turns, segment_words)
    asked: list[Question] = []
    used: set[tuple[int, int]] = set()
    kinds = [
        number for number, (low, _) in enumerate(BINS) if segments and low < segments[-1].at - segments[0].at
    ]
    for number in range(questions if kinds else 0):
        pair = _pair(segments, BINS[kinds[number % len(kinds)]], segment_words, used, rng)
        if pair is not None:
            asked.append(_question(f"{book.id}/{number}", *pair, after=len(turns), rng=rng))
    return Stream(id=book.id, turns=turns, questions=tuple(asked))


def find_segments(turns: Sequence[Turn], segment_words: int) -> list[Segment]:
    """Every run of words from the start of a sentence that stays in its passage and occurs once in the text."""
    found, at = [], 0
    for turn in turns:
        words = turn.text.split()
        place = 0
        for sentence in library.sentences(turn.text):
            first = sentence.split()
            place = _index(words, first, place)
            piece = words[place : place + segment_words]
            if len(piece) == segment_words and not " ".join(piece).isupper():
                found.append(Segment(text=" ".join(piece), turn=turn.id, at=at + place))
            place += len(first)
        at += len(words)
    often = Counter(segment.text for segment in found)
    return [segment for segment in found if often[segment.text] == 1]


def _index(words: list[str], first: list[str], start: int) -> int:
    """Where the words of a sentence begin, at or after `start`."""
    return next(place for place in range(start, len(words)) if words[place : place + len(first)] == first)


def _pair(
    segments: list[Segment],
    distance: tuple[int, int],
    segment_words: int,
    used: set[tuple[int, int]],
    rng: random.Random,
) -> tuple[Segment, Segment] | None:
    """Two segments, the earlier first, whose starts are `distance` apart; None when none was drawn."""
    for _ in range(TRIES):
        one = rng.choice(segments)
        low, high = max(distance[0], segment_words), distance[1]
        near = [later for later in segments if low <= later.at - one.at < high]
        if near:
            other = rng.choice(near)
            if (one.at, other.at) not in used:
                used.add((one.at, other.at))
                return one, other
    return None


def kind_of(apart: int) -> str:
    """The name of the distance of `apart` words; names sort by distance.

    >>> kind_of(300), kind_of(20_000)
    ('0,250-1,000 words', '16,000+ words')
    """
    low, high = next(pair for pair in BINS if pair[0] <= apart < pair[1])
    return f"{low:06,}+ words" if (low, high) == BINS[-1] else f"{low:05,}-{high:,} words"


def _question(name: str, first: Segment, second: Segment, *, after: int, rng: random.Random) -> Question:
    choices = (first.text, second.text) if rng.random() < 0.5 else (second.text, first.text)
    return Question(
        id=name,
        text="Here are two pieces of the text that you were told. Which of them came first in it?\n"
        f"(a) {choices[0]}\n(b) {choices[1]}",
        kind=kind_of(second.at - first.at),
        after=after,
        answers=(first.text,),
        evidence=tuple(dict.fromkeys((first.turn, second.turn))),
        choices=choices,
        candidates=choices,
    )


TASK = Task(
    name="sort",
    version="sort/1",
    title="SORT, which of two segments of a book came first",
    paper="arXiv 2410.08133",
    source="pairs generated by nestmem.evals.datasets.sort from the books of github.com/bridge-ai-neuro/SORT",
    licence=library.BOOKSORT_LICENCE,
    load=load,
    scorers=(
        "choice",
        "evidence_all",
        "evidence_share",
        "turn_any@5",
        "turn_all@5",
        "turn_all@10",
        "mrr",
        "probe_first",
        "probe_margin",
    ),
    without_reader="evidence_all",
    folder="booksort",
    options={
        "books": 9,
        "characters": 100_000,
        "questions": 30,
        "passage_words": 200,
        "segment_words": 20,
        "seed": 0,
    },
    fetch=library.BOOKSORT_PARTS,
)
