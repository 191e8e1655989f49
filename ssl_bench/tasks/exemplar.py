"""Exemplar: which views come from the same image? (Dosovitskiy et al., 2014, arXiv:1406.6909; triplets: Doersch &
Zisserman, 2017)"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.data.batches import Batch
from ssl_bench.errors import DataError, SpecError
from ssl_bench.spec.model import MOST_WIDE, refuse_idle
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import PretextTask, Setup, TaskOptions
from ssl_bench.tasks.parts.recipes import revisited
from ssl_bench.transforms import standardise
from ssl_bench.transforms.exemplar import (
    principal_colours,
    random_affine,
    random_contrast_of_components,
    random_hsv_power,
)
from ssl_bench.transforms.policy import Policy, augmented, contrastive_policy

COLOUR_IMAGES = 2_000  # whose pixels give the principal colours
MOST_CLASSES = 50_000  # the softmax of surrogate classes has one output an image, and does not scale beyond


class Exemplar(PretextTask):
    """Bring views of one image closer together than views of different images (triplet), or tell every image from all
    others (surrogate).

    The triplet form follows Doersch & Zisserman (2017) and Kolesnikov et al. (2019): crops with colour distortion, most
    of them grey, each standardised over its pixels; a cosine distance between embeddings normalised per view; semi-hard
    negatives, because the hardest ones make everything collapse into a point. The surrogate form is that of Dosovitskiy
    et al. (2014): strongly distorted images, and a softmax over as many classes as there are images.
    """

    name = "exemplar"
    paper = (
        "Dosovitskiy et al.: Discriminative Unsupervised Feature Learning with Exemplar CNNs, 2014, "
        "arXiv:1406.6909; triplets: Doersch, Zisserman, 2017, arXiv:1708.07860"
    )
    short_learning_rate = 3e-3
    min_image_size = 8
    colour_mean: Tensor
    colour_axes: Tensor

    class Options(TaskOptions):
        """Options of ``exemplar``."""

        #: triplet: nearer than views of others; surrogate: every image is a class
        form: Literal["triplet", "surrogate"] = "triplet"
        crops: int = Field(default=2, ge=1, le=1_000)  #: views of every image in a batch; triplets need two or more
        #: by which a view of another image should be further away (cosine distance; triplet)
        margin: float = Field(default=0.5, gt=0, le=2)
        #: the nearest of the others that is further than the partner, or the mean over all others (triplet)
        mining: Literal["semi-hard", "all"] = "semi-hard"
        dimensions: int = Field(default=128, ge=2, le=MOST_WIDE)  #: in which views are compared (triplet)
        gray: float = Field(default=0.66, ge=0, le=1)  #: share of views made grey (triplet)
        strength: float = Field(default=0.5, ge=0, le=2.5)  #: s of the colour distortion, as in SimCLR (triplet)
        #: operations that make a view, in order; None: as gray and strength say (triplet)
        augment: Policy | None = None
        LATER: ClassVar[frozenset[str]] = frozenset({"augment"})

        @model_validator(mode="after")
        def _all_count(self) -> Exemplar.Options:
            if self.form == "surrogate":
                refuse_idle(self, ("margin", "mining", "dimensions", "gray", "strength", "augment"), "form: triplet")
            elif self.crops < 2:
                raise ValueError(f"crops {self.crops} leaves a view without a partner; triplets need 2 or more")
            if self.augment is not None:
                refuse_idle(self, ("gray", "strength"), "a policy without augment")
            return self

    def __init__(self, backbone: nn.Module, options: Options, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        if setup.batch_size < 2:
            raise SpecError(
                f"exemplar: batch_size must be at least 2 (got {setup.batch_size}): images are contrasted with each "
                "other"
            )
        outputs = options.dimensions if options.form == "triplet" else setup.num_images
        self.head = nn.Linear(self.backbone.num_features, outputs)
        mean, axes = (
            principal_colours(setup.parts(COLOUR_IMAGES))
            if options.form == "surrogate"
            else (torch.zeros(3), torch.eye(3))
        )
        self.register_buffer("colour_mean", mean)
        self.register_buffer("colour_axes", axes)

    @classmethod
    def check(cls, options: Any, images: Any) -> None:
        """Refuse more surrogate classes than a softmax can hold."""
        if options.form == "surrogate" and len(images) > MOST_CLASSES:
            raise DataError(
                f"exemplar: the surrogate form has a class for each image and takes at most {MOST_CLASSES:,}; "
                f"{images.name} has {len(images):,}. "
                "Set data.limit, or form: triplet"
            )

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """``images`` float [crops B, 3, S, S], all first views before all second ones, and ``index`` int64 [crops B],
        whose views they are."""
        view = self._crop if self.options.form == "triplet" else self._distort
        images = torch.cat([view(batch.images) for _ in range(self.options.crops)])
        index = batch.index if self.options.form == "surrogate" else torch.arange(len(batch), device=images.device)
        return {"images": images, "index": index.repeat(self.options.crops)}

    def _crop(self, images: Tensor) -> Tensor:
        policy = self.options.augment or contrastive_policy(self.options.strength, self.options.gray)
        return standardise(augmented(images, policy))

    def _distort(self, images: Tensor) -> Tensor:
        return random_hsv_power(
            random_contrast_of_components(random_affine(images), self.colour_mean, self.colour_axes)
        )

    def forward(self, views: dict[str, Tensor], phase: str = "main") -> dict[str, Tensor]:
        """The triplet loss and how often a view's nearest neighbour shows the same image; or cross-entropy and accuracy
        over images."""
        images, index = views["images"], views["index"]
        if self.options.form == "surrogate":
            logits = self.head(self.backbone(images)).float()
            return {"loss": F.cross_entropy(logits, index), "accuracy": (logits.argmax(1) == index).float().mean()}
        features = self.backbone.trunk(images.contiguous(memory_format=torch.channels_last))
        with torch.autocast(images.device.type, enabled=False):
            # per view: over the batch axis it would be another loss
            z = F.normalize(self.head.float()(features.float()), dim=1)
            distance = 1 - z @ z.T
            loss = triplet_loss(distance, index, self.options.margin, self.options.mining)
        nearest = (distance.detach() + 4 * torch.eye(len(z), device=z.device)).argmin(1)
        return {"loss": loss, "accuracy": (index[nearest] == index).float().mean()}

    @classmethod
    def network_input(cls, options: Any) -> str:
        """Triplets: every image standardised, as the views are that it learns from."""
        return "standardised" if options.form == "triplet" else "rgb"

    @classmethod
    def paper_recipe(cls, options: Any, image_size: int) -> Recipe:
        """SGD with momentum 0.9, 0.1 at batch 256, cosine up to 96 px; above, Kolesnikov et al.'s steps (35 epochs, 5
        of warm-up)."""
        return revisited(image_size)

    def chance_loss(self) -> float:
        """Of points that lie all alike: the margin; of the surrogate form: that of a uniform guess."""
        return float(self.options.margin) if self.options.form == "triplet" else math.log(self.setup.num_images)

    def describe(self) -> Mapping[str, Any]:
        """The form, and what it compares."""
        settings = (
            {"surrogate_classes": self.setup.num_images}
            if self.options.form == "surrogate"
            else {"margin": self.options.margin}
        )
        return {"form": self.options.form, "crops": self.options.crops, **settings}

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """The images, their views (standardised ones brought back to mid grey), and which image or view each is taken
        for."""
        images = self.views(batch)["images"]
        if self.options.form == "surrogate":
            chosen = self.head(self.backbone(images))[:, batch.index].argmax(1)
            answers = {"answers: the image of the batch that each view is taken for": batch.images[chosen]}
            return {"images": batch.images, "sees: views; is asked: of which image?": images, **answers}
        shown = images.mul(0.25).add(0.5).clamp(0, 1)
        z = F.normalize(self.head(self.backbone.trunk(images.contiguous(memory_format=torch.channels_last))).float())
        nearest = (z @ z.T).fill_diagonal_(-torch.inf).argmax(1)
        return {
            "images": batch.images,
            "sees: views; is asked: which show the same image?": shown,
            "answers: the nearest other view of each": shown[nearest],
        }


def triplet_loss(distance: Tensor, index: Tensor, margin: float, mining: str) -> Tensor:
    """Mean over pairs of views of one image of max(0, D(a, p) - D(a, n) + margin).

    Parameters
    ----------
    distance : float [N, N], symmetric.
    index : int64 [N], the image that each view shows; every image has two views or more.
    margin : the distance asked for.
    mining : "semi-hard": n is the nearest view of another image that is further than p, else the furthest (Schroff et
        al., 2015); "all": the mean over all views of other images.
    """
    same = index[:, None] == index[None]
    partner = same & ~torch.eye(len(index), dtype=torch.bool, device=index.device)
    anchor, positive = partner.nonzero(as_tuple=True)
    near = distance[anchor, positive][:, None]  # [P, 1]
    far, other = distance[anchor], ~same[anchor]  # [P, N]
    if mining == "all":
        return (F.relu(near - far + margin) * other).sum() / other.sum()
    with torch.no_grad():
        beyond = far.masked_fill(~(other & (far > near)), torch.inf)
        furthest = far.masked_fill(~other, -torch.inf)
        chosen = torch.where(beyond.isfinite().any(1), beyond.argmin(1), furthest.argmax(1))
    return F.relu(near[:, 0] - far.gather(1, chosen[:, None])[:, 0] + margin).mean()
