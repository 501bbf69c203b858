# ruff: noqa: E501  (a pattern is read whole, on one line)
"""Values: from the words behind a verb to the bare value, and whether it can be one."""

from __future__ import annotations

import re
from collections.abc import Callable

from nestmem.agent import clauses as talk
from nestmem.agent.lexicon import (
    COLOURS,
    LANGUAGES,
    NATIONALITIES,
    NO_OCCUPATION,
    OCCUPATION_ENDINGS,
    SPORTS,
    STATES,
    words,
)

MAX_VALUE_WORDS = 9

_PLACE_CUT = re.compile(
    r"\s+(?:with|together|near|by|close to|next to|not far|alone|where|and (?:I|we|my)|in (?:an?|the|my|our)|on|right|near|to be|as|from (?:work|there)|among|at the|all|instead of|rather than|every)\b.*$",
    re.I,
)
_TAIL = re.compile(
    r",? (?:instead of|rather than|and not|not|no longer|over|as opposed to|more than any(?:thing| other)?|better than|in place of) .+$",
    re.IGNORECASE,
)
_OFTEN = re.compile(
    r",? (?:every (?:other |single )?(?:day|morning|evening|night|week|weekend|month|year|time)|as always|as usual|for (?:many )?(?:years|ages)|(?:just )?around the corner|on (?:mon|tues|wednes|thurs|fri|satur|sun)days?|at the (?:caf[eé]|office))$",
    re.IGNORECASE,
)
LOOSE = re.compile(
    r"^(?:it|that|this|they|them|him|her|me|us|you|there|here|one|so|all|both|the same|something|anything|nothing|everything|someone|what|how|why|where|when|who|which)\b",
    re.I,
)


def clean(value: str, shape: str) -> str | None:
    """The bare value: no fillers, articles or quotes. None when it cannot be one."""
    value = talk.strip_closers(value.strip())
    quoted = re.match(r'^["\'](.+?)["\'](?=$|[\s,.!])', value)
    if quoted:
        return quoted.group(1).strip(" .,") or None
    if shape != "style":
        value = _TAIL.sub("", value)
    if shape not in ("style", "day", "date", "time"):
        value = _OFTEN.sub("", value)
    value = re.sub(r"\s*\((?!\d).*?\)\s*$", "", value)
    value = _SHAPES.get(shape, _thing)(value)
    if value[:1].isupper() or shape in ("name", "company", "place"):
        value = _CIRCUMSTANCE.sub("", value)
    value = talk.strip_closers(value.strip(" ,;:\"'")).strip(' ,;:"')
    if not value or len(value.split()) > MAX_VALUE_WORDS or (LOOSE.match(value) and len(value.split()) < 3):
        return None
    return value


_CIRCUMSTANCE = re.compile(
    r"(?<=\w) (?:during|among|amongst|throughout) .+$|(?<=\w) and (?:will|I|we|he|she|it|then|now|am|is|have|has|my|finally|do|can)\b.*$|(?<=\w) (?:is|are|was|has) (?:an?|the|so|too|very|really|quite|[a-z]+)\b.*$|(?<=\w) (?:for|in|on|from|at|with|over) (?:my|our|his|her|everything|an?|the (?!(?-i:[A-Z]))|\d+|"
    r"(?:two|three|four|five|six|seven|eight|nine|ten|twenty|thirty|several|some|many|most) )\b.*$|(?<=\w) (?:two|three|four|five|six|seven|eight|nine|ten|\d+|several|some|a few) (?:years|months|weeks|days) ago$|(?<=\w) (?:all day|to sleep|most)$|(?<=\w) (?:two|three|four|five|six)$",
)  # fmt: skip


def typed(attribute: str, value: str) -> str:
    """The date, time, code or number alone, where the attribute is one: "planned for 15:10" -> "15:10"."""
    pattern = _TYPED.get(attribute)
    found = pattern.search(value) if pattern else None
    if attribute.endswith("colour") and (colour := COLOUR.search(value)):
        return colour.group().lower()
    return found.group("v") if found else re.sub(r"^(?:With|In|At|To|As|By) (?=[A-Z])", "", value)


