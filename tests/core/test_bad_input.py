"""What a memory refuses, and whether its message names the argument, what was given and where."""

import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nestmem.core import (
    L2,
    MLP,
    Adam,
    DeltaGradientDescent,
    Dot,
    Gates,
    GradientDescent,
    Huber,
    Linear,
    Loss,
    Lp,
    Memory,
    Momentum,
    Network,
    Period,
)
from nestmem.core.checks import (
    check_chunk,
    check_finite,
    check_names,
    check_range,
    check_state,
    check_state_kind,
    check_tokens,
    state_dtype,
)
from nestmem.errors import InputError, NestmemError

B, H, T, K, V = 2, 3, 4, 5, 6
NAN, INF = float("nan"), float("inf")
# Huber, whose tokens may have a threshold each.
MEMORY = Memory(model=Linear(K, V), objective=Huber(), optimizer=Momentum(), period=Period(chunk=2))
FRESH = MEMORY.init(B, H, dtype=torch.float64)

WINDOWED = Memory(model=Linear(K, V), objective=Huber(), optimizer=Momentum(), period=Period(window=2))
random = partial(torch.randn, dtype=torch.float64)
ones = partial(torch.ones, dtype=torch.float64)


def tokens() -> dict[str, Any]:
    return {"queries": random(B, H, T, K), "keys": random(B, H, T, K), "values": random(B, H, T, V)}


def only(name: str, value: Any) -> Gates:
    """Gates of which one is given."""
    given = {name: value}
    return Gates(**given)


def refuses(
    match: str, *, memory: Memory = MEMORY, state=FRESH, check: bool = True, gates=None, **changes
) -> None:
    """The message, and that the state is what it was."""
    before = {n: w.clone() for n, w in state.weights.items()}
    with pytest.raises(InputError, match=match):
        memory.scan(state, **(tokens() | changes), gates=gates, check=check)
    assert all(torch.equal(before[n], w) for n, w in state.weights.items())


def test_an_input_error_is_a_value_error_of_ours() -> None:
    assert issubclass(InputError, ValueError) and issubclass(InputError, NestmemError)


@pytest.mark.parametrize("check", [True, False])
def test_shapes_are_checked_whether_numbers_are_or_not(check: bool) -> None:
    no: Any = partial(refuses, check=check)
    for name in ("queries", "keys", "values"):
        no(rf"{name} is \[B, H, T, width\]; got shape \[3, 4, 5\]", **{name: random(H, T, K)})
        no(rf"{name} is \[B, H, T, width\]; got shape \[1, 2, 3, 4, 5\]", **{name: random(1, B, H, T, K)})
        no(rf"{name} is \[B, H, T, width\]; got shape \[\]", **{name: random(())})
        no(
            rf"{name} holds torch.int64; a memory reads floating point",
            **{name: torch.ones(B, H, T, K, dtype=torch.int64)},
        )
    for name in ("queries", "values"):
        for shape in ((B + 1, H, T, K), (1, H, T, K), (B, H - 1, T, K), (B, H, T + 1, K)):
            expected = rf"{name} {re.escape(str(list(shape)))} and keys \[2, 3, 4, 5\] differ in batch, heads or tokens"
            no(expected, **{name: random(shape)})
    no(r"queries \[2, 3, 4, 7\] and keys \[2, 3, 4, 5\] differ in width", queries=random(B, H, T, 7))
    for name in ("queries", "values"):
        no(rf"{name} are torch.float32 on cpu, keys torch.float64", **{name: tokens()[name].float()})
        no(
            rf"{name} are torch.float64 on meta, keys torch.float64 on cpu",
            **{name: tokens()[name].to("meta")},
        )


@pytest.mark.parametrize("check", [True, False])
def test_no_tokens(check: bool) -> None:
    none: dict[str, Any] = {n: x[:, :, :0] for n, x in tokens().items()}
    refuses(r"T = 0: there is no token in keys \[2, 3, 0, 5\]", check=check, **none)


