"""What is worth learning in a message, by rules: no model, no network, the same result every time.

The way of a message: sentences (`clauses.sentences`) -> clauses -> subject and predicate -> an attribute
of an entity (`relations`) with its value. Learned are statements that the speaker makes about themselves,
about people, animals and things of theirs, and about how they want to be answered. Not learned are
questions, conditions, reported and quoted talk, and talk about anybody else. A clear first-person
statement that fits no rule is kept as an "open" item without question and answer, for a model to read.
"""

# ruff: noqa: E501  (a pattern is read whole, on one line)
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nestmem.agent import clauses as talk
from nestmem.agent import evoke, predicates, relations, turned, unread
from nestmem.agent.lexicon import CODE_NOUNS, HE, NATIONALITIES, SAME_NOUN, SHE, STATES, words
from nestmem.agent.relations import Entity, Kind
from nestmem.agent.values import LOOSE, clean, fits, is_occupation, looks_like_name, one_name, typed
from nestmem.agent.vocabulary import CAR_MAKES, FUNCTION, STREETS

VERSION = "rules-1"
MAX_MESSAGE_CHARS = 20_000
WEAK = 0.7
"""Items up to this confidence give way to what `evoke` reads."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """Something learned before, which a correction ("not Leeds but York") or a name may refer to."""

    key: str
    question: str | None
    answer: str
    kind: Kind = "fact"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One statement. `span` are characters of the message; `text` is what to show of it.

    key: what it is about; a newer item of the same key supersedes. functional: one value at a time.
    question and answer are None for an open item; `ends` says that what the key held is no longer so.
    depends: keys of earlier memories without which this item could not have been read.
    confidence: 0..1, by rule.
    """

    span: tuple[int, int]
    text: str
    key: str
    kind: Kind
    functional: bool
    question: str | None
    answer: str | None
    confidence: float
    ends: bool = False
    depends: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ForgetRequest:
    """The speaker asks to forget `what`. Only the controller's `forget` carries it out."""

    span: tuple[int, int]
    what: str


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What was found in one message, in order."""

    items: tuple[Item, ...] = ()
    forgets: tuple[ForgetRequest, ...] = ()


def extract(message: str, *, speaker: str | None = None, known: Sequence[Known] = ()) -> Extraction:
    """Reads a message of the user.

    speaker: the name of whoever says "I", when several people share the conversation; None for the one user.
    known: what is believed so far, oldest first; corrections and names are resolved against it.
    Messages longer than MAX_MESSAGE_CHARS are read up to there: nobody tells facts in a pasted file.
    """
    reader = _Reader(speaker, known)
    for sentence in talk.sentences(message[:MAX_MESSAGE_CHARS]):
        reader.read(sentence, message)
    return Extraction(items=tuple(_settled(reader.items)), forgets=tuple(reader.forgets))


def _settled(items: list[Item]) -> list[Item]:
    """One item per key: the last that was said. An end gives way to what takes its place."""
    last: dict[str, Item] = {}
    for item in items:
        if not (item.ends and item.key in last and not last[item.key].ends):
            last.pop(item.key, None)
            last[item.key] = item
    told = [i for i in last.values() if i.question]
    covered = {i.span for i in told}
    return [i for i in last.values() if i.question or i.ends or i.span not in covered]


# --- requests to forget ------------------------------------------------------------------------------

_FORGET = re.compile(
    r"^(?:(?:could|can|would|will) you |please |I (?:would like|want|need) you to |you (?:should|can|may|must) |kindly |just |now |now please |actually )*"
    r"(?:(?:forget|delete|erase|remove|unlearn|wipe|drop|clear)(?: (?:about|that|what I (?:said|told you) about|everything (?:I said |you know )?about|all (?:you know )?about|the fact that|all (?:mentions|traces) of))*|"
    r"(?:do not|stop) remember(?:ing)?(?: that)?|(?:do not|stop) (?:keep(?:ing)?|store|storing|sav(?:e|ing)))\s+(?P<what>.+?)"
    r"(?:,? (?:please|from your memory|from (?:the|my) (?:memory|records|notes)|for me|again|now|altogether|completely|if you can|will you|would you|ok(?:ay)?|thanks|thank you))*$",
    re.IGNORECASE,
)  # fmt: skip
_NOT_FORGET = re.compile(
    r"^(?:it|that|this|to\b.*|about it|the (?:last|previous) (?:question|line|paragraph|sentence)|the (?:comma|duplicates?|row|column|file)s?\b.*)$",
    re.I,
)


def _forget_request(sentence: talk.Sentence) -> ForgetRequest | None:
    if "in case i forget" in sentence.opener or "before i forget" in sentence.opener:
        return None
    found = _FORGET.match(sentence.text)
    if not found or _NOT_FORGET.match(found["what"]):
        return None
    return ForgetRequest(span=(sentence.start, sentence.end), what=found["what"].strip(" .!?"))


# --- reading -----------------------------------------------------------------------------------------

_OWN = r"(?:my|our|My|Our)"
_NP = r"(?P<np>[\w'’-]+(?: [\w'’-]+){0,5}?)"
_CALL = r"(?:call(?:s|ed|ing)?|nam(?:e|es|ed|ing)|christen(?:ed)?|nicknam(?:e|ed)|re-?nam(?:e|ed|ing)|dubbed|baptised|titled)"


@dataclass
class _Reader:
    """Reads one message. `focus`: the entities spoken of, the latest last; pronouns refer to them."""

    speaker: str | None
    known: Sequence[Known]
    items: list[Item] = field(default_factory=list)
    forgets: list[ForgetRequest] = field(default_factory=list)
    focus: list[Entity] = field(default_factory=list)
    subject: Entity | None = None
    span: tuple[int, int] = (0, 0)
    source: str = ""
    pronoun: bool = False
    last: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        self.me = Entity((), self.speaker)
        self.names = {
            k.answer.casefold(): k.key
            for k in self.known
            if k.key.endswith("/name") and k.key.count("/") == 1
        }

    # One sentence.

    def read(self, sentence: talk.Sentence, message: str) -> None:
        """Adds what the sentence tells to `items` and `forgets`."""
        self.span, self.source = (sentence.start, sentence.end), message[sentence.start : sentence.end]
        forget = _forget_request(sentence)
        if forget:
            self.forgets.append(forget)
            return
        before = len(self.items)
        if self.label and sentence.talk != "question" and self._tell(f"{self.label}? {sentence.text}"):
            self.label = ""
            return
        asked = _LABEL.match(self.source)
        if asked and not asked["own"] and not _is_attribute(asked["np"]):
            asked = None
        self.label = (asked["own"] or "my ").lower() + asked["np"] if asked else ""
        polite = re.match(
            r"(?:could|can|would|will) you (?:please )?(?=keep|make|answer|reply|respond|write|be|use|give)(?P<rest>.+)",
            sentence.text,
            re.I,
        )
        if polite and self._style(polite["rest"]):
            return
        if self._style(sentence.text) or sentence.talk != "statement":
            self._notice(sentence.text)
            if len(self.items) == before:
                self._evoked(sentence, before)
            if len(self.items) == before:
                self._open(sentence)
            self.last = sentence.text
            return
        if self._correction(sentence.text):
            return
        whole = self._whole(sentence.text) or ("," in sentence.text and self._rewritten(sentence.text))
        if not whole:
            for clause in talk.clauses(sentence.text):
                if not self._clause(clause):
                    self._notice(clause.text)
        self._replacing(sentence.text, before)
        self._mentions(sentence.text)
        if not any(i.ends or (i.answer and i.confidence > WEAK) for i in self.items[before:]):
            self._evoked(sentence, before)
        if len(self.items) == before:
            self._open(sentence)
        self.last = "" if any(i.answer for i in self.items[before:]) else sentence.text

    def _clause(self, clause: talk.Clause) -> bool:
        text = talk.strip_openers(clause.text)[0]
        if clause.link == "main":
            return (bool(self.items) and self._correction(text)) or self._tell(text)
        last = self.focus[-1] if self.focus else None
        subject = self.subject if clause.link == "and" else last
        if subject == self.me and re.match(r"(?:is|has|(?!always|as|was)[a-z]{2,}s)\b", text):
            subject = last
        if clause.link == "who":
            self.subject = last
        return subject is not None and self._predicate(subject, text)

    def _tell(self, text: str) -> bool:
        """Tries the forms of a statement, most particular first."""
        for form in (
            self._rewritten,
            self._naming,
            self._ending,
            self._changed,
            self._inverse,
            self._subject,
            self._labelled,
        ):
            if form(text):
                return True
        return False

    # Statements whose order is turned round.

    def _whole(self, text: str) -> bool:
        """Forms that a cut into clauses would break."""
        here = re.match(r"(?P<v>[A-Z][\w'-]+(?: [A-Z][\w'-]+)?) (?:here|speaking)$", text)
        if here and here["v"].lower() not in FUNCTION:
            return self._add(self.me, "name", here["v"], "name")
        meet = re.match(
            rf"(?:meet|this is|say hello to|let me introduce) (?:you to )?(?P<v>[A-Z][\w' -]*?), {_OWN} {_NP}$",
            text,
        )
        meet = meet or re.match(
            rf"(?:let me introduce(?: you to)?|meet|say hello to|this is) {_OWN} {_NP}[:,]? (?P<v>[A-Z][\w' -]*)$",
            text,
            re.I,
        )
        meet = meet or re.match(
            rf"(?:when|if|whenever) I (?:say|mention|talk about|speak of) (?P<v>.+?), (?:I mean|that is|it is|I am talking about|you know it is) {_OWN} {_NP}$",
            text,
            re.I,
        )
        meet = meet or re.match(rf"(?P<v>.+?),? that is {_OWN} {_NP}$", text)
        if meet and (not (value := one_name(meet["v"])) or not looks_like_name(value) or value[0].isdigit()):
            return False
        if meet:
            entity, attribute = self._noun_phrase(meet["np"], named=True)
            return self._add(entity, attribute, value, "name")
        got = re.match(
            rf"(?:just )?(?:got|adopted|bought)(?: \w+self)? an? {_NP}[!.,:;-]+ (?:meet|called|named|say hello to|it is|this is|the name is) (?P<v>.+)$",
            text,
            re.I,
        )
        if got:
            return self._add(self._entity(got["np"]), "name", got["v"], "name")
        return False

    def _rewritten(self, text: str) -> bool:
        return any(self._tell(plain) for plain in turned.straight(text))

    # Naming.

    def _naming(self, text: str) -> bool:
        """ "we named him X", "I call my car X", "we renamed the dog to X", "call me X"."""
        me = re.match(
            rf"(?:(?:please|just|you (?:can|may|should)|everyone|everybody|people|(?:my |all my |most of my )?(?:friends|mates|family|colleagues|teammates)(?: all)?|they|most people) )*(?:still |usually |always |just )*{_CALL} me (?P<v>.+)$",
            text,
            re.I,
        )
        if me and not re.search(r"\b(?:org chart|business card|title|at work)\b", text, re.I):
            return self._add(self.me, "nickname", me["v"], "name")
        found = re.match(
            rf"(?:I|we|{_OWN} [\w-]+) (?:and (?:I|we) )?(?:have |had )?(?:also |just |finally |then |recently |decided to |decided on |ended up |chose to |want to |like to |jokingly |all )*"
            rf"(?P<verb>{_CALL}) (?:(?P<pro>him|her|it|them)|(?:my|our|the|this|that) (?P<np>[\w'-]+(?: [\w'-]+){{0,3}}?)) (?:from (?P<old>.+?) to |to |as |simply |just )?(?P<v>(?!is\b|was\b).+)$",
            text,
            re.I,
        )
        if found:
            if re.match(
                r"[\w ]*\btimes\b|(?:every|each|on|at|in|for|when|once|twice|back|again|often|daily|because|from|about|if|after|before|to)\b",
                found["v"],
                re.I,
            ):
                return False
            np, name = found["np"], found["v"]
            parts = np.split() if np else []
            if (
                np
                and (more := re.match(r"([a-z]+) (?=[A-Z])", name))
                and (
                    (noun := relations.noun(f"{np} {more[1]}")) in SAME_NOUN.values()
                    or relations.takes_name(noun)
                )
            ):
                return self._named(self._entity(f"{np} {more[1]}"), name[more.end() :])
            if (
                np
                and not found["old"]
                and not relations.takes_name(relations.noun(np))
                and relations.takes_name(relations.noun(parts[0]))
            ):
                return self._add(self._entity(parts[0]), "name", " ".join([*parts[1:], found["v"]]), "name")
            entity = self._entity(np) if np else self._antecedent(found["pro"])
            return entity is not None and self._named(entity, found["v"])
        gave = re.match(
            rf"(?:I|we) (?:gave|have given|chose|picked|settled on|went with) (?:(?P<pro>him|her|it|them)|(?:my|our|the) {_NP}) the name (?P<v>.+)$",
            text,
            re.I,
        )
        gave = gave or re.match(
            rf"(?:I|we) (?:chose|picked|settled on|went with|gave) (?:the name )?(?P<v>.+?) (?:as (?:the|a) name )?for (?:(?P<pro>him|her|it|them)|(?:my|our|the) {_NP})(?:'s name)?$",
            text,
            re.I,
        )
        if gave and ("name" in text.lower()):
            entity = self._entity(gave["np"]) if gave["np"] else self._antecedent(gave["pro"])
            return entity is not None and self._named(entity, gave["v"])
        return False

    def _named(self, entity: Entity, value: str) -> bool:
        attribute = "codename" if entity.head == "project" else "name"
        return self._add(entity, _THING_NAME.get(entity.key, attribute), value, "name", entity_key=True)

    # Ends and changes.

    def _ending(self, text: str) -> bool:
        """ "I no longer live in Leeds", "I quit my job at X": what the key held is no longer so."""
        found = re.match(
            r"(?P<s>I|we|my [\w -]+?|our [\w -]+?) (?:(?P<be>am |is |are )?no longer|do not|does not|(?:am|is|are) not|have stopped|has stopped|stopped|have given up|gave up|given up|quit) (?P<p>.+?)(?: any ?more| any longer| now)?$",
            text,
            re.I,
        )
        if not found:
            return False
        explicit = re.search(
            r"\b(?:no longer|any ?more|any longer|stopped|gave up|given up|quit)\b", text, re.I
        )
        if not explicit:
            return bool(
                re.match(
                    r"(?:I|we|my|our)\b.*\b(?:am|is|are|do|does) not (?!like|enjoy|eat|stand|care)",
                    text,
                    re.I,
                )
            ) and not re.search(r"\bdo(?:es)? not (?:like|eat|enjoy)", text)
        entity = self._who(found["s"])
        if entity is None:
            return False
        verb = re.search(r"\b(am|is|are) not\b", text)
        said = (
            "be "
            if verb or found["be"] or re.match(r"(?:an?|allergic|based|from|with)\b", found["p"])
            else ""
        ) + found["p"]
        predicate = predicates.base_form(
            re.sub(r"^(\w+)ing\b", lambda m: predicates._ING.get(m.group().lower(), m.group()), said)
        )
        predicate = re.sub(r"^(?:(?:working|my (?:old )?job) )(?=at |for |with |as )", "work ", predicate)
        for hit in predicates.read(predicate, self._letter(entity)):
            value = clean(hit.value, hit.shape)
            if value:
                self._end(entity, hit.attribute, value)
                return True
        return True

    def _end(self, entity: Entity, attribute: str, value: str) -> None:
        item = self._item(relations.key(entity, attribute, value), "event", None, None, 0.8)
        self.items.append(replace(item, ends=True, functional="/" not in item.key.split("/", 1)[1]))

    def _changed(self, text: str) -> bool:
        """ "I changed my wifi password to V", "my sister changed her name to V", "the name changed from A to V"."""
        found = re.match(
            rf"(?:I|we) (?:have )?(?:just |recently |also )*(?:chang(?:e|ed)|updated|reset|set|switched|moved|shifted|upgraded|renamed) {_OWN} {_NP} (?:from (?P<old>.+?) )?(?:to|into|for) (?P<v>.+)$",
            text,
            re.I,
        )
        found = found or re.match(
            rf"(?:{_OWN}|the) {_NP} (?:has |have |was |is |got )?(?:just |recently |been )*(?:chang(?:e|ed)|moved|updated|renamed|switched|reset) (?:from (?P<old>.+?) )?to (?P<v>.+)$",
            text,
            re.I,
        )
        if found:
            if re.match(rf"{_OWN} ", text) and not text.startswith(("I ", "We ")) and _somebody(found["np"]):
                return False
            named = not _is_attribute(found["np"])
            if named and not relations.takes_name(relations.noun(found["np"])):
                return False
            entity, attribute = self._noun_phrase(found["np"], named=named)
            return self._add(entity, attribute, found["v"], "name")
        swap = re.match(
            r"(?:I|we) (?:have )?(?:just |recently |finally |now )*(?:switched|changed|went|moved|swapped|swap|traded|converted|transferred) (?:over )?(?:my [\w ]+ )?(?:from )?(?P<old>.+?) (?:to|for|with) (?P<v>.+)$",
            text,
            re.I,
        )
        swap = swap or re.match(
            r"(?:I|we) (?:have )?(?:just |recently |finally |now )*(?:replaced|exchanged|dropped|left|sold|cancelled|quit|ditched|gave up|closed) (?:my |the |our |an? )?(?P<old>.+?) (?:with|for|and (?:now )?(?:bought|took up|got|use|joined|took|chose|booked|read|picked up|work for|went to)) (?:an? |the )?(?P<v>.+)$",
            text,
            re.I,
        )
        if swap:
            return self._instead(swap["old"], swap["v"])
        return False

    def _instead(self, old: str, new: str) -> bool:
        """The key whose value is `old` gets the value `new`."""
        held = clean(old, "thing")
        match = self._held(held) if held else None
        value = clean(re.sub(r" (?:for|as|in|at) (?:my|the|all|coding|good|work)\b.*$", "", new), "thing")
        if match is None or value is None:
            return False
        self._again(match, value)
        return True

    def _replacing(self, text: str, before: int) -> None:
        """ "My uncle gave up chess and is into ballet now": what is known of the subject names the key."""
        held = {k.key for k in self.known if k.answer}
        if not _CHANGE.search(text) or any(i.answer and i.key in held for i in self.items[before:]):
            return
        own = re.match(r"(?:I|we|my new|our new)\b", text, re.I) or not self.focus
        about = self.me.key if own else self.focus[-1].key
        for known in reversed(self.known):
            if known.key.split("/")[0] != about or not re.search(
                rf"\b{re.escape(known.answer)}\b", text, re.I
            ):
                continue
            for template in _REPLACED:
                found = re.match(
                    template.replace("OLD", f"(?:(?:an?|the|my|his|her) )?{re.escape(known.answer)}"),
                    text,
                    re.I,
                )
                value = found and clean(found["v"], "thing")
                if value and not re.match(r"(?:I|we|he|she|it|they|my)\b", value, re.I):
                    self._again(known, value)
                    return

    def _again(self, match: Known, value: str) -> None:
        many = match.key.count("/") > 1
        if many:
            self.items.append(replace(self._item(match.key, "event", None, None, 0.8), ends=True))
        key = f"{match.key.rsplit('/', 1)[0]}/{relations.slug(value)}" if many else match.key
        item = self._item(key, match.kind, match.question, value, 0.8)
        depends = (
            () if any(i.key == match.key and i.answer == match.answer for i in self.items) else (match.key,)
        )
        self.items.append(replace(item, functional=not many, depends=depends))

    def _held(self, value: str) -> Known | None:
        wanted = relations.slug(value)
        for item in reversed(self.items):
            if item.answer and relations.slug(item.answer) == wanted:
                return Known(key=item.key, question=item.question, answer=item.answer, kind=item.kind)
        return next((k for k in reversed(self.known) if relations.slug(k.answer) == wanted), None)

    def _latest(self) -> Known | None:
        for item in reversed(self.items):
            if item.answer:
                return Known(key=item.key, question=item.question, answer=item.answer, kind=item.kind)
        return self.known[-1] if self.known else None

    def _correction(self, text: str) -> bool:
        """ "not Leeds but York", "it's York, not Leeds", "sorry, I meant York"."""
        for pattern in _CORRECTIONS:
            found = pattern.match(text)
            if not found:
                continue
            named = found.groupdict()
            if named.get("old"):
                old = clean(named["old"], "thing")
                match = self._held(old) if old else None
                if match is None and pattern is _CORRECTIONS[0]:
                    continue
            else:
                match = self._latest()
            value = clean(found["v"], "thing")
            if (
                match is not None
                and value is not None
                and not re.match(r"(?:I|we|my|our|he|she)\b", value, re.I)
            ):
                self._again(match, value)
                return True
        return False

    # Subject and predicate.

    def _inverse(self, text: str) -> bool:
        """ "X is my boss", "teal is my sister's favourite colour", "X is the name of my dog"."""
        found = re.match(
            rf"(?P<v>(?!(?:my|our|I|we|the (?:name|code|password)|there|it|that|this|he|she|what|where)\b).+?) (?:is|are|was|will be|has become|became|must be|remains) (?:now |still |actually |currently |also |definitely |by far )*(?:called )?{_OWN} {_NP}$",
            text,
            re.I,
        )
        if found:
            np = re.sub(
                r" (?:as a (?:kid|child|boy|girl)|when I was .+|by (?:far|profession))$", "", found["np"]
            )
            return self._own_noun(np, re.sub(r"^being an? ", "", found["v"], flags=re.I))
        of = re.match(
            rf"(?P<v>.+?) (?:is|are|was) (?:now |still |actually |currently )*the (?:new )?(?P<a>[\w -]+?) (?:of|for|to) {_OWN} {_NP}$",
            text,
            re.I,
        )
        if of:
            entity, attribute = self._attribute_of(of["a"], of["np"])
            return self._add(entity, attribute, of["v"], "thing")
        return False

    def _own_noun(self, np: str, value: str) -> bool:
        entity, attribute = self._noun_phrase(talk.strip_closers(np), named=False)
        if attribute is None:
            return looks_like_name(value) and self._add(entity, "name", value, "name")
        return self._add(entity, attribute, value, "thing")

    def _subject(self, text: str) -> bool:
        """ "I ...", "my sister Anna ...", "she ...", "Anna ...", "the code for my locker is ..."."""
        code = re.match(
            rf"(?:the|my|our) (?:new |current |secret )*(?P<a>[\w -]+?) (?:of|for|to|on) (?:my|our|the) {_NP}(?:'s)? (?:is|are|was|has (?:been )?changed to|reads) (?:now |still |called |set to |actually )*(?P<v>.+)$",
            text,
            re.I,
        )
        if code and (
            not text.lower().startswith("the ")
            or re.search(r"\b(?:of|for|to|on) (?:my|our)\b", text, re.I)
            or code["a"].split()[-1].lower() in CODE_NOUNS
        ):
            entity, attribute = self._attribute_of(code["a"], code["np"])
            return self._add(entity, attribute, code["v"], "thing")
        plain = re.match(
            r"(?:the|a) (?:new |current )*(?P<a>(?:[\w'-]+ ){0,3}?(?P<head>[\w-]+)) (?:is|has (?:been )?changed to) (?:now |still |called |set to )*(?P<v>.+)$",
            text,
            re.I,
        )
        if plain and plain["head"].lower() in CODE_NOUNS:
            return self._add(self.me, relations.attribute_name(plain["a"]), plain["v"], "thing")
        home = re.match(
            r"(?:the|our|my) (?P<a>wifi|wi-fi|network) (?:at home|in (?:our|my) (?:house|flat|home)) is (?:called |named )?(?P<v>.+)$",
            text,
            re.I,
        )
        if home:
            return self._add(self.me, "wifi_name", home["v"], "thing")
        me = re.match(r"(?:I|we|us all)\b,? (?P<p>.+)$", text, re.I)
        if me:
            self.subject = self.me
            return self._predicate(self.me, me["p"])
        own = re.match(r"(?:my|our) (?P<rest>.+)$", text, re.I)
        if own:
            return self._owned(own["rest"])
        other = re.match(r"(?P<who>he|she|it|they|his|her|its|their)\b (?P<rest>.+)$", text, re.I)
        if other:
            return self._pronoun_clause(other["who"].lower(), other["rest"])
        return self._by_name(text)

    def _owned(self, rest: str) -> bool:
        """ "my NP PREDICATE": a noun that has a name ends the phrase, else the first verb does."""
        tokens = rest.split()
        for size in range(min(4, len(tokens) - 1), 0, -1):
            np, following = " ".join(tokens[:size]), tokens[size]
            noun = relations.noun(np)
            owned = relations.is_person(noun) or relations.is_animal(noun)
            if owned and "'s" not in np and not _NOUNLIKE.search(np) and _VERBAL.fullmatch(following):
                return self._about(np, " ".join(tokens[size:]))
        for cut in _VERB.finditer(rest):
            np, predicate = rest[: cut.start()].strip(), rest[cut.start() :].strip()
            if np and len(np.split()) <= 6 and not _NOUNLIKE.search(np):
                return self._about(np, predicate)
        return False

    def _about(self, np: str, predicate: str) -> bool:
        called = re.match(
            r"(?:is|are|was|has been|have been|got) (?:also |now |just |still |actually |officially )*(?:called|named|known as|nicknamed|renamed(?: to)?|christened) (?P<v>.+)$",
            predicate,
            re.I,
        )
        called = called or re.match(
            r"(?:goes by(?: the name(?: of)?)?|answers to(?: the name(?: of)?)?|listens to the name|responds to|bears the name|has the name|has (?:a|the) (?:(?:lovely|nice|funny|cute|great|beautiful|strange|silly|good|wonderful|odd|short|long|pretty|fancy) )?name(?: too| as well)?[:,]?) (?P<v>.+)$",
            predicate,
            re.I,
        )
        if called:
            entity, attribute = self._noun_phrase(np, named=True)
            return self._add(entity, attribute, called["v"], "name", entity_key=True)
        entity, attribute = self._noun_phrase(np, named=False)
        if attribute is None:
            self.subject = entity
            self.focus.append(entity)
            return self._predicate(entity, predicate)
        found = re.match(
            r"(?:is|are|was|will be|would be|has to be|has always been|has been|remains|became|reads|reading|:)(?: now| still| actually| currently| always| definitely| probably| simply| just| set to| spelled| that of| called| being| to be| going to be| no longer)*:? (?P<v>.+)$",
            predicate,
            re.I,
        )
        if found and not re.search(r"\bno longer\b", predicate[:30]):
            return self._attribute(entity, attribute, found["v"])
        when = re.match(r"(?:\w+s) (?:in )?(?:on|at|in) (?P<v>.+)$", predicate)
        return bool(when) and self._time_of(np, predicate)

    def _attribute(self, entity: Entity, attribute: str, value: str) -> bool:
        prep = re.match(r"(?P<prep>on|at|in|to|by|every|each|from|with|near) (?P<v>.+)$", value, re.I)
        if prep and attribute not in relations.ATTRIBUTES and not attribute.startswith("favourite"):
            asked = "When" if _TIMELIKE.search(prep["v"]) else "Where"
            shown = clean(prep["v"], "day" if asked == "When" else "place")
            noun = attribute.replace("_", " ")
            item = shown and self._item(
                f"{entity.key}/{attribute}/{asked.lower()}",
                "fact",
                f"{asked} is {entity.possessive} {noun}?",
                shown,
                0.7,
            )
            return bool(item) and self._push(item)
        if (
            re.match(
                r"(?:\w+ing|not|very|so|really|too|quite|pretty|about to|going to|to|all|just|about|getting)\b",
                value,
            )
            and " " in value
            and value[0].islower()
            and attribute not in relations.ATTRIBUTES
        ):
            return False
        if (
            attribute not in relations.ATTRIBUTES
            and value.split()[0].casefold() in STATES
            and not attribute.startswith("favourite")
        ):
            return False
        shapes = {"job": "job", "home_city": "place", "birthplace": "place", "birthday": "date", "employer": "company", "study_field": "study",
                  "wedding_date": "day", "meeting_day": "day", "music_lesson_day": "day", "training_day": "day", "next_trip": "place",
                  "wake_time": "time", "bedtime": "time", "gym_time": "time", "instrument": "instrument", "room_number": "thing"}  # fmt: skip
        if prep and attribute in relations.ATTRIBUTES and attribute not in _WITH_PREPOSITION:
            return False
        value = (
            re.sub(r"^(?:on|in|at|to|by|from|with|being|at room|room) (?=\S)", "", value)
            if attribute in relations.ATTRIBUTES
            else value
        )
        return self._add(entity, attribute, value, shapes.get(attribute, "thing"))

    def _time_of(self, np: str, predicate: str) -> bool:
        """ "my flight leaves at nine" -> "When does my flight leave?"."""
        found = re.match(r"(?P<verb>\w+)s (?:in )?(?:on|at|in|every) (?P<v>.+)$", predicate)
        if not found or not _TIMELIKE.search(found["v"]):
            return False
        coming = re.match(r"(?P<who>.+)'s (?:train|flight|bus|plane|ferry|coach)$", np)
        if (
            coming
            and found["verb"] in ("get", "arrive", "land", "come")
            and (at := re.search(r"\bat (.+)$", predicate))
        ):
            return self._add(self._entity(coming["who"]), "arrival_time", at.group(1), "time")
        noun = np.casefold()
        value = clean(found["v"], "day")
        question = f"When does my {noun} {found['verb']}?"
        return bool(value) and self._push(
            self._item(f"{self.me.key}/{relations.slug(noun)}/{found['verb']}", "fact", question, value, 0.7)
        )

    def _pronoun_clause(self, who: str, rest: str) -> bool:
        entity = self._antecedent(who)
        if entity is None:
            return False
        self.pronoun = True
        told = (
            self._about_entity(entity, rest)
            if who in ("his", "her", "its", "their")
            else self._predicate(entity, rest)
        )
        self.pronoun = False
        self.subject = entity
        return told

    def _about_entity(self, entity: Entity, rest: str) -> bool:
        """ "his name is Zibo", with "his" known to be the dog's."""
        for cut in _VERB.finditer(rest):
            np, predicate = rest[: cut.start()].strip(), rest[cut.start() :].strip()
            if np:
                chain = "'s ".join([*entity.path, np])
                return self._about(chain, predicate)
        return False

    def _by_name(self, text: str) -> bool:
        """ "Anna moved to York", when Anna is known to be the sister."""
        for name, key in self.names.items():
            if text.casefold().startswith((f"{name} ", f"{name}'s ")):
                entity = self._from_key(key)
                rest = text[len(name) :].lstrip()
                if rest.startswith("'s "):
                    return self._about_entity(entity, rest[3:])
                before = len(self.items)
                told = self._predicate(entity, rest)
                said = any(i.key == key for i in self.items[:before])
                self.items[before:] = [
                    i if said else replace(i, depends=(*i.depends, key)) for i in self.items[before:]
                ]
                return told
        return False

    def _labelled(self, text: str) -> bool:
        """ "My sister: Anna", "favourite colour: teal", "Place of birth: Graz"."""
        found = re.match(
            r"(?:(?P<own>my|our) )?(?:new )?(?P<np>[\w' -]{2,40}?)\s*(?:(?<!\d):|:(?!\d)| - | = )\s*(?P<v>.+)$",
            text,
            re.I,
        )
        if not found or len(found["np"].split()) > 5:
            return False
        attribute = relations.attribute_name(found["np"])
        if (
            not found["own"]
            and attribute not in relations.ATTRIBUTES
            and not attribute.startswith("favourite")
        ):
            return False
        return self._own_noun(found["np"], found["v"])

    # Predicates.

    def _predicate(self, entity: Entity, said: str) -> bool:
        if re.match(
            r"(?:used to|will not|would|might|may|could|should|had to|have to|need to|want to|was going|did not|never|hope|plan|wonder|guess|mean)\b",
            said,
            re.I,
        ) and not re.match(r"never (?:eat|touch)|would like", said, re.I):
            return False
        said = talk.strip_closers(_INSTEAD.sub("", said), since=False)
        predicate = predicates.base_form(said)
        if self._has(entity, said, predicate) or self._two_part(entity, predicate):
            return True
        who = self._letter(entity)
        for hit in predicates.read(predicate, who):
            if self._accept(entity, hit):
                return True
        return (
            self._is(entity, predicate)
            or self._likes(entity, predicate)
            or self._habit(entity, predicate)
            or self._kept(entity, predicate)
        )

    def _accept(self, entity: Entity, hit: predicates.Hit) -> bool:
        value = clean(hit.value, hit.shape)
        if value is None or not fits(hit.attribute, value):
            return False
        if "/" in hit.attribute:
            noun, attribute = hit.attribute.split("/")
            noun = "dentist" if noun == "doctor" and _TEETH.search(self.source) else noun
            return self._add(entity.of(noun), attribute, value, hit.shape)
        if hit.attribute == "job" and re.search(r" (?:at|for|with) (?=[A-Z])", hit.value):
            company = clean(re.split(r" (?:at|for|with) (?=[A-Z])", hit.value, maxsplit=1)[1], "company")
            if company:
                self._add(entity, "employer", company, "company")
        if hit.attribute == "employer" and (job := re.search(r" as an? (.+)$", hit.value)):
            self._add(entity, "job", job.group(1), "job")
        return self._add(entity, hit.attribute, value, hit.shape)

    def _two_part(self, entity: Entity, predicate: str) -> bool:
        """ "am called X", "go by X" as predicates of a known subject."""
        found = re.match(
            r"(?:be (?:called|named|known as)|go by(?: the name(?: of)?)?|answer to(?: the name(?: of)?)?) (?P<v>.+)$",
            predicate,
            re.I,
        )
        if not found:
            return False
        attribute = "nickname" if not entity.path and re.match(r"go by|be known as", predicate) else "name"
        return self._add(entity, attribute, found["v"], "name")

    def _has(self, entity: Entity, said: str, predicate: str) -> bool:
        """ "have a dog called Zibo", "adopted a dog": names it, or at least brings it into focus."""
        found = _HAVE.match(said) or _HAVE.match(predicate)
        if not found:
            return False
        np = found["np"]
        noun = relations.noun(np)
        if not relations.takes_name(noun):
            return False
        owned = entity.of(noun)
        self.focus.append(owned)
        if not found["v"]:
            return False
        return self._add(owned, "name", found["v"], "name")

    def _is(self, entity: Entity, predicate: str) -> bool:
        """ "am a nurse", "is Karen" of a boss, "is red" of a car."""
        found = re.match(r"be (?P<v>.+)$", predicate, re.I)
        if not found:
            return False
        raw = found["v"]
        if (
            not entity.path
            and re.fullmatch(r"[A-Z][\w'-]+(?: [A-Z][\w'-]+)?", raw)
            and raw.casefold() not in STATES
        ):
            return self._add(entity, "name", raw, "name", confidence=0.7)
        role = re.match(r"an? (?P<v>.+)$", raw, re.I)
        person = not entity.path or relations.is_person(entity.path[-1])
        nation = re.match(r"(?:an? )?(?P<v>[A-Z]\w+)(?: by (?:birth|nationality)| citizen| national)?$", raw)
        if person and entity.path and nation and nation["v"].casefold() in NATIONALITIES:
            return self._add(entity, "nationality", nation["v"], "thing")
        if role and person:
            job = clean(role["v"], "job")
            company = re.search(r" (?:at|for|with) ([A-Z].*)$", role["v"])
            if job and is_occupation(job):
                if company and (name := clean(company.group(1), "company")):
                    self._add(entity, "employer", name, "company")
                return self._add(entity, "job", job, "job")
            return False
        if role and entity.path and not relations.is_animal(entity.path[-1]):
            return self._add(entity, _KIND_OF.get(entity.head, "kind"), role["v"], "thing")
        if entity.path and relations.takes_name(entity.path[-1]) and looks_like_name(raw):
            shouted = raw[0].isupper() or not re.search(r"(?!\bI\b)[A-Z]", self.source[1:])
            return shouted and self._add(entity, "name", raw, "name")
        return False

    def _likes(self, entity: Entity, predicate: str) -> bool:
        found = predicates.LIKES.match(predicate)
        if not found:
            return False
        best = re.match(
            r"(?P<v>.+?) (?:more than any other|best of all|the most of all|above all other) (?P<a>[\w ]+)$",
            found["v"],
            re.I,
        )
        if best:
            thing = re.sub(r"s$", "", best["a"])
            return self._add(entity, relations.attribute_name("favourite " + thing), best["v"], "thing")
        colour = re.match(r"the colou?r (?P<v>.+)$", found["v"], re.I)
        if colour and not found["hate"]:
            return self._add(entity, "favourite_colour", colour["v"], "thing")
        group = (
            "dislikes"
            if found["hate"]
            else "prefers"
            if found["prefer"] or found["best"] == "prefer "
            else "likes"
        )
        value = clean(re.sub(r"^(?:to be|to have|having) ", "", found["v"]), "food")
        if (
            value is None
            or re.match(
                r"the (?:taste|smell|idea|thought|look|feel|sound|color|colour)\\b|(?:his|her) ", value
            )
            or re.search(
                r"^(?:you|your|when|how|that|it|with|in|on|at|of|for|from|to|about|by)\b|\b(?:my|our|your)\b",
                value,
                re.I,
            )
            or (group == "prefers" and value.startswith("to "))
        ):
            return False
        return self._add(entity, group, value, "food", confidence=0.7)

    def _habit(self, entity: Entity, predicate: str) -> bool:
        """ "go swimming every Tuesday" -> "When do I go swimming?"."""
        found = _EVERY.match(predicate)
        if not found or entity.speaker:
            return False
        doing = re.sub(r"^(?:always|usually) ", "", found["do"])
        if re.match(
            r"(?:can|could|will|would|must|should|have to|has to|need|try|got|get to|am|be|never|look|forget)\b|\w+ed\b|went\b|was\b|were\b|had\b",
            doing,
        ) or re.search(r" at \d", doing):
            return False
        verb = "am I " + doing[3:] if doing.startswith("be ") else f"do I {doing}"
        if entity.path:
            verb = (
                f"is {entity.phrase} {doing[3:]}"
                if doing.startswith("be ")
                else f"does {entity.phrase} {doing}"
            )
        question = f"When {_second(verb)}?"
        return self._push(
            self._item(
                f"{entity.key}/when/{relations.slug(doing)}",
                "habit",
                question,
                talk.strip_closers(found["v"]),
                0.7,
            )
        )

    def _kept(self, entity: Entity, predicate: str) -> bool:
        """ "parked the car on level three" -> "Where did I park the car?"."""
        found = re.match(
            r"(?P<verb>keep|put|hid|left|parked|stored|store|buried|hide|stashed) (?P<o>(?:the|my|our|a|an) [\w' -]+?) (?P<v>(?:in|on|under|behind|at|inside|next to|beside|near|below|above) .+)$",
            predicate,
            re.I,
        )
        if not found or entity.path or entity.speaker:
            return False
        past = {
            "hid": "hide",
            "left": "leave",
            "parked": "park",
            "stored": "store",
            "buried": "bury",
            "stashed": "stash",
            "put": "put",
        }
        verb = found["verb"].lower()
        asked = (
            f"Where did I {past[verb]} {_second(found['o'])}?"
            if verb in past
            else f"Where do I {verb} {found['o']}?"
        )
        value = talk.strip_closers(found["v"])
        thing = relations.noun(re.sub(r"^(?:the|my|our|an?) ", "", found["o"], flags=re.I))
        if re.match(r"(?:my|our) ", found["o"], re.I):
            asked = relations.question(entity.of(thing), "place")
        return self._push(self._item(f"{entity.of(thing).key}/place", "fact", asked, value, 0.7))

    # How the speaker wants to be answered.

    def _style(self, text: str) -> bool:
        units = _UNITS.match(text)
        if units:
            return self._add(self.me, "units", units["v"], "style")
        for pattern in _STYLES:
            found = pattern.match(text)
            value = found and clean(found["v"], "style")
            if value and not LOOSE.match(value):
                return self._add(self.me, "answer_style", value, "style")
        return False

    # People mentioned, with or without their name, and what fits no rule.

    def _notice(self, text: str) -> None:
        """Whoever is mentioned is who "she" means in the next clause."""
        for found in re.finditer(r"\b(?:my|our) ((?:[\w-]+ ){0,2}[\w-]+)", text, re.I):
            words = found.group(1).split()
            for size in range(len(words), 0, -1):
                noun = relations.noun(" ".join(words[:size]))
                if relations.takes_name(noun):
                    self.focus.append(self.me.of(noun))
                    break

    def _mentions(self, text: str) -> None:
        """ "my sister Anna" anywhere in a statement names the sister."""
        for found in re.finditer(
            rf"\b{_OWN} ((?:[\w-]+ ){{0,2}}?[a-z][\w-]+) ([A-Z][\w'-]*[\w](?: [A-Z][\w-]+)?)(?!['\w])", text
        ):
            noun = relations.noun(found.group(1))
            if (relations.is_person(noun) or relations.is_animal(noun)) and found.group(2) not in ("I", "Is"):
                entity = self.me.of(noun)
                if not any(i.key == f"{entity.key}/name" for i in self.items):
                    self._add(entity, "name", found.group(2), "name", confidence=0.8)

    def _open(self, sentence: talk.Sentence) -> None:
        """Keeps what no rule reads, for a model."""
        if not unread.tells(sentence):
            return
        text = sentence.text
        words = [w for w in re.findall(r"[\w'-]+", text.casefold()) if w not in _STOP][:8]
        if not words:
            return
        kind: Kind = (
            "habit"
            if re.search(r"\b(?:always|usually|every|often|never)\b", text, re.I)
            else "event"
            if re.search(r"\b(?:\w+ed|went|was|were|had|got|saw|met)\b", text)
            else "fact"
        )
        self.items.append(self._item(f"{self.me.key}/open/{'_'.join(words)}", kind, None, None, 0.4))

    def _evoked(self, sentence: talk.Sentence, before: int) -> None:
        """Reads by association what no rule reads, or what only a general one does."""
        if not unread.tells(sentence):
            return
        told = evoke.evoked(sentence.text, self.me)
        if told is None and self.last and _BACK.search(sentence.text):
            told = evoke.evoked(f"{self.last}. {sentence.text}", self.me)
        if told is None:
            return
        weak = self.items[before:]
        if any(i.key.startswith(relations.key(told.entity, told.attribute, None)) for i in weak):
            return
        del self.items[before:]
        if not self._add(told.entity, told.attribute, told.value, "thing", confidence=0.75, entity_key=True):
            self.items.extend(weak)

    # Entities.

    def _who(self, subject: str) -> Entity | None:
        subject = subject.strip()
        if subject.lower() in ("i", "we"):
            return self.me
        return self._entity(re.sub(r"^(?:my|our) ", "", subject, flags=re.I))

    def _entity(self, np: str) -> Entity:
        """ "sister's dog" -> my sister's dog. A name behind a person noun ("sister Anna") is noted and left out."""
        entity = self.me
        for piece in re.split(r"['’]s ", np):
            entity = entity.of(self._without_name(entity, piece.removesuffix("'s")))
        self.focus.append(entity)
        return entity

    def _without_name(self, owner: Entity, piece: str) -> str:
        named = re.match(
            r"(?P<noun>(?:[\w-]+ ){0,2}?[a-z][\w-]*) (?P<name>[A-Z][\w'-]*(?: [A-Z][\w'-]*)?)$", piece
        )
        if named and (
            relations.is_person(relations.noun(named["noun"]))
            or relations.is_animal(relations.noun(named["noun"]))
        ):
            noun = relations.noun(named["noun"])
            self._add(owner.of(noun), "name", named["name"], "name")
            return noun
        return relations.noun(piece)

    def _noun_phrase(self, np: str, *, named: bool) -> tuple[Entity, str | None]:
        """Splits "sister's favourite food" into an entity and an attribute; None when it is an entity itself.
        `named`: the predicate gives a name, so a bare noun is the thing that is named."""
        np = re.sub(
            r"^(?:(?:new|current|own|actual|present|very own|lovely|dear|beloved) )+",
            "",
            np.strip(),
            flags=re.I,
        )
        of = re.match(r"(?P<a>[\w ]+?) of (?:my |our )(?P<np>.+)$", np)
        if of:
            return self._attribute_of(of["a"], of["np"])
        pieces = re.split(r"['’]s ", np)
        last = pieces[-1]
        owner = self._entity("'s ".join(pieces[:-1])) if len(pieces) > 1 else self.me
        noun = relations.noun(self._strip_name(last))
        if last.lower() in ("name", "first name", "hostname", "host name"):
            return owner, "codename" if owner.head == "project" else "name"
        attribute = self._attribute_name(owner, last)
        if relations.noun(last) == "partner" and owner.path:
            return owner, "partner_name"
        if named and noun in ("team", "squad", "crew"):
            return self.me.of("team at work"), "name"
        if named and (
            not _is_attribute(last) or (attribute not in _CALLED_ATTRIBUTE and relations.takes_name(noun))
        ):
            entity = self._entity(np)
            return entity, _THING_NAME.get(entity.key, "name")
        if named and attribute in _CALLED_ATTRIBUTE:
            return owner, attribute
        if relations.is_person(noun) or relations.is_animal(noun):
            return self._entity(np), None
        if (
            noun.split()[-1] in _POSSESSIONS
            and attribute not in relations.ATTRIBUTES
            and not attribute.startswith("favourite")
        ):
            return self._entity(np), None
        return owner, attribute

    def _attribute_name(self, owner: Entity, noun: str) -> str:
        name = relations.attribute_name(noun)
        if (
            name == "home_city"
            and relations.slug(noun) in ("place", "house", "flat", "apartment", "home")
            and owner.path
        ):
            return "home_city"
        if owner.path and not relations.is_person(owner.path[-1]) and name in ("home_city", "job"):
            return relations.slug(noun)
        return name

    def _strip_name(self, piece: str) -> str:
        return re.sub(r" [A-Z][\w'-]*$", "", piece)

    def _attribute_of(self, attribute: str, np: str) -> tuple[Entity, str]:
        """ "code" and "locker" -> my locker code; "name" and "dog" -> the name of my dog."""
        noun = relations.noun(np.removesuffix("'s"))
        slugged = relations.attribute_name(attribute)
        if (
            attribute.split()[-1].lower() in CODE_NOUNS | {"combination", "combo", "number"}
            and slugged != "codename"
        ):
            joined = relations.attribute_name(
                f"{np} code" if slugged in ("combination", "combo") else f"{np} {attribute.split()[-1]}"
            )
            return self.me, "locker_code" if joined.startswith(
                "locker"
            ) and "password" not in joined else joined
        if slugged in ("name", "title") and relations.attribute_name(np) in _CALLED_ATTRIBUTE:
            return self.me, relations.attribute_name(np)
        entity = self._entity(np)
        if slugged == "name" and entity.head == "project":
            return entity, "codename"
        return entity, _THING_NAME.get(
            entity.key, slugged
        ) if slugged == "name" or noun == np == "" else slugged

    def _antecedent(self, pronoun: str) -> Entity | None:
        pronoun = pronoun.lower()
        for entity in reversed(self.focus):
            noun = entity.head
            if not entity.path:
                continue
            if pronoun in ("he", "him", "his") and (
                noun in SHE or (not relations.is_person(noun) and not relations.is_animal(noun))
            ):
                continue
            if pronoun in ("she", "her") and (
                noun in HE or (not relations.is_person(noun) and not relations.takes_name(noun))
            ):
                continue
            if pronoun in ("it", "its") and relations.is_person(noun):
                continue
            return entity
        return None

    def _from_key(self, key: str) -> Entity:
        path = key.split("/")[0].split(".")
        if self.speaker:
            path = path[1:]
        return Entity(tuple(p.replace("_", " ") for p in path if p != "self"), self.speaker)

    def _letter(self, entity: Entity) -> str:
        if not entity.path:
            return "s"
        return (
            "p"
            if relations.is_person(entity.path[-1])
            else "a"
            if relations.is_animal(entity.path[-1])
            else "t"
        )

    # Items.

    def _add(
        self,
        entity: Entity,
        attribute: str | None,
        value: str,
        shape: str,
        *,
        confidence: float = 0.9,
        entity_key: bool = False,
    ) -> bool:
        cleaned = clean(value, shape)
        if attribute is None or cleaned is None or entity.key.endswith(".") or _CLAUSE.match(cleaned):
            return False
        entity, attribute = self._renamed(entity, attribute)
        cleaned = typed(attribute, cleaned)
        if attribute in _WITH_ARTICLE:
            said = re.search(rf"\b(an?) {re.escape(cleaned)}(?!\w)", self.source)
            cleaned = said.group() if said else cleaned
        last, first = cleaned.split()[-1].lower(), cleaned.split()[0].lower()
        if attribute == "name" and entity.head == "car" and first in CAR_MAKES:
            entity, attribute = Entity(entity.path[:-1], entity.speaker), "car"
        if attribute == "job" and re.fullmatch(r"[A-Z][\w-]+(?: (?:of|for|and))?(?: [A-Z][\w-]+)+", cleaned):
            attribute = "job_title"
        if attribute == "favourite_shop" and {first, last} & {"bank", "union", "savings"}:
            attribute = "bank"
        if attribute == "name" and re.match(r"[Aa]n? [a-z]", cleaned):
            return False
        if attribute == "university" and last in ("school", "high", "primary", "grammar"):
            attribute = "school"
        if attribute == "home_city" and cleaned.split()[-1].lower() in STREETS and " " in cleaned:
            attribute = "street"
        if _is_loose(entity, attribute):
            confidence = min(confidence, WEAK)
        if _is_vague(entity, attribute, cleaned):
            return False
        if attribute.endswith("colour"):
            cleaned = cleaned.lower()
        if (
            attribute == "name"
            and not entity_key
            and (cleaned.split()[0].casefold() in STATES and not cleaned[0].isupper())
        ):
            return False
        if attribute in ("name", "codename") and entity.path and entity not in self.focus[-1:]:
            self.focus.append(entity)
        if attribute == "name" and entity.path:
            self.names[cleaned.casefold()] = f"{entity.key}/name"
        known = relations.ATTRIBUTES.get(attribute)
        key, question = relations.key(entity, attribute, cleaned), relations.question(entity, attribute)
        kind: Kind = known.kind if known else "preference" if attribute.startswith("favourite") else "fact"
        item = self._item(key, kind, question, cleaned, confidence, about=entity)
        return self._push(replace(item, functional=not (known and known.many)))

    def _renamed(self, entity: Entity, attribute: str) -> tuple[Entity, str]:
        """Names of what has an attribute of its own for it: "my network's name" is the name of my wifi."""
        if attribute not in ("name", "owner", "hostname"):
            return entity, attribute
        if entity.head == "team" and len(entity.path) == 1:
            return self.me.of("team at work"), "name"
        if attribute == "owner":
            return (self.me.of("landlord"), "name") if entity.head in _HOMES else (entity, attribute)
        if entity.head == "project":
            return self.me.of("project"), "codename"
        if entity.head in ("laptop", "machine"):
            return self.me.of("laptop"), "name"
        own = _NAMED_AS.get(entity.head)
        return (self.me, own) if own and len(entity.path) == 1 else (entity, attribute)

    def _push(self, item: Item) -> bool:
        self.items.append(item)
        return True

    def _item(
        self,
        key: str,
        kind: Kind,
        question: str | None,
        answer: str | None,
        confidence: float,
        *,
        about: Entity | None = None,
    ) -> Item:
        text = self.source
        if self.pronoun and about is not None and about.path:
            text = f"({about.phrase}) {text}"
        return Item(
            span=self.span,
            text=text,
            key=key,
            kind=kind,
            functional=True,
            question=question,
            answer=answer,
            confidence=confidence,
        )


