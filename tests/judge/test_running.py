"""Running: the order of a stream, logs that repeat, runs that go on where they stopped."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nestmem.errors import InputError
from nestmem.evals import cost, energy, log, readers, running
from nestmem.evals.datasets.base import (
    Dataset,
    Forget,
    Licence,
    Part,
    Question,
    Stream,
    Task,
    check_options,
    data_folder,
    load,
)
from nestmem.evals.folder import finished
from nestmem.evals.systems.base import Hit, Kind, NotSupported, Reading, Reply, Setup, Turn

AT = datetime(2026, 3, 2, tzinfo=UTC)


def stream(name: str = "ada", *, forget: bool = False) -> Stream:
    """Two sessions of two turns; a question after each session, and one about the first at the end."""
    turns = tuple(
        Turn(id=f"t{n}", session=f"s{n // 2}", role="user", text=f"fact {n} of {name}", at=AT)
        for n in range(4)
    )
    questions = (
        Question(id="q0", text="what was fact 1?", kind="fact", after=2, answers=("1",), evidence=("t1",)),
        Question(id="q1", text="what was fact 3?", kind="fact", after=4, answers=("3",), evidence=("t3",)),
        Question(id="q2", text="what is my cat?", kind="never", after=4, answerable=False),
    )
    forgets = (Forget(after=4, turns=("t0",)),) if forget else ()
    return Stream(id=name, turns=turns, questions=questions, forgets=forgets)


class Echo:
    """Answers with everything it was told; keeps the order in which it was called."""

    def __init__(self, setup: Setup, calls: list[str], *, crash_on: str | None = None) -> None:
        self.calls, self.told, self.crash_on = calls, [], crash_on

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        self.calls.append(f"observe {scope} {message.id}")
        self.told.append(message)

    def settle(self, scope: str) -> None:
        self.calls.append(f"settle {scope}")

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        self.calls.append(f"answer {scope} {question}")
        if self.crash_on == scope:
            raise KeyboardInterrupt
        hits = tuple(Hit(turn=turn.id, session=turn.session, score=1.0) for turn in self.told)
        text = "\n".join(turn.text for turn in self.told)
        return Reply(
            reading=Reading(text=text), context=text, shown=tuple(t.id for t in self.told), ranked=hits
        )

    def forget(self, turns: Sequence[str], scope: str) -> None:
        raise NotSupported("an echo does not forget")

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        return None

    def bytes(self, scope: str) -> int:
        return sum(len(turn.text) for turn in self.told)

    def close(self) -> None:
        self.calls.append("close")


def task() -> Task:
    return Task(
        name="echo",
        version="echo/1",
        title="an echo",
        paper="none",
        source="generated",
        licence=Licence(name="own", redistribution="yes"),
        load=lambda folder, *, seed=0, limit=0: Dataset(streams=(stream(),), source="generated"),
        scorers=("contains", "evidence_all"),
        without_reader="evidence_all",
        options={"seed": 0, "limit": 0},
    )


def plan(
    calls: list[str], *, crash_on: str | None = None, names: tuple[str, ...] = ("echo",)
) -> running.Plan:
    kind = Kind(name="echo", about="", make=lambda setup: Echo(setup, calls, crash_on=crash_on))
    systems = tuple(running.Chosen(spec=name, kind=kind, options={}) for name in names)
    return running.Plan(task=task(), options={"seed": 0}, systems=systems)


def dataset(*names: str, forget: bool = False) -> Dataset:
    return Dataset(
        streams=tuple(stream(name, forget=forget) for name in names or ("ada",)), source="generated"
    )


def go(folder: Path, given: running.Plan, data: Dataset, **more: object) -> Path:
    return running.run(given, data, folder, reader=readers.load("none"), embedder=None, **more)


def test_turns_settles_forgets_and_questions_come_in_the_order_of_the_stream(tmp_path: Path) -> None:
    calls: list[str] = []
    go(tmp_path, plan(calls), dataset(forget=True))
    assert calls == [
        "observe u0 t0",
        "observe u0 t1",
        "settle u0",
        "answer u0 what was fact 1?",
        "observe u0 t2",
        "observe u0 t3",
        "settle u0",
        "answer u0 what was fact 3?",
        "answer u0 what is my cat?",
        "close",
    ]


def test_a_question_sees_only_what_was_said_before_it(tmp_path: Path) -> None:
    go(tmp_path, plan([]), dataset())
    first, second, _ = finished(tmp_path, "echo").lines()
    assert "fact 2" not in first.reply.context and "fact 3" in second.reply.context
    assert (first.ages, first.sessions) == ((1,), ("s0",))
    assert (second.ages, second.sessions) == ((1,), ("s1",))


def test_what_a_system_cannot_do_is_counted(tmp_path: Path) -> None:
    go(tmp_path, plan([]), dataset(forget=True))
    [timing] = [json.loads(row) for row in (tmp_path / "times" / "echo.jsonl").read_text().splitlines()]
    assert timing["unsupported"] == ["an echo does not forget"]
    assert timing["turns"] == 4 and len(timing["answer_s"]) == 3


def test_the_same_run_twice_has_the_same_log(tmp_path: Path) -> None:
    for name in ("one", "two"):
        go(tmp_path / name, plan([]), dataset("ada", "bob"))
    files = [(tmp_path / name / "log" / "echo.jsonl.gz").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1] and len(gzip.decompress(files[0]).splitlines()) == 6


def test_an_interrupted_run_goes_on_and_ends_with_the_same_log(tmp_path: Path) -> None:
    data = dataset("ada", "bob", "cyd")
    go(tmp_path / "whole", plan([]), data)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "broken", plan([], crash_on="u2"), data)
    assert json.loads((tmp_path / "broken" / "run.json").read_text())["finished"] is False
    calls: list[str] = []
    go(tmp_path / "broken", plan(calls), data)
    assert {call.split()[1] for call in calls if call != "close"} == {"u2"}
    whole, broken = (tmp_path / name / "log" / "echo.jsonl.gz" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()
    assert json.loads((tmp_path / "broken" / "run.json").read_text())["finished"] is True


@pytest.mark.parametrize("left", [b"half a line", gzip.compress(b"{}\n")])
def test_what_a_killed_unit_left_in_the_log_is_cut_off(tmp_path: Path, left: bytes) -> None:
    data = dataset("ada", "bob")
    go(tmp_path, plan([]), data)
    path, times = tmp_path / "log" / "echo.jsonl.gz", tmp_path / "times" / "echo.jsonl"
    whole, rows = path.read_bytes(), times.read_text().splitlines(keepends=True)
    ends = json.loads(rows[0])["log_bytes"]
    path.write_bytes(whole[:ends] + left)
    times.write_text(rows[0] + rows[1][:20])
    go(tmp_path, plan([]), data)
    assert path.read_bytes() == whole
    assert len(times.read_text().splitlines()) == 2


def test_a_log_that_was_cut_is_not_taken_for_whole(tmp_path: Path) -> None:
    go(tmp_path, plan([]), dataset())
    path = tmp_path / "log" / "echo.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="it was cut: remove both"):
        go(tmp_path, plan([]), dataset())


def test_another_run_in_the_folder_is_refused_with_what_differs(tmp_path: Path) -> None:
    go(tmp_path, plan([]), dataset("ada"))
    with pytest.raises(
        InputError, match=r"holds another run: digest .* there, .* here; streams 1 there, 2 here"
    ):
        go(tmp_path, plan([]), dataset("ada", "bob"))
    with pytest.raises(InputError, match="budget_tokens 2000 there, 7 here"):
        go(tmp_path, replace(plan([]), budget_tokens=7), dataset("ada"))


def test_a_system_can_be_added_to_a_run(tmp_path: Path) -> None:
    go(tmp_path, plan([]), dataset())
    calls: list[str] = []
    go(tmp_path, plan(calls, names=("echo", "echo:x")), dataset())
    assert len([call for call in calls if call.startswith("answer")]) == 3
    assert {path.name for path in (tmp_path / "log").iterdir()} == {"echo.jsonl.gz", "echo_x.jsonl.gz"}
    assert [s["spec"] for s in json.loads((tmp_path / "run.json").read_text())["systems"]] == [
        "echo",
        "echo:x",
    ]
    go(tmp_path, plan([]), dataset())
    assert [s["spec"] for s in json.loads((tmp_path / "run.json").read_text())["systems"]] == [
        "echo",
        "echo:x",
    ]


class Cheat(Echo):
    """Takes what a data set's ids give away: evidence is called "answer...", the right candidate stands first."""

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        found = [turn for turn in self.told if "answer" in turn.id + turn.session + scope]
        hits = tuple(Hit(turn=turn.id, session=turn.session, score=1.0) for turn in found)
        return Reply(reading=Reading(text=None), ranked=hits, shown=tuple(turn.id for turn in found))

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        return [-float(place) for place, _ in enumerate(candidates)]


