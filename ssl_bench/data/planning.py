"""Which image plays which role, decided from labels and groups alone, before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssl_bench.data import splits
from ssl_bench.data.readers import RawSplit, Source
from ssl_bench.errors import DataError
from ssl_bench.spec import DataSpec, SourceSpec

_SHOWN = 20


@dataclass(frozen=True)
class Plan:
    """Which positions of a source's raw splits play which role; ``labels`` are renumbered to ``classes``."""

    source: Source
    classes: tuple[str, ...]
    roles: dict[str, tuple[str, np.ndarray]]  # role -> (raw split, sorted positions)
    labels: dict[str, np.ndarray | None]  # raw split -> labels


def plan_evaluation(one: SourceSpec, source: Source, spec: DataSpec, notes: list[str]) -> Plan:
    """Splits of a labelled source, from labels and groups alone."""
    train, name = source.splits["train"], source.name
    own_splits = [split for split in ("test", "validation") if split in source.splits]
    testing = next((split for split in own_splits if _any_label(source.splits[split])), own_splits[0] if own_splits else None)
    for split in ["train"] if testing is None else ["train", testing]:
        raw = source.splits[split]
        if raw.labels is None:
            because = f": {raw.unlabelled}" if raw.unlabelled else ""
            away = "; to judge on a share of train instead, name its folder alone with `test: 0.2`" if split != "train" and train.labels is not None else ""
            raise DataError(
                f"{name}: the {split} images have no labels{because}; an evaluate source needs them (class folders, a csv, or a label "
                f"column){away}; to pretrain on them alone, give ssl_bench.pretrain `evaluate: []`"
            )
        if raw.doubt:
            raise DataError(f"{name}: {raw.doubt}")
        if (bare := int((raw.labels < 0).sum())):
            raise DataError(f"{name}: {bare:,} of {len(raw):,} {split} images have no label, and an evaluate source needs all of them")
    assert train.labels is not None
    if testing is None and one.test is None:
        raise DataError(f"{name} has no test split; give the share of its images to hold out, such as `test: 0.2`")
    if testing is not None and one.test is not None:
        raise DataError(f"{name} has a {testing} split of its own; leave `test: {one.test}` out")
    if testing == "test" and "validation" in source.splits:
        notes.append(
            f"{name}: its validation split ({len(source.splits['validation']):,} images) is not used; validation images are taken "
            "from train"
        )
    if testing == "validation":
        lack = "the images of its test split have no labels" if "test" in source.splits else "has no test split"
        notes.append(f"{name}: {lack}; its validation split is the test split here")
    labels: dict[str, np.ndarray | None] = {"train": train.labels}
    if testing is not None:
        test = source.splits[testing]
        assert test.labels is not None
        labels[testing] = test.labels
        _check_groups(name, train.groups, test.groups)
    classes, labels = _used_classes(name, source.classes, labels, notes)
    own = labels["train"]
    assert own is not None
    test_labels: np.ndarray | None = own
    if testing is None:
        kept, tested = splits.holdout(own, one.test or 0.0, groups=train.groups, classes=classes)
        testing = "train"
        if not len(tested):
            raise DataError(f"{name}: test: {one.test} of {len(own)} images holds out none; give a larger share")
    else:
        test_labels = labels[testing]
        kept, tested = np.arange(len(own)), np.arange(len(source.splits[testing]))
    assert test_labels is not None
    if spec.limit.train is not None:
        kept = kept[splits.subsample(own[kept], len(kept), spec.limit.train, classes=classes)]
    if spec.limit.test is not None:
        tested = tested[splits.subsample(test_labels[tested], len(tested), spec.limit.test, classes=classes, every_class=False)]
    train_at, validation_at = splits.validation_split(own[kept], None if train.groups is None else train.groups[kept], classes=classes)
    if not len(validation_at):
        raise DataError(f"{name}: {len(kept)} training images are too few to hold any back for validation; every class needs two or more")
    roles = {"train": ("train", kept[train_at]), "validation": ("train", kept[validation_at]), "test": (testing, tested)}
    return Plan(source, classes, roles, labels)


def _any_label(split: RawSplit) -> bool:
    return split.labels is not None and bool((split.labels >= 0).any())


def plan_pretraining(one: SourceSpec, source: Source, spec: DataSpec, notes: list[str]) -> Plan:
    """A source that is only pretrained on: its whole train split, with labels if all of it is labelled."""
    if one.test is not None:
        raise DataError(f"{source.name}: `test: {one.test}` has no meaning for a source that is only pretrained on; leave it out")
    train = source.splits["train"]
    labels, classes = train.labels, source.classes
    if labels is not None and (labels < 0).any():
        notes.append(f"{source.name}: {int((labels < 0).sum()):,} training images have no label, so none is used in pretraining")
        labels = None
    if labels is None or len(np.unique(labels)) < 2:
        labels, classes = None, ()
    else:
        classes, found = _used_classes(source.name, classes, {"train": labels}, notes)
        labels = found["train"]
    positions = np.arange(len(train))
    if spec.limit.train is not None:
        positions = splits.subsample(labels, len(train), spec.limit.train, classes=classes)
    return Plan(source, classes, {"train": ("train", positions)}, {"train": labels})


def _used_classes(
    name: str, classes: tuple[str, ...], labels: dict[str, np.ndarray | None], notes: list[str],
) -> tuple[tuple[str, ...], dict[str, np.ndarray | None]]:
    """Classes that have training images, and labels renumbered to them; refuses what cannot be learned or judged."""
    counts = {split: np.bincount(own, minlength=len(classes)) for split, own in labels.items() if own is not None}
    train = counts["train"]
    if (train > 0).sum() < 2:
        raise DataError(f"{name} has only one class, {classes[int(np.argmax(train))]!r}; two or more are needed to judge anything")
    for split, found in counts.items():
        if len(strange := np.flatnonzero((found > 0) & (train == 0))):
            shown = ", ".join(repr(classes[at]) for at in strange[:_SHOWN])
            raise DataError(f"{name}: {len(strange):,} classes of its {split} split are absent from train: {shown}")
        if len(untested := np.flatnonzero((found == 0) & (train > 0))):
            notes.append(
                f"{name}: {len(untested):,} of {int((train > 0).sum()):,} classes have no {split} images, the first is "
                f"{classes[untested[0]]!r}"
            )
    used = np.flatnonzero(train > 0)
    if len(used) == len(classes):
        return classes, labels
    notes.append(f"{name}: {len(classes) - len(used):,} of {len(classes):,} class names have no image and are left out")
    number = np.full(len(classes), -1, np.int64)
    number[used] = np.arange(len(used))
    return tuple(classes[at] for at in used), {split: None if own is None else number[own] for split, own in labels.items()}


def _check_groups(name: str, train: np.ndarray | None, test: np.ndarray | None) -> None:
    if train is not None and test is not None and len(both := np.intersect1d(train, test)):
        raise DataError(
            f"{name}: {len(both):,} groups have images both in train and in test, so test would be seen in training; split by "
            "group"
        )
