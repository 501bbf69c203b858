"""The package mem0ai, offline."""

from __future__ import annotations

import importlib.util
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nestmem.embedders.fakes import HashEmbedder
from nestmem.errors import InputError, MissingExtra
from nestmem.evals.datasets.base import Turn
from nestmem.evals.systems import mem0
from nestmem.evals.systems.base import Reading, Setup

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
SAID = (
    Turn(id="a", session="s0", role="user", text="My dog is called Biscuit.", at=AT, speaker="Ada"),
    Turn(id="b", session="s0", role="assistant", text="A fine name for a dog.", at=AT),
    Turn(id="c", session="s1", role="user", text="I live in Leeds near the canal.", at=AT),
    Turn(id="d", session="s1", role="system", text="Be kind to the dog.", at=AT),
    Turn(id="e", session="s1", role="user", text=" ", at=AT),
)
ASKED = "What is my dog called?"
installed = pytest.mark.skipif(
    importlib.util.find_spec("mem0") is None or importlib.util.find_spec("qdrant_client") is None,
    reason="mem0ai or qdrant-client is not installed",
)


class Silent:
    name = "none"

    def read(self, question: str, context: str, *, at: datetime | None) -> Reading:
        return Reading(text=None)

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        return None


def setup(folder: Path, **kwargs) -> Setup:
    folder.mkdir(exist_ok=True)
    kwargs.setdefault("embedder", HashEmbedder())
    return Setup(
        folder=folder,
        key=None,
        donor=None,
        reader=Silent(),
        **kwargs,
    )


def told(folder: Path, **kwargs) -> mem0.Mem0:
    system = mem0.make(setup(folder, **kwargs))
    for turn in SAID:
        system.observe(turn, turn.at, "ada")
    system.observe(Turn(id="a", session="s", role="user", text="My dog is called Rook."), None, "bob")
    system.settle("ada")
    return system


@installed
def test_it_finds_its_own_messages_and_forgets_them(tmp_path):
    system, again = told(tmp_path / "1"), told(tmp_path / "2")
    reply = system.answer(ASKED, AT, "ada")
    assert reply.ranked[0].turn == "a"
    assert reply.context.startswith("[2026-03-02]\nAda: My dog is called Biscuit.")
    assert "Rook" not in reply.context
    assert set(reply.shown) <= {"a", "b", "c"}
    assert "2 turns" in reply.notes[0]
    assert system.answer(ASKED, AT, "ada") == reply == again.answer(ASKED, AT, "ada")
    assert system.probe(ASKED, ("Biscuit",), "ada") is None
    assert system.bytes("ada") > 0
    system.forget(["a", "a", "unknown"], "ada")
    assert "a" not in [hit.turn for hit in system.answer(ASKED, AT, "ada").ranked]
    assert "the package keeps forgotten messages in its history" in system.answer(ASKED, AT, "ada").notes
    assert system.answer(ASKED, None, "bob").shown == ("a",)
    assert system.answer(ASKED, None, "bob").notes == ()
    assert system.answer(ASKED, None, "nobody").ranked == ()
    for one in (system, again):
        one.close()


@installed
def test_the_budget_and_the_depth_are_kept(tmp_path):
    system = told(tmp_path / "1", budget_tokens=12, depth=1)
    reply = system.answer(ASKED, AT, "ada")
    assert reply.shown == ("a",)
    assert len(reply.context) <= 48
    assert len(reply.ranked) == 1
    system.close()


@installed
def test_nothing_is_sent_or_written_to_the_users_home(tmp_path):
    told(tmp_path / "1").close()
    import mem0.memory.setup
    import mem0.memory.telemetry

    assert mem0.memory.telemetry.MEM0_TELEMETRY is False
    assert mem0.memory.setup.mem0_dir == os.environ["MEM0_DIR"]
    assert not mem0.memory.setup.mem0_dir.startswith(str(Path.home() / ".mem0"))


@installed
def test_its_temporary_folder_goes_with_the_last_system(tmp_path):
    one, two = told(tmp_path / "1"), told(tmp_path / "2")
    own = Path(os.environ["MEM0_DIR"])
    one.close()
    assert own.is_dir()
    assert two.answer(ASKED, AT, "ada").shown
    two.close()
    assert not own.exists()
    again = told(tmp_path / "3")
    assert again.answer(ASKED, AT, "ada").ranked[0].turn == "a"
    again.close()
    assert not own.exists()


@installed
def test_the_budget_is_filled_with_the_newest_that_were_not_found(tmp_path, monkeypatch):
    monkeypatch.setattr(mem0, "SEARCHED", 1)
    system = mem0.make(setup(tmp_path, budget_tokens=60, depth=1))
    for number in range(40):
        text = "My dog is called Biscuit." if number == 4 else f"Stone number {number}."
        system.observe(Turn(id=f"t{number}", session="s", role="user", text=text), None, "ada")
    reply = system.answer(ASKED, None, "ada")
    assert reply.shown == ("t4", *(f"t{number}" for number in range(31, 40)))
    assert len(reply.ranked) == 1 and 200 < len(reply.context) <= 240
    system.close()


@installed
def test_it_needs_an_embedder(tmp_path):
    with pytest.raises(InputError, match="embedder"):
        mem0.make(setup(tmp_path, embedder=None))
    assert not Path(os.environ["MEM0_DIR"]).exists()


def test_without_the_package_it_says_so(tmp_path, monkeypatch):
    mem0._package.cache_clear()
    monkeypatch.setitem(sys.modules, "mem0", None)
    for name in ("MEM0_TELEMETRY", "MEM0_DIR"):
        monkeypatch.setenv(name, "")
    with pytest.raises(MissingExtra, match="mem0"):
        mem0.make(setup(tmp_path))
    assert not Path(os.environ["MEM0_DIR"]).exists()
    mem0._package.cache_clear()
