"""How a folder of images is meant: splits, classes or neither, decided by what its folders hold and not by their names
alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ssl_bench.data.folder_roles import class_names, families, inner_roles, is_doubtful, pictures_in, unwrapped
from ssl_bench.data.sources.layout_notes import (
    Messages,
    below,
    count_images,
    some,
    tables_in,
    tell_left_out,
    what_else,
    with_slash,
)
from ssl_bench.data.sources.listing import Folder, decoder_hint, extensions, shown
from ssl_bench.data.sources.split_names import Role, is_annotation, is_split_word, role_of
from ssl_bench.errors import DataError

Layout = Literal["auto", "splits", "classes", "flat"]

_ONLY = "the only folder with images"


@dataclass(frozen=True)
class FolderSplit:
    """Files of one split.

    Attributes
    ----------
    labels, groups : names of the classes and groups of the files, None without.
    unlabelled : why it has no labels.
    doubt : why the labels may not be what is meant, so that nothing is judged by them.
    """

    files: list[Path]
    labels: list[str] | None
    groups: list[str] | None = None
    unlabelled: str = ""
    doubt: str = ""


def read_layout(root: Folder, layout: Layout, notes: list[str]) -> dict[str, FolderSplit]:
    """Splits of a folder that was listed; what was read, and what was left out, is added to ``notes``.

    Raises DataError when it can be read in more than one way, when a class would vanish, and when there is no image to
    train on.
    """
    name = shown(root.path.resolve().name)
    if not root.count:
        raise DataError(
            f"{shown(root.path)} holds no image (looked for {' '.join(sorted(extensions()))} in it and below; it "
            f"holds: {what_else(root)})"
            f"{decoder_hint(root.other_files())}"
        )
    odd = [f"{below(root, path)} is {kind}" for folder in root.below() for path, kind in folder.odd.items()]
    try:
        splits = _Reading(root, name, notes).read(layout)
    except DataError as error:
        if odd:  # such as test/, a link to train/: its note would be lost
            raise DataError(f"{error} (left out: {some(odd)})") from None
        raise
    if (train := splits["train"]).labels is None and layout == "auto" and (tables := tables_in(root)):
        which = (
            f"{some(tables, 3)} {'lies' if len(tables) == 1 else 'lie'} there; to take labels from a table of files, "
            f"set `labels: {tables[0]}`"
        )
        splits["train"] = replace(train, unlabelled=f"{train.unlabelled} ({which})")
    tell_left_out(root, name, {file for split in splits.values() for file in split.files}, notes)
    if odd:
        notes.append(f"{name}: {len(odd):,} entries that are no files are left out: {some(odd)}")
    return splits


class _Reading(Messages):
    """One reading of ``root``, which messages call ``name``."""

    def read(self, layout: Layout) -> dict[str, FolderSplit]:
        if layout == "flat":
            return {"train": FolderSplit(self.root.files(), None, unlabelled="`layout: flat` reads no labels")}
        if layout == "classes":
            return {"train": self.chosen_classes(self.root)}
        return self.chosen_splits(self.root) if layout == "splits" else self.decide(self.root)

    # ---- by content ----

    def decide(self, folder: Folder) -> dict[str, FolderSplit]:
        children = folder.with_images()
        roles = {name: role for name in children if (role := role_of(name)) is not None}
        if len(children) == 1 and not folder.images and not any(not role.rest for role in roles.values()):
            self.check_vanished(folder)
            ((inner, child),) = children.items()
            splits = self.decide(child)
            if len(splits) > 1 or splits["train"].labels is not None:
                if not any(_ONLY in note for note in self.notes):  # the innermost wrapper says where
                    self.notes.append(f"{self.name}: read from {below(self.root, child.path)}, {_ONLY}")
                return splits
            why = splits["train"].unlabelled or f"only one folder, {shown(inner)}, holds images"
            return {"train": FolderSplit(folder.files(), None, unlabelled=why)}
        if (pictures := pictures_in(children)) is not None and not folder.images:
            return self.decide(pictures)
        by_name = families(children, roles)
        if len(by_name) > 1:
            self.refuse(folder, [*roles], " of several kinds")
        if by_name:
            return self.family(folder, children, by_name[0])
        only = roles.keys() == children.keys() and not any(role.rest for role in roles.values())
        if roles and only and (not folder.images or all(map(class_names, children.values()))):
            return self.only_splits(folder, children, roles)
        doubtful = [name for name, role in roles.items() if is_doubtful(name, role, children)]
        if doubtful and len(children) > 1:
            self.refuse(
                folder,
                doubtful,
                f", with {some([with_slash(name) for name in children if name not in doubtful]) or 'other images'} "
                "beside it",
            )
        return self.classes(folder, children)

    def family(
        self, folder: Folder, children: Mapping[str, Folder], family: Mapping[str, Sequence[str]]
    ) -> dict[str, FolderSplit]:
        """One folder (or more, which is refused) for each split, whatever lies beside them."""
        names = [name for members in family.values() for name in members]
        if any(len(members) > 1 for members in family.values()):
            self.refuse(folder, names, ", several for one split")
        folder_of = {split: children[members[0]] for split, members in family.items()}
        classes = {split: class_names(child) for split, child in folder_of.items()}
        held_out = [names_held for split, names_held in classes.items() if split != "train"]
        certain = any(classes["train"] & names_held for names_held in held_out) or (
            len(classes["train"]) > 1 and not any(held_out)
        )
        beside = [name for name in children if name not in names and not is_annotation(name)]
        if beside and not certain:
            self.refuse(folder, names, f", with {some([with_slash(name) for name in beside])} beside them")
        return self.splits(folder, {split: [child] for split, child in folder_of.items()})

    def only_splits(
        self, folder: Folder, children: Mapping[str, Folder], roles: Mapping[str, Role]
    ) -> dict[str, FolderSplit]:
        """Every folder is named after a split, and there is no family of train and another."""
        trained = [name for name, role in roles.items() if role.split == "train"]
        if not trained:
            self.check_no_empty_split(folder)
            raise DataError(
                f"{shown(folder.path)} holds {', '.join(map(with_slash, roles))} but no train folder; add train/ "
                "beside it, name the folder whose images are "
                f"meant, such as folder:{shown(folder.path / next(iter(roles)))}, or if these are classes, set "
                "`layout: classes`"
            )
        if len(trained) > 1:
            self.refuse(folder, trained, ", several for one split")
        inner = unwrapped(children[trained[0]])
        if {"train"} < {role.split for role in inner_roles(inner).values()}:  # a set that is called "train"
            self.notes.append(
                f"{self.name}: read from {below(self.root, inner.path)}, {_ONLY}, which holds splits of its own"
            )
            return self.decide(inner)
        return self.splits(folder, {"train": [children[trained[0]]]})

    def classes(self, folder: Folder, children: Mapping[str, Folder]) -> dict[str, FolderSplit]:
        if not children or folder.images:
            why = "its images lie in one folder"
            if children:
                why = (
                    f"{count_images(len(folder.images))} ({some([shown(name) for name in folder.images], 3)}) beside "
                    f"its {len(children):,} folders"
                )
                self.notes.append(
                    f"{self.name}: read as a tree without labels, because of {why}; `layout: classes` leaves what lies "
                    "beside the folders out"
                )
                why += (
                    "; the folders are therefore not read as classes; move what lies beside them into a folder, or "
                    "set `layout: "
                    "classes` to leave it out"
                )
            return {"train": FolderSplit(folder.files(), None, unlabelled=why)}
        inner = {name: inner_roles(child) for name, child in children.items()}
        if any({"train"} < {role.split for role in inner_of.values()} for inner_of in inner.values()):
            return self.classes_of_splits(folder, children, inner)
        self.check_vanished(folder)
        self.tell_classes(children)
        return {"train": replace(_split_of_class_folders(children), doubt=self.doubt(folder, children, "classes"))}

    def classes_of_splits(
        self,
        folder: Folder,
        children: Mapping[str, Folder],
        inner: Mapping[str, Mapping[str, Role]],
    ) -> dict[str, FolderSplit]:
        """cat/train, cat/test, dog/train, ...: the label is the upper folder; where only some folders are like that, or
        deeper ones, it is refused."""
        whole = [
            name
            for name, child in children.items()
            if inner[name].keys() == child.with_images().keys() and not child.images
        ]
        flat = all(
            len(class_names(child.folders[name])) < 2
            for child in children.values()
            for name in inner[child.path.name]
            if child.path.name in whole
        )
        if len(whole) < len(children) or not flat or len(children) < 2:
            holders = [name for name, parts in inner.items() if "train" in {role.split for role in parts.values()}]
            raise DataError(
                f"{shown(folder.path)}: {some([with_slash(name) for name in holders])} of its {len(children):,} "
                "folders "
                f"{'holds' if len(holders) == 1 else 'hold'} a train folder; name one of them, such as "
                f"folder:{shown(folder.path / holders[0])}, or set "
                "`layout: classes` (these folders are the classes) or `layout: flat` (no labels)"
            )
        return self.by_class(folder, children, inner)

    # ---- on request ----

    def chosen_classes(self, folder: Folder) -> FolderSplit:
        children = folder.with_images()
        if not children:
            raise DataError(
                f"{shown(folder.path)}: `layout: classes` needs class folders, and its images lie in one folder; "
                "leave `layout` out"
            )
        self.check_vanished(folder)
        self.tell_classes(children)
        return _split_of_class_folders(children)

    def chosen_splits(self, folder: Folder) -> dict[str, FolderSplit]:
        children = folder.with_images()
        roles = {name: role for name in children if (role := role_of(name)) is not None}
        plain = {name: role for name, role in roles.items() if not role.rest}
        for named in (plain, roles):
            if any(role.split == "train" for role in named.values()):
                parts: dict[str, list[Folder]] = {}
                for name, role in named.items():
                    parts.setdefault(role.split, []).append(children[name])
                return self.splits(folder, parts, keep_labels=True)
        inner = {name: held for name, child in children.items() if (held := inner_roles(child))}
        if len(inner) > 1 and "train" in {role.split for held in inner.values() for role in held.values()}:
            return self.by_class(folder, {name: children[name] for name in inner}, inner)
        if len(children) == 1 and not roles:
            return self.chosen_splits(next(iter(children.values())))
        raise DataError(
            f"{shown(folder.path)}: `layout: splits` needs a folder named like train; it has "
            f"{some([with_slash(name) for name in children]) or 'no folder'}; "
            "rename one, or leave `layout` out"
        )

    # ---- once it is decided ----

    def splits(
        self, folder: Folder, parts_of: Mapping[str, Sequence[Folder]], keep_labels: bool = False
    ) -> dict[str, FolderSplit]:
        self.check_no_empty_split(folder)
        self.tell_lost(folder)
        if any(len(parts) > 1 or not is_split_word(parts[0].path.name) for parts in parts_of.values()):
            told = [
                f"{split}: {', '.join(f'{below(self.root, part.path)} ({part.count:,})' for part in parts)}"
                for split, parts in parts_of.items()
            ]
            self.notes.append(f"{self.name}: read as splits: {'; '.join(told)}")
        known = {name for part in parts_of.get("train", ()) for name in class_names(part)}
        splits = {
            split: self.one_split(split, parts_of[split], known, keep_labels)
            for split in ("train", "test", "validation")
            if split in parts_of
        }
        labels = sorted({label for files in splits.values() for label in files.labels or ()})
        if alike := [label for label in labels if role_of(label) is not None]:
            are = "is" if len(alike) == 1 else "are"
            self.notes.append(
                f"{self.name}: of the {len(labels):,} class folders within the splits, {some(alike)} {are} named like "
                "a split"
            )
        return splits

    def one_split(self, split: str, parts: Sequence[Folder], known: Collection[str], keep_labels: bool) -> FolderSplit:
        read = [self.class_level(part, split, known, keep_labels) for part in parts]
        files = [file for part in read for file in part.files]
        labels = [label for part in read for label in part.labels or ()]
        unlabelled, doubt = (
            next((text for part in read if (text := getattr(part, field))), "") for field in ("unlabelled", "doubt")
        )
        return FolderSplit(files, labels if len(labels) == len(files) else None, unlabelled=unlabelled, doubt=doubt)

    def class_level(self, part: Folder, split: str, known: Collection[str], keep_labels: bool) -> FolderSplit:
        """The images of one split's folder, labelled by the folders in it; those that only wrap them are gone through,
        but classes of train (``known``)."""
        folder = unwrapped(part, () if split == "train" else known)
        children = folder.with_images()
        if not children:
            through = f", the only folder in {below(self.root, part.path)}," if folder is not part else ""
            if through and role_of(folder.path.name) is not None and known:
                through += f" is no class of train ({some([shown(name) for name in sorted(known)])}) and"
            return FolderSplit(
                folder.files(), None, unlabelled=f"{below(self.root, folder.path)}{through} holds no class folders"
            )
        self.check_vanished(folder)
        if folder.images and not keep_labels:
            where = below(self.root, folder.path)
            why = (
                f"{count_images(len(folder.images))} ({some([shown(name) for name in folder.images], 3)}) beside the "
                f"folders in {where}"
            )
            self.notes.append(f"{self.name}: the {split} images are read without labels, because of {why}")
            why += "; move what lies there into a class folder, or set `layout: splits` to leave it out"
            return FolderSplit(folder.files(), None, unlabelled=why)
        if split == "train":
            self.tell_deeper(children)
        return replace(
            _split_of_class_folders(children), doubt="" if keep_labels else self.doubt(folder, children, "splits")
        )

    def by_class(
        self, folder: Folder, children: Mapping[str, Folder], inner: Mapping[str, Mapping[str, Role]]
    ) -> dict[str, FolderSplit]:
        self.check_vanished(folder)
        files: dict[str, list[tuple[Path, str]]] = {}
        for name, child in children.items():
            for part, role in inner[name].items():
                files.setdefault(role.split, []).extend((file, shown(name)) for file in child.folders[part].files())
        told = ", ".join(f"{split}: {len(pairs):,}" for split, pairs in files.items())
        self.notes.append(
            f"{self.name}: read as {len(children):,} classes ({some([shown(name) for name in children])}) that hold "
            f"their splits ({told})"
        )
        return {
            split: FolderSplit([file for file, _ in files[split]], [label for _, label in files[split]])
            for split in ("train", "test", "validation")
            if split in files
        }


def _split_of_class_folders(children: Mapping[str, Folder]) -> FolderSplit:
    """The images of class folders; where one holds images and their masks, without the masks."""
    pairs = [
        (file, shown(name))
        for name, child in sorted(children.items())
        for file in (pictures_in(child.with_images()) or child).files()
    ]
    return FolderSplit([file for file, _ in pairs], [label for _, label in pairs])
