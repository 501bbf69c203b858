"""Episodes of reinforcement learning: personas' streams, and rollouts that own their fast weights.

An episode is one user's stream: sessions of messages, and questions (probes) asked after a session with nothing of
the conversation in the context. The policy writes (question-answer pairs about each message, "none" for nothing) and
answers. Every rollout has banks of its own, which its writes replace: version 0 holds nothing, version s + 1 is what
stands after session s. An action remembers the version under which its tokens were drawn, so that their
log-probabilities can be taken again under the same banks.

The policy is the model at a temperature, *restricted to the allowed tokens*: where the model is extractive, an answer
that it writes continues a span of the message (see `adapters.copying`), and log-probabilities are normalised over the
allowed tokens alone, when drawing and when updating.

Letters: B rows of a batch, T tokens, V vocabulary, U rollouts, O outputs of a projection, R rank.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from nestmem.adapters.copying import spans_of, writing_constraint
from nestmem.adapters.fast_weights import WRITER_PROMPT, FastWeights, parse_pairs
from nestmem.errors import InputError
from nestmem.personas import Fact, PersonaGenerator

Pairs = list[tuple[str, str]]
Allowed = Callable[[int, list[int]], list[int]]
"""(row, tokens made so far) -> the tokens that may follow; an empty list allows all."""
Constraint = Callable[[list[str]], Allowed]
"""The messages of a batch, one a row -> what the writer may emit about each."""
Screen = Callable[[Pairs, str], Pairs]
"""(pairs written about a message, message) -> those that the guard lets into the weights."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A question about message `message` of session `session`, asked after session `due`."""

    question: str
    answer: str
    session: int
    message: int
    due: int


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One persona: the user's messages by session, and the probes in order of time."""

    sessions: tuple[tuple[str, ...], ...]
    probes: tuple[Probe, ...]


@dataclass(frozen=True, kw_only=True)
class StreamShape:
    """How many sessions, and messages in each; `idle` is the share of messages that tell nothing of the user."""

    sessions: int = 2
    messages: int = 4
    idle: float = 0.15

    def __post_init__(self) -> None:
        if self.sessions < 1 or self.messages < 1 or not 0 <= self.idle < 1:
            raise InputError(
                f"sessions={self.sessions}, messages={self.messages}, idle={self.idle}: "
                "expected at least one session of one message, and a share from 0 to below 1"
            )


def persona_stream(
    generator: PersonaGenerator,
    rng: random.Random,
    shape: StreamShape,
    *,
    keep: Callable[[str], bool] | None = None,
    counterfactual: bool = False,
) -> Stream:
    """Draw a stream. Each told fact is asked about once, mostly at the end, in words other than it was told in.

    `keep` says which messages about a fact are wanted (such as those that rules cannot read). `counterfactual`: every
    value comes from another key's pool ("My home town is cobalt blue"), so no style prior can guess it.
    """
    count = shape.sessions * shape.messages
    told: list[tuple[Fact, str]] = []
    while len(told) < count:
        facts = generator.facts(min(6 * count if keep else count, 48), rng)
        if counterfactual:
            facts = [_displaced(fact, generator, rng) for fact in facts]
        messages = [(fact, generator.told(fact, rng)) for fact in facts]
        told += [(fact, text) for fact, text in messages if keep is None or keep(text)]
        told = list({fact.key: (fact, text) for fact, text in reversed(told)}.values())
    told = told[:count]
    sessions: list[tuple[str, ...]] = []
    probes: list[Probe] = []
    for s in range(shape.sessions):
        lines: list[str] = []
        for m in range(shape.messages):
            fact, text = told.pop()
            if rng.random() < shape.idle:
                lines.append(rng.choice([generator.smalltalk, generator.third_party])(rng))
                continue
            lines.append(text)
            due = shape.sessions - 1 if rng.random() < 0.6 else rng.randint(s, shape.sessions - 1)
            asked = generator.question(fact.key, rng)
            probes.append(Probe(question=asked, answer=fact.value, session=s, message=m, due=due))
        sessions.append(tuple(lines))
    return Stream(sessions=tuple(sessions), probes=tuple(sorted(probes, key=lambda probe: probe.due)))


def _displaced(fact: Fact, generator: PersonaGenerator, rng: random.Random) -> Fact:
    """The fact with a value that belongs to some other key."""
    relation = fact.key.partition("/")[2]
    keys = generator.keys()
    other = rng.choice([key for key in keys if key.partition("/")[2] != relation])
    return generator.fact(fact.key, rng, value=generator.value(other, rng))


