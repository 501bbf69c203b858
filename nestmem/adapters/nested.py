"""Three levels of memory in weights, each fitted on top of the slower ones: nestmem's default write.

A level's banks are found by ridge steps repeated at the current banks (Gauss-Newton with the keys' second moments as
the curvature; parametric memory 7.10a, D6), over all of the level's rows, starting from the banks of the level below:

    B <- B + step rate C(B) (C0 + S_below + S + ridge I)^-1        C(B) = -sum e(B) k^T,  S = sum k k^T

S is taken where the fit starts. `S_below` are the moments of what slower levels hold: directions that old memories use
cost more to change. `C0` are those of unrelated text: they protect what the base does elsewhere. The step grows while
the loss falls as its slope promises, or nearly, and shrinks where it does not (Armijo's rule); the fit ends once the
written tokens are known (`FLOOR` nats each) or after `PASSES` passes.

    B_slow   = fit(slow rows,   from 0)
    B_medium = fit(medium rows, from B_slow)
    B_fast   = fit(fast rows,   from B_medium)

with the rows of `REPLAY` memories of the slower levels, drawn by hash, among those of medium and fast.

A fit is a function of the *set* of rows: they are put in a canonical order. So a state is a function of which memories
each level holds; the order of telling does not matter, and taking a memory back means fitting its level, and those
above, without it: bit for bit a life that never had it (same machine, same number of threads). What the sets have in
common is not computed twice: fits are cached by their sets.

Letters: R rank, O outputs, T tokens, N written tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from nestmem.adapters.banks import BankedModel, Lower, ridge_banks
from nestmem.adapters.rows import Row, pack_rows, unpack_rows
from nestmem.adapters.rules import LEVELS, BankSettings, Rule, hash_tensors
from nestmem.errors import ModelError

BATCH = 32
"""Rows computed together in a fit."""
STEP, GROW, SHRINK, LARGEST = 0.5, 1.5, 0.4, 4.0
ENOUGH, GOOD = 0.05, 0.2
"""A step is kept when the loss falls by this share of what its slope promises, and grows when by that share."""
REPLAY = 16
PASSES = 20
FLOOR = 0.05
KEPT = 64
"""Fits kept in memory."""


@dataclass(frozen=True)
class Fit:
    """Banks (O, R) per site after a fit, and the moments (R, R, float64) of its rows and of all that was below.

    `passes` over the rows, `loss` in nats per written token at the end, `scale`: mean |B k| over the rows' first
    written tokens, per site (what `applies` compares with)."""

    banks: tuple[Tensor, ...]
    moments: tuple[Tensor, ...]
    passes: int
    loss: float
    scale: tuple[float, ...]
    rows: int


def fit(
    model: BankedModel,
    settings: BankSettings,
    rows: Sequence[Row],
    *,
    start: Sequence[Tensor] | None = None,
    moments: Sequence[Tensor] | None = None,
    step: float = STEP,
    passes: int = PASSES,
    floor: float = FLOOR,
) -> Fit:
    """Banks that know `rows`, found from `start` (default: none) with `moments` (R, R) protected.

    Raises `ModelError` when the loss at the start is not finite. A fit that never lowers the loss returns its start.
    """
    batches = _batches(model, rows)
    written = sum(float((weights_BT[:, 1:] > 0).sum()) for _, _, weights_BT in batches)
    banks = list(start) if start is not None else _zeros(model)
    own, cross, loss, scale = _sums(model, settings, batches, banks)
    if not math.isfinite(loss):
        raise ModelError(
            f"the loss of {len(rows)} rows is {loss} before anything was written; the base model's weights are damaged "
            "or too wide for its dtype"
        )
    total = own if moments is None else [a + b for a, b in zip(own, moments, strict=True)]
    done = 0
    while done < passes and loss > floor * written:
        change = _change(total, cross, settings, step)
        # By the slope as C has it: with the token weights, which the loss is measured without.
        promised = sum(float((c * d).sum()) for c, d in zip(cross, change, strict=True))
        tried = [b + d for b, d in zip(banks, change, strict=True)]
        _, tried_cross, tried_loss, tried_scale = _sums(model, settings, batches, tried)
        done += 1
        gain = (loss - tried_loss) / promised if promised > 0 else 0.0
        if gain >= ENOUGH:
            banks, cross, loss, scale = tried, tried_cross, tried_loss, tried_scale
        step = min(step * GROW, LARGEST) if gain >= GOOD else step if gain >= ENOUGH else step * SHRINK
    per_token = loss / written if written else 0.0
    return Fit(tuple(banks), tuple(total), done, per_token, tuple(scale), len(rows))


def _zeros(model: BankedModel) -> list[Tensor]:
    return [
        basis.new_zeros(site.d_out, basis.shape[0])
        for site, basis in zip(model.sites, model.bases, strict=True)
    ]


def _batches(model: BankedModel, rows: Sequence[Row]) -> list[tuple[Lower, Tensor, Tensor]]:
    """The rows in batches of like length, with what enters the blocks with banks: computed once for all passes."""
    ordered = sorted(rows, key=lambda row: (len(row.ids), row.ids, row.weights))
    device = model.bases[0].device
    batches = []
    for first in range(0, len(ordered), BATCH):
        chosen = ordered[first : first + BATCH]
        longest = max(len(row.ids) for row in chosen)
        ids_BT = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in chosen], device=device)
        weights_BT = torch.tensor(
            [row.weights + [0.0] * (longest - len(row.ids)) for row in chosen], device=device
        )
        batches.append((model.lower(ids_BT), ids_BT, weights_BT))
    return batches


def _sums(
    model: BankedModel,
    settings: BankSettings,
    batches: list[tuple[Lower, Tensor, Tensor]],
    banks: list[Tensor],
) -> tuple[list[Tensor], list[Tensor], float, list[float]]:
    """S (R, R), C (O, R) in float64, the loss (nats, summed), and mean |B k| at the first written tokens."""
    S = [bank.new_zeros(bank.shape[1], bank.shape[1], dtype=torch.float64) for bank in banks]
    C = [torch.zeros_like(bank, dtype=torch.float64) for bank in banks]
    reach, loss, rows = [0.0] * len(banks), 0.0, 0
    for lower, ids_BT, weights_BT in batches:
        keys, errors, nats = model.upper_keys_errors(lower, ids_BT, weights_BT, [b[None] for b in banks])
        loss += nats
        rows += ids_BT.shape[0]
        chosen_BT = weights_BT[:, 1:] > 0
        first_N = (chosen_BT & (chosen_BT.cumsum(1) == 1))[chosen_BT]
        weight_N = weights_BT[:, 1:][chosen_BT].double()
        for s, (k_NR, e_NO, bank) in enumerate(zip(keys, errors, banks, strict=True)):
            reach[s] += float((k_NR[first_N] @ bank.T).norm(dim=1).sum())
            k, e = k_NR.double(), e_NO.double()
            token_N = 2 * torch.sigmoid(k @ settings.token[s].to(k))
            S[s] += (k * (weight_N * token_N)[:, None]).T @ k
            C[s] -= (e * token_N[:, None]).T @ k
    return S, C, loss, [value / max(1, rows) for value in reach]


def _change(moments: list[Tensor], cross: list[Tensor], settings: BankSettings, step: float) -> list[Tensor]:
    ridge = [S.new_tensor(value) for S, value in zip(moments, settings.ridge, strict=True)]
    rate = [S.new_tensor(step * value) for S, value in zip(moments, settings.rate, strict=True)]
    banks = ridge_banks([S[None] for S in moments], [C[None] for C in cross], ridge, rate)
    return [bank[0].to(settings.token[0].dtype) for bank in banks]


class _Kept(NamedTuple):
    """A fit in the cache, with the digests of the payloads in it."""

    fit: Fit
    holds: frozenset[str]


@dataclass(frozen=True)
class NestedState:
    """The payloads of each level, sorted, and the fits of the levels that hold something, slowest first."""

    levels: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    fits: dict[str, Fit] = field(default_factory=dict)
    offset: tuple[Tensor, ...] | None = None

    @property
    def top(self) -> Fit | None:
        """The fit of the fastest level that holds something: it stands on all the others."""
        return next((self.fits[level] for level in LEVELS if level in self.fits), None)

    @cached_property
    def digest(self) -> str:
        parts = []
        for level in LEVELS:
            if level in self.fits:
                held = [hashlib.sha256(payload).hexdigest() for payload in self.levels[level]]
                numbers = hash_tensors([*self.fits[level].banks, *self.fits[level].moments])
                parts.append((level, held, numbers))
        offset = hash_tensors(self.offset) if self.offset is not None else None
        return hashlib.sha256(json.dumps([parts, offset]).encode()).hexdigest()


class NestedRule(Rule):
    """A state is three sets of memories and their fits. Payloads are token rows; see the module.

    `protect` (R, R per site) is C0. `levels` says which levels there are: memories of a level that is not among them
    count to the next slower one (one level: everything is fitted together, from zero, at every write). `replay`: how
    many memories of the slower levels are fitted again with each level, drawn by their hash.
    """

    name = "nested"
    additive = False
    ordered = False

    def __init__(
        self,
        model: BankedModel,
        settings: BankSettings,
        *,
        protect: Sequence[Tensor] | None = None,
        levels: Sequence[str] = LEVELS,
        replay: int = REPLAY,
        passes: int = PASSES,
        floor: float = FLOOR,
    ):
        self.model = model
        self.settings = settings
        self.replay = replay
        self.protect = list(protect) if protect is not None else None
        self.held = tuple(level for level in LEVELS if level in levels)
        self.passes, self.floor = passes, floor
        limits = [STEP, GROW, SHRINK, LARGEST, ENOUGH, GOOD, passes, floor, BATCH, replay, self.held]
        self.options = json.dumps([limits, hash_tensors(self.protect or [])])
        own = settings.digest() + hash_tensors(model.bases)
        self._about = hashlib.sha256(f"{self.options}{own}".encode()).hexdigest()
        self._fits: OrderedDict[str, _Kept] = OrderedDict()

    def empty(self) -> NestedState:
        return NestedState()

    def with_banks(self, banks: list[Tensor]) -> NestedState:
        return NestedState(offset=tuple(banks))

    def write(
        self, states: list[NestedState], users: list[list[list[Row]]], level: str
    ) -> list[tuple[NestedState, list[bytes]]]:
        written = []
        for state, examples in zip(states, users, strict=True):
            payloads = [pack_rows(rows) for rows in examples]
            new = [(level, payload) for payload in payloads]
            written.append((self._fitted([*_parts(state), *new], state.offset), payloads))
        return written

    def erase(
        self, state: NestedState, removed: list[tuple[str, bytes]], remaining: list[tuple[str, bytes]]
    ) -> NestedState:
        parts = _parts(state)
        for level, payload in removed:
            place = (self._level(level), payload)
            if place not in parts:
                raise ModelError(
                    f"cannot take back an update that level {level!r} does not hold; rebuild the weights"
                )
            parts.remove(place)
        gone = {_sha(payload) for _, payload in removed}
        for key in [key for key, kept in self._fits.items() if kept.holds & gone]:
            del self._fits[key]
        return self._fitted(parts, state.offset)

    def rebuild(self, updates: list[tuple[str, bytes]]) -> NestedState:
        return self._fitted(updates, None)

    def promote(self, state: NestedState, moved: list[tuple[str, bytes]], level: str) -> NestedState:
        parts = _parts(state)
        for of, payload in moved:
            parts.remove((self._level(of), payload))
        return self._fitted([*parts, *((level, payload) for _, payload in moved)], state.offset)

    def banks(self, state: NestedState) -> list[Tensor]:
        banks = list(state.top.banks) if state.top else _zeros(self.model)
        if state.offset is not None:
            banks = [bank + extra for bank, extra in zip(banks, state.offset, strict=True)]
        return banks

    def digest(self, state: NestedState) -> str:
        return state.digest

    def snapshot(self, state: NestedState) -> bytes:
        """The fits of a state, so that it need not be fitted again after a restart (see `adopt`)."""
        tensors: dict[str, Tensor] = {}
        about: dict[str, str] = {}
        for level, made in state.fits.items():
            numbers = [made.passes, made.loss, made.scale, made.rows]
            holds = sorted(self._holds(level, state.levels))
            digest = hash_tensors([*made.banks, *made.moments])
            about[level] = json.dumps([numbers, self._key(level, state.levels), holds, digest])
            for s, (bank, moment) in enumerate(zip(made.banks, made.moments, strict=True)):
                tensors[f"{level}.{s}.bank"], tensors[f"{level}.{s}.moments"] = bank, moment
        return save_tensors(tensors, metadata=about) if tensors else b""

    def adopt(self, data: bytes) -> None:
        """Take the fits of a snapshot into the cache. Raises `ModelError` when it is damaged."""
        if not data:
            return
        try:
            tensors = load_tensors(data)
            size = int.from_bytes(data[:8], "little")
            for level, text in json.loads(data[8 : 8 + size])["__metadata__"].items():
                numbers, key, holds, digest = json.loads(text)
                sites = range(len(self.model.sites))
                banks = tuple(tensors[f"{level}.{s}.bank"].clone() for s in sites)
                moments = tuple(tensors[f"{level}.{s}.moments"].clone() for s in sites)
                if hash_tensors([*banks, *moments]) != digest:
                    raise ValueError("its numbers do not add up to their digest")
                passes, loss, scale, rows = numbers
                self._keep(key, Fit(banks, moments, passes, loss, tuple(scale), rows), frozenset(holds))
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ModelError(
                f"a snapshot of fitted weights is damaged: {error}; it can be deleted"
            ) from error

    def discard(self) -> None:
        self._fits.clear()

    def _level(self, level: str) -> str:
        """The level itself, or the next slower one that is held."""
        slower = LEVELS[LEVELS.index(level) :]
        return next((name for name in slower if name in self.held), self.held[-1])

    def _fitted(self, parts: list[tuple[str, bytes]], offset: tuple[Tensor, ...] | None) -> NestedState:
        levels: dict[str, tuple[bytes, ...]] = {}
        for level in LEVELS:
            payloads = sorted(payload for of, payload in parts if self._level(of) == level)
            if payloads:
                levels[level] = tuple(payloads)
        fits: dict[str, Fit] = {}
        below: Fit | None = None
        slower: list[bytes] = []
        for level in reversed(LEVELS):
            if level not in levels:
                continue
            key = self._key(level, levels)
            if key not in self._fits:
                replayed = sorted(slower, key=lambda payload: hashlib.sha256(payload).digest())[: self.replay]
                rows = [row for payload in (*levels[level], *replayed) for row in unpack_rows(payload)]
                made = fit(
                    self.model,
                    self.settings,
                    rows,
                    start=below.banks if below else None,
                    moments=below.moments if below else self.protect,
                    passes=self.passes,
                    floor=self.floor,
                )
                self._keep(key, made, self._holds(level, levels))
            self._fits.move_to_end(key)
            fits[level] = below = self._fits[key].fit
            slower += levels[level]
        return NestedState(levels, fits, offset)

    def _holds(self, level: str, levels: dict[str, tuple[bytes, ...]]) -> frozenset[str]:
        """Digests of the payloads that a fit of a level knows: its own and those of the slower levels."""
        slower = LEVELS[LEVELS.index(level) :]
        return frozenset(_sha(payload) for name in slower for payload in levels.get(name, ()))

    def _key(self, level: str, levels: dict[str, tuple[bytes, ...]]) -> str:
        """What a fit depends on: settings, bases, and the sets of its level and of those below."""
        place = LEVELS.index(level)
        sets = [(name, levels[name]) for name in LEVELS[place:] if name in levels]
        digest = hashlib.sha256(self._about.encode())
        for name, payloads in sets:
            digest.update(f"{name}{len(payloads)}".encode())
            for payload in payloads:
                digest.update(hashlib.sha256(payload).digest())
        return digest.hexdigest()

    def _keep(self, key: str, made: Fit, holds: frozenset[str]) -> None:
        self._fits[key] = _Kept(made, holds)
        while len(self._fits) > KEPT:
            self._fits.popitem(last=False)


def _sha(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def _parts(state: NestedState) -> list[tuple[str, bytes]]:
    return [(level, payload) for level, payloads in state.levels.items() for payload in payloads]


def key_moments(model: BankedModel, rows: Sequence[Row]) -> list[Tensor]:
    """C0: the mean of k k^T (R, R, float64) per site over the predicted tokens of rows of unrelated text."""
    S = [basis.new_zeros(basis.shape[0], basis.shape[0], dtype=torch.float64) for basis in model.bases]
    tokens = 0
    for lower, ids_BT, weights_BT in _batches(model, rows):
        keys, _, _ = model.upper_keys_errors(lower, ids_BT, weights_BT, None)
        tokens += keys[0].shape[0]
        for s, k_NR in enumerate(keys):
            S[s] += k_NR.double().T @ k_NR.double()
    return [moment / tokens for moment in S]
