"""Images with boxes by the name of their source: found, checked, split and decoded."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ssl_bench.data.boxes import voc
from ssl_bench.data.boxes.raw import BoxesSpec, ListedImages, RawBoxes
from ssl_bench.data.boxes.sets import DetectionData, hold_out, same_classes
from ssl_bench.data.boxes.voc import Fault
from ssl_bench.data.leaks import note_repeated
from ssl_bench.data.places import Progress, places_of
from ssl_bench.data.sources.catalogue import find_source
from ssl_bench.data.sources.returned import called, refuse_name
from ssl_bench.errors import DataError
from ssl_bench.plugins.registry import SOURCES

MIN_SIZE = 8


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
    """Find, check, split and decode a set of images with boxes.

    All that can be refused without decoding is refused first, at once.

    Splits of a VOC folder, where none are named: train is the list "trainval", else "train"; test is the list "test",
    else a fifth of train is held out; validation is "val" where it shares no image with train and test, else a fifth of
    what train has left is held out. Held-out images are drawn so that each class gives about its share and train loses
    none. ``notes`` says what was done.

    Colours become RGB as for classification (grey, palette, CMYK, 16 bits, transparency over white). The orientation
    that a camera noted (EXIF) is not applied, since VOC boxes refer to stored pixels; only where the annotation gives
    the size of the upright image and not of the stored one, it is. Boxes are clipped to the image and difficult objects
    are marked, not dropped.

    Parameters
    ----------
    source : "voc:PATH" (a folder in PASCAL VOC layout), "voc2007", "voc2012", "bccd", "shapes" (embedded; classes are
        its shapes), or another one that is registered.
    data_root : folder searched before anything is downloaded; None takes SSL_BENCH_DATA.
    cache : folder for packed images and downloads; None takes XDG_CACHE_HOME/ssl_bench or ~/.cache/ssl_bench.
    size : images whose short side is longer are shrunk to it, in pixels, boxes alike; None keeps the stored size
        (shapes: 48 px).
    train, validation, test : lists of the folder to take; a number for validation or test is the share of train to hold
        out.
    seed : of what is held out.
    skip_faulty : leave out images that cannot be read or whose annotation cannot be used, and count them, instead of
        stopping.
    progress : called with (what is being done, done, total); total is 0 where it is not known.
    unpacked : takes what is not packed yet, which is then not packed, as ``Places.unpacked`` does; None: everything is
        packed.

    Raises
    ------
    DataError : an unknown source or split, a folder in another layout, an empty split; missing or unreadable images or
        annotations, boxes that are empty, without numbers or outside the image, annotations of another size, classes
        that train lacks, images in two splits: all of these are counted, and the first twenty listed, in one message.
    """
    if size is not None and size < MIN_SIZE:
        raise DataError(f"size must be at least {MIN_SIZE}, got {size}")
    for role, share in (("validation", validation), ("test", test)):
        if isinstance(share, (int, float)) and not 0 < share < 1:
            raise DataError(
                f"{role} must be a share of train, above 0 and below 1, or the name of a split, got {share!r}"
            )
    places = places_of(data_root, cache, progress, size, unpacked)
    spec = BoxesSpec(source, train, validation, test, seed, skip_faulty)
    opened = find_source(source, "boxes")
    called(opened.name, opened.check, spec, places)
    raw = called(opened.name, opened.open_boxes, spec, places)
    if not SOURCES.is_builtin(opened.name):
        called(opened.name, refuse_unusable_boxes, opened.name, raw)
        lists = {
            name: replace(listed, load=partial(called, opened.name, listed.load)) for name, listed in raw.lists.items()
        }
        raw = replace(raw, lists=lists)
    return assemble(raw, seed, skip_faulty)


def assemble(raw: RawBoxes, seed: int = 0, skip_faulty: bool = False) -> DetectionData:
    """Split, decode and join; what is held out is decided before anything is decoded.

    Arguments and errors are those of ``load_detection``.
    """
    title, lists, chosen, notes = raw.name, raw.lists, raw.chosen, list(raw.notes)
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
                    f"{title}: {given:.3g} of {len(kept):,} images of {train!r} cannot be held out as {role}, for no "
                    "object "
                    "would be in it or train would lose a class; name a split, or add images"
                )
            roles[role] = train, kept[held]
            kept = kept[stay]
    roles["train"] = train, kept

    loaded = {split: listed.load() for split, listed in lists.items()}
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
        decoded, unreadable = loaded[split]
        sets[role] = replace(
            decoded.take(np.array([at for at in positions if at not in unreadable], np.int64)), split=role
        )
    notes += same_classes(title, sets, "with the unreadable images left out")
    note_repeated(title, {role: sets[role].hashes for role in ("train", "validation", "test")}, notes)
    return DetectionData(title, sets["train"], sets["validation"], sets["test"], notes, raw.shows)


def refuse_unusable_boxes(source: str, raw: object) -> None:
    """Raise DataError for what ``open_boxes`` of a plugin's source returned, where no run could use it."""
    where = f"source {source!r}"
    if not isinstance(raw, RawBoxes):
        raise DataError(
            f"{where} returned a {type(raw).__name__} from open_boxes(spec, places), and it must return an "
            "ssl_bench.RawBoxes"
        )
    refuse_name(where, raw.name, raw.classes)
    if not raw.classes:
        raise DataError(f"{where} gives no classes: no image has an object")
    if set(raw.chosen) != {"train", "validation", "test"} or not isinstance(raw.chosen.get("train"), str):
        raise DataError(
            f"{where} gives chosen = {dict(raw.chosen)!r}, and it must name the list of train, and for validation and "
            "test a "
            "list or a share of train"
        )
    for role, taken in raw.chosen.items():
        if isinstance(taken, str) and not isinstance(raw.lists.get(taken), ListedImages):
            raise DataError(f"{where} has no list {taken!r} ({role}); its lists: {', '.join(raw.lists)}")
    for name, listed in raw.lists.items():
        if not listed.counted:
            raise DataError(f"{where}: the list {name!r} has no images")
