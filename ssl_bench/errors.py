"""Errors meant for the person at the keyboard: each names the thing, the value and what is allowed."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

MOST_QUOTED = 60  # characters of a value in a message
MOST_NAMES = 60  # known names in a message


class SSLBenchError(Exception):
    """Base of every error that a user can cause and mend. The command line prints it without a traceback.

    ``exit_code``: 2 where what was given cannot mean anything or cannot be used, 1 where something went wrong on the
    way.
    """

    exit_code = 2


class SpecError(SSLBenchError):
    """A matrix, an option or a command line that cannot mean anything."""


class DataError(SSLBenchError):
    """Images, labels or folders that cannot be used as asked."""


class WeightsError(SSLBenchError):
    """A weights file that is not what it should be."""


class DamagedWeights(WeightsError):
    """A file of tensors whose bytes are not those that were written."""


class RecordError(SSLBenchError):
    """A results folder that cannot be read or written."""


class WriteError(RecordError):
    """Results that are there and could not be written out."""

    exit_code = 1


class DamagedRecord(RecordError):
    """A record, or the predictions that belong to it, that is not what was written, or holds values that cannot be."""


class ContradictedRecord(DamagedRecord):
    """Numbers that are not those of the predictions beside them: which of the two is wrong cannot be told."""


class TrainingError(SSLBenchError):
    """Training that cannot go on, for example a loss that is not finite."""

    exit_code = 1


class NoRoomError(SSLBenchError, OSError):
    """A full disk, a quota that is used up or a file that may not grow: nothing can be written any more."""

    exit_code = 1


class Interrupted(SSLBenchError):
    """The run was asked to stop; what was reached is saved and the same command goes on from there."""


class _Quoting(reprlib.Repr):
    """Values as a settings file has them, long ones cut before they are turned into text."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxset = 3, 8, 8, 4, 8
        self.maxstring = self.maxother = MOST_QUOTED + 2  # and its quotes

    def repr_int(self, value: int, level: int) -> str:
        return (
            str(value) if abs(value) < 10**20 else f"a whole number of {int(value.bit_length() * 0.30103) + 1:,} digits"
        )

    def repr_bool(self, value: bool, level: int) -> str:
        return "true" if value else "false"

    def repr_NoneType(self, value: None, level: int) -> str:
        return "null"

    def repr_tuple(self, value: tuple[Any, ...], level: int) -> str:
        return self.repr_list(list(value), level)


_QUOTING = _Quoting()


def quoted(value: Any) -> str:
    """A value as a message shows it: in YAML's words, on one line, and cut to ``MOST_QUOTED`` characters.

    >>> quoted([0, True, None, "a"])
    "[0, true, null, 'a']"
    """
    try:
        text = _QUOTING.repr(value)
    except Exception:  # whatever a stranger's repr does
        text = f"a value of type {type(value).__name__}"
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= MOST_QUOTED + 2 else f"{text[:MOST_QUOTED]}..."


MOST_OF_A_MESSAGE = 10_000  # characters


def text_of(error: BaseException) -> str:
    """What an error says, whatever its class does: its type's name where that is nothing or fails, never endless, and
    always writable as UTF-8."""
    try:
        text = str(error)
    except BaseException as other:  # of a class of its own
        text = f"{type(error).__name__}, whose text cannot be made: {type(other).__name__}"
    if len(text) > MOST_OF_A_MESSAGE:
        text = f"{text[:MOST_OF_A_MESSAGE]} ... ({len(text):,} characters)"
    return text.encode("utf-8", "backslashreplace").decode() or type(error).__name__


class Notice(UserWarning):
    """What a user should know and nobody has to act on: a cache made again, a checkpoint that could not be used, files
    without a digest."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A half-sentence naming the nearest known words, or all of them when nothing is near.

    >>> did_you_mean("rotaton", ["rotation", "vae"])
    "did you mean 'rotation'?"
    """
    names = sorted({str(name) for name in known})
    near = difflib.get_close_matches(str(word)[:MOST_QUOTED], names, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    shown = [name[:MOST_QUOTED] for name in names[:MOST_NAMES]]
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return "known are: " + ", ".join(shown) + more if names else "none are known"
