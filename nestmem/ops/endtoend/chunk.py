"""End-to-end inner learning for a batch of sequences, each with its own weights; a chunk is recomputed in backward.

Legend of shapes: B batch (sequences), T tokens, C tokens of a chunk, n tokens of one call of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from nestmem.core import Weights
from nestmem.core.optimizer import Slots
from nestmem.ops.endtoend.levels import (
    EndToEndState,
    Level,
    Step,
    accept,
    check_results,
    check_step,
    fresh_slots,
    numbers,
)
from nestmem.ops.recompute import recomputed


def chunked(
    step: Step,
    outer: Any,
    inputs: Any,
    state: EndToEndState,
    *,
    levels: Level | Sequence[Level],
    chunk: int | None = None,
    second_order: bool = True,
    checkpoint: bool = True,
    write: bool = True,
    check: bool = True,
) -> tuple[Tensor, Any, EndToEndState]:
    """Learn from the model's own loss while reading, with weights of its own for each sequence.

    For every level, and i counting its periods of b tokens:

        W_i = decay W_{i-1} - rate clip( (1/b) sum_{t in period i} dl_t/dW )

    where l_t is computed with the weights in force at t: those of the chunk's start, for every level. A loss is
    measured before the update that it causes, so `losses` are causal and are also the outer objective,
    L = mean_t l_t; its gradient reaches `outer`, the initial weights and learned rates through the updates.

    step(outer, fast, inputs, carry) -> (losses [n], outputs, carry) is a pure function of ONE sequence and n <= C
    tokens. `outer` are the slow weights, `fast` name -> [...] this sequence's fast ones, `inputs` the tensors
    [n, ...] given here as [B, T, ...], `carry` what a later token needs of earlier ones (a key-value cache, a
    position). Its tensors keep their shapes; a State in it looks after itself, so that its static numbers (a
    position) may change and its tensors grow. The step's law: n tokens at once = token by token, each with the carry of
    the one before.
    `outputs` are any tensors [n, ...]. Everything that is to be learned comes in through the arguments, nothing
    through a closure; the step draws no random numbers (dropout belongs before it).

    outer, inputs, carry, outputs: a tensor, or dicts and tuples of them (outer: any pytree; carry: States too)
    levels one, or several that share out the fast weights; each period is a multiple of the chunk
    chunk  tokens per call of the step; the shortest period by default
    second_order=False treats inner gradients as constants, for a cheaper and different outer gradient
    checkpoint=True keeps only each chunk's start and recomputes it in backward: the memory of one chunk's graph
               instead of all, for one more forward and inner backward; inside torch.func transforms and
               torch.compile the graph is kept whatever this says
    write=False reads with the weights as they are: nothing is written or gathered for a write; the carry and the
               position go on
    check=False skips the look at the numbers (nan in inputs, losses or gradients), not at the shapes

    Returns losses [B, T], outputs [B, T, ...] and the state. A call may end inside a chunk: the state then has the
    chunk's start and its tokens, outputs come from the carry after the last token, and the whole chunk is computed
    once more when it is full, so that the update is exact, also through the carry.

    Attention inside the step needs second derivatives, which the fused kernels do not have; the step therefore runs
    with torch's SDPBackend.MATH. Attention that does not go through torch's SDPA has to see to it itself.

    Raises InputError for shapes that do not fit, and for a loss or gradient that is not finite, with its chunk and
    batch row; no state is returned then, so nothing was updated.

    TTT-E2E, arXiv 2512.23675v2; the Continuum Memory System with the language-model loss, Nested Learning,
    arXiv 2512.24695, eq. 70-71 and 73 (average=False), eq. 72 (Level.restart).

    >>> from nestmem.ops.endtoend import init
    >>> def step(outer, fast, x, carry):
    ...     guess = x @ fast["w"] @ outer
    ...     return (guess - x).square().sum(-1), guess, carry
    >>> levels = Level(period=4, rate=0.1, clip=1.0)
    >>> state = init({"w": torch.zeros(3, 3)}, batch=2, levels=levels)
    >>> losses, guesses, state = chunked(step, torch.eye(3), torch.ones(2, 10, 3), state, levels=levels)
    >>> losses[0, [0, 3, 4, 8]]  # falls after every fourth token
    tensor([3.0000, 3.0000, 2.4300, 1.9200])
    """
    written, unit, tokens = accept(inputs, state, levels, chunk, check)
    rates = {str(i): level.gates for i, level, _ in written}
    losses, outputs = [], []
    start = 0
    waiting = state.position % unit
    while start < tokens:
        stop = min(start + unit - waiting, tokens)
        piece = _cut(inputs, start, stop)
        position = state.position + stop - start
        whole = _join(_cut(state.pending, 0, waiting), piece) if waiting else piece
        full = waiting + stop - start == unit
        run = _Run(step, written, unit, position, second_order, check, full and write)
        args = (
            outer,
            state.shared,
            state.weights,
            state.slots if full else {},
            state.gradients if full else {},
            state.initial if full else {},
            state.gathered if full else {},
            whole if full else piece,
            state.carry if full else state.live,
            rates,
        )
        found, out, carry, new = recomputed(run, *args) if checkpoint else run(*args)
        if full:
            state = state.replace(**new | {"weights": state.weights | new["weights"]}, carry=carry)
            found, out = found[:, waiting:], _cut(out, waiting, unit)
        state = state.replace(live=carry, position=position)
        losses.append(found)
        outputs.append(out)
        if stop == tokens:
            filled = 0 if full else waiting + stop - start
            state = state.replace(pending=pytree.tree_map(lambda x: _padded(x, filled, unit), whole))  # noqa: B023
        start, waiting = stop, 0
    return torch.cat(losses, 1), pytree.tree_map(lambda *x: torch.cat(x, 1), *outputs), state


@dataclass(frozen=True)
class _Run:
    """One call of the step for all sequences, up to token `position`, which for a full chunk may write."""

    step: Step
    written: list[tuple[int, Level, tuple[str, ...]]]
    chunk: int
    position: int
    second_order: bool
    check: bool
    write: bool

    def __call__(
        self,
        outer: Any,
        shared: Weights,
        weights: Weights,
        slots: dict[str, Slots],
        gradients: Weights,
        initial: Weights,
        gathered: Weights,
        inputs: Any,
        carry: Any,
        rates: dict[str, tuple],
    ) -> tuple[Tensor, Any, Any, dict[str, Any]]:
        n = pytree.tree_leaves(inputs)[0].shape[1]

        def total(fast: Weights, inputs: Any, carry: Any) -> tuple[Tensor, tuple[Tensor, Any, Any]]:
            with sdpa_kernel(SDPBackend.MATH):
                result = self.step(outer, fast | shared, inputs, carry)
            losses, outputs, carried = check_step(n, carry, result)
            return losses.sum(), (losses, outputs, carried)

        learn = self.write and bool(weights)
        if learn:
            found = torch.func.vmap(torch.func.grad(total, has_aux=True))(weights, inputs, carry)
        else:
            found = torch.func.vmap(lambda w, x, c: ({}, total(w, x, c)[1]))(weights, inputs, carry)
        new, (losses, outputs, carried) = found
        if self.check:
            check_results(losses, new, (self.position - 1) // self.chunk, self.position - n)
        if not learn:
            kept = {"slots": slots, "gradients": gradients, "initial": initial, "gathered": gathered}
            return losses, outputs, carried, {"weights": {}, **kept}
        if not self.second_order:
            new = {name: g.detach() for name, g in new.items()}
        # The step and its gradient are computed as the caller wants; many small writes need their own arithmetic.
        with torch.autocast(losses.device.type, enabled=False):
            written = self._write(weights, slots, gradients, initial, gathered, new, rates)
        return losses, outputs, carried, written

    def _write(
        self,
        weights: Weights,
        slots: dict[str, Slots],
        gradients: Weights,
        initial: Weights,
        gathered: Weights,
        new: Weights,
        rates: dict[str, tuple],
    ) -> dict[str, Any]:
        """Add the chunk's gradient to every level's sums, and write the levels whose period ends.

        Returns the state's fields that change; of the weights only those that were written.
        """
        changed: Weights = {}
        slots, gradients, initial = dict(slots), dict(gradients), dict(initial)
        gathered = {n: g + new[n] for n, g in gathered.items()}
        for number, level, names in self.written:
            assert level.period is not None
            sums = {n: gradients[n] + new[n] if n in gradients else new[n] for n in names}
            if self.position % level.period:
                gradients |= sums
                continue
            gradients |= {n: torch.zeros_like(g) for n, g in sums.items() if n in gradients}
            like = weights[names[0]]
            rate, decay, momentum, restart_rate = numbers(rates[str(number)], like)
            if level.restart is not None and self.position % level.restart == 0:
                found = _scaled({n: gathered[n] for n in names}, level, level.restart)
                mine = {n: initial[n] - restart_rate * g for n, g in found.items()}
                initial |= mine
                gathered |= {n: torch.zeros_like(g) for n, g in found.items()}
                slots[str(number)] = fresh_slots(level, mine)
            else:
                mine, slots[str(number)] = _updated(
                    level,
                    {n: weights[n] for n in names},
                    _scaled(sums, level, level.period),
                    slots[str(number)],
                    (rate, decay, momentum),
                )
            changed |= mine
        return {
            "weights": changed,
            "slots": slots,
            "gradients": gradients,
            "initial": initial,
            "gathered": gathered,
        }


def _updated(
    level: Level, weights: Weights, gradients: Weights, slots: Slots, gates: tuple[Tensor, Tensor, Tensor]
) -> tuple[Weights, Slots]:
    """The optimizer's write, mapped over the sequences: one that looks at whole tensors cannot mix them."""
    # Writes are counted the same for all sequences. Outside the map an optimizer may also decide by the count.
    counts = {name: {n: x[0] for n, x in parts.items()} for name, parts in slots.items() if name == "count"}
    own = {name: parts for name, parts in slots.items() if name not in counts}

    def update(w: Weights, g: Weights, s: Slots) -> tuple[Weights, Slots]:
        return level.optimizer.update(w, g, s | counts, *gates, {})

    return torch.func.vmap(update)(weights, gradients, own)


