"""Checks of what some steps of training leave behind: moved networks, new parameters, modes, global state."""

from __future__ import annotations

import contextlib
from collections import Counter

from torch import nn

from ssl_bench.backbones.network import Network
from ssl_bench.backbones.resnet import Backbone
from ssl_bench.errors import TrainingError
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.system.global_state import captured, changed, restore
from ssl_bench.tasks.base import PretextTask
from ssl_bench.testing.battery.bench import Bench, CheckFailed, CheckWarning
from ssl_bench.training.loop import fit
from ssl_bench.training.movement import Movement, judged_tensors, same_weights
from ssl_bench.training.phases import call_in_phase

FEW_STEPS, FEW_IMAGES = 3, 16


def global_state(bench: Bench) -> str:
    """Nothing that torch or NumPy keep for the whole program is changed, since every other row would feel it."""
    before = captured()
    with contextlib.suppress(Exception):  # told by the checks that follow
        _one_step(bench, bench.build(batch_size=FEW_IMAGES))
    told = changed(before)
    restore(before)
    if told:
        raise CheckFailed(
            f"it changes {told} for the whole program; use a `with` block that sets it back, or give tensors their "
            "dtype and device"
        )
    return f"{len(before)} settings as they were"


def trained(bench: Bench) -> str:
    """A few steps of training run, and move the network that is judged."""
    recipes, kept = bench.recipes(FEW_IMAGES), []
    learning_rate = max(recipe.learning_rate for recipe in recipes.values())
    for seed in (0, 1):
        task, movement = bench.build(seed, batch_size=FEW_IMAGES, begin=False), Movement()
        try:
            fit(
                task,
                bench.batches(FEW_IMAGES),
                recipes,
                FEW_STEPS,
                seed=seed,
                precision="fp32",
                cost=False,
                movement=movement,
            )
            moved = movement.check(task, learning_rate, bench.task.role is TaskRole.CONTROL)
        except TrainingError as error:
            raise CheckFailed(str(error).removeprefix(f"{task.name}: ")) from None
        kept.append(judged_tensors(task))
    if bench.task.role is not TaskRole.CONTROL and same_weights(*kept):
        raise CheckFailed(
            "after training, the judged network is the same with every seed, bit for bit: its weights come from "
            "elsewhere, such as a file that after_step or "
            "evaluated() loads. A row that is to start from other weights says so: {'init': 'file:PATH'} or 'timm:NAME'"
        )
    return f"{moved} parameter tensors moved in {FEW_STEPS} steps"


def parameters(bench: Bench) -> str:
    """Every parameter and buffer is there when the task is built: what is made later is stepped by no optimiser and
    fits no checkpoint."""
    task = bench.build(batch_size=FEW_IMAGES)
    before = {**dict(task.named_parameters()), **dict(task.named_buffers())}
    held = {id(parameter) for phase in task.phases for _, parameter in task.phase_parameters(phase)}
    _one_step(bench, task)
    now = dict(task.named_parameters())
    late = [name for name in {**now, **dict(task.named_buffers())} if name not in before]
    if late:
        kind = "parameter" if late[0] in now else "buffer"
        raise CheckFailed(
            f"{kind} {late[0]} appears during training, after the optimiser was made; make it in __init__"
        )
    swapped = [
        name
        for name, parameter in now.items()
        if parameter.requires_grad and parameter is not before[name] and id(before[name]) in held
    ]
    if swapped:
        raise CheckFailed(
            f"parameter {swapped[0]} is another object after a step, and the optimiser steps the old one; change it "
            "in place: x.data.copy_(y)"
        )
    return f"{len(before)} from the start"


def network(bench: Bench) -> str:
    """The judged network has the parameters of the matrix's network: rows are compared on one, and heads belong on the
    task."""
    judged = bench.build().evaluated()
    kind = judged.input.kind if isinstance(judged, Backbone) else "rgb"  # decides the channels of the first layer
    matrix_network = bench.network(kind)
    plain = Counter(tuple(parameter.shape) for parameter in matrix_network.parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in judged.named_parameters()}
    extra = Counter(shapes.values()) - plain
    count = sum(parameter.numel() for parameter in judged.parameters())
    allowed = sum(parameter.numel() for parameter in matrix_network.parameters())
    said = f"{count:,} parameters"
    if not extra and count == allowed:
        return said
    known = {name for name, _ in matrix_network.named_parameters()}
    name = next((name for name in shapes if name not in known), "")
    said += f", and the matrix's network has {allowed:,}"
    declared = isinstance(judged, Network) and not isinstance(judged, Backbone)  # a kind of network of its own
    if count > allowed and not declared:
        raise CheckFailed(
            f"evaluated() has {said}"
            + (f" (not among them: {name} {shapes[name]})" if name else "")
            + "; rows are compared on one network: keep heads "
            "and other parts on the task, and return the backbone"
        )
    raise CheckWarning(f"evaluated() has {said}: another network than that of the other rows")


def modes(bench: Bench) -> str:
    """What trains stays in training mode: an ``eval()`` that is never undone stops BatchNorm and dropout for the rest
    of the run."""
    task = bench.build(batch_size=FEW_IMAGES).train()
    steps = {id(parameter) for phase in task.phases for _, parameter in task.phase_parameters(phase)}
    learning = {
        name: module
        for name, module in task.named_modules()
        if any(id(parameter) in steps for parameter in module.parameters())
    }
    before = {name for name, module in learning.items() if module.training}
    batch = bench.batch(FEW_IMAGES)
    bench.losses(task, batch, 1)
    for phase in task.phases:
        with bench.calling("after_step"):
            call_in_phase(task, "after_step", phase)
    with bench.calling("evaluated()"):
        task.evaluated()
    stopped = [name for name in learning if name in before and not learning[name].training]
    if stopped:
        norms = sum(isinstance(learning[name], nn.modules.batchnorm._BatchNorm) for name in stopped)
        raise CheckFailed(
            f"{stopped[0] or 'the task'} is left in eval mode by a step or by evaluated(), {norms} BatchNorm layers "
            "with it; call .train() again, "
            "or work on a copy"
        )
    return f"{len(before)} modules"


def _one_step(bench: Bench, task: PretextTask) -> None:
    bench.step(task, bench.batch(FEW_IMAGES), 1)
    with bench.calling("evaluated()"):
        task.evaluated()
