"""Images in folders: train and test, class folders, or any tree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ssl_bench.data.packs.content import content_of
from ssl_bench.data.packs.decode import Stored
from ssl_bench.data.places import Places
from ssl_bench.data.sources.labels import spelled
from ssl_bench.data.sources.layout import FolderSplit, Layout, read_layout
from ssl_bench.data.sources.listing import list_folder, shown

_WHOLE = re.compile(r"-?[0-9]{1,1000}")  # Python refuses to read numbers of several thousand digits


class FileReader:
    """Image files in a fixed order."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def content(self, places: Places) -> str:
        return content_of(self.files, places, "image files")

    def content_at(self, positions: np.ndarray, places: Places) -> str:
        return content_of([self.files[position] for position in positions], places, "image files")

    def items(self, stretches: Sequence[tuple[int, int]]) -> Iterator[list[Stored]]:
        for start, stop in stretches:
            yield list(self.files[start:stop])

    def where(self, position: int) -> str:
        return shown(self.files[position])


def read_folder(folder: Path, layout: Layout = "auto") -> tuple[dict[str, FolderSplit], list[str], list[str]]:
    """Splits of a folder, what a user should know about how it was read, and what in it cannot be read, with the
    reason.

    Splits (``train/`` beside ``test/`` or ``val/``, each with class folders or without labels; or these in every class
    folder); else at least two class folders and no image beside them; else any tree, without labels. ``layout`` decides
    where it can be read in more than one way.

    Raises DataError when it can be read in more than one way, when there is no image to train on, and when a class
    would vanish because its files cannot be read.
    """
    root = list_folder(folder)
    notes: list[str] = []
    splits = read_layout(root, layout, notes)
    return (
        splits,
        notes,
        [f"{shown(path)}: {reason}" for inner in root.below() for path, reason in inner.unreadable.items()],
    )


def find_images(folder: Path) -> list[Path]:
    """Every image file below ``folder``, sorted by path; hidden files and folders are left out, links are followed
    once."""
    return list_folder(folder).files() if folder.is_dir() else []


def class_numbers(splits: dict[str, FolderSplit]) -> tuple[dict[str, np.ndarray | None], tuple[str, ...]]:
    """Labels as int64 [N] per split (None where it has none), and the sorted class names of all splits together."""
    names = {spelled(label) for split in splits.values() for label in split.labels or ()}
    whole = all(_WHOLE.fullmatch(name) for name in names)
    classes = tuple(sorted(names, key=lambda name: (int(name), name) if whole else (0, name)))
    number = {name: at for at, name in enumerate(classes)}
    labels: dict[str, np.ndarray | None] = {}
    for split, files in splits.items():
        labels[split] = (
            None if files.labels is None else np.array([number[spelled(label)] for label in files.labels], np.int64)
        )
    return labels, classes
