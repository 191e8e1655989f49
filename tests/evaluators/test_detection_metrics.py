"""Average precision by hand, against the definition in exact fractions, pycocotools and torchmetrics; the bootstrap
against resampled lists."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_bench.errors import DataError, SpecError
from ssl_bench.evaluators.detection.annotations import Detections, Truth
from ssl_bench.evaluators.detection.metrics import KINDS, Metrics, average_precision, bootstrap_map, evaluate_detections

NAMES = ("cat", "dog", "bird")
VOC, COCO = ("voc07", "area"), ("coco", "coco50", "coco75")
Box = tuple[float, float, float, float]
Scene = tuple[list[Detections], list[Truth]]


def truth_of(*objects: tuple[Box, int] | tuple[Box, int, bool]) -> Truth:
    boxes = np.array([one[0] for one in objects], np.float32).reshape(-1, 4)
    return Truth(
        boxes,
        np.array([one[1] for one in objects], np.int64),
        np.array([len(one) == 3 and one[2] for one in objects], bool),
    )


def found_of(*detections: tuple[Box, float, int]) -> Detections:
    boxes = np.array([one[0] for one in detections], np.float32).reshape(-1, 4)
    return Detections(
        boxes, np.array([one[1] for one in detections], np.float32), np.array([one[2] for one in detections], np.int64)
    )


def cat(found: Sequence[Detections], truth: Sequence[Truth], **options: Any) -> dict[str, float]:
    """The APs of class 0."""
    return {
        kind: float(values[0]) for kind, values in evaluate_detections(found, truth, NAMES, **options).per_class.items()
    }


def scene(
    seed: int,
    images: int = 12,
    objects: int = 4,
    extra: int = 4,
    *,
    levels: int = 0,
    difficult: float = 0.25,
    grid: float = 4.0,
) -> Scene:
    """Objects on a coarse grid (overlaps tie, some at a threshold exactly) and detections: moved, doubled, missing, out
    of nothing.

    ``levels``: scores take this many values, no value twice in an image where there are enough; 0: all scores differ.
    """
    generator = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        corner, size = generator.integers(0, 20, (count, 2)), generator.integers(1, 8, (count, 2))
        return np.concatenate([corner, corner + size], 1) * grid

    found, truth = [], []
    taken = 0
    for _ in range(images):
        n = int(generator.integers(0, objects + 1))
        these, labels = boxes(n), generator.integers(0, len(NAMES), n)
        near = generator.integers(0, max(n, 1), int(generator.integers(0, 3 * n + 1)))
        moved = these[near] + generator.integers(-1, 2, (len(near), 4)) * generator.choice(
            [0, grid / 2], (len(near), 1)
        )
        moved[:, 2:] = np.maximum(moved[:, :2], moved[:, 2:])
        others = int(generator.integers(0, extra + 1))
        where = np.concatenate([moved, boxes(others)]).astype(np.float32)
        kinds = np.concatenate([labels[near], generator.integers(0, len(NAMES), others)]).astype(np.int64)
        count = len(kinds)
        if levels:
            scores = generator.choice(levels, count, replace=count > levels) / levels
        else:
            scores = np.arange(taken, taken + count)
            taken += count
        found.append(Detections(where, scores.astype(np.float32), kinds))
        truth.append(Truth(these.astype(np.float32), labels.astype(np.int64), generator.random(n) < difficult))
    if not levels:
        mixed = generator.permutation(taken).astype(np.float32)
        found = [Detections(one.boxes, mixed[one.scores.astype(int)], one.labels) for one in found]
    return found, truth


# The oracles: the definition of VOC's APs in exact fractions, and COCO's own code.


def shared(a: Sequence[float], b: Sequence[float], plus: int) -> Fraction:
    width = min(Fraction(a[2]), Fraction(b[2])) - max(Fraction(a[0]), Fraction(b[0])) + plus
    height = min(Fraction(a[3]), Fraction(b[3])) - max(Fraction(a[1]), Fraction(b[1])) + plus
    if width <= 0 or height <= 0:
        return Fraction(0)
    area_a, area_b = (
        (Fraction(x[2]) - Fraction(x[0]) + plus) * (Fraction(x[3]) - Fraction(x[1]) + plus) for x in (a, b)
    )
    return width * height / (area_a + area_b - width * height)


def voc_by_definition(
    found: Sequence[Detections], truth: Sequence[Truth], label: int, plus: int = 0
) -> dict[str, float]:
    """One detection at a time over all images, as the devkit goes about it."""
    detections = [
        (float(score), image, box.tolist())
        for image, one in enumerate(found)
        for box, score, name in zip(one.boxes, one.scores, one.labels, strict=True)
        if name == label
    ]
    objects = {
        image: [
            (box.tolist(), bool(hard))
            for box, name, hard in zip(one.boxes, one.labels, one.difficult, strict=True)
            if name == label
        ]
        for image, one in enumerate(truth)
    }
    total = sum(not hard for image in objects.values() for _, hard in image)
    if total == 0:
        return {kind: float("nan") for kind in VOC}
    taken: set[tuple[int, int]] = set()
    right = wrong = 0
    curve: list[tuple[Fraction, Fraction]] = []
    for _, image, box in sorted(detections, key=lambda one: -one[0]):
        best, most = -1, Fraction(0)
        for number, (other, _) in enumerate(objects[image]):
            if shared(box, other, plus) > most:
                best, most = number, shared(box, other, plus)
        if most >= Fraction(1, 2):
            if objects[image][best][1]:
                continue
            if (image, best) in taken:
                wrong += 1
            else:
                taken.add((image, best))
                right += 1
        else:
            wrong += 1
        curve.append((Fraction(right, total), Fraction(right, right + wrong)))

    def highest(recall: Fraction) -> Fraction:
        return max((p for r, p in curve if r >= recall), default=Fraction(0))

    eleven = sum((highest(Fraction(tenth, 10)) for tenth in range(11)), Fraction(0)) / 11
    return {
        "voc07": float(eleven),
        "area": float(sum((highest(Fraction(k, total)) for k in range(1, total + 1)), Fraction(0)) / total),
    }


def coco_by_pycocotools(found: Sequence[Detections], truth: Sequence[Truth]) -> dict[str, list[float]]:
    """Per class; a class without counted objects is NaN."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO as Annotations
    from pycocotools.cocoeval import COCOeval

    def corner_and_size(box: np.ndarray) -> list[float]:
        x1, y1, x2, y2 = box.tolist()
        return [x1, y1, x2 - x1, y2 - y1]

    objects, detections = [], []
    for image, (ours, theirs) in enumerate(zip(found, truth, strict=True), 1):
        for box, label, hard in zip(theirs.boxes, theirs.labels, theirs.difficult, strict=True):
            # An area beyond every range is how COCO ignores an object that is no crowd.
            area = 2e10 if hard else 1.0
            place = {"image_id": image, "category_id": int(label) + 1, "bbox": corner_and_size(box)}
            objects.append({"id": len(objects) + 1, "area": area, "iscrowd": 0, **place})
        for box, score, label in zip(ours.boxes, ours.scores, ours.labels, strict=True):
            detections.append(
                {"image_id": image, "category_id": int(label) + 1, "bbox": corner_and_size(box), "score": float(score)}
            )
    assert detections, "pycocotools cannot read an empty list"
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = Annotations()
        annotations.dataset = {
            "images": [{"id": image + 1} for image in range(len(truth))],
            "annotations": objects,
            "categories": [{"id": number + 1, "name": name} for number, name in enumerate(NAMES)],
            "info": {},
        }
        annotations.createIndex()
        evaluation = COCOeval(annotations, annotations.loadRes(detections), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoUs, recalls, classes]
    assert precision.shape == (10, 101, len(NAMES)) and evaluation.params.maxDets[-1] == 100
    precision = np.where(precision < 0, np.nan, precision)
    return {
        "coco": precision.mean((0, 1)).tolist(),
        "coco50": precision[0].mean(0).tolist(),
        "coco75": precision[5].mean(0).tolist(),
    }


