"""The command line: one function per command, each a few lines over the Python API. Heavy imports wait for the command
that needs them."""

from __future__ import annotations

from collections.abc import Callable

import typer

from ssl_bench.console.commands.environment import doctor, versions
from ssl_bench.console.commands.images import duplicates, preview
from ssl_bench.console.commands.plugins import check_evaluator, check_task, list_, new_evaluator, new_task
from ssl_bench.console.commands.results import publish, report, show, status
from ssl_bench.console.commands.running import plan, run
from ssl_bench.console.commands.weights import convert

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

COMMANDS: dict[str, Callable[..., None]] = {  # in the order of the help
    "run": run,
    "plan": plan,
    "report": report,
    "publish": publish,
    "status": status,
    "show": show,
    "preview": preview,
    "duplicates": duplicates,
    "list": list_,
    "new-task": new_task,
    "check-task": check_task,
    "new-evaluator": new_evaluator,
    "check-evaluator": check_evaluator,
    "convert": convert,
    "doctor": doctor,
    "versions": versions,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
