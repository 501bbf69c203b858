"""How the scorers read text: words and numbers, options that are named, lists in order, lines of a context.

A number is one word, with its minus, its decimal point and the colons of a clock: "10" stands neither in "-10", nor in
"10.5", nor in "10:30". Commas of thousands are dropped ("5,850" is "5850"), and so is ".00" of a sum of money; Latin
letters count without their accents. All other words are those of `personas.normalise`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from nestmem.evals.personas import abstentions

if TYPE_CHECKING:
    from nestmem.evals.systems.base import Reply

_COMMON = """
about after all also am and any are as at be because been before being both but by can could did do does
doing down during each few for from further had has have having he her here hers him his how i if in into is
it its just me more most my no nor not of off on once only or other our ours out over own same she should so
some such than that their theirs them then there these they this those through to too under until up very
was we were what when where which while who whom why will with would you your yours im ive youre user
assistant
"""
ARTICLES = frozenset(("a", "an", "the"))
STOPWORDS = frozenset(_COMMON.split()) | ARTICLES
ACCENTS = re.compile(r"(?<=[a-z])[\u0300-\u036f]+")
PLAIN_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe", "−": "-"}
)
DIGIT = re.compile(r"\d")
THOUSANDS = re.compile(r"(?<![\d,])(?<!\d\.)\d{1,3}(?:,\d{3})+(?!\d|,\d)")
WHOLE_SUM = re.compile(r"([$€£¥]\s?\d+)\.00(?!\d)")
MINUS_SUM = re.compile(r"(?<![^\s(\[{\"“=<>~*])-[$€£¥](?=\d)")
BARE_POINT = re.compile(r"(?<![^\s(~$€£¥-])\.(?=\d)")
WORD = re.compile(
    r"(?:(?<![^\s(\[{\"“=<>~*$€£¥])-(?=\d)(?!\d+[-–]\d))?"
    r"(?:(?:\d{1,2}(?::\d{2})+(?!\d|:\d)|(?<!\d\.)\d+\.\d+(?!\d|\.\d))[^\W_]*|[^\W_]+)"
)
"""A word, or a number with a minus before it, colons of a clock or one decimal point in it, and a unit at its end."""
ITEM = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.):]|\d{1,3}\s*[-–]\s)\s*")
HEADING = re.compile(r"\[[^\]]*\]\s*")
RULED_OUT = re.compile(
    r"(?i)\b(?:not|rather\s+than|instead\s+of)\s+(?:option\s+|choice\s+)?(?:\([a-z]\)|[a-z](?=[\s.,;:)]|$))"
)
"""A letter that a reply names to rule it out."""
A_LETTER = re.compile(
    r"(?<=[^\s.!?:;][^\S\n])A(?=[.,;:)]|$|\s+[^\sA-Z])"
    r"|(?:(?<=:\s)|(?<=\n))A(?=[.,;)]|$)"
    r"|(?:^|(?<=\s))A(?=[,;)]|\s+(?:because|since|as|is|seems|fits|would|and|or)\b)"
)
"""The letter A, and no article: a capital within a sentence, or one that begins it as no article does."""
LABEL = re.compile(r"^\s*\(?([A-Za-z])[).:]\s+")


@lru_cache(maxsize=64)
def flat(text: str) -> str:
    """Words without articles, one space between them; a text of articles alone ("A", a letter) keeps them.

    >>> flat("The $5,850 of Dürer, at 3:45"), flat("-10.5")
    ('5850 of durer at 3:45', '-10.5')
    """
    words = plain(text).split()
    return " ".join([word for word in words if word not in ARTICLES] or words)


@lru_cache(maxsize=64)
def plain(text: str) -> str:
    """Lower case without punctuation and accents, articles kept."""
    kept = text.casefold()
    if not text.isascii():
        kept = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
        kept = unicodedata.normalize("NFC", ACCENTS.sub("", kept)).translate(PLAIN_LETTERS)
    kept = re.sub(r"['’`]", "", kept)
    if DIGIT.search(kept):
        kept = THOUSANDS.sub(lambda number: number.group().replace(",", ""), kept)
        kept = MINUS_SUM.sub("-", WHOLE_SUM.sub(r"\1", kept))
        kept = BARE_POINT.sub("0.", kept)
    return " ".join(WORD.findall(kept))


@lru_cache(maxsize=16)
def content_words(text: str) -> frozenset[str]:
    """Words without the commonest ones."""
    return frozenset(plain(text).split()) - STOPWORDS


def numbers(words: Iterable[str]) -> frozenset[str]:
    """Those of the words that hold a digit."""
    return frozenset(word for word in words if DIGIT.search(word))


def holds(text: str, part: str) -> bool:
    """Whether `part` stands in `text` as whole words, both normalised; never when it holds no word.

    >>> holds("Your dog is called Biscuit.", "biscuit"), holds("Biscuits", "biscuit")
    (True, False)
    """
    wanted = flat(part)
    return bool(wanted) and f" {wanted} " in f" {flat(text)} "


def says_rejected(reply: str, rejected: Sequence[str], accepted: Sequence[str]) -> bool:
    """`holds_rejected` of a reply, but for what stands only in its phrases of not knowing.

    >>> says_rejected("I have no idea", ["No"], []), says_rejected("No. I have no idea", ["No"], [])
    (False, True)
    """
    spent = Counter(" ".join(map(flat, abstentions(reply))).split())
    said = Counter(flat(reply).split())
    return any(
        holds_rejected(reply, [value], accepted)
        and any(said[word] > spent[word] for word in flat(value).split())
        for value in rejected
    )


def holds_rejected(text: str, rejected: Sequence[str], accepted: Sequence[str]) -> bool:
    """Whether a rejected value stands in the text, elsewhere than within an accepted answer that holds it.

    >>> holds_rejected("New York City", ["New York"], ["New York City"])
    False
    """
    said = f" {flat(text)} "
    for value in map(flat, rejected):
        rest = said
        for answer in map(flat, accepted):
            if f" {value} " in f" {answer} " and answer != value:
                rest = rest.replace(f" {answer} ", " \x00 ")
        if value and f" {value} " in rest:
            return True
    return False


def f1(reply: str, answer: str) -> float:
    """SQuAD's F1 of two texts as bags of normalised words; 1 when both hold none, 0 when one does.

    >>> round(f1("a brown dog", "the dog"), 3)
    0.667
    """
    said, wanted = flat(reply).split(), flat(answer).split()
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


# --- options ---------------------------------------------------------------------------------------


def right_choices(choices: Sequence[str], answers: Sequence[str]) -> set[int]:
    """Places of the options that are accepted; an answer may be an option, its text without a label, or its
    letter."""
    texts = [plain(_without_label(choice)) for choice in choices]
    wanted = {plain(answer) for answer in answers} | {plain(_without_label(answer)) for answer in answers}
    by_text = {place for place, text in enumerate(texts) if text in wanted}
    by_whole = {place for place, choice in enumerate(choices) if plain(choice) in wanted}
    by_letter = {place for place, letter in enumerate(_letters(choices)) if letter in wanted}
    return by_text or by_whole or by_letter


def named_choices(reply: str, choices: Sequence[str]) -> set[int]:
    """Places of the options that a reply names, by letter ("(b)", "b", "B)", "answer: b") or by text. An option
    whose text stands within a longer one that is named counts only where it stands alone.

    >>> named_choices("The answer is (b).", ["red", "blue"]), named_choices("Blue, I think", ["red", "blue"])
    ({1}, {1})
    >>> sorted(named_choices("a or b", ["red", "blue"])), named_choices("a dark red", ["red", "dark red"])
    ([0, 1], {1})
    """
    letters = _letters(choices)
    found = {letters.index(letter) for letter in _named_letters(reply, letters)}
    said = f" {plain(reply)} "
    texts = {place: plain(_without_label(choice)) for place, choice in enumerate(choices)}
    for place in sorted(texts, key=lambda place: -len(texts[place])):
        text = texts[place]
        if len(text) > 1 or text.isdecimal():
            for but in ("not", "rather than", "instead of"):
                said = said.replace(f" {but} {text} ", " \x00 ")
            found |= {place} if f" {text} " in said else set()
            said = said.replace(f" {text} ", " \x00 ")
    return found


def _letters(choices: Sequence[str]) -> list[str]:
    """The letter of each option: its own where every option is or begins with one, else by its place."""
    own = [re.fullmatch(r"\s*\(?([A-Za-z])[).:]?\s*", c) or LABEL.match(c) for c in choices]
    letters = [match.group(1).casefold() for match in own if match]
    if len(letters) == len(choices) == len(set(letters)):
        return letters
    return [chr(ord("a") + place) if place < 26 else f"option {place + 1}" for place in range(len(choices))]


def _named_letters(reply: str, letters: Sequence[str]) -> set[str]:
    text = unicodedata.normalize("NFKC", reply).strip().strip("*`\"'").strip()
    text = RULED_OUT.sub(" ", text)
    alone = r"\(?([A-Za-z])[).:]?"
    found = re.findall(r"\(([A-Za-z])\)", text)
    found += re.findall(
        r"(?i)\b(?:answer|option|choice)(?:\s+is)?\s*[:=]?\s*\**([a-z])\**\s*(?=[.,;:)\n]|$)", text
    )
    found += re.findall(r"(?i)\b(?:option|choice)\s+([a-z])\b", text)
    found += re.findall(r"^([A-Za-z])\s*[).:](?:\s|$)", text)
    found += re.findall(r"(?:^|\s)([B-HJ-Z])(?=[\s.,;:)]|$)", text)
    found += A_LETTER.findall(text)
    if re.fullmatch(rf"{alone}(?:\s*(?:,|and|or|&|/)\s*{alone})*\.?", text):
        found += re.findall(r"\b([A-Za-z])\b", text)
    return {letter.casefold() for letter in found} & set(letters)


def _without_label(choice: str) -> str:
    return LABEL.sub("", choice, count=1)


def rarity(options: Sequence[frozenset[str]]) -> list[dict[str, float]]:
    """Each option's own words (those that not all options share) with log(options / options that hold it)."""
    counts = Counter(word for option in options for word in option)
    return [
        {word: math.log(len(options) / counts[word]) for word in option if counts[word] < len(options)}
        for option in options
    ]


