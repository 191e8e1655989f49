"""The figure of what was seen along the run holds the recorded numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssl_bench.records.schema import Curve
from ssl_bench.report.rendering.drawing import style
from ssl_bench.report.rendering.feature_figure import features_figure


def run_of(curves: dict[tuple[str, int], dict[str, Curve]]) -> Any:
    rows = [
        SimpleNamespace(row=name, uses_labels=False, block="pretext")
        for name in dict.fromkeys(row for row, _ in curves)
    ]
    records = {key: SimpleNamespace(curves=value, steps=40) for key, value in curves.items()}
    return SimpleNamespace(run=SimpleNamespace(rows=rows), pretrainings=records)


def test_a_line_is_the_mean_over_seeds_at_its_share_of_the_run() -> None:
    def looks(*values: float) -> dict[str, Curve]:
        return {"features/rankme": Curve(step=[20, 40], value=list(values)), "loss": Curve(step=[1], value=[2.0])}

    run = run_of({("a", 0): looks(10, 20), ("a", 1): looks(30, 40), ("b", 0): looks(5, 6)})
    with style():
        figure = features_figure(run)
        assert figure is not None
        (ax,) = [ax for ax in figure.axes if ax.get_visible()]
        assert ax.get_title("left") == "RankMe"
        lines = {line.get_label(): line for line in ax.get_lines()}
        assert set(lines) == {"a", "b"}
        np.testing.assert_allclose(lines["a"].get_xydata(), [[50, 20], [100, 30]])


@pytest.mark.parametrize("curves", [{}, {"loss": Curve(step=[1], value=[2.0])}])
def test_without_looks_there_is_no_figure(curves: dict[str, Curve]) -> None:
    assert features_figure(run_of({("a", 0): curves})) is None
