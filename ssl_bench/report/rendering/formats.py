"""The table as Markdown, CSV, LaTeX and HTML. Every name passes through ``escape``."""

from __future__ import annotations

import csv as _csv
import io
import math
from collections.abc import Callable
from itertools import groupby

from ssl_bench.report.building.few_labels import SavedEntry
from ssl_bench.report.building.remeasured import remeasured_of
from ssl_bench.report.ground import escape
from ssl_bench.report.ground.content import Column, Line, Section, TableContent
from ssl_bench.report.reading.records import RunRecords
from ssl_bench.report.rendering.terminal import NOT_COMPARABLE

CSV_COLUMNS = [
    "data",
    "block",
    "row",
    "variant",
    "task",
    "uses_labels",
    "column",
    "evaluator",
    "metric",
    "stage",
    "labels",
    "split",
    "unit",
    "status",
    "value",
    "low",
    "high",
    "interval",
    "n",
    "images",
    "draws",
    "marks",
    "protocol",
    "values",
]
SIGNS = ("±", "=", "▾", "†", "×")  # explained without a colon


def _header(column: Column) -> str:
    return f"{column.heading}: {column.title}" if column.heading != column.title else column.title


def _note(table: TableContent) -> list[str]:
    return [f"{sign}: {text}" if sign not in SIGNS else f"{sign} {text}" for sign, text in table.legend]


def _is_best(line: Line, column: Column) -> bool:
    return line.cells[column.key].best or line.cells[column.key].equal


def markdown(table: TableContent) -> str:
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
        for part in section.below:
            out += [*_markdown_grid(part), ""]
    out += [f"- {e(note)}" for note in _note(table)]
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
                f"**{text}**" if _is_best(line, c) else text for text, c in zip(cells, section.columns, strict=True)
            ]
            out.append(f"| {e(line.name)} | " + " | ".join(cells) + " |")
    return out


def _plain_number(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def csv(table: TableContent) -> str:
    """One line a row and column, then those of numbers under another protocol; accuracies are fractions, and so are
    differences of them.

    ``n`` counts seeds, ``images`` the images behind each of them; ``values`` are both values where there is no
    interval, of two seeds or of two draws of one.
    """
    buffer = io.StringIO()
    writer = _csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for section in [part for whole in table.sections for part in (whole, whole.earlier) if part is not None]:
        for line in section.lines:
            for column in [column for column in section.columns if not column.repeated]:
                cell = line.cells[column.key]
                marked = {
                    "best": cell.best,
                    "equal": cell.equal,
                    "below_random": cell.below,
                    "saw_labels": cell.saw_labels,
                }
                marks = [name for name, on in marked.items() if on]
                writer.writerow(
                    [
                        column.data or section.data,
                        line.block,
                        line.row,
                        line.variant,
                        line.task,
                        int(line.uses_labels),
                        column.key,
                        column.evaluator,
                        column.metric,
                        cell.stage or column.stage,
                        "" if column.labels is None else column.labels,
                        column.split if column.evaluator else "",
                        "fraction" if column.unit in ("%", "points") else column.unit,
                        cell.status,
                        _plain_number(cell.value),
                        _plain_number(cell.low),
                        _plain_number(cell.high),
                        cell.interval,
                        len(cell.values),
                        cell.images or "",
                        cell.draws or "",
                        " ".join(marks),
                        column.protocol,
                        " ".join(map(_plain_number, cell.both)) if column.unit in ("%", "points") else "",
                    ]
                )
    return buffer.getvalue()


def comparisons_csv(table: TableContent) -> str:
    """Every paired comparison behind the marks: difference (first minus second, fractions), interval, p, Holm's p; data
    and column as in ``csv``."""
    buffer = io.StringIO()
    writer = _csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["data", "column", "first", "second", "difference", "low", "high", "p", "p_holm", "seeds", "images", "protocol"]
    )
    written = set()  # what evaluators measure on sets of their own stands beside every labelled set
    for section in table.sections:
        columns = {column.key: column for column in section.columns}
        for c in section.comparisons:
            place = (columns[c.column].data or section.data, c.column, c.first, c.second)
            if place not in written:
                written.add(place)
                numbers = [_plain_number(value) for value in (c.difference, c.low, c.high, c.p, c.p_holm)]
                writer.writerow([*place, *numbers, c.seeds, c.images, columns[c.column].protocol])
    return buffer.getvalue()


