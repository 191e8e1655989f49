"""Running a matrix: plan, compute what is missing, choose, test, report. Nothing finished is ever lost by a later
failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import Timeout

from ssl_bench.errors import Interrupted
from ssl_bench.plan.cells import Cell
from ssl_bench.plan.choices import choose
from ssl_bench.plan.context import RunContext
from ssl_bench.plan.estimate import side_by_side
from ssl_bench.plan.jobs import ONE_BY_ONE, Jobs, jobs_requested
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plan.run_record import write_run
from ssl_bench.records.schema import Failure
from ssl_bench.runner.cell_computation import compute_cell
from ssl_bench.runner.cell_lock import holding_cell
from ssl_bench.runner.claims import Claim, Claims
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.processes import beside
from ssl_bench.spec.matrix import Matrix
from ssl_bench.system.digests import tell_unchecked
from ssl_bench.system.disk import remove_leftovers, writing_to
from ssl_bench.system.interruption import between_steps

LOCK_POLL_SECONDS = 2.0


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
    jobs: int | str = "auto",
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
    jobs : cells that are computed side by side, each in a process of its own; no number depends on it. "auto": on a
        CPU as many as there are cores, cells and memory for, with the cores divided between them; elsewhere, or where
        the number of threads is set already (OMP_NUM_THREADS), 1.
    observer : told of every cell, step and note.
    report : write the table's files.

    Raises
    ------
    SSLBenchError : the matrix or its data cannot work. A cell that fails later does not raise: it is recorded, shown in
        the table and counted in ``Results.failures``.
    Interrupted : Ctrl-C or SIGTERM; everything reached is saved and the same call goes on from there.
    """
    observer, requested = observer or Observer(), jobs_requested(jobs)
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
    return results_of(run_plan, observer, report, side_by_side(run_plan, requested))


def results_of(run_plan: RunPlan, observer: Observer, report: bool = True, jobs: Jobs = ONE_BY_ONE) -> Any:
    """Carry out a plan, write its table's files, and return its Results."""
    from ssl_bench.report import load as load_results
    from ssl_bench.report import write_report

    observer.planned(run_plan)
    carry_out(run_plan, observer, jobs)
    results = load_results(run_plan.out)
    if report:
        write_report(run_plan.out, results)
    return results


def carry_out(run_plan: RunPlan, observer: Observer, jobs: Jobs = ONE_BY_ONE) -> list[Failure]:
    """Compute every missing cell: choices first (validation only), then the table. Returns what failed.

    Raises
    ------
    Interrupted : a signal asked to stop.
    NoRoomError, RecordError : nothing can be written any more; what was finished is whole.
    """
    failed: dict[Path, Failure] = {}  # by their files, which are gone where a part was made good meanwhile
    with between_steps() as stop, jobs.threads_set(), writing_to(run_plan.out):
        remove_leftovers(run_plan.out)
        write_run(run_plan)
        try:
            with beside(run_plan, observer, jobs, stop) as (claims, failed_beside):
                failed |= compute_all(run_plan, observer, claims, stop, lambda: write_run(run_plan))
            failed |= failed_beside
        except OSError:  # the folder cannot be written, and run.json cannot either: it stays what it was
            raise
        except BaseException:
            write_run(run_plan)
            raise
        write_run(run_plan)
    tell_unchecked()
    return [failure for path, failure in failed.items() if path.is_file()]


def compute_all(
    run_plan: RunPlan,
    observer: Observer,
    claims: Claims,
    stop: Callable[[], bool],
    on_choices: Callable[[], None] = lambda: None,
) -> dict[Path, Failure]:
    """This process's part of a run: cells that decide choices first, then those of the table. Returns its failures by
    their files.

    Parameters
    ----------
    claims : which cells the run's other processes have.
    stop : asked between steps.
    on_choices : called once all choices are made that can be made.
    """
    context = RunContext(
        data=run_plan.data,
        backbone=run_plan.matrix.backbone,
        device=run_plan.device,
        precision=run_plan.matrix.precision,
        stage_limit=run_plan.matrix.stage_values,
        checkpoint_seconds=run_plan.matrix.pretrain.checkpoint_seconds,
        looks=run_plan.matrix.pretrain.monitor,
        probes=run_plan.matrix.pretrain.probes,
        stop=stop,
        skip_checks=run_plan.skip_checks,
        on_progress=observer.progressed,
        on_note=observer.noted,
    )
    todo = [cell for row in run_plan.undecided() for cell in run_plan.candidate_cells(row)]
    failed = _compute_missing(todo, run_plan, context, observer, claims, choosing=True)
    if run_plan.undecided():
        run_plan.look_again()  # processes that share a folder should decide by the same records
    for row in run_plan.undecided():
        scores = choose(run_plan, row)
        if scores:
            observer.chose(row, run_plan.winners[row.name], scores)
    on_choices()
    cells = [cell for cell in run_plan.cells() if run_plan.asked_for(cell.row)]
    return failed | _compute_missing(cells, run_plan, context, observer, claims, choosing=False)


def _compute_missing(
    cells: list[Cell], run_plan: RunPlan, context: RunContext, observer: Observer, claims: Claims, choosing: bool
) -> dict[Path, Failure]:
    """Divide the missing cells with whoever else works on the folder; come back to those others hold until they are
    done.

    That goes for cells, too, that failed here and that another one tries again: what is decided next must not differ
    between processes.
    """
    final = run_plan.final and not choosing
    by_folder: dict[Path, Cell] = {}
    for cell in cells:
        by_folder.setdefault(cell.folder, cell)  # rows of equal settings share one
    cells = list(by_folder.values())
    waiting = [cell for cell in cells if not run_plan.done(cell, final)]
    total = len(waiting)
    failures: dict[Path, Failure] = {}
    waited_for: set[Path] = set()
    while waiting:
        begun = 0
        held: list[Cell] = []
        for cell in waiting:
            if context.stop():
                finished = total - sum(not run_plan.done(cell, final) for cell in cells)
                raise Interrupted(
                    f"stopped; {finished} of {total} cells are finished, and the same command goes on from here"
                )
            if run_plan.done(cell, final):
                continue
            try:
                with holding_cell(cell, blocking=False):
                    run_plan.look_again(cell)  # nobody else changes it from here on
                    claim = Claim.TRIED if run_plan.done(cell, final) else claims.take(cell, choosing, total)
                    if claim is Claim.GRANTED:
                        begun += 1
                        try:
                            failures |= compute_cell(cell, run_plan, context, observer, final)
                        finally:
                            run_plan.look_again(cell)
                        claims.settle(cell, choosing)
                    elif claim is Claim.HELD:
                        held.append(cell)
            except Timeout:
                held.append(cell)
        if not held and not begun:
            return failures
        if held:
            # a lock is held a moment longer than its cell, which is not worth a word
            if foreign := sum(cell.folder in waited_for and not claims.holds(cell) for cell in held):
                context.on_note(f"waiting for {foreign} cell{'s' if foreign > 1 else ''} held by another process")
            claims.wait(LOCK_POLL_SECONDS)
        waited_for = {cell.folder for cell in held}
        run_plan.look_again()
        waiting = [cell for cell in waiting if not run_plan.done(cell, final)]
    return failures
