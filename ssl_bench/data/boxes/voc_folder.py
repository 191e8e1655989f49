"""A folder in PASCAL VOC layout as a source of boxes: which lists are train, validation and test, and what is wrong
with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ssl_bench.data.boxes import voc
from ssl_bench.data.boxes.raw import SHARE, BoxesSpec, ListedImages, RawBoxes, listed_files
from ssl_bench.data.boxes.sets import joined
from ssl_bench.data.boxes.voc import Fault, VOCImage
from ssl_bench.data.places import Places
from ssl_bench.data.sources.labels import near_equal
from ssl_bench.errors import DataError, did_you_mean

_TRAIN = ("trainval", "train")
_VALIDATION = ("val", "valid", "validation")
_TEST = ("test",)


def read_voc_folder(folder: Path, title: str, spec: BoxesSpec, places: Places) -> RawBoxes:
    """The images of a folder, held against their annotations.

    Splits, where ``spec`` names none: train is the list "trainval", else "train"; test is the list "test", else a fifth
    of train is held out; validation is "val" where it shares no image with train and test, else a fifth of what train
    has left is held out.
    """
    notes: list[str] = []
    faults: list[Fault] = []
    chosen, names = _choose_lists(folder, title, spec, notes, faults)
    examined = voc.examine(
        folder, list(dict.fromkeys(name for listed in names.values() for name in listed)), places.progress
    )
    bad = [fault for answer in examined.values() if isinstance(answer, list) for fault in answer]
    images = {name: answer for name, answer in examined.items() if isinstance(answer, VOCImage)}
    if bad and spec.skip_faulty:
        notes.append(
            f"{title}: {len(examined) - len(images):,} of {len(examined):,} images are left out, {voc.counted(bad)}"
        )
        names = {split: [name for name in listed if name in images] for split, listed in names.items()}
        faults += [Fault("empty split", f"{split}: no image is left") for split, listed in names.items() if not listed]
    classes = tuple(sorted({name for image in images.values() for name in image.names}))
    objects = Counter(name for image in images.values() for name in image.names)
    notes += near_equal(title, classes, [objects[name] for name in classes], "objects")
    lists = {
        split: listed_files(title, split, [images[name] for name in listed if name in images], classes, places)
        for split, listed in names.items()
    }
    # What a faulty training image shows is not known, so it is not known either which classes train lacks.
    if spec.skip_faulty or all(name in images for name in names[str(chosen["train"])]):
        faults += _unlike_train(lists, chosen, classes)
    only_images = bool(bad) and not faults and not spec.skip_faulty
    faults += [] if spec.skip_faulty else bad
    hint = "; mend these images or leave them out (skip_faulty)" if only_images else ""
    voc.refuse(f"{title} in {folder}", faults, hint)
    notes += _annotation_notes(title, list(images.values()))
    return RawBoxes(title, classes, lists, chosen, tuple(notes))


def _choose_lists(
    folder: Path,
    title: str,
    spec: BoxesSpec,
    notes: list[str],
    faults: list[Fault],
) -> tuple[dict[str, str | float], dict[str, list[str]]]:
    """For each role a list's name or the share of train to hold out; and the image names of the lists used."""
    known = voc.lists(folder)

    def first(candidates: Sequence[str]) -> str | None:
        return next((name for name in candidates if name in known), None)

    train = spec.train or first(_TRAIN)
    if train is None:
        raise DataError(
            f"{folder} has no list named {' or '.join(map(repr, _TRAIN))}; name one of its own: {', '.join(known[:20])}"
        )
    chosen: dict[str, str | float] = {"train": train}
    names = {train: voc.read_list(folder, train)}
    said = [f"train is {train!r}"]
    for role, asked, candidates in (("test", spec.test, _TEST), ("validation", spec.validation, _VALIDATION)):
        given, reason = asked, "as asked"
        if given is None:
            given, reason = first(candidates), f"there is no {candidates[0]!r}"
        wanted = voc.read_list(folder, given) if isinstance(given, str) else []
        shared = {
            other: len(set(wanted).intersection(names[taken]))
            for other, taken in chosen.items()
            if isinstance(taken, str)
        }
        if role == "validation" and asked is None and any(shared.values()):
            given, reason = (
                None,
                f"{given!r} has images of {' and '.join(other for other, count in shared.items() if count)}",
            )
        if isinstance(given, str):
            said.append(f"{role} is {given!r}")
            names[given] = wanted
            for other, count in shared.items():
                if count:
                    text = f"{count:,} images are both in {given!r} ({role}) and in {chosen[other]!r} ({other})"
                    faults.append(Fault("splits that overlap", text))
        else:
            given = SHARE if given is None else given
            left = train if all(isinstance(other, str) for other in chosen.values()) else f"the rest of {train}"
            said.append(f"{role} is {given:.3g} of {left}, held out ({reason})")
        chosen[role] = given
    notes.append(f"{title}: {', '.join(said)}")
    for split, listed in names.items():
        if not listed:
            faults.append(Fault("empty split", f"ImageSets/Main/{split}.txt names no image"))
        twice = [name for name, count in Counter(listed).items() if count > 1]
        faults += [
            Fault("image listed twice", f"ImageSets/Main/{split}.txt names {name!r} more than once") for name in twice
        ]
    return chosen, names


def _unlike_train(
    lists: Mapping[str, ListedImages], chosen: Mapping[str, str | float], classes: Sequence[str]
) -> list[Fault]:
    """Splits without an object, and classes that a split is judged on and train has no object of."""
    faults = []
    counts = {split: np.bincount(joined(images.counted), minlength=len(classes)) for split, images in lists.items()}
    seen = counts[str(chosen["train"])]
    for split, present in counts.items():
        if lists[split].counted and not present.any():
            faults.append(
                Fault(
                    "split without objects",
                    f"the {len(lists[split].counted):,} images of {split!r} have no object that counts",
                )
            )
        elif seen.any():
            known = [classes[at] for at in np.flatnonzero(seen).tolist()]
            for at in np.flatnonzero((present > 0) & (seen == 0)).tolist():
                text = (
                    f"{classes[at]!r} has {present[at]:,} objects in {split!r} and none in {chosen['train']!r}; "
                    f"{did_you_mean(classes[at], known)}"
                )
                faults.append(Fault("class unseen in train", text))
    return faults


def _annotation_notes(title: str, images: Sequence[VOCImage]) -> list[str]:
    """What a user should know about annotations that are used all the same."""
    boxes, total = sum(len(image.boxes) for image in images), len(images)
    facts = (
        (
            "boxes that reach over the edge of their image and are clipped",
            boxes,
            sum(image.clipped for image in images),
        ),
        ("boxes one pixel wide or high", boxes, sum(image.thin for image in images)),
        ("objects marked difficult", boxes, sum(int(image.difficult.sum()) for image in images)),
        ("images without an object", total, sum(not len(image.boxes) for image in images)),
        (
            "annotations without the image's size, whose boxes are taken to refer to the stored pixels",
            total,
            sum(not image.sized for image in images),
        ),
        (
            "images turned as the camera noted, since their annotations give the size of the upright image",
            total,
            sum(image.turned for image in images),
        ),
    )
    return [f"{title}: {what}: {count:,} of {all_of:,}" for what, all_of, count in facts if count]
