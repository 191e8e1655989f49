"""Which cells a run has begun: none is tried twice, whichever of its processes had it."""

from __future__ import annotations

import enum
import time
from pathlib import Path

from ssl_bench.plan.cells import Cell
from ssl_bench.runner.observer import Observer


class Claim(enum.Enum):
    """The answer to a process that wants to compute a cell."""

    GRANTED = "granted"  #: nobody of this run has begun it
    HELD = "held"  #: another process of this run has it, or has just died of it
    TRIED = "tried"  #: it was computed in this run, or failed


class Claims:
    """The claims of a run of one process.

    A cell may be claimed twice in a run: while its row's choice is open, and for the table.
    """

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self._numbers: dict[tuple[bool, Path], int] = {}  # of cells that were begun, in their order
        self._totals = {False: 0, True: 0}

    def take(self, cell: Cell, choosing: bool, total: int) -> Claim:
        """Ask for a cell whose lock this process holds; who watches is told when it is granted.

        Parameters
        ----------
        choosing : whether it is computed to decide its row's choice.
        total : how many such cells were missing when this process began with them.
        """
        if (choosing, cell.folder) in self._numbers:
            return Claim.TRIED
        self.begin(cell, choosing, total, self.observer)
        return Claim.GRANTED

    def begin(self, cell: Cell, choosing: bool, total: int, observer: Observer) -> None:
        """Number a cell and tell of its beginning. One that is gone on with by another process keeps its number."""
        known = sum(of_choice == choosing for of_choice, _ in self._numbers)
        number = self._numbers.setdefault((choosing, cell.folder), known + 1)
        # a process that comes later finds fewer cells missing
        self._totals[choosing] = max(self._totals[choosing], total, number)
        observer.cell_started(cell, number, self._totals[choosing])

    def settle(self, cell: Cell, choosing: bool) -> None:
        """Say that a cell was computed, or that its failure is recorded."""

    def holds(self, cell: Cell) -> bool:
        """Whether another process of this run computes a cell."""
        return False

    def wait(self, seconds: float) -> None:
        """Wait until another process may have finished a cell, at most so long."""
        time.sleep(seconds)
