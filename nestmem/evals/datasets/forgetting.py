"""What should not be answered any more, or never could: deletion, cascade and absence.

In the manner of MEME (arXiv 2605.12477), which found systems at .17, .03 and .01 on tasks of these names. Its episodes
are not used; texts and values are generated here, and our reading of the tasks is what stands below, so numbers do not
compare with the paper's. The right reply to a question that has no answer says that it is not known.

deletion  facts are told, some of them are asked to be forgotten: the user says so, and the request names the exact
          messages (`Forget`). One of the three was told once, one was replaced before (both versions go), one was told
          twice (both messages go). Kinds: "before" the request; "deleted" after it (`rejected` are the values that were
          told) and "kept" (what the request did not name: collateral damage); "deleted, later" and "kept, later"
          after further sessions. Without a reader the headline is `kept_and_gone`: what keeps nothing at all recalls
          nothing deleted either, but is wrong of all that was to be kept (15 of the 21 questions of a life). The
          candidates of a deleted question are those that it had before: the deleted value and others.
cascade   a fact changes on which another depends: see `nestmem.evals.datasets.cascade`.
absence   "told": control questions. "absent attribute": of a person or thing that was mentioned, but this was never
          told of them. "absent person": told of others, but of this person or thing nothing at all. Without a reader only
          "told" can be judged.

A system that cannot forget raises NotSupported; the run counts it. The request is also said as a message, so a reader
that sees the whole past can follow it.

>>> from nestmem.evals.datasets.forgetting import load_deletion
>>> stream = load_deletion(None, lives=1).streams[0]
>>> question = next(q for q in stream.questions if q.kind == "deleted")
>>> said = {turn.id: turn.text for turn in stream.turns}
>>> print(*(said[id_] for id_ in stream.forgets[0].turns), question.text, question.rejected, sep=chr(10))
Hey, how's it going? By trade my girlfriend is a kindergarten teacher.
My team at work, Gaijax Squad, won a prize.
My new team at the office is called Sandbox.
While I think of it, my best friend has reached the age of 43.
My best friend has reached the age of 43.
What is my girlfriend by trade?
('kindergarten teacher',)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nestmem.errors import InputError
from nestmem.evals.datasets import cascade
from nestmem.evals.datasets.base import Dataset, Forget, Licence, Question, Stream, Task
from nestmem.evals.datasets.talk import ACKNOWLEDGED
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

START = datetime(2024, 5, 6, 20, 15)
KEPT = 4
TOLD = 5
ABSENT_ATTRIBUTES = 4
ABSENT_PERSONS = 3
DONE = ("That is gone.", "I have let go of it.", "Done, it is struck out.")
# What may be inferred from other facts of the person, or is told in passing.
GUESSABLE = ("home_city", "job", "employer", "study_field", "name", "partner_name")
NOTE = "episodes are generated in the manner of MEME; its own data are not used"


@dataclass(frozen=True, kw_only=True)
class Known:
    """A thing that is told in these messages, in order; values: the last one counts."""

    key: str
    texts: tuple[str, ...]
    values: tuple[str, ...]
    question: str
    candidates: tuple[str, ...]


class _Life:
    """A life on its way: what is said and asked."""

    def __init__(self, name: str, rng: random.Random, values: Sequence[str]) -> None:
        self.name = name
        self.rng = rng
        self.values = values
        self.telling = Telling(START)
        self.questions: list[Question] = []
        self.forgets: list[Forget] = []
        self.told: dict[str, list[str]] = {}
        self.said: set[str] = set()

    def session(self, lines: Sequence[tuple[str, str]], replies: Sequence[str] = ACKNOWLEDGED) -> None:
        """A session in which each (key, text) is told, with talk between."""
        self.telling.session(days=self.rng.randint(2, 9))
        talk = small_talk(self.rng, self.values, exchanges=len(lines) + 1, said=self.said)
        self.telling.exchange(*talk.pop())
        for key, text in lines:
            self.told.setdefault(key, []).append(self.telling.exchange(text, self.rng.choice(replies)))
            if talk:
                self.telling.exchange(*talk.pop())

    def ask(self, kind: str, known: Known) -> None:
        """Asks for what was told last. Older values are not `rejected` here: stale scores are of deletion alone."""
        self._ask(kind, known.question, known.values[-1:], (self.told[known.key][-1],), (), known)

    def gone(self, kind: str, known: Known) -> None:
        """Asks for what was deleted; the deleted value is among the candidates."""
        self._ask(kind, known.question, (), (), known.values, known)

    def absent(self, kind: str, question: str) -> None:
        """Asks for what was never told."""
        self._ask(kind, question, (), (), (), None)

    def _ask(
        self,
        kind: str,
        text: str,
        answers: tuple[str, ...],
        evidence: tuple[str, ...],
        rejected: Sequence[str],
        known: Known | None,
    ) -> None:
        self.questions.append(
            self.telling.question(
                f"{self.name}/{kind}/{len(self.questions)}",
                kind,
                text,
                answers=answers,
                evidence=evidence,
                rejected=tuple(dict.fromkeys(rejected)),
                candidates=known.candidates if known else (),
            )
        )

    def stream(self) -> Stream:
        """What came of it."""
        return Stream(
            id=self.name,
            turns=tuple(self.telling.turns),
            questions=tuple(self.questions),
            forgets=tuple(self.forgets),
        )


def _known(generator: PersonaGenerator, fact: Fact, rng: random.Random, *, times: int = 1) -> Known | None:
    """A fact told so many times, in different words; None when they are not to be had."""
    texts: list[str] = []
    while len(texts) < times:
        draw = _stating(generator, fact) if texts else (lambda r: generator.told(fact, r))
        text = wording(draw, rng, without=[])
        if text is None or not holds(text, [fact.value]):
            return None
        if any(text in other or other in text for other in texts):
            return None
        texts.append(text)
    question = wording(asking(generator, fact.key), rng, without=[fact.value])
    if question is None:
        return None
    return Known(
        key=fact.key,
        texts=tuple(texts),
        values=(fact.value,) * times,
        question=question,
        candidates=other_values(generator, fact.key, fact.value, rng),
    )


def _stating(generator: PersonaGenerator, fact: Fact) -> Callable[[random.Random], str]:
    return lambda rng: generator.fact(fact.key, rng, value=fact.value).statement


def _several(
    generator: PersonaGenerator, facts: list[Fact], count: int, rng: random.Random, times: int = 1
) -> list[Known]:
    """The first facts that can be told so, taken out of `facts`."""
    found: list[Known] = []
    for fact in list(facts):
        known = _known(generator, fact, rng, times=times) if len(found) < count else None
        if known is not None:
            found.append(known)
            facts.remove(fact)
    if len(found) < count:
        raise InputError(f"{count} facts to tell were asked for and {len(found)} found")
    return found


def _replaced(generator: PersonaGenerator, avoid: list[str], rng: random.Random) -> Known:
    """A fact of the user's that is told, then replaced."""
    for key in rng.sample(CHANGING, len(CHANGING)):
        told = versions(generator, key, avoid, rng, count=2)
        question = wording(asking(generator, key), rng, without=[value for value, _ in told or ()])
        if told is not None and question is not None:
            values = tuple(value for value, _ in told)
            return Known(
                key=key,
                texts=tuple(text for _, text in told),
                values=values,
                question=question,
                candidates=other_values(generator, key, values[-1], rng),
            )
    raise InputError("no fact that changes was found")


