"""Where images are looked for and kept, and what may be done to get at them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ssl_bench.errors import DataError

Progress = Callable[[str, int, int], None]  # (what is being done, done, total)


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Places:
    """Where sources are looked for, where packs are kept, and whether images may be read and packed.

    Attributes
    ----------
    cache : folder for packed images and downloads.
    root : folder searched before anything is downloaded; None: none is.
    size : side of the images in pixels; None: the source's own.
    progress : called with (what is being done, done, total); total is 0 where it is not known.
    unpacked : None: images are packed. Otherwise nothing is decoded and no file is read to its end: noise stands in for
        images that are not packed yet, and this collects what messages call them, with the bytes that they would take.
        Counts, labels and sizes of such sets are right; their pixels, hashes and fingerprints belong to no image.
    reads : whether files may be read to their end to learn whether they are known; never where ``unpacked`` collects.
    """

    cache: Path
    root: Path | None = None
    size: int | None = None
    progress: Progress = silent
    unpacked: dict[str, int] | None = None
    reads: bool = True

    def __post_init__(self) -> None:
        if self.unpacked is not None:
            object.__setattr__(self, "reads", False)

    def without_reading(self) -> Places:
        """The same places, where only what is remembered of files is known."""
        return replace(self, reads=False)

    def count_unpacked(self, what: str, needed: int) -> None:
        """Note that ``needed`` bytes of ``what`` are not packed; the same images in another size are another pack."""
        assert self.unpacked is not None
        known = self.unpacked.get(what, needed)
        self.unpacked[what if known == needed else f"{what} ({needed:,} bytes)"] = needed


def places_of(
    root: Path | str | None = None,
    cache: Path | str | None = None,
    progress: Progress | None = None,
    size: int | None = None,
    unpacked: dict[str, int] | None = None,
) -> Places:
    """Where images are looked for and packed; None takes ``data_root``'s and ``cache_folder``'s defaults.

    Raises DataError when the data root does not exist.
    """
    return Places(cache_folder(cache), data_root(root), size, progress or silent, unpacked)


def data_root(given: Path | str | None) -> Path | None:
    """The folder searched before anything is downloaded: the argument, else SSL_BENCH_DATA.

    Raises DataError when it does not exist.
    """
    text = given if given is not None else os.environ.get("SSL_BENCH_DATA") or None
    if text is None:
        return None
    root = Path(text).expanduser()
    if not root.is_dir():
        raise DataError(
            f"the data root {str(text)!r} is not a folder; set --data-root or SSL_BENCH_DATA to one that exists"
        )
    return root.absolute()


def cache_folder(given: Path | str | None) -> Path:
    """Where packed images and downloads go: the argument, else XDG_CACHE_HOME or ~/.cache, there "ssl_bench"."""
    if given is not None:
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "ssl_bench"
