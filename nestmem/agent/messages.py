"""Conversations as people have them on disk, read into checked messages.

Read: OpenAI messages as JSON or JSONL, lives of `nestmem eval personas`, plain transcripts
("User: ...", "Assistant: ..."), and LoCoMo (JSON or JSON.gz). Nothing is guessed silently: what does
not fit is an InputError that names the place.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.store.records import require_meta

ROLES = ("user", "assistant", "system", "tool")
SOURCES = ("user", "tool", "web", "import")
MAX_CONTENT_BYTES = 1_000_000
MAX_NAME_CHARS = 256
TIME_KEYS = ("occurred_at", "timestamp", "created_at", "created", "time", "date", "at")
ROLE_ALIASES = {"human": "user", "me": "user", "ai": "assistant", "bot": "assistant", "model": "assistant",
                "developer": "system", "function": "tool"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message. `occurred_at` is in UTC, None when the time is not known (the clock's time is used).
    `group`: several people talk, and `name` says who "I" is."""

    role: str
    content: str
    occurred_at: datetime | None = None
    name: str | None = None
    source: str | None = None
    group: bool = False
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Session:
    """Messages of one sitting. `conversation` tells unrelated conversations of one file apart."""

    id: str
    messages: tuple[Message, ...]
    conversation: str = ""


def parse(given: str | Path | bytes | list[Any] | dict[str, Any]) -> list[Session]:
    """Reads a file (by path), the bytes of one, or decoded JSON. Raises InputError, reading nothing, when
    any message of it is bad."""
    where = "the messages"
    if isinstance(given, str | Path):
        where = str(given)
        given = _read(Path(given))
    data = _decode(given, where) if isinstance(given, bytes) else given
    sessions = _transcript(data, where) if isinstance(data, str) else _from_json(data, where)
    if not sessions:
        raise InputError(f"{where}: no message found; expected OpenAI messages, LoCoMo, or lines 'User: ...'")
    return [_mark_groups(session) for session in sessions]


def check_messages(
    given: str | Mapping[str, Any] | Message | Sequence[str | Mapping[str, Any] | Message],
    *,
    occurred_at: datetime | str | None = None,
) -> list[Message]:
    """Checked messages out of what `observe` accepts: a text (of the user), a message, or a list of them.
    `occurred_at` is the time of those that name none."""
    items = [given] if isinstance(given, str | Mapping | Message) else list(given)
    if not items:
        raise InputError("observe was given no message; expected a text, a message or a list of messages")
    default = parse_time(occurred_at, "occurred_at")
    checked = [_message(item, f"message {i + 1}") for i, item in enumerate(items)]
    return [replace(m, occurred_at=m.occurred_at or default) for m in checked if m is not None]


def check_content(content: Any, where: str) -> str:
    """`content` itself, when it can be stored: text, not blank, at most MAX_CONTENT_BYTES in UTF-8."""
    if not isinstance(content, str):
        raise InputError(f"{where}: the content is {type(content).__name__}, expected a text")
    if not content.strip():
        raise InputError(f"{where}: the content is empty, expected at least one visible character")
    try:
        size = len(content.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: the content is not valid UTF-8 (character {error.start}); decode it first"
        ) from error
    if size > MAX_CONTENT_BYTES:
        raise InputError(
            f"{where}: the content has {size:,} bytes, at most {MAX_CONTENT_BYTES:,} are taken; split it into messages"
        )
    return content


def parse_time(given: datetime | str | int | float | None, where: str = "the time") -> datetime | None:
    """A time in UTC from a datetime, ISO 8601, seconds or milliseconds since 1970, or LoCoMo's
    "1:56 pm on 8 May, 2023". A time without a zone is taken as UTC."""
    if given is None or given == "":
        return None
    if isinstance(given, bool) or not isinstance(given, datetime | str | int | float):
        raise InputError(
            f"{where}: {given!r} is no time; expected ISO 8601, for example 2026-03-02T10:00:00Z"
        )
    try:
        time = given if isinstance(given, datetime) else _time(given)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(
            f"{where}: {given!r} is no time; expected ISO 8601, for example 2026-03-02T10:00:00Z"
        ) from error


def _time(given: str | int | float) -> datetime:
    if isinstance(given, int | float):
        if not math.isfinite(given):
            raise ValueError(given)
        return datetime.fromtimestamp(given / 1000 if abs(given) > 1e11 else given, UTC)
    text = given.strip()
    if re.fullmatch(r"\d{9,13}(\.\d+)?", text):
        return _time(float(text))
    spoken = re.fullmatch(r"(\d{1,2}:\d{2} ?[ap]m) on (\d{1,2} \w+),? (\d{4})", text, re.IGNORECASE)
    if spoken:
        clock, day, year = spoken.groups()
        return datetime.strptime(f"{clock.replace(' ', '')} {day} {year}", "%I:%M%p %d %B %Y")
    return datetime.fromisoformat(text)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file of messages") from error


