"""The only place where a chat for a model is built, and where a writer's output is read.

Texts are in `prompts/NAME.vN.txt`; a change of wording is a new N, because the embedded model is
trained on these very words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

from nestmem.agent import speech
from nestmem.agent.types import Chat
from nestmem.errors import LLMError

UNKNOWN = "I don't know."
MAX_PAIRS = 8
MAX_PAIR_CHARS = 400


@cache
def load(name: str) -> str:
    """The prompt file `name` ("writer.v1"), without its last newline."""
    return (files("nestmem.agent") / "prompts" / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")


def memory_line(text: str, date: datetime | str | None, speaker: str | None) -> str:
    """One line of recalled memory: "- (2026-03-02) user: My dog is called Biscuit." """
    day = date.date().isoformat() if isinstance(date, datetime) else (date or "")[:10]
    dated = f"({day}) " if day else ""
    spoken = f"{speaker}: " if speaker else ""
    return f"- {dated}{spoken}{' '.join(text.split())}"


def question_chat(question: str, lines: Iterable[str] = ()) -> Chat:
    """The chat in which a learner answers: the question alone, or under the recalled lines."""
    recalled = list(lines)
    user = {"role": "user", "content": question}
    if not recalled:
        return [user]
    return [{"role": "system", "content": "\n".join([load("memory_header.v1"), *recalled])}, user]


def llm_answer_chat(question: str, lines: Iterable[str]) -> Chat:
    """The same for a general LLM, which has to be told what the lines are."""
    memory = "\n".join([load("memory_header.v1"), *lines])
    system = f"{load('llm_answer.v1')}\n\n{memory}"
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


def writer_chat(statement: str) -> Chat:
    """The chat in which the embedded model writes "Q: ...? A: ...\\n" about a statement."""
    return [{"role": "system", "content": load("writer.v1")}, {"role": "user", "content": statement}]


def llm_writer_chat(statement: str) -> Chat:
    """The same for a general LLM, which answers in JSON."""
    return [{"role": "system", "content": load("llm_writer.v1")}, {"role": "user", "content": statement}]


def parse_pairs(written: str) -> list[tuple[str, str]]:
    """Reads the embedded writer's "Q: ...? A: ..." pairs; what is not a pair is left out."""
    found = re.findall(r"Q:\s*(.+?\?)\s*A:\s*(.+?)\s*(?=\n|Q:|$)", written)
    return [pair for pair in found if _sane(*pair)][:MAX_PAIRS]


def parse_llm_pairs(written: str) -> list[tuple[str, str]]:
    """Reads a general LLM's JSON. Raises LLMError when it is not the form that was asked for."""
    fenced = re.search(r"\{.*\}", written, re.DOTALL)
    try:
        pairs = json.loads(fenced.group() if fenced else written)["pairs"]
        found = [(pair["question"], pair["answer"]) for pair in pairs]
    except (ValueError, KeyError, TypeError) as error:
        raise LLMError(f"the writer answered no pairs in JSON: {written[:120]!r}") from error
    return [(q.strip(), a.strip()) for q, a in found if _sane(q, a)][:MAX_PAIRS]


_DENIED = re.compile(r"\b(?:not|never|neither|nor|no longer|cannot)\b|n['’]t\b", re.IGNORECASE)


def affirmed(pairs: list[tuple[str, str]], statement: str) -> list[tuple[str, str]]:
    """The pairs whose answer the statement does not deny: a small writer reads past a "not".

    >>> affirmed([("Which colour do I like best?", "blue")], "My favourite colour is not blue.")
    []
    >>> affirmed([("What is my dog called?", "Biscuit")], "My dog is not called Rook but Biscuit.")
    [('What is my dog called?', 'Biscuit')]
    """

    def denied(answer: str) -> bool:
        before = statement[: max(0, statement.casefold().find(answer.casefold()))]
        clause = re.split(r"[.,;:!?]|\bbut\b", before)[-1]
        return bool(_DENIED.search(clause))

    return [(question, answer) for question, answer in pairs if not denied(answer)]


def grounded(pairs: Iterable[tuple[str, str]], statement: str) -> list[tuple[str, str]]:
    """The pairs whose answer stands in the statement word for word (case and spacing aside), each answer once.

    An answer of nothing but function words ("I", "it", "the") is no value.
    """
    told = _flat(statement)
    found: dict[str, tuple[str, str]] = {}
    for question, answer in pairs:
        value = _flat(answer).strip(" .!")
        if value and speech.content(value) and f" {value} " in f" {told} ":
            found.setdefault(value, (question, answer))
    return list(found.values())


def _flat(text: str) -> str:
    return " ".join(re.findall(r"[\w'@#/+:-]+(?:\.\w+)*", text.casefold().replace("’", "'")))


def _sane(question: Any, answer: Any) -> bool:
    texts = isinstance(question, str) and isinstance(answer, str)
    return texts and 0 < len(question.strip()) <= MAX_PAIR_CHARS and 0 < len(answer.strip()) <= MAX_PAIR_CHARS