# --- lists -----------------------------------------------------------------------------------------


def listed(answers: Sequence[str], rubric: Sequence[str]) -> list[str]:
    """Things that are to be named in order: the rubric's points, or where it has fewer than two, the lines of the
    first answer, or its parts between "->", ";" or commas."""
    points = list(dict.fromkeys(point for point in rubric if content_words(point)))
    if len(points) > 1:
        return points
    for mark in ("\n", "->", ";", ","):
        parts = [ITEM.sub("", part).strip(" .") for part in (answers[0] if answers else "").split(mark)]
        parts = list(dict.fromkeys(part for part in parts if content_words(part)))
        if len(parts) > 1:
            return parts
    return []


def order_score(items: Sequence[str], reply: str) -> float:
    """(tau-b + 1) / 2 of the order in which a reply first names the items, times the share of them it names; 0 when
    it names fewer than two. An item is named where it stands as whole words, or else in the first line of the reply
    that holds 60 % of its content words.

    >>> order_score(["paris", "rome", "oslo"], "Paris, then Rome, then Oslo")
    1.0
    >>> order_score(["paris", "rome", "oslo"], "Oslo, Rome, Paris")
    0.0
    """
    places = [place for place in (_place(item, reply) for item in items) if place is not None]
    if len(places) < 2:
        return 0.0
    return (tau_b(places) + 1) / 2 * len(places) / len(items)


