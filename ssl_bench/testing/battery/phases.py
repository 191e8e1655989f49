"""Checks of a task with several phases, and of what it does around an optimiser's step."""

from __future__ import annotations

import torch

from ssl_bench.errors import TrainingError
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import PretextTask
from ssl_bench.testing.battery.bench import STEPS, Bench, CheckFailed
from ssl_bench.training.phases import call_in_phase, phases_of_step

THROUGH_A_RUN = (0.0, 0.5, 1.0)  #: shares of a run that is done


def phases(bench: Bench) -> str:
    """Every phase has a recipe, gets its steps, and trains what it holds."""
    task = bench.build()
    if len(task.phases) == 1 and type(task).phases_at is PretextTask.phases_at:
        return "one phase, in every step"
    recipes = bench.recipes()
    for phase, recipe in recipes.items():
        if not isinstance(recipe, Recipe):
            raise CheckFailed(f"phase_recipe gave a {type(recipe).__name__} for {phase!r}, and it must give a Recipe")
        if recipe.batch_size != bench.recipe().batch_size:
            raise CheckFailed(
                f"phase_recipe changes batch_size of {phase!r}; phases share a batch: set it in short_recipe and "
                "paper_recipe"
            )
    taken = _steps(bench, task)
    if taken != _steps(bench, bench.build()):
        raise CheckFailed(
            "phases_at gives other phases when it is asked again, and an interrupted run would go on elsewhere; "
            "let it depend on step, steps and options alone"
        )
    for number, phase in enumerate(task.phases):
        if not taken.count(phase):
            raise CheckFailed(f"phases_at never gives {phase!r} in a run of {STEPS} steps; remove it from phases")
        task.zero_grad(set_to_none=True)
        bench.losses_of_phase(task, bench.batch(), 1, number)["loss"].backward()
        if all(parameter.grad is None for _, parameter in task.phase_parameters(phase)):
            raise CheckFailed(
                f"the loss of phase {phase!r} reaches none of the parameters that its optimiser steps; "
                "compare phase_parameters with what forward uses in that phase"
            )
    return ", ".join(f"{phase} {taken.count(phase)} of {STEPS} steps" for phase in task.phases)


def _steps(bench: Bench, task: PretextTask) -> list[str]:
    with bench.calling("phases_at"):
        try:
            return [phase for step in range(STEPS) for phase in phases_of_step(task, step, STEPS)]
        except TrainingError as error:
            raise CheckFailed(str(error).removeprefix(f"{task.name}: ")) from None


def hooks(bench: Bench) -> str:
    """``before_step`` leaves finite gradients, and some of them at some time of a run, and lets the parameters be."""
    if bench.task.before_step is PretextTask.before_step:
        return "no before_step"
    task = bench.build()
    for number, phase in enumerate(task.phases):
        held, left = task.phase_parameters(phase), False
        for progress in THROUGH_A_RUN:
            task.progress = progress
            task.zero_grad(set_to_none=True)
            bench.losses_of_phase(task, bench.batch(), 1, number)["loss"].backward()
            before = [parameter.detach().clone() for _, parameter in held]
            with bench.calling("before_step"):
                call_in_phase(task, "before_step", phase)
            for (name, parameter), old in zip(held, before, strict=True):
                if not torch.equal(parameter, old):
                    raise CheckFailed(
                        f"before_step changes {name}; change gradients there, and parameters in after_step"
                    )
                if parameter.grad is not None and not parameter.grad.isfinite().all():
                    raise CheckFailed(f"before_step leaves a gradient of {name} that is not finite")
                left = left or (parameter.grad is not None and bool(parameter.grad.any()))
        if not left:
            raise CheckFailed(f"before_step removes every gradient of phase {phase!r}, at any time of a run")
    return f"before_step in {len(task.phases)} phase{'s' if len(task.phases) > 1 else ''}"
