"""RetNet's retention: a matrix memory per head that adds, and forgets at a fixed pace."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nestmem.core import MemoryState, State
from nestmem.core.checks import state_dtype
from nestmem.layers.attention import rotary, rotated
from nestmem.layers.base import GatedOutput, LayerState, Mixer, check_heads, split_heads
from nestmem.ops import linear


class Retention(Mixer):
    """S_t = decay_h S_{t-1} + k_t^T v_t, y_t = q_t S_t / sqrt(K), decay_h = 1 - 2^(-5 - h).

    RetNet, arXiv 2307.08621, eq. 5-8: rotary positions on queries and keys (the paper's complex exponents), a norm of
    each head, a SiLU gate and the projection.

    >>> y, state = Retention(16, heads=2)(torch.randn(1, 5, 16))
    >>> state.memory.weights["0"].shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(self, width: int, heads: int, *, chunk: int = 64, theta: float = 10_000.0) -> None:
        super().__init__()
        check_heads(width, heads, rotary=True)
        self.heads, self.chunk, self.theta = heads, chunk, theta
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = GatedOutput(width, heads)

    def reset_parameters(self) -> None:
        """Nothing: projections draw their own."""

    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device | str) -> LayerState:
        """An empty memory."""
        size = self.output.project.in_features // self.heads
        kind = state_dtype(torch.empty(0, dtype=dtype))
        zeros = torch.zeros(batch, self.heads, size, size, dtype=kind, device=device)
        return LayerState(memory=MemoryState(weights={"0": zeros}))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, LayerState]:
        """[B, T, D] -> [B, T, D]."""
        past = self.past(x, state, LayerState)
        assert isinstance(past.memory, MemoryState)
        q, k, v = (split_heads(each, self.heads) for each in self.qkv(x).chunk(3, -1))
        cos, sin = rotary(past.memory.position, x.shape[1], q.shape[-1], self.theta, q)
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        decay = linear.retention_decay(self.heads, dtype=state_dtype(x), device=x.device)
        y, memory = linear.chunked(
            q, k, v, decay, past.memory, scale=q.shape[-1] ** -0.5, chunk=self.chunk, check=False
        )
        return self.output(y, x), LayerState(memory=memory)
