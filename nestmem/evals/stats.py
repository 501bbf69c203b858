"""Means with their intervals. Shares are 0..1; intervals are to cover 95 %, also with few clusters, for which they use
Student's t (Cameron and Miller, J. Human Resources 50, 2015, section VI: t with G - 1 degrees of freedom)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Z95 = 1.959963984540054
T95 = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)  # fmt: skip
"""The 97.5 % quantile of Student's t with 1 to 30 degrees of freedom."""


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


def t95(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: how many standard errors an interval of 95 % reaches to each side when the
    standard error itself is estimated from `freedom` + 1 values. inf when that is less than 1. Beyond 30 it is the
    series in 1/freedom around the normal quantile (Abramowitz and Stegun 26.7.5), right to five places.

    >>> round(t95(4), 3), round(t95(31), 4), round(t95(1000), 4)
    (2.776, 2.0395, 1.9623)
    """
    if freedom < 1:
        return math.inf
    if freedom <= len(T95):
        return T95[freedom - 1]
    z, v = Z95, freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3


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
    """The mean of any numbers, with an interval of Student's t around it: the clustered standard error times t with
    G - 1 degrees of freedom for G clusters. A normal interval would be too narrow with few clusters (of 95 %, 5
    clusters hold about 89). With one cluster the values count as independent, which they seldom are; a single value
    has no interval (nan)."""
    if not values:
        return Estimate(mean=math.nan, se=math.nan, low=math.nan, high=math.nan, n=0, clusters=0)
    mean, se = sum(values) / len(values), clustered_se(values, clusters)
    groups, freedom = len(set(clusters)), _groups(values, clusters) - 1
    half = t95(freedom) * se if freedom else math.nan
    return Estimate(mean=mean, se=se, low=mean - half, high=mean + half, n=len(values), clusters=groups)


def clustered_share(correct: Sequence[bool | float], clusters: Sequence[Hashable]) -> Estimate:
    """A share of right answers, with Wilson's interval at the effective number of questions, its z being Student's t
    with G - 1 degrees of freedom for G clusters.

    The effective number is mean (1 - mean) / se^2, the number of independent questions that would have
    this standard error; at least the number of clusters and at most n. When every answer is right (or
    wrong) the standard error is 0 and says nothing: the interval is then the exact one (Clopper and Pearson, 1934)
    of as many right answers as there are clusters, 0.025^(1/G) to 1. With one cluster answers count as independent.

    >>> clustered_share([True] * 40, [i // 10 for i in range(40)]).low == 0.025 ** (1 / 4)
    True
    """
    values = [float(value) for value in correct]
    if not values:
        return Estimate(mean=math.nan, se=math.nan, low=0.0, high=1.0, n=0, clusters=0)
    plain, groups = clustered_mean(values, clusters), _groups(values, clusters)
    if min(values) == max(values) and values[0] in (0.0, 1.0):
        bound = 0.025 ** (1 / groups)
        low, high = (bound, 1.0) if values[0] else (0.0, 1.0 - bound)
    elif groups == 1:
        low, high = 0.0, 1.0
    else:
        effective = _effective(plain, groups, plain.mean * (1 - plain.mean))
        low, high = wilson(plain.mean * effective, effective, t95(groups - 1))
    return Estimate(mean=plain.mean, se=plain.se, low=low, high=high, n=plain.n, clusters=plain.clusters)


def clustered_difference(differences: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """The mean of paired differences of shares (each -1..1), with an interval that is never of no width.

    Two systems that agree on a few questions need not be equal. As Agresti and Min (Biometrics 61, 2005) and Bonett
    and Price (J. Educational and Behavioral Statistics 37, 2012) do for paired shares, one made-up question is added
    that only the first system has right and one that only the second has. With N the effective number of questions
    (variance / se^2, at least the number of clusters, at most n), d the mean and q the mean square of the
    differences: m = N d / (N + 2), v = (N q + 2) / (N + 2) - m^2, and the interval is m +- t sqrt(v / (N + 2)), within
    -1..1, t being Student's with G - 1 degrees of freedom. `mean` and `se` are of the real questions alone. With one
    cluster questions count as independent.

    >>> same = clustered_difference([0] * 5, range(5))
    >>> same.mean, round(same.low, 2), round(same.high, 2)
    (0.0, -0.56, 0.56)
    """
    values = [float(value) for value in differences]
    plain = clustered_mean(values, clusters)
    if not values:
        return plain
    groups, square = _groups(values, clusters), sum(value * value for value in values) / len(values)
    size = _effective(plain, groups, square - plain.mean**2)
    middle = size * plain.mean / (size + 2)
    half = t95(groups - 1) * math.sqrt(((size * square + 2) / (size + 2) - middle**2) / (size + 2))
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Estimate(mean=plain.mean, se=plain.se, low=low, high=high, n=plain.n, clusters=plain.clusters)


def _groups(values: Sequence[float], clusters: Sequence[Hashable]) -> int:
    """How many clusters the standard error compares: each value is its own where there is only one."""
    groups = len(set(clusters))
    return groups if groups > 1 else len(values)


def _effective(plain: Estimate, groups: int, variance: float) -> float:
    """The number of independent values of this variance that would have the standard error."""
    return min(max(variance / plain.se**2, groups), plain.n) if plain.se > 0 else float(groups)


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
