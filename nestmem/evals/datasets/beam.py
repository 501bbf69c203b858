"""BEAM (Tavakoli et al., arXiv 2510.27246): ten abilities of memory, asked of one long conversation.

What is asked: 20 probing questions for each long conversation between a user and an assistant, two for each of
abstention, contradiction_resolution, event_ordering, information_extraction, instruction_following,
knowledge_update, multi_session_reasoning, preference_following, summarization, temporal_reasoning. What is scored:
the points of the key's rubric with a reader (upstream lets a model judge them; `rubric` counts content words, which
says little where a point asks to avoid something: use `judged` for instruction_following, preference_following and
contradiction_resolution); without one, how much of the turns that the key names is recalled.

Version: chats/100K of github.com/mohammadtavakoli78/BEAM at a fixed commit, 20 conversations, the file chat.json of
each (430,000 to 900,000 characters in a half of them: some are twice as long as 100K says). Licence: the repository
has no licence file; derived cards on Hugging Face carry CC BY-SA 4.0. Read are upstream's folders
(chats/100K/N/chat.json and probing_questions/probing_questions.json), and beam_100k.jsonl with one row for each.

How it is told: a batch of the file is a session. Only its first user turn has a date (time_anchor); it holds until
the next. The marks ' ->-> 1,2' at the end of user turns, left over from the making of the data, are taken off. All
questions are asked at the end. Turn ids are the file's. Accepted answers stand only where the key has a short
factual one; where its rubric has a single point, that point is accepted too. In event_ordering the rubric is in
order. An abstention question is not answerable, and has neither rubric nor evidence.

An example in the form of beam_100k.jsonl, in words of our own:

    {"conversation_id": "1", "topic": {"title": "A boat"},
     "chat": [{"batch_number": 1, "time_anchor": null, "turns": [[
         {"role": "user", "id": 0, "time_anchor": "March-15-2024", "index": "1,1", "question_type": "main_question",
          "content": "I paid 300 for paint, how do I go on? ->-> 1,1"},
         {"role": "assistant", "id": 1, "content": "Sand the hull first."}]]}],
     "probing_questions": {"knowledge_update": [{"question": "What did the paint cost?", "answer": "You paid 300.",
         "source_chat_ids": {"original_info": [0]}, "rubric": ["LLM response should state: 300"]}]}}

    Question(id="1/knowledge_update/0", text="What did the paint cost?", kind="knowledge_update", after=2,
             at=datetime(2024, 3, 15, tzinfo=UTC), answers=("You paid 300.", "300"), evidence=("0",), rubric=("300",))
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.evals import files
from nestmem.evals.datasets.base import Dataset, Licence, Part, Question, Stream, Task, Turn
from nestmem.evals.files import ENDINGS, rows

CONVERSATIONS = 20
COMMIT = "b2a3ee8ba12d68f83143dda191097dc3e028ddd3"
ABSTENTION = "abstention"
ORDERING = "event_ordering"
FACTUAL = ("information_extraction", "knowledge_update", "multi_session_reasoning", "temporal_reasoning")
ABILITIES = (
    ABSTENTION,
    "contradiction_resolution",
    ORDERING,
    *FACTUAL,
    "instruction_following",
    "preference_following",
    "summarization",
)
MARK = re.compile(r"\s*->->\s*[\d\s,.;()N/A-]*$")
PREFIX = re.compile(
    r"^LLM (?:response )?should (?:state|contain|mention|include|say)s?(?: that)?:?\s*", re.IGNORECASE
)


def load(folder: Path | None, *, limit: int = 0) -> Dataset:
    """One stream for each conversation, in the order of their numbers. limit: of conversations (0: all)."""
    if folder is None:
        raise InputError("beam reads BEAM's conversations; give the folder of the data sets with --data")
    found, source = _conversations(folder)
    counts: Counter[str] = Counter()
    streams = tuple(
        _stream(row, f"{source}, conversation {row['conversation_id']}", counts)
        for row in found[: limit or None]
    )
    notes = []
    if len(streams) != CONVERSATIONS:
        notes.append(f"{len(streams)} of the {CONVERSATIONS} published conversations of 100K")
    unanswerable = sum(not question.answerable for stream in streams for question in stream.questions)
    notes.append(f"{unanswerable} questions of the kind {ABSTENTION} have no evidence and no rubric")
    left_out = {name: count for name, count in counts.items() if count}
    return Dataset(streams=streams, source=source, left_out=left_out, notes=tuple(notes))


def _conversations(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Rows {conversation_id, chat, probing_questions} in the order of their numbers, and where they are from."""
    for ending in ENDINGS:
        path = folder / f"beam_100k.jsonl{ending}"
        if path.is_file():
            found = rows(path, ("conversation_id", "chat", "probing_questions"))
            return sorted(found, key=lambda row: _number(str(row["conversation_id"]))), path.name
    base = next((folder / name for name in ("chats/100K", "100K") if (folder / name).is_dir()), folder)
    chats = sorted(base.glob("*/chat.json"), key=lambda path: _number(path.parent.name))
    if not chats:
        raise InputError(
            f"{folder} has neither beam_100k.jsonl nor chats/100K/N/chat.json; expected BEAM's conversations. "
            "`nestmem eval fetch beam` gets them"
        )
    found = []
    for chat in chats:
        questions = chat.parent / "probing_questions" / "probing_questions.json"
        if not questions.is_file():
            raise InputError(f"{questions} does not exist; expected the questions of {chat}: fetch it again")
        found.append(
            {
                "conversation_id": chat.parent.name,
                "chat": _json(chat, list),
                "probing_questions": _json(questions, dict),
            }
        )
    return found, "chats/100K"


