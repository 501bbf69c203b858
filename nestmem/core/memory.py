"""An associative memory: model + objective + optimizer + period, and its definition as a loop over tokens.

Legend of shapes: B batch, H heads, T tokens, K key width, V value width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestmem.core.checks import check_gates, check_state, check_tokens
from nestmem.core.model import Model, Weights
from nestmem.core.objective import L2, Objective
from nestmem.core.optimizer import Gates, GradientDescent, InnerOptimizer, Slots
from nestmem.core.period import Period
from nestmem.core.state import State, state, static
from nestmem.errors import InputError


@state
class MemoryState(State):
    """All that a memory carries from one token to the next.

    weights   name -> [B, H, ...]   W_t
    slots     the inner optimizer's own state, such as {"momentum": ...}
    anchor    name -> [B, H, ...]   the weights before the current chunk
    recent    keys and values [B, H, window - 1, ...] of the last tokens, for the Omega rule
    initial   name -> [B, H, ...]   where a reset returns to; None without resets
    position  tokens seen
    """

    weights: Weights
    slots: Slots = field(default_factory=dict)
    anchor: Weights | None = None
    recent: tuple[Tensor, Tensor] | None = None
    initial: Weights | None = None
    position: int = static(default=0)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A memory that minimises its objective while it reads a sequence (Nested Learning, arXiv 2512.24695, section 3).

    The law: `scan` over a sequence = `scan` over any pieces of it in turn, in outputs and in the final state.

    >>> from nestmem.core import Linear
    >>> memory = Memory(model=Linear(4, 4), objective=L2(0.5))  # the delta rule
    >>> k, v = torch.eye(4)[None, None], torch.randn(1, 1, 4, 4)
    >>> _, state = memory.scan(memory.init(batch=1), k, k, v)
    >>> torch.allclose(memory.read(state, k), v)
    True
    """

    model: Model
    objective: Objective = field(default_factory=L2)
    optimizer: InnerOptimizer = field(default_factory=GradientDescent)
    period: Period = field(default_factory=Period)

    def init(
        self,
        batch: int,
        heads: int = 1,
        *,
        weights: Weights | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> MemoryState:
        """The state before the first token. `weights` (name -> [H, ...]) are the learned initial ones, if any."""
        if weights is None:
            weights = self.model.init(batch, heads, generator=generator, dtype=dtype, device=device)
        else:
            weights = {name: w.expand(batch, *w.shape) for name, w in weights.items()}
        return MemoryState(
            weights=weights,
            slots=self.optimizer.init(weights),
            anchor=weights,
            initial=weights if self.period.reset else None,
        )

    def read(self, state: MemoryState, queries: Tensor) -> Tensor:
        """M(q) at the state's weights, [B, H, T, K] -> [B, H, T, V]. Writes nothing."""
        return self.model(state.weights, queries)

    def write(
        self,
        state: MemoryState,
        keys: Tensor,
        values: Tensor,
        gates: Gates | None = None,
        *,
        chunked: bool = True,
    ) -> MemoryState:
        """The state after these tokens."""
        return self.scan(state, keys, keys, values, gates, chunked=chunked)[1]

    def scan(
        self,
        state: MemoryState,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        gates: Gates | None = None,
        *,
        chunked: bool = True,
        check: bool = True,
    ) -> tuple[Tensor, MemoryState]:
        """Write and read token after token: queries, keys [B, H, T, K], values [B, H, T, V] -> outputs [B, H, T, V].

        `chunked=False` is the definition, one token at a time. `chunked=True` takes the gradients of all tokens of
        a chunk at once, which is the same thing; the fast closed forms are in `nestmem.ops`. A sequence may stop at
        any token and go on from the returned state. `check=False` skips the look at the numbers (nan, ranges).

        Raises InputError for shapes, kinds or numbers that cannot be right.
        """
        gates = (gates or Gates()).expand(keys)
        check_tokens(queries=queries, keys=keys, values=values, numbers=check)
        check_gates(gates, keys, window=self.period.window, numbers=check)
        check_state(state.weights, keys)
        if self.period.reset and state.initial is None:
            raise InputError(
                f"Period.reset is {self.period.reset}, but the state has no initial weights to return to; "
                "start from the init of this memory"
            )
        outputs = []
        for start, stop in self.period.pieces(state.position, keys.shape[2], chunked):
            cut = slice(start, stop)
            q, k, v = queries[:, :, cut], keys[:, :, cut], values[:, :, cut]
            out, state = self._piece(state, q, k, v, gates.slice(start, stop))
            outputs.append(out)
        return torch.cat(outputs, dim=2), state

    def _piece(
        self, state: MemoryState, q: Tensor, k: Tensor, v: Tensor, gates: Gates
    ) -> tuple[Tensor, MemoryState]:
        """Tokens of one chunk: gradients at one point, then one update and one read per token."""
        period = self.period
        weights, slots, anchor = state.weights, state.slots, state.anchor
        if period.reset and state.position and state.position % period.reset == 0:
            assert state.initial is not None
            weights, slots = state.initial, self.optimizer.init(state.initial)
        if state.position % period.chunk == 0:
            anchor = weights
        point = anchor if period.gradient == "chunk" else weights
        assert point is not None
        past_k, past_v = self._past(state, k, v)
        threshold = gates.threshold
        if threshold is not None and period.window > 1:
            raise InputError("a threshold per token and a window of several tokens do not go together")
        gradients, inputs = self.model.gradients(point, past_k, past_v, self.objective, threshold)

        outputs = []
        for t in range(k.shape[2]):
            if period.read == "previous":
                outputs.append(self.model(weights, q[:, :, t : t + 1]))
            elif period.read == "chunk":
                assert anchor is not None
                outputs.append(self.model(anchor, q[:, :, t : t + 1]))
            g = {n: self._windowed(each, t, gates, state.position) for n, each in gradients.items()}
            x = {n: each[:, :, t + period.window - 1] for n, each in inputs.items()}
            assert (
                isinstance(gates.rate, Tensor)
                and isinstance(gates.decay, Tensor)
                and isinstance(gates.momentum, Tensor)
            )
            rate, decay, momentum = gates.rate[:, :, t], gates.decay[:, :, t], gates.momentum[:, :, t]
            weights, slots = self.optimizer.update(weights, g, slots, rate, decay, momentum, x)
            if period.read == "token":
                outputs.append(self.model(weights, q[:, :, t : t + 1]))

        keep = past_k.shape[2] - (period.window - 1)
        recent = (past_k[:, :, keep:], past_v[:, :, keep:]) if period.window > 1 else None
        after = state.replace(
            weights=weights, slots=slots, anchor=anchor, recent=recent, position=state.position + k.shape[2]
        )
        return torch.cat(outputs, dim=2), after

    def _past(self, state: MemoryState, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values with the window - 1 tokens before them.

        Copies stand before the first token. They have no weight, but their derivatives must be finite, which a
        model or an objective does not promise at zero.
        """
        if self.period.window == 1:
            return k, v
        if state.recent is None:
            before = self.period.window - 1
            first_k, first_v = (x[:, :, :1].expand(-1, -1, before, -1) for x in (k, v))
            return torch.cat([first_k, k], dim=2), torch.cat([first_v, v], dim=2)
        return torch.cat([state.recent[0], k], dim=2), torch.cat([state.recent[1], v], dim=2)

    def _windowed(self, gradients: Tensor, t: int, gates: Gates, position: int) -> Tensor:
        """The gradient that token t writes: its own, or the weighted sum over the window (Atlas, eq. 9)."""
        window = self.period.window
        if window == 1:
            return gradients[:, :, t]
        assert gates.window is not None
        total = torch.zeros_like(gradients[:, :, 0])
        for back in range(min(window, position + t + 1)):
            weight = gates.window[:, :, t, back]
            total = (
                total
                + weight.reshape(*weight.shape, *[1] * (total.ndim - 2))
                * gradients[:, :, t + window - 1 - back]
            )
        return total
