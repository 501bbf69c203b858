"""Run a function without keeping its graph, and again in backward.

torch.utils.checkpoint does this with hooks on saved tensors, which torch.func.grad inside the function forbids, or
(reentrant) without support for torch.autograd.grad.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils import _pytree as pytree

from nestmem.core.checks import transformed
from nestmem.errors import InputError


def recomputed(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), pytrees in and out, holding only the arguments until backward.

    Gradients of any order reach tensors in `args`. A tensor with a gradient that the function takes from elsewhere
    would silently get none; backward raises InputError instead.
    """
    leaves, spec = pytree.tree_flatten(args)
    learned = any(isinstance(x, Tensor) and x.requires_grad for x in leaves)
    if not learned or not torch.is_grad_enabled() or transformed():
        return function(*args)
    places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
    device = leaves[places[0]].device.type
    cast = {
        "device_type": device,
        "enabled": torch.is_autocast_enabled(device),
        "dtype": torch.get_autocast_dtype(device),
    }
    shape: list[pytree.TreeSpec] = []

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        filled = list(leaves)
        for place, x in zip(places, tensors, strict=True):
            filled[place] = x
        with torch.autocast(**cast):
            out, out_spec = pytree.tree_flatten(function(*pytree.tree_unflatten(filled, spec)))
        shape[:] = [out_spec]
        return tuple(out)

    made = _Recompute.apply(flat, *(leaves[i] for i in places))
    # The graph holds `flat`; of the arguments it needs only what is no tensor.
    for i in places:
        leaves[i] = None
    return pytree.tree_unflatten(made, shape[0])


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> Any:
        ctx.function = function  # pyright: ignore
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        out = function(*tensors)
        ctx.mark_non_differentiable(*(x for x in out if not x.is_floating_point()))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        again = torch.is_grad_enabled()
        needed = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            # Aliases, so that an argument given twice has its own gradient in each place.
            tensors = [
                (x.view_as(x) if again else x.detach().requires_grad_()) if need else x.detach()
                for x, need in zip(ctx.saved_tensors, needed, strict=True)
            ]
            out = ctx.function(*tensors)
            pairs = [(x, g) for x, g in zip(out, gradients, strict=True) if g is not None and x.requires_grad]
            _check_leaves([x for x, _ in pairs], [x for x, need in zip(tensors, needed, strict=True) if need])
            found = torch.autograd.grad(
                [x for x, _ in pairs],
                [x for x, need in zip(tensors, needed, strict=True) if need],
                [g for _, g in pairs],
                create_graph=again,
                allow_unused=True,
            )
        rest = iter(found)
        return None, *(next(rest) if need else None for need in needed)


def _check_leaves(outputs: list[Tensor], known: list[Tensor]) -> None:
    """The graph of the outputs ends in known tensors only."""
    allowed = {id(x) for x in known}
    # What made an alias of an argument is not the function's, also where the function returns the argument itself.
    seen = {x.grad_fn for x in known if x.grad_fn is not None}
    stack = [x.grad_fn for x in outputs if x.grad_fn is not None and x.grad_fn not in seen]
    seen.update(stack)
    while stack:
        node = stack.pop()
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in allowed:
            raise InputError(
                f"a recomputed function uses a learned tensor {list(variable.shape)} that is not among its arguments, "
                "and would give it no gradient; pass it as an argument (`outer` of a step), or use checkpoint=False"
            )
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
