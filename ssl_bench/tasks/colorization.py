"""Colorization: which colours does a grey image have? (Zhang, Isola, Efros, 2016, arXiv:1603.08511)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.data.batches import Batch
from ssl_bench.data.images import ImageSet, is_grey
from ssl_bench.errors import DataError
from ssl_bench.spec.model import MOST_PAD
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import PretextTask, Setup, TaskOptions
from ssl_bench.tasks.parts.reconstruction import feature_map_shape, upsampling
from ssl_bench.transforms.ab import BINS, SoftEncoder, is_coloured, rebalancing_weights, smoothed_prior
from ssl_bench.transforms.geometry import random_crop, random_flip
from ssl_bench.transforms.lab import lab_to_rgb, rgb_to_lab

ANNEALING = 0.38  # temperature of the decoded mean
PRIOR_PIXELS = 1 << 22  # of the pretraining images, from which the colour prior is taken
CHECKED_IMAGES = 2_048


class Colorization(PretextTask):
    """Predict from lightness which of 262 colours every patch of about 4 x 4 pixels has, rare colours weighted up
    (Zhang et al., 2016).

    The backbone sees CIE lightness only, in pretraining and ever after; colour jitter would be a wrong answer, so
    images are only cropped and mirrored. Grey images weigh nothing.
    """

    name = "colorization"
    paper = "Zhang, Isola, Efros: Colorful Image Colorization, 2016, arXiv:1603.08511"
    short_learning_rate = 3e-3
    min_image_size = 16
    weights: Tensor

    class Options(TaskOptions):
        """Options of ``colorization``."""

        #: of the prior whose inverse weights colours; 1: all alike
        uniform_part: float = Field(default=0.5, gt=0, le=1)
        #: Gaussian, in ab units, by which targets and prior are spread over bins
        sigma: float = Field(default=5.0, gt=0, le=1_000)
        #: mirrored pixels on every side before cropping; None: an eighth of the side
        pad: int | None = Field(default=None, ge=0, le=MOST_PAD)

    def __init__(self, backbone: nn.Module, options: Options, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        channels, side, _ = feature_map_shape(backbone, setup.image_size)
        doublings = max(0, round(np.log2(setup.image_size / 4 / side)))
        self.grid = side * 2**doublings
        widths = [max(64, channels // 2 >> step) for step in range(doublings + 1)]
        last = nn.Conv2d(widths[-1], len(BINS), 1)
        self.head = nn.Sequential(
            nn.Conv2d(channels, widths[0], 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(),
            *(upsampling(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)),
            last,
        )  # fmt: skip
        self.soft_encode = SoftEncoder(options.sigma)
        colours = self._prior_colours()
        self.register_buffer(
            "weights", rebalancing_weights(smoothed_prior(colours, options.sigma), options.uniform_part)
        )
        asked = self._weighted_share(colours)
        constant = (asked / asked.sum()).clamp_min(1e-6)  # the best answer that looks at nothing
        self._chance = float(-(asked * constant.log()).sum())
        # start at the answer that looks at nothing: short runs need not spend their steps on learning it
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.copy_(constant.log())  # type: ignore[union-attr]

    @classmethod
    def network_input(cls, options: Any) -> str:
        """Lightness only."""
        return "lightness"

    @classmethod
    def check(cls, options: Any, images: ImageSet) -> None:
        """Refuse images without colour; the slight tints that compression leaves in grey images are none."""
        if is_grey(images, CHECKED_IMAGES):
            shown = min(len(images), CHECKED_IMAGES)
            raise DataError(
                f"colorization needs colour, and the {shown:,} images looked at in {images.name} are grey; leave it out"
            )

    @classmethod
    def paper_recipe(cls, options: Any, image_size: int) -> Recipe:
        """Adam 1e-3 and decay 1e-4 on small images (suite choice); above 96 px Adam 3e-4, batch 256."""
        rate, batch_size = (1e-3, 128) if image_size <= 96 else (3e-4, 256)
        return Recipe(optimizer="adamw", learning_rate=rate, weight_decay=1e-4, batch_size=batch_size, warmup=0.0)

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """Cropped and mirrored ``images`` [B, 3, S, S]; per target bins ``index`` and shares ``soft`` [B, h, w, 5], and
        ``weight``."""
        pad = self.setup.image_size // 8 if self.options.pad is None else self.options.pad
        images = random_flip(random_crop(batch.images, pad, mode="reflect"))
        return {"images": images, **self.targets(images)}

    def targets(self, images: Tensor) -> dict[str, Tensor]:
        """What the images' colours ask for; see ``views``."""
        ab = rgb_to_lab(images)[:, 1:]
        index, soft = self.soft_encode(F.adaptive_avg_pool2d(ab, self.grid).permute(0, 2, 3, 1))
        first = index.gather(-1, soft.argmax(-1, keepdim=True))[..., 0]
        return {"index": index, "soft": soft, "weight": self.weights[first] * is_coloured(ab)[:, None, None]}

    def logits(self, images: Tensor) -> Tensor:
        """RGB, of which lightness is used, to [B, Q, h, w]."""
        return self.head(self.backbone.feature_map(images)).float()

    def forward(self, views: dict[str, Tensor], phase: str = "main") -> dict[str, Tensor]:
        """Weighted cross-entropy with the soft targets, averaged over the places of images that are not grey."""
        # channels-last: colours lie side by side
        likely = F.log_softmax(self.logits(views["images"]).permute(0, 2, 3, 1), dim=-1)
        entropy = -(views["soft"] * likely.gather(-1, views["index"])).sum(-1)
        counted = (views["weight"] > 0).sum().clamp_min(1)
        return {"loss": (views["weight"] * entropy).sum() / counted}

    def chance_loss(self) -> float:
        """The loss of answering the same, best distribution everywhere."""
        return self._chance

    def describe(self) -> Mapping[str, Any]:
        """The number of colour bins and the size of the output grid."""
        return {"bins": len(BINS), "output": f"{self.grid} x {self.grid} places of {len(BINS)} colours"}

    @torch.no_grad()
    def colorize(self, images: Tensor) -> Tensor:
        """RGB to RGB, colours replaced by the annealed mean (temperature 0.38) of what the task expects, lightness
        kept."""
        ab = torch.einsum("bqhw,qc->bchw", torch.softmax(self.logits(images) / ANNEALING, dim=1), self.soft_encode.bins)
        ab = F.interpolate(ab, size=images.shape[2:], mode="bilinear", align_corners=False)
        return lab_to_rgb(torch.cat([rgb_to_lab(images)[:, :1], ab], dim=1))

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """Images, what the task sees of them, and the colours that it gives them."""
        lab = rgb_to_lab(batch.images)
        grey = lab_to_rgb(torch.cat([lab[:, :1], torch.zeros_like(lab[:, 1:])], dim=1))
        return {
            "images": batch.images,
            "sees: lightness; is asked: which colours?": grey,
            "answers: the colours that it expects": self.colorize(batch.images),
        }

    def _prior_colours(self) -> Tensor:
        """Target colours [N, 2] of pretraining images that are not grey."""
        side = self.setup.image_size
        coloured = []
        for chunk in self.setup.sample(max(64, PRIOR_PIXELS // side**2)).split(128):
            ab = rgb_to_lab(chunk)[:, 1:]
            coloured.append(F.adaptive_avg_pool2d(ab, self.grid)[is_coloured(ab)].permute(0, 2, 3, 1).flatten(0, 2))
        colours = torch.cat(coloured)
        if not len(colours):
            raise DataError("colorization needs colour, and all pretraining images looked at are grey")
        return colours

    def _weighted_share(self, colours: Tensor) -> Tensor:
        """How much of the weighted targets falls on each bin, float64 [Q]."""
        index, soft = self.soft_encode(colours)
        weight = self.weights[index.gather(-1, soft.argmax(-1, keepdim=True))[..., 0]]
        asked = (soft * weight[:, None]).double() / len(colours)
        return torch.zeros(len(BINS), dtype=torch.float64).index_add_(0, index.flatten(), asked.flatten())
