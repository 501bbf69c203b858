"""What an inner optimizer promises, one test per law."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestmem.core import (
    L2,
    MLP,
    Adam,
    DeltaGradientDescent,
    Gates,
    GradientDescent,
    InnerOptimizer,
    Linear,
    Memory,
    Momentum,
    Network,
    NewtonSchulz,
    newton_schulz,
    unit,
)
from nestmem.core.optimizer import like
from nestmem.errors import InputError

EVERY = [GradientDescent(), Momentum(), DeltaGradientDescent(), NewtonSchulz(), Adam()]
optimizers = pytest.mark.parametrize("optimizer", EVERY, ids=lambda o: type(o).__name__)
B, H = 2, 3

random = partial(torch.randn, dtype=torch.float64)


def written(seed: int = 0) -> tuple[dict, dict, dict]:
    """Weights, gradients and layer inputs of one token."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"0": (3, 5), "0.bias": (5,), "1": (5, 2), "1.bias": (2,)}
    weights = {n: random(B, H, *shape, generator=generator) for n, shape in shapes.items()}
    gradients = {n: random(w.shape, generator=generator) for n, w in weights.items()}
    inputs = {n: random(B, H, shapes[n][0], generator=generator) for n in ("0", "1")}
    return weights, gradients, inputs


def gate(value: float) -> Tensor:
    return torch.full((B, H), value, dtype=torch.float64)


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for n, each in expected.items():
        torch.testing.assert_close(found[n], each, rtol=1e-12, atol=1e-12)


@optimizers
def test_rate_0_and_decay_1_write_nothing(optimizer: InnerOptimizer) -> None:
    weights, gradients, inputs = written()
    slots = optimizer.init(weights)
    new, _ = optimizer.update(weights, gradients, slots, gate(0), gate(1), gate(0), inputs)
    for n, w in weights.items():
        assert torch.equal(new[n], w)


@optimizers
def test_rate_0_only_decays(optimizer: InnerOptimizer) -> None:
    weights, gradients, inputs = written()
    decay = torch.linspace(0.1, 1, B * H, dtype=torch.float64).reshape(B, H)
    new, _ = optimizer.update(weights, gradients, optimizer.init(weights), gate(0), decay, gate(0), inputs)
    for n, w in weights.items():
        expected = torch.einsum("bh,bh...->bh...", decay, w)
        torch.testing.assert_close(new[n], expected, rtol=1e-14, atol=0)


@optimizers
def test_update_changes_no_argument(optimizer: InnerOptimizer) -> None:
    weights, gradients, inputs = written()
    slots = optimizer.init(weights)
    arguments = (weights, gradients, slots, gate(0.3), gate(0.9), gate(0.5), inputs)
    before = pytree.tree_map(torch.clone, arguments)
    for _ in range(2):
        optimizer.update(*arguments)
    assert pytree.tree_structure(before) == pytree.tree_structure(arguments)
    for a, b in zip(pytree.tree_leaves(before), pytree.tree_leaves(arguments), strict=True):
        assert torch.equal(a, b)


@optimizers
def test_the_state_keeps_its_shapes(optimizer: InnerOptimizer) -> None:
    weights, gradients, inputs = written()
    slots = optimizer.init(weights)
    new, after = optimizer.update(weights, gradients, slots, gate(0.3), gate(0.9), gate(0.5), inputs)
    for a, b in ((new, weights), (after, slots)):
        shapes = [
            {path: (x.shape, x.dtype) for path, x in pytree.tree_flatten_with_path(tree)[0]}
            for tree in (a, b)
        ]
        assert shapes[0] == shapes[1]
    # Sequences and heads are the leading dimensions of all of it, so vmap and a choice of rows apply.
    assert all(x.shape[:2] == (B, H) for x in pytree.tree_leaves(after))


@optimizers
def test_sequences_and_heads_are_strangers(optimizer: InnerOptimizer) -> None:
    weights, gradients, inputs = written()
    gates: Any = [
        torch.rand(B, H, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)
    ]
    slots = optimizer.init(weights)
    _, slots = optimizer.update(weights, gradients, slots, *gates, inputs)  # pyright: ignore[reportCallIssue]
    every, _ = optimizer.update(weights, gradients, slots, *gates, inputs)  # pyright: ignore[reportCallIssue]
    for b in range(B):
        for h in range(H):
            alone: Any = pytree.tree_map(
                lambda x, b=b, h=h: x[b : b + 1, h : h + 1], (weights, gradients, slots, *gates, inputs)
            )
            assert_same(optimizer.update(*alone)[0], {n: w[b : b + 1, h : h + 1] for n, w in every.items()})


