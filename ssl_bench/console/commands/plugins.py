"""``list``, and a task or an evaluator of your own: a first version of it (``new-...``), and the public checks on it
(``check-...``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ssl_bench.console.commands.options import Plugins
from ssl_bench.errors import SpecError, did_you_mean
from ssl_bench.system.terminal import console as make_console
from ssl_bench.system.terminal import say


def list_(
    what: Annotated[str, typer.Argument(help="tasks, evaluators, sources or matrices.", show_default=False)],
    plugin: Plugins = None,
) -> None:
    """List what there is to choose from, a line each."""
    from ssl_bench.console.printing import print_list
    from ssl_bench.plugins.loading import load_plugins

    load_plugins(plugin or ())
    kinds = ("tasks", "evaluators", "sources", "matrices")
    if what not in kinds:
        raise SpecError(f"list {what!r}: {did_you_mean(what, kinds)}")
    print_list(make_console(), what)


def new_task(
    name: Annotated[str, typer.Argument(help="The task's name, a Python identifier.", show_default=False)],
    folder: Annotated[Path, typer.Option("--folder", help="Where to write.")] = Path("."),
) -> None:
    """Write a working task of your own, and its test, to start from."""
    from ssl_bench.plugins.scaffold import new_task as write

    _say_what_to_try(name, write(name, folder), "check-task", "tasks")


def check_task(
    name: Annotated[str, typer.Argument(help="A task's name.", show_default=False)],
    plugin: Plugins = None,
    noise: Annotated[
        bool, typer.Option("--noise/--no-noise", help="Also train on pure noise, where accuracy must stay at chance.")
    ] = True,
) -> None:
    """Run the public checks on a task. Each failure says what to do, and ends the command with 1."""
    from ssl_bench.console.printing import print_checks
    from ssl_bench.plugins.loading import load_plugins
    from ssl_bench.testing import check_task as check

    load_plugins(plugin or ())
    if not print_checks(make_console(), check(name, noise=noise)):
        raise typer.Exit(1)


def new_evaluator(
    name: Annotated[str, typer.Argument(help="The evaluator's name, a Python identifier.", show_default=False)],
    folder: Annotated[Path, typer.Option("--folder", help="Where to write.")] = Path("."),
) -> None:
    """Write a working evaluator of your own, and its test, to start from."""
    from ssl_bench.plugins.scaffold import new_evaluator as write

    _say_what_to_try(name, write(name, folder), "check-evaluator", "evaluate")


def check_evaluator(
    name: Annotated[str, typer.Argument(help="An evaluator's name.", show_default=False)],
    plugin: Plugins = None,
) -> None:
    """Hold an evaluator against the public battery. Each failure says what to do, and ends the command with 1."""
    from ssl_bench.console.printing import print_checks
    from ssl_bench.plugins.loading import load_plugins
    from ssl_bench.testing import check_evaluator as check

    load_plugins(plugin or ())
    if not print_checks(make_console(), check(name)):
        raise typer.Exit(1)


def _say_what_to_try(name: str, files: Sequence[Path], check: str, key: str) -> None:
    """Of a first version that was just written: its files, the command that checks it, and a run under ``key`` of the
    matrix."""
    say("wrote " + " and ".join(str(file) for file in files))
    run = f"ssl-bench run quick --plugin {files[0]} --set '{key}=[{name}]' --out runs/{name}"
    say(f"try it:  ssl-bench {check} {name} --plugin {files[0]}    then:  {run}")
