"""G4, the guard that watches what the weights say: shadows, and answers that the user then puts right.

The window is kept in the process: a program that answers once and ends has nothing to look back on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from nestmem.agent.guard import Gate, GuardSettings, drawn
from nestmem.store.records import Scope, WeightVersion


@dataclass(frozen=True, kw_only=True)
class Given:
    """An answer from the weights: the version that gave it, the memories it rested on, and whether it was put right."""

    version: str
    memory_ids: frozenset[str]
    corrected: bool = False


@dataclass
class Live:
    """The last answers from weights of each user."""

    settings: GuardSettings
    _given: dict[Scope, deque[Given]] = field(default_factory=dict)
    _turns: int = 0

    def shadows(self, question: str) -> bool:
        """Whether this answer is one of those that are also given without weights. Drawn by hash, so that the same
        conversation draws the same turns."""
        self._turns += 1
        return drawn(self.settings.shadow, question, self._turns)

    def answered(self, owner: Scope, version: str, memory_ids: Iterable[str]) -> None:
        """Remembers an answer from weights."""
        window = self._given.setdefault(owner, deque(maxlen=max(1, self.settings.window)))
        window.append(Given(version=version, memory_ids=frozenset(memory_ids)))

    def superseded(self, owner: Scope, memory_ids: Iterable[str]) -> int:
        """Marks the answers that rested on memories which the user has now replaced; returns how many."""
        gone, window = set(memory_ids), self._given.get(owner, deque())
        found = [place for place, one in enumerate(window) if not one.corrected and one.memory_ids & gone]
        for place in found:
            window[place] = replace(window[place], corrected=True)
        return len(found)

    def gate(self, owner: Scope) -> Gate:
        """Too many of the last answers were put right. Passes while there are fewer than half a window of them."""
        window = self._given.get(owner, deque())
        wrong = sum(one.corrected for one in window)
        share = wrong / len(window) if window else 0.0
        enough = 2 * len(window) >= self.settings.window
        limit = self.settings.corrections
        return Gate(
            name="corrections",
            passed=not enough or share <= limit,
            value=share,
            limit=limit,
            note=f"{wrong} of the last {len(window)} answers from weights",
        )

    def last_good(self, owner: Scope, versions: Sequence[WeightVersion]) -> WeightVersion | None:
        """The version before the first that gave an answer which was put right; None when there is none."""
        wrong = {one.version for one in self._given.get(owner, deque()) if one.corrected}
        places = [place for place, version in enumerate(versions) if version.id in wrong]
        if not places or places[0] == 0:
            return None
        found = versions[places[0] - 1]
        return found if found.learner == versions[-1].learner else None

    def clear(self, owner: Scope) -> None:
        """Begins a new window: after a rollback, or when everything was forgotten."""
        self._given.pop(owner, None)
