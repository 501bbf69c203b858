"""SEAL's matrix (arXiv 2506.10943, section 4.4): eight passages are written into the weights one after another, and
after each edit the questions on every passage are asked with nothing in the context.

Row t of the matrix is the state after t edits (row 0: the base), column i the questions on passage i. What matters is
the mean of the last row against the base, and against *fresh*: each passage written alone from the base. SEAL's own
data have 41.5 right after an edit, 24.7 after eight, the base 30.8 (64 sequences; from its released JSON).

Questions and answers are those of SQuAD 1.1 in SEAL's form. An answer is scored token by token with the right tokens
before it (teacher-forced): `exact` is whether every token with the end of the turn is the model's first choice, which
is whether greedy decoding gives this very answer; `tokens` the share of such tokens; `nats` the mean log-probability
of a token (<= 0). A small model hardly ever is exact on SQuAD, so the other two are what moves.

What may be written of a passage (`SOURCES`):
    passage   each sentence as (title and the sentence's first third -> the rest): the text and nothing else
    writer    those, and the question-answer pairs that the model itself makes of each sentence
    gold      the very questions that are asked, with their answers: no memory, an upper bound of the write rule
"""

from __future__ import annotations

import gzip
import json
import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nestmem.adapters.banks import BankedModel
from nestmem.adapters.fast_weights import FastWeights
from nestmem.adapters.rows import Row, fixed_batches
from nestmem.errors import InputError
from nestmem.evals.stats import clustered_mean

VERSION = "seal/1"
SOURCES = ("passage", "writer", "gold")
SCORES = ("exact", "tokens", "nats")

Pair = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A text with its title and the questions on it."""

    title: str
    context: str
    questions: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A write rule in use: `levels` moves a passage to the medium level when the next one comes (its session has
    ended), and everything to the slow level at the end (a sleep)."""

    name: str
    rule: str
    levels: bool = False


ARMS = (
    Arm(name="additive", rule="additive"),
    Arm(name="rls", rule="rls"),
    Arm(name="tmem", rule="tmem"),
    Arm(name="nested", rule="nested", levels=True),
)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One answer under one state: see the scores at the top of the module."""

    exact: bool
    tokens: float
    nats: float


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The scores of one sequence: `cells[t][i]` lists those of passage i after t edits, `fresh[i]` of passage i alone,
    `slept[i]` after all edits and a sleep (None: the arm has no levels). `kl` is the mean KL(base || edited) in nats
    per token of unrelated text after all edits, None without such a text."""

    cells: list[list[list[Scored]]]
    fresh: list[list[Scored]]
    slept: list[list[Scored]] | None
    kl: float | None


# --- reading -----------------------------------------------------------------------------------------


def read_passages(path: Path) -> list[Passage]:
    """Reads `squad_val.json` of SEAL, plain or gzipped. Raises InputError naming what is wrong in which passage."""
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if path.suffix == ".gz" else data
        records = json.loads(text)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); give --data SEAL's squad_val.json") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}); give --data SEAL's squad_val.json") from error
    if not isinstance(records, list) or not records:
        raise InputError(
            f"{path}: holds {type(records).__name__}; expected a list of passages that is not empty"
        )
    return [_passage(record, f"{path}, passage {index}") for index, record in enumerate(records)]


def _passage(record: Any, where: str) -> Passage:
    if not isinstance(record, dict):
        raise InputError(f"{where}: is a {type(record).__name__}; expected an object")
    for name, kind in (("title", str), ("context", str), ("questions", list)):
        if not isinstance(record.get(name), kind) or not record[name]:
            raise InputError(
                f"{where}: {name} is {record.get(name)!r}; expected a {kind.__name__} that is not empty"
            )
    questions = []
    for item in record["questions"]:
        pair = (item.get("question"), item.get("answer")) if isinstance(item, dict) else (None, None)
        if not all(isinstance(text, str) and text.strip() for text in pair):
            raise InputError(
                f"{where}: a question reads {item!r}; expected an object with question and answer"
            )
        questions.append(pair)
    return Passage(title=record["title"], context=record["context"], questions=tuple(questions))


def draw(
    passages: Sequence[Passage], *, sequences: int, length: int, questions: int, seed: int
) -> list[list[Passage]]:
    """Sequences of `length` passages, no passage twice, each with at most `questions` of its questions."""
    if sequences < 1 or length < 1 or questions < 1:
        raise InputError(
            f"{sequences} sequences of {length} passages and {questions} questions; each is at least 1"
        )
    if sequences * length > len(passages):
        raise InputError(
            f"{sequences} sequences of {length} passages need {sequences * length}, the data have {len(passages)}; "
            "ask for fewer sequences"
        )
    rng = random.Random(seed)
    chosen = rng.sample(list(passages), sequences * length)
    short = []
    for passage in chosen:
        asked = rng.sample(passage.questions, min(questions, len(passage.questions)))
        short.append(Passage(title=passage.title, context=passage.context, questions=tuple(asked)))
    return [short[start : start + length] for start in range(0, len(short), length)]


# --- what is written -----------------------------------------------------------------------------------


def sentences(text: str) -> list[str]:
    """The sentences of a passage, split after . ! ? before a capital, a quote or a digit.

    >>> sentences('It rained. "Why?" he asked. Mr. 5 left.')
    ['It rained.', '"Why?" he asked.', 'Mr.', '5 left.']
    """
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+(?=[\"'(A-Z0-9])", text) if part.strip()]