def expected(found: Sequence[Detections], truth: Sequence[Truth], kind: str) -> np.ndarray:
    if kind in VOC:
        return np.array([voc_by_definition(found, truth, label)[kind] for label in range(len(NAMES))])
    return np.array(coco_by_pycocotools(found, truth)[kind])


def mean_of_known(values: np.ndarray) -> float:
    return float(np.mean(values[~np.isnan(values)])) if not np.isnan(values).all() else float("nan")


def agrees(metrics: Metrics, kind: str, values: np.ndarray) -> None:
    np.testing.assert_allclose(metrics.per_class[kind], values, rtol=0, atol=1e-9)
    np.testing.assert_allclose(metrics.mean[kind], mean_of_known(values), rtol=0, atol=1e-9)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([0, 3, 12]), plus=st.booleans())
def test_voc_is_the_definition(seed: int, levels: int, plus: bool) -> None:
    found, truth = scene(seed, levels=levels, grid=2.0 if plus else 4.0)
    metrics = evaluate_detections(found, truth, NAMES, plus_one=plus)
    one_by_one = [voc_by_definition(found, truth, label, int(plus)) for label in range(len(NAMES))]
    for kind in VOC:
        agrees(metrics, kind, np.array([one[kind] for one in one_by_one]))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("levels", [0, 5])
