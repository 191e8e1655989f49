"""What the tasks that rebuild an image from a code share: the code, the decoder, and what is told about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_bench.data.batches import Batch
from ssl_bench.errors import SpecError
from ssl_bench.spec.model import MOST_PAD, MOST_WIDE
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import PretextTask, Setup, TaskOptions
from ssl_bench.transforms.geometry import random_crop, random_flip

CHUNK = 256  # images decoded at a time outside training


class Reconstruction(PretextTask):
    """Base of the autoencoders: image -> trunk -> code -> decoder -> image, in pixels of mean 0 and deviation 1.

    The code is a linear map of the whole last feature map, not of the pooled features (which would test pooling), and
    it is all the decoder sees: no skip connection, no spatial bottleneck that could hold the image itself. Only crop
    and flip are applied.
    """

    #: numbers that the encoder gives for each of the code (mean and variance make two)
    outputs_per_code: ClassVar[int] = 1
    min_image_size = 8

    class Options(TaskOptions):
        """Options of every task that rebuilds images."""

        #: numbers in the code; None: by image size, 128 at 32 px
        code_size: int | None = Field(default=None, ge=1, le=MOST_WIDE)
        #: mirrored pixels on every side before cropping; None: an eighth of the side
        pad: int | None = Field(default=None, ge=0, le=MOST_PAD)

    def __init__(self, backbone: nn.Module, options: Options, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        size = setup.image_size
        self.image_numbers = 3 * size * size
        self.code_size = options.code_size or self.default_code_size(size)
        if self.code_size >= self.image_numbers:
            raise SpecError(
                f"{self.name}: code_size must be less than the {self.image_numbers:,} numbers of an image of {size} "
                "px, "
                f"got {self.code_size:,}: copying would solve the task"
            )
        channels, height, width = feature_map_shape(backbone, size)
        self.to_code = nn.Linear(channels * height * width, self.outputs_per_code * self.code_size)
        self.decoder = Decoder(self.code_size, size, int(self.backbone.num_features) // 2)

    @classmethod
    def default_code_size(cls, image_size: int) -> int:
        """Where the user names none: 128 up to 64 px, 256 up to 128 px, 512 above; never more than a quarter of the
        image."""
        size = 128 if image_size <= 64 else 256 if image_size <= 128 else 512
        return min(size, 3 * image_size * image_size // 4)

    @classmethod
    def paper_recipe(cls, options: Any, image_size: int) -> Recipe:
        """Adam at 1e-3 without weight decay, cosine (suite choice)."""
        return Recipe(optimizer="adamw", learning_rate=1e-3, weight_decay=0.0, batch_size=256, warmup=0.0)

    def crop_and_flip(self, images: Tensor) -> Tensor:
        """Windows of the mirrored-out images; black borders would be something to rebuild."""
        pad = self.setup.image_size // 8 if self.options.pad is None else self.options.pad
        return random_flip(random_crop(images, pad, mode="reflect"))

    def encode(self, images: Tensor) -> Tensor:
        """RGB [B, 3, S, S] in [0, 1] to [B, outputs_per_code * code_size]."""
        return self.to_code(self.backbone.feature_map(images).flatten(1)).float()

    def reconstruct(self, images: Tensor) -> Tensor:
        """RGB to what the decoder makes of its code, standardised pixels [B, 3, S, S]."""
        return self.decoder(self.encode(images)).float()

    def decode(self, code: Tensor) -> Tensor:
        """A code [B, code_size] to the image that it stands for."""
        return to_pixels(self.backbone, self.decoder(code).float())

    def describe(self) -> Mapping[str, Any]:
        """The size of the code beside that of an image."""
        return {
            "code": f"{self.code_size:,} numbers for an image of {self.image_numbers:,}",
            "code_size": self.code_size,
        }

    @torch.no_grad()
    def diagnose(self, images: Tensor) -> Mapping[str, float]:
        """Reconstruction error on images never trained on, as ``reconstruction_error``."""
        return reconstruction_error(
            self.backbone, images, torch.cat([self.reconstruct(chunk) for chunk in images.split(CHUNK)])
        )

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """Images and what is rebuilt from their codes."""
        return {
            "sees: images; is asked: to rebuild each from a few numbers": batch.images,
            "answers: rebuilt from its code": to_pixels(self.backbone, self.reconstruct(batch.images)),
        }


class Decoder(nn.Module):
    """Code [B, D] to standardised pixels [B, 3, S, S].

    A linear map to a small grid, then transposed convolutions of kernel 4 and stride 2 (a kernel that is a multiple of
    the stride leaves no checkerboard), halving the channels. No BatchNorm after the last, which would tie the colours
    of a batch together; no squashing either, as standardised pixels have no bounds. A side that is not a power of two
    times 4..7 is cut from the centre.

    Parameters
    ----------
    code_size : D.
    image_size : S.
    channels : of the first grid; half of the trunk's last layer keeps the decoder cheaper than the trunk.
    """

    def __init__(self, code_size: int, image_size: int, channels: int) -> None:
        super().__init__()
        doublings = max(1, (image_size // 4).bit_length() - 1)
        grid = -(-image_size // 2**doublings)
        self.image_size, self.margin = image_size, (grid * 2**doublings - image_size) // 2
        widths = [max(channels >> step, 8) for step in range(doublings)]
        self.start = nn.Sequential(
            nn.Linear(code_size, widths[0] * grid * grid),
            nn.Unflatten(1, (widths[0], grid, grid)),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        self.grow = nn.Sequential(*(upsampling(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)))
        self.last = nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1)

    def forward(self, code: Tensor) -> Tensor:
        """[B, D] to [B, 3, S, S]."""
        # Channels-last from the first grid on: the transposed convolutions would otherwise move every activation back
        # and forth.
        x = self.last(self.grow(self.start(code).contiguous(memory_format=torch.channels_last)))
        inside = slice(self.margin, self.margin + self.image_size)
        return x[:, :, inside, inside]


def upsampling(inputs: int, outputs: int) -> nn.Sequential:
    """[B, inputs, H, W] to [B, outputs, 2H, 2W]: transposed convolution, BatchNorm, ReLU."""
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def feature_map_shape(backbone: nn.Module, image_size: int) -> tuple[int, int, int]:
    """Channels, height and width of the last feature map, shape by asking the backbone (in eval mode: no statistic
    moves)."""
    training = backbone.training
    parameter = next(backbone.parameters())
    with torch.no_grad():
        shape = (
            cast(Any, backbone.eval())
            .feature_map(torch.zeros(1, 3, image_size, image_size, device=parameter.device))
            .shape
        )
    backbone.train(training)
    return int(shape[1]), int(shape[2]), int(shape[3])


def to_pixels(backbone: Any, standardised: Tensor) -> Tensor:
    """Standardised pixels back to RGB in [0, 1], clipped for the eye."""
    return (standardised * backbone.std + backbone.mean).clamp(0, 1)


def reconstruction_error(backbone: Any, images: Tensor, rebuilt: Tensor) -> dict[str, float]:
    """``mse``: mean squared error of pixels in [0, 1]; ``variance_explained``: share of the variance around the mean
    colour rebuilt."""
    asked = backbone.prepare(images)  # of a backbone that sees lightness only, that
    error = (((asked - rebuilt) * backbone.std) ** 2).mean()
    spread = ((asked - asked.mean((0, 2, 3), keepdim=True)) * backbone.std).square().mean()
    return {"mse": float(error), "variance_explained": float(1 - error / spread.clamp_min(1e-12))}
