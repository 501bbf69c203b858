"""One matrix of laws for every system that needs no model; and what each of them is for."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from nestmem.embedders.fakes import HashEmbedder
from nestmem.errors import InputError, LLMError, MissingExtra
from nestmem.evals import readers
from nestmem.evals.datasets.base import Question, Role, Stream, Turn
from nestmem.evals.systems import baselines, history, pages, retrieval, scripted
from nestmem.evals.systems.base import Kind, Reading, Setup, System
from nestmem.store import passages

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
KINDS = {kind.name: kind for kind in (*baselines.KINDS, *retrieval.KINDS, *pages.KINDS, *scripted.KINDS)}
CASES = [(name, {}) for name in KINDS] + [
    (name, {"unit": "session"}) for name in ("bm25", "embedding", "hybrid")
]
SAID: tuple[tuple[str, Role, str], ...] = (
    ("s0", "user", "My dog is called Biscuit. I walk the dog every morning in the park."),
    ("s0", "assistant", "A walk in the park sounds good for a dog."),
    ("s1", "user", "I work as a welder in Leeds. The workshop in Leeds makes gates."),
    ("s1", "assistant", "Gates from a workshop last long."),
    ("s2", "user", "My sister is called Maren. She keeps bees on the roof."),
    ("s2", "assistant", "Bees on a roof need shade in summer."),
)
ASKED = "What is my dog called?"


def turns(owner: str = "") -> tuple[Turn, ...]:
    """Three sessions on three days; `owner` marks each turn's words and id."""
    return tuple(
        Turn(
            id=f"{owner}t{number}",
            session=session,
            role=role,
            text=f"{text} {owner}".strip(),
            at=AT + timedelta(days=int(session[1])),
        )
        for number, (session, role, text) in enumerate(SAID)
    )


def stream(name: str = "ada") -> Stream:
    questions = tuple(
        Question(
            id=f"q{after}", text=ASKED, kind="fact", after=after, answers=("Biscuit",), evidence=evidence
        )
        for after, evidence in ((0, ()), (1, ("t0",)), (2, ("t0",)), (4, ("t0",)), (6, ("t0",)))
    )
    return Stream(id=name, turns=turns(), questions=questions)


def setup(**changes: object) -> Setup:
    made = Setup(
        folder=Path("unused"),
        key=stream(),
        donor=None,
        reader=readers.load("none"),
        embedder=HashEmbedder(dim=48),
    )
    return replace(made, **changes)


def make(case: tuple[str, Mapping[str, str | int]], **changes: object) -> System:
    name, options = case
    kind: Kind = KINDS[name]
    return kind.make(setup(**changes), **{**kind.options, **options})


def tell(system: System, said: Sequence[Turn], scope: str = "ada", *, settle: bool = True) -> None:
    for number, turn in enumerate(said):
        system.observe(turn, turn.at, scope)
        over = number + 1 == len(said) or said[number + 1].session != turn.session
        if settle and over:
            system.settle(scope)


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0], *case[1].values()]))
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    return request.param


# Laws of every system.


def test_every_kind_has_a_line_about_itself_and_its_own_name() -> None:
    assert len(KINDS) == len((*baselines.KINDS, *retrieval.KINDS, *pages.KINDS, *scripted.KINDS))
    assert all(kind.about and "\n" not in kind.about for kind in KINDS.values())


def test_nothing_was_said(case: tuple[str, dict[str, str]]) -> None:
    system = make(case)
    reply = system.answer(ASKED, AT, "ada")
    assert (reply.context, reply.shown, reply.ranked) == ("", (), ())
    assert reply.reading == Reading(text=None)
    assert system.bytes("ada") == 0 and system.probe(ASKED, ["a", "b"], "ada") is None
    system.settle("ada")
    system.forget(["t0"], "ada")
    system.close()


