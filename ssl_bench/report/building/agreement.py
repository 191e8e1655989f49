"""How far our order of tasks agrees with a published one, where enough rows are in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from ssl_bench.records.schema import RunRow
from ssl_bench.report.ground.content import Column, Line, Section
from ssl_bench.report.ground.intervals import FEWEST_SEEDS
from ssl_bench.report.ground.paired_comparisons import Comparison, holm
from ssl_bench.report.ground.published import Agreement, Correlation, Ordered, PublishedBlock, canonical
from ssl_bench.report.ground.rank_correlation import rank_correlation, rank_interval

FEWEST_ROWS = 5  # below this no order of rows can be told from chance: with four, the smallest exact p is 0.083
LABELS = "supervised"  # the task of the row that labels win, here as there

#: compares two lines of a section in a column; None where they share too few seeds
Compare = Callable[[Section, Column, Line, Line], Comparison | None]


def stand_ins(rows: Sequence[RunRow]) -> dict[str, str]:
    """Canonical task to the row of ours that stands for it: the one named like its task, else the first.

    By names alone: a row that failed is not replaced by another with other options. Rows in which labels are, or may
    be, stand for none but `supervised`.
    """
    row_of_task: dict[str, str] = {}
    for row in rows:
        task = canonical(row.task)
        if row.uses_labels and task != LABELS:
            continue
        if task not in row_of_task or (canonical(row.row) == task and canonical(row_of_task[task]) != task):
            row_of_task[task] = row.row
    return row_of_task


def agreements(
    block: PublishedBlock, rows: Sequence[RunRow], sections: Sequence[Section], compare: Compare
) -> list[Agreement]:
    """Every comparison that a block of published numbers allows with a table's columns; none below five rows in common.

    Frozen accuracy is the linear probe's at its best stage, top-5 above 20 classes and top-1 else, on every labelled
    set. Detection is the mAP of VOC 2007 on every set with boxes, fine-tuned and frozen.
    """
    named = stand_ins(rows)
    compared = []
    for metric in block.metrics:
        theirs = {
            canonical(values[metric].task): row
            for row, values in block.rows.items()
            if metric in values and values[metric].task
        }
        for ours, section, column in _counterparts(metric, sections):
            lines = {line.row: line for line in section.lines if not line.variant}
            cells = {
                task: lines[named[task]].cells[column.key] for task in theirs if task in named and named[task] in lines
            }
            values = {task: cell.values for task, cell in cells.items() if cell.values}
            published = {task: block.rows[theirs[task]][metric].value for task in values}
            alone = [task for task in values if task != LABELS]
            if len(alone) >= FEWEST_ROWS:
                pairs = tuple((theirs[task], named[task]) for task in alone)
                both = [*alone, LABELS] if LABELS in values else []
                correlations = [
                    correlation([values[t] for t in tasks], [published[t] for t in tasks]) if tasks else None
                    for tasks in (alone, both)
                ]
                assert correlations[0] is not None
                order = sorted(alone, key=lambda task: -published[task])
                ordered = _ordered([(lines[named[task]], published[task]) for task in order], section, column, compare)
                data = column.data or section.data
                compared.append(
                    Agreement(
                        block.setting,
                        metric,
                        ours,
                        column.key,
                        data,
                        pairs,
                        correlations[0],
                        correlations[1],
                        ordered,
                        column.protocol,
                    )
                )
    return compared


def _ordered(
    lines: Sequence[tuple[Line, float]], section: Section, column: Column, compare: Compare
) -> tuple[Ordered, ...]:
    """Every two of some lines with their published values, from the highest of these down; two of equal ones have no
    order."""
    compared = [
        (first, second, high - low, comparison)
        for (first, high), (second, low) in combinations(lines, 2)
        if high > low and (comparison := compare(section, column, first, second)) is not None
    ]
    adjusted = holm([comparison.p for *_, comparison in compared])
    return tuple(
        Ordered(first.row, second.row, gap, comparison, p)
        for (first, second, gap, comparison), p in zip(compared, adjusted, strict=True)
    )


def correlation(ours: Sequence[Mapping[int, float]], theirs: Sequence[float]) -> Correlation:
    """Kendall's tau between rows' means over seeds and other values; its interval is over the seeds that all rows
    share.

    Parameters
    ----------
    ours : seed to value, a mapping for each of N >= 2 rows.
    theirs : [N] values of the same rows.
    """
    tau, p = rank_correlation([float(np.mean(list(values.values()))) for values in ours], theirs)
    shared = sorted(set.intersection(*(set(values) for values in ours)))
    low = high = math.nan
    if len(shared) >= FEWEST_SEEDS:
        low, high = rank_interval([[values[seed] for values in ours] for seed in shared], theirs)
    return Correlation(len(ours), tau, p, low, high, len(shared))


def _counterparts(metric: str, sections: Sequence[Section]) -> Iterator[tuple[str, Section, Column]]:
    """Columns of ours that measure what a published metric does, each once, and what they are in words."""
    seen: set[str] = set()
    for section in sections:
        # of several that an evaluator declares, the last one that is shown
        last = {(c.evaluator, c.data, c.stage): c for c in section.columns if c.published == metric and not c.folds}
        for column in last.values():
            if column.data and column.key in seen:
                continue  # what evaluators measure on sets of their own stands beside every labelled set
            seen.add(column.key)
            words = column.described.format(heading=column.heading)
            if column.data or len(sections) > 1:
                words += f" on {column.data or section.data}"
            yield words + (f", {column.stage}" if column.data and column.stage else ""), section, column
