"""Faster R-CNN on a pretrained backbone (Ren et al., 2015, arXiv:1506.01497), as a task that the loop can train."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from ssl_bench.backbones.resnet import STAGES, Backbone
from ssl_bench.errors import SpecError
from ssl_bench.training.trainable import Trainable
from ssl_bench.transforms.geometry import uniform

PYRAMID = STAGES[1:]  # P3 to P5
ASPECTS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class DetectorOptions:
    """Shape and size of the detector."""

    form: Literal["fpn", "c4"]
    classes: int
    channels: int  #: of the pyramid
    hidden: int  #: of the box head (fpn)
    proposals: int  #: boxes that the region proposal network hands on
    freeze: bool  #: train everything but the backbone
    scales: tuple[float, ...]  #: factors of the packed size, one drawn per batch


@dataclass(frozen=True)
class DetectionBatch:
    """Images uint8 [H, W, 3] of any sizes, with their boxes float32 [n, 4] (x1 y1 x2 y2, pixels)
    and classes int64 [n]."""

    images: list[Tensor]
    boxes: list[Tensor]
    labels: list[Tensor]

    def __len__(self) -> int:
        return len(self.images)


class Detector(Trainable):
    """Find objects: proposal and box losses of Faster R-CNN.

    The backbone's BatchNorm keeps its statistics, because batches are small.
    """

    name = "detection"

    def __init__(self, backbone: nn.Module, options: DetectorOptions) -> None:
        super().__init__(backbone)
        self.options = options
        if not isinstance(backbone, Backbone):
            raise SpecError(
                f"detection needs the stages of a ResNet, and this row's network is a {type(backbone).__name__}; "
                "leave the row out, or detection"
            )
        backbone.requires_grad_(not options.freeze)
        build = _with_pyramid if options.form == "fpn" else _without_pyramid
        self.model = build(backbone, options)

    def train(self, mode: bool = True) -> Detector:
        super().train(mode)
        self.backbone.eval()
        return self

    def views(self, batch: DetectionBatch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Images float [3, h, w] in [0, 1], each mirrored or not, all scaled by one factor; and their boxes and classes
        from 1."""
        scale = self.options.scales[int(uniform(0, len(self.options.scales), 1))]
        mirrored = (uniform(0, 1, len(batch)) < 0.5).tolist()
        images, targets = [], []
        for image, boxes, labels, flip in zip(batch.images, batch.boxes, batch.labels, mirrored, strict=True):
            pixels, boxes = resize(as_float(image), boxes, scale)
            if flip:
                pixels = pixels.flip(2)
                boxes = torch.stack(
                    [pixels.shape[2] - boxes[:, 2], boxes[:, 1], pixels.shape[2] - boxes[:, 0], boxes[:, 3]], 1
                )
            images.append(pixels)
            targets.append({"boxes": boxes, "labels": labels + 1})
        return images, targets

    def forward(self, views: tuple[list[Tensor], list[dict[str, Tensor]]], phase: str = "main") -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.model(*views)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    @torch.no_grad()
    def find(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """``boxes`` [n, 4], ``scores`` [n] and ``labels`` (from 0) [n] for every image, uint8 [H, W, 3]."""
        detections: list[dict[str, Tensor]] = self.model([as_float(image) for image in images])
        return [per_image | {"labels": per_image["labels"] - 1} for per_image in detections]


def as_float(image: Tensor) -> Tensor:
    """uint8 [H, W, 3] to float [3, H, W] in [0, 1]."""
    return image.permute(2, 0, 1).to(torch.float32).div(255)


def resize(image: Tensor, boxes: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """An image [3, H, W] and its boxes, scaled alike (antialiased); boxes by the factors that the rounded size has."""
    height, width = image.shape[1:]
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if size != (height, width):
        image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    factors = boxes.new_tensor([size[1] / width, size[0] / height])
    return image, boxes * factors.repeat(2)


class _Ready(GeneralizedRCNNTransform):
    """Batches images that have their size already; each becomes input in the backbone's own way, and then is padded
    with zeros."""

    def __init__(self, backbone: Backbone, divisible: int) -> None:
        super().__init__(1, 1, [0.0] * 3, [1.0] * 3, size_divisible=divisible)
        self.normalise = backbone.normalise

    def normalize(self, image: Tensor) -> Tensor:
        return self.normalise(image[None])[0]

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


def _borrow(module: nn.Module, backbone: Backbone) -> None:
    """Use a backbone that the task owns already: a checkpoint must hold its weights once."""
    module.__dict__["backbone"] = backbone


class _Pyramid(nn.Module):
    """Stages of a backbone, joined from coarse to fine (Lin et al., 2017), and one coarser level."""

    backbone: Backbone

    def __init__(self, backbone: Backbone, widths: list[int], channels: int) -> None:
        super().__init__()
        _borrow(self, backbone)
        self.out_channels = channels
        self.pyramid = FeaturePyramidNetwork(widths, channels, extra_blocks=LastLevelMaxPool())

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.backbone.stage_maps(x)
        levels: OrderedDict[str, Tensor] = self.pyramid(OrderedDict((name, maps[name]) for name in PYRAMID))
        return levels


class _ToThirdStage(nn.Module):
    """A backbone up to its third stage."""

    backbone: Backbone

    def __init__(self, backbone: Backbone, width: int) -> None:
        super().__init__()
        _borrow(self, backbone)
        self.out_channels = width

    def forward(self, x: Tensor) -> Tensor:
        net: Any = self.backbone.network
        return net.layer3(net.layer2(net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(x)))))))  # type: ignore[no-any-return]


