"""The state before the first token, and the checks that both forms make."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nestmem.core import MLP, Gates, MemoryState, Model, Network, Objective, Weights
from nestmem.core.checks import (
    blame,
    check_chunk,
    check_class,
    check_finite,
    check_gates,
    check_learned,
    check_objective,
    check_shapes,
    check_state,
    check_threshold,
    check_tokens,
    check_whole,
    state_dtype,
    transformed,
)
from nestmem.core.model import batched
from nestmem.errors import InputError
from nestmem.ops.muon.gated import Gated

Per = Literal["token", "chunk"]
SLOTS = {"token": {"momentum"}, "chunk": {"momentum", "gradient", "gates", "norm"}}


def init(
    model: Model,
    batch: int,
    heads: int | None = None,
    *,
    weights: Weights | None = None,
    per: Per = "token",
    window: int = 1,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> MemoryState:
    """The state before the first token; `weights` (name -> [H, ...]) are the learned initial ones, if any.

    per="token" keeps the last window - 1 keys and values. per="chunk" has three slots beside the momentum: the
    gradient summed since the chunk began, the chunk's gates so far, and the norms of the initial matrices' columns,
    to which `renormalize` returns. `heads` and `dtype` as in `Memory.init`: 1 and float32 for fresh weights; learned
    ones say themselves what they are.
    """
    _check_per(per, window)
    if weights is None:
        kind = dtype or torch.float32
        weights = model.init(batch, heads or 1, generator=generator, dtype=kind, device=device)
    else:
        known = isinstance(model, MLP | Gated | Network)
        check_learned(weights, heads, dtype, model.shapes if known else None)
        weights = batched(weights, batch)
    zero = {name: torch.zeros_like(w) for name, w in weights.items()}
    some = next(iter(weights.values()))
    if per == "token":
        recent = None
        if window > 1 and isinstance(model, MLP | Gated):
            past, (key, value) = (some.shape[0], some.shape[1], window - 1), _widths(model)
            recent = some.new_zeros(*past, key), some.new_zeros(*past, value)
        return MemoryState(weights=weights, slots={"momentum": zero}, anchor=weights, recent=recent)
    slots = {
        "momentum": zero,
        "gradient": dict(zero),
        "gates": {"decay": some.new_ones(some.shape[:2]), "momentum": some.new_zeros(some.shape[:2])},
        "norm": {
            name: w.square().sum(-2, keepdim=True).sqrt()
            for name, w in weights.items()
            if not name.endswith("bias")
        },
    }
    return MemoryState(weights=weights, slots=slots)


def accept(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    gates: Gates,
    state: MemoryState,
    *,
    model: Model,
    objective: Objective,
    chunk: int,
    window: int,
    per: Per,
    steps: int | None,
    renormalize: bool,
    check: bool,
) -> tuple[Tensor, Tensor, Tensor, Gates, MemoryState]:
    """Tokens and gates in the state's dtype, and the state with its recent tokens, or InputError."""
    _check_per(per, window)
    if steps is not None:
        check_whole("steps", steps, unit=" of iterations")
    if per == "token" and renormalize:
        raise InputError('renormalize goes with per="chunk"; a token\'s weights are not renormalised')
    check_objective(objective)
    check_tokens(queries=queries, keys=keys, values=values, numbers=check)
    if isinstance(gates, Gates):
        check_class(state, MemoryState)
    else:
        raise InputError(
            f"muon takes Gates and a MemoryState from init; got {type(gates).__name__}, {type(state).__name__}"
        )
    check_chunk(chunk, state)
    _check_model(model, state, keys, values, check)
    _check_slots(state, keys, per, check)
    if per == "token" and state.position % chunk:
        if state.anchor is None:
            raise InputError(
                f"the state stands at token {state.position}, inside a chunk of {chunk}, but has no anchor: go on "
                "from a state that chunked or recurrent returned"
            )
        shapes = {name: w.shape[2:] for name, w in state.weights.items()}
        check_shapes(state.anchor, shapes, keys.shape[:2], label="state.anchor")
        check_state(state.anchor, keys, check, label="state.anchor")
    check_threshold(gates, objective)
    # Numbers for gates stand in the state's dtype, which half precision would round.
    kind = state_dtype(keys)
    full = gates.expand(keys[..., :0].to(kind))
    check_gates(full, keys, window=window, numbers=check)
    if full.threshold is not None and window > 1:
        raise InputError("a threshold per token and a window of several tokens do not go together")
    state = _with_recent(state, keys, values, window, check)
    if renormalize and check and not _all_positive(state.slots["norm"]):
        raise InputError(
            "renormalize returns columns to their initial norm, and some start at zero; give init weights"
        )
    return queries.to(kind), keys.to(kind), values.to(kind), full.to(kind), state


