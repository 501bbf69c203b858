"""What `nestmem.Memory` promises, with a fake model."""

import json
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from nestmem.agent.controller import Memory
from nestmem.agent.fakes import EchoLearner, ReplayLearner, ScriptedLLM
from nestmem.errors import BaseChanged, InputError, LLMError
from nestmem.store import Ledger, Scope, WeightVersion

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
PAIR = '{"pairs": [{"question": "What did I run yesterday?", "answer": "my first marathon"}]}'


def open_memory(path=":memory:", **kwargs) -> Memory:
    kwargs.setdefault("learner", EchoLearner())
    return Memory(Ledger(path), **kwargs)


def head(memory: Memory, user: str = "default") -> WeightVersion:
    version = memory.ledger.head(Scope(user=user))
    assert version is not None
    return version


def digest_now(memory: Memory) -> str:
    """Of the weights that answer, whatever the ledger says."""
    assert memory.learner is not None
    return memory.learner.digest(memory._weights(Scope())[0])


def active(memory: Memory, user: str = "default") -> dict[str, str | None]:
    return {m.key: m.answer for m in memory.ledger.memories(Scope(user=user))}


def test_what_is_observed_is_learned_and_answered_in_every_arm():
    memory = open_memory()
    [event] = memory.observe("My dog is called Biscuit.")
    report = memory.learn()
    assert (report.memories, report.updates, report.learned) == (1, 1, ("your dog's name is Biscuit",))
    assert memory.answer("What is my dog's name?", arm="none").spoke == "none"
    for arm in ("text", "weights", "both"):
        answer = memory.answer("What is my dog's name?", arm=arm)
        assert (answer.spoke, answer.sources) == (arm, [event])
        assert "Biscuit" in answer.text
    assert memory.answer("What is my dog's name?", arm="weights").version == report.version
    assert memory.answer("What is my cat's name?").spoke == "none"


def test_observe_asks_no_model_and_is_durable(tmp_path):
    llm = ScriptedLLM([LLMError("down")])
    learner = EchoLearner()
    memory = open_memory(tmp_path / "m.db", learner=learner, llm=llm)
    ids = memory.observe(
        [{"role": "user", "content": "I live in Leeds."}, {"role": "assistant", "content": "Nice."}]
    )
    assert llm.calls == 0
    assert not learner.writes
    raw = sqlite3.connect(tmp_path / "m.db")
    assert [row[0] for row in raw.execute("SELECT id FROM event ORDER BY seq")] == ids


def test_a_restart_in_the_middle_loses_nothing(tmp_path):
    path = tmp_path / "m.db"
    with open_memory(path) as memory:
        memory.observe("I live in Leeds.")
        digest = memory.learn().digest
        memory.observe("My dog is called Biscuit.")
    with open_memory(path) as memory:
        assert memory.status()["pending"] == 1
        assert memory.answer("Where do I live?", arm="weights").text == "Leeds"
        assert head(memory).digest == digest
        memory.learn()
        assert memory.answer("What is my dog's name?", arm="weights").text == "Biscuit"


def test_two_users_do_not_see_each_other_and_learn_in_one_batch():
    learner = EchoLearner()
    memory = open_memory(learner=learner)
    [theirs] = memory.observe("My dog is called Biscuit.", "ada")
    memory.observe("My dog is called Rook.", "bob")
    reports = memory.learn_many(["ada", "bob"])
    assert len(learner.writes) == 1
    assert [r.updates for r in reports] == [1, 1]
    assert memory.answer("What is my dog's name?", "ada", arm="weights").text == "Biscuit"
    assert memory.answer("What is my dog's name?", "bob", arm="weights").text == "Rook"
    assert memory.answer("What is my dog's name?", "carl").spoke == "none"
    with pytest.raises(InputError, match="no event or memory"):
        memory.forget(theirs, "bob")
    with pytest.raises(InputError):
        memory.why(theirs, "bob")


