"""Ranks and pairs of the pretrained rows in a table, its files and its figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from ssl_bench.report import load
from ssl_bench.report.ground.paired_comparisons import compare_crossed, holm
from ssl_bench.report.rendering.csv_files import comparisons_csv
from ssl_bench.report.rendering.rank_figure import ranks_figure

MakeRun = Callable[..., Path]
LAST = "linear top1 pooled"
ROWS = {
    "near": ("simclr", "pretext", (0.5, 0.6)),
    "nearer": ("vae", "pretext", (0.5, 0.605)),
    "far": ("rotation", "pretext", (0.5, 0.9)),
    "random": ("random", "baseline", (0.4, 0.3)),
    "supervised": ("supervised", "labels", (0.7, 0.95)),
}


def test_every_pair_of_pretrained_rows_is_compared_as_the_marks_are_with_holm_over_all(run_folder: MakeRun) -> None:
    results = load(run_folder(ROWS, seeds=(0, 1, 2, 3)))
    (section,) = results.table().sections
    pairs = next(pairs for pairs in section.pairs if pairs.column == LAST)
    assert {frozenset((r.first, r.second)) for r in pairs.results} == {
        frozenset(pair) for pair in combinations(("near", "nearer", "far"), 2)
    }
    arrays = {}
    for evaluation in results.evaluations:
        if evaluation.evaluator == "linear":
            stored = results.predictions(evaluation)
            arrays[evaluation.row.row, evaluation.seed] = stored["pooled"] == stored["target"]
    by_hand = [
        compare_crossed(*(np.stack([arrays[row, seed] for seed in range(4)]) for row in (r.first, r.second)))
        for r in pairs.results
    ]
    assert [r.p for r in pairs.results] == pytest.approx([c.p for c in by_hand])
    assert [r.p_holm for r in pairs.results] == pytest.approx(holm([c.p for c in by_hand]))
    assert (pairs.apart, pairs.count) == (sum(p <= 0.05 for p in holm([c.p for c in by_hand])), 3)
    assert pairs.apart >= 2  # far from either


def test_ranks_stand_in_every_file_and_the_count_below_the_table(run_folder: MakeRun) -> None:
    table = load(run_folder(ROWS, seeds=(0, 1, 2, 3))).table()
    (section,) = table.sections
    cells = {line.row: line.cells[LAST] for line in section.lines if not line.variant}
    assert cells["far"].rank == (1, 1, 1) and cells["random"].rank is None and cells["supervised"].rank is None
    order = sorted(("near", "nearer"), key=lambda row: -mean(cells[row].values.values()))
    assert [cells[row].rank[0] for row in order] == [2, 3]  # type: ignore[index]
    assert section.ranks is not None and "1 (1)" in section.ranks.lines[0].cells[LAST].text(section.columns[0])
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    ranks = {row["row"]: (row["rank"], row["rank_low"], row["rank_high"]) for row in rows if row["column"] == LAST}
    assert ranks["far"] == ("1", "1", "1") and ranks["random"] == ("", "", "")
    assert "| rank |" in table.markdown() and "<th>rank</th>" in table.html()
    pairs = next(pairs for pairs in section.pairs if pairs.column == LAST)
    told = f"last stage {pairs.apart} of 3"
    assert all(told in text for text in (table.markdown(), table.html(), table.latex(), table.terminal()))
    compared = [row for row in csv.DictReader(io.StringIO(comparisons_csv(table))) if row["column"] == LAST]
    assert compared and all((row["told_apart"], row["pairs"]) == (str(pairs.apart), "3") for row in compared)


def test_too_few_seeds_have_no_ranks(run_folder: MakeRun) -> None:
    two = load(run_folder(ROWS, seeds=(0, 1))).table()
    assert not two.sections[0].pairs and two.sections[0].ranks is None and "pairs" not in dict(two.legend)
    table = load(run_folder(ROWS, skip=lambda row, seed, what: (row, seed) == ("near", 1))).table()
    pairs = next(pairs for pairs in table.sections[0].pairs if pairs.column == LAST)
    assert set(pairs.mean_ranks) == {"nearer", "far"}  # the others are ranked on the seeds that they share


def test_the_picture_has_a_point_for_every_row_and_a_bar_for_every_group(run_folder: MakeRun) -> None:
    results = load(run_folder(ROWS))
    (section,) = results.table().sections
    figure = ranks_figure(results, section)
    assert figure is not None and len(figure.axes) == 3  # best stage, last stage, kNN
    pairs = {pairs.column: pairs for pairs in section.pairs}[LAST]
    points, *bars = figure.axes[1].lines
    assert list(points.get_xdata()) == sorted(pairs.mean_ranks.values())
    labels = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    joined = [{labels[int(y)] for y in bar.get_ydata()} for bar in bars]
    alike = {frozenset((r.first, r.second)) for r in pairs.results if r.p_holm > 0.05}
    assert {frozenset(pair) for group in joined for pair in combinations(group, 2)} == alike
    assert ranks_figure(results, load(run_folder(ROWS, seeds=(0,))).table().sections[0]) is None
