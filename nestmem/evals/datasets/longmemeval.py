"""LongMemEval (Wu et al., ICLR 2025, arXiv 2410.10813): questions about a user's many sessions with an assistant.

What is asked: one question about what was said in one or several of some 50 sessions (about 115,000 tokens): facts
of the user's or of the assistant's side, preferences, several sessions together, dates, facts that changed, and
questions that cannot be answered. What is scored: the answer with a reader; without one, which sessions and turns
are found.

Three tasks. `longmemeval_s`: one stream for each question, the official protocol. `longmemeval_s_pooled`: one stream
with every session of all the questions, all questions at its end; far harder to search. The sessions are of many
invented users, so their facts contradict each other: it is meant for retrieval, not for answers. A session that
stands in several haystacks bears several dates there; the earliest counts. `longmemeval_oracle`: only the sessions
that hold the evidence.

Version: the S file as published in 2024 or as cleaned in 2025-09 (longmemeval_s_cleaned.json), which differ in
their filler sessions: notes say which file was read. Licence: MIT. Read are upstream's own files, and the form
where the sessions of S are kept once: questions.jsonl (without haystack_sessions) and sessions-*.jsonl.

Choices, where the data leaves them open:
- Sessions are told in the order of their dates (upstream: "sorted by timestamp"; mirrors of the files are not always).
- Evidence: the turns with has_answer, in the question's own answer sessions. An answer session without such a turn
  is not counted as one that must be found; upstream's retrieval scoring does the same. It is counted in the notes.
- `_abs` questions are not answerable and have no evidence; upstream leaves them out of retrieval scores.
- sides="user" tells only the user's turns, which is what upstream's retrieval indexes. Evidence on the assistant's
  side is then not there, and a question that has no other counts as one without evidence.
- The golden answer of a preference question describes what the user would like: it is a rubric, not an answer.
- Answers such as "7 days. 8 days (including the last day) is also acceptable." give two accepted answers.
- Questions with an answer session of the same text (the data repeats some under other ids), and a question and its
  `_abs` twin, are one cluster. A pool tells a text that several sessions have once, under the id of the first.

An example in the form of the file, in words of our own:

    {"question_id": "q1", "question_type": "single-session-user", "question": "What is my ferret called?",
     "answer": "Nimbus", "question_date": "2023/05/30 (Tue) 10:18", "answer_session_ids": ["answer_1"],
     "haystack_session_ids": ["answer_1"], "haystack_dates": ["2023/05/20 (Sat) 07:47"],
     "haystack_sessions": [[{"role": "user", "content": "My ferret Nimbus is ill.", "has_answer": true},
                            {"role": "assistant", "content": "Oh no!"}]]}

    Question(id="q1", text="What is my ferret called?", kind="single-session-user", after=2,
             at=datetime(2023, 5, 30, 10, 18, tzinfo=UTC), answers=("Nimbus",), evidence=("answer_1/0",), cluster="q1")
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Dataset, Licence, Part, Question, Stream, Task, Turn
from nestmem.evals.datasets.longmemeval_files import ORACLE_FILES, S_FILES, Item, Session, Text, read

QUESTIONS = 500
ABSTENTION = "abstention"
PREFERENCE = "single-session-preference"
# --- the three tasks -------------------------------------------------------------------------------


def load(folder: Path | None, *, limit: int = 0, sides: str = "both", oracle: bool = False) -> Dataset:
    """One stream for each question. limit: of questions, in the file's order (0: all). sides: "both", or "user"
    for the user's turns alone. oracle: the file with the evidence sessions only."""
    items, source = read(folder, limit, sides, oracle)
    clusters = _clusters(items)
    counts: Counter[str] = Counter()
    streams = []
    for item in items:
        turns = _turns(item.sessions, sides, counts)
        ids = {session.name: session.name for session in item.sessions}
        evidence = _evidence(item, ids, {turn.id for turn in turns})
        question = _question(item, evidence, len(turns), clusters[item.id], counts)
        streams.append(Stream(id=item.id, turns=tuple(turns), questions=(question,)))
    return Dataset(
        streams=tuple(streams), source=source, left_out=_left_out(counts), notes=_notes(items, counts)
    )


