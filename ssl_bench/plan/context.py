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

from ssl_bench.backbones.resnet import (
    Backbone,
    InputSpec,
    network_of,
)
from ssl_bench.data import Data
from ssl_bench.data.batches import Batches, ImageStore
from ssl_bench.plan.cells import Cell
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.system.global_state import changed, restored
from ssl_bench.tasks.base import Setup, part_images, parts_of
from ssl_bench.training.loop import Progress, choose_precision, seed_everything

LIGHTNESS_IMAGES = 5_000


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


def build_task(cell: Cell, context: RunContext) -> Any:
    """The task of a cell as its seed initialises it; rows of one seed start from the same backbone weights."""
    task_class, images = cell.row.task, context.data.pretrain
    setup = Setup(
        image_size=context.data.size,
        steps=cell.candidate.steps,
        batch_size=cell.candidate.recipe.batch_size,
        num_images=len(images),
        num_classes=len(images.classes) if task_class.uses_labels else None,
        sample=context.sample,
        sample_part=context.sample_part,
    )
    seed_everything(cell.seed, 0xB0)
    backbone = task_class.build_backbone(context.make_backbone, cell.candidate.options)
    if cell.candidate.init is not None:
        cell.candidate.init.into(network_of(backbone))
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
