"""Supervised training: the class labels, for comparison.

Marked in every table, because it is given what the others are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.data.batches import Batch
from ssl_bench.errors import DataError
from ssl_bench.spec.model import MOST_PAD
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import PretextTask, Setup, TaskOptions
from ssl_bench.transforms.geometry import random_crop, random_flip


class Supervised(PretextTask):
    """Predict the class label from cropped and mirrored images: same backbone, loop and images as the pretext tasks,
    with labels."""

    name = "supervised"
    short_learning_rate = 3e-3
    uses_labels = True

    class Options(TaskOptions):
        """Options of ``supervised``."""

        #: black pixels on every side before cropping; None: an eighth of the side (4 at 32 px)
        pad: int | None = Field(default=None, ge=0, le=MOST_PAD)
        label_smoothing: float = Field(default=0.0, ge=0, lt=1)  #: share of the target spread over all classes

    def __init__(self, backbone: nn.Module, options: Options, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        if setup.num_classes is None or setup.num_classes < 2:
            raise DataError(
                "supervised needs labels of at least 2 classes, and the pretraining images have "
                f"{setup.num_classes or 'none'}"
            )
        self.head = nn.Linear(self.backbone.num_features, setup.num_classes)

    @classmethod
    def check(cls, options: Any, images: Any) -> None:
        """Refuse images of a single class."""
        if images.labels is not None and len(images.classes) < 2:
            raise DataError(f"supervised needs at least 2 classes, and {images.name} has {len(images.classes)}")

    @classmethod
    def paper_recipe(cls, options: Any, image_size: int) -> Recipe:
        """SGD with Nesterov momentum 0.9 at 0.1 for a batch of 256, cosine; weight decay 5e-4 on small images, 1e-4
        above 96 px."""
        decay = 5e-4 if image_size <= 96 else 1e-4
        return Recipe(
            optimizer="sgd",
            learning_rate=0.1,
            momentum=0.9,
            nesterov=True,
            weight_decay=decay,
            batch_size=256,
            warmup=0.0,
        )

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cropped and mirrored images float [B, 3, S, S], and labels int64 [B]."""
        if batch.labels is None:
            raise DataError("supervised needs labels, and the batch has none")
        pad = self.setup.image_size // 8 if self.options.pad is None else self.options.pad
        return random_flip(random_crop(batch.images, pad)), batch.labels

    def forward(self, views: tuple[Tensor, Tensor], phase: str = "main") -> dict[str, Tensor]:
        """Cross-entropy and top-1 accuracy."""
        images, labels = views
        logits = self.head(self.backbone(images)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.options.label_smoothing)
        return {"loss": loss, "accuracy": (logits.argmax(1) == labels).float().mean()}

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cropped images, and the same with a green frame where the class is right, else a red one."""
        images, labels = self.views(batch)
        right = self.head(self.backbone(images)).argmax(1) == labels
        framed, width = images.clone(), max(1, images.shape[-1] // 16)
        colour = torch.where(right[:, None], images.new_tensor([0.0, 0.7, 0.2]), images.new_tensor([0.85, 0.1, 0.1]))
        for side in (framed[:, :, :width], framed[:, :, -width:], framed[..., :width], framed[..., -width:]):
            side.copy_(colour[:, :, None, None].expand_as(side))
        return {
            "sees: images with labels; is asked: which class?": images,
            "answers: right in green, wrong in red": framed,
        }

    def chance_loss(self) -> float:
        return math.log(self.head.out_features)
