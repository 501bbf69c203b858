"""nestmem's own memory as systems: the ledger's text, the weights, both, each level of the weights alone, and the
weights of somebody else.

Each system is one `nestmem.Memory` on a ledger file. Turns are observed one by one as imported messages, each in its
session; a turn longer than a message may be is told in several. Learning and sleep happen in `settle`. Ids are
counted and the clock is the time of the last message, so the same calls give the same replies; answers are given
without a note, so no answer changes a later one.

With lazy=1 what `settle` would learn is learned when the memory is next asked, so that a stream with all questions at
its end is learned once. The nested and additive rules come to the same weights either way, except where a gate
refuses a write; the seconds then stand under the first answer.

    kind         what answers                                       where memories are
    ours-text    recalled text, read by the run's reader            the ledger
    ours-weights the memory's own model with the weights            fast, then medium; slow with sleep_every
    ours-both    the same with recalled text, the halves compared   the same, and the ledger
    ours-fast    the weights                                        the fast level alone
    ours-medium  the weights                                        the medium level alone
    ours-slow    the weights                                        the slow level: sleep in each `settle`
    ours-all     the weights                                        all levels: the clocks as shipped, and sleep
    ours-placebo the weights of another stream                      those of the donor

A reader other than the memory's own model reads for ours-text only: weights cannot be put into an endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, partial
from typing import Literal

from nestmem.agent import prompts
from nestmem.agent.answering import quotable
from nestmem.agent.chains import Clocks
from nestmem.agent.recall import count_tokens, embed_missing
from nestmem.agent.types import Answer, Embedder, Learner
from nestmem.assemble import load_learner
from nestmem.errors import InputError
from nestmem.evals.datasets.base import Turn
from nestmem.evals.systems.base import Kind, Reading, Reply, Setup, System
from nestmem.evals.systems.told import SHIPPED, Told
from nestmem.store import Scope

Arm = Literal["text", "weights", "both"]
NEVER = 10**9
DONOR = "donor/{}"
FAST_ONLY = Clocks(session=False, flushes=NEVER)
MEDIUM_ONLY = Clocks(flushes=0)


@dataclass(frozen=True, kw_only=True)
class How:
    """What tells one of these systems from another.

    arm: what answers. clocks: when memories leave the fast level. sleep_every: after how many sessions the memory
    sleeps, in the next `settle`; 0: never, -1: in each. learn: whether `settle` learns; without a model that is, what
    rules read of the messages, by which recall knows what no longer holds. lazy: learning, and sleep in each `settle`,
    waits until the memory is asked. placebo: answered from the donor.
    """

    arm: Arm
    clocks: Clocks = SHIPPED
    sleep_every: int = 0
    learn: bool = True
    lazy: bool = False
    placebo: bool = False


@dataclass(kw_only=True)
class _Nights:
    """The sleeps of one scope."""

    sessions: set[str] = field(default_factory=set)
    slept: int = 0
    refused: int = 0


class Ours:
    """`Memory` as a system (see the module). learner: None for text alone."""

    def __init__(
        self, setup: Setup, how: How, *, learner: Learner | None = None, embedder: Embedder | None = None
    ) -> None:
        if how.sleep_every < -1:
            raise InputError(
                f"sleep_every is {how.sleep_every}; expected a number of sessions, or 0 for never"
            )
        self.how = how
        self._setup = setup
        self._learner = learner
        self.told = Told(setup.folder / "memory.db", learner=learner, embedder=embedder, clocks=how.clocks)
        self._nights: dict[str, _Nights] = {}
        self._due: set[str] = set()
        self._donor_told = False

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Stores the message; a placebo keeps nothing of its own user."""
        if not self.how.placebo:
            self.told.observe(message, time, scope)
            self._nights.setdefault(scope, _Nights()).sessions.add(message.session)

    def settle(self, scope: str) -> None:
        """Makes vectors of what is new, learns it, and sleeps when it is time."""
        self._due.add(scope)
        every, nights = self.how.sleep_every, self._nights.setdefault(scope, _Nights())
        if not self.how.lazy or (every > 0 and len(nights.sessions) >= every):
            self._work(scope)

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """Answers from text, weights or both."""
        self._work(scope)
        if self.how.arm == "text":
            return self._from_text(question, time, scope)
        return self._from_weights(question, scope)

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """Removes the messages and all that came of them; the weights are those of a life without them."""
        self._work(scope)
        self.told.forget(turns, scope)

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        """Under the user's weights, whatever the weights are asked in an answer."""
        book = self.told.memory.weights
        if book is None:
            return None
        self._work(scope)
        state, _ = book.state(Scope(user=self._whose(scope)))
        pairs = [(question, candidate) for candidate in candidates]
        return [mean for _, mean in book.learner.exact(pairs, [state] * len(pairs))]

    def bytes(self, scope: str) -> int:
        """Of the ledger file: messages, words, vectors, weight updates and versions, of all scopes together."""
        self._work(scope)
        return self.told.bytes()

    def close(self) -> None:
        """Closes the ledger; what the shared model had cached of it goes."""
        self.told.memory.close()
        if self._learner is not None:
            self._learner.discard()

    def _work(self, scope: str) -> None:
        """The idle work that is due for a scope, if any is."""
        if scope not in self._due:
            return
        self._due.discard(scope)
        if self.how.placebo:
            self._tell_donor()
            return
        memory, owner = self.told.memory, Scope(user=scope)
        self.told.clock.of(scope)
        if memory.embedder is not None:
            embed_missing(memory.ledger, memory.embedder, owner)
        if self.how.learn:
            memory.learn(owner)
        nights, every = self._nights.setdefault(scope, _Nights()), self.how.sleep_every
        if every == -1 or 0 < every <= len(nights.sessions):
            report = memory.sleep(owner)
            nights.slept += report.outcome == "committed"
            nights.refused += report.outcome == "refused"
            nights.sessions.clear()

    def _from_text(self, question: str, time: datetime | None, scope: str) -> Reply:
        context, shown = self.told.recalled(question, scope, self._setup.budget_tokens)
        return Reply(
            reading=self._setup.reader.read(question, context.text, at=time),
            context=context.text,
            shown=shown,
            ranked=self.told.ranked(question, scope, self._setup.depth, context),
            notes=(*context.notes, *self.told.notes(scope)),
        )

    def _from_weights(self, question: str, scope: str) -> Reply:
        whose, both = self._whose(scope), self.how.arm == "both"
        assert self._learner is not None
        budget = min(self._setup.budget_tokens, self._learner.reading_tokens)
        self.told.clock.of(whose)
        found = self.told.memory.answer(question, whose, arm=self.how.arm, budget_tokens=budget, note=False)
        if not both:
            return Reply(reading=_reading(question, [], found), spoke=found.spoke, notes=self._notes(scope))
        context, _ = self.told.recalled(question, whose, budget)
        lines, quotes = quotable(context, ())
        return Reply(
            reading=_reading(question, lines, found),
            context="\n".join(lines),
            shown=self.told.turns(source for quote in quotes for source in quote.sources),
            ranked=self.told.ranked(question, whose, self._setup.depth, context),
            spoke=found.spoke,
            notes=(*context.notes, *self._notes(scope)),
        )

    def _notes(self, scope: str) -> tuple[str, ...]:
        if self.how.placebo and self._setup.donor is None:
            return ("there is no other stream to take weights from: the base model answered",)
        nights = self._nights.get(scope, _Nights())
        refused = f"{nights.refused} of {nights.slept + nights.refused} sleeps were refused by the guard"
        return (*self.told.notes(scope), *([refused] if nights.refused else []))

    def _whose(self, scope: str) -> str:
        if not self.how.placebo:
            return scope
        return DONOR.format(self._setup.donor.id if self._setup.donor else "none")[:256]

    def _tell_donor(self) -> None:
        """The whole donor stream, once."""
        donor = self._setup.donor
        if donor is None or self._donor_told:
            return
        self._donor_told = True
        whose = self._whose("")
        for turn in donor.turns:
            self.told.observe(turn, turn.at, whose)
        self.told.clock.of(whose)
        self.told.memory.learn(whose)


