"""What all figures share: how they look, how rows are told apart, and the bytes of their files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ssl_bench.records.protocols import split_protocol
from ssl_bench.report.ground.escape import shortened
from ssl_bench.report.reading.records import RunRecords

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

# Okabe and Ito's colours, told apart with any common colour blindness; markers differ as well, for print without
# colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#8a8a8a"
LONGEST_NAME = 32


@contextmanager
def style() -> Iterator[None]:
    import matplotlib

    settings: dict[str, Any] = {
        # Names are shown as they are: a dollar sign in one is no mathematics.
        "text.parse_math": False,
        "svg.hashsalt": "ssl_bench",
        "svg.fonttype": "path",
        "font.size": 9,
        "font.family": "DejaVu Sans",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "axes.titlesize": 9,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": "#666666",
        "figure.constrained_layout.use": True,
        "savefig.dpi": 150,
        "legend.frameon": False,
        "figure.max_open_warning": 0,
    }
    with matplotlib.rc_context(settings):  # type: ignore[arg-type,unused-ignore]
        yield


def file_bytes(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    # No date and no version in the file: the same records give the same bytes.
    if kind == "svg":
        figure.savefig(buffer, format=kind, metadata={"Date": None, "Creator": None})  # type: ignore[arg-type,unused-ignore]
    else:
        figure.savefig(buffer, format=kind)
        return _with_palette(buffer)
    return buffer.getvalue()


def photograph_bytes(picture: Image.Image) -> bytes:
    """A JPEG, a third of the size of a PNG where there are photographs."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _with_palette(png: io.BytesIO) -> bytes:
    """A PNG of at most 64 colours: a chart looks the same, in a third of the bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.open(png).convert("RGB")
    image = image.quantize(64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def new_figure(width: float, height: float, layout: Literal["none"] | None = None) -> Figure:
    """A figure of ``width`` by ``height`` inches that needs no display; ``layout``: "none" where the places of its
    panels are given."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)  # type: ignore[arg-type,unused-ignore]
    FigureCanvasAgg(figure)
    return figure


def short(name: str) -> str:
    """A name as a figure can show it: on one line, and not too long."""
    return shortened(name, LONGEST_NAME)


def row_names(results: RunRecords, share: float = 1.0) -> dict[str, str]:
    """Row to its name in a figure about a share of the labels; marked where its pretraining was given labels and that
    is not plain."""
    marked = {row.row for row in results.run.rows if row.uses_labels and (row.block != "labels" or share < 1)}
    return {row.row: short(row.row) + (" †" if row.row in marked else "") for row in results.run.rows}


def looks(results: RunRecords) -> dict[str, tuple[str, str]]:
    """Colour and marker of every row, the same in every figure; baselines come last, as they are seldom drawn so."""
    rows = [row.row for row in sorted(results.run.rows, key=lambda row: row.block == "baseline")]
    return {
        row: (COLOURS[at % len(COLOURS)], MARKERS[(at + at // len(COLOURS)) % len(MARKERS)])
        for at, row in enumerate(rows)
    }


def protocol_word(results: RunRecords, evaluator: str, data: str) -> str:
    """As in the headings of a table: the version of an evaluator's protocol where it is an older one; "" else."""
    return (
        f"protocol v{split_protocol(results.protocols.get((evaluator, data), ''))[1]}"
        if results.is_older(evaluator, data)
        else ""
    )


def split_word(results: RunRecords) -> str:
    """What the numbers of a figure were measured on."""
    return "test" if results.run.final else "VALIDATION"
