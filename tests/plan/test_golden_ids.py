"""The ids of every cell and evaluation of every shipped matrix, as ``golden_ids.json`` has them.

An id that changes makes every record under it unreachable: it may change only where a number can. To write the file
anew after such a change: ``python tests/plan/test_golden_ids.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from ssl_bench.data import Data, Labelled
from ssl_bench.data.images import ImageSet
from ssl_bench.evaluators.detection.evaluator import Detection
from ssl_bench.plan import prepare as before_training
from ssl_bench.spec.matrix import Matrix

GOLDEN = Path(__file__).with_name("golden_ids.json")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
#: what stands in for each source: images of train, validation and test, classes, side in pixels
SOURCES = {
    "shapes": (2_025, 225, 900, 9, 32), "cifar10": (45_000, 5_000, 10_000, 10, 32),
    "imagenet": (1_231_167, 50_000, 50_000, 1_000, 224),
    "hf:zh-plus/tiny-imagenet": (36_000, 4_000, 5_000, 100, 64),
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    not BENCHMARKS.is_dir(), reason="no checkout: an installed package has its matrices elsewhere"
)


def _images(source: str, split: str, count: int, classes: int, size: int) -> ImageSet:
    pixels = np.broadcast_to(np.array([200, 60, 20], np.uint8), (count, size, size, 3))  # in colour: a task may need it
    names = tuple(f"class {number}" for number in range(classes))
    return ImageSet(pixels, np.arange(count), np.arange(count) % classes, names, source, f"{source} {split}")


def _data(spec: Any, **_: Any) -> Data:
    source = spec.pretrain.source
    train, validation, test, classes, size = SOURCES[source]
    sets = {
        split: _images(source, split, count, classes, spec.size or size)
        for split, count in (("train", train), ("validation", validation), ("test", test))
    }
    return Data(sets["train"], (Labelled(source, **sets),), spec.size or size, (0.5,) * 3, (0.25,) * 3, [])


def _boxes(options: Any, places: Any) -> list[Any]:
    name = f"{options.source} of {options.size} px"
    parts = {
        split: SimpleNamespace(fingerprint=f"{name} {split}", files=()) for split in ("train", "validation", "test")
    }
    return [SimpleNamespace(name=name, shows="", notes=(), **parts)]


def ids_of(matrix: Path) -> dict[str, list[str]]:
    """The ids of a matrix on images that stand in for its own: a candidate's and those of its evaluations, by row,
    choice and seed."""
    found = {}
    with (
        mock.patch.object(before_training, "load", _data), mock.patch.object(before_training, "check"),
        mock.patch.object(Detection, "own_sets", _boxes),
        mock.patch.object(Detection, "check"),
    ):  # fmt: skip
        prepared = before_training.prepare(matrix, "nowhere", smoke=False, pack=False)
    spec: Matrix = prepared.matrix
    for row in prepared.rows:
        for candidate in row.candidates:
            for seed in spec.seeds:
                cell = prepared.cell(row, candidate, seed)
                chosen = "".join(f" {key}={value}" for key, value in candidate.chosen.items())
                found[f"{row.name}{chosen}/{seed}"] = [cell.id, *(planned.file_name for planned in cell.evaluations)]
    return found


def _matrices() -> list[Any]:
    many_rows = {"tries"}  # builds 66 tasks
    return [
        pytest.param(path, id=path.stem, marks=[pytest.mark.long] if path.stem in many_rows else [])
        for path in sorted(BENCHMARKS.glob("*.yaml"))
    ]


@pytest.mark.parametrize("matrix", _matrices())
def test_ids_are_the_golden_ones(matrix: Path) -> None:
    assert ids_of(matrix) == json.loads(GOLDEN.read_text(encoding="utf-8"))[matrix.stem]


if __name__ == "__main__":
    blocks = []
    for path in sorted(BENCHMARKS.glob("*.yaml")):
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(ids)}" for name, ids in ids_of(path).items())
        blocks.append(f"{json.dumps(path.stem)}: {{\n{lines}\n}}")
    GOLDEN.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")
