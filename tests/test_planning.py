"""What a plan says before anything is trained: passes, times and memory that follow from the settings, and mistakes in a task's own code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ssl_bench.backbones import Backbone
from ssl_bench.errors import SpecError
from ssl_bench.evaluators.features import FrozenFeatures
from ssl_bench.live import print_plan
from ssl_bench.planning import HARDWARE, Plan, RowPlan, plan
from ssl_bench.work import prepare
from tests.test_run import matrix

MISTAKEN = '''
from ssl_bench import PretextTask

class Mistaken(PretextTask):
    """Calls a function that is not there."""
    name = "mistaken"
    def views(self, batch):
        return batch.images
    def forward(self, views):
        return {"loss": views.no_such_thing()}
'''


def rows(tmp_path: Path, on: str | None = None, plugins: tuple[Path, ...] = (), **changes: Any) -> tuple[Plan, dict[str, RowPlan]]:
    found = plan(prepare(matrix(**changes), tmp_path / "out", plugins=plugins), on)
    return found, {row.row: row for row in found.rows}


def test_a_task_whose_own_code_fails_is_named_and_the_others_are_still_planned(tmp_path: Path) -> None:
    plugin = tmp_path / "mistaken.py"
    plugin.write_text(MISTAKEN)
    work = prepare(matrix(tasks=["mistaken", "rotation"]), tmp_path / "out", plugins=(plugin,))
    found = plan(work)
    by_name = {row.row: row for row in found.rows}
    assert "AttributeError" in by_name["mistaken"].problem and "no_such_thing" in by_name["mistaken"].problem
    assert by_name["mistaken"].seconds is None and by_name["rotation"].seconds and not by_name["rotation"].problem
    console = Console(width=120, record=True, file=io.StringIO())
    print_plan(console, work, found)
    text = console.export_text()
    assert "mistaken cannot be estimated, its own code fails: AttributeError" in text and "rotation cannot" not in text


def test_passes_are_counted_and_more_images_take_proportionally_longer(tmp_path: Path) -> None:
    tasks = ["simclr", "autoencoder", {"rotation+simclr": {"images": "split"}}, {"rotation+simclr": {"row": "all"}}]
    few, first = rows(tmp_path, on="a100", tasks=tasks)
    assert first["simclr"].passes == 2.0 and first["autoencoder"].passes == 1.0
    rotation = rows(tmp_path, on="a100")[1]["rotation"].passes
    assert rotation is not None
    split, full = (first[name].passes for name in first if name.startswith("rotation+") or name == "all")
    assert full == pytest.approx(rotation + 2.0) and split == pytest.approx((rotation + 2.0) / 2)  # half of the images a member
    _, more = rows(tmp_path, on="a100", tasks=tasks, pretrain={"images": 960, "batch_size": 32, "monitor": 1})
    for name in ("simclr", "autoencoder"):
        assert more[name].seconds == pytest.approx(10 * first[name].seconds)  # known hardware: nothing is timed
    assert few.missing == 5 and few.done == 0 and "A100" in few.hardware


def test_known_hardware_alone_is_taken(tmp_path: Path) -> None:
    slow, fast = rows(tmp_path, on="v100")[0], rows(tmp_path, on="a100")[0]
    assert slow.seconds / fast.seconds == pytest.approx(HARDWARE["a100"].flops / HARDWARE["v100"].flops)
    with pytest.raises(SpecError, match="did you mean 'a100'"):
        rows(tmp_path, on="a10")


def test_sizes_on_disk_and_in_memory_follow_from_the_images(tmp_path: Path) -> None:
    work = prepare(matrix(), tmp_path / "out")
    found = plan(work)
    assert found.packed >= (240 + 96) * 32 * 32 * 3  # of the whole set, of which the limit takes a part
    judged = work.evaluators[0].sets[0]
    splits = {"train": judged.train, "validation": judged.validation, "test": judged.test}
    features = FrozenFeatures(Backbone(work.matrix.backbone, 32), lambda images: {}, splits)
    assert found.features == sum(features.get(split, name).nbytes for split in splits for name in features.names())
