"""The delta rule with and without decay, unit keys, and negative eigenvalues."""

from functools import partial

import torch
from torch import Tensor

from nestmem.core import L2, Gates, GradientDescent, Linear, Memory, Period, unit
from nestmem.ops import delta
from tests.ops.rules import Rule, Tokens, Weights, randn, uniform, unit_rows

H, K, V = 2, 3, 5
MEMORY = Memory(model=Linear(K, V), objective=L2(0.5), optimizer=GradientDescent(), period=Period(1))


def tokens(
    decay: bool, normalize: bool, highest: float, batch: int, length: int, generator: torch.Generator
) -> Tokens:
    keys = randn if normalize else unit_rows
    made = {
        "queries": randn(batch, H, length, K, generator=generator),
        "keys": keys(batch, H, length, K, generator=generator),
        "values": randn(batch, H, length, V, generator=generator),
        "rate": uniform(0.1, highest, batch, H, length, generator=generator),
    }
    if decay:
        made["decay"] = uniform(0.2, 1.0, batch, H, length, generator=generator)
    return made


def initial(generator: torch.Generator) -> Weights:
    return {"0": randn(H, K, V, generator=generator)}


def start(weights: Weights, batch: int):
    return delta.init(batch, H, K, V, weights=weights)


def run(scan, state, **inputs: Tensor):
    return scan(state=state, **inputs)


def defined(state, *, chunked: bool, normalize: bool, **inputs: Tensor):
    """decay S - decay rate k^T (k S - v / decay), the gradient step that the gated rule is."""
    q, k, v = inputs["queries"], inputs["keys"], inputs["values"]
    q, k = (unit(q), unit(k)) if normalize else (q, k)
    decay = inputs.get("decay", torch.ones_like(inputs["rate"]))
    gates = Gates(rate=inputs["rate"] * decay, decay=decay)
    return MEMORY.scan(state, q, k, v / decay[..., None], gates, chunked=chunked)


def rule(name: str, chunk: int, *, decay: bool, normalize: bool = False, negative: bool = False) -> Rule:
    options = {"normalize": normalize, "negative_eigenvalues": negative}
    return Rule(
        name=f"delta {name}",
        tokens=partial(tokens, decay, normalize, 2.0 if negative else 1.0),
        initial=initial,
        start=start,
        recurrent=partial(run, partial(delta.recurrent, **options)),
        chunked=partial(run, partial(delta.chunked, chunk=chunk, **options)),
        chunk=chunk,
        definition=MEMORY,
        defined=partial(defined, normalize=normalize),
    )


RULES = [
    rule("DeltaNet", 3, decay=False),
    rule("Gated DeltaNet", 4, decay=True),
    rule("Gated DeltaNet, normalised keys", 3, decay=True, normalize=True),
    rule("Gated DeltaNet, negative eigenvalues", 3, decay=True, negative=True),
    rule("DeltaNet, negative eigenvalues, normalised keys", 4, decay=False, normalize=True, negative=True),
]
