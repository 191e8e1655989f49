"""Pretraining one cell: its network trained, its weights and its record written."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssl_bench.backbones.network import Network, refuse_unbuildable
from ssl_bench.backbones.resnet import Backbone, reestimate_batchnorm
from ssl_bench.backbones.saving import load_strictly, save_backbone
from ssl_bench.data import places_of
from ssl_bench.data.batches import ImageStore
from ssl_bench.data.images import ImageSet, evenly_spaced
from ssl_bench.errors import DamagedWeights
from ssl_bench.plan.cells import Cell
from ssl_bench.plan.context import RunContext, build_task, pretraining_batches
from ssl_bench.records.environment import environment, now
from ssl_bench.records.files import BACKBONE_FILE, CHECKPOINT_FILE, PARTS_SUFFIX, TASK_FILE, TASK_KIND
from ssl_bench.records.published_weights import read_task_state
from ssl_bench.records.schema import (
    HealthRecord,
    Pretraining,
    write_record,
)
from ssl_bench.records.tensors import save_tensors
from ssl_bench.runner.monitoring import clean_images, knn_trend, monitors_of
from ssl_bench.runner.prechecks import checks_before_training
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.training.checkpoints import remove
from ssl_bench.training.loop import FitResult, fit
from ssl_bench.training.movement import Movement, constant_features
from ssl_bench.training.seeding import seed_everything

DIAGNOSED_IMAGES = 1_000
CHECKED_IMAGES = 64  # on which features are looked at for collapse


def pretrain_cell(cell: Cell, context: RunContext) -> tuple[Pretraining, Any]:
    """Train one backbone, write its weights and its record; returns the record and the trained task.

    A checkpoint left by an earlier attempt is continued.

    Raises
    ------
    TrainingError : a plugin that fails a check of its battery; a loss, weights or features that are not finite; a task
        that declares that it trains and left the judged network as it was.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = cell.folder / CHECKPOINT_FILE
    started = time.perf_counter()
    checks = ""
    if cell.row.task.role.trains:
        checks = checks_before_training(
            cell.row.task,
            cell.candidate.options,
            context.data.size,
            places_of(None).cache,
            context.skip_checks,
            context.on_note,
        )
    task = build_task(cell, context)
    describe = _described(task, cell, context, {})
    _refuse_unsaveable(task.evaluated(), cell, context)
    result, movement = FitResult(), Movement()
    if task.role.trains:
        result = fit(
            task,
            pretraining_batches(cell, context),
            cell.candidate.recipes,
            cell.candidate.steps,
            seed=cell.seed,
            device=context.device,
            precision=context.precision,
            checkpoint=checkpoint,
            checkpoint_seconds=context.checkpoint_seconds,
            final_checkpoint=True,
            monitors=monitors_of(context),
            on_progress=context.on_progress,
            stop=context.stop,
            movement=movement,
            schedule_steps=cell.candidate.schedule_steps,
        )
        describe = _described(task, cell, context, describe)  # with what was measured when training began
        control = cell.row.task.role is TaskRole.CONTROL
        describe |= _moved_tensors_record(
            movement.check(task, cell.candidate.recipe.learning_rate, control), cell, context
        )
    task.to(context.device).eval()
    judged = task.evaluated()
    if isinstance(judged, Backbone) and judged.input.kind != "rgb":
        describe["input"] = judged.input.kind
    reestimate_batchnorm(judged, clean_images(context.data.pretrain, context.device))
    unseen = context.data.evaluate[0].validation if context.data.evaluate else context.data.pretrain
    some = _some_images(unseen, context.device)
    if task.role.trains and (constant := constant_features(judged, some[:CHECKED_IMAGES], cell.row.task.name)):
        describe["constant_features"] = constant
        context.on_note(f"{cell.row.name}: {constant} gives every image the same features; the network has collapsed")
    seed_everything(cell.seed, 0xD1)
    with torch.no_grad():
        diagnosed = {name: float(value) for name, value in task.diagnose(some).items()}
        health = dict(task.health())
    for name, sign in health.items():
        if sign.alarm:
            context.on_note(f"{cell.row.name}: {name} {sign.alarm}")
    weights = save_tensors(cell.folder / TASK_FILE, task.state_dict(), TASK_KIND, {"pretraining": cell.id})
    if isinstance(judged, Network):
        save_backbone(judged, cell.folder / BACKBONE_FILE)
    record = Pretraining(
        id=cell.id,
        row=cell.row.name,
        task=cell.row.task.name,
        seed=cell.seed,
        block=cell.row.block,
        uses_labels=cell.row.task.uses_labels,
        spec=dict(cell.spec),
        checks=checks,
        describe=describe,
        diagnose=diagnosed,
        health={name: HealthRecord(**vars(sign)) for name, sign in health.items()},
        metrics=result.metrics,
        curves=result.curves,
        trend=knn_trend(result.curves),
        steps=result.steps,
        images_seen=result.images_seen,
        passes=result.passes,
        flops=result.flops,
        parameters=sum(p.numel() for p in judged.parameters()),
        seconds=result.seconds or {"total": time.perf_counter() - started},
        images_per_second=result.images_per_second,
        peak_memory=result.peak_memory,
        weights=weights,
        changed=context.changed(),
        environment=environment(context.device, context.used_precision),
        created=now(),
    )
    for parts in cell.folder.glob(f"*{PARTS_SUFFIX}"):  # what evaluators began on weights that these replace
        shutil.rmtree(parts, ignore_errors=True)
    write_record(cell.folder / "pretrain.json", record)
    remove(checkpoint)
    return record, task