def _is_loose(entity: Entity, attribute: str) -> bool:
    """Whether the attribute says little by itself, or is none that is known."""
    if attribute == "name":
        return (
            len(entity.path) == 1
            and not relations.takes_name(entity.path[-1])
            and entity.path[-1] not in _NAMELESS
        )
    known = attribute in relations.ATTRIBUTES or attribute.startswith("favourite")
    return attribute in _LOOSE or (not known and attribute.split("_")[-1] not in CODE_NOUNS)


def _is_vague(entity: Entity, attribute: str, value: str) -> bool:
    """Whether a general reading says too little to be asked for: better left open for a model."""
    if attribute in ("favourite_one", "favourite_other", "favourite_", "favourite", "favourite_thing"):
        return True
    if all(w in FUNCTION for w in value.split()):
        return True
    known = attribute in relations.ATTRIBUTES or attribute.startswith("favourite")
    general = not known and attribute.split("_")[-1] not in CODE_NOUNS
    return general and (
        attribute.count("_") > 1
        or len(value.split()) > 5
        or len(entity.path) > 1
        or value.split()[0].casefold() in STATES
    )


def _second(text: str) -> str:
    return re.sub(r"\bour\b", "my", text)


def _somebody(np: str) -> bool:
    """Whether a noun phrase, with or without a name behind it, is a person or an animal."""
    pieces = np.split()
    return any(
        relations.is_person(relations.noun(p)) or relations.is_animal(relations.noun(p)) for p in pieces
    )


