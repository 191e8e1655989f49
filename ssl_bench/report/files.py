"""The files of a report, written into a results folder."""

from __future__ import annotations

from pathlib import Path

from ssl_bench.errors import NoRoomError, WriteError
from ssl_bench.records.schema import write_bytes
from ssl_bench.report.building.classes import per_class_csv
from ssl_bench.report.rendering.csv_files import (
    agreement_csv,
    comparisons_csv,
    labels_saved_csv,
    published_pairs_csv,
    remeasured_csv,
)
from ssl_bench.report.rendering.figures import draw_figures
from ssl_bench.report.results import Results, Table, load
from ssl_bench.system.disk import reason


def write_report(
    folder: str | Path,
    results: Results | None = None,
    *,
    svg: bool = False,
    photographs: bool = True,
    redraw: bool = True,
) -> list[Path]:
    """Write table.md, .csv, .tex, .html, comparisons.csv and figures/ into a results folder, from its records alone.

    ``results`` is what was loaded from that folder already, if it was; ``svg`` and ``photographs`` are as for
    ``draw_figures``. ``redraw``: False leaves everything as it is where the table's texts are those that are there.
    Written where there is something to say, and else removed: labels_saved.csv, remeasured.csv (numbers under two
    versions of a protocol), per_class.csv, agreement.csv and published_pairs.csv (both about published orders).

    Returns
    -------
    The files written.

    Raises
    ------
    RecordError
        Where there is no run in the folder; WriteError, naming the file, where one cannot be written; NoRoomError on a
        full disk.
    """
    root = Path(folder)
    results = load(root) if results is None else results
    table = results.table()
    texts = table_texts(results, table)
    if not redraw and all((root / name).exists() for name in ("table.html", "figures")) and _are_there(root, texts):
        return []
    try:
        figures = draw_figures(results, root / "figures", svg=svg, photographs=photographs, table=table)
        pictures = [str(path.relative_to(root)) for path in figures if path.suffix != ".svg"]
        texts["table.html"] = table.html(pictures)
        for name, text in texts.items():
            if text:
                write_bytes(root / name, text.encode())
            else:
                (root / name).unlink(missing_ok=True)  # of an earlier report, and no longer true
    except NoRoomError:
        raise
    except OSError as error:
        what_to_do = f"the records are as they were. Make {root} writable, or report on a copy"
        raise WriteError(f"the table's files cannot be written: {reason(error)}; {what_to_do}") from error
    return [root / name for name, text in texts.items() if text] + figures


def _are_there(root: Path, texts: dict[str, str]) -> bool:
    """Whether a folder holds these texts and no others of their names."""
    try:
        return all(
            (root / name).read_bytes() == text.encode() if text else not (root / name).exists()
            for name, text in texts.items()
        )
    except OSError:
        return False


def table_texts(results: Results, table: Table | None = None) -> dict[str, str]:
    """Name to content of the files of a table but for table.html, which shows figures; "" where there is nothing to
    say. ``table``: what ``results.table()`` gave, if it was asked already."""
    table, wide = table or results.table(), results.table(wide=True)
    return {
        "table.md": table.markdown(),
        "table.csv": wide.csv(),
        "table.tex": table.latex(),
        "comparisons.csv": comparisons_csv(wide),
        "labels_saved.csv": labels_saved_csv(table),
        "agreement.csv": agreement_csv(table),
        "published_pairs.csv": published_pairs_csv(table),
        "remeasured.csv": remeasured_csv(results),
        "per_class.csv": per_class_csv(results),
    }
