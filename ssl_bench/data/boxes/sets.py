"""Images with boxes as a table's evaluators get them: decoded, split into train, validation and test, with the same classes in each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ssl_bench.data.boxes import voc
from ssl_bench.data.boxes.voc import Fault
from ssl_bench.data.leaks import note_repeated
from ssl_bench.data.packs.sealed import Checked
from ssl_bench.data.splits import holdout, subsample
from ssl_bench.errors import DataError


@dataclass(frozen=True)
class DetectionSet:
    """Decoded images of different shapes with the boxes of their objects.

    Attributes
    ----------
    name, split : what a table calls the set, and which part of it this is ("train", "validation" or "test").
    pixels : uint8 [M], RGB, the pixels of all images (and maybe of others) one image after another; usually memory-mapped.
    offsets, heights, widths : int64 [N]; image i is ``pixels[offsets[i]:][: heights[i] * widths[i] * 3]``, rows from the top.
    boxes : N arrays float32 [n, 4], x1 y1 x2 y2 with 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height: edges in pixels of the image as
        it is here, so that a box around the one pixel at the top left is 0 0 1 1.
    labels : N arrays int64 [n] in 0..len(classes)-1.
    difficult : N arrays bool [n]; such objects are neither counted nor penalised when detections are scored (Everingham et al., 2010).
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
        """Hash over pixels, boxes, labels, difficult flags and class names, in order; not over paths, times or the set's name."""
        found = hashlib.sha256(json.dumps([len(self), self.classes]).encode())
        for at in range(len(self)):
            found.update(
                np.array([self.heights[at], self.widths[at], len(self.boxes[at])], "<i8").tobytes()
                + self.hashes[at].tobytes()
            )
            found.update(self.boxes[at].astype("<f4").tobytes() + self.labels[at].astype("<i8").tobytes())
            found.update(self.difficult[at].astype(bool).tobytes())
        return found.hexdigest()[:32]

    def image(self, position: int) -> np.ndarray:
        """Pixels of one image, uint8 [H, W, 3], not copied. Raises IndexError outside 0..N-1 (negative ones count from the end).

        Raises DataError for a damaged image that cannot be decoded again.
        """
        start, height, width = (int(values[position]) for values in (self.offsets, self.heights, self.widths))
        found = self.pixels[start : start + height * width * 3]
        return (found if self.checked is None else self.checked.hold_at(start, found)).reshape(height, width, 3)

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
    notes : what a user should know: how the splits came about, boxes that were clipped, images left out, classes without an object.
    shows : the source of images whose training split shows the same scenes as train and validation here, in other pixels; "" for none.
    """

    name: str
    train: DetectionSet
    validation: DetectionSet
    test: DetectionSet
    notes: list[str]
    shows: str = ""


@dataclass(frozen=True)
class ListedImages:
    """Images of one list, before they are decoded: labels of the objects that count (not difficult), and how to get the whole set."""

    counted: list[np.ndarray]
    load: Callable[[], tuple[DetectionSet, dict[int, str]]]  # and unreadable position -> path and reason


def assemble(
    title: str,
    lists: Mapping[str, ListedImages],
    chosen: Mapping[str, str | float],
    classes: tuple[str, ...],
    seed: int,
    skip_faulty: bool,
    notes: list[str],
) -> DetectionData:
    """Split, decode and join; what is held out is decided before anything is decoded."""
    train = str(chosen["train"])
    kept = np.arange(len(lists[train].counted))
    roles: dict[str, tuple[str, np.ndarray]] = {}
    for role in ("test", "validation"):
        given = chosen[role]
        if isinstance(given, str):
            roles[role] = given, np.arange(len(lists[given].counted))
        else:
            stay, held = hold_out([lists[train].counted[at] for at in kept], given, seed)
            if not sum(len(lists[train].counted[kept[at]]) for at in held):
                raise DataError(
                    f"{title}: {given:.3g} of {len(kept):,} images of {train!r} cannot be held out as {role}, for no object would be in "
                    "it or train would lose a class; name a split, or add images"
                )
            roles[role] = train, kept[held]
            kept = kept[stay]
    roles["train"] = train, kept

    loaded = {split: found.load() for split, found in lists.items()}
    bad = [reason for _, unreadable in loaded.values() for reason in unreadable.values()]
    if bad and not skip_faulty:
        voc.refuse(
            title,
            [Fault("unreadable image", reason) for reason in bad],
            "; mend these images or leave them out (skip_faulty)",
        )
    if bad:
        notes.append(f"{title}: {len(bad):,} images are left out, since they cannot be decoded")
    sets = {}
    for role, (split, positions) in roles.items():
        found, unreadable = loaded[split]
        sets[role] = replace(
            found.take(np.array([at for at in positions if at not in unreadable], np.int64)), split=role
        )
    notes += _same_classes(title, sets, "with the unreadable images left out")
    note_repeated(title, {role: sets[role].hashes for role in ("train", "validation", "test")}, notes)
    return DetectionData(title, sets["train"], sets["validation"], sets["test"], notes)


def _same_classes(title: str, sets: Mapping[str, DetectionSet], when: str) -> list[str]:
    """What splits lack of the classes of train. Raises DataError where one has no object, or a class that train lacks."""
    notes = []
    present = {role: _classes_of(found) for role, found in sets.items()}
    for role, found in sets.items():
        if not present[role] or not present[role] <= present["train"]:
            raise DataError(f"{title}: {when}, {role} has no object or a class that train lacks")
        if absent := [found.classes[at] for at in sorted(present["train"] - present[role])]:
            notes.append(f"{title}: {role} has no object of {', '.join(absent)}, so there is no AP for them")
    return notes


def limited(data: DetectionData, count: int) -> DetectionData:
    """At most ``count`` images of every split, each class giving about its share; train loses no class of which it has objects.

    Raises
    ------
    DataError : train has more classes than ``count`` images, or a split keeps no object.
    """
    full = {"train": data.train, "validation": data.validation, "test": data.test}
    sets = {}
    for role, found in full.items():
        rarest = _rarest([own[~hard] for own, hard in zip(found.labels, found.difficult, strict=True)])
        rows = subsample(rarest, len(found), count, classes=(*found.classes, "none"), every_class=role == "train")
        sets[role] = found.take(rows)
    lost = _classes_of(data.train) - _classes_of(sets["train"])
    if lost:
        names = ", ".join(data.train.classes[at] for at in sorted(lost))
        raise DataError(f"{data.name}: limit {count} leaves no training image of {names}; raise the limit")
    when = f"limited to {count} images a split"
    told = [
        f"{data.name}: {when}: {', '.join(f'{len(found):,} of {len(full[role]):,} {role}' for role, found in sets.items())}"
    ]
    told += [note for note in _same_classes(data.name, sets, when) if note not in data.notes]
    return replace(
        data, train=sets["train"], validation=sets["validation"], test=sets["test"], notes=[*data.notes, *told]
    )


def hold_out(labels: Sequence[np.ndarray], share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hold back a share of images with objects of several classes: (kept, held back), sorted int64 positions.

    An image counts for the class in it that the fewest images have, images without objects for a class of their own, and each of these
    gives its share. No class is lost to the kept images.

    Parameters
    ----------
    labels : N arrays int64 [n].
    share : in (0, 1).
    """
    images_with = np.bincount(joined([np.unique(own) for own in labels]))
    kept, held = holdout(_rarest(labels), share, seed)
    for label in np.flatnonzero(images_with):
        if not any(label in labels[at] for at in kept):
            back = next(at for at in held if label in labels[at])
            kept, held = np.sort(np.append(kept, back)), held[held != back]
    return kept, held


def _rarest(labels: Sequence[np.ndarray]) -> np.ndarray:
    """For each image the class in it that the fewest images have, int64 [N]; images without objects get the number after the last class."""
    images_with = np.bincount(joined([np.unique(own) for own in labels]))
    none = len(images_with)  # the last, so that images with objects come first where shares are tied
    return np.array(
        [min(own, key=lambda label: (images_with[label], label)) if len(own) else none for own in labels], np.int64
    )


def joined(labels: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *labels])


def _classes_of(found: DetectionSet) -> set[int]:
    return set(joined([own[~hard] for own, hard in zip(found.labels, found.difficult, strict=True)]).tolist())
