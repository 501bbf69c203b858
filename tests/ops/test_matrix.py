"""What every rule must satisfy, one test per law. A new rule is one entry in a rule_*.py beside this file."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestmem.core import load_state, save_state
from nestmem.errors import InputError
from tests.ops.rules import Rule, every_rule

EVERY = every_rule()
rules = pytest.mark.parametrize("rule", EVERY, ids=str)


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nobody wrote is nan, so that reading it shows."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
        original = getattr(owner, name)

        def poisoned(*args, original=original, **kwargs):
            made = original(*args, **kwargs)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        monkeypatch.setattr(owner, name, poisoned)


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
        assert changed[at:].any(), f"token {at} changed nothing"


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
    from pathlib import Path

    import nestmem.ops

    folders = {p.name for p in Path(nestmem.ops.__file__).parent.iterdir() if (p / "chunk.py").exists()}
    assert folders == {rule.name.split()[0] for rule in EVERY}


def test_rules_are_values() -> None:
    assert len({rule.name for rule in EVERY}) == len(EVERY)
    assert all(dataclasses.is_dataclass(rule) for rule in EVERY)
