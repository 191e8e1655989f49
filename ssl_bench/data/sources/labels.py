"""How labels are written: what counts as the same name, whatever stores it, and what looks like a slip."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

# a byte-order mark, joiners, a soft hyphen: nobody sees them beside a name
_UNSEEN = "\ufeff\u200b\u200c\u200d\u2060\xad"
# what programs write where there is no value; nobody calls a class so
_MISSING = frozenset(("", "nan", "null", "<na>", "nat", "#n/a"))
_DOUBTFUL = frozenset(("none", "na", "n/a", "n.a.", "unknown", "undefined", "?", "-"))  # a class may well be called so
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_JOINTS = "|;,+&/ "  # what several labels of one image are written with
_SHOWN = 5
_FEW = 20  # rows below which distinct values say nothing


def spelled(text: str) -> str:
    """A name without spaces around it and in composed Unicode (NFC); letter case and everything inside of it are kept.

    Folder names, lines of a csv, text and class names in Parquet files and names in VOC annotations all go through
    here, so that "cat " and "cat" are one class everywhere, and so are the two ways in which Unicode writes an accented
    letter (macOS has one, others the other).
    """
    return unicodedata.normalize("NFC", text.strip().strip(_UNSEEN)).strip()


def is_missing(text: str) -> bool:
    """Whether a text stands for no value: empty, or what pandas and databases write for it ("nan", "NULL", "<NA>")."""
    return spelled(text).casefold() in _MISSING


def as_number(text: str) -> float | None:
    """The value of a decimal number; None for any other text."""
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


def numbered(words: Sequence[str | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 [N], -1 where there is none, and the sorted class names."""
    clean = [None if word is None or is_missing(word) else spelled(word) for word in words]
    names = tuple(sorted({word for word in clean if word is not None}))
    number = {name: at for at, name in enumerate(names)}
    return np.array([-1 if word is None else number[word] for word in clean], np.int64), names


def joined_spellings(title: str, words: Iterable[str | None]) -> list[str]:
    """A note where words that are written differently are one class: ("cat", "cat ")."""
    counts = Counter(word for word in words if word is not None and not is_missing(word))
    written: dict[str, list[str]] = {}
    for word in sorted(counts):
        written.setdefault(spelled(word), []).append(word)
    several = {name: ways for name, ways in written.items() if len(ways) > 1}
    if not several:
        return []
    shown = "; ".join(
        f"{' and '.join(_visibly(way) + f' ({counts[way]:,})' for way in ways)}"
        for ways in list(several.values())[:_SHOWN]
    )
    return [
        f"{title}: labels that differ only in spaces around them or in how Unicode writes a letter are one class: "
        f"{shown}{_more(several)}"
    ]


def near_equal(title: str, classes: Sequence[str], counts: Sequence[int], things: str = "images") -> list[str]:
    """Notes on class names that may be slips: alike but for letter case and punctuation, equal numbers, words for a
    missing value.

    ``counts`` : images (or other ``things``) of each class, of all splits together.
    """
    alike: dict[str, list[int]] = {}
    for at, name in enumerate(classes):
        if counts[at]:
            alike.setdefault(_key(name), []).append(at)
    several = {key: positions for key, positions in alike.items() if len(positions) > 1}
    notes = []
    if several:
        shown = "; ".join(
            " and ".join(f"{classes[at]!r} ({counts[at]:,} {things})" for at in positions)
            for positions in list(several.values())[:_SHOWN]
        )
        notes.append(
            f"{title}: class names that nearly agree are classes of their own here: {shown}{_more(several)}; if they "
            "are meant to be one, "
            "write them alike"
        )
    present = {name for at, name in enumerate(classes) if counts[at]}
    if joined := {name: parts for name in sorted(present) if (parts := _parts_in(name, present))}:
        shown = "; ".join(
            f"{name!r} ({' and '.join(map(repr, parts))})" for name, parts in list(joined.items())[:_SHOWN]
        )
        notes.append(
            f"{title}: {len(joined):,} class names are made of other classes' names: {shown}{_more(joined)}; if these "
            "are several labels of one image, they "
            "are read as classes of their own here"
        )
    # beside other numbers, -1 is often written for none
    numbers = not any(as_number(name) is None for name in present) and present != {"-1", "1"}
    if doubtful := [
        at
        for at, name in enumerate(classes)
        if counts[at] and (name.casefold() in _DOUBTFUL or name == "-1" and numbers)
    ]:
        shown = ", ".join(f"{classes[at]!r} ({counts[at]:,} {things})" for at in doubtful[:_SHOWN])
        notes.append(
            f"{title}: {shown} may stand for a missing label, and is a class here; leave them out if it is none"
        )
    return notes


def alike_in(name: str, others: Sequence[str]) -> str | None:
    """The first of ``others`` that is alike but for letter case and punctuation, or the same number; None without
    one."""
    return next((other for other in others if _key(other) == _key(name)), None)


def look_like_ids(codes: np.ndarray) -> bool:
    """Whether labels int64 [N] (-1 for none) are numbers or texts of single images rather than classes: more than one
    for two images."""
    known = codes[codes >= 0]
    return len(known) >= _FEW and 2 * len(np.unique(known)) > len(known)


def same_partition(labels: np.ndarray, other: np.ndarray) -> bool:
    """Whether two labellings int64 [N] tell the same images apart, whatever they call the classes."""
    pairs = len(np.unique(np.stack([labels, other]), axis=1).T)
    return pairs == len(np.unique(labels)) == len(np.unique(other))


def _key(name: str) -> str:
    if (number := as_number(name)) is not None:
        return f"{number:.15g}" if abs(number) < 1e15 else name.lstrip("+0")
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in plain if c.isalnum()) or plain


def _parts_in(name: str, names: Collection[str]) -> list[str]:
    """The other names that make up one which joins them ("cat|dog" beside "cat" and "dog"); none for any other name."""
    for mark in _JOINTS:
        parts = [spelled(part) for part in name.split(mark)]
        if len(parts) > 1 and all(part in names for part in parts):
            return parts
    return []


def _visibly(word: str) -> str:
    """The word so that spaces around it show, and accents written apart do too."""
    return ascii(word) if unicodedata.normalize("NFC", word) != word else repr(word)


def _more(several: Mapping[str, Sequence[object]]) -> str:
    return f" and {len(several) - _SHOWN:,} more" if len(several) > _SHOWN else ""
