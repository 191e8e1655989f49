"""Which image plays which role, decided from labels and groups alone, before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ssl_bench.data import splits
from ssl_bench.data.readers import RawSet, RawSplit
from ssl_bench.data.sources.labels import alike_in
from ssl_bench.errors import DataError
from ssl_bench.spec.data import DataSpec, SourceSpec

_SHOWN = 20
SIBLINGS = "siblings of"  # begins the names of roles that are neither trained on nor judged


@dataclass(frozen=True)
class SplitPlan:
    """Which positions of a source's raw splits play which role.

    Attributes
    ----------
    classes, labels : class names, and the labels of each raw split renumbered to them.
    roles : role to (raw split, sorted positions).
    """

    source: RawSet
    classes: tuple[str, ...]
    roles: dict[str, tuple[str, np.ndarray]]
    labels: dict[str, np.ndarray | None]

    def judged_groups(self) -> np.ndarray:
        """The groups (int64, sorted) of the images that are validated or tested on; empty without groups."""
        judged = [self.roles[role] for role in ("validation", "test") if role in self.roles]
        groups_of = [groups[at] for split, at in judged if (groups := self.source.splits[split].groups) is not None]
        return np.unique(np.concatenate(groups_of)) if groups_of else np.zeros(0, np.int64)

    def with_siblings(self) -> SplitPlan:
        """The same with further roles, "siblings of SPLIT": images of judged groups that a limit took out of the judged
        roles."""
        judged, roles = self.judged_groups(), dict(self.roles)
        for split, raw in self.source.splits.items():
            if raw.groups is not None and len(judged):
                known = [at for role, (used, at) in self.roles.items() if used == split and role != "train"]
                siblings = np.setdiff1d(
                    np.flatnonzero(np.isin(raw.groups, judged)), np.concatenate([np.zeros(0, np.int64), *known])
                )
                roles |= {f"{SIBLINGS} {split}": (split, siblings)} if len(siblings) else {}
        return replace(self, roles=roles)


def plan_evaluation(wanted: SourceSpec, source: RawSet, spec: DataSpec, notes: list[str]) -> SplitPlan:
    """Splits of a labelled source, from labels and groups alone."""
    train, name = source.splits["train"], source.name
    own_splits = [split for split in ("test", "validation") if split in source.splits]
    testing = next(
        (split for split in own_splits if _any_label(source.splits[split])), own_splits[0] if own_splits else None
    )
    for split in ["train"] if testing is None else ["train", testing]:
        raw = source.splits[split]
        if raw.labels is None:
            because = f": {raw.unlabelled}" if raw.unlabelled else ""
            away = (
                "; to judge on a share of train instead, name its folder alone with `test: 0.2`"
                if split != "train" and train.labels is not None
                else ""
            )
            raise DataError(
                f"{name}: the {split} images have no labels{because}; an evaluate source needs them (class folders, a "
                "csv, or a label "
                f"column){away}; to pretrain on them alone, give ssl_bench.pretrain `evaluate: []`"
            )
        if raw.doubt:
            raise DataError(f"{name}: {raw.doubt}")
        if bare := int((raw.labels < 0).sum()):
            raise DataError(
                f"{name}: {bare:,} of {len(raw):,} {split} images have no label, and an evaluate source needs all of "
                "them"
            )
    assert train.labels is not None
    if testing is None and wanted.test is None:
        raise DataError(f"{name} has no test split; give the share of its images to hold out, such as `test: 0.2`")
    if testing is not None and wanted.test is not None:
        raise DataError(f"{name} has a {testing} split of its own; leave `test: {wanted.test}` out")
    if testing == "test" and "validation" in source.splits:
        notes.append(
            f"{name}: its validation split ({len(source.splits['validation']):,} images) is not used; validation "
            "images are taken "
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
    train_labels = labels["train"]
    assert train_labels is not None
    test_labels: np.ndarray | None = train_labels
    if testing is None:
        kept, tested = splits.holdout(train_labels, wanted.test or 0.0, groups=train.groups, classes=classes)
        testing = "train"
        if not len(tested):
            advice = (
                f"give {0.55 / len(train_labels):.2g} or more"
                if splits.can_be_parted(train_labels)
                else "no class has a second image, so no share can; add images"
            )
            raise DataError(f"{name}: test: {wanted.test} of {len(train_labels):,} images holds out none; {advice}")
    else:
        test_labels = labels[testing]
        kept, tested = np.arange(len(train_labels)), np.arange(len(source.splits[testing]))
    assert test_labels is not None
    if spec.limit.test is not None:
        tested = tested[
            splits.subsample(test_labels[tested], len(tested), spec.limit.test, classes=classes, every_class=False)
        ]
    trained, validated = _train_and_validation(
        name, train_labels, train.groups, kept, spec.limit.train, classes, spec.validation_seed
    )
    if testing == "train" or spec.limit.test is not None:  # what a split of its own lacks is told already
        _tell_untested(name, test_labels[tested], train_labels[trained], classes, notes)
    roles = {"train": ("train", trained), "validation": ("train", validated), "test": (testing, tested)}
    return SplitPlan(source, classes, roles, labels)


def _train_and_validation(
    name: str,
    labels: np.ndarray,
    groups: np.ndarray | None,
    kept: np.ndarray,
    limit: int | None,
    classes: tuple[str, ...],
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to train on and to choose on, of ``kept``.

    With groups the whole set is split before a limit cuts it: other limits, same sides.
    """
    if groups is None:
        few = kept if limit is None else kept[splits.subsample(labels[kept], len(kept), limit, classes=classes)]
        trained, validated = splits.validation_split(labels[few], seed=seed, classes=classes)
        if not len(validated):
            smallest = len(np.unique(labels)) + 1
            raise DataError(
                f"{name}: limit.train must be at least {smallest}, got {limit}: no class would have a second image to "
                "hold back for validation"
                if limit is not None and len(few) < len(kept) and splits.can_be_parted(labels[kept])
                else (
                    f"{name}: {len(few):,} training images are too few to hold any back for validation: no class has "
                    "two; add images"
                )
            )
        return few[trained], few[validated]
    at, held = splits.validation_split(labels[kept], groups[kept], seed=seed, classes=classes)
    trained, validated = kept[at], kept[held]
    if limit is not None and limit < len(kept):
        present = len(np.unique(labels[trained]))
        if limit <= present:
            raise DataError(
                f"{name}: limit.train must be at least {present + 1}, got {limit}: one image of each class would "
                "leave none for validation"
            )
        count = min(max(1, round(limit * len(validated) / len(kept))), len(validated), limit - present)
        trained = trained[splits.subsample(labels[trained], len(trained), limit - count, classes=classes)]
        validated = validated[
            splits.subsample(labels[validated], len(validated), count, classes=classes, every_class=False)
        ]
    return trained, validated


