"""Streams of sessions with questions whose evidence is some sessions back: what `nestmem train meta` learns from.

A stream is one person's sessions in order. What a session teaches is written into banks when it ends, as question and
answer pairs or as its raw text; a question is asked after a session, without any text, about a session k back.

Streams come from generated personas or from a JSONL file of the user's, one stream a line:

    {"id": "anna", "sessions": [{"messages": [{"role": "user", "content": "I live in Leeds."}],
                                 "pairs": [{"question": "Where do I live?", "answer": "Leeds"}]}],
     "questions": [{"question": "Which city is home?", "answers": ["Leeds"], "after_session": 0, "evidence": 0,
                    "kind": "fact", "family": "home_city"}]}

`pairs` may be left out where raw text is written, `messages` where pairs are; a pair may have a `statement`, the
sentence as told. `evidence`, `kind` and `family` may be left out; kind "never_told" marks what was never told. A life
of `nestmem.personas` (`Life.to_json`) is such a line.

Letters: U users, B = U x n rows of a batch, n rows a user (filled up with rows of weight 0), T tokens.
"""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nestmem.adapters.rows import Row
from nestmem.errors import InputError
from nestmem.personas import NEVER_TOLD_ANSWER, PersonaGenerator, belongs_to_test

Part = Literal["train", "people", "families"]
"""Whose streams: for training; new people asked in known question families; new people, held-out families."""

QUESTION, STATEMENT, TEXT = 0, 1, 2
"""In which form a row teaches: question -> answer, statement -> answer, raw text."""
FORMS = ("question", "statement", "text")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What a session teaches: the answer to a question, and the sentence as it was told ("" where unknown)."""

    question: str
    answer: str
    statement: str = ""


@dataclass(frozen=True, kw_only=True)
class Session:
    """Messages (role, content) of a session, and the pairs to write when it ends."""

    messages: tuple[tuple[str, str], ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question whose answer holds from session `evidence` to session `after`, both included.

    `evidence` is None where the file does not say (then it is asked after session `after` only) and where nothing was
    told (`told` false; then it may be asked any time up to `after`).
    """

    question: str
    answer: str
    after: int
    evidence: int | None
    told: bool = True
    family: str = ""

    def holds(self, session: int) -> bool:
        """Whether this is the right answer once session number `session` has ended."""
        if not self.told:
            return session <= self.after
        return session == self.after if self.evidence is None else self.evidence <= session <= self.after


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One person's sessions, oldest first, and questions about them."""

    id: str
    sessions: tuple[Session, ...]
    questions: tuple[Asked, ...]

    def asked(self, session: int) -> list[Asked]:
        """The questions that can be asked once session number `session` (from 0) has ended."""
        return [asked for asked in self.questions if asked.holds(session)]


class Source(ABC):
    """Where streams come from. The same `rng` state gives the same stream."""

    @abstractmethod
    def draw(self, part: Part, rng: random.Random, *, sessions: int, before: int) -> Stream:
        """A stream of at least `sessions` sessions with questions to ask once session number `before` has ended."""


