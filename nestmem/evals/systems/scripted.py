"""Fakes that know the key: a right and a wrong system, and readers whose replies are known beforehand.

They bracket every score: what is right gets 1, what is useless gets 0. They also serve examples and tests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice

from nestmem.agent.prompts import UNKNOWN
from nestmem.agent.recall import CHARS_PER_TOKEN, count_tokens
from nestmem.errors import InputError
from nestmem.evals.datasets.base import Question, Stream, Turn
from nestmem.evals.reading import flat
from nestmem.evals.systems.base import Hit, Kind, Reading, Reply, Setup
from nestmem.evals.systems.history import Piece, ids, pieces, render, size

USELESS = "Blorp quandle fnerk."
"""No words of any language: no accepted answer, no label of a choice, and no admission of not knowing."""
USELESS_TURNS = 20

# Systems.


class _Told:
    """What both systems share: the stream with its key, and the turns said so far."""

    def __init__(self, setup: Setup) -> None:
        self._reader = setup.reader
        self._budget_tokens = setup.budget_tokens
        self._depth = setup.depth
        if setup.key is None:
            raise InputError(
                "a scripted system was given no key; make it by its Kind, which says that it reads one"
            )
        self._stream = setup.key
        self._place = {turn.id: place for place, turn in enumerate(setup.key.turns)}
        self._turns: dict[str, dict[str, Turn]] = defaultdict(dict)
        self._flat: dict[Turn, str] = {}

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Keeps the turn."""
        self._turns[scope][message.id] = message

    def settle(self, scope: str) -> None:
        """Does nothing."""

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """Takes the turns out."""
        for id_ in turns:
            self._turns[scope].pop(id_, None)

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        """None: nothing is learned."""
        return None

    def bytes(self, scope: str) -> int:
        """Of the text kept."""
        return sum(map(size, self._turns[scope].values()))

    def close(self) -> None:
        """Holds nothing."""

    def _asked(self, text: str, at: datetime | None, scope: str) -> Question | None:
        """The question of the key that is asked now: of those with this text, the one whose place is next after
        the last turn said (turns without text are never said)."""
        if scope != self._stream.id:
            return None
        said = max((self._place.get(id_, -1) + 1 for id_ in self._turns[scope]), default=0)
        same = [question for question in self._stream.questions if question.text == text]
        dated = [question for question in same if question.at == at] or same
        later = [question for question in dated if question.after >= said] or dated
        return min(later, key=lambda question: question.after, default=None)

    def _holds(self, turn: Turn, values: Iterable[str]) -> bool:
        """Whether the turn, as it is shown, holds one of the values as whole words."""
        if turn not in self._flat:
            self._flat[turn] = f" {flat(render(pieces([turn])))} "
        shown = self._flat[turn]
        return any(f" {value} " in shown for value in map(flat, values) if value)

    def _reply(self, question: str, time: datetime | None, best_first: Sequence[Turn]) -> Reply:
        order = sorted(best_first, key=lambda turn: self._place.get(turn.id, 0))
        shown: list[Piece] = pieces(order)
        context = render(shown)
        ranked = tuple(
            Hit(turn=turn.id, session=turn.session, score=1 / rank) for rank, turn in enumerate(best_first, 1)
        )
        reading = self._reader.read(question, context, at=time)
        return Reply(reading=reading, context=context, shown=ids(shown), ranked=ranked)


class Oracle(_Told):
    """Shows and ranks exactly the evidence, newest first, whole, whatever the budget: the ceiling of retrieval.

    Where the key names no evidence it shows the newest turns that hold an accepted answer, at most `depth`."""

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """What the reader says to the evidence that was not forgotten."""
        asked = self._asked(question, time, scope)
        turns = self._turns[scope]
        if asked is None:
            return self._reply(question, time, [])
        if asked.evidence:
            evidence = [turns[id_] for id_ in asked.evidence if id_ in turns]
            evidence.sort(key=lambda turn: -self._place[turn.id])
        else:
            holding = (turn for turn in reversed(turns.values()) if self._holds(turn, asked.answers))
            evidence = list(islice(holding, self._depth))
        return self._reply(question, time, evidence)


