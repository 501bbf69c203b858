"""TTT-Linear and TTT-MLP: a memory that learns to reconstruct while it reads, 16 tokens at a time.

Legend of shapes: B batch, T tokens, D width, H heads, K width of a head, C tokens of a chunk.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestmem.core import L2, MLP, Gates, MemoryState, State
from nestmem.core.checks import check_whole, state_dtype
from nestmem.errors import InputError
from nestmem.layers.attention import rotary, rotated
from nestmem.layers.base import LayerState, Mixer, ShortConv, check_heads, merge_heads, split_heads
from nestmem.ops import deep

# eta_base of arXiv 2407.04620, section 2.7.
BASE_RATE = {"linear": 1.0, "mlp": 0.1}


class TTT(Mixer):
    """Test-time training layers, arXiv 2407.04620, sections 2.3-2.7, as in the authors' code.

        f(x; W) = x + LayerNorm(x W_1 + b_1)                            memory="linear"
        f(x; W) = x + LayerNorm(gelu(x W_1 + b_1) W_2 + b_2)            memory="mlp"
        W_t = W_0 - scale_i sum_{j<=t} rate_j grad 1/2 ||f(k_j; W_0) - v_j||^2,   y_t = f(q_t; W_t)

    with W_0 the weights before the chunk, the sum over the chunk's tokens, i the token's place in it (from 1),
    scale_i = max(1/i + a_i, 0) with a learned from 0, and rate_j = eta_base sigmoid(x_j w + b) / K per head. What is
    learned outside: W, b at the start of a sequence, the layer norm of each head, w, b, a and the projections. Queries
    and keys have rotary positions, counted within the chunk; the outputs of all heads pass one LayerNorm and the
    output projection. The residual makes the target of the network itself v - k, as the paper prints it.

    chunk      tokens whose gradients are taken at one state (the paper's inner mini-batch)
    rate       eta_base; None: 1 for linear, 0.1 for mlp, which are the paper's
    expansion  hidden width of the mlp memory, in widths of a head
    conv       tokens of a short convolution and SiLU on queries, keys and values; 0: none, as in the paper's
               Transformer backbone. (Its Mamba backbone shares the projection of q and k, and convolves each
               without SiLU.)
    gate       multiply by gelu(x W_g) before the output projection (the Mamba backbone)
    theta      base of the rotary frequencies, which turn the halves of a head (the authors' code turns neighbours:
               the same up to the order of the columns of the projections)

    a_i learns from sequences of i tokens or more.

    >>> y, state = TTT(16, heads=2, chunk=4)(torch.randn(1, 5, 16))
    >>> y.shape, state.memory.weights["0"].shape
    (torch.Size([1, 5, 16]), torch.Size([1, 2, 8, 8]))
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        memory: Literal["linear", "mlp"] = "linear",
        chunk: int = 16,
        rate: float | None = None,
        expansion: int = 4,
        conv: int = 0,
        gate: bool = False,
        theta: float = 10_000.0,
    ) -> None:
        super().__init__()
        check_heads(width, heads, rotary=True)
        if memory not in BASE_RATE:
            raise InputError(f"memory is one of {sorted(BASE_RATE)}; got {memory!r}")
        check_whole("chunk", chunk, unit=" of tokens")
        check_whole("expansion", expansion)
        check_whole("conv", conv, least=0, unit=" of tokens")
        self.rate = BASE_RATE[memory] if rate is None else rate
        if not 0 < self.rate < float("inf"):
            raise InputError(f"rate is a positive number; got {rate}")
        size = width // heads
        self.heads, self.chunk, self.theta = heads, chunk, theta
        self.sizes = (size, size) if memory == "linear" else (size, expansion * size, size)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.conv = ShortConv(3 * width, conv) if conv else None
        self.gate = nn.Linear(width, width, bias=False) if gate else None
        self.post_norm = nn.LayerNorm(width, eps=1e-6)
        self.output = nn.Linear(width, width, bias=False)
        pairs = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        self.weights = nn.ParameterList(torch.empty(heads, i, o) for i, o in pairs)
        self.biases = nn.ParameterList(torch.empty(heads, o) for _, o in pairs)
        self.norm_weight = nn.Parameter(torch.empty(heads, size))
        self.norm_bias = nn.Parameter(torch.empty(heads, size))
        self.rate_weight = nn.Parameter(torch.empty(heads, width))
        self.rate_bias = nn.Parameter(torch.empty(heads))
        self.place = nn.Parameter(torch.empty(chunk))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Memory and rate weights normal of standard deviation 0.02, norms at one, everything else zero."""
        for each in (*self.weights, self.rate_weight):
            nn.init.normal_(each, std=0.02)
        for each in (*self.biases, self.norm_bias, self.rate_bias, self.place):
            nn.init.zeros_(each)
        nn.init.ones_(self.norm_weight)

    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device | str) -> LayerState:
        """The learned initial weights."""
        kind = state_dtype(torch.empty(0, dtype=dtype))
        weights = {str(n): w.to(kind) for n, w in enumerate(self.weights)}
        weights |= {f"{n}.bias": b.to(kind) for n, b in enumerate(self.biases)}
        memory = deep.init(self._model(kind), batch, weights=weights, averaged=True)
        if self.conv is None:
            return LayerState(memory=memory)
        tail = torch.zeros(batch, self.conv.width, self.conv.size - 1, dtype=dtype, device=device)
        return LayerState(memory=memory, tail=tail)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, LayerState]:
        """[B, T, D] -> [B, T, D]."""
        past = self.past(x, state, LayerState)
        assert isinstance(past.memory, MemoryState)
        mixed, tail = self.qkv(x), None
        if self.conv is not None:
            mixed, tail = self.conv(mixed, past.tail)
        kind = state_dtype(x)
        q, k, v = (split_heads(each.to(kind), self.heads) for each in mixed.chunk(3, -1))

        place = (past.memory.position + torch.arange(x.shape[1], device=x.device)) % self.chunk
        cos, sin = rotary(0, self.chunk, q.shape[-1], self.theta, q)
        q, k = (rotated(each, cos[place], sin[place]) for each in (q, k))
        logit = x.to(kind) @ self.rate_weight.to(kind).mT + self.rate_bias.to(kind)
        rate = (self.rate / q.shape[-1]) * torch.sigmoid(logit).mT
        count = torch.arange(1, self.chunk + 1, dtype=kind, device=x.device)
        scale = (1 / count + self.place.to(kind)).clamp_min(0)[place]
        y, memory = deep.chunked(
            q,
            k,
            v,
            Gates(rate=rate),
            past.memory,
            model=self._model(kind),
            # The authors' gradient leaves out the factor 2 of the square.
            objective=L2(0.5),
            chunk=self.chunk,
            scale=scale.expand(rate.shape),
            check=False,
        )
        y = self.post_norm(merge_heads(y).to(x.dtype))
        if self.gate is not None:
            y = F.gelu(self.gate(x), approximate="tanh") * y
        return self.output(y), LayerState(memory=memory, tail=tail)

    def _model(self, kind: torch.dtype) -> MLP:
        return MLP(
            sizes=self.sizes,
            activation="gelu_tanh",
            residual=True,
            norm=True,
            bias=True,
            norm_weight=self.norm_weight.to(kind),
            norm_bias=self.norm_bias.to(kind),
        )