def _any_label(split: RawSplit) -> bool:
    return split.labels is not None and bool((split.labels >= 0).any())


def plan_pretraining(wanted: SourceSpec, source: RawSet, spec: DataSpec, notes: list[str]) -> SplitPlan:
    """A source that is only pretrained on: its whole train split, with labels if all of it is labelled."""
    if wanted.test is not None:
        raise DataError(
            f"{source.name}: `test: {wanted.test}` has no meaning for a source that is only pretrained on; leave it out"
        )
    train = source.splits["train"]
    labels, classes = train.labels, source.classes
    if labels is not None and (labels < 0).any():
        notes.append(
            f"{source.name}: {int((labels < 0).sum()):,} training images have no label, so none is used in pretraining"
        )
        labels = None
    if labels is None or len(np.unique(labels)) < 2:
        labels, classes = None, ()
    else:
        classes, renumbered = _used_classes(source.name, classes, {"train": labels}, notes)
        labels = renumbered["train"]
    positions = np.arange(len(train))
    if spec.limit.train is not None:
        positions = splits.subsample(labels, len(train), spec.limit.train, classes=classes)
    return SplitPlan(source, classes, {"train": ("train", positions)}, {"train": labels})


def _used_classes(
    name: str,
    classes: tuple[str, ...],
    labels: dict[str, np.ndarray | None],
    notes: list[str],
) -> tuple[tuple[str, ...], dict[str, np.ndarray | None]]:
    """Classes that have training images, and labels renumbered to them; refuses what cannot be learned or judged."""
    counts = {
        split: np.bincount(numbers, minlength=len(classes)) for split, numbers in labels.items() if numbers is not None
    }
    train = counts["train"]
    if (train > 0).sum() < 2:
        raise DataError(
            f"{name} has only one class, {classes[int(np.argmax(train))]!r}; two or more are needed to judge anything"
        )
    for split, images_of in counts.items():
        if len(strange := np.flatnonzero((images_of > 0) & (train == 0))):
            alike = {
                at: alike_in(classes[at], [classes[other] for other in np.flatnonzero(train)])
                for at in strange[:_SHOWN]
            }
            shown = ", ".join(
                repr(classes[at]) + (f" (train has {spelled!r})" if spelled is not None else "")
                for at, spelled in alike.items()
            )
            advice = (
                "; write the names alike if they are meant to be one class"
                if any(spelled is not None for spelled in alike.values())
                else ""
            )
            raise DataError(
                f"{name}: {len(strange):,} classes of its {split} split are absent from train: {shown}{advice}"
            )
        if len(untested := np.flatnonzero((images_of == 0) & (train > 0))):
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
    return tuple(classes[at] for at in used), {
        split: None if numbers is None else number[numbers] for split, numbers in labels.items()
    }


def _tell_untested(
    name: str, tested: np.ndarray, trained: np.ndarray, classes: tuple[str, ...], notes: list[str]
) -> None:
    """A note where a share or a limit leaves classes without a test image: their accuracy is not in any number."""
    present = np.unique(tested)
    lacking = np.setdiff1d(np.unique(trained), present)
    if len(lacking):
        only = (
            f": all {len(tested):,} are {classes[present[0]]!r}, so that always answering it scores 100 %"
            if len(present) == 1
            else ""
        )
        notes.append(
            f"{name}: no image of {len(lacking):,} of {len(lacking) + len(present):,} classes is among the test "
            "images, the first is "
            f"{classes[lacking[0]]!r}{only}"
        )


def _check_groups(name: str, train: np.ndarray | None, test: np.ndarray | None) -> None:
    if train is not None and test is not None and len(both := np.intersect1d(train, test)):
        raise DataError(
            f"{name}: {len(both):,} groups have images both in train and in test, so test would be seen in training; "
            "put "
            "each group into one split, or leave `group` out if these are no groups"
        )
