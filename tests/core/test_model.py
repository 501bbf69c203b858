"""The law of models: `gradients` is autograd of the objective, token by token."""

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from nestmem.core import L2, MLP, Dot, Gates, Huber, Linear, Loss, Lp, Memory, Network, Objective
from nestmem.core.activations import ACTIVATIONS, FUNCTIONS
from nestmem.core.model import Weights, batched
from nestmem.errors import InputError

OBJECTIVES = [
    Dot(),
    L2(0.7),
    Huber(0.8),
    Lp(p=1.5, smooth=1e-2),
    Lp(),
    Loss(lambda p, v: (p - v).exp().sum()),
]
SIZES = [(3, 3), (3, 5, 3), (3, 4, 2, 3)]
B, H, T = 2, 2, 3

random = partial(torch.randn, dtype=torch.float64)


def models() -> list[MLP]:
    generator = torch.Generator().manual_seed(0)
    affine = {name: random(H, 3, generator=generator) for name in ("norm_weight", "norm_bias")}
    heads = [{}, {"norm": True}, {"norm": True, **affine}]
    options = itertools.product(SIZES, heads, (False, True), (False, True))
    plain = [
        MLP(sizes=s, residual=residual, bias=bias, **head, eps=1e-3) for s, head, residual, bias in options
    ]
    acting = [MLP(sizes=s, activation=name, bias=True) for s in SIZES[1:] for name in ACTIVATIONS]
    return [*plain, MLP(sizes=(3, 5, 2)), MLP(sizes=(2, 4)), *acting]


def name(model: MLP) -> str:
    head = "affine" if model.norm_weight is not None else "norm" if model.norm else ""
    options = [head, "residual" if model.residual else "", "bias" if model.bias else ""]
    return " ".join(["x".join(map(str, model.sizes)), model.activation, *filter(None, options)])


EVERY = models()


def start(model: MLP, seed: int = 1) -> tuple[Weights, Tensor, Tensor]:
    """Weights with nothing at zero, and tokens."""
    generator = torch.Generator().manual_seed(seed)
    weights = model.init(B, H, dtype=torch.float64)
    weights = {n: random(w.shape, generator=generator) for n, w in weights.items()}
    keys = random(B, H, T, model.sizes[0], generator=generator)
    return weights, keys, random(B, H, T, model.sizes[-1], generator=generator)


