"""Image files that lose something or leave a choice on their way to 8-bit RGB:
told with numbers, and kept on request."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_bench.data import Data, load
from ssl_bench.data.packs.decode import UnreadableImage, decode, open_image, upright_size
from ssl_bench.data.packs.facts import Facts
from ssl_bench.data.packs.levels import rescaled
from ssl_bench.errors import DataError, SpecError
from ssl_bench.spec.data import DataSpec
from ssl_bench.spec.model import parse

COUNT = 24  # images of each of two classes


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png16(levels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel; uint16 [H, W, 2, 3 or 4]. PIL cannot write one."""

    def chunk(tag: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + tag + content + struct.pack(">I", zlib.crc32(tag + content))

    height, width, channels = levels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in levels.astype(">u2"))
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def levels(number: int, low: int = 200, high: int = 700, shape: tuple[int, ...] = (8, 8)) -> np.ndarray:
    found = np.random.default_rng(number).integers(low, high + 1, shape).astype(np.uint16)
    found.flat[:2] = low, high
    return found


@pytest.fixture
def get(tmp_path: Path) -> Callable[..., Data]:
    """Loads a set whose ``number``-th file has the content that ``make`` gives."""

    def get(make: Callable[[int], bytes], suffix: str = "png", **more: Any) -> Data:
        root = tmp_path / "scans"
        for number in range(2 * COUNT):
            file = root / "ab"[number % 2] / f"{number}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(make(number))
        return load(
            parse(DataSpec, {"source": f"folder:{root}", "test": 0.25, "size": 8, **more}, "data"),
            cache=tmp_path / "cache",
        )

    return get


def pixels(data: Data) -> np.ndarray:
    return data.pretrain.pixels[data.pretrain.rows]


def note_on(data: Data, word: str) -> str:
    (note,) = [note for note in data.notes if word in note]
    return note


# ---- levels
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_which_few_are_used_are_told_and_scaled_on_request(get: Any, kind: str) -> None:
    def make(number: int) -> bytes:
        return file_of(Image.fromarray(levels(number)), kind)

    data = get(make)
    assert len(np.unique(pixels(data))) <= 3, "what happens without the setting"
    note = note_on(data, "16 bits")
    assert (
        "48 images have 16 bits a channel and use levels 200 to 700 of 0 to 65,535, 3 of 256 levels" in note
        and "`range: set`" in note
    )
    assert note_on(get(make), "16 bits") == note, "told again when the pack is only opened"
    scaled = get(make, range="set")
    expected = {np.rint((levels(number) - 200.0) / 500 * 255).astype(np.uint8).tobytes() for number in range(2 * COUNT)}
    assert {image[..., 0].tobytes() for image in pixels(scaled)} <= expected and len(np.unique(pixels(scaled))) > 200
    assert "levels 200 to 700, those of its 48 training images" in note_on(scaled, "scaled to 0 to 255")
    assert scaled.pretrain.fingerprint != data.pretrain.fingerprint
    assert get(make, range="set").pretrain.fingerprint == scaled.pretrain.fingerprint


def test_a_full_range_is_told_without_advice_and_eight_bits_are_not_touched(get: Any) -> None:
    note = note_on(get(lambda number: file_of(Image.fromarray(levels(number, 0, 65_535)))), "16 bits")
    assert "levels 0 to 65,535" in note and "range: set" not in note
    plain = [file_of(Image.fromarray(levels(number, 10, 60).astype(np.uint8))) for number in range(2 * COUNT)]
    data, scaled = get(plain.__getitem__), get(plain.__getitem__, range="set")
    assert scaled.pretrain.fingerprint == data.pretrain.fingerprint and "changes nothing" in note_on(
        scaled, "range: set"
    )
    assert not any("bits" in note for note in data.notes)
    mixed = get(lambda number: file_of(Image.fromarray(levels(number))) if number < 9 else plain[number], range="set")
    assert {decode(content, 8)[0].tobytes() for content in plain[9:]} & {image.tobytes() for image in pixels(mixed)}


