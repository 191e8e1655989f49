"""From a data spec to the sets that a matrix runs on: roles, sizes, leaks, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_bench.data import Data, ImageSet, is_grey, load
from ssl_bench.data.leaks import note_repeated
from ssl_bench.errors import DataError
from ssl_bench.spec.data import DataSpec
from ssl_bench.spec.model import parse


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def get(root: Path, tmp_path: Path) -> Any:
    def get(spec: Any, **more: Any) -> Data:
        return load(parse(DataSpec, spec, "data"), data_root=root, cache=tmp_path / "cache", **more)

    return get


@pytest.fixture
def toys(root: Path, class_folders: Any) -> Path:
    class_folders(root / "toys" / "train", {"a": 40, "b": 40, "c": 20}, seed=1)
    class_folders(root / "toys" / "test", {"a": 4, "b": 4, "c": 2}, seed=2)
    return root / "toys"


def shown(images: ImageSet) -> set[bytes]:
    return {image.tobytes() for image in images.pixels[images.rows]}


def test_one_source_in_both_roles(get: Any, toys: Path) -> None:
    data = get("folder:toys")
    (labelled,) = data.evaluate
    assert data.size == 12 and labelled.name == "toys" and labelled.train.classes == ("a", "b", "c")
    assert (len(labelled.train), len(labelled.validation), len(labelled.test)) == (90, 10, 10)
    assert np.bincount(labelled.validation.labels).tolist() == [4, 4, 2]
    assert shown(data.pretrain) == shown(labelled.train) and data.pretrain.fingerprint == labelled.train.fingerprint
    assert not shown(data.pretrain) & shown(labelled.validation) and not shown(data.pretrain) & shown(labelled.test)
    assert data.pretrain.labels is not None and data.pretrain.without_labels().labels is None
    pixels = data.pretrain.pixels[data.pretrain.rows] / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)), atol=1e-9)
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)), atol=1e-9)


def test_labels_are_those_of_their_images(get: Any, toys: Path) -> None:
    from ssl_bench.data.packs.decode import decode

    (labelled,) = get("folder:toys").evaluate
    of = {decode(file, 12)[0].tobytes(): file.parent.name for file in toys.rglob("*.png")}
    for images in (labelled.train, labelled.validation, labelled.test):
        assert [of[pixels.tobytes()] for pixels in images.pixels[images.rows]] == [
            images.classes[label] for label in images.labels
        ]


def test_the_fingerprint_is_of_pixels_and_labels_not_of_paths_and_times(
    get: Any, toys: Path, encode: Any, images_of: Any
) -> None:
    import os

    def prints() -> list[str]:
        data = get("folder:toys")
        return [data.pretrain.fingerprint, data.evaluate[0].validation.fingerprint, data.evaluate[0].test.fingerprint]

    first = prints()
    assert len(set(first)) == 3
    for number, file in enumerate(sorted((toys / "train" / "a").iterdir())):
        os.utime(file, (number, number))
        file.rename(file.with_name(f"renamed{number:03d}.png"))
    assert prints() == first
    (toys / "test" / "b" / "000.png").write_bytes(encode(images_of(1, seed=9)[0]))
    changed = prints()
    assert changed[:2] == first[:2] and changed[2] != first[2]
    moved = toys / "test" / "c" / "zzz.png"
    (toys / "test" / "b" / "003.png").rename(moved)
    assert prints()[2] != changed[2]


def test_other_data_folders_caches_and_sizes_do_not_matter_or_do(
    get: Any, toys: Path, root: Path, tmp_path: Path
) -> None:
    spec = parse(DataSpec, f"folder:{toys}", "data")
    elsewhere = load(spec, cache=tmp_path / "other")
    assert elsewhere.pretrain.fingerprint == get("folder:toys").pretrain.fingerprint
    assert get({"source": "folder:toys", "size": 10}).pretrain.fingerprint != elsewhere.pretrain.fingerprint


def test_pretraining_on_one_source_and_judging_on_others(
    get: Any,
    toys: Path,
    root: Path,
    class_folders: Any,
    images_of: Any,
    encode: Any,
) -> None:
    (root / "pool" / "x").mkdir(parents=True)
    for number, image in enumerate(images_of(30, seed=5)):
        (root / "pool" / "x" / f"{number}.png").write_bytes(encode(image))
    class_folders(root / "more", {"u": 20, "v": 20}, seed=6)
    data = get({"pretrain": "folder:pool", "evaluate": ["folder:toys", {"source": "folder:more", "test": 0.25}]})
    assert (
        len(data.pretrain) == 30
        and data.pretrain.labels is None
        and [one.name for one in data.evaluate] == ["toys", "more"]
    )
    more = data.evaluate[1]
    assert (len(more.train), len(more.validation), len(more.test)) == (27, 3, 10)
    assert np.bincount(more.test.labels).tolist() == [5, 5]
    sets = [shown(images) for images in (more.train, more.validation, more.test)]
    assert len(set.union(*sets)) == 40


def test_no_judged_image_is_pretrained_on_even_from_another_folder(get: Any, toys: Path, root: Path) -> None:
    import shutil

    shutil.copytree(toys, root / "everything")
    for file in list((root / "everything").rglob("*.png")):
        file.rename(root / "everything" / f"{file.parent.parent.name}-{file.parent.name}-{file.name}")
    for emptied in ("train", "test"):
        shutil.rmtree(root / "everything" / emptied)
    data = get({"pretrain": "folder:everything", "evaluate": "folder:toys"})
    (labelled,) = data.evaluate
    assert len(data.pretrain) == 90 and shown(data.pretrain) == shown(labelled.train)
    assert any("20 images are also validation or test images" in note for note in data.notes)


def test_labelled_sets_have_names_of_their_own(
    get: Any, root: Path, images_of: Any, encode: Any, class_folders: Any
) -> None:
    (root / "d").mkdir()
    for number, image in enumerate(images_of(60)):
        (root / "d" / f"{number}.png").write_bytes(encode(image))
    for name, classes in (("kind", 2), ("price", 3)):
        lines = [f"{number}.png,{number % classes},{number}" for number in range(60)]
        (root / "d" / f"{name}.csv").write_text("\n".join(["file,label,product", *lines]))
    kind, price = ({"source": "folder:d", "labels": f"{name}.csv", "test": 0.25} for name in ("kind", "price"))

    def names(*evaluate: Any) -> list[str]:
        found = get({"pretrain": "folder:d", "evaluate": list(evaluate)}).evaluate
        assert all({part.name for part in (one.train, one.validation, one.test)} == {one.name} for one in found)
        return [one.name for one in found]

    assert names(kind) == ["d"] and names(kind, kind) == ["d"]
    assert names(kind, price) == ["d (labels kind.csv)", "d (labels price.csv)"]
    more = [{**kind, "group": "product"}, {**kind, "test": 0.5}]
    assert names(kind, *more) == [
        "d (group none, test 0.25)",
        "d (group product, test 0.25)",
        "d (group none, test 0.5)",
    ]
    class_folders(root / "other" / "d" / "train", {"a": 20, "b": 20})
    class_folders(root / "other" / "d" / "test", {"a": 4, "b": 4})
    assert names(kind, "folder:other/d") == [
        "d (folder:d, labels kind.csv, test 0.25)",
        "d (folder:other/d, labels none, test none)",
    ]


def test_groups_stay_together(get: Any, root: Path, images_of: Any, encode: Any) -> None:
    (root / "g").mkdir()
    random = np.random.default_rng(0)
    product = random.integers(0, 50, 300)
    lines = ["file,label,product"]
    for number, image in enumerate(images_of(300)):
        (root / "g" / f"{number}.png").write_bytes(encode(image))
        lines.append(f"{number}.png,{'ab'[product[number] % 2]},p{product[number]}")
    (root / "g" / "labels.csv").write_text("\n".join(lines))
    (labelled,) = get({"source": "folder:g", "labels": "labels.csv", "group": "product", "test": 0.2}).evaluate
    groups = [set(images.columns["group"].tolist()) for images in (labelled.train, labelled.validation, labelled.test)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert 45 <= len(labelled.test) <= 75 and 15 <= len(labelled.validation) <= 33


def test_groups_across_given_splits_are_refused(get: Any, root: Path, hub: Any, images_of: Any) -> None:
    hub(root / "g", "train", images_of(20), [0, 1] * 10, extra={"who": [str(at) for at in range(20)]})
    hub(root / "g", "test", images_of(4, seed=1), [0, 1] * 2, extra={"who": ["x", "y", "3", "z"]})
    with pytest.raises(DataError, match="1 groups have images both in train and in test"):
        get({"source": "parquet:g", "group": "who"})


def test_a_limit_takes_a_share_of_every_class_and_decodes_no_more(get: Any, toys: Path, tmp_path: Path) -> None:
    data = get({"source": "folder:toys", "limit": {"train": 30, "test": 5}})
    (labelled,) = data.evaluate
    assert (len(labelled.train), len(labelled.validation), len(labelled.test)) == (27, 3, 5)
    assert len(labelled.train.pixels) == 30, "a small part of a large set is not worth decoding all of it"
    assert (np.bincount(np.concatenate([labelled.train.labels, labelled.validation.labels])) == [12, 12, 6]).all()
    get("folder:toys")
    again = get({"source": "folder:toys", "limit": {"train": 30, "test": 5}})
    assert len(again.pretrain.pixels) == 100 and again.pretrain.fingerprint == data.pretrain.fingerprint
    assert again.evaluate[0].test.fingerprint == labelled.test.fingerprint
    assert len(get({"source": "folder:toys", "limit": 1000}).pretrain) == 90
    with pytest.raises(DataError, match=r"limit must be at least 3, the number of classes, got 2: class .*'c'"):
        get({"source": "folder:toys", "limit": 2})


def test_validation_and_test_splits_of_the_source(get: Any, root: Path, hub: Any, images_of: Any) -> None:
    for split, seed in (("train", 0), ("validation", 1), ("test", 2)):
        hub(root / "three", split, images_of(20, seed=seed), [0, 1] * 10)
    data = get("parquet:three")
    assert shown(data.evaluate[0].test) == {image.tobytes() for image in images_of(20, seed=2)}
    assert any("its validation split (20 images) is not used" in note for note in data.notes)
    for split, seed in (("train", 0), ("validation", 1)):
        hub(root / "two", split, images_of(20, seed=seed), [0, 1] * 10)
    data = get("parquet:two")
    assert shown(data.evaluate[0].test) == {image.tobytes() for image in images_of(20, seed=1)}
    assert any("its validation split is the test split here" in note for note in data.notes)


@pytest.mark.parametrize("labels", [[-1] * 8, None])
def test_a_test_split_without_labels_gives_way_to_validation(
    get: Any, root: Path, hub: Any, images_of: Any, labels: Any
) -> None:
    hub(root / "net", "train", images_of(20), [0, 1] * 10, ["a", "b"])
    hub(root / "net", "validation", images_of(6, seed=1), [0, 1] * 3, ["a", "b"])
    hub(root / "net", "test", images_of(8, seed=2), labels, ["a", "b"] if labels else None)
    data = get("parquet:net")
    assert shown(data.evaluate[0].test) == {image.tobytes() for image in images_of(6, seed=1)}
    assert [note for note in data.notes if "split" in note] == [
        "net: the images of its test split have no labels; its validation split is the test split here"
    ]


def test_training_images_that_are_judged_too_are_told(get: Any, toys: Path) -> None:
    import shutil

    assert not any("pixel for pixel" in note for note in get("folder:toys").notes)
    for number in range(3):
        shutil.copy(toys / "test" / "a" / f"{number:03d}.png", toys / "train" / "a" / f"again{number}.png")
    data = get("folder:toys")
    (labelled,) = data.evaluate
    repeated = sum(image.tobytes() in shown(labelled.test) for image in labelled.train.pixels[labelled.train.rows])
    held_out = sum(
        image.tobytes() in shown(labelled.test) for image in labelled.validation.pixels[labelled.validation.rows]
    )
    assert repeated and repeated + held_out == 3  # the copies are either trained on or held out
    told = [f"{repeated} of train in test"] + [f"{held_out} of validation in test"] * bool(held_out)
    assert f"toys: images that are in two splits, pixel for pixel: {', '.join(told)}" in data.notes


def test_images_that_are_in_two_splits_are_counted_split_by_split() -> None:
    def told(train: str, validation: str, test: str) -> list[str]:
        notes: list[str] = []
        splits = {"train": train, "validation": validation, "test": test}
        note_repeated(
            "toys",
            {split: np.array([[ord(letter)] * 16 for letter in found], np.uint8) for split, found in splits.items()},
            notes,
        )
        return [note.removeprefix("toys: images that are in two splits, pixel for pixel: ") for note in notes]

    assert told("abc", "de", "fg") == []
    assert told("aabc", "ae", "fg") == ["2 of train in validation, none in test"]
    assert told("abc", "de", "fdb") == ["1 of train in test, 1 of validation in test"]
    assert told("abc", "cb", "b") == ["2 of train in validation, 1 of train in test, 1 of validation in test"]


def test_what_cannot_be_judged_is_refused_before_decoding(
    get: Any,
    root: Path,
    class_folders: Any,
    hub: Any,
    images_of: Any,
    tmp_path: Path,
) -> None:
    def refuse(spec: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            get(spec)

    class_folders(root / "plain", {"a": 9, "b": 9})
    refuse("folder:plain", r"plain has no test split; .*`test: 0.2`")
    class_folders(root / "one" / "train", {"only": 9})
    class_folders(root / "one" / "test", {"only": 2})
    refuse("folder:one", "only one class, 'only'")
    class_folders(root / "new" / "train", {"a": 9, "b": 9})
    class_folders(root / "new" / "test", {"a": 2, "x<y": 2})
    refuse("folder:new", "1 classes of its test split are absent from train: 'x<y'")
    hub(root / "bare", "train", images_of(9))
    hub(root / "bare", "test", images_of(9))
    refuse("parquet:bare", "the train images have no labels")
    hub(root / "holes", "train", images_of(20), [0, 1] * 10)
    hub(root / "holes", "test", images_of(4), [0, 1, -1, 0])
    refuse("parquet:holes", "1 of 4 test images have no label")
    hub(root / "full", "train", images_of(20), [0, 1] * 10)
    hub(root / "full", "test", images_of(4), [0, 1, 1, 0])
    refuse({"source": "parquet:full", "test": 0.2}, "has a test split of its own; leave `test: 0.2` out")
    refuse({"pretrain": {"source": "folder:plain", "test": 0.2}, "evaluate": "parquet:full"}, "only pretrained on")
    class_folders(root / "few" / "train", {"a": 1, "b": 1})
    class_folders(root / "few" / "test", {"a": 1, "b": 1})
    refuse("folder:few", "too few to hold any back")
    class_folders(root / "wide" / "train", {"a": 9, "b": 9}, size=16)
    refuse({"pretrain": "folder:wide", "evaluate": "parquet:full"}, "sources differ in image size .*16 px.*give `size`")
    assert not (tmp_path / "cache" / "packs").exists()


def test_sizes_that_differ_need_one_given(get: Any, toys: Path, encode: Any, images_of: Any) -> None:
    (toys / "train" / "a" / "000.png").write_bytes(encode(images_of(1, 30)[0]))
    with pytest.raises(DataError, match="images of toys differ in size; the most common is 12x12; give `size`"):
        get("folder:toys")
    assert get({"source": "folder:toys", "size": 9}).size == 9
    for file in toys.rglob("*.png"):
        file.write_bytes(encode(images_of(1, 20)[0][:10]))
    with pytest.raises(DataError, match="20x10, not square"):
        get("folder:toys")


def test_names_without_images_are_left_out(get: Any, root: Path, hub: Any, images_of: Any) -> None:
    hub(root / "part", "train", images_of(20), [1, 3] * 10, ["w", "x", "y", "z"])
    hub(root / "part", "test", images_of(4, seed=1), [3, 3, 1, 1], ["w", "x", "y", "z"])
    data = get("parquet:part")
    (labelled,) = data.evaluate
    assert labelled.train.classes == ("x", "z") and labelled.test.labels.tolist() == [1, 1, 0, 0]
    assert any("2 of 4 class names have no image" in note for note in data.notes)


def test_unreadable_images_of_all_splits_are_listed_or_left_out(get: Any, toys: Path) -> None:
    bad = [toys / "train" / "a" / "001.png", toys / "test" / "b" / "002.png"]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(bad[1].read_bytes()[:60])
    for _ in range(2):
        with pytest.raises(DataError, match=r"2 of 110 images cannot be read; .*skip_unreadable: true") as caught:
            get("folder:toys")
        assert f"{bad[0]}: empty file" in str(caught.value) and str(bad[1]) in str(caught.value)
    data = get({"source": "folder:toys", "skip_unreadable": True})
    (labelled,) = data.evaluate
    assert (
        len(labelled.train) + len(labelled.validation) == 99
        and labelled.train.skipped + labelled.validation.skipped == 1
    )
    assert len(labelled.test) == 9 and labelled.test.skipped == 1
    assert any("1 unreadable train images are left out" in note for note in data.notes)
    assert all(
        images.pixels[images.rows].any((1, 2, 3)).all()
        for images in (labelled.train, labelled.validation, labelled.test)
    )
    for file in (toys / "train" / "c").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"(?s)22 of 110 .* and 2 more, all listed in (\S+)") as caught:
        get("folder:toys")
    listing = Path(str(caught.value).rsplit(" ", 1)[1])
    assert len(listing.read_text().splitlines()) == 22
    listing.unlink()
    listing.mkdir()  # a list that cannot be written does not hide what it is of
    with pytest.raises(DataError, match=r"(?s)22 of 110 .* and 2 more$"):
        get("folder:toys")
    with pytest.raises(DataError, match="class .c. has no image left"):
        get({"source": "folder:toys", "skip_unreadable": True})


def test_progress_is_told(get: Any, toys: Path) -> None:
    told: list[tuple[str, int, int]] = []
    get("folder:toys", progress=lambda *entry: told.append(entry))
    assert {what.split(":")[0] for what, _, _ in told if what.startswith("packing")} == {
        "packing toys train",
        "packing toys test",
    }
    assert told[-1][1] == told[-1][2]


def test_grey_sets_are_told_from_coloured_ones() -> None:
    def images(pixels: np.ndarray) -> ImageSet:
        return ImageSet(pixels, np.arange(len(pixels)), None, (), "x", "")

    random = np.random.default_rng(0)
    grey = np.repeat(random.integers(0, 256, (300, 8, 8, 1), np.uint8), 3, -1)
    assert is_grey(images(grey))
    noisy = np.clip(grey.astype(int) + random.integers(-3, 4, grey.shape), 0, 255).astype(np.uint8)
    assert is_grey(images(noisy))
    mixed = grey.copy()
    mixed[::10] = random.integers(0, 256, (30, 8, 8, 3))
    assert not is_grey(images(mixed))
    assert is_grey(images(mixed).take(np.arange(1, 10)))


def test_shapes_as_a_data_set(get: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_bench.data.sources.shapes.DEFAULT_TRAIN", 200)
    monkeypatch.setattr("ssl_bench.data.sources.shapes.DEFAULT_TEST", 80)
    data = get({"source": "shapes", "size": 32})
    from ssl_bench.data.sources.shapes import render

    drawn = render("train", 32, 200)
    assert np.array_equal(data.pretrain.pixels, drawn.images) and len(data.pretrain) == 180
    assert np.array_equal(data.pretrain.columns["hue"], drawn.columns["hue"][data.pretrain.rows])
    assert data.pretrain.classes == drawn.classes
    assert get({"source": "shapes", "size": 32}).pretrain.fingerprint == data.pretrain.fingerprint


@pytest.mark.parametrize(
    ("name", "title", "size", "counts", "classes"),
    [
        ("cifar10", "CIFAR-10 (JPEG copy)", 32, (450, 50, 200), 10),
        ("parquet:tiny-imagenet-100", "tiny-imagenet-100", 64, (450, 50, 200), 100),
        ("imagenette", "Imagenette (copy imagenette-128)", 128, (450, 50, 200), 10),
    ],
)
def test_real_sets(
    shared_data: Path,
    tmp_path: Path,
    name: str,
    title: str,
    size: int,
    counts: tuple[int, ...],
    classes: int,
) -> None:
    spec = parse(DataSpec, {"source": name, "limit": {"train": 500, "test": 200}}, "data")
    data = load(spec, data_root=shared_data, cache=tmp_path)
    (labelled,) = data.evaluate
    assert labelled.name == title and data.size == size and len(labelled.train.classes) == classes
    assert (len(labelled.train), len(labelled.validation), len(labelled.test)) == counts
    assert (
        not is_grey(data.pretrain)
        and all(0.3 < value < 0.6 for value in data.mean)
        and all(0.2 < value < 0.35 for value in data.std)
    )
    assert load(spec, data_root=shared_data, cache=tmp_path).pretrain.fingerprint == data.pretrain.fingerprint
