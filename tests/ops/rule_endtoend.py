"""The end-to-end rules of the shared matrix: a small attention block with a cache and fast MLPs, and memories inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nestmem.core import Adam, Gates, Linear, Momentum, NewtonSchulz
from nestmem.ops import deep, delta
from nestmem.ops.endtoend import Level, chunked, init, recurrent
from nestmem.ops.endtoend.levels import Step
from nestmem.optim.inner import DMGD, M3, Muon
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


DEEP = Linear(WIDTH, WIDTH)


def memories(batch: int, like: Tensor) -> dict[str, Any]:
    """A last token and two memories without a token, a delta rule's and a deep one's."""
    empty = like.new_zeros(1, WIDTH, WIDTH)
    return {
        "last": like.new_zeros(batch, WIDTH),
        "delta": delta.init(batch, 1, WIDTH, WIDTH, weights={"0": empty}),
        "deep": deep.init(DEEP, batch, weights={"0": empty}, momentum=True),
    }


def remembering(outer: Any, fast: Weights, inputs: Any, carry: Any) -> tuple[Tensor, Tensor, Any]:
    """The two memories in turn, with fast weights before, between and after them; their positions go on."""
    like = fast["up"]
    outer = {name: w.to(like) for name, w in outer.items()}
    x, target = inputs["x"].to(like), inputs["target"].to(like)
    before = torch.cat([carry["last"][None], x[:-1]])
    z = torch.tanh(x @ fast["up"] + fast["bias"]) @ fast["down"]
    # A memory wants batch and heads, which this sequence has not.
    q, k, v = ((z @ outer[n])[None, None] for n in ("query", "key", "value"))
    first, quick = delta.chunked(
        q, k, v, rate=0.5, decay=0.9, state=carry["delta"].map(lambda s: s[None]), normalize=True, chunk=2
    )
    z = before + torch.tanh(first[0, 0] @ fast["slow"])
    q, k, v = ((z @ outer[n])[None, None] for n in ("key", "value", "query"))
    state = carry["deep"].map(lambda s: s[None])
    second, slow = deep.chunked(q, k, v, Gates(rate=0.1, momentum=0.5), state, model=DEEP, chunk=2)
    out = (z + second[0, 0]) @ outer["out"]
    states = {"delta": quick.map(lambda s: s[0]), "deep": slow.map(lambda s: s[0])}
    return (out - target).square().sum(-1), out, {"last": x[-1]} | states


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
    step: Step = step,
    carry: Callable[[int, Tensor], Any] = first_carry,
) -> Rule:
    settings: dict[str, Any] = {"levels": levels, "second_order": second_order, "chunk": chunk}

    def tokens(batch: int, count: int, generator: torch.Generator) -> Tokens:
        return {
            "x": randn(batch, count, WIDTH, generator=generator),
            "target": randn(batch, count, WIDTH, generator=generator),
        }

    def start(initial: Weights, batch: int):
        begin = carry(batch, initial["up"])
        return init(initial, batch, levels=levels, carry=begin, chunk=chunk, length=length)

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
    _rule(
        "nested",
        (
            Level(period=2, names=_quick, rate=0.3, clip=0.5, restart=4, restart_rate=0.2),
            Level(period=4, names=_slow, rate=0.05, average=False),
        ),
        chunk=2,
    ),
    _rule(
        "nested optimizers",
        (
            Level(period=1, names=_quick, rate=0.2, momentum=0.8, optimizer=Momentum(), restart=2),
            Level(period=2, names=_slow, rate=0.1, optimizer=Adam(eps=1e-2), restart=2, restart_rate=0.3),
        ),
        chunk=1,
    ),
    _rule(
        "counting and drawing optimizers",
        (
            Level(period=1, names=("up", "bias"), rate=0.1, momentum=0.5, optimizer=M3(period=2, steps=2)),
            Level(period=2, names=("down",), rate=0.1, momentum=0.5, optimizer=DMGD(hidden=3)),
            Level(period=2, names=_slow, rate=0.1, momentum=0.5, optimizer=Muon(steps=2), restart=2),
        ),
        chunk=1,
    ),
    _rule(
        "memories in the carry",
        (
            Level(period=3, names=_quick, rate=0.2, clip=0.5),
            Level(period=6, names=_slow, rate=0.1),
        ),
        chunk=3,
        step=remembering,
        carry=memories,
    ),
]
