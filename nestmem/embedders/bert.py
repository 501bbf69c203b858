"""A BERT sentence encoder read from a sentence-transformers folder: tokenizer, encoder, mean, unit norm.

The encoder is written out here (forty lines of torch) so that embedding one query does not first
spend seconds on importing transformers. Tensor suffixes: B texts, T tokens, D width, H heads.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional as F

from nestmem.errors import EmbedderError

BATCH = 32
MAX_TOKENS = 256


class BertEmbedder:
    """Embeds texts with a BERT encoder on the CPU or another torch device. Deterministic.

    `name` identifies the weights' origin; vectors of embedders with another name or dim are not mixed.
    """

    def __init__(self, folder: Path, *, name: str, device: str = "cpu", max_tokens: int = MAX_TOKENS) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") != "bert":
            raise EmbedderError(
                f"{folder} holds a {config.get('model_type')!r} model; this encoder reads 'bert' only"
            )
        self.name = name
        self.dim = int(config["hidden_size"])
        self._device = torch.device(device)
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._eps = float(config["layer_norm_eps"])
        self._max_tokens = min(max_tokens, int(config["max_position_embeddings"]))
        weights = load_file(str(folder / "model.safetensors"), device=str(self._device))
        self._weights = {
            key.removeprefix("bert."): value.float()
            for key, value in weights.items()
            if value.is_floating_point()
        }
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(self._max_tokens)
        self._tokenizer.no_padding()

    def embed(self, texts: list[str]) -> np.ndarray:
        """(n, dim) float32 rows of unit norm. Texts of like length share a batch; the order is kept."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        rows = np.zeros((len(texts), self.dim), np.float32)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            rows[chosen] = self._embed_batch([encoded[i] for i in chosen])
        return rows

    @torch.inference_mode()
    def _embed_batch(self, token_ids: list[list[int]]) -> np.ndarray:
        longest = max(len(ids) for ids in token_ids)
        ids_BT = torch.zeros(len(token_ids), longest, dtype=torch.long, device=self._device)
        mask_BT = torch.zeros(len(token_ids), longest, dtype=torch.bool, device=self._device)
        for row, ids in enumerate(token_ids):
            ids_BT[row, : len(ids)] = torch.tensor(ids, device=self._device)
            mask_BT[row, : len(ids)] = True
        hidden_BTD = encode(
            ids_BT, mask_BT, self._weights, layers=self._layers, heads=self._heads, eps=self._eps
        )
        keep_BT1 = mask_BT[..., None].float()
        mean_BD = (hidden_BTD * keep_BT1).sum(1) / keep_BT1.sum(1)
        return F.normalize(mean_BD, dim=-1).cpu().numpy()


def encode(
    ids_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    weights: Mapping[str, torch.Tensor],
    *,
    layers: int,
    heads: int,
    eps: float,
) -> torch.Tensor:
    """The last hidden states (B, T, D) of BERT (arXiv 1810.04805), post-norm, exact GELU."""

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    x_BTD = (
        weights["embeddings.word_embeddings.weight"][ids_BT]
        + weights["embeddings.position_embeddings.weight"][: ids_BT.shape[1]]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    x_BTD = norm(x_BTD, "embeddings.LayerNorm")
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        q_BHTK, k_BHTK, v_BHTK = (
            linear(x_BTD, f"{layer}.attention.self.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        read_BHTK = F.scaled_dot_product_attention(
            q_BHTK, k_BHTK, v_BHTK, attn_mask=mask_BT[:, None, None, :]
        )
        read_BTD = linear(read_BHTK.transpose(1, 2).flatten(-2), f"{layer}.attention.output.dense")
        x_BTD = norm(x_BTD + read_BTD, f"{layer}.attention.output.LayerNorm")
        wide = F.gelu(linear(x_BTD, f"{layer}.intermediate.dense"))
        x_BTD = norm(x_BTD + linear(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x_BTD
