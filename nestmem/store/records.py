"""What the ledger stores, as frozen values. Times are timezone-aware UTC datetimes everywhere."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nestmem.errors import InputError

SOURCES = ("user", "tool", "web", "import")
LEVELS = ("fast", "medium", "slow")
REPORT_KINDS = ("write", "nap", "sleep", "forget", "shadow", "rollback")
OUTCOMES = ("committed", "refused", "noted")
MAX_SCOPE_CHARS = 256


def utc_now() -> datetime:
    """The present moment, UTC."""
    return datetime.now(UTC)


def to_utc(value: datetime) -> datetime:
    """`value` in UTC; a datetime without a zone is taken as UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def to_text(value: datetime | None) -> str | None:
    """ISO 8601 UTC with microseconds, a form whose alphabetical order is the order in time."""
    return None if value is None else to_utc(value).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(value: str | None) -> datetime | None:
    """The inverse of `to_text`."""
    return None if value is None else datetime.fromisoformat(value)


def require_text(what: str, value: object, *, max_chars: int | None = None) -> str:
    """`value` if it is a string that can be stored as UTF-8; InputError with what is wrong if not."""
    if not isinstance(value, str):
        raise InputError(f"{what} is {value!r} ({type(value).__name__}); expected a str")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"{what} holds a lone surrogate at character {error.start} and cannot be stored as UTF-8; "
                'decode the bytes with errors="replace" first'
            ) from error
    if max_chars is not None and len(value) > max_chars:
        raise InputError(f"{what} has {len(value)} characters; at most {max_chars} are allowed")
    return value


def require_object(what: str, value: object) -> None:
    """InputError unless `value` is a dict that can be stored as JSON."""
    if not isinstance(value, dict):
        raise InputError(f"{what} is {type(value).__name__}; expected a dict that can be written as JSON")
    for key in value:
        require_text(f"a key of {what}", key)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{what} cannot be written as JSON ({error}); give texts, finite numbers, true, false, null, and lists "
            "and objects of them (a time as ISO 8601)"
        ) from error
    require_text(what, text)


def require_meta(meta: dict[str, Any]) -> None:
    """InputError unless `meta` can be stored as JSON and its idempotency key, if any, is a text."""
    require_object("meta", meta)
    if meta.get("idempotency_key") is not None:
        require_text("meta['idempotency_key']", meta["idempotency_key"])


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Whose memory: tenant, user, agent, and one session of theirs (None: all sessions, for reading).

    >>> Scope(user="ann").session is None
    True
    """

    tenant: str = "default"
    user: str = "default"
    agent: str = "default"
    session: str | None = None

    def __post_init__(self) -> None:
        for name in ("tenant", "user", "agent", "session"):
            value = getattr(self, name)
            if name == "session" and value is None:
                continue
            require_text(f"Scope.{name}", value, max_chars=MAX_SCOPE_CHARS)
            if not value:
                raise InputError(f"Scope.{name} is empty; give a name of 1 to {MAX_SCOPE_CHARS} characters")

    @property
    def owner(self) -> "Scope":
        """The same tenant, user and agent, over all sessions."""
        return Scope(tenant=self.tenant, user=self.user, agent=self.agent)


@dataclass(frozen=True, kw_only=True)
class NewEvent:
    """A message to append. `session` wins over the scope's; `id` and `recorded_at` are for imports."""

    role: str
    content: str
    occurred_at: datetime | None = None
    source: str = "user"
    name: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    session: str | None = None
    id: str | None = None
    recorded_at: datetime | None = None

    def __post_init__(self) -> None:
        require_text("role", self.role)
        require_text("content", self.content)
        if self.name is not None:
            require_text("name", self.name)
        for name in ("id", "session"):
            if getattr(self, name) is not None:
                require_text(name, getattr(self, name))
        require_meta(self.meta)
        if not self.role:
            raise InputError("role is empty; expected for example 'user' or 'assistant'")
        if self.source not in SOURCES:
            raise InputError(f"source is {self.source!r}; expected one of {', '.join(SOURCES)}")


