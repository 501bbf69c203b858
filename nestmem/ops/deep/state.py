"""The state before the first token, and the checks that both forms make."""

from __future__ import annotations

import torch
from torch import Tensor

from nestmem.core import MLP, Gates, MemoryState, Weights
from nestmem.core.checks import check_gate, check_gates, check_range, check_state_kind, check_tokens
from nestmem.errors import InputError


def init(
    model: MLP,
    batch: int,
    heads: int = 1,
    *,
    weights: Weights | None = None,
    momentum: bool = False,
    averaged: bool = False,
    window: int = 1,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> MemoryState:
    """The state before the first token; `weights` (name -> [H, ...]) are the learned initial ones, if any.

    `momentum` keeps a momentum beside each weight (Titans), `averaged` the chunk's sum of gradients that the
    position-scaled steps of TTT read; `window` the last window - 1 keys and values.
    """
    if momentum and averaged:
        raise InputError("a memory has momentum or averaged steps, not both; leave one of them False")
    if weights is None:
        weights = model.init(batch, heads, generator=generator, dtype=dtype, device=device)
    else:
        weights = {name: w.expand(batch, *w.shape) for name, w in weights.items()}
    first = weights["0"]
    zeros = {name: torch.zeros_like(w) for name, w in weights.items()} if momentum or averaged else None
    recent = None
    if window > 1:
        past = first.shape[0], first.shape[1], window - 1
        recent = first.new_zeros(*past, model.sizes[0]), first.new_zeros(*past, model.sizes[-1])
    slots = {} if zeros is None else {"momentum" if momentum else "sum": zeros}
    return MemoryState(weights=weights, slots=slots, anchor=weights, recent=recent)


def checked(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    gates: Gates,
    state: MemoryState,
    model: MLP,
    chunk: int,
    window: int,
    scale: Tensor | None,
    numbers: bool,
) -> Gates:
    """The gates as tensors [B, H, T], after every check that can be made before the first product."""
    if chunk < 1:
        raise InputError(f"chunk is a number of tokens, at least 1; got {chunk}")
    check_tokens(queries=queries, keys=keys, values=values, numbers=numbers)
    kind = next(iter(state.weights.values()))
    check_state_kind("state.weights", kind)
    if kind.dtype != (torch.float64 if keys.dtype == torch.float64 else torch.float32):
        raise InputError(
            f"keys are {keys.dtype}, state.weights {kind.dtype}; use state.to({keys.dtype}) or cast the keys"
        )
    if keys.shape[3] != model.sizes[0] or values.shape[3] != model.sizes[-1]:
        raise InputError(
            f"the memory maps width {model.sizes[0]} to {model.sizes[-1]}; got keys {list(keys.shape)}, "
            f"values {list(values.shape)}"
        )
    for name, w in state.weights.items():
        layer = int(name.split(".")[0])
        wanted = (*keys.shape[:2], *model.sizes[layer : layer + 2][1 if name.endswith("bias") else 0 :])
        if w.shape != wanted:
            raise InputError(
                f"state.weights[{name!r}] is {list(w.shape)}; these keys and sizes need {list(wanted)}"
            )
    full = gates.expand(keys.to(kind.dtype))
    check_gates(full, keys, window=window, numbers=numbers)
    moving = isinstance(gates.momentum, Tensor) or gates.momentum != 0
    if moving and "momentum" not in state.slots:
        raise InputError(
            "Gates.momentum is given, but the state has none; make it with init(..., momentum=True)"
        )
    if (scale is not None) != ("sum" in state.slots):
        raise InputError(
            "averaged steps take both: scale=[B, H, T] in the call, and init(..., averaged=True)"
        )
    if scale is not None:
        if window > 1 or isinstance(gates.decay, Tensor) or gates.decay != 1:
            raise InputError("averaged steps (scale) have no decay and no window")
        check_gate("scale", scale, keys, range_name="rate", numbers=numbers)
    if (window > 1) != (state.recent is not None):
        raise InputError(
            f"window is {window}, but the state was made for another; make it with init(..., window={window})"
        )
    if full.threshold is not None and window > 1:
        raise InputError("a threshold per token and a window of several tokens do not go together")
    if window > 1 and state.recent is not None and state.recent[0].shape[2] != window - 1:
        raise InputError(
            f"the state holds {state.recent[0].shape[2]} recent tokens; window={window} needs {window - 1}"
        )
    if numbers and isinstance(full.decay, Tensor):
        check_range("decay", full.decay, 0, 1, low_allowed=False)
    return full
