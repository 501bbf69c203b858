"""How near a memory is: its activation from when it was told, how often it was used and when last.

What was needed often and lately is likely to be needed now: the log odds that a memory is needed fall with the
logarithm of the time since its uses and grow with the logarithm of their number (Anderson and Schooler 1991,
Reflections of the environment in memory, Psychological Science 2(6), 396-408). ACT-R writes this as the base-level
activation of n presentations, t_j days ago each (Anderson and Lebiere 1998):

    B = ln( t_1^-d + ... + t_n^-d ),   d = 0.5

The ledger keeps the first (the telling), the last use and the number of uses, so the ones between are taken as
evenly spread (Petrov 2006, Computationally efficient approximation of the base-level learning equation in ACT-R,
ICCM, his k = 1). With t days since the last of n presentations and L days since the first, at d = 1/2:

    B = ln( t^-1/2 + (n - 1) * 2 / (L^1/2 + t^1/2) )      nats; a presentation one day ago alone gives 0

Nothing here ever removes a memory. Strength only orders: the end of `order` leaves the weights first when a sleep
finds no room for all, and `nearness` is what recall multiplies into its ranking.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime

import numpy as np

from nestmem.store import MemoryRecord, Use
from nestmem.store.records import to_utc

DAY_SECONDS = 86_400
# Uses within the last hour count as an hour ago: the power law has no value at 0.
MIN_AGE_DAYS = 1 / 24
# The activation of what was told once, a year ago, and of ten presentations a day ago.
FAINT, VIVID = -0.5 * math.log(365), math.log(10)


def activation(told_N: np.ndarray, last_N: np.ndarray, uses_N: np.ndarray) -> np.ndarray:
    """Base-level activation in nats of N memories.

    told_N: days since each was told. last_N: days since its last use (not read where uses_N is 0). uses_N: how
    often it was used after it was told. Ages under MIN_AGE_DAYS (also of what lies ahead) count as that.

    >>> activation(np.array([1.0, 365.0]), np.array([1.0, 1.0]), np.array([9, 0])).round(2).tolist()
    [2.3, -2.95]
    """
    last_N = np.maximum(np.where(uses_N > 0, last_N, told_N), MIN_AGE_DAYS)
    told_N = np.maximum(told_N, last_N)
    return np.log(last_N**-0.5 + uses_N * 2 / (np.sqrt(told_N) + np.sqrt(last_N)))


def nearness(activation_N: np.ndarray) -> np.ndarray:
    """Activations on a scale from 0 (FAINT or less) to 1 (VIVID or more).

    >>> nearness(np.array([-9.0, FAINT, VIVID, 9.0])).tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    return np.clip((activation_N - FAINT) / (VIVID - FAINT), 0.0, 1.0)


def strengths(memories: Iterable[MemoryRecord], uses: Mapping[str, Use], now: datetime) -> dict[str, float]:
    """Memory id -> activation in nats at `now`. uses: as `Ledger.uses` gives them; ids without a memory are ignored."""
    records = list(memories)
    present = to_utc(now).timestamp()
    used = [uses.get(record.id) for record in records]
    told_N = _days([record.valid_from for record in records], present)
    last_N = _days([use.last_used if use else to_utc(now) for use in used], present)
    count_N = np.array([use.uses if use else 0 for use in used], dtype=float)
    values = activation(told_N, last_N, count_N).tolist()
    return {record.id: value for record, value in zip(records, values, strict=True)}


def order(memories: Iterable[MemoryRecord], uses: Mapping[str, Use], now: datetime) -> list[str]:
    """Ids of the memories, the strongest first: what leaves the weights last.

    Of two as strong, the one that was told later comes first, then the one with the greater id.
    """
    records = {record.id: record for record in memories}
    strength = strengths(records.values(), uses, now)
    return sorted(records, key=lambda id_: (strength[id_], records[id_].valid_from, id_), reverse=True)


def _days(moments: list[datetime], present: float) -> np.ndarray:
    seconds_N = np.array([moment.timestamp() for moment in moments], dtype=float)
    return (present - seconds_N) / DAY_SECONDS
