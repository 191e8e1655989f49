"""What stands below the table, and its first line: what was run, what every sign means, how numbers were chosen, where
they were made."""

from __future__ import annotations

from ssl_bench.report.building.classes import class_lines
from ssl_bench.report.building.provenance import (
    choice_lines,
    control_line,
    data_lines,
    evaluator_lines,
    health_lines,
    input_lines,
    record_lines,
    row_lines,
    run_lines,
    schedule_line,
    test_line,
)
from ssl_bench.report.building.signs import sign_lines
from ssl_bench.report.ground.content import LegendLine, Section
from ssl_bench.report.reading.records import RunRecords

MOST_BRIEF = 8  # lines of the terminal's legend


def title_of(results: RunRecords) -> list[str]:
    """Name, backbone, budget, seeds, and what the numbers are."""
    run, count = results.run, len(results.run.seeds)
    split = "test split" if run.final else "validation split"
    return [
        run.name,
        run.backbone,
        run.budget,
        f"{count} seed{'s' if count != 1 else ''}",
        f"top-1 accuracy in %, {split}",
    ]


def legend_of(results: RunRecords, sections: list[Section]) -> list[LegendLine]:
    """Every line, in the order printed."""
    return [
        *health_lines(results),
        *sign_lines(results, sections),
        *class_lines(results),
        *evaluator_lines(results),
        *input_lines(results),
        *row_lines(results),
        *choice_lines(results),
        *control_line(results),
        *schedule_line(results),
        *data_lines(results),
        *test_line(results),
        *run_lines(results),
        *record_lines(results),
    ]


def brief_legend(lines: list[LegendLine]) -> list[tuple[str, str]]:
    """What the terminal shows: the signs of this table, one short line each, and where the rest stands."""
    short = [(line.sign, line.brief) for line in lines if line.brief]
    return [*short[: MOST_BRIEF - 1], ("more", "how numbers were chosen and made: --legend, table.md or table.html")]
