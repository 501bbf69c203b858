"""What every memory promises: the law of `scan`, causality, outer gradients, resets, and torch's transforms."""

import itertools
from dataclasses import replace
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
    Dot,
    Gates,
    GradientDescent,
    Huber,
    InnerOptimizer,
    Linear,
    Loss,
    Lp,
    Memory,
    MemoryState,
    Momentum,
    Network,
    NewtonSchulz,
    Objective,
    Period,
)

OBJECTIVES = [Dot(), L2(0.5), Huber(0.7), Lp(p=3.0, smooth=1e-3), Loss(lambda p, v: (p - v).cosh().sum())]
# eps is large so that a difference of rounding stays one where Adam divides by a small root.
OPTIMIZERS = [GradientDescent(), Momentum(), DeltaGradientDescent(), NewtonSchulz(steps=2), Adam(eps=1e-3)]
CHOICES: Any = itertools.product(
    [(1, "chunk"), (3, "chunk"), (3, "current")], [1, 2], [None, 3], ["token", "previous", "chunk"]
)
PERIODS = [
    Period(chunk=chunk, gradient=gradient, window=window, reset=reset, read=read)
    for (chunk, gradient), window, reset, read in CHOICES
]
READS = ["token", "previous", "chunk"]
SIZES = (3, 4, 2)
T = 5

random = partial(torch.randn, dtype=torch.float64)


def kind(value: object) -> str:
    return type(value).__name__


objectives = pytest.mark.parametrize("objective", OBJECTIVES, ids=kind)
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=kind)


def made(
    objective: Objective | None = None, optimizer: InnerOptimizer | None = None, period: Period | None = None
) -> Memory:
    return Memory(
        model=MLP(SIZES, activation="silu", bias=True),
        objective=objective or L2(0.5),
        optimizer=optimizer or Momentum(),
        period=period or Period(),
    )


def start(memory: Memory, batch: int = 1, heads: int = 1) -> MemoryState:
    generator = torch.Generator().manual_seed(7)
    fresh = memory.model.init(1, heads, generator=generator, dtype=torch.float64)
    return memory.init(batch, weights={n: random(w.shape[1:], generator=generator) for n, w in fresh.items()})


def keeps_momentum(optimizer: InnerOptimizer) -> bool:
    return isinstance(optimizer, Momentum | NewtonSchulz)


def tokens(memory: Memory, batch: int = 1, heads: int = 1, length: int = T) -> dict[str, Any]:
    """queries, keys, values and every gate the memory takes."""
    g = torch.Generator().manual_seed(3)
    shape = (batch, heads, length)
    gates = Gates(
        rate=0.05 + 0.3 * torch.rand(shape, generator=g, dtype=torch.float64),
        decay=0.5 + 0.5 * torch.rand(shape, generator=g, dtype=torch.float64),
    )
    momentum = 0.9 * torch.rand(shape, generator=g, dtype=torch.float64)
    if keeps_momentum(memory.optimizer):
        gates = gates.replace(momentum=momentum)
    window = memory.period.window
    if window > 1:
        gates = gates.replace(window=torch.rand(*shape, window, generator=g, dtype=torch.float64))
    elif isinstance(memory.objective, Huber):
        gates = gates.replace(threshold=0.2 + torch.rand(shape, generator=g, dtype=torch.float64))
    widths = {"queries": SIZES[0], "keys": SIZES[0], "values": SIZES[-1]}
    return {n: random(*shape, width, generator=g) for n, width in widths.items()} | {"gates": gates}


