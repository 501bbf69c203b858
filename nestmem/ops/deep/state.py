"""The state before the first token, and the checks that both forms make."""

from __future__ import annotations

import torch
from torch import Tensor

from nestmem.core import MLP, Gates, MemoryState, Objective, Weights
from nestmem.core.checks import (
    blame,
    check_batch,
    check_chunk,
    check_class,
    check_finite,
    check_gate,
    check_gates,
    check_learned,
    check_objective,
    check_shapes,
    check_state,
    check_threshold,
    check_tokens,
    check_whole,
    state_dtype,
)
from nestmem.core.model import batched
from nestmem.errors import InputError


def init(
    model: MLP,
    batch: int,
    heads: int | None = None,
    *,
    weights: Weights | None = None,
    momentum: bool = False,
    averaged: bool = False,
    window: int = 1,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> MemoryState:
    """The state before the first token; `weights` (name -> [H, ...]) are the learned initial ones, if any.

    `momentum` keeps a momentum beside each weight (Titans), `averaged` the chunk's sum of gradients that the
    position-scaled steps of TTT read; `window` the last window - 1 keys and values. `heads` and `dtype` as in
    `Memory.init`: 1 and float32 for fresh weights; learned ones say themselves what they are.
    """
    if momentum and averaged:
        raise InputError("a memory has momentum or averaged steps, not both; leave one of them False")
    if weights is None:
        kind = dtype or torch.float32
        weights = model.init(batch, heads or 1, generator=generator, dtype=kind, device=device)
    else:
        check_learned(weights, heads, dtype, model.shapes)
        weights = batched(weights, batch)
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
    objective: Objective,
    chunk: int,
    window: int,
    scale: Tensor | None,
    numbers: bool,
) -> Gates:
    """The gates as tensors [B, H, T], after every check that can be made before the first product."""
    if not isinstance(model, MLP):
        raise InputError(
            f"deep memories are a core.MLP; got {type(model).__name__}: use core.Memory for others"
        )
    check_objective(objective)
    check_whole("window", window, unit=" of tokens")
    check_tokens(queries=queries, keys=keys, values=values, numbers=numbers)
    if isinstance(gates, Gates):
        check_class(state, MemoryState)
    else:
        raise InputError(
            f"deep takes Gates and a MemoryState from init; got {type(gates).__name__}, {type(state).__name__}"
        )
    check_chunk(chunk, state)
    if keys.shape[3] != model.sizes[0] or values.shape[3] != model.sizes[-1]:
        raise InputError(
            f"the memory maps width {model.sizes[0]} to {model.sizes[-1]}; got keys {list(keys.shape)}, "
            f"values {list(values.shape)}"
        )
    why = blame(state)
    check_weights(model, state.weights, keys, "state.weights", numbers, why)
    for name, slot in state.slots.items():
        check_weights(model, slot, keys, f"state.slots[{name!r}]", numbers, why)
    if state.position % chunk:
        if state.anchor is None:
            raise InputError(
                f"the state stands at token {state.position}, inside a chunk of {chunk}, but has no anchor: go on "
                "from a state that chunked or recurrent returned"
            )
        check_weights(model, state.anchor, keys, "state.anchor", numbers, why)
    for name, norm in (("norm_weight", model.norm_weight), ("norm_bias", model.norm_bias)):
        if norm is not None:
            if tuple(norm.shape) not in (tuple(keys.shape[1:2]) + model.sizes[-1:], model.sizes[-1:]):
                raise InputError(
                    f"model.{name} is [H, V] = {[keys.shape[1], model.sizes[-1]]}; got {list(norm.shape)}"
                )
            if numbers:
                check_finite(f"model.{name}", norm)
    check_threshold(gates, objective)
    full = gates.expand(keys.to(state_dtype(keys)))
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
    return full


def check_weights(model: MLP, weights: Weights, keys: Tensor, label: str, numbers: bool, why: str) -> None:
    """One tensor per layer, of the model's widths and the keys' batch, heads and kind."""
    for name, w in weights.items():
        check_batch(f"{label}[{name!r}]", w, keys)
    check_shapes(weights, model.shapes, keys.shape[:2], label=label)
    check_state(weights, keys, numbers, label=label, why=why)
