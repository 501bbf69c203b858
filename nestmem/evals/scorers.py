"""Scores: pure functions of one line of a log. They never look at another line, a model or a clock.

`SCORERS[name]` is a `Score`; it is called with a `Line` and gives a number, or None where it does not apply to that
question. A name that ends in "@k" takes any k of 1 or more ("session_any@5"). The rules that all keep:

- A failed reading (refused, empty, an error) counts as wrong: 0, and 1 where lower is better. It is never None.
- Without a reader (no text, and nothing failed) the scores that need one are None.
- Where the right reply is that it is not known, `abstains` and `contains` judge whether a reply says so
  (`personas.abstains`), `contains` also whether it names no rejected value; `token_f1`, `exact` and
  `answer_in_context` are None.
- Where there is an answer, a reply that says it is not known does not hold it: `contains` is 0, whatever else it says.
- Scores of evidence are None for a question whose data names none. A ranking that is empty scores 0 here;
  `scoring` leaves ranking scores out of a system that never ranks anything.

`token_f1` is plain SQuAD F1 (Rajpurkar et al., 2016, arXiv 1606.05250) on the words of `reading.flat`, which keep
numbers whole, the best over the accepted answers. LoCoMo's own script also stems words (Porter) and splits the comma
lists of its category 1; that is not done here, so the two differ by a few points.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from nestmem.errors import InputError
from nestmem.evals import reading
from nestmem.evals.log import Line
from nestmem.evals.personas import abstains as says_unknown
from nestmem.evals.reading import content_words, flat, holds

COVERED = 0.6
"""Share of a rubric point's content words that must be there for the point to count."""
ORDERED = re.compile("order|chronolog", re.IGNORECASE)
"""Kinds of question that `order` applies to."""
JUDGED = "judged"
"""The score that a language model gives; it is read from the judge's verdicts (`judging`), so it is not in SCORERS."""
VOTES = 10
"""How many labelled turns vote in `label_vote`."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score by name. better: which way is good. share: a value of 0..1, not a free number. needs: "reader" a
    reply's text, "retrieval" what was shown, "ranking" what was ranked, "probe" what weights say."""

    name: str
    about: str
    function: Callable[[Line], float | None]
    better: Literal["higher", "lower"] = "higher"
    share: bool = True
    needs: Literal["reader", "retrieval", "ranking", "probe"] = "reader"

    def __call__(self, line: Line) -> float | None:
        """The score of a line; None where it does not apply."""
        if self.needs == "reader" and line.reply.reading.text is None and not line.reply.reading.failed:
            return None
        return self.function(line)


class _Scores(dict[str, Score]):
    """Scores by name; "NAME@k" for any k is made when it is asked for."""

    def __missing__(self, name: str) -> Score:
        base, at, number = name.partition("@")
        if base not in _AT or not at or not number.isdecimal() or int(number) < 1:
            known = ", ".join([*self, *(f"{base}@k" for base in _AT)])
            raise InputError(f"there is no score {name!r}; expected one of {known}")
        about, function = _AT[base]
        k = int(number)
        return Score(
            name=name,
            about=about.replace("@k", number),
            function=lambda line: function(line, k),
            needs="ranking",
        )

    def __contains__(self, name: object) -> bool:
        if dict.__contains__(self, name):
            return True
        try:
            return isinstance(name, str) and self[name] is not None
        except InputError:
            return False


# --- of a reply's text -----------------------------------------------------------------------------


def _said(line: Line) -> str | None:
    """The reply; None when the reading failed or is blank."""
    text = line.reply.reading.text
    return None if line.reply.reading.failed or not (text or "").strip() else text


def _against_answers(line: Line, judge: Callable[[str, tuple[str, ...]], float]) -> float | None:
    """`judge(reply, answers)`; 0 for a failed reading, None where the data has no answer."""
    question, said = line.question, _said(line)
    if not question.answerable or not question.answers:
        return None
    return 0.0 if said is None else judge(said, question.answers)


