"""The kernels of flash-linear-attention (fla) for the linear and the delta rule on CUDA.

`kernel` of `linear.chunked` and `delta.chunked`:

    "auto"    fla's kernel where the tokens are on CUDA and it takes them, else the torch form. A torch form on CUDA
              says so once per process and reason (RuntimeWarning); float64 tokens ask for exactness and one token
              at a time is not a chunk, so those take the torch form without a word, as do torch.func and compile
    "torch"   the torch form
    "fla"     fla's kernel, or an error that says why not

fla has tensors [B, T, H, .] and logarithms of decays, scales queries by 1 / sqrt(K) unless told otherwise, takes a
float32 state, and chooses its own chunk: `chunk` has no effect on it. Its products of float32 numbers may be TF32, and
the delta rule's rates are rounded to the tokens' half precision. Its kernels have first derivatives only; for
derivatives of derivatives ask for "torch".
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from nestmem.core.checks import transformed
from nestmem.errors import InputError, MissingExtra

Kernel = Literal["auto", "torch", "fla"]
Rule = Literal["linear", "delta"]

EXTRA, PACKAGE = "gpu", "fla"
MODULES = {
    "chunk_simple_gla": "fla.ops.simple_gla",
    "chunk_gla": "fla.ops.gla",
    "chunk_delta_rule": "fla.ops.delta_rule",
    "chunk_gated_delta_rule": "fla.ops.gated_delta_rule",
}
WIDEST_DELTA_KEY = 256
_said: set[str] = set()


def use_fla(kernel: str, keys: Tensor, *, rule: Rule) -> bool:
    """Whether fla's kernel runs on these keys [B, H, T, K].

    Raises InputError for an unknown name, and for "fla" the reason why it cannot run: MissingExtra where it is not
    installed, InputError for tokens that it does not take.
    """
    if kernel not in ("auto", "torch", "fla"):
        raise InputError(f'kernel is "auto", "torch" or "fla"; got {kernel!r}')
    if kernel == "torch" or (kernel == "auto" and (device_type(keys) != "cuda" or transformed())):
        return False
    if kernel == "auto" and (keys.dtype == torch.float64 or keys.shape[2] == 1):
        return False
    if not installed():
        if kernel == "fla":
            raise MissingExtra(EXTRA, PACKAGE)
        _say_once(
            "the slower torch form of the linear and delta rules runs on CUDA; flash-linear-attention has kernels "
            f"for them: pip install 'nestmem[{EXTRA}]' (kernel=\"torch\" silences this)"
        )
        return False
    reason = refusal(keys, rule)
    if reason is None:
        return True
    if kernel == "fla":
        raise InputError(reason)
    _say_once(f'the slower torch form of the {rule} rule runs on CUDA: {reason}; or pass kernel="torch"')
    return False


def refusal(keys: Tensor, rule: Rule) -> str | None:
    """Why fla's kernel does not take these keys, with what it takes; None where it does."""
    if device_type(keys) != "cuda":
        return f"flash-linear-attention runs on CUDA; keys are on {keys.device}"
    if keys.dtype == torch.float64:
        return "flash-linear-attention has no float64; cast the tokens to bfloat16"
    if rule == "delta" and keys.dtype == torch.float32:
        return "flash-linear-attention's delta rule takes half precision tokens only; cast them to bfloat16"
    if rule == "delta" and keys.shape[3] > WIDEST_DELTA_KEY:
        return (
            f"flash-linear-attention's delta rule has keys up to {WIDEST_DELTA_KEY} wide; got {keys.shape[3]}"
        )
    return None


def device_type(x: Tensor) -> str:
    """ "cpu", "cuda", ..."""
    return x.device.type


def installed() -> bool:
    """Whether fla can be imported."""
    try:
        importlib.import_module(PACKAGE)
    except ImportError:
        return False
    return True


def linear(
    queries: Tensor, keys: Tensor, values: Tensor, decay: Tensor | None, scale: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`linear.chunked` by fla: outputs [B, H, T, V], final state [B, H, K, V]. decay as there."""
    q, k, v = (_tokens_first(x) for x in (queries, keys, values))
    options: dict[str, Any] = {"scale": scale, "initial_state": state, "output_final_state": True}
    if decay is not None and decay.ndim == 4:
        out, final = _function("chunk_gla")(q, k, v, g=_tokens_first(decay.float().log()), **options)
    else:
        if decay is not None and decay.ndim == 1 and decay.requires_grad:
            # fla's decay per head is a constant to it; a learned one goes in as a decay per token.
            decay = decay[None, :, None].expand(keys.shape[:3])
        if decay is None:
            pass
        elif decay.ndim == 1:
            options["g_gamma"] = decay.float().log()
        else:
            options["g"] = _tokens_first(decay.float().log())
        out, final = _function("chunk_simple_gla")(q, k, v, **options)
    return out.transpose(1, 2), final


def delta(
    queries: Tensor, keys: Tensor, values: Tensor, rate: Tensor, decay: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`delta.chunked` by fla: outputs [B, H, T, V], final state [B, H, K, V]. Keys are normalised already."""
    q, k, v, beta = (_tokens_first(x) for x in (queries, keys, values, rate.to(keys.dtype)))
    options: dict[str, Any] = {"scale": 1.0, "initial_state": state, "output_final_state": True}
    if decay is None:
        out, final = _function("chunk_delta_rule")(q, k, v, beta=beta, **options)
    else:
        g = _tokens_first(decay.float().log())
        out, final = _function("chunk_gated_delta_rule")(q, k, v, g=g, beta=beta, **options)
    return out.transpose(1, 2), final


def _tokens_first(x: Tensor) -> Tensor:
    """[B, H, T, ...] -> [B, T, H, ...]."""
    return x.transpose(1, 2).contiguous()


def _function(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    return getattr(importlib.import_module(MODULES[name]), name)


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=4)
