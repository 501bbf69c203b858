# ruff: noqa: E501  (a pattern is read whole, on one line)
"""What a statement tells when its grammar fits no rule: a cue calls a relation to mind (`frames`), and the part of
the sentence that has the shape of such a value, and stands where values stand, is the value.

"My towel is still at Titan Gym, my gym" -> gym + a title behind "at", before "my gym" -> which gym I go to.
Silent when no value stands out: such a statement stays open for a model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from nestmem.agent import frames, relations
from nestmem.agent import vocabulary as vocab
from nestmem.agent.frames import Frame
from nestmem.agent.lexicon import LANGUAGES, NATIONALITIES, NO_OCCUPATION, OCCUPATION_ENDINGS
from nestmem.agent.relations import Entity
from nestmem.agent.values import COLOUR

MIN_SCORE = 2.5


class Told(NamedTuple):
    """An attribute of an entity with its value, as it stands in the sentence."""

    entity: Entity
    attribute: str
    value: str


class Candidate(NamedTuple):
    """A part of the sentence that may be the value."""

    start: int
    end: int
    text: str


def evoked(text: str, me: Entity) -> Told | None:
    """What a plain sentence, or two that belong together, tells of the speaker or of someone or something of theirs."""
    if _PAST.search(text):
        return None
    owner = _owner(text, me)
    named = _apposed(text, me)
    if named is not None:
        return named
    masked = _masked(text)
    for frame in frames.FRAMES:
        cues = list(frame.cue.finditer(text))
        if (
            not cues
            or (frame.veto and frame.veto.search(text))
            or (frame.also and not frame.also.search(text))
        ):
            continue
        best = _best(frame, cues, masked)
        if best is None:
            continue
        about = _about(frame, _cue_of(best, cues), text, owner, me)
        if about is not None:
            entity = about.of(frame.noun) if frame.noun else about
            return Told(entity, frame.attribute, best.text)
    return None


def _cue_of(candidate: Candidate, cues: list[re.Match[str]]) -> int:
    """The place of the cue that is nearest to the value."""
    return min(
        cues, key=lambda m: min(abs(candidate.start - m.end()), abs(m.start() - candidate.end))
    ).start()


_PAST = re.compile(
    r"\b(?:used to|no longer|any ?more|formerly|my (?:old|former|ex)[ -](?!school|teacher|friend))\b",
    re.IGNORECASE,
)


# --- of whom ------------------------------------------------------------------------------------------

_MY = re.compile(r"\b(?:my|our) ((?:[\w-]+ ){0,2}[\w-]+)", re.IGNORECASE)
_THIRD = re.compile(r"\b(?:he|she|his|her|him|its)\b", re.IGNORECASE)
_OWNED = vocab.words(
    "boat car bike band podcast blog café cafe start-up startup vacuum guitar van truck truck motorbike yacht channel newsletter bakery farm"
)


class Owner(NamedTuple):
    """Who or what of the speaker's a sentence is about, where it is named, and its kind (p, a, t)."""

    entity: Entity
    start: int
    letter: str


def _owner(text: str, me: Entity) -> Owner | None:
    """The first person, animal or thing of the speaker's that has attributes of its own."""
    for found in _MY.finditer(text):
        tokens = found.group(1).split()
        for size in range(len(tokens), 0, -1):
            noun = relations.noun(" ".join(tokens[:size]))
            letter = _letter(noun)
            if letter and noun.split()[-1] not in _ROLES:
                return Owner(me.of(noun), found.start(), letter)
    return None


_ROLES = vocab.words(
    "doctor dentist landlord landlady vet barber mechanic student date head lead hero idol pet master major senior junior fan"
)
_LEARNED_FROM = vocab.words("teacher tutor coach instructor trainer friend colleague mate")


def _masked(text: str) -> str:
    """The text with the nouns for people and animals of the speaker's made unreadable, in place: no value holds them."""
    for found in _MY.finditer(text):
        tokens = found.group(1).split()
        for size in range(len(tokens), 0, -1):
            phrase = " ".join(tokens[:size])
            if phrase.islower() and _letter(relations.noun(phrase)) in ("p", "a"):
                start = found.start(1)
                text = text[:start] + "~" * len(phrase) + text[start + len(phrase) :]
                break
    return text


_NAME = r"(?P<v>(?!I\b)[A-Z][\w'-]*(?: (?:(?:of|the|and) )?[A-Z][\w'-]*){0,3})"
_BEHIND = re.compile(
    rf"(?:^|[ \"]){_NAME},? (?:that is|who is|which is|is|was|that was|he is|she is|being) (?:also |really |just |of course )?(?:my|our) (?P<np>[\w-]+(?: [\w-]+){{0,2}})(?=[,.!?]|$)|(?:^|[ \"]){_NAME.replace('?P<v>', '?P<w>')}, (?:my|our) (?P<nq>[\w-]+(?: [\w-]+){{0,2}})(?=[,.!?]|$)"
)
_AHEAD = re.compile(
    rf"\b(?:my|our|My|Our) (?P<np>[a-z][\w-]*(?: [a-z][\w-]*){{0,2}}),? (?:who is called |called |named |by the name of |whose name is |it is called |who goes by |answering to )?{_NAME}(?=[,.!?]|$| (?:is|was|has|and|who|will|again|today|yesterday|for|with|to|in|on|at|needs|got)\b)"
)


