"""Linear attention with decay, all tokens of a chunk at once. The derivation is in README.md.

Legend of shapes: B batch, H heads, T tokens, N chunks, C tokens of a chunk, K key width, V value width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nestmem.core.checks import check_written, state_dtype
from nestmem.core.memory import MemoryState
from nestmem.ops import kernels
from nestmem.ops.derivative import own_arithmetic
from nestmem.ops.gates import gate_products
from nestmem.ops.linear.inputs import check_decay, check_inputs, gate

# Tokens (times batch and heads) whose C x C matrices are held at a time. More leave the caches of a CPU core.
SPAN_TOKENS = 8192


def retention_decay(
    heads: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """RetNet's fixed decay of each head, 1 - 2^(-5 - h), [H] (arXiv 2307.08621, eq. 8).

    >>> retention_decay(2)
    tensor([0.9688, 0.9844])
    """
    return 1 - 2.0 ** (-5 - torch.arange(heads, dtype=dtype, device=device))


@own_arithmetic
def chunked(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    decay: Tensor | float | None = None,
    state: MemoryState | None = None,
    *,
    scale: float = 1.0,
    chunk: int = 64,
    kernel: kernels.Kernel = "auto",
    check: bool = True,
) -> tuple[Tensor, MemoryState]:
    """Linear attention with decay: a memory that adds, and forgets at a given pace.

        S_t = decay_t S_{t-1} + k_t^T v_t        y_t = scale q_t S_t

    queries, keys [B, H, T, K], values [B, H, T, V]; state.weights {"0": [B, H, K, V]}, None for zeros. The share of
    the memory that is kept, decay in (0, 1]:

        a number       the same at every token
        None           all of it: plain linear attention (arXiv 2006.16236, eq. 16-20, without feature map and sum)
        [H]            fixed for each head: RetNet (arXiv 2307.08621, eq. 6; `retention_decay`)
        [B, H, T]      by the token: Mamba-2, simple GLA
        [B, H, T, K]   by the token for each key channel, S_t = diag(decay_t) S_{t-1} + k_t^T v_t: GLA (arXiv 2312.06635)

    Returns outputs [B, H, T, V] in the values' dtype and the state after the last token. Half precision tokens are
    summed in float32, and the state is float32 (float64 for float64 tokens). `chunk` (tokens; a power of two at
    least as large is used where decay has channels) changes speed and rounding only. `kernel`: see `nestmem.ops.kernels`.

    Raises InputError for shapes, kinds or (with check) numbers that cannot be right, MissingExtra for kernel="fla"
    where flash-linear-attention is not installed.

    >>> q, k, v = torch.eye(3)[None, None], torch.eye(3)[None, None], torch.arange(3.0).reshape(1, 1, 3, 1)
    >>> outputs, state = chunked(q, k, v, torch.full((1, 1, 3), 0.5))
    >>> state.weights["0"].flatten()
    tensor([0.0000, 0.5000, 2.0000])
    """
    state = check_inputs(queries, keys, values, state, chunk, check)
    decay = gate("decay", decay, keys)
    check_decay(decay, keys, check)
    if kernels.use_fla(kernel, keys, rule="linear"):
        outputs, s = kernels.linear(queries, keys, values, decay, scale, state.weights["0"])
    else:
        kind = state_dtype(keys)
        q, k, v = (x.to(kind) for x in (queries, keys, values))
        q = q if scale == 1.0 else q * scale
        outputs, s = _scan(q, k, v, None if decay is None else decay.to(kind), state.weights["0"], chunk)
    after = MemoryState(weights={"0": s}, position=state.position + keys.shape[2])
    check_written(after, check)
    return outputs.to(values.dtype), after


def spans(tokens: int, chunk: int, rows: int, power_of_two: bool = False) -> list[tuple[int, int]]:
    """How to read the sequence: [(tokens, chunk), ...] with whole chunks in each span and no padding.

    The chunks of a span are worked on together, so a span has about SPAN_TOKENS / rows tokens.

    >>> spans(150, chunk=64, rows=1)
    [(128, 64), (22, 22)]
    >>> spans(150, chunk=64, rows=1, power_of_two=True)
    [(128, 64), (16, 16), (4, 4), (2, 2)]
    """
    if power_of_two:
        chunk = 1 << (chunk - 1).bit_length()
    most = max(1, SPAN_TOKENS // (rows * chunk)) * chunk
    found = []
    while tokens:
        while chunk > tokens:
            chunk = 1 << (tokens.bit_length() - 1) if power_of_two else tokens
        length = min(most, tokens // chunk * chunk)
        found.append((length, chunk))
        tokens -= length
    return found


def _scan(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, s: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Outputs [B, H, T, V] and the state after them."""
    tokens = k.shape[2]
    if tokens == 1:
        return _step(q, k, v, decay, s)
    channels = decay is not None and decay.ndim == 4
    plan = spans(tokens, chunk, k.shape[0] * k.shape[1], power_of_two=channels)
    lengths = [length for length, _ in plan]
    pieces = [x.split(lengths, dim=2) for x in (q, k, v)]
    if decay is None or decay.ndim == 1:
        decays = (decay,) * len(plan)
    else:
        decays = decay.split(lengths, dim=2)
    outputs = []
    for (_, size), qi, ki, vi, di in zip(plan, *pieces, decays, strict=True):
        qc, kc, vc = (x.unflatten(2, (-1, size)) for x in (qi, ki, vi))
        out, s = _span(qc, kc, vc, di, s)
        outputs.append(out.flatten(2, 3))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2), s


