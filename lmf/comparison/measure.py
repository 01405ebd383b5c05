"""Measures models on the same pictures, one model after the other on each picture."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from lmf.benchmark import cost
from lmf.benchmark.timing import timed
from lmf.comparison.crops import Shot, check_corner, shoot
from lmf.errors import UserError
from lmf.grid import Size
from lmf.inference import bands
from lmf.io.colour import from_network, to_network
from lmf.memory import peak_memory
from lmf.metrics import functional
from lmf.model import SRModel, evaluating
from lmf.renderers import Stats

Metric = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Entry:
    """A model of a comparison.

    Attributes:
        label: its name in tables and figures.
        model: the model with its renderer, on the device to measure on.
        self_ensemble: whether to average over the eight flips and rotations.
    """

    label: str
    model: SRModel
    self_ensemble: bool = False

    def enlarge(self, lr: Tensor, size: Size, stats: list[Stats]) -> Tensor:
        """Enlarge ``lr`` (1, 3, h, w) in [0, 1] to (1, 3, H, W) in [0, 1].

        Args:
            lr: the picture.
            size: (H, W).
            stats: receives the statistics of multi-scale rendering.
        """
        renderer = self.model.renderer.watched(stats)
        parts = bands(self.model, to_network(lr), size, renderer=renderer, self_ensemble=self.self_ensemble)
        return from_network(torch.cat([*parts], dim=2))


@dataclass(frozen=True)
class Score:
    """What was measured of one model on one picture.

    Attributes:
        model: label of the model.
        set, scale, picture: where the picture comes from.
        values: ``psnr`` in dB, ``ssim`` and further metrics by name; ``seconds``; ``gmacs``, 10^9 multiply-adds; for
            multi-scale rendering ``rendered_share``; ``peak_bytes`` where it was measured.
    """

    model: str
    set: str
    scale: float
    picture: str
    values: Mapping[str, float]

    def columns(self) -> dict[str, Any]:
        """Return the score as a flat dictionary."""
        place = {"set": self.set, "scale": self.scale, "picture": self.picture}
        return {"model": self.model, **place, **self.values}


@dataclass(frozen=True)
class Comparison:
    """Results of `compare`.

    Attributes:
        scores: one for each model and picture.
        shots: pictures for figures.
        parameters: number of parameters of each model.
        device: name of the device.
        threads: number of torch's CPU threads.
    """

    scores: Sequence[Score]
    shots: Sequence[Shot]
    parameters: Mapping[str, int]
    device: str
    threads: int = field(default_factory=torch.get_num_threads)


class PictureSet(Protocol):
    """A set of pictures at one scale, such as `lmf.data.EvalSet`."""

    dataset: str
    scale: float
    protocol: functional.Protocol

    def __len__(self) -> int:
        """Return the number of pictures."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a picture as {"lr": (3, h, w), "hr": (3, H, W), "name": str} in [0, 1]."""


