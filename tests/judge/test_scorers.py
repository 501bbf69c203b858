"""Scorers: each is bracketed by a perfect and a useless line, and its reading rules are pinned."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Question
from nestmem.evals.log import Line
from nestmem.evals.personas import abstains, normalise
from nestmem.evals.reading import f1, flat, holds, named_choices, order_score, shown_by_rank
from nestmem.evals.scorers import EXAMPLES_AT, SCORERS
from nestmem.evals.systems.base import Hit, Reading, Reply

FACT = Question(
    id="q",
    text="What is Ada's ferret called?",
    kind="fact",
    after=9,
    answers=("Nimbus",),
    rejected=("Pixel",),
    evidence=("t3", "t7"),
    candidates=("Nimbus", "Pixel", "Rex"),
)
CHOICE = Question(
    id="c",
    text="Which? (a) oat porridge (b) rye bread",
    kind="choice",
    after=9,
    answers=("rye bread",),
    choices=("oat porridge", "rye bread"),
    evidence=("t3",),
)
GONE = Question(
    id="g",
    text="What was Ada's ferret called?",
    kind="deleted",
    after=9,
    answerable=False,
    rejected=("Nimbus",),
    candidates=("Nimbus", "Pixel", "Rex"),
)
UNKNOWN = Question(id="u", text="What is Bo's cat called?", kind="never", after=9, answerable=False)
POINTS = Question(
    id="r",
    text="Say how the move went.",
    kind="event_ordering",
    after=9,
    rubric=("packed wooden boxes", "hired a van", "painted the hall"),
    evidence=("t3",),
)
LABEL = Question(id="l", text="lost my card", kind="label", after=9, answers=("card_lost",), evidence=("t3",))


def line(
    question: Question,
    text: str | None = None,
    *,
    failed: str | None = None,
    context: str = "",
    shown: tuple[str, ...] = (),
    ranked: tuple[tuple[str, str], ...] = (),
    probe: tuple[float, ...] | None = None,
) -> Line:
    sessions = {"t3": "s1", "t7": "s2"}
    hits = tuple(Hit(turn=t, session=s, score=1 / n) for n, (t, s) in enumerate(ranked, 1))
    return Line(
        task="t",
        system="x",
        stream="ada",
        question=question,
        reply=Reply(reading=Reading(text=text, failed=failed), context=context, shown=shown, ranked=hits),
        ages=tuple(4 for _ in question.evidence),
        sessions=tuple(sessions[id_] for id_ in question.evidence),
        probe=probe,
    )


FOUND = (("t3", "s1"), ("t7", "s2"), ("t1", "s0"))
LOST = tuple((f"n{n}", f"m{n}") for n in range(20))
ALL_POINTS = "First you packed the wooden boxes.\nThen you hired a van.\nAt last you painted the hall."
BACKWARDS = "\n".join(reversed(ALL_POINTS.split("\n")))
# Score -> (a line that is as good as can be, one that is as bad as can be).
BRACKETS: dict[str, tuple[Line, Line]] = {
    "token_f1": (line(FACT, "Nimbus"), line(FACT, "a horse")),
    "exact": (line(FACT, "the nimbus!"), line(FACT, "Nimbus it is")),
    "contains": (line(FACT, "It is Nimbus."), line(FACT, "It is Nimbuster.")),
    "choice": (line(CHOICE, "(b)"), line(CHOICE, "(a)")),
    "abstains": (line(UNKNOWN, "I don't know."), line(UNKNOWN, "Whiskers.")),
    "stale": (line(FACT, "Nimbus"), line(FACT, "Pixel")),
    "rubric": (line(POINTS, ALL_POINTS), line(POINTS, "It rained.")),
    "order": (line(POINTS, ALL_POINTS), line(POINTS, BACKWARDS)),
    "evidence_share": (line(FACT, shown=("t3", "t7")), line(FACT, shown=("t1",))),
    "evidence_all": (line(FACT, shown=("t7", "t3", "t1")), line(FACT, shown=("t3",))),
    "mrr": (line(FACT, ranked=FOUND), line(FACT, ranked=LOST)),
    "answer_in_context": (line(FACT, context="user: nimbus ran"), line(FACT, context="user: nimbuses ran")),
    "stale_in_context": (line(FACT, context="user: Nimbus"), line(FACT, context="user: Pixel")),
    "newest_first": (
        line(FACT, context="user: Pixel\nuser: Nimbus", shown=("t1", "t3"), ranked=FOUND),
        line(FACT, context="user: Pixel\nuser: Nimbus", shown=("t3", "t1"), ranked=FOUND),
    ),
    "choice_support": (line(CHOICE, context="I bake rye bread."), line(CHOICE, context="I cook porridge.")),
    "label_vote": (
        line(
            LABEL,
            context="user: card gone -> card_lost\nuser: hi -> greeting",
            shown=("t3", "t1"),
            ranked=FOUND,
        ),
        line(
            LABEL,
            context="user: card gone -> card_lost\nuser: hi -> greeting",
            shown=("t1", "t3"),
            ranked=FOUND,
        ),
    ),
    "rubric_in_context": (line(POINTS, context=ALL_POINTS), line(POINTS, context="user: it rained")),
    "kept_and_gone": (line(GONE, context="user: Pixel ran"), line(GONE, context="user: Nimbus ran")),
    "probe_stale": (line(GONE, probe=(-2.0, -1.0, -3.0)), line(GONE, probe=(-1.0, -2.0, -3.0))),
    "probe_first": (line(FACT, probe=(-1.0, -2.0, -3.0)), line(FACT, probe=(-2.0, -1.0, -3.0))),
    "session_any@5": (line(FACT, ranked=FOUND), line(FACT, ranked=LOST)),
    "session_all@5": (line(FACT, ranked=FOUND), line(FACT, ranked=FOUND[:1])),
    "session_any@10": (line(FACT, ranked=LOST[:9] + FOUND), line(FACT, ranked=LOST[:10] + FOUND)),
    "session_all@10": (line(FACT, ranked=LOST[:8] + FOUND), line(FACT, ranked=LOST[:9] + FOUND)),
    "turn_any@5": (line(FACT, ranked=FOUND), line(FACT, ranked=LOST)),
    "turn_all@5": (line(FACT, ranked=FOUND), line(FACT, ranked=FOUND[:1])),
    "turn_any@10": (line(FACT, ranked=LOST[:9] + FOUND), line(FACT, ranked=LOST[:10] + FOUND)),
    "turn_all@10": (line(FACT, ranked=LOST[:8] + FOUND), line(FACT, ranked=LOST[:9] + FOUND)),
}
SHARES = [name for name in (*SCORERS, *EXAMPLES_AT) if SCORERS[name].share]
READING = [name for name in SCORERS if SCORERS[name].needs == "reader"]


@pytest.mark.parametrize("name", SHARES)
def test_every_score_is_bracketed_by_one_and_zero(name: str) -> None:
    assert name in BRACKETS, f"give the new score {name} a perfect and a useless line"
    perfect, useless = (SCORERS[name](each) for each in BRACKETS[name])
    best, worst = (1.0, 0.0) if SCORERS[name].better == "higher" else (0.0, 1.0)
    assert perfect == pytest.approx(best) and useless == pytest.approx(worst)


def test_the_margin_of_a_probe_is_in_nats() -> None:
    assert SCORERS["probe_margin"](line(FACT, probe=(-1.0, -1.5, -3.0))) == pytest.approx(0.5)
    assert SCORERS["probe_margin"](line(FACT)) is None
    assert SCORERS["probe_first"](line(FACT, probe=(-1.0, -1.0, -3.0))) == 0.0


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("failed", ["refused: policy", "empty", "error: timeout"])
def test_a_failed_reading_is_wrong_and_no_reader_is_none(name: str, failed: str) -> None:
    question = BRACKETS[name][0].question
    wrong = 0.0 if SCORERS[name].better == "higher" else 1.0
    assert SCORERS[name](line(question, None, failed=failed)) == wrong
    assert SCORERS[name](line(question, "Nimbus, (b)", failed=failed)) == wrong
    assert SCORERS[name](line(question, "  ")) == wrong
    assert SCORERS[name](line(question)) is None


@pytest.mark.parametrize(
    "name",
    ["evidence_share", "evidence_all", "mrr", "session_any@5", "session_all@5", "turn_any@5", "turn_all@5"],
)
def test_a_question_without_evidence_has_no_score_of_evidence(name: str) -> None:
    assert SCORERS[name](line(replace(FACT, evidence=()), shown=("t3",), ranked=FOUND)) is None


def test_what_a_model_wrote_of_the_past_has_no_evidence_to_count() -> None:
    summary = line(FACT, context="Ada keeps a ferret.")
    assert SCORERS["evidence_all"].function(summary) is None
    assert SCORERS["evidence_all"].function(line(FACT)) == 0.0


def test_what_is_not_known_is_right_when_the_reply_says_so() -> None:
    for name in ("contains", "abstains"):
        assert SCORERS[name](line(UNKNOWN, "That was not mentioned.")) == 1.0
        assert SCORERS[name](line(UNKNOWN, "Rex")) == 0.0
    for name in ("token_f1", "exact"):
        assert SCORERS[name](line(UNKNOWN, "That was not mentioned.")) is None
        assert SCORERS[name](line(UNKNOWN, "Rex")) is None
        assert SCORERS[name](line(UNKNOWN, None, failed="empty")) is None
    assert SCORERS["answer_in_context"](line(UNKNOWN, context="Rex")) is None
    assert SCORERS["abstains"](line(FACT, "I don't know")) is None
    assert SCORERS["contains"](line(POINTS, "a van")) is None


def test_an_answer_that_is_taken_back_is_none() -> None:
    contains = SCORERS["contains"]
    assert contains(line(FACT, "Nimbus, but I am not sure.")) == 0.0
    assert contains(line(GONE, "Nimbus, but I am not sure.")) == 0.0
    assert contains(line(GONE, "Pixel, but I am not sure.")) == 1.0
    # The answer speaks of something unknown itself.
    author = replace(FACT, answers=("It was not mentioned by the author",))
    assert contains(line(author, "It was not mentioned by the author.")) == 1.0


def test_a_trap_that_is_an_abstention_is_no_rejected_value() -> None:
    asked = replace(GONE, rejected=("not mentioned",))
    assert SCORERS["contains"](line(asked, "That was not mentioned.")) == 1.0


@pytest.mark.parametrize("trap", ["No", "idea"])
def test_the_words_of_not_knowing_are_no_rejected_value(trap: str) -> None:
    asked = replace(GONE, rejected=(trap,))
    said = "It is not mentioned; I have no idea."
    assert SCORERS["contains"](line(asked, said)) == 1.0 and SCORERS["stale"](line(asked, said)) == 0.0
    assert SCORERS["contains"](line(asked, f"{trap}. {said}")) == 0.0
    assert SCORERS["stale"](line(asked, f"{trap}. {said}")) == 1.0


@pytest.mark.parametrize(
    "reply",
    [
        "I don't know.",
        "I do not know that.",
        "I don't recall.",
        "I don't really remember his name",
        "I have no idea",
        "No idea!",
        "Unknown.",
        "The answer is unknown.",
        "His name is unknown to me",
        "Biscuit, but I am not sure",
        "The record does not mention this.",
        "The conversation doesn't mention where she went to school",
        "It isn't mentioned.",
        "It is not mentioned who came.",
        "That was never mentioned.",
        "That hasn't been mentioned yet",
        "This is not explicitly mentioned in the text.",
        "There is no mention of a cat.",
        "There's no record of that; sorry.",
        "No information available",
        "I cannot find that.",
        "I can't find any cat in our conversations",
        "I'm unable to determine that.",
        "This cannot be determined from the context.",
        "The name is not specified.",
        "The date is not provided.",
        "Not stated",
        "Her age isn't given.",
        "Her age is not given in the conversation",
        "The text does not say where.",
        "The passage does not contain any information on it.",
        "That is not in our conversation.",
        "I was not told.",
        "You have not told me",
        "You never told me your dog's name.",
        "I haven't been told",
        "There is not enough information to answer.",
        "You did not mention that to me.",
        "I don't have access to that information",
    ],
)
def test_ways_to_say_that_it_is_not_known(reply: str) -> None:
    assert abstains(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "Not told to her until 5 May; it was in Oslo",
        "It was not told to her until 5 May; it was in Oslo",
        "She did not mention it to her boss; she told Rex.",
        "It was not mentioned until 2020: Oslo",
        "He was not given a raise, he was promoted.",
        "She was not provided with a car",
        "He couldn't find his keys",
        "Unknown Pleasures by Joy Division",
        "The Unknown Soldier",
        "An unknown artist painted it, on 3 May",
        "She had no idea what to bring, so she brought cake.",
        "I remember: Biscuit",
        "I know: it is Oslo.",
        "Not Oslo, Rome.",
        "No, Rex.",
        "It is well known",
        "They do not have any children",
        "While I don't have access to your calendar, you said 5 May.",
        "Knowing me, knowing you",
        "",
    ],
)
def test_answers_that_only_sound_like_not_knowing(reply: str) -> None:
    assert not abstains(reply)


@pytest.mark.parametrize(
    ("text", "part", "there"),
    [
        ("2.5 hours", "2", False),
        ("2.5 hours", "5", False),
        ("2.5 hours", "2.5", True),
        ("at 3:45", "3", False),
        ("at 3:45.", "3:45", True),
        ("$12.50", "12", False),
        ("it cost $12.", "12", True),
        ("-10 degrees", "10", False),
        ("\u221210 degrees", "-10", True),
        ("from 10-12 May", "10", True),
        ("from 10-12 May", "12", True),
        ("Whisk:\n-2-3 eggs", "2-3 eggs", True),
        ("COVID-19", "19", True),
        ("$5,850 in all", "5850", True),
        ("5850 in all", "$5,850", True),
        ("$5,850.00, paid", "$5,850", True),
        ("1,250,000 people", "1250000", True),
        ("5,850", "5", False),
        ("5,850", "850", False),
        ("May 5,2023", "2023", True),
        ("1,2,3", "2", True),
        ("2 of 3. Then", "3", True),
        ("on 3.5.2023", "2023", True),
        ("by D\u00fcrer", "Durer", True),
        ("by Durer", "D\u00fcrer", True),
        ("caf\u00e9 au lait", "cafe\u0301", True),
        ("the 3rd", "3", False),
        ("Room 12b", "12B", True),
        ("It's Ada's blue-green boat!", "adas blue green boat", True),
    ],
)
def test_numbers_are_whole_words_and_accents_do_not_count(text: str, part: str, there: bool) -> None:
    assert holds(text, part) is there
    assert SCORERS["contains"](line(replace(FACT, answers=(part,)), text)) == float(there)


def test_f1_counts_a_number_as_one_word() -> None:
    assert f1("2.5", "2") == f1("3:45", "3") == f1("-10", "10") == 0.0
    assert f1("$5,850", "5850") == f1("Durer", "D\u00fcrer") == 1.0


@given(st.text(alphabet=st.sampled_from("ABth eanz'’`-_.,:;$(\n\u4e2d"), max_size=40))
def test_words_without_digits_and_accents_are_those_of_the_personas(text: str) -> None:
    assert flat(text) == normalise(text) or not normalise(text)


def test_the_numbers_of_a_point_must_all_be_there() -> None:
    point = replace(POINTS, rubric=("ordered 24 wooden boxes on Monday",), kind="summary")
    for name in ("rubric", "rubric_in_context"):
        for text, met in (
            ("I ordered 24 wooden boxes.", 1.0),
            ("I ordered 240 wooden boxes on Monday.", 0.0),
            ("I ordered 2.4 wooden boxes on Monday.", 0.0),
            ("I ordered wooden boxes on Monday.", 0.0),
        ):
            assert SCORERS[name](line(point, text, context=text)) == met
        assert "length" in SCORERS[name].about and "not punished" in SCORERS[name].about


def test_kept_and_gone_asks_for_both() -> None:
    score = SCORERS["kept_and_gone"]
    assert score(line(FACT, context="user: Nimbus")) == 1.0 and score(line(FACT, context="")) == 0.0
    assert score(line(GONE, context="")) == 1.0
    assert score(line(UNKNOWN, context="Rex")) is None
    assert score(line(POINTS, context="a van")) is None


def test_a_probe_is_stale_where_nothing_should_be_known() -> None:
    score = SCORERS["probe_stale"]
    assert score(line(GONE, probe=(-1.0, -1.0, -3.0))) == 1.0
    assert score(line(GONE)) is None and score(line(FACT, probe=(-1.0, -2.0, -3.0))) is None
    assert score(line(replace(GONE, rejected=("Tom",)), probe=(-1.0, -2.0, -3.0))) is None
    for name in ("probe_first", "probe_margin"):
        assert SCORERS[name](line(GONE, probe=(-1.0, -2.0, -3.0))) is None


def ranked(*turns: tuple[str, float]) -> Line:
    """A line that shows these texts, with these scores."""
    names = [f"n{number}" for number in range(len(turns))]
    found = line(FACT, context="\n".join(text for text, _ in turns), shown=tuple(names))
    hits = tuple(Hit(turn=n, session="s", score=score) for n, (_, score) in zip(names, turns, strict=True))
    return replace(found, reply=replace(found.reply, ranked=hits))


@pytest.mark.parametrize(
    ("turns", "share"),
    [
        ((("Nimbus", 2.0), ("Pixel", 2.0)), 0.5),
        ((("Pixel", 2.0), ("hello", 2.0), ("Nimbus", 2.0)), 0.5),
        ((("Nimbus", 2.0), ("Nimbus again", 2.0), ("Pixel", 1.0)), 1.0),
        ((("hello", 3.0), ("Pixel", 2.0), ("Nimbus", 1.0)), 0.0),
        ((("Pixel is now Nimbus", 3.0), ("Nimbus", 2.0)), 1.0),
        ((("Pixel is now Nimbus", 3.0), ("Pixel", 2.0)), 0.0),
        ((("Pixel is now Nimbus", 3.0),), 0.0),
    ],
)
def test_newest_first_shares_ties_and_skips_turns_with_both(
    turns: tuple[tuple[str, float], ...], share: float
) -> None:
    assert SCORERS["newest_first"](ranked(*turns)) == share


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("(b)", {1}),
        ("b", {1}),
        ("B)", {1}),
        ("b.", {1}),
        ("**B**", {1}),
        ("answer: b", {1}),
        ("The answer is (b), rye bread.", {1}),
        ("Option B because of the crust", {1}),
        ("Rye bread, I believe", {1}),
        ("B. rye bread", {1}),
        ("a or b", {0, 1}),
        ("(a) and (b)", {0, 1}),
        ("rye bread or oat porridge", {0, 1}),
        ("The answer is a mystery", set()),
        ("a", {0}),
        ("I choose A", {0}),
        ("I choose B", {1}),
        ("I would go with A.", {0}),
        ("I'd pick A because of the oats", {0}),
        ("A because it is warm", {0}),
        ("B because it is dark", {1}),
        ("A, as she likes it", {0}),
        ("The best one is A", {0}),
        ("The correct answer is B, not C", {1}),
        ("The correct answer is B, not A.", {1}),
        ("The correct answer is A, not (b)", {0}),
        ("B rather than A", {1}),
        ("rye bread, not oat porridge", {1}),
        ("A or B", {0, 1}),
        ("My choice:\nA", {0}),
        ("I pick: A.", {0}),
        ("There came a knocking. He went to it at once. A", set()),
        ("A cold day. A warm one.", set()),
        ("I read A Tale of Two Cities", set()),
        ("It was a cold day. I ate.", set()),
        ("z", set()),
    ],
)
def test_how_a_choice_is_read(reply: str, named: set[int]) -> None:
    assert named_choices(reply, CHOICE.choices) == named
    assert SCORERS["choice"](line(CHOICE, reply)) == float(named == {1})


def test_an_option_that_is_ruled_out_is_not_named() -> None:
    three = (*CHOICE.choices, "apple cake")
    for reply in (
        "The correct answer is B, not C",
        "B rather than C.",
        "(b), not (c)",
        "B instead of option C",
    ):
        assert named_choices(reply, three) == {1}
    assert named_choices("rye bread, not apple cake", three) == {1}
    assert named_choices("Not A. Not B. It is C.", three) == {2}


def test_choices_with_letters_of_their_own() -> None:
    own = replace(CHOICE, choices=("(a) oat porridge", "(b) rye bread"), answers=("(b)",))
    assert SCORERS["choice"](line(own, "b")) == 1.0
    letters = replace(CHOICE, choices=("B", "A"), answers=("A",))
    assert SCORERS["choice"](line(letters, "A")) == 1.0 and SCORERS["choice"](line(letters, "(b)")) == 0.0
    assert named_choices("dark red", ("red", "dark red", "blue")) == {1}


def test_choice_support_shares_ties() -> None:
    assert SCORERS["choice_support"](line(CHOICE, context="nothing of it")) == 0.5


def test_a_rejected_value_within_an_accepted_one_is_not_stale() -> None:
    question = replace(FACT, answers=("New York City",), rejected=("New York",))
    assert SCORERS["stale"](line(question, "New York City")) == 0.0
    assert SCORERS["stale"](line(question, "New York City, before that New York")) == 1.0
    assert SCORERS["stale"](line(replace(FACT, rejected=()), "Pixel")) is None


def test_order_needs_a_kind_of_order_and_counts_what_is_missing() -> None:
    assert SCORERS["order"](line(replace(POINTS, kind="summary"), ALL_POINTS)) is None
    two = "You packed wooden boxes. \nYou hired a van."
    assert SCORERS["order"](line(POINTS, two)) == pytest.approx(2 / 3)
    assert SCORERS["order"](line(POINTS, "You hired a van.")) == 0.0
    listed = replace(POINTS, rubric=(), answers=("1. Oslo\n2. Rome\n3. Bonn",), kind="chronological")
    assert SCORERS["order"](line(listed, "Oslo, Rome, Bonn")) == 1.0
    # One of three pairs is turned round: tau = 1/3.
    assert order_score(["oslo", "rome", "bonn"], "Oslo, Bonn, Rome") == pytest.approx(2 / 3)


def test_mrr_and_sessions_by_first_appearance() -> None:
    assert SCORERS["mrr"](line(FACT, ranked=(*LOST[:3], ("t7", "s2")))) == 0.25
    # Ten turns of one session are one place in the order of sessions.
    many = tuple((f"n{n}", "m") for n in range(10))
    assert SCORERS["session_any@2"](line(FACT, ranked=(*many, ("t9", "s2")))) == 1.0
    assert SCORERS["turn_any@2"](line(FACT, ranked=(*many, ("t7", "s2")))) == 0.0


def test_shown_lines_go_with_their_turns_below_headings() -> None:
    reply = line(FACT, context="[2026-03-02]\nuser: old\n[2026-03-03]\nuser: new", shown=("t1", "t3")).reply
    reply = replace(
        reply, ranked=(Hit(turn="t3", session="s1", score=2.0), Hit(turn="t1", session="s0", score=1.0))
    )
    assert shown_by_rank(reply) == [(2.0, "user: new"), (1.0, "user: old")]
    assert shown_by_rank(replace(reply, context="a page")) == [(1.0, "a page")]


@pytest.mark.parametrize(
    "name", ["session_any", "session_any@", "session_any@0", "session_any@x", "mrr@5", "bleu"]
)
def test_an_unknown_score_is_an_error(name: str) -> None:
    with pytest.raises(InputError, match="there is no score"):
        SCORERS[name]
    assert name not in SCORERS


def test_any_k_can_be_asked_for() -> None:
    assert "turn_all@3" in SCORERS and SCORERS["turn_all@3"](line(FACT, ranked=(*LOST[:1], *FOUND))) == 1.0
    assert SCORERS["turn_all@2"](line(FACT, ranked=(*LOST[:1], *FOUND))) == 0.0


WORDS = st.lists(st.sampled_from(["red", "blue", "dog", "cat", "sky"]), max_size=6)


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_one_only_for_equal_bags(a: list[str], b: list[str]) -> None:
    value = f1(" ".join(a), " ".join(b))
    assert value == f1(" ".join(b), " ".join(a)) and 0 <= value <= 1
    assert (value == 1) == (sorted(a) == sorted(b))


@given(st.text(max_size=30), st.text(max_size=30))
def test_f1_of_any_text_is_a_share(a: str, b: str) -> None:
    assert 0 <= f1(a, b) <= 1
    assert f1(a, a) == 1
