"""The command line: one function per command, each a few lines over the Python API. Heavy imports wait for the command
that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_bench.errors import SpecError, WriteError, did_you_mean
from ssl_bench.system.disk import reason
from ssl_bench.system.interruption import keeps_what_it_reached
from ssl_bench.system.terminal import console as make_console
from ssl_bench.system.terminal import harmless, say

if TYPE_CHECKING:
    from rich.console import Console

    from ssl_bench.console.live import Live
    from ssl_bench.plan.run_plan import RunPlan
    from ssl_bench.report import Results

EXIT_CODES = (
    "Exit codes: 0 done, 1 something failed, 2 wrong command, settings or data, 75 stopped by SIGTERM or "
    "SIGUSR1, 130 Ctrl-C."
)

# Help is not read as markup, which would take the brackets of `tasks=[my_task]` for a style; lines after a \b are kept
# as they are.
app = typer.Typer(
    name="ssl-bench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
    help="Compare pretext tasks by what one common ResNet learns from them. Start with: ssl-bench run quick",
)

MatrixArg = Annotated[
    str, typer.Argument(help="A shipped matrix (quick, cifar10, ...) or a YAML file.", show_default=False)
]
FolderArg = Annotated[
    Path, typer.Argument(help="A results folder, or a run's name under runs/ or results/.", show_default=False)
]
Out = Annotated[Path | None, typer.Option("--out", help="Results folder; runs/NAME unless given.", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting: --set backbone.width=0.25 (repeatable).", show_default=False),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="Compute only this row or task (repeatable).", show_default=False)
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", help="A Python file with tasks or evaluators of your own (repeatable).", show_default=False
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.", show_default=False)]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root", envvar="SSL_BENCH_DATA", help="Searched before anything is downloaded.", show_default=False
    ),
]
SkipChecks = Annotated[
    bool,
    typer.Option(
        "--skip-checks", help="Train plugin tasks without the quick part of their battery; the table says so."
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", help="Use at most N images of train and of test.", show_default=False)
]
Recompute = Annotated[
    bool,
    typer.Option(
        "--recompute",
        help="Train cells again whose record or weights are damaged, or whose weights are gone but still needed; "
        "without it they fail.",
    ),
]
Legend = Annotated[
    bool,
    typer.Option("--legend", help="Print the whole legend: also how numbers were chosen and where they were made."),
]
Val = Annotated[bool, typer.Option("--val", help="Stop before test; the table shows validation results.")]


@app.command()
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
        if useless := [option for option, value in given.items() if value]:
            raise SpecError(
                f"{useless[0]} has no effect with --smoke, which keeps nothing and prints no table; leave it out"
            )
    else:
        keeps_what_it_reached()  # before the imports, which take seconds
    from ssl_bench.console.live import Live, print_plan
    from ssl_bench.plan.estimate import estimate
    from ssl_bench.plan.prepare import prepare
    from ssl_bench.report import load
    from ssl_bench.report.building.verdict import verdict

    console = make_console()
    common: dict[str, Any] = {
        "sets": tuple(sets or ()),
        "device": device,
        "data_root": data_root,
        "plugins": tuple(plugin or ()),
    }
    common["skip_checks"] = skip_checks
    with Live(console) as live:
        if smoke:
            from ssl_bench.runner.smoke import smoke as run_smoke

            results = run_smoke(matrix, observer=live, only=tuple(only or ()), **common)
            live.close()
            if results.failures or results.missing:
                raise typer.Exit(1)
            console.print("smoke: every cell took its two steps and every evaluator answered", highlight=False)
            return
        run_plan = prepare(
            matrix,
            out,
            only=tuple(only or ()),
            val=val,
            limit=limit,
            recompute=recompute,
            progress=live.packing,
            **common,
        )
        todo = estimate(run_plan)
        if todo.missing:
            print_plan(console, run_plan, todo)
        else:
            live.nothing_to_do(run_plan)
        failures = _carry_out(run_plan, live)
    results = load(run_plan.out)
    _print_table(console, results, wide, legend=legend)
    if sentence := verdict(results):
        console.print(sentence, markup=False, highlight=False)
    _write_report(run_plan.out, results, console, redraw=bool(todo.missing))
    left = {cell.address for cell in run_plan.todo()} | {row.name for row in run_plan.undecided()}
    if left and not failures:  # another process failed at them, or somebody removed them meanwhile
        console.print(
            f"still without records: {', '.join(sorted(left))}; run the same command again",
            markup=False,
            highlight=False,
        )
    if left or failures:
        raise typer.Exit(1)


def _carry_out(run_plan: RunPlan, live: Live) -> list[Any]:
    """Compute what is missing; where that is interrupted, the table still tells of what there is."""
    from ssl_bench.errors import Interrupted
    from ssl_bench.report import write_report
    from ssl_bench.runner.scheduler import carry_out

    try:
        return carry_out(run_plan, live)
    except Interrupted:
        live.close()
        write_report(run_plan.out)
        raise


@app.command()
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
    on: Annotated[
        str | None, typer.Option("--on", help="Estimate for a v100 or an a100 instead.", show_default=False)
    ] = None,
) -> None:
    """Estimate what a matrix would cost here: cells to compute, time, memory and disk. Trains nothing."""
    from ssl_bench.console.live import Live, print_plan
    from ssl_bench.plan.estimate import estimate
    from ssl_bench.plan.prepare import prepare

    console = make_console()
    with Live(console) as live:
        run_plan = prepare(
            matrix,
            out,
            sets=tuple(sets or ()),
            only=tuple(only or ()),
            val=val,
            limit=limit,
            device=device,
            data_root=data_root,
            plugins=tuple(plugin or ()),
            pack=False,
            recompute=recompute,
            progress=live.packing,
        )
    todo = estimate(run_plan, on)
    print_plan(console, run_plan, todo)
    if any(row.problem for row in todo.rows):
        raise typer.Exit(1)


@app.command()
def report(
    folder: FolderArg,
    wide: Annotated[bool, typer.Option("--wide", help="Print every column.")] = False,
    classic: Annotated[
        bool, typer.Option("--classic", help="Print frozen accuracy, detection mAP and cost alone.")
    ] = False,
    legend: Legend = False,
    svg: Annotated[bool, typer.Option("--svg", help="Draw every chart as SVG as well as PNG.")] = False,
) -> None:
    """Print a run's table and rewrite its files, from the records alone. Ends with 1 if they cannot be written."""
    from ssl_bench.report import load

    path = _folder(folder)
    results = load(path)
    console = make_console()
    _print_table(console, results, wide, classic, legend)
    _write_report(path, results, console, told=False, svg=svg)


