"""Disk space for packs: reserved before anything is written, so that a disk that fills up does not end in half a
pack."""

from __future__ import annotations

import errno
import io
import os
from typing import BinaryIO

import numpy as np

SPARE_DISK = 64 << 20  # left to others
MORE_ROOM = (
    "make room, set the environment variable XDG_CACHE_HOME to a folder on a larger disk, or give a smaller `size`"
)


def reserve_disk(stream: BinaryIO, length: int) -> None:
    """Reserve the first ``length`` bytes of a file, where the file system can.

    Raises OSError where there is not enough room.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(stream.fileno(), 0, length)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot reserve
                raise


def npy_header(shape: tuple[int, ...]) -> bytes:
    """What a .npy file of uint8 of this shape begins with."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": tuple(map(int, shape))}
    )
    return stream.getvalue()
