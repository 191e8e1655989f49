"""What a matrix will cost on this machine, before it is started."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ssl_bench.backbones.resnet import Backbone, pool_stage
from ssl_bench.errors import DataError, SpecError, text_of
from ssl_bench.evaluators.features import stage_limit
from ssl_bench.plan.advice import advice_for
from ssl_bench.plan.cells import Cell, PlannedEvaluation
from ssl_bench.plan.context import RunContext, build_task, pretraining_batches
from ssl_bench.plan.jobs import ONE_BY_ONE, Jobs, jobs_of
from ssl_bench.plan.rows import Row
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plan.speed import Speed, forward_flops, known_hardware, speed_of
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.system.interruption import is_interruption
from ssl_bench.training.cost import measure_cost

SMALL = 96  # pixels


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
    """The plan of a run: rows, seconds of computing that all evaluations take, bytes needed, and what the times are
    of."""

    rows: list[RowEstimate]
    evaluation_seconds: float
    packed: int  #: bytes on disk of the decoded images, classification and detection
    results: int  #: bytes on disk of the weights still to be written, about
    features: int  #: bytes in memory of the frozen features of the largest labelled set
    hardware: str  #: "" : timed on this machine
    blocked: tuple[str, ...] = ()  #: cells that fail unless they are recomputed, and why
    advice: tuple[str, ...] = ()  #: what would bring an estimate of more than a week down, and to what
    jobs: Jobs = ONE_BY_ONE  #: how the cells are divided

    @property
    def seconds(self) -> float:
        """Until the last cell is finished: cells side by side take less than all their computing, and no less than the
        longest."""
        longest = max((row.seconds / max(row.missing, 1) for row in self.rows if row.seconds), default=0.0)
        return max(self._computing / max(1, min(self.jobs.count, self.missing)), longest)

    @property
    def evaluation_share(self) -> float:
        """Of all computing, from 0 to 1."""
        return self.evaluation_seconds / max(self._computing, 1e-9)

    @property
    def _computing(self) -> float:
        return sum(row.seconds or 0.0 for row in self.rows) + self.evaluation_seconds

    @property
    def missing(self) -> int:
        return sum(row.missing for row in self.rows)

    @property
    def done(self) -> int:
        return sum(row.done for row in self.rows)


def estimate(run_plan: RunPlan, on: str | None = None, jobs: int | None = 1) -> Estimate:
    """Cells done and missing per row, with time and memory estimated from counted FLOPs and one timed step of the
    backbone.

    Parameters
    ----------
    on : a name in ``HARDWARE``, whose known speed is taken instead of this machine's. Raises SpecError for another.
    jobs : how many cells are computed side by side; None: as many as pay off here.
    """
    hardware = known_hardware(on)
    context = _context_of(run_plan)
    backbone = context.make_backbone().to(context.device)
    widths = _feature_widths(run_plan, context, backbone)
    todo = run_plan.todo()
    rows, works = _rows_and_work(run_plan, context, todo)
    features = _feature_bytes(run_plan, sum(widths))
    # a known machine has one accelerator, and with nothing to do nothing is divided
    divided = jobs_of(run_plan, jobs, lambda: _largest(rows, features)) if todo and hardware is None else ONE_BY_ONE
    with divided.threads_set():
        speed = speed_of(hardware, context) if todo else Speed(1.0, 1.0)  # nothing is left to divide by it
    forward = forward_flops(backbone, run_plan.data.size) if todo else 0.0
    rows = [row if row.seconds is None else replace(row, seconds=row.seconds / speed.training) for row in rows]
    untrained = 0
    judging: dict[str, float] = defaultdict(float)  # seconds by evaluator
    blocked: dict[str, str] = {}
    for work in works:
        if not run_plan.recompute:
            blocked |= work.blocked
        untrained += len(work.training) + (work.to_come if work.row.task.role.trains else 0)
        for cell in work.judged:
            for planned in run_plan.missing(cell):
                judging[planned.name] += (
                    _evaluation_flops(cell, planned, run_plan, forward) / speed.training
                    + _fitting_flops(cell, planned, widths) / speed.products
                )
    # the task's file holds the backbone too
    weights = 2 * untrained * sum(p.numel() * p.element_size() for p in backbone.parameters())
    plan = Estimate(
        rows,
        sum(judging.values()),
        _packed_bytes(run_plan),
        weights,
        features,
        "" if hardware is None else f"{hardware.title} ({hardware.source})",
        tuple(f"{cell}: {why}" for cell, why in blocked.items()),
        jobs=divided,
    )
    at_once = max(1, min(divided.count, plan.missing))
    judging = {name: seconds / at_once for name, seconds in judging.items()}
    training = sum(row.seconds or 0.0 for row in rows) / at_once
    return replace(plan, advice=advice_for(run_plan, training, judging, speed.training * at_once))


def side_by_side(run_plan: RunPlan, jobs: int | None) -> Jobs:
    """How a run's cells are divided, without the time that ``estimate`` takes to say how long they need.

    Parameters
    ----------
    jobs : as for ``estimate``.
    """

    def memory() -> int:
        context = _context_of(run_plan)
        widths = _feature_widths(run_plan, context, context.make_backbone().to(context.device))
        return _largest(_rows_and_work(run_plan, context, todo)[0], _feature_bytes(run_plan, sum(widths)))

    todo = run_plan.todo()
    return jobs_of(run_plan, jobs, memory) if todo else ONE_BY_ONE


def _context_of(run_plan: RunPlan) -> RunContext:
    return RunContext(
        data=run_plan.data,
        backbone=run_plan.matrix.backbone,
        device=run_plan.device,
        precision=run_plan.matrix.precision,
        stage_limit=run_plan.matrix.stage_values,
    )


def _largest(rows: list[RowEstimate], features: int) -> int:
    """Bytes that the largest cell needs: it is trained first, then its features are held."""
    return max([features, *(row.memory or 0 for row in rows)])


def _rows_and_work(
    run_plan: RunPlan, context: RunContext, todo: list[Cell]
) -> tuple[list[RowEstimate], list[_RowWork]]:
    """Every row, its time in FLOPs, and what is left to do for it."""
    rows, works = [], []
    counted: set[Path] = set()  # rows of equal settings share a cell, and its time counts once
    done = Counter(cell.row.name for cell in run_plan.cells() if run_plan.done(cell))
    missing = Counter(cell.row.name for cell in todo)
    for row in run_plan.rows:
        work = _work_of(row, run_plan, [cell for cell in todo if cell.row is row and cell.folder not in counted])
        counted |= {cell.folder for cell in work.cells}
        finished = len(row.candidates) - missing[row.name] if work.undecided else done[row.name]
        rows.append(_row_estimate(work, context, finished, missing[row.name] + work.to_come))
        works.append(work)
    return rows, works


@dataclass(frozen=True)
class _RowWork:
    """What is left to do for a row."""

    row: Row
    cells: list[Cell]  #: that miss anything
    blocked: dict[str, str]  #: those that need ``recompute``, and why
    training: list[Cell]  #: to be pretrained
    judged: list[Cell]  #: whose evaluations are asked for what they miss
    undecided: bool
    to_come: int  #: further seeds once the choice is made


def _work_of(row: Row, run_plan: RunPlan, cells: list[Cell]) -> _RowWork:
    """What is left of a row. While a choice is open, its first candidate stands for the winner at the seeds that
    follow."""
    blocked = {cell.address: why for cell in cells if (why := run_plan.blocked(cell))}
    can = [cell for cell in cells if run_plan.recompute or cell.address not in blocked]
    training = [
        cell
        for cell in can
        if row.task.role.trains and (cell.address in blocked or run_plan.snapshot.pretraining(cell) is None)
    ]
    undecided = row in run_plan.undecided()
    seeds = run_plan.matrix.seeds if undecided else ()
    standing = [run_plan.cell(row, row.candidates[0], seed) for seed in seeds]
    return _RowWork(row, cells, blocked, training, [*standing, *can], undecided, len(seeds[1:]))


def _row_estimate(work: _RowWork, context: RunContext, done: int, missing: int) -> RowEstimate:
    """A row with the cost of what is left to train of it, in FLOPs where its seconds will stand; that of an open choice
    is the mean candidate's at the seeds to come."""
    row, candidate = work.row, work.row.candidates[0]
    passes = seconds = memory = None
    problem = ""
    if row.task.role.trains and (work.training or work.to_come):
        try:
            flops, passes, memory = _training_cost((work.training or work.judged)[0], context)
            images = [setting.recipe.batch_size * setting.steps for setting in row.candidates]
            now = sum(cell.candidate.recipe.batch_size * cell.candidate.steps for cell in work.training)
            seconds = flops * (now + work.to_come * sum(images) / len(images))
        except (SpecError, DataError):  # what the user can mend
            raise
        # a task's own mistake: its cell will report it in full, and the other rows can run
        except BaseException as error:
            if is_interruption(error):
                raise
            problem = f"{type(error).__name__}: {text_of(error)}"
    if not row.task.role.trains:
        return RowEstimate(row.name, done, missing, "not trained", 0, passes, seconds, memory, problem)
    recipe = candidate.recipe
    told = f"{recipe.optimizer} {recipe.learning_rate:g}, batch {recipe.batch_size}"
    return RowEstimate(row.name, done, missing, told, candidate.steps, passes, seconds, memory, problem)