def labels_saved_csv(table: TableContent) -> str:
    """One line a row and share of the labels; "" where nothing could be compared.

    Labels are counts, bounds ">" and "<=" as in ``Needed``.
    """
    buffer = io.StringIO()
    writer = _csv.writer(buffer, lineterminator="\n")
    needs = ["labels", "random_needs", "bound", "factor", "low", "low_bound", "high", "high_bound"]
    writer.writerow(["data", "evaluator", "row", "share", *needs, "seeds", "protocol"])
    empty = True
    for section in table.sections:
        for line, column in (
            [(line, column) for line in section.saved.lines for column in section.saved.columns]
            if section.saved
            else []
        ):
            cell = line.cells[column.key]
            if isinstance(cell, SavedEntry) and (saving := cell.saving) is not None:
                ends = [(_plain_number(saving.factor(needed)), needed.bound) for needed in saving.range or ()] or [
                    ("", ""),
                    ("", ""),
                ]
                numbers = [
                    _plain_number(saving.labels),
                    _plain_number(saving.mean.labels),
                    saving.mean.bound,
                    _plain_number(saving.factor(saving.mean)),
                ]
                writer.writerow(
                    [
                        section.data,
                        saving.evaluator,
                        line.row,
                        saving.share,
                        *numbers,
                        *ends[0],
                        *ends[1],
                        len(saving.seeds),
                        column.protocol,
                    ]
                )
                empty = False
    return "" if empty else buffer.getvalue()


def agreement_csv(table: TableContent) -> str:
    """Every comparison with a published order, without and with the row of labels; "" where there is none."""
    buffer = io.StringIO()
    writer = _csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [
            "setting",
            "published",
            "data",
            "column",
            "labels_row",
            "n",
            "tau",
            "p",
            "low",
            "high",
            "seeds",
            "rows",
            "protocol",
        ]
    )
    agreements = [agreement for block in table.published for agreement in block.agreement]
    for agreement in agreements:
        rows = "; ".join(f"{theirs}={ours}" for theirs, ours in agreement.rows)
        for labels_row, correlation in enumerate((agreement.alone, agreement.with_labels)):
            if correlation is not None:
                numbers = [
                    _plain_number(value)
                    for value in (correlation.tau, correlation.p, correlation.low, correlation.high)
                ]
                place = (agreement.setting, agreement.metric, agreement.data, agreement.column)
                writer.writerow(
                    [*place, labels_row, correlation.n, *numbers, correlation.seeds, rows, agreement.protocol]
                )
    return buffer.getvalue() if agreements else ""


def published_pairs_csv(table: TableContent) -> str:
    """Any two rows of an order that was published, ``first`` the higher one there: that difference (points), ours
    (fractions), what it says."""
    buffer = io.StringIO()
    writer = _csv.writer(buffer, lineterminator="\n")
    numbers = ["published_difference", "difference", "low", "high", "p", "p_holm"]
    writer.writerow(
        [
            "setting",
            "published",
            "data",
            "column",
            "first",
            "second",
            *numbers,
            "seeds",
            "images",
            "verdict",
            "protocol",
        ]
    )
    pairs = [
        (agreement, pair) for block in table.published for agreement in block.agreement for pair in agreement.pairs
    ]
    for agreement, pair in pairs:
        c = pair.ours
        values = [
            f"{pair.published:.2f}",
            *(_plain_number(value) for value in (c.difference, c.low, c.high, c.p, pair.p_holm)),
        ]
        place = (agreement.setting, agreement.metric, agreement.data, agreement.column, pair.first, pair.second)
        writer.writerow([*place, *values, c.seeds, c.images, pair.verdict, agreement.protocol])
    return buffer.getvalue() if pairs else ""


def remeasured_csv(results: RunRecords) -> str:
    """Every number that a cell has under two versions of a protocol; "" where there is none.

    See ``Results.remeasured``.
    """
    return remeasured_of(results).to_csv(index=False, lineterminator="\n") if len(results.earlier) else ""


def latex(table: TableContent) -> str:
    """A table for ``\\usepackage{booktabs,textcomp,amssymb}`` with T1 fonts."""
    e = escape.latex
    out = [r"% needs \usepackage[T1]{fontenc} \usepackage{booktabs,textcomp,amssymb}"]
    for section in table.sections:
        judged = [f"judged on {section.data}"] if len(table.sections) > 1 else []
        caption = ". ".join(e(part) for part in [*(["VALIDATION"] if table.validation else []), *table.title, *judged])
        out += [r"\begin{table}", r"\centering\footnotesize", rf"\caption{{{caption}.}}", *_latex_grid(section)]
        for part in section.below:
            out += [r"\par\medskip", *_latex_grid(part)]
        notes = (
            [f"{line.name}: {failure}" for line in section.lines for failure in line.failures]
            + table.warnings
            + _note(table)
        )
        out += [rf"\par\raggedright\scriptsize {e(note)}" for note in notes]
        out += [r"\end{table}", ""]
    for block in table.published:
        caption = f"Published numbers, {NOT_COMPARABLE}: {e(block.setting)} ({e('; '.join(block.sources))}), in \\%."
        out += [r"\begin{table}", r"\centering\footnotesize\itshape", rf"\caption{{{caption}}}"]
        out += [
            rf"\begin{{tabular}}{{l{'r' * len(block.metrics)}}}",
            r"\toprule",
            " & ".join(["", *map(e, block.metrics)]) + r" \\",
            r"\midrule",
        ]
        out += [" & ".join(map(e, [row, *block.cells(row)])) + r" \\" for row in block.rows]
        out += [
            r"\bottomrule",
            r"\end{tabular}",
            *[rf"\par {e(str(agreement))}." for agreement in block.agreement],
            r"\end{table}",
            "",
        ]
    return "\n".join(out) + "\n"


