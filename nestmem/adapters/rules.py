"""Ways to write experience into banks, behind one interface; the default, `NestedRule`, is in `nested`.

`AdditiveRule`: each example's statistics are taken at the base and summed, so order does not
matter and taking an example back is subtraction. `RecursiveLeastSquares`: the same ridge step taken one write after
another at the current state. `TMEM`: stochastic gradient descent as published (arXiv 2606.04536, section on test-time
training). The last two are sequential: taking an example back means replaying the others.

Letters: R rank, O outputs, N written tokens of an example, U users.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from nestmem.adapters.banks import BankedModel, ridge_banks
from nestmem.adapters.rows import Row, fixed_batches, pack_rows, unpack_rows
from nestmem.errors import ModelError

LEVELS = ("fast", "medium", "slow")


@dataclass(frozen=True, kw_only=True)
class BankSettings:
    """Per site: ridge > 0 and rate of the ridge step, a direction u (R) that weighs written tokens by 2 sigmoid(u k),
    and the largest absolute key and error the fixed-point statistics can hold (powers of two). `protect`: how many
    tokens of unrelated text the base is protected with (C0 of `nested`; 0: not at all)."""

    ridge: tuple[float, ...]
    rate: tuple[float, ...]
    token: tuple[Tensor, ...]
    key_limit: tuple[float, ...]
    error_limit: tuple[float, ...]
    protect: float = 300.0

    def digest(self) -> str:
        plain = json.dumps([self.ridge, self.rate, self.key_limit, self.error_limit, self.protect])
        parts = [plain.encode()] + [u.float().numpy().tobytes() for u in self.token]
        return hashlib.sha256(b"".join(parts)).hexdigest()


def hash_tensors(tensors: Sequence[Tensor]) -> str:
    """sha256 over dtype, shape and bytes of the tensors in their order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()


class Rule(ABC):
    """How examples become banks.

    Law: `rebuild(payloads of a life) == ` the state after writing that life, bit for bit, on the same build, device
    and thread count; and a state never changes once made.
    """

    name: str
    additive: bool
    ordered: bool = False
    """Whether the order of writing matters."""
    options: str = ""
    """Settings of the rule beyond `BankSettings`, as text, for the fingerprint."""

    @abstractmethod
    def with_banks(self, banks: list[Tensor]) -> Any:
        """The state of a user who was never told anything here and brings these banks (O, R) along."""

    @abstractmethod
    def empty(self) -> Any:
        """The state of a user who was never told anything."""

    @abstractmethod
    def write(
        self, states: list[Any], users: list[list[list[Row]]], level: str
    ) -> list[tuple[Any, list[bytes]]]:
        """Write each user's examples (an example = its rows of tokens); the new state and one payload an example."""

    @abstractmethod
    def erase(self, state: Any, removed: list[tuple[str, bytes]], remaining: list[tuple[str, bytes]]) -> Any:
        """The state of a life without `removed`; both lists hold (level, payload) in order of writing."""

    @abstractmethod
    def rebuild(self, updates: list[tuple[str, bytes]]) -> Any:
        """The state of a life with exactly these updates."""

    @abstractmethod
    def promote(self, state: Any, moved: list[tuple[str, bytes]], level: str) -> Any:
        """The same memory with some updates counted to a slower level."""

    @abstractmethod
    def banks(self, state: Any) -> list[Tensor]:
        """One bank (O, R) per site, all levels together."""

    @abstractmethod
    def digest(self, state: Any) -> str:
        """sha256 of the state's exact content."""

    def snapshot(self, state: Any) -> bytes:
        """What makes `rebuild` quick after a restart, once it was handed to `adopt`; empty where it is quick anyway."""
        return b""

    def adopt(self, data: bytes) -> None:
        """Take what `snapshot` wrote. Changes no result, only the time it takes. Raises `ModelError` on damage."""
        if data:
            raise ModelError(
                f"rule {self.name!r} writes no snapshots, but was given one of {len(data)} bytes"
            )

    def discard(self) -> None:
        """Forget cached work: the next `rebuild` does it again."""
        return


