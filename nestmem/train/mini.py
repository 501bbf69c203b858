"""Train nestmem-mini as a language model, a reader and a writer (the first of two stages; then `meta.py`).

A small Qwen3-architecture model learns from generated dialogues and, where given, public-domain text. Only the
words of the assistant count in a dialogue, every word counts in plain text. Hidden matrices are trained by Muon,
everything else by AdamW; both rates warm up and then fall linearly to a tenth.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from nestmem.optim import Muon
from nestmem.personas import PersonaGenerator
from nestmem.train.corpus import training_text
from nestmem.train.dialogues import Dialogue, dialogue, telling
from nestmem.train.record import RunLog, load_checkpoint, save_checkpoint
from nestmem.train.tokenizer import train_tokenizer


@dataclass(frozen=True, kw_only=True)
class MiniConfig:
    """One run of stage one. Sizes in tokens unless said; `text` are files of public-domain text."""

    out: Path
    text: tuple[Path, ...] = ()
    vocabulary: int = 3072
    width: int = 192
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    head_width: int = 48
    feed_forward: int = 512
    steps: int = 6000
    batch_tokens: int = 2048
    text_share: float = 0.1
    text_window: int = 128
    matrix_rate: float = 0.02
    other_rate: float = 3e-3
    warm_up: int = 100
    minutes: float = 0.0
    checkpoint_every: int = 250
    seed: int = 0
    threads: int = 1


def new_model(config: MiniConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A randomly initialised Qwen3 of the config's sizes, with tied embeddings."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads,
            head_dim=config.head_width,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def render(talk: Dialogue) -> list[tuple[str, bool]]:
    """Pieces of text of a dialogue, each with whether it is learned; joined they are the chat template's text."""
    pieces = []
    for index, (role, content) in enumerate(talk.messages):
        if index in talk.learned:
            pieces += [(f"<|{role}|>", False), (f" {content}<|end|>", True)]
        else:
            pieces.append((f"<|{role}|> {content}<|end|>", False))
    return pieces


def encode(talk: Dialogue, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[float]]:
    """Token ids and loss weights (1 learned, 0 not) of a dialogue."""
    ids: list[int] = []
    weights: list[float] = []
    for text, learned in render(talk):
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        weights += [float(learned)] * len(piece)
    return ids, weights


def collate(rows: list[tuple[list[int], list[float]]], pad: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids (B, T) and weights (B, T); padding has weight 0 and, being last, is never attended to."""
    longest = max(len(ids) for ids, _ in rows)
    ids_BT = torch.full((len(rows), longest), pad, dtype=torch.long)
    weights_BT = torch.zeros(len(rows), longest)
    for index, (ids, weights) in enumerate(rows):
        ids_BT[index, : len(ids)] = torch.tensor(ids)
        weights_BT[index, : len(ids)] = torch.tensor(weights)
    return ids_BT, weights_BT


def batches(
    generator: PersonaGenerator,
    tokenizer: PreTrainedTokenizerFast,
    tokens: Tensor,
    config: MiniConfig,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of about `batch_tokens` tokens: rows of like length, text and dialogues apart."""
    rng = random.Random(seed)
    pad = tokenizer.pad_token_id
    while True:
        rows = [encode(dialogue(generator, rng), tokenizer) for _ in range(400)]
        rows = sorted((ids[:768], weights[:768]) for ids, weights in rows)
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[float]]]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row[0]) > config.batch_tokens:
                groups.append([])
            groups[-1].append(row)
        made = [collate(group, pad) for group in groups if group]
        windows = config.batch_tokens // config.text_window
        while len(tokens) and rng.random() < config.text_share * (len(made) + 1):
            if sum(1 for _, weights in made if bool(weights.all())) >= config.text_share * len(made):
                break
            starts = [rng.randrange(len(tokens) - config.text_window) for _ in range(windows)]
            ids = torch.stack([tokens[start : start + config.text_window] for start in starts])
            made.append((ids, torch.ones(ids.shape)))
        rng.shuffle(made)
        yield from made


