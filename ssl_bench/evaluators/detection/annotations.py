"""The objects of an image and the detections in it, checked as they are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssl_bench.errors import DataError


@dataclass(frozen=True)
class Truth:
    """The objects of one image.

    Raises DataError for other shapes or kinds of array, and corners not finite or in the wrong order.
    """

    boxes: np.ndarray  #: float32 [n, 4], x1 y1 x2 y2 in pixels, continuous coordinates, x1 <= x2 and y1 <= y2
    labels: np.ndarray  #: int64 [n], class ids
    difficult: np.ndarray  #: bool [n], objects that need not be found

    def __post_init__(self) -> None:
        _check_boxes("the truth", self.boxes, self.labels)
        if self.difficult.shape != self.labels.shape or self.difficult.dtype != np.bool_:
            raise DataError(
                f"difficult of the truth must be bool [{len(self.labels)}], got {kind_of_array(self.difficult)}"
            )


@dataclass(frozen=True)
class Detections:
    """The detections in one image, in any order.

    Raises DataError as `Truth` does, and for scores that are not finite.
    """

    boxes: np.ndarray  #: float32 [m, 4], as in `Truth`
    scores: np.ndarray  #: float32 [m], higher is surer; only their order counts
    labels: np.ndarray  #: int64 [m], class ids

    def __post_init__(self) -> None:
        _check_boxes("the detections", self.boxes, self.labels)
        if self.scores.shape != self.labels.shape or self.scores.dtype.kind != "f":
            raise DataError(
                f"the scores of the detections must be float [{len(self.labels)}], got {kind_of_array(self.scores)}"
            )
        if not np.isfinite(self.scores).all():
            raise DataError(
                f"the scores of the detections must be finite, got {self.scores[~np.isfinite(self.scores)][0]}"
            )


def kind_of_array(array: np.ndarray) -> str:
    """dtype and shape, for a message."""
    return f"{array.dtype} {list(array.shape)}"


def _check_boxes(what: str, boxes: np.ndarray, labels: np.ndarray) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"the labels of {what} must be integers [n], got {kind_of_array(labels)}")
    if boxes.shape != (len(labels), 4) or boxes.dtype.kind not in "fiu":
        raise DataError(
            f"the boxes of {what} must be float [{len(labels)}, 4], one box per label, got {kind_of_array(boxes)}"
        )
    bad = np.flatnonzero(~(np.isfinite(boxes).all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1)))
    if len(bad):
        raise DataError(
            f"box {bad[0]} of {what} must be x1 y1 x2 y2, finite, with x1 <= x2 and y1 <= y2, got "
            f"{boxes[bad[0]].tolist()}"
        )
