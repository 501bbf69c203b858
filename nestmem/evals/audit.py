"""Looks for mistakes in a data set before anything runs on it: duplicates, leaked answers, shuffled labels.

Findings name ids only, never the data's text. Large sets are sampled by a fixed seed; a finding's `what` gives the
number looked at. "error": scores mean nothing before it is understood; "warning": they may be off; "note": to know.

What it cannot see: a wrong answer that stands in its evidence (it reads no meaning); labels that are wrong where the
answer is said in other words, has one or two characters, is a yes or no or a common word; a few shuffled labels of
classes ("TEXT -> LABEL"), of which only a whole shuffle is at chance; wrong rubric points and rejected values; streams
that are nearly the same; a leak in other words; a few answers exchanged between streams of one question each, which
only are among the answers that stand in no turn. Misplaced labels are counted from what stands word for word, so their
share is one from above: a key that is right may name the turn that says it in other words.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from nestmem.evals.datasets.base import Dataset, Question, Stream, Turn
from nestmem.evals.misplaced import Agreement, Joined, Taught, elsewhere
from nestmem.evals.misplaced import key as _key
from nestmem.evals.reading import content_words, flat, right_choices

SAMPLE = 1000
"""Questions looked at where each costs a search through its stream."""
SEARCHED_CHARS = 2_000_000_000
"""Characters of streams that are searched, over all questions; fewer questions are looked at in long streams."""
PAIRS = 240
"""Questions in a permutation test."""
PERMUTATIONS = 199
LEAST = 20
"""Questions from which on a permutation test says anything."""
SIGNIFICANT = 0.01
"""Above this p labels count as shuffled; one shuffle in a hundred passes for true labels."""
POSITION = 0.001
MANY = 0.05
"""Share of questions from which on contrary answers are an error of the data, not slips in it."""
REPEATED_CHARS = 60
"""From this length on, a turn that is told twice is no common phrase."""
EXAMPLES = 5

Severity = Literal["error", "warning", "note"]
Pair = tuple[str, frozenset[str], frozenset[str]]
"""A group within which is shuffled, and the two sides whose shared words are counted."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something found `count` times. examples: ids of the first few, "STREAM QUESTION" or "STREAM TURN"."""

    severity: Severity
    what: str
    count: int
    examples: tuple[str, ...] = ()


def audit(dataset: Dataset) -> tuple[Finding, ...]:
    """All that was found, errors first; the same for the same data."""
    found: list[Finding] = []
    found += _entered_twice(dataset)
    found += _twice_asked(dataset)
    found += _nearly_twice_asked(dataset)
    found += _told_twice(dataset)
    found += _rejected_answers(dataset)
    found += _answer_in_question(dataset)
    found += _searched(dataset)
    found += _positions(dataset)
    found += _shuffled(dataset)
    found += _shuffled_classes(dataset)
    found += _without_evidence(dataset)
    found += _dates(dataset)
    order = ("error", "warning", "note")
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _finding(severity: Severity, what: str, where: Sequence[str]) -> list[Finding]:
    if not where:
        return []
    return [Finding(severity=severity, what=what, count=len(where), examples=tuple(where[:EXAMPLES]))]


def _asked(dataset: Dataset) -> Iterable[tuple[Stream, Question]]:
    return ((stream, question) for stream in dataset.streams for question in stream.questions)


def _name(stream: Stream, item: Question | Turn) -> str:
    return f"{stream.id} {item.id}"


# --- duplicates ------------------------------------------------------------------------------------


def _twice_asked(dataset: Dataset) -> list[Finding]:
    """Same text, same stream, same place; and over streams, where the answers differ. A question that is asked again
    later in a stream, after something changed, is none."""
    within: dict[tuple[str, int, str, str], Question] = {}
    across: dict[str, tuple[str, tuple[str, ...]]] = {}
    same, contrary, elsewhere = [], [], []
    for stream, question in _asked(dataset):
        text, answers = _key(question.text), tuple(sorted(map(_key, question.answers)))
        first = within.setdefault((stream.id, question.after, str(question.at), text), question)
        if first is not question:
            agree = tuple(sorted(map(_key, first.answers))) == answers
            agree &= first.answerable == question.answerable
            (same if agree else contrary).append(_name(stream, question))
            continue
        owner, other = across.setdefault(text, (stream.id, answers))
        if owner != stream.id and other != answers:
            elsewhere.append(_name(stream, question))
    many = len(contrary) >= MANY * dataset.questions
    return [
        *_finding(
            "error" if many else "warning",
            "questions asked twice at one place with different answers",
            contrary,
        ),
        *_finding("warning", "questions asked twice at one place with the same answer", same),
        *_finding(
            "note", "questions that another stream asks in the same words, with other answers", elsewhere
        ),
    ]