def _apposed(text: str, me: Entity) -> Told | None:
    """ "Noor, who is my teacher", "our plant Piru": who or what is named beside its noun."""
    for pattern in (_BEHIND, _AHEAD):
        for found in pattern.finditer(text):
            groups = found.groupdict()
            noun = relations.noun(groups["np"] or groups["nq"])
            value = groups["v"] or groups["w"]
            first = value.split()[0]
            common = first.lower() in vocab.FUNCTION or first.lower() in vocab.VERBS
            if (
                noun.startswith("favourite")
                or value in _NO_NAMES
                or _is_demonym(value)
                or (common and (" " not in value or first != "The"))
            ):
                continue
            nameable = _letter(noun) and noun.split()[-1] not in _UNNAMED
            made = noun.split()[-1] == "car" and first.lower() in vocab.CAR_MAKES
            if (
                (nameable or noun in ("house plant", "laptop", "project"))
                and not made
                and not _OTHER_NAME.search(text)
            ):
                return Told(me.of(noun), "codename" if noun == "project" else "name", value)
    return None


_OTHER_NAME = re.compile(
    r"\b(?:middle|last|second|family|maiden|nick) ?name\b|\bsurname\b|\bsprouts\b", re.IGNORECASE
)
_UNNAMED = vocab.words(
    "team project group school club shop store book novel film album song game app village town street product library league"
)


def _letter(noun: str) -> str:
    if relations.is_person(noun):
        return "p"
    if relations.is_animal(noun):
        return "a"
    return "t" if noun.split()[-1] in _OWNED else ""


def _about(frame: Frame, cue: int, text: str, owner: Owner | None, me: Entity) -> Entity | None:
    """The entity that the frame's attribute is one of here: the owner, the speaker, or None when it fits neither."""
    mine = me if "s" in frame.who and _speaks(text) else None
    if owner is None or owner.letter not in frame.who:
        strange = owner is not None and owner.letter == "p" and _owns_cue(cue, text, owner)
        return (
            None if strange or (owner and frame.attribute in ("name", "surname") and not frame.noun) else mine
        )
    learned = (
        frame.attribute in ("school", "learning_language", "music_lesson_day")
        and owner.entity.head in _LEARNED_FROM
    )
    if mine is None or (_THIRD.search(text[owner.start :]) and not learned):
        return owner.entity
    return owner.entity if _owns_cue(cue, text, owner) and not learned else mine


def _speaks(text: str) -> bool:
    return not re.match(r"(?:he|she|they|his|her|their)\b", text, re.IGNORECASE)


def _owns_cue(cue: int, text: str, owner: Owner) -> bool:
    """Whether the owner, rather than "I", is the last that was named before the cue (else the first after it)."""
    selves = [m.start() for m in re.finditer(r"\b(?:I|me|we)\b", text)]
    if not selves:
        return True
    before = [s for s in selves if s < cue]
    if owner.start < cue or before:
        return owner.start > max(before, default=-1) and owner.start < cue
    return owner.start < min(selves)


# --- which value --------------------------------------------------------------------------------------

_ARTICLES = re.compile(
    r"(?:\b(?:the|an?|some|my|our|his|her|their|its|any|more|every|called|always|just|only|still|definitely|simply|usually|by|named|number|of|in|a bit of|lots of|a lot of|this|really|good old) )+$",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"(?:\b(?:the|an?|some|my|our|his|her|their|its|any|more|every) )+$", re.IGNORECASE)
_IS_BEFORE = re.compile(
    r"(?:\b(?:is|are|was|were|be|been|called|named|becomes?|remains?|would be|will be|beats|tops|than|says|reads|as)(?: (?:still|always|definitely|now|simply|just|probably|clearly|of course|without a doubt))?|[:?])\s*$",
    re.IGNORECASE,
)
_IS_AFTER = re.compile(
    r"^,? ?(?:is|are|was|were|will be|would be|has been|remains|really feels|feels|feel|has always been|takes|pays|hired|employs|makes|gives?|has employed|is dangerous|are dangerous|triggers?|causes?|scares?|frightens?|terrif\\w+|helps?|treats?|looks after|owns|rents|beats|cleans?|lends?|comes|will|must|can)\b",
    re.IGNORECASE,
)
_LINK_AFTER = re.compile(
    r"^[\w ]{0,40}?[,.;:?-]+ ?(?:and |but |since |because |as |which |though |for )?(?:that|it|this|they|there|where|who|which|my|our|his|her|the|best|such|he|she|a|an|I|we|is|number)\b",
    re.IGNORECASE,
)


