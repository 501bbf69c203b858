"""The end-to-end rules of the shared matrix: a small attention block with a cache and fast MLPs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nestmem.core import Adam, Momentum, NewtonSchulz
from nestmem.ops.endtoend import Level, chunked, init, recurrent
from tests.ops.rules import Rule, Tokens, Weights, randn

WIDTH, HIDDEN, PAST = 3, 4, 2


def outer_weights(seed: int = 5) -> dict[str, Tensor]:
    """Slow weights of the block, float64."""
    g = torch.Generator().manual_seed(seed)
    return {name: 0.7 * randn(WIDTH, WIDTH, generator=g) for name in ("query", "key", "value", "out")}


def first_carry(batch: int, like: Tensor) -> dict[str, Tensor]:
    """An empty cache of PAST keys and values, and which of them are there."""
    zeros = like.new_zeros(batch, PAST, WIDTH)
    return {"key": zeros, "value": zeros, "there": torch.zeros(batch, PAST, dtype=torch.bool)}


def step(outer: Any, fast: Weights, inputs: Any, carry: Any) -> tuple[Tensor, Tensor, Any]:
    """Sliding-window attention over the last PAST tokens and oneself, two fast MLPs, squared error of the output."""
    like = fast["up"]
    outer = {name: w.to(like) for name, w in outer.items()}
    x, target = inputs["x"].to(like), inputs["target"].to(like)
    n = x.shape[0]
    key = torch.cat([carry["key"], x @ outer["key"]])
    value = torch.cat([carry["value"], x @ outer["value"]])
    there = torch.cat([carry["there"], torch.ones(n, dtype=torch.bool)])
    token, source = torch.arange(n)[:, None], torch.arange(PAST + n)[None]
    mask = (source <= token + PAST) & (source >= token) & there[None]
    # SDPA wants batch and heads.
    mixed = F.scaled_dot_product_attention(
        (x @ outer["query"])[None, None], key[None, None], value[None, None], attn_mask=mask[None, None]
    )[0, 0]
    x = x + mixed
    x = x + torch.tanh(x @ fast["up"] + fast["bias"]) @ fast["down"]
    x = x + torch.tanh(x @ fast["slow"])
    out = x @ outer["out"]
    carry = {"key": key[-PAST:], "value": value[-PAST:], "there": there[-PAST:]}
    return (out - target).square().sum(-1), out, carry


def fast_weights(generator: torch.Generator) -> Weights:
    """Initial fast weights, float64."""
    shapes = {"up": (WIDTH, HIDDEN), "bias": (HIDDEN,), "down": (HIDDEN, WIDTH), "slow": (WIDTH, WIDTH)}
    return {name: 0.5 * randn(*shape, generator=generator) for name, shape in shapes.items()}


def _rule(
    name: str,
    levels: Level | Sequence[Level],
    *,
    chunk: int,
    length: int | None = None,
    second_order: bool = True,
) -> Rule:
    settings: dict[str, Any] = {"levels": levels, "second_order": second_order, "chunk": chunk}

    def tokens(batch: int, count: int, generator: torch.Generator) -> Tokens:
        return {
            "x": randn(batch, count, WIDTH, generator=generator),
            "target": randn(batch, count, WIDTH, generator=generator),
        }

    def start(initial: Weights, batch: int):
        carry = first_carry(batch, initial["up"])
        return init(initial, batch, levels=levels, carry=carry, chunk=chunk, length=length)

    def scan(form):
        def run(state, **inputs):
            outer = outer_weights()
            losses, outputs, after = form(step, outer, inputs, state, **settings)
            return torch.cat([outputs, losses[..., None]], -1), after

        return run

    return Rule(
        name=f"endtoend {name}",
        tokens=tokens,
        initial=fast_weights,
        start=start,
        recurrent=scan(recurrent),
        chunked=scan(chunked),
        chunk=chunk,
        time=1,
    )


_quick, _slow = ("up", "bias", "down"), ("slow",)

RULES = [
    _rule("one level", Level(period=3, rate=0.3, clip=1.0), chunk=3),
    _rule("token by token", Level(period=1, rate=0.1), chunk=1),
    _rule(
        "two levels",
        (
            Level(period=2, names=_quick, rate=0.2, clip=0.5, decay=0.9),
            Level(period=4, names=_slow, rate=0.05, average=False),
        ),
        chunk=2,
    ),
    _rule(
        "optimizers",
        (
            Level(period=3, names=_quick, rate=0.2, momentum=0.8, optimizer=Momentum()),
            Level(period=6, names=_slow, rate=0.1, momentum=0.5, optimizer=NewtonSchulz(2)),
        ),
        chunk=3,
    ),
    _rule("adam", Level(period=4, rate=0.1, optimizer=Adam(eps=1e-4)), chunk=4),
    _rule(
        "shared level",
        (Level(period=3, names=_quick, rate=0.2), Level(period=60, names=_slow)),
        chunk=3,
        length=60,
    ),
]
