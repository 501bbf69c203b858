"""Tiny randomly initialised models of every supported architecture, and a tokenizer for them."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from nestmem.adapters.fast_weights import CALIBRATION
from nestmem.train.tokenizer import train_tokenizer

VOCABULARY = 400
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 1,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=12),
    "mistral": MistralConfig(**GROUPED),
    "gemma": GemmaConfig(**GROUPED, head_dim=12),
    "gemma2": Gemma2Config(**GROUPED, head_dim=12),
    "gemma3_text": Gemma3TextConfig(**GROUPED, head_dim=12),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=48, n_layer=4, n_head=4, n_positions=256, eos_token_id=1, bos_token_id=1
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES),
}


def tiny(kind: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A model of this architecture, the same at every call."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[kind]).to(dtype).eval()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([" ".join(pair) for pair in CALIBRATION] * 20, vocabulary=VOCABULARY)
