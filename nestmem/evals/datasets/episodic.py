"""Episodic recall: events with a date, a place, a person and a happening, and questions from some of these to others.

In the manner of the episodic memory benchmark of Huet et al. (arXiv 2501.13121, "Tulving"): a book of chapters, each
one event; questions give some of date, place, person and happening, and ask for all values of another, where none,
one or several events match; others ask for the values in the order of time, or for the latest. Their book is written
by a language model; this one by templates and lists of this project, so that every answer is known to stand in the
text once for each event. Each chapter is one message; chapters are told in random order, so time stands in the text
alone.

Kinds: the number of values that are right ("1", "2", "3-5", "6+"), "0" where no event matches (the right reply is
that it is not known), "chronological" (the rubric is in the order of time) and "latest" (the values of earlier
events are outdated). `rubric` counts the values that a reply holds: it measures what is missing, not what is too
much. Evidence: the chapters of all matching events. Questions that begin from the same date, place, person or
happening of one book are one cluster.

An example:

>>> stream = book(events=200, questions=120, seed=0)
>>> for sentence in stream.turns[5].text.split(". "):
...     print(sentence)
Chapter 6
Hardly anyone had expected the boxing bout, but on 21 June it drew Ludo Quill to the Heron Lake
In between, a child lost one blue glove; hardly anybody noticed
What people talked about afterwards was that two strangers found out that they were cousins
There was talk of doing it again, though no one set a day.
>>> question = next(question for question in stream.questions if question.kind == "2")
>>> print(question.text.replace(". ", ".\\n"))
Think of all events told of that took place at the Ferry Terminal and had Odile Whitlock as the main figure.
List their kinds of happening.
>>> question.rubric, question.evidence
(('vaccination campaign', 'magic performance'), ('chapter-56', 'chapter-86'))
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Dataset, Licence, Question, Stream, Task, Turn

START = date(2027, 1, 4)
DAYS = 350
SESSION_CHAPTERS = 10
CANDIDATES = 10
TRIES = 400
MOST = 40
"""How many events a question may ask for."""
KINDS = ("0", "1", "2", "3-5", "6+", "chronological", "latest")

# No word stands twice in these lists of values, so that no value is mistaken for part of another.
FIRST = (
    "Mara", "Ivo", "Tilda", "Casper", "Noor", "Edwin", "Saskia", "Bram", "Leonie", "Otto", "Farah", "Jonas",
    "Petra", "Amos", "Wanda", "Rufus", "Elin", "Dario", "Greta", "Hugo", "Yara", "Magnus", "Odile", "Silas",
    "Berit", "Tomas", "Zelda", "Anton", "Frida", "Konrad", "Lucia", "Emil", "Nadia", "Viggo", "Selma",
    "Arno", "Katya", "Ludo", "Irena", "Piet",
)  # fmt: skip
LAST = (
    "Ostrow", "Kettler", "Brandeis", "Lindqvist", "Amari", "Fennick", "Dorval", "Hasker", "Quill",
    "Navarro", "Tremaine", "Bekker", "Solano", "Wexford", "Idris", "Calloway", "Strand", "Pereira", "Holm",
    "Vasquez", "Rennick", "Aldous", "Moreau", "Thorne", "Kimura", "Radley", "Sand", "Whitlock", "Okafor",
    "Grieve", "Lennox", "Mercer", "Novak", "Pell", "Ashdown", "Rook", "Castell", "Varga", "Winslow",
    "Yates",
)  # fmt: skip
PLACES = (
    "Harbour Library", "Linden Park", "Copper Mill", "Granite Bridge", "Saint Agnes Chapel", "Northgate Station",
    "Willow Theatre", "Crescent Market", "Old Brewery", "Falcon Tower", "Juniper Gardens", "Tram Depot",
    "Marble Courthouse", "Heron Lake", "Clock Museum", "Velvet Cinema", "Orchard School", "Ferry Terminal",
    "Sundial Square", "Amber Gallery", "Lower Quarry", "Pine Observatory", "Canal Warehouse", "Rose Hospital",
    "Salt Pier", "Windmill Hill", "Glass Arcade", "Foundry Yard", "Swan Hotel", "Meadow Stadium", "Cedar Archive",
    "Lantern Alley", "Raven Castle", "Shipwright Hall", "Opal Fountain", "Birch Campsite", "Tidal Aquarium",
    "Mason Workshop", "Kite Beach", "Violet Conservatory",
)  # fmt: skip
HAPPENINGS = (
    "chess tournament", "bread contest", "poetry reading", "kitchen fire", "jazz concert", "bicycle race",
    "stamp auction", "robot demonstration", "wedding party", "photography course", "debating match", "puppet show",
    "power failure", "book fair", "dog parade", "marathon relay", "pottery class", "silent protest",
    "science lecture", "cheese tasting", "fashion shoot", "flood drill", "choir rehearsal", "tango evening",
    "job interview", "treasure hunt", "magic performance", "chemistry experiment", "flower exhibition",
    "boxing bout", "eclipse watch", "tax hearing", "radio broadcast", "farewell dinner", "archery lesson",
    "ballet audition", "cooking duel", "ghost tour", "spelling bee", "vaccination campaign",
)  # fmt: skip
DETAILS = (
    "a red umbrella was left behind on a bench", "someone spilled tea over the guest list",
    "two strangers found out that they were cousins", "a brass button was handed in at the door",
    "the lamps flickered three times", "an old man hummed the same tune all along", "a child lost one blue glove",
    "nobody could find the key to the cupboard", "a letter arrived that had been on its way for a year",
    "the coffee ran out before noon", "a sparrow flew in and would not leave", "the microphone failed at the start",
    "a bet was won by a baker", "the tallest guest hit the door frame twice", "a map was drawn on a napkin",
    "somebody had brought far too many plums", "a ladder was borrowed and never returned",
    "the wind carried a hat onto the roof", "a speech was cut short by laughter", "a painter sketched all of it",
)  # fmt: skip
OPENERS = (
    "On {t}, {p} came to {s} for the {c}.",
    "It was {t} when {p} took part in the {c} at {s}.",
    "{p} remembers {t} well: it was the day of the {c} at {s}.",
    "The {c} at {s} took place on {t}, and {p} was in the middle of it.",
    "At {s}, on {t}, {p} found a place in the first row of the {c}.",
    "Hardly anyone had expected the {c}, but on {t} it drew {p} to {s}.",
)
MIDDLES = (
    "Before long, {d}.",
    "What people talked about afterwards was that {d}.",
    "Halfway through, {d}, and everything stopped for a moment.",
    "It began calmly, until {d}.",
    "In between, {d}; hardly anybody noticed.",
)
ENDS = (
    "By evening it was over and the street was quiet again.",
    "The way home was long, and nobody minded.",
    "A short note about it was pinned to the wall the next morning.",
    "Later the chairs were stacked and the floor was swept.",
    "There was talk of doing it again, though no one set a day.",
    "It ended earlier than planned, with handshakes all round.",
)
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
ASPECTS = ("t", "s", "p", "c")
CUES = {
    "t": "happened on {}",
    "s": "took place at {}",
    "p": "had {} as the main figure",
    "c": 'were of the kind "{}"',
}
TARGETS = {"t": "dates", "s": "places", "p": "main figures", "c": "kinds of happening"}
ONE = {"t": "date", "s": "place", "p": "main figure", "c": "kind of happening"}


@dataclass(frozen=True, kw_only=True)
class Event:
    """One chapter's event. t: its date as it stands in the text; s: the place; p: the main figure; c: what happened;
    day: the date."""

    t: str
    s: str
    p: str
    c: str
    day: date

    def value(self, aspect: str) -> str:
        """Its date, place, person or happening as it stands in the text."""
        return {"t": self.t, "s": self.s, "p": self.p, "c": self.c}[aspect]


def load(
    folder: Path | None, *, events: int = 200, questions: int = 60, books: int = 2, seed: int = 0
) -> Dataset:
    """`books` books of `events` chapters each, with `questions` about each."""
    if events < 20:
        raise InputError(
            f"episodic with {events} events; it takes 20 or more for questions with several answers"
        )
    streams = tuple(
        book(events=events, questions=questions, seed=seed, number=number) for number in range(books)
    )
    missing = books * questions - sum(len(stream.questions) for stream in streams)
    return Dataset(
        streams=streams,
        source="generated",
        left_out={"questions that the book has too few events for": missing} if missing else {},
    )


def book(*, events: int, questions: int, seed: int, number: int = 0) -> Stream:
    """The chapters in random order, then the questions, as many of each kind as the book has room for."""
    rng = random.Random(f"episodic/{seed}/{number}")
    name = f"book-{number}"
    lived = _events(events, rng)
    turns = tuple(
        Turn(
            id=f"chapter-{place}",
            session=f"part-{(place - 1) // SESSION_CHAPTERS + 1}",
            role="user",
            text=_chapter(place, event, rng),
        )
        for place, event in enumerate(lived, 1)
    )
    places = {event: turn.id for event, turn in zip(lived, turns, strict=True)}
    asked: list[Question] = []
    seen: set[str] = set()
    having: dict[tuple[str, str], set[Event]] = defaultdict(set)
    for event in lived:
        for aspect in ASPECTS:
            having[aspect, event.value(aspect)].add(event)
    for asking in range(questions):
        question = _ask(KINDS[asking % len(KINDS)], f"{name}/{asking}", lived, having, places, seen, rng)
        if question is not None:
            asked.append(question)
    return Stream(id=name, turns=turns, questions=tuple(asked))


def _events(count: int, rng: random.Random) -> list[Event]:
    """Distinct events. Some people, places, happenings and days come up often and most seldom (weight 1/(rank+4))."""
    firsts, lasts = rng.sample(FIRST, len(FIRST)), rng.sample(LAST, len(LAST))
    people = [f"{first} {last}" for first, last in zip(firsts, lasts, strict=True)]
    days = rng.sample(range(DAYS), min(DAYS, max(40, count // 2)))
    pools: dict[str, list[Any]] = {
        "t": days,
        "s": [f"the {place}" for place in PLACES],
        "p": people,
        "c": list(HAPPENINGS),
    }
    for pool in pools.values():
        rng.shuffle(pool)
    found: dict[Event, None] = {}
    while len(found) < count:
        drawn = {
            aspect: rng.choices(pool, weights=[1 / (rank + 4) for rank in range(len(pool))])[0]
            for aspect, pool in pools.items()
        }
        day = START + timedelta(days=drawn.pop("t"))
        found[Event(t=f"{day.day} {MONTHS[day.month - 1]}", day=day, **drawn)] = None
    return list(found)


def _chapter(number: int, event: Event, rng: random.Random) -> str:
    """Three to five sentences in one line."""
    values = {aspect: event.value(aspect) for aspect in ASPECTS}
    middles = [
        middle.format(d=detail)
        for middle, detail in zip(rng.sample(MIDDLES, 2), rng.sample(DETAILS, 2), strict=True)
    ]
    sentences = [rng.choice(OPENERS).format(**values), *middles[: rng.randint(1, 2)], rng.choice(ENDS)]
    first = sentences[0]
    return f"Chapter {number}. " + " ".join([first[0].upper() + first[1:], *sentences[1:]])


# --- questions -------------------------------------------------------------------------------------


def kind_of(count: int) -> str:
    """The kind of a question with `count` right values.

    >>> [kind_of(count) for count in (0, 1, 2, 3, 5, 6)]
    ['0', '1', '2', '3-5', '3-5', '6+']
    """
    return str(count) if count < 3 else "3-5" if count < 6 else "6+"


def _ask(
    kind: str,
    name: str,
    lived: Sequence[Event],
    having: Mapping[tuple[str, str], set[Event]],
    places: dict[Event, str],
    seen: set[str],
    rng: random.Random,
) -> Question | None:
    """A question of a kind that was not asked yet; None when none was drawn."""
    makers: dict[str, Callable[..., Question | None]] = {"chronological": _in_order, "latest": _latest}
    for _ in range(TRIES):
        event = rng.choice(lived)
        cues = _cues(kind, event, lived, rng)
        fitting = set.intersection(*(having[cue] for cue in cues.items()))
        if (kind == "0") != (not fitting) or len(fitting) > MOST:
            continue
        matching = [one for one in places if one in fitting]
        target = rng.choice([aspect for aspect in ASPECTS if aspect not in cues])
        made = makers.get(kind, _listed)(name, cues, target, matching, lived, places, rng)
        if made is not None and made.kind == kind and made.text not in seen:
            seen.add(made.text)
            return made
    return None


def _cues(kind: str, event: Event, lived: Sequence[Event], rng: random.Random) -> dict[str, str]:
    """One or two things that are known of an event; of kind "0", two that no event has together."""
    aspects = sorted(rng.sample(ASPECTS, rng.choice((1, 2))), key=ASPECTS.index)
    if kind in ("chronological", "latest"):
        aspects = [rng.choice(("s", "p", "c"))]
    if kind == "0":
        aspects = sorted(rng.sample(ASPECTS, 2), key=ASPECTS.index)
        return {aspects[0]: event.value(aspects[0]), aspects[1]: rng.choice(lived).value(aspects[1])}
    return {aspect: event.value(aspect) for aspect in aspects}


def _phrase(cues: dict[str, str]) -> str:
    return " and ".join(CUES[aspect].format(value) for aspect, value in cues.items())


def _cluster(name: str, cues: dict[str, str]) -> str:
    """Questions that begin from one value are on the same events, so they go together in standard errors."""
    return f"{name.split('/')[0]}/{next(iter(cues.values()))}"


def _listed(
    name: str,
    cues: dict[str, str],
    target: str,
    matching: Sequence[Event],
    lived: Sequence[Event],
    places: dict[Event, str],
    rng: random.Random,
) -> Question:
    values = tuple(dict.fromkeys(event.value(target) for event in matching))
    return Question(
        id=name,
        text=f"Think of all events told of that {_phrase(cues)}. List their {TARGETS[target]}.",
        kind=kind_of(len(values)),
        after=len(lived),
        answers=values if len(values) == 1 else (),
        answerable=bool(values),
        evidence=tuple(places[event] for event in matching),
        rubric=values,
        cluster=_cluster(name, cues),
        candidates=_candidates(values[0], target, values, lived, rng) if len(values) == 1 else (),
    )


def _in_order(
    name: str,
    cues: dict[str, str],
    target: str,
    matching: Sequence[Event],
    lived: Sequence[Event],
    places: dict[Event, str],
    rng: random.Random,
) -> Question | None:
    """Three to eight events on different days, with different values."""
    ordered = sorted(matching, key=lambda event: event.day)
    values = tuple(event.value(target) for event in ordered)
    if not 3 <= len(values) <= 8 or len({event.t for event in ordered}) < len(values) or target == "t":
        return None
    if len(set(values)) < len(values):
        return None
    return Question(
        id=name,
        text=f"Think of all events told of that {_phrase(cues)}. List their {TARGETS[target]} by date, the earliest "
        "first.",
        kind="chronological",
        after=len(lived),
        evidence=tuple(places[event] for event in ordered),
        rubric=values,
        cluster=_cluster(name, cues),
    )


def _latest(
    name: str,
    cues: dict[str, str],
    target: str,
    matching: Sequence[Event],
    lived: Sequence[Event],
    places: dict[Event, str],
    rng: random.Random,
) -> Question | None:
    """Two or more events; the latest day has one, and its value is not an earlier one's."""
    ordered = sorted(matching, key=lambda event: event.day)
    if len(ordered) < 2 or ordered[-1].day == ordered[-2].day:
        return None
    value, earlier = ordered[-1].value(target), tuple(dict.fromkeys(e.value(target) for e in ordered[:-1]))
    if value in earlier:
        return None
    return Question(
        id=name,
        text=f"Think of all events told of that {_phrase(cues)}. What is the {ONE[target]} of the latest of them?",
        kind="latest",
        after=len(lived),
        answers=(value,),
        evidence=tuple(places[event] for event in ordered),
        rubric=(value,),
        rejected=earlier,
        cluster=_cluster(name, cues),
        candidates=_candidates(value, target, (), lived, rng, first=earlier),
    )


