"""What pretraining adds to a stage: a row's accuracy there, minus the untrained network's at that same stage.

A stage has an accuracy before any training, an early one a high one. A row whose best stage is the second is therefore
held against the second stage of ``random``, whatever the best stage of that is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ssl_bench.report.building.columns import reference_row
from ssl_bench.report.ground.content import Column, Entry, Line, Section
from ssl_bench.report.ground.intervals import FEWEST_SEEDS, difference_interval, t_interval
from ssl_bench.report.ground.names import GAIN, is_stage

if TYPE_CHECKING:
    from ssl_bench.report.reading.correctness import Correctness
    from ssl_bench.report.reading.records import RunRecords

GAIN_COLUMNS = [
    "row",
    "seed",
    "evaluator",
    "data",
    "protocol",
    "split",
    "metric",
    "stage",
    "labels",
    "draw",
    "n",
    "value",
    "random",
    "gain",
]
_SAME = ["seed", "evaluator", "data", "protocol", "split", "metric", "stage", "labels", "draw"]


def gains_of(results: RunRecords) -> pd.DataFrame:
    """See ``Results.gains``: pairs of the same seed, set, protocol, share and draw of the labels; nothing where a row
    has one representation alone."""
    gains = stage_gains_of(results)
    return gains[gains["best"].astype(bool)][GAIN_COLUMNS].reset_index(drop=True)


def stage_gains_of(results: RunRecords) -> pd.DataFrame:
    """As ``gains_of``, at every stage; ``best`` says whether it is the row's best one."""
    frame = results.frame[results.frame["variant"] == ""]
    named = {place: _has_gain(results, *place) for place in set(zip(frame["evaluator"], frame["metric"], strict=True))}
    kept = [named[place] for place in zip(frame["evaluator"], frame["metric"], strict=True)]
    frame = frame[np.array(kept, dtype=bool)]
    frame = frame[frame["stage"].map(is_stage).astype(bool)]
    name = reference_row(results)
    theirs = frame[frame["row"] == name][[*_SAME, "value"]].rename(columns={"value": "random"})
    several = frame.groupby(["row", "evaluator", "data"])["stage"].transform("nunique") > 1
    ours = frame[(frame["row"] != name) & several]
    joined = ours.merge(theirs, on=_SAME, how="inner")
    return joined.assign(gain=joined["value"] - joined["random"])[[*GAIN_COLUMNS, "best"]].reset_index(drop=True)


def _has_gain(results: RunRecords, evaluator: str, metric: str) -> bool:
    """Whether a metric is declared to have a baseline gain, or is shown in a column of gains."""
    declared = results.declared(evaluator)
    facts = declared.metric(metric)
    return (facts is not None and facts.baseline_gain) or any(
        column.gain and column.metric == metric for column in declared.columns
    )


def gains_section(section: Section, make: Callable[[Line, Column], Entry], columns: list[Column]) -> Section | None:
    """The gains at every stage, rows as in the table above it; None where no row has one.

    Parameters
    ----------
    make : the cell of a row's line in a column.
    columns : those of ``stage_gain_columns``.
    """
    lines = [
        replace(line, cells={column.key: make(line, column) for column in columns}, failures=[])
        for line in section.lines
        if not line.variant
    ]
    lines = [line for line in lines if not line.empty]
    shown = [column for column in columns if any(line.cells[column.key].status == "value" for line in lines)]
    return Section(section.data, shown, lines, title="gain over random by stage") if shown else None


def gain_entry(
    results: RunRecords, gains: pd.DataFrame, row: str, data: str, column: Column, correctness: Correctness
) -> Entry:
    """The cell of a row in a column of gains.

    Intervals as elsewhere: over seeds from three on, both values of two, of one over the test images.

    Parameters
    ----------
    gains : as ``stage_gains_of`` gives them.
    """
    paired, name = gains, reference_row(results)
    paired = paired[
        (paired["row"] == row)
        & (paired["data"] == data)
        & (paired["evaluator"] == column.evaluator)
        & (paired["split"] == column.split)
    ]
    paired = paired[
        (paired["metric"] == column.metric.removesuffix(GAIN))
        & np.isclose(paired["labels"].astype(float), column.labels or 1.0)
        & (paired["best"].astype(bool) if column.stage == "best" else paired["stage"] == column.stage)
    ]
    if paired.empty:
        frame = results.frame[
            (results.frame["row"] == row)
            & (results.frame["data"] == data)
            & (results.frame["evaluator"] == column.evaluator)
        ]
        stages = set(frame["stage"][frame["stage"].map(is_stage).astype(bool)])  # one alone, as of pixels, has no gain
        waits = any(
            (m.row, m.what, m.data) == (name, column.evaluator, data) and not m.failure and not m.damage
            for m in results.missing
        )
        return Entry("missing" if waits and row != name and len(stages) > 1 else "none")
    values = {int(str(seed)): float(value) for seed, value in paired.groupby("seed")["gain"].mean().items()}
    entry = Entry("value", values, images=int(paired["n"].min()), draws=int(paired["draw"].nunique()))
    numbers = list(values.values())
    if len(numbers) >= FEWEST_SEEDS:
        if len(set(numbers)) > 1:
            (entry.low, entry.high), entry.interval = t_interval(numbers), "t"
    elif len(numbers) == 1 and len(paired) == 2:
        entry.pair = tuple(map(float, paired.sort_values("draw")["gain"]))
    elif len(numbers) == 1 and entry.images:
        entry.low, entry.high = _gain_interval_over_images(results, row, data, column, paired, correctness)
        entry.interval = "paired" if len(paired) == 1 else "draws"
    return entry


def _gain_interval_over_images(
    results: RunRecords, row: str, data: str, column: Column, paired: pd.DataFrame, correctness: Correctness
) -> tuple[float, float]:
    """Newcombe's interval, image by image where predictions are stored; widened by the spread of three draws of labels
    or more."""
    seed, name = int(paired["seed"].iloc[0]), reference_row(results)
    assert name is not None
    stages = dict(zip(paired["draw"], paired["stage"], strict=True))
    place = data, column.evaluator, column.metric.removesuffix(GAIN), seed, column.labels or 1.0, stages
    # Predictions are of test alone, and a table of validation numbers has nothing from there.
    first, second = (
        correctness.at_stages(row_of, *place) if column.split == "test" else None for row_of in (row, name)
    )
    shared = 0.0
    if first is not None and second is not None and len(first) == len(second) and first.std() > 0 and second.std() > 0:
        shared = float(np.corrcoef(first, second)[0, 1])
    ours, theirs = float(paired["value"].mean()), float(paired["random"].mean())
    low, high = difference_interval(ours, theirs, int(paired["n"].min()), shared)
    if len(paired) > 1:
        gain = ours - theirs
        spread = (t_interval(paired["gain"].tolist())[1] - gain) ** 2
        return gain - math.sqrt((gain - low) ** 2 + spread), gain + math.sqrt((high - gain) ** 2 + spread)
    return low, high
