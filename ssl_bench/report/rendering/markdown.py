"""The table as Markdown. Every name passes through ``escape``."""

from __future__ import annotations

from ssl_bench.report.ground import escape
from ssl_bench.report.ground.content import Column, Section, TableContent
from ssl_bench.report.rendering.notes import NOT_COMPARABLE, legend_notes


def markdown_page(table: TableContent) -> str:
    """GitHub-flavoured Markdown; the best pretrained row and those that cannot be told apart from it in bold."""
    e = escape.markdown
    out = [
        "# " + ("VALIDATION: " if table.validation else "") + e(table.name),
        "",
        " · ".join(e(part) for part in table.title[1:]),
        "",
    ]
    out += [f"> **{e(warning)}**\n" for warning in table.warnings]
    for section in table.sections:
        if len(table.sections) > 1:
            out += [f"## Judged on {e(section.data)}", ""]
        out += [
            *_markdown_grid(section),
            "",
            *[f"- {e(line.name)}: {e(failure)}" for line in section.lines for failure in line.failures],
            "",
        ]
        for part in section.below_on_pages:
            out += [*_markdown_grid(part), ""]
    out += [f"- {e(note)}" for note in legend_notes(table)]
    out += ["", "## Published numbers"] if table.published else []
    for block in table.published:
        out += ["", f"*{e(block.setting)} ({e('; '.join(block.sources))}), in %; {NOT_COMPARABLE}.*", ""]
        out += [
            "| | " + " | ".join(f"*{e(metric)}*" for metric in block.metrics) + " |",
            "|---|" + "---:|" * len(block.metrics),
        ]
        for row in block.rows:
            out.append(
                f"| *{e(row)}* | "
                + " | ".join(f"*{e(cell)}*" if cell != "-" else "-" for cell in block.cells(row))
                + " |"
            )
        out += ["", *[f"- {e(str(agreement))}" for agreement in block.agreement]] if block.agreement else []
    return "\n".join(out) + "\n"


def _markdown_grid(section: Section) -> list[str]:
    e = escape.markdown
    out = [
        f"| {e(section.title)} | " + " | ".join(e(_header(column)) for column in section.columns) + " |",
        "|---|" + "---:|" * len(section.columns),
    ]
    for heading, lines in section.blocks():
        if heading:
            out.append(f"| *{heading}* |" + " |" * len(section.columns))
        for line in lines:
            cells = [e(line.cells[c.key].text(c)) for c in section.columns]
            cells = [
                f"**{text}**" if line.cells[c.key].among_best else text
                for text, c in zip(cells, section.columns, strict=True)
            ]
            out.append(f"| {e(line.name)} | " + " | ".join(cells) + " |")
    return out


def _header(column: Column) -> str:
    return f"{column.heading}: {column.title}" if column.heading != column.title else column.title