def _token_f1(line: Line) -> float | None:
    return _against_answers(line, lambda said, answers: max(reading.f1(said, answer) for answer in answers))


def _exact(line: Line) -> float | None:
    return _against_answers(line, lambda said, answers: float(flat(said) in map(flat, answers)))


def _contains(line: Line) -> float | None:
    question, said = line.question, _said(line)
    if question.answerable:
        return _against_answers(line, _answers_with)
    if said is None or not says_unknown(said):
        return 0.0
    return 1.0 - reading.says_rejected(said, question.rejected, ())


def _answers_with(said: str, answers: Sequence[str]) -> float:
    """1 when one of the answers stands in what was said, and it does not say that it is not known; an accepted answer
    may speak of something unknown."""
    unsure = says_unknown(said) and not any(map(says_unknown, answers))
    return 0.0 if unsure else accepted(said, answers)


def accepted(said: str, answers: Sequence[str]) -> float:
    """1 when one of the answers stands in what was said, as whole words."""
    return float(any(holds(said, answer) for answer in answers))


def _choice(line: Line) -> float | None:
    question = line.question
    right = reading.right_choices(question.choices, question.answers)
    if not right:
        return None
    said = _said(line)
    named = set() if said is None else reading.named_choices(said, question.choices)
    return float(len(named) == 1 and named <= right)


def _abstains(line: Line) -> float | None:
    if line.question.answerable:
        return None
    said = _said(line)
    return float(said is not None and says_unknown(said))


def _stale(line: Line) -> float | None:
    if not line.question.rejected:
        return None
    said = _said(line)
    if said is None:
        return 1.0
    return float(reading.says_rejected(said, line.question.rejected, line.question.answers))


def _rubric(line: Line) -> float | None:
    said = _said(line)
    return _points(line, [] if said is None else [content_words(said)])


def _points(line: Line, texts: Sequence[frozenset[str]]) -> float | None:
    """Share of the rubric's points that one of the texts (as sets of content words) covers."""
    points = [words for words in map(content_words, line.question.rubric) if words]
    if not points:
        return None
    return sum(any(_covers(text, words) for text in texts) for words in points) / len(points)


def _covers(text: frozenset[str], point: frozenset[str]) -> bool:
    """Whether enough of the point's words are in the text, and all its numbers."""
    return len(point & text) >= COVERED * len(point) and reading.numbers(point) <= text


def _order(line: Line) -> float | None:
    if not ORDERED.search(line.question.kind):
        return None
    items = reading.listed(line.question.answers, line.question.rubric)
    if len(items) < 2:
        return None
    said = _said(line)
    return 0.0 if said is None else reading.order_score(items, said)


# --- of what was shown and ranked ------------------------------------------------------------------


def _evidence_share(line: Line) -> float | None:
    evidence = set(line.question.evidence)
    if line.reply.context and not line.reply.shown:
        # What a model wrote about the past: nobody can say from which turns.
        return None
    return len(evidence & set(line.reply.shown)) / len(evidence) if evidence else None


def _evidence_all(line: Line) -> float | None:
    share = _evidence_share(line)
    return None if share is None else float(share == 1)


def _hits(wanted: set[str], ranked: Sequence[str], k: int, test: Callable[..., bool]) -> float | None:
    first = set(list(dict.fromkeys(ranked))[:k])
    return float(test(item in first for item in wanted)) if wanted else None


def _sessions(line: Line, k: int, test: Callable[..., bool]) -> float | None:
    return _hits(set(line.sessions), [hit.session for hit in line.reply.ranked], k, test)


def _turns(line: Line, k: int, test: Callable[..., bool]) -> float | None:
    return _hits(set(line.question.evidence), [hit.turn for hit in line.reply.ranked], k, test)


def _mrr(line: Line) -> float | None:
    evidence = set(line.question.evidence)
    if not evidence:
        return None
    places = (place for place, hit in enumerate(line.reply.ranked, 1) if hit.turn in evidence)
    return 1 / next(places, float("inf"))