def _entered_twice(dataset: Dataset) -> list[Finding]:
    """Streams of the same turns: where a question is the same too, everything on it counts twice. LongMemEval asks a
    question and one that cannot be answered of the same turns; those go together, but count apart."""
    first: dict[int, Stream] = {}
    again, beside = [], []
    for stream in dataset.streams:
        said = hash(tuple((turn.role, turn.speaker, turn.text) for turn in stream.turns))
        other = first.setdefault(said, stream)
        if other is not stream and stream.turns:
            same = {_key(q.text) for q in stream.questions} & {_key(q.text) for q in other.questions}
            (again if same or not stream.questions else beside).append(f"{other.id} {stream.id}")
    what = "streams that have the same turns as another one"
    return [
        *_finding("error", f"{what}, and questions of it: entered twice", again),
        *_finding("warning", f"{what}, and other questions: intervals count them apart", beside),
    ]


def _nearly_twice_asked(dataset: Dataset) -> list[Finding]:
    """Same but for case, punctuation and articles, in the same stream at the same place."""
    first: dict[tuple[str, int, str, str], str] = {}
    where = []
    for stream, question in _asked(dataset):
        said = flat(question.text)
        place = (stream.id, question.after, str(question.at), said)
        if said and first.setdefault(place, _key(question.text)) != _key(question.text):
            where.append(_name(stream, question))
    what = "questions asked twice at one place, the same but for case, punctuation and articles"
    return _finding("warning", what, where)


def _rejected_answers(dataset: Dataset) -> list[Finding]:
    """Nobody can be right about them: an accepted answer is stale at once."""
    where = [
        _name(stream, question)
        for stream, question in _asked(dataset)
        if question.rejected and set(map(flat, question.rejected)) & set(map(flat, question.answers))
    ]
    return _finding("error", "questions that reject a value that they accept", where)


def _told_twice(dataset: Dataset) -> list[Finding]:
    """Where evidence is told twice, the data names only one of the two turns, or should have named both."""
    where: dict[bool, list[str]] = {True: [], False: []}
    for stream in dataset.streams:
        evidence = {id_ for question in stream.questions for id_ in question.evidence}
        seen: dict[tuple[str | None, str], Turn] = {}
        for turn in stream.turns:
            text = turn.text.strip()
            first = seen.setdefault((turn.speaker or turn.role, text), turn)
            if first is not turn and len(text) >= REPEATED_CHARS:
                where[bool({first.id, turn.id} & evidence)].append(_name(stream, turn))
    said = f"turns of {REPEATED_CHARS} characters or more that were told before in their stream"
    return [
        *_finding("warning", f"{said}, and are evidence", where[True]),
        *_finding("note", said, where[False]),
    ]


# --- leaks -----------------------------------------------------------------------------------------


def _answer_in_question(dataset: Dataset) -> list[Finding]:
    where, looked = [], 0
    for stream, question in _asked(dataset):
        if question.answers:
            looked += 1
            text = f" {flat(question.text)} "
            for choice in sorted(map(flat, question.choices), key=len, reverse=True):
                text = text.replace(f" {choice} ", " \x00 ")
            # A letter is the name of an option.
            answers = [flat(answer) for answer in question.answers if content_words(answer)]
            if any(f" {answer} " in text for answer in answers if not question.choices or len(answer) > 1):
                where.append(_name(stream, question))
    return _finding(
        "warning", f"questions, of {looked}, whose accepted answer stands in their own text", where
    )


