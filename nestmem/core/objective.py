"""Inner objectives: what a memory is asked to make small when it writes. Each is a value with two functions.

`loss(prediction, target)` sums over the last dimension, one number per token; `gradient` is its derivative with
respect to the prediction, in closed form where there is one. The law: gradient = autograd of loss (tested).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nestmem.errors import InputError


class Objective(Protocol):
    """A loss per token. `threshold` [..., T] is Huber's; the others ignore it."""

    def loss(self, prediction: Tensor, target: Tensor, threshold: Tensor | None = None) -> Tensor:
        """[..., T, V], [..., T, V] -> [..., T]."""
        ...

    def gradient(self, prediction: Tensor, target: Tensor, threshold: Tensor | None = None) -> Tensor:
        """dloss/dprediction [..., T, V]."""
        ...


@dataclass(frozen=True)
class Dot:
    """-<M(k), v>, the objective of linear attention and DLA (Nested Learning, arXiv 2512.24695, section 3)."""

    def loss(self, prediction: Tensor, target: Tensor, threshold: Tensor | None = None) -> Tensor:
        return -(prediction * target).sum(-1)

    def gradient(self, prediction: Tensor, target: Tensor, threshold: Tensor | None = None) -> Tensor:
        return -target.expand_as(prediction)


@dataclass(frozen=True)
class L2:
    """factor ||M(k) - v||^2. Titans has factor 1 (arXiv 2501.00663, eq. 12), the delta rule 1/2."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.factor < float("inf"):
            raise InputError(f"L2's factor is a positive number; got {self.factor}")

    def loss(self, prediction: Tensor, target: Tensor, threshold: Tensor | None = None) -> Tensor:
        return self.factor * (prediction - target).square().sum(-1)

    def gradient(self, prediction: Tensor, target: Tensor, threshold: Tensor | None = None) -> Tensor:
        return (2 * self.factor) * (prediction - target)


@dataclass(frozen=True)
class Huber:
    """Huber's loss of the error's norm n = ||M(k) - v||: n^2 up to the threshold, then linear with the same slope.

    Miras' Yaad (arXiv 2504.13173, section 5.1): squared error for small errors, absolute for large. The gradient is
    2 e min(1, threshold / n), so it is continuous, which the paper's two cases are only for a suitable scale.
    A threshold given with the tokens takes precedence over the fixed one.
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < float("inf"):
            raise InputError(f"Huber's threshold is a positive number; got {self.threshold}")

    def loss(self, prediction: Tensor, target: Tensor, threshold: Tensor | None = None) -> Tensor:
        squared = (prediction - target).square().sum(-1)
        limit = self._limit(squared, threshold)
        inside = squared <= limit.square()
        # sqrt has no derivative at 0, so the branch that is not taken sees a 1.
        norm = torch.where(inside, torch.ones_like(squared), squared).sqrt()
        return torch.where(inside, squared, limit * (2 * norm - limit))

    def gradient(self, prediction: Tensor, target: Tensor, threshold: Tensor | None = None) -> Tensor:
        error = prediction - target
        squared = error.square().sum(-1)
        limit = self._limit(squared, threshold)
        inside = squared <= limit.square()
        norm = torch.where(inside, torch.ones_like(squared), squared).sqrt()
        return 2 * error * torch.where(inside, torch.ones_like(squared), limit / norm)[..., None]

    def _limit(self, like: Tensor, threshold: Tensor | None) -> Tensor:
        return like.new_tensor(self.threshold).expand_as(like) if threshold is None else threshold


@dataclass(frozen=True)
class Lp:
    """sum_i (e_i^2 + smooth)^(p/2), e = M(k) - v: the l_p bias of Miras' Moneta (arXiv 2504.13173; p = 3).

    `smooth` > 0 keeps the derivatives finite at e = 0 for p < 2. The paper smooths sign and |.| separately, which
    makes its gradient no loss's derivative; here one smoothing does both.
    """

    p: float = 3.0
    smooth: float = 1e-6

    def __post_init__(self) -> None:
        finite = 1 <= self.p < float("inf") and 0 <= self.smooth < float("inf")
        if not finite or (self.smooth == 0 and self.p < 2):
            raise InputError(
                f"Lp needs p >= 1 and smooth > 0 (0 only for p >= 2), both finite; got p={self.p}, smooth={self.smooth}"
            )

    def loss(self, prediction: Tensor, target: Tensor, threshold: Tensor | None = None) -> Tensor:
        return ((prediction - target).square() + self.smooth).pow(self.p / 2).sum(-1)

    def gradient(self, prediction: Tensor, target: Tensor, threshold: Tensor | None = None) -> Tensor:
        error = prediction - target
        base = error.square() + self.smooth
        if self.smooth > 0 or self.p == 2:
            return self.p * error * base.pow(self.p / 2 - 1)
        # Where the error is 0 so is this gradient's derivative, but the power's own can be infinite.
        away = base > 0
        power = torch.where(away, base, torch.ones_like(base)).pow(self.p / 2 - 1)
        return self.p * error * torch.where(away, power, torch.zeros_like(base))


@dataclass(frozen=True)
class Loss:
    """Any differentiable function (prediction [V], target [V]) -> scalar; its gradient comes from autograd.

    >>> cosine = Loss(lambda p, v: 1 - torch.cosine_similarity(p, v, dim=-1))
    >>> cosine.loss(torch.ones(5, 2), torch.ones(5, 2)).abs().max() < 1e-6
    tensor(True)
    """

    function: Callable[[Tensor, Tensor], Tensor]

    def loss(self, prediction: Tensor, target: Tensor, threshold: Tensor | None = None) -> Tensor:
        return _per_token(self.function, prediction, target.expand_as(prediction))

    def gradient(self, prediction: Tensor, target: Tensor, threshold: Tensor | None = None) -> Tensor:
        return _per_token(torch.func.grad(self.function), prediction, target.expand_as(prediction))


# What a threshold per token says nothing to. An objective of the user's own may read it.
WITHOUT_THRESHOLD = (Dot, L2, Lp, Loss)


def _per_token(function: Callable[..., Tensor], prediction: Tensor, target: Tensor) -> Tensor:
    """The function of single vectors applied to every token."""
    shape = prediction.shape[:-1]
    out = torch.func.vmap(function)(
        prediction.reshape(-1, prediction.shape[-1]), target.reshape(-1, target.shape[-1])
    )
    return out.reshape(shape + out.shape[1:])
