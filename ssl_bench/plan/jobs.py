"""How many cells of a run are computed side by side, and with how many threads each.

Small networks gain little from a second thread, and threads that wait for each other lose much where other work has the
cores: two cells side by side with one thread each finish more cells an hour than one after the other with two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ssl_bench.errors import SpecError, quoted
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.system.processors import free_memory, usable_cores

AUTO = "auto"
PROCESS_BYTES = 700_000_000  # of a process before it holds anything of its cell: torch and what it brings
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Jobs:
    """How many cells are computed side by side, and with how many threads each.

    Attributes
    ----------
    count : processes that compute cells, this one among them.
    threads : torch's threads in each; None leaves them as they are.
    """

    count: int = 1
    threads: int | None = None

    @contextmanager
    def threads_set(self) -> Iterator[None]:
        """Meanwhile torch has the number of threads of a cell."""
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            if self.threads is not None:
                torch.set_num_threads(before)

    @property
    def words(self) -> str:
        """ "2 cells side by side, one thread each"; "" for one cell after the other."""
        if self.count == 1:
            return ""
        threads = torch.get_num_threads() if self.threads is None else self.threads
        return f"{self.count} cells side by side, {'one thread' if threads == 1 else f'{threads} threads'} each"


ONE_BY_ONE = Jobs()


def jobs_requested(value: int | str | None) -> int | None:
    """The number that a user asked for; None for "auto". Raises SpecError for anything else, and where the system
    cannot do it."""
    if value is None or value == AUTO:
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 1_024:
        raise SpecError(f"jobs must be auto or a whole number from 1 to 1024, got {quoted(value)}")
    if int(text) > 1 and os.name != "posix":
        raise SpecError(f"jobs must be auto or 1 on this system, got {quoted(value)}")
    return int(text)


def jobs_of(run_plan: RunPlan, requested: int | None, memory: Callable[[], int]) -> Jobs:
    """How a run is divided.

    The number of cores and of the matrix's cells decide, not that of the cells still missing, so that all cells of a
    table have the same number of threads, also where a run was interrupted.

    Parameters
    ----------
    requested : as ``jobs_requested`` returns it.
    memory : gives the bytes that the largest cell needs; not called where one cell is computed at a time anyway.
    """
    cores = usable_cores()
    if requested is None:
        if run_plan.device.type != "cpu" or os.name != "posix" or _threads_are_chosen(cores):
            return ONE_BY_ONE
        cells = sum(len(run_plan.matrix.seeds) + len(row.candidates) - 1 for row in run_plan.rows)
        count = min(cores, cells)
        if count > 1 and (free := free_memory()) is not None:
            count = min(count, free // (PROCESS_BYTES + memory()))
        requested = max(1, count)
    elif _threads_are_chosen(cores):
        return Jobs(requested)
    return Jobs(requested, min(torch.get_num_threads(), max(1, cores // requested)))


def _threads_are_chosen(cores: int) -> bool:
    """Whether the user has set the number of threads. torch itself begins with the cores of the machine, or with half
    of them where each core counts twice."""
    if any(os.environ.get(name) for name in _THREAD_VARIABLES):
        return True
    all_cores = os.cpu_count() or cores
    return torch.get_num_threads() not in {cores, -(-cores // 2), all_cores, -(-all_cores // 2)}
