"""What the names of folders say: splits, annotations, or nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "trainval": "train",
    "test": "test",
    "testing": "test",
    "tst": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "validate": "validation",
    "dev": "validation",
    "eval": "validation",
    "evaluation": "validation",
}
# splits only beside a word for images: imagesTr
_SHORT_WORDS = {"tr": "train", "ts": "test", "te": "test", "va": "validation"}
_FILLERS = frozenset(
    (
        "image",
        "images",
        "img",
        "imgs",
        "data",
        "dataset",
        "set",
        "sets",
        "split",
        "splits",
        "folder",
        "folders",
        "file",
        "files",
        "photo",
        "photos",
        "picture",
        "pictures",
        "sample",
        "samples",
        "example",
        "examples",
        "jpg",
        "jpeg",
        "jpegs",
        "png",
        "v",
        "x",
        "px",
        "the",
        "of",
        "for",
    )
)
_GLUED = re.compile(
    r"(images?|imgs?|data)?(train(?:ing|val)?|test(?:ing)?|val(?:id(?:ation)?)?|dev|eval)"
    r"(set|data|dataset|images?|imgs?|split|folder)?"
)
_PICTURES = frozenset(
    ("image", "images", "img", "imgs", "jpegimages", "photo", "photos", "picture", "pictures", "frames")
)
_ANNOTATIONS = frozenset(
    (
        "label",
        "labels",
        "mask",
        "masks",
        "annotation",
        "annotations",
        "ann",
        "anns",
        "gt",
        "groundtruth",
        "ground",
        "truth",
        "segmentation",
        "segmentations",
        "seg",
        "target",
        "targets",
        "bbox",
        "bboxes",
        "boxes",
        "depth",
        "trimaps",
        "meta",
        "metadata",
    )
)


@dataclass(frozen=True)
class Role:
    """What a folder's name says of a split.

    Attributes
    ----------
    split : "train", "test" or "validation".
    rest : the other words of the name, without numbers and words that say nothing; () for ``train2017`` and
        ``images_val``.
    bare : the name is the split's word alone.
    """

    split: str
    rest: tuple[str, ...]
    bare: bool


def words_of(name: str) -> list[str]:
    """The words and numbers of a name in lower case, parted at signs, digits and capitals: "TrainSet_v2" is train, set,
    v, 2."""
    runs = re.findall(r"[^\W\d_]+|\d+", name)
    return [word.lower() for run in runs for word in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^A-Z]+|[A-Z]+", run)]


def role_of(name: str) -> Role | None:
    """The split that a folder is named after, None for any other name."""
    splits: list[str] = []
    rest: list[str] = []
    words = words_of(name)
    if "".join(words) in _SPLIT_WORDS:  # "TrainVal", "VALid"
        return Role(_SPLIT_WORDS["".join(words)], (), True)
    fillers = any(word in _FILLERS for word in words)
    for word in words:
        glued = _GLUED.fullmatch(word)
        split = (
            _SPLIT_WORDS.get(word)
            or (_SPLIT_WORDS[glued[2]] if glued else None)
            or (_SHORT_WORDS.get(word) if fillers else None)
        )
        if split is not None:
            splits.append(split)
        elif word not in _FILLERS and not word.isdecimal():
            rest.append(word)
    if set(splits) == {"train", "validation"}:  # train_val
        splits = ["train"]
    return Role(splits[0], tuple(rest), False) if len(set(splits)) == 1 else None


def is_annotation(name: str) -> bool:
    """Whether a folder is named after masks, labels or other annotations, such as ``labelsTr`` and
    ``SegmentationMasks``."""
    words = [word for word in words_of(name) if not word.isdecimal()]
    return any(word in _ANNOTATIONS for word in words) and all(
        word in _ANNOTATIONS or word in _FILLERS or word in _SPLIT_WORDS or word in _SHORT_WORDS for word in words
    )


def is_split_word(name: str) -> bool:
    """Whether a name is one of a split's usual names, as it stands."""
    return name.lower() in _SPLIT_WORDS


def is_pictures(name: str) -> bool:
    """Whether a folder is named after its being images, as ``images`` and ``JPEGImages`` are."""
    return "".join(words_of(name)) in _PICTURES


def says_nothing(name: str) -> bool:
    """Whether a folder's name only says that it holds images or a set: "images", "data_v2"; not "2", which a class may
    be called."""
    return all(word in _FILLERS or word.isdecimal() for word in words_of(name)) and not name.isdecimal()
