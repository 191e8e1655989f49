"""Figures show what the records hold, or are left out where the records hold nothing to show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ssl_bench.report import load
from ssl_bench.report.rendering.curves_figure import curves_figure
from ssl_bench.report.rendering.drawing import style
from ssl_bench.report.rendering.figures import cost_figure, draw_figures, stages_figure

MakeRun = Callable[..., Path]


def _texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [str(text.get_text()) for text in figure.findobj(Text) if text.get_text()]


def test_heat_map_shows_the_mean_of_every_row_and_stage(run_folder: MakeRun) -> None:
    results = load(run_folder())
    figure = stages_figure(results, "toy")
    assert figure is not None
    (image, *_) = figure.axes[0].images
    shown = np.asarray(image.get_array())
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["simclr", "rotation", "autoencoder", "random", "pixels", "supervised"]
    frame = results.frame
    own = frame[(frame["evaluator"] == "linear") & (frame["metric"] == "top1") & (frame["split"] == "test")]
    expected = 100 * own[(own["row"] == "rotation") & (own["stage"] == "s3")]["value"].mean()
    assert shown[1, 2] == pytest.approx(expected) and np.isnan(shown[4, 0]) and "code" not in _texts(figure)


@pytest.mark.parametrize(
    ("shares", "title"), [([1.0, 0.1], "toy, top-1"), ([0.1, 0.01], "toy, 10 % of the labels, top-1")]
)
def test_figures_show_the_largest_share_of_the_labels(run_folder: MakeRun, shares: list[float], title: str) -> None:
    """The probe with fewer labels, 0 % right here, must not be averaged into the other; nor may draws widen the range
    over seeds."""
    folder = run_folder(predictions=False)
    for path in folder.glob("cells/*/*/linear-*.json"):
        record = json.loads(path.read_text())
        measured = [{**m, "labels": shares[0]} for m in record["measurements"]]
        record["measurements"] = [
            {**m, "draw": draw, "value": m["value"] + (draw - 0.5) / 100} for m in measured for draw in (0, 1)
        ]
        record["measurements"] += [{**m, "labels": shares[1], "value": 0.0} for m in measured]
        path.write_text(json.dumps(record))
    results = load(folder)
    figure, cost = stages_figure(results, "toy"), cost_figure(results, "toy")
    assert figure is not None and cost is not None and any(title in text for text in _texts(figure))
    own = results.frame.query("evaluator == 'linear' and metric == 'top1' and split == 'test' and labels == @shares[0]")
    expected = 100 * own[(own["row"] == "simclr") & (own["stage"] == "s4")].groupby("seed")["value"].mean()
    assert np.asarray(figure.axes[0].images[0].get_array())[0, 3] == pytest.approx(expected.mean())
    bars = [bar.get_segments()[0][:, 1] for bar in cost.axes[0].collections]  # type: ignore[attr-defined]
    assert any(bar == pytest.approx([expected.min(), expected.max()]) for bar in bars)


def test_validation_figures_say_so(run_folder: MakeRun) -> None:
    figure = stages_figure(load(run_folder(final=False, seeds=(0,))), "toy")
    assert figure is not None and any("VALIDATION" in text for text in _texts(figure))


def test_curves_have_a_pair_of_panels_for_every_trained_row(run_folder: MakeRun) -> None:
    figure = curves_figure(load(run_folder()))
    assert figure is not None
    panels = [ax for ax in figure.axes if ax.get_visible() and ax.get_title(loc="left") or ax.lines]
    assert len([ax for ax in panels if len(ax.lines) == 3]) == 8  # three seeds; four trained rows, loss and monitor


def test_cost_has_a_point_for_every_trained_row_and_a_line_for_random(run_folder: MakeRun) -> None:
    results = load(run_folder())
    figure = cost_figure(results, "toy")
    assert figure is not None and len(figure.axes) == 2
    points = {line.get_label(): line.get_xdata() for line in figure.axes[0].lines}
    assert (
        float(np.asarray(points["rotation"]).item()) == pytest.approx(2.0)
        and "random (no pretraining)" in points
        and "pixels" not in points
    )


def test_cost_of_weights_from_elsewhere_is_not_known(run_folder: MakeRun) -> None:
    rows = {
        "timm:x": ("weights", "elsewhere", (0.5, 0.6)),
        "simclr": ("simclr", "pretext", (0.5, 0.8)),
        "random": ("random", "baseline", (0.3, 0.3)),
    }
    figure = cost_figure(load(run_folder(rows)), "toy")
    assert figure is not None
    names = {str(line.get_label()) for line in figure.axes[0].lines}
    assert {"timm:x (cost not known)", "random (no pretraining)", "simclr"} <= names


def test_rows_stand_as_in_the_table_by_the_stage_that_validation_chose(run_folder: MakeRun) -> None:
    """A stage that is better on test and was not chosen moves no row."""
    folder = run_folder(
        {"a": ("simclr", "pretext", (0.5, 0.9)), "b": ("rotation", "pretext", (0.5, 0.7))},
        seeds=(0,),
        predictions=False,
    )
    for path in folder.glob("cells/a/*/linear-*.json"):
        record = json.loads(path.read_text())
        for m in record["measurements"]:
            m["best"] = m["stage"] == "s1"
        path.write_text(json.dumps(record))
    results = load(folder)
    figure = stages_figure(results, "toy")
    assert figure is not None and [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "a"]
    assert [line.row for line in results.table().sections[0].lines] == ["b", "a"]


def test_minutes_of_different_machines_are_not_compared(run_folder: MakeRun) -> None:
    from ssl_bench.records.schema import Environment

    def where(row: str) -> Environment:
        return Environment(device=f"machine of {row}", precision="fp32", versions={}, code="0")

    figure = cost_figure(load(run_folder(seeds=(0,), environment=where)), "toy")
    assert figure is not None and len(figure.axes) == 1


def test_nothing_to_show_draws_nothing(run_folder: MakeRun, tmp_path: Path) -> None:
    assert draw_figures(load(run_folder(skip=lambda row, seed, what: True)), tmp_path) == []
    rows = {"random": ("random", "baseline", (0.5, 0.4))}
    drawn = draw_figures(
        load(run_folder(rows, seeds=(0,), skip=lambda row, seed, what: what in ("linear", "finetune"))), tmp_path
    )
    assert drawn == []


def test_names_are_drawn_as_they_are(run_folder: MakeRun, tmp_path: Path) -> None:
    """A lone or paired dollar sign would be mathematics to matplotlib, and a wrong formula an exception."""
    rows = {
        "$\\frac{1}$ & <b>": ("simclr", "pretext", (0.5, 0.6)),
        "_nolegend_": ("vae", "pretext", (0.4, 0.6)),
        "x" * 200: ("vae", "pretext", (0.4, 0.5)),
    }
    results = load(run_folder(rows, seeds=(0,), data=("a$b$", "../other")))
    files = draw_figures(results, tmp_path, svg=True)
    assert len(files) == 14 and all(path.parent == tmp_path for path in files)
    with style():
        figure = stages_figure(results, "a$b$")
    assert figure is not None and "$\\frac{1}$ & <b>" in _texts(figure)
    for path in files:
        if path.suffix == ".svg":
            ElementTree.parse(path)
        else:
            with Image.open(path) as image:
                assert image.width > 300 and max(image.size) < 4_000
