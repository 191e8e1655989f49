"""Paired comparisons of two rows. Pure functions of arrays.

Two rows are compared on the same seeds and the same test images. Both are samples: another seed and another test set
would each give other numbers. That is the fully crossed design of the reader studies in medical imaging (readers:
seeds, cases: images). A t-test over seeds ignores the images, McNemar's test ignores the seeds; `compare_crossed`
counts both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ssl_bench.errors import SSLBenchError
from ssl_bench.report.ground.intervals import LEVEL

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """A paired difference, first minus second, with its interval and two-sided p."""

    difference: float
    low: float
    high: float
    p: float
    seeds: int
    images: int  #: 0: compared over seeds alone, no predictions were at hand


def compare_seeds(first: ArrayLike, second: ArrayLike, n: int = 0, level: float = LEVEL) -> Comparison:
    """Paired t-test over seeds; for measurements without predictions. Takes the test images as given.

    Accuracies over n images move in steps of 1 / n. Differences that are alike at every seed are alike up to that step
    only, so a seed's standard deviation counts as half a step or more, here and in `compare_crossed`.

    Parameters
    ----------
    first, second : [S] values of the two rows at the same S >= 2 seeds.
    n : images behind each value; 0: the values are exact.
    """
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if differences.ndim != 1 or len(differences) < 2:
        raise SSLBenchError(
            "a paired comparison needs the same two seeds or more of both rows, not arrays of shape "
            f"{differences.shape}"
        )
    return _compared(
        float(differences.mean()), seed_variance(differences, n), len(differences) - 1, len(differences), 0, level
    )


def seed_variance(differences: np.ndarray, images: int = 0) -> float:
    """Variance of the mean over S >= 2 seeds of differences [S] of shares of ``images`` (0: exact values); see
    `compare_seeds` for its least."""
    variance = float(differences.var(ddof=1)) / len(differences)
    return max(variance, _least(images, len(differences))) if images > 0 else variance


def compare_crossed(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> Comparison:
    """Paired comparison of two rows where seeds and test images are both random (Dorfman-Berbaum-Metz, df of Hillis).

    The differences d[s, i] are split into a mean, a seed effect, an image effect and the rest. The mean's variance is
    estimated by ``(MS_seed + max(MS_image - MS_rest, 0)) / (S * I)``, its degrees of freedom by Hillis' formula
    ``numerator**2 / (MS_seed**2 / (S - 1))``: few where seeds dominate, many where images do.

    With three seeds MS_seed is close to zero now and then, and the smallest p-values, the very ones that Holm's
    correction looks at, come several times too often. So a difference must also hold over the seeds alone: p is the
    larger and the interval the wider of this analysis and the paired t-test over seeds. Simulated with three seeds, p
    <= 0.002 then comes at most about as often as it says, whichever of seeds and images varies more.

    Parameters
    ----------
    first, second : [S, I] correctness in [0, 1] of the two rows: the same S >= 2 seeds, the same I >= 2 test images, in
        order.

    References ---------- Hillis, A comparison of denominator degrees of freedom methods for multiple observer ROC
    analysis, Statistics in Medicine 26 (2007).
    """
    d = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if d.ndim != 2 or min(d.shape) < 2:
        raise SSLBenchError(
            f"a crossed comparison needs [seeds >= 2, images >= 2] values of both rows, not arrays of shape {d.shape}"
        )
    seeds, images = d.shape
    mean, by_seed, by_image = d.mean(), d.mean(axis=1), d.mean(axis=0)
    ms_image = seeds * float(((by_image - mean) ** 2).sum()) / (images - 1)
    rest = d - by_seed[:, None] - by_image[None, :] + mean
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
    of_seeds = seed_variance(by_seed, images)  # MS_seed / (S * I)
    return compare_variances(
        float(mean), of_seeds, max(ms_image - ms_rest, 0.0) / (seeds * images), seeds, images, level
    )


def compare_drawn(
    first: ArrayLike,
    second: ArrayLike,
    first_drawn: ArrayLike,
    second_drawn: ArrayLike,
    images: int,
    level: float = LEVEL,
) -> Comparison:
    """`compare_crossed` for what is no mean over images, such as mAP, from bootstrap draws of the test images in its
    place.

    The variance over draws of the mean difference is that of the images; what of it differs from seed to seed is in the
    variance over seeds already, and is taken away.

    Parameters
    ----------
    first, second : [S] values of the two rows at the same S >= 2 seeds.
    first_drawn, second_drawn : [S, B] the same values on B >= 2 resamples of the test images, the same resamples
        everywhere.
    images : number of test images, at least 1.
    """
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    drawn = np.asarray(first_drawn, dtype=float) - np.asarray(second_drawn, dtype=float)
    if drawn.ndim != 2 or min(drawn.shape) < 2 or differences.shape != drawn.shape[:1] or images < 1:
        raise SSLBenchError(
            "a comparison by resampling needs [seeds >= 2] values, [seeds, draws >= 2] draws and images, not shapes "
            f"{differences.shape}, {drawn.shape}"
        )
    drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]  # a resample may hold no object at all
    seeds = len(differences)
    together, apart = drawn.mean(axis=0), drawn - drawn.mean(axis=0)
    rest = float(apart.var(axis=1).sum()) / (seeds - 1) / seeds
    return compare_variances(
        float(differences.mean()),
        seed_variance(differences),
        max(float(together.var()) - rest, 0.0),
        seeds,
        images,
        level,
    )


def compare_variances(
    mean: float, of_seeds: float, of_images: float, seeds: int, images: int, level: float = LEVEL
) -> Comparison:
    """`compare_crossed` from its parts: the wider of the analysis of seeds and images and that of seeds alone.

    Parameters
    ----------
    mean : the mean difference.
    of_seeds, of_images : the parts of the mean's variance that another S >= 2 seeds and another test set would show.
    """
    variance = of_seeds + of_images
    df = math.inf if of_seeds <= 1e-12 * variance else variance**2 / (of_seeds**2 / (seeds - 1))
    crossed = _compared(mean, variance, df, seeds, images, level)
    alone = _compared(mean, of_seeds, seeds - 1, seeds, images, level)
    low, high = min(crossed.low, alone.low), max(crossed.high, alone.high)
    return Comparison(mean, low, high, max(crossed.p, alone.p), seeds, images)


def _least(images: int, seeds: int) -> float:
    """The least variance of a mean over seeds of numbers that move in steps of 1 / images: a seed's deviation counts as
    half a step."""
    return (0.5 / images) ** 2 / seeds


def _compared(mean: float, variance: float, df: float, seeds: int, images: int, level: float) -> Comparison:
    error = math.sqrt(variance)
    if error <= 1e-12 * max(1.0, abs(mean)):  # every seed gave the same difference
        return Comparison(mean, mean, mean, 1.0 if abs(mean) < 1e-12 else 0.0, seeds, images)
    # Student's t from scipy.special, a hundred times quicker than scipy.stats' objects; it knows infinite degrees of
    # freedom.
    half = float(special.stdtrit(df, (1 + level) / 2)) * error
    return Comparison(mean, mean - half, mean + half, float(2 * special.stdtr(df, -abs(mean) / error)), seeds, images)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given: those at or below 0.05 hold together at 5 %.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, reached = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = reached
    return adjusted
