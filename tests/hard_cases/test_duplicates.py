"""The same pixels more than once: counted by split and label, and listed on request."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ssl_bench.console.commands import app
from ssl_bench.data import load
from ssl_bench.data.loading import duplicates
from ssl_bench.spec.data import DataSpec
from ssl_bench.spec.model import parse


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; two pairs of copies in train/cat, one image in train/cat and train/dog,
    one in train/dog and test/cat."""
    for number, (split, label) in enumerate(
        (split, label)
        for split, count in (("train", 20), ("test", 4))
        for label in ("cat", "dog")
        for _ in range(count)
    ):
        file = tmp_path / "set" / split / label / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(file)
    train = tmp_path / "set" / "train"
    Image.open(train / "cat" / "00.png").save(train / "cat" / "again.bmp")  # other bytes, the same pixels
    shutil.copy(train / "cat" / "01.png", train / "cat" / "twice.png")
    shutil.copy(train / "cat" / "02.png", train / "dog" / "cat.png")
    shutil.copy(train / "dog" / "20.png", tmp_path / "set" / "test" / "cat" / "dog.png")
    return tmp_path / "set"


def test_copies_and_contradicting_labels_are_counted(root: Path, tmp_path: Path) -> None:
    data = load(parse(DataSpec, f"folder:{root}", "data"), cache=tmp_path / "cache")
    (note,) = [note for note in data.notes if "several labels" in note]
    assert "2 images stand under several labels ('cat' and 'dog' 2)" in note and "`ssl-bench duplicates MATRIX`" in note
    (labelled,) = data.evaluate
    shown = [image.tobytes() for image in labelled.train.pixels[labelled.train.rows]]
    assert (
        len(shown) == len(set(shown))
        or f"{len(shown) - len(set(shown))} of {len(shown)} training images repeat another one" in note
    )
    pretrain = load(parse(DataSpec, {"pretrain": f"folder:{root}", "evaluate": []}, "data"), cache=tmp_path / "cache")
    assert any("3 of 43 training images repeat another one" in note for note in pretrain.notes)


def test_copies_are_listed_with_their_place_and_label(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = parse(DataSpec, f"folder:{root}", "data")
    found = duplicates(spec, cache=tmp_path / "cache")
    groups = [
        {(copy.label, Path(copy.image).name) for copy in found if copy.number == number}
        for number in range(1, found[-1].number + 1)
    ]
    expected = [
        {("cat", "00.png"), ("cat", "again.bmp")},
        {("cat", "01.png"), ("cat", "twice.png")},
        {("cat", "02.png"), ("dog", "cat.png")},
        {("dog", "20.png"), ("cat", "dog.png")},
    ]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, expected))
    assert {copy.role for copy in found if Path(copy.image).parts[-3] == "test"} == {"test"}

    matrix = tmp_path / "m.yaml"
    matrix.write_text(f"name: m\ndata: folder:{root}\npretrain: {{images: 64}}\ntasks: [rotation]\nevaluate: [knn]\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["duplicates", str(matrix), "--out", str(tmp_path / "copies.csv")])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO((tmp_path / "copies.csv").read_text())))
    assert [tuple(row.values()) for row in rows] == [
        (str(copy.number), "set", copy.role, copy.label, copy.image) for copy in found
    ]


def test_a_set_without_copies_says_nothing(root: Path, tmp_path: Path) -> None:
    for file in ("train/cat/again.bmp", "train/cat/twice.png", "train/dog/cat.png", "test/cat/dog.png"):
        (root / file).unlink()
    spec = parse(DataSpec, f"folder:{root}", "data")
    assert duplicates(spec, cache=tmp_path / "cache") == []
    assert not any("pixel" in note for note in load(spec, cache=tmp_path / "cache").notes)
