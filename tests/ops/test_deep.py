"""The deep memory: identities between rules, the derivative by hand, mixing matrices, bad input."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nestmem.core import L2, MLP, Dot, Gates, Linear, Memory, MemoryState, Period
from nestmem.core.activations import ACTIVATIONS
from nestmem.errors import InputError
from nestmem.ops import deep, delta, linear
from nestmem.ops.deep import chunk as deep_chunk
from nestmem.ops.gates import banded, gate_products

B, H, T, D = 2, 2, 11, 4
DEEP = MLP(sizes=(D, 6, D), residual=True)


def tokens(seed: int = 0, t: int = T, width: int = D) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, B, H, t, width, generator=generator, dtype=torch.float64)
    return normalize(q, dim=-1), normalize(k, dim=-1), v


def gates(seed: int = 1, *names: str) -> Gates:
    generator = torch.Generator().manual_seed(seed)
    draw = {
        n: torch.rand(B, H, T, generator=generator, dtype=torch.float64)
        for n in ("rate", "decay", "momentum")
    }
    made = {"rate": 0.2 * draw["rate"], "decay": 1 - 0.4 * draw["decay"], "momentum": 0.8 * draw["momentum"]}
    return Gates(**{n: made[n] for n in names or made})


def start(model: MLP = DEEP, **options: Any) -> MemoryState:
    generator = torch.Generator().manual_seed(2)
    return deep.init(model, B, H, generator=generator, dtype=torch.float64, **options)


def test_titans_without_momentum_is_decayed_gradient_descent() -> None:
    q, k, v = tokens()
    g = gates(1, "rate", "decay")
    still = g.replace(momentum=torch.zeros(B, H, T, dtype=torch.float64))
    plain, _ = deep.chunked(q, k, v, g, start(), model=DEEP, chunk=4)
    with_zero, _ = deep.chunked(q, k, v, still, start(momentum=True), model=DEEP, chunk=4)
    torch.testing.assert_close(plain, with_zero, rtol=1e-12, atol=1e-12)


def test_a_window_of_which_only_the_newest_token_counts_is_titans() -> None:
    q, k, v = tokens()
    only = torch.zeros(B, H, T, 3, dtype=torch.float64)
    only[..., 0] = 1
    titans, _ = deep.chunked(q, k, v, gates(), start(momentum=True), model=DEEP, chunk=4)
    omega, _ = deep.chunked(
        q, k, v, gates().replace(window=only), start(momentum=True, window=3), model=DEEP, chunk=4, window=3
    )
    torch.testing.assert_close(titans, omega, rtol=1e-12, atol=1e-12)


def test_a_matrix_memory_with_the_dot_objective_is_linear_attention() -> None:
    q, k, v = tokens()
    model = Linear(D, D)
    decay = torch.as_tensor(gates().decay)
    found, _ = deep.chunked(q, k, v, Gates(decay=decay), start(model), model=model, objective=Dot(), chunk=4)
    expected, _ = linear.chunked(q, k, v, decay)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_matrix_memory_refreshed_at_every_token_is_the_delta_rule() -> None:
    q, k, v = tokens()
    model, rate = Linear(D, D), torch.as_tensor(gates().rate)
    found, _ = deep.chunked(q, k, v, Gates(rate=rate), start(model), model=model, objective=L2(0.5), chunk=1)
    expected, _ = delta.chunked(q, k, v, rate)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_ttt_linear_over_one_chunk_without_its_norm_is_linear_attention() -> None:
    q, k, v = tokens()
    model = MLP(sizes=(D, D))
    one = torch.ones(B, H, T, dtype=torch.float64)
    options = {"model": model, "objective": L2(0.5), "chunk": T, "scale": one}
    found, _ = deep.chunked(q, k, v, Gates(), start(model, averaged=True), **options)
    expected, _ = linear.chunked(q, k, v)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_rate_zero_is_the_network() -> None:
    q, k, v = tokens()
    out, after = deep.chunked(q, k, v, Gates(rate=0.0), start(), model=DEEP, chunk=4)
    torch.testing.assert_close(out, DEEP(start().weights, q))
    torch.testing.assert_close(after.weights["0"], start().weights["0"])


@pytest.mark.parametrize("t", [1, 4, 5, 9])
def test_chunk_may_be_longer_than_the_sequence(t: int) -> None:
    q, k, v = (x[:, :, :t] for x in tokens())
    g = gates().slice(0, t)
    memory = Memory(model=DEEP, period=Period(chunk=1000))
    plain = g.replace(momentum=0.0)
    found, _ = deep.chunked(q, k, v, plain, start(), model=DEEP, chunk=1000)
    expected, _ = memory.scan(start(), q, k, v, plain)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("objective", [L2(), Dot()], ids=str)
def test_derivative_by_hand_is_autograd_s(
    objective: Any, norm: bool, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through two chunks and a state in the middle of one, for every argument."""
    weight, shift = torch.rand(2, H, D, dtype=torch.float64)
    found = []
    for by_hand in (True, False):
        if not by_hand:
            monkeypatch.setattr(deep_chunk, "transformed", lambda: True)
        model = MLP(
            sizes=(D, 5, 6, D),
            activation="silu",
            residual=True,
            norm=norm,
            bias=bias,
            norm_weight=weight.clone().requires_grad_() if norm else None,
            norm_bias=shift.clone().requires_grad_() if norm else None,
        )
        q, k, v = (x.requires_grad_() for x in tokens())
        g = gates().map(lambda x: x.clone().requires_grad_())
        first = start(model, momentum=True)
        leaves = {n: w.clone().requires_grad_() for n, w in first.weights.items()}
        state = first.replace(weights=leaves, anchor=leaves)
        options = {"model": model, "objective": objective, "chunk": 4}
        a, state = deep.chunked(q[:, :, :6], k[:, :, :6], v[:, :, :6], g.slice(0, 6), state, **options)
        b, state = deep.chunked(q[:, :, 6:], k[:, :, 6:], v[:, :, 6:], g.slice(6, T), state, **options)
        loss = (
            torch.cat([a, b], 2).square().sum()
            + state.weights["1"].sum()
            + state.slots["momentum"]["0"].square().sum()
        )
        outer = [x for x in (model.norm_weight, model.norm_bias) if x is not None]
        every = [torch.as_tensor(x) for x in (q, k, v, g.rate, g.decay, g.momentum, *leaves.values(), *outer)]
        found.append(torch.autograd.grad(loss, every))
    for by_hand, by_autograd in zip(*found, strict=True):
        torch.testing.assert_close(by_hand, by_autograd, rtol=1e-10, atol=1e-10)


