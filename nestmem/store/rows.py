"""Rows of the tables to records."""

import json
import sqlite3
from functools import lru_cache
from typing import Any

from nestmem.store.records import (
    Event,
    MemoryRecord,
    Receipt,
    Report,
    Scope,
    SleepRun,
    WeightUpdate,
    WeightVersion,
    Work,
    from_text,
)

EVENT_COLUMNS = "seq, id, session, role, name, content, occurred_at, recorded_at, source, meta"
MEMORY_COLUMNS = (
    "id, key, text, question, answer, kind, event_id, span_start, span_end, valid_from, valid_to, "
    "believed_from, believed_to, status, supersedes, superseded_by, extractor"
)
UPDATE_COLUMNS = "id, memory_id, level, payload, digest, learner, examples, created_at"
UPDATE_COLUMNS_LIGHT = UPDATE_COLUMNS.replace("payload", "x''")
VERSION_COLUMNS = "id, parent, update_ids, digest, learner, reason, created_at"
RECEIPT_COLUMNS = (
    "id, selector, removed, event_ids, digest_before, digest_after, replayed, created_at, environment"
)
REPORT_COLUMNS = "id, version_id, kind, outcome, detail, created_at"
SLEEP_COLUMNS = "id, cursor, stage, owner, lease_until, detail, started_at, ended_at"


def dump(value: Any) -> str:
    """Compact JSON with sorted keys."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=1024)
def with_session(scope: Scope, session: str) -> Scope:
    """The scope of one of its sessions."""
    return Scope(tenant=scope.tenant, user=scope.user, agent=scope.agent, session=session)


def event(scope: Scope, row: tuple) -> Event:
    """From EVENT_COLUMNS."""
    seq, id_, session, role, name, content, occurred_at, recorded_at, source, meta = row
    recorded = from_text(recorded_at)
    assert recorded is not None
    return Event(
        id=id_,
        scope=with_session(scope, session),
        seq=seq,
        role=role,
        name=name,
        content=content,
        occurred_at=from_text(occurred_at),
        recorded_at=recorded,
        source=source,
        meta={} if meta == "{}" else json.loads(meta),
    )


def memory(scope: Scope, row: tuple) -> MemoryRecord:
    """From MEMORY_COLUMNS."""
    id_, key, text, question, answer, kind, event_id, start, end = row[:9]
    valid_from, valid_to, believed_from, believed_to, status, supersedes, superseded_by, extractor = row[9:]
    valid, believed = from_text(valid_from), from_text(believed_from)
    assert valid is not None
    assert believed is not None
    return MemoryRecord(
        id=id_,
        scope=scope,
        key=key,
        text=text,
        question=question,
        answer=answer,
        kind=kind,
        event_id=event_id,
        span=(start, end),
        valid_from=valid,
        valid_to=from_text(valid_to),
        believed_from=believed,
        believed_to=from_text(believed_to),
        status=status,
        supersedes=supersedes,
        superseded_by=superseded_by,
        extractor=extractor,
    )


def update(scope: Scope, row: tuple, event_ids: tuple[str, ...]) -> WeightUpdate:
    """From UPDATE_COLUMNS and the ids of the source events."""
    id_, memory_id, level, payload, digest, learner, examples, created_at = row
    created = from_text(created_at)
    assert created is not None
    return WeightUpdate(
        id=id_,
        scope=scope,
        memory_id=memory_id,
        event_ids=event_ids,
        level=level,
        payload=payload,
        digest=digest,
        learner=learner,
        examples=json.loads(examples),
        created_at=created,
    )


def version(scope: Scope, row: tuple) -> WeightVersion:
    """From VERSION_COLUMNS."""
    id_, parent, update_ids, digest, learner, reason, created_at = row
    created = from_text(created_at)
    assert created is not None
    return WeightVersion(
        id=id_,
        scope=scope,
        parent=parent,
        update_ids=tuple(json.loads(update_ids)),
        digest=digest,
        learner=learner,
        reason=reason,
        created_at=created,
    )


def receipt(scope: Scope, row: tuple) -> Receipt:
    """From RECEIPT_COLUMNS."""
    id_, selector, removed, event_ids, digest_before, digest_after, replayed, created_at, environment = row
    created = from_text(created_at)
    assert created is not None
    return Receipt(
        id=id_,
        scope=scope,
        selector=json.loads(selector),
        removed=json.loads(removed),
        event_ids=tuple(json.loads(event_ids)),
        digest_before=digest_before,
        digest_after=digest_after,
        replayed=replayed,
        created_at=created,
        environment=json.loads(environment),
    )


def report(scope: Scope, row: tuple) -> Report:
    """From REPORT_COLUMNS."""
    id_, version_id, kind, outcome, detail, created_at = row
    created = from_text(created_at)
    assert created is not None
    return Report(
        id=id_,
        scope=scope,
        version_id=version_id,
        kind=kind,
        outcome=outcome,
        detail=json.loads(detail),
        created_at=created,
    )


def sleep_run(scope: Scope, row: tuple, *, resumed: bool = False) -> SleepRun:
    """From SLEEP_COLUMNS."""
    id_, cursor, stage, owner, lease_until, detail, started_at, ended_at = row
    until, started = from_text(lease_until), from_text(started_at)
    assert until is not None
    assert started is not None
    return SleepRun(
        id=id_,
        scope=scope.owner,
        cursor=cursor,
        stage=stage,
        owner=owner,
        lease_until=until,
        detail=json.loads(detail),
        started_at=started,
        ended_at=from_text(ended_at),
        resumed=resumed,
    )


def work(row: sqlite3.Row | tuple) -> Work:
    """From (id, tenant, user, agent, session, kind, event_id, attempts, last_error, state)."""
    id_, tenant, user, agent, session, kind, event_id, attempts, last_error, state = row
    return Work(
        id=id_,
        scope=Scope(tenant=tenant, user=user, agent=agent, session=session),
        kind=kind,
        event_id=event_id,
        attempts=attempts,
        last_error=last_error,
        state=state,
    )
