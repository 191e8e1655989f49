"""A csv of files and labels, as spreadsheets, pandas, Kaggle and other systems write it."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet
from ssl_bench.data.sources.catalogue import open_source
from ssl_bench.errors import DataError
from ssl_bench.spec.data import SourceSpec

ROWS = [("a/0.png", "cat"), ("a/1.png", "dog"), ("b/3.png", "cat"), ("b/4.png", "dog")]
USUAL = {"0.png": "cat", "1.png": "dog", "3.png": "cat", "4.png": "dog"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images of 8 px: a/0.png, a/1.png, a/2.png, b/3.png, b/4.png, b/5.png."""
    for at in range(6):
        path = tmp_path / "photos" / "aaabbb"[at] / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 40 * at, np.uint8)).save(path)
    return tmp_path / "photos"


def find(folder: Path, text: str | bytes, **more: Any) -> RawSet:
    table = folder.parent / "labels.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(
        SourceSpec(source=f"folder:{folder}", labels=str(table), **more), Places(folder.parent / "cache", None, 8)
    )


def labels(source: RawSet, split: str = "train") -> dict[str, str]:
    """File name to class name."""
    part = source.splits[split]
    assert part.labels is not None
    return {Path(part.reader.where(at)).name: source.classes[int(label)] for at, label in enumerate(part.labels)}


def lines(rows: Any) -> str:
    return "".join(",".join(row) + "\n" for row in rows)


def table(**columns: list[str]) -> str:
    return lines([tuple(columns), *zip(*columns.values(), strict=True)])


# ---- how it is written
# -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text,
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", "|"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\n".join(",".join(f'"{field}"' for field in line.split(",")) for line in text.splitlines()),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: ("\ufeff" + text).encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace(",", " , "),
        lambda text: text.replace("a/", "a\\").replace("b/", ".\\b\\"),
        lambda text: text.replace(".png", ""),
        lambda text: text.replace(".png", ".PNG"),
        lambda text: text.replace("file,label", "Image_Path,Class"),
        lambda text: text.replace("file,label", "filename,target"),
        lambda text: "sep=;\r\n" + text.replace(",", ";"),
    ],
    ids=[
        "plain",
        "semicolons",
        "tabs",
        "bars",
        "crlf",
        "cr",
        "quotes",
        "blank lines",
        "bom",
        "utf-16",
        "spaces",
        "windows",
        "bare",
        "case",
        "names",
        "target",
        "excel",
    ],
)
def test_the_same_table_in_other_writings(photos: Path, write: Any) -> None:
    assert labels(find(photos, write(lines([("file", "label"), *ROWS])))) == USUAL


