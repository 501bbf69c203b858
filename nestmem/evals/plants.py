"""Replies whose right verdict is known, to measure a judge with. Most wrong ones are near misses: a judge that accepts
whatever sounds like the answer is to be seen.

Wrong: "other answer" (an accepted answer of another question of the same kind), "outdated" (a value that is no longer
right), "changed" (the accepted answer with a number, a month or a weekday one further), "negated", "hedge" (the right
answer or a wrong one, left open), "half" (the first half of a list), "wrong option" (of a multiple choice), and of
questions that a rubric alone judges, "other points" (those of another question) and "changed points" (its own, with
each number one further). Right: "accepted" (as the data has it) and "wrapped" (within a sentence).
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nestmem.evals.datasets.base import Question
from nestmem.evals.reading import flat, holds, right_choices

UNKNOWN = "I don't know."
UNKNOWN_WRAPPED = "I have looked through all that you told me, and I don't know."
SENTENCE_WORDS = 8
"""From so many words on an answer is no name that stands within a sentence."""
LEAST_LIST = 3
"""Parts from which on an answer between commas is a list: a place or a date has fewer."""
NUMBER = re.compile(r"(?<![\w.,])(\d+(?:,\d{3})*)(\.\d+)?(st|nd|rd|th)?(?!\w)")
WORDS = (
    [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
    ],
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "Monday"],
    # Without March and May, which are words of other meanings too; their dates have a number.
    ["January", "February"],
    ["June", "July", "August", "September", "October", "November", "December", "January"],
    ["yesterday", "today", "tomorrow"],
)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A reply whose right verdict is known. kind: one of those above."""

    question: Question
    reply: str
    right: bool
    kind: str


def plant(questions: Sequence[Question], *, n: int = 50, seed: int = 0) -> tuple[Planted, ...]:
    """Replies about up to `n` of the questions, drawn by `seed`: for each two right ones, and as many wrong ones as its
    answer has kinds of. In a wrong one no accepted answer stands, unless it is denied or left open."""
    rng = random.Random(f"planted/{seed}")
    usable = [
        question for question in questions if question.answers or question.rubric or not question.answerable
    ]
    drawn = sorted(rng.sample(range(len(usable)), min(n, len(usable))))
    found: dict[tuple[int, str], Planted] = {}
    for place in drawn:
        question = usable[place]
        for kind, reply, right in (*_right(question), *_wrong(question, usable, rng)):
            if reply:
                made = Planted(question=question, reply=reply, right=right, kind=kind)
                found.setdefault((place, reply), made)
    return tuple(found.values())


def _right(question: Question) -> Iterator[tuple[str, str, bool]]:
    if not question.answerable:
        yield "accepted", UNKNOWN, True
        yield "wrapped", UNKNOWN_WRAPPED, True
        return
    said = question.answers[0] if question.answers else "\n".join(question.rubric)
    yield "accepted", said, True
    yield "wrapped", wrapped(said), True


def wrapped(answer: str) -> str:
    """An answer as a person says it.

    >>> wrapped("Rex"), wrapped("You moved to Oslo in May, and you took the dog along.")
    ('As far as I remember, it was Rex.', 'As far as I remember: You moved to Oslo in May, and you took the dog along.')
    """
    if _is_sentence(answer):
        return f"As far as I remember: {answer}"
    return f"As far as I remember, it was {answer}."


def _wrong(
    question: Question, others: Sequence[Question], rng: random.Random
) -> Iterator[tuple[str, str | None, bool]]:
    other = _other(question, others, rng)
    if question.rubric and not question.answers:
        whole = "\n".join(question.rubric)
        yield "other points", other, False
        yield "changed points", _if(whole, changed(whole)), False
        return
    yield "other answer", other, False
    if not question.answerable:
        return
    answer, options = question.answers[0], _wrong_options(question)
    outdated = next(iter(question.rejected), None)
    for kind, reply in (
        ("outdated", outdated),
        ("changed", None if options else _if(answer, changed(answer))),
        ("half", None if options else half(answer)),
        ("wrong option", rng.choice(options) if options else None),
    ):
        yield kind, reply if reply and not _right_stands(reply, question) else None, False
    yield "negated", negated(answer), False
    false = rng.choice(options) if options else outdated or other
    if false and not _right_stands(false, question):
        pair = [answer, false] if rng.random() < 0.5 else [false, answer]
        yield "hedge", f"Either {_bare(pair[0])} or {_bare(pair[1])}, one of the two.", False


