"""Who is trained on, chosen on and tested on: pure functions of labels, groups and a seed.

Random orders come from the raw bits of PCG64, whose stream NumPy guarantees, so a split is the same with every NumPy
version.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ssl_bench.errors import DataError

VALIDATION_SHARE = 0.1
MOST_VALIDATION = 50_000
_VALIDATION, _DRAW, _HOLDOUT, _FOLDS, _SUBSAMPLE = range(1, 6)  # keeps streams of one seed apart


def validation_split(
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    share: float = VALIDATION_SHARE,
    most: int = MOST_VALIDATION,
    seed: int = 0,
    classes: Sequence[str] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Split a training set into what is trained on and what is chosen on.

    Every class gives the same share; a group is never divided, so that with groups the share is only met as nearly as
    they allow.

    Parameters
    ----------
    labels : int64 [N].
    groups : int64 [N] or None; images of one group (a product, a patient) stay together.
    share, most : part of the images held back, and at most how many.
    classes : class names, for error messages.

    Returns
    -------
    Two sorted int64 arrays of positions that together are 0..N-1: kept, held back.

    Raises
    ------
    DataError : too few images or groups to hold any back, or a class that would be left without training images.
    """
    total = min(max(1, round(share * len(labels))), most)
    return _partition(labels, groups, total, (seed, _VALIDATION), classes)


