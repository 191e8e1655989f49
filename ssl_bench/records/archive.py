"""A published run's records and predictions in two compressed files, which every table and figure can be made of again.

    records.tar.xz      every record as it was written, by its path in the results folder; `tar xf` gives the files back
    predictions.tar.xz  the arrays beside the records, as columns, in which an array that many records share stands once

The first holds ``index.json`` too: the digest of the second, and of every array its column, where it begins, and its
shape. A column of values of several bytes is stored as byte planes (all first bytes, then all second ones ...), which
compress better. Predicted classes of which nothing is known but whether they are right (``WRONG`` elsewhere) are stored
as bits beside the true classes.

Every flipped bit is found: the xz format keeps a SHA-256 of what it holds and checksums of its own headers, and
``index.json`` the digest of predictions.tar.xz. The digest that a record has of its own .npz file cannot be checked any
more: that file is not in the archive.
"""

from __future__ import annotations

import io
import json
import lzma
import math
import tarfile
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ssl_bench.errors import DamagedRecord, RecordError
from ssl_bench.system import digests

RECORDS_FILE, PREDICTIONS_FILE = "records.tar.xz", "predictions.tar.xz"
INDEX = "index.json"
FORMAT = 1
TRUTH = "target"  #: the true classes among an evaluation's predictions
WRONG = -1  #: a predicted class of which only is known that it is not the true one
_PRESET = 9 | lzma.PRESET_EXTREME
_LEAST_WINDOW, _LARGEST_WINDOW = 1 << 12, 1 << 26  # bytes in which repetitions are looked for

Arrays = Mapping[str, np.ndarray]


def archived(records: Mapping[str, bytes], predictions: Mapping[str, Arrays]) -> dict[str, bytes]:
    """The files of an archive by name.

    Parameters
    ----------
    records : path in the results folder ("cells/ROW/SEED-ID/NAME.json") to the bytes of a record.
    predictions : path of the record with the suffix .npz to arrays of any shape and any dtype that holds no Python
        objects.

    Returns
    -------
    The content of records.tar.xz, and of predictions.tar.xz where there are predictions. Equal input gives equal bytes.
    """
    columns = _Columns()
    index = {name: columns.add(name, arrays) for name, arrays in sorted(predictions.items())}
    files = {PREDICTIONS_FILE: _compressed(columns.files())} if index else {}
    told = {
        "format": FORMAT,
        "digest": digests.digest_of(files[PREDICTIONS_FILE]) if files else "",
        "columns": columns.described,
        "predictions": index,
    }
    # records of a kind resemble each other: side by side they compress best
    alike = sorted(records, key=lambda name: (PurePosixPath(name).name.split("-")[0], name))
    members = {INDEX: json.dumps(told, separators=(",", ":")).encode(), **{name: records[name] for name in alike}}
    return {RECORDS_FILE: _compressed(members), **files}


class _Columns:
    """Arrays of the same name and dtype one after the other, equal ones once."""

    def __init__(self) -> None:
        self.described: list[dict[str, str]] = []  # file, dtype and form of each column
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._parts: list[list[bytes]] = []
        self._lengths: list[int] = []  # in values
        self._known: dict[tuple[int, bytes], int] = {}  # column and bytes to where they begin

    def add(self, name: str, arrays: Arrays) -> dict[str, list[Any]]:
        """Array to [column, where it begins, shape], of the predictions called ``name``."""
        evaluator = PurePosixPath(name).name.split("-")[0]
        truth = arrays.get(TRUTH)
        return {key: self._place(f"{evaluator}/{key}", array, truth) for key, array in arrays.items()}

    def _place(self, name: str, array: np.ndarray, truth: np.ndarray | None) -> list[Any]:
        plain = array.dtype.itemsize > 0 and np.dtype(array.dtype.str) == array.dtype
        if array is not truth and _only_right_or_wrong(array, truth):
            form, values = "right", np.packbits(array == truth).tobytes()
        elif plain:
            form, values = "planes", np.ascontiguousarray(array).tobytes()
        else:  # a structured dtype, or strings without a letter
            form, buffer = "npy", io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            values = buffer.getvalue()
        kind = (name, array.dtype.str, form)
        column = self._numbers.setdefault(kind, len(self.described))
        if column == len(self.described):
            self.described.append({"file": f"{column:04d}", "name": name, "dtype": array.dtype.str, "form": form})
            self._parts.append([])
            self._lengths.append(0)
        known = (column, values)
        if known not in self._known:
            self._known[known] = self._lengths[column]
            self._parts[column].append(values)
            self._lengths[column] += len(values) // _width(self.described[column])
        return [column, self._known[known], [len(values)] if form == "npy" else list(array.shape)]

    def files(self) -> dict[str, bytes]:
        return {
            described["file"]: np.ascontiguousarray(
                np.frombuffer(b"".join(parts), np.uint8).reshape(-1, _width(described)).T
            ).tobytes()
            for described, parts in zip(self.described, self._parts, strict=True)
        }


def _only_right_or_wrong(array: np.ndarray, truth: np.ndarray | None) -> bool:
    """Whether every value is the true class or ``WRONG``."""
    if truth is None or array.shape != truth.shape or array.dtype.kind != "i" or truth.dtype.kind not in "iu":
        return False
    return bool(len(truth.ravel()) and truth.min() >= 0 and ((array == truth) | (array == WRONG)).all())


