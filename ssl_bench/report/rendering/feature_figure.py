"""What the looks at the features saw while the networks were trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_bench.report.reading.records import RunRecords
from ssl_bench.report.rendering.drawing import looks, new_figure, row_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: curve -> heading and factor
PANELS = {
    "probe": ("linear probe on validation, %", 100.0),
    "features/rankme": ("RankMe", 1.0),
    "features/alpha_req": ("exponent of the spectrum (α-ReQ)", 1.0),
    "features/dead_dimensions": ("dead dimensions, %", 100.0),
    "features/alignment": ("alignment (lower: views closer)", 1.0),
    "features/uniformity": ("uniformity (lower: more even)", 1.0),
}


def features_figure(results: RunRecords) -> Figure | None:
    """A panel for each measure, a line for each row: the mean over seeds against the share of the run; None where
    nothing was recorded."""
    panels = [key for key in PANELS if any(key in record.curves for record in results.pretrainings.values())]
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.6 * columns, 2.8 * rows + 0.6)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    names, look = row_names(results), looks(results)
    for at, ax in enumerate(axes.flat):
        if at >= len(panels):
            ax.set_visible(False)
            continue
        title, scale = PANELS[panels[at]]
        ax.set_title(title)
        ax.set_xlabel("share of the run, %")
        ax.set_xlim(0, 102)
        for row in results.run.rows:
            curves = [
                (np.asarray(curve.step) / max(record.steps, 1), np.asarray(curve.value) * scale)
                for (name, _), record in sorted(results.pretrainings.items())
                if name == row.row and (curve := record.curves.get(panels[at])) is not None
            ]
            if curves:
                shares = curves[0][0]
                together = [values for steps, values in curves if len(steps) == len(shares)]
                colour, marker = look[row.row]
                ax.plot(
                    100 * shares, np.mean(together, axis=0), color=colour, marker=marker, markersize=3, linewidth=1.2,
                    label=names[row.row],
                )  # fmt: skip
    handles = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(4, len(handles)))
    return figure
