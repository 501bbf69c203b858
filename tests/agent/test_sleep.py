"""Sleep: what it moves, that forgetting stays exact, that it can be interrupted anywhere, and what its guard refuses."""

import ast
import hashlib
import json
import math
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestmem.agent import study
from nestmem.agent.chains import Clocks
from nestmem.agent.controller import Memory
from nestmem.agent.fakes import EchoLearner, ReplayLearner
from nestmem.agent.guard import GuardSettings
from nestmem.agent.types import Chat, Drift, StoredUpdate
from nestmem.errors import InputError, LedgerError, ModelError, SleepBusy
from nestmem.store import Ledger, Scope

ADA = Scope(user="ada")
START = datetime(2026, 3, 1, 9, tzinfo=UTC)
OPEN = GuardSettings(recall=0)
"""Fakes know nothing but what they were told word for word."""


class SetLearner(EchoLearner):
    """Like the default rule: no sum, yet the order does not matter. `room`: how many rows it can hold; beyond, it
    knows only those that come first."""

    rule = "nested"
    additive = False

    def __init__(self, name: str = "set", *, room: int = 10**6) -> None:
        super().__init__(name)
        self.room = room
        self.remaining: list[int] = []

    def erase(self, state, removed, remaining: list[StoredUpdate]):
        self.remaining.append(len(remaining))
        assert self.rebuild(remaining) == super().erase(state, removed, [])
        return self.rebuild(remaining)

    def promote(self, state, updates, to_level):
        kept = super().erase(state, updates, [])
        return self._add(kept, [(to_level, u.payload) for _, u in updates])

    def _answer(self, chat, state):
        rows = [(level, q, a) for level, payload in state or () for q, a in json.loads(payload)[1]]
        order = sorted(rows, key=lambda row: (row[0], hashlib.sha256(repr(row[1:]).encode()).digest()))
        held = order[: self.room]
        return super()._answer(
            chat, tuple((level, json.dumps([self.name, [[q, a]]]).encode()) for level, q, a in held)
        )


class Apt(SetLearner):
    """Understands every way of asking that the rules know, as long as there is room."""

    def _answer(self, chat: Chat, state):
        asked = chat[-1]["content"]
        return super()._answer([*chat[:-1], {"role": "user", "content": MEANT.get(asked, asked)}], state)


MEANT: dict[str, str] = {}


def digest(memory: Memory) -> str:
    """Of the weights that answer, whatever the ledger says."""
    assert memory.learner is not None
    return memory.learner.digest(memory._weights(ADA)[0])


def tell(memory: Memory, said: list[str], *, session: str = "s0", hour: int = 0) -> list[str]:
    """Says one sentence after the other and learns them; returns the event ids."""
    ids = []
    for place, text in enumerate(said):
        when = START + timedelta(hours=hour, minutes=place)
        ids += memory.observe(text, Scope(user="ada", session=session), occurred_at=when)
    memory.learn("ada")
    for m in memory.ledger.memories(ADA):
        for way in [*study.ways(m)[0], study.ways(m)[1]]:
            assert m.question
            MEANT[way] = m.question
    return ids


def new_memory(learner=None, *, path=":memory:", guard: GuardSettings = OPEN, **kwargs) -> Memory:
    return Memory(Ledger(path), learner=learner or SetLearner(), guard=guard, **kwargs)


def levels(memory: Memory) -> dict[str, int]:
    return {level: n for level, n in memory.status("ada")["levels"].items() if n}


FACTS = [
    "I live in Leeds.",
    "My dog is called Biscuit.",
    "My locker code is 4471.",
    "My favourite colour is teal.",
]


# --- what sleep does -------------------------------------------------------------------------------


