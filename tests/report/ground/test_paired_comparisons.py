"""Paired comparisons against scipy, hand-worked cases and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ssl_bench.errors import SSLBenchError
from ssl_bench.report.ground.paired_comparisons import compare_crossed, compare_drawn, compare_seeds, holm


def test_comparison_over_seeds_equals_scipy() -> None:
    first, second = [0.88, 0.87, 0.90, 0.86], [0.85, 0.86, 0.86, 0.85]
    found, expected = compare_seeds(first, second), stats.ttest_rel(first, second)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert (found.seeds, found.images) == (4, 0)


def test_crossed_comparison_by_hand() -> None:
    # Worked on paper: means by seed 0.5, 0, 1 (grand mean 0.5); MS_seed 0.5 and, with one image effect, MS_image and
    # MS_rest as below.
    first = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    found = compare_crossed(first, np.zeros((3, 2)))
    # Without an image effect the t-test over seeds is all that is left.
    ms_seed, ms_image, ms_rest = 2 * 0.5 / 2, 3 * (2 / 36), 2 * (1 / 36 + 4 / 36 + 1 / 36) / 2
    assert ms_image == pytest.approx(ms_rest)
    assert found.difference == pytest.approx(0.5)
    t = 0.5 / np.sqrt(ms_seed / 6)
    assert found.p == pytest.approx(2 * stats.t.sf(t, 2))


def test_crossed_comparison_without_image_effect_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(3)
    seeds = rng.normal(0.02, 0.01, (3, 1))
    noise = rng.normal(scale=0.01, size=(3, 200))
    noise -= noise.mean(axis=0, keepdims=True)  # no image effect at all, so max(MS_image - MS_rest, 0) is 0
    d = seeds + noise
    assert compare_crossed(d, np.zeros_like(d)).p == pytest.approx(stats.ttest_1samp(d.mean(axis=1), 0).pvalue)


def _false_alarms(seed_sd: float, image_sd: float, runs: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Shares of p <= 0.05 and p <= 0.007 crossed, and of p <= 0.05 over seeds alone, where both rows are equally good.

    0.007 is what Holm asks of the first of seven comparisons.
    """
    crossed, rare, seeds_only = 0, 0, 0
    for _ in range(runs):
        images = rng.normal(scale=image_sd, size=(1, 200))
        rows = [
            rng.random((3, 200)) < np.clip(0.6 + rng.normal(scale=seed_sd, size=(3, 1)) + sign * images, 0, 1)
            for sign in (1, -1)
        ]
        p = compare_crossed(rows[0], rows[1]).p
        crossed, rare = crossed + (p <= 0.05), rare + (p <= 0.007)
        seeds_only += compare_seeds(*(row.mean(axis=1) for row in rows)).p <= 0.05
    return crossed / runs, rare / runs, seeds_only / runs


@pytest.mark.parametrize(("seed_sd", "image_sd"), [(0.03, 0.0), (0.1, 0.3)])
def test_crossed_comparison_keeps_its_level_with_three_seeds(seed_sd: float, image_sd: float) -> None:
    crossed, rare, _ = _false_alarms(seed_sd, image_sd, 1_000, np.random.default_rng(1))
    assert crossed < 0.07 and rare < 0.016  # 0.05 and 0.007, and three standard errors of the simulation


def test_seeds_alone_would_take_chance_in_the_images_for_a_difference() -> None:
    """Why predictions are stored: rows that are good at different images differ on one test set by luck."""
    crossed, rare, seeds_only = _false_alarms(0.0, 0.3, 1_000, np.random.default_rng(2))
    assert seeds_only > 0.08 and crossed < 0.07 and rare < 0.016


def test_crossed_comparison_finds_a_difference() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.random((3, 2_000)) < share for share in (0.80, 0.70))
    found = compare_crossed(first, second)
    assert found.p < 0.01 and found.low < 0.1 < found.high and (found.seeds, found.images) == (3, 2_000)