def _searched(dataset: Dataset) -> list[Finding]:
    """What needs the whole stream: questions that stand in it word for word, answers that stand in no turn, or in
    others than the evidence."""
    asked = list(_asked(dataset))
    total = sum(stream.characters * len(stream.questions) for stream in dataset.streams)
    mean = total / max(1, len(asked))
    drawn = set(_draw(len(asked), max(1, min(SAMPLE, int(SEARCHED_CHARS / max(1.0, mean))))))
    verbatim, absent, with_answer = [], [], 0
    apart, placed, closer = [], 0, 0
    place = 0
    for stream in dataset.streams:
        wanted = [q for number, q in enumerate(stream.questions, place) if number in drawn]
        place += len(stream.questions)
        if not wanted:
            continue
        told = Joined.of(stream)
        ends, text = told.ends, told.text
        for question in wanted:
            said = ends[question.after]
            if len(question.text) >= 12 and text.find(_key(question.text), 0, said) >= 0:
                verbatim.append(_name(stream, question))
            if question.answers and not question.choices:
                with_answer += 1
                if not any(text.find(_key(answer), 0, said) >= 0 for answer in question.answers):
                    absent.append(_name(stream, question))
            misplaced = elsewhere(question, stream, told)
            placed += misplaced is not None
            closer += misplaced == "closer"
            if misplaced in ("apart", "closer"):
                apart.append(_name(stream, question))
    return [
        *_finding(
            "warning",
            f"questions, of {placed} whose answer stands word for word in a few turns, where the answer stands in other "
            f"turns said before, but in none of its evidence: about {closer / max(1, placed):.0%} (the "
            "other turn shares more words with the question than the evidence) to "
            f"{len(apart) / max(1, placed):.0%} of labels may be wrong",
            apart,
        ),
        *_finding(
            "warning",
            f"questions, of {len(drawn)} looked at, that were said in the stream word for word",
            verbatim,
        ),
        *_finding("note", f"questions, of {with_answer} looked at, whose answer stands in no turn", absent),
    ]


def _positions(dataset: Dataset) -> list[Finding]:
    """Multiple choice that can be answered without reading: by place, or by length."""
    by_size: dict[int, list[tuple[str, int, bool]]] = defaultdict(list)
    unknown = []
    for stream, question in _asked(dataset):
        if len(question.choices) < 2 or not question.answers:
            continue
        right = right_choices(question.choices, question.answers)
        if not right:
            unknown.append(_name(stream, question))
        elif len(right) == 1:
            (place,) = right
            lengths = [len(choice) for choice in question.choices]
            longest = lengths[place] == max(lengths) and lengths.count(max(lengths)) == 1
            by_size[len(lengths)].append((_name(stream, question), place, longest))
    found = _finding("error", "multiple-choice questions whose answer is none of the options", unknown)
    for size, rows in sorted(by_size.items()):
        place, times = Counter(place for _, place, _ in rows).most_common(1)[0]
        often = [name for name, other, _ in rows if other == place]
        if size * tail(times, len(rows), 1 / size) < POSITION:
            what = (
                f"the right option of {size} stands at place {place + 1} in {times} of {len(rows)} questions"
            )
            found += _finding("error" if times == len(rows) else "warning", what, often)
        longest = [name for name, _, is_longest in rows if is_longest]
        if tail(len(longest), len(rows), 1 / size) < POSITION:
            what = f"the right option of {size} is the longest in {len(longest)} of {len(rows)} questions"
            found += _finding("error" if len(longest) == len(rows) else "warning", what, longest)
    return found


def tail(hits: int, n: int, share: float) -> float:
    """Probability of `hits` or more in n draws of probability `share`.

    >>> tail(2, 2, 0.5)
    0.25
    """
    return math.fsum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(hits, n + 1))


# --- shuffled labels -------------------------------------------------------------------------------


def _shuffled(dataset: Dataset) -> list[Finding]:
    """Whether evidence and answers fit their questions better than those of other questions do. Where streams have one
    question each, another stream's evidence may fit worse for its people alone, so a label that is wrong within its
    own stream may pass."""
    evidence, answers = [], []
    asked = list(_asked(dataset))
    usable = [(stream, q) for stream, q in asked if q.evidence and q.answerable and (q.answers or q.rubric)]
    drawn = [usable[place] for place in _draw(len(usable), PAIRS)]
    texts: dict[str, dict[str, str]] = {}
    groups = Counter(stream.id for stream, _ in drawn)
    for stream, question in drawn:
        if stream.id not in texts:
            texts[stream.id] = {turn.id: turn.text for turn in stream.turns}
        said = texts[stream.id]
        shown = content_words(" ".join(said[id_] for id_ in question.evidence))
        replies = content_words(" ".join(question.answers or question.rubric))
        own = "" if question.choices else question.text
        # Streams with one question are shuffled among each other, others within themselves.
        group = stream.id if groups[stream.id] > 1 else ""
        evidence.append((group, content_words(own) | replies, shown))
        answers.append((group, replies, shown | content_words(own)))
    return [
        *_test(
            evidence,
            "error",
            "evidence labels look shuffled: a question's evidence shares no more words with it and its answer than "
            "another question's",
        ),
        *_test(
            answers,
            "warning",
            "answers look shuffled: an answer shares no more words with its question's evidence than another "
            "question's answer",
        ),
    ]