@dataclass(frozen=True)
class Statistics:
    """Sums over written tokens in fixed point, per site: moments k k^T (R, R) and cross -e k^T (O, R), int64."""

    moments: tuple[Tensor, ...]
    cross: tuple[Tensor, ...]

    def plus(self, other: Statistics, sign: int = 1) -> Statistics:
        return Statistics(
            tuple(a + sign * b for a, b in zip(self.moments, other.moments, strict=True)),
            tuple(a + sign * b for a, b in zip(self.cross, other.cross, strict=True)),
        )

    def is_zero(self) -> bool:
        return not any(bool(t.any()) for t in (*self.moments, *self.cross))


@dataclass(frozen=True)
class AdditiveState:
    """Statistics by level; a level that holds nothing is absent, so equal memories have equal states."""

    levels: dict[str, Statistics] = field(default_factory=dict)
    offset: tuple[Tensor, ...] | None = None

    @cached_property
    def digest(self) -> str:
        parts = [(name, hash_tensors([*s.moments, *s.cross])) for name, s in sorted(self.levels.items())]
        if self.offset is not None:
            parts.append(("offset", hash_tensors(self.offset)))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class AdditiveRule(Rule):
    """B = rate C (S + ridge I)^-1 with S, C sums of statistics taken at the base (parametric memory 7.10b).

    Keys and errors of a token are rounded to int16 once; products and sums of integers are exact, so adding and
    taking away commute bit for bit. `weights` scales the levels when the banks are read.
    """

    name = "additive"
    additive = True

    def __init__(
        self, model: BankedModel, settings: BankSettings, *, weights: dict[str, float] | None = None
    ):
        self.model = model
        self.settings = settings
        self.weights = weights or dict.fromkeys(LEVELS, 1.0)

    def empty(self) -> AdditiveState:
        return AdditiveState()

    def with_banks(self, banks: list[Tensor]) -> AdditiveState:
        return AdditiveState(offset=tuple(banks))

    def write(
        self, states: list[AdditiveState], users: list[list[list[Row]]], level: str
    ) -> list[tuple[AdditiveState, list[bytes]]]:
        flat = [row for examples in users for rows in examples for row in rows]
        factors = iter(self._factors(flat))
        written = []
        for state, examples in zip(states, users, strict=True):
            payloads = [_pack([next(factors) for _ in rows]) for rows in examples]
            written.append((self._add(state, [(level, payload) for payload in payloads], 1), payloads))
        return written

    def erase(
        self, state: AdditiveState, removed: list[tuple[str, bytes]], remaining: list[tuple[str, bytes]]
    ) -> AdditiveState:
        return self._add(state, removed, -1)

    def rebuild(self, updates: list[tuple[str, bytes]]) -> AdditiveState:
        return self._add(self.empty(), updates, 1)

    def promote(self, state: AdditiveState, moved: list[tuple[str, bytes]], level: str) -> AdditiveState:
        lowered = self._add(state, moved, -1)
        return self._add(lowered, [(level, payload) for _, payload in moved], 1)

    def digest(self, state: AdditiveState) -> str:
        return state.digest

    def banks(self, state: AdditiveState) -> list[Tensor]:
        sites = range(len(self.model.sites))
        if not state.levels:
            return list(state.offset) if state.offset else self._zeros()
        moments, cross = [], []
        for s in sites:
            k, e = self._steps(s)
            terms = [(self.weights[level], stats) for level, stats in sorted(state.levels.items())]
            moments.append(sum(a * stats.moments[s].double() * (k * k) for a, stats in terms)[None])
            cross.append(sum(a * stats.cross[s].double() * (e * k) for a, stats in terms)[None])
        ridge = [torch.tensor(value, dtype=torch.float64) for value in self.settings.ridge]
        rate = [torch.tensor(value, dtype=torch.float64) for value in self.settings.rate]
        banks = [bank[0].to(self.model.bases[0].dtype) for bank in ridge_banks(moments, cross, ridge, rate)]
        banks = [bank.to(self.model.bases[0].device) for bank in banks]
        if state.offset is not None:
            banks = [bank + extra for bank, extra in zip(banks, state.offset, strict=True)]
        return banks

    def _zeros(self) -> list[Tensor]:
        return [
            basis.new_zeros(site.d_out, basis.shape[0])
            for site, basis in zip(self.model.sites, self.model.bases, strict=True)
        ]

    def _steps(self, site: int) -> tuple[float, float]:
        """One unit of the int16 keys and errors of a site."""
        return self.settings.key_limit[site] / 32768, self.settings.error_limit[site] / 32768

    def _factors(self, rows: list[Row]) -> list[dict[str, Tensor]]:
        """Per row the int16 keys (N, R) and errors (N, O) of its written tokens, for every site."""
        found: list[dict[str, Tensor]] = [{} for _ in rows]
        for indices, ids_BT, weights_BT in fixed_batches(rows, device=self.model.bases[0].device):
            keys, errors, loss_B = self.model.keys_errors(ids_BT, weights_BT)
            if not bool(torch.isfinite(loss_B).all()):
                raise ModelError(
                    "the base model gives a loss that is not finite; its weights are damaged or too wide"
                )
            written_BT = weights_BT[:, 1:] > 0
            for s, (k_BTR, e_BTO) in enumerate(zip(keys, errors, strict=True)):
                token = self.settings.token[s].to(k_BTR)
                root = (2 * torch.sigmoid(k_BTR @ token)).sqrt()[..., None]
                k_step, e_step = self._steps(s)
                k_int = (k_BTR * root / k_step).round().clamp(-32767, 32767).to(torch.int16)
                e_int = (e_BTO * root / e_step).round().clamp(-32767, 32767).to(torch.int16)
                for b, index in enumerate(indices):
                    found[index][f"{s}.k"] = k_int[b][written_BT[b]].cpu()
                    found[index][f"{s}.e"] = e_int[b][written_BT[b]].cpu()
        return found

    def _add(self, state: AdditiveState, updates: list[tuple[str, bytes]], sign: int) -> AdditiveState:
        """The state plus (or minus) the products of the updates' factors."""
        levels = dict(state.levels)
        for level in sorted({level for level, _ in updates}):
            parts = [load_tensors(payload) for of, payload in updates if of == level]
            change = self._products(parts)
            total = change if level not in levels else levels[level].plus(change, sign)
            if level not in levels and sign < 0:
                raise ModelError(
                    f"cannot take an update from level {level!r}: it holds nothing; rebuild the weights"
                )
            levels[level] = total
            if total.is_zero():
                del levels[level]
        return replace(state, levels=levels)

    def _products(self, parts: list[dict[str, Tensor]]) -> Statistics:
        """Exact sums of k k^T and -e k^T: int16 products summed in float64 stay below 2^53."""
        moments, cross = [], []
        for s in range(len(self.model.sites)):
            k = torch.cat([part[f"{s}.k"] for part in parts]).double()
            e = torch.cat([part[f"{s}.e"] for part in parts]).double()
            moments.append((k.T @ k).round().long())
            cross.append((-(e.T @ k)).round().long())
        return Statistics(tuple(moments), tuple(cross))


