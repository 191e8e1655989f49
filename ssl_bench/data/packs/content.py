"""What a set of files holds, as one short hash: read once, then remembered as long as no file has changed."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from ssl_bench.data.places import Places
from ssl_bench.errors import DataError
from ssl_bench.records.schema import write_bytes
from ssl_bench.system.digests import not_checked, read_sealed, seal
from ssl_bench.system.processors import usable_cores

_SETTLED_NS = 2_000_000_000  # a file that changed just now may change again within the clock's resolution


def workers() -> int:
    """Threads worth starting: the cores this process may use, at most 16."""
    return min(16, usable_cores())


class NotRemembered(Exception):
    """What the files hold is not known without reading them all."""


def content_of(files: Sequence[Path], places: Places, what: str = "files") -> str:
    """Hash over the bytes of ``files`` in their order; names do not enter.

    The bytes are read when any file is new or has another size, modification or change time, or inode than when it was
    read last. A change time cannot be set by a user, so an edit that restores size and modification time is seen too.

    Raises
    ------
    DataError : a file is missing or cannot be read.
    NotRemembered : ``places`` forbids reading, which may take an hour, and it would be needed.
    """
    facts = hashlib.sha256()
    newest = 0
    for file in files:
        try:
            stat = file.stat()
        except OSError as error:
            raise unreadable(file, error) from None
        newest = max(newest, stat.st_mtime_ns, stat.st_ctime_ns)
        fact = f"{file.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}\n"
        facts.update(fact.encode("utf-8", "surrogateescape"))
    remembered = places.cache / "content" / facts.hexdigest()[:32]
    if (known := _remembered_digest(remembered)) is not None:
        return known
    if not places.reads:
        raise NotRemembered
    started = time.time_ns()
    whole = hashlib.sha256()
    with ThreadPoolExecutor(workers()) as pool:
        for done, digest in enumerate(pool.map(_hash_file, files)):
            whole.update(digest)
            if done % 256 == 0:
                places.progress(f"reading {what}", done, len(files))
    places.progress(f"reading {what}", len(files), len(files))
    if newest < started - _SETTLED_NS:
        with suppress(OSError):  # a cache that cannot be written is packing's business
            write_bytes(remembered, seal(whole.hexdigest().encode()))
    return whole.hexdigest()


def _remembered_digest(remembered: Path) -> str | None:
    """What a file of CACHE/content says; those of earlier versions hold 64 digits and no digest of these."""
    with suppress(OSError, UnicodeDecodeError):
        text = remembered.read_text()
        if len(text.strip()) == 64 and not set(text.strip()) - set("0123456789abcdef"):
            not_checked(remembered)
            return text.strip()
    stored = read_sealed(remembered, "what is remembered of files in")
    return None if stored is None else stored.decode()


def _hash_file(file: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise unreadable(file, error) from None
    return digest.digest()


def unreadable(file: Path | str, error: OSError) -> DataError:
    """The error of a file that was there a moment ago."""
    gone = "; it was there when its folder was listed: run again" if isinstance(error, FileNotFoundError) else ""
    return DataError(
        f"{os.fsencode(file).decode('utf-8', 'backslashreplace')} cannot be read: {error.strerror or error}{gone}"
    )


def _no_folder_for(cache: Path, error: OSError) -> bool:
    """Whether a folder cannot be made, in a cache or on the way to it: a file lies there, or the file system makes
    none."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST) or not isinstance(error.filename, str | bytes):
        return False
    path, cache = Path(os.fsdecode(error.filename)).absolute(), cache.absolute()
    return path.is_relative_to(cache) or cache.is_relative_to(path)


@contextmanager
def writing_to_cache(cache: Path) -> Iterator[None]:
    """Tell (DataError) of a cache folder that cannot be written, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) and not _no_folder_for(cache, error):
            raise
        why = error.strerror or error
        raise DataError(
            f"the cache {cache} cannot be written ({why}); set the environment variable XDG_CACHE_HOME to a folder "
            "that can"
        ) from None
