"""From a data spec to image sets: one to pretrain on, and for each labelled source train, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssl_bench.data.duplicates import Copy, copies_of, note_copies
from ssl_bench.data.images import ImageSet, evenly_spaced
from ssl_bench.data.leaks import JudgedElsewhere, note_repeated, without, without_groups, without_judged_elsewhere
from ssl_bench.data.packed_roles import pack_roles
from ssl_bench.data.places import Places, Progress, places_of
from ssl_bench.data.roles import SIBLINGS
from ssl_bench.data.sources.catalogue import check_source, list_sources
from ssl_bench.spec.data import DataSpec, SourceSpec
from ssl_bench.system.disk import remove_leftovers

__all__ = ["Data", "Labelled", "check", "duplicates", "list_sources", "load"]

_STATISTICS_IMAGES = 5_000
_STATISTICS_BYTES = 150_000_000
# folders of small files, in which killed writers may have left parts
_CACHES = ("checked_tasks", "content", "hashes", "hub", "packs", "ranges", "shapes")


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
    pretrain : images to pretrain on; with labels where they are those of an evaluate source or the only images there
        are, and have some (the loop takes them away from tasks that declare none).
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
    """Find, check, decode and split the images of a matrix.

    Everything that can be refused without decoding is refused first.

    Parameters
    ----------
    spec : what to load.
    data_root : folder searched before anything is downloaded; None takes SSL_BENCH_DATA.
    cache : folder for packed images and downloads; None takes XDG_CACHE_HOME/ssl_bench or ~/.cache/ssl_bench.
    progress : called with (what is being done, done, total); total is 0 where it is not known.
    judged : what evaluators judge on by themselves: not pretrained on either.
    unpacked : takes what is not packed yet, which is then not packed, as ``Places.unpacked`` does; None: everything is
        packed.

    Raises
    ------
    DataError : sources that are missing or cannot be used, unreadable images (all of them listed) unless they are
        skipped, a full disk.
    """
    places = places_of(data_root, cache, progress, spec.size, unpacked)
    for kind in _CACHES:
        remove_leftovers(places.cache / kind)
    notes: list[str] = []
    packed = pack_roles(spec, places, notes)
    evaluate = tuple(dict.fromkeys(spec.evaluate))

    labelled = []
    for source, name in zip(
        evaluate, _names_of_sets([(source, packed.raw[source].name) for source in evaluate]), strict=True
    ):
        roles = {role: packed.roles[source, role] for role in ("train", "validation", "test")}
        note_repeated(name, {role: of_role.hashes for role, of_role in roles.items()}, notes)
        note_copies(name, {role: (of_role.images, of_role.hashes) for role, of_role in roles.items()}, notes)
        labelled.append(Labelled(name, **{role: replace(of_role.images, name=name) for role, of_role in roles.items()}))
    pretrain, hashes = packed.roles[spec.pretrain, "train"].images, packed.roles[spec.pretrain, "train"].hashes
    if spec.pretrain not in evaluate:
        note_copies(packed.raw[spec.pretrain].name, {"train": (pretrain, hashes)}, notes)
    for source in evaluate:
        if source != spec.pretrain and source.group is not None and source.group == spec.pretrain.group:
            judged_names = {packed.raw[source].group_names[group] for group in packed.plans[source].judged_groups()}
            group_names = packed.raw[spec.pretrain].group_names
            pretrain, hashes = without_groups(
                pretrain, hashes, group_names, judged_names, source.group, "an evaluate source", notes
            )
    elsewhere = [
        of_role.hashes
        for (source, role), of_role in packed.roles.items()
        if source != spec.pretrain and role != "train"
    ]
    pretrain, hashes = without(pretrain, hashes, elsewhere, "an evaluate source", notes)
    pretrain = without_judged_elsewhere(pretrain, hashes, judged, spec.pretrain.source, spec.fit, places, notes)
    mean, std = _statistics(pretrain)
    unlabelled = "" if pretrain.labels is not None else f"the pretraining images ({pretrain.name}) have none"
    if evaluate and not any(_same_labels(spec.pretrain, source) for source in evaluate):
        # their labels, such as the years that photos lie in folders of, are not what the table is about
        judged_on = " and ".join(judged_set.name for judged_set in labelled)
        unlabelled = (
            f"the pretraining images ({pretrain.name}) are not the ones that rows are judged on ({judged_on}), "
            "and have no labels of those classes"
        )
        pretrain = pretrain.without_labels()
    return Data(pretrain, tuple(labelled), packed.size, mean, std, notes, unlabelled)


def _same_labels(source: SourceSpec, other: SourceSpec) -> bool:
    """Whether two sources are the same images with the same labels, however each is split."""
    how = {"group": None, "test": None}
    return source.model_copy(update=how) == other.model_copy(update=how)


def duplicates(
    spec: DataSpec,
    *,
    data_root: Path | str | None = None,
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> list[Copy]:
    """The images that a source of ``spec`` holds more than once, by equal pixels at the matrix's size.

    Arguments and errors are those of ``load``.
    """
    packed = pack_roles(spec, places_of(data_root, cache, progress, spec.size), [])
    copies: list[Copy] = []
    names = _names_of_sets([(source, packed.raw[source].name) for source in packed.plans])
    for (source, plan), name in zip(packed.plans.items(), names, strict=True):
        entries = []
        for role in [role for role in plan.roles if not role.startswith(SIBLINGS)]:
            of_role = packed.roles[source, role]
            images, reader = of_role.images, plan.source.splits[plan.roles[role][0]].reader
            for at, position in enumerate(of_role.positions):
                label = "" if images.labels is None else images.classes[images.labels[at]]
                entries.append((bytes(of_role.hashes[at]), role, label, reader.where(int(position))))
        copies += copies_of(name, entries, copies[-1].number + 1 if copies else 1)
    return copies


def check(spec: DataSpec, places: Places) -> None:
    """Refuse (DataError) sources that cannot be and paths that do not exist, before anything is downloaded or
    decoded."""
    for source in dict.fromkeys((*spec.evaluate, spec.pretrain)):
        check_source(source, places)


def _names_of_sets(evaluate: Sequence[tuple[SourceSpec, str]]) -> list[str]:
    """The names of labelled sets; where sources share one, with the settings that tell them apart."""
    names = []
    for source, name in evaluate:
        settings = [other.model_dump() for other, its in evaluate if its == name]
        apart = [key for key in settings[0] if len({other[key] for other in settings}) > 1]
        told = ", ".join(
            source.source if key == "source" else f"{key} {getattr(source, key) or 'none'}" for key in apart
        )
        names.append(f"{name} ({told})" if told else name)
    return [name if names.count(name) == 1 else f"{name} {number}" for number, name in enumerate(names, 1)]


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
