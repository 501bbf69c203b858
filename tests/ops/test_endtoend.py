"""Laws of end-to-end inner learning, and what it refuses."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestmem.core import (
    MLP,
    Adam,
    DeltaGradientDescent,
    GradientDescent,
    Momentum,
    NewtonSchulz,
    State,
    load_state,
    save_state,
    state,
    static,
)
from nestmem.errors import InputError
from nestmem.ops.endtoend import EndToEndState, Level, chunked, init, recurrent
from nestmem.ops.recompute import recomputed
from tests.ops.rule_endtoend import (
    WIDTH,
    fast_weights,
    first_carry,
    memories,
    outer_weights,
    remembering,
    step,
)

QUICK, SLOW = ("up", "bias", "down"), ("slow",)


def sequences(batch: int, tokens: int, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(batch, tokens, WIDTH, generator=g, dtype=torch.float64) for name in ("x", "target")
    }


def first(seed: int = 1) -> dict[str, Tensor]:
    return fast_weights(torch.Generator().manual_seed(seed))


def start(fast, batch: int, levels, **more) -> EndToEndState:
    return init(fast, batch, levels=levels, carry=first_carry(batch, fast["up"]), **more)


def plain(fast, inputs, chunk: int) -> Tensor:
    """The losses of a network that never writes."""
    level = Level(period=None)
    state = start(fast, inputs["x"].shape[0], level, chunk=chunk)
    assert not state.weights
    return chunked(step, outer_weights(), inputs, state, levels=level, chunk=chunk)[0]


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_meta_gradient_is_the_loop_s(checkpoint: bool, second_order: bool) -> None:
    levels = (
        Level(period=3, names=QUICK, rate=0.3, clip=0.8),
        Level(period=6, names=SLOW, rate=0.1, decay=0.9),
    )
    inputs = sequences(2, 14)
    found = []
    for form in (chunked, recurrent):
        fast = {n: w.requires_grad_() for n, w in first().items()}
        outer = {n: w.requires_grad_() for n, w in outer_weights().items()}
        losses, _, _ = form(
            step,
            outer,
            inputs,
            start(fast, 2, levels),
            levels=levels,
            second_order=second_order,
            checkpoint=checkpoint,
        )
        found.append(torch.autograd.grad(losses.mean(), [*outer.values(), *fast.values()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        assert bool((a != 0).any())


@pytest.mark.parametrize("checkpoint", [True, False])
def test_meta_gradient_against_finite_differences(checkpoint: bool) -> None:
    inputs = sequences(1, 9)
    names, outers = list(first()), list(outer_weights())

    def loss(rate: Tensor, *values: Tensor) -> Tensor:
        levels = Level(period=3, rate=rate, clip=0.8)
        outer = dict(zip(outers, values[: len(outers)], strict=True))
        fast = dict(zip(names, values[len(outers) :], strict=True))
        losses, _, _ = chunked(
            step, outer, inputs, start(fast, 1, levels), levels=levels, checkpoint=checkpoint
        )
        return losses.mean()

    values = [torch.tensor(0.3, dtype=torch.float64), *outer_weights().values(), *first().values()]
    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in values], atol=1e-7, rtol=1e-5)


def test_second_derivatives_of_the_outer_loss() -> None:
    inputs = sequences(1, 4)
    levels = Level(period=2, rate=0.3)

    def loss(up: Tensor) -> Tensor:
        fast = first() | {"up": up}
        return chunked(step, outer_weights(), inputs, start(fast, 1, levels), levels=levels)[0].mean()

    assert torch.autograd.gradgradcheck(loss, first()["up"].requires_grad_(), fast_mode=True)


def test_first_and_second_order_differ_in_gradient_and_not_in_value() -> None:
    inputs, levels = sequences(2, 9), Level(period=3, rate=0.3)
    losses, gradients = [], []
    for second_order in (True, False):
        fast = {n: w.requires_grad_() for n, w in first().items()}
        found, _, _ = chunked(
            step, outer_weights(), inputs, start(fast, 2, levels), levels=levels, second_order=second_order
        )
        losses.append(found)
        gradients.append(torch.autograd.grad(found.mean(), fast["up"])[0])
    assert torch.equal(losses[0], losses[1])
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) > 1e-3


def test_rate_zero_is_the_network() -> None:
    inputs = sequences(2, 10)
    losses, _, state = chunked(
        step,
        outer_weights(),
        inputs,
        start(first(), 2, Level(period=3, rate=0.0)),
        levels=Level(period=3, rate=0.0),
    )
    torch.testing.assert_close(losses, plain(first(), inputs, 3), rtol=1e-12, atol=1e-12)
    for n, w in first().items():
        assert torch.equal(state.weights[n], w.expand(2, *w.shape))


def test_learning_lowers_the_loss_of_a_repeated_chunk() -> None:
    inputs = pytree.tree_map(lambda x: x.repeat(1, 12, 1), sequences(3, 4))
    levels = Level(period=4, rate=0.1, clip=1.0)
    losses, _, _ = chunked(step, outer_weights(), inputs, start(first(), 3, levels), levels=levels)
    # The first chunk has an empty cache; the later ones see the same tokens in the same context.
    each = losses.unflatten(1, (12, 4)).mean(-1)[:, 1:]
    assert bool((each[:, -1] < 0.7 * each[:, 0]).all())


def test_a_period_as_long_as_the_sequence_writes_nothing_in_it() -> None:
    inputs = sequences(2, 12)
    levels = Level(period=12, rate=0.5)
    whole = start(first(), 2, levels, chunk=3)
    shared = start(first(), 2, levels, chunk=3, length=12)
    assert whole.weights and not whole.shared and shared.shared and not shared.weights
    losses, _, after = chunked(step, outer_weights(), inputs, whole, levels=levels, chunk=3)
    skipped, _, same = chunked(step, outer_weights(), inputs, shared, levels=levels, chunk=3)
    torch.testing.assert_close(losses, plain(first(), inputs, 3), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(losses, skipped, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(same.shared[n], w) for n, w in first().items())
    # The write at the very end concerns the next token only.
    assert not torch.allclose(after.weights["up"][0], first()["up"])
    with pytest.raises(InputError, match="13 tokens are more than the period 12 of level 0"):
        chunked(step, outer_weights(), sequences(2, 1), same, levels=levels, chunk=3)


def test_a_slow_level_writes_the_gradient_of_its_whole_period() -> None:
    # With the quick level's rate 0, the slow level's write is plain autograd's over its period.
    inputs = sequences(2, 6)
    levels = (
        Level(period=2, names=QUICK, rate=0.0),
        Level(period=6, names=SLOW, rate=0.05, average=False, decay=0.9),
    )
    _, _, after = chunked(step, outer_weights(), inputs, start(first(), 2, levels), levels=levels)
    for row in range(2):
        fast = {n: w.requires_grad_() for n, w in first().items()}
        losses, _, _ = step(
            outer_weights(),
            fast,
            pytree.tree_map(lambda x: x[row], inputs),  # noqa: B023
            pytree.tree_map(lambda x: x[0], first_carry(1, fast["up"])),
        )
        (g,) = torch.autograd.grad(losses.sum(), [fast["slow"]])
        torch.testing.assert_close(after.weights["slow"][row], 0.9 * fast["slow"].detach() - 0.05 * g)
        assert torch.equal(after.weights["up"][row], first()["up"])


@pytest.mark.parametrize("clip", [1e-3, 0.1, 10.0])
def test_a_write_is_at_most_rate_times_clip(clip: float) -> None:
    levels = Level(period=4, rate=0.7, clip=clip)
    _, _, after = chunked(step, outer_weights(), sequences(3, 4), start(first(), 3, levels), levels=levels)
    moved = torch.cat([(after.weights[n] - w).flatten(1) for n, w in first().items()], 1).norm(dim=1)
    assert bool((moved <= 0.7 * clip * (1 + 1e-9)).all())
    if clip < 1:
        torch.testing.assert_close(moved, torch.full_like(moved, 0.7 * clip))


def test_one_sequence_s_clip_does_not_scale_another_s() -> None:
    levels = Level(period=4, rate=0.7, clip=1.0)
    inputs = sequences(2, 12)
    inputs["target"][1] *= 100
    losses, _, state = chunked(step, outer_weights(), inputs, start(first(), 2, levels), levels=levels)
    for row in range(2):
        alone = pytree.tree_map(lambda x: x[row : row + 1], inputs)  # noqa: B023
        found, _, after = chunked(step, outer_weights(), alone, start(first(), 1, levels), levels=levels)
        torch.testing.assert_close(found[0], losses[row])
        for n, w in after.weights.items():
            torch.testing.assert_close(w[0], state.weights[n][row])


def test_backward_after_a_detached_stream() -> None:
    # Truncated: the state comes from a first half without a graph.
    levels = Level(period=3, rate=0.3)
    inputs = sequences(2, 10)
    outer = {n: w.requires_grad_() for n, w in outer_weights().items()}
    cut = lambda a, b: pytree.tree_map(lambda x: x[:, a:b], inputs)  # noqa: E731
    with torch.no_grad():
        _, _, state = chunked(step, outer, cut(0, 5), start(first(), 2, levels), levels=levels)
    assert not any(x.requires_grad for x in pytree.tree_leaves(state) if isinstance(x, Tensor))
    losses, _, _ = chunked(step, outer, cut(5, 10), state, levels=levels)
    losses.mean().backward()
    assert all(w.grad is not None and bool((w.grad != 0).any()) for w in outer.values())


def test_gradient_reaches_back_through_a_state_inside_a_chunk() -> None:
    levels = Level(period=4, rate=0.3)
    inputs = sequences(1, 12)
    found = []
    for cuts in ([12], [2, 3, 9, 12]):
        fast = {n: w.requires_grad_() for n, w in first().items()}
        outer = {n: w.requires_grad_() for n, w in outer_weights().items()}
        state, losses, begin = start(fast, 1, levels), [], 0
        for end in cuts:
            piece = pytree.tree_map(lambda x: x[:, begin:end], inputs)  # noqa: B023
            loss, _, state = chunked(step, outer, piece, state, levels=levels)
            losses.append(loss)
            begin = end
        found.append(torch.autograd.grad(torch.cat(losses, 1).mean(), [*outer.values(), *fast.values()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_vmap_over_chunked() -> None:
    levels = Level(period=3, rate=0.3, clip=1.0)
    inputs = sequences(3, 8)

    outer, begin = outer_weights(), start(first(), 1, levels)

    def one(x: Tensor, target: Tensor) -> Tensor:
        each = {"x": x[None], "target": target[None]}
        return chunked(step, outer, each, begin, levels=levels)[0][0]

    whole, _, _ = chunked(step, outer_weights(), inputs, start(first(), 3, levels), levels=levels)
    torch.testing.assert_close(torch.func.vmap(one)(inputs["x"], inputs["target"]), whole)


def test_bfloat16_compute_with_float32_weights() -> None:
    levels = Level(period=3, rate=0.3, clip=1.0)
    single = lambda tree: pytree.tree_map(lambda x: x.float() if x.is_floating_point() else x, tree)  # noqa: E731
    inputs, fast = single(sequences(2, 8)), single(first())
    exact, _, _ = chunked(step, outer_weights(), inputs, start(fast, 2, levels), levels=levels)
    half = pytree.tree_map(lambda x: x.bfloat16(), inputs)
    losses, _, state = chunked(step, outer_weights(), half, start(fast, 2, levels), levels=levels)
    assert all(w.dtype == torch.float32 for w in state.weights.values())
    torch.testing.assert_close(losses, exact, rtol=0.1, atol=0.1)


def test_autocast_is_the_same_in_the_recomputation() -> None:
    levels = Level(period=3, rate=0.3)
    inputs = pytree.tree_map(lambda x: x.float(), sequences(2, 6))
    outer = {n: w.float() for n, w in outer_weights().items()}
    found = []
    for checkpoint in (True, False):
        fast = {n: w.float().requires_grad_() for n, w in first().items()}
        state = start(fast, 2, levels)

        def cast(outer, fast, inputs, carry):
            losses, out, after = step(outer, fast, inputs, carry)
            return losses, out, pytree.tree_map(lambda a, b: a.to(b.dtype), after, carry)

        with torch.autocast("cpu", torch.bfloat16):
            losses, _, _ = chunked(cast, outer, inputs, state, levels=levels, checkpoint=checkpoint)
        found.append(torch.autograd.grad(losses.float().mean(), list(fast.values())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", [chunked, recurrent])
def test_autocast_does_not_reach_the_write(form) -> None:
    levels = Level(period=3, rate=0.3, optimizer=NewtonSchulz(3), restart=6)
    x = sequences(2, 9)["x"].float()
    begin = init({"w": torch.eye(WIDTH)}, 2, levels=levels)

    # No matrix product, which autocast would round here and in the gradient.
    def entries(outer, fast, x, carry):
        losses = (x[:, :, None] * fast["w"]).square().sum((1, 2)) - (x * fast["w"].sum(0)).sum(1)
        return losses, x, carry

    _, _, plain_end = form(entries, (), x, begin, levels=levels)
    with torch.autocast("cpu", torch.bfloat16):
        _, _, end = form(entries, (), x, begin, levels=levels)
    assert torch.equal(end.weights["w"], plain_end.weights["w"])
    assert not torch.equal(end.weights["w"], begin.weights["w"])


def test_a_learned_tensor_from_a_closure_is_not_lost_silently() -> None:
    scale = torch.ones(WIDTH, dtype=torch.float64, requires_grad=True)
    levels = Level(period=3, rate=0.3)

    def hidden(outer, fast, inputs, carry):
        losses, out, after = step(outer, fast, inputs, carry)
        return losses * scale.sum(), out, after

    fast = {n: w.requires_grad_() for n, w in first().items()}
    losses, _, _ = chunked(hidden, outer_weights(), sequences(1, 6), start(fast, 1, levels), levels=levels)
    for again in (False, True):
        with pytest.raises(InputError, match="not among its arguments"):
            losses.mean().backward(create_graph=again, retain_graph=True)


@pytest.mark.parametrize("form", [chunked, recurrent])
def test_a_loss_that_is_not_finite_is_reported_with_its_place(form) -> None:
    levels = Level(period=3, rate=0.3)
    state = start(first(), 3, levels)
    inputs = sequences(3, 10)
    inputs["target"][2, 7] = 1e200

    with pytest.raises(
        InputError, match=r"loss is inf in chunk 2, batch row .*, token 7; nothing was updated"
    ):
        form(step, outer_weights(), inputs, state, levels=levels)
    assert all(torch.equal(state.weights[n][2], w) for n, w in first().items())

    def kink(outer, fast, inputs, carry):
        losses, out, after = step(outer, fast, inputs, carry)
        return losses + (fast["slow"] * 0).abs().sum().sqrt(), out, after

    with pytest.raises(InputError, match='gradient of "slow" is not finite in chunk 0, batch row 0'):
        form(kink, outer_weights(), sequences(3, 10), state, levels=levels)


@pytest.mark.parametrize("form", [chunked, recurrent])
def test_a_step_that_returns_wrong_shapes_is_refused(form) -> None:
    levels = Level(period=3, rate=0.3)
    state, inputs = start(first(), 2, levels), sequences(2, 6)

    def wrong(change):
        def made(outer, fast, inputs, carry):
            return change(*step(outer, fast, inputs, carry))

        return lambda: form(made, outer_weights(), inputs, state, levels=levels)

    with pytest.raises(InputError, match=r"losses \[n\] = \[3\].*got \[\]"):
        wrong(lambda losses, out, carry: (losses.mean(), out, carry))()
    with pytest.raises(InputError, match=r"outputs \[n, ...\] with n = 3; got \[1, 3, 3\]"):
        wrong(lambda losses, out, carry: (losses, out[None], carry))()
    with pytest.raises(InputError, match="carry like the one it was given"):
        wrong(lambda losses, out, carry: (losses, out, carry | {"key": carry["key"][1:]}))()
    with pytest.raises(InputError, match="carry like the one it was given"):
        wrong(lambda losses, out, carry: (losses, out, carry["key"]))()
    with pytest.raises(InputError, match=r"step returns \(losses, outputs, carry\); got 2 of them"):
        wrong(lambda losses, out, carry: (losses, out))()
    with pytest.raises(InputError, match=r"step returns \(losses, outputs, carry\); got Tensor"):
        wrong(lambda losses, out, carry: losses)()


def test_bad_input_is_refused() -> None:
    good = Level(period=3, rate=0.3)
    state, inputs = start(first(), 2, good), sequences(2, 6)

    def call(inputs=inputs, state=state, levels=good, **more):
        return chunked(step, outer_weights(), inputs, state, levels=levels, **more)

    with pytest.raises(InputError, match="period 5 is not a multiple of the chunk, 3 tokens"):
        start(first(), 2, (Level(period=3, names=QUICK), Level(period=5, names=SLOW)))
    with pytest.raises(InputError, match="period is a whole number"):
        Level(period=0)
    with pytest.raises(InputError, match="clip is a positive norm"):
        Level(period=1, clip=0.0)
    with pytest.raises(InputError, match="DeltaGradientDescent reads layer inputs"):
        Level(period=1, optimizer=DeltaGradientDescent())
    with pytest.raises(
        InputError, match=r"keeps \['momentum'\].*make the state by init with the same levels"
    ):
        call(levels=Level(period=3, optimizer=Momentum()))
    with pytest.raises(InputError, match=r"load_state returns \(state, header\)"):
        call(state=(state, {}))
    with pytest.raises(InputError, match="decay is 0, outside"):
        Level(period=1, decay=0)
    with pytest.raises(InputError, match="rate is -1"):
        Level(period=1, rate=-1)
    with pytest.raises(InputError, match="unknown: \\['wide'\\], in none: \\['slow'\\]"):
        start(first(), 2, Level(period=3, names=(*QUICK, "wide")))
    with pytest.raises(InputError, match=r"carry holds tensors \[B, ...\] with B = 2"):
        init(first(), 2, levels=good, carry=first_carry(3, first()["up"]))
    with pytest.raises(InputError, match="T = 0"):
        call(inputs=sequences(2, 0))
    with pytest.raises(InputError, match="differ in batch or tokens"):
        call(inputs={"x": inputs["x"], "target": inputs["target"][:, :3]})
    with pytest.raises(InputError, match="differ in batch"):
        call(inputs=sequences(3, 6))
    with pytest.raises(InputError, match=r"holds tensors \[B, T"):
        call(inputs={"x": 3})
    with pytest.raises(InputError, match="float32 or float64"):
        call(state=state.to(torch.float16))
    with pytest.raises(InputError, match="no level has a period"):
        start(first(), 2, Level(period=None))
    with pytest.raises(InputError, match="state was not"):
        call(levels=Level(period=6), chunk=3)
    _, _, middle = call(inputs=sequences(2, 4))
    with pytest.raises(InputError, match="chunk is 6 tokens, but the state was written with 3"):
        call(state=middle, levels=Level(period=6))


def test_the_inner_step_of_a_memory_is_the_same_write() -> None:
    # A matrix memory with the L2 objective, written by the model's own loss, is the deep rule with chunk = period.
    memory = MLP(sizes=(WIDTH, WIDTH))
    g = torch.Generator().manual_seed(0)
    k, v = (torch.randn(2, 6, WIDTH, generator=g, dtype=torch.float64) for _ in range(2))

    def local(outer, fast, inputs, carry):
        out = inputs["k"] @ fast["0"]
        return (out - inputs["v"]).square().sum(-1), out, carry

    from nestmem.core import Gates, Memory, Period

    levels = Level(period=3, rate=0.1, average=False, optimizer=GradientDescent())
    state = init({"0": torch.zeros(WIDTH, WIDTH, dtype=torch.float64)}, 2, levels=levels)
    _, out, after = chunked(local, {}, {"k": k, "v": v}, state, levels=levels)
    titans = Memory(model=memory, period=Period(chunk=3, read="chunk"))
    begin = titans.init(2, dtype=torch.float64)
    expected, end = titans.scan(begin, k[:, None], k[:, None], v[:, None], Gates(rate=0.1))
    torch.testing.assert_close(out, expected[:, 0])
    torch.testing.assert_close(after.weights["0"], end.weights["0"][:, 0])


@state
class GrowingCache(State):
    """Every key and value so far of one sequence, [B, n, width], and how many there are."""

    key: Tensor
    value: Tensor
    position: int = static(default=0)


def attending(outer, fast, inputs, carry):
    """Attention to every token so far, with a place added to each; a fast matrix before, another after."""
    x = inputs["x"]
    n, past = x.shape[0], carry.position
    place = torch.arange(past, past + n, dtype=x.dtype)[:, None] / 7
    z = torch.tanh((x + place) @ fast["slow"])
    key = torch.cat([carry.key, z @ outer["key"]])
    value = torch.cat([carry.value, z @ outer["value"]])
    mask = torch.arange(past + n)[None] <= torch.arange(past, past + n)[:, None]
    score = (z @ outer["query"] @ key.mT).masked_fill(~mask, float("-inf"))
    z = z + score.softmax(-1) @ value
    out = (z + torch.tanh(z @ fast["up"] + fast["bias"]) @ fast["down"]) @ outer["out"]
    after = GrowingCache(key=key, value=value, position=past + n)
    return (out - inputs["target"]).square().sum(-1), out, after


@pytest.mark.parametrize("carried", ["grows", "remembers"])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_state_in_the_carry_grows_and_counts(carried: str, checkpoint: bool) -> None:
    levels = (
        Level(period=2, names=QUICK, rate=0.3, clip=0.8),
        Level(period=4, names=SLOW, rate=0.2),
    )
    inputs, total = sequences(2, 9), 9
    made = remembering if carried == "remembers" else attending

    def run(form, cuts):
        fast = {n: w.requires_grad_() for n, w in first().items()}
        outer = {n: w.requires_grad_() for n, w in outer_weights().items()}
        if carried == "remembers":
            carry = memories(2, fast["up"])
        else:
            empty = torch.zeros(2, 0, WIDTH, dtype=torch.float64)
            carry = GrowingCache(key=empty, value=empty)
        state, losses, begin = init(fast, 2, levels=levels, carry=carry), [], 0
        for end in [*cuts, total]:
            piece = pytree.tree_map(lambda x: x[:, begin:end], inputs)  # noqa: B023
            loss, _, state = form(made, outer, piece, state, levels=levels, checkpoint=checkpoint)
            losses.append(loss)
            begin = end
        losses = torch.cat(losses, 1)
        parts = [x for x in pytree.tree_leaves(state) if isinstance(x, Tensor)]
        total_loss = losses.mean() + sum(x.square().mean() for x in parts if x.requires_grad)
        return losses, state, parts, torch.autograd.grad(total_loss, [*outer.values(), *fast.values()])

    losses, after, parts, gradients = run(recurrent, [])
    at = after.live["delta"].position if carried == "remembers" else after.live.position
    before = after.carry["deep"].position if carried == "remembers" else after.carry.position
    assert (at, before) == (9, 8)
    if carried == "grows":
        assert after.live.key.shape == (2, 9, WIDTH)
    for cuts in ([], *([s] for s in range(1, total)), range(1, total)):
        found = run(chunked, list(cuts))
        torch.testing.assert_close(found[0], losses, rtol=1e-10, atol=1e-10)
        assert pytree.tree_structure(found[1]) == pytree.tree_structure(after)
        for a, b in zip((*found[2], *found[3]), (*parts, *gradients), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_states_in_the_carry_are_saved_and_mapped(tmp_path) -> None:
    levels = Level(period=3, rate=0.3)
    inputs, outer = sequences(3, 8), outer_weights()
    cut = lambda a, b: pytree.tree_map(lambda x: x[:, a:b], inputs)  # noqa: E731
    begin = init(first(), 3, levels=levels, carry=memories(3, first()["up"]))
    whole, _, _ = chunked(remembering, outer, inputs, begin, levels=levels)
    losses, _, state = chunked(remembering, outer, cut(0, 5), begin, levels=levels)
    save_state(tmp_path / "state.safetensors", state)
    loaded, _ = load_state(tmp_path / "state.safetensors")
    rest, _, _ = chunked(remembering, outer, cut(5, 8), loaded, levels=levels)
    torch.testing.assert_close(torch.cat([losses, rest], 1), whole)

    alone = init(first(), 1, levels=levels, carry=memories(1, first()["up"]))

    def one(x: Tensor, target: Tensor) -> Tensor:
        each = {"x": x[None], "target": target[None]}
        return chunked(remembering, outer, each, alone, levels=levels)[0][0]

    torch.testing.assert_close(torch.func.vmap(one)(inputs["x"], inputs["target"]), whole)


@pytest.mark.parametrize("form", [chunked, recurrent])
def test_another_state_than_the_carry_s_is_refused(form) -> None:
    levels = Level(period=3, rate=0.3)
    begin = init(first(), 2, levels=levels, carry=memories(2, first()["up"]))

    def wrong(outer, fast, inputs, carry):
        losses, out, after = remembering(outer, fast, inputs, carry)
        cache = GrowingCache(key=after["last"][None], value=after["last"][None])
        return losses, out, after | {"delta": cache}

    with pytest.raises(InputError, match=r"'MemoryState'.*; got .*'GrowingCache'"):
        form(wrong, outer_weights(), sequences(2, 4), begin, levels=levels)


def test_recomputing_a_function_that_returns_its_argument() -> None:
    x, y = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    # The second, a view, is only handed through.
    product, same = recomputed(lambda a, b: (a * b, b), x, (2 * y).expand(2, 3))
    found = torch.autograd.grad((product.sum() + 3 * same.sum()), [x, y], create_graph=True)
    torch.testing.assert_close(found, (torch.full((3,), 4.0), torch.full((3,), 16.0)))


def test_nested_level_is_a_plain_loop() -> None:
    # One sequence, one matrix, by hand: three writes and a restart, which takes the place of the fourth.
    inputs = sequences(1, 10)
    level = Level(period=2, rate=0.3, clip=0.7, restart=8, restart_rate=0.4)

    def linear(outer, fast, inputs, carry):
        out = torch.tanh(inputs["x"] @ fast["w"])
        return (out - inputs["target"]).square().sum(-1), out, carry

    start = torch.eye(WIDTH, dtype=torch.float64)
    losses, _, after = chunked(linear, {}, inputs, init({"w": start}, 1, levels=level), levels=level)
    w, total, expected = start, torch.zeros_like(start), []
    for begin in range(0, 10, 2):
        leaf = w.clone().requires_grad_()
        x, target = (inputs[n][0, begin : begin + 2] for n in ("x", "target"))
        loss = (torch.tanh(x @ leaf) - target).square().sum(-1)
        (g,) = torch.autograd.grad(loss.sum(), leaf)
        expected.append(loss.detach())
        total = total + g
        if begin + 2 == 8:
            mean = total / 8
            w = start = start - 0.4 * mean * min(1.0, 0.7 / float(mean.norm()))
            total = torch.zeros_like(total)
        else:
            w = w - 0.3 * g / 2 * min(1.0, 0.7 / float((g / 2).norm()))
    torch.testing.assert_close(losses[0], torch.cat(expected))
    torch.testing.assert_close(after.weights["w"][0], w)
    torch.testing.assert_close(after.initial["w"][0], start)
    torch.testing.assert_close(after.gathered["w"][0], total)


def test_a_restart_at_the_rate_of_the_writes_is_none() -> None:
    inputs = sequences(2, 14)
    never = Level(period=2, rate=0.1, average=False)
    again = Level(period=2, rate=0.1, average=False, restart=4, restart_rate=0.1)
    found = [
        chunked(step, outer_weights(), inputs, start(first(), 2, level), levels=level)
        for level in (never, again)
    ]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-10, atol=1e-10)
    for n, w in found[0][2].weights.items():
        torch.testing.assert_close(w, found[1][2].weights[n], rtol=1e-10, atol=1e-10)


def test_a_restart_at_rate_zero_returns_to_the_initial_weights() -> None:
    level = Level(period=2, rate=0.3, optimizer=Adam(eps=1e-3), restart=6, restart_rate=0.0)
    begin = start(first(), 2, level)
    _, _, after = chunked(step, outer_weights(), sequences(2, 6), begin, levels=level)
    assert all(torch.equal(after.weights[n], w.expand(2, *w.shape)) for n, w in first().items())
    assert all(not bool(x.any()) for x in pytree.tree_leaves(after.slots))


@pytest.mark.parametrize("form", [chunked, recurrent])
def test_reading_without_writing(form) -> None:
    levels = (
        Level(period=2, names=QUICK, rate=0.3, momentum=0.9, optimizer=Momentum(), restart=4),
        Level(period=4, names=SLOW, rate=0.2),
    )
    inputs = sequences(2, 17)
    cut = lambda a, b: pytree.tree_map(lambda x: x[:, a:b], inputs)  # noqa: E731
    _, _, state = form(step, outer_weights(), cut(0, 7), start(first(), 2, levels), levels=levels)
    losses, _, after = form(step, outer_weights(), cut(7, 14), state, levels=levels, write=False)
    for name in ("weights", "slots", "gradients", "initial", "gathered"):
        same = zip(
            pytree.tree_leaves(getattr(state, name)), pytree.tree_leaves(getattr(after, name)), strict=True
        )
        assert all(torch.equal(a, b) for a, b in same)
    fixed = [
        step(outer_weights(), {n: w[row] for n, w in state.weights.items()}, *each)[0]
        for row in range(2)
        for each in [pytree.tree_map(lambda x: x[row], (cut(7, 14), state.live))]  # noqa: B023
    ]
    torch.testing.assert_close(losses, torch.stack(fixed))
    # The place in the period goes on: the write at token 16 is made.
    _, _, end = form(step, outer_weights(), cut(14, 17), after, levels=levels)
    assert end.position == 17 and not torch.equal(end.weights["slow"], after.weights["slow"])


def test_a_learned_restart_rate() -> None:
    inputs = sequences(1, 7)

    def loss(rate: Tensor, slow: Tensor) -> Tensor:
        level = Level(period=2, rate=rate, clip=0.8, restart=4, restart_rate=slow)
        return chunked(step, outer_weights(), inputs, start(first(), 1, level), levels=level)[0].mean()

    rates = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.3, 0.2)]
    assert torch.autograd.gradcheck(loss, rates)
    assert all(bool(g != 0) for g in torch.autograd.grad(loss(*rates), rates))


def test_nested_levels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="restart 5 is not a multiple of the period, 2 tokens"):
        Level(period=2, restart=5)
    with pytest.raises(InputError, match="restart 4 is not a multiple of the period, None"):
        Level(period=None, restart=4)
    with pytest.raises(InputError, match="restart is a whole number of tokens"):
        Level(period=2, restart=0)
    with pytest.raises(InputError, match="restart_rate is -1"):
        Level(period=2, restart=4, restart_rate=-1)
    plain_level, nested = Level(period=2), Level(period=2, restart=4)
    for one, other in ((plain_level, nested), (nested, plain_level)):
        with pytest.raises(InputError, match=r"restart .*, which the state was not made for"):
            chunked(step, outer_weights(), sequences(2, 4), start(first(), 2, one), levels=other)


MEASURE = """
    import resource, sys, torch
    import torch.nn.functional as F
    from nestmem.ops.endtoend import Level, chunked, init

    WIDTH, CHUNK, BATCH = 64, 128, 4

    def step(outer, fast, inputs, carry):
        x, target = inputs
        past = torch.cat([carry, x])
        n = x.shape[0]
        at, of = torch.arange(n)[:, None], torch.arange(CHUNK + n)[None]
        mask = ((of <= at + CHUNK) & (of >= at))[None, None]
        q, k, v = x @ outer["q"], past @ outer["k"], past @ outer["v"]
        x = x + F.scaled_dot_product_attention(q[None, None], k[None, None], v[None, None], attn_mask=mask)[0, 0]
        out = x + F.gelu(x @ fast["up"]) @ fast["down"]
        return (out - target).square().mean(-1), out, past[-CHUNK:]

    torch.manual_seed(0)
    outer = {n: (torch.randn(WIDTH, WIDTH) * WIDTH**-0.5).requires_grad_() for n in "qkv"}
    fast = {
        "up": (torch.randn(WIDTH, 4 * WIDTH) * WIDTH**-0.5).requires_grad_(),
        "down": (torch.randn(4 * WIDTH, WIDTH) * WIDTH**-0.5).requires_grad_(),
    }
    levels = Level(period=CHUNK, rate=1.0, clip=1.0)

    def backward(chunks):
        x, target = torch.randn(2, BATCH, chunks * CHUNK, WIDTH)
        state = init(fast, BATCH, levels=levels, carry=torch.zeros(BATCH, CHUNK, WIDTH))
        losses, _, _ = chunked(step, outer, (x, target), state, levels=levels, checkpoint=sys.argv[1] == "True")
        return torch.autograd.grad(losses.mean(), fast["up"])[0].norm().item()

    backward(2)  # loads what torch loads at first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    norm = backward(32)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, norm)
"""


@pytest.mark.slow
def test_checkpointing_lowers_the_peak_of_memory() -> None:
    """32 chunks: what the process grows by, in MiB, and the same gradient."""
    peaks, norms = [], []
    for checkpoint in (True, False):
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(MEASURE), str(checkpoint)],
            capture_output=True,
            text=True,
            check=True,
        )
        peak, norm = (float(x) for x in run.stdout.split())
        peaks.append(peak)
        norms.append(norm)
    assert peaks[0] < 0.5 * peaks[1], peaks
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
