"""Running a matrix: plan, compute what is missing, choose, test, report. Nothing finished is ever lost by a later
failure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ssl_bench.errors import (
    DamagedRecord,
    DamagedWeights,
    Interrupted,
    RecordError,
    SSLBenchError,
    WeightsError,
    text_of,
)
from ssl_bench.plan.cells import Cell, PlannedEvaluation
from ssl_bench.plan.choices import choose
from ssl_bench.plan.context import RunContext
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.rows import Candidate, Row
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plan.run_record import write_run
from ssl_bench.plan.stored import HOW, read_evaluation, read_pretraining, times_opened_before
from ssl_bench.records.environment import now
from ssl_bench.records.schema import EvaluationRecord, Failure, Pretraining, failure_files, write_record
from ssl_bench.runner.evaluation import CellEvaluation
from ssl_bench.runner.pretraining import load_task, pretrain_cell
from ssl_bench.spec.matrix import Matrix
from ssl_bench.system.digests import notice, tell_unchecked
from ssl_bench.system.disk import is_unwritable, no_room, remove_leftovers, writing_to
from ssl_bench.system.interruption import between_steps, is_interruption
from ssl_bench.system.terminal import traceback_of
from ssl_bench.training.loop import TrainingProgress

LOCK_POLL_SECONDS = 2.0


class Observer:
    """Who watches a run; every method may be overridden, none has to be."""

    def packing(self, what: str, done: int, total: int) -> None: ...
    def planned(self, run_plan: RunPlan) -> None: ...
    def cell_started(self, cell: Cell, number: int, total: int) -> None: ...
    def progressed(self, progress: TrainingProgress) -> None: ...
    def noted(self, text: str) -> None: ...
    def cell_finished(self, cell: Cell, pretraining: Pretraining, evaluations: list[EvaluationRecord]) -> None: ...
    def cell_failed(self, cell: Cell, failure: Failure) -> None: ...
    def chose(self, row: Row, winner: Candidate, scores: Mapping[str, float]) -> None: ...


def run(
    matrix: Matrix | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    sets: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    val: bool = False,
    limit: int | None = None,
    device: str | None = None,
    data_root: str | Path | None = None,
    plugins: tuple[str | Path, ...] = (),
    recompute: bool = False,
    skip_checks: bool = False,
    observer: Observer | None = None,
    report: bool = True,
) -> Any:
    """Run a benchmark matrix and return its Results.

    Parameters
    ----------
    matrix : a Matrix, plain data, a shipped name ("quick") or a YAML file.
    out : results folder; ``runs/NAME`` unless given. What it already holds is not computed again.
    sets : settings that change the matrix, as "pretrain.epochs=8".
    only : rows or tasks to compute now; the table keeps all rows.
    val : stop before test; the table shows validation.
    limit : use at most so many images of train and of test.
    device : "auto", "cpu", "cuda", "cuda:N" or "mps"; None: the matrix runs on the best one here.
    data_root : folder searched before anything is downloaded; None takes SSL_BENCH_DATA.
    plugins : Python files with tasks or evaluators.
    recompute : train cells again whose record or weights are damaged, or whose weights are gone and needed; without it
        they fail.
    skip_checks : train tasks of plugins without the quick part of their battery.
    observer : told of every cell, step and note.
    report : write the table's files.

    Raises
    ------
    SSLBenchError : the matrix or its data cannot work. A cell that fails later does not raise: it is recorded, shown in
        the table and counted in ``Results.failures``.
    Interrupted : Ctrl-C or SIGTERM; everything reached is saved and the same call goes on from there.
    """
    observer = observer or Observer()
    run_plan = prepare(
        matrix,
        out,
        sets=sets,
        only=only,
        val=val,
        limit=limit,
        device=device,
        data_root=data_root,
        plugins=plugins,
        recompute=recompute,
        skip_checks=skip_checks,
        progress=observer.packing,
    )
    return results_of(run_plan, observer, report)


def results_of(run_plan: RunPlan, observer: Observer, report: bool = True) -> Any:
    """Carry out a plan, write its table's files, and return its Results."""
    from ssl_bench.report import load as load_results
    from ssl_bench.report import write_report

    observer.planned(run_plan)
    carry_out(run_plan, observer)
    results = load_results(run_plan.out)
    if report:
        write_report(run_plan.out, results)
    return results


def carry_out(run_plan: RunPlan, observer: Observer) -> list[Failure]:
    """Compute every missing cell: choices first (validation only), then the table. Returns what failed.

    Raises
    ------
    Interrupted : a signal asked to stop.
    NoRoomError, RecordError : nothing can be written any more; what was finished is whole.
    """
    failed: dict[Path, Failure] = {}  # by their files, which are gone where a part was made good meanwhile
    with between_steps() as stop:
        context = RunContext(
            data=run_plan.data,
            backbone=run_plan.matrix.backbone,
            device=run_plan.device,
            precision=run_plan.matrix.precision,
            stage_limit=run_plan.matrix.stage_values,
            checkpoint_seconds=run_plan.matrix.pretrain.checkpoint_seconds,
            looks=run_plan.matrix.pretrain.monitor,
            stop=stop,
            skip_checks=run_plan.skip_checks,
            on_progress=observer.progressed,
            on_note=observer.noted,
        )
        with writing_to(run_plan.out):
            remove_leftovers(run_plan.out)
            write_run(run_plan)
            try:
                todo = [cell for row in run_plan.undecided() for cell in run_plan.candidate_cells(row)]
                failed |= _compute(todo, run_plan, context, observer, final=False)
                if run_plan.undecided():
                    run_plan.look_again()  # processes that share a folder should decide by the same records
                for row in run_plan.undecided():
                    scores = choose(run_plan, row)
                    if scores:
                        observer.chose(row, run_plan.winners[row.name], scores)
                write_run(run_plan)
                failed |= _compute(
                    [cell for cell in run_plan.cells() if run_plan.asked_for(cell.row)],
                    run_plan,
                    context,
                    observer,
                    final=run_plan.final,
                )
            except OSError:  # the folder cannot be written, and run.json cannot either: it stays what it was
                raise
            except BaseException:
                write_run(run_plan)
                raise
            write_run(run_plan)
    tell_unchecked()
    return [failure for path, failure in failed.items() if path.is_file()]


