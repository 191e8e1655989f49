"""Boxes lie where the annotation put them, pixels are those of the files, and whatever is wrong is named."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import voc_trees
from ssl_bench.data.boxes import ragged, voc
from ssl_bench.data.boxes.ragged import BoxedImage, RaggedPack, pack_ragged
from ssl_bench.data.boxes.voc import Fault, VOCImage, examine
from ssl_bench.data.places import Places
from ssl_bench.errors import DataError

CAT = ("cat", 3, 4, 10, 12, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "set"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def good(folder: Path, *names: str) -> list[VOCImage]:
    found = examine(folder, names)
    for one in found.values():
        assert isinstance(one, VOCImage), one
    return list(found.values())  # type: ignore[arg-type]


def pixels_of(pack: RaggedPack, images: list[VOCImage], size: int | None = None) -> list[np.ndarray]:
    found = []
    for start, image in zip(pack.offsets, images, strict=True):
        width, height = image.scaled(size)
        found.append(np.asarray(pack.pixels[start : start + width * height * 3]).reshape(height, width, 3))
    return found


def painted(width: int, height: int, corners: tuple[int, int, int, int]) -> Image.Image:
    """White where VOC's corners (from 1, inclusive) say that the object is, black elsewhere."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for y in range(1, height + 1):
        for x in range(1, width + 1):
            if corners[0] <= x <= corners[2] and corners[1] <= y <= corners[3]:
                pixels[y - 1, x - 1] = 255
    return Image.fromarray(pixels)


@st.composite
def placed(draw: Any) -> tuple[int, int, tuple[int, int, int, int]]:
    width, height = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    x1, y1 = draw(st.integers(1, width)), draw(st.integers(1, height))
    return width, height, (x1, y1, draw(st.integers(x1, width)), draw(st.integers(y1, height)))


