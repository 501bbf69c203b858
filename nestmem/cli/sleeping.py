"""`nestmem sleep` and `nestmem versions`: sleeping with a line of progress, and what the guard reported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nestmem.cli import show
from nestmem.errors import NestmemError

if TYPE_CHECKING:
    from nestmem.agent.controller import Memory
    from nestmem.agent.sleep import SleepReport
    from nestmem.store.records import Report, Scope, WeightVersion

STAGES = {
    "learn": "learning what waits",
    "plan": "planning",
    "study": "studying",
    "consolidate": "consolidating",
    "guard": "checking",
    "commit": "storing",
}


def through(
    memory: Memory, scopes: Iterable[Scope], *, quiet: bool
) -> tuple[dict[Scope, SleepReport], list[NestmemError]]:
    """Sleeps for one user after the other; a user whose sleep fails does not keep the others awake."""
    done: dict[Scope, SleepReport] = {}
    failed: list[NestmemError] = []
    scopes = list(scopes)
    for scope in scopes:
        with show.err.status(f"{scope.user}: ...") as line:

            def progress(stage: str, user: str = scope.user) -> None:
                line.update(f"{user}: {STAGES.get(stage, stage)} ...")

            try:
                done[scope] = memory.sleep(scope, on_stage=progress)
            except NestmemError as error:
                failed.append(error)
                continue
        if not quiet:
            report(scope.user if len(scopes) > 1 else "", done[scope])
    return done, failed


def report(user: str, given: SleepReport) -> None:
    """What one sleep did, in a few lines."""
    if user:
        show.line(user, "bold")
    if given.outcome == "nothing":
        show.line("nothing new to sleep on", "dim")
        return
    seconds = f"{given.ms / 1000:.1f} s"
    if given.outcome == "refused":
        show.line(f"refused after {seconds}: the weights stay as they were", "yellow")
    else:
        resumed = ", taken up where it was interrupted" if given.resumed else ""
        show.line(f"slept {seconds}{resumed}: {given.new} memories became slow, {given.slow} are")
    parts = [f"{given.examples} examples studied"]
    parts += [f"{given.merged} told again"] if given.merged else []
    parts += [f"{given.replaced} replaced by newer ones"] if given.replaced else []
    show.line(f"  {', '.join(parts)}", "dim")
    if given.kept_out:
        show.line(f"  kept as text: {_counts(given.kept_out)}", "yellow")
    for number, gates in enumerate(given.rounds, 1):
        words = " · ".join(_gate(gate.plain()) for gate in gates)
        show.line(f"  round {number}: {words}", "dim")


def listed(versions: Sequence[WeightVersion], reports: Sequence[Report]) -> None:
    """The versions, oldest first, each with its gates, between them the candidates that were refused."""
    refused = sorted((r for r in reports if r.outcome == "refused"), key=lambda r: r.created_at)
    shadows: dict[str, list[bool]] = {}
    for one in reports:
        if one.kind == "shadow" and one.version_id:
            shadows.setdefault(one.version_id, []).append(bool(one.detail.get("agrees")))
    for one in versions:
        while refused and refused[0].created_at <= one.created_at:
            _refusal(refused.pop(0))
        when = one.created_at.isoformat(timespec="seconds")
        show.line(f"{one.id}  {when}  {len(one.update_ids)} updates  {one.digest[:12]}  {one.reason}")
        for noted in reports:
            if noted.version_id == one.id and noted.outcome == "committed":
                words = _gates(noted.detail)
                show.line(f"  {noted.kind}{': ' if words else ''}{words}", "dim")
        if one.id in shadows:
            agreed = shadows[one.id]
            show.line(
                f"  shadows: {sum(agreed)} of {len(agreed)} answers are the same without weights", "dim"
            )
    for left in refused:
        _refusal(left)


def _refusal(one: Report) -> None:
    when = one.created_at.isoformat(timespec="seconds")
    show.line(f"{when}  {one.kind} refused: {_gates(one.detail, failed=True)}", "yellow")


def _gates(detail: dict[str, Any], *, failed: bool = False) -> str:
    """The gates of a report in a line; of the last round of a sleep. failed: only those that failed."""
    rounds = detail.get("rounds") or [detail.get("gates", [])]
    gates = [gate for gate in rounds[-1] if not (failed and gate["passed"])]
    words = [_gate(gate) for gate in gates] + ([detail["why"]] if "why" in detail else [])
    return " · ".join(words)


def _gate(gate: dict[str, Any]) -> str:
    """ "recall 0.95 (19 of 20)", "drift 0.7 FAILED, limit 0.5 (nats/token)"."""
    value = f" {gate['value']:.3g}" if "value" in gate else ""
    limit = f", limit {gate['limit']:.3g}" if not gate["passed"] and gate.get("limit") is not None else ""
    note = f" ({gate['note']})" if gate.get("note") else ""
    return f"{gate['gate']}{value}{'' if gate['passed'] else ' FAILED'}{limit}{note}"


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{count} by {name}" for name, count in numbers.items())
