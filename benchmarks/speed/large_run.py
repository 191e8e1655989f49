"""Runs of many cells: what planning, listing and reporting them takes, in seconds of the processor and in memory.

    python benchmarks/speed/large_run.py                  # 10,000 cells: 100 rows with 100 seeds each
    python benchmarks/speed/large_run.py --rows 10 --seeds 10 --images 10000

Nothing is trained. The records are those of results/cifar10 with other numbers, written for the cells of a matrix, so
that every command finds a finished run. Predictions of ``--images`` test images lie beside them; with 0 the run has
stopped before test, and has none.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import ssl_bench
from ssl_bench.plan.cells import Cell, PlannedEvaluation
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plan.run_record import write_run
from ssl_bench.records.files import TASK_FILE
from ssl_bench.records.predictions import prediction_name
from ssl_bench.records.schema import EvaluationRecord, MeasurementRecord, Record, record_bytes
from ssl_bench.system.digests import digest_of

ROOT = Path(__file__).parents[2]
TASKS = ("rotation", "simclr", "autoencoder", "vae", "colorization", "relative_position")
BASELINES = ("random", "supervised")
COMMANDS = ("plan", "status", "show", "report")


def matrix_of(rows: int, seeds: int, images: int) -> dict[str, Any]:
    """A matrix of so many rows, the tasks at many learning rates, with the baselines of the shipped ones."""
    tasks = [
        {TASKS[at % len(TASKS)]: {"row": f"{TASKS[at % len(TASKS)]} {at:03}", "learning_rate": 1e-4 * (1 + at)}}
        for at in range(rows - len(BASELINES))
    ]
    return {
        "name": "large",
        "data": {"source": "shapes", "size": 32, "limit": {"train": 500, "test": images or 500}},
        "backbone": {"name": "resnet10t", "width": 0.25, "stem_stride": 2},
        "seeds": list(range(seeds)),
        "pretrain": {"epochs": 1, "batch_size": 32},
        "tasks": tasks,
        "baselines": list(BASELINES),
        "evaluate": ["linear", "knn"],
    }


def make_large_run(folder: Path, rows: int, seeds: int, images: int) -> RunPlan:
    """Write a finished run of ``rows`` x ``seeds`` cells into a folder; ``images`` as on the command line."""
    run_plan = prepare(matrix_of(rows, seeds, images), folder, val=not images)
    like = ssl_bench.load(ROOT / "results" / "cifar10")
    pretrainings = {record.task: record for record in like.pretrainings.values()}
    evaluations = {(e.row.task, e.evaluator): e.record for e in like.evaluations}
    # the same images are hard for every row and seed
    hard = np.random.default_rng(0).normal(size=images)
    level = {row.name: at / rows - 0.5 for at, row in enumerate(run_plan.rows)}
    for number, cell in enumerate(run_plan.cells()):
        rng = np.random.default_rng(number)
        cell.folder.mkdir(parents=True, exist_ok=True)
        (cell.folder / TASK_FILE).touch()
        made = pretrainings[cell.row.task.name]
        named = {"row": cell.row.name, "seed": cell.seed, "spec": dict(cell.spec), "weights": f"{number:064x}"}
        _write(cell.folder / "pretrain.json", made.model_copy(update=named | {"id": cell.id, "block": cell.row.block}))
        for planned in cell.evaluations:
            record = evaluations[cell.row.task.name, planned.name]
            shift = 0.1 * level[cell.row.name] + rng.normal(scale=0.01)
            _write_evaluation(cell, planned, record, named, hard, shift, rng)
    run_plan.look_again()
    write_run(run_plan)
    return run_plan


def _write_evaluation(
    cell: Cell,
    planned: PlannedEvaluation,
    like: EvaluationRecord,
    named: dict[str, Any],
    hard: np.ndarray,
    shift: float,
    rng: np.random.Generator,
) -> None:
    truth = np.asarray(planned.labelled.test.labels)
    stored: dict[str, np.ndarray] = {}

    def moved(m: MeasurementRecord) -> MeasurementRecord:
        n = len(getattr(planned.labelled, m.split))
        value = min(1.0, max(0.0, m.value + (shift if m.metric.startswith("top1") else 0.0)))
        if m.split == "test" and m.metric.partition("@")[0] == "top1":
            wrong = hard + rng.normal(scale=0.7, size=n) > np.quantile(hard, value) * 1.2
            predicted = np.where(wrong, (truth + 1) % (truth.max() + 1), truth).astype(np.int16)
            stored[prediction_name(planned.name, m)] = predicted
            value = float((predicted == truth).mean())
        return m.model_copy(update={"value": value, "n": n})

    kept = [m for m in like.measurements if m.split == "validation" or len(hard)]
    measurements = [moved(m) for m in kept]
    path = cell.folder / f"{planned.file_name}.json"
    digest = ""
    if stored:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **{"target": truth, **stored})
        digest = digest_of(buffer.getvalue())
        path.with_suffix(".npz").write_bytes(buffer.getvalue())
    protocol = f"{planned.evaluator.protocol} v{planned.spec['evaluator']['version']}"
    given = {"id": planned.id, "pretraining": cell.id, "spec": dict(planned.spec), "data": planned.labelled.name}
    given |= {"measurements": measurements, "final": bool(stored), "test_opened": int(bool(stored))}
    _write(path, like.model_copy(update=named | given | {"protocol": protocol, "predictions": digest}))


def _write(path: Path, record: Record) -> None:
    """As ``write_record``, without waiting for the disk 30,000 times."""
    path.write_bytes(record_bytes(record))


def commands_of(folder: Path, run_plan: RunPlan, matrix: Path, val: bool) -> Iterator[tuple[str, list[str]]]:
    """Each of ``COMMANDS`` with its arguments."""
    first = run_plan.cells()[0].address
    yield "plan", ["plan", str(matrix), "--out", str(folder), *(["--val"] if val else [])]
    yield "status", ["status", str(folder)]
    yield "show", ["show", f"{folder}/{first}"]
    yield "report", ["report", str(folder)]


def measured(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """(Seconds of the processor, bytes of memory at most) of one command of ``ssl-bench``."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", "ssl_bench", *arguments]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    status, seconds, memory = told.stdout.split()
    if int(status):
        raise SystemExit(f"ssl-bench {' '.join(arguments)} ended with {status}:\n{told.stderr}")
    return float(seconds), float(memory) * 1024


def measure(
    rows: int, seeds: int, images: int, say: Callable[[str], None] = lambda text: print(text, flush=True)
) -> list[dict[str, Any]]:
    """A line for each command: what it took on a run of ``rows`` x ``seeds`` cells."""
    lines = []
    with tempfile.TemporaryDirectory() as home:
        folder, matrix = Path(home) / "large", Path(home) / "large.yaml"
        run_plan = make_large_run(folder, rows, seeds, images)
        import yaml

        matrix.write_text(yaml.safe_dump(matrix_of(rows, seeds, images)))
        say(f"written: {rows * seeds:,} cells, {sum(1 for _ in folder.rglob('*.json')):,} records")
        for name, arguments in commands_of(folder, run_plan, matrix, not images):
            seconds, memory = measured(arguments, {**os.environ, "OMP_NUM_THREADS": "1"})
            lines.append(
                {"command": name, "cells": rows * seeds, "images": images, "seconds": seconds, "bytes": memory}
            )
            say(f"{name:8} {seconds:6.1f} s of the processor, {memory / 1e9:.2f} GB")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--images", type=int, default=500, help="of the test set; 0 for a run that stopped before test")
    asked = parser.parse_args()
    measure(asked.rows, asked.seeds, asked.images)
