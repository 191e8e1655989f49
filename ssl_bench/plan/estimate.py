"""What a matrix will cost on this machine, before it is started."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ssl_bench.backbones.resnet import Backbone, pool_stage
from ssl_bench.errors import DataError, SpecError, did_you_mean, quoted, text_of
from ssl_bench.evaluators.features import stage_limit
from ssl_bench.plan.cells import Cell, PlannedEvaluation
from ssl_bench.plan.context import RunContext, build_task, pretraining_batches
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.system.amounts import duration
from ssl_bench.system.interruption import is_interruption
from ssl_bench.training.loop import choose_precision, measure_cost

_CALIBRATION_IMAGES, SMALL = 32, 96
WEEK = 7 * 24 * 3600.0  # seconds; a longer plan says what would shorten it
NARROW = 0.25  # of the channels: a width at which tasks still rank as at full width on small images


@dataclass(frozen=True)
class Hardware:
    """A machine that a plan can be made for from another one."""

    title: str
    flops: float  #: a second, reached in training a ResNet in the precision that it multiplies fastest
    source: str


_RESNET50 = 3 * 2 * 4.09e9  # FLOPs of one training step of ResNet-50 on one image of 224 px
_NVIDIA = "NVIDIA's published ResNet-50 training in mixed precision: {} images/s"
HARDWARE = {
    "v100": Hardware("one V100 16 GB", 1_200 * _RESNET50, _NVIDIA.format("1,200")),
    "a100": Hardware("one A100 80 GB", 2_470 * _RESNET50, _NVIDIA.format("2,470")),
}


@dataclass(frozen=True)
class RowEstimate:
    """One row of the plan; seconds and memory are estimates, None where nothing is left to train."""

    row: str
    done: int
    missing: int
    recipe: str
    steps: int
    passes: float | None
    seconds: float | None
    memory: int | None  #: bytes of activations, weights and optimiser state
    problem: str = ""  #: why there is no estimate: the task's own code fails


@dataclass(frozen=True)
class Estimate:
    """The plan of a run: rows, seconds of all evaluations, bytes needed, and what the times are of."""

    rows: list[RowEstimate]
    evaluation_seconds: float
    packed: int  #: bytes on disk of the decoded images, classification and detection
    results: int  #: bytes on disk of the weights still to be written, about
    features: int  #: bytes in memory of the frozen features of the largest labelled set
    hardware: str  #: "" : timed on this machine
    blocked: tuple[str, ...] = ()  #: cells that fail unless they are recomputed, and why
    advice: tuple[str, ...] = ()  #: what would bring an estimate of more than a week down, and to what

    @property
    def seconds(self) -> float:
        return sum(row.seconds or 0.0 for row in self.rows) + self.evaluation_seconds

    @property
    def missing(self) -> int:
        return sum(row.missing for row in self.rows)

    @property
    def done(self) -> int:
        return sum(row.done for row in self.rows)


def estimate(run_plan: RunPlan, on: str | None = None) -> Estimate:
    """Cells done and missing per row, with time and memory estimated from counted FLOPs and one timed step of the backbone.

    Parameters
    ----------
    on : a name in ``HARDWARE``, whose known speed is taken instead of this machine's. Raises SpecError for another.
    """
    if on is not None and on.lower() not in HARDWARE:
        raise SpecError(f"--on {quoted(on)}: {did_you_mean(on, HARDWARE)}")
    hardware = HARDWARE[on.lower()] if on is not None else None
    context = RunContext(
        data=run_plan.data,
        backbone=run_plan.matrix.backbone,
        device=run_plan.device,
        precision=run_plan.matrix.precision,
        stage_limit=run_plan.matrix.stage_values,
    )
    todo = run_plan.todo()
    missing = Counter(cell.row.name for cell in todo)
    table = run_plan.cells()
    done = Counter(cell.row.name for cell in table if run_plan.done(cell))
    rate = hardware.flops if hardware is not None else _training_rate(context) if todo else 1.0
    backbone = context.make_backbone().to(context.device)
    forward = _forward_flops(backbone, run_plan.data.size) if todo else 0.0
    widths = _widths(run_plan, context, backbone)
    products = rate if hardware is not None or not todo else _product_rate(context.device)
    rows, untrained = [], 0
    judging: dict[str, float] = defaultdict(float)  # seconds by evaluator
    blocked: dict[str, str] = {}
    counted: set[Path] = set()  # rows of equal settings share a cell, and its time counts once
    for row in run_plan.rows:
        cells = [cell for cell in todo if cell.row is row and cell.folder not in counted]
        counted |= {cell.folder for cell in cells}
        stopped = {cell.address: why for cell in cells if (why := run_plan.blocked(cell))}
        if not run_plan.recompute:
            blocked |= stopped
            cells = [cell for cell in cells if cell.address not in stopped]
        training = [
            cell
            for cell in cells
            if row.task.role.trains and (cell.address in stopped or run_plan.snapshot.pretraining(cell) is None)
        ]
        # it counts as the mean candidate at the seeds that follow, and is judged at all of them
        undecided = row in run_plan.undecided()
        to_come = run_plan.matrix.seeds[1:] if undecided else ()
        judged = [run_plan.cell(row, row.candidates[0], seed) for seed in run_plan.matrix.seeds] if undecided else []
        candidate = row.candidates[0]
        untrained += len(training) + (len(to_come) if row.task.role.trains else 0)
        passes = seconds = memory = None
        problem = ""
        if training or (to_come and row.task.role.trains):
            try:
                flops, passes, memory = _cost((training or judged)[0], context)
                images = [one.recipe.batch_size * one.steps for one in row.candidates]
                own = sum(cell.candidate.recipe.batch_size * cell.candidate.steps for cell in training)
                seconds = flops * (own + len(to_come) * sum(images) / len(images)) / rate
            except (SpecError, DataError):  # what the user can mend
                raise
            # a task's own mistake: its cell will report it in full, and the other rows can run
            except BaseException as error:
                if is_interruption(error):
                    raise
                problem = f"{type(error).__name__}: {text_of(error)}"
        for cell in (*cells, *judged):
            for one in run_plan.missing(cell):
                judging[one.name] += (
                    _evaluation_flops(cell, one, run_plan, forward) / rate
                    + _fitting_flops(cell, one, widths) / products
                )
        settings = candidate.recipe
        recipe = (
            f"{settings.optimizer} {settings.learning_rate:g}, batch {settings.batch_size}"
            if row.task.role.trains
            else "not trained"
        )
        steps = candidate.steps if row.task.role.trains else 0
        finished = len(row.candidates) - missing[row.name] if undecided else done[row.name]
        rows.append(
            RowEstimate(
                row.name, finished, missing[row.name] + len(to_come), recipe, steps, passes, seconds, memory, problem
            )
        )
    # the task's file holds the backbone too
    weights = 2 * untrained * sum(p.numel() * p.element_size() for p in backbone.parameters())
    told = "" if hardware is None else f"{hardware.title} ({hardware.source})"
    stuck = tuple(f"{cell}: {why}" for cell, why in blocked.items())
    found = Estimate(
        rows,
        sum(judging.values()),
        _packed_bytes(run_plan),
        weights,
        _feature_bytes(run_plan, sum(widths)),
        told,
        stuck,
    )
    return replace(found, advice=_advice(found, run_plan, judging, rate)) if found.seconds > WEEK else found


def _advice(found: Estimate, run_plan: RunPlan, judging: Mapping[str, float], rate: float) -> tuple[str, ...]:
    """What would bring an estimate down, what helps most first, each with where it would lead."""
    total, matrix = found.seconds, run_plan.matrix
    training = total - found.evaluation_seconds
    ways: list[tuple[float, str]] = []
    for known in HARDWARE.values():
        if known.flops > 1.5 * rate:
            ways.append((total * rate / known.flops, f"{known.title} (about {duration(total * rate / known.flops)})"))
    if training > WEEK - found.evaluation_seconds > 0:
        name = next(key for key in ("epochs", "images", "passes") if getattr(matrix.pretrain, key) is not None)
        value = getattr(matrix.pretrain, name)
        fits = float(f"{value * (WEEK - found.evaluation_seconds) / training:.1e}")
        if name == "epochs" or fits >= 1:
            ways.append((WEEK, f"a smaller budget (pretrain.{name} {_plain(value)} -> {_plain(fits)} fits in a week)"))
    if len(matrix.seeds) > 1:
        ways.append(
            (
                total / len(matrix.seeds),
                f"one seed in place of {len(matrix.seeds)} (about {duration(total / len(matrix.seeds))})",
            )
        )
    if matrix.backbone.width > NARROW:
        # of the FLOPs; narrow networks keep a processor less busy
        least = total * (NARROW / matrix.backbone.width) ** 2
        ways.append(
            (
                least,
                f"a narrower network (backbone.width {matrix.backbone.width:g} -> {NARROW}: {duration(least)} or somewhat more)",
            )
        )
    if judging and found.evaluation_seconds > total / 4:
        name, seconds = max(judging.items(), key=lambda item: item[1])
        ways.append(
            (
                total - seconds,
                f"less for the evaluator {name}, which takes {duration(seconds)}: fewer labels, draws, steps or sets",
            )
        )
    return tuple(text for _, text in sorted(ways))


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:g}"


def _packed_bytes(run_plan: RunPlan) -> int:
    """Of every pack once, whatever parts of it are used, and of those that are still to be written."""
    sets = [run_plan.data.pretrain] + [
        part
        for one in run_plan.evaluators
        for judged in one.sets
        for part in (judged.train, judged.validation, judged.test)
    ]
    mapped = (getattr(part, "pixels", None) for part in sets)
    packs = {str(pixels.filename): int(pixels.nbytes) for pixels in mapped if isinstance(pixels, np.memmap)}
    return sum(packs.values()) + sum(run_plan.unpacked.values())


def _widths(run_plan: RunPlan, context: RunContext, backbone: Backbone) -> list[int]:
    """Values an image of every stage's features, and of the pooled ones."""
    with torch.no_grad():
        maps = backbone.eval().stages(torch.zeros(1, 3, run_plan.data.size, run_plan.data.size, device=context.device))
    limit = context.stage_limit or stage_limit(run_plan.device)
    return [*(pool_stage(x, limit).shape[1] for x in maps.values()), backbone.num_features]