def test_an_update_supersedes_and_the_past_can_be_asked_for():
    memory = open_memory()
    memory.observe("I live in Leeds.", occurred_at=START)
    memory.learn()
    memory.observe("I moved to York.", occurred_at=START + timedelta(days=30))
    assert memory.learn().superseded == 1
    assert memory.answer("Where do I live?", arm="weights").text == "York"
    assert active(memory) == {"self/home_city": "York"}
    [then] = memory.ledger.memories(Scope(), at=START + timedelta(days=1))
    assert then.answer == "Leeds"
    assert then.valid_to == START + timedelta(days=30)


def test_an_answer_without_a_note_leaves_no_trace():
    memory = open_memory()
    memory.observe("My dog is called Biscuit.")
    memory.learn()
    for arm in ("text", "weights", "both"):
        assert "Biscuit" in memory.answer("What is my dog's name?", arm=arm, note=False).text
    assert memory.ledger.uses(Scope()) == {}
    assert not memory._live._given
    memory.answer("What is my dog's name?", arm="weights")
    assert [use.uses for use in memory.ledger.uses(Scope()).values()] == [1]
    assert memory._live._given


def test_an_older_statement_that_arrives_later_changes_nothing_now():
    memory = open_memory()
    memory.observe("I moved to York.", occurred_at=START + timedelta(days=30))
    memory.learn()
    before = head(memory).digest
    memory.observe("I live in Leeds.", occurred_at=START)
    memory.learn()
    assert active(memory) == {"self/home_city": "York"}
    assert head(memory).digest == before


def test_a_correction_is_resolved_across_messages_and_falls_with_what_it_corrects():
    memory = open_memory()
    [first, second] = memory.observe(["I live in Leeds.", "Sorry, I meant York."])
    memory.learn()
    assert active(memory) == {"self/home_city": "York"}
    memory.forget(first)
    assert active(memory) == {}
    assert head(memory).update_ids == ()
    assert [e.id for e in memory.ledger.events(Scope())] == [second]


def test_what_no_longer_holds_is_in_no_half():
    memory = open_memory()
    memory.observe(["I'm allergic to peanuts.", "I'm allergic to cats."])
    memory.learn()
    memory.observe("I'm no longer allergic to peanuts.")
    memory.learn()
    assert active(memory) == {"self/allergy/cats": "cats", "self/allergy/peanuts": None}
    assert memory.answer("What am I allergic to?", arm="weights").text == "cats"


@pytest.mark.parametrize("source", ["tool", "web"])
def test_what_a_tool_or_a_page_says_is_recalled_and_never_learned(source):
    memory = open_memory()
    [event] = memory.observe("My dog is called Biscuit.", source=source)
    report = memory.learn()
    assert (report.memories, report.updates, report.skipped) == (0, 0, 1)
    assert memory.recall("dog").items[0].sources == (event,)
    memory.observe(
        [{"role": "assistant", "content": "I live in Leeds."}, {"role": "tool", "content": "I live in Rome."}]
    )
    assert memory.learn().memories == 0


WRITERS = [
    lambda: open_memory(llm=ScriptedLLM([PAIR])),
    lambda: open_memory(
        learner=EchoLearner(writer=lambda s: [("What did I run yesterday?", "my first marathon")])
    ),
]


@pytest.mark.parametrize("make", WRITERS)
def test_a_writer_turns_open_statements_into_questions(make):
    memory = make()
    memory.observe("Yesterday I ran my first marathon.")
    assert memory.learn().updates == 1
    assert memory.answer("What did I run yesterday?", arm="weights").text == "my first marathon"


def test_a_writer_that_invents_is_not_believed():
    memory = open_memory(
        llm=ScriptedLLM(['{"pairs": [{"question": "Where do I live?", "answer": "Paris"}]}'])
    )
    memory.observe("Yesterday I ran my first marathon.")
    report = memory.learn()
    assert (report.updates, report.waiting) == (0, 1)