def _decode(raw: bytes, where: str) -> Any:
    """JSON, the list of a JSONL file's lines, or the text of a transcript."""
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{where}: looks like gzip but cannot be decompressed: {error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8 (byte {error.start}); convert it, for example with iconv"
        ) from error
    if text.lstrip()[:1] not in ("{", "[") or re.match(r"\s*\[[^\]{]*\]\s*\w", text):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        if len(lines) == 1:
            raise InputError(f"{where}: broken JSON: {error}") from error
        return [_json_line(line, f"{where}, line {n}") for n, line in lines]


def _json_line(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: broken JSON: {error}") from error


def _from_json(data: Any, where: str) -> list[Session]:
    if isinstance(data, Mapping):
        return _from_object(data, where, "session-1")
    if not isinstance(data, list):
        raise InputError(
            f"{where}: expected a list of messages or an object with 'messages', not {type(data).__name__}"
        )
    if any(isinstance(item, Mapping) and _is_container(item) for item in data):
        sessions: list[Session] = []
        for i, item in enumerate(data):
            sessions += _from_object(item, f"{where}, entry {i + 1}", f"session-{i + 1}")
        return sessions
    return _session(data, "session-1", None, where)


def _is_container(item: Mapping[str, Any]) -> bool:
    return any(key in item for key in ("messages", "sessions", "conversation"))


def _from_object(item: Any, where: str, name: str) -> list[Session]:
    if not isinstance(item, Mapping):
        raise InputError(f"{where}: expected an object, not {type(item).__name__}")
    if isinstance(item.get("conversation"), Mapping):
        return _locomo(item, where)
    if isinstance(item.get("sessions"), list):
        life = str(item.get("id", ""))
        sessions: list[Session] = []
        for i, session in enumerate(item["sessions"]):
            sessions += _from_object(session, f"{where}, session {i + 1}", f"session-{i + 1}")
        return [replace(s, conversation=life) for s in sessions]
    if isinstance(item.get("messages"), list):
        name = str(item.get("session") or item.get("id") or name)
        return _session(item["messages"], name, _first_time(item, where), where)
    if "role" in item or "content" in item:
        return _session([item], name, None, where)
    raise InputError(
        f"{where}: expected 'messages', 'sessions' or 'role' and 'content', got keys {sorted(item)[:8]}"
    )


def _session(items: list[Any], name: str, at: datetime | None, where: str) -> list[Session]:
    read = [_message(item, f"{where}, message {i + 1}") for i, item in enumerate(items)]
    messages = tuple(replace(m, occurred_at=m.occurred_at or at) for m in read if m is not None)
    return [Session(id=name, messages=messages)] if messages else []


def _message(item: Any, where: str) -> Message | None:
    """A checked message; None for an assistant's bare tool call, which says nothing."""
    if isinstance(item, Message):
        check_content(item.content, where)
        _check_role(item.role, where)
        _check_meta(item.meta, where)
        return replace(item, occurred_at=parse_time(item.occurred_at, where))
    if isinstance(item, str):
        item = {"role": "user", "content": item}
    if not isinstance(item, Mapping):
        raise InputError(f"{where}: expected an object with role and content, not {type(item).__name__}")
    role = _check_role(item.get("role"), where)
    content = _parts(item.get("content"))
    if content is None and (item.get("tool_calls") or item.get("function_call")):
        return None
    name, source, meta = item.get("name"), item.get("source"), item.get("meta")
    if name is not None and (not isinstance(name, str) or not 0 < len(name.strip()) <= MAX_NAME_CHARS):
        raise InputError(
            f"{where}: the name is {name!r}, expected a text of 1 to {MAX_NAME_CHARS} characters"
        )
    if source is not None and source not in SOURCES:
        raise InputError(f"{where}: the source is {source!r}, expected one of {', '.join(SOURCES)}")
    return Message(
        role=role,
        content=check_content(content, where),
        occurred_at=_first_time(item, where),
        name=name,
        source=source or ("tool" if role == "tool" else None),
        group=item.get("group") is True,
        meta=_check_meta(dict(meta) if isinstance(meta, Mapping) else {}, where),
    )


def _check_meta(meta: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        require_meta(meta)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return meta


def _check_role(role: Any, where: str) -> str:
    known = ROLE_ALIASES.get(role.lower(), role.lower()) if isinstance(role, str) else role
    if known not in ROLES:
        raise InputError(f"{where}: the role is {role!r}, expected one of {', '.join(ROLES)}")
    return known


def _parts(content: Any) -> Any:
    """The text of a content given in parts, as newer OpenAI messages have it."""
    if not isinstance(content, list):
        return content
    texts = [
        part.get("text")
        for part in content
        if isinstance(part, Mapping) and part.get("type") in ("text", "input_text")
    ]
    return "\n".join(text for text in texts if isinstance(text, str))


def _first_time(item: Mapping[str, Any], where: str) -> datetime | None:
    for key in TIME_KEYS:
        if item.get(key) not in (None, ""):
            return parse_time(item[key], f"{where}: {key}")
    return None


def _locomo(sample: Mapping[str, Any], where: str) -> list[Session]:
    """Both speakers of a LoCoMo sample are people: both are users, told apart by name."""
    conversation = sample["conversation"]
    life = str(sample.get("sample_id", "locomo"))
    numbers = sorted(int(m.group(1)) for key in conversation if (m := re.fullmatch(r"session_(\d+)", key)))
    sessions = []
    for n in numbers:
        turns = conversation[f"session_{n}"]
        at = parse_time(conversation.get(f"session_{n}_date_time"), f"{where}, session {n}")
        messages = tuple(
            _locomo_turn(turn, at, f"{where}, session {n}, turn {i + 1}") for i, turn in enumerate(turns)
        )
        if messages:
            sessions.append(Session(id=f"session_{n}", messages=messages, conversation=life))
    return sessions


def _locomo_turn(turn: Any, at: datetime | None, where: str) -> Message:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("speaker"), str):
        raise InputError(f"{where}: expected an object with speaker, dia_id and text")
    caption = turn.get("blip_caption")
    text = turn.get("text") or ""
    shown = f"{text} [shares {caption}]".strip() if isinstance(caption, str) and caption else text
    meta = {"dia_id": turn["dia_id"]} if "dia_id" in turn else {}
    content = check_content(shown, where)
    return Message(role="user", content=content, occurred_at=at, name=turn["speaker"], group=True, meta=meta)


_SPEAKER = re.compile(
    r"^\s*(?:\[(?P<time>\d{4}-\d\d-\d\d[^\]]*)\]\s*)?(?P<name>[^\W\d_][\w .'’-]{0,40}?)\s*:(?=\s)\s*(?P<text>.*)$"
)
_BREAK = re.compile(
    r"^\s*(?:[-=*#_]{3,}|#+|=+)\s*(?:session\b.*?)?\s*\(?(?P<date>\d{4}-\d\d-\d\d[T\d: Z+]*)?\)?\s*[-=*#]*\s*$",
    re.I,
)


def _transcript(text: str, where: str) -> list[Session]:
    """Lines "Name: text"; a line without a name continues the message above it; a line of dashes, or a
    heading with a date ("## 2026-03-02"), begins a new session."""
    sessions: list[Session] = []
    turns: list[tuple[int, str, str, datetime | None]] = []
    date: datetime | None = None

    def close() -> None:
        messages = tuple(_spoken(turn, where) for turn in turns)
        if messages:
            sessions.append(Session(id=f"session-{len(sessions) + 1}", messages=messages))
        turns.clear()

    for number, line in enumerate(text.splitlines(), 1):
        spoken, broken = _SPEAKER.match(line), _BREAK.match(line)
        if broken and line.strip():
            close()
            date = parse_time((broken["date"] or "").strip(), f"{where}, line {number}")
        elif spoken:
            at = parse_time(spoken["time"], f"{where}, line {number}") or date
            turns.append((number, spoken["name"], spoken["text"], at))
        elif turns and line.strip():
            first, name, said, at = turns[-1]
            turns[-1] = (first, name, f"{said}\n{line.rstrip()}".lstrip("\n"), at)
        elif line.strip():
            raise InputError(
                f"{where}, line {number}: expected 'User: ...' or 'Assistant: ...', got {line[:60]!r}"
            )
    close()
    return sessions


def _spoken(turn: tuple[int, str, str, datetime | None], where: str) -> Message:
    number, speaker, said, at = turn
    role = ROLE_ALIASES.get(speaker.lower(), speaker.lower())
    name = None if role in ROLES else speaker
    content = check_content(said, f"{where}, line {number}")
    return Message(role="user" if name else role, content=content, occurred_at=at, name=name)


def _mark_groups(session: Session) -> Session:
    """Several named people among the users of one session: each "I" belongs to its name."""
    names = {m.name for m in session.messages if m.role == "user" and m.name}
    if len(names) < 2:
        return session
    return replace(session, messages=tuple(replace(m, group=True) if m.name else m for m in session.messages))
