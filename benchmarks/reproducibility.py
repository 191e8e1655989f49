"""Does a table say the same again? A matrix run whole for every thread count and every draw of validation images, and
held against its intervals.

    python benchmarks/reproducibility.py            # quick, 2 thread counts x 2 draws: four runs, then
    results/reproducibility/

Threads change the order in which numbers are added, so that every network ends up a little elsewhere; another draw of
validation (``data.validation_seed``) chooses strengths and stages on other images, and pretrains on other ones too:
those that it does not hold back. Nothing can be shared between the runs for these reasons. Each is an ordinary run and
goes on where it was stopped, and the same command with all four there only writes the table anew.

A cell of each run's table should lie, within the interval printed beside it, around the mean of the runs: nine in ten
cells do, and none is out by more than twice half the interval's width. The intervals are of the test images alone,
which are the same in all runs, so that what is measured here is what they leave out. Exit code 1: it is not so, or a
run has no table yet.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
INSIDE, FURTHEST = 0.9, 2.0  # share of cells within their interval; half widths that none may be out by
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Setting:
    """One of the runs."""

    threads: int
    draw: int

    @property
    def name(self) -> str:
        return f"threads-{self.threads}-draw-{self.draw}"

    @property
    def title(self) -> str:
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}, draw {self.draw}"


@dataclass(frozen=True)
class Measured:
    """One cell of one run's table; all of them fractions."""

    setting: Setting
    row: str
    column: str  #: its key
    heading: str
    stage: str
    value: float
    half: float  #: of the printed interval's width
    mean: float = 0.0  #: of the runs

    @property
    def distance(self) -> float:
        """From the mean of the runs, in half widths."""
        return abs(self.value - self.mean) / self.half


def compute(matrix: str, settings: list[Setting], work: Path, sets: list[str]) -> None:
    """The runs that are missing, one after another; those that are whole have nothing left to do."""
    for setting in settings:
        command = [
            sys.executable,
            "-m",
            "ssl_bench",
            "run",
            matrix,
            "--out",
            str(work / setting.name),
            "--set",
            f"data.validation_seed={setting.draw}",
        ]
        for one in sets:
            command += ["--set", one]
        environment = os.environ | dict.fromkeys(THREADS, str(setting.threads))
        print(f"{setting.title}: {work / setting.name}", flush=True)
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            sys.exit(
                f"{setting.title}: the run ended with {done.returncode}; the same command goes on from "
                f"here\n{done.stdout[-2_000:]}"
            )


def cells_of(setting: Setting, folder: Path) -> list[Measured]:
    """The shares of test images in a run's table that have an interval."""
    from ssl_bench.report import load

    results = load(folder)
    if not results.run.final or results.missing:
        sys.exit(f"{folder} is not whole: {len(results.missing)} numbers are missing; run this again without --report")
    found = []
    for section in results.table().sections:
        for line in section.lines:
            for column in section.columns:
                entry = line.cells.get(column.key)
                if (
                    entry is not None
                    and entry.status == "value"
                    and column.unit == "%"
                    and column.split == "test"
                    and entry.high > entry.low
                ):
                    heading = f"{column.group}: {column.title}" if column.title else column.group
                    found.append(
                        Measured(
                            setting,
                            line.name,
                            column.key,
                            heading,
                            entry.stage,
                            entry.value,
                            (entry.high - entry.low) / 2,
                        )
                    )
    return found


def compared(runs: dict[Setting, list[Measured]]) -> list[Measured]:
    """The cells that all runs have, with the mean of the runs."""
    values: dict[tuple[str, str], list[float]] = {}
    for cells in runs.values():
        for cell in cells:
            values.setdefault((cell.row, cell.column), []).append(cell.value)
    means = {place: sum(found) / len(found) for place, found in values.items() if len(found) == len(runs)}
    lost = sorted({f"{row}, {column}" for (row, column) in values if (row, column) not in means})
    if lost:
        sys.exit(f"not every run has these cells: {'; '.join(lost)}")
    return [
        Measured(**{**vars(cell), "mean": means[cell.row, cell.column]}) for cells in runs.values() for cell in cells
    ]


def verdict(cells: list[Measured]) -> tuple[bool, str]:
    """Whether the table says the same again, and the sentence that tells it."""
    inside = sum(cell.distance <= 1 for cell in cells)
    furthest = max(cells, key=lambda cell: cell.distance)
    places = {(cell.row, cell.column) for cell in cells}
    never_out = places - {(cell.row, cell.column) for cell in cells if cell.distance > 1}
    good = inside >= INSIDE * len(cells) and furthest.distance <= FURTHEST
    text = (
        f"{inside:,} of {len(cells):,} cells ({100 * inside / len(cells):.0f} %; at least {100 * INSIDE:.0f} % are "
        "asked for) lie within their printed "
        f"interval around the mean of the runs, {len(never_out):,} of {len(places):,} in every run. The furthest is "
        f"{furthest.row}, {furthest.heading}, "
        f"with {furthest.setting.title}: {100 * furthest.value:.1f} where the mean is {100 * furthest.mean:.1f} "
        f"±{100 * furthest.half:.1f}, "
        f"{furthest.distance:.2f} half widths away (at most {FURTHEST:g})."
    )
    return good, text


