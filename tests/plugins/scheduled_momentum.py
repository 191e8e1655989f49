"""A student that predicts a slow teacher: momentum and temperature follow schedules, and the last layer waits for a
while."""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from ssl_bench import Batch, PretextTask, Recipe, Setup, TaskOptions
from ssl_bench.spec.schedule import Schedule
from ssl_bench.transforms import random_resized_crop
from torch import Tensor, nn
from torch.nn import functional as F


class ScheduledMomentumOptions(TaskOptions):
    """Options of ``scheduled_momentum``."""

    momentum: Schedule = Schedule(start=0.9, end=1.0)  #: share of the teacher that stays in a step (BYOL: 0.996 to 1)
    temperature: Schedule = Schedule(start=0.2, end=0.1, curve="linear", until=0.5)  #: of the teacher's softmax
    frozen: float = Field(
        default=0.25, ge=0, le=1
    )  #: share of the run in which the last layer stays (DINO: first epoch)


class ScheduledMomentum(PretextTask):
    """Match a momentum teacher's assignment of another view (Caron et al., 2021, without multi-crop)."""

    name = "scheduled_momentum"
    Options = ScheduledMomentumOptions

    def __init__(self, backbone: nn.Module, options: ScheduledMomentumOptions, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        self.student_head = nn.Linear(self.backbone.num_features, 16, bias=False)
        self.teacher = copy.deepcopy(nn.Sequential(self.backbone, self.student_head)).requires_grad_(False)

    def views(self, batch: Batch) -> Tensor:
        """Two views of every image, [2 B, 3, S, S]."""
        return torch.cat([random_resized_crop(batch.images, flip=0.5) for _ in range(2)])

    def forward(self, views: Tensor, phase: str = "main") -> dict[str, Tensor]:
        with torch.no_grad():
            first, second = self.teacher(views).float().chunk(2)
            temperature = self.options.temperature.at(self.progress)
            target = F.softmax(torch.cat([second, first]) / temperature, 1)
        return {"loss": F.cross_entropy(self.student_head(self.backbone(views)).float(), target)}

    def before_step(self) -> None:
        if self.progress < self.options.frozen:
            self.student_head.weight.grad = None

    @torch.no_grad()
    def after_step(self) -> None:
        keep = self.options.momentum.at(self.progress)
        student = nn.Sequential(self.backbone, self.student_head)
        for slow, fast in zip(self.teacher.parameters(), student.parameters(), strict=True):
            slow.lerp_(fast, 1 - keep)

    @classmethod
    def short_recipe(cls, options: object, image_size: int) -> Recipe:
        """Weight decay rises, as in DINO."""
        return (
            super().short_recipe(options, image_size).model_copy(update={"weight_decay": 0.04, "weight_decay_end": 0.4})
        )