def _latex_grid(section: Section) -> list[str]:
    e, width = escape.latex, len(section.columns)
    out = [rf"\begin{{tabular}}{{l{'r' * width}}}", r"\toprule", *_latex_head(section)]
    for heading, lines in section.blocks():
        out += [r"\midrule", *([rf"\multicolumn{{{width + 1}}}{{l}}{{\textit{{{heading}}}}} \\"] if heading else [])]
        for line in lines:
            cells = [e(line.cells[c.key].text(c)) for c in section.columns]
            cells = [
                rf"\textbf{{{text}}}" if _is_best(line, c) else text
                for text, c in zip(cells, section.columns, strict=True)
            ]
            out.append(" & ".join([e(line.name), *cells]) + r" \\")
    return [*out, r"\bottomrule", r"\end{tabular}"]


def _latex_head(section: Section) -> list[str]:
    groups = [
        (group, len(list(columns))) for group, columns in groupby(section.columns, key=lambda column: column.heading)
    ]
    upper = (
        " & ".join(
            [
                escape.latex(section.title),
                *[rf"\multicolumn{{{size}}}{{c}}{{{escape.latex(group)}}}" for group, size in groups],
            ]
        )
        + r" \\"
    )
    rules, at = [], 2
    for _, size in groups:
        rules.append(rf"\cmidrule(lr){{{at}-{at + size - 1}}}")
        at += size
    return [
        upper,
        "".join(rules),
        " & ".join(["", *[escape.latex(column.title) for column in section.columns]]) + r" \\",
    ]


_STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}p.sub,ul.notes{color:color-mix(in srgb,currentColor 70%,transparent)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap}
th,td{padding:.25rem .7rem;text-align:right}th:first-child,td:first-child{text-align:left}thead tr:first-child th{text-align:center}
thead tr:last-child th{border-bottom:2px solid}
tr.block th{padding-top:.9rem;text-align:left;font-weight:400;font-style:italic;border-bottom:1px solid}
tbody tr:hover td{background:color-mix(in srgb,currentColor 8%,transparent)}td.best{font-weight:700}td.none{opacity:.5}
tr.failed td{white-space:normal;color:#b3261e;text-align:left}.warning{border-left:4px solid #e69f00;padding:.3rem .8rem}
.published{font-style:italic}ul.notes{font-size:.88rem;padding-left:1.2rem}img{max-width:100%;height:auto;background:#fff;margin:.5rem 0}
"""


def html(table: TableContent, figures: list[str]) -> str:
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
        for part in (section, *section.below):
            out += _html_grid(part)
    out += ['<ul class="notes">', *[f"<li>{e(note)}</li>" for note in _note(table)], "</ul>"]
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
    groups = [
        (group, len(list(columns))) for group, columns in groupby(section.columns, key=lambda column: column.heading)
    ]
    upper = "".join(f'<th colspan="{size}">{escape.html(group)}</th>' for group, size in groups)
    lower = "".join(f"<th>{escape.html(column.title)}</th>" for column in section.columns)
    return [f"<thead><tr><th>{escape.html(section.title)}</th>{upper}</tr><tr><th></th>{lower}</tr></thead>"]


def _html_row(line: Line, columns: list[Column], e: Callable[[str], str]) -> list[str]:
    failures = [
        f'<tr class="failed"><td></td><td colspan="{len(columns)}">{e(failure)}</td></tr>' for failure in line.failures
    ]
    if line.empty and line.failures:
        return [
            f'<tr class="failed"><td>{e(line.name)}</td><td colspan="{len(columns)}">{e("; ".join(line.failures))}</td></tr>'
        ]
    cells = []
    for column in columns:
        kind = "best" if _is_best(line, column) else line.cells[column.key].status
        cells.append(f'<td class="{kind}">{e(line.cells[column.key].text(column))}</td>')
    return [f"<tr><td>{e(line.name)}</td>{''.join(cells)}</tr>", *failures]