def test_colours_of_sixteen_bits_and_their_alpha(get: Any) -> None:
    def make(number: int) -> bytes:
        return png16(levels(number, shape=(8, 8, 3)))

    assert "48 images have 16 bits a channel and use levels 0 to 514" in note_on(get(make), "16 bits"), (
        "what PIL leaves of them"
    )
    scaled = get(make, range="set")
    expected = {
        np.rint((levels(number, shape=(8, 8, 3)) - 200.0) / 500 * 255).astype(np.uint8).tobytes()
        for number in range(2 * COUNT)
    }
    assert {image.tobytes() for image in pixels(scaled)} <= expected
    clear = levels(0, shape=(8, 8, 4))
    clear[..., 3] = 0
    assert (decode(lambda: rescaled(png16(clear), 200, 700), 8)[0] == 255).all()
    grey = np.stack([levels(0), np.full((8, 8), 65_535, np.uint16)], -1)
    found, _ = decode(lambda: rescaled(png16(grey), 0, 65_535), 8)
    assert np.abs(found[..., 1].astype(int) - levels(0) / 257).max() <= 1, (
        "of grey with alpha the upper 8 bits are what there is"
    )


@pytest.mark.parametrize("order", "<>")
def test_colours_of_sixteen_bits_in_a_tiff(order: str) -> None:
    colours = levels(0, shape=(8, 8, 3))
    tags = [
        (256, 3, 8),
        (257, 3, 8),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 2),
        (273, 4, 200),
        (277, 3, 3),
        (278, 3, 8),
        (279, 4, 8 * 8 * 6),
    ]
    content = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(tags))
    for tag, kind, value in tags:
        if tag == 258:  # three values do not fit into the entry
            content += struct.pack(order + "HHII", tag, kind, 3, 180)
        else:
            content += struct.pack(order + "HHI", tag, kind, 1) + struct.pack(
                order + ("HH" if kind == 3 else "I"), *((value, 0) if kind == 3 else (value,))
            )
    content = (content + bytes(4)).ljust(180, b"\0") + struct.pack(order + "HHH", 16, 16, 16)
    content = content.ljust(200, b"\0") + colours.astype(order + "u2").tobytes()
    found, _ = decode(lambda: rescaled(content, 200, 700), 8)
    assert np.array_equal(found, np.rint((colours - 200.0) / 500 * 255))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_32_bits_are_refused_with_the_setting_that_reads_them(get: Any, kind: Any) -> None:
    def make(number: int) -> bytes:
        found = levels(number).astype(kind)
        if kind is np.float32:
            found = found / 1000 - 0.5
            found[3, 3], found[4, 4] = np.nan, np.inf
        return file_of(Image.fromarray(found), "TIFF")

    with pytest.raises(DataError, match="no known range; set `range: set`"):
        get(make, "tif")
    data = get(make, "tif", range="set")
    assert len(np.unique(pixels(data))) > 200 and "training images of more than 8 bits" in note_on(
        data, "scaled to 0 to 255"
    )


def test_the_setting_is_one_of_two() -> None:
    assert parse(DataSpec, {"source": "shapes", "range": "set"}, "data").range == "set"
    with pytest.raises(SpecError, match="range"):
        parse(DataSpec, {"source": "shapes", "range": "auto"}, "data")


# ---- frames, transparency, inks
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "suffix"), [("GIF", "gif"), ("TIFF", "tif"), ("WEBP", "webp"), ("PNG", "png")])
def test_of_several_frames_the_first_is_used_and_it_is_told(get: Any, kind: str, suffix: str) -> None:
    def make(number: int) -> bytes:
        shades = [
            Image.new("RGB", (8, 8), (10 + number, 20, 30)),
            Image.new("RGB", (8, 8), (200, 200, 200)),
            Image.new("RGB", (8, 8), (0, 0, 0)),
        ]
        several = {"save_all": True, "append_images": shades[1:]} if number < 7 else {}
        return file_of(shades[0], kind, **several, **({"lossless": True} if kind == "WEBP" else {}))

    data = get(make, suffix)
    assert "7 images have several frames or pages; the first is used" in note_on(data, "frames")
    assert pixels(data).max() < 100


