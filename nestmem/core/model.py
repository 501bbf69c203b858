"""Inner models: the function whose weights are the memory. Weights are a dict of tensors with leading dimensions
[B, H], so every sequence and head has its own; `x @ W` is the convention throughout (keys are rows)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from nestmem.core.objective import Objective
from nestmem.errors import InputError

Weights = dict[str, Tensor]

# name -> (function, its derivative)
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {}


def activation(name: str) -> Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]:
    """Register the derivative of torch's function of that name."""
    functions = {
        "gelu": F.gelu,
        "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
        "silu": F.silu,
        "relu": F.relu,
    }

    def register(derivative: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        ACTIVATIONS[name] = (functions[name], derivative)
        return derivative

    return register


@activation("gelu")
def gelu_derivative(z: Tensor) -> Tensor:
    """d/dz z Phi(z) = Phi(z) + z phi(z)."""
    return 0.5 * (1 + torch.erf(z * 0.5**0.5)) + z * torch.exp(-0.5 * z * z) * (2 * torch.pi) ** -0.5


@activation("gelu_tanh")
def gelu_tanh_derivative(z: Tensor) -> Tensor:
    """The derivative of the tanh approximation, as in TTT's official code."""
    c, a = (2 / torch.pi) ** 0.5, 0.044715
    t = torch.tanh(c * (z + a * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * c * (1 + 3 * a * z * z)


@activation("silu")
def silu_derivative(z: Tensor) -> Tensor:
    """d/dz z s(z) = s (1 + z (1 - s))."""
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


@activation("relu")
def relu_derivative(z: Tensor) -> Tensor:
    """1 where z > 0."""
    return (z > 0).to(z.dtype)


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

    >>> MLP(sizes=(4, 8, 4)).init(batch=2, heads=3)["0"].shape
    torch.Size([2, 3, 4, 8])
    """

    sizes: tuple[int, ...]
    activation: str = "gelu"
    residual: bool = False
    norm: bool = False
    bias: bool = False
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
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

    @property
    def depth(self) -> int:
        """Number of matrices."""
        return len(self.sizes) - 1

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
        derivative = ACTIVATIONS[self.activation][1]
        for layer in range(self.depth - 1, 0, -1):
            errors.append((errors[-1] @ weights[str(layer)].mT) * derivative(pre[layer - 1]))
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
        function = ACTIVATIONS[self.activation][0]
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