def _is_attribute(np: str) -> bool:
    """True for "wifi", "wifi password", "favourite food": names of attributes rather than of things."""
    name = relations.attribute_name(np)
    return (
        name in relations.ATTRIBUTES or name.startswith("favourite") or np.split()[-1].lower() in CODE_NOUNS
    )


_LOOSE = words(
    "likes dislikes prefers learning teaches collects field language place music_genre sport rides"
)
_NAMELESS = words("doctor dentist landlord landlady vet")
_HOMES = words("flat house apartment place home building studio")
_NAMED_AS = {
    "family": "surname",
    "doorbell": "surname",
    "network": "wifi_name",
    "wifi": "wifi_name",
    "router": "wifi_name",
}
_TEETH = re.compile(r"\b(?:teeth|tooth\w*|dentist|dental|fillings?)\b", re.IGNORECASE)
# A pronoun with a verb behind it is a clause, no value.
_CLAUSE = re.compile(
    r".* I (?!n\b|I)[a-z]|(?:I|we|they|he|she|you|it)\b(?: [a-z]+|$)|(?:remember|note|mark|do not forget|as for)\b "
)
# One orders, wants and eats "a" something.
_WITH_ARTICLE = words("coffee_order gift_idea toy breakfast")
# A heading put as a question: "My favourite film?"
_LABEL = re.compile(
    r"(?P<own>(?:my|our|her|his) )?(?P<np>(?!(?:really|why|what|how|who|where|when|right|ok|okay|and|so|you)\b)[A-Za-z][\w' -]{2,40})\?$",
    re.IGNORECASE,
)
# Words that refer to the sentence before.
_BACK = re.compile(r"\b(?:it|that|there|this|them|he|she|they|his|her)\b", re.IGNORECASE)
_VERB = re.compile(
    r"(?<!\w)(?:is|are|was|were|has|have|had|will|can|does|do|goes|lives?|works?|calls?|loves?|likes?|hates?|prefers?|enjoys?|plays?|stud(?:y|ies|ied)|speaks?|drives?|"
    r"teach(?:es)?|moved|moves|grew|owns?|collects?|runs?|rides?|got|adopted|bought|answers|listens|responds|bears|sleeps?|eats?|drinks?|turned|turns|arrives?|"
    r"dislikes?|adores?|detests?|became|wants|uses|orders|takes|supports?|retired|married|started|joined|switched|changed|leaves?|starts?|ends?|opens?|closes?|begins?|"
    r"departs?|lands?|supports|follows?|fears?|wears?|remains|reads|needs?|gets?|comes?|could|always|never|usually|just|now|recently|also|still|really|only|no longer)(?!\w)", re.IGNORECASE
)  # fmt: skip
_HAVE = re.compile(
    r"(?:(?:have|has) )?(?:just |recently |also |finally |now |always |actually |only )*(?:have|has|had|got|gotten|own|owns|adopted|adopt|bought|buy|rescued|took in|picked up|brought home|brought|welcomed|received|found|keep|keeps|"
    r"started|founded|run|runs|sail|launched|host|written|wrote|get|play in|sing in|am in|be in|write|opened)(?: (?:myself|home|for myself|us|me))? (?:(?:an?|another|one|two|my|our|the|this|some|his|her|their|new|little|small|young|old|rescue|cute|big|lovely|beautiful|pet) )*"
    r"(?P<np>[a-z][\w-]+(?: [a-z][\w-]+)?)(?: (?:of (?:mine|ours)|yesterday|today|last (?:week|month|year)|recently|from the shelter|at home|at work))?(?:,? (?:and )?(?:called|named|whose name is|by the name of|who is called|which is called|that is called|that I call|that goes by|who goes by|"
    r"(?:and )?(?:I |we )?(?:called|named) (?:it|him|her|them)) (?P<v>.+?))?$", re.IGNORECASE
)  # fmt: skip
_TIMELIKE = re.compile(
    r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)day|\d|\b(?:noon|midnight|morning|evening|night|afternoon|january|february|march|april|may|june|july|august|september|october|november|december|"
    r"tomorrow|weekend|week|month|spring|summer|autumn|winter|christmas|easter)\b|o'clock", re.IGNORECASE
)  # fmt: skip
_EVERY = re.compile(
    r"^(?P<do>\w.{3,60}?),? (?P<v>(?:every|each|on) (?:other |second |single )?(?:(?:mon|tues|wednes|thurs|fri|satur|sun)days?|day|morning|evening|night|afternoon|week|month|year|weekend|weekday|summer|winter|spring|autumn)\b.{0,40})$",
    re.I,
)
_KIND_OF = {"car": "kind", "phone": "kind", "bike": "kind", "boat": "kind"}
_POSSESSIONS = words(
    "boat bike band podcast blog café cafe truck van robot company startup business project shop team "
    "plant house-plant guitar"
)
_CALLED_ATTRIBUTE = frozenset(
    {
        "wifi_name",
        "hotel",
        "gym_name",
        "employer",
        "street",
        "bank",
        "school",
        "university",
        "airline",
        "newspaper",
    }
)
_THING_NAME = {"wifi": "name"}

