"""The one loop: pretraining, supervised training and fine-tuning all run through ``fit``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ssl_bench.data.batches import Batches
from ssl_bench.errors import DamagedWeights, Interrupted, SpecError, TrainingError
from ssl_bench.records.schema import Curve
from ssl_bench.spec.recipe import Recipe
from ssl_bench.system.digests import notice
from ssl_bench.training.checkpoints import load_checkpoint, refuse_other_state, remove, save_checkpoint
from ssl_bench.training.cost import loss_of, measure_cost, not_finite, peak_memory, reset_peak_memory
from ssl_bench.training.device import choose_precision
from ssl_bench.training.monitor import Monitor
from ssl_bench.training.movement import Movement
from ssl_bench.training.phases import Phases, call_in_phase
from ssl_bench.training.seeding import seed_everything
from ssl_bench.training.trainable import Trainable

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CURVE_POINTS = 300
PARTS = ("data", "views", "forward", "backward", "step", "monitor")


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run is, for whoever watches."""

    step: int
    steps: int
    metrics: dict[str, float]
    images_per_second: float
    seconds_left: float


@dataclass
class FitResult:
    """What a run gave; fields as in records.Pretraining."""

    steps: int = 0
    images_seen: int = 0
    curves: dict[str, Curve] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    flops: float = 0.0
    passes: float = 0.0
    peak_memory: int = 0