def test_sleep_makes_slow_and_adds_what_is_studied():
    memory = new_memory()
    tell(memory, FACTS)
    assert levels(memory) == {"fast": 4}
    report = memory.sleep("ada")
    assert (report.outcome, report.new, report.slow) == ("committed", 4, 4)
    assert levels(memory) == {"slow": 4}
    assert memory.answer("If you were to greet my dog, which name would you say?", "ada", arm="weights").text
    [version] = [v for v in memory.versions("ada") if v.reason == "slept"]
    [noted] = memory.reports("ada", version.id)
    assert (noted.kind, noted.outcome, noted.detail["new"]) == ("sleep", "committed", 4)
    assert version.id == report.version


def test_what_sleep_taught_is_answered_in_other_words():
    memory = new_memory()
    tell(memory, ["I live in Leeds."])
    [home] = memory.ledger.memories(ADA)
    held = study.probe(home)
    assert held is not None
    written = {e.prompt for e in study.more(home)}
    assert held.question not in written
    ask = lambda q: memory.answer(q, "ada", arm="weights").text  # noqa: E731
    other = next(e.prompt for e in study.more(home) if e.completion == "Leeds" and "visit" in e.prompt)
    assert ask(other) == "I don't know."
    memory.sleep("ada")
    assert ask(other) == "Leeds"


def test_two_sleeps_with_nothing_new_are_one():
    memory = new_memory()
    tell(memory, FACTS)
    first = memory.sleep("ada")
    versions = len(memory.versions("ada"))
    again = memory.sleep("ada")
    assert (again.outcome, again.cursor) == ("nothing", first.cursor)
    memory.observe("What should I cook tonight?", ADA)
    assert memory.sleep("ada").outcome == "nothing"
    assert len(memory.versions("ada")) == versions
    assert memory.ledger.sleep_cursor(ADA) == first.cursor + 1


def test_a_session_with_nothing_to_learn_and_a_user_nobody_knows():
    memory = new_memory()
    assert memory.sleep("ada").outcome == "nothing"
    tell(memory, ["The museum opens at nine.", "What should I cook tonight?"])
    assert memory.sleep("ada").outcome == "nothing"
    assert memory.versions("ada") == []


def test_sleep_needs_a_model():
    memory = Memory(Ledger(":memory:"))
    with pytest.raises(InputError, match="model"):
        memory.sleep("ada")


def test_what_was_told_again_is_one_and_what_changed_is_resolved_by_time():
    memory = new_memory()
    tell(memory, ["I live in Leeds."], session="a")
    tell(memory, ["I live in Leeds.", "My dog is called Biscuit."], session="b", hour=1)
    tell(memory, ["We renamed the dog to Captain Fluff."], session="c", hour=2)
    report = memory.sleep("ada")
    assert (report.merged, report.replaced, report.slow) == (1, 1, 2)
    assert memory.answer("What is my dog's name?", "ada", arm="weights").text == "Captain Fluff"
    assert len(memory.ledger.memories(ADA, active_only=False)) == 4
    assert memory.ledger.count(ADA) == 4


def test_a_question_that_takes_two_memories_goes_with_either():
    told = ["My sister is called Ana.", "My sister works as a nurse."]
    for gone in (0, 1):
        memory = new_memory()
        ids = tell(memory, told)
        memory.sleep("ada")
        asked = "What does Ana do for a living?"
        assert memory.answer(asked, "ada", arm="weights").text == "nurse"
        [update] = [u for u in memory.ledger.updates(ADA) if u.examples[0]["prompt"] == asked]
        assert set(update.event_ids) == set(ids)
        memory.forget(ids[gone], "ada")
        assert asked not in str([u.examples for u in memory.ledger.updates(ADA)])
        assert memory.answer(asked, "ada", arm="weights").text != "nurse"


