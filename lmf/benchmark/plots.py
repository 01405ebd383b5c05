"""Plots of benchmark results: time and MACs over scale, and the roofline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lmf.benchmark.cost import STAGES
from lmf.benchmark.runner import Row, label
from lmf.errors import needed
from lmf.io.files import replacing

with needed("train"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {"encoder": "s", "latent": "^", "render": "o"}


def save(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write a plot such as ``benchmark_90x160.png`` per input size and, for timed rows, ``roofline.png``.

    Returns:
        The paths of the plots.
    """
    folder.mkdir(parents=True, exist_ok=True)
    timed = [row for row in rows if row.total_s is not None]
    figures = {
        f"benchmark_{h}x{w}.png": against_scale([r for r in rows if r.lr == (h, w)])
        for h, w in dict.fromkeys(r.lr for r in rows)
    }
    if timed:
        figures["roofline.png"] = roofline(timed)
    for name, figure in figures.items():
        with replacing(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
    return [folder / name for name in figures]


def against_scale(rows: Sequence[Row]) -> Figure:
    """Plot seconds and MACs of the whole enlargement over scale for rows of one input size."""
    h, w = rows[0].lr
    timed = rows[0].total_s is not None
    figure = Figure(figsize=(10 if timed else 5.5, 4.2), layout="constrained")
    axes = figure.subplots(1, 2 if timed else 1, squeeze=False)[0]
    lines: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        lines[row.name, label(row)].append(row)
    for (model, how), line in lines.items():
        backend = line[0].backend
        scales = [row.scale for row in line]
        style = "--" if backend == "reference" else "-"
        name = model if how == "torch" or not timed else f"{model} ({how})"
        if timed or backend != "reference":
            axes[0].plot(scales, [row.macs / 1e9 for row in line], style, marker="o", label=name)
        if timed:
            axes[1].plot(scales, [row.total_s for row in line], style, marker="o", label=name)
    set_up(axes[0], "multiply-adds, encoder included", "GMAC")
    if timed:
        set_up(axes[1], f"time on {rows[0].device}, {rows[0].threads} threads", "seconds")
    for ax in axes:
        ax.set_xlabel(f"scale of a {w} x {h} input")
        ax.set_xticks(sorted({row.scale for row in rows}), labels=[f"{s:g}" for s in sorted({r.scale for r in rows})])
        ax.minorticks_off()
    axes[-1].legend(fontsize="small")
    return figure


def roofline(rows: Sequence[Row]) -> Figure:
    """Plot the GFLOP/s of each stage over its FLOPs per byte, below the limits of the machine."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    ax = figure.subplots()
    peak, bandwidth = rows[0].peak_gflops or 1.0, rows[0].peak_gbs or 1.0
    colours = {key: f"C{i % 10}" for i, key in enumerate(dict.fromkeys((r.name, label(r)) for r in rows))}
    highest = 1.0
    for row in rows:
        for stage in STAGES:
            macs, moved, seconds = (getattr(row, f"{stage}_{what}") for what in ("macs", "bytes", "s"))
            if macs and seconds:
                highest = max(highest, 2 * macs / moved)
                place = (2 * macs / moved, 2e-9 * macs / seconds)
                ax.plot(*place, MARKERS[stage], color=colours[row.name, label(row)], alpha=0.7)
    x = np.geomspace(0.1, highest * 2)
    ax.plot(x, np.minimum(peak, x * bandwidth), "k-", linewidth=1)
    for (model, how), colour in colours.items():
        ax.plot([], [], "-", color=colour, label=model if how == "torch" else f"{model} ({how})")
    for stage, marker in MARKERS.items():
        ax.plot([], [], marker, color="grey", label=stage)
    set_up(ax, f"measured: {peak:.0f} GFLOP/s (matrix product or convolution), {bandwidth:.0f} GB/s (copy)", "GFLOP/s")
    ax.set_xlabel("FLOPs per byte of necessary memory traffic")
    ax.legend(fontsize="small")
    return figure


def set_up(ax: Axes, title: str, unit: str) -> None:
    """Set logarithmic axes, a title, the unit of the y axis and a grid."""
    ax.set(xscale="log", yscale="log", ylabel=unit)
    ax.set_title(title, fontsize="medium")
    ax.grid(True, which="both", alpha=0.2)
