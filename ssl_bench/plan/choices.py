"""Choosing between the candidates of a row, on validation alone."""

from __future__ import annotations

from ssl_bench.plan.candidate import Candidate
from ssl_bench.plan.rows import Row
from ssl_bench.plan.run_plan import RunPlan


def choose(run_plan: RunPlan, row: Row, give_up: bool = True) -> dict[str, float]:
    """Decide a row's choice if it can be decided, and return the candidates' scores; see ``decide``."""
    winner, scores = decide(run_plan, row, give_up)
    if winner is not None:
        run_plan.winners[row.name] = winner
    return scores


def decide(run_plan: RunPlan, row: Row, give_up: bool) -> tuple[Candidate | None, dict[str, float]]:
    """A row's best candidate by the headline evaluator on validation once all are judged, and their scores; None while
    there is one to wait for.

    ``give_up``: leave candidates that failed out of the choice; otherwise they are left to be tried again, unless
    another one has seen test: what was decided then stands, since a failure that is made good later and wins would be a
    second look at test.
    """
    scores: dict[int, float] = {}
    failed = False
    for number, cell in enumerate(run_plan.candidate_cells(row)):
        stored = [run_plan.snapshot.sound_evaluation(cell, planned) for planned in cell.evaluations[:1]]
        if stored and stored[0] is not None and stored[0].score is not None:
            scores[number] = stored[0].score
        elif any(record is not None for record in stored) or run_plan.snapshot.failed(cell):
            failed = True
        else:
            return None, {}
    if not scores or (failed and not give_up and not run_plan.opened(row)):
        return None, {}
    best = max(scores, key=lambda number: (scores[number], -number))
    return row.candidates[best], {row.candidates[number].settings: score for number, score in scores.items()}