def test_gradient_descent_is_its_equation() -> None:
    weights, gradients, inputs = written()
    new, slots = GradientDescent().update(weights, gradients, {}, gate(0.3), gate(0.9), gate(0.5), inputs)
    assert not slots
    assert_same(new, {n: 0.9 * w - 0.3 * gradients[n] for n, w in weights.items()})


def test_momentum_0_is_gradient_descent() -> None:
    weights, gradients, inputs = written()
    slots = {"momentum": written(1)[0]}
    gates = (gate(0.3), gate(0.9), gate(0))
    new, _ = Momentum().update(weights, gradients, slots, *gates, inputs)
    assert_same(new, GradientDescent().update(weights, gradients, {}, *gates, inputs)[0])


def test_momentum_is_torch_sgd_with_the_rate_inside() -> None:
    weights, gradients, inputs = written()
    parameters = {n: w.clone().requires_grad_() for n, w in weights.items()}
    sgd = torch.optim.SGD(parameters.values(), lr=0.3, momentum=0.6)
    slots = Momentum().init(weights)
    for step in range(4):
        gradients = written(step + 2)[1]
        weights, slots = Momentum().update(weights, gradients, slots, gate(0.3), gate(1), gate(0.6), inputs)
        for n, p in parameters.items():
            p.grad = gradients[n].clone()
        sgd.step()
    assert_same(weights, {n: p.detach() for n, p in parameters.items()})


def test_adam_is_torch_adam() -> None:
    weights, _, inputs = written()
    optimizer = Adam(beta1=0.8, beta2=0.95)
    parameters = {n: w.clone().requires_grad_() for n, w in weights.items()}
    adam = torch.optim.Adam(parameters.values(), lr=0.03, betas=(0.8, 0.95), eps=1e-8)
    slots = optimizer.init(weights)
    for step in range(6):
        gradients = written(step + 2)[1]
        weights, slots = optimizer.update(weights, gradients, slots, gate(0.03), gate(1), gate(0), inputs)
        for n, p in parameters.items():
            p.grad = gradients[n].clone()
        adam.step()
    for n, p in parameters.items():
        torch.testing.assert_close(weights[n], p.detach(), rtol=1e-9, atol=1e-9)


def test_adam_has_a_finite_outer_derivative_at_gradient_zero() -> None:
    weights, gradients, inputs = written()
    zero = {n: torch.zeros_like(g, requires_grad=True) for n, g in gradients.items()}
    new, _ = Adam().update(weights, zero, Adam().init(weights), gate(0.1), gate(1), gate(0), inputs)
    assert_same(new, weights)
    for each in torch.autograd.grad([w.sum() for w in new.values()], list(zero.values())):
        assert torch.isfinite(each).all()


@pytest.mark.parametrize("rate", [0.1, 1.0, 7.0])
def test_delta_gradient_descent_is_the_proximal_minimiser(rate: float) -> None:
    """Nested Learning (arXiv 2512.24695), eq. 56-57, for a unit key x and u = -dL/dy at the old weights:

    argmin_W 1/2 ||x W - u||^2 + 1/(2 rate) ||W - W_old||^2  is one step of rate / (1 + rate).
    """
    generator = torch.Generator().manual_seed(0)
    old = random(1, 1, 4, 3, generator=generator)
    x = torch.nn.functional.normalize(random(1, 1, 4, generator=generator), dim=-1)
    surprise = random(1, 1, 3, generator=generator)
    step = torch.tensor([[rate / (1 + rate)]], dtype=torch.float64)
    one = torch.ones_like(step)
    gradient = {"0": x[..., :, None] * surprise[..., None, :]}
    new, _ = DeltaGradientDescent().update({"0": old}, gradient, {}, step, one, 0 * one, {"0": x})

    def objective(w: Tensor) -> Tensor:
        fit = 0.5 * (torch.einsum("bhk,bhkv->bhv", x, w) + surprise).square().sum()
        return fit + 0.5 / rate * (w - old).square().sum()

    # The objective is a strictly convex quadratic: its derivative vanishes at the minimiser alone, which is also
    # where one Newton step from anywhere lands.
    w = new["0"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective(w), w)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-10)
    hessian = torch.autograd.functional.hessian(objective, old).reshape(12, 12)
    w = old.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective(w), w)
    newton = old - torch.linalg.solve(hessian, slope.reshape(12)).reshape(old.shape)
    torch.testing.assert_close(new["0"], newton, rtol=1e-10, atol=1e-10)


