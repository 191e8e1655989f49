"""Heat maps of rows by stages: accuracy, and what pretraining added to it."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ssl_bench.report.building.columns import reference_row, stages_evaluator
from ssl_bench.report.building.gains import stage_gains_of
from ssl_bench.report.ground.names import is_stage
from ssl_bench.report.reading.records import RunRecords
from ssl_bench.report.rendering.drawing import new_figure, protocol_word, row_names, short, split_word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracies_by_stage(results: RunRecords, data: str) -> tuple[str, pd.DataFrame]:
    """The evaluator that compares stages, and its accuracies with the most labels: those with few are not averaged into
    them."""
    frame = results.frame
    name = stages_evaluator(results, data)
    accuracies = frame[(frame["data"] == data) & (frame["evaluator"] == name) & (frame["variant"] == "")]
    accuracies = accuracies[
        (accuracies["metric"] == results.declared(name).stages_by) & (accuracies["split"] == results.split)
    ]
    return name, accuracies[accuracies["labels"] == accuracies["labels"].max()]


def share_words(accuracies: pd.DataFrame) -> str:
    """The share of the labels behind accuracies, as a title adds it; "" for all of them."""
    share = float(accuracies["labels"].max())
    return f", {100 * share:g} % of the labels" if share != 1 else ""


def stages_figure(results: RunRecords, data: str) -> Figure | None:
    """Heat map of accuracy, rows by stages, sorted as the table is, by the stage chosen on validation; that one is
    framed."""
    evaluator, accuracies = accuracies_by_stage(results, data)
    accuracies = accuracies[[is_stage(stage) for stage in accuracies["stage"]]]
    if accuracies.empty:
        return None
    return _heat_map(results, data, evaluator, accuracies, accuracies, "")


def gains_figure(results: RunRecords, data: str) -> Figure | None:
    """Heat map of accuracy minus the untrained network's at the same stage, rows as in ``stages_figure``; None where no
    row has such a gain."""
    evaluator, accuracies = accuracies_by_stage(results, data)
    if accuracies.empty:
        return None
    gains = stage_gains_of(results)
    gains = gains[
        (gains["data"] == data)
        & (gains["evaluator"] == evaluator)
        & (gains["metric"] == results.declared(evaluator).stages_by)
        & (gains["split"] == results.split)
        & (gains["labels"] == accuracies["labels"].max())
    ]
    if gains.empty:
        return None
    return _heat_map(
        results, data, evaluator, accuracies, gains.assign(value=gains["gain"]), f"over {reference_row(results)} "
    )


def _heat_map(
    results: RunRecords, data: str, evaluator: str, accuracies: pd.DataFrame, shown: pd.DataFrame, over: str
) -> Figure:
    """Means over seeds of ``shown``, rows in the order of ``accuracies``; ``over``: differences, on colours that part
    at 0."""
    # Draws are averaged within a seed first.
    mean = shown.groupby(["row", "stage", "seed"])["value"].mean().groupby(["row", "stage"]).mean().unstack()
    chosen = shown.groupby(["row", "stage"])["best"].mean().unstack()
    stages = sorted(mean.columns, key=lambda stage: (stage == "pooled", int(re.sub(r"\D", "", stage) or 0)))
    order = {row.row: ("pretext", "elsewhere", "baseline", "labels").index(row.block) for row in results.run.rows}
    best = accuracies[accuracies["best"].astype(bool)].groupby(["row", "seed"])["value"].mean().groupby("row").mean()
    rows = sorted(mean.index, key=lambda row: (order[row], -float(best.get(row, mean.loc[row].max())), row))
    grid = 100 * mean.loc[rows, stages].to_numpy(dtype=float)
    names = row_names(results, float(accuracies["labels"].max()))
    figure = new_figure(2.9 + 0.75 * len(stages), 1.1 + 0.33 * len(rows))
    ax = figure.subplots()
    if over:
        most = float(np.nanmax(np.abs(grid))) or 1.0
        image = ax.imshow(grid, cmap="RdBu", aspect="auto", vmin=-most, vmax=most)
    else:
        image = ax.imshow(grid, cmap="cividis", aspect="auto")
    ax.set_xticks(range(len(stages)), stages)
    ax.set_yticks(range(len(rows)), [names[row] for row in rows])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for y, row in enumerate(rows):
        for x, stage in enumerate(stages):
            value = grid[y, x]
            bright = abs(value) < 0.6 * most if over else value > middle
            text, colour = (
                ("-", "black")
                if math.isnan(value)
                else (f"{value:{'+' if over else ''}.1f}".replace("-", "−"), "black" if bright else "white")
            )
            ax.text(x, y, text, ha="center", va="center", color=colour)
            _frame_chosen(ax, x, y, chosen.loc[row, stage])
    for y in range(1, len(rows)):
        if order[rows[y]] != order[rows[y - 1]]:
            ax.axhline(y - 0.5, color="white", linewidth=4)
    figure.colorbar(image, ax=ax, pad=0.02).outline.set_visible(False)  # type: ignore[operator]
    older = protocol_word(results, evaluator, data)
    ax.set_title(
        f"{results.declared(evaluator).title.capitalize()} {over}by stage"
        + (f", {older}:\n" if older else ": ")
        + f"{short(data)}{share_words(accuracies)}, top-1 in {'points' if over else '%'}, {split_word(results)}"
    )
    ax.set_xlabel("stage of the network; framed: chosen on validation")
    return figure


def _frame_chosen(ax: Axes, x: int, y: int, share: float) -> None:
    """A frame around a stage that validation chose; a thin one where it did with some of the seeds."""
    from matplotlib.patches import Rectangle

    if share == share and share > 0:
        width = 2.2 if share == 1 else 1.0
        colour = "#D55E00"
        ax.add_patch(Rectangle((x - 0.46, y - 0.41), 0.92, 0.82, fill=False, edgecolor=colour, linewidth=width))
