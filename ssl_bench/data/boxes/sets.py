"""Images with boxes as a table's evaluators get them: decoded, split into train, validation and test, with the same
classes in each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ssl_bench.data.packs.sealed import Checked
from ssl_bench.data.splits import holdout, subsample
from ssl_bench.errors import DataError


@dataclass(frozen=True)
class DetectionSet:
    """Decoded images of different shapes with the boxes of their objects.

    Attributes
    ----------
    name, split : what a table calls the set, and which part of it this is ("train", "validation" or "test").
    pixels : uint8 [M], RGB, the pixels of all images (and maybe of others) one image after another; usually
        memory-mapped.
    offsets, heights, widths : int64 [N]; image i is ``pixels[offsets[i]:][: heights[i] * widths[i] * 3]``, rows from
        the top.
    boxes : N arrays float32 [n, 4], x1 y1 x2 y2 with 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height: edges in pixels
        of the image as it is here, so that a box around the one pixel at the top left is 0 0 1 1.
    labels : N arrays int64 [n] in 0..len(classes)-1.
    difficult : N arrays bool [n]; such objects are neither counted nor penalised when detections are scored (Everingham
        et al., 2010).
    classes : class names.
    hashes : uint8 [N, 16], of each image's pixels.
    files : the N image files; empty where the images are none.
    """

    name: str
    split: str
    pixels: np.ndarray
    offsets: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    difficult: list[np.ndarray]
    classes: tuple[str, ...]
    hashes: np.ndarray
    files: tuple[Path, ...] = ()
    checked: Checked | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    @cached_property
    def fingerprint(self) -> str:
        """Hash over pixels, boxes, labels, difficult flags and class names, in order; not over paths, times or the
        set's name."""
        digest = hashlib.sha256(json.dumps([len(self), self.classes]).encode())
        for at in range(len(self)):
            digest.update(
                np.array([self.heights[at], self.widths[at], len(self.boxes[at])], "<i8").tobytes()
                + self.hashes[at].tobytes()
            )
            digest.update(self.boxes[at].astype("<f4").tobytes() + self.labels[at].astype("<i8").tobytes())
            digest.update(self.difficult[at].astype(bool).tobytes())
        return digest.hexdigest()[:32]

    def image(self, position: int) -> np.ndarray:
        """Pixels of one image, uint8 [H, W, 3], not copied.

        Raises IndexError outside 0..N-1 (negative ones count from the end).

        Raises DataError for a damaged image that cannot be decoded again.
        """
        start, height, width = (int(values[position]) for values in (self.offsets, self.heights, self.widths))
        pixels = self.pixels[start : start + height * width * 3]
        return (pixels if self.checked is None else self.checked.hold_at(start, pixels)).reshape(height, width, 3)

    def take(self, positions: np.ndarray) -> DetectionSet:
        """The images at ``positions`` (int64, into this set) as a set of their own; pixels are shared."""
        at = np.asarray(positions, np.int64)
        return replace(
            self,
            offsets=self.offsets[at],
            heights=self.heights[at],
            widths=self.widths[at],
            hashes=self.hashes[at],
            boxes=[self.boxes[i] for i in at],
            labels=[self.labels[i] for i in at],
            difficult=[self.difficult[i] for i in at],
            files=tuple(self.files[i] for i in at) if self.files else (),
        )


@dataclass(frozen=True)
class DetectionData:
    """A detection set, split, with the same classes in every part.

    Attributes
    ----------
    name : of the set, as tables show it.
    train, validation, test : no image of one is listed in another.
    notes : what a user should know: how the splits came about, boxes that were clipped, images left out, classes
        without an object.
    shows : the source of images whose training split shows the same scenes as train and validation here, in other
        pixels; "" for none.
    """

    name: str
    train: DetectionSet
    validation: DetectionSet
    test: DetectionSet
    notes: list[str]
    shows: str = ""


def same_classes(title: str, sets: Mapping[str, DetectionSet], when: str) -> list[str]:
    """Notes on what splits lack of the classes of train.

    Raises DataError where one has no object, or a class that train lacks.
    """
    notes = []
    present = {role: _classes_of(images) for role, images in sets.items()}
    for role, images in sets.items():
        if not present[role] or not present[role] <= present["train"]:
            raise DataError(f"{title}: {when}, {role} has no object or a class that train lacks")
        if absent := [images.classes[at] for at in sorted(present["train"] - present[role])]:
            notes.append(f"{title}: {role} has no object of {', '.join(absent)}, so there is no AP for them")
    return notes


def limited(data: DetectionData, count: int) -> DetectionData:
    """At most ``count`` images of every split, each class giving about its share; train loses no class of which it has
    objects.

    Raises
    ------
    DataError : train has more classes than ``count`` images, or a split keeps no object.
    """
    full = {"train": data.train, "validation": data.validation, "test": data.test}
    sets = {}
    for role, images in full.items():
        rarest = _rarest([labels[~hard] for labels, hard in zip(images.labels, images.difficult, strict=True)])
        rows = subsample(rarest, len(images), count, classes=(*images.classes, "none"), every_class=role == "train")
        sets[role] = images.take(rows)
    lost = _classes_of(data.train) - _classes_of(sets["train"])
    if lost:
        names = ", ".join(data.train.classes[at] for at in sorted(lost))
        raise DataError(f"{data.name}: limit {count} leaves no training image of {names}; raise the limit")
    when = f"limited to {count} images a split"
    counts = ", ".join(f"{len(images):,} of {len(full[role]):,} {role}" for role, images in sets.items())
    told = [f"{data.name}: {when}: {counts}"]
    told += [note for note in same_classes(data.name, sets, when) if note not in data.notes]
    return replace(
        data, train=sets["train"], validation=sets["validation"], test=sets["test"], notes=[*data.notes, *told]
    )


def hold_out(labels: Sequence[np.ndarray], share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hold back a share of images with objects of several classes: (kept, held back), sorted int64 positions.

    An image counts for the class in it that the fewest images have, images without objects for a class of their own,
    and each of these gives its share. No class is lost to the kept images.

    Parameters
    ----------
    labels : N arrays int64 [n].
    share : in (0, 1).
    """
    images_with = np.bincount(joined([np.unique(numbers) for numbers in labels]))
    kept, held = holdout(_rarest(labels), share, seed)
    for label in np.flatnonzero(images_with):
        if not any(label in labels[at] for at in kept):
            back = next(at for at in held if label in labels[at])
            kept, held = np.sort(np.append(kept, back)), held[held != back]
    return kept, held


def _rarest(labels: Sequence[np.ndarray]) -> np.ndarray:
    """For each image the class in it that the fewest images have, int64 [N]; images without objects get the number
    after the last class."""
    images_with = np.bincount(joined([np.unique(numbers) for numbers in labels]))
    none = len(images_with)  # the last, so that images with objects come first where shares are tied
    return np.array(
        [min(numbers, key=lambda label: (images_with[label], label)) if len(numbers) else none for numbers in labels],
        np.int64,
    )


def joined(labels: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *labels])


def _classes_of(images: DetectionSet) -> set[int]:
    return set(joined([labels[~hard] for labels, hard in zip(images.labels, images.difficult, strict=True)]).tolist())
