"""Systems that keep one page instead of the history: a rolling summary, and a profile of the user.

Both also keep the turns they read, only to make the page anew from the others after a forget; `bytes` counts page
and turns.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.resources import files

from nestmem.agent import extract
from nestmem.agent.recall import CHARS_PER_TOKEN
from nestmem.errors import LLMError
from nestmem.evals.datasets.base import Turn
from nestmem.evals.systems.base import Kind, Reader, Reply, Setup
from nestmem.evals.systems.history import History, Piece, ids, pack, pieces, render, size
from nestmem.evals.systems.retrieval import content_words

PROFILE_TOKENS = 500
LEAST_WORDS = 3
"""A sentence with fewer words that say something is not kept: its mean weight says little."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+|(?<=[。！？])")


def failure(message: str) -> str:
    """The reason of a failed reading, from an `LLMError` of `nestmem.agent.llm`.

    >>> failure("http://host/v1 answered an empty message")
    'empty'
    """
    if message.endswith("answered an empty message"):
        return "empty"
    _, refused, why = message.partition(" refused to answer: ")
    return f"refused: {why}" if refused else f"error: {message}"


def prompt(name: str) -> str:
    """The prompt file `name` ("answer.v1") without its last newline."""
    return (files("nestmem.evals") / "prompts" / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")


# A rolling summary.


@dataclass(kw_only=True)
class _Sentence:
    """A sentence of a turn with the words that weigh in it."""

    piece: Piece
    words: frozenset[str]


@dataclass(kw_only=True)
class _Summary:
    """The page of one scope. kept: its sentences, or written: its text, where a model wrote it. turns, waiting:
    what it was made from, and what was said since. said, held: of each word, how often it was said, and in how
    many turns. lost, why: how often the model failed to write it, and the last reason."""

    kept: list[_Sentence] = field(default_factory=list)
    written: str | None = None
    history: History = field(default_factory=History)
    waiting: list[Turn] = field(default_factory=list)
    told: int = 0
    said: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    why: str = ""

    def extend(self, budget_tokens: int) -> None:
        """Keeps of the page and of what was said since the sentences with the weightiest words."""
        sentences = list(self.kept)
        for turn in self.waiting:
            words = content_words(turn.text)
            self.said.update(words)
            self.held.update(set(words))
            self.told += 1
            for part, text in enumerate(_SENTENCE_END.split(turn.text)):
                if text and len(found := frozenset(content_words(text))) >= LEAST_WORDS:
                    piece = Piece(turn=turn, text=text.strip(), place=(self.told, part))
                    sentences.append(_Sentence(piece=piece, words=found))
        by_place = {sentence.piece.place: sentence for sentence in sentences}
        # Of two with the same weight the one said last.
        best = sorted(sentences, key=lambda one: (self._weight(one), one.piece.place), reverse=True)
        packed = pack((sentence.piece for sentence in best), budget_tokens)
        self.kept = [replace(by_place[piece.place], piece=piece) for piece in packed]
        self.waiting = []

    def _weight(self, sentence: _Sentence) -> float:
        """The mean over its words of (1 + ln times said) * ln((1 + turns) / turns that hold it), tf-idf with the
        history as the document: in a long history highest for words that stand in about the root of its turns,
        lower for what was said once, lowest for what stands everywhere."""
        weights = (
            (1 + math.log(self.said[word])) * math.log((1 + self.told) / self.held[word])
            for word in sorted(sentence.words)
        )
        return round(sum(weights) / len(sentence.words), 9)


class Summary:
    """After each session the page is written again from the page and what was said since.

    With a reader that has a model, the model writes it; such a page names no turns, so `shown` is empty. Where the
    model fails (an error, a refusal, nothing), the page stays as it was without what was said since: counted in the
    notes of each later reply. Without
    one, the page is made of sentences of the turns, those with the weightiest words, within the budget."""

    def __init__(self, reader: Reader, budget_tokens: int) -> None:
        self._reader = reader
        self._budget_tokens = budget_tokens
        self._pages: dict[str, _Summary] = {}

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Keeps the turn for the end of the session."""
        page = self._page(scope)
        page.history.add(message)
        page.waiting.append(message)

    def settle(self, scope: str) -> None:
        """Writes the page, when something was said since."""
        self._write(self._page(scope))

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """What the reader says to the page, as it was when the last session ended."""
        page = self._page(scope)
        notes: tuple[str, ...] = ()
        if page.written is not None:
            context, shown = page.written, ()
            notes = ("the summary is a model's text: it names no turns, so evidence is not counted",)
            if page.lost:
                lost = f"the summary could not be written after {page.lost} sessions and stayed as it was"
                notes = (*notes, f"{lost}; the last time: {page.why}")
        else:
            found = [sentence.piece for sentence in page.kept]
            context, shown = render(found), ids(found)
        reading = self._reader.read(question, context, at=time)
        return Reply(reading=reading, context=context, shown=shown, notes=notes)

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """Writes the page anew, session by session, from the turns that are left."""
        before = self._page(scope)
        before.history.drop(turns)
        gone = set(turns)
        waiting = {turn.id for turn in before.waiting} - gone
        if not before.history.dropped:
            return
        page = self._pages[scope] = _Summary()
        for number, turn in enumerate(before.history.turns):
            last = before.history.turns[number - 1] if number else turn
            if (last.session, last.id in waiting) != (turn.session, turn.id in waiting):
                self._write(page)
            page.history.add(turn)
            page.waiting.append(turn)
        if not waiting:
            self._write(page)

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        """None: nothing is learned."""
        return None

    def bytes(self, scope: str) -> int:
        """Of the page, and of the turns that it is made anew from after a forget."""
        page = self._page(scope)
        text = page.written or "".join(sentence.piece.text for sentence in page.kept)
        return len(text.encode("utf-8", "surrogatepass")) + page.history.bytes

    def close(self) -> None:
        """Holds nothing."""

    def _page(self, scope: str) -> _Summary:
        return self._pages.setdefault(scope, _Summary())

    def _write(self, page: _Summary) -> None:
        if not page.waiting:
            return
        instruction = prompt("summary.v1").replace("{words}", str(self._budget_tokens * 3 // 4))
        text = f"Summary:\n{page.written or ''}\n\nNew conversation:\n{render(pieces(page.waiting))}"
        try:
            written = self._reader.write(instruction, text, max_tokens=self._budget_tokens)
        except LLMError as error:
            written, page.lost, page.why = page.written or "", page.lost + 1, failure(str(error))
        if written is None:
            page.extend(self._budget_tokens)
        else:
            page.written = written[: CHARS_PER_TOKEN * self._budget_tokens]
            page.waiting = []


# A profile.


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A line of the profile: the newest value of a key, and the turn that told it."""

    known: extract.Known
    turn: Turn

    @property
    def line(self) -> str:
        return f"{self.known.key}: {self.known.answer}"


@dataclass(kw_only=True)
class _Profile:
    """The page of one scope, its oldest entry first."""

    entries: dict[str, _Entry] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)

    def learn(self, turn: Turn, budget_tokens: int) -> None:
        """Reads what the user (or, in a group, whoever speaks) says about themselves."""
        self.turns.append(turn)
        if turn.role != "user" and not turn.group:
            return
        known = [entry.known for entry in self.entries.values()]
        speaker = turn.speaker if turn.group else None
        for item in extract.extract(turn.text, speaker=speaker, known=known).items:
            if item.ends:
                self.entries.pop(item.key, None)
            elif item.answer is not None:
                # The newest stands last, also when its key is old.
                self.entries.pop(item.key, None)
                told = extract.Known(key=item.key, question=item.question, answer=item.answer, kind=item.kind)
                self.entries[item.key] = _Entry(known=told, turn=turn)
        self._fit(budget_tokens)

    def _fit(self, budget_tokens: int) -> None:
        """Drops the oldest entries until the page fits."""
        over = len(self.text) - CHARS_PER_TOKEN * budget_tokens
        for key in list(self.entries):
            if over <= 0:
                break
            over -= len(self.entries.pop(key).line) + 1

    @property
    def text(self) -> str:
        return "\n".join(entry.line for entry in self.entries.values())


