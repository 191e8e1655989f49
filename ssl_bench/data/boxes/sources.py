"""Images with boxes: PASCAL VOC folders, VOC 2007, VOC 2012 and BCCD by name, and the embedded shapes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_bench.data.boxes import voc
from ssl_bench.data.boxes.ragged import pack_ragged
from ssl_bench.data.boxes.sets import DetectionData, DetectionSet, ListedImages, assemble, joined
from ssl_bench.data.boxes.voc import Fault, VOCImage
from ssl_bench.data.packs.content import writing_to
from ssl_bench.data.packs.packing import locked, pack
from ssl_bench.data.places import Places, Progress, silent
from ssl_bench.data.sources import catalogue as sources
from ssl_bench.data.sources.labels import near_equal
from ssl_bench.data.sources.shapes_source import open_shapes
from ssl_bench.errors import DataError, did_you_mean
from ssl_bench.records.schema import write_bytes

SHAPES_IMAGES = {"train": 2_000, "test": 500}  # of the embedded set; more would only take longer to draw, being large
SHARE = 0.2  #: of train that is held out where a split is missing
MIN_SIZE = 8
_TRAIN = ("trainval", "train")
_VALIDATION = ("val", "valid", "validation")
_TEST = ("test",)
# name -> (year, title, lists that must be there)
_BY_NAME = {
    "voc2007": ("2007", "PASCAL VOC 2007", ("trainval", "test")),
    "voc2012": ("2012", "PASCAL VOC 2012", ("trainval",)),
}
_BCCD_URL = "https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/master.zip"
_BCCD_FILE, _BCCD_FOLDER = "bccd.zip", Path("BCCD_Dataset-master", "BCCD")


def list_detection_sources() -> list[tuple[str, str]]:
    """Every source of images with boxes, with one line about it."""
    return [
        ("shapes", "2,000 + 500 of the embedded images with the boxes of their objects"),
        ("voc:PATH", "a folder in PASCAL VOC layout: JPEGImages, Annotations/*.xml, ImageSets/Main/*.txt"),
        *((name, f"{title}, from torchvision's files or downloaded") for name, (_, title, _) in _BY_NAME.items()),
        (
            "bccd",
            "BCCD, 364 photographs of blood cells of three kinds; a folder bccd or BCCD in that layout, or downloaded",
        ),
    ]


def load_detection(
    source: str,
    *,
    data_root: Path | str | None = None,
    cache: Path | str | None = None,
    size: int | None = None,
    train: str | None = None,
    validation: str | float | None = None,
    test: str | float | None = None,
    seed: int = 0,
    skip_faulty: bool = False,
    progress: Progress | None = None,
    unpacked: dict[str, int] | None = None,
) -> DetectionData:
    """Find, check, split and decode a set of images with boxes. All that can be refused without decoding is refused first, at once.

    Splits of a VOC folder, where none are named: train is the list "trainval", else "train"; test is the list "test", else a fifth of
    train is held out; validation is "val" where it shares no image with train and test, else a fifth of what train has left is held
    out. Held-out images are drawn so that each class gives about its share and train loses none. ``notes`` says what was done.

    Colours become RGB as for classification (grey, palette, CMYK, 16 bits, transparency over white). The orientation that a camera
    noted (EXIF) is not applied, since VOC boxes refer to stored pixels; only where the annotation gives the size of the upright image
    and not of the stored one, it is. Boxes are clipped to the image and difficult objects are marked, not dropped.

    Parameters
    ----------
    source : "voc:PATH" (a folder in PASCAL VOC layout), "voc2007", "voc2012", "bccd" or "shapes" (embedded; classes are its shapes).
    data_root : folder searched before anything is downloaded; None takes SSL_BENCH_DATA.
    cache : folder for packed images and downloads; None takes XDG_CACHE_HOME/ssl_bench or ~/.cache/ssl_bench.
    size : images whose short side is longer are shrunk to it, in pixels, boxes alike; None keeps the stored size (shapes: 48 px).
    train, validation, test : lists of the folder to take; a number for validation or test is the share of train to hold out.
    seed : of what is held out.
    skip_faulty : leave out images that cannot be read or whose annotation cannot be used, and count them, instead of stopping.
    progress : called with (what is being done, done, total); total is 0 where it is not known.
    unpacked : takes what is not packed yet, which is then not packed, as ``Places.unpacked`` does; None: everything is packed.

    Raises
    ------
    DataError : an unknown source or split, a folder in another layout, an empty split; missing or unreadable images or annotations, boxes
        that are empty, without numbers or outside the image, annotations of another size, classes that train lacks, images in two splits:
        all of these are counted, and the first twenty listed, in one message.
    """
    if size is not None and size < MIN_SIZE:
        raise DataError(f"size {size} is too small; allowed is {MIN_SIZE} and up")
    for role, share in (("validation", validation), ("test", test)):
        if isinstance(share, (int, float)) and not 0 < share < 1:
            raise DataError(
                f"{role} {share!r} is no share of train; allowed is above 0 and below 1, or the name of a split"
            )
    places = Places(sources.cache_folder(cache), sources.data_root(data_root), size, progress or silent, unpacked)
    asked = {"train": train, "validation": validation, "test": test}
    kind, _, rest = source.partition(":")
    if kind == "voc" and rest:
        folder = sources.resolve(rest, places, "voc")
        return _voc(folder, folder.resolve().name, asked, seed, skip_faulty, places)
    if source in _BY_NAME:
        return _voc(_find(source, places), _BY_NAME[source][1], asked, seed, skip_faulty, places)
    if source == "bccd":
        return _voc(_find_bccd(places), "BCCD", asked, seed, skip_faulty, places)
    if source == "shapes":
        with writing_to(places.cache):
            return _shapes(asked, seed, places)
    known = [name for name, _ in list_detection_sources()]
    raise DataError(
        f"unknown detection source {source!r}; " + ("write voc:PATH" if kind == "voc" else did_you_mean(source, known))
    )


def _voc(
    folder: Path, title: str, asked: Mapping[str, Any], seed: int, skip_faulty: bool, places: Places
) -> DetectionData:
    notes: list[str] = []
    faults: list[Fault] = []
    chosen, names = _choose(folder, title, asked, notes, faults)
    examined = voc.examine(
        folder, list(dict.fromkeys(name for found in names.values() for name in found)), places.progress
    )
    bad = [fault for one in examined.values() if isinstance(one, list) for fault in one]
    images = {name: one for name, one in examined.items() if isinstance(one, VOCImage)}
    if bad and skip_faulty:
        notes.append(
            f"{title}: {len(examined) - len(images):,} of {len(examined):,} images are left out, {voc.counted(bad)}"
        )
        names = {split: [name for name in found if name in images] for split, found in names.items()}
        faults += [Fault("empty split", f"{split}: no image is left") for split, found in names.items() if not found]
    classes = tuple(sorted({name for image in images.values() for name in image.names}))
    number = {name: at for at, name in enumerate(classes)}
    objects = Counter(name for image in images.values() for name in image.names)
    notes += near_equal(title, classes, [objects[name] for name in classes], "objects")

    def listed(split: str) -> ListedImages:
        members = [images[name] for name in names[split] if name in images]
        labels = [np.array([number[name] for name in image.names], np.int64) for image in members]

        def load() -> tuple[DetectionSet, dict[int, str]]:
            packed = pack_ragged(members, places.size, places, what=f"{title} {split}")
            shapes = np.array([image.scaled(places.size)[::-1] for image in members], np.int64)
            boxes = [_scaled(image, shape) for image, shape in zip(members, shapes, strict=True)]
            difficult = [image.difficult for image in members]
            found = DetectionSet(
                title,
                split,
                packed.pixels,
                packed.offsets,
                shapes[:, 0],
                shapes[:, 1],
                boxes,
                labels,
                difficult,
                classes,
                packed.hashes,
                tuple(image.file for image in members),
                packed.checked,
            )
            return found, {at: f"{members[at].file}: {reason}" for at, reason in packed.unreadable.items()}

        return ListedImages([own[~image.difficult] for own, image in zip(labels, members, strict=True)], load)

    lists = {split: listed(split) for split in names}
    # What a faulty training image shows is not known, so it is not known either which classes train lacks.
    if skip_faulty or all(name in images for name in names[str(chosen["train"])]):
        faults += _unlike_train(lists, chosen, classes)
    only_images = bool(bad) and not faults and not skip_faulty
    faults += [] if skip_faulty else bad
    hint = "; mend these images or leave them out (skip_faulty)" if only_images else ""
    voc.refuse(f"{title} in {folder}", faults, hint)
    notes += _told(title, list(images.values()))
    return assemble(title, lists, chosen, classes, seed, skip_faulty, notes)


def _choose(
    folder: Path,
    title: str,
    asked: Mapping[str, Any],
    notes: list[str],
    faults: list[Fault],
) -> tuple[dict[str, str | float], dict[str, list[str]]]:
    """For each role a list's name or the share of train to hold out; and the image names of the lists used."""
    known = voc.lists(folder)

    def first(candidates: Sequence[str]) -> str | None:
        return next((name for name in candidates if name in known), None)

    train = asked["train"] or first(_TRAIN)
    if train is None:
        raise DataError(
            f"{folder} has no list named {' or '.join(map(repr, _TRAIN))}; name one of its own: {', '.join(known[:20])}"
        )
    chosen: dict[str, str | float] = {"train": train}
    names = {train: voc.read_list(folder, train)}
    said = [f"train is {train!r}"]
    for role, candidates in (("test", _TEST), ("validation", _VALIDATION)):
        given, reason = asked[role], "as asked"
        if given is None:
            given, reason = first(candidates), f"there is no {candidates[0]!r}"
        wanted = voc.read_list(folder, given) if isinstance(given, str) else []
        shared = {
            other: len(set(wanted).intersection(names[own])) for other, own in chosen.items() if isinstance(own, str)
        }
        if role == "validation" and asked[role] is None and any(shared.values()):
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
    for split, found in names.items():
        if not found:
            faults.append(Fault("empty split", f"ImageSets/Main/{split}.txt names no image"))
        twice = [name for name, count in Counter(found).items() if count > 1]
        faults += [
            Fault("image listed twice", f"ImageSets/Main/{split}.txt names {name!r} more than once") for name in twice
        ]
    return chosen, names


