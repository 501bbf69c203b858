"""Evolution strategies: a gradient from function values alone, where backpropagation costs too much or is impossible.

For a loss L(theta) the gradient of its Gaussian smoothing E[L(theta + sigma eps)], eps ~ N(0, I), is estimated by
antithetic pairs (Salimans et al., arXiv 1703.03864, section 2.1):

    g = 1 / (2 n sigma) sum_i (L(theta + sigma eps_i) - L(theta - sigma eps_i)) eps_i
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nestmem.errors import InputError


def estimate_gradient(
    loss: Callable[[Tensor], float], theta: Tensor, *, pairs: int, sigma: float, generator: torch.Generator
) -> tuple[Tensor, float]:
    """The estimate of the gradient at `theta` (N,), and the mean of the 2 x `pairs` losses seen.

    A pair of which a loss is not finite counts nothing; when none is left the gradient is 0 and the mean NaN. The
    gradient of a quadratic is met in expectation exactly:

    >>> theta = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    >>> g, _ = estimate_gradient(lambda x: float((x * x).sum()), theta, pairs=4000, sigma=0.1,
    ...                          generator=torch.Generator().manual_seed(0))
    >>> bool(torch.allclose(g, 2 * theta, atol=0.2))
    True
    """
    if pairs < 1 or sigma <= 0:
        raise InputError(f"pairs={pairs}, sigma={sigma}: expected at least one pair and sigma above 0")
    total = torch.zeros_like(theta)
    losses: list[float] = []
    for _ in range(pairs):
        noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype).to(theta.device)
        up, down = loss(theta + sigma * noise), loss(theta - sigma * noise)
        if math.isfinite(up) and math.isfinite(down):
            total += (up - down) / (2 * sigma) * noise
            losses += [up, down]
    if not losses:
        return total, math.nan
    return total / (len(losses) / 2), sum(losses) / len(losses)
