"""Accurate retrieval: passages are told once, and many questions on single ones are asked at the end.

In the manner of the question answering of RULER and MemoryAgentBench (Hu et al., arXiv 2507.05257), which hide
passages of SQuAD among others: here every message is a passage of SQuAD 1.1 (Rajpurkar et al., arXiv 1606.05250),
the passages of one article make a session, and the questions are those that people wrote for the passages. Evidence
is the passage. The kind says in which third of the stream it was told; questions on one article are one cluster.
Data: github.com/Continual-Intelligence/SEAL, knowledge-incorporation/data/squad_val.json (a list of {title, context,
questions [{question, answer}]}, 2,067 passages), CC BY-SA 4.0.

`memoryagentbench` reads the published benchmark itself. It is on Hugging Face (ai-hyz/MemoryAgentBench, MIT) as
Parquet, so it is not fetched; export it once to JSON lines, a file for each part, into the folder `memoryagentbench`:

    for part, rows in datasets.load_dataset("ai-hyz/MemoryAgentBench").items():
        rows.to_json(f"memoryagentbench/{part}.jsonl")

Each row {context, questions, answers, metadata {source}} is one stream: its context in chunks of `chunk_words` words
as messages, then its questions (answers: accepted replies of each). The data names no evidence.

An example of a row of SQuAD in that form, in words of our own, and what becomes of it:

>>> rows = [{"title": "Lake_Ord", "context": "Lake Ord is 31 metres deep.",
...          "questions": [{"question": "How deep is Lake Ord?", "answer": "31 metres"}]}]
>>> stream = passage_stream("squad/0", rows, questions=5, rng=random.Random(0))
>>> print(stream.turns[0].text)
Lake Ord
Lake Ord is 31 metres deep.
>>> question = stream.questions[0]
>>> question.text, question.answers, question.evidence, question.kind
('How deep is Lake Ord?', ('31 metres',), ('p0',), '1 first third')
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Dataset, Licence, Part, Question, Stream, Task, Turn
from nestmem.evals.datasets.books import passages as cut
from nestmem.evals.files import ENDINGS, find, rows
from nestmem.evals.files import text as read_text
from nestmem.evals.personas import normalise

THIRDS = ("1 first third", "2 middle third", "3 last third")
PUBLISHED_PASSAGES = 2_067
SEAL_COMMIT = "4cb1e7d4350c62403daee8c6723e6184886cb304"
CHUNKS_IN_A_SESSION = 10
EXPECTED = "a list of {title, context, questions [{question, answer}]} (SEAL's form of SQuAD 1.1 dev)"


def load_squad(
    folder: Path | None, *, passages: int = 200, questions: int = 100, streams: int = 2, seed: int = 0
) -> Dataset:
    """`streams` streams of `passages` passages each (0: all there are), of different articles, with `questions`."""
    if folder is None:
        raise InputError("accurate_retrieval needs the folder of its data; give --data")
    path = find(folder, ["squad_val.json"], EXPECTED)
    read, left = _squad(path)
    titles = sorted({row["title"] for row in read})
    rng = random.Random(f"accurate_retrieval/{seed}")
    rng.shuffle(titles)
    by_title = {title: [row for row in read if row["title"] == title] for title in titles}
    made = []
    for number in range(streams):
        own = [row for title in titles[number::streams] for row in by_title[title]][: passages or None]
        if not own:
            raise InputError(
                f"{path} has {len(titles)} articles, too few for {streams} streams; lower streams"
            )
        made.append(passage_stream(f"squad/{number}", own, questions=questions, rng=rng))
    notes = [f"{len(read):,} of the {PUBLISHED_PASSAGES:,} passages of the source"]
    short = [stream.id for stream in made if passages and len(stream.turns) < passages]
    if short:
        notes.append(f"fewer than {passages} passages in {', '.join(short)}: the data has no more")
    return Dataset(
        streams=tuple(made),
        source=path.name,
        left_out=left,
        notes=tuple(notes) if len(read) != PUBLISHED_PASSAGES or short else (),
    )


def _squad(path: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The passages, each once, with the questions whose answer stands in the passage; and what was left out."""
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error}); expected {EXPECTED}; fetch it again") from error
    if not isinstance(data, list) or not data:
        raise InputError(f"{path}: expected {EXPECTED}, found {type(data).__name__}")
    left: Counter[str] = Counter()
    read, seen = [], set()
    for number, row in enumerate(data, 1):
        if not _is_passage(row):
            raise InputError(f"{path}, passage {number}: expected {EXPECTED[10:]}; found {str(row)[:80]!r}")
        if row["context"] in seen:
            left["passages that occur twice"] += 1
            continue
        seen.add(row["context"])
        context = f" {normalise(row['context'])} "
        kept = [q for q in row["questions"] if f" {normalise(q['answer'])} " in context]
        left["questions whose answer is not in the passage as whole words"] += len(row["questions"]) - len(
            kept
        )
        read.append({**row, "questions": kept})
    return read, {what: count for what, count in left.items() if count}


def _is_passage(row: object) -> bool:
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(name), str) and row[name].strip() for name in ("title", "context"))
        and isinstance(row.get("questions"), list)
        and all(
            isinstance(q, dict) and isinstance(q.get("question"), str) and isinstance(q.get("answer"), str)
            for q in row["questions"]
        )
    )


