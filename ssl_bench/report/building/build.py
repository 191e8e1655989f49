"""From records to the table: entries with their intervals, marks and comparisons, and the order of the rows."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from ssl_bench.records.schema import RunRow
from ssl_bench.report.building.agreement import agreements
from ssl_bench.report.building.cautions import warnings_of
from ssl_bench.report.building.columns import columns_of, stage_gain_columns
from ssl_bench.report.building.comparisons import compare_pair, compare_rows, shared_seeds
from ssl_bench.report.building.few_labels import saved_section
from ssl_bench.report.building.gains import gain_entry, gains_section, stage_gains_of
from ssl_bench.report.building.legend import brief_legend, legend_of, title_of
from ssl_bench.report.building.measured import Number, Numbers, measured_entry
from ssl_bench.report.building.ranks import rank_rows, ranks_section
from ssl_bench.report.building.remeasured import earlier_section
from ssl_bench.report.ground.content import Column, Entry, Line, Section, TableContent
from ssl_bench.report.ground.intervals import FEWEST_SEEDS, balanced_interval
from ssl_bench.report.ground.names import BALANCED, GAIN
from ssl_bench.report.ground.paired_comparisons import Comparison
from ssl_bench.report.ground.published import load_published, published_blocks
from ssl_bench.report.reading.correctness import Correctness
from ssl_bench.report.reading.records import Missing, RunRecords


def build_table(results: RunRecords, wide: bool = False, classic: bool = False) -> TableContent:
    """The table of a run, from its records alone."""
    sections, gains = [], stage_gains_of(results)
    correctness, numbers = Correctness(results), Numbers(results.frame)
    none = gains.iloc[:0]
    gains_of_row = {row.row: none for row in results.run.rows}
    gains_of_row |= {str(row): of_row for row, of_row in gains.groupby("row")}
    for entry in results.data_sets():
        data = str(entry["name"])
        columns = columns_of(results, data, len(entry.get("classes", [])), wide, classic)
        lines = _lines(results, gains_of_row, data, columns, correctness, numbers)
        lines = [line for line in lines if line.failures or line.applies]
        section = Section(data, columns, lines)
        for column in columns:
            if column.higher_is_better is not None and column.evaluator and column.split == results.split:
                section.comparisons += compare_rows(correctness, data, column, lines)
                if (pairs := rank_rows(correctness, data, column, lines)) is not None:
                    section.pairs.append(pairs)
                _mark_below(column, lines)
        _sort(section)
        by_stage = [] if classic else stage_gain_columns(results, data)
        section.gains = gains_section(section, _gain_maker(results, gains_of_row, data, correctness), by_stage)
        section.ranks = ranks_section(section)
        section.saved = saved_section(results, section)
        section.earlier = earlier_section(results, section, _of_frame)
        sections.append(section)
    shares = {c.labels for section in sections for c in section.columns if c.labels is not None}
    published = published_blocks(
        load_published(), shares, {row.task for row in results.run.rows if row.block not in ("baseline", "labels")}
    )

    def compare(section: Section, column: Column, first: Line, second: Line) -> Comparison | None:
        seeds = shared_seeds(correctness, section.data, column, first, second)
        return (
            compare_pair(correctness, section.data, column, (first, second), seeds)
            if len(seeds) >= FEWEST_SEEDS
            else None
        )

    for block in published:
        block.agreement = agreements(block, results.run.rows, sections, compare)
    legend = legend_of(results, sections)
    warnings = warnings_of(results, list(correctness.problems))
    return TableContent(
        results.run.name,
        title_of(results),
        not results.run.final,
        sections,
        [(line.sign, line.text) for line in legend],
        warnings,
        published,
        brief_legend(legend),
    )


def _lines(
    results: RunRecords,
    gains: Mapping[str, pd.DataFrame],
    data: str,
    columns: list[Column],
    correctness: Correctness,
    numbers: Numbers,
) -> list[Line]:
    lines = []
    sets = list(dict.fromkeys((data, *(column.data for column in columns))))
    for row in results.run.rows:
        name = row.row + (" †" if row.uses_labels and row.block != "labels" else "")
        base = Line(row.row, name, row.task, row.block, row.uses_labels, failures=_failures(results, row, data))
        base.cells = {column.key: _entry(results, gains, row, data, numbers, column, correctness) for column in columns}
        lines.append(base)
        for variant in numbers.variants_of(row.row, sets):
            shown = f"{name}, {'3x longer' if variant == 'longer' else variant}"
            cells = {
                c.key: measured_entry(numbers.behind(row.row, variant, data, c), c) if c.evaluator else Entry()
                for c in columns
            }
            lines.append(Line(row.row, shown, row.task, row.block, row.uses_labels, variant, cells))
    return lines


def _gain_maker(
    results: RunRecords, gains: Mapping[str, pd.DataFrame], data: str, correctness: Correctness
) -> Callable[[Line, Column], Entry]:
    return lambda line, column: gain_entry(results, gains[line.row], line.row, data, column, correctness)


def _entry(
    results: RunRecords,
    gains: Mapping[str, pd.DataFrame],
    row: RunRow,
    data: str,
    numbers: Numbers,
    column: Column,
    correctness: Correctness,
) -> Entry:
    if not column.evaluator:
        return _cost_entry(results, row, column)
    entry = (
        gain_entry(results, gains[row.row], row.row, data, column, correctness)
        if column.metric.endswith(GAIN)
        else measured_entry(numbers.behind(row.row, "", data, column), column)
    )
    alone = column.metric.startswith(BALANCED) and len(entry.values) == 1 and not entry.interval
    if alone and (images := correctness.within_classes(row.row, data, column)) is not None:
        _, entry.low, entry.high = balanced_interval(*images)
        entry.interval = "classes"
    entry.saw_labels = entry.status == "value" and row.uses_labels and column.labels is not None and column.labels < 1
    place = (row.row, column.evaluator, column.data or data, column.labels)
    entry.longest = entry.status == "value" and place in results.at_longest
    measured = (row.row, column.data or data, column.evaluator, column.split) in numbers.measured
    # what the seeds that are there do not have, the others will not have either
    if entry.status == "none" and not measured:
        absent = [
            m
            for m in results.missing
            if m.row == row.row and m.what == column.evaluator and m.data == (column.data or data)
        ]
        if absent:
            entry.status = _why_absent(absent)
    return entry


def _of_frame(frame: pd.DataFrame, column: Column) -> Entry:
    """The entry of a column from the lines of a frame that are about one row, variant, set and evaluator."""
    frame = frame[(frame["split"] == column.split) & (frame["metric"] == column.metric)]
    return measured_entry(
        [Number(*line) for line in zip(*(frame[name] for name in Number._fields), strict=True)], column
    )


def _why_absent(absent: list[Missing]) -> Literal["failed", "damaged", "missing"]:
    return "failed" if any(m.failure for m in absent) else "damaged" if any(m.damage for m in absent) else "missing"


_COST = {
    "images_k": ("images_seen", 1e3),
    "passes": ("passes", 1.0),
    "minutes": ("seconds", 60.0),
    "images_per_second": ("images_per_second", 1.0),
    "memory_gb": ("peak_memory", 1e9),
    "tflops": ("flops", 1e12),
    "parameters_m": ("parameters", 1e6),
}


def _cost_entry(results: RunRecords, row: RunRow, column: Column) -> Entry:
    source, unit = _COST[column.metric]
    pretraining = results.pretraining_of(row.row)
    if pretraining.empty:
        absent = [m for m in results.missing if m.row == row.row and m.what == "pretraining"]
        return Entry(_why_absent(absent)) if absent else Entry()
    if (
        pretraining["parameters"] == 0
    ).all():  # pixels and PCA: there is no network whose training could cost something
        return Entry()
    if row.block == "elsewhere" and column.metric in ("images_k", "passes", "minutes", "tflops", "images_per_second"):
        return Entry()  # what others spent is not known
    values = {
        int(seed): float(value) / unit
        for seed, value in zip(pretraining["seed"], pretraining[source], strict=True)
        if not math.isnan(value)
    }
    if (pretraining["steps"] == 0).all() and column.metric in ("images_k", "passes", "minutes", "tflops"):
        values = dict.fromkeys(values, 0.0)  # building an untrained network takes time that is not training
    return Entry("value", values) if values else Entry()


def _failures(results: RunRecords, row: RunRow, data: str) -> list[str]:
    """One sentence for each thing that failed in a row, with the command that shows the whole of it."""
    shown = {"", data, *(entry["name"] for entry in results.own_sets())}
    failed_parts: dict[str, tuple[set[int], str]] = {}
    for missing in results.missing:
        if missing.row == row.row and missing.failure is not None and missing.data in shown:
            message = missing.failure.message.strip().splitlines()
            failed_parts.setdefault(missing.failure.where, (set(), message[0] if message else missing.failure.error))[
                0
            ].add(missing.seed)
    damaged = Counter(m.what for m in results.missing if m.row == row.row and m.damage and m.data in shown)
    if not failed_parts and not damaged:
        return []
    sentences = []
    seeds = len({cell.seed for cell in results.run.cells if cell.row == row.row})
    for where, (failed, first_line) in failed_parts.items():
        command = f"ssl-bench show {shlex.quote(f'{_run_address(results)}/{row.row}/{min(failed)}')}"
        undecided = row.choices > 1 and not row.chosen
        share = (
            f"{results.failed_candidates.get(row.row, 0)}/{row.choices} settings"
            if undecided
            else f"{len(failed)}/{seeds}"
        )
        sentences.append(f"{'' if where == 'pretraining' else where + ' '}failed {share}: {first_line}; {command}")
    return sentences + [f"record of {what} damaged, {count}/{seeds}: see above" for what, count in damaged.items()]


def _run_address(results: RunRecords) -> str:
    """What `ssl-bench show` finds a run by: its name only where its folder is called so, else another run of that name
    would be shown.

    A long path from the root would leave no room for the reason, and would be a path of one machine: its last part
    stands for it.
    """
    folder = results.folder
    if folder is None or folder.name == results.run.name:
        return results.run.name
    if folder.is_relative_to(Path.cwd()):
        return str(folder.relative_to(Path.cwd()))
    return folder.name if folder.is_absolute() else str(folder)


def _sort(section: Section) -> None:
    """By the first column that has a number in a row, the best first; a variant stays below its row."""
    order = [column.key for column in section.columns if column.evaluator]
    signs = [-1.0 if column.higher_is_better is False else 1.0 for column in section.columns if column.evaluator]
    base = {line.row: line for line in section.lines if not line.variant}
    place = {line.row: at for at, line in enumerate(section.lines)}

    def key(line: Line) -> tuple[float, ...]:
        values = [base[line.row].cells[name].value for name in order]
        first = next((at for at, value in enumerate(values) if not math.isnan(value)), len(values))
        return (
            float(first),
            -signs[first] * values[first] if first < len(values) else 0.0,
            float(place[line.row]),
            float(bool(line.variant)),
        )

    section.lines.sort(key=key)


def _mark_below(column: Column, lines: list[Line]) -> None:
    """Against the better of random and its longer variant: a gain over an undertrained baseline is none. Nor is a lower
    bound worse than anything."""
    random = [line.cells[column.key].value for line in lines if line.task == "random" and line.block == "baseline"]
    sign = 1 if column.higher_is_better else -1
    random = [sign * value for value in random if not math.isnan(value)]
    for line in lines:
        cell = line.cells[column.key]
        held = line.block != "baseline" and not cell.saw_labels and not cell.longest
        if random and held and sign * cell.value < max(random):
            cell.below = True
