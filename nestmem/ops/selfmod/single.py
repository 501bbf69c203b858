"""One token a piece: what chunk.py does, without the products over tokens. See README.md, "One token".

Shapes: G = B H groups, M memories, D width, F hidden width. As in chunk.py tokens are columns and matrices transposed:
first layers [G, M F, D], second layers [G M, D, F].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nestmem.core.activations import ACTIVATIONS, FUNCTIONS
from nestmem.ops.selfmod.fused import EPS2
from nestmem.ops.selfmod.rule import MEMORIES, Readout

if TYPE_CHECKING:
    from nestmem.ops.selfmod.chunk import Setting, Stack


def gates_of(readout: Readout, batch: int) -> tuple[Tensor, Tensor]:
    """The read-outs of rate and decay as [G, 2, D], and their biases [G, 2, 1]."""
    weight = torch.stack([readout.rate_weight, readout.decay_weight], dim=1)
    bias = torch.stack([readout.rate_bias, readout.decay_bias], dim=1)[..., None]
    return weight.repeat(batch, 1, 1), bias.repeat(batch, 1, 1)


def step(
    now: Stack, anchor: Stack, pair: Tensor, gates: tuple[Tensor, Tensor], setting: Setting
) -> tuple[Tensor, Stack]:
    """pair [G, 2, D]: the query and x of one token -> its output [G, 1, D] and the memories after it."""
    groups, _, dim = pair.shape
    pair = pair.mT
    m, act = setting.memories, FUNCTIONS[setting.activation]
    same = now is anchor

    # Every memory at the query and at x; then every memory at k, v and an adaptive query.
    z_pair = torch.bmm(anchor.first, pair)
    made = z_pair
    if anchor.second is not None:
        made = torch.bmm(anchor.second, act(z_pair).view(groups * m, -1, 2)).view(groups, m, dim, 2)
        made = (made + pair[:, None]).view(groups, m * dim, 2)
    at_q, at_x = made.unbind(-1)
    _, k, v, rates, _ = at_x.split([dim, dim, dim, 2 * dim, (m - 5) * dim], dim=1)
    weight, bias = gates
    rates = (weight * rates.view(groups, 2, dim)).sum(-1, keepdim=True) + bias
    relative, decay = torch.sigmoid(rates).split(1, dim=1)
    if setting.rate_max != 1.0:
        relative = setting.rate_max * relative
    k = _unit(k)
    columns = [k, _unit(v) if setting.unit_values else v]
    adaptive = m > len(MEMORIES)
    if adaptive:
        columns.append(_unit(at_q[:, -dim:]))
    columns = torch.stack(columns, dim=-1)
    z = torch.bmm(anchor.first, columns)
    z_k, z_v, *z_q = z.unbind(-1)
    q = columns[..., 2] if adaptive else pair[..., 0]
    z_q = z_q[0] if adaptive else z_pair[..., 0]
    read = z_q if adaptive else at_q
    k = k[..., None]
    short = _inverse(k)
    if anchor.second is None:
        seen, target = z_k.view(groups, m, dim), z_v.view(groups, m, dim)
    else:
        hidden = act(z).view(groups * m, -1, z.shape[-1])
        through = torch.bmm(anchor.second, hidden)
        every = through.view(groups, m, dim, -1) + columns[:, None]
        seen, target, *others = every.unbind(-1)
        read = others[0].reshape(groups, -1) if adaptive else at_q
    if setting.detach_target:
        target = target.detach()
    error = setting.objective.gradient(seen, target)

    if anchor.second is None:
        if not same:
            z_k, z_q = torch.bmm(now.first, torch.cat([k, q[..., None]], -1)).unbind(-1)
        row = relative * (z_k.view(groups, -1, 1) * short + error.reshape(groups, -1, 1))
        first = torch.baddbmm(now.first, row, k.mT, alpha=-1) * decay
        if not setting.token_reads:
            return read[:, None, :dim], now._replace(first=first)
        out = z_q[:, :dim, None] - row[:, :dim] * torch.bmm(k.mT, q[..., None])
        return (out * decay).mT, now._replace(first=first)

    assert now.second is not None
    error = error.reshape(groups * m, dim, 1)
    back = torch.bmm(anchor.second.mT, error).view(groups, -1)
    if setting.activation == "gelu":
        error_0 = torch.ops.aten.gelu_backward(back, z_k)
    else:
        error_0 = back * ACTIVATIONS[setting.activation](z_k, False)[1]
    hidden_k = hidden[..., :1]
    seen_1 = through[..., :1]
    if not same:
        z_k, z_q = torch.bmm(now.first, torch.cat([k, q[..., None]], -1)).unbind(-1)
        seen_1 = torch.bmm(now.second, hidden_k)
    row_0 = relative * (z_k[..., None] * short + error_0[..., None])
    relative_1, decay_1 = (g.expand(groups, m, 1).reshape(groups * m, 1, 1) for g in (relative, decay))
    row_1 = relative_1 * (seen_1 * _inverse(hidden_k) + error)
    first = torch.baddbmm(now.first, row_0, k.mT, alpha=-1) * decay
    second = torch.baddbmm(now.second, row_1, hidden_k.mT, alpha=-1) * decay_1
    after = now._replace(first=first, second=second)
    if not setting.token_reads:
        return read[:, None, :dim], after
    f = hidden.shape[1]
    z_q = decay * (z_q[:, :f, None] - row_0[:, :f] * torch.bmm(k.mT, q[..., None]))
    h_q = act(z_q)
    return (q[..., None] + torch.bmm(second[::m], h_q)).mT, after


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(1, keepdim=True) + EPS2).rsqrt()


def _inverse(x: Tensor) -> Tensor:
    """1 / ||x||^2: [g, D, 1] -> [g, 1, 1]."""
    return (torch.bmm(x.mT, x) + EPS2).reciprocal()
