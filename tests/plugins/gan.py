"""A generative adversarial network as a pretext task: two phases, each with its optimiser, its views and its rhythm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from ssl_bench import Batch, PretextTask, Recipe, Setup, TaskOptions
from ssl_bench.tasks.parts.reconstruction import Decoder
from ssl_bench.transforms import random_flip
from torch import Tensor, nn
from torch.nn import functional as F


class GanOptions(TaskOptions):
    """Options of ``gan``."""

    latent: int = Field(default=16, ge=1, le=1_024)  #: numbers that an image is generated from
    critic_steps: int = Field(default=2, ge=1, le=100)  #: of the critic for each of the generator


class Gan(PretextTask):
    """Tell images from generated ones (Goodfellow et al., 2014); the features are the critic's (Radford et al., 2016)."""

    name = "gan"
    phases = ("critic", "generator")
    Options = GanOptions
    min_image_size = 16

    def __init__(self, backbone: nn.Module, options: GanOptions, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        self.critic_head = nn.Linear(self.backbone.num_features, 1)
        self.generator = Decoder(options.latent, setup.image_size, 32)

    def phases_at(self, step: int, steps: int) -> Sequence[str]:
        return ("critic",) * self.options.critic_steps + ("generator",)

    def phase_parameters(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        generator = phase == "generator"
        return [(name, p) for name, p in self.named_parameters() if name.startswith("generator.") == generator]

    @classmethod
    def phase_recipe(cls, phase: str, recipe: Recipe, options: Any) -> Recipe:
        """Adam with beta 0.5 (Radford et al., 2016); the generator does not decay, and learns at half the rate."""
        if phase == "critic":
            return recipe.model_copy(update={"betas": (0.5, 0.999)})
        half = recipe.learning_rate / 2
        return recipe.model_copy(update={"betas": (0.5, 0.999), "learning_rate": half, "weight_decay": 0.0})

    def views(self, batch: Batch, phase: str = "critic") -> dict[str, Tensor]:
        """``code`` [B, latent], and for the critic ``images`` [B, 3, S, S] as well."""
        code = torch.randn(len(batch), self.options.latent).to(batch.images.device)
        return {"images": random_flip(batch.images), "code": code} if phase == "critic" else {"code": code}

    def forward(self, views: dict[str, Tensor], phase: str = "critic") -> dict[str, Tensor]:
        """The loss of one side; ``accuracy`` of the critic is the share of images that it tells for what they are."""
        generated = self.generate(views["code"])
        if phase == "generator":
            return {"loss": F.softplus(-self.score(generated)).mean()}
        real, fake = self.score(views["images"]), self.score(generated.detach())
        right = torch.cat([real > 0, fake < 0]).float().mean()
        return {"loss": F.softplus(-real).mean() + F.softplus(fake).mean(), "accuracy": right}

    def generate(self, code: Tensor) -> Tensor:
        """[B, latent] to images [B, 3, S, S] in [0, 1]."""
        return torch.sigmoid(self.generator(code).float())

    def score(self, images: Tensor) -> Tensor:
        """Above 0 for what looks real, float [B]."""
        scores: Tensor = self.critic_head(self.backbone(images))[:, 0].float()
        return scores

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """Images, and what the generator makes."""
        views = self.views(batch)
        return {"real": views["images"], "generated": self.generate(views["code"])}