@dataclass(frozen=True, kw_only=True)
class Personas(Source):
    """Generated lives. `facts` told a session, of which a share `updates` replaces an earlier one; `unknown` questions
    about what was never told, per told one; `chatter` the chance of small talk before a told fact."""

    facts: int = 2
    updates: float = 0.1
    unknown: float = 0.15
    chatter: float = 0.3
    made_up: float = 0.5

    def __post_init__(self) -> None:
        if self.facts < 1:
            raise InputError(f"facts={self.facts}: a session must tell at least one fact")

    def draw(self, part: Part, rng: random.Random, *, sessions: int, before: int) -> Stream:
        """As `Source.draw`. Raises `InputError` when a person has no more facts to tell in so many sessions."""
        generator = PersonaGenerator("train" if part == "train" else "test", made_up=self.made_up)
        others = max(1, round(self.unknown * sessions * self.facts)) if self.unknown else 0
        wanted = sessions * self.facts + others
        fresh = self._facts(generator, part, rng, wanted)
        absent, fresh = fresh[:others], fresh[others:]
        told: dict[str, tuple[int, Any]] = {}
        built, questions = [], []
        for index in range(sessions):
            now = {}
            for _ in range(self.facts):
                old = [key for key, (at, _) in told.items() if at < index and key not in now]
                if old and rng.random() < self.updates:
                    at, before_fact = told[key := rng.choice(old)]
                    fact = generator.fact(key, rng, old=before_fact.value)
                    questions.append(self._ask(generator, before_fact, rng, at, index - 1))
                else:
                    fact = fresh.pop()
                now[fact.key] = (index, fact)
            told |= now
            built.append(self._session(generator, [fact for _, fact in now.values()], rng))
        questions += [self._ask(generator, fact, rng, at, sessions - 1) for at, fact in told.values()]
        questions += [self._ask(generator, fact, rng, None, sessions - 1) for fact in absent]
        return Stream(
            id=f"{part}-{rng.getrandbits(32):08x}", sessions=tuple(built), questions=tuple(questions)
        )

    def _facts(self, generator: PersonaGenerator, part: Part, rng: random.Random, count: int) -> list[Any]:
        """`count` facts of one person whose families belong to the part."""
        held_out = part == "families"
        keys = generator.keys()
        most = len({key for key in keys if belongs_to_test(family_of(key)) == held_out})
        drawn = min(300, 10 * count + 20 if held_out else 2 * count + 8)
        found = [f for f in generator.facts(drawn, rng) if belongs_to_test(family_of(f.key)) == held_out]
        if len(found) < count:
            raise InputError(
                f"{count} facts were asked of one person, but only {len(found)} of {most} that this part of the split "
                "has came together; use fewer --sessions or fewer --facts"
            )
        return found[:count]

    def _session(self, generator: PersonaGenerator, facts: list[Any], rng: random.Random) -> Session:
        messages = []
        for fact in facts:
            if rng.random() < self.chatter:
                messages += [("user", generator.smalltalk(rng)), ("assistant", generator.reply(rng))]
            messages += [("user", generator.told(fact, rng)), ("assistant", generator.acknowledge(rng))]
        pairs = tuple(Pair(question=f.canonical, answer=f.value, statement=f.statement) for f in facts)
        return Session(messages=tuple(messages), pairs=pairs)

    def _ask(
        self, generator: PersonaGenerator, fact: Any, rng: random.Random, evidence: int | None, after: int
    ) -> Asked:
        told = evidence is not None
        return Asked(
            question=generator.question(fact.key, rng),
            answer=fact.value if told else f"{NEVER_TOLD_ANSWER}.",
            after=after,
            evidence=evidence,
            told=told,
            family=family_of(fact.key),
        )


def family_of(key: str) -> str:
    """The question family of a persona key: what is asked, of whomever ("sister/name" -> "name")."""
    return key.rpartition("/")[2]


