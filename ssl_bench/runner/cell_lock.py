"""Processes that share a folder divide its cells by file locks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock

from ssl_bench.errors import RecordError
from ssl_bench.plan.cells import Cell


@contextmanager
def holding_cell(cell: Cell, blocking: bool) -> Iterator[None]:
    """Hold a cell, so that no other process computes it meanwhile.

    Raises
    ------
    Timeout : another process holds it, and ``blocking`` is False; otherwise this one waits.
    RecordError : the file system has no locks.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(cell.folder / ".lock", blocking=blocking)
        lock.acquire()
    except NotImplementedError:
        raise RecordError(
            f"the file system of {cell.folder} has no file locks, by which processes divide the cells; choose "
            "another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
