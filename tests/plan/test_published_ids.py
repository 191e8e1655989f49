"""Ids stay as they are where no number can change: what a committed run holds is not pretrained anew by a later
version."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_bench.plan.prepare import prepare
from ssl_bench.records.schema import Run, read_record

QUICK = Path(__file__).parents[2] / "results" / "quick" / "run.json"


@pytest.mark.skipif(not QUICK.is_file(), reason="no checkout: the published runs are not in an installed package")
def test_pretraining_ids_of_the_published_quick_run_are_kept(tmp_path: Path) -> None:
    published = {(cell.row, cell.seed): cell.pretraining for cell in read_record(QUICK, Run).cells}
    planned = {(cell.row.name, cell.seed): cell.id for cell in prepare("quick", tmp_path).cells()}
    assert planned == published