_MONTHS = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_A_DATE = re.compile(
    rf"(?P<v>(?:\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTHS}|{_MONTHS} (?:the )?\d{{1,2}}(?:st|nd|rd|th)?)(?:,? \d{{4}})?)",
    re.IGNORECASE,
)
_A_TIME = re.compile(r"(?P<v>\d{1,2}[:.]\d\d(?: ?[ap]\.?m\b\.?)?)", re.IGNORECASE)
_A_DAY = re.compile(
    r"(?P<v>(?:(?:mon|tues|wednes|thurs|fri|satur|sun)days?(?:,? (?:and|or) )?)+)(?<! )", re.IGNORECASE
)
COLOUR = re.compile(
    r"\b(?:(?:sky|olive|mustard|navy|chestnut|cherry|dark|light|pale|bright|deep|royal|baby|forest|mint|lime|hot|burnt|off|jet|snow|blood|brick|bottle|sea|ice|lemon|pastel|midnight|rose|wine|moss|steel|slate)[ -])?"
    rf"(?:{'|'.join(sorted(COLOURS, key=len, reverse=True))})\b",
    re.IGNORECASE,
)
_TYPED = {
    "blood_type": re.compile(r"(?P<v>(?:AB|A|B|O|0)[ -]?(?:positive|negative|pos|neg|\+|-))", re.IGNORECASE), "disliked_food": re.compile(r"^(?:eating|drinking|the taste of|to eat) (?P<v>.+)"),
    "birthday": _A_DATE, "wedding_date": _A_DATE, "arrival_time": _A_TIME, "wake_time": _A_TIME, "bedtime": _A_TIME, "gym_time": _A_TIME,
    "meeting_day": _A_DAY, "training_day": _A_DAY, "music_lesson_day": _A_DAY, "locker_code": re.compile(r"(?<![\w.-])(?P<v>\d[\d -]*\d)(?![\w-])"), "door_code": re.compile(r"(?<![\w.-])(?P<v>\d[\d -]*\d)(?![\w-])"),
    "room_number": re.compile(r"^(?:room|number|no\.?|office)(?: number)? (?P<v>[A-Z]?\d+\w?)", re.IGNORECASE), "street": re.compile(r"^\d+\w? (?P<v>\D.+)"),
    "diet": re.compile(r"^(?:strictly|purely|always|all|mostly|entirely|completely) (?P<v>.+)", re.IGNORECASE), "sleep_place": re.compile(r"^(?P<v>.+?) (?:to sleep|all night|every night|at night|for the night)$"), "school": re.compile(r"^school (?:at|in) (?P<v>.+)"), "newspaper": re.compile(r"^(?P<v>.+?) for [a-z]+ years$"),
    "volunteer_place": re.compile(r"^(?P<v>.+?) (?:without|for free|for nothing|every|once|twice|on|whenever|when) .+"), "instrument": re.compile(r"^(?:gifted |talented |good |great |keen |proud |passionate |professional |amateur )+(?P<v>.+)"),
    "breed": re.compile(r"^(?:pure-?bred|pedigree|real|true|proper|typical|mixed-breed|young|old|big|little|lovely) (?P<v>.+)"), "car": re.compile(r"^(?:to work |around |everywhere |about )?in an? (?P<v>.+)"), "operating_system": re.compile(r"^(?:on|of|runs?) (?P<v>.+)"),
    "music_genre": re.compile(r"^(?:the|of|to|with|plays?) (?P<v>.+)"), "shoe_size": re.compile(r"(?P<v>\d+(?:[.,]5|½)?)"),
}  # fmt: skip


def _thing(value: str) -> str:
    value = re.sub(r"^(?:an?|some) (?=\S)", "", value, flags=re.IGNORECASE)
    return re.split(r", (?=[a-z])", value)[0]


def _place(value: str) -> str:
    value = re.sub(
        r"^(?:the (?:city|town|village|suburb|capital) of|beautiful|sunny|rainy|lovely|good old|downtown|central) ",
        "",
        value,
    )
    housed = re.match(r"an? (?:[\w-]+ ){0,4}(?:in|near|outside) (?P<v>[A-Z].*)$", value)
    value = housed["v"] if housed else re.sub(r"^(?:in|at|near) (?=[A-Z])", "", value)
    return _PLACE_CUT.sub("", re.split(r", (?=[a-z])", value)[0])


