"""Intervals: they hold the truth as often as they say, also with few clusters, and never have no width."""

from __future__ import annotations

import math
import random

import pytest

from nestmem.evals.stats import (
    Z95,
    clustered_difference,
    clustered_mean,
    clustered_share,
    t95,
    wilson,
)


def test_the_quantile_of_t_is_the_tables() -> None:
    table = {1: 12.7062, 2: 4.3027, 4: 2.7764, 29: 2.0452, 30: 2.0423, 40: 2.0211, 60: 2.0003, 120: 1.9799}
    for freedom, value in table.items():
        assert t95(freedom) == pytest.approx(value, abs=6e-5)
    # The table and the series meet.
    assert t95(30) > t95(31) > t95(32) > Z95 and t95(30) - t95(31) == pytest.approx(0.0027, abs=1e-4)
    assert t95(10**9) == pytest.approx(Z95, abs=1e-6) and t95(0) == math.inf


@pytest.mark.parametrize("groups", [3, 5, 10])
def test_means_of_few_clusters_hold_the_truth(groups: int) -> None:
    rng = random.Random(groups)
    held, tries = 0, 2000
    for _ in range(tries):
        middle = [rng.gauss(0, 1) for _ in range(groups)]
        values = [one + rng.gauss(0, 1) for one in middle for _ in range(8)]
        made = clustered_mean(values, [n // 8 for n in range(len(values))])
        held += made.low <= 0 <= made.high
    assert 0.93 <= held / tries <= 0.97


@pytest.mark.parametrize(("right", "wrong"), [(4, 4), (8, 2)])
def test_shares_and_differences_of_five_clusters_hold_the_truth(right: int, wrong: int) -> None:
    rng = random.Random(right)
    clusters = [n // 10 for n in range(50)]
    shares, differences, tries = 0, 0, 1000

    def draw() -> list[bool]:
        return [rng.random() < share for share in lives for _ in range(10)]

    for _ in range(tries):
        lives = [rng.betavariate(right, wrong) for _ in range(5)]
        values = draw()
        made = clustered_share(values, clusters)
        shares += made.low <= right / (right + wrong) <= made.high
        lives = [rng.betavariate(right, wrong) for _ in range(5)]
        each = [a - b for a, b in zip(values, draw(), strict=True)]
        made = clustered_difference(each, clusters)
        differences += made.low <= 0 <= made.high
    assert shares / tries >= 0.93 and differences / tries >= 0.93


def test_shares_that_are_all_right_have_the_exact_bound() -> None:
    made = clustered_share([True] * 40, [n // 10 for n in range(40)])
    assert (made.low, made.high) == (pytest.approx(0.3976, abs=1e-4), 1.0)
    made = clustered_share([False] * 40, [n // 10 for n in range(40)])
    assert (made.low, made.high) == (0.0, pytest.approx(0.6024, abs=1e-4))
    # One cluster: as if independent. One question: nearly nothing is known.
    assert clustered_share([True] * 50, ["a"] * 50).low == pytest.approx(0.9289, abs=1e-4)
    assert clustered_share([True], ["a"]).low == 0.025
    assert (clustered_share([0.5], ["a"]).low, clustered_share([0.5], ["a"]).high) == (0.0, 1.0)


def test_many_clusters_are_as_before() -> None:
    values = [n % 3 > 0 for n in range(900)]
    made = clustered_share(values, range(900))
    assert (made.low, made.high) == pytest.approx(wilson(600, 900), abs=1e-3)


def test_a_single_value_has_no_interval() -> None:
    made = clustered_mean([3.0], ["a"])
    assert made.mean == 3.0 and math.isnan(made.low) and math.isnan(made.high)
    made = clustered_mean([3.0, 5.0], ["a", "a"])
    assert made.low == pytest.approx(4 - 12.706205 * 1.0) and made.clusters == 1


def test_paired_differences_are_those_of_bonett_and_price() -> None:
    # 20 pairs, 6 that only A has and 2 that only B has: (7 - 3) / 22 +- t sqrt((10/22 - (4/22)^2) / 22).
    values = [1] * 6 + [-1] * 2 + [0] * 12
    made = clustered_difference(values, range(20))
    half = t95(19) * math.sqrt((10 / 22 - (4 / 22) ** 2) / 22)
    assert made.mean == pytest.approx(0.2)
    assert (made.low, made.high) == pytest.approx((4 / 22 - half, 4 / 22 + half), abs=0.01)


def test_differences_that_are_all_the_same_have_a_wide_interval() -> None:
    made = clustered_difference([0] * 5, range(5))
    assert made.se == 0 and -made.low == made.high == pytest.approx(2.776445 * math.sqrt(2) / 7, abs=1e-6)
    assert clustered_difference([0] * 200, range(200)).high < 0.02
    # Two hundred questions of two clusters count as two.
    assert clustered_difference([0] * 200, [n % 2 for n in range(200)]).high == 1.0
    made = clustered_difference([1] * 6, range(6))
    assert 0 < made.low < 0.2 and made.high == 1.0
    made = clustered_difference([1], ["a"])
    assert (made.low, made.high) == (-1.0, 1.0)
    assert clustered_difference([], []).n == 0
