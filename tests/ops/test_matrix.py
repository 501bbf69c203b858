"""What every rule must satisfy, one test per law. A new rule is one entry in a rule_*.py beside this file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

import nestmem.ops
from nestmem.core import load_state, save_state
from nestmem.errors import InputError
from tests.ops.rules import Rule, every_rule

EVERY = every_rule()
rules = pytest.mark.parametrize("rule", EVERY, ids=str)


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """Memory that nobody wrote is nan, inside torch's own operators too, so that reading it shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def made(rule: Rule, batch: int, tokens: int, seed: int = 0) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(seed)
    return rule.initial(generator), rule.tokens(batch, tokens, generator)


def cut(rule: Rule, tokens: dict, start: int, stop: int) -> dict:
    return {name: x.narrow(rule.time, start, stop - start) for name, x in tokens.items()}


def tensors(state) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)]


def assert_same(rule: Rule, found, expected) -> None:
    (out, state), (out_expected, state_expected) = found, expected
    torch.testing.assert_close(out, out_expected, rtol=rule.tolerance, atol=rule.tolerance)
    assert pytree.tree_structure(state) == pytree.tree_structure(state_expected)
    for a, b in zip(tensors(state), tensors(state_expected), strict=True):
        torch.testing.assert_close(a, b, rtol=rule.tolerance, atol=rule.tolerance)


def length(rule: Rule) -> int:
    """Three chunks and a ragged end."""
    return 3 * rule.chunk + (1 if rule.chunk > 1 else 0)


@rules
def test_fast_form_is_the_loop(rule: Rule) -> None:
    for tokens in (1, rule.chunk, length(rule)):
        initial, inputs = made(rule, 2, tokens)
        state = rule.start(initial, 2)
        assert_same(rule, rule.chunked(state, **inputs), rule.recurrent(state, **inputs))


@rules
def test_loop_is_the_definition(rule: Rule) -> None:
    if rule.definition is None:
        pytest.skip("no Memory of nestmem.core says this rule")
    assert rule.defined is not None
    initial, inputs = made(rule, 2, length(rule))
    state = rule.start(initial, 2)
    out, after = rule.recurrent(state, **inputs)
    for chunked in (False, True):
        out_defined, after_defined = rule.defined(state, chunked=chunked, **inputs)
        torch.testing.assert_close(out, out_defined, rtol=rule.tolerance, atol=rule.tolerance)
        for name, weight in after_defined.weights.items():
            torch.testing.assert_close(after.weights[name], weight, rtol=rule.tolerance, atol=rule.tolerance)


@rules
def test_any_split_gives_the_same(rule: Rule) -> None:
    total = length(rule)
    initial, inputs = made(rule, 2, total)
    start = rule.start(initial, 2)
    whole = rule.chunked(start, **inputs)
    splits = [[s] for s in range(1, total)] + [list(range(1, total)), list(range(2, total, 2))]
    for split in splits:
        state, outputs = start, []
        for a, b in zip([0, *split], [*split, total], strict=True):
            out, state = rule.chunked(state, **cut(rule, inputs, a, b))
            outputs.append(out)
        assert_same(rule, (torch.cat(outputs, rule.time), state), whole)


@rules
def test_outer_gradient_through_three_chunks(rule: Rule) -> None:
    initial, inputs = made(rule, 1, length(rule))
    names = [n for n, x in inputs.items() if x.is_floating_point() and n not in rule.constant]
    fixed = {n: x for n, x in inputs.items() if n not in names}
    flat = [x.requires_grad_() for x in (*initial.values(), *(inputs[n] for n in names))]
    weigh = torch.Generator().manual_seed(7)
    weights: list[Tensor] = []

    def loss(*values: Tensor) -> Tensor:
        first = dict(zip(initial, values[: len(initial)], strict=True))
        tokens = dict(zip(names, values[len(initial) :], strict=True)) | fixed
        out, state = rule.chunked(rule.start(first, 1), **tokens)
        parts = [out, *(s for s in tensors(state) if s.requires_grad)]
        if not weights:
            weights.extend(torch.randn(p.shape, generator=weigh, dtype=p.dtype) for p in parts)
        return sum(((p * w).sum() for p, w in zip(parts, weights, strict=True)), start=out.new_zeros(()))

    assert torch.autograd.gradcheck(loss, flat, eps=1e-6, atol=1e-6, rtol=1e-4, fast_mode=True)
    out, _ = rule.chunked(
        rule.start(dict(zip(initial, flat, strict=False)), 1),
        **(dict(zip(names, flat[len(initial) :], strict=True)) | fixed),
    )
    target = torch.randn(out.shape, generator=weigh, dtype=out.dtype)
    gradients = torch.autograd.grad((out * target).sum(), flat, allow_unused=True)
    for name, gradient in zip([*initial, *names], gradients, strict=True):
        assert gradient is not None and bool((gradient != 0).any()), f"{name} gets no outer gradient"


