"""Scoring: numbers against hand-made ones, the same bytes twice, half runs, comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from nestmem.agent.types import Chat
from nestmem.errors import InputError
from nestmem.evals import judging, log, scoring
from nestmem.evals.datasets.base import Question
from nestmem.evals.folder import file_name
from nestmem.evals.log import Line, Timing
from nestmem.evals.systems.base import Hit, Reading, Reply


def ask(
    stream: str,
    id_: str,
    text: str | None,
    *,
    system: str = "bm25",
    kind: str = "fact",
    age: int | None = 5,
    cluster: str | None = None,
    failed: str | None = None,
    ranked: bool = False,
    found: bool = True,
) -> Line:
    """A question whose answer is "Nimbus", with the reply `text`."""
    question = Question(
        id=id_,
        text="What is Ada's ferret called?",
        kind=kind,
        after=2000,
        answers=("Nimbus",),
        evidence=() if age is None else ("t1",),
        cluster=cluster,
    )
    hits = (Hit(turn="t1" if found else "t2", session="s1" if found else "s2", score=1.0),) if ranked else ()
    reply = Reply(
        reading=Reading(text=text, failed=failed, tokens_in=10, tokens_out=2),
        context="x" * 40,
        shown=("t1",) if found else (),
        ranked=hits,
        notes=("an arm was not there",) if not found else (),
    )
    return Line(
        task="echo",
        system=system,
        stream=stream,
        question=question,
        reply=reply,
        ages=() if age is None else (age,),
        sessions=() if age is None else ("s1",),
    )


def described(systems: Sequence[str], **more: Any) -> dict[str, Any]:
    task = {
        "name": "echo",
        "version": "echo/1",
        "digest": "d1",
        "streams": 2,
        "questions": 4,
        "scorers": ["contains", "evidence_all", "mrr", "judged"],
        "without_reader": "evidence_all",
    }
    return {
        "version": log.VERSION,
        "task": {**task, **more.pop("task", {})},
        "systems": [{"spec": spec, "name": spec.split(":")[0], "options": {}} for spec in systems],
        "reader": {"spec": "perfect", "name": "perfect"},
        "budget_tokens": 2000,
        "seed": 0,
        "finished": True,
        **more,
    }


def write_run(folder: Path, lines: Sequence[Line], **more: Any) -> Path:
    """A run's folder as the runner writes it: a unit per system and stream."""
    systems = list(dict.fromkeys(line.system for line in lines))
    for part in ("log", "times"):
        (folder / part).mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(described(systems, **more)), encoding="utf-8")
    for system in systems:
        path = folder / "log" / f"{file_name(system)}.jsonl.gz"
        times = folder / "times" / f"{file_name(system)}.jsonl"
        own = [line for line in lines if line.system == system]
        for stream in dict.fromkeys(line.stream for line in own):
            unit = [line for line in own if line.stream == stream]
            log.append_lines(path, unit)
            timing = Timing(
                system=system,
                stream=stream,
                turns=500,
                characters=4000,
                observe_s=2.0,
                settle_s=1.0,
                answer_s=tuple(0.1 * n for n in range(1, len(unit) + 1)),
                bytes=2000,
                joules=3.0,
                unsupported=("it cannot forget",) if stream == "bo" else (),
            )
            with times.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**asdict(timing), "log_bytes": path.stat().st_size}) + "\n")
    return folder


def two(system: str, right: Sequence[bool]) -> list[Line]:
    """Streams ada and bo with two questions each."""
    places = [("ada", "q0"), ("ada", "q1"), ("bo", "q0"), ("bo", "q1")]
    return [
        ask(stream, id_, "Nimbus" if good else "Rex", system=system, found=good)
        for (stream, id_), good in zip(places, right, strict=True)
    ]


