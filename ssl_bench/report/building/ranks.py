"""Ranks of the pretrained rows in a column, and which pairs of them can be told apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from ssl_bench.report.building.comparisons import compare_pair, ranked_rows, shared_seeds
from ssl_bench.report.ground.content import Column, ColumnPairs, Entry, LegendLine, Line, PairwiseResult, Section
from ssl_bench.report.ground.intervals import FEWEST_SEEDS
from ssl_bench.report.ground.paired_comparisons import holm
from ssl_bench.report.ground.ranks import DRAWS, mean_ranks, rank_intervals
from ssl_bench.report.reading.correctness import Correctness

MOST_COMPARED = 40  # rows any two of which are compared: 780 pairs, and beyond that Holm's correction leaves little
MOST_BRIEF_COLUMNS = 3  # that the terminal's short legend tells of


@dataclass
class RankEntry(Entry):
    """A cell of the table of ranks."""

    def text(self, column: Column) -> str:
        """ "2 (1-3)": the rank, and the interval of it where seeds are drawn anew."""
        if self.rank is None:
            return super().text(column)
        rank, low, high = self.rank
        return f"{rank} ({low}-{high})" if low < high else f"{rank} ({low})"


def rank_rows(correctness: Correctness, data: str, column: Column, lines: list[Line]) -> ColumnPairs | None:
    """Give the cells of the pretrained rows their ranks, and compare any two of them; None where fewer than two share
    enough seeds.

    Rows of too few seeds are left out; the others are ranked on the seeds that all of them share. Comparisons are those
    of ``compare_rows``, with Holm's correction over all pairs; none where there are more than ``MOST_COMPARED`` rows.
    """
    rows = [line for line in ranked_rows(column, lines) if len(line.cells[column.key].values) >= FEWEST_SEEDS]
    if len(rows) < 2:
        return None
    shared = sorted(set.intersection(*(set(line.cells[column.key].values) for line in rows)))
    if len(shared) < FEWEST_SEEDS:
        return None
    sign = 1 if column.higher_is_better else -1
    values = [[sign * line.cells[column.key].values[seed] for line in rows] for seed in shared]
    for line, rank in zip(rows, rank_intervals(values), strict=True):
        line.cells[column.key].rank = rank
    compared = []
    for first, second in combinations(rows, 2) if len(rows) <= MOST_COMPARED else ():
        seeds = shared_seeds(correctness, data, column, first, second)
        if len(seeds) >= FEWEST_SEEDS:
            compared.append((first, second, compare_pair(correctness, data, column, (first, second), seeds)))
    results = tuple(
        PairwiseResult(column.key, a.row, b.row, c.difference, c.low, c.high, c.p, p, c.seeds, c.images)
        for (a, b, c), p in zip(compared, holm([c.p for *_, c in compared]), strict=True)
    )
    return ColumnPairs(column.key, dict(zip([line.row for line in rows], mean_ranks(values), strict=True)), results)


def ranks_section(section: Section) -> Section | None:
    """The table of ranks, rows as in the table above it; None where no column has any."""
    lines = []
    for line in section.lines:
        cells: dict[str, Entry] = {
            column.key: RankEntry("value" if (rank := line.cells[column.key].rank) else "none", rank=rank)
            for column in section.columns
        }
        if any(cell.rank for cell in cells.values()):
            lines.append(replace(line, cells=cells, failures=[]))
    columns = [column for column in section.columns if any(line.cells[column.key].rank for line in lines)]
    return Section(section.data, columns, lines, title="rank") if columns else None


def pair_lines(sections: Iterable[Section]) -> Iterator[LegendLine]:
    """How many pairs of pretrained rows can be told apart, column by column, and how ranks are read."""
    compared = list(_with_columns(sections))
    texts = [
        f"{'' if column.group == column.title else column.group + ': '}{column.title} {pairs.apart} of {pairs.count}"
        for column, pairs in compared
    ]
    if not texts:
        return
    first = [f"{column.title} {pairs.apart} of {pairs.count}" for column, pairs in compared[:MOST_BRIEF_COLUMNS]]
    brief = f"told apart, of the pairs of pretrained rows: {', '.join(first)}"
    text = f"told apart, of the pairs of pretrained rows: {', '.join(texts)} (Holm over all pairs of a column)"
    yield LegendLine("pairs", text, brief)
    yield LegendLine(
        "rank",
        f"among the pretrained rows; in brackets: 95 % of {DRAWS:,} draws of the seeds, the same for all rows. Few "
        "seeds make that too narrow: rows are told apart by their pairs",
    )


def _with_columns(sections: Iterable[Section]) -> Iterator[tuple[Column, ColumnPairs]]:
    """What was compared, and the column; sets of an evaluator's own, which stand beside every labelled set, once."""
    told: set[tuple[str, str]] = set()
    for section in sections:
        columns = {column.key: column for column in section.columns}
        for pairs in section.pairs:
            column = columns[pairs.column]
            place = column.data or section.data, pairs.column
            if pairs.count and place not in told:
                told.add(place)
                yield column, pairs
