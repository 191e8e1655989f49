"""The table as LaTeX. Every name passes through ``escape``."""

from __future__ import annotations

from ssl_bench.report.ground import escape
from ssl_bench.report.ground.content import Section, TableContent
from ssl_bench.report.rendering.notes import NOT_COMPARABLE, legend_notes


def latex_tables(table: TableContent) -> str:
    """A table for ``\\usepackage{booktabs,textcomp,amssymb}`` with T1 fonts."""
    e = escape.latex
    out = [r"% needs \usepackage[T1]{fontenc} \usepackage{booktabs,textcomp,amssymb}"]
    for section in table.sections:
        judged = [f"judged on {section.data}"] if len(table.sections) > 1 else []
        caption = ". ".join(e(part) for part in [*(["VALIDATION"] if table.validation else []), *table.title, *judged])
        out += [r"\begin{table}", r"\centering\footnotesize", rf"\caption{{{caption}.}}", *_latex_grid(section)]
        for part in section.below_on_pages:
            out += [r"\par\medskip", *_latex_grid(part)]
        notes = (
            [f"{line.name}: {failure}" for line in section.lines for failure in line.failures]
            + table.warnings
            + legend_notes(table)
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
                rf"\textbf{{{text}}}" if line.cells[c.key].among_best else text
                for text, c in zip(cells, section.columns, strict=True)
            ]
            out.append(" & ".join([e(line.name), *cells]) + r" \\")
    return [*out, r"\bottomrule", r"\end{tabular}"]


def _latex_head(section: Section) -> list[str]:
    groups = section.groups()
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