def test_scopes_are_apart(case: tuple[str, dict[str, str]]) -> None:
    alone, both = make(case), make(case)
    tell(alone, turns())
    for mine, other in zip(turns(), turns("zebra"), strict=True):
        both.observe(other, other.at, "eve")
        both.observe(mine, mine.at, "ada")
        if mine.role == "assistant":
            both.settle("eve")
            both.settle("ada")
    assert both.answer(ASKED, None, "ada") == alone.answer(ASKED, None, "ada")
    reply = both.answer(ASKED, None, "ada")
    assert "zebra" not in reply.context
    assert not [id_ for id_ in (*reply.shown, *(hit.turn for hit in reply.ranked)) if "zebra" in id_]
    assert both.answer(ASKED, None, "nobody").context == ""
    assert both.bytes("ada") == alone.bytes("ada")


def test_the_same_calls_give_the_same_replies_and_an_answer_changes_nothing(
    case: tuple[str, dict[str, str]],
) -> None:
    one, two = make(case), make(case)
    tell(one, turns())
    for number, turn in enumerate(turns()):
        two.observe(turn, turn.at, "ada")
        two.answer("Where do I work?", None, "ada")
        if number % 2:
            two.settle("ada")
            two.answer(ASKED, None, "ada")
    first = one.answer(ASKED, None, "ada")
    assert two.answer(ASKED, None, "ada") == first
    assert one.answer("Who keeps bees?", None, "ada") == two.answer("Who keeps bees?", None, "ada")
    assert one.answer(ASKED, None, "ada") == first


def test_questions_between_turns_see_the_past_only(case: tuple[str, dict[str, str]]) -> None:
    system = make(case)
    said = turns()
    for place in range(len(said) + 1):
        system.settle("ada")
        reply = system.answer(ASKED, None, "ada")
        past = {turn.id for turn in said[:place]}
        assert set(reply.shown) <= past and {hit.turn for hit in reply.ranked} <= past
        # As if the turns so far had been all there ever were.
        fresh = make(case)
        tell(fresh, said[:place])
        if case[0] != "summary":
            assert fresh.answer(ASKED, None, "ada") == reply
        if place < len(said):
            system.observe(said[place], said[place].at, "ada")


def test_a_forgotten_turn_is_in_no_context_and_no_ranking(case: tuple[str, dict[str, str]]) -> None:
    system = make(case)
    tell(system, turns())
    system.answer(ASKED, None, "ada")
    before = system.bytes("ada")
    system.forget(["t0", "t0", "never-said"], "ada")
    reply = system.answer(ASKED, None, "ada")
    assert "Biscuit" not in reply.context
    assert "t0" not in reply.shown and "t0" not in {hit.turn for hit in reply.ranked}
    # As if it had never been said.
    fresh = make(case)
    tell(fresh, turns()[1:])
    assert fresh.answer(ASKED, None, "ada") == reply
    if case[0] != "none":
        assert system.bytes("ada") == fresh.bytes("ada") < before
    system.observe(replace(turns()[0], id="t9", session="s3"), AT, "ada")
    system.settle("ada")
    if case[0] not in ("none", "oracle", "useless"):
        assert "Biscuit" in system.answer(ASKED, None, "ada").context


@pytest.mark.parametrize("name", ["bm25", "summary", "profile"])
def test_no_word_of_a_forgotten_turn_is_kept(name: str) -> None:
    system = make((name, {}))
    tell(system, turns())
    system.answer(ASKED, None, "ada")
    assert "biscuit" in repr(vars(system)).lower()
    system.forget(["t0"], "ada")
    system.answer("Who keeps bees?", None, "ada")
    assert "biscuit" not in repr(vars(system)).lower().replace(repr(stream()).lower(), "")


@pytest.mark.parametrize("name", ["bm25", "embedding", "hybrid"])
def test_a_session_that_goes_on_later_is_read_again(name: str) -> None:
    said = [turns()[n] for n in (1, 2, 0, 4, 3, 5)]
    system, fresh = make((name, {"unit": "session"})), make((name, {"unit": "session"}))
    for turn in said:
        system.observe(turn, turn.at, "ada")
        system.answer(ASKED, None, "ada")
    tell(fresh, said)
    question = "Which gates last long in summer, with a good sound?"
    assert system.answer(question, None, "ada") == fresh.answer(question, None, "ada")
    assert {hit.turn for hit in fresh.answer(question, None, "ada").ranked} == {turn.id for turn in said}


