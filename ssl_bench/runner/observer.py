"""Who watches a run: the events it is told of."""

from __future__ import annotations

from collections.abc import Mapping

from ssl_bench.plan.candidate import Candidate
from ssl_bench.plan.cells import Cell
from ssl_bench.plan.rows import Row
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.records.schema import EvaluationRecord, Failure, Pretraining
from ssl_bench.training.loop import TrainingProgress


class Observer:
    """Who watches a run; every method may be overridden, none has to be."""

    def packing(self, what: str, done: int, total: int) -> None: ...
    def planned(self, run_plan: RunPlan) -> None: ...
    def cell_started(self, cell: Cell, number: int, total: int) -> None: ...
    def progressed(self, progress: TrainingProgress) -> None: ...
    def noted(self, text: str) -> None: ...
    def cell_finished(self, cell: Cell, pretraining: Pretraining, evaluations: list[EvaluationRecord]) -> None: ...
    def cell_failed(self, cell: Cell, failure: Failure) -> None: ...
    def chose(self, row: Row, winner: Candidate, scores: Mapping[str, float]) -> None: ...
    def closed(self) -> None: ...

    def beside(self) -> Observer:
        """Who watches the cells of another process that works for this run, until it is told ``closed``.

        Its methods are called from another thread, while those of this observer go on.
        """
        return self
