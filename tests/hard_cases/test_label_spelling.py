"""Names of classes that are written differently and mean the same, or are written alike and should not be."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ssl_bench.data.boxes.loading import load_detection
from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet
from ssl_bench.data.sources.catalogue import open_source
from ssl_bench.data.sources.labels import near_equal, numbered, spelled
from ssl_bench.spec.data import SourceSpec

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def picture(at: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), at, np.uint8))


def as_folders(root: Path, words: list[str]) -> SourceSpec:
    for at, word in enumerate(words):
        (root / word).mkdir(parents=True, exist_ok=True)
        picture(at).save(root / word / f"{at:03d}.png")
    return SourceSpec(source=f"folder:{root}")


def as_csv(root: Path, words: list[str]) -> SourceSpec:
    root.mkdir()
    for at in range(len(words)):
        picture(at).save(root / f"{at:03d}.png")
    (root / "labels.csv").write_text(
        "file,label\n" + "".join(f'{at:03d}.png,"{word}"\n' for at, word in enumerate(words))
    )
    return SourceSpec(source=f"folder:{root}", labels="labels.csv")


def as_text(root: Path, words: list[str]) -> SourceSpec:
    return _parquet(root, words, {})


def as_class_labels(root: Path, words: list[str]) -> SourceSpec:
    names = sorted(set(words))
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    return _parquet(
        root, [names.index(word) for word in words], {"huggingface": json.dumps({"info": {"features": features}})}
    )


def _parquet(root: Path, labels: list[str] | list[int], metadata: dict[str, str]) -> SourceSpec:
    import io

    root.mkdir()
    images = []
    for at in range(len(labels)):
        stream = io.BytesIO()
        picture(at).save(stream, "PNG")
        images.append(stream.getvalue())
    pq.write_table(
        pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata), root / "train.parquet"
    )
    return SourceSpec(source=f"parquet:{root}")


WAYS = [as_folders, as_csv, as_text, as_class_labels]


def find(make: Callable[[Path, list[str]], SourceSpec], tmp_path: Path, words: list[str]) -> RawSet:
    return open_source(make(tmp_path / "set", words), Places(tmp_path / "cache", None, 8))


def counts(source: RawSet) -> dict[str, int]:
    labels = source.splits["train"].labels
    assert labels is not None
    return {name: int((labels == at).sum()) for at, name in enumerate(source.classes)}


@pytest.mark.parametrize("make", WAYS)
def test_spaces_and_unicode_forms_are_one_class_and_told(
    tmp_path: Path, make: Callable[[Path, list[str]], SourceSpec]
) -> None:
    found = find(make, tmp_path, ["cat"] * 3 + ["cat "] * 2 + [NFC] * 2 + [NFD] * 4 + ["dog"])
    assert counts(found) == {"cat": 5, NFC: 6, "dog": 1}
    note = next(note for note in found.notes if "one class" in note)
    assert "'cat' (3) and 'cat ' (2)" in note and r"'cafe\u0301' (4)" in note


@pytest.mark.parametrize("make", WAYS)
def test_nearly_equal_names_stay_apart_and_are_told(
    tmp_path: Path, make: Callable[[Path, list[str]], SourceSpec]
) -> None:
    found = find(make, tmp_path, ["cat"] * 3 + ["Cat"] * 2 + ["cat_"] + ["dog"] * 2 + ["hot dog", "hotdog"])
    assert counts(found) == {"Cat": 2, "cat": 3, "cat_": 1, "dog": 2, "hot dog": 1, "hotdog": 1}
    note = next(note for note in found.notes if "nearly agree" in note)
    assert (
        "'Cat' (2 images) and 'cat' (3 images) and 'cat_' (1 images); 'hot dog' (1 images) and 'hotdog' (1 images)"
        in note
    )
    assert "'dog'" not in note.replace("'hot dog'", "")


@pytest.mark.parametrize("make", WAYS)
def test_clean_names_are_not_talked_about(tmp_path: Path, make: Callable[[Path, list[str]], SourceSpec]) -> None:
    found = find(make, tmp_path, ["ant", "bee", "n01", "n02", "c-3", "1.5", "15"])
    assert not any("nearly" in note or "one class" in note or "missing" in note for note in found.notes)


@pytest.mark.parametrize("make", [as_csv, as_text])
def test_numbers_that_are_written_differently(tmp_path: Path, make: Callable[[Path, list[str]], SourceSpec]) -> None:
    found = find(make, tmp_path, ["1", "01", "1.0", "2", "10", "-1"])
    assert any(
        "'01' (1 images) and '1' (1 images) and '1.0' (1 images)" in note and "'10'" not in note and "'-1'" not in note
        for note in found.notes
    )


def test_numbers_that_are_none(tmp_path: Path) -> None:
    """Dashes before digits, more digits than a float or than Python reads,
    and numbers that fit into no signed 64 bits."""
    assert find(as_folders, tmp_path / "dashes", ["1", "--2", "10"]).classes == ("--2", "1", "10")
    for digits in (400, 4_000, 5_000):
        (tmp_path / str(digits)).mkdir()
        assert set(find(as_csv, tmp_path / str(digits), ["9" * digits, "1"]).classes) == {"1", "9" * digits}
    spec = _parquet(tmp_path / "set", [0, 1], {})
    small, large = (tmp_path / f"set/train-0000{at}-of-00002.parquet" for at in (0, 1))
    (tmp_path / "set/train.parquet").rename(small)
    table = pq.read_table(small)
    pq.write_table(table.set_column(1, "label", pa.array([2**63, 1], pa.uint64())), large)
    found = open_source(spec, Places(tmp_path / "cache", None, 8)).splits["train"]
    assert (
        found.labels is None
        and "train-00001-of-00002.parquet: column 'label' cannot be read together" in found.unlabelled
    )


def test_words_for_nothing() -> None:
    labels, names = numbered(["cat", "nan", "", None, " ", "NULL", "<NA>", "dog", "None"])
    assert labels.tolist() == [1, -1, -1, -1, -1, -1, -1, 2, 0] and names == ("None", "cat", "dog")
    (note,) = near_equal("set", names, [2, 5, 5])
    assert "'None' (2 images) may stand for a missing label, and is a class here" in note


def test_names_that_join_others_and_minus_one_beside_numbers() -> None:
    (note,) = near_equal("set", ("cat", "cat|dog", "dog", "hot dog", "rust, scab"), [2, 5, 5, 1, 1])
    assert "1 class names are made of other classes' names: 'cat|dog' ('cat' and 'dog')" in note
    assert (
        near_equal("set", ("cat", "cat dog", "dog"), [1, 0, 1])
        == near_equal("set", ("-1", "1"), [5, 5])
        == near_equal("set", ("-1", "a"), [5, 5])
        == []
    )
    (note,) = near_equal("set", ("-1", "0", "1"), [3, 5, 5])
    assert "'-1' (3 images) may stand for a missing label" in note


def test_what_a_spelling_is() -> None:
    assert (
        spelled("\u00a0 A b\t\r\n") == "A b"
        and spelled("\ufeffcat\u200b") == "cat"
        and spelled(NFD) == NFC
        and spelled("Cat") == "Cat"
    )


def test_objects_in_boxes_are_named_alike(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for at in range(12):
        name = ("cell", "Cell ", NFC, f" {NFD}\n")[at % 4]
        Image.fromarray(np.random.default_rng(at).integers(0, 256, (32, 32, 3), np.uint8)).save(
            root / "JPEGImages" / f"{at}.jpg"
        )
        box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
        (root / "Annotations" / f"{at}.xml").write_text(
            f"<annotation><size><width>32</width><height>32</height></size><object><name>{name}</name>{box}</object></annotation>"
        )
    for split, numbers in (("trainval", range(8)), ("test", range(8, 12))):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{at}\n" for at in numbers))
    found = load_detection(f"voc:{root}", cache=tmp_path / "cache")
    assert found.train.classes == ("Cell", NFC, "cell")
    assert any("nearly agree" in note and "'Cell' (3 objects) and 'cell' (3 objects)" in note for note in found.notes)