def test_bytes_grow_with_what_is_said(case: tuple[str, dict[str, str]]) -> None:
    system = make(case)
    sizes = []
    for turn in turns():
        system.observe(turn, turn.at, "ada")
        system.settle("ada")
        system.answer(ASKED, None, "ada")
        sizes.append(system.bytes("ada"))
    if case[0] == "none":
        assert sizes == [0] * 6
    else:
        text = sum(len(turn.text) for turn in turns())
        assert sizes == sorted(set(sizes)) and sizes[-1] >= text


@pytest.mark.parametrize("budget", [1, 7, 16, 40, 2000])
def test_a_context_is_within_its_budget(case: tuple[str, dict[str, str]], budget: int) -> None:
    if case[0] == "oracle":
        pytest.skip("the oracle shows all the evidence, whatever the budget")
    long = Turn(id="long", session="s1", role="user", text="my dog called " * 700, at=AT)
    # Two sessions told in turns, so that the days go back and forth.
    mixed = [
        replace(turn, id=f"m{number}", session="s9", at=AT + timedelta(days=number % 2))
        for number, turn in enumerate(turns() * 3)
    ]
    system = make(case, budget_tokens=budget, window_tokens=budget)
    tell(system, [*turns()[:4], long, *turns()[4:], *mixed])
    assert len(system.answer(ASKED, None, "ada").context) <= 4 * budget


# Contexts.


def test_full_and_recent_keep_the_end() -> None:
    full = make(("full", {}))
    tell(full, turns())
    context = full.answer(ASKED, None, "ada").context
    assert context.splitlines()[:3] == [
        "[2026-03-02]",
        "user: My dog is called Biscuit. I walk the dog every morning in the park.",
        "assistant: A walk in the park sounds good for a dog.",
    ]
    assert context.count("[2026-03-0") == 3
    recent = make(("recent", {}), budget_tokens=35)
    tell(recent, turns())
    reply = recent.answer(ASKED, None, "ada")
    assert reply.shown == ("t4", "t5") and reply.ranked == ()
    tiny = make(("recent", {}), budget_tokens=10)
    tell(tiny, turns())
    reply = tiny.answer(ASKED, None, "ada")
    assert reply.shown == ("t5",) and reply.context.endswith("shade in summer.") and len(reply.context) == 40


def test_pack_takes_the_best_that_fit_and_cuts_only_what_no_budget_holds() -> None:
    said = [Turn(id=f"t{n}", session="s", role="user", text=text) for n, text in enumerate("abc")]
    long = Turn(id="long", session="s", role="user", text="x" * 5000)
    order = [said[2], long, said[0]]
    packed = history.pack(
        (
            history.Piece(turn=turn, text=turn.text, place=(n,))
            for n, turn in zip((2, 3, 0), order, strict=True)
        ),
        100,
    )
    assert history.ids(packed) == ("t2", "long")
    assert len(history.render(packed)) == 400
    # What would fit into the whole budget but not into the rest is passed over for what does.
    half = Turn(id="half", session="s", role="user", text="y" * 300)
    packed = history.pack(
        (
            history.Piece(turn=turn, text=turn.text, place=(n,))
            for n, turn in enumerate([half, replace(half, id="more"), *said])
        ),
        100,
    )
    assert history.ids(packed) == ("half", "t0", "t1", "t2")


def test_dates_that_go_back_and_forth_are_within_the_budget() -> None:
    said = [
        Turn(id=f"t{n}", session="s", role="user", text="a", at=AT + timedelta(days=n % 2)) for n in range(10)
    ]
    packed = history.pack(history.pieces(said), 30)
    assert 80 < len(history.render(packed)) <= 120
    undated = [replace(turn, at=None) if n % 2 else turn for n, turn in enumerate(said)]
    assert 80 < len(history.render(history.pack(history.pieces(undated), 30))) <= 120
    assert 80 < len(history.render(history.latest(undated, 30))) <= 120


