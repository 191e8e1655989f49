"""Image files listed in a csv, with their labels, groups and splits."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from ssl_bench.data.sources import columns
from ssl_bench.data.sources.folders import find_images
from ssl_bench.data.sources.hub import split_named
from ssl_bench.data.sources.labels import as_number, is_missing, joined_spellings, numbered, spelled
from ssl_bench.data.sources.layout import FolderSplit
from ssl_bench.data.sources.listing import extensions, shown
from ssl_bench.errors import DataError, did_you_mean
from ssl_bench.spec.matrix import SourceSpec

_DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r"['\"]?sep=(.)['\"]?", re.IGNORECASE)
_SAMPLE = 200  # rows looked at to see which column names files
_SHOWN = 20


@dataclass(frozen=True)
class _Table:
    """The columns of a csv in order, its rows, and the line that each row ends on."""

    path: Path
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]

    def column(self, name: str) -> list[str]:
        """Its values without spaces around them."""
        return [text.strip() for text in self.written(name)]

    def written(self, name: str) -> list[str]:
        """Its values as they stand there."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]


def read_csv(folder: Path, spec: SourceSpec) -> tuple[dict[str, FolderSplit], list[str]]:
    """Files listed in ``spec.labels``, by split (train alone, unless a column tells splits apart), and what a user should know.

    The column of files is the one whose values are files below ``folder`` (an ending of images may be left out), that of labels one with a
    conventional name, unless ``spec`` names them. Fields are separated by commas, semicolons, tabs or bars, as the first line has it.

    Raises
    ------
    DataError : no such csv or column, several that may be meant, fields that are empty or too many, files that are missing or have two labels.
    """
    table = _read(_found(folder, str(spec.labels)))
    where, notes = str(table.path), []
    for setting, name in (("image", spec.image), ("target", spec.target), ("group", spec.group)):
        if name is not None:
            columns.check_named(where, setting, name, table.columns)
    if spec.group is not None and spec.group in (spec.image, spec.target):
        raise DataError(
            f"{where}: `group: {spec.group}` is also {'`image:`' if spec.group == spec.image else '`target:`'}; name another column"
        )
    files = _Files(folder)
    of_files = spec.image or _file_column(table, files, [spec.target, spec.group])
    of_labels = spec.target or _label_column(table, [of_files, spec.group])
    _codes(table, of_labels)  # refuses what are no classes
    of_splits = columns.split_column(
        [name for name in table.columns if name not in (of_files, of_labels, spec.group)],
        lambda name: columns.are_splits(table.column(name), split_named),
    )
    words, texts = table.written(of_labels), table.column(of_files)
    groups = table.column(spec.group) if spec.group is not None else None
    blank = [
        line
        for at, line in enumerate(table.lines)
        if not texts[at] or is_missing(words[at]) or groups is not None and not groups[at]
    ]
    if not table.rows:
        raise DataError(f"{where} lists no file")
    if blank:
        raise DataError(
            f"{where}: empty fields in {len(blank):,} lines: {_some(list(map(str, blank)))} (no file, label or group)"
        )
    paths = files.resolve(table, texts)
    values = table.column(of_splits) if of_splits is not None else None
    facts = [
        (spelled(words[at]), *(own[at] for own in (groups, values) if own is not None)) for at in range(len(words))
    ]
    rows, more = _once(table, paths, texts, facts)
    notes += more
    notes += joined_spellings(shown(folder.resolve().name), [words[at] for at in rows])
    unlisted = files.beside([paths[at] for at in rows])
    if unlisted:
        notes.append(f"{folder}: {unlisted:,} images that {table.path.name} does not list are not used")
    rows.sort(key=lambda at: str(paths[at]))
    parts = {"train": np.arange(len(rows))}
    if of_splits is not None and values is not None:
        found, more = columns.rows_by_split(table.path.name, of_splits, [values[at] for at in rows], split_named)
        parts, notes = found or parts, notes + more
    notes += columns.told(table.path.name, of_files, of_labels, (spec.group, of_splits), table.columns, "files")
    splits = {}
    for split, positions in parts.items():
        own = [rows[at] for at in positions]
        splits[split] = FolderSplit(
            [paths[at] for at in own], [words[at] for at in own], None if groups is None else [groups[at] for at in own]
        )
    return splits, notes


