"""The files that a table names: as written, without an ending, in any letter case, wherever exactly one of them
matches."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from ssl_bench.data.sources.csv_table import CsvTable
from ssl_bench.data.sources.folders import find_images
from ssl_bench.data.sources.listing import extensions, is_file, some
from ssl_bench.errors import DataError

_SHOWN = 20


class ListedFiles:
    """The image files below a folder, and how a table may name them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _images(self) -> list[Path]:
        return find_images(self.folder)

    def _index(self, key: Callable[[str], str]) -> dict[str, list[Path]]:
        index: dict[str, list[Path]] = {}
        for path in self._images:
            index.setdefault(key(path.relative_to(self.folder).as_posix()), []).append(path)
        return index

    @cached_property
    def _ways(self) -> list[tuple[Callable[[str], str], dict[str, list[Path]]]]:
        """From the strictest to the most lenient: as written, without an ending, in any letter case."""
        return [(key, self._index(key)) for key in (_composed, _bare, lambda name: _composed(name).casefold())]

    def matching(self, text: str) -> list[Path]:
        """The files that a table may mean: one, none, or several where it names none exactly."""
        literal = Path(os.path.normpath(self.folder / text))
        if text and is_file(literal):
            return [literal]
        name = os.path.normpath(text.replace("\\", "/"))
        for key, index in self._ways:
            wanted = _composed(name) if key is _bare else key(name)
            if paths := index.get(wanted):
                return paths
        path = Path(os.path.normpath(self.folder / name))
        return [path] if text and is_file(path) else []

    def resolve(self, table: CsvTable, texts: Sequence[str]) -> list[Path]:
        """The file of every row. Raises DataError for rows without one, and for rows that may mean several."""
        matches = [self.matching(text) for text in texts]
        if missing := [text for text, paths in zip(texts, matches, strict=True) if not paths]:
            raise DataError(
                f"{table.path} names {len(missing):,} files that do not exist below {self.folder}: "
                f"{some(missing, _SHOWN)}{self._elsewhere(missing[0])}"
            )
        for text, paths in zip(texts, matches, strict=True):
            if len(paths) > 1:
                names = " and ".join(str(path.relative_to(self.folder)) for path in paths[:_SHOWN])
                raise DataError(f"{table.path} names {text!r}, which may be {names}; write the whole name")
        return [paths[0] for paths in matches]

    def _elsewhere(self, text: str) -> str:
        """Where a file of that name lies instead."""
        name = PurePosixPath(text.replace("\\", "/")).name
        there = next((path for path in self._images if name in (path.name, path.stem)), None)
        return (
            f"; {str(there.relative_to(self.folder))!r} is there: write paths as they are below {self.folder}"
            if there is not None and name
            else ""
        )

    def beside(self, used: Sequence[Path]) -> int:
        """How many images of the folder are not among ``used``."""
        return len({os.path.realpath(file) for file in self._images} - {os.path.realpath(path) for path in used})


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _bare(name: str) -> str:
    """Without the ending of an image; what a table names is compared as it is written."""
    stem, ending = os.path.splitext(name)
    return _composed(stem if ending.lower() in extensions() else name)