def test_undated_turns_have_no_date_line() -> None:
    undated = history.pieces([replace(turn, at=None) for turn in turns()[:2]])
    assert history.render(undated).startswith("user: My dog")
    mixed = history.pieces([turns()[0], replace(turns()[1], at=None, speaker="Bo")])
    assert history.render(mixed).splitlines()[2:] == [
        "[no date]",
        "Bo: A walk in the park sounds good for a dog.",
    ]


# Words.


def test_bm25_by_hand() -> None:
    """Three turns: "dog dog cat", "dog", "bird bird bird bird"; asked for dog and cat."""
    system = make(("bm25", {}), budget_tokens=10)
    texts = ("dog dog cat", "dog", "bird bird bird bird")
    tell(system, [Turn(id=f"t{n}", session="s", role="user", text=text) for n, text in enumerate(texts)])
    mean = 8 / 3

    def part(tf: int, df: int, length: int) -> float:
        idf = math.log(1 + (3 - df + 0.5) / (df + 0.5))
        return idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * length / mean))

    reply = system.answer("Is the dog a cat?", None, "ada")
    assert [hit.turn for hit in reply.ranked] == ["t0", "t1"]
    expected = [part(2, 2, 3) + part(1, 1, 3), part(1, 2, 1)]
    assert [hit.score for hit in reply.ranked] == pytest.approx(expected, rel=1e-5)
    assert reply.shown == ("t0", "t1") and "bird" not in reply.context
    assert system.answer("Is it so?", None, "ada").ranked == ()


@pytest.mark.parametrize("unit", ["turn", "session"])
def test_bm25_fills_its_budget_with_the_newest_turns_that_it_did_not_find(unit: str) -> None:
    said = [
        Turn(id=f"t{n}", session=f"s{n}", role="user", text="the bees" if n == 3 else f"a stone {n}")
        for n in range(40)
    ]
    system = make(("bm25", {"unit": unit}), budget_tokens=24)
    tell(system, said)
    reply = system.answer("Where are bees?", None, "ada")
    assert [hit.turn for hit in reply.ranked] == ["t3"]
    assert reply.shown == ("t3", "t36", "t37", "t38", "t39")
    # Nothing is found: still full.
    reply = system.answer("Is it so?", None, "ada")
    assert reply.ranked == () and reply.shown == ("t35", "t36", "t37", "t38", "t39")
    assert len(reply.context) == 84


@pytest.mark.parametrize("name", ["bm25", "embedding", "hybrid"])
@pytest.mark.parametrize("unit", ["turn", "session"])
def test_a_search_shows_as_much_as_its_budget_holds(name: str, unit: str) -> None:
    said = [
        replace(turn, id=f"{turn.id}/{number}", session=f"{turn.session}/{number}")
        for number in range(30)
        for turn in turns()
    ]
    for budget in (200, 1000, 2500):
        system = make((name, {"unit": unit}), budget_tokens=budget)
        tell(system, said)
        for question in ("Who keeps bees?", "Is it so?"):
            length = len(system.answer(question, None, "ada").context)
            assert 4 * budget - 130 < length <= 4 * budget or length == len(
                history.render(history.pieces(said))
            )


@pytest.mark.parametrize("name", ["bm25", "embedding", "hybrid"])
def test_a_history_that_fits_the_budget_is_shown_whole(name: str) -> None:
    # Two sessions on one day have one date line between them.
    said = [replace(turn, at=AT) for turn in turns()]
    everything = history.render(history.pieces(said)) + "."
    budget = len(everything) // 4 + 1
    said[0] = replace(said[0], text=said[0].text + "." * (4 * budget - len(everything) + 1))
    system = make((name, {}), budget_tokens=budget)
    tell(system, said)
    reply = system.answer("Who keeps bees?", None, "ada")
    assert reply.context == history.render(history.pieces(said)) and len(reply.context) == 4 * budget
    assert reply.shown == tuple(turn.id for turn in said)
    less = make((name, {}), budget_tokens=budget - 1)
    tell(less, said)
    assert len(less.answer("Who keeps bees?", None, "ada").shown) == 5