def _refuse_unsaveable(judged: nn.Module, cell: Cell, context: RunContext) -> None:
    """Raise WeightsError for a network that could not be exported, before it is trained; one that is no Network is only
    judged, which is told."""
    if isinstance(judged, Network) and not isinstance(judged, Backbone):
        refuse_unbuildable(judged)
    elif not isinstance(judged, Network) and cell.row.task.role.fine_tunes:
        context.on_note(
            f"{cell.row.name}: the network is judged and not exported, because {type(judged).__name__} is no "
            "ssl_bench.Network"
        )


def _described(task: Any, cell: Cell, context: RunContext, known: Mapping[str, Any]) -> dict[str, Any]:
    """What the task says of itself; whoever watches is told what was not known before."""
    said = dict(task.describe())
    for name in [name for name in said if name not in known]:
        context.on_note(f"{cell.row.name}: {name} {said[name]}")
    return said | dict(known)


def _moved_tensors_record(moved: str, cell: Cell, context: RunContext) -> dict[str, str]:
    """What to record of how much of the network training moved: nothing where it was all of it."""
    some, _, whole = moved.partition(" of ")
    if some == whole or cell.row.task.role is TaskRole.CONTROL:
        return {}
    context.on_note(f"{cell.row.name}: training moved {moved} parameter tensors of the judged network")
    return {"moved_tensors": moved}


def load_task(cell: Cell, context: RunContext, weights: str = "") -> Any:
    """The trained task of a cell, from its file, or from the two of a published run.

    Parameters
    ----------
    weights : the digest of task.safetensors, as the cell's record has it; "" where that is not known.

    Raises
    ------
    DamagedWeights : the file is not what was written, belongs to another cell or to an earlier training of this one.
    WeightsError : it cannot be read, or holds the tensors of another network.
    """
    tensors, pretraining, known, path = read_task_state(cell.folder)
    if pretraining != cell.id:
        raise DamagedWeights(f"{path} holds the weights of another cell ({pretraining}, not {cell.id})")
    if weights and known != weights:
        raise DamagedWeights(f"{path} holds other weights than those that pretrain.json was written with")
    task = build_task(cell, context)
    load_strictly(task, tensors, str(path))
    return task.to(context.device).eval()


def _some_images(images: ImageSet, device: torch.device) -> Tensor:
    """Images to diagnose a task on, from all over the set, which may be sorted by class."""
    chosen = images.without_labels().take(evenly_spaced(len(images), DIAGNOSED_IMAGES))
    return ImageStore(chosen, device).gather(torch.arange(len(chosen)))
