"""Augmentation policies: named operations with settings, one after another, as a matrix writes them and contrastive
tasks share them.

In a matrix::

    - simclr:
        augment: [{crop: {scale: [0.2, 1]}}, {jitter: {strength: 0.5}}, grayscale, blur]

A plugin adds an operation by a class derived from ``Augmentation``.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, cast, get_args

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType
from torch import Tensor

from ssl_bench.errors import TrainingError, did_you_mean, quoted
from ssl_bench.plugins.registry import OPERATIONS
from ssl_bench.spec.model import Model
from ssl_bench.transforms.blur import gaussian_blur
from ssl_bench.transforms.colour import color_jitter, random_grayscale
from ssl_bench.transforms.geometry import random_flip, random_resized_crop

Probability = Annotated[float, Field(ge=0, le=1)]
_KNOWN_ERRORS = set(get_args(ErrorType))


class Augmentation(Model):
    """Base of every operation of a policy: its fields are its settings, each with a default.

    A subclass sets ``name``, as policies write it, and writes ``__call__``. In a plugin file it is registered as tasks
    are (or by the entry-point group "ssl_bench.operations"), and its code enters the ids of rows that use it.
    """

    name: ClassVar[str]

    def __call__(self, images: Tensor) -> Tensor:
        """Float [B, 3, H, W] in [0, 1] to the same, drawn for each image anew by torch's random functions."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, images)")


class Crop(Augmentation):
    """A random box, resized (Szegedy et al., 2015), and mirrored on the way."""

    name = "crop"

    scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.08, 1.0)  #: of the area
    #: width by height
    ratio: tuple[Annotated[float, Field(gt=0, le=10)], Annotated[float, Field(gt=0, le=10)]] = (3 / 4, 4 / 3)
    size: int | None = Field(default=None, ge=1, le=4_096)  #: side of the view, in pixels; None: the image's own
    flip: Probability = 0.5  #: probability of mirroring left to right
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __call__(self, images: Tensor) -> Tensor:
        return random_resized_crop(images, self.size, self.scale, self.ratio, self.flip, self.interpolation)


class Flip(Augmentation):
    """Mirroring left to right."""

    name = "flip"

    p: Probability = 0.5

    def __call__(self, images: Tensor) -> Tensor:
        return random_flip(images, self.p)


class Jitter(Augmentation):
    """Brightness, contrast, saturation and hue in an order of their own for each image (SimCLR: 0.8, 0.8, 0.8 and 0.2
    times the strength)."""

    name = "jitter"

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


class Grayscale(Augmentation):
    """Without colour."""

    name = "grayscale"

    p: Probability = 0.2

    def __call__(self, images: Tensor) -> Tensor:
        return random_grayscale(images, self.p)


class Blur(Augmentation):
    """Gaussian blur with a kernel of a tenth of the side (SimCLR)."""

    name = "blur"

    sigma: tuple[Annotated[float, Field(gt=0, le=100)], Annotated[float, Field(gt=0, le=100)]] = (0.1, 2.0)  #: pixels
    p: Probability = 0.5

    def __call__(self, images: Tensor) -> Tensor:
        return gaussian_blur(images, self.sigma, self.p)


class Operation(Model):
    """One operation of a policy: its name, or ``{name: {setting: value}}``.
    Those of plugins stand beside the fields."""

    model_config = ConfigDict(extra="allow")  # only what is registered, see ``_from_name``
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
        if not isinstance(value, dict):
            return value
        settings = {name: {} if inner is None and len(value) == 1 else inner for name, inner in value.items()}
        return {
            name: inner if name in cls.model_fields or inner is None else _of_a_plugin(name, inner)
            for name, inner in settings.items()
        }

    @classmethod
    def more_fields(cls) -> dict[str, FieldInfo]:
        """The operations that plugins add, as fields, for messages."""
        return {
            name: FieldInfo(annotation=cast(Any, OPERATIONS.get(name) | None))
            for name in OPERATIONS.names()
            if not OPERATIONS.is_builtin(name)
        }

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
        if not OPERATIONS.is_builtin(operation.name):
            _refuse_other_shape(operation.name, images, result)
        return result


def _of_a_plugin(name: Any, settings: Any) -> Augmentation:
    """The operation that a plugin calls so. Raises ValueError for a name that is not known, ValidationError for
    settings that are wrong, which say where they stand."""
    if name not in OPERATIONS:
        known = OPERATIONS.names()
        near = did_you_mean(name, known)
        raise ValueError(
            f"unknown operation {quoted(name)}; {near + ' ' if near.endswith('?') else ''}allowed are "
            f"{', '.join(known)}, and those of plugins that are given (--plugin FILE)"
        )
    operation = OPERATIONS.get(name)
    try:
        return operation.model_validate(settings)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise ValidationError.from_exception_data(
            operation.__name__, [_problem_of_operation(name, problem) for problem in error.errors(include_url=False)]
        ) from None


def _problem_of_operation(name: str, problem: Any) -> InitErrorDetails:
    """A problem with an operation's settings as one of the policy's."""
    kind, context = problem["type"], problem.get("ctx", {})
    what = kind if kind in _KNOWN_ERRORS else PydanticCustomError(kind, problem["msg"], context)
    return InitErrorDetails(type=what, loc=(name, *problem["loc"]), input=problem["input"], ctx=context)


def _refuse_other_shape(name: str, images: Tensor, result: Any) -> None:
    """Raise TrainingError for what the next operation could not take."""
    fits = isinstance(result, Tensor) and result.ndim == 4 and result.shape[:2] == images.shape[:2]
    if not fits or result.dtype != images.dtype:
        given = f"{result.dtype} {list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise TrainingError(
            f"the operation {name!r} gave {given} of images {images.dtype} {list(images.shape)}; return images of the "
            "same number, channels and type"
        )


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
