"""The embedded image set: upright objects of known shape and texture under light from above, rendered from a seed.

Nothing is downloaded or stored, so it serves tests and first runs. It is built so that no pretext task is defeated
(there is an up, a down and a light; hue follows from texture; patterns continue across tiles), which is also why its
order of methods is a smoke test and not evidence about photographs.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from ssl_bench.data.sources import _shapes_render as _render
from ssl_bench.data.sources._shapes_render import BACKGROUNDS, SHAPES, TEXTURES, Scenes
from ssl_bench.errors import DataError, did_you_mean

VERSION = 1  #: part of the seed; changes with every change of a pixel
SPLITS = ("train", "test")
DEFAULT_TRAIN = 10_000
DEFAULT_TEST = 4_000
NATIVE_SIZE = 48
MIN_SIZE = 32
MAX_OBJECTS = 3
MAX_TILT = 40.0  #: degrees from upright
MAIN_RADIUS = (0.32, 0.46)  #: of the object that gives the class, as a share of the image side
OTHER_RADIUS = (0.10, 0.14)  #: of the others
TIED = 0.8  #: share of objects whose hue follows from their texture
CLASSES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)

# Two textures to a family: texture tells the hue, but hue leaves six classes of twelve.
_FAMILIES = np.array([0.07, 0.58])
_FAMILY_OF_TEXTURE = np.array([0, 1, 1, 0])
_FAMILY_WIDTH = 0.14
# cool above and warm below only this often, and light from above only faint: or colour alone would tell up
_BACKGROUND_TIED = 0.4
_CHUNK_PIXELS = 1 << 17  # a working array of 512 KiB stays in the cache


@dataclass(frozen=True)
class RenderedShapes:
    """Images with all that is known about them.

    Attributes
    ----------
    images : uint8 [N, S, S, 3], RGB.
    labels : int64 [N], the class of the main object: the largest (its radius is more than twice any other's) and the
        nearest to the centre.
    classes : "texture shape", shape by shape.
    columns : of the main object ``shape``, ``texture`` (int64, into SHAPES and TEXTURES), ``hue`` (HSV, in [0, 1)),
        ``scale`` (radius as a share of the image side), ``x``, ``y`` (centre, same unit), ``orientation`` (degrees
        clockwise from upright); of the image ``background`` (int64, into BACKGROUNDS), ``count`` (objects, 1 to 3),
        ``boxes`` (float32 [N, 3, 4], x1 y1 x2 y2 in pixels around the part inside the image, main object first, NaN
        where there is none), ``box_labels`` (int64 [N, 3], -1 where there is none).
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    columns: dict[str, np.ndarray]


def render(split: str, size: int, count: int | None = None) -> RenderedShapes:
    """Render the first ``count`` images of a split; image i depends on (split, i, size) alone.

    Parameters
    ----------
    split : "train" or "test"; they share no image.
    size : side of the images in pixels, from MIN_SIZE up. The scenes are the same at every size.
    count : number of images; DEFAULT_TRAIN or DEFAULT_TEST when None.

    Raises
    ------
    DataError : unknown split, size below MIN_SIZE, count below 1.
    """
    if split not in SPLITS:
        raise DataError(f"shapes: unknown split {split!r}; {did_you_mean(split, SPLITS)}")
    if size < MIN_SIZE:
        raise DataError(f"shapes: size must be at least {MIN_SIZE}, got {size}: smaller images show no texture")
    if count is None:
        count = DEFAULT_TRAIN if split == "train" else DEFAULT_TEST
    if count < 1:
        raise DataError(f"shapes: count must be at least 1, got {count}")
    images = np.empty((count, size, size, 3), np.uint8)
    boxes = np.empty((count, MAX_OBJECTS, 4), np.float32)
    scenes = compose(split, np.arange(count))
    step = max(1, _CHUNK_PIXELS // size**2)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        images[rows], boxes[rows] = _render.draw_scenes(scenes.take(rows), size)
    labels = scenes.shape * len(TEXTURES) + scenes.texture
    present = np.arange(MAX_OBJECTS) < scenes.count[:, None]
    columns = {
        "shape": scenes.shape[:, 0],
        "texture": scenes.texture[:, 0],
        "hue": scenes.hue[:, 0],
        "scale": scenes.radius[:, 0],
        "x": scenes.x[:, 0],
        "y": scenes.y[:, 0],
        "orientation": scenes.orientation[:, 0],
        "background": scenes.background,
        "count": scenes.count,
        "boxes": boxes,
        "box_labels": np.where(present, labels, -1),
    }
    return RenderedShapes(
        images, labels[:, 0].copy(), CLASSES, {name: np.ascontiguousarray(column) for name, column in columns.items()}
    )


def compose(split: str, index: np.ndarray) -> Scenes:
    """What is to be seen in images ``index`` (int64 [N]) of a split, before any pixel."""

    def draw(name: str, low: float = 0.0, high: float = 1.0, slots: int = 0) -> np.ndarray:
        """Uniform in [low, high): [N], or [N, slots]."""
        if slots:
            return np.stack([draw(f"{name} {slot}", low, high) for slot in range(slots)], 1)
        return low + (high - low) * _uniform(split, name, index)

    n, objects = len(index), MAX_OBJECTS
    classes = np.floor(draw("class", 0, len(CLASSES), objects)).astype(np.int64)
    classes[:, 0] = _balanced(split, index)
    shape, texture = classes // len(TEXTURES), classes % len(TEXTURES)
    count = 1 + np.floor(draw("count", 0, objects)).astype(np.int64)

    x, y = draw("x", -1, 1, objects), draw("y", -1, 1, objects)
    # The others stand in corners, each in its own and none in the one towards which the main object leans.
    near = (np.arange(4) % 2 == (x[:, :1] > 0)) & (np.arange(4) // 2 == (y[:, :1] > 0))
    corner = np.argsort(draw("corner", slots=4) + near, axis=1)[:, : objects - 1]
    x = np.concatenate([0.5 + 0.15 * x[:, :1], np.where(corner % 2 == 0, 0.12, 0.88) + 0.03 * x[:, 1:]], 1)
    y = np.concatenate([0.5 + 0.15 * y[:, :1], np.where(corner < 2, 0.12, 0.88) + 0.03 * y[:, 1:]], 1)
    radius = np.concatenate([draw("scale", *MAIN_RADIUS)[:, None], draw("small scale", *OTHER_RADIUS, objects - 1)], 1)

    family = _FAMILIES[_FAMILY_OF_TEXTURE[texture]] + draw("hue in family", -0.5, 0.5, objects) * _FAMILY_WIDTH
    hue = np.where(draw("tied", slots=objects) < TIED, family, draw("free hue", slots=objects)) % 1.0
    background_hue = np.stack(
        [_FAMILIES[1] + draw("sky hue", -0.15, 0.15), _FAMILIES[0] + draw("ground hue", -0.1, 0.25)], 1
    )
    background_hue = (
        np.where(draw("background tied", slots=2) < _BACKGROUND_TIED, background_hue, draw("background hue", slots=2))
        % 1.0
    )
    return Scenes(
        count=count,
        shape=shape,
        texture=texture,
        x=x,
        y=y,
        radius=radius,
        orientation=draw("orientation", -MAX_TILT, MAX_TILT, objects),
        hue=hue,
        saturation=draw("saturation", 0.25, 0.55, objects),
        lightness=draw("lightness", 0.42, 0.68, objects),
        contrast=draw("contrast", 0.3, 0.5, objects) * np.where(draw("polarity", slots=objects) < 0.5, -1, 1),
        frequency=draw("frequency", 1.8, 2.4, objects),
        phase=draw("phase", slots=2 * objects).reshape(n, objects, 2),
        duty=draw("duty", -0.25, 0.25, objects),
        background=np.floor(draw("background", 0, len(BACKGROUNDS))).astype(np.int64),
        background_hue=background_hue,
        background_saturation=draw("background saturation", 0.0, 0.12, 2),
        background_lightness=draw("background lightness", 0.4, 0.7),
        drop=draw("drop", -0.05, 0.2),
        horizon=draw("horizon", 0.35, 0.75),
        slope=draw("slope", -0.25, 0.25),
        waves=draw("waves", slots=9).reshape(n, 3, 3),
        wave_strength=draw("wave strength", 0.01, 0.05),
        light=np.deg2rad(draw("light", -35, 35)),
        shading=draw("shading", 0.0, 0.25),
        shadow=draw("shadow", 0.0, 0.35),
        exposure=draw("exposure", 0.8, 1.15),
        falloff=draw("falloff", 0.0, 0.35),
        falloff_angle=draw("falloff angle", 0, 2 * np.pi),
        noise=draw("noise", 0.0, 0.03),
        noise_key=_random_bits(split, "noise", index),
    )


def _balanced(split: str, index: np.ndarray) -> np.ndarray:
    """Classes int64 [N]: each once in every block of len(CLASSES) consecutive images, in an order of its own."""
    block, place = np.divmod(index, len(CLASSES))
    members = block[:, None] * len(CLASSES) + np.arange(len(CLASSES))
    order = np.argsort(_uniform(split, "balanced class", members.ravel()).reshape(members.shape), axis=1)
    return order[np.arange(len(index)), place]


def _random_bits(split: str, name: str, index: np.ndarray) -> np.ndarray:
    """64 random bits per image: uint64 [N].

    A counter-based generator, so that image i needs none of the images before it.
    """
    key = np.uint64(zlib.crc32(f"shapes {VERSION} {split} {name}".encode()))
    return _render.mix(index.astype(np.uint64) + _render.mix(key))


def _uniform(split: str, name: str, index: np.ndarray) -> np.ndarray:
    return (_random_bits(split, name, index) >> np.uint64(11)) * 2.0**-53
