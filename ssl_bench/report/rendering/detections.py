"""What a detector finds: a few test images with their true boxes and those that were found, a figure a row."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from ssl_bench.errors import RecordError
from ssl_bench.records.schema import safe_name
from ssl_bench.report.ground.escape import plain
from ssl_bench.report.reading.records import EvaluationOfRun, RunRecords
from ssl_bench.report.rendering.boxed_images import Box, boxed_images
from ssl_bench.report.rendering.drawing import COLOURS, short

PHOTOGRAPHS = "detections"  # how the names of these pictures begin
SCORE = 0.5  # found boxes that are drawn score at least this
MOST_BOXES = 20  # an image; more hide what is under them


def detection_pictures(results: RunRecords) -> Iterator[tuple[str, Image.Image]]:
    """For every row, detector and set: the name of a file,
    and a picture of the images stored with the row's first seed."""
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
                _picture(
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


def _picture(kept: dict[str, np.ndarray], shown: int, classes: list[str], title: str) -> Image.Image:
    images = [Image.open(io.BytesIO(kept[f"shown/{at}/jpeg"].tobytes())) for at in range(shown)]
    labels = sorted({int(label) for at in range(shown) for label in kept["labels"][kept["image"] == at]})
    legend: list[tuple[str, str | None]] = [("truth", None)]
    legend += [
        (plain(classes[at]) if at < len(classes) else str(at), COLOURS[at % len(COLOURS)])
        for at in labels[: len(COLOURS)]
    ]
    boxes = [boxes_of(kept, at) for at in range(shown)]
    return boxed_images(f"{title}; found with a score of {SCORE:g} and more", images, boxes, legend)


def boxes_of(kept: dict[str, np.ndarray], at: int) -> list[Box]:
    """What is drawn on an image: its true boxes, then the boxes found with the highest scores, class by class."""
    truth = [Box(_corners(box)) for box in kept[f"shown/{at}/boxes"]]
    drawn = np.flatnonzero((kept["image"] == at) & (kept["scores"] >= SCORE))
    drawn = drawn[np.argsort(-kept["scores"][drawn].astype(np.float32), kind="stable")][:MOST_BOXES]
    return truth + [
        Box(
            _corners(kept["boxes"][place]),
            COLOURS[int(kept["labels"][place]) % len(COLOURS)],
            f"{float(kept['scores'][place]):.2f}",
        )
        for place in drawn[np.argsort(kept["labels"][drawn], kind="stable")]
    ]


def _corners(box: np.ndarray) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in box.astype(np.float32))
    return x1, y1, x2, y2
