"""One download of a set at a time, however many processes ask for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ssl_bench.data.packs.packing import locked
from ssl_bench.data.places import Progress


@contextlib.contextmanager
def downloading_alone(downloads: Path, name: str, title: str, progress: Progress) -> Iterator[None]:
    """Meanwhile no other process looks for ``name`` in ``downloads``, where it could find half of it.

    Where that folder cannot be written there is no lock: nothing can be downloaded to it, and what lies there stays as
    it is.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            downloads.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(downloads / f"{name}.lock", title, progress, "downloads"))
        yield
