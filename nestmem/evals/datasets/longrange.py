"""Long-range understanding: which of six sentences followed a given one, anywhere in a book that was told.

In the manner of EventQA of MemoryAgentBench (Hu et al., arXiv 2507.05257): a book is told once, passage by passage,
and asked about at its end. EventQA asks a reader which of six events comes next after the events so far; the right
event was told, so it is a test of recall. Here the sentence before is given, the right option is the sentence that
stood right after it, and the five others stand elsewhere in the told text, none in the same passage. (EventQA has a
model write its events and its false options; these are the book's own sentences, so nothing is made up and no model
is needed.) The kind says in which third of the text the answer was told; evidence is the passage that holds both
sentences. Chance is 1/6.

Since the question holds all six options, retrieval by the whole question also finds the passages of the wrong ones:
`choice_support` stays near chance, and `mrr` and `evidence_all` say what retrieval is worth.

Books: those of SORT, in the public domain (Project Gutenberg). Any folder of books in that form will do.

An example, from a text written for this docstring:

>>> from nestmem.evals.datasets.books import Book
>>> text = "\\n".join(f"On day {n} the crew of the small boat saw {n} birds. At noon of day {n} they caught {n + 2} "
...                  "fish and cooked them." for n in range(20))
>>> stream = book_stream(Book(id="log", text=text), questions=1, words=40, seed=0)
>>> print(stream.questions[0].text.replace("fish and cooked", "...").replace(": ", ":\\n"))
Which of these came right after this sentence in the text you were told:
"On day 6 the crew of the small boat saw 6 birds."
(a) On day 0 the crew of the small boat saw 0 birds.
(b) At noon of day 6 they caught 8 ... them.
(c) At noon of day 16 they caught 18 ... them.
(d) On day 12 the crew of the small boat saw 12 birds.
(e) On day 10 the crew of the small boat saw 10 birds.
(f) On day 1 the crew of the small boat saw 1 birds.
>>> stream.questions[0].answers, stream.questions[0].kind, stream.questions[0].evidence
(('At noon of day 6 they caught 8 fish and cooked them.',), '1 first third', ('log:6',))
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

OPTIONS = 6
SENTENCE_WORDS = (8, 40)
THIRDS = ("1 first third", "2 middle third", "3 last third")


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence of the told text that can be an option, with the one before it when that can be asked from."""

    text: str
    turn: int
    before: str | None


def load(
    folder: Path | None,
    *,
    books: int = 4,
    characters: int = 100_000,
    questions: int = 25,
    passage_words: int = 200,
    seed: int = 0,
) -> Dataset:
    """Streams of books (one each, its first `characters`; 0: all of it), `questions` a book."""
    if folder is None:
        raise InputError("long_range needs a folder of books; give --data")
    found = library.read_books(folder, count=books, characters=characters)
    streams = tuple(book_stream(book, questions=questions, words=passage_words, seed=seed) for book in found)
    missing = len(found) * questions - sum(len(stream.questions) for stream in streams)
    return Dataset(
        streams=streams,
        source=folder.name,
        left_out={"questions that the text is too short for": missing} if missing else {},
    )


def book_stream(book: library.Book, *, questions: int, words: int, seed: int) -> Stream:
    """A book in passages of about `words` words, asked about at its end; as many questions from each third."""
    rng = random.Random(f"long_range/{seed}/{book.id}")
    turns = library.told(book, words)
    pool = find_sentences(turns)
    thirds: list[list[Sentence]] = [[], [], []]
    for sentence in pool:
        if sentence.before is not None:
            thirds[sentence.turn * 3 // len(turns)].append(sentence)
    for third in thirds:
        rng.shuffle(third)
    asked: list[Question] = []
    order = [number % 3 for number in range(questions)]
    rng.shuffle(order)
    for number, third in enumerate(order):
        others = _others(pool, thirds[third][-1].turn, rng) if thirds[third] else []
        if len(others) == OPTIONS - 1:
            asked.append(_question(f"{book.id}/{number}", thirds[third].pop(), others, turns, rng))
    return Stream(id=book.id, turns=turns, questions=tuple(asked))


def find_sentences(turns: Sequence[Turn]) -> list[Sentence]:
    """Sentences of 8 to 40 words that occur once in the text and are not set in capitals."""
    every = [(number, library.sentences(turn.text)) for number, turn in enumerate(turns)]
    often = Counter(sentence for _, found in every for sentence in found)

    def usable(sentence: str) -> bool:
        length = len(sentence.split())
        return (
            SENTENCE_WORDS[0] <= length <= SENTENCE_WORDS[1]
            and often[sentence] == 1
            and not sentence.isupper()
        )

    pool = []
    for number, found in every:
        for place, sentence in enumerate(found):
            if usable(sentence):
                before = found[place - 1] if place and usable(found[place - 1]) else None
                pool.append(Sentence(text=sentence, turn=number, before=before))
    return pool


def _others(pool: Sequence[Sentence], turn: int, rng: random.Random) -> list[str]:
    """Five sentences of other passages."""
    elsewhere = [sentence.text for sentence in pool if sentence.turn != turn]
    return rng.sample(elsewhere, OPTIONS - 1) if len(elsewhere) >= OPTIONS - 1 else []


def _question(
    name: str, right: Sentence, others: list[str], turns: Sequence[Turn], rng: random.Random
) -> Question:
    choices = [right.text, *others]
    rng.shuffle(choices)
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip("abcdef", choices, strict=True))
    return Question(
        id=name,
        text=f'Which of these came right after this sentence in the text you were told: "{right.before}"\n{listed}',
        kind=THIRDS[right.turn * 3 // len(turns)],
        after=len(turns),
        answers=(right.text,),
        evidence=(turns[right.turn].id,),
        choices=tuple(choices),
        candidates=tuple(choices),
    )


TASK = Task(
    name="long_range",
    version="long_range/1",
    title="long-range understanding of books (in the manner of MemoryAgentBench's EventQA)",
    paper="arXiv 2507.05257",
    source="questions generated by nestmem.evals.datasets.longrange from the books of github.com/bridge-ai-neuro/SORT",
    licence=library.BOOKSORT_LICENCE,
    load=load,
    scorers=(
        "choice",
        "evidence_all",
        "choice_support",
        "turn_any@5",
        "turn_any@10",
        "mrr",
        "probe_first",
        "probe_margin",
    ),
    without_reader="evidence_all",
    folder="booksort",
    options={"books": 4, "characters": 100_000, "questions": 25, "passage_words": 200, "seed": 0},
    fetch=library.BOOKSORT_PARTS,
)