def test_second_derivatives() -> None:
    q, k, v = (x[:1, :1, :5].clone().requires_grad_() for x in tokens())
    rate = gates().rate[:1, :1, :5].clone().requires_grad_()  # pyright: ignore[reportIndexIssue]
    state = start().map(lambda x: x[:1, :1].clone().requires_grad_())

    def loss(q: Tensor, k: Tensor, v: Tensor, rate: Tensor) -> Tensor:
        return deep.chunked(q, k, v, Gates(rate=rate), state, model=DEEP, chunk=2)[0].square().sum()

    assert torch.autograd.gradgradcheck(loss, (q, k, v, rate), fast_mode=True)


def test_vmap_and_compile() -> None:
    q, k, v = tokens()
    expected, _ = deep.chunked(q, k, v, gates(), start(momentum=True), model=DEEP, chunk=4)

    def run(q: Tensor, k: Tensor, v: Tensor, g: Gates, state: MemoryState) -> Tensor:
        return deep.chunked(q, k, v, g, state, model=DEEP, chunk=4)[0]

    torch.testing.assert_close(
        torch.compile(run, backend="eager")(q, k, v, gates(), start(momentum=True)), expected
    )
    twice = [torch.stack([x, x * 0.5]) for x in (q, k, v)]
    mapped = torch.func.vmap(run, in_dims=(0, 0, 0, None, None))(*twice, gates(), start(momentum=True))
    torch.testing.assert_close(mapped[0], expected)


