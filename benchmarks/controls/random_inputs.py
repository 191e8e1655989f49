"""Controls: an untrained network that is given images as some tasks give them to theirs, in lightness alone or standardised one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ssl_bench import PretextTask


class RandomLightness(PretextTask):
    """What ``random`` is to a row that sees colour, to ``colorization``."""

    name = "random_lightness"
    trains = False
    untrained = True

    @classmethod
    def build_backbone(cls, make: Callable[..., nn.Module], options: Any) -> nn.Module:
        """One that sees lightness only, untrained."""
        return make(input="lightness")


class RandomStandardised(PretextTask):
    """The same for ``relative_position`` and ``exemplar``."""

    name = "random_standardised"
    trains = False
    untrained = True

    @classmethod
    def build_backbone(cls, make: Callable[..., nn.Module], options: Any) -> nn.Module:
        """One that standardises every image, untrained."""
        return make(input="standardised")
