"""Laws and identities of the muon rules, and what they refuse."""

import pytest
import torch
from torch import Tensor

from nestmem.core import L2, MLP, Dot, Gates, Linear, Memory, Momentum, Network, Period, newton_schulz
from nestmem.errors import InputError
from nestmem.ops.muon import Gated, chunked, init, recurrent
from nestmem.ops.muon.start import Per


def tokens(b: int = 2, h: int = 2, t: int = 8, k: int = 4, v: int = 4, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    made = [torch.randn(b, h, t, n, generator=g, dtype=torch.float64) for n in (k, k, v)]
    return [*made, *(0.2 + 0.6 * torch.rand(b, h, t, generator=g, dtype=torch.float64) for _ in range(3))]


def start(model, per: Per = "token", seed=1, h=2, b=2):
    g = torch.Generator().manual_seed(seed)
    return init(b, h, model=model, per=per, generator=g, dtype=torch.float64)


def test_without_iterations_it_is_titans() -> None:
    model = MLP(sizes=(4, 6, 4), residual=True)
    q, k, v, rate, decay, momentum = tokens()
    state = start(model)
    out, after = chunked(q, k, v, rate, decay, momentum, state, model=model, chunk=4, steps=None)
    titans = Memory(model=model, optimizer=Momentum(), period=Period(chunk=4))
    expected, after_expected = titans.scan(
        state, q, k, v, Gates(rate=rate, decay=decay, momentum=momentum), chunked=False
    )
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    for n, w in after_expected.weights.items():
        torch.testing.assert_close(after.weights[n], w, rtol=1e-12, atol=1e-12)


def test_without_iterations_a_chunk_is_a_step_of_gradient_descent() -> None:
    model = Gated(4, 6, 4)
    q, k, v, rate, _, _ = tokens(t=4)
    state = start(model, per="chunk")
    _, after = chunked(q, k, v, rate, 1.0, 0.0, state, model=model, chunk=4, per="chunk", steps=None)
    weights = {n: w.clone().requires_grad_() for n, w in state.weights.items()}
    loss = (rate * L2().loss(model(weights, k), v)).sum()
    for (n, w), g in zip(weights.items(), torch.autograd.grad(loss, list(weights.values())), strict=True):
        torch.testing.assert_close(after.weights[n], w - g)


@pytest.mark.parametrize("residual", [False, True])
def test_gated_gradients_are_autograd_s(residual: bool) -> None:
    model = Gated(4, 6, 4, activation="gelu", residual=residual)
    _, k, v, *_ = tokens(t=3)
    state = start(model)
    found, inputs = model.gradients(state.weights, k, v, L2())
    for t in range(3):
        weights = {n: w.clone().requires_grad_() for n, w in state.weights.items()}
        loss = L2().loss(model(weights, k[:, :, t : t + 1]), v[:, :, t : t + 1]).sum()
        for n, g in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            torch.testing.assert_close(found[n][:, :, t], g)
    assert inputs["down"].shape == (2, 2, 3, 6)


@pytest.mark.parametrize("per", ["token", "chunk"])
@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_step_does_not_depend_on_the_gradient_s_scale(per: Per, size: float) -> None:
    # The dot objective's gradient in the first weights is linear in the rate, and so is the momentum.
    model = Linear(4, 4)
    q, k, v, rate, decay, momentum = tokens(t=3)
    found = []
    for factor in (1.0, size):
        state = init(2, 2, model=model, per=per, dtype=torch.float64)
        _, after = chunked(
            q, k, v, factor * rate, decay, momentum, state, model=model, objective=Dot(), chunk=3, per=per
        )
        found.append(after.weights["0"])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_step_is_orthogonal() -> None:
    model = MLP(sizes=(4, 4, 4))
    q, k, v, rate, _, _ = tokens(t=16)
    state = start(model, per="chunk")
    _, after = chunked(q, k, v, rate, 1.0, 0.0, state, model=model, chunk=16, per="chunk", steps=10)
    for n, w in after.weights.items():
        values = torch.linalg.svdvals(w - state.weights[n])
        assert values.min() > 0.6 and values.max() < 1.3, values


def test_every_token_s_step_is_bounded() -> None:
    # ||W_t|| <= decay ||W_{t-1}|| + 1.3, whatever the gradients: the memory cannot blow up.
    model = MLP(sizes=(4, 8, 4))
    q, k, v, rate, _, momentum = tokens(t=64)
    state = start(model)
    _, after = chunked(q, k, 1e3 * v, 1e3 * rate, 0.9, momentum, state, model=model, chunk=16)
    for n, w in after.weights.items():
        begin = torch.linalg.matrix_norm(state.weights[n], 2).max()
        assert torch.linalg.matrix_norm(w, 2).max() <= 0.9**64 * begin + 1.3 / (1 - 0.9)


def test_renormalized_columns_keep_their_norm() -> None:
    model = Gated(4, 6, 5)
    q, k, v, rate, decay, momentum = tokens(t=12, v=5)
    state = start(model, per="chunk")
    _, after = chunked(
        q, k, v, rate, decay, momentum, state, model=model, chunk=4, per="chunk", renormalize=True
    )
    for n, w in after.weights.items():
        assert not torch.allclose(w, state.weights[n])
        torch.testing.assert_close(w.norm(dim=-2), state.weights[n].norm(dim=-2))


def test_lact_s_momentum_is_the_chunk_s_mean() -> None:
    model = Linear(4, 4)
    q, k, v, rate, _, momentum = tokens(t=6)
    state = start(model, per="chunk")
    _, after = chunked(
        q, k, v, rate, 1.0, momentum, state, model=model, objective=Dot(), chunk=3, per="chunk"
    )
    g = [(rate[..., s, None] * k[:, :, s]).mT @ v[:, :, s] for s in (slice(0, 3), slice(3, 6))]
    s = momentum[:, :, 3:].mean(-1)[..., None, None] * g[0] + g[1]
    torch.testing.assert_close(after.slots["momentum"]["0"], s)
    torch.testing.assert_close(after.weights["0"], newton_schulz(g[0]) + newton_schulz(s))


def test_gates_of_exactly_zero_cut_cleanly() -> None:
    model = MLP(sizes=(4, 6, 4))
    q, k, v, rate, decay, momentum = tokens(b=1, h=1, t=7)
    momentum[..., 2], momentum[..., 5], rate[..., 0] = 0.0, 0.0, 0.0
    state = start(model, b=1, h=1)
    for scan in (chunked, recurrent):
        leaves = [x.detach().requires_grad_() for x in (rate, decay, momentum)]
        out, _ = scan(q, k, v, *leaves, state, model=model, chunk=4)  # pyright: ignore[reportCallIssue]
        found = torch.autograd.grad(out.square().sum(), leaves)
        if scan is chunked:
            outputs, expected = out, found
        else:
            torch.testing.assert_close(out, outputs)
            torch.testing.assert_close(found, expected)
    assert all(torch.isfinite(g).all() for g in expected)


def test_repeated_iterations_give_the_same_gradient() -> None:
    model = MLP(sizes=(4, 6, 4))
    found = []
    for checkpoint in (False, True):
        leaves = [x.requires_grad_() for x in tokens()]
        out, _ = chunked(*leaves, start(model), model=model, chunk=3, checkpoint=checkpoint)  # pyright: ignore[reportCallIssue]
        found.append(torch.autograd.grad(out.square().sum(), leaves))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_a_window_of_one_token_weighs_the_rate() -> None:
    model = MLP(sizes=(4, 6, 4))
    q, k, v, rate, decay, momentum = tokens()
    weight = momentum[..., None] + 0.5
    a, _ = chunked(q, k, v, rate, decay, momentum, start(model), model=model, chunk=3, window=weight)
    b, _ = chunked(q, k, v, rate * weight[..., 0], decay, momentum, start(model), model=model, chunk=3)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_weights_of_a_head_s_norm_meet_their_head() -> None:
    scale = torch.tensor([[1.5, 0.5, 1.0, 2.0], [0.5, 1.0, 2.0, 0.1]], dtype=torch.float64)
    model = MLP(sizes=(4, 6, 4), residual=True, norm=True, norm_weight=scale, norm_bias=0.1 * scale)
    q, k, v, rate, decay, momentum = tokens(t=2)
    state = start(model)
    a, _ = chunked(q, k, v, rate, decay, momentum, state, model=model, chunk=4)
    b, _ = recurrent(q, k, v, rate, decay, momentum, state, model=model, chunk=4)
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("per", ["token", "chunk"])
def test_any_network_is_a_memory(per) -> None:
    g = torch.Generator().manual_seed(3)
    first = {
        "w": torch.randn(4, 4, generator=g, dtype=torch.float64),
        "bias": torch.ones(4, dtype=torch.float64),
    }
    model = Network(lambda w, x: torch.tanh(x @ w["w"]) + w["bias"], first)
    q, k, v, rate, decay, momentum = tokens(t=5)
    state = init(2, 2, model=model, per=per, dtype=torch.float64)
    a, end_a = chunked(q, k, v, rate, decay, momentum, state, model=model, chunk=3, per=per)
    b, end_b = recurrent(q, k, v, rate, decay, momentum, state, model=model, chunk=3, per=per)
    torch.testing.assert_close(a, b)
    for n in first:
        torch.testing.assert_close(end_a.weights[n], end_b.weights[n])


@pytest.mark.parametrize("per", ["token", "chunk"])
def test_half_precision_tokens_keep_a_float32_state(per) -> None:
    model = MLP(sizes=(4, 6, 4))
    exact = tokens()
    q, k, v, *gates = (x.bfloat16() for x in exact)
    g = torch.Generator().manual_seed(0)
    state = init(2, 2, model=model, per=per, generator=g)
    out, after = chunked(q, k, v, *gates, state, model=model, chunk=3, per=per)  # pyright: ignore[reportCallIssue]
    assert out.dtype == torch.bfloat16 and after.weights["0"].dtype == torch.float32
    expected, _ = chunked(*(x.float() for x in (q, k, v, *gates)), state, model=model, chunk=3, per=per)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(out, expected.bfloat16())


@pytest.mark.parametrize("per", ["token", "chunk"])
def test_vmap_over_chunked(per) -> None:
    model = MLP(sizes=(4, 6, 4), bias=True)
    q, k, v, rate, decay, momentum = tokens(b=3)
    state = start(model, per=per, b=3)
    whole, _ = chunked(q, k, v, rate, decay, momentum, state, model=model, chunk=3, per=per)

    def one(q, k, v, r, a, m, weights, slots):
        s = state.replace(weights=weights, slots=slots, anchor=None).map(lambda x: x[None])
        return chunked(*(x[None] for x in (q, k, v, r, a, m)), s, model=model, chunk=3, per=per)[0][0]  # pyright: ignore[reportCallIssue]

    mapped = torch.func.vmap(one)(q, k, v, rate, decay, momentum, state.weights, state.slots)
    torch.testing.assert_close(mapped, whole)


def test_bad_input_is_refused() -> None:
    model = MLP(sizes=(4, 6, 4))
    q, k, v, rate, decay, momentum = tokens()
    state = start(model)
    gates = (rate, decay, momentum)
    with pytest.raises(InputError, match="chunk is a whole number"):
        chunked(q, k, v, *gates, state, model=model, chunk=0)
    with pytest.raises(InputError, match="steps is the number"):
        chunked(q, k, v, *gates, state, model=model, steps=0)
    with pytest.raises(InputError, match='per is "token" or "chunk"'):
        chunked(q, k, v, *gates, state, model=model, per="word")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r'not made by init.*per="chunk"'):
        chunked(q, k, v, *gates, state, model=model, per="chunk")
    with pytest.raises(InputError, match='renormalize goes with per="chunk"'):
        chunked(q, k, v, *gates, state, model=model, renormalize=True)
    with pytest.raises(InputError, match=r"rate is \[B, H, T\]"):
        chunked(q, k, v, rate[..., :3], decay, momentum, state, model=model)
    with pytest.raises(InputError, match=r"decay is 1.5 at \[1, 0, 2\]"):
        chunked(
            q,
            k,
            v,
            rate,
            decay.clone().index_put_(
                (torch.tensor(1), torch.tensor(0), torch.tensor(2)), torch.tensor(1.5).double()
            ),
            momentum,
            state,
            model=model,
        )
    with pytest.raises(InputError, match="differ in batch or heads"):
        chunked(q, k, v, *gates, start(model, b=1), model=model)
    with pytest.raises(InputError, match="float64 state"):
        chunked(q, k, v, *gates, state.to(torch.float32), model=model)
    window = torch.ones(2, 2, 8, 3, dtype=torch.float64)
    with pytest.raises(InputError, match='window of tokens goes with per="token"'):
        chunked(q, k, v, *gates, start(model, "chunk"), model=model, per="chunk", window=window)
    with pytest.raises(InputError, match=r"window is \[B, H, T, c\] with \[2, 2, 8\]"):
        chunked(q, k, v, *gates, state, model=model, window=window[:, :, :5])
    with pytest.raises(InputError, match=r"window .* holds nan"):
        chunked(q, k, v, *gates, state, model=model, window=window[..., :1] * float("nan"))
    _, after = chunked(q, k, v, *gates, state, model=model, window=window)
    with pytest.raises(InputError, match="window has 2 weights, but the state was written with 3"):
        chunked(q, k, v, *gates, after, model=model, window=window[..., :2])
    with pytest.raises(InputError, match="some start at zero"):
        chunked(
            q, k, v, *gates, start(Linear(4, 4), "chunk"), model=Linear(4, 4), per="chunk", renormalize=True
        )
    with pytest.raises(InputError, match="residual memory"):
        Gated(4, 6, 5, residual=True)
