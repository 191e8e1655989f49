"""A second column beside the images: the task declares it, and gets its values with every batch."""

from __future__ import annotations

import math

import torch
from ssl_bench import Batch, PretextTask, Setup, TaskOptions
from ssl_bench.transforms import random_flip
from torch import Tensor, nn
from torch.nn import functional as F


class SecondColumn(PretextTask):
    """Tell the hue that a sensor beside the camera measured: the column ``hue``, in turns of the colour circle."""

    name = "second_column"
    columns = frozenset({"hue"})

    def __init__(self, backbone: nn.Module, options: TaskOptions, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        self.head = nn.Linear(self.backbone.num_features, 2)

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mirrored images [B, 3, S, S], and the hue as a point on the circle, [B, 2]."""
        angle = 2 * math.pi * batch.extra["hue"].float()
        return random_flip(batch.images), torch.stack([angle.cos(), angle.sin()], 1)

    def forward(self, views: tuple[Tensor, Tensor], phase: str = "main") -> dict[str, Tensor]:
        images, point = views
        return {"loss": F.mse_loss(self.head(self.backbone(images)).float(), point)}
