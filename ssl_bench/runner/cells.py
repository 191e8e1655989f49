"""Computing one cell: pretrain a backbone, then ask it. Each part ends in a record on disk."""

from __future__ import annotations

import copy
import io
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_bench.backbones.resnet import (
    Backbone,
    InputSpec,
    load_strictly,
    network_of,
    reestimate_batchnorm,
    save_backbone,
)
from ssl_bench.data import Data, places_of
from ssl_bench.data.batches import Batches, ImageStore
from ssl_bench.data.images import ImageSet, evenly_spaced
from ssl_bench.errors import DamagedWeights
from ssl_bench.evaluators.base import Evaluation, Subject
from ssl_bench.evaluators.features import FrozenFeatures
from ssl_bench.evaluators.knn import knn_monitor
from ssl_bench.evaluators.plugins import refuse_unusable, with_copies
from ssl_bench.plan.cells import Cell, PlannedEvaluation
from ssl_bench.plugins.registry import EVALUATORS
from ssl_bench.records.environment import environment, now
from ssl_bench.records.schema import (
    EvaluationRecord,
    Pretraining,
    measurement_record,
    read_record,
    write_bytes,
    write_record,
)
from ssl_bench.records.tensors import DIGEST, read_tensors, save_tensors
from ssl_bench.runner.prechecks import checks_before_training
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.system.digests import digest_of
from ssl_bench.system.global_state import changed, restored
from ssl_bench.tasks.base import Setup, part_images, parts_of
from ssl_bench.training.checkpoints import remove
from ssl_bench.training.loop import FitResult, Progress, choose_precision, fit, seed_everything
from ssl_bench.training.movement import Movement, constant_features

STATISTICS_IMAGES = 10_000  # BatchNorm statistics are averaged over at most this many clean training images
CHUNK = 512
MONITOR_IMAGES = 512
DIAGNOSED_IMAGES = 1_000
CHECKED_IMAGES = 64  # on which features are looked at for collapse
LIGHTNESS_IMAGES = 5_000
PARTS_SUFFIX = ".parts"  # folders of evaluations under way
TASK_KIND = "ssl_bench.task"
TASK_FILE, BACKBONE_FILE, CHECKPOINT_FILE = "task.safetensors", "backbone.safetensors", "checkpoint.safetensors"


@dataclass
class Workshop:
    """What all cells of a run share: data on the device, backbone, device, and whom to tell.

    ``stop`` is asked between steps; ``on_progress`` hears of training steps, ``on_note`` of everything else in words.
    """

    data: Data
    backbone: BackboneSpec
    device: torch.device
    precision: str
    stage_limit: int | None = None
    checkpoint_seconds: float = 120.0
    looks: int = 10
    skip_checks: bool = False  #: train tasks of plugins without the quick part of their battery
    stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[Progress], None] = lambda progress: None
    on_note: Callable[[str], None] = lambda text: None

    #: what holds for the whole program, as it was before the part under way
    before: dict[str, Any] = field(default_factory=dict)
    left_changed: str = ""  #: what the last part that failed had changed of it

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What the block changes for the whole program, so for every other row, is set back after it."""
        self.left_changed = ""
        with restored() as self.before:
            try:
                yield
            except BaseException:
                self.left_changed = self.changed()
                raise

    def changed(self) -> str:
        """What the part under way has changed for the whole program, in words."""
        return changed(self.before)

    @cached_property
    def lightness_statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of CIE L / 100 over at most 5,000 pretraining images."""
        from ssl_bench.transforms.lab import lightness

        count, total, squares = 0, 0.0, 0.0
        for part in parts_of(self.sample_part, LIGHTNESS_IMAGES, part_images(self.data.size)):
            values = lightness(part).double() / 100
            count, total, squares = (
                count + values.numel(),
                total + float(values.sum()),
                squares + float(values.square().sum()),
            )
        variance = max(0.0, squares - total**2 / count) / max(1, count - 1)
        return total / count, max(variance**0.5, 1e-3)

    @cached_property
    def used_precision(self) -> str:
        return choose_precision(self.precision, self.device)

    def sample(self, count: int) -> Tensor:
        """The same pretraining images every time in the same mixed order, float [n, 3, S, S] on the CPU, without labels."""
        return self.sample_part(0, count)

    def sample_part(self, start: int, stop: int) -> Tensor:
        """``sample(stop)[start:]``, and no other image in memory."""
        rows = np.random.Generator(np.random.PCG64(0)).permutation(len(self.data.pretrain))[start:stop]
        ordered = np.sort(rows)  # a mapped file is read from front to back
        return ImageStore(self.data.pretrain.without_labels().take(ordered)).gather(
            torch.from_numpy(np.searchsorted(ordered, rows))
        )

    def make_backbone(self, input: str = "rgb", width: float = 1.0) -> Backbone:
        """The matrix's backbone, seeing colour or lightness only, or a narrower one."""
        if input == "lightness":
            mean, std = self.lightness_statistics
            pixels = InputSpec(kind="lightness", mean=(mean,) * 3, std=(std,) * 3)
        elif input == "standardised":
            pixels = InputSpec(kind="standardised")
        else:
            pixels = InputSpec(kind="rgb", mean=self.data.mean, std=self.data.std)
        spec = (
            self.backbone if width == 1.0 else self.backbone.model_copy(update={"width": self.backbone.width * width})
        )
        return Backbone(spec, self.data.size, pixels)