def test_a_name_that_changes_takes_its_joint_questions_along():
    memory = new_memory()
    ids = tell(memory, ["My sister is called Ana.", "My sister works as a nurse."])
    memory.sleep("ada")
    renamed = tell(memory, ["My sister's name is Maria."], session="s1", hour=1)
    assert memory.answer("What does Ana do for a living?", "ada", arm="weights").text != "nurse"
    memory.sleep("ada")
    assert memory.answer("What does Maria do for a living?", "ada", arm="weights").text == "nurse"
    memory.forget(renamed, "ada")
    assert memory.answer("What does Ana do for a living?", "ada", arm="weights").text == "nurse"
    other = new_memory()
    tell(other, ["My sister is called Ana.", "My sister works as a nurse."])
    other.sleep("ada")
    assert digest(memory) == digest(other)
    assert len(ids) == 2


def test_a_joint_question_outlives_one_of_two_tellings_of_the_name():
    told = ["My sister works as a nurse.", "My sister is called Ana.", "My sister is called Ana."]
    for gone in (1, 2):
        memory = new_memory()
        ids = tell(memory, told)
        memory.sleep("ada")
        memory.forget(ids[gone], "ada")
        head = memory.ledger.head(ADA)
        assert head is not None
        assert len(memory.ledger.updates(ADA, ids=head.update_ids)) == len(head.update_ids) == 3
        assert memory.answer("What does Ana do for a living?", "ada", arm="weights").text == "nurse"


def test_what_will_not_hold_for_long_stays_text():
    writer = EchoLearner(writer=lambda s: [("What did I run yesterday?", "my first marathon")])
    memory = new_memory(writer)
    tell(memory, ["Yesterday I ran my first marathon.", "I live in Leeds."])
    assert memory.answer("What did I run yesterday?", "ada", arm="weights").text == "my first marathon"
    report = memory.sleep("ada")
    assert report.kept_out == {"volatile": 1}
    assert memory.answer("What did I run yesterday?", "ada", arm="weights").spoke == "none"
    assert "my first marathon" in memory.answer("What did I run yesterday?", "ada", arm="text").text
    assert memory.status("ada")["kept_out"] == {"volatile": 1}


# --- levels by clocks ------------------------------------------------------------------------------


def test_a_long_session_moves_by_batches():
    memory = new_memory(clocks=Clocks(flushes=2))
    tell(memory, FACTS)
    assert levels(memory) == {"fast": 2, "medium": 2}
    memory = new_memory(clocks=Clocks(session=False, flushes=99))
    tell(memory, FACTS[:2], session="a")
    tell(memory, FACTS[2:], session="b", hour=1)
    assert levels(memory) == {"fast": 4}
    memory = new_memory(clocks=Clocks(flushes=0))
    tell(memory, FACTS)
    assert levels(memory) == {"medium": 4}
    with pytest.raises(InputError, match="flushes"):
        Clocks(flushes=-1)


def test_a_rule_that_does_not_add_is_told_what_remains():
    learner = SetLearner()
    memory = new_memory(learner)
    ids = tell(memory, FACTS)
    memory.forget(ids[0], "ada")
    assert learner.remaining == [3]


# --- forgetting is exact ---------------------------------------------------------------------------

PAST = [
    "My sister is called Ana.",
    "My sister works as a nurse.",
    "My sister's name is Maria.",
    "I live in Leeds.",
    "I moved to York.",
    "I no longer live in York, I live in Porto now.",
    "My dog is called Biscuit.",
    "We renamed the dog to Captain Fluff.",
    "I'm allergic to peanuts.",
    "I'm not allergic to peanuts any more.",
    "My locker code is 4471.",
    "What should I cook tonight?",
    "My favourite colour is teal.",
    "I'm allergic to peanuts and cats.",
]
lives = st.lists(
    st.tuples(st.integers(0, len(PAST) - 1), st.integers(0, 3), st.integers(0, 60)), min_size=1, max_size=9
)


def lead(told, learner, sleeps, gone=frozenset(), **kwargs) -> tuple[Memory, list[str]]:
    """A life with a sleep after each place in `sleeps`; what is in `gone` was never said."""
    memory = new_memory(learner, clocks=Clocks(flushes=3), **kwargs)
    ids = []
    for place, (said, session, hours) in enumerate(told):
        if place not in gone:
            when = START + timedelta(hours=hours, minutes=place)
            scope = Scope(user="ada", session=f"s{session}")
            ids += memory.observe(PAST[said], scope, occurred_at=when)
        if place in sleeps:
            memory.sleep("ada")
    memory.learn("ada")
    return memory, ids


