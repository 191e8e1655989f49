"""Images with boxes in PASCAL VOC layout: any folder, and VOC 2007, VOC 2012 and BCCD by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_bench.data.boxes import voc
from ssl_bench.data.boxes.raw import RawBoxes
from ssl_bench.data.boxes.voc_folder import read_voc_folder
from ssl_bench.data.places import Places
from ssl_bench.data.sources.base import Source, after_colon
from ssl_bench.data.sources.downloads import downloading_alone
from ssl_bench.data.sources.paths import NO_ROOT, resolve
from ssl_bench.errors import DataError
from ssl_bench.records.schema import write_bytes

_BCCD_URL = "https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/master.zip"
_BCCD_FILE, _BCCD_FOLDER = "bccd.zip", Path("BCCD_Dataset-master", "BCCD")


class VOCFolder(Source):
    """A folder in PASCAL VOC layout."""

    name = "voc"
    argument = "PATH"
    boxes = "a folder in PASCAL VOC layout: JPEGImages, Annotations/*.xml, ImageSets/Main/*.txt"

    def check(self, spec: Any, places: Places) -> None:
        resolve(after_colon(spec.source), places, self.name)

    def open_boxes(self, spec: Any, places: Places) -> RawBoxes:
        folder = resolve(after_colon(spec.source), places, self.name)
        return read_voc_folder(folder, folder.resolve().name, spec, places)


class VOC2007(Source):
    """PASCAL VOC 2007 (Everingham et al., 2010)."""

    name = "voc2007"
    boxes = "PASCAL VOC 2007, from torchvision's files or downloaded"

    def open_boxes(self, spec: Any, places: Places) -> RawBoxes:
        title = "PASCAL VOC 2007"
        return read_voc_folder(_find_year(self.name, "2007", title, ("trainval", "test"), places), title, spec, places)


class VOC2012(Source):
    """PASCAL VOC 2012 (Everingham et al., 2015)."""

    name = "voc2012"
    boxes = "PASCAL VOC 2012, from torchvision's files or downloaded"

    def open_boxes(self, spec: Any, places: Places) -> RawBoxes:
        title = "PASCAL VOC 2012"
        return read_voc_folder(_find_year(self.name, "2012", title, ("trainval",), places), title, spec, places)


class BCCD(Source):
    """BCCD: blood cells."""

    name = "bccd"
    boxes = "BCCD, 364 photographs of blood cells of three kinds; a folder bccd or BCCD in that layout, or downloaded"

    def open_boxes(self, spec: Any, places: Places) -> RawBoxes:
        return read_voc_folder(_find_bccd(places), "BCCD", spec, places)


def _find_year(name: str, year: str, title: str, needed: Sequence[str], places: Places) -> Path:
    """The folder of a set that torchvision knows: its own layout below the data root, an earlier download, a new
    download; in this order."""
    from torchvision.datasets import VOCDetection

    downloads = places.cache / "downloads"
    # a download that was killed while it was unpacked must not pass for a whole one
    finished = downloads / f"{name}.complete"
    reasons = [] if places.root is not None else [NO_ROOT]
    for place in [] if places.root is None else [places.root, places.root / name]:
        try:
            return _voc_root(VOCDetection, place, year, needed, download=False)
        except Exception as error:  # torchvision says "not here" with RuntimeError or FileNotFoundError
            reasons.append(f"{place}: {error}")
    try:
        with downloading_alone(downloads, name, title, places.progress):
            if not finished.exists():
                places.progress(f"looking for {title}, downloading it to {downloads} if it is not there", 0, 0)
            folder = _voc_root(VOCDetection, downloads, year, needed, download=not finished.exists())
            write_bytes(finished, f"{title} was downloaded and unpacked\n".encode())
        return folder
    except Exception as error:
        listed = "\n  ".join([*reasons, f"download to {downloads}: {error}"])
        raise DataError(
            f"{title} was not found and could not be downloaded; put torchvision's files (VOCdevkit{os.sep}VOC{year}) "
            f"below a data root, or name the folder as voc:PATH:\n  {listed}"
        ) from None


def _find_bccd(places: Places) -> Path:
    """The folder of BCCD: below the data root, an earlier download, a new download; in this order."""
    tried = [] if places.root is None else [places.root / name for name in ("bccd", "BCCD")]
    for folder in tried:
        if (folder / "JPEGImages").is_dir():
            return folder
    downloads = places.cache / "downloads"
    folder, finished = downloads / _BCCD_FOLDER, downloads / "bccd.complete"
    try:
        with downloading_alone(downloads, "bccd", "BCCD", places.progress):
            if not (finished.exists() and folder.is_dir()):
                from torchvision.datasets.utils import download_and_extract_archive

                places.progress(f"downloading BCCD to {downloads}", 0, 0)
                (downloads / _BCCD_FILE).unlink(missing_ok=True)  # half of one would be taken for a whole one
                download_and_extract_archive(_BCCD_URL, str(downloads), filename=_BCCD_FILE, remove_finished=True)
                voc.lists(folder)
                write_bytes(finished, b"BCCD was downloaded and unpacked\n")
        return folder
    except Exception as error:  # no network, a full disk, a file that is no archive, another layout
        looked = f"it is not {' or '.join(map(str, tried))}" if tried else NO_ROOT
        raise DataError(
            f"BCCD was not found ({looked}) and could not be downloaded from {_BCCD_URL} ({error}); put its folder "
            "BCCD "
            "(with JPEGImages, Annotations and ImageSets) below a data root, or name it as voc:PATH"
        ) from None


def _voc_root(make: Any, root: Path, year: str, needed: Sequence[str], *, download: bool) -> Path:
    sets = [make(str(root), year=year, image_set=split, download=download) for split in needed]
    return Path(sets[0].annotations[0]).parents[1]
