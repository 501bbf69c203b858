"""Whose what: entities ("my sister's dog"), attributes ("name"), their keys and canonical questions.

A key is "ENTITY/ATTRIBUTE" ("self/home_city", "sister/name", "sister.dog/name"), with the value behind it
where several may hold at once ("self/likes/jazz"). The same thing said differently has the same key, so
that a newer statement supersedes an older one. The questions are those the embedded model is trained on.
"""

# ruff: noqa: E501  (a pattern is read whole, on one line)
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from nestmem.agent.lexicon import (
    ANIMALS,
    BRITISH,
    NAMED_THINGS,
    PEOPLE,
    SAME_ATTRIBUTE,
    SAME_FAVOURITE,
    SAME_NOUN,
    words,
)

Kind = Literal["fact", "preference", "habit", "event"]


@dataclass(frozen=True)
class Entity:
    """Somebody or something of the speaker: () is the speaker, ("sister", "dog") my sister's dog."""

    path: tuple[str, ...] = ()
    speaker: str | None = None

    @property
    def key(self) -> str:
        """ "self", "sister", "sister.dog"; with a named speaker "anna", "anna.dog"."""
        own = [slug(self.speaker)] if self.speaker else ([] if self.path else ["self"])
        return ".".join(own + [slug(noun) for noun in self.path])

    @property
    def phrase(self) -> str:
        """ "my sister's dog", or "Anna's sister" when the speaker is named."""
        owner = f"{self.speaker}'s" if self.speaker else "my"
        return (
            " ".join([owner, *[f"{noun}'s" for noun in self.path[:-1]], self.path[-1]]) if self.path else "I"
        )

    @property
    def possessive(self) -> str:
        """ "my", "my sister's"."""
        if self.path:
            return self.phrase + "'s"
        return f"{self.speaker}'s" if self.speaker else "my"

    @property
    def head(self) -> str:
        """The noun itself: "dog" of "golden dog"."""
        return self.path[-1].split()[-1] if self.path else ""

    def of(self, noun: str) -> Entity:
        """What belongs to this entity."""
        return Entity((*self.path, noun), self.speaker)


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """How an attribute is asked. `own` about the speaker, `other` with {e} "my sister" and {p} "my sister's".
    `many`: several values hold at once, and each has its own key."""

    own: str
    other: str
    kind: Kind = "fact"
    many: bool = False


def _a(own: str, other: str, kind: Kind = "fact", *, many: bool = False) -> Attribute:
    return Attribute(own=own, other=other, kind=kind, many=many)


