"""A budget of network passes: how many images each task may see for as many passes as every other one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ssl_bench.data import Data
from ssl_bench.errors import SpecError, text_of
from ssl_bench.plan.candidate import Candidate
from ssl_bench.plan.cells import Cell
from ssl_bench.plan.context import RunContext, build_task, pretraining_batches
from ssl_bench.plan.rows import Row
from ssl_bench.spec.matrix import Matrix
from ssl_bench.system.interruption import is_interruption
from ssl_bench.training.cost import measure_cost

_IMAGES = 8  # for each part of a task that divides them; all images of a task cost the same
# where passes are counted by area, any network with the matrix's stem will do
_NARROW = {"name": "resnet18", "width": 0.25}


def at_equal_passes(rows: Sequence[Row], matrix: Matrix, data: Data, passes: int) -> list[Row]:
    """The rows with as many steps as ``passes`` network passes allow, counted on a few images of each candidate.

    A pass is one whole image through the network that is judged: a rotation of it counts as one, a tile as its share of
    the area. Networks beside that one (a momentum teacher, both halves of a pair) count by their FLOPs, see
    ``training.meter.NetworkMeter``.

    Raises
    ------
    SpecError : the passes of a task cannot be counted, or are fewer than its first batch takes.
    """
    contexts = [
        RunContext(data=data, backbone=backbone, device=torch.device("cpu"), precision="fp32")
        for backbone in (matrix.backbone.model_copy(update=_NARROW), matrix.backbone)
    ]
    return [
        replace(row, candidates=tuple(_within(row, candidate, contexts, passes) for candidate in row.candidates))
        if row.task.role.trains
        else row
        for row in rows
    ]


def _within(row: Row, candidate: Candidate, contexts: Sequence[RunContext], passes: int) -> Candidate:
    """``contexts``: with a narrow network, and with the matrix's, which is needed where networks are weighed against
    each other."""
    where = f"task {row.name!r}"
    cell = Cell(row, replace(candidate, init=None), seed=0, spec={}, id="", folder=Path())
    try:
        for context in contexts:
            task = build_task(cell, context).train()
            few = min(_IMAGES * task.divides, candidate.recipe.batch_size)
            cost = measure_cost(
                task, pretraining_batches(cell, context).batch(0), few, candidate.steps, candidate.schedule_steps
            )
            if cost.by_area:
                break
    except BaseException as error:  # of a plugin, perhaps
        if is_interruption(error):
            raise
        why = f"{type(error).__name__}: {text_of(error)}"
        raise SpecError(
            f"{where}: its network passes cannot be counted ({why}); give pretrain `epochs` or `images`"
        ) from error
    each = cost.passes
    if each <= 0:
        raise SpecError(
            f"{where} sends nothing through a network, and pretrain.passes cannot be shared with it; give `epochs` "
            "or `images`"
        )
    needed = each * candidate.recipe.batch_size
    if needed > passes:
        told = (
            f"one batch of {candidate.recipe.batch_size} takes {needed:,.0f} network passes, and "
            f"pretrain.passes is {passes:,}"
        )
        raise SpecError(f"{where}: {told}; give more passes or a smaller batch_size")
    return replace(candidate, steps=round(passes / needed)).cut(where)
