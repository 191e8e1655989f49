"""The phases of a task under way: which are stepped when, with which recipe, and how far each has come."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

import torch

from ssl_bench.errors import TrainingError
from ssl_bench.spec.recipe import Recipe
from ssl_bench.training.optimizers import build_optimizer, learning_rate_at, weight_decay_at
from ssl_bench.training.trainable import Trainable


def call_in_phase(task: Trainable, method: str, phase: str, *values: Any) -> Any:
    """``task.method(*values, phase=phase)``, or without the phase where there is one only or the method has no
    parameter ``phase``."""
    if len(task.phases) > 1 and takes_phase(getattr(type(task), method)):
        return getattr(task, method)(*values, phase=phase)
    return getattr(task, method)(*values)


def forward_in_phase(task: Trainable, views: Any, phase: str) -> dict[str, torch.Tensor]:
    """``task(views)`` of a task with one phase, ``task(views, phase)`` of one with several."""
    losses: dict[str, torch.Tensor] = task(views) if len(task.phases) == 1 else task(views, phase)
    return losses


@lru_cache(maxsize=256)
def takes_phase(function: Any) -> bool:
    """Whether a function has a parameter ``phase``."""
    try:
        return "phase" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # code whose signature cannot be read
        return False


def phases_of_step(task: Trainable, step: int, steps: int) -> tuple[str, ...]:
    """The phases of one step of the loop.

    Raises TrainingError where the task names none, or one that it does not have.
    """
    phases = tuple(task.phases_at(step, steps))
    if not phases or not set(phases) <= set(task.phases):
        unknown = [phase for phase in phases if phase not in task.phases]
        what = f"the unknown phase {unknown[0]!r}" if unknown else "no phase"
        raise TrainingError(
            f"{task.name}: phases_at({step}, {steps}) gives {what}; return some of {', '.join(task.phases)}"
        )
    return phases


def steps_of_phases(task: Trainable, start: int, end: int, steps: int) -> Counter[str]:
    """How many optimiser steps each phase takes in the loop's steps ``start`` to ``end`` (without the last) of a run of
    ``steps``."""
    return Counter(chain.from_iterable(map(task.phases_at, range(start, end), repeat(steps))))


class Phases:
    """The optimisers of a run, one a phase, and the rates of every step.

    Parameters
    ----------
    task : has ``phases``, ``phases_at`` and ``phase_parameters``.
    recipe : of all phases, or one for each by name.
    steps : of the loop; where its schedules are cut short, of the whole run that they are of.
    """

    def __init__(self, task: Trainable, recipe: Recipe | Mapping[str, Recipe], steps: int) -> None:
        self.task, self.steps = task, steps
        self.recipes = dict.fromkeys(task.phases, recipe) if isinstance(recipe, Recipe) else dict(recipe)
        self.totals = steps_of_phases(task, 0, steps, steps)
        self.taken: Counter[str] = Counter()
        self.optimizers: dict[str, Any] = {
            phase: build_optimizer(task.phase_parameters(phase), self.recipes[phase]) for phase in task.phases
        }

    def begin_at(self, step: int) -> None:
        """Go on from a step of the loop: the rates of a phase follow its own steps."""
        self.taken = steps_of_phases(self.task, 0, step, self.steps)

    def at(self, step: int) -> tuple[str, ...]:
        """The phases of one step of the loop, in order."""
        return phases_of_step(self.task, step, self.steps)

    def next_step_of(self, phase: str) -> Any:
        """The optimiser of a phase, its learning rate and weight decay set for its next step."""
        recipe, optimizer = self.recipes[phase], self.optimizers[phase]
        step, steps = self.taken[phase], self.totals[phase]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(recipe, step, steps)
            if group["decays"] and recipe.weight_decay_end is not None:
                group["weight_decay"] = weight_decay_at(recipe, step, steps)
        self.taken[phase] += 1
        return optimizer
