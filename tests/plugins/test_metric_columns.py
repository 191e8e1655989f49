"""A new metric column is one file, the plugin's: what it declares reaches the table, also where the plugin is not
installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ssl_bench
from commands import TINY
from ssl_bench.plugins.registry import EVALUATORS, TASKS
from ssl_bench.records.declarations import EvaluatorDeclaration, Metric, TableColumn
from ssl_bench.records.schema import EvaluationRecord, Run, read_record
from ssl_bench.report import Results, load
from ssl_bench.report.ground.intervals import wilson_interval

PLUGIN = '''
from ssl_bench import Evaluation, Evaluator, Measurement, Metric, Note, TableColumn

class Overlap(Evaluator):
    """Answers that are known beforehand."""
    name, protocol, title, accuracy = "overlap", "overlap-mine", "masks", False
    metrics = (
        Metric(name="jaccard", title="Jaccard", unit="%", low=0, high=1),
        Metric(name="hits", share_of_images=True),
        Metric(name="error_mm", title="error", unit="mm", higher_is_better=False, low=0, digits=2),
        Metric(name="rank", higher_is_better=None),
    )
    columns = (
        TableColumn(metric="jaccard"),
        TableColumn(metric="hits", title="hits {stage}", stage="pooled"),
        TableColumn(metric="error_mm"),
        TableColumn(metric="rank", wide=True),
    )

    @classmethod
    def supports(cls, options, network):
        return "" if hasattr(network, "stage_maps") else "no maps"

    def evaluate(self, subject):
        shift = 0.1 if subject.role == "untrained" else 0.0
        splits = {"validation": len(subject.validation)}
        if subject.test is not None:
            splits["test"] = len(subject.test)
        values = {"jaccard": 0.125 + shift, "hits": 0.5, "error_mm": 2.0 + shift, "rank": 3.0}
        return Evaluation(
            [
                Measurement(name, split, value, n, stage="pooled")
                for split, n in splits.items()
                for name, value in values.items()
            ],
            notes=[
                Note(sign="masks", text="resized to", item="32 px"),
                Note(sign="!", text="masks without an object", item="3", warning=True),
            ],
        )

class Plain(Evaluator):
    """Declares nothing."""
    name, protocol, accuracy = "plain", "plain", False

    def evaluate(self, subject):
        splits = ["validation"] + (["test"] if subject.test is not None else [])
        return Evaluation([Measurement("accuracy_error", split, 0.125, 10) for split in splits])
'''


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (TASKS, EVALUATORS):
        monkeypatch.setattr(registry, "_added", {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a trained row, an untrained one and one without a network, judged by the plugin."""
    home = tmp_path_factory.mktemp("columns")
    (home / "overlap.py").write_text(PLUGIN)
    spec: dict[str, Any] = TINY | {
        "tasks": ["rotation"],
        "baselines": ["random", "pixels"],
        "evaluate": ["overlap", "plain"],
    }
    with pytest.MonkeyPatch.context() as patch:
        for registry in (TASKS, EVALUATORS):
            patch.setattr(registry, "_added", {})
        results = ssl_bench.run(spec, home / "out", plugins=(home / "overlap.py",), report=False)
    assert not results.failures and not results.missing
    return home / "out"


@pytest.fixture
def results(folder: Path) -> Results:
    assert "overlap" not in EVALUATORS  # the table is made of the records alone
    return load(folder)


def test_declared_columns_have_their_titles_units_and_order(results: Results) -> None:
    (section,) = results.table().sections
    columns = [column for column in section.columns if column.evaluator == "overlap"]
    assert [(column.group, column.title, column.unit) for column in columns] == [
        ("masks", "Jaccard", "%"),
        ("masks", "hits pooled", "%"),
        ("masks", "error", "mm"),
    ]
    lines = {line.row: line for line in section.lines}
    texts = [lines["rotation"].cells[column.key].text(column) for column in columns]
    low, high = wilson_interval(48, 96)
    assert texts == ["12.5▾", f"50.0 ±{50 * (high - low):.1f}", "2.00"]
    wide = [column.title for column in results.table(wide=True).sections[0].columns if column.evaluator == "overlap"]
    assert wide == ["Jaccard", "hits pooled", "error", "rank"]


