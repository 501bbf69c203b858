"""Self-modifying Titans: memories that make their own keys, values, rates, decays and targets (Hope's first half).

Legend of shapes: B batch, T tokens, D width, H heads, K width of a head.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nestmem.core import L2, Dot, MemoryState, State, unit
from nestmem.core.activations import FUNCTIONS
from nestmem.core.checks import check_whole, state_dtype
from nestmem.errors import InputError
from nestmem.layers.base import GatedOutput, LayerState, Mixer, ShortConv, check_heads, split_heads
from nestmem.ops import selfmod

# "l2" leaves the square's factor 2 to the rate, as eq. 93 does: then decay - 2 rate, what a linear memory keeps along a
# key that it is written under, lies in [-decay, decay] for every rate up to its decay, and cannot grow.
OBJECTIVES = {"l2": L2(0.5), "square": L2(1.0), "dot": Dot()}


class SelfModifying(Mixer):
    """Five memories per head, all read to make a token's write and all written by it (`nestmem.ops.selfmod`).

        k_t = unit(M_keys(x_t)),  v_t = unit(M_values(x_t)),  rate_t and decay_t from M_rate(x_t) and M_decay(x_t)
        every memory M: W_t = (decay_t I - rate_t n_t^T n_t) W_{t-1} - rate_t grad objective(M(k_t), M(v_t))
        y_t = M_memory(unit(x_t W_q))

    Nested Learning, arXiv 2512.24695, eq. 86-90, with what section 8.3 adds: a short convolution over 4 tokens before,
    unit queries and keys; and the norm and gate of Titans before the output projection. Only the query's projection
    is fixed within a sequence. The initial weights of all memories, and the read-outs that turn two of them into
    rates and decays, are parameters of this layer and get outer gradients through every write.

    The paper is silent on these; our choices:

    * Heads are slices of the convolved x, each with memories of its own. No projection stands before the memories,
      since eq. 86 has none.
    * Each slice is made a unit vector. The second layers' gradients grow with the square of x, and a chunk's steps,
      all taken at one state, would overshoot.
    * rate_t and decay_t are one number per head: `nestmem.ops.selfmod.Readout`, which has rate <= rate_max decay.
    * Values are unit vectors as keys are (unit_values), and a start W_0 [I, O] that training has made longer than
      sqrt(O), which it is drawn with, is shortened to that (Frobenius norm). Memories chase targets that they make
      themselves: longer values let them feed on their own growth, and so do large starts. Without the two, starts a
      tenth larger end in nan within a few hundred equal tokens; with them no rate did, of those up to 0.9 tried.
    * Linear memories start near the identity, but for the values, which start as a random projection: with values
      like keys a memory's target is what it says already, it only fades, and parity takes several times the steps.
    * The decay starts near 1, since a memory that has faded to zero is the identity, whose error is zero: it stays.

    chunk         tokens after which the memory that is read is refreshed. With read="chunk", writes are seen from the
                  next chunk on, so sequences of up to `chunk` tokens learn nothing about writing
    chunk_aux     tokens after which the other four are; one is a multiple of the other. None: chunk
    objective     "l2": 1/2 ||M(k) - M(v)||^2 (the paper's eq. 88, with the gradient of eq. 93); "square": the same
                  without the half; "dot": eq. 92
    read          "chunk": the memory before the chunk (eq. 90); "token": after the token's own write
    depth         2: x + act(x W_0) W_1 (eq. 89); 1: x W_0
    hidden        width between the two layers; None: that of a head
    adaptive_q    a sixth memory makes the queries from x, and there is no fixed projection (the paper's ablation)
    conv          tokens of the short convolution; 0: none
    rate, decay   what the read-outs give before anything is learned; rate_max is the largest share rate / decay
    detach_target no outer gradient through the targets M(v_t), and so none for M_values

    Chunk 1 is the setting for tracking a state (parity), where a transition may have negative eigenvalues. With "l2" what
    is kept along a key reaches -decay only as the rate reaches its bound, so that other directions, kept by decay, win
    in the end; with "square" it is decay - 3 rate, and -decay lies inside the range.

    >>> y, state = SelfModifying(16, heads=2, chunk=4)(torch.randn(1, 5, 16))
    >>> y.shape, sorted(state.memory.weights)[:2], state.memory.weights["keys.0"].shape
    (torch.Size([1, 5, 16]), ['decay.0', 'decay.1'], torch.Size([1, 2, 8, 8]))
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        chunk: int = 64,
        chunk_aux: int | None = None,
        objective: Literal["l2", "square", "dot"] = "l2",
        read: Literal["chunk", "token"] = "chunk",
        depth: int = 2,
        hidden: int | None = None,
        activation: str = "gelu",
        adaptive_q: bool = False,
        conv: int = 4,
        rate: float = 0.1,
        decay: float = 0.999,
        rate_max: float = 1.0,
        unit_values: bool = True,
        detach_target: bool = False,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        aux = chunk if chunk_aux is None else chunk_aux
        check_whole("chunk", chunk, unit=" of tokens")
        check_whole("chunk_aux", aux, unit=" of tokens")
        if chunk % aux and aux % chunk:
            raise InputError(f"one chunk is a multiple of the other; got chunk={chunk}, chunk_aux={aux}")
        if objective not in OBJECTIVES:
            raise InputError(f"objective is one of {sorted(OBJECTIVES)}; got {objective!r}")
        if read not in ("chunk", "token"):
            raise InputError(f'read is "chunk" or "token"; got {read!r}')
        if depth not in (1, 2):
            raise InputError(f"depth is 1 (linear memories) or 2 (residual MLPs); got {depth}")
        if depth == 1 and hidden is not None:
            raise InputError(f"memories of depth 1 have no hidden layer; leave out hidden={hidden}")
        if hidden is not None:
            check_whole("hidden", hidden)
        if activation not in FUNCTIONS:
            raise InputError(f"activation is one of {sorted(FUNCTIONS)}; got {activation!r}")
        check_whole("conv", conv, least=0, unit=" of tokens")
        self.heads, self.chunk, self.chunk_aux, self.objective = heads, chunk, aux, objective
        self.read: Literal["chunk", "token"] = read
        self.depth, self.hidden, self.activation, self.adaptive_q = depth, hidden, activation, adaptive_q
        self.start, self.rate_max = (rate, decay), rate_max
        self.unit_values, self.detach_target = unit_values, detach_target
        self.conv = ShortConv(width, conv) if conv else None
        self.query = None if adaptive_q else nn.Linear(width, width, bias=False)
        self.output = GatedOutput(width, heads)
        self.initial = nn.ParameterDict()
        for name, w in self._drawn().items():
            # A parameter's name has no dots.
            self.initial[name.replace(".", "_")] = nn.Parameter(torch.empty(w.shape))
        size = width // heads
        self.rate_weight = nn.Parameter(torch.empty(heads, size))
        self.rate_bias = nn.Parameter(torch.empty(heads))
        self.decay_weight = nn.Parameter(torch.empty(heads, size))
        self.decay_bias = nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    def _drawn(self) -> dict[str, Tensor]:
        """Fresh initial weights, name -> [H, ...]."""
        state = selfmod.init(
            1,
            self.heads,
            dim=self.output.project.in_features // self.heads,
            hidden=self.hidden,
            depth=self.depth,
            adaptive_q=self.adaptive_q,
        )
        weights = {name: w[0] for name, w in state.weights.items()}
        if self.depth == 1:
            size = weights["values.0"].shape[-1]
            weights["values.0"] = torch.randn_like(weights["values.0"]) * size**-0.5
        return weights

    def reset_parameters(self) -> None:
        """Memories and read-outs as `nestmem.ops.selfmod` draws them."""
        size = self.output.project.in_features // self.heads
        rate, decay = self.start
        readout = selfmod.Readout.init(self.heads, size, rate=rate, decay=decay, rate_max=self.rate_max)
        with torch.no_grad():
            for name, w in self._drawn().items():
                self.initial[name.replace(".", "_")].copy_(w)
            for name in ("rate_weight", "rate_bias", "decay_weight", "decay_bias"):
                getattr(self, name).copy_(getattr(readout, name))

    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device | str) -> LayerState:
        """The learned initial memories."""
        kind = state_dtype(torch.empty(0, dtype=dtype))
        weights = {name.replace("_", "."): _bounded(w.to(kind)) for name, w in self.initial.items()}
        memory = selfmod.init(batch, weights=weights)
        if self.conv is None:
            return LayerState(memory=memory)
        tail = torch.zeros(batch, self.conv.width, self.conv.size - 1, dtype=dtype, device=device)
        return LayerState(memory=memory, tail=tail)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, LayerState]:
        """[B, T, D] -> [B, T, D]."""
        past = self.past(x, state, LayerState)
        assert isinstance(past.memory, MemoryState)
        kind = state_dtype(x)
        mixed, tail = (x, None) if self.conv is None else self.conv(x, past.tail)
        seen = unit(split_heads(mixed.to(kind), self.heads))
        queries = seen
        if self.query is not None:
            queries = unit(split_heads(self.query(mixed).to(kind), self.heads))
        readout = selfmod.Readout(
            rate_weight=self.rate_weight.to(kind),
            rate_bias=self.rate_bias.to(kind),
            decay_weight=self.decay_weight.to(kind),
            decay_bias=self.decay_bias.to(kind),
            rate_max=self.rate_max,
        )
        y, memory = selfmod.chunked(
            queries,
            seen,
            readout,
            past.memory,
            chunk=self.chunk,
            chunk_aux=self.chunk_aux,
            objective=OBJECTIVES[self.objective],
            activation=self.activation,
            read=self.read,
            detach_target=self.detach_target,
            unit_values=self.unit_values,
            check=False,
        )
        return self.output(y.to(x.dtype), x), LayerState(memory=memory, tail=tail)


def _bounded(start: Tensor) -> Tensor:
    """W_0 [H, I, O], shortened to the Frobenius norm sqrt(O), that of entries of variance 1 / I, where it is longer."""
    squared = start.square().sum((-2, -1), keepdim=True)
    return start * (start.shape[-1] / squared.clamp_min(start.shape[-1])).sqrt()
