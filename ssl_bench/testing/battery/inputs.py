"""Checks of what a task does with the batch it is given: labels and columns it reads, tensors it leaves as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssl_bench.tasks.base import PretextTask
from ssl_bench.testing.battery.bench import Bench, CheckFailed, DeclaredOnly, Forbidden, seeded, tensors
from ssl_bench.testing.battery.views import LOOKED_AT

LABEL_VALUES = 64  #: numbers an image that may stand for a class


def labels(bench: Bench) -> str:
    """Labels and extra columns are read only where they are declared."""
    task, batch = bench.build(), bench.batch()
    if bench.task.uses_labels:
        assert batch.labels is not None
        moved = replace(batch, labels=batch.labels.roll(1))
        if torch.equal(bench.total(task, batch, 1), bench.total(bench.build(), moved, 1)):
            raise CheckFailed(
                "uses_labels is set but other labels give the same loss; remove uses_labels, which marks the row in "
                "every table"
            )
        return "declared and used"
    refusal = Forbidden(
        "batch.labels is read, and a pretext task gets none; set uses_labels = True on the class if it is to see labels"
    )
    bench.losses(task, replace(batch, labels=refusal, extra=DeclaredOnly(batch.extra)), 1)  # type: ignore[arg-type]
    if _follow_labels(bench, task):
        raise CheckFailed(
            "what views returns follows the class labels image by image, though none were given: they come from a "
            "file, or by batch.index. "
            "Set uses_labels = True on the class and read batch.labels, so that the row is marked"
        )
    return "none read"


def _follow_labels(bench: Bench, task: PretextTask) -> bool:
    """Whether a small tensor of the views says the class of every image: one value for each class, over some batches,
    and not the same for all."""
    if bench.images.labels is None:
        return False
    truth = torch.from_numpy(bench.images.labels)
    batches, values, classes = bench.batches(), {}, []  # type: ignore[var-annotated]
    for step in range(LOOKED_AT):
        batch = batches.batch(step)
        classes += truth[batch.index].tolist()
        for number, leaf in enumerate(tensors(bench.views(task, batch, step))):
            small = leaf.ndim and len(leaf) == len(batch) and leaf.numel() <= LABEL_VALUES * len(batch)
            if small:
                values.setdefault(number, []).extend(map(tuple, leaf.reshape(len(leaf), -1).tolist()))
    of_every_image = [rows for rows in values.values() if len(rows) == len(classes) and len(set(rows)) > 1]
    return any(len(set(zip(rows, classes, strict=True))) == len(set(classes)) for rows in of_every_image)


def input_unchanged(bench: Bench) -> str:
    """``views`` leaves the batch as it was, and its result needs no gradient and is finite."""
    task, batch = bench.build(), bench.batch()
    before = copy.deepcopy(batch)
    views = bench.views(task, batch, 1)
    extra = [(f"extra[{name!r}]", batch.extra[name], column) for name, column in before.extra.items()]
    if batch.labels is not None and before.labels is not None:
        extra.append(("labels", batch.labels, before.labels))
    for what, now, then in (("images", batch.images, before.images), ("index", batch.index, before.index), *extra):
        if not torch.equal(now, then):
            raise CheckFailed(
                f"views changed batch.{what} in place; work on a copy, such as batch.images.clone() "
                "(operations that end in _ change their input)"
            )
    leaves = tensors(views)
    if not leaves:
        raise CheckFailed(
            f"views returned {type(views).__name__} without a tensor; return a tensor or a tuple or dict of them"
        )
    if any(view.is_floating_point() and not view.isfinite().all() for view in leaves):
        raise CheckFailed("views gave values that are not finite; look for a division by zero or a logarithm of zero")
    if any(view.requires_grad for view in leaves):
        raise CheckFailed(
            "views gave tensors that require a gradient; it runs without one, so move what has to learn into forward"
        )
    task = bench.build().eval()
    uses: list[tuple[str, Callable[[Tensor], Any]]] = [
        ("evaluated()", task.evaluated()),
        ("codes", task.codes),
        ("diagnose", task.diagnose),
        ("preview", lambda images: task.preview(replace(bench.batch(8), images=images))),
    ]
    for what, use in uses:
        images = bench.images_only(8)
        kept = images.clone()
        with torch.no_grad(), bench.calling(what), seeded(1):
            use(images)
        if not torch.equal(images, kept):
            raise CheckFailed(
                f"{what} changed the images it was given in place; other evaluators see the same ones: work on a copy"
            )
    return f"{len(leaves)} tensors"
