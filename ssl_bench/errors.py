"""Errors meant for the person at the keyboard: each names the thing, the value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SSLBenchError(Exception):
    """Base of every error that a user can cause and mend. The command line prints it without a traceback."""


class SpecError(SSLBenchError):
    """A matrix, an option or a command line that cannot mean anything."""


class DataError(SSLBenchError):
    """Images, labels or folders that cannot be used as asked."""


class WeightsError(SSLBenchError):
    """A weights file that is not what it should be."""


class RecordError(SSLBenchError):
    """A results folder that cannot be read or written."""


class TrainingError(SSLBenchError):
    """Training that cannot go on, for example a loss that is not finite."""


class Interrupted(SSLBenchError):
    """The run was asked to stop; what was reached is saved and the same command goes on from there."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A half-sentence naming the nearest known words, or all of them when nothing is near.

    >>> did_you_mean("rotaton", ["rotation", "vae"])
    "did you mean 'rotation'?"
    """
    names = sorted({str(name) for name in known})
    near = difflib.get_close_matches(str(word), names, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    return "known are: " + ", ".join(names) if names else "none are known"
