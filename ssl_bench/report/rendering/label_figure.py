"""Accuracy against the number of labels, for the linear probe and for fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_bench.records.schema import RunRow
from ssl_bench.report.building.few_labels import LabelCurve, label_counts, label_curves, with_shares
from ssl_bench.report.ground.names import base_name
from ssl_bench.report.reading.records import RunRecords
from ssl_bench.report.rendering.drawing import GREY, looks, new_figure, protocol_word, row_names, short, split_word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Baselines are grey and told apart by their dashes; those beyond the fourth share a look.
DASHES: tuple[Any, ...] = ("--", "-.", (0, (1, 1.2)), (0, (6, 2, 1, 2, 1, 2)))
SPREAD = 1.15  # from the first to the last row along the axis, so that not every bar lies on another


def labels_figure(results: RunRecords, data: str) -> Figure | None:
    """Top-1 by number of labels, a panel for every evaluator that was asked for two shares or more; None where none
    was.

    A line a row: the mean over seeds of the mean over draws, a bar from the lowest to the highest seed. Baselines are
    grey and dashed. A row whose pretraining was given labels is dotted up to the first point where the others are given
    them too, its markers there hollow.
    """
    panels = {name: label_curves(results, data, name) for name in with_shares(results, data)}
    panels = {name: curves for name, curves in panels.items() if curves}
    if not panels:
        return None
    rows = {row.row: row for row in results.run.rows}
    shown = list(dict.fromkeys((curve.row, curve.variant) for curves in panels.values() for curve in curves))
    dashes = {
        name: DASHES[at % len(DASHES)]
        for at, name in enumerate(name for name in shown if rows[name[0]].block == "baseline")
    }
    names, look = row_names(results, 0.0), looks(results)
    figure = new_figure(4.4 * len(panels) + 2.2, max(4.2, 1.0 + 0.26 * len(shown)))
    axes: Any = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    drawn: dict[tuple[str, str], tuple[float, Any]] = {}
    for ax, (evaluator, curves) in zip(axes[0], panels.items(), strict=True):
        counts = label_counts(results, data, evaluator)
        for at, curve in enumerate(curves):
            row = rows[curve.row]
            x = np.array([counts[share] for share in curve.values]) * SPREAD ** ((at + 0.5) / len(curves) - 0.5)
            if row.block == "baseline":
                style: dict[str, Any] = {"color": GREY, "linestyle": dashes[curve.row, curve.variant], "linewidth": 1.3}
            else:
                style = {"color": look[curve.row][0], "marker": look[curve.row][1], "linewidth": 1.4}
                style |= {"markersize": 11 if style["marker"] == "*" else 7, "markeredgewidth": 0.6}
            label = names[curve.row] + (
                f", {'3x longer' if curve.variant == 'longer' else curve.variant}" if curve.variant else ""
            )
            handle = _draw_curve(ax, x, curve, row, style | {"label": label})
            drawn[curve.row, curve.variant] = next(iter(_means(curve))), handle
        _axis(ax, counts)
        count, older = evaluator.removeprefix(base_name(evaluator)), protocol_word(results, evaluator, data)
        ax.set_title(
            (f"{short(data)}: " if ax is axes[0][0] else "")
            + results.declared(evaluator).curve
            + count
            + (f"\n{older}" if older else "")
        )
    axes[0][0].set_ylabel(f"top-1 in %, {split_word(results)}")
    several = len(results.run.seeds) > 1
    figure.supxlabel(
        "number and share of labels" + ("; mean over seeds, bars: lowest and highest seed" if several else ""),
        fontsize=9,
    )
    # The legend in the order of the last panel at the fewest labels.
    handles = [handle for _, handle in sorted(drawn.values(), key=lambda placed: -placed[0])]
    told = "† saw all labels in pretraining" if any(rows[row].uses_labels for row, _ in drawn) else None
    figure.legend(
        handles=handles, loc="outside right upper", handlelength=3.2, title=told, title_fontsize=8, alignment="left"
    )
    return figure


def _means(curve: LabelCurve) -> list[float]:
    return [100 * float(np.mean(list(values.values()))) for values in curve.values.values()]


def _draw_curve(ax: Axes, x: np.ndarray, curve: LabelCurve, row: RunRow, style: dict[str, Any]) -> Any:
    """The line and bars of one row; returns what stands for it in the legend."""
    y = np.array(_means(curve))
    for place, values in zip(x, curve.values.values(), strict=True):
        if len(values) > 1:
            ax.vlines(
                place,
                100 * min(values.values()),
                100 * max(values.values()),
                color=style["color"],
                linewidth=1.1,
                zorder=2,
            )
    shares = np.array(list(curve.values))
    if not row.uses_labels or (shares == 1).all():
        return ax.plot(x, y, **style, markeredgecolor="white")[0]
    (line,) = ax.plot(x, y, **style | {"linestyle": ":", "markerfacecolor": "white"}, markeredgecolor=style["color"])
    ax.plot(x[shares == 1], y[shares == 1], **style | {"linestyle": "none", "label": None}, markeredgecolor="white")
    return line


def _axis(ax: Axes, counts: dict[float, float]) -> None:
    """A tick where there is a measurement, and nowhere else."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ticks = {
        count: (f"{count:,.0f}\n" if max(counts.values()) > 1 else "") + f"{100 * share:g} %"
        for share, count in counts.items()
    }
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.margins(x=0.06)
