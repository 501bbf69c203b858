"""Self-modifying Titans in several settings, for the shared matrix."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from nestmem.core import L2, Dot, Huber
from nestmem.ops import selfmod
from tests.ops.rules import Rule, Tokens, Weights, randn, unit_rows

HEADS, DIM = 2, 3


def readout(dtype: torch.dtype) -> selfmod.Readout:
    generator = torch.Generator().manual_seed(3)
    made = selfmod.Readout.init(HEADS, DIM, rate=0.1, decay=0.8, generator=generator, dtype=torch.float64)
    # Larger read-outs than at the start of training, so that the gates differ between tokens.
    return made.replace(rate_weight=made.rate_weight * 5, decay_weight=made.decay_weight * 5).to(dtype)


def tokens(batch: int, length: int, generator: torch.Generator) -> Tokens:
    queries = unit_rows(batch, HEADS, length, DIM, generator=generator)
    return {"queries": queries, "x": 0.6 * randn(batch, HEADS, length, DIM, generator=generator)}


def initial(hidden: int, depth: int, adaptive_q: bool, generator: torch.Generator) -> Weights:
    state = selfmod.init(
        1,
        HEADS,
        dim=DIM,
        hidden=hidden,
        depth=depth,
        adaptive_q=adaptive_q,
        generator=generator,
        dtype=torch.float64,
    )
    return {name: w[0].clone() for name, w in state.weights.items()}


def start(weights: Weights, batch: int) -> Any:
    return selfmod.init(batch, weights=weights)


def rule(
    name: str, chunk: int = 4, hidden: int = 5, depth: int = 2, adaptive_q: bool = False, **options: Any
) -> Rule:
    def scan(function: Any, state: Any, **inputs: Any) -> Any:
        return function(
            inputs["queries"], inputs["x"], readout(inputs["x"].dtype), state, chunk=chunk, **options
        )

    return Rule(
        name=f"selfmod {name}",
        tokens=tokens,
        initial=partial(initial, hidden, depth, adaptive_q),
        start=start,
        recurrent=partial(scan, selfmod.recurrent),
        chunked=partial(scan, selfmod.chunked),
        chunk=chunk,
    )


RULES = [
    rule("mlp", chunk=3),
    rule("sequential", chunk=1, hidden=2),
    rule("unit-values", chunk=3, unit_values=True),
    rule("slow-memory", chunk=4, chunk_aux=2),
    rule("slow-others", chunk=2, chunk_aux=4, activation="silu"),
    rule("dot", objective=Dot(), hidden=3),
    rule("half-square", objective=L2(0.5), activation="gelu_tanh"),
    rule("token-reads", chunk=3, read="token"),
    rule("adaptive-token-reads", chunk=3, chunk_aux=1, read="token", adaptive_q=True),
    rule("linear", chunk=3, depth=1),
    rule("linear-token-reads", depth=1, read="token", adaptive_q=True, chunk_aux=2),
    # pieces of one token
    rule("sequential-token-reads", chunk=1, read="token", unit_values=True),
    rule("sequential-dot", chunk=1, objective=Dot(), activation="silu"),
    rule("sequential-slow-memory", chunk=3, chunk_aux=1, read="token", objective=Dot()),
    rule("sequential-linear", chunk=1, depth=1, unit_values=True),
    rule("sequential-linear-dot", chunk=1, depth=1, read="token", objective=Dot()),
    rule("sequential-linear-huber", chunk=1, depth=1, read="token", objective=Huber(0.3), adaptive_q=True),
]
