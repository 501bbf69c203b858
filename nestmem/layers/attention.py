"""Softmax attention: the memory that keeps every token, or those of a window.

Legend of shapes: B batch, T tokens, S tokens kept from before, D width, H heads, K width of a head, P prefix tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestmem.core import State, state, static
from nestmem.errors import InputError
from nestmem.layers.base import Mixer, check_heads, merge_heads, split_heads

# Queries whose scores are held at a time, where scores need a mask.
BLOCK = 512


@state
class KeyValues(State):
    """Keys (rotated) and values [B, H, S, K] of the tokens that later ones may look at.

    position  tokens seen, of which S are kept
    """

    keys: Tensor
    values: Tensor
    position: int = static(default=0)


class Attention(Mixer):
    """Causal softmax attention with rotary positions, over all tokens or over a sliding window.

    window   tokens that a token looks at, itself included; None: all, and the state grows with the sequence
    qk_norm  RMSNorm of every query and key head
    theta    base of the rotary frequencies (arXiv 2104.09864)

    >>> layer = Attention(16, heads=2, window=4)
    >>> y, state = layer(torch.randn(1, 10, 16))
    >>> state.keys.shape, state.position
    (torch.Size([1, 2, 3, 8]), 10)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        window: int | None = None,
        qk_norm: bool = False,
        theta: float = 10_000.0,
    ) -> None:
        super().__init__()
        check_heads(width, heads, rotary=True)
        if window is not None and window < 1:
            raise InputError(f"window is a number of tokens, at least 1, or None for all; got {window}")
        self.heads, self.window, self.theta = heads, window, theta
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()

    def reset_parameters(self) -> None:
        """Nothing: projections draw their own."""

    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device | str) -> KeyValues:
        """No tokens."""
        width = self.output.in_features // self.heads
        empty = torch.empty(batch, self.heads, 0, width, dtype=dtype, device=device)
        return KeyValues(keys=empty, values=empty)

    def forward(
        self, x: Tensor, state: State | None = None, *, prefix: Tensor | None = None
    ) -> tuple[Tensor, KeyValues]:
        """x [B, T, D] -> y [B, T, D]. `prefix` [P, D] are tokens that every token sees, without a position."""
        past = self.past(x, state, KeyValues)
        q, k, v = (split_heads(each, self.heads) for each in self.qkv(x).chunk(3, -1))
        cos, sin = rotary(past.position, x.shape[1], q.shape[-1], self.theta, q)
        q, k = (rotated(each, cos, sin) for each in (self.query_norm(q), self.key_norm(k)))
        keys = torch.cat([past.keys.to(k.dtype), k], 2)
        values = torch.cat([past.values.to(v.dtype), v], 2)
        always = None
        if prefix is not None:
            _, pk, pv = self.qkv(prefix.to(x.dtype)[None]).chunk(3, -1)
            pk, pv = split_heads(pk, self.heads), split_heads(pv, self.heads)
            always = tuple(each.expand(x.shape[0], *each.shape[1:]) for each in (self.key_norm(pk), pv))
        y = attend(q, keys, values, window=self.window, always=always)
        kept = keys.shape[2] if self.window is None else min(keys.shape[2], self.window - 1)
        first = keys.shape[2] - kept
        if first:
            # Copies, since views would hold all that was read.
            keys, values = keys[:, :, first:].clone(), values[:, :, first:].clone()
        after = KeyValues(keys=keys, values=values, position=past.position + x.shape[1])
        return self.output(merge_heads(y)), after


def rotary(start: int, tokens: int, width: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, width / 2] of the angles of positions start..start+tokens-1, computed in float64."""
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=like.device) / width
    places = torch.arange(start, start + tokens, dtype=torch.float64, device=like.device)
    angles = places[:, None] * theta**-exponents
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair (x_i, x_{i + K/2}) of [B, H, T, K] turned by its angle."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    window: int | None = None,
    always: tuple[Tensor, ...] | None = None,
) -> Tensor:
    """Causal attention of the last T tokens, q [B, H, T, K], over keys and values [B, H, S + T, K].

    A token sees the `window` last ones, itself included (None: all), and the keys and values `always` [B, H, P, K].
    Queries go in blocks, so that the scores held are at most BLOCK (or the window) by what a block sees.
    """
    tokens, past = q.shape[2], keys.shape[2] - q.shape[2]
    everything = window is None or window >= keys.shape[2]
    if everything and always is None and (past == 0 or tokens == 1):
        return F.scaled_dot_product_attention(q, keys, values, is_causal=tokens > 1)
    size = BLOCK if window is None else max(window, BLOCK)
    parts = []
    for start in range(0, tokens, size):
        stop = min(start + size, tokens)
        first = 0 if window is None else max(0, past + start - window + 1)
        last = past + stop
        places = torch.arange(first, last, device=q.device)
        own = torch.arange(past + start, last, device=q.device)[:, None]
        seen = places <= own
        if window is not None:
            seen = seen & (places > own - window)
        k, v = keys[:, :, first:last], values[:, :, first:last]
        if always is not None:
            k, v = (torch.cat([a, each], 2) for a, each in zip(always, (k, v), strict=True))
            seen = torch.cat([seen.new_ones(seen.shape[0], always[0].shape[2]), seen], 1)
        parts.append(F.scaled_dot_product_attention(q[:, :, start:stop], k, v, attn_mask=seen))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)