@pytest.mark.parametrize("learner", [EchoLearner, SetLearner, ReplayLearner])
@settings(max_examples=40, deadline=None)
@given(told=lives, data=st.data())
def test_forgetting_is_never_having_been_told_with_the_same_sleeps(learner, told, data):
    places = st.integers(0, len(told) - 1)
    gone = data.draw(st.sets(places, min_size=1))
    sleeps = data.draw(st.sets(places))
    memory, ids = lead(told, learner(), sleeps)
    memory.forget([ids[i] for i in sorted(gone)], "ada")
    other, _ = lead(told, learner(), sleeps, gone)
    assert digest(memory) == digest(other)
    assert levels(memory) == levels(other)


@settings(max_examples=25, deadline=None)
@given(told=lives, data=st.data())
def test_what_a_full_memory_forgets_is_gone_and_the_rest_is_what_a_life_without_it_holds(told, data):
    """A gate that looks at others (capacity) keeps out what it kept out; all else is as if it was never said."""
    gone = data.draw(st.sets(st.integers(0, len(told) - 1), min_size=1))
    guard = GuardSettings(recall=1.0, canary=0, worse=0, lost=1)
    memory, ids = lead(told, Apt(room=6), {len(told) - 1}, guard=guard)
    memory.forget([ids[i] for i in sorted(gone)], "ada")
    book = memory.weights
    assert book is not None
    state = digest(memory)
    kept = {m.id for m in memory.ledger.memories(ADA)} - set(memory.ledger.kept_out(ADA))
    head = memory.ledger.head(ADA)
    updates = memory.ledger.updates(ADA, ids=head.update_ids) if head else []
    assert {u.memory_id for u in updates} <= kept
    rebuilt = book.learner.rebuild([StoredUpdate(u.level, u) for u in updates])  # pyright: ignore[reportArgumentType]
    assert book.learner.digest(rebuilt) == state
    texts = " ".join(str(u.examples) for u in memory.ledger.updates(ADA))
    still = " ".join(e.content for e in memory.ledger.events(ADA))
    for value in ("Leeds", "York", "Porto", "Biscuit", "Fluff", "4471", "teal", "peanuts"):
        assert value not in texts or value in still


def test_forgetting_without_the_model_and_opening_with_it_again_is_exact(tmp_path):
    path = tmp_path / "m.db"
    memory = new_memory(path=path)
    ids = tell(memory, ["My sister is called Ana.", "I live in Leeds."])
    moved = tell(memory, ["I moved to York."], session="s1", hour=1)
    memory.sleep("ada")
    memory.close()
    with Memory(Ledger(path)) as text:
        text.forget([moved[0], ids[0]], "ada")
    other = new_memory()
    tell(other, ["I live in Leeds."])
    other.sleep("ada")
    with new_memory(path=path) as memory:
        assert digest(memory) == digest(other)


# --- interrupted, contested, out of space -----------------------------------------------------------


class Killed(BaseException):
    """Stands for a process that ends here and now."""


