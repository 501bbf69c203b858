"""States are values: frozen, understood by torch's transforms, and saved bit for bit."""

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from nestmem.core import (
    Adam,
    Gates,
    Linear,
    Memory,
    MemoryState,
    Period,
    State,
    load_state,
    save_state,
    state,
    static,
)
from nestmem.errors import InputError

KINDS = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


@state
class Anything(State):
    """A state whose parts can be anything that a state may hold."""

    parts: Any
    name: str = static(default="")
    ratio: float = static(default=0.0)
    on: bool = static(default=False)


def bits(x: Tensor) -> Tensor:
    return x.contiguous().reshape(-1).view(torch.uint8)


def assert_same(found: object, expected: object) -> None:
    assert pytree.tree_structure(found) == pytree.tree_structure(expected)
    for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True):
        if isinstance(b, Tensor):
            assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
        else:
            assert type(a) is type(b) and a == b


def example() -> MemoryState:
    memory = Memory(model=Linear(3, 2), optimizer=Adam(), period=Period(chunk=2, window=2, reset=4))
    keys, values = torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 2)
    gates = Gates(rate=0.1, window=torch.ones(2, 1, 3, 2))
    return memory.write(memory.init(2), keys, values, gates)


def test_round_trip_of_a_memory(tmp_path: Path) -> None:
    before = example()
    save_state(tmp_path / "state", before, model="tiny", tokens=3, loss=0.5)
    after, header = load_state(tmp_path / "state")
    assert_same(after, before)
    assert isinstance(after, MemoryState) and after.position == 3
    assert header == {"model": "tiny", "tokens": 3, "loss": 0.5}
    assert load_state(str(tmp_path / "state"))[1] == header


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_every_dtype_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    raw = torch.randint(0, 256, (4, 5, dtype.itemsize), dtype=torch.uint8)
    # A bool is 0 or 1; every other pattern of bits, nan with a payload included, is some number.
    tensor = (raw % 2).view(dtype)[..., 0] if dtype == torch.bool else raw.view(dtype)[..., 0]
    save_state(tmp_path / "state", Anything(parts=tensor))
    assert_same(load_state(tmp_path / "state")[0], Anything(parts=tensor))


def test_broadcast_shared_and_strided_tensors(tmp_path: Path) -> None:
    row = torch.randn(3)
    parts = {
        "expanded": row.expand(2, 4, 3),
        "same": row,
        "again": row,
        "transposed": torch.randn(2, 3).T,
        "strided": torch.arange(10)[::3],
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "learned": torch.ones(2, requires_grad=True),
    }
    save_state(tmp_path / "state", Anything(parts=parts))
    found = load_state(tmp_path / "state")[0]
    assert_same(found, Anything(parts=parts))
    assert found.parts["expanded"].is_contiguous() and not found.parts["learned"].requires_grad