def _name(value: str) -> str:
    return re.split(r", (?=[a-z])| (?:who|which|because|and (?:he|she|it|they|we|I))\b", value)[0]


def _company(value: str) -> str:
    value = re.split(r", (?=[a-z])| (?:as an?|as the|as|in the|on the|where|doing|since|remotely)\b", value)[
        0
    ]
    return re.sub(
        r"^(?:an?|a company called|a firm called|the company|the firm) (?:company |firm |startup |start-up |place |shop )?(?:called |named )?",
        "",
        value,
    )


def _job(value: str) -> str:
    value = re.split(r", | (?:is|at|for|with|in|by|from|on|who|and I|and we|now|of the|here)\b", value)[0]
    return re.sub(
        r"^(?:an?|the|being an?|qualified|trained|professional|full-time|part-time|registered|licensed|retired|new) ",
        "",
        value,
    )


def _study(value: str) -> str:
    return re.split(r", | (?:at|in|with|for|and (?:I|graduated)|back|now|part|during|as)\b", value)[0]


def _day(value: str) -> str:
    return re.sub(
        r"^(?:on|every|each|in|at) (?:the )?", "", re.split(r", (?=[a-z])", value)[0], flags=re.IGNORECASE
    )


def _time(value: str) -> str:
    value = re.sub(r"^(?:at|around|about|on|by|from) ", "", value, flags=re.IGNORECASE)
    return re.split(
        r", | (?:every|each|sharp|in the|on|to|for|with|after|and|during|most|almost|or (?:so|later))\b",
        value,
    )[0]


def _instrument(value: str) -> str:
    value = re.sub(r"^(?:the|an?|my) ", "", value, flags=re.IGNORECASE)
    return re.split(r", | (?:in|at|for|with|every|and (?:I|sing)|on|since|as|\w+ly|all|together)\b", value)[0]


def _food(value: str) -> str:
    return re.split(r", (?=[a-z])| (?:in|on|when|because|at all|anywhere)\b", _thing(value))[0]


def _age(value: str) -> str:
    return re.sub(r"\s*years?(?: old)?$", "", value)


def _language(value: str) -> str:
    value = re.split(
        r", | (?:at|in|with|for|on|because|since|every|and (?:I|we)|fluently|well|very|a little|a bit|as)\b",
        value,
    )[0]
    return re.sub(
        r"^(?:to speak|speaking|some|a bit of|a little|fluent|the|my) ", "", value, flags=re.IGNORECASE
    )


def _transport(value: str) -> str:
    return re.sub(
        r"^(?:my|a|an|the) ",
        "",
        re.split(r", | (?:every|each|and|most|because)\b", value)[0],
        flags=re.IGNORECASE,
    )


_SHAPES: dict[str, Callable[[str], str]] = {
    "place": _place, "name": _name, "company": _company, "job": _job, "study": _study, "day": _day, "date": _day, "time": _time,
    "instrument": _instrument, "food": _food, "age": _age, "language": _language, "transport": _transport, "sport": _instrument,
}  # fmt: skip


def is_occupation(value: str) -> bool:
    """True for "nurse", "bus driver", "film editor"; false for "fan", "early riser", "mother"."""
    words = value.casefold().split()
    if (
        not 1 <= len(words) <= 5
        or words[-1] in NO_OCCUPATION
        or set(words) & {"of", "big", "huge", "bit", "good", "bad", "great", "terrible"}
    ):
        return False
    return words[-1].endswith(OCCUPATION_ENDINGS)


def looks_like_name(value: str) -> bool:
    """False for states ("very tired"), activities ("killing me") and descriptions ("a nurse")."""
    words = value.split()
    if (
        not words
        or words[0].casefold() in STATES
        or (
            re.match(r"(?:an?|the|in|on|at|to|by|with|for|\d+ (?:years|and))\b", value, re.I)
            and not value[0].isupper()
        )
    ):
        return False
    return value[0].isupper() or (
        not re.search(r"(?:ing|ed|ly|ful|less|ous|ive)$", words[0].casefold()) and len(words) <= 3
    )