class Streams(Source):
    """The user's own streams. A quarter of the people, at least one, is held out by a hash of their ids; questions
    of a held-out family (by a hash of its name) are not asked in training."""

    def __init__(self, streams: Sequence[Stream]):
        if len(streams) < 2:
            raise InputError(f"{len(streams)} stream(s) given; expected at least 2, one of them is held out")
        ranked = sorted(streams, key=lambda stream: sha256(stream.id.encode()).digest())
        held_out = max(1, len(ranked) // 4)
        self.held_out, self.train = ranked[:held_out], ranked[held_out:]

    def draw(self, part: Part, rng: random.Random, *, sessions: int, before: int) -> Stream:
        """As `Source.draw`. Raises `InputError` when no stream of the part is long enough and has a question then."""
        fitting = []
        for stream in self.train if part == "train" else self.held_out:
            kept = tuple(a for a in stream.questions if _belongs(a, part))
            found = Stream(id=stream.id, sessions=stream.sessions, questions=kept)
            if len(stream.sessions) >= sessions and found.asked(before):
                fitting.append(found)
        if not fitting:
            raise InputError(
                f"no stream of part {part!r} has {sessions} sessions and a question that can be asked after session "
                f"{before} (counted from 0); give longer streams, questions with 'evidence', or fewer --sessions"
            )
        return rng.choice(fitting)

    def lengths(self, part: Part, most: int, *, more: int = 0) -> list[int]:
        """The numbers of sessions, up to `most`, after which some stream of the part can be asked something and
        goes on for at least `more` sessions."""
        streams = self.train if part == "train" else self.held_out
        return [
            count
            for count in range(1, most + 1)
            if any(
                len(stream.sessions) >= count + more
                and any(_belongs(a, part) for a in stream.asked(count - 1))
                for stream in streams
            )
        ]


def _belongs(asked: Asked, part: Part) -> bool:
    held_out = bool(asked.family) and belongs_to_test(asked.family)
    return held_out == (part == "families")


def read_streams(path: Path) -> Streams:
    """Read a JSONL file of streams (the format is in this module's description). Raises `InputError`."""
    if not path.exists():
        raise InputError(f"--data {path} does not exist; expected a JSONL file of streams, one a line")
    streams = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            streams.append(_stream(json.loads(line), f"line {number}"))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number}: not JSON ({error}); expected one stream a line") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}:{number}: {type(error).__name__} {error}; expected 'sessions' with 'messages' or 'pairs', and "
                "'questions' with 'question', 'answers' and 'after_session' (see nestmem.train.streams)"
            ) from error
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from error
    if not streams:
        raise InputError(f"{path} holds no stream; expected one JSON object a line")
    return Streams(streams)


def _stream(data: dict[str, Any], name: str) -> Stream:
    sessions = tuple(
        Session(
            messages=tuple((m["role"], m["content"]) for m in session.get("messages", [])),
            pairs=tuple(
                Pair(question=p["question"], answer=p["answer"], statement=p.get("statement", ""))
                for p in session.get("pairs", [])
            ),
        )
        for session in data["sessions"]
    )
    if not any(session.messages or session.pairs for session in sessions):
        raise InputError("the stream is empty: no session has a message or a pair, so nothing can be learned")
    questions = []
    for q in data["questions"]:
        after, evidence = q["after_session"], q.get("evidence")
        if not 0 <= (evidence or 0) <= after < len(sessions):
            raise InputError(
                f"a question has evidence {evidence} and after_session {after}; expected "
                f"0 <= evidence <= after_session < {len(sessions)}, the number of sessions"
            )
        questions.append(
            Asked(
                question=q["question"],
                answer=q["answers"][0],
                after=after,
                evidence=evidence,
                told=q.get("kind") != "never_told",
                family=q.get("family", ""),
            )
        )
    if not questions:
        raise InputError("the stream has no questions; without them nothing says what a good write is")
    return Stream(id=str(data.get("id", name)), sessions=sessions, questions=tuple(questions))


