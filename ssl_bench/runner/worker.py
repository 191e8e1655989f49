"""A process that computes cells of a run beside the one that started it (``processes``)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import queue
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ssl_bench.system import interruption  # before the imports that take seconds

if TYPE_CHECKING:
    from ssl_bench.plan.run_plan import RunPlan

POLL_SECONDS = 1.0
PROGRESS_SECONDS = 0.25  # between reports of training


def work() -> NoReturn:
    """Work for the process whose number is the last word of the command line, until nothing is left or it is gone."""
    requests = interruption.listen()
    starter = Starter(int(sys.argv[-1]))
    code = 0
    try:
        _compute_for(starter)
    except BaseException as error:
        code = requests.exit_code if requests.asked() else 1
        if not requests.asked():
            from ssl_bench.errors import SSLBenchError, text_of

            kind = "" if isinstance(error, SSLBenchError) else f"{type(error).__name__}: "
            starter.say("ended", why=kind + text_of(error))
    requests.end()
    sys.exit(code)


class Starter:
    """The process that started this one, over the pipes that are its standard input and output.

    They are out of the way of plugins afterwards: these read nothing, and what they print is for people.

    Parameters
    ----------
    pid : its number.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._from, self._to = os.dup(0), os.dup(1)  # which no process of a plugin's inherits
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)
        os.dup2(2, 1)
        self.gone = threading.Event()
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._listen, name="ssl-bench starter", daemon=True).start()

    def say(self, event: str, **facts: Any) -> None:
        """Tell it something; where it is gone, that asks this process to stop elsewhere."""
        data = json.dumps({"event": event, **facts}).encode() + b"\n"
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._to, data) :]

    def answer(self) -> bytes | None:
        """What it says next; None where it is gone."""
        return self._lines.get()

    def _listen(self) -> None:
        rest = b""
        while os.getppid() == self._pid:  # a process that it left behind may hold the pipe open
            if not select.select([self._from], [], [], POLL_SECONDS)[0]:
                continue
            data = os.read(self._from, 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._lines.put(line)
        self.gone.set()
        self._lines.put(None)
        # as if it had been asked to stop itself: at the next step, with a checkpoint
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _compute_for(starter: Starter) -> None:
    import torch

    from ssl_bench.errors import SpecError
    from ssl_bench.runner.scheduler import compute_all
    from ssl_bench.system.terminal import guard_streams, tell_notices

    guard_streams()
    sys.stdout = sys.stderr
    line = starter.answer()
    if line is None:
        return
    message = pickle.loads(base64.b64decode(line))
    torch.set_num_threads(message["threads"])
    run_plan = _prepared(message["settings"])
    if run_plan.fingerprint() != message["fingerprint"]:
        raise SpecError("code, a plugin or data were changed since the run began")
    tell_notices()
    starter.say("ready")
    with interruption.between_steps() as stop:
        compute_all(run_plan, _observer(starter), _claims(starter, run_plan), stop)


def _prepared(settings: dict[str, Any]) -> RunPlan:
    """The plan as the process has it that started this one, which has told already what there is to tell of it."""
    from ssl_bench.errors import Notice
    from ssl_bench.plan.prepare import prepare

    plugins = settings.pop("plugins")
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            _load_latest(plugins)
            return prepare(**settings)


def _load_latest(plugins: Sequence[str]) -> None:
    """The plugin files that the process has loaded that started this one, in a notebook over hours, perhaps.

    One whose names another has taken since is left out: the latest comes first. Where that leaves out too much, the
    fingerprint of the plan tells.
    """
    from ssl_bench.errors import SpecError
    from ssl_bench.plugins.loading import load_plugin

    refused = []
    for file in reversed(plugins):
        try:
            load_plugin(file)
        except SpecError:
            refused.append(file)
    for file in refused:  # it may rest on an earlier one
        with contextlib.suppress(SpecError):
            load_plugin(file)


def _observer(starter: Starter) -> Any:
    """An observer that tells the process that started this one."""
    from ssl_bench.runner.observer import Observer

    class Telling(Observer):
        spoken = 0.0

        def progressed(self, progress: Any) -> None:
            if time.monotonic() - self.spoken > PROGRESS_SECONDS:
                self.spoken = time.monotonic()
                starter.say("progress", **vars(progress))

        def noted(self, text: str) -> None:
            starter.say("note", text=text)

    return Telling()


def _claims(starter: Starter, run_plan: RunPlan) -> Any:
    """Claims of which the process that started this one decides."""
    from ssl_bench.runner.claims import Claim, Claims
    from ssl_bench.runner.observer import Observer

    class Asked(Claims):
        def take(self, cell: Any, choosing: bool, total: int) -> Claim:
            row = next(number for number, row in enumerate(run_plan.rows) if row is cell.row)
            candidate = next(number for number, known in enumerate(cell.row.candidates) if known is cell.candidate)
            starter.say("take", row=row, candidate=candidate, seed=cell.seed, choosing=choosing, total=total)
            answer = starter.answer()
            return Claim.HELD if answer is None else Claim(answer.decode())

        def settle(self, cell: Any, choosing: bool) -> None:
            starter.say("settled")

        def holds(self, cell: Any) -> bool:  # whoever waits for it, the process that started this one says so
            return True

        def wait(self, seconds: float) -> None:
            starter.gone.wait(seconds)

    return Asked(Observer())