_CORRECTIONS = [re.compile(p, re.IGNORECASE) for p in (
    r"(?:no,? |actually,? |sorry,? )*(?:it is|that is|it was|it should be|that should be|make that)? ?(?:actually |really )?not (?P<old>.+?),? (?:but|it is|rather|it was)(?: actually| really)? (?P<v>.+)$",
    r"(?:it|that|this|he|she) (?:is|was|should be|has to be|should have been) (?:actually |really |now |in fact )*(?P<v>.+?),? (?:and )?(?:not|instead of|rather than|no longer) (?P<old>.+)$",
    r"(?:not (?P<old>.+?)[,;:]? )?I (?:meant|mean|wanted to say|meant to say|should have said) (?:to say |that it is |it is )?(?P<v>(?!to\b|it\b|that\b|well\b|no\b|by\b).+?)$",
    r"I (?:meant|mean) (?P<v>.+?),? not (?P<old>.+)$",
    r"I (?:said|wrote|told you|typed|mentioned)(?: that)?(?: it (?:was|is))? (?P<old>[^,]+?),? but (?:I meant|it (?:is|was|should be)|that (?:was|is) wrong,? it is|actually it is|really it is)(?: actually| really)? (?P<v>.+)$",
    r"it used to be (?P<old>.+?),? (?:but )?(?:now )?it is (?:now )?(?P<v>.+)$",
    r"(?:make that|that should be|it should be|should be|it should have been|it is actually|it is really|it is in fact) (?P<v>.+)$",
    r"(?:replace|change|correct) (?P<old>.+?) (?:with|to|by|into) (?P<v>.+)$",
)]  # fmt: skip

