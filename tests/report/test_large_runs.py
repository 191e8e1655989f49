"""Reading and reporting a run takes time in proportion to its cells: what is counted are calls, at two sizes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np

from ssl_bench.plan import snapshot
from ssl_bench.plan.snapshot import Snapshot
from ssl_bench.report import load
from ssl_bench.report.rendering.curves_figure import MANY_ROWS, MANY_SEEDS, curves_figure

MakeRun = Callable[..., Path]
PACKAGE = str(Path(sys.modules["ssl_bench"].__file__ or "").parent)


def _calls(work: Callable[[], Any]) -> int:
    """How often code of the package, comprehensions included, is entered."""
    count = 0

    def entered(frame: FrameType, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    before = sys.getprofile()
    sys.setprofile(entered)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def _rows(count: int) -> dict[str, tuple[str, str, tuple[float, ...]]]:
    rows = {f"row {at}": ("rotation", "pretext", (0.5, 0.6 + 0.01 * (at % 7))) for at in range(count - 1)}
    return rows | {"random": ("random", "baseline", (0.4, 0.45))}


def _of_size(run_folder: MakeRun, rows: int, seeds: int) -> Path:
    return run_folder(_rows(rows), tuple(range(seeds)), n=20, shares=(1.0,), draws=1)


def test_reading_and_the_table_grow_with_the_cells_alone(run_folder: MakeRun) -> None:
    load(_of_size(run_folder, 2, 3)).table()  # what is made once, at the first call
    folders = {cells: _of_size(run_folder, *cells) for cells in ((4, 4), (4, 16), (16, 4))}
    works: list[Callable[[Path], Any]] = [load, lambda folder: load(folder).table()]
    for work in works:
        calls = {cells: _calls(partial(work, folder)) for cells, folder in folders.items()}
        pairs = 16 * 15 // 2  # of rows, each compared; up to a limit, above which none is
        assert calls[4, 16] < 4.4 * calls[4, 4] and calls[16, 4] < 4.4 * calls[4, 4] + 100 * pairs, calls


def test_the_folders_of_all_cells_are_listed_once(run_folder: MakeRun, monkeypatch: Any) -> None:
    folder = _of_size(run_folder, 3, 5)
    listed: list[str] = []
    real = snapshot.matching

    def matching(home: Path, pattern: str) -> list[Path]:
        listed.append(pattern)
        return real(home, pattern)

    monkeypatch.setattr(snapshot, "matching", matching)
    looked, cells = Snapshot(), load(folder).run.cells
    for cell in cells:
        # as a plan asks: by the id, under another row's name
        asked: Any = SimpleNamespace(folder=folder / "cells" / "renamed" / Path(cell.folder).name, id=cell.pretraining)
        assert looked.folder_of(asked) == folder / cell.folder
    assert len(cells) == 15 and listed == ["*/*"]


def test_many_rows_and_seeds_are_drawn_with_few_lines_that_hold_every_value(run_folder: MakeRun) -> None:
    results = load(_of_size(run_folder, MANY_ROWS + 2, MANY_SEEDS + 1))
    figure = curves_figure(results)
    assert figure is not None and max(figure.get_size_inches()) < 20
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert len(panels) == 2 * (MANY_ROWS + 1) and all(len(ax.lines) == 1 for ax in panels)
    first = panels[0].get_title()
    expected = [
        value
        for (row, _), record in sorted(results.pretrainings.items(), key=lambda item: item[0][1])
        if row == first
        for value in record.curves["loss"].value
    ]
    drawn = np.asarray(panels[0].lines[0].get_ydata(), dtype=float)
    assert drawn[~np.isnan(drawn)].tolist() == expected and np.isnan(drawn).sum() == MANY_SEEDS
