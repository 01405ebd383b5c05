"""The cost of an `SRModel`: parameters, multiply-accumulates (MACs), time and memory.

MACs and time are measured per stage. The stages are the encoder, the latent (work of the decoder per LR pixel) and
rendering (work per output pixel).
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lmf.benchmark.timing import now
from lmf.decoders.base import Decoder, Latent
from lmf.errors import UserError
from lmf.grid import Grid, Size
from lmf.io import ORIENTATIONS, Orientation
from lmf.io.colour import to_network
from lmf.memory import peak_memory
from lmf.model import SRModel, evaluating, target_size
from lmf.renderers import Dense, Renderer

STAGES = ("encoder", "latent", "render")
CONVENTION = (
    "1 MAC = 1 multiply-add; G = 10^9. Counted: matrix products, convolutions, attention products. Not counted: "
    "interpolation, activations, blending, element-wise arithmetic."
)


@dataclass(frozen=True, kw_only=True)
class StageCosts:
    """Parameters, and MACs of enlarging one picture; `CONVENTION` states what counts.

    Attributes:
        size: (height, width) of the output.
        encoder_params, decoder_params: numbers of parameters.
        encoder_macs, latent_macs, render_macs: MACs per stage, including the padding of the input for the encoder.
    """

    size: Size
    encoder_params: int
    decoder_params: int
    encoder_macs: int
    latent_macs: int
    render_macs: int

    @property
    def total_macs(self) -> int:
        """MACs of all stages."""
        return self.encoder_macs + self.latent_macs + self.render_macs

    @property
    def decoder_macs(self) -> int:
        """MACs of the decoder as papers count them: latent and rendering."""
        return self.latent_macs + self.render_macs


@dataclass(frozen=True, kw_only=True)
class Cost(StageCosts):
    """Parameters and MACs of enlarging one picture of a given size.

    Attributes:
        lr_size: (height, width) of the input.
        queries: number of output pixels.
    """

    lr_size: Size
    queries: int


@dataclass(frozen=True)
class Latency:
    """Time and memory of enlarging one picture.

    Attributes:
        encoder, latent, render, total: seconds, medians over ``repeats`` runs.
        peak_bytes: peak memory of the warm-up runs, see `lmf.memory.peak_memory`; None if unknown.
        repeats: number of timed runs.
        device: name of the device.
    """

    encoder: float
    latent: float
    render: float
    total: float
    peak_bytes: int | None
    repeats: int
    device: str


def count(
    model: SRModel,
    lr_size: Size,
    *,
    scale: float | None = None,
    size: Size | None = None,
    self_ensemble: bool = False,
) -> Cost:
    """Count the parameters and the MACs of enlarging one picture with every output pixel rendered.

    Torch's FLOP counter (two FLOPs per MAC) runs over a copy of the model on the meta device, which is fast at any
    size. If the work depends on values (DIIF), it runs over the model itself. Custom operators need a formula by
    ``torch.utils.flop_counter.register_flop_formula``; otherwise they count as 0. CMSR renders fewer pixels, depending
    on the picture.

    Args:
        model: the model.
        lr_size: (h, w) of the input.
        scale, size: scale or size of the output, see `SRModel.upscale`.
        self_ensemble: count all passes of a self-ensemble.

    Raises:
        UserError: if a size or the scale is invalid.
    """
    target = target_size(checked(lr_size), scale, size)
    passes = len(ways(self_ensemble))  # of equal cost
    try:
        macs = count_stages(on_meta(model), torch.empty(1, 3, *lr_size, device="meta"), target, QueryAll())
    except RuntimeError:  # the work depends on values, as in DIIF
        with evaluating(model):
            macs = count_stages(model, picture(lr_size, model.device), target, Dense())
    return Cost(
        lr_size=lr_size,
        size=target,
        encoder_params=parameters(model.encoder),
        decoder_params=parameters(model.decoder),
        encoder_macs=passes * macs["encoder"],
        latent_macs=passes * macs["latent"],
        render_macs=passes * macs["render"],
        queries=math.prod(target),
    )


def latency(
    model: SRModel,
    lr_size: Size,
    *,
    scale: float | None = None,
    size: Size | None = None,
    warmup: int = 1,
    repeats: int = 3,
    budget: float = 60.0,
    device: torch.device | str | None = None,
    self_ensemble: bool = False,
) -> Latency:
    """Measure the time and memory of enlarging one random picture.

    The device is synchronised after each stage. The mode and the gradients of the model and the global random state do
    not change.

    Args:
        model: the model; its renderer is used.
        lr_size: (h, w) of the input.
        scale, size: scale or size of the output, see `SRModel.upscale`.
        warmup: number of untimed runs at the beginning, at least 1.
        repeats: number of timed runs, at least 1.
        budget: seconds after which no further run starts; at least one run is timed.
        device: device of the model; by default the device of its parameters.
        self_ensemble: measure the mean over the eight flips and rotations, see `SRModel.render`.

    Raises:
        UserError: if a number, a size or the scale is invalid.
    """
    if warmup < 1 or repeats < 1:
        raise UserError(f"warmup and repeats must be at least 1, got {warmup} and {repeats}")
    target = target_size(checked(lr_size), scale, size)
    device = torch.device(device or model.device)
    image = picture(lr_size, device)

    peaks: list[int | None] = []
    times: list[list[float]] = []
    start = time.perf_counter()
    with torch.inference_mode(), evaluating(model):
        for _ in range(warmup):
            with peak_memory(device) as peak:
                stage_times(model, image, target, self_ensemble)
            peaks.append(peak())
        while not times or (len(times) < repeats and time.perf_counter() - start < budget):
            times.append(stage_times(model, image, target, self_ensemble))
    encoder, latent, render, total = (statistics.median(column) for column in zip(*times, strict=True))
    memory = max((p for p in peaks if p is not None), default=None)
    return Latency(encoder, latent, render, total, memory, repeats=len(times), device=str(device))


def stage_times(model: SRModel, image: Tensor, size: Size, self_ensemble: bool = False) -> list[float]:
    """Return the seconds of each of `STAGES` and of the whole enlargement of ``image`` (B, 3, h, w) to ``size``.

    The device is synchronised after each stage. The stages of a self-ensemble are summed over its passes; the whole
    also includes flips, rotations and the mean.
    """
    start = now(image.device)
    seconds, total = [0.0] * len(STAGES), image.new_zeros(())
    for way in ways(self_ensemble):
        marks = [now(image.device)]
        for result in stages(model, way.apply(image), way.size(size), model.renderer):  # noqa: B007
            marks.append(now(image.device))
        seconds = [spent + b - a for spent, (a, b) in zip(seconds, pairwise(marks), strict=True)]
        if self_ensemble:
            total = total + way.undo(result)
    return [*seconds, now(image.device) - start]


def ways(self_ensemble: bool) -> Sequence[Orientation]:
    """Return the orientations in which a picture is enlarged."""
    return ORIENTATIONS if self_ensemble else ORIENTATIONS[:1]


def stages(model: SRModel, image: Tensor, size: Size, renderer: Renderer) -> Iterator[Any]:
    """Run `SRModel.render` stage by stage and yield the result of each of `STAGES`."""
    enlargement = model.prepare(image, size)
    feat = enlargement.features()
    yield feat
    latent = enlargement.latent(feat)
    yield latent
    yield enlargement.render(latent, renderer)


def count_stages(model: SRModel, image: Tensor, size: Size, renderer: Renderer) -> dict[str, int]:
    """Return the MACs of each of `STAGES`."""
    macs, done = {}, 0
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for stage, _ in zip(STAGES, stages(model, image, size, renderer), strict=True):
            flops = counter.get_total_flops()
            macs[stage], done = (flops - done) // 2, flops
    return macs


class QueryAll(Renderer):
    """Queries all pixels at once, without a memory bound; the meta device needs no memory."""

    def __call__(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        return decoder.query(latent, target.coord(cell.device, cell.dtype).expand(len(cell), -1, 2), cell)


def on_meta(model: SRModel) -> SRModel:
    """Return a copy of ``model`` on the meta device in evaluation mode, without copying the weights."""
    memo: dict[int, object] = {id(b): b.to("meta") for b in model.buffers()}
    memo |= {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, memo).eval()


def picture(size: Size, device: torch.device) -> Tensor:
    """Return the same noise (1, 3, h, w) in network units in every call, without the global random state."""
    return to_network(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device))


def parameters(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in module.parameters())


def checked(lr_size: Size) -> Size:
    """Return ``lr_size``, or raise a `UserError` if it is not (height, width)."""
    if len(lr_size) != 2 or any(n != int(n) or n < 1 for n in lr_size):
        raise UserError(f"lr_size must be (height, width), both integers of at least 1, got {lr_size}")
    return lr_size
