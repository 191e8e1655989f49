"""Average precision of detections: PASCAL VOC's two forms and COCO's (Everingham et al., 2010; Lin et al., 2014).

A detection is right, wrong, or left out (neither counted nor penalised). Per image and class, by falling score:

* VOC: it belongs to the object that it overlaps most, difficult and taken ones included. Right when IoU >= 0.5 and the
  object is free, wrong when it is taken (a double detection), left out when it is difficult, however often. Among equal
  overlaps: the first object. The devkit compares with >=, many Python copies of it with >.
* COCO: it takes the free object that it overlaps most among those with IoU >= the threshold; a difficult one only where
  no other is left. Right, or left out on a difficult object, which is then taken too (COCO's "ignore", not its
  "iscrowd"); else wrong. Among equal overlaps: the last object, as in pycocotools. Beyond the 100 best of an image and
  class, detections are left out.

Equal scores stand in order of images, then of detections within an image. Difficult objects do not count in the recall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ssl_bench.errors import DataError, SpecError, did_you_mean

COCO_MOST = 100  # detections of an image and class
_RIGHT, _WRONG, _LEFT_OUT = 1, 0, -1

# COCO's points as pycocotools rounds them (0.35 is a little more than 35/100). VOC's are tenths, rounded once as a
# recall of 3/10
# is, which then reaches 0.3; in arange(0, 1.1, 0.1), which copies of the devkit use, it falls short of
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
class Truth:
    """The objects of one image.

    Raises DataError for other shapes or kinds of array, and corners not finite or in the wrong order.
    """

    boxes: np.ndarray  #: float32 [n, 4], x1 y1 x2 y2 in pixels, continuous coordinates, x1 <= x2 and y1 <= y2
    labels: np.ndarray  #: int64 [n], class ids
    difficult: np.ndarray  #: bool [n], objects that need not be found

    def __post_init__(self) -> None:
        _check("the truth", self.boxes, self.labels)
        if self.difficult.shape != self.labels.shape or self.difficult.dtype != np.bool_:
            raise DataError(f"difficult of the truth must be bool [{len(self.labels)}], got {_kind_of(self.difficult)}")


@dataclass(frozen=True)
class Detections:
    """The detections in one image, in any order.

    Raises DataError as `Truth` does, and for scores that are not finite.
    """

    boxes: np.ndarray  #: float32 [m, 4], as in `Truth`
    scores: np.ndarray  #: float32 [m], higher is surer; only their order counts
    labels: np.ndarray  #: int64 [m], class ids

    def __post_init__(self) -> None:
        _check("the detections", self.boxes, self.labels)
        if self.scores.shape != self.labels.shape or self.scores.dtype.kind != "f":
            raise DataError(
                f"the scores of the detections must be float [{len(self.labels)}], got {_kind_of(self.scores)}"
            )
        if not np.isfinite(self.scores).all():
            raise DataError(
                f"the scores of the detections must be finite, got {self.scores[~np.isfinite(self.scores)][0]}"
            )


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
            f"recall and precision must be of one shape [n], got {_kind_of(recall)} and {_kind_of(precision)}"
        )
    if np.any(np.diff(recall) < 0):
        raise DataError("recall must not fall along the curve: it has a value after each detection, by falling score")
    return _below(recall, precision, kind)


def _below(recall: np.ndarray, precision: np.ndarray, kind: str) -> float:
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
        name: _match(detections, truth, len(classes), name, steps, plus_one)
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
    matched = _match(detections, truth, len(classes), asked.matching, asked.thresholds, plus_one)
    drawn = np.empty(draws)
    for draw in range(draws):
        times = np.bincount(
            np.random.Generator(np.random.PCG64([seed, draw])).integers(0, count, count), minlength=count
        )
        drawn[draw] = _mean(np.array([_ap(of_class, times, asked) for of_class in matched]))
    return drawn


class _Curve(NamedTuple):
    right: np.ndarray  # positions int64 among the class's detections by falling score
    left_out: np.ndarray
    before: np.ndarray  # for each right one, how many left-out ones precede it


class _Class(NamedTuple):
    images: np.ndarray  # int64 [D], of its detections by falling score
    objects: np.ndarray  # int64 [N], that count, per image
    curves: Mapping[float, _Curve]


def _ap(of_class: _Class, times: np.ndarray, kind: APKind) -> float:
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
        values.append(_below(hits / total, hits / np.maximum(counted, 1), kind.curve))
    return float(np.mean(values))


def _match(
    detections: Sequence[Detections],
    truth: Sequence[Truth],
    num_classes: int,
    matching: str,
    thresholds: Sequence[float],
    plus_one: bool,
) -> list[_Class]:
    count = len(truth)
    if len(detections) != count or not count:
        raise DataError(
            f"detections of {len(detections):,} images and the truth of {count:,}; they must be of the same images, "
            "at least one"
        )
    images, boxes, labels = _joined("the detections", detections, num_classes)
    homes, objects, names = _joined("the truth", truth, num_classes)
    difficult = np.concatenate([in_image.difficult for in_image in truth])
    order = np.lexsort((-np.concatenate([in_image.scores for in_image in detections]), labels))  # stable
    ends = np.searchsorted(labels[order], np.arange(num_classes + 1))
    take, most = (_take_voc, None) if matching == "voc" else (_take_coco, COCO_MOST)
    result = []
    for label in range(num_classes):
        ours, theirs = order[ends[label] : ends[label + 1]], np.flatnonzero(names == label)
        outcomes = np.full((len(thresholds), len(ours)), _WRONG, np.int8)
        by_image = np.argsort(images[ours], kind="stable")
        start = np.searchsorted(images[ours][by_image], np.arange(count + 1))
        if most:
            outcomes[:, by_image[np.arange(len(ours)) - start[images[ours][by_image]] >= most]] = _LEFT_OUT
        for image in np.unique(homes[theirs]):
            here = by_image[start[image] : start[image + 1]][:most]
            if len(here):
                these = theirs[homes[theirs] == image]
                overlap = _iou(boxes[ours[here]], objects[these], float(plus_one and matching == "voc"))
                outcomes[:, here] = [take(overlap, difficult[these], threshold) for threshold in thresholds]
        curves = {}
        for threshold, outcome in zip(thresholds, outcomes, strict=True):
            right, left_out = np.flatnonzero(outcome == _RIGHT), np.flatnonzero(outcome == _LEFT_OUT)
            curves[threshold] = _Curve(right, left_out, np.searchsorted(left_out, right))
        result.append(_Class(images[ours], np.bincount(homes[theirs[~difficult[theirs]]], minlength=count), curves))
    return result


def _take_voc(overlap: np.ndarray, difficult: np.ndarray, threshold: float) -> np.ndarray:
    """Outcomes int8 [d] of detections by falling score, from IoUs [d, g] with the objects of the same image and class."""
    best = overlap.argmax(1)
    reached = overlap.max(1) >= threshold
    outcome = np.where(reached & difficult[best], _LEFT_OUT, _WRONG).astype(np.int8)
    claims = np.flatnonzero(reached & ~difficult[best])
    outcome[claims[np.unique(best[claims], return_index=True)[1]]] = _RIGHT
    return outcome


def _take_coco(overlap: np.ndarray, difficult: np.ndarray, threshold: float) -> np.ndarray:
    """As `_take_voc`, by COCO's rule."""
    outcome = np.full(len(overlap), _WRONG, np.int8)
    hard, ious = difficult.tolist(), overlap.tolist()  # lists: a handful of objects is too few for arrays to pay
    free = set(range(len(hard)))
    for at in np.flatnonzero(overlap.max(1) >= threshold).tolist():
        within = [number for number in free if ious[at][number] >= threshold]
        if within:
            best = max((not hard[number], ious[at][number], number) for number in within)[2]
            free.remove(best)
            outcome[at] = _LEFT_OUT if hard[best] else _RIGHT
        if not free:
            break
    return outcome


