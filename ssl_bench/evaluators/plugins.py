"""What evaluators of plugins are given and what they give back: copies, and answers that a record can hold."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ssl_bench.data.images import ImageSet
from ssl_bench.errors import RecordError, quoted
from ssl_bench.evaluators.base import Evaluation, Features, Measurement, Subject
from ssl_bench.records.bounds import ACCURACIES
from ssl_bench.records.declarations import EvaluatorDeclaration, Metric, Note
from ssl_bench.spec.model import LONGEST_NAME


class _Copied:
    """Features of which everybody gets a copy."""

    def __init__(self, features: Features) -> None:
        self._features = features

    def names(self) -> list[str]:
        """As of the features themselves."""
        return self._features.names()

    def get(self, split: str, name: str) -> Tensor:
        """A copy, float32 [N, D]."""
        return self._features.get(split, name).clone()


def with_copies(subject: Subject) -> Subject:
    """The same subject with a network, features and labels of its own: what is trained, normalised or sorted in place
    reaches no other evaluator."""
    return replace(
        subject,
        backbone=copy.deepcopy(subject.backbone),
        features=_Copied(subject.features),
        train=_own(subject.train),
        validation=_own(subject.validation),
        test=None if subject.test is None else _own(subject.test),
    )


def _own(images: Any) -> Any:
    return (
        replace(images, labels=images.labels.copy())
        if isinstance(images, ImageSet) and images.labels is not None
        else images
    )


def refuse_unusable_evaluation(
    name: str,
    evaluation: Any,
    sizes: Mapping[str, int],
    target: Any = None,
    declared: EvaluatorDeclaration | None = None,
    final: bool = False,
) -> None:
    """Raise RecordError for an answer that no record or table could hold, in words that say what to return.

    Parameters
    ----------
    evaluation : what ``evaluate`` returned.
    sizes : images of each split.
    target : labels of the test images, where predictions are held against them; None otherwise.
    declared : what the evaluator declares of its metrics; None: nothing.
    final : the run opened test, so there must be a test number.
    """
    if not isinstance(evaluation, Evaluation):
        raise RecordError(
            f"{name} returned a {type(evaluation).__name__} from evaluate(subject), and it must return an "
            "ssl_bench.Evaluation"
        )
    wrong = next((m for m in evaluation.measurements if not isinstance(m, Measurement)), None)
    if wrong is not None:
        raise RecordError(
            f"{name} measured a {type(wrong).__name__}, and measurements must be a list of ssl_bench.Measurement"
        )
    declared = declared or EvaluatorDeclaration()
    if not evaluation.measurements:
        raise RecordError(
            f"{name} returned no measurement; return one at least, or say in supports() which networks it cannot judge"
        )
    seen: dict[tuple[Any, ...], Measurement] = {}
    for m in evaluation.measurements:
        if (
            not isinstance(m.metric, str)
            or not m.metric.strip()
            or not m.metric.isprintable()
            or len(m.metric) > LONGEST_NAME
        ):
            raise RecordError(
                f"{name} names a metric {quoted(m.metric)}; a name is printable text of at most {LONGEST_NAME} "
                "characters"
            )
        metric = declared.metric(m.metric)
        if declared.metrics and metric not in declared.metrics:
            known = ", ".join(known.name for known in declared.metrics)
            raise RecordError(f"{name} measured {m.metric}, which it does not declare; its metrics are {known}")
        problem = (metric or Metric(name=m.metric)).problem_of(m.metric, _value_as_number(name, m))
        if problem:
            raise RecordError(f"{name} measured what cannot be on {m.split}: {problem}")
        place = (m.metric, m.split, m.stage, m.labels, m.draw, m.row)
        if place in seen:
            raise RecordError(
                f"{name} measured {m.metric} on {m.split} twice ({quoted(seen[place].value)} and {quoted(m.value)}), "
                "and one of them would stand in the "
                "table; tell them apart by metric, stage, labels, draw or row"
            )
        seen[place] = m
        size = sizes.get(m.split)
        if size is not None and m.metric.startswith(ACCURACIES) and isinstance(m.n, (int, np.integer)) and m.n > size:
            raise RecordError(
                f"{name} says that {m.metric} is over {m.n:,} images, and {m.split} has {size:,}: its interval would "
                "be too narrow; n counts images, each once"
            )
    if final and declared.opens_test and not any(m.split == "test" for m in evaluation.measurements):
        raise RecordError(
            f"{name} was given test images and measured nothing on them; measure on subject.test where it is not "
            "None, or set opens_test = False"
        )
    if wrong_note := next((note for note in evaluation.notes if not isinstance(note, Note)), None):
        raise RecordError(f"{name} gives a note {quoted(wrong_note)}, and notes must be a list of ssl_bench.Note")
    for key, array in evaluation.predictions.items():
        _refuse_array(name, str(key), array, target)
    try:
        json.dumps(dict(evaluation.details))
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"{name} gives details that do not fit into JSON ({error}); make tensors and arrays numbers with float(x) "
            "or x.tolist()"
        ) from None


def _value_as_number(name: str, m: Measurement) -> float:
    try:
        return float(m.value)
    except (TypeError, ValueError, RuntimeError):
        raise RecordError(f"{name} measured {m.metric} as {quoted(m.value)}, and a value must be one number") from None


def _refuse_array(name: str, key: str, array: Any, target: Any) -> None:
    held = np.asarray(array)
    if held.dtype == object:
        raise RecordError(
            f"{name} gives predictions {key!r} that are no array of numbers; give integers, one for each test image"
        )
    if target is None or key.startswith("drawn/"):
        return
    if held.shape != (len(target),) or held.dtype.kind not in "iu":
        raise RecordError(
            f"{name} gives predictions {key!r} of shape {held.shape} and type {held.dtype}, and there are "
            f"{len(target):,} test images; give an array of "
            "integers, the class for each test image in order"
        )
