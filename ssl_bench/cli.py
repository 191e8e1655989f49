"""The command line: one function per command, each a few lines over the Python API. Heavy imports wait for the command that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ssl_bench.errors import Interrupted, SpecError, SSLBenchError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="ssl-bench", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
    help="Compare pretext tasks by what one common ResNet learns from them. Start with: ssl-bench run quick",
)

LOG_WIDTH = 120  # columns where the output is no terminal

MatrixArg = Annotated[str, typer.Argument(help="A shipped matrix (quick, cifar10, ...) or a YAML file.", show_default=False)]
FolderArg = Annotated[Path, typer.Argument(help="A results folder, or a run's name under runs/ or results/.", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", help="Results folder; runs/NAME unless given.", show_default=False)]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change one setting: --set backbone.width=0.25 (repeatable).", show_default=False)]
Only = Annotated[list[str] | None, typer.Option("--only", help="Compute only this row or task (repeatable).", show_default=False)]
Plugins = Annotated[list[Path] | None, typer.Option("--plugin", help="A Python file with tasks or evaluators of your own (repeatable).", show_default=False)]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.", show_default=False)]
DataRoot = Annotated[Path | None, typer.Option("--data-root", envvar="SSL_BENCH_DATA", help="Searched before anything is downloaded.", show_default=False)]
Limit = Annotated[int | None, typer.Option("--limit", help="Use at most N images of train and of test.", show_default=False)]
Val = Annotated[bool, typer.Option("--val", help="Stop before test; the table shows validation.")]


@app.command()
def run(
    matrix: MatrixArg, out: Out = None, sets: Sets = None, only: Only = None, val: Val = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Two steps of every cell in a temporary folder.")] = False,
    device: Device = None, limit: Limit = None, data_root: DataRoot = None, plugin: Plugins = None,
    wide: Annotated[bool, typer.Option("--wide", help="Print every column of the table.")] = False,
) -> None:
    """Run a matrix: plan, compute what is missing, print the table. Run it again to go on or to see that nothing is left.

    Examples:

      ssl-bench run quick

      ssl-bench run cifar10 --set backbone.width=0.25 --set pretrain.epochs=6 --out runs/cifar10-cpu

      ssl-bench run quick --plugin my_task.py --set 'tasks=[my_task]' --out runs/my_task --val
    """
    from ssl_bench.live import Live, print_plan
    from ssl_bench.planning import plan as make_plan
    from ssl_bench.report import load, write_report
    from ssl_bench.report.verdict import verdict
    from ssl_bench.runner import carry_out
    from ssl_bench.runner import smoke as run_smoke
    from ssl_bench.work import prepare

    console = _console()
    common: dict[str, Any] = {"sets": tuple(sets or ()), "device": device, "data_root": data_root, "plugins": tuple(plugin or ())}
    with Live(console) as live:
        if smoke:
            results = run_smoke(matrix, observer=live, only=tuple(only or ()), progress=live.packing, **common)
            live.close()
            _failures(results)
            console.print("smoke: every cell took its two steps and every evaluator answered", highlight=False)
            return
        work = prepare(matrix, out, only=tuple(only or ()), val=val, limit=limit, progress=live.packing, **common)
        todo = make_plan(work)
        if todo.missing:
            print_plan(console, work, todo)
            try:
                carry_out(work, live)
            finally:
                live.close()
                results = load(work.out)
                files = write_report(work.out, results)
        else:
            live.nothing_to_do(work)
            carry_out(work, live)
            results = load(work.out)
            files = write_report(work.out, results)
    _print_table(console, results, wide)
    if sentence := verdict(results):
        console.print(sentence, markup=False, highlight=False)
    console.print(f"table.md, .csv, .tex, .html and figures: {work.out} ({len(files)} files)", markup=False, highlight=False)
    _failures(results)


@app.command()
def plan(
    matrix: MatrixArg, out: Out = None, sets: Sets = None, only: Only = None, val: Val = False, device: Device = None, limit: Limit = None,
    data_root: DataRoot = None, plugin: Plugins = None,
    on: Annotated[str | None, typer.Option("--on", help="The time on v100 or a100 instead.", show_default=False)] = None,
) -> None:
    """Say what a matrix would compute here: cells done and missing, time, memory and disk. Trains nothing."""
    from ssl_bench.live import Live, print_plan
    from ssl_bench.planning import plan as make_plan
    from ssl_bench.work import prepare

    console = _console()
    with Live(console) as live:
        work = prepare(
            matrix, out, sets=tuple(sets or ()), only=tuple(only or ()), val=val, limit=limit, device=device, data_root=data_root,
            plugins=tuple(plugin or ()), pack=False, progress=live.packing,
        )
    print_plan(console, work, make_plan(work, on))


@app.command()
def report(
    folder: FolderArg, wide: Annotated[bool, typer.Option("--wide", help="Print every column.")] = False,
    classic: Annotated[bool, typer.Option("--classic", help="Print frozen accuracy, detection mAP and cost alone.")] = False,
) -> None:
    """Print a run's table and write its files anew, from the records alone."""
    from ssl_bench.report import load, write_report

    path = _folder(folder)
    results = load(path)
    write_report(path, results)
    _print_table(_console(), results, wide, classic)


@app.command()
def status(folder: FolderArg) -> None:
    """How far a run is, whoever computes it."""
    from ssl_bench.printing import print_status

    print_status(_console(), _folder(folder))


@app.command()
def show(address: Annotated[str, typer.Argument(help="RUN/TASK/SEED, such as quick/simclr/0.", show_default=False)]) -> None:
    """Everything known of one cell: settings, curves' ends, measurements, or why it failed."""
    from ssl_bench.printing import print_cell

    parts = address.rsplit("/", 2)
    if len(parts) != 3 or not parts[2].isdigit():
        raise SpecError(f"{address!r} is not an address; write RUN/TASK/SEED, such as quick/simclr/0")
    print_cell(_console(), _folder(Path(parts[0])), parts[1], int(parts[2]))


