"""Kinds of input that tasks bring: the colours without the lightness, and edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ssl_bench import Batch, PretextTask, Setup, TaskOptions, input_kind
from ssl_bench.transforms import grayscale, quarter_turns, rgb_to_lab
from torch import Tensor, nn
from torch.nn import functional as F


@input_kind("ab", channels=2)
def ab(images: Tensor) -> Tensor:
    """RGB [B, 3, H, W] in [0, 1] to the a and b channels of CIE Lab, [B, 2, H, W]."""
    return rgb_to_lab(images)[:, 1:]


@input_kind("sobel", channels=2)
def sobel(images: Tensor) -> Tensor:
    """RGB [B, 3, H, W] in [0, 1] to horizontal and vertical slopes of the grey image, [B, 2, H, W] (as DeepCluster sees
    images)."""
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=images.device) / 8
    kernels = torch.stack([across, across.T])[:, None]
    return F.conv2d(F.pad(grayscale(images), (1, 1, 1, 1), mode="replicate"), kernels)


class TurnedColours(PretextTask):
    """By which quarter turn was the image rotated, seen from its colours alone?"""

    name = "turned_colours"
    kind = "ab"

    def __init__(self, backbone: nn.Module, options: TaskOptions, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        self.head = nn.Linear(self.backbone.num_features, 4)

    @classmethod
    def build_backbone(cls, make: Callable[..., nn.Module], options: Any) -> nn.Module:
        return make(input=cls.kind)

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """All four turns of every image, [4 B, 3, S, S], and how many quarter turns each has."""
        turns = torch.arange(4, device=batch.images.device)
        return quarter_turns(batch.images), turns.repeat_interleave(len(batch))

    def forward(self, views: tuple[Tensor, Tensor], phase: str = "main") -> dict[str, Tensor]:
        images, turns = views
        return {"loss": F.cross_entropy(self.head(self.backbone(images)), turns)}


class TurnedEdges(TurnedColours):
    """By which quarter turn was the image rotated, seen from its edges alone?"""

    name = "turned_edges"
    kind = "sobel"
