"""What speed this suite has and what ideas would change: every number of docs/performance.md, in one run.

    python benchmarks/speed/measure.py                    # under 15 minutes on two idle cores; writes results/speed/
    python benchmarks/speed/measure.py --only ideas --only views
    python benchmarks/speed/measure.py --tiny             # seconds: whether it works, no numbers to publish

Each line is the median of five ratios of sides that take turns, with the lowest and the highest. What needs a package,
a compiler or a processor that is not here says so instead. compare.py beside it measures the tasks against their bare
network and lightly; large_run.py runs of 10,000 cells.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ssl_bench.records.environment import device_name, installed_versions
from ssl_bench.records.schema import write_bytes
from ssl_bench.report.rendering.drawing import COLOURS, GREY, file_bytes, new_figure, style

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import bare_network  # noqa: E402
import libraries  # noqa: E402
import several_networks  # noqa: E402
from interleaved import REPEATS, Ratio  # noqa: E402

OUT = HERE.parents[1] / "results" / "speed"
PARTS: dict[str, Callable[..., Iterator[Ratio]]] = {
    "ideas": bare_network.measure,
    "stacked": several_networks.measure_stacked,
    "processes": several_networks.measure_processes,
    "views": libraries.measure_views,
    "probe": libraries.measure_probe,
    "decoding": libraries.measure_decoding,
}
#: sizes at which every part takes seconds
TINY: dict[str, dict[str, Any]] = {
    "ideas": {"batch": 64, "steps": 1, "width": 0.125},
    "stacked": {"batch": 8, "steps": 1, "width": 0.125},
    "processes": {"batch": 8, "steps": 1, "width": 0.125},
    "views": {"batch": 8},
    "probe": {"images": 300, "width": 16, "classes": 3},
    "decoding": {"count": 8},
}
COLUMNS = ["part", "what", "against", "ratio", "low", "high", "repeats", "note", "absolute", "hardware", "torch"]


def measured(only: Sequence[str] = (), tiny: bool = False, repeats: int = REPEATS) -> list[Ratio]:
    """The ratios of the parts that are named, or of all."""
    lines = []
    for name, measure in PARTS.items():
        for line in measure(repeats=repeats, **(TINY[name] if tiny else {})) if not only or name in only else ():
            value = f"{line.middle:.2f} ({line.low:.2f} to {line.high:.2f})" if line.ratios else ""
            text = f"{line.part:10} {line.name} against {line.against}: {value} {line.note}"
            print(text.rstrip(), flush=True)
            lines.append(line)
    return lines


def hardware() -> str:
    """Where it was measured."""
    return f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores, {platform.platform(terse=True)}"


def as_csv(lines: Sequence[Ratio]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    where, version = hardware(), installed_versions()["torch"]
    for line in lines:
        values = [f"{value:.4g}" if line.ratios else "" for value in (line.middle, line.low, line.high)]
        absolute = "; ".join(f"{name} {value:.4g}" for name, value in line.absolute.items())
        told = [line.part, line.name, line.against, *values, len(line.ratios), line.note, absolute, where, version]
        writer.writerow(told)
    return buffer.getvalue()


def plot(lines: Sequence[Ratio]) -> bytes:
    """A bar from the lowest to the highest ratio, a point at the median; what could not be measured is named."""
    with style():
        figure = new_figure(8.5, 1.2 + 0.3 * max(1, len(lines)))
        ax = figure.subplots()
        parts = list(dict.fromkeys(line.part for line in lines))
        for at, line in enumerate(lines):
            colour = COLOURS[parts.index(line.part) % len(COLOURS)]
            if line.ratios:
                ax.hlines(at, line.low, line.high, color=colour, linewidth=2)
                ax.plot(line.middle, at, "o", color=colour)
            else:
                ax.text(1.02, at, line.note, color=GREY, va="center", fontsize=7)
        ax.axvline(1, color=GREY, linewidth=1)
        ax.set_xscale("log")
        ax.set_yticks(range(len(lines)), [f"{line.name} / {line.against}" for line in lines], fontsize=7)
        ax.invert_yaxis()
        ax.set_xlabel("times as fast; point: median of the repeats, bar: lowest to highest")
        ax.set_title(hardware(), fontsize=7)
        return file_bytes(figure, "png")


def write(lines: Sequence[Ratio], folder: Path) -> list[Path]:
    """speed.csv and speed.png."""
    files = {"speed.csv": as_csv(lines).encode(), "speed.png": plot(lines)}
    for name, content in files.items():
        write_bytes(folder / name, content)
    return [folder / name for name in files]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(PARTS), default=[], help="this part (repeatable)")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--tiny", action="store_true", help="sizes that take seconds, and no numbers to publish")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args(arguments)
    if asked.tiny and asked.out == OUT:
        parser.error("--tiny measures nothing worth publishing: give --out")
    if asked.only and asked.out == OUT:
        parser.error("--only would leave the other parts out of the published files: give --out")
    for path in write(measured(asked.only, asked.tiny, asked.repeats), asked.out):
        print(path)


if __name__ == "__main__":
    main()
