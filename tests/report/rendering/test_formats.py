"""Markdown, CSV, LaTeX, HTML and the terminal: the same numbers in each, and names that can do no harm."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from ssl_bench.report import Table, load, write_report
from ssl_bench.report.ground import escape
from ssl_bench.report.ground.content import Column, Entry, Line, Section
from ssl_bench.report.rendering.csv_files import CSV_COLUMNS, comparisons_csv

MakeRun = Callable[..., Path]
NASTY = [
    "<script>alert(1)</script>", "a|b\n| c",
    "**bold** [x](javascript:y) `z`", "\x1b[31mred\x1b[0m\x07", "\\input{/etc/passwd} $x_1^2$ 50% & #~",
    "[red]markup[/red]", "[bold", "\u202eright to left\u2028", "=1+1", '"quoted", \'csv\'', "] \\\\ [x",
    "&lt;b&gt; <b>",
]  # fmt: skip


class _Cells(HTMLParser):
    """Tags, attributes and the text of every table cell."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.title = ""
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(str(dict(attrs)["src"]))
        elif tag != "meta":
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags must close in order"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data
        if self.open and self.open[-1] == "title":
            self.title += data


def _parse(text: str) -> _Cells:
    parser = _Cells()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def _table(name: str) -> Table:
    """A table whose every name is ``name``."""
    column = Column("key", name, name, "linear", "top1")
    lines = [
        Line(
            name, name, name, "pretext", cells={"key": Entry("value", {0: 0.5}, 0.4, 0.6, "binomial", 100, stage=name)}
        )
    ]
    lines.append(Line(name, name, name, "labels", cells={"key": Entry("failed")}, failures=[name]))
    return Table(
        name,
        [name, name],
        False,
        [Section(name, [column], lines), Section(name, [column], lines)],
        [(name, name)],
        [name],
    )


names = st.one_of(st.sampled_from(NASTY), st.text(min_size=1, max_size=30)).filter(lambda name: name.strip() != "")


@settings(max_examples=50)
@given(names)
@example("a\ud800b")
def test_terminal_shows_no_control_characters(name: str) -> None:
    text = _table(name).terminal(100)
    assert all(c.isprintable() or c == "\n" for c in text)
    text.encode()


@settings(max_examples=30)
@given(names)
def test_rich_reads_no_markup_in_names(name: str) -> None:
    console = Console(file=io.StringIO(), width=100, color_system=None, force_terminal=False)
    table = _table(name)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    shown, expected = console.file.getvalue().split("\n"), table.terminal(100).split("\n")
    assert len(shown) == len(expected)  # rich cuts what is too wide for it, and alters nothing else
    assert all(cell_len(b) > 100 or a.rstrip() == b.rstrip() for a, b in zip(shown, expected, strict=True))


@settings(max_examples=50)
@given(names)
def test_html_keeps_names_as_text(name: str) -> None:
    found = _parse(_table(name).html(["figures/a.png"]))
    reference = _parse(_table("harmless").html(["figures/a.png"]))
    assert found.tags == reference.tags  # a name adds no element, a script least of all
    assert found.title == escape.plain(name) and escape.plain(name) in found.cells


@settings(max_examples=50)
@given(names)
def test_markdown_tables_keep_their_columns(name: str) -> None:
    rows = [line for line in _table(name).markdown().splitlines() if line.startswith("| ")]
    reference = [line for line in _table("harmless").markdown().splitlines() if line.startswith("| ")]
    unescaped = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows]
    assert unescaped == [row.count("|") for row in reference]
    assert "<script" not in _table(name).markdown()


@given(st.text(max_size=40))
def test_markdown_escapes_can_be_undone(text: str) -> None:
    assert unescape(re.sub(r"\\([\\`*_\[\]|~$#!])", r"\1", escape.markdown(text))) == escape.plain(text)


@given(st.text(max_size=40))
@example("\\ { } # $ % & _ ~ ^ [ ]")
def test_latex_leaves_no_special_character(text: str) -> None:
    found = escape.latex(text)
    for harmless in (
        r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\textless{}", r"\textgreater{}",
        r"\textbar{}", r"\textquotedbl{}", r"\triangledown", r"\dots{}", r"\dagger", r"\pm", r"\times", r"\leq",
        "{[}", "{]}", "$$",
    ):  # fmt: skip
        found = found.replace(harmless, "")
    found = re.sub(r"\\[{}#$%&_]", "", found)
    assert not re.search(r"[\\{}#%&_~^\[\]]", found)


@settings(max_examples=50)
@given(names)
def test_latex_rows_keep_their_cells(name: str) -> None:
    text = _table(name).latex()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    for row in [line for line in text.splitlines() if line.endswith(r" \\") and not line.startswith(r"\multicolumn")]:
        assert len(re.findall(r"(?<!\\)&", row)) == 1
    braces = re.sub(r"\\[{}]", "", text)
    assert braces.count("{") == braces.count("}")


@pytest.mark.parametrize("name", NASTY)
def test_csv_reads_back_as_written(name: str) -> None:
    rows = list(csv.DictReader(io.StringIO(_table(name).csv(), newline="")))
    assert list(rows[0]) == CSV_COLUMNS and {row["row"] for row in rows} == {name}


