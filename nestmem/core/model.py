"""Inner models: the function whose weights are the memory. Weights are a dict of tensors with leading dimensions
[B, H], so every sequence and head has its own; `x @ W` is the convention throughout (keys are rows)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Protocol

import torch
from torch import Tensor

from nestmem.core.activations import ACTIVATIONS, FUNCTIONS
from nestmem.core.objective import Objective
from nestmem.errors import InputError

Weights = dict[str, Tensor]


def batched(weights: Weights, batch: int) -> Weights:
    """Learned weights, name -> [H, ...], as every sequence's own, name -> [B, H, ...]; nothing is copied."""
    return {name: w.expand(batch, *w.shape) for name, w in weights.items()}


class Model(Protocol):
    """A function of (weights, keys). The law: `gradients` = autograd of the objective, token by token."""

    def init(
        self,
        batch: int,
        heads: int = 1,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Weights:
        """Fresh weights, each [B, H, ...]."""
        ...

    def __call__(self, weights: Weights, keys: Tensor) -> Tensor:
        """[B, H, T, K] -> [B, H, T, V]."""
        ...

    def gradients(
        self,
        weights: Weights,
        keys: Tensor,
        values: Tensor,
        objective: Objective,
        threshold: Tensor | None = None,
    ) -> tuple[Weights, Weights]:
        """Per token: the objective's gradient for each weight [B, H, T, ...], and each matrix's input [B, H, T, I]."""
        ...


@dataclass(frozen=True)
class MLP:
    """M(x) = [x +] [norm](sigma(.. sigma(x W_0) ..) W_last), with `sizes` the widths, input first.

    One size pair is a matrix memory. `residual` and `norm` give the heads of Titans (x + MLP), TTT and Miras
    (x + LayerNorm(MLP)); `norm_weight` and `norm_bias` [H, V] are outer parameters, never written by the memory.
    Two MLPs are equal if all numbers are, and their norm tensors the same objects.

    >>> MLP(sizes=(4, 8, 4)).init(batch=2, heads=3)["0"].shape
    torch.Size([2, 3, 4, 8])
    """

    sizes: tuple[int, ...]
    activation: str = "gelu"
    residual: bool = False
    norm: bool = False
    bias: bool = False
    norm_weight: Tensor | None = field(default=None, compare=False)
    norm_bias: Tensor | None = field(default=None, compare=False)
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise InputError(
                f"sizes are the widths of an MLP, input first, such as (64, 256, 64); got {self.sizes}"
            )
        if self.activation not in ACTIVATIONS:
            raise InputError(f"activation is one of {sorted(ACTIVATIONS)}; got {self.activation!r}")
        if self.residual and self.sizes[0] != self.sizes[-1]:
            raise InputError(f"a residual memory maps a width onto itself; sizes are {self.sizes}")
        if not 0 < self.eps < float("inf"):
            raise InputError(
                f"eps, which layer norm adds to the variance, is a positive number; got {self.eps}"
            )
        for name in ("norm_weight", "norm_bias"):
            value = getattr(self, name)
            if value is not None and not self.norm:
                raise InputError(f"{name} is given, but the model has no norm; make it with norm=True")
            if value is not None and value.shape[-1:] != self.sizes[-1:]:
                raise InputError(
                    f"{name} is [H, {self.sizes[-1]}] for sizes {self.sizes}; got {list(value.shape)}"
                )

    def __eq__(self, other: object) -> bool:
        # `==` of tensors is a tensor, and comparing their numbers would wait for the device.
        if not isinstance(other, MLP):
            return NotImplemented
        numbers = all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self) if f.compare)
        return numbers and self.norm_weight is other.norm_weight and self.norm_bias is other.norm_bias

    @property
    def depth(self) -> int:
        """Number of matrices."""
        return len(self.sizes) - 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the weights of one sequence and head."""
        every: dict[str, tuple[int, ...]] = {}
        for layer, (i, o) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            every[str(layer)] = (i, o)
            if self.bias:
                every[f"{layer}.bias"] = (o,)
        return every

    def init(
        self,
        batch: int,
        heads: int = 1,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Weights:
        """Normal weights of standard deviation I^(-1/2), the same for every sequence; biases zero.

        A matrix memory starts at zero, as in linear attention and the delta rule.
        """
        weights: Weights = {}
        for layer, (i, o) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            if self.depth == 1:
                matrix = torch.zeros(heads, i, o, dtype=dtype, device=device)
            else:
                matrix = torch.randn(heads, i, o, generator=generator, dtype=dtype, device=device) * i**-0.5
            weights[str(layer)] = matrix.expand(batch, heads, i, o)
            if self.bias:
                weights[f"{layer}.bias"] = matrix.new_zeros(batch, heads, o)
        return weights

    def __call__(self, weights: Weights, keys: Tensor) -> Tensor:
        """[B, H, T, I] -> [B, H, T, O]."""
        return self.head(keys, self._layers(weights, keys)[1])[0]

    def head(self, keys: Tensor, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The prediction from the last layer's output z, and the map from dloss/dprediction to dloss/dz."""
        if not self.norm:
            return (keys + z if self.residual else z), lambda error: error
        for name, value in (("norm_weight", self.norm_weight), ("norm_bias", self.norm_bias)):
            if value is not None and not _fits(value.shape[:-1], z.shape[:-2]):
                raise InputError(
                    f"{name} {list(value.shape)} and keys {list(keys.shape)} differ in heads; make it "
                    f"{[z.shape[-3], self.sizes[-1]]}"
                )
        centred = z - z.mean(-1, keepdim=True)
        inverse = (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        unit = centred * inverse
        scale = 1 if self.norm_weight is None else self.norm_weight[..., None, :]
        shift = 0 if self.norm_bias is None else self.norm_bias[..., None, :]
        prediction = unit * scale + shift

        def backward(error: Tensor) -> Tensor:
            e = error * scale
            return inverse * (e - e.mean(-1, keepdim=True) - unit * (e * unit).mean(-1, keepdim=True))

        return (keys + prediction if self.residual else prediction), backward

    def factors(
        self,
        weights: Weights,
        keys: Tensor,
        values: Tensor,
        objective: Objective,
        threshold: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Each layer's input x_l [B, H, T, I] and error d_l = dloss/dz_l [B, H, T, O].

        The gradient of one token is the outer product of the two (Nested Learning, arXiv 2512.24695, eq. 54-55:
        backpropagation stores local surprise under the layer's input).
        """
        inputs, z, pre = self._layers(weights, keys)
        if values.shape[-1] != self.sizes[-1]:
            raise InputError(f"values have width {self.sizes[-1]}; got {list(values.shape)}")
        prediction, backward = self.head(keys, z)
        errors = [backward(objective.gradient(prediction, values, threshold))]
        derivatives = ACTIVATIONS[self.activation]
        for layer in range(self.depth - 1, 0, -1):
            errors.append((errors[-1] @ weights[str(layer)].mT) * derivatives(pre[layer - 1], False)[1])
        return inputs, errors[::-1]

    def gradients(
        self,
        weights: Weights,
        keys: Tensor,
        values: Tensor,
        objective: Objective,
        threshold: Tensor | None = None,
    ) -> tuple[Weights, Weights]:
        """Per token: the objective's gradient for each weight [B, H, T, ...], and each matrix's input [B, H, T, I]."""
        inputs, errors = self.factors(weights, keys, values, objective, threshold)
        gradients: Weights = {}
        for layer, (x, d) in enumerate(zip(inputs, errors, strict=True)):
            gradients[str(layer)] = x[..., :, None] * d[..., None, :]
            if self.bias:
                gradients[f"{layer}.bias"] = d
        return gradients, {str(layer): x for layer, x in enumerate(inputs)}

    def _layers(self, weights: Weights, keys: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Inputs of every layer, the last layer's output, and every layer's output before its activation."""
        function = FUNCTIONS[self.activation]
        inputs, outputs = [], []
        x = keys
        if keys.shape[-1] != self.sizes[0]:
            raise InputError(f"keys and queries have width {self.sizes[0]}; got {list(keys.shape)}")
        for layer in range(self.depth):
            inputs.append(x)
            z = x @ weights[str(layer)]
            if self.bias:
                z = z + weights[f"{layer}.bias"][..., None, :]
            outputs.append(z)
            x = function(z)
        return inputs, outputs[-1], outputs


def _fits(shape: tuple[int, ...], wide: tuple[int, ...]) -> bool:
    """Whether a shape broadcasts to a wider one without changing it."""
    pairs = zip(reversed(shape), reversed(wide), strict=False)
    return len(shape) <= len(wide) and all(n in (1, most) for n, most in pairs)


def Linear(key: int, value: int) -> MLP:
    """A matrix memory M(k) = k W, W [K, V], starting at zero."""
    return MLP(sizes=(key, value))


@dataclass(frozen=True)
class Network:
    """Any function of (weights, keys [T, K]) for one sequence and head; gradients come from autograd.

    `start` holds its initial weights without the batch and head dimensions.
    """

    function: Callable[[Weights, Tensor], Tensor]
    start: Weights

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the weights of one sequence and head."""
        return {name: tuple(w.shape) for name, w in self.start.items()}

    def init(
        self,
        batch: int,
        heads: int = 1,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Weights:
        """The start weights for every sequence and head. Nothing is drawn."""
        return {
            name: w.to(dtype=dtype, device=device).expand(batch, heads, *w.shape)
            for name, w in self.start.items()
        }

    def __call__(self, weights: Weights, keys: Tensor) -> Tensor:
        """[B, H, T, K] -> [B, H, T, V]."""
        return torch.func.vmap(torch.func.vmap(self.function))(weights, keys)

    def gradients(
        self,
        weights: Weights,
        keys: Tensor,
        values: Tensor,
        objective: Objective,
        threshold: Tensor | None = None,
    ) -> tuple[Weights, Weights]:
        """Per token: the objective's gradient for each weight [B, H, T, ...]. Inputs of layers are not known."""

        def loss(weights: Weights, key: Tensor, value: Tensor, limit: Tensor | None) -> Tensor:
            prediction = self.function(weights, key[None])
            if prediction.shape[-1] != value.shape[-1]:
                raise InputError(f"values have width {prediction.shape[-1]}; got {list(values.shape)}")
            return objective.loss(prediction, value[None], limit)[0]

        tokens = torch.func.vmap(
            torch.func.grad(loss), in_dims=(None, 0, 0, None if threshold is None else 0)
        )
        every = torch.func.vmap(
            torch.func.vmap(tokens, in_dims=(0, 0, 0, None if threshold is None else 0)),
            in_dims=(0, 0, 0, None if threshold is None else 0),
        )
        return every(weights, keys, values, threshold), {}
