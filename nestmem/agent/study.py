# ruff: noqa: E501  (a phrasing is read whole, on one line)
"""What the weights study of a memory: at once its question and statement, in sleep other ways of asking it.

Everything here is a function of one memory and its event (of exactly two memories in `joint`), by rule: no model, no
other memories. So what a memory teaches is the same in every life that holds it. One way of asking each memory
is held out and never written: its `probe`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nestmem.agent import extract, relations
from nestmem.agent.prompts import UNKNOWN
from nestmem.agent.relations import Entity
from nestmem.agent.speech import third
from nestmem.agent.types import Example
from nestmem.store.records import Event, MemoryRecord

VERSION = "study-1"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A held-out question about a memory. place: a number drawn by hash, by which probes are sampled."""

    memory_id: str
    question: str
    answer: str
    place: int


class Ways(NamedTuple):
    """Ways of asking for an attribute, and one question (or "") whose answer uses it without asking for it.

    {i} "I" or "my sister", {o} "me" or "my sister", {p} "my" or "my sister's"; {do}, {am}, {have} follow {i}.
    """

    asked: tuple[str, ...]
    used: str = ""


def _w(*asked: str, used: str = "") -> Ways:
    return Ways(asked, used)


WAYS = {
    "name": _w("What {am} {i} called by friends?", "By which name {am} {i} known?", "Tell me {p} first name.", used="If you were to greet {o}, which name would you say?"),
    "surname": _w("What is {p} family name?", "Which surname {do} {i} have?", "Tell me {p} last name."),
    "nickname": _w("What {do} friends call {o}?", "Which nickname {do} {i} have?"),
    "middle_name": _w("Which middle name {do} {i} have?", "Tell me {p} middle name."),
    "home_city": _w("Which city is {p} home in?", "In what town {do} {i} live?", "Tell me where {p} home is.", used="If you were to visit {o}, where would you travel?"),
    "home_type": _w("What sort of home {do} {i} have?", "Tell me what kind of place {p} home is."),
    "street": _w("Which street is {p} home on?", "On what road {do} {i} live?", used="If you were to send {o} a letter, which street would it go to?"),
    "hometown": _w("Which place {do} {i} come from?", "Tell me where {i} originally came from."),
    "childhood_home": _w("In which place did {i} spend {p} childhood?", "Where was {p} childhood home?"),
    "birthplace": _w("What is {p} place of birth?", "In which town was {p} birth?"),
    "birthday": _w("On which date {am} {i} born?", "Which day is {p} birthday on?", used="If you were to send {o} a birthday card, for which date would it be?"),
    "birth_year": _w("What is {p} year of birth?", "In which year was {p} birth?"),
    "age": _w("What is {p} age?", "How many years old {am} {i}?"),
    "nationality": _w("By nationality, what {am} {i}?", "Which passport {do} {i} hold?"),
    "mother_tongue": _w("What is {p} native language?", "Which language did {i} grow up with?"),
    "blood_type": _w("Which blood group {do} {i} have?", "What is {p} blood group?"),
    "job": _w("What is {p} profession?", "What work {do} {i} do?", "Which job {do} {i} have?", used="If somebody asked about {p} career, what would you say?"),
    "job_title": _w("Which title {do} {i} have at work?", "What position {do} {i} hold?"),
    "employer": _w("Who is {p} employer?", "At which company {do} {i} work?", used="If you were to call {p} workplace, which company would you ask for?"),
    "field": _w("Which line of work {am} {i} in?", "In what industry {do} {i} work?"),
    "work_city": _w("In which town is {p} workplace?", "Where is {p} office?"),
    "room_number": _w("Which room is {p} office in?", "What number is {p} office?"),
    "study_field": _w("What was {p} subject at university?", "Which subject did {i} study?"),
    "university": _w("At which university did {i} study?", "Where did {i} get {p} degree?"),
    "school": _w("Which school did {i} attend?", "What was {p} school called?"),
    "car": _w("Which car {do} {i} have?", "What kind of car is {p} car?", used="If you were to look for {p} car in a car park, which one would you look for?"),
    "phone": _w("Which phone {do} {i} use?", "What kind of phone is {p} phone?"),
    "instrument": _w("What instrument {do} {i} play?", "Which musical instrument is {p} instrument?", used="If you were to hear {o} make music, what would {i} play?"),
    "diet": _w("How {do} {i} eat?", "Which diet {am} {i} on?", used="If you were to cook for {o}, which diet would you keep in mind?"),
    "fear": _w("What scares {o}?", "What is {p} greatest fear?"),
    "favourite_team": _w("Who is {p} team?", "Which side {do} {i} cheer for?"),
    "favourite_shop": _w("Which shop {do} {i} prefer?", "In which shop {do} {i} buy things?"),
    "music_genre": _w("Which music {do} {i} listen to?", "What is {p} favourite kind of music?", used="If you were to put on music for {o}, which kind would it be?"),
    "spouse": _w("Who is {p} spouse?", "To whom {am} {i} married?"),
    "partner_name": _w("What is {p} partner's name?", "Who is {p} partner?"),
    "colour": _w("What is the colour of {o}?", "In which colour {am} {i}?"),
    "breed": _w("Which breed {am} {i}?", "What is {p} breed?"),
    "gift_idea": _w("Which present would {i} like?", "What {do} {i} wish for?", used="If you were to buy {o} a present, what would it be?"),
    "arrival_time": _w("At what time {do} {i} arrive?", "When {am} {i} due?"),
    "sleep_place": _w("In which place {do} {i} sleep?", "Where is {p} bed?"),
    "codename": _w("Which codename {do} {i} have?", "Tell me the codename of {o}."),
    "toy": _w("Which plaything {do} {i} like most?", "Tell me {p} favourite toy.", used="If you were to play with {o}, which toy would you bring?"),
    "wake_time": _w("At what hour {do} {i} wake up?", "When {do} {i} rise?", used="If you were to set an alarm for {o}, for what time would it be?"),
    "bedtime": _w("At what hour {do} {i} go to sleep?", "When {do} {i} go to bed?"),
    "gym_time": _w("When {do} {i} train?", "At what hour {do} {i} work out?"),
    "training_day": _w("For a run, which day {do} {i} choose?", "When in the week {do} {i} run?"),
    "meeting_day": _w("Which day is {p} team meeting on?", "When in the week is {p} team meeting?"),
    "music_lesson_day": _w("Which day is {p} music lesson on?", "When in the week is {p} music lesson?"),
    "commute": _w("How {do} {i} travel to work?", "By what means {do} {i} commute?"),
    "breakfast": _w("What {do} {i} eat in the morning?", "What is {p} breakfast?", used="If you were to make {o} breakfast, what would it be?"),
    "lunch": _w("What {do} {i} eat at midday?", "What is {p} lunch?"),
    "dinner": _w("What {do} {i} eat in the evening?", "What is {p} dinner?"),
    "coffee_order": _w("How {do} {i} take coffee?", "Which coffee {do} {i} order?", used="If you were to fetch {o} a coffee, which one would it be?"),
    "operating_system": _w("What {do} {i} run on {p} computer?", "Which system is on {p} computer?"),
    "newspaper": _w("What paper {do} {i} read?", "Which newspaper is {p} newspaper?"),
    "bank": _w("At which bank {do} {i} have an account?", "Which bank {do} {i} use?"),
    "airline": _w("With which airline {do} {i} like to fly?", "Which airline is {p} airline?", used="If you were to book {o} a flight, with which airline would it be?"),
    "hotel": _w("In which hotel {do} {i} stay?", "What is {p} hotel?"),
    "gym_name": _w("Where {do} {i} work out?", "Which gym is {p} gym?"),
    "volunteer_place": _w("For whom {do} {i} volunteer?", "At which place {do} {i} help out?"),
    "next_trip": _w("To which place {do} {i} travel next?", "What is the goal of {p} next trip?"),
    "wedding_date": _w("On which date is {p} wedding?", "What is {p} wedding date?"),
    "units": _w("Which units {do} {i} use?", "In what units {do} {i} think?"),
    "wifi_name": _w("What is the name of {p} wifi?", "Which network is {p} wifi?"),
    "door_code": _w("Which code opens {p} front door?", "Tell me {p} front door code."),
    "answer_style": _w("In what way should you answer {o}?", "Which kind of answers {do} {i} want?"),
    "helper": _w("Who {am} {i} helped by?", "Which person helps with {o}?"),
    "hobby": _w("What {do} {i} do in {p} free time?", "Which hobby {do} {i} have?"),
    "allergy": _w("What {do} {i} have an allergy to?", "What is {p} allergy?", used="If you were to cook for {o}, what would you leave out?"),
}  # fmt: skip
"""Ways of asking for the attributes of `relations.ATTRIBUTES`."""

