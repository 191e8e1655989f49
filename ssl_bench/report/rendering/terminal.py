"""The table as plain text for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from rich.cells import cell_len, set_cell_size

from ssl_bench.report.ground.content import Column, Line, Section, TableContent
from ssl_bench.report.ground.escape import plain, shortened
from ssl_bench.report.rendering.notes import NOT_COMPARABLE

LONGEST_NAME = 30  # or a third of the width, where that is more
GAP = "  "
_NUMBER = re.compile(r"[>≤+−]?\d+(,\d{3})*(\.\d+)?")
_COMMAND = re.compile(r"; (ssl-bench show .*)$", re.DOTALL)


def terminal(table: TableContent, width: int, legend: bool = False) -> list[tuple[str, str]]:
    """Lines as (kind, text): kind is "title", "heading", "row", "failure", "warning", "legend" or "published".

    ``legend``: the whole legend in place of the few lines that the table needs.
    """
    lines = [
        ("title", text)
        for text in _wrap_parts([*(["VALIDATION"] if table.validation else []), *map(plain, table.title)], width)
    ]
    lines += [("warning", text) for warning in table.warnings for text in _wrapped_note("!", plain(warning), 1, width)]
    for section in table.sections:
        if len(table.sections) > 1:
            lines += [("title", ""), ("title", f"judged on {plain(section.data)}")]
        for grid in [section, *section.below]:
            for part, columns in enumerate(_tables_that_fit(grid, width)):
                lines += [("row", ""), *_grid(grid, columns, width, failures=part == 0)]
    lines.append(("legend", ""))
    entries = table.legend if legend or not table.brief else table.brief
    indent = max((len(plain(sign)) for sign, _ in entries), default=0)
    shown = ""
    for sign, text in entries:
        lines += [
            ("legend", line) for line in _wrapped_note("" if sign == shown else plain(sign), plain(text), indent, width)
        ]
        shown = sign
    lines += _published(table, width)
    return lines


def _shown_name(line: Line, width: int) -> str:
    return shortened(line.name, max(LONGEST_NAME, width // 3))


def _names_width(section: Section, width: int) -> int:
    """Width of the column of names, with the space before it."""
    return max(cell_len(name) for name in (section.title, *(_shown_name(line, width) for line in section.lines))) + 1


def _tables_that_fit(section: Section, width: int) -> list[list[Column]]:
    """One table where it fits; else fine-tuning in a second one, and further cuts between groups as the width asks."""
    names = _names_width(section, width)
    groups: dict[str, list[Column]] = {}
    for column in section.columns:
        groups.setdefault(column.heading, []).append(column)
    size = {group: sum(_column_widths(section, columns)) + len(GAP) * len(columns) for group, columns in groups.items()}
    if names + sum(size.values()) <= width:
        return [section.columns] if section.columns else []
    tables: list[list[Column]] = []
    for folds in (False, True):
        room = -1
        for group, columns in groups.items():
            if columns[0].folds is folds:
                if size[group] > room:
                    tables.append([])
                    room = width - names
                tables[-1].extend(columns)
                room -= size[group]
    return tables


def _texts(section: Section, column: Column) -> list[str]:
    """Cell texts with numbers right-aligned on each other."""
    texts = [
        "" if line.empty and line.failures else plain(line.cells[column.key].text(column)) for line in section.lines
    ]
    numbers = [match.group() if (match := _NUMBER.match(text)) else "" for text in texts]
    widest = max(map(len, numbers), default=0)
    return [
        text.rjust(widest) if len(text) < widest else " " * (widest - len(number)) + text if number else text
        for text, number in zip(texts, numbers, strict=True)
    ]


def _column_widths(section: Section, columns: list[Column]) -> list[int]:
    widths = [
        max(len(plain(column.title)), *(cell_len(text) for text in _texts(section, column)), 1) for column in columns
    ]
    group = len(plain(columns[0].heading))
    if len({column.heading for column in columns}) == 1:
        widths[-1] += max(0, group - sum(widths) - len(GAP) * (len(columns) - 1))
    return widths


def _grid(section: Section, columns: list[Column], width: int, failures: bool) -> Iterator[tuple[str, str]]:
    names = _names_width(section, width)
    texts = {column.key: dict(zip(map(id, section.lines), _texts(section, column), strict=True)) for column in columns}
    groups: dict[str, list[Column]] = {}
    for column in columns:
        groups.setdefault(column.heading, []).append(column)
    widths = {
        c.key: w
        for of_group in groups.values()
        for c, w in zip(of_group, _column_widths(section, of_group), strict=True)
    }
    total = names + sum(len(GAP) + w for w in widths.values())
    upper = f" {plain(section.title)}".ljust(names)
    for group, of_group in groups.items():
        upper += GAP + plain(group).ljust(sum(widths[c.key] for c in of_group) + len(GAP) * (len(of_group) - 1))
    yield "heading", upper.rstrip()
    yield "heading", (" " * names + "".join(GAP + plain(c.title).ljust(widths[c.key]) for c in columns)).rstrip()
    for heading, lines in section.blocks():
        if heading:
            yield "heading", f" {heading} ".ljust(total, "-")
        for line in lines:
            if line.variant and all(line.cells[column.key].status == "none" for column in columns):
                continue
            name = " " + _shown_name(line, width)
            name += " " * (names - cell_len(name))
            if line.empty and line.failures:
                for at, failure in enumerate(line.failures if failures else ["failed"]):
                    yield "failure", _failure(name if at == 0 else " " * names, failure, width)
                continue
            body = "".join(
                GAP + text + " " * (widths[c.key] - cell_len(text))
                for c in columns
                for text in [texts[c.key][id(line)]]
            )
            yield "row", (name + body).rstrip()
            for failure in line.failures if failures else []:
                yield "failure", _failure(" " * names, failure, width)


def _failure(name: str, sentence: str, width: int) -> str:
    """The message gives way where the line is too long, never the command that shows the whole of it."""
    sentence = plain(sentence)
    command = _COMMAND.search(sentence)
    tail = f"; `{command.group(1)}`" if command else ""
    head = sentence[: command.start()] if command else sentence
    room = max(20, width - cell_len(name) - len(GAP) - cell_len(tail))
    return name + GAP + (head if cell_len(head) <= room else set_cell_size(head, room - 1) + "…") + tail


def _wrapped_note(sign: str, text: str, indent: int, width: int) -> list[str]:
    lead = f" {sign.ljust(indent)}  "
    wrapper = textwrap.TextWrapper(
        max(40, width), initial_indent=lead, subsequent_indent=" " * len(lead), break_on_hyphens=False
    )
    return wrapper.wrap(text) or [lead.rstrip()]


def _wrap_parts(parts: list[str], width: int) -> list[str]:
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1]) + 3 + cell_len(part) <= width:
            lines[-1] += "   " + part
        else:
            lines.append(part)
    return lines


def _published(table: TableContent, width: int) -> Iterator[tuple[str, str]]:
    for block in table.published:
        yield "published", ""
        for text in _wrapped_note(
            "published", f"{block.setting} ({'; '.join(block.sources)}), in %; {NOT_COMPARABLE}", 9, width
        ):
            yield "published", text
        names = max(len(row) for row in block.rows) + 2
        yield "published", " " * (names + 2) + GAP.join(block.metrics)
        for row in block.rows:
            cells = GAP.join(
                cell.rjust(len(metric)) for cell, metric in zip(block.cells(row), block.metrics, strict=True)
            )
            yield "published", f"  {row.ljust(names)}{cells}"
        for agreement in block.agreement:
            for text in _wrapped_note("agreement", plain(str(agreement)), 9, width):
                yield "published", text
