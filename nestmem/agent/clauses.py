"""From a message to clauses: sentences with their character spans, and what kind of talk each is."""

# ruff: noqa: E501  (a pattern is read whole, on one line)
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from nestmem.agent.lexicon import CLOSERS, OPENERS

MAX_SENTENCE_CHARS = 600
_ABBREVIATIONS = (
    "mr",
    "mrs",
    "ms",
    "dr",
    "prof",
    "st",
    "mt",
    "vs",
    "etc",
    "e.g",
    "i.e",
    "a.m",
    "p.m",
    "no",
    "jr",
    "sr",
)
_STOP = re.compile(r"[.!?…]+[\"')\]”’]*(?=\s|$)|\n+")

Talk = Literal["statement", "question", "hypothetical", "reported"]
Link = Literal["main", "and", "who"]
_LINKS: dict[str, Link] = {"main": "main", "main2": "main", "and": "and", "who": "who"}


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """`text` is made plain (straight quotes, contractions of pronouns written out, openers taken off);
    `start` and `end` are its place in the message."""

    text: str
    start: int
    end: int
    talk: Talk
    opener: str = ""


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One subject and its predicate. `link`: 'main' has its own subject, 'and' continues the subject of
    the clause before ("... and works as a nurse"), 'who' speaks of what was named last."""

    text: str
    link: Link


def sentences(message: str) -> Iterator[Sentence]:
    """The sentences of a message, in order. Code blocks and lines quoted with ">" are left out."""
    hidden = re.sub(
        r"```.*?(?:```|\Z)|^[ \t]*>.*$", lambda m: " " * len(m.group()), message, flags=re.S | re.M
    )
    for start, end in _spans(hidden):
        raw = hidden[start:end]
        if len(raw) <= MAX_SENTENCE_CHARS and re.search(r"\w", raw):
            yield _sentence(raw, start, end)


def _spans(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for stop in _STOP.finditer(text):
        head = text[start : stop.start()]
        word = head.split()[-1].lower() if head.split() else ""
        if stop.group() == "." and (word in _ABBREVIATIONS or (re.fullmatch(r"[a-z]", word) and word != "i")):
            continue
        yield from _trimmed(text, start, stop.end())
        start = stop.end()
    yield from _trimmed(text, start, len(text))


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    body = text[start:end]
    lead = re.match(r"[\s*•#-]*(?:\d+[.)]\s+)?", body)
    start += lead.end() if lead else 0
    end -= len(body) - len(body.rstrip())
    if end > start:
        yield start, end


def _sentence(raw: str, start: int, end: int) -> Sentence:
    text = plain(raw)
    text, opener = strip_openers(text)
    asks = text.endswith("?")
    if asks:
        text, asks = _without_tag(text)
    text = text.rstrip(" .!?…,;:")
    return Sentence(text=text, start=start, end=end, talk=_talk(text, asks, opener), opener=opener)


_IS = r"(?=\s+(?:called|named|an?|the|from|in|at|on|my|our|not|now|always|allergic|really|actually|moving|working|living)\b)"
_CONTRACTIONS = [
    (r"\b(I)'m\b", r"\1 am"), (r"\bIm\b", "I am"), (r"\b(I|you|we|they)'ve\b", r"\1 have"), (r"\b(you|we|they)'re\b", r"\1 are"),
    (r"\b(I|you|he|she|it|we|they)'ll\b", r"\1 will"), (r"\b(I|you|he|she|it|we|they|that)'d\b", r"\1 would"),
    (r"\b(he|she|it|that|there|here|who|what|where)'s\s+(?=(?:been|got|just|moved|started|recently|become)\b)", r"\1 has "),
    (r"\b(he|she|it|that|there|here|who|what|where|name|surname|nickname|password|codename|birthday|code|pin|job|colour|color|food|passcode)'s\b", r"\1 is"),
    (r"\b([Mm]y|[Oo]ur|[Hh]is|[Hh]er|[Tt]heir)\s+([\w-]+(?:\s[\w-]+)?)'s" + _IS, r"\1 \2 is"),
    (r"\b([Mm]y favou?rite \w+)'s (?=[\w' -]{2,30}[.!]?$)", r"\1 is "),
    (r"\b(?:bachelor|master)'s (?=degree\b)", ""),
    (r"\bcan't\b", "can not"), (r"\bcannot\b", "can not"), (r"\bwon't\b", "will not"), (r"\bain't\b", "is not"),
    (r"\b(is|are|was|were|do|does|did|have|has|had|would|could|should|must)n't\b", r"\1 not"),
    (r"\bdont\b", "do not"), (r"\bgonna\b", "going to"), (r"\bwanna\b", "want to"),
]  # fmt: skip
_COMPILED = [(re.compile(p, re.IGNORECASE), r) for p, r in _CONTRACTIONS]


def plain(text: str) -> str:
    """Straight quotes, single spaces, and contractions of pronouns and auxiliaries written out."""
    text = text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    text = re.sub(r"[*_]{1,2}(\S(?:.*?\S)?)[*_]{1,2}(?!\w)", r"\1", text) if "*" in text else text
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\bi\b(?=['\s])(?!\.)", "I", text)
    for pattern, written in _COMPILED:
        text = pattern.sub(written, text)
    return text


_OPENER = re.compile(
    r"(?:" + "|".join(re.escape(o) for o in OPENERS) + r")(?:\s*[,:;!.…]+\s*|\s+[-–—]+\s*|\s+(?=\S))(?=\S)",
    re.IGNORECASE,
)
# After these an opener without comma may be the subject itself: "Now and Then is my favourite song".
_SUBJECT = re.compile(
    r"(?:I|my|our|we|he|she|it|they|his|her|its|their|the|please|call|forget|not|there|so|and|but|in|as|for|"
    + r"actually|by the way|did|do not|never|always|keep|answer|that|is)\b", re.IGNORECASE
)  # fmt: skip


def strip_openers(text: str) -> tuple[str, str]:
    """`text` without its fillers at the front, and the fillers."""
    taken = []
    for _ in range(6):
        opener = _OPENER.match(text)
        if not opener:
            break
        marked = re.search(r"[,:;!.…–—-]\s*$", opener.group().rstrip() + " ") is not None
        rest = text[opener.end() :]
        if not marked and not _SUBJECT.match(rest):
            break
        if (
            not marked
            and opener.group().strip().lower() in ("and", "see", "look", "i think", "i guess")
            and _only_name(rest)
        ):
            break
        taken.append(opener.group().strip(" ,:;!.…–—-").lower())
        text = rest
    return text, " | ".join(taken)


def _only_name(rest: str) -> bool:
    return rest.lower() in ("it", "that", "so", "the same")


_CLOSER = re.compile(r"[\s,;:–—-]+(?:" + "|".join(re.escape(c) for c in CLOSERS) + r")$", re.IGNORECASE)
_SINCE = re.compile(
    r"[\s,]+(?:since\s.+|because\s.+|ever since\b.*|for (?:the time being|good|ages|years|many years|months|decades|ever|\d+|an?|about|over|almost|many|several|two|three|four|five|"
    r"six|ten|some|the (?:last|past)).{0,20}(?:years?|months?|weeks?|days?|decades?|while|ages)(?: now)?|"
    r"(?:\d+|an?|a few|two|three|four|several|some|many) (?:years?|months?|weeks?|days?) ago|as of .+|"
    r"(?:in|until|till) (?:the end|(?:january|february|march|april|may|june|july|august|september|october|november|december)\b).*|"
    r"which\s.+|so\s(?:i|we|please|you|it|that|do|if)\b.*|but\s.+|after\s.+|before\s.+|when\s.+|while\s.+|where\s.+|although\s.+|thanks to\s.+)$", re.IGNORECASE
)  # fmt: skip


def strip_closers(value: str, *, since: bool = True) -> str:
    """`value` without the fillers behind it and, with `since`, without clauses of time and reason."""
    for _ in range(6):
        before = value
        value = value.rstrip(" .!?…,;:")
        value = _CLOSER.sub("", value)
        if since:
            value = _SINCE.sub("", value)
        if value == before:
            break
    return value.strip()


_ASKING = re.compile(
    r"(?:what|who|whom|whose|where|when|why|how|which|is|are|am|was|were|do|does|did|can|could|would|will|should|shall|"
    r"may|have you|has|had|any (?:idea|tips|advice|suggestions))\b", re.IGNORECASE
)  # fmt: skip
_TAG = re.compile(
    r",\s*(?:(?:is|are|was|were|do|does|did|have|has|can|will|would) (?:not )?(?:it|that|he|she|they|i|you|we)(?: \w+){0,2}|right|ok|okay|you know|"
    r"remember|get it|yeah|huh|eh)\s*\?$|,?\s+(?:(?:and|so|but)\s+)?(?:can|could|would|will|do|does|did|is|are|what|where|which|who|how|"
    r"why|when|should|any)\b[^,?]*\?$", re.IGNORECASE
)  # fmt: skip


def _without_tag(text: str) -> tuple[str, bool]:
    """A statement with a question behind it ("I live in Leeds, can you name a pub?"), without the question."""
    if _ASKING.match(text):
        return text, True
    cut = _TAG.search(text)
    if cut and cut.start() > 8:
        return text[: cut.start()], False
    told = re.match(r"(?:I|my|we|our)\b.{6,}", text, re.IGNORECASE)
    return text, not told or "," in text or text.count(" ") < 3


_IF = re.compile(
    r"\b(?:doubt|(?<!can )not (?:think|believe)|not true|not mean|deny|pretend)\b|^(?:if|unless|suppose|supposing|imagine|assuming|let us say|say|pretend|what if|were i|had i|in my dream|in a dream|"
    r"in (?:the|this|my|a|that) (?:novel|story|game|film|movie|play|series)|once upon)\b|\b(?:if (?:I|we|my|our|you|only|it)\b|I wish\b|wish(?:ed)? (?:I|we|my)|would|might|maybe|perhaps|could (?:be|have)|"
    r"hypothetically|hopefully|pretend|imagine|dreamed|dreamt|in (?:my|a) dream|as if|let us say|considering (?:moving|getting|buying)|thinking (?:of|about))\b",
    re.IGNORECASE,
)  # fmt: skip
_POLITE = re.compile(
    r"\bI would (?:like|prefer|rather|love it if|appreciate it if|want) (?:it if |that )?(?:you|your|short|long|answers|replies|responses)\b",
    re.I,
)
_SAID = re.compile(
    r"\b(?:said|says|saying|told me|tells me|asked|asks|wrote|writes|claims|claimed|heard|rumou?r|according to|"
    r"the (?:book|song|article|story|movie|film|character|poem|quote|lyrics?)\b.*\b(?:is|was|goes|reads))\b", re.IGNORECASE
)  # fmt: skip
_NOT_SAID = re.compile(
    r"^(?:the|a) \w+ (?:that |which )?(?:I|we|my|our)\b|\b(?:I|we) (?:said|wrote|claimed|told you|asked)\b",
    re.IGNORECASE,
)


def _talk(text: str, asks: bool, opener: str) -> Talk:
    told = any(
        o.startswith(("did i", "did you", "have i", "can you believe", "would you believe"))
        for o in opener.split(" | ")
    )
    if (asks and not told) or (_ASKING.match(text) and _inverted(text)):
        return "question"
    if re.match(r'^"[^"]*"\W*(?:\w+ ){0,3}\w*$', text) or (_SAID.search(text) and not _NOT_SAID.search(text)):
        return "reported"
    if _IF.search(text) and not _POLITE.search(text):
        return "hypothetical"
    return "statement"


def _inverted(text: str) -> bool:
    """Verb before subject: "do you know", "where is". "What I love most is jazz" is not."""
    return re.match(
        r"(?:(?:what|who|whom|whose|where|when|why|how|which)(?:'s)?\s+(?:\w+\s+){0,3}?)?(?:is|are|am|was|were|do|does|did|can|could|would|"
        r"will|should|shall|may|have|has|had)\s+(?:I|you|he|she|it|we|they|my|your|our|the|there|this|that|these|those|an?|his|her|their)\b",
        text, re.IGNORECASE,
    ) is not None  # fmt: skip


# Verbs that may continue a subject: "Anna lives in Leeds and works as a nurse".
_VERB = (
    r"(?:is|am|are|was|has|have|had|lives?|works?|loves?|likes?|hates?|prefers?|enjoys?|plays?|studies|study|speaks?|drives?|teach(?:es)?|"
    r"moved|grew|owns?|joined|started|became|collects?|runs?|keeps?|goes by|answers? to|dislikes?|adores?|rides?|paints?|sings?|got|adopted|bought|can not stand)"
)
_PRONOUN = r"(?:I|we|he|she|it|they|you|there)\s+(?!and\b|or\b)\w"
_OWNED = r"(?:my|our|his|her|its|their|the)\s+(?:[\w'-]+\s){1,5}?(?:is|are|was|were|has|have|can|loves?|likes?|lives?|works?|\w{3,}s|\w{3,}ed)\b"
_NAMED = r"(?-i:[A-Z])[\w'-]+(?:\s(?-i:[A-Z])[\w'-]+)?\s+(?:is|was|has|lives|works|loves|likes|hates|plays)\b"
_CONJ = r"(?:and|but|so|because|since|though|although|while|whereas|plus|also|yet|then|even though|however)"
_SPLIT = re.compile(
    rf"(?P<main>\s*[,;:]\s*(?:{_CONJ}\s+)?(?=(?:actually |also |now |then )?(?:{_PRONOUN}|{_OWNED}|{_NAMED}))|\s+[-–—]+\s+(?=\w)|\s*[;…]\s*|"
    rf"\s+{_CONJ}\s+(?=(?:actually |also |now |then |recently |currently )?(?:{_PRONOUN}|{_OWNED}|{_NAMED})))|"
    rf"(?P<main2>\s+(?:that|when I say|when I mention)\s+(?:that\s+)?(?=(?:my|our|I|we)\s))|"
    rf"(?P<who>\s*,?\s+(?:who|which|that)\s+(?={_VERB}\b))|"
    rf"(?P<and>(?:\s*,\s*|\s+)(?:and|but)\s+(?=(?:also |now |currently |then |she |he )?{_VERB}\s)|\s*,\s*(?={_VERB}\s))",
    re.IGNORECASE,
)  # fmt: skip


def clauses(text: str) -> list[Clause]:
    """The clauses of a plain sentence. Coordinations that carry no verb ("salt and pepper") stay whole."""
    found: list[Clause] = []
    start = 0
    link: Link = "main"
    text = _inline_apposition(text)
    for cut in _SPLIT.finditer(text):
        if _in_quotes(text, cut.start()):
            continue
        found.append(Clause(text=text[start : cut.start()].strip(" ,;"), link=link))
        start, link = cut.end(), _LINKS[cut.lastgroup or "main"]
    found.append(Clause(text=text[start:].strip(" ,;"), link=link))
    return [clause for clause in found if clause.text]


def _in_quotes(text: str, place: int) -> bool:
    return text.count('"', 0, place) % 2 == 1


def _inline_apposition(text: str) -> str:
    """ "my sister, Anna, lives" -> "my sister Anna lives"; "Anna, my sister, lives" -> the same."""
    text = re.sub(
        r"\b((?:my|our) (?:[\w-]+ ){0,2}[\w-]+), ([A-Z][\w'-]+(?: [A-Z][\w'-]+)?), (?=\w)", r"\1 \2 ", text
    )
    text = re.sub(
        r"\b((?:my|our) (?:[\w-]+ ){0,2}[\w-]+) \(([A-Z][\w'-]+(?: [A-Z][\w'-]+)?)\)", r"\1 \2", text
    )
    return re.sub(
        r"\b([A-Z][\w'-]+(?: [A-Z][\w'-]+)?), ((?:my|our) (?:[\w-]+ ){0,2}[\w-]+), (?=\w)", r"\2 \1 ", text
    )
