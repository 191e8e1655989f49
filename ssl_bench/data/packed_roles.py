"""Every role that the images of a matrix play, decoded: what fits on the disk, what cannot be read, what a limit leaves
out."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from ssl_bench.data.images import ImageSet, fingerprint_of
from ssl_bench.data.packs.levels import Rescaled, range_of
from ssl_bench.data.packs.packing import Pack, is_packed, pack, still_needed
from ssl_bench.data.packs.room import MORE_ROOM, SPARE_DISK
from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet, Reader, Subset
from ssl_bench.data.roles import SIBLINGS, SplitPlan, plan_evaluation, plan_pretraining
from ssl_bench.data.sources.catalogue import open_source
from ssl_bench.errors import DataError
from ssl_bench.spec.data import DataSpec, SourceSpec
from ssl_bench.system.amounts import bytes_text
from ssl_bench.system.disk import write_bytes

_SHOWN = 20
_TOLD = 3
FEW = 20  # a share below one twentieth is packed alone without asking
_UNREADABLE_LIST = "unreadable.txt"


@dataclass(frozen=True)
class RoleImages:
    """The images of one role of one source.

    Attributes
    ----------
    images : N decoded images.
    hashes : uint8 [N, 16], of their pixels.
    positions : int64 [N], in the raw split.
    """

    images: ImageSet
    hashes: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class PackedRoles:
    """The sources of a matrix, decoded.

    Attributes
    ----------
    raw : each source before it was decoded.
    plans : which of its images play which role.
    size : side of every image, in pixels.
    roles : source and role ("train", "validation", "test", "siblings of SPLIT") to its images.
    """

    raw: dict[SourceSpec, RawSet]
    plans: dict[SourceSpec, SplitPlan]
    size: int
    roles: dict[tuple[SourceSpec, str], RoleImages]


def pack_roles(spec: DataSpec, places: Places, notes: list[str]) -> PackedRoles:
    """Open every source, decide what its images are for, and decode them. Errors are those of ``load``."""
    raw = {source: open_source(source, places) for source in dict.fromkeys((*spec.evaluate, spec.pretrain))}
    if spec.range == "set":
        raw = {source: _rescaled(raw_set, places) for source, raw_set in raw.items()}
    size = spec.size or _common_size(list(raw.values()))
    notes += [note for raw_set in raw.values() for note in raw_set.notes]
    plans = {
        source: _planned(plan_evaluation, source, raw[source], spec, notes) for source in dict.fromkeys(spec.evaluate)
    }
    plans = {source: plan if source == spec.pretrain else plan.with_siblings() for source, plan in plans.items()}
    if spec.pretrain not in plans:
        plans[spec.pretrain] = _planned(plan_pretraining, spec.pretrain, raw[spec.pretrain], spec, notes)
    return PackedRoles(raw, plans, size, _pack_all(plans, size, spec, places, notes))


def _planned(
    plan: Callable[[SourceSpec, RawSet, DataSpec, list[str]], SplitPlan],
    source: SourceSpec,
    raw: RawSet,
    spec: DataSpec,
    notes: list[str],
) -> SplitPlan:
    """A source's plan; where it is refused, with how the source was read, which may be the reason."""
    try:
        return plan(source, raw, spec, notes)
    except DataError as error:
        if not raw.notes:
            raise
        raise DataError("\n  ".join([f"{error}\nHow it was read:", *raw.notes])) from None


def _rescaled(raw: RawSet, places: Places) -> RawSet:
    """The set with images of more than 8 bits scaled by the range of its training images; others stay as they are."""
    levels = range_of(raw.splits["train"].reader, places, raw.name)
    if levels is not None and not levels.images:
        note = f"{raw.name}: `range: set` changes nothing: no training image has more than 8 bits a channel"
        return replace(raw, notes=(*raw.notes, note))
    if levels is None:  # not known yet: nothing that is packed counts as these images
        low, high, notes = math.nan, math.nan, raw.notes
    else:
        low, high = levels.low, levels.high
        note = (
            f"{raw.name}: levels {low:,g} to {high:,g}, those of its {levels.images:,} training images of more than 8 "
            "bits "
            "a channel, are scaled to 0 to 255; levels of other splits outside that range are clipped"
        )
        notes = (*raw.notes, note)
    splits = {name: replace(split, reader=Rescaled(split.reader, low, high)) for name, split in raw.splits.items()}
    return replace(raw, splits=splits, notes=notes)


