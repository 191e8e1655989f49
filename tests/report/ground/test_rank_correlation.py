"""Rank correlation against scipy and all orders of few rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ssl_bench.errors import SSLBenchError
from ssl_bench.report.ground.rank_correlation import rank_correlation, rank_interval


def test_rank_correlation_is_exact() -> None:
    tau, p = rank_correlation([1, 2, 3, 4, 5], [10, 20, 30, 40, 50])
    assert (tau, p) == pytest.approx((1.0, 2 / 120))  # 2 of the 5! orders are as extreme
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx((-1.0, 2 / 24))
    tied_tau, tied_p = rank_correlation([1, 2, 2, 4, 5], [1, 2, 3, 4, 5])
    assert 0.9 < tied_tau < 1 and tied_p == pytest.approx(4 / 120)  # both orders of the tie, in either direction
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3])).all()


@given(st.lists(st.integers(0, 3), min_size=5, max_size=7).filter(lambda ranks: len(set(ranks)) > 1))
def test_rank_correlation_with_ties_is_that_of_all_orders(ranks: list[int]) -> None:
    other = list(range(len(ranks)))
    tau, p = rank_correlation(ranks, other)
    assert tau == pytest.approx(stats.kendalltau(ranks, other).statistic)
    i, j = np.array(list(itertools.combinations(other, 2))).T
    orders = np.array(list(itertools.permutations(ranks)))
    concordant = np.sign(orders[:, j] - orders[:, i]).sum(axis=1)  # the divisor is the same for every order
    own = abs(int(np.sign(np.array(ranks)[j] - np.array(ranks)[i]).sum()))
    one_sided = min((concordant >= own).mean(), 1.0)
    assert p == pytest.approx(min(1.0, 2 * min(one_sided, (concordant <= -own).mean())), abs=1e-9)


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=5, max_size=7))
def test_rank_interval_of_three_seeds_spans_all_their_resamples(rows: list[list[int]]) -> None:
    """Each of the 27 comes in 3.7 % of the draws, so the middle 95 % reach from the lowest to the highest."""
    values, other = np.array(rows) / 4, list(range(len(rows)))
    taus = [
        float(stats.kendalltau(values[:, list(drawn)].sum(axis=1).round(9), other).statistic)
        for drawn in itertools.product(range(3), repeat=3)
    ]
    if not np.isnan(taus).any():
        assert rank_interval(values.T, other) == pytest.approx((min(taus), max(taus)))
    elif np.isnan(taus).all():
        assert np.isnan(rank_interval(values.T, other)).all()


def test_rank_interval_of_seeds_that_agree_is_a_point() -> None:
    assert rank_interval([[0.1, 0.2, 0.4, 0.3]] * 4, [1, 2, 3, 4]) == pytest.approx((4 / 6, 4 / 6))


def test_rank_interval_narrows_with_more_seeds_of_the_same_spread() -> None:
    rng = np.random.default_rng(0)
    values = np.arange(6) / 10 + rng.normal(scale=0.1, size=(24, 6))
    wide, narrow = (rank_interval(values[:seeds], range(6)) for seeds in (3, 24))
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


@pytest.mark.parametrize("shape", [(1, 5), (3, 4), (5,)])
def test_rank_interval_refuses_what_it_cannot_resample(shape: tuple[int, ...]) -> None:
    with pytest.raises(SSLBenchError, match="seeds >= 2"):
        rank_interval(np.ones(shape), [1, 2, 3, 4, 5])