class Profile:
    """One page of "key: value" lines about the user, read by the rules of `nestmem.agent.extract`, at most
    PROFILE_TOKENS or the budget, whichever is less; the oldest lines give way."""

    def __init__(self, reader: Reader, budget_tokens: int) -> None:
        self._reader = reader
        self._budget_tokens = min(PROFILE_TOKENS, budget_tokens)
        self._pages: dict[str, _Profile] = {}

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Reads the turn into the page."""
        self._page(scope).learn(message, self._budget_tokens)

    def settle(self, scope: str) -> None:
        """Does nothing: turns are read as they come."""

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """What the reader says to the page."""
        page = self._page(scope)
        reading = self._reader.read(question, page.text, at=time)
        shown = tuple(dict.fromkeys(entry.turn.id for entry in page.entries.values()))
        return Reply(reading=reading, context=page.text, shown=shown)

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """Reads the turns that are left into a new page."""
        gone = set(turns)
        left = [turn for turn in self._page(scope).turns if turn.id not in gone]
        self._pages[scope] = _read(left, self._budget_tokens)

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        """None: nothing is learned."""
        return None

    def bytes(self, scope: str) -> int:
        """Of the page, and of the turns that it is made anew from after a forget."""
        page = self._page(scope)
        return len(page.text.encode("utf-8", "surrogatepass")) + sum(map(size, page.turns))

    def close(self) -> None:
        """Holds nothing."""

    def _page(self, scope: str) -> _Profile:
        return self._pages.setdefault(scope, _Profile())


def _read(turns: Iterable[Turn], budget_tokens: int) -> _Profile:
    page = _Profile()
    for turn in turns:
        page.learn(turn, budget_tokens)
    return page


def make_summary(setup: Setup) -> Summary:
    """A rolling summary within the budget."""
    return Summary(setup.reader, setup.budget_tokens)


def make_profile(setup: Setup) -> Profile:
    """A profile page."""
    return Profile(setup.reader, setup.budget_tokens)


KINDS = (
    Kind(
        name="summary",
        about="a rolling summary: by the reader's model, or of the weightiest sentences without one",
        make=make_summary,
    ),
    Kind(
        name="profile",
        about=f"a page of what the user said about themselves, at most {PROFILE_TOKENS} tokens",
        make=make_profile,
    ),
)