@dataclass(frozen=True, kw_only=True)
class Event:
    """A stored message. `seq` counts from 1 within tenant, user and agent and is never used twice."""

    id: str
    scope: Scope
    seq: int
    role: str
    content: str
    occurred_at: datetime | None
    recorded_at: datetime
    source: str
    name: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def when(self) -> datetime:
        """When it was said: `occurred_at`, or when it was recorded if that is not known."""
        return self.occurred_at or self.recorded_at

    @property
    def speaker(self) -> str:
        """The name if there is one, else the role."""
        return self.name or self.role


@dataclass(frozen=True, kw_only=True)
class MemoryRecord:
    """One statement read from an event, with when it was true and when it was believed.

    `span` are character offsets into the event's content. None in `valid_to` or `believed_to`
    means "until further notice". `superseded_by` is set by `Ledger.supersede`.
    """

    id: str
    scope: Scope
    key: str
    text: str
    kind: str
    event_id: str
    span: tuple[int, int]
    valid_from: datetime
    believed_from: datetime
    extractor: str
    question: str | None = None
    answer: str | None = None
    valid_to: datetime | None = None
    believed_to: datetime | None = None
    status: str = "active"
    supersedes: str | None = None
    superseded_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A directed link between two ids: derived_from, supersedes or depends_on."""

    scope: Scope
    src: str
    dst: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class WeightUpdate:
    """What one memory added to the weights. `payload` is opaque to the ledger."""

    id: str
    scope: Scope
    memory_id: str
    event_ids: tuple[str, ...]
    level: str
    payload: bytes
    digest: str
    learner: str
    examples: list[dict[str, str]]
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class WeightVersion:
    """The state of one user's weights: the sum (or sequence) of `update_ids`."""

    id: str
    scope: Scope
    parent: str | None
    update_ids: tuple[str, ...]
    digest: str
    learner: str
    reason: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Use:
    """How often answers rested on a memory, and when one last did."""

    uses: int
    last_used: datetime


@dataclass(frozen=True, kw_only=True)
class KeptOut:
    """Why a memory stays out of the weights: the gate that refused it. It stays text. Holds no text of the user."""

    gate: str
    reason: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the guard saw at one change of the weights. `detail` holds gates, numbers and ids, never text of the user.

    kind: one of REPORT_KINDS. outcome: one of OUTCOMES. version_id: the version it belongs to; None when none came
    of it, or when that version was since removed by a forget.
    """

    id: str
    scope: Scope
    version_id: str | None
    kind: str
    outcome: str
    detail: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class SleepRun:
    """One sleep of one user: how far it has come and who holds it until when.

    id: as of the last `begin_sleep`; it is another one whenever the run is taken up again. cursor: the greatest seq
    of the events that were there when it began. ended_at: None while it is unfinished. resumed: it was begun before
    and not ended.
    """

    id: str
    scope: Scope
    cursor: int
    stage: str
    owner: str
    lease_until: datetime
    detail: dict[str, Any]
    started_at: datetime
    ended_at: datetime | None = None
    resumed: bool = False


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a forget removed. It must not hold the forgotten text: ids, counts and digests only."""

    id: str
    scope: Scope
    selector: Any
    removed: dict[str, int]
    event_ids: tuple[str, ...]
    digest_before: str | None
    digest_after: str | None
    replayed: int
    created_at: datetime
    environment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something still to be done with an event. A failed one stays in the queue and is tried again."""

    id: int
    scope: Scope
    kind: str
    event_id: str
    attempts: int
    last_error: str | None
    state: str


@dataclass(frozen=True, kw_only=True)
class ForgetPlan:
    """All that a forget of `event_ids` removes or changes, before anything is touched."""

    event_ids: tuple[str, ...]
    memory_ids: tuple[str, ...]
    update_ids: tuple[str, ...]
    version_ids: tuple[str, ...]
    restored_ids: tuple[str, ...]
    requeued_event_ids: tuple[str, ...]
