"""The rules as inner optimizers: pure functions on dicts of weights [B, H, I, O] (rows are keys, y = x W).

They follow `nestmem.core.InnerOptimizer`, so a `Memory` may write with any of them, and the torch optimizers of this
folder run the very same functions on stacks of parameters (a torch weight [O, I] is W^T). Papers write W x with
W [O, I], so what multiplies from the right there multiplies from the left here. Biases [B, H, O] have no rows to
mix and take the momentum step of their rule. Every rule is differentiable, at zero gradients too.

Source: Nested Learning (arXiv 2512.24695), NL below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nestmem.core import Momentum, Weights, newton_schulz
from nestmem.core.optimizer import Slots, like
from nestmem.errors import InputError

__all__ = ["DGD", "DMGD", "M3", "DeltaMomentum", "MeanDGD", "Momentum", "Muon"]


@dataclass(frozen=True)
class Muon:
    """S <- momentum S + g;  W <- decay W - rate sqrt(max(1, O / I)) NS(g + momentum S) (Jordan et al., 2024).

    NL eq. 52 with a linear memory. `nesterov=False` orthogonalises S itself. Newton-Schulz runs in the weights'
    dtype. Biases: W <- decay W - rate (g + momentum S).
    """

    nesterov: bool = True
    steps: int = 5

    def init(self, weights: Weights) -> Slots:
        return {"momentum": zeros(weights)}

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
        new, kept = {}, {}
        for n, w in weights.items():
            g = gradients[n]
            kept[n] = like(momentum, g) * slots["momentum"][n] + g
            direction = g + like(momentum, g) * kept[n] if self.nesterov else kept[n]
            if not is_bias(n):
                direction = aspect(w) * newton_schulz(direction, self.steps)
            new[n] = like(decay, w) * w - like(rate, w) * direction
        return new, {"momentum": kept}


@dataclass(frozen=True)
class DeltaMomentum:
    """m <- (momentum I - forget n n^T) m - rate P g;  W <- decay W + m,  n = g / ||g||_F (NL eq. 49).

    The momentum is a memory with the delta rule: it forgets what it holds along the gradient before it adds to it,
    m <- momentum m - d/dm [forget/2 ||n^T m||^2 + rate <m, P g>].

    Chosen where the paper is silent. Printed is g g^T without a step size, which diverges as soon as
    ||g||_2^2 > 1 + momentum; with n of Frobenius norm 1 every eigenvalue of the kept share lies in
    [momentum - forget, momentum], at any scale of the gradient, so it is stable for forget <= 1 + momentum.
    P is the identity, or with `precondition` = beta2 the diagonal 1 / (sqrt(v) + eps) of Adam, v the bias-corrected
    average of g^2.
    """

    forget: float = 1.0
    precondition: float | None = None
    eps: float = 1e-8

    def init(self, weights: Weights) -> Slots:
        return {"momentum": zeros(weights), **second_init(weights, self.precondition)}

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
        scaled, second = preconditioned(gradients, slots, self.precondition, self.eps)
        new, kept = {}, {}
        for n, w in weights.items():
            m = slots["momentum"][n]
            kept[n] = like(momentum, w) * m - like(rate, w) * scaled[n]
            if not is_bias(n):
                g = unit_matrix(gradients[n])
                narrow = g.shape[-2] <= g.shape[-1]
                kept[n] = kept[n] - self.forget * ((g @ g.mT) @ m if narrow else g @ (g.mT @ m))
            new[n] = like(decay, w) * w + kept[n]
        return new, {"momentum": kept, **second}


@dataclass(frozen=True)
class DMGD:
    """Deep momentum: W <- decay W + rate sigma(m_new(u));  m_new = momentum m - eta dL/dm (NL eq. 50 and 52).

    The memory of each matrix reads the rows u of its gradient and answers with the rows of the step:

        m(u) = S + tanh(u A) B / sqrt(hidden),    u = sqrt(I) g / ||g||_F   (rows of mean square norm 1)
        L    = <m(u), u>            objective "dot"
        L    = 1/2 ||m(u) + u||^2   objective "l2"

    Chosen where the paper is silent:
    - S [I, O] is the MLP's output bias, one per row. With hidden = 0 and "dot" it is the momentum of eq. 33 on u, and
      with sigma = Newton-Schulz Muon: the deep memory contains them. A [O, hidden] and B [hidden, O] are shared by
      all rows and step along the mean over rows. With "dot", B holds past rows under their random features, so that
      tanh(u A) B is minus a kernel average of the past gradient rows that resemble this one.
    - A starts at a fixed normal draw, B and S at 0; forgetting pulls towards that start (towards 0 A would die out).
      (`init` inside torch.func.vmap therefore needs randomness="same".)
    - tanh and the normalised u bound the memory for any gradient: with "dot" and eta = 1 - momentum, the rows of S
      have mean square norm <= 1, and ||B||_F <= 1.
    - eta is not the step size of the weights: m is not linear in it. `memory_rate` None means 1 - momentum.
    - `orthogonal` makes sigma Newton-Schulz times sqrt(max(1, O / I)), as in Muon; else sigma is the identity.
    Biases: S alone, u = g / rms(g).
    """

    hidden: int = 32
    objective: str = "dot"
    memory_rate: float | None = None
    orthogonal: bool = False
    steps: int = 5
    seed: int = 0

    def init(self, weights: Weights) -> Slots:
        start: Weights = {}
        out: Weights = {}
        for n, w in weights.items():
            if is_bias(n):
                continue
            wide = w.shape[-1]
            generator = torch.Generator().manual_seed(self.seed)
            draw = torch.randn(wide, self.hidden, generator=generator, dtype=torch.float64)
            start[n] = draw.to(w).expand(*w.shape[:-2], wide, self.hidden)
            out[n] = torch.zeros_like(start[n]).mT
        return {"momentum": zeros(weights), "start": start, "in": dict(start), "out": out}

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
        new, s_new, a_new, b_new = {}, {}, {}, {}
        for n, w in weights.items():
            keep = like(momentum, w)
            eta = 1 - keep if self.memory_rate is None else self.memory_rate
            s, g = slots["momentum"][n], gradients[n]
            if is_bias(n):
                u = unit_matrix(g[..., None, :])[..., 0, :] * g.shape[-1] ** 0.5
                s_new[n] = keep * s - eta * (u if self.objective == "dot" else s + u)
                new[n] = like(decay, w) * w + like(rate, w) * s_new[n]
                continue
            rows = g.shape[-2]
            u = unit_matrix(g) * rows**0.5
            start, a, b = slots["start"][n], slots["in"][n], slots["out"][n]
            share = max(self.hidden, 1) ** -0.5
            t = torch.tanh(u @ a)
            error = u if self.objective == "dot" else s + share * t @ b + u
            s_new[n] = keep * s - eta * error
            b_new[n] = keep * b - eta * (share / rows) * (t.mT @ error)
            a_new[n] = (
                start + keep * (a - start) - eta * (share / rows) * (u.mT @ ((error @ b.mT) * (1 - t * t)))
            )
            step = s_new[n] + share * torch.tanh(u @ a_new[n]) @ b_new[n]
            if self.orthogonal:
                step = aspect(w) * newton_schulz(step, self.steps)
            new[n] = like(decay, w) * w + like(rate, w) * step
        return new, {"momentum": s_new, "start": slots["start"], "in": a_new, "out": b_new}


@dataclass(frozen=True)
class DGD:
    """W <- decay W - eta' (forget x x^T W + S),  eta' = rate / (1 + forget rate ||x||^2) (NL eq. 57).

    S <- momentum S + P g; with no momentum and P = I the step is the exact minimum over W of

        forget/2 ||x W||^2 + <x W, d> + 1/(2 rate) ||W - W_t||^2,    g = x^T d

    (forget = 1: of 1/2 ||x W - u||^2 with u = -d). The paper prints eta' = rate / (1 + rate), which is ||x|| = 1; for
    unit inputs this rule at `rate` is `core.DeltaGradientDescent` at rate / (1 + rate). `precondition` as in
    `DeltaMomentum`. Biases: W <- decay W - rate S.
    """

    forget: float = 1.0
    precondition: float | None = None
    eps: float = 1e-8

    def init(self, weights: Weights) -> Slots:
        return {"momentum": zeros(weights), **second_init(weights, self.precondition)}

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

        def along(n: str, w: Tensor) -> tuple[Tensor, Tensor]:
            if n not in inputs:
                raise InputError(
                    f"DGD needs the input of each matrix; {n!r} has none. An MLP model gives them"
                )
            x = inputs[n][..., None, :]
            direction = unit_matrix(x)
            return direction.mT @ (direction @ w), x.square().sum((-2, -1), keepdim=True)

        return dgd_update(self, weights, gradients, slots, rate, decay, momentum, along)


@dataclass(frozen=True)
class MeanDGD:
    """DGD over many inputs at once: inputs[n] is C = X^T X / N [B, H, I, I] in the place of x^T x.

    W <- decay W - eta' (forget C W + S),  eta' = rate / (1 + forget rate tr C). Exact for N = 1.
    """

    forget: float = 1.0
    precondition: float | None = None
    eps: float = 1e-8

    def init(self, weights: Weights) -> Slots:
        return {"momentum": zeros(weights), **second_init(weights, self.precondition)}

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

        def along(n: str, w: Tensor) -> tuple[Tensor, Tensor]:
            squared = inputs[n].diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
            return inputs[n] / torch.where(squared > 0, squared, torch.ones_like(squared)) @ w, squared

        return dgd_update(self, weights, gradients, slots, rate, decay, momentum, along)


@dataclass(frozen=True)
class M3:
    """Multi-scale momentum Muon (NL Algorithm 1). Two momenta, of every step and of every `period` steps.

    as_printed=True, accumulators without decay (V then falls as AdaGrad's does, and the first momentum is the
    direction of the sum of all gradients):

        every period steps:  M2 <- M2 + beta3 (sum of the last period gradients);  O2 = NS(M2)
        M1 <- M1 + beta1 g;  V <- V + beta2 g^2;  W <- decay W - rate (NS(M1) + slow O2) / (sqrt(V) + eps)

    as_printed=False, exponential averages: M1 <- beta1 M1 + (1 - beta1) g, and V, M2 likewise. Dividing an
    orthogonal matrix by sqrt(V) as printed makes the step grow as gradients shrink, so here V only redistributes
    the step over the entries: it is rescaled to the Frobenius norm of NS(M1) + slow O2, and eps is a share of the
    largest sqrt(V). Steps then do not depend on the gradient's scale.

    beta1 is the gate `momentum`. `second=False` leaves the division out: with slow = 0 what remains is Muon's
    direction without Nesterov. Eq. 75 prints M2 with a minus sign and beta2, against Algorithm 1, which is followed.
    The paper gives no values: period, slow and betas here are ours. Biases: W <- decay W - rate M1.
    The step count may not differ within a batch (under vmap, keep it out of the mapped arguments).
    """

    slow: float = 0.5
    period: int = 10
    beta2: float = 0.99
    beta3: float = 0.9
    as_printed: bool = False
    second: bool = True
    eps: float = 1e-8
    steps: int = 5

    def init(self, weights: Weights) -> Slots:
        slots = {"momentum": zeros(weights), "root": zeros(weights) if self.second else {}}
        matrices = {n: w for n, w in weights.items() if not is_bias(n)}
        slots |= {name: zeros(matrices) for name in ("slow", "sum", "slow_direction")}
        return {**slots, "count": count_init(weights)}

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
        count = int(slots["count"]["steps"])
        due = count > 0 and count % self.period == 0
        new: Weights = {}
        after: Slots = {name: {} for name in ("momentum", "root", "slow", "sum", "slow_direction")}
        for n, w in weights.items():
            g, first = gradients[n], like(momentum, w)
            added = first * g if self.as_printed else (1 - first) * g
            fast = after["momentum"][n] = (1 if self.as_printed else first) * slots["momentum"][n] + added
            if self.second:
                keep, add = (1.0, self.beta2) if self.as_printed else (self.beta2, 1 - self.beta2)
                after["root"][n] = root_of_squares(slots["root"][n], g, keep, add)
            if is_bias(n):
                new[n] = like(decay, w) * w - like(rate, w) * fast
                continue
            slow, total, slow_direction = (slots[name][n] for name in ("slow", "sum", "slow_direction"))
            if due:
                if self.as_printed:
                    slow = slow + self.beta3 * total
                else:
                    slow = self.beta3 * slow + (1 - self.beta3) / self.period * total
                slow_direction, total = newton_schulz(slow, self.steps), torch.zeros_like(total)
            after["slow"][n], after["sum"][n], after["slow_direction"][n] = slow, total + g, slow_direction
            step = newton_schulz(fast, self.steps) + self.slow * slow_direction
            if self.second:
                step = self._divided(step, after["root"][n])
            new[n] = like(decay, w) * w - like(rate, w) * step
        return new, {**after, "count": {"steps": slots["count"]["steps"] + 1}}

    def _divided(self, step: Tensor, root: Tensor) -> Tensor:
        if self.as_printed:
            return step / (root + self.eps)
        largest = root.amax(dim=(-2, -1), keepdim=True)
        relative = root / torch.where(largest > 0, largest, torch.ones_like(largest))
        divided = unit_matrix(step / (relative + self.eps))
        squared = step.square().sum((-2, -1), keepdim=True)
        return divided * torch.where(squared > 0, squared, torch.ones_like(squared)).sqrt() * (squared > 0)


def dgd_update(
    rule: DGD | MeanDGD,
    weights: Weights,
    gradients: Weights,
    slots: Slots,
    rate: Tensor,
    decay: Tensor,
    momentum: Tensor,
    along: Callable[[str, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Weights, Slots]:
    """The step of DGD and MeanDGD; `along(name, W)` gives n n^T W [B, H, I, O] and ||x||^2 [B, H, 1, 1] of the inputs."""
    scaled, second = preconditioned(gradients, slots, rule.precondition, rule.eps)
    new, kept = {}, {}
    for n, w in weights.items():
        kept[n] = like(momentum, w) * slots["momentum"][n] + scaled[n]
        if is_bias(n):
            new[n] = like(decay, w) * w - like(rate, w) * kept[n]
        else:
            new[n] = dgd_step(w, kept[n], *along(n, w), like(rate, w), like(decay, w), rule.forget)
    return new, {"momentum": kept, **second}


def dgd_step(
    weight: Tensor,
    gradient: Tensor,
    forgotten: Tensor,
    squared: Tensor,
    rate: Tensor,
    decay: Tensor,
    forget: float,
) -> Tensor:
    """decay W - eta' (forget ||x||^2 `forgotten` + gradient), where `forgotten` is n n^T W or its mean over inputs.

    Written with the share eta' forget ||x||^2 in [0, 1), which stays a number where ||x||^2 does not.
    """
    whole = 1 + forget * rate * squared
    return decay * weight - (1 - 1 / whole) * forgotten - (rate / whole) * gradient


def zeros(weights: Weights) -> Weights:
    """Zeros like every weight."""
    return {n: torch.zeros_like(w) for n, w in weights.items()}


def is_bias(name: str) -> bool:
    """Biases are vectors [B, H, O]; every other weight is a matrix."""
    return name.endswith("bias")


def aspect(weight: Tensor) -> float:
    """sqrt(max(1, O / I)): an orthogonal step then changes outputs by the same size for every shape."""
    return max(1.0, weight.shape[-1] / weight.shape[-2]) ** 0.5


def unit_matrix(x: Tensor) -> Tensor:
    """x / ||x||_F over the last two dimensions, for numbers of any size; 0 stays 0, with a finite derivative."""
    largest = x.detach().abs().amax(dim=(-2, -1), keepdim=True)
    x = x / torch.where(largest > 0, largest, torch.ones_like(largest))
    return x * (x.square().sum(dim=(-2, -1), keepdim=True) + (largest == 0)).rsqrt()


def root_of_squares(root: Tensor, g: Tensor, keep: float, add: float) -> Tensor:
    """sqrt(keep root^2 + add g^2), entry by entry, without the squares of very large or small numbers."""
    if not torch.is_grad_enabled():
        return torch.hypot(keep**0.5 * root, add**0.5 * g)
    # The derivative of hypot at (0, 0) is not a number.
    largest = torch.maximum(root, g.abs()).detach()
    by = torch.where(largest > 0, largest, torch.ones_like(largest))
    return largest * (keep * (root / by).square() + add * (g / by).square() + (largest == 0)).sqrt()


def second_init(weights: Weights, beta2: float | None) -> Slots:
    """Slots of `preconditioned`."""
    return {} if beta2 is None else {"root": zeros(weights), "count": count_init(weights)}


def count_init(weights: Weights) -> Weights:
    """A step count of zero."""
    some = next(iter(weights.values()))
    return {"steps": torch.zeros((), dtype=some.dtype, device=some.device)}


def preconditioned(
    gradients: Weights, slots: Slots, beta2: float | None, eps: float
) -> tuple[Weights, Slots]:
    """P g with P = 1 / (sqrt(v) + eps), v the bias-corrected average of g^2; g itself without beta2."""
    if beta2 is None:
        return gradients, {}
    count = slots["count"]["steps"] + 1
    roots = {n: root_of_squares(slots["root"][n], g, beta2, 1 - beta2) for n, g in gradients.items()}
    correction = (1 - beta2**count).sqrt()
    scaled = {n: g / (roots[n] / correction + eps) for n, g in gradients.items()}
    return scaled, {"root": roots, "count": {"steps": count}}
