"""Logistic regression against scikit-learn, automatic differentiation, and its own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from ssl_bench.errors import TrainingError
from ssl_bench.evaluators.linear.logistic import SoftmaxRegression, Solution


def problem(n: int, d: int, k: int, seed: int = 0, correlated: bool = True) -> tuple[Tensor, Tensor]:
    """Correlated standardised features with a weak signal; every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator)
    if correlated:
        x = x @ torch.randn(d, d, generator=generator) * torch.logspace(0, -1, d)
    x = (x - x.mean(0)) / x.std(0).clamp_min(1e-6)
    y = (
        x[:, : min(d, k)] @ torch.randn(min(d, k), k, generator=generator) + 2 * torch.randn(n, k, generator=generator)
    ).argmax(1)
    y[:k] = torch.arange(k)
    return x, y


def objective(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, l2: float) -> Tensor:
    return F.cross_entropy(x.double() @ weight.double().T + bias.double(), y) + l2 / 2 * weight.double().square().sum()


def by_sklearn(x: Tensor, y: Tensor, l2: float) -> LogisticRegression:
    return LogisticRegression(C=1 / (len(x) * l2), tol=1e-9, max_iter=5_000).fit(x.double().numpy(), y.numpy())


@pytest.mark.parametrize(("n", "d"), [(400, 20), (300, 60), (60, 150)])  # the last has more dimensions than images
@pytest.mark.parametrize("l2", [1.0, 1e-2])
def test_same_coefficients_as_scikit_learn(n: int, d: int, l2: float) -> None:
    x, y = problem(n, d, 5)
    found, expected = SoftmaxRegression(x, y, 5).fit(l2, tolerance=1e-9), by_sklearn(x, y, l2)
    assert found.converged
    np.testing.assert_allclose(found.weight.numpy(), expected.coef_, atol=2e-3 * np.abs(expected.coef_).max())
    bias = found.bias - found.bias.mean()  # a constant added to every bias changes nothing
    np.testing.assert_allclose(bias.numpy(), expected.intercept_ - expected.intercept_.mean(), atol=5e-3)
    theirs = objective(x, y, torch.from_numpy(expected.coef_), torch.from_numpy(expected.intercept_), l2)
    assert found.loss == pytest.approx(float(theirs), rel=1e-5)


@settings(max_examples=25)
@given(
    n=st.integers(8, 80),
    d=st.integers(1, 40),
    k=st.integers(2, 6),
    log_l2=st.floats(-3, 1),
    seed=st.integers(0, 99),
    copies=st.booleans(),
    dead=st.booleans(),
)
def test_ends_at_a_stationary_point_of_the_stated_objective(
    n: int, d: int, k: int, log_l2: float, seed: int, copies: bool, dead: bool
) -> None:
    x, y = problem(n, d, k, seed)
    if copies:
        x[:, -1] = x[:, 0]
    if dead:
        x[:, 0] = 0
    l2 = 10**log_l2
    found = SoftmaxRegression(x, y, k).fit(l2)
    assert found.converged
    weight, bias = found.weight.double().requires_grad_(), found.bias.double().requires_grad_()
    value = objective(x, y, weight, bias, l2)
    value.backward()
    assert weight.grad is not None and bias.grad is not None
    # Strong convexity: the objective lies at most this far above its minimum.
    assert float(weight.grad.square().sum()) / (2 * l2) <= 1.2e-5 * float(value.detach()) + 1e-9
    assert float(bias.grad.abs().max()) <= 0.01
    assert found.loss == pytest.approx(float(value.detach()), rel=1e-5, abs=1e-6)
    assert found.loss <= float(objective(x, y, torch.zeros(k, d), torch.zeros(k), l2)) + 1e-6
    if dead:
        # What never moved in training has no say on other images: there the gradient is l2 * weight.
        assert found.weight[:, 0].abs().max() <= (2e-5 * float(value.detach()) / l2) ** 0.5 + 1e-4


