"""Multinomial logistic regression by preconditioned L-BFGS whose line search costs no pass over the data."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_bench.errors import TrainingError

# of the gap, as a share of the scale: of 1,000 predictions all but one or two are then those of the optimum
TOLERANCE = 1e-5
HISTORY = 10  # pairs of steps and gradient differences that L-BFGS remembers
REFRESH = 50  # logits are updated along each step; recomputing them now and then keeps rounding from adding up
NOISE = 1e-6  # share of a loss by which rounding may move it
STALLED = 3  # times in a row that the memory is started afresh before a search counts as stuck
USUAL_STEPS = 20
LEAST_SPREAD = 1e-4  # variance of the predicted probabilities below which the metric follows no further
STALE = 0.7  # the metric is made anew once that variance has fallen to this share of what it was made for
LEAST_SCALE = 1e-6  # nats; what float32 cannot tell from nothing is no scale to be measured against


def fit_flops(images: int, width: int, classes: int, fits: int = 1) -> float:
    """What ``fits`` fits to the same ``images`` x ``width`` features compute, about: scores and gradient of every step,
    and the metric it steps in."""
    width = min(images, width)
    steps = USUAL_STEPS * (4 * images * width * classes + 2 * width**2 * classes)
    return fits * (steps + width**3 / 3) + 2 * images * width**2


@dataclass(frozen=True)
class Solution:
    """A fitted classifier: logits are ``features @ weight.T + bias``.

    Attributes
    ----------
    weight, bias : float32 [K, D] and [K].
    l2 : strength it was fitted with.
    loss : objective reached (mean cross-entropy in nats + l2 / 2 * ||weight||^2).
    gap : by how much, at most, the objective lies above its minimum, as a share of the scale; see
        ``SoftmaxRegression``.
    gradient : largest absolute entry of the objective's gradient.
    iterations : L-BFGS steps taken.
    converged : ``gap`` is at most the tolerance asked for.
    """

    weight: Tensor
    bias: Tensor
    l2: float
    loss: float
    gap: float
    gradient: float
    iterations: int
    converged: bool

    def logits(self, features: Tensor) -> Tensor:
        """Float32 [N, K] for features [N, D]."""
        return torch.addmm(self.bias, features, self.weight.T)


class SoftmaxRegression:
    """min over W, b of mean_i CE(x_i W + b, y_i) + l2 / 2 * ||W||^2; the bias is not penalised.

    This is scikit-learn's ``LogisticRegression`` at C = 1 / (N * l2). Solved by L-BFGS (Liu & Nocedal, 1989) whose
    initial inverse Hessian is (c X'X / N + l2)^-1, c being the mean variance of the predicted class probabilities: a
    bound of this form (Boehning, 1992) holds everywhere, and a network's features are so correlated that it saves four
    fifths of the steps. Logits are linear along a step, so the strong-Wolfe search works on [K, N] numbers.

    It stops at a bound, not at a small gradient: what is small depends on the penalty. The objective is l2-strongly
    convex in W, so that it lies at most ||dW||^2 / (2 l2) above its minimum, dW being its gradient by W; the same
    number is the duality gap at the predicted probabilities. The bias has no penalty: its part is estimated by the mean
    curvature there, which is too little for rare classes while their biases are far off. The bound is held against a
    scale: the objective itself where the penalty is so weak that hardly any loss is left; and where it is so strong
    that hardly any is gained, the gain over predicting the class frequencies, times its share of what could be gained,
    since there small weights decide. Where float32 cannot tell the way down from rounding any more, the fit goes on in
    float64.

    Parameters
    ----------
    features : float32 [N, D], about standardised.
    labels : int64 [N] in 0..num_classes-1, on the same device.
    covariance : X'X / N of similar features [D, D], which saves computing it; it steers the steps only, not the
        optimum.

    Raises
    ------
    TrainingError : features that are not finite.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, covariance: Tensor | None = None) -> None:
        if not bool(torch.isfinite(features.sum())):
            raise TrainingError(
                "a classifier cannot be fitted: the features hold values that are not finite, or too large for float32"
            )
        self.labels, self.num_classes = labels, num_classes
        self._basis: Tensor | None = None
        if len(features) < features.shape[1]:
            # The optimal weights lie in the span of the rows; in an orthonormal basis of it the penalty is the same and
            # X is N x N.
            self._basis = torch.linalg.qr(features.T)[0]
            features = features @ self._basis
        usable = covariance is not None and self._basis is None and covariance.shape == (features.shape[1],) * 2
        self.features, self._covariance = features, covariance if usable else None

    @property
    def covariance(self) -> Tensor:
        """X'X / N, for a further problem on similar features."""
        if self._covariance is None:
            self._covariance = self.features.T @ self.features / len(self.features)
        return self._covariance

    @property
    def _ignorant(self) -> float:
        """Cross-entropy in nats of predicting the class frequencies for every image."""
        frequencies = torch.bincount(self.labels, minlength=self.num_classes).double() / len(self.labels)
        return -float(torch.xlogy(frequencies, frequencies).sum())

    def fit(
        self, l2: float, start: Solution | None = None, tolerance: float = TOLERANCE, max_iterations: int = 2000
    ) -> Solution:
        """Minimise for one strength, from ``start`` or from zero.

        Never raises for slow progress: look at ``converged``.
        """
        x, classes = self.features, self.num_classes
        theta = x.new_zeros(classes, x.shape[1] + 1)
        if start is not None:
            theta[:, :-1] = start.weight if self._basis is None else start.weight @ self._basis
            theta[:, -1] = start.bias
        weight, bias = theta[:, :-1], theta[:, -1:]
        ignorant = self._ignorant
        logits = torch.addmm(bias, weight, x.T)
        loss, residual, spread = self._loss(logits)
        loss += l2 / 2 * _dot(weight, weight)
        factor, made_for = self._preconditioner(spread, l2), spread
        gradient = self._gradient(x, weight, residual, l2)
        gap = _gap(gradient, l2, spread, loss, ignorant)
        history: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=HISTORY)
        iterations = stalled = 0
        while gap > tolerance and iterations < max_iterations:
            if stalled >= STALLED:
                if x.dtype == torch.float64 or x.device.type == "mps":  # which has no float64
                    break
                x, theta, factor, stalled = x.double(), theta.double(), factor.double(), 0
                weight, bias = theta[:, :-1], theta[:, -1:]
                logits = torch.addmm(bias, weight, x.T)
                loss, residual, spread = self._loss(logits)
                loss += l2 / 2 * _dot(weight, weight)
                gradient = self._gradient(x, weight, residual, l2)
            if STALE * made_for > max(spread, LEAST_SPREAD):
                factor, made_for = self._preconditioner(spread, l2).to(x.dtype), spread
            direction = _two_loops(gradient, history, factor, spread).neg_()
            slope = _dot(gradient, direction)
            change = torch.addmm(direction[:, -1:], direction[:, :-1], x.T)
            terms = (loss, slope, l2 * _dot(weight, direction[:, :-1]), l2 * _dot(direction[:, :-1], direction[:, :-1]))
            searched = self._search(logits, change, terms, l2 / 2 * _dot(weight, weight)) if slope < 0 else None
            if searched is None:  # rounding has spoilt the memory, or the logits: start both afresh
                stalled = stalled + 1 if history else STALLED
                history.clear()
            else:
                step, loss, residual, spread = searched
                theta.add_(direction, alpha=step)
                logits.add_(change, alpha=step)
                iterations += 1
                stalled = 0
            if searched is None or iterations % REFRESH == 0:
                logits = torch.addmm(bias, weight, x.T)
                loss, residual, spread = self._loss(logits)
                loss += l2 / 2 * _dot(weight, weight)
            previous, gradient = gradient, self._gradient(x, weight, residual, l2)
            gap = _gap(gradient, l2, spread, loss, ignorant)
            if searched is not None:
                difference = gradient - previous
                curvature = step * _dot(direction, difference)
                if curvature > 0:
                    history.append((direction.mul_(step), difference, curvature))
        weight, bias = weight.to(self.features.dtype), bias.to(self.features.dtype)
        full = weight.clone() if self._basis is None else weight @ self._basis.T
        return Solution(
            full, bias[:, 0].clone(), l2, loss, gap, float(gradient.abs().max()), iterations, gap <= tolerance
        )

    @staticmethod
    def _gradient(x: Tensor, weight: Tensor, residual: Tensor, l2: float) -> Tensor:
        """Of the objective by weight and bias, [K, D + 1]."""
        return torch.hstack((torch.addmm(weight, residual, x, beta=l2), residual.sum(1, keepdim=True)))

    def _loss(self, logits: Tensor) -> tuple[float, Tensor, float]:
        """Mean cross-entropy, its gradient by the logits [K, N],
        and the mean variance p (1 - p) of the probabilities."""
        log_p = torch.log_softmax(logits, 0)
        of_label = log_p.gather(0, self.labels[None])
        loss = -float(of_label.mean(dtype=torch.float64))
        p = log_p.exp_()
        spread = float((p - p.square()).mean(dtype=torch.float64))
        p.scatter_(
            0, self.labels[None], of_label.expm1_()
        )  # p - 1 would keep no digit of a fit that leaves hardly any loss
        return loss, p.div_(p.shape[1]), spread

    def _search(
        self, logits: Tensor, change: Tensor, terms: tuple[float, float, float, float], penalty: float
    ) -> tuple[float, float, Tensor, float] | None:
        """Step, objective, residual and spread that meet the strong Wolfe conditions; None when rounding leaves no way
        down."""
        start, slope, linear, square = terms
        low, high, step = 0.0, float("inf"), 1.0
        slope_low, slope_high = slope, 0.0
        for _ in range(30):
            cross_entropy, residual, spread = self._loss(logits + step * change)
            loss = cross_entropy + penalty + step * linear + step * step / 2 * square
            here = _dot(residual, change) + linear + step * square
            too_high = loss > start + 1e-4 * step * slope + NOISE * start  # near the optimum only slopes can be trusted
            if not too_high and abs(here) <= 0.5 * abs(slope):
                return step, loss, residual, spread
            if too_high or here > 0:
                high, slope_high = step, here
            else:
                low, slope_low = step, here
            if high == float("inf"):
                step *= 2.0 if slope_low <= slope else min(4.0, max(1.5, slope / (slope - slope_low)))
            else:
                secant = (
                    low + (high - low) * slope_low / (slope_low - slope_high) if slope_high > 0 else (low + high) / 2
                )
                step = min(max(secant, low + 0.1 * (high - low)), high - 0.1 * (high - low))
        return None

    def _preconditioner(self, spread: float, l2: float) -> Tensor:
        """Cholesky factor of spread * X'X / N + l2, [D, D]."""
        matrix = self.covariance * max(spread, LEAST_SPREAD)
        jitter = 1e-6 * float(matrix.diagonal().mean())
        matrix.diagonal().add_(l2 + jitter)
        while True:
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if not failed:
                return factor
            jitter = 10 * max(jitter, l2)  # float32 cannot tell it from singular; a blunter metric only costs steps
            matrix.diagonal().add_(jitter)


