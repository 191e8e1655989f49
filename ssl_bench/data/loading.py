"""From a data spec to image sets: one to pretrain on, and for each labelled source train, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssl_bench.data.content import Progress, silent
from ssl_bench.data.images import ImageSet, evenly_spaced
from ssl_bench.data.packing import Pack, is_packed, pack
from ssl_bench.data.planning import Plan, plan_evaluation, plan_pretraining
from ssl_bench.data.readers import Places, RawSplit, Source, Subset
from ssl_bench.data.sources import cache_folder, data_root, list_sources, open_source
from ssl_bench.errors import DataError
from ssl_bench.spec import DataSpec, SourceSpec

__all__ = ["Data", "Labelled", "list_sources", "load"]

_STATISTICS_IMAGES = 5_000
_STATISTICS_BYTES = 150_000_000
_SHOWN = 20
_UNREADABLE_LIST = "unreadable.txt"


@dataclass(frozen=True)
class Labelled:
    """A labelled source, split. No image of ``validation`` or ``test`` is pretrained on."""

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet


@dataclass(frozen=True)
class Data:
    """What a matrix runs on.

    Attributes
    ----------
    pretrain : images to pretrain on; with labels where the source has them (the loop takes them away from tasks that declare none).
    evaluate : labelled sets to judge on.
    size : side of every image, in pixels.
    mean, std : per channel of pretraining pixels in [0, 1], over at most 5,000 images.
    notes : what a user should know: images left out, splits not used, how a folder was read.
    """

    pretrain: ImageSet
    evaluate: tuple[Labelled, ...]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    notes: list[str]


def load(
    spec: DataSpec, *, data_root: Path | str | None = None, cache: Path | str | None = None, progress: Progress | None = None,
) -> Data:
    """Find, check, decode and split the images of a matrix. Everything that can be refused without decoding is refused first.

    Parameters
    ----------
    spec : what to load.
    data_root : folder searched before anything is downloaded; None takes SSL_BENCH_DATA.
    cache : folder for packed images and downloads; None takes XDG_CACHE_HOME/ssl_bench or ~/.cache/ssl_bench.
    progress : called with (what is being done, done, total); total is 0 where it is not known.

    Raises
    ------
    DataError : sources that are missing or cannot be used, unreadable images (all of them listed) unless they are skipped, a full disk.
    """
    places = places_of(data_root, cache, progress, spec.size)
    sources = {source: open_source(source, places) for source in dict.fromkeys((*spec.evaluate, spec.pretrain))}
    size = spec.size or _common_size(list(sources.values()))
    notes = [note for source in sources.values() for note in source.notes]
    plans = {one: plan_evaluation(one, sources[one], spec, notes) for one in spec.evaluate}
    shared = spec.pretrain in plans
    if not shared:
        plans[spec.pretrain] = plan_pretraining(spec.pretrain, sources[spec.pretrain], spec, notes)
    packed = _pack_all(plans, size, spec, places, notes)

    labelled = []
    for one in spec.evaluate:
        sets = {role: packed[one, role][0] for role in ("train", "validation", "test")}
        name = sources[one].name
        if sum(sources[other].name == name for other in spec.evaluate) > 1:
            name = f"{name} ({one.source})"
        note_repeated(name, *(packed[one, role][1] for role in ("train", "validation", "test")), notes=notes)
        labelled.append(Labelled(name, **{role: replace(found, name=name) for role, found in sets.items()}))
    pretrain, hashes = packed[spec.pretrain, "train"]
    judged = [packed[one, role][1] for one in spec.evaluate if one != spec.pretrain for role in ("validation", "test")]
    pretrain = _without(pretrain, hashes, judged, notes)
    mean, std = _statistics(pretrain)
    return Data(pretrain, tuple(labelled), size, mean, std, notes)


def places_of(
    root: Path | str | None = None, cache: Path | str | None = None, progress: Progress | None = None, size: int | None = None
) -> Places:
    """Where images are looked for and packed; defaults as for ``load``."""
    return Places(cache_folder(cache), data_root(root), size, progress or silent)


def _common_size(sources: Sequence[Source]) -> int:
    sizes: dict[int, str] = {}
    for source in sources:
        if source.native is None:
            most = f"; the most common is {source.common[0]}x{source.common[1]}" if source.common else ""
            raise DataError(f"the images of {source.name} differ in size{most}; give `size` (the side in pixels that all are scaled to)")
        if source.native[0] != source.native[1]:
            raise DataError(f"the images of {source.name} are {source.native[0]}x{source.native[1]}, not square; give `size`")
        sizes[source.native[0]] = source.name
    if len(sizes) > 1:
        listed = ", ".join(f"{name}: {size} px" for size, name in sizes.items())
        raise DataError(f"sources differ in image size ({listed}); give `size`")
    size = next(iter(sizes))
    if not 8 <= size <= 1024:
        raise DataError(f"the images of {sizes[size]} are {size} px; give `size`, from 8 to 1024")
    return size


def _pack_all(
    plans: dict[SourceSpec, Plan], size: int, spec: DataSpec, places: Places, notes: list[str],
) -> dict[tuple[SourceSpec, str], tuple[ImageSet, np.ndarray]]:
    """Every role of every source as an image set with its hashes uint8 [N, 16]; unreadable images are listed for all of them at once."""
    found: dict[tuple[SourceSpec, str], tuple[ImageSet, np.ndarray]] = {}
    unreadable: list[str] = []
    total = 0
    for one, plan in plans.items():
        for split in dict.fromkeys(raw for raw, _ in plan.roles.values()):
            raw = plan.source.splits[split]
            needed = np.unique(np.concatenate([positions for used, positions in plan.roles.values() if used == split]))
            packed, row_of = _pack_needed(plan.source, split, raw, needed, size, spec, places)
            reasons = packed.unreadable
            bad = {int(at): reasons[int(row_of[at])] for at in needed if int(row_of[at]) in reasons} if reasons else {}
            unreadable += [f"{raw.reader.where(position)}: {reason}" for position, reason in bad.items()]
            total += len(needed)
            if bad and spec.skip_unreadable:
                notes.append(f"{plan.source.name}: {len(bad):,} unreadable {split} images are left out")
            for role, (used, positions) in plan.roles.items():
                if used == split:
                    found[one, role] = _image_set(plan, split, positions, packed, row_of, set(bad))
    if unreadable and not spec.skip_unreadable:
        shown = "\n  ".join(unreadable[:_SHOWN])
        more = ""
        if len(unreadable) > _SHOWN:
            listing = places.cache / _UNREADABLE_LIST
            listing.write_text("\n".join(unreadable) + "\n", encoding="utf-8", errors="surrogateescape")
            more = f"\n  and {len(unreadable) - _SHOWN:,} more, all listed in {listing}"
        raise DataError(
            f"{len(unreadable):,} of {total:,} images cannot be read; mend them, or leave them out with `skip_unreadable: true`:\n  "
            f"{shown}{more}"
        )
    if unreadable:
        for (_, role), (images, _) in found.items():
            if len(images) == 0 or images.labels is not None and role == "train" and len(np.unique(images.labels)) < len(images.classes):
                raise DataError(f"{images.name}: with the unreadable images left out, a class or a whole split ({role}) is empty")
    return found


def _pack_needed(
    source: Source, split: str, raw: RawSplit, needed: np.ndarray, size: int, spec: DataSpec, places: Places,
) -> tuple[Pack, np.ndarray]:
    """A pack that holds the needed positions, and the pack row of every position. Under a small `limit` only these are decoded."""
    what = f"{source.name} {split}"
    row_of = np.arange(len(raw))
    reader = raw.reader
    if len(needed) * 2 < len(raw) and not is_packed(reader, size, spec.fit, places.cache, places.progress):
        reader = Subset(reader, needed)
        row_of = np.full(len(raw), -1, np.int64)
        row_of[needed] = np.arange(len(needed))
    uniform = spec.size is None
    return pack(reader, size, spec.fit, places.cache, what=what, uniform=uniform, progress=places.progress), row_of


def _image_set(
    plan: Plan, split: str, positions: np.ndarray, packed: Pack, row_of: np.ndarray, bad: set[int],
) -> tuple[ImageSet, np.ndarray]:
    raw, labels = plan.source.splits[split], plan.labels.get(split)
    good = positions[[int(position) not in bad for position in positions]] if bad else positions
    rows = row_of[good]
    own = None if labels is None else labels[good]
    columns = {name: column[good] for name, column in raw.columns.items()}
    if raw.groups is not None:
        columns["group"] = raw.groups[good]
    hashes = packed.hashes[rows]
    classes = plan.classes if own is not None else ()
    fingerprint = _fingerprint(packed.pixels.shape[1], hashes, own)
    images = ImageSet(packed.pixels, rows, own, classes, plan.source.name, fingerprint, columns, skipped=len(positions) - len(good))
    return images, hashes


def _fingerprint(size: int, hashes: np.ndarray, labels: np.ndarray | None) -> str:
    """Over pixels and labels, in order; not over paths, times or what else the source holds."""
    found = hashlib.sha256(f"{size} {len(hashes)} ".encode() + hashes.tobytes())
    if labels is not None:
        found.update(labels.astype("<i8").tobytes())
    return found.hexdigest()[:32]


def note_repeated(name: str, train: np.ndarray, *judged: np.ndarray, notes: list[str]) -> None:
    """Say how many training images are validated or tested on too, found by equal pixels."""
    seen = {bytes(row) for found in judged for row in found}
    if repeated := sum(bytes(row) in seen for row in train):
        notes.append(f"{name}: {repeated:,} training images are also validation or test images, pixel for pixel")


def _without(images: ImageSet, hashes: np.ndarray, judged: Sequence[np.ndarray], notes: list[str]) -> ImageSet:
    """The pretraining images without those that another source validates or tests on, found by equal pixels."""
    if not judged:
        return images
    seen = {bytes(row) for found in judged for row in found}
    keep = np.array([bytes(row) not in seen for row in hashes], bool)
    if keep.all():
        return images
    notes.append(
        f"{images.name}: {int((~keep).sum()):,} images are also validation or test images of an evaluate source and are not "
        "pretrained on"
    )
    if not keep.any():
        raise DataError(f"{images.name}: every image to pretrain on is a validation or test image of an evaluate source")
    kept = np.flatnonzero(keep)
    labels = None if images.labels is None else images.labels[kept]
    return images.take(kept, _fingerprint(images.size, hashes[kept], labels))


def _statistics(images: ImageSet) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel, exactly, over an evenly spaced sample."""
    most = max(1, min(_STATISTICS_IMAGES, _STATISTICS_BYTES // (images.size**2 * 3)))
    counts = np.zeros((3, 256), np.int64)
    for rows in np.array_split(images.rows[evenly_spaced(len(images), most)], max(1, most // 100)):
        pixels = images.pixels[rows]
        counts += np.stack([np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)])
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(1)
    std = np.sqrt(np.maximum(counts @ levels**2 / counts.sum(1) - mean**2, 0))
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))
