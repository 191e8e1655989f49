"""How far our order of tasks agrees with a published one, where enough rows are in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from ssl_bench.records.schema import RunRow
from ssl_bench.report.columns import base_name
from ssl_bench.report.published import PublishedBlock, canonical
from ssl_bench.report.statistics import FEWEST_SEEDS, SIGNIFICANT, Comparison, holm, rank_correlation, rank_interval
from ssl_bench.report.table import Column, Line, Section

FEWEST_ROWS = 5  # below this no order of rows can be told from chance: with four, the smallest exact p is 0.083
LABELS = "supervised"  # the task of the row that labels win, here as there
FROZEN, DETECTION = "ImageNet frozen top-5", "VOC07 mAP"  # published metrics that have a counterpart among our columns

#: compares two lines of a section in a column; None where they share too few seeds
Compare = Callable[[Section, Column, Line, Line], Comparison | None]


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau-b of two orders of ``n`` rows, its exact p, and its interval over seeds (NaN: fewer than three that all rows share)."""

    n: int
    tau: float
    p: float
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0

    def __str__(self) -> str:
        if math.isnan(self.tau):
            return "none, because all rows are equal"
        return f"{self.tau:+.2f} (exact p {self.p:.3f}, {self._interval})"

    @property
    def _interval(self) -> str:
        if not math.isnan(self.low):
            # a draw of one seed alone is likelier than a tail: the ends are what single seeds say
            if self.seeds**-self.seeds > 0.025:
                return f"{self.low:+.2f} to {self.high:+.2f} where {self.seeds} seeds are drawn anew, too few for 95 %"
            return f"95 %: {self.low:+.2f} to {self.high:+.2f} by bootstrap over {self.seeds} seeds"
        return f"{self.seeds or 'no'} shared seed{'s' if self.seeds != 1 else ''}: no interval"


@dataclass(frozen=True)
class Ordered:
    """Two of our rows, the first of which is the higher one where they were published, and what we find."""

    first: str
    second: str
    published: float  #: difference, in points
    ours: Comparison
    p_holm: float  #: adjusted over all pairs of the column

    @property
    def verdict(self) -> Literal["as published", "the other way", "cannot be told apart"]:
        if self.p_holm > SIGNIFICANT:
            return "cannot be told apart"
        return "as published" if self.ours.difference > 0 else "the other way"


@dataclass(frozen=True)
class Agreement:
    """One column of ours against one published metric; ``rows`` are pairs (published row, ours) without that of labels.

    ``pairs`` holds any two of these rows, where they have the seeds to be compared.
    """

    setting: str
    metric: str
    ours: str  #: which of our numbers, in words
    column: str
    data: str
    rows: tuple[tuple[str, str], ...]
    alone: Correlation
    with_labels: Correlation | None
    pairs: tuple[Ordered, ...] = ()
    protocol: str = ""  #: of our numbers

    def __str__(self) -> str:
        text = f"Kendall's tau between our {self.ours} and {self.metric}, {self.alone.n} rows in common: {self.alone}"
        text += f"; with the labels row, {self.with_labels.n} rows: {self.with_labels}" if self.with_labels else ""
        return text + (f"; {self._told_apart}" if self.pairs else "")

    @property
    def _told_apart(self) -> str:
        """How many pairs of rows our numbers decide, and which of them against the published order."""
        against = [pair for pair in self.pairs if pair.verdict == "the other way"]
        agree = sum(pair.verdict == "as published" for pair in self.pairs)
        over = "seeds and test images" if all(pair.ours.images for pair in self.pairs) else "seeds"
        text = f"of {len(self.pairs)} pairs of rows {agree + len(against)} can be told apart here (over {over}, Holm)"
        if not against:
            return text + (", all in the published order" if agree else "")
        named = ", ".join(f"{pair.second} above {pair.first}" for pair in against)
        return f"{text}, {agree} in the published order and {len(against)} in the other one: {named}"


def stand_ins(rows: Sequence[RunRow]) -> dict[str, str]:
    """Canonical task to the row of ours that stands for it: the one named like its task, else the first.

    By names alone: a row that failed is not replaced by another with other options. Rows in which labels are, or may be, stand for
    none but `supervised`.
    """
    found: dict[str, str] = {}
    for row in rows:
        task = canonical(row.task)
        if row.uses_labels and task != LABELS:
            continue
        if task not in found or (canonical(row.row) == task and canonical(found[task]) != task):
            found[task] = row.row
    return found


def agreements(
    block: PublishedBlock, rows: Sequence[RunRow], sections: Sequence[Section], compare: Compare
) -> list[Agreement]:
    """Every comparison that a block of published numbers allows with a table's columns; none below five rows in common.

    Frozen accuracy is the linear probe's at its best stage, top-5 above 20 classes and top-1 else, on every labelled set. Detection
    is the mAP of VOC 2007 on every set with boxes, fine-tuned and frozen.
    """
    named = stand_ins(rows)
    found = []
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
                found.append(
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
    return found


def _ordered(
    lines: Sequence[tuple[Line, float]], section: Section, column: Column, compare: Compare
) -> tuple[Ordered, ...]:
    """Every two of some lines with their published values, from the highest of these down; two of equal ones have no order."""
    compared = [
        (first, second, high - low, found)
        for (first, high), (second, low) in combinations(lines, 2)
        if high > low and (found := compare(section, column, first, second)) is not None
    ]
    adjusted = holm([found.p for *_, found in compared])
    return tuple(
        Ordered(first.row, second.row, gap, found, p)
        for (first, second, gap, found), p in zip(compared, adjusted, strict=True)
    )


def correlation(ours: Sequence[Mapping[int, float]], theirs: Sequence[float]) -> Correlation:
    """Kendall's tau between rows' means over seeds and other values; its interval is over the seeds that all rows share.

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
        on = f" on {section.data}" if len(sections) > 1 else ""
        probes = [
            c for c in section.columns if base_name(c.evaluator) == "linear" and c.stage == "best" and not c.folds
        ]
        top5 = any(column.metric == "top5" for column in probes)
        for column in section.columns:
            if metric == FROZEN and column in probes and column.metric == ("top5" if top5 else "top1"):
                yield f"{column.heading}, best stage, {'top-5' if top5 else 'top-1'}{on}", section, column
            elif (
                metric == DETECTION
                and base_name(column.evaluator) == "detection"
                and column.metric == "map_voc07"
                and column.key not in seen
            ):
                seen.add(column.key)
                yield (
                    f"detection mAP (VOC 2007) on {column.data}{', ' + column.stage if column.stage else ''}",
                    section,
                    column,
                )
