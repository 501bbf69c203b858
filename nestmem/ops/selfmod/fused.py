"""The hot path of chunk.py with derivatives by hand: GELU memories of two layers, all read and written at one state.

Shapes and layout as in chunk.py. Autograd would keep some thirty tensors of every piece and walk as many small steps
back; here a piece keeps a dozen and goes back in some sixty operations. chunk.py's own form is the witness (tested),
and takes over inside functorch's transforms and for derivatives of derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestmem.ops.derivative import again, own_arithmetic

# the same as in core.unit, squared
EPS2 = 1e-6 * 1e-6
GELU = torch.ops.aten.gelu.default
GELU_BACKWARD = torch.ops.aten.gelu_backward.default


def read_plain(first: Tensor, second: Tensor, q: Tensor, x: Tensor) -> Tensor:
    """The first memory at q, the others at x [G, D, C] -> [G, M, D, C]."""
    return _read(first, second, q, x)[0]


def _read(first: Tensor, second: Tensor, q: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    groups, dim, tokens = q.shape
    width = second.shape[-1]
    z = torch.cat([torch.bmm(first[:, :width], q), torch.bmm(first[:, width:], x)], dim=1)
    hidden = GELU(z)
    out = torch.bmm(second, hidden.view(second.shape[0], width, tokens)).view(groups, -1, dim, tokens)
    out = out + torch.cat([q[:, None], x[:, None].expand(groups, out.shape[1] - 1, dim, tokens)], dim=1)
    return out, z, hidden


class Read(torch.autograd.Function):
    """`read_plain` with its derivative."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, q: Tensor, x: Tensor) -> Tensor:
        out, z, hidden = _read(first, second, q, x)
        ctx.save_for_backward(first, second, q, x, z, hidden)
        return out

    @staticmethod
    @own_arithmetic
    def backward(ctx: Any, d_out: Tensor) -> Any:
        first, second, q, x, z, hidden = ctx.saved_tensors
        if torch.is_grad_enabled():
            return tuple(
                again(lambda *w: (read_plain(*w),), (first, second, q, x), ctx.needs_input_grad, (d_out,))
            )
        width, tokens = second.shape[-1], q.shape[-1]
        d = d_out.reshape(second.shape[0], -1, tokens)
        d_second = torch.bmm(d, hidden.view(-1, width, tokens).mT)
        d_z = GELU_BACKWARD(torch.bmm(second.mT, d).view(z.shape), z)
        d_first = torch.cat([torch.bmm(d_z[:, :width], q.mT), torch.bmm(d_z[:, width:], x.mT)], dim=1)
        d_q = torch.baddbmm(d_out[:, 0], first[:, :width].mT, d_z[:, :width])
        d_x = torch.baddbmm(d_out[:, 1:].sum(1), first[:, width:].mT, d_z[:, width:])
        return d_first, d_second, d_q, d_x


def _write(
    now: Tensor, seen: Tensor, inputs: Tensor, errors: Tensor, relative: Tensor, step: Tensor, left: Tensor
) -> tuple[Tensor, ...]:
    """One layer after the piece, and what its derivative needs. See README.md, "All rows at once"."""
    gram = torch.bmm(inputs.mT, inputs)
    norm2 = gram.diagonal(dim1=-2, dim2=-1)[:, None] + EPS2
    beta = relative / norm2
    right = (seen * (beta * -left)).addcmul_(errors, step, value=-1)
    mixing = gram * beta
    # Solved from the left, the result is contiguous in this file's layout.
    rows = torch.linalg.solve_triangular(mixing.mT, right.mT, upper=False, unitriangular=True).mT
    return torch.baddbmm(now * left, rows, inputs.mT), gram, norm2, beta, mixing, rows


def _write_back(
    d_after: Tensor,
    now: Tensor,
    seen: Tensor,
    inputs: Tensor,
    errors: Tensor,
    step: Tensor,
    left: Tensor,
    gram: Tensor,
    norm2: Tensor,
    beta: Tensor,
    mixing: Tensor,
    rows: Tensor,
) -> tuple[Tensor, ...]:
    """Derivatives for now, seen, inputs, errors, relative, step, left."""
    d_rows = torch.bmm(d_after, inputs)
    d_right = torch.linalg.solve_triangular(mixing, d_rows.mT, upper=True, unitriangular=True).mT
    d_mixing = torch.bmm(rows.mT, d_right).triu_(1).neg_()
    on_seen = (d_right * seen).sum(-2, keepdim=True)
    d_step = (d_right * errors).sum(-2, keepdim=True).neg_()
    d_beta = (d_mixing * gram).sum(-2, keepdim=True) - left * on_seen
    d_left = (d_after * now).sum((-2, -1), keepdim=True) - (beta * on_seen).sum(-1, keepdim=True)
    d_relative = d_beta / norm2
    d_gram = d_mixing.mul_(beta)
    d_gram.diagonal(dim1=-2, dim2=-1).sub_((d_relative * beta)[:, 0])
    d_inputs = torch.bmm(d_after.mT, rows).baddbmm_(inputs, d_gram + d_gram.mT)
    return d_after * left, d_right * (beta * -left), d_inputs, d_right * -step, d_relative, d_step, d_left


