"""What the fast forms share: derivatives of derivatives, and arithmetic that does not depend on the caller's."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from nestmem.core.checks import transformed

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


def own_arithmetic(function: Callable[P, R]) -> Callable[P, R]:
    """The function with arithmetic of its own: autocast off, and float32 denormal numbers counted as 0 on the CPU.

    A state accumulates many small writes and would lose them in half precision, so every op chooses its dtypes. A
    memory that fades passes through denormal numbers (below 1e-38), and so do the gradients of what it held, with
    which matrix products are five to ten times slower. The flag is the calling thread's, and is put back; other
    threads of torch's pool keep theirs.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        tensor = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        if tensor is None or transformed():
            return function(*args, **kwargs)
        with contextlib.ExitStack() as stack:
            if torch.is_autocast_enabled(tensor.device.type):
                stack.enter_context(torch.autocast(tensor.device.type, enabled=False))
            if tensor.device.type == "cpu" and tensor.dtype != torch.float64:
                stack.enter_context(_denormals_are_zero())
            return function(*args, **kwargs)

    return run


@contextlib.contextmanager
def _denormals_are_zero() -> Iterator[None]:
    already = bool(torch.full((), 1e-39) * 1.0 == 0)
    if already or not torch.set_flush_denormal(True):
        yield
        return
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
