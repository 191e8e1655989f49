"""Average precision of detections: PASCAL VOC's two forms and COCO's (Everingham et al., 2010; Lin et al., 2014).

Which detection is right, wrong or left out is told in `matching`; difficult objects do not count in the recall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ssl_bench.errors import DataError, SpecError, did_you_mean
from ssl_bench.evaluators.detection.annotations import Detections, Truth, kind_of_array
from ssl_bench.evaluators.detection.matching import ClassMatches, match_detections

# COCO's points as pycocotools rounds them (0.35 is a little more than 35/100). VOC's are tenths, rounded once as a
# recall of 3/10 is, which then reaches 0.3; in arange(0, 1.1, 0.1), which copies of the devkit use, it falls short of
# 0.30000000000000004.
_POINTS = {"voc07": np.arange(11) / 10, "coco": np.linspace(0, 1, 101)}
_STEPS = tuple(float(threshold) for threshold in np.linspace(0.5, 0.95, 10))


class APKind(NamedTuple):
    """A form of AP: who takes which object ("voc", "coco"), how the curve is averaged, and at which IoUs."""

    matching: str
    curve: str
    thresholds: tuple[float, ...]


#: The forms of AP that are reported.
KINDS: Mapping[str, APKind] = {
    "voc07": APKind("voc", "voc07", (0.5,)),
    "area": APKind("voc", "area", (0.5,)),
    "coco": APKind("coco", "coco", _STEPS),
    "coco50": APKind("coco", "coco", _STEPS[:1]),
    "coco75": APKind("coco", "coco", _STEPS[5:6]),
}


@dataclass(frozen=True)
class Metrics:
    """Average precisions in [0, 1], by the names in `KINDS`."""

    mean: Mapping[str, float]  #: mAP, over the classes with objects; NaN where there are none
    per_class: Mapping[str, np.ndarray]  #: float64 [C]; NaN for a class without objects
    objects: np.ndarray  #: int64 [C], without difficult ones
    classes: tuple[str, ...]  #: the C class names

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without an object, or with difficult ones alone: the means are taken without them."""
        return tuple(name for name, count in zip(self.classes, self.objects, strict=True) if count == 0)


def average_precision(recall: ArrayLike, precision: ArrayLike, kind: str) -> float:
    """AP in [0, 1] of a curve, the precision at a recall being the highest at this or any higher one (0 beyond the
    last).

    Parameters
    ----------
    recall, precision : [n] in [0, 1], after each detection by falling score; recall does not fall. n may be 0.
    kind : "voc07": mean over the recalls 0, 0.1, ..., 1. "area": area below (VOC from 2010). "coco": mean over 0, 0.01,
        ..., 1.

    Raises SpecError for another kind; DataError for arrays of different shapes and a recall that falls.

    >>> average_precision([0.5, 0.5, 1.0], [1.0, 0.5, 0.5], "area")
    0.75
    """
    recall, precision = np.asarray(recall, np.float64), np.asarray(precision, np.float64)
    if kind not in ("area", *_POINTS):
        raise SpecError(f"average precision {kind!r}; {did_you_mean(kind, ['area', *_POINTS])}")
    if recall.ndim != 1 or recall.shape != precision.shape:
        raise DataError(
            f"recall and precision must be of one shape [n], got {kind_of_array(recall)} and {kind_of_array(precision)}"
        )
    if np.any(np.diff(recall) < 0):
        raise DataError("recall must not fall along the curve: it has a value after each detection, by falling score")
    return _area_below(recall, precision, kind)


def _area_below(recall: np.ndarray, precision: np.ndarray, kind: str) -> float:
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if kind == "area":
        # by height: steps of recall may add up to a little more than 1
        return float(-np.diff(envelope, append=0.0) @ recall)
    return float(np.append(envelope, 0.0)[np.searchsorted(recall, _POINTS[kind])].mean())


def evaluate_detections(
    detections: Sequence[Detections], truth: Sequence[Truth], classes: Sequence[str], *, plus_one: bool = False
) -> Metrics:
    """All `KINDS` of average precision of the detections in a set of images.

    Parameters
    ----------
    detections, truth : one each per image, in the same order; images without objects belong to the set.
    classes : names of the class ids 0, 1, ...
    plus_one : VOC's APs take a box as x2 - x1 + 1 pixels wide (height alike), as the devkit does. For integer corners
        that both belong to the box, as in VOC's files; not for corners that were made continuous (x1 - 1, y1 - 1, x2,
        y2). COCO's APs never do.

    Raises
    ------
    DataError : no image, not one entry each per image, labels that are no class id.
    """
    matched = {
        name: match_detections(detections, truth, len(classes), name, steps, plus_one)
        for name, steps in (("voc", (0.5,)), ("coco", _STEPS))
    }
    once = np.ones(len(truth), np.int64)
    per_class = {
        name: np.array([_ap(of_class, once, kind) for of_class in matched[kind.matching]])
        for name, kind in KINDS.items()
    }
    objects = np.array([of_class.objects.sum() for of_class in matched["voc"]], np.int64)
    return Metrics({name: _mean(values) for name, values in per_class.items()}, per_class, objects, tuple(classes))


def bootstrap_map(
    detections: Sequence[Detections],
    truth: Sequence[Truth],
    classes: Sequence[str],
    kind: str,
    draws: int = 1_000,
    seed: int = 0,
    *,
    plus_one: bool = False,
) -> np.ndarray:
    """mAP float64 [draws] of sets of images drawn with replacement, each as large as the set (Efron & Tibshirani,
    1993).

    Draw d takes the images ``Generator(PCG64([seed, d])).integers(0, N, N)``, whatever was found in them: detectors
    asked with one seed on one truth are compared in pairs. Classes of which a draw has no object are left out of its
    mean (NaN without any). Among equal scores the images of a draw stand in their original order, and all copies of a
    detection before the next one.

    Raises
    ------
    SpecError : ``kind`` is none of `KINDS`, fewer than one draw, a negative seed.
    DataError : as for `evaluate_detections`, which explains the other parameters.
    """
    if kind not in KINDS:
        raise SpecError(f"average precision {kind!r}; {did_you_mean(kind, KINDS)}")
    if draws < 1 or seed < 0:
        raise SpecError(f"the bootstrap needs at least 1 draw and a seed of at least 0, got draws={draws}, seed={seed}")
    asked, count = KINDS[kind], len(truth)
    matched = match_detections(detections, truth, len(classes), asked.matching, asked.thresholds, plus_one)
    drawn = np.empty(draws)
    for draw in range(draws):
        times = np.bincount(
            np.random.Generator(np.random.PCG64([seed, draw])).integers(0, count, count), minlength=count
        )
        drawn[draw] = _mean(np.array([_ap(of_class, times, asked) for of_class in matched]))
    return drawn


def _ap(of_class: ClassMatches, times: np.ndarray, kind: APKind) -> float:
    """AP of one class when image i is in the set times[i] times; NaN without objects."""
    total = int(times @ of_class.objects)
    if total == 0:
        return float("nan")
    seen = np.cumsum(times[of_class.images])
    values = []
    for right, left_out, before in (of_class.curves[threshold] for threshold in kind.thresholds):
        # Only right detections raise recall, and precision is highest at the last copy of each: no other point needs to
        # be known.
        hits = np.cumsum(times[of_class.images[right]])
        counted = seen[right] - np.append(0, np.cumsum(times[of_class.images[left_out]]))[before]
        values.append(_area_below(hits / total, hits / np.maximum(counted, 1), kind.curve))
    return float(np.mean(values))


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
