"""PersonaMem v1, 32k (Jiang et al., COLM 2025, arXiv 2504.14225): which reply fits the user as they are by now?

What is asked: the user says or asks something, and the best of four replies, (a) to (d), is to be chosen from what
is known of the user: facts they told, preferences that changed and why, ideas that are new to them. What is scored:
the choice. Without a reader, `choice_support` says which option the recalled text supports most.

Version: the 32k contexts as converted by github.com/vectorize-io/agent-memory-benchmark (data/personamem/32k) at a
fixed commit; 589 questions upstream. Licence: MIT (card of bowen-upenn/PersonaMem-v1). A document is a session: it
begins with the description of the user's persona (told as a system turn), then "[USER] User: ..." and "[ASSISTANT]
Assistant: ..." by turns. Documents have no date; they are told in the order of their numbers.

Where a question is asked: the conversion keeps the sessions that began before it (gold_ids), but not the place
within the last of them (upstream's end_index_in_shared_context). Where the user's message stands word for word in
those sessions, the question is asked just before it: what follows there already answers it. All others are asked
after the last of their sessions, so they may be asked later than upstream, by less than a session. The data does
not say which turns hold the answer: no question has evidence.

The question's text is the data's, options included: they are part of what is asked. Two users with one persona_id share
sessions, so questions are clustered by persona.

An example in the form of the files, in words of our own:

    documents: {"id": "u_0", "user_id": "u", "timestamp": null, "content": "[SYSTEM] Current user persona: Name: Ada"
                "\\n\\n[USER] User: I gave up chess for rowing.\\n\\n[ASSISTANT] Assistant: Enjoy the river!"}
    queries:   {"id": "q", "user_id": "u", "gold_ids": ["u_0"], "gold_answers": ["(b) A rowing club!", "b"],
                "query": "User: Ada\\n\\nWhere to?\\n\\n(a) A chess club!\\n(b) A rowing club!\\n(c) Home!\\n(d) Out!",
                "meta": {"persona_id": "1", "question_type": "suggest_new_ideas", "topic": "leisure"}}

    Question(id="q", text="User: Ada ... (d) Out!", kind="suggest_new_ideas", after=3, answers=("A rowing club!", "b"),
             choices=("A chess club!", "A rowing club!", "Home!", "Out!"), cluster="persona-1")
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nestmem.agent.messages import parse_time
from nestmem.errors import InputError
from nestmem.evals.datasets.base import Dataset, Licence, Part, Question, Role, Stream, Task, Turn
from nestmem.evals.files import find, rows

QUESTIONS = 589
COMMIT = "de83fa7816ab6bbb8a0ed63916f49f65300fb74b"
LETTERS = "abcd"
ROLES: dict[str, Role] = {"SYSTEM": "system", "USER": "user", "ASSISTANT": "assistant"}
TURN = re.compile(r"^\[(SYSTEM|USER|ASSISTANT)\] ?", re.MULTILINE)
OPTIONS = re.compile(r"\n+\(a\) (.*?)\n\(b\) (.*?)\n\(c\) (.*?)\n\(d\) (.*)$", re.DOTALL)
SHORTEST = 60
"""Characters of a turn that a query may be taken to repeat; a shorter one may be alike by chance."""
AT_MESSAGE = "asked where their message stands in the conversation"
NO_DOCUMENTS = "questions whose sessions are not there"


def load(folder: Path | None, *, limit: int = 0) -> Dataset:
    """One stream for each user's context. limit: of contexts, in the file's order (0: all)."""
    if folder is None:
        raise InputError("personamem reads PersonaMem's files; give the folder of the data sets with --data")
    what = "PersonaMem's documents and queries"
    documents = find(folder, ("documents.jsonl", "documents.json"), what)
    queries = find(folder, ("queries.jsonl", "queries.json"), what)
    sessions: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows(documents, ("id", "content", "user_id")):
        sessions[row["user_id"]].append(row)
    asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows(queries, ("id", "query", "gold_answers", "gold_ids", "user_id", "meta")):
        asked[row["user_id"]].append(row)
    counts: Counter[str] = Counter()
    counts[NO_DOCUMENTS] = sum(len(found) for user, found in asked.items() if user not in sessions)
    streams = tuple(
        _stream(user, found, asked.get(user, []), f"{folder}, user {user[:12]}", counts)
        for user, found in list(sessions.items())[: limit or None]
    )
    total = sum(len(stream.questions) for stream in streams)
    counts["without evidence"] = total
    placed = counts.pop(AT_MESSAGE, 0)
    notes = [f"{total} of the {QUESTIONS} published questions"] if total != QUESTIONS else []
    notes.append("the data names no turn that holds an answer: no question has evidence")
    notes.append(
        f"{placed} questions are asked where their message stands in the conversation, the other {total - placed} "
        "after the last of their sessions"
    )
    twice = sum(count - 1 for s in streams for count in Counter(q.text for q in s.questions).values())
    alike = sum(q.choices.count(q.answers[0]) > 1 for s in streams for q in s.questions)
    if alike:
        notes.append(f"{alike} questions offer the right option under two letters: both count")
    if twice:
        notes.append(f"{twice} questions stand twice for one user (both are asked)")
    left_out = {name: count for name, count in counts.items() if count}
    source = f"{documents.name}, {queries.name}"
    return Dataset(streams=streams, source=source, left_out=left_out, notes=tuple(notes))


def _stream(
    user: str,
    documents: Sequence[Mapping[str, Any]],
    queries: Sequence[Mapping[str, Any]],
    where: str,
    counts: Counter[str],
) -> Stream:
    turns: list[Turn] = []
    ends: dict[str, int] = {}
    for number, document in enumerate(sorted(documents, key=_number)):
        turns += _turns(document, number, where, counts)
        ends[document["id"]] = len(turns)
    questions = []
    for query in queries:
        before = [ends[id_] for id_ in query["gold_ids"] if id_ in ends]
        if len(before) < len(query["gold_ids"]) or not before:
            counts[NO_DOCUMENTS] += 1
            continue
        after = _place(query["query"], turns[: max(before)])
        counts[AT_MESSAGE] += after < max(before)
        questions.append(_question(query, after, turns, where))
    return Stream(id=user, turns=tuple(turns), questions=tuple(questions))


def _number(document: Mapping[str, Any]) -> tuple[str, int]:
    """Documents of a user are numbered in time: USER_0, USER_1, ..."""
    name, _, number = str(document["id"]).rpartition("_")
    return (name, int(number)) if number.isdigit() else (str(document["id"]), -1)


def _turns(document: Mapping[str, Any], number: int, where: str, counts: Counter[str]) -> list[Turn]:
    """The turns within a document; the name of the role that a text repeats ("User: ") is taken off."""
    head, *parts = TURN.split(document["content"])
    if head.strip() or not parts:
        raise InputError(
            f"{where}, document {document['id']}: begins with {document['content'][:40]!r}; expected '[SYSTEM] ', "
            "'[USER] ' or '[ASSISTANT] ' before each turn"
        )
    at: datetime | None = parse_time(
        document.get("timestamp"), f"{where}, document {document['id']}, timestamp"
    )
    turns = []
    for index, (role, text) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        said = re.sub(r"^(?:User|Assistant):\s*", "", text.strip())
        if not said:
            counts["empty turns"] += 1
            continue
        turns.append(
            Turn(id=f"{number}/{index}", session=f"session-{number}", role=ROLES[role], text=said, at=at)
        )
    return turns


def _place(query: str, turns: Sequence[Turn]) -> int:
    """How many of `turns` were said before the message of `query`: up to where it stands among them word for word,
    all of them where it does not. Before the message the query has the line "User: NAME", mostly."""
    asked = " ".join(OPTIONS.sub("", query).split())
    for index in reversed(range(1, len(turns))):
        said = " ".join(turns[index].text.split())
        if turns[index].role == "user" and len(said) >= SHORTEST and asked.endswith(said):
            return index
    return len(turns)


def _question(query: Mapping[str, Any], after: int, turns: Sequence[Turn], where: str) -> Question:
    offered = OPTIONS.search(query["query"])
    gold = query["gold_answers"]
    letter = str(gold[-1]).strip("() ").lower() if isinstance(gold, list) and gold else ""
    if offered is None or letter not in LETTERS or not letter:
        raise InputError(
            f"{where}, query {query['id']}: expected four options (a) to (d) at its end, and the letter of the right "
            f"one last in gold_answers; gold_answers is {str(gold)[:60]!r}"
        )
    choices = tuple(text.strip() for text in offered.groups())
    meta = query["meta"]
    if not isinstance(meta, dict) or not {"persona_id", "question_type"} <= set(meta):
        raise InputError(f"{where}, query {query['id']}: meta has no persona_id or no question_type")
    return Question(
        id=str(query["id"]),
        text=query["query"],
        kind=meta["question_type"],
        after=after,
        at=turns[after - 1].at,
        answers=(choices[LETTERS.index(letter)], letter),
        choices=choices,
        cluster=f"persona-{meta['persona_id']}",
    )


BASE = f"https://raw.githubusercontent.com/vectorize-io/agent-memory-benchmark/{COMMIT}/data/personamem/32k"

TASK = Task(
    name="personamem",
    version="personamem/1",
    title="PersonaMem v1 32k, the reply that fits the user by now",
    paper="arXiv 2504.14225",
    source=f"github.com/vectorize-io/agent-memory-benchmark, data/personamem/32k at {COMMIT[:12]}",
    licence=Licence(name="MIT (upstream's card; the converting repository names none)", redistribution="yes"),
    load=load,
    scorers=("choice", "judged", "choice_support"),
    without_reader="choice_support",
    folder="personamem_32k",
    options={"limit": 0},
    fetch=tuple(Part(file=name, url=f"{BASE}/{name}") for name in ("documents.json.gz", "queries.json.gz")),
    known_errors=(
        "The conversion keeps which sessions began before a question, not the turn after which upstream asks it.",
        "The right option is the longest of the four in about half of the questions (154 of 314 in a half of the "
        "data): a choice by length alone is right twice as often as chance.",
        "Without a reader choice_support is at chance (over 2,000 recent tokens .31 with the user's own history, .34 "
        "with another persona's; four options, and length alone is right in 154 of 314): the task needs a reader.",
        "Some questions offer the right option under two letters: counted in the notes of each run.",
        "Some assistant turns end in ' ])', left over from the making of the data.",
    ),
)
