"""Paired comparisons between the rows of a table, and the marks that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ssl_bench.report.ground.content import Column, Line, PairwiseResult
from ssl_bench.report.ground.intervals import FEWEST_SEEDS
from ssl_bench.report.ground.paired_comparisons import (
    SIGNIFICANT,
    Comparison,
    compare_crossed,
    compare_drawn,
    compare_seeds,
    holm,
)
from ssl_bench.report.reading.correctness import Correctness


def compare_rows(correctness: Correctness, data: str, column: Column, lines: list[Line]) -> list[PairwiseResult]:
    """The best pretrained row against every other, over three shared seeds or more; marks it and those that cannot be
    told from it.

    Which row is best is read from the same numbers. Holm's correction over the comparisons with it keeps the truly best
    row among the marked ones in 95 % of tables (multiple comparisons with the best, Hsu 1984). Nothing is marked while
    a row of too few seeds reaches into the best one's numbers: it might be the best.
    """
    rows = ranked_rows(column, lines)
    if not rows:
        return []
    sign = 1 if column.higher_is_better else -1
    best = max(rows, key=lambda line: sign * line.cells[column.key].value)
    a = best.cells[column.key].values
    shared = [(other, shared_seeds(correctness, data, column, best, other)) for other in rows if other is not best]
    within = [
        other
        for other, seeds in shared
        if len(seeds) < FEWEST_SEEDS and _reaches(other.cells[column.key].values, a, sign)
    ]
    if len(a) < FEWEST_SEEDS or within:
        return []
    best.cells[column.key].best = True
    compared = [
        (other, compare_pair(correctness, data, column, (best, other), seeds))
        for other, seeds in shared
        if len(seeds) >= FEWEST_SEEDS
    ]
    results = []
    for (other, c), p in zip(compared, holm([c.p for _, c in compared]), strict=True):
        results.append(
            PairwiseResult(column.key, best.row, other.row, c.difference, c.low, c.high, c.p, p, c.seeds, c.images)
        )
        if p > SIGNIFICANT:
            best.cells[column.key].equal = other.cells[column.key].equal = True
    return results


def ranked_rows(column: Column, lines: list[Line]) -> list[Line]:
    """The rows that are compared with each other in a column: pretrained without labels, and with a number in it."""
    rows = [line for line in lines if line.block == "pretext" and not line.variant and not line.uses_labels]
    return [line for line in rows if not math.isnan(line.cells[column.key].value)]


def _reaches(values: Mapping[int, float], best: Mapping[int, float], sign: int) -> bool:
    """Whether the best of some values is no worse than the worst of the best row's; ``sign``: 1 where higher is better,
    else -1."""
    return max(sign * value for value in values.values()) >= min(sign * value for value in best.values())


def shared_seeds(correctness: Correctness, data: str, column: Column, first: Line, second: Line) -> list[int]:
    """Seeds that two rows share, without those whose predictions cannot be used."""
    unusable = correctness.unusable(first.row, data, column) | correctness.unusable(second.row, data, column)
    return sorted(set(first.cells[column.key].values) & set(second.cells[column.key].values) - unusable)


def compare_pair(
    correctness: Correctness, data: str, column: Column, pair: tuple[Line, Line], seeds: list[int]
) -> Comparison:
    """Image by image where predictions are stored, by resampled images where those are, else over seeds alone."""
    first, second = ([line.cells[column.key].values[seed] for seed in seeds] for line in pair)
    images = min(line.cells[column.key].images for line in pair)
    x, y = (_stack(correctness.per_image(line.row, data, column), seeds) for line in pair)
    if x is not None and y is not None and x.shape == y.shape and x.shape[1] > 1:
        return compare_crossed(x, y)
    x, y = (_stack(correctness.drawn(line.row, data, column), seeds) for line in pair)
    if x is not None and y is not None and x.shape == y.shape and x.shape[1] > 1 and images > 0:
        return compare_drawn(first, second, x, y, images)
    return compare_seeds(first, second, images if column.share_of_images else 0)


def _stack(correct: dict[int, np.ndarray], seeds: Sequence[int]) -> np.ndarray | None:
    arrays = [correct[seed] for seed in seeds if seed in correct]
    return np.stack(arrays) if len(arrays) == len(seeds) and len({len(array) for array in arrays}) == 1 else None