def test_coco_is_pycocotools(seed: int, levels: int) -> None:
    found, truth = scene(seed, images=25, objects=6, extra=8, levels=levels)
    metrics = evaluate_detections(found, truth, NAMES)
    for kind, values in coco_by_pycocotools(found, truth).items():
        agrees(metrics, kind, np.array(values))


@pytest.mark.parametrize(("seed", "levels"), [(0, 0), (1, 40), (2, 2_000)])
def test_a_hundred_detections_of_an_image_and_class_count_for_coco(seed: int, levels: int) -> None:
    found, truth = scene(seed, images=5, objects=30, extra=1_200, levels=levels)
    assert sum(np.bincount(one.labels).max() > 150 for one in found) >= 2
    metrics = evaluate_detections(found, truth, NAMES)
    for kind in KINDS:
        agrees(metrics, kind, expected(found, truth, kind))


def test_voc_has_no_limit_of_detections() -> None:
    away, there = (50.0, 50.0, 60.0, 60.0), (0.0, 0.0, 10.0, 10.0)
    for wrong, coco in ((99, 1 / 100), (100, 0.0)):
        found = found_of(*[(away, 1 - rank / 1_000, 0) for rank in range(wrong)], (there, 0.1, 0))
        values = cat([found], [truth_of((there, 0))])
        assert values == pytest.approx({kind: 1 / (wrong + 1) if kind in VOC else coco for kind in KINDS})


def test_fractional_boxes_are_pycocotools_and_the_definition() -> None:
    generator = np.random.default_rng(5)
    truth, found = [], []
    for _ in range(30):
        corner = generator.uniform(0, 200, (5, 2))
        boxes = np.concatenate([corner, corner + generator.uniform(5, 90, (5, 2))], 1)
        near = np.repeat(boxes, 3, 0) + generator.normal(0, 4, (15, 4))
        labels = generator.integers(0, 2, 5)
        truth.append(Truth(boxes.astype(np.float32), labels, generator.random(5) < 0.2))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])
        found.append(Detections(near.astype(np.float32), generator.random(15).astype(np.float32), np.repeat(labels, 3)))
    metrics = evaluate_detections(found, truth, NAMES)
    for kind in KINDS:
        agrees(metrics, kind, expected(found, truth, kind))
    assert metrics.absent == ("bird",) and all(0.1 < value < 0.95 for value in metrics.mean.values())


