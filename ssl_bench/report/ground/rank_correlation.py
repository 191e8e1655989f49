"""Kendall's rank correlation of two orders of rows, its p and its interval. Pure functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ssl_bench.errors import SSLBenchError
from ssl_bench.report.ground.intervals import LEVEL


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau-b and its exact two-sided p (all orders alike likely; ties kept as they are).

    Parameters
    ----------
    first, second : [N] values of the same rows, N >= 2.
    """
    tied = len(set(first)) < len(first) or len(set(second)) < len(second)
    if not tied:
        result = stats.kendalltau(first, second, method="exact")
        return float(result.statistic), float(result.pvalue)
    if len(set(first)) == 1 or len(set(second)) == 1:
        return math.nan, math.nan
    # scipy's exact distribution knows no ties; up to 8 rows every order is tried, above that 9,999 fixed random ones.
    test = stats.permutation_test(
        (list(first),),
        lambda order, axis: _taus(order, np.asarray(second, dtype=float)),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=40_320 if len(first) <= 8 else 9_999,
        rng=np.random.default_rng(0),
    )
    return float(stats.kendalltau(first, second).statistic), float(test.pvalue)


def rank_interval(
    values: ArrayLike, other: Sequence[float], draws: int = 10_000, level: float = LEVEL
) -> tuple[float, float]:
    """Percentile interval of Kendall's tau-b where the seeds behind one of the two orders are drawn anew, with
    replacement.

    All rows are drawn with the same seeds. The draws are the same every time. With three seeds each of the 27 resamples
    comes in more than 2.5 % of the draws, so that the 95 % interval reaches from the lowest to the highest of them.

    Parameters
    ----------
    values : [S, N], S >= 2 seeds of N >= 2 rows; each draw's means over seeds make one order.
    other : [N] values that make the other order.
    draws : number of draws.

    Returns
    -------
    Lower and upper bound in [-1, 1]; NaN where every draw leaves all rows equal.
    """
    x, y = np.asarray(values, dtype=float), np.asarray(other, dtype=float)
    if x.ndim != 2 or min(x.shape) < 2 or x.shape[1:] != y.shape:
        raise SSLBenchError(
            f"a bootstrap over seeds needs [seeds >= 2, rows >= 2] values and as many others, not shapes {x.shape} "
            f"and {y.shape}"
        )
    # [draws, S]: how often each seed
    drawn = np.random.default_rng(0).multinomial(len(x), np.full(len(x), 1 / len(x)), size=draws)
    means = np.round(drawn @ x / len(x), 12)  # rows that are equal must not differ by the order of an addition
    taus = _taus(means, y)
    taus = taus[~np.isnan(taus)]
    if len(taus) == 0:
        return math.nan, math.nan
    low, high = np.percentile(taus, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _taus(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of many orders [..., N] with one [N], thousands of times quicker than one by one; NaN where one
    is all ties."""
    i, j = np.triu_indices(len(second), k=1)
    x, y = np.sign(first[..., i] - first[..., j]), np.sign(second[i] - second[j])
    untied = np.sqrt((x**2).sum(axis=-1) * (y**2).sum())
    return np.divide(x @ y, untied, out=np.full(np.shape(untied), math.nan), where=untied > 0)
