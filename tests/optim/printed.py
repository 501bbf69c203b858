"""The rules as the papers print them, for one matrix [O, I]: the witness of the fast forms. Shares no code with them.

Each loop takes the start, a list of gradients and the numbers, and returns the last weights.
"""

import torch
from torch import Tensor


def polar(g: Tensor, steps: int = 5) -> Tensor:
    x = g / g.norm() if g.norm() > 0 else g
    for _ in range(steps):
        x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
    return x


def aspect(w: Tensor) -> float:
    return max(1, w.shape[0] / w.shape[1]) ** 0.5


def momentum(w, gradients, *, lr, momentum, weight_decay=0.0):
    m = torch.zeros_like(w)
    for g in gradients:
        m = momentum * m - lr * g
        w = (1 - lr * weight_decay) * w + m
    return w


def delta_momentum(w, gradients, *, lr, momentum, forget=1.0, precondition=None, weight_decay=0.0):
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for i, g in enumerate(gradients, 1):
        p = torch.ones_like(w)
        if precondition is not None:
            v = precondition * v + (1 - precondition) * g**2
            p = 1 / ((v / (1 - precondition**i)).sqrt() + 1e-8)
        n = g / g.norm()
        m = m @ (momentum * torch.eye(w.shape[1], dtype=w.dtype) - forget * n.T @ n) - lr * p * g
        w = (1 - lr * weight_decay) * w + m
    return w


def muon(w, gradients, *, lr, momentum, nesterov=True, weight_decay=0.0):
    m = torch.zeros_like(w)
    for g in gradients:
        m = momentum * m + g
        direction = polar(g + momentum * m if nesterov else m)
        w = (1 - lr * weight_decay) * w - lr * aspect(w) * direction
    return w


def dmgd(w, gradients, *, lr, momentum, hidden=32, objective="dot", orthogonal=False, weight_decay=0.0):
    """The memory's gradient by autograd of its objective."""
    o, i = w.shape
    draw = torch.randn(o, hidden, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = draw.to(w.dtype).T
    s, a, b = torch.zeros_like(w), start.clone(), torch.zeros(o, hidden, dtype=w.dtype)

    def memory(u, s, a, b):
        return s + b @ torch.tanh(a @ u) / hidden**0.5

    eta = 1 - momentum
    for g in gradients:
        u = g / g.norm() * i**0.5
        s, a, b = (x.detach().requires_grad_() for x in (s, a, b))
        answer = memory(u, s, a, b)
        loss = (answer * u).sum() if objective == "dot" else 0.5 * (answer + u).square().sum()
        ds, da, db = torch.autograd.grad(loss, (s, a, b))
        with torch.no_grad():
            s = momentum * s - eta * ds
            a = start + momentum * (a - start) - eta * da / i
            b = momentum * b - eta * db / i
            step = memory(u, s, a, b)
            w = (1 - lr * weight_decay) * w + lr * (aspect(w) * polar(step) if orthogonal else step)
    return w


def dgd(w, gradients, *, lr, inputs=None, forget=1.0, momentum=0.0, precondition=None, weight_decay=0.0):
    """`inputs[i]` [N, I] of step i."""
    s, v = torch.zeros_like(w), torch.zeros_like(w)
    for i, g in enumerate(gradients, 1):
        x = torch.zeros(1, w.shape[1], dtype=w.dtype) if inputs is None else inputs[i - 1]
        p = torch.ones_like(w)
        if precondition is not None:
            v = precondition * v + (1 - precondition) * g**2
            p = 1 / ((v / (1 - precondition**i)).sqrt() + 1e-8)
        s = momentum * s + p * g
        rate = lr / (1 + lr * forget * x.square().sum(1).mean())
        w = (1 - lr * weight_decay) * w - rate * forget * w @ (x.T @ x) / len(x) - rate * s
    return w


def m3(w, gradients, *, lr, momentum, slow, period, beta2=0.99, beta3=0.9, as_printed=False, second=True,
       weight_decay=0.0):  # fmt: skip
    m1, m2, v = (torch.zeros_like(w) for _ in range(3))
    for i, g in enumerate(gradients):
        if i % period == 0:
            past = torch.stack(gradients[max(0, i - period) : i]).sum(0) if i else torch.zeros_like(w)
            if as_printed:
                m2 = m2 + beta3 * past
            elif i:
                m2 = beta3 * m2 + (1 - beta3) * past / period
            o2 = polar(m2)
        if as_printed:
            m1, v = m1 + momentum * g, v + beta2 * g**2
        else:
            m1, v = momentum * m1 + (1 - momentum) * g, beta2 * v + (1 - beta2) * g**2
        step = polar(m1) + slow * o2
        if second and as_printed:
            step = step / (v.sqrt() + 1e-8)
        elif second:
            divided = step / (v.sqrt() / v.max().sqrt() + 1e-8)
            step = divided * step.norm() / divided.norm()
        w = (1 - lr * weight_decay) * w - lr * step
    return w