def telling() -> Dataset:
    """A stream whose ids name the evidence, and questions whose first candidate is right."""
    turns = tuple(
        Turn(id=f"{'answer' if n == 1 else 'filler'}_{n}", session=f"{'answer' if n == 1 else 'filler'}_{n}",
             role="user", text=f"fact {n}", at=AT)
        for n in range(4)
    )  # fmt: skip
    questions = tuple(
        Question(
            id=f"q{n}", text=f"fact {n}?", kind="fact", after=4, answers=(f"right {n}",),
            evidence=("answer_1",), candidates=(f"right {n}", f"wrong {n}", f"other {n}"),
        )
        for n in range(30)
    )  # fmt: skip
    return Dataset(streams=(Stream(id="answer_abs", turns=turns, questions=questions),), source="generated")


def test_names_of_the_data_tell_a_system_nothing(tmp_path: Path) -> None:
    seen: list[Setup] = []

    def make(setup: Setup) -> Cheat:
        seen.append(setup)
        return Cheat(setup, [])

    chosen = running.Chosen(spec="cheat", kind=Kind(name="cheat", about="", make=make), options={})
    go(tmp_path, running.Plan(task=task(), options={}, systems=(chosen,)), telling())
    lines = list(finished(tmp_path, "cheat").lines())
    assert all(line.reply.ranked == line.reply.shown == () for line in lines)
    assert {line.stream for line in lines} == {"answer_abs"}
    first = sum(max(line.probe) == line.probe[0] for line in lines)
    assert 2 < first < 20
    assert seen[0].key is None and (seen[0].donor is None or not seen[0].donor.questions)