@pytest.mark.parametrize(
    "junk", ["As a language model, no.", '{"pairs": 3}', "", LLMError("connection refused")]
)
def test_an_endpoint_that_is_down_or_talks_junk_loses_nothing(junk):
    memory = open_memory(llm=ScriptedLLM([junk, junk, PAIR]))
    memory.observe("My dog is called Biscuit. Yesterday I ran my first marathon.")
    for attempt in (1, 2):
        report = memory.learn()
        assert report.failed == 1
        assert report.errors
        status = memory.status()
        assert (status["pending"], status["failed"], len(status["errors"])) == (1, 1, 1)
        assert memory.ledger.pending(Scope())[0].attempts == attempt
        assert active(memory) == {"dog/name": "Biscuit"}
    assert memory.learn().updates == 1
    assert memory.status()["pending"] == 0
    assert set(active(memory).values()) == {"Biscuit", "my first marathon"}


def test_the_endpoint_answers_the_text_arm():
    memory = open_memory(llm=ScriptedLLM(["It is Biscuit."]))
    [event] = memory.observe("My dog is called Biscuit.")
    memory.learn()
    answer = memory.answer("What is my dog's name?", arm="text")
    assert (answer.text, answer.by, answer.sources) == ("It is Biscuit.", "llm", [event])
    assert memory.answer("What is my dog's name?", arm="both").spoke == "both"


def test_without_a_model_the_stored_answer_is_read_out():
    memory = Memory(Ledger(":memory:"))
    [one, two] = memory.observe(["My dog is called Biscuit.", "The garden gate squeaks whenever rain comes."])
    memory.learn()
    answer = memory.answer("What is the name of my dog?")
    assert (answer.text, answer.spoke, answer.by, answer.sources) == ("Biscuit", "text", "extract", [one])
    line = memory.answer("When does the garden gate squeak?")
    assert "squeaks whenever rain comes" in line.text
    assert line.sources == [two]
    assert memory.answer("Who won the cup?").text == "I don't know."


def test_a_model_that_comes_later_learns_what_was_stored(tmp_path):
    path = tmp_path / "m.db"
    with Memory(Ledger(path)) as memory:
        memory.observe("I live in Leeds.")
        memory.learn()
    with open_memory(path) as memory:
        assert memory.learn().updates == 1
        assert memory.answer("Where do I live?", arm="weights").text == "Leeds"


def test_another_model_learns_the_stored_examples_again(tmp_path):
    path = tmp_path / "m.db"
    with open_memory(path) as memory:
        memory.observe(["I live in Leeds.", "My dog is called Biscuit."])
        memory.learn()
    with (
        Memory(Ledger(path, read_only=True), learner=EchoLearner("other")) as memory,
        pytest.raises(BaseChanged, match="read-only"),
    ):
        memory.answer("Where do I live?", arm="weights")
    with open_memory(path, learner=EchoLearner("other")) as memory:
        assert memory.status()["weights_current"] is False
        assert memory.answer("Where do I live?", arm="weights").text == "Leeds"
        assert head(memory).learner == EchoLearner("other").fingerprint
        assert len(head(memory).update_ids) == 2
        assert {u.learner for u in memory.ledger.updates(Scope())} == {head(memory).learner}


def test_forgetting_without_the_model_is_made_good_when_it_is_back(tmp_path):
    path = tmp_path / "m.db"
    with open_memory(path) as memory:
        memory.observe(["I live in Leeds.", "My dog is called Biscuit."])
        memory.learn()
    with Memory(Ledger(path)) as memory:
        memory.forget({"text": "where I live"})
    with open_memory(path) as memory, open_memory() as other:
        other.observe("My dog is called Biscuit.")
        other.learn()
        assert digest_now(memory) == head(other).digest


