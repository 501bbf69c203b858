"""Growing histories: where does putting the whole past before the reader stop winning?

In the manner of ConvoMem (arXiv 2511.10523): the same things are told and asked while the number of conversations
before the questions grows. Its six kinds of question are kept; texts and values are generated (its own data are not
used, so numbers do not compare with the paper's). Nothing is read; no licence but the project's own.

    user_facts            the user told it
    assistant_facts       the assistant told it (a recommendation)
    changing_facts        told, then replaced once or twice; the last one counts, the older ones are `rejected`
    abstention            about a person or thing of the user's, but never told
    preferences           what the user likes
    implicit_connections  the question does not name what was told; the told thing decides it

Stream "size-0016/2" is life 2 with 16 conversations. A life's facts and questions are the same at every size, and stand
at random places of the history; what lies between is other talk and other facts of the same person (no asked value
stands in any of it). Questions of one life are one cluster, over all sizes. A conversation
has about 700 characters (with talk=3), 256 of them about 175,000: give talk or sizes for longer ones.

>>> from nestmem.evals.datasets.growing import load
>>> stream = load(None, sizes="4", lives=1, questions=1).streams[0]
>>> stream.id, len({turn.session for turn in stream.turns})
('size-0004/0', 4)
>>> question = next(q for q in stream.questions if q.kind == "changing_facts")
>>> said = {turn.id: turn.text for turn in stream.turns}
>>> print(question.text, question.answers, question.rejected, said[question.evidence[0]], sep=chr(10))
What's my office number?
('213',)
('377',)
My new room number is 213.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Dataset, Licence, Question, Stream, Task
from nestmem.evals.datasets.talk import ACKNOWLEDGED, IMPLICIT, RECOMMENDED
from nestmem.evals.datasets.telling import (
    CHANGING,
    Telling,
    asking,
    holds,
    other_values,
    plain_facts,
    small_talk,
    versions,
    wording,
)
from nestmem.personas import Fact, PersonaGenerator

KINDS = (
    "user_facts",
    "assistant_facts",
    "changing_facts",
    "abstention",
    "preferences",
    "implicit_connections",
)
# Whose absence cannot be inferred from what else was told of the person.
GUESSABLE = ("home_city", "job", "employer", "study_field", "name")
OTHER_FACTS = 60
OTHER_RATE = 0.5
START = datetime(2024, 1, 8, 18, 30)

MOST = min(len(RECOMMENDED), len(IMPLICIT))


@dataclass(frozen=True, kw_only=True)
class Part:
    """A message of the user and the reply to it; `told` says which of the two tells something."""

    user: str
    assistant: str
    told: str = "user"


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that is told in parts, in this order, and asked when all is said. The last part is the evidence."""

    kind: str
    parts: tuple[Part, ...]
    question: str
    values: tuple[str, ...]
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Life:
    """What one person tells: asked items, and other facts for the talk between."""

    items: tuple[Item, ...]
    others: tuple[str, ...]

    @property
    def values(self) -> tuple[str, ...]:
        """All that is asked for, and what it replaced."""
        return tuple(value for item in self.items for value in item.values)


def load(
    folder: Path | None,
    *,
    sizes: str = "1,4,16,64,256",
    lives: int = 8,
    questions: int = 3,
    talk: int = 3,
    seed: int = 0,
) -> Dataset:
    """Streams for each size (conversations before the questions) and life, with `questions` of each kind. talk:
    messages of the user in a conversation that tell nothing, on average."""
    numbers = _sizes(sizes)
    if lives < 1 or talk < 1 or not 1 <= questions <= MOST:
        raise InputError(
            f"growing: lives={lives}, talk={talk}, questions={questions}; expected at least 1 of each, and at most "
            f"{MOST} questions of a kind"
        )
    made = [_life(random.Random(f"growing/{seed}/{number}"), questions) for number in range(lives)]
    return Dataset(
        streams=tuple(
            _stream(life, size, number, talk, random.Random(f"growing/{seed}/{number}/{size}"))
            for size in numbers
            for number, life in enumerate(made)
        ),
        source="generated",
        notes=("facts and talk are generated in the manner of ConvoMem; its own data are not used",),
    )