def test_the_record_has_the_numbers_of_the_log(tmp_path: Path) -> None:
    lines = two("bm25", [True, True, False, False])
    lines[2] = ask("bo", "q0", None, failed="refused: policy", kind="other", age=1500)
    lines[3] = ask("bo", "q1", None, failed="something odd", kind="other", age=None)
    record = scoring.score(write_run(tmp_path / "run", lines))
    system = record["systems"]["bm25"]
    assert (record["task"], record["digest"], record["headline"]) == ("echo", "d1", "contains")
    assert (system["asked"], system["streams"], system["unsupported"]) == (4, 2, 1)
    assert system["failed"] == {"refused": 1, "empty": 0, "error": 1}
    # Two clusters, residuals +1 and -1: sqrt(2/1 * 2) / 4 = 0.5.
    assert system["scores"]["contains"] | {"low": 0, "high": 0} == {
        "mean": 0.5,
        "se": 0.5,
        "low": 0,
        "high": 0,
        "n": 4,
        "clusters": 2,
    }
    assert system["scores"]["evidence_all"]["n"] == 3
    # Nothing was ranked and nobody judged: no such score, not a 0.
    assert set(system["scores"]) == {"contains", "evidence_all"}
    assert list(system["by_kind"]) == ["fact", "other"]
    assert system["by_kind"]["other"]["contains"]["mean"] == 0.0
    assert {age: part["contains"]["n"] for age, part in system["by_age"].items()} == {"0-9": 2, "1000+": 1}
    assert system["tokens"] == {"context": {"mean": 10.0, "p95": 10.0}, "in": 40, "out": 8}
    assert system["seconds"]["tell_per_1000_turns"] == 4.0 and system["seconds"]["settle"] == 2.0
    assert system["seconds"]["answer"]["p50"] == pytest.approx(0.15)
    assert system["bytes"] == {"mean": 2000.0, "per_1000_characters": 500.0}
    assert system["joules"] == 6.0 and record["without_evidence"] == 1
    assert record["missing_streams"] == {"bm25": 0} and record["switch"] is None


def test_clusters_of_questions_go_before_streams(tmp_path: Path) -> None:
    lines = [ask(f"s{n}", "q", "Nimbus" if n < 3 else "Rex", cluster="a" if n < 4 else "b") for n in range(6)]
    made = scoring.score(write_run(tmp_path / "run", lines))["systems"]["bm25"]["scores"]["contains"]
    # Mean 1/2; residuals of a: 3 * .5 - .5 = 1, of b: -1. se = sqrt(2 * 2) / 6.
    assert made["clusters"] == 2 and made["mean"] == 0.5
    assert made["se"] == pytest.approx(math.sqrt(4) / 6, abs=1e-6)


def test_scoring_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    lines = [*two("bm25", [True, True, False, False]), *two("none", [False, True, False, False])]
    folder = write_run(tmp_path / "run", lines)
    first = scoring.write(folder)
    before = (folder / "scores.json").read_bytes()
    assert scoring.write(folder) == first and (folder / "scores.json").read_bytes() == before
    assert json.loads(before) == first
    assert scoring.render(first) == scoring.render(json.loads(before))
    # Another run of the same lines has the same scores, and the same digest of its log.
    other = write_run(tmp_path / "other", lines)
    assert scoring.score(other) == first
    assert len(first["systems"]["bm25"]["log_sha256"]) == 64


def test_paired_differences_against_hand_numbers() -> None:
    a, b = two("a", [True, True, False, True]), two("b", [False, True, False, False])
    made = scoring.paired(a, b, "contains")
    # Differences 1, 0 in ada and 0, 1 in bo: mean .5, residual 0 in each cluster.
    assert (made.estimate.mean, made.estimate.se, made.estimate.n, made.not_shared) == (0.5, 0.0, 4, 0)
    made = scoring.paired(
        two("a", [True, True, False, False]), two("b", [False, False, False, False]), "contains"
    )
    assert made.estimate.mean == 0.5 and made.estimate.se == pytest.approx(0.5)
    # Two clusters: t with one degree of freedom leaves nothing of -1..1 out.
    assert (made.estimate.low, made.estimate.high) == (-1.0, 1.0)
    made = scoring.paired(a, b[:3], "contains")
    assert made.estimate.n == 3 and made.not_shared == 1
    assert made.estimate.mean == pytest.approx(1 / 3)