@rules
def test_fast_form_has_the_loop_s_gradients(rule: Rule) -> None:
    found = []
    for scan in (rule.chunked, rule.recurrent):
        initial, inputs = made(rule, 2, length(rule))
        leaves = [x.requires_grad_() for x in (*initial.values(), *inputs.values()) if x.is_floating_point()]
        out, state = scan(rule.start(initial, 2), **inputs)
        total = out.square().sum() + sum(s.square().sum() for s in tensors(state) if s.requires_grad)
        found.append(torch.autograd.grad(total, leaves, allow_unused=True))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8 * max(1.0, float(b.abs().max())))


def learned(rule: Rule, batch: int, tokens: int) -> dict[str, Tensor]:
    """Initial weights and tokens by name, those that may be learned."""
    initial, inputs = made(rule, batch, tokens)
    every = {f"initial {n}": x for n, x in initial.items()} | inputs
    return {n: x for n, x in every.items() if x.is_floating_point() and n not in rule.constant}


def called(rule: Rule, given: dict[str, Tensor], scan=None) -> tuple[Tensor, Any]:
    """Outputs and state for `learned` tensors."""
    batch, tokens = next((x.shape[0], x.shape[rule.time]) for n, x in given.items() if n[:8] != "initial ")
    initial, inputs = made(rule, batch, tokens)
    first = {n: given.get(f"initial {n}", x) for n, x in initial.items()}
    return (scan or rule.chunked)(rule.start(first, batch), **{n: given.get(n, x) for n, x in inputs.items()})


@rules
def test_each_argument_may_be_the_only_one_that_is_learned(rule: Rule) -> None:
    given = learned(rule, 1, length(rule))
    everything = {n: x.clone().requires_grad_() for n, x in given.items()}
    expected = torch.autograd.grad(called(rule, everything)[0].square().sum(), list(everything.values()))
    for (name, x), gradient in zip(given.items(), expected, strict=True):
        alone = x.clone().requires_grad_()
        out, _ = called(rule, given | {name: alone})
        (found,) = torch.autograd.grad(out.square().sum(), alone, create_graph=True)
        torch.testing.assert_close(
            found, gradient, rtol=1e-9, atol=1e-9 * max(1.0, float(gradient.abs().max()))
        )
        if found.requires_grad:
            torch.autograd.grad(found.square().sum(), alone)


@rules
def test_gates_of_zero_have_the_loop_s_gradient(rule: Rule) -> None:
    given = learned(rule, 1, length(rule))
    gates = [n for n in given if n in ("rate", "momentum", "window", "scale")]
    if not gates:
        pytest.skip("no gate of this rule may be 0")
    for name in gates:
        zeros = given[name].clone()
        zeros.narrow(rule.time, 1, 1).zero_()
        zeros.narrow(rule.time, length(rule) - 1, 1).zero_()
        found = []
        for scan in (rule.chunked, rule.recurrent):
            x = zeros.clone().requires_grad_()
            out, state = called(rule, given | {name: x}, scan)
            total = out.square().sum() + sum(t.square().sum() for t in tensors(state) if t.requires_grad)
            found.append(torch.autograd.grad(total, x)[0])
        torch.testing.assert_close(*found, rtol=1e-8, atol=1e-8 * max(1.0, float(found[1].abs().max())))