ATTRIBUTES = {
    "name": _a("What is my name?", "What is {p} name?"),
    "surname": _a("What is my last name?", "What is {p} last name?"),
    "nickname": _a("What is my nickname?", "What is {p} nickname?"),
    "home_city": _a("Where do I live?", "Where does {e} live?"),
    "home_type": _a("What kind of place do I live in?", "What kind of place does {e} live in?"),
    "street": _a("What street do I live on?", "What street does {e} live on?"),
    "hometown": _a("Where am I from?", "Where is {e} from?"),
    "childhood_home": _a("Where did I grow up?", "Where did {e} grow up?"),
    "birthplace": _a("Where was I born?", "Where was {e} born?"),
    "birthday": _a("When is my birthday?", "When is {p} birthday?"),
    "birth_year": _a("What year was I born in?", "What year was {e} born in?"),
    "age": _a("How old am I?", "How old is {e}?"),
    "nationality": _a("What is my nationality?", "What nationality is {e}?"),
    "mother_tongue": _a("What is my mother tongue?", "What is {p} mother tongue?"),
    "blood_type": _a("What is my blood type?", "What is {p} blood type?"),
    "job": _a("What is my job?", "What does {e} do for a living?"),
    "job_title": _a("What is my job title?", "What is {p} job title?"),
    "employer": _a("Which company do I work for?", "Which company does {e} work for?"),
    "field": _a("What field do I work in?", "What field does {e} work in?"),
    "work_city": _a("Which city do I work in?", "Which city does {e} work in?"),
    "room_number": _a("What is my office room number?", "What is {p} office room number?"),
    "teaches": _a("What do I teach?", "What does {e} teach?", many=True),
    "study_field": _a("What did I study?", "What does {e} study?"),
    "university": _a("Which university did I go to?", "Which university did {e} go to?"),
    "school": _a("Which school did I go to as a child?", "Which school does {e} go to?"),
    "car": _a("What car do I drive?", "What car does {e} drive?"),
    "phone": _a("What phone do I have?", "What phone does {e} have?"),
    "rides": _a("What do I ride?", "What does {e} ride?"),
    "instrument": _a("Which instrument do I play?", "Which instrument does {e} play?"),
    "sport": _a("What sport do I play?", "What sport does {e} play?", many=True),
    "learning_language": _a("Which language am I learning?", "Which language is {e} learning?", many=True),
    "learning": _a("What am I learning?", "What is {e} learning?", many=True),
    "language": _a("What language do I speak?", "What language does {e} speak?", many=True),
    "allergy": _a("What am I allergic to?", "What is {e} allergic to?", many=True),
    "diet": _a("What diet do I follow?", "What diet does {e} follow?", "preference"),
    "disliked_food": _a("Which food do I dislike?", "Which food does {e} dislike?", "preference", many=True),
    "fear": _a("What am I afraid of?", "What is {e} afraid of?"),
    "likes": _a("What do I like?", "What does {e} like?", "preference", many=True),
    "dislikes": _a("What do I dislike?", "What does {e} dislike?", "preference", many=True),
    "prefers": _a("What do I prefer?", "What does {e} prefer?", "preference", many=True),
    "favourite_team": _a("Which team do I support?", "Which team does {e} support?", "preference"),
    "favourite_shop": _a("Where do I like to shop?", "Where does {e} like to shop?", "preference"),
    "music_genre": _a("What kind of music do I like?", "What kind of music does {e} like?", "preference"),
    "hobby": _a("What is my hobby?", "What is {p} hobby?", "habit", many=True),
    "collects": _a("What do I collect?", "What does {e} collect?", many=True),
    "spouse": _a("Who am I married to?", "Who is {e} married to?"),
    "partner_name": _a("What is the name of my partner?", "What is the name of {p} partner?"),
    "colour": _a("What is my colour?", "What colour is {e}?"),
    "breed": _a("What is my breed?", "What breed is {e}?"),
    "gift_idea": _a("What do I want as a present?", "What does {e} want as a present?"),
    "arrival_time": _a("What time am I arriving?", "What time is {e} arriving?"),
    "sleep_place": _a("Where do I sleep?", "Where does {e} sleep?", "habit"),
    "place": _a("Where am I?", "Where is {e}?"),
    "start_year": _a("Since when have I been here?", "Since when have I had {e}?"),
    "helper": _a("Who helps me?", "Who helps me with {e}?"),
    "codename": _a("What is my codename?", "What is the codename of {e}?"),
    "middle_name": _a("What is my middle name?", "What is {p} middle name?"),
    "toy": _a("What is my favourite toy?", "What is {p} favourite toy?", "preference"),
    "wake_time": _a("What time do I get up?", "What time does {e} get up?", "habit"),
    "bedtime": _a("What time do I go to bed?", "What time does {e} go to bed?", "habit"),
    "gym_time": _a("What time do I go to the gym?", "What time does {e} go to the gym?", "habit"),
    "training_day": _a("On which day do I go running?", "On which day does {e} go running?", "habit"),
    "meeting_day": _a("On which day is my team meeting?", "On which day is {p} team meeting?", "habit"),
    "music_lesson_day": _a(
        "On which day do I have my music lesson?", "On which day is {p} music lesson?", "habit"
    ),
    "commute": _a("How do I get to work?", "How does {e} get to work?", "habit"),
    "breakfast": _a("What do I have for breakfast?", "What does {e} have for breakfast?", "habit"),
    "lunch": _a("What do I have for lunch?", "What does {e} have for lunch?", "habit"),
    "dinner": _a("What do I have for dinner?", "What does {e} have for dinner?", "habit"),
    "coffee_order": _a("What is my coffee order?", "What is {p} coffee order?", "preference"),
    "operating_system": _a(
        "Which operating system do I use?", "Which operating system does {e} use?", "preference"
    ),
    "newspaper": _a("Which newspaper do I read?", "Which newspaper does {e} read?", "habit"),
    "bank": _a("Which bank am I with?", "Which bank is {e} with?"),
    "airline": _a("Which airline do I prefer?", "Which airline does {e} prefer?", "preference"),
    "hotel": _a("Which hotel am I staying at?", "Which hotel is {e} staying at?"),
    "gym_name": _a("Which gym do I go to?", "Which gym does {e} go to?"),
    "volunteer_place": _a("Where do I volunteer?", "Where does {e} volunteer?", "habit"),
    "next_trip": _a("Where is my next trip going?", "Where is {p} next trip going?"),
    "wedding_date": _a("When is my wedding?", "When is {p} wedding?"),
    "units": _a("Which units do I prefer?", "Which units does {e} prefer?", "preference"),
    "wifi_name": _a("What is my wifi called?", "What is {p} wifi called?"),
    "door_code": _a("What is my front door code?", "What is {p} front door code?"),
    "answer_style": _a("How do I like your answers?", "How does {e} like your answers?", "preference"),
}

# Things that are asked by "what is ... called" rather than by their name, and people asked by "who".
CALLED = frozenset({"laptop", "house plant", "team at work"})
WHO = frozenset({"doctor", "dentist", "landlord", "landlady", "vet"})


def slug(text: str) -> str:
    """Lower case words joined by "_", spelling made British: the form in which keys compare."""
    words: list[str] = re.findall(r"[^\W_]+(?:['’][^\W_]+)?", text.casefold())
    return "_".join(BRITISH.get(w, w).replace("'", "").replace("’", "") for w in words)


