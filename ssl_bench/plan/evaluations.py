"""The evaluators of a matrix: their options, and the sets that each judges on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssl_bench.data import Labelled, Places
from ssl_bench.data.leaks import JudgedElsewhere
from ssl_bench.errors import DataError, SpecError
from ssl_bench.plugins.registry import EVALUATORS
from ssl_bench.spec.model import parse
from ssl_bench.spec.rows import EvaluatorSpec


@dataclass(frozen=True)
class EvaluatorOnSets:
    """An evaluator of a matrix: its options, and the sets that it judges on."""

    evaluator: type[Any]
    options: Any
    sets: tuple[Any, ...]
    brings_sets: bool  #: the sets are the evaluator's, not the matrix's
    seeds: tuple[int, ...]  #: those of the matrix's that it judges


def evaluators_of(
    specs: Sequence[EvaluatorSpec], seeds: tuple[int, ...], places: Places, smoke: bool = False
) -> list[EvaluatorOnSets]:
    """The evaluators with validated options and the sets of their own, before the matrix's data are looked for. See
    ``on_data``."""
    parsed = []
    for spec in specs:
        evaluator = EVALUATORS.get(spec.evaluator)
        options = parse(evaluator.Options, spec.options, f"evaluator {spec.evaluator!r}")
        parsed.append((spec, evaluator, evaluator.smoke(options) if smoke else options))
    selected = []
    for spec, evaluator, options in parsed:  # all options first: a set may take long to find
        sets = evaluator.own_sets(options, places)
        selected.append(
            EvaluatorOnSets(
                evaluator, options, () if sets is None else tuple(sets), sets is not None, spec.seeds or seeds
            )
        )
    return selected


def judged_elsewhere(evaluators: Sequence[EvaluatorOnSets]) -> list[JudgedElsewhere]:
    """What must not be pretrained on though it is in no labelled set: the validation and test images of evaluators' own
    sets."""
    elsewhere = []
    for evaluator, judged in (
        (selected.evaluator, judged) for selected in evaluators if selected.brings_sets for judged in selected.sets
    ):
        splits = (judged.validation, judged.test)
        files = (
            tuple(Path(file) for split in splits for file in split.files)
            if all(hasattr(split, "files") for split in splits)
            else None
        )
        elsewhere.append(JudgedElsewhere(f"{judged.name} ({evaluator.name})", files, getattr(judged, "shows", "")))
    return list(dict.fromkeys(elsewhere))


def on_data(evaluators: Sequence[EvaluatorOnSets], labelled: tuple[Labelled, ...]) -> list[EvaluatorOnSets]:
    """The evaluators with the labelled sets for those that bring none, every set under a name of its own and
    checked."""
    taken = {judged.name: _fingerprints(judged) for judged in labelled}
    of_matrix = set(taken)
    placed = []
    for selected in evaluators:
        sets = (
            tuple(_named_apart(judged, selected.evaluator.name, taken, of_matrix) for judged in selected.sets)
            if selected.brings_sets
            else labelled
        )
        for judged in sets:
            try:
                selected.evaluator.check(selected.options, judged.train, judged.validation)
            except DataError as error:
                raise DataError(f"evaluator {selected.evaluator.name!r} on {judged.name}: {error}") from None
        placed.append(replace(selected, sets=sets))
    return placed


def _named_apart(judged: Any, evaluator: str, taken: dict[str, tuple[str, ...]], of_matrix: set[str]) -> Any:
    """A set that an evaluator brought, under a name that no labelled set and no other set has: tables address sets by
    their names."""
    prints = _fingerprints(judged)
    names = (
        judged.name,
        f"{judged.name} ({evaluator})",
        *(f"{judged.name} ({evaluator} {number})" for number in range(2, len(taken) + 3)),
    )
    name = next(name for name in names if name not in of_matrix and taken.get(name, prints) == prints)
    taken[name] = prints
    if name == judged.name:
        return judged
    if not (
        dataclasses.is_dataclass(judged)
        and not isinstance(judged, type)
        and "name" in {field.name for field in dataclasses.fields(judged)}
    ):
        raise SpecError(
            f"evaluator {evaluator!r} brings a set called {judged.name!r}, as another one is called; give it a "
            "name of its own"
        )
    return replace(judged, name=name)


def _fingerprints(judged: Any) -> tuple[str, ...]:
    return tuple(split.fingerprint for split in (judged.train, judged.validation, judged.test))