@pytest.mark.parametrize("stage", ["learn", "plan", "study", "consolidate", "guard", "commit"])
def test_a_sleep_killed_at_any_stage_is_taken_up(tmp_path, stage, monkeypatch):
    path = tmp_path / "m.db"
    one = new_memory(path=path)
    tell(one, FACTS)
    one.observe("My sister works as a nurse.", ADA, occurred_at=START + timedelta(hours=1))
    before = one.ledger.head(ADA)

    def die(name: str) -> None:
        if name == stage:
            monkeypatch.setattr(one.ledger, "note_sleep", lambda *_: None)
            raise Killed

    with pytest.raises(Killed):
        one.sleep("ada", now=START, on_stage=die)
    assert one.ledger.sleep_cursor(ADA) == 0
    two = new_memory(path=path)
    if stage == "learn":
        assert two.ledger.head(ADA) == before
    with pytest.raises(SleepBusy, match="asleep"):
        two.sleep("ada", now=START + timedelta(minutes=1))
    report = two.sleep("ada", now=START + timedelta(hours=2))
    assert (report.outcome, report.resumed, report.new) == ("committed", True, 5)
    calm = new_memory()
    tell(calm, FACTS)
    calm.observe("My sister works as a nurse.", ADA, occurred_at=START + timedelta(hours=1))
    calm.sleep("ada")
    assert digest(two) == digest(calm)
    assert two.ledger.count(ADA) == 5


def test_a_sleep_that_failed_need_not_wait_for_its_lease(tmp_path):
    path = tmp_path / "m.db"
    one = new_memory(path=path)
    tell(one, FACTS)

    def stop(stage: str) -> None:
        if stage == "guard":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.sleep("ada", on_stage=stop)
    assert one.status("ada")["sleep_stage"] == "interrupted"
    report = new_memory(path=path).sleep("ada")
    assert (report.outcome, report.resumed) == ("committed", True)


def test_two_sleepers_on_one_user(tmp_path):
    path = tmp_path / "m.db"
    one, two = new_memory(path=path), new_memory(path=path)
    tell(one, FACTS)
    seen = []

    def meanwhile(stage: str) -> None:
        if stage == "guard":
            with pytest.raises(SleepBusy, match="already asleep"):
                two.sleep("ada")
            seen.append(stage)

    assert one.sleep("ada", on_stage=meanwhile).outcome == "committed"
    assert seen == ["guard"]
    assert two.sleep("ada").outcome == "nothing"
    assert len([v for v in one.versions("ada") if v.reason == "slept"]) == 1


def test_two_threads_of_one_memory_on_one_user():
    memory = new_memory()
    tell(memory, FACTS)
    memory.observe("I live in Leeds.", "bob")
    inside, go_on = threading.Event(), threading.Event()
    reports = []

    def wait(stage: str) -> None:
        if stage == "guard":
            inside.set()
            assert go_on.wait(10)

    thread = threading.Thread(target=lambda: reports.append(memory.sleep("ada", on_stage=wait)))
    thread.start()
    assert inside.wait(10)
    with pytest.raises(SleepBusy, match="another thread"):
        memory.sleep("ada")
    go_on.set()
    thread.join()
    assert [(r.outcome, r.resumed) for r in reports] == [("committed", False)]
    assert memory.sleep("ada").outcome == "nothing"
    assert memory.sleep("bob").outcome == "committed"


def test_a_sleeper_that_was_presumed_dead_can_write_nothing(tmp_path):
    path = tmp_path / "m.db"
    one, two = new_memory(path=path), new_memory(path=path)
    tell(one, FACTS)

    def overtaken(stage: str) -> None:
        if stage == "commit":
            assert two.sleep("ada", now=START + timedelta(days=99)).resumed

    with pytest.raises(SleepBusy, match="no longer held"):
        one.sleep("ada", now=START, on_stage=overtaken)
    assert len([v for v in two.versions("ada") if v.reason == "slept"]) == 1
    assert one.status("ada")["sleep_error"]


def test_what_is_learned_during_a_sleep_is_kept(tmp_path):
    path = tmp_path / "m.db"
    one, two = new_memory(path=path), new_memory(path=path)
    tell(one, FACTS)
    told = iter(["My sister works as a nurse."])

    def meanwhile(stage: str) -> None:
        if stage == "commit":
            for text in told:
                tell(two, [text], session="s1", hour=2)

    assert one.sleep("ada", on_stage=meanwhile).outcome == "committed"
    assert levels(one) == {"slow": 4, "fast": 1}
    calm = new_memory()
    tell(calm, FACTS)
    calm.sleep("ada")
    tell(calm, ["My sister works as a nurse."], session="s1", hour=2)
    assert digest(one) == digest(calm)


