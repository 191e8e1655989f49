"""``versions``: what a bug report needs; ``doctor``: what limits this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from ssl_bench.console.commands.options import DataRoot, Device, Limit, Out, Plugins, Sets
from ssl_bench.system.terminal import console as make_console


def versions() -> None:
    """Versions and device, for a bug report."""
    from ssl_bench.records.environment import code_version, device_name
    from ssl_bench.records.environment import installed_versions as found
    from ssl_bench.training.device import choose_device, choose_precision

    device = choose_device()
    print(f"ssl_bench {code_version()}")
    for name, version in found().items():
        print(f"{name} {version}")
    print(f"device {device_name(device)}, precision {choose_precision('auto', device)}")


def doctor(
    matrix: Annotated[
        str | None,
        typer.Argument(help="A shipped matrix or a YAML file; the machine alone without.", show_default=False),
    ] = None,
    out: Out = None,
    sets: Sets = None,
    device: Device = None,
    limit: Limit = None,
    data_root: DataRoot = None,
    plugin: Plugins = None,
) -> None:
    """Say what limits this machine, on a matrix, and what to change. Trains nothing. Ends with 1 where the matrix
    cannot run here."""
    from ssl_bench.console.doctor import print_findings
    from ssl_bench.plan.doctor import findings, read
    from ssl_bench.plan.prepare import prepare

    run_plan = None
    if matrix is not None:
        run_plan = prepare(
            matrix,
            out,
            sets=tuple(sets or ()),
            plugins=tuple(plugin or ()),
            device=device,
            data_root=data_root,
            limit=limit,
            pack=False,
        )
    if not print_findings(make_console(), findings(read(run_plan, device))):
        raise typer.Exit(1)
