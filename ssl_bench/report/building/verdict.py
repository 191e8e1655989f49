"""One sentence for whoever must choose a row, from validation numbers alone."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from ssl_bench.report.building.columns import stages_evaluator
from ssl_bench.report.ground.intervals import LEVEL
from ssl_bench.report.ground.paired_comparisons import compare_variances, seed_variance
from ssl_bench.report.reading.records import RunRecords


def verdict(results: RunRecords) -> str:
    """The best row that needs no labels, and by how much it leads: the best row of weights from elsewhere, else the
    next best one.

    By the linear probe's best stage on validation of the first labelled set, top-1, all labels. The interval is over
    shared seeds and validation images, as the tables' comparisons are (`compare_variances`), but as if the rows were
    judged on different images, which is cautious. One seed has no spread to be known, two have too little for an
    interval; that is said. "" with fewer than two rows.

    >>> verdict(load("runs/photos"))  # doctest: +SKIP
    'Best on your validation: simclr, +2.1 over timm:resnet18.a1_in1k (interval 0.4 to 3.8)'
    """
    rows = {row.row: row for row in results.run.rows if row.block in ("pretext", "elsewhere") and not row.uses_labels}
    sets = results.data_sets()
    frame = results.frame
    accuracies = frame[
        (frame["split"] == "validation")
        & (frame["metric"] == "top1")
        & frame["best"].astype(bool)
        & (frame["labels"] == 1.0)
    ]
    data = str(sets[0]["name"]) if sets else ""
    accuracies = accuracies[
        (accuracies["evaluator"] == stages_evaluator(results, data))
        & accuracies["row"].isin(list(rows))
        & (accuracies["data"] == data)
    ]
    values = {
        str(row): {int(str(seed)): float(v) for seed, v in part.groupby("seed")["value"].mean().items()}
        for row, part in accuracies.groupby("row")
    }
    if len(values) < 2:
        return ""
    ranked = sorted(values, key=lambda row: -float(np.mean(list(values[row].values()))))
    best = ranked[0]
    others = [row for row in ranked[1:] if rows[row].block == "elsewhere"] if rows[best].block != "elsewhere" else []
    other = (others or ranked[1:])[0]
    if len(shared := sorted(set(values[best]) & set(values[other]))) == 2:
        return _of_two(best, other, [values[best][seed] - values[other][seed] for seed in shared])
    difference, low, high = _mean_difference(values[best], values[other], int(accuracies["n"].min()))
    if math.isnan(difference):
        return ""
    one_seed = len(shared) == 1
    interval = f"interval {100 * low:.1f} to {100 * high:.1f}".replace("-", "−") + (
        ", of the images alone: one seed" if one_seed else ""
    )
    if low > 0:
        word = "Highest" if one_seed else "Best"
        return f"{word} on your validation: {best}, {_signed(difference)} over {other} ({interval})"
    return f"Best on your validation: {best} and {other} cannot be told apart ({_signed(difference)}, {interval})"


def _of_two(best: str, other: str, differences: list[float]) -> str:
    """Two seeds have no interval: both differences are told, and whether they agree."""
    both = ", ".join(map(_signed, differences))
    if min(differences) > 0:
        return f"Highest on your validation with both seeds: {best}, over {other} by {both} (two seeds: no interval)"
    return f"Best on your validation: {best} and {other} cannot be told apart ({both}; two seeds: no interval)"


def _signed(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("-", "−")


def _mean_difference(first: dict[int, float], second: dict[int, float], images: int) -> tuple[float, float, float]:
    """Mean difference over shared seeds, and its interval."""
    seeds = sorted(set(first) & set(second))
    if not seeds or images < 1:
        return math.nan, math.nan, math.nan
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    mean = float(differences.mean())
    shares = [float(np.mean([row[seed] for seed in seeds])) for row in (first, second)]
    of_images = sum(share * (1 - share) for share in shares) / images
    if len(seeds) == 1:
        half = float(special.ndtri((1 + LEVEL) / 2)) * math.sqrt(of_images)
        return mean, mean - half, mean + half
    # The predictions behind validation numbers are not stored: rows count as judged on different images.
    comparison = compare_variances(mean, seed_variance(differences, images), of_images, len(seeds), images)
    return mean, comparison.low, comparison.high
