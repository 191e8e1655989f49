"""Results folders made of real records with made-up numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_bench.records.protocols import VERSIONS
from ssl_bench.records.schema import (
    Curve,
    Environment,
    EvaluationRecord,
    Failure,
    MeasurementRecord,
    Pretraining,
    Record,
    Run,
    RunCell,
    RunEvaluation,
    RunRow,
    digest,
    safe_name,
)

CREATED = "2026-01-01T00:00:00+00:00"
ENVIRONMENT = Environment(
    device="cpu: Example, 2 threads", precision="fp32", versions={"torch": "2.11.0"}, code="0.1.0 (a1b2c3d)"
)
#: row -> (task, block, accuracy by stage)
ROWS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "autoencoder": ("autoencoder", "pretext", (0.50, 0.47, 0.42, 0.38)),
    "rotation": ("rotation", "pretext", (0.55, 0.66, 0.80, 0.70)),
    "simclr": ("simclr", "pretext", (0.55, 0.68, 0.80, 0.88)),
    "random": ("random", "baseline", (0.53, 0.51, 0.49, 0.46)),
    "pixels": ("pixels", "baseline", ()),
    "supervised": ("supervised", "labels", (0.58, 0.72, 0.88, 0.94)),
}


def _predictions(
    rng: np.random.Generator, truth: np.ndarray, difficulty: np.ndarray, accuracy: float, classes: int
) -> np.ndarray:
    """Predictions with about this accuracy; the same images are hard for every row and seed."""
    score = difficulty + rng.normal(scale=0.7, size=len(truth))
    correct = score <= np.quantile(score, accuracy)
    wrong = (truth + rng.integers(1, classes, len(truth))) % classes
    return np.where(correct, truth, wrong)


def write_record(path: Path, record: Record) -> None:
    """As ssl_bench.records.schema.write_record, without waiting for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record.model_dump_json(indent=1))


