"""Meta-train nestmem-mini through its own writes (the second of two stages; the first is `mini.py`).

An episode: U users each tell n facts. Inner loop: the ridge fit of what was told (`nestmem.adapters.nested`), each
fact as its question and as the statement itself, both followed by the value: one to `passes` steps at the current
banks, all facts at once or the second half on top of the first with its keys protected. Outer loss: cross-entropy of
the answers to differently phrased questions with the context gone and the banks on, of "I don't know." to questions
never told and to the bare model, and the stage-one loss (reading and writing must survive, with banks on and off). The
gradient goes through the last step of the fit, second derivatives included, to every weight of the model and to the
write's own settings: log ridge, log rate and a token weight per site. The steps before it are constants (truncated
second order).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from nestmem.adapters.banks import BankedModel, ridge_banks
from nestmem.adapters.fast_weights import load_settings
from nestmem.adapters.sites import find_sites
from nestmem.optim import Muon
from nestmem.personas import Fact, PersonaGenerator
from nestmem.train.corpus import training_text
from nestmem.train.dialogues import UNKNOWN, Dialogue, question
from nestmem.train.mini import MiniConfig, batches, collate, encode, language_loss
from nestmem.train.record import RunLog, load_checkpoint, save_checkpoint


@dataclass(frozen=True, kw_only=True)
class MiniMetaConfig:
    """One run of stage two. `facts` is the curriculum: (step from which, facts per user); `users` becomes fewer where
    users x facts would pass `episode_facts`. A fit takes 1 to `passes` steps of `fit_rate` times the learned rate (a
    single one of it all); `two_stages` is how often the second half of the facts is written on top of the first.
    Where `start` has `banks.safetensors`, its bases and settings are gone on from."""

    start: Path
    out: Path
    text: tuple[Path, ...] = ()
    rank: int = 128
    last: int = 2
    users: int = 4
    facts: tuple[tuple[int, int], ...] = ((0, 4), (100, 8), (250, 16), (900, 32))
    episode_facts: int = 128
    passes: int = 4
    fit_rate: float = 0.6
    two_stages: float = 0.5
    steps: int = 3000
    matrix_rate: float = 0.005
    other_rate: float = 1e-3
    rehearsal: float = 0.5
    bare: float = 0.2
    rehearsal_tokens: int = 1536
    warm_up: int = 30
    minutes: float = 0.0
    evaluate_every: int = 50
    log_limit: float = 4.0
    seed: int = 0
    threads: int = 1


class WriteSettings(torch.nn.Module):
    """What the write learns about itself: per site a log ridge, a log rate and a direction u that weighs tokens.

    A written token with key k (R) counts 2 sigmoid(u k). Log values stay within `limit` of where calibration put
    them: rates that run away are how earlier runs diverged.
    """

    def __init__(self, ridge: list[float], rate: list[float], ranks: list[int], limit: float):
        super().__init__()
        self.limit = limit
        self.register_buffer("start_ridge", torch.tensor(ridge).log())
        self.register_buffer("start_rate", torch.tensor(rate).log())
        self.log_ridge = torch.nn.Parameter(torch.zeros(len(ridge)))
        self.log_rate = torch.nn.Parameter(torch.zeros(len(rate)))
        self.token = torch.nn.ParameterList(torch.zeros(rank) for rank in ranks)

    def ridge(self) -> Tensor:
        return (self.start_ridge + self.log_ridge.clamp(-self.limit, self.limit)).exp()

    def rate(self) -> Tensor:
        return (self.start_rate + self.log_rate.clamp(-self.limit, self.limit)).exp()


def pair(asked: str, answer: str) -> Dialogue:
    """One question and its answer, the form in which facts are written and asked."""
    return Dialogue(messages=(("user", asked), ("assistant", answer)), learned=(1,))


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Token rows of U users side by side: what is written (as questions, and as statements), what is asked, which of
    the asked rows were told, and what is asked of the bare model, which knows nothing."""

    write: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    ask: tuple[Tensor, Tensor]
    bare: tuple[Tensor, Tensor]
    told: Tensor


