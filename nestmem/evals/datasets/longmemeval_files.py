"""The files of LongMemEval, read into questions with their haystacks (the tasks are in `longmemeval`).

Two forms: upstream's list of questions, each with its sessions; and questions.jsonl with sessions-*.jsonl, where each
session is kept once. The texts of sessions that several questions have are shared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.evals.files import ENDINGS, find, records, rows

FIELDS = (
    "question_id",
    "question_type",
    "question",
    "answer",
    "question_date",
    "answer_session_ids",
    "haystack_dates",
    "haystack_session_ids",
)

S_FILES = ("longmemeval_s_cleaned.json", "longmemeval_s.json", "longmemeval_s")
ORACLE_FILES = ("longmemeval_oracle.json", "longmemeval_oracle", "oracle.json")

Text = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Session:
    """A session as it stands in one haystack. id: made unique there. name: its id in the data."""

    id: str
    name: str
    at: datetime
    turns: Sequence[Mapping[str, Any]]

    @property
    def text(self) -> Text:
        """What was said, by whom."""
        return tuple((turn["role"], turn["content"]) for turn in self.turns)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question with its haystack, in the order of the dates."""

    record: Mapping[str, Any]
    at: datetime
    sessions: tuple[Session, ...]

    @property
    def id(self) -> str:
        return str(self.record["question_id"])

    @property
    def unanswerable(self) -> bool:
        return self.id.endswith("_abs")


def read(folder: Path | None, limit: int, sides: str, oracle: bool) -> tuple[list[Item], str]:
    """The questions with their haystacks, and the name of the file they came from."""
    if folder is None:
        raise InputError("LongMemEval is read from its files; give the folder of the data sets with --data")
    if sides not in ("both", "user"):
        raise InputError(f"sides={sides!r}; expected 'both' or 'user'")
    pooled = None if oracle else _pool_file(folder)
    if pooled is not None:
        found, source = _pool_records(folder, pooled, limit), pooled.name
    else:
        path = find(
            folder, ORACLE_FILES if oracle else S_FILES, "LongMemEval's list of questions with sessions"
        )
        found, source = _shared_texts(records(path)), path.name
    items = []
    for number, record in enumerate(found):
        if limit and number >= limit:
            break
        items.append(_item(record, f"{folder / source}, question {number}"))
    twice = [id_ for id_, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise InputError(f"{folder / source}: two questions have the id {twice[0]!r}")
    return items, source


def _pool_file(folder: Path) -> Path | None:
    paths = [folder / f"questions.jsonl{ending}" for ending in ENDINGS]
    return next((path for path in paths if path.is_file()), None)


def _pool_records(folder: Path, path: Path, limit: int) -> list[dict[str, Any]]:
    """The questions of the form with a pool of sessions, each with its `haystack_sessions`."""
    questions = rows(path, FIELDS)[: limit or None]
    wanted = {id_ for question in questions for id_ in question["haystack_session_ids"]}
    parts = sorted(part for ending in ENDINGS for part in folder.glob(f"sessions-*.jsonl{ending}"))
    pool: dict[str, list[Any]] = {}
    for part in parts:
        pool |= {row["id"]: row["turns"] for row in rows(part, ("id", "turns")) if row["id"] in wanted}
    missing = sorted(wanted - set(pool))
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(wanted)} sessions are in none of its {len(parts)} files "
            f"sessions-*.jsonl, for example {missing[0]!r}; the folder is not whole, get it again"
        )
    return [
        question | {"haystack_sessions": [pool[id_] for id_ in question["haystack_session_ids"]]}
        for question in questions
    ]


def _shared_texts(found: Iterable[Any]) -> Iterator[Any]:
    """The same records, in which a text that occurs again is the same object."""
    texts: dict[str, str] = {}
    for record in found:
        for session in record.get("haystack_sessions") or () if isinstance(record, dict) else ():
            for turn in session if isinstance(session, list) else ():
                if isinstance(turn, dict) and isinstance(turn.get("content"), str):
                    turn["content"] = texts.setdefault(turn["content"], turn["content"])
        yield record


def _item(record: Any, where: str) -> Item:
    if not isinstance(record, dict):
        raise InputError(f"{where} is {type(record).__name__}; expected an object")
    missing = [field for field in (*FIELDS, "haystack_sessions") if field not in record]
    if missing:
        raise InputError(f"{where} ({record.get('question_id')}) has no {', '.join(missing)}")
    ids, dates, sessions = (record[f"haystack_{what}"] for what in ("session_ids", "dates", "sessions"))
    if not len(ids) == len(dates) == len(sessions):
        raise InputError(
            f"{where} ({record['question_id']}): {len(ids)} session ids, {len(dates)} dates and {len(sessions)} "
            "sessions; expected as many of each"
        )
    seen: Counter[str] = Counter()
    found = []
    for id_, date, turns in zip(ids, dates, sessions, strict=True):
        seen[id_] += 1
        unique = id_ if seen[id_] == 1 else f"{id_}#{seen[id_]}"
        found.append(Session(id=unique, name=id_, at=_time(date, where), turns=_checked(turns, id_, where)))
    found.sort(key=lambda session: session.at)
    return Item(record=record, at=_time(record["question_date"], where), sessions=tuple(found))


def _checked(turns: Any, id_: str, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(turns, list):
        raise InputError(f"{where}, session {id_}: is {type(turns).__name__}; expected a list of turns")
    for turn in turns:
        good = isinstance(turn, dict) and isinstance(turn.get("content"), str)
        if not good or turn.get("role") not in ("user", "assistant"):
            raise InputError(
                f"{where}, session {id_}: a turn is {str(turn)[:60]!r}; expected role user or assistant, and content"
            )
    return turns


def _time(given: Any, where: str) -> datetime:
    """'2023/05/20 (Sat) 07:47', taken as UTC."""
    try:
        return datetime.strptime(re.sub(r" \(\w+\)", "", given), "%Y/%m/%d %H:%M").replace(tzinfo=UTC)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where}: {given!r} is no time; expected the form '2023/05/20 (Sat) 07:47'"
        ) from error
