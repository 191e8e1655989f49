"""From scenes to pixels: whole batches in NumPy, outlines by signed distance, so that edges are smooth at every
size."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

SHAPES = ("house", "mushroom", "heart")
TEXTURES = ("banded", "ribbed", "checked", "dotted")
BACKGROUNDS = ("haze", "hills", "dunes", "clouds")


@dataclass(frozen=True)
class Scenes:
    """Continuous descriptions of N images; lengths in image sides, y downwards.

    K is the number of object slots, the main object first.
    """

    count: np.ndarray  #: int64 [N], slots in use
    shape: np.ndarray  #: int64 [N, K]
    texture: np.ndarray  #: int64 [N, K]
    x: np.ndarray  #: [N, K]
    y: np.ndarray  #: [N, K]
    radius: np.ndarray  #: [N, K]
    orientation: np.ndarray  #: [N, K], degrees clockwise
    hue: np.ndarray  #: [N, K] in [0, 1)
    saturation: np.ndarray  #: [N, K]
    lightness: np.ndarray  #: [N, K]
    contrast: np.ndarray  #: [N, K], signed: the sign says whether the pattern is light on dark
    frequency: np.ndarray  #: [N, K], periods per radius
    phase: np.ndarray  #: [N, K, 2] in [0, 1)
    duty: np.ndarray  #: [N, K], offset of the pattern's threshold
    background: np.ndarray  #: int64 [N]
    background_hue: np.ndarray  #: [N, 2], sky and ground
    background_saturation: np.ndarray  #: [N, 2]
    background_lightness: np.ndarray  #: [N]
    drop: np.ndarray  #: [N], how much darker the ground is than the sky
    horizon: np.ndarray  #: [N], its height
    slope: np.ndarray  #: [N], of the horizon
    waves: np.ndarray  #: [N, 3, 3], direction, wavelength and phase, each in [0, 1)
    wave_strength: np.ndarray  #: [N]
    light: np.ndarray  #: [N], radians from straight above
    shading: np.ndarray  #: [N]
    shadow: np.ndarray  #: [N]
    exposure: np.ndarray  #: [N]
    falloff: np.ndarray  #: [N], loss of exposure across the image
    #: [N], where to, in radians; any direction, so that brightness alone does not tell up from down
    falloff_angle: np.ndarray
    noise: np.ndarray  #: [N]
    noise_key: np.ndarray  #: uint64 [N]

    def take(self, rows: slice | np.ndarray) -> Scenes:
        """Some of the scenes."""
        return Scenes(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def mix(x: np.ndarray | int) -> np.ndarray:
    """64 bits each to 64 well-mixed bits, uint64 [...] (a number counts as [1]): one step of SplitMix64 (Steele, Lea &
    Flood, 2014)."""
    z = np.atleast_1d(np.asarray(x, np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draw_scenes(scenes: Scenes, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, S, S, 3] and boxes float32 [N, K, 4] (x1 y1 x2 y2 in pixels, NaN for empty slots)."""
    n, slots = scenes.shape.shape
    grid = ((np.arange(size) + 0.5) / size).astype(np.float32)
    colour = _background(scenes, grid)
    cover = np.zeros((n, slots, size, size), np.float32)
    for slot in range(slots):  # back to front: the small ones are never hidden
        rows = np.flatnonzero(scenes.count > slot)
        if len(rows) == 0:
            continue
        alpha, paint, shadow = _object(scenes.take(rows), slot, grid)
        below = colour[rows]
        below *= (1 - shadow)[:, None]
        below += alpha[:, None] * (paint - below)
        colour[rows] = below
        cover[rows, slot] = alpha
    return _develop(scenes, colour, grid), _boxes(cover)


def _per_image(values: np.ndarray) -> np.ndarray:
    """[N] to float32 [N, 1, 1]."""
    return values.astype(np.float32)[:, None, None]