@pytest.mark.parametrize("seed", range(2))
def test_coco_is_torchmetrics(seed: int) -> None:
    pytest.importorskip("pycocotools")
    detection = pytest.importorskip("torchmetrics.detection")
    import torch

    found, truth = scene(seed, images=20, objects=6, extra=8, difficult=0.0)
    # Its own points are float32, where an overlap of exactly 0.6 falls short.
    points = {"iou_thresholds": np.linspace(0.5, 0.95, 10).tolist(), "rec_thresholds": np.linspace(0, 1, 101).tolist()}
    theirs = detection.MeanAveragePrecision(box_format="xyxy", class_metrics=True, **points)
    theirs.update(
        [
            {
                "boxes": torch.from_numpy(one.boxes),
                "scores": torch.from_numpy(one.scores),
                "labels": torch.from_numpy(one.labels),
            }
            for one in found
        ],
        [{"boxes": torch.from_numpy(one.boxes), "labels": torch.from_numpy(one.labels)} for one in truth],
    )
    values, metrics = theirs.compute(), evaluate_detections(found, truth, NAMES)
    assert metrics.mean["coco"] == pytest.approx(float(values["map"]), abs=1e-5)
    assert metrics.mean["coco50"] == pytest.approx(float(values["map_50"]), abs=1e-5)
    assert metrics.mean["coco75"] == pytest.approx(float(values["map_75"]), abs=1e-5)
    np.testing.assert_allclose(metrics.per_class["coco"], values["map_per_class"].numpy(), atol=1e-5)


# By hand. A and B lie apart; Aa overlaps A by 4/5.

A: Box = (0, 0, 10, 10)
Aa: Box = (0, 0, 10, 8)
B: Box = (50, 50, 60, 60)
FAR: Box = (90, 90, 95, 95)
FAR_AWAY: Box = (900, 900, 920, 920)


