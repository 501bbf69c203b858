"""What the shared matrix (test_matrix.py) needs to know about a rule. Each rule_*.py lists its own; see RULES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nestmem.core import Memory, State

Tokens = dict[str, Tensor]
Weights = dict[str, Tensor]
# (state, **tokens) -> (outputs, state)
Scan = Callable[..., tuple[Tensor, Any]]


@dataclass(frozen=True)
class Rule:
    """One rule with one setting.

    tokens(batch, tokens, generator)  float64 inputs by argument name; dimension 0 is the batch and `time` the tokens
    initial(generator)                float64 learned initial weights, without the batch dimension
    start(initial, batch)             the state before the first token
    recurrent, chunked                (state, **tokens) -> (outputs [B, .., T, ..], state); fixed to one chunk size
    chunk                             that chunk size, at most 4 tokens, so that short sequences have several chunks
    definition                        the same rule as a Memory of nestmem.core, where it is one (else None); it is run
                                      by `defined`, which maps the tokens to Memory.scan
    """

    name: str
    tokens: Callable[[int, int, torch.Generator], Tokens]
    initial: Callable[[torch.Generator], Weights]
    start: Callable[[Weights, int], State]
    recurrent: Scan
    chunked: Scan
    chunk: int
    definition: Memory | None = None
    defined: Scan | None = None
    time: int = 2
    tolerance: float = 1e-10
    # inputs that a rule legitimately gives no gradient to (targets that are token numbers, say)
    constant: frozenset[str] = field(default_factory=frozenset)

    def __str__(self) -> str:
        return self.name


def randn(*shape: int, generator: torch.Generator) -> Tensor:
    """Normal float64 numbers."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def unit_rows(*shape: int, generator: torch.Generator) -> Tensor:
    """Normal float64 numbers with unit norm over the last dimension."""
    return torch.nn.functional.normalize(randn(*shape, generator=generator), dim=-1)


def uniform(low: float, high: float, *shape: int, generator: torch.Generator) -> Tensor:
    """Float64 numbers between low and high."""
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def every_rule() -> list[Rule]:
    """The RULES of every rule_*.py beside this file."""
    found: list[Rule] = []
    for path in sorted(Path(__file__).parent.glob("rule_*.py")):
        found += import_module(f"tests.ops.{path.stem}").RULES
    return found