def _best(frame: Frame, cues: list[re.Match[str]], text: str) -> Candidate | None:
    taken = [(m.start(), m.end()) for m in cues] if frame.shape in _OPEN_SHAPES else []
    candidates = [
        c for c in _SHAPES[frame.shape](text) if not _inside(c, taken, text) and not _denied(frame, c, text)
    ]
    scored = sorted(
        ((_score(frame, c, cues, text, len(candidates)), -_distance(c, cues), c) for c in candidates),
        reverse=True,
    )
    if not scored or scored[0][0] < MIN_SCORE:
        return None
    return scored[0][2]


def _inside(candidate: Candidate, taken: list[tuple[int, int]], text: str) -> bool:
    """Whether the cue alone makes up the candidate."""
    foods = set(candidate.text.lower().split()) & vocab.FOODS
    return not foods and any(s <= candidate.start and candidate.end <= e for s, e in taken)


def _distance(candidate: Candidate, cues: list[re.Match[str]]) -> int:
    return min(min(abs(candidate.start - m.end()), abs(m.start() - candidate.end)) for m in cues)


def _score(frame: Frame, candidate: Candidate, cues: list[re.Match[str]], text: str, rivals: int) -> float:
    before, after = text[: candidate.start], text[candidate.end :]
    bare = _ARTICLE.sub(
        "", _ARTICLE.sub("", before).removesuffix("~ ").rstrip("~") if before.endswith("~ ") else before
    )
    ahead = any(m.end() <= candidate.start for m in cues)
    behind = any(m.start() >= candidate.end for m in cues)
    score = frame.weight + (2.0 if frame.shape in _TELLING_SHAPES else 0.0)
    score += 1.0 if rivals == 1 else 0.0
    if frame.before and (frame.before.search(bare) or frame.before.search(before)):
        score += 2.0
    if ahead and _IS_BEFORE.search(bare):
        score += 2.0
    if behind and _IS_AFTER.match(after):
        score += 2.0
    elif behind and _LINK_AFTER.match(after):
        score += 1.5
    if ahead and re.search(r",\s*$", bare):
        score += 1.0
    close = min((candidate.start - m.end() for m in cues if m.end() <= candidate.start), default=99)
    if close <= 2 + len(before) - len(_ARTICLES.sub("", before)):
        score += 1.5
    if any(0 <= m.start() - candidate.end <= 2 for m in cues):
        score += 1.5
    return score


_NOT = re.compile(r"\b(?:not|never|no|nobody|none|without|neither)\b", re.IGNORECASE)
_NO_NEGATION = re.compile(
    r"\b(?:can|could) (?:hardly |never )?not (?:wait|get enough|believe|decide|talk|meet|leave|reach|print|imagine|do (?:it|this|that|anything|without)|hear|manage|do|come|make|get by|go a|start|function|begin|resist|stop|help|live without|be without|think straight|travel)\b|"
    r"\b(?:do|does|did) not (?:have (?:much|many|to)|mind|want to (?:miss|forget)|need much|forget|call|let|do everything|know what)\b|\bwill not (?:charge|start|forget|turn on)\b|"
    r"\bnever (?:miss(?:es)?|tires?|starts?|skips?|gets? (?:tired|enough|bored)|say no|go(?:es)? (?:a day|anywhere|out|without)|leaves? (?:home|the house)|without|forgets?|let|have moved|gets? old|fails?|too|far)\b|"
    r"\bno (?:\w+ ){1,4}?(?:is|are|was|comes?|beats?|means|moves|can|could|makes?|has|tops|like|as|better|compares?)\b|\bthere is (?:no|nothing)\b|\bis not it\b|"
    r"\bnot (?:working|only|sure|just|far|much|long|at work)\b|\bsays? no\b|\bwithout\b|\bno (?:doubt|one|wonder|matter|idea|better)\b|\b(?:must|should|can) (?:not|never) (?:forget|say no)\b|\bnever (?:\w+ )?anyone else\b|\blike no\b|\bshould never\b", re.IGNORECASE
)  # fmt: skip


def _denied(frame: Frame, candidate: Candidate, text: str) -> bool:
    """Whether the clause around the candidate is negated, and negation is no part of what the frame says."""
    if frame.denies:
        return False
    left = max(text.rfind(mark, 0, candidate.start) for mark in (",", ".", ";", ":", "?"))
    rights = [p for mark in (",", ". ", ";", "?") if (p := text.find(mark, candidate.end)) >= 0]
    clause = text[left + 1 : min(rights, default=len(text))]
    return _NOT.search(_NO_NEGATION.sub(" ", clause)) is not None


# Capitalised values.

_CAP = r"(?:(?!I(?: |'|$))[A-ZÀ-ÖØ-Þ0-9][\w'!+-]*|iPhone|[a-z]+[A-Z]\w*)"
_TITLE_LINKS = r"(?:of|the|and|in|with|to|from|for|de|la|du|a|on|at|&|no)"
_NAME_LINKS = r"(?:of|and|&|de|van|von|der)"
_NO_NAMES = frozenset(
    [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "I",
        "I'm",
        "I've",
        "I'd",
        "I'll",
        "Christmas",
        "Easter",
        "TV",
        "SSID",
        "OS",
        "GP",
        "CV",
        "PDF",
        "HR",
        "DJ",
        "UK",
        "USA",
        "EU",
        "OK",
        "Mum",
        "Mom",
        "Dad",
        "Wi-Fi",
        "WiFi",
        "Olympics",
        "LinkedIn",
        "Duolingo",
        "Internet",
        "VPN",
        "PC",
    ]
)


