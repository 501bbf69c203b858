"""Generate lives: chat sessions in which a person tells facts, and questions about those facts.

Everything is drawn from the JSON bank beside this module and from the
``random.Random`` handed in, so equal arguments give equal results.

Train and test never share wording or values:

* every list of statements, updates, questions, frames and small talk is cut by
  index: the last quarter (at least 2 entries) belongs to "test", the rest to
  "train" (see `split_list`);
* `bank/paraphrases.json` holds further phrasings for training alone; none of them is close to a test phrasing;
* the values listed in a pool are cut in the same way;
* an invented word, an invented value, and a value made by rule (dates, times,
  codes, ages ...) belongs to "test" exactly if the first byte of the SHA-256
  digest of its lower-case text is a multiple of 4 (see `belongs_to_test`).
"""

import functools
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from importlib import resources
from typing import Any, Literal, TypedDict

Split = Literal["train", "test"]

NEVER_TOLD_ANSWER = "I don't know"
"""The one accepted answer to a question about something that was never told."""

_PRONOUNS = {
    "he": ("he", "him", "his"),
    "she": ("she", "her", "her"),
    "it": ("it", "it", "its"),
}
_MONTHS = [
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
]
_NEVER_TOLD_RATE = 0.08
_NO_FRAME_RATE = 0.5
_TWO_FACTS_RATE = 0.1
_MAX_DRAWS = 400


class Message(TypedDict):
    """One chat message."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing a person says, about themselves or about someone or something of theirs."""

    key: str
    """What is said of whom: "self/home_city", "sister/name"."""
    kind: str
    """"fact", "preference" or "habit"."""
    value: str
    """The answer to the canonical question."""
    statement: str
    """The sentence as told, without a frame; it contains the value verbatim."""
    canonical: str
    """The canonical first-person question which the value answers."""
    updates: str | None
    """The older value that this one replaces, None when the fact is new."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """One conversation."""

    at: str
    """When it began, ISO 8601 in UTC."""
    messages: list[Message]
    """The messages in order, users and assistant taking turns."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question to be asked once a number of sessions has passed."""

    question: str
    """The question, worded differently from the statement it is about."""
    answers: list[str]
    """The accepted answers."""
    kind: str
    """"fact", "preference", "habit", "updated" or "never_told"."""
    after_session: int
    """Index of the last session that has happened when the question is asked."""


@dataclass(frozen=True, kw_only=True)
class Life:
    """The sessions of one person and the questions about them."""

    id: str
    """Name of the life."""
    sessions: list[Session]
    """The sessions, oldest first."""
    questions: list[Question]
    """The questions, in the order of `Question.after_session`."""

    def to_json(self) -> str:
        """Return the life as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> "Life":
        """Read a life from one line written by `to_json`."""
        data = json.loads(line)
        return cls(
            id=data["id"],
            sessions=[Session(**session) for session in data["sessions"]],
            questions=[Question(**question) for question in data["questions"]],
        )


@functools.cache
def _bank(name: str) -> Any:
    """Return the parsed contents of one packaged JSON file of the bank."""
    path = resources.files("nestmem.personas") / "bank" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def split_list(entries: Sequence[str], split: Split) -> list[str]:
    """Return the part of a list that belongs to the split: the last quarter, at least 2, is test."""
    held_out = max(2, len(entries) // 4)
    if len(entries) <= held_out:
        raise ValueError(
            f"a list of {len(entries)} entries leaves none to train on, expected more than {held_out}"
        )
    return list(entries[-held_out:] if split == "test" else entries[:-held_out])


def belongs_to_test(text: str) -> bool:
    """Tell whether an invented or rule-made text is held out for test."""
    return hashlib.sha256(text.lower().encode("utf-8")).digest()[0] % 4 == 0


@dataclass(frozen=True, kw_only=True)
class _Topic:
    """Everything needed to talk about one key, with the phrasings of one split."""

    key: str
    owner: str
    relation: str
    kind: str
    functional: bool
    pool: str
    canonical: str
    topic: str
    statements: tuple[str, ...]
    updates: tuple[str, ...]
    questions: tuple[str, ...]
    group: str
    overlaps: tuple[str, ...]


def _first_upper(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def _owner_words(owner: dict[str, str]) -> dict[str, str]:
    """Return what the slots about an owner stand for."""
    subject, objective, possessive = _PRONOUNS[owner["pronoun"]]
    phrase = owner["phrase"]
    return {
        "{o}": phrase,
        "{O}": _first_upper(phrase),
        "{n}": phrase.removeprefix("my "),
        "{s}": subject,
        "{S}": _first_upper(subject),
        "{m}": objective,
        "{p}": possessive,
        "{P}": _first_upper(possessive),
    }


def _fill(template: str, words: dict[str, str]) -> str:
    """Replace the slots found in words, leaving the others alone."""
    return re.sub(r"\{\w+\}", lambda match: words.get(match[0], match[0]), template)


def _starts_with_vowel_sound(value: str) -> bool:
    """Tell whether "an" goes before the value."""
    lowered = value.lower()
    if lowered.startswith(("eu", "uni", "uk", "one", "us")):
        return False
    if lowered.startswith(("honor", "hour")):
        return True
    if re.match(r"(8|11\b|18\b)", lowered) or re.match(r"[AEFHILMNORSX]\d?\b(?!')", value):
        return True
    return lowered[:1] in "aeiouáéíóúö"


def _with_value(template: str, value: str, old: str | None) -> str:
    """Put the value, and the replaced one, into a statement, choosing "a" or "an"."""
    for slot, text in (("{v}", value), ("{old}", old or "")):
        if _starts_with_vowel_sound(text):
            template = re.sub(rf"\b([Aa]) {re.escape(slot)}", rf"\1n {slot}", template)
    text = _fill(template, {"{v}": value, "{old}": old or ""})
    return re.sub(r"(?<!\.)\.\.$", ".", text)


def _pool_name(attribute: dict[str, Any], owner: dict[str, str]) -> str:
    """Return the pool from which the values of an owner's attribute come."""
    pool = attribute["pool"]
    if isinstance(pool, str):
        return pool
    return pool.get(owner["id"]) or pool[owner["type"]]


