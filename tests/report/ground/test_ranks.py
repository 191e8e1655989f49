"""Ranks against counting, their bootstrap against every possible draw, groups against all subsets."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_bench.errors import SSLBenchError
from ssl_bench.report.ground.ranks import groups_not_apart, mean_ranks, rank_intervals


def test_the_interval_is_that_of_every_draw_of_three_seeds() -> None:
    """With three seeds there are 27 draws, each in 3.7 % of them: 2.5 % at either end leave out none."""
    values = np.random.default_rng(3).normal(size=(3, 5))
    ranks = [
        [1 + sum(other > mean for other in means) for mean in means]
        for means in (values[list(drawn)].mean(axis=0) for drawn in product(range(3), repeat=3))
    ]
    expected = [1 + sum(other > mean for other in values.mean(axis=0)) for mean in values.mean(axis=0)]
    found = rank_intervals(values)
    assert [rank for rank, _, _ in found] == expected
    assert [(low, high) for _, low, high in found] == [
        (min(of_row), max(of_row)) for of_row in zip(*ranks, strict=True)
    ]
    assert found == rank_intervals(values)


def test_rows_that_are_far_apart_keep_their_rank_and_equal_ones_share_it() -> None:
    values = np.array([[3.0, 2.0, 1.0]] * 10) + np.random.default_rng(0).normal(scale=0.1, size=(10, 3))
    assert rank_intervals(values) == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    assert rank_intervals([[0.1, 0.1, 0.3]] * 4) == [(2, 2, 2), (2, 2, 2), (1, 1, 1)]


def test_a_draw_is_the_same_for_all_rows() -> None:
    """A seed that is easy for every row moves all of them, and no rank."""
    easy = np.arange(8.0)[:, None]
    assert rank_intervals(easy * 10 + np.array([[0.2, 0.1, 0.0]])) == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [1.0, 2.0], [[1.0, np.nan], [1.0, 2.0]]])
def test_what_has_no_rank_interval_is_refused(values: object) -> None:
    with pytest.raises(SSLBenchError, match="rank intervals need"):
        rank_intervals(values)  # type: ignore[arg-type]


def test_mean_ranks_share_ties() -> None:
    assert mean_ranks([[3.0, 1.0, 1.0], [1.0, 2.0, 3.0]]) == [2.0, 2.25, 1.75]


@given(
    st.integers(2, 5).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.sampled_from(list(combinations(range(n), 2)))))
    )
)
def test_groups_are_the_largest_sets_without_a_pair_that_is_apart(case: tuple[int, set[tuple[int, int]]]) -> None:
    rows, apart = case
    alike = [
        set(group)
        for size in range(2, rows + 1)
        for group in combinations(range(rows), size)
        if not any(pair in apart for pair in combinations(group, 2))
    ]
    largest = {tuple(sorted(group)) for group in alike if not any(group < other for other in alike)}
    groups = groups_not_apart(rows, [(b, a) for a, b in apart])
    assert set(groups) == largest and len(groups) == len(largest)
