"""A run's records as tidy data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ssl_bench.records.declarations import BUILT_IN, EvaluatorDeclaration, Note
from ssl_bench.records.notes import notes_of, shares_at_longest
from ssl_bench.records.predictions import read_predictions
from ssl_bench.records.protocols import is_older
from ssl_bench.records.schema import EvaluationRecord, Failure, MeasurementRecord, Pretraining, Run, RunRow
from ssl_bench.report.ground.names import base_name

FRAME_COLUMNS = [
    "row",
    "task",
    "seed",
    "evaluator",
    "data",
    "stage",
    "labels",
    "draw",
    "split",
    "metric",
    "value",
    "n",
    "best",
    "variant",
    "low",
    "high",
    "protocol",
]


@dataclass(frozen=True)
class Missing:
    """An expected record that is not there: ``what`` is "pretraining" or an evaluator.

    ``failure`` says why, where that is known; ``damage`` what is wrong with a file that is there and cannot be used.
    """

    row: str
    seed: int
    what: str
    data: str = ""
    failure: Failure | None = None
    damage: str = ""


@dataclass(frozen=True)
class EvaluationOfRun:
    """An evaluation record, the name its evaluator has in this run, and where it lies."""

    row: RunRow
    seed: int
    evaluator: str
    data: str
    path: Path
    record: EvaluationRecord

    def measurements(self, split: str) -> Iterator[MeasurementRecord]:
        """Those of one split; test numbers count only where the record says that test was opened."""
        return (m for m in self.record.measurements if m.split == split and (split != "test" or self.record.final))


@dataclass
class RunRecords:
    """A run's records and, from them, tidy data frames.

    ``run`` names what the table is made of, ``failures`` why cells have no numbers, ``missing`` which expected records
    are not there. Numbers of two versions of a protocol are never mixed: those of another version than their
    evaluator's others are ``earlier``.
    """

    run: Run
    pretrainings: dict[tuple[str, int], Pretraining]
    evaluations: list[EvaluationOfRun]
    failures: list[Failure]
    missing: list[Missing]
    expected: int
    earlier: list[EvaluationOfRun] = field(default_factory=list)  #: the same cells under another version of a protocol
    #: evaluator and data to the protocol of its numbers
    protocols: dict[tuple[str, str], str] = field(default_factory=dict)
    #: row to evaluations of it that saw test and are not in this table
    opened_elsewhere: dict[str, int] = field(default_factory=dict)
    #: row to settings of its choice that failed, and were not compared
    failed_candidates: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)  #: what is wrong with files that are left out, each with its path
    #: what is wrong with predictions that cannot be used, each with its path
    doubtful: list[str] = field(default_factory=list)
    folder: Path | None = None  #: where the records lie, as it was named; None: nowhere
    #: files of an earlier version, without a digest: whether they are as they were written is not known
    unchecked: int = 0
    _predictions: dict[Path, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)
    _pretraining_of: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One line per number: row, task, seed, evaluator, data, stage, labels, draw, split, metric, value, n, best,
        variant, low, high, protocol."""
        return _frame(self.evaluations)

    @cached_property
    def earlier_frame(self) -> pd.DataFrame:
        """As ``frame``, the numbers that the same cells had under another version of a protocol."""
        return _frame(self.earlier)

    def declared(self, evaluator: str) -> EvaluatorDeclaration:
        """What an evaluator declares of its numbers: as the run wrote it down, or built in; nothing of others."""
        name = base_name(evaluator)
        return BUILT_IN.get(name) or self.run.evaluators.get(name) or EvaluatorDeclaration()

    @cached_property
    def notes(self) -> list[tuple[EvaluationOfRun, Note]]:
        """What records say of how their numbers were made."""
        return [
            (evaluation, note) for evaluation in self.evaluations for note in notes_of(evaluation.record, self.split)
        ]

    @cached_property
    def at_longest(self) -> set[tuple[str, str, str, float]]:
        """(row, evaluator, data, share of the labels) that were trained for the longest length offered, at any seed:
        their numbers are lower bounds."""
        return {
            (evaluation.row.row, evaluation.evaluator, evaluation.data, share)
            for evaluation in self.evaluations
            for share in shares_at_longest(evaluation.record)
        }

    def is_older(self, evaluator: str, data: str) -> bool:
        """Whether an evaluator's numbers are of an older version of its protocol than the installed one."""
        return any(
            is_older(evaluation.record)
            for evaluation in self.evaluations
            if (evaluation.evaluator, evaluation.data) == (evaluator, data)
        )

    @cached_property
    def pretraining(self) -> pd.DataFrame:
        """One line per pretrained backbone: its cost, its last training values and what the task says of itself."""
        rows = {row.row: row for row in self.run.rows}
        lines = []
        for (row, seed), p in self.pretrainings.items():
            facts = {**{f"diagnose.{k}": v for k, v in p.diagnose.items()}, **p.metrics}
            lines.append(
                {
                    "row": row,
                    "task": rows[row].task,
                    "seed": seed,
                    "block": rows[row].block,
                    "uses_labels": rows[row].uses_labels,
                    "seconds": p.seconds.get("total", float("nan")),
                    "steps": p.steps,
                    "images_seen": p.images_seen,
                    "passes": p.passes,
                    "flops": p.flops,
                    "parameters": p.parameters,
                    "images_per_second": p.images_per_second,
                    "peak_memory": p.peak_memory,
                    "cpu_seconds": p.seconds.get("cpu", float("nan")),
                    "trend": p.trend,
                    **facts,
                }
            )
        base = [
            "row",
            "task",
            "seed",
            "block",
            "uses_labels",
            "seconds",
            "steps",
            "images_seen",
            "passes",
            "flops",
            "parameters",
            "images_per_second",
            "peak_memory",
            "cpu_seconds",
            "trend",
        ]
        return pd.DataFrame(lines) if lines else pd.DataFrame(columns=base)

    def pretraining_of(self, row: str) -> pd.DataFrame:
        """The lines of ``pretraining`` that are about one row."""
        frame = self.pretraining
        if not self._pretraining_of:
            self._pretraining_of |= {str(name): of_row for name, of_row in frame.groupby("row")}
        return self._pretraining_of.get(row, frame.iloc[:0])

    @property
    def split(self) -> str:
        """The split that the table shows."""
        return "test" if self.run.final else "validation"

    def data_sets(self) -> list[dict[str, Any]]:
        """The labelled sets as the run describes them: name, train, validation, test, classes."""
        known = {str(entry["name"]): entry for entry in self.run.data.get("evaluate", [])}
        brought = {entry["name"] for entry in self.own_sets()}
        for cell in self.run.cells:
            for evaluation in cell.evaluations:
                if evaluation.data not in brought:
                    known.setdefault(evaluation.data, {"name": evaluation.data})
        return list(known.values())

    def own_sets(self) -> list[dict[str, Any]]:
        """The sets that evaluators bring themselves, such as images with boxes: as ``data_sets``, and ``evaluator``."""
        return list(self.run.data.get("own", []))

    def predictions(self, evaluation: EvaluationOfRun) -> dict[str, np.ndarray]:
        """Arrays [N_test] stored beside a record, held against it; empty where there are none.

        Raises RecordError naming a damaged file.
        """
        if evaluation.path not in self._predictions:
            self._predictions[evaluation.path] = read_predictions(evaluation.path, evaluation.record)
        return self._predictions[evaluation.path]


def _frame(evaluations: list[EvaluationOfRun]) -> pd.DataFrame:
    lines = [
        (
            f.row.row,
            f.row.task,
            f.seed,
            f.evaluator,
            f.data,
            m.stage,
            m.labels,
            m.draw,
            m.split,
            m.metric,
            m.value,
            m.n,
            m.best,
            m.row,
            m.low,
            m.high,
            f.record.protocol,
        )
        for f in evaluations
        for split in ("validation", "test")
        for m in f.measurements(split)
    ]
    return pd.DataFrame(lines, columns=FRAME_COLUMNS)