def test_delta_gradient_descent_forgets_what_stood_under_the_key() -> None:
    weights, gradients, inputs = written()
    new, _ = DeltaGradientDescent().update(
        weights, {n: 0 * g for n, g in gradients.items()}, {}, gate(1), gate(1), gate(0), inputs
    )
    for n in ("0", "1"):
        answer = torch.einsum("bhk,bhkv->bhv", inputs[n], new[n])
        torch.testing.assert_close(answer, torch.zeros_like(answer), rtol=0, atol=1e-10)
        # What stands under keys at right angles to it stays.
        other = random(B, H, weights[n].shape[2])
        direction = unit(inputs[n])
        other = other - (other * direction).sum(-1, keepdim=True) * direction
        torch.testing.assert_close(
            torch.einsum("bhk,bhkv->bhv", other, new[n]), torch.einsum("bhk,bhkv->bhv", other, weights[n])
        )
    for n in ("0.bias", "1.bias"):
        assert torch.equal(new[n], weights[n])


def test_delta_gradient_descent_with_an_l2_objective_has_negative_eigenvalues() -> None:
    """One token's transition along its key is decay - 2 rate, with which a memory can track parity."""
    memory = Memory(model=Linear(4, 3), objective=L2(0.5), optimizer=DeltaGradientDescent())
    generator = torch.Generator().manual_seed(0)
    start = {"0": random(1, 4, 3, generator=generator)}
    key = torch.nn.functional.normalize(random(1, 1, 1, 4, generator=generator), dim=-1)
    values = torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    state = memory.init(1, weights=start)
    after = memory.write(state, key, values, Gates(rate=0.9, decay=0.95))
    torch.testing.assert_close(memory.read(after, key), (0.95 - 1.8) * memory.read(state, key))


def test_delta_gradient_descent_needs_layer_inputs() -> None:
    memory = Memory(
        model=Network(lambda w, k: k @ w["w"], {"w": torch.zeros(3, 2)}), optimizer=DeltaGradientDescent()
    )
    with pytest.raises(InputError, match="DeltaGradientDescent needs the inputs of each matrix"):
        memory.write(memory.init(1), torch.ones(1, 1, 1, 3), torch.ones(1, 1, 1, 2))


