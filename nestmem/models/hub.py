"""The Hugging Face door: transformers' Auto classes know nestmem's models."""

from __future__ import annotations

from functools import cache

from nestmem.models.config import NestmemConfig


@cache
def register_config() -> None:
    """AutoConfig reads folders of nestmem's models."""
    from transformers.models.auto.configuration_auto import AutoConfig

    AutoConfig.register(NestmemConfig.model_type, NestmemConfig, exist_ok=True)


@cache
def register_model() -> None:
    """AutoModelForCausalLM makes and loads them. Imports torch and the whole of transformers' model code."""
    from transformers import AutoModelForCausalLM

    from nestmem.models.model import NestmemForCausalLM

    register_config()
    AutoModelForCausalLM.register(NestmemConfig, NestmemForCausalLM, exist_ok=True)
