"""One token a piece with derivatives by hand: GELU or linear memories, L2 or Dot, all read and written at one state.

single.py is the witness (tested), and takes over inside functorch's transforms and for derivatives of derivatives.
Autograd's graph of a token has some hundred small nodes; here it is one. Matrices are as in chunk.py; the few columns
that meet them are rows in this file ([G, 2, M F] for two inputs), with which small batched products are three to five
times faster on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nestmem.core import L2, Dot
from nestmem.core.checks import transformed
from nestmem.ops.derivative import again, own_arithmetic
from nestmem.ops.selfmod import single
from nestmem.ops.selfmod.fused import EPS2, GELU, GELU_BACKWARD
from nestmem.ops.selfmod.rule import MEMORIES

if TYPE_CHECKING:
    from nestmem.ops.selfmod.chunk import Setting, Stack


def known(setting: Setting) -> bool:
    """Whether this file knows the setting, and no transform asks for plain operations."""
    usual = setting.activation == "gelu" or setting.depth == 1
    usual = usual and type(setting.objective) in (L2, Dot) and setting.memories == len(MEMORIES)
    return usual and not transformed()


def step(now: Stack, pair: Tensor, gates: tuple[Tensor, Tensor], setting: Setting) -> tuple[Tensor, Stack]:
    """`single.step` where the anchor is `now`."""

    def plain(first: Tensor, second: Tensor | None, *others: Tensor) -> tuple[Tensor, ...]:
        start = now._replace(first=first, second=second)
        out, after = single.step(start, start, others[0], (others[1], others[2]), setting)
        return (out, after.first) if after.second is None else (out, after.first, after.second)

    out, *after = Token.apply(now.first, now.second, pair, *gates, setting, plain)
    return out, now._replace(first=after[0], second=after[1] if len(after) > 1 else None)


def _scale(setting: Setting) -> tuple[float, float]:
    """a, b of the error a M(k) - b M(v)."""
    objective = setting.objective
    return (2 * objective.factor, 2 * objective.factor) if isinstance(objective, L2) else (0.0, 1.0)


def _error(at_k: Tensor, at_v: Tensor, scale: tuple[float, float]) -> Tensor:
    a, b = scale
    return (at_k - at_v).mul_(a) if a == b else at_v * -b


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def _each(rows: Tensor, memories: int) -> Tensor:
    """[G, 2, M F] -> [G M, 2, F]."""
    return (
        rows.view(rows.shape[0], 2, memories, -1).transpose(1, 2).reshape(-1, 2, rows.shape[-1] // memories)
    )


def _joined(rows: Tensor, memories: int) -> Tensor:
    """[G M, 2, F] -> [G, 2, M F]."""
    return rows.view(-1, memories, *rows.shape[1:]).transpose(1, 2).reshape(-1, 2, memories * rows.shape[-1])


class Token(torch.autograd.Function):
    """(first, second or None, pair, gates' weight and bias, setting, plain) -> output, memories after the token."""

    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor | None,
        pair: Tensor,
        weight: Tensor,
        bias: Tensor,
        setting: Setting,
        plain: Any,
    ) -> tuple[Tensor, ...]:
        groups, _, dim = pair.shape
        m, scale = setting.memories, _scale(setting)
        z_pair = torch.bmm(pair, first.mT)
        h_pair = h = p = back = slope = short_1 = unscaled_1 = row_1 = kq = z_q = second_q = None
        # made [G, M, 2, D]: every memory at q and at x
        if second is None:
            made = z_pair.view(groups, 2, m, dim).transpose(1, 2)
        else:
            z_pair = _each(z_pair, m)
            h_pair = GELU(z_pair)
            made = torch.bmm(h_pair, second.mT).view(groups, m, 2, dim).add_(pair[:, None])
        gates = torch.sigmoid(_dot(made[:, 3:5, 1], weight).add_(bias))
        relative, decay = gates[:, :1] * setting.rate_max, gates[:, 1:]
        raw = made[:, 1:3, 1]
        inverse = (_dot(raw, raw).add_(EPS2)).rsqrt_()
        if not setting.unit_values:
            inverse[:, 1] = 1
        kv = raw * inverse
        k = kv[:, :1]
        z = torch.bmm(kv, first.mT)
        z_k = z[:, :1]
        short = _dot(k, k).add_(EPS2).reciprocal_()
        if second is None:
            error = _error(z_k, z[:, 1:], scale)
            unscaled = torch.addcmul(error, z_k, short)
        else:
            h = GELU(_each(z, m))
            p = torch.bmm(h, second.mT)
            at = p.view(groups, m, 2, dim) + kv[:, None]
            error = _error(at[:, :, 0], at[:, :, 1], scale).view(groups * m, 1, dim)
            back = torch.bmm(error, second).view(z_k.shape)
            slope = GELU_BACKWARD(torch.ones_like(back), z_k)
            unscaled = (back * slope).addcmul_(z_k, short)
        row = unscaled * relative
        after = [torch.addcmul(first, row.mT, k, value=-1).mul_(decay)]
        if second is not None:
            assert h is not None and p is not None
            h_k = h[:, :1]
            short_1 = _dot(h_k, h_k).add_(EPS2).reciprocal_()
            unscaled_1 = torch.addcmul(error, p[:, :1], short_1).view(groups, 1, -1)
            row_1 = unscaled_1 * relative
            after.append(torch.addcmul(second, row_1.view(-1, dim, 1), h_k, value=-1))
            after[1].view(groups, m, dim, -1).mul_(decay[..., None])
        if setting.token_reads:
            # the first memory's first layer at q after the write, but for its decay
            q = pair[:, :1]
            f = first.shape[1] // m
            kq = _dot(k, q)
            z_q = torch.addcmul(
                z_pair.view(groups, -1, f)[:, :1] if second is not None else made[:, 0, :1],
                row[..., :f],
                kq,
                value=-1,
            )
            out = z_q * decay
            if second is not None:
                second_q = after[1][::m].clone()
                out = torch.baddbmm(q, GELU(out), second_q.mT)
        else:
            out = made[:, 0, :1].clone()
        ctx.setting, ctx.plain = setting, plain
        ctx.save_for_backward(
            first, second, pair, weight, bias, z_pair, h_pair, made, gates, inverse, kv, z, h, p, error,
            back, slope, short, short_1, unscaled, unscaled_1, row, row_1, kq, z_q, second_q,
        )  # fmt: skip
        return out, *after

    @staticmethod
    @own_arithmetic
    def backward(ctx: Any, d_out: Tensor, d_after: Tensor, d_after_1: Any = None) -> Any:
        (
            first, second, pair, weight, bias, z_pair, h_pair, made, gates, inverse, kv, z, h, p, error,
            back, slope, short, short_1, unscaled, unscaled_1, row, row_1, kq, z_q, second_q,
        ) = ctx.saved_tensors  # fmt: skip
        setting: Setting = ctx.setting
        if torch.is_grad_enabled():
            inputs = (first, second, pair, weight, bias)
            given = (d_out, d_after) if d_after_1 is None else (d_out, d_after, d_after_1)
            return *again(ctx.plain, inputs, ctx.needs_input_grad[:5], given), None, None
        groups, _, dim = pair.shape
        m, (a, b) = setting.memories, _scale(setting)
        relative, decay = gates[:, :1] * setting.rate_max, gates[:, 1:]
        k, z_k = kv[:, :1], z[:, :1]
        target = 0.0 if setting.detach_target else -b

        # first after = decay (first - row^T k)
        d_row = torch.bmm(k, d_after.mT)
        d_decay = (d_after * first).sum((1, 2), keepdim=True) - _dot(row, d_row)
        d_row.mul_(-decay)
        d_k = torch.bmm(row, d_after).mul_(-decay)
        d_zq = d_q = None
        if setting.token_reads:
            q, f = pair[:, :1], z_q.shape[-1]
            d_zq = d_out
            if second is not None:
                # out = q + gelu(decay z_q) second_q^T, second_q the first memory's after the write
                at = z_q * decay
                d_after_1 = d_after_1.clone(memory_format=torch.contiguous_format)
                d_after_1[::m].addcmul_(d_out.mT, GELU(at))
                d_zq = GELU_BACKWARD(torch.bmm(d_out, second_q), at)
            d_decay += _dot(d_zq, z_q)
            d_zq = d_zq * decay
            d_row[..., :f].addcmul_(d_zq, kq, value=-1)
            d_kq = _dot(d_zq, row[..., :f]).neg_()
            d_k.addcmul_(d_kq, q)
            d_q = d_kq * k
            if second is not None:
                d_q += d_out

        # row = relative unscaled, unscaled = short z_k + error_0, short = 1 / ||k||^2
        d_relative = _dot(d_row, unscaled)
        d_error_0 = d_row.mul_(relative)
        d_zk = d_error_0 * short
        d_k.addcmul_(k, _dot(d_error_0, z_k).mul_(short).mul_(short), value=-2)
        if second is None:
            d_z = torch.cat([d_zk.add_(d_error_0, alpha=a), d_error_0 * target], dim=1)
            d_kv = torch.bmm(d_z, first)
            d_after_second = d_back = d_p = None
        else:
            # second after = decay (second - row_1^T h_k)
            h_k = h[:, :1]
            d_row = torch.bmm(h_k, d_after_1.mT).view(groups, 1, -1)
            d_decay += (d_after_1 * second).view(groups, m, dim, -1).sum((1, 2, 3))[:, None, None] - _dot(
                row_1, d_row
            )
            d_row.mul_(-decay)
            d_after_second = (d_after_1.view(groups, m, dim, -1) * decay[..., None]).view(second.shape)
            d_hk = torch.bmm(row_1.view(-1, 1, dim), d_after_second).neg_()
            d_relative += _dot(d_row, unscaled_1)
            d_error = d_row.mul_(relative).view(-1, 1, dim)
            d_pk = d_error * short_1
            d_hk.addcmul_(h_k, _dot(d_error, p[:, :1]).mul_(short_1).mul_(short_1), value=-2)
            # error_0 = back gelu'(z_k), back = error second
            d_back = (d_error_0 * slope).view(groups * m, 1, -1)
            square = z_k.square()
            bend = (square * -0.5).exp_().mul_(square.sub_(2).mul_(-((2 * torch.pi) ** -0.5)))
            d_zk.addcmul_(d_error_0.mul_(back), bend)
            d_error += torch.bmm(d_back, second.mT)
            # error = a (p_k + k) - b (p_v + v), p = h second^T, h = gelu(z), z = (k, v) first^T
            d_p = torch.cat([d_pk.add_(d_error, alpha=a), d_error * target], dim=1)
            d_h = torch.bmm(d_p, second)
            d_h[:, :1] += d_hk
            d_z = GELU_BACKWARD(_joined(d_h, m), z)
            d_z[:, :1] += d_zk
            over = d_error.view(groups, m, dim).sum(1, keepdim=True)
            d_kv = torch.bmm(d_z, first)
            d_k.add_(over, alpha=a)
            d_kv[:, 1:].add_(over, alpha=target)
        d_kv[:, :1] += d_k

        # kv = unit(raw), gates = sigmoid(<weight, made> + bias)
        along = _dot(kv, d_kv)
        if not setting.unit_values:
            along[:, 1] = 0
        d_logits = torch.cat([d_relative * setting.rate_max, d_decay], dim=1).mul_(gates).mul_(1 - gates)
        d_weight = d_logits * made[:, 3:5, 1]
        if second is None:
            d_zpair = torch.zeros_like(z_pair)
            d_made = d_zpair.view(groups, 2, m, dim).transpose(1, 2)
        else:
            d_zpair = d_made = made.new_zeros(groups, m, 2, dim)
        d_made[:, 1:3, 1] = torch.addcmul(d_kv, kv, along, value=-1).mul_(inverse)
        d_made[:, 3:5, 1] = d_logits * weight
        if d_zq is None or second is None:
            d_made[:, 0, :1] = d_out if d_zq is None else d_zq

        # made = pair + gelu(z_pair) second^T, z_pair = pair first^T
        d_second = None
        if second is not None:
            assert d_after_second is not None and d_back is not None and d_p is not None
            d_m = d_made.view(groups * m, 2, dim)
            d_zpair = GELU_BACKWARD(torch.bmm(d_m, second), z_pair)
            if d_zq is not None:
                d_zpair[::m, :1] += d_zq
            d_zpair = _joined(d_zpair, m)
            d_second = d_after_second.baddbmm_(
                torch.cat([error, d_p, d_m], dim=1).mT, torch.cat([d_back, h, h_pair], dim=1)
            )
        d_pair = torch.bmm(d_zpair, first)
        if second is not None:
            d_pair += d_made.sum(1)
        if d_q is not None:
            d_pair[:, :1] += d_q
        d_first = (d_after * decay).baddbmm_(
            torch.cat([d_z, d_zpair], dim=1).mT, torch.cat([kv, pair], dim=1)
        )
        return d_first, d_second, d_pair, d_weight, d_logits, None, None
