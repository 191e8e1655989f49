"""``convert``: the weights of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssl_bench.system.terminal import say


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