def _check_per(per: Per, window: int) -> None:
    if per not in SLOTS:
        raise InputError(f'per is "token" or "chunk"; got {per!r}')
    check_whole("window", window, unit=" of tokens")
    if per == "chunk" and window > 1:
        raise InputError(
            f'a window of {window} tokens goes with per="token"; a chunk\'s gradient already sums its tokens'
        )


def _check_model(model: Model, state: MemoryState, keys: Tensor, values: Tensor, check: bool) -> None:
    """Widths of the tokens, and names, shapes, dtypes and numbers of the weights, against the model."""
    weights = state.weights
    if isinstance(model, MLP | Gated):
        key, value = _widths(model)
        if keys.shape[3] != key or values.shape[3] != value:
            raise InputError(
                f"the memory maps width {key} to {value}; got keys {list(keys.shape)}, values {list(values.shape)}"
            )
    if isinstance(model, MLP | Gated | Network):
        check_shapes(weights, model.shapes, keys.shape[:2])
    check_state(weights, keys, check, why=blame(state))
    for name, w in weights.items():
        if not name.endswith("bias") and w.ndim != 4:
            raise InputError(
                f"state.weights[{name!r}] is {list(w.shape)}, and Newton-Schulz is about matrices [B, H, I, O]; "
                "a vector's name ends in bias"
            )
    if isinstance(model, MLP):
        for name, norm in (("norm_weight", model.norm_weight), ("norm_bias", model.norm_bias)):
            if norm is None:
                continue
            if tuple(norm.shape) not in ((keys.shape[1], values.shape[3]), values.shape[3:]):
                raise InputError(
                    f"model.{name} is [H, V] = {[keys.shape[1], values.shape[3]]}; got {list(norm.shape)}"
                )
            if check:
                check_finite(f"model.{name}", norm)


def _check_slots(state: MemoryState, keys: Tensor, per: Per, check: bool) -> None:
    """Names, shapes, dtypes and numbers of the slots, against those that init makes."""
    if set(state.slots) != SLOTS[per]:
        raise InputError(
            f'the state was not made by init(..., per="{per}"); it has slots {sorted(state.slots)}'
        )
    weights = {name: w.shape[2:] for name, w in state.weights.items()}
    shapes = {
        "momentum": weights,
        "gradient": weights,
        "gates": {"decay": (), "momentum": ()},
        "norm": {n: (1, *shape[1:]) for n, shape in weights.items() if not n.endswith("bias")},
    }
    for name, slot in state.slots.items():
        label = f"state.slots[{name!r}]"
        check_shapes(slot, shapes[name], keys.shape[:2], label=label)
        check_state(slot, keys, check, label=label)


def _with_recent(state: MemoryState, keys: Tensor, values: Tensor, window: int, check: bool) -> MemoryState:
    """The state with the window - 1 tokens before these; before a sequence's first token stand zeros, never read."""
    if (window > 1) == (state.recent is not None):
        for name, x, now in zip(("keys", "values"), state.recent or (), (keys, values), strict=False):
            wanted = [*keys.shape[:2], window - 1, now.shape[3]]
            if list(x.shape) != wanted:
                raise InputError(
                    f"the recent {name} of the state are {list(x.shape)}; window={window} over {name} "
                    f"{list(now.shape)} needs {wanted}"
                )
            check_state({name: x}, keys, check, label="state.recent")
        return state
    if state.recent is not None or state.position:
        raise InputError(
            f"window is {window}, but the state was made for another; make it with init(..., window={window})"
        )
    # A Network does not tell its widths before it sees a token.
    kind, past = state_dtype(keys), (*keys.shape[:2], window - 1)
    return state.replace(recent=tuple(x.new_zeros(*past, x.shape[3], dtype=kind) for x in (keys, values)))


def _widths(model: MLP | Gated) -> tuple[int, int]:
    return (model.key, model.value) if isinstance(model, Gated) else (model.sizes[0], model.sizes[-1])


def _all_positive(norms: Weights) -> bool:
    """True also where the numbers cannot be looked at: under compile and functorch transforms."""
    return transformed() or all(bool((norm > 0).all()) for norm in norms.values())