def _found(folder: Path, table: str) -> Path:
    tried = [Path(table)] if Path(table).is_absolute() else [folder / table, Path(table)]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise DataError(f"labels {table!r} does not exist; looked for {' and '.join(map(str, tried))}")


def _read(path: Path) -> _Table:
    try:
        content, skipped = path.read_bytes(), 0
        # Excel writes either
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        head, _, rest = text.partition("\n")
        if (named := _SEPARATOR.fullmatch(head.strip())) is not None:  # a first line for Excel
            text, skipped = rest, 1
        head = next(iter(text.splitlines()), "")
        delimiter = (
            named[1]
            if named is not None
            else max(_DELIMITERS, key=lambda mark: len(next(csv.reader([head], delimiter=mark), [])))
        )
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader, [])]
        read = [(row, reader.line_num + skipped) for row in reader if row]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a csv in UTF-8: {error}") from None
    if "\0" in text:
        raise DataError(
            f"{path} holds zero bytes: it is damaged, or in UTF-16 without the mark that says so; save it as UTF-8"
        )
    for name, count in Counter(names).items():
        if count > 1 and name:
            raise DataError(f"{path} has {count} columns called {name!r}; give them different names")
    if uneven := [str(line) for row, line in read if len(row) != len(names)]:
        raise DataError(
            f"{path}: {len(uneven):,} lines have another number of fields than the first line, which has {len(names)}: {_some(uneven)}; "
            f"a value with {delimiter!r} in it is written in quotes"
        )
    return _Table(path, names, [row for row, _ in read], [line for _, line in read])


