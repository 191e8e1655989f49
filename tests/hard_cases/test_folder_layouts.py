"""Folders as people have them: what is read as a split, what as a class, what is left out, and when it is refused."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_bench.data import load
from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet
from ssl_bench.data.sources.catalogue import open_source
from ssl_bench.data.sources.split_names import role_of
from ssl_bench.errors import DataError, SpecError
from ssl_bench.spec.data import DataSpec, SourceSpec
from ssl_bench.spec.model import parse


def grow(root: Path, tree: Mapping[str, int]) -> Path:
    """Writes ``count`` different images into each folder; "" is the root.
    A name with an extension of no image is one file of it."""
    random = np.random.default_rng(len(tree))
    for folder, count in tree.items():
        if "." in Path(folder).name:
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            (root / folder).write_bytes(b"x" * count)
            continue
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            stream = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(stream, "PNG", compress_level=0)
            (root / folder / f"{number}.png").write_bytes(stream.getvalue())
    return root


def read(root: Path, layout: Any = "auto") -> RawSet:
    return open_source(SourceSpec(source=f"folder:{root}", layout=layout), Places(root.parent / "cache", size=8))


def counts(source: RawSet) -> dict[str, Any]:
    """Images a class of every split; their number where it has no labels."""
    return {
        name: len(split) if split.labels is None else dict(Counter(source.classes[label] for label in split.labels))
        for name, split in source.splits.items()
    }


@pytest.mark.parametrize(
    ("name", "split", "rest"),
    [
        ("train", "train", ()),
        ("TRAIN", "train", ()),
        ("Training", "train", ()),
        ("train2017", "train", ()),
        ("2017_train", "train", ()),
        ("train_images", "train", ()),
        ("imagesTr", "train", ()),
        ("TrainSet", "train", ()),
        ("trainset", "train", ()),
        ("trainval", "train", ()),
        ("train_val", "train", ()),
        ("images-val", "validation", ()),
        ("Valid", "validation", ()),
        ("dev", "validation", ()),
        ("imagesTs", "test", ()),
        ("test.1", "test", ()),
        ("01 test", "test", ()),
        ("DIV2K_train_HR", "train", ("div", "k", "hr")),
        ("seg_test", "test", ("seg",)),
        ("bullet_train", "train", ("bullet",)),
        ("testament", None, None),
        ("valley", None, None),
        ("contest", None, None),
        ("tr", None, None),
        ("train_test", None, None),
        ("2017", None, None),
        ("trainers", None, None),
        ("données_train", "train", ("données",)),
    ],
)
def test_names_of_splits(name: str, split: str | None, rest: Any) -> None:
    role = role_of(name)
    assert (None if role is None else role.split) == split and (role is None or role.rest == rest)


TWO = {"cat": 3, "dog": 2}


@pytest.mark.parametrize(
    "names",
    [
        ("train", "test"),
        ("train2017", "val2017"),
        ("train_images", "test_images"),
        ("images_train", "images_val"),
        ("Training", "Validation"),
        ("TRAIN", "dev"),
        ("seg_train", "seg_test"),
        ("chestTrain", "chestTest"),
        ("1_train", "2_test"),
        ("trainset", "testset"),
        ("imagesTr", "imagesTs"),
        ("front_train", "back_test"),
    ],
)
def test_folders_that_hold_the_same_classes_are_splits(tmp_path: Path, names: tuple[str, str]) -> None:
    root = grow(tmp_path / "set", {f"{name}/{label}": count for name in names for label, count in TWO.items()})
    found = counts(read(root))
    assert len(found) == 2 and list(found.values()) == [TWO, TWO] and "train" in found


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"bus": 2, "car": 2, "train": 2}, {"train": {"bus": 2, "car": 2, "train": 2}}),
        ({"bullet_train": 2, "test_tube": 2}, {"train": {"bullet_train": 2, "test_tube": 2}}),
        (
            {"freight_train/day": 2, "test_tube/day": 1, "x/day": 1},
            {"train": {"freight_train": 2, "test_tube": 1, "x": 1}},
        ),
        ({"valid": 2, "invalid": 2}, {"train": {"valid": 2, "invalid": 2}}),
        ({"test": 2, "tree": 2}, {"train": {"test": 2, "tree": 2}}),
        (
            {"dataset/train/a": 2, "dataset/train/b": 2, "dataset/test/a": 1, "dataset/test/b": 1},
            {"train": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}},
        ),
        ({"in/here/a": 2, "in/here/b": 1}, {"train": {"a": 2, "b": 1}}),
        ({"train/train/a": 2, "train/train/b": 1, "test/test/a": 1}, {"train": {"a": 2, "b": 1}, "test": {"a": 1}}),
        ({"train": 3, "test": 2}, {"train": 3, "test": 2}),
        ({"train2017": 3, "val2017": 2, "annotations/a.json": 9}, {"train": 3, "validation": 2}),
        ({"train/a": 2, "train/b": 2, "test": 3}, {"train": {"a": 2, "b": 2}, "test": 3}),
        ({"train/a": 2, "train/b": 2, "test": 3, "sample": 1}, {"train": {"a": 2, "b": 2}, "test": 3}),
        ({"train/n1/images": 2, "train/n2/images": 2, "val/images": 2}, {"train": {"n1": 2, "n2": 2}, "validation": 2}),
        ({"a/train": 2, "b/train": 3, "a/test": 1, "b/test": 1}, {"train": {"a": 2, "b": 3}, "test": {"a": 1, "b": 1}}),
        ({"a/Train": 2, "b/Train": 3, "a/valid": 1}, {"train": {"a": 2, "b": 3}, "validation": {"a": 1}}),
        (
            {"images/train": 3, "images/val": 2, "labels/train/0.txt": 5, "labels/val/0.txt": 5},
            {"train": 3, "validation": 2},
        ),
        ({"train/images": 3, "train/labels/0.txt": 5, "valid/images": 2}, {"train": 3, "validation": 2}),
        ({"images": 3, "masks": 3}, {"train": 3}),
        ({"train/images": 3, "train/masks": 3, "test/images": 2}, {"train": 3, "test": 2}),
        ({"imagesTr": 3, "imagesTs": 2, "labelsTr": 3}, {"train": 3, "test": 2}),
        ({"sick/images": 2, "sick/masks": 2, "well/images": 1, "well/masks": 1}, {"train": {"sick": 2, "well": 1}}),
        ({"2019/01": 1, "2020/02/03": 2, "2021": 1}, {"train": {"2019": 1, "2020": 2, "2021": 1}}),
        ({"": 3, "a/b/c": 2, "d": 1}, {"train": 6}),
        ({"only": 3}, {"train": 3}),
        ({"train": 4}, {"train": 4}),
        ({"train/a": 4, "train/b": 1}, {"train": {"a": 4, "b": 1}}),
    ],
)
def test_what_a_folder_is_read_as(tmp_path: Path, tree: dict[str, int], expected: dict[str, Any]) -> None:
    source = read(grow(tmp_path / "set", tree))
    assert counts(source) == expected
    unused = sum(count for folder, count in tree.items() if "." not in folder) - sum(
        len(split) for split in source.splits.values()
    )
    told = sum(
        int(count) for note in source.notes if "not used" in note for count in re.findall(r"\((\d+) image", note)
    )
    assert told == unused, "what is not used is told by name and count"


@pytest.mark.parametrize(
    ("tree", "layouts"),
    [
        ({"train": 2, "extra": 2}, {"splits": {"train": 2}, "classes": {"train": {"train": 2, "extra": 2}}}),
        (
            {"train/a": 2, "train/b": 2, "extra/a": 2},
            {"splits": {"train": {"a": 2, "b": 2}}, "classes": {"train": {"train": 4, "extra": 2}}},
        ),
        (
            {"a": 2, "b": 2, "train": 2, "test": 2},
            {"splits": {"train": 2, "test": 2}, "classes": {"train": dict.fromkeys(("a", "b", "train", "test"), 2)}},
        ),
        ({"a": 2, "b": 2, "test/a": 1, "test/b": 1}, {"classes": {"train": {"a": 2, "b": 2, "test": 2}}}),
        ({"a": 2, "b": 2, "test_images": 3}, {"classes": {"train": {"a": 2, "b": 2, "test_images": 3}}}),
        ({"a": 2, "b": 2, "val": 3}, {"classes": {"train": {"a": 2, "b": 2, "val": 3}}}),
        ({"train_1/a": 2, "train_2/b": 1, "test/a": 1}, {"splits": {"train": {"a": 2, "b": 1}, "test": {"a": 1}}}),
        ({"Train/a": 1, "train/a": 2, "test/a": 1}, {"splits": {"train": {"a": 3}, "test": {"a": 1}}}),
        ({"trainA": 2, "trainB": 2, "testA": 1, "testB": 1}, {"splits": {"train": 4, "test": 2}, "flat": {"train": 6}}),
        (
            {"train_day": 2, "train_night": 2, "test": 1},
            {"splits": {"train": 4, "test": 1}, "classes": {"train": {"train_day": 2, "train_night": 2, "test": 1}}},
        ),
        (
            {"cat": 2, "dog": 2, "cat_test": 1, "dog_test": 1},
            {"classes": {"train": {"cat": 2, "dog": 2, "cat_test": 1, "dog_test": 1}}},
        ),
        ({"cat_train": 2, "dog_train": 2, "cat_test": 1, "dog_test": 1}, {"splits": {"train": 4, "test": 2}}),
        (
            {"indoor/train/a": 1, "indoor/test/a": 1, "outdoor": 2},
            {"classes": {"train": {"indoor": 2, "outdoor": 2}}, "flat": {"train": 4}},
        ),
        (
            {"x/train/a": 1, "x/train/b": 1, "x/test/a": 1, "y/train/a": 1, "y/train/b": 1},
            {"classes": {"train": {"x": 3, "y": 2}}},
        ),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_and_the_setting_decides(
    tmp_path: Path,
    tree: dict[str, int],
    layouts: dict[str, dict[str, Any]],
) -> None:
    root = grow(tmp_path / "set", tree)
    with pytest.raises(DataError, match="layout: ") as caught:
        read(root)
    for layout, expected in ({"flat": {"train": sum(tree.values())}} | layouts).items():
        assert counts(read(root, layout)) == expected, layout
        assert f"layout: {layout}" in str(caught.value), "what is advised works, and what works is advised"
    assert "layout: splits" not in str(caught.value) or counts(read(root, "splits"))


def test_folders_that_all_hold_the_same_folders_are_judged_by_neither_in_silence(tmp_path: Path) -> None:
    root = grow(tmp_path / "set", {f"fold{fold}/{label}": 6 for fold in (1, 2, 3) for label in "ab"})

    def judged(layout: str) -> Any:
        return load(
            parse(DataSpec, {"source": f"folder:{root}", "test": 0.25, "layout": layout}, "data"),
            cache=tmp_path / "cache",
        )

    with pytest.raises(
        DataError,
        match=r"each of its 3 folders \(fold1/, fold2/, fold3/\) holds the same folders \(a/, b/\).*`layout: classes`",
    ):
        judged("auto")
    assert judged("classes").evaluate[0].train.classes == ("fold1", "fold2", "fold3")
    assert (
        len(
            load(
                parse(DataSpec, {"pretrain": f"folder:{root}", "evaluate": []}, "data"), cache=tmp_path / "cache"
            ).pretrain
        )
        == 36
    )


def test_nothing_beside_the_splits_is_left_out_in_silence(tmp_path: Path) -> None:
    tree = {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1, "extra/deep": 7, "more": 3, "": 2, "empty/x.txt": 1}
    source = read(grow(tmp_path / "set", tree))
    assert counts(source) == {"train": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}}
    assert "set: not used: 2 images directly in set/, extra/ (7 images), more/ (3 images)" in source.notes
    assert "set: 1 folders without an image are not used: empty/ (.txt 1)" in source.notes


def test_a_long_list_is_cut_and_counted(tmp_path: Path) -> None:
    tree = {"train/a": 1, "train/b": 1, "test/a": 1} | {f"other{number}": 1 for number in range(30)}
    (note,) = [note for note in read(grow(tmp_path / "set", tree)).notes if "not used" in note]
    assert "and 25 more" in note and len(note) < 250


def test_files_beside_class_folders_are_named_as_the_reason(tmp_path: Path) -> None:
    root = grow(tmp_path / "set", {"a": 20, "b": 20, "": 1})

    def judged(layout: str) -> Any:
        spec = {"source": f"folder:{root}", "test": 0.25, "layout": layout}
        return load(parse(DataSpec, spec, "data"), cache=tmp_path / "cache")

    with pytest.raises(DataError, match=r"no labels: 1 image \(0\.png\) beside its 2 folders.*`layout: classes`"):
        judged("auto")
    data = judged("classes")
    assert len(data.evaluate[0].test) == 10 and any("1 image directly in set/" in note for note in data.notes)
    assert (
        len(
            load(
                parse(DataSpec, {"pretrain": f"folder:{root}", "evaluate": []}, "data"), cache=tmp_path / "cache"
            ).pretrain
        )
        == 41
    )
    grow(tmp_path / "two", {"train/a": 4, "train/b": 4, "train": 1, "test/a": 1, "test/b": 1})
    assert counts(read(tmp_path / "two"))["train"] == 9
    assert counts(read(tmp_path / "two", "splits")) == {"train": {"a": 4, "b": 4}, "test": {"a": 1, "b": 1}}


def test_a_test_split_without_labels_says_what_can_be_done(tmp_path: Path) -> None:
    root = grow(tmp_path / "set", {"train/a": 20, "train/b": 20, "test": 5})
    with pytest.raises(
        DataError, match="test images have no labels: test/ holds no class folders.*its folder alone with `test: 0.2`"
    ):
        load(parse(DataSpec, f"folder:{root}", "data"), cache=tmp_path / "cache")
    data = load(parse(DataSpec, {"source": f"folder:{root / 'train'}", "test": 0.2}, "data"), cache=tmp_path / "cache")
    assert len(data.evaluate[0].test) == 8


def test_an_empty_split_and_layouts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    root = grow(tmp_path / "set", {"test/a": 1, "test/b": 1, "train/a.heic": 3})
    with pytest.raises(DataError, match=r"the train folder holds no image \(\.heic 1\)"):
        read(root)
    grow(tmp_path / "plain", {"a": 1, "b": 1})
    with pytest.raises(DataError, match=r"needs a folder named like train; it has a/, b/"):
        read(tmp_path / "plain", "splits")
    grow(tmp_path / "flat", {"": 2})
    with pytest.raises(DataError, match="needs class folders"):
        read(tmp_path / "flat", "classes")
    for spec in (
        {"source": "cifar10", "layout": "flat"},
        {"source": f"folder:{root}", "labels": "x.csv", "layout": "classes"},
    ):
        with pytest.raises(DataError, match="layout: .* leave it out"):
            open_source(SourceSpec(**spec), Places(tmp_path / "cache"))
    with pytest.raises(SpecError, match="layout"):
        parse(DataSpec, {"source": f"folder:{root}", "layout": "class"}, "data")


@pytest.mark.parametrize(
    "tree",
    [
        {
            "fold1/cat": 6,
            "fold1/dog": 6,
            "fold2/cat": 6,
            "fold2/dog": 6,
            "fold2/cow": 6,
            "fold3/cat": 6,
            "fold3/cow": 6,
        },
        {
            f"{split}/{site}/{label}": 6
            for split in ("train", "test")
            for site in ("day", "night")
            for label in ("cat", "dog")
        },
    ],
)
def test_folds_that_lack_a_class_or_lie_in_splits_are_folds_all_the_same(tmp_path: Path, tree: dict[str, int]) -> None:
    root = grow(tmp_path / "set", tree)
    share, layout = ({"test": 0.25}, "classes") if "fold1/cat" in tree else ({}, "splits")
    with pytest.raises(DataError, match=f"same folders \\(cat/, .*set `layout: {layout}` if the outer ones are"):
        load(parse(DataSpec, {"source": f"folder:{root}"} | share, "data"), cache=tmp_path / "cache")
    data = load(
        parse(DataSpec, {"source": f"folder:{root}", "layout": layout} | share, "data"), cache=tmp_path / "cache"
    )
    assert data.evaluate[0].train.classes == tuple(sorted({Path(folder).parent.name for folder in tree}))


def test_folders_within_class_folders_are_told(tmp_path: Path) -> None:
    source = read(
        grow(tmp_path / "set", {"animal/cat": 2, "animal/dog": 2, "thing/bus": 2, "thing/car": 2, "plant": 1})
    )
    assert counts(source) == {"train": {"animal": 4, "thing": 4, "plant": 1}}
    assert (
        "set: the 4 folders within class folders are not told apart: animal/cat/, animal/dog/, thing/bus/, thing/car/"
        in source.notes
    )


def test_a_class_that_is_called_like_a_split_within_splits(tmp_path: Path) -> None:
    source = read(grow(tmp_path / "two", {"train/bus": 4, "train/train": 4, "val/train": 3}))
    assert counts(source) == {"train": {"bus": 4, "train": 4}, "validation": {"train": 3}}, (
        "what train has as a class is one"
    )
    assert "two: of the 2 class folders within the splits, train is named like a split" in source.notes
    root = grow(tmp_path / "odd", {"train/bus": 20, "train/car": 20, "val/train": 3})
    with pytest.raises(
        DataError,
        match=(
            "no labels: val/train/, the only folder in val/, "
            r"is no class of train \(bus, car\) and holds no class folders"
        ),
    ):
        load(parse(DataSpec, f"folder:{root}", "data"), cache=tmp_path / "cache")
    source = read(
        grow(tmp_path / "set", {f"train/{split}/{label}": 2 for split in ("train", "test") for label in "ab"})
    )
    assert counts(source) == {"train": {"a": 2, "b": 2}, "test": {"a": 2, "b": 2}} and any(
        "which holds splits of its own" in note for note in source.notes
    )


def test_what_would_help_is_named(tmp_path: Path) -> None:
    root = grow(tmp_path / "cased", {"train/Cat": 4, "train/dog": 4, "test/cat": 1, "test/dog": 1, "test/cow": 1})
    with pytest.raises(
        DataError,
        match=(
            "2 classes of its test split are absent from train: "
            r"'cat' \(train has 'Cat'\), 'cow'; write the names alike"
        ),
    ):
        load(parse(DataSpec, f"folder:{root}", "data"), cache=tmp_path / "cache")
    root = grow(tmp_path / "listed", {"images": 4, "meta/labels.csv": 9})
    with pytest.raises(
        DataError,
        match=(
            r"no labels: .* \(meta/labels.csv lies there; "
            r"to take labels from a table of files, set `labels: meta/labels.csv`\)"
        ),
    ):
        load(parse(DataSpec, {"source": f"folder:{root}", "test": 0.5}, "data"), cache=tmp_path / "cache")
    with pytest.raises(DataError, match=r"holds val/ but no train folder; .* such as folder:.*/alone/val,"):
        read(grow(tmp_path / "alone", {"val/a": 1, "val/b": 1}))


def test_class_folders_whose_names_begin_with_a_dot_are_left_out_with_a_note(tmp_path: Path) -> None:
    root = grow(tmp_path / "set", {"a": 2, "b": 2, "c": 2})
    (root / "c").rename(root / ".c")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("no image")
    source = read(root)
    assert counts(source) == {"train": {"a": 2, "b": 2}}
    (told,) = [note for note in source.notes if "begin with a dot" in note]
    assert told == "set: folders of images whose names begin with a dot are left out: .c/"


def test_a_refusal_says_how_the_folder_was_read(tmp_path: Path) -> None:
    root = grow(tmp_path / "set", {"train/batch1/a": 2, "train/batch1/b": 2, "test/batch1/a": 1})
    with pytest.raises(
        DataError, match=r"(?s)only one class, 'batch1'.*not told apart: train/batch1/a/, train/batch1/b/"
    ):
        load(DataSpec.model_validate({"source": f"folder:{root}", "size": 8}), cache=tmp_path / "cache")
    root = grow(tmp_path / "linked", {"train/a": 2, "train/b": 2})
    (root / "test").symlink_to(root / "train")
    with pytest.raises(DataError, match=r"(?s)has no test split.*test/ is a link to a folder that is read already"):
        load(DataSpec.model_validate({"source": f"folder:{root}", "size": 8}), cache=tmp_path / "cache")
    root = grow(tmp_path / "odd", {"train/x": 2, "cats": 2})
    (root / "test").symlink_to(root / "train")
    with pytest.raises(DataError, match=r"more than one way.*\(left out: test/ is a link to a folder that is read"):
        read(root)