def test_equal_rows_are_equal_and_constant_differences_all_but_certain() -> None:
    same = np.ones((3, 10))
    assert compare_crossed(same, same).p == 1.0
    t = 1.0 / (0.05 / np.sqrt(3))  # a seed's deviation counts as half an image of ten
    assert compare_crossed(same, 0 * same).p == pytest.approx(2 * stats.t.sf(t, 2))
    assert compare_seeds([0.5, 0.5], [0.5, 0.5]).p == 1.0


def test_differences_alike_at_every_seed_are_known_to_half_a_step_only() -> None:
    first, second = np.array([0.31, 0.33, 0.35]), np.array([0.30, 0.32, 0.34])  # one image of 100, three times
    found = compare_seeds(first, second, 100)
    t = 0.01 / (0.005 / np.sqrt(3))
    assert found.p == pytest.approx(2 * stats.t.sf(t, 2)) and found.low < found.difference < found.high
    assert compare_seeds(first, first, 100).p == 1.0
    # Image by image it is no more certain: one image of 100 right at every seed, another one each time.
    right = np.zeros((3, 100))
    right[[0, 1, 2], [0, 1, 2]] = 1
    crossed = compare_crossed(right, np.zeros_like(right))
    assert crossed.p == pytest.approx(found.p) and (crossed.low, crossed.high) == pytest.approx((found.low, found.high))
    # Where the seeds differ by more than half an image, nothing changes.
    apart = [0.34, 0.32, 0.39]
    assert compare_seeds(apart, second, 100) == compare_seeds(apart, second)


@pytest.mark.parametrize("shape", [(1, 10), (3, 1), (5,)])
def test_crossed_comparison_refuses_what_it_cannot_analyse(shape: tuple[int, ...]) -> None:
    with pytest.raises(SSLBenchError, match="seeds >= 2"):
        compare_crossed(np.ones(shape), np.zeros(shape))
    with pytest.raises(SSLBenchError):
        compare_seeds([0.5], [0.4])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_step_down_procedure(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    # Rejecting one by one from the smallest, stopping at the first that is too large, is the definition.
    rejected: set[int] = set()
    for step, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[at] * (len(p_values) - step) > 0.05:
            break
        rejected.add(at)
    assert {at for at, p in enumerate(adjusted) if p <= 0.05} == rejected
    assert all(q >= p for p, q in zip(p_values, adjusted, strict=True)) and max(adjusted) <= 1


def test_holm_example() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize(("seed_sd", "image_sd"), [(0.05, 0.0), (0.0, 0.3), (0.03, 0.2)])
def test_resampled_images_say_what_the_images_themselves_say(seed_sd: float, image_sd: float) -> None:
    """Of an accuracy, which is a mean over images, both analyses can be had; they are the same but for the bootstrap's
    own chance."""
    rng = np.random.default_rng(5)
    images = rng.normal(scale=image_sd, size=(1, 300))
    rows = [
        (rng.random((3, 300)) < np.clip(0.6 + rng.normal(scale=seed_sd, size=(3, 1)) + sign * images, 0, 1)).astype(
            float
        )
        for sign in (1, -1)
    ]
    picks = rng.integers(0, 300, (4_000, 300))
    drawn = [np.stack([seed[picks].mean(axis=1) for seed in row]) for row in rows]
    expected, found = compare_crossed(*rows), compare_drawn(*(row.mean(axis=1) for row in rows), *drawn, 300)
    assert found.difference == pytest.approx(expected.difference) and (found.seeds, found.images) == (3, 300)
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.06)
    assert found.p == pytest.approx(expected.p, abs=0.02)


def test_resamples_without_any_object_are_left_out_and_wrong_shapes_refused() -> None:
    values, drawn = np.array([0.5, 0.6, 0.7]), np.random.default_rng(0).normal(0.6, 0.1, (3, 50))
    holes = np.concatenate([drawn, np.full((3, 2), np.nan)], axis=1)
    assert (
        compare_drawn(values, values - 0.1, holes, holes - drawn.mean(), 60).p
        == compare_drawn(values, values - 0.1, drawn, drawn - drawn.mean(), 60).p
    )
    for wrong in (drawn[:1], drawn[:, :1], drawn[0]):
        with pytest.raises(SSLBenchError, match="draws >= 2"):
            compare_drawn(values, values, wrong, wrong, 60)
