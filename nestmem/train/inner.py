"""The inner loop of meta-training: sessions become banks by steps that can be differentiated.

A write has some rows (see `streams`) and takes `steps` steps on the banks B_f of the fast level; what a model reads is
B = B_init + B_f + B_m + B_s. With keys k = A x and errors e = d loss / d output of the written tokens at the banks B,
each token weighted by w, at one site and for one user:

    S = sum w k k^T,   C = -sum w e k^T,   G = -C / (number of written tokens)
    ridge   B_f <- B_f + eta_s C (S_before + S + p C0 + ridge I)^-1          (parametric memory 7.10a; RLS)
    sgd     B_f <- B_f - eta_s G                                             (TTT-E2E, arXiv 2512.23675)
    adam    m <- b1 m + (1-b1) G;  v <- b2 v + (1-b2) G^2;                   (PERK, arXiv 2507.06415)
            B_f <- B_f - eta_s (m / (1-b1^s)) / sqrt(v / (1-b2^s) + eps^2)   (eps inside: smooth at 0)

S_before sums the moments of earlier writes, C0 is the mean k k^T of unrelated text. eta_s is learned per site and per
step (PERK's LSLR), and so are ridge and p, and w = form x gate x token: `form` one number for question rows, statement
rows and raw text; `gate` = sigmoid((nats - tau) / 0.1) of a row's mean loss before the step (write what is not known);
`token` = 2 sigmoid(u k) per site, or a small network on the cached hidden state, which weighs the loss itself.

Levels: before write j, B_f <- rho_f B_f and S_before <- rho_f S_before; after every `medium_every`-th write
B_m <- rho_m B_m + a_m B_f, B_f <- (1 - a_m) B_f; after every `slow_every`-th the same from medium to slow. Without
decay the sum of the levels does not change.

Which derivatives are kept: "full" all of every step; "truncated" those of the last `keep` writes (in them, of the last
`keep_steps` steps), everything before is constant; "first" leaves out that k and e depend on the banks; "none".

Letters: U users, B rows, T tokens, R rank, O outputs, D width of the hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from nestmem.adapters.banks import BankedModel, Lower, ridge_banks
from nestmem.adapters.rules import LEVELS, BankSettings
from nestmem.adapters.sites import blocks_of, final_norm_of
from nestmem.errors import InputError
from nestmem.train.streams import FORMS, Rows

Step = Literal["ridge", "sgd", "adam"]
Order = Literal["truncated", "first", "full", "none"]
ORDERS = ("truncated", "first", "full", "none")
GATE_WIDTH = 0.1
BETAS = (0.9, 0.95)
EPS = 1e-8


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """How a write is done; the numbers it has are learned (see `WriteLearner`).

    `levels` 1 or 3; `token` "vector", "mlp" or "none"; `clip` the largest norm of a user's G over all sites (0: any);
    `protect` p at the start, 0 for no C0; `initial` whether B_init is learned (else 0).
    """

    step: Step = "ridge"
    steps: int = 1
    token: Literal["vector", "mlp", "none"] = "vector"
    gate: bool = True
    levels: int = 3
    medium_every: int = 4
    slow_every: int = 16
    initial: bool = False
    clip: float = 0.0
    protect: float = 0.0

    def __post_init__(self) -> None:
        for name, known in {
            "step": ("ridge", "sgd", "adam"),
            "token": ("vector", "mlp", "none"),
            "levels": (1, len(LEVELS)),
        }.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name}={getattr(self, name)!r}: expected one of {', '.join(map(str, known))}"
                )
        if min(self.steps, self.medium_every, self.slow_every) < 1:
            raise InputError(
                f"steps={self.steps}, medium_every={self.medium_every}, slow_every={self.slow_every}: "
                "expected at least 1 each"
            )
        if self.protect and self.step != "ridge":
            raise InputError(
                f"protect={self.protect} with {self.step} steps: only ridge steps protect unrelated text by its keys; "
                "expected protect 0, or step 'ridge'"
            )


class TokenWeights(nn.Module):
    """PERK's weight of a token's loss: two layers on its hidden state, softplus with beta 3, last layer 0 at first.

    w = softplus_3(f(h / rms(h))) / softplus_3(0), so that every token counts 1 before training. (PERK reads the last
    hidden state and starts at ln 2 / 3; here it is the cached state below the banks, so it costs no pass.)
    """

    def __init__(self, width: int, units: int = 128):
        super().__init__()
        self.first = nn.Linear(width, units)
        self.last = nn.Linear(units, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Weights (B, T)."""
        scaled = hidden_BTD * torch.rsqrt(hidden_BTD.square().mean(-1, keepdim=True) + 1e-6)
        raw = self.last(F.gelu(self.first(scaled)))[..., 0]
        return F.softplus(raw, beta=3) / F.softplus(torch.zeros_like(raw), beta=3)


