"""The strength of a probe's penalty, chosen by held-out accuracy along a path from strong to weak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ssl_bench.evaluators.logistic import SoftmaxRegression, Solution

STRONGEST, WEAKEST = 1e4, 1.0  # total penalties 1 / C, spread evenly in their logarithm
EXTENSIONS = 4  # further strengths tried beyond an end of the grid that came out best
SEARCH_TOLERANCE = 3e-4  # largest entry of the gradient


@dataclass
class Fold:
    """A problem to fit and what its solutions are judged on."""

    problem: SoftmaxRegression
    features: Tensor
    labels: Tensor


@dataclass
class StrengthPath:
    """Held-out accuracy by strength, each optimum started from its stronger neighbour's."""

    parts: list[Fold]
    strengths: int
    check: Callable[[], None]
    right: dict[float, int] = field(default_factory=dict)
    solutions: dict[float, list[Solution]] = field(default_factory=dict)

    def choose(self) -> float:
        """The total penalty with the highest held-out accuracy; the strongest of equals."""
        grid = [float(value) for value in np.geomspace(STRONGEST, WEAKEST, self.strengths)]
        ratio = grid[0] / grid[1] if len(grid) > 1 else 10**0.5
        for penalty in grid:
            self._try(penalty, self.solutions.get(min(self.right)) if self.right else None)
        for _ in range(EXTENSIONS if len(grid) > 1 else 0):
            best = self._best()
            if best == min(self.right):
                self._try(best / ratio, self.solutions[best])
            elif best == max(self.right):
                self._try(best * ratio, self.solutions[best])
            else:
                break
        return self._best()

    def accuracy(self, penalty: float) -> float:
        return self.right[penalty] / sum(len(part.labels) for part in self.parts)

    def solution(self, penalty: float) -> Solution:
        return self.solutions[penalty][0]

    def facts(self) -> dict[str, Any]:
        best = self._best()
        tried = {f"{penalty:.6g}": self.accuracy(penalty) for penalty in sorted(self.right, reverse=True)}
        stuck = sorted({s.l2 for solutions in self.solutions.values() for s in solutions if not s.converged})
        return {"penalty": best, "tried": tried, "at_the_edge": best in (min(self.right), max(self.right)), "search_not_converged": stuck}

    def _best(self) -> float:
        return max(self.right, key=lambda penalty: (self.right[penalty], penalty))

    def _try(self, penalty: float, starts: list[Solution] | None) -> None:
        found, right = [], 0
        for number, part in enumerate(self.parts):
            self.check()
            start = None if starts is None else starts[number]
            solution = part.problem.fit(penalty / len(part.problem.labels), start, SEARCH_TOLERANCE)
            found.append(solution)
            right += int((solution.logits(part.features).argmax(1) == part.labels).sum())
        self.solutions[penalty], self.right[penalty] = found, right