def episode(
    generator: PersonaGenerator,
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
    *,
    users: int,
    facts: int,
) -> Episode:
    """Each user tells `facts` facts and is asked about all of them and `facts` // 4 others never told."""
    questions, statements, ask, told, bare = [], [], [], [], []
    others = max(1, facts // 4)
    for _ in range(users):
        persona = generator.facts(facts + others, rng)
        for fact in persona[:facts]:
            rows = written(generator, fact, tokenizer, rng)
            questions.append(rows[0])
            statements.append(rows[1])
            ask.append(encode(pair(question(generator, fact, rng), fact.value), tokenizer))
        ask += [encode(pair(question(generator, fact, rng), UNKNOWN), tokenizer) for fact in persona[facts:]]
        told += [True] * facts + [False] * others
        bare += [
            encode(pair(question(generator, fact, rng), UNKNOWN), tokenizer) for fact in persona[:others]
        ]
    pad = tokenizer.pad_token_id
    write = (collate(questions, pad), collate(statements, pad))
    return Episode(write=write, ask=collate(ask, pad), bare=collate(bare, pad), told=torch.tensor(told))


def written(
    generator: PersonaGenerator, fact: Fact, tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> list[tuple[list[int], list[float]]]:
    """The two rows by which a fact is written: question -> value and the statement as told -> value.

    The question is mostly the canonical one the rules write, sometimes another, and one time in ten a wrong one, as a
    model writer would. Now and then one of the rows counts nothing, because extraction finds only the other.
    """
    asked = fact.canonical if rng.random() < 0.8 else generator.question(fact.key, rng)
    if rng.random() < 0.1:
        asked = generator.fact(rng.choice(generator.keys()), rng).canonical
    rows = [encode(pair(text, fact.value), tokenizer) for text in (asked, fact.statement)]
    missing = rng.choice([0, 1]) if rng.random() < 0.2 else None
    return [(ids, [0.0] * len(ids) if n == missing else weights) for n, (ids, weights) in enumerate(rows)]


Rows = tuple[Tensor, Tensor]


def sums(
    banked: BankedModel,
    settings: WriteSettings,
    groups: tuple[Rows, ...],
    *,
    users: int,
    banks: list[Tensor] | None,
    create_graph: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """S = sum w k k^T (U, R, R) and C = -sum w e k^T (U, O, R) per site over the rows of all groups, at `banks`."""
    moments: list[Tensor] = []
    cross: list[Tensor] = []
    for ids_BT, weights_BT in groups:
        keys, errors, _ = banked.keys_errors(ids_BT, weights_BT, banks=banks, create_graph=create_graph)
        written_BT = weights_BT[:, 1:]
        for s, (k_BTR, e_BTO, u_R) in enumerate(zip(keys, errors, settings.token, strict=True)):
            weight_BT = written_BT * 2 * torch.sigmoid(k_BTR @ u_R)
            k = k_BTR.reshape(users, -1, k_BTR.shape[-1])
            weighted = k * weight_BT.reshape(users, -1, 1)
            moment = weighted.transpose(1, 2) @ k
            change = -e_BTO.reshape(users, -1, e_BTO.shape[-1]).transpose(1, 2) @ weighted
            if s < len(moments):
                moments[s], cross[s] = moments[s] + moment, cross[s] + change
            else:
                moments.append(moment)
                cross.append(change)
    return moments, cross


def write(
    banked: BankedModel,
    settings: WriteSettings,
    stages: list[tuple[Rows, ...]],
    *,
    users: int,
    passes: int,
    rate: float,
    create_graph: bool,
) -> list[Tensor]:
    """Banks (U, O, R) per site after the stages are written one on top of the other, `passes` steps each.

    B <- B + rate eta C(B) (S + S_before + ridge I)^-1. With `create_graph` the last step of the last stage can be
    differentiated; all before it is constant.
    """
    banks: list[Tensor] | None = None
    before: list[Tensor] | None = None
    for stage, groups in enumerate(stages):
        moments: list[Tensor] = []
        for n in range(passes):
            graph = create_graph and stage == len(stages) - 1 and n == passes - 1
            with torch.set_grad_enabled(graph):
                moments, cross = sums(banked, settings, groups, users=users, banks=banks, create_graph=graph)
                total = moments if before is None else [a + b for a, b in zip(moments, before, strict=True)]
                change = solved(total, cross, settings, rate)
                banks = change if banks is None else [b + d for b, d in zip(banks, change, strict=True)]
                moments = total
        before = [moment.detach() for moment in moments]
    assert banks is not None
    return banks


def solved(moments: list[Tensor], cross: list[Tensor], settings: WriteSettings, rate: float) -> list[Tensor]:
    """The ridge step in float64: with few written tokens S is singular and all that holds it up is the ridge."""
    wide = ([S.double() for S in moments], [C.double() for C in cross])
    banks = ridge_banks(*wide, list(settings.ridge()), list(rate * settings.rate()))
    return [bank.to(C) for bank, C in zip(banks, cross, strict=True)]


def halves(groups: tuple[Rows, ...], users: int) -> list[tuple[Rows, ...]]:
    """The rows of the first half of each user's facts, and of the second half."""
    parts: list[tuple[Rows, ...]] = []
    for first in (True, False):
        part = []
        for ids_BT, weights_BT in groups:
            half = ids_BT.shape[0] // users // 2
            chosen = [x.reshape(users, -1, x.shape[1]) for x in (ids_BT, weights_BT)]
            chosen = [(x[:, :half] if first else x[:, half:]).flatten(0, 1) for x in chosen]
            part.append((chosen[0], chosen[1]))
        parts.append(tuple(part))
    return parts


def answer_loss(
    banked: BankedModel, banks: list[Tensor] | None, rows: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (nats) of the answers, and per row whether every answer token is the most likely one."""
    ids_BT, weights_BT = rows
    with banked.using(banks):
        hidden = banked.model.model(input_ids=ids_BT).last_hidden_state
    chosen = weights_BT[:, 1:] > 0
    logits = banked.model.lm_head(hidden[:, :-1][chosen])
    targets = ids_BT[:, 1:][chosen]
    wrong = torch.zeros(ids_BT.shape[0], dtype=torch.long)
    wrong.index_add_(0, chosen.nonzero()[:, 0], (logits.argmax(-1) != targets).long())
    return F.cross_entropy(logits, targets), wrong == 0


def calibrated(
    banked: BankedModel,
    generator: PersonaGenerator,
    tokenizer: PreTrainedTokenizerFast,
    config: MiniMetaConfig,
) -> WriteSettings:
    """Settings to start from: those of `config.start` where it has some, else ridge a fiftieth of a key's mean square,
    rate a Polyak step shared by the sites."""
    own = config.start / "banks.safetensors"
    if own.exists():
        sites = find_sites(banked.model, last=banked.model.config.num_hidden_layers)
        known, banked.bases = load_settings(own, sites)
        settings = WriteSettings(
            list(known.ridge), list(known.rate), [basis.shape[0] for basis in banked.bases], config.log_limit
        )
        for parameter, value in zip(settings.token, known.token, strict=True):
            parameter.data.copy_(value)
        return settings
    made = episode(generator, tokenizer, random.Random(config.seed), users=1, facts=32)
    keys, errors, loss_B = banked.keys_errors(*made.write[0])
    chosen = made.write[0][1][:, 1:] > 0
    nats = float(loss_B.sum() / chosen.sum())
    ridge = [0.02 * float(k[chosen].square().sum(-1).mean()) for k in keys]
    rate = [nats / len(keys) / float(e[chosen].square().sum(-1).mean()) for e in errors]
    return WriteSettings(ridge, rate, [basis.shape[0] for basis in banked.bases], config.log_limit)


@torch.no_grad()
def evaluate(
    banked: BankedModel,
    settings: WriteSettings,
    generator: PersonaGenerator,
    tokenizer: PreTrainedTokenizerFast,
    *,
    facts: int,
    users: int = 8,
    passes: int = 1,
    rate: float = 1.0,
    stages: int = 1,
    seed: int = 12345,
) -> dict[str, float]:
    """Exact answers after `facts` facts in one or two stages: told, never told, told with another user's banks."""
    made = episode(generator, tokenizer, random.Random(seed + facts), users=users, facts=facts)
    parts = [made.write] if stages == 1 else halves(made.write, users)
    banks = write(banked, settings, parts, users=users, passes=passes, rate=rate, create_graph=False)
    _, right = answer_loss(banked, banks, made.ask)
    _, placebo = answer_loss(banked, [bank.roll(1, 0) for bank in banks], made.ask)
    return {
        "told": float(right[made.told].float().mean()),
        "never_told": float(right[~made.told].float().mean()),
        "placebo": float(placebo[made.told].float().mean()),
    }


def validate(
    banked: BankedModel,
    settings: WriteSettings,
    generator: PersonaGenerator,
    tokenizer: PreTrainedTokenizerFast,
    config: MiniMetaConfig,
) -> dict[str, dict[str, float]]:
    """Scores by which a checkpoint is chosen: new people of the training split, so that the test split stays unseen.
    16 facts in one step; the most facts of the curriculum in a fit, at once and in two stages."""
    most = config.facts[-1][1]
    several = {"passes": max(2, config.passes), "rate": config.fit_rate}
    return {
        "16 one step": evaluate(banked, settings, generator, tokenizer, facts=16, users=4),
        f"{most} fitted": evaluate(banked, settings, generator, tokenizer, facts=most, users=2, **several),
        f"{most} in two stages": evaluate(
            banked, settings, generator, tokenizer, facts=most, users=2, stages=2, **several
        ),
    }


def facts_at(step: int, config: MiniMetaConfig) -> int:
    """Facts per user at a step of the curriculum."""
    return [count for start, count in config.facts if step >= start][-1]


def save_model(
    folder: Path,
    model: Qwen3ForCausalLM,
    banked: BankedModel,
    settings: WriteSettings,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """The folder of a finished model: weights and tokenizer as Hugging Face writes them, and `banks.safetensors`."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tensors = {f"{site.name}.basis": basis for site, basis in zip(banked.sites, banked.bases, strict=True)}
    tensors |= {f"{s.name}.token": u.detach() for s, u in zip(banked.sites, settings.token, strict=True)}
    tensors |= {"ridge": settings.ridge().detach(), "rate": settings.rate().detach()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "banks.safetensors")


def train_mini_meta(config: MiniMetaConfig) -> Path:
    """Run stage two, resuming from `out/last.pt` when it is there. Returns the folder of the best model."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    log = RunLog(config.out, config)
    train = PersonaGenerator("train", made_up=0.5)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(config.start)
    model = Qwen3ForCausalLM.from_pretrained(config.start, attn_implementation="eager", dtype=torch.float32)
    banked = BankedModel(model, rank=config.rank, last=config.last)
    settings = calibrated(banked, train, tokenizer, config)
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    chosen = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    own = list(settings.parameters())
    optims = [
        Muon(inside, lr=config.matrix_rate, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=config.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
        torch.optim.AdamW(own, lr=10 * config.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    initial = [optim.param_groups[0]["lr"] for optim in optims]
    step, best, before = 0, -1.0, 0.0
    last = config.out / "last.pt"
    if last.exists():
        saved = load_checkpoint(last)
        model.load_state_dict(saved["model"])
        settings.load_state_dict(saved["settings"])
        banked.bases = saved["bases"]
        for optim, state in zip(optims, saved["optimizers"], strict=True):
            optim.load_state_dict(state)
        step, best, before = saved["step"], saved["best"], saved["seconds"]
    text = training_text(list(config.text), max_characters=2_000_000) if config.text else ""
    tokens = torch.tensor(
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.long
    )
    first = MiniConfig(out=config.out, batch_tokens=config.rehearsal_tokens)
    rehearse = batches(train, tokenizer, tokens, first, seed=config.seed + 77 + step)
    rng = random.Random(config.seed + 1 + step)
    log.write(event="start", step=step, ridge=settings.ridge().tolist(), rate=settings.rate().tolist())
    recent: list[tuple[float, float, float]] = []
    while True:
        spent = before + log.seconds()
        progress = step / config.steps if not config.minutes else spent / 60 / config.minutes
        factor = min(1.0, (step + 1) / config.warm_up) * (1.0 - 0.9 * min(1.0, progress))
        for optim, rate in zip(optims, initial, strict=True):
            optim.param_groups[0]["lr"] = rate * factor
        count = facts_at(step, config)
        told = rng.randint(max(2, count // 4), count)
        users = max(1, min(config.users, config.episode_facts // told))
        made = episode(train, tokenizer, rng, users=users, facts=told)
        passes = rng.randint(1, config.passes)
        stages = halves(made.write, users) if rng.random() < config.two_stages else [made.write]
        rate = 1.0 if passes == 1 else config.fit_rate
        banks = write(banked, settings, stages, users=users, passes=passes, rate=rate, create_graph=True)
        outer, right = answer_loss(banked, banks, made.ask)
        rows = next(rehearse)
        with banked.using([bank[:1] for bank in banks] if rng.random() < 0.5 else None):
            kept = language_loss(model, *rows)
        bare, _ = answer_loss(banked, None, made.bare)
        loss = outer + config.rehearsal * kept + config.bare * bare
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([*model.parameters(), *own], 1.0)
        if math.isfinite(float(norm)):
            for optim in optims:
                optim.step()
        for optim in optims:
            optim.zero_grad()
        recent.append((outer.item(), float(right[made.told].float().mean()), kept.item()))
        step += 1
        if step % 10 == 0:
            mean = [sum(column) / len(recent[-10:]) for column in zip(*recent[-10:], strict=True)]
            log.write(
                step=step, facts=count, outer=mean[0], told=mean[1], rehearsal=mean[2], norm=float(norm)
            )
        over = step >= config.steps or bool(config.minutes and spent > 60 * config.minutes)
        if step % config.evaluate_every == 0 or over:
            scores = validate(banked, settings, train, tokenizer, config)
            log.write(
                step=step, validation=scores, ridge=settings.ridge().tolist(), rate=settings.rate().tolist()
            )
            score = sum(found["told"] + 0.3 * found["never_told"] for found in scores.values())
            if score > best:
                best = score
                save_model(config.out / "model", model, banked, settings, tokenizer)
            state = {"model": model.state_dict(), "settings": settings.state_dict(), "bases": banked.bases}
            state |= {"step": step, "best": best, "seconds": spent}
            save_checkpoint(last, state | {"optimizers": [optim.state_dict() for optim in optims]})
        if over:
            return config.out / "model"
