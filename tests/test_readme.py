"""The README is true: its example runs, its commands exist, its file tree is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from nestmem.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = re.search(r"```\n(nestmem/\n.*?)```", README, re.DOTALL)


def tree_paths() -> list[str]:
    """The paths that the README's file tree names, from its indentation."""
    assert TREE, "the README has no file tree"
    paths: list[str] = []
    parents: dict[int, str] = {}
    for line in TREE[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        parents[depth] = (parents[depth - 1] if depth else "") + name
        paths.append(parents[depth])
    return paths


@pytest.mark.parametrize("path", tree_paths())
def test_tree_exists(path: str) -> None:
    assert (ROOT / path).exists()
    assert (ROOT / path).is_dir() == path.endswith("/")


def test_tree_names_every_part_of_the_package() -> None:
    parts = {
        f"nestmem/{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in (ROOT / "nestmem").iterdir()
        if not entry.name.startswith("__") and (entry.is_dir() or entry.suffix == ".py")
    }
    assert parts <= set(tree_paths())


def test_tree_names_every_folder_at_the_top() -> None:
    tracked = ("nestmem", "tests", "docs", "benchmarks", "results", "examples", "experiments")
    there = {f"{name}/" for name in tracked if (ROOT / name).is_dir()}
    assert there <= set(tree_paths())


def test_every_line_of_the_tree_has_a_purpose() -> None:
    assert TREE
    lines = TREE[1].splitlines()[1:]
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


def test_files_to_read_first_exist() -> None:
    files = re.findall(r"^\d\. `([^`]+)`", README, re.MULTILINE)
    assert len(files) == 6
    assert all((ROOT / file).is_file() for file in files)


def command_names() -> set[str]:
    """Every command and sub-command of the program, as it is typed."""
    group = typer.main.get_group(app)
    names = set()
    for name, command in group.commands.items():
        below = getattr(command, "commands", {})
        names |= {f"{name} {sub}" for sub in below} or {name}
    return names


def test_commands_in_the_readme_exist() -> None:
    known = command_names()
    for mentioned in re.findall(r"`nestmem ((?:eval |train |compare )?[a-z]+)", README):
        assert mentioned in known, f"nestmem {mentioned} is not a command"


def test_commands_that_exist_are_in_the_readme() -> None:
    for name in command_names():
        assert f"`nestmem {name}" in README, f"the README does not mention nestmem {name}"


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_extras_in_the_readme_exist() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"`(?:pip install ')?\.\[(\w+)\]", README):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE)


def run_example(which: int, folder: Path) -> str:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 3
    command = [sys.executable, "-W", "error", "-c", examples[which]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_agent_example_runs(tmp_path: Path) -> None:
    told, _, after = run_example(0, tmp_path).splitlines()
    assert "Biscuit" in told
    assert "Biscuit" not in after


def test_sequence_example_runs(tmp_path: Path) -> None:
    run_example(1, tmp_path)
    assert (tmp_path / "memory.safetensors").stat().st_size > 0


def test_language_model_example_runs(tmp_path: Path) -> None:
    (said,) = run_example(2, tmp_path).splitlines()
    assert said == "My dog is called Biscuit."
