"""Muon with float32 Newton-Schulz steps.

PyTorch's own Muon iterates in bfloat16, which CPUs without bfloat16 units run some sixty times slower.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def newton_schulz(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of each matrix (.., M, N) towards 1 (quintic iteration of Jordan et al., 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrices.shape[-2] > matrices.shape[-1] else x


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is orthogonalised before the step. 2-D parameters only.

    Step: W <- (1 - lr decay) W - lr sqrt(max(1, M / N)) newton_schulz(g + momentum m), m <- momentum m + g.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ):
        params = list(params)
        if any(p.ndim != 2 for p in params):
            raise ValueError(f"Muon steps matrices; got shapes {sorted({tuple(p.shape) for p in params})}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One step; matrices of one shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(tuple(p.shape), []).append(p)
            for (rows, columns), params in by_shape.items():
                directions = []
                for p in params:
                    state = self.state[p]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(p)
                    buffer = state["momentum"].mul_(group["momentum"]).add_(p.grad)
                    directions.append(p.grad + group["momentum"] * buffer)
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for p, direction in zip(params, newton_schulz(torch.stack(directions)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=scale)
