"""What a plan says before anything is trained: passes, times and memory that follow from the settings, and mistakes in
a task's own code."""

from __future__ import annotations

import io
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from ssl_bench.backbones.resnet import Backbone
from ssl_bench.console.commands import app
from ssl_bench.console.live import print_plan
from ssl_bench.data.packs import content
from ssl_bench.data.packs.room import SPARE_DISK
from ssl_bench.errors import DataError, SpecError
from ssl_bench.evaluators.features import FrozenFeatures
from ssl_bench.plan.context import RunContext
from ssl_bench.plan.estimate import Estimate, RowEstimate, estimate
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.speed import HARDWARE
from ssl_bench.runner.evaluation import CellEvaluation
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.pretraining import pretrain_cell
from ssl_bench.runner.smoke import smoke
from tests.runner.test_run import OWN_SETS, matrix
from voc_trees import noise, write_tree

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


def rows(
    tmp_path: Path, on: str | None = None, plugins: tuple[Path, ...] = (), **changes: Any
) -> tuple[Estimate, dict[str, RowEstimate]]:
    found = estimate(prepare(matrix(**changes), tmp_path / "out", plugins=plugins), on)
    return found, {row.row: row for row in found.rows}


def test_a_task_whose_own_code_fails_is_named_and_the_others_are_still_planned(tmp_path: Path) -> None:
    plugin = tmp_path / "mistaken.py"
    plugin.write_text(MISTAKEN)
    run_plan = prepare(matrix(tasks=["mistaken", "rotation"]), tmp_path / "out", plugins=(plugin,))
    found = estimate(run_plan)
    by_name = {row.row: row for row in found.rows}
    assert "AttributeError" in by_name["mistaken"].problem and "no_such_thing" in by_name["mistaken"].problem
    assert by_name["mistaken"].seconds is None and by_name["rotation"].seconds and not by_name["rotation"].problem
    console = Console(width=120, record=True, file=io.StringIO())
    print_plan(console, run_plan, found)
    text = console.export_text()
    assert "mistaken cannot be estimated, its own code fails: AttributeError" in text and "rotation cannot" not in text


def test_passes_are_counted_and_more_images_take_proportionally_longer(tmp_path: Path) -> None:
    tasks = ["simclr", "autoencoder", {"rotation+simclr": {"images": "split"}}, {"rotation+simclr": {"row": "all"}}]
    few, first = rows(tmp_path, on="a100", tasks=tasks)
    assert first["simclr"].passes == 2.0 and first["autoencoder"].passes == 1.0
    rotation = rows(tmp_path, on="a100")[1]["rotation"].passes
    assert rotation is not None
    split, full = (first[name].passes for name in first if name.startswith("rotation+") or name == "all")
    # half of the images a member
    assert full == pytest.approx(rotation + 2.0) and split == pytest.approx((rotation + 2.0) / 2)
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
    run_plan = prepare(matrix(), tmp_path / "out")
    found = estimate(run_plan)
    assert found.packed >= (240 + 96) * 32 * 32 * 3  # of the whole set, of which the limit takes a part
    judged = run_plan.evaluators[0].sets[0]
    splits = {"train": judged.train, "validation": judged.validation, "test": judged.test}
    features = FrozenFeatures(Backbone(run_plan.matrix.backbone, 32), lambda images: {}, splits)
    assert found.features == sum(features.get(split, name).nbytes for split in splits for name in features.names())


def test_an_open_choice_is_planned_to_its_end(tmp_path: Path) -> None:
    """Its candidates at the first seed, one of them at the others, and all evaluations at every seed."""
    common: dict[str, Any] = {
        "on": "a100",
        "seeds": [0, 1, 2],
        "baselines": [],
        "evaluate": [{"knn": {"k": [5]}}, "diagnostics"],
    }
    plain, (one,) = (found := rows(tmp_path, tasks=["rotation"], **common))[0], found[1].values()
    choice = {"rotation": {"learning_rate": {"choose": [1e-3, 1e-2]}, "row": "r"}}
    both, (chosen,) = (found := rows(tmp_path, tasks=[choice], **common))[0], found[1].values()
    assert one.seconds is not None and chosen.seconds is not None
    assert (one.missing, chosen.missing, chosen.done) == (3, 4, 0)
    assert chosen.seconds == pytest.approx(one.seconds * 4 / 3)
    # of two evaluators at three seeds; two candidates are judged by one of them before
    assert plain.evaluation_seconds > 0
    assert both.evaluation_seconds == pytest.approx(plain.evaluation_seconds * (6 + 2) / 6)
    assert both.results == pytest.approx(plain.results * 4 / 3)
    run_plan = prepare(
        matrix(tasks=[choice], seeds=[0, 1, 2], baselines=[], evaluate=common["evaluate"]), tmp_path / "out"
    )
    first = run_plan.candidate_cells(run_plan.rows[0])[0]
    context = RunContext(
        data=run_plan.data, backbone=run_plan.matrix.backbone, device=run_plan.device, precision="fp32"
    )
    _, task = pretrain_cell(first, context)
    CellEvaluation(first, context, task).ask(first.evaluations[0], final=False)
    begun = rows(tmp_path, tasks=[choice], **common)[1]["r"]
    assert (begun.missing, begun.done) == (3, 1) and begun.seconds == pytest.approx(one.seconds)


