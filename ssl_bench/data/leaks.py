"""No image that rows are judged on is pretrained on: found by equal pixels, and told where they cannot show it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ssl_bench.data.images import ImageSet, fingerprint_of
from ssl_bench.data.packs import decode as decoding
from ssl_bench.data.packs.content import NotRemembered, workers, writing_to_cache
from ssl_bench.data.packs.decode import Fit, UnreadableImage, decode, in_parallel
from ssl_bench.data.packs.sealed import HASH_BYTES, hash_images
from ssl_bench.data.places import Places
from ssl_bench.data.sources.folders import FileReader
from ssl_bench.errors import DataError
from ssl_bench.records.schema import write_bytes
from ssl_bench.system.digests import read_sealed, seal

_NONE = np.zeros((0, HASH_BYTES), np.uint8)


@dataclass(frozen=True)
class JudgedElsewhere:
    """What an evaluator judges on by itself.

    Attributes
    ----------
    name : how messages call it.
    files : the image files of its validation and test, empty where they are none; None: it does not tell.
    shows : source whose training images show the same as its validation images, in other pixels; "" for none.
    """

    name: str
    files: tuple[Path, ...] | None
    shows: str = ""


def note_repeated(name: str, hashes: Mapping[str, np.ndarray], notes: list[str]) -> None:
    """Say how many images are in two splits, found by equal pixels: ``hashes`` of train, validation and test; test is
    told in any case."""
    rows_of = {split: [bytes(row) for row in rows] for split, rows in hashes.items()}
    counts = {
        (split, other): sum(map(set(rows_of[other]).__contains__, rows_of[split]))
        for split, other in combinations(rows_of, 2)
    }
    if any(counts.values()):
        told = [f"{count:,} of {split} in {other}" for (split, other), count in counts.items() if count]
        told += [] if any(count for (_, other), count in counts.items() if other == "test") else ["none in test"]
        notes.append(f"{name}: images that are in two splits, pixel for pixel: {', '.join(told)}")


def without(
    images: ImageSet,
    hashes: np.ndarray,
    judged: Sequence[np.ndarray],
    of: str,
    notes: list[str],
) -> tuple[ImageSet, np.ndarray]:
    """The pretraining images, and their hashes, without those that ``of`` validates or tests on, found by equal
    pixels."""
    seen = {bytes(row) for of_judged in judged for row in of_judged}
    if not seen:
        return images, hashes
    keep = np.array([bytes(row) not in seen for row in hashes], bool)
    if keep.all():
        return images, hashes
    equal, siblings = int((~keep).sum()), 0
    if (groups := images.columns.get("group")) is not None:
        keep &= ~np.isin(groups, groups[~keep])
        siblings = int((~keep).sum()) - equal
    also = f", and {siblings:,} more are of their groups," if siblings else ""
    notes.append(
        f"{images.name}: {equal:,} images are also validation or test images of {of}{also} and are not pretrained on"
    )
    return _keep_images(images, hashes, keep, of)


def without_groups(
    images: ImageSet,
    hashes: np.ndarray,
    names: Sequence[str],
    judged: set[str],
    column: str,
    of: str,
    notes: list[str],
) -> tuple[ImageSet, np.ndarray]:
    """The pretraining images, and their hashes, without those of the groups that ``of`` judges on; ``names`` are of the
    images' groups."""
    keep = ~np.isin(images.columns["group"], [number for number, name in enumerate(names) if name in judged])
    if keep.all():
        return images, hashes
    notes.append(
        f"{images.name}: {int((~keep).sum()):,} images are of groups ({column}) that {of} validates or tests on and "
        "are not pretrained on"
    )
    return _keep_images(images, hashes, keep, of)


def _keep_images(images: ImageSet, hashes: np.ndarray, keep: np.ndarray, of: str) -> tuple[ImageSet, np.ndarray]:
    if not keep.any():
        raise DataError(
            f"{images.name}: every image to pretrain on is a validation or test image of {of}, or of the same group "
            "as one; give other images"
        )
    kept = np.flatnonzero(keep)
    labels = None if images.labels is None else images.labels[kept]
    return images.take(kept, fingerprint_of(images.size, hashes[kept], labels)), hashes[kept]


def without_judged_elsewhere(
    images: ImageSet,
    hashes: np.ndarray,
    judged: Sequence[JudgedElsewhere],
    source: str,
    fit: Fit,
    places: Places,
    notes: list[str],
) -> ImageSet:
    """The images to pretrain on, of ``source``, without those that evaluators judge on by themselves; where that cannot
    be told, a note."""
    for other in judged:
        if other.files is None:
            notes.append(
                f"{other.name}: whether its validation and test images are pretrained on cannot be told: it does not "
                "name their files"
            )
        else:
            images, hashes = without(
                images,
                hashes,
                [_hashes_of(other.files, images.size, fit, places, other.name)],
                other.name,
                notes,
            )
        if other.shows == source:
            notes.append(
                f"{other.name}: its validation images show scenes of {source} that are pretrained on; its test images "
                "do not"
            )
    return images


def _hashes_of(files: Sequence[Path], size: int, fit: Fit, places: Places, name: str) -> np.ndarray:
    """uint8 [N, 16] of the pixels that these files would be pretrained on as; those that cannot be read are left out.

    Remembered in CACHE/hashes, and where nothing is to be decoded, only known from there.
    """
    if not files:
        return _NONE
    try:
        content = FileReader(files).content(places)
    except NotRemembered:
        return _NONE
    key = json.dumps([decoding.VERSION, content, size, fit])
    known = places.cache / "hashes" / hashlib.sha256(key.encode()).hexdigest()[:32]
    stored = read_sealed(known, "hashes of images in")
    if stored is not None and len(stored) == len(files) * HASH_BYTES:
        return np.frombuffer(stored, np.uint8).reshape(-1, HASH_BYTES)
    if places.unpacked is not None:
        return _NONE
    parts: list[np.ndarray] = []
    with in_parallel(_hash_of_file, ((file, size, fit) for file in files), ahead=4 * workers()) as hashed:
        for done, part in enumerate(hashed):
            parts.append(part)
            if done % 64 == 0:
                places.progress(f"looking for images of {name} among those to pretrain on", done, len(files))
    hashes = np.concatenate(parts)
    if len(hashes) == len(files):  # else another version may read the others
        with writing_to_cache(places.cache):
            write_bytes(known, seal(hashes.tobytes()))
    return hashes


def _hash_of_file(file: Path, size: int, fit: Fit) -> np.ndarray:
    try:
        return hash_images(decode(file, size, fit)[0][None], [False])
    except UnreadableImage:
        return _NONE
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
