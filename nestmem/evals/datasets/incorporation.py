"""Knowledge incorporation on SQuAD: passages are told, then their questions are asked with nothing in the context.

In the manner of SEAL (arXiv 2506.10943, section 4.1): what was told must come back from the memory, be it text or
weights. All passages of a stream are told before the first question; a question is asked as it stands, without its
passage or title. Systems that keep text bring back passages (`evidence_all`), weights are probed on the answer against
answers to other passages' questions (`probe_first`).

Data: SEAL's `squad_val.json` (SQuAD 1.1 dev, 2,067 passages on 48 articles; Rajpurkar et al., arXiv 1606.05250),
CC BY-SA 4.0, at a fixed commit. Kinds are the question's first word of asking: what, who, when, where, which, how,
why, other.

One record, in the file's exact form but in words of our own:

    {"title": "Farland", "context": "Farland is a dry country. Its capital, Port Neu, was founded in 1712.",
     "questions": [{"question": "When was Port Neu founded?", "answer": "1712"}]}
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Dataset, Licence, Part, Question, Stream, Task, Turn
from nestmem.evals.datasets.telling import DRAWS, holds, records
from nestmem.evals.personas import normalise

FILE = "squad_val.json"
PUBLISHED = 2067
KINDS = ("what", "who", "when", "where", "which", "how", "why")
CANDIDATES = 4
URL = (
    "https://raw.githubusercontent.com/Continual-Intelligence/SEAL/4cb1e7d4350c62403daee8c6723e6184886cb304/"
    f"knowledge-incorporation/data/{FILE}"
)


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A text with its title and its questions with their answers."""

    title: str
    context: str
    questions: tuple[tuple[str, str], ...]


def load(
    folder: Path | None, *, passages: int = 50, questions: int = 4, streams: int = 1, seed: int = 0
) -> Dataset:
    """`streams` streams of `passages` passages, none twice, each asked at most `questions` of its questions (0: all)."""
    if folder is None:
        raise InputError(
            f"squad_incorporation reads {FILE}; give its folder, or get it with: nestmem eval fetch squad_incorporation"
        )
    if passages < 1 or questions < 0 or streams < 1:
        raise InputError(
            f"squad_incorporation: passages={passages}, questions={questions}, streams={streams}; expected 1 or more "
            "(questions 0: all)"
        )
    left_out: Counter[str] = Counter()
    found = read(folder, left_out)
    if passages * streams > len(found):
        raise InputError(
            f"{folder / FILE}: {streams} streams of {passages} passages need {passages * streams}, the file has "
            f"{len(found)}; ask for fewer"
        )
    rng = random.Random(f"squad_incorporation/{seed}")
    chosen = rng.sample(found, passages * streams)
    groups = [chosen[start : start + passages] for start in range(0, len(chosen), passages)]
    made = tuple(_stream(f"squad-{number}", group, questions, rng) for number, group in enumerate(groups))
    left_out["without evidence"] = sum(not q.evidence for stream in made for q in stream.questions)
    notes = [] if len(found) == PUBLISHED else [f"{len(found)} of the {PUBLISHED} published passages"]
    return Dataset(
        streams=made,
        source=FILE,
        left_out={what: count for what, count in sorted(left_out.items()) if count},
        notes=tuple(notes),
    )


def read(folder: Path, left_out: Counter[str]) -> list[Passage]:
    """The passages of `squad_val.json`, plain or gzipped. InputError naming the passage and what is wrong in it."""
    rows = records(folder, FILE, ("title", "context"))
    found: list[Passage] = []
    seen: set[str] = set()
    for number, record in enumerate(rows, 1):
        passage = _passage(record, f"{folder / FILE}, record {number}")
        if passage.context in seen:
            left_out["passages that are there twice"] += 1
        else:
            seen.add(passage.context)
            found.append(passage)
    return found