def _scaled(image: VOCImage, shape: np.ndarray) -> np.ndarray:
    """The boxes float32 [n, 4] of an image once it has the height and width of ``shape``."""
    height, width = (int(side) for side in shape)
    boxes: np.ndarray = image.boxes * np.tile([width / image.width, height / image.height], 2)
    return boxes.astype(np.float32)  # also rounds away what the scale lacks in its last bits, so no box leads out


def _unlike_train(
    lists: Mapping[str, ListedImages], chosen: Mapping[str, str | float], classes: Sequence[str]
) -> list[Fault]:
    """Splits without an object, and classes that a split is judged on and train has no object of."""
    faults = []
    counts = {split: np.bincount(joined(found.counted), minlength=len(classes)) for split, found in lists.items()}
    seen = counts[str(chosen["train"])]
    for split, own in counts.items():
        if lists[split].counted and not own.any():
            faults.append(
                Fault(
                    "split without objects",
                    f"the {len(lists[split].counted):,} images of {split!r} have no object that counts",
                )
            )
        elif seen.any():
            known = [classes[at] for at in np.flatnonzero(seen).tolist()]
            for at in np.flatnonzero((own > 0) & (seen == 0)).tolist():
                text = f"{classes[at]!r} has {own[at]:,} objects in {split!r} and none in {chosen['train']!r}; {did_you_mean(classes[at], known)}"
                faults.append(Fault("class unseen in train", text))
    return faults


