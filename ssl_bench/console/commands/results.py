"""``report``, ``publish``, ``status`` and ``show``: what a run has given so far."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl_bench.console.commands.options import FolderArg, Legend
from ssl_bench.console.run_folder import run_folder
from ssl_bench.errors import SpecError, WriteError
from ssl_bench.system.disk import reason
from ssl_bench.system.terminal import console as make_console
from ssl_bench.system.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

    from ssl_bench.report import Results


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

    path = run_folder(folder)
    results = load(path)
    console = make_console()
    print_table(console, results, wide, classic, legend)
    write_table_files(path, results, console, told=False, svg=svg)


def publish(
    run: FolderArg,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.", show_default=False)],
    weights: Annotated[
        int | None, typer.Option("--weights", metavar="SEED", help="Publish the weights of this seed too.")
    ] = None,
) -> None:
    """Pack a run's records and predictions into a few small files, with its table and figures: what is committed of a
    run."""
    from ssl_bench.report import publish as write

    files = write(run_folder(run), folder, weights)
    size = sum(path.stat().st_size for path in files)
    of_weights = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    told = f", of which {of_weights / 1e6:.1f} MB are weights" if of_weights else ""
    say(f"published {folder}: {len(files)} files, {size / 1e6:.1f} MB{told}")


def status(folder: FolderArg) -> None:
    """Show how far a run is, whoever computes it. Always ends with 0."""
    from ssl_bench.console.status import print_status

    print_status(make_console(), run_folder(folder))


def show(
    address: Annotated[str, typer.Argument(help="RUN/TASK/SEED, such as quick/simclr/0.", show_default=False)],
) -> None:
    """Show everything known about one cell: settings, final training values, measurements, or why it failed."""
    from ssl_bench.console.printing import print_cell

    parts = address.rstrip("/").rsplit("/", 2)
    if len(parts) != 3 or not all(parts):
        raise SpecError(f"{address[:80]!r} is not an address; write RUN/TASK/SEED, such as quick/simclr/0")
    print_cell(make_console(), run_folder(Path(parts[0])), parts[1], parts[2])


def print_table(console: Console, results: Results, wide: bool, classic: bool = False, legend: bool = False) -> None:
    """The table at the width of the terminal."""
    print(results.table(wide, classic).terminal(console.width, legend))


def write_table_files(
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
