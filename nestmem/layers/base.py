"""What every sequence layer is: tokens and a state in, tokens and the next state out; and parts that many share.

Legend of shapes: B batch, T tokens, D width, H heads, K width of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestmem.core import State, state
from nestmem.core.checks import check_class
from nestmem.errors import InputError

S = TypeVar("S", bound=State)


@state
class LayerState(State):
    """A memory, and the last inputs of the short convolution before it.

    memory  the rule's own state
    tail    [B, D, size - 1], oldest first; None for a layer without a convolution
    """

    memory: State
    tail: Tensor | None = None


class Mixer(nn.Module, ABC):
    """A causal map of a sequence that carries a memory: x [B, T, D] -> y [B, T, D].

    The law: a sequence = its pieces in turn, each from the state that the one before returned, in outputs and in the
    last state. y_t depends on x_1..x_t only, and a row of the batch on itself only. States are values; what a memory
    starts from are parameters.
    """

    @abstractmethod
    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        """The state before the first token, for tokens of this dtype; gradients reach the learned initial weights."""

    @abstractmethod
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read and write T tokens. `state` None is the start of a sequence."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Draw the parameters that are this module's own, children apart."""

    def past(self, x: Tensor, state: State | None, kind: type[S]) -> S:
        """The state to go on from: the given one, of this kind, or that before the first token of x [B, T, D].

        Raises InputError for the state of another layer.
        """
        if state is None:
            state = self.init_state(x.shape[0], dtype=x.dtype, device=x.device)
        check_class(state, kind)
        assert isinstance(state, kind)
        return state


class ShortConv(nn.Module):
    """Causal depthwise convolution over the last `size` tokens, then SiLU (Titans, arXiv 2501.00663, section 4.4).

    >>> y, tail = ShortConv(8)(torch.randn(2, 5, 8))
    >>> y.shape, tail.shape
    (torch.Size([2, 5, 8]), torch.Size([2, 8, 3]))
    """

    def __init__(self, width: int, size: int = 4) -> None:
        super().__init__()
        if size < 1:
            raise InputError(f"a short convolution looks at 1 token or more; got size={size}")
        self.width, self.size = width, size
        self.weight = nn.Parameter(torch.empty(width, 1, size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform, as torch draws a convolution with `size` inputs per output."""
        nn.init.uniform_(self.weight, -(self.size**-0.5), self.size**-0.5)

    def forward(self, x: Tensor, tail: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, T, D], tail [B, D, size - 1] (None: zeros) -> y [B, T, D] and the next tail."""
        x = x.mT
        before = x.new_zeros(*x.shape[:2], self.size - 1) if tail is None else tail.to(x.dtype)
        seen = torch.cat([before, x], -1)
        y = F.silu(F.conv1d(seen, self.weight.to(x.dtype), groups=self.width))
        # A copy, since a view would hold all that was read.
        return y.mT, seen[..., seen.shape[-1] - self.size + 1 :].clone()


class GatedOutput(nn.Module):
    """Norm of each head, gate from the layer's input, output projection: W_o (RMSNorm(y) * silu(x W_g)).

    The norm and gate before the output projection of Titans (arXiv 2501.00663, section 4.4), RetNet (arXiv
    2307.08621, eq. 8) and Gated DeltaNet (arXiv 2412.06464, section 3.3).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.gate = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, width, bias=False)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """Heads y [B, H, T, K] and the layer's input x [B, T, D] -> [B, T, D]."""
        return self.project(merge_heads(self.norm(y)) * F.silu(self.gate(x)))


def check_heads(width: int, heads: int, *, rotary: bool = False) -> None:
    """Whether a width divides into heads, and with rotary positions each head into pairs."""
    if heads < 1 or width < 1 or width % heads:
        raise InputError(f"width is a multiple of heads, both at least 1; got width={width}, heads={heads}")
    if rotary and (width // heads) % 2:
        raise InputError(f"rotary positions turn pairs of numbers; width / heads is {width // heads}, odd")


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, H K] -> [B, H, T, K]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, T, K] -> [B, T, H K]."""
    return x.transpose(1, 2).flatten(2)
