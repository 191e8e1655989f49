"""Choosing between the candidates of a row, on validation alone."""

from __future__ import annotations

from ssl_bench.plan.rows import Candidate, Row
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plan.stored import sound_evaluation
from ssl_bench.records.schema import (
    EvaluationRecord,
    failure_files,
)


def choose(run_plan: RunPlan, row: Row, give_up: bool = True) -> dict[str, float]:
    """Decide a row's choice if it can be decided, and return the candidates' scores; see ``decide``."""
    winner, scores = decide(run_plan, row, give_up)
    if winner is not None:
        run_plan.winners[row.name] = winner
    return scores


def decide(run_plan: RunPlan, row: Row, give_up: bool) -> tuple[Candidate | None, dict[str, float]]:
    """A row's best candidate by the headline evaluator on validation once all are judged, and their scores; None while there is one to wait for.

    ``give_up``: leave candidates that failed out of the choice; otherwise they are left to be tried again, unless another one has seen test:
    what was decided then stands, since a failure that is made good later and wins would be a second look at test.
    """
    scores: dict[int, float] = {}
    failed = False
    for number, cell in enumerate(run_plan.candidate_cells(row)):
        records = [sound_evaluation(cell, planned) for planned in cell.evaluations[:1]]
        if records and records[0] is not None:
            scores[number] = validation_score(records[0])
        elif failure_files(cell.folder):
            failed = True
        else:
            return None, {}
    if not scores or (failed and not give_up and not run_plan.opened(row)):
        return None, {}
    best = max(scores, key=lambda number: (scores[number], -number))
    return row.candidates[best], {row.candidates[n].settings: score for n, score in scores.items()}


def validation_score(record: EvaluationRecord) -> float:
    """The number a choice is made by: accuracy on validation with the largest share of labels, mean of its draws.

    That of the best stage, where stages are compared; else the first one that the record holds. Accuracy is what rows are compared by, and
    between networks log loss decides no better, also on few images: of 247 pairs of stages of results/quick that test tells apart by one
    to six points, 225 validation images order 183 as test does by accuracy and 191 by log loss; of the best stages' 9 pairs, 7 and 5.
    """
    validation = [m for m in record.measurements if m.split == "validation" and m.metric.startswith("top1")]
    validation = [m for m in validation if m.metric not in ("top1_shuffled", "top1_chance")]
    first = validation[0]
    best = [m for m in validation if m.best and m.metric == "top1"]
    best = best or [m for m in validation if (m.metric, m.stage, m.row) == (first.metric, first.stage, first.row)]
    share = max(m.labels for m in best)
    values = [m.value for m in best if m.labels == share]
    return sum(values) / len(values)