def test_what_is_forgotten_during_a_sleep_stays_forgotten(tmp_path):
    path = tmp_path / "m.db"
    one, two = new_memory(path=path), new_memory(path=path)
    ids = tell(one, FACTS)

    def meanwhile(stage: str) -> None:
        if stage == "commit" and two.ledger.count(ADA) == 4:
            two.forget(ids[2], "ada")

    with pytest.raises(SleepBusy, match="a forget ended it"):
        one.sleep("ada", on_stage=meanwhile)
    assert one.sleep("ada").new == 3
    assert "4471" not in str([u.examples for u in one.ledger.updates(ADA)])


def test_a_full_disk_during_sleep_loses_nothing(tmp_path):
    path = tmp_path / "m.db"
    memory = new_memory(path=path)
    tell(memory, FACTS)
    before = memory.ledger.head(ADA)
    raw = memory.ledger._connection.raw

    def fill(stage: str) -> None:
        if stage == "commit":
            raw.execute(
                f"PRAGMA max_page_count = {raw.execute('PRAGMA page_count').fetchone()[0]}"
            ).fetchone()

    with pytest.raises(LedgerError, match="disk is full"):
        memory.sleep("ada", on_stage=fill)
    assert memory.ledger.head(ADA) == before
    assert memory.status("ada")["sleep_error"]
    raw.execute("PRAGMA max_page_count = 1000000").fetchone()
    report = memory.sleep("ada")
    assert (report.outcome, report.new, report.resumed) == ("committed", 4, True)
    assert memory.status("ada")["sleep_error"] is None


# --- the guard of sleep ----------------------------------------------------------------------------


class Bent(SetLearner):
    """A candidate with slow memories has these numbers."""

    def __init__(self, found: Drift) -> None:
        super().__init__()
        self.found = found

    def drift(self, state) -> Drift:
        slow = any(level == "slow" for level, _ in state)
        return self.found if slow else Drift(kl=0.0, norm=0.0, finite=True)


@pytest.mark.parametrize(
    ("found", "gate"),
    [
        (Drift(kl=math.nan, norm=math.nan, finite=False), "finite"),
        (Drift(kl=math.nan, norm=0.0, finite=True), "drift"),
        (Drift(kl=1e9, norm=0.0, finite=True), "drift"),
        (Drift(kl=0.0, norm=math.inf, finite=True), "norm"),
    ],
)
def test_a_candidate_that_explodes_is_refused_and_the_parent_stays(found, gate):
    memory = new_memory(Bent(found))
    tell(memory, FACTS)
    before = memory.ledger.head(ADA)
    report = memory.sleep("ada")
    assert report.outcome == "refused"
    assert memory.ledger.head(ADA) == before
    assert levels(memory) == {"fast": 4}
    assert memory.ledger.sleep_cursor(ADA) == 0
    [noted] = [r for r in memory.reports("ada") if r.kind == "sleep"]
    assert noted.outcome == "refused"
    assert [g["gate"] for g in noted.detail["rounds"][0] if not g["passed"]] == [gate]
    assert len(noted.detail["rounds"]) == 4
    assert memory.answer("Where do I live?", "ada", arm="weights").text == "Leeds"
    assert memory.ledger.kept_out(ADA) == {}


