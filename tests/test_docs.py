"""The code in docs/ runs as it stands."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
WITH_CODE = sorted(p.name for p in DOCS.rglob("*.md") if "```python" in p.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", WITH_CODE)
def test_code_blocks_run_in_order(name: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)
    exec(compile("\n".join(blocks), name, "exec"), {})  # the documents are ours


def test_equations_point_at_what_exists() -> None:
    """Every function and test that docs/equations.md names is there."""
    root = DOCS.parent
    text = (DOCS / "equations.md").read_text(encoding="utf-8")
    places = re.findall(r"`((?:nestmem|tests)/[\w/]+\.py)(?:::([\w.]+))?`", text)
    assert len(places) > 30
    for path, name in places:
        source = (root / path).read_text(encoding="utf-8")
        last = name.split(".")[-1]
        assert not name or re.search(
            rf"^\s*(def|class) {last}\b|^\s*{last}\b.*=|\"{last}\"", source, re.MULTILINE
        ), f"{path} has no {name}"
