"""Activations with their first two derivatives, which share the costly part.

The one table of the package. `FUNCTIONS` holds torch's own kernels of the same functions, for where autograd or nobody
takes the derivative. The law, tested: both agree, and each derivative is autograd's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# z -> (f(z), f'(z), f''(z) or None); the last only if asked for.
Derivatives = tuple[Tensor, Tensor, Tensor | None]


def gelu(z: Tensor, second: bool) -> Derivatives:
    """z Phi(z), Phi + z phi, (2 - z^2) phi."""
    c, square = (2 * torch.pi) ** -0.5, z * z
    bell = torch.exp(square * -0.5)
    share = torch.erf(z * 0.5**0.5).mul_(0.5).add_(0.5)
    return z * share, torch.addcmul(share, z, bell, value=c), bell * (2 * c - c * square) if second else None


def gelu_tanh(z: Tensor, second: bool) -> Derivatives:
    """z/2 (1 + tanh u), u = c (z + a z^3), and its derivatives."""
    c, a = (2 / torch.pi) ** 0.5, 0.044715
    square = z * z
    slope, t = c * (1 + 3 * a * square), torch.tanh(c * z * (1 + a * square))
    share, bend = 0.5 * (1 + t), 1 - t * t
    first = share + 0.5 * z * bend * slope
    if not second:
        return z * share, first, None
    return z * share, first, bend * (slope + z * (3 * a * c * z - t * slope * slope))


def silu(z: Tensor, second: bool) -> Derivatives:
    """z s, s (1 + z (1 - s)), s (1 - s) (2 + z (1 - 2 s)), s the logistic function."""
    s = torch.sigmoid(z)
    bend = s * (1 - s)
    return z * s, torch.addcmul(s, z, bend), bend * (2 + z * (1 - 2 * s)) if second else None


def relu(z: Tensor, second: bool) -> Derivatives:
    """max(z, 0), 1 where z > 0, 0."""
    return torch.relu(z), (z > 0).to(z.dtype), torch.zeros_like(z) if second else None


ACTIVATIONS: dict[str, Callable[[Tensor, bool], Derivatives]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "relu": relu,
}

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
}