def _candidates(
    value: str,
    target: str,
    right: Sequence[str],
    lived: Sequence[Event],
    rng: random.Random,
    first: Sequence[str] = (),
) -> tuple[str, ...]:
    """The answer and up to nine other values of the book, those in `first` before others; sorted."""
    chosen = [value, *first][:CANDIDATES]
    others = sorted({event.value(target) for event in lived} - set(chosen) - set(right))
    return tuple(sorted(chosen + rng.sample(others, min(CANDIDATES - len(chosen), len(others)))))


TASK = Task(
    name="episodic",
    version="episodic/1",
    title="episodic recall (in the manner of the episodic memory benchmark)",
    paper="arXiv 2501.13121",
    source="generated by nestmem.evals.datasets.episodic",
    licence=Licence(name="the project's own", redistribution="yes"),
    load=load,
    scorers=(
        "rubric",
        "contains",
        "exact",
        "abstains",
        "order",
        "stale",
        "evidence_share",
        "evidence_all",
        "rubric_in_context",
        "answer_in_context",
        "turn_any@5",
        "turn_all@5",
        "turn_all@10",
        "mrr",
        "probe_first",
        "probe_margin",
    ),
    without_reader="evidence_share",
    budget_tokens=1000,
    options={"events": 200, "questions": 60, "books": 2, "seed": 0},
)