def language_loss(model: torch.nn.Module, ids_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of the tokens with weight 1, each given those before it."""
    hidden_BTD = model.model(input_ids=ids_BT).last_hidden_state
    chosen = weights_BT[:, 1:] > 0
    logits = model.lm_head(hidden_BTD[:, :-1][chosen])
    return F.cross_entropy(logits, ids_BT[:, 1:][chosen])


def optimizers(model: torch.nn.Module, config: MiniConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, norms and the rest."""
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    ids = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in ids]
    muon = Muon(inside, lr=config.matrix_rate, weight_decay=0.01)
    adam = torch.optim.AdamW(rest, lr=config.other_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon, adam]


def schedule(step: int, seconds: float, config: MiniConfig) -> float:
    """Rate factor: linear warm-up, then linear to a tenth at the last step or, when `minutes` is given, minute."""
    rise = min(1.0, (step + 1) / config.warm_up)
    done = seconds / 60 / config.minutes if config.minutes else step / config.steps
    return rise * (1.0 - 0.9 * min(1.0, done))


@torch.no_grad()
def reading_accuracy(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, talks: list[Dialogue]
) -> float:
    """Share of learned assistant turns of which every token is the most likely one (teacher-forced)."""
    right = total = 0
    for talk in talks:
        ids, weights = encode(talk, tokenizer)
        guess = model(input_ids=torch.tensor([ids])).logits[0, :-1].argmax(-1).tolist()
        good = True
        for position in range(1, len(ids) + 1):
            if position < len(ids) and weights[position]:
                good &= guess[position - 1] == ids[position]
            elif weights[position - 1]:
                right, total, good = right + good, total + 1, True
    return right / max(total, 1)


def sample_text(config: MiniConfig, generator: PersonaGenerator, text: str) -> Iterator[str]:
    """What the vocabulary is learned from: dialogues and as much plain text."""
    rng = random.Random(config.seed)
    for _ in range(20_000):
        talk = telling(generator, rng) if rng.random() < 0.5 else dialogue(generator, rng)
        yield "".join(" " + content for _, content in talk.messages)
    for start in range(0, min(len(text), 3_000_000), 2000):
        yield text[start : start + 2000]


def train_mini(config: MiniConfig) -> Path:
    """Run stage one, resuming from `out/last.pt` when it is there. Returns the folder of the trained model."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    generator = PersonaGenerator("train", made_up=0.5)
    held_out = PersonaGenerator("test", made_up=0.5)
    log = RunLog(config.out, config)
    text = training_text(list(config.text)) if config.text else ""
    last = config.out / "last.pt"
    if last.exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(config.out / "tokenizer")
    else:
        tokenizer = train_tokenizer(sample_text(config, generator, text), vocabulary=config.vocabulary)
        tokenizer.save_pretrained(config.out / "tokenizer")
    tokens = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    model = new_model(config, tokenizer)
    optims = optimizers(model, config)
    rates = [[group["lr"] for group in optim.param_groups] for optim in optims]
    step, spent = 0, 0.0
    if last.exists():
        saved = load_checkpoint(last)
        model.load_state_dict(saved["model"])
        for optim, state in zip(optims, saved["optimizers"], strict=True):
            optim.load_state_dict(state)
        step, spent = saved["step"], saved["seconds"]
    log.write(event="start", step=step, parameters=model.num_parameters(), text_tokens=len(tokens))
    talks = [dialogue(held_out, random.Random(seed)) for seed in range(120)]
    losses: list[float] = []
    base = spent
    for ids_BT, weights_BT in batches(generator, tokenizer, tokens, config, seed=config.seed + 1000 + step):
        spent = base + log.seconds()
        factor = schedule(step, spent, config)
        for optim, initial in zip(optims, rates, strict=True):
            for group, rate in zip(optim.param_groups, initial, strict=True):
                group["lr"] = rate * factor
        loss = language_loss(model, ids_BT, weights_BT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        if not bool(weights_BT.all()):
            losses.append(loss.item())
        step += 1
        if step % 50 == 0:
            log.write(step=step, dialogue_loss=sum(losses[-50:]) / max(len(losses[-50:]), 1))
        over = step >= config.steps or bool(config.minutes and spent > 60 * config.minutes)
        if step % config.checkpoint_every == 0 or over:
            log.write(step=step, held_out_reading=reading_accuracy(model, tokenizer, talks))
            state = {"model": model.state_dict(), "step": step, "seconds": spent}
            save_checkpoint(last, state | {"optimizers": [optim.state_dict() for optim in optims]})
            model.save_pretrained(config.out / "model")
            tokenizer.save_pretrained(config.out / "model")
        if over:
            break
    return config.out / "model"
