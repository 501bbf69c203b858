"""Words without a model: acknowledging what was learned, and answering by reading a stored answer out."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nestmem.agent import clauses, relations
from nestmem.agent.lexicon import BRITISH, SAME_ATTRIBUTE, SAME_NOUN, words
from nestmem.store.records import MemoryRecord

ENOUGH = 0.6
_STOP = words(
    "what is are was were am be been the a an i me my mine our we us you your do does did of in on at to "
    "for with and or which who whom whose where when how why that this it its can could would will please "
    "tell know remember remind say said have has had by from there again name called"
)
_BRIDGE = {
    "live": "home", "city": "home", "town": "home", "living": "home", "lives": "home", "reside": "home",
    "job": "work", "profession": "work", "occupation": "work", "works": "work", "employer": "work",
    "company": "work", "surname": "last", "family": "last", "combination": "code", "combo": "code", "pin": "code",
    "film": "movie", "wi-fi": "wifi", "born": "birth", "birthplace": "birth", "birthday": "birth",
    "allergic": "allergy",
}  # fmt: skip


def spoken_to(text: str) -> str:
    """ "my dog" -> "your dog", "I" -> "you": what is said about the speaker, said to the speaker."""
    swaps = {"my": "your", "i": "you", "me": "you", "am": "are", "our": "your", "we": "you", "mine": "yours"}
    swaps |= {"your": "my", "you": "I", "i was": "you were", "was i": "were you"}
    pattern = r"\b(?:I was|was I|my|I|me|am|our|we|mine|your|you)\b"
    return re.sub(pattern, lambda m: swaps[m.group().lower()], text, flags=re.IGNORECASE)


def acknowledge(question: str, answer: str) -> str:
    """ "your dog's name is Biscuit" of "What is my dog's name?", "where you live: Leeds" of "Where do I live?"."""
    text = question.rstrip("?")
    named = re.match(r"(?:What|Who|When|Where) (is|are) (my .+?)( called)?$", text)
    if named:
        return f"{spoken_to(named.group(2))} {named.group(1)}{named.group(3) or ''} {answer}"
    asked = re.match(
        r"(?P<w>[\w ]+?) (?P<aux>do|does|did|is|am|was|are|should) (?P<s>I|my [\w' -]+?|you) (?P<v>.+)$", text
    )
    if not asked:
        return f"{text} {answer}"
    subject, verb = asked["s"], asked["v"]
    if asked["aux"] == "does":
        first, _, rest = verb.partition(" ")
        verb = f"{third(first)} {rest}".strip()
        return f"{asked['w'].lower()} {spoken_to(subject)} {verb}: {answer}"
    joined = {"do": f"{subject} {verb}", "did": f"{subject} {verb}"}.get(
        asked["aux"], f"{subject} {asked['aux']} {verb}"
    )
    return f"{asked['w'].lower()} {spoken_to(joined)}: {answer}"


def third(verb: str) -> str:
    """ "live" -> "lives", "study" -> "studies"."""
    if verb in ("do", "go"):
        return verb + "es"
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return "has" if verb == "have" else verb + ("es" if verb.endswith(("s", "x", "ch", "sh")) else "s")


def content(text: str) -> frozenset[str]:
    """The telling words of a question or statement, in one spelling, without endings."""
    plain = re.sub(r"\bdo(?:es)? for (?:a )?living\b", "job", re.sub(r"['’]s\b", "", text.casefold()))
    found_words: list[str] = re.findall(r"[\w-]+", plain)
    found = set()
    for word in found_words:
        if word in _STOP:
            continue
        word = BRITISH.get(word, word)
        word = SAME_NOUN.get(word, SAME_ATTRIBUTE.get(word, word))
        found.add(_BRIDGE.get(word, _stem(word)))
    return frozenset(found)


def _stem(word: str) -> str:
    for ending in ("ing", "ies", "es", "ed", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 3 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word


def best_match(question: str, memories: Iterable[MemoryRecord]) -> tuple[MemoryRecord | None, float]:
    """The memory whose question is most like `question`, with the share (0..1) of telling words they have in
    common; newer wins a tie."""
    asked, wanted = content(question), question.casefold().strip(" ?.!")
    best, score = None, 0.0
    for memory in memories:
        if memory.answer is None or memory.question is None:
            continue
        held = content(memory.question)
        told = held | content(memory.text)
        common = 2 * len(asked & held) / max(1, len(asked) + len(held)) if asked and held else 0.0
        covered = len(asked & told) / max(1, len(asked)) * 0.9 if asked else 0.0
        likeness = (
            1.0
            if memory.question.casefold().strip(" ?") == wanted
            else max(common, covered if asked & held else 0.0)
        )
        if likeness >= score and likeness > 0:
            best, score = memory, likeness
    return best, score


def same(left: str, right: str) -> bool:
    """Whether two answers say the same, case, articles and punctuation aside."""
    return _bare(left) == _bare(right) != ""


def holds_answer(text: str, answer: str) -> bool:
    """Whether `answer` stands in `text` as whole words."""
    bare = _bare(answer)
    return bool(bare) and f" {bare} " in f" {_bare(text)} "


def is_unknown(text: str) -> bool:
    """Whether an answer says that nothing is known."""
    return _bare(text) in ("", "i don t know", "i do not know", "unknown", "none", "i dont know") or _bare(
        text
    ).startswith(("i don t know", "i do not know"))


def _bare(text: str) -> str:
    words = re.findall(r"\w+", text.casefold())
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def key_of_question(question: str) -> str | None:
    """The key that a canonical question asks about, None for any other question."""
    wanted = question.strip()
    for attribute, known in relations.ATTRIBUTES.items():
        if known.own == wanted:
            return f"self/{attribute}"
        pattern = (
            re.escape(known.other).replace(r"\{e\}", r"my ([\w' -]+?)").replace(r"\{p\}", r"my ([\w' -]+?)'s")
        )
        found = re.fullmatch(pattern, wanted)
        if found and found.groups():
            path = tuple(relations.noun(piece) for piece in found.group(1).split("'s "))
            return relations.key(relations.Entity(path), attribute, None)
    plain = re.fullmatch(r"What is my ([\w ' -]+)\?", wanted)
    if plain:
        *owners, attribute = plain.group(1).split("'s ")
        entity = relations.Entity(tuple(relations.noun(o) for o in owners))
        return f"{entity.key}/{relations.attribute_name(attribute)}"
    return None


def asks(message: str) -> bool:
    """Whether a message without a question mark still asks something."""
    return any(sentence.talk == "question" for sentence in clauses.sentences(message))