class _LastStage(nn.Module):
    """The fourth stage as the head of every box, averaged."""

    backbone: Backbone

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        _borrow(self, backbone)

    def forward(self, x: Tensor) -> Tensor:
        net: Any = self.backbone.network
        return net.layer4(x).mean((2, 3))  # type: ignore[no-any-return]


def _stage_shapes(backbone: Backbone) -> dict[str, tuple[int, int]]:
    """Channels and stride of every stage."""
    side = 64
    parameter = next(backbone.parameters())
    with torch.no_grad():
        maps = backbone.stage_maps(torch.zeros(1, 3, side, side, device=parameter.device))
    return {name: (x.shape[1], round(side / x.shape[2])) for name, x in maps.items()}


def _detector_settings(options: DetectorOptions) -> dict[str, Any]:
    few = options.proposals
    return {
        "num_classes": None,
        "rpn_pre_nms_top_n_train": 4 * few,
        "rpn_pre_nms_top_n_test": 4 * few,
        "rpn_post_nms_top_n_train": few,
        "rpn_post_nms_top_n_test": few,
        "rpn_batch_size_per_image": 128,
        "box_batch_size_per_image": min(128, few),
        "box_score_thresh": 0.01,
        "box_detections_per_img": 100,
    }


def _pooling(levels: dict[str, int], output_size: int) -> MultiScaleRoIAlign:
    """Pooling from levels of known strides. torchvision would guess them from the first batch: where that is padded
    much, at half their size."""
    pooling = MultiScaleRoIAlign(list(levels), output_size=output_size, sampling_ratio=2)
    strides = list(levels.values())
    pooling.scales = [1 / stride for stride in strides]
    pooling.map_levels = initLevelMapper(round(math.log2(strides[0])), round(math.log2(strides[-1])))
    return pooling


def _with_pyramid(backbone: Backbone, options: DetectorOptions) -> FasterRCNN:
    """Two anchor sizes a level, 5.7 and 8 strides, as torchvision's 32 px at stride 4."""
    shapes = _stage_shapes(backbone)
    strides = [shapes[name][1] for name in PYRAMID]
    strides.append(2 * strides[-1])
    model = FasterRCNN(
        _Pyramid(backbone, [shapes[name][0] for name in PYRAMID], options.channels),
        **_detector_settings(options),
        rpn_anchor_generator=AnchorGenerator(
            tuple((round(5.66 * s), 8 * s) for s in strides), (ASPECTS,) * len(strides)
        ),
        box_roi_pool=_pooling(dict(zip(PYRAMID, strides, strict=False)), output_size=7),
        box_head=TwoMLPHead(options.channels * 49, options.hidden),
        box_predictor=FastRCNNPredictor(options.hidden, options.classes + 1),
    )
    model.transform = _Ready(backbone, strides[-1])
    return model


def _without_pyramid(backbone: Backbone, options: DetectorOptions) -> FasterRCNN:
    """C4: proposals from the third stage, the fourth as the head of every box; five anchor sizes of 2 to 32 strides."""
    shapes = _stage_shapes(backbone)
    (width, stride), (last, _) = shapes["s3"], shapes["s4"]
    model = FasterRCNN(
        _ToThirdStage(backbone, width),
        **_detector_settings(options),
        rpn_anchor_generator=AnchorGenerator((tuple(factor * stride for factor in (2, 4, 8, 16, 32)),), (ASPECTS,)),
        box_roi_pool=_pooling({"0": stride}, output_size=14),
        box_head=_LastStage(backbone),
        box_predictor=FastRCNNPredictor(last, options.classes + 1),
    )
    model.transform = _Ready(backbone, stride)
    return model
