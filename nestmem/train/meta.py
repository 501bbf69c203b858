"""Meta-train the write of any causal LM that `nestmem.adapters.sites` knows; the model itself stays frozen.

One outer step: U people tell j sessions (j drawn anew), each written into banks by the inner loop (`inner`); then they
are asked, with no context. Outer loss, in nats:

    L = NLL(answers whose evidence is in the last session) + mu NLL(older answers) + NLL(answers of which a file does not
        say where their evidence is) + omega NLL("I don't know." where nothing was told)
        + nu KL(base || banks) per token of unrelated text + chi NLL(raw text of the next session)

Its derivative reaches the write's own numbers (`WriteLearner`) through the writes: of the last `keep` ("truncated"),
of all ("full"), without second derivatives ("first"), or by evolution strategies over the scalars alone ("es"). All
four are the same program with the same streams, loss and optimizer. Reference: parametric memory 7.8.

The run's folder holds config.json, log.jsonl, last.pt (a run resumes exactly from it: streams are a function of seed
and step), curves.png and learned.safetensors, everything learned: what `WriteLearner.load_state_dict` takes.

A write of ridge steps (presets sessions and fit) leaves banks.safetensors too: the settings by which the rules of
`nestmem.adapters` write. `nestmem.train.meta.load_trained(OUT)` puts them on the base they were made for; with
`--copy-base` the base is copied to OUT/model with them, a model for every command's `--model`. The rules take ridge
steps only. What was learned for sgd or adam steps (presets dynamic and perk) is no rate of theirs: such a run leaves no
banks.safetensors, and its write is run by `nestmem.train.inner.live` alone.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from nestmem.adapters import unrelated
from nestmem.adapters.banks import BankedModel
from nestmem.adapters.fast_weights import (
    FastWeights,
    calibrated_settings,
    load_fast_weights,
    load_settings,
)
from nestmem.adapters.nested import key_moments
from nestmem.adapters.rows import Row
from nestmem.adapters.rules import BankSettings
from nestmem.adapters.sites import find_sites
from nestmem.errors import InputError, ModelError
from nestmem.train.corpus import training_text
from nestmem.train.evolution import estimate_gradient
from nestmem.train.inner import (
    InnerConfig,
    Order,
    Part,
    WriteLearner,
    live,
    prepare,
    read,
    written_logits,
    written_losses,
)
from nestmem.train.plot import plot_run
from nestmem.train.record import RunLog, load_checkpoint, save_checkpoint
from nestmem.train.streams import (
    TEXT,
    Batch,
    Encoder,
    Personas,
    Rows,
    Source,
    Streams,
    batch_of,
    read_streams,
    side_by_side,
)
from nestmem.train.streams import Part as Split

ORDERS = ("truncated", "first", "full", "es")
AGES = ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 10_000))
"""Buckets of age, in sessions since the evidence, both ends included."""


@dataclass(frozen=True, kw_only=True)
class MetaConfig:
    """One run. Model: `model` (name or folder; "mini"), `rank` R and `last` blocks where it brings no banks; `fresh`
    sets rates and ridges anew though it does. Streams: `data` (JSONL) or personas telling `facts` facts a session, up
    to `sessions` sessions, `users` side by side, at most `ask` questions each. Writing: `raw` text in segments of
    `segment` tokens instead of pairs; `order_free`, all sessions as one write. Loss weights `old` mu, `unknown` omega,
    `unrelated` nu, `coming` chi. Outer step: AdamW, `scalar_rate` for numbers (they are logarithms and logits) and
    `vector_rate` for tensors, gradient norm at most `clip`. `order` "es": `es_pairs` antithetic pairs of width
    `es_sigma`. `rate` > 0: eta at the start instead of the calibrated one.
    """

    model: str
    out: Path
    data: Path | None = None
    text: tuple[Path, ...] = ()
    inner: InnerConfig = field(default_factory=InnerConfig)
    preset: str = "sessions"
    rank: int = 32
    last: int = 4
    fresh: bool = False
    order: Literal["truncated", "first", "full", "es"] = "truncated"
    keep: int = 2
    keep_steps: int = 0
    raw: bool = False
    order_free: bool = False
    segment: int = 256
    prefix: bool = False
    rate: float = 0.0
    users: int = 4
    sessions: int = 8
    facts: int = 2
    ask: int = 12
    old: float = 1.0
    unknown: float = 0.25
    unrelated: float = 1.0
    coming: float = 0.0
    steps: int = 500
    minutes: float = 0.0
    scalar_rate: float = 0.01
    vector_rate: float = 0.001
    warm_up: int = 10
    clip: float = 1.0
    es_pairs: int = 4
    es_sigma: float = 0.1
    evaluate_every: int = 50
    evaluate_users: int = 8
    evaluate_sessions: int = 0
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    copy_base: bool = False

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise InputError(f"order={self.order!r}: expected one of {', '.join(ORDERS)}")
        for name in ("users", "sessions", "ask", "steps", "keep", "segment", "evaluate_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.rate < 0:
            raise InputError(f"rate={self.rate}: expected above 0, or 0 for the preset's or a calibrated one")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise InputError(f"dtype={self.dtype!r}: expected a torch dtype by name, such as 'float32'")
        if self.copy_base and not self.for_rules:
            raise InputError(
                f"--copy-base with {self.inner.step} steps (preset {self.preset!r}): the rules take ridge steps only, so "
                "there are no settings to put beside the base; leave it out, or use --preset sessions or fit"
            )

    @property
    def for_rules(self) -> bool:
        """Whether the rules of `nestmem.adapters` can write by what is learned: by rates of ridge steps."""
        return self.inner.step == "ridge"


PRESETS: dict[str, dict[str, Any]] = {
    "sessions": {},
    "fit": {
        "order_free": True,
        "keep_steps": 2,
        "inner": InnerConfig(steps=4, levels=1, gate=False, protect=300.0),
    },
    "perk": {
        "raw": True,
        "order_free": True,
        "prefix": True,
        "keep_steps": 2,
        "rate": 1e-3,
        "inner": InnerConfig(step="adam", steps=4, token="mlp", levels=1, gate=False, initial=True),
    },
    "dynamic": {
        "raw": True,
        "coming": 1.0,
        "inner": InnerConfig(step="sgd", token="none", levels=1, gate=False, clip=1.0),
    },
}
"""What `--preset` sets. sessions: pairs, one ridge step a session on top of the earlier ones, three levels. fit: all
pairs at once, several ridge steps, as the nested rule fits a level. perk: PERK's inner loop (segments of raw text in any
order as one batch, AdamW with learned per-tensor per-step rates, the last two of four steps differentiated, token
weights by a network, a learned start); its A is frozen here and its rates start at 1e-3. dynamic: TTT-E2E's dynamic
evaluation (next-token loss on raw text in chunks, clipped SGD, banks carried on, the text to come in the outer loss)."""


def preset(name: str, **values: Any) -> MetaConfig:
    """The configuration of a preset; `values` replace its fields. Raises `InputError` for an unknown name."""
    if name not in PRESETS:
        raise InputError(f"preset={name!r}: expected one of {', '.join(PRESETS)}")
    return MetaConfig(**(PRESETS[name] | {"preset": name} | values))


# -- the model, its streams, and the outer loss --------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """What a run works on: the frozen model with banks, its streams and encoder, and rows of unrelated text: those
    by which KL to the base is measured, with the lower blocks done, and all (of which C0 is made)."""

    weights: FastWeights
    source: Source
    encoder: Encoder
    unrelated: Part
    protected: list[Row]
    config: MetaConfig

    @property
    def banked(self) -> BankedModel:
        return self.weights.banked


@dataclass(frozen=True)
class Prepared:
    """A batch with its lower blocks done."""

    batch: Batch
    writes: list[Part]
    ask: Part
    coming: Part | None


@dataclass(frozen=True)
class Outcome:
    """The outer loss and its terms (nats), the banks read, and per asked row whether its answer came out exactly."""

    loss: Tensor
    terms: dict[str, float]
    right: Tensor
    banks: list[Tensor]


def bench(config: MetaConfig) -> Bench:
    """Load the model and prepare its streams. Raises `ModelNotFound`, `UnsupportedArchitecture` and `InputError`."""
    source: Source = read_streams(config.data) if config.data else Personas(facts=config.facts)
    weights = load_fast_weights(
        config.model,
        rule="additive",
        rank=config.rank,
        last=config.last,
        device=config.device,
        dtype=getattr(torch, config.dtype),
    )
    return bench_of(weights, source, config)


def bench_of(weights: FastWeights, source: Source, config: MetaConfig) -> Bench:
    """The same for a model that is already loaded."""
    tokenizer = weights.tokenizer

    def chat(messages: list[tuple[str, str]]) -> list[int]:
        if tokenizer.chat_template:
            plain = [{"role": role, "content": content} for role, content in messages]
            return tokenizer.apply_chat_template(plain, tokenize=True, return_dict=False)
        lines = "\n".join(f"{role.capitalize()}: {content}" for role, content in messages)
        return tokenizer(lines, verbose=False)["input_ids"]

    def plain(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    longest = weights.model.config.max_position_embeddings - 32
    encoder = Encoder(
        pair=weights.encode_pair,
        chat=chat,
        plain=plain,
        segment=min(config.segment, longest),
        prefix=config.prefix,
    )
    count = math.lcm(config.users, config.evaluate_users)
    count *= math.ceil(8 / count)
    found = unrelated_rows(weights, config, plain)
    shown = [(found[n * len(found) // count], TEXT) for n in range(count)]
    return Bench(weights, source, encoder, prepare(weights.banked, side_by_side([shown])), found, config)


def unrelated_rows(
    weights: FastWeights, config: MetaConfig, plain: Callable[[str], list[int]], *, tokens: int = 48
) -> list[Row]:
    """Rows of text that no write is about: 32 spread over `config.text`, or the adapters' own chats and prose."""
    if not config.text:
        chats = [weights.encode_pair(*chat) for chat in unrelated.CHATS]
        return [*chats, *(_all_of(plain(text)[:tokens]) for text in unrelated.PROSE)]
    ids = plain(training_text(list(config.text), max_characters=200_000))
    if len(ids) < 2:
        raise InputError("--text holds no text to protect; expected at least a few words")
    starts = [n * max(0, len(ids) - tokens) // 32 for n in range(32)]
    return [_all_of(ids[start : start + tokens]) for start in starts]


def _all_of(ids: list[int]) -> Row:
    return Row(ids=ids, weights=[0.0] + [1.0] * (len(ids) - 1))


def prepared(bench: Bench, split: Split, rng: random.Random, *, users: int, sessions: int) -> Prepared:
    """Draw a batch and run its lower blocks. The same `rng` state gives the same batch."""
    config = bench.config
    more = 1 if config.coming else 0
    streams = [
        bench.source.draw(split, rng, sessions=sessions + more, before=sessions - 1) for _ in range(users)
    ]
    batch = batch_of(
        streams,
        bench.encoder,
        rng,
        sessions=sessions,
        raw=config.raw,
        order_free=config.order_free,
        ask=config.ask,
        coming=bool(config.coming),
    )

    def part(rows: Rows) -> Part:
        return prepare(bench.banked, rows)

    return Prepared(
        batch,
        [part(rows) for rows in batch.writes],
        part(batch.ask),
        part(batch.coming) if batch.coming is not None else None,
    )


def learner_of(bench: Bench) -> WriteLearner:
    """The write to start from: the settings of the model's own banks, or ones calibrated on a stream of `bench`."""
    config, weights = bench.config, bench.weights
    settings = start_settings(bench)
    if config.rate:
        settings = replace(settings, rate=(config.rate,) * len(settings.rate))
    protected = None
    if config.inner.protect:
        protected = key_moments(weights.banked, bench.protected)
    torch.manual_seed(config.seed)
    learner = WriteLearner(
        config.inner,
        settings,
        [site.d_out for site in weights.banked.sites],
        bench.unrelated.lower.hidden.shape[-1],
        base_moments=protected,
        reads=weights.banked.bases[0].dtype,
    )
    return learner.to(weights.banked.bases[0].device)


def start_settings(bench: Bench) -> BankSettings:
    """Ridge, rate and token vectors to start from.

    Meta-learned ones are kept for ridge steps unless `fresh`. Otherwise they are calibrated on the first write of a
    training stream: ridge a fiftieth of a key's mean square, rate a quarter of a Polyak step; for sgd the rate is
    divided by a key's mean square, by which the ridge step is divided too where keys agree.
    """
    config, weights = bench.config, bench.weights
    own = isinstance(weights.settings, BankSettings) and any(bool(u.any()) for u in weights.settings.token)
    if own and not config.fresh and config.inner.step == "ridge":
        return weights.settings
    made = prepared(bench, "train", random.Random(f"{config.seed} calibration"), users=1, sessions=1)
    rows = made.writes[0].rows
    found = calibrated_settings(weights.banked, rows.ids, rows.weights)
    if config.inner.step == "sgd":
        rates = zip(found.rate, found.ridge, strict=True)
        found = replace(found, rate=tuple(rate / (50 * ridge) for rate, ridge in rates))
    return found


def outcome(
    bench: Bench,
    learner: WriteLearner,
    made: Prepared,
    *,
    order: Order,
) -> Outcome:
    """Write, then ask: the outer loss with the derivatives of `order`."""
    config, banked, batch = bench.config, bench.banked, made.batch
    state = live(
        banked,
        learner,
        made.writes,
        users=batch.users,
        order=order,
        keep=config.keep,
        keep_steps=config.keep_steps,
    )
    banks = read(learner, state)
    nats_B, right_B = answers(banked, banks, made.ask)
    told = batch.told.to(nats_B.device)
    real = batch.real.to(nats_B.device)
    age = batch.age.to(nats_B.device)
    groups = {
        "new": (told & (age == 0), 1.0),
        "old": (told & (age > 0), config.old),
        "undated": (told & (age < 0), 1.0),
        "unknown": (real & ~told, config.unknown),
    }
    terms: dict[str, float] = {}
    loss = nats_B.new_zeros(())
    for name, (chosen, weight) in groups.items():
        if weight and bool(chosen.any()):
            mean = nats_B[chosen].mean()
            terms[name] = float(mean.detach())
            loss = loss + weight * mean
    if config.unrelated:
        kl = divergence(banked, banks, bench.unrelated)
        terms["kl"] = float(kl.detach())
        loss = loss + config.unrelated * kl
    if made.coming is not None and config.coming:
        nats_B, _ = answers(banked, banks, made.coming)
        written = (made.coming.rows.weights > 0).any(1)
        mean = nats_B[written].mean()
        terms["coming"] = float(mean.detach())
        loss = loss + config.coming * mean
    return Outcome(loss, terms, right_B, banks)


def answers(banked: BankedModel, banks: list[Tensor], part: Part) -> tuple[Tensor, Tensor]:
    """Per row the mean cross-entropy of its answer (nats a token), and whether every token of it is the likeliest."""
    with banked.using(banks):
        logits_NV = written_logits(banked, part)
    weights_BT = part.rows.weights[:, 1:]
    nats_BT = written_losses(logits_NV, part.rows)
    chosen = weights_BT > 0
    right = (logits_NV.argmax(-1) == part.rows.ids[:, 1:][chosen]).to(weights_BT.dtype)
    hits_BT = torch.ones_like(weights_BT).masked_scatter(chosen, right)
    return nats_BT.sum(1) / chosen.sum(1).clamp(min=1), hits_BT.bool().all(1) & chosen.any(1)


def divergence(banked: BankedModel, banks: list[Tensor], part: Part) -> Tensor:
    """Mean KL(base || banks) in nats per token of unrelated text; its rows are shared out equally among the users."""
    with torch.no_grad(), banked.using(None):
        base = written_logits(banked, part).log_softmax(-1)
    with banked.using(banks):
        other = written_logits(banked, part).log_softmax(-1)
    return F.kl_div(other, base, log_target=True, reduction="batchmean")


# -- scores --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def scores(bench: Bench, learner: WriteLearner, split: Split, *, sessions: int, users: int) -> dict[str, Any]:
    """Exact answers of held-out people after `sessions` sessions: told (all, by age, with another user's banks), never
    told, and the outer loss with its terms. The streams are the same at every call with the same seed."""
    rng = random.Random(f"{bench.config.seed} {split} {sessions}")
    made = prepared(bench, split, rng, users=users, sessions=sessions)
    seen = outcome(bench, learner, made, order="none")
    told, real, age = made.batch.told, made.batch.real, made.batch.age
    right = seen.right.cpu()
    found: dict[str, Any] = {
        "told": _share(right[told]),
        "asked": int(told.sum()),
        "loss": float(seen.loss),
        **seen.terms,
    }
    if bool((real & ~told).any()):
        found["never_told"] = _share(right[real & ~told])
    if users > 1:
        _, swapped = answers(bench.banked, [bank.roll(1, 0) for bank in seen.banks], made.ask)
        found["placebo"] = _share(swapped.cpu()[told])
    for low, high in AGES:
        chosen = told & (age >= low) & (age <= high)
        if bool(chosen.any()):
            found[f"age {low}" if low == high else f"age {low}-{high}"] = _share(right[chosen])
    if bool((told & (age < 0)).any()):
        found["age unknown"] = _share(right[told & (age < 0)])
    return found


def _share(right: Tensor) -> float:
    return float(right.float().mean()) if len(right) else math.nan


def evaluate(bench: Bench, learner: WriteLearner) -> dict[str, dict[str, Any]]:
    """`scores` of both held-out parts at the run's number of sessions. A file without question families has one part,
    and a file of shorter streams is asked after as many sessions as they have."""
    config = bench.config
    wanted = config.evaluate_sessions or config.sessions
    found: dict[str, dict[str, Any]] = {}
    splits: tuple[Split, ...] = ("people", "families")
    for split in splits:
        at = wanted
        if isinstance(bench.source, Streams):
            lengths = bench.source.lengths(split, wanted, more=1 if config.coming else 0)
            at = max(lengths, default=0)
        if at:
            found[split] = scores(bench, learner, split, sessions=at, users=config.evaluate_users)
    if not found:
        raise InputError(
            "no held-out stream has a question; give streams with more questions, or more of them"
        )
    return found


# -- training ------------------------------------------------------------------------------------------------------


def train_meta(config: MetaConfig) -> Path:
    """Run, resuming from `out/last.pt` when it is there. Returns the folder with the best settings found."""
    torch.set_num_threads(config.threads)
    return train_on(bench(config))


def train_on(bench: Bench) -> Path:
    """The same on a model that is already loaded."""
    config = bench.config
    learner = learner_of(bench)
    optimizer = optimizer_of(config, learner)
    lengths = lengths_of(bench)
    step, best, trained = 0, math.inf, 0.0
    last = config.out / "last.pt"
    if last.exists():
        saved = load_checkpoint(last)
        _check_same(saved["shape"], _shape(config, learner), last)
        learner.load_state_dict(saved["learner"])
        optimizer.load_state_dict(saved["optimizer"])
        step, best, trained = saved["step"], saved["best"], saved["seconds"]
    log = RunLog(config.out, config)
    if step == 0:
        first = evaluate(bench, learner)
        best = _score(first)
        _save(bench, learner)
        log.write(event="start", step=0, validation=first, learned=_numbers(learner))
    bad = 0
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not Console(stderr=True).is_terminal,
    )
    with bar:
        task = bar.add_task("meta-training", total=config.steps, completed=step)
        while step < config.steps and not (config.minutes and trained > 60 * config.minutes):
            row = outer_step(bench, learner, optimizer, lengths, step)
            bad = 0 if row["finite"] else bad + 1
            if bad == 5:
                raise ModelError(
                    f"the outer loss or its gradient was not finite in 5 steps running (step {step}: loss "
                    f"{row['outer']}, norm {row['norm']}); the base model's weights may be damaged, or the rates are "
                    "too high: lower --rate or --scalar-rate, or start from calibrated settings (--fresh)"
                )
            step += 1
            trained += row["step_seconds"]
            log.write(step=step, **row)
            bar.update(task, completed=step)
            over = step >= config.steps or bool(config.minutes and trained > 60 * config.minutes)
            if step % config.evaluate_every == 0 or over:
                found = evaluate(bench, learner)
                log.write(event="evaluation", step=step, validation=found, learned=_numbers(learner))
                if _score(found) <= best:
                    best = _score(found)
                    _save(bench, learner)
                values = {"learner": learner.state_dict(), "optimizer": optimizer.state_dict()}
                values |= {"shape": _shape(config, learner), "step": step, "best": best, "seconds": trained}
                save_checkpoint(last, values)
    plot_run(config.out, config.out / "curves.png")
    return config.out


def optimizer_of(config: MetaConfig, learner: WriteLearner) -> torch.optim.AdamW:
    """AdamW over what is learned; evolution strategies learn the numbers alone."""
    groups = [{"params": learner.scalars(), "lr": config.scalar_rate, "rate": config.scalar_rate}]
    if config.order != "es" and learner.vectors():
        groups.append({"params": learner.vectors(), "lr": config.vector_rate, "rate": config.vector_rate})
    return torch.optim.AdamW(groups, weight_decay=0.0)


def lengths_of(bench: Bench) -> list[int]:
    """The numbers of sessions of which one is drawn at each step. Raises `InputError` when there is none."""
    if not isinstance(bench.source, Streams):
        return list(range(1, bench.config.sessions + 1))
    lengths = bench.source.lengths("train", bench.config.sessions, more=1 if bench.config.coming else 0)
    if not lengths:
        raise InputError(
            f"no training stream has a question within its first {bench.config.sessions} sessions; give questions with "
            "'evidence' or an earlier 'after_session', or more --sessions"
        )
    return lengths


def outer_step(
    bench: Bench,
    learner: WriteLearner,
    optimizer: torch.optim.AdamW,
    lengths: Sequence[int],
    step: int,
) -> dict[str, Any]:
    """One outer step, number `step` from 0; what the log says of it. Nothing changes when loss or gradient is not
    finite. `step_seconds` by the wall clock, `cpu_seconds` of this process."""
    config = bench.config
    started, worked = time.perf_counter(), time.process_time()
    rng = random.Random(f"{config.seed} step {step}")
    made = prepared(bench, "train", rng, users=config.users, sessions=rng.choice(lengths))
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * min(1.0, (step + 1) / config.warm_up)
    optimizer.zero_grad()
    row: dict[str, Any] = _gradient(bench, learner, made, step)
    own = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(own, config.clip))
    finite = math.isfinite(norm) and math.isfinite(row["outer"])
    if finite:
        optimizer.step()
    row |= {"norm": norm, "finite": finite, "step_seconds": time.perf_counter() - started}
    return row | {"cpu_seconds": time.process_time() - worked}


