"""G4, the guard that watches what the weights say: shadows, and wrong answers that the user then puts right.

An answer counts against the weights when it was wrong as it was given and the user then told otherwise, or when the
user says of it that it is wrong. A right answer about something that changes later does not, nor does telling the
same again. The window is kept in the process: a program that answers once and ends has nothing to look back on.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from nestmem.agent import speech, study
from nestmem.agent.guard import Gate, GuardSettings, drawn
from nestmem.store.records import MemoryRecord, Scope, WeightVersion

_DENIES = re.compile(
    r"\s*(?:no|nope|wrong|incorrect)\s*(?:[,.;:!\u2013\u2014-]|$)"
    r"|.*\b(?:that|this|it)(?: is|'s|\u2019s| was) (?:wrong|incorrect|not (?:right|correct|true))\b"
    r"|.*\b(?:that|this|it) (?:isn|wasn)['\u2019]t (?:right|correct|true)\b",
    re.IGNORECASE | re.DOTALL,
)
_NOT = re.compile(r"\bnot (?P<gone>[^,.;!?]+?)(?=,? but\b|[,.;!?]|$)", re.IGNORECASE)
_MOVED_ON = re.compile(
    r"\b(?:moved?|moving|renamed|changed|switched|used to|no longer|any ?more|now(?:adays)?|since then|these days)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Given:
    """An answer from the weights: the version that gave it, the key of what was asked (None: not known), what was
    said, whether that was what held then, and whether the user put it right."""

    version: str
    key: str | None
    said: str
    right: bool
    corrected: bool = False


def asked_about(question: str, said: str, memories: Sequence[MemoryRecord]) -> tuple[str | None, bool]:
    """The key that a question asks about, and whether `said` is what `memories` (those that hold) answer to it.

    Where no memory and no rule knows the question, the key is None, and the answer passes for right.
    """
    own = [m for m in memories if m.question and m.answer]
    bare = question.strip().casefold()
    near, likeness = speech.best_match(question, own)
    found = next((m for m in own if bare in (way.casefold() for way in _ways(m))), None)
    if found is None and near is not None and likeness >= speech.ENOUGH:
        found = near
    key = speech.key_of_question(question) or (found.key if found else None)
    if key is None:
        return None, True
    values = [m.answer or "" for m in own if m.key == key or (found and m.question == found.question)]
    return key, any(_says(said, value) for value in values)


def _ways(memory: MemoryRecord) -> list[str]:
    asked, held_out = study.ways(memory)
    return [memory.question or "", *asked, held_out]


def _says(said: str, value: str) -> bool:
    return speech.same(said, value) or speech.holds_answer(said, value)


@dataclass
class Live:
    """The last answers from weights of each user. Several threads may answer and learn at once."""

    settings: GuardSettings
    _given: dict[Scope, deque[Given]] = field(default_factory=dict)
    _open: set[Scope] = field(default_factory=set)
    """Users whose last answer was from weights and who said nothing since: "no" is said of it."""
    _turns: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def shadows(self, question: str) -> bool:
        """Whether this answer is one of those that are also given without weights. Drawn by hash, so that the same
        conversation draws the same turns."""
        with self._lock:
            self._turns += 1
            return drawn(self.settings.shadow, question, self._turns)

    def answered(self, owner: Scope, version: str, key: str | None, said: str, *, right: bool) -> None:
        """Remembers an answer from weights."""
        with self._lock:
            window = self._given.setdefault(owner, deque(maxlen=max(1, self.settings.window)))
            window.append(Given(version=version, key=key, said=said, right=right))
            self._open.add(owner)

    def answered_otherwise(self, owner: Scope) -> None:
        """The last answer was not from weights: what is denied next is not theirs."""
        with self._lock:
            self._open.discard(owner)

    def told(self, owner: Scope, values: Iterable[tuple[str, str]], texts: Iterable[str]) -> int:
        """Marks the answers that the user now put right; returns how many.

        values: (key, value) of what was told; texts: the messages, in order.
        """
        value_of, messages = dict(values), list(texts)
        with self._lock:
            window = self._given.get(owner)
            if not window or not messages:
                return 0
            last = len(window) - 1 if owner in self._open else -1
            self._open.discard(owner)
            found = [
                place
                for place, one in enumerate(window)
                if not one.corrected and _put_right(one, value_of, messages, last=place == last)
            ]
            for place in found:
                window[place] = replace(window[place], corrected=True)
            return len(found)

    def gate(self, owner: Scope) -> Gate:
        """Too many of the last answers were put right. Passes while there are fewer than half a window of them."""
        with self._lock:
            window = list(self._given.get(owner, ()))
        wrong = sum(one.corrected for one in window)
        share = wrong / len(window) if window else 0.0
        enough = 2 * len(window) >= self.settings.window
        limit = self.settings.corrections
        return Gate(
            name="corrections",
            passed=not enough or share <= limit,
            value=share,
            limit=limit,
            note=f"{wrong} of the last {len(window)} answers from weights",
        )

    def last_good(self, owner: Scope, versions: Sequence[WeightVersion]) -> WeightVersion | None:
        """The version before the first that gave an answer which was put right; None when there is none."""
        with self._lock:
            wrong = {one.version for one in self._given.get(owner, ()) if one.corrected}
        places = [place for place, version in enumerate(versions) if version.id in wrong]
        if not places or places[0] == 0:
            return None
        found = versions[places[0] - 1]
        return found if found.learner == versions[-1].learner else None

    def clear(self, owner: Scope) -> None:
        """Begins a new window: after a rollback, and after a forget, since it holds what was said."""
        with self._lock:
            self._given.pop(owner, None)
            self._open.discard(owner)


def _put_right(one: Given, value_of: dict[str, str], messages: list[str], *, last: bool) -> bool:
    """Whether what was told puts this answer right. last: whether it is what the first message replies to."""
    value = value_of.get(one.key or "")
    if value is not None and _says(one.said, value):
        return False
    if value is not None and not one.right:
        return True
    replaced = [text for text in messages if _names_as_wrong(text, one.said)]
    if last and _DENIES.match(messages[0]) and (value is not None or not value_of):
        replaced.append(messages[0])
    return any(not _MOVED_ON.search(text) for text in replaced)


def _names_as_wrong(text: str, said: str) -> bool:
    """ "not X but Y", "not called X but Y", "it is Y, not X", with X what was said."""
    return any(speech.holds_answer(match["gone"], said) for match in _NOT.finditer(text))
