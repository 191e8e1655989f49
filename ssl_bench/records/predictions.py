"""The predictions beside an evaluation record: bound to it by a digest, and held against its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ssl_bench.errors import ContradictedRecord, DamagedRecord
from ssl_bench.records.archive import TRUTH as TRUTH
from ssl_bench.records.places import AGAIN, place_of
from ssl_bench.records.schema import EvaluationRecord, MeasurementRecord
from ssl_bench.system import digests


def read_predictions(path: Path, record: EvaluationRecord) -> dict[str, np.ndarray]:
    """The arrays beside an evaluation record, held against it; empty where there are none.

    Parameters
    ----------
    path : of the record, or of the arrays.

    Raises
    ------
    DamagedRecord : naming the file: missing or not those of the record, or its accuracies are not what they give.
    """
    path = path.with_suffix(".npz")
    read = checked_predictions(path, record)
    arrays = {} if read is None else read()
    check_predictions(path, record, arrays)
    return arrays


def checked_predictions(path: Path, record: EvaluationRecord) -> Callable[[], dict[str, np.ndarray]] | None:
    """What reads the predictions beside a record, their bytes checked; None where there are none. Raises as
    ``read_predictions`` does.

    Files are checked by the record's digest of them. Those of a published run have a digest of the whole archive
    instead, and what was measured with a share of the labels tells there only whether an image was right.
    """
    path = path.with_suffix(".npz")
    read = place_of(path.with_suffix(".json")).predictions(path, record.predictions)
    if read is None and record.predictions:
        raise DamagedRecord(
            f"{path} is missing, and {path.with_suffix('.json').name} says that it was written; {AGAIN}"
        )
    if read is not None and not record.predictions:
        digests.not_checked(path)
    return read


def has_predictions(path: Path) -> bool:
    """Whether there are predictions beside the record at ``path``, sound or not."""
    return place_of(path).holds(path.with_suffix(".npz"))


def check_predictions(path: Path, record: EvaluationRecord, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ContradictedRecord where a test accuracy of a record is not what the stored predictions give, to half an
    image."""
    truth = arrays.get(TRUTH)
    if truth is None:
        return
    for m in record.measurements:
        name = prediction_name(record.evaluator, m)
        if m.split != "test" or m.metric.partition("@")[0] != "top1" or name not in arrays:
            continue
        predicted = arrays[name]
        same = predicted.shape == truth.shape
        share = float((predicted == truth).mean()) if same and len(truth) else math.nan
        if not same or len(truth) != m.n or not abs(share - m.value) <= 0.5 / m.n + 1e-6:
            raise ContradictedRecord(
                f"{path}: predictions {name!r} give {share:.4f} over {len(truth):,} images, the record says "
                f"{m.value:.4f} over {m.n:,}; {AGAIN}"
            )


def prediction_name(evaluator: str, m: MeasurementRecord) -> str:
    """The name under which an evaluator stores the predictions behind a top-1 measurement."""
    if evaluator == "finetune":
        return f"{m.labels:g}/{m.draw}" + (f"/{m.row}" if m.row else "")
    name = m.stage + m.metric.removeprefix("top1")
    return name if m.labels == 1 else f"{name}@{m.labels:g}/{m.draw}"
