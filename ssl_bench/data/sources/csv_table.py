"""A table of files and their labels, read from a csv in whatever dialect it was written."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ssl_bench.data.sources.listing import some
from ssl_bench.errors import DataError

_DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r"['\"]?sep=(.)['\"]?", re.IGNORECASE)


@dataclass(frozen=True)
class CsvTable:
    """The columns of a csv in order, its rows, and the line that each row ends on."""

    path: Path
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]

    def column(self, name: str) -> list[str]:
        """Its values without spaces around them."""
        return [text.strip() for text in self.written(name)]

    def written(self, name: str) -> list[str]:
        """Its values as they stand there."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]


def read_table(path: Path) -> CsvTable:
    try:
        content, skipped = path.read_bytes(), 0
        # Excel writes either
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        head, _, rest = text.partition("\n")
        if (named := _SEPARATOR.fullmatch(head.strip())) is not None:  # a first line for Excel
            text, skipped = rest, 1
        head = next(iter(text.splitlines()), "")
        delimiter = (
            named[1]
            if named is not None
            else max(_DELIMITERS, key=lambda mark: len(next(csv.reader([head], delimiter=mark), [])))
        )
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader, [])]
        read = [(row, reader.line_num + skipped) for row in reader if row]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a csv in UTF-8: {error}") from None
    if "\0" in text:
        raise DataError(
            f"{path} holds zero bytes: it is damaged, or in UTF-16 without the mark that says so; save it as UTF-8"
        )
    for name, count in Counter(names).items():
        if count > 1 and name:
            raise DataError(f"{path} has {count} columns called {name!r}; give them different names")
    if uneven := [str(line) for row, line in read if len(row) != len(names)]:
        raise DataError(
            f"{path}: {len(uneven):,} lines have another number of fields than the first line, which has "
            f"{len(names)}: {some(uneven, 20)}; "
            f"a value with {delimiter!r} in it is written in quotes"
        )
    return CsvTable(path, names, [row for row, _ in read], [line for _, line in read])
