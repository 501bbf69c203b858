"""The audit: planted mistakes are found, clean data is not flagged."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from nestmem.evals.audit import Finding, audit, shuffle_test, tail
from nestmem.evals.datasets.base import Dataset, Question, Stream, Turn

AT = datetime(2026, 3, 2, tzinfo=UTC)
THINGS = ("ferret", "kayak", "violin", "oven", "tent", "clock", "bonsai", "scooter", "teapot", "ladder")
NAMES = ("Nimbus", "Pixel", "Rex", "Bruno", "Tilly", "Otto", "Greta", "Ziggy", "Mona", "Hector")
CITIES = ("Oslo", "Rome", "Bonn", "Turin", "Lyon", "Porto", "Ghent", "Cork", "Graz", "Bergen")


def stream(name: str, seed: int) -> Stream:
    """Ten things with a name and ten with a city, each told in a turn of its own and asked at the end."""
    rng = random.Random(seed)
    names, cities = rng.sample(NAMES, 10), rng.sample(CITIES, 10)
    turns, questions = [], []
    for n, thing in enumerate(THINGS):
        for part, value, told, asked in (
            (
                "name",
                names[n],
                f"My {thing} is called {names[n]}, {name} said.",
                f"What is my {thing} called by {name}?",
            ),
            (
                "city",
                cities[n],
                f"I bought that {thing} in {cities[n]}.",
                f"Where did I buy the {thing}, {name}?",
            ),
        ):
            id_ = f"{part}{n}"
            turns.append(
                Turn(
                    id=id_,
                    session=f"s{n // 2}",
                    role="user",
                    text=told,
                    at=AT + timedelta(minutes=len(turns)),
                )
            )
            questions.append(
                Question(id=id_, text=asked, kind=part, after=20, answers=(value,), evidence=(id_,))
            )
    return Stream(id=name, turns=tuple(turns), questions=tuple(questions))


def dataset(*streams: Stream) -> Dataset:
    return Dataset(streams=streams or (stream("ada", 1), stream("bo", 2)), source="generated")


def with_questions(change) -> Dataset:
    """The clean data, each stream's questions changed."""
    clean = dataset()
    return dataset(*(replace(s, questions=tuple(change(list(s.questions)))) for s in clean.streams))


def one(found: tuple[Finding, ...], words: str) -> Finding:
    (finding,) = [finding for finding in found if words in finding.what]
    return finding


def test_clean_data_is_not_flagged() -> None:
    assert audit(dataset()) == ()


def test_the_same_data_gives_the_same_findings() -> None:
    shuffled = with_questions(lambda qs: [replace(q, evidence=("name0",)) for q in qs])
    assert audit(shuffled) == audit(shuffled)


def test_shuffled_evidence_is_found() -> None:
    def shift(questions: list[Question]) -> list[Question]:
        evidence = [q.evidence for q in questions]
        evidence = evidence[6:] + evidence[:6]
        return [replace(q, evidence=e) for q, e in zip(questions, evidence, strict=True)]

    finding = one(audit(with_questions(shift)), "evidence labels look shuffled")
    assert finding.severity == "error" and finding.count == 40


def test_shuffled_answers_are_found() -> None:
    def shift(questions: list[Question]) -> list[Question]:
        answers = [q.answers for q in questions]
        answers = answers[6:] + answers[:6]
        return [replace(q, answers=a) for q, a in zip(questions, answers, strict=True)]

    found = audit(with_questions(shift))
    assert one(found, "answers look shuffled").severity == "warning"
    assert not [finding for finding in found if "evidence labels" in finding.what]


def test_streams_of_one_question_are_shuffled_among_each_other() -> None:
    asked = [stream(f"p{n}", n) for n in range(30)]
    # Without the names of people, which would tell the streams apart whatever the labels.
    asked = [
        replace(s, turns=tuple(replace(turn, text=turn.text.replace(s.id, "")) for turn in s.turns))
        for s in asked
    ]
    right = [replace(s, questions=(s.questions[n % 20],)) for n, s in enumerate(asked)]
    assert not [f for f in audit(dataset(*right)) if "shuffled" in f.what]
    wrong = [
        replace(s, questions=(replace(s.questions[0], evidence=(s.turns[(n + 7) % 20].id,)),))
        for n, s in enumerate(right)
    ]
    assert one(audit(dataset(*wrong)), "evidence labels look shuffled").severity == "error"