def test_pairs_stand_once_in_the_record(tmp_path: Path) -> None:
    lines = [
        *two("a", [True, True, False, True]),
        *two("b", [False, True, False, False]),
        *two("c", [True] * 4),
    ]
    record = scoring.score(write_run(tmp_path / "run", lines))
    assert list(record["paired"]["contains"]) == ["a|b", "a|c", "b|c"]
    assert record["paired"]["contains"]["a|b"]["mean"] == 0.5
    assert record["paired"]["contains"]["b|c"]["mean"] == -0.75


def test_a_system_that_ranks_counts_an_empty_ranking_as_wrong(tmp_path: Path) -> None:
    lines = [ask("ada", "q0", "Nimbus", ranked=True), ask("bo", "q0", "Nimbus")]
    lines += [ask("ada", "q0", "Rex", system="none"), ask("bo", "q0", "Rex", system="none")]
    record = scoring.score(write_run(tmp_path / "run", lines))
    assert record["systems"]["bm25"]["scores"]["mrr"]["mean"] == 0.5
    assert "mrr" not in record["systems"]["none"]["scores"] and "mrr" not in record["paired"]


def test_without_a_reader_the_headline_is_the_other(tmp_path: Path) -> None:
    lines = [ask("ada", "q0", None), ask("bo", "q0", None, found=False)]
    folder = write_run(tmp_path / "run", lines, reader={"spec": "none", "name": "none"})
    record = scoring.score(folder)
    assert record["headline"] == "evidence_all"
    assert set(record["systems"]["bm25"]["scores"]) == {"evidence_all"}
    assert record["systems"]["bm25"]["notes"] == {"an arm was not there": 1}


def test_an_interrupted_run_is_scored_as_far_as_it_is_there(tmp_path: Path) -> None:
    lines = [*two("bm25", [True, True, True, True]), *two("none", [False] * 4)]
    folder = write_run(tmp_path / "run", lines, finished=False)
    times = folder / "times" / "none.jsonl"
    times.write_text(times.read_text(encoding="utf-8").splitlines(keepends=True)[0] + '{"system": ', "utf-8")
    path = folder / "log" / "none.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-7])
    record = scoring.score(folder)
    assert record["missing_streams"] == {"bm25": 0, "none": 1}
    assert record["systems"]["none"]["asked"] == 2
    assert record["paired"]["contains"]["bm25|none"]["n"] == 2
    assert record["paired"]["contains"]["bm25|none"]["not_shared"] == 2
    assert "none: 1 of 2 streams were run" in scoring.render(record)
    (folder / "times" / "none.jsonl").unlink()
    record = scoring.score(folder)
    assert record["systems"]["none"]["asked"] == 0 and record["systems"]["none"]["scores"] == {}
    assert scoring.render(record)


def test_bad_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        scoring.score(tmp_path)
    folder = write_run(tmp_path / "run", two("bm25", [True] * 4))
    with pytest.raises(InputError, match="there is no score 'bleu'"):
        scoring.score(folder, names=("bleu",))
    path = folder / "log" / "bm25.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(InputError, match="cannot be read to its end"):
        scoring.score(folder)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        scoring.score(folder)
    path.write_bytes(whole)
    (folder / "run.json").write_text('{"version": "judge/0"}', encoding="utf-8")
    with pytest.raises(InputError, match="'judge/0', expected 'judge/1'"):
        scoring.score(folder)


def test_other_scores_can_be_asked_for(tmp_path: Path) -> None:
    lines = [ask("ada", "q0", "Nimbus", ranked=True), ask("bo", "q0", "Nimbus", ranked=True, found=False)]
    record = scoring.score(write_run(tmp_path / "run", lines), names=("turn_any@3", "token_f1"))
    assert list(record["systems"]["bm25"]["scores"]) == ["turn_any@3", "token_f1"]
    assert record["headline"] == "turn_any@3"


