"""Small folders in PASCAL VOC layout, written the way the annotation tools write them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

# class name, xmin, ymin, xmax, ymax (counted from 1, both corners inside the box), difficult
Thing = tuple[str, Any, Any, Any, Any, Any]


def annotation(size: tuple[int, int] | None, things: Sequence[Thing]) -> str:
    """The XML of one image; ``size`` is (width, height)."""
    lines = ["<annotation>", "<folder>x</folder>"]
    if size is not None:
        lines.append(f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>")
    for name, *corners, difficult in things:
        box = "".join(
            f"<{corner}>{value}</{corner}>"
            for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
        lines.append(
            f"<object><name>{escape(name)}</name><pose>Unspecified</pose>{flag}<bndbox>{box}</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>"])


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def write_image(
    folder: Path,
    name: str,
    things: Sequence[Thing],
    image: Image.Image | None = None,
    suffix: str = ".png",
    **save: Any,
) -> None:
    """An image with its annotation, whose size is the stored image's."""
    image = noise(24, 18, zlib.crc32(name.encode())) if image is None else image
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    image.save(folder / "JPEGImages" / f"{name}{suffix}", **save)
    (folder / "Annotations" / f"{name}.xml").write_text(annotation(image.size, things), encoding="utf-8")


def write_list(folder: Path, split: str, names: Sequence[str]) -> None:
    (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(
        "".join(f"{name}\n" for name in names), encoding="utf-8"
    )


def write_tree(folder: Path, splits: Mapping[str, Mapping[str, Sequence[Thing]]]) -> Path:
    """A whole folder: list -> image name -> its objects. An image in two lists is written once."""
    for split, images in splits.items():
        for name, things in images.items():
            if not (folder / "JPEGImages" / f"{name}.png").exists():
                write_image(folder, name, things)
        write_list(folder, split, list(images))
    return folder