def _gradient(bench: Bench, learner: WriteLearner, made: Prepared, step: int) -> dict[str, float]:
    """Put the outer gradient into the parameters; what the log says of the step. A solve that fails counts as NaN."""
    config = bench.config
    try:
        if config.order != "es":
            seen = outcome(bench, learner, made, order=config.order)
            seen.loss.backward()
            told = made.batch.told
            return {"outer": float(seen.loss.detach()), "told": _share(seen.right.cpu()[told]), **seen.terms}
        mean = _evolve(bench, learner, made, step)
        return {"outer": mean}
    except torch.linalg.LinAlgError:
        return {"outer": math.nan}


def _evolve(bench: Bench, learner: WriteLearner, made: Prepared, step: int) -> float:
    """The evolution strategies' estimate of the scalars' gradient, and the mean loss of the perturbed writes."""
    config, scalars = bench.config, learner.scalars()
    theta = torch.nn.utils.parameters_to_vector(scalars).detach().clone()

    @torch.no_grad()
    def loss(values: Tensor) -> float:
        torch.nn.utils.vector_to_parameters(values, scalars)
        try:
            return float(outcome(bench, learner, made, order="none").loss)
        except torch.linalg.LinAlgError:
            return math.nan

    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    found, mean = estimate_gradient(
        loss, theta, pairs=config.es_pairs, sigma=config.es_sigma, generator=generator
    )
    torch.nn.utils.vector_to_parameters(theta, scalars)
    for parameter, part in zip(scalars, found.split([p.numel() for p in scalars]), strict=True):
        parameter.grad = part.reshape(parameter.shape).clone()
    return mean


