"""One block of a model: a sequence layer, perhaps a written MLP, and a feed-forward layer, around residuals.

Legend of shapes: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nestmem.core import State, state
from nestmem.errors import InputError
from nestmem.layers import (
    TTT,
    Attention,
    ContinuumMemory,
    DeltaNet,
    FastLevel,
    Mixer,
    Retention,
    SelfModifying,
    SwiGLU,
    Titans,
    TitansMAC,
    TitansMAG,
    TitansMAL,
)
from nestmem.models.config import NestmemConfig

# Kind in a config -> the layer, given width, heads and its options.
LAYERS: dict[str, Callable[..., Mixer]] = {
    "attention": Attention,
    "window": lambda width, heads, window=128, **more: Attention(width, heads, window=window, **more),
    "retention": Retention,
    "deltanet": DeltaNet,
    "gated_deltanet": lambda width, heads, **more: DeltaNet(width, heads, gated=True, **more),
    "ttt_linear": lambda width, heads, **more: TTT(width, heads, memory="linear", **more),
    "ttt_mlp": lambda width, heads, **more: TTT(width, heads, memory="mlp", **more),
    "titans": Titans,
    "titans_mac": TitansMAC,
    "titans_mag": TitansMAG,
    "titans_mal": TitansMAL,
    "self_modifying": SelfModifying,
}


@state
class BlockState(State):
    """The states of a block's two layers; None where a layer has none."""

    mixer: State | None = None
    feed_forward: State | None = None


class Block(nn.Module):
    """h += mixer(norm(h)); h += prime(norm(h)), where there is one; h += feed_forward(norm(h)).

    Pre-norm residuals; with post_norm a norm behind every layer too. The sequential prime MLP before the feed-forward
    layer is TTT-E2E's (arXiv 2512.23675, official code); Hope's block is self-modifying Titans, then the continuum
    memory (Nested Learning, arXiv 2512.24695, eq. 97).
    """

    def __init__(self, config: NestmemConfig, kind: str, *, prime: bool = False) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        assert config.options is not None and hidden is not None
        self.mixer_norm = nn.RMSNorm(width, eps=1e-6)
        self.mixer = _made(kind, config.options, LAYERS[kind], width, config.num_attention_heads)
        post: dict[str, nn.Module] = {"mixer": nn.RMSNorm(width, eps=1e-6)}
        self.prime = None
        if prime:
            options = config.prime or {}
            self.prime_norm = nn.RMSNorm(width, eps=1e-6)
            self.prime = SwiGLU(width, options.get("intermediate_size") or hidden)
            post["prime"] = nn.RMSNorm(width, eps=1e-6)
        self.feed_forward = None
        if config.feed_forward != "none":
            self.feed_forward_norm = nn.RMSNorm(width, eps=1e-6)
            if config.feed_forward == "swiglu":
                self.feed_forward = SwiGLU(width, hidden)
            else:
                self.feed_forward = _made("continuum", config.options, ContinuumMemory, width, hidden)
            post["feed_forward"] = nn.RMSNorm(width, eps=1e-6)
        self.post = nn.ModuleDict(post) if config.post_norm else None

    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device | str) -> BlockState:
        """Before the first token."""
        memory = None
        if isinstance(self.feed_forward, ContinuumMemory):
            memory = self.feed_forward.init_state(batch, dtype=dtype, device=device)
        return BlockState(mixer=self.mixer.init_state(batch, dtype=dtype, device=device), feed_forward=memory)

    def forward(self, h: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        """h [B, T, D] -> h [B, T, D] and the next state."""
        return self.read(h, state)[:2]

    def read(
        self, h: Tensor, state: BlockState | None = None, *, alone: bool = False
    ) -> tuple[Tensor, BlockState, Tensor | None]:
        """As `forward`, and with `alone` also what the written MLPs add, [B, T, D], cut off from the blocks below."""
        past = state or BlockState()
        y, mixer = self.mixer(self.mixer_norm(h), past.mixer)
        h = h + self._post("mixer", y)
        local = None
        if self.prime is not None:
            x = self.prime_norm(h)
            h = h + self._post("prime", self.prime(x))
            local = self._post("prime", self.prime(x.detach())) if alone else None
        memory = None
        if isinstance(self.feed_forward, SwiGLU):
            h = h + self._post("feed_forward", self.feed_forward(self.feed_forward_norm(h)))
        elif self.feed_forward is not None:
            x = self.feed_forward_norm(h)
            y, memory = self.feed_forward(x, past.feed_forward)
            h = h + self._post("feed_forward", y)
            if alone and self.feed_forward.levels():
                y = self._post("feed_forward", self.feed_forward(x.detach())[0])
                local = y if local is None else local + y
        return h, BlockState(mixer=mixer, feed_forward=memory), local

    def levels(self, prime: dict[str, Any] | None) -> list[FastLevel]:
        """The weights of this block that learn by the model's own loss, with their clocks."""
        found = []
        if self.prime is not None:
            options = {k: v for k, v in (prime or {}).items() if k not in ("share", "intermediate_size")}
            names = tuple(f"prime.{name}" for name, _ in self.prime.named_parameters())
            found.append(FastLevel(names=names, **options))
        if isinstance(self.feed_forward, ContinuumMemory):
            found += [level.under("feed_forward.") for level in self.feed_forward.levels()]
        return found

    def _post(self, name: str, y: Tensor) -> Tensor:
        return y if self.post is None else self.post[name](y)


def _made(kind: str, options: dict[str, dict[str, Any]], make: Callable[..., Any], *sizes: int) -> Any:
    given = options.get(kind, {})
    try:
        return make(*sizes, **given)
    except TypeError as error:
        raise InputError(f"options of {kind!r} do not fit its layer: {error}; got {given}") from error
