"""Names come from YAML files, folders and plugins: made harmless for a terminal, Markdown, LaTeX and HTML."""

from __future__ import annotations

import html as _html
import re

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "#": r"\#",
    "$": r"\$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",  # a bracket after \\ would be read as its argument
    "±": r"$\pm$",
    "▾": r"$\triangledown$",
    "↑": r"$\uparrow$",
    "…": r"\dots{}",
    "†": r"$\dagger$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "−": "$-$",
}


def plain(text: str) -> str:
    """``text`` on one line, with what a terminal could obey (control characters, direction marks) written out.

    >>> plain("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, longest: int) -> str:
    """``plain`` text of at most ``longest`` columns of a terminal, cut in the middle: names of combinations differ at
    their ends.

    >>> shortened("relative_position+exemplar", 20)
    'relative_…n+exemplar'
    """
    from rich.cells import cell_len, set_cell_size

    text = plain(text)
    if cell_len(text) <= longest:
        return text
    tail = text
    while cell_len(tail) > longest // 2:
        tail = tail[1:]
    return set_cell_size(text, longest - 1 - cell_len(tail)) + "…" + tail


def markdown(text: str) -> str:
    """``text`` as Markdown that shows it as it is, also inside a table."""
    text = re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", plain(text).replace("&", "&amp;"))
    return text.replace("<", "&lt;").replace(">", "&gt;")


def latex(text: str) -> str:
    """``text`` as LaTeX that prints it as it is."""
    return "".join(_LATEX.get(c, c) for c in plain(text))


def html(text: str) -> str:
    """``text`` as HTML, inside an element or a quoted attribute."""
    return _html.escape(plain(text), quote=True)