def test_transparency_and_inks_are_counted_where_they_lose_something(get: Any) -> None:
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 200, 30, 250, 0, 0] + [0] * 762)
    palette.paste(1, (0, 0, 4, 8))
    contents = [
        file_of(Image.new("RGBA", (8, 8), (9, 9, 9, 255))),
        file_of(Image.new("RGBA", (8, 8), (9, 9, 9, 200))),
        file_of(palette, transparency=1),
        file_of(Image.new("LA", (8, 8), (9, 0))),
        file_of(Image.new("CMYK", (8, 8), (9, 0, 0, 0)), "JPEG"),
    ]
    data = get(lambda number: contents[number % 5])
    count = [sum(number % 5 == kind for number in range(2 * COUNT)) for kind in range(5)]
    assert f"{sum(count[1:4])} images are partly transparent; they are laid over white" in note_on(data, "transparent")
    assert f"{count[4]} images are in CMYK" in note_on(data, "CMYK")


def test_facts_of_parts_add_up_and_are_read_from_what_was_stored() -> None:
    one, other = Facts(frames=1, deep=2, low=5, high=9), Facts(transparent=3)
    one.add(other)
    assert one == Facts(frames=1, transparent=3, deep=2, low=5, high=9)
    assert (
        Facts.read(None) == Facts.read({"frames": "x"}) == Facts() and Facts.read({"frames": 2, "later": 1}).frames == 2
    )
    assert Facts().told("x") == []


# ---- orientation
# -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_tiff_is_turned_once_and_its_size_is_that_of_the_upright_image(turn: int) -> None:
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:4, :, 0], upright[:, :4, 1] = 200, 250
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    image = Image.fromarray(upright)
    turned = image.transpose(Image.Transpose(back[turn])) if turn > 1 else image
    for options in ({}, {"compression": "tiff_lzw"}):
        content = file_of(turned, "TIFF", tiffinfo={274: turn}, **options)
        found, size = decode(content, 8)
        assert size == (16, 8) and upright_size(open_image(content)) == (16, 8)
        assert np.array_equal(found, upright[:, 4:12])
    deep = file_of(Image.fromarray(np.asarray(turned)[..., 0].astype(np.uint16)), "TIFF", tiffinfo={274: turn})
    found, size = decode(lambda: rescaled(deep, 0, 200), 8)
    assert size == (16, 8) and np.array_equal(found[..., 0], np.where(upright[:, 4:12, 0] > 0, 255, 0))


def test_images_that_only_orientation_makes_alike_have_one_size(get: Any, tmp_path: Path) -> None:
    wide, high = Image.new("RGB", (16, 8), (9, 90, 200)), Image.new("RGB", (8, 16), (90, 9, 200))
    with pytest.raises(DataError, match="are 16x8, not square"):
        get(
            lambda number: file_of(high, "TIFF", tiffinfo={274: 6}) if number % 2 else file_of(wide, "TIFF"),
            "tif",
            size=None,
        )


@pytest.mark.parametrize("most", [65_535, 1_023])
def test_a_pgm_of_16_bits_has_the_range_that_its_header_names(most: int) -> None:
    levels = np.linspace(0, most, 64).astype(">u2").reshape(8, 8)
    pixels, _ = decode(b"P5 8 8 %d\n" % most + levels.tobytes(), 8)
    assert np.abs(pixels[..., 0] - levels.astype(float) * 255 / most).max() <= 1


# ---- damage
# ----------------------------------------------------------------------------------------------------------------------


def test_a_png_whose_checksums_are_wrong_is_not_read_as_another_image() -> None:
    """PIL does not look at them: most flipped bits gave other pixels, and the rest of the image black."""
    whole = file_of(Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)))
    pixels, _ = decode(whole, 32)
    for at in range(16, len(whole) - 12, 97):
        with pytest.raises(
            UnreadableImage,
            match="the checksum of its I(HDR|DAT) part is wrong|trunc|broken|cannot identify|unknown format",
        ):
            decode(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :], 32)
    for harmless in (whole[:-12], whole + b"more"):  # all pixels are there
        assert np.array_equal(decode(harmless, 32)[0], pixels)


def test_a_pointer_of_git_lfs_is_named() -> None:
    with pytest.raises(UnreadableImage, match="Git LFS pointer in place of the image; `git lfs pull`"):
        decode(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", 8)
