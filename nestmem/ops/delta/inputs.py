"""Are rates, decays and keys what the delta rule can use?"""

from __future__ import annotations

import torch
from torch import Tensor

from nestmem.core.checks import check_gate, check_range, state_dtype
from nestmem.core.memory import MemoryState
from nestmem.core.optimizer import unit
from nestmem.errors import InputError
from nestmem.ops.linear.inputs import check_inputs, gate


def prepare(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    rate: Tensor | float,
    decay: Tensor | float | None,
    state: MemoryState | None,
    chunk: int,
    normalize: bool,
    negative_eigenvalues: bool,
    numbers: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, MemoryState]:
    """Queries and keys, of unit norm where asked, in what sums are kept in, the gates as tensors, and the state.

    InputError where one of them cannot be right.
    """
    state = check_inputs(queries, keys, values, state, chunk, numbers)
    beta, alpha = gate("rate", rate, keys), gate("decay", decay, keys)
    if beta is None:
        raise InputError("rate is None; the delta rule takes rate as a [B, H, T] tensor or a number")
    check_gate("rate", beta, keys, numbers=numbers)
    if alpha is not None:
        check_gate("decay", alpha, keys, numbers=numbers)
    kind = state_dtype(keys)
    q, k = queries.to(kind), keys.to(kind)
    if normalize:
        q, k = unit(q), unit(k)
    if numbers:
        highest = 2.0 if negative_eigenvalues else 1.0
        hint = (
            "a key of unit norm bears up to 2"
            if negative_eigenvalues
            else "negative_eigenvalues=True allows 2"
        )
        _check_at_most("rate", beta, highest, hint)
        # Unit keys miss norm 1 by their rounding, in half precision by a good deal.
        slack = max(1e-3, 8 * torch.finfo(keys.dtype).eps)
        share = beta.detach().to(kind) * k.detach().square().sum(-1)
        hint = (
            "the write overshoots and grows without bound; make keys unit with normalize=True, or lower rate"
        )
        _check_at_most("rate * ||key||^2", share, 2.0 + slack, hint)
    return q, k, beta, alpha, state


def _check_at_most(name: str, x: Tensor, highest: float, hint: str) -> None:
    try:
        check_range(name, x, 0.0, highest)
    except InputError as error:
        raise InputError(f"{error}; {hint}") from error