def test_a_whole_run_of_nasty_names(run_folder: MakeRun) -> None:
    rows = dict.fromkeys(NASTY, ("simclr", "pretext", (0.5, 0.6))) | {"random": ("random", "baseline", (0.4, 0.3))}
    folder = run_folder(rows, seeds=(0,), name=NASTY[0], fails={(NASTY[3], 0, "pretraining"): "\x1b[2J" + NASTY[0]})
    table = load(folder).table()
    html = _parse(table.html())
    assert "script" not in html.tags and set(map(escape.plain, NASTY)) <= set(html.cells)
    assert "\x1b" not in table.terminal()


def test_csv_holds_plain_numbers(run_folder: MakeRun) -> None:
    table = load(run_folder()).table(wide=True)
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert len(rows) == len(table.sections[0].lines) * len(table.sections[0].columns)
    by_place = {(row["row"], row["variant"], row["column"]): row for row in rows}
    assert len(by_place) == len(rows)
    for line in table.sections[0].lines:
        cell, row = line.cells["linear top1 best"], by_place[line.row, line.variant, "linear top1 best"]
        if cell.status == "value":
            assert (float(row["value"]), float(row["low"]), float(row["high"])) == (cell.value, cell.low, cell.high)
            assert (int(row["n"]), int(row["images"]), row["stage"], row["unit"]) == (3, 500, cell.stage, "fraction")
    assert by_place["simclr", "", "linear top1 best"]["marks"] == "best"
    assert (
        by_place["pixels", "", "linear top1 best"]["status"] == "none"
        and by_place["pixels", "", "linear top1 best"]["value"] == ""
    )


def test_every_format_shows_the_same_cells(run_folder: MakeRun) -> None:
    table = load(run_folder()).table()
    (section,) = table.sections
    html, markdown, latex, terminal = _parse(table.html()).cells, table.markdown(), table.latex(), table.terminal()
    for line in section.lines:
        for column in section.columns:
            text = line.cells[column.key].text(column)
            assert (
                text in html and escape.markdown(text) in markdown and escape.latex(text) in latex and text in terminal
            )


def test_best_row_is_bold(run_folder: MakeRun) -> None:
    table = load(run_folder(n=2_000)).table()
    text = (
        next(line for line in table.sections[0].lines if line.row == "simclr")
        .cells["linear top1 best"]
        .text(table.sections[0].columns[0])
    )
    assert f"**{text}**" in table.markdown() and rf"\textbf{{{escape.latex(text)}}}" in table.latex()
    assert f'<td class="best">{text}</td>' in table.html()


def test_report_is_a_function_of_the_records(run_folder: MakeRun, tmp_path: Path) -> None:
    folder = run_folder({"simclr": ("simclr", "pretext", (0.5, 0.7)), "random": ("random", "baseline", (0.4, 0.3))})
    written = {path: path.read_bytes() for path in write_report(folder, svg=True)}
    assert {path.name for path in written} == {
        "table.md", "table.csv", "table.tex", "table.html", "comparisons.csv", "labels_saved.csv", "stages.png",
        "stages.svg", "gains.png", "gains.svg",
        "cost.png", "cost.svg", "labels.png", "labels.svg", "curves.png", "curves.svg",
    }  # fmt: skip
    for path in written:
        path.unlink()
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    again = write_report(moved, svg=True)
    assert {path.relative_to(moved): path.read_bytes() for path in again} == {
        path.relative_to(folder): text for path, text in written.items()
    }
    pictures = [f"figures/{name}.png" for name in ("stages", "gains", "cost", "labels", "curves")]
    assert _parse((moved / "table.html").read_text()).pictures == pictures


def test_comparisons_are_written_with_their_p(run_folder: MakeRun) -> None:
    rows = list(csv.DictReader(io.StringIO(comparisons_csv(load(run_folder(n=1_000)).table()))))
    assert {row["second"] for row in rows if row["column"] == "linear top1 best"} == {"rotation", "autoencoder"}
    assert all(
        float(row["p"]) <= float(row["p_holm"]) <= 1
        and float(row["low"]) <= float(row["difference"]) <= float(row["high"])
        for row in rows
    )


def test_comparisons_join_the_csv_also_where_an_evaluator_brings_its_set(run_folder: MakeRun) -> None:
    boxes = {"cells": {"rotation": 0.5, "simclr": 0.6, "autoencoder": 0.4}}
    table = load(run_folder(data=("toy", "other"), boxes=boxes)).table(wide=True)
    measured = {(row["data"], row["column"], row["row"]) for row in csv.DictReader(io.StringIO(table.csv()))}
    compared = [
        (row["data"], row["column"], row["first"], row["second"])
        for row in csv.DictReader(io.StringIO(comparisons_csv(table)))
    ]
    assert all((data, column, row) in measured for data, column, *rows in compared for row in rows)
    assert (
        len(compared) == len(set(compared))
        and len([place for place in compared if place[:2] == ("cells", "cells detection ap")]) == 2
    )
    assert any(column == "knn top1@200" for _, column, *_ in compared)