def test_double_detection() -> None:
    values = cat([found_of((A, 0.9, 0), (Aa, 0.8, 0), (B, 0.7, 0))], [truth_of((A, 0), (B, 0))])
    # precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1
    assert values["voc07"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert values["area"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert values["coco50"] == values["coco75"] == values["coco"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_the_better_detection_comes_first_only_if_it_is_surer() -> None:
    values = cat([found_of((Aa, 0.9, 0), (A, 0.8, 0))], [truth_of((A, 0))])
    assert values["area"] == values["voc07"] == values["coco50"] == 1
    assert values["coco"] == pytest.approx((7 * 1 + 3 * 1 / 2) / 10)  # at .85, .9 and .95 the surer one misses


def test_difficult_objects_are_neither_counted_nor_penalised() -> None:
    truth = [truth_of((A, 0, True), (B, 0))]
    assert set(cat([found_of((A, 0.9, 0), (B, 0.5, 0))], truth).values()) == {1.0}
    assert set(cat([found_of((B, 0.5, 0))], truth).values()) == {1.0}
    twice = cat([found_of((A, 0.9, 0), (A, 0.8, 0), (B, 0.5, 0))], truth)
    assert {twice[kind] for kind in VOC} == {1.0}
    assert {twice[kind] for kind in COCO} == {0.5}  # the second finds it taken
    assert evaluate_detections([found_of()], truth, NAMES).objects.tolist() == [1, 0, 0]


def test_a_difficult_object_that_is_overlapped_most() -> None:
    values = cat([found_of((A, 0.9, 0))], [truth_of((A, 0, True), (Aa, 0))])
    assert {values[kind] for kind in VOC} == {0.0}
    # IoU 0.8 reaches seven of ten
    assert values["coco50"] == values["coco75"] == 1 and values["coco"] == pytest.approx(0.7)


def test_a_taken_object_that_is_overlapped_most() -> None:
    values = cat([found_of((A, 0.9, 0), (A, 0.8, 0))], [truth_of((A, 0), (Aa, 0))])
    assert values["area"] == pytest.approx(0.5) and values["voc07"] == pytest.approx(6 / 11)
    assert values["coco50"] == 1


def test_equal_overlaps_go_to_the_first_object_for_voc_and_to_the_last_for_coco() -> None:
    """The surer detection lies half way between two objects, the other on the right one, too far from the left one."""
    left, right, between = (0, 0, 10, 10), (4, 0, 14, 10), (2, 0, 12, 10)
    found = [found_of((between, 0.9, 0), (right, 0.8, 0))]
    in_order, reverse = [truth_of((left, 0), (right, 0))], [truth_of((right, 0), (left, 0))]
    assert (cat(found, in_order)["area"], cat(found, reverse)["area"]) == (1.0, 0.5)
    assert (cat(found, in_order)["coco50"], cat(found, reverse)["coco50"]) == (pytest.approx(51 / 101), 1.0)
    for truth in (in_order, reverse):
        for kind in KINDS:
            agrees(evaluate_detections(found, truth, NAMES), kind, expected(found, truth, kind))


def test_a_class_is_asked_about_its_own_objects() -> None:
    values = evaluate_detections([found_of((A, 0.9, 1))], [truth_of((A, 0), (B, 1))], NAMES)
    assert {kind: found.tolist()[:2] for kind, found in values.per_class.items()} == {
        kind: [0.0, 0.0] for kind in KINDS
    }


def test_an_overlap_of_exactly_one_half_is_enough() -> None:
    half: Box = (0, 0, 10, 5)
    assert {cat([found_of((half, 0.9, 0))], [truth_of((A, 0))])[kind] for kind in ("area", "voc07", "coco50")} == {1.0}
    less = (0, 0, 10, np.nextafter(np.float32(5), np.float32(0)))
    assert {cat([found_of((less, 0.9, 0))], [truth_of((A, 0))])[kind] for kind in ("area", "voc07", "coco50")} == {0.0}


def test_plus_one_pixel() -> None:
    found, truth = [found_of(((0, 0, 3, 1), 0.9, 0))], [truth_of(((0, 0, 3, 3), 0))]  # 1/3; with one pixel more 8/16
    assert cat(found, truth) == dict.fromkeys(KINDS, 0.0)
    assert cat(found, truth, plus_one=True) == {**dict.fromkeys(KINDS, 0.0), "voc07": 1.0, "area": 1.0}
    np.testing.assert_array_equal(bootstrap_map(found, truth, NAMES, "area", 3, plus_one=True), 1.0)
    np.testing.assert_array_equal(bootstrap_map(found, truth, NAMES, "coco50", 3, plus_one=True), 0.0)


def test_classes_without_objects_are_left_out_of_the_mean() -> None:
    truth = [truth_of((A, 0), (B, 0)), truth_of((A, 1, True))]
    metrics = evaluate_detections([found_of((A, 0.9, 0), (FAR, 0.99, 2)), found_of((A, 0.9, 1))], truth, NAMES)
    assert metrics.absent == ("dog", "bird") and metrics.objects.tolist() == [2, 0, 0] and metrics.classes == NAMES
    for kind, values in metrics.per_class.items():
        assert np.isnan(values).tolist() == [False, True, True]
        assert metrics.mean[kind] == values[0]
    assert metrics.mean["area"] == 0.5


def test_no_detections_and_no_objects() -> None:
    empty, none = found_of(), truth_of()
    metrics = evaluate_detections([empty, empty], [truth_of((A, 0)), none], NAMES)
    assert dict(metrics.mean) == dict.fromkeys(KINDS, 0.0)
    nothing = evaluate_detections([found_of((A, 0.9, 0)), empty], [none, none], NAMES)
    assert nothing.absent == NAMES and all(np.isnan(value) for value in nothing.mean.values())
    assert np.isnan(bootstrap_map([empty], [none], NAMES, "area", 2)).all()


def test_detections_in_images_without_objects_count() -> None:
    found, truth = [found_of((A, 0.9, 0)), found_of((A, 0.8, 0))], [truth_of(), truth_of((A, 0))]
    assert set(cat(found, truth).values()) == {0.5}


def test_equal_scores_stand_in_order() -> None:
    """Forty, since a sort that is not stable is stable for few."""
    one, other = found_of((A, 0.5, 0)), found_of((FAR, 0.5, 0))
    with_object, without = truth_of((A, 0)), truth_of()
    assert set(cat([one, *[other] * 39], [with_object, *[without] * 39]).values()) == {1.0}
    assert cat([*[other] * 39, one], [*[without] * 39, with_object]) == pytest.approx(dict.fromkeys(KINDS, 1 / 40))
    first = found_of((A, 0.5, 0), *[(FAR, 0.5, 0)] * 39)
    last = found_of(*[(FAR, 0.5, 0)] * 39, (A, 0.5, 0))
    assert set(cat([first], [with_object]).values()) == {1.0}
    assert cat([last], [with_object]) == pytest.approx(dict.fromkeys(KINDS, 1 / 40))


def test_empty_boxes_overlap_nothing() -> None:
    point: Box = (3, 3, 3, 3)
    with np.errstate(all="raise"):
        assert set(cat([found_of((point, 0.9, 0))], [truth_of((point, 0))]).values()) == {0.0}


# Curves.


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60),
    missed=st.integers(0, 5),
)
def test_average_precision_is_the_definition(steps: list[tuple[bool, int]], missed: int) -> None:
    """Curves as detections draw them: right or not, some wrong ones before it."""
    right = sum(hit for hit, _ in steps)
    total = max(1, right + missed)
    hits = seen = 0
    curve = []
    for hit, wrong in steps:
        hits, seen = hits + hit, seen + wrong + 1
        curve.append((Fraction(hits, total), Fraction(hits, seen)))

    def highest(recall: Fraction) -> Fraction:
        return max((p for r, p in curve if r >= recall), default=Fraction(0))

    recall, precision = ([float(point[axis]) for point in curve] for axis in (0, 1))
    eleven = float(sum((highest(Fraction(tenth, 10)) for tenth in range(11)), Fraction(0)) / 11)
    area = float(sum((highest(Fraction(k, total)) for k in range(1, total + 1)), Fraction(0)) / total)
    assert average_precision(recall, precision, "voc07") == pytest.approx(eleven, abs=1e-12)
    assert average_precision(recall, precision, "area") == pytest.approx(area, abs=1e-12)
    assert 0 <= average_precision(recall, precision, "area") <= 1
    # COCO's points are rounded up to a little more than hundredths here and there, so a point may ask for the next
    # recall.
    exact = [highest(Fraction(hundredth, 100)) for hundredth in range(101)]
    beyond = [
        max((p for r, p in curve if r > Fraction(hundredth, 100)), default=Fraction(0)) for hundredth in range(101)
    ]
    low, high = float(sum(beyond, Fraction(0)) / 101), float(sum(exact, Fraction(0)) / 101)
    assert low - 1e-12 <= average_precision(recall, precision, "coco") <= high + 1e-12


@pytest.mark.parametrize("tenth", range(1, 11))
def test_a_recall_of_a_tenth_reaches_its_point(tenth: int) -> None:
    assert average_precision([tenth / 10], [1.0], "voc07") == pytest.approx((tenth + 1) / 11)


@given(steps=st.lists(st.integers(1, 6), min_size=1, max_size=300))
def test_the_area_of_a_perfect_curve_is_one_exactly(steps: list[int]) -> None:
    """Steps of recall, added up in floats, may pass it."""
    hits = np.cumsum(steps)
    assert average_precision(hits / hits[-1], np.ones(len(hits)), "area") == 1


# Properties.


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([0, 3]))
def test_perfect_detections_give_one(seed: int, levels: int) -> None:
    _, truth = scene(seed, levels=levels)
    generator = np.random.default_rng(seed)
    found, apart = [], []
    for one in truth:
        keep = np.sort(np.unique(one.boxes, axis=0, return_index=True)[1])  # of two equal objects VOC can find only one
        apart.append(Truth(one.boxes[keep], one.labels[keep], one.difficult[keep]))
        counted = keep[~one.difficult[keep]]
        found.append(
            Detections(one.boxes[counted], generator.random(len(counted)).astype(np.float32), one.labels[counted])
        )
    metrics = evaluate_detections(found, apart, NAMES)
    for kind in KINDS:
        assert metrics.mean[kind] == pytest.approx(1, abs=1e-12) or metrics.absent == NAMES


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_order_of_images_and_scale_of_scores_say_nothing(seed: int) -> None:
    found, truth = scene(seed)
    metrics = evaluate_detections(found, truth, NAMES)
    order = np.random.default_rng(seed).permutation(len(found))
    mixed = evaluate_detections([found[at] for at in order], [truth[at] for at in order], NAMES)
    scaled = evaluate_detections(
        [Detections(one.boxes, -np.exp(-one.scores.astype(float) / 8), one.labels) for one in found], truth, NAMES
    )
    for kind in KINDS:
        np.testing.assert_array_equal(mixed.per_class[kind], metrics.per_class[kind])
        np.testing.assert_array_equal(scaled.per_class[kind], metrics.per_class[kind])


