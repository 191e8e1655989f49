"""Images in folders: train and test, class folders, any tree, or files listed in a csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ssl_bench.data.content import Progress, content_of
from ssl_bench.data.decode import Stored
from ssl_bench.data.layout import FolderSplit, Layout, read_layout
from ssl_bench.data.listing import list_folder, shown
from ssl_bench.errors import DataError, did_you_mean

_SHOWN = 20


class FileReader:
    """Image files in a fixed order."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def content(self, cache: Path, progress: Progress) -> str:
        return content_of(self.files, cache, progress, "image files")

    def content_at(self, positions: np.ndarray, cache: Path, progress: Progress) -> str:
        return content_of([self.files[position] for position in positions], cache, progress, "image files")

    def items(self, stretches: Sequence[tuple[int, int]]) -> Iterator[list[Stored]]:
        for start, stop in stretches:
            yield list(self.files[start:stop])

    def where(self, position: int) -> str:
        return shown(self.files[position])


def read_folder(folder: Path, layout: Layout = "auto") -> tuple[dict[str, FolderSplit], list[str], list[str]]:
    """Splits of a folder, what a user should know about how it was read, and what in it cannot be read, with the reason.

    Splits (``train/`` beside ``test/`` or ``val/``, each with class folders or without labels; or these in every class folder); else at least two
    class folders and no image beside them; else any tree, without labels. ``layout`` decides where it can be read in more than one way.

    Raises DataError when it can be read in more than one way, when there is no image to train on, and when a class would vanish because its
    files cannot be read.
    """
    root = list_folder(folder)
    notes: list[str] = []
    splits = read_layout(root, layout, notes)
    return splits, notes, [f"{shown(path)}: {reason}" for one in root.below() for path, reason in one.unreadable.items()]


def find_images(folder: Path) -> list[Path]:
    """Every image file below ``folder``, sorted by path; hidden files and folders are left out, links are followed once."""
    return list_folder(folder).files() if folder.is_dir() else []


def read_csv(folder: Path, table: str, group: str | None) -> tuple[FolderSplit, list[str]]:
    """Files listed in a csv with the columns ``file`` (below ``folder``), ``label`` and, where asked for, the group's.

    Raises
    ------
    DataError : no such csv or column, empty fields, files listed twice or missing.
    """
    tried = [Path(table)] if Path(table).is_absolute() else [folder / table, Path(table)]
    path = next((candidate for candidate in tried if candidate.is_file()), None)
    if path is None:
        raise DataError(f"labels {table!r} does not exist; looked for {' and '.join(map(str, tried))}")
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or [])
            for column in ("file", "label", *([group] if group else [])):
                if column not in columns:
                    raise DataError(f"{path} has no column {column!r}; {did_you_mean(column, columns)}")
            rows = [(reader.line_num, row["file"], row["label"], row[group] if group else "") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a csv in UTF-8: {error}") from None
    if not rows:
        raise DataError(f"{path} lists no file")
    blank = [str(line) for line, *fields in rows if not all((field or "").strip() for field in (fields if group else fields[:2]))]
    if blank:
        raise DataError(f"{path}: empty fields in {len(blank):,} lines: {_some(blank)}")
    names = [os.path.normpath(name.strip()) for _, name, _, _ in rows]
    twice = sorted({name for name, count in _count(names).items() if count > 1})
    if twice:
        raise DataError(f"{path} lists {len(twice):,} files more than once: {_some(twice)}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{path} names {len(missing):,} files that do not exist below {folder}: {_some(missing)}")
    rows = [row for _, row in sorted(zip(names, rows, strict=True))]
    names.sort()
    unlisted = len({os.path.realpath(file) for file in find_images(folder)} - {os.path.realpath(folder / name) for name in names})
    notes = [f"{folder}: {unlisted:,} images that {path.name} does not list are not used"] if unlisted else []
    groups = [row[3].strip() for row in rows] if group else None
    return FolderSplit([folder / name for name in names], [row[2].strip() for row in rows], groups), notes


def class_numbers(splits: dict[str, FolderSplit]) -> tuple[dict[str, np.ndarray | None], tuple[str, ...]]:
    """Labels as int64 [N] per split (None where it has none), and the sorted class names of all splits together."""
    names = {label for split in splits.values() for label in split.labels or ()}
    whole = all(name.lstrip("-").isdecimal() and name.isascii() for name in names)
    classes = tuple(sorted(names, key=lambda name: (int(name), name) if whole else (0, name)))
    number = {name: at for at, name in enumerate(classes)}
    labels: dict[str, np.ndarray | None] = {}
    for split, found in splits.items():
        labels[split] = None if found.labels is None else np.array([number[label] for label in found.labels], np.int64)
    return labels, classes


def _count(names: list[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
