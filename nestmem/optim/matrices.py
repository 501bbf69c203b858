"""What the torch optimizers share: matrices go through a pure rule in stacks of one shape, the rest through Adam."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, TypedDict, Unpack, cast

import torch
from torch import Tensor

from nestmem.core import InnerOptimizer
from nestmem.errors import InputError

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


class VectorOptions(TypedDict, total=False):
    """How a group steps its vectors and scalars, and, with `adam=True`, all its tensors (embeddings, the head).

    adam        the whole group by Adam
    adam_ratio  Adam's rate as a share of the group's lr, so that a scheduler moves both; an `adam` group takes lr
    adam_betas  horizons of the averages of g and g^2
    adam_eps    added to the root of the second average
    """

    adam: bool
    adam_ratio: float
    adam_betas: tuple[float, float]
    adam_eps: float


VECTOR_DEFAULTS = {"adam": False, "adam_ratio": 0.1, "adam_betas": (0.9, 0.999), "adam_eps": 1e-8}


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False, below: bool = False
) -> None:
    """A finite number in [low, high]; `above` and `below` leave the ends out."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if good and (value > low if above else value >= low) and (value < high if below else value <= high):
        return
    ends = f"{'(' if above else '['}{low:g}, {high:g}{')' if below or high == math.inf else ']'}"
    raise InputError(f"{name} is a number in {ends}; got {value!r}")


def check_whole(name: str, value: Any, low: int) -> None:
    """An integer, at least `low`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise InputError(f"{name} is a whole number of at least {low}; got {value!r}")


def gradient_of(p: Tensor, method: str) -> Tensor:
    """The gradient of a parameter that can be stepped."""
    assert p.grad is not None
    if p.grad.is_sparse or p.grad.layout != torch.strided:
        raise InputError(
            f"{method} steps dense gradients; a parameter of shape {list(p.shape)} has a sparse one: "
            "build its nn.Embedding with sparse=False"
        )
    if p.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"{method} steps float32 or float64 parameters; one of shape {list(p.shape)} is {p.dtype}: "
            "keep float32 weights and compute in half precision with torch.autocast"
        )
    return p.grad


class MatrixOptimizer(torch.optim.Optimizer):
    """A torch optimizer around a rule for matrices.

    The law: parameters [O, I] move as the rule moves weights [I, O]; tensors of more dimensions are read as
    [O, everything else]; tensors of less, and groups with `adam=True`, move by Adam. `weight_decay` is decoupled,
    W <- (1 - lr weight_decay) W, for every tensor of the group. Parameters without a gradient do not move, and
    gradients are not changed. Subclasses give the rule of a group and check its numbers.
    """

    def __init__(self, params: Params, defaults: dict[str, Any], **vectors: Unpack[VectorOptions]) -> None:
        unknown = set(vectors) - set(VECTOR_DEFAULTS)
        if unknown:
            raise InputError(
                f"{type(self).__name__} has no option {sorted(unknown)}; it has {sorted({**defaults, **VECTOR_DEFAULTS})}"
            )
        super().__init__(cast(Any, params), {**defaults, **VECTOR_DEFAULTS, **vectors})

    @abstractmethod
    def rule(self, group: dict[str, Any]) -> InnerOptimizer:
        """The inner optimizer of a group."""

    @abstractmethod
    def check(self, group: dict[str, Any]) -> None:
        """Raise InputError for a number the rule cannot use."""

    def inputs(self, params: list[Tensor]) -> dict[str, Tensor]:
        """What the rule is told about the inputs of a stack of parameters: by default nothing."""
        return {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; options it leaves out take the defaults. Raises InputError for numbers out of range."""
        group = {**self.defaults, **param_group}
        check_number("lr", group["lr"], 0)
        check_number("weight_decay", group["weight_decay"], 0)
        check_number("momentum", group.get("momentum", 0.0), 0, 1, below=True)
        check_number("adam_ratio", group["adam_ratio"], 0)
        if not isinstance(group["adam_betas"], tuple | list) or len(group["adam_betas"]) != 2:
            raise InputError(f"adam_betas are two numbers such as (0.9, 0.999); got {group['adam_betas']!r}")
        for beta in group["adam_betas"]:
            check_number("adam_betas", beta, 0, 1, below=True)
        check_number("adam_eps", group["adam_eps"], 0, above=True)
        self.check(group)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            stacks: dict[Any, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is None or p.numel() == 0:
                    continue
                g = gradient_of(p, type(self).__name__)
                if group["adam"] or p.ndim < 2:
                    self._adam(p, g, group)
                else:
                    steps = float(self.state[p]["step"]) if self.state[p] else 0.0
                    key = (p.shape[0], p.numel() // p.shape[0], p.dtype, p.device, steps)
                    stacks.setdefault(key, []).append(p)
            for params in stacks.values():
                self._matrices(params, group)
        return loss

    def _matrices(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One stack [N, 1, I, O] of parameters of one shape and age through the rule.

        `.mT` of a stack is a view, and what the rule makes of it keeps that layout, so the tensors that are kept
        stay contiguous as [O, I].
        """
        rule = self.rule(group)
        weights = {"0": _stack([p.flatten(1) for p in params])}
        gradients = {"0": _stack([cast(Tensor, p.grad).flatten(1) for p in params])}
        states = [self.state[p] for p in params]
        steps = states[0].get("step", torch.zeros((), dtype=torch.float64))
        if states[0]:
            slots = {n: {"0": _stack([s[n] for s in states])} for n in states[0] if n != "step"}
        else:
            slots = rule.init(weights)
        # The count stays on the CPU, where looking at it waits for nothing.
        slots["count"] = {"steps": steps}
        gate = weights["0"].new_ones(len(params), 1)
        new, slots = rule.update(
            weights,
            gradients,
            slots,
            gate * group["lr"],
            gate * (1 - group["lr"] * group["weight_decay"]),
            gate * group.get("momentum", 0.0),
            self.inputs(params),
        )
        kept = {n: slot["0"].mT for n, slot in slots.items() if "0" in slot}
        for i, p in enumerate(params):
            p.copy_(new["0"][i, 0].mT.reshape(p.shape))
            self.state[p] = {"step": steps + 1, **{n: slot[i, 0].clone() for n, slot in kept.items()}}

    def _adam(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        """Adam with the root of the second average as its state, so that no gradient is too large to square."""
        beta1, beta2 = group["adam_betas"]
        lr = group["lr"] * (1.0 if group["adam"] else group["adam_ratio"])
        state = self.state[p]
        if not state:
            step = torch.zeros((), dtype=torch.float64)
            state.update(step=step, mean=torch.zeros_like(p), root=torch.zeros_like(p))
        state["step"] += 1
        steps = float(state["step"])
        state["mean"].lerp_(g, 1 - beta1)
        root = state["root"].mul_(beta2**0.5)
        torch.hypot(root, g * (1 - beta2) ** 0.5, out=root)
        denominator = (root / (1 - beta2**steps) ** 0.5).add_(group["adam_eps"])
        p.mul_(1 - lr * group["weight_decay"])
        p.addcdiv_(state["mean"], denominator, value=-lr / (1 - beta1**steps))


def _stack(matrices: list[Tensor]) -> Tensor:
    """[O, I] each -> [N, 1, I, O]."""
    return torch.stack(matrices)[:, None].mT