def test_any_lower_triangular_matrix_mixes() -> None:
    """Span against weights that are formed token by token from the same matrix."""
    generator = torch.Generator().manual_seed(3)
    model, n = MLP(sizes=(D, 5, D)), 4
    q, k, v = (x.flatten(0, 1)[:, :n] for x in tokens())
    w = [torch.randn(B * H, i, o, generator=generator, dtype=torch.float64) for i, o in ((D, 5), (5, D))]
    matrix = torch.randn(B * H, n, n, generator=generator, dtype=torch.float64).tril()
    one = torch.ones(B * H, n, 1, dtype=torch.float64)
    mixing = deep.Mixing((one,), matrix, ((one[:, :1],),), (matrix[:, -1, :, None],))
    out, new, _ = deep.Span(model, L2())(q, k, v, None, (None, None), mixing, [[w[0]], [w[1]]], w)

    named = {str(i): x[:, None] for i, x in enumerate(w)}
    gradients, _ = model.gradients(named, k[:, None], v[:, None], L2())
    for t in range(n):
        share = matrix[:, None, t, :, None, None]
        at = {name: x - (share * gradients[name]).sum(2) for name, x in named.items()}
        torch.testing.assert_close(
            out[:, t], model(at, q[:, None, t : t + 1])[:, 0, 0], rtol=1e-10, atol=1e-10
        )
    torch.testing.assert_close(new[0][0], at["0"][:, 0], rtol=1e-10, atol=1e-10)


