"""Memory over streams of sessions: lives that are told to a memory, and questions about them.

A life is one user: sessions of messages, and questions that are asked after one of the sessions, with
nothing of the conversation in the model's context. All lives share one memory and run side by side,
so the isolation of users is part of the test. Lives come from the generator (held-out personas,
phrasings and values) or from a file that anyone can write, one life per line:

    {"id": "ada",
     "sessions": [{"at": "2026-03-02T09:00:00Z", "messages": [{"role": "user", "content": "..."}]}],
     "questions": [{"question": "...", "answers": ["..."], "kind": "fact", "after_session": 0}]}

`at` may be left out or null (unknown), `kind` defaults to "fact", `after_session` to the last session.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from nestmem.agent.types import ARMS, Answer, Arm
from nestmem.errors import InputError
from nestmem.evals.stats import clustered_share, percentile, wilson
from nestmem.store.records import Scope

if TYPE_CHECKING:
    from nestmem.agent.controller import Memory

VERSION = "personas/1"
ROLES = ("user", "assistant", "system", "tool")
FORGOTTEN = {"i dont know", "i do not know", "unknown"}
# The phrases of a reply that does not answer, matched in its sentences one by one, each normalised.
_DO_NOT = "(?:do not|dont|does not|doesnt|did not|didnt)"
_NEVER = f"(?:{_DO_NOT}|not|never|havent|hasnt|hadnt|isnt|wasnt|arent|werent)"
_CANNOT = "(?:cannot|can not|cant|could not|couldnt)"
_SO = "(?: (?:been|yet|ever|explicitly|specifically|directly|actually|clearly|really))*"
_RECORD = (
    r"(?:in|within|by|from) (?:\w+ ){0,2}(?:conversations?|contexts?|texts?|records?|notes?|memory|memories|history|"
    "chats?|messages?|transcripts?|dialogues?|passages?|documents?|information)"
)
# "not told to her until 5 May" says when it was told; "not told to me" that it was not.
_NOT_YET = r"(?!(?: (?:it|this|that|him|her|them))? (?:to (?!me\b|us\b)|until\b|till\b|before \w))"
_ASKED = "(?:what|which|where|who|whom|whose|when|how|why|whether|anything|this)"
ABSTENTIONS = (
    # Who replies does not know it.
    rf"i (?:really |honestly |simply |just |still )?{_DO_NOT} (?:really |actually |currently )?(?:know|recall|remember)",
    "(?:i|we|ive) (?:really |honestly )?(?:have )?no (?:idea|clue|knowledge)",
    "^(?:sorry )?no (?:idea|clue)",
    "(?:i am|im) (?:not aware|unaware)",
    "not sure",
    "dont have (?:any|that)",
    "(?:i|we) (?:dont|do not) have (?:access to )?(?:any|that|this|enough|information|details)",
    "cannot (?:say|tell)",
    rf"(?:^|(?:i|we|but|so|sorry) )(?:{_CANNOT}|unable to) (?:say|tell|find|determine|recall|remember|answer|confirm)",
    "(?:i am|im|i was) (?:unable|not able) to (?:say|tell|find|determine|recall|remember|answer|confirm)",
    f"{_CANNOT} be (?:determined|found|answered|known|inferred|confirmed|established|identified)",
    # Nothing was kept of it.
    "no (?:records?|memory|memories|information|mention|recollection|indication)",
    "(?:not enough|insufficient) (?:information|context|details?)",
    "nothing (?:was|is|has been) (?:said|mentioned|told|stated)",
    f"nothing {_RECORD}",
    # It was not said.
    rf"{_NEVER}{_SO} (?:mention|mentions|mentioned|specify|specified|stated){_NOT_YET}",
    rf"{_NEVER}{_SO} (?:given|provided)(?=$| (?:here|anywhere|to (?:me|us)|so|but|and|i|{_RECORD})\b)",
    rf"{_NEVER}{_SO} (?:discussed |found |included |covered )?{_RECORD}",
    rf"{_DO_NOT}{_SO} (?:state|indicate){_NOT_YET}",
    rf"{_DO_NOT}{_SO} say(?=$| {_ASKED}\b)",
    f"{_DO_NOT}{_SO} (?:provide|contain|include|give|hold) (?:any |enough |specific )*(?:information|mention|details?)",
    rf"{_NEVER}{_SO} told{_NOT_YET}(?! (?:him|them|anyone)\b)",
    rf"{_NEVER}{_SO} (?:tell|share|shared|said to) (?:me|us)",
    # It is unknown.
    "^(?:answer )?unknown$",
    rf"^unknown(?= (?:to me|based|as|since|because|there|not|i|{_RECORD})\b)",
    r"(?:is|are|was|remains?|its|thats) (?:currently |still )?(?:un|not )known(?=$| (?:to (?:me|us)|so|but|and|based)\b)",
)
ABSTAINS = re.compile("|".join(rf"(?:\b{phrase}\b)" for phrase in ABSTENTIONS))
SENTENCE = re.compile(r"[.!?;]+(?:\s|$)|\n")


@dataclass(frozen=True, kw_only=True)
class Session:
    """Messages of one sitting. `at` is when it began, None when unknown."""

    at: datetime | None
    messages: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Question:
    """Asked after the session with index `after_session`. `told` is the index of the last session up to
    then in which an accepted answer was said, None when there is none (an unanswerable question)."""

    question: str
    answers: tuple[str, ...]
    kind: str
    after_session: int
    told: int | None

    @property
    def age(self) -> int | None:
        """Sessions between telling and asking: 0 when it was told in the session just ended."""
        return None if self.told is None else self.after_session - self.told


@dataclass(frozen=True, kw_only=True)
class Life:
    """One user: what was said, and what is asked."""

    id: str
    sessions: tuple[Session, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One answered question with its scores: what the log holds and all numbers are made of."""

    life: str
    question: Question
    arm: Arm
    answer: Answer
    correct: bool
    exact: bool


