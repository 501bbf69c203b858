"""Token rows and the fixed shapes in which they are computed.

A row's result must not depend on who shares its batch, or else forgetting could not be bit-exact. So every batch has
the same number of rows and one of a few lengths, missing rows are filled, and a row is only ever computed in the
batch shape of its own length.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nestmem.errors import InputError

ROWS = 8
LENGTHS = (16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Token ids and, per token, how much it is to be predicted (0 = context only)."""

    ids: list[int]
    weights: list[float]


def fixed_length(tokens: int) -> int:
    """The smallest allowed length that holds a row of `tokens` tokens. Raises `InputError` above the largest."""
    for length in LENGTHS:
        if tokens <= length:
            return length
    raise InputError(
        f"an example of {tokens} tokens cannot be learned at once; at most {LENGTHS[-1]} fit. Split the statement."
    )


def fixed_groups(tokens: list[int]) -> Iterator[tuple[int, list[int]]]:
    """Which rows, by their number of tokens, are computed together: (length, at most 8 indices)."""
    by_length: dict[int, list[int]] = {}
    for index, count in enumerate(tokens):
        by_length.setdefault(fixed_length(count), []).append(index)
    for length, indices in sorted(by_length.items()):
        for start in range(0, len(indices), ROWS):
            yield length, indices[start : start + ROWS]


def fixed_batches(rows: list[Row], *, device: torch.device) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Batches of shape (8, one of `LENGTHS`): the indices of the rows in it, ids and weights.

    Filling has token 0 and weight 0 and stands to the right, where a causal model never looks back from.
    """
    for length, chosen in fixed_groups([len(row.ids) for row in rows]):
        ids_BT = torch.zeros(ROWS, length, dtype=torch.long)
        weights_BT = torch.zeros(ROWS, length)
        for b, index in enumerate(chosen):
            ids_BT[b, : len(rows[index].ids)] = torch.tensor(rows[index].ids)
            weights_BT[b, : len(rows[index].ids)] = torch.tensor(rows[index].weights)
        yield chosen, ids_BT.to(device), weights_BT.to(device)


def pack_rows(rows: list[Row]) -> bytes:
    """Rows as the payload of an update."""
    return json.dumps([[row.ids, row.weights] for row in rows]).encode()


def unpack_rows(payload: bytes) -> list[Row]:
    """The inverse of `pack_rows`."""
    return [Row(ids=ids, weights=weights) for ids, weights in json.loads(payload)]