def _other(question: Question, others: Sequence[Question], rng: random.Random) -> str | None:
    """What is right for another question: of the same kind, else (what is not known has none) of any."""
    points = bool(question.rubric and not question.answers)
    fits = [
        "\n".join(other.rubric) if points else other.answers[0]
        for other in others
        if (other.rubric if points else other.answers)
        and (other.kind == question.kind or not question.answerable)
        and other is not question
    ]
    if points:
        fits = [reply for reply in fits if not set(reply.split("\n")) & set(question.rubric)]
    else:
        fits = [reply for reply in fits if flat(reply) and not _right_stands(reply, question)]
    return rng.choice(fits) if fits else None


def _right_stands(reply: str, question: Question) -> bool:
    """Whether an accepted answer stands in a reply that is to be wrong, or the reply in it as a shorter form."""
    short = (
        any(holds(own, reply) for own in question.answers)
        and len(half_parts(question.answers[0])) < LEAST_LIST
    )
    return short or any(holds(reply, own) for own in question.answers)


def _wrong_options(question: Question) -> list[str]:
    right = right_choices(question.choices, question.answers)
    return [choice for place, choice in enumerate(question.choices) if right and place not in right]


def _if(before: str, after: str) -> str | None:
    return None if before == after else after


def _bare(answer: str) -> str:
    return answer.strip().rstrip(".!")


def _is_sentence(answer: str) -> bool:
    return (
        len(answer.split()) >= SENTENCE_WORDS or answer.rstrip().endswith((".", "!", "?")) or "\n" in answer
    )


def negated(answer: str) -> str:
    """An answer denied.

    >>> negated("Rex"), negated("Yes, in May"), negated("No")
    ('It was not Rex.', 'No.', 'Yes.')
    """
    first = flat(answer).split(" ", 1)[0]
    if first in ("yes", "no"):
        return "No." if first == "yes" else "Yes."
    if _is_sentence(answer):
        return f"It is not the case that {answer[:1].lower()}{answer[1:]}"
    return f"It was not {answer}."


def changed(text: str) -> str:
    """A text with each number one further; where it has none, the first number word, month or weekday; else as it is.

    >>> changed("on the 21st of May 2023, for 1,999 pounds"), changed("three dogs"), changed("a dog")
    ('on the 22nd of May 2024, for 2,000 pounds', 'four dogs', 'a dog')
    """

    def further(match: re.Match[str]) -> str:
        digits, rest, ending = match.groups()
        if len(digits) == 2 and text[: match.start()].endswith(":"):  # The minutes of a time.
            return match.group()
        number = int(digits.replace(",", "")) + 1
        said = f"{number:,}" if "," in digits else f"{number:0{len(digits)}d}"
        return said + (rest or "") + (_ordinal(number) if ending else "")

    made = NUMBER.sub(further, text)
    if made != text:
        return made
    for row in WORDS:
        for before, after in itertools.pairwise(row):
            if match := re.search(rf"\b{before}\b", text, re.IGNORECASE if row is WORDS[0] else 0):
                shown = after.capitalize() if match.group()[0].isupper() else after
                return text[: match.start()] + shown + text[match.end() :]
    return text


def _ordinal(number: int) -> str:
    return "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def half(answer: str) -> str | None:
    """The first half of a list; None of what is no list.

    >>> half("salt, bread and milk"), half("Paris, France"), half("a cat; two dogs; a goat; a hen")
    ('salt', None, 'a cat, two dogs')
    """
    parts = half_parts(answer)
    return ", ".join(parts[: len(parts) // 2]) if len(parts) >= LEAST_LIST else None


def half_parts(answer: str) -> list[str]:
    """The parts of an answer that is a list of short things; one part of any other."""
    mark = next((mark for mark in ("\n", ";", ",") if mark in answer.strip()), None)
    if mark is None or len(answer.split()) > 60:
        return [answer]
    last = r"\s+and\s+|" if mark == "," else ""
    parts = [part.strip(" .-*•\n") for part in re.split(rf"{last}{mark}\s*(?:and\s+)?", answer)]
    parts = [part for part in parts if part]
    # The parts of a sentence, or of a date, are no things of a list.
    if mark != "\n" and any(len(part.split()) > 4 or part.isdecimal() for part in parts):
        return [answer]
    return parts
