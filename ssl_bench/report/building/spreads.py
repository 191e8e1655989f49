"""How much the difference of two pretrained rows varies from seed to seed, in runs that were made."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from itertools import combinations

import numpy as np

from ssl_bench.report.building.comparisons import ranked_rows
from ssl_bench.report.ground.content import TableContent
from ssl_bench.report.ground.intervals import FEWEST_SEEDS
from ssl_bench.report.reading.records import RunRecords


@dataclass(frozen=True)
class Spread:
    """The standard deviation over seeds of the difference of two rows in a column of a run, and what that was."""

    evaluator: str
    column: str  #: key of the column, as in table.csv
    title: str  #: the column in words
    stage: str
    labels: float  #: share of them
    width: float  #: of the network
    size: int  #: pixels of an image
    passes: int  #: images that went through a network in pretraining, the median row's
    test_images: int
    rows: int
    seeds: int
    spread: float  #: a fraction: root of the mean variance over all pairs of rows
    source: str  #: the run, such as results/cifar10


def spreads_of(results: RunRecords, table: TableContent, source: str) -> list[Spread]:
    """A spread for every column of fractions in which two pretrained rows or more share three seeds."""
    matrix = results.run.matrix
    width = float((matrix.get("backbone") or {}).get("width", 1.0))
    size = int(results.run.data.get("pretrain", {}).get("size") or 0)
    trained = results.pretraining[results.pretraining["steps"] > 0]
    passes = int((trained["passes"] * trained["images_seen"]).median()) if len(trained) else 0
    spreads = []
    for section in table.sections:
        for column in section.columns:
            if column.unit != "%" or column.higher_is_better is None or not column.evaluator or column.data:
                continue
            rows = [line.cells[column.key] for line in ranked_rows(column, section.lines)]
            variances, seeds = [], 0
            for first, second in combinations(rows, 2):
                shared = sorted(set(first.values) & set(second.values))
                if len(shared) >= FEWEST_SEEDS:
                    variances.append(np.var([first.values[s] - second.values[s] for s in shared], ddof=1))
                    seeds = max(seeds, len(shared))
            if variances:
                title = column.title if column.group == column.title else f"{column.group}, {column.title}"
                images = min(cell.images for cell in rows)
                spread = round(math.sqrt(float(np.mean(variances))), 6)
                place = column.evaluator, column.key, title, column.stage, column.labels or 1.0, width, size, passes
                spreads.append(Spread(*place, images, len(rows), seeds, spread, source))
    return spreads


def spreads_csv(spreads: Iterable[Spread]) -> str:
    """One line a spread, as ``read_spreads`` reads them."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([field.name for field in fields(Spread)])
    writer.writerows(astuple(spread) for spread in spreads)
    return buffer.getvalue()


def read_spreads(text: str) -> list[Spread]:
    """The spreads of ``spreads_csv``."""
    kinds = {"str": str, "int": int, "float": float}
    return [
        Spread(**{field.name: kinds[str(field.type)](line[field.name]) for field in fields(Spread)})
        for line in csv.DictReader(io.StringIO(text))
    ]
