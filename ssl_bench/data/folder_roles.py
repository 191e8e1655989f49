"""What the folders within a folder are to each other: splits that belong together, wrappers, annotations beside
images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from ssl_bench.data.sources.listing import Folder
from ssl_bench.data.sources.split_names import Role, is_annotation, is_pictures, role_of, says_nothing, words_of

_ALSO_CLASSES = ("train", "test", "valid")  # words that a class may be called, a vehicle or a finding


def families(children: Mapping[str, Folder], roles: Mapping[str, Role]) -> list[dict[str, list[str]]]:
    """Split to folder names, of folders that belong together: alike in name but for the split's word, or else in the
    classes they hold."""
    by_rest: dict[tuple[str, ...], dict[str, list[str]]] = {}
    together: dict[str, list[str]] = {}
    for name, role in roles.items():
        by_rest.setdefault(role.rest, {}).setdefault(role.split, []).append(name)
        together.setdefault(role.split, []).append(name)
    complete = [family for family in by_rest.values() if "train" in family and len(family) > 1]
    if not complete and "train" in together and len(together) > 1:
        classes = [class_names(children[name]) for names in together.values() for name in names]
        complete = [together] if len(set.intersection(*classes)) > 1 else []
    return complete


def is_doubtful(name: str, role: Role, children: Mapping[str, Folder]) -> bool:
    """Whether a folder that is named like a split, without its counterpart, may well be one and no class."""
    classes = class_names(children[name])
    # "bullet_train", unless it holds the folders that another one holds, or is another one's part: "dog" and "dog_test"
    if role.rest:
        others = {other: child for other, child in children.items() if other != name}
        return (
            any(tuple(words_of(other)) == role.rest for other in others)
            or len(classes) > 1
            and any(classes == class_names(child) for child in others.values())
        )
    if not role.bare or classes or name.lower() not in _ALSO_CLASSES:
        return True
    if role.split != "train" and any(
        (other := role_of(beside)) is not None and other.split == "train" for beside in children
    ):
        return True  # "test" beside "train_a" and "train_b"
    return role.split == "train" and len(children) == 2


def pictures_in(children: Mapping[str, Folder]) -> Folder | None:
    """The folder of images beside folders of masks or other annotations that are images too."""
    pictures = [name for name in children if is_pictures(name)]
    rest = [name for name in children if name not in pictures]
    return children[pictures[0]] if len(pictures) == 1 and rest and all(map(is_annotation, rest)) else None


def unwrapped(folder: Folder, known: Collection[str] = ()) -> Folder:
    """The folder with the images of a split: train/images and train/train hold what train means; train/cat is a class,
    and so is what is in ``known``."""
    while not folder.images:
        children = folder.with_images()
        pictures = pictures_in(children)
        if pictures is None and len(children) == 1:
            ((name, child),) = children.items()
            role = role_of(name)
            same = name.lower() == folder.path.name.lower() or role is not None and role.bare
            pictures = child if name not in known and (same or says_nothing(name)) else None
        if pictures is None:
            break
        folder = pictures
    return folder


def repeated_within(children: Mapping[str, Folder]) -> list[str]:
    """Names of folders that lie in several of ``children``, as classes lie in folds; none where most lie in one alone,
    or where one holds no folders."""
    within = [class_names(child) for child in children.values()]
    counts = Counter(name for names in within for name in names)
    several = sorted(name for name, count in counts.items() if count > 1)
    repeat = all(within) and len(several) > 1 and 2 * sum(counts[name] for name in several) > counts.total()
    return several if repeat else []


def inner_roles(folder: Folder) -> dict[str, Role]:
    return {name: role for name in folder.with_images() if (role := role_of(name)) is not None and not role.rest}


def class_names(folder: Folder) -> set[str]:
    return set(unwrapped(folder).with_images())
