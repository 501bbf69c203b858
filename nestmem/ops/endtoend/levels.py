"""What an end-to-end memory is made of: levels of fast weights, and the state that carries them.

Legend of shapes: B batch (sequences), T tokens, C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestmem.core import DeltaGradientDescent, GradientDescent, InnerOptimizer, State, Weights, state, static
from nestmem.core.checks import (
    RANGES,
    check_class,
    check_finite,
    check_range,
    check_state_kind,
    check_whole,
    transformed,
)
from nestmem.core.optimizer import Slots
from nestmem.errors import InputError

# (outer, fast, inputs [n, ...], carry) -> (losses [n], outputs [n, ...], carry), for one sequence.
Step = Callable[[Any, Weights, Any, Any], tuple[Tensor, Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Level:
    """Fast weights that are written together, every `period` tokens.

    period     tokens between two writes; None: never, the weights only are initial values
    names      the fast weights of this level; None: all of them
    rate       the inner learning rate, a number or a learned tensor []
    clip       the gradient's largest norm, over all weights of the level, for each sequence by itself; None: any
    decay      the share of the weights kept at a write, 0 < decay <= 1 (1 - weight decay)
    momentum   the share of the momentum kept, for an optimizer that has one
    average    True: the mean of the period's token gradients (TTT-E2E); False: their sum (Nested Learning, eq. 71)
    optimizer  any of nestmem.core or nestmem.optim.inner that needs no layer inputs
    restart    tokens, a multiple of the period, after which the weights start again from initial weights that are
               learned at that slower pace (the nested CMS, Nested Learning, eq. 72); None: they never start again

    With a restart, and j counting its spans of s tokens, in the place of the write that ends the span:

        g_j = (1/s) sum_{t in span j} dl_t/dW     at the weights in force at t; clipped; average=False: the sum
        initial_j = initial_{j-1} - restart_rate g_j;    W <- initial_j;    the optimizer starts afresh

    The paper leaves open which gradient the slower level learns the initial weights by; this is the first order of
    the meta-gradient, dW_t/dinitial taken as 1. With gradient descent, no decay, no clip and sums, restart_rate =
    rate makes the restart the write it replaces, so the level is one that never restarts.
    """

    period: int | None
    names: tuple[str, ...] | None = None
    rate: float | Tensor = 1.0
    clip: float | None = None
    decay: float | Tensor = 1.0
    momentum: float | Tensor = 0.0
    average: bool = True
    optimizer: InnerOptimizer = field(default_factory=GradientDescent)
    restart: int | None = None
    restart_rate: float | Tensor = 1.0

    def __post_init__(self) -> None:
        whole = isinstance(self.period, int) and not isinstance(self.period, bool)
        if self.period is not None and (not whole or self.period < 1):
            raise InputError(
                f"period is a whole number of tokens, at least 1, or None for never; got {self.period!r}"
            )
        if self.clip is not None and not 0 < self.clip < float("inf"):
            raise InputError(f"clip is a positive norm, or None; got {self.clip}")
        if isinstance(self.optimizer, DeltaGradientDescent):
            raise InputError(
                "DeltaGradientDescent reads layer inputs, which a level has not; use GradientDescent()"
            )
        if self.restart is not None:
            check_whole("restart", self.restart, unit=" of tokens")
            if self.period is None or self.restart % self.period:
                raise InputError(
                    f"restart {self.restart} is not a multiple of the period, {self.period} tokens"
                )
        for name in ("rate", "decay", "momentum", "restart_rate"):
            value = torch.as_tensor(getattr(self, name))
            if value.ndim:
                raise InputError(f"{name} is one number for the level; got shape {list(value.shape)}")
            check_finite(name, value)
            check_range(name, value, *RANGES[name.removeprefix("restart_")])

    @property
    def gates(self) -> tuple[float | Tensor, ...]:
        """Rate, decay, momentum and restart_rate: what of a level may be learned."""
        return self.rate, self.decay, self.momentum, self.restart_rate


def numbers(gates: Sequence[float | Tensor], like: Tensor) -> list[Tensor]:
    """Gates in the weights' dtype, without a rounding to another on the way."""
    return [x.to(like) if isinstance(x, Tensor) else like.new_tensor(x) for x in gates]


@state
class EndToEndState(State):
    """All that the sequences carry from one call to the next.

    weights    name -> [B, ...]   the weights in force
    shared     name -> [...]      weights of levels that are never written: one for all sequences
    slots      level's number -> the optimizer's own state
    gradients  name -> [B, ...]   sums over the finished chunks of the running period, for levels slower than a chunk
    initial    name -> [B, ...]   where weights start again, for levels with a restart
    gathered   name -> [B, ...]   their gradients, summed over the finished chunks since the last start
    carry      the step's carry before the current chunk, each [B, ...]
    live       the step's carry after the last token
    pending    the current chunk's inputs so far, each [B, C, ...], zeros after them
    position   tokens seen
    """

    weights: Weights
    shared: Weights = field(default_factory=dict)
    slots: dict[str, Slots] = field(default_factory=dict)
    gradients: Weights = field(default_factory=dict)
    initial: Weights = field(default_factory=dict)
    gathered: Weights = field(default_factory=dict)
    carry: Any = ()
    live: Any = ()
    pending: Any = ()
    position: int = static(default=0)