def _compute(
    cells: list[Cell], run_plan: RunPlan, context: RunContext, observer: Observer, final: bool
) -> dict[Path, Failure]:
    """Divide the missing cells with whoever else works on the folder; come back to those others hold until they are
    done.

    That goes for cells, too, that failed here and that another one tries again: what is decided next must not differ
    between processes.
    """
    by_folder: dict[Path, Cell] = {}
    for cell in cells:
        by_folder.setdefault(cell.folder, cell)  # rows of equal settings share one
    cells = list(by_folder.values())
    waiting = [cell for cell in cells if not run_plan.done(cell, final)]
    total = len(waiting)
    tried: set[Path] = set()
    failures: dict[Path, Failure] = {}
    while waiting:
        held, before = 0, len(tried)
        for cell in waiting:
            if context.stop():
                finished = total - sum(not run_plan.done(cell, final) for cell in cells)
                raise Interrupted(
                    f"stopped; {finished} of {total} cells are finished, and the same command goes on from here"
                )
            if run_plan.done(cell, final):
                continue
            try:
                with locked(cell, blocking=False):
                    run_plan.look_again(cell)  # nobody else changes it from here on
                    if cell.folder not in tried and not run_plan.done(cell, final):
                        tried.add(cell.folder)
                        observer.cell_started(cell, len(tried), total)
                        try:
                            failures |= _attempt(cell, run_plan, context, observer, final)
                        finally:
                            run_plan.look_again(cell)
            except Timeout:
                held += 1
        if not held and len(tried) == before:
            return failures
        if held:
            context.on_note(f"waiting for {held} cell{'s' if held > 1 else ''} held by another process")
            time.sleep(LOCK_POLL_SECONDS)
        run_plan.look_again()
        waiting = [cell for cell in waiting if not run_plan.done(cell, final)]
    return failures


@contextmanager
def locked(cell: Cell, blocking: bool) -> Iterator[None]:
    """Hold a cell, so that no other process computes it meanwhile.

    Raises
    ------
    Timeout : another process holds it, and ``blocking`` is False; otherwise this one waits.
    RecordError : the file system has no locks.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(cell.folder / ".lock", blocking=blocking)
        lock.acquire()
    except NotImplementedError:
        raise RecordError(
            f"the file system of {cell.folder} has no file locks, by which processes divide the cells; choose "
            "another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _attempt(
    cell: Cell, run_plan: RunPlan, context: RunContext, observer: Observer, final: bool
) -> dict[Path, Failure]:
    """One cell, its failures contained: the rest of the matrix goes on, and an evaluator that fails does not cost the
    others."""
    failures: dict[str, Failure] = {}  # by the name of their files
    pretraining = None
    with _contained(cell, context, "pretraining", failures):
        with context.guarded():
            pretraining, task = _pretrained(cell, run_plan, context, final)
        cell_evaluation = CellEvaluation(cell, context, task)
        for planned in run_plan.missing(cell, final):
            context.on_note(f"{cell.address}: {planned.name}")
            with _contained(cell, context, planned.name, failures, planned), context.guarded():
                opened = _opened_before(cell, planned, final)
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


def _pretrained(cell: Cell, run_plan: RunPlan, context: RunContext, final: bool) -> tuple[Pretraining, Any]:
    """The record of a cell and its trained task (None where nothing is to be asked of it): as they are on disk, or
    trained now.

    Raises WeightsError where that would replace what a finished training left, and nobody asked for it.
    """
    why = run_plan.blocked(cell, final)
    if not why:
        pretraining = read_pretraining(cell)
        if pretraining is None:
            return _trained(cell, run_plan, context)
        try:
            return pretraining, load_task(cell, context, pretraining.weights) if run_plan.missing(cell, final) else None
        except DamagedWeights as error:
            why = str(error)
    if not run_plan.recompute:
        raise WeightsError(f"{why}; {HOW}; without it nothing of this cell is changed")
    notice(f"{cell.address}: {why}; trained again")
    return _trained(cell, run_plan, context)


def _trained(cell: Cell, run_plan: RunPlan, context: RunContext) -> tuple[Pretraining, Any]:
    pretraining, task = pretrain_cell(cell, context)
    run_plan.look_again(cell)
    return pretraining, task


def _opened_before(cell: Cell, planned: PlannedEvaluation, final: bool) -> int:
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
def _contained(
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