class Progress(Protocol):
    """Told after each life's session (`done` of `total` units of work)."""

    def __call__(self, done: int, total: int, what: str) -> None: ...


# --- reading lives ---------------------------------------------------------------------------------


def read_lives(path: Path) -> list[Life]:
    """Reads a file of lives. Raises InputError with the line number and the field that is wrong."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give --data a JSON-lines file"
        ) from error
    lives: list[Life] = []
    seen: dict[str, int] = {}
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        life = _read_line(raw, f"{path}, line {number}")
        if life.id in seen:
            raise InputError(f"{path}, line {number}: id {life.id!r} is already used in line {seen[life.id]}")
        seen[life.id] = number
        lives.append(life)
    if not lives:
        raise InputError(
            f"{path}: holds no life; each line is one JSON object with id, sessions and questions"
        )
    return lives


def _read_line(raw: bytes, where: str) -> Life:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    except ValueError as error:
        raise InputError(f"{where}: is not JSON ({error}); write one life per line") from error
    return life_from(value, where)


def life_from(value: Any, where: str) -> Life:
    """A life from the plain values of the file format; `where` starts each error message."""
    record = _typed(value, dict, where, "a life", "an object with id, sessions and questions")
    sessions = tuple(
        _session(item, f"{where}, session {index}")
        for index, item in enumerate(_filled(record, "sessions", list, where))
    )
    questions = tuple(
        _question(item, sessions, f"{where}, question {index}")
        for index, item in enumerate(_filled(record, "questions", list, where))
    )
    return Life(id=_filled(record, "id", str, where), sessions=sessions, questions=questions)


def _session(value: Any, where: str) -> Session:
    record = _typed(value, dict, where, "a session", "an object with at and messages")
    at = record.get("at")
    if at is not None:
        at = _time(at, where)
    messages = []
    for index, item in enumerate(_filled(record, "messages", list, where)):
        place = f"{where}, message {index}"
        message = _typed(item, dict, place, "a message", "an object with role and content")
        if _filled(message, "role", str, place) not in ROLES:
            raise InputError(f"{place}: role is {message['role']!r}; it is one of {', '.join(ROLES)}")
        _filled(message, "content", str, place)
        messages.append(message)
    return Session(at=at, messages=tuple(messages))


def _time(value: Any, where: str) -> datetime:
    try:
        at = datetime.fromisoformat(value)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    except (TypeError, ValueError) as error:
        raise InputError(
            f'{where}: at is {value!r}; write an ISO time such as "2026-03-02T09:00:00Z"'
        ) from error


def _question(value: Any, sessions: tuple[Session, ...], where: str) -> Question:
    record = _typed(value, dict, where, "a question", "an object with question and answers")
    answers = _filled(record, "answers", list, where)
    if not all(isinstance(answer, str) and normalise(answer) for answer in answers):
        raise InputError(f"{where}: answers is {answers!r}; it is a list of accepted strings")
    after = record.get("after_session", len(sessions) - 1)
    if isinstance(after, bool) or not isinstance(after, int) or not 0 <= after < len(sessions):
        raise InputError(
            f"{where}: after_session is {after!r}; the life has {len(sessions)} sessions, so it is a whole "
            f"number from 0 to {len(sessions) - 1}"
        )
    kind = _typed(record.get("kind", "fact"), str, where, "kind", "a string")
    return Question(
        question=_filled(record, "question", str, where),
        answers=tuple(answers),
        kind=kind,
        after_session=after,
        told=_told(answers, sessions[: after + 1]),
    )


def _told(answers: Sequence[str], sessions: Sequence[Session]) -> int | None:
    """Index of the last session in which an accepted answer was said."""
    for index in reversed(range(len(sessions))):
        said = " ".join(normalise(message["content"]) for message in sessions[index].messages)
        if any(f" {normalise(answer)} " in f" {said} " for answer in answers):
            return index
    return None


def _filled(record: dict[str, Any], field: str, kind: type, where: str) -> Any:
    """record[field], which must be there, of this type and not empty."""
    names = {str: "a string", list: "a list"}
    if field not in record:
        raise InputError(f"{where}: has no {field!r}; add it ({names[kind]} that is not empty)")
    value = _typed(record[field], kind, where, field, names[kind])
    if not (value.strip() if isinstance(value, str) else value):
        raise InputError(f"{where}: {field} is empty; it is {names[kind]} that is not empty")
    return value


def _typed(value: Any, kind: type, where: str, what: str, expected: str) -> Any:
    if not isinstance(value, kind):
        raise InputError(f"{where}: {what} is {type(value).__name__} {str(value)[:60]!r}; it is {expected}")
    return value


# --- scoring ---------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """Lower case, without punctuation and articles, one space between words.

    >>> normalise("It's  the *Blue* Heron!")
    'its blue heron'
    """
    flat = unicodedata.normalize("NFKC", text).casefold()
    flat = re.sub(r"['’`]", "", flat)
    flat = re.sub(r"[^\w\s]|_", " ", flat)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", flat).split())


def abstentions(reply: str) -> list[str]:
    """The phrases of a reply, normalised, which say that it does not know.

    >>> abstentions("The record doesn't mention this. I have no idea!")
    ['doesnt mention', 'i have no idea']
    """
    sentences = map(normalise, SENTENCE.split(reply))
    return [match.group() for sentence in sentences for match in ABSTAINS.finditer(sentence)]


def abstains(reply: str) -> bool:
    """Whether a reply says that it does not know, whatever else it says.

    >>> abstains("Biscuit, but I am not sure"), abstains("Not told to her until 5 May; it was in Oslo")
    (True, False)
    """
    return bool(abstentions(reply))


def score(reply: str, answers: Iterable[str]) -> tuple[bool, bool]:
    """(correct, exact): correct when the reply is an accepted answer or contains it as whole words, exact
    when it is one, both normalised. Where "I don't know" is accepted, saying so is both.

    >>> score("Your dog is called Biscuit.", ["Biscuit"])
    (True, False)
    >>> score("I have no record of that", ["I don't know"])
    (True, True)
    """
    said = normalise(reply)
    accepted = [normalise(answer) for answer in answers]
    if any(answer in FORGOTTEN for answer in accepted) and abstains(reply):
        return True, True
    accepted = [answer for answer in accepted if answer not in FORGOTTEN]
    return any(f" {answer} " in f" {said} " for answer in accepted), said in accepted


# --- running ---------------------------------------------------------------------------------------


def evaluate(
    memory: Memory,
    lives: Sequence[Life],
    *,
    arms: Sequence[Arm] = ARMS,
    budget_tokens: int | None = None,
    on_progress: Progress | None = None,
    log: TextIO | None = None,
) -> dict[str, Any]:
    """Streams the lives through `memory` and asks their questions in each arm.

    The memory should be empty; each life is one user in it. Returns the numbers (see `summarise`)
    plus `learn_ms`, what learning one session of all lives in one batch cost. `log` gets one JSON
    line per question and arm.
    """
    asked: list[Asked] = []
    learn_ms: list[float] = []
    failed = 0
    total = sum(len(life.sessions) + len(life.questions) * len(arms) for life in lives)
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(done, total, what)

    for index in range(max(len(life.sessions) for life in lives)):
        present = [life for life in lives if index < len(life.sessions)]
        for life in present:
            session = life.sessions[index]
            scope = Scope(user=life.id, session=f"{index:04d}")
            memory.observe(list(session.messages), scope, occurred_at=session.at)
            step(f"session {index + 1}: {life.id}")
        reports = memory.learn_many([Scope(user=life.id) for life in present])
        learn_ms.append(reports[0].ms)
        failed += sum(report.failed for report in reports)
        for life in present:
            for question in life.questions:
                if question.after_session != index:
                    continue
                for arm in arms:
                    asked.append(_ask(memory, life, question, arm, budget_tokens))
                    if log:
                        log.write(json.dumps(log_line(asked[-1]), ensure_ascii=False) + "\n")
                    step(f"questions after session {index + 1}: {life.id}")
    learning = {
        "p50": percentile(learn_ms, 50),
        "p95": percentile(learn_ms, 95),
        "users_in_a_batch": len(lives),
        "failed_events": failed,
    }
    return {**summarise(asked, arms), "chance": chance(lives), "learn_ms": learning}


def _ask(memory: Memory, life: Life, question: Question, arm: Arm, budget_tokens: int | None) -> Asked:
    answer = memory.answer(question.question, Scope(user=life.id), arm=arm, budget_tokens=budget_tokens)
    correct, exact = score(answer.text, question.answers)
    return Asked(life=life.id, question=question, arm=arm, answer=answer, correct=correct, exact=exact)


def log_line(asked: Asked) -> dict[str, Any]:
    """Plain values of one question for the log."""
    return {
        "life": asked.life,
        "arm": asked.arm,
        "kind": asked.question.kind,
        "age": asked.question.age,
        "after_session": asked.question.after_session,
        "question": asked.question.question,
        "answers": list(asked.question.answers),
        "answer": asked.answer.text,
        "correct": asked.correct,
        "exact": asked.exact,
        "spoke": asked.answer.spoke,
        "sources": asked.answer.sources,
        "tokens": asked.answer.tokens,
        "ms": round(asked.answer.milliseconds, 3),
    }


# --- numbers ---------------------------------------------------------------------------------------


def summarise(asked: Sequence[Asked], arms: Sequence[Arm]) -> dict[str, Any]:
    """`arms[ARM]`: n, accuracy and exact with intervals clustered by life, by_kind, by_age (in sessions;
    "none" where the answer was never told), prompt tokens, milliseconds, which half spoke."""
    return {"arms": {arm: _arm([one for one in asked if one.arm == arm]) for arm in arms}}


def _arm(asked: Sequence[Asked]) -> dict[str, Any]:
    lives = [one.life for one in asked]
    accuracy = clustered_share([one.correct for one in asked], lives)
    exact = clustered_share([one.exact for one in asked], lives)
    milliseconds = [one.answer.milliseconds for one in asked]
    tokens = [one.answer.tokens for one in asked]
    return {
        "n": len(asked),
        "lives": accuracy.clusters,
        "accuracy": accuracy.mean,
        "accuracy_se": accuracy.se,
        "accuracy_interval": [accuracy.low, accuracy.high],
        "exact": exact.mean,
        "exact_se": exact.se,
        "exact_interval": [exact.low, exact.high],
        "abstained": sum(abstains(one.answer.text) for one in asked) / max(1, len(asked)),
        "by_kind": _groups(asked, lambda one: one.question.kind),
        "by_age": _groups(asked, lambda one: "none" if one.question.age is None else str(one.question.age)),
        "spoke": dict(Counter(one.answer.spoke for one in asked)),
        "tokens": {"mean": sum(tokens) / max(1, len(tokens)), "p95": percentile(tokens, 95)},
        "ms": {"p50": percentile(milliseconds, 50), "p95": percentile(milliseconds, 95)},
    }


def _groups(asked: Sequence[Asked], key: Callable[[Asked], str]) -> dict[str, Any]:
    """n, accuracy and exact of each group, with Wilson's intervals."""
    groups: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        groups[key(one)].append(one)
    found = {}
    for name in sorted(
        groups, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name)
    ):
        group = groups[name]
        n, correct, exact = len(group), sum(g.correct for g in group), sum(g.exact for g in group)
        found[name] = {
            "n": n,
            "accuracy": correct / n,
            "accuracy_interval": list(wilson(correct, n)),
            "exact": exact / n,
            "exact_interval": list(wilson(exact, n)),
        }
    return found


def chance(lives: Sequence[Life]) -> float | None:
    """Accuracy of answering each question with the answer that the same question has in another life of
    these data, chosen at random; None when no question is asked in two lives. A memory that knows which
    answers exist, but not whose they are, scores about this."""
    same: dict[tuple[str, str], list[tuple[str, Question]]] = defaultdict(list)
    for life in lives:
        for question in life.questions:
            same[question.kind, normalise(question.question)].append((life.id, question))
    shares = []
    for group in same.values():
        for life, question in group:
            others = [other for owner, other in group if owner != life]
            if others:
                hits = sum(score(other.answers[0], question.answers)[0] for other in others)
                shares.append(hits / len(others))
    return sum(shares) / len(shares) if shares else None
