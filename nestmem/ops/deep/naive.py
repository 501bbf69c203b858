"""The rule as the papers print it: token after token, the inner gradient taken by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from nestmem.core import L2, MLP, Gates, MemoryState, Objective
from nestmem.core.checks import check_written
from nestmem.core.model import Weights
from nestmem.core.optimizer import like
from nestmem.ops.deep.state import checked
from nestmem.ops.derivative import own_arithmetic


@own_arithmetic
def recurrent(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    gates: Gates,
    state: MemoryState,
    *,
    model: MLP,
    objective: Objective | None = None,
    chunk: int = 64,
    window: int = 1,
    scale: Tensor | None = None,
    check: bool = True,
) -> tuple[Tensor, MemoryState]:
    """Arguments, result and errors of `chunked`; the definition it must agree with."""
    objective = L2() if objective is None else objective
    gates = checked(queries, keys, values, gates, state, model, objective, chunk, window, scale, check)
    kind, given = state.weights["0"].dtype, queries.dtype
    queries, keys, values = (x.to(kind) for x in (queries, keys, values))
    gates = gates.to(kind)
    outputs = []
    for t in range(keys.shape[2]):
        k, v, q = keys[:, :, t : t + 1], values[:, :, t : t + 1], queries[:, :, t : t + 1]
        if state.position % chunk == 0:
            state = state.replace(anchor=state.weights)
        assert state.anchor is not None
        past_k, past_v = k, v
        if window > 1:
            assert state.recent is not None
            past_k, past_v = torch.cat([state.recent[0], k], 2), torch.cat([state.recent[1], v], 2)

        def loss(at: Weights, i: int, past_k=past_k, past_v=past_v, t=t) -> Tensor:
            threshold = None if gates.threshold is None else gates.threshold[:, :, t : t + 1]
            return objective.loss(
                model(at, past_k[:, :, i : i + 1]), past_v[:, :, i : i + 1], threshold
            ).sum()

        g = {n: torch.zeros_like(w) for n, w in state.weights.items()}
        for back in range(min(window, state.position + 1)):
            one = torch.ones_like(state.weights["0"][:, :, 0, 0])
            weight = one if gates.window is None else gates.window[:, :, t, back]
            for n, part in torch.func.grad(loss)(state.anchor, window - 1 - back).items():
                g[n] = g[n] + like(weight, part) * part

        rate, decay, momentum = (x[:, :, t] for x in (gates.rate, gates.decay, gates.momentum))  # pyright: ignore
        slots = state.slots
        if scale is not None:
            total = {n: a - like(rate, a) * g[n] for n, a in slots["sum"].items()}
            weights = {n: w + like(scale[:, :, t], w) * total[n] for n, w in state.anchor.items()}
            ends = (state.position + 1) % chunk == 0
            slots = {"sum": {n: torch.zeros_like(a) if ends else a for n, a in total.items()}}
        elif "momentum" in slots:
            s = {n: like(momentum, m) * m - like(rate, m) * g[n] for n, m in slots["momentum"].items()}
            weights = {n: like(decay, w) * w + s[n] for n, w in state.weights.items()}
            slots = {"momentum": s}
        else:
            weights = {n: like(decay, w) * w - like(rate, w) * g[n] for n, w in state.weights.items()}
        recent = (past_k[:, :, 1:], past_v[:, :, 1:]) if window > 1 else None
        state = state.replace(
            weights=weights, slots=slots, recent=recent, position=state.position + 1, chunk=chunk
        )
        outputs.append(model(weights, q))
    check_written(state, check)
    return torch.cat(outputs, 2).to(given), state
