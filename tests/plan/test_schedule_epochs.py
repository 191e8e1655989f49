"""``schedule_epochs``: what enters an id, what is refused, and where a reader is told."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ssl_bench.console.live import print_plan
from ssl_bench.console.printing import print_cell
from ssl_bench.errors import SpecError
from ssl_bench.plan.estimate import estimate
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.records.schema import Pretraining, read_record
from ssl_bench.report import load
from ssl_bench.runner.smoke import smoke_matrix
from ssl_bench.spec.shipped import as_matrix
from tests.runner.test_run import compute, matrix


def planned(out: Path, pretrain: dict[str, Any], **changes: Any) -> RunPlan:
    return prepare(matrix(pretrain={"batch_size": 32, "monitor": 0, **pretrain}, **changes), out)


def cell_of(plan: RunPlan) -> Any:
    return next(cell for cell in plan.cells() if cell.row.task.role.trains)


def told(tell: Any, *words: Any) -> str:
    text = io.StringIO()
    tell(Console(file=text, width=200), *words)
    return text.getvalue()


def test_it_enters_an_id_only_where_it_cuts_something(tmp_path: Path) -> None:
    plain, same, cut, other = (
        cell_of(planned(tmp_path, {"epochs": 1, **more}))
        for more in ({}, {"schedule_epochs": 1}, {"schedule_epochs": 4}, {"schedule_epochs": 8})
    )
    assert plain.id == same.id and len({plain.id, cut.id, other.id}) == 3
    assert "schedule_steps" not in plain.spec and cut.spec["schedule_steps"] == round(4 * 216 / 32)
    assert plain.candidate.steps == cut.candidate.steps
    whole = as_matrix(matrix(pretrain={"epochs": 1}))
    assert "schedule_epochs" not in whole.pretrain.model_dump(mode="json")


def test_the_preset_is_that_of_the_whole_run(tmp_path: Path) -> None:
    """One epoch of a run of hundreds has its recipe, not that of a short run."""
    long = cell_of(planned(tmp_path, {"epochs": 1, "schedule_epochs": 1_000_000}))
    short = cell_of(planned(tmp_path, {"epochs": 1}))
    task = long.row.task
    paper, brief = (make(long.candidate.options, 32) for make in (task.paper_recipe, task.short_recipe))
    assert paper.learning_rate != brief.learning_rate
    assert (long.candidate.recipe.learning_rate, short.candidate.recipe.learning_rate) == (
        paper.learning_rate,
        brief.learning_rate,
    )
    spec = as_matrix(matrix(pretrain={"epochs": 1, "schedule_epochs": 1_000_000}))
    cut = smoke_matrix(spec, 240, 4).pretrain
    assert (cut.preset, cut.schedule_epochs) == ("paper", None)


@pytest.mark.parametrize(
    ("pretrain", "message"),
    [
        ({"epochs": 1, "schedule_epochs": 0.5}, r"schedule_epochs must be at least 1 \(epochs\), got 0.5"),
        ({"epochs": 1, "schedule_epochs": 0}, "schedule_epochs = 0: should be a number above 0"),
        ({"images": 9_600, "schedule_epochs": 1}, "a schedule of 7 steps, and 300 are trained"),
        ({"passes": 96_000, "schedule_epochs": 1}, "a schedule of 7 steps, and 750 are trained"),
    ],
)
def test_a_schedule_that_ends_before_the_budget_is_refused(
    tmp_path: Path, pretrain: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        planned(tmp_path, pretrain)


def test_a_budget_in_passes_is_cut_as_well(tmp_path: Path) -> None:
    cell = cell_of(planned(tmp_path, {"passes": 256, "schedule_epochs": 10}))
    assert (cell.candidate.steps, cell.candidate.schedule_steps) == (2, round(10 * 216 / 32))


def test_records_and_every_reader_are_told(tmp_path: Path) -> None:
    spec = matrix(pretrain={"epochs": 0.5, "schedule_epochs": 20, "batch_size": 32, "monitor": 0}, evaluate=["knn"])
    plan = prepare(spec, tmp_path)
    words = "schedule of 20 epochs, cut after 0.5"
    assert words in told(print_plan, plan, estimate(plan))
    compute(spec, tmp_path)
    path = cell_of(plan).folder / "pretrain.json"
    record = read_record(path, Pretraining)
    assert record.steps == cell_of(plan).candidate.steps < record.spec["schedule_steps"]
    table = load(tmp_path).table()
    assert any(sign == "schedule" and text.startswith(words) for sign, text in table.legend)
    assert words in table.terminal() and "of a schedule of 20 epochs" in table.title[2]
    assert words in told(print_cell, tmp_path, "rotation", "0") and words not in told(
        print_cell, tmp_path, "random", "0"
    )