def test_what_a_system_found_bears_the_names_of_the_data_in_the_log(tmp_path: Path) -> None:
    go(tmp_path, plan([]), telling())
    line = next(iter(finished(tmp_path, "echo").lines()))
    assert [(hit.turn, hit.session) for hit in line.reply.ranked][:2] == [
        ("filler_0", "filler_0"),
        ("answer_1", "answer_1"),
    ]
    assert line.reply.shown[1] == "answer_1"


def test_a_turn_that_was_never_told_is_refused(tmp_path: Path) -> None:
    class Liar(Echo):
        def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
            return Reply(reading=Reading(text=None), shown=("t77",))

    kind = Kind(name="liar", about="", make=lambda setup: Liar(setup, []))
    chosen = running.Chosen(spec="liar", kind=kind, options={})
    with pytest.raises(InputError, match="names turns that it was not told: t77"):
        go(tmp_path, running.Plan(task=task(), options={}, systems=(chosen,)), dataset())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda self, question, time, scope: None, "answered NoneType; expected a Reply"),
        (
            lambda self, question, time, scope: Reply(
                reading=Reading(text=None), ranked=(Hit(turn="t0", session="s0", score=float("nan")),)
            ),
            "no finite number",
        ),
    ],
)
def test_what_is_no_reply_is_named(tmp_path: Path, answer: object, said: str) -> None:
    make = type("Odd", (Echo,), {"answer": answer})
    chosen = running.Chosen(
        spec="odd", kind=Kind(name="odd", about="", make=lambda s: make(s, [])), options={}
    )
    with pytest.raises(InputError, match=f"system 'odd'.*{said}"):
        go(tmp_path, running.Plan(task=task(), options={}, systems=(chosen,)), dataset())