def test_only_a_declared_share_of_images_has_a_binomial_interval(results: Results) -> None:
    table = results.table()
    intervals = {
        (column.evaluator, column.metric): line.cells[column.key].interval
        for line in table.sections[0].lines
        if line.row == "rotation"
        for column in table.sections[0].columns
        if column.evaluator
    }
    assert intervals == {
        ("overlap", "jaccard"): "",
        ("overlap", "hits"): "binomial",
        ("overlap", "error_mm"): "",
        ("plain", "accuracy_error"): "",
    }
    (column,) = [column for column in table.sections[0].columns if column.evaluator == "plain"]
    assert column.unit == "" and table.sections[0].lines[0].cells[column.key].text(column) == "0.125"


def test_where_lower_is_better_less_than_random_is_no_loss(results: Results) -> None:
    (section,) = results.table().sections
    (line,) = [line for line in section.lines if line.row == "rotation"]
    marks = {column.metric: line.cells[column.key].below for column in section.columns if column.evaluator == "overlap"}
    assert marks == {"jaccard": True, "hits": False, "error_mm": False}


def test_a_row_that_cannot_be_judged_shows_a_dash_and_why(results: Results, folder: Path) -> None:
    table = results.table()
    (line,) = [line for line in table.sections[0].lines if line.row == "pixels"]
    columns = [column for column in table.sections[0].columns if column.evaluator == "overlap"]
    assert {line.cells[column.key].text(column) for column in columns} == {"-"} and not line.failures
    assert ("-", "overlap does not apply: pixels: no maps") in table.legend
    (record,) = [read_record(path, EvaluationRecord) for path in folder.glob("cells/pixels/*/overlap-*.json")]
    assert record.unsupported == "no maps" and record.measurements == [] and record.test_opened == 0


def test_notes_are_listed_once_and_warnings_name_their_rows(results: Results) -> None:
    table = results.table()
    assert ("masks", "resized to: 32 px") in table.legend
    assert "masks without an object: rotation 3, random 3" in table.warnings


def test_what_is_declared_stands_in_run_json(folder: Path) -> None:
    run = read_record(folder / "run.json", Run)
    assert set(run.evaluators) == {"overlap", "plain"}  # built-in ones are known
    assert run.evaluators["overlap"].metrics[0] == Metric(name="jaccard", title="Jaccard", unit="%", low=0, high=1)


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ("Measurement('jaccard', 'validation', float('nan'), 9)", "jaccard is nan, and it must be a finite number"),
        ("Measurement('error_mm', 'validation', float('inf'), 9)", "error_mm is inf, and it must be a finite number"),
        ("Measurement('jaccard', 'validation', 12.5, 9)", r"jaccard must be from 0 to 1 \(got 12.5\)"),
        ("Measurement('error_mm', 'validation', -1.0, 9)", r"error_mm must be at least 0 \(got -1\)"),
        (
            "Measurement('dice', 'validation', 0.5, 9)",
            "dice, which it does not declare; its metrics are jaccard, hits, error_mm",
        ),
        ("", "returned no measurement"),
        ("Measurement('jaccard', 'validation', 0.5, 9)", "was given test images and measured nothing on them"),
    ],
    ids=["nan", "inf", "high", "low", "undeclared", "nothing", "no test"],
)
def test_a_number_that_cannot_be_is_a_failure_of_its_cell(tmp_path: Path, measured: str, words: str) -> None:
    answers = f"        return Evaluation([{measured}])\n        shift = 0.1"
    (tmp_path / "mine.py").write_text(PLUGIN.replace("        shift = 0.1", answers))
    spec = TINY | {"evaluate": ["overlap", {"knn": {"k": [5]}}]}
    results = ssl_bench.run(spec, tmp_path / "out", plugins=(tmp_path / "mine.py",), report=False)
    (failure,) = results.failures
    assert failure.where == "overlap"
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(failure.message)
    assert {evaluation.evaluator for evaluation in results.evaluations} == {"knn"}


def test_declarations_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="must be '%' and its bounds 0 and 1"):
        Metric(name="hits", share_of_images=True, unit="mm")
    with pytest.raises(ValueError, match=r"low must be below high \(got 1 and 0\)"):
        Metric(name="hits", low=1, high=0)
    with pytest.raises(ValueError, match="shows metric 'dice', which is not among the metrics"):
        EvaluatorDeclaration(metrics=(Metric(name="hits"),), columns=(TableColumn(metric="dice"),))
    with pytest.raises(ValueError, match="declared twice: hits"):
        EvaluatorDeclaration(metrics=(Metric(name="hits"), Metric(name="hits")))


def test_a_starred_metric_covers_its_numbers_alone() -> None:
    metric = Metric(name="top1@*")
    assert metric.covers("top1@20") and not metric.covers("top1") and not metric.covers("top1@20_error")
    assert EvaluatorDeclaration().metric("accuracy_error") is None and EvaluatorDeclaration().metric("accuracy")
