"""What a paired comparison over seeds can be expected to find. Pure functions of numbers.

A difference is *detected* where a paired t-test over seeds has p <= 0.05, after Holm's correction where there are
several pairs. The *smallest difference that n seeds resolve* is the true difference that is detected in 80 % of runs:
its power is 80 %. It is larger than half the width of the interval, which a true difference of that size leaves in
about half of the runs only.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special

from ssl_bench.errors import SSLBenchError
from ssl_bench.report.ground.intervals import LEVEL, t_half_width

POWER = 0.8
MOST_SEEDS = 1_000  # looked at
_NODES, _HALF_WEIGHTS = np.polynomial.legendre.leggauss(400)
_QUANTILES, _WEIGHTS = (_NODES + 1) / 2, _HALF_WEIGHTS / 2


def power_of(difference: float, spread: float, seeds: int, pairs: int = 1, level: float = LEVEL) -> float:
    """How often a paired t-test over seeds detects a true difference between two rows.

    Parameters
    ----------
    difference : the true difference of the two rows' means.
    spread : standard deviation over seeds of the rows' difference, above 0.
    seeds : number of seeds, 2 or more.
    pairs : number of pairs in Holm's correction, of which this one is held to the strictest step, as a pair is that is
        the only one to differ.
    """
    if seeds < 2 or not spread > 0 or pairs < 1:
        raise SSLBenchError(
            f"power needs two seeds or more, a spread above 0 and a pair, not seeds={seeds}, spread={spread:g}, "
            f"pairs={pairs}"
        )
    shift, df = abs(difference) / spread * math.sqrt(seeds), seeds - 1
    bound = float(special.stdtrit(df, 1 - (1 - level) / (2 * pairs)))
    # The noncentral t as a mean over the estimated spread: scipy's own function gives NaN for large differences.
    estimated = bound * np.sqrt(special.chdtri(df, 1 - _QUANTILES) / df)
    return float(_WEIGHTS @ (special.ndtr(shift - estimated) + special.ndtr(-shift - estimated)))


def resolved_difference(spread: float, seeds: int, pairs: int = 1, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest true difference that is detected with this power; parameters as for ``power_of``."""
    if spread == 0 and seeds >= 2:
        return 0.0
    # in units of the spread; at the bound itself the power is about a half, and rises with the difference
    high = 1.0
    while power_of(high, 1.0, seeds, pairs, level) < power:
        high *= 2
    return spread * float(optimize.brentq(lambda d: power_of(d, 1.0, seeds, pairs, level) - power, 0.0, high))


def seeds_for(
    difference: float, spread: float, pairs: int = 1, power: float = POWER, level: float = LEVEL
) -> int | None:
    """The fewest seeds that detect a true difference above 0 with this power; None where ``MOST_SEEDS`` do not."""
    if spread == 0:
        return 2
    return next((n for n in range(2, MOST_SEEDS + 1) if power_of(difference, spread, n, pairs, level) >= power), None)


def interval_of(spread: float, seeds: int, pairs: int = 1, level: float = LEVEL) -> float:
    """Half the width that a paired t-interval of a difference is expected to have, at Holm's strictest step of
    ``pairs``."""
    return t_half_width(spread, seeds, 1 - (1 - level) / pairs)
