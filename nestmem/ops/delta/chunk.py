"""The delta rule and the gated delta rule, all tokens of a chunk at once. The derivation is in README.md.

Legend of shapes: B batch, H heads, T tokens, N chunks, C tokens of a chunk, K key width, V value width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nestmem.core.checks import check_written
from nestmem.core.memory import MemoryState
from nestmem.ops import kernels
from nestmem.ops.delta.inputs import prepare
from nestmem.ops.derivative import own_arithmetic
from nestmem.ops.gates import gate_products
from nestmem.ops.linear.chunk import spans


@own_arithmetic
def chunked(
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
    kernel: kernels.Kernel = "auto",
    check: bool = True,
) -> tuple[Tensor, MemoryState]:
    """The delta rule: a memory that writes what it did not yet predict.

        S_t = decay_t (I - rate_t k_t^T k_t) S_{t-1} + rate_t k_t^T v_t        y_t = q_t S_t

    DeltaNet without decay (arXiv 2406.06484, section 2.2), Gated DeltaNet with it (arXiv 2412.06464, eq. 10), both
    there with S transposed. One step of gradient descent on 1/2 ||k_t S - v_t||^2 from the decayed state.

    queries, keys [B, H, T, K], values [B, H, T, V]; rate [B, H, T] in 0..1, the share of the error that is written,
    or 0..2 with negative_eigenvalues (arXiv 2411.12537: the state can flip sign along a key, which is what
    parity needs); decay [B, H, T] in (0, 1], the share of the memory that is kept, None for all; both also numbers;
    state.weights {"0": [B, H, K, V]}, None for zeros. Keys are to have unit norm; normalize=True makes queries and
    keys so. Shorter and longer keys are taken as they are while rate ||k||^2 <= 2, where a write does not grow.

    Returns outputs [B, H, T, V] in the values' dtype and the state after the last token. Half precision tokens are
    summed in float32, and the state is float32 (float64 for float64 tokens). `chunk` (tokens) changes speed and
    rounding only. `kernel`: see `nestmem.ops.kernels`.

    Raises InputError for shapes, kinds or (with check) numbers that cannot be right, MissingExtra for kernel="fla"
    where flash-linear-attention is not installed.

    >>> k, v = torch.eye(3)[None, None], torch.arange(3.0).reshape(1, 1, 3, 1)
    >>> _, state = chunked(k, k, v, rate=torch.ones(1, 1, 3))
    >>> (k @ state.weights["0"]).flatten()
    tensor([0., 1., 2.])
    """
    q, k, rate, decay, state = prepare(
        queries, keys, values, rate, decay, state, chunk, normalize, negative_eigenvalues, check
    )
    s = state.weights["0"]
    if kernels.use_fla(kernel, keys, rule="delta"):
        q, k = q.to(keys.dtype), k.to(keys.dtype)
        outputs, s = kernels.delta(q, k, values, rate, decay, s)
    else:
        decay = None if decay is None else decay.to(k.dtype)
        outputs, s = _scan(q, k, values.to(k.dtype), rate.to(k.dtype), decay, s, chunk)
    after = MemoryState(weights={"0": s}, position=state.position + keys.shape[2])
    check_written(after, check)
    return outputs.to(values.dtype), after


def _scan(
    q: Tensor, k: Tensor, v: Tensor, rate: Tensor, decay: Tensor | None, s: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Outputs [B, H, T, V] and the state after them."""
    tokens = k.shape[2]
    if tokens == 1:
        return _step(q, k, v, rate, decay, s)
    plan = spans(tokens, chunk, k.shape[0] * k.shape[1])
    lengths = [length for length, _ in plan]
    pieces = [x.split(lengths, dim=2) for x in (q, k, v, rate)]
    decays = (None,) * len(plan) if decay is None else decay.split(lengths, dim=2)
    outputs = []
    for (_, size), *piece, di in zip(plan, *pieces, decays, strict=True):
        qc, kc, vc, rc = (x.unflatten(2, (-1, size)) for x in piece)
        out, s = _span(qc, kc, vc, rc, None if di is None else di.unflatten(2, (-1, size)), s)
        outputs.append(out.flatten(2, 3))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2), s


def _step(
    q: Tensor, k: Tensor, v: Tensor, rate: Tensor, decay: Tensor | None, s: Tensor
) -> tuple[Tensor, Tensor]:
    """One token."""
    if decay is not None:
        s = decay[..., None] * s
    s = s + k.mT * (rate[..., None] * (v - k @ s))
    return q @ s, s


def _span(
    q: Tensor, k: Tensor, v: Tensor, rate: Tensor, decay: Tensor | None, s: Tensor
) -> tuple[Tensor, Tensor]:
    """Chunks q, k [B, H, N, C, K], v [B, H, N, C, V], gates [B, H, N, C] from state s.

    Everything that does not depend on the state is computed for all chunks at once; the loop over chunks has the
    two products with the state only.
    """
    k_rate = rate[..., None] * k
    lower, scores = k_rate @ k.mT, q @ k.mT
    if decay is None:
        q_in, k_in, k_out, kept = q, k_rate, k, None
        scores = scores.tril()
    else:
        between, since, until = gate_products(decay)
        lower, scores = lower * between, scores * between
        q_in, k_in, k_out = (
            q * since[..., None],
            k_rate * since[..., None],
            k * until[..., None],
        )
        kept = since[..., -1, None, None].flatten(0, 1).unbind(1)
    # Unit lower triangular: the solver reads only what is below the diagonal of `lower`.
    right = torch.cat([rate[..., None] * v, k_in], dim=-1)
    solved = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
    fresh, seen = solved.split([v.shape[-1], k.shape[-1]], dim=-1)

    # One batch dimension, so that a product and a sum are one call.
    rows = [x.flatten(0, 1).unbind(1) for x in (fresh, seen, k_out.mT)]
    state, states, writes = s.flatten(0, 1), [], []
    for n, (u, w, key) in enumerate(zip(*rows, strict=True)):
        states.append(state)
        write = torch.baddbmm(u, w, state, alpha=-1)
        writes.append(write)
        state = torch.baddbmm(state if kept is None else kept[n] * state, key, write)
    before, written = (torch.stack(x, dim=1).unflatten(0, s.shape[:2]) for x in (states, writes))
    return q_in @ before + scores @ written, state.unflatten(0, s.shape[:2])
