"""What `plan` says of the smallest difference a matrix resolves, and where the spread behind it comes from."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssl_bench.plan.resolution import resolution, resolution_lines, resolutions_of, shipped_spreads
from ssl_bench.report import load
from ssl_bench.report.building.spreads import Spread, read_spreads, spreads_csv, spreads_of

ROOT = Path(__file__).parents[2]
KNOWN = Spread(
    "linear", "linear top1 pooled", "linear probe, last stage", "pooled", 1.0, 0.25, 32, 1_000, 10_000, 8, 3, 0.012,
    "results/cifar10",
)  # fmt: skip


def _plan(out: Path, seeds: int = 3, width: float = 0.25, size: int = 32, images: int = 10_000, rows: int = 8) -> Any:
    linear = SimpleNamespace(evaluator=SimpleNamespace(name="linear"), brings_sets=False)
    row = SimpleNamespace(block="pretext", start=lambda chosen: ("", False))
    return SimpleNamespace(
        matrix=SimpleNamespace(backbone=SimpleNamespace(width=width), seeds=tuple(range(seeds))),
        data=SimpleNamespace(size=size, evaluate=[SimpleNamespace(test=range(images))]),
        evaluators=[linear],
        rows=[row] * rows + [SimpleNamespace(block="baseline")],
        out=out,
    )


@pytest.fixture(scope="module")
def cifar10() -> Any:
    results = load(ROOT / "results" / "cifar10")
    return results, results.table()


def test_the_shipped_table_is_that_of_the_published_runs(cifar10: Any) -> None:
    spec = importlib.util.spec_from_file_location("spreads", ROOT / "benchmarks" / "spreads.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shipped = shipped_spreads()
    assert {spread.source for spread in shipped} <= set(module.SOURCES)
    made = spreads_of(*cifar10, "results/cifar10")
    assert made == [s for s in shipped if s.source == "results/cifar10"], "run python benchmarks/spreads.py"
    assert read_spreads(spreads_csv(shipped)) == shipped


def test_a_spread_is_the_root_of_the_mean_variance_of_all_pairs(cifar10: Any) -> None:
    frame = cifar10[0].frame
    last = frame[
        (frame["evaluator"] == "linear")
        & (frame["metric"] == "top1")
        & (frame["stage"] == "pooled")
        & (frame["split"] == "test")
        & (frame["labels"] == 1)
    ]
    pretext = [row.row for row in cifar10[0].run.rows if row.block == "pretext"]
    values = last.pivot_table(index="seed", columns="row", values="value")[pretext].to_numpy()
    pairs = [values[:, a] - values[:, b] for a in range(len(pretext)) for b in range(a)]
    expected = math.sqrt(np.mean([np.var(pair, ddof=1) for pair in pairs]))
    (spread,) = [s for s in spreads_of(*cifar10, "x") if s.column == "linear top1 pooled"]
    assert spread.spread == pytest.approx(expected, abs=1e-6)
    assert (spread.width, spread.size, spread.test_images, spread.rows, spread.seeds) == (0.25, 32, 10_000, 8, 3)


def test_the_lines_say_what_is_resolved_with_which_power() -> None:
    first, second = resolution_lines([resolution(KNOWN, 3, 28, 10_000)])
    assert first == (
        "3 seeds resolve differences of about 3.9 points between two rows in linear probe, last stage: found in 80 % "
        "of runs (interval ±3.0; spread 1.2 points, from results/cifar10); one point takes 14 seeds"
    )
    assert second.startswith("with Holm's correction over 28 pairs, ")
    assert second.endswith("10,000 test images alone leave ±1.0 points on one seed's accuracy")
    (lone, _) = resolution_lines([resolution(KNOWN, 1, 28, 10_000)])
    assert lone.startswith("1 seed: training noise cannot be seen; 3 would resolve differences of about 3.9 points")
    assert resolution_lines([resolution(KNOWN, 2, 28, 10_000)])[0].startswith(
        "2 seeds: no interval over seeds; 3 would"
    )
    assert "Holm" not in resolution_lines([resolution(KNOWN, 3, 0, 10_000)])[1] and resolution_lines([]) == []


def test_the_closest_run_is_taken_its_own_folder_before_a_given_one_before_one_beside(tmp_path: Path) -> None:
    def source_of(**where: Any) -> str:
        others = where.pop("others", ())
        found = {r.spread.column: r for r in resolutions_of(_plan(tmp_path / "runs" / "mine", **where), others)}
        return found["linear top1 pooled"].spread.source

    assert source_of() == "results/cifar10" and source_of(size=64) == "results/classic"
    published = ROOT / "results" / "cifar10"
    for folder in ("runs/beside", "given/run"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("run.json", "records.tar.xz"):
            shutil.copy(published / name, tmp_path / folder / name)
    assert source_of() == "runs/beside"
    assert source_of(others=[tmp_path / "given" / "run"]) == "given/run"
    assert source_of(width=0.5) == "results/cifar10"  # the closest that is shipped, and told to be another
    told = resolution_lines(resolutions_of(_plan(tmp_path / "runs" / "mine", width=0.5)))
    assert "from results/cifar10, width 0.25 at 32 px" in told[0]
    shutil.move(tmp_path / "runs" / "beside", tmp_path / "runs" / "mine")
    assert source_of(others=[tmp_path / "given" / "run"]) == "runs/mine"


def test_a_run_beside_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    run = json.loads((ROOT / "results" / "cifar10" / "run.json").read_text())
    for name, text in (("broken", "{"), ("other", "[]"), ("empty", json.dumps(run | {"cells": [{}]}))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    resolutions = resolutions_of(_plan(tmp_path / "mine", rows=1))
    assert {r.spread.source for r in resolutions} == {"results/cifar10", "results/classic"}
    assert resolutions[0].pairs == 0 and resolutions[0].spread.source == "results/cifar10"
    assert not resolutions_of(_plan(tmp_path / "mine", images=0))


def test_more_seeds_resolve_less_and_the_numbers_are_those_of_the_lines() -> None:
    three, nine = (resolution(KNOWN, seeds, 28, 10_000) for seeds in (3, 9))
    assert nine.resolved < three.resolved < three.resolved_of_all and three.half_width < three.resolved
    assert resolution(replace(KNOWN, spread=0.5), 3, 28, 100).seeds_for_a_point is None
    assert math.isnan(resolution(KNOWN, 1, 28, 100).resolved)
    assert resolution(replace(KNOWN, spread=1e-4), 3, 28, 100).seeds_for_a_point == 3  # rows are compared from three on
