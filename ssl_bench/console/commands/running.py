"""``run`` and ``plan``: from a matrix to its table, or to what that would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_bench.console.commands.options import (
    DataRoot,
    Device,
    JobsAsked,
    Legend,
    Limit,
    MatrixArg,
    Only,
    Out,
    Plugins,
    Recompute,
    Sets,
    SkipChecks,
    Val,
)
from ssl_bench.console.commands.results import print_table, write_table_files
from ssl_bench.errors import SpecError
from ssl_bench.system.interruption import keeps_what_it_reached
from ssl_bench.system.terminal import console as make_console

if TYPE_CHECKING:
    from ssl_bench.console.live import Live
    from ssl_bench.plan.jobs import Jobs
    from ssl_bench.plan.run_plan import RunPlan


def run(
    matrix: MatrixArg,
    out: Out = None,
    sets: Sets = None,
    only: Only = None,
    val: Val = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Two steps of every cell in a temporary folder.")] = False,
    device: Device = None,
    limit: Limit = None,
    data_root: DataRoot = None,
    plugin: Plugins = None,
    recompute: Recompute = False,
    skip_checks: SkipChecks = False,
    jobs: JobsAsked = "auto",
    wide: Annotated[bool, typer.Option("--wide", help="Print every column of the table.")] = False,
    legend: Legend = False,
) -> None:
    """Run a matrix: plan, compute what is missing, print the table.

    Run it again to go on or to see that nothing is left.

    \b
    Examples:
      ssl-bench run quick
      ssl-bench run cifar10 --set backbone.width=0.25 --set pretrain.epochs=6 --out runs/cifar10-cpu
      ssl-bench run quick --plugin my_task.py --set 'tasks=[my_task]' --out runs/my_task --val

    Ends with 0 once every cell that was asked for has its records, 1 when one failed, 2 when the matrix or its data
    cannot work, 75 when SIGTERM or SIGUSR1 stopped it (the same command goes on), 130 after Ctrl-C.
    """
    if smoke:
        given = {"--out": out, "--val": val, "--limit": limit, "--recompute": recompute, "--wide": wide}
        given["--jobs"] = jobs != "auto"
        if useless := [option for option, value in given.items() if value]:
            raise SpecError(
                f"{useless[0]} has no effect with --smoke, which keeps nothing and prints no table; leave it out"
            )
    else:
        keeps_what_it_reached()  # before the imports, which take seconds
    from ssl_bench.console.live import Live, print_plan
    from ssl_bench.plan.estimate import estimate
    from ssl_bench.plan.jobs import jobs_requested
    from ssl_bench.plan.prepare import prepare
    from ssl_bench.report import load
    from ssl_bench.report.building.verdict import verdict

    console, requested = make_console(), jobs_requested(jobs)
    common = {**_shared_settings(sets, only, plugin, device, data_root), "skip_checks": skip_checks}
    with Live(console) as live:
        if smoke:
            from ssl_bench.runner.smoke import smoke as run_smoke

            results = run_smoke(matrix, observer=live, **common)
            live.close()
            if results.failures or results.missing:
                raise typer.Exit(1)
            console.print("smoke: every cell took its two steps and every evaluator answered", highlight=False)
            return
        run_plan = prepare(matrix, out, val=val, limit=limit, recompute=recompute, progress=live.packing, **common)
        todo = estimate(run_plan, jobs=requested)
        if todo.missing:
            print_plan(console, run_plan, todo)
        else:
            live.nothing_to_do(run_plan)
        failures = _carry_out(run_plan, live, todo.jobs)
    results = load(run_plan.out)
    print_table(console, results, wide, legend=legend)
    if sentence := verdict(results):
        console.print(sentence, markup=False, highlight=False)
    write_table_files(run_plan.out, results, console, redraw=bool(todo.missing))
    left = {cell.address for cell in run_plan.todo()} | {row.name for row in run_plan.undecided()}
    if left and not failures:  # another process failed at them, or somebody removed them meanwhile
        console.print(
            f"still without records: {', '.join(sorted(left))}; run the same command again",
            markup=False,
            highlight=False,
        )
    if left or failures:
        raise typer.Exit(1)


def _carry_out(run_plan: RunPlan, live: Live, jobs: Jobs) -> list[Any]:
    """Compute what is missing; where that is interrupted, the table still tells of what there is."""
    from ssl_bench.errors import Interrupted
    from ssl_bench.report import write_report
    from ssl_bench.runner.scheduler import carry_out

    try:
        return carry_out(run_plan, live, jobs)
    except Interrupted:
        live.close()
        write_report(run_plan.out)
        raise


def plan(
    matrix: MatrixArg,
    out: Out = None,
    sets: Sets = None,
    only: Only = None,
    val: Val = False,
    device: Device = None,
    limit: Limit = None,
    data_root: DataRoot = None,
    plugin: Plugins = None,
    recompute: Recompute = False,
    jobs: JobsAsked = "auto",
    on: Annotated[
        str | None, typer.Option("--on", help="Estimate for a v100 or an a100 instead.", show_default=False)
    ] = None,
    like: Annotated[
        list[Path] | None,
        typer.Option(
            "--like", help="An earlier run to take the spread over seeds from (repeatable).", show_default=False
        ),
    ] = None,
) -> None:
    """Estimate what a matrix would cost here: cells to compute, time, memory and disk; and the smallest difference
    between rows that its seeds resolve. Trains nothing."""
    from ssl_bench.console.live import Live, print_plan
    from ssl_bench.plan.estimate import estimate
    from ssl_bench.plan.jobs import jobs_requested
    from ssl_bench.plan.prepare import prepare
    from ssl_bench.plan.resolution import resolution_lines, resolutions_of

    console, requested = make_console(), jobs_requested(jobs)
    with Live(console) as live:
        run_plan = prepare(
            matrix,
            out,
            val=val,
            limit=limit,
            pack=False,
            recompute=recompute,
            progress=live.packing,
            **_shared_settings(sets, only, plugin, device, data_root),
        )
    todo = estimate(run_plan, on, requested)
    print_plan(console, run_plan, todo)
    for line in resolution_lines(resolutions_of(run_plan, like or ())):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if any(row.problem for row in todo.rows):
        raise typer.Exit(1)


def _shared_settings(
    sets: list[str] | None,
    only: list[str] | None,
    plugin: list[Path] | None,
    device: str | None,
    data_root: Path | None,
) -> dict[str, Any]:
    """Options that `run` and `plan` share, under the names and in the types of the Python API."""
    return {
        "sets": tuple(sets or ()),
        "only": tuple(only or ()),
        "plugins": tuple(plugin or ()),
        "device": device,
        "data_root": data_root,
    }
