"""Is the input what a memory can read? Each check names the argument, what was given and what was expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nestmem.errors import InputError

if TYPE_CHECKING:
    from nestmem.core.optimizer import Gates


def check_tokens(*, queries: Tensor, keys: Tensor, values: Tensor, numbers: bool = True) -> None:
    """Shapes [B, H, T, .], one dtype and device, T >= 1, and finite numbers."""
    named = {"queries": queries, "keys": keys, "values": values}
    for name, x in named.items():
        if x.ndim != 4:
            raise InputError(f"{name} is [B, H, T, width]; got shape {_shape(x)}")
        if not x.is_floating_point():
            raise InputError(f"{name} holds {x.dtype}; a memory reads floating point numbers")
    if keys.shape[2] == 0:
        raise InputError(f"T = 0: there is no token in keys {_shape(keys)}; leave the call out")
    for name in ("queries", "values"):
        x = named[name]
        if x.shape[:3] != keys.shape[:3]:
            raise InputError(f"{name} {_shape(x)} and keys {_shape(keys)} differ in batch, heads or tokens")
    if queries.shape[3] != keys.shape[3]:
        raise InputError(f"queries {_shape(queries)} and keys {_shape(keys)} differ in width")
    for name, x in named.items():
        if x.dtype != keys.dtype or x.device != keys.device:
            raise InputError(
                f"{name} are {x.dtype} on {x.device}, keys {keys.dtype} on {keys.device}; make them one kind"
            )
    if numbers:
        for name, x in named.items():
            check_finite(name, x)


def check_gates(gates: Gates, keys: Tensor, *, window: int = 1, numbers: bool = True) -> None:
    """Gates of `Gates.expand`: [B, H, T] like the keys, each in its range."""
    for name in ("rate", "decay", "momentum", "threshold"):
        value = getattr(gates, name)
        if isinstance(value, Tensor):
            check_gate(name, value, keys, numbers=numbers)
        elif value is not None:
            raise InputError(f"Gates.{name} is a tensor [B, H, T] = {tuple(keys.shape[:3])}; got {value!r}")
    if (gates.window is not None) != (window > 1):
        raise InputError(
            f"Gates.window is {'given' if gates.window is not None else 'missing'}, but the period's window is {window}; "
            "give [B, H, T, window] weights exactly when a window of several tokens is asked for"
        )
    if gates.window is not None:
        if gates.window.shape != (*keys.shape[:3], window):
            raise InputError(
                f"Gates.window is [B, H, T, {window}] = {(*keys.shape[:3], window)}; got {_shape(gates.window)}"
            )
        if numbers:
            check_finite("Gates.window", gates.window)


# name -> (lowest, highest, lowest is allowed)
RANGES = {
    "rate": (0.0, float("inf"), True),
    "decay": (0.0, 1.0, False),
    "momentum": (0.0, 1.0, True),
    "threshold": (0.0, float("inf"), False),
}


def check_gate(
    name: str, gate: Tensor, keys: Tensor, *, range_name: str | None = None, numbers: bool = True
) -> None:
    """One gate [B, H, T] like the keys [B, H, T, K], in the range of its kind."""
    if gate.shape != keys.shape[:3]:
        raise InputError(
            f"{name} is [B, H, T] = {tuple(keys.shape[:3])}, like keys {_shape(keys)}; got {_shape(gate)}"
        )
    if not gate.is_floating_point() or gate.device != keys.device:
        raise InputError(
            f"{name} is {gate.dtype} on {gate.device}; expected floating point numbers on {keys.device}"
        )
    if numbers:
        check_finite(name, gate)
        check_range(name, gate, *RANGES[range_name or name])


def check_finite(name: str, x: Tensor) -> None:
    """Every number finite; the message says where the first other one stands."""
    # One pass: a sum is finite where every number is, and where it overflows the second look decides.
    if transformed() or x.is_meta or bool(torch.isfinite(x.detach().sum())) or bool(torch.isfinite(x).all()):
        return
    place = tuple(torch.nonzero(~torch.isfinite(x))[0].tolist())
    raise InputError(
        f"{name} {_shape(x)} holds {x[place].item()} at {list(place)}; a memory would spread it to every later token"
    )


def check_range(name: str, x: Tensor, low: float, high: float, low_allowed: bool = True) -> None:
    """low <= x <= high (low < x where the lowest is not allowed)."""
    if transformed() or x.is_meta or not x.numel():
        return
    least, most = x.detach().aminmax()
    if least < low or most > high or (least == low and not low_allowed):
        wrong = (x > high) | (x < low if low_allowed else x <= low)
        place = tuple(torch.nonzero(wrong)[0].tolist())
        bounds = f"{'[' if low_allowed else '('}{low:g}, {high:g}]"
        raise InputError(f"{name} is {x[place].item():g} at {list(place)}, outside {bounds}")


def check_state(weights: dict[str, Tensor], keys: Tensor) -> None:
    """Weights [B, H, ...] of the keys' batch, heads, dtype and device."""
    for name, w in weights.items():
        label = f"state.weights[{name!r}]"
        check_state_kind(label, w)
        if w.shape[:2] != keys.shape[:2]:
            raise InputError(f"{label} {_shape(w)} and keys {_shape(keys)} differ in batch or heads")
        if w.dtype != keys.dtype or w.device != keys.device:
            raise InputError(
                f"{label} is {w.dtype} on {w.device}, keys {keys.dtype} on {keys.device}; make them one kind"
            )


def check_state_kind(name: str, weights: Tensor) -> None:
    """States accumulate many small writes, so they are float32 or float64."""
    if weights.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"{name} is {weights.dtype}; a memory's state is float32 or float64: use state.to(torch.float32)"
        )


def transformed() -> bool:
    """Whether this runs under torch.compile or a transform of torch.func, where no number can be looked at."""
    stack = torch._C._functorch.peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]
    return torch.compiler.is_compiling() or stack() is not None


def _shape(x: Tensor) -> list[int]:
    return list(x.shape)