def _told(title: str, images: Sequence[VOCImage]) -> list[str]:
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


def _shapes(asked: Mapping[str, Any], seed: int, places: Places) -> DetectionData:
    """The embedded set, packed as for classification; its boxes lie inside the image and no object is difficult."""
    from ssl_bench.data.sources._shapes_render import SHAPES, TEXTURES

    named = [
        f"{role} {given!r}"
        for role, given in asked.items()
        if given is not None and (role != "validation" or isinstance(given, str))
    ]
    if named:
        raise DataError(
            f"shapes has its own train and test; {', '.join(named)} cannot be chosen (validation may be a share of train)"
        )
    share = SHARE if asked["validation"] is None else float(asked["validation"])
    opened = open_shapes(places, SHAPES_IMAGES)
    assert opened.native is not None
    size = opened.native[0]

    def listed(split: str) -> ListedImages:
        raw = opened.splits[split]
        shown = raw.columns["box_labels"] >= 0
        labels = [own[use] // len(TEXTURES) for own, use in zip(raw.columns["box_labels"], shown, strict=True)]
        boxes = [own[use] for own, use in zip(raw.columns["boxes"], shown, strict=True)]

        def load() -> tuple[DetectionSet, dict[int, str]]:
            packed = pack(raw.reader, size, "crop", places, what=f"shapes {split}")
            count = len(raw)
            sides = np.full(count, size, np.int64)
            easy = [np.zeros(len(own), bool) for own in boxes]
            flat = packed.pixels.flags.c_contiguous  # not where it only stands in for what is not packed yet
            pixels = packed.pixels.reshape(-1) if flat else np.broadcast_to(np.uint8(127), (packed.pixels.size,))
            offsets = np.arange(count, dtype=np.int64) * size * size * 3
            return DetectionSet(
                "shapes",
                split,
                pixels,
                offsets,
                sides,
                sides,
                boxes,
                labels,
                easy,
                SHAPES,
                packed.hashes,
                checked=packed.checked,
            ), {}

        return ListedImages(labels, load)

    notes = [f"shapes: {share:.3g} of train is held out as validation"]
    chosen: dict[str, str | float] = {"train": "train", "test": "test", "validation": share}
    found = assemble(
        "shapes", {split: listed(split) for split in ("train", "test")}, chosen, SHAPES, seed, False, notes
    )
    return replace(found, shows="shapes")


def _find(name: str, places: Places) -> Path:
    """The folder of a set that torchvision knows: its own layout below the data root, an earlier download, a new download; in this order."""
    from torchvision.datasets import VOCDetection

    year, title, needed = _BY_NAME[name]
    downloads = places.cache / "downloads"
    # a download that was killed while it was unpacked must not pass for a whole one
    finished = downloads / f"{name}.complete"
    reasons = [] if places.root is not None else ["no data root is set (--data-root or SSL_BENCH_DATA)"]
    for place in [] if places.root is None else [places.root, places.root / name]:
        try:
            return _opened(VOCDetection, place, year, needed, download=False)
        except Exception as error:  # torchvision says "not here" with RuntimeError or FileNotFoundError
            reasons.append(f"{place}: {error}")
    try:
        if not finished.exists():
            places.progress(f"looking for {title}, downloading it to {downloads} if it is not there", 0, 0)
            downloads.mkdir(parents=True, exist_ok=True)
        folder = _opened(VOCDetection, downloads, year, needed, download=not finished.exists())
        write_bytes(finished, f"{title} was downloaded and unpacked\n".encode())
        return folder
    except Exception as error:
        listed = "\n  ".join([*reasons, f"download to {downloads}: {error}"])
        raise DataError(
            f"{title} was not found and could not be downloaded; put torchvision's files (VOCdevkit{os.sep}VOC{year}) below a data root, "
            f"or name the folder as voc:PATH:\n  {listed}"
        ) from None


def _find_bccd(places: Places) -> Path:
    """The folder of BCCD: below the data root, an earlier download, a new download; in this order."""
    tried = [] if places.root is None else [places.root / name for name in ("bccd", "BCCD")]
    for folder in tried:
        if (folder / "JPEGImages").is_dir():
            return folder
    downloads = places.cache / "downloads"
    folder, finished = downloads / _BCCD_FOLDER, downloads / "bccd.complete"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with locked(downloads / "bccd.lock", "BCCD", places.progress):
            if not (finished.exists() and folder.is_dir()):
                from torchvision.datasets.utils import download_and_extract_archive

                places.progress(f"downloading BCCD to {downloads}", 0, 0)
                (downloads / _BCCD_FILE).unlink(missing_ok=True)  # half of one would be taken for a whole one
                download_and_extract_archive(_BCCD_URL, str(downloads), filename=_BCCD_FILE, remove_finished=True)
                voc.lists(folder)
                write_bytes(finished, b"BCCD was downloaded and unpacked\n")
        return folder
    except Exception as error:  # no network, a full disk, a file that is no archive, another layout
        looked = (
            f"it is not {' or '.join(map(str, tried))}"
            if tried
            else "no data root is set (--data-root or SSL_BENCH_DATA)"
        )
        raise DataError(
            f"BCCD was not found ({looked}) and could not be downloaded from {_BCCD_URL} ({error}); put its folder BCCD (with JPEGImages, Annotations "
            "and ImageSets) below a data root, or name it as voc:PATH"
        ) from None


def _opened(make: Any, root: Path, year: str, needed: Sequence[str], *, download: bool) -> Path:
    found = [make(str(root), year=year, image_set=split, download=download) for split in needed]
    return Path(found[0].annotations[0]).parents[1]