@pytest.mark.parametrize("check", [True, False])
def test_tokens_of_another_width_than_the_model(check: bool) -> None:
    wide = random(B, H, T, K + 1)
    refuses(r"keys and queries have width 5; got \[2, 3, \d, 6\]", check=check, keys=wide, queries=wide)
    for width in (1, V + 1):
        refuses(
            rf"values have width 6; got \[2, 3, \d, {width}\]", check=check, values=random(B, H, T, width)
        )
    with pytest.raises(InputError, match=r"keys and queries have width 5; got \[2, 3, 4, 6\]"):
        MEMORY.read(FRESH, wide)


@pytest.mark.parametrize("check", [True, False])
def test_a_state_of_other_sequences_or_numbers(check: bool) -> None:
    for batch, heads in ((B + 1, H), (1, H), (B, 1)):
        refuses(
            rf"state.weights\['0'\] \[{batch}, {heads}, 5, 6\] and keys \[2, 3, 4, 5\] differ in batch or heads",
            state=MEMORY.init(batch, heads, dtype=torch.float64),
            check=check,
        )
    refuses(
        r"state.weights\['0'\] is torch.float32 on cpu, keys torch.float64 on cpu; use state.to\(torch.float64\)",
        state=FRESH.to(torch.float32),
        check=check,
    )
    for half in (torch.bfloat16, torch.float16):
        refuses(
            rf"state.weights\['0'\] is {half}; a memory's state is float32 or float64: use state.to",
            state=FRESH.to(half),
            check=check,
        )
        with pytest.raises(InputError, match=f"weights is {half}"):
            check_state_kind("weights", torch.ones(2, dtype=half))


def test_a_state_without_what_a_reset_needs() -> None:
    refuses(
        "Period.reset is 4, but the state has no initial weights",
        memory=Memory(model=Linear(K, V), optimizer=Momentum(), period=Period(chunk=2, reset=4)),
    )


RANGES = [
    ("rate", -0.1, r"\[0, inf\]"),
    ("decay", 0.0, r"\(0, 1\]"),
    ("decay", -0.5, r"\(0, 1\]"),
    ("decay", 1.5, r"\(0, 1\]"),
    ("momentum", -0.25, r"\[0, 1\]"),
    ("momentum", 1.25, r"\[0, 1\]"),
    ("threshold", 0.0, r"\(0, inf\]"),
    ("threshold", -1.0, r"\(0, inf\]"),
]


@pytest.mark.parametrize(("name", "value", "bounds"), RANGES)
def test_a_gate_outside_its_range(name: str, value: float, bounds: str) -> None:
    gate = ones(B, H, T) * 0.5
    gate[1, 2, 3] = value
    refuses(rf"{name} is {value:g} at \[1, 2, 3\], outside {bounds}", gates=only(name, gate))
    if name != "threshold":
        refuses(rf"{name} is {value:g} at \[0, 0, 0\], outside {bounds}", gates=only(name, value))
    # The same numbers pass where nobody looks.
    MEMORY.scan(FRESH, **tokens(), gates=only(name, gate), check=False)