def with_spectrum(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """[2, 3, M, N] with singular values from 0.05 to 1."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(random(2, 3, *shape, generator=generator), full_matrices=False)
    s = torch.logspace(-1.3, 0, min(shape), dtype=torch.float64)
    return ((u * s) @ v).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5), (1, 4), (4, 1)])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_newton_schulz_is_nearly_orthogonal(shape: tuple[int, int], scale: float, dtype: torch.dtype) -> None:
    matrices = with_spectrum(shape, dtype)
    found = newton_schulz(matrices * scale)
    assert found.dtype == dtype and found.shape == matrices.shape
    u, s, v = torch.linalg.svd(found.double(), full_matrices=False)
    assert s.min() > 0.6 and s.max() < 1.3
    # Same singular vectors, hence the same polar factor; and the scale does not matter.
    u0, _, v0 = torch.linalg.svd(matrices.double(), full_matrices=False)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(u @ v, u0 @ v0, rtol=0, atol=tolerance)
    torch.testing.assert_close(found, newton_schulz(matrices), rtol=0, atol=tolerance)


def test_newton_schulz_of_a_transpose_is_the_transpose() -> None:
    matrices = with_spectrum((6, 4), torch.float64)
    torch.testing.assert_close(newton_schulz(matrices.mT), newton_schulz(matrices).mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (3, 3)])
def test_newton_schulz_of_zero_is_zero(shape: tuple[int, int], dtype: torch.dtype) -> None:
    zero = torch.zeros(2, 1, *shape, dtype=dtype, requires_grad=True)
    found = newton_schulz(zero)
    assert torch.equal(found, torch.zeros_like(found))
    (slope,) = torch.autograd.grad(found.sum(), zero)
    assert torch.isfinite(slope).all()


def test_newton_schulz_derivative() -> None:
    matrices = with_spectrum((3, 2), torch.float64)[:1, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(newton_schulz, (matrices,))


def test_newton_schulz_step_is_its_size_whatever_the_rate() -> None:
    weights, gradients, inputs = written()
    for rate in (1e-3, 10.0):
        new, slots = NewtonSchulz().update(
            weights, gradients, NewtonSchulz().init(weights), gate(rate), gate(1), gate(0.9), inputs
        )
        for n in ("0", "1"):
            torch.testing.assert_close(new[n] - weights[n], -newton_schulz(gradients[n]))
        # A bias has no singular values and takes the momentum itself.
        torch.testing.assert_close(new["0.bias"] - weights["0.bias"], slots["momentum"]["0.bias"])


def test_unit_is_a_direction_and_zero_stays_zero() -> None:
    x = random(5, 3)
    torch.testing.assert_close(unit(x), torch.nn.functional.normalize(x, dim=-1))
    zero = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(unit(zero).sum(), zero)
    assert torch.equal(unit(zero), zero) and torch.isfinite(slope).all()


@pytest.mark.parametrize("model", [Linear(4, 4), MLP((4, 6, 4), bias=True)], ids=["matrix", "mlp"])
@optimizers
def test_a_memory_reads_better_what_it_wrote(optimizer: InnerOptimizer, model: MLP) -> None:
    generator = torch.Generator().manual_seed(0)
    memory = Memory(model=model, objective=L2(0.5), optimizer=optimizer)
    keys = torch.nn.functional.normalize(random(3, 2, 1, 4, generator=generator), dim=-1)
    values = 2 * torch.nn.functional.normalize(random(3, 2, 1, 4, generator=generator), dim=-1)
    state = memory.init(3, 2, generator=generator, dtype=torch.float64)
    if model.depth > 1:
        # Small first answers: a delta step also forgets, and a matrix step has the same size at any rate.
        state = state.replace(weights={n: 0.2 * w for n, w in state.weights.items()})
    keeps = isinstance(optimizer, Momentum | NewtonSchulz)
    after = memory.write(state, keys, values, Gates(rate=0.01, momentum=0.5 if keeps else 0.0))
    loss = [memory.objective.loss(memory.read(s, keys), values) for s in (state, after)]
    assert (loss[1] < loss[0]).all()


def test_like_gives_a_gate_the_dimensions_of_what_it_multiplies() -> None:
    for gate_shape, shape in (((B, H), (B, H, 3, 5)), ((B, H), (B, H, 5)), ((B, H, 4), (B, H, 4, 3, 5))):
        found = like(torch.ones(gate_shape), torch.ones(shape))
        assert found.shape == (*gate_shape, *[1] * (len(shape) - len(gate_shape)))
    assert like(torch.ones(B, H), torch.ones(B, H)).shape == (B, H)


@pytest.mark.parametrize("name", ["beta1", "beta2"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 2.0, float("nan")])
def test_adam_refuses_a_beta_outside_its_range(name: str, value: float) -> None:
    given = {name: value}
    with pytest.raises(InputError, match=rf"Adam needs 0 <= beta1 < 1, .*{name}={value}"):
        Adam(**given)


@pytest.mark.parametrize("eps", [0.0, -1e-8, float("nan"), float("inf")])
def test_adam_refuses_eps(eps: float) -> None:
    with pytest.raises(InputError, match=f"Adam needs .*eps > 0; got .*eps={eps}"):
        Adam(eps=eps)


@pytest.mark.parametrize("steps", [-1, 2.0, "5", True, None])
def test_newton_schulz_takes_whole_steps(steps: Any) -> None:
    with pytest.raises(InputError, match=f"steps is a whole number, at least 0; got {steps!r}"):
        NewtonSchulz(steps)
    assert NewtonSchulz(0).steps == 0


def test_newton_schulz_leaves_vectors_of_one_head_apart_from_another_s() -> None:
    optimizer = NewtonSchulz()
    generator = torch.Generator().manual_seed(0)
    w = {"scale": torch.zeros(1, 3, 5, dtype=torch.float64)}
    g = {"scale": torch.randn(1, 3, 5, generator=generator, dtype=torch.float64)}
    one = torch.ones(1, 3, dtype=torch.float64)
    new, _ = optimizer.update(w, g, optimizer.init(w), one, one, 0 * one, {})
    torch.testing.assert_close(new["scale"], -g["scale"])
