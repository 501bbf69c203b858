"""An associative memory: model + objective + optimizer + period, and its definition as a loop over tokens.

Legend of shapes: B batch, H heads, T tokens, K key width, V value width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestmem.core.checks import (
    FIRST,
    blame,
    check_chunk,
    check_class,
    check_delta,
    check_finite,
    check_gates,
    check_kind,
    check_learned,
    check_names,
    check_objective,
    check_shapes,
    check_state,
    check_threshold,
    check_tokens,
    check_written,
    state_dtype,
    transformed,
)
from nestmem.core.model import MLP, Model, Network, Weights, batched
from nestmem.core.objective import L2, Objective
from nestmem.core.optimizer import (
    WITHOUT_MOMENTUM,
    DeltaGradientDescent,
    Gates,
    GradientDescent,
    InnerOptimizer,
    Slots,
    like,
)
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
    chunk     the size of the chunks it was written in; 0: not yet written, or by a rule without chunks
    """

    weights: Weights
    slots: Slots = field(default_factory=dict)
    anchor: Weights | None = None
    recent: tuple[Tensor, Tensor] | None = None
    initial: Weights | None = None
    position: int = static(default=0)
    chunk: int = static(default=0)


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

    def __post_init__(self) -> None:
        check_objective(self.objective)

    def init(
        self,
        batch: int,
        heads: int | None = None,
        *,
        weights: Weights | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> MemoryState:
        """The state before the first token: of fresh weights, or of learned ones, `weights` (name -> [H, ...]).

        Fresh weights have 1 head and are float32 where nothing else is said. Learned ones say themselves what they
        are; InputError where `heads` or `dtype` contradict them, or names and shapes are not the model's.
        """
        if weights is None:
            weights = self.model.init(
                batch, heads or 1, generator=generator, dtype=dtype or torch.float32, device=device
            )
        else:
            check_learned(weights, heads, dtype, self._shapes())
            weights = batched(weights, batch)
        return MemoryState(
            weights=weights,
            slots=self.optimizer.init(weights),
            anchor=weights,
            initial=weights if self.period.reset else None,
        )

    def read(self, state: MemoryState, queries: Tensor, *, check: bool = True) -> Tensor:
        """M(q) at the state's weights, [B, H, T, K] -> [B, H, T, V]. Writes nothing; `check` as in `scan`."""
        check_kind("queries", queries)
        check_class(state, MemoryState)
        self._check_weights(state.weights, queries, check, "state.weights", "queries", blame(state))
        if check:
            check_finite("queries", queries)
        return self.model(state.weights, queries.to(_kind(state))).to(queries.dtype)

    def write(
        self,
        state: MemoryState,
        keys: Tensor,
        values: Tensor,
        gates: Gates | None = None,
        *,
        chunked: bool = True,
        check: bool = True,
    ) -> MemoryState:
        """The state after these tokens: that of `scan`, whose outputs are not computed."""
        return self._run(state, None, keys, values, gates, chunked, check)[1]

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
        Half precision tokens are computed in float32, the dtype of their state.

        Raises InputError for shapes, kinds or numbers that cannot be right.
        """
        outputs, after = self._run(state, queries, keys, values, gates, chunked, check)
        return torch.cat(outputs, dim=2).to(queries.dtype), after

    def _run(
        self,
        state: MemoryState,
        queries: Tensor | None,
        keys: Tensor,
        values: Tensor,
        gates: Gates | None,
        chunked: bool,
        check: bool,
    ) -> tuple[list[Tensor], MemoryState]:
        """Outputs, none without queries, and the state after the last token."""
        check_tokens(queries=keys if queries is None else queries, keys=keys, values=values, numbers=check)
        check_class(state, MemoryState)
        # Numbers for gates stand in the state's dtype, which half precision would round.
        given = gates or Gates()
        gates = given.expand(keys[..., :0].to(state_dtype(keys)))
        moving = isinstance(given.momentum, Tensor) or given.momentum != 0
        # A transform maps tensors only, so that inside one a momentum of 0 may be given as a tensor.
        if moving and not transformed() and type(self.optimizer) in WITHOUT_MOMENTUM:
            raise InputError(
                f"Gates.momentum is given, but {type(self.optimizer).__name__} keeps no momentum; "
                "use optimizer=Momentum()"
            )
        check_gates(gates, keys, window=self.period.window, numbers=check)
        check_threshold(gates, self.objective)
        if gates.threshold is not None and self.period.window > 1:
            raise InputError("a threshold per token and a window of several tokens do not go together")
        if check and isinstance(self.optimizer, DeltaGradientDescent):
            assert isinstance(gates.rate, Tensor) and isinstance(gates.decay, Tensor)
            check_delta(gates.rate, gates.decay)
        self._check_state(state, keys, values, check)
        kind = _kind(state)
        gates = gates.to(kind)
        outputs = []
        for start, stop in self.period.pieces(state.position, keys.shape[2], chunked):
            cut = slice(start, stop)
            q = None if queries is None else queries[:, :, cut].to(kind)
            k, v = keys[:, :, cut].to(kind), values[:, :, cut].to(kind)
            out, state = self._piece(state, q, k, v, gates.slice(start, stop))
            outputs += out
        check_written(state, check)
        return outputs, state

    def _shapes(self) -> dict[str, tuple[int, ...]] | None:
        return self.model.shapes if isinstance(self.model, MLP | Network) else None

    def _check_weights(
        self, weights: Weights, like: Tensor, check: bool, label: str, tokens: str, why: str
    ) -> None:
        """Names, kinds, numbers and shapes of one set of weights against the model and the tokens."""
        if isinstance(self.model, MLP | Network):
            check_names(weights, self.model.shapes, label=label)
        check_state(weights, like, check, label=label, tokens=tokens, why=why)
        if isinstance(self.model, MLP | Network):
            check_shapes(weights, self.model.shapes, like.shape[:2], label=label)

    def _check_state(self, state: MemoryState, keys: Tensor, values: Tensor, check: bool) -> None:
        """Whether this memory wrote the state, for sequences such as these, and can go on from it."""
        period, position, why = self.period, state.position, blame(state)
        self._check_weights(state.weights, keys, check, "state.weights", "keys", why)
        check_chunk(period.chunk, state)
        if position % period.chunk and (period.gradient == "chunk" or period.read == "chunk"):
            if state.anchor is None:
                raise InputError(
                    f"the state stands at token {position}, inside a chunk of {period.chunk}, but has no anchor, the "
                    "weights before that chunk; go on from the state that scan returned"
                )
            self._check_weights(state.anchor, keys, check, "state.anchor", "keys", why)
        # An optimizer may draw numbers for its slots, which vmap refuses.
        if not transformed():
            self._check_slots(state, check)
        if period.reset:
            if state.initial is None:
                raise InputError(
                    f"Period.reset is {period.reset}, but the state has no initial weights to return to; "
                    "start from the init of this memory"
                )
            self._check_weights(state.initial, keys, check, "state.initial", "keys", FIRST)
        if period.window > 1:
            self._check_recent(state, keys, values, check)

    def _check_slots(self, state: MemoryState, check: bool) -> None:
        """Names, shapes, dtypes and numbers of the slots against those of this memory's optimizer."""
        some = next(iter(state.weights.values()))
        # The slots of no sequences have every name and shape, and no numbers.
        expected = self.optimizer.init({n: w.detach()[:0] for n, w in state.weights.items()})
        check_names(state.slots, expected, label="state.slots", of="optimizer")
        for slot, parts in expected.items():
            label, found = f"state.slots[{slot!r}]", state.slots[slot]
            # A count of steps may be one for all sequences.
            shapes = {
                n: (*some.shape[:1], *x.shape[1:]) if x.shape[:1] == (0,) else x.shape
                for n, x in parts.items()
            }
            check_shapes(found, shapes, (), label=label, of="optimizer")
            for n, x in found.items():
                if x.dtype != parts[n].dtype or x.device != some.device:
                    raise InputError(
                        f"{label}[{n!r}] is {x.dtype} on {x.device}; expected {parts[n].dtype} on {some.device}"
                    )
                if check:
                    check_finite(f"{label}[{n!r}]", x, blame(state))

    def _check_recent(self, state: MemoryState, keys: Tensor, values: Tensor, check: bool) -> None:
        window = self.period.window
        if state.recent is None:
            if self._since(state.position):
                raise InputError(
                    f"the state stands at token {state.position}, but has no recent tokens for a window of {window}; "
                    "write the sequence from its start with this window"
                )
            return
        for name, x, now in zip(("keys", "values"), state.recent, (keys, values), strict=True):
            wanted = [*keys.shape[:2], window - 1, now.shape[3]]
            if list(x.shape) != wanted:
                raise InputError(
                    f"the recent {name} of the state are {list(x.shape)}; a window of {window} over {name} "
                    f"{list(now.shape)} needs {wanted}"
                )
            check_state({name: x}, keys, check, label="state.recent", why=blame(state))

    def _since(self, position: int) -> int:
        """Tokens since the start or the last reset, beyond which no window looks back."""
        return position % self.period.reset if self.period.reset else position

    def _piece(
        self, state: MemoryState, q: Tensor | None, k: Tensor, v: Tensor, gates: Gates
    ) -> tuple[list[Tensor], MemoryState]:
        """Tokens of one chunk: gradients at one point, then one update and, given queries, one read per token."""
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
        gradients, inputs = self.model.gradients(point, past_k, past_v, self.objective, gates.threshold)

        since, outputs = self._since(state.position), []
        for t in range(k.shape[2]):
            before = weights
            g = {n: self._windowed(each, t, gates, since) for n, each in gradients.items()}
            x = {n: each[:, :, t + period.window - 1] for n, each in inputs.items()}
            assert (
                isinstance(gates.rate, Tensor)
                and isinstance(gates.decay, Tensor)
                and isinstance(gates.momentum, Tensor)
            )
            rate, decay, momentum = gates.rate[:, :, t], gates.decay[:, :, t], gates.momentum[:, :, t]
            weights, slots = self.optimizer.update(weights, g, slots, rate, decay, momentum, x)
            if q is not None:
                seen = {"token": weights, "previous": before, "chunk": anchor}[period.read]
                assert seen is not None
                outputs.append(self.model(seen, q[:, :, t : t + 1]))

        keep = past_k.shape[2] - (period.window - 1)
        recent = (past_k[:, :, keep:], past_v[:, :, keep:]) if period.window > 1 else None
        after = state.replace(
            weights=weights,
            slots=slots,
            anchor=anchor,
            recent=recent,
            position=state.position + k.shape[2],
            chunk=period.chunk,
        )
        return outputs, after

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

    def _windowed(self, gradients: Tensor, t: int, gates: Gates, since: int) -> Tensor:
        """The gradient that token t writes: its own, or the weighted sum over the window (Atlas, eq. 9).

        `since` tokens before the piece are of the same memory; what is further back has no weight.
        """
        window = self.period.window
        if window == 1:
            return gradients[:, :, t]
        assert gates.window is not None
        total = torch.zeros_like(gradients[:, :, 0])
        for back in range(min(window, since + t + 1)):
            total = total + like(gates.window[:, :, t, back], total) * gradients[:, :, t + window - 1 - back]
        return total


def _kind(state: MemoryState) -> torch.dtype:
    return next(iter(state.weights.values())).dtype
