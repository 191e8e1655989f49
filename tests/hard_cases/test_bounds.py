"""Values that cannot be: refused where they are written and where they are read,
and accuracies that their own predictions contradict."""

from __future__ import annotations

import json
import math
import shutil
import tarfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError

from ssl_bench.errors import DamagedRecord, RecordError
from ssl_bench.evaluators.base import Evaluation, Evaluator, Measurement
from ssl_bench.plan.prepare import prepare
from ssl_bench.plugins.registry import EVALUATORS
from ssl_bench.records.archive import RECORDS_FILE
from ssl_bench.records.predictions import read_predictions
from ssl_bench.records.schema import (
    Environment,
    EvaluationRecord,
    MeasurementRecord,
    Pretraining,
    measurement_record,
    read_record,
)
from ssl_bench.report import load
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.scheduler import carry_out

ROOT = Path(__file__).resolve().parents[2]
WHERE = Environment(device="cpu", precision="fp32", versions={}, code="0")


@pytest.mark.parametrize(
    ("metric", "value", "more", "why"),
    [
        ("top1@20", 7.5, {}, "top1@20 must be from 0 to 1, got 7.5"), ("top5", -0.1, {}, "must be from 0 to 1"),
        ("map", 55.0, {}, "must be from 0 to 1"),
        ("ap50", math.inf, {}, "must be from 0 to 1"), ("top1", math.nan, {}, "top1 must be from 0"),
        ("rankme", -3.0, {}, "finite and at least 0"),
        ("rankme", math.inf, {}, "finite and at least 0"), ("top1", 0.5, {"n": 0}, "n: "),
        ("top1", 0.5, {"draw": -1}, "draw: "),
        ("top1", 0.5, {"labels": 0.0}, "labels: "), ("top1", 0.5, {"labels": 10.0}, "labels: "),
        ("map", 0.5, {"low": 0.6, "high": 0.7}, "outside of its interval from 0.6 to 0.7"),
        ("map", 0.5, {"low": 0.6, "high": 0.4}, "outside"),
        ("map", 0.5, {"low": 0.4, "high": 1.4}, "high end of the interval of map"),
        ("map", 0.5, {"low": 0.4}, "one end of an interval"),
    ],
)  # fmt: skip
def test_values_that_cannot_be(metric: str, value: float, more: dict[str, Any], why: str) -> None:
    facts = {"metric": metric, "split": "test", "value": value, "n": 10, **more}
    with pytest.raises(RecordError, match="^mine measured what cannot be") as error:
        measurement_record("mine", facts)
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("metric", "value", "more"),
    [
        ("top1", 1.0, {}),
        ("top1@20", 0.0, {}),
        ("mine", -7.5, {}),
        ("variance_explained", -0.2, {}),
        ("variance_explained", math.nan, {}),
        ("kl", 1e9, {}),
        ("map", 0.5, {"low": 0.5, "high": 0.5}),
        ("map", 0.5, {"low": 0.5 + 1e-8, "high": 0.6}),
        ("seconds_to_fit", 120.0, {"low": 100.0, "high": 130.0}),
    ],
)
def test_values_that_can_be(metric: str, value: float, more: dict[str, Any]) -> None:
    MeasurementRecord(metric=metric, split="test", value=value, n=10, **more)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": -1}, {"seconds": {"total": -2.0}}, {"seconds": {"total": math.inf}}, {"passes": -1.0},
        {"peak_memory": -5}, {"images_per_second": math.nan}, {"curves": {"loss": {"step": [1, 2], "value": [0.5]}}},
    ],
)  # fmt: skip
def test_a_pretraining_that_cannot_be(changes: dict[str, Any]) -> None:
    facts: dict[str, Any] = {
        "id": "a",
        "row": "r",
        "task": "t",
        "seed": 0,
        "block": "pretext",
        "spec": {},
        "environment": WHERE,
        "created": "now",
    }
    Pretraining(**facts)
    with pytest.raises(ValidationError):
        Pretraining(**facts, **changes)


class Boastful(Evaluator):
    """Returns percents."""

    name: ClassVar[str] = "boastful"
    protocol: ClassVar[str] = "boastful"

    def evaluate(self, subject: Any) -> Evaluation:
        return Evaluation(
            [Measurement("top1", "validation", 75.0, len(subject.validation))],
            {"mine": np.arange(len(subject.test or []))},
        )


def test_an_evaluator_that_returns_percents_fails_alone(tmp_path: Path) -> None:
    failures = []

    class Watching(Observer):
        def cell_failed(self, cell: Any, failure: Any) -> None:
            failures.append(failure)

    EVALUATORS.add(Boastful)
    try:
        matrix = {
            "name": "tiny", "data": {"source": "shapes", "size": 32, "limit": {"train": 120, "test": 60}},
            "pretrain": {"images": 32},
            "backbone": {"name": "resnet18", "width": 0.125, "stem_stride": 2}, "tasks": [], "baselines": ["random"],
            "evaluate": ["knn", "boastful"],
        }  # fmt: skip
        carry_out(prepare(matrix, tmp_path), Watching())
    finally:
        EVALUATORS._added.pop("boastful", None)
    assert [failure.where for failure in failures] == ["boastful"]
    assert "boastful measured what cannot be on validation: top1 must be from 0 to 1 (got 75)" in failures[0].message
    assert len(list(tmp_path.glob("cells/random/*/knn-*.json"))) == 1 and not list(
        tmp_path.glob("cells/random/*/boastful*")
    )


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    """Results of a version that kept no digests: what they say is all there is to go by."""
    published, folder = ROOT / "results" / "classic_inputs", tmp_path / "inputs"
    folder.mkdir()
    shutil.copy(published / "run.json", folder)
    with tarfile.open(published / RECORDS_FILE) as records:
        records.extractall(folder, filter="data")
    results = load(published)
    for evaluation in results.evaluations:
        path = folder / evaluation.path.relative_to(published)
        np.savez_compressed(path.with_suffix(".npz"), **results.predictions(evaluation))  # type: ignore[arg-type]
    return folder


def edited(path: Path, old: float, new: float) -> None:
    record = json.loads(path.read_text())
    assert "digest" not in record
    for m in record["measurements"]:
        if m["value"] == old:
            m["value"] = new
    path.write_text(json.dumps(record))


def test_committed_results_are_sound_and_edited_ones_are_not(committed: Path) -> None:
    results = load(committed)
    assert results.unchecked > 20 and not results.missing and not results.doubtful and not results.damaged
    for found in results.evaluations[:3]:
        m = next(m for m in found.measurements("test") if m.metric.partition("@")[0] == "top1")
        stored = found.path.read_text()
        for new, why in ((7.5, "must be from 0 to 1"), (m.value + 1.1 / m.n, r"\.npz: predictions .* give")):
            edited(found.path, m.value, new)
            with pytest.raises(DamagedRecord, match=why):
                read_predictions(found.path, read_record(found.path, EvaluationRecord))
            found.path.write_text(stored)
    edited(found.path, m.value, 0.9)
    results = load(committed)
    # and no 90.0 in the table
    assert "the record says 0.9000" in results.damaged[0] and [m.damage for m in results.missing] == results.damaged


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(path.parent.name for path in (ROOT / "results").glob("*/run.json")))
def test_all_committed_results_are_sound(name: str) -> None:
    results = load(ROOT / "results" / name)
    assert results.evaluations and not results.doubtful and not results.damaged