def _more(kind: str, relation: dict[str, Any], field: str, split: Split) -> list[str]:
    """Return the further phrasings of `bank/paraphrases.json`, which are for training only."""
    if split == "test":
        return []
    return _bank("paraphrases").get(f"{kind}/{relation['id']}", {}).get(field, [])


def _applies(attribute: dict[str, Any], owner: dict[str, str]) -> bool:
    """Tell whether the attribute makes sense for the owner."""
    if owner["type"] not in attribute["types"] or owner["id"] in attribute.get("except", ()):
        return False
    return "only" not in attribute or owner["id"] in attribute["only"]


def _self_topics(split: Split) -> Iterable[_Topic]:
    """Yield the topics about the user."""
    for relation in _bank("self"):
        yield _Topic(
            key=f"self/{relation['id']}",
            owner="self",
            relation=relation["id"],
            kind=relation["kind"],
            functional=relation["functional"],
            pool=relation["pool"],
            canonical=relation["canonical"],
            topic=relation["topic"],
            statements=(
                *split_list(relation["statements"], split),
                *_more("self", relation, "statements", split),
            ),
            updates=tuple(split_list(relation["updates"], split)),
            questions=(
                *split_list(relation["questions"], split),
                *_more("self", relation, "questions", split),
            ),
            group="self",
            overlaps=tuple(f"self/{other}" for other in relation.get("overlaps", ())),
        )


def _phrasings(attribute: dict[str, Any], owner: dict[str, str], field: str, split: Split) -> tuple[str, ...]:
    """Return the phrasings of a field for one owner: the general ones and those for its type."""
    words = _owner_words(owner)
    templates = [*split_list(attribute[field], split), *_more("related", attribute, field, split)]
    more = attribute.get("more", {}).get(owner["type"], {})
    if field in more:
        templates += split_list(more[field], split)
    return tuple(_fill(template, words) for template in templates)


def _related_topics(split: Split) -> Iterable[_Topic]:
    """Yield the topics about the user's people, animals and things."""
    bank = _bank("related")
    for owner in bank["owners"]:
        words = _owner_words(owner)
        for attribute in bank["attributes"]:
            if not _applies(attribute, owner):
                continue
            yield _Topic(
                key=f"{owner['id']}/{attribute['id']}",
                owner=owner["id"],
                relation=attribute["id"],
                kind=attribute["kind"],
                functional=attribute["functional"],
                pool=_pool_name(attribute, owner),
                canonical=_fill(attribute["canonical"], words),
                topic=_fill(attribute["topic"], words),
                statements=_phrasings(attribute, owner, "statements", split),
                updates=_phrasings(attribute, owner, "updates", split),
                questions=_phrasings(attribute, owner, "questions", split),
                group=owner.get("group", owner["id"]),
                overlaps=(),
            )


