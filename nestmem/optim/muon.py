"""Muon with Newton-Schulz in the dtype of the weights.

PyTorch's own Muon iterates in bfloat16, which CPUs without bfloat16 units run some sixty times slower.
"""

from __future__ import annotations

from typing import Any, Unpack

from nestmem.optim import inner
from nestmem.optim.matrices import MatrixOptimizer, Params, VectorOptions, check_whole


class Muon(MatrixOptimizer):
    """S <- momentum S + g;  W <- (1 - lr weight_decay) W - lr sqrt(max(1, O / I)) NS(g + momentum S).

    Jordan et al., 2024; Nested Learning (arXiv 2512.24695), eq. 52 with a linear memory. Matrices [O, I] of one
    shape are orthogonalised together. `nesterov=False` takes NS(S). Vectors, and groups with `adam=True`, go by Adam.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.randn(4, 3))
    >>> optimizer = Muon([w], lr=0.02)
    >>> w.square().sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        steps: int = 5,
        weight_decay: float = 0.0,
        **vectors: Unpack[VectorOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "steps": steps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults, **vectors)

    def check(self, group: dict[str, Any]) -> None:
        """At least one Newton-Schulz step."""
        check_whole("steps", group["steps"], 1)

    def rule(self, group: dict[str, Any]) -> inner.Muon:
        """The inner form."""
        return inner.Muon(group["nesterov"], group["steps"])
