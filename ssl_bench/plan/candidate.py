"""One full setting of a row: options, recipe, how long it is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ssl_bench.backbones.weights import Weights
from ssl_bench.errors import SpecError
from ssl_bench.spec.recipe import Recipe


@dataclass(frozen=True)
class Candidate:
    """One full setting of a row."""

    options: Any
    recipe: Recipe
    steps: int
    chosen: Mapping[str, Any]  #: the value of every option that was written as a choice
    init: Weights | None = None  #: what the network starts from
    recipes: Mapping[str, Recipe] = field(
        default_factory=dict
    )  #: of each phase; without any written, the row's for "main"
    #: of the run whose schedules are followed and cut after ``steps``; None: they end with them
    schedule_steps: int | None = None

    def __post_init__(self) -> None:
        if not self.recipes:
            object.__setattr__(self, "recipes", {"main": self.recipe})

    @property
    def whole_steps(self) -> int:
        """Of the run that the schedules are of."""
        return self.schedule_steps or self.steps

    def cut(self, where: str) -> Candidate:
        """The same, without a schedule of its own where that ends with the steps. Raises SpecError where it ends
        before."""
        if self.schedule_steps is not None and self.schedule_steps < self.steps:
            raise SpecError(
                f"{where}: pretrain.schedule_epochs gives a schedule of {self.schedule_steps:,} steps, and "
                f"{self.steps:,} are trained; it must be at least as long"
            )
        return replace(self, schedule_steps=None) if self.schedule_steps == self.steps else self

    @property
    def settings(self) -> str:
        """What was chosen from, in words that tell candidates of a row apart: "temperature=0.2"."""
        return ", ".join(f"{name}={json.dumps(value, default=str)}" for name, value in self.chosen.items())