def _step(q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, s: Tensor) -> tuple[Tensor, Tensor]:
    """One token."""
    write = k.mT * v
    if decay is None:
        s = s + write
    elif decay.ndim == 4:
        s = torch.addcmul(write, decay.mT, s)
    else:
        s = torch.addcmul(write, decay[:, None, None] if decay.ndim == 1 else decay[..., None], s)
    return q @ s, s


def _span(q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, s: Tensor) -> tuple[Tensor, Tensor]:
    """Chunks q, k [B, H, N, C, K], v [B, H, N, C, V] from state s; only the last line of states is sequential."""
    length = k.shape[3]
    kept: Tensor | None = None  # of the state over a whole chunk
    if decay is None:
        scores = (q @ k.mT).tril()
        q_in, k_out = q, k
    elif decay.ndim == 4:
        scores, q_in, k_out, kept = channel_scores(q, k, decay.unflatten(2, (-1, length)))
        kept = kept[..., None]
    else:
        if decay.ndim == 1:
            decay = decay[None, :, None, None].expand(1, -1, 1, length)
        else:
            decay = decay.unflatten(2, (-1, length))
        between, since, until = gate_products(decay)
        scores = (q @ k.mT) * between
        q_in, k_out = q * since[..., None], k * until[..., None]
        kept = since[..., -1:, None]
    writes = (k_out.mT @ v).unbind(2)
    shares = None if kept is None else kept.expand(-1, -1, len(writes), -1, -1).unbind(2)
    states = []
    for n, write in enumerate(writes):
        states.append(s)
        s = s + write if shares is None else torch.addcmul(write, shares[n], s)
    return scores @ v + q_in @ torch.stack(states, dim=2), s


def channel_scores(q: Tensor, k: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores of a chunk with a decay per key channel, q, k, decay [..., C, K] with C a power of two.

        scores[i, j] = sum_c q_ic k_jc decay_{j+1,c} ... decay_{i,c} for j <= i, else 0        [..., C, C]

    with q times the products since the start, k times those until the end, and the product over the chunk [..., K].
    Joins blocks as `gate_products` does: the right block's queries decay from the border that it has with the left
    block, the left block's keys up to it, so that both factors are at most 1. The usual k / (decay_1 ... decay_j)
    overflows float32 once the decays of a chunk multiply to less than 1e-38.
    """
    scores = (q * k).sum(-1)[..., None, None]
    q_in, k_out, kept = (q * decay)[..., None, :], k[..., None, :], decay
    while kept.shape[-2] > 1:
        q_l, q_r = q_in.unflatten(-3, (-1, 2)).unbind(-3)
        k_l, k_r = k_out.unflatten(-3, (-1, 2)).unbind(-3)
        kept_l, kept_r = kept.unflatten(-2, (-1, 2)).unbind(-2)
        left, right = scores.unflatten(-3, (-1, 2)).unbind(-3)
        size = left.shape[-1]
        cross = (q_r * k_l).sum(-1)[..., None] if size == 1 else q_r @ k_l.mT
        scores = torch.cat([F.pad(left, (0, size)), torch.cat([cross, right], dim=-1)], dim=-2)
        q_in = torch.cat([q_l, q_r * kept_l[..., None, :]], dim=-2)
        k_out = torch.cat([k_l * kept_r[..., None, :], k_r], dim=-2)
        kept = kept_l * kept_r
    return scores[..., 0, :, :], q_in[..., 0, :, :], k_out[..., 0, :, :], kept[..., 0, :]
