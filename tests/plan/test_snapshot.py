"""What a run has on disk is read once a pass, and what another process does meanwhile is still seen."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from commands import TINY
from ssl_bench.errors import DamagedRecord
from ssl_bench.plan.estimate import estimate
from ssl_bench.plan.prepare import prepare
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.scheduler import carry_out

MATRIX: dict[str, Any] = TINY | {"baselines": ["random", "pixels"], "evaluate": [{"knn": {"k": [5]}}, "diagnostics"]}


class Started(Observer):
    def __init__(self) -> None:
        self.cells: list[str] = []

    def cell_started(self, cell: Any, number: int, total: int) -> None:
        self.cells.append(cell.address)


def test_a_run_with_nothing_to_do_reads_each_record_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out(prepare(MATRIX, tmp_path), Observer())
    read: Counter[str] = Counter()
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        if path.suffix == ".json" and path.is_relative_to(tmp_path):
            read[path.relative_to(tmp_path).as_posix()] += 1
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    run_plan = prepare(MATRIX, tmp_path)
    assert estimate(run_plan).missing == 0
    carry_out(run_plan, Observer())
    assert not run_plan.todo()
    records = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("**/*.json")}
    assert len(records) == 7 and read == Counter(dict.fromkeys(records, 1))


def test_what_another_process_computed_since_the_plan_is_not_computed_again(tmp_path: Path) -> None:
    mine, other, started = prepare(MATRIX, tmp_path), prepare(MATRIX, tmp_path), Started()
    assert len(mine.todo()) == 2
    carry_out(other, Observer())
    assert len(mine.todo()) == 2, "a snapshot is of one moment"
    carry_out(mine, started)
    assert not started.cells and not mine.todo()


def test_a_snapshot_tells_damage_each_time_until_it_is_told_to_look_again(tmp_path: Path) -> None:
    carry_out(prepare(MATRIX, tmp_path), Observer())
    run_plan = prepare(MATRIX, tmp_path)
    cell = run_plan.cells()[0]
    path = cell.folder / f"{cell.evaluations[0].file_name}.json"
    whole = path.read_text()
    assert run_plan.snapshot.evaluation(cell, cell.evaluations[0]) is not None
    path.write_text(json.dumps(json.loads(whole) | {"seconds": 1e9}))
    assert run_plan.done(cell), "read before"
    run_plan.look_again(cell)
    for _ in range(2):
        with pytest.raises(DamagedRecord, match="was edited"):
            run_plan.snapshot.evaluation(cell, cell.evaluations[0])
    assert run_plan.missing(cell) == [cell.evaluations[0]]
    assert run_plan.snapshot.times_opened(cell, cell.evaluations[0]) == 1, "the text of a damaged record still tells"
    path.write_text(whole)
    run_plan.look_again()
    assert run_plan.done(cell)
