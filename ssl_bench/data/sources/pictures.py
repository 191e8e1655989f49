"""Images as table columns store them: file content, the path of a file, base64 text, or lists of pixels."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssl_bench.data.packs.decode import Stored, UnreadableImage
from ssl_bench.data.sources.listing import is_file

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_DATA = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
# how JPEG, PNG, GIF, BMP, WebP and TIFF begin in base64
_ENCODED = ("/9j/", "iVBORw0KGgo", "R0lGOD", "Qk", "UklGR", "SUkq", "TU0A")
_LONGEST_PATH = 4096
_CHANNELS = (1, 3, 4)


def holds_images(kind: Any) -> str:
    """How a column of an Arrow type could hold images: "bytes", "struct", "text" or "pixels"; "" where it could not."""
    import pyarrow as pa

    kind = storage_of(kind)
    if pa.types.is_dictionary(kind):
        return holds_images(kind.value_type)
    if pa.types.is_struct(kind):
        fields = {kind.field(at).name: storage_of(kind.field(at).type) for at in range(kind.num_fields)}
        content, path = fields.get("bytes"), fields.get("path")
        return "struct" if content is not None and _is_binary(content) or path is not None and is_text(path) else ""
    if _is_binary(kind):
        return "bytes"
    if is_text(kind):
        return "text"
    depth = 0
    while is_list(kind):
        kind, depth = storage_of(kind.value_type), depth + 1
    return "pixels" if depth in (2, 3) and pa.types.is_integer(kind) else ""


def storage_of(kind: Any) -> Any:
    """The type that an extension type is stored as; other types as they are."""
    return getattr(kind, "storage_type", kind)


def is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view"


def stored(values: Any, folder: Path) -> list[Stored]:
    """The images of an Arrow array; paths are below ``folder``.

    A row without an image becomes a function that says why when it is decoded.
    """
    if is_list(storage_of(values.type)):
        return [_of_pixels(value) for value in _python_values(values)]
    return [_of_value(value, folder) for value in _python_values(values)]


def named_files(values: Any, folder: Path) -> list[Path]:
    """The files that rows of an Arrow array name in place of the image's content, whether they are there or not."""
    if is_list(storage_of(values.type)):
        return []
    return [path for value in _python_values(values) if (path := _named_file(value, folder)) is not None]


def path_below(folder: Path, text: str) -> Path:
    """The file that a table names, below ``folder`` or absolute; of a path as Windows writes it, where there is none
    with that very name."""
    path = folder / text
    return folder / text.replace("\\", "/") if "\\" in text and not is_file(path) else path


def _python_values(values: Any) -> list[Any]:
    return list((values.storage if hasattr(values, "storage") else values).to_pylist())


def _of_value(value: Any, folder: Path) -> Stored:
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    if isinstance(content, str) and (decoded := _from_base64(content)) is not None:
        return decoded
    path = _named_file(value, folder)
    if path is None:
        return _unreadable("the row holds no image")
    if is_file(path):
        return path
    if _ADDRESS.match(text := str(value.get("path") if isinstance(value, dict) else value)):
        return _unreadable(f"the row holds an address, {text[:200]}, and images are not downloaded from addresses")
    return _unreadable(f"the row names {text[:200]!r}, and there is no such file below {folder}")


def _named_file(value: Any, folder: Path) -> Path | None:
    if isinstance(value, dict):
        return path_below(folder, value["path"]) if value.get("bytes") is None and value.get("path") else None
    if isinstance(value, str) and value and _from_base64(value) is None:
        return path_below(folder, value[:_LONGEST_PATH])
    return None


def _from_base64(text: str) -> bytes | None:
    """The file content that a text encodes; None for any other text, such as a path."""
    prefix = _DATA.match(text)
    encoded = re.sub(r"\s+", "", text[prefix.end() :] if prefix else text).replace("-", "+").replace("_", "/")
    if not prefix and (len(encoded) < 48 or not encoded.startswith(_ENCODED)):  # a path may be of its letters alone
        return None
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _of_pixels(value: Any) -> Stored:
    if value is None:
        return _unreadable("the row holds no image")
    try:
        pixels = np.array(value)
    except ValueError:
        pixels = np.zeros(0, object)
    if pixels.dtype.kind not in "iu" or pixels.ndim not in (2, 3) or not pixels.size:
        return _unreadable("its lists are not of one length, or hold no whole numbers")
    if pixels.min() < 0 or pixels.max() > 255:
        return _unreadable(f"its pixels must be from 0 to 255, got {pixels.min()} to {pixels.max()}")
    if pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS:
        if pixels.shape[0] not in _CHANNELS:
            return _unreadable(
                f"its pixels are of shape {' x '.join(map(str, pixels.shape))}, which has no axis of 1, 3 or 4 channels"
            )
        pixels = pixels.transpose(1, 2, 0)
    pixels = np.ascontiguousarray(pixels, np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        return pixels[:, :, 0]
    return Image.fromarray(pixels) if pixels.ndim == 3 and pixels.shape[2] == 4 else pixels


def _unreadable(reason: str) -> Callable[[], Stored]:
    def refuse() -> Stored:
        raise UnreadableImage(reason)

    return refuse


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or str(kind) == "binary_view"
    )


def is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