def test_a_permutation_test_needs_data() -> None:
    pairs = [("", frozenset({f"w{n}"}), frozenset({f"w{n}", "x"})) for n in range(30)]
    assert shuffle_test(pairs) == pytest.approx(1 / 200)
    assert shuffle_test(pairs[:19]) is None
    assert shuffle_test([("", left, frozenset({"x"})) for _, left, _ in pairs]) is None
    apart = [("", frozenset({f"a{n}"}), frozenset({f"w{n}"})) for n in range(30)]
    assert shuffle_test(apart) is None


def test_planted_duplicates_are_found() -> None:
    first = dataset().streams[0]
    again = replace(first.questions[0], id="again", answers=("Zorro",))
    found = audit(dataset(replace(first, questions=(*first.questions, again))))
    finding = one(found, "asked twice at one place with different answers")
    assert (finding.severity, finding.count, finding.examples) == ("warning", 1, ("ada again",))
    same = replace(first.questions[0], id="again")
    found = audit(dataset(replace(first, questions=(*first.questions, same))))
    assert one(found, "with the same answer").examples == ("ada again",)
    contrary = [replace(q, id=f"{q.id}x", answers=("Zorro",)) for q in first.questions[:3]]
    found = audit(dataset(replace(first, questions=(*first.questions, *contrary))))
    assert one(found, "with different answers").severity == "error"


def test_asking_again_later_or_in_another_stream_is_no_duplicate() -> None:
    first = dataset().streams[0]
    early = replace(first.questions[0], id="early", after=1)
    assert audit(dataset(replace(first, questions=(*first.questions, early)))) == ()
    other = replace(stream("bo", 2), questions=(replace(first.questions[0], answers=("Pixel",)),))
    finding = one(audit(dataset(first, other)), "another stream asks")
    assert (finding.severity, finding.count) == ("note", 1)


def test_a_turn_told_twice_is_found() -> None:
    first = dataset().streams[0]
    long = replace(
        first.turns[0], id="long", text="I told you at length about the old mill by the river " * 2
    )
    twice = replace(long, id="long2")
    found = audit(dataset(replace(first, turns=(*first.turns, long, twice))))
    assert (one(found, "told before").severity, one(found, "told before").examples) == (
        "note",
        ("ada long2",),
    )
    asked = Question(
        id="m", text="Which mill?", kind="x", after=22, answers=("old mill",), evidence=("long",)
    )
    found = audit(dataset(replace(first, turns=(*first.turns, long, twice), questions=(asked,))))
    assert one(found, "are evidence").severity == "warning"


def test_leaked_answers_are_found() -> None:
    leaked = with_questions(
        lambda qs: [replace(q, text=f"{q.text} Not {q.answers[0]}?") if q.id == "name3" else q for q in qs]
    )
    finding = one(audit(leaked), "stands in their own text")
    assert (finding.count, finding.examples) == (2, ("ada name3", "bo name3"))
    options = with_questions(
        lambda qs: [
            replace(q, text=f"{q.text} {q.answers[0]} / Zorro", choices=(q.answers[0], "Zorro")) for q in qs
        ]
    )
    assert not [f for f in audit(options) if "own text" in f.what]


def test_a_question_that_was_told_is_found() -> None:
    first = dataset().streams[0]
    told = replace(
        first.turns[0], id="told", text=f"Someone asked: {first.questions[4].text.upper()} Answer it."
    )
    late = replace(first, turns=(*first.turns, told))
    assert audit(dataset(late)) == ()
    # Asked before it was told is no leak; after it is.
    questions = tuple(replace(q, after=21) for q in first.questions)
    finding = one(audit(dataset(replace(late, questions=questions))), "word for word")
    assert finding.examples == (f"ada {first.questions[4].id}",)


def choices(place, *, long: bool = False) -> Dataset:
    """Four options; `place(n)` says where the right one stands."""

    def change(questions: list[Question]) -> list[Question]:
        made = []
        for n, question in enumerate(questions):
            options = ["Zorro", "Fidelio", "Salome" + str(n % 3)]
            right = question.answers[0] + (" of the old house" if long else "")
            options.insert(place(n), right)
            made.append(replace(question, answers=(right,), choices=tuple(options)))
        return made

    return with_questions(change)


def test_a_right_option_at_one_place_is_found() -> None:
    finding = one(audit(choices(lambda n: 2)), "stands at place 3")
    assert (finding.severity, finding.count) == ("error", 40)
    finding = one(audit(choices(lambda n: 2 if n % 4 else 0)), "stands at place 3")
    assert finding.severity == "warning"
    assert not [f for f in audit(choices(lambda n: n % 4)) if "place" in f.what or "longest" in f.what]


def test_a_right_option_that_is_longest_is_found() -> None:
    assert one(audit(choices(lambda n: n % 4, long=True)), "longest").severity == "error"


def test_an_answer_that_is_no_option_is_found() -> None:
    broken = with_questions(lambda qs: [replace(q, choices=("Zorro", "Fidelio")) for q in qs])
    assert one(audit(broken), "none of the options").count == 40


def test_missing_evidence_and_absent_answers_are_noted() -> None:
    bare = with_questions(lambda qs: [replace(q, evidence=()) if q.id == "name0" else q for q in qs])
    assert one(audit(bare), "without evidence").severity == "note"
    absent = with_questions(lambda qs: [replace(q, answers=("Zorro",)) if q.id == "name0" else q for q in qs])
    assert one(audit(absent), "stands in no turn").count == 2
    unknown = with_questions(
        lambda qs: [
            replace(q, answers=(), answerable=False, evidence=()) if q.id == "name0" else q for q in qs
        ]
    )
    assert audit(unknown) == ()


def test_dates_that_run_backwards_within_a_session_are_found() -> None:
    first = dataset().streams[0]
    turns = list(first.turns)
    turns[1] = replace(turns[1], at=AT - timedelta(days=1))
    # The first turn of the next session is earlier than the last of this one, which is no mistake here.
    turns[4] = replace(turns[4], at=AT - timedelta(days=9))
    finding = one(audit(dataset(replace(first, turns=tuple(turns)))), "dated before")
    assert finding.examples == ("ada city0",)


def test_findings_hold_no_text_of_the_data() -> None:
    shuffled = with_questions(lambda qs: [replace(q, answers=("Zorro",), evidence=()) for q in qs])
    said = repr(audit(shuffled))
    assert "Zorro" not in said and "ferret" not in said


def test_the_binomial_tail() -> None:
    assert tail(0, 5, 0.25) == pytest.approx(1.0)
    assert tail(3, 3, 0.5) == pytest.approx(0.125)
    assert tail(2, 3, 0.5) == pytest.approx(0.5)


def rotated(values: list, every: int) -> list:
    """Each `every`th value moved on among themselves: a partial shuffle."""
    made = list(values)
    places = list(range(0, len(values), every))
    for place, source in zip(places, places[1:] + places[:1], strict=True):
        made[place] = values[source]
    return made


@pytest.mark.parametrize("part", ["evidence", "answers"])
def test_a_fifth_of_the_labels_shuffled_is_found(part: str) -> None:
    def shuffle(questions: list[Question]) -> list[Question]:
        moved = rotated([getattr(q, part) for q in questions], 5)
        return [replace(q, **{part: value}) for q, value in zip(questions, moved, strict=True)]

    data = with_questions(shuffle)
    finding = one(audit(data), "in none of its evidence")
    assert (finding.severity, finding.count) == ("warning", 8)
    assert finding.examples[:2] == ("ada name0", "ada city2")
    assert "to 20% of labels may be wrong" in finding.what
    # Half of the moved evidence shares a word with the question by chance, as much as its own.
    assert f"about {'10' if part == 'evidence' else '0'}% (" in finding.what, finding.what
    # Too few for the test by permutations, which is of all labels together.
    assert not [f for f in audit(data) if "look shuffled" in f.what]


def test_an_answer_in_other_turns_is_not_held_against_evidence_that_has_it() -> None:
    first = dataset().streams[0]
    turns = tuple(
        replace(turn, text=f"{turn.text} I like {first.questions[0].answers[0]} best.") if n < 3 else turn
        for n, turn in enumerate(first.turns)
    )
    assert not [f for f in audit(dataset(replace(first, turns=turns))) if "none of its evidence" in f.what]
    # A word of many turns, a part of a word and what is said later tell nothing.
    name = first.questions[0].answers[0]
    for words, many in ((name, 9), (f"{name}ish", 3), (f"mc{name}", 3)):
        told = tuple(
            replace(turn, text="Well. " + words * (0 < n <= many)) for n, turn in enumerate(first.turns)
        )
        asked = replace(first, turns=told, questions=first.questions[:1])
        assert not [f for f in audit(dataset(asked)) if "none of its evidence" in f.what], words
    told = tuple(replace(turn, text="Well. " + name * (n == 9)) for n, turn in enumerate(first.turns))
    early = replace(first, turns=told, questions=(replace(first.questions[0], after=5),))
    assert not [f for f in audit(dataset(early)) if "none of its evidence" in f.what]
    late = replace(early, questions=first.questions[:1])
    assert one(audit(dataset(late)), "none of its evidence").count == 1


def test_a_stream_that_is_entered_twice_is_an_error() -> None:
    first, second = dataset().streams
    again = replace(first, id="ada again")
    finding = one(audit(dataset(first, second, again)), "entered twice")
    assert (finding.severity, finding.count, finding.examples) == ("error", 1, ("ada ada again",))
    # Other questions about the same turns are no second entry.
    apart = replace(first, questions=first.questions[:10]), replace(again, questions=first.questions[10:])
    found = audit(dataset(*apart))
    assert one(found, "and other questions").severity == "warning"
    assert not [f for f in found if "entered twice" in f.what]


def test_a_rejected_value_that_is_accepted_is_an_error() -> None:
    both = with_questions(
        lambda qs: [
            replace(q, rejected=("Zorro", f"the {q.answers[0].upper()}.")) if q.id == "city1" else q
            for q in qs
        ]
    )
    finding = one(audit(both), "reject a value that they accept")
    assert (finding.severity, finding.count, finding.examples) == ("error", 2, ("ada city1", "bo city1"))
    assert audit(with_questions(lambda qs: [replace(q, rejected=("Zorro",)) for q in qs])) == ()


def test_nearly_the_same_question_is_found() -> None:
    first = dataset().streams[0]
    text = first.questions[0].text
    near = replace(first.questions[0], id="near", text=text.upper().replace("?", " ?!").replace("MY", "my,"))
    finding = one(audit(dataset(replace(first, questions=(*first.questions, near)))), "case, punctuation")
    assert (finding.severity, finding.examples) == ("warning", ("ada near",))
    later = replace(near, after=19)
    assert not [
        f for f in audit(dataset(replace(first, questions=(*first.questions, later)))) if "case," in f.what
    ]


CLASSES = {
    "417": ("card", "bank", "pin", "cash", "loan"),
    "230": ("bus", "train", "ticket", "seat", "ferry"),
    "555": ("rain", "snow", "wind", "storm", "cloud"),
    "901": ("soup", "bread", "cheese", "salad", "roast"),
}


def taught(shuffle: str = "") -> Dataset:
    """Ten utterances of each of four classes, and three questions of each."""
    rng = random.Random(4)
    told = [
        (f"tell me of the {' and '.join(rng.sample(words, 2))}", label)
        for label, words in CLASSES.items()
        for _ in "x" * 10
    ]
    asked = [
        (f"what about the {' or '.join(rng.sample(words, 2))}", label)
        for label, words in CLASSES.items()
        for _ in "x" * 6
    ]
    for part, rows in (("told", told), ("asked", asked)):
        if part == shuffle:
            labels = [label for _, label in rows]
            rng.shuffle(labels)
            rows[:] = [(text, label) for (text, _), label in zip(rows, labels, strict=True)]
    turns = tuple(
        Turn(id=f"t{n}", session="s", role="user", text=f"{text} -> {label}")
        for n, (text, label) in enumerate(told)
    )
    questions = tuple(
        Question(id=f"q{n}", text=f"Which label has: {text}?", kind="label", after=40, answers=(label,))
        for n, (text, label) in enumerate(asked)
    )
    return dataset(Stream(id="classes", turns=turns, questions=questions))


def test_shuffled_labels_of_told_classes_are_found() -> None:
    assert not [f for f in audit(taught()) if "labels look shuffled" in f.what]
    finding = one(audit(taught("told")), "told labels look shuffled")
    assert finding.severity == "warning" and "of 40 texts (by chance 9)" in finding.what
    found = audit(taught("asked"))
    assert one(found, "asked labels look shuffled").severity == "warning"
    assert not [f for f in found if "told labels" in f.what]


def test_other_turns_with_an_arrow_are_no_classes() -> None:
    first = dataset().streams[0]
    turns = tuple(replace(turn, text=f"{turn.text} -> ok {n}") for n, turn in enumerate(first.turns))
    assert not [f for f in audit(dataset(replace(first, turns=turns))) if "labels look" in f.what]
