"""Detection sets: the right boxes on the right pixels, honest splits, and everything wrong said at once."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import os
import shutil
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import voc_trees
from ssl_bench.data.boxes import ragged, raw
from ssl_bench.data.boxes import shapes as shapes_source
from ssl_bench.data.boxes import sources as detection
from ssl_bench.data.boxes.loading import load_detection
from ssl_bench.data.boxes.ragged import BoxedImage
from ssl_bench.data.boxes.sets import DetectionSet, hold_out
from ssl_bench.data.sources import shapes
from ssl_bench.data.sources.catalogue import list_sources
from ssl_bench.errors import DataError
from voc_trees import Thing, write_tree

CAT, DOG, OWL = ("cat", 3, 4, 10, 12, 0), ("dog", 1, 2, 5, 6, 0), ("owl", 7, 7, 9, 18, 0)
EMPTY: list[Thing] = []


def images(prefix: str, count: int, *things: Thing) -> dict[str, list[Thing]]:
    return {f"{prefix}{number}": list(things) for number in range(count)}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """20 training images and 4 each to validate and test on, with a cat and a dog each."""
    return write_tree(
        tmp_path / "pets",
        {split: images(split, count, CAT, DOG) for split, count in (("train", 20), ("val", 4), ("test", 4))},
    )


def load(folder: Path, cache: Path, **options: Any) -> detection.DetectionData:
    return load_detection(f"voc:{folder}", cache=cache, **options)


def stored(found: DetectionSet, folder: Path) -> list[str]:
    """Names of the images of a set, found by their pixels."""
    names = {np.asarray(Image.open(file)).tobytes(): file.stem for file in (folder / "JPEGImages").iterdir()}
    return [names[found.image(at).tobytes()] for at in range(len(found))]


@st.composite
def trees(draw: Any) -> dict[str, dict[str, list[Thing]]]:
    corner = st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 18), st.integers(1, 18))
    things = st.lists(st.tuples(st.sampled_from(["cat", "dog", "owl"]), corner, st.sampled_from([0, 0, 1])), max_size=4)

    def written(found: list[Any]) -> list[Thing]:
        return [(name, min(x, u), min(y, v), max(x, u), max(y, v), hard) for name, (x, u, y, v), hard in found]

    first = [CAT, DOG, OWL]
    splits: dict[str, dict[str, list[Thing]]] = {}
    for split in ("trainval", "test"):
        count = draw(st.integers(6, 9))
        splits[split] = {f"{split}{at}": written(draw(things)) + (first if at < 3 else []) for at in range(count)}
    return splits


@given(splits=trees())
@settings(max_examples=8)
def test_voc_by_name_equals_torchvisions_reading(splits: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    from torchvision.datasets import VOCDetection

    root = tmp_path_factory.mktemp("root")
    folder = root / "VOCdevkit" / "VOC2007"
    for split, members in splits.items():
        for name, things in members.items():
            voc_trees.write_image(folder, name, things, suffix=".jpg", format="JPEG")
        voc_trees.write_list(folder, split, list(members))
    data = load_detection("voc2007", data_root=root, cache=root / "cache", validation=0.2)
    assert data.test.name == "PASCAL VOC 2007" and data.test.split == "test"
    own: list[Any] = [
        (data.test.image(at), data.test.boxes[at], data.test.labels[at], data.test.difficult[at])
        for at in range(len(data.test))
    ]
    oracle = VOCDetection(str(root), year="2007", image_set="test")
    assert len(own) == len(oracle)
    for (pixels, boxes, labels, difficult), (image, target) in zip(own, oracle, strict=True):
        assert np.array_equal(pixels, np.asarray(image))
        things = target["annotation"]["object"]
        corners = [[float(thing["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")] for thing in things]
        assert np.array_equal(boxes, np.array(corners, np.float32).reshape(-1, 4) - np.array([1, 1, 0, 0], np.float32))
        assert [data.test.classes[label] for label in labels] == [thing["name"] for thing in things]
        assert difficult.tolist() == [thing["difficult"] == "1" for thing in things]
        assert boxes.dtype == np.float32 and labels.dtype == np.int64 and difficult.dtype == np.bool_
    # What is trained and validated on is together what torchvision calls trainval.
    whole = sorted(
        np.asarray(image).tobytes() for image, _ in VOCDetection(str(root), year="2007", image_set="trainval")
    )
    assert (
        sorted(part.image(at).tobytes() for part in (data.train, data.validation) for at in range(len(part))) == whole
    )


def test_images_and_boxes_shrink_alike(tmp_path: Path, cache: Path) -> None:
    things: list[Thing] = [("cat", 21, 11, 60, 40, 0), ("cat", 81, 1, 100, 50, 0)]
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[10:40, 20:60] = 255
    for split in ("train", "val", "test"):
        voc_trees.write_image(tmp_path / "set", split, things, Image.fromarray(pixels))
        voc_trees.write_list(tmp_path / "set", split, [split])
    data = load(tmp_path / "set", cache, size=20)
    assert data.train.image(0).shape == (20, 40, 3) and isinstance(data.train.pixels, np.memmap)
    assert np.allclose(data.train.boxes[0], [[8, 4, 24, 16], [32, 0, 40, 20]], atol=1e-5)
    white = np.argwhere(data.train.image(0)[..., 0] > 127)
    assert np.array_equal([*white.min(0), *(white.max(0) + 1)], [4, 8, 16, 24]), (
        "the white part is where the first box is"
    )
    assert load(tmp_path / "set", cache).train.image(0).shape == (50, 100, 3)


@given(width=st.integers(1, 70), height=st.integers(1, 70), size=st.integers(8, 40), data=st.data())
@settings(max_examples=100)
def test_scaled_boxes_stay_inside_and_keep_their_share(width: int, height: int, size: int, data: Any) -> None:
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    image = BoxedImage(Path("x"), width, height, np.array([[x1, y1, x2, y2]], float), ("cat",), np.zeros(1, bool))
    across, down = image.scaled(size)
    (box,) = raw._scaled_boxes(image, np.array([down, across]))
    assert 0 <= box[0] < box[2] <= across and 0 <= box[1] < box[3] <= down
    assert np.allclose(
        box / [across, down, across, down], np.array([x1, y1, x2, y2]) / [width, height, width, height], atol=1e-5
    )


def test_lists_of_the_folder_are_the_splits(tree: Path, cache: Path) -> None:
    data = load(tree, cache)
    for found, split, count in ((data.train, "train", 20), (data.validation, "val", 4), (data.test, "test", 4)):
        assert stored(found, tree) == [f"{split}{number}" for number in range(count)]
        assert found.classes == ("cat", "dog") and found.name == "pets"
    assert [part.split for part in (data.train, data.validation, data.test)] == ["train", "validation", "test"]
    assert data.notes == ["pets: train is 'train', test is 'test', validation is 'val'"]


def test_trainval_comes_before_train_and_val_is_then_held_out_of_it(tree: Path, cache: Path) -> None:
    everything = [f"{split}{number}" for split, count in (("train", 20), ("val", 4)) for number in range(count)]
    voc_trees.write_list(tree, "trainval", everything)
    data = load(tree, cache)
    assert (
        sorted(stored(data.train, tree) + stored(data.validation, tree)) == sorted(everything)
        and len(data.validation) == 5
    )
    assert data.notes == [
        "pets: train is 'trainval', test is 'test', validation is 0.2 of trainval, held out ('val' has images of train)"
    ]
    again = load(tree, cache)
    assert stored(again.validation, tree) == stored(data.validation, tree)
    assert any(
        stored(load(tree, cache, seed=seed).validation, tree) != stored(data.validation, tree) for seed in (1, 2)
    )


def test_missing_splits_are_held_out_and_said(tree: Path, cache: Path) -> None:
    for split in ("test", "val"):
        (tree / "ImageSets" / "Main" / f"{split}.txt").unlink()
    data = load(tree, cache)
    parts = [stored(part, tree) for part in (data.train, data.validation, data.test)]
    assert sorted(sum(parts, [])) == sorted(f"train{number}" for number in range(20))
    assert [len(part) for part in parts] == [13, 3, 4]
    assert data.notes == [
        "pets: train is 'train', test is 0.2 of train, held out (there is no 'test'), validation is 0.2 of the rest "
        "of train, held out "
        "(there is no 'val')"
    ]


def test_splits_may_be_chosen(tree: Path, cache: Path) -> None:
    voc_trees.write_list(tree, "first", [f"train{number}" for number in range(6)])
    data = load(tree, cache, train="first", validation="test", test="val")
    assert [stored(part, tree)[0] for part in (data.train, data.validation, data.test)] == ["train0", "test0", "val0"]
    data = load(tree, cache, test="val")
    assert len(data.validation) == 4 and set(stored(data.validation, tree)) <= {
        f"train{number}" for number in range(20)
    }
    assert "'val' has images of test" in data.notes[0]
    data = load(tree, cache, validation=0.5, test=0.25)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [7, 8, 5]
    assert not {*stored(data.train, tree)} & {*stored(data.validation, tree), *stored(data.test, tree)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "trian"}, r"has no split 'trian'.*did you mean 'train'"),
        (
            {"validation": "train"},
            r"splits that overlap: 1\).*\n  20 images are both in 'train' \(validation\) and in 'train' \(train\)",
        ),
        ({"validation": "test"}, r"4 images are both in 'test' \(validation\) and in 'test' \(test\)"),
        (
            {"validation": 1.5},
            r"validation must be a share of train, above 0 and below 1, or the name of a split, got 1\.5",
        ),
        ({"test": 0}, r"test must be a share of train.*, got 0"),
        ({"test": float("nan")}, r"test must be a share of train.*, got nan"),
        ({"size": 4}, r"size must be at least 8, got 4"),
        ({"validation": 0.01}, r"0\.01 of 20 images of 'train' cannot be held out as validation"),
    ],
)
def test_choices_that_cannot_be_are_refused(tree: Path, cache: Path, options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tree, cache, **options)


def test_unknown_sources_and_lists_are_named(tree: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"unknown detection source 'voc2008'; did you mean 'voc2007'"):
        load_detection("voc2008", cache=cache)
    with pytest.raises(DataError, match=r"unknown detection source 'voc'; write voc:PATH"):
        load_detection("voc", cache=cache)
    with pytest.raises(DataError, match=r"voc:nowhere does not exist; looked for"):
        load_detection("voc:nowhere", cache=cache)
    (tree / "ImageSets" / "Main" / "train.txt").rename(tree / "ImageSets" / "Main" / "learn.txt")
    with pytest.raises(
        DataError, match=r"has no list named 'trainval' or 'train'; name one of its own: learn, test, val"
    ):
        load(tree, cache)


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragged, "_decode", lambda one, shape: pytest.fail("decoded"))


def test_every_image_knows_its_file(tree: Path, cache: Path) -> None:
    (tree / "JPEGImages" / "train3.png").write_bytes(b"never an image")
    data = load(tree, cache, skip_faulty=True)
    for part in (data.train, data.validation, data.test, data.train.take(np.array([5, 2]))):
        assert [file.stem for file in part.files] == stored_by_files(part, tree)


def stored_by_files(found: DetectionSet, folder: Path) -> list[str]:
    readable = [file for file in (folder / "JPEGImages").iterdir() if file.read_bytes()[:4] == b"\x89PNG"]
    names = {np.asarray(Image.open(file)).tobytes(): file.stem for file in readable}
    return [names[found.image(at).tobytes()] for at in range(len(found))]


def test_everything_wrong_is_said_together_before_anything_is_decoded(tree: Path, cache: Path, undecoded: None) -> None:
    voc_trees.write_image(tree, "outside", [("cat", 30, 1, 40, 5, 0)])
    voc_trees.write_list(tree, "train", ["outside", "gone", "train0", "train0"])
    voc_trees.write_list(tree, "val", [])
    voc_trees.write_image(tree, "test0", [("dog", 9, 1, 4, 5, 0)])
    (tree / "JPEGImages" / "test1.png").unlink()
    with pytest.raises(DataError) as caught:
        load(tree, cache)
    head, *lines = str(caught.value).splitlines()
    assert head.startswith(f"pets in {tree} cannot be used as it is (") and "skip_faulty" not in head
    for kind in (
        "empty split: 1",
        "image listed twice: 1",
        "box outside its image: 1",
        "empty box: 1",
        "missing image: 2",
        "missing annotation: 1",
    ):
        assert kind in head
    text = "\n".join(lines)
    for piece in (
        "val.txt names no image",
        "'train0' more than once",
        "outside.xml",
        "gone.jpg",
        "gone.xml",
        "test0.xml",
        "test1.jpg",
    ):
        assert piece in text
    assert len(lines) == 7


def test_many_faults_are_counted_and_twenty_shown(tree: Path, cache: Path, undecoded: None) -> None:
    for number in range(20):
        (tree / "JPEGImages" / f"train{number}.png").unlink()
    for number in range(3):
        (tree / "Annotations" / f"val{number}.xml").unlink()
    with pytest.raises(DataError) as caught:
        load(tree, cache)
    head, *lines = str(caught.value).splitlines()
    assert "(missing image: 20, missing annotation: 3); mend these images or leave them out (skip_faulty):" in head
    assert len(lines) == 21 and lines[-1] == "  and 3 more"


def broken(tree: Path) -> None:
    (tree / "JPEGImages" / "train3.png").unlink()
    voc_trees.write_image(tree, "test1", [("cat", 30, 1, 40, 5, 0)])
    voc_trees.noise(30, 20).save(tree / "JPEGImages" / "whole.jpg", "JPEG")
    content = (tree / "JPEGImages" / "whole.jpg").read_bytes()
    (tree / "JPEGImages" / "whole.jpg").unlink()
    (tree / "JPEGImages" / "val2.png").write_bytes(content[:-200])
    (tree / "Annotations" / "val2.xml").write_text(voc_trees.annotation((30, 20), [CAT]))


def test_faulty_images_are_left_out_on_request_and_counted(tree: Path, cache: Path) -> None:
    broken(tree)
    data = load(tree, cache, skip_faulty=True)
    (tree / "JPEGImages" / "val2.png").unlink()
    assert stored(data.train, tree) == [f"train{number}" for number in range(20) if number != 3]
    assert stored(data.validation, tree) == ["val0", "val1", "val3"] and stored(data.test, tree) == [
        "test0",
        "test2",
        "test3",
    ]
    assert "pets: 2 of 28 images are left out, missing image: 1, box outside its image: 1" in data.notes
    assert "pets: 1 images are left out, since they cannot be decoded" in data.notes


def test_images_that_turn_out_unreadable_are_listed(tree: Path, cache: Path) -> None:
    broken(tree)
    for name in ("train3", "test1"):
        voc_trees.write_image(tree, name, [CAT, DOG])
    with pytest.raises(
        DataError,
        match=r"pets cannot be used as it is \(unreadable image: 1\).*skip_faulty\):\n  .*val2\.png: .*truncated",
    ):
        load(tree, cache)


@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_a_split_that_skipping_empties_is_refused(tree: Path, cache: Path, split: str) -> None:
    for file in (tree / "Annotations").glob(f"{split}*.xml"):
        file.unlink()
    with pytest.raises(DataError, match=f"empty split: 1.*\n  {split}: no image is left"):
        load(tree, cache, skip_faulty=True)


def test_classes_must_be_seen_in_train(tmp_path: Path, cache: Path, undecoded: None) -> None:
    splits = {
        "train": images("a", 3, CAT, DOG),
        "val": images("b", 2, CAT, ("Cat", 1, 1, 5, 5, 0)),
        "test": images("c", 3, OWL, CAT),
    }
    with pytest.raises(DataError) as caught:
        load(write_tree(tmp_path / "set", splits), cache)
    text = str(caught.value)
    assert "class unseen in train: 2" in text
    assert "'owl' has 3 objects in 'test' and none in 'train'; known are: cat, dog" in text
    assert "'Cat' has 2 objects in 'val' and none in 'train'; did you mean 'cat'?" in text


def test_a_difficult_object_is_no_example_of_its_class(tmp_path: Path, cache: Path) -> None:
    hard = ("owl", 7, 7, 9, 18, 1)
    splits = {"train": images("a", 3, CAT, hard), "val": images("b", 2, CAT), "test": images("c", 3, CAT, hard)}
    data = load(write_tree(tmp_path / "set", splits), cache)
    assert (
        data.test.classes == ("cat", "owl") and [flags.tolist() for flags in data.test.difficult] == [[False, True]] * 3
    )
    assert "set: objects marked difficult: 6 of 14" in data.notes
    voc_trees.write_image(tmp_path / "set", "c0", [CAT, OWL])
    with pytest.raises(DataError, match="'owl' has 1 objects in 'test' and none in 'train'"):
        load(tmp_path / "set", cache)


def test_oddities_are_counted(tmp_path: Path, cache: Path) -> None:
    tree = write_tree(
        tmp_path / "set",
        {
            "train": images("a", 3, CAT, ("cat", 0, 0, 9, 9, 0), ("dog", 4, 4, 4, 9, 0)),
            "val": images("b", 2, CAT),
            "test": {**images("c", 1, CAT, DOG), **images("d", 1)},
        },
    )
    (tree / "Annotations" / "a0.xml").write_text(voc_trees.annotation(None, [CAT, DOG]))
    exif = Image.Exif()
    exif[0x0112] = 6
    voc_trees.write_image(tree, "a1", [CAT, DOG], voc_trees.noise(30, 20), exif=exif)
    (tree / "Annotations" / "a1.xml").write_text(voc_trees.annotation((20, 30), [CAT, DOG]))
    data = load(tree, cache)
    assert sorted(data.notes) == sorted(
        [
            "set: train is 'train', test is 'test', validation is 'val'",
            "set: boxes that reach over the edge of their image and are clipped: 1 of 11",
            "set: boxes one pixel wide or high: 1 of 11",
            "set: images without an object: 1 of 7",
            "set: annotations without the image's size, whose boxes are taken to refer to the stored pixels: 1 of 7",
            "set: images turned as the camera noted, since their annotations give the size of the upright image: 1 "
            "of 7",
            "set: validation has no object of dog, so there is no AP for them",
        ]
    )
    assert (
        len(data.test.boxes[1]) == 0 and data.test.boxes[1].shape == (0, 4) and data.train.image(1).shape == (30, 20, 3)
    )


def test_a_split_without_objects_is_refused(tmp_path: Path, cache: Path, undecoded: None) -> None:
    splits = {"train": images("a", 3, CAT), "val": images("b", 2), "test": images("c", 3, ("cat", 1, 1, 5, 5, 1))}
    with pytest.raises(DataError) as caught:
        load(write_tree(tmp_path / "set", splits), cache)
    assert "split without objects: 2" in str(
        caught.value
    ) and "the 2 images of 'val' have no object that counts" in str(caught.value)


def test_images_in_two_splits_under_two_names_are_said(tree: Path, cache: Path) -> None:
    shutil.copy(tree / "JPEGImages" / "train3.png", tree / "JPEGImages" / "test2.png")
    assert any("in two splits, pixel for pixel: 1 of train in test" in note for note in load(tree, cache).notes)


@given(
    images=st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=5, max_size=60),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 3),
)
# half of the zeros and of the ones would be all of the twos
@example(images=[[0], [0, 2], [1], [1, 2]], share=0.5, seed=0)
@settings(max_examples=150)
def test_what_is_held_out_takes_no_class_from_train(images: list[list[int]], share: float, seed: int) -> None:
    labels = [np.array(own, np.int64) for own in images]
    kept, held = hold_out(labels, share, seed)
    assert sorted([*kept, *held]) == list(range(len(images)))
    assert np.array_equal(kept, np.sort(kept)) and np.array_equal(held, np.sort(held))
    assert {label for at in kept for label in images[at]} == {label for own in images for label in own}
    assert len(held) <= round(share * len(images))
    again = hold_out(labels, share, seed)
    assert np.array_equal(again[0], kept) and np.array_equal(again[1], held)


def test_a_rare_class_gives_its_share() -> None:
    """By chance alone, a fifth of 200 images has none of the five with an owl in one draw of three."""
    labels = [np.array([0, 0, 1] if at % 2 else [0, 1, 1], np.int64) for at in range(200)]
    for at in (3, 50, 77, 120, 199):
        labels[at] = np.append(labels[at], 2)
    for seed in range(10):
        kept, held = hold_out(labels, 0.2, seed)
        assert len(held) == 40 and sum(2 in labels[at] for at in held) == 1
    assert len({tuple(hold_out(labels, 0.2, seed)[1]) for seed in range(10)}) == 10


def test_a_set_is_seen_through_positions(tree: Path, cache: Path) -> None:
    found = load(tree, cache).train
    some = found.take(np.array([7, 2, 2]))
    assert len(some) == 3 and stored(some, tree) == ["train7", "train2", "train2"]
    assert np.shares_memory(some.image(0), found.pixels) and np.array_equal(some.boxes[0], found.boxes[7])
    assert some.labels[1] is found.labels[2] and some.difficult[2] is found.difficult[2]
    assert len(found.take(np.array([], np.int64))) == 0
    with pytest.raises(IndexError):
        found.image(20)


def test_the_fingerprint_is_over_content_and_order_alone(tree: Path, cache: Path, tmp_path: Path) -> None:
    data = load(tree, cache)
    found = data.train
    shutil.copytree(tree, tmp_path / "other")
    for file in (tmp_path / "other" / "JPEGImages").iterdir():
        os.utime(file, (1, 1))
    elsewhere = load(tmp_path / "other", tmp_path / "another cache").train
    assert elsewhere.name != found.name and elsewhere.fingerprint == found.fingerprint
    everything = np.arange(len(found))
    assert found.take(everything).fingerprint == found.fingerprint
    orders = [everything[::-1], everything[:-1], np.append(everything, 0)]
    prints = [found.fingerprint, *(found.take(order).fingerprint for order in orders)]
    boxes = [*found.boxes[:-1], found.boxes[-1] + np.float32(0.25)]
    labels = [found.labels[0][::-1], *found.labels[1:]]
    difficult = [~found.difficult[0], *found.difficult[1:]]
    hashes = found.hashes.copy()
    hashes[4, 4] ^= 1
    for change in (
        {"boxes": boxes},
        {"labels": labels},
        {"difficult": difficult},
        {"classes": ("cat", "cow")},
        {"hashes": hashes},
        {"heights": found.widths, "widths": found.heights},
    ):
        prints.append(dataclasses.replace(found, **change).fingerprint)
    assert len(set(prints)) == len(prints)
    assert data.validation.fingerprint != data.test.fingerprint


def test_the_pixels_decide_the_fingerprint(tree: Path, cache: Path) -> None:
    before = load(tree, cache)
    voc_trees.noise(24, 18, 12345).save(tree / "JPEGImages" / "train5.png")
    after = load(tree, cache)
    assert after.train.fingerprint != before.train.fingerprint and after.test.fingerprint == before.test.fingerprint


@pytest.fixture
def few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes_source, "SHAPES_IMAGES", {"train": 60, "test": 24})


def test_shapes_come_with_the_boxes_of_what_was_drawn(few_shapes: None, cache: Path) -> None:
    data = load_detection("shapes", cache=cache, size=40)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [48, 12, 24]
    assert data.test.classes == shapes.SHAPES and data.notes[0] == "shapes: 0.2 of train is held out as validation"
    scenes = shapes.compose("test", np.arange(24))
    for at in range(24):
        count = int(scenes.count[at])
        boxes, labels = data.test.boxes[at], data.test.labels[at]
        assert data.test.image(at).shape == (40, 40, 3)
        assert labels.tolist() == scenes.shape[at, :count].tolist() and not data.test.difficult[at].any()
        assert (
            boxes.shape == (count, 4) and (boxes[:, :2] < boxes[:, 2:]).all() and boxes.min() >= 0 and boxes.max() <= 40
        )
        centre, radius = (
            np.stack([scenes.x[at, :count], scenes.y[at, :count]], 1) * 40,
            scenes.radius[at, :count, None] * 40,
        )
        assert (np.abs((boxes[:, :2] + boxes[:, 2:]) / 2 - np.clip(centre, 0, 40)) <= 0.5 * radius + 1).all()
        assert (boxes[:, 2:] - boxes[:, :2] <= 2 * radius * 1.1 + 2).all() and (
            boxes[:, 2:] - boxes[:, :2] >= 0.6 * radius
        ).all()
    drawn = {image.tobytes() for image in shapes.render("train", 40, 60).images}
    assert {part.image(at).tobytes() for part in (data.train, data.validation) for at in range(len(part))} == drawn
    assert (
        load_detection("shapes", cache=cache, size=40, validation=0.5).validation.fingerprint
        != data.validation.fingerprint
    )
    assert load_detection("shapes", cache=cache).train.image(0).shape == (shapes.NATIVE_SIZE, shapes.NATIVE_SIZE, 3)


@pytest.mark.parametrize("options", [{"train": "train"}, {"test": 0.3}, {"validation": "test"}])
def test_shapes_have_their_own_splits(options: Any, cache: Path) -> None:
    with pytest.raises(DataError, match=r"shapes has its own train and test; .* cannot be chosen"):
        load_detection("shapes", cache=cache, **options)


def year(root: Path, splits: Mapping[str, Sequence[str]]) -> None:
    folder = root / "VOCdevkit" / "VOC2007"
    for split, names in splits.items():
        for name in names:
            voc_trees.write_image(folder, name, [CAT], suffix=".jpg", format="JPEG")
        voc_trees.write_list(folder, split, names)


TWO_LISTS = {"trainval": [f"a{number}" for number in range(5)], "test": ["b"]}


def test_a_known_set_is_downloaded_once_and_not_taken_half_unpacked(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets.voc

    asked: list[str] = []

    def download(url: str, root: str, filename: str, md5: str) -> None:
        asked.append(filename)
        assert Path(root) == cache / "downloads"
        if len(asked) == 2:
            year(Path(root), {"test": ["half"]})
            raise OSError("connection lost")
        year(Path(root), TWO_LISTS if "test" in filename else {"trainval": TWO_LISTS["trainval"]})

    monkeypatch.setattr(torchvision.datasets.voc, "download_and_extract_archive", download)
    monkeypatch.delenv("SSL_BENCH_DATA", raising=False)
    with pytest.raises(DataError) as caught:
        load_detection("voc2007", cache=cache)
    assert "PASCAL VOC 2007 was not found and could not be downloaded" in str(caught.value)
    assert "no data root is set" in str(caught.value) and "connection lost" in str(caught.value)
    data = load_detection("voc2007", cache=cache, data_root=tmp_path)
    assert len(data.test) == 1 and len(data.train) + len(data.validation) == 5 and len(asked) == 4
    load_detection("voc2007", cache=cache)
    assert len(asked) == 4


def test_below_the_data_root_nothing_is_downloaded(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets.voc

    monkeypatch.setattr(
        torchvision.datasets.voc, "download_and_extract_archive", lambda *a, **k: pytest.fail("downloaded")
    )
    year(tmp_path / "root" / "voc2007", TWO_LISTS)
    assert len(load_detection("voc2007", cache=cache, data_root=tmp_path / "root").test) == 1


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which its files can be downloaded (torchvision downloads nothing from file://)."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_blood_cells_are_downloaded_where_they_are_not_at_hand(
    tmp_path: Path,
    cache: Path,
    served: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSL_BENCH_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder, url = served
    inner = tmp_path / "zipped" / "BCCD_Dataset-master"
    write_tree(
        inner / "BCCD",
        {split: images(split, count, CAT, DOG) for split, count in (("train", 10), ("val", 4), ("test", 4))},
    )
    archive = Path(shutil.make_archive(str(folder / "master"), "zip", inner.parent))
    monkeypatch.setattr(detection, "_BCCD_URL", f"{url}/gone.zip")
    with pytest.raises(
        DataError,
        match=(
            r"BCCD was not found \(no data root is set.*"
            r"could not be downloaded from http.*gone\.zip.*put its folder BCCD"
        ),
    ):
        load_detection("bccd", cache=cache)
    monkeypatch.setattr(detection, "_BCCD_URL", f"{url}/master.zip")
    (cache / "downloads").mkdir(exist_ok=True)
    (cache / "downloads" / "bccd.zip").write_bytes(archive.read_bytes()[:500])  # of a download that was killed
    data = load_detection("bccd", cache=cache)
    assert data.name == "BCCD" and [len(part) for part in (data.train, data.validation, data.test)] == [10, 4, 4]
    monkeypatch.setattr(detection, "_BCCD_URL", f"{url}/gone.zip")
    assert load_detection("bccd", cache=cache).test.fingerprint == data.test.fingerprint, "once is enough"
    for name, number in (("BCCD", 5), ("bccd", 6)):
        write_tree(
            tmp_path / name / name, {split: images(split, number, CAT, DOG) for split in ("train", "val", "test")}
        )
        assert len(load_detection("bccd", cache=tmp_path / "empty", data_root=tmp_path / name).test) == number
    assert "bccd" in dict(list_sources("boxes"))


def test_blood_cells_are_those_of_the_files(shared_data: Path, cache: Path) -> None:
    folder = shared_data / "bccd"
    if not folder.is_dir():
        pytest.skip("the blood cells are not here")
    test = load_detection("voc:bccd", data_root=shared_data, cache=cache, size=48, train="train").test
    names = (folder / "ImageSets" / "Main" / "test.txt").read_text().split()
    assert len(test) == len(names) == 72 and test.classes == ("Platelets", "RBC", "WBC")
    for at, name in enumerate(names):
        root = ElementTree.parse(folder / "Annotations" / f"{name}.xml").getroot()
        corners = [
            [int(thing.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            for thing in root.iter("object")
        ]
        expected = (np.array(corners) - [1, 1, 0, 0]) / 10
        assert test.image(at).shape == (48, 64, 3) and np.allclose(test.boxes[at], expected, atol=1e-4)
        assert [test.classes[label] for label in test.labels[at]] == [
            thing.findtext("name") for thing in root.iter("object")
        ]