def build_task(cell: Cell, shop: Workshop) -> Any:
    """The task of a cell as its seed initialises it; rows of one seed start from the same backbone weights."""
    task_class, images = cell.row.task, shop.data.pretrain
    setup = Setup(
        image_size=shop.data.size,
        steps=cell.candidate.steps,
        batch_size=cell.candidate.recipe.batch_size,
        num_images=len(images),
        num_classes=len(images.classes) if task_class.uses_labels else None,
        sample=shop.sample,
        sample_part=shop.sample_part,
    )
    seed_everything(cell.seed, 0xB0)
    backbone = task_class.build_backbone(shop.make_backbone, cell.candidate.options)
    if cell.candidate.init is not None:
        cell.candidate.init.into(network_of(backbone))
    seed_everything(cell.seed, 0x7A)
    return task_class(backbone, cell.candidate.options, setup)


def pretraining_batches(cell: Cell, shop: Workshop) -> Batches:
    """The batches of a cell: labels and columns reach it only as far as the task declares them."""
    task, images = cell.row.task, shop.data.pretrain
    if not task.uses_labels:
        images = images.without_labels()
    return Batches(
        images, cell.candidate.recipe.batch_size, cell.seed, shop.device, labels=task.uses_labels, columns=task.columns
    )


def pretrain_cell(cell: Cell, shop: Workshop) -> tuple[Pretraining, Any]:
    """Train one backbone, write its weights and its record; returns the record and the trained task.

    A checkpoint left by an earlier attempt is continued.

    Raises
    ------
    TrainingError : a plugin that fails a check of its battery; a loss, weights or features that are not finite; a task that declares that it
        trains and left the judged network as it was.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = cell.folder / CHECKPOINT_FILE
    started = time.perf_counter()
    checks = ""
    if cell.row.task.trains:
        checks = checks_before_training(
            cell.row.task, cell.candidate.options, shop.data.size, places_of(None).cache, shop.skip_checks, shop.on_note
        )
    task = build_task(cell, shop)
    describe = _described(task, cell, shop, {})
    result, movement = FitResult(), Movement()
    if task.trains:
        result = fit(
            task,
            pretraining_batches(cell, shop),
            cell.candidate.recipe,
            cell.candidate.steps,
            seed=cell.seed,
            device=shop.device,
            precision=shop.precision,
            checkpoint=checkpoint,
            checkpoint_seconds=shop.checkpoint_seconds,
            final_checkpoint=True,
            monitor=_monitor(shop),
            looks=shop.looks,
            on_progress=shop.on_progress,
            stop=shop.stop,
            movement=movement,
        )
        describe = _described(task, cell, shop, describe)  # with what was measured when training began
        describe |= _moved(movement.check(task, cell.candidate.recipe.learning_rate), cell, shop)
    task.to(shop.device).eval()
    judged = task.evaluated()
    if isinstance(judged, Backbone) and judged.input.kind != "rgb":
        describe["input"] = judged.input.kind
    reestimate_batchnorm(judged, _clean_images(shop.data.pretrain, shop.device))
    unseen = shop.data.evaluate[0].validation if shop.data.evaluate else shop.data.pretrain
    some = _some_images(unseen, shop.device)
    if task.trains and (constant := constant_features(judged, some[:CHECKED_IMAGES], cell.row.task.name)):
        describe["constant_features"] = constant
        shop.on_note(f"{cell.row.name}: {constant} gives every image the same features; the network has collapsed")
    seed_everything(cell.seed, 0xD1)
    with torch.no_grad():
        diagnosed = {name: float(value) for name, value in task.diagnose(some).items()}
    weights = save_tensors(cell.folder / TASK_FILE, task.state_dict(), TASK_KIND, {"pretraining": cell.id})
    if isinstance(judged, Backbone):
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
        metrics=result.metrics,
        curves=result.curves,
        trend=_trend(result),
        steps=result.steps,
        images_seen=result.images_seen,
        passes=result.passes,
        flops=result.flops,
        parameters=sum(p.numel() for p in judged.parameters()),
        seconds=result.seconds or {"total": time.perf_counter() - started},
        images_per_second=result.images_per_second,
        peak_memory=result.peak_memory,
        weights=weights,
        changed=shop.changed(),
        environment=environment(shop.device, shop.used_precision),
        created=now(),
    )
    for parts in cell.folder.glob(f"*{PARTS_SUFFIX}"):  # what evaluators began on weights that these replace
        shutil.rmtree(parts, ignore_errors=True)
    write_record(cell.folder / "pretrain.json", record)
    remove(checkpoint)
    return record, task


def _described(task: Any, cell: Cell, shop: Workshop, known: Mapping[str, Any]) -> dict[str, Any]:
    """What the task says of itself; whoever watches is told what was not known before."""
    found = dict(task.describe())
    for name in [name for name in found if name not in known]:
        shop.on_note(f"{cell.row.name}: {name} {found[name]}")
    return found | dict(known)


def _moved(moved: str, cell: Cell, shop: Workshop) -> dict[str, str]:
    """What to record of how much of the network training moved: nothing where it was all of it."""
    some, _, whole = moved.partition(" of ")
    if some == whole or cell.row.task.frozen_backbone:
        return {}
    shop.on_note(f"{cell.row.name}: training moved {moved} parameter tensors of the judged network")
    return {"moved_tensors": moved}


def load_task(cell: Cell, shop: Workshop, weights: str = "") -> Any:
    """The trained task of a cell, from its file.

    Parameters
    ----------
    weights : the digest of the file, as the cell's record has it; "" where that is not known.

    Raises
    ------
    DamagedWeights : the file is not what was written, belongs to another cell or to an earlier training of this one.
    WeightsError : it cannot be read, or holds the tensors of another network.
    """
    path = cell.folder / TASK_FILE
    tensors, header = read_tensors(path)
    if header.get("kind") != TASK_KIND or header.get("pretraining") != cell.id:
        raise DamagedWeights(f"{path} holds the weights of another cell ({header.get('pretraining')}, not {cell.id})")
    if weights and header.get(DIGEST) != weights:
        raise DamagedWeights(f"{path} holds other weights than those that pretrain.json was written with")
    task = build_task(cell, shop)
    load_strictly(task, tensors, str(path))
    return task.to(shop.device).eval()


def has_weights(cell: Cell) -> bool:
    return (cell.folder / TASK_FILE).is_file()


class Examination:
    """One pretrained cell before its evaluators: weights loaded once (or ``task`` as it was just trained), features extracted once per labelled set."""

    def __init__(self, cell: Cell, shop: Workshop, task: Any = None) -> None:
        self.cell, self.shop = cell, shop
        self.weights = read_record(cell.folder / "pretrain.json", Pretraining).weights  # that numbers are bound to
        self._features: dict[tuple[str, ...], FrozenFeatures] = {}
        if task is not None:
            self.task = task

    @cached_property
    def task(self) -> Any:
        return load_task(self.cell, self.shop, self.weights)

    def features(self, planned: PlannedEvaluation, final: bool) -> FrozenFeatures:
        labelled = planned.labelled
        # two sets may share a name
        key = tuple(split.fingerprint for split in (labelled.train, labelled.validation, labelled.test))
        if key not in self._features:
            splits: dict[str, ImageSet] = {"train": labelled.train, "validation": labelled.validation}
            if final:
                splits["test"] = labelled.test
            self._features[key] = FrozenFeatures(
                self.task.evaluated(),
                self.task.codes,
                splits,
                self.shop.device,
                self.shop.stage_limit,
                stop=self.shop.stop,
            )
        return self._features[key]

    def ask(self, planned: PlannedEvaluation, final: bool, opened_before: int = 0) -> EvaluationRecord:
        """Run one evaluator and write its record."""
        judged, trainable = self.task.evaluated(), self.cell.row.task.trainable
        labelled, shop = planned.labelled, self.shop
        parts = self.cell.folder / f"{planned.file_name}{PARTS_SUFFIX}"
        subject = Subject(
            backbone=judged,
            fresh_backbone=lambda: copy.deepcopy(judged),
            features=self.features(planned, final),
            train=labelled.train,
            validation=labelled.validation,
            test=labelled.test if final else None,
            seed=self.cell.seed,
            device=shop.device,
            precision=shop.precision,
            trainable=trainable,
            is_random=self.cell.row.task.untrained,
            diagnose=self.task.diagnose,
            progress=shop.on_note,
            stop=shop.stop,
            parts=parts,
            checkpoint_seconds=shop.checkpoint_seconds,
        )
        started = time.perf_counter()
        seed_everything(self.cell.seed, 0xE7)
        if not EVALUATORS.is_builtin(planned.evaluator.name):
            subject = with_copies(subject)
        evaluation = planned.evaluator(planned.options).evaluate(subject)
        if not EVALUATORS.is_builtin(planned.evaluator.name):
            target = labelled.test.labels if final and isinstance(labelled.test, ImageSet) else None
            refuse_unusable(
                planned.name,
                evaluation,
                {split: len(getattr(labelled, split)) for split in ("train", "validation", "test")},
                target,
            )
        record = _write_evaluation(
            self.cell, planned, evaluation, final, opened_before, self.weights, time.perf_counter() - started, shop
        )
        shutil.rmtree(parts, ignore_errors=True)
        return record


def _write_evaluation(
    cell: Cell,
    planned: PlannedEvaluation,
    evaluation: Evaluation,
    final: bool,
    opened_before: int,
    weights: str,
    seconds: float,
    shop: Workshop,
) -> EvaluationRecord:
    measurements = [measurement_record(planned.name, vars(m)) for m in evaluation.measurements]
    predictions = b""
    if evaluation.predictions:
        buffer = io.BytesIO()
        # With the true labels beside them, predictions can be compared between rows from the records alone.
        test = planned.labelled.test
        arrays = ({"target": np.asarray(test.labels)} if isinstance(test, ImageSet) else {}) | dict(
            evaluation.predictions
        )
        np.savez_compressed(buffer, allow_pickle=False, **{name: np.asarray(array) for name, array in arrays.items()})
        predictions = buffer.getvalue()
    record = EvaluationRecord(
        id=planned.id,
        pretraining=cell.id,
        row=cell.row.name,
        task=cell.row.task.name,
        seed=cell.seed,
        evaluator=planned.name,
        protocol=f"{planned.evaluator.protocol} v{planned.spec['evaluator']['version']}",
        data=planned.labelled.name,
        spec=dict(planned.spec),
        final=final,
        test_opened=opened_before + int(final),
        measurements=measurements,
        details=dict(evaluation.details),
        weights=weights,
        predictions=digest_of(predictions) if predictions else "",
        seconds=seconds,
        changed=shop.changed(),
        environment=environment(shop.device, shop.used_precision),
        created=now(),
    )
    if predictions:
        write_bytes(cell.folder / f"{planned.file_name}.npz", predictions)
    write_record(cell.folder / f"{planned.file_name}.json", record)
    return record


def _clean_images(images: ImageSet, device: torch.device) -> Iterator[Tensor]:
    """Images for BatchNorm statistics, in chunks of equal size, so of equal weight.

    Every chunk is drawn from all of them: many sets are sorted by class, and the variance within one class is not that of the set.
    """
    draw = np.random.Generator(np.random.PCG64(1))
    count = min(len(images), STATISTICS_IMAGES)
    store = ImageStore(images.without_labels().take(np.sort(draw.permutation(len(images))[:count])), device)
    return (
        store.gather(torch.from_numpy(np.sort(part)))
        for part in np.array_split(draw.permutation(count), -(-count // CHUNK))
    )


def _some_images(images: ImageSet, device: torch.device) -> Tensor:
    """Images to diagnose a task on, from all over the set, which may be sorted by class."""
    chosen = images.without_labels().take(evenly_spaced(len(images), DIAGNOSED_IMAGES))
    return ImageStore(chosen, device).gather(torch.arange(len(chosen)))


def _monitor(shop: Workshop) -> Callable[[nn.Module], float] | None:
    """Validation kNN on a copy whose BatchNorm statistics are re-estimated, as they will be in the end; None without labelled images."""
    if not shop.data.evaluate:
        return None
    labelled = shop.data.evaluate[0]
    bank = labelled.train.take(evenly_spaced(len(labelled.train), MONITOR_IMAGES))
    queries = labelled.validation.take(evenly_spaced(len(labelled.validation), MONITOR_IMAGES))

    def look(backbone: nn.Module) -> float:
        copied = copy.deepcopy(backbone)
        reestimate_batchnorm(copied, _clean_images(bank, shop.device))
        return knn_monitor(copied.eval(), bank, queries, shop.device, k=20)

    return look


def _trend(result: FitResult) -> str:
    """Whether the validation monitor was still rising in its last third, beyond the noise of its few images."""
    curve = result.curves.get("knn")
    if curve is None or len(curve.value) < 6:
        return ""
    third = len(curve.value) // 3
    before, after = np.mean(curve.value[-2 * third : -third]), np.mean(curve.value[-third:])
    noise = np.sqrt(max(after * (1 - after), 1e-4) / MONITOR_IMAGES)
    return "still rising" if after - before > noise else "flat"
