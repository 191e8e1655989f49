"""A length and a learning rate of training, chosen together by successive halving (Jamieson & Talwalkar, 2016)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

SHORTENED = 3  # the first rung takes a third of the shortest length

#: (steps, learning rate) -> what a whole run of them lost on images that it did not see; None where it diverged
Trial = Callable[[int, float], float | None]


def rungs(lengths: Sequence[int], rates: int) -> list[tuple[int, int]]:
    """(steps, runs) of every rung: all rates for a third of the shortest length, unless there is one only; then, at
    every length from the shortest on, the better half (rounded up) of the rung before.

    >>> rungs([1000, 3000], 3)  # 6,000 steps, twice the longest run
    [(333, 3), (1000, 2), (3000, 1)]
    """
    made = [(max(1, min(lengths) // SHORTENED), rates)] if rates > 1 else []
    for length in sorted(lengths):
        rates = -(-rates // 2)
        made.append((length, rates))
    return made


def trial_steps(lengths: Sequence[int], rates: int) -> int:
    """Steps of all rungs. With three rates, and lengths that each are three times the one before, at most twice the
    longest length; 2.5 times it with two lengths of which one is twice the other."""
    return sum(steps * runs for steps, runs in rungs(lengths, rates))


def choose_by_halving(lengths: Sequence[int], rates: Sequence[float], trial: Trial) -> tuple[int, float] | None:
    """The pair of a length and a rate with the lowest loss of all whole runs in the rungs; None where all diverged.

    A cosine schedule that is cut short is not the short run: its rate has not come down. So no run is stopped early and
    gone on with; every trial is a whole run of its own, whose schedule ends at the steps of its rung. What is compared:
    within a rung, rates that were trained equally long; at the end, whole runs of different lengths, each as long as it
    would be taken. The first rung, shorter than every length, only ranks rates. Of equal losses the shorter run is
    taken, and of equally long ones the one that was ahead in the rung before.

    A run that diverges is replaced by the next best of the rung before, as long as there is one.
    """
    ranked = sorted(rates)
    best: tuple[int, float] | None = None
    lowest = math.inf
    for steps, runs in rungs(lengths, len(ranked)):
        losses: list[tuple[float, int, float]] = []  # with the place in the rung before
        for place, rate in enumerate(ranked):
            if len(losses) == runs:
                break
            loss = trial(steps, rate)
            if loss is None:
                continue
            losses.append((loss, place, rate))
            if steps in lengths and loss < lowest:
                best, lowest = (steps, rate), loss
        ranked = [rate for _, _, rate in sorted(losses)]
    return best
