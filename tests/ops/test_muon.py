"""Laws and identities of the muon rules, and what they refuse."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nestmem.core import (
    L2,
    MLP,
    Dot,
    Gates,
    Huber,
    Linear,
    Memory,
    MemoryState,
    Momentum,
    Network,
    NewtonSchulz,
    Period,
    newton_schulz,
)
from nestmem.errors import InputError
from nestmem.ops.muon import Gated, chunked, init, recurrent
from nestmem.ops.muon.start import Per

FORMS = [pytest.param(chunked, id="chunked"), pytest.param(recurrent, id="recurrent")]


def tokens(b: int = 2, h: int = 2, t: int = 8, k: int = 4, v: int = 4, seed: int = 0) -> list[Tensor]:
    """queries, keys, values, rate, decay, momentum."""
    g = torch.Generator().manual_seed(seed)
    made = [torch.randn(b, h, t, n, generator=g, dtype=torch.float64) for n in (k, k, v)]
    return [*made, *(0.2 + 0.6 * torch.rand(b, h, t, generator=g, dtype=torch.float64) for _ in range(3))]


def start(model, per: Per = "token", seed=1, h=2, b=2, window=1) -> MemoryState:
    g = torch.Generator().manual_seed(seed)
    return init(model, b, h, per=per, window=window, generator=g, dtype=torch.float64)


def test_without_iterations_it_is_titans() -> None:
    model = MLP(sizes=(4, 6, 4), residual=True)
    q, k, v, rate, decay, momentum = tokens()
    state = start(model)
    out, after = chunked(
        q, k, v, Gates(rate=rate, decay=decay, momentum=momentum), state, model=model, chunk=4, steps=None
    )
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
    _, after = chunked(q, k, v, Gates(rate=rate), state, model=model, chunk=4, per="chunk", steps=None)
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
        state = init(model, 2, 2, per=per, dtype=torch.float64)
        _, after = chunked(
            q,
            k,
            v,
            Gates(rate=factor * rate, decay=decay, momentum=momentum),
            state,
            model=model,
            objective=Dot(),
            chunk=3,
            per=per,
        )
        found.append(after.weights["0"])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_step_is_orthogonal() -> None:
    model = MLP(sizes=(4, 4, 4))
    q, k, v, rate, _, _ = tokens(t=16)
    state = start(model, per="chunk")
    _, after = chunked(q, k, v, Gates(rate=rate), state, model=model, chunk=16, per="chunk", steps=10)
    for n, w in after.weights.items():
        values = torch.linalg.svdvals(w - state.weights[n])
        assert values.min() > 0.6 and values.max() < 1.3, values


def test_every_token_s_step_is_bounded() -> None:
    # ||W_t|| <= decay ||W_{t-1}|| + 1.3, whatever the gradients: the memory cannot blow up.
    model = MLP(sizes=(4, 8, 4))
    q, k, v, rate, _, momentum = tokens(t=64)
    state = start(model)
    _, after = chunked(
        q, k, 1e3 * v, Gates(rate=1e3 * rate, decay=0.9, momentum=momentum), state, model=model, chunk=16
    )
    for n, w in after.weights.items():
        begin = torch.linalg.matrix_norm(state.weights[n], 2).max()
        assert torch.linalg.matrix_norm(w, 2).max() <= 0.9**64 * begin + 1.3 / (1 - 0.9)


def test_renormalized_columns_keep_their_norm() -> None:
    model = Gated(4, 6, 5)
    q, k, v, rate, decay, momentum = tokens(t=12, v=5)
    state = start(model, per="chunk")
    _, after = chunked(
        q,
        k,
        v,
        Gates(rate=rate, decay=decay, momentum=momentum),
        state,
        model=model,
        chunk=4,
        per="chunk",
        renormalize=True,
    )
    for n, w in after.weights.items():
        assert not torch.allclose(w, state.weights[n])
        torch.testing.assert_close(w.norm(dim=-2), state.weights[n].norm(dim=-2))


def test_lact_s_momentum_is_the_chunk_s_mean() -> None:
    model = Linear(4, 4)
    q, k, v, rate, _, momentum = tokens(t=6)
    state = start(model, per="chunk")
    _, after = chunked(
        q,
        k,
        v,
        Gates(rate=rate, momentum=momentum),
        state,
        model=model,
        objective=Dot(),
        chunk=3,
        per="chunk",
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
        gates = Gates(rate=leaves[0], decay=leaves[1], momentum=leaves[2])
        out, _ = scan(q, k, v, gates, state, model=model, chunk=4)
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
        q, k, v, rate, decay, momentum = leaves
        gates = Gates(rate=rate, decay=decay, momentum=momentum)
        out, _ = chunked(q, k, v, gates, start(model), model=model, chunk=3, checkpoint=checkpoint)
        found.append(torch.autograd.grad(out.square().sum(), leaves))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_a_window_of_which_only_the_newest_token_counts_weighs_the_rate() -> None:
    model = MLP(sizes=(4, 6, 4))
    q, k, v, rate, decay, momentum = tokens()
    weight = torch.zeros(2, 2, 8, 3, dtype=torch.float64)
    weight[..., 0] = momentum + 0.5
    plain = Gates(rate=rate * weight[..., 0], decay=decay, momentum=momentum)
    omega = Gates(rate=rate, decay=decay, momentum=momentum, window=weight)
    a, _ = chunked(q, k, v, omega, start(model, window=3), model=model, chunk=3, window=3)
    b, _ = chunked(q, k, v, plain, start(model), model=model, chunk=3)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_no_window_looks_before_the_sequence(form: Any) -> None:
    # The unit of a key has no derivative at zero, where a place without a token would put it.
    first = {"w": torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))}
    model = Network(lambda w, x: torch.nn.functional.normalize(x, dim=-1, eps=0.0) @ w["w"], first)
    *tensors, rate, _, _ = tokens()
    q, k, v = (x.requires_grad_() for x in tensors)
    weight = torch.ones(2, 2, 8, 5, dtype=torch.float64)
    state = init(model, 2, 2, window=5, dtype=torch.float64)
    out, after = form(
        q, k, v, Gates(rate=rate, window=weight), state, model=model, chunk=3, window=5, steps=3
    )
    found = torch.autograd.grad(out.square().sum(), [q, k, v])
    assert all(torch.isfinite(x).all() for x in (out, *found, *after.weights.values()))
    memory = Memory(model=model, optimizer=NewtonSchulz(3), period=Period(chunk=3, window=5))
    expected, _ = memory.scan(
        memory.init(2, 2, dtype=torch.float64), q, k, v, Gates(rate=rate, window=weight)
    )
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


def test_weights_of_a_head_s_norm_meet_their_head() -> None:
    scale = torch.tensor([[1.5, 0.5, 1.0, 2.0], [0.5, 1.0, 2.0, 0.1]], dtype=torch.float64)
    model = MLP(sizes=(4, 6, 4), residual=True, norm=True, norm_weight=scale, norm_bias=0.1 * scale)
    q, k, v, rate, decay, momentum = tokens(t=2)
    state = start(model)
    a, _ = chunked(q, k, v, Gates(rate=rate, decay=decay, momentum=momentum), state, model=model, chunk=4)
    b, _ = recurrent(q, k, v, Gates(rate=rate, decay=decay, momentum=momentum), state, model=model, chunk=4)
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
    state = init(model, 2, 2, per=per, dtype=torch.float64)
    a, end_a = chunked(
        q, k, v, Gates(rate=rate, decay=decay, momentum=momentum), state, model=model, chunk=3, per=per
    )
    b, end_b = recurrent(
        q, k, v, Gates(rate=rate, decay=decay, momentum=momentum), state, model=model, chunk=3, per=per
    )
    torch.testing.assert_close(a, b)
    for n in first:
        torch.testing.assert_close(end_a.weights[n], end_b.weights[n])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("per", ["token", "chunk"])
def test_half_precision_tokens_keep_a_float32_state(per: Per, form: Any) -> None:
    model = MLP(sizes=(4, 6, 4))
    q, k, v, rate, decay, momentum = (x.bfloat16() for x in tokens())
    gates = Gates(rate=rate, decay=decay, momentum=momentum)
    state = start(model, per).to(torch.float32)
    out, after = form(q, k, v, gates, state, model=model, chunk=3, per=per)
    assert out.dtype == torch.bfloat16 and after.weights["0"].dtype == torch.float32
    expected, _ = form(
        q.float(), k.float(), v.float(), gates.to(torch.float32), state, model=model, chunk=3, per=per
    )
    torch.testing.assert_close(out, expected.bfloat16())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("per", ["token", "chunk"])
def test_numbers_for_gates_are_not_rounded_to_half_precision(per: Per, form: Any) -> None:
    # 0.999 is 1 in bfloat16.
    model = MLP(sizes=(4, 6, 4))
    q, k, v = (x.bfloat16() for x in tokens()[:3])
    state = start(model, per).to(torch.float32)
    numbers = Gates(rate=0.1, decay=0.999, momentum=0.9)
    same = Gates(**{n: torch.full((2, 2, 8), getattr(numbers, n)) for n in ("rate", "decay", "momentum")})
    out, after = form(q, k, v, numbers, state, model=model, chunk=4, per=per)
    expected, after_expected = form(q, k, v, same, state, model=model, chunk=4, per=per)
    assert torch.equal(out, expected)
    assert all(torch.equal(after.weights[n], w) for n, w in after_expected.weights.items())
    forgets_nothing, _ = form(q, k, v, numbers.replace(decay=1.0), state, model=model, chunk=4, per=per)
    assert not torch.equal(out, forgets_nothing)


@pytest.mark.parametrize("per", ["token", "chunk"])
def test_vmap_over_chunked(per) -> None:
    model = MLP(sizes=(4, 6, 4), bias=True)
    q, k, v, rate, decay, momentum = tokens(b=3)
    state = start(model, per=per, b=3)
    whole, _ = chunked(
        q, k, v, Gates(rate=rate, decay=decay, momentum=momentum), state, model=model, chunk=3, per=per
    )

    def one(q, k, v, r, a, m, weights, slots):
        s = state.replace(weights=weights, slots=slots, anchor=None).map(lambda x: x[None])
        gates = Gates(rate=r, decay=a, momentum=m).map(lambda x: x[None])
        return chunked(q[None], k[None], v[None], gates, s, model=model, chunk=3, per=per)[0][0]

    mapped = torch.func.vmap(one)(q, k, v, rate, decay, momentum, state.weights, state.slots)
    torch.testing.assert_close(mapped, whole)


MODEL = MLP(sizes=(4, 6, 4))
WINDOW = torch.ones(2, 2, 8, 3, dtype=torch.float64)


def changed(state: MemoryState, slot: str, name: str, x: Tensor) -> MemoryState:
    return state.replace(slots=state.slots | {slot: state.slots[slot] | {name: x}})


BAD: list[tuple[dict, str]] = [
    ({"chunk": 0}, "chunk is a whole number of tokens"),
    ({"chunk": 2.5}, "chunk is a whole number of tokens"),
    ({"window": 0}, "window is a whole number of tokens"),
    ({"steps": 0}, "steps is a whole number of iterations"),
    ({"per": "word"}, 'per is "token" or "chunk"'),
    ({"per": "chunk"}, r'not made by init.*per="chunk"'),
    ({"state": start(MODEL, "chunk")}, r'not made by init.*per="token"'),
    ({"renormalize": True}, 'renormalize goes with per="chunk"'),
    ({"gates": None}, "muon takes Gates"),
    ({"state": {}}, "state is a MemoryState from init; got dict"),
    ({"gates": Gates(rate=torch.ones(2, 2, 3).double())}, r"rate is \[B, H, T\] = \(2, 2, 8\)"),
    ({"gates": Gates(rate=-1.0)}, r"rate is -1 at \[0, 0, 0\], outside \[0, inf\]"),
    ({"gates": Gates(decay=0.0)}, r"decay is 0 .* outside \(0, 1\]"),
    ({"gates": Gates(momentum=1.5)}, "momentum is 1.5"),
    ({"gates": Gates(threshold=torch.ones(2, 2, 8).double())}, "L2 has none; use Huber"),
    (
        {
            "gates": Gates(threshold=torch.ones(2, 2, 8).double(), window=WINDOW),
            "window": 3,
            "state": start(MODEL, window=3),
            "objective": Huber(),
        },
        "threshold per token and a window",
    ),
    ({"gates": Gates(window=WINDOW)}, "Gates.window is given, but the period's window is 1"),
    ({"window": 3}, "Gates.window is missing"),
    ({"window": 3, "gates": Gates(window=WINDOW[:, :, :5])}, r"Gates.window is \[B, H, T, 3\]"),
    ({"window": 3, "gates": Gates(window=WINDOW * torch.nan)}, "Gates.window .* holds nan"),
    (
        {"window": 3, "per": "chunk", "state": start(MODEL, "chunk")},
        'window of 3 tokens goes with per="token"',
    ),
    ({"state": start(MODEL, window=3)}, "window is 1, but the state was made for another"),
    (
        {"state": start(MODEL, window=2), "window": 3, "gates": Gates(window=WINDOW)},
        r"recent keys of the state are \[2, 2, 1, 4\]; window=3 .* needs \[2, 2, 2, 4\]",
    ),
    (
        {"state": start(MODEL).replace(position=4), "window": 3, "gates": Gates(window=WINDOW)},
        "window is 3, but the state was made for another",
    ),
    ({"values": WINDOW}, r"maps width 4 to 4; got keys \[2, 2, 8, 4\], values \[2, 2, 8, 3\]"),
    ({"model": Gated(4, 6, 5)}, "maps width 4 to 5"),
    (
        {"state": start(MLP(sizes=(4, 7, 4)))},
        r"state.weights\['0'\] is \[2, 2, 4, 7\]; this model needs \[2, 2, 4, 6\]",
    ),
    ({"state": start(Gated(4, 6, 4))}, r"\['0', '1'\] missing, \['down', 'gate', 'up'\] too many"),
    ({"state": start(MODEL, b=1)}, r"\[1, 2, 4, 6\]; this model needs \[2, 2, 4, 6\]"),
    ({"state": start(MODEL).to(torch.float32)}, "torch.float32 on cpu, keys torch.float64"),
    ({"state": start(MODEL).to(torch.bfloat16)}, "float32 or float64"),
    (
        {"state": changed(start(MODEL), "momentum", "1", torch.full((2, 2, 6, 4), torch.inf).double())},
        r"state.slots\['momentum'\]\['1'\] .* holds inf",
    ),
    (
        {"state": changed(start(MODEL), "momentum", "1", WINDOW)},
        r"state.slots\['momentum'\]\['1'\] is \[2, 2, 8, 3\]",
    ),
    (
        {
            "state": changed(start(MODEL, "chunk"), "gates", "decay", torch.ones(2, 1).double()),
            "per": "chunk",
        },
        r"state.slots\['gates'\]\['decay'\] is \[2, 1\]",
    ),
    (
        {"model": MLP(sizes=(4, 6, 4), norm=True, norm_weight=torch.ones(3, 4).double())},
        r"model.norm_weight is \[H, V\] = \[2, 4\]; got \[3, 4\]",
    ),
    (
        {
            "model": Linear(4, 4),
            "state": start(Linear(4, 4), "chunk"),
            "per": "chunk",
            "renormalize": True,
        },
        "some start at zero",
    ),
    (
        {"gates": Gates(rate=1e200, momentum=1.0), "steps": None},
        r"the write diverged: state.weights\['0'\] .* holds",
    ),
    ({"objective": "l2"}, r"objective is an instance such as L2\(\)"),
    ({"state": (start(MODEL), {})}, r"load_state returns \(state, header\)"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("changes", "message"), BAD, ids=[m[:30] for _, m in BAD])
def test_bad_input(form: Any, changes: dict, message: str) -> None:
    q, k, v, *_ = tokens()
    plain = {"queries": q, "keys": k, "values": v, "gates": Gates(), "state": start(MODEL), "model": MODEL}
    with pytest.raises(InputError, match=message):
        form(**(plain | {"chunk": 4} | changes))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("per", ["token", "chunk"])
def test_another_chunk_inside_a_chunk_is_refused(per: Per, form: Any) -> None:
    q, k, v = (x[:, :, :2] for x in tokens()[:3])
    _, state = form(q, k, v, Gates(), start(MODEL, per), model=MODEL, chunk=4, per=per)
    assert state.chunk == 4
    with pytest.raises(InputError, match="inside a chunk of 4"):
        form(q, k, v, Gates(), state, model=MODEL, chunk=5, per=per)
    _, state = form(q, k, v, Gates(), state, model=MODEL, chunk=4, per=per)
    _, state = form(q, k, v, Gates(), state, model=MODEL, chunk=2, per=per)
    assert state.chunk == 2


@pytest.mark.parametrize("form", FORMS)
def test_inside_a_chunk_the_anchor_is_needed(form: Any) -> None:
    q, k, v = (x[:, :, :2] for x in tokens()[:3])
    # A state without an anchor is one that stands at a chunk's start.
    _, state = form(q, k, v, Gates(), start(MODEL).replace(anchor=None), model=MODEL, chunk=4)
    with pytest.raises(InputError, match="at token 2, inside a chunk of 4, but has no anchor"):
        form(q, k, v, Gates(), state.replace(anchor=None), model=MODEL, chunk=4)
    broken = {n: torch.full_like(w, torch.nan) for n, w in state.weights.items()}
    with pytest.raises(InputError, match=r"state.anchor\['0'\] .* holds nan .* earlier state"):
        form(q, k, v, Gates(), state.replace(anchor=broken), model=MODEL, chunk=4)
    with pytest.raises(InputError, match=r"state.anchor: \['1'\] missing"):
        form(q, k, v, Gates(), state.replace(anchor={"0": broken["0"]}), model=MODEL, chunk=4)


@pytest.mark.parametrize("form", FORMS)
def test_networks_are_checked_too(form: Any) -> None:
    q, k, v, *_ = tokens()
    model = Network(lambda w, x: x @ w["w"], {"w": torch.ones(4, 4, dtype=torch.float64)})
    with pytest.raises(InputError, match="values have width 4"):
        form(q, k, v[..., :1], Gates(), start(model), model=model, chunk=4)
    shifted = Network(lambda w, x: x + w["shift"], {"shift": torch.ones(4, dtype=torch.float64)})
    with pytest.raises(InputError, match="a vector's name ends in bias"):
        form(q, k, v, Gates(), start(shifted), model=shifted, chunk=4)


def test_what_init_and_models_refuse() -> None:
    with pytest.raises(InputError, match='window of 2 tokens goes with per="token"'):
        init(MODEL, 1, per="chunk", window=2)
    with pytest.raises(InputError, match='per is "token" or "chunk"'):
        init(MODEL, 1, per="word")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="residual memory"):
        Gated(4, 6, 5, residual=True)


def test_check_false_skips_the_numbers_only() -> None:
    q, k, v, *_ = tokens()
    k[0, 0, 3, 1] = torch.nan
    out, _ = chunked(q, k, v, Gates(), start(MODEL), model=MODEL, chunk=4, check=False)
    assert out.isnan().any()
    with pytest.raises(InputError, match="width"):
        chunked(q[..., :2], k, v, Gates(), start(MODEL), model=MODEL, chunk=4, check=False)


def test_learned_weights_that_are_not_the_models() -> None:
    good = {n: w[0] for n, w in start(MODEL).weights.items()}
    assert init(MODEL, 3, weights=good).weights["0"].shape == (3, *good["0"].shape)
    for weights, more, message in (
        ({"0": good["0"]}, {}, r"weights: \['1'\] missing"),
        (start(MODEL).weights, {}, r"weights\['0'\] is \[2, 2, 4, 6\]; this model needs"),
        (good, {"heads": 3}, "but heads=3; leave heads out"),
        (good, {"dtype": torch.float32}, "but dtype=torch.float32; cast the weights"),
    ):
        with pytest.raises(InputError, match=message):
            init(MODEL, 3, weights=weights, **more)