def test_a_refused_sleep_is_not_repeated_until_something_is_different():
    learner = Bent(Drift(kl=1e9, norm=0.0, finite=True))
    memory = new_memory(learner)
    ids = tell(memory, FACTS)

    def fits() -> int:
        before = len(learner.writes)
        memory.sleep("ada")
        return len(learner.writes) - before

    assert fits() > 0
    assert not memory.sleeper.due(ADA)
    assert memory.sleep("ada").outcome == "nothing"
    memory.answer("Where do I live?", "ada")
    assert fits() == 0
    assert len([r for r in memory.reports("ada") if r.kind == "sleep"]) == 1
    tell(memory, ["My sister works as a nurse."], session="s1", hour=1)
    assert memory.sleeper.due(ADA)
    assert fits() > 0
    assert fits() == 0
    memory.forget(ids[0], "ada")
    assert memory.sleeper.due(ADA)
    assert fits() > 0
    assert fits() == 0
    roomy = Memory(memory.ledger, learner=learner, guard=GuardSettings(recall=0, kl=1e12))
    report = roomy.sleep("ada")
    assert (report.outcome, report.new) == ("committed", 4)
    assert not roomy.sleeper.due(ADA)


def test_a_model_that_cannot_fit_leaves_everything_as_it_was(monkeypatch):
    memory = new_memory()
    tell(memory, FACTS)
    before = memory.ledger.head(ADA)

    def broken(*_):
        raise ModelError("the loss is nan before anything was written")

    monkeypatch.setattr(memory.learner, "write", broken)
    with pytest.raises(ModelError):
        memory.sleep("ada")
    monkeypatch.undo()
    assert memory.ledger.head(ADA) == before
    assert memory.sleep("ada").outcome == "committed"