def _place(item: str, reply: str) -> tuple[int, int] | None:
    """(line, character) where an item is named."""
    parts = re.split(r"\n+", reply)
    for number, part in enumerate(parts):
        at = f" {flat(part)} ".find(f" {flat(item)} ")
        if at >= 0:
            return number, at
    words = content_words(item)
    for number, part in enumerate(parts):
        if words and len(words & content_words(part)) >= 0.6 * len(words):
            said = f" {flat(part)} "
            return number, min(said.find(f" {word} ") for word in words if f" {word} " in said)
    return None


def tau_b(places: Sequence[tuple[int, int]]) -> float:
    """Kendall's tau-b of `places` against the order 0, 1, 2, ...; 0 when all are equal.

    >>> tau_b([(0, 0), (2, 0), (1, 0)])
    0.3333333333333333
    """
    pairs = [(places[a], places[b]) for b in range(len(places)) for a in range(b)]
    apart = [(a, b) for a, b in pairs if a != b]
    if not apart:
        return 0.0
    difference = sum(1 if a < b else -1 for a, b in apart)
    return (
        difference / math.sqrt(len(apart) * len(pairs))
        if len(apart) < len(pairs)
        else difference / len(pairs)
    )


# --- contexts --------------------------------------------------------------------------------------


def shown_by_rank(reply: Reply) -> list[tuple[float, str]]:
    """(score, text) of the shown turns, closest first.

    A context holds a line for each of `shown`, in that order, below headings of their day ("[2026-03-02]"). Where
    the lines are not that many (a page, a summary, turns of several lines), they are taken as they stand, each with
    score 1.
    """
    lines = [line for line in reply.context.splitlines() if line.strip() and not HEADING.fullmatch(line)]
    if len(lines) != len(reply.shown):
        return [(1.0, line) for line in lines]
    place = {hit.turn: (index, hit.score) for index, hit in reversed(list(enumerate(reply.ranked)))}
    last = (len(place), 0.0)
    pairs = [(*place.get(turn, last), line) for turn, line in zip(reply.shown, lines, strict=True)]
    return [(score, line) for _, score, line in sorted(pairs, key=lambda pair: pair[0])]
