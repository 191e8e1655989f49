"""How RGB becomes the input of a network: kinds of input by name, which tasks may add to, and their numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from ssl_bench.errors import SpecError, did_you_mean
from ssl_bench.spec.model import MOST_SIDE, Model

MOST_CHANNELS = 64
_Mean = Annotated[float, Field(ge=-1_000, le=1_000)]
_Spread = Annotated[float, Field(gt=0, le=1_000)]


@dataclass(frozen=True)
class InputKind:
    """What a network sees of an image.

    Attributes
    ----------
    convert : RGB float [B, 3, H, W] in [0, 1] to float [B, channels, H, W].
    channels : of the network's first layer.
    scaled : whether the mean is then taken off and the deviation divided by, both measured on the pretraining images.
    measure : RGB to what mean and deviation are measured on, float [B, C, H, W]; one channel stands for all. None:
        ``convert``.
    """

    name: str
    convert: Callable[[Tensor], Tensor]
    channels: int = 3
    scaled: bool = True
    measure: Callable[[Tensor], Tensor] | None = None


def _lightness(images: Tensor) -> Tensor:
    from ssl_bench.transforms.lab import lightness

    return lightness(images).expand(-1, 3, -1, -1) / 100


def _one_lightness(images: Tensor) -> Tensor:
    from ssl_bench.transforms.lab import lightness

    return lightness(images).double() / 100


def _standardise(images: Tensor) -> Tensor:
    from ssl_bench.transforms.tiles import standardise

    return standardise(images)


#: by name, from what keeps most of an image to what keeps least; kinds of plugins come last
_KINDS = {
    kind.name: kind
    for kind in (
        InputKind("rgb", lambda images: images),
        InputKind("standardised", _standardise, scaled=False),
        InputKind("lightness", _lightness, measure=_one_lightness),
    )
}
_BUILT_IN = frozenset(_KINDS)


def input_kind(name: str, channels: int = 3, scaled: bool = True) -> Callable[[Callable[[Tensor], Tensor]], InputKind]:
    """Add a kind of input, as a decorator of the function that makes it; a task asks for it with ``make(input=name)``.

    The name is saved with the weights: whoever loads them needs the module that adds it (``--plugin FILE``).

    Parameters
    ----------
    name : as ``make(input=...)`` and records have it.
    channels : of what the function returns, 1 to 64.
    scaled : take off the mean and divide by the deviation over the pretraining images afterwards, channel by channel.

    Raises
    ------
    SpecError : a name that is taken by another file.

    >>> @input_kind("ab", channels=2)
    ... def ab(images: Tensor) -> Tensor:
    ...     return rgb_to_lab(images)[:, 1:] / 100
    """
    if not isinstance(channels, int) or not 1 <= channels <= MOST_CHANNELS:
        raise SpecError(f"input kind {name!r}: channels must be 1 to {MOST_CHANNELS} (got {channels!r})")

    def add(convert: Callable[[Tensor], Tensor]) -> InputKind:
        holder = _KINDS.get(name)
        if holder is not None and (name in _BUILT_IN or _file_of(holder.convert) != _file_of(convert)):
            raise SpecError(f"an input kind named {name!r} exists already; choose another name")
        _KINDS[name] = InputKind(name, convert, channels, scaled)
        return _KINDS[name]

    return add


def _file_of(function: Callable[..., object]) -> str:
    """Where a function is written: a file that is loaded twice under two names is one."""
    code = getattr(function, "__code__", None)
    return code.co_filename if code is not None else function.__module__


def kind_named(name: str) -> InputKind:
    """The kind of a name. Raises SpecError for one that no loaded module has added."""
    if name not in _KINDS:
        raise SpecError(
            f"unknown input kind {name!r}: {did_you_mean(name, _KINDS)}; one of a plugin is there once the plugin is "
            "loaded (--plugin FILE)"
        )
    return _KINDS[name]


def keeps_most(names: list[str]) -> str:
    """The kind that keeps most of an image."""
    return min(names, key=list(_KINDS).index)


class InputSpec(Model):
    """How RGB in [0, 1] becomes network input; saved with the weights, so that nobody downstream can get it wrong."""

    #: lightness: CIE L / 100, repeated three times; standardised: each image to mean 0 and deviation 1 over its
    #: channels and pixels; or a kind that a plugin adds
    kind: str = "rgb"
    #: one for every channel; where none are given, 0.5 and 0.25 of three channels, 0 and 1 of another number
    mean: tuple[_Mean, ...] = Field(default=(0.5, 0.5, 0.5), min_length=1, max_length=MOST_CHANNELS)
    std: tuple[_Spread, ...] = Field(default=(0.25, 0.25, 0.25), min_length=1, max_length=MOST_CHANNELS)
    #: side that images are resized to first (bicubic, antialiased), in pixels; None: as they are
    size: int | None = Field(default=None, ge=1, le=MOST_SIDE)

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return kind_named(value).name
        except SpecError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _one_a_channel(self) -> InputSpec:
        channels = self.channels
        for name, default in (("mean", 0.0), ("std", 1.0)):
            if len(getattr(self, name)) != channels:
                if name in self.model_fields_set:
                    raise ValueError(f"{name} must have {channels} values, one for every channel of {self.kind}")
                object.__setattr__(self, name, (default,) * channels)
        return self

    @property
    def channels(self) -> int:
        """Of the network's first layer."""
        return kind_named(self.kind).channels


def as_network_input(images: Tensor, kind: str, mean: Tensor, std: Tensor) -> Tensor:
    """RGB [B, 3, H, W] in [0, 1] to network input [B, C, H, W], channels-last;
    ``mean`` and ``std`` are [1, C, 1, 1]."""
    handling = kind_named(kind)
    converted = handling.convert(images)
    if handling.scaled:
        converted = (converted - mean) / std
    return converted.contiguous(memory_format=torch.channels_last)
