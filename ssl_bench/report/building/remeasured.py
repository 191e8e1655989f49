"""Numbers of two versions of a protocol on the same cells: side by side, and never in one column."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from ssl_bench.records.protocols import split_protocol
from ssl_bench.report.ground.content import Column, Entry, Section
from ssl_bench.report.ground.names import GAIN, is_stage

if TYPE_CHECKING:
    from ssl_bench.report.reading.records import RunRecords

REMEASURED_COLUMNS = [
    "row",
    "seed",
    "evaluator",
    "data",
    "variant",
    "stage",
    "labels",
    "draw",
    "metric",
    "split",
    "protocol_before",
    "protocol",
    "before",
    "value",
    "difference",
    "stage_before",
    "stage_now",
]
_SAME = ["row", "seed", "evaluator", "data", "variant", "stage", "labels", "draw", "metric", "split"]


def remeasured_of(results: RunRecords) -> pd.DataFrame:
    """See ``Results.remeasured``.

    A stage "best" stands for the one that each version chose, ``stage_before`` and ``stage_now``.
    """
    before, now = (_with_best(frame) for frame in (results.earlier_frame, results.frame))
    before = before.rename(columns={"value": "before", "protocol": "protocol_before", "chosen": "stage_before"})
    now = now.rename(columns={"chosen": "stage_now"})
    joined = before[[*_SAME, "before", "protocol_before", "stage_before"]].merge(
        now[[*_SAME, "value", "protocol", "stage_now"]], on=_SAME, how="left"
    )
    joined["difference"] = joined["value"] - joined["before"]
    return joined[REMEASURED_COLUMNS]


def _with_best(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.assign(chosen=frame["stage"])
    best = frame[frame["stage"].map(is_stage).astype(bool) & frame["best"].astype(bool)]
    return pd.concat([frame, best.assign(stage="best")], ignore_index=True) if len(best) else frame


def rows_tested_again(results: RunRecords) -> list[str]:
    """Rows whose test was opened under one version of a protocol, and again under another."""
    tested = {(f.row.row, f.seed, f.evaluator, f.data) for f in results.evaluations if f.record.test_opened}
    again = {
        f.row.row
        for f in results.earlier
        if f.record.test_opened and (f.row.row, f.seed, f.evaluator, f.data) in tested
    }
    return [row.row for row in results.run.rows if row.row in again]


def earlier_versions(results: RunRecords) -> list[str]:
    """The versions of the earlier numbers, such as "v1", the oldest first."""
    return [
        f"v{version}"
        for version in sorted({split_protocol(evaluation.record.protocol)[1] for evaluation in results.earlier})
    ]


def earlier_section(
    results: RunRecords, section: Section, measure: Callable[[pd.DataFrame, Column], Entry]
) -> Section | None:
    """The numbers of a table's cells under another version of a protocol, beside those above them; None where there are
    none.

    Parameters
    ----------
    measure : from the lines of a frame that are about one row and its variant, and a column: the cell.
    """
    columns: list[Column] = []
    cells: dict[int, dict[str, Entry]] = {id(line): {} for line in section.lines}
    for column in section.columns:
        if not column.evaluator or column.metric.endswith(GAIN):
            continue
        place = column.evaluator, column.data or section.data
        frames = [
            frame[(frame["evaluator"] == place[0]) & (frame["data"] == place[1])]
            for frame in (results.earlier_frame, results.frame)
        ]
        for protocol in sorted(set(frames[0]["protocol"]), key=split_protocol):
            old, new = frames[0][frames[0]["protocol"] == protocol], frames[1]
            group = f"{column.group}, {column.title}" if column.group != column.title else column.title
            now = f"v{split_protocol(column.protocol)[1]}" if column.protocol else "now"
            before = f"v{split_protocol(protocol)[1]}"
            keys = [
                f"{column.key} [{protocol}]",
                f"{column.key} [now, beside {protocol}]",
                f"{column.key} [now - {protocol}]",
            ]
            made = [
                replace(
                    column,
                    key=keys[0],
                    group=group,
                    title=before,
                    protocol=protocol,
                    bare=True,
                    older=False,
                    folds=False,
                ),
                replace(
                    column, key=keys[1], group=group, title=now, bare=True, older=False, folds=False, repeated=True
                ),
                replace(
                    column, key=keys[2], group=group, title="change", unit="points", bare=True, older=False, folds=False
                ),
            ]
            any_before = False
            for line in section.lines:
                before_and_now = [
                    frame[(frame["row"] == line.row) & (frame["variant"] == line.variant)] for frame in (old, new)
                ]
                # both columns tell of the same seeds, where there are any
                seeds = set(before_and_now[0]["seed"]) & set(before_and_now[1]["seed"])
                first, second = (
                    measure(frame[frame["seed"].isin(seeds)] if seeds else frame, column) for frame in before_and_now
                )
                if first.status != "value":
                    cells[id(line)] |= {key: Entry() for key in keys}
                    continue
                any_before = True
                if second.status != "value":
                    shown = line.cells[column.key].status
                    second = Entry(shown if shown != "value" else "none")
                change = {
                    seed: second.values[seed] - first.values[seed]
                    for seed in sorted(set(first.values) & set(second.values))
                }
                both = Entry("value", change, images=first.images) if change else Entry()
                cells[id(line)] |= dict(zip(keys, (first, second, both), strict=True))
            columns += made if any_before else []
    keys_shown = {column.key for column in columns}
    lines = [
        replace(line, cells={key: entry for key, entry in cells[id(line)].items() if key in keys_shown}, failures=[])
        for line in section.lines
        if any(not math.isnan(entry.value) for key, entry in cells[id(line)].items() if key in keys_shown)
    ]
    return Section(section.data, columns, lines, title="measured before") if columns and lines else None