@app.command()
def publish(
    run: FolderArg,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.", show_default=False)],
) -> None:
    """Pack a run's records and predictions into a few small files, with its table and figures: what is committed of a
    run."""
    from ssl_bench.report import publish as write

    files = write(_folder(run), folder)
    size = sum(path.stat().st_size for path in files)
    say(f"published {folder}: {len(files)} files, {size / 1e6:.1f} MB")


@app.command()
def status(folder: FolderArg) -> None:
    """Show how far a run is, whoever computes it. Always ends with 0."""
    from ssl_bench.console.status import print_status

    print_status(make_console(), _folder(folder))


@app.command()
def show(
    address: Annotated[str, typer.Argument(help="RUN/TASK/SEED, such as quick/simclr/0.", show_default=False)],
) -> None:
    """Show everything known about one cell: settings, final training values, measurements, or why it failed."""
    from ssl_bench.console.printing import print_cell

    parts = address.rstrip("/").rsplit("/", 2)
    if len(parts) != 3 or not all(parts):
        raise SpecError(f"{address[:80]!r} is not an address; write RUN/TASK/SEED, such as quick/simclr/0")
    print_cell(make_console(), _folder(Path(parts[0])), parts[1], parts[2])


@app.command()
def preview(
    what: Annotated[str, typer.Argument(metavar="TASK|MATRIX|RUN/ROW/SEED", help="What to draw.", show_default=False)],
    data: Annotated[
        str | None, typer.Option("--data", help="A source whose images are shown.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A PNG; preview-ROW.png unless given.", show_default=False)
    ] = None,
    sets: Sets = None,
    data_root: DataRoot = None,
    plugin: Plugins = None,
) -> None:
    """Draw what a task sees, is asked and answers, as a PNG.

    A matrix gives one for each row; a run's row answers with its trained network.

    \b
    Examples:
      ssl-bench preview rotation
      ssl-bench preview my_task --plugin my_task.py --data cifar10
      ssl-bench preview quick/colorization/0 --out colours.png
    """
    from ssl_bench.console.preview import preview as draw

    files = draw(
        what, _folder, data=data, out=out, plugins=tuple(plugin or ()), sets=tuple(sets or ()), data_root=data_root
    )
    say("wrote " + ", ".join(map(str, files)))