def load_pooled(folder: Path | None, *, limit: int = 0, sides: str = "both") -> Dataset:
    """One stream with the sessions of all questions, each text once, at its earliest date; the questions are asked
    at its end, in the order of their dates. limit: of questions, whose sessions make the pool (0: all)."""
    items, source = read(folder, limit, sides, oracle=False)
    clusters = _clusters(items)
    counts: Counter[str] = Counter()
    pool: dict[Text, Session] = {}
    texts: dict[str, Text] = {}
    for item in items:
        for session in item.sessions:
            text = session.text
            if texts.setdefault(session.name, text) != text:
                raise InputError(
                    f"{source}: the session {session.name!r} of {item.id} has another text than in an earlier "
                    "question; they cannot be pooled"
                )
            first = pool.setdefault(text, replace(session, id=session.name))
            if session.at < first.at:
                pool[text] = replace(first, at=session.at)
    turns = _turns(sorted(pool.values(), key=lambda session: session.at), sides, counts)
    ids = {name: pool[text].id for name, text in texts.items()}
    told = {turn.id for turn in turns}
    questions = [
        _question(item, _evidence(item, ids, told), len(turns), clusters[item.id], counts)
        for item in sorted(items, key=lambda item: item.at)
    ]
    stream = Stream(id="pool", turns=tuple(turns), questions=tuple(questions))
    notes = (
        f"{len(pool):,} sessions in one stream, each at its earliest date; {len(texts) - len(pool)} others have the "
        "text of one of them and are not told again",
        *_notes(items, counts),
    )
    return Dataset(streams=(stream,), source=source, left_out=_left_out(counts), notes=notes)


# --- turns and questions ---------------------------------------------------------------------------


def _turns(sessions: Iterable[Session], sides: str, counts: Counter[str]) -> list[Turn]:
    """Turns with the id SESSION/INDEX, the index being the place in the data's session. Empty ones are left out."""
    turns: list[Turn] = []
    for session in sessions:
        for index, turn in enumerate(session.turns):
            if not turn["content"].strip():
                counts["empty turns"] += 1
                continue
            if sides == "user" and turn["role"] != "user":
                counts["turns of the assistant (sides=user)"] += 1
                counts["evidence turns of the assistant (sides=user)"] += bool(turn.get("has_answer"))
                continue
            id_ = f"{session.id}/{index}"
            turns.append(
                Turn(id=id_, session=session.id, role=turn["role"], text=turn["content"], at=session.at)
            )
    return turns


def _evidence(item: Item, ids: Mapping[str, str], told: Set[str]) -> tuple[str, ...]:
    """Ids of the labelled turns of the question's own answer sessions that are told. ids: a session's id in the
    data -> its id in the stream."""
    if item.unanswerable:
        return ()
    sessions = {session.name: session for session in item.sessions}
    found = [
        f"{ids[name]}/{index}"
        for name in item.record["answer_session_ids"]
        if name in sessions
        for index, turn in enumerate(sessions[name].turns)
        if turn.get("has_answer")
    ]
    return tuple(id_ for id_ in dict.fromkeys(found) if id_ in told)


def _question(
    item: Item, evidence: tuple[str, ...], after: int, cluster: str, counts: Counter[str]
) -> Question:
    record = item.record
    answers: tuple[str, ...] = ()
    rubric: tuple[str, ...] = ()
    if not item.unanswerable:
        counts["without evidence"] += not evidence
        answer = str(record["answer"]).strip()
        if record["question_type"] == PREFERENCE:
            rubric = (answer,)
        else:
            answers = accepted(answer)
    return Question(
        id=item.id,
        text=record["question"],
        kind=ABSTENTION if item.unanswerable else record["question_type"],
        after=after,
        at=item.at,
        answers=answers,
        answerable=not item.unanswerable,
        evidence=evidence,
        rubric=rubric,
        cluster=cluster,
    )


def accepted(answer: str) -> tuple[str, ...]:
    """The accepted answers that a golden answer names.

    >>> accepted("7 days. 8 days (including the last day) is also acceptable.")
    ('7 days', '8 days')
    >>> accepted("over a year")
    ('over a year',)
    """
    other = r"(?P<first>.+?)\. (?P<second>[^.(]+?) \(including the (?:last|first) day\) is also acceptable\.?"
    match = re.fullmatch(other, answer)
    return (match["first"], match["second"]) if match else (answer,)


def _clusters(items: Sequence[Item]) -> dict[str, str]:
    """Question id -> its cluster: the smallest id of those it is joined with by an answer session of the same
    text, or by being the `_abs` twin."""
    parent = {item.id: item.id for item in items}

    def root(id_: str) -> str:
        while parent[id_] != id_:
            id_ = parent[id_]
        return id_

    first: dict[str | Text, str] = {}
    for item in items:
        gold = set(item.record["answer_session_ids"])
        shared = [session.text for session in item.sessions if session.name in gold]
        for key in (*shared, item.id.removesuffix("_abs")):
            one, other = root(item.id), root(first.setdefault(key, item.id))
            parent[max(one, other)] = min(one, other)
    return {item.id: root(item.id) for item in items}


