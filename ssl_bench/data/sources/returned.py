"""What a plugin's source gives, held against the contract: a mistake shows when it is opened, in words that say what to
give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ssl_bench.data.packs.decode import Stored
from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet, RawSplit, Reader
from ssl_bench.errors import DataError, SSLBenchError, quoted
from ssl_bench.plugins.registry import SOURCES
from ssl_bench.plugins.source_code import raised
from ssl_bench.system.interruption import is_interruption

T = TypeVar("T")

_SPLITS = ("train", "test", "validation")
_METHODS = ("__len__", "content", "items", "where")


def called(source: str, method: Callable[..., T], *values: Any) -> T:
    """``method(*values)`` of the source called ``source``; what a plugin's own code raises becomes a DataError that
    says where."""
    try:
        return method(*values)
    except SSLBenchError:
        raise
    except BaseException as error:
        if is_interruption(error) or SOURCES.is_builtin(source):
            raise
        raise DataError(f"source {source!r}: {raised(error)}") from error


class _Guarded:
    """A plugin's reader, what it raises as a DataError."""

    def __init__(self, source: str, reader: Reader) -> None:
        self.source, self.reader = source, reader

    def __len__(self) -> int:
        return len(self.reader)

    def content(self, places: Places) -> str:
        content = called(self.source, self.reader.content, places)
        if not isinstance(content, str) or not content:
            raise DataError(
                f"source {self.source!r} has a reader whose content(places) gives {content!r:.60}, and it must give "
                "a "
                "hash that changes whenever an image does"
            )
        return content

    def items(self, stretches: Sequence[tuple[int, int]]) -> Iterator[list[Stored]]:
        items = called(self.source, lambda: iter(self.reader.items(stretches)))
        for start, stop in stretches:
            stretch = called(self.source, lambda: next(items, None))
            if not isinstance(stretch, list) or len(stretch) != stop - start:
                given = f"{len(stretch):,}" if isinstance(stretch, list) else quoted(stretch)
                raise DataError(
                    f"source {self.source!r} has a reader whose items gives {given} for images {start} to {stop - 1}, "
                    "and "
                    f"it must give a list of {stop - start:,}"
                )
            yield stretch

    def where(self, position: int) -> str:
        return str(called(self.source, self.reader.where, position))


def guarded(source: str, raw: RawSet) -> RawSet:
    """The set with readers whose errors are told as the plugin's."""
    splits = {name: replace(split, reader=_Guarded(source, split.reader)) for name, split in raw.splits.items()}
    return replace(raw, splits=splits)


def refuse_unusable_set(source: str, raw: Any) -> None:
    """Raise DataError for what ``open`` of the source called ``source`` returned, where no run could use it."""
    where = f"source {source!r}"
    if not isinstance(raw, RawSet):
        raise DataError(
            f"{where} returned a {type(raw).__name__} from open(spec, places), and it must return an ssl_bench.RawSet"
        )
    refuse_name(where, raw.name, raw.classes)
    if not isinstance(raw.splits, dict) or "train" not in raw.splits or set(raw.splits) - {*_SPLITS}:
        given = ", ".join(map(str, raw.splits)) if isinstance(raw.splits, dict) else quoted(raw.splits)
        raise DataError(
            f"{where} gives the splits {given}, and they must be a dict with train, and maybe test and validation"
        )
    for name, split in raw.splits.items():
        _refuse_split(f"{where}: the {name} split", split, len(raw.classes), len(raw.group_names))


def _is_stored(item: Any) -> bool:
    if isinstance(item, np.ndarray):
        return item.dtype == np.uint8 and (item.ndim == 2 or item.ndim == 3 and item.shape[2] == 3)
    return isinstance(item, (bytes, Path, Image.Image)) or callable(item)


def refuse_name(where: str, name: Any, classes: Any) -> None:
    """Raise DataError for a set without a name, or class names that are none."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise DataError(f"{where} gives a set whose name is {quoted(name)}, and it must be printable text")
    if (
        not isinstance(classes, tuple)
        or not all(isinstance(text, str) and text for text in classes)
        or len(set(classes)) < len(classes)
    ):
        raise DataError(f"{where} gives classes = {quoted(classes)}, and they must be a tuple of different names")


def _refuse_split(where: str, split: Any, classes: int, groups: int) -> None:
    if not isinstance(split, RawSplit):
        raise DataError(f"{where} is a {type(split).__name__}, and it must be an ssl_bench.RawSplit")
    if lacking := [method for method in _METHODS if not callable(getattr(split.reader, method, None))]:
        raise DataError(
            f"{where} has a reader ({type(split.reader).__name__}) without {', '.join(lacking)}; "
            "give an ArrayReader or a FileReader of ssl_bench.data, or one that has them"
        )
    if not len(split):
        raise DataError(f"{where} has no images")
    items = next(iter(split.reader.items([(0, 1)])), None)
    if not isinstance(items, list) or len(items) != 1 or not _is_stored(items[0]):
        raise DataError(
            f"{where} has a reader whose items([(0, 1)]) gives {quoted(items)}, and it must give a list of one image: "
            "the bytes or the "
            "path of an image file, an array uint8 [H, W, 3], a PIL image, or a function that returns one of them"
        )
    _refuse_numbers(where, "labels", split.labels, len(split), classes, -1, "-1 for none, else positions in `classes`")
    _refuse_numbers(where, "groups", split.groups, len(split), groups, 0, "positions in `group_names`")
    for name, column in split.columns.items():
        if not isinstance(column, np.ndarray) or len(column) != len(split):
            raise DataError(f"{where} has a column {name!r} that is no array of {len(split):,} values")


def _refuse_numbers(where: str, what: str, values: Any, count: int, most: int, least: int, meaning: str) -> None:
    if values is None:
        return
    if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.shape != (count,):
        given = (
            f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
        )
        raise DataError(f"{where} has {what} of {given}, and they must be an int64 array [{count}]: {meaning}")
    if len(values) and not least <= values.min() <= values.max() < max(most, least + 1):
        raise DataError(
            f"{where} has {what} from {values.min()} to {values.max()}, and there are {most}; they are {meaning}"
        )
