"""Rotation: by which quarter turn was the image rotated? (Gidaris, Singh, Komodakis, 2018, arXiv:1803.07728)"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.data.batches import Batch
from ssl_bench.spec.model import MOST_PAD
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import PretextTask, Setup, TaskOptions
from ssl_bench.transforms import quarter_turns, random_crop, random_flip, rotate90

PADDED_UP_TO = 40  # px; larger images have pixels to spare and are cropped without padding


class Rotation(PretextTask):
    """Predict by which quarter turn an image was rotated (Gidaris et al., 2018).

    All four copies of every image are in the batch. Images are cropped and mirrored first and then turned by moving
    pixels, so that no corner is filled in and no interpolation tells the angle.
    """

    name = "rotation"
    paper = (
        "Gidaris, Singh, Komodakis: Unsupervised Representation Learning by Predicting Image Rotations, "
        "2018, arXiv:1803.07728"
    )
    short_learning_rate = 3e-3
    reads_borders = True
    min_image_size = 8

    class Options(TaskOptions):
        """Options of ``rotation``."""

        #: black pixels on every side before cropping; None: 4 up to 40 px, and above that no padding but a window of
        #: 7/8 of the side
        pad: int | None = Field(default=None, ge=0, le=MOST_PAD)
        flip: bool = True  #: mirror at random, before rotating (afterwards it would make 90 degrees look like 270)

    def __init__(self, backbone: nn.Module, options: Options, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        self.head = nn.Linear(self.backbone.num_features, 4)

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Four turned copies float [4 B, 3, S, S] and how many quarter turns each got, int64 [4 B]."""
        images = random_flip(batch.images) if self.options.flip else batch.images
        size = images.shape[-1]
        if self.options.pad is not None or size <= PADDED_UP_TO:
            images = random_crop(images, 4 if self.options.pad is None else self.options.pad)
        else:
            images = random_crop(images, 0, size * 7 // 8)
        return quarter_turns(images), torch.arange(4, device=images.device).repeat_interleave(len(images))

    def forward(self, views: tuple[Tensor, Tensor], phase: str = "main") -> dict[str, Tensor]:
        """Cross-entropy over the four angles, and top-1 accuracy."""
        images, turns = views
        logits = self.head(self.backbone(images))
        return {"loss": F.cross_entropy(logits, turns), "accuracy": (logits.argmax(1) == turns).float().mean()}

    @classmethod
    def paper_recipe(cls, options: Any, image_size: int) -> Recipe:
        """The authors' CIFAR-10 setting; above 96 px VISSL's for ResNet-50 (105 epochs)."""
        sgd: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "schedule": "steps"}
        if image_size <= 96:
            return Recipe(
                **sgd,
                nesterov=True,
                weight_decay=5e-4,
                batch_size=128,
                warmup=0.0,
                milestones=(0.3, 0.6, 0.8),
                gamma=0.2,
            )
        milestones = tuple(epoch / 105 for epoch in (30, 60, 90, 100))
        return Recipe(**sgd, weight_decay=1e-4, batch_size=256, warmup=5 / 105, milestones=milestones, gamma=0.1)

    def chance_loss(self) -> float:
        return math.log(4)

    def chance_accuracy(self) -> float:
        return 0.25

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """The four turned copies, and the same turned back by what the task answers."""
        images, _ = self.views(batch)
        answers = self.head(self.backbone(images)).argmax(1)
        return {
            "sees: all four turns; is asked: by how much is each turned?": images,
            "answers: turned back by the predicted angle": rotate90(images, -answers),
        }
