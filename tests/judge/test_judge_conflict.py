"""Conflicting facts: later ones win, over one hop and over two."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets import conflict
from nestmem.evals.datasets.base import Stream, Task, load
from nestmem.evals.datasets.relations import BRIDGES, BY_PROMPT, RELATIONS

LANDS = [f"{start}{end}" for start in ("Ar", "Bel", "Cor", "Dun", "Els") for end in ("land", "mark", "stan")]
TONGUES = ["Orrish", "Telnic", "Vaskan", "Lummic", "Quarran"]


def row(prompt: str, subject: str, old: str, new: str) -> dict[str, str]:
    return {"prompt": prompt.format(subject), "subject": subject, "ground_truth": old, "target_new": new}


def table() -> list[dict[str, str]]:
    """Citizens of lands, and lands with languages; what cannot be used stands at the end."""
    rows = [row("{} is a citizen of", f"Person {n}", LANDS[n % 15], LANDS[(n + 4) % 15]) for n in range(60)]
    rows += [
        row("The official language of {} is", land, TONGUES[n % 5], TONGUES[(n + 1) % 5])
        for n, land in enumerate(LANDS)
    ]
    rows += [
        row("{}, in", "Somewhere", "Arland", "Belland"),
        row("{} is located in", "Arland Airport", "Arland", "Corland"),
        row("{}, a citizen of", "Person 1", "Arland", "Belland"),
    ]
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "counterfact-edit.json").write_text(json.dumps(table()))
    return tmp_path


def said(stream: Stream) -> dict[str, list[tuple[str, str]]]:
    """What was told before the object -> (turn, object), oldest first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for number, turn in enumerate(stream.turns):
        match = re.fullmatch(rf"{number}\. (.*) (\S+)\.", turn.text)
        assert match, turn.text
        found.setdefault(match[1], []).append((turn.id, match[2]))
    return found


def test_what_cannot_be_used_is_counted() -> None:
    facts, left = conflict.read_facts(table())
    assert len(facts) == 75
    assert left == {
        "rows whose prompt does not say the relation": 1,
        "rows whose objects contain each other or stand in the subject": 1,
        "rows about what an earlier row is about": 1,
    }


def test_each_prompt_says_one_relation() -> None:
    prompts = [prompt for relation in RELATIONS.values() for prompt in relation.prompts]
    assert len(prompts) == len(set(prompts)) == len(BY_PROMPT)
    assert all(prompt.count("{}") == 1 for prompt in prompts) and set(RELATIONS) >= BRIDGES
    for relation in RELATIONS.values():
        assert "{s}" in relation.told and "{o}" in relation.told
        assert relation.asked.endswith("?") and "{s}" in relation.asked and "{s}" in relation.named


def test_single_the_newest_is_right_and_the_older_is_rejected(folder: Path) -> None:
    dataset = conflict.load_single(folder, facts=60, questions=40)
    for stream in dataset.streams:
        told = said(stream)
        assert len(stream.turns) == 60 and len(stream.questions) == 38
        for question in stream.questions:
            (key,) = [key for key, each in told.items() if each[-1][0] == question.evidence[0]]
            values = [value for _, value in told[key]]
            assert question.answers == (values[-1],) and question.rejected == tuple(values[:-1])
            assert question.kind == ("changed" if len(values) == 2 else "unchanged")
            assert set(values) <= set(question.candidates)
    assert dataset.notes == ("78 of 10,000 rows",)


def test_multi_both_hops_are_the_newest(folder: Path) -> None:
    dataset = conflict.load_multi(folder, facts=150, questions=20)
    kinds = set()
    for stream in dataset.streams:
        told = said(stream)
        language = {
            key.removeprefix("The official language of ").removesuffix(" is"): v for key, v in told.items()
        }
        assert len(stream.questions) == 20 and len(stream.turns) <= 150
        for question in stream.questions:
            person = re.search(r"Person \d+", question.text)
            assert person
            lands = told[f"{person[0]} is a citizen of"]
            tongues = language[lands[-1][1]]
            assert question.answers == (tongues[-1][1],)
            assert question.evidence == (lands[-1][0], tongues[-1][0])
            assert tongues[0][1] in question.rejected and question.answers[0] not in question.rejected
            assert lands[-1][1] not in question.text
            if question.kind == "2 hops with decoy":
                assert language[lands[0][1]][-1][1] in question.rejected
            kinds.add(question.kind)
    assert "2 hops with decoy" in kinds


def test_draws_repeat(folder: Path) -> None:
    for load_one in (conflict.load_single, conflict.load_multi):
        assert load_one(folder).digest() == load_one(folder).digest() != load_one(folder, seed=1).digest()
        assert any("the data has no more" in note for note in load_one(folder).notes)


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"counterfact-edit\.json"):
        conflict.load_single(tmp_path)
    file = tmp_path / "counterfact-edit.json"
    for content, message in (
        ("[", "not JSON"),
        ("{}", "line 1 has no prompt, subject"),
        ('[{"prompt": "A"}]', "record 1 has no subject"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            conflict.load_single(tmp_path)
    file.write_text(json.dumps(table()[:60]))
    with pytest.raises(InputError, match="over two"):
        conflict.load_multi(tmp_path)


@pytest.mark.skipif("TEST_DATA" not in os.environ, reason="TEST_DATA names no folder of data")
@pytest.mark.parametrize(("task", "questions"), [(conflict.SINGLE, 200), (conflict.MULTI, 100)])
def test_real_facts(task: Task, questions: int) -> None:
    dataset = load(task, Path(os.environ["TEST_DATA"]), task.options)
    assert dataset.questions == questions and all(len(stream.turns) == 400 for stream in dataset.streams)