def init(
    fast: Weights,
    batch: int,
    *,
    levels: Level | Sequence[Level],
    carry: Any = (),
    chunk: int | None = None,
    length: int | None = None,
) -> EndToEndState:
    """The state before the first token.

    fast     name -> [...]  the learned initial weights, without a batch dimension
    carry    the step's first carry (a key-value cache, say): dicts and tuples of tensors [B, ...] and of States of them
    length   the longest sequence, in tokens, if known: a level whose period is at least that never takes effect
             within it, so it stays one set of weights for all sequences and costs no gradient

    >>> start = init({"w": torch.zeros(3)}, batch=2, levels=Level(period=16))
    >>> start.weights["w"].shape
    torch.Size([2, 3])
    """
    named = assign(levels, list(fast))
    unit = span(named, chunk)
    if batch < 1:
        raise InputError(f"batch is the number of sequences, at least 1; got {batch}")
    for leaf in pytree.tree_leaves(carry):
        if not isinstance(leaf, Tensor) or not leaf.ndim or leaf.shape[0] != batch:
            found = list(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
            raise InputError(f"carry holds tensors [B, ...] with B = {batch}; got {found}")
    weights, shared, slots, gradients, initial = {}, {}, {}, {}, {}
    for number, (level, names) in enumerate(named):
        if level.period is None or (length is not None and level.period >= length):
            shared |= {n: fast[n] for n in names}
            continue
        mine = {n: fast[n].expand(batch, *fast[n].shape) for n in names}
        slots[str(number)] = fresh_slots(level, mine)
        weights |= mine
        if level.period > unit:
            gradients |= {n: torch.zeros_like(w) for n, w in mine.items()}
        if level.restart is not None:
            initial |= mine
    return EndToEndState(
        weights=weights,
        shared=shared,
        slots=slots,
        gradients=gradients,
        initial=initial,
        gathered={n: torch.zeros_like(w) for n, w in initial.items()},
        carry=carry,
        live=carry,
    )


def fresh_slots(level: Level, weights: Weights) -> Slots:
    """The optimizer's own state for weights [B, ...] before the first write, each part [B, ...]."""
    # Where an optimizer draws numbers, all sequences get the same.
    return torch.func.vmap(level.optimizer.init, randomness="same")(weights)


def assign(levels: Level | Sequence[Level], names: Sequence[str]) -> list[tuple[Level, tuple[str, ...]]]:
    """Each level with its names; every name in exactly one level."""
    levels = (levels,) if isinstance(levels, Level) else tuple(levels)
    if not levels:
        raise InputError("levels is empty; give Level(period=None) for weights that are never written")
    if any(level.names is None for level in levels) and len(levels) > 1:
        raise InputError("with several levels, each names its weights: Level(period=..., names=(...))")
    named = [(level, tuple(names) if level.names is None else tuple(level.names)) for level in levels]
    claimed = [n for _, mine in named for n in mine]
    if sorted(claimed) != sorted(names):
        unknown = sorted(set(claimed) - set(names))
        missing = sorted(set(names) - set(claimed))
        twice = sorted({n for n in claimed if claimed.count(n) > 1})
        raise InputError(
            f"every fast weight is in one level; unknown: {unknown}, in none: {missing}, in several: {twice}"
        )
    return named


def span(named: list[tuple[Level, tuple[str, ...]]], chunk: int | None) -> int:
    """The chunk in tokens: the shortest period, unless a shorter chunk is asked for."""
    periods = [level.period for level, _ in named if level.period is not None]
    if chunk is None:
        if not periods:
            raise InputError("no level has a period; give chunk, the tokens of one call of the step")
        chunk = min(periods)
    if not isinstance(chunk, int) or chunk < 1:
        raise InputError(f"chunk is a whole number of tokens, at least 1; got {chunk!r}")
    for period in periods:
        if period % chunk:
            raise InputError(f"period {period} is not a multiple of the chunk, {chunk} tokens")
    return chunk


def accept(
    inputs: Any, state: EndToEndState, levels: Level | Sequence[Level], chunk: int | None, check: bool
) -> tuple[list[tuple[int, Level, tuple[str, ...]]], int, int]:
    """The levels that are written, the chunk and the number of tokens, or InputError."""
    check_class(state, EndToEndState)
    named = assign(levels, [*state.weights, *state.shared])
    unit = span(named, chunk)
    leaves = pytree.tree_leaves(inputs)
    if not leaves or not all(isinstance(x, Tensor) and x.ndim >= 2 for x in leaves):
        raise InputError("inputs holds tensors [B, T, ...], at least one")
    batch, tokens = leaves[0].shape[:2]
    for x in leaves:
        if x.shape[:2] != (batch, tokens):
            raise InputError(
                f"inputs differ in batch or tokens: {list(leaves[0].shape)} and {list(x.shape)} of [B, T, ...]"
            )
        if check and x.is_floating_point():
            check_finite("inputs", x)
    if tokens == 0:
        raise InputError(f"T = 0: there is no token in inputs {list(leaves[0].shape)}; leave the call out")
    for name, w in (state.weights | state.shared).items():
        check_state_kind(f'state.weights["{name}"]', w)
    for name, w in state.weights.items():
        if w.shape[0] != batch:
            raise InputError(
                f'state.weights["{name}"] {list(w.shape)} and inputs {list(leaves[0].shape)} differ in batch'
            )
    for leaf in pytree.tree_leaves(state.pending):
        if leaf.shape[1] != unit:
            raise InputError(f"chunk is {unit} tokens, but the state was written with {leaf.shape[1]}")
    written = []
    for number, (level, names) in enumerate(named):
        if names and names[0] in state.shared:
            if level.period is not None and state.position + tokens > level.period:
                raise InputError(
                    f"{state.position + tokens} tokens are more than the period {level.period} of level {number}, "
                    "which init left shared; make the state with a larger length, or without one"
                )
            continue
        if str(number) not in state.slots or level.period is None:
            raise InputError(
                f"level {number} does not fit the state; make the state by init with the same levels"
            )
        _check_slots(number, level, names, state)
        slow = level.period > unit
        if any((n in state.gradients) != slow for n in names):
            raise InputError(
                f"level {number} has period {level.period} and the chunk is {unit} tokens, which the state was not "
                "made for; give init the same levels and chunk"
            )
        again = level.restart is not None
        if any((n in state.initial) != again for n in names):
            raise InputError(
                f"level {number} has restart {level.restart}, which the state was not made for; give init the same "
                "levels"
            )
        written.append((number, level, names))
    return written, unit, tokens


def _check_slots(number: int, level: Level, names: tuple[str, ...], state: EndToEndState) -> None:
    """The slots are those that this level's optimizer makes."""
    if transformed():
        return
    slots = state.slots[str(number)]
    made = fresh_slots(level, {n: state.weights[n].detach()[:1] for n in names})
    found, expected = ({k: sorted(parts) for k, parts in each.items()} for each in (slots, made))
    if found != expected:
        raise InputError(
            f"level {number} has {type(level.optimizer).__name__}, which keeps {sorted(expected)}, and the state "
            f"holds {sorted(found)}; make the state by init with the same levels"
        )


def check_step(n: int, carry: Any, result: Any) -> tuple[Tensor, Any, Any]:
    """What a step returned for n tokens of one sequence, which has the shapes it promised."""
    if not isinstance(result, tuple | list) or len(result) != 3:
        found = f"{len(result)} of them" if isinstance(result, tuple | list) else type(result).__name__
        raise InputError(f"step returns (losses, outputs, carry); got {found}")
    losses, outputs, carried = result
    if not isinstance(losses, Tensor) or losses.shape != (n,) or not losses.is_floating_point():
        found = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise InputError(f"step returns losses [n] = [{n}], one number per token; got {found}")
    for x in pytree.tree_leaves(outputs):
        if not isinstance(x, Tensor) or not x.ndim or x.shape[0] != n:
            found = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"step returns outputs [n, ...] with n = {n}; got {found}")
    (before, shape), (after, carried_shape) = (
        pytree.tree_flatten(x, is_leaf=lambda x: isinstance(x, State)) for x in (carry, carried)
    )
    if shape != carried_shape or any(_kind(a) != _kind(b) for a, b in zip(before, after, strict=True)):
        raise InputError(
            f"step returns a carry like the one it was given, {[_kind(x) for x in before]}; got "
            f"{[_kind(x) for x in after]}. Cut a cache to a fixed window or make it a State, which may grow, and "
            "give init the first carry"
        )
    return losses, outputs, carried


def _kind(x: Any) -> Any:
    """What stays the same of a part of the carry from call to call: of a State, only its class."""
    return (list(x.shape), x.dtype) if isinstance(x, Tensor) else type(x).__name__


def check_results(losses: Tensor, gradients: Weights, chunk: int, first: int) -> None:
    """Finite losses [B, n] of tokens first.. and gradients [B, ...], or InputError that says where."""
    if transformed():
        return
    if not bool(torch.isfinite(losses).all()):
        row, token = torch.nonzero(~torch.isfinite(losses))[0].tolist()
        raise InputError(
            f"the loss is {losses[row, token].item()} in chunk {chunk}, batch row {row}, token {first + token}; "
            "nothing was updated. Lower the rate, or clip the gradient"
        )
    for name, g in gradients.items():
        if not bool(torch.isfinite(g).all()):
            row = torch.nonzero(~torch.isfinite(g))[0][0].item()
            raise InputError(
                f'the gradient of "{name}" is not finite in chunk {chunk}, batch row {row}; nothing was updated'
            )
