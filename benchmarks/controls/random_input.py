"""A control: an untrained network that is given images as some tasks give them to theirs, in lightness alone or standardised one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from ssl_bench import TaskOptions
from ssl_bench.tasks.baselines import RandomInit


class RandomInputOptions(TaskOptions):
    """Options of ``random_input``."""

    #: as ``colorization`` sees images; as ``relative_position`` and ``exemplar`` do
    input: Literal["lightness", "standardised"]


class RandomInput(RandomInit):
    """What ``random`` is to rows that see colour, to rows that see images as ``input`` says."""

    name = "random_input"
    Options = RandomInputOptions

    @classmethod
    def build_backbone(cls, make: Callable[..., nn.Module], options: RandomInputOptions) -> nn.Module:
        """The matrix's backbone on that input."""
        return make(input=options.input)
