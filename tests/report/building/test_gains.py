"""What pretraining added to each stage, against subtraction by hand from the records."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ssl_bench.records.declarations import EvaluatorDeclaration, Metric, TableColumn
from ssl_bench.report import load
from ssl_bench.report.rendering.stage_figures import gains_figure

MakeRun = Callable[..., Path]
STAGES = ("s1", "s2", "s3", "s4", "pooled")


def _by_hand(folder: Path, row: str, stage: str, split: str = "test") -> np.ndarray:
    frame = load(folder).frame
    of = frame[(frame["evaluator"] == "linear") & (frame["metric"] == "top1") & (frame["split"] == split)]
    values = [of[(of["row"] == name) & (of["stage"] == stage)].sort_values("seed")["value"] for name in (row, "random")]
    return values[0].to_numpy() - values[1].to_numpy()


def test_every_stage_is_held_against_random_at_that_stage_paired_by_seed(run_folder: MakeRun) -> None:
    folder = run_folder()
    table = load(folder).table(wide=True)
    rows = {(row["row"], row["column"]): row for row in csv.DictReader(io.StringIO(table.csv()))}
    for name in ("simclr", "rotation", "autoencoder", "supervised"):
        for stage in STAGES:
            cell, gains = rows[name, f"linear top1_gain_over_random {stage}"], _by_hand(folder, name, stage)
            assert float(cell["value"]) == pytest.approx(gains.mean(), abs=1e-12)
            low, high = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
            assert (float(cell["low"]), float(cell["high"])) == pytest.approx((low, high)) and cell["interval"] == "t"
            assert (cell["n"], cell["stage"], cell["unit"]) == ("3", stage, "fraction")
    assert {rows[name, "linear top1_gain_over_random pooled"]["status"] for name in ("random", "pixels")} == {"none"}


def test_the_last_stage_has_its_gain_in_the_table_and_all_stages_stand_below_it_on_pages(run_folder: MakeRun) -> None:
    folder = run_folder()
    table = load(folder).table()
    (section,) = table.sections
    keys = [column.key for column in section.columns]
    assert keys[keys.index("linear top1 pooled") + 1] == "linear top1_gain_over_random pooled"
    assert section.gains is not None and [column.title for column in section.gains.columns] == [*STAGES[:4], "last"]
    assert {line.row for line in section.gains.lines} == {"simclr", "rotation", "autoencoder", "supervised"}
    for text in (table.markdown(), table.html(), table.latex()):
        assert "gain over random by stage" in text
    assert "gain over random by stage" not in table.terminal()
    shown = f"{100 * _by_hand(folder, 'simclr', 's2').mean():+.1f}".replace("-", "−")
    assert shown in next(line for line in table.markdown().split("by stage")[1].splitlines() if "simclr" in line)


def test_one_seed_is_paired_by_test_images_and_two_show_both(run_folder: MakeRun) -> None:
    lone = load(run_folder(seeds=(0,))).table(wide=True).sections[0]
    cell = next(line for line in lone.lines if line.row == "simclr").cells["linear top1_gain_over_random s3"]
    assert cell.interval == "paired" and cell.low < cell.value < cell.high
    both = load(run_folder(seeds=(0, 1))).table().sections[0]
    cell = next(line for line in both.lines if line.row == "simclr").cells["linear top1_gain_over_random pooled"]
    assert len(cell.both) == 2 and not cell.interval


def test_only_seeds_that_random_has_too_count(run_folder: MakeRun) -> None:
    folder = run_folder(skip=lambda row, seed, what: (row, seed) == ("random", 2))
    cell = load(folder).table().sections[0].lines[0].cells["linear top1_gain_over_random pooled"]
    assert sorted(cell.values) == [0, 1]
    rows = {"simclr": ("simclr", "pretext", (0.5, 0.6)), "pixels": ("pixels", "baseline", ())}
    table = load(run_folder(rows)).table(wide=True)
    assert not any("gain" in column.key for column in table.sections[0].columns) and table.sections[0].gains is None


def test_a_metric_says_that_it_has_a_baseline_gain() -> None:
    probe = EvaluatorDeclaration(
        metrics=(Metric(name="hits", baseline_gain=True), Metric(name="misses")), columns=(TableColumn(metric="hits"),)
    )
    assert [metric.name for metric in probe.metrics if metric.baseline_gain] == ["hits"]
    assert EvaluatorDeclaration.model_validate_json(probe.model_dump_json()) == probe


def test_the_figure_shows_the_gains_with_zero_in_the_middle(run_folder: MakeRun) -> None:
    folder = run_folder()
    figure = gains_figure(load(folder), "toy")
    assert figure is not None
    image = figure.axes[0].images[0]
    assert image.get_clim() == pytest.approx((-image.get_clim()[1], image.get_clim()[1]))
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["simclr", "rotation", "autoencoder", "supervised"]
    shown = np.asarray(image.get_array())
    assert shown[1, 2] == pytest.approx(100 * _by_hand(folder, "rotation", "s3").mean())
