"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
JobsAsked = Annotated[
    str,
    typer.Option(
        "--jobs",
        help="Cells computed side by side: a number, or auto (on a CPU as many as its cores and memory allow).",
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