def _feature_bytes(run_plan: RunPlan, values: int) -> int:
    """The features of all splits of a labelled set, ``values`` an image, as frozen evaluators hold them."""
    frozen = [one for one in run_plan.evaluators if not one.evaluator.needs_training]
    counts = [len(judged.train) + len(judged.validation) + len(judged.test) for one in frozen for judged in one.sets]
    return 4 * values * max(counts, default=0)


def _training_rate(context: RunContext) -> float:
    """FLOPs a second of one training step of the bare backbone."""
    backbone = context.make_backbone().to(context.device).train()
    images = torch.rand(_CALIBRATION_IMAGES, 3, context.data.size, context.data.size, device=context.device).to(
        memory_format=torch.channels_last
    )
    bf16 = choose_precision(context.precision, context.device) == "bf16"
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        with torch.autocast(context.device.type, torch.bfloat16, enabled=bf16):
            loss = backbone(images).square().mean()
        loss.backward()
        if context.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 3 * _forward_flops(backbone, context.data.size) * _CALIBRATION_IMAGES / best


def _product_rate(device: torch.device) -> float:
    """FLOPs a second of a product of matrices as large as those of probes."""
    left, right = (torch.rand(size, device=device) for size in ((4_096, 1_024), (1_024, 128)))
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * left.numel() * right.shape[1] / best