@app.command()
def duplicates(
    matrix: MatrixArg,
    sets: Sets = None,
    data_root: DataRoot = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A csv to write to, instead of printing.", show_default=False)
    ] = None,
) -> None:
    """List the images that a matrix's sources hold more than once, pixel for pixel, with splits and labels, as CSV."""
    import csv
    import dataclasses
    import io

    from ssl_bench.console.live import Live
    from ssl_bench.data.loading import duplicates as find
    from ssl_bench.records.schema import write_bytes
    from ssl_bench.spec.shipped import as_matrix

    if out is not None and out.is_dir():
        raise SpecError(f"--out {out} is a folder; name a csv in it")
    with Live(make_console()) as live:
        copies = find(as_matrix(matrix, tuple(sets or ())).data, data_root=data_root, progress=live.packing)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["copy", "source", "split", "label", "image"], *(dataclasses.astuple(copy) for copy in copies)])
    if out is None:
        rows = text.getvalue()
        print(harmless(rows) if sys.stdout.isatty() else rows, end="")
        return
    try:
        write_bytes(out, text.getvalue().encode())
    except OSError as error:
        raise WriteError(f"--out {out} cannot be written: {reason(error)}; name another file") from error
    say(f"{len(copies):,} images, {copies[-1].number if copies else 0:,} different: {out}")


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="tasks, evaluators, sources or matrices.", show_default=False)],
    plugin: Plugins = None,
) -> None:
    """List what there is to choose from, a line each."""
    from ssl_bench.console.printing import print_list
    from ssl_bench.plugins.registry import load_plugin

    for path in plugin or ():
        load_plugin(path)
    kinds = ("tasks", "evaluators", "sources", "matrices")
    if what not in kinds:
        raise SpecError(f"list {what!r}: {did_you_mean(what, kinds)}")
    print_list(make_console(), what)


@app.command("new-task")
def new_task(
    name: Annotated[str, typer.Argument(help="The task's name, a Python identifier.", show_default=False)],
    folder: Annotated[Path, typer.Option("--folder", help="Where to write.")] = Path("."),
) -> None:
    """Write a working task of your own, and its test, to start from."""
    from ssl_bench.plugins.scaffold import new_task as write

    files = write(name, folder)
    say("wrote " + " and ".join(str(file) for file in files))
    run = f"ssl-bench run quick --plugin {files[0]} --set 'tasks=[{name}]' --out runs/{name}"
    say(f"try it:  ssl-bench check-task {name} --plugin {files[0]}    then:  {run}")


@app.command("check-task")
def check_task(
    name: Annotated[str, typer.Argument(help="A task's name.", show_default=False)],
    plugin: Plugins = None,
    noise: Annotated[
        bool, typer.Option("--noise/--no-noise", help="Also train on pure noise, where accuracy must stay at chance.")
    ] = True,
) -> None:
    """Run the public checks on a task. Each failure says what to do, and ends the command with 1."""
    from ssl_bench.console.printing import print_checks
    from ssl_bench.plugins.registry import load_plugin
    from ssl_bench.testing import check_task as check

    for path in plugin or ():
        load_plugin(path)
    if not print_checks(make_console(), check(name, noise=noise)):
        raise typer.Exit(1)