def noun(text: str) -> str:
    """The word for a person, animal or thing: "little golden retriever" -> "dog", "mum" -> "mother"."""
    words = [BRITISH.get(w, w) for w in text.casefold().split()]
    words = [w for w in words if w not in _PLAIN_ADJECTIVES] or words
    if not words:
        return "thing"
    whole = " ".join(words)
    if whole in SAME_NOUN:
        return SAME_NOUN[whole]
    if " ".join(words[-2:]) == "guinea pig":
        return "guinea pig"
    head = SAME_NOUN.get(words[-1], words[-1])
    if head in ANIMALS:
        return head
    if head in PEOPLE:
        kept = [w for w in words[:-1] if w in _TELLING]
        return " ".join([*kept, head])
    return " ".join([*words[:-1], head])


# Adjectives that do not tell two of a kind apart, and those that do.
_PLAIN_ADJECTIVES = words(
    "new current own little big small tiny dear lovely beloved beautiful cute sweet wonderful amazing "
    "great good old rescue adopted adorable trusty poor darling fluffy gorgeous brand-new precious crazy "
    "dear latest actual real main present wee naughty cheeky clever funny brand present-day"
)
_TELLING = words(
    "older elder oldest eldest younger youngest big little twin half step best first second third middle "
    "former ex late piano guitar violin line maths math music dance yoga gym swimming football "
    "tennis cello college school university head vocal singing driving french spanish german english "
    "language personal running chess maternal paternal next-door upstairs downstairs pen lab gym room "
    "class band school study"
)


def attribute_name(text: str) -> str:
    """The name of an attribute in a key: "favorite kind of food" -> "favourite_food", "PIN code" -> "pin"."""
    words = [BRITISH.get(w, w) for w in text.casefold().replace("’", "'").split()]
    words = [
        w
        for w in words
        if w
        not in ("new", "current", "own", "actual", "real", "main", "present", "correct", "updated", "latest")
    ] or words
    whole = " ".join(words)
    if whole.startswith("least favourite "):
        least = SAME_FAVOURITE.get(whole[16:], whole[16:])
        return "disliked_food" if least in ("food", "ingredient", "vegetable") else slug(whole)
    favourite = _FAVOURITE.fullmatch(whole)
    if favourite:
        thing = favourite.group(1).removesuffix(" ever").removesuffix(" of all time")
        return _FAVOURITE_IS.get(thing) or "favourite_" + slug(SAME_FAVOURITE.get(thing, thing))
    return slug(SAME_ATTRIBUTE.get(whole, whole))


_FAVOURITE = re.compile(
    r"(?:number[- ]one |(?:(?:all-time|all time|absolute|very|most|number one|personal|ultimate|top) )*(?:favourite|go-to|preferred|best-loved) )"
    r"(?:(?:kind|type|sort|brand|style|genre|piece) of )?(.+)"
)
_FAVOURITE_IS = {"toy": "toy", "coffee": "coffee_order", "music": "music_genre", "genre": "music_genre", "airline": "airline", "newspaper": "newspaper",
                 "hobby": "hobby", "pastime": "hobby", "units": "units", "operating system": "operating_system"}  # fmt: skip


def question(entity: Entity, attribute: str) -> str:
    """The canonical first-person question for an attribute of an entity."""
    known = ATTRIBUTES.get(attribute)
    if attribute == "name" and entity.path and entity.path[-1] in CALLED:
        return f"What is {entity.phrase} called?"
    if attribute == "name" and entity.path and entity.path[-1] in WHO:
        return f"Who is {entity.phrase}?"
    if known and entity.path:
        return known.other.format(e=entity.phrase, p=entity.possessive)
    if known and entity.speaker:
        return known.other.format(e=entity.speaker, p=entity.possessive)
    if known:
        return known.own
    return f"What is {entity.possessive} {attribute.replace('_', ' ')}?"


def key(entity: Entity, attribute: str, value: str | None) -> str:
    """The key under which a statement supersedes an older one."""
    known = ATTRIBUTES.get(attribute)
    many = f"/{slug(value)}" if known and known.many and value else ""
    return f"{entity.key}/{attribute}{many}"


def is_person(word: str) -> bool:
    """True for "boss", "piano teacher", "sister-in-law", "bandmate"."""
    last = word.split()[-1] if word else ""
    return last in PEOPLE or last.endswith(
        ("-in-law", "mate", "friend", "mother", "father", "brother", "sister")
    )


def is_animal(word: str) -> bool:
    """True for pets and other animals."""
    return bool(word) and word.split()[-1] in ANIMALS


def takes_name(word: str) -> bool:
    """True for what people give names to: people, animals, boats, projects."""
    return is_person(word) or is_animal(word) or (bool(word) and word.split()[-1] in NAMED_THINGS)
