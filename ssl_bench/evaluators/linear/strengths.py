"""The strength of a probe's penalty, chosen by held-out log loss along a path from strong to weak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ssl_bench.evaluators.linear.logistic import SoftmaxRegression, Solution
from ssl_bench.evaluators.scores import log_loss

STRONGEST, WEAKEST = 1e4, 1.0  # total penalties 1 / C, spread evenly in their logarithm
EXTENSIONS = 4  # further strengths tried beyond an end of the grid that came out best
RISEN = 1.01  # times the lowest loss: above it, weaker strengths are left out
# weaker strengths in a row that are worse than the best, however little, before the rest of the grid is left out
PATIENCE = 2
SEARCH_TOLERANCE = 3e-3  # of the gap; see SoftmaxRegression


@dataclass
class Fold:
    """A problem to fit and what its solutions are judged on."""

    problem: SoftmaxRegression
    features: Tensor
    labels: Tensor


@dataclass
class StrengthPath:
    """Held-out log loss by strength, each optimum started from its stronger neighbour's.

    A held-out loss falls and then rises along the path; the weak end, where fits take longest, is left out once it has
    risen.
    """

    parts: list[Fold]
    strengths: int
    check: Callable[[], None]
    #: total penalty -> mean cross-entropy of the held-out images, in nats
    losses: dict[float, float] = field(default_factory=dict)
    solutions: dict[float, list[Solution]] = field(default_factory=dict)

    def choose(self) -> float:
        """The total penalty with the lowest held-out log loss; the strongest of equals."""
        grid = [float(value) for value in np.geomspace(STRONGEST, WEAKEST, self.strengths)]
        ratio = grid[0] / grid[1] if len(grid) > 1 else 10**0.5
        for at, penalty in enumerate(grid):
            self._try(penalty, self.solutions[grid[at - 1]] if at else None)
            best = self._best()
            if self.losses[penalty] > RISEN * self.losses[best] or at - grid.index(best) >= PATIENCE:
                break
        for _ in range(EXTENSIONS if len(grid) > 1 else 0):
            best = self._best()
            if best == min(self.losses):
                self._try(best / ratio, self.solutions[best])
            elif best == max(self.losses):
                self._try(best * ratio, self.solutions[best])
            else:
                break
        return self._best()

    def loss(self, penalty: float) -> float:
        return self.losses[penalty]

    def solution(self, penalty: float) -> Solution:
        """That of the first part, to start a further fit from."""
        return self.solutions[penalty][0]

    def facts(self) -> dict[str, Any]:
        best = self._best()
        tried = {f"{penalty:.6g}": self.losses[penalty] for penalty in sorted(self.losses, reverse=True)}
        stuck = sorted({s.l2 for solutions in self.solutions.values() for s in solutions if not s.converged})
        return {
            "penalty": best,
            "chosen_by": "log loss",
            "tried": tried,
            "at_the_edge": best in (min(self.losses), max(self.losses)),
            "search_not_converged": stuck,
        }

    def _best(self) -> float:
        return min(self.losses, key=lambda penalty: (self.losses[penalty], -penalty))

    def _try(self, penalty: float, starts: list[Solution] | None) -> None:
        solutions, total = [], 0.0
        for number, part in enumerate(self.parts):
            self.check()
            start = None if starts is None else starts[number]
            solution = part.problem.fit(penalty / len(part.problem.labels), start, SEARCH_TOLERANCE)
            solutions.append(solution)
            total += float(log_loss(solution.logits(part.features), part.labels).sum())
        self.solutions[penalty], self.losses[penalty] = solutions, total / sum(len(part.labels) for part in self.parts)
