"""What a step gives and what it costs: the loss, FLOPs, trunk passes, memory."""

from __future__ import annotations

import contextlib
import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ssl_bench.data.batches import Batch
from ssl_bench.errors import TrainingError
from ssl_bench.training.meter import NetworkMeter, countable
from ssl_bench.training.phases import call_in_phase, forward_in_phase, steps_of_phases
from ssl_bench.training.seeding import seed_everything
from ssl_bench.training.trainable import Trainable


def loss_of(returned: Any, task: Trainable, step: int, last: dict[str, float], check: bool = True) -> Tensor:
    """The scalar loss of what a task's forward returned.

    Raises TrainingError for anything else, and (``check``) where it is not finite.
    """
    if not isinstance(returned, dict) or "loss" not in returned:
        raise TrainingError(f"{task.name}: forward must return a dict with a key 'loss', not {type(returned).__name__}")
    loss = returned["loss"]
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        raise TrainingError(
            f"{task.name}: 'loss' must be a scalar tensor, not {getattr(loss, 'shape', type(loss).__name__)}"
        )
    if check and not math.isfinite(float(loss.detach())):
        raise not_finite(task, step, last)
    return loss


def not_finite(task: Trainable, step: int, last: dict[str, float]) -> TrainingError:
    """The error for a loss that is not finite: task, step (from 0) and last finite values."""
    known = ", ".join(f"{name} {value:.4g}" for name, value in last.items()) or "none"
    return TrainingError(
        f"{task.name}: loss not finite at step {step + 1:,}; last finite values: {known}; try a lower learning_rate "
        "or clip_norm: 1.0"
    )


@dataclass(frozen=True)
class Cost:
    """Cost of training on one image."""

    flops: float  #: forward and backward of everything, 2 per multiply-add
    passes: float  #: whole images through networks; see ``NetworkMeter`` for what one is
    by_area: bool = True  #: whether passes are the same with a backbone of another width


def measure_cost(
    task: Trainable, batch: Batch, images: int = 16, steps: int = 1, schedule_steps: int | None = None
) -> Cost:
    """Cost of one image of a task, counted on a copy so that the task stays as it was.

    Networks count wherever the task uses them: in ``forward``, in ``views`` (a teacher that needs no gradient) and in
    ``after_step``.

    Parameters
    ----------
    images : taken of the batch, about: as many for every part of a task that divides them, and two at least, which a
        loss between images needs.
    steps : of the run, over which phases that take turns are averaged.
    schedule_steps : of the whole run that it is the beginning of, if it is cut short.
    """
    with countable(task):
        return _measured_cost(copy.deepcopy(task), batch, images, max(1, steps), schedule_steps)


def _measured_cost(task: Trainable, batch: Batch, images: int, steps: int, schedule_steps: int | None) -> Cost:
    count = min(max(images, 2 * task.divides), len(batch))
    count -= count % task.divides
    part = Batch(
        batch.images[:count],
        batch.index[:count],
        None if batch.labels is None else batch.labels[:count],
        {name: column[:count] for name, column in batch.extra.items()},
    )
    meter = NetworkMeter(task, part.images)
    taken = steps_of_phases(task, 0, steps, schedule_steps or steps)
    flops = passes = 0.0
    seed_everything(0)
    for phase in task.phases:
        elsewhere, shown = meter.network_flops, meter.passes  # of networks in views and after_step
        with torch.no_grad(), FlopCounterMode(display=False) as counter, meter.counting(counter):
            views = call_in_phase(task, "views", phase, part)
        elsewhere = meter.network_flops - elsewhere
        with FlopCounterMode(display=False) as counter:
            with meter.counting(counter):
                losses = forward_in_phase(task, views, phase)
            loss_of(losses, task, 0, {}).backward()
        trained, before = counter.get_total_flops(), meter.network_flops
        with FlopCounterMode(display=False) as counter, meter.counting(counter):
            call_in_phase(task, "after_step", phase)
        elsewhere += meter.network_flops - before
        share = taken[phase] / steps  # a phase may be stepped more or less often than the loop
        flops += share * (trained + elsewhere)
        passes += share * (meter.passes - shown)
    return Cost(flops / count, passes / count, meter.by_area)


def reset_peak_memory(device: torch.device) -> None:
    """Start counting peak memory anew, where the platform can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # elsewhere than on Linux the peak is that of the process so far
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device since the last reset, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource
        import sys

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
