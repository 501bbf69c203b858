"""Reinforcement learning of the writer and the answerer, TMEM's outer loop and more (`nestmem train rl`).

Per step: P personas' streams, each lived G times (a group) by the policy, every life with banks of its own
(`rollout`). Rewards (`reward`) become advantages within the group. The update is GRPO's clipped ratio,

    L = sum_tokens [ -min(r A, clip(r, 1 - c, 1 + c) A) + beta (exp(d) - d - 1) ] / number of tokens,
    r = pi / pi_when_drawn,   d = log pi_reference - log pi,

with all three log-probabilities taken under the banks that stood when the token was drawn. Banks are state, not
parameters: no gradient goes through a write (TMEM, arXiv 2606.04536: stop-gradient through the online update).
Dividing by the tokens of the whole batch, not by each answer's own, leaves no reward for length. The sum is over every
token drawn: an action without an advantage (all lives of its group did the same) keeps its KL term.

References: GRPO, arXiv 2402.03300, eq. 3 and 4; its estimate of the KL, ibid.; the token-level mean, DAPO, arXiv
2503.14476, eq. 12.

Why not trl: in trl 1.16 advantages and loss exist only as lines inside the methods of `GRPOTrainer`, which own the
generation, know one model per batch and no banks; what can be imported alone is a log-softmax, which cannot restrict
tokens. Importing it loads `datasets`, `pandas` and `pyarrow`. The two functions below are 20 lines.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from nestmem.adapters.fast_weights import FastWeights, load_fast_weights, mini_folder
from nestmem.adapters.sites import blocks_of
from nestmem.agent.extract import extract
from nestmem.errors import InputError, MissingExtra, ModelError
from nestmem.personas import PersonaGenerator
from nestmem.train.record import RunLog, load_checkpoint, save_checkpoint
from nestmem.train.reward import RewardWeights, Score, drift, exact, gain, grounded, measure, score, screen
from nestmem.train.rollout import (
    Pairs,
    Rollout,
    Sampled,
    Sampling,
    Stream,
    StreamShape,
    Version,
    collect,
    end_token,
    lesson,
    persona_stream,
    recompute,
    sample,
)

RULES = ("additive", "rls")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Progress = Callable[[int, int, str], None]
"""Told (done, total, what) as a run goes on."""


@dataclass(frozen=True, kw_only=True)
class RLConfig:
    """One run. `model`: "mini", a folder or a Hugging Face name. `lora_rank` 0 trains the model's own parameters.

    `statements`: a message about which one pair was written is learned as statement -> answer too, as the agent does;
    without it, an answer can be recalled only by way of the question that the policy wrote. `uncovered`: the share of
    personas whose messages are all such that the agent's rules cannot read them. `trust_region`: the drift (nats per
    token on unrelated text) above which a write is not committed. `passes`: updates per batch of rollouts.
    The run ends after `steps`, or after `minutes` if that is sooner and not 0.
    """

    out: Path
    model: str = "mini"
    rule: str = "additive"
    personas: int = 4
    group: int = 8
    shape: StreamShape = field(default_factory=StreamShape)
    sampling: Sampling = field(default_factory=Sampling)
    reward: RewardWeights = field(default_factory=RewardWeights)
    statements: bool = False
    uncovered: float = 0.5
    trust_region: float = math.inf
    lora_rank: int = 0
    learning_rate: float = 1e-4
    clip: float = 0.2
    beta: float = 0.02
    spread_floor: float = 0.05
    passes: int = 1
    refresh_every: int = 50
    rows: int = 96
    warm_up: int = 3
    steps: int = 100
    minutes: float = 0.0
    evaluate_every: int = 20
    evaluation_personas: int = 24
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"rule={self.rule!r}: expected one of {', '.join(RULES)}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype={self.dtype!r}: expected one of {', '.join(DTYPES)}")
        if self.group < 2:
            raise InputError(
                f"group={self.group}: an advantage needs at least 2 lives of the same persona to compare"
            )
        if self.dtype != "float32" and self.lora_rank == 0:
            raise InputError(
                f"dtype={self.dtype!r} with lora_rank=0: small updates are lost in half precision; "
                "use float32, or train a LoRA (lora_rank=16), whose parameters are float32"
            )
        if self.sampling.temperature == 0:
            raise InputError(
                "temperature=0: lives of a group would all be the same; expected above 0, such as 1.0"
            )
        for name in (
            "personas",
            "passes",
            "steps",
            "evaluate_every",
            "rows",
            "warm_up",
            "evaluation_personas",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: expected at least 1")
        if not 0 <= self.uncovered <= 1:
            raise InputError(f"uncovered={self.uncovered}: expected a share, from 0 to 1")
        if not (0 < self.clip < 1 and self.beta >= 0 and self.learning_rate > 0 and self.spread_floor > 0):
            raise InputError(
                f"clip={self.clip}, beta={self.beta}, learning_rate={self.learning_rate}, "
                f"spread_floor={self.spread_floor}: expected 0 < clip < 1, beta >= 0, the others above 0"
            )


# -- the two formulas ----------------------------------------------------------------------------------------


def group_advantages(rewards_PG: Tensor, floor: float) -> Tensor:
    """(reward - mean) / (standard deviation + floor) within each group of G lives; 0 where all are equal.

    The floor keeps a group whose rewards differ by next to nothing from counting as much as one that differs.
    """
    centred = rewards_PG - rewards_PG.mean(1, keepdim=True)
    return centred / (rewards_PG.std(1, keepdim=True, correction=0) + floor)


def grpo_loss(
    logprob_BT: Tensor,
    drawn_BT: Tensor,
    reference_BT: Tensor | None,
    advantage_B: Tensor,
    mask_BT: Tensor,
    *,
    clip: float,
    beta: float,
) -> Tensor:
    """Sum over tokens of the clipped surrogate and of beta times the estimated KL to the reference (nats).

    `drawn_BT` are log-probabilities when drawn, `reference_BT` those of the reference (None: no KL), constants.
    """
    ratio_BT = (logprob_BT - drawn_BT).exp()
    kept_BT = ratio_BT.clamp(1 - clip, 1 + clip)
    loss_BT = -torch.minimum(ratio_BT * advantage_B[:, None], kept_BT * advantage_B[:, None])
    if reference_BT is not None:
        difference_BT = reference_BT - logprob_BT
        loss_BT = loss_BT + beta * (difference_BT.exp() - difference_BT - 1)
    return (loss_BT * mask_BT).sum()


# -- the policy ----------------------------------------------------------------------------------------------


class LowRank(nn.Module):
    """W + up down, of rank r, as a parametrization of a weight; up starts at 0. Parameters are float32."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator):
        super().__init__()
        rows, columns = weight.shape
        down = torch.randn(rank, columns, generator=generator) / math.sqrt(rank)
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        self.down = nn.Parameter(down.to(weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).to(weight.dtype)


class Policy:
    """A model with what is trained of it: a LoRA on every linear map inside its blocks, or (rank 0) all parameters."""

    def __init__(self, weights: FastWeights, *, lora_rank: int, seed: int):
        self.weights = weights
        generator = torch.Generator().manual_seed(seed)
        if lora_rank:
            for block in blocks_of(weights.model):
                for module in list(block.modules()):
                    if isinstance(module, nn.Linear | Conv1D):
                        low = LowRank(module.weight, lora_rank, generator)
                        parametrize.register_parametrization(module, "weight", low)
            chosen = [(n, p) for n, p in weights.model.named_parameters() if ".parametrizations." in n]
            chosen = [(n, p) for n, p in chosen if not n.endswith(".original")]
        else:
            chosen = list(weights.model.named_parameters())
        self.trained: dict[str, nn.Parameter] = {name: p.requires_grad_(True) for name, p in chosen}
        self.refresh()

    def refresh(self) -> None:
        """Make the model as it is now the reference."""
        self._reference = {name: p.detach().clone() for name, p in self.trained.items()}

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within the block the model is the reference; without gradient."""
        own = {name: p.data for name, p in self.trained.items()}
        try:
            for name, p in self.trained.items():
                p.data = self._reference[name]
            with torch.no_grad():
                yield
        finally:
            for name, p in self.trained.items():
                p.data = own[name]

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The trained parameters and those of the reference."""
        return {
            "trained": {n: p.detach().clone() for n, p in self.trained.items()},
            "reference": self._reference,
        }

    def load(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take over what `state` gave. Raises `InputError` when it was another model's."""
        shapes = {name: tuple(p.shape) for name, p in self.trained.items()}
        if {name: tuple(t.shape) for name, t in state["trained"].items()} != shapes:
            raise InputError(
                "the checkpoint trains other parameters; use the run's own --model and LoRA rank"
            )
        for name, p in self.trained.items():
            p.data.copy_(state["trained"][name])
        self._reference = {name: state["reference"][name].to(p.device) for name, p in self.trained.items()}

    def save(self, folder: Path, *, source: Path | None) -> None:
        """Write the model with the LoRA merged, as Hugging Face writes it, and `banks.safetensors` of `source`."""
        merged = {}
        for name, tensor in self.weights.model.state_dict().items():
            if ".parametrizations." not in name:
                merged[name] = tensor
            elif name.endswith(".original"):
                path, _, rest = name.partition(".parametrizations.")
                attribute = rest.removesuffix(".original")
                module = self.weights.model.get_submodule(path)
                merged[f"{path}.{attribute}"] = getattr(module, attribute).detach()
        model: Any = self.weights.model
        model.save_pretrained(folder, state_dict=merged)
        self.weights.tokenizer.save_pretrained(folder)
        if source is not None and (source / "banks.safetensors").exists():
            shutil.copyfile(source / "banks.safetensors", folder / "banks.safetensors")


# -- one step ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One action to learn from: its tokens, the banks under which they were drawn, its advantage, and the reference's
    log-probabilities of the tokens (None: no KL)."""

    sampled: Sampled
    version: Version
    advantage: float
    reference: tuple[float, ...] | None = None


def lessons(
    rollouts: Sequence[Rollout], scores: Sequence[Score], *, group: int, config: RLConfig
) -> list[Lesson]:
    """The actions of groups of `group` lives (side by side), with their advantages.

    A write has its own gain less its own costs against the same write of the other lives, and (weighted) the
    rollout's outcome less the shared costs against theirs. An answer has its own exactness.
    """
    reward = config.reward
    found = []
    for start in range(0, len(rollouts), group):
        lives, own = rollouts[start : start + group], scores[start : start + group]
        whole = [s.outcome - s.shared for s in own]
        whole_G = group_advantages(torch.tensor([whole]), config.spread_floor)[0] * reward.outcome
        for position in range(len(lives[0].actions)):
            actions = [life.actions[position] for life in lives]
            first = actions[0]
            if first.kind == "write":
                values = [s.writes[first.place[0], first.place[1]] for s in own]
                each_G = (
                    group_advantages(torch.tensor([values]), config.spread_floor)[0] * reward.gain + whole_G
                )
            else:
                values = [s.answers[first.place[0]] for s in own]
                each_G = group_advantages(torch.tensor([values]), config.spread_floor)[0]
            for life, action, advantage in zip(lives, actions, each_G.tolist(), strict=True):
                version = life.versions[action.version]
                found.append(Lesson(sampled=action.sampled, version=version, advantage=advantage))
    return found


def referred(policy: Policy, todo: Sequence[Lesson], config: RLConfig) -> list[Lesson]:
    """The lessons with the reference's log-probabilities, under the same banks."""
    found = []
    with policy.reference():
        for chunk in _chunks(todo, config.rows):
            logprob, _ = _logprobs(policy, chunk, config)
            for one, row in zip(chunk, logprob.tolist(), strict=True):
                found.append(replace(one, reference=tuple(row[: len(one.sampled.tokens)])))
    return found


def update(
    policy: Policy, optimizer: torch.optim.Optimizer, todo: Sequence[Lesson], config: RLConfig
) -> dict[str, float]:
    """One step of the optimizer on all lessons, those without an advantage too: they have their KL term (where
    `config.beta` > 0; then every lesson needs its reference) and their tokens count.

    Returns, as means over the tokens of all lessons, the loss, the KL (nats), the ratio and the clipped share, and the
    gradient's norm. Raises `ModelError` when the gradient is not finite; the model is then as it was.
    """
    tokens = sum(len(one.sampled.tokens) for one in todo)
    sums = {"loss": 0.0, "kl": 0.0, "ratio": 0.0, "clipped": 0.0}
    for chunk in _chunks(todo, config.rows):
        logprob, mask = _logprobs(policy, chunk, config)
        drawn = _padded([one.sampled.logprobs for one in chunk], like=logprob)
        known = [one.reference for one in chunk if one.reference is not None]
        reference = _padded(known, like=logprob) if config.beta else None
        advantage = torch.tensor([one.advantage for one in chunk]).to(logprob)
        loss = (
            grpo_loss(logprob, drawn, reference, advantage, mask, clip=config.clip, beta=config.beta) / tokens
        )
        loss.backward()
        with torch.no_grad():
            ratio = (logprob - drawn).exp()
            sums["loss"] += float(loss.detach())
            sums["ratio"] += float((ratio * mask).sum()) / tokens
            sums["clipped"] += float((((ratio - 1).abs() > config.clip) * mask).sum()) / tokens
            if reference is not None:
                gap = reference - logprob
                sums["kl"] += float(((gap.exp() - gap - 1) * mask).sum()) / tokens
    norm = float(torch.nn.utils.clip_grad_norm_(list(policy.trained.values()), 1.0))
    if not math.isfinite(norm):
        optimizer.zero_grad()
        raise ModelError(
            f"the policy's gradient is {norm}; lower the learning rate or raise beta, and resume"
        )
    optimizer.step()
    optimizer.zero_grad()
    return sums | {"norm": norm}


def _chunks(todo: Sequence[Lesson], rows: int) -> Iterator[Sequence[Lesson]]:
    """Lessons of like length, `rows` at a time."""
    ordered = sorted(todo, key=lambda one: len(one.sampled.prompt) + len(one.sampled.tokens))
    for start in range(0, len(ordered), rows):
        yield ordered[start : start + rows]


def _logprobs(policy: Policy, chunk: Sequence[Lesson], config: RLConfig) -> tuple[Tensor, Tensor]:
    rows = [(one.sampled, one.version) for one in chunk]
    return recompute(policy.weights, rows, temperature=config.sampling.temperature)


def _padded(rows: Sequence[tuple[float, ...]], *, like: Tensor) -> Tensor:
    """Rows of numbers as a tensor of the shape of `like`, zeros behind."""
    filled = [[*row, *[0.0] * (like.shape[1] - len(row))] for row in rows]
    return torch.tensor(filled).to(like)


def draw_streams(
    generator: PersonaGenerator,
    rng: random.Random,
    count: int,
    config: RLConfig,
    *,
    counterfactual: bool = False,
) -> list[Stream]:
    """Streams of `count` personas; a share of `config.uncovered` of them tells only what rules cannot read."""
    return [
        persona_stream(
            generator,
            rng,
            config.shape,
            keep=unread if rng.random() < config.uncovered else None,
            counterfactual=counterfactual,
        )
        for _ in range(count)
    ]


def unread(message: str) -> bool:
    """Whether the agent's rules find no question and answer in a message."""
    return not any(item.question and item.answer for item in extract(message).items)


# -- evaluation ----------------------------------------------------------------------------------------------


def written(weights: FastWeights, streams: Sequence[Stream], config: RLConfig) -> list[Rollout]:
    """The most likely life of each persona under the policy."""
    generator = torch.Generator(weights.banked.bases[0].device).manual_seed(0)
    return collect(
        weights,
        streams,
        replace(config.sampling, temperature=0.0),
        screen=screen,
        measure=_unmeasured,
        generator=generator,
        statements=config.statements,
    )


def _unmeasured(
    _weights: FastWeights, streams: list[Stream], _banks: list[list[Tensor]]
) -> tuple[Tensor, Tensor]:
    """For lives that nobody rewards."""
    most = max(len(stream.probes) for stream in streams)
    return torch.zeros(len(streams), most), torch.zeros(len(streams))


def recalled(
    reader: FastWeights, rollouts: Sequence[Rollout], config: RLConfig, *, statements: bool
) -> dict[str, Any]:
    """Exact greedy answers to all probes at the end of the streams, when `reader` learns what the rollouts wrote.

    `placebo`: the same questions under the next persona's banks. `right`: 1 or 0 for each probe, in order.
    """
    states = [reader.rule_object.empty()] * len(rollouts)
    for s in range(len(rollouts[0].stream.sessions)):
        told: list[list[Pairs]] = []
        for life in rollouts:
            made = [
                lesson(life.accepted[s, m], text, statements=statements)
                for m, text in enumerate(life.stream.sessions[s])
            ]
            told.append([memory for memory in made if memory])
        states = [state for state, _ in reader.write(states, told)]
    banks = [torch.stack(site) for site in zip(*(reader.rule_object.banks(s) for s in states), strict=True)]
    most = max(len(life.stream.probes) for life in rollouts)
    prompts = [
        reader.prompt_ids([{"role": "user", "content": life.stream.probes[q].question if q < n else "?"}])
        for life in rollouts
        for n in [len(life.stream.probes)]
        for q in range(most)
    ]
    scores = {}
    for name, used in (("right", banks), ("placebo", [bank.roll(1, 0) for bank in banks])):
        drawn = sample(
            reader,
            prompts,
            used,
            None,
            temperature=0.0,
            max_new_tokens=config.sampling.answer_tokens,
            generator=torch.Generator(banks[0].device),
        )
        scores[name] = [
            int(exact(drawn[u * most + q].text, probe.answer))
            for u, life in enumerate(rollouts)
            for q, probe in enumerate(life.stream.probes)
        ]
    return {
        "accuracy": sum(scores["right"]) / len(scores["right"]),
        "placebo": sum(scores["placebo"]) / len(scores["placebo"]),
        "probes": len(scores["right"]),
        "drift": float(drift(reader, banks).mean()),
        "right": scores["right"],
    }


def writing(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What the writer did, by message: tokens written, pairs, the share of pairs with ground in the message, the share
    of telling messages of which it wrote the true value, and the share of the others of which it wrote nothing."""
    tokens = pairs = ground = messages = telling = true = idle = nothing = 0
    for life in rollouts:
        answers = {(probe.session, probe.message): probe.answer for probe in life.stream.probes}
        for action in life.actions:
            if action.kind != "write":
                continue
            place = (action.place[0], action.place[1])
            made, text = life.pairs[place], life.stream.sessions[place[0]][place[1]]
            messages += 1
            tokens += len(action.sampled.tokens)
            pairs += len(made)
            ground += sum(grounded(pair, text) for pair in made)
            if place in answers:
                telling += 1
                true += any(exact(answer, answers[place]) for _, answer in life.accepted[place])
            else:
                idle += 1
                nothing += not made
    return {
        "tokens_per_message": tokens / messages,
        "pairs_per_message": pairs / messages,
        "grounded": ground / max(1, pairs),
        "true_value": true / max(1, telling),
        "nothing_of_idle": nothing / max(1, idle),
        "messages": float(messages),
    }


def evaluation_sets(config: RLConfig) -> dict[str, list[Stream]]:
    """Held-out personas, phrasings and values, the same for every run: messages that the rules cannot read, and
    messages whose values belong to other questions (what a style prior would never guess)."""
    held_out = PersonaGenerator("test")
    count, shape = config.evaluation_personas, config.shape

    def drawn(keep: Callable[[str], bool] | None, counterfactual: bool) -> list[Stream]:
        return [
            persona_stream(
                held_out, random.Random(f"rl evaluation {n}"), shape, keep=keep, counterfactual=counterfactual
            )
            for n in range(count)
        ]

    return {"unread": drawn(unread, False), "counterfactual": drawn(None, True)}


def evaluate(weights: FastWeights, streams: Sequence[Stream], config: RLConfig) -> dict[str, Any]:
    """The writer's numbers and the recall of what it wrote through the same model's weights, by the questions it wrote
    alone (`pairs`) and with the statements as the agent learns them (`agent`)."""
    rollouts = written(weights, streams, config)
    return writing(rollouts) | {
        "pairs": _plain(recalled(weights, rollouts, config, statements=False)),
        "agent": _plain(recalled(weights, rollouts, config, statements=True)),
    }


def _plain(found: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in found.items() if name != "right"}


# -- the run -------------------------------------------------------------------------------------------------


def load_policy(config: RLConfig) -> Policy:
    """The model of the config as a policy. Raises `InputError` when it cannot end an action."""
    weights = load_fast_weights(
        config.model, rule=config.rule, device=config.device, dtype=DTYPES[config.dtype]
    )
    end_token(weights)
    return Policy(weights, lora_rank=config.lora_rank, seed=config.seed)


def train_rl(config: RLConfig, *, on_progress: Progress | None = None) -> Path:
    """Run, resuming from `out/last.pt` when it is there. Returns the folder of the trained model.

    Beside it: `log.jsonl`, `report.json` (the evaluation sets before and after) and, with matplotlib, `curves.png`.
    Every step draws from generators seeded by the run's seed and the step, so a resumed run goes the way it would
    have gone.
    """
    torch.set_num_threads(config.threads)
    policy = load_policy(config)
    optimizer = torch.optim.AdamW(
        list(policy.trained.values()), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    log = RunLog(config.out, config)
    sets = evaluation_sets(config)
    last = config.out / "last.pt"
    step, before = 0, 0.0
    report: dict[str, Any] = {}
    if last.exists():
        saved = load_checkpoint(last)
        policy.load(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])
        step, before, report = saved["step"], saved["seconds"], json.loads(saved["report"])
    log.write(event="start", step=step, trained=sum(p.numel() for p in policy.trained.values()))
    if "before" not in report:
        report["before"] = {name: evaluate(policy.weights, streams, config) for name, streams in sets.items()}
        log.write(step=step, held_out=report["before"])
    while not _over(step, before + log.seconds(), config):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / config.warm_up)
        log.write(step=step + 1, **train_step(policy, optimizer, step, config))
        step += 1
        if step % config.refresh_every == 0:
            policy.refresh()
        spent = before + log.seconds()
        if on_progress:
            on_progress(step, config.steps, "reinforcement learning, steps")
        over = _over(step, spent, config)
        if step % config.evaluate_every == 0 and not over:
            log.write(step=step, held_out={"unread": evaluate(policy.weights, sets["unread"], config)})
        if over:
            report["after"] = {
                name: evaluate(policy.weights, streams, config) for name, streams in sets.items()
            }
            log.write(step=step, held_out=report["after"])
        if step % config.evaluate_every == 0 or over:
            state = {"policy": policy.state(), "optimizer": optimizer.state_dict(), "step": step}
            save_checkpoint(last, state | {"seconds": spent, "report": json.dumps(report)})
    folder = config.out / "model"
    source = mini_folder() if config.model == "mini" else Path(config.model)
    policy.save(folder, source=source)
    (config.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    try:
        draw_curves(config.out, config.out / "curves.png")
    except MissingExtra as missing:
        log.write(event="no curves", why=str(missing))
    return folder


def _over(step: int, seconds: float, config: RLConfig) -> bool:
    return step >= config.steps or bool(config.minutes and seconds > 60 * config.minutes)


def train_step(
    policy: Policy, optimizer: torch.optim.Optimizer, step: int, config: RLConfig
) -> dict[str, float]:
    """Draw streams, live them, score them, update. Returns the step's means; `learned_from` is the share of actions
    with an advantage. Without any, and without a KL, nothing is updated."""
    rng = random.Random(f"{config.seed}/{step}")
    personas = draw_streams(PersonaGenerator("train"), rng, config.personas, config)
    generator = torch.Generator(policy.weights.banked.bases[0].device).manual_seed(rng.getrandbits(63))
    rollouts = collect(
        policy.weights,
        [stream for stream in personas for _ in range(config.group)],
        config.sampling,
        screen=screen,
        measure=measure,
        generator=generator,
        trust_region=config.trust_region,
        statements=config.statements,
    )
    scores = [score(life, config.reward) for life in rollouts]
    todo = lessons(rollouts, scores, group=config.group, config=config)
    busy = sum(abs(one.advantage) > 1e-6 for one in todo)
    found = {"loss": 0.0, "kl": 0.0, "ratio": 1.0, "clipped": 0.0, "norm": 0.0}
    if busy or config.beta:
        if config.beta:
            todo = referred(policy, todo, config)
        for _ in range(config.passes):
            found = update(policy, optimizer, todo, config)
    gains = [
        gain(life, probe.session, probe.message, config.reward)
        for life in rollouts
        for probe in life.stream.probes
    ]
    own = writing(rollouts)
    return {
        "outcome": sum(s.outcome for s in scores) / len(scores),
        "shared_cost": sum(s.shared for s in scores) / len(scores),
        "gain": sum(gains) / max(1, len(gains)),
        "learned_from": busy / max(1, len(todo)),
        **{name: own[name] for name in ("tokens_per_message", "grounded", "true_value", "nothing_of_idle")},
        **found,
    }


def draw_curves(run: Path, out: Path) -> Path:
    """Draw a run's log: rewards, what the writer does, and held-out recall, by step. Raises `MissingExtra`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plot", "matplotlib") from error
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, names in (
        (left, ("outcome", "gain", "shared_cost")),
        (middle, ("true_value", "grounded", "nothing_of_idle", "tokens_per_message")),
    ):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            scale = 1 / 48 if name == "tokens_per_message" else 1
            label = name.replace("_", " ") + (" / 48" if scale != 1 else "")
            if points:
                axes.plot(*zip(*((x, y * scale) for x, y in points), strict=True), label=label, linewidth=1)
    for name in ("unread", "counterfactual"):
        for how in ("pairs", "agent"):
            kept = [
                (r["step"], r["held_out"][name][how]["accuracy"])
                for r in rows
                if name in r.get("held_out", {})
            ]
            if kept:
                right.plot(*zip(*kept, strict=True), label=f"{name}, {how}", linewidth=1, marker=".")
    left.set(xlabel="step", title="training: rewards")
    middle.set(xlabel="step", title="training: what is written")
    right.set(xlabel="step", title="held out: exact answers", ylim=(-0.02, 1.02))
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=6)
    figure.savefig(out, dpi=130)
    return out
