"""Splits, draws and folds: exact sizes, class balance, whole groups, and the same ones every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssl_bench.data.splits import draw, fewest_units, folds, holdout, subsample, validation_split
from ssl_bench.errors import DataError

LABELS = np.arange(1000) % 10

labellings = (
    st.lists(st.integers(2, 60), min_size=2, max_size=8)
    .flatmap(lambda counts: st.permutations([label for label, count in enumerate(counts) for _ in range(count)]))
    .map(lambda labels: np.array(labels, np.int64))
)


@given(labellings)
@settings(max_examples=60)
def test_validation_is_a_tenth_of_every_class_and_the_rest_is_kept(labels: np.ndarray) -> None:
    kept, held = validation_split(labels)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(labels)))
    assert len(held) == max(1, round(0.1 * len(labels)))
    counts, own = np.bincount(labels), np.bincount(labels[held], minlength=labels.max() + 1)
    assert (np.abs(own - 0.1 * counts) <= 1.5).all()
    assert (np.bincount(labels[kept], minlength=len(counts)) >= 1).all()


def test_validation_is_the_same_on_every_machine() -> None:
    _, held = validation_split(LABELS)
    # committed numbers: a change means that every published split changed
    assert held[:8].tolist() == GOLDEN_VALIDATION
    assert draw(LABELS, 0.01, 0).tolist() == GOLDEN_DRAW


def test_validation_is_at_most_fifty_thousand() -> None:
    labels = np.arange(600_000) % 3
    kept, held = validation_split(labels)
    assert len(held) == 50_000 and len(kept) == 550_000


def test_the_split_follows_from_the_seed() -> None:
    assert not np.array_equal(validation_split(LABELS)[1], validation_split(LABELS, seed=1)[1])


@given(st.integers(0, 50), st.integers(8, 60), st.integers(1, 12))
@settings(max_examples=60)
def test_no_group_is_divided_and_no_class_lost(seed: int, groups: int, largest: int) -> None:
    random = np.random.default_rng(seed)
    member = np.repeat(np.arange(groups), random.integers(1, largest + 1, groups))
    random.shuffle(member)
    labels = random.integers(0, 3, groups)[member] if seed % 2 else random.integers(0, 3, len(member))
    assume(all(len(np.unique(member[labels == label])) >= 2 for label in np.unique(labels)))
    kept, held = validation_split(labels, member)
    assert not set(member[kept]) & set(member[held])
    assert len(kept) + len(held) == len(labels) and len(held) >= 1
    assert set(labels[kept]) == set(labels)


def test_many_groups_meet_the_share_in_every_class() -> None:
    random = np.random.default_rng(0)
    member = random.integers(0, 800, 6000)
    labels = member % 5  # a group has one class
    _, held = holdout(labels, 0.2, groups=member)
    share = np.bincount(labels[held]) / np.bincount(labels)
    assert np.abs(share - 0.2).max() < 0.02


def test_one_group_cannot_be_held_back() -> None:
    with pytest.raises(DataError, match="one group"):
        validation_split(np.arange(10) % 2, np.zeros(10, np.int64))
    with pytest.raises(DataError, match="two groups"):
        validation_split(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))


@given(labellings, st.floats(0.05, 1), st.integers(0, 3))
@settings(max_examples=60)
def test_a_draw_is_level_over_classes(labels: np.ndarray, fraction: float, number: int) -> None:
    counts = np.bincount(labels)
    total = round(fraction * len(labels))
    if total < len(counts):
        with pytest.raises(DataError, match="empty"):
            draw(labels, fraction, number)
        return
    chosen = draw(labels, fraction, number)
    own = np.bincount(labels[chosen], minlength=len(counts))
    assert len(chosen) == len(set(chosen.tolist())) == total and (np.diff(chosen) > 0).all()
    assert own.min() >= 1
    unfilled = own[own < counts]
    assert len(unfilled) == 0 or own.max() - unfilled.min() <= 1  # only a class that is used up has fewer


def test_draws_differ_and_repeat() -> None:
    first = draw(LABELS, 0.1, 0)
    assert np.array_equal(first, draw(LABELS, 0.1, 0))
    assert len(np.intersect1d(first, draw(LABELS, 0.1, 1))) < 40
    assert len(np.intersect1d(first, draw(LABELS, 0.1, 0, seed=1))) < 40
    assert np.array_equal(draw(LABELS, 1.0, 3), np.arange(1000))


def test_a_fraction_that_leaves_a_class_empty_is_refused_with_one_that_works() -> None:
    with pytest.raises(DataError, match=r"class 'frog' empty; the smallest fraction that works is 0.01$"):
        draw(LABELS, 0.008, 0, classes=[*"abcdefghi", "frog"])
    assert len(draw(LABELS, 0.01, 0)) == 10
    with pytest.raises(DataError, match="class 'k'.*no image at all"):
        draw(LABELS, 0.5, 0, classes=[*"abcdefghijk"])
    for fraction in (0, 1.5, -1, float("nan")):
        with pytest.raises(DataError, match="must be above 0 and at most 1"):
            draw(LABELS, fraction, 0)


def test_a_holdout_of_a_small_draw_leaves_every_class_one() -> None:
    labels = np.repeat(np.arange(5), 3)
    kept, held = holdout(labels, 0.5, seed=2)
    assert (np.bincount(labels[kept]) >= 1).all() and len(held) >= 5
    kept, held = holdout(np.arange(5), 0.2)
    assert len(kept) == 5 and len(held) == 0


@given(labellings, st.integers(2, 5))
@settings(max_examples=40)
def test_folds_hold_every_image_back_once_and_balance_classes(labels: np.ndarray, count: int) -> None:
    assume(count <= len(labels))
    pairs = folds(labels, count)
    assert np.array_equal(np.sort(np.concatenate([held for _, held in pairs])), np.arange(len(labels)))
    for train, held in pairs:
        assert not set(train) & set(held) and len(train) + len(held) == len(labels)
        assert np.abs(np.bincount(labels[held], minlength=labels.max() + 1) - np.bincount(labels) / count).max() < 1
    assert max(len(held) for _, held in pairs) - min(len(held) for _, held in pairs) <= 1
    with pytest.raises(DataError, match="folds must be from 2 to"):
        folds(labels, 1)


@given(st.integers(0, 999), st.integers(2, 5), st.integers(5, 30))
@settings(max_examples=40)
def test_folds_keep_groups_together_and_balance_their_classes(seed: int, count: int, groups: int) -> None:
    random = np.random.default_rng(seed)
    member = random.permutation(np.repeat(np.arange(groups) * 7, random.integers(1, 6, groups)))
    of_group = random.integers(0, 3, groups)
    labels = of_group[member // 7]
    pairs = folds(labels, count, seed, groups=member)
    assert np.array_equal(np.sort(np.concatenate([held for _, held in pairs])), np.arange(len(labels)))
    for train, held in pairs:
        assert not set(member[train]) & set(member[held]) and len(train) + len(held) == len(labels)
        dealt = np.bincount(of_group[np.unique(member[held]) // 7], minlength=3)
        assert np.abs(dealt - np.bincount(of_group, minlength=3) / count).max() < 1
    assert fewest_units(labels, member) == np.bincount(of_group)[np.unique(of_group)].min()
    assert fewest_units(labels) == np.bincount(labels)[np.unique(labels)].min()
    with pytest.raises(DataError, match="groups"):
        folds(labels, groups + 1, groups=member)


@given(labellings, st.integers(1, 200))
@settings(max_examples=60)
def test_a_subsample_keeps_class_shares(labels: np.ndarray, count: int) -> None:
    classes = len(np.unique(labels))
    if count < min(classes, len(labels)):
        with pytest.raises(DataError, match=f"must be at least {classes}"):
            subsample(labels, len(labels), count)
        count_free = subsample(labels, len(labels), count, every_class=False)
        assert len(count_free) == count
        return
    chosen = subsample(labels, len(labels), count)
    own = np.bincount(labels[chosen], minlength=classes)
    assert len(chosen) == min(count, len(labels)) and own.min() >= 1
    assert np.abs(own - np.bincount(labels) * len(chosen) / len(labels)).max() < 1 + classes


def test_a_subsample_without_labels_is_random_and_repeats() -> None:
    chosen = subsample(None, 1000, 100)
    assert len(np.unique(chosen)) == 100 and 400 < chosen.mean() < 600
    assert np.array_equal(chosen, subsample(None, 1000, 100))


def test_images_without_a_label_are_refused() -> None:
    with pytest.raises(DataError, match="1 images have no label"):
        validation_split(np.array([0, 1, -1, 0]))


GOLDEN_VALIDATION = [4, 7, 10, 12, 18, 35, 38, 41]
GOLDEN_DRAW = [99, 240, 282, 336, 504, 628, 687, 883, 945, 951]
