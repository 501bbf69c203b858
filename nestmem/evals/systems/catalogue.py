"""What can be judged, by name. `nestmem.evals.systems.base` says what a system must keep to."""

from __future__ import annotations

from nestmem.evals.systems import baselines, endpoint, mem0, ours, pages, retrieval, scripted, tmem
from nestmem.evals.systems.base import Kind

KINDS: dict[str, Kind] = {
    kind.name: kind
    for part in (baselines, retrieval, pages, ours, tmem, mem0, endpoint, scripted)
    for kind in part.KINDS
}
DEFAULT = (
    "none",
    "full",
    "recent",
    "bm25",
    "embedding",
    "hybrid",
    "summary",
    "profile",
    "ours-text",
    "oracle",
)
"""What is run when nobody says otherwise: no model, and no package beyond those of the judge."""
