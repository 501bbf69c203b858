"""Muon memories as the papers write them: one token after the other, gradients by autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nestmem.core import L2, MemoryState, Model, Objective, Weights, newton_schulz
from nestmem.ops.derivative import without_autocast
from nestmem.ops.muon.start import Per, accept


@without_autocast
def recurrent(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    rate: Tensor | float,
    decay: Tensor | float,
    momentum: Tensor | float,
    state: MemoryState,
    *,
    model: Model,
    objective: Objective | None = None,
    window: Tensor | None = None,
    chunk: int = 64,
    per: Per = "token",
    steps: int | None = 5,
    renormalize: bool = False,
    checkpoint: bool = True,
    check: bool = True,
) -> tuple[Tensor, MemoryState]:
    """The definition of `chunked`, which describes the arguments; nothing is checkpointed."""
    q, k, v, gates = accept(
        queries,
        keys,
        values,
        rate,
        decay,
        momentum,
        window,
        state,
        chunk=chunk,
        per=per,
        steps=steps,
        renormalize=renormalize,
        check=check,
    )
    objective = objective or L2()

    def gradient(weights: Weights, key: Tensor, value: Tensor) -> Weights:
        """d loss(M(k), v) / dW of one token [B, H, width]."""
        return torch.func.grad(
            lambda w: objective.loss(model(w, key[:, :, None]), value[:, :, None]).sum()  # pyright: ignore
        )(weights)

    def orthogonal(name: str, s: Tensor) -> Tensor:
        return s if steps is None or name.endswith("bias") else newton_schulz(s, steps)

    def spread(gate: Tensor, like: Tensor) -> Tensor:
        return gate.reshape(*gate.shape, *[1] * (like.ndim - 2))

    assert isinstance(gates.rate, Tensor)
    assert isinstance(gates.decay, Tensor)
    assert isinstance(gates.momentum, Tensor)
    r, a, m = gates.rate, gates.decay, gates.momentum
    w, s, anchor = state.weights, state.slots["momentum"], state.anchor
    outputs = []

    if per == "token":
        gamma = torch.ones_like(r)[..., None] if gates.window is None else gates.window
        before = gamma.shape[-1] - 1
        past_k = torch.cat([state.recent[0], k], 2) if state.recent else F.pad(k, (0, 0, before, 0))
        past_v = torch.cat([state.recent[1], v], 2) if state.recent else F.pad(v, (0, 0, before, 0))
        for t in range(k.shape[2]):
            if (state.position + t) % chunk == 0:
                anchor = w
            assert anchor is not None
            total = {n: torch.zeros_like(x) for n, x in w.items()}
            for back in range(min(before, state.position + t) + 1):
                i = t + before - back
                g = gradient(anchor, past_k[:, :, i], past_v[:, :, i])
                total = {n: total[n] + spread(gamma[:, :, t, back], x) * x for n, x in g.items()}
            s = {n: spread(m[:, :, t], x) * s[n] - spread(r[:, :, t], x) * x for n, x in total.items()}
            w = {n: spread(a[:, :, t], x) * x + orthogonal(n, s[n]) for n, x in w.items()}
            outputs.append(model(w, q[:, :, t : t + 1]))
        end = past_k.shape[2]
        recent = (past_k[:, :, end - before :], past_v[:, :, end - before :]) if before else None
        after = state.replace(weights=w, slots={"momentum": s}, anchor=anchor, recent=recent)
    else:
        total, kept, norm = state.slots["gradient"], state.slots["gates"], state.slots["norm"]
        for t in range(k.shape[2]):
            outputs.append(model(w, q[:, :, t : t + 1]))
            g = gradient(w, k[:, :, t], v[:, :, t])
            total = {n: total[n] + spread(r[:, :, t], x) * x for n, x in g.items()}
            kept = {"decay": kept["decay"] * a[:, :, t], "momentum": kept["momentum"] + m[:, :, t] / chunk}
            if (state.position + t + 1) % chunk == 0:
                s = {n: spread(kept["momentum"], x) * s[n] - x for n, x in total.items()}
                w = {n: spread(kept["decay"], x) * x + orthogonal(n, s[n]) for n, x in w.items()}
                if renormalize:
                    for n, size in norm.items():
                        length = (w[n].square().sum(-2, keepdim=True) + 1e-12).sqrt()
                        w[n] = size * w[n] / length
                total = {n: torch.zeros_like(x) for n, x in total.items()}
                kept = {"decay": torch.ones_like(kept["decay"]), "momentum": torch.zeros_like(kept["decay"])}
        after = state.replace(
            weights=w, slots={"momentum": s, "gradient": total, "gates": kept, "norm": norm}
        )
    return torch.cat(outputs, 2).to(queries.dtype), after.replace(position=state.position + keys.shape[2])