def compare(
    entries: Sequence[Entry],
    sets: Sequence[PictureSet],
    *,
    metrics: Mapping[str, Metric] | None = None,
    figures: int = 1,
    names: Sequence[str] | None = None,
    crop: int = 64,
    corner: Sequence[int] | None = None,
    repeats: int = 1,
    autocast: Callable[[], Any] = nullcontext,
    progress: Callable[[Sequence[tuple[PictureSet, int]]], Iterable[tuple[PictureSet, int]]] = lambda items: items,
) -> Comparison:
    """Enlarge every picture with every model, and measure quality and cost.

    PSNR and SSIM follow the protocol of the set, other metrics compare whole RGB pictures. The first picture of a set
    is enlarged once more, before the timed runs, to warm up and to measure memory.

    Args:
        entries: the models, with different labels.
        sets: the pictures.
        metrics: further metrics by name, of two pictures (1, 3, H, W) in [0, 1].
        figures: number of pictures of each set to keep for figures, those on which the models differ most.
        names: names of the pictures to keep for figures instead.
        crop: side of the crop in figures in HR pixels.
        corner: (top, left) of the crop; None chooses the crop in which the models differ most.
        repeats: timed runs of each model on each picture, at least 1; their median counts.
        autocast: creates the context to compute in, see `lmf.precision.autocast`.
        progress: wraps the (set, index) of all pictures, for a progress bar.

    Raises:
        UserError: if an option is out of range, two labels are equal, no picture has one of ``names``, or the crop does
            not lie in a picture.
    """
    check_options(entries, figures, crop, repeats)
    device = entries[0].model.device
    count = cache(lambda entry, lr, size: cost.count(entry.model, lr, size=size, self_ensemble=entry.self_ensemble))
    models = {entry.label: entry.model for entry in entries}
    scores: list[Score] = []
    kept: dict[tuple[str, float], list[Shot]] = {}
    seen: set[str] = set()
    for group, index in progress([(each, number) for each in sets for number in range(len(each))]):
        item = group[index]
        lr, hr = (item[key][None].to(device) for key in ("lr", "hr"))
        place = (group.dataset, group.scale, str(item["name"]))
        lr_size, size = (lr.shape[-2], lr.shape[-1]), (hr.shape[-2], hr.shape[-1])
        wanted = names is None or place[2] in names
        place_of_crop = check_corner(corner, crop, size, place[2]) if corner is not None and wanted else None
        outputs: dict[str, Tensor] = {}
        for entry in entries:
            counted = count(entry, lr_size, size)
            outputs[entry.label], values = measure(entry, lr, size, counted, repeats, index == 0, autocast)
            quality = judge(outputs[entry.label], hr, group, metrics or {})
            scores.append(Score(entry.label, *place, {**quality, **values}))
        if wanted and figures:
            seen.add(place[2])
            qualities = {score.model: score.values for score in scores[-len(entries) :]}
            shot = shoot(place, hr, outputs, qualities, crop, place_of_crop)
            best = kept.setdefault((group.dataset, group.scale), [])
            best.append(shot)
            if names is None:
                best[:] = heapq.nlargest(figures, best, key=lambda shot: shot.spread)
    if unknown := sorted({*(names or ())} - seen if figures else ()):
        raise UserError(f"no picture is called {', '.join(unknown)}")
    return Comparison(
        scores=scores,
        shots=[shot for shots in kept.values() for shot in shots],
        parameters={label: cost.parameters(model) for label, model in models.items()},
        device=str(device),
    )


def measure(
    entry: Entry,
    lr: Tensor,
    size: Size,
    counted: cost.Cost,
    repeats: int,
    first: bool,
    autocast: Callable[[], Any] = nullcontext,
) -> tuple[Tensor, dict[str, float]]:
    """Enlarge ``lr`` (1, 3, h, w) in [0, 1] to ``size`` and measure the cost.

    Args:
        entry: the model.
        lr: the picture.
        size: (H, W).
        counted: MACs with every output pixel rendered.
        repeats: timed runs.
        first: whether to run once more at the beginning, to warm up and measure memory.
        autocast: creates the context to compute in.

    Returns:
        (1, 3, H, W) in [0, 1], and ``seconds``, ``gmacs``, ``rendered_share`` and ``peak_bytes`` as in `Score`.
    """
    device, stats = lr.device, list[Stats]()
    values: dict[str, float] = {}
    with torch.inference_mode(), evaluating(entry.model), autocast():
        if first:
            with peak_memory(device) as peak:
                entry.enlarge(lr, size, [])
            if (used := peak()) is not None:
                values["peak_bytes"] = used
        runs = []
        for _ in range(repeats):
            stats.clear()
            output, seconds = timed(lambda: entry.enlarge(lr, size, stats), device)
            runs.append(seconds)
    share = statistics.fmean(each.share for each in stats) if stats else 1.0
    macs = counted.encoder_macs + counted.latent_macs + share * counted.render_macs
    values |= {"seconds": statistics.median(runs), "gmacs": macs / 1e9}
    return output.float(), values | ({"rendered_share": share} if stats else {})


def judge(sr: Tensor, hr: Tensor, group: PictureSet, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Return all metrics of ``sr`` against ``hr``, both (1, 3, H, W) in [0, 1]."""
    space, shave = functional.protocol_options(group.protocol, group.scale)
    values = {
        "psnr": functional.psnr(sr, hr, space=space, shave=shave).item(),
        "ssim": functional.ssim(sr, hr, space=space, shave=shave).item(),
    }
    return values | {name: metric(sr, hr) for name, metric in metrics.items()}


def check_options(entries: Sequence[Entry], figures: int, crop: int, repeats: int) -> None:
    """Check the options of `compare`.

    Raises:
        UserError: if one is out of range, or two labels are equal.
    """
    labels = [entry.label for entry in entries]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(f"two models are called {', '.join(twice)}; give them different labels")
    if not entries:
        raise UserError("give at least one model to compare")
    for name, value, least in (("figures", figures, 0), ("crop", crop, 8), ("repeats", repeats, 1)):
        if type(value) is not int or value < least:
            raise UserError(f"{name} must be a whole number of at least {least}, got {value!r}")