def _runs(text: str, links: str, *, demonyms: bool = False) -> Iterator[Candidate]:
    """Runs of capitalised words; the first word of a sentence only when it is no common word."""
    for found in re.finditer(rf"(?!\d){_CAP}(?: (?:{links} ){{0,2}}{_CAP})*", text):
        start, end = found.span()
        if text[start - 1 : start].isalnum() or text[start - 1 : start] == "'":
            continue
        start = _after_common(text, start, end)
        end = (
            start + len(re.sub(r"(?:'s)?$", "", text[start:end]))
            if re.match(r" (?:name|house|place|birthday)\b", text[end:])
            else end
        )
        value = text[start:end]
        value = re.sub(rf"(?: {links})+$", "", value)
        if (
            value
            and value.split()[0] not in _NO_NAMES
            and re.search(r"[A-Za-z]", value)
            and (demonyms or not _is_demonym(value))
        ):
            yield Candidate(start, start + len(value), value)


def _after_common(text: str, start: int, end: int) -> int:
    """Past a common word that is capitalised only because a sentence begins with it."""
    at_start = start == 0 or re.search(r"[.?!:]\s*$", text[:start]) is not None
    first = text[start:end].split()[0]
    plain = first.split("'")[0].lower()
    common = plain in vocab.FUNCTION or plain in vocab.VERBS or plain in vocab.GENERIC or plain in LANGUAGES
    if not at_start or not common:
        return start
    rest = text[start + len(first) : end]
    follows = re.match(rf" {_CAP}", rest)
    if follows and plain in (
        "the",
        "little",
        "old",
        "new",
        "bank",
        "hotel",
        "great",
        "big",
        "club",
        "place",
        "brave",
        "a",
        "die",
        "der",
        "das",
        "le",
        "la",
        "el",
        "return",
        "escape",
        "goodbye",
        "both",
        "walking",
        "dancing",
        "house",
        "good",
        "doctor",
        "letter",
        "here",
        "let",
        "come",
    ):
        return start
    return start + len(first) + (len(rest) - len(rest.lstrip())) if rest.strip() else end


def _is_demonym(value: str) -> bool:
    return value.lower() in NATIONALITIES | LANGUAGES


def _names(text: str) -> list[Candidate]:
    return [c for c in _runs(text, _NAME_LINKS) if not re.match(r"(?:Dr|Doctor) ", c.text)]


def _titles(text: str) -> list[Candidate]:
    return list(_runs(text, _TITLE_LINKS))


def _institutions(text: str) -> list[Candidate]:
    """With the article that belongs to it: "the Ritz", "The Guardian"."""
    found = []
    for c in _runs(text, _NAME_LINKS):
        the = text[: c.start].endswith("the ") or text[: c.start].endswith("The ")
        found.append(Candidate(c.start - 4, c.end, text[c.start - 4 : c.end]) if the else c)
    return found


def _ending(
    words: frozenset[str], source: Callable[[str], list[Candidate]]
) -> Callable[[str], list[Candidate]]:
    return lambda text: [c for c in source(text) if c.text.split()[-1].lower() in words]


_SCHOOLS = vocab.words(
    "school high academy primary grammar secondary elementary comprehensive college kindergarten lyceum gymnasium prep"
)
_STUDIED = vocab.words("high school primary grammar")
_TITLED = re.compile(r"\b(?:Dr|Doctor|Prof|Professor)\.? [A-Z][\w'-]+(?: [A-Z][\w'-]+)?")
_FULL = re.compile(r"\b(?:(?:Mr|Mrs|Ms|Miss|Dr)\.? [A-Z][\w'-]+(?: [A-Z][\w'-]+)?|[A-Z][\w'-]+ [A-Z][\w'-]+)")


def _universities(text: str) -> list[Candidate]:
    return [c for c in _institutions(text) if c.text.split()[-1].lower() not in _STUDIED]


def _places(text: str) -> list[Candidate]:
    return [
        c
        for c in _runs(text, r"(?:de|la|upon|of|on|the)")
        if c.text.split()[-1].lower() not in vocab.STREETS or len(c.text.split()) == 1
    ]


def _full_names(text: str) -> list[Candidate]:
    runs = [c for c in _runs(text, _NAME_LINKS) if _FULL.fullmatch(c.text)]
    return runs or _names(text)


