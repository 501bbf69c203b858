"""What a layer says of its weights that learn from the model's own loss, and what the model makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from nestmem.core import Adam, DeltaGradientDescent, GradientDescent, InnerOptimizer, NewtonSchulz, Weights
from nestmem.core.checks import check_whole
from nestmem.core.optimizer import Slots
from nestmem.errors import InputError
from nestmem.ops.endtoend import Level
from nestmem.optim.inner import DGD, DMGD, M3, DeltaMomentum, MeanDGD, Momentum, Muon

# What a file may call an inner optimizer.
OPTIMIZERS: dict[str, Callable[[], InnerOptimizer]] = {
    "gradient_descent": GradientDescent,
    "momentum": Momentum,
    "adam": Adam,
    "newton_schulz": NewtonSchulz,
    "muon": Muon,
    "delta_momentum": DeltaMomentum,
    "dmgd": DMGD,
    "m3": M3,
}
# Each entry of a weight for itself, or all of them together: the same for a weight and its transpose.
EITHER_WAY = (GradientDescent, Momentum, Adam, NewtonSchulz)


@dataclass(frozen=True, kw_only=True)
class FastLevel:
    """Weights of a layer that learn while the model reads, written together every `period` tokens.

    names      parameters, relative to the module that says so; torch's matrices [O, I] and biases [O]
    optimizer  a value of nestmem.core or nestmem.optim.inner, or its name in `OPTIMIZERS`
    teach      the inner loss is <y, delta>, y what the layer adds and delta the model's `teach_signal`, instead of the
               model's own loss
    and the fields of `nestmem.ops.endtoend.Level`; restart_rate None is the rate.

    >>> FastLevel(names=("up.weight",), period=64).under("blocks.3.").names
    ('blocks.3.up.weight',)
    """

    names: tuple[str, ...]
    period: int
    rate: float | Tensor = 1.0
    clip: float | None = None
    decay: float | Tensor = 1.0
    momentum: float | Tensor = 0.0
    average: bool = True
    optimizer: InnerOptimizer | str = "gradient_descent"
    restart: int | None = None
    restart_rate: float | Tensor | None = None
    teach: bool = False

    def __post_init__(self) -> None:
        check_whole("period", self.period, unit=" of tokens")
        if not self.names:
            raise InputError("names is empty; a level writes at least one weight")
        inner_optimizer(self.optimizer)

    def under(self, prefix: str) -> FastLevel:
        """The same level, named from a module further out."""
        return replace(self, names=tuple(prefix + name for name in self.names))


def inner_optimizer(given: InnerOptimizer | str) -> InnerOptimizer:
    """An inner optimizer of that name, or itself. InputError for one that asks for layer inputs."""
    if isinstance(given, str):
        if given not in OPTIMIZERS:
            raise InputError(f"no inner optimizer is called {given!r}; there are {', '.join(OPTIMIZERS)}")
        return OPTIMIZERS[given]()
    if isinstance(given, type) or not callable(getattr(given, "update", None)):
        raise InputError(f"optimizer is a value such as Momentum(), or its name; got {given!r}")
    if isinstance(given, DGD | MeanDGD | DeltaGradientDescent):
        raise InputError(
            f"{type(given).__name__} reads the inputs of each matrix, which a level of fast weights has not; use one of "
            f"{', '.join(OPTIMIZERS)}"
        )
    return given


def merge(levels: Iterable[FastLevel]) -> list[Level]:
    """Levels with the same settings as one, so that their gradients are clipped together, as in TTT-E2E.

    A learned rate is a setting of its own: levels with rates of their own are clipped each by itself. Optimizers see
    a torch weight [O, I] as they want it, [I, O].
    """
    groups: dict[tuple[Any, ...], list[FastLevel]] = {}
    for level in levels:
        settings = [getattr(level, f.name) for f in fields(level) if f.name != "names"]
        # Tensors are compared by identity: their numbers may agree for a while.
        groups.setdefault(tuple(id(x) if isinstance(x, Tensor) else x for x in settings), []).append(level)
    if len({level.teach for (level, *_) in groups.values()}) > 1:
        raise InputError(
            "some levels learn from the model's loss (objective 'lm') and some from its teaching signal ('teach'); "
            "one model has one inner loss: use the same objective everywhere"
        )
    merged = []
    for level, *more in groups.values():
        names = [name for each in (level, *more) for name in each.names]
        optimizer = inner_optimizer(level.optimizer)
        merged.append(
            Level(
                period=level.period,
                names=tuple(names),
                rate=level.rate,
                clip=level.clip,
                decay=level.decay,
                momentum=level.momentum,
                average=level.average,
                optimizer=optimizer if isinstance(optimizer, EITHER_WAY) else Transposed(optimizer),
                restart=level.restart,
                restart_rate=level.rate if level.restart_rate is None else level.restart_rate,
            )
        )
    return merged


@dataclass(frozen=True)
class Transposed:
    """An inner optimizer for torch's matrices [O, I], which it sees as [I, O]. Weights have no leading dimensions."""

    optimizer: InnerOptimizer

    def init(self, weights: Weights) -> Slots:
        return self.optimizer.init(_turned(weights))

    def update(
        self,
        weights: Weights,
        gradients: Weights,
        slots: Slots,
        rate: Tensor,
        decay: Tensor,
        momentum: Tensor,
        inputs: Weights,
    ) -> tuple[Weights, Slots]:
        new, slots = self.optimizer.update(
            _turned(weights), _turned(gradients), slots, rate, decay, momentum, inputs
        )
        return _turned(new), slots


def _turned(weights: Weights) -> Weights:
    return {n: w.mT if w.ndim == 2 else w for n, w in weights.items()}
