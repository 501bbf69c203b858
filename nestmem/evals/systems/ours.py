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

A placebo is told of the donor as many turns as its own user has said, at most, and at the same times.

ours-both may take the value of a stored memory for its text half: whichever memory of the ledger asks this question.
That memory then stands first in `Reply.context`, and recall has so much less of the budget. Which half is believed
when they differ may rest on memories that are not in the context; a note says where it may.

A reader other than the memory's own model reads for ours-text only: weights cannot be put into an endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, partial
from typing import Literal

from nestmem.agent import prompts, speech
from nestmem.agent.answering import Quote, quotable
from nestmem.agent.chains import Clocks
from nestmem.agent.recall import CHARS_PER_TOKEN, Context, count_tokens, embed_missing
from nestmem.agent.types import Answer, Chat, Embedder, Learner
from nestmem.assemble import load_learner
from nestmem.errors import InputError
from nestmem.evals.datasets.base import Turn
from nestmem.evals.systems.base import Kind, Reading, Reply, Setup, System
from nestmem.evals.systems.told import SHIPPED, Told
from nestmem.store import MemoryRecord, Scope

Arm = Literal["text", "weights", "both"]
NEVER = 10**9
NOT_ASKED = (
    "no model was asked: the answer is a stored value, a line as it stands, or the words for not knowing"
)
DONOR = "donor/{}/{}"
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
        self._said: dict[str, int] = {}
        self._donor_told: dict[str, int] = {}

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Stores the message; a placebo keeps nothing of its own user."""
        self._said[scope] = self._said.get(scope, 0) + 1
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
            self._tell_donor(scope)
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
        whose = self._whose(scope)
        assert self._learner is not None
        self.told.clock.of(whose)
        if self.how.arm == "both":
            return self._from_both(question, whose)
        found = self.told.memory.answer(question, whose, arm=self.how.arm, note=False)
        asked = found.by != "extract"
        return Reply(
            reading=_reading(found, [prompts.question_chat(question)] if asked else []),
            spoke=found.spoke,
            halves=_halves(found),
            notes=(*([] if asked else [NOT_ASKED]), *self._notes(scope)),
        )

    def _from_both(self, question: str, scope: str) -> Reply:
        assert self._learner is not None
        room = min(self._setup.budget_tokens, self._learner.reading_tokens)
        memories = self.told.memory.ledger.memories(Scope(user=scope).owner)
        stored = _stored(question, memories) if self._learner.extractive else None
        used = (
            [] if stored is None else [prompts.memory_line(f"{stored.question} {stored.answer}", None, None)]
        )
        chars = CHARS_PER_TOKEN * room - sum(len(line) + 1 for line in used)
        context, lines, quotes, budget = self._recalled(question, scope, chars)
        found = self.told.memory.answer(question, scope, arm="both", budget_tokens=budget, note=False)
        # Without lines there is no text half, so nothing is looked up for it.
        used, stored = (used, stored) if lines else ([], None)
        chats = _chats(question, lines, found, read=stored is None)
        sources = [source for quote in quotes for source in quote.sources]
        shown = [stored.event_id, *sources] if stored else sources
        notes = [] if chats else [NOT_ASKED]
        if _decided_by(found, [m for m in memories if m.event_id not in shown]):
            notes.append(
                "the halves differed, and memories outside of the context had a say in which is believed"
            )
        return Reply(
            reading=_reading(found, chats),
            context="\n".join([*used, *lines]),
            shown=self.told.turns(shown),
            ranked=self.told.ranked(question, scope, self._setup.depth, context),
            spoke=found.spoke,
            halves=_halves(found),
            notes=(*notes, *context.notes, *self._notes(scope)),
        )

    def _recalled(self, question: str, scope: str, chars: int) -> tuple[Context, list[str], list[Quote], int]:
        """What is recalled, its lines for the prompt with at most `chars` characters (one budget's least line may
        have more), what they quote, and the budget in tokens that comes to them: prompt lines have a date each, so
        they are longer than the text that recall counts."""
        budget = max(1, chars // CHARS_PER_TOKEN)
        while True:
            context, _ = self.told.recalled(question, scope, budget)
            lines, quotes = quotable(context, ())
            over = len("\n".join(lines)) - chars
            if over <= 0 or budget == 1:
                return context, lines, quotes, budget
            budget = max(1, budget - -(-over // CHARS_PER_TOKEN))

    def _notes(self, scope: str) -> tuple[str, ...]:
        if self.how.placebo and self._setup.donor is None:
            return ("there is no other stream to take weights from: the base model answered",)
        nights = self._nights.get(scope, _Nights())
        refused = f"{nights.refused} of {nights.slept + nights.refused} sleeps were refused by the guard"
        return (*self.told.notes(scope), *([refused] if nights.refused else []))

    def _whose(self, scope: str) -> str:
        if not self.how.placebo:
            return scope
        return DONOR.format(scope, self._setup.donor.id if self._setup.donor else "none")[:256]

    def _tell_donor(self, scope: str) -> None:
        """Of the donor stream as many turns as were said in this scope."""
        donor, whose = self._setup.donor, self._whose(scope)
        if donor is None:
            return
        before, now = self._donor_told.get(scope, 0), self._said.get(scope, 0)
        self._donor_told[scope] = now
        for turn in donor.turns[before:now]:
            self.told.observe(turn, turn.at, whose)
        self.told.clock.of(whose)
        self.told.memory.learn(whose)


def _stored(question: str, memories: Sequence[MemoryRecord]) -> MemoryRecord | None:
    """The memory whose value a small reader takes instead of reading (`nestmem.agent.answering`), if any."""
    memory, likeness = speech.best_match(question, memories)
    return memory if memory is not None and memory.answer and likeness >= speech.ENOUGH else None


def _chats(question: str, lines: list[str], found: Answer, *, read: bool) -> list[Chat]:
    """The chats that the model was asked for an answer from both halves. read: whether it read the lines."""
    alone, full = prompts.question_chat(question), prompts.question_chat(question, lines)
    weighed = "weights" in found.halves
    texts = [full] if lines and read else []
    return [
        *texts,
        *([alone] if weighed or not lines else []),
        *([full] if "both" in found.halves else []),
    ]


def _decided_by(found: Answer, memories: Sequence[MemoryRecord]) -> bool:
    """Whether the halves differ and one of these memories has the value of either."""
    text, weights = found.halves.get("text", ""), found.halves.get("weights", "")
    if not text or not weights or speech.is_unknown(text) or speech.is_unknown(weights):
        return False
    if speech.same(text, weights) or speech.holds_answer(text, weights):
        return False
    return any(m.answer and any(speech.holds_answer(h, m.answer) for h in (text, weights)) for m in memories)


def _halves(found: Answer) -> tuple[str, ...]:
    return (f"by: {found.by}", *(f"{half}: {said}" for half, said in found.halves.items()))


def _reading(found: Answer, chats: Sequence[Chat]) -> Reading:
    """prompt: each chat once; tokens_in: of all, also of one that was asked twice (with and without weights)."""
    text = found.text.strip()
    different = [chat for number, chat in enumerate(chats) if chat not in chats[:number]]
    return Reading(
        text=text,
        prompt=[message for chat in different for message in chat],
        tokens_in=sum(count_tokens(message["content"]) for chat in chats for message in chat),
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