@pytest.mark.parametrize("name", ["rate", "decay", "momentum", "threshold"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_gate_that_is_no_number(name: str, bad: float) -> None:
    gate = ones(B, H, T) * 0.5
    gate[1, 0, 2] = bad
    refuses(rf"{name} \[2, 3, 4\] holds {bad} at \[1, 0, 2\]", gates=only(name, gate))
    if name != "threshold":
        refuses(rf"{name} \[2, 3, 4\] holds {bad} at \[0, 0, 0\]", gates=only(name, bad))


@pytest.mark.parametrize("name", ["rate", "decay", "momentum", "threshold"])
@pytest.mark.parametrize("check", [True, False])
def test_a_gate_of_another_shape_or_kind(name: str, check: bool) -> None:
    no: Any = partial(refuses, check=check)
    for shape in ((B, H), (B, H, T, 1), (B, H, 1), (B, H, T + 1), (B + 1, H, T), ()):
        no(
            rf"{name} is \[B, H, T\] = \(2, 3, 4\), like keys \[2, 3, 4, 5\]; got {re.escape(str(list(shape)))}",
            gates=only(name, ones(shape)),
        )
    no(
        rf"{name} is torch.int64 on cpu; expected floating point numbers on cpu",
        gates=only(name, torch.ones(B, H, T, dtype=torch.int64)),
    )
    no(rf"{name} is torch.float64 on meta", gates=only(name, ones(B, H, T, device="meta")))


@pytest.mark.parametrize(
    "edge", [("rate", 0.0), ("rate", 1e9), ("decay", 1.0), ("momentum", 0.0), ("momentum", 1.0)]
)
def test_the_edges_of_a_range_are_inside(edge: tuple[str, float]) -> None:
    MEMORY.scan(FRESH, **tokens(), gates=only(*edge))


def test_a_threshold_is_given_per_token() -> None:
    refuses(
        r"Gates.threshold is a tensor \[B, H, T\] = \(2, 3, 4\); got 0.5",
        gates=only("threshold", 0.5),
    )
    windowed = Memory(model=Linear(K, V), objective=Huber(), period=Period(window=2))
    refuses(
        "threshold per token and a window of several tokens do not go together",
        memory=windowed,
        state=windowed.init(B, H, dtype=torch.float64),
        gates=Gates(threshold=ones(B, H, T), window=ones(B, H, T, 2)),
    )


@pytest.mark.parametrize("check", [True, False])
def test_a_window_where_it_is_asked_for(check: bool) -> None:
    no: Any = partial(refuses, check=check)
    wide = Memory(model=Linear(K, V), period=Period(window=3))
    no(
        r"Gates.window is given, but the period's window is 1; .*exactly when",
        gates=Gates(window=ones(B, H, T, 3)),
    )
    no(r"Gates.window is missing, but the period's window is 3; give \[B, H, T, window\]", memory=wide)
    for shape in ((B, H, T, 2), (B, H, T), (B, H, T, 3, 1), (B, H, 1, 3)):
        no(
            rf"Gates.window is \[B, H, T, 3\] = \(2, 3, 4, 3\); got {re.escape(str(list(shape)))}",
            memory=wide,
            gates=Gates(window=ones(shape)),
        )


def test_a_window_that_is_no_number() -> None:
    window = ones(B, H, T, 3)
    window[0, 1, 2, 1] = NAN
    refuses(
        r"Gates.window \[2, 3, 4, 3\] holds nan at \[0, 1, 2, 1\]",
        memory=Memory(model=Linear(K, V), period=Period(window=3)),
        gates=Gates(window=window),
    )


@pytest.mark.parametrize("name", ["chunk", "window", "reset"])
@pytest.mark.parametrize("value", [0, -2, 1.5, "4", True])
def test_a_period_is_in_whole_tokens(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"{name} is a whole number of tokens, at least 1; got {value!r}"):
        Period(**{name: value})  # pyright: ignore[reportArgumentType]


def test_a_period_that_does_not_fit() -> None:
    with pytest.raises(InputError, match="make it a multiple of chunk=4; got 6"):
        Period(chunk=4, reset=6)
    with pytest.raises(InputError, match='gradient is taken at "chunk" or "current"; got \'token\''):
        Period(gradient="token")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match='read is "token", "previous" or "chunk"; got \'now\''):
        Period(read="now")  # pyright: ignore[reportArgumentType]


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["queries", "keys", "values"]),
    place=st.tuples(*(st.integers(0, n - 1) for n in (B, H, T, K))),
    bad=st.sampled_from([NAN, INF, -INF]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_message_says_where_a_number_is_missing(
    name: str, place: tuple, bad: float, dtype: torch.dtype
) -> None:
    given: dict[str, Any] = {n: x.to(dtype) for n, x in tokens().items()}
    given[name][place] = bad
    state = FRESH.to(dtype)
    where = re.escape(f"{name} {list(given[name].shape)} holds {bad} at {list(place)}; ")
    refuses(where, state=state, **given)
    outputs, _ = MEMORY.scan(state, **given, check=False)
    assert outputs.shape == (B, H, T, V)


@settings(max_examples=40, deadline=None)
@given(places=st.sets(st.tuples(*(st.integers(0, n - 1) for n in (B, H, T, K))), min_size=1))
def test_the_first_place_is_told(places: set[tuple]) -> None:
    x = random(B, H, T, K)
    for i, place in enumerate(sorted(places)):
        x[place] = (NAN, INF, -INF)[i % 3]
    with pytest.raises(InputError, match=re.escape(f"at {list(min(places))}; ")):
        check_finite("x", x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_sum_that_overflows_is_no_missing_number(dtype: torch.dtype) -> None:
    largest = 3e38 if dtype == torch.float32 else torch.finfo(dtype).max
    huge = torch.full((B, H, T, K), largest, dtype=dtype)
    check_finite("huge", huge)
    check_tokens(queries=huge, keys=huge, values=huge)
    # Opposite infinities of partial sums make nan, which is no number of the input either.
    half = huge.clone()
    half[1] *= -1
    check_finite("half", half)
    huge[0, 0, 3, 2] = INF
    with pytest.raises(InputError, match=r"huge \[2, 3, 4, 5\] holds inf at \[0, 0, 3, 2\]"):
        check_finite("huge", huge)


def test_infinities_that_cancel_are_seen() -> None:
    x = ones(3)
    x[1], x[2] = INF, -INF
    with pytest.raises(InputError, match=r"x \[3\] holds inf at \[1\]"):
        check_finite("x", x)


def test_huge_values_go_through_a_scan() -> None:
    given: dict[str, Any] = {n: x.float() for n, x in tokens().items()} | {
        "values": torch.full((B, H, T, V), 1e37)
    }
    MEMORY.scan(FRESH.to(torch.float32), **given, gates=Gates(rate=0.0))


def test_checks_of_nothing() -> None:
    check_finite("x", torch.zeros(0, 3))
    check_range("x", torch.zeros(0, 3), 0, 1)
    check_finite("x", torch.full((2,), NAN, device="meta"))


def test_no_look_at_numbers_inside_a_transform() -> None:
    given = tokens()
    given["keys"][1, 1, 1, 1] = NAN

    def one(keys: Tensor, values: Tensor, rate: Tensor) -> Tensor:
        state = MEMORY.init(1, H, dtype=torch.float64)
        return MEMORY.scan(state, keys[None], keys[None], values[None], Gates(rate=rate[None]))[0][0]

    outputs = torch.func.vmap(one)(given["keys"], given["values"], ones(B, H, T))
    assert not outputs[1].isfinite().all() and outputs[0].isfinite().all()
    with pytest.raises(InputError, match=r"rate is \[B, H, T\] = \(1, 3, 4\).*got \[1, 3, 1\]"):
        torch.func.vmap(one)(given["keys"], given["values"], ones(B, H, 1))


@pytest.mark.parametrize("optimizer", [Momentum(), DeltaGradientDescent()])
def test_an_mlp_refuses_the_same(optimizer) -> None:
    memory = Memory(model=MLP((K, 4, V)), optimizer=optimizer)
    state = memory.init(B, H, dtype=torch.float64)
    refuses(r"values have width 6; got \[2, 3, 1, 1\]", memory=memory, state=state, values=random(B, H, T, 1))


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_broken_state(bad: float) -> None:
    weights = {"0": FRESH.weights["0"].clone()}
    weights["0"][1, 2, 3, 4] = bad
    broken = FRESH.replace(weights=weights, position=2)
    where = rf"state.weights\['0'\] \[2, 3, 5, 6\] holds {bad} at \[1, 2, 3, 4\]; "
    message = where + ".*load an earlier state"
    with pytest.raises(InputError, match=where + "the initial weights given hold nan"):
        MEMORY.scan(broken.replace(position=0), **tokens())
    with pytest.raises(InputError, match=message):
        check_state(weights, random(B, H, T, K))
    with pytest.raises(InputError, match=message):
        MEMORY.read(broken, random(B, H, T, K))
    with pytest.raises(InputError, match=message):
        MEMORY.scan(broken, **tokens())
    check_state(weights, random(B, H, T, K), numbers=False)
    MEMORY.read(broken, random(B, H, T, K), check=False)
    MEMORY.scan(broken, **tokens(), check=False)
    slots = {"momentum": weights}
    with pytest.raises(InputError, match=rf"state.slots\['momentum'\]\['0'\] .* holds {bad} at .*earlier"):
        MEMORY.scan(FRESH.replace(slots=slots, position=2), **tokens())


@pytest.mark.parametrize("optimizer", [GradientDescent(), Momentum()])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_write_that_diverges_says_so_itself(optimizer, chunked: bool) -> None:
    memory = Memory(model=Linear(K, V), optimizer=optimizer, period=Period(chunk=2))
    state, given = memory.init(B, H, dtype=torch.float64), tokens()
    for call in (memory.scan, partial(memory.write, keys=given["keys"], values=given["values"])):
        more = given if call == memory.scan else {}
        with pytest.raises(
            InputError, match=r"the write diverged: state.weights\['0'\] .*nothing was returned"
        ):
            call(state, **more, gates=Gates(rate=1e200), chunked=chunked)
        call(state, **more, gates=Gates(rate=1e200), chunked=chunked, check=False)


@pytest.mark.parametrize("optimizer", [GradientDescent(), DeltaGradientDescent(), Adam()])
@pytest.mark.parametrize("momentum", [0.5, ones(B, H, T)])
def test_a_momentum_that_no_one_keeps(optimizer, momentum: Any) -> None:
    memory = Memory(model=Linear(K, V), optimizer=optimizer)
    state = memory.init(B, H, dtype=torch.float64)
    message = f"{type(optimizer).__name__} keeps no momentum; use optimizer=Momentum"
    refuses(message, memory=memory, state=state, gates=Gates(momentum=momentum))

    class Own(type(optimizer)):
        """An optimizer of the user's own, which may read it."""

    Memory(model=Linear(K, V), optimizer=Own()).write(
        state.replace(slots=optimizer.init(state.weights)),
        random(B, H, T, K),
        random(B, H, T, V),
        Gates(rate=0.1, momentum=momentum),
    )


@pytest.mark.parametrize("objective", [L2, "l2", 3])
def test_an_objective_is_an_instance(objective: Any) -> None:
    with pytest.raises(InputError, match=r"objective is an instance such as L2\(\) or Huber\(\); got"):
        Memory(model=Linear(K, V), objective=objective)


def test_gates_of_other_kinds_and_beyond_the_last_token() -> None:
    for name in ("rate", "decay", "momentum"):
        for value in ([0.1] * T, torch.ones(B, H, T).numpy(), "1"):
            refuses(rf"Gates.{name} is a tensor \[B, H, T\] or a number; got", gates=only(name, value))
    refuses("Gates.window is a tensor", gates=only("window", [1.0]), memory=WINDOWED)
    with pytest.raises(InputError, match=r"Gates.rate \[2, 3, 4\] has 4 tokens; got start=2, stop=5"):
        Gates(rate=ones(B, H, T)).slice(2, T + 1)
    assert Gates(rate=ones(B, H, T)).slice(2, T).rate.shape == (B, H, 2)  # pyright: ignore


def test_what_load_state_returns_is_no_state() -> None:
    for call in (MEMORY.scan, MEMORY.write):
        given = tokens() if call == MEMORY.scan else {n: x for n, x in tokens().items() if n != "queries"}
        with pytest.raises(InputError, match=r"load_state returns \(state, header\)"):
            call((FRESH, {}), **given)  # pyright: ignore
    with pytest.raises(InputError, match=r"load_state returns \(state, header\)"):
        MEMORY.read((FRESH, {}), random(B, H, T, K))  # pyright: ignore


def test_tokens_with_time_before_heads() -> None:
    swapped: dict[str, Any] = {n: x.transpose(1, 2) for n, x in tokens().items()}
    refuses(r"\[B, H\] is \[2, 3\] and \[2, 4\]; keys are \[B, H, T, width\]; transpose\(1, 2\)\?", **swapped)


@pytest.mark.parametrize("chunk", [0, -1, 2.0, "2", True, None])
def test_a_chunk_is_in_whole_tokens(chunk: Any) -> None:
    with pytest.raises(InputError, match=f"chunk is a whole number of tokens, at least 1; got {chunk!r}"):
        check_chunk(chunk)


def test_a_state_inside_a_chunk_of_another_size() -> None:
    four, three, eight = (Memory(model=Linear(K, V), period=Period(chunk=c)) for c in (4, 3, 8))
    given = tokens()
    fresh = four.init(B, H, dtype=torch.float64)
    assert fresh.chunk == 0
    for chunk in (3, 4, 8):
        check_chunk(chunk, fresh)
    part = {n: x[:, :, :3] for n, x in given.items()}
    _, inside = four.scan(fresh, **part)
    assert (inside.position, inside.chunk) == (3, 4)
    message = (
        "inside a chunk of 4 .*chunk={} is asked for; go on with chunk=4, or start a new chunk here with"
    )
    for memory in (three, eight):
        refuses(message.format(memory.period.chunk), memory=memory, state=inside)
    check_chunk(4, inside)
    # At the end of a chunk any chunk that starts there goes on, and no other: its anchor would be an old one.
    _, end = four.scan(fresh, **given)
    assert end.position == 4
    check_chunk(2, end)
    refuses("inside a chunk of 8 .*written with chunk=4.*chunk=8 is asked for", memory=eight, state=end)
    # What the message proposes works, and takes the gradients at the weights of now.
    again = end.replace(anchor=end.weights, chunk=8)
    found, _ = eight.scan(again, **given)
    expected, _ = four.scan(end, **given)
    torch.testing.assert_close(found, expected)


def test_a_chunk_without_its_anchor() -> None:
    memory = Memory(model=Linear(K, V), period=Period(chunk=4))
    fresh, given = memory.init(B, H, dtype=torch.float64), tokens()
    bare, same = (memory.scan(s, **given) for s in (fresh.replace(anchor=None), fresh))
    assert torch.equal(bare[0], same[0])
    _, inside = memory.scan(fresh, **{n: x[:, :, :1] for n, x in given.items()})
    message = "the state stands at token 1, inside a chunk of 4, but has no anchor"
    refuses(message, memory=memory, state=inside.replace(anchor=None))
    refuses(message, memory=memory, state=inside.replace(anchor=None), check=False)
    wrong = {"0": random(B, H, K, V + 1)}
    refuses(r"state.anchor\['0'\] is \[2, 3, 5, 7\]", memory=memory, state=inside.replace(anchor=wrong))
    # Where nothing is taken at the anchor, none is needed.
    current = replace(memory, period=Period(chunk=4, gradient="current"))
    current.scan(inside.replace(anchor=None), **given)


@pytest.mark.parametrize("check", [True, False])
def test_a_state_of_another_model(check: bool) -> None:
    no: Any = partial(refuses, check=check)
    plain, biased = (Memory(model=MLP((K, V), bias=bias)) for bias in (False, True))
    states = [m.init(B, H, dtype=torch.float64) for m in (plain, biased)]
    no(r"state.weights: \['0.bias'\] too many; it was made for another model", memory=plain, state=states[1])
    no(
        r"state.weights: \['0.bias'\] missing; .*start from this memory's init",
        memory=biased,
        state=states[0],
    )
    no(
        r"state.weights: \['w'\] missing, \['0'\] too many",
        memory=Memory(model=Network(lambda w, k: k @ w["w"], {"w": random(K, V)})),
        state=states[0],
    )
    narrow = Memory(model=Linear(K, V - 1)).init(B, H, dtype=torch.float64)
    no(r"state.weights\['0'\] is \[2, 3, 5, 5\]; this model needs \[2, 3, 5, 6\]", memory=plain, state=narrow)
    for name, state in (("0.bias", states[1]), ("0", narrow)):
        with pytest.raises(InputError, match=name):
            plain.read(state, random(B, H, T, K), check=check)


@pytest.mark.parametrize("check", [True, False])
def test_a_state_of_another_optimizer(check: bool) -> None:
    plain, momentum, adam = (
        Memory(model=Linear(K, V), optimizer=o) for o in (GradientDescent(), Momentum(), Adam())
    )
    made = [m.init(B, H, dtype=torch.float64) for m in (plain, momentum, adam)]
    no: Any = partial(refuses, check=check)
    no(
        r"state.slots: \['momentum'\] missing; it was made for another optimizer",
        memory=momentum,
        state=made[0],
    )
    no(r"state.slots: \['momentum'\] too many; it was made for another", memory=plain, state=made[1])
    no(r"\['count', 'mean', 'square'\] missing, \['momentum'\] too many", memory=adam, state=made[1])
    no(
        r"state.slots\['momentum'\]: \['0'\] missing",
        memory=momentum,
        state=made[1].replace(slots={"momentum": {}}),
    )
    for shape in ((1, H, K, V), (B, H, K, 1)):
        no(
            r"state.slots\['momentum'\]\['0'\] is \[.*\]; this optimizer needs \[2, 3, 5, 6\]",
            memory=momentum,
            state=made[1].replace(slots={"momentum": {"0": random(shape)}}),
        )
    no(
        r"state.slots\['momentum'\]\['0'\] is torch.float32 on cpu; expected torch.float64 on cpu",
        memory=momentum,
        state=made[1].replace(slots={"momentum": {"0": torch.zeros(B, H, K, V)}}),
    )


def test_check_names() -> None:
    check_names({"a": 1}, ["a"])
    with pytest.raises(InputError, match=r"slots: \['a'\] missing, \['b'\] too many; .*another rule"):
        check_names({"b": 1}, ["a"], label="slots", of="rule")


def test_state_dtype() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert state_dtype(torch.ones(1, dtype=dtype)) == torch.float32
    assert state_dtype(ones(1)) == torch.float64


def test_learned_weights_that_are_not_the_models() -> None:
    memory = Memory(model=MLP((K, V), bias=True))
    good = {"0": random(H, K, V), "0.bias": random(H, V)}
    assert memory.init(B, H, weights=good, dtype=torch.float64).weights["0"].shape == (B, H, K, V)
    cases: list[tuple[dict, dict, str]] = [
        ({"0.bias": None}, {}, r"weights: \['0.bias'\] missing"),
        ({"1": random(H, V, V)}, {}, r"weights: \['1'\] too many"),
        ({"0": random(H, V, K)}, {}, r"weights\['0'\] is \[3, 6, 5\]; this model needs \[3, 5, 6\]"),
        ({"0.bias": random(1, V)}, {}, r"weights\['0.bias'\] is \[1, 6\]; this model needs \[3, 6\]"),
        ({"0": random(B, H, K, V)}, {}, r"weights\['0'\] is \[2, 3, 5, 6\]; this model needs"),
        ({}, {"heads": H + 1}, r"weights\['0'\] is \[3, 5, 6\], but heads=4"),
        ({}, {"dtype": torch.float32}, r"weights\['0'\] is torch.float64, but dtype=torch.float32"),
        ({"0": random(H, K, V).half()}, {}, r"weights\['0'\] is torch.float16; a memory's state is float32"),
    ]
    for changes, arguments, message in cases:
        weights = {n: w for n, w in (good | changes).items() if w is not None}
        with pytest.raises(InputError, match=message):
            memory.init(B, weights=weights, **arguments)


def test_delta_gradient_descent_needs_a_rate_below_the_decay() -> None:
    memory = Memory(model=Linear(K, V), optimizer=DeltaGradientDescent())
    state = memory.init(B, H, dtype=torch.float64)
    rate = 0.5 * ones(B, H, T)
    rate[1, 2, 3] = 0.75
    no: Any = partial(refuses, memory=memory, state=state)
    no(
        r"rate is 0.75 and decay 0.5 at \[1, 2, 3\]; DeltaGradientDescent needs rate <= decay",
        gates=Gates(rate=rate, decay=0.5),
    )
    no(r"rate is 1 and decay 0.9 at \[0, 0, 0\]", gates=Gates(decay=0.9))
    memory.scan(state, **tokens(), gates=Gates(rate=0.5, decay=0.5))
    memory.scan(state, **tokens(), gates=Gates(rate=rate, decay=0.5), check=False)


@pytest.mark.parametrize("objective", [Dot(), L2(), Lp(), Loss(lambda p, v: (p - v).sum())], ids=str)
@pytest.mark.parametrize("check", [True, False])
def test_a_threshold_that_the_objective_ignores(objective, check: bool) -> None:
    refuses(
        f"Gates.threshold is given, but {type(objective).__name__} has none; use Huber",
        memory=replace(MEMORY, objective=objective),
        gates=only("threshold", ones(B, H, T)),
        check=check,
    )


def test_a_window_outside_its_range_or_of_another_kind() -> None:
    no: Any = partial(refuses, memory=Memory(model=Linear(K, V), period=Period(window=2)))
    window = ones(B, H, T, 2)
    window[1, 0, 3, 1] = -0.5
    no(r"Gates.window is -0.5 at \[1, 0, 3, 1\], outside \[0, inf\]", gates=Gates(window=window))
    for check in (True, False):
        no(
            "Gates.window is torch.int64 on cpu; expected floating point numbers on cpu",
            gates=Gates(window=torch.ones(B, H, T, 2, dtype=torch.int64)),
            check=check,
        )
        no(r"Gates.window is torch.float64 on meta", gates=Gates(window=window.to("meta")), check=check)


def test_a_state_without_the_tokens_of_its_window() -> None:
    two, three = (Memory(model=Linear(K, V), period=Period(window=w)) for w in (2, 3))
    fresh, given = two.init(B, H, dtype=torch.float64), tokens()
    _, after = two.scan(fresh, **given, gates=Gates(window=ones(B, H, T, 2)))
    no: Any = partial(refuses, memory=three, gates=Gates(window=ones(B, H, T, 3)))
    no(r"the recent keys of the state are \[2, 3, 1, 5\]; a window of 3 .* needs \[2, 3, 2, 5\]", state=after)
    no(
        "the state stands at token 4, but has no recent tokens for a window of 3",
        state=after.replace(recent=None),
    )


@pytest.mark.parametrize("check", [True, False])
def test_what_read_refuses(check: bool) -> None:
    read: Any = partial(MEMORY.read, check=check)
    one = MEMORY.init(1, H, dtype=torch.float64)
    for state, queries, message in (
        (
            one,
            random(B, H, T, K),
            r"state.weights\['0'\] \[1, 3, 5, 6\] and queries \[2, 3, 4, 5\] differ in batch",
        ),
        (FRESH, random(1, H, T, K), r"\[2, 3, 5, 6\] and queries \[1, 3, 4, 5\] differ in batch"),
        (FRESH, random(B, 1, T, K), "differ in batch or heads"),
        (FRESH, random(H, T, K), r"queries is \[B, H, T, width\]; got shape \[3, 4, 5\]"),
        (FRESH, torch.ones(B, H, T, K, dtype=torch.int64), "queries holds torch.int64"),
        (FRESH, random(B, H, T, K).float(), "is torch.float64 on cpu, queries torch.float32 on cpu"),
        (FRESH.to(torch.float16), random(B, H, T, K), "is torch.float16; a memory's state is float32"),
    ):
        with pytest.raises(InputError, match=message):
            read(state, queries)
    queries = random(B, H, T, K)
    queries[1, 1, 2, 0] = NAN
    if check:
        with pytest.raises(InputError, match=r"queries \[2, 3, 4, 5\] holds nan at \[1, 1, 2, 0\]"):
            read(FRESH, queries)
    else:
        read(FRESH, queries)
