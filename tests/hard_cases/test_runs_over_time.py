"""One results folder over its life: what a later command finds there, adds and shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commands import TINY
from ssl_bench.plan.prepare import prepare
from ssl_bench.report import Table, load
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.scheduler import carry_out


def table_of(out: Path, changes: dict[str, Any], **settings: Any) -> Table:
    """The table after a run of the tiny matrix with some changes."""
    assert not carry_out(prepare(TINY | changes, out, **settings), Observer())
    return load(out).table(wide=True)


def test_validation_looks_the_same_before_and_after_test_was_opened(tmp_path: Path) -> None:
    few = {"source": "shapes", "size": 32, "limit": {"train": 60, "test": 36}}
    judged = {"data": few, "tasks": ["rotation"], "evaluate": [{"linear": {"folds": 0, "strengths": 2}}]}
    before, final, after = (table_of(tmp_path, judged, val=val) for val in (True, False, True))
    shown = [
        [(line.row, line.cells) for section in table.sections for line in section.lines] for table in (before, after)
    ]
    assert shown[0] == shown[1], "intervals of gains on validation are not paired by test images"
    said = "refitted on train and validation"
    assert said in final.terminal(120, legend=True) and said not in after.terminal(120, legend=True)
    assert "test     opened once per row, and not shown here" in after.terminal(120, legend=True)
