"""Plots of benchmark results: time and MACs over scale, and the roofline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lmf.benchmark.cost import STAGES
from lmf.benchmark.runner import Row, label
from lmf.errors import needed
from lmf.figures.style import COLOURS, COLUMN, MARKERS, PAGE, legend_below, number_axis, save, style

with needed("train"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGE_MARKERS = {"encoder": "s", "latent": "^", "render": "o"}


def save_plots(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write a plot such as ``benchmark_90x160`` per input size and, for timed rows, ``roofline``, as PNG and PDF.

    Returns:
        The paths of the plots.
    """
    with style():
        figures = {
            f"benchmark_{h}x{w}": against_scale([r for r in rows if r.lr == (h, w)])
            for h, w in dict.fromkeys(r.lr for r in rows)
        }
        if timed := [row for row in rows if row.total_s is not None]:
            figures["roofline"] = roofline(timed)
    return [path for name, figure in figures.items() for path in save(figure, folder / name)]


def against_scale(rows: Sequence[Row]) -> Figure:
    """Plot seconds and MACs of the whole enlargement over scale for rows of one input size."""
    h, w = rows[0].lr
    timed = rows[0].total_s is not None
    figure = Figure(figsize=(PAGE if timed else COLUMN, 3.1))
    axes = figure.subplots(1, 2 if timed else 1, squeeze=False)[0]
    lines: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        lines[row.name, label(row)].append(row)
    models = list(dict.fromkeys(row.name for row in rows))
    for (model, how), line in lines.items():
        backend = line[0].backend
        scales = [row.scale for row in line]
        number = models.index(model)
        look = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": "--" if backend == "reference" else "-",
            "label": model if how == "torch" or not timed else f"{model} ({how})",
        }
        if timed or backend != "reference":
            axes[0].plot(scales, [row.macs / 1e9 for row in line], **look)
        if timed:
            axes[1].plot(scales, [row.total_s for row in line], **look)
    set_up(axes[0], "multiply-adds with encoder, 10⁹")
    if timed:
        set_up(axes[1], f"time on {rows[0].device}, {rows[0].threads} threads, s")
    for ax in axes:
        ax.set_xlabel(f"scale of a {w} x {h} input")
        number_axis(ax, [row.scale for row in rows])
    legend_below(figure, axes[-1], 4 if timed else 2)
    return figure


def roofline(rows: Sequence[Row]) -> Figure:
    """Plot the GFLOP/s of each stage over its FLOPs per byte, below the limits of the machine."""
    figure = Figure(figsize=(COLUMN, 3.6))
    ax = figure.subplots()
    peak, bandwidth = rows[0].peak_gflops or 1.0, rows[0].peak_gbs or 1.0
    names = list(dict.fromkeys((r.name, label(r)) for r in rows))
    colours = {key: COLOURS[i % len(COLOURS)] for i, key in enumerate(names)}
    highest = 1.0
    for row in rows:
        for stage in STAGES:
            macs, moved, seconds = (getattr(row, f"{stage}_{what}") for what in ("macs", "bytes", "s"))
            if macs and seconds:
                highest = max(highest, 2 * macs / moved)
                place = (2 * macs / moved, 2e-9 * macs / seconds)
                ax.plot(*place, STAGE_MARKERS[stage], color=colours[row.name, label(row)], alpha=0.7)
    x = np.geomspace(0.1, highest * 2)
    ax.plot(x, np.minimum(peak, x * bandwidth), "k-", linewidth=1, marker="none")
    ax.text(x[-1], peak * 1.1, f"{peak:.0f} GFLOP/s", ha="right", va="bottom")
    ax.annotate(f"{bandwidth:.0f} GB/s", (0.3, 0.3 * bandwidth), xytext=(-2, 4), textcoords="offset points", ha="right")
    for (model, how), colour in colours.items():
        ax.plot([], [], "-", color=colour, label=model if how == "torch" else f"{model} ({how})")
    for stage, marker in STAGE_MARKERS.items():
        ax.plot([], [], marker, color="grey", label=stage)
    set_up(ax, "GFLOP/s")
    ax.set_xscale("log")
    ax.set_ylim(top=2.5 * peak)
    ax.set_xlabel("FLOPs per byte of necessary memory traffic")
    legend_below(figure, ax, 2)
    return figure


def set_up(ax: Axes, quantity: str) -> None:
    """Set a logarithmic y axis and its label."""
    ax.set(yscale="log", ylabel=quantity)
