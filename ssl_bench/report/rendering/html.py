"""The table as one page of HTML. Every name passes through ``escape``."""

from __future__ import annotations

from collections.abc import Callable

from ssl_bench.report.ground import escape
from ssl_bench.report.ground.content import Column, Line, Section, TableContent
from ssl_bench.report.rendering.notes import NOT_COMPARABLE, legend_notes

_STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}\
p.sub,ul.notes{color:color-mix(in srgb,currentColor 70%,transparent)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap}
th,td{padding:.25rem .7rem;text-align:right}th:first-child,td:first-child{text-align:left}\
thead tr:first-child th{text-align:center}
thead tr:last-child th{border-bottom:2px solid}
tr.block th{padding-top:.9rem;text-align:left;font-weight:400;font-style:italic;border-bottom:1px solid}
tbody tr:hover td{background:color-mix(in srgb,currentColor 8%,transparent)}td.best{font-weight:700}td.none{opacity:.5}
tr.failed td{white-space:normal;color:#b3261e;text-align:left}\
.warning{border-left:4px solid #e69f00;padding:.3rem .8rem}
.published{font-style:italic}ul.notes{font-size:.88rem;padding-left:1.2rem}\
img{max-width:100%;height:auto;background:#fff;margin:.5rem 0}
"""


def html_page(table: TableContent, figures: list[str]) -> str:
    """One page without scripts or outside addresses, except the pictures named in ``figures``."""
    e = escape.html
    heading = ("VALIDATION: " if table.validation else "") + table.name
    out = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
    ]
    out += [f"<title>{e(heading)}</title><style>{_STYLE}</style></head><body>", f"<h1>{e(heading)}</h1>"]
    out += [f'<p class="sub">{" · ".join(e(part) for part in table.title[1:])}</p>']
    out += [f'<p class="warning">{e(warning)}</p>' for warning in table.warnings]
    for section in table.sections:
        if len(table.sections) > 1:
            out.append(f"<h2>Judged on {e(section.data)}</h2>")
        for part in (section, *section.below_on_pages):
            out += _html_grid(part)
    out += ['<ul class="notes">', *[f"<li>{e(note)}</li>" for note in legend_notes(table)], "</ul>"]
    out += [f'<img src="{e(figure)}" alt="{e(figure.rpartition("/")[2].rpartition(".")[0])}">' for figure in figures]
    out += ['<section class="published"><h2>Published numbers</h2>'] if table.published else []
    for block in table.published:
        out += [f"<p>{e(block.setting)} ({e('; '.join(block.sources))}), in %; {NOT_COMPARABLE}.</p>"]
        out += [
            "<table><thead><tr><th></th>",
            *[f"<th>{e(metric)}</th>" for metric in block.metrics],
            "</tr></thead><tbody>",
        ]
        out += [
            "<tr>" + "".join(f"<td>{e(cell)}</td>" for cell in (row, *block.cells(row))) + "</tr>" for row in block.rows
        ]
        out += ["</tbody></table>", *[f"<p>{e(str(agreement))}.</p>" for agreement in block.agreement]]
    out += ["</section>"] if table.published else []
    return "\n".join([*out, "</body></html>"]) + "\n"


def _html_grid(section: Section) -> list[str]:
    out = ['<div class="scroll"><table>', *_html_head(section), "<tbody>"]
    for title, lines in section.blocks():
        if title:
            out.append(f'<tr class="block"><th colspan="{len(section.columns) + 1}">{escape.html(title)}</th></tr>')
        for line in lines:
            out += _html_row(line, section.columns, escape.html)
    return [*out, "</tbody></table></div>"]


def _html_head(section: Section) -> list[str]:
    groups = section.groups()
    upper = "".join(f'<th colspan="{size}">{escape.html(group)}</th>' for group, size in groups)
    lower = "".join(f"<th>{escape.html(column.title)}</th>" for column in section.columns)
    return [f"<thead><tr><th>{escape.html(section.title)}</th>{upper}</tr><tr><th></th>{lower}</tr></thead>"]


def _html_row(line: Line, columns: list[Column], e: Callable[[str], str]) -> list[str]:
    failures = [
        f'<tr class="failed"><td></td><td colspan="{len(columns)}">{e(failure)}</td></tr>' for failure in line.failures
    ]
    if line.empty and line.failures:
        told = e("; ".join(line.failures))
        return [f'<tr class="failed"><td>{e(line.name)}</td><td colspan="{len(columns)}">{told}</td></tr>']
    cells = []
    for column in columns:
        kind = "best" if line.cells[column.key].among_best else line.cells[column.key].status
        cells.append(f'<td class="{kind}">{e(line.cells[column.key].text(column))}</td>')
    return [f"<tr><td>{e(line.name)}</td>{''.join(cells)}</tr>", *failures]