def test_bm25_finds_other_forms_of_a_word_unless_told_not_to() -> None:
    said = [
        Turn(id=f"t{n}", session="s", role="user", text=text)
        for n, text in enumerate(("She was painting walls", "a paint", "stones"))
    ]
    found = {}
    for name in ("bm25", "hybrid"):
        for options in ({}, {"stem": 1}, {"stem": 0}):
            system = make((name, options))
            tell(system, said)
            ranked = system.answer("Who paints a wall?", None, "ada").ranked
            found[name, options.get("stem")] = [hit.turn for hit in ranked]
    assert found["bm25", None] == found["bm25", 1] == ["t0", "t1"] and found["bm25", 0] == []
    # One rank more for what words find.
    assert found["hybrid", None] == found["hybrid", 1] != found["hybrid", 0]
    with pytest.raises(InputError, match="stem=2"):
        make(("bm25", {"stem": 2}))


def test_without_a_stemmer_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    retrieval.stemmer.cache_clear()
    for name in ("bm25", "hybrid"):
        with pytest.raises(MissingExtra, match="PyStemmer"):
            make((name, {}))
        make((name, {"stem": 0}))


def test_bm25_of_sessions_is_bm25_of_their_words_together() -> None:
    system, joined = make(("bm25", {"unit": "session"})), make(("bm25", {}))
    tell(system, turns())
    texts = [" ".join(text for session, _, text in SAID if session == name) for name in ("s0", "s1", "s2")]
    tell(joined, [Turn(id=f"s{n}", session="s", role="user", text=text) for n, text in enumerate(texts)])
    by_session = {hit.session: hit.score for hit in system.answer("bees in the park", None, "ada").ranked}
    whole = {hit.turn: hit.score for hit in joined.answer("bees in the park", None, "ada").ranked}
    assert by_session == whole and list(by_session) == ["s2", "s0"]


def test_a_named_speaker_is_among_the_words() -> None:
    system = make(("bm25", {}))
    said = [
        Turn(id=name, session="s", role="user", text="I like bees.", speaker=name, group=True)
        for name in ("Ana", "Bo")
    ]
    tell(system, said)
    assert next(iter(system.answer("What does Bo like?", None, "ada").ranked)).turn == "Bo"


def test_without_bm25s_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtra, match="bm25s"):
        make(("bm25", {}))
    with pytest.raises(MissingExtra, match="bm25s"):
        make(("hybrid", {}))


# Meaning.


def test_a_turn_is_as_close_as_its_closest_passage() -> None:
    embedder = HashEmbedder(dim=48)
    long = "Gates last long. " * 100 + ASKED
    said = [*turns(), Turn(id="long", session="s3", role="user", text=long)]
    system = make(("embedding", {}))
    tell(system, said)
    asked = embedder.embed([ASKED])[0]
    expected = {
        turn.id: max(
            float(embedder.embed([turn.text[start:end]])[0] @ asked)
            for start, end in passages.split(turn.text)
        )
        for turn in said
    }
    ranked = system.answer(ASKED, None, "ada").ranked
    assert [hit.turn for hit in ranked] == sorted(expected, key=lambda id_: -expected[id_])
    assert {hit.turn: hit.score for hit in ranked} == pytest.approx(expected, abs=1e-6)
    assert expected["long"] > float(embedder.embed([long])[0] @ asked) + 0.01


class Recording(HashEmbedder):
    """Keeps the texts it was given."""

    def __init__(self) -> None:
        super().__init__(dim=16)
        self.texts: list[str] = []

    def embed(self, texts: list[str]) -> np.ndarray:
        self.texts += texts
        return super().embed(texts)


def test_only_what_is_new_is_embedded() -> None:
    for unit, first, second in (("turn", 4, 2), ("session", 2, 1)):
        embedder = Recording()
        system = make(("embedding", {"unit": unit}), embedder=embedder)
        tell(system, turns()[:4])
        system.answer(ASKED, None, "ada")
        assert len(embedder.texts) == first + 1
        tell(system, turns()[4:])
        embedder.texts.clear()
        system.answer(ASKED, None, "ada")
        assert len(embedder.texts) == second + 1


