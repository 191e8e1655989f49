"""One cell: pretraining and its evaluations, with whatever fails contained and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_bench.errors import DamagedRecord, DamagedWeights, Interrupted, SSLBenchError, WeightsError, text_of
from ssl_bench.plan.cells import Cell, PlannedEvaluation
from ssl_bench.plan.context import RunContext
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plan.stored import HOW, read_evaluation, read_pretraining, times_opened_before
from ssl_bench.records.environment import now
from ssl_bench.records.schema import Failure, Pretraining, failure_files, write_record
from ssl_bench.runner.evaluation import CellEvaluation
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.pretraining import load_task, pretrain_cell
from ssl_bench.system.digests import notice
from ssl_bench.system.disk import is_unwritable, no_room
from ssl_bench.system.interruption import is_interruption
from ssl_bench.system.terminal import traceback_of


def compute_cell(
    cell: Cell, run_plan: RunPlan, context: RunContext, observer: Observer, final: bool
) -> dict[Path, Failure]:
    """Compute one cell, its failures contained: the rest of the matrix goes on, and an evaluator that fails does not
    cost the others.

    Returns the failures by the files that record them.
    """
    failures: dict[str, Failure] = {}  # by the name of their files
    pretraining = None
    with _recorded_failure(cell, context, "pretraining", failures):
        with context.guarded():
            pretraining, task = _pretraining_of(cell, run_plan, context, final)
        cell_evaluation = CellEvaluation(cell, context, task)
        for planned in run_plan.missing(cell, final):
            context.on_note(f"{cell.address}: {planned.name}")
            with _recorded_failure(cell, context, planned.name, failures, planned), context.guarded():
                opened = _told_opened_before(cell, planned, final)
                cell_evaluation.ask(planned, final, opened)
    for name, failure in failures.items():
        write_record(cell.folder / name, failure)
        observer.cell_failed(cell, failure)
    for path in failure_files(cell.folder):  # of an earlier attempt
        if path.name not in failures:
            path.unlink(missing_ok=True)
    if not failures:
        evaluations = [record for planned in cell.evaluations if (record := read_evaluation(cell, planned)) is not None]
        if pretraining is not None:
            observer.cell_finished(cell, pretraining, evaluations)
    return {cell.folder / name: failure for name, failure in failures.items()}


def _pretraining_of(cell: Cell, run_plan: RunPlan, context: RunContext, final: bool) -> tuple[Pretraining, Any]:
    """The record of a cell and its trained task (None where nothing is to be asked of it): as they are on disk, or
    trained now.

    Raises WeightsError where that would replace what a finished training left, and nobody asked for it.
    """
    why = run_plan.blocked(cell, final)
    if not why:
        pretraining = read_pretraining(cell)
        if pretraining is None:
            return _train(cell, run_plan, context)
        try:
            return pretraining, load_task(cell, context, pretraining.weights) if run_plan.missing(cell, final) else None
        except DamagedWeights as error:
            why = str(error)
    if not run_plan.recompute:
        raise WeightsError(f"{why}; {HOW}; without it nothing of this cell is changed")
    notice(f"{cell.address}: {why}; trained again")
    return _train(cell, run_plan, context)


def _train(cell: Cell, run_plan: RunPlan, context: RunContext) -> tuple[Pretraining, Any]:
    pretraining, task = pretrain_cell(cell, context)
    run_plan.look_again(cell)
    return pretraining, task


def _told_opened_before(cell: Cell, planned: PlannedEvaluation, final: bool) -> int:
    """How often test was opened for an evaluation that is to be measured now; a damaged record is told, and so is that
    test is opened again."""
    opened = times_opened_before(cell, planned)
    try:
        read_evaluation(cell, planned)
    except DamagedRecord as error:
        again = f"; it was open before, and is opened once more: {opened + 1} times" if final and opened else ""
        notice(f"{cell.address}: {str(error).partition('; ')[0]}; {planned.name} is measured again{again}")
    return opened


@contextmanager
def _recorded_failure(
    cell: Cell, context: RunContext, where: str, failures: dict[str, Failure], planned: PlannedEvaluation | None = None
) -> Iterator[None]:
    """Turn whatever one part raises, SystemExit included, into a Failure; a request to stop goes through, and what
    would fail every cell alike."""
    try:
        yield
    except BaseException as error:
        if is_interruption(error):
            if isinstance(error, Interrupted | KeyboardInterrupt):
                raise
            raise Interrupted(
                f"{cell.address}: stopped in {where}, which ended with {type(error).__name__}: {text_of(error)}"
            ) from error
        if (full := no_room(error, cell.folder)) is not None:
            raise full from error
        if is_unwritable(error, cell.folder):
            raise
        left = (
            f" (before that it changed, for the whole program, {context.left_changed}; this was set back)"
            if context.left_changed
            else ""
        )
        failures[f"failed-{planned.file_name if planned else 'pretraining'}.json"] = Failure(
            row=cell.row.name,
            task=cell.row.task.name,
            seed=cell.seed,
            where=where,
            id=planned.id if planned else "",
            error=type(error).__name__,
            message=text_of(error) + left,
            traceback="" if isinstance(error, SSLBenchError) else traceback_of(error),
            created=now(),
        )
