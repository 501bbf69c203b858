"""The muon rules of the shared matrix: Atlas' step per token and LaCT's per chunk."""

from __future__ import annotations

from typing import Any

import torch

from nestmem.core import L2, MLP, Dot, Gates, Huber, Memory, Model, NewtonSchulz, Objective, Period
from nestmem.core.optimizer import Momentum
from nestmem.ops.muon import Gated, chunked, init, recurrent
from tests.ops.rules import Rule, Tokens, Weights, randn, uniform, unit_rows

H = 2


def _rule(
    name: str,
    model: Model,
    *,
    key: int = 3,
    value: int = 5,
    chunk: int = 3,
    per: str = "token",
    objective: Objective = L2(),  # noqa: B008
    window: int = 1,
    steps: int | None = 5,
    renormalize: bool = False,
    definition: Memory | None = None,
) -> Rule:
    settings: dict[str, Any] = {"model": model, "objective": objective, "chunk": chunk, "per": per}
    settings |= {"window": window, "steps": steps, "renormalize": renormalize}

    def tokens(batch: int, count: int, generator: torch.Generator) -> Tokens:
        made = {
            "queries": unit_rows(batch, H, count, key, generator=generator),
            "keys": unit_rows(batch, H, count, key, generator=generator),
            "values": randn(batch, H, count, value, generator=generator),
            "rate": uniform(0.1, 0.5, batch, H, count, generator=generator),
            "decay": uniform(0.8, 1.0, batch, H, count, generator=generator),
            "momentum": uniform(0.3, 0.9, batch, H, count, generator=generator),
        }
        if window > 1:
            made["window"] = uniform(0.2, 1.0, batch, H, count, window, generator=generator)
        if isinstance(objective, Huber):
            made["threshold"] = uniform(0.3, 1.5, batch, H, count, generator=generator)
        return made

    def initial(generator: torch.Generator) -> Weights:
        shapes = model.init(1, H, generator=generator, dtype=torch.float64)
        # Biases and matrix memories start at zero, which would hide what their initial values do.
        return {n: w[0] + 0.3 * randn(*w[0].shape, generator=generator) for n, w in shapes.items()}

    def start(initial: Weights, batch: int):
        return init(model, batch, H, weights=initial, per=per, window=window)  # pyright: ignore[reportArgumentType]

    def scan(form):
        def run(state, *, queries, keys, values, **gates):
            return form(queries, keys, values, Gates(**gates), state, **settings)

        return run

    def defined(state, *, chunked: bool, queries, keys, values, **gates):
        assert definition is not None
        if "gradient" in state.slots:
            state = state.replace(slots={"momentum": state.slots["momentum"]}, anchor=state.weights)
        return definition.scan(state, queries, keys, values, Gates(**gates), chunked=chunked)

    return Rule(
        name=f"muon {name}",
        tokens=tokens,
        initial=initial,
        start=start,
        recurrent=scan(recurrent),
        chunked=scan(chunked),
        chunk=chunk,
        definition=definition,
        defined=defined if definition is not None else None,
    )


def _atlas(
    model: Model,
    chunk: int,
    window: int = 1,
    objective: Objective = L2(),  # noqa: B008
    steps: int = 5,
) -> Memory:
    return Memory(
        model=model,
        objective=objective,
        optimizer=NewtonSchulz(steps),
        period=Period(chunk=chunk, window=window),
    )


_mlp = MLP(sizes=(3, 4, 5))
_deep = MLP(sizes=(3, 4, 4, 3), residual=True, norm=True, bias=True, activation="silu")
_gated = Gated(3, 4, 5)

RULES = [
    _rule("token mlp", _mlp, definition=_atlas(_mlp, 3)),
    # Three iterations: a momentum of one token has rank 1, and the derivative of five in its null space amplifies
    # rounding by 3.4445^5 per token.
    _rule("token deep window", _deep, value=3, window=3, steps=3, definition=_atlas(_deep, 3, 3, steps=3)),
    _rule("token gated dot", _gated, objective=Dot(), definition=_atlas(_gated, 3, objective=Dot())),
    _rule(
        "token without iterations",
        _mlp,
        window=2,
        steps=None,
        definition=Memory(model=_mlp, optimizer=Momentum(), period=Period(chunk=3, window=2)),
    ),
    _rule("token huber", _mlp, objective=Huber(), steps=3, definition=_atlas(_mlp, 3, 1, Huber(), 3)),
    _rule(
        "token window wider than the chunk", _mlp, window=5, steps=3, definition=_atlas(_mlp, 3, 5, steps=3)
    ),
    _rule("chunk mlp", _mlp, per="chunk"),
    _rule("chunk huber", _mlp, per="chunk", objective=Huber()),
    _rule("chunk deep renormalized", _deep, value=3, per="chunk", renormalize=True),
    _rule("chunk gated renormalized", _gated, per="chunk", chunk=4, objective=Dot(), renormalize=True),
    _rule(
        "chunk of one token",
        _mlp,
        per="chunk",
        chunk=1,
        definition=Memory(model=_mlp, optimizer=NewtonSchulz(), period=Period(chunk=1, read="previous")),
    ),
]
