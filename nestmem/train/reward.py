"""What a rollout is rewarded for, and what it costs.

Outcome: exact answers to the probes, with nothing of the conversation in the context. Gain of a write action: how
much it raised the log-probability (nats per answer token, so that long answers count no more than short ones) of the
answers to the future probes about its message, scaled and clipped to [-1, 1]. Costs: tokens written against tokens
read, KL to the base on unrelated text, lost log-probability of probes about earlier sessions, pairs and writes that
the guard refused, pairs without ground in the message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from nestmem.adapters.banks import Banks
from nestmem.adapters.fast_weights import FastWeights
from nestmem.adapters.rows import Row
from nestmem.errors import InputError
from nestmem.train.rollout import Pairs, Rollout, Stream, padded_left, wide

UNRELATED = (
    ("What is two plus two?", "Four."),
    ("How does a kettle work?", "It heats water until it boils."),
    ("Write a sentence about the sea.", "The sea was calm, and a small boat came in."),
    ("Thank you, that is all.", "You're welcome."),
)
"""Exchanges that no persona's facts bear upon: what the banks do to these is drift."""


@dataclass(frozen=True, kw_only=True)
class RewardWeights:
    """How much each part counts.

    `gain_nats`: the change in nats per token that counts as a gain of 1; a tenfold better chance is 2.3 (at 1, all
    that helps looks alike). `outcome` and `gain` weigh advantages. The others are costs: on the action per token
    written a token read (`tokens`), per pair without ground (`ungrounded`) and per pair refused for another reason
    (`rejected`); on the rollout per nat of drift (`drift`), per nat of lost old probes (`old`) and per write refused
    as a whole (`refused`).
    """

    outcome: float = 0.5
    gain: float = 1.0
    gain_nats: float = 8.0
    tokens: float = 0.05
    ungrounded: float = 0.5
    rejected: float = 0.2
    drift: float = 0.1
    old: float = 0.5
    refused: float = 0.5

    def __post_init__(self) -> None:
        negative = [f.name for f in fields(self) if not getattr(self, f.name) >= 0]
        if negative:
            raise InputError(
                f"reward weights {', '.join(negative)} are below 0: a cost would become a reward"
            )
        if not self.gain_nats > 0:
            raise InputError(f"gain_nats={self.gain_nats}: expected above 0, the change that counts as 1")


def grounded(pair: tuple[str, str], message: str) -> bool:
    """Whether the pair's answer stands in the message, word by word, and the question is not itself the answer."""
    question, answer = (_words(text) for text in pair)
    return bool(answer) and question != answer and f" {answer} " in f" {_words(message)} "


def screen(pairs: Pairs, message: str) -> Pairs:
    """The guard's first gate: pairs that are grounded, each question and answer once."""
    kept: Pairs = []
    for pair in pairs:
        if grounded(pair, message) and pair not in kept:
            kept.append(pair)
    return kept


def exact(answer: str, wanted: str) -> bool:
    """Whether two answers are the same but for case, punctuation and white space."""
    return _words(answer) == _words(wanted)


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


@torch.no_grad()
def answer_logprobs(weights: FastWeights, users: Sequence[Pairs], banks: Banks | None) -> Tensor:
    """Mean log-probability (nats per token, <= 0) of every user's answers to their questions under their own banks.

    `banks` (U, O, R) per site, None for the bare model. Returns (U, Q) with Q the most questions of a user; the places
    of those who have fewer are 0.
    """
    most = max(map(len, users), default=0)
    if not most:
        return torch.zeros(len(users), 0)
    filler = [("?", "?")]
    rows = [weights.encode_pair(*pair) for own in users for pair in [*own, *filler * (most - len(own))]]
    logprob_BTV, tokens_BT, mask_BT = _answers(weights, rows, banks)
    chosen = logprob_BTV.gather(-1, tokens_BT[..., None])[..., 0]
    mean_B = (chosen * mask_BT).sum(1) / mask_BT.sum(1)
    there = torch.tensor([[q < len(own) for q in range(most)] for own in users])
    return torch.where(there, mean_B.reshape(len(users), most).cpu(), 0.0)


