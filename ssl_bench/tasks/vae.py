"""Variational autoencoder. (Kingma & Welling, 2014, arXiv:1312.6114; beta: Higgins et al., 2017, ICLR)"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from ssl_bench.data.batches import Batch
from ssl_bench.tasks.parts.reconstruction import (
    CHUNK,
    Reconstruction,
    reconstruction_error,
    to_pixels,
)

ACTIVE_VARIANCE = 0.01  # a latent whose mean varies less over images than this carries nothing (Burda et al., 2016)


class VAE(Reconstruction):
    """Encode an image as a Gaussian over latents and rebuild it from a sample (Kingma & Welling, 2014).

    The negative evidence bound, ``|x - x'|^2 / (2 c) + beta KL(q(z|x) || N(0, I))``, is summed over pixels and latents
    and averaged over images; the reported loss is that divided by the numbers in an image, both terms alike, so that it
    does not grow with image size. Averaging only the error over its 3,072 numbers would multiply beta by 3,072 and
    silence every latent.
    """

    name = "vae"
    paper = "Kingma, Welling: Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114"
    short_learning_rate = 3e-4
    outputs_per_code = 2

    class Options(Reconstruction.Options):
        """Options of ``vae``; ``code_size`` is the number of latents."""

        #: weight of the KL term; above 1 (beta-VAE) fewer latents stay active
        beta: float = Field(default=1.0, ge=0, le=1_000_000)
        #: variance of the Gaussian decoder, where pixels have variance 1: a latent pays off where it explains more than
        #: this in total
        pixel_variance: float = Field(default=1.0, gt=0, le=1_000_000)
        #: share of the run over which the weight of the KL term rises from 0 to beta
        kl_warmup: float = Field(default=0.1, ge=0, le=1)

    @classmethod
    def default_code_size(cls, image_size: int) -> int:
        """128 latents up to 96 px, 256 above, a quarter of a tiny image at most."""
        return min(128 if image_size <= 96 else 256, 3 * image_size * image_size // 4)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each [B, code_size]; the log-variance stays in [-10, 10]."""
        mean, log_variance = self.encode(images).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 10)

    def reconstruct(self, images: Tensor) -> Tensor:
        """RGB to what the decoder makes of the posterior mean, standardised pixels [B, 3, S, S]."""
        return self.decoder(self.posterior(images)[0]).float()

    def views(self, batch: Batch) -> Tensor:
        """Cropped and mirrored images, float [B, 3, S, S]."""
        return self.crop_and_flip(batch.images)

    def forward(self, views: Tensor, phase: str = "main") -> dict[str, Tensor]:
        """Negative evidence bound per number of the image; ``kl`` in nats an image; squared error of standardised
        pixels."""
        mean, log_variance = self.posterior(views)
        squared = (
            (self.decoder(sample(mean, log_variance)).float() - self.backbone.prepare(views))
            .square()
            .sum((1, 2, 3))
            .mean()
        )
        kl = kl_divergence(mean, log_variance).sum(1).mean()
        bound = squared / (2 * self.options.pixel_variance) + self.beta() * kl
        return {"loss": bound / self.image_numbers, "kl": kl, "reconstruction": squared / self.image_numbers}

    def beta(self) -> float:
        """The weight of the KL term at this point of the run."""
        warmup = self.options.kl_warmup
        return self.options.beta * (min(1.0, self.progress / warmup) if warmup > 0 else 1.0)

    def codes(self, images: Tensor) -> Mapping[str, Tensor]:
        """The posterior mean, [B, code_size]; never a sample."""
        return {"mu": self.posterior(images)[0]}

    def sample(self, count: int) -> Tensor:
        """Images of latents drawn from the prior."""
        return self.decode(torch.randn(count, self.code_size, device=self.to_code.weight.device))

    @torch.no_grad()
    def diagnose(self, images: Tensor) -> Mapping[str, float]:
        """``active_units``, whose mean varies by more than 0.01 over images (0: collapsed); ``kl`` in nats an image;
        the means' errors."""
        codes = [self.posterior(chunk) for chunk in images.split(CHUNK)]
        mean, log_variance = (torch.cat(part) for part in zip(*codes, strict=True))
        rebuilt = torch.cat([self.decoder(chunk).float() for chunk in mean.split(CHUNK)])
        active = int((mean.var(0) > ACTIVE_VARIANCE).sum()) if len(mean) > 1 else 0
        kl = float(kl_divergence(mean, log_variance).sum(1).mean())
        return {"active_units": float(active), "kl": kl, **reconstruction_error(self.backbone, images, rebuilt)}

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """Images, what the posterior means decode to, samples of the prior, and the way in latent space from each image
        to the next."""
        mean = self.posterior(batch.images)[0]
        pictures = {
            "answers: rebuilt from the mean of the code": mean,
            "answers: made from codes drawn from the prior": torch.randn_like(mean),
            "answers: made from the code halfway to the next image": (mean + mean.roll(-1, 0)) / 2,
        }
        return {
            "sees: images; is asked: to rebuild each from a draw of a few numbers": batch.images,
            **{name: to_pixels(self.backbone, self.decoder(z).float()) for name, z in pictures.items()},
        }


def sample(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A draw from every Gaussian, through which gradients reach both parameters."""
    return mean + (log_variance / 2).exp() * torch.randn_like(mean)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) of every latent in nats: 1/2 (mean^2 + variance - log variance - 1)."""
    return (mean.square() + log_variance.exp() - log_variance - 1) / 2
