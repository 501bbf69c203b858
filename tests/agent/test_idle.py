"""The idle worker."""

import time

import pytest

from nestmem.agent.controller import Memory
from nestmem.agent.fakes import EchoLearner
from nestmem.agent.guard import GuardSettings
from nestmem.agent.idle import IdleSleeper
from nestmem.errors import InputError, ModelError
from nestmem.store import Ledger, Scope


def new_memory(learner: EchoLearner | None = None) -> Memory:
    guard = GuardSettings(recall=0)
    return Memory(Ledger(":memory:"), learner=learner or EchoLearner(), guard=guard)


def until(met, seconds: float = 10.0) -> bool:
    """Waits for a condition; False when it is not met in time."""
    end = time.monotonic() + seconds
    while not met() and time.monotonic() < end:
        time.sleep(0.01)
    return met()


def test_users_with_something_new_sleep_once_nobody_talks():
    memory = new_memory()
    for user in ("ada", "bob"):
        memory.observe("I live in Leeds.", user)
    with IdleSleeper(memory, after_seconds=0.05) as idle:
        assert until(lambda: len(idle.reports) == 2)
    assert {r.outcome for r in idle.reports.values()} == {"committed"}
    assert memory.status("ada")["levels"]["slow"] == 1
    assert len(memory.versions("bob")) == 2
    assert not idle.quiet()


def test_it_waits_while_somebody_talks():
    memory = new_memory()
    memory.observe("I live in Leeds.", "ada")
    idle = IdleSleeper(memory, after_seconds=30)
    assert not idle.quiet()
    memory.touched -= 31
    assert idle.quiet()
    memory.answer("Where do I live?", "ada")
    assert not idle.quiet()


def test_a_turn_in_between_makes_the_others_wait(monkeypatch):
    memory = new_memory()
    for user in ("ada", "bob"):
        memory.observe("I live in Leeds.", user)
    sleep = memory.sleep

    def interrupted(owner):
        report = sleep(owner)
        memory.observe("What should I cook tonight?", "ada")
        return report

    monkeypatch.setattr(memory, "sleep", interrupted)
    idle = IdleSleeper(memory, after_seconds=1)
    idle.sleep_all()
    assert len(idle.reports) == 1


def test_what_goes_wrong_is_seen_in_the_status(monkeypatch):
    memory = new_memory()
    memory.observe("I live in Leeds.", "ada")
    memory.learn("ada")

    def broken(*_):
        raise ModelError("the loss is nan before anything was written")

    monkeypatch.setattr(memory.learner, "write", broken)
    with IdleSleeper(memory, after_seconds=0.02) as idle:
        assert until(lambda: bool(idle.errors))
    assert "nan" in idle.errors[Scope(user="ada")]
    assert "nan" in memory.status("ada")["sleep_error"]
    monkeypatch.undo()
    idle.sleep_all()
    assert idle.reports == {}
    idle = IdleSleeper(memory, after_seconds=1)
    idle.sleep_all()
    assert memory.status("ada")["sleep_error"] is None


def test_whatever_a_model_raises_the_others_sleep_and_the_thread_lives(monkeypatch):
    memory = new_memory()
    for user in ("ada", "bob"):
        memory.observe("I live in Leeds.", user)
    sleep = memory.sleep

    def out_of_memory(owner):
        if owner.user == "ada":
            raise RuntimeError("CUDA out of memory")
        return sleep(owner)

    monkeypatch.setattr(memory, "sleep", out_of_memory)
    with IdleSleeper(memory, after_seconds=0.02) as idle:
        assert until(lambda: bool(idle.errors) and bool(idle.reports))
        assert idle.errors == {Scope(user="ada"): "RuntimeError: CUDA out of memory"}
        assert "out of memory" in memory.status("ada")["sleep_error"]
        monkeypatch.undo()
        memory.observe("My dog is called Biscuit.", "ada")
        assert until(lambda: Scope(user="ada") in idle.reports)
        assert idle.errors == {}


def test_what_is_no_users_failure_is_noted_and_tried_again(monkeypatch):
    memory = new_memory()
    memory.observe("I live in Leeds.", "ada")

    def broken():
        raise RuntimeError("no users just now")

    monkeypatch.setattr(memory.ledger, "scopes", broken)
    with IdleSleeper(memory, after_seconds=0.02) as idle:
        assert until(lambda: idle.error is not None)
        assert idle.error == "RuntimeError: no users just now"
        monkeypatch.undo()
        assert until(lambda: bool(idle.reports))
        assert until(lambda: idle.error is None)


def test_bad_use_is_named():
    memory = new_memory()
    with pytest.raises(InputError, match="after_seconds"):
        IdleSleeper(memory, after_seconds=0)
    idle = IdleSleeper(memory, after_seconds=5)
    idle.start()
    with pytest.raises(InputError, match="runs already"):
        idle.start()
    idle.stop()
