"""TTT-Linear and TTT-MLP against the authors' formulas, one token at a time."""

from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from nestmem.core import MemoryState
from nestmem.errors import InputError
from nestmem.layers import TTT

WIDTH, HEADS, CHUNK, TOKENS = 8, 2, 4, 11
SIZE = WIDTH // HEADS


def layer_of(memory: Literal["linear", "mlp"], **options) -> TTT:
    torch.manual_seed(3)
    layer = TTT(WIDTH, HEADS, memory=memory, chunk=CHUNK, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def turned(x: torch.Tensor, place: int, theta: float) -> torch.Tensor:
    """One head's vector as complex numbers x_i + i x_{i + K/2}, each turned by place theta^(-2 i / K)."""
    half = SIZE // 2
    angle = place * theta ** (-2 * torch.arange(half, dtype=torch.float64) / SIZE)
    z = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag])


def layer_norm(z, weight, bias):
    centred = z - z.mean()
    return centred / torch.sqrt(centred.square().mean() + 1e-6) * weight + bias


def layer_norm_error(z, target, weight, bias):
    """The authors' `ln_fused_l2_bwd`: the gradient of 1/2 ||LN(z) - target||^2 for z."""
    std = torch.sqrt(z.var(unbiased=False) + 1e-6)
    unit = (z - z.mean()) / std
    g = (weight * unit + bias - target) * weight
    return (SIZE * g - g.sum() - unit * (g * unit).sum()) / (SIZE * std)


def gelu(z):
    return F.gelu(z, approximate="tanh")


def gelu_slope(z):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(gelu(z).sum(), z)[0]


def plain(layer: TTT, x: torch.Tensor, memory: str, base: float) -> torch.Tensor:
    """One sequence x [T, D]."""
    heads = []
    for h in range(HEADS):
        w = [each[h] for each in layer.weights]
        b = [each[h] for each in layer.biases]
        norm = layer.norm_weight[h], layer.norm_bias[h]
        sums = [torch.zeros_like(each) for each in (*w, *b)]
        columns = slice(h * SIZE, (h + 1) * SIZE)
        made = []
        for t, x_t in enumerate(x):
            place = t % CHUNK
            q, k, v = (part[columns] for part in (layer.qkv.weight @ x_t).split(WIDTH))
            q, k = turned(q, place, layer.theta), turned(k, place, layer.theta)
            rate = base * torch.sigmoid(layer.rate_weight[h] @ x_t + layer.rate_bias[h]) / SIZE
            inputs = [k]
            z = k @ w[0] + b[0]
            if memory == "mlp":
                inputs.append(gelu(z))
                last = inputs[1] @ w[1] + b[1]
            else:
                last = z
            errors = [layer_norm_error(last, v - k, *norm)]
            if memory == "mlp":
                errors.insert(0, (errors[0] @ w[1].T) * gelu_slope(z))
            for i, (each, error) in enumerate(zip(inputs, errors, strict=True)):
                sums[i] = sums[i] + rate * torch.outer(each, error)
                sums[len(w) + i] = sums[len(w) + i] + rate * error
            share = torch.clamp(1 / (place + 1) + layer.place[place], min=0.0)
            now = [each - share * total for each, total in zip((*w, *b), sums, strict=True)]
            z = q @ now[0] + now[len(w)]
            if memory == "mlp":
                z = gelu(z) @ now[1] + now[3]
            made.append(q + layer_norm(z, *norm))
            if place == CHUNK - 1:
                w, b = now[: len(w)], now[len(w) :]
                sums = [torch.zeros_like(each) for each in sums]
        heads.append(torch.stack(made))
    y = torch.cat(heads, -1)
    y = torch.stack([layer_norm(row, layer.post_norm.weight, layer.post_norm.bias) for row in y])
    if layer.gate is not None:
        y = gelu(x @ layer.gate.weight.T) * y
    return y @ layer.output.weight.T


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize(("memory", "base"), [("linear", 1.0), ("mlp", 0.1)])
def test_the_authors_formulas(memory, base, gate):
    layer = layer_of(memory, gate=gate)
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        y, _ = layer(x)
    expected = torch.stack([plain(layer, row, memory, base).detach() for row in x])
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)


def test_a_place_of_scale_zero_writes_nothing():
    """scale_i = max(1/i + a_i, 0)."""
    layer = layer_of("linear")
    with torch.no_grad():
        layer.place.fill_(-2.0)
    x = torch.randn(1, CHUNK, WIDTH, dtype=torch.float64)
    _, state = layer(x)
    start = layer.init_state(1, dtype=x.dtype, device=x.device)
    assert isinstance(state.memory, MemoryState) and isinstance(start.memory, MemoryState)
    torch.testing.assert_close(state.memory.weights["0"], start.memory.weights["0"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 9}, "multiple of heads"),
        ({"width": 6}, "odd"),
        ({"memory": "conv"}, "memory is one of"),
        ({"chunk": 0}, "chunk"),
        ({"conv": -1}, "conv"),
        ({"expansion": 0}, "expansion"),
        ({"rate": 0.0}, "rate is a positive number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        TTT(**{"width": WIDTH, "heads": HEADS} | options)
