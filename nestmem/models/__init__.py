"""Language models that learn while they read, with Hugging Face's interface.

Loaded on first use (PEP 562): transformers looks at the config while it is itself being imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nestmem.models.cache import MemoryCache
    from nestmem.models.config import FEED_FORWARDS, MIXERS, NestmemConfig
    from nestmem.models.model import NestmemForCausalLM
    from nestmem.models.presets import PRESETS, config_for, matched, parameters
    from nestmem.models.stacking import StackedForCausalLM, stack_levels

__all__ = [
    "FEED_FORWARDS",
    "MIXERS",
    "PRESETS",
    "MemoryCache",
    "NestmemConfig",
    "NestmemForCausalLM",
    "StackedForCausalLM",
    "config_for",
    "matched",
    "parameters",
    "stack_levels",
]

_WHERE = {
    "FEED_FORWARDS": "config",
    "MIXERS": "config",
    "NestmemConfig": "config",
    "MemoryCache": "cache",
    "NestmemForCausalLM": "model",
    "PRESETS": "presets",
    "config_for": "presets",
    "matched": "presets",
    "parameters": "presets",
    "StackedForCausalLM": "stacking",
    "stack_levels": "stacking",
}


def __getattr__(name: str) -> object:
    """Imports the module that holds `name` the first time it is asked for."""
    if name not in _WHERE:
        raise AttributeError(
            f"module 'nestmem.models' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    value = getattr(import_module(f"nestmem.models.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