_ROLE_WORDS = re.compile(
    r"\b(?:(?:Senior|Junior|Lead|Chief|Head|Vice|Principal|Deputy|Assistant|Executive|Managing|Creative|Technical|Regional|Associate|General|Legal|Product|Project|Program|Store|Office|Sales|Marketing|Account|Operations|"
    r"Data|Software|Staff|Team|Logistics|Customer|Human|Finance|Financial|Communications|Research|Quality|Brand|Business|Content|Design|Engineering|Event|Facility|Innovation|Key|Night|Purchasing|Security|Shift|Supply|Training|Web|[A-Z]\w+)(?: (?:of|for|and) | ))*"
    r"(?:Director|Manager|Officer|Scientist|Engineer|Consultant|Analyst|Owner|Coordinator|Counsel|Planner|Designer|Developer|Architect|Executive|Specialist|Representative|Assistant|Administrator|President|Partner|Supervisor|Lead|Editor|Advisor|"
    r"Strategist|Controller|Buyer|Producer|Associate|Secretary|Technician|Researcher|Trainer|Accountant|Recruiter|Leader|Chief|(?:Head|Director|Chief|Vice President|VP|Chair) of [A-Z]\w+(?: (?:and )?[A-Z]\w+)*)\b"
)  # fmt: skip


# Values of closed form.


def _matches(pattern: str, flags: int = re.IGNORECASE) -> Callable[[str], list[Candidate]]:
    compiled = re.compile(pattern, flags)

    def find(text: str) -> list[Candidate]:
        return [Candidate(*m.span("v"), m["v"]) for m in compiled.finditer(text)]

    return find


_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DAYS = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_SPOT = r"(?:in|on|under|behind|next to|beside|by|near|on top of|between|inside|below|above|beneath|underneath|outside|in front of|at)"


def _set(words: frozenset[str], *, cased: bool = False) -> Callable[[str], list[Candidate]]:
    """Single words of a closed set; with `cased` only where they are capitalised."""

    def find(text: str) -> list[Candidate]:
        return [
            Candidate(*m.span(), m.group())
            for m in re.finditer(r"[\w+#&-]+(?:'[\w]+)?", text)
            if m.group().lower() in words and (not cased or m.group()[0].isupper())
        ]

    return find


_LANGUAGE_NEXT = re.compile(
    r"(?:[,.!?;:]|$| (?:lessons?|courses?|class(?:es)?|teacher|tutor|app|vocabulary|grammar|verbs|homework|textbook|exams?|words|speaker|flashcards|conversation|podcasts?|evening|natively|fluently|first|is|are|was|at|on|in|with|as|for|and|every|because|before|since|"
    r"to|from|these|now|when|right|but|by|that|comes?|though|so|again|this|the|after|through|which|all|just|still|lately|online|too|from|twice|once|who|better|most|around|courses)\b)"
)  # fmt: skip
_NATIONAL_NEXT = re.compile(
    r"(?:[,.!?;]|$| (?:citizen|citizens|national|passport|by|and|so|or|but|nationality|man|woman|roots|at|because|through|citizenship|since|as|like|papers|if)\b)"
)


def _followed(words: frozenset[str], then: re.Pattern[str]) -> Callable[[str], list[Candidate]]:
    """Names of languages or nations that stand alone: "Turkish lessons", but no "Turkish coffee"."""
    return lambda text: [c for c in _set(words, cased=True)(text) if then.match(text[c.end :])]


def _made_by(makes: frozenset[str]) -> Callable[[str], list[Candidate]]:
    """ "Volvo V60", "iPhone 15 Pro": a make with the model behind it."""
    first = "|".join(sorted(map(re.escape, makes), key=len, reverse=True))
    compiled = re.compile(
        rf"(?<![\w-])(?=[A-ZŠi])(?i:{first})(?![\w-])(?: (?!I\b)(?:[A-Z][\w+-]*|\d+[a-z]?\w*|mini|e|i\d|s)(?![\w'])(?:\.\d+)?)*"
    )

    def find(text: str) -> list[Candidate]:
        found = [Candidate(*m.span(), m.group()) for m in compiled.finditer(text)]
        return [c for c in found if " " in c.text or c.text.lower() not in _AMBIGUOUS_MAKES]

    return find


_AMBIGUOUS_MAKES = vocab.words("nothing land mini seat smart mi honor galaxy honda moto")


def _systems(text: str) -> list[Candidate]:
    found = re.finditer(r"(?:\b[A-Z][\w!]*|\b[a-z]+[A-Z]\w*)(?: (?:OS|Linux|\d[\w.]*|[A-Z][\w!]+))*", text)
    return [
        Candidate(*m.span(), m.group())
        for m in found
        if set(m.group().lower().split()) & vocab.OPERATING_SYSTEMS
    ]


def _colours(text: str) -> list[Candidate]:
    return [Candidate(*m.span(), m.group().lower()) for m in COLOUR.finditer(text)]


def _coffees(text: str) -> list[Candidate]:
    return [
        c
        for c in _noun_phrases(text, "breakfast")
        if c.text.lower().split(" with ")[0].split()[-1] in vocab.COFFEES
        and c.text.lower() not in ("coffee", "black", "white")
    ]


def _instruments(text: str) -> list[Candidate]:
    found = re.finditer(
        r"\b(?:(?:double|bass|electric|classical|acoustic|french|english|pan|steel|jazz|grand|tin|snare) )?([a-z]+)\b",
        text,
        re.IGNORECASE,
    )
    return [Candidate(*m.span(), m.group()) for m in found if m.group(1).lower() in vocab.INSTRUMENTS]


