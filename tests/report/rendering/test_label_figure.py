"""Accuracy against labels: the drawn points are the records' means, and marks mean what they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_bench.report import load
from ssl_bench.report.rendering.drawing import COLOURS, GREY
from ssl_bench.report.rendering.figures import cost_figure
from ssl_bench.report.rendering.label_figure import SPREAD, labels_figure

MakeRun = Callable[..., Path]
SHARES = (0.01, 0.1, 1.0)


def _lines(ax: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def test_points_are_means_over_seeds_and_bars_reach_from_the_lowest_to_the_highest(run_folder: MakeRun) -> None:
    results = load(run_folder(shares=SHARES, probe_shares=SHARES, noise=0.03, draws=3, predictions=False))
    figure = labels_figure(results, "toy")
    assert figure is not None and [ax.get_title() for ax in figure.axes] == [
        "toy: linear probe, best stage",
        "fine-tuned",
    ]
    frame = results.frame.query("split == 'test' and metric == 'top1' and row == 'simclr'")
    for ax, own in zip(
        figure.axes,
        (frame[(frame["evaluator"] == "linear") & frame["best"]], frame[frame["evaluator"] == "finetune"]),
        strict=True,
    ):
        line = _lines(ax)["simclr"]
        seeds = 100 * own.groupby(["labels", "seed"])["value"].mean().unstack()  # draws first
        assert np.asarray(line.get_ydata()) == pytest.approx(seeds.mean(axis=1).to_numpy())
        assert np.abs(np.log(np.asarray(line.get_xdata()) / [40, 400, 4_000])).max() <= math.log(SPREAD) / 2 + 1e-9
        bars = sorted(
            tuple(bar.get_segments()[0][:, 1])
            for bar in ax.collections
            if bar.get_color()[0][:3] == pytest.approx(_rgb(line))
        )
        assert bars == [pytest.approx(one) for one in sorted(zip(seeds.min(axis=1), seeds.max(axis=1), strict=True))]
        assert [tick.get_text() for tick in ax.get_xticklabels()] == [
            "40\n1 %",
            "400\n10 %",
            "4,000\n100 %",
        ] and ax.get_xscale() == "log"


def _rgb(line: Any) -> Any:
    from matplotlib.colors import to_rgb

    return to_rgb(line.get_color())


def test_both_runs_of_random_are_grey_and_dashed_and_labels_are_dotted_up_to_the_last_point(
    run_folder: MakeRun,
) -> None:
    figure = labels_figure(load(run_folder(shares=SHARES, probe_shares=SHARES, seeds=(0,))), "toy")
    assert figure is not None
    probe, tuned = (_lines(ax) for ax in figure.axes)
    assert (
        "pixels" in probe
        and "pixels" not in tuned
        and "random, 3x longer" in tuned
        and "random, 3x longer" not in probe
    )
    grey = [tuned["random"], tuned["random, 3x longer"], probe["pixels"]]
    assert {line.get_color() for line in grey} == {GREY} and len(
        {str(line.get_linestyle()) + str(line._dash_pattern) for line in grey}
    ) == 3
    assert all(line.get_linestyle() != "-" for line in grey) and tuned["simclr"].get_linestyle() == "-"
    supervised = tuned["supervised †"]
    assert (
        supervised.get_linestyle() == ":"
        and supervised.get_markerfacecolor() == "white"
        and len(supervised.get_xdata()) == 3
    )
    (last,) = [line for line in figure.axes[1].lines if line.get_linestyle() == "None"]
    assert last.get_xdata() == supervised.get_xdata()[-1:] and last.get_markerfacecolor() == supervised.get_color()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(legend) == sorted({*probe, *tuned}) and "saw all labels" in figure.legends[0].get_title().get_text()
    assert not figure.axes[1].collections  # one seed: no bars


def test_a_row_looks_alike_in_every_figure_and_many_rows_differ(run_folder: MakeRun) -> None:
    rows = {f"row {at}": ("vae", "pretext", (0.3, 0.3 + at / 40)) for at in range(14)} | {
        "random": ("random", "baseline", (0.3, 0.2))
    }
    results = load(run_folder(rows, seeds=(0,), predictions=False))
    figure, cost = labels_figure(results, "toy"), cost_figure(results, "toy")
    assert figure is not None and cost is not None and len(figure.axes) == 1
    looks = {
        name: (line.get_color(), line.get_marker()) for name, line in _lines(figure.axes[0]).items() if name != "random"
    }
    looks = {name: look for name, look in looks.items() if name.startswith("row")}
    assert len(set(looks.values())) == 14 and {colour for colour, _ in looks.values()} == set(COLOURS)
    assert {
        name: (line.get_color(), line.get_marker())
        for name, line in _lines(cost.axes[0]).items()
        if name.startswith("row")
    } == looks


def test_one_share_draws_nothing(run_folder: MakeRun) -> None:
    assert labels_figure(load(run_folder(shares=(0.1,), seeds=(0,))), "toy") is None
    figure = labels_figure(load(run_folder(shares=(0.1,), probe_shares=(0.1, 1.0), seeds=(0,), final=False)), "toy")
    assert figure is not None and len(figure.axes) == 1 and "VALIDATION" in figure.axes[0].get_ylabel()