def extended(found: Sequence[Detections], at: int, box: Box, score: float, label: int) -> list[Detections]:
    one = found[at]
    more = Detections(np.append(one.boxes, [box], 0), np.append(one.scores, score), np.append(one.labels, label))
    return [*found[:at], more, *found[at + 1 :]]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([0, 3]), at=st.integers(0, 11))
def test_a_right_detection_helps_and_a_wrong_one_never(seed: int, levels: int, at: int) -> None:
    found, truth = scene(seed, levels=levels)
    missed: Box = (500, 500, 520, 520)
    one = truth[at]
    truth[at] = Truth(
        np.append(one.boxes, [missed], 0).astype(np.float32), np.append(one.labels, 0), np.append(one.difficult, False)
    )
    before, top, bottom = cat(found, truth), 1e6, -1e6
    right = cat(extended(found, at, missed, top, 0), truth)
    wrong = cat(extended(found, at, FAR_AWAY, top, 0), truth)
    last = cat(extended(found, at, FAR_AWAY, bottom, 0), truth)
    for kind in KINDS:
        assert 0 <= wrong[kind] <= before[kind] + 1e-12 and before[kind] < right[kind] <= 1
        assert last[kind] == pytest.approx(before[kind], abs=1e-12)
    assert before["coco"] <= before["coco50"] + 1e-12 and before["coco75"] <= before["coco50"] + 1e-12


