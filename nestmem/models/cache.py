"""What a model remembers of the tokens it has read: the `past_key_values` of Hugging Face's generate, and a file.

Legend of shapes: B rows of a batch, N rows that stand at the same token.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestmem.core import State, load_state, save_state, state, static
from nestmem.errors import InputError
from nestmem.models.block import BlockState
from nestmem.models.late import LateState

if TYPE_CHECKING:
    from nestmem.models.config import NestmemConfig


@state
class ModelState(State):
    """The states of the blocks that only read, and of those above whose weights learn; all of N rows."""

    blocks: tuple[BlockState, ...] = ()
    late: LateState | None = None
    position: int = static(default=0)

    def select(self, rows: Tensor) -> ModelState:
        """The states of some rows [M]."""
        return self.map(lambda x: x.index_select(0, rows.to(x.device)))


@state
class CacheState(State):
    """Groups of rows that stand at the same token: which rows, [N], and their states."""

    rows: tuple[Tensor, ...]
    states: tuple[ModelState, ...]


class MemoryCache:
    """The memory of a batch of sequences after the tokens so far.

    A value: a model returns a new one with each call. Memory layers hold a state of constant size, attention layers
    the tokens of their window, or all.

    rows     number of sequences
    columns  tokens read in this conversation, padding included, as Hugging Face's generate counts them
    model    the fingerprint of the config of the model that made it
    """

    # What transformers looks at.
    is_compileable = False

    def __init__(self, state: CacheState, *, rows: int, columns: int, model: str) -> None:
        self.state, self.rows, self.columns, self.model = state, rows, columns, model

    def __repr__(self) -> str:
        """Rows, columns and size."""
        return f"MemoryCache(rows={self.rows}, columns={self.columns}, bytes={self.state.bytes()})"

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns read; transformers' name."""
        return self.columns

    def select(self, rows: Tensor) -> MemoryCache:
        """The memory of rows [M] of this batch, in that order; one row may be taken several times (beams).

        >>> from nestmem.models import NestmemConfig, NestmemForCausalLM
        >>> model = NestmemForCausalLM(NestmemConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1)).eval()
        >>> memory = model(torch.zeros(2, 3, dtype=torch.long)).past_key_values
        >>> memory.select(torch.tensor([1, 1, 0])).rows
        3
        """
        rows = torch.as_tensor(rows)
        if rows.ndim != 1 or rows.is_floating_point() or not len(rows):
            raise InputError(
                f"select takes rows [M], such as torch.tensor([0, 2]); got {rows.dtype} {list(rows.shape)}"
            )
        if rows.numel() and (int(rows.min()) < 0 or int(rows.max()) >= self.rows):
            raise InputError(f"the memory has rows 0 to {self.rows - 1}; got {rows.tolist()}")
        places, states = [], []
        for mine, each in zip(self.state.rows, self.state.states, strict=True):
            where = {row: i for i, row in enumerate(mine.tolist())}
            wanted = [(new, where[old]) for new, old in enumerate(rows.tolist()) if old in where]
            if wanted:
                places.append(torch.tensor([new for new, _ in wanted]))
                states.append(each.select(torch.tensor([old for _, old in wanted])))
        chosen = CacheState(rows=tuple(places), states=tuple(states))
        return MemoryCache(chosen, rows=len(rows), columns=self.columns, model=self.model)

    def detach(self) -> MemoryCache:
        """The same memory without the graph that made it."""
        return MemoryCache(self.state.detach(), rows=self.rows, columns=self.columns, model=self.model)

    def to(self, *args: object, **kwargs: object) -> MemoryCache:
        """Moved or cast as `State.to` does."""
        moved = self.state.to(*args, **kwargs).replace(rows=self.state.rows)
        return MemoryCache(moved, rows=self.rows, columns=self.columns, model=self.model)

    def continued(self) -> MemoryCache:
        """The same memory at the start of a new conversation, whose tokens are counted from 0 again.

        `generate` takes the ids of a whole conversation and leaves out those that the cache has read. What is to be
        remembered from an earlier one is not among them.
        """
        return MemoryCache(self.state, rows=self.rows, columns=0, model=self.model)

    def save(self, path: str | Path, config: NestmemConfig) -> None:
        """Write the memory to a safetensors file. InputError for the config of another model than made it."""
        if fingerprint(config) != self.model:
            raise InputError(
                "the memory was made by a model of another config; give that of the model that made it"
            )
        save_state(path, self.state.detach(), rows=self.rows, columns=self.columns, model=self.model)

    @staticmethod
    def load(path: str | Path, config: NestmemConfig, *, device: str | torch.device = "cpu") -> MemoryCache:
        """Read what `save` wrote, at the start of a new conversation (`continued`).

        Raises InputError where the file is no memory, or that of a model of another shape.
        """
        found, header = load_state(path, device=device)
        if not isinstance(found, CacheState):
            raise InputError(f"{path} holds a {type(found).__name__}, not the memory of a language model")
        if header.get("model") != fingerprint(config):
            raise InputError(
                f"{path} is the memory of a model of another shape; load it into a model with the same config"
            )
        # Which rows there are is looked at by the program, and stays on the CPU.
        found = found.replace(rows=tuple(rows.cpu() for rows in found.rows))
        return MemoryCache(found, rows=int(header["rows"]), columns=0, model=fingerprint(config))


def fingerprint(config: NestmemConfig) -> str:
    """sha256 over what decides the shapes and the computation of a model; weights are not in it."""
    names = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "pattern",
        "feed_forward",
        "options",
        "prime",
        "post_norm",
        "format_version",
    )
    about = {name: getattr(config, name) for name in names}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def joined(parts: list[tuple[Tensor, ModelState]], *, rows: int, columns: int, model: str) -> MemoryCache:
    """A cache of groups; groups at the same token with states of the same shapes become one."""
    merged: list[tuple[Tensor, ModelState]] = []
    for places, each in parts:
        for i, (there, other) in enumerate(merged):
            if _alike(each, other):
                together = pytree.tree_map(lambda a, b: torch.cat([a, b]), other, each)
                merged[i] = torch.cat([there, places]), together
                break
        else:
            merged.append((places, each))
    state = CacheState(rows=tuple(r for r, _ in merged), states=tuple(s for _, s in merged))
    return MemoryCache(state, rows=rows, columns=columns, model=model)


def _alike(a: ModelState, b: ModelState) -> bool:
    if a.position != b.position or pytree.tree_structure(a) != pytree.tree_structure(b):
        return False
    pairs = zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True)
    return all(x.shape[1:] == y.shape[1:] for x, y in pairs)