def holdout(
    labels: np.ndarray,
    share: float,
    seed: int = 0,
    *,
    groups: np.ndarray | None = None,
    classes: Sequence[str] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Hold back a share of every class, for example of a label draw: (kept, held back), sorted positions.

    Without groups a class always keeps at least one image, so the held-back part of a draw of one image a class is
    empty.
    """
    return _partition(labels, groups, round(share * len(labels)), (seed, _HOLDOUT), classes)


def folds(
    labels: np.ndarray, count: int, seed: int = 0, *, groups: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Class-balanced folds for cross-validation: ``count`` pairs (train, held back) of sorted positions; every image is
    held back once.

    Images of one group (int64 [N]) are held back together; a group counts as of the class of its first image.
    Raises DataError for fewer than two folds or fewer images, or groups, than folds.
    """
    # first image of each unit that is dealt; unit of each image
    of_unit, unit = np.arange(len(labels)), np.arange(len(labels))
    if groups is not None:
        _, of_unit, unit = np.unique(groups, return_index=True, return_inverse=True)
    if not 2 <= count <= len(of_unit):
        raise DataError(
            f"the number of folds must be from 2 to {len(of_unit)}, the number of "
            f"{'images' if groups is None else 'groups'}, got {count}"
        )
    shuffled = _order(len(of_unit), seed, _FOLDS)
    dealt = np.empty(len(of_unit), np.int64)
    # class by class, like cards
    dealt[shuffled[np.argsort(labels[of_unit][shuffled], kind="stable")]] = np.arange(len(of_unit)) % count
    return [(np.flatnonzero(dealt[unit] != fold), np.flatnonzero(dealt[unit] == fold)) for fold in range(count)]


def fewest_units(labels: np.ndarray, groups: np.ndarray | None = None) -> int:
    """How many images, or groups, the class with the fewest of them has: below 2, it cannot be both trained on and held
    back."""
    if groups is None:
        return int(np.bincount(labels)[np.unique(labels)].min())
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    return int(np.unique(pairs[0], return_counts=True)[1].min())


def can_be_parted(labels: np.ndarray) -> bool:
    """Whether any class has a second image, so that one can be held back."""
    return len(np.unique(labels)) < len(labels)


def draw(labels: np.ndarray, fraction: float, draw: int, seed: int = 0, classes: Sequence[str] = ()) -> np.ndarray:
    """Choose the images whose labels may be used, for evaluation with few labels.

    Every class gives the same number of images (up to rounding); a class too small for that gives all it has, and the
    larger ones make up for it. Different ``draw`` numbers give different images, the same number the same ones.

    Parameters
    ----------
    labels : int64 [N].
    fraction : share of the N labels, in (0, 1]; 1 gives every position.
    draw, seed : which draw.
    classes : class names; a class that ``labels`` lacks altogether is refused too.

    Returns
    -------
    Sorted int64 positions, ``round(fraction * N)`` of them.

    Raises
    ------
    DataError : a fraction outside (0, 1], or so small that a class would be left empty.
    """
    if not 0 < fraction <= 1:
        raise DataError(f"a label fraction must be above 0 and at most 1, got {fraction}")
    counts = _counts(labels, classes)
    total = round(fraction * len(labels))
    short = np.flatnonzero(counts == 0)
    if len(short) or total < len(counts):
        empty = _class(int(short[0] if len(short) else len(counts) - 1), classes)
        hint = (
            "that class has no image at all"
            if len(short)
            else f"the smallest fraction that works is {_ceil(len(counts) / len(labels))}"
        )
        raise DataError(
            f"label fraction {fraction:g} of {len(labels):,} images is {total:,} labels for {len(counts):,} classes, "
            f"which would leave class {empty} empty; {hint}"
        )
    quota = _level(counts, total, _order(len(counts), seed, _DRAW, draw, 1))
    return _first_of_each_class(labels, quota, _order(len(labels), seed, _DRAW, draw))


def subsample(
    labels: np.ndarray | None,
    length: int,
    count: int,
    seed: int = 0,
    classes: Sequence[str] = (),
    *,
    every_class: bool = True,
) -> np.ndarray:
    """``count`` of ``length`` images, the same share of every class where there are labels: sorted positions.

    Raises DataError when ``every_class`` is asked for and ``count`` is below the number of classes.
    """
    order = _order(length, seed, _SUBSAMPLE)
    if count >= length:
        return np.arange(length)
    if labels is None:
        return np.sort(order[:count])
    counts = _counts(labels, ())
    present = counts > 0
    if every_class and count < present.sum():
        raise DataError(
            f"limit must be at least {present.sum()}, the number of classes, got {count}: class "
            f"{_class(int(np.flatnonzero(present)[-1]), classes)} would be left empty"
        )
    least = present.astype(np.int64) if every_class else np.zeros_like(counts)
    return _first_of_each_class(
        labels, _equal_shares(counts, count, order[: len(counts)] if len(counts) <= length else None, least), order
    )


def _partition(
    labels: np.ndarray,
    groups: np.ndarray | None,
    total: int,
    seed: tuple[int, ...],
    classes: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    counts, order = _counts(labels, ()), _order(len(labels), *seed)
    if groups is None:
        held = _first_of_each_class(labels, np.minimum(_equal_shares(counts, total), np.maximum(counts - 1, 0)), order)
    else:
        held = _whole_groups(labels, groups, counts, total, order)
    kept = np.setdiff1d(np.arange(len(labels)), held)
    emptied = np.flatnonzero((np.bincount(labels[kept], minlength=len(counts)) == 0) & (counts > 0))
    if len(emptied):
        raise DataError(
            f"class {_class(int(emptied[0]), classes)} lies in one group, so it cannot be both trained on and held "
            "back; give it more "
            "groups"
        )
    return kept, held


def _whole_groups(
    labels: np.ndarray, groups: np.ndarray, counts: np.ndarray, total: int, order: np.ndarray
) -> np.ndarray:
    """Whole groups, in random order, each taken if it brings the held-back class counts nearer to their share."""
    _, first, member = np.unique(groups[order], return_index=True, return_inverse=True)
    if len(first) < 2:
        raise DataError(
            f"the {len(labels):,} images from which some are to be held back all lie in one group; two groups are the "
            "least, ten or more are sensible"
        )
    need = counts * (total / max(1, len(labels)))
    by_group = np.split(order[np.argsort(member, kind="stable")], np.cumsum(np.bincount(member))[:-1])
    taken: list[np.ndarray] = []
    spared: list[tuple[float, int]] = []
    left = counts.copy()
    for group in np.argsort(first):
        kinds, numbers = np.unique(labels[by_group[group]], return_counts=True)
        gain = float((2 * need[kinds] * numbers - numbers.astype(float) ** 2).sum())
        if (left[kinds] - numbers < 1).any():
            continue  # training would lose a class
        if gain <= 0:
            spared.append((gain, int(group)))
            continue
        need[kinds] -= numbers
        left[kinds] -= numbers
        taken.append(by_group[group])
    if not taken and spared:  # every group is far larger than the share: the least bad one
        taken = [by_group[max(spared)[1]]]
    if not taken:
        raise DataError(
            "every group is the only one of some class, so none can be held back; give each class two groups or more"
        )
    return np.sort(np.concatenate(taken))


def _equal_shares(
    counts: np.ndarray, total: int, ties: np.ndarray | None = None, least: np.ndarray | None = None
) -> np.ndarray:
    """The same share of every class, summing to ``total``: floors, then the largest remainders."""
    exact = counts * (min(total, counts.sum()) / max(1, counts.sum()))
    quota = np.floor(exact + 1e-9).astype(np.int64)
    if least is not None:
        quota = np.maximum(quota, least)
    tie = ties if ties is not None else np.arange(len(counts))
    for at in np.lexsort((tie, -(exact - quota))):
        if quota.sum() >= total:
            break
        quota[at] += quota[at] < counts[at]
    floor = np.zeros_like(counts) if least is None else least
    while quota.sum() > total:  # `least` lifted small classes: the largest pay
        quota[int(np.argmax(np.where(quota > floor, quota, -1)))] -= 1
    return quota


def _level(counts: np.ndarray, total: int, ties: np.ndarray) -> np.ndarray:
    """The same number of every class, summing to ``total``; a smaller class gives all it has."""
    quota = np.zeros_like(counts)
    while (missing := total - int(quota.sum())) > 0:
        room = np.flatnonzero(quota < counts)
        each, over = divmod(missing, len(room))
        if each == 0:
            room = room[np.argsort(ties[room], kind="stable")][:over]
        quota[room] = np.minimum(counts[room], quota[room] + max(1, each))
    return quota


def _first_of_each_class(labels: np.ndarray, quota: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The first ``quota[c]`` images of every class c in ``order``, as sorted positions."""
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels, minlength=len(quota))
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[rank < np.repeat(quota, counts)])


def _order(length: int, *seed: int) -> np.ndarray:
    """A random order of 0..length-1."""
    return np.argsort(np.random.PCG64(list(seed)).random_raw(length), kind="stable")


def _counts(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"{int((labels < 0).sum())} images have no label")
    return np.bincount(labels, minlength=len(classes)).astype(np.int64)


def _ceil(share: float) -> str:
    """Three digits, rounded up, so that the share that a message names does work."""
    return f"{math.ceil(share * 1e6) / 1e6:g}"


def _class(number: int, classes: Sequence[str]) -> str:
    return repr(classes[number]) if number < len(classes) else str(number)
