"""The numbers of a table as CSV: those that are shown, and the comparisons behind its marks."""

from __future__ import annotations

import csv
import io
import math

from ssl_bench.report.building.few_labels import SavedEntry
from ssl_bench.report.building.remeasured import remeasured_of
from ssl_bench.report.ground.content import TableContent
from ssl_bench.report.reading.records import RunRecords

CSV_COLUMNS = [
    "data",
    "block",
    "row",
    "variant",
    "task",
    "uses_labels",
    "column",
    "evaluator",
    "metric",
    "stage",
    "labels",
    "split",
    "unit",
    "status",
    "value",
    "low",
    "high",
    "interval",
    "n",
    "images",
    "draws",
    "marks",
    "protocol",
    "values",
    "rank",
    "rank_low",
    "rank_high",
]


def table_csv(table: TableContent) -> str:
    """One line a row and column, then those of numbers under another protocol; accuracies are fractions, and so are
    differences of them.

    ``n`` counts seeds, ``images`` the images behind each of them; ``values`` are both values where there is no
    interval, of two seeds or of two draws of one. ``rank`` is among the pretrained rows.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for section in [part for whole in table.sections for part in (whole, whole.earlier) if part is not None]:
        for line in section.lines:
            for column in [column for column in section.columns if not column.repeated]:
                cell = line.cells[column.key]
                marked = {
                    "best": cell.best,
                    "equal": cell.equal,
                    "below_random": cell.below,
                    "longest_length": cell.longest,
                    "saw_labels": cell.saw_labels,
                }
                marks = [name for name, on in marked.items() if on]
                writer.writerow(
                    [
                        column.data or section.data,
                        line.block,
                        line.row,
                        line.variant,
                        line.task,
                        int(line.uses_labels),
                        column.key,
                        column.evaluator,
                        column.metric,
                        cell.stage or column.stage,
                        "" if column.labels is None else column.labels,
                        column.split if column.evaluator else "",
                        "fraction" if column.unit in ("%", "points") else column.unit,
                        cell.status,
                        _plain_number(cell.value),
                        _plain_number(cell.low),
                        _plain_number(cell.high),
                        cell.interval,
                        len(cell.values),
                        cell.images or "",
                        cell.draws or "",
                        " ".join(marks),
                        column.protocol,
                        " ".join(map(_plain_number, cell.both)) if column.unit in ("%", "points") else "",
                        *(cell.rank or ("", "", "")),
                    ]
                )
    return buffer.getvalue()


def comparisons_csv(table: TableContent) -> str:
    """Every paired comparison behind the marks: difference (first minus second, fractions), interval, p, Holm's p; data
    and column as in ``table_csv``.

    ``pairs`` counts all pairs of pretrained rows in the column, ``told_apart`` those of them that can be told apart.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [
            "data",
            "column",
            "first",
            "second",
            "difference",
            "low",
            "high",
            "p",
            "p_holm",
            "seeds",
            "images",
            "protocol",
            "told_apart",
            "pairs",
        ]
    )
    written = set()  # what evaluators measure on sets of their own stands beside every labelled set
    for section in table.sections:
        columns = {column.key: column for column in section.columns}
        counts = {pairs.column: (pairs.apart, pairs.count) for pairs in section.pairs}
        for c in section.comparisons:
            place = (columns[c.column].data or section.data, c.column, c.first, c.second)
            if place not in written:
                written.add(place)
                numbers = [_plain_number(value) for value in (c.difference, c.low, c.high, c.p, c.p_holm)]
                facts = [c.seeds, c.images, columns[c.column].protocol, *counts.get(c.column, ("", ""))]
                writer.writerow([*place, *numbers, *facts])
    return buffer.getvalue()


def labels_saved_csv(table: TableContent) -> str:
    """One line a row and share of the labels; "" where nothing could be compared.

    Labels are counts, bounds ">" and "<=" as in ``Needed``.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    needs = ["labels", "random_needs", "bound", "factor", "low", "low_bound", "high", "high_bound"]
    writer.writerow(["data", "evaluator", "row", "share", *needs, "seeds", "protocol"])
    empty = True
    for section in table.sections:
        for line, column in (
            [(line, column) for line in section.saved.lines for column in section.saved.columns]
            if section.saved
            else []
        ):
            cell = line.cells[column.key]
            if isinstance(cell, SavedEntry) and (saving := cell.saving) is not None:
                ends = [(_plain_number(saving.factor(needed)), needed.bound) for needed in saving.range or ()] or [
                    ("", ""),
                    ("", ""),
                ]
                numbers = [
                    _plain_number(saving.labels),
                    _plain_number(saving.mean.labels),
                    saving.mean.bound,
                    _plain_number(saving.factor(saving.mean)),
                ]
                writer.writerow(
                    [
                        section.data,
                        saving.evaluator,
                        line.row,
                        saving.share,
                        *numbers,
                        *ends[0],
                        *ends[1],
                        len(saving.seeds),
                        column.protocol,
                    ]
                )
                empty = False
    return "" if empty else buffer.getvalue()


def agreement_csv(table: TableContent) -> str:
    """Every comparison with a published order, without and with the row of labels; "" where there is none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [
            "setting",
            "published",
            "data",
            "column",
            "labels_row",
            "n",
            "tau",
            "p",
            "low",
            "high",
            "seeds",
            "rows",
            "protocol",
        ]
    )
    agreements = [agreement for block in table.published for agreement in block.agreement]
    for agreement in agreements:
        rows = "; ".join(f"{theirs}={ours}" for theirs, ours in agreement.rows)
        for labels_row, correlation in enumerate((agreement.alone, agreement.with_labels)):
            if correlation is not None:
                numbers = [
                    _plain_number(value)
                    for value in (correlation.tau, correlation.p, correlation.low, correlation.high)
                ]
                place = (agreement.setting, agreement.metric, agreement.data, agreement.column)
                writer.writerow(
                    [*place, labels_row, correlation.n, *numbers, correlation.seeds, rows, agreement.protocol]
                )
    return buffer.getvalue() if agreements else ""


def published_pairs_csv(table: TableContent) -> str:
    """Any two rows of an order that was published, ``first`` the higher one there: that difference (points), ours
    (fractions), what it says."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    numbers = ["published_difference", "difference", "low", "high", "p", "p_holm"]
    writer.writerow(
        [
            "setting",
            "published",
            "data",
            "column",
            "first",
            "second",
            *numbers,
            "seeds",
            "images",
            "verdict",
            "protocol",
        ]
    )
    pairs = [
        (agreement, pair) for block in table.published for agreement in block.agreement for pair in agreement.pairs
    ]
    for agreement, pair in pairs:
        c = pair.ours
        values = [
            f"{pair.published:.2f}",
            *(_plain_number(value) for value in (c.difference, c.low, c.high, c.p, pair.p_holm)),
        ]
        place = (agreement.setting, agreement.metric, agreement.data, agreement.column, pair.first, pair.second)
        writer.writerow([*place, *values, c.seeds, c.images, pair.verdict, agreement.protocol])
    return buffer.getvalue() if pairs else ""


def remeasured_csv(results: RunRecords) -> str:
    """Every number that a cell has under two versions of a protocol; "" where there is none.

    See ``Results.remeasured``.
    """
    return remeasured_of(results).to_csv(index=False, lineterminator="\n") if len(results.earlier) else ""


def _plain_number(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))