def test_two_runs_compare_on_the_same_data_only(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", two("bm25", [True, True, False, True]))
    b = write_run(tmp_path / "b", two("bm25:k=2", [False, True, False, False]), seed=1)
    record = scoring.compare(a, None, b, None)
    (pair,) = record["pairs"]
    assert (pair["a"], pair["b"]) == ("bm25", "bm25:k=2")
    assert pair["scores"]["contains"]["difference"]["mean"] == 0.5
    assert record["differ"] == {"seed": [0, 1]}
    text = scoring.render_compare(record)
    assert "+0.500" in text and "they differ in seed: 0 and 1" in text
    with pytest.raises(InputError, match="no system 'x'; expected one of bm25"):
        scoring.compare(a, "x", b, None)
    other = write_run(tmp_path / "c", two("bm25", [True] * 4), task={"digest": "d2"})
    with pytest.raises(InputError, match="digest is 'd1' and 'd2'"):
        scoring.compare(a, None, other, None)
    older = write_run(tmp_path / "d", two("bm25", [True] * 4), task={"version": "echo/0"})
    with pytest.raises(InputError, match="version is 'echo/1' and 'echo/0'"):
        scoring.compare(a, None, older, None)


def test_runs_of_several_systems_compare_what_both_hold(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [*two("bm25", [True] * 4), *two("none", [False] * 4)])
    b = write_run(tmp_path / "b", [*two("none", [True] * 4), *two("full", [False] * 4)])
    assert [(p["a"], p["b"]) for p in scoring.compare(a, None, b, None)["pairs"]] == [("none", "none")]
    assert (
        scoring.compare(a, "bm25", a, "none")["pairs"][0]["scores"]["contains"]["difference"]["mean"] == 1.0
    )
    with pytest.raises(InputError, match="has 2 systems; name one of none, full"):
        scoring.compare(a, "bm25", b, None)
    c = write_run(tmp_path / "c", [*two("x", [True] * 4), *two("y", [False] * 4)])
    with pytest.raises(InputError, match="no system in common"):
        scoring.compare(a, None, c, None)


def growing(system: str, right: dict[int, int]) -> list[Line]:
    """Eight lives at each size; twice `right` of them are answered."""
    return [
        ask(
            f"size-{size:04d}/{life}",
            "q",
            "Nimbus" if life < 2 * good else "Rex",
            system=system,
            cluster=f"life-{life}",
        )
        for size, good in right.items()
        for life in range(8)
    ]


def test_the_switch_point(tmp_path: Path) -> None:
    lines = growing("full", {1: 4, 4: 3, 16: 2, 64: 0})
    lines += growing("bm25", {1: 3, 4: 4, 16: 3, 64: 4}) + growing("none", {1: 0, 4: 0, 16: 0, 64: 0})
    switch = scoring.score(write_run(tmp_path / "run", lines))["switch"]
    assert (switch["score"], switch["unit"], switch["baseline"]) == ("contains", "conversations", "full")
    assert {size: e["mean"] for size, e in switch["curves"]["full"].items()} == {
        "1": 1.0,
        "4": 0.75,
        "16": 0.5,
        "64": 0.0,
    }
    assert switch["at"] == {"bm25": 4, "none": None}
    assert switch["sure_at"] == {"bm25": 64, "none": None}
    without = write_run(tmp_path / "other", growing("bm25", {1: 3, 4: 4}))
    assert scoring.score(without)["switch"] is None


class Yes:
    """Accepts everything."""

    name = "yes"

    def chat(self, messages: Chat, *, max_tokens: int = 256) -> str:
        return '{"correct": true}'


def test_a_judged_run_has_the_judges_error_beside_its_score(tmp_path: Path) -> None:
    lines = two("bm25", [True, True, False, False])
    lines[3] = replace(lines[3], reply=replace(lines[3].reply, reading=Reading(text=None, failed="empty")))
    others = [
        replace(line, question=replace(line.question, id=f"{line.question.id}x", answers=("Pixel",)))
        for line in lines
    ]
    folder = write_run(tmp_path / "run", [*lines, *others])
    ticks: list[tuple[int, int, str]] = []
    judging.judge_run(folder, Yes(), progress=lambda *tick: ticks.append(tick))
    assert len(ticks) == 8
    record = scoring.write(folder)
    assert record["systems"]["bm25"]["scores"]["judged"]["mean"] == 0.75
    assert record["judge"]["name"] == {"bm25": "yes, judge.v1"}
    assert record["judge"]["unparsed"] == {"bm25": 0}
    errors = record["judge"]["errors"]
    assert errors["false_accept"]["mean"] == 1.0 and errors["false_reject"]["mean"] == 0.0
    text = scoring.render(record)
    assert f"accepts planted wrong replies: {errors['false_accept']['n']} of" in text
    assert "errs too often (false_accept): do not use its score" in text
    before = (folder / "scores.json").read_bytes()
    judging.judge_run(folder, Yes())
    scoring.write(folder)
    assert (folder / "scores.json").read_bytes() == before


def test_a_run_without_a_reader_is_not_judged(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", two("bm25", [True] * 4), reader={"spec": "none", "name": "none"})
    with pytest.raises(InputError, match="without a reader"):
        judging.judge_run(folder, Yes())


def test_the_table_says_what_a_reader_should_know(tmp_path: Path) -> None:
    lines = two("bm25", [True, True, False, False])
    lines[2] = ask("bo", "q0", None, failed="refused: policy", kind="other", age=None)
    others = two("none", [False] * 4)
    others[2] = replace(lines[2], system="none")
    text = scoring.render(scoring.score(write_run(tmp_path / "run", [*lines, *others])))
    for part in (
        "headline contains",
        "0.500 ± 0.500",
        "contains by kind",
        "bm25 - none",
        "of 4 readings failed, and count as wrong: refused 1",
        "requests to forget that it does not support: 1",
        "questions without evidence, which scores of evidence leave out: 1",
    ):
        assert part in text, text


def test_differences_are_shown_from_the_best_system(tmp_path: Path) -> None:
    lines = [*two("none", [False, True, False, False]), *two("bm25", [True, True, False, True])]
    text = scoring.render(scoring.score(write_run(tmp_path / "run", lines)))
    (row,) = [row.split() for row in text.splitlines() if row.startswith("bm25 - none")]
    assert row == ["bm25", "-", "none", "+0.500", "-1.000", "to", "1.000", "4", "2"]


def test_a_question_is_as_old_as_its_oldest_evidence(tmp_path: Path) -> None:
    lines = [
        replace(ask("ada", "q0", "Nimbus"), ages=(5, 1500)),
        replace(ask("bo", "q0", "Rex"), ages=(120, 7)),
    ]
    record = scoring.score(write_run(tmp_path / "run", lines))
    by_age = record["systems"]["bm25"]["by_age"]
    assert {age: part["contains"]["mean"] for age, part in by_age.items()} == {"100-999": 0.0, "1000+": 1.0}


def alike(system: str, right: int, questions: int = 5, clusters: int = 5) -> list[Line]:
    """`right` of the questions are answered, over so many clusters."""
    return [
        ask(f"s{n}", "q", "Nimbus" if n < right else "Rex", system=system, cluster=f"c{n % clusters}")
        for n in range(questions)
    ]


def test_two_systems_that_agree_on_a_few_questions_are_not_shown_to_be_equal() -> None:
    made = scoring.paired(alike("a", 5), alike("b", 5), "contains").estimate
    assert (made.mean, made.se) == (0.0, 0.0)
    assert made.low < -0.4 and made.high > 0.4
    # All five for one of them: McNemar's exact test says p = 0.06.
    made = scoring.paired(alike("a", 5), alike("b", 0), "contains").estimate
    assert made.low < 0 < made.high == 1.0
    made = scoring.paired(alike("a", 7, 7, 7), alike("b", 0, 7, 7), "contains").estimate
    assert made.low > 0


def test_the_table_has_clusters_and_intervals_where_the_error_is_nothing(tmp_path: Path) -> None:
    lines = [*alike("a", 5), *alike("b", 0)]
    text = scoring.render(scoring.score(write_run(tmp_path / "run", lines)))
    assert "± 0.000" not in text and "1.000 (≥ 0.478)" in text and "0.000 (≤ 0.522)" in text
    head, row = (next(r for r in text.splitlines() if r.startswith(word)) for word in ("system", "a "))
    assert head.split().index("clusters") == head.split().index("n") + 1
    assert row.split()[row.split().index("5") :][:2] == ["5", "5"] and "one cluster" not in text


def test_one_cluster_is_said(tmp_path: Path) -> None:
    lines = [*alike("a", 3, 8, 1), *alike("b", 2, 8, 1)]
    a = write_run(tmp_path / "run", lines)
    assert (
        "all systems: one cluster: questions that may go together count as if independent"
        in scoring.render(scoring.score(a))
    )
    assert "one cluster: the intervals are as if" in scoring.render_compare(scoring.compare(a, "a", a, "b"))
    lines = alike("a", 3, 8, 4)
    lines[0] = replace(lines[0], question=replace(lines[0].question, kind="odd"))
    lines[4] = replace(lines[4], question=replace(lines[4].question, kind="odd"))
    text = scoring.render(scoring.score(write_run(tmp_path / "kinds", lines)))
    assert "kind odd: one cluster" in text and "all systems" not in text


def test_scores_of_which_less_is_better_are_marked(tmp_path: Path) -> None:
    lines = [
        replace(line, question=replace(line.question, rejected=("Rex",)))
        for line in [*alike("a", 3), *alike("b", 2)]
    ]
    folder = write_run(tmp_path / "run", lines, task={"scorers": ["stale", "contains"]})
    text = scoring.render(scoring.score(folder))
    assert "headline stale ↓" in text and "paired stale ↓" in text and "less is better" in text
    assert "contains ↓" not in text
    compared = scoring.render_compare(scoring.compare(folder, "a", folder, "b"))
    assert "stale ↓" in compared and "less is better" in compared
    # The best is the one with the least.
    assert "a - b" in text


class Other(Yes):
    """The same by another name."""

    name = "other"


def test_verdicts_of_different_judges_are_not_compared(tmp_path: Path) -> None:
    a, b, c = (write_run(tmp_path / name, alike("x", 3)) for name in "abc")
    for folder, llm in ((a, Yes()), (b, Other()), (c, Yes())):
        judging.judge_run(folder, llm)
    record = scoring.compare(a, None, b, None)
    assert set(record["pairs"][0]["scores"]) == {"contains", "evidence_all"}
    text = scoring.render_compare(record)
    assert "judged is left out: A was judged by yes, judge.v1, B by other, judge.v1" in text
    same = scoring.compare(a, None, c, None)
    assert "judged" in same["pairs"][0]["scores"] and "left out" not in scoring.render_compare(same)


def test_within_a_run_different_judges_are_not_compared(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [*alike("x", 3), *alike("y", 2)])
    judging.judge_run(folder, Yes())
    assert "judged" in scoring.score(folder)["paired"]
    path = judging.verdict_file(folder, "y")
    path.write_text(path.read_text(encoding="utf-8").replace("yes, judge.v1", "other, judge.v1"), "utf-8")
    record = scoring.score(folder)
    assert "judged" not in record["paired"] and "contains" in record["paired"]
    assert "different judges judged are not compared" in scoring.render(record)


def test_verdicts_are_scored_where_the_task_does_not_ask_for_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", two("bm25", [True, True, False, False]))
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    run["task"]["scorers"] = [name for name in run["task"]["scorers"] if name != "judged"]
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    assert "judged" not in scoring.score(folder)["systems"]["bm25"]["scores"]
    judging.judge_run(folder, Yes())
    assert scoring.score(folder)["systems"]["bm25"]["scores"]["judged"]["mean"] == 1.0
