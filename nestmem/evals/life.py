"""A life of many writes: what a memory still answers, at which age, how often it gives what no longer holds, and what
its base loses.

A persona tells facts, so many a session, over so many sessions, about a fixed number of keys. The first pass over
the keys tells each once; then keys get new values, drawn by Zipf's law, and a share of the keys never does: their
facts live through the whole life. A fact is written as (canonical question -> value) and (statement -> value), with
nothing in the prompt, and asked for in held-out phrasings. An answer counts when it is exactly the value, every token.

Checkpoints lie at the end of a session, before a sleep that falls there: the worst moment of the clocks.

What makes an arm is `Arm`. The additive and nested states are functions of which memories each level holds, so they
are computed at the checkpoints alone: bit for bit the states of having written all along (the rules' law; tested).
The sequential rules walk through every session; a session is one write there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import torch
from torch import Tensor

from nestmem.adapters.fast_weights import FastWeights
from nestmem.adapters.nested import Fit, NestedRule, NestedState, fit, key_moments
from nestmem.adapters.rows import Row, pack_rows
from nestmem.adapters.rules import (
    LEVELS,
    AdditiveRule,
    AdditiveState,
    BankSettings,
    RecursiveLeastSquares,
    Rule,
    SequentialRule,
    SequentialState,
)
from nestmem.agent import recall
from nestmem.agent.answering import Reader, quotable
from nestmem.assemble import LocalLearner
from nestmem.errors import InputError
from nestmem.evals.personas import score
from nestmem.evals.stats import clustered_mean, clustered_share
from nestmem.personas import Fact, PersonaGenerator
from nestmem.store import Ledger, MemoryRecord, NewEvent, Scope

VERSION = "life/1"
AGES = ((1, 5), (6, 20), (21, 50), (51, 100), (101, 200), (201, 400), (401, 700), (701, 1000))
"""Ages in writes, from..to: 1 is the fact told last."""
OLD_VALUES = 3
"""How many of the latest other values of a key count as stale when they are the answer."""
START = datetime(2025, 1, 1, tzinfo=UTC)
SCOPE = Scope(user="life")
TEXT_TOKENS = 300
"""Tokens of recalled text that the text arm reads."""

INDIRECT = {
    "home_city": "If you were to visit {o}, which city would you travel to?",
    "birthplace": "Near which town would you look for the house where {i} came into the world?",
    "street": "A parcel for {o}: which street goes on the label?",
    "birthday": "On which date should a birthday cake for {o} be ready?",
    "job": "Somebody at a party asks about {p} work; what do you tell them?",
    "employer": "Whose building would you enter to meet {o} at work?",
    "car": "In the car park, which car do you look for to find {o}?",
    "instrument": "If you were to buy sheet music for {o}, for which instrument?",
    "diet": "If you were to cook for {o}, which diet would you keep in mind?",
    "allergy": "What must never be in a meal for {o}?",
    "disliked_food": "Which food would you leave out when cooking for {o}?",
    "favourite_food": "{I} had a hard day; which dish would cheer {o} up?",
    "favourite_drink": "If you were to order a drink for {o}, which one?",
    "favourite_dessert": "Which dessert would you bring {o}?",
    "favourite_colour": "In which colour would you knit a scarf for {o}?",
    "favourite_book": "Which book would {i} gladly read again?",
    "favourite_film": "For a film evening with {o}, which film would you put on?",
    "favourite_band": "Tickets to which band would make {o} happy?",
    "favourite_song": "Which song would you play to please {o}?",
    "favourite_sport": "On television, which sport would you switch on for {o}?",
    "favourite_team": "A scarf of which team would you give {o}?",
    "favourite_city": "If you were to plan a dream weekend for {o}, in which city?",
    "favourite_animal": "Which animal would you draw on a card for {o}?",
    "favourite_restaurant": "Where would you book a table to please {o}?",
    "music_genre": "If you were to make a playlist for {o}, of which music?",
    "hobby": "On a free afternoon, what would you find {o} doing?",
    "fear": "What would you keep far away from {o}?",
    "toy": "What would you throw or hand {o} to play with?",
    "breed": "If you were to look up how to care for {o}, under which breed?",
    "breakfast": "If you were to lay the table for {o} in the morning, what would be on it?",
    "coffee_order": "At the café, what would you order for {o}?",
    "wake_time": "For when would you set an alarm for {o}?",
    "bedtime": "From when on should nobody phone {o} at night?",
    "shoe_size": "If you were to buy slippers for {o}, in which size?",
    "next_trip": "A guidebook for {p} coming holiday: to which place?",
    "learning_language": "A dictionary of which language would help {o} now?",
    "mother_tongue": "In which language would you greet {o} to feel at home?",
    "programming_language": "In which language would you write a code example for {o}?",
    "gift_idea": "It is {p} birthday tomorrow and I have nothing; what do I buy?",
    "name": "If you were to call out to {o}, which name would you shout?",
    "commute": "A strike of which means of transport would make {o} late?",
}
"""Relation -> a question that uses the fact without asking for it. None of them is in the bank of the personas."""


# --- lives -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Write:
    """One thing told: the `index`-th of a life. `older`: the key's other values before, latest first."""

    index: int
    fact: Fact
    asked: str
    indirect: str
    older: tuple[str, ...]

    def pairs(self) -> list[tuple[str, str]]:
        return [(self.fact.canonical, self.fact.value), (self.fact.statement, self.fact.value)]


