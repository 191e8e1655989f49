"""The image sets that torchvision knows, by name: found below the data root, downloaded before, or downloaded now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from ssl_bench.data.packs.decode import open_image
from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet, RawSplit
from ssl_bench.data.sources import torchvision_sets
from ssl_bench.data.sources.base import Source, after_colon
from ssl_bench.data.sources.downloads import downloading_alone
from ssl_bench.data.sources.folder_source import read_images
from ssl_bench.data.sources.hub import find_files
from ssl_bench.data.sources.parquet_source import open_parquet
from ssl_bench.data.sources.paths import NO_ROOT
from ssl_bench.errors import DataError
from ssl_bench.spec.data import SourceSpec


class TorchvisionSource(Source):
    """A set of torchvision's, by the lower-case name of its class there.

    Attributes
    ----------
    dataset : the class in torchvision.datasets.
    title : what tables and messages call the set.
    classes : how many it has, where a copy of another number is known to be another set; 0: any number.
    lossless : whether the original is stored without loss, so that a copy in JPEG is told.
    """

    argument: ClassVar[str] = "[SPLIT]"
    dataset: ClassVar[str]
    title: ClassVar[str]
    classes: ClassVar[int] = 0
    lossless: ClassVar[bool] = False

    def open(self, spec: Any, places: Places) -> RawSet:
        """Torchvision's own layout or a copy below the data root, an earlier download, a new download; in this
        order."""
        split = after_colon(spec.source)
        downloads = places.cache / "downloads"
        reasons: list[str] = []
        if places.root is not None:
            looked = [places.root, places.root / self.name]
            readers, reasons = torchvision_sets.open_sets(self.name, self.dataset, self.title, looked, None, split)
            if readers:
                return _of_readers(self.title, readers)
            if not split and (copy := self._copy(places, places.root)) is not None:
                return copy
        else:
            reasons.append(NO_ROOT)
        places.progress(f"looking for {self.title}, downloading it to {downloads} if it is not there", 0, 0)
        with downloading_alone(downloads, self.name, self.title, places.progress):
            readers, more = torchvision_sets.open_sets(
                self.name, self.dataset, self.title, [downloads], downloads, split
            )
        if not readers:
            listed = "\n  ".join([*reasons, *more])
            raise DataError(
                f"{self.title} was not found and could not be downloaded; put torchvision's files or the hub's "
                f"(a folder {self.name!r} with train-*.parquet) below a data root:\n  {listed}"
            )
        return _of_readers(self.title, readers)

    def _copy(self, places: Places, root: Path) -> RawSet | None:
        """A hub or class-folder copy below the data root, in a folder whose name begins with the set's: "cifar10-jpeg",
        not "cifar100"."""
        pattern = re.compile("[-_ ]?".join(map(re.escape, self.name)) + r"(?![0-9a-z])", re.IGNORECASE)
        copies: list[tuple[Path, RawSet]] = []
        for folder in sorted(child for child in root.iterdir() if child.is_dir() and pattern.match(child.name)):
            if find_files(folder):
                raw = open_parquet(folder, SourceSpec(source=f"parquet:{folder}"), self.title)
            elif (folder / "train").is_dir():
                raw = read_images(str(folder), SourceSpec(source=f"folder:{folder}"), places, self.title)
            else:
                continue
            if len(raw.classes) == (self.classes or len(raw.classes)):
                copies.append((folder, raw))
        exact = [pair for pair in copies if pair[0].name.lower() == self.name]
        if len(copies) > 1 and not exact:
            raise DataError(
                f"{self.name!r} could be {' or '.join(str(folder) for folder, _ in copies)}; "
                "name one as parquet:PATH or folder:PATH"
            )
        if not copies:
            return None
        folder, raw = (exact or copies)[0]
        if self.lossless and _format(raw) == "JPEG":
            called = f"{self.title} (JPEG copy)"
        else:
            called = self.title if folder.name.lower() == self.name else f"{self.title} (copy {folder.name})"
        note = f"{called} is read from {folder.name}, below the data root"
        return replace(raw, name=called, notes=(*raw.notes, note))


def _of_readers(title: str, readers: Mapping[str, torchvision_sets.TorchvisionReader]) -> RawSet:
    labelled = {split: reader.labels() for split, reader in readers.items()}
    classes = max((names for _, names in labelled.values()), key=len)
    splits = {
        split: RawSplit(reader, labelled[split][0] if (labelled[split][0] >= 0).any() else None)
        for split, reader in readers.items()
    }
    return RawSet(title, classes if any(split.labels is not None for split in splits.values()) else (), splits)


def _format(raw: RawSet) -> str | None:
    reader = raw.splits["train"].reader
    for item in next(reader.items([(0, min(8, len(reader)))])):
        try:
            return open_image(item).format
        except Exception:  # an unreadable image is packing's business
            continue
    return None


def _source_of_set(
    dataset: str, title: str, line: str, classes: int = 0, lossless: bool = False
) -> type[TorchvisionSource]:
    """The source of one set."""
    members = {
        "__doc__": f"{title}: {line}.",
        "__module__": __name__,
        "name": dataset.lower(),
        "images": f"{title}: {line}",
        "dataset": dataset,
        "title": title,
        "classes": classes,
        "lossless": lossless,
    }
    return type(dataset, (TorchvisionSource,), members)


CIFAR10 = _source_of_set("CIFAR10", "CIFAR-10", "60,000 images of 10 classes, 32 px", classes=10, lossless=True)
CIFAR100 = _source_of_set("CIFAR100", "CIFAR-100", "60,000 images of 100 classes, 32 px", classes=100, lossless=True)
Imagenette = _source_of_set("Imagenette", "Imagenette", "13,394 photographs of 10 ImageNet classes", classes=10)
ImageNet = _source_of_set(
    "ImageNet", "ImageNet", "1.28 million photographs of 1,000 classes; to be obtained by hand", classes=1000
)
STL10 = _source_of_set(
    "STL10",
    "STL-10",
    "13,000 images of 10 classes, 96 px; stl10:unlabeled has 100,000 more to pretrain on",
    classes=10,
    lossless=True,
)
SVHN = _source_of_set("SVHN", "SVHN", "99,289 house-number digits, 32 px", classes=10, lossless=True)
MNIST = _source_of_set("MNIST", "MNIST", "70,000 handwritten digits, 28 px, grey", classes=10, lossless=True)
FashionMNIST = _source_of_set(
    "FashionMNIST", "Fashion-MNIST", "70,000 articles of clothing, 28 px, grey", classes=10, lossless=True
)
KMNIST = _source_of_set("KMNIST", "KMNIST", "70,000 Japanese characters, 28 px, grey", lossless=True)
QMNIST = _source_of_set("QMNIST", "QMNIST", "120,000 handwritten digits, 28 px, grey", lossless=True)
USPS = _source_of_set("USPS", "USPS", "9,298 handwritten digits, 16 px, grey", lossless=True)
SEMEION = _source_of_set("SEMEION", "Semeion", "1,593 handwritten digits, 16 px, black and white", lossless=True)
Flowers102 = _source_of_set("Flowers102", "Flowers-102", "8,189 flowers of 102 kinds")
Food101 = _source_of_set("Food101", "Food-101", "101,000 dishes of 101 kinds")
OxfordIIITPet = _source_of_set("OxfordIIITPet", "Oxford-IIIT Pet", "7,349 cats and dogs of 37 breeds")
DTD = _source_of_set("DTD", "DTD", "5,640 textures of 47 kinds")
FGVCAircraft = _source_of_set("FGVCAircraft", "FGVC-Aircraft", "10,000 aircraft of 100 variants")
StanfordCars = _source_of_set("StanfordCars", "Stanford Cars", "16,185 cars of 196 models; to be obtained by hand")
GTSRB = _source_of_set("GTSRB", "GTSRB", "51,839 traffic signs of 43 kinds")
EuroSAT = _source_of_set("EuroSAT", "EuroSAT", "27,000 satellite images of 10 land uses, 64 px; give a test share")
Country211 = _source_of_set("Country211", "Country211", "photographs of 211 countries")
RenderedSST2 = _source_of_set("RenderedSST2", "Rendered SST2", "9,613 sentences drawn as images, 2 classes")
CLEVRClassification = _source_of_set(
    "CLEVRClassification", "CLEVR counts", "85,000 rendered scenes, classes are object counts"
)
SUN397 = _source_of_set("SUN397", "SUN397", "108,754 scenes of 397 kinds; give a test share")
Places365 = _source_of_set("Places365", "Places365", "1.8 million scenes of 365 kinds")
Caltech101 = _source_of_set("Caltech101", "Caltech-101", "8,677 images of 101 kinds; give a test share")
Caltech256 = _source_of_set("Caltech256", "Caltech-256", "30,607 images of 257 kinds; give a test share")
PCAM = _source_of_set("PCAM", "PatchCamelyon", "327,680 tissue patches, 2 classes, 96 px", lossless=True)
FER2013 = _source_of_set("FER2013", "FER2013", "35,887 faces of 7 expressions, 48 px, grey; to be obtained by hand")
