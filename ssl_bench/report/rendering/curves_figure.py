"""Training curves: the pretext loss of every row, and how accuracy rose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_bench.records.schema import Pretraining
from ssl_bench.report.reading.records import RunRecords
from ssl_bench.report.rendering.drawing import COLOURS, GREY, new_figure, row_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY_ROWS = 16  # more share a sheet of smaller panels, whose places are computed: finding them takes minutes
MANY_SEEDS = 8  # more are drawn as one line with gaps
_TOP, _BOTTOM, _LEFT, _RIGHT = 0.35, 0.75, 0.55, 0.15  # inches around the small panels


def curves_figure(results: RunRecords) -> Figure | None:
    """Small multiples, one pair of panels a row: the pretext loss above; its accuracy and the kNN monitor below."""
    records: dict[str, list[Pretraining]] = {}
    for (row, _), record in sorted(results.pretrainings.items(), key=lambda item: item[0][1]):
        records.setdefault(row, []).append(record)
    rows = [row for row in results.run.rows if any(record.curves for record in records.get(row.row, ()))]
    if not rows:
        return None
    many = len(rows) > MANY_ROWS
    columns = min(8 if many else 4, len(rows))
    bands = math.ceil(len(rows) / columns)
    names = row_names(results)
    figure, axes = _panels(columns, bands, many)
    percent = [
        value
        for record in results.pretrainings.values()
        for key in ("accuracy", "knn")
        if key in record.curves
        for value in record.curves[key].value
    ]
    top = 100 * min(1.0, max(percent, default=1.0) * 1.08)
    for at in range(bands * columns):
        band, column = divmod(at, columns)
        loss, accuracy = axes[2 * band, column], axes[2 * band + 1, column]
        if at >= len(rows):
            loss.set_visible(False)
            accuracy.set_visible(False)
            continue
        of_row = records[rows[at].row]
        _curves_of(of_row, loss, accuracy)
        loss.set_title(names[rows[at].row], **({"fontsize": 7} if many else {}))
        loss.tick_params(labelbottom=False)
        for ax in (loss, accuracy):
            ax.set_xlim(0, max(1, *(record.steps for record in of_row)))
            if many:
                ax.locator_params(nbins=3)
                ax.tick_params(labelsize=6)
        accuracy.set_ylim(0, max(top, 1.0))
        if not many or at + columns >= len(rows):
            accuracy.set_xlabel("step")
        if column == 0:
            loss.set_ylabel("loss" if many else "pretraining loss")
            accuracy.set_ylabel("acc. in %" if many else "accuracy in %")
    handles = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if handles:
        place: Any = "lower center" if many else "outside lower center"
        figure.legend(list(handles.values()), list(handles), loc=place, ncols=len(handles))
    return figure


def _panels(columns: int, bands: int, many: bool) -> tuple[Figure, Any]:
    """Two panels a row, one above the other."""
    if not many:
        figure = new_figure(3.0 * columns, 3.5 * bands)
        return figure, figure.subplots(2 * bands, columns, squeeze=False)
    width, height = 1.9 * columns + _LEFT + _RIGHT, 2.3 * bands + _TOP + _BOTTOM
    figure = new_figure(width, height, layout="none")
    places = {"left": _LEFT / width, "right": 1 - _RIGHT / width, "bottom": _BOTTOM / height, "top": 1 - _TOP / height}
    return figure, figure.subplots(
        2 * bands, columns, squeeze=False, gridspec_kw={**places, "wspace": 0.4, "hspace": 0.35}
    )


def _curves_of(records: Sequence[Pretraining], loss: Axes, accuracy: Axes) -> None:
    for drawn in [[record] for record in records] if len(records) <= MANY_SEEDS else [records]:
        for key, ax, colour, scale, label, marker in (
            ("loss", loss, COLOURS[0], 1, None, ""),
            ("accuracy", accuracy, COLOURS[1], 100, "pretext accuracy", ""),
            ("knn", accuracy, COLOURS[2], 100, "kNN on validation (monitor)", "o"),
        ):
            curves = [curve for record in drawn if (curve := record.curves.get(key)) is not None and curve.step]
            if curves:
                steps = [[*curve.step, math.nan] for curve in curves]
                values = [[*curve.value, math.nan] for curve in curves]
                ax.plot(
                    np.concatenate(steps)[:-1],
                    np.concatenate(values)[:-1] * scale,
                    color=colour,
                    linewidth=1.2,
                    alpha=0.85,
                    label=label,
                    marker=marker,
                    markersize=2.5,
                )
    if not accuracy.lines:
        accuracy.text(0.5, 0.5, "no accuracy", color=GREY, ha="center", va="center", transform=accuracy.transAxes)
