"""nestmem: memory for language models, as text you can audit and as weights that learned it.

>>> import nestmem
>>> nestmem.Scope(user="ada").user
'ada'

`Memory`, `Scope` and `open` are loaded on first use (PEP 562), so `import nestmem` is light and never
imports torch by itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from nestmem.errors import MissingExtra, NestmemError
from nestmem.registration import install

if TYPE_CHECKING:
    from nestmem.agent.controller import Memory
    from nestmem.assemble import open
    from nestmem.store.records import Scope

__version__ = "0.1.0"
__all__ = ["Memory", "NestmemError", "Scope", "__version__", "open"]

# What the extra "model" installs; `open` needs it, the text memory (`Memory`) does not.
_MODEL_EXTRA = ("torch", "transformers", "safetensors", "tokenizers")
_WHERE = {
    "Memory": "nestmem.agent.controller",
    "Scope": "nestmem.store.records",
    "open": "nestmem.assemble",
}


install()


def __getattr__(name: str) -> object:
    """Imports the module that holds `name` the first time it is asked for. MissingExtra without torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'nestmem' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        value = getattr(import_module(_WHERE[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in _MODEL_EXTRA:
            raise
        raise MissingExtra("model", error.name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
