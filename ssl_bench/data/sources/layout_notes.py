"""What is told of a folder that is read as splits, classes or neither: notes, doubts and refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ssl_bench.data.folder_roles import class_names, repeated_within
from ssl_bench.data.sources.listing import Folder, by_extension, decoder_hint, shown, some
from ssl_bench.data.sources.split_names import is_annotation, role_of
from ssl_bench.errors import DataError


class Messages:
    """What is told of one reading of ``root``, which messages call ``name``; notes are added to ``notes``."""

    def __init__(self, root: Folder, name: str, notes: list[str]) -> None:
        self.root, self.name, self.notes = root, name, notes

    def doubt(self, folder: Folder, children: Mapping[str, Folder], layout: str) -> str:
        """Why the names of ``children`` may not be the classes, which ``layout`` makes them: the folders in them
        repeat, as classes do in every fold."""
        if not (repeated := repeated_within(children)):
            return ""
        same = (
            "the same"
            if all(class_names(child) == set(repeated) for child in children.values())
            else "many of the same"
        )
        whose = (
            f"its {len(children):,} folders"
            if folder is self.root
            else f"the {len(children):,} folders in {below(self.root, folder.path)}"
        )
        return (
            f"each of {whose} ({some([with_slash(name) for name in children])}) holds {same} folders "
            f"({some([with_slash(name) for name in repeated])}), and either "
            f"could be the classes; set `layout: {layout}` if the outer ones are, or name one of them, such as "
            f"folder:{shown(folder.path / next(iter(children)))}"
        )

    def tell_classes(self, children: Mapping[str, Folder]) -> None:
        told = (
            f"{self.name}: {len(children):,} folders were read as classes: {some([shown(name) for name in children])}"
        )
        if alike := [name for name in children if role_of(name) is not None]:
            told += f" (also {some([shown(name) for name in alike])}, named like a split)"
        self.notes.append(told)
        self.tell_deeper(children)

    def tell_deeper(self, children: Mapping[str, Folder]) -> None:
        """A note on folders within class folders, which may be what is meant by classes."""
        deeper = [
            f"{below(self.root, child.path)}{with_slash(name)}"
            for child in children.values()
            if len(names := class_names(child)) > 1
            for name in sorted(names)
        ]
        if deeper:
            self.notes.append(
                f"{self.name}: the {len(deeper):,} folders within class folders are not told apart: {some(deeper)}"
            )

    def refuse(self, folder: Folder, names: Sequence[str], why: str) -> NoReturn:
        children = folder.with_images()
        ways = [f"`layout: classes` ({len(children):,} classes)"] if children else []
        if any((role := role_of(name)) is not None and role.split == "train" for name in children):
            ways.insert(0, "`layout: splits` (folders named like splits are splits, all else is left out)")
        raise DataError(
            f"{shown(folder.path)}: "
            f"{some([f'{with_slash(name)} ({count_images(children[name].count)})' for name in names])} "
            f"{'looks like a split' if len(names) == 1 else 'look like splits'}{why}: it can be read in more than one "
            f"way; set {', '.join(ways)} or "
            "`layout: flat` (every image, no labels), or move what does not belong here"
        )

    def check_vanished(self, folder: Folder) -> None:
        """Stop where a class folder holds only what cannot be used; tell of folders that hold no image at all."""
        lost = [
            child
            for name, child in folder.folders.items()
            if not child.count and child.lost() and not is_annotation(name)
        ]
        if lost:
            listed = some([f"{below(self.root, child.path)} ({what_else(child)})" for child in lost])
            extensions = sum((child.other_files() for child in lost), start=type(lost[0].left_out)())
            raise DataError(
                f"{self.name}: {len(lost):,} folders hold files but no image that can be read, so that their class "
                f"would vanish: {listed}"
                f"{decoder_hint(extensions)}; convert or mend the files, move the folder away, or set `layout: flat` "
                "if these are no classes"
            )
        self.tell_lost(folder)

    def tell_lost(self, folder: Folder) -> None:
        empty = [
            f"{below(self.root, child.path)} ({what_else(child)})"
            for child in folder.folders.values()
            if not child.count
        ]
        if empty:
            self.notes.append(f"{self.name}: {len(empty):,} folders without an image are not used: {some(empty)}")

    def check_no_empty_split(self, folder: Folder) -> None:
        for name, child in folder.folders.items():
            if not child.count and (role := role_of(name)) is not None and role.bare:
                raise DataError(f"{shown(folder.path)}: the {role.split} folder holds no image ({what_else(child)})")


def tell_left_out(root: Folder, name: str, used: set[Path], notes: list[str]) -> None:
    """Notes on what of a folder is not read: images that are in no split, files that are no images, hidden folders."""
    if len(used) < root.count and (left := unused_in(root, used)):
        notes.append(f"{name}: not used: {some(left)}")
    if others := root.other_files():
        notes.append(
            f"{name}: files that are no images by their names are left out: "
            f"{by_extension(others)}{decoder_hint(others)}"
        )
    if hidden := [below(root, path) for folder in root.below() for path in folder.hidden]:
        notes.append(f"{name}: folders of images whose names begin with a dot are left out: {some(hidden)}")


def unused_in(folder: Folder, used: set[Path]) -> list[str]:
    """Folders none of whose images is used, by name and count, and images that lie between folders that are used."""
    told, waiting = [], [folder]
    while waiting:
        here = waiting.pop()
        loose = sum(here.path / name not in used for name in here.images)
        if loose:
            told.append(f"{count_images(loose)} directly in {below(folder, here.path)}")
        for child in here.with_images().values():
            count = sum(file not in used for file in child.files())
            if count == child.count:
                told.append(f"{below(folder, child.path)} ({count_images(count)})")
            elif count:
                waiting.append(child)
    return told


def tables_in(root: Folder) -> list[str]:
    """The csv files in a folder and below, by their paths below it."""
    holders = [folder for folder in root.below() if folder.left_out[".csv"] or folder.left_out[".tsv"]]
    return [
        shown(file.relative_to(root.path))
        for folder in holders
        for file in sorted(folder.path.iterdir())
        if file.suffix.lower() in (".csv", ".tsv") and file.is_file() and not file.name.startswith(".")
    ]


def what_else(folder: Folder) -> str:
    """What a folder without images holds instead."""
    lost = [reason for inner in folder.below() for reason in (*inner.unreadable.values(), *inner.odd.values())]
    told = [by_extension(others)] if (others := folder.other_files()) else []
    told += [f"{reason} ({lost.count(reason):,})" for reason in dict.fromkeys(lost)]
    return ", ".join(told) or "nothing"


def below(root: Folder, path: Path) -> str:
    inner = shown(path.relative_to(root.path))
    return shown(root.path.resolve().name) + "/" if inner == "." else f"{inner}/" if path.is_dir() else inner


def with_slash(name: str) -> str:
    return f"{shown(name)}/"


def count_images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