def _sizes(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"growing: sizes={text!r}; expected whole numbers like 1,4,16") from error
    if len(set(numbers)) != len(numbers) or not all(1 <= number <= 9999 for number in numbers):
        raise InputError(f"growing: sizes={text!r}; expected numbers from 1 to 9999, each once")
    return numbers


# --- what is told ------------------------------------------------------------------------------------


def _life(rng: random.Random, count: int) -> Life:
    generator = PersonaGenerator("test")
    facts = plain_facts(generator, OTHER_FACTS + 40 + 6 * count, rng)
    items: list[Item] = []
    for key in rng.sample(CHANGING, len(CHANGING)):
        known = [fact.value for fact in facts] + [value for item in items for value in item.values]
        item = _changing(key, generator, known, rng) if len(items) < count else None
        items += [item] if item is not None else []
    changed = [value for item in items for value in item.values]
    facts = [fact for fact in facts if fact.key not in CHANGING and not holds(fact.statement, changed)]
    items += _told("preferences", lambda fact: fact.kind == "preference", count, generator, facts, rng)
    items += _told("user_facts", lambda fact: fact.kind != "preference", count, generator, facts, rng)
    items += [*_absent(count, generator, facts, rng), *_recommended(count, rng), *_implicit(count, rng)]
    values = [value for item in items for value in item.values]
    others = tuple(fact.statement for fact in facts if not holds(fact.statement, values))[:OTHER_FACTS]
    if any(sum(item.kind == kind for item in items) < count for kind in KINDS):
        raise InputError(f"growing: a life has fewer than {count} questions of a kind; ask for fewer")
    return Life(items=tuple(items), others=others)


def _changing(key: str, generator: PersonaGenerator, known: list[str], rng: random.Random) -> Item | None:
    """A fact that is replaced once or twice; None when the key has too few values apart from those known."""
    told = versions(generator, key, known, rng, count=rng.randint(2, 3))
    if told is None:
        return None
    values = [value for value, _ in reversed(told)]
    question = wording(asking(generator, key), rng, without=values)
    if question is None:
        return None
    others = [v for v in other_values(generator, key, values[0], rng, 6) if not holds(v, values)]
    return Item(
        kind="changing_facts",
        parts=tuple(Part(user=text, assistant=rng.choice(ACKNOWLEDGED)) for _, text in told),
        question=question,
        values=tuple(values),
        candidates=(*values, *others)[:4],
    )


def _told(
    kind: str,
    fits: Callable[[Fact], bool],
    count: int,
    generator: PersonaGenerator,
    facts: list[Fact],
    rng: random.Random,
) -> list[Item]:
    """Facts of a kind, taken out of `facts`."""
    items = []
    for fact in [fact for fact in facts if fits(fact)]:
        question = wording(asking(generator, fact.key), rng, without=[fact.value])
        if question is None or len(items) == count:
            continue
        part = Part(user=generator.told(fact, rng), assistant=rng.choice(ACKNOWLEDGED))
        items.append(
            Item(
                kind=kind,
                parts=(part,),
                question=question,
                values=(fact.value,),
                candidates=other_values(generator, fact.key, fact.value, rng),
            )
        )
        facts.remove(fact)
    return items


def _absent(count: int, generator: PersonaGenerator, facts: list[Fact], rng: random.Random) -> list[Item]:
    """Questions on what is never told of people and things of this person: facts taken out of `facts`, unsaid."""
    items = []
    for fact in list(reversed(facts)):
        owner, relation = fact.key.split("/")
        if owner != "self" and relation not in GUESSABLE and len(items) < count:
            items.append(
                Item(kind="abstention", parts=(), question=generator.question(fact.key, rng), values=())
            )
            facts.remove(fact)
    return items