def test_many_turns_are_embedded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, blocks = make(("embedding", {})), make(("embedding", {}))
    tell(whole, turns())
    expected = whole.answer(ASKED, None, "ada")
    monkeypatch.setattr(retrieval, "EMBED_BLOCK", 2)
    tell(blocks, turns())
    assert blocks.answer(ASKED, None, "ada") == expected


def test_the_text_of_a_session_is_what_the_user_said() -> None:
    user, assistant = turns()[0], turns()[1]
    spaced = replace(user, text=f"  {'x' * 1590}\n ")
    assert retrieval.session_text([assistant, spaced, replace(user, text=" "), user]) == (
        "x" * 1590 + "\n" + user.text[:9]
    )
    assert retrieval.session_text([assistant]) == assistant.text
    assert retrieval.session_text([replace(user, text=" "), assistant]) == assistant.text
    embedder = Recording()
    system = make(("embedding", {"unit": "session"}), embedder=embedder)
    tell(system, turns())
    system.answer(ASKED, None, "ada")
    assert embedder.texts == [turns()[0].text, turns()[2].text, turns()[4].text, ASKED]


@pytest.mark.parametrize("name", ["bm25", "embedding", "hybrid"])
def test_sessions_are_listed_whole_and_at_least_ten_deep(name: str) -> None:
    said = [
        Turn(id=f"{session}/{n}", session=f"s{session}", role="user", text=f"the dog {session} barks {n}")
        for session in range(14)
        for n in range(3)
    ]
    system = make((name, {"unit": "session"}), depth=2)
    tell(system, said)
    ranked = system.answer("Which dog barks?", None, "ada").ranked
    assert len(ranked) == 30
    sessions = list(dict.fromkeys(hit.session for hit in ranked))
    assert [hit.turn for hit in ranked] == [f"{name[1:]}/{n}" for name in sessions for n in range(3)]
    by_turn = make((name, {}), depth=2)
    tell(by_turn, said)
    assert len(by_turn.answer("Which dog barks?", None, "ada").ranked) == 2


def test_hybrid_adds_one_over_sixty_plus_rank() -> None:
    words, meaning, both = (make((name, {})) for name in ("bm25", "embedding", "hybrid"))
    for system in (words, meaning, both):
        tell(system, turns())
    expected: dict[str, float] = {}
    for system in (words, meaning):
        for rank, hit in enumerate(system.answer(ASKED, None, "ada").ranked, 1):
            expected[hit.turn] = expected.get(hit.turn, 0.0) + 1 / (60 + rank)
    ranked = both.answer(ASKED, None, "ada").ranked
    assert {hit.turn: hit.score for hit in ranked} == pytest.approx(expected)
    assert [hit.score for hit in ranked] == sorted(expected.values(), reverse=True)


def test_bad_options_and_no_embedder() -> None:
    with pytest.raises(InputError, match="unit='day'"):
        make(("bm25", {"unit": "day"}))
    with pytest.raises(InputError, match="embedder"):
        make(("embedding", {}), embedder=None)


# Pages.


class Writing:
    """A reader whose model writes the number of the page and what it was given last."""

    name = "writing"

    def __init__(self) -> None:
        self.given: list[tuple[str, str]] = []

    def read(self, question: str, context: str, *, at: datetime | None) -> Reading:
        return Reading(text=context)

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        self.given.append((instruction, text))
        return f"page {len(self.given)} {'x' * 10 * max_tokens}"


def test_a_summary_by_a_model_is_written_from_the_last_one() -> None:
    reader = Writing()
    system = make(("summary", {}), reader=reader, budget_tokens=40)
    tell(system, turns())
    system.settle("ada")
    assert len(reader.given) == 3 and "30 words" in reader.given[0][0]
    assert "{" not in reader.given[0][0]
    assert reader.given[0][1].startswith("Summary:\n\n\nNew conversation:\n[2026-03-02]\nuser: My dog")
    assert reader.given[1][1].startswith("Summary:\npage 1") and "Biscuit" not in reader.given[1][1]
    reply = system.answer(ASKED, None, "ada")
    assert reply.context.startswith("page 3") and len(reply.context) == 160
    assert reply.shown == () and reply.notes
    system.forget(["t0"], "ada")
    assert not [text for _, text in reader.given[3:] if "Biscuit" in text] and len(reader.given) == 6


