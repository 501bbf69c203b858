"""The report of runs: its page is whole, safe, small and the same each time, and says what is missing."""

from __future__ import annotations

import builtins
import json
import random
import re
from collections import defaultdict
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nestmem import report
from nestmem.errors import InputError, MissingExtra
from nestmem.evals import log, scorers
from nestmem.evals.datasets.base import Question
from nestmem.evals.folder import file_name
from nestmem.evals.log import Line, Timing, append_lines, read_lines
from nestmem.evals.stats import clustered_mean, clustered_share
from nestmem.evals.systems.base import Hit, Reading, Reply
from nestmem.report import charts, markup
from nestmem.report import page as pages
from nestmem.report.examples import sample
from nestmem.report.page import LIMIT, SIZES, paired

SYSTEMS = ("bare", "full", "bm25:unit=session", "ours:mode=text")
SKILL = {"bare": 0.05, "full": 0.7, "bm25:unit=session": 0.5, "ours:mode=text": 0.65}
TOKENS = {"bare": 0, "full": 21000, "bm25:unit=session": 1900, "ours:mode=text": 1700}
KINDS = ("one session", "several sessions", "time", "absent")
BINS = ((0, 9), (10, 99), (100, 999))
SECRET = "the heron of Lake Sorvik"


def make_run(folder: Path, **change: Any) -> Path:
    """A run folder as the judge writes one, with its scores."""
    options: dict[str, Any] = {
        "systems": SYSTEMS,
        "streams": 4,
        "questions": 6,
        "redistribution": "yes",
        "text": lambda number: f"Where did we see {SECRET}, visit {number}?",
        "context": "We saw it at pier {n}. ",
        **change,
    }
    (folder / "log").mkdir(parents=True)
    (folder / "times").mkdir()
    logs = {}
    for spec in options["systems"]:
        lines = list(_lines(spec, options))
        path = folder / "log" / f"{file_name(spec)}.jsonl.gz"
        times = folder / "times" / f"{file_name(spec)}.jsonl"
        for stream in dict.fromkeys(line.stream for line in lines):
            append_lines(path, [line for line in lines if line.stream == stream])
            cost = Timing(
                system=spec,
                stream=stream,
                turns=1,
                characters=1,
                observe_s=0,
                settle_s=0,
                answer_s=(),
                bytes=0,
            )
            with times.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(cost)) + "\n")
        logs[spec] = lines
    put(folder, "run.json", _run(options))
    put(folder, "scores.json", _scores(logs, options))
    return folder