# --- deletion ----------------------------------------------------------------------------------------


def load_deletion(folder: Path | None, *, lives: int = 20, seed: int = 0) -> Dataset:
    """`lives` streams, three facts deleted in each."""
    return _dataset("deletion", _deletion, lives, seed)


def _dataset(name: str, make: Callable[[str, random.Random], Stream], lives: int, seed: int) -> Dataset:
    if lives < 1:
        raise InputError(f"{name}: lives={lives}; expected at least 1")
    streams = tuple(make(f"{name}-{n}", random.Random(f"{name}/{seed}/{n}")) for n in range(lives))
    return Dataset(streams=streams, source="generated", notes=(NOTE,))


def _deletion(name: str, rng: random.Random) -> Stream:
    generator = PersonaGenerator("test")
    facts = [fact for fact in plain_facts(generator, 40, rng) if fact.key not in CHANGING]
    avoid = [fact.value for fact in facts]
    replaced = _replaced(generator, avoid, rng)
    facts = [fact for fact in facts if not holds(fact.statement, replaced.values)]
    twice = _several(generator, facts, 1, rng, times=2)
    once, *kept = _several(generator, facts, 1 + KEPT, rng)
    later = _several(generator, facts, 3, rng)
    deleted = [once, replaced, *twice]
    values = [value for known in (*deleted, *kept, *later) for value in known.values]
    life = _Life(name, rng, values)
    # Those with two messages tell the second in a later session than the first.
    first = [(known.key, known.texts[0]) for known in (*deleted, *kept)]
    rng.shuffle(first)
    life.session(first[:4])
    life.session(first[4:])
    life.session([(known.key, known.texts[1]) for known in deleted if len(known.texts) > 1])
    for known in (*deleted, *kept):
        life.ask("before", known)
    _request(life, generator, deleted)
    _ask(life, deleted, kept, "")
    for known in later:
        life.session([(known.key, known.texts[0])])
    _ask(life, deleted, kept, ", later")
    return life.stream()


