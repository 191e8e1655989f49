"""Where the records of a run lie: as files in its folder or, of a published run, in an archive; asked for by path in
either case.

A published run can be continued: what is written then lies beside the archive, and a file stands before the archived
record of the same path.
"""

from __future__ import annotations

import fnmatch
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ssl_bench.errors import DamagedRecord, RecordError
from ssl_bench.records.archive import PREDICTIONS_FILE, RECORDS_FILE, Archive
from ssl_bench.system import digests

AGAIN = "run the same command again to measure it anew, if its weights are still there"
RUN_FILE = "run.json"


class Place(Protocol):
    """Where a record and the predictions beside it lie."""

    def holds(self, path: Path) -> bool:
        """Whether anything is at ``path``."""

    def read(self, path: Path) -> bytes:
        """The bytes of a record. Raises FileNotFoundError, and another OSError where it cannot be read."""

    def matching(self, folder: Path, pattern: str) -> Iterator[Path]:
        """Paths below ``folder``, as ``Path.glob`` gives them."""

    def predictions(self, path: Path, digest: str) -> Callable[[], dict[str, np.ndarray]] | None:
        """What reads the arrays at ``path``, whose file has ``digest`` ("" where it is not known); None where there are
        none.

        Raises DamagedRecord where they are not what was written, and so may the reader; RecordError where they cannot
        be read.
        """


class Files:
    """Records as files, one each, with an .npz of predictions beside."""

    def holds(self, path: Path) -> bool:
        return os.path.lexists(path)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def matching(self, folder: Path, pattern: str) -> Iterator[Path]:
        if "/" in pattern:
            return folder.glob(pattern)
        try:  # thousands of folders are asked: in a tenth of the time that glob takes
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return iter(())
        return (folder / name for name in fnmatch.filter(names, pattern))

    def predictions(self, path: Path, digest: str) -> Callable[[], dict[str, np.ndarray]] | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RecordError(f"{path} cannot be read: {error.strerror or error}") from None
        if digest and digests.digest_of(content) != digest:
            raise DamagedRecord(
                f"{path} is damaged, or belongs to another record: its digest is not the one in "
                f"{path.with_suffix('.json').name}; {AGAIN}"
            )
        return lambda: _arrays(path, content)


def _arrays(path: Path, content: bytes) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as members:
            return {name.removesuffix(".npy"): _array(members.read(name)) for name in members.namelist()}
    except Exception as error:  # of zipfile, zlib, numpy's headers: damage may raise nearly anything
        raise DamagedRecord(f"{path} is damaged and cannot be read: {error or type(error).__name__}; {AGAIN}") from None


_MAGIC = b"\x93NUMPY\x01\x00"


def _array(content: bytes) -> np.ndarray:
    """As ``np.load`` reads it; the headers of a run's arrays are few, and reading one takes longer than reading the
    numbers."""
    begin = 10 + int.from_bytes(content[8:10], "little")
    if content[:8] != _MAGIC or len(content) < begin:
        array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
        return array
    shape, columns_first, dtype = _array_header(content[8:begin])
    # of bytes that can be written to, as np.load gives
    return np.frombuffer(bytearray(content[begin:]), dtype).reshape(shape, order="F" if columns_first else "C")


@lru_cache(maxsize=256)
def _array_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    shape, columns_first, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header))
    if dtype.hasobject:
        raise ValueError("it holds objects, which are not read")
    return shape, columns_first, dtype


FILES = Files()


def place_of(record: Path) -> Place:
    """Where the record of this path lies, and with it its predictions. Raises DamagedRecord for an archive that is
    damaged."""
    if FILES.holds(record) or (archive := archive_above(record)) is None or not archive.holds(record):
        return FILES
    return archive


def is_stored(record: Path) -> bool:
    """Whether there is a record of this path, or a folder of records."""
    return place_of(record).holds(record)


def matching(folder: Path, pattern: str) -> list[Path]:
    """Sorted paths of records and of folders of records below ``folder`` by a pattern such as "*/*.json"."""
    archive = archive_above(folder / "*")
    return sorted(
        {*FILES.matching(folder, pattern), *(archive.matching(folder, pattern) if archive is not None else ())}
    )


def archive_above(path: Path) -> Archive | None:
    """The archive of the run that a path belongs to: the nearest folder above it that holds one, or a run without."""
    for folder in path.parents:
        if version := _file_version(folder / RECORDS_FILE):
            return _archive_at(folder, version + _file_version(folder / PREDICTIONS_FILE))
        if os.path.lexists(folder / RUN_FILE):
            return None
    return None


def _file_version(path: Path) -> tuple[int, ...]:
    """What is another when a file was written again; () where there is none."""
    try:
        facts = os.stat(path)
    except OSError:
        return ()
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size


@lru_cache(maxsize=4)
def _archive_at(root: Path, version: tuple[int, ...]) -> Archive:
    return Archive(root)
