"""What an `SRModel` costs: parameters, multiply-accumulates, seconds and bytes, by stage.

The stages are the encoder, the latent (decoder work done once per LR pixel) and rendering (work per output pixel).
"""

from __future__ import annotations

import copy
import ctypes
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lmf.benchmark.timing import synchronize
from lmf.decoders.base import Decoder, Latent
from lmf.errors import UserError
from lmf.grid import Grid, Size
from lmf.io.colour import to_network
from lmf.model import SRModel, evaluating, target_size
from lmf.renderers import Dense, Renderer

STAGES = ("encoder", "latent", "render")
CONVENTION = (
    "1 MAC = 1 multiply-add; G = 10^9. Counted: matrix products, convolutions, attention products. Not counted: "
    "interpolation, activations, blending, element-wise arithmetic."
)


@dataclass(frozen=True)
class Cost:
    """Parameters, and MACs of enlarging one picture; see `CONVENTION` for what counts.

    Attributes:
        lr_size, size: (height, width) of input and output.
        encoder_params, decoder_params: numbers of parameters.
        encoder_macs, latent_macs, render_macs: by stage; padding of the input to the encoder's multiple included.
        queries: output pixels.
    """

    lr_size: Size
    size: Size
    encoder_params: int
    decoder_params: int
    encoder_macs: int
    latent_macs: int
    render_macs: int
    queries: int

    @property
    def total_macs(self) -> int:
        return self.encoder_macs + self.latent_macs + self.render_macs

    @property
    def decoder_macs(self) -> int:
        """What papers call the cost of the decoder: latent and rendering."""
        return self.latent_macs + self.render_macs

    @property
    def render_macs_per_query(self) -> float:
        return self.render_macs / self.queries


@dataclass(frozen=True)
class Latency:
    """Seconds per stage and in all, medians over ``repeats`` runs, and memory.

    Attributes:
        peak_bytes: the most memory in use during a run beyond what was in use before it, over the warm-up runs. On
            CUDA it is what torch's allocator handed out, on a CPU under Linux resident memory; None elsewhere.
    """

    encoder: float
    latent: float
    render: float
    total: float
    peak_bytes: int | None
    repeats: int
    device: str