def fit(
    task: Trainable,
    batches: Batches,
    recipe: Recipe | Mapping[str, Recipe],
    steps: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 120.0,
    monitors: Sequence[Monitor] = (),
    on_progress: Callable[[TrainingProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    cost: bool = True,
    final_checkpoint: bool = False,
    movement: Movement | None = None,
    schedule_steps: int | None = None,
) -> FitResult:
    """Train a task in place for a number of steps.

    Parameters
    ----------
    task : what is trained in place; moved to the device, left in eval mode.
    batches : gives the batch of any step; ``recipe.batch_size`` is not looked at here.
    recipe : of every phase, or one for each by name.
    seed : decides, with step, rank and phase, every random draw. On a CPU the same torch, processor and threads give
        the same bits, whether the run was interrupted or not.
    checkpoint : file to resume from when it exists (a damaged one is told and removed), written every
        ``checkpoint_seconds`` and removed by the caller when its result is safe.
    monitors : look at ``task.evaluated()`` now and then; what they see is recorded as curves and decides nothing.
    stop : asked after every step; when true, a checkpoint is written and Interrupted raised.
    cost : count FLOPs and trunk passes (one small extra step on a copy).
    final_checkpoint : write the checkpoint after the last step, however short the run was, for a caller whose next
        steps may fail.
    movement : is shown the network before the first step, also of a run that goes on, for a caller who asks whether
        training moved it.
    schedule_steps : of the run whose schedules, and phases, are followed and cut after ``steps``; None: this run's own.

    Raises
    ------
    TrainingError : a loss that is not finite (task, step and last finite values are named); parameters that took the
        place of those that are stepped.
    WeightsError : with ``checkpoint``, a state that could not be saved.
    Interrupted : ``stop()`` was true.
    """
    device = torch.device(device)
    precision = choose_precision(precision, device)
    if steps < 1:
        raise SpecError(
            f"{task.name}: {steps} training steps; at least 1 is needed (is the budget smaller than one batch?)"
        )
    whole = schedule_steps or steps
    if whole < steps:
        raise SpecError(f"{task.name}: a schedule of {whole:,} steps ends before the {steps:,} steps trained")
    from ssl_bench.training.fabric import fabric_on

    fabric = fabric_on(device, precision)
    if checkpoint is not None:
        refuse_other_state(task)
    task.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    task.train()
    loop = _Loop(task, batches, Phases(task, recipe, whole), steps, seed, fabric, movement or Movement())
    if movement is not None and checkpoint is not None and checkpoint.exists():
        movement.rebuilt(task)
    if cost:
        each = measure_cost(task, batches.batch(0), steps=steps, schedule_steps=whole)
        loop.result.flops, loop.result.passes = each.flops * batches.batch_size * steps, each.passes
    done = loop.resume(checkpoint) if checkpoint is not None and checkpoint.exists() else 0
    if not done:
        seed_everything(seed, 0xBE)
        task.before_training()
        if movement is not None:
            movement.begin(task)
    looks = [(monitor.look, monitor.after(steps)) for monitor in monitors]
    reset_peak_memory(device)
    saved, loop.started, loop.worked = time.monotonic(), time.perf_counter(), time.process_time()
    try:
        for step in range(done, steps):
            loop.step(step)
            for look in (look for look, after in looks if step + 1 in after):
                with loop.timed("monitor"):
                    for name, value in look(task.evaluated()).items():
                        loop.note(name, step + 1, value)
            if on_progress is not None:
                on_progress(loop.progress(step + 1))
            stopping = stop is not None and step + 1 < steps and stop()
            if checkpoint is not None and (stopping or time.monotonic() - saved > checkpoint_seconds):
                loop.flush()
                loop.save(checkpoint, step + 1)
                saved = time.monotonic()
            if stopping:
                raise Interrupted(f"{task.name}: stopped at step {step + 1:,} of {steps:,}")
        loop.flush()
        if checkpoint is not None and (final_checkpoint or checkpoint.exists()) and done < steps:
            # so that what follows a long run, if it is killed, does not cost the run's last minutes
            loop.save(checkpoint, steps)
    finally:
        task.eval()
    return loop.finish(peak_memory(device))


class _Loop:
    """State of one run: everything but the order of things, which is ``fit``'s."""

    def __init__(
        self,
        task: Trainable,
        batches: Batches,
        phases: Phases,
        steps: int,
        seed: int,
        fabric: Fabric,
        movement: Movement,
    ) -> None:
        self.task, self.batches, self.phases = task, batches, phases
        self.steps, self.seed, self.fabric, self.movement = steps, seed, fabric, movement
        self.module, *wrapped = fabric.setup(task, *phases.optimizers.values())
        phases.optimizers = dict(zip(task.phases, wrapped, strict=True))
        self.result = FitResult(steps=steps, seconds=dict.fromkeys(PARTS, 0.0))
        self.started, self.before, self.first = time.perf_counter(), 0.0, 0
        self.worked, self.worked_before = time.process_time(), 0.0
        self.pending: list[tuple[int, dict[str, Tensor]]] = []  # values still on the device
        self.window: list[dict[str, float]] = []
        self.last: dict[str, float] = {}
        self.asynchronous = fabric.device.type != "cpu"
        self.every = max(1, steps // CURVE_POINTS)
        self.held = [(name, parameter) for phase in task.phases for name, parameter in task.phase_parameters(phase)]

    def timed(self, part: str) -> AbstractContextManager[None]:
        return _Timer(self.result.seconds, part)

    def step(self, step: int) -> None:
        task = self.task
        task.progress = step / self.phases.steps
        with self.timed("data"):
            batch = self.batches.batch(step)
        for number, phase in enumerate(self.phases.at(step)):
            seed_everything(self.seed, step, self.fabric.global_rank, number)
            optimizer, clip_norm = self.phases.next_step_of(phase), self.phases.recipes[phase].clip_norm
            with self.timed("views"), torch.no_grad():
                views = call_in_phase(task, "views", phase, batch)
            with self.timed("forward"):
                losses = self.module(views) if len(task.phases) == 1 else self.module(views, phase)
            with self.timed("backward"):
                optimizer.zero_grad(set_to_none=True)
                self.fabric.backward(loss_of(losses, task, step, self.last, check=not self.asynchronous))
            with self.timed("step"):
                call_in_phase(task, "before_step", phase)
                if clip_norm is not None:
                    self.fabric.clip_gradients(self.module, optimizer, max_norm=clip_norm, error_if_nonfinite=False)
                optimizer.step()
                call_in_phase(task, "after_step", phase)
            prefix = "" if len(task.phases) == 1 else f"{phase}/"
            self.pending.append((step, {prefix + name: value.detach() for name, value in losses.items()}))
        if (step + 1) % self.every == 0 or step + 1 == self.steps:
            self.refuse_replaced(step)
        self.result.images_seen += len(batch)
        if not self.asynchronous or len(self.pending) >= 20 * len(task.phases):
            self.flush()

    def refuse_replaced(self, step: int) -> None:
        """Raise TrainingError where the task has put other parameters in the place of those that the optimisers step:
        these would stay as they are."""
        now = {id(parameter) for parameter in self.task.parameters()}
        gone = [name for name, parameter in self.held if id(parameter) not in now]
        if gone:
            raise TrainingError(
                f"{self.task.name}: after step {step + 1:,} of {self.steps:,}, {len(gone)} parameters that the "
                "optimiser steps are no longer the task's "
                f"(first: {gone[0]}): another object stands in their place, which nothing trains; change parameters "
                "where they stand: x.data.copy_(y)"
            )

    def flush(self) -> None:
        """Bring values from the device, check them, and thin them into the curves."""
        for step, values in self.pending:
            numbers = {name: float(value) for name, value in values.items()}
            for name, number in numbers.items():
                if name.split("/")[-1] == "loss" and not math.isfinite(number):
                    raise not_finite(self.task, step, self.last)
            self.last |= numbers
            self.window.append(numbers)
            if (step + 1) % self.every == 0 or step + 1 == self.steps:
                for name in sorted({name for numbers in self.window for name in numbers}):
                    self.note(
                        name, step + 1, float(np.mean([numbers[name] for numbers in self.window if name in numbers]))
                    )
                self.window.clear()
        self.pending.clear()

    def note(self, name: str, step: int, value: float) -> None:
        curve = self.result.curves.setdefault(name, Curve())
        if curve.step and curve.step[-1] == step:
            curve.value[-1] = value
        else:
            curve.step.append(step)
            curve.value.append(value)

    def elapsed(self) -> float:
        return self.before + time.perf_counter() - self.started

    def cpu_time(self) -> float:
        """Of this process and its threads: below the wall time where other work had the cores."""
        return self.worked_before + time.process_time() - self.worked

    def progress(self, done: int) -> TrainingProgress:
        seconds = max(time.perf_counter() - self.started, 1e-9)
        rate = (done - self.first) / seconds
        return TrainingProgress(
            done, self.steps, dict(self.last), rate * self.batches.batch_size, (self.steps - done) / max(rate, 1e-9)
        )

    def save(self, path: Path, done: int) -> None:
        if self.fabric.is_global_zero:
            meta = {
                "done": done,
                "steps": self.steps,
                "schedule_steps": self.phases.steps,
                "seed": self.seed,
                "task": self.task.name,
                "elapsed": self.elapsed(),
                "last": self.last,
                "window": self.window,
                "images_seen": self.result.images_seen,
                "seconds": self.result.seconds | {"cpu": self.cpu_time()},
                "curves": {name: curve.model_dump() for name, curve in self.result.curves.items()},
                "start": self.movement.digests,
            }
            save_checkpoint(path, self.task, list(self.phases.optimizers.values()), meta)
        self.fabric.barrier()

    def resume(self, path: Path) -> int:
        """Go on from a checkpoint; from the beginning, which is told, where it is damaged."""
        try:
            meta = load_checkpoint(
                path,
                self.task,
                list(self.phases.optimizers.values()),
                {"steps": self.steps, "schedule_steps": self.phases.steps, "seed": self.seed, "task": self.task.name},
            )
        except DamagedWeights as error:
            notice(f"checkpoint {error}; the training of {self.task.name} starts anew")
            remove(path)
            return 0
        self.last, self.window, self.before = meta["last"], meta["window"], meta["elapsed"]
        self.result.images_seen, self.result.seconds = meta["images_seen"], meta["seconds"]
        self.result.curves = {name: Curve.model_validate(curve) for name, curve in meta["curves"].items()}
        self.movement.digests = meta.get("start", {})  # of an earlier version's checkpoint: not known
        self.worked_before = self.result.seconds.pop("cpu", 0.0)
        self.first = int(meta["done"])
        self.phases.begin_at(self.first)
        return self.first

    def finish(self, memory: int) -> FitResult:
        total = self.elapsed()
        result = self.result
        result.seconds |= {"total": total, "cpu": self.cpu_time()}
        training = max(total - result.seconds["monitor"], 1e-9)
        result.images_per_second, result.peak_memory = result.images_seen / training, memory
        tail = {name: curve.value[-max(1, len(curve.value) // 20) :] for name, curve in result.curves.items()}
        result.metrics = {name: float(np.mean(values)) for name, values in tail.items()}
        return result


class _Timer(AbstractContextManager[None]):
    """Adds the wall time of a block; on an accelerator, where work runs on after the call,
    it is the time to queue it."""

    def __init__(self, seconds: dict[str, float], part: str) -> None:
        self.seconds, self.part = seconds, part

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.part] += time.perf_counter() - self.start
