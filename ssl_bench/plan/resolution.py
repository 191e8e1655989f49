"""The smallest difference between two rows that a matrix will resolve, said before anything is trained.

It follows from the number of seeds and from how much the difference of two rows varied from seed to seed in earlier
runs. That is looked for where it fits best: in the results folder itself, in runs that are given or lie beside it, then
in a table that is shipped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ssl_bench.errors import SSLBenchError
from ssl_bench.plugins.registry import EVALUATORS
from ssl_bench.report import load
from ssl_bench.report.building.spreads import Spread, read_spreads, spreads_of
from ssl_bench.report.ground.intervals import FEWEST_SEEDS, sampling_error
from ssl_bench.report.ground.power import interval_of, resolved_difference, seeds_for

if TYPE_CHECKING:
    from ssl_bench.plan.run_plan import RunPlan

POINT = 0.01
MOST_BESIDE = 5  # runs beside a results folder whose records are read, each a second or more


@dataclass(frozen=True)
class Resolution:
    """What a matrix will resolve in one column of its table; differences are fractions.

    A difference is resolved that a paired t-test over seeds detects in 80 % of runs; see ``report/ground/power.py``.
    What is not defined for the number of seeds is NaN.
    """

    spread: Spread  #: of earlier runs, and where from
    seeds: int
    pairs: int  #: of pretrained rows in the matrix
    resolved: float  #: by these seeds, between two rows that were singled out before
    resolved_of_all: float  #: by these seeds, at the strictest step of Holm's correction over all pairs
    half_width: float  #: of the interval of a difference
    #: that resolve one point, three or more as rows are compared from three on; None: more than a thousand
    seeds_for_a_point: int | None
    images: int  #: of the test set
    sampling_error: float  #: half the interval that these leave about one seed's accuracy, at 50 %
    same: bool  #: whether the earlier run had this network width and image size


def resolution(spread: Spread, seeds: int, pairs: int, images: int, same: bool = True) -> Resolution:
    """What a number of seeds resolves, given a spread.

    Parameters
    ----------
    pairs : of pretrained rows that will be compared; 0 where there is one row.
    images : of the test set, at least 1.
    """
    several, of_a_point = seeds >= 2, seeds_for(POINT, spread.spread)
    return Resolution(
        spread,
        seeds,
        pairs,
        resolved_difference(spread.spread, seeds) if several else math.nan,
        resolved_difference(spread.spread, seeds, pairs) if several and pairs else math.nan,
        interval_of(spread.spread, seeds) if several else math.nan,
        None if of_a_point is None else max(FEWEST_SEEDS, of_a_point),
        images,
        sampling_error(0.5, images),
        same,
    )


def resolutions_of(run_plan: RunPlan, others: Iterable[str | Path] = ()) -> list[Resolution]:
    """A resolution for every column of the matrix's evaluators that an earlier run tells of, the closest run's.

    Parameters
    ----------
    others : results folders to look in after the plan's own, before those that lie beside it.
    """
    matrix = run_plan.matrix
    names = [selected.evaluator.name for selected in run_plan.evaluators if not selected.brings_sets]
    awaited = [name for name in names if _is_compared(name)]
    wanted = matrix.backbone.width, run_plan.data.size
    beside = [folder for folder in _beside(run_plan.out) if _fits(folder, *wanted)][:MOST_BESIDE]
    folders = [run_plan.out, *map(Path, others), *beside]
    near: list[Spread] = []
    for folder in dict.fromkeys(folder.absolute() for folder in folders):
        if _fits(folder, *wanted) and not {spread.evaluator for spread in near} >= set(awaited):
            near += _spreads_in(folder)
    rows = sum(row.block == "pretext" and not row.start(None)[1] for row in run_plan.rows)
    images = len(run_plan.data.evaluate[0].test) if run_plan.data.evaluate else 0
    shipped = shipped_spreads()
    chosen: dict[str, Spread] = {}
    for spread in [*near, *sorted(shipped, key=lambda spread: _distance(spread, *wanted))]:
        if spread.evaluator in names:
            chosen.setdefault(spread.column, spread)
    return [
        resolution(spread, len(matrix.seeds), rows * (rows - 1) // 2, images, (spread.width, spread.size) == wanted)
        for spread in chosen.values()
        if images
    ]


def shipped_spreads() -> list[Spread]:
    """The table that comes with the package; ``benchmarks/spreads.py`` writes it from published runs."""
    return read_spreads(resources.files("ssl_bench.plan").joinpath("spreads.csv").read_text(encoding="utf-8"))


def resolution_lines(resolutions: Sequence[Resolution]) -> list[str]:
    """Two lines at most, about the last stage of the first evaluator that has one; [] where nothing is known."""
    if not resolutions:
        return []
    told = next((r for r in resolutions if r.spread.stage == "pooled" and r.spread.labels == 1), resolutions[0])
    spread = told.spread
    away = "" if told.same else f", width {spread.width:g} at {spread.size} px"
    source = f"spread {_points(spread.spread)}, from {spread.source}{away}"
    images = f"{told.images:,} test images alone leave ±{100 * told.sampling_error:.1f} points on one seed's accuracy"
    point = f"one point takes {told.seeds_for_a_point or 'more than 1,000'} seeds"
    where = f"between two rows in {spread.title}"
    if told.seeds < FEWEST_SEEDS:
        shown = "1 seed: training noise cannot be seen" if told.seeds == 1 else "2 seeds: no interval over seeds"
        three = _points(resolved_difference(spread.spread, FEWEST_SEEDS))
        return [
            f"{shown}; {FEWEST_SEEDS} would resolve differences of about {three} {where} ({source}); {point}",
            images,
        ]
    first = (
        f"{told.seeds} seeds resolve differences of about {_points(told.resolved)} {where}: found in 80 % of runs "
        f"(interval ±{100 * told.half_width:.1f}; {source}); {point}"
    )
    over = (
        f"with Holm's correction over {told.pairs:,} pairs, {_points(told.resolved_of_all)}; " if told.pairs > 1 else ""
    )
    return [first, over + images]


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f} points"


def _beside(out: Path) -> list[Path]:
    """Results folders beside one, the newest first."""
    try:
        runs = [path.parent for path in out.absolute().parent.glob("*/run.json") if path.parent != out.absolute()]
        return sorted(runs, key=lambda folder: -(folder / "run.json").stat().st_mtime)
    except OSError:
        return []


def _is_compared(evaluator: str) -> bool:
    """Whether rows are compared by fractions that an evaluator measures: diagnostics have no spread to be found."""
    declared = EVALUATORS.get(evaluator).declared()
    return any(metric.unit == "%" and metric.higher_is_better is not None for metric in declared.metrics)


def _fits(folder: Path, width: float, size: int) -> bool:
    """Whether a folder holds a run of this network width and image size with enough seeds; its records are not read."""
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        seeds = len(run["seeds"])
        return bool(
            run["matrix"]["backbone"]["width"] == width
            and run["data"]["pretrain"]["size"] == size
            and seeds >= FEWEST_SEEDS
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _spreads_in(folder: Path) -> list[Spread]:
    try:
        results = load(folder)
        return spreads_of(results, results.table(), f"{folder.parent.name}/{folder.name}")
    except (SSLBenchError, OSError):  # another run's damage is no reason to refuse a plan
        return []


def _distance(spread: Spread, width: float, size: int) -> tuple[float, float, int]:
    """How far a shipped run is from a matrix: by width, then by image size, then the one with more test images."""
    return abs(math.log(spread.width / width)), abs(math.log(spread.size / size)), -spread.test_images