@app.command()
def duplicates(
    matrix: MatrixArg, sets: Sets = None, data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option("--out", help="A csv to write to, instead of printing.", show_default=False)] = None,
) -> None:
    """List the images that a matrix's sources hold more than once, pixel for pixel, with their splits and labels, as csv."""
    import csv
    import dataclasses
    import io

    from ssl_bench.data.loading import duplicates as find
    from ssl_bench.live import Live
    from ssl_bench.matrix import as_matrix
    from ssl_bench.records import write_bytes

    with Live(_console()) as live:
        copies = find(as_matrix(matrix, tuple(sets or ())).data, data_root=data_root, progress=live.packing)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["copy", "source", "split", "label", "image"], *(dataclasses.astuple(copy) for copy in copies)])
    if out is None:
        print(text.getvalue(), end="")
        return
    write_bytes(out, text.getvalue().encode())
    print(f"{len(copies):,} images, {copies[-1].number if copies else 0:,} different: {out}")


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="tasks, evaluators, sources or matrices.", show_default=False)], plugin: Plugins = None,
) -> None:
    """What there is to choose from, a line each."""
    from ssl_bench.printing import print_list
    from ssl_bench.registry import load_plugin

    for path in plugin or ():
        load_plugin(path)
    kinds = ("tasks", "evaluators", "sources", "matrices")
    if what not in kinds:
        raise SpecError(f"list {what!r}: {did_you_mean(what, kinds)}")
    print_list(_console(), what)


@app.command("new-task")
def new_task(
    name: Annotated[str, typer.Argument(help="The task's name, a Python identifier.", show_default=False)],
    folder: Annotated[Path, typer.Option("--folder", help="Where to write.")] = Path("."),
) -> None:
    """Write a working task of your own, and its test, to start from."""
    from ssl_bench.scaffold import new_task as write

    files = write(name, folder)
    print("wrote " + " and ".join(str(file) for file in files))
    run = f"ssl-bench run quick --plugin {files[0]} --set 'tasks=[{name}]' --out runs/{name}"
    print(f"try it:  ssl-bench check-task {name} --plugin {files[0]}    then:  {run}")


@app.command("check-task")
def check_task(
    name: Annotated[str, typer.Argument(help="A task's name.", show_default=False)], plugin: Plugins = None,
    noise: Annotated[bool, typer.Option("--noise/--no-noise", help="Also train on pure noise, which must stay at chance.")] = True,
) -> None:
    """Hold a task against the public battery; each failure says what to do."""
    from ssl_bench.printing import print_checks
    from ssl_bench.registry import load_plugin
    from ssl_bench.testing import check_task as check

    for path in plugin or ():
        load_plugin(path)
    if not print_checks(_console(), check(name, noise=noise)):
        raise typer.Exit(1)


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A checkpoint: .pth, .pt, .ckpt, .bin or .safetensors.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="File to write; beside FILE unless given.", show_default=False)] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="A ResNet of timm's; found by the shapes unless given.", show_default=False)] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="What stands before the names, where there are several.", show_default=False)] = None,
) -> None:
    """Write the ResNet in a checkpoint of another program as weights for `weights:` and `init:`. Reads tensors only, and runs nothing."""
    from ssl_bench.convert import convert as write

    path, found = write(file, out, backbone, prefix)
    width = f", width {found.spec.width:g}" if found.spec.width != 1 else ""
    before = f" behind {found.prefix!r}" if found.prefix else ""
    print(f"kept: {found.spec.name}{width}, {len(found.tensors)} tensors{before}")
    print("left out: " + (", ".join(f"{name} ({count})" for name, count in found.dropped.items()) or "nothing"))
    for note in found.notes:
        print(f"note: {note}")
    print(f"wrote {path}; use it as  weights: ['file:{path}']  or, in a task,  init: 'file:{path}'")


@app.command()
def versions() -> None:
    """Versions and device, for a bug report."""
    from ssl_bench.environment import code_version, device_name
    from ssl_bench.environment import versions as found
    from ssl_bench.fit import choose_device, choose_precision

    device = choose_device()
    print(f"ssl_bench {code_version()}")
    for name, version in found().items():
        print(f"{name} {version}")
    print(f"device {device_name(device)}, precision {choose_precision('auto', device)}")


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)


def _folder(path: Path) -> Path:
    """A results folder by path, or by name under runs/ and results/."""
    tried = [path, Path("runs") / path, Path("results") / path]
    for folder in tried:
        if (folder / "run.json").is_file():
            return folder
    known = [p.parent.name for root in ("runs", "results") for p in Path(root).glob("*/run.json")]
    raise SpecError(f"no run at {' or '.join(map(str, tried))}; {did_you_mean(path.name, known)}")


def _print_table(console: Console, results: Any, wide: bool, classic: bool = False) -> None:
    print(results.table(wide, classic).terminal(console.width))


def _failures(results: Any) -> None:
    if len(results.failures):
        raise typer.Exit(1)


def main() -> NoReturn:
    """Entry point: user errors are printed without a traceback; 1 for an error or a failed cell, 130 when interrupted."""
    try:
        app(standalone_mode=False)
        code = 0
    except Interrupted as error:
        print(f"{error}", file=sys.stderr)
        code = 130
    except SSLBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except typer.Exit as exit_:
        code = exit_.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        code = 130
    except Exception as error:
        show, exit_code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or exit_code is None:  # not a usage error of the command line's own library, which may be a vendored one
            raise
        show()
        code = exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
