"""Checks of the loss of one batch and the gradients that it sends back."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from ssl_bench.spec.task_role import TaskRole
from ssl_bench.testing.battery.bench import Bench, CheckFailed, CheckWarning, seeded
from ssl_bench.testing.battery.phases import THROUGH_A_RUN

MOST_STEPS_LOOKED_AT = 24  #: while a parameter has had no gradient


def loss(bench: Bench) -> str:
    """``forward`` gives a dict of finite scalars with a "loss" that requires a gradient."""
    task = bench.build()
    said = []
    for phase, returned in zip(task.phases, bench.losses(task, bench.batch(), 1), strict=True):
        if not isinstance(returned, dict) or not isinstance(returned.get("loss"), Tensor):
            raise CheckFailed(
                f"forward must return a dict of tensors with the key 'loss', not {type(returned).__name__}; return "
                f"{{'loss': loss}}"
            )
        for name, value in returned.items():
            if not isinstance(value, Tensor) or value.ndim:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise CheckFailed(f"{name!r} must be a scalar tensor, not {shape}; take its mean")
            if not value.isfinite():
                raise CheckFailed(
                    f"{name!r} is {float(value.detach())} on the first batch; look for log(0), division by zero or "
                    "exp of a large number"
                )
        if not returned["loss"].requires_grad:
            raise CheckFailed(
                "the loss does not depend on any parameter; check for .detach() or torch.no_grad() in forward"
            )
        said.append(f"{phase}: " + ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in returned.items()))
    return "; ".join(said)


def gradients(bench: Bench) -> str:
    """Every trainable parameter gets a finite gradient, and those of the backbone one that is not zero everywhere.

    The last stages of the backbone may go without one: a task may ask an early stage, and what lies behind it then
    stays as it starts.
    """
    task = bench.build()
    with seeded(2), torch.no_grad():
        # residual branches start at zero, and pass no gradient before they leave it
        for parameter in task.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    trained = {id(parameter) for phase in task.phases for _, parameter in task.phase_parameters(phase)}
    stepped = [
        (name, parameter)
        for name, parameter in task.named_parameters()
        if parameter.requires_grad and id(parameter) in trained
    ]
    # a part may join later, a backbone wait for its head, and a head be drawn for a step
    for number in range(MOST_STEPS_LOOKED_AT):
        if number >= len(THROUGH_A_RUN) and all(parameter.grad is not None for _, parameter in stepped):
            break
        task.progress = THROUGH_A_RUN[number % len(THROUGH_A_RUN)]
        bench.total(task, bench.batch(), 1 + number).backward()
    behind = _behind_an_early_stage(stepped)
    for name, parameter in stepped:
        if parameter.grad is None:
            if name in behind:
                continue
            raise CheckFailed(f"no gradient reaches {name}; use it in forward, or freeze it with requires_grad_(False)")
        if not parameter.grad.isfinite().all():
            raise CheckFailed(f"the gradient of {name} is not finite; look for sqrt(0), a norm of zero or log(0)")
        if name.startswith("backbone.") and bench.task.role is not TaskRole.CONTROL and not parameter.grad.any():
            raise CheckFailed(
                f"the gradient of {name} is zero everywhere; look for .detach() or an operation without slope between "
                "it and the loss"
            )
    reached = sum(name.startswith("backbone.") and parameter.grad is not None for name, parameter in stepped)
    if behind:
        raise CheckWarning(
            f"the loss asks an early stage: no gradient reaches {behind[0]} and the {len(behind) - 1} parameters "
            "behind it. They stay as they start, so the "
            "pooled features, kNN and fine-tuning rest on untrained layers; the linear probe's best stage judges what "
            "was trained"
        )
    if not reached and bench.task.role is not TaskRole.CONTROL:
        return (
            "no optimiser holds a parameter of self.backbone; "
            "the check of training tells whether the task moves it all the same"
        )
    return f"{reached} backbone tensors"


def _behind_an_early_stage(stepped: list[tuple[str, nn.Parameter]]) -> list[str]:
    """The backbone's parameters without a gradient, where they are its last, from the beginning of a stage on, and
    others have one."""
    backbone = [(name, parameter) for name, parameter in stepped if name.startswith("backbone.")]
    first = next((number for number, (_, parameter) in enumerate(backbone) if parameter.grad is None), 0)
    rest = backbone[first:]
    if not first or any(parameter.grad is not None for _, parameter in rest):
        return []
    stage = [re.search(r"\.layer(\d+)\.", backbone[number][0]) for number in (first - 1, first)]
    begins = stage[1] is not None and (stage[0] is None or stage[0][1] != stage[1][1])
    return [name for name, _ in rest] if begins else []