@pytest.mark.parametrize("make", [EchoLearner, ReplayLearner])
@pytest.mark.parametrize("other", [None, EchoLearner("other")], ids=["no model", "another model"])
def test_what_holds_again_is_written_when_the_model_is_back(tmp_path, make, other):
    path = tmp_path / "m.db"
    told = ["I live in Leeds.", "My dog is called Biscuit.", "I moved to York."]
    with open_memory(path, learner=make()) as memory:
        for day, text in enumerate(told):
            *_, york = memory.observe(text, occurred_at=START + timedelta(days=day))
            memory.learn()
    with Memory(Ledger(path), learner=other) as memory:
        memory.forget(york)
        if other:
            assert memory.answer("Where do I live?", arm="weights").text == "Leeds"
    with open_memory(path, learner=make()) as memory, open_memory(learner=make()) as life:
        for day, text in enumerate(told[:2]):
            life.observe(text, occurred_at=START + timedelta(days=day))
            life.learn()
        assert memory.answer("Where do I live?", arm="weights").text == "Leeds"
        assert digest_now(memory) == head(memory).digest == head(life).digest
        assert memory.status()["weights_current"] is True


def test_what_holds_again_is_written_where_there_were_no_weights():
    memory = open_memory()
    memory.observe("I work at Acme.", occurred_at=START)
    [quit_] = memory.observe("I quit my job at Acme.", occurred_at=START + timedelta(hours=1))
    memory.learn()
    memory.forget(quit_)
    assert memory.answer("Which company do I work for?", arm="weights").text == "Acme"


def test_a_text_only_ledger_is_learned_on_first_use_of_a_model(tmp_path):
    path = tmp_path / "m.db"
    with Memory(Ledger(path)) as memory:
        memory.observe("I live in Leeds.")
        memory.learn()
    with Memory(Ledger(path, read_only=True), learner=EchoLearner()) as memory:
        assert memory.answer("Where do I live?", arm="weights").spoke == "none"
    with open_memory(path) as memory:
        assert memory.status()["weights_current"] is False
        assert memory.answer("Where do I live?", arm="weights").text == "Leeds"
        assert memory.status()["weights_current"] is True


def test_a_forget_between_reading_the_head_and_its_updates_is_no_damage(tmp_path):
    path = tmp_path / "m.db"
    with open_memory(path) as memory:
        [_, code] = memory.observe(["I live in Leeds.", "My locker code is 4471."])
        memory.learn()
    one, two = open_memory(path), open_memory(path)
    assert one._book is not None
    parts = one._book._parts

    def interrupted(scope, update_ids):
        if two.ledger.count(Scope()) == 2:
            two.forget(code)
        return parts(scope, update_ids)

    one._book._parts = interrupted
    assert one.answer("Where do I live?", arm="weights").text == "Leeds"


def test_why_leads_from_weights_to_words_and_back():
    memory = open_memory()
    [event] = memory.observe("I live in Leeds.")
    memory.learn()
    [record] = memory.ledger.memories(Scope())
    [update] = memory.ledger.updates(Scope())
    for id_ in (event, record.id, update.id, head(memory).id):
        why = memory.why(id_)
        assert why.sources == [event]
        assert [s.kind for s in why.steps] == ["event", "memory", "update", "version"]
    with pytest.raises(InputError, match="nothing of user"):
        memory.why("mem_none")


def test_forget_by_every_selector():
    said = ["I live in Leeds.", "My dog is called Biscuit.", "My locker code is 4471."]
    for selector, left in (
        ({"text": "my locker code"}, {"self/home_city", "dog/name"}),
        ({"text": "that my dog is called Biscuit"}, {"self/home_city", "self/locker_code"}),
        ({"text": "what my dog is called"}, {"self/home_city", "self/locker_code"}),
        ({"text": "the name of my dog"}, {"self/home_city", "self/locker_code"}),
        ({"session": "default"}, set()),
        ("everything", set()),
    ):
        memory = open_memory()
        memory.observe(said)
        memory.learn()
        memory.forget(selector)
        assert set(active(memory)) == left, selector
        assert len(head(memory).update_ids) == len(left)