def _answer_in_context(line: Line) -> float | None:
    if not line.question.answerable or not line.question.answers:
        return None
    return accepted(line.reply.context, line.question.answers)


def _holds_rejected(line: Line) -> float:
    question = line.question
    return float(reading.holds_rejected(line.reply.context, question.rejected, question.answers))


def _stale_in_context(line: Line) -> float | None:
    return _holds_rejected(line) if line.question.rejected else None


def _kept_and_gone(line: Line) -> float | None:
    if line.question.answerable:
        return _answer_in_context(line)
    return 1.0 - _holds_rejected(line) if line.question.rejected else None


def _newest_first(line: Line) -> float | None:
    question = line.question
    if not question.answers or not question.rejected:
        return None
    values: list[tuple[float, bool]] = []
    for score, text in reading.shown_by_rank(line.reply):
        # A log keeps six digits of a score.
        score = round(score, 6)
        if values and score != values[0][0]:
            break
        right = reading.holds_rejected(text, question.answers, question.rejected)
        if right != reading.holds_rejected(text, question.rejected, question.answers):
            values.append((score, right))
    kinds = {right for _, right in values}
    return sum(kinds) / len(kinds) if kinds else 0.0


def _choice_support(line: Line) -> float | None:
    question = line.question
    right = reading.right_choices(question.choices, question.answers)
    if not right:
        return None
    weights = reading.rarity([content_words(choice) for choice in question.choices])
    there = content_words(line.reply.context)
    shares = [
        sum(w for word, w in option.items() if word in there) / sum(option.values()) if option else 0.0
        for option in weights
    ]
    best = {place for place, share in enumerate(shares) if share >= max(shares) - 1e-9}
    return len(best & right) / len(best)


def _label_vote(line: Line) -> float | None:
    if not line.question.answers:
        return None
    votes: dict[str, float] = {}
    for score, text in _labelled(line)[:VOTES]:
        label = flat(text.rpartition("->")[2])
        votes[label] = votes.get(label, 0.0) + max(score, 1e-9)
    winner = max(votes, key=lambda label: votes[label], default=None)
    return float(winner is not None and winner in map(flat, line.question.answers))


def _labelled(line: Line) -> list[tuple[float, str]]:
    return [(score, text) for score, text in reading.shown_by_rank(line.reply) if "->" in text]


def _rubric_in_context(line: Line) -> float | None:
    return _points(line, _line_words(line.reply.context))


@lru_cache(maxsize=2)
def _line_words(context: str) -> tuple[frozenset[str], ...]:
    """Content words of each line of a context; a system's shown turns are a line each."""
    return tuple(filter(None, map(content_words, context.splitlines())))


# --- of weights ------------------------------------------------------------------------------------


def _probe_margin(line: Line) -> float | None:
    question = line.question
    if line.probe is None or len(line.probe) != len(question.candidates):
        return None
    right = set(map(flat, question.answers))
    ours = [p for c, p in zip(question.candidates, line.probe, strict=True) if flat(c) in right]
    others = [p for c, p in zip(question.candidates, line.probe, strict=True) if flat(c) not in right]
    return max(ours) - max(others) if ours and others else None


def _probe_first(line: Line) -> float | None:
    margin = _probe_margin(line)
    return None if margin is None else float(margin > 0)


def _probe_stale(line: Line) -> float | None:
    question = line.question
    if question.answerable or line.probe is None or len(line.probe) != len(question.candidates):
        return None
    gone = set(map(flat, question.rejected))
    stale = [p for c, p in zip(question.candidates, line.probe, strict=True) if flat(c) in gone]
    return float(max(stale) == max(line.probe)) if stale else None


_AT: dict[str, tuple[str, Callable[[Line, int], float | None]]] = {
    "session_any": (
        "an evidence session is among the first @k sessions of the ranking",
        lambda line, k: _sessions(line, k, any),
    ),
    "session_all": (
        "all evidence sessions are among the first @k sessions of the ranking",
        lambda line, k: _sessions(line, k, all),
    ),
    "turn_any": (
        "an evidence turn is among the first @k turns of the ranking",
        lambda line, k: _turns(line, k, any),
    ),
    "turn_all": (
        "all evidence turns are among the first @k turns of the ranking",
        lambda line, k: _turns(line, k, all),
    ),
}

