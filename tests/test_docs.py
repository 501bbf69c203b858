"""The code in docs/ runs as it stands."""

import inspect
import re
from pathlib import Path

import pytest

from nestmem.layers import ContinuumMemory
from nestmem.models import MIXERS, PRESETS
from nestmem.models.block import LAYERS

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


def test_pictures_exist_and_are_shown() -> None:
    """Every picture that a document names is there and small, and none lies about unseen."""
    shown = set()
    for path in DOCS.rglob("*.md"):
        for name in re.findall(r'<img src="([^"]+)"', path.read_text(encoding="utf-8")):
            shown.add((path.parent / name).resolve())
    there = {path.resolve() for path in (DOCS / "figures").rglob("*.png")}
    assert shown == there
    assert all(path.stat().st_size < 40_000 for path in there)


def test_every_model_is_described() -> None:
    text = (DOCS / "models.md").read_text(encoding="utf-8")
    for name in (*PRESETS, *MIXERS):
        assert f"`{name}`" in text or f'config_for("{name}"' in text, (
            f"docs/models.md does not describe {name}"
        )


# Options of a layer's class that are the kind's own matter.
DECIDED = {
    "attention": {"window"},
    "deltanet": {"gated"},
    "gated_deltanet": {"gated"},
    "ttt_linear": {"memory"},
    "ttt_mlp": {"memory"},
}


def test_options_of_layers_are_those_that_they_take() -> None:
    text = (DOCS / "models.md").read_text(encoding="utf-8")
    described: dict[str, set[str]] = {}
    for rows in re.findall(r"^\| kind \| options \|\n\|---\|---\|\n((?:\|.*\n)+)", text, re.MULTILINE):
        for row in rows.splitlines():
            kinds, options = (set(re.findall(r"`(\w+)`", part)) for part in row.strip("|").split("|"))
            described |= dict.fromkeys(kinds, options)
    assert set(described) == {*MIXERS, "continuum"}
    for kind, options in described.items():
        made = ContinuumMemory if kind == "continuum" else type(LAYERS[kind](8, 2))
        taken = {n for n, p in inspect.signature(made).parameters.items() if p.kind == p.KEYWORD_ONLY}
        if "titans" in options:
            options = options - {"titans"} | described["titans"]
        assert options == taken - DECIDED.get(kind, set()), kind


def test_records_name_no_path_of_a_machine() -> None:
    """A record says which file it came from, not where that lay on the machine that ran it."""
    records = [
        p for p in (DOCS.parent / "results").rglob("*") if p.suffix in (".json", ".jsonl", ".md", ".txt")
    ]
    assert len(records) > 20
    for path in records:
        found = re.findall(
            r"""["'\s](/(?:home|root|work|tmp|mnt|Users)/[^"'\s]*)""", path.read_text(encoding="utf-8")
        )
        assert not found, f"{path}: {found[:3]}"
