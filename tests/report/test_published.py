"""Numbers of others: as printed in the paper, with their source, and silent where too few rows are in common."""

from __future__ import annotations

from ssl_bench.report.published import Published, agreement, load_published

TOP5, MAP = "ImageNet, frozen, top-5", "VOC07 mAP"


def test_numbers_are_those_of_the_paper() -> None:
    found = {(p.row, p.metric): p.value for p in load_published()}
    rows = {
        "Rel. Pos": (59.21, 66.75),
        "Colour": (62.48, 65.47),
        "Exemplar": (53.08, 60.94),
        "Rel. Pos + colour": (66.64, 68.75),
        "Rel. Pos + Exemplar": (65.24, 69.44),
        "Rel. Pos + colour + Exemplar": (68.65, 69.48),
        "ImageNet labels": (85.10, 74.17),
    }
    assert found == {(row, metric): value for row, values in rows.items() for metric, value in zip((TOP5, MAP), values, strict=True)}
    assert all(p.source == "Doersch & Zisserman 2017" and "ResNet-101" in p.setting for p in load_published())


def test_few_rows_in_common_say_nothing() -> None:
    ours = {p.task: p.value for p in load_published() if p.task}
    assert len(ours) == 4  # three tasks and labels
    assert agreement(ours, load_published()) == []


def _numbers(tasks: str) -> list[Published]:
    return [Published("setting", task, task, "top-1", float(at), "source") for at, task in enumerate(tasks)]


def test_five_rows_in_common_give_tau_with_its_exact_p() -> None:
    (line,) = agreement(dict(zip("abcde", (0.1, 0.2, 0.3, 0.4, 0.5), strict=True)), _numbers("abcdef"))
    assert "over 5 rows" in line and "+1.00" in line and "exact p 0.017" in line


def test_supervised_does_not_count_as_a_row_in_common() -> None:
    numbers = [*_numbers("abcd"), Published("setting", "labels", "supervised", "top-1", 99.0, "source")]
    assert agreement({**dict.fromkeys("abcd", 0.5), "supervised": 0.9}, numbers) == []