def _passage(record: dict[str, Any], where: str) -> Passage:
    items = record.get("questions")
    if not isinstance(items, list) or not record["context"].strip():
        raise InputError(f"{where}: expected a context that is not empty, and a list of questions")
    pairs = []
    for item in items:
        pair = (item.get("question"), item.get("answer")) if isinstance(item, dict) else (None, None)
        if not all(isinstance(text, str) and normalise(text) for text in pair):
            raise InputError(f"{where}: a question reads {item!r}; expected question and answer, not empty")
        pairs.append(pair)
    return Passage(title=record["title"], context=record["context"], questions=tuple(pairs))


def _stream(name: str, passages: Sequence[Passage], most: int, rng: random.Random) -> Stream:
    turns = tuple(
        Turn(
            id=f"p{number:04d}",
            session=f"s{number:04d}",
            role="user",
            text=f"{passage.title.replace('_', ' ')}\n{passage.context}",
        )
        for number, passage in enumerate(passages)
    )
    answers: dict[str, list[str]] = {}
    for passage in passages:
        for text, answer in passage.questions:
            answers.setdefault(_kind(text), []).append(answer)
    everything = [answer for kind in sorted(answers) for answer in answers[kind]]
    questions = []
    for number, (passage, turn) in enumerate(zip(passages, turns, strict=True)):
        count = min(most or len(passage.questions), len(passage.questions))
        # An answer that is cut out of a word or a number ("24" of "24-10") can still be told from the passage.
        for asked in sorted(rng.sample(range(len(passage.questions)), count)):
            text, answer = passage.questions[asked]
            questions.append(
                Question(
                    id=f"{name}/{number}/{asked}",
                    text=text.strip(),
                    kind=_kind(text),
                    after=len(turns),
                    answers=(answer,),
                    evidence=(turn.id,) if answer in passage.context else (),
                    candidates=_candidates(answer, passage, (answers[_kind(text)], everything), rng),
                    cluster=passage.title,
                )
            )
    return Stream(id=name, turns=turns, questions=tuple(questions))


def _kind(question: str) -> str:
    """The first word of asking in a question; "whom" and "whose" are "who".

    >>> _kind("In which year was it built?"), _kind("Whose is it?"), _kind("Name the river.")
    ('which', 'who', 'other')
    """
    alias = {"whom": "who", "whose": "who"}
    asked = [alias.get(word, word) for word in normalise(question).split()]
    return next((word for word in asked if word in KINDS), "other")


def _candidates(
    answer: str, passage: Passage, pools: Sequence[Sequence[str]], rng: random.Random
) -> tuple[str, ...]:
    """The answer, and others that do not stand in the passage: from the first pool, then from the next."""
    found = {normalise(answer): answer}
    for pool in pools:
        for other in rng.sample(pool, min(len(pool), DRAWS)):
            if len(found) == CANDIDATES:
                break
            if not holds(passage.context, [other]):
                found.setdefault(normalise(other), other)
    return tuple(found.values())


TASK = Task(
    name="squad_incorporation",
    version="squad_incorporation/1",
    title="knowledge incorporation (SQuAD, in the manner of SEAL)",
    paper="arXiv 2506.10943",
    source="github.com/Continual-Intelligence/SEAL, knowledge-incorporation/data (SQuAD 1.1)",
    licence=Licence(name="CC BY-SA 4.0", redistribution="share-alike"),
    load=load,
    scorers=(
        "contains",
        "token_f1",
        "exact",
        "evidence_all",
        "answer_in_context",
        "turn_any@5",
        "turn_any@10",
        "mrr",
        "probe_first",
        "probe_margin",
    ),
    without_reader="evidence_all",
    budget_tokens=1000,
    folder="squad_val",
    options={"passages": 50, "questions": 4, "streams": 1, "seed": 0},
    fetch=(Part(file=FILE, url=URL),),
    known_errors=(
        "SQuAD's spans are not always whole words, and one answer of several is given: exact scores are a lower bound",
    ),
)
