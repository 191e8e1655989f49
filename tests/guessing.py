"""A task trained on images that hold no answer, or a planted one: how often is it right?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from ssl_bench.data.batches import Batch
from ssl_bench.tasks.base import PretextTask


@dataclass(frozen=True)
class Guesses:
    """Predictions, each made before its images were trained on; ``independent`` of an image's count as independent of
    each other."""

    right: int
    asked: int
    per_image: int
    independent: int

    @property
    def accuracy(self) -> float:
        return self.right / self.asked

    def interval(self) -> tuple[float, float]:
        """Exact binomial interval of 99.9 %."""
        share = self.per_image // self.independent
        found = stats.binomtest(self.right // share, self.asked // share).proportion_ci(0.999, "exact")
        return found.low, found.high


def train_on(
    task: PretextTask,
    images_of_step: Callable[[int], Tensor],
    steps: int,
    batch_size: int,
    per_image: int,
    independent: int,
) -> Guesses:
    """Train on fresh images at every step, float [batch_size, 3, S, S];
    counts the last two thirds of the predictions."""
    task.train()
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    right, asked = 0, 0
    for step in range(steps):
        images = images_of_step(batch_size).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            views = task.views(Batch(images, torch.arange(batch_size)))
        out = task(views)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        if step >= steps // 3:
            right, asked = (
                right + round(float(out["accuracy"]) * per_image * batch_size),
                asked + per_image * batch_size,
            )
    return Guesses(right, asked, per_image, independent)