def passage_stream(
    name: str, chosen: Sequence[dict[str, Any]], *, questions: int, rng: random.Random
) -> Stream:
    """The passages as messages, a session for each article, then questions drawn from all of them.

    A question that was written twice, for two passages, is not asked: it has no single answer.
    """
    turns = tuple(
        Turn(id=f"p{n}", session=row["title"], role="user", text=f"{_title(row)}\n{row['context']}")
        for n, row in enumerate(chosen)
    )
    often = Counter(normalise(q["question"]) for row in chosen for q in row["questions"])
    pool = [
        (n, q)
        for n, row in enumerate(chosen)
        for q in row["questions"]
        if often[normalise(q["question"])] == 1
    ]
    asked = tuple(
        Question(
            id=f"{name}/{number}",
            text=q["question"].strip(),
            kind=THIRDS[place * 3 // len(turns)],
            after=len(turns),
            answers=(q["answer"],),
            evidence=(turns[place].id,),
            cluster=chosen[place]["title"],
        )
        for number, (place, q) in enumerate(rng.sample(pool, min(questions, len(pool))))
    )
    return Stream(id=name, turns=turns, questions=asked)


def _title(row: dict[str, Any]) -> str:
    return row["title"].replace("_", " ")


# --- the published benchmark -----------------------------------------------------------------------


def load_published(folder: Path | None, *, part: str = "", chunk_words: int = 350, limit: int = 0) -> Dataset:
    """The rows of MemoryAgentBench's exported files. part: one file's name without its ending ("": all of them).
    limit: streams (0: all)."""
    if folder is None:
        raise InputError("memoryagentbench needs the folder of its data; give --data")
    files = sorted(
        path
        for ending in ENDINGS
        for path in folder.glob(f"*.jsonl{ending}")
        if not part or path.name == f"{part}.jsonl{ending}"
    )
    if not files:
        raise InputError(
            f"{folder} has no {part or '*'}.jsonl; expected an export of ai-hyz/MemoryAgentBench to JSON lines, "
            'a file for each part: rows.to_json("PART.jsonl")'
        )
    made: list[Stream] = []
    for path in files:
        fields = ("context", "questions", "answers")
        for number, row in enumerate(rows(path, fields), 1):
            if not limit or len(made) < limit:
                name = path.name.split(".")[0]
                made.append(_published(row, f"{name}/{number}", f"{path}, row {number}", chunk_words))
    asked = sum(len(stream.questions) for stream in made)
    return Dataset(streams=tuple(made), source=folder.name, left_out={"without evidence": asked})


def _published(row: dict[str, Any], name: str, where: str, chunk_words: int) -> Stream:
    questions, answers = row["questions"], row["answers"]
    if not (isinstance(row["context"], str) and isinstance(questions, list) and isinstance(answers, list)):
        raise InputError(f"{where}: expected a text as context and lists as questions and answers")
    if len(questions) != len(answers) or not all(isinstance(one, str) for one in questions):
        raise InputError(
            f"{where}: {len(questions)} questions (texts) and {len(answers)} answers; expected as many of each"
        )
    metadata = row.get("metadata")
    source = metadata.get("source") if isinstance(metadata, dict) else None
    lines = "\n".join(" ".join(line.split()) for line in row["context"].splitlines() if line.strip())
    turns = tuple(
        Turn(id=f"c{n}", session=f"s{n // CHUNKS_IN_A_SESSION}", role="user", text=chunk)
        for n, chunk in enumerate(cut(lines, chunk_words))
    )
    asked = tuple(
        Question(
            id=f"{name}/{number}",
            text=question,
            kind=str(source or name.split("/")[0]),
            after=len(turns),
            answers=_accepted(accepted, f"{where}, question {number}"),
        )
        for number, (question, accepted) in enumerate(zip(questions, answers, strict=True), 1)
    )
    return Stream(id=name, turns=turns, questions=asked)


def _accepted(value: object, where: str) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not found or not all(isinstance(one, str) and one.strip() for one in found):
        raise InputError(f"{where}: the answers are {str(value)[:60]!r}; expected texts, one at least")
    return found


SQUAD = Task(
    name="accurate_retrieval",
    version="accurate_retrieval/1",
    title="accurate retrieval over SQuAD passages (in the manner of MemoryAgentBench)",
    paper="arXiv 2507.05257",
    source="github.com/Continual-Intelligence/SEAL, knowledge-incorporation/data/squad_val.json",
    licence=Licence(name="CC BY-SA 4.0", redistribution="share-alike"),
    load=load_squad,
    scorers=(
        "contains",
        "token_f1",
        "exact",
        "evidence_all",
        "answer_in_context",
        "turn_any@5",
        "turn_any@10",
        "session_any@5",
        "mrr",
    ),
    without_reader="evidence_all",
    folder="squad_val",
    options={"passages": 200, "questions": 100, "streams": 2, "seed": 0},
    fetch=(
        Part(
            file="squad_val.json",
            url=f"https://raw.githubusercontent.com/Continual-Intelligence/SEAL/{SEAL_COMMIT}/"
            "knowledge-incorporation/data/squad_val.json",
        ),
    ),
)
PUBLISHED = Task(
    name="memoryagentbench",
    version="memoryagentbench/1",
    title="MemoryAgentBench as published, exported to JSON lines",
    paper="arXiv 2507.05257",
    source="huggingface.co/datasets/ai-hyz/MemoryAgentBench, exported to JSON lines",
    licence=Licence(name="MIT", redistribution="yes"),
    load=load_published,
    scorers=("contains", "exact", "token_f1", "answer_in_context"),
    without_reader="answer_in_context",
    folder="memoryagentbench",
    options={"part": "", "chunk_words": 350, "limit": 0},
)
TASKS = (SQUAD, PUBLISHED)