def _forward_flops(backbone: nn.Module, size: int) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    device = next(backbone.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.rand(2, 3, size, size, device=device))
    return counter.get_total_flops() / 2


def _cost(cell: Cell, context: RunContext) -> tuple[float, float, int]:
    """(FLOPs an image, passes an image, bytes) of training one cell."""
    task = build_task(cell, context).to(context.device).train()
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    few = 8 if context.data.size <= SMALL else 2  # large ones take long, and all cost the same
    images = min(few * task.divides, cell.candidate.recipe.batch_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cost = measure_cost(task, pretraining_batches(cell, context).batch(0), images)
    weights = sum(p.numel() * p.element_size() for p in task.parameters())
    activations = max(0, sum(saved.values()) - weights) / images * cell.candidate.recipe.batch_size
    return cost.flops, cost.passes, int(activations + 4 * weights)


def _fitting_flops(cell: Cell, planned: PlannedEvaluation, widths: list[int]) -> float:
    """What probes compute once they have features; pixels and PCA, which have one representation, count as its widest stage."""
    values = widths if cell.row.task.role.fine_tunes else [max(widths)]
    return float(planned.evaluator.fitting_flops(planned.options, planned.labelled.train, values))


def _evaluation_flops(cell: Cell, planned: PlannedEvaluation, run_plan: RunPlan, forward: float) -> float:
    """Roughly: images that evaluators train on, plus one pass over every labelled image for the frozen ones."""
    if not cell.row.task.role.fine_tunes:
        return 0.0
    labelled = planned.labelled
    trained = planned.evaluator.training_passes(
        planned.options, labelled.train, run_plan.data.size, cell.row.task.role is TaskRole.UNTRAINED
    )
    return float(
        3 * forward * trained + forward * (len(labelled.train) + len(labelled.validation) + len(labelled.test))
    )