class Failing(Writing):
    """Writes nothing on what it is given at these times (1 is the first)."""

    def __init__(self, *times: int) -> None:
        super().__init__()
        self.times = times

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        page = super().write(instruction, text, max_tokens=max_tokens)
        if len(self.given) in self.times:
            raise LLMError("http://host/v1 answered an empty message")
        return page


def test_a_summary_that_cannot_be_written_stays_as_it_was_and_is_counted() -> None:
    reader = Failing(2)
    system = make(("summary", {}), reader=reader, budget_tokens=40)
    tell(system, turns()[:2])
    first = system.answer(ASKED, None, "ada")
    assert first.context.startswith("page 1") and len(first.notes) == 1
    tell(system, turns()[2:4])
    second = system.answer(ASKED, None, "ada")
    assert second.context == first.context
    assert second.notes[1] == (
        "the summary could not be written after 1 sessions and stayed as it was; the last time: empty"
    )
    tell(system, turns()[4:])
    assert reader.given[2][1].startswith("Summary:\npage 1")
    third = system.answer(ASKED, None, "ada")
    assert third.context.startswith("page 3") and third.notes == second.notes
    never = make(("summary", {}), reader=Failing(1, 2, 3))
    tell(never, turns())
    reply = never.answer(ASKED, None, "ada")
    assert (reply.context, reply.shown) == ("", ()) and "after 3 sessions" in reply.notes[1]


def test_a_summary_without_a_model_keeps_the_weightiest_sentences() -> None:
    system = make(("summary", {}), budget_tokens=26)
    texts = [f"Filler{n} stone{n} cloud{n} water{n}." for n in range(12)]
    texts[2] += " Bees fill the hive today."
    texts[5] += "\nBees leave the hive early"
    texts[9] = "Ok. The hive holds many bees! Bees."
    tell(system, [Turn(id=f"t{n}", session=f"s{n}", role="user", text=text) for n, text in enumerate(texts)])
    reply = system.answer(ASKED, None, "ada")
    assert reply.context.splitlines() == [
        "user: Bees fill the hive today.",
        "user: Bees leave the hive early",
        "user: The hive holds many bees!",
    ]
    assert reply.shown == ("t2", "t5", "t9")


def test_of_two_sentences_that_weigh_the_same_the_later_is_kept() -> None:
    system = make(("summary", {}), budget_tokens=6)
    texts = ("Red stones fall.", "Old clouds gather.")
    tell(system, [Turn(id=f"t{n}", session="s", role="user", text=text) for n, text in enumerate(texts)])
    assert system.answer(ASKED, None, "ada").shown == ("t1",)


def test_a_profile_holds_the_newest_value_and_its_turn() -> None:
    system = make(("profile", {}))
    told: tuple[tuple[Role, str], ...] = (
        ("user", "My dog is called Biscuit. I live in Leeds."),
        ("assistant", "My dog is called Rex."),
        ("user", "I live in York now."),
    )
    said = [Turn(id=f"t{n}", session="s", role=role, text=text) for n, (role, text) in enumerate(told)]
    tell(system, said[:2])
    first = system.answer(ASKED, None, "ada")
    assert "Leeds" in first.context and "Biscuit" in first.context and "Rex" not in first.context
    tell(system, said[2:])
    reply = system.answer(ASKED, None, "ada")
    assert "York" in reply.context and "Leeds" not in reply.context
    assert reply.shown == ("t0", "t2")
    assert all(": " in line for line in reply.context.splitlines())
    system.forget(["t2"], "ada")
    assert "Leeds" in system.answer(ASKED, None, "ada").context


