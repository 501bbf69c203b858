"""nestmem's own memory as systems: the laws of a system, what each level holds, and whose weights a placebo has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nestmem.agent import study
from nestmem.agent.controller import Memory
from nestmem.agent.fakes import EchoLearner
from nestmem.agent.recall import count_tokens
from nestmem.embedders.fakes import HashEmbedder
from nestmem.errors import InputError
from nestmem.evals.datasets.base import Question, Stream, Turn
from nestmem.evals.systems import ours, told
from nestmem.evals.systems.base import Reading, Reply, Setup
from nestmem.store import Ledger, Scope

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
SAID = (
    ("s0", "user", "My dog is called Biscuit."),
    ("s0", "assistant", "What a name for a dog."),
    ("s1", "user", "I live in Leeds."),
    ("s2", "user", "My sister is called Maren."),
    ("s2", "assistant", "Say hello to her."),
)
DOG, HOME, SISTER = "What is my dog's name?", "Where do I live?", "What is my sister's name?"
HOWS = {kind.name: kind.make.keywords["how"] for kind in ours.KINDS if kind.name != "ours-text"}
HOWS["ours-text"] = ours.How(arm="text", learn=False)
OWN = [name for name in HOWS if name != "ours-placebo"]


def meant() -> dict[str, str]:
    """Ways of asking for the facts told here -> the question that is learned."""
    with Memory(Ledger(":memory:")) as memory:
        memory.observe([text for _, role, text in SAID if role == "user"])
        memory.learn()
        return {
            way: record.question or ""
            for record in memory.ledger.memories(Scope())
            for way in (*study.ways(record)[0], study.ways(record)[1])
        }


class Apt(EchoLearner):
    """Learns by heart, and knows the ways of asking that the rules know."""

    def _answer(self, chat, state):
        asked = chat[-1]["content"]
        return super()._answer([*chat[:-1], {"role": "user", "content": MEANT.get(asked, asked)}], state)


class Quoting:
    """A reader that says the context."""

    name = "quoting"

    def read(self, question: str, context: str, *, at: datetime | None) -> Reading:
        return Reading(text=context, tokens_in=len(context))

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        return None


MEANT = meant()


def turns(said=SAID, *, dated: bool = True) -> tuple[Turn, ...]:
    return tuple(
        Turn(
            id=f"t{number}",
            session=session,
            role=role,
            text=text,
            at=AT + timedelta(days=int(session[1]), minutes=number) if dated else None,
        )
        for number, (session, role, text) in enumerate(said)
    )


def stream(name: str, said=SAID, **kwargs) -> Stream:
    spoken = turns(said, **kwargs)
    asked = Question(id="q", text=DOG, kind="fact", after=len(spoken), answers=("Biscuit",))
    return Stream(id=name, turns=spoken, questions=(asked,))


DONOR = stream("bob", (("s0", "user", "My dog is called Rook."), ("s1", "user", "I live in York.")))


def setup(folder: Path, *, donor: Stream | None = DONOR, **kwargs) -> Setup:
    folder.mkdir(parents=True, exist_ok=True)
    return Setup(folder=folder, key=None, donor=donor, reader=Quoting(), embedder=None, **kwargs)


def fake(folder: Path, name: str, **kwargs) -> ours.Ours:
    """The system `name` with a model that learns by heart."""
    how = HOWS[name]
    return ours.Ours(setup(folder, **kwargs), how, learner=None if name == "ours-text" else Apt())


def tell(system: ours.Ours, spoken: tuple[Turn, ...], scope: str = "ada", *, asking: bool = False) -> None:
    for place, turn in enumerate(spoken):
        system.observe(turn, turn.at, scope)
        if place + 1 == len(spoken) or spoken[place + 1].session != turn.session:
            system.settle(scope)
            if asking:
                [system.answer(question, None, scope) for question in (DOG, HOME, SISTER) * 3]


def replies(system: ours.Ours, scope: str = "ada") -> list[Reply]:
    return [system.answer(question, AT, scope) for question in (DOG, HOME, SISTER)]


def texts(system: ours.Ours, scope: str = "ada") -> str:
    return " | ".join(reply.reading.text or "" for reply in replies(system, scope))


def levels(system: ours.Ours, scope: str = "ada") -> dict[str, int]:
    found = system.told.memory.status(scope)["levels"]
    return {level: count for level, count in found.items() if count}


@pytest.mark.parametrize("name", HOWS)
def test_the_same_calls_give_the_same_replies_and_answers_change_nothing(tmp_path, name):
    systems = [fake(tmp_path / str(number), name) for number in range(3)]
    for number, system in enumerate(systems):
        tell(system, turns(), asking=number == 2)
    first = replies(systems[0])
    assert replies(systems[0]) == first == replies(systems[1]) == replies(systems[2])
    assert systems[0].probe(DOG, ("Biscuit", "Rook"), "ada") == systems[2].probe(
        DOG, ("Biscuit", "Rook"), "ada"
    )
    for system in systems:
        system.close()


@pytest.mark.parametrize("name", OWN)
def test_it_answers_from_its_own_scope_alone(tmp_path, name):
    system, alone = fake(tmp_path / "a", name), fake(tmp_path / "b", name)
    for mine, theirs in zip(
        turns(), turns([(s, r, t.replace("Biscuit", "Rook")) for s, r, t in SAID]), strict=True
    ):
        system.observe(mine, mine.at, "ada")
        system.observe(theirs, theirs.at, "bob")
        alone.observe(mine, mine.at, "ada")
    system.settle("ada")
    system.settle("bob")
    alone.settle("ada")
    assert replies(system) == replies(alone)
    assert "Biscuit" in texts(system)
    assert "Rook" in texts(system, "bob")
    assert "Biscuit" not in texts(system, "bob")
    assert "Biscuit" not in texts(system, "nobody")


@pytest.mark.parametrize("name", OWN)
def test_what_is_forgotten_is_gone(tmp_path, name):
    system, without = fake(tmp_path / "a", name), fake(tmp_path / "b", name)
    tell(system, turns())
    tell(without, tuple(turn for turn in turns() if turn.id != "t0"))
    assert "Biscuit" in texts(system)
    system.forget(["t0", "t0", "never told"], "ada")
    assert "Biscuit" not in texts(system)
    assert all("t0" not in (*reply.shown, *(hit.turn for hit in reply.ranked)) for reply in replies(system))
    assert texts(system) == texts(without)
    assert system.probe(DOG, ("Biscuit", "Rook"), "ada") == without.probe(DOG, ("Biscuit", "Rook"), "ada")
    system.forget(["t0"], "ada")
    kept = system.bytes("ada")
    raw = (tmp_path / "a" / "memory.db").read_bytes()
    assert kept == len(raw)
    assert b"Biscuit" not in raw
    assert b"Leeds" in raw


def test_text_is_what_memory_recalls(tmp_path):
    system = fake(tmp_path, "ours-text", budget_tokens=25, depth=3)
    tell(system, turns())
    reply = system.answer(DOG, AT, "ada")
    context = system.told.memory.recall(DOG, "ada", budget_tokens=25)
    assert reply.context == context.text == reply.reading.text
    assert not context.whole
    assert set(reply.shown) < {turn.id for turn in turns()}
    assert reply.ranked[0].turn == "t0"
    assert len(reply.ranked) == 3
    assert [hit.score for hit in reply.ranked] == sorted((hit.score for hit in reply.ranked), reverse=True)
    assert {hit.session for hit in reply.ranked} <= {"s0", "s1", "s2"}
    assert system.probe(DOG, ("Biscuit",), "ada") is None
    assert reply.spoke is None


def test_the_embedder_of_the_run_makes_vectors_in_settle(tmp_path):
    given = Setup(folder=tmp_path, key=None, donor=None, reader=Quoting(), embedder=HashEmbedder())
    system = ours.make_text(given)
    tell(system, turns())
    ledger = system.told.memory.ledger
    assert ledger.missing_vectors(Scope(user="ada"), given.embedder.name, given.embedder.dim) == []
    system.close()
    (tmp_path / "without").mkdir()
    bare = Setup(
        folder=tmp_path / "without",
        key=None,
        donor=None,
        reader=Quoting(),
        embedder=HashEmbedder(),
    )
    assert ours.make_text(bare, embedder="none").told.memory.embedder is None
    with pytest.raises(InputError, match="embedder="):
        ours.make_text(bare, embedder="minilm")


def test_rules_alone_mark_what_no_longer_holds(tmp_path):
    said = (*SAID, ("s3", "user", "I moved to York."))
    plain, marked = (ours.make_text(setup(tmp_path / str(learn)), learn=learn) for learn in (0, 1))
    for system in (plain, marked):
        tell(system, turns(said))
    assert "no longer true" not in plain.answer(HOME, AT, "ada").context
    assert "I live in Leeds. (no longer true since 2026-03-05)" in marked.answer(HOME, AT, "ada").context


def test_each_level_holds_what_it_says(tmp_path):
    for name, held in (
        ("ours-fast", {"fast": 3}),
        ("ours-medium", {"medium": 3}),
        ("ours-slow", {"slow": 3}),
        ("ours-weights", {"medium": 2, "fast": 1}),
    ):
        system = fake(tmp_path / name, name)
        tell(system, turns())
        assert levels(system) == held, name
        assert all(reply.spoke == "weights" for reply in replies(system)), name
    assert {name: how.sleep_every for name, how in HOWS.items() if how.sleep_every} == {
        "ours-slow": -1,
        "ours-all": 10,
    }
    how = ours.How(arm="weights", sleep_every=2)
    system = ours.Ours(setup(tmp_path / "two"), how, learner=Apt())
    tell(system, turns())
    assert levels(system) == {"slow": 2, "fast": 1}
    with pytest.raises(InputError, match="sleep_every"):
        ours.Ours(setup(tmp_path / "bad"), ours.How(arm="weights", sleep_every=-2), learner=Apt())


@pytest.mark.parametrize("name", ["ours-weights", "ours-both", "ours-medium", "ours-slow"])
def test_learning_when_asked_comes_to_the_same(tmp_path, name):
    lazy = ours.Ours(
        setup(tmp_path / "a"),
        ours.replace(HOWS[name], lazy=True),
        learner=Apt(),
    )
    eager = fake(tmp_path / "b", name)
    for system in (lazy, eager):
        tell(system, turns())
    assert lazy.told.memory.status("ada")["memories"] == 0
    assert [(r.reading, r.spoke) for r in replies(lazy)] == [(r.reading, r.spoke) for r in replies(eager)]
    assert levels(lazy) == levels(eager)


def test_both_halves_are_shown_and_ranked(tmp_path):
    system = fake(tmp_path, "ours-both")
    tell(system, turns())
    reply = system.answer(DOG, AT, "ada")
    assert "Biscuit" in (reply.reading.text or "")
    assert reply.spoke == "both"
    assert reply.context in reply.reading.prompt[0]["content"]
    assert "t0" in reply.shown
    assert reply.ranked[0].turn == "t0"


def test_a_placebo_answers_with_the_facts_of_the_donor(tmp_path):
    system = fake(tmp_path, "ours-placebo")
    tell(system, turns())
    assert system.answer(DOG, AT, "ada").reading.text == "Rook"
    assert "Biscuit" not in texts(system)
    assert system.probe(DOG, ("Rook", "Biscuit"), "ada") == [0.0, -5.0]
    assert {scope.user for scope in system.told.memory.ledger.scopes()} == {"donor/ada/bob"}
    system.forget(["t0"], "ada")
    assert system.answer(DOG, AT, "ada").reading.text == "Rook"
    alone = fake(tmp_path / "alone", "ours-placebo", donor=None)
    tell(alone, turns())
    reply = alone.answer(DOG, AT, "ada")
    assert reply.spoke == "none"
    assert "no other stream" in reply.notes[0]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_placebo_is_told_no_more_of_the_donor_than_its_user_said(tmp_path, lazy):
    how = ours.replace(HOWS["ours-placebo"], lazy=lazy)
    system = ours.Ours(setup(tmp_path), how, learner=Apt())
    assert system.answer(DOG, AT, "ada").reading.text != "Rook"
    seen = []
    for turn in turns()[:3]:
        system.observe(turn, turn.at, "ada")
        system.settle("ada")
        system.answer(DOG, AT, "ada")
        seen.append(
            [event.content for event in system.told.memory.ledger.events(Scope(user="donor/ada/bob"))]
        )
    donor = [turn.text for turn in DONOR.turns]
    assert seen == [donor[:1], donor, donor]
    # What one user said brings another no more of the donor.
    system.settle("eve")
    assert system.answer(DOG, AT, "eve").reading.text != "Rook"


class Small(Apt):
    """Reads as a small model does: it takes stored values. Keeps the chats that it was asked."""

    extractive = True

    def __init__(self, scope: float = 1.0) -> None:
        super().__init__()
        self.scope = scope
        self.asked = []

    def applies(self, chats, state):
        return [self.scope] * len(chats)

    def generate(self, chats, states, *, max_new_tokens=32):
        self.asked += chats
        return super().generate(chats, states, max_new_tokens=max_new_tokens)


NOISE = tuple(("s0", "user", f"The dog barks, what a name, what a dog, number {n}.") for n in range(30))


@pytest.mark.parametrize("budget", [60, 100, 500])
def test_a_stored_value_stands_in_the_context_and_is_paid_for(tmp_path, budget):
    learner = Small()
    system = ours.Ours(setup(tmp_path, budget_tokens=budget), HOWS["ours-both"], learner=learner)
    tell(system, turns((("s0", "user", "My dog is called Biscuit."), *NOISE)))
    learner.asked.clear()
    reply = system.answer("What is the name of my dog?", AT, "ada")
    assert reply.halves[:2] == ("by: extract", "text: Biscuit")
    assert reply.context.splitlines()[0].endswith("? Biscuit")
    assert reply.shown[0] == "t0" and "t0" not in reply.shown[1:]
    assert len(reply.context) <= 4 * budget
    # The text half asked no model: the log has the question that the weights were asked, and no more.
    assert (
        learner.asked
        == [reply.reading.prompt]
        == [[{"role": "user", "content": reply.reading.prompt[0]["content"]}]]
    )
    assert reply.reading.tokens_in == count_tokens("What is the name of my dog?")
    assert not [note for note in reply.notes if "no model" in note]


def test_where_no_model_was_asked_the_log_has_no_prompt_and_says_so(tmp_path):
    learner = Small(scope=0.0)
    system = ours.Ours(setup(tmp_path), HOWS["ours-both"], learner=learner)
    tell(system, turns())
    learner.asked.clear()
    reply = system.answer(DOG, AT, "ada")
    assert (reply.reading.text, learner.asked, reply.reading.prompt) == ("Biscuit", [], [])
    assert reply.reading.tokens_in == 0 and reply.notes[0].startswith("no model was asked")


def test_the_prompts_of_both_halves_are_in_the_log(tmp_path):
    class Both(Small):
        extractive = False

    learner = Both()
    system = ours.Ours(setup(tmp_path), HOWS["ours-both"], learner=learner)
    tell(system, turns())
    learner.asked.clear()
    reply = system.answer(DOG, AT, "ada")
    full, alone, again = learner.asked
    assert full == again and reply.reading.prompt == [*full, *alone]
    assert reply.reading.tokens_in == sum(count_tokens(m["content"]) for chat in learner.asked for m in chat)
    assert [half.split(":")[0] for half in reply.halves] == ["by", "text", "weights", "both", "scope"]


def test_a_say_of_memories_outside_the_context_is_noted(tmp_path):
    class Wrong(Small):
        extractive = False

        def generate(self, chats, states, *, max_new_tokens=32):
            return ["Leeds" if state is None else "Rook" for state in states]

    system = ours.Ours(setup(tmp_path, budget_tokens=12), HOWS["ours-both"], learner=Wrong())
    tell(system, turns())
    reply = system.answer(DOG, AT, "ada")
    assert "Leeds" not in reply.context and reply.reading.text == "Leeds"
    assert "outside of the context" in reply.notes[0]


def test_bad_and_long_texts_are_told_as_far_as_they_can_be(tmp_path):
    system = fake(tmp_path, "ours-text", budget_tokens=200)
    long = "A line about the harbour.\n" * 50_000 + "My dog is called Biscuit."
    odd = Turn(id="odd", session="s", role="user", text="I like \ud800 tea.", speaker="  ")
    for turn in (
        Turn(id="blank", session="s", role="user", text=" \n"),
        Turn(id="long", session="", role="user", text=long, speaker="x" * 999, group=True),
        odd,
    ):
        system.observe(turn, None, "ada")
    system.settle("ada")
    reply = system.answer(DOG, None, "ada")
    assert "long" in reply.shown
    assert reply.notes == ("1 turns without text were not told",)
    assert reply.ranked[0].turn == "long"
    system.forget(["long"], "ada")
    assert system.answer(DOG, None, "ada").shown == ("odd",)
    parts = told.pieces(long)
    assert "".join(parts) == long
    assert all(len(part.encode()) <= told.MAX_CONTENT_BYTES for part in parts)
    assert len(parts) > 1


def test_times_that_are_missing_or_out_of_order_are_no_trouble(tmp_path):
    system = fake(tmp_path, "ours-weights")
    mixed = [
        Turn(id="a", session="s0", role="user", text="I live in Leeds.", at=AT),
        Turn(id="b", session="s1", role="user", text="My dog is called Biscuit.", at=AT - timedelta(days=9)),
        Turn(
            id="c", session="s2", role="user", text="My sister is called Maren.", at=AT.replace(tzinfo=None)
        ),
        Turn(id="d", session="s3", role="user", text="I moved to York."),
    ]
    tell(system, tuple(mixed))
    assert texts(system) == "Biscuit | York | Maren"
    bare = fake(tmp_path / "bare", "ours-text")
    tell(bare, turns(dated=False))
    assert bare.answer(DOG, None, "ada").context.startswith("[2025-01-01]")


def test_the_embedded_model_learns_and_two_systems_do_not_mix(tmp_path):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    learner = ours.shared("mini", "nested", "cpu", "float32")
    assert ours.shared("mini", "nested", "cpu", "float32") is learner
    mine = ours.make_weights(setup(tmp_path / "a"), how=HOWS["ours-weights"])
    theirs = ours.make_weights(setup(tmp_path / "b"), how=HOWS["ours-weights"])
    tell(mine, turns()[:1])
    before = mine.probe(DOG, ("Biscuit", "Rook"), "ada")
    tell(theirs, DONOR.turns[:1])
    assert mine.answer(DOG, AT, "ada").reading.text == "Biscuit"
    assert theirs.answer(DOG, AT, "ada").reading.text == "Rook"
    assert mine.probe(DOG, ("Biscuit", "Rook"), "ada") == before
    assert before[0] > before[1]
    assert all(value < 0 for value in before)
    theirs.close()
    assert mine.answer(DOG, AT, "ada").reading.text == "Biscuit"
    mine.forget(["t0"], "ada")
    assert mine.answer(DOG, AT, "ada").reading.text != "Biscuit"
    mine.close()