def _common_size(raw_sets: Sequence[RawSet]) -> int:
    sizes: dict[int, str] = {}
    for raw in raw_sets:
        if raw.native is None:
            most = f"; the most common is {raw.common[0]}x{raw.common[1]}" if raw.common else ""
            raise DataError(
                f"the images of {raw.name} differ in size{most}; give `size` (the side in pixels that all are scaled "
                "to)"
            )
        if raw.native[0] != raw.native[1]:
            raise DataError(f"the images of {raw.name} are {raw.native[0]}x{raw.native[1]}, not square; give `size`")
        sizes[raw.native[0]] = raw.name
    if len(sizes) > 1:
        listed = ", ".join(f"{name}: {size} px" for size, name in sizes.items())
        raise DataError(f"sources differ in image size ({listed}); give `size`")
    size = next(iter(sizes))
    if not 8 <= size <= 1024:
        raise DataError(f"the images of {sizes[size]} are {size} px; give `size`, from 8 to 1024")
    return size


def _pack_all(
    plans: dict[SourceSpec, SplitPlan], size: int, spec: DataSpec, places: Places, notes: list[str]
) -> dict[tuple[SourceSpec, str], RoleImages]:
    """Every role of every source; unreadable images are listed for all of them at once."""
    roles: dict[tuple[SourceSpec, str], RoleImages] = {}
    unreadable: list[str] = []
    total = 0
    for raw in {id(plan.source): plan.source for plan in plans.values()}.values():
        unreadable += raw.unreadable
        total += len(raw.unreadable)
        if raw.unreadable and spec.skip_unreadable:
            told = f"{', '.join(raw.unreadable[:_TOLD])}{' ...' if len(raw.unreadable) > _TOLD else ''}"
            notes.append(f"{raw.name}: {len(raw.unreadable):,} entries that cannot be read are left out: {told}")
    needs = [
        (source, plan, split, _needed_images(plan, split, size, spec, places))
        for source, plan in plans.items()
        for split in dict.fromkeys(used for used, _ in plan.roles.values())
    ]
    if places.unpacked is None:
        _check_room([(_what(plan, split), needed.reader) for _, plan, split, needed in needs], size, spec, places)
    for source, plan, split, needed in needs:
        what, where = _what(plan, split), plan.source.splits[split].reader.where
        packed = pack(needed.reader, size, spec.fit, places, what=what, uniform=spec.size is None)
        reasons, rows = packed.unreadable, needed.row_of
        notes += packed.facts.told(what)
        bad = (
            {int(at): reasons[int(rows[at])] for at in needed.positions if int(rows[at]) in reasons} if reasons else {}
        )
        unreadable += [f"{where(position)}: {reason}" for position, reason in bad.items()]
        total += len(needed.positions)
        if bad and spec.skip_unreadable:
            notes.append(f"{plan.source.name}: {len(bad):,} unreadable {split} images are left out")
        for role, (used, positions) in plan.roles.items():
            if used == split:
                roles[source, role] = _role_images(plan, split, positions, packed, rows, set(bad))
    if unreadable and not spec.skip_unreadable:
        _refuse_unreadable(unreadable, total, places)
    if unreadable:
        for (_, role), of_role in roles.items():
            if not role.startswith(SIBLINGS):
                _refuse_emptied(of_role.images, role)
    return roles


def _refuse_unreadable(unreadable: Sequence[str], total: int, places: Places) -> None:
    shown = "\n  ".join(unreadable[:_SHOWN])
    more = ""
    if len(unreadable) > _SHOWN:
        listing = places.cache / _UNREADABLE_LIST
        more = f"\n  and {len(unreadable) - _SHOWN:,} more"
        with suppress(OSError):  # packed before, in a cache that cannot be written any more
            write_bytes(listing, "".join(f"{line}\n" for line in unreadable).encode("utf-8", "surrogateescape"))
            more += f", all listed in {listing}"
    raise DataError(
        f"{len(unreadable):,} of {total:,} images cannot be read; mend them, or leave them out with "
        f"`skip_unreadable: true`:\n  {shown}{more}"
    )