def _genres(text: str) -> list[Candidate]:
    found = re.finditer(
        r"\b(?:(?:hip|bossa|drum and|classic|indie|hard|folk|heavy|death|progressive|deep|classical|smooth|free|baroque|chamber|film|world|country|synth) )?([\w&-]+)(?: (?:music|rock|pop|metal|nova|punk|jazz|blues|soul))?\b",
        text,
        re.IGNORECASE,
    )
    return [
        Candidate(*m.span(), m.group())
        for m in found
        if set(m.group().lower().split()) & vocab.GENRES
        and m.group().lower()
        not in ("house", "country", "heavy", "electronic", "acoustic", "drum", "hip", "progressive", "trap")
    ]


_KIN = vocab.words(
    "father mother brother sister daughter partner neighbour mentor cousin customer client owner number order corner winter summer colour letter paper computer dinner supper card river water matter calendar weather character chapter"
)


def _occupations(text: str) -> list[Candidate]:
    found = []
    for c in _noun_phrases(text, "occupation"):
        tokens = c.text.lower().split()
        last = tokens[-1]
        article = re.search(
            r"\b(?:an?|the|my|as|qualified|professional|trained|freelance|being|retired) $",
            text[: c.start],
            re.IGNORECASE,
        )
        known = last.endswith(OCCUPATION_ENDINGS) or last in vocab.JOBS
        if known and article and last not in NO_OCCUPATION | _KIN and c.text.islower() and len(tokens) <= 3:
            found.append(c)
    return found


# Noun phrases.

_TOKEN = re.compile(r"[\w’'&+#°é-]+|[^\w\s]")
_JOINS = frozenset({"and", "with", "of", "au", "de", "à", "in", "&", "on"})
_PARTS = frozenset({"and", "of", "au", "de", "à", "&"})
_KEPT_ADJECTIVES = vocab.words(
    "old little big small tiny young hard raw new good long flat great front wild sweet late early deep own strong"
)


def _noun_phrases(text: str, shape: str) -> list[Candidate]:
    """Runs of words that are neither function words nor verbs and not only generic nouns."""
    return [c for c in _open_runs(text, shape) if shape == "occupation" or not _generic(c.text, shape)]


def _open_runs(text: str, shape: str) -> list[Candidate]:
    joins = (
        _JOINS
        if shape == "breakfast"
        else _PARTS
        if shape == "food"
        else frozenset({"of", "and", "for", "with"})
        if shape in ("doing", "subject")
        else frozenset({"of"})
    )
    tokens = list(_TOKEN.finditer(text))
    open_words = [_is_open(tokens, i, shape) for i in range(len(tokens))]
    found, i = [], 0
    while i < len(tokens):
        if not open_words[i]:
            i += 1
            continue
        j = i
        while j + 1 < len(tokens) and (open_words[j + 1] or _joins_on(tokens, open_words, j, joins)):
            j += 1
        start = _leftwards(tokens, i)
        phrase = Candidate(
            tokens[start].start(), tokens[j].end(), text[tokens[start].start() : tokens[j].end()]
        )
        found.append(phrase)
        i = j + 1
    return found


_POSSESSED = re.compile(r"(?:pie|milk|cheese|egg|eggs|bread|mix|beard|delight)$")


def _joins_on(tokens: list[re.Match[str]], open_words: list[bool], j: int, joins: frozenset[str]) -> bool:
    """Whether the phrase goes on behind "and", "of", "with": not behind a measure ("a lot of", "a cup of")."""
    if j + 2 >= len(tokens) or not open_words[j + 2] or tokens[j + 1].group().lower() not in joins:
        return False
    return tokens[j].group().lower() not in vocab.GENERIC


def _is_open(tokens: list[re.Match[str]], i: int, shape: str) -> bool:
    word = tokens[i].group()
    plain = word.lower().replace("’", "'")
    if not word[0].isalnum() or plain.isdigit():
        return False
    if (
        word[0].isupper()
        and i > 0
        and tokens[i - 1].group() not in ".?!:"
        and shape != "noun"
        and plain not in vocab.FUNCTION
    ):
        return True
    closed = i + 1 == len(tokens) or not tokens[i + 1].group()[0].isalnum()
    if (
        plain in vocab.VERBS
        and plain.endswith("s")
        and closed
        and i > 0
        and tokens[i - 1].group().islower()
        and _is_open(tokens, i - 1, shape)
    ):
        return True
    if shape in ("doing", "thing", "sport") and plain in vocab.GERUNDS:
        return i == 0 or tokens[i - 1].group().lower() not in _BE
    if i > 0 and tokens[i - 1].group().lower() in ("a", "an") and plain not in vocab.FUNCTION:
        return True
    if plain in (
        "baked",
        "boiled",
        "dried",
        "fried",
        "iced",
        "spiced",
        "smoked",
        "mixed",
        "grilled",
        "steamed",
        "roasted",
        "mashed",
        "poached",
        "scrambled",
        "stuffed",
        "toast",
        "roast",
        "back",
        "salted",
        "pickled",
        "overnight",
        "marine",
        "set",
        "board",
        "record",
        "chocolate",
        "stamp",
        "filled",
        "charging",
        "fountain",
        "sun",
        "match",
        "box",
        "knife",
        "watch",
        "player",
        "machine",
        "cut",
        "rolls",
        "roll",
        "mix",
        "shake",
        "stew",
        "wrap",
        "bake",
        "spread",
        "course",
        "ring",
        "dance",
        "book",
        "stand",
        "boots",
    ):
        return True
    return (
        plain not in vocab.FUNCTION
        and plain not in vocab.VERBS
        and not (
            plain.endswith("'s")
            and not _POSSESSED.match(tokens[i + 1].group() if i + 1 < len(tokens) else "")
        )
    )


