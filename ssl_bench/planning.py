"""What a matrix will cost on this machine, before it is started."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from ssl_bench.cells import Workshop, build_task, pretraining_batches
from ssl_bench.errors import DataError, SpecError
from ssl_bench.fit import choose_precision, measure_cost
from ssl_bench.matrix import Cell
from ssl_bench.work import Work, read_pretraining

_CALIBRATION_IMAGES = 32


@dataclass(frozen=True)
class RowPlan:
    """One row of the plan; seconds and memory are estimates, None where nothing is left to train."""

    row: str
    done: int
    missing: int
    recipe: str
    steps: int
    passes: float | None
    seconds: float | None
    memory: int | None  #: bytes of activations, weights and optimiser state


@dataclass(frozen=True)
class Plan:
    rows: list[RowPlan]
    evaluation_seconds: float

    @property
    def seconds(self) -> float:
        return sum(row.seconds or 0.0 for row in self.rows) + self.evaluation_seconds

    @property
    def missing(self) -> int:
        return sum(row.missing for row in self.rows)

    @property
    def done(self) -> int:
        return sum(row.done for row in self.rows)


def plan(work: Work) -> Plan:
    """Cells done and missing per row, with time and memory estimated from counted FLOPs and one timed step of the backbone."""
    shop = Workshop(data=work.data, backbone=work.matrix.backbone, device=work.device, precision=work.matrix.precision)
    todo = work.todo()
    missing = Counter(cell.row.name for cell in todo)
    table = work.cells()
    done = Counter(cell.row.name for cell in table if work.done(cell))
    rate = _training_rate(shop) if todo else 1.0
    rows, evaluation = [], 0.0
    for row in work.rows:
        cells = [cell for cell in todo if cell.row is row]
        training = [cell for cell in cells if row.task.trains and read_pretraining(cell) is None]
        undecided = len(work.matrix.seeds) if row in work.undecided() else 0
        candidate = row.candidates[0]
        passes = seconds = memory = None
        if training and (found := _cost_or_none(training[0], shop)) is not None:
            flops, passes, memory = found
            seconds = sum(flops * cell.candidate.recipe.batch_size * cell.candidate.steps for cell in training) / rate
        evaluation += sum(_evaluation_flops(cell, work, shop) for cell in cells) / rate
        settings = candidate.recipe
        recipe = f"{settings.optimizer} {settings.learning_rate:g}, batch {settings.batch_size}" if row.task.trains else "not trained"
        steps = candidate.steps if row.task.trains else 0
        rows.append(RowPlan(row.name, done[row.name], missing[row.name] + undecided, recipe, steps, passes, seconds, memory))
    return Plan(rows, evaluation)


def _training_rate(shop: Workshop) -> float:
    """FLOPs a second of one training step of the bare backbone."""
    backbone = shop.make_backbone().to(shop.device).train()
    images = torch.rand(_CALIBRATION_IMAGES, 3, shop.data.size, shop.data.size, device=shop.device).to(memory_format=torch.channels_last)
    bf16 = choose_precision(shop.precision, shop.device) == "bf16"
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        with torch.autocast(shop.device.type, torch.bfloat16, enabled=bf16):
            loss = backbone(images).square().mean()
        loss.backward()
        if shop.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 3 * _forward_flops(backbone, shop.data.size) * _CALIBRATION_IMAGES / best


def _forward_flops(backbone: nn.Module, size: int) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    device = next(backbone.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.rand(2, 3, size, size, device=device))
    return counter.get_total_flops() / 2


def _cost_or_none(cell: Cell, shop: Workshop) -> tuple[float, float, int] | None:
    """As ``_cost``; None for a task whose own code fails, which its cell will report. What the user can mend is raised at once."""
    try:
        return _cost(cell, shop)
    except (SpecError, DataError):
        raise
    except Exception:
        return None


def _cost(cell: Cell, shop: Workshop) -> tuple[float, float, int]:
    """(FLOPs an image, passes an image, bytes) of training one cell."""
    task = build_task(cell, shop).to(shop.device).train()
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = min(8, cell.candidate.recipe.batch_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cost = measure_cost(task, pretraining_batches(cell, shop).batch(0), images)
    weights = sum(p.numel() * p.element_size() for p in task.parameters())
    activations = max(0, sum(saved.values()) - weights) / images * cell.candidate.recipe.batch_size
    return cost.flops, cost.passes, int(activations + 4 * weights)


def _evaluation_flops(cell: Cell, work: Work, shop: Workshop) -> float:
    """Roughly: images that evaluators train on, plus one pass over every labelled image for the frozen ones."""
    if not cell.row.task.trainable:
        return 0.0
    forward = _forward_flops(shop.make_backbone(), work.data.size)
    total = 0.0
    for planned in work.missing(cell):
        labelled = planned.labelled
        total += 3 * forward * planned.evaluator.training_images(planned.options, len(labelled.train))
        total += forward * (len(labelled.train) + len(labelled.validation) + len(labelled.test))
    return total
