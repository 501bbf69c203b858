"""The continuum memory system: MLPs in a row or side by side, each with a clock of its own.

Legend of shapes: B batch, T tokens, n tokens of one call of the inner loop, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestmem.core import InnerOptimizer, State, Weights, state
from nestmem.core.checks import check_whole, state_dtype
from nestmem.errors import InputError
from nestmem.layers.base import Mixer
from nestmem.layers.fast import FastLevel, inner_optimizer, merge
from nestmem.layers.feedforward import SwiGLU
from nestmem.ops import endtoend
from nestmem.ops.endtoend import EndToEndState

VARIANTS = ("sequential", "nested", "independent")
OBJECTIVES = ("lm", "teach", "kv")


class GELU(nn.Module):
    """W_down gelu(x W_up)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.down(F.gelu(self.up(x)))


MLPS: dict[str, Callable[[int, int], nn.Module]] = {"swiglu": SwiGLU, "gelu": GELU}


@state
class ContinuumState(State):
    """What the levels with the objective "kv" know: level's number -> its weights for each sequence. Else empty."""

    memories: dict[str, EndToEndState]


class ContinuumMemory(Mixer):
    """MLPs that are written at different frequencies (CMS, Nested Learning, arXiv 2512.24695, eq. 70-74).

        sequential, nested   z_0 = x;  z_l = z_{l-1} + MLP_l(norm(z_{l-1}));  y = z_k - x          eq. 70, 73, 72
        independent          y = sum_l a_l MLP_l(x), a learned, 1/k at first                       eq. 74
        W_l <- W_l - rate (sum or mean of the gradients of the last period of tokens)              eq. 71

    A feed-forward layer of a pre-norm block, h + y, whose norm is that of the first level; with one level, or with
    rate 0, it is an MLP. Tokens pass the levels in the order of `periods`, fastest first as in the paper's figure 5.
    Weights written by a period's tokens are in force from the next token on.

    periods       tokens between two writes of each level; None: never written. Each is a multiple of the shortest,
                  and for "nested" of the next shorter one
    variant       "nested": the weights of a level start again whenever the next slower one writes, from initial weights
                  that are learned at that pace (`Level.restart`)
    objective     "lm": the model's next-token loss. "teach": <y, delta>, with the gradient delta of that loss at the
                  last hidden state (`teach_signal`). For both, the layer only computes, the weights are parameters
                  like others, and the model writes what `levels()` names. "kv": ||MLP(norm(W_k x)) - W_v x||^2 of the
                  level's own input x; the layer is a memory by itself, with weights for each sequence in its state
    mlp           "swiglu" or "gelu", with `hidden` columns each
    rate, clip, decay, momentum, average, optimizer   of every level, as in `Level`; restart_rate None is the rate
    learn_rate    rates are parameters (their logarithm, with these starts), learned by the outer gradient

    Where the paper is silent: residuals and norms, which it leaves out for clarity; the inner loss; the order of
    levels; the gradient of the nested variant (`Level`).

    >>> layer = ContinuumMemory(8, 16, periods=(2, 4, None), objective="kv")
    >>> y, state = layer(torch.randn(3, 5, 8))
    >>> y.shape, state.memories["1"].weights["up.weight"].shape
    (torch.Size([3, 5, 8]), torch.Size([3, 16, 8]))
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        periods: Sequence[int | None] = (64, 256, None),
        variant: str = "sequential",
        objective: str = "lm",
        mlp: str = "swiglu",
        rate: float = 0.1,
        restart_rate: float | None = None,
        clip: float | None = 1.0,
        decay: float = 1.0,
        momentum: float = 0.0,
        average: bool = True,
        optimizer: InnerOptimizer | str = "gradient_descent",
        learn_rate: bool = True,
    ) -> None:
        super().__init__()
        check_whole("width", width)
        check_whole("hidden", hidden)
        for name, value, known in (
            ("variant", variant, VARIANTS),
            ("objective", objective, OBJECTIVES),
            ("mlp", mlp, tuple(MLPS)),
        ):
            if value not in known:
                raise InputError(f"{name} is one of {', '.join(known)}; got {value!r}")
        self.periods = _checked(periods, variant)
        self.restarts = _restarts(self.periods) if variant == "nested" else (None,) * len(self.periods)
        self.variant, self.objective, self.width = variant, objective, width
        self.rate, self.clip, self.decay, self.momentum = rate, clip, decay, momentum
        self.restart_rate = rate if restart_rate is None else restart_rate
        self.average, self.optimizer = average, inner_optimizer(optimizer)
        if learn_rate and not (rate > 0 and self.restart_rate > 0):
            raise InputError(
                f"a learned rate is positive; got rate={rate}, restart_rate={self.restart_rate}: use learn_rate=False"
            )
        levels = len(self.periods)
        self.mlps = nn.ModuleList(MLPS[mlp](width, hidden) for _ in self.periods)
        self.norms = nn.ModuleList()
        self.share = None
        if variant == "independent":
            self.share = nn.Parameter(torch.empty(levels))
        else:
            self.norms.extend(nn.RMSNorm(width, eps=1e-6) for _ in range(levels - 1))
        self.keys = self.values = None
        if objective == "kv":
            self.keys, self.values = (
                nn.ModuleDict({str(i): nn.Linear(width, width, bias=False) for i in self._written()})
                for _ in range(2)
            )
        self.log_rate = self.log_restart_rate = None
        if learn_rate and self._written():
            self.log_rate = nn.Parameter(torch.empty(len(self._written())))
            if any(self.restarts):
                self.log_restart_rate = nn.Parameter(torch.empty(len(self._written())))
        self.reset_parameters()
        for level in self._levels():
            merge([level])

    def reset_parameters(self) -> None:
        """The rates and shares that were asked for. Nothing is drawn."""
        with torch.no_grad():
            if self.share is not None:
                self.share.fill_(1 / len(self.periods))
            if self.log_rate is not None:
                self.log_rate.fill_(math.log(self.rate))
            if self.log_restart_rate is not None:
                self.log_restart_rate.fill_(math.log(self.restart_rate))

    def levels(self) -> list[FastLevel]:
        """The weights that the model is to write by its own loss; none for "kv". Rates are in the graph."""
        if self.objective == "kv":
            return []
        return [level.under(f"mlps.{i}.") for i, level in zip(self._written(), self._levels(), strict=True)]

    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device | str) -> ContinuumState:
        """The learned weights, for every sequence its own; nothing where the model writes."""
        memories = {}
        if self.objective == "kv":
            kind = state_dtype(torch.empty(0, dtype=dtype))
            for i, level in zip(self._written(), self._levels(), strict=True):
                fast = {n: p.to(dtype=kind, device=device) for n, p in self.mlps[i].named_parameters()}
                memories[str(i)] = endtoend.init(fast, batch, levels=merge([level]))
        return ContinuumState(memories=memories)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, ContinuumState]:
        """[B, T, D] -> what the block adds, [B, T, D]."""
        past = self.past(x, state, ContinuumState)
        levels = dict(zip(map(str, self._written()), self._levels(), strict=True))
        total, memories = torch.zeros_like(x), dict(past.memories)
        for i, mlp in enumerate(self.mlps):
            number = str(i)
            z = x if not i or self.share is not None else self.norms[i - 1](x + total)
            if number in memories:
                y, memories[number] = self._learn(number, mlp, z, memories[number], levels[number])
            else:
                y = mlp(z)
            total = total + (y if self.share is None else self.share[i] * y)
        return total, ContinuumState(memories=memories)

    def _learn(
        self, number: str, mlp: nn.Module, x: Tensor, memory: EndToEndState, level: FastLevel
    ) -> tuple[Tensor, EndToEndState]:
        assert self.keys is not None and self.values is not None
        key = F.rms_norm(self.keys[number](x), (self.width,), eps=1e-6)
        inputs = {"x": x, "key": key, "value": self.values[number](x)}

        def step(outer: Any, fast: Weights, inputs: Any, carry: Any) -> tuple[Tensor, Tensor, Any]:
            x, target = inputs["x"], inputs["value"]
            weights = {n: w.to(x.dtype) for n, w in fast.items()}
            both = torch.cat([x, inputs["key"].to(x.dtype)])
            y, guess = torch.func.functional_call(mlp, weights, both).split(x.shape[0])
            error = guess.to(state_dtype(guess)) - target
            return error.square().sum(-1), y, carry

        levels = merge([level])
        _, y, memory = endtoend.chunked(
            step, (), inputs, memory, levels=levels, checkpoint=self.training, check=False
        )
        return y, memory

    def _written(self) -> list[int]:
        return [i for i, period in enumerate(self.periods) if period is not None]

    def _levels(self) -> list[FastLevel]:
        """The levels that are written, with names relative to their own MLP."""
        found = []
        for place, i in enumerate(self._written()):
            period = self.periods[i]
            assert period is not None
            rate, again = self.rate, self.restart_rate
            if self.log_rate is not None:
                rate = again = self.log_rate[place].exp()
            if self.log_restart_rate is not None:
                again = self.log_restart_rate[place].exp()
            found.append(
                FastLevel(
                    names=tuple(n for n, _ in self.mlps[i].named_parameters()),
                    period=period,
                    rate=rate,
                    clip=self.clip,
                    decay=self.decay,
                    momentum=self.momentum,
                    average=self.average,
                    optimizer=self.optimizer,
                    restart=self.restarts[i],
                    restart_rate=again,
                    teach=self.objective == "teach",
                )
            )
        return found


def teach_signal(logits: Tensor, targets: Tensor, head: Tensor) -> Tensor:
    """The gradient of the next-token loss at the hidden states in front of the head: (softmax(logits) - target) W.

    logits [..., V], targets [...] (negative: no loss, so 0), head [V, D] -> [..., D], without a gradient of its own:
    an inner loss <y, signal> has the gradient of the model's loss at y with the blocks between y and the head left out.

    >>> head = torch.eye(2)
    >>> teach_signal(torch.zeros(1, 2), torch.tensor([0]), head)
    tensor([[-0.5000,  0.5000]])
    """
    chance = logits.detach().to(state_dtype(logits)).softmax(-1).to(head.dtype)
    weight = head.detach()
    signal = chance @ weight - F.embedding(targets.clamp(min=0), weight)
    return torch.where((targets >= 0)[..., None], signal, 0.0)


def _checked(periods: Sequence[int | None], variant: str) -> tuple[int | None, ...]:
    """At least one level, and periods that fit together."""
    found = tuple(periods) if isinstance(periods, Sequence) and not isinstance(periods, str) else ()
    if not found:
        raise InputError(f"periods names at least one level, such as (64, 256, None); got {periods!r}")
    written = []
    for period in found:
        if period is not None:
            check_whole("a period", period, unit=" of tokens")
            written.append(period)
    written.sort()
    for period in written:
        if period % written[0]:
            raise InputError(f"period {period} is not a multiple of the shortest, {written[0]} tokens")
    if variant == "nested":
        for quick, slow in pairwise(written):
            if slow % quick:
                raise InputError(
                    f"a nested level starts again when the next slower one writes; {slow} is not a multiple of {quick}"
                )
    return found


def _restarts(periods: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """For each level the period of the next slower one; None for the slowest."""
    slower = [[p for p in periods if p is not None and mine is not None and p > mine] for mine in periods]
    return tuple(min(each, default=None) for each in slower)
