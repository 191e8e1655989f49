"""Detection: boxes follow their pixels, the backbone's statistics stay, and a matrix judges by boxes."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ssl_bench
from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.data import Places
from ssl_bench.data.boxes.loading import load_detection
from ssl_bench.data.boxes.sets import limited
from ssl_bench.errors import DataError, Interrupted, SpecError, SSLBenchError
from ssl_bench.evaluators.base import Evaluation, Subject
from ssl_bench.evaluators.detection.detector import DetectionBatch, Detector, DetectorOptions, as_float, resize
from ssl_bench.evaluators.detection.evaluator import METRICS, Detection
from ssl_bench.plan.prepare import prepare
from ssl_bench.report.rendering.detections import boxes_of, detection_pictures
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.model import parse
from voc_trees import noise, write_image, write_list

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)


def make_detector(
    freeze: bool = False, form: str = "fpn", scales: tuple[float, ...] = (1.0,), kind: str = "rgb", **sizes: int
) -> Detector:
    torch.manual_seed(0)
    options = DetectorOptions(
        form=form,
        classes=2,
        freeze=freeze,
        scales=scales,
        **{"channels": 16, "hidden": 32, "proposals": 20, **sizes},  # type: ignore[arg-type]
    )
    backbone = Backbone(TINY, 48, InputSpec(kind=kind, mean=(0.3, 0.4, 0.5)))  # type: ignore[arg-type]
    return Detector(backbone, options)


def planted(count: int = 4) -> DetectionBatch:
    """White rectangles on black images of different sizes; the class is whether it is wider than high."""
    draw = np.random.default_rng(0)
    images, boxes, labels = [], [], []
    for _ in range(count):
        height, width = (int(side) for side in draw.integers(60, 90, 2))
        x, y = (int(at) for at in draw.integers(5, 20, 2))
        w, h = (30, 15) if draw.random() < 0.5 else (15, 30)
        image = torch.zeros(height, width, 3, dtype=torch.uint8)
        image[y : y + h, x : x + w] = 255
        images.append(image)
        boxes.append(torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32))
        labels.append(torch.tensor([int(w > h)]))
    return DetectionBatch(images, boxes, labels)


def bounds(image: Tensor) -> list[float]:
    rows, columns = ((image[0] > 0.5).any(axis).nonzero()[:, 0] for axis in (1, 0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


@pytest.mark.parametrize("scale", [0.5, 0.83, 1.0, 1.3])
def test_boxes_follow_their_pixels_when_images_are_scaled_and_mirrored(scale: float) -> None:
    torch.manual_seed(0)
    batch = planted(12)
    images, targets = make_detector(scales=(scale,)).views(batch)
    mirrored = 0
    for image, target, original, box, label in zip(
        images, targets, batch.images, batch.boxes, batch.labels, strict=True
    ):
        assert image.shape[1:] == (round(original.shape[0] * scale), round(original.shape[1] * scale))
        assert torch.tensor(bounds(image)).sub(target["boxes"][0]).abs().max() <= 1
        assert target["labels"].tolist() == [int(label) + 1]
        mirrored += abs(float(target["boxes"][0, 0]) - float(box[0, 0]) * image.shape[2] / original.shape[1]) > 1
    assert 0 < mirrored < 12


def test_one_scale_a_batch_is_drawn_of_those_given() -> None:
    detector, batch = make_detector(scales=(0.5, 1.0)), planted(3)
    torch.manual_seed(0)
    seen = set()
    for _ in range(20):
        images, _ = detector.views(batch)
        factors = {
            round(image.shape[1] / original.shape[0], 1) for image, original in zip(images, batch.images, strict=True)
        }
        assert len(factors) == 1
        seen |= factors
    assert seen == {0.5, 1.0}
    image, boxes = resize(as_float(batch.images[0]), batch.boxes[0], 1.0)
    assert torch.equal(image, as_float(batch.images[0])) and torch.equal(boxes, batch.boxes[0])


@pytest.mark.parametrize("kind", ["rgb", "lightness", "standardised"])
def test_images_become_input_in_the_backbones_own_way_and_padding_is_zero(kind: str) -> None:
    detector = make_detector(kind=kind).eval()
    seen: list[Tensor] = []
    detector.backbone.network.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = [as_float(image) for image in planted(2).images]
    detector.model(images)
    for row, image in enumerate(images):
        height, width = image.shape[1:]
        torch.testing.assert_close(seen[0][row, :, :height, :width], detector.backbone.normalise(image[None])[0])
        assert (seen[0][row, :, height:] == 0).all() and (seen[0][row, :, :, width:] == 0).all()


@pytest.mark.parametrize("form", ["fpn", "c4"])
def test_statistics_stay_and_a_frozen_backbone_stays_altogether(form: str) -> None:
    for freeze in (False, True):
        detector = make_detector(freeze, form).train()
        before = copy.deepcopy(detector.backbone.state_dict())
        optimizer = torch.optim.SGD([p for _, p in detector.phase_parameters("main")], lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            detector(detector.views(planted()))["loss"].backward()
            optimizer.step()
        after = detector.backbone.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert not any("running" in name or "batches" in name for name in changed)
        assert bool(changed) != freeze
        names = list(detector.state_dict())
        assert sum(name.endswith("network.conv1.weight") for name in names) == 1, "a checkpoint holds the backbone once"
        parameters = {id(p) for _, p in detector.phase_parameters("main")}
        assert {id(p) for p in detector.model.rpn.parameters()} <= parameters


@pytest.mark.parametrize("form", ["fpn", "c4"])
def test_an_anchor_lies_on_every_place_of_every_level(form: str) -> None:
    """Levels, strides and anchor sizes must agree,
    or boxes are regressed from the wrong places and nothing complains."""
    detector = make_detector(form=form).eval()
    seen: dict[str, Any] = {}
    detector.model.rpn.anchor_generator.register_forward_hook(
        lambda module, inputs, output: seen.update(maps=inputs[1], anchors=output)
    )
    batch = [as_float(image) for image in planted(1).images]
    detector.model(batch)
    height, width = batch[0].shape[1:]
    maps, anchors = seen["maps"], seen["anchors"][0]
    per_place = 6 if form == "fpn" else 15
    assert len(anchors) == sum(per_place * m.shape[2] * m.shape[3] for m in maps)
    first = anchors[: per_place * maps[0].shape[2] * maps[0].shape[3]]
    centres = (first[:, :2] + first[:, 2:]) / 2
    assert (
        float(centres.amin()) >= -1
        and float(centres[:, 0].amax()) > width - 20
        and float(centres[:, 1].amax()) > height - 20
    )


@pytest.mark.parametrize("form", ["fpn", "c4"])
@pytest.mark.parametrize("side", [33, 40, 67, 90, 129])
def test_boxes_are_pooled_at_the_networks_strides_however_much_the_first_batch_is_padded(form: str, side: int) -> None:
    """Maps of padded images are larger than a stride of the image: a guess from them (torchvision's) is off by two at
    such sides."""
    detector = make_detector(form=form).eval()
    seen: dict[str, Any] = {}
    detector.model.backbone.register_forward_hook(
        lambda module, inputs, output: seen.update(padded=inputs[0].shape, maps=output)
    )
    detector.model([torch.rand(3, side, side)])
    maps = list(seen["maps"].values())[:3] if form == "fpn" else [seen["maps"]]
    scales = detector.model.roi_heads.box_roi_pool.scales
    assert scales == [m.shape[2] / seen["padded"][2] for m in maps]
    mapper = detector.model.roi_heads.box_roi_pool.map_levels
    assert (2**-mapper.k_min, 2**-mapper.k_max) == (scales[0], scales[-1])


def test_it_learns_to_find_planted_rectangles() -> None:
    detector = make_detector(channels=32, hidden=64, proposals=50).train()
    optimizer = torch.optim.AdamW([p for _, p in detector.phase_parameters("main")], lr=2e-3)
    batch = planted(6)
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        detector(detector.views(batch))["loss"].backward()
        optimizer.step()
    detector.eval()
    overlaps = []
    for found, box in zip(detector.find(batch.images), batch.boxes, strict=True):
        best = found["boxes"][found["scores"].argmax()]
        low, high = torch.maximum(best[:2], box[0, :2]), torch.minimum(best[2:], box[0, 2:])
        shared = (high - low).clamp(min=0).prod()
        overlaps.append(float(shared / ((best[2:] - best[:2]).prod() + 450 - shared)))
    assert np.mean(overlaps) > 0.6, overlaps


SMALL = {
    "source": "shapes",
    "size": 48,
    "limit": 40,
    "images": 12,
    "batch_size": 2,
    "channels": 16,
    "hidden": 32,
    "proposals": 20,
}


def subject_of(folder: Path, backbone: Backbone | None = None, **settings: Any) -> Subject:
    (judged,) = Detection.own_sets(parse(Detection.Options, SMALL, "detection"), Places(folder)) or ()
    torch.manual_seed(1)
    network = backbone or Backbone(TINY, 48)
    given: dict[str, Any] = {
        "backbone": network, "fresh_backbone": lambda: copy.deepcopy(network), "features": None, "train": judged.train,
        "validation": judged.validation,
        "test": judged.test, "seed": 0, "device": torch.device("cpu"), "precision": "fp32",
    }  # fmt: skip
    return Subject(**given | settings)


def scores(found: Evaluation) -> np.ndarray:
    return np.concatenate([found.predictions["scores"], found.predictions["boxes"].ravel()]).astype(np.float32)


def test_a_stopped_detector_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """At 38 px (0.8 of 48), padded to 64, torchvision's guess of strides would depend on the batch that comes first
    after the stop."""
    options = parse(Detection.Options, SMALL, "detection")
    whole = Detection(options).evaluate(subject_of(tmp_path / "cache"))
    for after in (1, 3, 5):
        asked = iter(range(1_000))
        parts = tmp_path / f"parts{after}"
        with pytest.raises(Interrupted):
            Detection(options).evaluate(
                subject_of(tmp_path / "cache", parts=parts, stop=lambda asked=asked, after=after: next(asked) > after)
            )
        resumed = Detection(options).evaluate(subject_of(tmp_path / "cache", parts=parts))
        np.testing.assert_array_equal(scores(whole), scores(resumed))


@pytest.mark.parametrize("form", ["fpn", "c4"])
def test_boxes_are_not_rounded_where_training_is_in_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    seen: list[Tensor] = []
    real = Detector.forward

    def watching(self: Detector, views: Any, phase: str = "main") -> dict[str, Tensor]:
        assert torch.is_autocast_enabled("cpu")
        seen.extend([*views[0], *(target["boxes"] for target in views[1])])
        return real(self, views, phase)

    monkeypatch.setattr(Detector, "forward", watching)
    options = parse(Detection.Options, {**SMALL, "form": form, "images": 4}, "detection")
    found = Detection(options).evaluate(subject_of(tmp_path, precision="bf16"))
    assert seen and {tensor.dtype for tensor in seen} == {torch.float32}
    assert all(np.isfinite(m.value) for m in found.measurements)


def test_statistics_are_those_of_images_at_the_size_that_the_detector_sees(tmp_path: Path) -> None:
    """Weights from elsewhere may ask for images of another size; the detector gives them their own."""
    networks = []
    for size in (None, 96):
        torch.manual_seed(1)
        networks.append(Backbone(TINY, 48, InputSpec(size=size)))
    options = parse(Detection.Options, {**SMALL, "images": 4}, "detection")
    own, other = (Detection(options).evaluate(subject_of(tmp_path, network)) for network in networks)
    np.testing.assert_array_equal(scores(own), scores(other))


def test_a_network_without_stages_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="needs the stages of a ResNet, and this row's network is a Flatten"):
        Detector(torch.nn.Flatten(), make_detector().options)


def test_splits_may_have_any_names_and_faulty_images_may_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cells"
    for split, count in (("learn", 30), ("judge", 6)):
        names = [f"{split}{number}" for number in range(count)]
        for number, name in enumerate(names):
            write_image(folder, name, [("cell", 3, 3, 20, 20, 0)], noise(40, 40, number))
        write_list(folder, split, names)
    (folder / "JPEGImages" / "learn3.png").write_bytes(b"no image")
    options = {"source": f"voc:{folder}", "train": "learn", "test": "judge", "validation": 0.25}
    places = Places(tmp_path / "cache")
    with pytest.raises(DataError, match="skip_faulty"):
        Detection.own_sets(parse(Detection.Options, options, "detection"), places)
    (judged,) = (
        Detection.own_sets(parse(Detection.Options, {**options, "skip_faulty": True}, "detection"), places) or ()
    )
    assert (len(judged.train), len(judged.validation), len(judged.test)) == (22, 7, 6)


def test_a_limit_loses_no_class_and_says_what_it_left(tmp_path: Path) -> None:
    folder, names = tmp_path / "cells", [f"image{number:03d}" for number in range(100)]
    for number, name in enumerate(names):
        objects = [("rare" if number % 25 == 7 else "cell", 3, 3, 20, 20, 0)] if number % 2 else []
        write_image(folder, name, objects, noise(30, 30, number))
    write_list(folder, "train", names[:70])
    write_list(folder, "test", names[70:])
    data = load_detection(f"voc:{folder}", cache=tmp_path / "cache")
    few = limited(data, 10)
    assert len(few.train) == len(few.test) == len(few.validation) == 10
    assert {int(label) for own in few.train.labels for label in own} == {0, 1}
    assert sum(len(own) > 0 for own in few.train.labels) >= 4, "images without objects have their share, not all"
    assert any("limited to 10 images a split: 10 of 56 train" in note for note in few.notes)
    again = limited(data, 10)
    assert (
        few.train.fingerprint == again.train.fingerprint
        and limited(data, 1_000).train.fingerprint == data.train.fingerprint
    )
    with pytest.raises(DataError, match="limit must be at least 3, the number of classes, got 2"):
        limited(data, 2)


def test_a_matrix_judges_by_boxes(tmp_path: Path) -> None:
    small = {**SMALL, "images": 8}
    spec = {
        "name": "boxes", "data": {"source": "shapes", "size": 48, "limit": {"train": 240, "test": 60}},
        "backbone": TINY.model_dump(), "seeds": [0, 1],
        "pretrain": {"images": 64, "batch_size": 32, "monitor": 0}, "tasks": [], "baselines": ["random", "pixels"],
        "evaluate": [{"knn": {"k": [5]}}, {"detection": {**small, "freeze": True, "seeds": [0]}}, {"detection": small}],
    }  # fmt: skip
    results = ssl_bench.run(spec, tmp_path)
    assert not results.failures and not results.missing, [failure.message for failure in results.failures]
    frame = results.frame[results.frame["evaluator"].str.startswith("detection")]
    assert set(frame["metric"]) == {"map_voc07", "map", "ap", "ap50", "ap75"} and set(frame["row"]) == {"random"}
    assert frame["value"].between(0, 1).all()
    judged = {
        (name, stage, seed) for name, stage, seed in frame[["evaluator", "stage", "seed"]].itertuples(index=False)
    }
    assert judged == {("detection", "frozen", 0), ("detection (2)", "", 0), ("detection (2)", "", 1)}
    shown = frame[frame["split"] == "test"]
    assert (
        (shown["low"] <= shown["value"] + 1e-9).all()
        and (shown["high"] >= shown["value"] - 1e-9).all()
        and set(shown["n"]) == {40}
    )
    text = " ".join(results.table().terminal(200, legend=True).split())
    assert "mAP" in text and "frozen" in text and "bootstrap" in text
    assert any("held out as validation" in note for note in prepare(spec, tmp_path).data.notes)
    drawn = {path.name for path in (tmp_path / "figures").glob("detections*")}
    assert len(drawn) == 2 and all(
        name.startswith("detections-random-detection") and "-shapes_detection" in name for name in drawn
    ), drawn
    assert {f"{name}.jpg" for name, _ in detection_pictures(results)} == drawn
    for found in results.evaluations:
        if found.evaluator == "detection (2)" and found.seed == 0:
            kept = results.predictions(found)
            for at in range(6):
                truth, boxes = kept[f"shown/{at}/boxes"], boxes_of(kept, at)
                shown = (kept["image"] == at) & (kept["scores"] >= 0.5)
                assert len(boxes) == len(truth) + min(20, int(shown.sum()))
                assert np.allclose([box.corners for box in boxes[: len(truth)]], truth)
                assert all((box.colour is None) == (number < len(truth)) for number, box in enumerate(boxes))
                assert {box.corners for box in boxes[len(truth) :]} <= {tuple(box) for box in kept["boxes"][shown]}
    with pytest.raises(SSLBenchError, match="nowhere"):
        prepare({**spec, "evaluate": [{"detection": {"source": "voc:nowhere"}}]}, tmp_path / "other")


def test_an_interval_holds_its_value_where_the_resamples_all_lie_on_one_side() -> None:
    evaluator = Detection(Detection.Options(source="shapes"))
    metrics: Any = SimpleNamespace(mean=dict.fromkeys(METRICS.values(), 0.5))
    images: Any = range(4)
    for drawn, expected in ((0.7, (0.5, 0.7)), (0.3, (0.3, 0.5))):
        for found in evaluator._measured("test", metrics, images, dict.fromkeys(METRICS, np.full(100, drawn))):
            assert (found.low, found.high) == expected and found.value == 0.5 and found.n == 4
