"""What stands above the table: what a reader must know before the numbers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from ssl_bench.records.schema import Environment
from ssl_bench.report.reading.records import RunRecords

MOST_PROBLEMS = 5  # of one kind that are told one by one
LEAST_CORE = 0.9  # of one core's time a pretraining must have had for its minutes to mean something


def warnings_of(results: RunRecords, problems: list[str]) -> list[str]:
    """What a reader must know before the numbers. ``problems``: with predictions that comparisons would use."""
    warnings = [f"damaged and left out: {damage}" for damage in _first_sentences(results.damaged, "damaged files")]
    unusable = list(dict.fromkeys([*problems, *results.doubtful]))
    warnings += [
        f"predictions left out of comparisons: {problem}"
        for problem in _first_sentences(unusable, "files of predictions")
    ]
    waiting = sum(missing.failure is None and not missing.damage for missing in results.missing)
    if waiting:
        warnings.append(
            f"not finished: {waiting:,} of {results.expected:,} records are missing (…); intervals cover what is there"
        )
    if len({environment_key(e) for e, _ in made_in(results)}) > 1:
        warnings.append(
            "made in different environments (see `run` in the legend), which may explain differences between rows"
        )
    if busy := _slowed(results):
        warnings.append(f"minutes of {', '.join(busy)} include waiting: other processes used the CPU")
    opened: dict[str, int] = {}
    for evaluation in results.evaluations:
        opened[evaluation.row.row] = max(opened.get(evaluation.row.row, 0), evaluation.record.test_opened)
    often = {row: times for row, times in opened.items() if times > 1}
    if often:
        warnings.append(
            "test was opened more than once: " + ", ".join(f"{row} {times} times" for row, times in often.items())
        )
    if others := results.opened_elsewhere:
        rows = ", ".join(f"{row} ({times:,} record{'s' if times > 1 else ''})" for row, times in others.items())
        warnings.append(f"other settings of these rows were evaluated on test: {rows}")
    return warnings + _from_notes(results)


def _first_sentences(sentences: list[str], what: str) -> list[str]:
    """Some of many, and how many there are."""
    more = len(sentences) - MOST_PROBLEMS
    return sentences if more <= 0 else [*sentences[:MOST_PROBLEMS], f"and {more:,} more {what}"]


def _from_notes(results: RunRecords) -> list[str]:
    """What evaluators warn of: row and item, with how often (seeds, draws)."""
    told: dict[str, Counter[str]] = {}
    for evaluation, note in results.notes:
        if note.warning:
            told.setdefault(note.text, Counter())[f"{evaluation.row.row} {note.item}".strip()] += 1
    return [
        f"{text}: {', '.join(item + (f' ({times} times)' if times > 1 else '') for item, times in items.items())}"
        for text, items in told.items()
    ]


def made_in(results: RunRecords) -> list[tuple[Environment, float]]:
    """Where each record was made, and in how many seconds.

    Their sum, unlike a command's wall time, holds whatever worked at once or was killed.
    """
    pretrained = [(p.environment, p.seconds.get("total", math.nan)) for p in results.pretrainings.values()]
    return pretrained + [(e.record.environment, e.record.seconds) for e in results.evaluations]


def environment_key(environment: Environment) -> str:
    """What can move a number behind an id's back; our own code cannot, a part whose numbers change takes another
    version and so another id."""
    return f"{environment.device}, {environment.precision}, torch {environment.versions.get('torch', '?')}"


def _slowed(results: RunRecords) -> list[str]:
    """Rows whose pretraining had less than nine tenths of one core's time, so that its wall time tells of the machine's
    other work."""
    trained = results.pretraining
    on_cpu = [p.environment.device.startswith("cpu") for p in results.pretrainings.values()]
    slowed = trained[np.array(on_cpu, bool) & (trained["cpu_seconds"] < LEAST_CORE * trained["seconds"])]
    return list(dict.fromkeys(slowed["row"]))
