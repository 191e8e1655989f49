"""Which detection belongs to which object, by PASCAL VOC's rule and by COCO's
(Everingham et al., 2010; Lin et al., 2014).

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
from typing import NamedTuple

import numpy as np

from ssl_bench.errors import DataError
from ssl_bench.evaluators.detection.annotations import Detections, Truth

COCO_MOST = 100  # detections of an image and class
_RIGHT, _WRONG, _LEFT_OUT = 1, 0, -1


class ThresholdMatches(NamedTuple):
    """What became of a class's detections at one threshold of IoU."""

    right: np.ndarray  # positions int64 among the class's detections by falling score
    left_out: np.ndarray
    before: np.ndarray  # for each right one, how many left-out ones precede it


class ClassMatches(NamedTuple):
    """What an average precision of one class is computed from, whichever images are drawn."""

    images: np.ndarray  # int64 [D], of its detections by falling score
    objects: np.ndarray  # int64 [N], that count, per image
    curves: Mapping[float, ThresholdMatches]


def match_detections(
    detections: Sequence[Detections],
    truth: Sequence[Truth],
    num_classes: int,
    matching: str,
    thresholds: Sequence[float],
    plus_one: bool,
) -> list[ClassMatches]:
    """Match the detections of every class with its objects.

    Parameters
    ----------
    detections, truth : one each per image, in the same order.
    num_classes : labels are 0 to this, exclusive.
    matching : whose rule holds, "voc" or "coco".
    thresholds : IoUs from which on a detection may belong to an object.
    plus_one : VOC's rule takes a box as x2 - x1 + 1 pixels wide.

    Raises
    ------
    DataError : no image, not one entry each per image, labels that are no class id.
    """
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
            curves[threshold] = ThresholdMatches(right, left_out, np.searchsorted(left_out, right))
        result.append(
            ClassMatches(images[ours], np.bincount(homes[theirs[~difficult[theirs]]], minlength=count), curves)
        )
    return result


def _take_voc(overlap: np.ndarray, difficult: np.ndarray, threshold: float) -> np.ndarray:
    """Outcomes int8 [d] of detections by falling score, from IoUs [d, g] with the objects
    of the same image and class."""
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