def _scaled(sums: Weights, level: Level, tokens: int) -> Weights:
    """The gradient of that many tokens: their mean or sum, clipped."""
    if level.average:
        sums = {n: g / tokens for n, g in sums.items()}
    return sums if level.clip is None else _clipped(sums, level.clip)


def _clipped(gradients: Weights, limit: float) -> Weights:
    """Scaled down to at most this norm, over all tensors, for each sequence by itself."""
    squared = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0)
    over = squared > limit * limit
    # The root has no derivative at 0, so the rows that keep their gradient see a 1.
    scale = torch.where(over, limit * torch.where(over, squared, 1.0).rsqrt(), 1.0)
    return {n: g * scale.reshape(-1, *[1] * (g.ndim - 1)) for n, g in gradients.items()}


def _cut(tree: Any, start: int, stop: int) -> Any:
    return pytree.tree_map(lambda x: x[:, start:stop], tree)


def _join(a: Any, b: Any) -> Any:
    return pytree.tree_map(lambda x, y: torch.cat([x, y], 1), a, b)


def _padded(x: Tensor, filled: int, chunk: int) -> Tensor:
    """The first `filled` tokens of [B, n, ...], then zeros up to a whole chunk: a buffer that never grows."""
    zeros = x.new_zeros(x.shape[0], chunk - filled, *x.shape[2:])
    return torch.cat([x[:, :filled], zeros], 1)