@given(case=placed())
@settings(max_examples=40)
def test_a_box_cuts_out_exactly_the_pixels_that_it_was_drawn_around(
    case: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    width, height, corners = case
    folder = tmp_path_factory.mktemp("set")
    voc_trees.write_image(folder, "one", [("cat", *corners, 0)], painted(width, height, corners))
    images = good(folder, "one")
    (pixels,) = pixels_of(pack_ragged(images, None, Places(folder / "cache")), images)
    assert pixels.shape == (height, width, 3)
    x1, y1, x2, y2 = images[0].boxes[0].astype(int)
    assert np.array_equal(images[0].boxes[0], [x1, y1, x2, y2])
    assert (pixels[y1:y2, x1:x2] == 255).all()
    assert int((pixels[..., 0] == 255).sum()) == (x2 - x1) * (y2 - y1)
    assert images[0].clipped == 0 and images[0].thin == (corners[0] == corners[2] or corners[1] == corners[3])


@given(width=st.integers(1, 4000), height=st.integers(1, 4000), size=st.integers(1, 600))
def test_the_short_side_becomes_the_size_and_the_aspect_stays(width: int, height: int, size: int) -> None:
    image = BoxedImage(Path("x"), width, height, np.zeros((0, 4)), (), np.zeros(0, bool))
    assert image.scaled(None) == (width, height)
    found = image.scaled(size)
    if min(width, height) <= size:
        assert found == (width, height), "nothing is enlarged"
    else:
        assert min(found) == size
        assert max(found) == pytest.approx(max(width, height) * size / min(width, height), abs=0.5)


def test_shrunk_pixels_are_pillows(folder: Path, cache: Path) -> None:
    sizes = {"wide": (90, 40), "tall": (40, 90), "small": (24, 30)}
    for name, (width, height) in sizes.items():
        voc_trees.write_image(folder, name, [CAT], voc_trees.noise(width, height))
    images = good(folder, *sizes)
    found = pixels_of(pack_ragged(images, 32, Places(cache)), images, 32)
    for (name, (width, height)), pixels in zip(sizes.items(), found, strict=True):
        expected = {"wide": (72, 32), "tall": (32, 72), "small": (24, 30)}[name]
        stored = Image.open(folder / "JPEGImages" / f"{name}.png")
        assert stored.size == (width, height)
        assert np.array_equal(pixels, np.asarray(stored.resize(expected, Image.Resampling.BICUBIC))), name


def test_a_large_jpeg_is_shrunk_to_the_same_picture(folder: Path, cache: Path) -> None:
    """Stripes of three pixels in the result: shrunk further than to twice the size inside the decoder, they would be
    gone."""
    stripes = np.tile(127 + 100 * np.sin(np.arange(160) * 2 * np.pi / 12), (120, 1)).astype(np.uint8)
    picture = Image.fromarray(np.repeat(stripes[..., None], 3, -1))
    voc_trees.write_image(folder, "one", [CAT], picture, suffix=".jpg", quality=95)
    images = good(folder, "one")
    (pixels,) = pixels_of(pack_ragged(images, 30, Places(cache)), images, 30)
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels.astype(int) - np.asarray(picture.resize((40, 30), Image.Resampling.BICUBIC))).mean() <= 5


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "RGBA", "I;16"])
def test_every_kind_of_image_becomes_rgb(folder: Path, cache: Path, mode: str) -> None:
    expected = voc_trees.noise(20, 10)
    stored, suffix, options = expected, ".png", {}
    if mode == "I;16":
        levels = np.arange(200, dtype=np.uint16).reshape(10, 20) * 257
        stored, expected = Image.fromarray(levels), Image.fromarray((levels // 257).astype(np.uint8))
    elif mode == "CMYK":
        stored = expected = Image.new("CMYK", (20, 10), (0, 255, 0, 0))
        suffix, options = ".jpg", {"quality": 100}
    elif mode in ("RGBA", "LA"):
        stored = Image.new(mode, (20, 10), (255, 0, 0, 0) if mode == "RGBA" else (90, 0))
        expected = Image.new("RGB", (20, 10), (255, 255, 255))  # nothing to be seen but the white below
    else:
        stored = expected = expected.convert(mode)
    voc_trees.write_image(folder, "one", [CAT], stored, suffix=suffix, **options)
    images = good(folder, "one")
    (pixels,) = pixels_of(pack_ragged(images, None, Places(cache)), images)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(expected.convert("RGB"))).max() <= (3 if mode == "CMYK" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("annotated", ["stored", "upright", "nothing"])
def test_orientation_follows_the_size_that_the_annotation_gives(
    folder: Path, cache: Path, orientation: int, annotated: str
) -> None:
    """Boxes drawn on stored pixels stay there; boxes drawn on the upright image find their object there."""
    upright_corners = (5, 3, 14, 6)
    upright = painted(20, 12, upright_corners)
    # what a camera held that way stores: FLIP_LEFT_RIGHT, ROTATE_180, ...
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    white = np.argwhere(np.asarray(stored)[..., 0] == 255)
    stored_corners = tuple(int(value) + 1 for value in (*white.min(0)[::-1], *white.max(0)[::-1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = annotated == "upright" and orientation >= 5
    corners = upright_corners if turned else stored_corners
    voc_trees.write_image(folder, "one", [("cat", *corners, 0)], stored, suffix=".png", exif=exif)
    size = {"stored": stored.size, "upright": (20, 12), "nothing": None}[annotated]
    (folder / "Annotations" / "one.xml").write_text(voc_trees.annotation(size, [("cat", *corners, 0)]))
    images = good(folder, "one")
    (pixels,) = pixels_of(pack_ragged(images, None, Places(cache)), images)
    x1, y1, x2, y2 = images[0].boxes[0].astype(int)
    assert images[0].turned == turned and images[0].sized == (annotated != "nothing")
    assert pixels.shape[1::-1] == ((20, 12) if turned else stored.size)
    assert (pixels[y1:y2, x1:x2] == 255).all() and int((pixels[..., 0] == 255).sum()) == (x2 - x1) * (y2 - y1) == 40


def test_turned_pixels_are_not_taken_for_stored_ones(folder: Path, cache: Path) -> None:
    """Nearly square images have the same shape both ways once they are small."""
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for said in ((41, 40), (40, 41)):
        voc_trees.write_image(folder, "one", [CAT], voc_trees.noise(41, 40), exif=exif)
        (folder / "Annotations" / "one.xml").write_text(voc_trees.annotation(said, [CAT]))
        images = good(folder, "one")
        found += pixels_of(pack_ragged(images, 10, Places(cache)), images, 10)
    assert found[0].shape == found[1].shape == (10, 10, 3)
    assert np.abs(np.rot90(found[0], -1).astype(int) - found[1]).max() <= 2, "a quarter turn apart"


def test_annotations_are_read_as_tools_write_them(folder: Path) -> None:
    things: list[voc_trees.Thing] = [
        ("a cat", " 3 ", "4.5", 1e1, 12, 1),
        (" dog ", 1, 1, 24, 18, None),
        ("Ø & co", 2, 2, 5, 5, ""),
    ]
    voc_trees.write_image(folder, "über.v2", things, suffix=".JPG", format="JPEG")
    part = (
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "</object>"
    )
    file = folder / "Annotations" / "über.v2.xml"
    file.write_text(file.read_text(encoding="utf-8").replace("</object>", part, 1), encoding="utf-8")
    (image,) = good(folder, "über.v2")
    assert image.names == ("a cat", "dog", "Ø & co") and image.difficult.tolist() == [True, False, False]
    assert image.boxes.tolist() == [[2, 3.5, 10, 12], [0, 0, 24, 18], [1, 1, 5, 5]]


def test_boxes_over_the_edge_are_clipped_and_counted(folder: Path) -> None:
    things = [("cat", 0, 0, 24, 18, 0), ("cat", 20, -5, 99, 4, 0), ("cat", 5, 5, 6, 6, 0)]
    voc_trees.write_image(folder, "one", things)
    (image,) = good(folder, "one")
    assert image.boxes.tolist() == [[0, 0, 24, 18], [19, 0, 24, 4], [4, 4, 6, 6]] and image.clipped == 2


def spoil(folder: Path, how: str) -> None:
    xml, png = folder / "Annotations" / "one.xml", folder / "JPEGImages" / "one.png"
    changed: dict[str, voc_trees.Thing] = {
        "outside": ("cat", 25, 1, 30, 9, 0),
        "above": ("cat", 2, -9, 9, 0, 0),
        "sliver": ("cat", 24.99999, 1, 30, 9, 0),
        "empty": ("cat", 9, 4, 8, 12, 0),
        "nameless": ("", 1, 1, 2, 2, 0),
        "no number": ("cat", "x", 1, 2, 2, 0),
        "nan": ("cat", 1, "nan", 2, 2, 0),
        "no corner": ("cat", "", 1, 2, 2, 0),
        "flag": ("cat", 1, 1, 2, 2, "yes"),
    }
    if how in changed:
        xml.write_text(voc_trees.annotation((24, 18), [CAT, changed[how]]))
    elif how == "no image":
        png.unlink()
    elif how == "two images":
        shutil.copy(png, png.with_suffix(".bmp"))
    elif how == "not an image":
        png.write_bytes(b"never an image")
    elif how == "empty image":
        png.write_bytes(b"")
    elif how == "no annotation":
        xml.unlink()
    elif how == "half an annotation":
        xml.write_text(xml.read_text()[:70])
    elif how == "another XML":
        xml.write_text("<kml></kml>")
    elif how == "unknown encoding":
        xml.write_text("<?xml version='1.0' encoding='martian'?>" + xml.read_text())
    elif how == "another size":
        xml.write_text(voc_trees.annotation((18, 24), [CAT]))
    else:
        raise AssertionError(how)


FAULTS = {
    "outside": ("box outside its image", "'cat' at 25 1 30 9, the image is 24x18"),
    "above": ("box outside its image", "'cat' at 2 -9 9 0, the image is 24x18"),
    "sliver": ("box outside its image", "'cat' at 25 1 30 9, the image is 24x18"),
    "empty": ("empty box", "object 2 ('cat') at 9 4 8 12"),
    "nameless": ("object without a name", "object 2 has no name"),
    "no number": ("box without numbers", "object 2 ('cat') has xmin 'x', ymin '1'"),
    "nan": ("box without numbers", "ymin 'nan'"),
    "no corner": ("box without numbers", "xmin ''"),
    "flag": ("unknown flag", "difficult 'yes', not 0 or 1"),
    "no image": ("missing image", "JPEGImages/one.jpg is missing"),
    "two images": ("several images of one name", "one.bmp, one.png"),
    "not an image": ("unreadable image", "JPEGImages/one.png: not an image"),
    "empty image": ("unreadable image", "JPEGImages/one.png"),
    "no annotation": ("missing annotation", "Annotations/one.xml is missing"),
    "half an annotation": ("unreadable annotation", "Annotations/one.xml: "),
    "another XML": ("unreadable annotation", "begins with <kml>"),
    "unknown encoding": ("unreadable annotation", "Annotations/one.xml: "),
    "another size": ("size mismatch", "Annotations/one.xml says 18x24, JPEGImages/one.png is 24x18"),
}


@pytest.mark.parametrize("how", FAULTS)
def test_a_fault_is_named_and_other_images_are_not_touched_by_it(folder: Path, how: str) -> None:
    for name in ("one", "two"):
        voc_trees.write_image(folder, name, [CAT])
    good(folder, "one", "two")
    spoil(folder, how)
    found = examine(folder, ["one", "two"])
    assert isinstance(found["two"], VOCImage)
    assert isinstance(found["one"], list)
    (fault,) = found["one"]
    kind, text = FAULTS[how]
    assert fault.kind == kind and text in fault.text


def test_all_faults_of_one_image_are_named(folder: Path) -> None:
    voc_trees.write_image(folder, "one", [("", 1, 1, 2, 2, 0), ("cat", 5, 1, 2, 2, 0), ("cat", 1, 1, 2, 2, 7)])
    (folder / "JPEGImages" / "one.png").unlink()
    found = examine(folder, ["one"])["one"]
    assert isinstance(found, list)
    assert [fault.kind for fault in found] == ["object without a name", "empty box", "unknown flag", "missing image"]


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_a_refusal_counts_everything_and_shows_twenty(counts: list[int]) -> None:
    faults = [Fault(f"kind {kind}", f"line {kind}.{at}") for kind, count in enumerate(counts) for at in range(count)]
    with pytest.raises(DataError) as caught:
        voc.refuse("toys", faults, "; mend them")
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("toys cannot be used as it is (") and head.endswith("); mend them:")
    assert all(f"kind {kind}: {count}" in head for kind, count in enumerate(counts))
    assert [line.strip() for line in lines[:20]] == [fault.text for fault in faults[:20]]
    assert [line.strip() for line in lines[20:]] == ([f"and {sum(counts) - 20} more"] if sum(counts) > 20 else [])


def test_nothing_wrong_is_not_refused() -> None:
    voc.refuse("toys", [])


def test_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(
        DataError, match=r"not in PASCAL VOC layout: it has no Annotations, no ImageSets/Main; needed are"
    ):
        voc.lists(tmp_path)
    for part in ("Annotations", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    with pytest.raises(DataError, match=r"Main holds no LIST\.txt"):
        voc.lists(tmp_path)


def test_lists_are_text_with_a_name_a_line(folder: Path) -> None:
    voc_trees.write_image(folder, "one", [CAT])
    main = folder / "ImageSets" / "Main"
    (main / "train.txt").write_bytes("\ufeff a b \r\n\r\nc\r\n".encode())
    (main / "._train.txt").write_bytes(b"\x00\x01")
    (main / "binary.txt").write_bytes(b"\xff\xfe\x00")
    assert voc.lists(folder) == ["binary", "train"] and voc.read_list(folder, "train") == ["a b", "c"]
    with pytest.raises(DataError, match=r"binary\.txt cannot be read"):
        voc.read_list(folder, "binary")
    with pytest.raises(DataError, match=r"has no split 'trian'.*did you mean 'train'"):
        voc.read_list(folder, "trian")


@pytest.fixture
def five(folder: Path) -> list[VOCImage]:
    names = [f"image{number}" for number in range(5)]
    for number, name in enumerate(names):
        voc_trees.write_image(folder, name, [CAT], voc_trees.noise(20 + number, 30 - 3 * number, number))
    return good(folder, *names)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded, not read from the cache."""
    seen: list[str] = []
    real = ragged._decode
    monkeypatch.setattr(ragged, "_decode", lambda one, shape: (seen.append(one.file.name), real(one, shape))[1])
    return seen


def stored_pixels(five: list[VOCImage]) -> list[np.ndarray]:
    return [np.asarray(Image.open(image.file)) for image in five]


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(found) == len(expected) and all(
        np.array_equal(one, other) for one, other in zip(found, expected, strict=True)
    )


def test_images_are_packed_once(five: list[VOCImage], cache: Path, decoded: list[str], folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    first = pack_ragged(five, None, Places(cache, progress=lambda *now: told.append(now)), what="toys")
    assert isinstance(first.pixels, np.memmap) and same(pixels_of(first, five), stored_pixels(five))
    assert len(decoded) == 5 and told[-1][0].startswith("packing toys: 5 images, 7.8 KB in ") and told[-1][1:] == (5, 5)
    assert len(np.unique(first.hashes, axis=0)) == 5
    shutil.copytree(folder, folder.with_name("copy"))
    copies = good(folder.with_name("copy"), *(image.file.stem for image in five))
    again = pack_ragged(copies, None, Places(cache))
    assert (
        len(decoded) == 5 and np.array_equal(again.pixels, first.pixels) and np.array_equal(again.hashes, first.hashes)
    )
    pack_ragged(five, 50, Places(cache))
    assert len(decoded) == 5, "a size that shrinks nothing gives the same pixels"
    pack_ragged(five, 12, Places(cache))
    pack_ragged(five[::-1], None, Places(cache))
    assert len(decoded) == 15


def test_an_edited_image_is_packed_anew(five: list[VOCImage], cache: Path) -> None:
    before = pack_ragged(five, None, Places(cache))
    voc_trees.noise(20, 30, 99).save(five[0].file)
    after = pack_ragged(five, None, Places(cache))
    assert same(pixels_of(after, five), stored_pixels(five))
    assert [bool((one == other).all()) for one, other in zip(before.hashes, after.hashes, strict=True)] == [
        False,
        True,
        True,
        True,
        True,
    ]


KILLED = """
import time
from pathlib import Path
from ssl_bench.data.boxes import ragged
from ssl_bench.data.boxes import voc
real = ragged._decode
def slow(one, shape):
    if one.file.stem == "image4":
        print("now", flush=True)
        time.sleep(60)
    return real(one, shape)
ragged._decode = slow
images = list(voc.examine(Path({folder!r}), {names!r}).values())
ragged.pack_ragged(images, None, ragged.Places(Path({cache!r})))
"""


def test_a_killed_packing_does_no_harm(five: list[VOCImage], folder: Path, cache: Path) -> None:
    code = KILLED.format(folder=str(folder), names=[image.file.stem for image in five], cache=str(cache))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(cache.glob("packs/*/pixels.part")) and not list(cache.glob("packs/*/meta.json"))
    assert same(pixels_of(pack_ragged(five, None, Places(cache)), five), stored_pixels(five))
    assert not list(cache.glob("packs/*/*.part"))


@pytest.mark.parametrize("file", ["pixels.npy", "hashes.npy", "meta.json"])
@pytest.mark.parametrize("how", ["cut", "gone", "changed"])
def test_a_damaged_pack_is_made_again(
    five: list[VOCImage], cache: Path, decoded: list[str], file: str, how: str
) -> None:
    pack_ragged(five, None, Places(cache))
    (path,) = cache.glob(f"packs/*/{file}")
    content = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(content[: len(content) // 2] if how == "cut" else content[:-8] + bytes(8))
    assert same(pixels_of(pack_ragged(five, None, Places(cache)), five), stored_pixels(five))
    assert len(decoded) == 10


def test_images_that_cannot_be_decoded_are_listed_and_tried_again_by_another_decoder(
    five: list[VOCImage],
    folder: Path,
    cache: Path,
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.BytesIO()
    voc_trees.noise(21, 27).save(stream, "JPEG")
    five[1].file.write_bytes(stream.getvalue()[:-200])  # the header is whole
    images = good(folder, *(image.file.stem for image in five))
    found = pack_ragged(images, None, Places(cache))
    assert list(found.unreadable) == [1] and "truncated" in found.unreadable[1]
    pixels = pixels_of(found, images)
    assert not pixels[1].any() and not found.hashes[1].any()
    assert same(
        [one for at, one in enumerate(pixels) if at != 1],
        [np.asarray(Image.open(i.file)) for at, i in enumerate(images) if at != 1],
    )
    assert pack_ragged(images, None, Places(cache)).unreadable == found.unreadable and len(decoded) == 5
    monkeypatch.setattr("ssl_bench.data.packs.sealed.decoder_versions", lambda: "newer")
    pack_ragged(images, None, Places(cache))
    assert len(decoded) == 10


def test_a_full_disk_and_a_closed_cache_are_named(
    five: list[VOCImage], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    with pytest.raises(
        DataError, match=r"packing 5 images of toys takes 7\.8 KB in .* where 1\.0 KB are free; make room"
    ):
        pack_ragged(five, None, Places(cache), what="toys")
    monkeypatch.undo()

    def closed(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ragged, "_write_ragged_pack", closed)
    with pytest.raises(
        DataError, match=r"cannot be written \(Permission denied\); set the environment variable XDG_CACHE_HOME"
    ):
        pack_ragged(five, None, Places(cache))