def _recommended(count: int, rng: random.Random) -> list[Item]:
    items = []
    for asked, reply, question, values in rng.sample(RECOMMENDED, count):
        value = rng.choice(values)
        part = Part(user=asked, assistant=reply.replace("{v}", value), told="assistant")
        items.append(_item("assistant_facts", part, question, value, values))
    return items


def _implicit(count: int, rng: random.Random) -> list[Item]:
    items = []
    for told, question, values in rng.sample(IMPLICIT, count):
        value = rng.choice(values)
        part = Part(user=told.replace("{v}", value), assistant=rng.choice(ACKNOWLEDGED))
        items.append(_item("implicit_connections", part, question, value, values))
    return items


def _item(kind: str, part: Part, question: str, value: str, values: Sequence[str]) -> Item:
    candidates = (value, *(other for other in values if other != value))
    return Item(kind=kind, parts=(part,), question=question, values=(value,), candidates=candidates)


# --- telling it --------------------------------------------------------------------------------------


def _stream(life: Life, size: int, number: int, talk: int, rng: random.Random) -> Stream:
    """The life in `size` conversations. A place is a number from 0 to size: its whole part is the conversation."""
    placed: list[tuple[float, Part, tuple[int, int] | None]] = []
    for index, item in enumerate(life.items):
        places = sorted(rng.random() * size for _ in item.parts)
        placed += [
            (place, part, (index, step))
            for step, (place, part) in enumerate(zip(places, item.parts, strict=True))
        ]
    others, said = list(life.others), set[str]()
    rng.shuffle(others)
    for conversation in range(size):
        between = small_talk(rng, life.values, exchanges=rng.randint(talk - 1, talk + 1), said=said)
        placed += [(conversation + rng.random(), Part(user=u, assistant=a), None) for u, a in between]
        if others and rng.random() < OTHER_RATE:
            other = Part(user=others.pop(), assistant=rng.choice(ACKNOWLEDGED))
            placed.append((conversation + rng.random(), other, None))
    placed.sort(key=lambda entry: entry[0])
    telling, evidence, current = Telling(START), {}, -1
    for place, part, what in placed:
        if int(place) != current:
            current = int(place)
            telling.session(days=1)
        ids = {"user": telling.say("user", part.user), "assistant": telling.say("assistant", part.assistant)}
        if what is not None:
            evidence[what] = ids[part.told]
    telling.session(days=1)
    stream = f"size-{size:04d}/{number}"
    return Stream(
        id=stream,
        turns=tuple(telling.turns),
        questions=tuple(
            _question(item, index, stream, number, telling, evidence) for index, item in enumerate(life.items)
        ),
    )


def _question(
    item: Item,
    index: int,
    stream: str,
    number: int,
    telling: Telling,
    evidence: dict[tuple[int, int], str],
) -> Question:
    return telling.question(
        f"{stream}/{item.kind}/{index}",
        item.kind,
        item.question,
        answers=item.values[:1],
        evidence=(evidence[index, len(item.parts) - 1],) if item.parts else (),
        rejected=item.values[1:],
        candidates=item.candidates,
        cluster=f"life-{number}",
    )


TASK = Task(
    name="growing",
    version="growing/1",
    title="growing histories (in the manner of ConvoMem)",
    paper="arXiv 2511.10523",
    source="generated by nestmem.evals.datasets.growing",
    licence=Licence(name="the project's own", redistribution="yes"),
    load=load,
    scorers=(
        "contains",
        "exact",
        "token_f1",
        "abstains",
        "stale",
        "evidence_all",
        "answer_in_context",
        "stale_in_context",
        "newest_first",
        "turn_any@5",
        "turn_any@10",
        "mrr",
        "probe_first",
        "probe_margin",
    ),
    without_reader="evidence_all",
    options={"sizes": "1,4,16,64,256", "lives": 8, "questions": 3, "talk": 3, "seed": 0},
)