def test_bands() -> None:
    window = torch.arange(1.0, 7.0).reshape(3, 2)
    assert banded(window).tolist() == [[2, 1, 0, 0], [0, 4, 3, 0], [0, 0, 6, 5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_gates_of_zero_and_of_nearly_zero(dtype: torch.dtype) -> None:
    """A gate of 0 cuts exactly, with the derivative of the product, and no product is a denormal number."""
    gate = torch.tensor([0.5, 0.0, 1e-30, 0.5], dtype=dtype, requires_grad=True)
    between, since, _ = gate_products(gate)
    assert since.tolist() == [0.5, 0, 0, 0]
    assert between[1].tolist() == [0, 1, 0, 0]
    assert between[3, 2] == 0.5
    (found,) = torch.autograd.grad(between[1, 0] + between[3, 1], gate)
    torch.testing.assert_close(found, torch.tensor([0, 1, 0.5, 1e-30], dtype=dtype))
    many, *_ = gate_products(torch.full((200,), 0.3, dtype=dtype))
    assert ((many == 0) | (many > torch.finfo(dtype).tiny)).all()


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_and_their_derivatives(name: str) -> None:
    z = torch.linspace(-3, 3, 12, dtype=torch.float64, requires_grad=True)
    value, slope, curve = ACTIVATIONS[name](z, True)
    assert curve is not None
    (first,) = torch.autograd.grad(
        MLP(sizes=(1, 1, 1), activation=name)(
            {"0": torch.ones(1, 1, 1, 1).double(), "1": torch.ones(1, 1, 1, 1).double()},
            z[None, None, :, None],
        ).sum(),
        z,
        create_graph=True,
    )
    torch.testing.assert_close(slope, first, rtol=1e-12, atol=1e-12)
    if first.requires_grad:
        torch.testing.assert_close(curve, torch.autograd.grad(first.sum(), z)[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value.sum(), ACTIVATIONS[name](z, False)[0].sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tokens_are_computed_in_float32(dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in tokens())
    g = gates().to(dtype).replace(momentum=0.0)
    state = start().to(torch.float32)
    out, after = deep.chunked(q, k, v, g, state, model=DEEP, chunk=4)
    assert out.dtype == dtype and after.weights["0"].dtype == torch.float32
    exact, _ = deep.chunked(q.float(), k.float(), v.float(), g.to(torch.float32), state, model=DEEP, chunk=4)
    torch.testing.assert_close(out.float(), exact, rtol=2e-2, atol=2e-2)


NARROW = torch.zeros(B, H, T, 3, dtype=torch.float64)
BAD: list[tuple[dict, str]] = [
    ({"chunk": 0}, "chunk is a whole number of tokens"),
    ({"chunk": 2.5}, "chunk is a whole number of tokens"),
    ({"window": 0}, "window is a whole number of tokens"),
    ({"gates": None}, "deep takes Gates"),
    ({"gates": Gates(threshold=torch.ones(B, H, T).double())}, "L2 has none; use Huber"),
    ({"values": NARROW}, r"maps width 4 to 4; got keys \[2, 2, 11, 4\], values \[2, 2, 11, 3\]"),
    ({"queries": NARROW}, "queries .* differ in width"),
    ({"keys": tokens()[1][:, :1]}, "differ in batch, heads or tokens"),
    ({"keys": tokens()[1].float()}, "torch.float32"),
    ({"gates": Gates(rate=-gates().rate)}, r"rate is -.* outside \[0, inf\]"),  # pyright: ignore
    ({"gates": Gates(decay=0.0)}, r"decay is 0 .* outside \(0, 1\]"),
    ({"gates": Gates(decay=1.5)}, r"decay is 1.5"),
    ({"gates": Gates(momentum=0.5)}, r"init\(..., momentum=True\)"),
    ({"gates": Gates(rate=torch.ones(B, H, 3).double())}, r"rate is \[B, H, T\] = \(2, 2, 11\)"),
    (
        {"gates": Gates(window=torch.ones(B, H, T, 2).double())},
        "Gates.window is given, but the period's window is 1",
    ),
    ({"window": 3}, "Gates.window is missing"),
    ({"scale": torch.ones(B, H, T).double()}, r"init\(..., averaged=True\)"),
    (
        {"state": start(MLP(sizes=(D, 7, D)))},
        r"state.weights\['0'\] is \[2, 2, 4, 7\]; this model needs \[2, 2, 4, 6\]",
    ),
    (
        {"state": start().to(torch.float32)},
        r"torch.float32 on cpu, keys torch.float64 .*state.to\(torch.float64\)",
    ),
    ({"gates": Gates(rate=1e200)}, r"the write diverged: state.weights\['0'\] .* holds"),
    ({"objective": L2}, r"objective is an instance such as L2\(\)"),
    ({"state": (start(), {})}, r"load_state returns \(state, header\)"),
    (
        dict(zip(("queries", "keys", "values"), (x.transpose(1, 2) for x in tokens()), strict=True)),
        r"\[B, H\] is \[2, 2\] and \[2, 11\]; keys are \[B, H, T, width\]; transpose\(1, 2\)\?",
    ),
]


@pytest.mark.parametrize("form", [deep.recurrent, deep.chunked], ids=["recurrent", "chunked"])
@pytest.mark.parametrize(("changes", "message"), BAD, ids=[m[:30] for _, m in BAD])
def test_bad_input(form: Any, changes: dict, message: str) -> None:
    q, k, v = tokens()
    plain = {
        "queries": q,
        "keys": k,
        "values": v,
        "gates": Gates(),
        "state": start(),
        "model": DEEP,
        "chunk": 4,
    }
    with pytest.raises(InputError, match=message):
        form(**(plain | changes))


@pytest.mark.parametrize("form", [deep.recurrent, deep.chunked], ids=["recurrent", "chunked"])
def test_another_chunk_inside_a_chunk_is_refused(form: Any) -> None:
    q, k, v = (x[:, :, :2] for x in tokens())
    _, state = form(q, k, v, Gates(), start(), model=DEEP, chunk=4)
    with pytest.raises(InputError, match="inside a chunk of 4"):
        form(q, k, v, Gates(), state, model=DEEP, chunk=5)
    with pytest.raises(InputError, match="has no anchor"):
        form(q, k, v, Gates(), state.replace(anchor=None), model=DEEP, chunk=4)
    _, state = form(q, k, v, Gates(), state, model=DEEP, chunk=4)
    form(q, k, v, Gates(), state, model=DEEP, chunk=2)


@pytest.mark.parametrize("form", [deep.recurrent, deep.chunked], ids=["recurrent", "chunked"])
def test_states_that_do_not_fit_are_refused(form: Any) -> None:
    q, k, v = tokens()
    nan = {n: w.clone() for n, w in start().weights.items()}
    nan["1"][0, 1, 2, 3] = torch.nan
    with pytest.raises(
        InputError, match=r"state.weights\['1'\] .* holds nan at \[0, 1, 2, 3\].*earlier state"
    ):
        form(q, k, v, Gates(), MemoryState(weights=nan, position=4), model=DEEP, chunk=4)
    with pytest.raises(InputError, match="the initial weights given hold nan"):
        form(q, k, v, Gates(), MemoryState(weights=nan), model=DEEP, chunk=4)
    biased = MLP(sizes=(D, 6, D), residual=True, bias=True)
    with pytest.raises(InputError, match=r"\['0.bias', '1.bias'\] too many"):
        form(q, k, v, Gates(), start(biased), model=DEEP, chunk=4)
    with pytest.raises(InputError, match=r"\['0.bias', '1.bias'\] missing"):
        form(q, k, v, Gates(), start(), model=biased, chunk=4)
    # A state without an anchor is one that stands at a chunk's start.
    form(q, k, v, Gates(), MemoryState(weights=start().weights), model=DEEP, chunk=4)


def test_check_false_skips_the_numbers_only() -> None:
    q, k, v = tokens()
    k[0, 0, 3, 1] = torch.nan
    out, _ = deep.chunked(q, k, v, Gates(), start(), model=DEEP, chunk=4, check=False)
    assert out.isnan().any()
    with pytest.raises(InputError, match=r"keys \[2, 2, 11, 4\] holds nan at \[0, 0, 3, 1\]"):
        deep.chunked(q, k, v, Gates(), start(), model=DEEP, chunk=4)
    with pytest.raises(InputError, match="width"):
        deep.chunked(q[..., :2], k, v, Gates(), start(), model=DEEP, chunk=4, check=False)


def test_fading_memories_do_not_pass_through_denormal_numbers() -> None:
    """Forward and backward; and the caller's own arithmetic is as before."""
    q, k, v = (x.float() for x in tokens())
    weights = {n: (w * 1e-20).float().requires_grad_() for n, w in start().weights.items()}
    state = MemoryState(weights=weights)
    out, after = deep.chunked(
        q, k, v, Gates(rate=0.0, decay=0.01), state, model=MLP(sizes=(D, 6, D)), chunk=4
    )
    tiny = torch.finfo(torch.float32).tiny
    for x in (out, *after.weights.values(), *torch.autograd.grad(out.sum(), list(weights.values()))):
        assert ((x == 0) | (x.abs() >= tiny)).all()
    assert torch.full((), 1e-39) * 1.0 > 0


def test_learned_weights_that_are_not_the_models() -> None:
    good = {n: w[0] for n, w in start().weights.items()}
    assert deep.init(DEEP, B, weights=good).weights["0"].shape == (B, H, D, 6)
    for weights, more, message in (
        ({"0": good["0"]}, {}, r"weights: \['1'\] missing"),
        (start().weights, {}, r"weights\['0'\] is \[2, 2, 4, 6\]; this model needs"),
        (good, {"heads": 3}, "but heads=3; leave heads out"),
        (good, {"dtype": torch.float32}, "but dtype=torch.float32; cast the weights"),
    ):
        with pytest.raises(InputError, match=message):
            deep.init(DEEP, B, weights=weights, **more)
