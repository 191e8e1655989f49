"""BYOL in small: a student predicts what a slowly moving teacher makes of another view (Grill et al., 2020); crops of
half the side as DINO's."""

import copy

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from ssl_bench import PretextTask, TaskOptions
from ssl_bench.transforms import random_crop, random_flip


class MomentumTeacher(PretextTask):
    """Predict a momentum teacher's features of another view."""

    name = "momentum_teacher"

    class Options(TaskOptions):
        momentum: float = Field(default=0.9, ge=0, lt=1)  #: share of the teacher that stays at every step
        small_crops: int = Field(default=0, ge=0, le=8)  #: further views of half the side, for the student alone
        judge_teacher: bool = True  #: judge the teacher rather than the student

    def __init__(self, backbone, options, setup):
        super().__init__(backbone, options, setup)
        width = backbone.num_features
        self.predictor = nn.Sequential(
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)
        )
        self.teacher = copy.deepcopy(backbone).requires_grad_(False)

    def views(self, batch):
        noisy = [random_flip(random_crop(batch.images, 4)) + 0.1 * torch.randn_like(batch.images) for _ in range(2)]
        side = batch.images.shape[2] // 2
        small = [random_flip(random_crop(batch.images, 4))[:, :, :side, :side] for _ in range(self.options.small_crops)]
        return noisy, small

    def forward(self, views):
        large, small = views
        with torch.no_grad():
            targets = [F.normalize(self.teacher(view), dim=1) for view in large]
        predicted = [F.normalize(self.predictor(self.backbone(view)), dim=1) for view in (*large, *small)]
        pairs = [(p, t) for i, p in enumerate(predicted) for j, t in enumerate(targets) if i != j]
        return {"loss": torch.stack([2 - 2 * (p * t).sum(1).mean() for p, t in pairs]).mean()}

    @torch.no_grad()
    def after_step(self):
        for mine, students in zip(self.teacher.parameters(), self.backbone.parameters(), strict=True):
            mine.lerp_(students, 1 - self.options.momentum)

    def evaluated(self):
        return self.teacher if self.options.judge_teacher else self.backbone
