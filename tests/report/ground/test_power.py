"""Power against statsmodels' formula as scipy writes it, and against t-tests on simulated seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ssl_bench.errors import SSLBenchError
from ssl_bench.report.ground.intervals import t_interval
from ssl_bench.report.ground.power import interval_of, power_of, resolved_difference, seeds_for


def _power_by_scipy(effect: float, n: int, alpha: float = 0.05) -> float:
    """As ``statsmodels.stats.power.ttest_power(effect, n, alpha)``."""
    bound = stats.t.isf(alpha / 2, n - 1)
    shift = effect * np.sqrt(n)
    return float(stats.nct.sf(bound, n - 1, shift) + stats.nct.cdf(-bound, n - 1, shift))


@pytest.mark.parametrize("seeds", [2, 3, 5, 9, 40])
@pytest.mark.parametrize("effect", [0.0, 0.1, 0.7, 2.0])
def test_power_is_that_of_the_noncentral_t(seeds: int, effect: float) -> None:
    assert power_of(effect * 0.012, 0.012, seeds) == pytest.approx(_power_by_scipy(effect, seeds), abs=1e-5)
    strict = _power_by_scipy(effect, seeds, 0.05 / 28)
    if not np.isnan(strict):  # scipy's noncentral t gives none where it is close to 1
        assert power_of(effect, 1.0, seeds, pairs=28) == pytest.approx(strict, abs=1e-5)


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 34), (0.8, 15), (1.0, 10)])
def test_sample_sizes_of_the_textbook(effect: float, seeds: int) -> None:
    """A paired t-test at 5 % with 80 % power: the numbers of pairs in Cohen (1988) and G*Power."""
    assert seeds_for(effect * 0.03, 0.03) == seeds


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_stated_difference_is_found_in_80_percent_of_simulated_runs(seeds: int) -> None:
    rng, spread = np.random.default_rng(seeds), 0.012
    stated = resolved_difference(spread, seeds)
    first, common = rng.normal(scale=spread / np.sqrt(2), size=(2, 20_000, seeds)), rng.normal(size=(20_000, seeds))
    second = rng.normal(scale=spread / np.sqrt(2), size=(20_000, seeds))
    p = stats.ttest_rel(first[0] + common + stated, second + common, axis=1).pvalue
    assert (p <= 0.05).mean() == pytest.approx(0.8, abs=0.012)
    half = (stats.ttest_rel(first[0] + interval_of(spread, seeds), second, axis=1).pvalue <= 0.05).mean()
    assert 0.4 < half < 0.62  # a difference as large as half the interval is found in about half of the runs


def test_half_the_interval_is_that_of_values_with_this_spread() -> None:
    values = [0.1, 0.4, 0.25, 0.2]
    low, high = t_interval(values)
    assert interval_of(float(np.std(values, ddof=1)), 4) == pytest.approx((high - low) / 2)
    assert interval_of(1.2, 3) == pytest.approx(stats.t.ppf(0.975, 2) * 1.2 / np.sqrt(3))
    assert interval_of(1.2, 3, pairs=10) == pytest.approx(stats.t.ppf(1 - 0.0025, 2) * 1.2 / np.sqrt(3))


def test_what_is_resolved_has_the_power_asked_for_and_more_seeds_resolve_less() -> None:
    resolved = [resolved_difference(0.01, seeds, pairs=6, power=0.9) for seeds in (3, 4, 6, 20)]
    assert [power_of(d, 0.01, n, 6) for d, n in zip(resolved, (3, 4, 6, 20), strict=True)] == pytest.approx([0.9] * 4)
    assert resolved == sorted(resolved, reverse=True) and resolved_difference(0.0, 3) == 0
    assert seeds_for(1e-5, 1.0) is None and seeds_for(0.01, 0.0) == 2
    n = seeds_for(0.01, 0.012)
    assert n is not None and resolved_difference(0.012, n) <= 0.01 < resolved_difference(0.012, n - 1)


@pytest.mark.parametrize(("spread", "seeds", "pairs"), [(0.01, 1, 1), (-1.0, 3, 1), (0.01, 3, 0)])
def test_what_has_no_power_is_refused(spread: float, seeds: int, pairs: int) -> None:
    with pytest.raises(SSLBenchError, match="power needs two seeds"):
        power_of(0.01, spread, seeds, pairs)
