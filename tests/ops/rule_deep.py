"""Settings of the deep memory: Titans, TTT, DLA, Omega, Miras' biases."""

from collections.abc import Callable
from typing import Any

import torch

from nestmem.core import L2, MLP, Dot, Gates, Huber, Lp, Memory, Momentum, Objective, Period
from nestmem.core.optimizer import GradientDescent
from nestmem.ops import deep
from tests.ops.rules import Rule, randn, uniform, unit_rows

HEADS, CHUNK = 2, 3


def rule(
    name: str,
    model: MLP,
    objective: Objective | None = None,
    *,
    gates: tuple[str, ...] = ("rate", "decay"),
    window: int = 1,
    rate: float = 0.3,
    **more: Any,
) -> Rule:
    objective = objective or L2()
    momentum, averaged = "momentum" in gates, "scale" in gates
    k, v = model.sizes[0], model.sizes[-1]

    def initial(generator: torch.Generator) -> dict:
        shapes = {}
        for layer, (i, o) in enumerate(zip(model.sizes[:-1], model.sizes[1:], strict=True)):
            shapes[str(layer)] = (HEADS, i, o)
            if model.bias:
                shapes[f"{layer}.bias"] = (HEADS, o)
        return {n: 0.5 * randn(*shape, generator=generator) for n, shape in shapes.items()}

    def tokens(batch: int, t: int, generator: torch.Generator) -> dict:
        at = (batch, HEADS, t)
        made = {
            "queries": unit_rows(*at, k, generator=generator),
            "keys": unit_rows(*at, k, generator=generator),
            "values": randn(*at, v, generator=generator),
            "rate": uniform(0.05, rate, *at, generator=generator),
            "decay": uniform(0.6, 1.0, *at, generator=generator),
            "momentum": uniform(0.2, 0.9, *at, generator=generator),
            "scale": uniform(0.2, 1.0, *at, generator=generator),
            "threshold": uniform(0.3, 1.5, *at, generator=generator),
        }
        kept = {n: x for n, x in made.items() if n in (*gates, "queries", "keys", "values")}
        if window > 1:
            kept["window"] = uniform(0.1, 1.0, *at, window, generator=generator)
        return kept

    def split(inputs: dict) -> tuple[dict, dict]:
        named = {n: x for n, x in inputs.items() if n in ("queries", "keys", "values", "scale")}
        return named, {n: x for n, x in inputs.items() if n not in named}

    def scan(form: Callable) -> Callable:
        def run(state, **inputs):
            named, gated = split(inputs)
            settings = {"model": model, "objective": objective, "chunk": CHUNK, "window": window}
            return form(**named, gates=Gates(**gated), state=state, **settings)

        return run

    optimizer = Momentum() if momentum else GradientDescent()
    definition = Memory(
        model=model, objective=objective, optimizer=optimizer, period=Period(chunk=CHUNK, window=window)
    )

    def defined(state, chunked, **inputs):
        named, gated = split(inputs)
        return definition.scan(state, **named, gates=Gates(**gated), chunked=chunked)

    return Rule(
        name=f"deep {name}",
        tokens=tokens,
        initial=initial,
        start=lambda first, batch: deep.init(
            model, batch, weights=first, momentum=momentum, averaged=averaged, window=window
        ),
        recurrent=scan(deep.recurrent),
        chunked=scan(deep.chunked),
        chunk=CHUNK,
        definition=None if averaged else definition,
        defined=None if averaged else defined,
        **more,
    )


TITANS = ("rate", "decay", "momentum")
RULES = [
    rule("titans", MLP(sizes=(3, 5, 3), residual=True), gates=TITANS),
    rule("titans matrix", MLP(sizes=(3, 4)), gates=TITANS),
    rule("titans three layers silu", MLP(sizes=(3, 4, 5, 2), activation="silu"), gates=TITANS),
    rule("without momentum", MLP(sizes=(3, 5, 3), residual=True)),
    rule("without decay", MLP(sizes=(3, 5, 3), residual=True), gates=("rate",)),
    rule("dla", MLP(sizes=(3, 5, 4)), Dot()),
    rule(
        "ttt-linear",
        MLP(sizes=(3, 3), residual=True, norm=True, bias=True),
        gates=("rate", "scale"),
        rate=0.2,
    ),
    rule(
        "ttt-mlp",
        MLP(sizes=(3, 6, 3), activation="gelu_tanh", residual=True, norm=True, bias=True),
        gates=("rate", "scale"),
        rate=0.2,
    ),
    rule("omega", MLP(sizes=(3, 5, 3), residual=True), window=3, rate=0.15),
    rule("omega with momentum", MLP(sizes=(3, 5, 3), residual=True), gates=TITANS, window=2, rate=0.15),
    rule("omega wider than the chunk", MLP(sizes=(3, 4)), window=5, rate=0.1),
    rule(
        "yaad", MLP(sizes=(3, 5, 3), residual=True, norm=True), Huber(), gates=("rate", "decay", "threshold")
    ),
    rule("moneta", MLP(sizes=(3, 5, 3), residual=True, norm=True), Lp(p=3.0, smooth=1e-3), rate=0.1),
]
