"""Critical-difference pictures: mean ranks of the pretrained rows, with bars that join rows which cannot be told
apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ssl_bench.report.ground.content import Column, ColumnPairs, Section
from ssl_bench.report.ground.paired_comparisons import SIGNIFICANT
from ssl_bench.report.ground.ranks import groups_not_apart
from ssl_bench.report.reading.records import RunRecords
from ssl_bench.report.rendering.drawing import COLOURS, new_figure, row_names, short, split_word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 3  # side by side
FEWEST_ROWS, MOST_ROWS = 3, 20  # two rows have a comparison and need no picture; more have too many bars to read


def ranks_figure(results: RunRecords, section: Section) -> Figure | None:
    """A panel for the first compared column of every frozen evaluator and stage; the other columns have their ranks in
    table.csv. None where fewer than three rows have ranks, or more than twenty.

    Demšar's picture (2006), with the suite's own paired comparisons in place of Nemenyi's test, which knows neither
    seeds nor images. These have no one critical difference, so that what is joined need not lie side by side: a bar has
    a dot at every row that it joins.
    """
    pairs_of = {pairs.column: pairs for pairs in section.pairs if FEWEST_ROWS <= len(pairs.mean_ranks) <= MOST_ROWS}
    able = [column for column in section.columns if column.key in pairs_of and not column.folds and not column.data]
    # a panel an evaluator and stage: top-5 and balanced accuracy order rows much as top-1 does
    first = {(column.evaluator, column.stage): column for column in reversed(able)}
    panels = [(column, pairs_of[column.key]) for column in able if column in first.values()]
    if not panels:
        return None
    across = min(MOST_PANELS, len(panels))
    bands = math.ceil(len(panels) / across)
    rows = max(len(pairs.mean_ranks) for _, pairs in panels)
    names = row_names(results)
    figure = new_figure(0.6 + 3.6 * across, 0.5 + bands * (0.9 + 0.22 * rows))
    axes: Any = figure.subplots(bands, across, squeeze=False)
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_visible(False)
    for ax, (column, pairs) in zip(axes.flat, panels, strict=False):
        _panel(ax, column, pairs, names)
    figure.suptitle(
        f"{short(section.data)}: mean rank over seeds, {split_word(results)}; bars join rows that cannot be told apart",
        fontsize=9,
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    return figure


def _panel(ax: Axes, column: Column, pairs: ColumnPairs, names: dict[str, str]) -> None:
    rows = sorted(pairs.mean_ranks, key=lambda row: (pairs.mean_ranks[row], row))
    place = {row: at for at, row in enumerate(rows)}
    ax.plot([pairs.mean_ranks[row] for row in rows], range(len(rows)), "o", color=COLOURS[0], markersize=5)
    apart = [(place[r.first], place[r.second]) for r in pairs.results if r.p_holm <= SIGNIFICANT]
    compared = {frozenset((r.first, r.second)) for r in pairs.results}
    # what was not compared is not joined
    apart += [(a, b) for a in range(len(rows)) for b in range(a) if frozenset((rows[a], rows[b])) not in compared]
    for at, group in enumerate(groups_not_apart(len(rows), apart)):
        x = len(rows) + 0.8 + 0.45 * at
        ax.plot([x] * len(group), group, "o-", color=COLOURS[1], linewidth=2.2, markersize=4)
    ax.set_yticks(range(len(rows)), [names[row] for row in rows])
    ax.invert_yaxis()
    ax.set_xticks(range(1, len(rows) + 1))
    title = column.title if column.title != column.heading else "all"
    ax.set_title(f"{column.heading}\n{title}: {pairs.apart} of {pairs.count} pairs apart", fontsize=8)
