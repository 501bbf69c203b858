"""What hand-written derivatives share: derivatives of derivatives, and a state that autocast leaves alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def again(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The gradients of function(*inputs) by autograd, in a graph of their own that can be differentiated again.

    `needed` says which inputs are learned; the others get None, as do those that no output depends on.
    """
    # Aliases, so that a tensor given in two places has its own gradient in each.
    aliases = [None if x is None else x.view_as(x) for x in inputs]
    outputs = function(*aliases)
    pairs = [(x, g) for x, g in zip(outputs, gradients, strict=True) if g is not None and x.requires_grad]
    learned = [x for x, need in zip(aliases, needed, strict=True) if need and x is not None]
    if not pairs or not learned:
        return [None] * len(needed)
    out, given = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(out, learned, given, create_graph=True, allow_unused=True))
    return [next(found) if need else None for need in needed]


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose first argument is a tensor, with autocast off inside: it chooses its own dtypes.

    A state accumulates many small writes and would lose them in half precision.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        tensor = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        if tensor is None or not torch.is_autocast_enabled(tensor.device.type):
            return function(*args, **kwargs)
        with torch.autocast(tensor.device.type, enabled=False):
            return function(*args, **kwargs)

    return run