def _test(pairs: Sequence[Pair], severity: Severity, what: str) -> list[Finding]:
    p = shuffle_test(pairs)
    if p is None or p <= SIGNIFICANT:
        return []
    return [
        Finding(severity=severity, what=f"{what} (p = {p:.2f}, {len(pairs)} questions)", count=len(pairs))
    ]


def shuffle_test(pairs: Sequence[Pair]) -> float | None:
    """p of a permutation test (199 permutations, within groups) that the two sides of a pair share more words than
    sides of other pairs; a word counts log(pairs / pairs that hold it on the right). None where the data cannot say:
    fewer than 20 pairs, or right sides that are (nearly) all the same, or left sides that are."""
    if len(pairs) < LEAST or min(len({pair[1] for pair in pairs}), len({pair[2] for pair in pairs})) < 5:
        return None
    counts = Counter(word for _, _, right in pairs for word in right)
    weight = {word: math.log(len(pairs) / count) for word, count in counts.items()}

    def shared(a: int, b: int) -> float:
        return sum(weight[word] for word in sorted(pairs[a][1] & pairs[b][2]))

    groups: dict[str, list[int]] = defaultdict(list)
    for place, (group, _, _) in enumerate(pairs):
        groups[group].append(place)
    table = {(a, b): shared(a, b) for members in groups.values() for a in members for b in members}
    if len(table) == len(pairs) or not any(table.values()):
        return None
    seen = sum(table[place, place] for place in range(len(pairs)))
    rng = random.Random("shuffle")
    above = 0
    for _ in range(PERMUTATIONS):
        total = 0.0
        for members in groups.values():
            total += sum(table[a, b] for a, b in zip(members, rng.sample(members, len(members)), strict=True))
        above += total >= seen - 1e-9
    return (1 + above) / (1 + PERMUTATIONS)


def _shuffled_classes(dataset: Dataset) -> list[Finding]:
    """Of streams that teach classes ("TEXT -> LABEL"): whether texts that share words share labels."""
    told, asked = Agreement(), Agreement()
    for stream in dataset.streams:
        taught = Taught.of(stream)
        if taught is not None:
            taught.told(stream, told)
            taught.asked(stream, asked)
    return [
        *_at_chance(told, "told labels look shuffled: the nearest other example has the label"),
        *_at_chance(asked, "asked labels look shuffled: the nearest told example has the answer"),
    ]


def _at_chance(found: Agreement, what: str) -> list[Finding]:
    """A finding where labels agree no more often than they do by chance."""
    if found.looked < LEAST or found.expected >= found.looked:
        return []
    if tail(found.hits, found.looked, found.expected / found.looked) <= SIGNIFICANT:
        return []
    said = f"{what} of {found.hits} of {found.looked} texts (by chance {found.expected:.0f})"
    return _finding("warning", said, found.names)


# --- evidence and dates ----------------------------------------------------------------------------


def _without_evidence(dataset: Dataset) -> list[Finding]:
    where = [_name(s, q) for s, q in _asked(dataset) if q.answerable and not q.evidence]
    return _finding("note", f"answerable questions, of {dataset.questions}, without evidence", where)


def _dates(dataset: Dataset) -> list[Finding]:
    where = []
    for stream in dataset.streams:
        for before, turn in zip(stream.turns, stream.turns[1:], strict=False):
            dated = before.session == turn.session and before.at is not None and turn.at is not None
            if dated and _earlier(turn, before):
                where.append(_name(stream, turn))
    return _finding("warning", "turns dated before the turn that they follow in their session", where)


def _earlier(turn: Turn, before: Turn) -> bool:
    assert turn.at is not None and before.at is not None
    if (turn.at.tzinfo is None) != (before.at.tzinfo is None):
        return turn.at.replace(tzinfo=None) < before.at.replace(tzinfo=None)
    return turn.at < before.at


def _draw(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`, in order, drawn by a fixed seed."""
    return sorted(random.Random("audit").sample(range(count), min(count, most)))