def test_absolute_paths_and_accents_of_either_form(photos: Path) -> None:
    (photos / "a" / "0.png").rename(photos / "a" / unicodedata.normalize("NFD", "café.png"))
    text = lines(
        [("file", "label"), ("a/" + unicodedata.normalize("NFC", "café.png"), "x"), (str(photos / "b" / "3.png"), "y")]
    )
    assert sorted(labels(find(photos, text)).values()) == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,label\na/0.png,cat,7\na/1.png,dog\n",
            "1 lines have another number of fields than the first line, which has 2: 2; a value with ',' in it",
        ),
        ("file,label\na/0.png\n", "1 lines have another number of fields"),
        ('file,label\n"a/0.png,cat\na/1.png,dog\n', "not a csv in UTF-8"),
        ("file,label,label\na/0.png,cat,dog\n", "2 columns called 'label'"),
        ("a/0.png,cat\na/1.png,dog\n", "begins with a file, 'a/0.png', and not with the names of its columns"),
        ("file,label\n0.png,cat\n", "names 1 files that do not exist below .*: 0.png; 'a/0.png' is there"),
        (
            "file,label\na/0.png,cat\n/else/where/1.png,dog\n",
            "1 files that do not exist below .*: /else/where/1.png; 'a/1.png' is there",
        ),
        ("file,label\na/0.png,cat\na/1.png,nan\nb/3.png,  \n", "empty fields in 2 lines: 3, 4"),
        (
            "file,label\na/0.png,cat\na\\0.png,dog\n",
            r"lists 1 files more than once: a/0.png \(lines 2 and 3: cat and dog\)",
        ),
        ("file,label\na/0.png,c\0t\na/1.png,dog\n", "holds zero bytes: it is damaged, or in UTF-16 without the mark"),
        (
            "file,label,split\na/0.png,cat,train\na/0.png,cat,test\n",
            r"more than once: a/0.png \(lines 2 and 3: cat/train and cat/test\)",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(photos: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find(photos, text)


def test_an_ending_left_out_where_two_files_fit(photos: Path) -> None:
    Image.new("RGB", (8, 8)).save(photos / "a" / "0.bmp")
    with pytest.raises(DataError, match=r"'a/0', which may be a/0.bmp and a/0.png; write the whole name"):
        find(photos, "file,label\na/0,cat\n")
    assert labels(find(photos, "file,label\na/0.bmp,cat\na/1,dog\n")) == {"0.bmp": "cat", "1.png": "dog"}


def test_lines_that_are_there_twice_count_once_and_are_told(photos: Path) -> None:
    found = find(photos, lines([("file", "label"), *ROWS, ("./a/0.png", "cat ")]))
    assert labels(found) == USUAL
    assert "labels.csv lists 1 files more than once, with the same label each time; they are used once" in found.notes
    assert any("2 images that labels.csv does not list are not used" in note for note in found.notes)


# ---- which columns
# ---------------------------------------------------------------------------------------------------------------

FILES, KINDS = [name for name, _ in ROWS], [kind for _, kind in ROWS]


def test_the_column_of_files_is_the_one_whose_values_are_files(photos: Path) -> None:
    found = find(photos, table(id=["7", "8", "9", "10"], foto=FILES, label=KINDS, age=["3", "4", "5", "6"]))
    assert labels(found) == USUAL
    assert (
        "labels.csv: files from column 'foto', labels from 'label'; not used: 'id', 'age' (`image:` and `target:` "
        "name other columns)" in found.notes
    )
    masks = ["a/2.png", "a/2.png", "b/5.png", "b/5.png"]
    assert labels(find(photos, table(mask=masks, image=FILES, label=KINDS))) == USUAL
    left_right = table(left=FILES, right=masks, label=KINDS)
    with pytest.raises(DataError, match="several columns of files, 'left', 'right'; say which, as `image: left`"):
        find(photos, left_right)
    assert labels(find(photos, left_right, image="left")) == USUAL
    assert labels(find(photos, table(file=masks, file2=FILES, label=KINDS), image="file2")) == USUAL


def test_the_column_of_labels(photos: Path) -> None:
    size = ["big", "big", "small", "small"]
    with pytest.raises(
        DataError, match="several columns of labels, 'label', 'class', which differ; say which, as `target: label`"
    ):
        find(photos, table(file=FILES, label=size, **{"class": KINDS}))
    assert labels(find(photos, table(file=FILES, label=size, **{"class": KINDS}), target="class")) == USUAL
    assert labels(find(photos, table(file=FILES, label=KINDS, class_id=["0", "1", "0", "1"]))) == USUAL, (
        "both tell the same images apart"
    )
    with pytest.raises(DataError, match="no column 'label'; .*species.*; `target:` names the column of labels"):
        find(photos, table(file=FILES, species=KINDS))
    assert labels(find(photos, table(file=FILES, species=KINDS), target="species")) == USUAL
    with pytest.raises(DataError, match=r"has no column 'kinds' \(target: kinds\)"):
        find(photos, table(file=FILES, kind=KINDS), target="kinds")
    with pytest.raises(DataError, match="column 'label' holds measurements such as 0.5, not classes"):
        find(photos, table(file=FILES, label=["0.5", "0.25", "1", "0.5"]))


def test_a_column_of_splits(photos: Path) -> None:
    found = find(
        photos,
        table(file=FILES, label=KINDS, split=["train", "Train", "test", "extra"], group=["p", "q", "p", "r"]),
        group="group",
    )
    assert labels(found) == {"0.png": "cat", "1.png": "dog"} and labels(found, "test") == {"3.png": "cat"}
    groups = {split: part.groups for split, part in found.splits.items()}
    assert groups["train"] is not None and groups["train"].tolist() == [0, 1]
    assert groups["test"] is not None and groups["test"].tolist() == [0], "one group is one number in all splits"
    assert any("column 'split' gives the splits: train 2, test 1 rows" in note for note in found.notes)
    assert any("rows of other values in column 'split' are not used: 'extra' 1" in note for note in found.notes)
    folds = find(photos, table(file=FILES, label=KINDS, split=["0", "1", "2", "3"]))
    assert labels(folds) == USUAL
    assert any(
        "column 'split' names no train split ('0', '1', '2', '3'), so all rows are read as one split" in note
        for note in folds.notes
    )


def test_a_column_gives_the_splits_by_its_values_whatever_it_is_called(photos: Path) -> None:
    found = find(photos, table(file=FILES, label=KINDS, **{"data set": ["train", "Train", "test", "valid"]}))
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 2, "test": 1, "validation": 1}
    assert any("column 'data set' gives the splits: train 2, test 1, validation 1 rows" in note for note in found.notes)
    for values in (["train", "test", "test", "query"], ["train"] * 4, ["1", "2", "1", "2"]):
        found = find(photos, table(file=FILES, label=KINDS, fold=values))
        assert list(found.splits) == ["train"] and any("not used: 'fold'" in note for note in found.notes)
    assert labels(find(photos, table(file=FILES, label=["train", "test"] * 2))) == dict(
        zip(USUAL, ["train", "test"] * 2, strict=True)
    )


def test_columns_are_named_only_where_there_are_some(photos: Path) -> None:
    for source, setting in ((f"folder:{photos}", "image"), ("shapes", "target")):
        with pytest.raises(
            DataError, match=f"{setting}: 'x' names a column of parquet:PATH, of hf:OWNER/NAME or of a csv"
        ):
            open_source(
                SourceSpec.model_validate({"source": source, setting: "x"}), Places(photos.parent / "cache", None, 8)
            )
