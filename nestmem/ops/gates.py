"""Products of a chunk's gates, and windows as matrices: what the fast forms share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gate_products(gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Products of a chunk's gates [..., C]: between any two tokens, since the start, until the end.

        between[i, j] = gate_{j+1} ... gate_i for j <= i, else 0          [..., C, C]
        since[i]      = gate_1 ... gate_i                                 [..., C]
        until[j]      = gate_{j+1} ... gate_C                             [..., C]

    Blocks of 1, 2, 4, ... tokens are joined two by two, so every number is a product of factors in [0, 1]: nothing
    is divided, no logarithm is taken, and a gate of 0 cuts exactly, with its exact derivative. Products far below the
    dtype's resolution count as 0, because denormal numbers slow matrix products many times; their derivative stays.

    >>> between, since, until = gate_products(torch.tensor([0.5, 0.25, 0.5]))
    >>> between[2], since, until
    (tensor([0.1250, 0.5000, 1.0000]), tensor([0.5000, 0.1250, 0.0625]), tensor([0.1250, 0.5000, 1.0000]))
    """
    length = gate.shape[-1]
    padded = 1 << (length - 1).bit_length()
    # Ones behind the last token change no product in front of them.
    since = (F.pad(gate, (0, padded - length), value=1.0) if padded > length else gate)[..., None]
    until = torch.ones_like(since)
    between = until[..., None]
    while since.shape[-2] > 1:
        since_l, since_r = since.unflatten(-2, (-1, 2)).unbind(-2)
        until_l, until_r = until.unflatten(-2, (-1, 2)).unbind(-2)
        left, right = between.unflatten(-3, (-1, 2)).unbind(-3)
        size = left.shape[-1]
        below = torch.cat([since_r[..., :, None] * until_l[..., None, :], right], dim=-1)
        between = torch.cat([F.pad(left, (0, size)), below], dim=-2)
        until = torch.cat([until_l * since_r[..., -1:], until_r], dim=-1)
        since = torch.cat([since_l, since_l[..., -1:] * since_r], dim=-1)
    between, since, until = between[..., 0, :, :], since[..., 0, :], until[..., 0, :]
    if padded > length:
        between, since, until = between[..., :length, :length], since[..., :length], until[..., :length]
    return _flushed(between), _flushed(since), _flushed(until)


def _flushed(x: Tensor) -> Tensor:
    """x with 0 in place of numbers below the dtype's resolution to the power 2.5; the derivative is that of x."""
    smallest = math.exp(2.5 * math.log(torch.finfo(x.dtype).eps))
    small = x.detach()
    return x - small * (small < smallest)


def since_start(window: Tensor, position: int) -> Tensor:
    """The window [..., T, c] with 0 for tokens before the sequence's first; `position` tokens came before these."""
    age = torch.arange(window.shape[-1], device=window.device)
    place = position + torch.arange(window.shape[-2], device=window.device)
    return window * (age <= place[:, None])


def banded(window: Tensor) -> Tensor:
    """Weights by age [..., C, c] as a matrix [..., C, C + c - 1] over the tokens that a chunk looks at.

    Row t weighs column t + c - 1 - j, the token j places before it, with window[t, j].

    >>> banded(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[2., 1., 0.],
            [0., 4., 3.]])
    """
    tokens, width = window.shape[-2:]
    flat = F.pad(window.flip(-1), (0, tokens)).flatten(-2)[..., : tokens * (tokens + width - 1)]
    return flat.unflatten(-1, (tokens, tokens + width - 1))