class WriteLearner(nn.Module):
    """Everything the write learns, around the values it starts from; logarithms stay within `limit` of the start.

    Args: `settings`, ridge, rate and token vectors to start from; `outputs`, O per site; `width`, D; `base_moments`,
    C0 (R, R) per site, needed for `protect`; `reads`, the dtype in which the model takes banks (what is learned and
    summed is at least float32).
    """

    start_ridge: Tensor
    start_rate: Tensor

    def __init__(
        self,
        config: InnerConfig,
        settings: BankSettings,
        outputs: Sequence[int],
        width: int,
        *,
        base_moments: Sequence[Tensor] | None = None,
        limit: float = 4.0,
        reads: torch.dtype = torch.float32,
    ):
        super().__init__()
        dtype = torch.promote_types(reads, torch.float32)
        self.reads = reads
        if config.protect and base_moments is None:
            raise InputError(f"protect={config.protect} needs text to protect; give --text, or protect 0")
        self.config = config
        self.limit = limit
        sites = len(settings.ridge)
        self.register_buffer("start_ridge", torch.tensor(settings.ridge, dtype=dtype).log())
        self.register_buffer("start_rate", torch.tensor(settings.rate, dtype=dtype).log())
        self.log_rate = nn.Parameter(torch.zeros(config.steps, sites, dtype=dtype))
        self.log_ridge = nn.Parameter(torch.zeros(sites, dtype=dtype))
        self.log_form = nn.Parameter(torch.zeros(len(FORMS), dtype=dtype))
        self.decay_logit = nn.Parameter(torch.tensor([4.0, 5.0, 6.0], dtype=dtype))
        self.transfer_logit = nn.Parameter(torch.zeros(2, dtype=dtype))
        self.tau = nn.Parameter(torch.tensor(0.05, dtype=dtype))
        self.log_protect = nn.Parameter(torch.zeros((), dtype=dtype))
        self.base_moments = [m.to(dtype) for m in base_moments] if base_moments is not None else None
        vectors = settings.token if config.token == "vector" else ()
        self.token = nn.ParameterList(nn.Parameter(u.detach().clone().to(dtype)) for u in vectors)
        self.network = TokenWeights(width).to(dtype) if config.token == "mlp" else None
        ranks = [u.shape[0] for u in settings.token]
        self.initial = nn.ParameterList(
            nn.Parameter(torch.zeros(o, r, dtype=dtype)) for o, r in zip(outputs, ranks, strict=True)
        )
        self._freeze()

    def _freeze(self) -> None:
        """What this configuration of the inner loop does not use is not learned, nor decayed by the optimizer."""
        config = self.config
        used = {
            "log_ridge": config.step == "ridge",
            "decay_logit": config.levels > 1,
            "transfer_logit": config.levels > 1,
            "tau": config.gate,
            "log_protect": bool(config.protect) and config.step == "ridge",
        }
        for name, learned in used.items():
            getattr(self, name).requires_grad_(learned)
        for bank in self.initial:
            bank.requires_grad_(config.initial)

    def scalars(self) -> list[nn.Parameter]:
        """The learned numbers: rates, ridges, forms, decays, transfers, gate, protection."""
        names = ("log_rate", "log_ridge", "log_form", "decay_logit", "transfer_logit", "tau", "log_protect")
        return [getattr(self, name) for name in names if getattr(self, name).requires_grad]

    def vectors(self) -> list[nn.Parameter]:
        """The learned tensors: token vectors or network, initial banks."""
        chosen = {id(p) for p in self.scalars()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in chosen]

    def rate(self) -> Tensor:
        """eta (steps, sites)."""
        return (self.start_rate + self.log_rate.clamp(-self.limit, self.limit)).exp()

    def ridge(self) -> Tensor:
        """One number a site."""
        return (self.start_ridge + self.log_ridge.clamp(-self.limit, self.limit)).exp()

    def decay(self) -> Tensor:
        """rho of fast, medium and slow, in (0, 1); all 1 with one level."""
        if self.config.levels == 1:
            return torch.ones_like(self.decay_logit)
        return torch.sigmoid(self.decay_logit)

    def transfer(self) -> Tensor:
        """a from fast to medium, and from medium to slow, in (0, 1)."""
        return torch.sigmoid(self.transfer_logit)


@dataclass(frozen=True)
class Part:
    """Rows with what the blocks below the banks made of them, computed once."""

    rows: Rows
    lower: Lower


@dataclass(frozen=True)
class InnerState:
    """Per level and site the banks (U, O, R); per site the moments (U, R, R) of all writes so far; how many those are."""

    levels: tuple[tuple[Tensor, ...], ...]
    moments: tuple[Tensor, ...]
    writes: int = 0