def _request(life: _Life, generator: PersonaGenerator, deleted: Sequence[Known]) -> None:
    """A session in which the user asks for each to be forgotten; then the messages are named."""
    turns = tuple(id_ for known in deleted for id_ in life.told[known.key])
    asked = [(f"forget {known.key}", generator.forget(known.key, life.rng)) for known in deleted]
    life.session(asked, replies=DONE)
    life.forgets.append(Forget(after=life.telling.now, turns=turns))


def _ask(life: _Life, deleted: Sequence[Known], kept: Sequence[Known], when: str) -> None:
    for known in deleted:
        life.gone(f"deleted{when}", known)
    for known in kept:
        life.ask(f"kept{when}", known)


# --- absence -----------------------------------------------------------------------------------------


def load_absence(folder: Path | None, *, lives: int = 20, seed: int = 0) -> Dataset:
    """`lives` streams, with questions on what was told and on what never was."""
    return _dataset("absence", _absence, lives, seed)


def _absence(name: str, rng: random.Random) -> Stream:
    generator = PersonaGenerator("test")
    facts = [fact for fact in plain_facts(generator, 60, rng) if not fact.key.startswith("self/")]
    told = _several(generator, facts[:20], 12, rng)
    said = " ".join(text for known in told for text in known.texts)
    owners = sorted({known.key.split("/")[0] for known in told})
    relations = {known.key.split("/")[1] for known in told}
    keys = [key for key in sorted(generator.keys()) if not key.startswith("self/")]
    free = [key for key in keys if key not in {k.key for k in told} and key.split("/")[1] not in GUESSABLE]
    rng.shuffle(free)
    attributes = [key for key in free if key.split("/")[0] in owners]
    persons = [
        key
        for key in free
        if key.split("/")[1] in relations and not holds(said, [key.split("/")[0].replace("_", " ")])
    ]
    persons = [key for key in persons if key.split("/")[0] not in owners]
    life = _Life(name, rng, [known.values[0] for known in told])
    lines = [(known.key, known.texts[0]) for known in told]
    for start in range(0, len(lines), 4):
        life.session(lines[start : start + 4])
    life.session([])
    for known in told[:TOLD]:
        life.ask("told", known)
    for kind, chosen in (
        ("absent attribute", attributes[:ABSENT_ATTRIBUTES]),
        ("absent person", persons[:ABSENT_PERSONS]),
    ):
        for key in chosen:
            life.absent(kind, generator.question(key, rng))
    return life.stream()


OWN = Licence(name="the project's own", redistribution="yes")
SCORERS = (
    "contains",
    "exact",
    "abstains",
    "stale",
    "evidence_all",
    "answer_in_context",
    "stale_in_context",
    "mrr",
    "probe_first",
    "probe_margin",
)
OPTIONS = {"lives": 20, "seed": 0}
TASKS = (
    Task(
        name="deletion",
        version="deletion/1",
        title="deletion (in the manner of MEME)",
        paper="arXiv 2605.12477",
        source="generated by nestmem.evals.datasets.forgetting",
        licence=OWN,
        load=load_deletion,
        scorers=(*SCORERS, "kept_and_gone", "probe_stale"),
        without_reader="kept_and_gone",
        budget_tokens=200,
        options=OPTIONS,
    ),
    Task(
        name="cascade",
        version="cascade/1",
        title="cascade: facts that hang on one that changed (in the manner of MEME)",
        paper="arXiv 2605.12477",
        source="generated by nestmem.evals.datasets.cascade",
        licence=OWN,
        load=cascade.load,
        # The right context of a cascade question holds the old value, so stale_in_context is no score here.
        scorers=(*(name for name in SCORERS if name != "stale_in_context"), "newest_first"),
        without_reader="evidence_all",
        budget_tokens=200,
        options=OPTIONS,
    ),
    Task(
        name="absence",
        version="absence/1",
        title="absence: what was never told (in the manner of MEME)",
        paper="arXiv 2605.12477",
        source="generated by nestmem.evals.datasets.forgetting",
        licence=OWN,
        load=load_absence,
        scorers=("contains", "exact", "abstains", "evidence_all", "answer_in_context", "mrr", "probe_first"),
        without_reader="evidence_all",
        budget_tokens=200,
        options=OPTIONS,
    ),
)