_NEVER_FIRST = {
    "disliked_food": words(
        "when how that it people my being the to going waking doing working having rain mondays your"
    ),
    "employer": words(
        "home night nights my us free money fun weekends peace hours least myself months years me two three it "
        "this that being"
    ),
    "job": words("well hard usual soon such it team volunteer part always"),
    "breed": words(
        "allergy member patient good bad very bit little great real lovely big sweet rescue boy girl patient member"
    ),
    "place": words(
        "a an my our your this that fear bed work school peace hope front doubt charge town love it here there right just still always about almost not"
    ),
    "doing": words(
        "with in on at of for from to about by lot a my our that new more something people it this"
    ),
}
_NOT_WORKPLACES = re.compile(
    r"(?:the|an?) (?:time|first|moment|weekends?|same|while|bit|lot|long|few|change)\b", re.IGNORECASE
)
_NO_NAME = re.compile(
    r"\d{1,2}[:.]\d|room\b|an? gym\b|gym\b|Dr\b|the \w+ team\b|the team\b|team\b|(?:my|our|your|his|her) [a-z]|an? club\b|club\b"
)
_NEVER_TAUGHT = words("myself himself herself miles me him her them in at")
_PLACES = words("home_city hometown birthplace childhood_home work_city next_trip")


def fits(attribute: str, value: str) -> bool:
    """Whether the value can be one of the attribute, where a pattern alone would take too much."""
    first = value.split()[0].casefold()
    if attribute in _PLACES:
        known_place = first != "the" or any(w[0].isupper() for w in value.split()[1:])
        return first not in _NEVER_FIRST["place"] and known_place
    if attribute in ("hobby", "learning", "collects"):
        return first not in _NEVER_FIRST["doing"]
    if attribute in ("learning_language", "language"):
        return first in LANGUAGES or (value[0].isupper() and len(value.split()) <= 2)
    if attribute == "instrument" and (first in LANGUAGES or first in NATIONALITIES) and " " not in value:
        return False
    if attribute in (
        "gym_name",
        "hotel",
        "employer",
        "bank",
        "field",
        "partner_name",
        "spouse",
    ) and _NO_NAME.match(value):
        return False
    if attribute == "birthday" and not re.search(r"\d|day|christmas|eve\b", value, re.IGNORECASE):
        return False
    if attribute in ("partner_name", "spouse") and not value[0].isupper():
        return False
    if attribute in ("music_genre", "disliked_food") and first in ("my", "our", "his", "her", "their", "its"):
        return False
    if attribute == "study_field" and (first in LANGUAGES or "moment" in value):
        return False
    if attribute in ("teaches", "collects", "newspaper") and first in _NEVER_TAUGHT:
        return False
    if attribute == "sport":
        return first in SPORTS
    if attribute == "colour":
        return first in COLOURS or value.casefold().split("-")[-1].split()[-1] in COLOURS
    if attribute == "nationality":
        return value.casefold() in NATIONALITIES or value.endswith(("ish", "ese"))
    if attribute in ("disliked_food", "employer") and first.endswith("ing"):
        return False
    if attribute == "employer" and _NOT_WORKPLACES.match(value):
        return False
    return first not in _NEVER_FIRST.get(attribute, frozenset())


def one_name(text: str) -> str | None:
    """The text itself when it is short, else the one name in it; None when there is none or several."""
    if (
        len(text.split()) <= 3
        and not re.match(r"(?:I|we|she|he|it)\b", text)
        and not re.search(r"\b(?:is|was|has)\b", text)
    ):
        return text
    runs = re.findall(
        r"\b(?!I\b)[A-Z][\w'-]*(?: (?:of |the )?[A-Z][\w'-]*)*",
        text[:1].lower() + text[1:]
        if re.match(r"[A-Z][a-z]+ [a-z]", text)
        and not re.match(r"[A-Z][\w'-]+ (?:is|was|has|kept|came|ate)\b", text)
        else text,
    )
    return runs[0] if len(runs) == 1 else None
