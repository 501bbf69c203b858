"""Where a memory of this rule starts, and what it accepts. Both forms of the rule read their input here."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nestmem.core import Gates, MemoryState, Model, Weights
from nestmem.core.checks import check_finite, check_gates, check_state_kind, check_tokens, transformed
from nestmem.errors import InputError

Per = Literal["token", "chunk"]


def init(
    batch: int,
    heads: int = 1,
    *,
    model: Model,
    weights: Weights | None = None,
    per: Per = "token",
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> MemoryState:
    """The state before the first token. `weights` (name -> [H, ...]) are the learned initial ones, if any.

    per="chunk" has three slots beside the momentum: the gradient summed since the chunk began, the chunk's gates
    so far, and the norms of the initial matrices' columns, to which `renormalize` returns.
    """
    _check_per(per)
    if weights is None:
        weights = model.init(batch, heads, generator=generator, dtype=dtype, device=device)
    else:
        weights = {name: w.expand(batch, *w.shape) for name, w in weights.items()}
    zero = {name: torch.zeros_like(w) for name, w in weights.items()}
    if per == "token":
        return MemoryState(weights=weights, slots={"momentum": zero}, anchor=weights)
    some = next(iter(weights.values()))
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
    rate: Tensor | float,
    decay: Tensor | float,
    momentum: Tensor | float,
    window: Tensor | None,
    state: MemoryState,
    *,
    chunk: int,
    per: Per,
    steps: int | None,
    renormalize: bool,
    check: bool,
) -> tuple[Tensor, Tensor, Tensor, Gates]:
    """Tokens and gates in the state's kind, or InputError."""
    _check_per(per)
    if not isinstance(chunk, int) or chunk < 1:
        raise InputError(f"chunk is a whole number of tokens, at least 1; got {chunk!r}")
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise InputError(
            f"steps is the number of Newton-Schulz iterations, at least 1, or None; got {steps!r}"
        )
    if window is not None and window.ndim != 4:
        raise InputError(f"window is [B, H, T, c]; got shape {list(window.shape)}")
    width = 1 if window is None else window.shape[-1]
    if per == "chunk" and window is not None:
        raise InputError(
            'a window of tokens goes with per="token"; a chunk\'s gradient already sums its tokens'
        )
    if per == "token" and renormalize:
        raise InputError('renormalize goes with per="chunk"; a token\'s weights are not renormalised')
    check_tokens(queries=queries, keys=keys, values=values, numbers=check)
    kind = torch.float64 if keys.dtype == torch.float64 else torch.float32
    gates = Gates(rate=rate, decay=decay, momentum=momentum, window=window).expand(keys.to(kind))
    if window is not None and window.shape[:3] != keys.shape[:3]:
        raise InputError(
            f"window is [B, H, T, c] with {list(keys.shape[:3])} of keys; got shape {list(window.shape)}"
        )
    if window is not None and check:
        check_finite("window", window)
    # A window of one token is a plain weight per token; Gates reads a width of 1 as no window.
    check_gates(gates if width > 1 else gates.replace(window=None), keys, window=width, numbers=check)
    some = next(iter(state.weights.values()))
    check_state_kind("state.weights", some)
    if some.dtype != kind:
        raise InputError(
            f"keys {keys.dtype} go with a {kind} state; state.weights is {some.dtype}: use state.to({kind})"
        )
    if some.shape[:2] != keys.shape[:2]:
        raise InputError(
            f"state.weights {list(some.shape)} and keys {list(keys.shape)} differ in batch or heads"
        )
    if ("gradient" in state.slots) != (per == "chunk") or "momentum" not in state.slots:
        raise InputError(
            f'the state was not made by init(..., per="{per}"); it has slots {sorted(state.slots)}'
        )
    if state.recent is not None and state.recent[0].shape[2] != width - 1:
        raise InputError(
            f"window has {width} weights, but the state was written with {state.recent[0].shape[2] + 1}"
        )
    if state.recent is None and width > 1 and state.position > 0:
        raise InputError(f"window has {width} weights, but the state's {state.position} tokens had no window")
    if renormalize and check and not _all_positive(state.slots["norm"]):
        raise InputError(
            "renormalize returns columns to their initial norm, and some start at zero; give init weights"
        )
    return queries.to(kind), keys.to(kind), values.to(kind), gates.to(kind)


def _check_per(per: Per) -> None:
    if per not in ("token", "chunk"):
        raise InputError(f'per is "token" or "chunk"; got {per!r}')


def _all_positive(norms: Weights) -> bool:
    """True also where the numbers cannot be looked at: under compile and functorch transforms."""
    return transformed() or all(bool((norm > 0).all()) for norm in norms.values())
