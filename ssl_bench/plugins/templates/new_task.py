"""NewTask: one quadrant of an image is turned upside down; say which one.

A working example to change. Check it, then compare it:

    ssl-bench check-task new_task --plugin new_task.py
    ssl-bench run quick --plugin new_task.py --set "tasks=[new_task, rotation]" --out runs/new_task
"""

from __future__ import annotations

from typing import Any

import torch
from ssl_bench import Batch, PretextTask, Setup, TaskOptions
from ssl_bench.transforms import random_flip
from torch import Tensor, nn
from torch.nn import functional as F


class NewTask(PretextTask):
    """Predict which quadrant of an image was turned upside down."""

    name = "new_task"  # as a matrix writes it
    min_image_size = 16

    class Options(TaskOptions):
        """Every option gets a type, a default, and a comment after `#:`. Matrices set them, and records keep them."""

        flip: bool = True  #: mirror whole images at random first, so that left and right are alike

    def __init__(self, backbone: nn.Module, options: Options, setup: Setup) -> None:
        super().__init__(backbone, options, setup)  # keeps self.backbone and self.options
        self.head = nn.Linear(self.backbone.num_features, 4)

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Whole batches at once, without gradient, and new random numbers for every image.

        ``batch.images`` is float [B, 3, H, W] in [0, 1] and must not be changed in place. There are no labels here.
        """
        images = random_flip(batch.images) if self.options.flip else batch.images
        height, width = images.shape[2] // 2 * 2, images.shape[3] // 2 * 2
        images = images[:, :, :height, :width]
        target = torch.randint(4, (len(images),), device=images.device)  # where the images are, or it fails on a GPU
        row, column = (torch.arange(n, device=images.device) * 2 // n for n in (height, width))
        chosen = 2 * row[:, None] + column == target[:, None, None]  # [B, H, W]
        halves = images.unflatten(2, (2, height // 2))
        turned = halves.flip(3).flatten(2, 3)  # the upper and the lower half, each upside down
        return torch.where(chosen[:, None], turned, images), target

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        """A dict of scalars; "loss" is minimised, and everything else is drawn as a curve."""
        images, target = views
        logits = self.head(self.backbone(images))
        return {"loss": F.cross_entropy(logits, target), "accuracy": (logits.argmax(1) == target).float().mean()}

    def chance_accuracy(self) -> float:
        """A guess is right one time in four; on pure noise nobody does better, which `check-task --noise` sees to."""
        return 1 / 4
