"""Where fast weights attach: the feed-forward projections of the last blocks of a Hugging Face causal LM."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from torch import Tensor, linalg, nn
from transformers.pytorch_utils import Conv1D

from nestmem.errors import UnsupportedArchitecture


@dataclass(frozen=True)
class Layout:
    """Paths inside a model: its list of blocks, a block's feed-forward projections as they run, the final norm."""

    blocks: str
    projections: tuple[str, ...]
    norm: str


_GATED = Layout("model.layers", ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"), "model.norm")
LAYOUTS: dict[str, Layout] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text"), _GATED),
    "gpt2": Layout("transformer.h", ("mlp.c_fc", "mlp.c_proj"), "transformer.ln_f"),
    "gpt_neox": Layout(
        "gpt_neox.layers", ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"), "gpt_neox.final_layer_norm"
    ),
}
"""Hugging Face `model_type` -> where its parts are."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One linear map that carries a bank: out (.., d_out) = W x + bias with x (.., d_in)."""

    name: str
    block: int
    module: nn.Module
    d_in: int
    d_out: int

    def weight(self) -> Tensor:
        """W of shape (d_out, d_in), whichever way the module stores it."""
        weight = self.module.weight.detach()
        return weight.T if isinstance(self.module, Conv1D) else weight


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks of `model`, lowest first. Raises `UnsupportedArchitecture`."""
    return attrgetter(layout_of(model).blocks)(model)


def final_norm_of(model: nn.Module) -> nn.Module:
    """The norm between the last block and the output embeddings. Raises `UnsupportedArchitecture`."""
    return attrgetter(layout_of(model).norm)(model)


def find_sites(model: nn.Module, *, last: int) -> list[Site]:
    """The feed-forward projections of the last `last` blocks, in the order in which they run.

    Raises `UnsupportedArchitecture` when the model's type has no known layout; `ValueError` for `last` < 1.
    """
    if last < 1:
        raise ValueError(f"last={last}: expected at least one block to carry banks")
    layout = layout_of(model)
    blocks = blocks_of(model)
    sites = []
    for index in range(max(0, len(blocks) - last), len(blocks)):
        for name in layout.projections:
            module = attrgetter(name)(blocks[index])
            d_out, d_in = module.weight.shape
            if isinstance(module, Conv1D):
                d_out, d_in = d_in, d_out
            site = Site(
                name=f"{layout.blocks}.{index}.{name}", block=index, module=module, d_in=d_in, d_out=d_out
            )
            sites.append(site)
    return sites


def layout_of(model: nn.Module) -> Layout:
    """Where the parts of `model` are, by its `config.model_type`. Raises `UnsupportedArchitecture`."""
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in LAYOUTS:
        raise UnsupportedArchitecture(
            f"model type {kind!r} has no known feed-forward layers; known are {', '.join(sorted(LAYOUTS))}. "
            "Add its block list and projection names to nestmem.adapters.sites.LAYOUTS, or use the model "
            "without weight memory (--model none)."
        )
    return LAYOUTS[kind]


def right_singular_basis(weight: Tensor, rank: int) -> Tensor:
    """The top `rank` right singular vectors of W (d_out, d_in) as rows, (r, d_in) with orthonormal rows.

    They are the eigenvectors of W^T W, found in float64; past the rank of W they complete an orthonormal basis.
    Signs are fixed (largest entry positive), so that the basis is a function of W alone.
    """
    return _singular(weight, rank)[1]


def scaled_singular_basis(weight: Tensor, rank: int) -> Tensor:
    """TMEM's A = Sigma_r V_r^T, (r, d_in): the rows of `right_singular_basis` times their singular values."""
    values, vectors = _singular(weight, rank)
    return values[:, None] * vectors


def _singular(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    rank = min(rank, weight.shape[1])
    squares, columns = linalg.eigh(weight.double().T @ weight.double())
    vectors = columns.flip(1).T[:rank]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    values = squares.flip(0)[:rank].clamp(min=0).sqrt()
    return values.to(weight.dtype), (vectors * largest.sign()).to(weight.dtype).contiguous()