def _number(name: str) -> tuple[int, str]:
    return (int(name) if name.isdigit() else 10**9, name)


def _json(path: Path, kind: type) -> Any:
    try:
        value = json.loads(files.text(path))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); it may be half: fetch it again") from error
    if not isinstance(value, kind):
        raise InputError(f"{path} holds a {type(value).__name__}; expected a {kind.__name__}")
    return value


def _stream(row: Mapping[str, Any], where: str, counts: Counter[str]) -> Stream:
    turns = _turns(row["chat"], where, counts)
    if not turns:
        raise InputError(f"{where} has no turn; expected batches with 'turns'")
    given = row["probing_questions"]
    if not isinstance(given, dict) or not set(given) <= set(ABILITIES):
        raise InputError(
            f"{where}: probing_questions has {sorted(given)[:12]}; expected {', '.join(ABILITIES)}"
        )
    known = {turn.id for turn in turns}
    questions = [
        _question(item, ability, f"{row['conversation_id']}/{ability}/{number}", turns, known, where, counts)
        for ability in ABILITIES
        for number, item in enumerate(given.get(ability, ()))
    ]
    return Stream(id=str(row["conversation_id"]), turns=tuple(turns), questions=tuple(questions))


def _turns(chat: Any, where: str, counts: Counter[str]) -> list[Turn]:
    turns: list[Turn] = []
    at: datetime | None = None
    for batch in chat if isinstance(chat, list) else [None]:
        if not isinstance(batch, dict) or not isinstance(batch.get("turns"), list):
            raise InputError(f"{where}: a batch is {str(batch)[:60]!r}; expected batch_number and turns")
        for turn in [turn for thread in batch["turns"] for turn in thread]:
            good = isinstance(turn, dict) and turn.get("role") in ("user", "assistant") and "id" in turn
            if not good or not isinstance(turn.get("content"), str):
                raise InputError(f"{where}: a turn is {str(turn)[:60]!r}; expected role, id and content")
            at = _time(turn.get("time_anchor"), at, counts)
            text = MARK.sub("", turn["content"]).strip()
            if not text:
                counts["empty turns"] += 1
                continue
            session = f"batch-{batch.get('batch_number')}"
            turns.append(Turn(id=str(turn["id"]), session=session, role=turn["role"], text=text, at=at))
    return turns