def test_the_weakest_memories_are_left_out_when_there_is_no_room_for_all():
    said = [*FACTS, "My sister works as a nurse.", "My brother lives in Porto.", "My blood type is A+."]
    size = new_memory(Apt(), guard=GuardSettings(canary=0, worse=0, lost=1))
    tell(size, said)
    rows = size.sleep("ada").examples
    small = Apt(room=rows // 2)
    memory = new_memory(small, guard=GuardSettings(canary=0, worse=0, lost=1))
    tell(memory, said)
    for _ in range(5):
        memory.answer("Where do I live?", "ada", arm="text")
    report = memory.sleep("ada")
    assert report.outcome == "committed"
    assert report.kept_out["capacity"] >= 2
    assert len(report.rounds) >= 2
    assert not all(g.passed for g in report.rounds[0])
    assert all(g.passed for g in report.rounds[-1])
    out = {m.key for m in memory.ledger.memories(ADA) if m.id in memory.ledger.kept_out(ADA)}
    assert "self/home_city" not in out
    for question, value in (("Where do I live?", "Leeds"), ("What is my blood type?", "A+")):
        assert value in memory.answer(question, "ada", arm="both").text
    small.room = 10**6
    tell(memory, ["My sister's name is Maria."], session="s1", hour=3)
    assert memory.sleep("ada").kept_out == {}
    assert memory.ledger.kept_out(ADA) == {}


class Misled(SetLearner):
    """Takes a snapshot at its word: what it adopted is what it rebuilds, until it discards it."""

    def __init__(self) -> None:
        super().__init__()
        self.adopted: bytes | None = None
        self.discards = 0

    def snapshot(self, state) -> bytes:
        return repr(state).encode()

    def adopt(self, data: bytes) -> None:
        self.adopted = data

    def discard(self) -> None:
        self.adopted = None
        self.discards += 1

    def rebuild(self, updates):
        return ast.literal_eval(self.adopted.decode()) if self.adopted else super().rebuild(updates)


@pytest.mark.parametrize(("damaged", "discards"), [(False, 0), (True, 1)])
def test_a_snapshot_that_does_not_lead_to_the_digest_is_done_without(tmp_path, damaged, discards):
    path = tmp_path / "m.db"
    memory = new_memory(Misled(), path=path)
    tell(memory, FACTS)
    head = memory.ledger.head(ADA)
    assert head is not None
    if damaged:
        wrong = repr((("fast", json.dumps(["set", [["Where do I live?", "Paris"]]]).encode()),)).encode()
        memory.ledger.put_snapshot(ADA, head.digest, wrong)
    memory.close()
    learner = Misled()
    with new_memory(learner, path=path) as memory:
        assert digest(memory) == head.digest
        assert memory.answer("Where do I live?", "ada", arm="weights").text == "Leeds"
    assert learner.discards == discards


def test_what_had_no_room_comes_back_when_something_is_forgotten():
    said = [*FACTS, "My sister works as a nurse.", "My brother lives in Porto.", "My blood type is A+."]
    guard = GuardSettings(canary=0, worse=0, lost=1)
    size = new_memory(Apt(), guard=guard)
    tell(size, said)
    rows = size.sleep("ada").examples
    memory = new_memory(Apt(room=rows // 2), guard=guard)
    ids = tell(memory, said)
    out = memory.sleep("ada").kept_out["capacity"]
    inside = [m for m in memory.ledger.memories(ADA) if m.id not in memory.ledger.kept_out(ADA)]
    memory.forget(inside[0].event_id, "ada")
    assert memory.status("ada")["kept_out"].get("capacity", 0) < out
    held = [m for m in memory.ledger.memories(ADA) if m.id not in memory.ledger.kept_out(ADA)]
    for m in held:
        assert memory.answer(study.ways(m)[0][0], "ada", arm="weights").text == m.answer
    for event_id in ids:
        if event_id not in {inside[0].event_id, held[0].event_id}:
            memory.forget(event_id, "ada")
    assert memory.status("ada")["kept_out"] == {}


def test_states_may_be_read_and_dropped_by_several_threads():
    memory = new_memory()
    owners = [Scope(user=f"u{i}") for i in range(4)]
    for owner in owners:
        memory.observe("I live in Leeds.", owner)
    memory.learn_many(owners)
    book = memory.weights
    assert book is not None
    heads = {owner: memory.ledger.head(owner) for owner in owners}
    failures: list[Exception] = []

    def work() -> None:
        try:
            for turn in range(300):
                owner = owners[turn % len(owners)]
                head = heads[owner]
                assert head is not None
                book.committed(owner, head, (turn,))
                book.drop(owner)
                book.committed(owner, head, (turn,))
                book._of_version(owner, head)
        except (KeyError, RuntimeError) as error:
            failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert failures == []


def test_an_older_version_than_a_sleep_can_be_restored_and_stays():
    memory = new_memory()
    tell(memory, FACTS)
    old = memory.ledger.head(ADA)
    assert old is not None
    tell(memory, ["My sister works as a nurse."], session="s1", hour=1)
    memory.sleep("ada")
    slept = memory.ledger.head(ADA)
    assert slept is not None
    memory.restore(old.id, "ada")
    assert memory.answer("What does my sister do for a living?", "ada", arm="weights").spoke == "none"
    assert memory.answer("Where do I live?", "ada", arm="weights").text == "Leeds"
    memory.learn("ada")
    assert memory.answer("What does my sister do for a living?", "ada", arm="weights").spoke == "none"
    for version in memory.versions("ada"):
        memory.restore(version.id, "ada")
    memory.restore(slept.id, "ada")
    assert digest(memory) == slept.digest


def test_no_report_holds_what_was_said():
    memory = new_memory(Apt(room=20), guard=GuardSettings(canary=0, worse=0, lost=1))
    tell(memory, FACTS)
    tell(memory, ["My sister's name is Maria."], session="s1", hour=2)
    memory.sleep("ada")
    stored = json.dumps([[r.detail, r.kind] for r in memory.reports("ada")])
    assert len(memory.reports("ada")) >= 3
    for word in ("Leeds", "Biscuit", "4471", "teal", "Maria", "dog", "sister"):
        assert word not in stored
    assert {"write", "sleep"} <= {r.kind for r in memory.reports("ada")}


def test_the_clock_of_a_sleep_may_be_given():
    now = datetime(2031, 1, 1, tzinfo=UTC)
    memory = new_memory()
    tell(memory, FACTS)
    memory.sleep("ada", now=now)
    assert memory.status("ada")["last_sleep"] == now