class _Files:
    """The image files below a folder, and how a table may name them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _images(self) -> list[Path]:
        return find_images(self.folder)

    def _index(self, key: Callable[[str], str]) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in self._images:
            found.setdefault(key(path.relative_to(self.folder).as_posix()), []).append(path)
        return found

    @cached_property
    def _ways(self) -> list[tuple[Callable[[str], str], dict[str, list[Path]]]]:
        """From the strictest to the most lenient: as written, without an ending, in any letter case."""
        return [(key, self._index(key)) for key in (_composed, _bare, lambda name: _composed(name).casefold())]

    def matching(self, text: str) -> list[Path]:
        """The files that a table may mean: one, none, or several where it names none exactly."""
        literal = Path(os.path.normpath(self.folder / text))
        if text and _is_file(literal):
            return [literal]
        name = os.path.normpath(text.replace("\\", "/"))
        for key, index in self._ways:
            wanted = _composed(name) if key is _bare else key(name)
            if found := index.get(wanted):
                return found
        path = Path(os.path.normpath(self.folder / name))
        return [path] if text and _is_file(path) else []

    def resolve(self, table: _Table, texts: Sequence[str]) -> list[Path]:
        """The file of every row. Raises DataError for rows without one, and for rows that may mean several."""
        found = [self.matching(text) for text in texts]
        if missing := [text for text, paths in zip(texts, found, strict=True) if not paths]:
            raise DataError(
                f"{table.path} names {len(missing):,} files that do not exist below {self.folder}: {_some(missing)}{self._elsewhere(missing[0])}"
            )
        for text, paths in zip(texts, found, strict=True):
            if len(paths) > 1:
                names = " and ".join(str(path.relative_to(self.folder)) for path in paths[:_SHOWN])
                raise DataError(f"{table.path} names {text!r}, which may be {names}; write the whole name")
        return [paths[0] for paths in found]

    def _elsewhere(self, text: str) -> str:
        """Where a file of that name lies instead."""
        name = PurePosixPath(text.replace("\\", "/")).name
        found = next((path for path in self._images if name in (path.name, path.stem)), None)
        return (
            f"; {str(found.relative_to(self.folder))!r} is there: write paths as they are below {self.folder}"
            if found is not None and name
            else ""
        )

    def beside(self, used: Sequence[Path]) -> int:
        """How many images of the folder are not among ``used``."""
        return len({os.path.realpath(file) for file in self._images} - {os.path.realpath(path) for path in used})


def _file_column(table: _Table, files: _Files, taken: Sequence[str | None]) -> str:
    """The column whose values are files; where none are, the one that is called so, whose rows are then told to be missing."""
    left = [name for name in table.columns if name not in taken and name]
    if listed := next(
        (name for name in left if os.path.splitext(name)[1].lower() in extensions() and files.matching(name)), None
    ):
        raise DataError(
            f"{table.path} begins with a file, {listed!r}, and not with the names of its columns; write file,label as its first line"
        )
    rows = (
        np.unique(np.linspace(0, max(0, len(table.rows) - 1), _SAMPLE).astype(int)) if table.rows else np.zeros(0, int)
    )
    able = []
    for name in left:
        values = table.column(name)
        if len(rows) and 2 * sum(bool(files.matching(values[at])) for at in rows) >= len(rows):
            able.append(name)
    # the label 1 may be called like 1.png
    able = [name for name in able if columns.rank(name, columns.LABELS) is None] or able
    able = [name for name in able if not columns.is_derived(name)] or able
    ranked = sorted((place, name) for name in able or left if (place := columns.rank(name, columns.FILES)) is not None)
    if ranked and (len(ranked) == 1 or ranked[0][0] < ranked[1][0]):
        return ranked[0][1]
    if len(able) == 1:
        return able[0]
    if able:
        raise DataError(
            f"{table.path} has several columns of files, {', '.join(map(repr, able))}; say which, as `image: {able[0]}`"
        )
    raise DataError(
        f"{table.path} has no column 'file'; {did_you_mean('file', left)}; `image:` names the column of files"
    )


def _label_column(table: _Table, taken: Sequence[str | None]) -> str:
    left = [name for name in table.columns if name not in taken]
    able = [columns.LabelColumn(name, False, lambda name=name: _codes(table, name)) for name in left]  # type: ignore[misc]
    found, why = columns.choose_labels(str(table.path), able)
    if found is None:
        raise DataError(
            why
            if why
            else f"{table.path} has no column 'label'; {did_you_mean('label', left)}; `target:` names the column of labels"
        )
    return found


def _codes(table: _Table, name: str) -> np.ndarray:
    words = table.column(name)
    numbers = {word: as_number(word) for word in words if not is_missing(word)}
    broken = next(
        (
            word
            for word, number in numbers.items()
            if number is not None and math.isfinite(number) and not number.is_integer()
        ),
        None,
    )
    if broken is not None and None not in numbers.values():
        raise columns.NotLabels(f"{table.path}: column {name!r} holds measurements such as {broken}, not classes")
    return numbered(words)[0]


def _once(
    table: _Table,
    paths: Sequence[Path],
    texts: Sequence[str],
    kept: Sequence[tuple[str, ...]],
) -> tuple[list[int], list[str]]:
    """The rows to use: of a file that is listed several times with the same values in ``kept`` (label, group, split), the first.

    Raises DataError where they differ.
    """
    rows: dict[Path, list[int]] = {}
    for at, path in enumerate(paths):
        rows.setdefault(path, []).append(at)
    twice = {path: own for path, own in rows.items() if len(own) > 1}
    differ = {path: own for path, own in twice.items() if len({kept[at] for at in own}) > 1}
    if differ:
        told = [
            f"{texts[own[0]]} (lines {' and '.join(str(table.lines[at]) for at in own)}: {' and '.join('/'.join(kept[at]) for at in own)})"
            for own in differ.values()
        ]
        raise DataError(f"{table.path} lists {len(differ):,} files more than once: {_some(told)}")
    notes = (
        [
            f"{table.path.name} lists {len(twice):,} files more than once, with the same label each time; they are used once"
        ]
        if twice
        else []
    )
    return [own[0] for own in rows.values()], notes


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _bare(name: str) -> str:
    """Without the ending of an image; what a table names is compared as it is written."""
    stem, ending = os.path.splitext(name)
    return _composed(stem if ending.lower() in extensions() else name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        return False


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
