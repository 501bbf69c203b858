"""Linear attention with decay, token by token: the definition that chunk.py must reproduce."""

from __future__ import annotations

import torch
from torch import Tensor

from nestmem.core.checks import check_written, state_dtype
from nestmem.core.memory import MemoryState
from nestmem.ops.derivative import own_arithmetic
from nestmem.ops.linear.inputs import check_decay, check_inputs, gate


@own_arithmetic
def recurrent(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    decay: Tensor | float | None = None,
    state: MemoryState | None = None,
    *,
    scale: float = 1.0,
    chunk: int = 64,
    check: bool = True,
) -> tuple[Tensor, MemoryState]:
    """S_t = decay_t S_{t-1} + k_t^T v_t,  y_t = scale q_t S_t, one token after the other.

    Arguments, results and errors as in `chunked`; `chunk` changes nothing.
    """
    state = check_inputs(queries, keys, values, state, chunk, check)
    decay = gate("decay", decay, keys)
    check_decay(decay, keys, check)
    kind, s = state_dtype(keys), state.weights["0"]
    if decay is None:
        decay = torch.ones_like(keys)
    elif decay.ndim == 1:
        decay = decay[None, :, None, None].expand_as(keys)
    elif decay.ndim == 3:
        decay = decay[..., None].expand_as(keys)
    outputs = []
    # [B, H, 1, .] of each token
    tokens = (x.to(kind)[..., None, :].unbind(2) for x in (queries, keys, values, decay))
    for q_t, k_t, v_t, decay_t in zip(*tokens, strict=True):
        s = decay_t.mT * s + k_t.mT @ v_t
        outputs.append(scale * q_t @ s)
    after = MemoryState(weights={"0": s}, position=state.position + keys.shape[2])
    check_written(after, check)
    return torch.cat(outputs, dim=2).to(values.dtype), after