def test_forget_names_the_candidates_instead_of_guessing():
    memory = open_memory()
    memory.observe(["My sister Anna lives in Leeds.", "My brother Tom lives in Leeds."])
    memory.learn()
    with pytest.raises(InputError, match="match 'Leeds'"):
        memory.forget({"text": "Leeds"})
    with pytest.raises(InputError, match="nothing that was said"):
        memory.forget({"text": "zeppelins"})
    for bad in ("", 3, {"txt": "x"}, {"text": " "}, [], {"session": "none"}):
        with pytest.raises(InputError):
            memory.forget(bad)
    assert memory.status()["events"] == 2


def test_a_dry_run_lists_and_removes_nothing():
    memory = open_memory()
    [event] = memory.observe("My locker code is 4471.")
    memory.learn()
    before = head(memory)
    receipt = memory.forget(event, dry_run=True)
    assert receipt.removed == {"events": 1, "memories": 1, "updates": 1, "versions": 1}
    assert "4471" in receipt.environment["would_remove"][0]
    assert head(memory) == before
    assert not memory.ledger.receipts(Scope())


def test_a_receipt_holds_no_text_and_an_assistants_echo_goes_too(tmp_path):
    path = tmp_path / "m.db"
    memory = open_memory(path)
    memory.observe(["My locker code is zebra4471.", {"role": "assistant", "content": "Noted: zebra4471."}])
    memory.learn()
    receipt = memory.forget({"text": "my locker code"})
    assert receipt.removed["events"] == 2
    assert receipt.digest_before != receipt.digest_after
    memory.close()
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"zebra4471" not in raw


def test_a_failure_in_the_middle_changes_nothing(monkeypatch):
    memory = open_memory()
    memory.observe("I live in Leeds.")

    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(memory.ledger, "commit_version", broken)
    with pytest.raises(RuntimeError):
        memory.learn()
    monkeypatch.undo()
    assert active(memory) == {}
    assert memory.status()["pending"] == 1
    assert memory.learn().updates == 1
    assert memory.answer("Where do I live?", arm="weights").text == "Leeds"


def test_a_version_can_be_restored_and_stays_restored():
    memory = open_memory()
    memory.observe("I live in Leeds.")
    memory.learn()
    old = head(memory)
    memory.observe("My dog is called Biscuit.")
    memory.learn()
    memory.restore(old.id)
    assert head(memory).digest == old.digest
    assert memory.answer("What is my dog's name?", arm="weights").spoke == "none"
    memory.observe("I'm allergic to cats.")
    memory.learn()
    assert memory.answer("What is my dog's name?", arm="weights").spoke == "none"
    assert memory.answer("What am I allergic to?", arm="weights").text == "cats"
    assert len(memory.versions()) == 4
    with pytest.raises(InputError, match="no weight version"):
        memory.restore("ver_none")


def test_learning_nothing_new_leaves_a_restored_version_as_it_is():
    memory = open_memory()
    memory.observe("I live in Leeds.")
    memory.learn()
    old = head(memory)
    memory.observe("I live in Ghent.")
    memory.learn()
    memory.restore(old.id)
    memory.learn()
    assert head(memory).digest == old.digest
    assert memory.answer("Where do I live?", arm="weights").text == "Leeds"
    assert len(memory.versions()) == 3


