"""Is the input what a memory can read? Each check names the argument, what was given and what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nestmem.core.objective import WITHOUT_THRESHOLD, Objective
from nestmem.core.state import State
from nestmem.errors import InputError

if TYPE_CHECKING:
    from nestmem.core.memory import MemoryState
    from nestmem.core.optimizer import Gates


def check_tokens(*, queries: Tensor, keys: Tensor, values: Tensor, numbers: bool = True) -> None:
    """Shapes [B, H, T, .], one dtype and device, T >= 1, and finite numbers."""
    named = {"queries": queries, "keys": keys, "values": values}
    for name, x in named.items():
        check_kind(name, x)
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


def check_kind(name: str, x: Tensor) -> None:
    """Floating point numbers [B, H, T, width]."""
    if x.ndim != 4:
        raise InputError(f"{name} is [B, H, T, width]; got shape {_shape(x)}")
    if not x.is_floating_point():
        raise InputError(f"{name} holds {x.dtype}; a memory reads floating point numbers")


def check_whole(name: str, value: object, *, least: int = 1, unit: str = "") -> None:
    """A whole number, at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is a whole number{unit}, at least {least}; got {value!r}")


def check_chunk(chunk: int, state: MemoryState | None = None) -> None:
    """A whole number of tokens; and no state that stands inside a chunk of another size.

    Gradients are taken at the weights before the chunk, and a state knows these for the chunks it was written in.
    """
    check_whole("chunk", chunk, unit=" of tokens")
    if state is None or state.chunk in (0, chunk):
        return
    inside = state.chunk if state.position % state.chunk else chunk
    if state.position % inside:
        raise InputError(
            f"the state stands inside a chunk of {inside} (at token {state.position}, written with "
            f"chunk={state.chunk}), and chunk={chunk} is asked for; go on with chunk={state.chunk}, or start a new "
            f"chunk here with state.replace(anchor=state.weights, chunk={chunk})"
        )


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
        if not isinstance(gates.window, Tensor):
            raise InputError(f"Gates.window is a tensor [B, H, T, {window}]; got {gates.window!r}")
        if gates.window.shape != (*keys.shape[:3], window):
            raise InputError(
                f"Gates.window is [B, H, T, {window}] = {(*keys.shape[:3], window)}; got {_shape(gates.window)}"
            )
        if not gates.window.is_floating_point() or gates.window.device != keys.device:
            raise InputError(
                f"Gates.window is {gates.window.dtype} on {gates.window.device}; expected floating point numbers on "
                f"{keys.device}"
            )
        if numbers:
            check_finite("Gates.window", gates.window)
            check_range("Gates.window", gates.window, 0, float("inf"))


def check_threshold(gates: Gates, objective: Objective) -> None:
    """A threshold per token goes with an objective that reads it."""
    if gates.threshold is not None and isinstance(objective, WITHOUT_THRESHOLD):
        raise InputError(
            f"Gates.threshold is given, but {type(objective).__name__} has none; use Huber(), or leave it out"
        )


def check_objective(objective: object) -> None:
    """A value with loss and gradient, not the name or the class of one."""
    known = all(callable(getattr(objective, name, None)) for name in ("loss", "gradient"))
    if isinstance(objective, type) or not known:
        raise InputError(f"objective is an instance such as L2() or Huber(); got {objective!r}")


def check_delta(rate: Tensor, decay: Tensor) -> None:
    """rate <= decay, token by token: what delta gradient descent forgets is at most what is kept."""
    if transformed() or rate.is_meta or not bool((rate > decay).any()):
        return
    place = tuple(torch.nonzero(rate > decay)[0].tolist())
    raise InputError(
        f"rate is {rate[place].item():g} and decay {decay[place].item():g} at {list(place)}; "
        "DeltaGradientDescent needs rate <= decay: make the rate a share of the decay, such as rate * decay"
    )


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


SPREADS = "a memory would spread it to every later token"
BROKEN = "what was written broke it: load an earlier state"
FIRST = "the initial weights given hold nan or inf: mend them before init"


def blame(state: MemoryState) -> str:
    """Why a given state holds numbers that are not finite: what was written, or before the first token, its start."""
    return BROKEN if state.position else FIRST


def check_finite(name: str, x: Tensor, why: str = SPREADS) -> None:
    """Every number finite; the message says where the first other one stands, and `why` that matters."""
    # One pass: a sum is finite where every number is, and where it overflows the second look decides.
    if transformed() or x.is_meta or bool(torch.isfinite(x.detach().sum())) or bool(torch.isfinite(x).all()):
        return
    place = tuple(torch.nonzero(~torch.isfinite(x))[0].tolist())
    raise InputError(f"{name} {_shape(x)} holds {x[place].item()}{_at(place)}; {why}")


def check_range(name: str, x: Tensor, low: float, high: float, low_allowed: bool = True) -> None:
    """low <= x <= high (low < x where the lowest is not allowed)."""
    if transformed() or x.is_meta or not x.numel():
        return
    least, most = x.detach().aminmax()
    if least < low or most > high or (least == low and not low_allowed):
        wrong = (x > high) | (x < low if low_allowed else x <= low)
        place = tuple(torch.nonzero(wrong)[0].tolist())
        bounds = f"{'[' if low_allowed else '('}{low:g}, {high:g}]"
        raise InputError(f"{name} is {x[place].item():g}{_at(place)}, outside {bounds}")


