"""``preview`` and ``duplicates``: a look at the images, as a task or as their sources have them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ssl_bench.console.commands.options import DataRoot, MatrixArg, Plugins, Sets
from ssl_bench.errors import SpecError, WriteError
from ssl_bench.system.disk import reason
from ssl_bench.system.terminal import console as make_console
from ssl_bench.system.terminal import harmless, say


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
    from ssl_bench.console.preview import draw_preview as draw

    files = draw(what, data=data, out=out, plugins=tuple(plugin or ()), sets=tuple(sets or ()), data_root=data_root)
    say("wrote " + ", ".join(map(str, files)))


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