def test_sets_that_are_no_packs_can_be_planned_with(tmp_path: Path) -> None:
    plugin = tmp_path / "planned.py"
    plugin.write_text(OWN_SETS.replace('"box"', '"planned"'))
    found, _ = rows(tmp_path, on="a100", plugins=(plugin,), evaluate=[{"knn": {"k": [5]}}, "planned"])
    assert found.packed == rows(tmp_path, on="a100")[0].packed


def test_rows_that_share_a_cell_are_timed_once(tmp_path: Path) -> None:
    alone = rows(tmp_path, on="a100", tasks=["rotation"], baselines=[])[0]
    shared = rows(tmp_path, on="a100", tasks=["rotation", {"rotation": {"row": "again"}}], baselines=[])[0]
    assert shared.seconds == pytest.approx(alone.seconds)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Class folders, and a cache of one's own that remembers them at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**12))  # as if the files had been there for long
    for split, count in (("train", 150), ("test", 20)):
        for name in ("a", "b"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for at in range(count):
                noise(40, 40, zlib.crc32(f"{split} {name} {at}".encode())).save(
                    tmp_path / "photos" / split / name / f"{at}.png"
                )
    return tmp_path / "photos"


def packed(cache: Path) -> list[int]:
    return sorted(len(np.load(file, mmap_mode="r")) for file in cache.glob("ssl_bench/packs/*/pixels.npy"))


def test_a_plan_packs_nothing(photos: Path, tmp_path: Path) -> None:
    boxes = write_tree(tmp_path / "boxes", {
        split: {f"{split}{at}": [("cat", 3, 4, 10, 12, 0)] for at in range(count)}
        for split, count in (("train", 12), ("val", 4), ("test", 4))
    })  # fmt: skip
    asked = [{"knn": {"k": [5]}}, {"detection": {"source": f"voc:{boxes}", "size": 32, "images": 8}}]
    asked += [
        {"detection": {"source": "shapes", "size": size, "freeze": freeze}}
        for size, freeze in ((32, False), (32, True), (36, False))
    ]
    spec = matrix(
        data={"source": f"folder:{photos}", "size": 32},
        evaluate=asked,
        tasks=["rotation", "colorization"],
        baselines=["random", "pca"],
    )
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    told = CliRunner().invoke(
        app, ["plan", str(tmp_path / "spec.json"), "--out", str(tmp_path / "out"), "--on", "a100"]
    )
    assert told.exit_code == 0, told.output
    text = " ".join(told.output.split())
    assert (
        "not packed yet (" in text
        and "photos train, photos test" in text
        and "whatever needs these images counts as missing" in text
    )
    assert "4 to compute" in text
    assert not packed(tmp_path / "cache")
    looked = prepare(spec, tmp_path / "out", pack=False)
    run_plan = prepare(spec, tmp_path / "out")
    assert estimate(looked, "a100").packed == estimate(run_plan, "a100").packed and not run_plan.unpacked
    assert sum(looked.unpacked.values()) == estimate(run_plan, "a100").packed
    counts = [
        [len(part) for part in (one.train, one.validation, one.test)]
        for one in (looked.data.evaluate[0], looked.evaluators[1].sets[0])
    ]
    assert counts == [[270, 30, 40], [12, 4, 4]] and len(looked.data.pretrain) == 270
    assert looked.data.pretrain.fingerprint != run_plan.data.pretrain.fingerprint
    again = prepare(spec, tmp_path / "out", pack=False)
    assert not again.unpacked and [cell.id for cell in again.cells()] == [cell.id for cell in run_plan.cells()]


def test_a_smoke_run_packs_the_few_images_that_it_shows(photos: Path, tmp_path: Path) -> None:
    told: list[str] = []

    class Packing(Observer):
        def packing(self, what: str, done: int, total: int) -> None:
            told.append(what)

    spec = matrix(
        data={"source": f"folder:{photos}", "size": 32},
        baselines=["random"],
        pretrain={"images": 64, "batch_size": 32, "monitor": 0},
    )
    assert not smoke(spec, observer=Packing()).failures
    assert packed(tmp_path / "cache") == [40, 128] and any(
        what.startswith("packing photos train: 128 images") for what in told
    )


def test_a_small_part_of_a_large_folder_is_packed_without_reading_the_rest(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    real = content._hash_file
    monkeypatch.setattr(content, "_hash_file", lambda file: (read.append(file), real(file))[1])
    few = {"source": f"folder:{photos}", "size": 32, "limit": {"train": 8, "test": 2}}
    assert len(prepare(matrix(data=few, pretrain={"images": 8, "batch_size": 4}), tmp_path / "out").data.pretrain) == 7
    assert len(read) == 10 and packed(tmp_path / "cache") == [2, 8]


def test_room_for_all_packs_is_asked_for_before_the_first_is_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = matrix(data={"source": f"folder:{photos}", "size": 32})
    usage = type("usage", (), {"free": SPARE_DISK + 300 * 32 * 32 * 3})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: usage)
        with pytest.raises(
            DataError,
            match=(
                r"packing takes 1\.0 MB in .*\(photos train: 922 KB, photos test: 123 KB\), "
                "where 922 KB are free; make room.*XDG"
            ),
        ):
            prepare(spec, tmp_path / "out")
        assert not list((tmp_path / "cache").glob("ssl_bench/packs/*/pixels*"))
    prepare(spec, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: type("none", (), {"free": 0}))
        shutil.rmtree(tmp_path / "cache" / "ssl_bench" / "content")
        prepare(spec, tmp_path / "out")  # what is there needs no room, though all has to be read to know it