def check_written(state: MemoryState, numbers: bool = True) -> None:
    """Finite weights and slots after a call's writes, so that the call which broke a memory is the one that says so."""
    if not numbers:
        return
    groups = {"weights": state.weights} | {f"slots[{slot!r}]": parts for slot, parts in state.slots.items()}
    for group, tensors in groups.items():
        for name, x in tensors.items():
            check_finite(
                f"the write diverged: state.{group}[{name!r}]",
                x,
                "lower the rate, use keys of unit norm, or clip; nothing was returned",
            )


def check_class(state: object, expected: type[State]) -> None:
    """A state of this class, rather than what load_state returns."""
    if isinstance(state, tuple):
        raise InputError("state is a tuple; load_state returns (state, header): give its first part")
    if not isinstance(state, expected):
        raise InputError(f"state is a {expected.__name__} from init; got {type(state).__name__}")


def check_state(
    weights: Mapping[str, Tensor],
    keys: Tensor,
    numbers: bool = True,
    *,
    label: str = "state.weights",
    tokens: str = "keys",
    why: str = BROKEN,
) -> None:
    """Weights [B, H, ...] of the keys' batch, heads and device, of `state_dtype(keys)`, and finite.

    `label` and `tokens` are what the message calls the weights and the keys; `why` says why numbers that are not
    finite are there (`blame`).
    """
    for name, w in weights.items():
        here = f"{label}[{name!r}]"
        check_state_kind(here, w)
        check_batch(here, w, keys, tokens)
        kind = state_dtype(keys)
        if w.dtype != kind or w.device != keys.device:
            fit = f"torch.device({str(keys.device)!r})" if w.dtype == kind else kind
            raise InputError(
                f"{here} is {w.dtype} on {w.device}, {tokens} {keys.dtype} on {keys.device}; use state.to({fit})"
            )
        if numbers:
            check_finite(here, w, why)


def check_batch(here: str, weights: Tensor, keys: Tensor, tokens: str = "keys") -> None:
    """One weight's batch and heads against those of the tokens."""
    if weights.shape[:2] == keys.shape[:2]:
        return
    # [B, T, H, width], as other libraries have it.
    hint = ""
    if weights.shape[:2] == (keys.shape[0], keys.shape[2]):
        hint = f"; {tokens} are [B, H, T, width]; transpose(1, 2)?"
    raise InputError(
        f"{here} {_shape(weights)} and {tokens} {_shape(keys)} differ in batch or heads: [B, H] is "
        f"{list(weights.shape[:2])} and {list(keys.shape[:2])}{hint}"
    )


def check_learned(
    weights: Mapping[str, Tensor],
    heads: int | None,
    dtype: torch.dtype | None,
    shapes: Mapping[str, Sequence[int]] | None,
) -> None:
    """Learned initial weights, name -> [H, ...] without the batch, in `shapes` where those are known.

    InputError also where `heads` or `dtype`, None if not said, contradict them.
    """
    for name, w in weights.items():
        check_state_kind(f"weights[{name!r}]", w)
        if heads not in (None, *w.shape[:1]):
            raise InputError(f"weights[{name!r}] is {list(w.shape)}, but heads={heads}; leave heads out")
        if dtype not in (None, w.dtype):
            raise InputError(f"weights[{name!r}] is {w.dtype}, but dtype={dtype}; cast the weights")
    if shapes is not None:
        check_names(weights, shapes, label="weights")
        check_shapes(weights, shapes, next(iter(weights.values())).shape[:1], label="weights")


def check_names(
    weights: Mapping[str, object], expected: Iterable[str], *, label: str = "state.weights", of: str = "model"
) -> None:
    """The expected names and no others; `of` is what the state must have been made for."""
    missing, more = set(expected) - set(weights), set(weights) - set(expected)
    if missing or more:
        wrong = [
            f"{sorted(names)} {what}" for names, what in ((missing, "missing"), (more, "too many")) if names
        ]
        raise InputError(
            f"{label}: {', '.join(wrong)}; it was made for another {of}: start from this memory's init"
        )


def check_shapes(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Sequence[int]],
    leading: Sequence[int],
    *,
    label: str = "state.weights",
    of: str = "model",
) -> None:
    """Each weight [*leading, *expected[name]], with the names of `expected` alone."""
    check_names(weights, expected, label=label, of=of)
    for name, shape in expected.items():
        if tuple(weights[name].shape) != (*leading, *shape):
            raise InputError(
                f"{label}[{name!r}] is {_shape(weights[name])}; this {of} needs {[*leading, *shape]}"
            )


def check_state_kind(name: str, weights: Tensor) -> None:
    """States accumulate many small writes, so they are float32 or float64."""
    if weights.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"{name} is {weights.dtype}; a memory's state is float32 or float64: use state.to(torch.float32)"
        )


def state_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the state that such tokens are written to: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def transformed() -> bool:
    """Whether this runs under torch.compile or a transform of torch.func, where no number can be looked at."""
    stack = torch._C._functorch.peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]
    return torch.compiler.is_compiling() or stack() is not None


def _shape(x: Tensor) -> list[int]:
    return list(x.shape)


def _at(place: tuple[int, ...]) -> str:
    """Where in a tensor; nothing for a single number."""
    return f" at {list(place)}" if place else ""
