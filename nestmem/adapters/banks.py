"""Fast-weight banks on a frozen causal LM: forward passes with per-sample banks, keys and errors.

Letters: B samples, T tokens, R rank, O outputs of a projection, U users.
A bank adds B (A x) to a projection's output: `out_BTO = W x + bank_UOR (A x)_BTR` (LoRA with a frozen, shared A).
The B samples of a batch belong to U users, equally many each, one user's samples side by side; U divides B.
Banks are arguments of a call and live as long as the call: no module keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nestmem.adapters.sites import Site, blocks_of, final_norm_of, find_sites, right_singular_basis

Banks = Sequence[Tensor]
"""One tensor (U, O, R) per site."""


@dataclass
class _Call:
    """What the hooks of one forward pass read and record."""

    banks: Banks | None
    perturb: bool
    keys: dict[int, Tensor] = field(default_factory=dict)
    deltas: dict[int, Tensor] = field(default_factory=dict)


class BankedModel:
    """A frozen language model whose last feed-forward layers take banks.

    Args: `model`, a Hugging Face causal LM; `rank`, R, at most d_in of a site; `last`, how many blocks carry banks;
    `bases`, one A (R_s, d_in) per site, by default the top right singular vectors of the site's weight.
    """

    def __init__(self, model: nn.Module, *, rank: int, last: int, bases: Sequence[Tensor] | None = None):
        self.model = model
        self.sites: list[Site] = find_sites(model, last=last)
        if bases is None:
            bases = [right_singular_basis(site.weight(), min(rank, site.d_in)) for site in self.sites]
        self.bases = list(bases)
        self._call: _Call | None = None
        for index, site in enumerate(self.sites):
            site.module.register_forward_hook(self._hook(index))

    def _hook(self, index: int):
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            call = self._call
            if call is None or (call.banks is None and not call.perturb):
                return output
            keys_BTR = inputs[0] @ self.bases[index].T
            if call.banks is not None:
                output = output + apply_bank(keys_BTR, call.banks[index])
            if call.perturb:
                delta = torch.zeros_like(output).requires_grad_()
                call.keys[index], call.deltas[index] = keys_BTR, delta
                output = output + delta
            return output

        return hook

    @contextmanager
    def using(self, banks: Banks | None, *, perturb: bool = False) -> Iterator[_Call]:
        """Within the block, forward passes of the model use `banks`. Not reentrant; one thread at a time."""
        if self._call is not None:
            raise RuntimeError("a forward pass with banks is already under way in this model")
        self._call = _Call(banks, perturb)
        try:
            yield self._call
        finally:
            self._call = None

    def __call__(self, banks: Banks | None = None, **inputs: Any) -> Any:
        """The model's own forward pass, with `banks` added."""
        with self.using(banks):
            return self.model(**inputs)

    @torch.no_grad()
    def lower(self, ids_BT: Tensor) -> Lower:
        """Run the model once without gradient and keep what the blocks with banks received. As `using`, it is not
        reentrant."""
        blocks = blocks_of(self.model)[self.sites[0].block :]
        seen: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []

        def keep(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            seen.append((hidden, args[1:], named))

        handles = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in blocks]
        try:
            with self.using(None):
                self.model(input_ids=ids_BT, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return Lower(seen[0][0], tuple((rest, named) for _, rest, named in seen))

    def upper(self, lower: Lower, positions_BT: Tensor, banks: Banks | None) -> Tensor:
        """Logits (N, V) of the chosen positions (a mask), from the kept hidden states upwards, with `banks` on."""
        with self.using(banks):
            return self._upper(lower, positions_BT)

    def _upper(self, lower: Lower, positions_BT: Tensor) -> Tensor:
        hidden = lower.hidden
        blocks = blocks_of(self.model)[self.sites[0].block :]
        for block, (rest, named) in zip(blocks, lower.arguments, strict=True):
            out = block(hidden, *rest, **named)
            hidden = out if isinstance(out, Tensor) else out[0]
        hidden = final_norm_of(self.model)(hidden)[positions_BT]
        logits = self.model.get_output_embeddings()(hidden)
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return cap * torch.tanh(logits / cap) if cap else logits

    def upper_loss(self, lower: Lower, ids_BT: Tensor, weights_BT: Tensor, banks: Banks) -> Tensor:
        """Sum of weight x cross-entropy (nats) of a batch, from the kept hidden states upwards."""
        predicting_BT = _predicting(weights_BT)
        return _chosen_loss(self.upper(lower, predicting_BT, banks), ids_BT, weights_BT, predicting_BT)

    def upper_keys_errors(
        self, lower: Lower, ids_BT: Tensor, weights_BT: Tensor, banks: Banks | None
    ) -> tuple[list[Tensor], list[Tensor], float]:
        """`keys_errors` from the kept hidden states upwards, of the written tokens alone: keys (N, R) and errors
        (N, O) per site, and the batch's sum of weight x cross-entropy (nats)."""
        predicting_BT = _predicting(weights_BT)
        with self.using(banks, perturb=True) as call, torch.enable_grad():
            logits = self._upper(lower, predicting_BT)
            loss = _chosen_loss(logits, ids_BT, weights_BT, predicting_BT)
            deltas = [call.deltas[index] for index in range(len(self.sites))]
            errors = torch.autograd.grad(loss, deltas)
        keys = [call.keys[index].detach()[predicting_BT] for index in range(len(self.sites))]
        return keys, [error[predicting_BT] for error in errors], float(loss.detach())

    def keys_errors(
        self, ids_BT: Tensor, weights_BT: Tensor, *, banks: Banks | None = None, create_graph: bool = False
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Keys and errors of written tokens, for every site.

        `weights_BT` says how much each token is to be predicted (0 = context). Returns `keys` (B, T-1, R) = A x,
        `errors` (B, T-1, O) = d loss / d output with loss = sum of weight x cross-entropy in nats, and the loss per
        sample (B,). Position t is the one that predicts token t+1. Rows of a batch do not mix: the loss is a sum.
        With `create_graph` all three can be differentiated again (attention must then have a double backward).
        """
        with self.using(banks, perturb=True) as call, torch.enable_grad():
            logits = self.model(input_ids=ids_BT, use_cache=False).logits
            loss_B = written_loss(logits, ids_BT, weights_BT)
            deltas = [call.deltas[index] for index in range(len(self.sites))]
            errors = torch.autograd.grad(loss_B.sum(), deltas, create_graph=create_graph)
        keys = [call.keys[index][:, :-1] for index in range(len(self.sites))]
        errors = [error[:, :-1] for error in errors]
        if create_graph:
            return keys, errors, loss_B
        return [key.detach() for key in keys], errors, loss_B.detach()


@dataclass(frozen=True)
class Lower:
    """What enters the first block with banks: hidden states (B, T, D), and each upper block's other arguments, by place
    and by name."""

    hidden: Tensor
    arguments: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]


def apply_bank(keys_BTR: Tensor, bank_UOR: Tensor) -> Tensor:
    """What the banks of U users add to a projection's output for their B samples: (B, T, O)."""
    samples, tokens, rank = keys_BTR.shape
    users, outputs, _ = bank_UOR.shape
    if samples % users:
        raise ValueError(f"{samples} samples cannot be shared equally by the banks of {users} users")
    added = keys_BTR.reshape(users, -1, rank) @ bank_UOR.transpose(1, 2)
    return added.reshape(samples, tokens, outputs)


def _predicting(weights_BT: Tensor) -> Tensor:
    """Mask of the positions that predict a token of weight above 0: one before each."""
    last = torch.zeros_like(weights_BT[:, :1], dtype=torch.bool)
    return torch.cat([weights_BT[:, 1:] > 0, last], 1)


def _chosen_loss(logits_NV: Tensor, ids_BT: Tensor, weights_BT: Tensor, predicting_BT: Tensor) -> Tensor:
    """Sum of weight x cross-entropy (nats) of the tokens after the chosen positions; at least float32."""
    wide = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    chosen = predicting_BT[:, :-1]
    nll_N = nn.functional.cross_entropy(wide, ids_BT[:, 1:][chosen], reduction="none")
    return (nll_N * weights_BT[:, 1:][chosen]).sum()


def written_loss(logits_BTV: Tensor, ids_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """Sum of weight x cross-entropy (nats) of each token given those before it, per sample (B,); at least float32."""
    wide = logits_BTV[:, :-1].to(torch.promote_types(logits_BTV.dtype, torch.float32))
    nll_BT = nn.functional.cross_entropy(wide.transpose(1, 2), ids_BT[:, 1:], reduction="none")
    return (nll_BT * weights_BT[:, 1:]).sum(1)


def ridge_banks(
    moments: Sequence[Tensor], cross: Sequence[Tensor], ridge: Sequence[Tensor], rate: Sequence[Tensor]
) -> list[Tensor]:
    """Banks from sums of statistics: B = rate * C (S + ridge I)^-1 (nestmem's additive write).

    `moments` S = sum w k k^T (U, R, R), `cross` C = -sum w e k^T (U, O, R), `ridge` > 0 and `rate` scalars per
    site. Returns (U, O, R) per site. Differentiable; solved by Cholesky, in the dtype of the statistics.
    """
    banks = []
    for S_URR, C_UOR, lam, eta in zip(moments, cross, ridge, rate, strict=True):
        eye = torch.eye(S_URR.shape[-1], dtype=S_URR.dtype, device=S_URR.device)
        factor = torch.linalg.cholesky(S_URR + lam * eye)
        banks.append(eta * torch.cholesky_solve(C_UOR.transpose(1, 2), factor).transpose(1, 2))
    return banks
