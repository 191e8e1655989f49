"""What all cells of a run share, and a cell's task and batches made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_bench.backbones.inputs import InputSpec, kind_named
from ssl_bench.backbones.resnet import Backbone
from ssl_bench.backbones.weights import target_of
from ssl_bench.data import Data
from ssl_bench.data.batches import Batches, ImageStore
from ssl_bench.plan.cells import Cell
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.system.global_state import changed, restored
from ssl_bench.tasks.base import Setup, part_images, parts_of
from ssl_bench.training.device import choose_precision
from ssl_bench.training.loop import TrainingProgress
from ssl_bench.training.seeding import seed_everything

MEASURED_IMAGES = 5_000


@dataclass
class _Moments:
    """Mean and deviation of values that come part by part."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: Tensor) -> None:
        self.count += values.numel()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def deviation(self) -> float:
        variance = max(0.0, self.squares - self.total**2 / self.count) / max(1, self.count - 1)
        return max(variance**0.5, 1e-3)


@dataclass
class RunContext:
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
    probes: int = 0
    skip_checks: bool = False  #: train tasks of plugins without the quick part of their battery
    stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[TrainingProgress], None] = lambda progress: None
    on_note: Callable[[str], None] = lambda text: None

    #: what holds for the whole program, as it was before the part under way
    before: dict[str, Any] = field(default_factory=dict)
    left_changed: str = ""  #: what the last part that failed had changed of it
    _statistics: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = field(default_factory=dict)

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

    def input_statistics(self, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of every channel of a kind of input, over at most 5,000 pretraining images."""
        if kind not in self._statistics:
            handling = kind_named(kind)
            measured = [_Moments() for _ in range(handling.channels)]
            for part in parts_of(self.sample_part, MEASURED_IMAGES, part_images(self.data.size)):
                values = (handling.measure or handling.convert)(part).double()
                for channel in range(values.shape[1]):
                    measured[channel].add(values[:, channel])
            of_channels = measured[: values.shape[1]] * (handling.channels // values.shape[1])
            self._statistics[kind] = (
                tuple(moments.mean for moments in of_channels),
                tuple(moments.deviation for moments in of_channels),
            )
        return self._statistics[kind]

    @cached_property
    def used_precision(self) -> str:
        return choose_precision(self.precision, self.device)

    def sample(self, count: int) -> Tensor:
        """The same pretraining images every time in the same mixed order, float [n, 3, S, S] on the CPU, without
        labels."""
        return self.sample_part(0, count)

    def sample_part(self, start: int, stop: int) -> Tensor:
        """``sample(stop)[start:]``, and no other image in memory."""
        rows = np.random.Generator(np.random.PCG64(0)).permutation(len(self.data.pretrain))[start:stop]
        ordered = np.sort(rows)  # a mapped file is read from front to back
        return ImageStore(self.data.pretrain.without_labels().take(ordered)).gather(
            torch.from_numpy(np.searchsorted(ordered, rows))
        )

    def make_backbone(self, input: str = "rgb", width: float = 1.0) -> Backbone:
        """The matrix's backbone, seeing colour, lightness or another kind of input, or a narrower one."""
        if input == "rgb":
            pixels = InputSpec(kind="rgb", mean=self.data.mean, std=self.data.std)
        elif kind_named(input).scaled:
            mean, std = self.input_statistics(input)
            pixels = InputSpec(kind=input, mean=mean, std=std)
        else:
            pixels = InputSpec(kind=input)
        spec = (
            self.backbone if width == 1.0 else self.backbone.model_copy(update={"width": self.backbone.width * width})
        )
        return Backbone(spec, self.data.size, pixels)


def build_task(cell: Cell, context: RunContext) -> Any:
    """The task of a cell as its seed initialises it; rows of one seed start from the same backbone weights."""
    task_class, images = cell.row.task, context.data.pretrain
    setup = Setup(
        image_size=context.data.size,
        steps=cell.candidate.whole_steps,
        batch_size=cell.candidate.recipe.batch_size,
        num_images=len(images),
        num_classes=len(images.classes) if task_class.uses_labels else None,
        sample=context.sample,
        sample_part=context.sample_part,
    )
    seed_everything(cell.seed, 0xB0)
    backbone = task_class.build_backbone(context.make_backbone, cell.candidate.options)
    if cell.candidate.init is not None:
        cell.candidate.init.into(target_of(cell.candidate.init, backbone))
    seed_everything(cell.seed, 0x7A)
    return task_class(backbone, cell.candidate.options, setup)


def pretraining_batches(cell: Cell, context: RunContext) -> Batches:
    """The batches of a cell: labels and columns reach it only as far as the task declares them."""
    task, images = cell.row.task, context.data.pretrain
    if not task.uses_labels:
        images = images.without_labels()
    return Batches(
        images,
        cell.candidate.recipe.batch_size,
        cell.seed,
        context.device,
        labels=task.uses_labels,
        columns=task.columns,
    )
