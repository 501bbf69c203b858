"""Inner optimizers: how a gradient becomes a write. `init(weights) -> state`, `update(...) -> (weights, state)`.

All are values and pure functions; rates, decays and momenta come with the tokens (`Gates`), so that they can be
produced by the model. Weights and gradients are dicts of [B, H, ...]; each gate is [B, H].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nestmem.core.checks import check_whole
from nestmem.core.model import Weights
from nestmem.core.state import State, state
from nestmem.errors import InputError

Slots = dict[str, Weights]  # "momentum" -> {weight name -> tensor}


@state
class Gates(State):
    """What a token says about its own write. A number stands for the same value at every token.

    rate      [B, H, T]     step size, >= 0 (Titans' theta, the delta rule's beta, Hope's eta)
    decay     [B, H, T]     share of the memory that is kept, 0 < decay <= 1 (Titans' 1 - alpha, Hope's alpha)
    momentum  [B, H, T]     share of the momentum that is kept, 0..1 (Titans' eta)
    window    [B, H, T, c]  Omega's weight of the token j places back, j = 0..c-1, >= 0 (Atlas' gamma)
    threshold [B, H, T]     Huber's threshold
    """

    rate: Tensor | float = 1.0
    decay: Tensor | float = 1.0
    momentum: Tensor | float = 0.0
    window: Tensor | None = None
    threshold: Tensor | None = None

    def expand(self, like: Tensor) -> Gates:
        """Numbers made tensors [B, H, T] of the keys' kind."""
        for name in ("rate", "decay", "momentum"):
            value = getattr(self, name)
            if not isinstance(value, Tensor | int | float):
                raise InputError(
                    f"Gates.{name} is a tensor [B, H, T] or a number; got {type(value).__name__}: use torch.as_tensor"
                )
        shape = like.shape[:-1]
        return self.replace(
            **{
                name: value if isinstance(value, Tensor) else like.new_full((), value).expand(shape)
                for name, value in (("rate", self.rate), ("decay", self.decay), ("momentum", self.momentum))
            }
        )

    def slice(self, start: int, stop: int) -> Gates:
        """The gates of tokens start..stop-1; numbers stay. InputError beyond the last token."""
        for name in ("rate", "decay", "momentum", "window", "threshold"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and not 0 <= start <= stop <= value.shape[2]:
                raise InputError(
                    f"Gates.{name} {list(value.shape)} has {value.shape[2]} tokens; got start={start}, stop={stop}"
                )
        cut = {
            name: value[:, :, start:stop]
            for name in ("rate", "decay", "momentum", "window", "threshold")
            if isinstance(value := getattr(self, name), Tensor)
        }
        return self.replace(**cut)


class InnerOptimizer(Protocol):
    """The law: update changes no argument, and with rate 0, decay 1 and no momentum it returns the weights."""

    def init(self, weights: Weights) -> Slots:
        """The optimizer's own state before the first token."""
        ...

    def update(
        self,
        weights: Weights,
        gradients: Weights,
        slots: Slots,
        rate: Tensor,
        decay: Tensor,
        momentum: Tensor,
        inputs: Weights,
    ) -> tuple[Weights, Slots]:
        """One token's write. `inputs` holds each matrix's input [B, H, I]; gates are [B, H]."""
        ...


@dataclass(frozen=True)
class GradientDescent:
    """W <- decay W - rate g."""

    def init(self, weights: Weights) -> Slots:
        return {}

    def update(
        self,
        weights: Weights,
        gradients: Weights,
        slots: Slots,
        rate: Tensor,
        decay: Tensor,
        momentum: Tensor,
        inputs: Weights,
    ) -> tuple[Weights, Slots]:
        return {n: like(decay, w) * w - like(rate, w) * gradients[n] for n, w in weights.items()}, slots


@dataclass(frozen=True)
class Momentum:
    """S <- momentum S - rate g;  W <- decay W + S (Titans, arXiv 2501.00663, eq. 13-14)."""

    def init(self, weights: Weights) -> Slots:
        return {"momentum": {n: torch.zeros_like(w) for n, w in weights.items()}}

    def update(
        self,
        weights: Weights,
        gradients: Weights,
        slots: Slots,
        rate: Tensor,
        decay: Tensor,
        momentum: Tensor,
        inputs: Weights,
    ) -> tuple[Weights, Slots]:
        s = {n: like(momentum, g) * slots["momentum"][n] - like(rate, g) * g for n, g in gradients.items()}
        return {n: like(decay, w) * w + s[n] for n, w in weights.items()}, {"momentum": s}


@dataclass(frozen=True)
class DeltaGradientDescent:
    """W <- (decay I - rate n n^T) W - rate g, n the unit input of the matrix (Nested Learning, eq. 88 and 57).

    A step on the gradient that also forgets what stood under the same input. Rows are keys, so the projection
    multiplies from the left. Biases, whose input is always 1, take a plain step. Needs rate <= decay, which
    `Memory.scan` checks: a larger rate would remove more than there is.
    """

    def init(self, weights: Weights) -> Slots:
        return {}

    def update(
        self,
        weights: Weights,
        gradients: Weights,
        slots: Slots,
        rate: Tensor,
        decay: Tensor,
        momentum: Tensor,
        inputs: Weights,
    ) -> tuple[Weights, Slots]:
        new = {}
        for name, w in weights.items():
            new[name] = like(decay, w) * w - like(rate, w) * gradients[name]
            if not name.endswith("bias"):
                if name not in inputs:
                    raise InputError(
                        "DeltaGradientDescent needs the inputs of each matrix, which only an MLP model gives"
                    )
                n = unit(inputs[name])
                new[name] = new[name] - like(rate, w) * n[..., :, None] * (n[..., None, :] @ w)
        return new, slots


@dataclass(frozen=True)
class NewtonSchulz:
    """S <- momentum S - rate g;  W <- decay W + NS(S) (Atlas, arXiv 2505.23735, section 5).

    What is no matrix takes S itself.
    """

    steps: int = 5

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, least=0)

    def init(self, weights: Weights) -> Slots:
        return {"momentum": {n: torch.zeros_like(w) for n, w in weights.items()}}

    def update(
        self,
        weights: Weights,
        gradients: Weights,
        slots: Slots,
        rate: Tensor,
        decay: Tensor,
        momentum: Tensor,
        inputs: Weights,
    ) -> tuple[Weights, Slots]:
        s = {n: like(momentum, g) * slots["momentum"][n] - like(rate, g) * g for n, g in gradients.items()}
        # Behind the gate's own dimensions stand the weight's: two of them for a matrix.
        step = {n: newton_schulz(m, self.steps) if m.ndim - rate.ndim == 2 else m for n, m in s.items()}
        return {n: like(decay, w) * w + step[n] for n, w in weights.items()}, {"momentum": s}


@dataclass(frozen=True)
class Adam:
    """m, v <- averages of g and g^2;  W <- decay W - rate m' / (sqrt(v') + eps), bias corrected (Kingma & Ba, 2015).

    The gate `momentum` is not used: the averages have fixed horizons. `eps` is inside the root as well, which keeps
    the outer derivative finite where v = 0.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and 0 < self.eps < float("inf")):
            raise InputError(
                "Adam needs 0 <= beta1 < 1, 0 <= beta2 < 1 and eps > 0; "
                f"got beta1={self.beta1}, beta2={self.beta2}, eps={self.eps}"
            )

    def init(self, weights: Weights) -> Slots:
        zero = {n: torch.zeros_like(w) for n, w in weights.items()}
        return {"mean": zero, "square": dict(zero), "count": {n: _counter(w) for n, w in weights.items()}}

    def update(
        self,
        weights: Weights,
        gradients: Weights,
        slots: Slots,
        rate: Tensor,
        decay: Tensor,
        momentum: Tensor,
        inputs: Weights,
    ) -> tuple[Weights, Slots]:
        count = {n: steps + 1 for n, steps in slots["count"].items()}
        mean = {n: self.beta1 * slots["mean"][n] + (1 - self.beta1) * g for n, g in gradients.items()}
        square = {n: self.beta2 * slots["square"][n] + (1 - self.beta2) * g * g for n, g in gradients.items()}
        new = {}
        for n, w in weights.items():
            corrected = (square[n] / (1 - self.beta2 ** count[n]) + self.eps**2).sqrt() + self.eps
            new[n] = like(decay, w) * w - like(rate, w) * (mean[n] / (1 - self.beta1 ** count[n])) / corrected
        return new, {"mean": mean, "square": square, "count": count}


# What a momentum per token says nothing to. An optimizer of the user's own may read it.
WITHOUT_MOMENTUM = (GradientDescent, DeltaGradientDescent, Adam)


def newton_schulz(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of each matrix [..., M, N] towards 1, keeping its singular vectors.

    X <- X / ||X||_F, then `steps` times X <- a X + b (X X^T) X + c (X X^T)^2 X with (a, b, c) = (3.4445, -4.7750,
    2.0315), the quintic of Jordan et al. (Muon, 2024), whose fixed band is about 0.7 to 1.2. In the input's dtype:
    bfloat16 iterations are some sixty times slower on CPUs without bfloat16 units. Zero gives zero.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    # Scaling by the largest entry first keeps the squares of tiny and huge gradients inside the dtype's range.
    largest = x.detach().abs().amax(dim=(-2, -1), keepdim=True)
    x = x / torch.where(largest > 0, largest, torch.ones_like(largest))
    x = x * (x.square().sum(dim=(-2, -1), keepdim=True) + (largest == 0)).rsqrt()
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def unit(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(||x||^2 + eps^2) over the last dimension; 0 stays 0, with a finite derivative."""
    squared = x.square().sum(-1, keepdim=True)
    return x * (squared + eps * eps).rsqrt()


def like(gate: Tensor, weight: Tensor) -> Tensor:
    """A gate with as many dimensions as what it multiplies: [B, H] -> [B, H, 1, ..], [B, H, T] -> [B, H, T, 1, ..].

    >>> like(torch.ones(2, 3), torch.ones(2, 3, 4, 5)).shape
    torch.Size([2, 3, 1, 1])
    """
    return gate.reshape(*gate.shape, *[1] * (weight.ndim - gate.ndim))


def _counter(weight: Tensor) -> Tensor:
    """Zero for each sequence and head, in dimensions that broadcast against the weight [B, H, ...].

    A plain number would be the one part of the state that vmap cannot map over.
    """
    leading = max(0, min(2, weight.ndim - 1))
    return weight.new_zeros(weight.shape[:leading] + (1,) * (weight.ndim - leading))
