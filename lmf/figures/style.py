"""The style that all figures share, and files of figures."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lmf.errors import needed
from lmf.io.files import replacing

with needed("train"):
    import matplotlib
    from cycler import cycler
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.4, 7.0  # inches: widths of a column and of a page of a paper
DPI = 300
FONT = 8.0  # points
# The palette of Okabe and Ito without yellow, which is too bright for lines. Markers tell lines apart in grey, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every table of every embedded font

_OPTIONS: dict[str, Any] = {
    "axes.grid": True,
    "axes.labelsize": FONT,
    "axes.linewidth": 0.6,
    "axes.prop_cycle": cycler(color=COLOURS) + cycler(marker=MARKERS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": FONT,
    "figure.constrained_layout.use": True,
    "figure.dpi": DPI,  # texts are measured as they are written
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures are the same everywhere
    "font.size": FONT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.fontsize": FONT - 1,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # fonts that editors can change
    "savefig.dpi": DPI,
    "xtick.labelsize": FONT - 1,
    "ytick.labelsize": FONT - 1,
}


def style() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn in the shared style."""
    context: AbstractContextManager[None] = matplotlib.rc_context(_OPTIONS)  # type: ignore[arg-type]
    return context


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``figure`` to ``path`` with the suffixes ``.png`` and ``.pdf``.

    Args:
        figure: the figure.
        path: file name without a suffix. Its folder is created if needed.

    Returns:
        The two files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf")]
    for file in files:
        # A PDF without a date has equal bytes for equal content.
        metadata = {"CreationDate": None} if file.suffix == ".pdf" else None
        with replacing(file) as temporary, style():
            figure.savefig(temporary, format=file.suffix[1:], metadata=metadata)
    return files


def legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Add the legend of ``axes`` below all axes of ``figure``, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(handles)))


def number_axis(axes: Axes, values: Iterable[float]) -> None:
    """Label the x axis at ``values`` alone; it is logarithmic if they span more than a factor of 5."""
    ticks = sorted(set(values))
    if ticks[0] > 0 and ticks[-1] > 5 * ticks[0]:
        axes.set_xscale("log")
    axes.set_xticks(ticks, labels=[f"{value:g}" for value in ticks])
    axes.minorticks_off()