def make_run(
    folder: Path,
    rows: dict[str, tuple[str, str, tuple[float, ...]]] | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    *,
    n: int = 500,
    classes: int = 4,
    data: tuple[str, ...] = ("toy",),
    final: bool = True,
    name: str = "toy",
    predictions: bool = True,
    draws: int = 2,
    noise: float = 0.01,
    skip: Callable[[str, int, str], bool] = lambda row, seed, what: False,
    fails: dict[tuple[str, int, str], str] | None = None,
    environment: Callable[[str], Environment] = lambda row: ENVIRONMENT,
    shares: tuple[float, ...] = (0.1, 1.0),
    probe_shares: tuple[float, ...] = (1.0,),
    few: Callable[[float, float], float] = lambda accuracy, share: accuracy - 0.1 + 0.1 * share,
    boxes: dict[str, dict[str, float]] | None = None,
    **run: Any,
) -> Path:
    """Write a results folder.

    ``skip(row, seed, what)`` leaves a record out; ``fails`` maps (row, seed, what) to a message. Fine-tuning is
    measured at ``shares`` of the labels, the probe at ``probe_shares``; ``few(accuracy, share)`` is what is left of an
    accuracy. ``boxes`` maps a set with boxes to the detection mAP of rows.
    """
    chosen, fails = rows if rows is not None else ROWS, fails or {}
    truth = {d: np.random.default_rng(7).integers(0, classes, n) for d in data}
    difficulty = {d: np.random.default_rng(8).normal(size=n) for d in data}
    boxes = boxes or {}
    cells = []
    for at, (row, (task, block, stages)) in enumerate(chosen.items()):
        for seed in seeds:
            rng = np.random.default_rng([at, seed])
            pretraining = digest([row, seed])
            home = f"cells/{safe_name(row)}/{seed}-{pretraining[:8]}"
            trains = block not in ("baseline", "elsewhere")
            evaluators = ["linear", "knn", *(["finetune"] if task != "pixels" else [])]
            asked = [(e, d) for e in evaluators for d in data] + [
                ("detection", d) for d, judged in boxes.items() if row in judged
            ]
            cells.append(
                RunCell(
                    row=row,
                    seed=seed,
                    folder=home,
                    pretraining=pretraining,
                    evaluations=[RunEvaluation(evaluator=e, data=d, id=digest([pretraining, e, d])) for e, d in asked],
                )
            )
            failed = {what: message for (r, s, what), message in fails.items() if (r, s) == (row, seed)}
            for what, message in failed.items():
                write_record(
                    folder / home / "failed.json",
                    Failure(
                        row=row,
                        task=task,
                        seed=seed,
                        where=what,
                        error="TrainingError",
                        message=message,
                        created=CREATED,
                    ),
                )
            if "pretraining" in failed or skip(row, seed, "pretraining"):
                continue
            steps = 400 if trains else 0
            curves = {
                "loss": Curve(step=[1, 200, 400], value=[2.0, 1.0, 0.8 + rng.random() / 10]),
                "knn": Curve(step=[200, 400], value=[0.3, 0.5]),
            }
            write_record(
                folder / home / "pretrain.json",
                Pretraining(
                    id=pretraining,
                    row=row,
                    task=task,
                    seed=seed,
                    block=block,  # type: ignore[arg-type]
                    uses_labels=block == "labels",
                    spec={},
                    curves=curves if trains else {},  # type: ignore[arg-type]
                    steps=steps,
                    images_seen=steps * 10,
                    passes=(2.0 + at) * trains,
                    flops=1e12 * (at + 1) * trains,
                    parameters=0 if task == "pixels" else 10_000,
                    seconds={"total": 60.0 * (at + 1)},
                    images_per_second=123.0,
                    peak_memory=2_000_000_000,
                    environment=environment(row),
                    created=CREATED,
                ),
            )
            for expected in cells[-1].evaluations:
                if expected.evaluator in failed or skip(row, seed, expected.evaluator):
                    continue
                if expected.evaluator == "detection":
                    measurements, stored = _detected(rng, boxes[expected.data][row], final, noise), {}
                else:
                    at_share = ((probe_shares if expected.evaluator == "linear" else shares), few)
                    measurements, stored = _measure(
                        rng,
                        expected,
                        stages,
                        task,
                        truth[expected.data],
                        difficulty[expected.data],
                        classes,
                        final,
                        draws,
                        noise,
                        *at_share,
                    )
                path = folder / home / f"{expected.evaluator}-{expected.id}.json"
                write_record(
                    path,
                    EvaluationRecord(
                        id=expected.id,
                        pretraining=pretraining,
                        row=row,
                        task=task,
                        seed=seed,
                        evaluator=expected.evaluator,
                        protocol=f"{expected.evaluator}-x v{VERSIONS[expected.evaluator]}",
                        data=expected.data,
                        spec={},
                        final=final,
                        test_opened=int(final),
                        measurements=measurements,
                        seconds=1.0,
                        environment=environment(row),
                        created=CREATED,
                    ),
                )
                if predictions and final and expected.data in truth:
                    np.savez(path.with_suffix(".npz"), allow_pickle=False, **{**stored, "target": truth[expected.data]})
    described = [
        {"name": d, "train": 4_000, "validation": 400, "test": n, "classes": [f"class {c}" for c in range(classes)]}
        for d in data
    ]
    own = [{"name": d, "evaluator": "detection", "train": 300, "validation": 60, "test": 60} for d in boxes]
    fields: dict[str, Any] = {
        "name": name,
        "matrix": {},
        "data": {"pretrain": {"name": "toy", "images": 4_000, "size": 32}, "evaluate": described}
        | ({"own": own} if boxes else {}),
        "backbone": "resnet18, width 0.25",
        "budget": "4 epochs x 4,000 images",
        "final": final,
        "seeds": list(seeds),
        "rows": [
            RunRow(row=row, task=task, block=block, uses_labels=block == "labels")
            for row, (task, block, _) in chosen.items()
        ],  # type: ignore[arg-type]
        "cells": cells,
        "created": CREATED,
    }
    write_record(folder / "run.json", Run(**{**fields, **run}))
    return folder