def markdown(matrix: str, settings: list[Setting], cells: list[Measured], told: str, about: str) -> str:
    """Every cell as its values in the order of the runs, then half the width of its interval; bold is outside."""
    headings = dict.fromkeys((cell.column, cell.heading) for cell in cells)
    rows = dict.fromkeys(cell.row for cell in cells)
    at = {(cell.row, cell.column, cell.setting): cell for cell in cells}
    lines = [
        f"# `{matrix}`, run {len(settings)} times",
        "",
        told,
        "",
        f"Top-1 accuracy in % on the same test images; in every cell {', '.join(one.title for one in settings)}, then "
        "± half the printed interval, the "
        "widest of them. Bold: outside of it, around the mean. The intervals are of the test images alone; what "
        "differs here is all else: "
        "rounding, and with it training; the images held back to choose on; what is chosen on them. "
        "[cells.csv](cells.csv) has every number.",
        "",
        "| |" + "".join(f" {heading} |" for _, heading in headings),
        "|---|" + "---|" * len(headings),
    ]
    for row in rows:
        text = []
        for column, _ in headings:
            here = [at[row, column, one] for one in settings if (row, column, one) in at]
            values = " ".join(f"**{100 * c.value:.1f}**" if c.distance > 1 else f"{100 * c.value:.1f}" for c in here)
            stages = "/".join(dict.fromkeys(c.stage for c in here if c.stage))
            text.append(
                f"{values} ±{100 * max(c.half for c in here):.1f}{f' {stages}' if stages else ''}" if here else "-"
            )
        lines.append(f"| {row.replace('_', chr(92) + '_')} | {' | '.join(text)} |")
    return "\n".join([*lines, "", about, ""])


def about(folders: list[Path]) -> str:
    """On what it was computed, from the records."""
    from ssl_bench.report import load

    places: dict[str, None] = {}
    seconds = 0.0
    for folder in folders:
        results = load(folder)
        for record in results.evaluations:
            environment: Any = record.record.environment
            torch = environment.versions.get("torch", "?")
            places[
                f"{environment.device.partition(',')[0]}, {environment.precision}, torch {torch}, {environment.code}"
            ] = None
            seconds += record.record.seconds
        seconds += sum(pretraining.seconds.get("total", 0.0) for pretraining in results.pretrainings.values())
    return (
        f"Computed on {'; '.join(places)}; {seconds / 60:.0f} minutes for all runs. "
        "Made by `python benchmarks/reproducibility.py`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrix", default="quick", help="a shipped matrix or a YAML file")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reproducibility", help="folder of the table")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "reproducibility", help="folder of the runs")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1], help="draws of the validation images")
    parser.add_argument(
        "--set", action="append", default=[], dest="sets", help="change one setting of the matrix, as for ssl-bench run"
    )
    parser.add_argument(
        "--report", action="store_true", help="compute nothing: write the table of the runs that are there"
    )
    given = parser.parse_args()
    settings = [Setting(threads, draw) for threads in given.threads for draw in given.draws]
    if len(set(settings)) < 2 or min(given.threads) < 1 or min(given.draws) < 0:
        parser.error("give at least two settings: thread counts of 1 or more, draws of 0 or more")
    if not given.report:
        compute(given.matrix, settings, given.work, given.sets)
    cells = compared({setting: cells_of(setting, given.work / setting.name) for setting in settings})
    if not cells:
        sys.exit("the runs have no cell with an interval over test images")
    good, told = verdict(cells)
    given.out.mkdir(parents=True, exist_ok=True)
    text = markdown(
        Path(given.matrix).stem, settings, cells, told, about([given.work / setting.name for setting in settings])
    )
    (given.out / "README.md").write_text(text, encoding="utf-8")
    with (given.out / "cells.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            ["threads", "draw", "row", "column", "stage", "value", "half_width", "mean", "distance", "inside"]
        )
        for c in cells:
            numbers = [f"{number:.6g}" for number in (c.value, c.half, c.mean, c.distance)]
            table.writerow(
                [c.setting.threads, c.setting.draw, c.row, c.column, c.stage, *numbers, json.dumps(c.distance <= 1)]
            )
    print(told)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