# What is left behind, after the new value.
_INSTEAD = re.compile(
    r"(?:, (?:and )?(?:not|no longer)| instead of| rather than| ahead of) .+$", re.IGNORECASE
)
_CHANGE = re.compile(
    r"\b(?:no longer|any ?more|any longer|instead|rather than|from|swapped|switched|replaced|changed|traded|gave up|given up|dropped|"
    r"stopped|quit|broke up|done with|cancelled|sold|closed|ahead of|not|mistake)\b", re.IGNORECASE
)  # fmt: skip
_REPLACED = (
    r".*\bfrom OLD (?:over )?to (?:an? |the )?(?P<v>.+)$",
    r".*\b(?:swapped|replaced|exchanged|traded|switched|changed|left|dropped) OLD(?: \w+)? (?:with|for|to|into) (?:an? |the )?(?P<v>.+?)(?: one)?$",
    r".*\b(?:gave up|given up|dropped|stopped(?: with| playing| doing)?|quit|broke up with|done with|cancelled|sold|closed) (?:with )?OLD,? (?:and|but) (?:now )?"
    r"(?:took up|started|is(?: now)? (?:into|with)|am(?: now)? (?:into|with)|picked up|bought|became|got|uses?|switched to|booked|plays?|joined|chose) (?:an? |the )?(?P<v>.+)$",
    r".*\b(?:no longer|not)\b.*\bOLD(?: any ?more| any longer)?,? (?:but|it is|he is|she is|I am|(?:he|she|I) (?:takes?|wants?|drinks?|likes?|has|have|goes by))"
    r"(?: (?:in|with|at|on|to|by|from|for|an?|the|now|into|called|based|allergic))* (?P<v>.+)$",
    r".*?\b(?:is|am|are|has|have|drinks?|likes?|loves?|wants?|drives?|plays?|takes?|prefers?|uses?|reads?|in|for|as|by|to|with|at|eats?) (?:an? |the )?"
    r"(?P<v>.+?)(?: best| now)*,? (?:now )?(?:instead of|rather than|and not|not|no longer|ahead of) OLD\b.*$",
)

