"""The matrices of the classic table run as they are shipped, on stand-ins of the same layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import ssl_bench
from ssl_bench.console.commands import app
from ssl_bench.plan.prepare import prepare
from ssl_bench.spec.matrix import Matrix
from ssl_bench.spec.model import parse
from ssl_bench.spec.reading import read_yaml
from ssl_bench.spec.shipped import shipped
from voc_trees import noise, write_image, write_list

CLASSIC = ["relative_position", "colorization", "exemplar"]
COMBINED = ["relative_position+colorization", "relative_position+exemplar", "relative_position+colorization+exemplar"]


def written(name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(shipped()[name].read_text(encoding="utf-8"), name)
    return found


def imagenet_tree(root: Path, classes: int = 4, train: int = 12, val: int = 3) -> Path:
    """ImageNet as torchvision keeps it: meta.bin, train/WNID and val/WNID."""
    ids = [f"n{at:08d}" for at in range(classes)]
    for at, wnid in enumerate(ids):
        for split, count in (("train", train), ("val", val)):
            (root / split / wnid).mkdir(parents=True)
            for number in range(count):
                pixels = np.asarray(noise(80 + number, 70, at * 100 + number)) // 2
                pixels[..., at % 3] += 80
                Image.fromarray(pixels).save(root / split / wnid / f"{split}_{at}_{number}.JPEG", quality=90)
    torch.save(
        ({wnid: (f"class {at}",) for at, wnid in enumerate(ids)}, [wnid for wnid in ids for _ in range(val)]),
        root / "meta.bin",
    )
    return root


def voc_tree(root: Path) -> Path:
    """VOC2007 as torchvision keeps it: VOCdevkit/VOC2007 with trainval and test."""
    folder = root / "VOCdevkit" / "VOC2007"
    for split, count in (("trainval", 20), ("test", 5)):
        names = [f"{split}{number:03d}" for number in range(count)]
        for number, name in enumerate(names):
            x, y = 5 + number % 7, 8 + number % 5
            image = noise(90, 70, number)
            image.paste((250, 20, 20) if number % 2 else (20, 20, 250), (x, y, x + 40, y + 30))
            write_image(
                folder,
                name,
                [("cat" if number % 2 else "dog", x + 1, y + 1, x + 40, y + 30, int(number % 9 == 8))],
                image,
                suffix=".jpg",
            )
        write_list(folder, split, names)
    return root


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    imagenet_tree(tmp_path / "data" / "imagenet")
    return voc_tree(tmp_path / "data")


def test_the_paper_scale_recipe_plans_as_it_is(root: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(
        app,
        [
            "plan", "classic_imagenet_resnet101", "--data-root", str(root), "--on", "a100", "--device", "cpu",
            "--set", "pretrain.batch_size=8", "--only", "relative_position+exemplar", "--only", "supervised",
        ],
    )  # fmt: skip
    text = " ".join(found.output.split())
    assert found.exit_code == 0, found.output
    assert "2 to compute" in text and "A100" in text and "disk: decoded images" in text
    assert all(name in text for name in (*CLASSIC, *COMBINED, "random", "supervised"))


@pytest.mark.long
def test_the_paper_scale_recipe_runs_end_to_end(root: Path, tmp_path: Path) -> None:
    spec = written("classic_imagenet_resnet101")
    assert spec["backbone"] == {"name": "resnet101"} and spec["data"]["source"] == "imagenet"
    spec["backbone"] = {"name": "resnet101", "width": 0.125}  # all its layers, narrow
    spec["data"]["size"] = 48
    spec["pretrain"] = {"images": 8, "batch_size": 4, "monitor": 0, "preset": "paper"}
    for asked in spec["evaluate"]:
        if "detection" in asked:
            asked["detection"] |= {"size": 64, "proposals": 20, "images": 4, "batch_size": 2}
    results = ssl_bench.run(spec, tmp_path / "out", data_root=root, device="cpu")
    assert not results.failures and not results.missing, [failure.message for failure in results.failures]
    frame = results.frame[results.frame["split"] == "test"]
    assert set(frame["row"]) == {*CLASSIC, *COMBINED, "random", "supervised"}
    assert set(frame[frame["metric"] == "map_voc07"]["stage"]) == {"", "frozen"}
    assert set(frame[frame["evaluator"] == "linear"]["stage"]) >= {"s1", "s2", "s3", "s4", "pooled"}
    text = results.table().terminal(200)
    assert "PASCAL VOC 2007" in text and "Rel. Pos" in text


def test_the_small_one_is_the_classic_table_with_few_labels_and_boxes() -> None:
    matrix = parse(Matrix, written("classic"), "classic")
    assert [row.row for row in matrix.tasks] == [*CLASSIC, *COMBINED, "rotation", "simclr"]
    assert {row.row for row in matrix.baselines} == {"random", "pixels", "pca", "supervised"} and len(matrix.seeds) == 3
    for few in (asked.options for asked in matrix.evaluate if asked.evaluator in ("linear", "finetune")):
        assert few["labels"] == [0.01, 0.1, 1.0] and few["draws"] == 5
    tuned = [asked for asked in matrix.evaluate if asked.evaluator == "detection" and not asked.options.get("freeze")]
    frozen = [asked for asked in matrix.evaluate if asked.evaluator == "detection" and asked.options.get("freeze")]
    assert (
        {asked.options["source"] for asked in tuned}
        == {asked.options["source"] for asked in frozen}
        == {"shapes", "bccd"}
    )
    assert all(asked.seeds is None for asked in tuned) and all(asked.seeds == (0,) for asked in frozen)


def test_two_lines_make_the_small_one_a_table_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos, cells = (
        imagenet_tree(tmp_path / "photos", classes=3, train=400, val=20),
        voc_tree(tmp_path) / "VOCdevkit" / "VOC2007",
    )
    (photos / "meta.bin").unlink()
    text = shipped()["classic"].read_text(encoding="utf-8")
    mine = text.replace("hf:zh-plus/tiny-imagenet", f"folder:{photos}").replace("&boxes bccd", f"&boxes voc:{cells}")
    assert sum(a != b for a, b in zip(text.splitlines(), mine.splitlines(), strict=True)) == 2
    (tmp_path / "mine.yaml").write_text(mine, encoding="utf-8")
    run_plan = prepare(tmp_path / "mine.yaml", tmp_path / "out", device="cpu")
    assert len(run_plan.cells()) == 3 * 12 and len(run_plan.data.pretrain.classes) == 3