def plainly(model: MLP, weights: Weights, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The MLP again, from torch's own layers, for weights [I, O] and keys [..., I]."""
    y = x
    for layer in range(model.depth):
        if layer:
            kind = "tanh" if model.activation == "gelu_tanh" else "none"
            gelu = partial(torch.nn.functional.gelu, approximate=kind)
            y = {"relu": torch.relu, "silu": torch.nn.functional.silu}.get(model.activation, gelu)(y)
        y = torch.nn.functional.linear(y, weights[str(layer)].T, weights.get(f"{layer}.bias"))
    if model.norm:
        y = torch.nn.functional.layer_norm(y, y.shape[-1:], scale, shift, model.eps)
    return x + y if model.residual else y


def affine(model: MLP) -> tuple[Tensor, Tensor]:
    ones = torch.ones(H, model.sizes[-1], dtype=torch.float64)
    weight = ones if model.norm_weight is None else model.norm_weight
    return weight, torch.zeros_like(ones) if model.norm_bias is None else model.norm_bias


@pytest.mark.parametrize("model", EVERY, ids=name)
def test_an_mlp_is_what_torch_calls_one(model: MLP) -> None:
    weights, keys, _ = start(model)
    expected = vmap(vmap(partial(plainly, model)), in_dims=(0, 0, None, None))(weights, keys, *affine(model))
    torch.testing.assert_close(model(weights, keys), expected)


@pytest.mark.parametrize("model", EVERY, ids=name)
def test_gradients_are_autograd_token_by_token(model: MLP) -> None:
    weights, keys, values = start(model)
    threshold = torch.linspace(0.1, 4, B * H * T, dtype=torch.float64).reshape(B, H, T)
    for objective in OBJECTIVES:
        limit = threshold if isinstance(objective, Huber) else None

        def loss(w, k, v, scale, shift, limit, objective=objective):
            return objective.loss(plainly(model, w, k, scale, shift), v, limit)

        per = None if limit is None else 0
        tokens = vmap(grad(loss), in_dims=(None, 0, 0, None, None, per))
        heads = vmap(tokens, in_dims=(0, 0, 0, 0, 0, per))
        every = vmap(heads, in_dims=(0, 0, 0, None, None, per))
        expected = every(weights, keys, values, *affine(model), limit)
        found, inputs = model.gradients(weights, keys, values, objective, limit)
        assert found.keys() == weights.keys()
        for n, each in found.items():
            assert each.shape == (B, H, T, *weights[n].shape[2:])
            torch.testing.assert_close(each, expected[n], rtol=1e-10, atol=1e-10)
        assert torch.equal(inputs["0"], keys)
        assert [inputs[str(i)].shape[-1] for i in range(model.depth)] == list(model.sizes[:-1])


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("model", [MLP((3, 3)), MLP((3, 5, 3), bias=True, norm=True), EVERY[-1]], ids=name)
def test_a_network_of_the_same_function_is_the_same_memory(model: MLP, objective: Objective) -> None:
    weights, keys, values = start(model)
    one = torch.ones(model.sizes[-1], dtype=torch.float64)
    network = Network(
        lambda w, k: plainly(model, w, k, one, 0 * one), {n: w[0, 0] for n, w in weights.items()}
    )
    torch.testing.assert_close(network(weights, keys), model(weights, keys))
    threshold = torch.full((B, H, T), 0.5, dtype=torch.float64) if isinstance(objective, Huber) else None
    found, inputs = network.gradients(weights, keys, values, objective, threshold)
    expected, _ = model.gradients(weights, keys, values, objective, threshold)
    assert not inputs
    for n, each in expected.items():
        torch.testing.assert_close(found[n], each, rtol=1e-10, atol=1e-10)


def test_a_network_starts_from_its_weights_everywhere() -> None:
    first = {"w": random(3, 2)}
    weights = Network(lambda w, k: k @ w["w"], first).init(4, 2, dtype=torch.float64)
    assert weights["w"].shape == (4, 2, 3, 2)
    assert (weights["w"] == first["w"]).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_derivatives_are_autograd(activation: str) -> None:
    assert ACTIVATIONS.keys() == FUNCTIONS.keys()
    function, derivatives = FUNCTIONS[activation], ACTIVATIONS[activation]
    z = torch.cat([torch.linspace(-9, 9, 400, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
    value, first, second = derivatives(z, True)
    close(value, function(z))
    close(first, vmap(grad(function))(z))
    close(second, vmap(grad(grad(function)))(z))
    assert torch.equal(derivatives(z, False)[1], first) and derivatives(z, False)[2] is None
    few = torch.linspace(-3, 3, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: derivatives(z, True)[:2], (few,))


def test_a_matrix_starts_at_zero_and_an_mlp_at_unit_gain() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert not Linear(4, 3).init(2, 3, generator=generator)["0"].any()
    assert torch.equal(generator.get_state(), before)
    weights = MLP(sizes=(64, 128, 64), bias=True).init(2, 3, generator=generator)
    assert not weights["0.bias"].any() and weights["1.bias"].shape == (2, 3, 64)
    for layer, width in (("0", 64), ("1", 128)):
        assert torch.equal(weights[layer][0], weights[layer][1])
        assert not torch.equal(weights[layer][0, 0], weights[layer][0, 1])
        assert weights[layer].std().item() == pytest.approx(width**-0.5, rel=0.03)
    again = MLP(sizes=(64, 128, 64)).init(1, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again["0"][0], weights["0"][0])


def store(d: int, keys: Tensor, values: Tensor, times: int = 1) -> Tensor:
    """What a d-wide matrix memory answers to the keys after the delta rule has seen the pairs `times` times."""
    memory = Memory(model=Linear(d, d), objective=L2(0.5))
    state = memory.init(1, dtype=torch.float64)
    for _ in range(times):
        state = memory.write(state, keys, values, Gates(rate=1.0))
    return memory.read(state, keys)


@pytest.mark.parametrize("d", [1, 4, 7])
def test_capacity_of_a_matrix_memory(d: int) -> None:
    generator = torch.Generator().manual_seed(d)
    basis, _ = torch.linalg.qr(random(d, d, generator=generator))
    keys, values = basis.T[None, None], random(1, 1, d, d, generator=generator)
    torch.testing.assert_close(store(d, keys, values), values, rtol=0, atol=1e-12)

    # One unit key more depends on the others, so some pair is wrong however often they are written.
    last = torch.nn.functional.normalize(random(1, 1, 1, d, generator=generator), dim=-1)
    more_keys = torch.cat([keys, last], dim=2)
    more_values = torch.cat([values, random(1, 1, 1, d, generator=generator) * 2], dim=2)
    best = torch.linalg.lstsq(more_keys[0, 0], more_values[0, 0]).solution
    least = (more_keys[0, 0] @ best - more_values[0, 0]).norm()
    assert least > 0.1
    for times in (1, 20):
        assert (store(d, more_keys, more_values, times) - more_values).norm() >= least - 1e-12


@pytest.mark.parametrize("sizes", [(), (4,), (4, 0), (0, 4), (4, -1, 4)])
def test_bad_sizes(sizes: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"sizes are the widths of an MLP, .* got \("):
        MLP(sizes=sizes)


def test_bad_activation_or_residual() -> None:
    with pytest.raises(InputError, match=r"activation is one of \['gelu', .*; got 'tan'"):
        MLP(sizes=(4, 4), activation="tan")
    with pytest.raises(InputError, match=r"residual memory .* sizes are \(4, 8, 3\)"):
        MLP(sizes=(4, 8, 3), residual=True)


@pytest.mark.parametrize("model", [MLP((3, 5, 2)), Network(lambda w, k: k @ w["0"], {"0": random(3, 2)})])
def test_values_of_another_width_are_refused(model: MLP | Network) -> None:
    weights, keys, values = model.init(B, H, dtype=torch.float64), random(B, H, T, 3), random(B, H, T, 1)
    with pytest.raises(InputError, match=r"values have width 2; got \["):
        model.gradients(weights, keys, values, L2())


def test_keys_of_another_width_are_refused() -> None:
    model = MLP((3, 5, 2))
    weights = model.init(B, H, dtype=torch.float64)
    with pytest.raises(InputError, match=r"keys and queries have width 3; got \[2, 2, 3, 4\]"):
        model(weights, random(B, H, T, 4))


def test_batched_gives_every_sequence_the_learned_weights() -> None:
    learned = {"0": random(H, 3, 2), "0.bias": random(H, 2)}
    found = batched(learned, 4)
    for n, w in learned.items():
        assert found[n].shape == (4, *w.shape) and (found[n] == w).all()
        assert found[n].untyped_storage().data_ptr() == w.untyped_storage().data_ptr()


def test_shapes_are_those_of_init() -> None:
    for model in (MLP((3, 5, 2), bias=True), Linear(4, 3), Network(lambda w, k: k, {"w": random(3, 2)})):
        assert model.shapes == {n: tuple(w.shape[2:]) for n, w in model.init(2, 3).items()}


def test_mlps_with_norm_tensors_can_be_compared() -> None:
    scale = torch.ones(H, 4)
    one, two = (MLP((4, 4), norm=True, norm_weight=scale) for _ in range(2))
    assert one == two and hash(one) == hash(two)
    assert one != MLP((4, 4), norm=True, norm_weight=scale.clone()) and one != MLP((4, 4), norm=True)
    assert MLP((4, 4)) == Linear(4, 4) != MLP((4, 5)) and MLP((4, 4)) != "mlp"
    assert Memory(model=one) == Memory(model=two)


@pytest.mark.parametrize("eps", [0.0, -1e-6, float("nan"), float("inf")])
def test_layer_norm_needs_a_positive_eps(eps: float) -> None:
    with pytest.raises(InputError, match=rf"eps, .*, is a positive number; got {eps}"):
        MLP((4, 4), norm=True, eps=eps)


@pytest.mark.parametrize("name", ["norm_weight", "norm_bias"])
def test_norm_tensors_that_do_not_fit(name: str) -> None:
    def made(shape: tuple[int, ...], norm: bool = True) -> MLP:
        given = {name: torch.ones(shape, dtype=torch.float64)}
        return MLP((3, 4), norm=norm, **given)  # pyright: ignore[reportArgumentType]

    with pytest.raises(InputError, match=f"{name} is given, but the model has no norm; .*norm=True"):
        made((H, 4), norm=False)
    for shape in ((H, 3), (H, 1), ()):
        with pytest.raises(InputError, match=rf"{name} is \[H, 4\] for sizes \(3, 4\); got \["):
            made(shape)
    weights, keys, values = start(MLP((3, 4)))
    for shape in ((4,), (H, 4), (B, H, 4)):
        assert made(shape)(weights, keys).shape == values.shape
    for shape in ((H + 1, 4), (1, B, H, 4)):
        with pytest.raises(InputError, match=rf"{name} \[.*\] and keys \[2, 2, 3, 3\] differ in heads"):
            made(shape)(weights, keys)
