"""Means with honest intervals. Shares are 0..1, intervals cover 95 %."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over `n` values in `clusters` groups, with its standard error and its interval low..high."""

    mean: float
    se: float
    low: float
    high: float
    n: int
    clusters: int

    def record(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


def wilson(successes: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval for a share; (0, 1) when n is 0.

    >>> low, high = wilson(50, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    if n <= 0:
        return 0.0, 1.0
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered_se(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Standard error of the mean when values of one cluster go together (the ratio estimator with the
    factor G/(G-1) for G clusters). With a single cluster there is nothing to compare, and each value
    counts as its own.

    >>> clustered_se([1, 1, 0, 0], ["a", "a", "b", "b"])
    0.5
    """
    n = len(values)
    if len(set(clusters)) < 2:
        clusters = range(n)
    groups = len(set(clusters))
    if groups < 2:
        return 0.0
    mean = sum(values) / n
    residual: dict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        residual[cluster] += value - mean
    squares = sum(r * r for r in residual.values())
    return math.sqrt(groups / (groups - 1) * squares) / n


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """The mean of any numbers, with a normal interval from the clustered standard error."""
    if not values:
        return Estimate(mean=math.nan, se=math.nan, low=math.nan, high=math.nan, n=0, clusters=0)
    mean, se = sum(values) / len(values), clustered_se(values, clusters)
    groups = len(set(clusters))
    low, high = mean - Z95 * se, mean + Z95 * se
    return Estimate(mean=mean, se=se, low=low, high=high, n=len(values), clusters=groups)


def clustered_share(correct: Sequence[bool | float], clusters: Sequence[Hashable]) -> Estimate:
    """A share of right answers, with Wilson's interval at the effective number of questions.

    The effective number is mean (1 - mean) / se^2, the number of independent questions that would have
    this standard error; at least the number of clusters and at most n. When every answer is right (or
    wrong) the standard error is 0 and says nothing, so the clusters are counted.

    >>> clustered_share([True] * 40, [i // 10 for i in range(40)]).low > 0.45
    True
    """
    values = [float(value) for value in correct]
    plain = clustered_mean(values, clusters)
    if not values:
        return Estimate(mean=math.nan, se=math.nan, low=0.0, high=1.0, n=0, clusters=0)
    groups = plain.clusters if plain.clusters > 1 else plain.n
    effective = plain.mean * (1 - plain.mean) / plain.se**2 if plain.se > 0 else groups
    effective = min(max(effective, groups), plain.n)
    low, high = wilson(plain.mean * effective, effective)
    return Estimate(mean=plain.mean, se=plain.se, low=low, high=high, n=plain.n, clusters=plain.clusters)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value under which `percent` of `values` lie, interpolated; nan when there are none.

    >>> percentile([1, 2, 3, 4, 5], 50)
    3.0
    """
    if not values:
        return math.nan
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (ordered[above] - ordered[below]) * (place - below))
