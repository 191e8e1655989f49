"""From a data spec to image sets: one to pretrain on, and for each labelled source train, validation and test."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssl_bench.data.duplicates import Copy, copies_of, note_copies
from ssl_bench.data.images import ImageSet, evenly_spaced, fingerprint_of
from ssl_bench.data.leaks import JudgedElsewhere, note_repeated, without, without_groups, without_judged_elsewhere
from ssl_bench.data.packs.levels import Rescaled, range_of
from ssl_bench.data.packs.packing import MORE_ROOM, SPARE_DISK, Pack, is_packed, pack, still_needed
from ssl_bench.data.places import Places, Progress, places_of
from ssl_bench.data.readers import RawSet, Reader, Subset
from ssl_bench.data.roles import SIBLINGS, SplitPlan, plan_evaluation, plan_pretraining
from ssl_bench.data.sources.catalogue import check_source, list_sources, open_source
from ssl_bench.errors import DataError
from ssl_bench.spec.matrix import DataSpec, SourceSpec
from ssl_bench.system.amounts import bytes_text
from ssl_bench.system.disk import remove_leftovers, write_bytes

__all__ = ["Data", "Labelled", "duplicates", "list_sources", "load"]

_STATISTICS_IMAGES = 5_000
_STATISTICS_BYTES = 150_000_000
_SHOWN = 20
_TOLD = 3
FEW = 20  # a share below one twentieth is packed alone without asking
# folders of small files, in which killed writers may have left parts
_CACHES = ("checked_tasks", "content", "hashes", "hub", "packs", "ranges", "shapes")
_UNREADABLE_LIST = "unreadable.txt"


_Role = tuple[ImageSet, np.ndarray, np.ndarray]  # images, their hashes uint8 [N, 16], their positions in the raw split


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
    pretrain : images to pretrain on; with labels where they are those of an evaluate source or the only images there are, and have some (the loop
        takes them away from tasks that declare none).
    evaluate : labelled sets to judge on.
    size : side of every image, in pixels.
    mean, std : per channel of pretraining pixels in [0, 1], over at most 5,000 images.
    notes : what a user should know: images left out, splits not used, how a folder was read.
    unlabelled : why ``pretrain`` has no labels; "" where it has some.
    """

    pretrain: ImageSet
    evaluate: tuple[Labelled, ...]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    notes: list[str]
    unlabelled: str = ""


def load(
    spec: DataSpec,
    *,
    data_root: Path | str | None = None,
    cache: Path | str | None = None,
    progress: Progress | None = None,
    judged: Sequence[JudgedElsewhere] = (),
    unpacked: dict[str, int] | None = None,
) -> Data:
    """Find, check, decode and split the images of a matrix. Everything that can be refused without decoding is refused first.

    Parameters
    ----------
    spec : what to load.
    data_root : folder searched before anything is downloaded; None takes SSL_BENCH_DATA.
    cache : folder for packed images and downloads; None takes XDG_CACHE_HOME/ssl_bench or ~/.cache/ssl_bench.
    progress : called with (what is being done, done, total); total is 0 where it is not known.
    judged : what evaluators judge on by themselves: not pretrained on either.
    unpacked : takes what is not packed yet, which is then not packed, as ``Places.unpacked`` does; None: everything is packed.

    Raises
    ------
    DataError : sources that are missing or cannot be used, unreadable images (all of them listed) unless they are skipped, a full disk.
    """
    places = places_of(data_root, cache, progress, spec.size, unpacked)
    for kind in _CACHES:
        remove_leftovers(places.cache / kind)
    notes: list[str] = []
    sources, plans, size, packed = _packed(spec, places, notes)
    evaluate = tuple(dict.fromkeys(spec.evaluate))

    labelled = []
    for one, name in zip(evaluate, _names([(one, sources[one].name) for one in evaluate]), strict=True):
        sets = {role: packed[one, role][0] for role in ("train", "validation", "test")}
        note_repeated(name, {role: packed[one, role][1] for role in sets}, notes)
        note_copies(name, {role: packed[one, role][:2] for role in sets}, notes)
        labelled.append(Labelled(name, **{role: replace(found, name=name) for role, found in sets.items()}))
    pretrain, hashes, _ = packed[spec.pretrain, "train"]
    if spec.pretrain not in evaluate:
        note_copies(sources[spec.pretrain].name, {"train": (pretrain, hashes)}, notes)
    for one in evaluate:
        if one != spec.pretrain and one.group is not None and one.group == spec.pretrain.group:
            judged_names = {sources[one].group_names[group] for group in plans[one].judged_groups()}
            pretrain, hashes = without_groups(
                pretrain,
                hashes,
                sources[spec.pretrain].group_names,
                judged_names,
                one.group,
                "an evaluate source",
                notes,
            )
    elsewhere = [found for (one, role), (_, found, _) in packed.items() if one != spec.pretrain and role != "train"]
    pretrain, hashes = without(pretrain, hashes, elsewhere, "an evaluate source", notes)
    pretrain = without_judged_elsewhere(pretrain, hashes, judged, spec.pretrain.source, spec.fit, places, notes)
    mean, std = _statistics(pretrain)
    unlabelled = "" if pretrain.labels is not None else f"the pretraining images ({pretrain.name}) have none"
    if evaluate and not any(_same_labels(spec.pretrain, one) for one in evaluate):
        # What they may be labelled with, such as the years that photos lie in folders of, is not what the table is
        # about.
        judged_on = " and ".join(one.name for one in labelled)
        unlabelled = f"the pretraining images ({pretrain.name}) are not the ones that rows are judged on ({judged_on}), and have no labels of those classes"
        pretrain = pretrain.without_labels()
    return Data(pretrain, tuple(labelled), size, mean, std, notes, unlabelled)


