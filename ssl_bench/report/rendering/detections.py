"""What a detector finds: a few test images with their true boxes and those that were found, a figure a row."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ssl_bench.errors import RecordError
from ssl_bench.records.schema import safe_name
from ssl_bench.report.ground.escape import plain
from ssl_bench.report.reading.records import EvaluationOfRun, RunRecords
from ssl_bench.report.rendering.drawing import COLOURS, new_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PHOTOGRAPHS = "detections"  # how the names of these figures begin
SCORE = 0.5  # found boxes that are drawn score at least this
MOST_BOXES = 20  # an image; more hide what is under them
ACROSS = 3  # images side by side


def detection_figures(results: RunRecords) -> Iterator[tuple[str, Figure]]:
    """For every row, detector and set: the name of a file,
    and a figure of the images stored with the row's first seed."""
    classes = {str(entry["name"]): [str(name) for name in entry.get("classes", [])] for entry in results.own_sets()}
    firsts: dict[tuple[str, str, str], EvaluationOfRun] = {}
    for evaluation in results.evaluations:
        key = (evaluation.row.row, evaluation.evaluator, evaluation.data)
        if _shows_images(results, evaluation) and (key not in firsts or evaluation.seed < firsts[key].seed):
            firsts[key] = evaluation
    several = {(evaluator, data) for _, evaluator, data in firsts}
    for (row, evaluator, data), evaluation in firsts.items():
        try:
            kept = results.predictions(evaluation)
        except RecordError:  # told where rows are compared
            continue
        shown = sum(f"shown/{at}/jpeg" in kept for at in range(len(kept)))
        if shown:
            frozen = ", frozen" if evaluation.record.spec.get("options", {}).get("freeze") else ""
            parts = [PHOTOGRAPHS, safe_name(row)] + (
                [safe_name(evaluator), safe_name(data)] if len(several) > 1 else []
            )
            yield (
                "-".join(parts),
                _figure(
                    kept,
                    shown,
                    classes.get(data, []),
                    f"{short(row)}{frozen}, seed {evaluation.seed}: {short(data)}, test",
                ),
            )


def _shows_images(results: RunRecords, evaluation: EvaluationOfRun) -> bool:
    """Whether an evaluator kept test images with what it found on them."""
    try:
        return "shown/0/jpeg" in results.predictions(evaluation)
    except RecordError:  # told where rows are compared
        return False


def _figure(kept: dict[str, np.ndarray], shown: int, classes: list[str], title: str) -> Figure:
    from matplotlib.lines import Line2D

    images = [np.asarray(Image.open(io.BytesIO(kept[f"shown/{at}/jpeg"].tobytes()))) for at in range(shown)]
    across = min(ACROSS, shown)
    down = math.ceil(shown / across)
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    figure = new_figure(3.2 * across, 3.2 * down * min(tallest, 1.5) + 0.8)
    axes: Any = figure.subplots(down, across, squeeze=False)
    for at, ax in enumerate(axes.flat):
        ax.axis("off")
        if at < shown:
            ax.imshow(images[at])
            _draw_boxes(ax, kept[f"shown/{at}/boxes"], "white", "--", 2.4)
            _draw_boxes(ax, kept[f"shown/{at}/boxes"], "black", "--", 1.0)
            drawn = np.flatnonzero((kept["image"] == at) & (kept["scores"] >= SCORE))
            drawn = drawn[np.argsort(-kept["scores"][drawn].astype(np.float32), kind="stable")][:MOST_BOXES]
            for label in np.unique(kept["labels"][drawn]):
                of_class = drawn[kept["labels"][drawn] == label]
                _draw_boxes(
                    ax, kept["boxes"][of_class].astype(np.float32), COLOURS[int(label) % len(COLOURS)], "-", 1.6
                )
                for box, score in zip(
                    kept["boxes"][of_class].astype(np.float32), kept["scores"][of_class], strict=True
                ):
                    ax.text(
                        box[0],
                        box[1],
                        f"{float(score):.2f}",
                        fontsize=6,
                        color="white",
                        va="bottom",
                        backgroundcolor=COLOURS[int(label) % len(COLOURS)],
                    )
    handles = [Line2D([], [], color="black", linestyle="--", label="truth")]
    labels = sorted({int(label) for at in range(shown) for label in kept["labels"][kept["image"] == at]})
    handles += [
        Line2D([], [], color=COLOURS[at % len(COLOURS)], label=plain(classes[at]) if at < len(classes) else str(at))
        for at in labels[: len(COLOURS)]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    figure.suptitle(f"{title}; found with a score of {SCORE:g} and more", fontsize=9, fontweight="bold")
    return figure


def _draw_boxes(ax: Axes, boxes: np.ndarray, colour: str, style: str, width: float) -> None:
    from matplotlib.patches import Rectangle

    for x1, y1, x2, y2 in boxes.astype(float):
        # Pixel centres lie on whole numbers in a drawing, edges of boxes on the lines between pixels.
        ax.add_patch(
            Rectangle(
                (x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linestyle=style, linewidth=width
            )
        )