def _answers(weights: FastWeights, rows: list[Row], banks: Banks | None) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (B, T, V) in the places of the rows' answers, the answers' tokens and a mask (B, T).

    The rows end together, so that only their last places need the vocabulary.
    """
    device = weights.banked.bases[0].device
    ids_BT, mask_BT = padded_left([row.ids for row in rows], device)
    longest = max(sum(weight > 0 for weight in row.weights) for row in rows)
    logits = weights.banked(
        banks,
        input_ids=ids_BT,
        attention_mask=mask_BT,
        position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=longest + 1,
    ).logits[:, :-1]
    counted = [[0.0] * (longest - len(row.ids)) + row.weights[-longest:] for row in rows]
    return (
        wide(logits).log_softmax(-1),
        ids_BT[:, -longest:],
        (torch.tensor(counted, device=device) > 0).float(),
    )


@torch.no_grad()
def drift(weights: FastWeights, banks: Banks) -> Tensor:
    """Mean KL(base || with banks), nats per token of the answers of `UNRELATED`, for every user of `banks`: (U,)."""
    users = banks[0].shape[0]
    rows = [weights.encode_pair(*pair) for pair in UNRELATED]
    base_BTV, _, mask_BT = _answers(weights, rows, None)
    changed_BTV, _, _ = _answers(weights, rows * users, banks)
    changed_UBTV = changed_BTV.reshape(users, *base_BTV.shape)
    kl_UBT = (base_BTV.exp() * (base_BTV - changed_UBTV)).sum(-1)
    return ((kl_UBT * mask_BT).sum((1, 2)) / mask_BT.sum()).cpu()


def measure(weights: FastWeights, streams: list[Stream], banks: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """The log-probabilities of all probes' answers (U, Q) and the drift (U,) of rollouts with these banks."""
    stacked = [torch.stack(site) for site in zip(*banks, strict=True)]
    probes = [[(probe.question, probe.answer) for probe in stream.probes] for stream in streams]
    return answer_logprobs(weights, probes, stacked), drift(weights, stacked)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One rollout's rewards. `outcome` and `shared` (costs) are of the whole rollout; `writes` has, by (session,
    message), the gain less the costs of the action; `answers` has 1 for each probe answered exactly, else 0."""

    outcome: float
    shared: float
    writes: dict[tuple[int, int], float]
    answers: dict[int, float]


def score(rollout: Rollout, weights: RewardWeights) -> Score:
    """The rewards of a rollout, from what it recorded alone.

    Who gets a gain: the session's write as a whole changed the banks, and the change in the probes about a message is
    credited to the action about that message; an action about a message that no probe is about gains nothing and has
    its costs. What a write does to the probes of other messages is in the outcome and in the loss of old probes.
    """
    answers = {
        action.place[0]: float(exact(action.sampled.text, rollout.stream.probes[action.place[0]].answer))
        for action in rollout.actions
        if action.kind == "answer"
    }
    writes = {}
    for action in rollout.actions:
        if action.kind == "write":
            s, m = action.place
            cost = action_cost(rollout, s, m, len(action.sampled.tokens), weights)
            writes[s, m] = gain(rollout, s, m, weights) - cost
    sessions = range(len(rollout.stream.sessions))
    lost = sum(old_loss(rollout, s) for s in sessions) / len(sessions)
    shared = weights.drift * rollout.drift[-1] + weights.old * lost + weights.refused * len(rollout.refused)
    outcome = sum(answers.values()) / max(1, len(answers))
    return Score(outcome=outcome, shared=shared, writes=writes, answers=answers)


def gain(rollout: Rollout, session: int, message: int, weights: RewardWeights) -> float:
    """What the write after `session` added to the probes about one of its messages: the change in nats per token over
    `weights.gain_nats`, clipped to [-1, 1]."""
    before, after = rollout.gains[session], rollout.gains[session + 1]
    changes = [
        max(-1.0, min(1.0, (after[q] - before[q]) / weights.gain_nats))
        for q, probe in enumerate(rollout.stream.probes)
        if (probe.session, probe.message) == (session, message)
    ]
    return sum(changes) / max(1, len(changes))


def old_loss(rollout: Rollout, session: int) -> float:
    """What the write after `session` took from the probes about earlier sessions: nats per token, 0 to 1."""
    before, after = rollout.gains[session], rollout.gains[session + 1]
    losses = [
        max(0.0, min(1.0, before[q] - after[q]))
        for q, probe in enumerate(rollout.stream.probes)
        if probe.session < session
    ]
    return sum(losses) / max(1, len(losses))


def action_cost(rollout: Rollout, session: int, message: int, tokens: int, weights: RewardWeights) -> float:
    """What a write action costs: its tokens for each token of the message, and what the guard refused of it.

    A message's tokens are counted as a fixed four characters each, so that no choice of words changes the price.
    """
    text = rollout.stream.sessions[session][message]
    written = rollout.pairs[session, message]
    bare = sum(not grounded(pair, text) for pair in written)
    rejected = len(written) - bare - len(rollout.accepted[session, message])
    share = 4 * tokens / max(4, len(text))
    return weights.tokens * share + weights.ungrounded * bare + weights.rejected * rejected