@functools.cache
def _topics(split: Split) -> dict[str, _Topic]:
    """Return the topics of a split by key."""
    topics = [*_self_topics(split), *_related_topics(split)]
    return {topic.key: topic for topic in topics}


_ONSETS_TEXT = "b bl br c ch d dr f fl g gr h j k kl kr l m n p pl pr qu r s sh sl st t th tr v w y z"
_ONSETS = _ONSETS_TEXT.split()
_SIMPLE_ONSETS = "bdfghjklmnprstvwz"
_VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ea", "oo", "ie", "au")
_INNER_CODAS = ("", "", "", "", "n", "r", "l", "s", "m")
_CODAS = ("", "", "n", "r", "l", "s", "m", "k", "t", "x", "th", "nd", "rn")
_UNWANTED = ("fuk", "fuc", "nig", "cun", "dik", "fag", "shit", "sex", "naz", "poop", "pis", "tit")


def _invented_word(rng: random.Random) -> str:
    """Return a pronounceable lower-case word that means nothing."""
    while True:
        if rng.random() < 0.4:
            word = "".join(
                rng.choice(_SIMPLE_ONSETS) + rng.choice("aeiou") for _ in range(rng.choice((2, 2, 3)))
            )
        else:
            word = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_INNER_CODAS)
            word += rng.choice(_SIMPLE_ONSETS) + rng.choice("aeiou") + rng.choice(_CODAS)
        if 4 <= len(word) <= 9 and not any(part in word for part in _UNWANTED):
            return word


def _split_word(split: Split, rng: random.Random) -> str:
    """Return an invented word of the split."""
    while True:
        word = _invented_word(rng)
        if belongs_to_test(word) == (split == "test"):
            return word


def _invented_value(pool: dict[str, Any], split: Split, rng: random.Random) -> str:
    """Return an invented value of the split in one of the pool's forms."""

    def word(match: re.Match[str]) -> str:
        text = _split_word(split, rng)
        return text if match[0] == "{l}" else text.capitalize()

    while True:
        value = re.sub(r"\{[wl]\}", word, rng.choice(pool["forms"]))
        if belongs_to_test(value) == (split == "test") and value not in pool["values"]:
            return value


def _clock(rng: random.Random, hours: Sequence[int]) -> str:
    """Return a time of day such as "6:40"."""
    return f"{rng.choice(hours)}:{rng.choice(range(0, 60, 5)):02d}"


_RULES: dict[str, Callable[[random.Random], str]] = {
    "day_month": lambda rng: f"{rng.randint(1, 28)} {rng.choice(_MONTHS)}",
    "time_morning": lambda rng: _clock(rng, (4, 5, 6, 7, 8, 9)),
    "time_night": lambda rng: _clock(rng, (20, 21, 22, 23)),
    "time_any": lambda rng: _clock(rng, range(6, 23)),
    "code": lambda rng: "".join(rng.choice("0123456789") for _ in range(rng.choice((4, 4, 5, 6)))),
    "room": lambda rng: rng.choice(("", "", "", "A", "B", "C", "E")) + str(rng.randint(11, 799)),
    "age": lambda rng: str(rng.randint(19, 66)),
    "age_young": lambda rng: str(rng.randint(3, 29)),
    "age_senior": lambda rng: str(rng.randint(44, 82)),
    "age_old": lambda rng: str(rng.randint(65, 99)),
    "animal_age": lambda rng: str(rng.randint(2, 25)),
    "year": lambda rng: str(rng.randint(1985, 2024)),
}


def _draw_value(name: str, split: Split, made_up: float, rng: random.Random) -> str:
    """Draw a value of the split from a pool."""
    pool = _bank("pools")[name]
    if "rule" in pool:
        while True:
            value = _RULES[pool["rule"]](rng)
            if belongs_to_test(value) == (split == "test"):
                return value
    if pool["made_up"] and rng.random() < made_up:
        return _invented_value(pool, split, rng)
    return rng.choice(split_list(pool["values"], split))


_KEPT_WORDS = frozenset({"I", "OS", "SSID", "GP", "HR", "LinkedIn", "English"})
_GREETINGS = ("Hi", "Hello", "Hey", "Let me", "Please", "Correction")