def prepare(banked: BankedModel, rows: Rows) -> Part:
    """Run the lower blocks once, without gradient."""
    device = banked.bases[0].device
    weights = rows.weights.to(device, banked.bases[0].dtype)
    rows = Rows(ids=rows.ids.to(device), weights=weights, form=rows.form.to(device))
    return Part(rows, banked.lower(rows.ids))


def written_logits(banked: BankedModel, part: Part) -> Tensor:
    """Logits (N, V) at the positions that predict a token of weight above 0; call it inside `banked.using`.

    From the kept hidden states upwards; attention is computed so that it has second derivatives.
    """
    model, hidden = banked.model, part.lower.hidden
    with sdpa_kernel(SDPBackend.MATH):
        blocks = blocks_of(model)[banked.sites[0].block :]
        for block, (rest, named) in zip(blocks, part.lower.arguments, strict=True):
            out = block(hidden, *rest, **named)
            hidden = out if isinstance(out, Tensor) else out[0]
    chosen = final_norm_of(model)(hidden)[:, :-1][part.rows.weights[:, 1:] > 0]
    logits = model.get_output_embeddings()(chosen)
    cap = getattr(model.config, "final_logit_softcapping", None)
    logits = cap * torch.tanh(logits / cap) if cap else logits
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def written_losses(logits_NV: Tensor, rows: Rows) -> Tensor:
    """Cross-entropy in nats of every token of weight above 0, (B, T-1); 0 at the others."""
    chosen = rows.weights[:, 1:] > 0
    nats_N = F.cross_entropy(logits_NV, rows.ids[:, 1:][chosen], reduction="none")
    return nats_N.new_zeros(chosen.shape).masked_scatter(chosen, nats_N)


def empty_state(banked: BankedModel, learner: WriteLearner, users: int) -> InnerState:
    """Nothing written yet."""
    sites = list(zip(banked.sites, banked.bases, strict=True))
    wide = learner.log_rate.new_zeros
    zeros = tuple(wide(users, site.d_out, basis.shape[0]) for site, basis in sites)
    moments = tuple(wide(users, basis.shape[0], basis.shape[0]) for _, basis in sites)
    return InnerState((zeros,) * learner.config.levels, moments)


def read(learner: WriteLearner, state: InnerState) -> list[Tensor]:
    """The banks (U, O, R) per site that a model reads: B_init and all levels."""
    return [
        (initial + torch.stack([level[s] for level in state.levels]).sum(0)).to(learner.reads)
        for s, initial in enumerate(learner.initial)
    ]


