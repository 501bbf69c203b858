"""Are tokens, gates and state what a matrix memory [K, V] can use? Shared by the linear and the delta rule."""

from __future__ import annotations

import torch
from torch import Tensor

from nestmem.core.checks import (
    blame,
    check_class,
    check_finite,
    check_gate,
    check_range,
    check_state_kind,
    check_tokens,
    check_whole,
    state_dtype,
)
from nestmem.core.memory import MemoryState
from nestmem.core.model import Weights, batched
from nestmem.errors import InputError

NAME = "0"  # of the one matrix in MemoryState.weights


def init(
    batch: int,
    heads: int,
    key_width: int,
    value_width: int,
    *,
    weights: Weights | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> MemoryState:
    """The state before the first token: zeros, or learned weights {"0": [H, K, V]} for every sequence.

    Weights keep their dtype and device; `dtype` and `device` are those of the zeros.

    >>> init(2, 3, key_width=4, value_width=5).weights["0"].shape
    torch.Size([2, 3, 4, 5])
    """
    shape = (heads, key_width, value_width)
    if weights is None:
        return MemoryState(weights={NAME: torch.zeros(batch, *shape, dtype=dtype, device=device)})
    if set(weights) != {NAME} or tuple(weights[NAME].shape) != shape:
        given = {name: list(w.shape) for name, w in weights.items()}
        raise InputError(f"weights of a matrix memory are {{'0': [H, K, V] = {list(shape)}}}; got {given}")
    return MemoryState(weights=batched(weights, batch))


def check_inputs(
    queries: Tensor, keys: Tensor, values: Tensor, state: MemoryState | None, chunk: int, numbers: bool
) -> MemoryState:
    """Tokens [B, H, T, .] of one kind and a state that fits them; a fresh state of zeros for None."""
    check_tokens(queries=queries, keys=keys, values=values, numbers=numbers)
    check_whole("chunk", chunk, unit=" of tokens")
    batch, heads, _, key_width = keys.shape
    shape, kind = (batch, heads, key_width, values.shape[3]), state_dtype(keys)
    if state is None:
        return MemoryState(weights={NAME: keys.new_zeros(shape, dtype=kind)})
    check_class(state, MemoryState)
    if set(state.weights) != {NAME}:
        raise InputError(f"the state of a matrix memory holds the weights '0'; got {sorted(state.weights)}")
    weights = state.weights[NAME]
    check_state_kind("state.weights['0']", weights)
    if tuple(weights.shape) != shape:
        raise InputError(
            f"state.weights['0'] is [B, H, K, V] = {list(shape)} for keys {list(keys.shape)} and values "
            f"{list(values.shape)}; got {list(weights.shape)}"
        )
    if weights.dtype != kind or weights.device != keys.device:
        raise InputError(
            f"state.weights['0'] is {weights.dtype} on {weights.device}; {keys.dtype} tokens on {keys.device} "
            f"need {kind} there: use state.to({kind}) or move one of them"
        )
    if numbers:
        check_finite("state.weights['0']", weights, blame(state))
    return state


def gate(name: str, value: Tensor | float | None, keys: Tensor) -> Tensor | None:
    """A number as the gate [B, H, T] of the state's dtype; tensors and None as they are."""
    if value is None or isinstance(value, Tensor):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return keys.new_full((), value, dtype=state_dtype(keys)).expand(keys.shape[:3])
    raise InputError(
        f"{name} is given a {type(value).__name__}; this rule takes rate and decay (linear: decay alone) as "
        "[B, H, T] tensors or numbers; state=... takes the state"
    )


def check_decay(decay: Tensor | None, keys: Tensor, numbers: bool) -> None:
    """None, [H], [B, H, T] or [B, H, T, K], each number in (0, 1]."""
    if decay is None:
        return
    if decay.ndim == 3:
        check_gate("decay", decay, keys, numbers=numbers)
        return
    expected = {1: tuple(keys.shape[1:2]), 4: tuple(keys.shape)}.get(decay.ndim)
    if tuple(decay.shape) != expected:
        raise InputError(
            f"decay is [H], [B, H, T] or [B, H, T, K] for keys {list(keys.shape)}; got {list(decay.shape)}"
        )
    if not decay.is_floating_point() or decay.device != keys.device:
        raise InputError(
            f"decay is {decay.dtype} on {decay.device}; expected floating point numbers on {keys.device}"
        )
    if numbers:
        check_finite("decay", decay)
        check_range("decay", decay, 0.0, 1.0, False)
