"""Evaluating one pretrained cell; each evaluator ends in a record on disk."""

from __future__ import annotations

import copy
import io
import shutil
import time
from functools import cached_property
from typing import Any

import numpy as np

from ssl_bench.data.images import ImageSet
from ssl_bench.evaluators.base import Evaluation, Subject
from ssl_bench.evaluators.features import FrozenFeatures
from ssl_bench.evaluators.plugins import refuse_unusable_evaluation, with_copies
from ssl_bench.plan.cells import Cell, PlannedEvaluation
from ssl_bench.plan.context import RunContext
from ssl_bench.plugins.registry import EVALUATORS
from ssl_bench.records.environment import environment, now
from ssl_bench.records.files import PARTS_SUFFIX
from ssl_bench.records.schema import (
    EvaluationRecord,
    Pretraining,
    measurement_record,
    read_record,
    write_bytes,
    write_record,
)
from ssl_bench.runner.pretraining import load_task
from ssl_bench.system.digests import digest_of
from ssl_bench.training.seeding import seed_everything


class CellEvaluation:
    """One pretrained cell before its evaluators: weights loaded once (or ``task`` as it was just trained), features
    extracted once per labelled set."""

    def __init__(self, cell: Cell, context: RunContext, task: Any = None) -> None:
        self.cell, self.shop = cell, context
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
        judged = self.task.evaluated()
        labelled, context = planned.labelled, self.shop
        parts = self.cell.folder / f"{planned.file_name}{PARTS_SUFFIX}"
        subject = Subject(
            backbone=judged,
            fresh_backbone=lambda: copy.deepcopy(judged),
            features=self.features(planned, final),
            train=labelled.train,
            validation=labelled.validation,
            test=labelled.test if final else None,
            seed=self.cell.seed,
            device=context.device,
            precision=context.precision,
            role=self.cell.row.task.role,
            diagnose=self.task.diagnose,
            codes=self.task.codes,
            decode=self.task.decode,
            sample=self.task.sample,
            progress=context.on_note,
            stop=context.stop,
            parts=parts,
            checkpoint_seconds=context.checkpoint_seconds,
        )
        started = time.perf_counter()
        seed_everything(self.cell.seed, 0xE7)
        if not EVALUATORS.is_builtin(planned.evaluator.name):
            subject = with_copies(subject)
        unsupported = planned.evaluator.supports(planned.options, judged)
        if unsupported:
            evaluation = Evaluation([])
        else:
            evaluation = planned.evaluator(planned.options).evaluate(subject)
            if not EVALUATORS.is_builtin(planned.evaluator.name):
                target = labelled.test.labels if final and isinstance(labelled.test, ImageSet) else None
                sizes = {split: len(getattr(labelled, split)) for split in ("train", "validation", "test")}
                refuse_unusable_evaluation(planned.name, evaluation, sizes, target, planned.evaluator.declared(), final)
        seconds = time.perf_counter() - started
        record = _write_evaluation(
            self.cell, planned, evaluation, final, opened_before, self.weights, seconds, context, unsupported
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
    context: RunContext,
    unsupported: str = "",
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
        test_opened=opened_before + int(final and not unsupported),
        measurements=measurements,
        details=dict(evaluation.details),
        notes=list(evaluation.notes),
        unsupported=unsupported,
        weights=weights,
        predictions=digest_of(predictions) if predictions else "",
        seconds=seconds,
        changed=context.changed(),
        environment=environment(context.device, context.used_precision),
        created=now(),
    )
    if predictions:
        write_bytes(cell.folder / f"{planned.file_name}.npz", predictions)
    write_record(cell.folder / f"{planned.file_name}.json", record)
    return record
