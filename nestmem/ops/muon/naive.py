"""Muon memories as the papers write them: one token after the other, gradients by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from nestmem.core import L2, Gates, MemoryState, Model, Objective, Weights, newton_schulz
from nestmem.core.checks import check_written
from nestmem.core.optimizer import like
from nestmem.errors import InputError
from nestmem.ops.derivative import own_arithmetic
from nestmem.ops.muon.start import Per, accept


@own_arithmetic
def recurrent(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    gates: Gates,
    state: MemoryState,
    *,
    model: Model,
    objective: Objective | None = None,
    chunk: int = 64,
    window: int = 1,
    per: Per = "token",
    steps: int | None = 5,
    renormalize: bool = False,
    checkpoint: bool = True,
    check: bool = True,
) -> tuple[Tensor, MemoryState]:
    """Arguments, result and errors of `chunked`; the definition it must agree with. Nothing is checkpointed."""
    objective = L2() if objective is None else objective
    q, k, v, gates, state = accept(
        queries,
        keys,
        values,
        gates,
        state,
        model=model,
        objective=objective,
        chunk=chunk,
        window=window,
        per=per,
        steps=steps,
        renormalize=renormalize,
        check=check,
    )

    def gradient(weights: Weights, key: Tensor, value: Tensor, t: int) -> Weights:
        """d loss(M(k), v) / dW of one token [B, H, width], with the threshold of token t."""
        limit = None if gates.threshold is None else gates.threshold[:, :, t : t + 1]

        def loss(w: Weights) -> Tensor:
            prediction = model(w, key[:, :, None])
            if prediction.shape[3] != value.shape[2]:
                raise InputError(f"values have width {prediction.shape[3]}; got {list(values.shape)}")
            return objective.loss(prediction, value[:, :, None], limit).sum()

        return torch.func.grad(loss)(weights)

    def orthogonal(name: str, s: Tensor) -> Tensor:
        return s if steps is None or name.endswith("bias") else newton_schulz(s, steps)

    assert isinstance(gates.rate, Tensor)
    assert isinstance(gates.decay, Tensor)
    assert isinstance(gates.momentum, Tensor)
    r, a, m = gates.rate, gates.decay, gates.momentum
    w, s, anchor = state.weights, state.slots["momentum"], state.anchor
    outputs = []

    if per == "token":
        gamma = torch.ones_like(r)[..., None] if gates.window is None else gates.window
        past_k = torch.cat([state.recent[0], k], 2) if state.recent else k
        past_v = torch.cat([state.recent[1], v], 2) if state.recent else v
        for t in range(k.shape[2]):
            if (state.position + t) % chunk == 0:
                anchor = w
            assert anchor is not None
            total = {n: torch.zeros_like(x) for n, x in w.items()}
            for back in range(min(window, state.position + t + 1)):
                i = t + window - 1 - back
                g = gradient(anchor, past_k[:, :, i], past_v[:, :, i], t)
                total = {n: total[n] + like(gamma[:, :, t, back], x) * x for n, x in g.items()}
            s = {n: like(m[:, :, t], x) * s[n] - like(r[:, :, t], x) * x for n, x in total.items()}
            w = {n: like(a[:, :, t], x) * x + orthogonal(n, s[n]) for n, x in w.items()}
            outputs.append(model(w, q[:, :, t : t + 1]))
        end = k.shape[2]
        recent = (past_k[:, :, end:], past_v[:, :, end:]) if window > 1 else None
        after = state.replace(weights=w, slots={"momentum": s}, anchor=anchor, recent=recent)
    else:
        total, kept, norm = state.slots["gradient"], state.slots["gates"], state.slots["norm"]
        for t in range(k.shape[2]):
            outputs.append(model(w, q[:, :, t : t + 1]))
            g = gradient(w, k[:, :, t], v[:, :, t], t)
            total = {n: total[n] + like(r[:, :, t], x) * x for n, x in g.items()}
            kept = {"decay": kept["decay"] * a[:, :, t], "momentum": kept["momentum"] + m[:, :, t] / chunk}
            if (state.position + t + 1) % chunk == 0:
                s = {n: like(kept["momentum"], x) * s[n] - x for n, x in total.items()}
                w = {n: like(kept["decay"], x) * x + orthogonal(n, s[n]) for n, x in w.items()}
                if renormalize:
                    for n, size in norm.items():
                        length = (w[n].square().sum(-2, keepdim=True) + 1e-12).sqrt()
                        w[n] = size * w[n] / length
                total = {n: torch.zeros_like(x) for n, x in total.items()}
                kept = {"decay": torch.ones_like(kept["decay"]), "momentum": torch.zeros_like(kept["decay"])}
        after = state.replace(
            weights=w, slots={"momentum": s, "gradient": total, "gates": kept, "norm": norm}
        )
    check_written(after, check)
    return torch.cat(outputs, 2).to(queries.dtype), after.replace(
        position=state.position + keys.shape[2], chunk=chunk
    )