def test_a_missing_method_is_named_before_anything_is_told(tmp_path: Path) -> None:
    kind = Kind(name="half", about="", make=lambda setup: object())
    chosen = running.Chosen(spec="half", kind=kind, options={})
    with pytest.raises(InputError, match="system 'half' has no method observe, settle"):
        go(tmp_path, running.Plan(task=task(), options={}, systems=(chosen,)), dataset())


def test_a_reader_that_is_down_stops_the_run_and_is_asked_again_later(tmp_path: Path) -> None:
    class Down(Echo):
        def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
            return Reply(reading=Reading(text=None, failed="error: HTTP 401 Unauthorized"))

    kind = Kind(name="echo", about="", make=lambda setup: Down(setup, []))
    down = replace(plan([]), systems=(running.Chosen(spec="echo", kind=kind, options={}),))
    with pytest.raises(InputError, match=r"failed 5 times in a row \(error: HTTP 401 Unauthorized\)"):
        go(tmp_path, down, telling())
    go(tmp_path, plan([]), telling())
    assert all(line.reply.reading.failed is None for line in finished(tmp_path, "echo").lines())


def test_a_reader_that_is_down_is_noticed_over_streams_of_one_question(tmp_path: Path) -> None:
    class Down(Echo):
        def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
            failed = None if scope == "u1" else "error: down"
            return Reply(reading=Reading(text=None, failed=failed))

    one = tuple(replace(stream(name), questions=stream(name).questions[:1]) for name in "abcdefgh")
    data = Dataset(streams=one, source="generated")
    kind = Kind(name="echo", about="", make=lambda setup: Down(setup, []))
    down = replace(plan([]), systems=(running.Chosen(spec="echo", kind=kind, options={}),))
    with pytest.raises(InputError, match="failed 5 times in a row"):
        go(tmp_path, down, data)
    assert running.finished_streams(tmp_path, down.systems[0]) == {"a", "b"}


def test_the_cost_is_said_without_touching_a_run(tmp_path: Path) -> None:
    go(tmp_path, plan([]), dataset())
    path = tmp_path / "log" / "echo.jsonl.gz"
    path.write_bytes(path.read_bytes() + b"of a live run")
    before = path.read_bytes()
    cost.estimate(plan([]), dataset(), reader=readers.load("none"), embedder=None, folder=tmp_path)
    assert path.read_bytes() == before


def test_a_system_of_ones_own_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_memory_of_today.py").write_text("def make(setup):\n    return setup\n")
    monkeypatch.syspath_prepend(tmp_path)
    chosen = running.choose("import:my_memory_of_today.make", {})
    assert chosen.kind.make(3) == 3 and chosen.file == "import_my_memory_of_today.make"
    for wrong in ("import:my_memory_of_today.nothing", "import:nowhere_at_all.make", "import:make"):
        with pytest.raises(InputError, match=r"expected import:MODULE\.NAME"):
            running.choose(wrong, {})


