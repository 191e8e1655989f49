"""Object detection with Faster R-CNN on the pretrained backbone, fine-tuned or frozen (Doersch & Zisserman, 2017; Goyal
et al., 2019)."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.backbones.resnet import reestimate_batchnorm
from ssl_bench.data import Places
from ssl_bench.data.boxes.loading import load_detection
from ssl_bench.data.boxes.sets import DetectionSet, limited
from ssl_bench.errors import DataError, TrainingError
from ssl_bench.evaluators.base import Evaluation, Evaluator, EvaluatorOptions, Judged, Measurement, Subject
from ssl_bench.evaluators.detection.annotations import Detections, Truth
from ssl_bench.evaluators.detection.detector import DetectionBatch, Detector, DetectorOptions, as_float
from ssl_bench.evaluators.detection.metrics import Metrics, bootstrap_map, evaluate_detections
from ssl_bench.evaluators.features import frozen
from ssl_bench.evaluators.scores import Rates, go_on
from ssl_bench.evaluators.training import train_on
from ssl_bench.records.protocols import VERSIONS
from ssl_bench.spec.model import MOST_IN_SET, MOST_SIDE, MOST_WIDE, Share
from ssl_bench.spec.recipe import Recipe
from ssl_bench.training.seeding import seed_everything

# as reported: as computed
METRICS = {"map_voc07": "voc07", "map": "area", "ap": "coco", "ap50": "coco50", "ap75": "coco75"}
STATISTICS_IMAGES = 64  # over which BatchNorm statistics are averaged
DRAWS = 1_000  # of test images, for intervals
WITH_HEADS = 1.5  # what a step costs, in steps of the backbone alone on such images
SHOWN = 6  # test images kept with their detections, for a figure
PUBLISHED_SCORE = 0.05  # boxes that score less, a third of all, are not published; where torchvision cuts by default


class Detection(Evaluator):
    """Train Faster R-CNN on images with boxes: SGD with momentum, cosine, mirroring and several scales, alike for every
    row.

    The backbone's BatchNorm statistics are re-estimated on the training images, without labels, and stay; ``freeze``
    leaves its weights too. Average precision at IoU 0.5 in both of VOC's forms, COCO's AP, AP50 and AP75, all on
    validation, and on test once.
    """

    name: ClassVar[str] = "detection"
    protocol: ClassVar[str] = "detection-frcnn"
    # 2: boxes are pooled at the network's own strides; BatchNorm sees images at the size that the detector sees
    version: ClassVar[int] = VERSIONS["detection"]
    accuracy: ClassVar[bool] = False
    needs_training: ClassVar[bool] = True

    class Options(EvaluatorOptions):
        """Options of detection."""

        source: str = "shapes"  #: images with boxes: voc:PATH, voc2007, voc2012, bccd or shapes
        train: str | None = None  #: list of the folder to train on; None: trainval, else train
        #: list to choose on, or the share of train to hold out; None: val where it shares no image, else a fifth
        validation: str | Share | None = None
        test: str | Share | None = None  #: list to test on, or the share of train to hold out; None: test, else a fifth
        #: leave out images that cannot be read or whose annotation cannot be used, and count them, instead of stopping
        skip_faulty: bool = False
        #: of the images of every split, drawn so that no class of train is lost; None: all of them
        limit: int | None = Field(default=None, ge=10, le=MOST_IN_SET)
        #: short side that images are reduced to, in pixels; None: as they are
        size: int | None = Field(default=240, ge=32, le=MOST_SIDE)
        #: a feature pyramid over the last three stages, or the classic form on the third
        form: Literal["fpn", "c4"] = "fpn"
        channels: int = Field(default=64, ge=8, le=MOST_WIDE)  #: of the pyramid
        hidden: int = Field(default=128, ge=8, le=MOST_WIDE)  #: width of the box head
        proposals: int = Field(default=100, ge=10, le=100_000)  #: boxes an image that reach the box head
        freeze: bool = False  #: leave the backbone as it was pretrained
        images: int = Field(default=1_500, ge=1, le=MOST_IN_SET)  #: training images seen
        batch_size: int = Field(default=4, ge=1, le=10_000)
        learning_rates: Rates = (0.02,)  #: the same for every row; one of several is chosen on validation
        weight_decay: float = Field(default=1e-4, ge=0, le=1_000)
        warmup: float = Field(default=0.1, ge=0, lt=1)  #: share of the steps
        #: of the images, one drawn per batch
        scales: tuple[Annotated[float, Field(ge=0.1, le=10)], ...] = Field(
            default=(0.8, 1.0, 1.2), min_length=1, max_length=100
        )

    @classmethod
    def own_sets(cls, options: Any, places: Places) -> Sequence[Judged] | None:
        data = load_detection(
            options.source,
            data_root=places.root,
            cache=places.cache,
            size=options.size,
            train=options.train,
            validation=options.validation,
            test=options.test,
            skip_faulty=options.skip_faulty,
            progress=places.progress,
            unpacked=places.unpacked,
        )
        return [data if options.limit is None else limited(data, options.limit)]

    @classmethod
    def supports(cls, options: Any, network: nn.Module) -> str:
        needed = (
            "image_size",
            "input",
            "with_input",
            "normalise",
            "stage_maps",
            *(("network",) if options.form == "c4" else ()),
        )
        return "" if all(hasattr(network, name) for name in needed) else "the network has no stages of feature maps"

    @classmethod
    def check(cls, options: Any, train: Any, validation: Any) -> None:
        if len(train) < options.batch_size:
            raise DataError(
                f"detection: batch_size {options.batch_size} is larger than the {len(train):,} training images of "
                f"{train.name}"
            )

    @classmethod
    def smoke(cls, options: Any) -> Any:
        return options.model_copy(
            update={"images": 2 * options.batch_size, "learning_rates": options.learning_rates[:1]}
        )

    @classmethod
    def published(cls, predictions: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """All but boxes that score less than ``PUBLISHED_SCORE``: figures show surer ones, and comparisons use the
        stored resamples."""
        likely = predictions["scores"] >= PUBLISHED_SCORE
        per_box = ("image", "boxes", "scores", "labels")
        return {name: array[likely] if name in per_box else array for name, array in predictions.items()}

    @classmethod
    def training_passes(cls, options: Any, train: Any, image_size: int, untrained: bool = False) -> float:
        pixels = float(np.mean(train.heights * train.widths))
        return WITH_HEADS * options.images * len(options.learning_rates) * pixels / image_size**2

    def evaluate(self, subject: Subject) -> Evaluation:
        options: Detection.Options = self.options
        began = time.monotonic()
        tried: dict[str, float] = {}
        best: tuple[float, float, Detector] | None = None
        failure: TrainingError | None = None
        for number, rate in enumerate(sorted(options.learning_rates)):
            what = "detection" + (
                f", rate {number + 1} of {len(options.learning_rates)}" if len(options.learning_rates) > 1 else ""
            )
            try:
                detector = self._train(subject, rate, what)
            except TrainingError as error:
                failure, tried[f"{rate:g}"] = error, 0.0
                continue
            score = 0.0
            if len(options.learning_rates) > 1:
                score = tried[f"{rate:g}"] = _judge(detector, subject.validation, subject)[1].mean["voc07"]
            if best is None or score > best[0]:
                best = score, rate, detector
        if best is None:
            assert failure is not None
            raise failure
        measurements: list[Measurement] = []
        predictions: dict[str, np.ndarray] = {}
        details: dict[str, Any] = {"learning_rate": best[1], "tried": tried, "steps": self._steps, "per_class": {}}
        splits: dict[str, Any] = {"validation": subject.validation, "test": subject.test}
        for split, images in splits.items():
            if images is None:
                continue
            detections, metrics = _judge(best[2], images, subject)
            shown = split == "test" or subject.test is None
            drawn = (
                {name: _bootstrap_draws(detections, images, kind) for name, kind in METRICS.items()} if shown else {}
            )
            measurements += self._measured(split, metrics, images, drawn)
            details["per_class"][split] = _per_class(metrics)
            if split == "test":
                predictions = _stored_detections(detections, images) | {
                    f"drawn/{name}": values.astype(np.float32) for name, values in drawn.items()
                }
        return Evaluation(measurements, predictions, details | {"seconds_all": round(time.monotonic() - began, 1)})

    @property
    def _steps(self) -> int:
        return max(1, math.ceil(self.options.images / self.options.batch_size))

    def _train(self, subject: Subject, rate: float, what: str) -> Detector:
        options: Detection.Options = self.options
        train: Any = subject.train
        backbone: Any = subject.fresh_backbone().to(subject.device)
        # Faces share weights and statistics; this one lets images keep their size, as the detector does, also where
        # weights from elsewhere ask for another.
        reestimate_batchnorm(
            backbone.with_input(backbone.input.model_copy(update={"size": None})).to(subject.device).eval(),
            _alike(train, subject.device),
        )
        recipe = Recipe(
            optimizer="sgd",
            momentum=0.9,
            learning_rate=rate,
            weight_decay=options.weight_decay,
            batch_size=options.batch_size,
            warmup=options.warmup,
            schedule="cosine",
            clip_norm=10.0,
        )
        shape = DetectorOptions(
            form=options.form,
            classes=len(train.classes),
            channels=options.channels,
            hidden=options.hidden,
            proposals=options.proposals,
            freeze=options.freeze,
            scales=options.scales,
        )
        # the heads are the same whatever was trained before, also when that was resumed
        seed_everything(subject.seed, 0xDE)
        detector = Detector(backbone, shape)
        batches = DetectionBatches(train, options.batch_size, subject.seed, subject.device)
        train_on(subject, detector, batches, recipe, self._steps, seed=subject.seed, part=f"rate-{rate:g}", what=what)
        return detector

    def _measured(
        self, split: str, metrics: Metrics, images: DetectionSet, drawn: dict[str, np.ndarray]
    ) -> list[Measurement]:
        stage = "frozen" if self.options.freeze else ""
        measurements = []
        for name, kind in METRICS.items():
            value, low, high = float(metrics.mean[kind]), None, None
            if name in drawn:
                # Images drawn twice shift average precision, so that with few images a percentile interval may leave
                # the value itself out.
                low, high = (
                    float(edge(value, at))
                    for edge, at in zip((min, max), np.nanpercentile(drawn[name], [2.5, 97.5]), strict=True)
                )
            measurements.append(Measurement(name, split, value, len(images), stage=stage, low=low, high=high))
        return measurements


@dataclass
class DetectionBatches:
    """Training batches by step number; the order is a function of seed and epoch alone."""

    images: DetectionSet
    batch_size: int
    seed: int
    device: torch.device

    def batch(self, step: int) -> DetectionBatch:
        """The batch of one step; batches run across the ends of epochs."""
        places = [divmod(step * self.batch_size + offset, len(self.images)) for offset in range(self.batch_size)]
        orders = {
            epoch: np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(len(self.images))
            for epoch in {p[0] for p in places}
        }
        rows = [int(orders[epoch][at]) for epoch, at in places]
        # VOC: objects that need not be found are not learnt from either
        kept = [~self.images.difficult[row] for row in rows]
        return DetectionBatch(
            [torch.from_numpy(np.array(self.images.image(row))).to(self.device) for row in rows],
            [
                torch.from_numpy(self.images.boxes[row][keep]).to(self.device)
                for row, keep in zip(rows, kept, strict=True)
            ],
            [
                torch.from_numpy(self.images.labels[row][keep]).to(self.device)
                for row, keep in zip(rows, kept, strict=True)
            ],
        )


def _alike(images: DetectionSet, device: torch.device) -> Iterator[Tensor]:
    """Some training images in chunks of one size [8, 3, h, w], which their median shape gives: what BatchNorm
    statistics are taken from."""
    rows = np.random.Generator(np.random.PCG64(1)).permutation(len(images))[:STATISTICS_IMAGES]
    sides = np.array([images.image(int(row)).shape[:2] for row in rows])
    height, width = (int(side) for side in np.median(sides, axis=0))
    for part in np.array_split(rows, max(1, len(rows) // 8)):
        yield torch.cat([
            F.interpolate(
                as_float(torch.from_numpy(np.array(images.image(int(row)))).to(device))[None],
                size=(height, width), mode="bilinear", antialias=True,
            )
            for row in part
        ])  # fmt: skip


def _bootstrap_draws(detections: list[Detections], images: DetectionSet, kind: str) -> np.ndarray:
    """The metric on resamples of the images, [DRAWS]: the same resamples for every row and seed, so that rows can be
    compared draw by draw."""
    return bootstrap_map(detections, _truth(images), images.classes, kind, DRAWS, seed=0)


def _truth(images: DetectionSet) -> list[Truth]:
    return [Truth(images.boxes[row], images.labels[row], images.difficult[row]) for row in range(len(images))]


def _judge(detector: Detector, images: Any, subject: Subject) -> tuple[list[Detections], Metrics]:
    detections: list[Detections] = []
    with frozen(detector, subject.device):
        for start in range(0, len(images), 8):
            go_on(subject, "detection")
            rows = range(start, min(start + 8, len(images)))
            for in_image in detector.find(
                [torch.from_numpy(np.array(images.image(row))).to(subject.device) for row in rows]
            ):
                detections.append(Detections(*(in_image[name].cpu().numpy() for name in ("boxes", "scores", "labels"))))
    return detections, evaluate_detections(detections, _truth(images), images.classes)


def _per_class(metrics: Metrics) -> dict[str, Any]:
    names = [*metrics.classes]
    kinds = {
        name: {
            label: None if math.isnan(v) else float(v) for label, v in zip(names, metrics.per_class[kind], strict=True)
        }
        for name, kind in METRICS.items()
    }
    return kinds | {
        "objects": dict(zip(names, (int(count) for count in metrics.objects), strict=True)),
        "absent": list(metrics.absent),
    }


def _stored_detections(detections: list[Detections], images: DetectionSet) -> dict[str, np.ndarray]:
    """All detections, and a few test images (JPEG) with their truth, from which a figure can be drawn."""
    image = np.repeat(np.arange(len(detections)), [len(in_image.scores) for in_image in detections])
    kept: dict[str, np.ndarray] = {
        "image": image.astype(np.int32),
        "boxes": np.concatenate([in_image.boxes for in_image in detections]).astype(np.float16),
        "scores": np.concatenate([in_image.scores for in_image in detections]).astype(np.float16),
        "labels": np.concatenate([in_image.labels for in_image in detections]).astype(np.int16),
    }
    for row in range(min(SHOWN, len(images))):
        buffer = io.BytesIO()
        Image.fromarray(np.array(images.image(row))).save(buffer, "JPEG", quality=85)
        kept[f"shown/{row}/jpeg"] = np.frombuffer(buffer.getvalue(), np.uint8)
        kept[f"shown/{row}/boxes"], kept[f"shown/{row}/labels"] = images.boxes[row], images.labels[row]
    return kept
