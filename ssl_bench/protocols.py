"""Versions of the evaluators' protocols, known without importing an evaluator: a report says which of its numbers are of an older one."""

from __future__ import annotations

import re

#: evaluator to the version of its protocol; raised when a change can move a number, which makes a re-measurement of every cell
VERSIONS = {"linear": 2, "knn": 1, "finetune": 1, "detection": 2, "diagnostics": 1}


def split_protocol(protocol: str) -> tuple[str, int]:
    """A record's protocol as name and version; version 1 where none is written.

    >>> split_protocol("linear-lbfgs v2")
    ('linear-lbfgs', 2)
    """
    match = re.fullmatch(r"(.*) v(\d{1,9})", protocol)
    return (match[1], int(match[2])) if match else (protocol, 1)


def is_older(evaluator: str, protocol: str) -> bool:
    """Whether a record's protocol is of an older version than this installation's evaluator; False of evaluators that are not built in."""
    return split_protocol(protocol)[1] < VERSIONS.get(evaluator, 0)
