"""Augmentation policies: named operations with settings, one after another, as a matrix writes them and contrastive
tasks share them.

In a matrix::

    - simclr:
        augment: [{crop: {scale: [0.2, 1]}}, {jitter: {strength: 0.5}}, grayscale, blur]
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from ssl_bench.errors import quoted
from ssl_bench.spec.model import Model
from ssl_bench.transforms.blur import gaussian_blur
from ssl_bench.transforms.colour import color_jitter, random_grayscale
from ssl_bench.transforms.geometry import random_flip, random_resized_crop

Probability = Annotated[float, Field(ge=0, le=1)]


class Crop(Model):
    """A random box, resized (Szegedy et al., 2015), and mirrored on the way."""

    scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.08, 1.0)  #: of the area
    #: width by height
    ratio: tuple[Annotated[float, Field(gt=0, le=10)], Annotated[float, Field(gt=0, le=10)]] = (3 / 4, 4 / 3)
    size: int | None = Field(default=None, ge=1, le=4_096)  #: side of the view, in pixels; None: the image's own
    flip: Probability = 0.5  #: probability of mirroring left to right
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __call__(self, images: Tensor) -> Tensor:
        return random_resized_crop(images, self.size, self.scale, self.ratio, self.flip, self.interpolation)


class Flip(Model):
    """Mirroring left to right."""

    p: Probability = 0.5

    def __call__(self, images: Tensor) -> Tensor:
        return random_flip(images, self.p)


class Jitter(Model):
    """Brightness, contrast, saturation and hue in an order of their own for each image (SimCLR: 0.8, 0.8, 0.8 and 0.2
    times the strength)."""

    strength: float = Field(default=1.0, ge=0, le=2.5)
    brightness: float = Field(default=0.8, ge=0, le=10)
    contrast: float = Field(default=0.8, ge=0, le=10)
    saturation: float = Field(default=0.8, ge=0, le=10)
    hue: float = Field(default=0.2, ge=0, le=0.5)  #: turns of the colour circle
    p: Probability = 0.8

    @model_validator(mode="after")
    def _hue_turns_once(self) -> Jitter:
        if self.hue * self.strength > 0.5:
            raise ValueError(f"hue x strength must be at most 0.5 turns (got {self.hue * self.strength:g})")
        return self

    def __call__(self, images: Tensor) -> Tensor:
        s = self.strength
        return color_jitter(images, self.brightness * s, self.contrast * s, self.saturation * s, self.hue * s, p=self.p)


class Grayscale(Model):
    """Without colour."""

    p: Probability = 0.2

    def __call__(self, images: Tensor) -> Tensor:
        return random_grayscale(images, self.p)


class Blur(Model):
    """Gaussian blur with a kernel of a tenth of the side (SimCLR)."""

    sigma: tuple[Annotated[float, Field(gt=0, le=100)], Annotated[float, Field(gt=0, le=100)]] = (0.1, 2.0)  #: pixels
    p: Probability = 0.5

    def __call__(self, images: Tensor) -> Tensor:
        return gaussian_blur(images, self.sigma, self.p)


class Operation(Model):
    """One operation of a policy: its name, or ``{name: {setting: value}}``."""

    short_form: ClassVar[str] = "the name of an operation"
    many: ClassVar[str] = "operations, each a name or {operation: {setting: value}}"

    crop: Crop | None = None
    flip: Flip | None = None
    jitter: Jitter | None = None
    grayscale: Grayscale | None = None
    blur: Blur | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {value: {}}
        return (
            {name: {} if inner is None and len(value) == 1 else inner for name, inner in value.items()}
            if isinstance(value, dict)
            else value
        )

    @model_validator(mode="after")
    def _one(self) -> Operation:
        if sum(part is not None for _, part in self) != 1:
            given = [name for name, part in self if part is not None]
            raise ValueError(
                f"names {len(given)} operations at once ({quoted(given)}); begin each with a dash of its own"
            )
        return self

    def __call__(self, images: Tensor) -> Tensor:
        (operation,) = (part for _, part in self if part is not None)
        result: Tensor = operation(images)
        return result


Policy = Annotated[tuple[Operation, ...], Field(min_length=1, max_length=20)]


def augmented(images: Tensor, policy: tuple[Operation, ...]) -> Tensor:
    """Every operation in turn, drawn per image.

    Parameters
    ----------
    images : float [B, 3, H, W] in [0, 1].
    policy : operations in order.

    Returns
    -------
    float [B, 3, S, S] in [0, 1]; S is the images' own unless a crop has a size.
    """
    for operation in policy:
        images = operation(images)
    return images


def contrastive_policy(
    strength: float,
    grayscale: float = 0.2,
    blur: bool = False,
    min_scale: float = 0.08,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> tuple[Operation, ...]:
    """SimCLR's crop and flip, colour distortion, grey, and blur (Chen et al., 2020, appendix A)."""
    return (
        Operation(crop=Crop(scale=(min_scale, 1.0), interpolation=interpolation)),
        Operation(jitter=Jitter(strength=strength)),
        Operation(grayscale=Grayscale(p=grayscale)),
        *((Operation(blur=Blur()),) if blur else ()),
    )
