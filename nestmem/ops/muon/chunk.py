"""Muon memories, a chunk of tokens at a time.

Legend of shapes: B batch, H heads, T tokens, C tokens of a piece, K key width, V value width, I and O a matrix's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nestmem.core import L2, MLP, Gates, MemoryState, Model, Objective, Period, Weights, newton_schulz
from nestmem.core.checks import check_written
from nestmem.core.optimizer import like
from nestmem.ops.derivative import own_arithmetic
from nestmem.ops.gates import banded, gate_products
from nestmem.ops.muon.gated import Gated
from nestmem.ops.muon.start import Per, accept
from nestmem.ops.recompute import recomputed


@own_arithmetic
def chunked(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    gates: Gates,
    state: MemoryState,
    *,
    model: Model,
    objective: Objective | None = None,
    chunk: int = 64,
    window: int = 1,
    per: Per = "token",
    steps: int | None = 5,
    renormalize: bool = False,
    checkpoint: bool = True,
    check: bool = True,
) -> tuple[Tensor, MemoryState]:
    """Write the Newton-Schulz iterate NS of the momentum and read.

    With g_t(W) the gradient of the objective at token t, W' the weights before t's chunk:

        per="token"   S_t = momentum_t S_{t-1} - rate_t sum_{j<window} window_{t,j} g_{t-j}(W')
                      W_t = decay_t W_{t-1} + NS(S_t),       y_t = M(W_t; q_t)
        per="chunk"   S = mean_t(momentum_t) S' - sum_t rate_t g_t(W')
                      W = prod_t(decay_t) W' + NS(S),        y_t = M(W'; q_t)

    with sums, mean and product over the tokens of a full chunk. "token" is Atlas as printed; "chunk" is LaCT, a
    different algorithm that iterates once per chunk. `renormalize` then returns every column of a matrix (the weights
    into one output) to the norm it had at the start. Biases take S without the iteration.

    queries, keys [B, H, T, K], values [B, H, T, V]; half precision is computed in the state's float32.
    gates [B, H, T] or numbers (`core.Gates`), and Gates.window [B, H, T, window] where `window` is above 1
    state from `init` with the same `per` and `window`, or returned by an earlier call; it may stand inside a chunk
    chunk tokens whose gradients are taken at one state
    window tokens that one write looks at, its own and those before it (Omega rule); per="token" only
    steps Newton-Schulz iterations; None writes S itself (Titans; arXiv 2501.00663, eq. 13-14)
    checkpoint=True does not keep the iterations of per="token" for backward but repeats them: a fifth of the memory,
               at no more time on CPU
    check=False skips the look at the numbers (nan, ranges), not at the shapes

    Returns outputs [B, H, T, V] in the queries' dtype, and the state after the last token.

    Raises InputError for shapes, kinds, numbers outside their range, and nan (with its place), in the tokens, the
    gates and the state.

    Atlas, arXiv 2505.23735, section 5; LaCT ("Test-Time Training Done Right"), arXiv 2505.23884. The scale of `rate`
    drops out where momentum is 0, because NS has a fixed size; a rate then says how tokens compare with one another.

    >>> from nestmem.ops.muon import init
    >>> model = MLP(sizes=(4, 8, 4))
    >>> state = init(model, batch=1, heads=2, per="chunk")
    >>> x = torch.randn(1, 2, 10, 4)
    >>> y, state = chunked(x, x, x, Gates(decay=0.99), state, model=model, per="chunk", chunk=4)
    >>> y.shape, state.position
    (torch.Size([1, 2, 10, 4]), 10)
    """
    objective = L2() if objective is None else objective
    q, k, v, gates, state = accept(
        queries,
        keys,
        values,
        gates,
        state,
        model=model,
        objective=objective,
        chunk=chunk,
        window=window,
        per=per,
        steps=steps,
        renormalize=renormalize,
        check=check,
    )
    outputs = []
    for start, stop in Period(chunk=chunk).pieces(state.position, k.shape[2]):
        cut = gates.slice(start, stop)
        piece = (q[:, :, start:stop], k[:, :, start:stop], v[:, :, start:stop], cut)
        if per == "token":
            out, state = _tokens(state, *piece, model, objective, chunk, steps, checkpoint)
        else:
            out, state = _chunk(state, *piece, model, objective, chunk, steps, renormalize)
        outputs.append(out)
    check_written(state, check)
    return torch.cat(outputs, dim=2).to(queries.dtype), state


def _tokens(
    state: MemoryState,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    model: Model,
    objective: Objective,
    chunk: int,
    steps: int | None,
    checkpoint: bool,
) -> tuple[Tensor, MemoryState]:
    """Tokens of one chunk, a matrix for each: the momenta are a mixture of gradients, the weights one of iterates."""
    assert isinstance(gates.rate, Tensor)
    assert isinstance(gates.decay, Tensor)
    assert isinstance(gates.momentum, Tensor)
    anchor = state.weights if state.position % chunk == 0 else state.anchor
    assert anchor is not None
    tokens, recent, missing = q.shape[2], None, 0
    if state.recent is not None:
        k, v = torch.cat([state.recent[0], k], dim=2), torch.cat([state.recent[1], v], dim=2)
        recent = k[:, :, tokens:], v[:, :, tokens:]
        # Before the sequence's first token there is nothing, not even a gradient with weight 0.
        missing = max(0, recent[0].shape[2] - state.position)
    gradients, _ = model.gradients(anchor, k[:, :, missing:], v[:, :, missing:], objective, gates.threshold)

    between, kept_momentum, _ = gate_products(gates.momentum)
    momenta = between * gates.rate[..., None, :]
    if gates.window is not None:
        momenta = momenta @ banded(gates.window)[..., missing:]
    kept_momentum = kept_momentum[..., None]
    decays, kept, _ = gate_products(gates.decay)
    kept = kept[..., None]
    weights, last = {}, {}
    for name, w in state.weights.items():
        old = state.slots["momentum"][name]
        s = kept_momentum * old.flatten(2)[:, :, None] - momenta @ gradients[name].flatten(3)
        s = s.unflatten(-1, old.shape[2:])
        if steps is None or name.endswith("bias"):
            step = s
        else:
            step = recomputed(newton_schulz, s, steps) if checkpoint else newton_schulz(s, steps)
        each = kept * w.flatten(2)[:, :, None] + decays @ step.flatten(3)
        weights[name], last[name] = each.unflatten(-1, w.shape[2:]), s[:, :, -1]

    # Tokens become a part of the batch, [B C, H, 1, K]; what a model holds per head then still meets the heads.
    reads = model(
        {n: w.transpose(1, 2).flatten(0, 1) for n, w in weights.items()},
        q.transpose(1, 2).flatten(0, 1)[:, :, None],
    )
    after = state.replace(
        weights={n: w[:, :, -1] for n, w in weights.items()},
        slots={"momentum": last},
        anchor=anchor,
        recent=recent,
        position=state.position + tokens,
        chunk=chunk,
    )
    return reads[:, :, 0].unflatten(0, (-1, tokens)).transpose(1, 2), after


def _chunk(
    state: MemoryState,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    model: Model,
    objective: Objective,
    chunk: int,
    steps: int | None,
    renormalize: bool,
) -> tuple[Tensor, MemoryState]:
    """Tokens of one chunk: reads at its first weights, its gradient in one matmul per matrix, one step at its end."""
    assert isinstance(gates.rate, Tensor)
    assert isinstance(gates.decay, Tensor)
    assert isinstance(gates.momentum, Tensor)
    weights, position = state.weights, state.position + q.shape[2]
    outputs = model(weights, q)
    new = _summed(model, weights, k, v, objective, gates.rate, gates.threshold)
    gradient = {n: g + new[n] for n, g in state.slots["gradient"].items()}
    so_far = state.slots["gates"]
    decay = so_far["decay"] * gates.decay.prod(-1)
    momentum = so_far["momentum"] + gates.momentum.sum(-1) / chunk
    slots = state.slots | {"gradient": gradient, "gates": {"decay": decay, "momentum": momentum}}
    if position % chunk == 0:
        s = {n: like(momentum, g) * state.slots["momentum"][n] - g for n, g in gradient.items()}
        step = {
            n: x if steps is None or n.endswith("bias") else newton_schulz(x, steps) for n, x in s.items()
        }
        weights = {n: like(decay, w) * w + step[n] for n, w in weights.items()}
        if renormalize:
            weights = weights | {
                n: weights[n] * (size * (weights[n].square().sum(-2, keepdim=True) + 1e-12).rsqrt())
                for n, size in state.slots["norm"].items()
            }
        slots = {
            "momentum": s,
            "gradient": {n: torch.zeros_like(g) for n, g in gradient.items()},
            "gates": {"decay": torch.ones_like(decay), "momentum": torch.zeros_like(momentum)},
            "norm": state.slots["norm"],
        }
    return outputs, state.replace(weights=weights, slots=slots, position=position, chunk=chunk)


def _summed(
    model: Model,
    weights: Weights,
    k: Tensor,
    v: Tensor,
    objective: Objective,
    rate: Tensor,
    threshold: Tensor | None,
) -> Weights:
    """sum_t rate_t g_t: X^T diag(rate) D per matrix where the model factors its gradient."""
    if isinstance(model, MLP):
        inputs, errors = model.factors(weights, k, v, objective, threshold)
        factors = {str(i): pair for i, pair in enumerate(zip(inputs, errors, strict=True))}
    elif isinstance(model, Gated):
        factors = model.factors(weights, k, v, objective, threshold)
    else:
        gradients, _ = model.gradients(weights, k, v, objective, threshold)
        return {
            n: (rate[:, :, None] @ g.flatten(3))[:, :, 0].unflatten(-1, g.shape[3:])
            for n, g in gradients.items()
        }
    total: Weights = {}
    for name, (x, d) in factors.items():
        weighted = rate[..., None] * d
        total[name] = x.mT @ weighted
        if f"{name}.bias" in weights:
            total[f"{name}.bias"] = weighted.sum(-2)
    return total
