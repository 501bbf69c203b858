"""The matrices by which a chunk's gradients mix into the weights of each of its tokens.

With gradients g_i frozen at the chunk's first state, every rule here is linear in them and in a stack of s matrices
that is carried from chunk to chunk (the weights, and the momentum if there is one):

    W_t    = sum_j read[t, j] stack_j  -  sum_i gradients[t, i] g_i          i <= t: lower triangular
    stack' = carry stack  -  sum_i carried[., i] g_i                         after the span's last token

Legend: B batch, H heads, N spans done at once, n tokens of a span, e = n + window - 1 tokens whose gradients count.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nestmem.ops.gates import gate_products


@dataclass(frozen=True)
class Mixing:
    """The matrices for one span [b, ..] (or for N spans at once [b, N, ..]); None stands for zeros.

    read       s tensors [b, n, 1]
    gradients  [b, n, e], any lower triangular matrix: entry (t, i) with i > t + e - n would read the future
    carry      s rows of s tensors [b, 1, 1]
    carried    s tensors [b, e, 1]
    """

    read: tuple[Tensor, ...]
    gradients: Tensor
    carry: tuple[tuple[Tensor | None, ...], ...]
    carried: tuple[Tensor | None, ...]

    def flat(self) -> list[Tensor | None]:
        """All entries in one list; `of` is the inverse."""
        return [self.gradients, *self.read, *self.carried, *itertools.chain(*self.carry)]

    @classmethod
    def of(cls, flat: Sequence[Tensor | None], s: int) -> Mixing:
        """The mixing of a stack of s matrices from its flat list."""
        gradients, read, carried, carry = flat[0], flat[1 : 1 + s], flat[1 + s : 1 + 2 * s], flat[1 + 2 * s :]
        rows = tuple(tuple(carry[i * s : (i + 1) * s]) for i in range(s))
        return cls(tuple(read), gradients, rows, tuple(carried))  # pyright: ignore[reportArgumentType]

    def unbind(self) -> list[Mixing]:
        """N spans at once [b, N, ..] as N mixings."""
        columns = [[None] * self.gradients.shape[1] if x is None else x.unbind(1) for x in self.flat()]
        return [Mixing.of(each, len(self.read)) for each in zip(*columns, strict=True)]


def titans(rate: Tensor, decay: Tensor | None, momentum: Tensor | None, band: Tensor | None = None) -> Mixing:
    """S_t = momentum_t S_{t-1} - rate_t g_t;  W_t = decay_t W_{t-1} + S_t  (Titans, arXiv 2501.00663, eq. 13-14).

    Gates [.., n]; None means decay 1 or no momentum (then the stack is the weights alone). With `band` [.., n, e]
    (`ops.gates.banded`), g_t is the Omega rule's weighted sum over a window (Atlas, arXiv 2505.23735).
    """
    n = rate.shape[-1]
    kept = chain = None
    if momentum is None:
        steps = torch.diag_embed(rate)
    else:
        chain, kept, _ = gate_products(momentum)
        steps = chain * rate[..., None, :]
    if band is not None:
        steps = steps @ band
    if decay is None:
        weights, chain = torch.ones_like(rate), torch.ones(n, n, dtype=rate.dtype, device=rate.device).tril()
    else:
        chain, weights, _ = gate_products(decay)
    plain = momentum is None and band is None
    gradients = chain * rate[..., None, :] if plain else chain @ steps
    if kept is None:
        return Mixing((weights[..., None],), gradients, ((_last(weights),),), (_last_row(gradients),))
    speed = chain @ kept[..., None]
    return Mixing(
        read=(weights[..., None], speed),
        gradients=gradients,
        carry=((_last(weights), speed[..., -1:, :]), (None, _last(kept))),
        carried=(_last_row(gradients), _last_row(steps)),
    )


def averaged(rate: Tensor, scale: Tensor, ends: bool) -> Mixing:
    """S_t = S_{t-1} - rate_t g_t;  W_t = W_chunk + scale_t S_t: the position-scaled steps of TTT (arXiv 2407.04620).

    Gates [.., n]; scale_t is about 1 / (place in the chunk). The stack is the weights before the chunk and S;
    `ends` says that the span's last token ends its chunk, whose weights the next chunk starts from, with S = 0.
    """
    n = rate.shape[-1]
    one = torch.ones_like(rate)[..., None]
    gradients = torch.ones(n, n, dtype=rate.dtype, device=rate.device).tril() * (
        scale[..., :, None] * rate[..., None, :]
    )
    read, last = (one, scale[..., None]), one[..., -1:, :]
    if ends:
        return Mixing(read, gradients, ((last, _last(scale)), (None, None)), (_last_row(gradients), None))
    return Mixing(read, gradients, ((last, None), (None, last)), (None, rate[..., None]))


def _last(gate: Tensor) -> Tensor:
    """The last token's gate, [.., n] -> [.., 1, 1]."""
    return gate[..., -1:, None]


def _last_row(matrix: Tensor) -> Tensor:
    """[.., n, e] -> [.., e, 1]."""
    return matrix[..., -1, :, None]
