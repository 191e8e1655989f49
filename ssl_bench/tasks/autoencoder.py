"""Autoencoder: rebuild the image from a small code.

(Hinton & Salakhutdinov, 2006; convolutional: Masci et al., 2011)
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from ssl_bench.data.batches import Batch
from ssl_bench.tasks.parts.reconstruction import Reconstruction


class Autoencoder(Reconstruction):
    """Rebuild an image from a code much smaller than it (Hinton & Salakhutdinov, 2006; Masci et al., 2011).

    The loss is the squared error of standardised pixels, averaged over pixels and images: 1 is what the mean colour
    gets. A lower error does not make better features; it is reported on validation images and selects nothing.
    """

    name = "autoencoder"
    paper = "Hinton, Salakhutdinov: Reducing the Dimensionality of Data with Neural Networks, 2006"
    short_learning_rate = 3e-4

    def views(self, batch: Batch) -> Tensor:
        """Cropped and mirrored images, float [B, 3, S, S]."""
        return self.crop_and_flip(batch.images)

    def forward(self, views: Tensor, phase: str = "main") -> dict[str, Tensor]:
        """Mean squared error of the reconstruction."""
        return {"loss": F.mse_loss(self.reconstruct(views), self.backbone.prepare(views))}

    def chance_loss(self) -> float:
        """Of the mean colour."""
        return 1.0

    def codes(self, images: Tensor) -> Mapping[str, Tensor]:
        """The code, [B, code_size]."""
        return {"code": self.encode(images)}
