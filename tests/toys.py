"""Small real things that several tests share: an image set of noise, a task that trains fast."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ssl_bench.backbones.resnet import Backbone
from ssl_bench.data.batches import Batch
from ssl_bench.data.images import ImageSet
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.tasks.base import PretextTask, Setup, TaskOptions
from ssl_bench.training.seeding import seed_everything

TINY = BackboneSpec(name="resnet18", width=0.125, stem_stride=2)


def noise_set(count: int = 64, size: int = 32, classes: int = 4, seed: int = 0) -> ImageSet:
    """Random pixels with balanced labels."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    names = tuple(f"class {number}" for number in range(classes))
    return ImageSet(pixels, np.arange(count), np.arange(count) % classes, names, "noise", f"noise-{seed}-{count}")


class Brightness(PretextTask):
    """Regress the mean of a randomly scaled image: trains in a moment, draws at random, has a buffer."""

    name = "brightness"

    def __init__(self, backbone: nn.Module, options: TaskOptions, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        self.head = nn.Linear(backbone.num_features, 1)
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.int64))

    def views(self, batch: Batch) -> Any:
        images = batch.images * torch.rand(len(batch.images), 1, 1, 1)
        return images, images.mean((1, 2, 3))

    def forward(self, views: Any) -> dict[str, torch.Tensor]:
        images, target = views
        return {"loss": F.mse_loss(self.head(self.backbone(images))[:, 0], target)}

    def after_step(self) -> None:
        self.steps_seen += 1


def build(
    task: type[PretextTask] = Brightness, seed: int = 0, size: int = 32, batch_size: int = 16, **options: Any
) -> Any:
    """A task on a tiny backbone, initialised from a seed."""
    seed_everything(seed)
    backbone = task.build_backbone(lambda **_: Backbone(TINY, size), task.Options(**options))
    return task(
        backbone,
        task.Options(**options),
        Setup(size, 10, batch_size, 64, 4 if task.uses_labels else None, lambda n: torch.rand(n, 3, size, size)),
    )
