"""Titans: a neural memory beside, before or around attention. arXiv 2501.00663, sections 3 and 4.

    Titans      the memory alone (LMM)
    TitansMAC   memory as context: attention over a segment sees what the memory recalls for it
    TitansMAG   memory as gate: attention over a sliding window, gated by the memory
    TitansMAL   memory as layer: the memory, then attention over a sliding window of its outputs

Legend of shapes: B batch, T tokens, D width, H heads, K width of a head, C tokens of a segment, P persistent tokens.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestmem.core import MLP, Gates, MemoryState, Period, State, Weights, state, static, unit
from nestmem.core.checks import check_whole, state_dtype
from nestmem.errors import InputError
from nestmem.layers.attention import Attention, KeyValues, rotary, rotated
from nestmem.layers.base import (
    GatedOutput,
    LayerState,
    Mixer,
    ShortConv,
    check_heads,
    merge_heads,
    split_heads,
)
from nestmem.ops import deep


@state
class BesideState(State):
    """What the two branches of `TitansMAG` and `TitansMAL` carry."""

    memory: LayerState
    attention: KeyValues


@state
class SegmentState(State):
    """What `TitansMAC` carries: its memory, and the tokens of the current segment that later ones may look at.

    memory    of the `Titans` layer inside
    start     its weights before the current segment, name -> [B, H, ...]
    tail      [B, D, size - 1], of the convolution before recalling; None without one
    keys      [B, H, 2, C - 1, K], the recalled tokens' first and the segment's own second, newest last, zeros before
    values    the same
    position  tokens seen
    """

    memory: LayerState
    start: Weights
    keys: Tensor
    values: Tensor
    tail: Tensor | None = None
    position: int = static(default=0)


class Titans(Mixer):
    """The neural memory as a layer: an MLP per head, written with momentum and decay, read after every write.

        S_t = momentum_t S_{t-1} - rate_t grad ||M(k_t) - v_t||^2,   M_t = decay_t M_{t-1} + S_t,   y_t = M_t(q_t)

    arXiv 2501.00663, eq. 9-15 and section 4.4: a short convolution and SiLU on queries, keys and values, unit
    queries and keys, norm and gate before the output projection. Gradients are taken at the memory before each chunk
    (section 3.2). All three gates come from each token, one number per head:

        rate_t = rate_max sigmoid(x_t w + b),   decay_t = sigmoid(x_t w' + b'),   momentum_t = sigmoid(x_t w'' + b'')

    The paper gives neither these maps nor the sizes below. Its decay is 1 - ours.

    depth       matrices of the memory, 1 or more, with GELU between them
    norm        M(k) = k + LayerNorm(MLP(k)), as in TTT (arXiv 2407.04620) and Miras (arXiv 2504.13173), instead of
                k + MLP(k) (k W for one matrix). Without it a chunk whose keys are alike, such as a repeated token,
                makes the memory grow without bound where rate * chunk / (1 - momentum) is well above 1
    expansion   hidden width of the MLP, in widths of a head
    chunk       tokens whose gradients are taken at one state
    conv        tokens of the short convolution; 0: none (SiLU stays)
    persistent  learned tokens that the memory reads before a sequence (section 3.3)
    momentum    without it M_t = decay_t M_{t-1} - rate_t grad
    rate        what the gate gives before anything is learned
    rate_max    bound of the rate

    >>> y, state = Titans(16, heads=2, chunk=4)(torch.randn(1, 5, 16))
    >>> y.shape, state.memory.weights["0"].shape
    (torch.Size([1, 5, 16]), torch.Size([1, 2, 8, 16]))
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        depth: int = 2,
        expansion: int = 2,
        norm: bool = True,
        chunk: int = 64,
        conv: int = 4,
        persistent: int = 0,
        momentum: bool = True,
        rate: float = 0.1,
        rate_max: float = 1.0,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        for name, value in (("depth", depth), ("expansion", expansion)):
            check_whole(name, value)
        check_whole("chunk", chunk, unit=" of tokens")
        for name, value in (("conv", conv), ("persistent", persistent)):
            check_whole(name, value, least=0, unit=" of tokens")
        if not 0 < rate < rate_max < float("inf"):
            raise InputError(f"0 < rate < rate_max; got rate={rate}, rate_max={rate_max}")
        size = width // heads
        self.heads, self.chunk, self.momentum = heads, chunk, momentum
        self.rate, self.rate_max = rate, rate_max
        sizes = (size, *[expansion * size] * (depth - 1), size)
        self.model = MLP(sizes=sizes, residual=norm or depth > 1, norm=norm)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.conv = ShortConv(3 * width, conv) if conv else None
        self.gates = nn.Linear(width, (3 if momentum else 2) * heads, bias=False)
        self.gate_bias = nn.Parameter(torch.empty(3 if momentum else 2, heads))
        self.initial = nn.ParameterList(torch.empty(heads, *shape) for shape in self.model.shapes.values())
        self.norm_weight = nn.Parameter(torch.empty(heads, size)) if norm else None
        self.norm_bias = nn.Parameter(torch.empty(heads, size)) if norm else None
        self.persistent = nn.Parameter(torch.empty(persistent, width)) if persistent else None
        self.output = GatedOutput(width, heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Matrices of standard deviation I^(-1/2), one alone without norm at zero; what a norm lets through as long as
        a key; gates that start at `rate`, decay 0.99 and momentum 0.5.
        """
        for w in self.initial:
            nn.init.normal_(w, std=w.shape[-2] ** -0.5 if self.model.norm or self.model.depth > 1 else 0.0)
        starts = (self.rate / self.rate_max, 0.99, 0.5)
        for bias, p in zip(self.gate_bias, starts, strict=False):
            nn.init.constant_(bias, math.log(p / (1 - p)))
        if self.norm_weight is not None and self.norm_bias is not None:
            nn.init.constant_(self.norm_weight, self.model.sizes[-1] ** -0.5)
            nn.init.zeros_(self.norm_bias)
        if self.persistent is not None:
            nn.init.normal_(self.persistent)

    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device | str) -> LayerState:
        """The learned initial memory, after it has read the persistent tokens."""
        return self.begin(batch, dtype=dtype, device=device)[1]

    def begin(
        self, batch: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> tuple[Tensor | None, LayerState]:
        """Outputs [B, P, D] for the persistent tokens (None without any), and the state after them."""
        kind = state_dtype(torch.empty(0, dtype=dtype))
        weights = {name: w.to(kind) for name, w in zip(self.model.shapes, self.initial, strict=True)}
        memory = deep.init(self._model(kind), batch, weights=weights, momentum=self.momentum)
        tail = None
        if self.conv is not None:
            tail = torch.zeros(batch, self.conv.width, self.conv.size - 1, dtype=dtype, device=device)
        fresh = LayerState(memory=memory, tail=tail)
        if self.persistent is None:
            return None, fresh
        return self._read_and_write(self.persistent.to(dtype).expand(batch, -1, -1), fresh)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, LayerState]:
        """[B, T, D] -> [B, T, D]."""
        past = self.past(x, state, LayerState)
        return self._read_and_write(x, past)

    def _read_and_write(self, x: Tensor, past: LayerState) -> tuple[Tensor, LayerState]:
        assert isinstance(past.memory, MemoryState)
        kind = state_dtype(x)
        mixed, tail = self.qkv(x), None
        mixed, tail = (F.silu(mixed), None) if self.conv is None else self.conv(mixed, past.tail)
        q, k, v = (split_heads(each.to(kind), self.heads) for each in mixed.chunk(3, -1))
        logits = self.gates(x).to(kind).unflatten(-1, (-1, self.heads)) + self.gate_bias.to(kind)
        rate, decay, *momentum = torch.sigmoid(logits).permute(2, 0, 3, 1).unbind(0)
        gates = Gates(rate=self.rate_max * rate, decay=decay)
        if momentum:
            gates = gates.replace(momentum=momentum[0])
        y, memory = deep.chunked(
            unit(q), unit(k), v, gates, past.memory, model=self._model(kind), chunk=self.chunk, check=False
        )
        return self.output(y.to(x.dtype), x), LayerState(memory=memory, tail=tail)

    def recall(self, weights: Weights, queries: Tensor) -> Tensor:
        """M(q) at these weights, without a write: [B, H, T, K] -> [B, H, T, K], of the weights' dtype."""
        return self._model(queries.dtype)(weights, queries)

    def _model(self, kind: torch.dtype) -> MLP:
        """The memory with its learned norm, in the dtype of its state."""
        if self.norm_weight is None or self.norm_bias is None:
            return self.model
        return dataclasses.replace(
            self.model, norm_weight=self.norm_weight.to(kind), norm_bias=self.norm_bias.to(kind)
        )


class TitansMAC(Mixer):
    """Memory as context, without its leak of the future. arXiv 2501.00663, section 4.1, eq. 21-25.

    A sequence is read in segments of C tokens. With M the memory before the segment, for token j of it:

        h_j = M(q_j)                                    what the memory recalls for the token; q from x
        y_j = Attn(x_j; [p_1 .. p_P | h_1 .. h_j | x_1 .. x_j])
        M_j = M_{j-1} written with y_j                  `Titans` reads and writes y
        o_j = y_j * sigmoid(norm(M_j(y_j)))             y_j normed as well (section 4.2's gate)

    The paper prints the segment as one: h_t = M_{t-1}(S_t), y_t = Attn([P | h_t | S_t]), M_t = M_{t-1}(y_t) and
    o_t = y_t * M_t(y_t). Taken literally it leaks twice. The prefix h_t stands before all of S_t, so that causal
    attention shows token j also h_i of tokens i > j of its segment; here the mask hides those. And M_t has been
    written with the segment's last token when its first is read; here each token reads the memory as its own write
    left it. With segments of one token the two are one.

    The positions of attention are counted within the segment, and h_j stands where x_j does. Persistent tokens have
    none. The recall's query has a projection of its own, since x is recalled for and y is read.

    segment      C, tokens
    persistent   P, learned tokens that attention always sees
    chunk        of the memory; None: the segment
    theta        base of the rotary frequencies
    the others   of `Titans`

    >>> y, state = TitansMAC(16, heads=2, segment=4)(torch.randn(1, 6, 16))
    >>> y.shape, state.keys.shape
    (torch.Size([1, 6, 16]), torch.Size([1, 2, 2, 3, 8]))
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        segment: int = 64,
        persistent: int = 4,
        depth: int = 2,
        expansion: int = 2,
        norm: bool = True,
        chunk: int | None = None,
        conv: int = 4,
        momentum: bool = True,
        rate: float = 0.1,
        rate_max: float = 1.0,
        theta: float = 10_000.0,
    ) -> None:
        super().__init__()
        check_heads(width, heads, rotary=True)
        check_whole("segment", segment, unit=" of tokens")
        check_whole("persistent", persistent, least=0, unit=" of tokens")
        self.heads, self.segment, self.theta = heads, segment, theta
        self.memory = Titans(
            width,
            heads,
            depth=depth,
            expansion=expansion,
            norm=norm,
            chunk=segment if chunk is None else chunk,
            conv=conv,
            momentum=momentum,
            rate=rate,
            rate_max=rate_max,
        )
        self.ask = nn.Linear(width, width, bias=False)
        self.ask_conv = ShortConv(width, conv) if conv else None
        self.recalled_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.persistent = nn.Parameter(torch.empty(persistent, width)) if persistent else None
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.memory_norm = nn.RMSNorm(width, eps=1e-6)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Persistent tokens of standard deviation 1, that of normed tokens."""
        if self.persistent is not None:
            nn.init.normal_(self.persistent)

    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device | str) -> SegmentState:
        """The learned initial memory and an empty segment."""
        memory = self.memory.init_state(batch, dtype=dtype, device=device)
        assert isinstance(memory.memory, MemoryState)
        size = self.project.in_features // self.heads
        empty = torch.zeros(batch, self.heads, 2, self.segment - 1, size, dtype=dtype, device=device)
        conv, tail = self.ask_conv, None
        if conv is not None:
            tail = torch.zeros(batch, conv.width, conv.size - 1, dtype=dtype, device=device)
        return SegmentState(
            memory=memory, start=memory.memory.weights, keys=empty, values=empty, tail=tail, position=0
        )

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, SegmentState]:
        """[B, T, D] -> [B, T, D]."""
        past = self.past(x, state, SegmentState)
        asked, tail = self.ask(x), None
        asked, tail = (F.silu(asked), None) if self.ask_conv is None else self.ask_conv(asked, past.tail)
        kind = state_dtype(x)
        asked = unit(split_heads(asked.to(kind), self.heads))
        turns = rotary(0, self.segment, asked.shape[-1], self.theta, x)
        place = (past.position + torch.arange(x.shape[1], device=x.device)) % self.segment
        q = rotated(split_heads(self.query(x), self.heads), *(each[place] for each in turns))
        k, v = self._keys_values(x)
        always = None
        if self.persistent is not None:
            made = self._keys_values(self.persistent.to(x.dtype)[None])
            always = tuple(each.expand(x.shape[0], *each.shape[1:]) for each in made)

        memory, start = past.memory, past.start
        seen = past.position % self.segment
        first = self.segment - 1 - seen
        keys, values = past.keys[..., first:, :].to(x.dtype), past.values[..., first:, :].to(x.dtype)
        outputs = []
        for begin, end in Period(chunk=self.segment).pieces(past.position, x.shape[1]):
            if (past.position + begin) % self.segment == 0:
                assert isinstance(memory.memory, MemoryState)
                start = memory.memory.weights
                keys, values, seen = keys[..., :0, :], values[..., :0, :], 0
            # h: [B, H, n, K] as tokens [B, n, D]
            recalled = self.memory.recall(start, asked[:, :, begin:end]).to(x.dtype)
            h_k, h_v = self._keys_values(merge_heads(self.recalled_norm(recalled)))
            both_k = torch.stack([h_k, k[:, :, begin:end]], 2)
            here = tuple(each[seen : seen + end - begin] for each in turns)
            keys = torch.cat([keys, rotated(both_k, *here)], 3)
            values = torch.cat([values, torch.stack([h_v, v[:, :, begin:end]], 2)], 3)
            y = self._attend(q[:, :, begin:end], keys, values, always)
            y = self.attention_norm(self.project(merge_heads(y)))
            read, memory = self.memory(y, memory)
            outputs.append(y * torch.sigmoid(self.memory_norm(read)))
            seen += end - begin
        if seen == self.segment:
            keys, values, seen = keys[..., :0, :], values[..., :0, :], 0
        room = (0, 0, self.segment - 1 - seen, 0)
        after = SegmentState(
            memory=memory,
            start=start,
            keys=F.pad(keys, room),
            values=F.pad(values, room),
            tail=tail,
            position=past.position + x.shape[1],
        )
        return torch.cat(outputs, 1), after

    def _keys_values(self, x: Tensor) -> list[Tensor]:
        """Keys, not yet rotated, and values: [B, n, D] -> twice [B, H, n, K]."""
        return [split_heads(each, self.heads) for each in self.key_value(x).chunk(2, -1)]

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, always: tuple[Tensor, ...] | None) -> Tensor:
        """The last n tokens q [B, H, n, K] over [P | h | x], keys and values [B, H, 2, m, K], each up to its place."""
        tokens, places = q.shape[2], keys.shape[3]
        # Row j is the token at place m - n + j, which sees h and x up to there.
        mask = torch.ones(tokens, places, dtype=torch.bool, device=q.device).tril(places - tokens)
        mask = torch.cat([mask, mask], 1)
        k, v = keys.flatten(2, 3), values.flatten(2, 3)
        if always is not None:
            k, v = (torch.cat([a, each], 2) for a, each in zip(always, (k, v), strict=True))
            mask = F.pad(mask, (always[0].shape[2], 0), value=True)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class _BesideWindow(Mixer):
    """A neural memory and attention over a window, with the options of both."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        window: int = 64,
        persistent: int = 4,
        depth: int = 2,
        expansion: int = 2,
        norm: bool = True,
        chunk: int = 64,
        conv: int = 4,
        momentum: bool = True,
        rate: float = 0.1,
        rate_max: float = 1.0,
        theta: float = 10_000.0,
    ) -> None:
        super().__init__()
        check_whole("window", window, unit=" of tokens")
        self.attention = Attention(width, heads, window=window, theta=theta)
        self.memory = Titans(
            width,
            heads,
            depth=depth,
            expansion=expansion,
            norm=norm,
            chunk=chunk,
            conv=conv,
            persistent=persistent,
            momentum=momentum,
            rate=rate,
            rate_max=rate_max,
        )
        self._norms(width)

    @abstractmethod
    def _norms(self, width: int) -> None:
        """Make the norms that stand where the two meet."""

    def reset_parameters(self) -> None:
        """Nothing: the layers draw their own."""


class TitansMAG(_BesideWindow):
    """Memory as gate, arXiv 2501.00663, section 4.2, eq. 26-28: o = norm(y) * sigmoid(norm(M(x))).

    y is attention over a sliding window, M(x) the neural memory of the same tokens. The persistent tokens are in view
    of attention at every place, and are what the memory reads first. Both branches are normed with learned vectors;
    of the paper's non-linearity we put the sigmoid on the memory's.

    window      tokens that attention looks at, itself included
    persistent  learned tokens
    theta       base of the rotary frequencies
    the others  of `Titans`

    >>> y, state = TitansMAG(16, heads=2, window=4, chunk=4)(torch.randn(1, 6, 16))
    >>> y.shape, state.attention.keys.shape
    (torch.Size([1, 6, 16]), torch.Size([1, 2, 3, 8]))
    """

    def _norms(self, width: int) -> None:
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.memory_norm = nn.RMSNorm(width, eps=1e-6)

    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device | str) -> BesideState:
        """The memory after the persistent tokens, and an empty window."""
        return BesideState(
            memory=self.memory.init_state(batch, dtype=dtype, device=device),
            attention=self.attention.init_state(batch, dtype=dtype, device=device),
        )

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, BesideState]:
        """[B, T, D] -> [B, T, D]."""
        past = self.past(x, state, BesideState)
        y, attention = self.attention(x, past.attention, prefix=self.memory.persistent)
        read, memory = self.memory(x, past.memory)
        out = self.attention_norm(y) * torch.sigmoid(self.memory_norm(read))
        return out, BesideState(memory=memory, attention=attention)


class TitansMAL(_BesideWindow):
    """Memory as layer, arXiv 2501.00663, section 4.3, eq. 29-31: the memory, then attention over a window of its outputs.

        y = M(x),   o = y + Attn(norm(x + y))

    The residuals and the norm are those which the paper leaves out of its equations for simplicity (section 4.4). The
    persistent tokens are the first of the sequence for both layers, as the paper has it, so that attention sees them
    only as long as they are in its window; after that they live in the memory alone.

    window      tokens that attention looks at, itself included
    persistent  learned tokens
    theta       base of the rotary frequencies
    the others  of `Titans`

    >>> y, state = TitansMAL(16, heads=2, window=4, chunk=4)(torch.randn(1, 6, 16))
    >>> y.shape, state.attention.keys.shape
    (torch.Size([1, 6, 16]), torch.Size([1, 2, 3, 8]))
    """

    def _norms(self, width: int) -> None:
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device | str) -> BesideState:
        """Both layers after the persistent tokens."""
        read, memory = self.memory.begin(batch, dtype=dtype, device=device)
        attention = self.attention.init_state(batch, dtype=dtype, device=device)
        if read is not None:
            assert self.memory.persistent is not None
            _, attention = self.attention(self.norm(self.memory.persistent.to(dtype) + read), attention)
        return BesideState(memory=memory, attention=attention)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, BesideState]:
        """[B, T, D] -> [B, T, D]."""
        past = self.past(x, state, BesideState)
        read, memory = self.memory(x, past.memory)
        y, attention = self.attention(self.norm(x + read), past.attention)
        return read + y, BesideState(memory=memory, attention=attention)