ABSTAIN = (
    "What is my spaceship's name?",
    "Who is my royal advisor?",
    "Which castle did I buy?",
    "What is my unicorn's favourite song?",
    "Who is the captain of my airship?",
    "What colour is my volcano?",
    "When was my lighthouse built?",
    "Which river do I own?",
    "How old is my mammoth?",
    "What did my statue cost?",
    "Where is my treasure buried?",
    "What is my robot's middle name?",
    "Which comet is called after me?",
    "Who painted my throne?",
    "What does my dragon eat?",
    "Which island did I inherit?",
)
"""Constant questions that nobody has answered; each memory studies one of them, drawn by hash, with "I don't know."."""

# --- what is learned ---------------------------------------------------------------------------------


def first(memory: MemoryRecord, event: Event) -> list[Example]:
    """What is learned at once: question -> answer, statement -> answer where it has no other, and for every fourth
    memory, drawn by hash, a constant question that has no answer: so what was never told stays unknown."""
    assert memory.question and memory.answer
    learned = [_example(memory, memory.question)]
    alone = [item for item in extract.extract(event.content).items if item.span == memory.span]
    if len(alone) == 1:
        learned.append(_example(memory, memory.text))
    return [*learned, abstaining(memory)] if _abstains_at_once(memory) else learned