def put(folder: Path, name: str, record: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")


def get(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _lines(spec: str, options: dict[str, Any]) -> Any:
    for stream in range(options["streams"]):
        for number in range(options["questions"]):
            rng = random.Random(f"{spec}/{stream}/{number}")
            age = rng.choice((3, 40, 400))
            right = rng.random() < SKILL.get(spec, 0.4) - (0.0002 * age)
            answer = f"pier {number}"
            question = Question(
                id=f"s{stream}q{number}",
                text=options["text"](number),
                kind=KINDS[number % len(KINDS)],
                after=500,
                answers=(answer,),
                evidence=(f"t{number}",),
            )
            context = options["context"].replace("{n}", str(number)) * 30
            reply = Reply(
                reading=Reading(text=answer if right else "somewhere else", tokens_in=TOKENS.get(spec, 900)),
                context=context,
                shown=(f"t{number}", "t99"),
                ranked=(
                    Hit(turn="t99", session="1", score=2.5),
                    Hit(turn=f"t{number}", session="1", score=2.0),
                ),
            )
            yield Line(
                task="walks",
                system=spec,
                stream=f"life-{stream}",
                question=question,
                reply=reply,
                ages=(age,),
                sessions=("1",),
            )


def _run(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": log.VERSION,
        "task": {
            "name": "walks",
            "version": "walks/1",
            "title": "Walks by the lake",
            "options": {"seed": 0},
            "digest": "d1" * 32,
            "source": "generated",
            "streams": options["streams"],
            "questions": options["streams"] * options["questions"],
            "left_out": {},
            "notes": [],
            "licence": {"name": "CC BY 4.0", "redistribution": options["redistribution"]},
            "known_errors": [],
            "scorers": ["contains", "token_f1"],
            "without_reader": "evidence_share",
        },
        "systems": [
            {"spec": spec, "name": spec.partition(":")[0], "options": {}} for spec in options["systems"]
        ],
        "reader": {"spec": "http://localhost:1", "name": "scripted"},
        "budget_tokens": 2000,
        "window_tokens": 128000,
        "depth": 50,
        "seed": 7,
        "embedder": "minilm/384",
        "environment": {"nestmem": "1.2.3", "commit": "abc123", "cpu": "Two Cores", "cores": 2, "gpu": None},
        "audit": [],
        "cost": {"minutes": 12.5},
        "started": "2026-11-21T10:00:00",
        "finished": True,
    }


def _scores(logs: dict[str, list[Line]], options: dict[str, Any]) -> dict[str, Any]:
    values = {
        spec: [float("pier" in (line.reply.reading.text or "")) for line in lines]
        for spec, lines in logs.items()
    }

    def estimate(spec: str, chosen: Any = lambda line: True) -> dict[str, Any] | None:
        pairs = [(v, line.stream) for v, line in zip(values[spec], logs[spec], strict=True) if chosen(line)]
        return clustered_share(*zip(*pairs, strict=True)).record() if pairs else None

    def split(spec: str, groups: dict[str, Any]) -> dict[str, Any]:
        return {
            group: {"contains": found} for group, test in groups.items() if (found := estimate(spec, test))
        }

    kinds = {kind: (lambda line, k=kind: line.question.kind == k) for kind in KINDS}
    ages = {f"{a}-{b}": (lambda line, a=a, b=b: a <= line.ages[0] <= b) for a, b in BINS}
    systems = {
        spec: {
            "asked": len(lines),
            "streams": options["streams"],
            "failed": {"refused": 0, "empty": 0, "error": 0},
            "unsupported": 0,
            "scores": {"contains": estimate(spec), "token_f1": estimate(spec)},
            "by_kind": split(spec, kinds),
            "by_age": split(spec, ages),
            "tokens": {
                "context": {"mean": TOKENS.get(spec, 900), "p95": TOKENS.get(spec, 900)},
                "in": 10,
                "out": 5,
            },
            "seconds": {"tell_per_1000_turns": 0.5, "settle": 1.0, "answer": {"p50": 0.01, "p95": 0.02}},
            "bytes": {"mean": 12345.0, "per_1000_characters": 800.0},
            "joules": None,
            "notes": {},
            "log_sha256": "0" * 64,
        }
        for spec, lines in logs.items()
    }
    differences: dict[str, Any] = defaultdict(dict)
    specs = list(logs)
    for i, a in enumerate(specs):
        for b in specs[i + 1 :]:
            each = [x - y for x, y in zip(values[a], values[b], strict=True)]
            found = clustered_mean(each, [line.stream for line in logs[a]]).record()
            differences["contains"][f"{a}|{b}"] = {**found, "not_shared": 0}
    return {
        "version": "scores/1",
        "task": "walks",
        "digest": "d1" * 32,
        "headline": "contains",
        "systems": systems,
        "paired": differences,
        "without_evidence": 0,
        "streams": options["streams"],
        "missing_streams": dict.fromkeys(logs, 0),
        "switch": None,
    }


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps what a test asks for."""

    VOID = frozenset({"meta", "br", "wbr", "img", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join("".join(self.words).split())

    def count(self, tag: str, kind: str | None = None) -> int:
        """How many elements with this tag, and this class where one is given."""
        return sum(1 for name, given in self.tags if name == tag and kind in (None, given.get("class")))


def read_page(folder: Path) -> Page:
    return Page((folder / report.PAGE).read_text(encoding="utf-8"))


def write_page(folder: Path, **options: Any) -> Page:
    report.write(folder, with_plots=False, **options)
    return read_page(folder)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "walks")


def test_page_has_every_part_and_is_whole(run: Path) -> None:
    page = write_page(run)
    anchors = {attributes["href"] for tag, attributes in page.tags if tag == "a" and "href" in attributes}
    ids = {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}
    assert anchors <= ids and len(anchors) == 9
    for fact in (
        "walks/1",
        "d1d1d1d1",
        "CC BY 4.0",
        "24 questions in 4 streams",
        "scripted",
        "minilm/384",
        "abc123",
    ):
        assert fact in page.said
    for fact in ("Two Cores, 2 cores", "2,000 tokens", "2026-11-21T10:00:00", "12.5 minutes", "12.3", "10.0"):
        assert fact in page.said
    assert page.count("figure") == 3
    assert {spec for spec in SYSTEMS if spec in page.said} == set(SYSTEMS)


def test_page_loads_nothing_and_runs_nothing(run: Path) -> None:
    page = write_page(run)
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"src", "onload", "onclick", "xlink:href"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    style = (run / report.PAGE).read_text(encoding="utf-8")
    assert "url(" not in style and "@import" not in style and "Content-Security-Policy" in style
    assert "prefers-color-scheme: dark" in style and "@media print" in style


def test_what_comes_from_data_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    run = make_run(
        tmp_path / "x",
        systems=(*SYSTEMS, f"ours:name={bad}"),
        text=lambda number: f'{bad} & "quoted" \x00 {number}',
        context=f"</pre>{bad} pier {{n}}",
    )
    record = get(run, "run.json")
    record["task"]["notes"] = [bad]
    record["task"]["title"] = bad
    record["audit"] = [{"severity": bad, "what": bad, "count": 1, "examples": [bad]}]
    put(run, "run.json", record)
    page = write_page(run)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in (run / report.PAGE).read_text(encoding="utf-8")
    assert page.said.count(bad) > 10
    report.overview([run], tmp_path / "index.html")
    assert "<script" not in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "\x00" not in page.said and "\N{REPLACEMENT CHARACTER}" in page.said


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = report.write(run)
    first = [path.read_bytes() for path in paths]
    assert [path.name for path in paths] == [
        "report.html",
        "plot_tokens.png",
        "plot_age.png",
        "plot_kind.png",
    ]
    assert all(data.startswith(b"\x89PNG") for data in first[1:])
    assert [path.read_bytes() for path in report.write(run)] == first


def test_page_is_small_however_long_the_texts_are(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "long",
        systems=tuple(f"bm25:k={k}" for k in range(12)),
        text=lambda number: "why & " * 1000,
        context="<&> pier {n} " * 100,
    )
    report.write(run, with_plots=False, examples=8)
    assert (run / report.PAGE).stat().st_size < LIMIT
    assert f"Texts are cut at {SIZES[0]:,}" not in read_page(run).said


def test_text_of_the_data_is_left_out_where_it_may_not_be_passed_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "closed", redistribution="no")
    record = get(run, "run.json")
    record["audit"] = [{"severity": "warning", "what": "twice", "count": 2, "examples": ["life-1 q2"]}]
    put(run, "run.json", record)
    page = write_page(run)
    source = (run / report.PAGE).read_text(encoding="utf-8")
    for words in (SECRET, "We saw it", "somewhere else", "pier"):
        assert words not in source
    assert (
        page.count("details", "example") == 5 * len(SYSTEMS)
        and "s0q" in page.said
        and "twice (2 times" in page.said
    )
    assert SECRET in write_page(run, text=True).said
    assert SECRET not in write_page(make_run(tmp_path / "open"), text=False).said


def test_share_alike_text_is_quoted(tmp_path: Path) -> None:
    assert SECRET in write_page(make_run(tmp_path / "sa", redistribution="share-alike")).said


def test_whole_run_has_nothing_missing_but_energy(run: Path) -> None:
    said = write_page(run).said
    assert "Energy was not measured" in said
    for words in ("interrupted", "failed (", "left out:", "not supported", "no evidence"):
        assert words not in said
    scores = get(run, "scores.json")
    for system in scores["systems"].values():
        system["joules"] = 5.0
    put(run, "scores.json", scores)
    assert "Nothing: all streams were run" in write_page(run).said


def test_everything_that_is_missing_is_said(run: Path) -> None:
    record, scores = get(run, "run.json"), get(run, "scores.json")
    record["finished"] = False
    record["reader"] = {"spec": "none", "name": "none"}
    record["systems"].append({"spec": "never", "name": "never", "options": {}})
    record["task"] |= {
        "notes": ["12 of the 24 published questions"],
        "left_out": {"a picture": 3},
        "known_errors": ["question 9 has the wrong year"],
    }
    record["audit"] = [
        {"severity": "error", "what": "leaked answers", "count": 2, "examples": ["s0q1", "s0q2"]}
    ]
    scores["missing_streams"]["full"] = 3
    scores["without_evidence"] = 5
    full = scores["systems"]["full"]
    full["failed"] = {"refused": 2, "empty": 1, "error": 0}
    full["unsupported"] = 4
    full["notes"] = {"no embedder": 7}
    scores["systems"]["bare"]["scores"] = {}
    put(run, "run.json", record)
    put(run, "scores.json", scores)
    said = write_page(run).said
    for words in (
        "It was interrupted",
        "full: 1 of 4 streams were run",
        "never: 0 of 4 streams were run",
        "There is no reader",
        "12 of the 24 published questions",
        "3 left out: a picture",
        "question 9 has the wrong year",
        "error: leaked answers (2 times; for example s0q1, s0q2)",
        "5 of 24 questions name no evidence",
        "full: 3 of 24 readings failed (refused 2, empty 1); they count as wrong",
        "full: 4 requests to forget are not supported",
        "full: no embedder (7 times)",
        "bare: has no contains",
    ):
        assert words in said, words


def test_scores_of_other_data_are_named(run: Path) -> None:
    scores = get(run, "scores.json")
    scores["digest"] = "e" * 64
    put(run, "scores.json", scores)
    assert "another version of the data" in write_page(run).said


def test_a_damaged_log_is_said_and_the_rest_is_shown(run: Path) -> None:
    path = run / "log" / "full.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-30])
    page = write_page(run)
    assert "full: its log cannot be read to its end" in page.said
    assert page.count("details", "example") == 5 * len(SYSTEMS)


def test_a_failed_reading_is_an_example_that_says_so(run: Path) -> None:
    path = run / "log" / "bare.jsonl.gz"
    lines = list(read_lines(path.read_bytes(), "bare"))
    path.unlink()
    refused = Reading(text=None, failed=f"refused: I will not speak of {SECRET}")
    append_lines(path, [Line(**{**vars(line), "reply": Reply(reading=refused)}) for line in lines])
    assert f"none: refused: I will not speak of {SECRET}" in write_page(run).said
    closed = write_page(run, text=False).said
    assert "none: refused" in closed and SECRET not in closed


@pytest.mark.parametrize(
    ("wanted", "wrong", "right"), [(5, 3, 2), (4, 2, 2), (0, 0, 0), (20, 12, 8), (1, 1, 0)]
)
def test_sample_takes_both_sides(wanted: int, wrong: int, right: int) -> None:
    lines = list(_lines("bare", {"streams": 4, "questions": 6, "text": str, "context": ""}))

    def score(line: Line) -> float | None:
        return (
            None
            if line.stream == "life-3" and line.question.id > "s3q1"
            else float(line.question.id[-1] > "3")
        )

    drawn = sample(lines, "contains", score, seed=1, wanted=wanted)
    assert [one.right for one in drawn] == [False] * wrong + [True] * right if wanted < 20 else True
    assert len(drawn) == min(wanted, 20)
    assert {id(one.line) for one in drawn} == {
        id(one.line) for one in sample(lines[::-1], "contains", score, seed=1, wanted=wanted)
    }


def test_sample_gives_more_of_one_side_where_the_other_is_short() -> None:
    lines = list(_lines("bare", {"streams": 4, "questions": 6, "text": str, "context": ""}))
    first = lines[0].question.id
    only = sample(lines, "contains", lambda line: float(line.question.id == first), seed=1, wanted=6)
    assert [one.right for one in only] == [False] * 5 + [True]
    assert all(one.right for one in sample(lines, "contains", lambda line: 1.0, seed=1, wanted=6))
    stale = sample(lines, "stale", lambda line: 1.0, seed=1, wanted=6)
    assert len(stale) == 6 and not any(one.right for one in stale)


def test_another_seed_draws_other_examples() -> None:
    lines = list(_lines("bare", {"streams": 9, "questions": 6, "text": str, "context": ""}))
    drawn = [
        [one.line.question.id for one in sample(lines, "contains", lambda line: 1.0, seed=seed, wanted=5)]
        for seed in (1, 2)
    ]
    assert drawn[0] != drawn[1]


def test_paired_differences_turn_with_their_order() -> None:
    record = {"mean": 0.2, "se": 0.05, "low": 0.1, "high": 0.3, "n": 9, "clusters": 3, "not_shared": 0}
    scores = {"paired": {"contains": {"a|b": record}}}
    assert paired(scores, "contains", "a", "b") == record
    assert paired(scores, "contains", "b", "a") == {**record, "mean": -0.2, "low": -0.3, "high": -0.1}
    assert paired(scores, "contains", "a", "c") is None and paired(scores, "exact", "a", "b") is None


def test_bold_only_where_the_interval_leaves_out_nothing(run: Path) -> None:
    scores = get(run, "scores.json")

    def say(low: float, high: float) -> int:
        for pair in scores["paired"]["contains"]:
            scores["paired"]["contains"][pair] |= {"mean": 0.1, "low": low, "high": high}
        put(run, "scores.json", scores)
        return write_page(run).count("b")

    # The first system leads the others, and each of three differs from the baseline.
    assert say(0.01, 0.2) == 1 + 3
    assert say(-0.01, 0.2) == 0


def test_differences_are_from_bm25_or_from_the_one_asked_for(run: Path) -> None:
    assert "Differences to bm25:unit=session" in write_page(run).said
    assert "Differences to full" in write_page(run, baseline="full").said
    with pytest.raises(InputError, match="there is no system 'nobody'"):
        report.write(run, baseline="nobody")
    scores = get(run, "scores.json")
    scores["systems"]["bm25:unit=session"]["asked"] = 0
    put(run, "scores.json", scores)
    assert "Differences to bare" in write_page(run).said


def test_growing_histories_have_their_plot(run: Path, tmp_path: Path) -> None:
    scores = get(run, "scores.json")
    one = scores["systems"]["full"]["scores"]["contains"]
    scores["switch"] = {
        "score": "contains",
        "unit": "turns",
        "baseline": "full",
        "curves": {spec: {"10": one, "100": one, "2000": one} for spec in ("full", "bm25:unit=session")},
        "at": {"bm25:unit=session": 100},
        "sure_at": {"bm25:unit=session": None},
    }
    put(run, "scores.json", scores)
    chart = charts.by_history(scores)
    assert chart is not None and chart.marks[0][1] == "bm25:unit=session"
    assert [point.place for point in chart.series[0].points] == sorted(
        p.place for p in chart.series[0].points
    )
    page = write_page(run)
    assert page.count("figure") == 4 and "overtaken by bm25:unit=session" in page.said
    assert "From how many turns on a system stays above full" in page.said and "100never" in page.said
    pytest.importorskip("matplotlib")
    assert (run / "plot_history.png") in report.write(run)


def test_numbers_that_do_not_exist_are_dashes_and_no_points(run: Path) -> None:
    scores = get(run, "scores.json")
    none = {"mean": None, "se": None, "low": None, "high": None, "n": 0, "clusters": 0}
    system = scores["systems"]["bare"]
    system["scores"]["contains"] = none
    system["tokens"]["context"] = {"mean": None, "p95": None}
    system["seconds"]["answer"] = {"p50": None, "p95": None}
    system["by_age"]["0-9"] = {"contains": none}
    put(run, "scores.json", scores)
    assert "–" in write_page(run).said
    chart = charts.by_tokens(scores)
    assert chart is not None and [one.name for one in chart.series] == list(SYSTEMS[1:])


def test_charts_hold_what_the_scores_say(run: Path) -> None:
    scores = get(run, "scores.json")
    found = {chart.key: chart for chart in charts.charts(scores)}
    full = scores["systems"]["full"]
    point = found["tokens"].series[1].points[0]
    assert point.mean == pytest.approx(100 * full["scores"]["contains"]["mean"])
    assert point.low < point.mean < point.high
    ages = [text.split("\n")[0] for _, text in found["age"].x_ticks]
    assert ages == ["0-9", "10-99", "100-999"]
    assert found["age"].x_ticks[0][1].split("\n")[1].startswith("n ")
    assert [text.split("\n")[0] for _, text in found["kind"].x_ticks] == list(KINDS)


def test_a_score_that_is_no_share_keeps_its_unit(run: Path) -> None:
    scores = get(run, "scores.json")
    scores["headline"] = "probe_margin"
    for number, system in enumerate(scores["systems"].values()):
        low = number - 2.0
        one = {"mean": low + 0.5, "se": 0.2, "low": low, "high": low + 1, "n": 9, "clusters": 3}
        system["scores"] = {"probe_margin": one}
        system["by_kind"] = system["by_age"] = {}
    put(run, "scores.json", scores)
    chart = charts.by_tokens(scores)
    assert chart is not None and chart.y_ticks[0][0] <= -2 and chart.y_ticks[-1][0] >= 2
    assert "probe margin, nats per token" in write_page(run).said


def test_odd_age_is_refused() -> None:
    with pytest.raises(InputError, match="the age 'old' is none"):
        charts.groups({"systems": {"a": {"by_age": {"old": {}}}}}, "by_age")


@pytest.mark.parametrize("name", ["run.json", "scores.json"])
def test_a_folder_that_is_no_scored_run_is_refused(run: Path, name: str) -> None:
    (run / name).write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=f"{name} has no"):
        report.write(run)
    (run / name).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=f"{name}: cannot be read"):
        report.write(run)
    (run / name).unlink()
    with pytest.raises(InputError, match=f"{name} does not exist"):
        report.write(run)


def test_without_matplotlib_the_page_is_there_and_the_error_says_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"nestmem\[plot\]"):
        report.write(run)
    assert (run / report.PAGE).is_file()


def test_names_that_look_like_formulas_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert len(report.write(make_run(tmp_path / "f", systems=("bm25:a=$x^{$", "full")))) == 4


def test_overview_has_a_row_for_each_run_and_links(tmp_path: Path) -> None:
    first = make_run(tmp_path / "runs" / "walks #1")
    second = make_run(tmp_path / "runs" / "b", systems=("full", "only here"))
    scores = get(second, "scores.json")
    scores["missing_streams"]["full"] = 2
    put(second, "scores.json", scores)
    record = get(second, "run.json")
    record["systems"].append({"spec": "never", "name": "never", "options": {}})
    put(second, "run.json", record)
    path = report.overview([first, second], tmp_path / "pages" / "index.html")
    page = Page(path.read_text(encoding="utf-8"))
    links = [a["href"] for tag, a in page.tags if tag == "a" and not (a["href"] or "").startswith("#")]
    assert links == ["../runs/walks%20%231/report.html", "../runs/b/report.html"]
    assert "only here" in page.said and "not run" in page.said and "6 streams were not run" in page.said
    with pytest.raises(InputError, match="no run was given"):
        report.overview([], path)


def test_examples_are_told_by_a_score_that_a_line_has(run: Path) -> None:
    scores = get(run, "scores.json")
    scores["headline"] = "no such score"
    put(run, "scores.json", scores)
    assert "are by contains, %" in write_page(run).said
    assert "contains" in scorers.SCORERS


def test_markup_escapes_plain_text_only() -> None:
    assert markup.tag("p", "<", markup.tag("b", "&"), title='"') == '<p title="&quot;">&lt;<b>&amp;</b></p>'
    assert "\ud800" not in markup.escape("a\ud800\x01b")


def test_every_score_that_is_no_share_has_a_unit() -> None:
    assert set(charts.UNITS) == {name for name, score in scorers.SCORERS.items() if not score.share}
    assert "lower is better" in charts.label("stale_in_context")
    assert charts.label("judged") == "judged, %"


def test_lists_that_are_long_open(run: Path) -> None:
    record = get(run, "run.json")
    record["task"]["known_errors"] = [f"mistake {number}" for number in range(99)]
    put(run, "run.json", record)
    page = write_page(run)
    assert "91 more" in page.said and all(f"mistake {number}" in page.said for number in range(99))


def test_the_answer_is_marked_where_it_stands_in_a_long_context(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "r", systems=("full",), context="Some talk of other things. " * 40 + "pier {n}! "
    )
    page = write_page(run, examples=2)
    source = (run / report.PAGE).read_text(encoding="utf-8")
    assert re.search(r"<pre[^>]*>… .*<mark>pier \d</mark>!.* …</pre>", source)
    assert "What was shown" in page.said and "1 of 1 turns are among the 2 shown" in page.said


def test_a_word_within_a_word_is_no_answer(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", systems=("full",), context="rapier {n}0 ")
    assert write_page(run).count("mark") == 5, "the evidence in each ranking, and nothing else"


def test_a_number_of_examples_below_zero_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match="examples is -1"):
        report.write(run, examples=-1)


def test_a_judge_stands_beside_its_errors(run: Path) -> None:
    scores = get(run, "scores.json")
    share = {"mean": 0.125, "low": 0.05, "high": 0.25, "n": 40, "wrong": 5}
    scores["judge"] = {
        "name": {"full": "some model"},
        "unparsed": {"full": 3},
        "errors": {"false_accept": share, "false_reject": {**share, "mean": None, "n": 0}},
    }
    put(run, "scores.json", scores)
    said = write_page(run).said
    assert "Judged by some model; 3 verdicts could not be read" in said
    assert "accepted 12.5 % (5.0 to 25.0) of 40 wrong ones, and refused none of 0 right ones" in said
    scores["judge"]["errors"] = None
    put(run, "scores.json", scores)
    assert "Its errors were not measured" in write_page(run).said


def test_n_stands_in_the_heading_and_where_it_is_another(run: Path) -> None:
    scores = get(run, "scores.json")
    scores["systems"]["full"]["scores"]["contains"]["n"] = 20
    put(run, "scores.json", scores)
    said = write_page(run).said
    assert "contains, % (n 24)" in said and said.count("(n 20)") == 1


def test_a_difference_of_nothing_has_no_sign() -> None:
    assert pages.value("contains", {"mean": -0.0001, "se": 0.01, "n": 5}) == "0.0 ± 1.0"


def test_a_share_without_a_standard_error_shows_its_interval() -> None:
    def shown(mean: float, low: float | None, high: float | None) -> str:
        return pages.value("contains", {"mean": mean, "se": 0.0, "low": low, "high": high, "n": 5})

    assert shown(1.0, 0.478, 1.0) == "100.0 (≥ 47.8)" and shown(0.0, 0.0, 0.522) == "0.0 (≤ 52.2)"
    assert shown(0.5, 0.1, 0.9) == "50.0 (10.0 to 90.0)" and shown(0.0, -0.56, 0.56) == "0.0 (-56.0 to 56.0)"
    assert shown(0.5, None, None) == "50.0 ± –"


def test_a_page_marks_scores_of_which_less_is_better(run: Path) -> None:
    scores = get(run, "scores.json")
    for system in scores["systems"].values():
        system["scores"]["stale_in_context"] = system["scores"]["contains"]
    scores["paired"]["stale_in_context"] = scores["paired"]["contains"]
    put(run, "scores.json", scores)
    said = write_page(run).said
    assert said.count("stale in context ↓, % (lower is better) (n 24)") == 2 and "contains ↓" not in said


def test_a_page_says_that_there_is_one_cluster(run: Path) -> None:
    assert "one cluster" not in write_page(run).said
    scores = get(run, "scores.json")
    scores["systems"]["full"]["by_age"]["0-9"]["contains"]["clusters"] = 1
    put(run, "scores.json", scores)
    assert "age 0-9: one cluster: its interval is as if questions were independent" in write_page(run).said
    for system in scores["systems"].values():
        system["scores"]["contains"]["clusters"] = 1
    put(run, "scores.json", scores)
    said = write_page(run).said
    assert "all systems: one cluster: questions that may go together count as if independent" in said


def test_a_judges_errors_stand_by_kind(run: Path) -> None:
    scores = get(run, "scores.json")
    share = {"mean": 0.125, "low": 0.05, "high": 0.25, "n": 40, "wrong": 5}
    errors = {"false_accept": share, "false_reject": share}
    errors |= {"false_accept_by_kind": {"hedge": share}, "false_reject_by_kind": {"wrapped": share}}
    scores["judge"] = {"name": {"full": "some model"}, "unparsed": {"full": 0}, "errors": errors}
    put(run, "scores.json", scores)
    said = write_page(run).said
    for kind, verdict in (("hedge", "wrong, accepted"), ("wrapped", "right, refused")):
        assert f"{kind}{verdict}12.5 % (5.0 to 25.0) of 40" in said
