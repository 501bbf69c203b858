"""Lives: sessions in which a person tells facts among other talk, and questions after some of the sessions.

The task of `nestmem eval personas` for any system: people, phrasings and values are those that the generator
`nestmem.personas` holds out ("test"), so a model trained on generated lives never met them. Kinds are the
generator's: fact, preference, habit, updated (the last value counts, older ones are `rejected`) and never_told (the
right reply is that it is not known). A question's evidence is the last message before it that tells the answer; its
candidates are the right value and values that the same question has in other lives. Messages that replace a value may
quote it ("it isn't 3 May, it is 4 May"), so stale values are looked for in replies and not in contexts.

With file=PATH the lives are read from a file of JSON lines (or all *.jsonl in a folder) in the form that
`nestmem.evals.personas` documents:

    {"id": "ada",
     "sessions": [{"at": "2026-03-02T09:00:00Z", "messages": [{"role": "user", "content": "My cat is called Ink."}]}],
     "questions": [{"question": "What is my cat's name?", "answers": ["Ink"], "kind": "fact", "after_session": 0}]}

There, evidence is the last message in which an accepted answer stands, and older values are not known.

>>> from nestmem.evals.datasets.lives import load
>>> stream = load(None, lives=2, sessions=3, facts=4).streams[0]
>>> question = next(q for q in stream.questions if q.answerable)
>>> said = {turn.id: turn.text for turn in stream.turns}
>>> print(said[question.evidence[0]], question.text, question.answers, sep=chr(10))
I just bought a textbook since I want to learn Catalan.
What language is my evening class in?
('Catalan',)
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from nestmem.errors import InputError
from nestmem.evals import personas
from nestmem.evals.datasets.base import Dataset, Licence, Question, Role, Stream, Task, Turn
from nestmem.evals.datasets.telling import holds, other_values
from nestmem.evals.personas import normalise
from nestmem.personas import PersonaGenerator

CANDIDATES = 4
# How often wordings are drawn to see all of them: a key has at most 8 in the held-out split.
WORDINGS = 60
MARK = "Qzxvalue"
"""Stands for the value in a wording; no pool holds it."""
ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "tool": "tool"}


def load(
    folder: Path | None,
    *,
    lives: int = 10,
    sessions: int = 6,
    facts: int = 8,
    file: str = "",
    seed: int = 0,
) -> Dataset:
    """`lives` generated lives with `facts` told in each of their sessions; or those of `file` (all of them)."""
    if file:
        return _read(Path(file), seed)
    if min(lives, sessions, facts) < 1:
        raise InputError(
            f"lives: lives={lives}, sessions={sessions}, facts={facts}; expected at least 1 each"
        )
    generator = PersonaGenerator("test")
    made = []
    for number in range(lives):
        rng = random.Random(f"{seed}/{number}")
        life = generator.life(f"life-{number}", rng, sessions=sessions, facts_per_session=facts)
        made.append(personas.life_from(json.loads(life.to_json()), life.id))
    wordings = _Wordings(generator, random.Random(f"lives/wordings/{seed}"))
    rng = random.Random(f"lives/{seed}")
    streams = [_generated(_stream(life), generator, wordings, rng) for life in made]
    return _dataset(streams, "generated", ())


def _read(path: Path, seed: int) -> Dataset:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no *.jsonl; expected files of lives, one JSON object a line")
    lives: dict[str, personas.Life] = {}
    for file in files:
        for life in personas.read_lives(file):
            if life.id in lives:
                raise InputError(
                    f"{file}: the life {life.id!r} is in another file too; give each an id of its own"
                )
            lives[life.id] = life
    streams = [_stream(life) for life in lives.values()]
    rng = random.Random(f"lives/{seed}")
    streams = [_with_candidates(stream, streams, rng) for stream in streams]
    notes = ("older values of facts that changed are not known from a file: stale replies are not counted",)
    return _dataset(streams, ", ".join(file.name for file in files), notes)


def _dataset(streams: Sequence[Stream], source: str, notes: tuple[str, ...]) -> Dataset:
    missing = sum(q.answerable and not q.evidence for stream in streams for q in stream.questions)
    left_out = {"without evidence": missing} if missing else {}
    return Dataset(streams=tuple(streams), source=source, left_out=left_out, notes=notes)


# --- a life as a stream ------------------------------------------------------------------------------


def _stream(life: personas.Life) -> Stream:
    turns: list[Turn] = []
    ends: list[int] = []
    for number, session in enumerate(life.sessions):
        for place, message in enumerate(session.messages):
            turns.append(
                Turn(
                    id=f"{number:03d}.{place:03d}",
                    session=f"{number:03d}",
                    role=ROLES[message["role"]],
                    text=message["content"],
                    at=session.at,
                )
            )
        ends.append(len(turns))
    asked = [_question(life, number, question, turns, ends) for number, question in enumerate(life.questions)]
    return Stream(id=life.id, turns=tuple(turns), questions=tuple(asked))


def _question(
    life: personas.Life, number: int, question: personas.Question, turns: Sequence[Turn], ends: Sequence[int]
) -> Question:
    after = ends[question.after_session]
    at = life.sessions[question.after_session].at
    answers = tuple(a for a in question.answers if normalise(a) not in personas.FORGOTTEN)
    told = [turn.id for turn in turns[:after] if holds(turn.text, answers)]
    return Question(
        id=f"{life.id}/{number}",
        text=question.question,
        kind=question.kind,
        after=after,
        at=None if at is None else at + timedelta(hours=1),
        answers=answers,
        answerable=bool(answers),
        evidence=tuple(told[-1:]),
    )


def _with_candidates(stream: Stream, streams: Sequence[Stream], rng: random.Random) -> Stream:
    """Candidates from a file of lives: answers that the same question has in other lives, then those of its kind."""
    others = [question for other in streams if other is not stream for question in other.questions]
    asked = []
    for question in stream.questions:
        pool = [o for o in others if o.answers and o.kind == question.kind]
        rng.shuffle(pool)
        pool.sort(key=lambda o: normalise(o.text) != normalise(question.text))
        found = {normalise(answer): answer for answer in question.answers[:1]}
        for other in pool:
            if found and len(found) < CANDIDATES and not holds(other.answers[0], question.answers):
                found.setdefault(normalise(other.answers[0]), other.answers[0])
        asked.append(replace(question, candidates=tuple(found.values()) if len(found) > 1 else ()))
    return replace(stream, questions=tuple(asked))


# --- what the generator's wordings tell --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Telling:
    """A value that a message told of a key."""

    place: int
    value: str


class _Wordings:
    """The held-out wordings of each key, so that a question's key and what was told of it can be found."""

    def __init__(self, generator: PersonaGenerator, rng: random.Random) -> None:
        self._generator = generator
        self._rng = rng
        self._keys: dict[str, str] = {}
        for key in sorted(generator.keys()):
            for _ in range(WORDINGS // 3):
                self._keys.setdefault(generator.question(key, rng), key)

    def key(self, question: str) -> str | None:
        """The key that a question asks about; None when its wording was not drawn."""
        return self._keys.get(question)

    def told(self, key: str, turns: Sequence[Turn]) -> list[_Telling]:
        """Every value that the user told of the key, in order."""
        first = {self._fact(key, None) for _ in range(WORDINGS)}
        updates = {self._fact(key, f"{MARK}old") for _ in range(WORDINGS)}
        patterns = [_pattern(statement) for statement in sorted(first | updates)]
        found = []
        for place, turn in enumerate(turns):
            if turn.role != "user":
                continue
            hits = [match for pattern in patterns for match in pattern.finditer(turn.text)]
            if hits:
                # Where one wording is part of another, the longer one is what was said.
                best = max(hits, key=lambda match: len(match.group()) - len(match.group("value")))
                found.append(_Telling(place=place, value=best.group("value")))
        return found

    def _fact(self, key: str, old: str | None) -> str:
        return self._generator.fact(key, self._rng, value=MARK, old=old).statement


def _pattern(statement: str) -> re.Pattern[str]:
    """Finds the statement with any value in it; a frame may have made its first letter small."""
    text = re.escape(statement)
    text = text.replace(re.escape(f"{MARK}old"), r"[^.!?]+?").replace(MARK, r"(?P<value>[^?!;]+?)", 1)
    text = re.sub(r"\b([Aa])n?\\ \(\?P<value>", r"\1n?\\ (?P<value>", text).replace(MARK, r"(?P=value)")
    first = text[0]
    if first.isalpha():
        text = f"[{first.upper()}{first.lower()}]{text[1:]}"
    return re.compile(rf"(?<!\w){text}(?=\s|$)")


def _generated(
    stream: Stream, generator: PersonaGenerator, wordings: _Wordings, rng: random.Random
) -> Stream:
    """The stream with candidates from the generator, older values of facts that changed, and as evidence the message
    that told the fact (another may hold the same words)."""
    asked = []
    for question in stream.questions:
        key = wordings.key(question.text)
        if key is None or not question.answers:
            asked.append(question)
            continue
        answer = question.answers[0]
        told = wordings.told(key, stream.turns[: question.after])
        right = [stream.turns[t.place].id for t in told if holds(t.value, [answer])]
        older = Counter(
            t.value for t in told if not holds(t.value, [answer]) and not holds(answer, [t.value])
        )
        candidates = other_values(generator, key, answer, rng, CANDIDATES - 1)
        evidence = tuple(right[-1:]) or question.evidence
        asked.append(replace(question, evidence=evidence, rejected=tuple(older), candidates=candidates))
    return replace(stream, questions=tuple(asked))


TASK = Task(
    name="lives",
    version="lives/1",
    title="lives: facts told over sessions, asked at different ages",
    paper="",
    source="generated by nestmem.personas (held-out people, phrasings and values), or a file of lives",
    licence=Licence(name="the project's own", redistribution="yes"),
    load=load,
    scorers=(
        "contains",
        "exact",
        "token_f1",
        "abstains",
        "stale",
        "evidence_all",
        "answer_in_context",
        "turn_any@5",
        "turn_any@10",
        "session_any@5",
        "mrr",
        "probe_first",
        "probe_margin",
    ),
    without_reader="evidence_all",
    budget_tokens=200,
    options={"lives": 10, "sessions": 6, "facts": 8, "file": "", "seed": 0},
)
