"""What the audit looks for in labels: answers that stand in other turns than their evidence, and told classes
("TEXT -> LABEL") that do not go with their texts. Plain counts; `audit` says what they mean."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from nestmem.evals.datasets.base import Question, Stream
from nestmem.evals.reading import content_words, flat

RARE = 5
"""An answer that stands in more turns than these is a common word; where it stands says nothing."""
LABELLED = 0.8
"""Share of a stream's turns that have a label where it teaches classes."""
NEAREST = 400
"""Examples, and questions, that are compared with their nearest example in a stream."""


def key(text: str) -> str:
    """Lower case, one space between words."""
    return " ".join(text.casefold().split())


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A stream's turns as one text. ends: where it ends after each number of turns."""

    text: str
    ends: list[int]
    place: dict[str, int]

    @classmethod
    def of(cls, stream: Stream) -> Joined:
        """Each turn on a line."""
        parts = [key(turn.text) + "\n" for turn in stream.turns]
        ends = [0]
        for part in parts:
            ends.append(ends[-1] + len(part))
        place = {turn.id: number for number, turn in enumerate(stream.turns)}
        return cls(text="".join(parts), ends=ends, place=place)

    def turns_with(self, words: str, before: int, most: int) -> set[int]:
        """Places of the first turns, up to `most` + 1, of those before `before` that hold `words` as whole words."""
        found: set[int] = set()
        start, end = 0, self.ends[before]
        while len(found) <= most and (at := self.text.find(words, start, end)) >= 0:
            after = at + len(words)
            if not (self.text[at - 1 : at].isalnum() or self.text[after : after + 1].isalnum()):
                place = bisect_right(self.ends, at) - 1
                found.add(place)
                start = self.ends[place + 1]
            else:
                start = at + 1
        return found


def elsewhere(question: Question, stream: Stream, told: Joined) -> Literal["no", "apart", "closer"] | None:
    """Whether an accepted answer stands word for word in turns said before, but in none of the evidence; "closer" when
    one of those turns also shares more words with the question than its evidence does. None where that cannot be said:
    no evidence, options, an answer that stands in no turn or in more than 5, a plain yes or no."""
    if not question.evidence or question.choices:
        return None
    evidence = {told.place[id_] for id_ in question.evidence}
    apart: set[int] = set()
    for answer in question.answers:
        words = key(answer).strip(" .,;:!?\"'")
        if len(words) < 3 or flat(answer) in ("yes", "no") or not content_words(answer):
            continue
        turns = told.turns_with(words, question.after, RARE)
        if turns & evidence:
            return "no"
        # The evidence may stand after the first turns that were looked for.
        if len(turns) > RARE:
            return None
        apart |= turns
    if not apart:
        return None
    asked = content_words(question.text)
    named = content_words(" ".join(stream.turns[place].text for place in sorted(evidence)))
    best = max(len(asked & content_words(stream.turns[place].text)) for place in apart)
    return "closer" if best > len(asked & named) else "apart"


@dataclass(kw_only=True)
class Agreement:
    """Of `looked` texts, those whose nearest told example has their label, and how many would by chance. names: what
    did not agree."""

    looked: int = 0
    hits: int = 0
    expected: float = 0.0
    names: list[str] = field(default_factory=list)

    def add(self, name: str, *, agrees: bool, chance: float) -> None:
        """One text more."""
        self.looked += 1
        self.hits += agrees
        self.expected += chance
        if not agrees:
            self.names.append(name)


class Taught:
    """The examples of a stream that teaches classes."""

    def __init__(self, examples: Sequence[tuple[str, str, str]]) -> None:
        self._examples = examples
        self._words = [content_words(text) for _, text, _ in examples]
        counts = Counter(word for words in self._words for word in words)
        self._weight = {word: math.log(len(examples) / count) for word, count in counts.items()}
        self._with: dict[str, list[int]] = defaultdict(list)
        for place, words in enumerate(self._words):
            for word in words:
                self._with[word].append(place)
        self._labels = Counter(label for *_, label in examples)

    @classmethod
    def of(cls, stream: Stream) -> Taught | None:
        """None for a stream that teaches none."""
        split = [(turn.id, *turn.text.rpartition("->")[::2]) for turn in stream.turns if "->" in turn.text]
        examples = [(id_, text, flat(label)) for id_, text, label in split]
        if len(examples) < max(2, LABELLED * len(stream.turns)):
            return None
        if not 1 < len({label for *_, label in examples}) <= len(examples) / 2:
            return None
        return cls(examples)

    def _nearest(self, words: frozenset[str], apart: int | None = None) -> str | None:
        """The label of the example that shares the most with `words`, rare words counting more; None where none does."""
        shared: dict[int, float] = defaultdict(float)
        for word in sorted(words & self._weight.keys()):
            for place in self._with[word]:
                if place != apart:
                    shared[place] += self._weight[word]
        if not shared:
            return None
        best = max(shared, key=lambda place: (shared[place] / math.sqrt(1 + len(self._words[place])), -place))
        return self._examples[best][2]

    def told(self, stream: Stream, found: Agreement) -> None:
        """Each example, left out, against the nearest of the others."""
        for place, (id_, _, label) in enumerate(self._examples[:NEAREST]):
            nearest = self._nearest(self._words[place], apart=place)
            if nearest is not None:
                chance = (self._labels[label] - 1) / (len(self._examples) - 1)
                found.add(f"{stream.id} {id_}", agrees=nearest == label, chance=chance)

    def asked(self, stream: Stream, found: Agreement) -> None:
        """Each question against the nearest example."""
        for question in stream.questions[:NEAREST]:
            labels = set(map(flat, question.answers))
            nearest = self._nearest(content_words(question.text))
            if nearest is not None and labels & self._labels.keys():
                chance = sum(self._labels[label] for label in labels) / len(self._examples)
                found.add(f"{stream.id} {question.id}", agrees=nearest in labels, chance=chance)