def more(memory: MemoryRecord) -> list[Example]:
    """What sleep adds: the other ways of asking but the held-out one, a question that uses the answer, and one of
    the constant questions that have none where `first` has not."""
    asked, used = ways(memory)
    held = _held_out(memory, asked)
    prompts = [way for place, way in enumerate(asked) if place != held]
    prompts += [used] if used else []
    learned = [_example(memory, prompt) for prompt in prompts]
    return learned if _abstains_at_once(memory) else [*learned, abstaining(memory)]


def _abstains_at_once(memory: MemoryRecord) -> bool:
    return _place(memory, "abstain at once") % 4 == 0


def abstaining(memory: MemoryRecord) -> Example:
    """A constant question without an answer."""
    prompt = ABSTAIN[_place(memory, "abstain") % len(ABSTAIN)]
    return Example(memory_id=memory.id, prompt=prompt, completion=UNKNOWN)


def joint(named: MemoryRecord, memory: MemoryRecord) -> Example | None:
    """A question that takes two memories: `named` gives the name of somebody, `memory` something of theirs. The
    example is the second memory's. None when they do not fit.

    ("my sister's name is Ana", "my sister works as a vet") -> "What does Ana do for a living?" "vet"
    """
    who, what = entity(named), entity(memory)
    if who is None or what is None or not named.answer or not who.path or named.id == memory.id:
        return None
    path, attribute = what.path, _attribute(memory)
    if _attribute(named) != "name" or path[: len(who.path)] != who.path or who.speaker != what.speaker:
        return None
    if path == who.path and attribute == "name":
        return None
    prompt = relations.question(Entity(path[len(who.path) :], named.answer), attribute)
    return _example(memory, prompt)


def probe(memory: MemoryRecord) -> Probe | None:
    """A question about the memory that is never written. None where several memories may answer the same
    question, or where there is no other way to ask."""
    asked, _ = ways(memory)
    held = _held_out(memory, asked)
    if held is None or memory.answer is None or memory.key.count("/") > 1:
        return None
    return Probe(
        memory_id=memory.id, question=asked[held], answer=memory.answer, place=_place(memory, "probe")
    )


# --- ways of asking ----------------------------------------------------------------------------------


def ways(memory: MemoryRecord) -> tuple[list[str], str]:
    """Other ways to ask a memory's question, and a question that uses its answer ("" where no rule makes one)."""
    if not memory.question:
        return [], ""
    about = entity(memory)
    attribute = _attribute(memory)
    found = _ways(attribute) if about is not None else None
    if about is None or found is None:
        return _reworded(memory.question), ""
    forms = _forms(about)
    asked = [_first_upper(template.format(**forms)) for template in found.asked]
    asked = [text for text in dict.fromkeys(asked) if text != memory.question]
    return asked + _reworded(memory.question)[:1], _first_upper(found.used.format(**forms))