_ALL = (
    Score(name="token_f1", about="SQuAD F1 of the reply's words, best accepted answer", function=_token_f1),
    Score(name="exact", about="the reply is an accepted answer, normalised", function=_exact),
    Score(
        name="contains",
        about="the reply holds an accepted answer as whole words and does not say that it is not known; where it is "
        "not, says so and names no rejected value. What else a reply holds, or its length, is not punished",
        function=_contains,
    ),
    Score(name="choice", about="the reply names the right option and no other", function=_choice),
    Score(name="abstains", about="says that it does not know what was never told", function=_abstains),
    Score(
        name="stale",
        about="the reply holds a value that is no longer right; a failed reading counts as one",
        function=_stale,
        better="lower",
    ),
    Score(
        name="rubric",
        about=f"share of the points of which {COVERED:.0%} of the content words, and all numbers, stand in the reply; "
        "what else a reply holds, or its length, is not punished",
        function=_rubric,
    ),
    Score(
        name="order",
        about="the listed things stand in the right order: (tau-b + 1) / 2 times the share that is named",
        function=_order,
    ),
    Score(
        name="evidence_share",
        about="share of the evidence turns that were shown",
        function=_evidence_share,
        needs="retrieval",
    ),
    Score(
        name="evidence_all",
        about="all evidence turns were shown",
        function=_evidence_all,
        needs="retrieval",
    ),
    Score(
        name="mrr",
        about="1 / place of the first evidence turn in the ranking",
        function=_mrr,
        needs="ranking",
    ),
    Score(
        name="answer_in_context",
        about="an accepted answer stands in the context as whole words",
        function=_answer_in_context,
        needs="retrieval",
    ),
    Score(
        name="stale_in_context",
        about="a value that is no longer right stands in the context",
        function=_stale_in_context,
        better="lower",
        needs="retrieval",
    ),
    Score(
        name="kept_and_gone",
        about="an accepted answer stands in the context; where there is none any more, no rejected value does",
        function=_kept_and_gone,
        needs="retrieval",
    ),
    Score(
        name="newest_first",
        about="of the shown turns that hold a value, old or new (not both), the closest holds the one that is right; "
        "half where one of the other kind is as close",
        function=_newest_first,
        needs="ranking",
    ),
    Score(
        name="choice_support",
        about="the right option's own words are the best covered by the context; ties share",
        function=_choice_support,
        needs="retrieval",
    ),
    Score(
        name="label_vote",
        about=f"the closest {VOTES} labelled turns that were shown vote for the right label, by their score",
        function=_label_vote,
        needs="ranking",
    ),
    Score(
        name="rubric_in_context",
        about=f"share of the points of which {COVERED:.0%} of the content words, and all numbers, stand in one shown "
        "turn; the length of a turn is not punished",
        function=_rubric_in_context,
        needs="retrieval",
    ),
    Score(
        name="probe_first",
        about="an accepted answer is the likeliest candidate to the weights",
        function=_probe_first,
        needs="probe",
    ),
    Score(
        name="probe_stale",
        about="where there is no answer, a rejected value is the likeliest candidate to the weights",
        function=_probe_stale,
        better="lower",
        needs="probe",
    ),
    Score(
        name="probe_margin",
        about="log-probability of the accepted answer minus the best other candidate's, nats per token",
        function=_probe_margin,
        share=False,
        needs="probe",
    ),
)
SCORERS: dict[str, Score] = _Scores({score.name: score for score in _ALL})
"""Scores by name, and "session_any@k", "session_all@k", "turn_any@k", "turn_all@k" for any k."""
EXAMPLES_AT = tuple(f"{base}@{k}" for base in _AT for k in (5, 10))