def _tint(hue: np.ndarray, saturation: np.ndarray) -> np.ndarray:
    """HSV hue and saturation [N] to RGB float32 [N, 3, 1, 1] of mean 1, so that lightness says nothing about hue."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    rgb = 1 - saturation[:, None] * np.clip(np.minimum(k, 4 - k), 0, 1)
    return (rgb / rgb.mean(1, keepdims=True)).astype(np.float32)[:, :, None, None]


def _background(s: Scenes, grid: np.ndarray) -> np.ndarray:
    """Sky above, ground below, and a pattern that runs through the whole image: float32 [N, 3, S, S]."""
    x, y = grid[None, None, :], grid[None, :, None]
    hills, dunes, clouds = (s.background == BACKGROUNDS.index(name) for name in ("hills", "dunes", "clouds"))
    pattern = np.zeros((len(s.count), len(grid), len(grid)), np.float32)
    for wave in range(s.waves.shape[1]):
        direction, length, phase = (s.waves[:, wave, i] for i in range(3))
        angle = np.where(dunes, np.pi / 2 + (direction - 0.5), 2 * np.pi * direction)  # dunes lie level
        pace = 2 * np.pi / (0.22 + 0.5 * length)
        pattern += np.sin(
            _per_image(np.cos(angle) * pace) * x + _per_image(np.sin(angle) * pace) * y + _per_image(2 * np.pi * phase)
        )
    height = y + _per_image(s.slope) * (x - 0.5) - _per_image(s.horizon)
    height += _per_image(0.05 * hills) * pattern
    t = np.clip(height / _per_image(np.where(hills, 0.08, 0.7)) + 0.5, 0, 1)  # 0 in the sky, 1 on the ground
    t = t * t * (3 - 2 * t)
    lightness = _per_image(s.background_lightness + s.drop / 2) - _per_image(s.drop) * t
    strength = s.wave_strength * (hills | dunes | clouds)
    lightness += pattern * (
        _per_image(np.where(clouds, strength, 0.3 * strength)) + _per_image(np.where(clouds, -0.7, 0.7) * strength) * t
    )
    sky, ground = (_tint(s.background_hue[:, i], s.background_saturation[:, i]) for i in range(2))
    return (sky + (ground - sky) * t[:, None]) * lightness[:, None]


def _object(s: Scenes, slot: int, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage [N, S, S], colour [N, 3, S, S] and the shadow's darkness [N, S, S] of the objects in one slot."""
    radius, pixels = s.radius[:, slot], s.radius[:, slot] * len(grid)
    dx = (grid[None, None, :] - _per_image(s.x[:, slot])) / _per_image(radius)
    dy = (grid[None, :, None] - _per_image(s.y[:, slot])) / _per_image(radius)
    turn = np.deg2rad(s.orientation[:, slot])
    u = _per_image(np.cos(turn)) * dx + _per_image(np.sin(turn)) * dy  # upright frame of the object, in radii
    v = _per_image(np.cos(turn)) * dy - _per_image(np.sin(turn)) * dx
    distance, texture = np.empty_like(u), np.empty_like(u)
    for index, outline in enumerate(_OUTLINES):
        rows = np.flatnonzero(s.shape[:, slot] == index)
        distance[rows] = outline(np.abs(u[rows]), v[rows])
    alpha = np.clip(0.5 - distance * _per_image(pixels), 0, 1)

    pace = 2 * np.pi * s.frequency[:, slot]
    a = _per_image(pace) * u + _per_image(2 * np.pi * s.phase[:, slot, 0])
    b = _per_image(pace) * v + _per_image(2 * np.pi * s.phase[:, slot, 1])
    for index in range(len(TEXTURES)):
        rows = np.flatnonzero(s.texture[:, slot] == index)
        texture[rows] = _texture(index, a[rows], b[rows])
    # Edges about one pixel wide; patterns of only a few pixels a period stay soft, or they would alias.
    sharpness = np.clip(2 * pixels / pace, 1.0, 8.0)
    texture = np.clip((texture - _per_image(s.duty[:, slot])) * _per_image(sharpness), -1, 1)

    light = _per_image(np.sin(s.light)) * dx - _per_image(np.cos(s.light)) * dy
    value = (
        _per_image(s.lightness[:, slot])
        * (1 + _per_image(s.contrast[:, slot]) * texture)
        * (1 + _per_image(s.shading) * light)
    )
    paint = _tint(s.hue[:, slot], s.saturation[:, slot]) * value[:, None]
    ex = (dx + _per_image(0.4 * np.sin(s.light))) / 0.85
    ey = (dy - 0.95) / 0.3
    shadow = _per_image(s.shadow) * np.exp(-(ex * ex + ey * ey))
    return alpha, paint, shadow