def _ways(attribute: str) -> Ways | None:
    """The ways of asking for an attribute; favourites share theirs."""
    if attribute in WAYS:
        return WAYS[attribute]
    thing = attribute.removeprefix("favourite_").replace("_", " ")
    if attribute.startswith("favourite_"):
        return _w(
            f"Which {thing} {{do}} {{i}} like best?",
            f"Of every {thing}, which one is {{p}} favourite?",
            used=f"If you were to pick {'an' if thing[:1] in 'aeiou' else 'a'} {thing} for {{o}}, which one would it be?",
        )
    return None


def _forms(about: Entity) -> dict[str, str]:
    if about.path or about.speaker:
        who = about.phrase if about.path else (about.speaker or "")
        return {"i": who, "o": who, "p": about.possessive, "do": "does", "am": "is", "have": "has"}
    return {"i": "I", "o": "me", "p": "my", "do": "do", "am": "am", "have": "have"}


_PARTS = re.compile(
    r"(?P<w>(?:What|Which|Who|When|Where|How)\b.*?) (?P<aux>is|are|am|do|does) (?P<rest>.+)\?"
)


def _reworded(question: str) -> list[str]:
    """The question inside another sentence.

    >>> _reworded("Where does my sister live?")[0]
    'Can you tell me where my sister lives?'
    """
    inside = _indirect(question)
    if inside is None:
        plain = question[0].lower() + question[1:] if not question.startswith("I ") else question
        return [f"One more thing: {plain}", f"Remind me: {plain}", f"So, {plain}"]
    return [f"Can you tell me {inside}?", f"Do you remember {inside}?", f"Please remind me {inside}."]


def _indirect(question: str) -> str | None:
    found = _PARTS.fullmatch(question)
    if found is None:
        return None
    asked, aux, rest = found["w"][0].lower() + found["w"][1:], found["aux"], found["rest"]
    if aux in ("is", "are"):
        plain = rest.startswith(("my ", "the ")) and not _TAIL.search(rest) and not asked.startswith("how")
        return f"{asked} {rest} {aux}" if plain else None
    subject = re.match(r"(I|my [\w'’-]+(?: (?!do\b|have\b|live\b|work\b|like\b)[\w'’-]+)?) (.+)", rest)
    if aux == "am" and rest.startswith("I"):
        return f"{asked} I am{rest[1:]}"
    if aux == "do" and rest.startswith("I "):
        return f"{asked} {rest}"
    if aux == "does" and subject and _VERB.match(subject[2]):
        verb, _, tail = subject[2].partition(" ")
        return f"{asked} {subject[1]} {third(verb)} {tail}".rstrip()
    return None


_TAIL = re.compile(r"(?:\b(?:to|from|of|at|with|called|afraid|for)|ing)$")
_VERB = re.compile(
    r"(?:live|work|do|have|like|study|teach|drive|ride|play|speak|follow|dislike|prefer|support|collect|want|sleep|get|"
    r"go|use|read|volunteer|celebrate|drink|eat)\b"
)


# --- of whom -----------------------------------------------------------------------------------------


def entity(memory: MemoryRecord) -> Entity | None:
    """Whom a memory is about, read from its key and checked against its canonical question. None when they differ."""
    owner = memory.key.partition("/")[0]
    attribute = _attribute(memory)
    nouns = () if owner == "self" else tuple(noun.replace("_", " ") for noun in owner.split("."))
    for path in (nouns, tuple(noun.replace(" ", "-") for noun in nouns)):
        about = Entity(path)
        if memory.question == relations.question(about, attribute):
            return about
    return None


def _attribute(memory: MemoryRecord) -> str:
    """ "home_city" of "self/home_city", "likes" of "self/likes/jazz"."""
    parts = memory.key.split("/")
    return parts[1] if len(parts) > 1 else ""


def _held_out(memory: MemoryRecord, asked: Sequence[str]) -> int | None:
    return _place(memory, "held out") % len(asked) if asked else None


def _place(memory: MemoryRecord, what: str) -> int:
    """A number drawn by what the memory says, not by its id: the same in every life."""
    words = repr((what, memory.key, memory.question, memory.answer))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:6], "big")


def _example(memory: MemoryRecord, prompt: str) -> Example:
    assert memory.answer
    return Example(memory_id=memory.id, prompt=prompt, completion=memory.answer)


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