def _pack(rows: list[dict[str, Tensor]]) -> bytes:
    """The factors of an example's rows, joined, as safetensors bytes."""
    joined = {name: torch.cat([row[name] for row in rows]).contiguous() for name in rows[0]}
    return save_tensors(joined)


@dataclass(frozen=True)
class SequentialState:
    """Banks (O, R) per site, and key moments (R, R) per site for recursive least squares."""

    banks: tuple[Tensor, ...]
    moments: tuple[Tensor, ...]

    @cached_property
    def digest(self) -> str:
        return hash_tensors([*self.banks, *self.moments])


class SequentialRule(Rule):
    """What the two sequential rules share: a payload is the example's tokens, erasing is replaying the rest.

    Users are written one after another, and each example on its own, so that a replay takes the same path.
    """

    additive = False
    ordered = True

    def __init__(self, model: BankedModel):
        self.model = model

    def with_banks(self, banks: list[Tensor]) -> SequentialState:
        return replace(self.empty(), banks=tuple(banks))

    def empty(self) -> SequentialState:
        sites = list(zip(self.model.sites, self.model.bases, strict=True))
        return SequentialState(
            tuple(basis.new_zeros(site.d_out, basis.shape[0]) for site, basis in sites),
            tuple(basis.new_zeros(basis.shape[0], basis.shape[0], dtype=torch.float64) for _, basis in sites),
        )

    @abstractmethod
    def step(self, state: SequentialState, rows: list[Row]) -> SequentialState:
        """The state after one write of the rows together."""

    def write(
        self, states: list[SequentialState], users: list[list[list[Row]]], level: str
    ) -> list[tuple[SequentialState, list[bytes]]]:
        written = []
        for state, examples in zip(states, users, strict=True):
            for rows in examples:
                state = self.step(state, rows)
            written.append((state, [pack_rows(rows) for rows in examples]))
        return written

    def erase(
        self, state: SequentialState, removed: list[tuple[str, bytes]], remaining: list[tuple[str, bytes]]
    ) -> SequentialState:
        return self.rebuild(remaining)

    def rebuild(self, updates: list[tuple[str, bytes]]) -> SequentialState:
        state = self.empty()
        for _, payload in updates:
            state = self.step(state, unpack_rows(payload))
        return state

    def promote(self, state: SequentialState, moved: list[tuple[str, bytes]], level: str) -> SequentialState:
        return state

    def banks(self, state: SequentialState) -> list[Tensor]:
        return list(state.banks)

    def digest(self, state: SequentialState) -> str:
        return state.digest