def test_progress_reaches_its_end_and_never_falls(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    go(
        tmp_path,
        plan([]),
        dataset("ada", "bob"),
        progress=lambda done, total, what: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == 2 * (4 + 3 * running.QUESTION_UNITS)


def test_a_line_reads_back_as_it_was() -> None:
    line = log.Line(
        task="echo",
        system="echo",
        stream="ada",
        question=replace(stream().questions[0], at=AT, candidates=("1", "2")),
        reply=Reply(
            context="I said: x",
            reading=Reading(text="1", prompt=[{"role": "user", "content": "given I said: x, I said: x?"}]),
            ranked=(Hit(turn="t1", session="s0", score=0.25),),
        ),
        ages=(1,),
        sessions=("s0",),
        probe=(-0.5, -1.25),
    )
    assert log.load(log.dump(line), "here") == line
    assert log.dump(line).count("I said: x") == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"question": 3}', "not json"])
def test_a_damaged_line_is_named(text: str) -> None:
    with pytest.raises(InputError, match="here: is no line"):
        log.load(text, "here")


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    go(tmp_path, plan([]), dataset())
    path = tmp_path / "log" / "echo.jsonl.gz"
    whole = path.read_bytes()
    for damaged in (whole[:-9], b"no gzip" + whole[7:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read to its end"):
            list(finished(tmp_path, "echo").lines())


def test_systems_are_chosen_by_name_and_options() -> None:
    kinds = {"bm25": Kind(name="bm25", about="", make=Echo, options={"unit": "turn", "k": 3})}
    assert running.choose("bm25:unit=session,k=5", kinds).options == {"unit": "session", "k": 5}
    for spec, said in (
        ("bm52", "no system 'bm52'; expected one of bm25"),
        ("bm25:colour=red", "its options are: unit=turn, k=3"),
        ("bm25:k=many", "expected int"),
        ("bm25:unit", "cannot read 'unit'"),
    ):
        with pytest.raises(InputError, match=said):
            running.choose(spec, kinds)


def test_a_password_is_refused_before_it_is_written_down() -> None:
    kinds = {"far": Kind(name="far", about="", make=Echo, options={"url": ""})}
    with pytest.raises(InputError, match="set the key in the environment") as caught:
        running.choose("far:url=http://me:secret@host/v1", kinds)
    assert "secret" not in str(caught.value)
    for url in ("http://host/v1?key=secret", "me:secret@host/v1"):
        with pytest.raises(InputError) as caught:
            running.choose(f"far:url={url}", kinds)
        assert "secret" not in str(caught.value)


def test_a_plan_is_checked() -> None:
    with pytest.raises(InputError, match="each once"):
        plan([], names=("echo", "echo"))
    with pytest.raises(InputError, match="budget_tokens is 0"):
        replace(plan([]), budget_tokens=0)


def test_streams_refuse_evidence_that_is_not_said_yet() -> None:
    whole = stream()
    late = replace(whole.questions[0], evidence=("t3",))
    with pytest.raises(InputError, match="not said by then"):
        replace(whole, questions=(late,))
    with pytest.raises(InputError, match="two turns have the id 't0'"):
        replace(whole, turns=(whole.turns[0], whole.turns[0]))
    with pytest.raises(InputError, match="two questions have one id"):
        replace(whole, questions=(whole.questions[0], whole.questions[0]))
    with pytest.raises(InputError, match="has no text"):
        replace(whole, questions=(replace(whole.questions[0], text="  "),))
    with pytest.raises(InputError, match="a forget"):
        replace(whole, forgets=(Forget(after=1, turns=("t3",)),))


def test_a_task_without_its_data_says_where_to_get_it(tmp_path: Path) -> None:
    part = Part(file="x.json", url="http://localhost/x.json")
    read = replace(task(), folder="echo", fetch=(part,))
    with pytest.raises(InputError, match="nestmem eval fetch echo"):
        data_folder(None, read)
    with pytest.raises(InputError, match="does not exist"):
        load(read, tmp_path, {})
    nothing = replace(task(), load=lambda folder, **_: Dataset(streams=(), source="generated"))
    with pytest.raises(InputError, match="has no question"):
        load(nothing, None, {})


def test_options_are_of_the_type_of_their_default() -> None:
    assert check_options(task(), {"limit": "3"}) == {"seed": 0, "limit": 3}
    with pytest.raises(InputError, match="expected int"):
        check_options(task(), {"limit": "some"})
    with pytest.raises(InputError, match="no option size; it has: seed, limit"):
        check_options(task(), {"size": "3"})


def test_the_cost_is_said_for_each_system() -> None:
    costs = cost.estimate(plan([]), dataset("ada", "bob"), reader=readers.load("none"), embedder=None)
    assert [c.system for c in costs] == ["echo"] and costs[0].minutes > 0
    assert cost.record(costs)["minutes"] == costs[0].minutes


def test_a_run_that_goes_on_costs_what_is_left(tmp_path: Path) -> None:
    data, none = dataset("ada", "bob"), readers.load("none")
    go(tmp_path, plan([]), data)
    [left] = cost.estimate(plan([]), data, reader=none, embedder=None, folder=tmp_path)
    assert left.minutes == 0.0
    [whole] = cost.estimate(plan([]), data, reader=none, embedder=None, folder=tmp_path / "new")
    assert whole.minutes > 0.0


def test_what_lives_elsewhere_is_not_tried_out() -> None:
    calls: list[str] = []
    kind = Kind(name="far", about="", make=lambda setup: Echo(setup, calls), remote=True)
    far = running.Plan(task=task(), options={}, systems=(running.Chosen(spec="far", kind=kind, options={}),))
    costs = cost.estimate(far, dataset(), reader=readers.load("none"), embedder=None)
    assert calls == [] and math.isnan(costs[0].minutes) and cost.total(costs) == 0.0


def test_each_attempt_has_users_of_its_own(tmp_path: Path) -> None:
    for attempt in ("-a", "-b"):
        calls: list[str] = []
        go(tmp_path / attempt, plan(calls), dataset(), attempt=attempt)
        assert calls[0] == f"observe u0{attempt} t0"
    first, second = (tmp_path / attempt / "log" / "echo.jsonl.gz" for attempt in ("-a", "-b"))
    assert first.read_bytes() == second.read_bytes()


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    def report(done: int, total: int, what: str) -> None:
        with pytest.raises(InputError, match="another process runs in it"):
            go(tmp_path, plan([]), dataset())

    go(tmp_path, plan([]), dataset(), progress=report)
    go(tmp_path, plan([]), dataset())


def test_a_full_disk_does_not_cost_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset("ada", "bob")
    go(tmp_path, plan([]), data)
    times = tmp_path / "times" / "echo.jsonl"
    rows = times.read_text()
    times.write_text(rows + "half a row")

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            running.finished_streams(tmp_path, plan([]).systems[0])
    assert times.read_text() == rows + "half a row"
    assert running.finished_streams(tmp_path, plan([]).systems[0]) == {"ada", "bob"}
    assert times.read_text() == rows


def test_a_donor_is_somebody_else() -> None:
    ada, bob = stream("ada"), stream("bob")
    twin = Stream(id="ada again", turns=ada.turns, questions=ada.questions)
    assert running.donor_of((ada, twin, bob), 0) == 2
    assert running.donor_of((ada, twin), 0) is None
    same = replace(bob, questions=tuple(replace(q, cluster="family") for q in bob.questions))
    kin = replace(ada, questions=tuple(replace(q, cluster="family") for q in ada.questions))
    assert running.donor_of((kin, same), 0) is None


def test_energy_counters_that_went_round() -> None:
    before, after = {"a": (9_000_000, 10_000_000)}, {"a": (1_000_000, 10_000_000)}
    assert energy.joules(before, after) == 2.0
    assert energy.joules(None, after) is None


def test_energy_is_read_where_the_machine_counts_it(tmp_path: Path) -> None:
    assert energy.read(tmp_path) is None
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "name").write_text("package-0\n")
    platform = tmp_path / "intel-rapl:1"
    platform.mkdir()
    (platform / "name").write_text("psys\n")
    (package / "energy_uj").write_text("12\n")
    (package / "max_energy_range_uj").write_text("100\n")
    part = tmp_path / "intel-rapl:0:0"
    part.mkdir()
    assert energy.read(tmp_path) == {"intel-rapl:0": (12, 100)}