# --- what a reader of the results should know ------------------------------------------------------


def _left_out(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _notes(items: Sequence[Item], counts: Counter[str]) -> tuple[str, ...]:
    notes = []
    if len(items) != QUESTIONS:
        notes.append(f"{len(items)} of the {QUESTIONS} published questions")
    late = sum(session.at > item.at for item in items for session in item.sessions)
    twice = sum(session.id != session.name for item in items for session in item.sessions)
    unlabelled, questions = _unlabelled(items)
    said = {
        "answer sessions without a turn with has_answer (not counted as evidence)": unlabelled,
        "questions that have such an answer session": questions,
        "uses of sessions dated after their question (told before it all the same, as upstream does)": late,
        "sessions that stand twice in a haystack (told twice; in a pool once)": twice,
        "questions of the kind abstention (no evidence)": sum(item.unanswerable for item in items),
    }
    return tuple(notes + [f"{text}: {count}" for text, count in said.items() if count])


def _unlabelled(items: Sequence[Item]) -> tuple[int, int]:
    """(answer sessions without a labelled turn, questions that have one), those of abstention aside."""
    sessions = questions = 0
    for item in items:
        if item.unanswerable:
            continue
        has = {s.name for s in item.sessions if any(turn.get("has_answer") for turn in s.turns)}
        bare = set(item.record["answer_session_ids"]) - has
        sessions += len(bare)
        questions += bool(bare)
    return sessions, questions


ANSWERS = ("contains", "token_f1", "exact", "abstains", "rubric", "judged")
SESSIONS = ("session_all@5", "session_any@5", "session_all@10", "session_any@10")
TURNS = ("turn_all@5", "turn_any@5", "turn_all@10", "turn_any@10", "mrr")
BUDGET = ("evidence_all", "evidence_share", "answer_in_context")
KNOWN_ERRORS = (
    "The S file of 2024 holds filler sessions that disturb the answers; upstream cleaned them in 2025-09 "
    "(longmemeval_s_cleaned.json). Figures on the two are not on one scale.",
    "Some answer sessions have no turn with has_answer: counted in the notes of each run.",
    "Some sessions are dated after the question they stand before: counted in the notes of each run.",
)
COMMIT = "98d7416c24c778c2fee6e6f3006e7a073259d48f"
UPSTREAM = f"https://huggingface.co/datasets/xiaowu0162/longmemeval-cleaned/resolve/{COMMIT}"
S_PART = Part(
    file=S_FILES[0],
    url=f"{UPSTREAM}/{S_FILES[0]}",
    bytes=277_383_467,
    sha256="d6f21ea9d60a0d56f34a05b609c79c88a451d2ae03597821ea3d5a9678c3a442",
)
ORACLE_PART = Part(
    file=ORACLE_FILES[0],
    url=f"{UPSTREAM}/{ORACLE_FILES[0]}",
    bytes=15_388_478,
    sha256="821a2034d219ab45846873dd14c14f12cfe7776e73527a483f9dac095d38620c",
)


def _task(
    name: str, title: str, scorers: tuple[str, ...], without_reader: str, part: Part, **more: Any
) -> Task:
    return Task(
        name=name,
        version=f"{name}/1",
        title=title,
        paper="arXiv 2410.10813",
        source=f"huggingface.co/datasets/xiaowu0162/longmemeval-cleaned at {COMMIT[:12]}",
        licence=Licence(name="MIT", redistribution="yes"),
        scorers=scorers,
        without_reader=without_reader,
        options={"limit": 0, "sides": "both"},
        fetch=(part,),
        known_errors=KNOWN_ERRORS,
        **more,
    )


TASKS = (
    _task(
        "longmemeval_s",
        "LongMemEval-S, one stream of some 50 sessions for each question",
        ANSWERS + SESSIONS + TURNS + BUDGET,
        "session_all@5",
        S_PART,
        load=load,
        folder="longmemeval_s",
    ),
    _task(
        "longmemeval_s_pooled",
        "LongMemEval-S, all sessions in one stream",
        SESSIONS + TURNS + BUDGET + ANSWERS,
        "session_all@5",
        S_PART,
        load=load_pooled,
        folder="longmemeval_s",
    ),
    _task(
        "longmemeval_oracle",
        "LongMemEval, the evidence sessions alone",
        ANSWERS + BUDGET + TURNS,
        "evidence_all",
        ORACLE_PART,
        load=partial(load, oracle=True),
        folder="longmemeval_oracle",
    ),
)