@dataclass(frozen=True, kw_only=True)
class Version:
    """A rollout's banks (O, R) per site at one moment; `digest` is that of the write rule's state."""

    number: int
    digest: str
    banks: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Tokens drawn after a prompt, with what was allowed in each place (empty: all) and log-probabilities in nats
    under the policy; the end of the turn is one of the tokens unless the limit came first."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    allowed: tuple[tuple[int, ...], ...]
    logprobs: tuple[float, ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing the policy did: `place` is (session, message) of a write, (probe index,) of an answer."""

    kind: Literal["write", "answer"]
    version: int
    place: tuple[int, ...]
    sampled: Sampled


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One life of one persona under the policy.

    `pairs` are what each write action emitted, `accepted` what of it went into the weights, both by (session,
    message); `refused` are the sessions whose write as a whole was not committed; `gains` has one row per version with
    the mean log-probability (nats per token) of every probe's answer under it, `drift` one KL to the base (nats per
    token, on unrelated text) per version.
    """

    stream: Stream
    actions: tuple[Action, ...]
    versions: tuple[Version, ...]
    pairs: dict[tuple[int, int], Pairs]
    accepted: dict[tuple[int, int], Pairs]
    refused: tuple[int, ...]
    gains: tuple[tuple[float, ...], ...]
    drift: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Temperature of the policy (0: the most likely token), and token limits of a write and of an answer."""

    temperature: float = 1.0
    write_tokens: int = 48
    answer_tokens: int = 12

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.write_tokens < 1 or self.answer_tokens < 1:
            raise InputError(
                f"temperature={self.temperature}, write_tokens={self.write_tokens}, "
                f"answer_tokens={self.answer_tokens}: expected at least 0, 1 and 1"
            )


@torch.no_grad()
def sample(
    weights: FastWeights,
    prompts: Sequence[list[int]],
    banks: Sequence[Tensor] | None,
    allowed: Allowed | None,
    *,
    temperature: float,
    max_new_tokens: int,
    generator: torch.Generator,
) -> list[Sampled]:
    """Draw one continuation a prompt, all in one batch with a key-value cache; prompts are padded to the left, and
    rollouts whose rows have all ended leave the batch.

    `banks` (U, O, R) per site, U dividing the number of prompts, one rollout's rows side by side. `generator` must
    live on the model's device.
    """
    end = end_token(weights)
    device = weights.banked.bases[0].device
    ids_BT, mask_BT = padded_left(prompts, device)
    made: list[list[int]] = [[] for _ in prompts]
    limits: list[list[tuple[int, ...]]] = [[] for _ in prompts]
    chances: list[list[float]] = [[] for _ in prompts]
    size = len(prompts) // (banks[0].shape[0] if banks else len(prompts))
    rows = list(range(len(prompts)))
    cache = None
    for step in range(max_new_tokens):
        out = weights.banked(
            banks,
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        over = [end in made[b] for b in rows]
        ruled = [
            tuple(allowed(b, made[b])) if allowed and not o else () for b, o in zip(rows, over, strict=True)
        ]
        logits_BV = restricted(wide(out.logits[:, -1]), ruled)
        logprob_BV = (logits_BV / (temperature or 1.0)).log_softmax(-1)
        if temperature:
            chosen_B1 = torch.multinomial(logprob_BV.exp(), 1, generator=generator)
        else:
            chosen_B1 = logprob_BV.argmax(-1, keepdim=True)
        chance = logprob_BV.gather(1, chosen_B1)[:, 0].tolist()
        for n, token in enumerate(chosen_B1[:, 0].tolist()):
            if not over[n]:
                made[rows[n]].append(token)
                limits[rows[n]].append(ruled[n])
                chances[rows[n]].append(chance[n])
        going = [
            u
            for u in range(len(rows) // size)
            if any(end not in made[b] for b in rows[u * size : (u + 1) * size])
        ]
        if not going:
            break
        ids_BT = chosen_B1
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], 1)
        if step % 4 == 3 and len(going) < len(rows) // size:
            kept = [u * size + n for u in going for n in range(size)]
            chosen = torch.tensor(kept, device=device)
            cache.batch_select_indices(chosen)
            ids_BT, mask_BT, rows = ids_BT[chosen], mask_BT[chosen], [rows[n] for n in kept]
            banks = [bank[torch.tensor(going, device=device)] for bank in banks] if banks else None
    return [
        Sampled(
            prompt=tuple(prompts[b]),
            tokens=tuple(made[b]),
            allowed=tuple(limits[b]),
            logprobs=tuple(chances[b]),
            text=str(weights.tokenizer.decode(made[b], skip_special_tokens=True)).strip(),
        )
        for b in range(len(prompts))
    ]


def padded_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (B, T) and attention mask (B, T) of rows that end together."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def wide(logits: Tensor) -> Tensor:
    """The logits in float32, or in float64 if they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def restricted(logits_BV: Tensor, allowed: Sequence[tuple[int, ...]]) -> Tensor:
    """The logits with minus infinity where row b's `allowed` (if it is not empty) does not have the token."""
    bound = [b for b, tokens in enumerate(allowed) if tokens]
    if not bound:
        return logits_BV
    barred = torch.zeros(logits_BV.shape, dtype=torch.bool)
    barred[bound] = True
    for b in bound:
        barred[b, list(allowed[b])] = False
    return logits_BV.masked_fill(barred.to(logits_BV.device), -torch.inf)


def recompute(
    weights: FastWeights, rows: Sequence[tuple[Sampled, Version]], *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T) in nats of drawn tokens under the model as it is now and each row's own version of the
    banks, and a mask (B, T) that is 1 where there is a token. Differentiable in the model's parameters only."""
    device = weights.banked.bases[0].device
    longest = max(len(drawn.tokens) for drawn, _ in rows)
    prompts = [drawn.prompt for drawn, _ in rows]
    ids_BP, mask_BP = padded_left(prompts, device)
    tokens_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    mask_BT = torch.zeros(len(rows), longest)
    allowed: list[tuple[int, ...]] = []
    for b, (drawn, _) in enumerate(rows):
        tokens_BT[b, : len(drawn.tokens)] = torch.tensor(drawn.tokens)
        mask_BT[b, : len(drawn.tokens)] = 1
        allowed += [*drawn.allowed, *[()] * (longest - len(drawn.tokens))]
    tokens_BT, mask_BT = tokens_BT.to(device), mask_BT.to(device)
    attention = torch.cat([mask_BP, mask_BT.long()], 1)
    banks = [torch.stack(site) for site in zip(*(version.banks for _, version in rows), strict=True)]
    logits_BTV = weights.banked(
        banks,
        input_ids=torch.cat([ids_BP, tokens_BT], 1),
        attention_mask=attention,
        position_ids=(attention.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=longest + 1,
    ).logits[:, :-1]
    flat = restricted(wide(logits_BTV).flatten(0, 1), allowed) / (temperature or 1.0)
    chosen = flat.log_softmax(-1).gather(1, tokens_BT.reshape(-1, 1)).reshape(tokens_BT.shape)
    return torch.where(mask_BT > 0, chosen, 0.0), mask_BT


def end_token(weights: FastWeights) -> int:
    """The token that ends an action. Raises `InputError` when the tokenizer has none."""
    end = weights.tokenizer.eos_token_id
    if not isinstance(end, int):
        raise InputError(
            f"the tokenizer's end-of-text token is {end!r}: no action would ever end; set eos_token"
        )
    return end


def extractive_writing(weights: FastWeights) -> Constraint:
    """What an extractive model writes after " A:" is a span of words of the message."""
    marker, newline = (weights.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (" A:", "\n"))
    stop = (end_token(weights), *newline)

    def constraint(messages: list[str]) -> Allowed:
        sources = [spans_of(weights.tokenizer, text, stop=stop) for text in messages]
        limit = writing_constraint(sources, 0, marker, newline[0], [])
        return lambda row, made: limit(row, torch.tensor(made, dtype=torch.long))

    return constraint


def writer_prompt(weights: FastWeights, message: str) -> list[int]:
    """The tokens after which the policy writes about a message."""
    chat = [{"role": "system", "content": WRITER_PROMPT}, {"role": "user", "content": message}]
    return weights.prompt_ids(chat)


Measures = Callable[[FastWeights, list[Stream], list[list[Tensor]]], tuple[Tensor, Tensor]]
"""(weights, a stream per rollout, banks by rollout) -> log-probabilities of probes (U, Q) and drift (U,)."""


def collect(
    weights: FastWeights,
    streams: Sequence[Stream],
    sampling: Sampling,
    *,
    screen: Screen,
    measure: Measures,
    generator: torch.Generator,
    trust_region: float = float("inf"),
    constraint: Constraint | None = None,
    statements: bool = True,
) -> list[Rollout]:
    """Live one life per stream, all side by side; to get a group, give a persona's stream several times.

    Streams must have the same number of sessions, and of messages in each. Session by session: write about every
    message under the current version, put the screened pairs into the banks in one write of the weights' own rule,
    drop the write if the drift it leads to is over `trust_region` (nats per token) or is not finite, then answer the
    probes that are due. `statements`: a message about which one pair was written is learned as statement -> answer
    too, as the agent does.
    """
    shapes = {tuple(len(session) for session in stream.sessions) for stream in streams}
    if len(shapes) != 1:
        raise InputError(f"streams of different shapes cannot share a batch: {sorted(shapes)[:3]}")
    if constraint is None and weights.extractive:
        constraint = extractive_writing(weights)
    count = len(streams)
    states: list[Any] = [weights.rule_object.empty()] * count
    versions = [[_version(weights, 0, state)] for state in states]
    actions: list[list[Action]] = [[] for _ in streams]
    pairs: list[dict[tuple[int, int], Pairs]] = [{} for _ in streams]
    accepted: list[dict[tuple[int, int], Pairs]] = [{} for _ in streams]
    refused: list[list[int]] = [[] for _ in streams]
    measured = [_at_start(weights, streams, versions, measure)]
    for s, size in enumerate(next(iter(shapes))):
        messages = [text for stream in streams for text in stream.sessions[s]]
        drawn = sample(
            weights,
            [writer_prompt(weights, text) for text in messages],
            _stacked(versions),
            constraint(messages) if constraint else None,
            temperature=sampling.temperature,
            max_new_tokens=sampling.write_tokens,
            generator=generator,
        )
        lessons: list[list[Pairs]] = []
        for u, stream in enumerate(streams):
            memories = []
            for m, text in enumerate(stream.sessions[s]):
                made = drawn[u * size + m]
                actions[u].append(Action(kind="write", version=s, place=(s, m), sampled=made))
                pairs[u][s, m] = parse_pairs(made.text)
                accepted[u][s, m] = screen(pairs[u][s, m], text)
                memories.append(lesson(accepted[u][s, m], text, statements=statements))
            lessons.append([memory for memory in memories if memory])
        written = [state for state, _ in weights.write(states, lessons)]
        candidates = [_version(weights, s + 1, state) for state in written]
        found, drift = measure(weights, list(streams), [list(v.banks) for v in candidates])
        for u in range(count):
            if not float(drift[u]) <= trust_region:
                refused[u].append(s)
                candidates[u] = _version(weights, s + 1, states[u])
                found[u], drift[u] = measured[-1][0][u], measured[-1][1][u]
            else:
                states[u] = written[u]
            versions[u].append(candidates[u])
        measured.append((found, drift))
        _answer(weights, streams, s, versions, actions, sampling, generator)
    return [
        Rollout(
            stream=stream,
            actions=tuple(actions[u]),
            versions=tuple(versions[u]),
            pairs=pairs[u],
            accepted=accepted[u],
            refused=tuple(refused[u]),
            gains=tuple(tuple(found[u, : len(stream.probes)].tolist()) for found, _ in measured),
            drift=tuple(float(drift[u]) for _, drift in measured),
        )
        for u, stream in enumerate(streams)
    ]


def _at_start(
    weights: FastWeights, streams: Sequence[Stream], versions: list[list[Version]], measure: Measures
) -> tuple[Tensor, Tensor]:
    """What is measured before anything was written: the same for every rollout of a stream."""
    different = list({id(stream): stream for stream in streams}.values())
    place = {id(stream): n for n, stream in enumerate(different)}
    found, drift = measure(weights, different, [list(versions[0][0].banks) for _ in different])
    rows = [place[id(stream)] for stream in streams]
    return found[rows], drift[rows]


def lesson(pairs: Pairs, message: str, *, statements: bool) -> Pairs:
    """What the weights learn of the pairs written about a message."""
    alone = statements and len(pairs) == 1
    return [*pairs, (message, pairs[0][1])] if alone else list(pairs)


def _answer(
    weights: FastWeights,
    streams: Sequence[Stream],
    session: int,
    versions: list[list[Version]],
    actions: list[list[Action]],
    sampling: Sampling,
    generator: torch.Generator,
) -> None:
    """Answer the probes due after `session`, each rollout under its own banks of now, with nothing in the context."""
    due = [[q for q, probe in enumerate(stream.probes) if probe.due == session] for stream in streams]
    most = max(map(len, due))
    if not most:
        return
    filled = [[*chosen, *[-1] * (most - len(chosen))] for chosen in due]
    prompts = []
    for stream, chosen in zip(streams, filled, strict=True):
        asked = [stream.probes[q].question if q >= 0 else "?" for q in chosen]
        prompts += [weights.prompt_ids([{"role": "user", "content": text}]) for text in asked]
    drawn = sample(
        weights,
        prompts,
        _stacked(versions),
        None,
        temperature=sampling.temperature,
        max_new_tokens=sampling.answer_tokens,
        generator=generator,
    )
    for u, chosen in enumerate(filled):
        for n, q in enumerate(chosen):
            if q >= 0:
                made = drawn[u * most + n]
                actions[u].append(Action(kind="answer", version=session + 1, place=(q,), sampled=made))


def _version(weights: FastWeights, number: int, state: Any) -> Version:
    banks = tuple(bank.detach() for bank in weights.rule_object.banks(state))
    return Version(number=number, digest=weights.rule_object.digest(state), banks=banks)


def _stacked(versions: list[list[Version]]) -> list[Tensor]:
    """The newest banks of all rollouts: (U, O, R) per site."""
    return [torch.stack(site) for site in zip(*(own[-1].banks for own in versions), strict=True)]