def but(given: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The same with some parts changed."""
    return given | changes


def cut(given: dict[str, Any], begin: int, end: int) -> dict[str, Any]:
    return {n: x.slice(begin, end) if n == "gates" else x[:, :, begin:end] for n, x in given.items()}


def assert_same(found: object, expected: object, tolerance: float = 1e-10) -> None:
    assert pytree.tree_structure(found) == pytree.tree_structure(expected)
    for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "period", PERIODS, ids=lambda p: f"{p.chunk}-{p.gradient}-{p.window}-{p.reset}-{p.read}"
)
@optimizers
def test_chunks_and_splits_change_nothing(optimizer: InnerOptimizer, period: Period) -> None:
    for objective in OBJECTIVES:
        memory = made(objective, optimizer, period)
        given, state = tokens(memory), start(memory)
        expected = memory.scan(state, **given, chunked=False)
        assert expected[1].position == T
        assert_same(memory.scan(state, **given), expected)
        for split in range(1, T):
            first, middle = memory.scan(state, **cut(given, 0, split))
            second, end = memory.scan(middle, **cut(given, split, T))
            assert_same((torch.cat([first, second], 2), end), expected)


def by_hand(memory: Memory, state: MemoryState, given: dict[str, Any]) -> tuple[list[Tensor], dict]:
    """One sequence and head of a memory with GradientDescent, from the words of `Period`, with autograd alone."""
    period, gates = memory.period, given["gates"]
    weights = first = anchor = {n: w[0, 0] for n, w in state.weights.items()}
    q, k, v = (given[n][0, 0] for n in ("queries", "keys", "values"))
    outputs = []

    def answer(w: dict, x: Tensor) -> Tensor:
        y = torch.nn.functional.silu(x @ w["0"] + w["0.bias"])
        return y @ w["1"] + w["1.bias"]

    for t in range(k.shape[0]):
        if period.reset and t % period.reset == 0:
            weights = first
        if t % period.chunk == 0:
            anchor = weights
        point = anchor if period.gradient == "chunk" else weights

        def loss(w: dict, t: int = t) -> Tensor:
            back = range(min(period.window, t % period.reset + 1 if period.reset else t + 1))
            share = gates.window[0, 0, t] if period.window > 1 else [1.0]
            return torch.stack(
                [share[j] * 0.5 * (answer(w, k[t - j]) - v[t - j]).square().sum() for j in back]
            ).sum()

        gradient = torch.func.grad(loss)(point)
        before = weights
        rate, decay = gates.rate[0, 0, t], gates.decay[0, 0, t]
        weights = {n: decay * w - rate * gradient[n] for n, w in weights.items()}
        outputs.append(answer({"token": weights, "previous": before, "chunk": anchor}[period.read], q[t]))
    return outputs, weights


@pytest.mark.parametrize(
    "period", PERIODS, ids=lambda p: f"{p.chunk}-{p.gradient}-{p.window}-{p.reset}-{p.read}"
)
def test_scan_is_what_the_period_says(period: Period) -> None:
    memory = made(L2(0.5), GradientDescent(), period)
    given, state = tokens(memory, length=7), start(memory)
    found, after = memory.scan(state, **given)
    outputs, weights = by_hand(memory, state, given)
    torch.testing.assert_close(found[0, 0], torch.stack(outputs), rtol=1e-10, atol=1e-10)
    assert_same({n: w[0, 0] for n, w in after.weights.items()}, weights)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("gradient", ["chunk", "current"])
def test_no_output_sees_a_later_token(gradient: Any, window: int, read: Any) -> None:
    chunk = 3
    memory = made(period=Period(chunk=chunk, gradient=gradient, window=window, read=read))
    given, state = tokens(memory, length=7), start(memory)
    outputs, _ = memory.scan(state, **given)
    for t in range(7):
        for name in ("keys", "values", "rate", "decay", "momentum"):
            changed = dict(given)
            if name in given:
                x = given[name].clone()
                x[:, :, t] += 0.5
                changed[name] = x
            else:
                x = getattr(given["gates"], name).clone()
                x[:, :, t] *= 0.5
                changed["gates"] = given["gates"].replace(**{name: x})
            seen = (memory.scan(state, **changed)[0] != outputs).any(-1)[0, 0]
            # The first output that may see token t.
            first = {"token": t, "previous": t + 1, "chunk": (t // chunk + 1) * chunk}[read]
            assert not seen[:first].any()
            # Momentum decays nothing before there is any, and gradients of a chunk do not see its weights.
            if first < 7 and not (name == "momentum" and t == 0):
                assert seen[first], (t, name)


@pytest.mark.parametrize("read", READS)
def test_a_query_sees_itself_alone(read: Any) -> None:
    memory = made(period=Period(chunk=3, read=read))
    given, state = tokens(memory), start(memory)
    outputs, after = memory.scan(state, **given)
    for t in range(T):
        queries = given["queries"].clone()
        queries[:, :, t] += 1
        changed, same = memory.scan(state, **but(given, queries=queries))
        assert ((changed != outputs).any(-1)[0, 0] == (torch.arange(T) == t)).all()
        assert_same(same, after, 0)


@optimizers
def test_outer_gradients_through_three_chunks(optimizer: InnerOptimizer) -> None:
    memory = made(optimizer=optimizer, period=Period(chunk=2))
    given, state = tokens(memory, length=5), start(memory)
    first = {n: w[0].clone().requires_grad_() for n, w in state.weights.items()}
    parts: list[Any] = [given[n].clone().requires_grad_() for n in ("queries", "keys", "values")]
    named = ["rate", "decay", "momentum"][: 3 if keeps_momentum(optimizer) else 2]
    gates = [getattr(given["gates"], n).clone().requires_grad_() for n in named]

    def outer(*flat: Tensor) -> tuple[Tensor, ...]:
        rest: list[Any] = list(flat[: -len(named)])
        weights = dict(zip(first, rest[3:], strict=True))
        out, after = memory.scan(
            memory.init(1, weights=weights),
            *rest[:3],
            Gates(**dict(zip(named, flat[-len(named) :], strict=True))),
            check=False,
        )
        return out, *after.weights.values()

    inputs = (*parts, *first.values(), *gates)
    assert torch.autograd.gradcheck(outer, inputs, fast_mode=True)
    gradients = torch.autograd.grad(
        [x.square().sum() for x in outer(*inputs)], inputs, materialize_grads=True
    )
    names = ["queries", "keys", "values", *first, *named]
    for name, each in zip(names, gradients, strict=True):
        assert each.any(), name
        if name in ("keys", "values", "decay"):
            assert each.reshape(5, -1).any(-1).all(), f"some token's {name}"


@objectives
def test_outer_gradients_through_every_objective(objective: Objective) -> None:
    memory = made(objective, GradientDescent(), Period(chunk=2))
    given, state = tokens(memory), start(memory)
    parts: list[Any] = [given[n].clone().requires_grad_() for n in ("queries", "keys", "values")]

    def outer(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return memory.scan(state, queries, keys, values, given["gates"])[0]

    assert torch.autograd.gradcheck(outer, parts, fast_mode=True)


def test_a_window_before_the_first_token_has_no_weight() -> None:
    """Tokens that were never given cannot matter, whatever the window's weights say of them."""
    memory = made(period=Period(window=2))
    given, state = tokens(memory), start(memory)
    share = given["gates"].window.clone()
    share[:, :, 0, 1] = 1e9
    changed = but(given, gates=given["gates"].replace(window=share))
    assert_same(memory.scan(state, **changed), memory.scan(state, **given), 0)


def test_a_window_before_the_first_token_has_a_finite_derivative() -> None:
    """A model of the key's direction, which has none at zero."""
    model = Network(lambda w, k: (k / k.norm(dim=-1, keepdim=True)) @ w["0"], {"0": torch.zeros(3, 2)})
    memory = Memory(model=model, period=Period(chunk=2, window=3))
    given = tokens(made(optimizer=memory.optimizer, period=memory.period))
    weights = random(1, 3, 2).requires_grad_()
    keys = given["keys"].clone().requires_grad_()
    outputs, _ = memory.scan(memory.init(1, weights={"0": weights}), **but(given, keys=keys))
    for each in torch.autograd.grad(outputs.sum(), (weights, keys)):
        assert torch.isfinite(each).all()


def test_a_window_of_one_weight_is_no_window() -> None:
    wide, plain = (made(period=Period(chunk=3, window=w)) for w in (2, 1))
    given, state = tokens(wide), start(plain)
    share = torch.zeros_like(given["gates"].window)
    share[..., 0] = 1
    found, after = wide.scan(state, **but(given, gates=given["gates"].replace(window=share)))
    expected, other = plain.scan(state, **but(given, gates=given["gates"].replace(window=None)))
    torch.testing.assert_close(found, expected)
    assert_same(after.weights, other.weights)
    assert after.recent is not None
    for found, name in zip(after.recent, ("keys", "values"), strict=True):
        assert torch.equal(found, given[name][:, :, -1:])


@optimizers
def test_a_reset_returns_to_the_initial_weights(optimizer: InnerOptimizer) -> None:
    memory = made(optimizer=optimizer, period=Period(chunk=2, reset=4))
    given, state = tokens(memory, length=8), start(memory)
    outputs, after = memory.scan(state, **given)
    again, same = memory.scan(state, **cut(given, 4, 8))
    torch.testing.assert_close(outputs[:, :, 4:], again)
    assert_same(after.replace(position=4), same)
    forever, _ = replace(memory, period=Period(chunk=2)).scan(state, **given)
    torch.testing.assert_close(forever[:, :, :4], outputs[:, :, :4])
    assert (forever[:, :, 4:] - outputs[:, :, 4:]).abs().amin() > 1e-9
    assert_same(after.initial, state.weights, 0)


def test_the_state_before_a_reset_can_still_be_read() -> None:
    memory = made(period=Period(reset=3))
    given, state = tokens(memory), start(memory)
    outputs, after = memory.scan(state, **cut(given, 0, 3))
    torch.testing.assert_close(memory.read(after, given["queries"][:, :, 2:3]), outputs[:, :, 2:])


@optimizers
def test_sequences_and_heads_are_strangers(optimizer: InnerOptimizer) -> None:
    memory = made(optimizer=optimizer, period=Period(chunk=3, window=2, reset=3))
    given, state = tokens(memory, 3, 2), start(memory, 3, 2)
    outputs, after = memory.scan(state, **given)
    for b, h in itertools.product(range(3), range(2)):
        row = partial(lambda x, b, h: x[b : b + 1, h : h + 1], b=b, h=h)
        alone = {n: x.map(row) if n == "gates" else row(x) for n, x in given.items()}
        assert_same(memory.scan(state.map(row), **alone), (row(outputs), after.map(row)))


@pytest.mark.parametrize("chunked", [False, True])
def test_write_is_the_state_of_scan(chunked: bool) -> None:
    memory = made(period=Period(chunk=3))
    given, state = tokens(memory), start(memory)
    _, expected = memory.scan(state, **given)
    found = memory.write(state, given["keys"], given["values"], given["gates"], chunked=chunked)
    assert_same(found, expected)
    # Writing changes no state that was there before.
    assert_same(start(memory), state, 0)


@optimizers
def test_numbers_for_gates_are_the_same_at_every_token(optimizer: InnerOptimizer) -> None:
    memory = made(optimizer=optimizer)
    given, state = tokens(memory), start(memory)
    full = given["gates"].map(lambda x: torch.full_like(x, 0.25))
    numbers = Gates(rate=0.25, decay=0.25, momentum=0.25 if keeps_momentum(optimizer) else 0.0)
    assert_same(
        memory.scan(state, **but(given, gates=numbers)),
        memory.scan(state, **but(given, gates=full)),
        0,
    )
    none = memory.scan(state, **but(given, gates=None))
    assert_same(none, memory.scan(state, **but(given, gates=Gates(rate=1.0, decay=1.0, momentum=0.0))), 0)


def test_init_draws_from_the_generator_or_takes_learned_weights() -> None:
    memory = made(period=Period(reset=2))
    one, two = (memory.init(2, 3, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert_same(one, two, 0)
    assert one.position == 0 and one.initial is not None
    learned = {n: w[0] for n, w in one.weights.items()}
    assert_same(memory.init(2, weights=learned), one, 0)
    assert made().init(1).initial is None


def test_a_memory_works_on_an_empty_batch() -> None:
    memory = made()
    outputs, after = memory.scan(start(memory, 0), **tokens(memory, 0))
    assert outputs.shape == (0, 1, T, SIZES[-1]) and after.position == T


def test_a_network_is_a_memory_too() -> None:
    given = tokens(made(period=Period(window=2)))
    mlp = Memory(model=Linear(3, 2), optimizer=Momentum(), period=Period(chunk=3, window=2))
    network = replace(mlp, model=Network(lambda w, k: k @ w["0"], {"0": torch.zeros(3, 2)}))
    found, expected = (m.scan(m.init(1, dtype=torch.float64), **given) for m in (network, mlp))
    assert_same(found, expected)


@optimizers
def test_vmap_over_the_batch(optimizer: InnerOptimizer) -> None:
    memory = made(optimizer=optimizer, period=Period(chunk=3, window=2, reset=3))
    given, state = tokens(memory, 3, 2), start(memory, 3, 2)

    def one(state: MemoryState, given: dict[str, Any]) -> tuple[Tensor, MemoryState]:
        whole = pytree.tree_map_only(Tensor, lambda x: x[None], (state, given))
        outputs, after = memory.scan(whole[0], **whole[1])
        return outputs[0], after.map(lambda x: x[0])

    # vmap maps tensors, not numbers.
    full = but(given, gates=given["gates"].expand(given["keys"]))
    assert_same(torch.func.vmap(one)(state, full), memory.scan(state, **given))


@optimizers
def test_grad_of_torch_func(optimizer: InnerOptimizer) -> None:
    memory = made(optimizer=optimizer, period=Period(chunk=3))
    given, state = tokens(memory, 2), start(memory, 2)

    def loss(state: MemoryState) -> Tensor:
        return memory.scan(state, **given)[0].square().sum()

    found = torch.func.grad(loss)(state.replace(anchor=None))
    weights = {n: w.clone().requires_grad_() for n, w in state.weights.items()}
    expected = torch.autograd.grad(loss(state.replace(weights=weights, anchor=None)), list(weights.values()))
    assert isinstance(found, MemoryState)
    assert_same(list(found.weights.values()), list(expected))


@optimizers
def test_compile(optimizer: InnerOptimizer) -> None:
    memory = made(optimizer=optimizer, period=Period(chunk=2))
    given, state = tokens(memory, 2, length=2), start(memory, 2)
    torch.compiler.reset()
    compiled = torch.compile(memory.scan, backend="eager", fullgraph=True)
    assert_same(compiled(state, **given), memory.scan(state, **given))


def test_compile_from_the_middle_of_a_chunk() -> None:
    memory = made(optimizer=GradientDescent(), period=Period(chunk=2, window=2, reset=2))
    given, state = tokens(memory, 2, length=3), start(memory, 2)
    torch.compiler.reset()
    compiled = torch.compile(memory.scan, backend="eager", fullgraph=True)
    for begin, end in ((0, 1), (1, 3)):
        expected = memory.scan(state, **cut(given, begin, end))
        assert_same(compiled(state, **cut(given, begin, end)), expected)
        state = expected[1]


def test_period_pieces_never_cross_a_chunk() -> None:
    for chunk, position, length in itertools.product((1, 2, 5), range(7), range(1, 9)):
        period = Period(chunk=chunk)
        pieces = list(period.pieces(position, length))
        assert [t for start, stop in pieces for t in range(start, stop)] == list(range(length))
        assert all((position + s) // chunk == (position + e - 1) // chunk for s, e in pieces)
        assert all((position + s) % chunk == 0 for s, _ in pieces[1:])
        single = [(t, t + 1) for t in range(length)]
        assert list(period.pieces(position, length, chunked=False)) == single
        assert list(Period(chunk=chunk, gradient="current").pieces(position, length)) == single


@pytest.mark.parametrize("chunk", [1, 2, 4])
@optimizers
def test_no_window_looks_back_across_a_reset(optimizer: InnerOptimizer, chunk: int) -> None:
    memory = made(optimizer=optimizer, period=Period(chunk=chunk, window=3, reset=4))
    given, state = tokens(memory, length=8), start(memory)
    outputs, after = memory.scan(state, **given)
    fresh, same = memory.scan(state, **cut(given, 4, 8))
    torch.testing.assert_close(outputs[:, :, 4:], fresh, rtol=1e-12, atol=1e-12)
    assert_same(after.replace(position=4), same)
    for split in range(1, 8):
        first, middle = memory.scan(state, **cut(given, 0, split))
        second, end = memory.scan(middle, **cut(given, split, 8))
        assert_same((torch.cat([first, second], 2), end), (outputs, after))


def test_write_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = made(period=Period(chunk=2))
    given, state = tokens(memory), start(memory)
    _, expected = memory.scan(state, **given)

    def read(*_: object) -> Tensor:
        raise AssertionError("a read")

    monkeypatch.setattr(MLP, "__call__", read)
    assert_same(memory.write(state, given["keys"], given["values"], given["gates"]), expected, 0)
    with pytest.raises(AssertionError, match="a read"):
        memory.scan(state, **given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tokens_are_computed_in_float32(dtype: torch.dtype) -> None:
    memory = made(period=Period(chunk=2, window=2))
    given = {n: x.to(dtype) for n, x in tokens(memory).items()}
    state = start(memory).to(torch.float32)
    outputs, after = memory.scan(state, **given)
    expected, same = memory.scan(state, **{n: x.to(torch.float32) for n, x in given.items()})
    assert outputs.dtype == dtype and torch.equal(outputs, expected.to(dtype))
    assert_same(after, same, 0)
    assert torch.equal(
        memory.read(state, given["queries"]), memory.read(state, given["queries"].float()).to(dtype)
    )
    # A number that half precision rounds is not rounded.
    numbers = but(given, gates=Gates(rate=0.1, window=given["gates"].window))
    tenth = but(given, gates=Gates(rate=torch.full((1, 1, T), 0.1), window=given["gates"].window))
    assert_same(memory.scan(state, **numbers)[1], memory.scan(state, **tenth)[1], 0)


def test_the_state_says_its_chunk() -> None:
    memory = made(period=Period(chunk=3))
    given, state = tokens(memory), start(memory)
    assert state.chunk == 0
    assert memory.write(state, given["keys"], given["values"]).chunk == 3
