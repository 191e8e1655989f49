"""One entry of a table from the numbers behind it: its value at every seed, and their interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from ssl_bench.report.ground.content import Column, Entry
from ssl_bench.report.ground.intervals import FEWEST_SEEDS, t_interval, wilson_interval
from ssl_bench.report.ground.names import is_stage

Place = tuple[str, str, str, str, str, str]  # row, variant, set, evaluator, split, metric


class Number(NamedTuple):
    """A line of ``RunRecords.frame``, as far as an entry needs it."""

    seed: int
    stage: str
    labels: float
    draw: int
    value: float
    n: int
    best: bool
    low: float
    high: float


class Numbers:
    """The numbers of a run by where they stand in a table. A table asks for thousands of entries, and to look each up
    in a data frame would go through all numbers every time."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._at: dict[Place, list[Number]] = {}
        self._variants: dict[tuple[str, str], dict[str, int]] = {}  # row and set to variants and where they first stand
        self.measured: set[tuple[str, str, str, str]] = set()  #: rows, sets, evaluators and splits without a variant
        columns = ["row", "variant", "data", "evaluator", "split", "metric", *Number._fields]
        lines = zip(*(frame[name].tolist() for name in columns), strict=True)
        for at, (row, variant, data, evaluator, split, metric, *rest) in enumerate(lines):
            place = row, variant, data, evaluator, split, metric
            self._at.setdefault(place, []).append(Number(*rest))
            if variant:
                self._variants.setdefault((row, data), {}).setdefault(variant, at)
            else:
                self.measured.add((row, data, evaluator, split))

    def variants_of(self, row: str, sets: Iterable[str]) -> list[str]:
        """The variants of a row on some sets, in the order of the frame."""
        first: dict[str, int] = {}
        for data in sets:
            for variant, at in self._variants.get((row, data), {}).items():
                first[variant] = min(at, first.get(variant, at))
        return sorted(first, key=first.__getitem__)

    def behind(self, row: str, variant: str, data: str, column: Column) -> list[Number]:
        """Those of a column, on its own set where it has one; of all stages, shares and draws."""
        return self._at.get((row, variant, column.data or data, column.evaluator, column.split, column.metric), [])


def _select(numbers: Sequence[Number], column: Column) -> list[Number]:
    if column.labels is not None:
        # as np.isclose has it
        near = 1e-8 + 1e-5 * abs(column.labels)
        numbers = [number for number in numbers if abs(number.labels - column.labels) <= near]
    if column.stage == "best":
        # Pixels and PCA have one representation: there is no stage to choose.
        several = sum(map(is_stage, {number.stage for number in numbers})) > 1
        return [number for number in numbers if number.best] if several else []
    if column.stage == "code":
        return [number for number in numbers if not is_stage(number.stage)]
    return [number for number in numbers if number.stage == column.stage] if column.stage else list(numbers)


def _mean_of_seeds(numbers: Sequence[Number]) -> dict[int, float]:
    """Seed, rising, to the mean of its draws. That of several is left to pandas, whose last digit stands in tables that
    were published."""
    values = {int(number.seed): float(number.value) for number in numbers}
    if len(values) < len(numbers):
        means = pd.Series([number.value for number in numbers]).groupby([number.seed for number in numbers]).mean()
        values = {int(str(seed)): float(mean) for seed, mean in means.items()}
    return dict(sorted(values.items()))


def measured_entry(numbers: Sequence[Number], column: Column) -> Entry:
    """Draws are averaged within a seed first: they are no replications of the pretraining."""
    selected = _select(numbers, column)
    if column.stage == "code" and selected:  # a task may offer several codes; the first named one stands for it
        selected = [number for number in selected if number.stage == selected[0].stage]
    if not selected:
        return Entry()
    values = _mean_of_seeds(selected)
    draws = len({number.draw for number in selected})
    entry = Entry("value", values, images=int(min(number.n for number in selected)), draws=draws)
    if column.stage in ("best", "code"):
        stages = sorted({number.stage for number in selected}, key=lambda stage: (stage == "pooled", stage))
        names = ["last" if stage == "pooled" else stage for stage in stages]
        entry.stage = names[0] + "".join(f"/{name.removeprefix('s')}" for name in names[1:])
    if not any(pd.isna(number.low) for number in selected) and len(selected) == len(values):
        entry.resampled = float(np.mean([number.high - number.low for number in selected])) / 2
    means = list(values.values())
    if len(means) == 1 and len(selected) == entry.draws == 2:
        # two draws of labels: no spread can be told from two values
        entry.pair = tuple(number.value for number in sorted(selected, key=lambda number: number.draw))
    elif len(means) >= FEWEST_SEEDS:
        if len(set(means)) > 1:
            (entry.low, entry.high), entry.interval = t_interval(means), "t"
    elif len(means) == 1 and not math.isnan(entry.resampled):
        entry.low, entry.high, entry.interval = float(selected[0].low), float(selected[0].high), "bootstrap"
    elif len(means) == 1 and entry.images > 0 and column.share_of_images:
        several = [number.value for number in selected] if entry.draws > 1 else []
        entry.low, entry.high, entry.interval = _interval_over_images(means[0], entry.images, several)
    return entry


def _interval_over_images(
    share: float, images: int, draws: list[float]
) -> tuple[float, float, Literal["binomial", "draws"]]:
    """Wilson's interval; widened by the spread of several draws of labels, as independent of that of the images."""
    low, high = wilson_interval(share * images, images)
    if len(draws) < 2:
        return low, high, "binomial"
    spread = (t_interval(draws)[1] - float(np.mean(draws))) ** 2
    return share - math.sqrt((share - low) ** 2 + spread), share + math.sqrt((high - share) ** 2 + spread), "draws"
