"""Numbers of others: as printed in the papers, with their source, in blocks of their own,
and only where they belong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_bench.plugins.registry import TASKS
from ssl_bench.report import load
from ssl_bench.report.ground.published import load_published, published_blocks

MakeRun = Callable[..., Path]
TOP5, MAP = "ImageNet frozen top-5", "VOC07 mAP"
CLASSIC = {
    "Rel. Pos": ("59.21", "66.75"),
    "Colour": ("62.48", "65.47"),
    "Exemplar": ("53.08", "60.94"),
    "Rel. Pos + colour": ("66.64", "68.75"),
    "Rel. Pos + Exemplar": ("65.24", "69.44"),
    "Rel. Pos + colour + Exemplar": ("68.65", "69.48"),
    "ImageNet labels": ("85.10", "74.17"),
}
TEN_PERCENT = {
    "SimCLRv2 self-distilled, ResNet-152 3x+SK": ("95.5", "80.9"),
    "SimCLRv2 distilled, ResNet-50 2x+SK": ("95.0", "80.2"),
    "SimCLRv2, ResNet-152 3x+SK": ("95.0", "80.1"),
    "SimCLRv2 distilled, ResNet-50": ("93.4", "77.5"),
    "SimCLR, ResNet-50 4x": ("92.6", "-"),
    "SimCLRv2, ResNet-50 2x": ("91.9", "73.9"),
}


def test_numbers_are_those_of_the_papers() -> None:
    classic, few = published_blocks(load_published(), [0.1], ["exemplar", "simclr"])
    assert classic.metrics == [TOP5, MAP] and {row: tuple(classic.cells(row)) for row in classic.rows} == CLASSIC
    assert classic.sources == ["Doersch & Zisserman 2017"] and "ResNet-101" in classic.setting
    assert few.metrics == ["top-5", "top-1"] and {row: tuple(few.cells(row)) for row in few.rows} == TEN_PERCENT
    assert "10 % of the labels" in few.setting and [source.partition("arXiv:")[2] for source in few.sources] == [
        "2006.10029",
        "2002.05709",
    ]
    assert {number.row for number in load_published() if "2002.05709" in number.source} == {"SimCLR, ResNet-50 4x"}


def test_tasks_of_ours_are_named_as_the_suite_names_them() -> None:
    tasks = {number.task for number in load_published()} - {""}
    assert len(tasks) == 8 and {TASKS.get(task).name for task in tasks} == tasks
    assert {number.task for number in load_published() if number.row == "Rel. Pos + colour + Exemplar"} == {
        "relative_position+colorization+exemplar"
    }


@pytest.mark.parametrize(("shares", "shown"), [((0.1, 1.0), True), ((0.01, 1.0), False), ((1.0,), False)])
def test_the_ten_percent_block_stands_below_ten_percent_columns_only(
    run_folder: MakeRun, shares: tuple[float, ...], shown: bool
) -> None:
    rows = {name: (name, "pretext", (0.5, 0.6)) for name in ("simclr", "exemplar")} | {
        "random": ("random", "baseline", (0.4, 0.3))
    }
    table = load(run_folder(rows, seeds=(0,), shares=shares)).table()
    for text in (table.terminal(legend=True), table.markdown(), table.html(), table.latex()):
        assert ("SimCLRv2" in text) is ("80.9" in text) is ("2006.10029" in text) is shown
        assert text.index("59.21") > text.index("records") and "Doersch" in text
        assert not shown or text.index("74.17") < text.index("80.9")  # one block after the other
    assert "80.9" not in table.csv() and "59.21" not in table.csv()


@pytest.mark.parametrize(
    ("tasks", "settings"),
    [
        (["rotation"], []), (["simclr"], ["ImageNet with 10 % of the labels"]), (["exemplar"], ["ResNet-101"]),
        (["exemplar + colorization+relative_position"], ["ResNet-101"]), (["relative_position+rotation"], []),
        (["colorization", "simclr"], ["ResNet-101", "ImageNet with 10 % of the labels"]),
    ],
)  # fmt: skip
def test_a_block_stands_only_where_one_of_its_tasks_is_a_row_of_ours(
    run_folder: MakeRun, tasks: list[str], settings: list[str]
) -> None:
    """The row of all labels is in every table, and makes none of them comparable."""
    rows = {task: (task, "pretext", (0.5, 0.6)) for task in tasks}
    rows |= {"random": ("random", "baseline", (0.4, 0.3)), "supervised": ("supervised", "labels", (0.5, 0.9))}
    table = load(run_folder(rows, seeds=(0,))).table()
    assert [
        next(setting for setting in settings if block.setting.startswith(setting)) for block in table.published
    ] == settings
    assert ("\n published  " in table.terminal()) is bool(settings)
