"""transformers learns of nestmem's models when it is imported, whether that is before or after nestmem.

So plain `AutoModelForCausalLM.from_pretrained(folder)` loads a model of nestmem after `import nestmem`, and importing
nestmem alone stays light.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# The module after which AutoConfig can be told of a config; the config brings its model when one is made.
AUTO_CONFIG = "transformers.models.auto.configuration_auto"


class _Registers(Loader):
    """The module's own loader, and then the registration."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _register()


class _Finder(MetaPathFinder):
    """Finds that module where Python would, and has it register nestmem's config."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != AUTO_CONFIG:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registers(spec.loader)
        return spec


def _register() -> None:
    import_module("nestmem.models.hub").register_config()


def install() -> None:
    """Register now if transformers is there already, otherwise once it is. Calling twice is harmless."""
    if AUTO_CONFIG in sys.modules:
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