class Useless(_Told):
    """Shows and ranks turns that say nothing about the answer: of sessions without evidence, the newest first, and
    none that holds an accepted answer, a word of the rubric or a value that was rejected. Nothing, when there are
    no such turns."""

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """What the reader says to them."""
        asked = self._asked(question, time, scope)
        chosen = list(islice(self._beside(asked, scope), USELESS_TURNS))
        while chosen and len(render(pieces(chosen))) > CHARS_PER_TOKEN * self._budget_tokens:
            chosen.pop()
        return self._reply(question, time, chosen)

    def _beside(self, asked: Question | None, scope: str) -> Iterator[Turn]:
        turns = self._turns[scope]
        if asked is None:
            return
        telling = {turns[id_].session for id_ in asked.evidence if id_ in turns}
        values = (*asked.answers, *asked.rejected, *asked.choices)
        points = {word for point in asked.rubric for word in flat(point).split()}
        for turn in reversed(turns.values()):
            beside = turn.session not in telling and not self._holds(turn, values)
            if beside and not self._holds(turn, points):
                yield turn


# Readers.


class Perfect:
    """Answers each question of one stream rightly, whatever the context: an accepted answer with the points of the
    rubric in order; "I don't know." where that is right.

    Where one text is asked more than once with one date, the calls are answered in the order of the stream, the
    last one from then on."""

    def __init__(self, stream: Stream) -> None:
        self.name = "perfect"
        self._stream = stream.id
        self._replies: dict[tuple[str, datetime | None], list[str]] = defaultdict(list)
        for question in sorted(stream.questions, key=lambda question: question.after):
            self._replies[question.text, question.at].append(right_reply(question))

    def read(self, question: str, context: str, *, at: datetime | None) -> Reading:
        """The right reply. InputError for a question that the stream does not ask."""
        replies = self._replies.get((question, at))
        if not replies:
            raise InputError(
                f"the perfect reader of stream {self._stream!r} was asked {question!r} at {at}, which is none of "
                "its questions; it reads one stream: readers.scripted('perfect', stream)"
            )
        return said(question, context, replies.pop(0) if len(replies) > 1 else replies[0])

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        """None: there is no model."""
        return None


class Fixed:
    """Says one thing to everything, or nothing, for a reason."""

    def __init__(self, name: str, reply: str, *, failed: str | None = None) -> None:
        self.name = name
        self._reply = reply
        self._failed = failed

    def read(self, question: str, context: str, *, at: datetime | None) -> Reading:
        """The same reply, and why it failed."""
        return said(question, context, self._reply, failed=self._failed)

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        """None: there is no model."""
        return None


def right_reply(question: Question) -> str:
    """What a perfect reader says: an accepted answer, under the points of the rubric, in order, unless the answer
    holds their words."""
    if not question.answerable:
        return UNKNOWN
    answer = "".join(question.answers[:1])
    words = set(flat(answer).split())
    covered = all(set(flat(point).split()) <= words for point in question.rubric)
    return answer if covered else "\n".join([*question.rubric, *question.answers[:1]])


def said(question: str, context: str, reply: str, *, failed: str | None = None) -> Reading:
    """A reading of a reader without a model: the chat as a model would get it, counted at 4 characters a token."""
    prompt = [{"role": "system", "content": context}] if context else []
    prompt.append({"role": "user", "content": question})
    tokens_in = sum(count_tokens(message["content"]) for message in prompt)
    return Reading(
        text=reply, prompt=prompt, tokens_in=tokens_in, tokens_out=count_tokens(reply), failed=failed
    )


def useless() -> Fixed:
    """A reply that is never right, also not where "I don't know" would be."""
    return Fixed("useless", USELESS)


def silent() -> Fixed:
    """Nothing."""
    return Fixed("silent", "", failed="empty")


def refusing() -> Fixed:
    """A refusal."""
    return Fixed("refusing", "", failed="refused: I can't help with that.")


def make_oracle(setup: Setup) -> Oracle:
    """The ceiling of retrieval."""
    return Oracle(setup)


def make_useless(setup: Setup) -> Useless:
    """The floor of retrieval."""
    return Useless(setup)


KINDS = (
    Kind(
        name="oracle",
        about="is told the key: shows exactly the evidence, whatever the budget",
        make=make_oracle,
        reads_key=True,
    ),
    Kind(
        name="useless",
        about="is told the key: shows only turns beside the point",
        make=make_useless,
        reads_key=True,
    ),
)
