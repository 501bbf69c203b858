"""Self-modifying Titans a chunk at a time: one gated delta rule per layer, all memories stacked. See README.md.

Shapes: G = B H groups, M memories, D width, F hidden width, C tokens of a piece. Within this file tokens are columns
and matrices are transposed, so that the first layers of all memories are one tall matrix [G, M F, D] that meets the
shared input [G, D, C] in one product, and what comes out [G, M F, C] is [G M, F, C] without a copy.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nestmem.core import L2, Dot, MemoryState, Objective, Period, Weights
from nestmem.core.activations import ACTIVATIONS, FUNCTIONS
from nestmem.core.checks import check_written, transformed
from nestmem.ops.derivative import own_arithmetic
from nestmem.ops.selfmod import rule, single, single_fused
from nestmem.ops.selfmod.fused import EPS2, Read, Update
from nestmem.ops.selfmod.rule import Readout


class Stack(NamedTuple):
    """All memories: first layers [G, M F, D], second layers [G M, D, F] (None for linear memories)."""

    first: Tensor
    second: Tensor | None


class Setting(NamedTuple):
    """What does not change from piece to piece."""

    memories: int
    depth: int
    objective: Objective
    activation: str
    rate_max: float
    token_reads: bool
    detach_target: bool
    unit_values: bool = False
    fused: bool = False


@own_arithmetic
def chunked(
    queries: Tensor,
    x: Tensor,
    readout: Readout,
    state: MemoryState,
    *,
    chunk: int = 64,
    chunk_aux: int | None = None,
    objective: Objective = L2(1.0),  # noqa: B008
    activation: str = "gelu",
    read: Literal["chunk", "token"] = "chunk",
    detach_target: bool = False,
    unit_values: bool = False,
    check: bool = True,
) -> tuple[Tensor, MemoryState]:
    """Self-modifying Titans: memories that make their own keys, values, rates, decays and targets, then all learn.

        k_t = unit(M_keys(x_t)),  v_t = M_values(x_t),  rate_t and decay_t by `Readout`,  y_t = M_memory(q_t)
        W_t = (decay_t I - rate_t n_t^T n_t) W_{t-1} - rate_t h_t^T d_t     for every matrix W of every memory M

    h_t is the matrix's input when M reads k_t, n_t = unit(h_t), and h_t^T d_t the gradient of
    objective(M(k_t), M(v_t)). M is x + activation(x W_0) W_1 per head, or x W for states with one matrix a memory.
    Everything on the right except W_{t-1} is made by the memories as they were before the chunk: M_memory as before
    its chunk of `chunk` tokens, the others as before theirs of `chunk_aux`. Equal to `recurrent`, with matrix
    products over a chunk in place of its loop.

    queries [B, H, T, D]   from a fixed projection, of unit norm; a state made with adaptive_q has a memory that turns
                           them into unit(M_queries(queries)), so that queries = x gives the ablated M_q(x_t)
    x [B, H, T, D]         the tokens that the key, value, rate and decay memories read, of norm about 1: values grow
                           with x, the inner gradients with their square, and a chunk's steps then overshoot
    readout, state         from `Readout.init` and `init`, or learned
    chunk, chunk_aux       tokens; one is a multiple of the other; chunk_aux=None is chunk. At a state that stands
                           within a chunk, go on with the same sizes
    objective              L2(1.0) is the paper's; L2 and Dot with GELU have the fastest path
    read                   "chunk": y_t from M_memory before the chunk (eq. 90); "token": after token t's own write
    detach_target          no outer gradient through M(v_t); M_values then gets none at all
    unit_values            v_t = unit(M_values(x_t)). A memory answers M(k) with the target M(v), so that values longer
                           than keys let it feed on its own growth
    check                  look for nan and inf in queries and x

    Returns outputs [B, H, T, D] in the dtype of x and the state after the last token. Half-precision inputs go with
    a float32 state and read-out. Raises InputError for shapes, kinds or numbers that cannot be right.

    Source: Nested Learning, arXiv 2512.24695, eq. 86-90 (the index of eq. 90 read as the end of the previous chunk).

    >>> state, readout = rule.init(1, heads=2, dim=4), Readout.init(heads=2, dim=4)
    >>> x = torch.nn.functional.normalize(torch.randn(1, 2, 100, 4), dim=-1)
    >>> y, state = chunked(x, x, readout, state, chunk=16)
    >>> y.shape, state.position
    (torch.Size([1, 2, 100, 4]), 100)
    """
    chunk_aux = chunk if chunk_aux is None else chunk_aux
    rule.check(queries, x, readout, state, chunk, chunk_aux, objective, activation, read, check)
    names = rule.memories(state.weights)
    setting = Setting(
        memories=len(names),
        depth=len(state.weights) // len(names),
        objective=objective,
        activation=activation,
        rate_max=readout.rate_max,
        token_reads=read == "token",
        detach_target=detach_target,
        unit_values=unit_values,
    )
    setting = setting._replace(fused=_fusable(setting))
    batch, heads, tokens, dim = x.shape
    groups = batch * heads
    kind = state.weights["memory.0"].dtype
    gates = tuple(
        r[None].expand(batch, *r.shape).reshape(groups, 1, -1)
        for r in (readout.rate_weight, readout.rate_bias, readout.decay_weight, readout.decay_bias)
    )
    now = _stack(state.weights, names)
    # At the start of both chunks the anchor is about to be replaced.
    anchor = now
    if (
        state.position % max(chunk, chunk_aux)
        and state.anchor is not None
        and state.anchor is not state.weights
    ):
        anchor = _stack(state.anchor, names)

    fine = Period(chunk=min(chunk, chunk_aux))
    lengths = [stop - start for start, stop in fine.pieces(state.position, tokens)]
    # One split, whose derivative is one concatenation; a slice per piece would cost a whole sequence of zeros each.
    both = [each.to(kind).reshape(groups, tokens, dim) for each in (queries, x)]
    pairs = torch.stack(both, dim=2).split(lengths, dim=1)
    ones = single.gates_of(readout, batch) if 1 in lengths else None
    by_hand = single_fused.known(setting)
    outputs, position = [], state.position
    for pair in pairs:
        fresh = position % chunk == 0, position % chunk_aux == 0
        if all(fresh):
            anchor = now
        elif any(fresh):
            anchor = _refresh(anchor, now, len(names), memory=fresh[0])
        if pair.shape[1] > 1 or ones is None:
            q, x_c = pair.unbind(2)
            out, now = _piece(now, anchor, q.mT, x_c.mT, gates, setting)
            outputs.append(out.mT)
        else:
            if by_hand and now is anchor:
                out, now = single_fused.step(now, pair[:, 0], ones, setting)
            else:
                out, now = single.step(now, anchor, pair[:, 0], ones, setting)
            outputs.append(out)
        position += pair.shape[1]
    out = torch.cat(outputs, dim=1).reshape(batch, heads, tokens, dim).to(queries.dtype)
    weights = _unstack(now, names, batch, heads)
    anchors = weights if anchor is now else _unstack(anchor, names, batch, heads)
    longest = max(chunk, chunk_aux)
    after = state.replace(weights=weights, anchor=anchors, position=position, chunk=longest)
    check_written(after, check)
    return out, after


def _stack(weights: Weights, names: tuple[str, ...]) -> Stack:
    """name -> [B, H, I, O] as two tensors."""
    first = torch.stack([weights[f"{name}.0"] for name in names], dim=2).mT.flatten(0, 1).flatten(1, 2)
    if "memory.1" not in weights:
        return Stack(first, None)
    return Stack(first, torch.stack([weights[f"{name}.1"] for name in names], dim=2).mT.flatten(0, 2))


def _unstack(stack: Stack, names: tuple[str, ...], batch: int, heads: int) -> Weights:
    weights: Weights = {}
    for layer, matrices in enumerate(stack):
        if matrices is not None:
            each = matrices.reshape(batch, heads, len(names), -1, matrices.shape[-1])
            weights |= {f"{name}.{layer}": w.mT for name, w in zip(names, each.unbind(2), strict=True)}
    return {
        f"{name}.{layer}": weights[f"{name}.{layer}"]
        for name in names
        for layer in range(len(weights) // len(names))
    }


def _refresh(anchor: Stack, now: Stack, memories: int, *, memory: bool) -> Stack:
    """The anchor with either the first memory or all others as they are now."""
    new = []
    for old, current in zip(anchor, now, strict=True):
        if old is None or current is None:
            new.append(None)
            continue
        shape = (anchor.first.shape[0], memories, -1, old.shape[-1])
        first, others = (current, old) if memory else (old, current)
        joined = torch.cat([first.reshape(shape)[:, :1], others.reshape(shape)[:, 1:]], dim=1)
        new.append(joined.reshape(old.shape))
    return Stack(*new)


def _apply(stack: Stack, which: slice, inputs: Tensor, setting: Setting) -> Tensor:
    """M(inputs) of some memories: [G, D, C] -> [G, m, D, C]."""
    groups, dim, tokens = inputs.shape
    every = stack.first.view(groups, setting.memories, -1, dim)[:, which]
    hidden = torch.bmm(every.flatten(1, 2), inputs).view(groups, every.shape[1], -1, tokens)
    if stack.second is None:
        return hidden
    second = stack.second.view(groups, setting.memories, dim, -1)[:, which]
    return inputs[:, None] + second @ FUNCTIONS[setting.activation](hidden)


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(1, keepdim=True) + EPS2).rsqrt()


def _fusable(setting: Setting) -> bool:
    """Whether fused.py knows this setting, and no transform asks for plain operations."""
    known = type(setting.objective) in (L2, Dot) and setting.activation == "gelu" and setting.depth == 2
    usual = setting.memories == len(rule.MEMORIES) and not setting.token_reads and not setting.detach_target
    return known and usual and not transformed()


def _piece(
    now: Stack, anchor: Stack, q: Tensor, x: Tensor, gates: tuple[Tensor, ...], setting: Setting
) -> tuple[Tensor, Stack]:
    """Tokens that share one anchor: q, x [G, D, C] -> outputs [G, D, C] and the memories after the last token."""
    groups, dim, tokens = x.shape
    m, act = setting.memories, FUNCTIONS[setting.activation]
    rate_weight, rate_bias, decay_weight, decay_bias = gates

    fused = now is anchor and setting.fused
    if fused:
        assert now.second is not None
        out, k, v, for_rate, for_decay = Read.apply(now.first, now.second, q, x).unbind(1)
    else:
        k, v, for_rate, for_decay = _apply(anchor, slice(1, 5), x, setting).unbind(1)
        if m > len(rule.MEMORIES):
            q = _unit(_apply(anchor, slice(5, 6), q, setting)[:, 0])
        out = None if setting.token_reads else _apply(anchor, slice(0, 1), q, setting)[:, 0]
    k = _unit(k)
    if setting.unit_values:
        v = _unit(v)
    relative = setting.rate_max * torch.sigmoid(rate_weight @ for_rate + rate_bias)  # rate / decay [G, 1, C]
    log_decay = F.logsigmoid(decay_weight @ for_decay + decay_bias)
    rate = relative * log_decay.exp()
    kept = log_decay.cumsum(-1)
    if fused:
        assert isinstance(setting.objective, L2 | Dot) and out is not None
        last = kept[..., -1:]
        scale = (0.0, 1.0) if isinstance(setting.objective, Dot) else (2 * setting.objective.factor,) * 2
        after = Update.apply(*now, k, v, relative, rate * (last - kept).exp(), last.exp(), scale)
        return out, Stack(*after)

    # Every memory at k, where its gradient is taken, and at v, its target (eq. 87).
    both = torch.cat([k, v], dim=-1)
    z = torch.bmm(anchor.first, both)
    if anchor.second is None:
        seen, target = z.view(groups, m, dim, -1).split(tokens, dim=-1)
        prediction = seen
    else:
        z_k = z[..., :tokens].reshape(groups * m, -1, tokens)
        hidden = act(z).view(groups * m, -1, 2 * tokens)
        seen, target = torch.bmm(anchor.second, hidden).view(groups, m, dim, -1).split(tokens, dim=-1)
        prediction, target = seen + k[:, None], target + v[:, None]
    if setting.detach_target:
        target = target.detach()
    # The objective sums over its last dimension, which is the width.
    error = setting.objective.gradient(prediction.mT, target.mT).mT

    same = now is anchor
    if anchor.second is None:
        seen = (z[..., :tokens] if same else torch.bmm(now.first, k)).reshape(groups, -1, tokens)
        error = error.reshape(groups, -1, tokens)
        first = _write(now.first, seen, k, error, relative, rate, kept)
        if setting.token_reads:
            out = _read(now.first[:, :dim], seen[:, :dim], k, error[:, :dim], log_decay, rate, kept, q)
        assert out is not None
        return out, Stack(first, None)

    assert now.second is not None
    error = error.reshape(groups * m, dim, tokens)
    back = torch.bmm(anchor.second.mT, error)
    if setting.activation == "gelu":
        error_0 = torch.ops.aten.gelu_backward(back, z_k)
    else:
        error_0 = back * ACTIVATIONS[setting.activation](z_k, False)[1]
    error_0 = error_0.view(groups, -1, tokens)
    hidden_k = hidden[..., :tokens]
    if same:
        seen_0, seen_1 = z[..., :tokens], seen.reshape(groups * m, dim, tokens)
    else:
        seen_0, seen_1 = torch.bmm(now.first, k), torch.bmm(now.second, hidden_k)

    def every(gate: Tensor) -> Tensor:
        return gate[:, None].expand(groups, m, 1, tokens).reshape(groups * m, 1, tokens)

    first = _write(now.first, seen_0, k, error_0, relative, rate, kept)
    second = _write(now.second, seen_1, hidden_k, error, every(relative), every(rate), every(kept))
    if out is not None:
        return out, Stack(first, second)
    f = z_k.shape[1]
    z_q = _read(now.first[:, :f], seen_0[:, :f], k, error_0[:, :f], log_decay, rate, kept, q)
    out = _read(now.second[::m], seen_1[::m], hidden_k[::m], error[::m], log_decay, rate, kept, act(z_q))
    return q + out, Stack(first, second)


def _write(
    now: Tensor, seen: Tensor, inputs: Tensor, errors: Tensor, relative: Tensor, rate: Tensor, kept: Tensor
) -> Tensor:
    """One layer after the piece: [g, O, I]. seen = now @ inputs [g, O, C]; gates [g, 1, C]."""
    gram = torch.bmm(inputs.mT, inputs)
    beta = relative / (gram.diagonal(dim1=-2, dim2=-1)[:, None] + EPS2)
    left = kept[..., -1:]
    right = -(seen * (beta * left.exp()) + errors * (rate * (left - kept).exp()))
    rows = torch.linalg.solve_triangular(gram * beta, right, upper=True, left=False, unitriangular=True)
    return now * left.exp() + torch.bmm(rows, inputs.mT)


def _read(
    now: Tensor,
    seen: Tensor,
    inputs: Tensor,
    errors: Tensor,
    log_decay: Tensor,
    rate: Tensor,
    kept: Tensor,
    queries: Tensor,
) -> Tensor:
    """One layer's output for each token's query after that token's own write: queries [g, I, C] -> [g, O, C]."""
    gram = torch.bmm(inputs.mT, inputs)
    share = rate / (gram.diagonal(dim1=-2, dim2=-1)[:, None] + EPS2)
    until = kept - log_decay  # what is kept of the start before token t's own decay
    between = (until - kept.mT).masked_fill(_lower(gram), -torch.inf).exp()
    right = -(seen * (share * until.exp()) + errors * rate)
    rows = torch.linalg.solve_triangular(
        gram * between * share, right, upper=True, left=False, unitriangular=True
    )
    past = (kept - kept.mT).masked_fill(_lower(gram, -1), -torch.inf).exp()
    return torch.bmm(now, queries) * kept.exp() + torch.bmm(rows, torch.bmm(inputs.mT, queries) * past)


def _lower(like: Tensor, diagonal: int = 0) -> Tensor:
    """Where row i is not before column t (i >= t; with diagonal -1, i > t)."""
    return torch.ones(like.shape[-2:], dtype=torch.bool, device=like.device).tril(diagonal)
