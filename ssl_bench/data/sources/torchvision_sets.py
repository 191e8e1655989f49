"""Any torchvision classification set through one wrapper."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ssl_bench.data.packs.content import content_of
from ssl_bench.data.packs.decode import Stored
from ssl_bench.data.places import Places
from ssl_bench.errors import DataError

_TRAIN = ("trainval", "train", "train-standard")
_TEST = ("test",)
_VALIDATION = ("val", "valid")
# What a set's own folder is called, where that is certain: spares importing torchvision to find that nothing is there.
_LAYOUTS = {"cifar10": "cifar-10-*", "cifar100": "cifar-100-*", "imagenette": "imagenette2*"}
_VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "imagenette": ({"size": "full"}, {"size": "320px"}, {"size": "160px"})
}
# of sets that show neither arrays nor files, below the folder of all sets
_OWN_FOLDER = {"PCAM": "pcam", "FER2013": "fer2013"}
_NEEDS_ARGUMENT = "Unknown value"  # how torchvision refuses a split that a set does not have


class TorchvisionReader:
    """Images of one torchvision set and split."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.name = dataset, name

    def __len__(self) -> int:
        return len(self.dataset)

    def content(self, places: Places) -> str:
        """Over the arrays or the files that the set reads from; where neither shows, over everything in its own
        folder."""
        if self._array_content is not None:
            return self._array_content
        count, digest = len(self.dataset), hashlib.sha256(self.name.encode())
        held = vars(self.dataset)
        if files := self._all_files():
            digest.update(content_of(files, places, self.name).encode())
            return digest.hexdigest()
        folder = Path(self.dataset.root, _OWN_FOLDER.get(type(self.dataset).__name__, ""))
        files = sorted(Path(here, file) for here, _, names in os.walk(folder) for file in names)
        split = repr(
            [
                (name, value)
                for name, value in sorted(held.items())
                if isinstance(value, (str, int, bool)) and name != "root"
            ]
        )
        digest.update(f"{split}{count}{content_of(files, places, self.name)}".encode())
        return digest.hexdigest()

    def content_at(self, positions: np.ndarray, places: Places) -> str:
        """Over some of the files, where there are any; else over everything and which of it is meant."""
        if self._array_content is None and (files := self._all_files()):
            few = content_of([files[position] for position in positions], places, self.name)
            return hashlib.sha256(f"{self.name}{few}".encode()).hexdigest()
        return hashlib.sha256(self.content(places).encode() + positions.astype("<i8").tobytes()).hexdigest()

    @cached_property
    def _array_content(self) -> str | None:
        """Over the set's array of pixels; None where it has none."""
        if (array := _pixels(vars(self.dataset).get("data"), len(self.dataset))) is None:
            return None
        return hashlib.sha256(
            self.name.encode() + repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()
        ).hexdigest()

    def _all_files(self) -> list[Path]:
        """The file of every image; empty where the set does not show them."""
        lists = (
            value
            for value in vars(self.dataset).values()
            if isinstance(value, (list, tuple)) and len(value) == len(self)
        )
        return next((files for value in lists if (files := _files(value))), [])

    def items(self, stretches: Sequence[tuple[int, int]]) -> Iterator[list[Stored]]:
        for start, stop in stretches:
            yield [partial(self._image, position) for position in range(start, stop)]

    def where(self, position: int) -> str:
        for value in vars(self.dataset).values():
            if (
                isinstance(value, (list, tuple))
                and len(value) == len(self)
                and (files := _files(value[position : position + 1]))
            ):
                return str(files[0])
        return f"{self.name} image {position}"

    def _image(self, position: int) -> Stored:
        image: Stored = self.dataset[position][0]
        return image

    def labels(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """int64 [N] (-1 where an image has none) and class names."""
        numbers = np.array([-1 if label is None else int(label) for label in self._targets()], np.int64)
        highest = int(numbers.max(initial=-1))
        names = getattr(self.dataset, "classes", None) or getattr(self.dataset, "categories", None) or ()
        if len(names) <= highest:
            names = range(highest + 1)
        return np.maximum(numbers, -1), tuple(
            ", ".join(map(str, name)) if isinstance(name, (tuple, list)) else str(name) for name in names
        )

    def _targets(self) -> Any:
        count = len(self.dataset)
        for name in ("targets", "labels", "_labels", "y"):
            values = getattr(self.dataset, name, None)
            if values is not None and len(values) == count and np.ndim(values[0]) == 0:
                return values
        for name in ("samples", "_samples", "imgs"):
            values = getattr(self.dataset, name, None)
            if values is not None and len(values) == count and len(values[0]) == 2:
                return [label for _, label in values]
        return [self.dataset[position][1] for position in range(count)]


def open_sets(
    name: str,
    dataset: str,
    title: str,
    places: Sequence[Path],
    download_to: Path | None,
    extra_split: str = "",
) -> tuple[dict[str, TorchvisionReader], list[str]]:
    """Readers by split ("train", "test", "validation") of the set ``name``, and why each place that was tried has none.

    Parameters
    ----------
    dataset : the class in torchvision.datasets.
    title : what messages call the set.
    places : folders that may hold the set in torchvision's own layout.
    download_to : where to download to when none does; None leaves that out.
    extra_split : take this split as "train" instead, and nothing else (stl10's "unlabeled").
    """
    layout = _LAYOUTS.get(name, "*")
    if download_to is None and not any(place.is_dir() and any(place.glob(layout)) for place in places):
        return {}, [f"{place}: has no {layout}" for place in places]
    import torchvision.datasets

    make = getattr(torchvision.datasets, dataset, None)
    if make is None:
        raise DataError(f"the installed torchvision has no {dataset}; a newer one is needed for {name!r}")
    reasons: list[str] = []
    for place in places:
        if not place.is_dir():
            reasons.append(f"{place}: no such folder")
            continue
        for variant in _VARIANTS.get(name, ({},)):
            try:
                return _open_splits(make, name, title, place, False, variant, extra_split), reasons
            except DataError:
                raise
            # torchvision says "not here" with RuntimeError, FileNotFoundError, ValueError ...
            except Exception as error:
                reasons.append(f"{place}: {_first_line_of_error(error)}")
    if download_to is not None:
        try:
            download_to.mkdir(parents=True, exist_ok=True)
            return _open_splits(
                make, name, title, download_to, True, _VARIANTS.get(name, ({},))[0], extra_split
            ), reasons
        except DataError:
            raise
        except Exception as error:
            reasons.append(f"download to {download_to}: {_first_line_of_error(error)}")
    return {}, reasons


def _open_splits(
    make: Any,
    name: str,
    title: str,
    root: Path,
    download: bool,
    variant: dict[str, Any],
    extra_split: str,
) -> dict[str, TorchvisionReader]:
    parameters = inspect.signature(make.__init__).parameters
    given = {**variant, **({"download": download} if _takes_argument(make, "download") else {})}
    if "train" in parameters and "split" not in parameters:
        if extra_split:
            raise DataError(f"{name} has no split {extra_split!r}; write just {name!r}")
        return {
            split: TorchvisionReader(make(root, train=split == "train", **given), title) for split in ("train", "test")
        }
    if "split" not in parameters:
        return {"train": TorchvisionReader(make(root, **given), title)}
    readers: dict[str, TorchvisionReader] = {}
    choices = {"train": (extra_split,)} if extra_split else {"train": _TRAIN, "test": _TEST, "validation": _VALIDATION}
    for split, names in choices.items():
        for candidate in names:
            try:
                readers[split] = TorchvisionReader(make(root, split=candidate, **given), title)
                break
            except ValueError as error:
                if _NEEDS_ARGUMENT not in str(error):
                    raise
                if extra_split:
                    raise DataError(f"{name} has no split {extra_split!r}: {_first_line_of_error(error)}") from None
    return readers


def _takes_argument(make: Any, name: str) -> bool:
    """Whether a class takes the argument ``name``, itself or through ``**kwargs`` from a base class (as QMNIST from
    MNIST)."""
    for base in make.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters
            if name in parameters:
                return True
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                return False
    return False


def _pixels(value: Any, count: int) -> np.ndarray | None:
    array = value.numpy() if hasattr(value, "numpy") else value
    return (
        array
        if isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.ndim >= 3 and len(array) == count
        else None
    )


def _files(values: Sequence[Any]) -> list[Path]:
    """The file of each value: a path, or a tuple that begins with one; empty when a value has none."""
    files = []
    for value in values:
        first = value[0] if isinstance(value, tuple) and value else value
        if not isinstance(first, (str, Path)) or not os.path.isabs(first) and not os.path.exists(first):
            return []
        files.append(Path(first))
    return files


def _first_line_of_error(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