def _every(gate: Tensor, memories: int) -> Tensor:
    """A number per group -> the same for each of its memories: [G, 1, c] -> [G M, 1, c]."""
    return gate.expand(-1, memories, -1).reshape(-1, 1, gate.shape[-1])


def _update(
    first: Tensor,
    second: Tensor,
    k: Tensor,
    v: Tensor,
    relative: Tensor,
    step: Tensor,
    left: Tensor,
    scale: tuple[float, float],
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
    groups, dim, tokens = k.shape
    width = second.shape[-1]
    memories = second.shape[0] // groups
    z_k, z_v = torch.bmm(first, k), torch.bmm(first, v)
    x_k, x_v = (GELU(z).view(-1, width, tokens) for z in (z_k, z_v))
    p_k, p_v = torch.bmm(second, x_k), torch.bmm(second, x_v)
    # The error of L2 is 2 factor (prediction - target), that of Dot -target.
    a, b = scale
    at_v = p_v.view(groups, memories, dim, tokens) + v[:, None]
    at_k = p_k.view(groups, memories, dim, tokens) + k[:, None]
    error_1 = (at_k.sub_(at_v).mul_(a) if a == b else at_v.mul_(-b)).view(-1, dim, tokens)
    back = torch.bmm(second.mT, error_1)
    slope = GELU_BACKWARD(torch.ones_like(z_k), z_k).view(back.shape)
    error_0 = (back * slope).view(z_k.shape)
    new_first, *kept_0 = _write(first, z_k, k, error_0, relative, step, left)
    gates = [_every(g, memories) for g in (relative, step, left)]
    new_second, *kept_1 = _write(second, p_k, x_k, error_1, *gates)
    saved = (first, second, k, v, relative, step, left)
    saved += (z_k, z_v, x_k, x_v, p_k, back, slope, error_0, error_1, *gates[1:], *kept_0, *kept_1)
    return (new_first, new_second), saved


def update_plain(*arguments: Any) -> tuple[Tensor, Tensor]:
    """All memories after the piece."""
    return _update(*arguments)[0]


class Update(torch.autograd.Function):
    """`update_plain` with its derivative."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        after, saved = _update(*arguments)
        ctx.save_for_backward(*saved)
        ctx.scale = arguments[-1]
        return after

    @staticmethod
    @own_arithmetic
    def backward(ctx: Any, *d_after: Tensor) -> Any:
        first, second, k, v, relative, step, left, *rest = ctx.saved_tensors
        a, b = ctx.scale
        if torch.is_grad_enabled():
            inputs = (first, second, k, v, relative, step, left)
            found = again(lambda *w: update_plain(*w, ctx.scale), inputs, ctx.needs_input_grad[:7], d_after)
            return *found, None
        z_k, z_v, x_k, x_v, p_k, back, slope, error_0, error_1, step_1, left_1, *kept = rest
        groups, dim, tokens = k.shape
        memories = second.shape[0] // groups
        d_first, d_z, d_k, d_error_0, d_relative, d_step, d_left = _write_back(
            d_after[0], first, z_k, k, error_0, step, left, *kept[:5]
        )
        d_second, d_p, d_x, d_error_1, *d_gates = _write_back(
            d_after[1], second, p_k, x_k, error_1, step_1, left_1, *kept[5:]
        )
        for d, more in zip((d_relative, d_step, d_left), d_gates, strict=True):
            d += more.view(groups, memories, -1).sum(1, keepdim=True)

        # error_0 = back * slope(z), back = second^T error_1
        d_error_0 = d_error_0.view(back.shape)
        d_back = d_error_0 * slope
        d_error_1.baddbmm_(second, d_back)
        d_second.baddbmm_(error_1, d_back.mT)
        # error_1 = a (k + p_k) - b (v + p_v)
        if a:
            d_p.add_(d_error_1, alpha=a)
        d_p_v = d_error_1 * -b
        over_memories = d_error_1.view(groups, memories, dim, tokens).sum(1)
        # p = second x, x = gelu(z), z = first (k or v)
        d_second.baddbmm_(d_p, x_k.mT).baddbmm_(d_p_v, x_v.mT)
        d_x.baddbmm_(second.mT, d_p).mul_(slope)
        z = z_k.view(back.shape)
        square = z.square()
        bend = (square * -0.5).exp_().mul_(square.sub_(2).mul_(-((2 * torch.pi) ** -0.5)))
        d_x.addcmul_(d_error_0.mul_(back), bend)
        d_z.add_(d_x.view(d_z.shape))
        d_z_v = GELU_BACKWARD(torch.bmm(second.mT, d_p_v).view(z_v.shape), z_v)
        d_first.baddbmm_(d_z, k.mT).baddbmm_(d_z_v, v.mT)
        d_k.baddbmm_(first.mT, d_z).add_(over_memories, alpha=a)
        d_v = torch.baddbmm(over_memories, first.mT, d_z_v, beta=-b)
        return d_first, d_second, d_k, d_v, d_relative, d_step, d_left, None
