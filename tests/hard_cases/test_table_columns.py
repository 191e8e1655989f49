"""Which columns of Parquet files hold images, labels and splits,
and what the files themselves may have gone wrong in."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ssl_bench.data import load
from ssl_bench.data.packs.decode import UnreadableImage, decode
from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet
from ssl_bench.data.sources.catalogue import open_source
from ssl_bench.errors import DataError
from ssl_bench.spec.data import DataSpec, SourceSpec
from ssl_bench.spec.model import parse

COUNT = 24
KINDS = [at % 2 for at in range(COUNT)]
IMAGE, CLASSES = {"_type": "Image"}, {"_type": "ClassLabel", "names": ["cat", "dog"]}


def pixels(at: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, at]).integers(0, 256, (8, 8, 3), np.uint8)


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def images(seed: int = 0, count: int = COUNT) -> list[dict[str, Any]]:
    return [{"bytes": png(pixels(at, seed)), "path": None} for at in range(count)]


def plain(seed: int = 0) -> list[bytes]:
    return [png(pixels(at, seed)) for at in range(COUNT)]


def write(file: Path, columns: Mapping[str, Any], features: Mapping[str, Any] | None = None, **more: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {} if features is None else {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(dict(columns)).replace_schema_metadata(metadata), file, **more)
    return file


def find(path: Path, **more: Any) -> RawSet:
    return open_source(SourceSpec(source=f"parquet:{path}", **more), Places(path.parent / "cache", None, 8))


def shown(source: RawSet, split: str = "train", at: int = 0) -> np.ndarray:
    ((item,),) = source.splits[split].reader.items([(at, at + 1)])
    return decode(item, 8)[0]


def labels(source: RawSet, split: str = "train") -> list[str | None] | None:
    found = source.splits[split].labels
    return None if found is None else [source.classes[label] if label >= 0 else None for label in found.tolist()]


WORDS = [("cat", "dog")[kind] for kind in KINDS]


# ---- columns of images
# -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "features"), [
    ({"mask": images(1), "image": images()}, {"mask": IMAGE, "image": IMAGE}),
    ({"segmentation": images(1), "photo_rgb": images()}, {"segmentation": IMAGE, "photo_rgb": IMAGE}),
    ({"conditioning_image": images(1), "image": images()}, {"conditioning_image": IMAGE, "image": IMAGE}),
    ({"depth": plain(1), "img": plain()}, None),
    ({"seg_map": images(1), "image": images()}, {"seg_map": IMAGE}),
    ({"thumbnail": images(1), "thumb2": images(2), "Image": images()}, None),
    ({"seg.png": plain(1), "jpg": plain(), "__key__": ["x"] * COUNT}, None),
    (
        {"png": plain(), "cls": KINDS, "json": [{"a": 1}] * COUNT, "__key__": ["x"] * COUNT, "__url__": ["x"] * COUNT},
        None,
    ),
    ({"embedding": [b"\x00\x01"] * COUNT, "snapshot": plain()}, None),
    ({"audio": images(1), "image": images()}, {"audio": {"_type": "Audio"}, "image": IMAGE}),
    ({"image_2": images(1), "image": images()}, {"image_2": IMAGE, "image": IMAGE}),
    ({"image": plain(1), "scan": images()}, {"scan": IMAGE}),
])  # fmt: skip
def test_the_image_and_not_its_mask(tmp_path: Path, columns: Any, features: Any) -> None:
    file = write(tmp_path / "a.parquet", columns, features)
    found = find(file)
    assert np.array_equal(shown(found), pixels(0)), "images of seed 0 are those that are meant"
    others = [name for name in columns if not name.startswith("__")]
    if len(others) > 1:
        assert any("images from column" in note and "not used: " in note and "`image:`" in note for note in found.notes)
        other = next((name for name in columns if columns[name] in (images(1), plain(1))), None)
        if other and "audio" not in columns:
            assert np.array_equal(shown(find(file, image=other)), pixels(0, 1))


def test_two_images_that_could_be_meant_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"left": images(), "right": images(1)}, {"left": IMAGE, "right": IMAGE})
    with pytest.raises(DataError, match="several columns of images, 'left', 'right'; say which, as `image: left`"):
        find(file)
    assert np.array_equal(shown(find(file, image="right")), pixels(0, 1))
    with pytest.raises(DataError, match=r"no column 'rihgt' \(image: rihgt\); did you mean 'right'"):
        find(file, image="rihgt")
    numbers = write(tmp_path / "b.parquet", {"image": images(), "label": KINDS})
    with pytest.raises(DataError, match="column 'label' holds int64, not images"):
        find(numbers, image="label")
    only = write(tmp_path / "c.parquet", {"depth": images(), "label": KINDS})
    assert np.array_equal(shown(find(only)), pixels(0)), "where there is nothing else it is what is meant"


def test_another_column_is_other_pixels_though_the_file_is_the_same(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.parquet",
        {"image": images(), "image_2": images(1), "label": KINDS},
        {"image": IMAGE, "image_2": IMAGE},
    )
    made = [
        load(parse(DataSpec, {"source": f"parquet:{file}", "test": 0.25, **more}, "data"), cache=tmp_path / "cache")
        for more in ({}, {"image": "image_2"}, {"image": "image"}, {"target": "label"})
    ]
    first, other, same, named = (data.pretrain.fingerprint for data in made)
    assert other != first == same == named, "pixels and labels decide, not how they were asked for"


# ---- columns of labels
# -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "features"), [
    ({"label": list(range(COUNT)), "kind": KINDS}, {"kind": CLASSES}),
    ({"label": [at % 3 for at in range(COUNT)], "kind": KINDS}, {"kind": CLASSES}),
    ({"label": [f"a photo, {at}" for at in range(COUNT)], "class": KINDS}, {"class": CLASSES}),
    ({"coarse_label": [0] * 12 + [1] * 12, "fine_label": KINDS}, {"coarse_label": CLASSES, "fine_label": CLASSES}),
    ({"caption": WORDS, "label": KINDS}, {"label": CLASSES}),
    ({"Label": KINDS, "LABEL_ID": KINDS}, {"Label": CLASSES}),
    ({"id": list(range(COUNT)), "label": WORDS}, None),
    ({"label": list(range(COUNT)), "category": WORDS}, None),
    ({"label": [None] * COUNT, "category": WORDS}, None),
    ({"labels": [[kind] for kind in KINDS], "category": WORDS}, None),
    ({"label": WORDS, "class_id": KINDS}, None),
    ({"cls": [word.encode() for word in WORDS]}, None),
    ({"txt": ["a"] * COUNT, "label.cls": WORDS}, None),
    ({"label": pa.array(WORDS).dictionary_encode()}, None),
])  # fmt: skip
def test_the_classes_and_not_a_number_or_a_text(tmp_path: Path, columns: Any, features: Any) -> None:
    found = find(write(tmp_path / "a.parquet", {"image": images(), **columns}, {"image": IMAGE, **(features or {})}))
    assert labels(found) == WORDS
    if len(columns) > 1:
        assert any("labels from '" in note and "not used: " in note and "`target:`" in note for note in found.notes)


@pytest.mark.parametrize(("columns", "features", "message"), [
    (
        {"label": KINDS, "class": [0] * 12 + [1] * 12}, None,
        "several columns of labels, 'label', 'class', which differ; say which, as `target: label`",
    ),
    (
        {"age": KINDS, "race": [0] * 12 + [1] * 12}, {"age": CLASSES, "race": CLASSES},
        "several columns of labels, 'age', 'race', which differ",
    ),
    ({"label": [0.5, 0.25] * 12}, None, "column 'label' holds measurements such as 0.5, not classes"),
    ({"label": [[0, 1]] * COUNT}, None, "column 'label' holds several labels an image .*, and every image needs one"),
    ({"label": list(range(COUNT))}, None, "column 'label' has 24 different values in 24 rows, which are no classes"),
    ({"label": [{"a": 1}] * COUNT}, None, "column 'label' holds struct.*, not labels"),
    ({"species": WORDS}, None, "its columns: image, species; `target:` names the one with labels"),
])  # fmt: skip
def test_what_is_no_label_is_refused_where_labels_are_needed(
    tmp_path: Path, columns: Any, features: Any, message: str
) -> None:
    file = write(tmp_path / "a.parquet", {"image": images(), **columns}, {"image": IMAGE, **(features or {})})
    with pytest.raises(DataError, match=message):
        load(parse(DataSpec, {"source": f"parquet:{file}", "test": 0.25}, "data"), cache=tmp_path / "cache")
    alone = load(parse(DataSpec, {"pretrain": f"parquet:{file}", "evaluate": []}, "data"), cache=tmp_path / "cache")
    assert len(alone.pretrain) == COUNT and alone.pretrain.labels is None, "images without labels can be pretrained on"


def test_the_column_asked_for(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.parquet", {"image": images(), "label": [0] * 12 + [1] * 12, "kind": WORDS, "share": [0.5] * COUNT}
    )
    assert labels(find(file, target="kind")) == WORDS
    with pytest.raises(DataError, match="column 'share' holds measurements"):
        find(file, target="share")
    with pytest.raises(DataError, match=r"no column 'knid' \(target: knid\); did you mean 'kind'"):
        find(file, target="knid")


def test_numbers_without_names(tmp_path: Path) -> None:
    """pandas makes floats of integers where some are missing; ids of a category may be large."""
    holes = find(write(tmp_path / "a.parquet", {"image": images(), "label": [1.0, None, float("nan"), 3.0] * 6}))
    assert labels(holes) == ["1", None, None, "3"] * 6
    large = find(write(tmp_path / "b.parquet", {"image": images(), "label": [10**12, 7] * 12}))
    assert large.classes == ("7", str(10**12))
    truth = find(write(tmp_path / "c.parquet", {"image": images(), "label": [True, False] * 12}))
    assert labels(truth) == ["true", "false"] * 12
    signs = find(write(tmp_path / "d.parquet", {"image": images(), "label": [1, -1] * 12}))
    assert labels(signs) == ["1", "-1"] * 12
    rest = find(write(tmp_path / "e.parquet", {"image": images(), "label": [0, -1, 1] * 8}))
    assert labels(rest) == ["0", None, "1"] * 8


def test_class_lists_of_splits(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.parquet", {"image": images(), "label": KINDS}, {"image": IMAGE, "label": CLASSES})
    write(tmp_path / "set" / "test.parquet", {"image": images(1), "label": WORDS[::-1]})
    assert labels(find(tmp_path / "set"), "test") == WORDS[::-1], "text is looked up in the list of train"
    write(tmp_path / "set" / "test.parquet", {"image": images(1), "label": ["bird", "cat"] * 12})
    with pytest.raises(DataError, match="class lists of train .2. and test .2. differ, e.g. 'bird'"):
        find(tmp_path / "set")


# ---- a column of splits
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
def test_a_column_of_splits(tmp_path: Path, named: bool) -> None:
    said = ["train", "train", "test", "validation"] * 6
    values = [["train", "test", "validation"].index(word) for word in said] if named else said
    features = (
        {"image": IMAGE, "split": {"_type": "ClassLabel", "names": ["train", "test", "validation"]}}
        if named
        else {"image": IMAGE}
    )
    found = find(
        write(
            tmp_path / "a.parquet",
            {"image": images(), "label": [0, 1, 1, 0] * 6, "split": values},
            features,
            row_group_size=5,
        )
    )
    assert {split: len(part) for split, part in found.splits.items()} == {"train": 12, "test": 6, "validation": 6}
    assert labels(found, "test") == ["1"] * 6 and labels(found) == ["0", "1"] * 6
    assert all(np.array_equal(shown(found, "test", at), pixels(4 * at + 2)) for at in range(6))
    assert any("column 'split' gives the splits: train 12, test 6, validation 6 rows" in note for note in found.notes)


def test_a_column_of_splits_that_says_something_else(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"image": images(), "label": KINDS, "split": ["train", "unlabeled"] * 12})
    found = find(file)
    assert len(found.splits["train"]) == 12 and any("not used: 'unlabeled' 12" in note for note in found.notes)
    folds = find(write(tmp_path / "b.parquet", {"image": images(), "label": KINDS, "split": [1, 2] * 12}))
    assert len(folds.splits["train"]) == COUNT and any(
        "column 'split' names no train split ('1', '2')" in note for note in folds.notes
    )
    write(tmp_path / "set" / "train.parquet", {"image": images(), "label": KINDS, "split": ["train", "test"] * 12})
    write(tmp_path / "set" / "test.parquet", {"image": images(1), "label": KINDS, "split": ["test"] * COUNT})
    with pytest.raises(DataError, match="files of the train split have rows whose column 'split' says test"):
        find(tmp_path / "set")


# ---- how images are stored
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["paths", "struct of paths", "windows", "base64", "data", "pixels", "channels first", "absolute"]
)
def test_images_stored_in_other_ways(tmp_path: Path, kind: str) -> None:
    (tmp_path / "files").mkdir()
    for at in range(COUNT):
        (tmp_path / "files" / f"{at}.png").write_bytes(png(pixels(at)))
    paths = [f"files/{at}.png" for at in range(COUNT)]
    encoded = [base64.b64encode(data).decode() for data in plain()]
    column: Any = {
        "paths": paths, "struct of paths": [{"path": path} for path in paths],
        "windows": [path.replace("/", "\\") for path in paths],
        "absolute": [str(tmp_path / path) for path in paths], "base64": encoded,
        "data": ["data:image/png;base64," + text for text in encoded],
        "pixels": pa.array([pixels(at).tolist() for at in range(COUNT)], pa.list_(pa.list_(pa.list_(pa.uint8())))),
        "channels first": [pixels(at).transpose(2, 0, 1).tolist() for at in range(COUNT)],
    }[kind]  # fmt: skip
    found = find(write(tmp_path / "a.parquet", {"image": column, "label": KINDS}, row_group_size=7))
    assert all(np.array_equal(shown(found, at=at), pixels(at)) for at in (0, 9, 23))
    before = found.splits["train"].reader.content(Places(tmp_path / "cache"))
    (tmp_path / "files" / "3.png").write_bytes(png(pixels(99)))
    after = found.splits["train"].reader.content(Places(tmp_path / "cache"))
    assert (before != after) == (kind in ("paths", "struct of paths", "windows", "absolute")), (
        "the images' files are part of the content"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"bytes": None, "path": "gone.png"}, "the row names 'gone.png', and there is no such file below"),
        ({"bytes": None, "path": "https://a.b/c.png"}, "the row holds an address, https://a.b/c.png"),
        ({"bytes": None, "path": None}, "the row holds no image"),
        (None, "the row holds no image"),
        ({"bytes": b"", "path": "x.png"}, "empty file"),
    ],
)
def test_a_row_without_an_image_says_what_it_holds(tmp_path: Path, value: Any, message: str) -> None:
    file = write(tmp_path / "a.parquet", {"image": [*images(count=COUNT - 1), value], "label": KINDS}, {"image": IMAGE})
    with pytest.raises(UnreadableImage, match=message):
        shown(find(file), at=COUNT - 1)
    with pytest.raises(DataError, match=f"a.parquet row 23.*: {message}"):
        load(parse(DataSpec, {"source": f"parquet:{file}", "test": 0.25, "size": 8}, "data"), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[[300, 0], [0, 0]]] * 2, "its pixels must be from 0 to 255, got 0 to 300"),
        ([[[1, 2], [3]]] * 2, "its lists are not of one length"),
        ([[[[1] * 5] * 5] * 5] * 2, "its pixels are of shape 5 x 5 x 5, which has no axis of 1, 3 or 4 channels"),
    ],
)
def test_lists_that_are_no_pixels(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(UnreadableImage, match=message):
        shown(find(write(tmp_path / "a.parquet", {"pixel_values": rows, "label": [0, 1]})))


def test_columns_that_cannot_be_images_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"pixel_values": [[[0.5, 0.5]]] * 4, "label": [0, 1] * 2})
    with pytest.raises(
        DataError, match="has no image column .*its columns: pixel_values, label; if one of them holds images"
    ):
        find(file)
    with pytest.raises(DataError, match="column 'pixel_values' holds list.*double.*, not images"):
        find(file, image="pixel_values")


# ---- files
# ----------------------------------------------------------------------------------------------------------------------


def test_damaged_pages_name_file_column_and_row_group(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.parquet",
        {"image": images(), "label": WORDS},
        compression="snappy",
        row_group_size=12,
        use_dictionary=False,
    )
    meta = pq.ParquetFile(file).metadata.row_group(1)
    chunk = next(meta.column(at) for at in range(meta.num_columns) if meta.column(at).path_in_schema == "image.bytes")
    content = bytearray(file.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 60] = bytes(60)
    file.write_bytes(content)
    found = find(file)
    with pytest.raises(
        DataError, match="a.parquet: column 'image', row group 1 cannot be read: .*; the file is damaged"
    ):
        list(found.splits["train"].reader.items([(20, 21)]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as Parquet: .*0 bytes"),
        (b"PAR1" + bytes(40), "cannot be read as Parquet"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "is a Git LFS pointer in place of the file; `git lfs pull`",
        ),
    ],
)
@pytest.mark.parametrize("name", ["train.parquet", "train.pq"])
def test_files_that_are_none(tmp_path: Path, content: bytes, message: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} {message}"):
        find(tmp_path / name)


def test_files_without_rows(tmp_path: Path) -> None:
    write(
        tmp_path / "set" / "train-00000-of-00002.parquet",
        {"image": pa.array([], pa.null()), "label": pa.array([], pa.null())},
    )
    write(tmp_path / "set" / "train-00001-of-00002.parquet", {"label": KINDS, "image": images()})
    found = find(tmp_path / "set")
    assert labels(found) == [str(kind) for kind in KINDS] and np.array_equal(shown(found), pixels(0))
    assert any("1 files have no rows: train-00000-of-00002.parquet" in note for note in found.notes)
    write(tmp_path / "none" / "train.parquet", {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())})
    with pytest.raises(DataError, match="the train split has no rows"):
        find(tmp_path / "none")


def test_files_of_several_exports_and_files_that_are_missing(tmp_path: Path) -> None:
    def make(*names: str) -> Path:
        folder = tmp_path / "-".join(names)
        for name in names:
            write(folder / name, {"image": images(count=4), "label": KINDS[:4]})
        return folder

    with pytest.raises(DataError, match="1 of 2 Parquet files are missing, the first is number 00001-of-00002"):
        find(make("train-00000-of-00002.parquet"))
    with pytest.raises(DataError, match="files of several exports of one split lie together"):
        find(make("train-00000-of-00001.parquet", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"))
    with pytest.raises(DataError, match="part 0 of 1 is there more than once"):
        find(make("train-00000-of-00001-0123456789abcdef.parquet", "train-00000-of-00001-fedcba9876543210.parquet"))
    gap = find(make("train_0.parquet", "train_1.parquet", "train_3.parquet", ".train_9.parquet"))
    assert len(gap.splits["train"]) == 12 and any(
        "numbered 0 to 3, 1 are not there, the first is 2" in note for note in gap.notes
    )


def test_other_files_beside_are_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "set" / "train.parquet", {"image": images(), "label": KINDS}).parent
    for name in ("README.md", ".gitattributes", "dataset_infos.json", "more.jsonl", "a.jpg", "b.JPG"):
        (folder / name).write_text("x")
    write(folder / "large" / "train.parquet", {"image": images(), "label": KINDS})
    notes = find(folder).notes
    assert any("1 Parquet files of no known split are not used: large/train.parquet" in note for note in notes)
    assert any("other files beside the Parquet files are not read: .jpg 2, .jsonl 1" in note for note in notes)


def test_names_that_say_a_split_in_other_words_are_not_read_as_one_set(tmp_path: Path) -> None:
    def make(*names: str) -> Path:
        for at, name in enumerate(names):
            write(tmp_path / "-".join(names) / name, {"image": images(at, 4), "label": KINDS[:4]})
        return tmp_path / "-".join(names)

    for names in (
        ("birds_test.parquet", "birds_train.parquet"),
        ("birds-test-00000-of-00001.parquet",),
        ("testing_v2.parquet", "more.parquet"),
    ):
        with pytest.raises(DataError, match=f"not clear which split its Parquet files are.*{names[0]}"):
            find(make(*names))
    for names in (
        ("birds_train.parquet",),
        ("0000.parquet", "0001.parquet"),
        ("data-00000-of-00002.parquet", "data-00001-of-00002.parquet"),
    ):
        found = find(make(*names))
        assert len(found.splits["train"]) == 4 * len(names) and not found.notes
    found = find(make("a.parquet", "b.parquet"))
    assert any(
        "2 Parquet files whose names say no split are read as one set: a.parquet, b.parquet" in note
        for note in found.notes
    )
    assert len(find(make("Test.Parquet", "TRAIN.PARQUET")).splits) == 2


def test_columns_that_are_there_twice_lists_without_names_and_a_dictionary_of_images(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays(
        [pa.array(plain()), pa.array(KINDS), pa.array(WORDS)], names=["image", "label", "label"]
    )
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="twice.parquet has several columns called 'label'; give them different names"):
        find(tmp_path / "twice.parquet")
    for said in ({"num_classes": 2}, {"names": None}):
        file = write(
            tmp_path / "bare.parquet",
            {"image": plain(), "other": KINDS},
            {"image": IMAGE, "other": {"_type": "ClassLabel", **said}},
        )
        assert labels(find(file)) == [str(kind) for kind in KINDS]
    coded = write(tmp_path / "coded.parquet", {"image": pa.array(plain()).dictionary_encode(), "label": KINDS})
    assert np.array_equal(shown(find(coded), at=3), pixels(3))


def test_a_column_of_splits_is_known_by_its_values(tmp_path: Path) -> None:
    usage = ["train"] * 12 + ["Test"] * 8 + ["valid"] * 4
    for values in (usage, pa.array(usage).dictionary_encode()):
        found = find(write(tmp_path / "set.parquet", {"image": plain(), "label": KINDS, "usage": values}))
        assert {split: len(one) for split, one in found.splits.items()} == {"train": 12, "test": 8, "validation": 4}
        assert any("column 'usage' gives the splits" in note for note in found.notes)
    for values in (["train"] * 24, usage[:-1] + ["query"]):
        assert list(
            find(write(tmp_path / "set.parquet", {"image": plain(), "label": KINDS, "usage": values})).splits
        ) == ["train"]