@dataclass(frozen=True, kw_only=True)
class Life:
    """All writes of a persona, and how many make a session."""

    writes: tuple[Write, ...]
    per_session: int

    def current(self, upto: int) -> list[Write]:
        """What holds after the first `upto` writes, oldest first."""
        latest = {write.fact.key: write for write in self.writes[:upto]}
        return sorted(latest.values(), key=lambda write: write.index)

    def session(self, upto: int) -> int:
        """How many sessions have begun by then."""
        return -(-upto // self.per_session)


def draw_life(
    generator: PersonaGenerator,
    rng: random.Random,
    *,
    writes: int = 1000,
    per_session: int = 5,
    keys: int = 64,
    skew: float = 1.0,
    never: float = 0.25,
) -> Life:
    """A life of `writes` facts about `keys` keys. After each was told once, the i-th of the changing keys gets new
    values in proportion to i^-skew; the share `never` of the keys (0..1) gets none. A new value differs from every
    value that holds at that moment."""
    if not 0 < per_session <= writes or not 1 < keys <= writes:
        raise InputError(
            f"a life of {writes} writes, {per_session} a session, about {keys} keys: expected writes of at least one "
            "session, and from 2 keys up to as many as writes"
        )
    if not 0 <= never < 1 or skew < 0:
        raise InputError(f"never is {never} and skew {skew}; expected a share below 1 and at least 0")
    first = generator.facts(keys, rng)
    changing = first[: max(1, round(keys * (1 - never)))]
    share = [(place + 1) ** -skew for place in range(len(changing))]
    rng.shuffle(first)
    told: list[Write] = []
    values: dict[str, list[str]] = {}
    for index in range(writes):
        fact = (
            first[index]
            if index < keys
            else _update(generator, rng.choices(changing, share)[0].key, values, rng)
        )
        history = values.setdefault(fact.key, [])
        older = [value for value in dict.fromkeys(reversed(history)) if value != fact.value]
        told.append(
            Write(
                index=index,
                fact=fact,
                asked=generator.question(fact.key, rng),
                indirect=indirect(fact.key),
                older=tuple(older[:OLD_VALUES]),
            )
        )
        history.append(fact.value)
    return Life(writes=tuple(told), per_session=per_session)


def _update(generator: PersonaGenerator, key: str, values: dict[str, list[str]], rng: random.Random) -> Fact:
    """The key with a value that nothing has at the moment; that of another key where a small pool forces it."""
    old = values[key][-1]
    held = {history[-1].lower() for history in values.values()}
    drawn = [generator.value(key, rng) for _ in range(40)]
    fresh = [value for value in drawn if value.lower() not in held]
    other = [value for value in drawn if value.lower() != old.lower()]
    if not other:
        raise InputError(f"no value of {key!r} other than {old!r} was found; draw the life with another seed")
    return generator.fact(key, rng, value=(fresh or other)[0], old=old)


def indirect(key: str) -> str:
    """The question that uses the fact of a key, "" where there is none.

    >>> indirect("brother/diet")
    'If you were to cook for my brother, which diet would you keep in mind?'
    """
    owner, _, relation = key.partition("/")
    if relation not in INDIRECT:
        return ""
    who = f"my {owner.replace('_', ' ')}"
    words = {"i": "I", "o": "me", "p": "my"} if owner == "self" else {"i": who, "o": who, "p": f"{who}'s"}
    return INDIRECT[relation].format(**words, I=words["i"][0].upper() + words["i"][1:])


# --- arms --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to remember a life.

    rule: "none", "chance" (a random value of the same key's kind), "text", "fresh" (each session alone, on the base),
    "tmem", "rls", "fast" (each session fitted on top, nothing ever refitted), "additive", "nested".
    levels: of "additive" and "nested". weights: of "additive", how much fast, medium and slow count.
    every: with the slow level alone, after how many sessions it is refitted. lazy: what is superseded leaves the slow
    level at the next sleep (else at once). share: the rank is divided by this. random: random bases. whose: "own" or
    "other" life's weights. text: joined with the text arm, as `Memory.answer` joins them. protect: tokens of unrelated
    text by which the base is protected, None: as the model's settings say.
    """

    name: str
    rule: str
    levels: tuple[str, ...] = LEVELS
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    every: int = 1
    lazy: bool = False
    share: int = 1
    random: bool = False
    whose: str = "own"
    text: bool = False
    protect: float | None = None


SLOW = ("slow",)
TWO = ("medium", "slow")
ARMS = (
    Arm(name="none", rule="none"),
    Arm(name="chance", rule="chance"),
    Arm(name="nested 3 levels", rule="nested"),
    Arm(name="nested 1 level", rule="nested", levels=SLOW),
    Arm(name="nested 3 levels, equal bytes", rule="nested", share=3),
    Arm(name="nested 3 levels, late erasing", rule="nested", lazy=True),
    Arm(name="additive 1 level", rule="additive"),
    Arm(name="another user's weights", rule="nested", levels=SLOW, whose="other"),
    Arm(name="nested 1 level, at sleep", rule="nested", levels=SLOW, every=10),
    Arm(name="nested 2 levels", rule="nested", levels=TWO),
    Arm(name="random A", rule="nested", levels=SLOW, random=True),
    Arm(name="additive 3 levels", rule="additive", weights=(1.0, 0.7, 0.4)),
    Arm(name="additive 2 levels", rule="additive", weights=(1.0, 1.0, 0.5)),
    Arm(name="nested 2 levels, equal bytes", rule="nested", levels=TWO, share=2),
    Arm(name="fresh", rule="fresh"),
    Arm(name="text", rule="text"),
    Arm(name="nested 3 levels + text", rule="nested", text=True),
    Arm(name="rls", rule="rls"),
    Arm(name="fast only", rule="fast"),
    Arm(name="TMEM as published", rule="tmem"),
)


def variant(
    weights: FastWeights,
    rule: str,
    *,
    rank: int | None = None,
    blocks: int | None = None,
    random: int | None = None,
) -> FastWeights:
    """The same base model with another rule; with the first `rank` directions of each basis, the last `blocks` blocks,
    or bases of random orthonormal rows (by the seed `random`)."""
    if rule == "tmem":
        return FastWeights(weights.model, weights.tokenizer, rule=rule)
    names = [site.block for site in weights.banked.sites]
    kept = [i for i, block in enumerate(names) if blocks is None or block > max(names) - blocks]
    whole = [weights.banked.bases[i] for i in kept]
    if random is not None:
        whole = [_random_basis(basis, random + i) for i, basis in enumerate(whole)]
    bases = [basis[:rank].contiguous() for basis in whole]
    old = weights.settings
    settings = BankSettings(
        ridge=tuple(old.ridge[i] for i in kept),
        rate=tuple(old.rate[i] for i in kept),
        token=tuple(_direction(old.token[i], basis, random) for i, basis in zip(kept, bases, strict=True)),
        key_limit=tuple(old.key_limit[i] for i in kept),
        error_limit=tuple(old.error_limit[i] for i in kept),
        protect=old.protect,
    )
    return FastWeights(
        weights.model,
        weights.tokenizer,
        rule=rule,
        rank=max(basis.shape[0] for basis in bases),
        last=len({names[i] for i in kept}),
        settings=settings,
        bases=bases,
        context_tokens=weights.context_tokens,
    )


def _random_basis(basis: Tensor, seed: int) -> Tensor:
    drawn = torch.randn(basis.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = torch.linalg.qr(drawn.T).Q.T
    return (rows * (basis.double().norm() / rows.norm())).to(basis).contiguous()


def _direction(token: Tensor, basis: Tensor, random: int | None) -> Tensor:
    """The token weights' direction for a shortened basis; none for a random one, where it means nothing."""
    return torch.zeros(basis.shape[0]) if random is not None else token[: basis.shape[0]].clone()


def held(life: Life, upto: int, arm: Arm, *, sleep_every: int) -> dict[str, list[Write]]:
    """Which writes each level holds at the end of a session, before the sleep that may fall there."""
    session = life.session(upto)
    now = life.current(upto)
    if arm.levels == SLOW:
        until = min(upto, session // arm.every * arm.every * life.per_session)
        return {"slow": now if arm.every == 1 else life.current(until)}
    slept = (session - 1) // sleep_every * sleep_every * life.per_session
    ended = (session - 1) * life.per_session
    slow = life.current(slept) if arm.lazy else [write for write in now if write.index < slept]
    medium = [write for write in now if slept <= write.index < ended]
    fast = [write for write in now if write.index >= max(slept, ended)]
    if "fast" not in arm.levels:
        return {"slow": slow, "medium": medium + fast}
    return {"slow": slow, "medium": medium, "fast": fast}


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A state at a checkpoint. `bytes`: all levels' banks and moments, as they are kept; `read_bytes`: what an answer
    needs; `passes`: row passes (rows x passes over them) that the session's last write took, None where unknown."""

    upto: int
    state: Any
    bytes: int
    read_bytes: int
    seconds: float
    passes: int | None = None


def prepare(weights: FastWeights, arm: Arm, *, seed: int) -> FastWeights:
    """A `FastWeights` on the same base that writes as the arm does; `seed` draws the random bases."""
    rule = arm.rule if arm.rule in ("additive", "rls", "tmem") else "nested"
    rank = max(basis.shape[0] for basis in weights.banked.bases) // arm.share
    own = variant(weights, rule, rank=rank, random=1000 * seed if arm.random else None)
    if arm.rule == "additive":
        given = dict(zip(LEVELS, arm.weights, strict=True))
        own.rule_object = AdditiveRule(own.banked, own.settings, weights=given)
    elif rule == "nested":
        strength = own.settings.protect if arm.protect is None else arm.protect
        moments = key_moments(own.banked, own.unrelated) if strength else []
        protect = [strength * moment for moment in moments] or None
        own.rule_object = NestedRule(own.banked, own.settings, protect=protect, levels=arm.levels)
    return own


def walk(
    weights: FastWeights, life: Life, arm: Arm, checkpoints: Sequence[int], *, sleep_every: int
) -> Iterator[Reached]:
    """The arm's state at each checkpoint, in order. `weights` was prepared for the arm."""
    if arm.rule in ("none", "chance", "text", "fresh"):
        yield from (
            Reached(upto=upto, state=None, bytes=0, read_bytes=0, seconds=0.0) for upto in checkpoints
        )
    elif arm.rule in ("nested", "additive"):
        yield from _sets(weights, life, arm, checkpoints, sleep_every)
    else:
        yield from _steps(weights, life, arm, checkpoints)


def _sets(
    weights: FastWeights, life: Life, arm: Arm, checkpoints: Sequence[int], sleep_every: int
) -> Iterator[Reached]:
    rule = weights.rule_object
    made: dict[int, bytes] = {}
    for upto in checkpoints:
        start = time.process_time()
        levels = held(life, upto, arm, sleep_every=sleep_every)
        needed = [w for writes in levels.values() for w in writes if w.index not in made]
        made |= zip((w.index for w in needed), _payloads(weights, rule, needed), strict=True)
        state = rule.rebuild([(name, made[w.index]) for name, writes in levels.items() for w in writes])
        banks = rule.banks(state)
        yield Reached(
            upto=upto,
            state=state,
            bytes=_kept(state),
            read_bytes=_bytes(banks),
            seconds=time.process_time() - start,
            passes=sum(f.rows * (f.passes + 1) for f in state.fits.values())
            if isinstance(state, NestedState)
            else None,
        )


def _payloads(weights: FastWeights, rule: Rule, writes: list[Write]) -> list[bytes]:
    rows = [[weights.encode_pair(*pair) for pair in write.pairs()] for write in writes]
    if isinstance(rule, NestedRule):
        return [pack_rows(each) for each in rows]
    return rule.write([rule.empty()], [rows], "fast")[0][1] if rows else []


def _steps(weights: FastWeights, life: Life, arm: Arm, checkpoints: Sequence[int]) -> Iterator[Reached]:
    """Every session is one write on top of the last state, and nothing is taken back."""
    rule = weights.rule_object
    write = _fitted_on_top if isinstance(rule, NestedRule) else _stepped
    carried: Any = None
    start = time.process_time()
    for upto in range(life.per_session, max(checkpoints) + 1, life.per_session):
        told = life.writes[upto - life.per_session : upto]
        rows = [weights.encode_pair(*pair) for one in told for pair in one.pairs()]
        carried, state, kept = write(weights, carried, rows)
        if upto in checkpoints:
            yield Reached(
                upto=upto,
                state=state,
                bytes=kept,
                read_bytes=_bytes(rule.banks(state)),
                seconds=time.process_time() - start,
            )
            start = time.process_time()


def _fitted_on_top(weights: FastWeights, last: Fit | None, rows: list[Row]) -> tuple[Fit, NestedState, int]:
    """The rows fitted from the last banks, with the moments of all rows before protected: what to go on from, the
    state and its bytes."""
    rule = weights.rule_object
    assert isinstance(rule, NestedRule)
    below = last.moments if last else rule.protect
    made = fit(weights.banked, weights.settings, rows, start=last.banks if last else None, moments=below)
    return made, rule.with_banks(list(made.banks)), _bytes([*made.banks, *made.moments])


def _stepped(
    weights: FastWeights, last: SequentialState | None, rows: list[Row]
) -> tuple[SequentialState, SequentialState, int]:
    """One step of a sequential rule over the rows together."""
    rule = weights.rule_object
    assert isinstance(rule, SequentialRule)
    made = rule.step(last or rule.empty(), rows)
    moments = made.moments if isinstance(rule, RecursiveLeastSquares) else ()
    return made, made, _bytes([*made.banks, *moments])


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _kept(state: NestedState | AdditiveState) -> int:
    if isinstance(state, NestedState):
        return sum(_bytes([*made.banks, *made.moments]) for made in state.fits.values())
    return sum(_bytes([*part.moments, *part.cross]) for part in state.levels.values())


# --- the text arm ------------------------------------------------------------------------------------


class Told:
    """The same facts as text: a ledger with every statement, what no longer holds marked so, and the agent's reader.

    The memories (key, question, answer) are given to the ledger, as they are to the weights: extraction is not
    measured here."""

    def __init__(self, weights: FastWeights):
        self.ledger = Ledger()
        self.reader = Reader(learner=LocalLearner(weights, name="life"), llm=None, max_new_tokens=16)
        self._latest: dict[str, str] = {}
        self._bytes = 0

    def tell(self, write: Write, session: int) -> None:
        fact, at = write.fact, START + timedelta(days=session, minutes=write.index)
        new = NewEvent(
            role="user", content=fact.statement, session=f"s{session}", occurred_at=at, recorded_at=at
        )
        [event] = self.ledger.append(SCOPE, [new])
        record = MemoryRecord(
            id=f"m{write.index}",
            scope=SCOPE,
            key=fact.key,
            text=fact.statement,
            question=fact.canonical,
            answer=fact.value,
            kind=fact.kind,
            event_id=event.id,
            span=(0, len(event.content)),
            valid_from=at,
            believed_from=at,
            extractor=VERSION,
        )
        self.ledger.add_memories(SCOPE, [record])
        if fact.key in self._latest:
            self.ledger.supersede(SCOPE, self._latest[fact.key], record.id, at, at)
        self._latest[fact.key] = record.id
        self._bytes += len(fact.statement.encode())

    def answer(self, question: str, state: Any) -> str:
        """As `Memory.answer` gives it in the arm "text" (no state) or "both"."""
        found = recall.recall(self.ledger, None, SCOPE, question, budget_tokens=TEXT_TOKENS)
        lines, _ = quotable(found, ())
        arm = "text" if state is None else "both"
        return self.reader.answer(
            question, arm, lines=lines, state=state, memories=self.ledger.memories(SCOPE)
        ).text

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all statements so far."""
        return self._bytes


# --- asking ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One fact at one checkpoint: its age in writes, whether the answers were exactly its value, and whether the
    answer was one of the key's older values (None: it has none)."""

    age: int
    kind: str
    exact: bool
    nats: float
    stale: bool | None
    indirect: bool | None

    def plain(self) -> list[Any]:
        return [self.age, self.kind, self.exact, round(self.nats, 3), self.stale, self.indirect]

    @classmethod
    def from_plain(cls, values: list[Any]) -> Answered:
        age, kind, exact, nats, stale, used = values
        return cls(age=age, kind=kind, exact=exact, nats=nats, stale=stale, indirect=used)


def sample(life: Life, upto: int, questions: int) -> list[Write]:
    """At most `questions` of the facts that hold: all of the last session, and the others evenly by age."""
    now = life.current(upto)
    if len(now) <= questions:
        return now
    late = [write for write in now if write.index >= upto - life.per_session]
    early = now[: len(now) - len(late)]
    wanted = max(0, questions - len(late))
    return [early[place * len(early) // wanted] for place in range(wanted)] + late


class Exact(Protocol):
    """What `ask` needs of `FastWeights`."""

    def exact(self, pairs: list[tuple[str, str]], states: list[Any]) -> list[tuple[bool, float]]: ...


def ask(weights: Exact, asked: Sequence[Write], state: Any, upto: int) -> list[Answered]:
    """The facts under a state (None: the base), with nothing in the prompt."""
    pairs = [(w.asked, w.fact.value) for w in asked]
    old = [(place, (w.asked, value)) for place, w in enumerate(asked) for value in w.older]
    used = [(place, (w.indirect, w.fact.value)) for place, w in enumerate(asked) if w.indirect]
    flat = [*pairs, *(pair for _, pair in old), *(pair for _, pair in used)]
    found = weights.exact(flat, [state] * len(flat))
    stale = {place for (place, _), (hit, _) in zip(old, found[len(pairs) :], strict=False) if hit}
    indirectly = {
        place: hit for (place, _), (hit, _) in zip(used, found[len(pairs) + len(old) :], strict=True)
    }
    return [
        Answered(
            age=upto - w.index,
            kind=w.fact.kind,
            exact=found[place][0],
            nats=found[place][1],
            stale=(place in stale) if w.older else None,
            indirect=indirectly.get(place),
        )
        for place, w in enumerate(asked)
    ]


def ask_in_text(told: Told, asked: Sequence[Write], state: Any, upto: int) -> list[Answered]:
    """The same through recalled text. An answer counts when it is the value, or is a told line that holds it; the
    indirect questions are asked too. `nats` is 0: nothing is teacher-forced."""
    found = []
    for write in asked:
        said = told.answer(write.asked, state)
        right = score(said, [write.fact.value])[0]
        stale = any(score(said, [value])[0] for value in write.older) and not right
        used = score(told.answer(write.indirect, state), [write.fact.value])[0] if write.indirect else None
        found.append(
            Answered(
                age=upto - write.index,
                kind=write.fact.kind,
                exact=right,
                nats=0.0,
                stale=stale if write.older else None,
                indirect=used,
            )
        )
    return found


def ask_chance(
    generator: PersonaGenerator, asked: Sequence[Write], upto: int, rng: random.Random
) -> list[Answered]:
    """A random value of the same key's pool as the answer."""
    found = []
    for write in asked:
        said = generator.value(write.fact.key, rng)
        right = said == write.fact.value
        found.append(
            Answered(
                age=upto - write.index,
                kind=write.fact.kind,
                exact=right,
                nats=0.0,
                stale=(said in write.older) if write.older else None,
                indirect=right if write.indirect else None,
            )
        )
    return found


def ask_fresh(weights: FastWeights, life: Life, asked: Sequence[Write], upto: int) -> list[Answered]:
    """Every fact under a state that holds nothing but its session's share of the asked facts: what a write gives."""
    rule = weights.rule_object
    found: list[Answered] = []
    for first in range(0, len(asked), life.per_session):
        part = asked[first : first + life.per_session]
        [(state, _)] = weights.write([rule.empty()], [[write.pairs() for write in part]])
        found += ask(weights, part, state, upto)
    return found


@torch.no_grad()
def general_loss(weights: FastWeights, state: Any, ids_BT: Tensor) -> float:
    """Mean cross-entropy in nats per token of a text (B, T) under a state (None: the base)."""
    banks = None if state is None else [bank[None] for bank in weights.banks_of(state)]
    total, tokens = 0.0, 0
    for part in ids_BT.split(16):
        logits = weights.banked(banks, input_ids=part, use_cache=False).logits[:, :-1].float()
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), part[:, 1:], reduction="sum")
        total, tokens = total + float(nll), tokens + part[:, 1:].numel()
    return total / tokens


def windows(weights: FastWeights, text: str, *, count: int, length: int) -> Tensor:
    """The first `count` windows of `length` tokens of a text (B, T). Raises `InputError` when it is too short."""
    ids = weights.tokenizer(text[: count * length * 12], add_special_tokens=False)["input_ids"]
    if len(ids) < count * length:
        raise InputError(f"the text has {len(ids)} tokens; {count} windows of {length} need {count * length}")
    return torch.tensor(ids[: count * length]).view(count, length)


# --- a run -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all arms of a run share. `questions`: at most so many facts are asked for at a checkpoint, half as many of
    the arms with text. `text`: what the base must go on predicting (B, T), None: not measured."""

    checkpoints: tuple[int, ...]
    sleep_every: int = 10
    questions: int = 64
    text: Tensor | None = None

    def check(self, life: Life) -> None:
        """Raises `InputError` for checkpoints that are not ends of sessions of the life."""
        wrong = [c for c in self.checkpoints if c % life.per_session or not 0 < c <= len(life.writes)]
        if wrong or not self.checkpoints:
            raise InputError(
                f"checkpoints {wrong or self.checkpoints}: expected multiples of {life.per_session} writes up to "
                f"{len(life.writes)}"
            )


def play(
    weights: FastWeights,
    arm: Arm,
    life: Life,
    other: Life,
    setting: Setting,
    *,
    generator: PersonaGenerator,
    seed: int,
) -> list[dict[str, Any]]:
    """One arm through one life: a record per checkpoint. `weights` is the model with any rule; `other` is another
    persona's life of the same length, for the arm with its weights."""
    setting.check(life)
    own = prepare(weights, arm, seed=seed)
    base = general_loss(own, None, setting.text) if setting.text is not None else None
    told, said = (Told(own), 0) if arm.rule == "text" or arm.text else (None, 0)
    rng = random.Random(seed)
    records = []
    written = life if arm.whose == "own" else other
    for reached in walk(own, written, arm, setting.checkpoints, sleep_every=setting.sleep_every):
        upto, start = reached.upto, time.process_time()
        count = setting.questions if told is None else setting.questions // 2
        asked = sample(life, upto, count)
        if told is not None:
            for write in life.writes[said:upto]:
                told.tell(write, life.session(write.index + 1))
            said = upto
            answers = ask_in_text(told, asked, reached.state, upto)
            reached = replace(reached, bytes=reached.bytes + told.bytes)
        elif arm.rule == "chance":
            answers = ask_chance(generator, asked, upto, rng)
        elif arm.rule == "fresh":
            answers = ask_fresh(own, life, asked, upto)
        else:
            answers = ask(own, asked, reached.state, upto)
        record = {
            "writes": upto,
            "bytes": reached.bytes,
            "read_bytes": reached.read_bytes,
            "seconds_state": round(reached.seconds, 3),
            "seconds_asking": round(time.process_time() - start, 3),
            "row_passes": reached.passes,
            "answers": [answer.plain() for answer in answers],
        }
        if reached.state is not None:
            moved = own.drift(reached.state)
            record |= {"kl": moved.kl, "norm": moved.norm}
        if setting.text is not None and base is not None:
            loss = base if reached.state is None else general_loss(own, reached.state, setting.text)
            record |= {"text_nats": loss, "text_rise": loss / base - 1}
        records.append(record)
    return records


# --- numbers -----------------------------------------------------------------------------------------


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the runs of one arm (one a seed, each with "checkpoints"): by age, by checkpoint, by kind, and overall.

    Shares have intervals clustered by seed; `retained` is the share right at ages above 200 writes over that within
    the session; `stale` is of questions about facts that had another value before."""
    every = [
        (run["seed"], one["writes"], Answered.from_plain(values))
        for run in runs
        for one in run["checkpoints"]
        for values in one["answers"]
    ]
    last = max(writes for _, writes, _ in every)
    final = [item for item in every if item[1] == last]
    new = [a.exact for _, _, a in every if a.age <= AGES[0][1]]
    old = [a.exact for _, _, a in every if a.age > 200]
    found: dict[str, Any] = {
        "seeds": sorted({seed for seed, _, _ in every}),
        "exact": _share(every, lambda a: a.exact),
        "exact_at_end": _share(final, lambda a: a.exact),
        "stale": _share(every, lambda a: a.stale),
        "stale_at_end": _share(final, lambda a: a.stale),
        "indirect": _share(every, lambda a: a.indirect),
        "retained": (sum(old) / len(old)) / (sum(new) / len(new)) if old and any(new) else None,
        "by_age": {
            f"{low}-{high}": _share(
                every, lambda a, low=low, high=high: a.exact if low <= a.age <= high else None
            )
            for low, high in AGES
        },
        "by_kind": {
            kind: _share(every, lambda a, kind=kind: a.exact if a.kind == kind else None)
            for kind in sorted({a.kind for _, _, a in every})
        },
        "by_checkpoint": {},
    }
    for writes in sorted({writes for _, writes, _ in every}):
        at = [one for run in runs for one in run["checkpoints"] if one["writes"] == writes]
        part = [item for item in every if item[1] == writes]
        found["by_checkpoint"][str(writes)] = {
            "exact": _share(part, lambda a: a.exact),
            "stale": _share(part, lambda a: a.stale),
            **{
                name: clustered_mean([one[name] for one in at], range(len(at))).mean
                for name in ("bytes", "read_bytes", "seconds_state", "row_passes", "kl", "text_rise")
                if all(one.get(name) is not None for one in at)
            },
        }
    return found


def difference(
    runs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], *, kind: str | None = None
) -> dict[str, Any] | None:
    """Share right in `runs` less that in `others`, over the questions of the seeds that both have, paired question by
    question; `kind`: of questions of this kind alone, "indirect": of the indirect ones. None without a question."""
    theirs = {run["seed"]: run["checkpoints"] for run in others}
    found: list[tuple[int, float]] = []
    for run in runs:
        pairs = zip(run["checkpoints"], theirs.get(run["seed"], []), strict=False)
        for one, other in pairs:
            for a, b in zip(one["answers"], other["answers"], strict=True):
                first, second = Answered.from_plain(a), Answered.from_plain(b)
                if kind == "indirect":
                    values = (first.indirect, second.indirect)
                else:
                    values = (first.exact, second.exact) if kind in (None, first.kind) else (None, None)
                if values[0] is not None and values[1] is not None:
                    found.append((run["seed"], float(values[0]) - float(values[1])))
    if not found:
        return None
    return clustered_mean([value for _, value in found], [seed for seed, _ in found]).record()


def _share(
    items: Sequence[tuple[int, int, Answered]], of: Callable[[Answered], bool | None]
) -> dict[str, Any] | None:
    chosen = [(seed, of(answer)) for seed, _, answer in items]
    chosen = [(seed, value) for seed, value in chosen if value is not None]
    if not chosen:
        return None
    return clustered_share([value for _, value in chosen], [seed for seed, _ in chosen]).record()