def _measure(
    rng: np.random.Generator,
    expected: RunEvaluation,
    stages: tuple[float, ...],
    task: str,
    truth: np.ndarray,
    difficulty: np.ndarray,
    classes: int,
    final: bool,
    draws: int,
    noise: float,
    shares: tuple[float, ...],
    few: Callable[[float, float], float],
) -> tuple[list[MeasurementRecord], dict[str, np.ndarray]]:
    measurements: list[MeasurementRecord] = []
    stored: dict[str, np.ndarray] = {}

    def add(accuracy: float, key: str, metric: str = "top1", **where: Any) -> None:
        accuracy = min(0.99, max(0.01, accuracy + rng.normal(scale=noise)))
        measurements.append(
            MeasurementRecord(metric=metric, split="validation", value=round(accuracy * 400) / 400, n=400, **where)
        )
        if final:
            stored[key] = _predictions(rng, truth, difficulty, accuracy, classes)
            measurements.append(
                MeasurementRecord(
                    metric=metric, split="test", value=float((stored[key] == truth).mean()), n=len(truth), **where
                )
            )

    last = stages[-1] if stages else 0.39
    if expected.evaluator == "linear":
        for share, draw in [(s, d) for s in shares for d in range(draws if s < 1 else 1)]:
            where = {"labels": share, "draw": draw}
            suffix = f"@{share:g}/{draw}" if share < 1 else ""
            for at, accuracy in enumerate(stages, start=1):
                add(
                    few(accuracy, share) if share < 1 else accuracy,
                    f"s{at}{suffix}",
                    stage=f"s{at}",
                    best=accuracy == max(stages),
                    **where,
                )
            add(few(last, share) if share < 1 else last, f"pooled{suffix}", stage="pooled", best=not stages, **where)
        add(1 / classes, "shuffled", "top1_shuffled", stage="pooled")
        for m in [m for m in measurements if m.metric == "top1_shuffled"]:
            measurements.append(m.model_copy(update={"metric": "top1_chance", "value": 1 / classes}))
        if code := {"autoencoder": "code", "vae": "mu"}.get(task):
            add(last - 0.05, code, stage=code)
    elif expected.evaluator == "knn":
        for k in (20, 200):
            add(last - 0.03, f"pooled@{k}", f"top1@{k}", stage="pooled")
    else:
        for variant in ("", "longer") if task == "random" else ("",):
            for share in shares:
                for draw in range(draws if share < 1 else 1):
                    key = f"{share:g}/{draw}" + (f"/{variant}" if variant else "")
                    add(few(last, share) + (0.05 if variant else 0), key, labels=share, draw=draw, row=variant)
    if classes > 20:
        for m in [m for m in measurements if m.metric == "top1"]:
            measurements.append(m.model_copy(update={"metric": "top5", "value": (1 + m.value) / 2}))
    return measurements, stored


def _detected(rng: np.random.Generator, accuracy: float, final: bool, noise: float) -> list[MeasurementRecord]:
    found = []
    for split in ("validation", *(["test"] if final else [])):
        value = accuracy + rng.normal(scale=noise)
        for metric, share in (("map_voc07", 1.0), ("map", 1.0), ("ap", 0.5), ("ap50", 1.0), ("ap75", 0.4)):
            low, high = (share * value - 0.04, share * value + 0.04) if split == "test" else (None, None)
            found.append(MeasurementRecord(metric=metric, split=split, value=share * value, n=60, low=low, high=high))  # type: ignore[arg-type]
    return found


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    """``run_folder(...)`` writes a results folder below the test's own and returns it."""
    count = iter(range(1_000))
    return lambda *args, **kwargs: make_run(tmp_path / f"run{next(count)}" / "toy", *args, **kwargs)