def _sums(
    banked: BankedModel,
    learner: WriteLearner,
    part: Part,
    banks: list[Tensor],
    users: int,
    order: Order,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """S (U, R, R) and C (U, O, R) per site over the rows, and the number of written tokens (U,)."""
    second = order == "full"
    if not second:
        banks = [bank.detach() for bank in banks]
    rows = part.rows
    weights_BT = rows.weights[:, 1:]
    loss_weights_BT = weights_BT
    if learner.network is not None:
        wide = part.lower.hidden.to(learner.log_rate.dtype)
        loss_weights_BT = weights_BT * learner.network(wide)[:, 1:]
    with banked.using(banks, perturb=True) as call, torch.enable_grad():
        nats_BT = written_losses(written_logits(banked, part), rows)
        deltas = [call.deltas[s] for s in range(len(banked.sites))]
        loss = (nats_BT * loss_weights_BT).sum()
        errors = torch.autograd.grad(
            loss, deltas, create_graph=second or (order == "first" and learner.network is not None)
        )
    row_B = learner.log_form[rows.form].exp()
    if learner.config.gate:
        nats_B = (nats_BT * weights_BT).sum(1) / weights_BT.sum(1).clamp(min=1e-6)
        nats_B = nats_B if second else nats_B.detach()
        row_B = row_B * torch.sigmoid((nats_B - learner.tau) / GATE_WIDTH)
    moments, cross = [], []
    for s, error_BTO in enumerate(errors):
        k_BTR = call.keys[s][:, :-1].to(learner.log_rate.dtype)
        k_BTR = k_BTR if second else k_BTR.detach()
        w_BT = (weights_BT > 0) * row_B[:, None]
        if len(learner.token):
            w_BT = w_BT * 2 * torch.sigmoid(k_BTR @ learner.token[s])
        k = k_BTR.reshape(users, -1, k_BTR.shape[-1])
        weighted = k * w_BT.reshape(users, -1, 1)
        e = error_BTO[:, :-1].to(k.dtype).reshape(users, -1, error_BTO.shape[-1])
        moments.append(weighted.transpose(1, 2) @ k)
        cross.append(-e.transpose(1, 2) @ weighted)
    return moments, cross, (weights_BT > 0).reshape(users, -1).sum(1)


def write(
    banked: BankedModel,
    learner: WriteLearner,
    state: InnerState,
    part: Part,
    *,
    orders: Sequence[Order],
) -> InnerState:
    """The state after one more write; `orders` says of each step which derivatives it keeps: full, first or none."""
    if all(order == "none" for order in orders):
        with torch.no_grad():
            return _write(banked, learner, state, part, orders)
    return _write(banked, learner, state, part, orders)


def _write(
    banked: BankedModel,
    learner: WriteLearner,
    state: InnerState,
    part: Part,
    orders: Sequence[Order],
) -> InnerState:
    config = learner.config
    users = state.moments[0].shape[0]
    decay = learner.decay()
    fast = [decay[0] * bank for bank in state.levels[0]]
    before = [decay[0] * moment for moment in state.moments]
    slower = state.levels[1:]
    after = before
    m: list[Tensor] = [torch.zeros_like(bank) for bank in fast]
    v: list[Tensor] = [torch.zeros_like(bank) for bank in fast]
    for step, order in enumerate(orders):
        kept = order != "none"
        with torch.set_grad_enabled(kept):
            if not kept:
                fast = [bank.detach() for bank in fast]
            banks = read(learner, InnerState((tuple(fast), *slower), ()))
            moments, cross, count_U = _sums(banked, learner, part, banks, users, order)
            rate = learner.rate()[step]
            after = [old + new for old, new in zip(before, moments, strict=True)]
            if config.step == "ridge":
                total = after
                if learner.base_moments is not None and config.protect:
                    weight = config.protect * learner.log_protect.exp()
                    total = [a + weight * c for a, c in zip(after, learner.base_moments, strict=True)]
                change = ridge_banks(total, cross, list(learner.ridge()), list(rate))
            else:
                slope = [-c / count_U.clamp(min=1)[:, None, None] for c in cross]
                slope = _clipped(slope, config.clip) if config.clip else slope
                if config.step == "adam":
                    m = [BETAS[0] * a + (1 - BETAS[0]) * g for a, g in zip(m, slope, strict=True)]
                    v = [BETAS[1] * a + (1 - BETAS[1]) * g * g for a, g in zip(v, slope, strict=True)]
                    first, second = 1 - BETAS[0] ** (step + 1), 1 - BETAS[1] ** (step + 1)
                    slope = [a / first / (b / second + EPS * EPS).sqrt() for a, b in zip(m, v, strict=True)]
                change = [-eta * g for eta, g in zip(rate, slope, strict=True)]
            fast = [bank + d for bank, d in zip(fast, change, strict=True)]
    return _transferred(learner, (tuple(fast), *slower), tuple(after), state.writes + 1)


def _clipped(slope: list[Tensor], most: float) -> list[Tensor]:
    """G of each user scaled down to norm `most` over all sites where it is longer."""
    norm_U = torch.stack([g.square().sum((1, 2)) for g in slope]).sum(0).add(1e-12).sqrt()
    factor_U = (most / norm_U).clamp(max=1.0)
    return [g * factor_U[:, None, None] for g in slope]


def _transferred(
    learner: WriteLearner,
    levels: tuple[tuple[Tensor, ...], ...],
    moments: tuple[Tensor, ...],
    writes: int,
) -> InnerState:
    """Move the share a of a level to the next slower one where its clock says so."""
    if learner.config.levels > 1:
        decay, share = learner.decay(), learner.transfer()
        moved = list(levels)
        for n, every in enumerate((learner.config.medium_every, learner.config.slow_every)):
            if writes % every == 0:
                pairs = list(zip(moved[n], moved[n + 1], strict=True))
                moved[n + 1] = tuple(decay[n + 1] * slow + share[n] * quick for quick, slow in pairs)
                moved[n] = tuple((1 - share[n]) * quick for quick, _ in pairs)
        levels = tuple(moved)
    return InnerState(levels, moments, writes)


def live(
    banked: BankedModel,
    learner: WriteLearner,
    writes: Sequence[Part],
    *,
    users: int,
    order: Order,
    keep: int = 2,
    keep_steps: int = 0,
) -> InnerState:
    """The state after all writes, with the derivatives that `order` keeps (`keep_steps` 0: all steps of a kept write)."""
    if order not in ORDERS:
        raise InputError(f"order={order!r}: expected one of {', '.join(ORDERS)}")
    steps = learner.config.steps
    state = empty_state(banked, learner, users)
    for n, part in enumerate(writes):
        orders: list[Order] = [order] * steps
        if order == "truncated":
            last = steps if not keep_steps else min(keep_steps, steps)
            kept = n >= len(writes) - keep
            orders = ["none"] * (steps - last) + ["full"] * last if kept else ["none"] * steps
        state = write(banked, learner, state, part, orders=orders)
    return state