def count(model: SRModel, lr_size: Size, *, scale: float | None = None, size: Size | None = None) -> Cost:
    """Parameters and MACs of enlarging a picture of ``lr_size`` (h, w), every output pixel rendered.

    Runs torch's FLOP counter, two FLOPs to a MAC, over a copy of the model without memory (the meta device), so that
    any size is instant; where the work depends on values (DIIF), over the model itself. Custom operators count by
    ``torch.utils.flop_counter.register_flop_formula``; one without a formula counts as nothing. Rendering that skips
    pixels (CMSR) costs less, by how much the picture says.

    Args:
        scale, size: of the output, as for `SRModel.upscale`: one of the two.

    Raises:
        UserError: sizes that make no sense.
    """
    target = target_size(checked(lr_size), scale, size)
    try:
        macs = count_stages(on_meta(model), torch.empty(1, 3, *lr_size, device="meta"), target, QueryAll())
    except RuntimeError:  # work that depends on values, as in DIIF
        with evaluating(model):
            macs = count_stages(model, picture(lr_size, model.device), target, Dense())
    return Cost(
        lr_size=lr_size,
        size=target,
        encoder_params=parameters(model.encoder),
        decoder_params=parameters(model.decoder),
        encoder_macs=macs["encoder"],
        latent_macs=macs["latent"],
        render_macs=macs["render"],
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
) -> Latency:
    """Times enlarging one random picture of ``lr_size`` (h, w), the device synchronised after each stage.

    Rendering is the model's own renderer. The model is left as it was: mode, gradients and random state.

    Args:
        scale, size: of the output, as for `SRModel.upscale`: one of the two.
        warmup: untimed runs first, at least 1.
        repeats: timed runs, fewer (but one) once ``budget`` seconds have passed in all.
        device: where the model is; by default where its parameters are.
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
                timed(model, image, target)
            peaks.append(peak())
        while not times or (len(times) < repeats and time.perf_counter() - start < budget):
            times.append(timed(model, image, target))
    encoder, latent, render, total = (statistics.median(column) for column in zip(*times, strict=True))
    memory = max((p for p in peaks if p is not None), default=None)
    return Latency(encoder, latent, render, total, memory, repeats=len(times), device=str(device))


def table(costs: Sequence[Cost], latencies: Sequence[Latency], name: str) -> Table:
    """A `rich` table of both, one row per output size, with parameters above and the convention below.

    Args:
        costs, latencies: of one model and input size, at the same scales.
        name: of the model.
    """
    first, device = costs[0], latencies[0].device
    title = (
        f"{name}, one {first.lr_size[1]}x{first.lr_size[0]} picture on {device}\n"
        f"{first.encoder_params:,} parameters in the encoder, {first.decoder_params:,} in the decoder"
    )
    out = Table(title=title, caption=CONVENTION, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    out.padding = (0, 1, 0, 0)
    units = [*(f"{s}\nGMAC" for s in STAGES), *(f"{s}\nms" for s in (*STAGES, "total")), "peak\nMB"]
    for column in ("output", *units):
        out.add_column(column, justify="right", no_wrap=True)
    for cost, timing in zip(costs, latencies, strict=True):
        macs = (f"{n / 1e9:.1f}" for n in (cost.encoder_macs, cost.latent_macs, cost.render_macs))
        times = (f"{1e3 * t:.1f}" for t in (timing.encoder, timing.latent, timing.render, timing.total))
        peak = "-" if timing.peak_bytes is None else f"{timing.peak_bytes / 1e6:.0f}"
        out.add_row(f"{cost.size[1]}x{cost.size[0]}", *macs, *times, peak)
    return out


def timed(model: SRModel, image: Tensor, size: Size) -> list[float]:
    """Seconds of each of `STAGES`, and in all, of enlarging ``image`` (B, 3, h, w); the device finishes each first."""
    synchronize(image.device)
    marks = [time.perf_counter()]
    for _ in stages(model, image, size, model.renderer):
        synchronize(image.device)
        marks.append(time.perf_counter())
    return [*(b - a for a, b in pairwise(marks)), marks[-1] - marks[0]]


def stages(model: SRModel, image: Tensor, size: Size, renderer: Renderer) -> Iterator[str]:
    """`SRModel.render` step by step: yields the name of each stage of `STAGES` when it is done."""
    enlargement = model.prepare(image, size)
    feat = enlargement.features()
    yield "encoder"
    latent = enlargement.latent(feat)
    yield "latent"
    enlargement.render(latent, renderer)
    yield "render"


def count_stages(model: SRModel, image: Tensor, size: Size, renderer: Renderer) -> dict[str, int]:
    """MACs of each of `STAGES`."""
    macs, done = {}, 0
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for stage in stages(model, image, size, renderer):
            flops = counter.get_total_flops()
            macs[stage], done = (flops - done) // 2, flops
    return macs


class QueryAll(Renderer):
    """Queries all pixels at once, whatever memory that takes: on the meta device, none."""

    def __call__(self, decoder: Decoder, latent: Latent, target: Grid, cell: Tensor) -> Tensor:
        return decoder.query(latent, target.coord(cell.device).expand(len(cell), -1, 2), cell)


def on_meta(model: SRModel) -> SRModel:
    """A copy in evaluation mode whose weights have shapes only; those of ``model`` are not copied."""
    memo: dict[int, object] = {id(b): b.to("meta") for b in model.buffers()}
    memo |= {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, memo).eval()


def picture(size: Size, device: torch.device) -> Tensor:
    """Noise (1, 3, h, w) in network units, always the same; the global random state is left alone."""
    return to_network(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def checked(lr_size: Size) -> Size:
    if len(lr_size) != 2 or any(n != int(n) or n < 1 for n in lr_size):
        raise UserError(f"lr_size must be (height, width), both whole and at least 1, got {lr_size}")
    return lr_size


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Yields a function that, after the block, says what `Latency.peak_bytes` says."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    resident = reset_process_peak() if device.type == "cpu" else None
    yield lambda: None if resident is None else max(0, (process_peak() or 0) - resident)


def reset_process_peak() -> int | None:
    """Returns free memory to the system and forgets the process's peak, so that it is what is resident now: in bytes,
    or None where the system cannot (it is Linux that can)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError, TypeError):
        return None
    return process_peak()


def process_peak() -> int | None:
    """The most resident memory this process has had, in bytes, since its start or `reset_process_peak`."""
    try:
        return next(int(x.split()[1]) << 10 for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    except (OSError, StopIteration):
        return None
