"""Intervals behind the numbers of a table. Pure functions of arrays.

Which interval stands behind a number depends on how many pretraining seeds there are:

* one: Wilson's binomial interval over the test images; it says nothing of what another seed would give;
* two: none, both values are shown (and so are two draws of labels with one seed: two values have no spread to go by);
* three or more: Student's t over the seeds (label draws are averaged within a seed first, they are not replications of
  it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ssl_bench.errors import SSLBenchError

LEVEL = 0.95
FEWEST_SEEDS = 3  # for an interval over seeds, a best row and comparisons


def wilson_interval(successes: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Parameters
    ----------
    successes : number of successes; not a whole number where it is a mean over draws of labels.
    n : number of trials, at least 1.
    level : coverage.

    Returns
    -------
    Lower and upper bound in [0, 1].
    """
    if n < 1 or not 0 <= successes <= n:
        raise SSLBenchError(
            f"a binomial interval needs 0 <= successes <= n and n >= 1, not successes={successes}, n={n}"
        )
    z = float(special.ndtri((1 + level) / 2))
    share, weight = successes / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    # At 0 and at n successes the bound is exactly 0 or 1; rounding must not move it.
    return (0.0 if successes == 0 else max(0.0, centre - half)), (1.0 if successes == n else min(1.0, centre + half))


def difference_interval(
    first: float, second: float, n: int, correlation: float = 0.0, level: float = LEVEL
) -> tuple[float, float]:
    """Newcombe's interval of the difference of two proportions of the same ``n`` trials: Wilson's of each, squared and
    added.

    Parameters
    ----------
    first, second : the two proportions, in [0, 1].
    n : number of trials, at least 1.
    correlation : between the trials' outcomes, in [-1, 1]; 0 where they are not known one by one, which is cautious
        where trials are hard or easy for both.

    Returns
    -------
    Lower and upper bound of ``first - second``.

    References ---------- Newcombe, Improved confidence intervals for the difference between binomial proportions based
    on paired data, Statistics in Medicine 17 (1998).
    """
    (l1, u1), (l2, u2) = (wilson_interval(share * n, n, level) for share in (first, second))
    below, above = (first - l1, u2 - second), (u1 - first, second - l2)
    low, high = (math.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b)) for a, b in (below, above))
    return first - second - low, first - second + high


def balanced_interval(correct: ArrayLike, classes: ArrayLike, level: float = LEVEL) -> tuple[float, float, float]:
    """Mean of the accuracies within each class with its interval over the images: Wilson's of each class, squared and
    added.

    Parameters
    ----------
    correct : [N >= 1] correctness of each image, 0 or 1.
    classes : [N] integer class of each image; classes without images do not count.

    Returns
    -------
    The mean, and its lower and upper bound, in [0, 1].
    """
    right, which = np.asarray(correct, dtype=float), np.asarray(classes)
    below = above = total = 0.0
    present = np.unique(which)
    for label in present:
        of_class = right[which == label]
        low, high = wilson_interval(float(of_class.sum()), len(of_class), level)
        total, below, above = (
            total + of_class.mean(),
            below + (of_class.mean() - low) ** 2,
            above + (high - of_class.mean()) ** 2,
        )
    mean = float(total / len(present))
    return mean, mean - math.sqrt(below) / len(present), mean + math.sqrt(above) / len(present)


def t_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Student's t interval of the mean of at least two independent values."""
    if len(values) < 2:
        raise SSLBenchError(f"a t interval needs two values or more, not {len(values)}")
    mean, half = float(np.mean(values)), t_half_width(float(np.std(values, ddof=1)), len(values), level)
    return mean - half, mean + half


def t_half_width(deviation: float, n: int, level: float = LEVEL) -> float:
    """Half the width of Student's t interval of the mean of ``n`` >= 2 values with this standard deviation."""
    if n < 2:
        raise SSLBenchError(f"a t interval needs two values or more, not {n}")
    return float(special.stdtrit(n - 1, (1 + level) / 2)) * deviation / math.sqrt(n)


def sampling_error(share: float, n: int, level: float = LEVEL) -> float:
    """Half the width of the normal interval that n images leave about a true proportion."""
    return float(special.ndtri((1 + level) / 2)) * math.sqrt(share * (1 - share) / n)
