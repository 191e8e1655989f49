"""The entry point of the command line: what ends a command becomes an exit code and a line that says why.

0     done; after `run`, every cell that was asked for has its records
1     a cell or a check failed, or a result could not be written
2     the command, the matrix, the data or a results folder is not what it should be
75    stopped by SIGTERM or SIGUSR1: the same command goes on from there
130   Ctrl-C
"""

from __future__ import annotations

import sys
from typing import NoReturn

from ssl_bench.system import interruption

FAILED, MISUSED = 1, 2


def main() -> NoReturn:
    """Run the command of ``sys.argv`` and end the process with its exit code."""
    requests = interruption.listen()  # before the imports, which take seconds
    failed: BaseException | None = None
    try:
        from ssl_bench.system.terminal import guard_streams, tell_notices

        guard_streams()
        tell_notices()
        from ssl_bench.console.commands import app

        # an exit code where a command raised typer.Exit: some versions return it, some raise it
        returned = app(standalone_mode=False)
        code = returned if isinstance(returned, int) else 0
        if code == interruption.CTRL_C:  # what typer makes of a KeyboardInterrupt
            failed = KeyboardInterrupt()
    except BaseException as error:
        failed = error
    requests.end()
    sys.exit(code if failed is None else _report_error(failed, requests))


def _report_error(error: BaseException, requests: interruption.Requests) -> int:
    """Say on stderr why a command ended, and return its exit code."""
    from ssl_bench.errors import Interrupted, SSLBenchError
    from ssl_bench.system.disk import is_of_the_path, no_room, reason
    from ssl_bench.system.terminal import harmless, traceback_of

    def say(text: str) -> None:
        print(harmless(text), file=sys.stderr, flush=True)

    if requests.asked():
        what = "interrupted" if requests.exit_code == interruption.CTRL_C else f"stopped by {requests.name}"
        if isinstance(error, SSLBenchError):
            what += f": {str(error).removeprefix('stopped; ')}"
        again = requests.exit_code == interruption.TRY_AGAIN
        if "same command" not in what and (again or (requests.goes_on and isinstance(error, Interrupted))):
            what += "; the same command goes on from here" if requests.goes_on else "; the same command starts over"
        say(what)
        return requests.exit_code
    error = no_room(error) or error
    if isinstance(error, SSLBenchError) and not isinstance(error, Interrupted):
        say(f"error: {error}")
        return error.exit_code
    if isinstance(error, OSError) and is_of_the_path(error):
        say(f"error: {reason(error)}; change that, or name another path")
        return MISUSED
    if isinstance(error, SystemExit | KeyboardInterrupt | GeneratorExit):
        say(f"error: {type(error).__name__} was raised by a plugin or a library, and nobody pressed Ctrl-C")
        say(traceback_of(error))
        return FAILED
    exit_code = getattr(error, "exit_code", None)
    # of the command line's own library, which may be a vendored one: its Exit, or a usage error
    if isinstance(exit_code, int):
        getattr(error, "show", lambda: None)()
        return exit_code
    say(traceback_of(error))
    return FAILED


if __name__ == "__main__":
    main()
