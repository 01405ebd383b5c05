"""Figures of sweeps: a metric over each swept quantity, and precision over cost of CMSR."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmf.errors import needed
from lmf.figures.style import COLOURS, COLUMN, PAGE, legend_below, number_axis, style

with needed("train"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PER_ROW = 3  # panels side by side
UNITS = {"psnr": "PSNR, dB", "ssim": "SSIM", "total_s": "time, s", "lpips": "LPIPS", "dists": "DISTS"}


@dataclass(frozen=True)
class Point:
    """One measured value.

    Attributes:
        panel: what was measured, such as ``set5 x4``; each has a panel.
        line: the other settings; points of one line are connected.
        x: value of the swept quantity, as on the command line.
        y: value of the metric.
    """

    panel: str
    line: str
    x: str
    y: float


def quantity(name: str, metric: str, points: Sequence[Point]) -> Figure:
    """Plot ``metric`` over the swept quantity ``name``: means, with the standard deviation of repeated values.

    Points are connected if there are few lines with several values each, as in a grid; otherwise, as in a random
    search, they are single dots.
    """
    panels = list(dict.fromkeys(point.panel for point in points))
    columns = min(PER_ROW, len(panels))
    rows = -(-len(panels) // columns)
    values = list(dict.fromkeys(point.x for point in points))
    numbers = [number for value in values if (number := as_number(value)) is not None]
    numeric = len(numbers) == len(values)
    lines = list(dict.fromkeys(point.line for point in points))
    several = len({(point.line, point.x) for point in points}) > len(lines)
    connected = several and len(lines) <= len(COLOURS)
    with style():
        figure = Figure(figsize=(COLUMN if columns == 1 else PAGE, 0.5 + 2.2 * rows))
        axes = [*figure.subplots(rows, columns, squeeze=False).flat]
        for unused in axes[len(panels) :]:
            unused.remove()
        for panel, ax in zip(panels, axes, strict=False):
            own = [point for point in points if point.panel == panel]
            for line in lines if connected else [""]:
                chosen = [point for point in own if point.line == line or not connected]
                plot_line(ax, chosen, values, numeric, connected, line or None)
            ax.set(xlabel=name, ylabel=UNITS.get(metric, metric.replace("_", " ")), title=panel)
            if not numeric:
                ax.set_xticks(range(len(values)), labels=[shortened(value) for value in values])
                if sum(map(len, values)) > 12 * columns:
                    ax.tick_params(axis="x", labelrotation=90)
            elif connected and len(values) <= 6:
                number_axis(ax, numbers)
            elif min(numbers) > 0 and max(numbers) > 20 * min(numbers):
                ax.set_xscale("log")
        if connected and len(lines) > 1:
            legend_below(figure, axes[0])
    return figure


def plot_line(
    ax: Axes, points: Sequence[Point], values: Sequence[str], numeric: bool, connected: bool, label: str | None
) -> None:
    """Plot the points of one line.

    Args:
        ax: the axes.
        points: the points.
        values: all values of the quantity; without ``numeric`` they are placed in this order.
        numeric: whether the values are numbers.
        connected: whether to draw means and deviations instead of single dots.
        label: for the legend.
    """
    place = {value: float(value) if numeric else float(values.index(value)) for value in values}
    if not connected:
        ax.plot([place[point.x] for point in points], [point.y for point in points], "o")
        return
    groups: dict[float, list[float]] = {}
    for point in points:
        groups.setdefault(place[point.x], []).append(point.y)
    x = sorted(groups)
    mean = [statistics.fmean(groups[at]) for at in x]
    spread = [statistics.stdev(groups[at]) if len(groups[at]) > 1 else 0.0 for at in x]
    ax.errorbar(x, mean, yerr=spread if any(spread) else None, capsize=2, label=label)


def as_number(text: str) -> float | None:
    """Return the number that ``text`` is, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def shortened(text: str) -> str:
    """Return ``text`` with at most 14 characters."""
    return text if len(text) <= 14 else text[:13] + "…"


def pareto(lines: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Plot PSNR of CMSR against HR and against dense rendering over the rendered share and over time.

    Args:
        lines: label of each line and its values, which have the columns of `lmf.training.callbacks.CMSRCallback`.
    """
    with style():
        figure = Figure(figsize=(PAGE, 5.2))
        for i, axes in enumerate(figure.subplots(2, 2).flat):
            for label, values in lines.items():
                line = sorted(values, key=lambda row: row["rendered_share"])
                x = [row["rendered_share"] if i % 2 == 0 else row["render_s"] / row["dense_render_s"] for row in line]
                y = [row["psnr"] - row["dense_psnr"] if i < 2 else row["psnr_vs_dense"] for row in line]
                axes.plot(x, y, label=label)
            axes.set_xlabel("rendered pixels / output pixels" if i % 2 == 0 else "rendering time / time of dense")
            axes.set_ylabel("PSNR against HR minus dense, dB" if i < 2 else "PSNR against dense, dB")
            if i < 2:
                axes.plot(1, 0, marker="*", markersize=9, color="black", linestyle="none", label="dense")
            axes.axvline(1, color="black", linestyle=":", linewidth=1, marker="none")  # dense rendering
            axes.set_xlim(left=0)
        legend_below(figure, figure.axes[0], 4)
    return figure
