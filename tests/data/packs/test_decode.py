"""Every kind of stored image becomes the right square RGB pixels, or is refused with a reason."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from ssl_bench.data.packs.decode import UnreadableImage, decode, in_parallel


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def smooth(width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]; what JPEG keeps nearly unchanged."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([255 * x, 255 * y, 255 * (1 - x)], -1).astype(np.uint8)


def test_an_image_of_the_right_size_keeps_every_level() -> None:
    pixels = noise(16, 16, 3)
    found, size = decode(stored(Image.fromarray(pixels)), 16)
    assert np.array_equal(found, pixels) and found.dtype == np.uint8 and size == (16, 16)


def test_grey_becomes_three_equal_channels() -> None:
    pixels = noise(16, 16)
    found, _ = decode(stored(Image.fromarray(pixels)), 16)
    assert np.array_equal(found, np.repeat(pixels[..., None], 3, -1))


def test_one_bit_images_are_black_and_white() -> None:
    pixels = noise(16, 16) > 127
    found, _ = decode(stored(Image.fromarray(pixels)), 16)
    assert np.array_equal(found[..., 0], pixels * 255)


def test_sixteen_bit_levels_are_scaled_not_clipped() -> None:
    levels = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        found, _ = decode(stored(Image.fromarray(levels), kind), 16)
        assert np.array_equal(found[..., 1].ravel(), np.arange(256)), kind


def test_sixteen_bit_colour_is_scaled() -> None:
    import struct
    import zlib

    def chunk(tag: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + tag + content + struct.pack(">I", zlib.crc32(tag + content))

    levels = np.array([[[65535, 32896, 0]] * 4] * 4, ">u2")  # PIL cannot write such a file
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert decode(content, 4)[0][0, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_range_are_refused(mode: str) -> None:
    image = Image.fromarray(noise(8, 8)).convert(mode)
    with pytest.raises(UnreadableImage, match="8 or 16 bits"):
        decode(stored(image, "TIFF"), 8)


def test_cmyk_jpeg_has_the_colours_a_viewer_shows() -> None:
    colours = {"cyan": (255, 0, 0, 0), "yellow": (0, 0, 255, 0), "black": (0, 0, 0, 255), "paper": (0, 0, 0, 0)}
    expected = {"cyan": (0, 255, 255), "yellow": (255, 255, 0), "black": (0, 0, 0), "paper": (255, 255, 255)}
    for name, ink in colours.items():
        found, _ = decode(stored(Image.new("CMYK", (16, 16), ink), "JPEG", quality=95), 16)
        assert np.abs(found.reshape(-1, 3).mean(0) - expected[name]).max() < 6, name


def test_a_palette_gives_its_colours_and_its_transparency_is_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 200, 30, 250, 0, 0] + [0] * 762)
    image.paste(1, (0, 0, 4, 8))
    plain, _ = decode(stored(image), 8)
    assert plain[0, 7].tolist() == [10, 200, 30] and plain[0, 0].tolist() == [250, 0, 0]
    clear, _ = decode(stored(image, transparency=1), 8)
    assert clear[0, 7].tolist() == [10, 200, 30] and clear[0, 0].tolist() == [255, 255, 255]


@given(colour=st.tuples(*[st.integers(0, 255)] * 4))
@settings(max_examples=30)
def test_alpha_is_laid_over_white(colour: tuple[int, int, int, int]) -> None:
    alpha = colour[3] / 255
    found, _ = decode(stored(Image.new("RGBA", (4, 4), colour)), 4)
    assert np.abs(found[0, 0] - (np.array(colour[:3]) * alpha + 255 * (1 - alpha))).max() <= 1
    grey, _ = decode(stored(Image.new("LA", (4, 4), (colour[0], colour[3]))), 4)
    assert np.abs(grey[0, 0] - (colour[0] * alpha + 255 * (1 - alpha))).max() <= 1


def test_a_transparent_colour_of_an_rgb_image_is_white() -> None:
    image = Image.new("RGB", (4, 4), (9, 8, 7))
    image.putpixel((0, 0), (1, 2, 3))
    found, _ = decode(stored(image, transparency=(9, 8, 7)), 4)
    assert found[0, 0].tolist() == [1, 2, 3] and found[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    upright = Image.fromarray(smooth(64, 32))
    # what a camera held that way stores: FLIP_LEFT_RIGHT, ROTATE_180, ...
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    turned = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    found, size = decode(stored(turned, kind, exif=exif, **options), 32)
    assert size == (64, 32)
    assert np.abs(found.astype(int) - smooth(64, 32)[:, 16:48]).max() <= 4


def test_damaged_exif_does_not_cost_the_image() -> None:
    content = stored(Image.fromarray(smooth(16, 16)), "JPEG", exif=b"Exif\0\0MM\0*garbage")
    assert decode(content, 16)[0].shape == (16, 16, 3)


@pytest.mark.parametrize(("width", "height"), [(96, 32), (32, 96), (33, 32), (50, 37)])
def test_crop_keeps_the_centre_of_the_long_side(width: int, height: int) -> None:
    side = min(width, height)
    pixels = np.zeros((height, width, 3), np.uint8)
    left, top = (width - side) // 2, (height - side) // 2
    pixels[top : top + side, left : left + side] = 200
    found, _ = decode(stored(Image.fromarray(pixels)), side)
    assert (found == 200).all()


def test_pad_keeps_everything_and_fills_with_black() -> None:
    found, _ = decode(stored(Image.new("RGB", (64, 32), (200, 200, 200))), 32, "pad")
    assert (found[8:24] == 200).all() and (found[:8] == 0).all() and (found[24:] == 0).all()


def test_squash_keeps_everything_and_loses_the_aspect() -> None:
    found, _ = decode(stored(Image.fromarray(smooth(64, 32))), 32, "squash")
    assert np.abs(found.astype(int) - smooth(32, 32)).max() <= 6


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_shrinking_is_antialiased(kind: str, fit: Any) -> None:
    # a chessboard of single pixels
    fine = np.repeat((np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, -1)
    options = {"quality": 100} if kind == "JPEG" else {}
    found, _ = decode(stored(Image.fromarray(fine), kind, **options), 32, fit)
    assert np.abs(found.astype(int) - 127).max() <= 3


def test_shrinking_in_the_jpeg_decoder_changes_little() -> None:
    photo = np.asarray(Image.fromarray(noise(24, 32, 3, seed=3)).resize((1600, 1200), Image.Resampling.BICUBIC))
    content = stored(Image.fromarray(photo), "JPEG", quality=95)
    exact = np.asarray(
        Image.open(io.BytesIO(content))
        .convert("RGB")
        .resize((96, 96), Image.Resampling.BICUBIC, box=(200, 0, 1400, 1200))
    )
    found, size = decode(content, 96)
    assert size == (1600, 1200)
    assert np.abs(found.astype(int) - exact).mean() < 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_truncated_and_empty_files_are_unreadable(kind: str) -> None:
    content = stored(Image.fromarray(noise(64, 64, 3)), kind)
    for cut in (0, 5, len(content) // 2):
        with pytest.raises(UnreadableImage):
            decode(content[:cut], 64)


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_garbage_is_unreadable_and_nothing_else(content: bytes) -> None:
    with pytest.raises(UnreadableImage):
        decode(content, 8)


def test_a_missing_file_is_the_disks_fault_not_the_images(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "none.png", 8)


def test_arrays_images_and_functions_are_taken_too() -> None:
    pixels = noise(8, 8, 3)
    for item in (
        pixels,
        Image.fromarray(pixels),
        lambda: Image.fromarray(pixels),
        lambda: stored(Image.fromarray(pixels)),
    ):
        assert np.array_equal(decode(item, 8)[0], pixels)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_threads_and_the_library_are_left_as_they_were_when_the_consumer_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    before = threading.active_count()
    kept: list[BaseException] = []  # as a traceback that somebody holds
    try:
        with in_parallel(abs, ((number,) for number in range(-100, 0)), ahead=4) as results:
            assert next(results) == 100 and not ImageFile.LOAD_TRUNCATED_IMAGES
            raise KeyError("consumer")
    except KeyError as error:
        kept.append(error)
    assert ImageFile.LOAD_TRUNCATED_IMAGES and threading.active_count() == before