def _reading(question: str, lines: list[str], found: Answer) -> Reading:
    text = found.text.strip()
    return Reading(
        text=text,
        prompt=prompts.question_chat(question, lines),
        tokens_in=found.tokens,
        tokens_out=count_tokens(text),
        failed=None if text else "empty",
    )


@cache
def shared(name: str, rule: str, device: str, dtype: str) -> Learner:
    """A model with a write rule, loaded once in this process: states are values, so systems share it."""
    return load_learner(name, rule=rule, device=device, dtype=dtype)


def _embedder(setup: Setup, chosen: str) -> Embedder | None:
    if chosen not in ("setup", "none"):
        raise InputError(f"embedder={chosen!r}; expected 'setup' (that of the run) or 'none'")
    return setup.embedder if chosen == "setup" else None


def make_text(setup: Setup, *, embedder: str = "setup", learn: int = 0) -> System:
    """Text memory alone. learn=1: with what the rules read of the messages (what no longer holds is marked)."""
    return Ours(setup, How(arm="text", learn=bool(learn)), embedder=_embedder(setup, embedder))


def make_weights(
    setup: Setup,
    *,
    how: How,
    model: str = "mini",
    rule: str = "nested",
    device: str = "cpu",
    dtype: str = "float32",
    embedder: str = "none",
    sleep_every: int | None = None,
    lazy: int = 0,
) -> System:
    """Memory in weights, answered by its own model. InputError, MissingExtra or ModelError when there is none."""
    nights = how.sleep_every if sleep_every is None else sleep_every
    chosen = replace(how, sleep_every=nights, lazy=bool(lazy))
    learner = shared(model, rule, device, dtype)
    return Ours(setup, chosen, learner=learner, embedder=_embedder(setup, embedder))


WEIGHTS: dict[str, int | str] = {
    "model": "mini",
    "rule": "nested",
    "device": "cpu",
    "dtype": "float32",
    "lazy": 0,
}


def _kind(name: str, about: str, how: How, **options: int | str) -> Kind:
    return Kind(name=name, about=about, make=partial(make_weights, how=how), options={**WEIGHTS, **options})


KINDS: tuple[Kind, ...] = (
    Kind(
        name="ours-text",
        about="nestmem's ledger: recalled text, no model",
        make=make_text,
        options={"embedder": "setup", "learn": 0},
    ),
    _kind(
        "ours-weights", "nestmem's weights alone, nothing in the prompt", How(arm="weights"), sleep_every=0
    ),
    _kind(
        "ours-both",
        "nestmem's weights and recalled text together",
        How(arm="both"),
        embedder="setup",
        sleep_every=0,
    ),
    _kind("ours-fast", "weights, the fast level alone", How(arm="weights", clocks=FAST_ONLY)),
    _kind("ours-medium", "weights, the medium level alone", How(arm="weights", clocks=MEDIUM_ONLY)),
    _kind(
        "ours-slow",
        "weights, the slow level alone: sleep after each session",
        How(arm="weights", clocks=FAST_ONLY, sleep_every=-1),
    ),
    _kind("ours-all", "weights, all levels and sleep", How(arm="weights", sleep_every=10), sleep_every=10),
    _kind("ours-placebo", "the weights of another stream", How(arm="weights", placebo=True)),
)