def _lower_start(statement: str, values: Iterable[str | None]) -> str:
    """Lower-case the first letter unless the statement starts with a name or with "I"."""
    first = re.split(r"[\s,.'’:]", statement, maxsplit=1)[0]
    if first in _KEPT_WORDS or any(value and statement.startswith(value) for value in values):
        return statement
    return statement[:1].lower() + statement[1:]


def _is_plain(statement: str) -> bool:
    """Tell whether a statement is one clause-like sentence that can follow "that"."""
    body = statement.rstrip(".!")
    return (
        not re.search(r"[?!:]|\. ", body)
        and re.match(r"(I|I'm|I've|I'd|My|We|We're|We've|Our|The|You)\b", statement) is not None
    )


def _frame_fits(frame: str, statement: str) -> bool:
    """Tell whether the frame reads naturally around the statement."""
    before, _, after = frame.partition("{x")
    if after.startswith("-") or re.search(r"\w $", before):
        return _is_plain(statement)
    if before.endswith((", ", ": ")):
        return not statement.startswith(_GREETINGS)
    return True


def _frame(frame: str, fact: Fact) -> str:
    """Put the fact's statement into a frame."""
    before = frame.partition("{x")[0]
    text = fact.statement
    if before and not before.rstrip().endswith((".", "!", "?")):
        text = _lower_start(text, (fact.value, fact.updates))
    return frame.replace("{x-}", text.rstrip(".!")).replace("{x}", text)


