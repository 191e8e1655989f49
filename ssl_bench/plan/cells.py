"""From what a user wrote to the cells that have to be computed: rows, candidates, seeds, evaluations, and their ids."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl_bench.data import Data
from ssl_bench.plan.candidate import Candidate
from ssl_bench.plan.evaluations import EvaluatorOnSets
from ssl_bench.plan.rows import Row
from ssl_bench.plugins.identity import code_in, identity
from ssl_bench.plugins.registry import EVALUATORS, TASKS
from ssl_bench.records.schema import digest, safe_name
from ssl_bench.spec.matrix import Matrix

HEADLINE = "linear"  # choices between candidates are made by its best stage on validation


@dataclass(frozen=True)
class PlannedEvaluation:
    """One evaluator on one labelled set (or a set of its own), for one cell."""

    evaluator: type[Any]
    options: Any
    labelled: Any
    spec: Mapping[str, Any]
    id: str
    number: int = 1  #: among the matrix's evaluators of this name on this set

    @property
    def name(self) -> str:
        return self.evaluator.name

    @property
    def file_name(self) -> str:
        return f"{safe_name(self.name)}-{self.id}"


@dataclass(frozen=True)
class Cell:
    """One backbone to pretrain and what to ask it."""

    row: Row
    candidate: Candidate
    seed: int
    spec: Mapping[str, Any]
    id: str
    folder: Path
    evaluations: tuple[PlannedEvaluation, ...] = field(default=())

    @property
    def address(self) -> str:
        return f"{self.row.name}/{self.seed}"


def pretraining_spec(matrix: Matrix, data: Data, row: Row, candidate: Candidate, seed: int) -> dict[str, Any]:
    """Everything that can change a pretrained backbone and is known before the run."""
    spec: dict[str, Any] = {
        "task": identity(TASKS, row.spec.task),
        "options": candidate.options.model_dump(mode="json"),
        "backbone": matrix.backbone.model_dump(mode="json"),
        "images": data.pretrain.fingerprint,
        "image_size": data.size,
        "seed": seed,
    }
    if operations := code_in(candidate.options):
        spec["operations"] = operations
    if row.task.role.trains:
        spec |= {
            "recipe": candidate.recipe.identity(),
            "steps": candidate.steps,
            "precision": matrix.precision,
        }
        if candidate.schedule_steps is not None:
            spec["schedule_steps"] = candidate.schedule_steps
        apart = {phase: recipe for phase, recipe in candidate.recipes.items() if recipe != candidate.recipe}
        if apart:
            spec["phase_recipes"] = {phase: recipe.identity() for phase, recipe in apart.items()}
    if candidate.init is not None:
        spec["init"] = candidate.init.digest
    if row.task.columns:
        columns = {name: np.ascontiguousarray(data.pretrain.columns[name]) for name in sorted(row.task.columns)}
        spec["columns"] = {name: hashlib.sha256(column.tobytes()).hexdigest()[:16] for name, column in columns.items()}
    return spec


def cell_of(
    matrix: Matrix, data: Data, row: Row, candidate: Candidate, seed: int, out: Path, evaluators: list[EvaluatorOnSets]
) -> Cell:
    """One cell with its id, its folder and the evaluations it needs."""
    spec = pretraining_spec(matrix, data, row, candidate, seed)
    cell_id = digest(spec)
    planned: list[PlannedEvaluation] = []
    counts: Counter[tuple[str, str]] = Counter()
    for selected, labelled in ((asked, labelled) for asked in evaluators for labelled in asked.sets):
        counts[selected.evaluator.name, labelled.name] += 1
        if seed in selected.seeds:
            evaluation_spec: dict[str, Any] = {
                "evaluator": identity(EVALUATORS, selected.evaluator.name)
                | {"version": selected.evaluator.version_on(selected.options, labelled)},
                "options": selected.options.model_dump(mode="json"),
                "pretraining": cell_id,
                "data": {
                    "train": labelled.train.fingerprint,
                    "validation": labelled.validation.fingerprint,
                    "test": labelled.test.fingerprint,
                },
            }
            if operations := code_in(selected.options):
                evaluation_spec["operations"] = operations
            if selected.evaluator.needs_training and matrix.precision != "auto":
                evaluation_spec["precision"] = matrix.precision  # a row that is not pretrained has it nowhere else
            if not selected.evaluator.needs_training and matrix.stage_values is not None:
                evaluation_spec["stage_values"] = matrix.stage_values
            if digest(evaluation_spec) not in {known.id for known in planned}:
                number = counts[selected.evaluator.name, labelled.name]
                planned.append(
                    PlannedEvaluation(
                        selected.evaluator, selected.options, labelled, evaluation_spec, digest(evaluation_spec), number
                    )
                )
    folder = out / "cells" / safe_name(row.name) / f"{seed}-{cell_id[:8]}"
    return Cell(row, candidate, seed, spec, cell_id, folder, tuple(planned))