# The bootstrap.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [0, 60])
def test_bootstrap_is_evaluation_of_resampled_lists(kind: str, levels: int) -> None:
    found, truth = scene(11, images=15, levels=levels)
    drawn = bootstrap_map(found, truth, NAMES, kind, 6, seed=4)
    assert drawn.shape == (6,) and len(set(drawn.tolist())) == 6
    for draw, value in enumerate(drawn):
        picks = np.sort(np.random.Generator(np.random.PCG64([4, draw])).integers(0, 15, 15))
        values = expected([found[at] for at in picks], [truth[at] for at in picks], kind)
        assert value == pytest.approx(mean_of_known(values), abs=1e-9)


def test_bootstrap_leaves_out_classes_that_a_draw_lacks() -> None:
    found = [found_of((A, 0.9, 0)), found_of((FAR, 0.9, 1))]
    drawn = bootstrap_map(found, [truth_of((A, 0)), truth_of((A, 1))], NAMES, "area", 200)
    assert set(drawn.tolist()) == {0.0, 0.5, 1.0}
    assert abs((drawn == 0.5).mean() - 0.5) < 0.15
    lacking = bootstrap_map(found, [truth_of((A, 0)), truth_of()], NAMES, "area", 200)
    assert set(lacking[~np.isnan(lacking)].tolist()) == {1.0} and abs(np.isnan(lacking).mean() - 0.25) < 0.12