# -- rows and batches ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Text to rows. `pair` makes the row of a question and its answer; `chat` the tokens of messages; a raw text is
    cut into segments of `segment` tokens. With `prefix` a segment begins with where it stood, as PERK's do."""

    pair: Callable[[str, str], Row]
    chat: Callable[[list[tuple[str, str]]], list[int]]
    plain: Callable[[str], list[int]]
    segment: int = 256
    prefix: bool = False

    def segments(self, session: Session, number: int) -> list[tuple[Row, int]]:
        """The raw text of a session: every token counts but the first of a segment and its prefix."""
        ids = self.chat(list(session.messages)) if session.messages else []
        rows = []
        for start in range(0, len(ids), self.segment):
            head = self.plain(f"[{number}.{start // self.segment}]") if self.prefix else []
            body = ids[start : start + self.segment]
            weights = [0.0] * len(head) + [1.0] * len(body)
            weights[0] = 0.0
            if sum(weights):
                rows.append((Row(ids=head + body, weights=weights), TEXT))
        return rows


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows (B, T) of U users side by side, and in which form each (B,) teaches (an index into `FORMS`)."""

    ids: Tensor
    weights: Tensor
    form: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """U streams side by side: the rows of each write; what is asked after the last, with, per asked row,
    how many sessions back the evidence is (-1: unknown, or nothing was told), whether it was told, and whether the row
    is real; the raw text of the session that comes next (where asked for)."""

    users: int
    writes: list[Rows]
    ask: Rows
    age: Tensor
    told: Tensor
    real: Tensor
    coming: Rows | None


def side_by_side(users: Sequence[Sequence[tuple[Row, int]]]) -> Rows:
    """Rows of each user with their forms, filled up to the same number and length with token 0 and weight 0, which
    teach nothing."""
    count = max(1, *(len(rows) for rows in users))
    length = max((len(row.ids) for rows in users for row, _ in rows), default=2)
    ids = torch.zeros(len(users) * count, length, dtype=torch.long)
    weights = torch.zeros(len(users) * count, length)
    forms = torch.zeros(len(users) * count, dtype=torch.long)
    for u, rows in enumerate(users):
        for n, (row, form) in enumerate(rows):
            ids[u * count + n, : len(row.ids)] = torch.tensor(row.ids)
            weights[u * count + n, : len(row.ids)] = torch.tensor(row.weights)
            forms[u * count + n] = form
    return Rows(ids=ids, weights=weights, form=forms)


def batch_of(
    streams: Sequence[Stream],
    encoder: Encoder,
    rng: random.Random,
    *,
    sessions: int,
    raw: bool,
    order_free: bool,
    ask: int,
    coming: bool = False,
) -> Batch:
    """The first `sessions` sessions of each stream as writes, and at most `ask` questions a stream.

    Pairs: one write a session, of a question row and a statement row each. Raw: one write per segment, in order.
    `order_free`: everything in one write; of pairs with the same question only the last one counts. Raises
    `InputError` when there is nothing to write or nothing to ask.
    """
    users = len(streams)
    lives = [stream.sessions[:sessions] for stream in streams]
    if raw:
        each = [[encoder.segments(s, n) for n, s in enumerate(life)] for life in lives]
        if order_free:
            writes = [side_by_side([[row for rows in user for row in rows] for user in each])]
        else:
            counts = [max(len(user[n]) for user in each) for n in range(sessions)]
            writes = [
                side_by_side([user[n][c : c + 1] for user in each])
                for n in range(sessions)
                for c in range(counts[n])
            ]
    else:
        told = [[list(session.pairs) for session in life] for life in lives]
        if order_free:
            told = [[list({p.question: p for pairs in user for p in pairs}.values())] for user in told]
        writes = [side_by_side([_pair_rows(user[n], encoder) for user in told]) for n in range(len(told[0]))]
    if not any(bool(rows.weights.any()) for rows in writes):
        raise InputError(
            "the streams hold nothing to write: no session has "
            + (
                "messages"
                if raw
                else "pairs; give 'pairs' in the file, or write raw text (--preset perk or dynamic)"
            )
        )
    asked = []
    for stream in streams:
        found = stream.asked(sessions - 1)
        asked.append(rng.sample(found, min(ask, len(found))))
    if not any(asked):
        raise InputError(f"no question can be asked after session {sessions - 1}; nothing can be learned")
    count = max(map(len, asked))
    ages = torch.full((users, count), -1)
    flags = torch.zeros(2, users, count, dtype=torch.bool)
    for u, questions in enumerate(asked):
        for n, question in enumerate(questions):
            ages[u, n] = -1 if question.evidence is None else sessions - 1 - question.evidence
            flags[0, u, n], flags[1, u, n] = question.told, True
    after = None
    if coming:
        late = [stream.sessions[sessions : sessions + 1] for stream in streams]
        after = side_by_side(
            [[row for session in user for row in encoder.segments(session, sessions)] for user in late]
        )
    return Batch(
        users=users,
        writes=writes,
        ask=side_by_side([[(encoder.pair(a.question, a.answer), QUESTION) for a in user] for user in asked]),
        age=ages.flatten(),
        told=flags[0].flatten(),
        real=flags[1].flatten(),
        coming=after,
    )


def _pair_rows(pairs: list[Pair], encoder: Encoder) -> list[tuple[Row, int]]:
    """Of each pair a question row, and a statement row where the sentence is known."""
    rows = [(encoder.pair(p.question, p.answer), QUESTION) for p in pairs]
    return rows + [(encoder.pair(p.statement, p.answer), STATEMENT) for p in pairs if p.statement]