@pytest.mark.parametrize("learner", [EchoLearner, ReplayLearner])
def test_export_and_import_give_the_same_memory(tmp_path, learner):
    memory = open_memory(learner=learner())
    memory.observe(["I live in Leeds.", "My dog is called Biscuit."], occurred_at=START)
    memory.observe("Sorry, I meant Fluff.", Scope(session="b"), occurred_at=START + timedelta(hours=1))
    memory.learn()
    memory.observe("I moved to York.", Scope(session="c"), occurred_at=START + timedelta(hours=2))
    file = tmp_path / "out.jsonl"
    memory.export(file)
    other = open_memory(learner=learner())
    assert other.import_(file, "bob") == 4
    assert other.import_(file, "bob") == 0
    memory.learn()
    other.learn("bob")
    assert other.recall("Where do I live?", "bob").text == memory.recall("Where do I live?").text
    assert active(other, "bob") == active(memory)
    assert head(other, "bob").digest == head(memory).digest or learner is ReplayLearner


def test_what_was_superseded_before_an_export_is_restored_by_a_forget_after_the_import(tmp_path):
    memory = open_memory()
    memory.observe("I live in Leeds.", occurred_at=START)
    [moved] = memory.observe("I moved to York.", occurred_at=START + timedelta(hours=2))
    memory.learn()
    memory.export(tmp_path / "out.jsonl")
    other = open_memory()
    other.import_(tmp_path / "out.jsonl")
    for kind in ("supersedes", "depends_on", "derived_from"):
        assert other.ledger.edges(Scope(), kind=kind) == memory.ledger.edges(Scope(), kind=kind)
    other.forget([moved])
    assert list(active(other).values()) == ["Leeds"]


LONE = "\ud800"


@pytest.mark.parametrize(
    ("line", "change"),
    [
        (2, {"id": None}),
        (2, {"id": ["x"]}),
        (2, {"id": ""}),
        (2, {"session": 3}),
        (2, {"session": ""}),
        (2, {"role": None}),
        (2, {"meta": "text"}),
        (2, {"meta": {"n": float("nan")}}),
        (2, {"meta": {"idempotency_key": [1]}}),
        (2, {"source": "rumour"}),
        (2, {"content": LONE}),
        (2, {"learned": "yes"}),
        (2, {"occurred_at": {}}),
        (2, {"type": "rumour"}),
        (2, {"type": "depends_on"}),
        (2, {"type": "depends_on", "src": "a", "dst": 3}),
        (3, {"id": ["x"]}),
        (3, {"status": "maybe"}),
        (3, {"status": None}),
        (3, {"span": 3}),
        (3, {"span": [0, 10**30]}),
        (3, {"span": [0.5, 2]}),
        (3, {"span": [0]}),
        (3, {"valid_from": None}),
        (3, {"believed_to": "soon"}),
        (3, {"answer": ["x"]}),
        (3, {"text": LONE}),
        (3, {"event_id": "ev_none"}),
        (3, {"more": 1}),
        (3, None),
    ],
)
def test_a_broken_line_of_an_import_is_named(tmp_path, line, change):
    memory = open_memory()
    memory.observe("I live in Leeds.", occurred_at=START)
    memory.learn()
    file = tmp_path / "out.jsonl"
    memory.export(file)
    lines = file.read_text().splitlines()
    if change is None:
        lines.insert(line - 1, lines[line - 1])
        line += 1
    else:
        lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | change)
    file.write_text("\n".join(lines))
    other = open_memory()
    with pytest.raises(InputError, match=f"line {line}: "):
        other.import_(file)
    assert other.status()["events"] == 0


