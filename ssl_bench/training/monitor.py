"""Looks at a network while it is trained, whose numbers are recorded and decide nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Monitor:
    """Looks at a network while it is trained. It may neither change it nor draw from the global random states."""

    look: Callable[[nn.Module], Mapping[str, float]]  #: numbers by the names of their curves
    times: int  #: a run, evenly spread, the last one at its end

    def after(self, steps: int) -> set[int]:
        """The numbers of steps after which it looks."""
        return {max(1, round((number + 1) * steps / self.times)) for number in range(self.times)}
