"""One stored image to one square RGB image, whatever it was stored as."""

from __future__ import annotations

import contextlib
import importlib
import io
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import numpy as np
from PIL import Image, ImageFile, ImageOps

from ssl_bench.data.packs.content import workers
from ssl_bench.data.packs.facts import Facts

Fit = Literal["crop", "pad", "squash"]
#: what a source hands over
Stored = Union[bytes, Path, np.ndarray, Image.Image, Callable[[], "Stored"]]  # noqa: UP007  (| cannot name itself)

T = TypeVar("T")
VERSION = 1  # raise it when the same file would give other pixels; packed images of another version are not used
_RESAMPLE = Image.Resampling.BICUBIC
_WHITE = (255, 255, 255)
_PNG, _PNG_PIXELS = b"\x89PNG\r\n\x1a\n", (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_WIDTH, _HEIGHT = 256, 257  # tags of a TIFF


class UnreadableImage(Exception):
    """An image that cannot become pixels, and why. Packing collects these; users see a DataError with all of them."""


def decode(
    stored: Stored, size: int, fit: Fit = "crop", facts: Facts | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Pixels of one stored image, upright, in RGB and square.

    Transparency is laid over white. Sixteen-bit grey levels are divided by 257, never clipped. An image that has
    the asked size already is not resampled. Shrinking is antialiased (bicubic); a JPEG more than four times too large
    is first shrunk inside its decoder, to at least twice the asked side.

    Parameters
    ----------
    stored : file content, path, array uint8 [H, W] or [H, W, 3], PIL image, or a function that returns one of these.
    size : side of the result, in pixels.
    fit : "crop" scales the short side to ``size`` and keeps the centre, "pad" scales the long side and fills with
        black, "squash" ignores the aspect ratio.
    facts : where to count what was left out or chosen.

    Returns
    -------
    uint8 [size, size, 3] and the upright (width, height) before scaling.

    Raises
    ------
    UnreadableImage : damaged, truncated or empty content, or pixels without a known range (32-bit, float).
    """
    try:
        image = open_image(stored)
        facts = Facts() if facts is None else facts
        deep = is_deep(image)  # before metadata are asked for, which decodes a PNG
        turn = orientation(image)
        width, height = _turned_size(image, turn)
        facts.frames += _is_of_several(image)
        if image.format == "JPEG" and min(width, height) >= 4 * size:
            image.draft(None, (2 * size, 2 * size))
        upright = ImageOps.exif_transpose(image) if turn > 1 else image
        pixels = np.asarray(_square(as_rgb(upright, facts), size, fit))
        if deep and image.mode[0] != "I":  # colours, of which PIL has kept the upper 8 bits
            levels = np.asarray(upright)
            facts.saw_levels(int(levels.min()) * 257, int(levels.max()) * 257)
        return pixels, (width, height)
    except (UnreadableImage, MemoryError):  # memory says nothing about the image
        raise
    except OSError as error:
        if error.errno is not None and not isinstance(stored, bytes):
            raise  # the disk or a permission, not the image
        raise UnreadableImage(reason_of(error)) from error
    # decoders of damaged files raise nearly anything: SyntaxError, ValueError, struct.error ...
    except Exception as error:
        raise UnreadableImage(reason_of(error)) from error


def open_image(stored: Stored) -> Image.Image:
    """The stored image with its header read; pixels are decoded later. Raises what PIL raises."""
    if isinstance(stored, Image.Image):
        return stored
    if isinstance(stored, np.ndarray):
        return Image.fromarray(stored)
    if isinstance(stored, Path):
        stored = stored.read_bytes()
    if isinstance(stored, bytes):
        if not stored:
            raise UnreadableImage("empty file")
        if stored.startswith(_PNG):
            _check_png(stored)
        if stored.startswith(b"version https://git-lfs"):
            raise UnreadableImage("a Git LFS pointer in place of the image; `git lfs pull` gets what it stands for")
        register_plugins()
        return Image.open(io.BytesIO(stored))
    return open_image(stored())


def _check_png(content: bytes) -> None:
    """Refuse a PNG whose pixels are not what was written: PIL does not look at their checksums, and reads what is
    damaged as black or another image."""
    at = len(_PNG)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 8 + length
        if end + 4 > len(content):  # cut off, which PIL tells
            return
        if kind in _PNG_PIXELS and zlib.crc32(memoryview(content)[at + 4 : end]) != int.from_bytes(
            content[end : end + 4], "big"
        ):
            raise UnreadableImage(f"damaged: the checksum of its {kind.decode()} part is wrong")
        at = end + 4


@cache
def register_plugins() -> None:
    """Let PIL open HEIC, AVIF and JPEG XL where a package for them is installed; nothing happens where none is."""
    for module, register in (("pillow_heif", "register_heif_opener"), ("pillow_avif", ""), ("pillow_jxl", "")):
        with contextlib.suppress(Exception):  # one that is broken is as good as none
            decoder = importlib.import_module(module)  # the others register themselves
            if register:
                getattr(decoder, register)()


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once the camera's orientation is applied."""
    return _turned_size(image, orientation(image))


def _turned_size(image: Image.Image, turn: int) -> tuple[int, int]:
    width, height = image.size
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if {_WIDTH, _HEIGHT} <= set(tags):  # some versions of PIL turn the size of a TIFF when they open it
        width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
    return (height, width) if turn >= 5 else (width, height)


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 5 and above exchange width and height."""
    if image.format == "JPEG" and "exif" not in image.info:
        return 1  # spares the many small images of a set the parsing of nothing
    with contextlib.suppress(Exception):  # damaged metadata says nothing about the pixels
        turn = int(image.getexif().get(0x0112, 1))
        return turn if 1 <= turn <= 8 else 1
    return 1


def is_deep(image: Image.Image) -> bool:
    """Whether an image, not decoded yet, has more than 8 bits a channel."""
    return image.mode[0] in "IF" or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _is_of_several(image: Image.Image) -> bool:
    """Whether it has more frames or pages than one; a phone's depth maps and previews (MPO) do not count."""
    if image.format in ("JPEG", "MPO", "BMP", "PPM"):
        return False
    with contextlib.suppress(Exception):  # what follows the first frame may be damaged
        return bool(getattr(image, "is_animated", False))
    return False


def as_rgb(image: Image.Image, facts: Facts | None = None) -> Image.Image:
    facts = Facts() if facts is None else facts
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        levels = np.asarray(image).astype(np.uint32)  # a plain convert() would clip everything above 255 to white
        facts.saw_levels(int(levels.min()), int(levels.max()))
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UnreadableImage(
            f"pixels of mode {image.mode!r} (32 bits) have no known range; set `range: set` to scale them by the "
            "set's own, or store them with 8 or 16 bits"
        )
    facts.inks += image.mode == "CMYK"
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # La cannot become RGBA directly
        layer = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        facts.transparent += layer.getchannel("A").getextrema() != (255, 255)
        image = Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer)
    return image.convert("RGB")


def _square(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if fit == "squash":
        return image.resize((size, size), _RESAMPLE)
    if fit == "pad":
        return ImageOps.pad(image, (size, size), _RESAMPLE, color=(0, 0, 0))
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.resize((size, size), _RESAMPLE, box=(left, top, left + side, top + side))


def reason_of(error: Exception) -> str:
    if "cannot identify image file" in str(error):
        return "not an image, or of an unknown format"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels ({error}); scale it down"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


@contextlib.contextmanager
def in_parallel(function: Callable[..., T], arguments: Iterable[tuple[Any, ...]], ahead: int) -> Iterator[Iterator[T]]:
    """``function(*values)`` for each of ``arguments``, in their order, by threads: PIL decodes without the interpreter
    lock.

    Threads need no guard in anybody's main module. Truncated images are errors meanwhile, though some libraries switch
    that off for everybody. Threads and that switch are put back at the end, also of a block that raises.

    Parameters
    ----------
    ahead : how many may be asked for or lie ready before they are taken, which bounds the memory.
    """
    truncated, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    pool = ThreadPoolExecutor(workers(), thread_name_prefix="decode")

    def results() -> Iterator[T]:
        waiting: deque[Future[T]] = deque()
        for values in arguments:
            waiting.append(pool.submit(function, *values))
            while len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield results()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated
