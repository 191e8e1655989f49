"""The other processes of a run: each computes cells as this one does (``worker``), and says over a pipe what it does.

What is said is one JSON object a line. A process asks before it computes a cell, so that a cell that failed is not
tried by another one; the lock of the cell, as between runs, is what keeps two of them from computing it at once. This
end of a pipe being closed, also because this process was killed, asks the process at the other to stop.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ssl_bench.errors import RecordError, text_of
from ssl_bench.plan.cells import Cell
from ssl_bench.plan.jobs import Jobs
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plan.stored import read_evaluation, read_pretraining
from ssl_bench.plugins.loading import plugin_files
from ssl_bench.records.schema import Failure, failure_files, read_record
from ssl_bench.runner.claims import Claim, Claims
from ssl_bench.runner.observer import Observer
from ssl_bench.system import interruption
from ssl_bench.system.digests import notice
from ssl_bench.training.loop import TrainingProgress

POLL_SECONDS = 0.1
PATIENCE_SECONDS = 5.0  # with a process that has nothing to do any more, before it is killed
#: the search path comes first: the working directory, which Python would put there, may hold a json.py
_COMMAND = "import sys; sys.path[:] = eval(sys.argv[1]); from ssl_bench.runner.worker import work; work()"


@contextmanager
def beside(
    run_plan: RunPlan, observer: Observer, jobs: Jobs, stop: Callable[[], bool]
) -> Iterator[tuple[Claims, dict[Path, Failure]]]:
    """Meanwhile other processes compute cells of a run, where ``jobs`` asks for them and there are enough.

    Yields what this process has to ask before it computes a cell, and the failures of the others by their files.
    """
    wanted = min(jobs.count, _cells_to_come(run_plan)) - 1
    if wanted < 1:
        yield Claims(observer), {}
        return
    claims = _SharedClaims(observer)
    others = _Others(run_plan, claims, stop)
    try:
        others.start(wanted)
        yield claims, others.failed
    except KeyboardInterrupt:  # somebody who will not wait
        others.kill()
        raise
    except BaseException:
        others.end(None)
        raise
    others.end(PATIENCE_SECONDS)
    claims.raise_error()


def _cells_to_come(run_plan: RunPlan) -> int:
    """Cells that miss something, with those of open choices at the other seeds."""
    folders = {cell.folder for cell in run_plan.todo()}
    return len(folders) + len(run_plan.undecided()) * (len(run_plan.matrix.seeds) - 1)


class _SharedClaims(Claims):
    """The claims of a run of several processes, of which this one answers for all. Safe to use from several threads."""

    def __init__(self, observer: Observer) -> None:
        super().__init__(observer)
        self._lock = threading.RLock()
        self._holders: dict[tuple[bool, Path], _Process | None] = {}  # None: this process
        self._settled: set[tuple[bool, Path]] = set()
        self._changed = threading.Event()
        self.error: BaseException | None = None  #: of who watches, raised while another process was listened to

    def raise_error(self) -> None:
        """Raise what who watches raised in the other thread."""
        if self.error is not None:
            raise self.error

    def take(self, cell: Cell, choosing: bool, total: int) -> Claim:
        self.raise_error()
        return self.take_for(None, cell, choosing, total)

    def take_for(self, process: _Process | None, cell: Cell, choosing: bool, total: int) -> Claim:
        key = (choosing, cell.folder)
        with self._lock:
            if key in self._settled:
                return Claim.TRIED
            # by a process that was killed: its lock is free at once, and its end is noticed a moment later
            if key in self._holders:
                return Claim.HELD
            self._holders[key] = process
            self.begin(cell, choosing, total, self.observer if process is None else process.observer)
            return Claim.GRANTED

    def settle(self, cell: Cell, choosing: bool) -> None:
        with self._lock:
            self._holders.pop((choosing, cell.folder), None)
            self._settled.add((choosing, cell.folder))
        self._changed.set()

    def release(self, process: _Process) -> None:
        """Give up what a process held that has ended."""
        with self._lock:
            self._holders = {key: holder for key, holder in self._holders.items() if holder is not process}
        self._changed.set()

    def holds(self, cell: Cell) -> bool:
        with self._lock:
            return any(folder == cell.folder for _, folder in self._holders)

    def wait(self, seconds: float) -> None:
        self._changed.wait(seconds)
        self._changed.clear()


class _Process:
    """One other process, and what is known of it."""

    def __init__(self, popen: subprocess.Popen[bytes], observer: Observer) -> None:
        self.popen, self.observer = popen, observer
        self.ready = False  #: whether it has begun to work
        self.why = ""  #: why it ended, as it said itself
        self.cell: tuple[Cell, bool] | None = None  #: under way, and whether it is to decide a choice
        self._rest = b""

    def tell(self, line: bytes) -> None:
        assert self.popen.stdin is not None
        with suppress(OSError, ValueError):  # it has ended, or is to end: that is noticed elsewhere
            self.popen.stdin.write(line + b"\n")
            self.popen.stdin.flush()

    def ask_to_stop(self) -> None:
        """At its next step, with a checkpoint; one that is still starting has nothing to save."""
        assert self.popen.stdin is not None
        if not self.ready:
            self.popen.kill()
        with suppress(OSError):
            self.popen.stdin.close()

    def heard(self, data: bytes) -> list[dict[str, Any]]:
        """What it has said by now, as far as it is whole."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    @property
    def end_words(self) -> str:
        """How it ended, in words."""
        code = self.popen.returncode
        if code == -signal.SIGKILL:
            return "was killed (SIGKILL), perhaps for want of memory"
        if code in (interruption.CTRL_C, interruption.TRY_AGAIN):
            return "was asked to stop"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended: {self.why}" if self.why else f"ended with exit code {code}"


class _Others:
    """The other processes of a run. A thread listens to them until the last has ended."""

    def __init__(self, run_plan: RunPlan, claims: _SharedClaims, stop: Callable[[], bool]) -> None:
        self.run_plan, self.claims, self.stop = run_plan, claims, stop
        self.failed: dict[Path, Failure] = {}
        self._processes: list[_Process] = []
        self._thread = threading.Thread(target=self._listen, name="ssl-bench processes", daemon=True)
        self._ending = self._told = False

    def start(self, count: int) -> None:
        """Start so many, or as many as can be."""
        run_plan = self.run_plan
        settings = {
            "matrix": run_plan.matrix,
            "out": run_plan.out,
            "only": run_plan.only,
            "val": not run_plan.final,
            "device": str(run_plan.device),
            "data_root": run_plan.data_root,
            "plugins": tuple(plugin_files()),
            "recompute": run_plan.recompute,
            "skip_checks": run_plan.skip_checks,
        }
        try:
            message = {"threads": torch.get_num_threads(), "fingerprint": run_plan.fingerprint(), "settings": settings}
            line = base64.b64encode(pickle.dumps(message))
            for _ in range(count):
                popen = subprocess.Popen(
                    [sys.executable, "-c", _COMMAND, repr(sys.path), str(os.getpid())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
                self._processes.append(_Process(popen, self.claims.observer.beside()))
                self._processes[-1].tell(line)
        except Exception as error:  # no more processes allowed, a matrix that cannot be pickled
            self._tell_not_started(text_of(error))
        self._thread.start()

    def end(self, patience: float | None) -> None:
        """Ask all to stop and wait until they have.

        Parameters
        ----------
        patience : seconds after which those that are left are killed; None waits for as long as their steps take.
        """
        self._ending = True
        deadline = None if patience is None else time.monotonic() + patience
        try:
            while self._thread.is_alive():
                self._thread.join(POLL_SECONDS)
                if deadline is not None and time.monotonic() > deadline:
                    self.kill()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End all at once."""
        self._ending = True
        for process in self._processes:
            process.popen.kill()

    def _listen(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                for process in self._processes:
                    assert process.popen.stdout is not None
                    selector.register(process.popen.stdout, selectors.EVENT_READ, process)
                while living := [process for process in self._processes if process.popen.stdout]:
                    self._listen_to(living, selector)
        except BaseException as error:  # nobody would answer them any more
            self.claims.error = error
            self.kill()
            for process in self._processes:
                process.popen.wait()
                self.claims.release(process)

    def _listen_to(self, living: list[_Process], selector: selectors.BaseSelector) -> None:
        """Answer what is asked within a moment, and bury the dead."""
        # before they are listened to: what they wrote last is heard below
        ended = [process for process in living if process.popen.poll() is not None]
        silent = list(ended)
        for key, _ in selector.select(POLL_SECONDS):
            data = os.read(key.fd, 1 << 16)
            if data:
                for event in key.data.heard(data):
                    self._hear(key.data, **event)
                if key.data in silent:
                    silent.remove(key.data)
            else:  # it has closed its end, which it does when it ends
                with suppress(subprocess.TimeoutExpired):
                    key.data.popen.wait(POLL_SECONDS)
        if self._ending or self.stop():
            for process in living:
                process.ask_to_stop()
        # a process of its own, that it left behind, may hold the pipe open
        for process in silent:
            assert process.popen.stdout is not None
            selector.unregister(process.popen.stdout)
            process.popen.stdout.close()
            process.popen.stdout = None
            self._bury(process)

    def _hear(self, process: _Process, event: str, **facts: Any) -> None:
        if event == "ready":
            process.ready = True
        elif event == "take":
            cell = self._cell_of(**facts)
            claim = self.claims.take_for(process, cell, facts["choosing"], facts["total"])
            if claim is Claim.GRANTED:
                process.cell = (cell, facts["choosing"])
            process.tell(claim.value.encode())
        elif event == "progress":
            process.observer.progressed(TrainingProgress(**facts))
        elif event == "note":
            process.observer.noted(facts["text"])
        elif event == "settled" and process.cell is not None:
            cell, choosing = process.cell
            process.cell = None
            self._tell_result(process, cell)
            self.claims.settle(cell, choosing)
        elif event == "ended":
            process.why = facts["why"]

    def _cell_of(self, row: int, candidate: int, seed: int, choosing: bool, total: int) -> Cell:
        of_row = self.run_plan.rows[row]
        if choosing:
            return self.run_plan.candidate_cells(of_row)[candidate]
        return self.run_plan.cell(of_row, of_row.candidates[candidate], seed)

    def _tell_result(self, process: _Process, cell: Cell) -> None:
        """Tell who watches what a process has written of a cell."""
        with suppress(RecordError):  # somebody else changes it already: it is told when it is needed
            failures = {path: read_record(path, Failure) for path in failure_files(cell.folder)}
            self.failed |= failures
            for failure in failures.values():
                process.observer.cell_failed(cell, failure)
            pretraining = read_pretraining(cell)
            if not failures and pretraining is not None:
                stored = [read_evaluation(cell, planned) for planned in cell.evaluations]
                process.observer.cell_finished(cell, pretraining, [record for record in stored if record is not None])

    def _bury(self, process: _Process) -> None:
        """Free what an ended process held, and say so where it should not have ended."""
        process.ask_to_stop()
        process.observer.closed()
        if process.popen.returncode != 0 and not self._ending and not self.stop():
            if process.ready:
                at = f" at {process.cell[0].address}" if process.cell is not None else ""
                goes_on = "; the run goes on without it" + (", and with that cell from its last checkpoint" * bool(at))
                notice(f"one of the processes that compute side by side{at} {process.end_words}{goes_on}")
            else:
                self._tell_not_started(f"it {process.end_words}")
        self.claims.release(process)

    def _tell_not_started(self, why: str) -> None:
        if not self._told:
            notice(f"a process to compute cells side by side did not start: {why}; the run goes on without it")
        self._told = True
