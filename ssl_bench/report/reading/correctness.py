"""Which test images each row got right, from the predictions stored beside records; what of them cannot be used is
told."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ssl_bench.errors import RecordError
from ssl_bench.records.predictions import TRUTH, has_predictions, prediction_name
from ssl_bench.records.schema import MeasurementRecord
from ssl_bench.report.ground.content import Column
from ssl_bench.report.ground.names import BALANCED, base_name, is_stage
from ssl_bench.report.reading.records import EvaluationOfRun, RunRecords

# before a metric: its values on resamples of the test images, the same resamples for every row and seed
DRAWN = "drawn/"


class Correctness:
    """The predictions of a run, read where a comparison asks for them.

    A file that is damaged, that disagrees with its record, or that is missing where the same evaluator's other records
    have theirs makes its seed unusable for comparisons; ``problems`` says which and why.
    """

    def __init__(self, results: RunRecords) -> None:
        self._results = results
        self._evaluations: dict[tuple[str, str, str], list[EvaluationOfRun]] = {}
        for evaluation in results.evaluations:
            self._evaluations.setdefault((evaluation.row.row, evaluation.evaluator, evaluation.data), []).append(
                evaluation
            )
        self._stored = {(f.evaluator, f.data) for f in results.evaluations if has_predictions(f.path)}
        self._of_column: dict[tuple[str, str, str], tuple[dict[int, np.ndarray], set[int]]] = {}
        self.problems: dict[str, None] = {}

    def per_image(self, row: str, data: str, column: Column) -> dict[int, np.ndarray]:
        """Seed to correctness per test image, [N] in [0, 1], averaged over draws; only seeds whose predictions are all
        there."""
        return self._read(row, data, column)[0]

    def unusable(self, row: str, data: str, column: Column) -> set[int]:
        """Seeds whose predictions should be there and cannot be used."""
        return self._read(row, data, column)[1]

    def drawn(self, row: str, data: str, column: Column) -> dict[int, np.ndarray]:
        """Seed to values float [draws] on resamples of the test images, of evaluations that store them."""
        if column.split != "test":
            return {}
        evaluations = [
            f
            for f in self._evaluations.get((row, column.evaluator, column.data or data), ())
            if any(_belongs(m, column) for m in f.measurements("test"))
        ]
        stored = {f.seed: (self._arrays(f) or {}).get(DRAWN + column.metric) for f in evaluations}
        return {seed: array for seed, array in stored.items() if array is not None}

    def at_stages(
        self, row: str, data: str, evaluator: str, metric: str, seed: int, labels: float, stages: Mapping[int, str]
    ) -> np.ndarray | None:
        """Correctness per test image at a stage for each draw of the labels, averaged over the draws; None where any is
        not there."""
        arrays = []
        for evaluation in self._evaluations.get((row, evaluator, data), ()):
            for m in evaluation.measurements("test") if evaluation.seed == seed else ():
                if (
                    not m.row
                    and m.metric == metric
                    and math.isclose(m.labels, labels)
                    and stages.get(m.draw) == m.stage
                ):
                    arrays.append(self._correct(evaluation, m))
        usable = [array for array in arrays if array is not None]
        return (
            np.mean(usable, axis=0)
            if len(usable) == len(stages) and len({len(array) for array in usable}) == 1
            else None
        )

    def within_classes(self, row: str, data: str, column: Column) -> tuple[np.ndarray, np.ndarray] | None:
        """Correctness and class of every test image behind the balanced accuracy of a row with one seed and one draw;
        None without predictions."""
        evaluations = self._evaluations.get((row, column.evaluator, column.data or data), ())
        wanted = (
            [
                (evaluation, m)
                for evaluation in evaluations
                for m in evaluation.measurements("test")
                if _belongs(m, column)
            ]
            if column.split == "test"
            else []
        )
        if len(wanted) != 1:
            return None
        evaluation, m = wanted[0]
        plain = m.metric.removeprefix(BALANCED)
        same = next(
            (
                measurement
                for measurement in evaluation.measurements("test")
                if measurement.metric == plain and _measurement_place(measurement) == _measurement_place(m)
            ),
            None,
        )
        correct = self._correct(evaluation, same) if same is not None else None
        return None if correct is None else (correct, (self._arrays(evaluation) or {})[TRUTH])

    def _read(self, row: str, data: str, column: Column) -> tuple[dict[int, np.ndarray], set[int]]:
        if column.split != "test":
            return {}, set()
        place = row, column.data or data, column.key
        if place not in self._of_column:
            self._of_column[place] = correct, unusable = {}, set()
            for evaluation in self._evaluations.get((row, column.evaluator, column.data or data), ()):
                wanted = [m for m in evaluation.measurements("test") if _belongs(m, column)]
                if column.stage == "code":
                    # of several the first named, as in the table
                    wanted = [m for m in wanted if m.stage == wanted[0].stage]
                if not wanted:
                    continue
                if not column.metric.startswith("top1"):
                    if self._arrays(evaluation) is None and self._draws_stored(evaluation, column.metric):
                        unusable.add(evaluation.seed)
                    continue
                arrays = [self._correct(evaluation, m) for m in wanted]
                usable = [array for array in arrays if array is not None]
                if len(usable) == len(wanted):
                    correct[evaluation.seed] = np.mean(usable, axis=0)
                elif self._arrays(evaluation) is None:
                    unusable.add(evaluation.seed)
        return self._of_column[place]

    def _draws_stored(self, evaluation: EvaluationOfRun, metric: str) -> bool:
        """Whether an evaluator stores values of a metric on resampled images,
        so that this record should have them too."""
        same = (
            other
            for (_, evaluator, data), others in self._evaluations.items()
            if (evaluator, data) == (evaluation.evaluator, evaluation.data)
            for other in others
        )
        return any(DRAWN + metric in (self._arrays(other) or {}) for other in same)

    def _arrays(self, evaluation: EvaluationOfRun) -> dict[str, np.ndarray] | None:
        """Arrays beside a record; None where they should be there and cannot be used."""
        try:
            arrays = self._results.predictions(evaluation)
            if not arrays and (evaluation.evaluator, evaluation.data) in self._stored and evaluation.record.final:
                raise RecordError(
                    f"{evaluation.path.with_suffix('.npz')} is missing, and the other records of "
                    f"{evaluation.evaluator} have theirs"
                )
        except RecordError as error:
            self.problems[str(error)] = None
            return None
        return arrays

    def _correct(self, evaluation: EvaluationOfRun, m: MeasurementRecord) -> np.ndarray | None:
        arrays = self._arrays(evaluation) or {}
        name = prediction_name(base_name(evaluation.evaluator), m)
        if TRUTH not in arrays or name not in arrays:
            return None
        return (arrays[name] == arrays[TRUTH]).astype(np.float64)


def _measurement_place(m: MeasurementRecord) -> tuple[str, float, int, str]:
    return m.stage, m.labels, m.draw, m.row


def _belongs(m: MeasurementRecord, column: Column) -> bool:
    if m.row or m.metric != column.metric or (column.labels is not None and not math.isclose(m.labels, column.labels)):
        return False
    if column.stage == "code":
        return not is_stage(m.stage)
    return m.best if column.stage == "best" else not column.stage or m.stage == column.stage