_ANS = r"(?:answers?|repl(?:y|ies)|responses?|explanations?|messages)"
_WITH_PREPOSITION = words(
    "birthday home_city meeting_day training_day wedding_date music_lesson_day wake_time bedtime gym_time next_trip "
    "employer room_number street birthplace commute study_field arrival_time gym_name hotel bank place job sleep_place"
)
_VERBAL = re.compile(
    r"[a-z]{2,}(?:s|ed)|chose|got|went|took|had|made|kept|won|lost|ran|grew|became|bought|brought|found|gave|left|met|saw|came|"
    r"never|always|often|usually|can|will|really|fell|wrote|sold|built|began|drove"
)
# Words that no noun phrase of ours holds: the verb before them was not found.
_NOUNLIKE = re.compile(
    r"\b(?:and|or|that|whenever|when|there|who|which|because|makes|while|if|but)\b", re.IGNORECASE
)
_UNITS = re.compile(
    r"(?:please |always |for units,? |with |from now on,? |i (?:only |always |usually )?)*(?:use|give me|think in|stick to|show me|understand|give (?:me )?(?:all )?(?:the )?(?:measurements|numbers|distances|temperatures|weights)(?: to me)? in|give me (?:measurements|numbers|distances) in|measurements in) "
    r"(?:(?:all )?(?:the )?(?:measurements|numbers|distances|temperatures|units|weights) in )?(?P<v>(?:metric|imperial|SI|US)(?: (?:units|system|measurements))?|(?:degrees )?(?:Celsius|Fahrenheit)|(?:kilomet(?:re|er)s|miles|met(?:re|er)s|feet|cups|grams|lit(?:re|er)s|inches|kilos|kilograms|pounds|ounces)(?: and \w+)?)(?:,? (?:please|with me|for me|when .+|in (?:your|all).+|always))*$",
    re.IGNORECASE,
)
_STYLES = [re.compile(p, re.IGNORECASE) for p in (
    rf"(?:please |always |from now on,? )*(?:keep|make|write|give me|phrase|format|send(?: me)?) (?:all |me )?(?:your|the|my) {_ANS} (?:always )?(?P<v>.+)$",
    rf"(?:I (?:like|love|want|prefer|need|enjoy|would like|would prefer|appreciate)(?: it when)?) (?:all )?(?:your|my|the) {_ANS} (?:to be |are |kept |always )?(?P<v>.+)$",
    rf"(?:I (?:like|love|want|prefer|need|enjoy|would like|would prefer|appreciate|only want)) (?P<v>(?:[\w-]+ ){{1,3}}){_ANS}$",
    r"(?:please |always |you should |from now on,? |kindly )*(?:answer|reply|respond|write|speak|talk)(?: to)?(?: me)?(?: always| only)? (?P<v>(?:in|with|using|like|as|briefly|shortly|formally|concisely|informally|politely|without|only)\b.*)$",
    rf"(?:your|the) {_ANS} should (?:always )?be (?P<v>.+)$",
    rf".*?\b(?:I|me|my) (?:[\w ]+ )?(?:like|love|prefer|want|need|appreciate|preference is|favou?r)(?: it if)? (?:your |the )?{_ANS} (?:that |which )?(?:are |is |were |to be |should be )(?:always )?(?P<v>.+)$",
    rf".*?\b(?:make|keep|write) (?:them|it|things|your {_ANS}|all {_ANS}) (?P<v>.+?) (?:when you (?:reply|answer|respond|write|talk)(?: to me)?|in your {_ANS}(?: to me)?)$",
    rf".*\b{_ANS}\b.*\b(?:make|keep) (?:them|it|your {_ANS}) (?P<v>.+)$",
    r"when(?:ever)? you (?:answer|reply|respond|write|talk)(?: to)?(?: me)?,? (?:please )?(?:always )?(?:be|stay|keep it|make it|do it|do so) (?P<v>.+)$",
    r"I (?:would like|want|prefer|need) you to be (?P<v>.+?) when you (?:answer|reply|respond|write)(?: to)?(?: me)?$",
    r"(?:please )?(?:be|stay|keep it|make it) (?P<v>.+?) when(?:ever)? you (?:answer|reply|respond|write|talk)(?: to)?(?: me)?$",
    r"(?:please |always )*(?:answer|reply|respond)(?: to)? me in a way that is (?P<v>.+)$",
    rf".*\b(?:give me|send me) {_ANS} (?:that are )?(?P<v>.+)$",
    rf"(?:please |always )*give me (?P<v>(?:[\w-]+ ){{1,3}}){_ANS}$",
    r"I (?:would like|want|prefer|need) (?:it if )?you (?:to )?(?:always )?(?:answer|reply|respond|write|speak|talk)(?: to)?(?: me)? (?P<v>.+)$",
    r"(?:please )?(?P<v>(?:do not|never|always) use (?:emojis?|bullet points|jargon|exclamation marks|slang|markdown|tables|lists)\b.*)$",
    rf"for (?:your )?{_ANS},? I (?:like|prefer|want) (?P<v>.+)$",
)]  # fmt: skip

_STOP = words(
    "i my me we our a an the is are was were am be been to of in on at for with and or but that this it "
    "so very really just have has had do does did not as from by there too also"
)