def _texture(index: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A pattern in [-1, 1] with zero near its median, from two phases in radians."""
    if TEXTURES[index] == "banded":
        return np.sin(b)
    if TEXTURES[index] == "ribbed":
        return np.sin(a)
    if TEXTURES[index] == "checked":
        return 1.4 * np.sin(a) * np.sin(b)
    return 0.8 * (np.sin(a) + np.sin(b)) - 0.5  # dotted


# Outlines: signed distances (negative inside) in radii, from |u| and v (downwards). Every shape mirrors left to right
# and none top to
# bottom, so upright can be told. Parts overlap by more than a pixel of the smallest object, so that no seam shows.


def _house(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    wall = np.maximum(np.maximum(u - 0.62, v - 0.85), -0.35 - v)
    roof = np.maximum(v + 0.1, 0.687 * u - 0.727 * (v + 0.95))
    return np.minimum(wall, roof)


def _mushroom(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    cap = np.maximum(np.sqrt(u * u + v * v) - 0.92, v - 0.05)
    stem = np.maximum(np.maximum(u - 0.3, v - 0.9), -0.6 - v)
    return np.minimum(cap, stem)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    lobe = np.sqrt((u - 0.45) ** 2 + (v + 0.35) ** 2) - 0.5
    # below the line from the tip that touches the lobe
    point = np.maximum(0.7614 * u + 0.6483 * (v - 0.95), -0.026 - v)
    middle = np.maximum(u - 0.45, np.abs(v + 0.05) - 0.35)
    return np.minimum(np.minimum(lobe, point), middle)


_OUTLINES = (_house, _mushroom, _heart)  # as in SHAPES


def _develop(s: Scenes, colour: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Uneven exposure and sensor noise: colours [N, 3, S, S] to uint8 [N, S, S, 3]."""
    n, channels, size, _ = colour.shape
    bits = mix(s.noise_key[:, None] + np.arange(size * size, dtype=np.uint64)).reshape(n, size, size)
    strength = _per_image(s.noise * 3**0.5 / 2**20)  # of 21 uniform bits around zero: standard deviation s.noise
    across, down = (_per_image(s.falloff * part(s.falloff_angle)) for part in (np.cos, np.sin))
    exposure = _per_image(s.exposure) * (1 + across * (grid[None, None, :] - 0.5) + down * (grid[None, :, None] - 0.5))
    image = np.empty((n, size, size, channels), np.uint8)
    for channel in range(channels):
        noise = ((bits >> np.uint64(21 * channel)) & np.uint64(0x1FFFFF)).astype(np.float32)
        noise -= 2**20
        value = colour[:, channel] * exposure + noise * strength
        image[..., channel] = np.clip(value, 0, 1) * 255 + 0.5
    return image


def _boxes(cover: np.ndarray) -> np.ndarray:
    """Tightest whole-pixel boxes around all pixels with any coverage [N, K, S, S]: float32 [N, K, 4]."""
    size = cover.shape[-1]
    across, down = cover.max(2) > 1e-3, cover.max(3) > 1e-3
    boxes = np.stack(
        [across.argmax(2), down.argmax(2), size - across[..., ::-1].argmax(2), size - down[..., ::-1].argmax(2)], -1
    )
    return np.where(across.max(2, keepdims=True), boxes, np.nan).astype(np.float32)
