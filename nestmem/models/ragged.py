"""Sequences of different lengths without padding in their memories: each is computed as if it stood alone.

Legend of shapes: B rows, T columns, N documents of a group, L tokens of the longest of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nestmem.errors import InputError

# A group's shortest document has at least this share of its longest, so that little is computed for nothing.
LIKE = 0.6


@dataclass(frozen=True)
class Group:
    """Documents that are computed together.

    rows     [N] the row of each
    places   [N, L] where each token stands among the B T of the batch; after a document's end, its first token again
    valid    [N, L] whether the token is one of the document
    """

    rows: Tensor
    places: Tensor
    valid: Tensor


def groups(documents: Tensor, *, exact: bool) -> list[Group]:
    """The documents of rows [B, T] of ids (negative: padding), longest first; tokens of a row with one id are one.

    exact: only documents of the same length go together, so that their states all stand after their last token.
    Otherwise shorter ones are filled up behind their end, which no causal layer sees.

    >>> found = groups(torch.tensor([[0, 0, 1, 1], [0, 0, 0, -1]]), exact=True)
    >>> [(g.rows.tolist(), g.places.tolist()) for g in found]
    [([1], [[4, 5, 6]]), ([0, 0], [[0, 1], [2, 3]])]
    """
    tokens = documents.shape[1]
    flat = documents.flatten()
    there = torch.nonzero(flat >= 0).flatten()
    if not len(there):
        raise InputError(f"no token is left of {list(documents.shape)}: every place is padding")
    row = there // tokens
    key = row * (int(flat.max()) + 1) + flat[there]
    order = torch.sort(key, stable=True).indices
    _, counts = torch.unique_consecutive(key[order], return_counts=True)
    lengths = counts.tolist()
    starts = torch.cumsum(counts, 0) - counts
    place = there[order]
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    chosen: list[list[int]] = []
    for i in longest_first:
        most = lengths[chosen[-1][0]] if chosen else 0
        if not chosen or (lengths[i] != most if exact else lengths[i] < LIKE * most):
            chosen.append([])
        chosen[-1].append(i)
    made = []
    for members in chosen:
        which = torch.tensor(members, device=documents.device)
        steps = torch.arange(lengths[members[0]], device=documents.device)
        valid = steps < counts[which, None]
        inside = starts[which, None] + torch.where(valid, steps, 0)
        places = place[inside]
        made.append(Group(rows=places[:, 0] // tokens, places=places, valid=valid))
    return made
