"""How a task is optimised, as a user writes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ssl_bench.errors import SpecError
from ssl_bench.spec.model import MOST_BATCH, Model, Rate, Share, idle, parse

#: settings of a recipe that not every recipe uses -> the setting that decides, and its values with which they count
_USED_BY = {
    "momentum": ("optimizer", ("sgd", "lars")),
    "nesterov": ("optimizer", ("sgd", "lars")),
    "betas": ("optimizer", ("adamw",)),
    "trust_coefficient": ("optimizer", ("lars",)),
    "milestones": ("schedule", ("steps",)),
    "gamma": ("schedule", ("steps",)),
}


class Recipe(Model):
    """How one task is optimised. ``learning_rate`` is the peak value as applied, not scaled by anything later."""

    LATER: ClassVar[frozenset[str]] = frozenset({"weight_decay_end"})

    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    learning_rate: Rate = 1e-3
    weight_decay: float = Field(default=0.01, ge=0, le=1_000)  #: never on biases and norms
    batch_size: int = Field(default=256, ge=1, le=MOST_BATCH)  #: images a step (a task may make several views of each)
    warmup: float = Field(default=0.1, ge=0, lt=1)  #: share of the steps over which the learning rate rises linearly
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    #: for "steps": shares of the run after which the rate is multiplied by gamma
    milestones: tuple[Share, ...] = Field(default=(), max_length=100)
    gamma: float = Field(default=0.1, gt=0, le=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)  #: sgd and lars
    nesterov: bool = False  #: sgd and lars
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)  #: adamw
    trust_coefficient: float = Field(default=0.001, gt=0, le=1_000)  #: lars
    clip_norm: float | None = Field(default=None, gt=0, le=1e9)  #: gradient norm
    #: reached at the end of the run, along half a cosine; None: weight_decay stays as it is
    weight_decay_end: float | None = Field(default=None, ge=0, le=1_000)

    @model_validator(mode="after")
    def _lars_decays(self) -> Recipe:
        if self.optimizer == "lars" and 0 in (self.weight_decay, self.weight_decay_end):
            raise ValueError(
                "lars adapts only weights that decay, so weight_decay = 0 would make it plain SGD; give it a "
                "small value such as 1e-6"
            )
        return self

    @model_validator(mode="after")
    def _all_count(self) -> Recipe:
        if self.schedule == "steps" and not self.milestones:
            raise ValueError(
                "schedule: steps without milestones leaves the rate as it is; give milestones such as [0.6, 0.8], "
                "or schedule: constant"
            )
        # else a whole recipe, of which some of these were not asked for
        if not self.model_fields_set >= set(type(self).model_fields) - self.LATER:
            self._refuse_idle(self.model_fields_set)
        return self

    def _refuse_idle(self, written: Collection[str]) -> None:
        for name, (key, values) in _USED_BY.items():
            if name in written and getattr(self, key) not in values:
                raise idle(name, self, f"{key}: {' and '.join(values)}, and {key} is {getattr(self, key)} here")

    def overridden(self, written: Mapping[str, Any], where: str) -> Recipe:
        """This recipe with the settings that a user wrote. Raises SpecError for a wrong one, and for one that has no
        effect."""
        recipe = parse(Recipe, {**self.model_dump(), **written}, where)
        try:
            recipe._refuse_idle(written.keys())
        except ValueError as error:
            raise SpecError(f"{where}: {error}") from None
        return recipe

    def identity(self) -> dict[str, Any]:
        """Plain data for a cell's id."""
        return self.model_dump(mode="json")