def _time(given: Any, before: datetime | None, counts: Counter[str]) -> datetime | None:
    """A time_anchor such as 'March-15-2024', at midnight UTC; the one before it where there is none."""
    if not given:
        return before
    try:
        return datetime.strptime(str(given), "%B-%d-%Y").replace(tzinfo=UTC)
    except ValueError:
        counts["time anchors that are no date (the date before holds)"] += 1
        return before


def _question(
    item: Any, ability: str, id_: str, turns: list[Turn], known: set[str], where: str, counts: Counter[str]
) -> Question:
    if not isinstance(item, dict) or not isinstance(item.get("question"), str):
        raise InputError(f"{where}, question {id_}: has no text 'question'")
    rubric = [str(point) for point in item.get("rubric") or ()]
    points = tuple(dict.fromkeys(PREFIX.sub("", point).strip() for point in rubric))
    answerable = ability != ABSTENTION
    evidence: tuple[str, ...] = ()
    if answerable:
        named = tuple(dict.fromkeys(_ids(item.get("source_chat_ids"))))
        evidence = tuple(name for name in named if name in known)
        counts["evidence ids whose turn is not there"] += len(named) - len(evidence)
        counts["without evidence"] += not evidence
        counts["questions without a rubric"] += not points
    answers: tuple[str, ...] = ()
    if ability in FACTUAL:
        stated = [str(item.get("answer") or "").strip(), points[0] if len(points) == 1 else ""]
        answers = tuple(dict.fromkeys(text for text in stated if text))
    return Question(
        id=id_,
        text=item["question"].strip(),
        kind=ability,
        after=len(turns),
        at=turns[-1].at,
        answers=answers,
        answerable=answerable,
        evidence=evidence,
        rubric=points if answerable else (),
    )


def _ids(value: Any) -> Iterator[str]:
    """The turn ids in any nesting of lists and objects.

    >>> list(_ids({"first": [3, [4]], "second": "7"}))
    ['3', '4', '7']
    """
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _ids(one)
    elif isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit()):
        yield str(value).strip()


def _parts() -> tuple[Part, ...]:
    base = f"https://raw.githubusercontent.com/mohammadtavakoli78/BEAM/{COMMIT}"
    names = ("chat.json", "probing_questions/probing_questions.json")
    paths = [f"chats/100K/{number}/{name}" for number in range(1, CONVERSATIONS + 1) for name in names]
    return tuple(Part(file=path, url=f"{base}/{path}") for path in paths)


TASK = Task(
    name="beam",
    version="beam/1",
    title="BEAM 100K, ten abilities asked of long conversations",
    paper="arXiv 2510.27246",
    source=f"github.com/mohammadtavakoli78/BEAM, chats/100K at {COMMIT[:12]}",
    licence=Licence(
        name="none in the repository; CC BY-SA 4.0 on derived Hugging Face cards",
        redistribution="share-alike",
    ),
    load=load,
    scorers=(
        "rubric",
        "order",
        "abstains",
        "token_f1",
        "contains",
        "judged",
        "evidence_share",
        "evidence_all",
        "rubric_in_context",
        "answer_in_context",
        "turn_any@5",
        "turn_all@5",
        "turn_any@10",
        "turn_all@10",
        "mrr",
    ),
    without_reader="evidence_share",
    folder="beam_100k",
    options={"limit": 0},
    fetch=_parts(),
    known_errors=(
        "Some conversations of 100K are twice as long as that; chat_trunecated.json beside them is not read.",
        "A turn that the key of contradiction_resolution names may hold both statements.",
        "Some rubric points are not in the form 'LLM response should ...', or say something else than the answer "
        "(one asks that a word count 'costs 300 words').",
    ),
)
