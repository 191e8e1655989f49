"""Files written whole or not at all, what is left of writers that were killed, and what to say when nothing more can be
written."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ssl_bench.errors import NoRoomError, RecordError
from ssl_bench.system.amounts import bytes_text

try:
    import fcntl
except ImportError:  # Windows, where files that are open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

# a full disk, a quota that is used up, files that may not grow that large
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNWRITABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EIO,
    errno.ESTALE,
}
_OF_THE_PATH = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
# as write_bytes names them; packs have parts of other names, which are gone on with
_PART = re.compile(r"\..+\.[0-9a-f]{16}\.part")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole: to a temporary name in the same folder, flushed to disk, renamed, the folder flushed too.

    Raises
    ------
    NoRoomError : it does not fit; the file is what it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked_part(path) as (part, file):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
    except OSError as error:
        told = no_room(error, path, len(data))
        if told is None:
            raise
        raise told from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _locked_part(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new temporary file beside ``path``, locked as long as its writer lives, and removed when the block raises."""
    while True:
        # machines that share a folder have processes of equal numbers
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        with open(part, "xb") as file:
            if not _lock(file.fileno()) or not part.exists():
                continue  # in the moment before it was locked, it was taken for a killed writer's
            try:
                yield part, file
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            return


def _lock(descriptor: int) -> bool:
    """Take the lock of an open file; False where somebody else has it. A file system that has no locks counts as
    locked."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN)
    return True


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files of killed writers anywhere below a folder, and return them. Those of living writers
    are locked, and stay."""
    removed: list[Path] = []
    if fcntl is None:
        return removed
    # which passes over what may not be listed
    names = (Path(here, name) for here, _, files in os.walk(folder) for name in files)
    for part in [path for path in names if _PART.fullmatch(path.name)]:
        with suppress(OSError):  # somebody else was faster, or the folder is read-only
            descriptor = os.open(part, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
                removed.append(part)
            finally:
                os.close(descriptor)
    return removed


def is_locked(lock: Path) -> bool:
    """Whether a living process holds a lock file. Nothing is written, so that a folder that belongs to others can be
    asked, too."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EAGAIN)
    finally:
        os.close(descriptor)
    return False


def no_room(error: BaseException, path: Path | None = None, needed: int | None = None) -> NoRoomError | None:
    """The NoRoomError that tells of ``error``, or of what it came from; None where that was something else.

    Parameters
    ----------
    path : what was being written, where the error itself does not name it.
    needed : its bytes, where they are known.
    """
    cause: BaseException | None = error
    for _ in range(20):  # a chain of causes may be circular
        if cause is None or isinstance(cause, NoRoomError):
            return cause
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            where = Path(os.fsdecode(cause.filename)) if isinstance(cause.filename, str | bytes) else path
            size = "" if needed is None else f" ({bytes_text(needed)})"
            what = "" if where is None else f"{where}{size} cannot be written: "
            there = "" if where is None else _free(where)
            return NoRoomError(
                f"{what}{os.strerror(cause.errno)}{there}; what was finished is whole. Make room and give the same "
                "command: it goes on"
            )
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Tell (RecordError, NoRoomError) of a results folder that cannot be written, and what to do.

    Whatever else the block does must not let an OSError of its own out.
    """
    try:
        yield
    except NoRoomError:
        raise
    except OSError as error:
        unwritable = RecordError(
            f"results cannot be written to {folder} ({reason(error)}); give --out a folder that can be written"
        )
        raise no_room(error, folder) or unwritable from error


def refuse_unwritable(folder: Path) -> None:
    """Raise RecordError where nothing can be written to a folder, which need not be there yet; nothing is left of the
    attempt."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing_to(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked_part(folder / "attempt") as (part, _):
                part.unlink()
        finally:
            for path in missing:
                with suppress(OSError):
                    path.rmdir()


def is_unwritable(error: BaseException, folder: Path) -> bool:
    """Whether an error says that a folder, or what is in it, cannot be written any more, so that whatever comes next
    fails alike."""
    if not isinstance(error, OSError) or error.errno not in _UNWRITABLE or not isinstance(error.filename, str | bytes):
        return False
    return Path(os.fsdecode(error.filename)).absolute().is_relative_to(folder.absolute())


def is_of_the_path(error: BaseException) -> bool:
    """Whether an error says that a path cannot be used as it is, for want of permission or because something else is
    there: nothing that code could mend."""
    return isinstance(error, OSError) and error.errno in _OF_THE_PATH and isinstance(error.filename, str | bytes)


def reason(error: OSError) -> str:
    """What an error of the file system says, without its number: "runs/quick/run.json: Permission denied"."""
    if isinstance(error, NoRoomError) or not error.strerror:
        return str(error)
    return (
        f"{os.fsdecode(error.filename)}: {error.strerror}"
        if isinstance(error.filename, str | bytes)
        else error.strerror
    )


def _free(path: Path) -> str:
    for folder in path.absolute().parents:
        if folder.is_dir():
            with suppress(OSError):
                return f" ({bytes_text(shutil.disk_usage(folder).free)} are free in {folder})"
    return ""