_BE = vocab.words("am is are was were be been")


def _leftwards(tokens: list[re.Match[str]], i: int) -> int:
    """Takes in an adjective behind an article: "an old sock"."""
    if (
        i >= 2
        and tokens[i - 1].group().lower() in _KEPT_ADJECTIVES
        and tokens[i - 2].group().lower() in ("a", "an")
    ):
        return i - 1
    return i


def _generic(phrase: str, shape: str) -> bool:
    tokens = [t.lower() for t in re.findall(r"[\w-]+", phrase)]
    if len(tokens) > 6:
        return True
    content = [t for t in tokens if t not in vocab.GENERIC and t not in _JOINS]
    if shape == "thing" and any(t in vocab.ANIMALS for t in tokens):
        return False
    return not content or phrase in _NO_NAMES or all(t in _NEVER for t in content)


_NEVER = vocab.words(
    "wrapping balloon exciting dangerous lot kind sort cup glass piece bowl slice plate pair copy yours mine monday tuesday wednesday thursday friday saturday sunday january february march april june july august september october november "
    "december anything nothing everybody nobody somebody summer winter autumn afternoon whole plenty number half hundred thousand million "
    "bit matter sure okay please thank yesterday sorts kinds thing-wise conversation surprise possible easily impossible happy ever absolute "
    "slightest tons loads pile piles corner middle front side rainy sunny cold hot warm hungry thirsty crowded full empty fresh cheap expensive "
    "serious allergic careful wonderful favourite huge big massive enormous only enough able ready final earlier later opposite total"
)


def _phrases_of(shape: str) -> Callable[[str], list[Candidate]]:
    return lambda text: _noun_phrases(text, shape)


def _venues(text: str) -> list[Candidate]:
    """ "the soup kitchen": a definite noun phrase."""
    found = re.finditer(
        r"\b[Tt]he (?:[\w'-]+ ){0,3}?[\w'-]+(?=[,.?!;:]|$| (?:is|every|once|twice|on|without|as|when|and|where|for|in|because|needs?|has|with|so)\b)",
        text,
    )
    return [
        Candidate(*m.span(), m.group())
        for m in found
        if not all(w in vocab.FUNCTION for w in m.group().lower().split())
        and m.group().split()[-1].lower()
        not in ("weekend", "weekends", "week", "morning", "evening", "side", "time", "day", "moment")
    ]


def _spots(text: str) -> list[Candidate]:
    found = re.finditer(
        rf"\b{_SPOT} (?:(?:the|an?|my|our|his|her|its) (?:[\w'-]+ )?(?:[\w'-]+ )?[\w'-]+|bed|sight|front)(?=[,.?!;:]|$| (?:to|every|all|when|and|at|is|where|because|during|while|for|of|since|as|most|so|whenever|if|right|now)\b)",
        text,
    )
    return [
        Candidate(*m.span(), m.group())
        for m in found
        if "~" not in m.group()
        and not re.search(
            r"\b(?:night|day|time|morning|moment|weekend|winter|summer|evening|world|life|year)$", m.group()
        )
    ]


def _subjects(text: str) -> list[Candidate]:
    return [
        c
        for c in _noun_phrases(text, "subject")
        if c.text.islower() or c.text.split()[0] in ("English", "French", "German", "American")
    ]


_BREEDS_AFTER = re.compile(
    r"\b(?:an?|breed|pure-?bred|the|as|pedigree|as an?|of the breed|purebred) $", re.IGNORECASE
)


def _breeds(text: str) -> list[Candidate]:
    return [
        c
        for c in _noun_phrases(text, "thing")
        if _BREEDS_AFTER.search(text[: c.start])
        or re.search(r"(?:breed(?: is|:)|is|by breed) $", text[: c.start])
    ]


