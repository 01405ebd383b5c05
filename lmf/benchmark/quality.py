"""Quality beside cost: the PSNR of benchmarked models on test sets, over the seconds that they take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lmf.benchmark.runner import Row
from lmf.errors import needed
from lmf.io.colour import to_network
from lmf.io.csv import csv_text
from lmf.io.files import replacing, write_text
from lmf.metrics import psnr
from lmf.metrics.functional import protocol_options
from lmf.model import SRModel, evaluating

with needed("train"):
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

if TYPE_CHECKING:
    from lmf.data import EvalSet


@dataclass(frozen=True)
class Point:
    """Quality and cost of a model at one scale.

    Attributes:
        model: name of the model.
        self_ensemble: whether it averages over the eight flips and rotations.
        backend: how it renders, see `lmf.benchmark.runner.Case`.
        set: name of the test set.
        scale: factor of the enlargement.
        images: number of pictures of the set.
        psnr: mean over the pictures in dB, by the protocol of the set.
        gmacs: 10^9 multiply-adds of the benchmarked picture.
        seconds: of the benchmarked picture; None if it was not timed.
    """

    model: str
    self_ensemble: bool
    backend: str
    set: str
    scale: float
    images: int
    psnr: float
    gmacs: float
    seconds: float | None


def measure(
    models: Mapping[str, SRModel],
    rows: Sequence[Row],
    sets: Sequence[EvalSet],
    progress: Callable[[Sequence[Row]], Iterable[Row]] = lambda rows: rows,
) -> list[Point]:
    """Measure the PSNR of every benchmarked model on the sets of its scale.

    Of the backends and sizes of one model, which do not change the PSNR, the first one counts.

    Args:
        models: models by name.
        rows: results of the benchmark.
        sets: test sets.
        progress: wraps the rows, for a progress bar.
    """
    first = {(row.model, row.self_ensemble, row.scale): row for row in reversed(rows)}
    points = []
    for row in progress([row for row in rows if first[row.model, row.self_ensemble, row.scale] is row]):
        for images in sets:
            if images.scale != row.scale:
                continue
            value = mean_psnr(models[row.model], images, row.self_ensemble)
            named = (row.model, row.self_ensemble, row.backend, images.dataset, row.scale)
            points.append(Point(*named, len(images), value, row.macs / 1e9, row.total_s))
    return points


@torch.inference_mode()
def mean_psnr(model: SRModel, images: EvalSet, self_ensemble: bool) -> float:
    """Return the mean PSNR of ``model`` over the pictures of a set in dB."""
    space, shave = protocol_options(images.protocol, images.scale)
    total = 0.0
    with evaluating(model):
        for i in range(len(images)):
            lr, hr = (images[i][name][None].to(model.device) for name in ("lr", "hr"))
            sr = model.render(to_network(lr), (hr.shape[-2], hr.shape[-1]), self_ensemble=self_ensemble)
            total += psnr(sr / 2 + 0.5, hr, space=space, shave=shave).item()
    return total / len(images)


def save(points: Sequence[Point], folder: Path) -> list[Path]:
    """Write ``quality.csv``, ``quality.json`` and, for timed points, a plot ``quality_SET_xSCALE.png`` and ``.pdf``.

    Returns:
        The paths of the plots.
    """
    records = [asdict(point) for point in points]
    write_text(folder / "quality.csv", csv_text(records))
    write_text(folder / "quality.json", json.dumps(records, indent=1) + "\n")
    paths = []
    for name, scale in dict.fromkeys((point.set, point.scale) for point in points if point.seconds is not None):
        figure = plot([point for point in points if (point.set, point.scale) == (name, scale)])
        for suffix in ("png", "pdf"):
            paths.append(folder / f"quality_{name}_x{scale:g}.{suffix}")
            with replacing(paths[-1]) as temporary:
                figure.savefig(temporary, format=suffix, dpi=150)
    return paths


def plot(points: Sequence[Point]) -> Figure:
    """Plot PSNR over seconds for timed points of one set and scale. A line leads from a model to its self-ensemble.

    Interpolation, which has no multiply-adds and lies far below the models, is named in the title.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    models = [point for point in points if point.gmacs]
    for number, model in enumerate(dict.fromkeys(point.model for point in models)):
        line = sorted((point for point in models if point.model == model), key=lambda point: point.self_ensemble)
        colour, places = COLOURS[number % len(COLOURS)], [(point.seconds or 0.0, point.psnr) for point in line]
        axes.plot(*zip(*places, strict=True), "-", color=colour, label=f"{model} {line[0].psnr:.2f}")
        for point, place in zip(line, places, strict=True):
            axes.plot(*place, "o", color=colour, markerfacecolor="white" if point.self_ensemble else colour)
    if any(point.self_ensemble for point in models):
        axes.plot([], [], "o", color="grey", markerfacecolor="white", label="self-ensemble")
    below = [f"{p.model} {p.psnr:.2f} dB in {p.seconds:.2g} s" for p in points if not (p.gmacs or p.self_ensemble)]
    axes.set_title("; ".join([f"{points[0].set}, x{points[0].scale:g}", *below]), fontsize="medium")
    axes.set(xscale="log", xlabel="seconds for one picture of the benchmark", ylabel="PSNR (dB)")
    axes.grid(True, which="both", alpha=0.2)
    if models:
        axes.legend(fontsize="small")
    return figure
