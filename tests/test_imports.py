"""The layering of the package, read from the source with ast."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nestmem"

ENGINE = {"core", "ops", "optim", "layers", "models"}
LIBRARY = {"errors", "personas", "adapters", "embedders", "store", "agent", "mini", "assemble"} | ENGINE
# Each part of nestmem/ -> the parts it may import. A part may always import itself.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {"errors", "agent", "store", "assemble", "registration"},
    "errors": set(),
    # By name only, and only once transformers itself has been imported.
    "registration": set(),
    "personas": set(),
    "core": {"errors"},
    "ops": {"core", "errors"},
    "optim": {"core", "errors"},
    "layers": {"core", "ops", "optim", "errors"},
    "models": {"core", "ops", "layers", "errors"},
    "adapters": {"errors"},
    "embedders": {"errors"},
    "mini": {"errors"},
    "store": {"errors"},
    "agent": {"store", "errors"},
    "assemble": {"adapters", "embedders", "mini", "agent", "store", "errors"},
    "evals": LIBRARY,
    "train": LIBRARY,
    # Trains and judges, so it stands on both leaves.
    "compare": LIBRARY | {"evals", "train"},
    # Reads runs and their scores, nothing else.
    "report": {"evals", "errors"},
    "cli": LIBRARY | {"evals", "train", "compare", "report"},
}
# These parts hold plain values only, at import and inside functions.
NEVER_TORCH = {"__init__", "errors", "personas", "store", "agent"}
TENSOR_LIBRARIES = {"torch", "transformers", "peft", "safetensors", "tokenizers"}


def part_of(path: Path) -> str:
    """The part a file belongs to: its folder under nestmem/, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[tuple[str, ...]]:
    """Dotted names imported anywhere in the file, relative imports made absolute."""
    found: set[tuple[str, ...]] = set()
    package = ("nestmem", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            found.update((*module, alias.name) for alias in node.names)
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_up_the_list(path: Path) -> None:
    part = part_of(path)
    assert part in MAY_IMPORT, f"nestmem/{part} is new: give it a line in MAY_IMPORT"
    used = {name[1] for name in imported(path) if name[0] == "nestmem" and len(name) > 1}
    used -= {part, "__version__"}
    assert used <= MAY_IMPORT[part], f"{path} may not import {sorted(used - MAY_IMPORT[part])}"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if part_of(p) in NEVER_TORCH], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_tensors_in_plain_parts(path: Path) -> None:
    assert not {name[0] for name in imported(path)} & TENSOR_LIBRARIES


def test_leaves_do_not_import_each_other() -> None:
    for leaf in ("evals", "train"):
        assert not MAY_IMPORT[leaf] & {"evals", "train", "cli"}


@pytest.mark.parametrize("code", ["import nestmem", "import nestmem.cli", "import nestmem.store"])
def test_light_imports_load_no_tensor_library(code: str) -> None:
    check = f"import sys; {code}; print(*sorted({TENSOR_LIBRARIES!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