_OPEN_SHAPES = frozenset(
    {
        "thing",
        "food",
        "breakfast",
        "noun",
        "doing",
        "subject",
        "sport",
        "title",
        "name",
        "institution",
        "venue",
        "company",
        "team",
        "place",
    }
)
_TELLING_SHAPES = frozenset(
    {"transport", "code", "clock", "date", "weekday", "year", "size", "room", "blood", "units", "network", "person", "doctor", "street", "language", "nationality", "diet", "coffee", "instrument",
     "genre", "os", "phone", "car", "colour", "season", "role", "spot", "school"}
)  # fmt: skip
_SHAPES: dict[str, Callable[[str], list[Candidate]]] = {
    "code": _matches(r"(?<![\d:.])(?P<v>\d{4,8}|\d{2,4}[- ]\d{2,4})(?![\d:])"),
    "clock": _matches(r"(?<!\d)(?P<v>\d{1,2}(?:[:.]\d\d)(?: ?[ap]\.?m\.?)?|\d{1,2} ?[ap]\.?m\.?|(?:half|quarter) (?:past|to) \w+|\w+ o'clock|midnight|noon)(?!\d)"),
    "date": _matches(rf"(?P<v>\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH}|{_MONTH} (?:the )?\d{{1,2}}(?:st|nd|rd|th)?)"),
    "weekday": _matches(rf"\b(?P<v>{_DAYS})s?\b"),
    "year": _matches(r"(?<![\d:])(?P<v>(?:19|20)\d\d)(?!\d)"),
    "age": _matches(r"(?<![\d:.])(?P<v>\d{1,3})(?![\d:.%]|\w)(?! (?:January|February|March|April|May|June|July|August|September|October|November|December|km|kilo|hours|minutes|euros|times|weeks|months|days))"),
    "size": _matches(r"(?<![\d:.])(?P<v>(?:3[0-9]|4[0-9]|[3-9]|1[0-4])(?:[.,]5|½)?)(?![\d:.]|\w)"),
    "room": _matches(r"\b(?:room|office|number|door) (?:is |number |no\.? )*(?P<v>[A-Z]?\d{1,4}[A-Z]?)\b"),
    "blood": _matches(r"(?<![\w])(?P<v>(?:AB|A|B|O|0) ?(?:positive|negative|pos|neg|\+|-))(?!\w)", 0),
    "units": _matches(r"\b(?P<v>(?:metric|imperial|SI|US)(?: (?:units|system|measurements))?|(?:degrees )?(?:Celsius|Fahrenheit|Kelvin)|(?:kilomet(?:re|er)s|miles|met(?:re|er)s|feet|cups|grams|litres|liters|inches|kilos|kilograms|pounds|stones?|ounces|gallons|pints|yards|centimet(?:re|er)s)(?: (?:and|per) \w+)?)\b"),
    "network": _matches(r"(?P<v>(?:[A-Z][\w]*[A-Z_0-9][\w]*|\w+[-_](?:home|5G|guest|net|wifi)\b|[A-Z]\w+ (?:Guest|Net|Home|House|Azul|Network|\d{3,4})|[A-Z]\w+(?:-\w+)+))(?<!SSID)(?<!Wi-Fi)", 0),
    "person": lambda text: [Candidate(*m.span(), m.group()) for m in _TITLED.finditer(text)],
    "doctor": lambda text: [Candidate(*m.span(), m.group()) for m in _TITLED.finditer(text)],
    "full name": _full_names,
    "name": _names,
    "team": lambda text: [Candidate(c.start, c.end, c.text) for c in _names(text)],
    "title": _titles,
    "institution": _institutions,
    "company": _institutions,
    "place": _places,
    "street": _matches(r"(?P<v>(?:[A-Z][\w'-]+ )+(?:Street|Road|Lane|Avenue|Way|Drive|Close|Court|Crescent|Grove|Square|Parade|Boulevard|Terrace|Hill|Row|Place|Alley|Mews|Gardens|Walk|Quay))\b", 0),
    "school": _ending(_SCHOOLS, _institutions),
    "university": _universities,
    "role": lambda text: [Candidate(*m.span(), m.group()) for m in _ROLE_WORDS.finditer(text)],
    "language": _followed(LANGUAGES, _LANGUAGE_NEXT),
    "nationality": _followed(NATIONALITIES, _NATIONAL_NEXT),
    "diet": _set(vocab.DIETS),
    "colour": _colours,
    "season": _matches(r"\b(?P<v>(?:(?:early|late|deep|high|mid) )?(?:spring|summer|autumn|winter|midsummer|midwinter|fall|springtime|summertime|monsoon season))\b"),
    "coffee": _coffees,
    "transport": _matches(rf"\b(?P<v>(?:(?:kick|electric|e-|commuter|shuttle|cable|city|night|company|cargo|fast|local|rowing|express|folding|motor|school|water|light) )?(?:{'|'.join(vocab.TRANSPORTS)}))\b"),
    "airline": lambda text: list(_runs(text, _NAME_LINKS, demonyms=True)),
    "instrument": _instruments,
    "genre": _genres,
    "os": _systems,
    "code lang": _set(vocab.PROGRAMMING, cased=True),
    "phone": _made_by(vocab.PHONE_MAKES),
    "car": _made_by(vocab.CAR_MAKES),
    "venue": _venues,
    "spot": _spots,
    "breed": _breeds,
    "occupation": _occupations,
    "subject": _subjects,
    "food": _phrases_of("food"),
    "breakfast": _phrases_of("breakfast"),
    "thing": _phrases_of("thing"),
    "noun": _phrases_of("noun"),
    "doing": _phrases_of("doing"),
    "sport": _phrases_of("sport"),
}  # fmt: skip