def _packed_bytes(run_plan: RunPlan) -> int:
    """Of every pack once, whatever parts of it are used, and of those that are still to be written."""
    sets = [run_plan.data.pretrain] + [
        part
        for selected in run_plan.evaluators
        for judged in selected.sets
        for part in (judged.train, judged.validation, judged.test)
    ]
    mapped = (getattr(part, "pixels", None) for part in sets)
    packs = {str(pixels.filename): int(pixels.nbytes) for pixels in mapped if isinstance(pixels, np.memmap)}
    return sum(packs.values()) + sum(run_plan.unpacked.values())


def _feature_widths(run_plan: RunPlan, context: RunContext, backbone: Backbone) -> list[int]:
    """Values an image of every stage's features, and of the pooled ones."""
    with torch.no_grad():
        maps = backbone.eval().stages(torch.zeros(1, 3, run_plan.data.size, run_plan.data.size, device=context.device))
    limit = context.stage_limit or stage_limit(run_plan.device)
    return [*(pool_stage(x, limit).shape[1] for x in maps.values()), backbone.num_features]


def _feature_bytes(run_plan: RunPlan, values: int) -> int:
    """The features of all splits of a labelled set, ``values`` an image, as frozen evaluators hold them."""
    frozen = [selected for selected in run_plan.evaluators if not selected.evaluator.needs_training]
    counts = [len(s.train) + len(s.validation) + len(s.test) for selected in frozen for s in selected.sets]
    return 4 * values * max(counts, default=0)


def _training_cost(cell: Cell, context: RunContext) -> tuple[float, float, int]:
    """(FLOPs an image, passes an image, bytes) of training one cell."""
    task = build_task(cell, context).to(context.device).train()
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    few = 8 if context.data.size <= SMALL else 2  # large ones take long, and all cost the same
    images = min(few * task.divides, cell.candidate.recipe.batch_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        batch, setting = pretraining_batches(cell, context).batch(0), cell.candidate
        cost = measure_cost(task, batch, images, setting.steps, setting.schedule_steps)
    weights = sum(p.numel() * p.element_size() for p in task.parameters())
    activations = max(0, sum(saved.values()) - weights) / images * cell.candidate.recipe.batch_size
    return cost.flops, cost.passes, int(activations + 4 * weights)


def _fitting_flops(cell: Cell, planned: PlannedEvaluation, widths: list[int]) -> float:
    """What probes compute once they have features; pixels and PCA, which have one representation, count as its widest
    stage."""
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
