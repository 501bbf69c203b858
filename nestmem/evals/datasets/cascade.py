"""Cascade: a fact changes, and another that hung on it is no longer known (see `nestmem.evals.datasets.forgetting`).

"I moved" makes "my way to work takes 26 minutes" stale. Four dependent facts are told in each life: after two of
them the fact that they hang on changes, after a third someone else's does, the fourth is left alone. Kinds:

    before               the dependent fact, asked before any change: what was told
    changed              the fact that changed: its new value; the old one is `rejected`
    cascade              the dependent of a changed fact: not known any more; the old value is `rejected`
    cascade, later       the same after further sessions
    restated             the second dependent after its new value was told
    not affected         dependents whose ground did not change (a rule that forgets too much fails here)
    not affected, later  the same after further sessions
    independent          facts on others, told beside

The evidence of a cascade question is the old value's turn and the turn of the change: a context that brings the first
without the second makes a stale answer look right.

>>> from nestmem.evals.datasets.cascade import load
>>> stream = load(None, lives=1).streams[0]
>>> question = next(q for q in stream.questions if q.kind == "cascade")
>>> said = {turn.id: turn.text for turn in stream.turns}
>>> print(*(said[id_] for id_ in question.evidence), question.text, question.rejected, sep=chr(10))
My badge at work has the number 55293.
Monday was my first day at Rook and Daughters; the old job is history.
What is the number of my badge at work?
('55293',)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Dataset, Question, Stream
from nestmem.evals.datasets.dependencies import DEPENDENCIES, Dependency
from nestmem.evals.datasets.talk import ACKNOWLEDGED
from nestmem.evals.datasets.telling import Telling, asking, other_values, plain_facts, small_talk, wording
from nestmem.personas import Fact, PersonaGenerator

START = datetime(2024, 3, 4, 19, 0)
# People and things of the user that no change below touches.
APART = (
    "boat",
    "cat",
    "godson",
    "grandfather",
    "grandmother",
    "guitar",
    "nephew",
    "niece",
    "parrot",
    "rabbit",
    "stepmother",
    "tutor",
)
INDEPENDENT = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """A dependency with what was drawn for a life: ground before and after, dependent value before and after."""

    of: Dependency
    old: str
    new: str
    was: str
    now: str

    @property
    def all(self) -> tuple[str, ...]:
        return self.old, self.new, self.was, self.now


def load(folder: Path | None, *, lives: int = 20, seed: int = 0) -> Dataset:
    """`lives` streams, each with four dependencies of the fourteen."""
    if lives < 1:
        raise InputError(f"cascade: lives={lives}; expected at least 1")
    return Dataset(
        streams=tuple(_life(f"cascade-{n}", random.Random(f"cascade/{seed}/{n}")) for n in range(lives)),
        source="generated",
        notes=("episodes are generated in the manner of MEME; its own data are not used",),
    )


@dataclass(kw_only=True)
class _Script:
    """A life on its way: what is said and asked, and where each thing was told."""

    name: str
    rng: random.Random
    cases: tuple[Case, ...]
    facts: tuple[Fact, ...]
    generator: PersonaGenerator
    telling: Telling
    questions: list[Question]
    told: dict[str, str]
    said: set[str]

    def session(self, lines: Sequence[tuple[str, str]]) -> None:
        """A session with these things told (name, text), and talk around them."""
        self.telling.session(days=self.rng.randint(2, 9))
        values = [value for case in self.cases for value in case.all] + [fact.value for fact in self.facts]
        talk = small_talk(self.rng, values, exchanges=len(lines) + 2, said=self.said)
        for user, assistant in talk[:1]:
            self.telling.exchange(user, assistant)
        for (name, text), (user, assistant) in zip(lines, talk[1:], strict=False):
            self.told[name] = self.telling.exchange(text, self.rng.choice(ACKNOWLEDGED))
            self.telling.exchange(user, assistant)

    def ask(
        self,
        kind: str,
        text: str,
        evidence: Sequence[str],
        *,
        answer: str | None = None,
        rejected: Sequence[str] = (),
        candidates: Sequence[str] = (),
    ) -> None:
        """A question now; `evidence` names what was told. No answer: the right reply is that it is not known."""
        self.questions.append(
            self.telling.question(
                f"{self.name}/{kind}/{len(self.questions)}",
                kind,
                text,
                answers=() if answer is None else (answer,),
                evidence=[self.told[name] for name in evidence],
                rejected=rejected,
                candidates=candidates,
            )
        )

    def dependent(self, case: Case, kind: str) -> None:
        """The dependent fact of a case whose ground did not change."""
        others = [value for value in case.of.values if value != case.was]
        told = (f"{case.of.name}/dependent",)
        self.ask(kind, case.of.question, told, answer=case.was, candidates=(case.was, *others))

    def stale(self, case: Case, kind: str) -> None:
        """The dependent fact of a case whose ground changed."""
        told = (f"{case.of.name}/dependent", f"{case.of.name}/change")
        self.ask(kind, case.of.question, told, rejected=(case.was,))


def _life(name: str, rng: random.Random) -> Stream:
    cases = tuple(_case(dependency, rng) for dependency in rng.sample(DEPENDENCIES, 4))
    generator = PersonaGenerator("test")
    facts = [fact for fact in plain_facts(generator, 100, rng) if fact.key.split("/")[0] in APART]
    script = _Script(
        name=name,
        rng=rng,
        cases=cases,
        facts=tuple(facts[:INDEPENDENT]),
        generator=generator,
        telling=Telling(START),
        questions=[],
        told={},
        said=set(),
    )
    _tell(script)
    for case in cases:
        script.dependent(case, "before")
    _change(script)
    _ask_after(script)
    _later(script)
    return Stream(id=name, turns=tuple(script.telling.turns), questions=tuple(script.questions))


def _case(dependency: Dependency, rng: random.Random) -> Case:
    old, new = rng.sample(dependency.grounds, 2)
    was, now = rng.sample(dependency.values, 2)
    return Case(of=dependency, old=old, new=new, was=was, now=now)


def _tell(script: _Script) -> None:
    cases = script.cases
    grounds = [(f"{case.of.name}/ground", case.of.told.replace("{v}", case.old)) for case in cases]
    dependents = [(f"{case.of.name}/dependent", case.of.dependent.replace("{v}", case.was)) for case in cases]
    script.session(grounds)
    script.session([(fact.key, script.generator.told(fact, script.rng)) for fact in script.facts])
    script.session(dependents)


def _change(script: _Script) -> None:
    """The grounds of the first two change, and someone else's of the third kind."""
    first, second, third, _ = script.cases
    changes = [
        (f"{first.of.name}/change", first.of.changed.replace("{v}", first.new)),
        (f"{second.of.name}/change", second.of.changed.replace("{v}", second.new)),
        (f"{third.of.name}/change", third.of.elsewhere.replace("{v}", third.new)),
    ]
    script.rng.shuffle(changes)
    script.session(changes[:2])
    script.session(changes[2:])


def _ask_after(script: _Script) -> None:
    for case in script.cases[:2]:
        others = [value for value in case.of.grounds if value != case.new]
        script.ask(
            "changed",
            case.of.ground_question,
            (f"{case.of.name}/change",),
            answer=case.new,
            rejected=(case.old,),
            candidates=(case.new, *others),
        )
        script.stale(case, "cascade")
    for case in script.cases[2:]:
        script.dependent(case, "not affected")
    for fact in script.facts:
        question = wording(asking(script.generator, fact.key), script.rng, without=[fact.value])
        candidates = other_values(script.generator, fact.key, fact.value, script.rng)
        if question is not None:
            script.ask("independent", question, (fact.key,), answer=fact.value, candidates=candidates)


def _later(script: _Script) -> None:
    first, second, third, _ = script.cases
    again = f"{second.of.name}/again"
    script.session([])
    script.session([(again, second.of.again.replace("{v}", second.now))])
    others = [value for value in second.of.values if value != second.now]
    script.ask(
        "restated",
        second.of.question,
        (again,),
        answer=second.now,
        rejected=(second.was,),
        candidates=(second.now, *others),
    )
    script.stale(first, "cascade, later")
    script.dependent(third, "not affected, later")