def _score(found: dict[str, dict[str, Any]]) -> float:
    """What is kept as best: the lowest mean outer loss over the held-out parts."""
    losses = [part["loss"] for part in found.values()]
    mean = sum(losses) / len(losses)
    return mean if math.isfinite(mean) else math.inf


def _numbers(learner: WriteLearner) -> dict[str, Any]:
    """The learned numbers as plain values."""
    return {
        "rate": learner.rate().tolist(),
        "ridge": learner.ridge().tolist(),
        "decay": learner.decay().tolist(),
        "transfer": learner.transfer().tolist(),
        "form": learner.log_form.exp().tolist(),
        "tau": learner.tau.item(),
    }


def _shape(config: MetaConfig, learner: WriteLearner) -> dict[str, Any]:
    """What a checkpoint must agree with to be gone on from."""
    sizes = {name: list(value.shape) for name, value in learner.state_dict().items()}
    return {"model": config.model, "order": config.order, "preset": config.preset, "sizes": sizes}


def _check_same(saved: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    different = [name for name in now if saved[name] != now[name]]
    if different:
        raise InputError(
            f"{path} was made with other settings ({', '.join(different)}); give another --out, or remove the file"
        )


# -- what a run leaves behind --------------------------------------------------------------------------------------


def settings_of(bench: Bench, learner: WriteLearner) -> BankSettings:
    """The learned write as the rules of `nestmem.adapters` take it: rates of the first step, with fixed-point limits.

    Raises `InputError` for sgd and adam steps, whose rates are no rates of a ridge step.
    """
    config = bench.config
    if not config.for_rules:
        raise InputError(f"rates of {config.inner.step} steps are none of the rules', which take ridge steps")
    made = prepared(
        bench, "train", random.Random(f"{config.seed} limits"), users=config.users, sessions=config.sessions
    )
    rows = [part.rows for part in made.writes]
    vectors = [u.detach().cpu().float() for u in learner.token]
    token = tuple(vectors or [torch.zeros(basis.shape[0]) for basis in bench.banked.bases])
    limits = [calibrated_settings(bench.banked, r.ids, r.weights) for r in rows if bool(r.weights.any())]
    found = BankSettings(
        ridge=tuple(learner.ridge().tolist()),
        rate=tuple(learner.rate()[0].tolist()),
        token=token,
        key_limit=tuple(max(x) for x in zip(*(found.key_limit for found in limits), strict=True)),
        error_limit=tuple(max(x) for x in zip(*(found.error_limit for found in limits), strict=True)),
    )
    if not config.inner.protect:
        return found
    return replace(found, protect=config.inner.protect * learner.log_protect.exp().item())


def _save(bench: Bench, learner: WriteLearner) -> None:
    """Write learned.safetensors; of ridge steps banks.safetensors too, and the base beside them where asked for."""
    config, banked = bench.config, bench.banked
    config.out.mkdir(parents=True, exist_ok=True)
    learned = {name: value.detach().cpu().contiguous() for name, value in learner.state_dict().items()}
    save_file(learned, config.out / "learned.safetensors")
    if not config.for_rules:
        return
    settings = settings_of(bench, learner)
    names = [site.name for site in banked.sites]
    tensors = {f"{n}.basis": basis.float().cpu() for n, basis in zip(names, banked.bases, strict=True)}
    tensors |= {f"{n}.token": u for n, u in zip(names, settings.token, strict=True)}
    for key in ("ridge", "rate", "key_limit", "error_limit", "protect"):
        tensors[key] = torch.tensor(getattr(settings, key))
    save_file({name: value.contiguous() for name, value in tensors.items()}, config.out / "banks.safetensors")
    if config.copy_base:
        folder = config.out / "model"
        if not (folder / "config.json").exists():
            bench.weights.model.save_pretrained(folder)
            bench.weights.tokenizer.save_pretrained(folder)
        shutil.copy(config.out / "banks.safetensors", folder)


def load_trained(
    out: Path, *, rule: str = "additive", device: str = "cpu", dtype: torch.dtype = torch.float32
) -> FastWeights:
    """The base of the run in `out` with the settings it learned.

    Raises `InputError` when the run has none: it is no run, or one of sgd or adam steps.
    """
    own, header = out / "banks.safetensors", out / "config.json"
    step = json.loads(header.read_text())["config"]["inner"]["step"] if header.exists() else "ridge"
    if step != "ridge":
        raise InputError(
            f"{out} is a run of {step} steps, by which no rule writes; expected one of --preset sessions or fit"
        )
    if not own.exists() or not header.exists():
        raise InputError(
            f"{out} is no folder of `nestmem train meta`: banks.safetensors or config.json is missing"
        )
    config = json.loads(header.read_text())["config"]
    base = load_fast_weights(
        config["model"],
        rule="additive",
        rank=config["rank"],
        last=config["last"],
        device=device,
        dtype=dtype,
    )
    sites = find_sites(base.model, last=base.model.config.num_hidden_layers)
    settings, bases = load_settings(own, sites)
    settings = replace(settings, protect=float(load_file(own)["protect"]))
    bases = [basis.to(device=device, dtype=dtype) for basis in bases]
    blocks = len(bases) // len(find_sites(base.model, last=1))
    return FastWeights(
        base.model,
        base.tokenizer,
        rule=rule,
        rank=bases[0].shape[0],
        last=blocks,
        settings=settings,
        bases=bases,
    )
