"""new_evaluator keeps to the contract of an evaluator, and measures what it says.
Run with: pytest test_new_evaluator.py"""

import pytest
import torch
from ssl_bench.testing import evaluator_checks

from new_evaluator import NewEvaluator, similarities


@pytest.mark.parametrize("check", evaluator_checks(NewEvaluator))
def test_contract(check):
    check()


def test_a_feature_is_most_similar_to_the_mean_it_points_to():
    means = torch.eye(3)
    assert torch.equal(similarities(5 * means, means), torch.eye(3))