def test_import_takes_all_or_nothing(tmp_path):
    memory = open_memory()
    memory.observe(["I live in Leeds.", "My dog is called Biscuit."])
    file = tmp_path / "out.jsonl"
    memory.export(file)
    lines = file.read_text().splitlines()
    broken = {
        "cut": "\n".join([*lines[:2], lines[2][:20]]),
        "foreign": json.dumps({"role": "user", "content": "hi"}),
        "newer": lines[0].replace('"version": 1', '"version": 9'),
        "bare": "\n".join([lines[0], '{"type": "event", "id": "x"}']),
    }
    other = open_memory()
    for text in broken.values():
        file.write_text(text)
        with pytest.raises(InputError):
            other.import_(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        other.import_(file)
    with pytest.raises(InputError, match="cannot be read"):
        other.import_(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cannot be written"):
        memory.export(tmp_path / "no" / "folder.jsonl")
    assert other.status()["events"] == 0


def test_a_chat_turn_learns_answers_and_forgets():
    memory = open_memory()
    assert memory.respond("My dog is called Biscuit.").text == "Noted: your dog's name is Biscuit."
    assert memory.respond("Thanks a lot!").did == "listened"
    reply = memory.respond("What is my dog's name?")
    assert reply.did == "answered"
    assert "Biscuit" in reply.text
    assert memory.respond("Please forget my dog's name.").did == "forgot"
    assert "Biscuit" not in memory.respond("What is my dog's name?").text
    assert memory.respond("Please forget my shoe size.").did == "listened"
    assert "".join(memory.stream("I live in Leeds.")) == "Noted: where you live: Leeds."


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.observe(""), "empty"),
        (lambda m: m.observe([]), "no message"),
        (lambda m: m.observe("x" * 1_000_001), "at most 1,000,000"),
        (lambda m: m.observe("bad \ud800 text"), "UTF-8"),
        (lambda m: m.observe({"role": "wizard", "content": "hi"}), "wizard"),
        (lambda m: m.observe({"role": "user", "content": 3}), "expected a text"),
        (lambda m: m.observe({"role": "user", "content": "hi", "meta": {"a": {1}}}), "message 1: meta"),
        (lambda m: m.observe("hi", occurred_at="yesterdayish"), "no time"),
        (lambda m: m.observe("hi", source="rumour"), "rumour"),
        (lambda m: m.observe("hi", 3), "scope"),
        (lambda m: m.observe(["fine", {"role": "user", "content": " "}]), "message 2"),
        (lambda m: m.recall(" "), "recall"),
        (lambda m: m.recall("x", budget_tokens=0), "budget_tokens"),
        (lambda m: m.answer("x", arm="left"), "arm"),
    ],
)
def test_bad_input_is_one_clear_error_and_stores_nothing(call, says):
    memory = open_memory()
    with pytest.raises(InputError, match=says):
        call(memory)
    assert memory.status()["events"] == 0


def test_a_message_of_a_megabyte_is_stored_and_learned_from():
    memory = open_memory()
    memory.observe("I live in Leeds. " + "x" * 999_000)
    assert memory.learn().updates == 1


def test_missing_and_disordered_times():
    memory = open_memory()
    memory.observe(
        [
            {"role": "user", "content": "I moved to York.", "timestamp": "2026-03-02T10:00:00Z"},
            {"role": "user", "content": "I live in Leeds.", "timestamp": "2026-03-01T10:00:00"},
            {"role": "user", "content": "My dog is called Biscuit."},
        ]
    )
    memory.learn()
    assert active(memory) == {"self/home_city": "York", "dog/name": "Biscuit"}


def test_two_processes_that_learn_at_once_learn_everything_once(tmp_path):
    path = tmp_path / "m.db"
    one, two = open_memory(path), open_memory(path)
    one.observe("I live in Leeds.")
    plan = one._plan

    def interrupted(lessons):
        changes = plan(lessons)
        if two.status()["pending"]:
            two.learn()
        return changes

    one._plan = interrupted
    assert one.learn().memories == 0
    assert len(one.ledger.memories(Scope(), active_only=False)) == 1
    assert one.answer("Where do I live?", arm="weights").text == "Leeds"


def test_a_memory_that_keeps_changing_is_learned_under_the_lock(tmp_path):
    path = tmp_path / "m.db"
    one, two = open_memory(path), open_memory(path)
    one.observe("I live in Leeds.")
    plan, cities = one._plan, iter(["Rome", "Oslo", "Cork", "Graz"])

    def interrupted(lessons):
        changes = plan(lessons)
        if not one.ledger._connection.raw.in_transaction:
            two.observe(f"I moved to {next(cities)}.")
        return changes

    one._plan = interrupted
    assert one.learn().memories == 4
    assert one.answer("Where do I live?", arm="weights").text == "Cork"


