"""Writing run.json: what the table of a run is made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssl_bench.data import Labelled
from ssl_bench.errors import DamagedRecord
from ssl_bench.plan.cells import Cell
from ssl_bench.plan.choices import decide
from ssl_bench.plan.run_plan import RunPlan, applies
from ssl_bench.plugins.registry import EVALUATORS
from ssl_bench.records.environment import now
from ssl_bench.records.protocols import unequal
from ssl_bench.records.schema import (
    Run,
    RunCell,
    RunEvaluation,
    RunRow,
    read_record,
    write_record,
)
from ssl_bench.spec.schedule import cut_schedule_words


def write_run(run_plan: RunPlan) -> None:
    """Write run.json: what the table is made of, as far as it is decided, by this command, an earlier one or another
    process.

    While a candidate that failed is to be tried again, the best of the others stands for its row.
    """
    matrix, data = run_plan.matrix, run_plan.data
    open_rows = [row for row in run_plan.rows if len(row.candidates) > 1 and row.name not in run_plan.winners]
    standing = {row.name: best for row in open_rows if (best := decide(run_plan, row, give_up=True)[0]) is not None}
    chosen = {**run_plan.winners, **standing}
    cells = run_plan.cells(chosen)
    for row in open_rows:  # nothing to choose from: one of the failures stands for the row
        if row.name not in chosen:
            cells += [cell for cell in run_plan.candidate_cells(row) if run_plan.snapshot.failed(cell)][:1]
    table = {cell.id for cell in cells}
    losers = [
        cell
        for row in run_plan.rows
        if len(row.candidates) > 1
        for cell in run_plan.candidate_cells(row)
        if cell.id not in table
    ]
    rows = []
    for row in run_plan.rows:
        winner = chosen.get(row.name) if len(row.candidates) > 1 else row.candidates[0]
        init, labels = row.start(winner)
        rows.append(RunRow(
            row=row.name, task=row.task.name, block=row.block, uses_labels=labels, init=init,
            choices=len(row.candidates),
            chosen=dict(winner.chosen) if winner is not None else {},
        ))  # fmt: skip
    path = run_plan.out / "run.json"
    if not run_plan.created:
        try:
            run_plan.created = read_record(path, Run).created if path.is_file() else now()
        except DamagedRecord:  # told before
            run_plan.created = now()
    record = Run(
        name=matrix.name,
        matrix=matrix.model_dump(mode="json"),
        data={
            "pretrain": {
                "name": data.pretrain.name,
                "images": len(data.pretrain),
                "size": data.size,
                "skipped": data.pretrain.skipped,
            },
            "evaluate": [_describe(e) | _majority_class(e) for e in data.evaluate],
            "notes": list(data.notes),
            "own": [
                _describe(e) | {"evaluator": selected.evaluator.name}
                for selected in run_plan.evaluators
                if selected.brings_sets
                for e in selected.sets
            ],
        },
        backbone=describe_backbone(run_plan),
        budget=describe_budget(run_plan),
        final=run_plan.final,
        seeds=list(matrix.seeds),
        rows=rows,
        cells=[_run_cell(run_plan, cell) for cell in cells],
        losers=[_run_cell(run_plan, cell) for cell in losers],
        evaluators={
            asked.evaluator.name: asked.evaluator.declared()
            for asked in run_plan.evaluators
            if not EVALUATORS.is_builtin(asked.evaluator.name)
        },
        only=list(run_plan.only),
        created=run_plan.created,
    )
    write_record(path, record)


def _describe(judged: Any) -> dict[str, Any]:
    counts = {split: len(getattr(judged, split)) for split in ("train", "validation", "test")}
    return {"name": judged.name, **counts, "classes": list(judged.train.classes)}


def _majority_class(judged: Labelled) -> dict[str, Any]:
    """The largest class of train and its share of every split, where it has so much of one that accuracies are
    balanced; {} else."""
    labels = {split: np.asarray(getattr(judged, split).labels) for split in ("train", "validation", "test")}
    classes = len(judged.train.classes)
    if not classes or not all(len(of_split) for of_split in labels.values()):
        return {}
    largest = int(np.bincount(labels["train"], minlength=classes).argmax())
    if not any(unequal(int(np.sum(of_split == largest)), len(of_split), classes) for of_split in labels.values()):
        return {}
    return {
        "majority": {
            "class": judged.train.classes[largest],
            **{split: float(np.mean(of_split == largest)) for split, of_split in labels.items()},
        }
    }


def _run_cell(run_plan: RunPlan, cell: Cell) -> RunCell:
    expected = [
        RunEvaluation(evaluator=p.name, data=p.labelled.name, id=p.id, number=p.number)
        for p in cell.evaluations
        if applies(cell, p)
    ]
    folder = cell.folder.relative_to(run_plan.out).as_posix()
    chosen = dict(cell.candidate.chosen) if len(cell.row.candidates) > 1 else {}
    return RunCell(
        row=cell.row.name, seed=cell.seed, folder=folder, pretraining=cell.id, evaluations=expected, chosen=chosen
    )


def describe_backbone(run_plan: RunPlan) -> str:
    """ "resnet18, width 0.25, 3x3 stem, stride 2"."""
    spec, parts = run_plan.matrix.backbone, [run_plan.matrix.backbone.name]
    if spec.width != 1:
        parts.append(f"width {spec.width:g}")
    if spec.stem == "3x3" or (spec.stem == "auto" and run_plan.data.size <= 96):
        parts += ["3x3 stem", f"stride {spec.stem_stride or (1 if run_plan.data.size <= 32 else 2)}"]
    return ", ".join(parts)


def describe_budget(run_plan: RunPlan) -> str:
    """ "4 epochs x 4,500 images"."""
    spec, images = run_plan.matrix.pretrain, len(run_plan.data.pretrain)
    cut = f" of a schedule of {spec.schedule_epochs:g} epochs" if cut_schedule_words(spec.model_dump()) else ""
    if spec.passes:
        return f"{spec.passes:,} network passes a row{cut}"
    return (f"{spec.images:,} images seen" if spec.images else f"{spec.epochs:g} epochs x {images:,} images") + cut