def test_bootstrap_draws_depend_on_seed_and_number_alone() -> None:
    found, truth = scene(2)
    drawn = bootstrap_map(found, truth, NAMES, "area", 20, seed=1)
    np.testing.assert_array_equal(bootstrap_map(found, truth, NAMES, "area", 5, seed=1), drawn[:5])
    assert not np.array_equal(bootstrap_map(found, truth, NAMES, "area", 20, seed=2), drawn)


# Refusals.


def test_errors_name_thing_value_and_allowed() -> None:
    none, empty = truth_of(), found_of()
    with pytest.raises(DataError, match=r"2 images and the truth of 1"):
        evaluate_detections([empty, empty], [none], NAMES)
    with pytest.raises(DataError, match="same images, at least one"):
        bootstrap_map([], [], NAMES, "area")
    with pytest.raises(DataError, match=r"labels of the detections must be from 0 to 2, got 3 in image 1"):
        evaluate_detections([empty, found_of((A, 0.5, 3))], [none, none], NAMES)
    with pytest.raises(DataError, match=r"labels of .*truth must be from 0 to .*, got -1 in image 0"):
        evaluate_detections([empty], [truth_of((A, -1))], NAMES)
    with pytest.raises(SpecError, match="'coco50'"):
        bootstrap_map([empty], [none], NAMES, "coco55")
    with pytest.raises(SpecError, match="draws=0"):
        bootstrap_map([empty], [none], NAMES, "area", 0)
    with pytest.raises(SpecError, match="seed=-1"):
        bootstrap_map([empty], [none], NAMES, "area", 1, -1)
    with pytest.raises(SpecError, match="'voc70'; did you mean 'voc07'"):
        average_precision([], [], "voc70")
    with pytest.raises(DataError, match=r"got float64 \[2\] and float64 \[1\]"):
        average_precision([0.1, 0.2], [1.0], "area")
    with pytest.raises(DataError, match="recall must not fall"):
        average_precision([0.2, 0.1], [1.0, 1.0], "area")


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        (np.zeros((2, 5), np.float32), np.zeros(2, np.int64), r"float32 \[2, 5\]"),
        (np.zeros((3, 4), np.float32), np.zeros(2, np.int64), r"must be float \[2, 4\], .* got float32 \[3, 4\]"),
        (np.zeros((1, 4), np.float32), np.zeros(1), "float64"),
        (
            np.array([[5, 0, 3, 9]], np.float32),
            np.zeros(1, np.int64),
            r"must be x1 y1 x2 y2.* got \[5.0, 0.0, 3.0, 9.0\]",
        ),
        (np.array([[0, 0, np.inf, 9]], np.float32), np.zeros(1, np.int64), "finite"),
    ],
)
def test_boxes_and_labels_are_checked(boxes: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Truth(boxes, labels, np.zeros(len(labels), bool))
    with pytest.raises(DataError, match=message):
        Detections(boxes, np.zeros(len(labels), np.float32), labels)


def test_scores_and_difficult_are_checked() -> None:
    boxes, labels = np.zeros((2, 4), np.float32), np.zeros(2, np.int64)
    with pytest.raises(DataError, match="must be finite, got nan"):
        Detections(boxes, np.array([0.5, np.nan], np.float32), labels)
    with pytest.raises(DataError, match=r"must be float \[2\], got float32 \[3\]"):
        Detections(boxes, np.zeros(3, np.float32), labels)
    with pytest.raises(DataError, match=r"must be bool \[2\], got int64 \[2\]"):
        Truth(boxes, labels, np.zeros(2, np.int64))
