"""What a model costs by the length of its context: seconds per 1,000 tokens read and decoded, and bytes of memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from nestmem.models import NestmemForCausalLM

PIECE = 1024


@torch.no_grad()
def by_context(
    model: NestmemForCausalLM,
    contexts: Sequence[int],
    *,
    decode: int = 32,
    limit_seconds: float = 120.0,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """One row for each context length: seconds per 1,000 tokens of prefill and of decode, and the state's bytes.

    Prefill is told in pieces of 1,024 tokens, each reading the memory of those before, and a row's prefill is the time
    of its last 1,024 tokens: the cost of a token at that depth. Decode is `decode` tokens, one by one, after them. Times
    are of the process's CPU on a CPU and of the clock on a GPU. Stops once a model has read for `limit_seconds`.
    """
    model.eval()
    device = model.device
    clock = _gpu_clock if device.type == "cuda" else time.process_time
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    cache, read, spent = None, 0, 0.0
    for context in sorted(contexts):
        last = 0.0
        while read < context:
            size = min(PIECE, context - read)
            ids = torch.randint(0, model.config.vocab_size, (1, size), generator=generator).to(device)
            began = clock()
            cache = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
            last = (clock() - began) / size
            spent += last * size
            read += size
            if spent > limit_seconds:
                return rows
        after, began = cache, clock()
        for _ in range(decode):
            one = torch.randint(0, model.config.vocab_size, (1, 1), generator=generator).to(device)
            after = model(one, past_key_values=after, use_cache=True).past_key_values
        assert cache is not None
        row = {
            "context": context,
            "prefill_seconds_per_1k": 1000 * last,
            "decode_seconds_per_1k": 1000 * (clock() - began) / decode,
            "state_bytes": cache.state.bytes(),
        }
        rows.append(row)
        if on_row:
            on_row(row)
    return rows


def _gpu_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def training(model: NestmemForCausalLM, *, batch: int, tokens: int, repeats: int = 3) -> dict[str, Any]:
    """Tokens per second of forward and backward on rows of `tokens` tokens, the best of `repeats`."""
    model.train()
    clock = _gpu_clock if model.device.type == "cuda" else time.process_time
    ids = torch.randint(
        0, model.config.vocab_size, (batch, tokens), generator=torch.Generator().manual_seed(0)
    ).to(model.device)
    found = []
    for _ in range(repeats + 1):
        model.zero_grad()
        began = clock()
        model(ids, labels=ids, use_cache=False).loss.backward()
        found.append(batch * tokens / (clock() - began))
    # The first call also sets things up.
    return {"batch": batch, "tokens": tokens, "tokens_per_second": max(found[1:])}