tensors = st.builds(
    lambda shape, dtype, seed: (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(50).abs().to(dtype)
    ),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(KINDS),
    st.integers(0, 1000),
)
leaves = tensors | st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=3)
leaves |= st.floats(allow_nan=False, allow_infinity=False)
# Keys hold the separator of paths, quotes and what else there is, so that no two names can be mixed up.
keys = st.text("ab/'.\x00ü", max_size=3)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.dictionaries(keys, inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.builds(lambda parts, name: Anything(parts=parts, name=name), inner, st.text(max_size=2))
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(parts=trees, ratio=st.floats(allow_nan=False, allow_infinity=False), on=st.booleans())
def test_round_trip_of_anything(tmp_path_factory, parts: object, ratio: float, on: bool) -> None:
    path = tmp_path_factory.mktemp("saved") / "state"
    value = Anything(parts=parts, name="n", ratio=ratio, on=on)
    save_state(path, value, on=on, ratio=ratio)
    found, header = load_state(path)
    assert_same(found, value)
    assert header == {"on": on, "ratio": ratio}


@settings(max_examples=60, deadline=None)
@given(parts=trees)
def test_pytree_round_trip(parts: object) -> None:
    value = Anything(parts=parts, name="n", ratio=0.5)
    flat, structure = pytree.tree_flatten(value)
    assert_same(pytree.tree_unflatten(flat, structure), value)


def test_paths_that_read_alike(tmp_path: Path) -> None:
    parts = {"a/b": torch.ones(1), "a": {"b": torch.zeros(1), "b'": torch.full((1,), 2.0)}}
    save_state(tmp_path / "state", Anything(parts=parts))
    assert_same(load_state(tmp_path / "state")[0], Anything(parts=parts))


def test_a_state_can_be_saved_over_the_file_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, Anything(parts=torch.arange(100_000.0)))
    first, _ = load_state(path)
    save_state(path, first.map(lambda x: x[:10] + 1))
    assert first.parts[-1] == 99_999
    assert load_state(path)[0].parts.tolist() == list(range(1, 11))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no saved state at .*absent"):
        load_state(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent to save a state in"):
        save_state(tmp_path / "absent" / "state", example())


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_a_truncated_file(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "state"
    save_state(path, example())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"state is not a whole safetensors file .*save the state again"):
        load_state(path)


def test_a_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("this is no state, and long enough to be read as a header", encoding="utf-8")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_state(path)
    save_file({"weight": torch.ones(2)}, str(path))
    with pytest.raises(InputError, match=r"holds tensors \(weight, ...\) but no nestmem state; .*save_state"):
        load_state(path)


def changed(path: Path, **about: object) -> None:
    """Rewrite the description inside the file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    found = json.loads(header["__metadata__"]["nestmem_state"]) | about
    header["__metadata__"]["nestmem_state"] = json.dumps(found)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def test_a_newer_format(tmp_path: Path) -> None:
    save_state(tmp_path / "state", example())
    changed(tmp_path / "state", format=2)
    with pytest.raises(InputError, match="has state format 2; this nestmem reads format 1"):
        load_state(tmp_path / "state")


def test_an_unknown_class(tmp_path: Path) -> None:
    save_state(tmp_path / "state", example())
    changed(tmp_path / "state", structure={"state": "FromElsewhere", "fields": {}})
    with pytest.raises(InputError, match="holds a FromElsewhere; import the module that defines it"):
        load_state(tmp_path / "state")


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(InputError, match=r"a state holds tensors, .*parts/a is a list"):
        save_state(path, Anything(parts={"a": [torch.ones(1)]}))
    with pytest.raises(InputError, match=r"dicts have text keys; parts has \[0\]"):
        save_state(path, Anything(parts={0: torch.ones(1)}))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="the header holds finite numbers and text"):
            save_state(path, example(), loss=bad)
    with pytest.raises(InputError, match="the header holds finite numbers and text"):
        save_state(path, example(), loss=torch.ones(1))  # pyright: ignore[reportArgumentType]
    assert not path.exists()


def test_frozen() -> None:
    value = example()
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.position = 4  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del value.weights  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        MemoryState({})  # pyright: ignore[reportCallIssue]


def test_map_reaches_every_tensor_and_nothing_else() -> None:
    value = Anything(parts={"a": (torch.ones(2), None), "b": torch.ones(1)}, name="n", ratio=2.0)
    doubled = value.map(lambda x: 2 * x)
    assert_same(
        doubled, Anything(parts={"a": (2 * torch.ones(2), None), "b": 2 * torch.ones(1)}, name="n", ratio=2.0)
    )
    assert torch.equal(value.parts["b"], torch.ones(1))  # pyright: ignore[reportIndexIssue]


def test_to_casts_floating_point_alone() -> None:
    value = Anything(parts=(torch.ones(2), torch.arange(2), torch.ones(1, dtype=torch.bool)))
    for changed in (value.to(torch.float64), value.to(dtype=torch.float64), value.to("cpu", torch.float64)):
        assert [x.dtype for x in changed.parts] == [torch.float64, torch.int64, torch.bool]
    for moved in (value.to("meta"), value.to(device="meta"), value.to(torch.device("meta"), torch.float64)):
        assert all(x.is_meta for x in moved.parts)
    assert not value.parts[0].is_meta  # pyright: ignore[reportIndexIssue]


def test_detach_cuts_the_graph() -> None:
    weight = torch.ones(2, requires_grad=True)
    value = Anything(parts={"a": 2 * weight, "b": (weight * 3,)})
    cut = value.detach()
    assert_same(cut, value)
    assert all(not x.requires_grad for x in pytree.tree_leaves(cut))
    assert all(x.requires_grad for x in pytree.tree_leaves(value))


def test_replace_and_bytes() -> None:
    value = example()
    later = value.replace(position=9)
    assert (later.position, value.position) == (9, 3)
    assert later.weights is value.weights
    parts = (torch.ones(3, dtype=torch.float64), {"a": torch.ones(2, dtype=torch.bfloat16)}, None)
    assert Anything(parts=parts).bytes() == 28
    with pytest.raises(TypeError):
        value.replace(positions=9)


def test_static_fields_are_structure() -> None:
    one, two = (Anything(parts=torch.ones(2), name=name) for name in ("one", "two"))
    assert pytree.tree_structure(one) != pytree.tree_structure(two)
    mapped = torch.func.vmap(lambda s: s.map(torch.neg))(one)
    assert mapped.name == "one" and torch.equal(mapped.parts, -torch.ones(2))
    gradient = torch.func.grad(lambda s: s.parts.square().sum())(one)
    assert gradient.name == "one" and torch.equal(gradient.parts, 2 * torch.ones(2))
    compiled = torch.compile(lambda s: s.map(torch.neg), backend="eager", fullgraph=True)
    assert_same(compiled(two), two.map(torch.neg))


@pytest.mark.parametrize("header", ["{", "", "[1", "nonsense"])
def test_a_description_that_is_no_json(tmp_path: Path, header: str) -> None:
    save_file({"weight": torch.ones(2)}, str(tmp_path / "state"), metadata={"nestmem_state": header})
    with pytest.raises(InputError, match=r"the description of the state is damaged .*; save it again"):
        load_state(tmp_path / "state")


@pytest.mark.parametrize("about", ["[]", "3", "{}", '{"structure": {}}'])
def test_a_description_without_a_format(tmp_path: Path, about: str) -> None:
    save_file({"weight": torch.ones(2)}, str(tmp_path / "state"), metadata={"nestmem_state": about})
    with pytest.raises(InputError, match="the description of the state has no format; save it again"):
        load_state(tmp_path / "state")


@pytest.mark.parametrize(
    "rest", [{}, {"structure": {"value": 1}}, {"header": {}}, {"header": 1, "structure": 1}]
)
def test_a_description_with_missing_parts(tmp_path: Path, rest: dict) -> None:
    text = json.dumps({"format": 1} | rest)
    save_file({"weight": torch.ones(2)}, str(tmp_path / "state"), metadata={"nestmem_state": text})
    with pytest.raises(InputError, match="lacks its structure or header; save it again"):
        load_state(tmp_path / "state")


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"tensor": "absent"}, "the tensor 'absent' is missing"),
        ({"tensor": 1}, "the tensor 1 is missing"),
        *((x, "is damaged at") for x in ({}, [], 3, None, {"value": []}, {"tuple": {}}, {"dict": []})),
        ({"tuple": [{"dict": {"a": 1}}]}, "is damaged at 1;"),
        ({"state": "MemoryState"}, "is damaged at"),
    ],
)
def test_a_damaged_structure(tmp_path: Path, structure: object, message: str) -> None:
    save_state(tmp_path / "state", example())
    changed(tmp_path / "state", structure=structure)
    with pytest.raises(InputError, match=rf"state: .*{message}"):
        load_state(tmp_path / "state")


def test_a_class_whose_fields_are_others_now(tmp_path: Path) -> None:
    path = tmp_path / "state"
    value = {"value": None}
    for fields, message in (
        (
            {"weights": {"dict": {}}, "momenta": value},
            r"MemoryState has other .*: \['momenta'\] are no fields any more",
        ),
        ({"position": {"value": 3}}, r"MemoryState has other fields .*: \['weights'\] are new; load it with"),
    ):
        save_state(path, example())
        changed(path, structure={"state": "MemoryState", "fields": fields})
        with pytest.raises(InputError, match=message):
            load_state(path)
    # A default says what a state from before the field has.
    changed(
        path,
        structure={"state": "MemoryState", "fields": {"weights": {"dict": {}}, "position": {"value": 3}}},
    )
    found, _ = load_state(path)
    assert (found.position, found.chunk, found.weights) == (3, 0, {})


def test_two_states_of_one_name_are_refused() -> None:
    def register(module: str, name: str) -> type:
        made = type(
            "Twin", (State,), {"__module__": module, "__qualname__": name, "__annotations__": {"x": Any}}
        )
        return state(made)

    first = register("one", "Twin")
    with pytest.raises(
        InputError, match=r"a State named Twin in one already.*; give the one in two another name"
    ):
        register("two", "Twin")
    with pytest.raises(InputError, match="a State named Twin in one already"):
        register("one", "Other.Twin")
    # The same module, imported again.
    assert register("one", "Twin") is not first


def test_a_state_shows_shapes_not_numbers() -> None:
    state = MemoryState(weights={"0": torch.ones(2, 3)}, recent=(torch.ones(1), torch.ones(2)), position=7)
    assert repr(state) == (
        "MemoryState(weights.0: float32[2, 3], slots={}, anchor=None, recent.0: float32[1], recent.1: float32[2], "
        "initial=None, position=7, chunk=0)"
    )
