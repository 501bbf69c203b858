"""Momentum as an associative memory of gradients, and with the delta rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack, cast

import torch

from nestmem.optim import inner
from nestmem.optim.matrices import MatrixOptimizer, Params, VectorOptions, check_number, gradient_of


class Momentum(torch.optim.Optimizer):
    """m <- momentum m - lr g;  W <- (1 - lr weight_decay) W + m (Nested Learning, arXiv 2512.24695, eq. 33).

    m is a memory without values, written by gradient descent on <m, g> and forgetting at 1 - momentum:
    m <- momentum m - lr d<m, g>/dm. For every tensor, of any shape; the inner form is `core.Momentum`.

    The rate stands inside m, as in the paper, so a scheduler reaches the weights only as m turns over
    (`torch.optim.SGD` has it outside).
    """

    def __init__(
        self, params: Params, *, lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(cast(Any, params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; options it leaves out take the defaults. Raises InputError for numbers out of range."""
        group = {**self.defaults, **param_group}
        check_number("lr", group["lr"], 0)
        check_number("momentum", group["momentum"], 0, 1, below=True)
        check_number("weight_decay", group["weight_decay"], 0)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            gradients = [gradient_of(p, "Momentum") for p in params]
            for p in params:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            kept = [self.state[p]["momentum"] for p in params]
            torch._foreach_mul_(kept, group["momentum"])  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(kept, gradients, alpha=-group["lr"])  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(params, kept)  # pyright: ignore[reportPrivateImportUsage]
        return loss


class DeltaMomentum(MatrixOptimizer):
    """m <- m (momentum I - forget n^T n) - lr P g;  W <- (1 - lr weight_decay) W + m,  n = g / ||g||_F.

    Nested Learning (arXiv 2512.24695), eq. 49: momentum with the delta rule. What was chosen (n instead of g, P) and
    why is said at the rule, `nestmem.optim.inner.DeltaMomentum`. `precondition` = beta2 takes P from Adam; None is
    P = I. Vectors go by Adam; to step a vector by this rule, shape it [1, n], and n^T n is then the projection on
    the gradient.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.01,
        momentum: float = 0.9,
        forget: float = 1.0,
        precondition: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **vectors: Unpack[VectorOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "forget": forget,
            "precondition": precondition,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults, **vectors)

    def check(self, group: dict[str, Any]) -> None:
        """forget in [0, 1 + momentum], beyond which the memory diverges."""
        check_number("forget", group["forget"], 0, 1 + group["momentum"])
        check_precondition(group)

    def rule(self, group: dict[str, Any]) -> inner.DeltaMomentum:
        """The inner form."""
        return inner.DeltaMomentum(group["forget"], group["precondition"], group["eps"])


def check_precondition(group: dict[str, Any]) -> None:
    """None, or a horizon in [0, 1)."""
    if group["precondition"] is not None:
        check_number("precondition", group["precondition"], 0, 1, below=True)
    check_number("eps", group["eps"], 0, above=True)
