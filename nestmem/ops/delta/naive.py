"""The delta rule and the gated delta rule, token by token: the definition that chunk.py must reproduce."""

from __future__ import annotations

import torch
from torch import Tensor

from nestmem.core.checks import check_written
from nestmem.core.memory import MemoryState
from nestmem.ops.delta.inputs import prepare
from nestmem.ops.derivative import own_arithmetic


@own_arithmetic
def recurrent(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    rate: Tensor | float,
    decay: Tensor | float | None = None,
    state: MemoryState | None = None,
    *,
    normalize: bool = False,
    negative_eigenvalues: bool = False,
    chunk: int = 64,
    check: bool = True,
) -> tuple[Tensor, MemoryState]:
    """S_t = decay_t (I - rate_t k_t^T k_t) S_{t-1} + rate_t k_t^T v_t,  y_t = q_t S_t, one token after the other.

    Arguments, results and errors as in `chunked`; `chunk` changes nothing.
    """
    q, k, rate, decay, state = prepare(
        queries, keys, values, rate, decay, state, chunk, normalize, negative_eigenvalues, check
    )
    v, beta = values.to(k.dtype), rate.to(k.dtype)
    alpha = torch.ones_like(beta) if decay is None else decay.to(k.dtype)
    s = state.weights["0"]
    identity = torch.eye(k.shape[3], dtype=k.dtype, device=k.device)
    outputs = []
    # [B, H, 1, .] of each token
    tokens = (x[..., None, :] for x in (q, k, v, beta[..., None], alpha[..., None]))
    for q_t, k_t, v_t, beta_t, alpha_t in zip(*(x.unbind(2) for x in tokens), strict=True):
        s = alpha_t * (identity - beta_t * k_t.mT @ k_t) @ s + beta_t * k_t.mT @ v_t
        outputs.append(q_t @ s)
    after = MemoryState(weights={"0": s}, position=state.position + keys.shape[2])
    check_written(after, check)
    return torch.cat(outputs, dim=2).to(values.dtype), after
