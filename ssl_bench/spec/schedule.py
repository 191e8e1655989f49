"""A value that changes over a run: what a user writes for a momentum or a temperature, and what it is at a moment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ssl_bench.spec.model import Model


class Schedule(Model):
    """A value that goes from ``start`` to ``end`` while a run goes from 0 to 1. A bare number stays as it is.

    As a task's option: ``momentum: Schedule = Schedule(start=0.996, end=1.0)``. In a matrix: ``momentum: 0.99`` or
    ``momentum: {start: 0.99, end: 1.0, curve: linear}``. In the task: ``self.options.momentum.at(self.progress)``.
    """

    short_form: ClassVar[str] = "a number, which stays as it is"

    start: float = Field(ge=-1e9, le=1e9)
    end: float = Field(ge=-1e9, le=1e9)
    curve: Literal["cosine", "linear"] = "cosine"  #: half a cosine, flat at both ends, or a straight line
    until: float = Field(default=1.0, gt=0, le=1)  #: share of the run after which the value stays at ``end``

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return {"start": value, "end": value}
        return value

    def at(self, progress: float) -> float:
        """The value at a share of the run, 0 to 1, as ``task.progress`` is."""
        return between(self.start, self.end, min(1.0, progress / self.until), self.curve)


def between(start: float, end: float, share: float, curve: str = "cosine") -> float:
    """From ``start`` (share 0) to ``end`` (share 1), along half a cosine or a line."""
    if start == end:
        return start
    weight = (1 - math.cos(math.pi * share)) / 2 if curve == "cosine" else share
    return start + (end - start) * weight


def cut_schedule_words(pretrain: Mapping[str, Any]) -> str:
    """What a matrix's ``pretrain``, as plain data, says of a schedule that is cut short; "" where none is.

    >>> cut_schedule_words({"epochs": 1.0, "schedule_epochs": 200.0})
    'schedule of 200 epochs, cut after 1'
    """
    whole = pretrain.get("schedule_epochs")
    if whole is None or whole == pretrain.get("epochs"):
        return ""
    unit = next(name for name in ("epochs", "images", "passes") if pretrain.get(name) is not None)
    cut = f"{pretrain[unit]:g}" if unit == "epochs" else f"{pretrain[unit]:,} {unit}"
    return f"schedule of {whole:g} epochs, cut after {cut}"
