"""Digests of what is written, checked when it is read: damage is named before a number is made of it.

    JSON           a last key "digest", over everything else that the file says; spaces and the order of keys do not
                   count
    safetensors    an entry of the metadata, over the rest of the header and the bytes of all tensors
    predictions    over the file, in the evaluation record that they belong to
    packed images  one for each image, in hashes.npy; one over these in meta.json
    small caches   a first line, over the bytes that follow

None of them enters an id. A file of an earlier version has none: it is used as it is, and counted, so that a run can
say how many there were.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_bench.errors import DataError, Notice

KEY = "digest"
_FIRST_LINE = b"ssl_bench sha256 %b\n"
_LINE_BYTES = len(_FIRST_LINE % bytes(64))

_lock = threading.Lock()
_unchecked: set[str] = set()
_told: set[str] = set()


def digest_of(*parts: bytes | memoryview) -> str:
    """SHA-256 over bytes, 64 hexadecimal digits."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()


def digest_of_json(data: Mapping[str, Any]) -> str:
    """Over what the data say, but for their own digest: equal data, equal digest, however they are written."""
    rest = {key: value for key, value in data.items() if key != KEY}
    return digest_of(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())


def seal(payload: bytes) -> bytes:
    """``payload`` after a first line that holds its digest."""
    return _FIRST_LINE % digest_of(payload).encode() + payload


def unseal(content: bytes) -> bytes | None:
    """What ``seal`` was given; None for anything else: a damaged, cut or empty file, or one of an earlier version."""
    payload = content[_LINE_BYTES:]
    return (
        payload
        if len(content) >= _LINE_BYTES and content[:_LINE_BYTES] == _FIRST_LINE % digest_of(payload).encode()
        else None
    )


def read_sealed(path: Path, what: str) -> bytes | None:
    """The payload of a sealed file; None where there is none. One that is damaged is told, and None too: whoever wrote
    it can write it again.

    Raises DataError for a folder in its place.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise DataError(
            f"{path} is a folder where {what.removesuffix(' in').removesuffix(',')} should be in a file; remove it"
        ) from None
    except OSError as error:
        notice(f"{what} {path} cannot be read ({error.strerror or error}); made again")
        return None
    payload = unseal(content)
    if payload is None:
        notice(f"{what} {path} is {'empty' if not content else 'damaged, or of an earlier version'}; made again")
    return payload


def notice(text: str) -> None:
    """Tell whoever started this: a warning of the kind ``Notice``, which the command line prints as a line."""
    warnings.warn(text, Notice, stacklevel=3)


def not_checked(path: Path) -> None:
    """Remember a file that was read without a digest."""
    with _lock:
        _unchecked.add(os.path.abspath(path))


def unchecked_below(folder: Path) -> list[str]:
    """The files below ``folder`` that were read without a digest so far."""
    root = os.path.join(os.path.abspath(folder), "")
    with _lock:
        return sorted(path for path in _unchecked if path.startswith(root))


def tell_unchecked() -> None:
    """One notice of all files that were read without a digest and not told yet."""
    with _lock:
        new = sorted(_unchecked - _told)
        _told.update(new)
    if new:
        folder = os.path.commonpath([os.path.dirname(path) for path in new])
        files = "1 file was" if len(new) == 1 else f"{len(new):,} files were"
        notice(f"{files} written by a version that kept no digests, and could not be checked for damage ({folder})")
