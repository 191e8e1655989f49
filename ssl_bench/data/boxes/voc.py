"""A folder in PASCAL VOC layout (Everingham et al., 2010): its lists, its annotations held against its images.

FOLDER/ImageSets/Main/LIST.txt   one image name a line
FOLDER/Annotations/NAME.xml
FOLDER/JPEGImages/NAME.jpg       or any other kind of image file
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ssl_bench.data.boxes.ragged import BoxedImage
from ssl_bench.data.packs import decode as decoding
from ssl_bench.data.packs.content import workers
from ssl_bench.data.packs.decode import upright_size
from ssl_bench.data.places import Progress, silent
from ssl_bench.data.sources.folders import find_images
from ssl_bench.data.sources.labels import spelled
from ssl_bench.errors import DataError, did_you_mean

_SHOWN = 20
# px: what is thinner lies on the edge of its image but for rounding, and may have no width left in float32
_SLIVER = 0.01
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Fault:
    """Something wrong with a set: its kind, to be counted, and where it is."""

    kind: str
    text: str


@dataclass(frozen=True)
class VOCImage(BoxedImage):
    """An image and its annotation, found to agree.

    Attributes
    ----------
    clipped, thin : boxes that reached over an edge; boxes whose two corners are the same pixel in x or in y.
    sized : whether the annotation gives the image's size.
    """

    clipped: int = 0
    thin: int = 0
    sized: bool = True


def refuse(name: str, faults: Sequence[Fault], hint: str = "") -> None:
    """Raise DataError with all faults counted by kind and the first ones shown; nothing where there are none."""
    if not faults:
        return
    shown = [fault.text for fault in faults[:_SHOWN]] + (
        [f"and {len(faults) - _SHOWN:,} more"] if len(faults) > _SHOWN else []
    )
    raise DataError(f"{name} cannot be used as it is ({counted(faults)}){hint}:\n  " + "\n  ".join(shown))


def counted(faults: Sequence[Fault]) -> str:
    """How many faults there are of each kind."""
    return ", ".join(f"{kind}: {count:,}" for kind, count in Counter(fault.kind for fault in faults).most_common())


def lists(folder: Path) -> list[str]:
    """Names of the image lists of a VOC folder, sorted. Raises DataError when ``folder`` is not in VOC layout."""
    missing = [part for part in ("Annotations", "ImageSets/Main", "JPEGImages") if not (folder / part).is_dir()]
    if missing:
        raise DataError(
            f"{folder} is not in PASCAL VOC layout: it has no {', no '.join(missing)}; needed are "
            "Annotations/NAME.xml, "
            "ImageSets/Main/LIST.txt (one name a line) and JPEGImages/NAME.jpg"
        )
    names = sorted(file.stem for file in (folder / "ImageSets" / "Main").glob("*.txt") if not file.name.startswith("."))
    if not names:
        raise DataError(
            f"{folder / 'ImageSets' / 'Main'} holds no LIST.txt, so it is not known which images are train and which "
            "are test"
        )
    return names


def read_list(folder: Path, name: str) -> list[str]:
    """Image names of one list, in its order. Raises DataError when there is no such list or it is not text."""
    file = folder / "ImageSets" / "Main" / f"{name}.txt"
    if name not in (known := lists(folder)):
        raise DataError(f"{folder} has no split {name!r} ({file} does not exist); {did_you_mean(name, known)}")
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def examine(folder: Path, names: Sequence[str], progress: Progress = silent) -> dict[str, VOCImage | list[Fault]]:
    """Every named image with its annotation, or all that is wrong with it. Of the images only headers are read.

    Corners in VOC count pixels from 1 and both belong to the box: xmin, ymin, xmax, ymax become the edges xmin - 1,
    ymin - 1, xmax, ymax. They refer to the stored pixels when the annotation's size is theirs or is not given, whatever
    the camera noted (EXIF); when it is the size that the image has only after the camera's orientation is applied, they
    refer to the upright pixels. Any other size is a fault, as are corners in the wrong order and boxes with no part
    inside the image.
    """
    files: dict[str, list[Path]] = {}
    for file in find_images(folder / "JPEGImages"):
        files.setdefault(file.relative_to(folder / "JPEGImages").with_suffix("").as_posix(), []).append(file)
    examined: dict[str, VOCImage | list[Fault]] = {}
    what = f"checking the annotations of {folder.name}"
    with ThreadPoolExecutor(workers()) as pool:
        answers = pool.map(lambda name: _examine(folder, name, files.get(name, [])), names)
        for name, answer in zip(names, answers, strict=True):
            examined[name] = answer
            if len(examined) % 256 == 1:
                progress(what, len(examined), len(names))
    progress(what, len(names), len(names))
    return examined


def _examine(folder: Path, name: str, files: Sequence[Path]) -> VOCImage | list[Fault]:
    faults: list[Fault] = []
    root = _annotation(folder, name, faults)
    said = None if root is None else _size(root)
    names, boxes, difficult = (
        ([], np.zeros((0, 4)), []) if root is None else _objects(root, f"Annotations/{name}.xml", faults)
    )
    width, height, turned = 0, 0, False
    if len(files) != 1:
        seen = ", ".join(file.name for file in files)
        faults.append(
            Fault("several images of one name", f"JPEGImages/{name}: {seen}")
            if files
            else Fault(
                "missing image", f"JPEGImages/{name}.jpg is missing, and there is no other kind of image of that name"
            )
        )
        return faults
    where = f"JPEGImages/{files[0].relative_to(folder / 'JPEGImages').as_posix()}"
    try:
        with Image.open(files[0]) as image:
            width, height = image.size
            if said not in (None, (width, height)) and said == upright_size(image):
                (width, height), turned = upright_size(image), True
    except Exception as error:  # as with decoding, damaged headers raise nearly anything
        return [*faults, Fault("unreadable image", f"{where}: {decoding.reason_of(error)}")]
    if said not in (None, (width, height)):
        assert said is not None
        faults.append(
            Fault("size mismatch", f"Annotations/{name}.xml says {said[0]}x{said[1]}, {where} is {width}x{height}")
        )
        return faults  # the boxes belong to other pixels
    edges = np.array([width, height, width, height])
    inside = np.clip(boxes, 0, edges)
    for at in np.flatnonzero((inside[:, 2:] - inside[:, :2] < _SLIVER).any(1)):
        corners = " ".join(f"{value:g}" for value in boxes[at] + [1, 1, 0, 0])
        text = f"Annotations/{name}.xml: {names[at]!r} at {corners}, the image is {width}x{height}"
        faults.append(Fault("box outside its image", text))
    if faults:
        return faults
    clipped, thin = int((inside != boxes).any(1).sum()), int((boxes[:, 2:] - boxes[:, :2] == 1).any(1).sum())
    flags = np.array(difficult, bool)
    return VOCImage(files[0], width, height, inside, tuple(names), flags, turned, clipped, thin, said is not None)


def _annotation(folder: Path, name: str, faults: list[Fault]) -> ElementTree.Element | None:
    where = f"Annotations/{name}.xml"
    try:
        root = ElementTree.parse(folder / where).getroot()
    except FileNotFoundError:
        faults.append(Fault("missing annotation", f"{where} is missing"))
        return None
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: encodings that it names
        faults.append(Fault("unreadable annotation", f"{where}: {error}"))
        return None
    if root.tag != "annotation":
        faults.append(Fault("unreadable annotation", f"{where} begins with <{root.tag}>, not with <annotation>"))
        return None
    return root


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """(width, height) as annotated; None where they are missing or zero, as some tools write them."""
    try:
        width, height = (int(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _objects(root: ElementTree.Element, where: str, faults: list[Fault]) -> tuple[list[str], np.ndarray, list[bool]]:
    """Class names, edges float64 [n, 4] and difficult flags of the objects that can be understood."""
    names: list[str] = []
    boxes: list[list[float]] = []
    difficult: list[bool] = []
    for number, thing in enumerate(root.findall("object"), 1):
        name = spelled(thing.findtext("name") or "")
        if not name:
            faults.append(Fault("object without a name", f"{where}: object {number} has no name"))
            continue
        texts = [(thing.findtext(f"bndbox/{corner}") or "").strip() for corner in _CORNERS]
        try:
            corners = [float(text) for text in texts]
        except ValueError:
            corners = [math.nan]
        if not all(map(math.isfinite, corners)):
            given = ", ".join(f"{corner} {text!r}" for corner, text in zip(_CORNERS, texts, strict=True))
            faults.append(Fault("box without numbers", f"{where}: object {number} ({name!r}) has {given}"))
            continue
        left, top, right, bottom = corners
        if right < left or bottom < top:
            at = " ".join(f"{corner:g}" for corner in corners)
            faults.append(
                Fault(
                    "empty box",
                    f"{where}: object {number} ({name!r}) at {at} has its xmax or ymax below its xmin or ymin",
                )
            )
            continue
        flag = (thing.findtext("difficult") or "0").strip()
        if flag not in ("0", "1"):
            faults.append(
                Fault("unknown flag", f"{where}: object {number} ({name!r}) has difficult {flag!r}, not 0 or 1")
            )
            continue
        names.append(name)
        boxes.append([left - 1, top - 1, right, bottom])
        difficult.append(flag == "1")
    return names, np.array(boxes, np.float64).reshape(-1, 4), difficult
