"""Reading with weights that learn from the model's own next-token loss, which is known one token late.

The loss of token t needs token t + 1. So the pair (hidden_t, token_{t+1}) goes into the inner loop when token t + 1
arrives, and what the model says at the last token is read without writing.

Legend of shapes: B batch, T tokens, n tokens of one call of the step, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from nestmem.core import State, state
from nestmem.ops import endtoend
from nestmem.ops.endtoend import EndToEndState, Level
from nestmem.ops.endtoend.levels import Step


@state
class LateState(State):
    """What an inner loop that is one token behind carries.

    learning  weights, optimizer and carry after all tokens whose successor is known
    hidden    [B, 1, D] what the step gets for the last token, whose successor is not known; None before the first
    """

    learning: EndToEndState
    hidden: Tensor | None = None


def read(
    step: Step,
    outer: Any,
    hidden: Tensor,
    tokens: Tensor,
    state: LateState,
    *,
    levels: Level | Sequence[Level],
    second_order: bool = True,
    checkpoint: bool = True,
    write: bool = True,
) -> tuple[Any, LateState]:
    """Outputs of the step at each of these tokens, and the state that waits for the next one.

    hidden [B, T, D] and tokens [B, T] go into the step as {"hidden": [n, D], "next": [n]}, each hidden with the token
    after it; its losses [n] write the weights of `levels`, and its outputs are returned, [B, T, ...]. Weights written
    by a period's losses are in force from the first token after it, whichever way the sequence is cut into calls.

    write=False reads with the weights as they are, for comparison; what the step carries goes on.

    The law: the outputs at tokens 1..t depend on tokens 1..t only.
    """
    learning = state.learning
    before, following = hidden[:, :-1], tokens[:, 1:]
    if state.hidden is not None:
        before, following = torch.cat([state.hidden, before], 1), tokens
    outputs = None
    if before.shape[1]:
        _, outputs, learning = endtoend.chunked(
            step,
            outer,
            {"hidden": before, "next": following},
            learning,
            levels=levels,
            second_order=second_order,
            checkpoint=checkpoint,
            write=write,
            check=False,
        )
        if state.hidden is not None:
            # The token before these has been answered for already.
            outputs = pytree.tree_map(lambda x: x[:, 1:], outputs)
    last = _peek(step, outer, {"hidden": hidden[:, -1:], "next": tokens[:, -1:]}, learning)
    if outputs is not None:
        last = pytree.tree_map(lambda a, b: torch.cat([a, b], 1), outputs, last)
    return last, LateState(learning=learning, hidden=hidden[:, -1:].clone())


def _peek(step: Step, outer: Any, inputs: Any, state: EndToEndState) -> Any:
    """What the step says after the tokens of the state; nothing is carried on."""

    def one(weights: dict[str, Tensor], x: Any, carry: Any) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return step(outer, weights | state.shared, x, carry)[1]

    return torch.func.vmap(one)(state.weights, inputs, state.live)
