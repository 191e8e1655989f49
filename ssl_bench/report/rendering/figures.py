"""Figures from the records: training curves, accuracy against cost; every figure of a report, drawn and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ssl_bench.records.schema import safe_name, write_bytes
from ssl_bench.report.building.build import build_table
from ssl_bench.report.ground.content import TableContent
from ssl_bench.report.reading.records import RunRecords
from ssl_bench.report.rendering.curves_figure import curves_figure
from ssl_bench.report.rendering.detections import PHOTOGRAPHS, detection_pictures
from ssl_bench.report.rendering.drawing import (
    GREY,
    file_bytes,
    looks,
    new_figure,
    photograph_bytes,
    protocol_word,
    row_names,
    short,
    split_word,
    style,
)
from ssl_bench.report.rendering.feature_figure import features_figure
from ssl_bench.report.rendering.label_figure import labels_figure
from ssl_bench.report.rendering.rank_figure import ranks_figure
from ssl_bench.report.rendering.stage_figures import accuracies_by_stage, gains_figure, share_words, stages_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_figures(
    results: RunRecords,
    folder: str | Path,
    *,
    svg: bool = False,
    photographs: bool = True,
    table: TableContent | None = None,
) -> list[Path]:
    """Draw every figure that the records allow, as PNG; photographs as JPEG, a third of the size.

    Parameters
    ----------
    svg : draw an SVG beside every PNG; without, those of an earlier report go.
    photographs : draw figures of test images as well; without, those of an earlier report go.
    table : of the same records, if it was made already.

    Returns
    -------
    The files written: ``stages``, ``gains``, ``cost``, ``labels`` and ``ranks`` (with the labelled set's name where
    there are several), ``curves``, ``features``, and ``detections-ROW`` where objects were detected.
    """
    home, written = Path(folder), []
    names = [str(entry["name"]) for entry in results.data_sets()]
    sections = (table or build_table(results)).sections
    with style():
        drawn: list[tuple[str, Figure | None]] = []
        for name in names:
            suffix = f"-{safe_name(name)}" if len(names) > 1 else ""
            drawn += [
                (f"stages{suffix}", stages_figure(results, name)),
                (f"gains{suffix}", gains_figure(results, name)),
            ]
            drawn.append((f"cost{suffix}", cost_figure(results, name)))
            drawn.append((f"labels{suffix}", labels_figure(results, name)))
            section = next((section for section in sections if section.data == name), None)
            drawn.append((f"ranks{suffix}", ranks_figure(results, section) if section is not None else None))
        drawn += [("curves", curves_figure(results)), ("features", features_figure(results))]
        charts = ("png", "svg") if svg else ("png",)
        stale = [*(() if svg else home.glob("*.svg")), *(() if photographs else home.glob(f"{PHOTOGRAPHS}-*.jpg"))]
        for path in stale:
            path.unlink(missing_ok=True)
        for stem, figure in drawn:
            if figure is not None:
                if figure.get_layout_engine() is not None:
                    figure.draw_without_rendering()
                    figure.set_layout_engine("none")  # the layout, most of the time, is found once for all formats
                for kind in charts:
                    write_bytes(home / f"{stem}.{kind}", file_bytes(figure, kind))
                    written.append(home / f"{stem}.{kind}")
    # they show test images
    for stem, picture in detection_pictures(results) if results.run.final and photographs else ():
        write_bytes(home / f"{stem}.jpg", photograph_bytes(picture))
        written.append(home / f"{stem}.jpg")
    return written


def cost_figure(results: RunRecords, data: str) -> Figure | None:
    """Accuracy at the best stage against what pretraining cost: FLOPs and, on one kind of machine, minutes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    evaluator, stages = accuracies_by_stage(results, data)
    accuracies = stages[stages["best"].astype(bool)]
    accuracies = accuracies if not accuracies.empty else stages.query("stage == 'pooled'")
    cost = results.pretraining
    if accuracies.empty or cost.empty:
        return None
    points = accuracies.groupby(["row", "seed"])["value"].mean().groupby("row").agg(["mean", "min", "max"]) * 100
    means = cost.groupby("row")[["flops", "seconds", "steps"]].mean()
    points = points.join(means, how="left")
    trained = points[points["steps"].fillna(0) > 0]
    if trained.empty:
        return None
    devices = {p.environment.device for p in results.pretrainings.values() if p.steps}
    panels: list[tuple[str, str, Callable[[pd.DataFrame], pd.Series]]] = []
    if (trained["flops"] > 0).any():
        panels.append(("flops", "pretraining TFLOP, heads and decoders included", lambda frame: frame["flops"] / 1e12))
    if len(devices) == 1 and (trained["seconds"] > 0).any():
        panels.append(
            ("seconds", f"pretraining minutes on {short(next(iter(devices)))}", lambda frame: frame["seconds"] / 60)
        )
    if not panels:
        return None
    names, look = row_names(results, float(accuracies["labels"].max())), looks(results)
    order = [row.row for row in results.run.rows if row.row in trained.index]
    elsewhere = {row.row for row in results.run.rows if row.block == "elsewhere"}
    figure = new_figure(4.6 * len(panels) + 1.6, 4.2)
    axes: Any = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    for ax, (_, title, of) in zip(axes[0], panels, strict=True):
        for row in order:
            point = trained.loc[row]
            x = float(of(trained.loc[[row]]).iloc[0])
            if not x > 0:
                continue
            colour, marker = look[row]
            ax.vlines(x, point["min"], point["max"], color=colour, linewidth=1.4, zorder=2)
            ax.plot(x, point["mean"], marker, color=colour, markersize=8, markeredgecolor="white", label=names[row])
        for at, row in enumerate(points.index[points["steps"].fillna(0) == 0]):
            style = (":", "--", "-.")[at % 3]
            why = "cost not known" if row in elsewhere else "no pretraining"
            ax.axhline(
                points.loc[row, "mean"], color=GREY, linestyle=style, linewidth=1.2, label=f"{names[row]} ({why})"
            )
        ax.set_xscale("log")
        ax.margins(x=0.12)
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:.2g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel(title)
    older = protocol_word(results, evaluator, data)
    axes[0][0].set_ylabel(
        results.declared(evaluator).title
        + (f", {older}" if older else "")
        + f", best stage{share_words(accuracies)}: top-1 in %, {split_word(results)}"
    )
    bars = " (bars: lowest and highest seed)" if len(results.run.seeds) > 1 else ""
    axes[0][0].set_title(f"{short(data)}: accuracy against cost{bars}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    return figure
