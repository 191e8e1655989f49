"""SimCLR: which of the other views shows the same image? (Chen, Kornblith, Norouzi, Hinton, 2020, arXiv:2002.05709)"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.data.batches import Batch
from ssl_bench.errors import SpecError
from ssl_bench.spec.model import MOST_WIDE, refuse_idle
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import PretextTask, Setup, TaskOptions
from ssl_bench.transforms.policy import Policy, augmented, contrastive_policy

SMALL = 32  # px; up to here the paper's CIFAR-10 setting holds: half the colour strength, no blur, temperature 0.5


class SimCLR(PretextTask):
    """Tell the two views of an image from the views of all others (Chen et al., 2020).

    Algorithm 1: two independent draws of crop, flip, colour distortion, grey and blur; a projection head of two layers;
    NT-Xent over the 2 B views of a batch. ``accuracy`` is how often a view's partner is the most similar of all others.
    """

    name = "simclr"
    paper = (
        "Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual "
        "Representations, 2020, arXiv:2002.05709"
    )
    short_learning_rate = 3e-3
    min_image_size = 8

    class Options(TaskOptions):
        """Options of ``simclr``; what is None follows the image size."""

        #: of NT-Xent; None: 0.5 up to 32 px, 0.1 above
        temperature: float | None = Field(default=None, ge=1e-3, le=1_000)
        #: s of the colour distortion; None: 0.5 up to 32 px, 1 above
        strength: float | None = Field(default=None, ge=0, le=2.5)
        blur: bool | None = None  #: blur half of the views; None: above 32 px only
        min_scale: float = Field(default=0.08, gt=0, le=1)  #: smallest crop, as a share of the image's area
        interpolation: Literal["bilinear", "bicubic"] = "bicubic"  #: of the crop
        #: width of the projection head; None: as wide as the features
        hidden: int | None = Field(default=None, ge=1, le=MOST_WIDE)
        projection: int = Field(default=128, ge=2, le=MOST_WIDE)  #: dimensions in which views are compared
        #: operations that make a view, in order; None: the paper's, as strength, blur, min_scale and interpolation say
        augment: Policy | None = None
        LATER: ClassVar[frozenset[str]] = frozenset({"augment"})

        @model_validator(mode="after")
        def _all_count(self) -> SimCLR.Options:
            if self.augment is not None:
                refuse_idle(self, ("strength", "blur", "min_scale", "interpolation"), "a policy without augment")
            return self

    def __init__(self, backbone: nn.Module, options: Options, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        if setup.batch_size < 2:
            raise SpecError(
                f"simclr: batch_size must be at least 2 (got {setup.batch_size}): images are contrasted with each other"
            )
        small = setup.image_size <= SMALL
        self.strength = options.strength if options.strength is not None else (0.5 if small else 1.0)
        self.blur = options.blur if options.blur is not None else not small
        self.policy = options.augment or contrastive_policy(
            self.strength, 0.2, self.blur, options.min_scale, options.interpolation
        )
        self.temperature = options.temperature or (0.5 if small else 0.1)
        features = self.backbone.num_features
        self.projection_head = SimCLRProjectionHead(features, options.hidden or features, options.projection)
        self.criterion = NTXentLoss(self.temperature)

    def views(self, batch: Batch) -> Tensor:
        """Two views of every image, float [2 B, 3, S, S]: all first views, then all second ones."""
        return torch.cat([augmented(batch.images, self.policy) for _ in range(2)])

    def forward(self, views: Tensor, phase: str = "main") -> dict[str, Tensor]:
        """NT-Xent in single precision, and how often the partner is found."""
        projected = self.projection_head(self.backbone(views))
        with torch.autocast(views.device.type, enabled=False):
            first, second = projected.float().chunk(2)
            return {"loss": self.criterion(first, second), "accuracy": partner_found(first.detach(), second.detach())}

    @classmethod
    def paper_recipe(cls, options: Any, image_size: int) -> Recipe:
        """LARS at batch 512: 1.0 x B / 256 at CIFAR size, 0.075 x sqrt(B) above, with 10 epochs of 200 as warm-up."""
        size = 512
        rate = size / 256 if image_size <= SMALL else 0.075 * math.sqrt(size)
        return Recipe(
            optimizer="lars",
            learning_rate=rate,
            weight_decay=1e-6,
            batch_size=size,
            warmup=0.05,
            trust_coefficient=0.001,
        )

    def chance_loss(self) -> float:
        return math.log(2 * self.setup.batch_size - 1)

    def describe(self) -> Mapping[str, Any]:
        """What the image size decided."""
        if self.options.augment is not None:
            return {"temperature": self.temperature, "augment": ", ".join(map(str, self.policy))}
        return {"temperature": self.temperature, "strength": self.strength, "blur": self.blur}

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """The images, two views of each, and the view that is most similar to every first one."""
        views = self.views(batch)
        first, second = views.chunk(2)
        z = F.normalize(self.projection_head(self.backbone(views)).float())
        nearest = (z @ z.T).fill_diagonal_(-torch.inf)[: len(first)].argmax(1)
        return {
            "images": batch.images,
            "sees: a first view of each": first,
            "and a second one; is asked: which of all other views is the first one's partner?": second,
            "answers: the view most similar to the first": views[nearest],
        }


@torch.no_grad()
def partner_found(first: Tensor, second: Tensor) -> Tensor:
    """Share of the 2 B views whose partner is the most similar (cosine) of the 2 B - 1 others; ``first``, ``second``
    [B, D]."""
    z = F.normalize(torch.cat([first, second]))
    similarity = (z @ z.T).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(first))
    return (similarity.argmax(1) == partner).float().mean()
