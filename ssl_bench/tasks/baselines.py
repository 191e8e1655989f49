"""What every table needs beside it: an untrained network, the pixels themselves, and their principal components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.errors import DataError
from ssl_bench.spec.model import MOST_WIDE
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.tasks.base import PretextTask, Setup, TaskOptions

PIXEL_SIDE = 32  # larger images are averaged down to this side, so that a linear classifier on pixels stays one
NO_VARIANCE = 1e-3  # a deviation below this share of the largest is what float32 leaves of zero
SAMPLE_NUMBERS = 1 << 29  # pixel values that the images to fit may take in memory (2 GiB)


class RandomInit(PretextTask):
    """The backbone as it is initialised, without training.

    This is the network that every row starts from. timm initialises the last BatchNorm weight of every residual block
    to zero, so that each residual branch starts as exactly zero: what the stages of this row see is the stem and the
    shortcuts, with their 1 x 1 convolutions, and not what random residual branches would make of it. Even so it is well
    above chance.
    """

    name = "random"
    role = TaskRole.UNTRAINED


class Pixels(PretextTask):
    """The pixels themselves, at most 32 x 32 of them; larger images are averaged over areas."""

    name = "pixels"
    role = TaskRole.FEATURES

    @classmethod
    def build_backbone(cls, make: Callable[..., nn.Module], options: Any) -> nn.Module:
        """No network: pixels, flattened."""
        return PixelFeatures(int(make().image_size))  # type: ignore[arg-type]

    def describe(self) -> Mapping[str, Any]:
        """The number of features."""
        return {"features": self.backbone.num_features}


class PCA(PretextTask):
    """Scores on the principal components of the pixels (Pearson, 1901): the best linear code of their number.

    Fitted to pretraining images alone, pixels as in ``pixels``.
    """

    name = "pca"
    role = TaskRole.FEATURES

    class Options(TaskOptions):
        """Options of ``pca``."""

        #: principal components kept; fewer where images or pixels are fewer
        components: int = Field(default=256, ge=1, le=MOST_WIDE)
        whiten: bool = False  #: divide every score by its deviation
        #: pretraining images to fit on, at most (fewer of large ones)
        fit_images: int = Field(default=10_000, ge=2, le=10_000_000)

    def __init__(self, backbone: nn.Module, options: Options, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        images = setup.sample(max(2, min(options.fit_images, SAMPLE_NUMBERS // (3 * setup.image_size**2))))
        pixels = self.backbone(images)
        count = min(options.components, len(pixels) - 1, pixels.shape[1])
        self.backbone = PrincipalComponents(self.backbone, pixels, count, options.whiten)

    @classmethod
    def build_backbone(cls, make: Callable[..., nn.Module], options: Any) -> nn.Module:
        """The pixels that components are taken of."""
        return PixelFeatures(int(make().image_size))  # type: ignore[arg-type]

    def describe(self) -> Mapping[str, Any]:
        """The number of components and the share of the pixels' variance that they hold."""
        return {"components": self.backbone.num_features, "variance_explained": self.backbone.variance_explained}


class PixelFeatures(nn.Module):
    """RGB [B, 3, S, S] in [0, 1] to pixels [B, 3 s s], s at most 32, by averaging areas. Nothing to train, no stages.

    Where S is no multiple of s, neighbouring areas share pixels.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.side = min(image_size, PIXEL_SIDE)
        self.num_features = 3 * self.side * self.side

    def forward(self, images: Tensor) -> Tensor:
        """Flattened pixels [B, num_features]."""
        if images.shape[2:] != (self.side, self.side):
            images = F.adaptive_avg_pool2d(images, self.side)
        return images.flatten(1)

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """None: all there is are the features."""
        return {}


class PrincipalComponents(nn.Module):
    """RGB [B, 3, S, S] in [0, 1] to scores [B, K], the largest variance first.

    Parameters
    ----------
    pixels : module that flattens images.
    examples : [N, D], what it gave for the images to fit on.
    components : K, at most N - 1 and D.
    whiten : divide scores by their deviation.

    Raises
    ------
    DataError : examples that are all the same.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor

    def __init__(self, pixels: nn.Module, examples: Tensor, components: int, whiten: bool) -> None:
        super().__init__()
        self.pixels, self.num_features = pixels, components
        mean = examples.double().mean(0).float()
        centred = examples - mean
        total = float(centred.double().square().sum()) / (len(centred) - 1)
        if total == 0:
            raise DataError("pca: all pretraining images looked at are the same, so they have no principal components")
        variances, axes = _principal_axes(centred, components)
        # The sign of a component is arbitrary; its largest entry is made positive, so that every library gives the
        # same.
        axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
        deviation = variances.clamp_min(0).sqrt()
        self.variance_explained = round(float(variances.sum()) / total, 6)
        # Where no variance is left, an axis is made of rounding errors, and whitening would divide by them: its scores
        # are zero.
        real = deviation > NO_VARIANCE * deviation.max()
        self.register_buffer("mean", mean)
        self.register_buffer("components", axes * real[:, None])
        scale = torch.where(real, deviation, 1.0) if whiten else torch.ones(components)
        self.register_buffer("scale", scale)

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, K]."""
        return (self.pixels(images) - self.mean) @ self.components.T / self.scale

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """None: all there is are the scores."""
        return {}


def _principal_axes(centred: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Variances [count] and axes [count, D] of centred [N, D]: not randomised, from the smaller of covariance and Gram
    matrix.

    Float32 halves the seconds; on 8,000 CIFAR-10 images the 256th variance is within 1e-4 of float64's.
    """
    from scipy.linalg import eigh

    number, width = centred.shape
    gram = number < width
    matrix = (centred @ centred.T if gram else centred.T @ centred).numpy()
    side = len(matrix)
    values, vectors = eigh(matrix, subset_by_index=[side - count, side - 1])
    axes = torch.from_numpy(vectors.copy()).flip(1).T
    if gram:
        axes = F.normalize(axes @ centred, dim=1)
    return torch.from_numpy(values.copy()).flip(0) / (number - 1), axes
