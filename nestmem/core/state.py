"""States are values: frozen dataclasses of tensors that torch's transforms and safetensors understand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from nestmem.errors import InputError

FORMAT = 1
_STATES: dict[str, type] = {}
S = TypeVar("S", bound="State")


def static(**options: Any) -> Any:
    """A field that is part of the state's structure, not a tensor: a plain number or name."""
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(static, dataclasses.field))
def state(cls: type[S]) -> type[S]:
    """Make a subclass of State a frozen, keyword-only dataclass that vmap, grad and compile accept.

    Fields hold tensors, None, or dicts and tuples of them; a field made with `static()` holds a number or a name
    that does not change under vmap (the position in a sequence, say). Files name the class, so no two may share one.

    >>> @state
    ... class Matrix(State):
    ...     weights: Tensor
    ...     position: int = static(default=0)
    >>> torch.func.vmap(lambda s: s.map(torch.neg))(Matrix(weights=torch.ones(3, 2))).weights.sum()
    tensor(-6.)
    """
    other = _STATES.get(cls.__name__)
    # The same module imported again brings the same class, which takes the old one's place.
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise InputError(
            f"there is a State named {cls.__name__} in {other.__module__} already, and files would mix the two up; "
            f"give the one in {cls.__module__} another name"
        )
    cls = dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    moving = [f.name for f in fields if not f.metadata.get("static")]
    fixed = [f.name for f in fields if f.metadata.get("static")]

    # What is None stays out of the tree, where it would be a leaf that vmap cannot map.
    def flatten(value: S) -> tuple[list[Any], tuple[Any, ...]]:
        there = tuple(name for name in moving if getattr(value, name) is not None)
        return [getattr(value, name) for name in there], (
            there,
            tuple(getattr(value, name) for name in fixed),
        )

    def unflatten(children: Any, context: Any) -> S:
        there, numbers = context
        values = dict.fromkeys(moving) | dict(zip(there, children, strict=True))
        return cls(**values, **dict(zip(fixed, numbers, strict=True)))

    pytree.register_pytree_node(cls, flatten, unflatten, serialized_type_name=f"nestmem.{cls.__name__}")
    _STATES[cls.__name__] = cls
    return cls


class State:
    """What a memory knows. Methods return a new state; none changes the old one."""

    def __repr__(self) -> str:
        """Dtype and shape of each tensor under its path, and the numbers."""
        parts = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        lines = [line for f in parts for line in _lines(f.name, getattr(self, f.name))]
        return f"{type(self).__name__}({', '.join(lines)})"

    def map(self: S, function: Callable[[Tensor], Tensor]) -> S:
        """Every tensor replaced by function(tensor)."""
        return pytree.tree_map_only(Tensor, function, self)

    def detach(self: S) -> S:
        """The same values, cut off from the graph that made them."""
        return self.map(Tensor.detach)

    def to(self: S, *args: Any, **kwargs: Any) -> S:
        """Moved or cast as `Tensor.to` does; integer tensors keep their dtype."""
        return self.map(
            lambda t: t.to(*args, **kwargs) if t.is_floating_point() else t.to(device=_device(args, kwargs))
        )

    def replace(self: S, **changes: Any) -> S:
        """The same state with some fields changed."""
        return dataclasses.replace(self, **changes)  # pyright: ignore[reportArgumentType]

    def bytes(self) -> int:
        """Size of all tensors, bytes."""
        return sum(t.numel() * t.element_size() for t in pytree.tree_leaves(self) if isinstance(t, Tensor))


def _lines(path: str, value: Any) -> list[str]:
    """What stands under a path, dicts and tuples flattened: "weights.0: float32[2, 3]"."""
    if isinstance(value, Tensor):
        return [f"{path}: {str(value.dtype).removeprefix('torch.')}{list(value.shape)}"]
    if isinstance(value, dict | tuple) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [line for name, item in items for line in _lines(f"{path}.{name}", item)]
    return [f"{path}={value!r}"]


def _device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = [a for a in args if isinstance(a, str | torch.device)]
    return kwargs.get("device", named[0] if named else None)


