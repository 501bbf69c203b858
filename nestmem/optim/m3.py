"""M3: two momenta at two update periods, both orthogonalised."""

from __future__ import annotations

from typing import Any, Unpack

from nestmem.optim import inner
from nestmem.optim.matrices import MatrixOptimizer, Params, VectorOptions, check_number, check_whole


class M3(MatrixOptimizer):
    """W <- (1 - lr weight_decay) W - lr (NS(M1) + slow NS(M2)) / (sqrt(V) + eps) (NL Algorithm 1).

    Nested Learning (arXiv 2512.24695). M1 sums or averages every gradient (`momentum` is the paper's beta1), M2 the
    gradients of `period` steps at a time (beta3), V their squares (beta2), `slow` is the paper's alpha. What
    `as_printed=True` and the exponential averages of `as_printed=False` mean in full, and what was chosen, is said at
    the rule, `nestmem.optim.inner.M3`. State: five matrices per matrix; NS(M2) is kept between its updates, so a
    step costs one Newton-Schulz and every `period`-th two.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.02,
        momentum: float = 0.9,
        slow: float = 0.5,
        period: int = 10,
        beta2: float = 0.99,
        beta3: float = 0.9,
        as_printed: bool = False,
        second: bool = True,
        eps: float = 1e-8,
        steps: int = 5,
        weight_decay: float = 0.0,
        **vectors: Unpack[VectorOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "slow": slow,
            "period": period,
            "beta2": beta2,
            "beta3": beta3,
            "as_printed": as_printed,
            "second": second,
            "eps": eps,
            "steps": steps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults, **vectors)

    def check(self, group: dict[str, Any]) -> None:
        """slow >= 0, period and steps >= 1, betas in [0, 1) (beta2 and beta3 up to 1 as printed)."""
        check_number("slow", group["slow"], 0)
        check_whole("period", group["period"], 1)
        check_whole("steps", group["steps"], 1)
        check_number("eps", group["eps"], 0, above=True)
        for name in ("beta2", "beta3"):
            check_number(name, group[name], 0, 1, below=not group["as_printed"])

    def rule(self, group: dict[str, Any]) -> inner.M3:
        """The inner form."""
        names = ("slow", "period", "beta2", "beta3", "as_printed", "second", "eps", "steps")
        return inner.M3(**{name: group[name] for name in names})
