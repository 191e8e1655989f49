"""Images with boxes before they are decoded: what a source of them gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssl_bench.data.boxes.ragged import BoxedImage, pack_ragged
from ssl_bench.data.boxes.sets import DetectionSet
from ssl_bench.data.places import Places
from ssl_bench.data.sources.labels import near_equal
from ssl_bench.errors import DataError

SHARE = 0.2  #: of train that is held out where a split is missing


@dataclass(frozen=True)
class BoxesSpec:
    """What is asked of a source of images with boxes.

    Attributes
    ----------
    source : as written, such as "voc:PATH".
    train, validation, test : lists of the source to take; a number for validation or test is the share of train to hold
        out; None: as the source has it.
    seed : of what is held out.
    skip_faulty : leave out what cannot be used, and count it, instead of stopping.
    """

    source: str
    train: str | None = None
    validation: str | float | None = None
    test: str | float | None = None
    seed: int = 0
    skip_faulty: bool = False


@dataclass(frozen=True)
class ListedImages:
    """Images of one list, before they are decoded: labels of the objects that count (not difficult), and how to get the
    whole set."""

    counted: list[np.ndarray]
    load: Callable[[], tuple[DetectionSet, dict[int, str]]]  # and unreadable position -> path and reason


@dataclass(frozen=True)
class RawBoxes:
    """The images with boxes of a source, not decoded.

    Attributes
    ----------
    name : how tables call it.
    classes : class names.
    lists : name of a list to its images.
    chosen : for "train", "validation" and "test" the list to take, or the share of train to hold out.
    notes : what a user should know about how the source was read.
    shows : the source of images whose training split shows the same scenes as train and validation here, in other
        pixels; "" for none.
    """

    name: str
    classes: tuple[str, ...]
    lists: Mapping[str, ListedImages]
    chosen: Mapping[str, str | float]
    notes: tuple[str, ...] = ()
    shows: str = ""

    @classmethod
    def of_files(
        cls, name: str, lists: Mapping[str, Sequence[BoxedImage]], spec: BoxesSpec, places: Places
    ) -> RawBoxes:
        """Image files with their boxes, by lists named "train", and maybe "test" and "validation"; classes are the
        names of the objects.

        A fifth of train is held out for each list that is missing, or the share that ``spec`` gives.

        Raises
        ------
        DataError : no train, a list that ``spec`` names and that is not there, boxes that lead out of their image.
        """
        chosen: dict[str, str | float] = {"train": spec.train or "train"}
        for role, given in (("test", spec.test), ("validation", spec.validation)):
            chosen[role] = (role if role in lists else SHARE) if given is None else given
        for role, taken in chosen.items():
            if isinstance(taken, str) and not lists.get(taken):
                raise DataError(f"{name} has no images in a list {taken!r} ({role}); its lists: {', '.join(lists)}")
        for images in lists.values():
            for image in images:
                _refuse_boxes(name, image)
        classes = tuple(sorted({text for images in lists.values() for image in images for text in image.names}))
        taken_lists = {taken: lists[taken] for taken in chosen.values() if isinstance(taken, str)}
        objects = Counter(text for images in taken_lists.values() for image in images for text in image.names)
        notes = near_equal(name, classes, [objects[text] for text in classes], "objects")
        listed = {taken: listed_files(name, taken, images, classes, places) for taken, images in taken_lists.items()}
        return cls(name, classes, listed, chosen, tuple(notes))


def _refuse_boxes(name: str, image: BoxedImage) -> None:
    count = len(image.names)
    if np.shape(image.boxes) != (count, 4) or np.shape(image.difficult) != (count,):
        raise DataError(
            f"{name}: {image.file} has {count:,} names, boxes of shape {np.shape(image.boxes)} and difficult of shape "
            f"{np.shape(image.difficult)}; they must be [{count}, 4] and [{count}]"
        )
    low, high = image.boxes[:, :2], image.boxes[:, 2:]
    if not ((low >= 0) & (low < high) & (high <= [image.width, image.height])).all():
        raise DataError(
            f"{name}: {image.file} has a box that is empty or leads out of its {image.width}x{image.height} pixels; "
            "boxes are x1 y1 x2 y2 with 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height"
        )


def listed_files(
    title: str, split: str, images: Sequence[BoxedImage], classes: Sequence[str], places: Places
) -> ListedImages:
    """A list of image files: decoded together, with their own shapes, when they are loaded."""
    number = {name: at for at, name in enumerate(classes)}
    labels = [np.array([number[name] for name in image.names], np.int64) for image in images]

    def load() -> tuple[DetectionSet, dict[int, str]]:
        packed = pack_ragged(images, places.size, places, what=f"{title} {split}")
        shapes = np.array([image.scaled(places.size)[::-1] for image in images], np.int64)
        decoded = DetectionSet(
            title,
            split,
            packed.pixels,
            packed.offsets,
            shapes[:, 0],
            shapes[:, 1],
            [_scaled_boxes(image, shape) for image, shape in zip(images, shapes, strict=True)],
            labels,
            [image.difficult for image in images],
            tuple(classes),
            packed.hashes,
            tuple(image.file for image in images),
            packed.checked,
        )
        return decoded, {at: f"{images[at].file}: {reason}" for at, reason in packed.unreadable.items()}

    return ListedImages([known[~image.difficult] for known, image in zip(labels, images, strict=True)], load)


def _scaled_boxes(image: BoxedImage, shape: np.ndarray) -> np.ndarray:
    """The boxes float32 [n, 4] of an image once it has the height and width of ``shape``."""
    height, width = (int(side) for side in shape)
    boxes: np.ndarray = image.boxes * np.tile([width / image.width, height / image.height], 2)
    return boxes.astype(np.float32)  # also rounds away what the scale lacks in its last bits, so no box leads out
