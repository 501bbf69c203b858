"""Energy of the whole machine, where its processor counts it (Linux powercap, Intel RAPL and AMD)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

COUNTERS = Path("/sys/class/powercap")


def read(folder: Path = COUNTERS) -> dict[str, tuple[int, int]] | None:
    """Per processor package (not its parts, which it holds, nor the platform, which holds it) the counter and the
    value at which it starts again, in microjoules; None when there are none or they may not be read."""
    found = {}
    try:
        for package in sorted(folder.glob("*-rapl:[0-9]")):
            if not (package / "name").read_text().startswith("package"):
                continue
            counted = int((package / "energy_uj").read_text())
            found[package.name] = (counted, int((package / "max_energy_range_uj").read_text()))
    except (OSError, ValueError):
        return None
    return found or None


def joules(
    before: Mapping[str, tuple[int, int]] | None, after: Mapping[str, tuple[int, int]] | None
) -> float | None:
    """Between two readings; right when no counter went round more than once. None when either is missing.

    >>> joules({"a": (5_000_000, 10_000_000)}, {"a": (1_000_000, 10_000_000)})
    6.0
    """
    if before is None or after is None or before.keys() != after.keys():
        return None
    used = [(after[name][0] - counted) % top for name, (counted, top) in before.items()]
    return sum(used) / 1e6