def _refuse_emptied(images: ImageSet, role: str) -> None:
    """Refuse a role, or a class to train on, of which unreadable images leave nothing."""
    counts: np.ndarray = np.ones(1)
    if images.labels is not None and role == "train":
        counts = np.bincount(images.labels, minlength=len(images.classes))
    if len(images) == 0 or not counts.all():
        lost = f"class {images.classes[int(np.argmin(counts))]!r} has" if len(images) else f"the {role} split has"
        raise DataError(
            f"{images.name}: with the unreadable images left out, {lost} no image left; mend some of them, or take "
            "what is "
            "empty out"
        )


def _what(plan: SplitPlan, split: str) -> str:
    return f"{plan.source.name} {split}"


@dataclass(frozen=True)
class _Needed:
    """What of a split is packed.

    Attributes
    ----------
    reader : of the whole split, or of the needed positions alone.
    row_of : int64 [N], the pack's row of every position; -1 where it is not packed.
    positions : int64, sorted, those that a role has.
    """

    reader: Reader
    row_of: np.ndarray
    positions: np.ndarray


def _needed_images(plan: SplitPlan, split: str, size: int, spec: DataSpec, places: Places) -> _Needed:
    """Under a small `limit` only the images of it are decoded."""
    reader = plan.source.splits[split].reader
    positions = np.unique(np.concatenate([positions for used, positions in plan.roles.values() if used == split]))
    row_of = np.arange(len(reader))
    few = len(positions) * 2 < len(reader)
    # Of a small share it would take longer to read everything, to see whether all of it is packed, than to decode it.
    searched = places if len(positions) * FEW > len(reader) else places.without_reading()
    if few and not is_packed(reader, size, spec.fit, searched):
        reader = Subset(reader, positions)
        row_of = np.full(len(row_of), -1, np.int64)
        row_of[positions] = np.arange(len(positions))
    return _Needed(reader, row_of, positions)


def _check_room(wanted: Sequence[tuple[str, Reader]], size: int, spec: DataSpec, places: Places) -> None:
    """Refuse packs that together do not fit on the disk, before the first is written; ``pack`` refuses one that does
    not fit alone."""
    folder = next(folder for folder in (places.cache, *places.cache.parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free - SPARE_DISK
    # what is packed under another path is only known by reading, which nobody should wait for needlessly
    for searched in (places.without_reading(), places):
        sizes = [(what, still_needed(reader, size, spec.fit, searched)) for what, reader in wanted]
        needs = list(dict.fromkeys(sizes))  # several lists of labels may be of the same images
        if sum(needed for _, needed in needs) <= free or sum(needed > 0 for _, needed in needs) < 2:
            return
    listed = ", ".join(f"{what}: {bytes_text(needed)}" for what, needed in needs if needed)
    total = bytes_text(sum(needed for _, needed in needs))
    room = f"{bytes_text(max(0, free))} are free"  # beside what is left to others, so 0 B where less than that is free
    raise DataError(f"packing takes {total} in {places.cache} ({listed}), where {room}; {MORE_ROOM} or `limit`")


def _role_images(
    plan: SplitPlan, split: str, positions: np.ndarray, packed: Pack, row_of: np.ndarray, bad: set[int]
) -> RoleImages:
    raw, labels = plan.source.splits[split], plan.labels.get(split)
    good = positions[[int(position) not in bad for position in positions]] if bad else positions
    rows = row_of[good]
    role_labels = None if labels is None else labels[good]
    columns = {name: column[good] for name, column in raw.columns.items()}
    if raw.groups is not None:
        columns["group"] = raw.groups[good]
    hashes = packed.hashes[rows]
    images = ImageSet(
        packed.pixels,
        rows,
        role_labels,
        plan.classes if role_labels is not None else (),
        plan.source.name,
        fingerprint_of(packed.pixels.shape[1], hashes, role_labels),
        columns,
        skipped=len(positions) - len(good),
        checked=packed.checked,
    )
    return RoleImages(images, hashes, good)