class PersonaGenerator:
    """Draws facts, messages, questions and whole lives of one split."""

    def __init__(self, split: Split, *, made_up: float = 0.5) -> None:
        """Generate for a split; `made_up` is the share of invented values where a pool allows them."""
        if split not in ("train", "test"):
            raise ValueError(f"split is {split!r}, expected 'train' or 'test'")
        if not 0 <= made_up <= 1:
            raise ValueError(f"made_up is {made_up}, expected a number from 0 to 1")
        self._split: Split = split
        self._made_up = made_up
        self._topics = _topics(split)
        self._by_owner: dict[str, list[str]] = {}
        self._by_relation: dict[str, list[str]] = {}
        for key, topic in self._topics.items():
            self._by_owner.setdefault(topic.owner, []).append(key)
            self._by_relation.setdefault(topic.relation, []).append(key)
        self._related_keys = [key for key in self._topics if not key.startswith("self/")]
        self._talk = {name: split_list(entries, split) for name, entries in _bank("smalltalk").items()}

    def _topic(self, key: str) -> _Topic:
        """Return the topic of a key."""
        if key not in self._topics:
            raise KeyError(f"unknown key {key!r}, expected one of keys(), such as 'self/home_city'")
        return self._topics[key]

    def keys(self) -> list[str]:
        """Return all "owner/relation" keys; the owner is "self" for the user."""
        return list(self._topics)

    def value(self, key: str, rng: random.Random) -> str:
        """Draw a value that fits the key."""
        return _draw_value(self._topic(key).pool, self._split, self._made_up, rng)

    def fact(self, key: str, rng: random.Random, *, value: str | None = None, old: str | None = None) -> Fact:
        """Draw a statement of the key; with `old`, one that replaces that older value."""
        topic = self._topic(key)
        if value is None:
            value = self._other_value(key, {old} if old is not None else set(), rng)
            if value is None:
                raise ValueError(f"no value of {key!r} other than {old!r} was found")
        template = rng.choice(topic.statements if old is None else topic.updates)
        return Fact(
            key=key,
            kind=topic.kind,
            value=value,
            statement=_with_value(template, value, old),
            canonical=topic.canonical,
            updates=old,
        )

    def _other_value(self, key: str, taken: set[str], rng: random.Random) -> str | None:
        """Draw a value that is not taken, ignoring case; None when the pool seems exhausted."""
        lowered = {value.lower() for value in taken}
        for _ in range(_MAX_DRAWS):
            value = self.value(key, rng)
            if value.lower() not in lowered:
                return value
        return None

    def facts(self, n: int, rng: random.Random) -> list[Fact]:
        """Draw n facts of one persona, with different keys and different values.

        About half of the time a cluster of the keys shares the relation
        ("sister/name", "brother/name") or the owner, which makes them easy to mix up.
        """
        chosen = self._facts(n, rng)
        if len(chosen) < n:
            raise ValueError(f"n is {n}, but only {len(chosen)} facts of one persona can be drawn")
        return chosen

    def _facts(self, n: int, rng: random.Random) -> list[Fact]:
        """Draw up to n facts with different keys and values."""
        chosen: list[Fact] = []
        groups: dict[str, str] = {}
        taken: set[str] = set()
        for key in self._key_stream(rng):
            if len(chosen) >= n:
                break
            topic = self._topics[key]
            if groups.setdefault(topic.group, topic.owner) != topic.owner:
                continue
            value = self._other_value(key, taken, rng)
            if value is None:
                continue
            taken.add(value)
            chosen.append(self.fact(key, rng, value=value))
        rng.shuffle(chosen)
        return chosen

    def _key_stream(self, rng: random.Random) -> Iterable[str]:
        """Yield every key once in random order, half of the draws being small confusable clusters."""
        seen: set[str] = set()
        while len(seen) < len(self._topics):
            cluster = self._cluster(rng) if rng.random() < 0.25 else [self._single_key(rng)]
            if all(key in seen for key in cluster):
                cluster = [rng.choice([key for key in self._topics if key not in seen])]
            for key in cluster:
                if key not in seen:
                    seen.add(key)
                    yield key

    def _cluster(self, rng: random.Random) -> list[str]:
        """Return 2 to 4 keys that share the relation or the owner."""
        topic = self._topics[self._related_key(rng)]
        if rng.random() < 0.6:
            keys = self._by_relation[topic.relation]
        else:
            keys = self._by_owner[topic.owner]
        return rng.sample(keys, min(len(keys), rng.randint(2, 4)))

    def _single_key(self, rng: random.Random) -> str:
        """Return a key, about the user in most cases."""
        if rng.random() < 0.75:
            return rng.choice(self._by_owner["self"])
        return self._related_key(rng)

    def _related_key(self, rng: random.Random) -> str:
        """Return a key about someone or something of the user's; names come up most."""
        keys = self._by_relation["name"] if rng.random() < 0.25 else self._related_keys
        return rng.choice(keys)

    def question(self, key: str, rng: random.Random) -> str:
        """Draw a question about the key."""
        return rng.choice(self._topic(key).questions)

    def told(self, fact: Fact, rng: random.Random) -> str:
        """Return the user's message that tells the fact: its statement, often inside a frame."""
        if rng.random() < _NO_FRAME_RATE:
            return fact.statement
        frames = [frame for frame in self._talk["frames"] if _frame_fits(frame, fact.statement)]
        return _frame(rng.choice(frames), fact) if frames else fact.statement

    def smalltalk(self, rng: random.Random) -> str:
        """Draw a user message without any personal fact."""
        return rng.choice(self._talk["user"])

    def reply(self, rng: random.Random) -> str:
        """Draw an assistant reply to small talk."""
        return rng.choice(self._talk["assistant"])

    def acknowledge(self, rng: random.Random) -> str:
        """Draw an assistant reply to a told fact."""
        return rng.choice(self._talk["acknowledge"])

    def third_party(self, rng: random.Random) -> str:
        """Draw a sentence with a fact that is not about the user."""
        return rng.choice(self._talk["third_party"])

    def forget(self, key: str, rng: random.Random) -> str:
        """Draw a request to forget what was told about the key."""
        return rng.choice(self._talk["forget"]).replace("{o}", self._topic(key).topic)

    def life(
        self,
        life_id: str,
        rng: random.Random,
        *,
        sessions: int,
        facts_per_session: int,
        update_rate: float = 0.1,
        distractor_rate: float = 0.5,
        questions: int | None = None,
    ) -> Life:
        """Draw a life.

        `update_rate` is the share of told facts that replace one of an earlier session,
        `distractor_rate` the chance of small talk or a third-party fact before each told fact,
        `questions` the number of questions; None asks one for each told key.
        """
        if sessions < 1 or facts_per_session < 1:
            raise ValueError(
                f"sessions is {sessions} and facts_per_session {facts_per_session}, expected at least 1"
            )
        plan = self._plan(rng, sessions, facts_per_session, update_rate)
        at = datetime(2023, 1, 1) + timedelta(days=rng.randrange(700))
        built = []
        for told in plan:
            at += timedelta(days=rng.randint(1, 9))
            clock = at.replace(hour=rng.randint(7, 22), minute=rng.randrange(60))
            built.append(
                Session(at=f"{clock.isoformat()}Z", messages=self._messages(told, distractor_rate, rng))
            )
        return Life(id=life_id, sessions=built, questions=self._questions(plan, questions, rng))

    def _plan(
        self, rng: random.Random, sessions: int, facts_per_session: int, update_rate: float
    ) -> list[list[Fact]]:
        """Return the facts told in each session, updates included."""
        fresh = self.facts(sessions * facts_per_session, rng)
        current: dict[str, Fact] = {}
        ever_used = {fact.value for fact in fresh}
        plan: list[list[Fact]] = []
        for _ in range(sessions):
            told: dict[str, Fact] = {}
            for _ in range(facts_per_session):
                open_keys = [k for k in current if k not in told and self._topics[k].functional]
                update = None
                if open_keys and rng.random() < update_rate:
                    update = self._update(current[rng.choice(open_keys)], ever_used, rng)
                fact = update or fresh.pop()
                ever_used.add(fact.value)
                told[fact.key] = fact
            current.update(told)
            plan.append(list(told.values()))
        return plan

    def _update(self, fact: Fact, taken: set[str], rng: random.Random) -> Fact | None:
        """Return a fact that replaces the given one by a value not used yet; None if there is none."""
        value = self._other_value(fact.key, taken, rng)
        if value is None:
            return None
        return self.fact(fact.key, rng, value=value, old=fact.value)

    def _messages(self, facts: Sequence[Fact], distractor_rate: float, rng: random.Random) -> list[Message]:
        """Return the messages of a session that tells the facts."""
        messages: list[Message] = []

        def exchange(user: str, assistant: str) -> None:
            messages.append({"role": "user", "content": user})
            messages.append({"role": "assistant", "content": assistant})

        def distract() -> None:
            if rng.random() < distractor_rate:
                if rng.random() < 0.6:
                    exchange(self.smalltalk(rng), self.reply(rng))
                else:
                    exchange(self.third_party(rng), self.acknowledge(rng))

        waiting = list(facts)
        while waiting:
            distract()
            message = self.told(waiting.pop(0), rng)
            if waiting and rng.random() < _TWO_FACTS_RATE:
                message = f"{message} {waiting.pop(0).statement}"
            exchange(message, self.acknowledge(rng))
        distract()
        return messages

    def _questions(
        self, plan: Sequence[Sequence[Fact]], count: int | None, rng: random.Random
    ) -> list[Question]:
        """Return the questions about a plan of told facts."""
        told_at: dict[str, list[tuple[int, Fact]]] = {}
        for index, session in enumerate(plan):
            for fact in session:
                told_at.setdefault(fact.key, []).append((index, fact))
        last = len(plan) - 1
        keys: list[str] = []
        asked = []
        for _ in range(len(told_at) if count is None else count):
            if rng.random() < _NEVER_TOLD_RATE:
                asked.append(self._never_told(set(told_at), last, rng))
                continue
            if not keys:
                keys = list(told_at)
                rng.shuffle(keys)
            asked.append(self._told_question(told_at[keys.pop()], last, rng))
        return sorted(asked, key=lambda question: question.after_session)

    def _told_question(self, history: Sequence[tuple[int, Fact]], last: int, rng: random.Random) -> Question:
        """Return a question about a key, asked at the end or some time after it was told."""
        after = last if rng.random() < 0.6 else rng.randint(history[0][0], last)
        fact = [fact for index, fact in history if index <= after][-1]
        return Question(
            question=self.question(fact.key, rng),
            answers=[fact.value],
            kind="updated" if fact.updates is not None else fact.kind,
            after_session=after,
        )

    def _never_told(self, told: set[str], last: int, rng: random.Random) -> Question:
        """Return a question about a key that was never told, mostly one close to a told key."""
        blocked = told | {other for key in told for other in self._topics[key].overlaps}
        free = [
            key
            for key, topic in self._topics.items()
            if key not in blocked and not told.intersection(topic.overlaps)
        ]
        owners = {self._topics[key].owner for key in told}
        relations = {self._topics[key].relation for key in told}
        near = [
            key
            for key in free
            if self._topics[key].relation in relations or self._topics[key].owner in owners
        ]
        key = rng.choice(near if near and rng.random() < 0.7 else free)
        return Question(
            question=self.question(key, rng),
            answers=[NEVER_TOLD_ANSWER],
            kind="never_told",
            after_session=last,
        )
