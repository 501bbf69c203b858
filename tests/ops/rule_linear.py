"""Linear attention with each kind of decay."""

from functools import partial

import torch
from torch import Tensor

from nestmem.core import Dot, Gates, GradientDescent, Linear, Memory, Period
from nestmem.ops import linear
from tests.ops.rules import Rule, Tokens, Weights, randn, uniform

H, K, V = 2, 3, 5
SCALE = 0.7
MEMORY = Memory(model=Linear(K, V), objective=Dot(), optimizer=GradientDescent(), period=Period(1))


def tokens(decay: str | None, batch: int, length: int, generator: torch.Generator) -> Tokens:
    made = {
        "queries": randn(batch, H, length, K, generator=generator),
        "keys": randn(batch, H, length, K, generator=generator),
        "values": randn(batch, H, length, V, generator=generator),
    }
    if decay == "token":
        made["decay"] = uniform(0.2, 1.0, batch, H, length, generator=generator)
    elif decay == "channel":
        made["decay"] = uniform(0.05, 1.0, batch, H, length, K, generator=generator)
    return made


def initial(generator: torch.Generator) -> Weights:
    return {"0": randn(H, K, V, generator=generator)}


def start(weights: Weights, batch: int):
    return linear.init(batch, H, K, V, weights=weights)


def run(scan, state, *, head_decay: bool = False, **inputs: Tensor):
    if head_decay:
        inputs["decay"] = linear.retention_decay(H, dtype=torch.float64)
    return scan(state=state, scale=SCALE, **inputs)


def defined(state, *, chunked: bool, head_decay: bool = False, **inputs: Tensor):
    decay: Tensor | float = inputs.get("decay", 1.0)
    if head_decay:
        per_head = linear.retention_decay(H, dtype=torch.float64)
        decay = per_head[None, :, None].expand(inputs["keys"].shape[:3])
    return MEMORY.scan(
        state,
        SCALE * inputs["queries"],
        inputs["keys"],
        inputs["values"],
        Gates(decay=decay),
        chunked=chunked,
    )


def rule(name: str, decay: str | None, chunk: int) -> Rule:
    head = decay == "head"
    # A decay per channel is no gate of core's optimizers.
    core = decay != "channel"
    return Rule(
        name=f"linear {name}",
        tokens=partial(tokens, decay),
        initial=initial,
        start=start,
        recurrent=partial(run, linear.recurrent, head_decay=head),
        chunked=partial(run, partial(linear.chunked, chunk=chunk), head_decay=head),
        chunk=chunk,
        definition=MEMORY if core else None,
        defined=partial(defined, head_decay=head) if core else None,
    )


RULES = [
    rule("plain", None, 3),
    rule("RetNet", "head", 4),
    rule("decay by token", "token", 3),
    rule("GLA", "channel", 4),
]
