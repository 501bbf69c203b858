"""End-to-end inner learning as a loop: one sequence at a time, one chunk at a time, gradients by autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from nestmem.ops.endtoend.levels import EndToEndState, Level, Step, accept, check_results, check_step, numbers

# The parts of the state that writes change.
WRITTEN = ("weights", "slots", "gradients", "initial", "gathered")


def recurrent(
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
    """The definition of `chunked`, which describes the arguments. Nothing is checkpointed."""
    written, unit, tokens = accept(inputs, state, levels, chunk, check)
    rows = [
        _sequence(step, outer, _row(inputs, b), state, b, written, unit, tokens, second_order, write, check)
        for b in range(pytree.tree_leaves(inputs)[0].shape[0])
    ]
    losses, outputs, parts = (
        pytree.tree_map(lambda *x: torch.stack(x), *each) for each in zip(*rows, strict=True)
    )
    given = pytree.tree_leaves((outer, inputs, state, [level.gates for _, level, _ in written]))
    if not torch.is_grad_enabled() or not any(isinstance(x, Tensor) and x.requires_grad for x in given):
        # Nothing outside is learned: the graph of the inner gradients ends here.
        losses, outputs, parts = pytree.tree_map(Tensor.detach, (losses, outputs, parts))
    return losses, outputs, state.replace(**parts, position=state.position + tokens)


def _sequence(
    step: Step,
    outer: Any,
    inputs: Any,
    state: EndToEndState,
    row: int,
    written: list[tuple[int, Level, tuple[str, ...]]],
    chunk: int,
    tokens: int,
    second_order: bool,
    write: bool,
    check: bool,
) -> tuple[Tensor, Any, dict[str, Any]]:
    """The tokens of one sequence, from the start of the chunk that the state stands in."""
    memory = _row({name: getattr(state, name) for name in WRITTEN}, row)
    carry = live = _row(state.carry, row)
    waiting = state.position % chunk
    begin = state.position - waiting
    if waiting:
        past = pytree.tree_map(lambda x: x[row, :waiting], state.pending)
        inputs = pytree.tree_map(lambda a, b: torch.cat([a, b]), past, inputs)
    total = waiting + tokens

    all_losses, all_outputs = [], []
    for start in range(0, total, chunk):
        stop = min(start + chunk, total)
        piece = pytree.tree_map(lambda x: x[start:stop], inputs)  # noqa: B023
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            # A fresh alias of each weight: the inner gradient is the partial derivative at the weights in force,
            # not also the one by way of another level's earlier write.
            point = {
                n: w.view_as(w) if w.requires_grad else w.detach().requires_grad_()
                for n, w in memory["weights"].items()
            }
            result = step(outer, point | state.shared, piece, carry)
            losses, outputs, live = check_step(stop - start, carry, result)
        all_losses.append(losses)
        all_outputs.append(outputs)
        if stop - start == chunk:
            carry = live
        if stop - start == chunk and write:
            with torch.enable_grad():
                found = (
                    torch.autograd.grad(
                        losses.sum(), list(point.values()), create_graph=True, materialize_grads=True
                    )
                    if point
                    else ()
                )
            if not second_order:
                found = [g.detach() for g in found]
            new = dict(zip(point, found, strict=True))
            if check:
                check_results(
                    losses[None],
                    {n: g[None] for n, g in new.items()},
                    (begin + start) // chunk,
                    begin + start,
                )
            with torch.autocast(losses.device.type, enabled=False):
                memory = _write(memory, new, begin + stop, written)
    losses = torch.cat(all_losses)[waiting:]
    outputs = pytree.tree_map(lambda *x: torch.cat(x)[waiting:], *all_outputs)
    rest = total % chunk
    pending = pytree.tree_map(
        lambda x: torch.cat([x[total - rest :], x.new_zeros(chunk - rest, *x.shape[1:])]), inputs
    )
    return losses, outputs, memory | {"carry": carry, "live": live, "pending": pending}


def _write(memory: dict[str, Any], new: dict, position: int, written: list) -> dict[str, Any]:
    """Every level adds the chunk's gradient; those whose period ends here write, or start again."""
    weights, slots, gradients, initial, gathered = (dict(memory[name]) for name in WRITTEN)
    for number, level, names in written:
        g = {n: new[n] + gradients[n] if n in gradients else new[n] for n in names}
        if level.restart is not None:
            gathered |= {n: gathered[n] + new[n] for n in names}
        if position % level.period == 0:
            like = weights[names[0]]
            rate, decay, momentum, restart_rate = numbers(level.gates, like)
            if level.restart is not None and position % level.restart == 0:
                slow = _scaled({n: gathered[n] for n in names}, level, level.restart)
                mine = {n: initial[n] - restart_rate * slow[n] for n in names}
                initial |= mine
                gathered |= {n: torch.zeros_like(w) for n, w in mine.items()}
                slots[str(number)] = level.optimizer.init(mine)
            else:
                mine = {n: weights[n] for n in names}
                quick = _scaled(g, level, level.period)
                mine, slots[str(number)] = level.optimizer.update(
                    mine, quick, slots[str(number)], rate, decay, momentum, {}
                )
            weights |= mine
            g = {n: torch.zeros_like(x) for n, x in g.items()}
        gradients |= {n: x for n, x in g.items() if n in gradients}
    return dict(zip(WRITTEN, (weights, slots, gradients, initial, gathered), strict=True))


def _scaled(g: dict, level: Level, tokens: int) -> dict:
    """The mean or sum over so many tokens, no longer than the clip."""
    if level.average:
        g = {n: x / tokens for n, x in g.items()}
    if level.clip is not None:
        size = sum(x.square().sum() for x in g.values()) ** 0.5
        if size > level.clip:
            g = {n: x * (level.clip / size) for n, x in g.items()}
    return g


def _row(tree: Any, row: int) -> Any:
    return pytree.tree_map(lambda x: x[row], tree)
