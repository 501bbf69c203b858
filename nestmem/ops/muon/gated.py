"""The gated MLP memory of LaCT and Atlas++."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nestmem.core.activations import ACTIVATIONS, FUNCTIONS
from nestmem.core.model import Weights
from nestmem.core.objective import Objective
from nestmem.errors import InputError


@dataclass(frozen=True)
class Gated:
    """M(x) = [x +] (sigma(x W_gate) * (x W_up)) W_down, a SwiGLU network as a memory.

    `key`, `hidden` and `value` are its widths. LaCT (arXiv 2505.23884) has no residual, Atlas++
    (arXiv 2505.23735) has one. Weights: gate and up [B, H, key, hidden], down [B, H, hidden, value].

    >>> Gated(4, 8, 4).init(batch=2, heads=3)["down"].shape
    torch.Size([2, 3, 8, 4])
    """

    key: int
    hidden: int
    value: int
    activation: str = "silu"
    residual: bool = False

    def __post_init__(self) -> None:
        if min(self.key, self.hidden, self.value) < 1:
            raise InputError(
                f"widths are at least 1; got key={self.key}, hidden={self.hidden}, value={self.value}"
            )
        if self.activation not in ACTIVATIONS:
            raise InputError(f"activation is one of {sorted(ACTIVATIONS)}; got {self.activation!r}")
        if self.residual and self.key != self.value:
            raise InputError(
                f"a residual memory maps a width onto itself; key={self.key}, value={self.value}"
            )

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Name -> shape of the weights of one sequence and head."""
        wide = self.key, self.hidden
        return {"gate": wide, "up": wide, "down": (self.hidden, self.value)}

    def init(
        self,
        batch: int,
        heads: int = 1,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Weights:
        """Normal weights of standard deviation I^(-1/2), the same for every sequence."""
        return {
            name: (
                torch.randn(heads, i, o, generator=generator, dtype=dtype, device=device) * i**-0.5
            ).expand(batch, heads, i, o)
            for name, (i, o) in self.shapes.items()
        }

    def __call__(self, weights: Weights, keys: Tensor) -> Tensor:
        """[B, H, T, K] -> [B, H, T, V]."""
        function = FUNCTIONS[self.activation]
        prediction = (function(keys @ weights["gate"]) * (keys @ weights["up"])) @ weights["down"]
        return keys + prediction if self.residual else prediction

    def factors(
        self,
        weights: Weights,
        keys: Tensor,
        values: Tensor,
        objective: Objective,
        threshold: Tensor | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Each matrix's input x [B, H, T, I] and error d = dloss/d(x W) [B, H, T, O]."""
        gate, up = keys @ weights["gate"], keys @ weights["up"]
        opened, slope, _ = ACTIVATIONS[self.activation](gate, False)
        hidden = opened * up
        prediction = hidden @ weights["down"]
        error = objective.gradient(keys + prediction if self.residual else prediction, values, threshold)
        back = error @ weights["down"].mT
        return {
            "gate": (keys, back * up * slope),
            "up": (keys, back * opened),
            "down": (hidden, error),
        }

    def gradients(
        self,
        weights: Weights,
        keys: Tensor,
        values: Tensor,
        objective: Objective,
        threshold: Tensor | None = None,
    ) -> tuple[Weights, Weights]:
        """Per token: the objective's gradient for each matrix [B, H, T, I, O], and each matrix's input [B, H, T, I]."""
        factors = self.factors(weights, keys, values, objective, threshold)
        gradients = {name: x[..., :, None] * d[..., None, :] for name, (x, d) in factors.items()}
        return gradients, {name: x for name, (x, _) in factors.items()}