@pytest.mark.parametrize("learned_by", [None, EchoLearner("other")], ids=["text only", "another model"])
def test_what_is_forgotten_while_a_model_learns_stays_forgotten(tmp_path, learned_by):
    path = tmp_path / "m.db"
    with Memory(Ledger(path), learner=learned_by) as memory:
        [_, secret] = memory.observe(["I live in Leeds.", "My locker code is 4471."])
        memory.learn()
    one, two = open_memory(path), Memory(Ledger(path))
    plan = one._plan

    def interrupted(lessons):
        changes = plan(lessons)
        if two.ledger.count(Scope()) == 2:
            two.forget(secret)
        return changes

    one._plan = interrupted
    if learned_by is None:
        one.learn()
    assert one.answer("What is my locker code?", arm="weights").text == "I don't know."
    assert one.answer("Where do I live?", arm="weights").text == "Leeds"
    assert not any("4471" in str(u.examples) for u in one.ledger.updates(Scope()))
    one.close()
    two.close()
    assert b"4471" not in path.read_bytes()


def test_belief_never_ends_before_it_began():
    now = [START]
    memory = Memory(Ledger(":memory:", clock=lambda: now[0]), clock=lambda: now[0])
    said = [("I moved to Oslo.", 31), ("I moved to Bern.", 60), ("I live in Rome.", 0)]
    ids = []
    for day, (text, true_since) in enumerate(said):
        now[0] = START + timedelta(days=100 + day)
        ids += memory.observe(text, occurred_at=START + timedelta(days=true_since))
        memory.learn()
    memory.forget(ids[0])
    [rome] = [m for m in memory.ledger.memories(Scope(), active_only=False) if m.answer == "Rome"]
    assert rome.believed_to is not None
    assert rome.believed_to >= rome.believed_from


def test_forgetting_by_text_stays_within_the_session_of_its_scope():
    memory = Memory(Ledger(":memory:"))
    memory.observe("My locker code is 4471.", Scope(session="a"))
    memory.observe("Nothing here.", Scope(session="b"))
    memory.learn()
    with pytest.raises(InputError, match="matches"):
        memory.forget({"text": "my locker code"}, Scope(session="b"))
    assert memory.forget({"text": "my locker code"}, Scope(session="a")).removed["memories"] == 1


def test_what_is_excluded_may_come_from_an_iterator():
    memory = Memory(Ledger(":memory:"))
    [event] = memory.observe("I live in Leeds.")
    memory.learn()
    assert memory.answer("Where do I live?", exclude=iter([event])).text == "I don't know."
    with pytest.raises(InputError, match="budget_tokens"):
        memory.answer("Where do I live?", budget_tokens=0)


def test_what_the_writer_wrote_is_not_kept_in_the_process():
    memory = open_memory(learner=EchoLearner(writer=lambda s: [("What did I run?", "my first marathon")]))
    memory.observe("Yesterday I ran my first marathon.")
    memory.learn()
    assert memory._drafts == {}


def test_a_forget_while_another_learns_is_no_damage(tmp_path):
    path = tmp_path / "m.db"
    with open_memory(path) as memory:
        [_, code] = memory.observe(["I live in Leeds.", "My locker code is 4471."])
        memory.learn()
    one, two = open_memory(path), open_memory(path)
    one.observe("My dog is called Biscuit.")
    assert one._book is not None
    parts = one._book._parts

    def interrupted(scope, update_ids):
        if two.ledger.count(Scope()) == 3:
            two.forget(code)
        return parts(scope, update_ids)

    one._book._parts = interrupted
    assert one.learn().updates == 1
    assert active(one) == {"self/home_city": "Leeds", "dog/name": "Biscuit"}