def _gap(gradient: Tensor, l2: float, spread: float, loss: float, ignorant: float) -> float:
    """Bound on the objective above its minimum, as a share of the scale; see SoftmaxRegression."""
    by_weight, by_bias = (float(part.square().sum(dtype=torch.float64)) for part in (gradient[:, :-1], gradient[:, -1]))
    gain = max(ignorant - loss, 0.0)
    return (
        (by_weight / l2 + by_bias / max(spread, LEAST_SPREAD))
        / 2
        / max(min(loss, gain * gain / max(ignorant, LEAST_SCALE)), LEAST_SCALE)
    )


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


def _two_loops(gradient: Tensor, history: deque[tuple[Tensor, Tensor, float]], factor: Tensor, spread: float) -> Tensor:
    """The L-BFGS inverse Hessian times the gradient [K, D + 1]."""
    q = gradient.clone()
    weights = []
    for step, difference, curvature in reversed(history):
        weights.append(_dot(step, q) / curvature)
        q.add_(difference, alpha=-weights[-1])
    q[:, :-1] = torch.cholesky_solve(q[:, :-1].T, factor).T
    q[:, -1] /= max(spread, LEAST_SPREAD)
    for (step, difference, curvature), weight in zip(history, reversed(weights), strict=True):
        q.add_(step, alpha=weight - _dot(difference, q) / curvature)
    return q
