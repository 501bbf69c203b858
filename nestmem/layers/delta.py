"""DeltaNet and Gated DeltaNet: a matrix memory per head, written by the delta rule.

Legend of shapes: B batch, T tokens, D width, H heads, K width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestmem.core import MemoryState, State
from nestmem.core.checks import state_dtype
from nestmem.layers.base import GatedOutput, LayerState, Mixer, ShortConv, check_heads, split_heads
from nestmem.ops import delta


class DeltaNet(Mixer):
    """The delta rule with learned rates: S_t = (I - rate_t k_t^T k_t) S_{t-1} + rate_t k_t^T v_t, y_t = q_t S_t.

    arXiv 2406.06484, sections 2.2 and 3.3: a short convolution and SiLU on queries, keys and values, unit queries and
    keys, rate_t = sigmoid(x_t w) per head. Each head's outputs pass a norm and a gate before the projection.

    gated                 decay_t = exp(-exp(A) softplus(x_t w_a + b)) before each write: Gated DeltaNet, arXiv
                          2412.06464, eq. 10, with the decay's form and start of Mamba-2
    negative_eigenvalues  rates up to 2, so that a write can flip the sign along a key (arXiv 2411.12537)

    >>> y, state = DeltaNet(16, heads=2)(torch.randn(1, 5, 16))
    >>> y.shape, state.memory.weights["0"].shape
    (torch.Size([1, 5, 16]), torch.Size([1, 2, 8, 8]))
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        gated: bool = False,
        negative_eigenvalues: bool = False,
        conv: int = 4,
        chunk: int = 64,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads, self.chunk, self.gated = heads, chunk, gated
        self.negative_eigenvalues = negative_eigenvalues
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.conv = ShortConv(3 * width, conv)
        self.rate = nn.Linear(width, heads, bias=False)
        self.output = GatedOutput(width, heads)
        if gated:
            self.decay = nn.Linear(width, heads, bias=False)
            self.decay_log = nn.Parameter(torch.empty(heads))
            self.decay_bias = nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A uniform in 1..16 (its logarithm is learned), and a step from 1e-3 to 0.1, uniform in its logarithm."""
        if self.gated:
            with torch.no_grad():
                self.decay_log.uniform_(1.0, 16.0).log_()
                step = torch.empty_like(self.decay_bias).uniform_(math.log(1e-3), math.log(0.1)).exp_()
                # The inverse of softplus, so that the step is what softplus gives for x = 0.
                self.decay_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device | str) -> LayerState:
        """An empty memory."""
        size = self.output.project.in_features // self.heads
        kind = state_dtype(torch.empty(0, dtype=dtype))
        zeros = torch.zeros(batch, self.heads, size, size, dtype=kind, device=device)
        tail = torch.zeros(batch, self.conv.width, self.conv.size - 1, dtype=dtype, device=device)
        return LayerState(memory=MemoryState(weights={"0": zeros}), tail=tail)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, LayerState]:
        """[B, T, D] -> [B, T, D]."""
        past = self.past(x, state, LayerState)
        assert isinstance(past.memory, MemoryState)
        mixed, tail = self.conv(self.qkv(x), past.tail)
        q, k, v = (split_heads(each, self.heads) for each in mixed.chunk(3, -1))
        rate = torch.sigmoid(self.rate(x)).mT
        if self.negative_eigenvalues:
            rate = 2 * rate
        decay = None
        if self.gated:
            pace = F.softplus(self.decay(x).to(self.decay_bias.dtype) + self.decay_bias)
            decay = torch.exp(-self.decay_log.exp() * pace).mT.to(x.dtype)
        y, memory = delta.chunked(
            q,
            k,
            v,
            rate,
            decay,
            past.memory,
            normalize=True,
            negative_eigenvalues=self.negative_eigenvalues,
            chunk=self.chunk,
            check=False,
        )
        return self.output(y, x), LayerState(memory=memory, tail=tail)