def features(n: int, d: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rectified mixtures of few causes, as in a network; standardised: n to fit on, their labels, 1,000 held out."""
    generator = torch.Generator().manual_seed(1)
    causes = torch.randn(n + 1_000, 25, generator=generator)
    x = torch.relu(
        causes @ torch.randn(25, d, generator=generator) + 2 + 0.5 * torch.randn(n + 1_000, d, generator=generator)
    )
    y = (causes[:, :k] + torch.randn(n + 1_000, k, generator=generator)).argmax(1)
    y[:k] = torch.arange(k)
    return (x[:n] - x[:n].mean(0)) / x[:n].std(0), y[:n], (x[n:] - x[:n].mean(0)) / x[:n].std(0)


@pytest.mark.parametrize("penalty", [1e4, 1e3, 1e2, 10.0, 1.0, 0.1, 0.01])
def test_the_optimum_over_six_decades_of_strength(penalty: float) -> None:
    """What says that it converged is scikit-learn's optimum, in float64 to a tight tolerance, and so are its answers on
    other images."""
    x, y, held_out = features(450, 512, 12)
    found = SoftmaxRegression(x, y, 12).fit(penalty / len(x))
    expected = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=20_000).fit(x.double().numpy(), y.numpy())
    lowest = float(
        objective(x, y, torch.from_numpy(expected.coef_), torch.from_numpy(expected.intercept_), penalty / len(x))
    )
    reached = float(objective(x, y, found.weight, found.bias, penalty / len(x)))
    assert found.converged and reached <= lowest * (1 + 1e-4)
    assert found.loss == pytest.approx(reached, rel=1e-4)
    agree = (found.logits(held_out).argmax(1).numpy() == expected.predict(held_out.double().numpy())).mean()
    assert agree >= 0.99


def test_a_path_ends_where_cold_starts_do() -> None:
    x, y, held_out = features(450, 512, 12)
    problem, start = SoftmaxRegression(x, y, 12), None
    for penalty in (1e3, 1e2, 10.0, 1.0, 0.1):
        start = problem.fit(penalty / len(x), start, tolerance=1e-3)
    warm, cold = problem.fit(0.1 / len(x), start), problem.fit(0.1 / len(x))
    assert warm.converged and cold.converged and warm.loss == pytest.approx(cold.loss, rel=1e-4)
    assert warm.iterations < cold.iterations
    assert (warm.logits(held_out).argmax(1) == cold.logits(held_out).argmax(1)).float().mean() >= 0.99


def test_a_small_gradient_is_no_optimum() -> None:
    """Under a weak penalty the gradient falls below scikit-learn's 1e-4
    long before the objective is near its minimum."""
    x, y, _ = features(450, 512, 12)
    problem = SoftmaxRegression(x, y, 12)
    lowest = problem.fit(0.1 / 450).loss
    early = next(
        found for steps in range(20, 200, 5) if (found := problem.fit(0.1 / 450, max_iterations=steps)).gradient <= 1e-4
    )
    assert early.loss > 1.001 * lowest and not early.converged
    assert early.gap > early.loss / lowest - 1  # a bound, and not an estimate


def test_the_gap_bounds_what_is_left_at_every_step() -> None:
    x, y, _ = features(300, 60, 5)
    problem = SoftmaxRegression(x, y, 5)
    for l2 in (1.0, 1e-2, 1e-4):
        lowest = problem.fit(l2, tolerance=1e-9).loss
        for steps in (1, 3, 10, 30):
            found = problem.fit(l2, max_iterations=steps)
            assert found.loss - lowest <= found.gap * found.loss + 1e-6


def test_the_bias_is_not_penalised() -> None:
    """Under a crushing penalty the probabilities are the class frequencies, not uniform."""
    x, _ = problem(200, 5, 2)
    y = torch.tensor([0] * 150 + [1] * 40 + [2] * 10)
    found = SoftmaxRegression(x, y, 3).fit(1e4)
    np.testing.assert_allclose(torch.softmax(found.logits(x), 1).mean(0).numpy(), [0.75, 0.2, 0.05], atol=1e-3)
    assert found.weight.abs().max() < 1e-3


def test_a_class_without_images_is_never_predicted() -> None:
    x, y = problem(100, 6, 3)
    found = SoftmaxRegression(x, y, 5).fit(1e-2)
    assert found.logits(x).shape == (100, 5) and int(found.logits(x).argmax(1).max()) <= 2


def test_a_warm_start_saves_steps_and_ends_at_the_same_place() -> None:
    x, y = problem(500, 40, 6)
    regression = SoftmaxRegression(x, y, 6)
    near = regression.fit(1.5e-2, tolerance=1e-8)
    cold, warm = regression.fit(1e-2, tolerance=1e-8), regression.fit(1e-2, near, tolerance=1e-8)
    assert warm.iterations < cold.iterations
    torch.testing.assert_close(warm.weight, cold.weight, atol=1e-3, rtol=0)


def test_a_warm_start_survives_the_change_of_basis() -> None:
    x, y = problem(30, 80, 3)
    regression = SoftmaxRegression(x, y, 3)
    first = regression.fit(0.1, tolerance=1e-8)
    again = regression.fit(0.1, first, tolerance=1e-7)
    assert again.iterations <= 1
    torch.testing.assert_close(again.weight, first.weight, atol=1e-4, rtol=0)


def test_a_borrowed_covariance_steers_but_does_not_move_the_optimum() -> None:
    x, y = problem(500, 30, 4)
    own = SoftmaxRegression(x, y, 4).fit(1e-3, tolerance=1e-8)
    borrowed = SoftmaxRegression(x, y, 4, SoftmaxRegression(x[:100], y[:100], 4).covariance).fit(1e-3, tolerance=1e-8)
    wrong_size = SoftmaxRegression(x, y, 4, torch.eye(7)).fit(1e-3, tolerance=1e-8)
    for other in (borrowed, wrong_size):
        assert other.converged
        torch.testing.assert_close(other.weight, own.weight, atol=3e-3, rtol=0)


def test_the_metric_saves_most_of_the_steps_on_features_of_a_network() -> None:
    """Rectified mixtures of few causes, as in a network: nearly all dimensions move together."""
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(800, 20, generator=generator)
    x = torch.relu(causes @ torch.randn(20, 150, generator=generator) + 2)
    x = (x - x.mean(0)) / x.std(0)
    y = (causes[:, :4] + torch.randn(800, 4, generator=generator)).argmax(1)
    own, plain = SoftmaxRegression(x, y, 4).fit(1e-3), SoftmaxRegression(x, y, 4, torch.eye(150)).fit(1e-3)
    assert own.converged and plain.converged
    assert own.iterations < 0.4 * plain.iterations


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_instead_of_searched_for_ever(bad: float) -> None:
    x, y = problem(50, 5, 3)
    x[7, 2] = bad
    with pytest.raises(TrainingError, match="not finite"):
        SoftmaxRegression(x, y, 3)


def test_what_did_not_converge_says_so() -> None:
    x, y = problem(300, 30, 5)
    found = SoftmaxRegression(x, y, 5).fit(1e-3, max_iterations=2)
    assert not found.converged and found.iterations == 2 and found.gap > 1e-4
    assert isinstance(found, Solution)


def test_a_hopeless_tolerance_ends_and_says_so() -> None:
    x, y = problem(100, 10, 3)
    found = SoftmaxRegression(x, y, 3).fit(1e-2, tolerance=0.0, max_iterations=300)
    assert not found.converged and found.gradient < 1e-5
