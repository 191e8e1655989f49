"""Figures from the records: accuracy by stage, training curves, accuracy against cost; what every figure shares."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ssl_bench.records import safe_name, write_bytes
from ssl_bench.report.columns import is_stage
from ssl_bench.report.escape import plain
from ssl_bench.report.frame import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any common colour blindness; markers differ as well, for print without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#8a8a8a"
LONGEST_NAME = 32


def draw_figures(results: Results, folder: str | Path) -> list[Path]:
    """Draw every figure that the records allow, as PNG and SVG; photographs as PNG only.

    Returns
    -------
    The files written: ``stages``, ``cost``, ``labels`` (with the labelled set's name where there are several), ``curves``, and
    ``detections-ROW`` where objects were detected.
    """
    from ssl_bench.report.detections import detection_figures
    from ssl_bench.report.label_figure import labels_figure

    home, written = Path(folder), []
    names = [str(entry["name"]) for entry in results.data_sets()]
    with _style():
        drawn: list[tuple[str, Figure | None]] = []
        for name in names:
            suffix = f"-{safe_name(name)}" if len(names) > 1 else ""
            drawn += [(f"stages{suffix}", stages_figure(results, name)), (f"cost{suffix}", cost_figure(results, name))]
            drawn.append((f"labels{suffix}", labels_figure(results, name)))
        drawn.append(("curves", curves_figure(results)))
        photographs = list(detection_figures(results))
        for stem, figure in (*drawn, *photographs):
            if figure is not None:
                figure.draw_without_rendering()
                figure.set_layout_engine("none")  # the layout, most of the time, is found once for both formats
                for kind in ("png",) if (stem, figure) in photographs else ("png", "svg"):
                    write_bytes(home / f"{stem}.{kind}", _bytes(figure, kind))
                    written.append(home / f"{stem}.{kind}")
    return written


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    settings: dict[str, Any] = {
        # Names are shown as they are: a dollar sign in one is no mathematics.
        "text.parse_math": False, "svg.hashsalt": "ssl_bench", "svg.fonttype": "path", "font.size": 9, "font.family": "DejaVu Sans",
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6,
        "axes.axisbelow": True, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.edgecolor": "#666666",
        "figure.constrained_layout.use": True, "savefig.dpi": 150, "legend.frameon": False, "figure.max_open_warning": 0,
    }
    with matplotlib.rc_context(settings):  # type: ignore[arg-type,unused-ignore]
        yield


def _bytes(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    # No date and no version in the file: the same records give the same bytes.
    metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` by ``height`` inches that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def short(name: str) -> str:
    """A name as a figure can show it: on one line, and not too long."""
    name = plain(name)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def row_names(results: Results, share: float = 1.0) -> dict[str, str]:
    """Row to its name in a figure about a share of the labels; marked where its pretraining was given labels and that is not plain."""
    marked = {row.row for row in results.run.rows if row.uses_labels and (row.block != "labels" or share < 1)}
    return {row.row: short(row.row) + (" †" if row.row in marked else "") for row in results.run.rows}


def looks(results: Results) -> dict[str, tuple[str, str]]:
    """Colour and marker of every row, the same in every figure; baselines come last, as they are seldom drawn so."""
    rows = [row.row for row in sorted(results.run.rows, key=lambda row: row.block == "baseline")]
    return {row: (COLOURS[at % len(COLOURS)], MARKERS[(at + at // len(COLOURS)) % len(MARKERS)]) for at, row in enumerate(rows)}


def _linear(results: Results, data: str) -> pd.DataFrame:
    """Top-1 of the linear probe with the largest share of the labels: accuracies with few labels are not averaged into it."""
    frame = results.frame
    own = frame[(frame["data"] == data) & (frame["evaluator"] == "linear") & (frame["variant"] == "")]
    own = own[(own["metric"] == "top1") & (own["split"] == results.split)]
    return own[own["labels"] == own["labels"].max()]


def _share(own: pd.DataFrame) -> str:
    share = float(own["labels"].max())
    return f", {100 * share:g} % of the labels" if share != 1 else ""


def split_word(results: Results) -> str:
    """What the numbers of a figure were measured on."""
    return "test" if results.run.final else "VALIDATION"


def stages_figure(results: Results, data: str) -> Figure | None:
    """Heat map of the linear probe, rows by stages, sorted by the best stage; the stage chosen on validation is framed."""
    from matplotlib.patches import Rectangle

    own = _linear(results, data)
    own = own[[is_stage(stage) for stage in own["stage"]]]
    if own.empty:
        return None
    own = own.assign(pooled=own["stage"] == "pooled")
    # Draws are averaged within a seed first.
    mean = own.groupby(["row", "stage", "seed"])["value"].mean().groupby(["row", "stage"]).mean().unstack()
    chosen = own.groupby(["row", "stage"])["best"].mean().unstack()
    stages = sorted(mean.columns, key=lambda stage: (stage == "pooled", int(re.sub(r"\D", "", stage) or 0)))
    order = {row.row: ("pretext", "elsewhere", "baseline", "labels").index(row.block) for row in results.run.rows}
    rows = sorted(mean.index, key=lambda row: (order[row], -float(mean.loc[row].max()), row))
    grid = 100 * mean.loc[rows, stages].to_numpy(dtype=float)
    names = row_names(results, float(own["labels"].max()))
    figure = new_figure(2.9 + 0.75 * len(stages), 1.1 + 0.33 * len(rows))
    ax = figure.subplots()
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
            text, colour = ("-", "black") if math.isnan(value) else (f"{value:.1f}", "black" if value > middle else "white")
            ax.text(x, y, text, ha="center", va="center", color=colour)
            share = chosen.loc[row, stage]
            if share == share and share > 0:
                # A thin frame: chosen with some of the seeds.
                width = 2.2 if share == 1 else 1.0
                ax.add_patch(Rectangle((x - 0.46, y - 0.41), 0.92, 0.82, fill=False, edgecolor="#D55E00", linewidth=width))
    for y in range(1, len(rows)):
        if order[rows[y]] != order[rows[y - 1]]:
            ax.axhline(y - 0.5, color="white", linewidth=4)
    figure.colorbar(image, ax=ax, pad=0.02).outline.set_visible(False)  # type: ignore[operator]
    ax.set_title(f"Linear probe by stage: {short(data)}{_share(own)}, top-1 in %, {split_word(results)}")
    ax.set_xlabel("stage of the network; framed: chosen on validation")
    return figure


def curves_figure(results: Results) -> Figure | None:
    """Small multiples, one pair of panels a row: the pretext loss above; its accuracy and the kNN monitor below."""
    rows = [row for row in results.run.rows if any(p.curves for (name, _), p in results.pretrainings.items() if name == row.row)]
    if not rows:
        return None
    columns = min(4, len(rows))
    bands = math.ceil(len(rows) / columns)
    names = row_names(results)
    figure = new_figure(3.0 * columns, 3.5 * bands)
    axes: Any = figure.subplots(2 * bands, columns, squeeze=False)
    percent = [
        value for p in results.pretrainings.values() for key in ("accuracy", "knn") if key in p.curves for value in p.curves[key].value
    ]
    top = 100 * min(1.0, max(percent, default=1.0) * 1.08)
    for at in range(bands * columns):
        band, column = divmod(at, columns)
        loss, accuracy = axes[2 * band, column], axes[2 * band + 1, column]
        if at >= len(rows):
            loss.set_visible(False)
            accuracy.set_visible(False)
            continue
        _curves_of(results, rows[at].row, loss, accuracy)
        loss.set_title(names[rows[at].row])
        loss.tick_params(labelbottom=False)
        steps = [record.steps for (name, _), record in results.pretrainings.items() if name == rows[at].row]
        for ax in (loss, accuracy):
            ax.set_xlim(0, max(1, *steps))
        accuracy.set_ylim(0, max(top, 1.0))
        accuracy.set_xlabel("step")
        if column == 0:
            loss.set_ylabel("pretraining loss")
            accuracy.set_ylabel("accuracy in %")
    handles = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles))
    return figure


def _curves_of(results: Results, row: str, loss: Axes, accuracy: Axes) -> None:
    drawn = False
    for (name, _), record in sorted(results.pretrainings.items(), key=lambda item: item[0][1]):
        if name != row:
            continue
        for key, ax, colour, scale, label, marker in (
            ("loss", loss, COLOURS[0], 1, None, ""), ("accuracy", accuracy, COLOURS[1], 100, "pretext accuracy", ""),
            ("knn", accuracy, COLOURS[2], 100, "kNN on validation (monitor)", "o"),
        ):
            curve = record.curves.get(key)
            if curve is not None and curve.step:
                values = np.asarray(curve.value, dtype=float) * scale
                ax.plot(curve.step, values, color=colour, linewidth=1.2, alpha=0.85, label=label, marker=marker, markersize=2.5)
                drawn = drawn or ax is accuracy
    if not drawn:
        accuracy.text(0.5, 0.5, "no accuracy", color=GREY, ha="center", va="center", transform=accuracy.transAxes)


def cost_figure(results: Results, data: str) -> Figure | None:
    """Linear probe (best stage) against what pretraining cost: FLOPs and, on one kind of machine, minutes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    own = _linear(results, data)
    own = own[own["best"].astype(bool)]
    own = own if not own.empty else _linear(results, data).query("stage == 'pooled'")
    cost = results.pretraining
    if own.empty or cost.empty:
        return None
    points = own.groupby(["row", "seed"])["value"].mean().groupby("row").agg(["mean", "min", "max"]) * 100
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
        panels.append(("seconds", f"pretraining minutes on {short(next(iter(devices)))}", lambda frame: frame["seconds"] / 60))
    if not panels:
        return None
    names, look = row_names(results, float(own["labels"].max())), looks(results)
    order = [row.row for row in results.run.rows if row.row in trained.index]
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
            ax.axhline(points.loc[row, "mean"], color=GREY, linestyle=style, linewidth=1.2, label=f"{names[row]} (no pretraining)")
        ax.set_xscale("log")
        ax.margins(x=0.12)
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:.2g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel(title)
    axes[0][0].set_ylabel(f"linear probe, best stage{_share(own)}: top-1 in %, {split_word(results)}")
    bars = " (bars: lowest and highest seed)" if len(results.run.seeds) > 1 else ""
    axes[0][0].set_title(f"{short(data)}: accuracy against cost{bars}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    return figure