def test_a_profile_drops_its_oldest_lines_over_500_tokens() -> None:
    system = make(("profile", {}))
    names = ("dog", "cat", "horse", "parrot", "goat", "sister", "brother", "daughter", "son", "wife")
    said = [
        Turn(id=f"t{n}", session="s", role="user", text=f"My {name} is called {'Abcdefgh' * 30}{n}.")
        for n, name in enumerate(names)
    ]
    tell(system, said)
    context = system.answer(ASKED, None, "ada").context
    assert 1500 < len(context) <= 2000
    assert context.splitlines()[-1].endswith("9") and "dog" not in context


# What knows the key.


def test_the_oracle_shows_the_evidence_and_useless_does_not() -> None:
    oracle, useless = make(("oracle", {}), budget_tokens=1), make(("useless", {}))
    for system in (oracle, useless):
        tell(system, turns())
    reply = oracle.answer(ASKED, None, "ada")
    assert reply.shown == ("t0",) == tuple(hit.turn for hit in reply.ranked) and "Biscuit" in reply.context
    reply = useless.answer(ASKED, None, "ada")
    assert reply.shown == ("t2", "t3", "t4", "t5")
    assert [hit.turn for hit in reply.ranked] == ["t5", "t4", "t3", "t2"]
    assert oracle.answer("never asked", None, "ada").shown == ()


def test_without_evidence_the_oracle_shows_what_holds_the_answer() -> None:
    said = [
        Turn(id=f"t{n}", session="s", role="user", text=text)
        for n, text in enumerate(("send it -> 4", "book a room -> 14", "post it -> 4", "4 rooms -> 14"))
    ]
    asked = (
        Question(id="q", text="mail it", kind="label", after=4, answers=("-> 4",)),
        Question(id="none", text="nothing", kind="label", after=4, answerable=False),
    )
    key = Stream(id="ada", turns=tuple(said), questions=asked)
    for depth, ranked in ((50, ["t3", "t2", "t0"]), (2, ["t3", "t2"])):
        system = make(("oracle", {}), key=key, depth=depth)
        tell(system, said)
        assert [hit.turn for hit in system.answer("mail it", None, "ada").ranked] == ranked
        assert system.answer("nothing", None, "ada").ranked == ()


def test_the_key_is_read_at_the_place_where_the_question_stands() -> None:
    said = turns()
    questions = tuple(
        Question(id=id_, text="Where?", kind="fact", after=after, answers=("x",), evidence=evidence)
        for id_, after, evidence in (("a", 2, ("t0",)), ("b", 4, ("t2",)), ("c", 6, ("t0", "t4")))
    )
    key = Stream(id="ada", turns=said, questions=questions)
    system = make(("oracle", {}), key=key)
    seen = []
    for start in (0, 2, 4):
        tell(system, said[start : start + 2])
        seen.append([hit.turn for hit in system.answer("Where?", None, "ada").ranked])
    assert seen == [["t0"], ["t2"], ["t4", "t0"]]


def test_useless_shows_no_turn_that_holds_the_answer() -> None:
    question = Question(
        id="q",
        text="What?",
        kind="fact",
        after=6,
        answers=("welder",),
        rejected=("Maren",),
        rubric=("shade in July",),
        evidence=("t0",),
    )
    key = Stream(id="ada", turns=turns(), questions=(question,))
    system = make(("useless", {}), key=key)
    tell(system, turns())
    assert system.answer("What?", None, "ada").shown == ("t3",)


def test_a_named_speaker_is_part_of_what_is_embedded() -> None:
    seen: list[str] = []

    class Watching(HashEmbedder):
        def embed(self, texts: list[str]) -> np.ndarray:
            seen.extend(texts)
            return super().embed(texts)

    index = retrieval.TurnVectors(embedder=Watching())
    turn = Turn(id="t0", session="s0", role="user", text="I adopted a ferret.", speaker="Ada", group=True)
    index.scores("Which pet does Ada have?", [[turn], [replace(turn, id="t1", speaker=None)]])
    assert seen[:2] == ["Ada: I adopted a ferret.", "I adopted a ferret."]
    assert retrieval.session_text([turn]) == "Ada: I adopted a ferret."
