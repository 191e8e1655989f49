"""Ranks of rows, how sure they are, and which rows stand together. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ssl_bench.errors import SSLBenchError
from ssl_bench.report.ground.intervals import LEVEL

DRAWS = 2_000
_DIGITS = 12  # rows that are equal must not differ by the order of an addition


def rank_intervals(values: ArrayLike, draws: int = DRAWS, level: float = LEVEL) -> list[tuple[int, int, int]]:
    """The rank of each row's mean over seeds, 1 for the highest, and the interval of it where seeds are drawn anew.

    All rows are drawn with the same seeds, as they are paired by seed; the draws are the same every time. Rows of equal
    means share the better rank. Few seeds make a bootstrap too narrow: with three, no draw can show what a fourth would
    have, so that the interval is a lower bound of what is not known.

    Parameters
    ----------
    values : [S >= 2, N >= 1] seeds by rows.
    draws : number of draws.

    Returns
    -------
    For each row its rank, and the lowest and highest rank of the middle ``level`` of the draws.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 2 or len(x) < 2 or not x.shape[1] or not np.isfinite(x).all():
        raise SSLBenchError(f"rank intervals need finite values of [seeds >= 2, rows >= 1], not of shape {x.shape}")
    drawn = np.random.default_rng(0).multinomial(len(x), np.full(len(x), 1 / len(x)), size=draws)
    means = np.vstack([x.mean(axis=0), drawn @ x / len(x)])
    ranks = stats.rankdata(-np.round(means, _DIGITS), method="min", axis=1).astype(int)
    low, high = np.percentile(ranks[1:], [50 * (1 - level), 50 * (1 + level)], axis=0, method="inverted_cdf")
    return [(int(rank), int(a), int(b)) for rank, a, b in zip(ranks[0], low, high, strict=True)]


def mean_ranks(values: ArrayLike) -> list[float]:
    """The mean over seeds of each row's rank at a seed, 1 for the highest value; equal values share the mean of their
    ranks.

    Parameters
    ----------
    values : [S >= 1, N >= 1] seeds by rows.
    """
    x = np.round(np.asarray(values, dtype=float), _DIGITS)
    return [float(rank) for rank in stats.rankdata(-x, axis=1).mean(axis=0)]


def groups_not_apart(rows: int, apart: Collection[tuple[int, int]]) -> list[tuple[int, ...]]:
    """The largest groups of rows of which no two can be told apart, each of two rows or more.

    Not being told apart does not carry over from one pair to the next, so that a row may be in several groups.

    Parameters
    ----------
    rows : number of rows, which are called 0 to rows - 1.
    apart : pairs of rows that can be told apart, in either order.
    """
    different = {frozenset(pair) for pair in apart}
    near = {a: {b for b in range(rows) if a != b and frozenset((a, b)) not in different} for a in range(rows)}
    groups: list[tuple[int, ...]] = []

    def grow(group: set[int], may: set[int], seen: set[int]) -> None:
        """Bron and Kerbosch's search of all cliques that cannot be made larger."""
        if not may and not seen and len(group) > 1:
            groups.append(tuple(sorted(group)))
        if not may:
            return
        pivot = max(may | seen, key=lambda row: len(near[row] & may))
        for row in sorted(may - near[pivot]):
            grow(group | {row}, may & near[row], seen & near[row])
            may, seen = may - {row}, seen | {row}

    grow(set(), set(range(rows)), set())
    return sorted(groups)
