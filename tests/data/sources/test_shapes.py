"""The embedded set is a function of its seed, says the truth about its factors, and gives no class away by colour."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import rgb2hsv
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_bench.data.sources import _shapes_render, shapes
from ssl_bench.data.sources._shapes_render import BACKGROUNDS, SHAPES, TEXTURES, Scenes
from ssl_bench.data.sources.shapes import CLASSES, MAX_OBJECTS, RenderedShapes, render
from ssl_bench.errors import DataError

WHOLE = 150  # more than two chunks at 48 px, and not a multiple of the classes


@pytest.fixture(scope="module")
def whole() -> RenderedShapes:
    return render("train", 48, WHOLE)


@pytest.fixture(scope="module")
def train() -> RenderedShapes:
    return render("train", 32, 4800)


@pytest.fixture(scope="module")
def held_out() -> RenderedShapes:
    return render("test", 32, 2400)


def plain(images: int, **changes: np.ndarray) -> Scenes:
    """Scenes without shadows, noise or uneven light, so that only the thing under test changes pixels."""
    scenes = shapes.compose("train", np.arange(images))
    nothing = np.zeros(images)
    return replace(scenes, **{"shadow": nothing, "noise": nothing, "falloff": nothing, **changes})


def assert_same(one: RenderedShapes, two: RenderedShapes) -> None:
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.classes == two.classes and list(one.columns) == list(two.columns)
    for name in one.columns:
        np.testing.assert_array_equal(one.columns[name], two.columns[name], err_msg=name)


def test_layout(whole: RenderedShapes) -> None:
    assert whole.images.dtype == np.uint8 and whole.images.shape == (WHOLE, 48, 48, 3)
    assert whole.labels.dtype == np.int64 and whole.labels.shape == (WHOLE,)
    assert whole.classes == CLASSES and len(set(CLASSES)) == len(SHAPES) * len(TEXTURES)
    assert all(len(column) == WHOLE for column in whole.columns.values())
    assert whole.columns["boxes"].shape == (WHOLE, MAX_OBJECTS, 4) and whole.columns["box_labels"].shape == (
        WHOLE,
        MAX_OBJECTS,
    )
    for image, shape, texture in zip(whole.labels, whole.columns["shape"], whole.columns["texture"], strict=True):
        assert CLASSES[image] == f"{TEXTURES[texture]} {SHAPES[shape]}"


@settings(max_examples=6)
@given(count=st.integers(1, WHOLE))
def test_an_image_depends_on_split_index_and_size_alone(whole: RenderedShapes, count: int) -> None:
    cut = RenderedShapes(
        whole.images[:count], whole.labels[:count], whole.classes, {k: v[:count] for k, v in whole.columns.items()}
    )
    assert_same(render("train", 48, count), cut)


def test_chunks_leave_no_trace(whole: RenderedShapes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_CHUNK_PIXELS", 7 * 48 * 48)
    assert_same(render("train", 48, WHOLE), whole)


def test_default_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "DEFAULT_TRAIN", 5)
    monkeypatch.setattr(shapes, "DEFAULT_TEST", 3)
    assert len(render("train", 32).images) == 5 and len(render("test", 32).images) == 3


def test_no_image_comes_twice(train: RenderedShapes, held_out: RenderedShapes) -> None:
    seen = [image.tobytes() for image in np.concatenate([train.images, held_out.images])]
    assert len(set(seen)) == len(seen)
    for name in ("x", "y", "hue", "scale", "orientation"):  # nor does a scene
        assert not np.intersect1d(train.columns[name].round(9), held_out.columns[name].round(9)).size, name
        together = np.corrcoef(train.columns[name][:2400], held_out.columns[name])[0, 1]
        assert abs(together) < 0.08, f"{name} of the splits goes together: {together}"  # four standard errors


def test_factors_stay_in_range_and_fill_it(train: RenderedShapes) -> None:
    tilt = (-shapes.MAX_TILT, shapes.MAX_TILT)
    ranges = {"hue": (0, 1), "scale": shapes.MAIN_RADIUS, "x": (0.35, 0.65), "y": (0.35, 0.65), "orientation": tilt}
    for name, (low, high) in ranges.items():
        column = train.columns[name]
        assert low <= column.min() and column.max() <= high, name
        assert column.min() < low + 0.02 * (high - low) and column.max() > high - 0.02 * (high - low), name
    for name, kinds in {"shape": len(SHAPES), "texture": len(TEXTURES), "background": len(BACKGROUNDS)}.items():
        share = np.bincount(train.columns[name], minlength=kinds) / len(train.labels)
        assert np.abs(share - 1 / kinds).max() < 0.03, name
    assert np.abs(np.bincount(train.columns["count"], minlength=4)[1:] / len(train.labels) - 1 / 3).max() < 0.03


def test_nuisance_says_nothing_about_the_class(train: RenderedShapes) -> None:
    for name in ("x", "y", "scale", "orientation", "background", "count"):
        column = train.columns[name].astype(float)
        means = np.array([column[train.labels == label].mean() for label in range(len(CLASSES))])
        assert np.abs(means - column.mean()).max() < 4.5 * column.std() / np.sqrt(len(column) / len(CLASSES)), name


@settings(max_examples=10)
@given(start=st.integers(0, 10_000), count=st.integers(1, 500))
def test_classes_are_balanced_in_every_prefix(start: int, count: int) -> None:
    labels = shapes._balanced("train", np.arange(count))
    counts = np.bincount(labels, minlength=len(CLASSES))
    assert counts.max() - counts.min() <= 1
    first = start // len(CLASSES) * len(CLASSES)
    block = shapes._balanced("test", np.arange(first, first + len(CLASSES)))
    assert sorted(block) == list(range(len(CLASSES)))


def test_the_order_of_classes_is_not_periodic() -> None:
    labels = shapes._balanced("train", np.arange(240)).reshape(-1, len(CLASSES))
    assert len(np.unique(labels, axis=0)) == len(labels)


@pytest.mark.parametrize("size", [32, 57])
@pytest.mark.parametrize("slot", range(MAX_OBJECTS))
def test_a_box_holds_exactly_what_its_object_changes(slot: int, size: int) -> None:
    count = 60
    without, _ = _shapes_render.draw_scenes(plain(count, count=np.full(count, slot)), size)
    with_it, boxes = _shapes_render.draw_scenes(plain(count, count=np.full(count, slot + 1)), size)
    changed = (without != with_it).any(-1)
    assert np.isnan(boxes[:, slot + 1 :]).all() and not np.isnan(boxes[:, : slot + 1]).any()
    for mask, (left, top, right, bottom) in zip(changed, boxes[:, slot], strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert left <= columns[0] and columns[-1] < right and top <= rows[0] and rows[-1] < bottom
        # A pixel barely touched may round to what it was before, hence one pixel of play.
        assert (
            columns[0] - left <= 1
            and right - 1 - columns[-1] <= 1
            and rows[0] - top <= 1
            and bottom - 1 - rows[-1] <= 1
        )


def test_empty_places_are_marked(train: RenderedShapes) -> None:
    present = np.arange(MAX_OBJECTS) < train.columns["count"][:, None]
    np.testing.assert_array_equal(train.columns["box_labels"] >= 0, present)
    np.testing.assert_array_equal(~np.isnan(train.columns["boxes"]).any(-1), present)
    np.testing.assert_array_equal(train.columns["box_labels"][:, 0], train.labels)
    assert set(np.unique(train.columns["box_labels"])) == {-1, *range(len(CLASSES))}


def test_the_main_object_is_the_largest_and_none_is_hidden(train: RenderedShapes) -> None:
    assert shapes.MAIN_RADIUS[0] > 2 * shapes.OTHER_RADIUS[1]
    boxes = train.columns["boxes"] / 32
    sides = boxes[..., 2:] - boxes[..., :2]
    areas = np.nan_to_num(sides.prod(-1))
    assert (areas[:, :1] > 2 * areas[:, 1:]).all()
    assert np.nanmin(boxes) >= 0 and np.nanmax(boxes) <= 1
    assert np.nanmin(sides) > 1.3 * shapes.OTHER_RADIUS[0], "an object is mostly hidden or outside"
    others = boxes[:, 1:]
    overlap = np.minimum(others[:, 0, 2:], others[:, 1, 2:]) - np.maximum(others[:, 0, :2], others[:, 1, :2])
    assert not (overlap > 0).all(-1).any(), "small objects cover each other"


def histograms(images: np.ndarray) -> np.ndarray:
    """Hue x saturation (16 x 4) and value (16) of each image, as shares: [N, 80]."""
    hue, saturation, value = np.moveaxis(rgb2hsv(images), -1, 0).reshape(3, len(images), -1)
    coloured = np.minimum(16 * hue, 15).astype(int) * 4 + np.minimum(4 * saturation, 3).astype(int)
    joint = [np.bincount(row, minlength=64) for row in coloured]
    light = [np.bincount(row, minlength=16) for row in np.minimum(16 * value, 15).astype(int)]
    return np.concatenate([joint, light], 1) / hue.shape[1]


def test_colour_does_not_give_the_class_away(train: RenderedShapes, held_out: RenderedShapes) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=100))
    model.fit(histograms(train.images[:3600]), train.labels[:3600])
    accuracy = model.score(histograms(held_out.images[:1200]), held_out.labels[:1200])
    # A narrow ResNet reaches 0.72 after 20,000 labelled images; the histogram must stay well below half of that. Chance
    # is 0.083.
    assert accuracy < 0.26


def test_texture_tells_hue_but_hue_leaves_half_of_the_textures(train: RenderedShapes) -> None:
    hue, texture = train.columns["hue"], train.columns["texture"]
    family = shapes._FAMILIES[shapes._FAMILY_OF_TEXTURE]
    apart = np.abs((hue[:, None] - family + 0.5) % 1 - 0.5) <= shapes._FAMILY_WIDTH / 2 + 1e-9  # [N, textures]
    own = apart[np.arange(len(hue)), texture].mean()
    assert abs(own - (shapes.TIED + (1 - shapes.TIED) * shapes._FAMILY_WIDTH)) < 0.02
    assert (np.bincount(shapes._FAMILY_OF_TEXTURE) >= 2).all()


def test_the_hue_column_is_the_hue_of_the_object() -> None:
    count, size = 40, 64
    # dim: a clipped channel would turn the hue
    scenes = plain(count, count=np.ones(count, np.int64), exposure=np.full(count, 0.6))
    images, _ = _shapes_render.draw_scenes(scenes, size)
    inside, _, _ = _shapes_render._object(scenes, 0, ((np.arange(size) + 0.5) / size).astype(np.float32))
    for image, cover, hue in zip(images, inside, scenes.hue[:, 0], strict=True):
        seen = rgb2hsv(image)[..., 0][cover == 1]
        assert abs((np.median(seen) - hue + 0.5) % 1 - 0.5) < 0.02


def test_light_comes_from_above() -> None:
    count, size = 400, 32
    scenes = plain(count, contrast=np.zeros((count, MAX_OBJECTS)))  # no pattern: what is left is shading
    grid = ((np.arange(size) + 0.5) / size).astype(np.float32)
    cover, paint, shadow = _shapes_render._object(replace(scenes, shadow=np.ones(count)), 0, grid)
    light = paint.mean(1)
    down, right = grid[None, :, None] - scenes.y[:, :1, None], grid[None, None, :] - scenes.x[:, :1, None]

    def half(sign: np.ndarray) -> np.ndarray:
        return (light * cover * (sign > 0)).sum((1, 2)) / (cover * (sign > 0)).sum((1, 2))

    vertical, horizontal = half(-down) - half(down), half(right) - half(-right)
    assert (vertical > 0).mean() > 0.95
    assert abs(horizontal.mean()) < 0.3 * vertical.mean()  # from either side alike
    assert ((shadow * down).sum((1, 2)) > 0).mean() > 0.95


def test_sky_is_brighter_than_ground_on_average_only() -> None:
    count = 600
    images, _ = _shapes_render.draw_scenes(
        replace(shapes.compose("train", np.arange(count)), count=np.zeros(count, np.int64)), 32
    )
    light = images.mean(-1)
    fall = light[:, :8].mean((1, 2)) - light[:, -8:].mean((1, 2))
    assert fall.mean() > 5 * fall.std() / np.sqrt(count)
    assert 0.55 < (fall > 0).mean() < 0.85, "brightness alone must not tell up from down"


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_shapes_are_upright_and_turn_clockwise(shape: int) -> None:
    one = np.ones((1, MAX_OBJECTS))
    scenes = plain(
        1, shape=(shape * one).astype(np.int64), x=0.5 * one, y=0.5 * one, radius=0.4 * one, orientation=0 * one
    )
    grid = ((np.arange(128) + 0.5) / 128).astype(np.float32)
    upright = _shapes_render._object(scenes, 0, grid)[0][0]
    np.testing.assert_allclose(upright, upright[:, ::-1], atol=1e-4)
    assert np.abs(upright - upright[::-1]).mean() > 0.05, "upside down must look different"
    assert 0.15 < upright.mean() < 0.4 and ndimage.label(upright > 0.5)[1] == 1
    assert ndimage.binary_fill_holes(upright > 0.5).sum() == (upright > 0.5).sum()
    turned = _shapes_render._object(replace(scenes, orientation=30 * one), 0, grid)[0][0]
    expected = ndimage.rotate(upright, -30, reshape=False, order=1)  # scipy turns counter-clockwise
    assert np.abs(turned - expected).mean() < 0.01
    assert np.abs(turned - expected[:, ::-1]).mean() > 0.03


def test_every_size_shows_the_same_scene_without_aliasing() -> None:
    scenes = plain(24)
    small = _shapes_render.draw_scenes(scenes, 48)[0].astype(float)
    large = _shapes_render.draw_scenes(scenes, 192)[0].astype(float)
    averaged = large.reshape(24, 48, 4, 48, 4, 3).mean((2, 4))
    assert np.abs(small - averaged).mean() < 3  # of 255
    assert np.corrcoef(small.ravel(), averaged.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", 31), "size must be at least 32, got 31"),
        (("trian", 48), "did you mean 'train'"),
        (("test", 48, 0), "count must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        render(*arguments)
