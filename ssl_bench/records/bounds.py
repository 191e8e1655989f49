"""What the values of a record can be, metric by metric: checked before a record is written and when it is read."""

from __future__ import annotations

import math

SHARE = (0.0, 1.0)
#: metrics by their name up to an "@" ("top1@20"), accuracies by how it begins: the same by which choices between
#: candidates are made
SHARES = ("map", "map_voc07", "ap", "ap50", "ap75", "dead_dimensions", "recall", "precision", "balanced_accuracy")
ACCURACIES = ("top1", "top5", "balanced_top1")
FROM_ZERO = ("rankme", "spread", "active_units", "mse", "mse_denoised")
_ROUNDING = 1e-6  # of float32


def bounds_of(metric: str) -> tuple[float, float] | None:
    """Lowest and highest value of a metric; None where none are declared: an evaluator of one's own may measure
    anything."""
    name = metric.partition("@")[0]
    if name.startswith(ACCURACIES) or name in SHARES:
        return SHARE
    return (0.0, math.inf) if name in FROM_ZERO else None


def problem_of(metric: str, value: float, low: float | None = None, high: float | None = None) -> str:
    """What is wrong with a value and its interval; "" where nothing is."""
    bounds = bounds_of(metric)
    for name, number in (("", value), ("low end of the interval of ", low), ("high end of the interval of ", high)):
        if number is None or bounds is None:
            continue
        if not (bounds[0] - _ROUNDING <= number <= bounds[1] + _ROUNDING) or math.isinf(number):
            allowed = "from 0 to 1" if bounds == SHARE else "finite and at least 0"
            return f"{name}{metric} must be {allowed}, got {number:g}"
    if (
        low is not None
        and high is not None
        and not (low - _ROUNDING <= value <= high + _ROUNDING)
        and not math.isnan(value)
    ):
        return f"{metric} is {value:g}, outside of its interval from {low:g} to {high:g}"
    if (low is None) != (high is None):
        return f"{metric} has one end of an interval; give both, or none"
    return ""


def alarm_of(value: float, low: float | None, high: float | None) -> str:
    """What is wrong with a value that is watched over, in words; "" where it is within its bounds (None: none on that
    side)."""
    if low is not None and not value >= low:
        return f"is {value:.4g}, and must be at least {low:g}"
    if high is not None and not value <= high:
        return f"is {value:.4g}, and must be at most {high:g}"
    return ""
