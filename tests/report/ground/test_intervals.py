"""Intervals against scipy, hand-worked cases and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ssl_bench.errors import SSLBenchError
from ssl_bench.report.ground.intervals import sampling_error, t_interval, wilson_interval


@given(st.integers(1, 5_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(case: tuple[int, int]) -> None:
    successes, n = case
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_covers_a_proportion() -> None:
    rng = np.random.default_rng(0)
    for share, n in ((0.1, 50), (0.5, 200), (0.9, 1_000)):
        inside = [low <= share <= high for low, high in (wilson_interval(k, n) for k in rng.binomial(n, share, 2_000))]
        assert 0.93 < np.mean(inside) < 0.975


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: float, n: int) -> None:
    with pytest.raises(SSLBenchError, match=f"n={n}"):
        wilson_interval(successes, n)


def test_t_interval_equals_scipy() -> None:
    values = [0.881, 0.884, 0.893]
    assert t_interval(values) == pytest.approx(stats.t.interval(0.95, 2, np.mean(values), stats.sem(values)))
    with pytest.raises(SSLBenchError, match="not 1"):
        t_interval([0.5])


def test_sampling_error_as_in_the_textbook() -> None:
    assert sampling_error(0.5, 10_000) == pytest.approx(0.0098, abs=1e-5)
    assert sampling_error(0.9, 10_000) == pytest.approx(0.00588, abs=1e-5)
