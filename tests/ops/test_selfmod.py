"""What the self-modifying rule promises: what it equals in special cases, what stays put, what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from nestmem.core import L2, MLP, DeltaGradientDescent, Dot, Gates, Huber, Lp, Memory, Period, unit
from nestmem.errors import InputError
from nestmem.ops import selfmod
from nestmem.ops.selfmod import chunk, single_fused

KIND = torch.float64


def inputs(
    batch: int = 2, heads: int = 2, tokens: int = 7, dim: int = 4, dtype=KIND
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    q, x = (torch.randn(batch, heads, tokens, dim, generator=generator, dtype=KIND) for _ in range(2))
    return torch.nn.functional.normalize(q, dim=-1).to(dtype), (0.6 * x).to(dtype)


def start(batch: int = 2, heads: int = 2, dim: int = 4, dtype=KIND, **options):
    generator = torch.Generator().manual_seed(2)
    made = selfmod.init(batch, heads, dim=dim, generator=generator, dtype=dtype, **options)
    readout = selfmod.Readout.init(heads, dim, rate=0.1, decay=0.8, generator=generator, dtype=dtype)
    return made, readout


def fixed_gates(readout: selfmod.Readout, rate: float, decay: float) -> selfmod.Readout:
    """The same rate / decay and decay at every token."""
    logit = lambda p: torch.tensor(p, dtype=KIND).logit().item()  # noqa: E731
    return readout.replace(
        rate_weight=0 * readout.rate_weight,
        rate_bias=0 * readout.rate_bias + logit(rate / decay),
        decay_weight=0 * readout.decay_weight,
        decay_bias=0 * readout.decay_bias + logit(decay),
    )


def gates(state, readout: selfmod.Readout, x: Tensor) -> tuple[Tensor, Tensor]:
    """Rate and decay [B, H, T] of linear memories at this state."""
    rate = torch.einsum("bhtd,bhde,he->bht", x, state.weights["rate.0"], readout.rate_weight)
    decay = torch.einsum("bhtd,bhde,he->bht", x, state.weights["decay.0"], readout.decay_weight)
    decay = torch.sigmoid(decay + readout.decay_bias[:, None])
    return decay * torch.sigmoid(rate + readout.rate_bias[:, None]), decay


def gated_delta_rule(start: Tensor, keys: Tensor, values: Tensor, beta: Tensor, decay: Tensor) -> Tensor:
    """S_t = decay_t (I - beta_t k_t^T k_t) S_{t-1} + beta_t k_t^T v_t, token by token."""
    s = start
    for t in range(keys.shape[2]):
        k, v = keys[:, :, t, :, None], values[:, :, t, None, :]
        b, a = beta[:, :, t, None, None], decay[:, :, t, None, None]
        s = a * (s - b * k @ (k.mT @ s)) + b * k @ v
    return s


@pytest.mark.parametrize("objective", [Dot(), L2(1.0), L2(0.5)], ids=str)
def test_linear_memories_are_a_gated_delta_rule(objective) -> None:
    q, x = inputs()
    state, readout = start(depth=1)
    out, after = selfmod.chunked(q, x, readout, state, chunk=64, objective=objective)
    rate, decay = gates(state, readout, x)
    k, v = unit(x @ state.weights["keys.0"]), x @ state.weights["values.0"]
    assert torch.equal(out, q @ state.weights["memory.0"]) or torch.allclose(
        out, q @ state.weights["memory.0"]
    )
    for name in selfmod.MEMORIES:
        w = state.weights[f"{name}.0"]
        target = v @ w
        # Dot adds rate k^T target, L2 takes rate k^T 2 factor (k W - target) away, at the state before the chunk.
        written = target if isinstance(objective, Dot) else 2 * objective.factor * (target - k @ w)
        # k has length 1 but for core.unit's epsilon, which the projection meets a second time.
        expected = gated_delta_rule(w, unit(k), written * decay[..., None], rate / decay, decay)
        torch.testing.assert_close(after.weights[f"{name}.0"], expected, rtol=1e-9, atol=1e-9)


def test_sequential_l2_transition_has_a_negative_eigenvalue() -> None:
    # One token of the linear rule maps every memory W to (decay I - rate n^T n - 2 rate k^T (k - v)) W. For unit k
    # its eigenvalues are decay, D - 1 times, and decay - rate (3 - 2 <v, k>): the projection takes one rate along k,
    # the gradient two, and the self-made target gives back 2 <v, k>.
    rate, decay = 0.5, 0.9
    q, x = inputs(batch=1, heads=1, tokens=1)
    state, readout = start(1, 1, depth=1)
    weights = dict(state.weights)
    weights["values.0"] = torch.zeros_like(weights["values.0"])
    for values in (weights["values.0"], state.weights["values.0"]):
        weights["values.0"] = values
        # The transition is read off a memory that is the identity.
        weights["memory.0"] = torch.eye(4, dtype=KIND).expand(1, 1, 4, 4)
        state = state.replace(weights=weights, anchor=weights)
        _, after = selfmod.chunked(q, x, fixed_gates(readout, rate, decay), state, chunk=1)
        k, v = unit(x @ weights["keys.0"])[0, 0, 0], (x @ values)[0, 0, 0]
        along = decay - rate * (3 - 2 * (k @ v))
        found = torch.linalg.eigvals(after.weights["memory.0"][0, 0]).real.sort().values
        expected = torch.stack([along, *[torch.tensor(decay, dtype=KIND)] * 3]).sort().values
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        if not values.any():
            assert found[0] == pytest.approx(decay - 3 * rate) and found[0] < 0


@pytest.mark.parametrize("depth", [1, 2])
def test_rate_0_and_decay_1_is_a_static_network(depth: int) -> None:
    q, x = inputs(tokens=9)
    state, readout = start(depth=depth)
    still = readout.replace(
        rate_bias=torch.full_like(readout.rate_bias, -1e4),
        decay_bias=torch.full_like(readout.decay_bias, 1e4),
    )
    model = MLP(sizes=(4, 4)) if depth == 1 else MLP(sizes=(4, 4, 4), residual=True)
    weights = {name[-1]: w for name, w in state.weights.items() if name.startswith("memory.")}
    for read in ("chunk", "token"):
        out, after = selfmod.chunked(q, x, still, state, chunk=3, read=read)
        torch.testing.assert_close(out, model(weights, q))
        for name, w in after.weights.items():
            assert torch.equal(w, state.weights[name])


@pytest.mark.parametrize("read", ["chunk", "token"])
@pytest.mark.parametrize("objective", [L2(1.0), Dot(), Huber(0.3), Lp()], ids=str)
def test_memory_agrees_with_delta_gradient_descent(read, objective) -> None:
    # Auxiliary memories that are not refreshed within the sequence give keys, values and gates once; the memory is
    # then the Memory of nestmem.core with the delta preconditioner. Its targets come from its own first state, so
    # one chunk is compared.
    q, x = inputs(tokens=6)
    state, readout = start(hidden=3)
    readout = fixed_gates(readout, 0.1, 0.8)
    model = MLP(sizes=(4, 3, 4), residual=True)

    def of(name: str) -> dict[str, Tensor]:
        return {n[-1]: w for n, w in state.weights.items() if n.startswith(f"{name}.")}

    memory = Memory(
        model=model, objective=objective, optimizer=DeltaGradientDescent(), period=Period(chunk=6, read=read)
    )
    k, v = unit(model(of("keys"), x)), model(of("values"), x)
    begun = memory.init(2, weights={n: w[0] for n, w in of("memory").items()})
    out, after = memory.scan(begun, q, k, model(of("memory"), v), Gates(rate=0.1, decay=0.8))
    found, state_after = selfmod.chunked(q, x, readout, state, chunk=6, objective=objective, read=read)
    torch.testing.assert_close(found, out, rtol=1e-9, atol=1e-9)
    for layer in ("0", "1"):
        torch.testing.assert_close(
            state_after.weights[f"memory.{layer}"], after.weights[layer], rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("options", [{}, {"read": "token"}, {"chunk_aux": 6}], ids=str)
def test_outer_gradient_reaches_every_memory_and_the_read_outs(options) -> None:
    q, x = inputs(tokens=9)
    state, readout = start(hidden=3)
    names = [f.name for f in dataclasses.fields(readout) if f.name != "rate_max"]
    first = {name: w[0].clone().requires_grad_() for name, w in state.weights.items()}
    outer = [getattr(readout, name).clone().requires_grad_() for name in names]

    def scan(*values: Tensor) -> Tensor:
        weights = dict(zip(first, values, strict=False))
        made = readout.replace(**dict(zip(names, values[len(first) :], strict=True)))
        return selfmod.chunked(q, x, made, selfmod.init(2, weights=weights), chunk=3, **options)[0]

    leaves = [*first.values(), *outer]
    generator = torch.Generator().manual_seed(4)
    loss = (scan(*leaves) * torch.randn(q.shape, generator=generator, dtype=KIND)).sum()
    for name, g in zip([*first, *names], torch.autograd.grad(loss, leaves), strict=True):
        assert g.abs().max() > 1e-6, name
    assert torch.autograd.gradcheck(scan, leaves, fast_mode=True, rtol=1e-4, atol=1e-6)


def test_long_sequences_that_forget_almost_everything_stay_finite() -> None:
    # exp(-sum log decay) would overflow here; the chunked form only ever multiplies by numbers up to 1.
    q, x = inputs(tokens=64, dtype=torch.float32)
    state, readout = start(dtype=torch.float32)
    first = {name: w[0].clone().requires_grad_() for name, w in state.weights.items()}
    for bias in (-30.0, -200.0):
        forget = readout.replace(decay_bias=torch.full_like(readout.decay_bias, bias))
        for read in ("chunk", "token"):
            out, after = selfmod.chunked(q, x, forget, selfmod.init(2, weights=first), chunk=32, read=read)
            expected, _ = selfmod.recurrent(q, x, forget, selfmod.init(2, weights=first), chunk=32, read=read)
            torch.testing.assert_close(out, expected)
            gradients = torch.autograd.grad(out.sum(), list(first.values()))
            assert all(torch.isfinite(w).all() for w in (*after.weights.values(), *gradients))


def test_float32_is_close_to_float64_over_many_chunks() -> None:
    q, x = inputs(1, 2, 256, 16)
    state, readout = start(1, 2, 16)
    readout = fixed_gates(readout, 0.02, 0.98)
    exact, _ = selfmod.chunked(q, x, readout, state, chunk=16)
    single, _ = selfmod.chunked(
        q.float(), x.float(), readout.to(torch.float32), state.to(torch.float32), chunk=16
    )
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-4)


def test_states_that_stop_within_a_chunk_carry_both_sets_of_weights() -> None:
    q, x = inputs(tokens=12)
    state, readout = start(hidden=3)
    for main, chunk_aux in ((4, 2), (2, 4), (3, 3), (6, 2)):
        sizes: dict[str, Any] = {"chunk": main, "chunk_aux": chunk_aux}
        whole, end = selfmod.chunked(q, x, readout, state, **sizes)
        for at in range(1, 12):
            head, middle = selfmod.chunked(q[:, :, :at], x[:, :, :at], readout, state, **sizes)
            if at % max(main, chunk_aux):
                assert middle.anchor is not None
                assert any(not torch.equal(middle.anchor[n], w) for n, w in middle.weights.items())
            tail, after = selfmod.chunked(q[:, :, at:], x[:, :, at:], readout, middle, **sizes)
            torch.testing.assert_close(torch.cat([head, tail], 2), whole, rtol=1e-10, atol=1e-10)
            # The loop goes on from where the chunked form stopped, too.
            other, _ = selfmod.recurrent(q[:, :, at:], x[:, :, at:], readout, middle, **sizes)
            torch.testing.assert_close(other, whole[:, :, at:], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(after.weights, end.weights, rtol=1e-10, atol=1e-10)


def test_detached_targets_change_gradients_and_nothing_else() -> None:
    q, x = inputs()
    state, readout = start(hidden=3)
    found = {}
    for scan in (selfmod.chunked, selfmod.recurrent):
        for detach in (False, True):
            first = {name: w[0].clone().requires_grad_() for name, w in state.weights.items()}
            out, _ = scan(q, x, readout, selfmod.init(2, weights=first), chunk=3, detach_target=detach)
            leaves = list(first.values())
            gradients = torch.autograd.grad(
                out.square().sum(), leaves, allow_unused=True, materialize_grads=True
            )
            # M_values is read for the targets alone, so detached ones leave it without a gradient.
            for name, g in zip(first, gradients, strict=True):
                assert bool(g.any()) != (detach and name.startswith("values"))
            found[scan, detach] = out, gradients
    for detach in (False, True):
        torch.testing.assert_close(found[selfmod.chunked, detach], found[selfmod.recurrent, detach])
    detached, kept = (found[selfmod.chunked, each][0] for each in (True, False))
    torch.testing.assert_close(detached, kept, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found[selfmod.chunked, False][1][0], found[selfmod.chunked, True][1][0])


def first_and_second_derivatives(tokens: int, begin: dict[str, Any], options: dict[str, Any]) -> list[Tensor]:
    """Outputs, their derivatives and the derivatives of those, for memories, queries and x."""
    q, x = inputs(tokens=tokens)
    state, readout = start(**begin)
    leaves = [w[0].clone().requires_grad_() for w in state.weights.values()] + [
        q.requires_grad_(),
        x.requires_grad_(),
    ]

    def scan(*values: Tensor) -> tuple[Tensor, ...]:
        begun = selfmod.init(2, weights=dict(zip(state.weights, values, strict=False)))
        out, after = selfmod.chunked(values[-2], values[-1], readout, begun, check=False, **options)
        return out, *after.weights.values()

    outputs = scan(*leaves)
    total = torch.stack([o.square().sum() for o in outputs]).sum()
    gradients = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True)
    again = torch.stack([g.square().sum() for g in gradients]).sum()
    return [*outputs, *gradients, *torch.autograd.grad(again, leaves, materialize_grads=True)]


@pytest.mark.parametrize("objective", [L2(1.0), L2(0.5), Dot()], ids=str)
def test_derivatives_by_hand_are_autograd_s(objective, monkeypatch: pytest.MonkeyPatch) -> None:
    case = 8, {"hidden": 3}, {"chunk": 3, "objective": objective}
    assert chunk._fusable(chunk.Setting(5, 2, objective, "gelu", 1.0, False, False))
    by_hand = first_and_second_derivatives(*case)
    monkeypatch.setattr(chunk, "_fusable", lambda setting: False)
    for a, b in zip(by_hand, first_and_second_derivatives(*case), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("begin", [{"depth": 1}, {"hidden": 3}], ids=str)
@pytest.mark.parametrize("objective", [L2(0.5), Dot()], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"read": "token"}, {"unit_values": True}, {"read": "token", "detach_target": True}],
    ids=str,
)
def test_derivatives_by_hand_of_one_token_are_autograd_s(begin, objective, options, monkeypatch) -> None:
    case = 3, begin, {"chunk": 1, "objective": objective, **options}
    calls = []
    step = single_fused.step
    monkeypatch.setattr(single_fused, "step", lambda *a: calls.append(a) or step(*a))
    by_hand = first_and_second_derivatives(*case)
    assert len(calls) == 3
    monkeypatch.setattr(single_fused, "known", lambda setting: False)
    for a, b in zip(by_hand, first_and_second_derivatives(*case), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    assert len(calls) == 3


@pytest.mark.parametrize("options", [{}, {"read": "token"}, {"chunk_aux": 6}], ids=str)
def test_vmap_and_functional_grad_see_through(options) -> None:
    q, x = inputs(batch=3)
    state, readout = start(3)
    expected, _ = selfmod.chunked(q, x, readout, state, chunk=3, **options)

    def single(q: Tensor, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        begun = selfmod.init(1, weights=weights)
        return selfmod.chunked(q[None], x[None], readout, begun, chunk=3, **options)[0][0]

    out = torch.func.vmap(single)(q, x, state.weights)
    torch.testing.assert_close(out, expected)
    gradient = torch.func.grad(
        lambda x: selfmod.chunked(q, x, readout, state, chunk=3, **options)[0].square().sum()
    )(x)
    x.requires_grad_()
    out, _ = selfmod.chunked(q, x, readout, state, chunk=3, **options)
    torch.testing.assert_close(gradient, torch.autograd.grad(out.square().sum(), x)[0])


def test_half_inputs_keep_a_float32_state() -> None:
    q, x = inputs(dtype=torch.bfloat16)
    state, readout = start(dtype=torch.float32)
    for scan in (selfmod.chunked, selfmod.recurrent):
        out, after = scan(q, x, readout, state, chunk=3)
        assert out.dtype == torch.bfloat16
        assert all(w.dtype == torch.float32 for w in after.weights.values())


def test_wrong_input_is_named() -> None:
    q, x = inputs()
    state, readout = start()
    wrong = x.clone()
    wrong[1, 0, 2, 3] = torch.nan
    _, within = selfmod.chunked(q, x, readout, state, chunk=4)
    cases: list[tuple[str, tuple, dict[str, Any]]] = [
        (r"queries \[2, 2, 6, 4\]", (q[:, :, 1:], x, readout, state), {}),
        (r"x holds .* \[2, 2, 4\]", (q, x[:, :, 0], readout, state), {}),
        ("T = 0", (q[:, :, :0], x[:, :, :0], readout, state), {}),
        ("float32", (q.float(), x, readout, state), {}),
        (r"x .* holds nan at \[1, 0, 2, 3\]", (q, wrong, readout, state), {}),
        ("chunk is a whole number", (q, x, readout, state), {"chunk": 0}),
        ("chunk_aux is a whole number", (q, x, readout, state), {"chunk_aux": 0}),
        ("multiple of the other", (q, x, readout, state), {"chunk": 4, "chunk_aux": 3}),
        ('read is "chunk" or "token"', (q, x, readout, state), {"read": "previous"}),
        ("float16", (q, x, readout, state.to(torch.float16)), {}),
        (r"state.weights\['memory.0'\] is \[2, 2, 4, 4\]", (q[:1], x[:1], readout, state), {}),
        ("float32", (q, x, readout, state.to(torch.float32)), {}),
        ("readout.rate_weight", (q, x, readout.to(torch.float32), state), {}),
        ("has no anchor", (q, x, readout, within.replace(anchor=None)), {"chunk": 4}),
        ("the write diverged: state.weights", (q, 1e150 * x, readout, state), {"chunk": 2}),
        ("objective is an instance", (q, x, readout, state), {"objective": Huber}),
        ("load_state returns", (q, x, readout, (state, {})), {}),
        ("activation is one of", (q, x, readout, state), {"activation": "elu"}),
        (
            "missing; it was made for another rule",
            (q, x, readout, state.replace(weights={"memory.0": state.weights["memory.0"]})),
            {},
        ),
    ]
    for scan in (selfmod.chunked, selfmod.recurrent):
        for message, arguments, options in cases:
            with pytest.raises(InputError, match=message):
                scan(*arguments, **options)
    good = {n: w[0] for n, w in state.weights.items()}
    learned: list[tuple[str, dict, dict]] = [
        ("'values.1'. missing", {n: w for n, w in good.items() if n != "values.1"}, {}),
        (r"weights\['memory.0'\] is \[2, 2, 4, 4\]; this model needs", state.weights, {}),
        ("but heads=3; leave heads out", good, {"heads": 3}),
        ("but dtype=torch.float32", good, {"dtype": torch.float32}),
    ]
    for message, weights, more in learned:
        with pytest.raises(InputError, match=message):
            selfmod.init(1, weights=weights, **more)
    with pytest.raises(InputError, match="rate_max is in"):
        readout.replace(rate_max=1.5)
    with pytest.raises(InputError, match="give dim"):
        selfmod.init(1)
    with pytest.raises(InputError, match="depth is 1"):
        selfmod.init(1, dim=4, depth=3)
    with pytest.raises(InputError, match="0 < rate"):
        selfmod.Readout.init(1, 4, rate=0.99, decay=0.9)
