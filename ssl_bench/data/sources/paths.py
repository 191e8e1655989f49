"""The path in a source's name, found as written or below the data root."""

from __future__ import annotations

from pathlib import Path

from ssl_bench.data.places import Places
from ssl_bench.data.sources.listing import shown
from ssl_bench.errors import DataError

NO_ROOT = "no data root is set (--data-root or SSL_BENCH_DATA)"


def resolve(path: str, places: Places, kind: str) -> Path:
    """An existing path: as written (against the working folder), else below the data root.

    ``kind`` stands before the colon in messages.
    """
    given = Path(path).expanduser()
    tried = [given.absolute()] + ([places.root / given] if places.root is not None and not given.is_absolute() else [])
    for candidate in tried:
        try:
            candidate.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        # no permission, a link in a circle, a name that is too long or holds a zero byte
        except (OSError, ValueError) as error:
            raise DataError(
                f"{kind}:{shown(path)} cannot be opened: {getattr(error, 'strerror', None) or error}"
            ) from None
        return candidate
    hint = "" if places.root is not None or given.is_absolute() else f"; {NO_ROOT}"
    raise DataError(f"{kind}:{path} does not exist; looked for {' and '.join(map(str, tried))}{hint}")
