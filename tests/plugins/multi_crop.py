"""Views of different sizes: two large crops of an image, and small ones that have to find them."""

from __future__ import annotations

import torch
from pydantic import Field
from ssl_bench import Batch, PretextTask, Setup, TaskOptions
from ssl_bench.transforms.policy import Crop, Operation, augmented, contrastive_policy
from torch import Tensor, nn
from torch.nn import functional as F


class MultiCropOptions(TaskOptions):
    """Options of ``multi_crop``."""

    small: int = Field(default=4, ge=1, le=20)  #: small crops of every image


class MultiCrop(PretextTask):
    """Match small crops of an image with its large ones (multi-crop: Caron et al., 2020, arXiv:2006.09882)."""

    name = "multi_crop"
    Options = MultiCropOptions
    min_image_size = 32

    def __init__(self, backbone: nn.Module, options: MultiCropOptions, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        self.head = nn.Linear(self.backbone.num_features, 32)
        self.large_policy = contrastive_policy(0.5, min_scale=0.3)
        crop = Crop(scale=(0.05, 0.3), size=setup.image_size // 2)
        self.small_policy = (Operation(crop=crop), *self.large_policy[1:])

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """``large`` [2 B, 3, S, S] and ``small`` [small B, 3, S/2, S/2], view by view."""
        images = batch.images
        return {
            "large": torch.cat([augmented(images, self.large_policy) for _ in range(2)]),
            "small": torch.cat([augmented(images, self.small_policy) for _ in range(self.options.small)]),
        }

    def forward(self, views: dict[str, Tensor], phase: str = "main") -> dict[str, Tensor]:
        """Cross-entropy of which image's large crops each small one is nearest to, and how often that is right."""
        large, small = (
            F.normalize(self.head(self.backbone(views[name])).float(), dim=1) for name in ("large", "small")
        )
        centres = (large.chunk(2)[0] + large.chunk(2)[1]) / 2
        logits = small @ centres.T / 0.1
        image = torch.arange(len(centres), device=logits.device).repeat(self.options.small)
        return {"loss": F.cross_entropy(logits, image), "accuracy": (logits.argmax(1) == image).float().mean()}