def save_state(path: str | Path, value: State, **header: str | int | float) -> None:
    """Write the state to a safetensors file, bit for bit, with a header (model, config hash, tokens seen, ...)."""
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"no folder {Path(path).parent} to save a state in; make it first")
    tensors: dict[str, Tensor] = {}
    about = {"format": FORMAT, "structure": _describe(value, "", tensors), "header": header}
    try:
        text = json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the header holds finite numbers and text ({error}); got {header}") from error
    save_file(tensors, str(path), metadata={"nestmem_state": text})


def load_state(path: str | Path, *, device: str | torch.device = "cpu") -> tuple[Any, dict[str, Any]]:
    """Read what `save_state` wrote. Returns (state, header).

    Raises FileNotFoundError where there is no file, InputError where the file is no saved state of this format, or
    holds a class whose fields are others now. A field that is new and has a default takes it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no saved state at {path}")
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            text = (file.metadata() or {}).get("nestmem_state")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}); save the state again") from error
    if text is None:
        names = ", ".join(sorted(tensors)[:3])
        raise InputError(
            f"{path} holds tensors ({names}, ...) but no nestmem state; write it with save_state"
        )
    try:
        about = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: the description of the state is damaged ({error}); save it again"
        ) from error
    if not isinstance(about, dict) or "format" not in about:
        raise InputError(f"{path}: the description of the state has no format; save it again")
    if about["format"] != FORMAT:
        raise InputError(f"{path} has state format {about['format']}; this nestmem reads format {FORMAT}")
    if "structure" not in about or not isinstance(about.get("header"), dict):
        raise InputError(f"{path}: the description of the state lacks its structure or header; save it again")
    try:
        return _rebuild(about["structure"], tensors), about["header"]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _describe(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The structure as JSON; tensors go into `tensors` under their path."""
    if isinstance(value, Tensor):
        # Keys may hold the separator, so two paths can read alike.
        while name in tensors:
            name += "'"
        tensors[name] = value.detach().contiguous().clone()
        return {"tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise InputError(f"a state's dicts have text keys; {name or 'it'} has {list(value)}")
        return {"dict": {key: _describe(item, f"{name}/{key}", tensors) for key, item in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [_describe(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, State):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}  # pyright: ignore[reportArgumentType]
        parts = {key: _describe(item, f"{name}/{key}".lstrip("/"), tensors) for key, item in fields.items()}
        return {"state": type(value).__name__, "fields": parts}
    raise InputError(f"a state holds tensors, numbers, dicts and tuples; {name} is a {type(value).__name__}")


def _rebuild(structure: Any, tensors: dict[str, Tensor]) -> Any:
    match structure:
        case {"tensor": str(name)} if name in tensors:
            return tensors[name]
        case {"tensor": name}:
            raise InputError(f"the tensor {name!r} is missing; save the state again")
        case {"value": None | bool() | int() | float() | str() as value}:
            return value
        case {"dict": dict(items)}:
            return {key: _rebuild(item, tensors) for key, item in items.items()}
        case {"tuple": list(items)}:
            return tuple(_rebuild(item, tensors) for item in items)
        case {"state": str(name), "fields": dict(fields)}:
            return _class(name, set(fields))(**{key: _rebuild(x, tensors) for key, x in fields.items()})
    raise InputError(f"the description of the state is damaged at {str(structure)[:80]}; save it again")


def _class(name: str, given: set[str]) -> type:
    """The class of that name, if such fields make one."""
    if name not in _STATES:
        raise InputError(f"the file holds a {name}; import the module that defines it before loading")
    fields = dataclasses.fields(_STATES[name])
    absent = dataclasses.MISSING
    needed = {f.name for f in fields if f.default is absent and f.default_factory is absent}
    gone, new = given - {f.name for f in fields}, needed - given
    if gone or new:
        parts = [f"{sorted(n)} {w}" for n, w in ((gone, "are no fields any more"), (new, "are new")) if n]
        raise InputError(
            f"{name} has other fields than when the file was saved: {', '.join(parts)}; load it with the "
            "nestmem that saved it"
        )
    return _STATES[name]
