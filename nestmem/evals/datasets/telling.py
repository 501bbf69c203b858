"""What the generators of the judge share: a stream in the making, ordinary talk between what counts, and checks that
an answer stands nowhere but where it was told.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Question, Role, Turn
from nestmem.evals.datasets.talk import LEADS, TALK
from nestmem.evals.files import find, rows
from nestmem.evals.reading import flat
from nestmem.personas import Fact, PersonaGenerator

DRAWS = 200
"""How often a text is drawn again before a generator gives up."""
LONG = 40
"""Characters from which on a text of the talk is said once in a stream."""

# What a person has one of, and changes.
CHANGING = (
    "self/home_city",
    "self/employer",
    "self/job_title",
    "self/car_model",
    "self/phone_model",
    "self/gym_name",
    "self/doctor",
    "self/dentist",
    "self/landlord",
    "self/bank",
    "self/project_codename",
    "self/coffee_order",
    "self/newspaper",
    "self/operating_system",
    "self/team_name",
    "self/room_number",
    "self/favourite_restaurant",
    "self/favourite_drink",
)


class Telling:
    """The turns of a stream, as they are said. A session is begun, then messages are said in it."""

    def __init__(self, start: datetime) -> None:
        self.turns: list[Turn] = []
        self._at = start
        self._number = -1
        self._said = 0

    @property
    def now(self) -> int:
        """How many turns were said: `after` of a question that is asked now."""
        return len(self.turns)

    @property
    def at(self) -> datetime:
        """When the next message is said."""
        return self._at + timedelta(minutes=self._said)

    def session(self, *, days: int = 1) -> None:
        """Begins a session, `days` after the one before."""
        if self._number >= 0:
            self._at += timedelta(days=days)
        self._number += 1
        self._said = 0

    def say(self, role: Role, text: str) -> str:
        """Adds a message and returns its id."""
        session = f"s{self._number:03d}"
        turn = Turn(id=f"{session}t{self._said:02d}", session=session, role=role, text=text, at=self.at)
        self.turns.append(turn)
        self._said += 1
        return turn.id

    def question(
        self,
        id: str,
        kind: str,
        text: str,
        *,
        answers: Sequence[str] = (),
        evidence: Sequence[str] = (),
        rejected: Sequence[str] = (),
        candidates: Sequence[str] = (),
        cluster: str | None = None,
    ) -> Question:
        """A question that is asked now. Without an answer the right reply is that it is not known."""
        return Question(
            id=id,
            text=text,
            kind=kind,
            after=self.now,
            at=self.at,
            answers=tuple(answers),
            answerable=bool(answers),
            evidence=tuple(evidence),
            rejected=tuple(rejected),
            candidates=tuple(candidates),
            cluster=cluster,
        )

    def exchange(self, user: str, assistant: str) -> str:
        """Adds a message of the user and the reply to it; returns the id of the user's."""
        said = self.say("user", user)
        self.say("assistant", assistant)
        return said


@functools.lru_cache(maxsize=1 << 16)
def words(text: str) -> str:
    """The text normalised, with a space before and after: `words(a) in words(b)` finds whole words.

    >>> words("Tom") in words("I met Tom."), words("Tom") in words("I met Tommy.")
    (True, False)
    """
    return f" {flat(text)} "


def holds(text: str, values: Iterable[str]) -> bool:
    """Whether one of the values stands in the text as whole words, both normalised."""
    said = words(text)
    return any(words(value) in said for value in values)


def small_talk(
    rng: random.Random, values: Sequence[str], *, exchanges: int, said: set[str]
) -> list[tuple[str, str]]:
    """Messages of a user with the replies, on one topic, which hold none of the values. said: what was said before in
    the stream; a long text is not said twice, and what is said now is added."""
    found: list[tuple[str, str]] = []
    things, questions, sentences = rng.choice(TALK)
    for _ in range(DRAWS):
        if len(found) == exchanges:
            break
        thing = rng.choice(things)
        question = rng.choice(LEADS) + rng.choice(questions).replace("{x}", thing)
        picked = rng.sample(sentences, rng.randint(2, 4))
        reply = " ".join(_upper(sentence.replace("{x}", thing)) for sentence in picked)
        again = any(text in said and len(text) >= LONG for text in (question, reply))
        if again or question in (asked for asked, _ in found) or holds(f"{question} {reply}", values):
            continue
        said.update((question, reply))
        found.append((question, reply))
    return found


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def wording(
    draw: Callable[[random.Random], str], rng: random.Random, *, without: Sequence[str]
) -> str | None:
    """A text that `draw(rng)` gives, with none of `without` in it; None when none was drawn."""
    for _ in range(DRAWS):
        text = draw(rng)
        if not holds(text, without):
            return text
    return None


def asking(generator: PersonaGenerator, key: str) -> Callable[[random.Random], str]:
    """Draws a question on the key."""
    return lambda rng: generator.question(key, rng)


def versions(
    generator: PersonaGenerator, key: str, known: Sequence[str], rng: random.Random, *, count: int
) -> list[tuple[str, str]] | None:
    """(value, statement) of a fact that is replaced until it had `count` values. No statement quotes what it replaces,
    or holds a known value. None when none were drawn."""
    found: list[tuple[str, str]] = []
    for _ in range(count):
        taken = [*known, *(value for value, _ in found)]
        value = wording(lambda r: generator.value(key, r), rng, without=taken)
        if value is None or words(value) in _common() or any(holds(other, [value]) for other in taken):
            return None
        statement = wording(
            _saying(generator, key, value, found[-1][0] if found else None), rng, without=taken
        )
        if statement is None or not holds(statement, [value]):
            return None
        found.append((value, statement))
    return found


def _saying(
    generator: PersonaGenerator, key: str, value: str, old: str | None
) -> Callable[[random.Random], str]:
    return lambda rng: generator.fact(key, rng, value=value, old=old).statement


@functools.cache
def _common() -> str:
    """All of the talk: a value that stands in it cannot be told from it."""
    return words(
        " ".join(" ".join((*questions, *sentences, *things)) for things, questions, sentences in TALK)
    )


def plain_facts(generator: PersonaGenerator, count: int, rng: random.Random) -> list[Fact]:
    """Facts of one persona whose values stand neither in the talk, nor in another's statement or value."""
    found: list[Fact] = []
    for fact in generator.facts(2 * count, rng):
        value = words(fact.value)
        clash = any(
            value in words(other.statement) or words(other.value) in words(fact.statement) for other in found
        )
        if not clash and value in words(fact.statement) and value not in _common():
            found.append(fact)
    if len(found) < count:
        raise InputError(f"{count} facts of one persona were asked for and {len(found)} found; ask for fewer")
    return found[:count]


def other_values(
    generator: PersonaGenerator, key: str, value: str, rng: random.Random, count: int = 3
) -> tuple[str, ...]:
    """The value first, then up to `count` other values that the key has in other lives: candidates for a probe."""
    found = {flat(value): value}
    for _ in range(DRAWS):
        if len(found) > count:
            break
        other = generator.value(key, rng)
        found.setdefault(flat(other), other)
    return tuple(found.values())


def records(folder: Path, file: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The records of a JSON list in `folder`, plain or compressed, each with these fields as texts."""
    path = find(folder, [file], f"a JSON list of objects with {', '.join(fields)}")
    found = rows(path, fields)
    for number, record in enumerate(found, 1):
        wrong = [field for field in fields if not isinstance(record[field], str)]
        if wrong:
            raise InputError(
                f"{path}, record {number}: {wrong[0]} is {str(record[wrong[0]])[:60]!r}; expected a text"
            )
    return found