class RecursiveLeastSquares(SequentialRule):
    """B <- B + rate C (S + ridge I)^-1 with C = -sum e k^T at the current banks and S the sum over all writes so far."""

    name = "rls"

    def __init__(self, model: BankedModel, settings: BankSettings):
        super().__init__(model)
        self.settings = settings

    def step(self, state: SequentialState, rows: list[Row]) -> SequentialState:
        banks, moments = list(state.banks), list(state.moments)
        cross = [torch.zeros_like(bank, dtype=torch.float64) for bank in banks]
        for _, ids_BT, weights_BT in fixed_batches(rows, device=self.model.bases[0].device):
            keys, errors, _ = self.model.keys_errors(ids_BT, weights_BT, banks=[b[None] for b in state.banks])
            for s, (k_BTR, e_BTO) in enumerate(zip(keys, errors, strict=True)):
                written = (weights_BT[:, 1:] > 0).to(k_BTR)
                root = (written * 2 * torch.sigmoid(k_BTR @ self.settings.token[s].to(k_BTR))).sqrt()[
                    ..., None
                ]
                root_k = (k_BTR * root).flatten(0, 1).double()
                root_e = (e_BTO * root).flatten(0, 1).double()
                moments[s] = moments[s] + root_k.T @ root_k
                cross[s] = cross[s] - root_e.T @ root_k
        ridge = [m.new_tensor(value) for m, value in zip(moments, self.settings.ridge, strict=True)]
        rate = [m.new_tensor(value) for m, value in zip(moments, self.settings.rate, strict=True)]
        change = ridge_banks([m[None] for m in moments], [c[None] for c in cross], ridge, rate)
        return SequentialState(
            tuple(bank + more[0].to(bank) for bank, more in zip(banks, change, strict=True)), tuple(moments)
        )


class TMEM(SequentialRule):
    """Plain SGD on the banks as published: rate 5e-4, 5 epochs, mean answer-only cross-entropy, B starts at 0.

    Reference: TMEM, arXiv 2606.04536; its A is Sigma_r V_r^T (see `scaled_singular_basis`), which the caller gives to
    the `BankedModel`. Batches of 16 are the rows of one example here, since every example is its own write.
    """

    name = "tmem"

    def __init__(self, model: BankedModel, *, rate: float = 5e-4, epochs: int = 5):
        super().__init__(model)
        self.rate = rate
        self.epochs = epochs
        self.options = json.dumps([rate, epochs])

    def step(self, state: SequentialState, rows: list[Row]) -> SequentialState:
        banks = list(state.banks)
        cached = [
            (self.model.lower(ids_BT), ids_BT, weights_BT)
            for _, ids_BT, weights_BT in fixed_batches(rows, device=self.model.bases[0].device)
        ]
        tokens = sum(float((weights_BT[:, 1:] > 0).sum()) for _, _, weights_BT in cached)
        for _ in range(self.epochs):
            leaves = [bank.detach().requires_grad_() for bank in banks]
            with torch.enable_grad():
                losses = [
                    self.model.upper_loss(low, ids, w, [b[None] for b in leaves]) for low, ids, w in cached
                ]
                gradients = torch.autograd.grad(torch.stack(losses).sum() / tokens, leaves)
            banks = [bank - self.rate * g for bank, g in zip(banks, gradients, strict=True)]
        return SequentialState(tuple(banks), state.moments)
