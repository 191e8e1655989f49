"""The predictions beside an evaluation record: bound to it by a digest, and held against its numbers."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssl_bench.errors import ContradictedRecord, DamagedRecord, RecordError
from ssl_bench.records.schema import EvaluationRecord, MeasurementRecord
from ssl_bench.system import digests

TRUTH = "target"  #: the true classes among an evaluation's predictions
AGAIN = "run the same command again to measure it anew, if its weights are still there"


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
    content = checked_predictions(path, record)
    if content is None:
        return {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            predictions = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # of zipfile, zlib, numpy's headers: damage may raise nearly anything
        raise DamagedRecord(f"{path} is damaged and cannot be read: {error or type(error).__name__}; {AGAIN}") from None
    check_predictions(path, record, predictions)
    return predictions


def checked_predictions(path: Path, record: EvaluationRecord) -> bytes | None:
    """The bytes of the predictions beside a record, by its digest of them; None where there are none. Raises as ``read_predictions`` does."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if record.predictions:
            raise DamagedRecord(
                f"{path} is missing, and {path.with_suffix('.json').name} says that it was written; {AGAIN}"
            ) from None
        return None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from None
    if record.predictions and digests.digest_of(content) != record.predictions:
        raise DamagedRecord(
            f"{path} is damaged, or belongs to another record: its digest is not the one in {path.with_suffix('.json').name}; {AGAIN}"
        )
    if not record.predictions:
        digests.not_checked(path)
    return content


def check_predictions(path: Path, record: EvaluationRecord, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ContradictedRecord where a test accuracy of a record is not what the stored predictions give, to half an image."""
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
                f"{path}: predictions {name!r} give {share:.4f} over {len(truth):,} images, the record says {m.value:.4f} over {m.n:,}; {AGAIN}"
            )


def prediction_name(evaluator: str, m: MeasurementRecord) -> str:
    """The name under which an evaluator stores the predictions behind a top-1 measurement."""
    if evaluator == "finetune":
        return f"{m.labels:g}/{m.draw}" + (f"/{m.row}" if m.row else "")
    name = m.stage + m.metric.removeprefix("top1")
    return name if m.labels == 1 else f"{name}@{m.labels:g}/{m.draw}"
