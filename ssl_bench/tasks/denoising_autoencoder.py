"""Denoising autoencoder: rebuild the clean image from a corrupted one. (Vincent et al., 2008, ICML)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from ssl_bench.data.batches import Batch
from ssl_bench.spec.model import refuse_idle
from ssl_bench.tasks.parts.reconstruction import (
    CHUNK,
    Reconstruction,
    reconstruction_error,
    to_pixels,
)
from ssl_bench.transforms.noise import gaussian_noise, mask_noise


class DenoisingAutoencoder(Reconstruction):
    """Rebuild the clean image from the code of a corrupted one (Vincent et al., 2008).

    Noise is drawn per image and step in standardised units and not clipped; masked pixels take the data's mean colour,
    zero once standardised, and kept ones are not rescaled. The error is against the clean image, and probes see clean
    images. Where the input is lightness (a harmonised combination), colours get the noise all the same, and about three
    quarters of it are left in the lightness.
    """

    name = "denoising_autoencoder"
    paper = (
        "Vincent, Larochelle, Bengio, Manzagol: Extracting and Composing Robust Features with Denoising "
        "Autoencoders, 2008"
    )
    short_learning_rate = 3e-4

    class Options(Reconstruction.Options):
        """Options of ``denoising_autoencoder``."""

        #: gaussian: added to every value; mask: whole pixels become the data's mean colour
        noise: Literal["gaussian", "mask"] = "gaussian"
        #: gaussian: deviation of the noise, where pixels have deviation 1
        sigma: float = Field(default=0.3, gt=0, le=1_000)
        masked: float = Field(default=0.5, gt=0, lt=1)  #: mask: share of the pixels

        @model_validator(mode="after")
        def _all_count(self) -> DenoisingAutoencoder.Options:
            idle, needed = ("masked", "noise: mask") if self.noise == "gaussian" else ("sigma", "noise: gaussian")
            refuse_idle(self, (idle,), needed)
            return self

    def corrupt(self, images: Tensor) -> Tensor:
        """A corrupted copy, float [B, 3, S, S]; gaussian noise leaves [0, 1]."""
        if self.options.noise == "gaussian":
            return gaussian_noise(images, self.options.sigma, self.backbone.std)
        return mask_noise(images, self.options.masked, self.backbone.mean)

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cropped and mirrored images, clean and corrupted, each float [B, 3, S, S]."""
        clean = self.crop_and_flip(batch.images)
        return clean, self.corrupt(clean)

    def forward(self, views: tuple[Tensor, Tensor], phase: str = "main") -> dict[str, Tensor]:
        """Mean squared error against the clean, standardised image."""
        clean, corrupted = views
        return {"loss": F.mse_loss(self.reconstruct(corrupted), self.backbone.prepare(clean))}

    def codes(self, images: Tensor) -> Mapping[str, Tensor]:
        """The code of the clean image, [B, code_size]."""
        return {"code": self.encode(images)}

    @torch.no_grad()
    def diagnose(self, images: Tensor) -> Mapping[str, float]:
        """Errors of ``reconstruction_error`` for clean input, and for corrupted input with ``_denoised`` after the
        name."""
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(0)
            rebuilt = torch.cat([self.reconstruct(self.corrupt(chunk)) for chunk in images.split(CHUNK)])
        denoised = reconstruction_error(self.backbone, images, rebuilt)
        return {**super().diagnose(images), **{f"{name}_denoised": value for name, value in denoised.items()}}

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """Images, what the task is given (clipped for the eye), and what it makes of that."""
        corrupted = self.corrupt(batch.images)
        rebuilt = to_pixels(self.backbone, self.reconstruct(corrupted))
        return {
            "images": batch.images,
            "sees: corrupted images; is asked: what was there?": corrupted.clamp(0, 1),
            "answers: rebuilt from a code": rebuilt,
        }