@app.command("new-evaluator")
def new_evaluator(
    name: Annotated[str, typer.Argument(help="The evaluator's name, a Python identifier.", show_default=False)],
    folder: Annotated[Path, typer.Option("--folder", help="Where to write.")] = Path("."),
) -> None:
    """Write a working evaluator of your own, and its test, to start from."""
    from ssl_bench.plugins.scaffold import new_evaluator as write

    files = write(name, folder)
    say("wrote " + " and ".join(str(file) for file in files))
    run = f"ssl-bench run quick --plugin {files[0]} --set 'evaluate=[{name}]' --out runs/{name}"
    say(f"try it:  ssl-bench check-evaluator {name} --plugin {files[0]}    then:  {run}")


@app.command("check-evaluator")
def check_evaluator(
    name: Annotated[str, typer.Argument(help="An evaluator's name.", show_default=False)],
    plugin: Plugins = None,
) -> None:
    """Hold an evaluator against the public battery. Each failure says what to do, and ends the command with 1."""
    from ssl_bench.console.printing import print_checks
    from ssl_bench.plugins.registry import load_plugin
    from ssl_bench.testing import check_evaluator as check

    for path in plugin or ():
        load_plugin(path)
    if not print_checks(make_console(), check(name)):
        raise typer.Exit(1)


@app.command()
def convert(
    file: Annotated[
        Path, typer.Argument(help="A checkpoint: .pth, .pt, .ckpt, .bin or .safetensors.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; beside FILE unless given.", show_default=False)
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="A timm ResNet; recognised by its shapes unless given.", show_default=False),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            "--prefix", help="Prefix of the parameter names, if the file holds several networks.", show_default=False
        ),
    ] = None,
) -> None:
    """Convert a checkpoint of another program to weights for `weights:` and `init:`. Only tensors are read; nothing in
    the file is run."""
    from ssl_bench.backbones.convert import convert as write

    path, converted = write(file, out, backbone, prefix)
    width = f", width {converted.spec.width:g}" if converted.spec.width != 1 else ""
    before = f" behind {converted.prefix!r}" if converted.prefix else ""
    say(f"kept: {converted.spec.name}{width}, {len(converted.tensors)} tensors{before}")
    say("left out: " + (", ".join(f"{name} ({count})" for name, count in converted.dropped.items()) or "nothing"))
    for note in converted.notes:
        say(f"note: {note}")
    say(f"wrote {path}; use it as  weights: ['file:{path}']  or, in a task,  init: 'file:{path}'")


@app.command()
def versions() -> None:
    """Versions and device, for a bug report."""
    from ssl_bench.records.environment import code_version, device_name
    from ssl_bench.records.environment import versions as found
    from ssl_bench.training.loop import choose_device, choose_precision

    device = choose_device()
    print(f"ssl_bench {code_version()}")
    for name, version in found().items():
        print(f"{name} {version}")
    print(f"device {device_name(device)}, precision {choose_precision('auto', device)}")


def _folder(path: Path) -> Path:
    """A results folder by path, or by name under runs/ and results/."""

    def is_run(folder: Path) -> bool:
        try:
            return (folder / "run.json").is_file()
        except (OSError, ValueError):  # a name that no file can have
            return False

    tried = list(dict.fromkeys((path, Path("runs") / path, Path("results") / path)))  # one, where it begins at the root
    for folder in tried:
        if is_run(folder):
            return folder
    known = [p.parent.name for root in ("runs", "results") for p in Path(root).glob("*/run.json")]
    raise SpecError(f"no run at {' or '.join(str(folder)[:200] for folder in tried)}; {did_you_mean(path.name, known)}")


def _print_table(console: Console, results: Results, wide: bool, classic: bool = False, legend: bool = False) -> None:
    print(results.table(wide, classic).terminal(console.width, legend))


def _write_report(
    folder: Path, results: Results, console: Console, told: bool = True, svg: bool = False, redraw: bool = True
) -> None:
    """The table's files. The table is on the screen by then: that they cannot be written must not hide it."""
    from ssl_bench.report import write_report

    try:
        files = write_report(folder, results, svg=svg, redraw=redraw)
    except OSError as error:
        raise WriteError(f"the table is above; its files cannot be written: {reason(error)}") from error
    if told:
        count = f" ({len(files)} files)" if files else ", as they were"
        console.print(f"table.md, .csv, .tex, .html and figures: {folder}{count}", markup=False, highlight=False)