def _same_labels(one: SourceSpec, other: SourceSpec) -> bool:
    """Whether two sources are the same images with the same labels, however each is split."""
    how = {"group": None, "test": None}
    return one.model_copy(update=how) == other.model_copy(update=how)


def duplicates(
    spec: DataSpec,
    *,
    data_root: Path | str | None = None,
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> list[Copy]:
    """The images that a source of ``spec`` holds more than once, by equal pixels at the matrix's size. Arguments and errors are those of ``load``."""
    sources, plans, _, packed = _packed(spec, places_of(data_root, cache, progress, spec.size), [])
    found: list[Copy] = []
    for one, name in zip(plans, _names([(one, sources[one].name) for one in plans]), strict=True):
        entries = []
        for role in [role for role in plans[one].roles if not role.startswith(SIBLINGS)]:
            images, hashes, positions = packed[one, role]
            reader = sources[one].splits[plans[one].roles[role][0]].reader
            for at, position in enumerate(positions):
                label = "" if images.labels is None else images.classes[images.labels[at]]
                entries.append((bytes(hashes[at]), role, label, reader.where(int(position))))
        found += copies_of(name, entries, found[-1].number + 1 if found else 1)
    return found


def _packed(
    spec: DataSpec,
    places: Places,
    notes: list[str],
) -> tuple[dict[SourceSpec, RawSet], dict[SourceSpec, SplitPlan], int, dict[tuple[SourceSpec, str], _Role]]:
    """Sources, what their images are for, the images' size, and every role of every source decoded."""
    sources = {source: open_source(source, places) for source in dict.fromkeys((*spec.evaluate, spec.pretrain))}
    if spec.range == "set":
        sources = {one: _with_own_range(source, places) for one, source in sources.items()}
    size = spec.size or _common_size(list(sources.values()))
    notes += [note for source in sources.values() for note in source.notes]
    plans = {one: plan_evaluation(one, sources[one], spec, notes) for one in dict.fromkeys(spec.evaluate)}
    plans = {one: plan if one == spec.pretrain else plan.with_siblings() for one, plan in plans.items()}
    if spec.pretrain not in plans:
        plans[spec.pretrain] = plan_pretraining(spec.pretrain, sources[spec.pretrain], spec, notes)
    return sources, plans, size, _pack_all(plans, size, spec, places, notes)


def _with_own_range(source: RawSet, places: Places) -> RawSet:
    """The source with images of more than 8 bits scaled by the range of its training images; others stay as they are."""
    reader = source.splits["train"].reader
    found = range_of(reader, places, source.name)
    if found is not None and not found.images:
        return replace(
            source,
            notes=(
                *source.notes,
                f"{source.name}: `range: set` changes nothing, for no training image has more than 8 bits a channel",
            ),
        )
    # not known yet: nothing that is packed counts as these images
    low, high = (math.nan, math.nan) if found is None else (found.low, found.high)
    told = (
        ()
        if found is None
        else (
            f"{source.name}: levels {low:,g} to {high:,g}, those of its {found.images:,} training images of more than 8 bits a channel, "
            "are scaled to 0 to 255; what lies outside in other splits is cut off",
        )
    )
    splits = {name: replace(split, reader=Rescaled(split.reader, low, high)) for name, split in source.splits.items()}
    return replace(source, splits=splits, notes=(*source.notes, *told))


def check(spec: DataSpec, places: Places) -> None:
    """Refuse (DataError) sources that cannot be and paths that do not exist, before anything is downloaded or decoded for a matrix."""
    for source in dict.fromkeys((*spec.evaluate, spec.pretrain)):
        check_source(source, places)


def _names(evaluate: Sequence[tuple[SourceSpec, str]]) -> list[str]:
    """The names of labelled sets; where sources share one, with the settings that tell them apart."""
    names = []
    for one, name in evaluate:
        settings = [other.model_dump() for other, its in evaluate if its == name]
        apart = [key for key in settings[0] if len({other[key] for other in settings}) > 1]
        told = ", ".join(one.source if key == "source" else f"{key} {getattr(one, key) or 'none'}" for key in apart)
        names.append(f"{name} ({told})" if told else name)
    return [name if names.count(name) == 1 else f"{name} {number}" for number, name in enumerate(names, 1)]


def _common_size(sources: Sequence[RawSet]) -> int:
    sizes: dict[int, str] = {}
    for source in sources:
        if source.native is None:
            most = f"; the most common is {source.common[0]}x{source.common[1]}" if source.common else ""
            raise DataError(
                f"the images of {source.name} differ in size{most}; give `size` (the side in pixels that all are scaled to)"
            )
        if source.native[0] != source.native[1]:
            raise DataError(
                f"the images of {source.name} are {source.native[0]}x{source.native[1]}, not square; give `size`"
            )
        sizes[source.native[0]] = source.name
    if len(sizes) > 1:
        listed = ", ".join(f"{name}: {size} px" for size, name in sizes.items())
        raise DataError(f"sources differ in image size ({listed}); give `size`")
    size = next(iter(sizes))
    if not 8 <= size <= 1024:
        raise DataError(f"the images of {sizes[size]} are {size} px; give `size`, from 8 to 1024")
    return size


def _pack_all(
    plans: dict[SourceSpec, SplitPlan],
    size: int,
    spec: DataSpec,
    places: Places,
    notes: list[str],
) -> dict[tuple[SourceSpec, str], _Role]:
    """Every role of every source; unreadable images are listed for all of them at once."""
    found: dict[tuple[SourceSpec, str], _Role] = {}
    unreadable: list[str] = []
    total = 0
    for source in {id(plan.source): plan.source for plan in plans.values()}.values():
        unreadable += source.unreadable
        total += len(source.unreadable)
        if source.unreadable and spec.skip_unreadable:
            told = f"{', '.join(source.unreadable[:_TOLD])}{' ...' if len(source.unreadable) > _TOLD else ''}"
            notes.append(f"{source.name}: {len(source.unreadable):,} entries that cannot be read are left out: {told}")
    splits = [
        (one, plan, split)
        for one, plan in plans.items()
        for split in dict.fromkeys(raw for raw, _ in plan.roles.values())
    ]
    readers = {(one, split): _reader(plan, split, size, spec, places) for one, plan, split in splits}
    if places.unpacked is None:
        _check_room([(_what(plan, split), readers[one, split][0]) for one, plan, split in splits], size, spec, places)
    for one, plan in plans.items():
        for split in dict.fromkeys(raw for raw, _ in plan.roles.values()):
            raw, (reader, row_of, needed) = plan.source.splits[split], readers[one, split]
            packed = pack(
                reader,
                size,
                spec.fit,
                places,
                what=_what(plan, split),
                uniform=spec.size is None,
            )
            reasons = packed.unreadable
            notes += packed.facts.told(_what(plan, split))
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
            more = f"\n  and {len(unreadable) - _SHOWN:,} more"
            with suppress(OSError):  # packed before, in a cache that cannot be written any more
                write_bytes(listing, "".join(f"{one}\n" for one in unreadable).encode("utf-8", "surrogateescape"))
                more += f", all listed in {listing}"
        raise DataError(
            f"{len(unreadable):,} of {total:,} images cannot be read; mend them, or leave them out with `skip_unreadable: true`:\n  "
            f"{shown}{more}"
        )
    if unreadable:
        for (_, role), (images, *_) in found.items():
            if role.startswith(SIBLINGS):
                continue
            counts = (
                np.bincount(images.labels, minlength=len(images.classes))
                if images.labels is not None and role == "train"
                else np.ones(1)
            )
            if len(images) == 0 or not counts.all():
                lost = (
                    f"class {images.classes[int(np.argmin(counts))]!r} has" if len(images) else f"the {role} split has"
                )
                raise DataError(
                    f"{images.name}: with the unreadable images left out, {lost} no image left; mend some of them, or take what is empty out"
                )
    return found


def _what(plan: SplitPlan, split: str) -> str:
    return f"{plan.source.name} {split}"


def _reader(
    plan: SplitPlan, split: str, size: int, spec: DataSpec, places: Places
) -> tuple[Reader, np.ndarray, np.ndarray]:
    """A reader to pack, the pack row of every position, and the positions that are needed. Under a small `limit` only these are decoded."""
    reader = plan.source.splits[split].reader
    needed = np.unique(np.concatenate([positions for used, positions in plan.roles.values() if used == split]))
    row_of = np.arange(len(reader))
    few = len(needed) * 2 < len(reader)
    # Of a small share it would take longer to read everything, to see whether all of it is packed, than to decode it.
    searched = places if len(needed) * FEW > len(reader) else places.without_reading()
    if few and not is_packed(reader, size, spec.fit, searched):
        reader = Subset(reader, needed)
        row_of = np.full(len(row_of), -1, np.int64)
        row_of[needed] = np.arange(len(needed))
    return reader, row_of, needed


def _check_room(wanted: Sequence[tuple[str, Reader]], size: int, spec: DataSpec, places: Places) -> None:
    """Refuse packs that together do not fit on the disk, before the first of them is written; ``pack`` refuses one that does not fit alone."""
    folder = next(folder for folder in (places.cache, *places.cache.parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free - SPARE_DISK
    # what is packed under another path is only found by reading, which nobody should wait for needlessly
    for searched in (places.without_reading(), places):
        sizes = [(what, still_needed(reader, size, spec.fit, searched)) for what, reader in wanted]
        needs = list(dict.fromkeys(sizes))  # several lists of labels may be of the same images
        if sum(needed for _, needed in needs) <= free or sum(needed > 0 for _, needed in needs) < 2:
            return
    listed = ", ".join(f"{what}: {bytes_text(needed)}" for what, needed in needs if needed)
    total = bytes_text(sum(needed for _, needed in needs))
    room = f"{bytes_text(max(0, free))} are free"  # beside what is left to others, so 0 B where less than that is free
    raise DataError(f"packing takes {total} in {places.cache} ({listed}), where {room}; {MORE_ROOM} or `limit`")


def _image_set(
    plan: SplitPlan,
    split: str,
    positions: np.ndarray,
    packed: Pack,
    row_of: np.ndarray,
    bad: set[int],
) -> _Role:
    raw, labels = plan.source.splits[split], plan.labels.get(split)
    good = positions[[int(position) not in bad for position in positions]] if bad else positions
    rows = row_of[good]
    own = None if labels is None else labels[good]
    columns = {name: column[good] for name, column in raw.columns.items()}
    if raw.groups is not None:
        columns["group"] = raw.groups[good]
    hashes = packed.hashes[rows]
    classes = plan.classes if own is not None else ()
    fingerprint = fingerprint_of(packed.pixels.shape[1], hashes, own)
    left_out = len(positions) - len(good)
    images = ImageSet(
        packed.pixels,
        rows,
        own,
        classes,
        plan.source.name,
        fingerprint,
        columns,
        skipped=left_out,
        checked=packed.checked,
    )
    return images, hashes, good


def _statistics(images: ImageSet) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel, exactly, over an evenly spaced sample."""
    most = max(1, min(_STATISTICS_IMAGES, _STATISTICS_BYTES // (images.size**2 * 3)))
    counts = np.zeros((3, 256), np.int64)
    for positions in np.array_split(evenly_spaced(len(images), most), max(1, most // 100)):
        pixels = images.read(positions)
        counts += np.stack([np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)])
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(1)
    std = np.sqrt(np.maximum(counts @ levels**2 / counts.sum(1) - mean**2, 0))
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))
