"""What records say of how their numbers were made, as notes for a reader of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ssl_bench.records.declarations import Note
from ssl_bench.records.protocols import split_protocol


def notes_of(record: Any, split: str) -> list[Note]:
    """Notes of an EvaluationRecord for a table of one split: those that its evaluator gave and, of built-in ones, what
    their details say."""
    notes: list[Note] = list(record.notes)
    if record.evaluator in _FROM_DETAILS:
        notes += _FROM_DETAILS[record.evaluator](record, split)
    if record.unsupported:
        notes.append(
            Note(sign="-", text=f"{record.evaluator} does not apply", item=f"{record.row}: {record.unsupported}")
        )
    return notes


def _probe(record: Any, split: str) -> Iterator[Note]:
    fits = record.details.get("fits", [])
    yield from _not_converged(fits)
    by_loss = " by log loss" if split_protocol(record.protocol)[1] > 1 else ""
    held_out = {str(fit.get("chosen_on", "")) for fit in fits if fit.get("labels", 1) == 1}
    folds = sorted(place for place in held_out if "cross-validation" in place)
    if held_out or not fits:
        yield Note(
            sign="chosen",
            text=f"linear probe: strength and stage{by_loss} {'in ' + ' / '.join(folds) if folds else 'on validation'}",
        )
    if split == "test" and any("final_fit" in fit for fit in fits):
        yield Note(
            sign="chosen", text="linear probe: refitted on train and validation before test, where all labels are used"
        )
    few = [fit for fit in fits if fit.get("labels", 1) < 1]
    yield from _inside_the_draw("linear probe", "strength and stage", few)


def _not_converged(fits: list[dict[str, Any]]) -> Iterator[Note]:
    """L-BFGS that stopped before its tolerance."""
    for fit in fits:
        made = [fit[name] for name in ("fit", "final_fit") if name in fit]
        if not all(facts["converged"] for facts in made) or fit.get("search_not_converged"):
            yield Note(sign="!", text="linear probes that did not converge", item=fit["stage"], warning=True)


def _inside_the_draw(what: str, chosen: str, made: list[dict[str, Any]]) -> Iterator[Note]:
    """With few labels, those outside the draw count as unknown, validation labels too."""
    for facts in made:
        if str(facts.get("chosen_on", "")).startswith("nothing"):
            text = f"{what}: the middle of the grid where a class has too few images to hold any back"
            yield Note(sign="chosen", text=text, item=f"{100 * facts['labels']:g} %")
        else:
            yield Note(sign="chosen", text=f"{what}: with fewer labels, {chosen} inside the labelled draw")


def _fine_tuning(record: Any, split: str) -> Iterator[Note]:
    options = record.spec.get("options", {})
    rates, lengths = options.get("learning_rates", []), options.get("lengths")
    what = [*(["length"] if lengths else []), *(["learning rate"] if _several(rates) else [])]
    if not what:
        return
    chosen, runs = " and ".join(what), record.details.get("runs", [])
    if not runs or any(run.get("labels", 1) == 1 for run in runs):
        yield Note(sign="chosen", text=f"fine-tuning: {chosen} on validation")
    yield from _inside_the_draw("fine-tuning", chosen, [run for run in runs if run.get("labels", 1) < 1])
    for share in sorted(shares_at_longest(record)):
        text = "fine-tuning, longest length chosen (↑): the gain is a lower bound"
        yield Note(sign="chosen", text=text, item=f"{record.row} at {100 * share:g} %")


def _several(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and len(values) > 1


def shares_at_longest(record: Any) -> set[float]:
    """Shares of the labels at which an EvaluationRecord's training was the longest that it could choose, at any draw:
    more steps might have given more."""
    runs = record.details.get("runs", [])
    return {float(run["labels"]) for run in runs if isinstance(run, dict) and run.get("longest") is True}


def _detection(record: Any, split: str) -> Iterator[Note]:
    if len(record.details.get("tried", {})) > 1:
        images = max((m.n for m in record.measurements if m.split == "validation"), default=0)
        yield Note(
            sign="chosen", text="detection: learning rate on validation", item=f"{images:,} images of {record.data}"
        )


def _neighbours(record: Any, split: str) -> Iterator[Note]:
    for k, used in record.details.get("neighbours", {}).get(split, {}).items():
        if int(k) != used:
            yield Note(sign="k", text="capped at the size of the smallest class", item=f"k={k} uses {used}")


_FROM_DETAILS: dict[str, Callable[[Any, str], Iterator[Note]]] = {
    "linear": _probe, "knn": _neighbours, "finetune": _fine_tuning, "detection": _detection,
}  # fmt: skip
