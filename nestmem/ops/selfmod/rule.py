"""What the loop and the chunked form of the self-modifying rule have in common: names, starts, read-outs, checks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nestmem.core import MLP, Linear, MemoryState, Objective, State, Weights, state, static
from nestmem.core.activations import ACTIVATIONS
from nestmem.core.checks import (
    blame,
    check_chunk,
    check_class,
    check_finite,
    check_learned,
    check_names,
    check_objective,
    check_shapes,
    check_state,
    check_whole,
    state_dtype,
)
from nestmem.core.model import batched
from nestmem.errors import InputError

MEMORIES = ("memory", "keys", "values", "rate", "decay")
ADAPTIVE = "queries"


@state
class Readout(State):
    """How the rate and decay memories become two numbers per token and head.

    decay_t = sigmoid(<decay_weight, M_decay(x_t)> + decay_bias)
    rate_t  = decay_t rate_max sigmoid(<rate_weight, M_rate(x_t)> + rate_bias)

    so that 0 < decay < 1 and 0 <= rate <= rate_max decay: forgetting along a key never removes more than there is
    (the gradient's part of a write comes on top, and may overshoot for large rates). The paper gives no range maps and
    no widths for the two (Nested Learning, arXiv 2512.24695, eq. 86); one number per head is what the chunked form
    needs.

    rate_weight, decay_weight [H, D], rate_bias, decay_bias [H]; rate_max is a number in (0, 1].
    """

    rate_weight: Tensor
    rate_bias: Tensor
    decay_weight: Tensor
    decay_bias: Tensor
    rate_max: float = static(default=1.0)

    def __post_init__(self) -> None:
        if not 0 < self.rate_max <= 1:
            raise InputError(f"rate_max is in (0, 1], so that rate <= decay; got {self.rate_max}")

    @staticmethod
    def init(
        heads: int,
        dim: int,
        *,
        rate: float = 0.02,
        decay: float = 0.98,
        rate_max: float = 1.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Readout:
        """Small normal weights, and biases that give about this rate and decay before anything is learned.

        A rate of 1/C or less keeps the C gradients of one chunk, all taken at one state, from overshooting.
        """
        if not 0 < rate < rate_max * decay or not 0 < decay < 1:
            raise InputError(
                f"0 < rate < rate_max decay and 0 < decay < 1; got rate={rate}, decay={decay}, rate_max={rate_max}"
            )
        kind = {"dtype": dtype, "device": device}
        logit = [math.log(p / (1 - p)) for p in (rate / (rate_max * decay), decay)]
        weights = [torch.randn(heads, dim, generator=generator, **kind) * 0.1 * dim**-0.5 for _ in range(2)]  # pyright: ignore
        return Readout(
            rate_weight=weights[0],
            rate_bias=torch.full((heads,), logit[0], **kind),  # pyright: ignore
            decay_weight=weights[1],
            decay_bias=torch.full((heads,), logit[1], **kind),  # pyright: ignore
            rate_max=rate_max,
        )


def init(
    batch: int,
    heads: int | None = None,
    *,
    dim: int | None = None,
    hidden: int | None = None,
    depth: int = 2,
    adaptive_q: bool = False,
    weights: Weights | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> MemoryState:
    """The state before the first token: five memories (six with `adaptive_q`), each of `depth` 1 or 2 matrices.

    Give `weights` (name -> [H, ...], the learned initial ones), or `dim` to draw some: normal of standard deviation
    I^(-1/2); linear memories are the identity plus a tenth of that, because a linear memory at zero makes its own
    targets zero and never learns. `heads` and `dtype` as in `Memory.init`: 1 and float32 for fresh weights; learned
    ones say themselves what they are.

    >>> sorted(init(1, 2, dim=4, hidden=8).weights)[:4]
    ['decay.0', 'decay.1', 'keys.0', 'keys.1']
    """
    if weights is None:
        if dim is None:
            raise InputError("give dim, the width of a head, or weights, the learned initial ones")
        if depth not in (1, 2):
            raise InputError(f"depth is 1 (linear memories) or 2 (residual MLPs); got {depth}")
        weights = {}
        heads, dtype = heads or 1, dtype or torch.float32
        sizes = (dim, dim) if depth == 1 else (dim, hidden or dim, dim)
        for name in (*MEMORIES, ADAPTIVE) if adaptive_q else MEMORIES:
            for layer in range(depth):
                i, o = sizes[layer], sizes[layer + 1]
                matrix = torch.randn(heads, i, o, generator=generator, dtype=dtype, device=device) * i**-0.5
                if depth == 1:
                    matrix = torch.eye(dim, dtype=dtype, device=device) + 0.1 * matrix
                weights[f"{name}.{layer}"] = matrix
    else:
        dim = weights["memory.0"].shape[-2] if "memory.0" in weights and weights["memory.0"].ndim > 1 else 0
        check_learned(weights, heads, dtype, _shapes(weights, dim))
    every = batched(weights, batch)
    return MemoryState(weights=every, anchor=every)


def memories(weights: Weights) -> tuple[str, ...]:
    """The names of the memories in the state, in the order in which they are stacked."""
    return (*MEMORIES, ADAPTIVE) if f"{ADAPTIVE}.0" in weights else MEMORIES


def _shapes(weights: Weights, dim: int) -> dict[str, tuple[int, int]]:
    """Name -> shape of the weights of one sequence and head, with the depth and hidden width of the memory."""
    hidden = weights["memory.0"].shape[-1] if "memory.1" in weights and "memory.0" in weights else dim
    layers = [(dim, hidden), (hidden, dim)][: 2 if "memory.1" in weights else 1]
    return {f"{name}.{i}": shape for name in memories(weights) for i, shape in enumerate(layers)}


def model_of(weights: Weights, activation: str) -> MLP:
    """M(x) = x W_0, or x + activation(x W_0) W_1 (eq. 89; rows are tokens)."""
    first = weights["memory.0"]
    if "memory.1" not in weights:
        return Linear(first.shape[-2], first.shape[-1])
    return MLP(
        sizes=(first.shape[-2], first.shape[-1], first.shape[-2]), activation=activation, residual=True
    )


def check(
    queries: Tensor,
    x: Tensor,
    readout: Readout,
    state: MemoryState,
    chunk: int,
    chunk_aux: int,
    objective: Objective,
    activation: str,
    read: str,
    numbers: bool,
) -> None:
    """Raise InputError for what cannot be right; `numbers` looks for nan and inf as well."""
    for name, value in (("queries", queries), ("x", x)):
        if value.ndim != 4 or not value.is_floating_point():
            raise InputError(
                f"{name} holds floating point numbers [B, H, T, D]; got {value.dtype} {list(value.shape)}"
            )
    if x.shape[2] == 0:
        raise InputError(f"T = 0: there is no token in x {list(x.shape)}; leave the call out")
    if queries.shape != x.shape or queries.dtype != x.dtype or queries.device != x.device:
        raise InputError(
            f"queries {list(queries.shape)} {queries.dtype} on {queries.device} and x {list(x.shape)} {x.dtype} on "
            f"{x.device} differ; both are [B, H, T, D] of one kind"
        )
    check_whole("chunk", chunk, unit=" of tokens")
    check_whole("chunk_aux", chunk_aux, unit=" of tokens")
    if chunk % chunk_aux and chunk_aux % chunk:
        raise InputError(f"one chunk is a multiple of the other; got chunk={chunk}, chunk_aux={chunk_aux}")
    check_objective(objective)
    if activation not in ACTIVATIONS:
        raise InputError(f"activation is one of {sorted(ACTIVATIONS)}; got {activation!r}")
    if read not in ("chunk", "token"):
        raise InputError(f'read is "chunk" or "token"; got {read!r}')
    _check_state(x, readout, state, chunk, chunk_aux, numbers)
    if numbers:
        check_finite("queries", queries)
        check_finite("x", x)


def _check_state(
    x: Tensor, readout: Readout, state: MemoryState, chunk: int, chunk_aux: int, numbers: bool
) -> None:
    check_class(state, MemoryState)
    batch, heads, _, dim = x.shape
    weights, dtype = state.weights, state_dtype(x)
    shapes = _shapes(weights, dim)
    check_names(weights, shapes, of="rule")
    # A state knows the weights before the chunks that it was written in; the longer of the two is noted in it.
    longest = max(chunk, chunk_aux)
    check_chunk(longest, state)
    groups = {"state.weights": weights}
    if state.position % longest or state.position % min(chunk, chunk_aux):
        if state.anchor is None:
            raise InputError(
                f"the state stands at token {state.position}, within a chunk of {longest}, but has no anchor: "
                "the weights before that chunk; continue from the state that chunked or recurrent returned"
            )
        groups["state.anchor"] = state.anchor
    for label, group in groups.items():
        check_shapes(group, shapes, (batch, heads), label=label, of="rule")
        check_state(group, x, numbers, label=label, tokens="x", why=blame(state))
    for name, shape in (("weight", (heads, dim)), ("bias", (heads,))):
        for gate in ("rate", "decay"):
            value = getattr(readout, f"{gate}_{name}")
            if value.shape != shape or value.dtype != dtype or value.device != x.device:
                raise InputError(
                    f"readout.{gate}_{name} is {list(value.shape)} {value.dtype} on {value.device}; expected "
                    f"{list(shape)} {dtype} on {x.device}"
                )
            if numbers:
                check_finite(f"readout.{gate}_{name}", value)