@rules
def test_gradients_reach_back_through_a_state(rule: Rule) -> None:
    total, middle = length(rule), rule.chunk + 1
    found = []
    for split in (False, True):
        initial, inputs = made(rule, 1, total)
        leaves = [x.requires_grad_() for x in (*initial.values(), *inputs.values()) if x.is_floating_point()]
        state = rule.start(initial, 1)
        if split:
            first, state = rule.chunked(state, **cut(rule, inputs, 0, middle))
            second, _ = rule.chunked(state, **cut(rule, inputs, middle, total))
            out = torch.cat([first, second], rule.time)
        else:
            out, _ = rule.chunked(state, **inputs)
        found.append(
            torch.autograd.grad(out.square().sum(), leaves, allow_unused=True, materialize_grads=True)
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * max(1.0, float(b.abs().max())))


@rules
def test_torch_s_checkpoint_gives_the_same_gradient(rule: Rule) -> None:
    if rule.name.startswith("endtoend"):
        pytest.skip("torch.func.grad refuses saved tensor hooks; this rule has its own checkpoint")
    given = {n: x.requires_grad_() for n, x in learned(rule, 1, length(rule)).items()}
    leaves = list(given.values())
    plain = torch.autograd.grad(called(rule, given)[0].square().sum(), leaves)

    def run(*values: Tensor) -> Tensor:
        return called(rule, dict(zip(given, values, strict=True)))[0].square().sum()

    saved = torch.autograd.grad(checkpoint(run, *leaves, use_reentrant=False), leaves)
    assert all(torch.equal(a, b) for a, b in zip(plain, saved, strict=True))


@rules
def test_autocast_leaves_the_state_alone(rule: Rule) -> None:
    if rule.name.startswith("endtoend"):
        pytest.skip("its step is the model's own computation, which autocast is for")
    given = {n: x.float().requires_grad_() for n, x in learned(rule, 2, length(rule)).items()}
    leaves = list(given.values())
    for scan in (rule.chunked, rule.recurrent):
        plain, _ = called(rule, given, scan)
        expected = torch.autograd.grad(plain.square().sum(), leaves)
        with torch.autocast("cpu", torch.bfloat16):
            out, state = called(rule, given, scan)
        found = torch.autograd.grad(out.square().sum(), leaves)
        assert torch.equal(out, plain)
        assert all(t.dtype == torch.float32 for t in tensors(state) if t.is_floating_point())
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@rules
def test_strided_and_expanded_inputs(rule: Rule) -> None:
    initial, inputs = made(rule, 1, length(rule))
    state = rule.start(initial, 2)
    twice = {n: x.expand(2, *x.shape[1:]) for n, x in inputs.items()}
    plain, _ = rule.chunked(state, **{n: x.contiguous() for n, x in twice.items()})
    expanded, _ = rule.chunked(state, **twice)
    strided = {n: x.transpose(1, -1).contiguous().transpose(1, -1) for n, x in twice.items()}
    torch.testing.assert_close(expanded, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rule.chunked(state, **strided)[0], plain, rtol=1e-12, atol=1e-12)


@rules
def test_no_token_sees_the_future(rule: Rule) -> None:
    total = length(rule)
    initial, inputs = made(rule, 1, total)
    state = rule.start(initial, 1)
    out, _ = rule.chunked(state, **inputs)
    for at in range(total):
        other = {}
        for name, x in inputs.items():
            other[name] = x.clone()
            here = other[name].select(rule.time, at)
            # gates stay in their range
            here.copy_(here * 0.9 if here.is_floating_point() else (here + 1) % 2)
        out_other, _ = rule.chunked(state, **other)
        changed = (out_other != out).transpose(0, rule.time).flatten(1).any(1)
        assert not changed[:at].any(), f"token {at} changed an earlier output"


@rules
def test_rows_do_not_mix(rule: Rule) -> None:
    initial, inputs = made(rule, 3, length(rule))
    whole = rule.chunked(rule.start(initial, 3), **inputs)
    for row in range(3):
        alone, _ = rule.chunked(rule.start(initial, 1), **{n: x[row : row + 1] for n, x in inputs.items()})
        torch.testing.assert_close(whole[0][row : row + 1], alone, rtol=1e-9, atol=1e-9)
    other = {
        n: torch.cat([x[:1] * 0.5 if x.is_floating_point() else x[1:2], x[1:]]) for n, x in inputs.items()
    }
    changed, _ = rule.chunked(rule.start(initial, 3), **other)
    assert torch.equal(changed[1:], whole[0][1:])