def _width(described: Mapping[str, str]) -> int:
    """Bytes of a column that belong to one value."""
    return np.dtype(described["dtype"]).itemsize if described["form"] == "planes" else 1


def _compressed(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    content = buffer.getvalue()
    # Memory goes with the window. Numbers compress best where the byte before tells what to expect (lc) and positions
    # nothing (lp, pb).
    window = min(max(len(content), _LEAST_WINDOW), _LARGEST_WINDOW)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": _PRESET, "dict_size": window, "lc": 4, "lp": 0, "pb": 0}]
    return lzma.compress(content, format=lzma.FORMAT_XZ, check=lzma.CHECK_SHA256, filters=filters)


class Archive:
    """The records of a published run, asked for by the paths that they had in the results folder ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._records = _members(root / RECORDS_FILE)
        try:
            index = json.loads(self._records.pop(INDEX))
            self._columns, self._index, self._digest = index["columns"], index["predictions"], index["digest"]
            version = index["format"]
        except (KeyError, TypeError, ValueError):
            raise DamagedRecord(f"{root / RECORDS_FILE} holds no {INDEX}, so it is no archive of records") from None
        if version != FORMAT:
            raise RecordError(
                f"{root / RECORDS_FILE} was written by a newer ssl_bench (form {version}; this version reads "
                f"{FORMAT}); "
                "update ssl_bench"
            )
        self._below: dict[str, set[str]] = {}  # folder to the names in it
        for name in self._records:
            while name != ".":
                above = PurePosixPath(name).parent.as_posix()
                self._below.setdefault(above, set()).add(PurePosixPath(name).name)
                name = above

    def holds(self, path: Path) -> bool:
        """Whether there is a record, predictions, or a folder of records at ``path``."""
        name = self._name(path)
        return name in self._records or name in self._index or name in self._below

    def read(self, path: Path) -> bytes:
        """The bytes of a record. Raises FileNotFoundError."""
        try:
            return self._records[self._name(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    def matching(self, folder: Path, pattern: str) -> Iterator[Path]:
        """Records and folders of records below ``folder``, as ``Path.glob`` gives files."""
        names = [self._name(folder)]
        for part in pattern.split("/"):
            names = [
                (PurePosixPath(name) / below).as_posix()
                for name in names
                for below in self._below.get(name, ())
                if fnmatchcase(below, part)
            ]
        outer = self._name(folder)
        return (folder / PurePosixPath(name).relative_to(outer) for name in names)

    def predictions(self, path: Path, digest: str) -> Callable[[], dict[str, np.ndarray]] | None:
        """What reads the arrays that lay at ``path``; None where there are none. ``digest`` is of a file that is gone,
        and not looked at.

        Raises DamagedRecord where predictions.tar.xz is not the file that was written with the records.
        """
        name = self._name(path)
        if name not in self._index:
            return None
        self._checked  # noqa: B018  once for an archive
        return partial(self._arrays, name)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    @cached_property
    def _checked(self) -> bytes:
        path = self.root / PREDICTIONS_FILE
        content = _content(path)
        if digests.digest_of(content) != self._digest:
            raise DamagedRecord(
                f"{path} is damaged, or belongs to another {RECORDS_FILE}: its digest is not the one written there; "
                "fetch it again"
            )
        return content

    @cached_property
    def _planes(self) -> dict[str, bytes]:
        return _members(self.root / PREDICTIONS_FILE, self._checked)

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        try:
            arrays: dict[str, np.ndarray] = {}
            places = self._index[name]
            for key in sorted(places, key=lambda key: key != TRUTH):  # what is stored as bits needs the true classes
                column, begin, shape = places[key]
                arrays[key] = self._array(column, begin, shape, arrays.get(TRUTH))
            return {key: arrays[key] for key in places}
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise DamagedRecord(f"{self.root / RECORDS_FILE}: the arrays of {name} cannot be read: {error}") from None

    def _array(self, column: int, begin: int, shape: list[int], truth: np.ndarray | None) -> np.ndarray:
        described = self._columns[column]
        stored, count, dtype = self._planes[described["file"]], math.prod(shape), np.dtype(described["dtype"])
        if described["form"] == "npy":
            array: np.ndarray = np.load(io.BytesIO(stored[begin : begin + count]), allow_pickle=False)
            return array
        if described["form"] == "right":
            bits = np.frombuffer(stored, np.uint8, count=(count + 7) // 8, offset=begin)
            right = np.unpackbits(bits, count=count).reshape(shape).astype(bool)
            return np.where(right, truth if truth is not None else WRONG, WRONG).astype(dtype)
        planes = np.frombuffer(stored, np.uint8).reshape(dtype.itemsize, -1)[:, begin : begin + count]
        return np.ascontiguousarray(planes.T).reshape(-1).view(dtype).reshape(shape)


def _members(path: Path, content: bytes | None = None) -> dict[str, bytes]:
    """The files in a compressed archive, none of them written anywhere."""
    content = _content(path) if content is None else content
    try:
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(content, format=lzma.FORMAT_XZ))) as tar:
            return {member.name: file.read() for member in tar if (file := tar.extractfile(member)) is not None}
    except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
        raise DamagedRecord(f"{path} is damaged and cannot be read: {error}; fetch it again") from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DamagedRecord(
            f"{path} is missing, and was published with the records beside it; fetch it again"
        ) from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from None