def _iou(first: np.ndarray, second: np.ndarray, extra: float) -> np.ndarray:
    """Intersection over union float64 [d, g] of boxes [d, 4] and [g, 4]; 0 where both are empty."""
    sides = (
        np.minimum(first[:, None, 2:], second[None, :, 2:])
        - np.maximum(first[:, None, :2], second[None, :, :2])
        + extra
    )
    both = np.maximum(sides, 0.0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + extra).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1] - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0))


def _joined(
    what: str, parts: Sequence[Detections] | Sequence[Truth], num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image number, box (float64) and label of every entry, image after image."""
    images = np.repeat(np.arange(len(parts)), [len(in_image.labels) for in_image in parts])
    labels = np.concatenate([in_image.labels for in_image in parts])
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise DataError(
            f"the labels of {what} must be from 0 to {num_classes - 1:,}, got {labels[wrong[0]]} in image "
            f"{images[wrong[0]]}"
        )
    return images, np.concatenate([in_image.boxes for in_image in parts]).astype(np.float64), labels


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _kind_of(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _check(what: str, boxes: np.ndarray, labels: np.ndarray) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"the labels of {what} must be integers [n], got {_kind_of(labels)}")
    if boxes.shape != (len(labels), 4) or boxes.dtype.kind not in "fiu":
        raise DataError(
            f"the boxes of {what} must be float [{len(labels)}, 4], one box per label, got {_kind_of(boxes)}"
        )
    bad = np.flatnonzero(~(np.isfinite(boxes).all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1)))
    if len(bad):
        raise DataError(
            f"box {bad[0]} of {what} must be x1 y1 x2 y2, finite, with x1 <= x2 and y1 <= y2, got "
            f"{boxes[bad[0]].tolist()}"
        )