def statement(title: str, sentence: str) -> Pair:
    """A sentence to be learned: its title and first third (at least two words) ask for the rest.

    >>> statement("Ghent", "The city has a castle by the river.")
    ('Ghent: The city', 'has a castle by the river.')
    """
    words = sentence.split()
    cut = max(2, len(words) // 3)
    if len(words) <= cut:
        return title, sentence
    return f"{title}: {' '.join(words[:cut])}", " ".join(words[cut:])


def pairs_of(passage: Passage, source: str, weights: FastWeights) -> list[Pair]:
    """What is written of a passage: see `SOURCES` at the top of the module."""
    if source not in SOURCES:
        raise InputError(f"source={source!r}: expected one of {', '.join(SOURCES)}")
    if source == "gold":
        return list(passage.questions)
    parts = sentences(passage.context)
    found = [statement(passage.title, part) for part in parts]
    if source == "writer":
        found += [pair for pairs in weights.questions(parts) for pair in pairs]
    return found


# --- scoring -------------------------------------------------------------------------------------------


@torch.no_grad()
def forced(banked: BankedModel, rows: Sequence[Row], banks: Sequence[Tensor] | None) -> list[Scored]:
    """Teacher-forced scores of the written tokens of each row under banks (O, R) per site; None: the base."""
    found: list[Scored | None] = [None] * len(rows)
    given = None if banks is None else [bank[None] for bank in banks]
    for indices, ids_BT, weights_BT in fixed_batches(list(rows), device=banked.bases[0].device):
        logits = banked(given, input_ids=ids_BT, use_cache=False).logits[:, :-1].float()
        hits_BT = logits.argmax(-1) == ids_BT[:, 1:]
        nats_BT = logits.log_softmax(-1).gather(-1, ids_BT[:, 1:, None])[..., 0]
        for b, index in enumerate(indices):
            asked = weights_BT[b, 1:] > 0
            hits, nats = hits_BT[b][asked].float(), nats_BT[b][asked]
            found[index] = Scored(exact=bool(hits.all()), tokens=float(hits.mean()), nats=float(nats.mean()))
    return [one for one in found if one is not None]


@torch.no_grad()
def kl_to_base(banked: BankedModel, banks: Sequence[Tensor], ids_BT: Tensor) -> float:
    """Mean KL(base || with banks) over the tokens of a text (B, T), in nats per token."""
    base = banked(None, input_ids=ids_BT, use_cache=False).logits.float().log_softmax(-1)
    edited = banked([bank[None] for bank in banks], input_ids=ids_BT, use_cache=False).logits.float()
    return float((base.exp() * (base - edited.log_softmax(-1))).sum(-1).mean())


def play(
    weights: FastWeights, arm: Arm, sequence: Sequence[Passage], *, source: str, text: Tensor | None
) -> Matrix:
    """Write the passages of a sequence one after another and score all of them after each. `weights` has the arm's
    rule; `text` (B, T) is unrelated text for the KL."""
    if weights.rule != arm.rule:
        raise InputError(
            f"arm {arm.name!r} writes by rule {arm.rule!r}, the model was loaded with {weights.rule!r}"
        )
    rule = weights.rule_object
    written = [pairs_of(passage, source, weights) for passage in sequence]
    asked = [[weights.encode_pair(*pair) for pair in passage.questions] for passage in sequence]

    def scores(state: Any) -> list[list[Scored]]:
        banks = None if state is None else weights.banks_of(state)
        flat = iter(forced(weights.banked, [row for rows in asked for row in rows], banks))
        return [[next(flat) for _ in rows] for rows in asked]

    cells, state, before = [scores(None)], rule.empty(), []
    for pairs in written:
        [(state, payloads)] = weights.write([state], [[pairs]])
        cells.append(scores(state))
        if arm.levels:
            state = rule.promote(state, [("fast", payload) for payload in payloads], "medium")
            before += [("medium", payload) for payload in payloads]
    slept = scores(rule.promote(state, before, "slow")) if arm.levels else None
    alone = weights.write([rule.empty()] * len(written), [[pairs] for pairs in written])
    fresh = [scores(one)[index] for index, (one, _) in enumerate(alone)]
    kl = None if text is None else kl_to_base(weights.banked, weights.banks_of(state), text)
    return Matrix(cells=cells, fresh=fresh, slept=slept, kl=kl)


# --- numbers -------------------------------------------------------------------------------------------


def summary(matrices: Sequence[Matrix]) -> dict[str, Any]:
    """Means over questions with standard errors clustered by sequence: base, fresh, just edited, after all edits,
    the first passage then, after sleep; and the matrix of means."""
    last = len(matrices[0].fresh)
    views = {
        "base": [m.cells[0] for m in matrices],
        "fresh": [m.fresh for m in matrices],
        "just_edited": [[m.cells[i + 1][i] for i in range(last)] for m in matrices],
        "after_all": [m.cells[last] for m in matrices],
        "first_fresh": [[m.fresh[0]] for m in matrices],
        "first_after_all": [[m.cells[last][0]] for m in matrices],
    }
    slept = [m.slept for m in matrices if m.slept is not None]
    if slept:
        views["after_sleep"] = slept
    found: dict[str, Any] = {name: _means(view) for name, view in views.items()}
    kls = [m.kl for m in matrices if m.kl is not None]
    found["kl"] = sum(kls) / len(kls) if kls else None
    found["matrix"] = {
        score: [
            [_means([[m.cells[t][i]] for m in matrices])[score]["mean"] for i in range(last)]
            for t in range(last + 1)
        ]
        for score in SCORES
    }
    return found


def _means(view: Sequence[Sequence[Sequence[Scored]]]) -> dict[str, Any]:
    """Per score its mean over the questions of sequences -> passages -> questions."""
    flat = [(sequence, one) for sequence, passages in enumerate(view) for cell in passages for one in cell]
    clusters = [sequence for sequence, _ in flat]
    return {
        score: clustered_mean([float(getattr(one, score)) for _, one in flat], clusters).record()
        for score in SCORES
    }
