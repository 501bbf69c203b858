"""Deep momentum: the momentum of each matrix is a small MLP that is trained as the model trains."""

from __future__ import annotations

from typing import Any, Unpack

from nestmem.errors import InputError
from nestmem.optim import inner
from nestmem.optim.matrices import MatrixOptimizer, Params, VectorOptions, check_number, check_whole


class DMGD(MatrixOptimizer):
    """W <- (1 - lr weight_decay) W + lr sigma(m(u)), m an MLP trained on the gradients u (NL eq. 50 and 52).

    Nested Learning (arXiv 2512.24695). The MLP, its objective ("dot" or "l2"), its start and how u is normalised are
    choices of ours, given with reasons at the rule, `nestmem.optim.inner.DMGD`. For a weight [O, I], u is a column
    of the gradient, and m is shared by all columns. `orthogonal=True` is sigma = Newton-Schulz. State per matrix:
    O (I + 3 hidden) numbers. Steps do not depend on the gradient's scale.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 0.02,
        momentum: float = 0.9,
        hidden: int = 32,
        objective: str = "dot",
        memory_rate: float | None = None,
        orthogonal: bool = False,
        steps: int = 5,
        seed: int = 0,
        weight_decay: float = 0.0,
        **vectors: Unpack[VectorOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "hidden": hidden,
            "objective": objective,
            "memory_rate": memory_rate,
            "orthogonal": orthogonal,
            "steps": steps,
            "seed": seed,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults, **vectors)

    def check(self, group: dict[str, Any]) -> None:
        """hidden >= 0, a known objective, memory_rate in (0, 1]."""
        check_whole("hidden", group["hidden"], 0)
        check_whole("steps", group["steps"], 1)
        check_whole("seed", group["seed"], 0)
        if group["objective"] not in ("dot", "l2"):
            raise InputError(f"objective is 'dot' or 'l2'; got {group['objective']!r}")
        if group["memory_rate"] is not None:
            check_number("memory_rate", group["memory_rate"], 0, 1, above=True)

    def rule(self, group: dict[str, Any]) -> inner.DMGD:
        """The inner form."""
        names = ("hidden", "objective", "memory_rate", "orthogonal", "steps", "seed")
        return inner.DMGD(**{name: group[name] for name in names})