@rules
def test_save_and_load_bit_for_bit(rule: Rule, tmp_path) -> None:
    total = length(rule)
    initial, inputs = made(rule, 2, total)
    middle = rule.chunk + 1
    _, state = rule.chunked(rule.start(initial, 2), **cut(rule, inputs, 0, middle))
    save_state(tmp_path / "state.safetensors", state, model="test", tokens=middle)
    loaded, header = load_state(tmp_path / "state.safetensors")
    assert header == {"model": "test", "tokens": middle}
    assert pytree.tree_structure(loaded) == pytree.tree_structure(state)
    assert all(
        torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(tensors(loaded), tensors(state), strict=True)
    )
    rest = cut(rule, inputs, middle, total)
    (a, _), (b, _) = rule.chunked(loaded, **rest), rule.chunked(state, **rest)
    assert torch.equal(a, b)


@rules
def test_state_size_does_not_grow(rule: Rule) -> None:
    initial, inputs = made(rule, 1, 4 * rule.chunk)
    state, sizes = rule.start(initial, 1), []
    for t in range(4 * rule.chunk):
        _, state = rule.chunked(state, **cut(rule, inputs, t, t + 1))
        sizes.append(state.bytes())
    # What a chunk buffers comes and goes with it; past the first chunks nothing is added.
    assert max(sizes[-rule.chunk :]) <= max(sizes[: 3 * rule.chunk])


@rules
def test_arguments_are_left_alone(rule: Rule) -> None:
    initial, inputs = made(rule, 2, length(rule))
    state = rule.start(initial, 2)
    copies = [x.clone() for x in (*tensors(state), *inputs.values())]
    rule.chunked(state, **inputs)
    assert all(torch.equal(a, b) for a, b in zip(copies, (*tensors(state), *inputs.values()), strict=True))


@rules
def test_float32_is_close_to_float64(rule: Rule) -> None:
    initial, inputs = made(rule, 2, length(rule))
    exact, _ = rule.chunked(rule.start(initial, 2), **inputs)

    def single(x: Tensor) -> Tensor:
        return x.float() if x.is_floating_point() else x

    out, state = rule.chunked(
        rule.start({n: single(x) for n, x in initial.items()}, 2), **{n: single(x) for n, x in inputs.items()}
    )
    assert out.dtype == torch.float32
    assert all(s.dtype != torch.float64 for s in tensors(state))
    torch.testing.assert_close(out.double(), exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))


@rules
def test_bad_numbers_are_reported_with_their_place(rule: Rule) -> None:
    for scan in (rule.chunked, rule.recurrent):
        initial, inputs = made(rule, 2, length(rule))
        name = next(n for n, x in inputs.items() if x.is_floating_point())
        bad = {n: x.clone() for n, x in inputs.items()}
        bad[name].select(rule.time, 2)[1, ..., 0] = float("nan")
        with pytest.raises(InputError, match=r"nan.*\[1, .*2"):
            scan(rule.start(initial, 2), **bad)


@rules
def test_no_tokens_is_an_error(rule: Rule) -> None:
    initial, inputs = made(rule, 2, 2)
    with pytest.raises(InputError, match=r"T = 0|no token"):
        rule.chunked(rule.start(initial, 2), **cut(rule, inputs, 0, 0))


@rules
def test_half_precision_state_is_an_error(rule: Rule) -> None:
    initial, inputs = made(rule, 2, 2)
    half = rule.start({n: x.float() for n, x in initial.items()}, 2).to(torch.bfloat16)
    single = {n: x.float() if x.is_floating_point() else x for n, x in inputs.items()}
    with pytest.raises(InputError, match="float32"):
        rule.chunked(half, **single)


def test_every_folder_of_ops_has_a_rule() -> None:
    folders = {path.parent.name for path in Path(nestmem.ops.__file__).parent.glob("*/chunk.py")}
    assert folders == {rule.name.split()[0] for rule in EVERY}
    assert len({rule.name for rule in EVERY}) == len(EVERY)
