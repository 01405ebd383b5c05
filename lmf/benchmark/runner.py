"""Benchmarks: models x sizes x scales x backends, measured in turns and held against what the machine can do.

Every round runs every case once, and what shows the machine's own peak, so that whatever else the machine does falls on
all of them alike: ratios of medians hold where single numbers do not.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from lmf import kernels
from lmf.benchmark import cost
from lmf.benchmark.roofline import measure_peak
from lmf.decoders.base import Latent
from lmf.errors import UserError
from lmf.grid import Size
from lmf.io.files import write_text
from lmf.model import SRModel, evaluating, target_size
from lmf.precision import autocast

BACKENDS = ("fused", "reference")
_KERNEL = {"cpu": "cpu", "cuda": "triton"}  # what "fused" means, by device


@dataclass(frozen=True)
class Case:
    """One thing to measure: ``model`` enlarges a picture of ``lr`` (h, w) by ``scale``.

    ``backend``: how it renders, one of `BACKENDS`; ``"torch"`` for decoders that have no fused rendering.
    ``precision``: see `lmf.precision.autocast`.
    """

    model: str
    backend: str
    lr: Size
    scale: float
    precision: str = "32-true"


@dataclass
class Row:
    """What a case costs. Seconds are medians; without timing they, and all that follows from them, are None.

    Attributes:
        macs: in all; see `lmf.benchmark.cost.CONVENTION`.
        encoder_bytes, latent_bytes, render_bytes: of each stage's input, weights and result in float32, which must at
            least move between it and memory.
        gflops: 10^9 FLOPs (two to a MAC) a second, in all and while rendering.
        peak_gflops: what the machine does in a large matrix product or convolution of that precision, whichever is
            faster.
        peak_gbs: 10^9 bytes a second read and written by a large copy.
        floor_s: the least time that ``peak_gflops`` and ``peak_gbs`` allow for the MACs and bytes of each stage.
        peak_bytes: memory that the case needs, see `lmf.benchmark.cost.Latency`.
        process_bytes: the most that the process had meanwhile, Python, torch and all models included.
    """

    model: str
    backend: str
    lr: Size
    scale: float
    size: Size
    encoder_params: int
    decoder_params: int
    encoder_macs: int
    latent_macs: int
    render_macs: int
    macs: int
    encoder_bytes: int
    latent_bytes: int
    render_bytes: int
    encoder_s: float | None = None
    latent_s: float | None = None
    render_s: float | None = None
    total_s: float | None = None
    floor_s: float | None = None
    gflops: float | None = None
    render_gflops: float | None = None
    peak_gflops: float | None = None
    peak_gbs: float | None = None
    peak_bytes: int | None = None
    process_bytes: int | None = None
    repeats: int = 0
    device: str = "cpu"
    threads: int = 0
    precision: str = "32-true"


def plan(
    models: Mapping[str, SRModel],
    sizes: Iterable[Size],
    scales: Iterable[float],
    backends: Sequence[str],
    precisions: Sequence[str] = ("32-true",),
) -> list[Case]:
    """Every combination, but one backend only where a decoder has no fused rendering.

    Raises:
        UserError: an unknown backend.
    """
    if not backends or any(b not in BACKENDS for b in backends):
        raise UserError(f"backends must be some of {', '.join(BACKENDS)}, got {', '.join(backends) or 'none'}")
    sizes, scales = list(sizes), list(scales)
    return [
        Case(name, backend, size, scale, precision)
        for size in sizes
        for scale in scales
        for name, model in models.items()
        for backend in (backends if model.decoder.constant_memory else ("torch",))
        for precision in precisions
    ]


def count(models: Mapping[str, SRModel], cases: Sequence[Case]) -> list[Row]:
    """A row for each case, without times: parameters and MACs."""
    found = {(c.model, c.lr, c.scale): c for c in cases}
    rows = {key: row_of(models[case.model], case) for key, case in found.items()}
    return [replace(rows[c.model, c.lr, c.scale], backend=c.backend, precision=c.precision) for c in cases]


def row_of(model: SRModel, case: Case) -> Row:
    own = cost.count(model, case.lr, scale=case.scale)
    return Row(
        **asdict(case),
        size=own.size,
        encoder_params=own.encoder_params,
        decoder_params=own.decoder_params,
        encoder_macs=own.encoder_macs,
        latent_macs=own.latent_macs,
        render_macs=own.render_macs,
        macs=own.total_macs,
        **traffic(model, case.lr, own.size),
    )


def measure(
    models: Mapping[str, SRModel],
    cases: Sequence[Case],
    *,
    device: torch.device | str = "cpu",
    repeats: int = 5,
    budget: float = 30.0,
    progress: Callable[[Iterable[Case]], Iterable[Case]] = lambda cases: cases,
) -> list[Row]:
    """`count`, and in turns: one round to warm up, which also measures memory, then ``repeats`` rounds.

    Args:
        models: by name, on ``device``.
        budget: seconds of a case after which it sits out the rounds that follow. Where warming up alone takes that
            long, it counts as the one measurement.
        progress: wraps the cases of all rounds.

    Raises:
        UserError: fewer than one repeat; a backend that cannot serve here.
    """
    if repeats < 1:
        raise UserError(f"repeats must be at least 1, got {repeats}")
    device = torch.device(device)
    rows = count(models, cases)
    times: list[list[list[float]]] = [[] for _ in cases]
    spent, peaks = [0.0] * len(cases), defaultdict(list)
    turns = ((n, i) for n in range(1 + repeats) for i in range(len(cases)))
    for (n, i), case in zip(turns, progress([*cases] * (1 + repeats)), strict=True):
        if i == 0:
            for precision in {c.precision: None for c in cases}:
                with torch.inference_mode(), autocast(precision, device)():
                    peaks[precision].append(measure_peak(device))
        if n and spent[i] >= budget:
            continue
        start = time.perf_counter()
        # Measuring memory gives what is free back to the system, and getting it again takes time.
        with cost.peak_memory(device) if n == 0 else nullcontext() as peak:
            taken = once(models[case.model], case, device)
        if peak:
            rows[i].peak_bytes, rows[i].process_bytes = peak(), cost.process_peak()
        spent[i] += time.perf_counter() - start
        if n or spent[i] >= budget:
            times[i].append(taken)
    for row, runs in zip(rows, times, strict=True):
        flops, bandwidth = (statistics.median(column) for column in zip(*peaks[row.precision][1:], strict=True))
        row.encoder_s, row.latent_s, row.render_s, row.total_s = map(statistics.median, zip(*runs, strict=True))
        row.floor_s = sum(floors(row, flops, bandwidth))
        row.gflops, row.render_gflops = 2e-9 * row.macs / row.total_s, 2e-9 * row.render_macs / row.render_s
        row.peak_gflops, row.peak_gbs = flops / 1e9, bandwidth / 1e9
        row.repeats, row.device, row.threads = len(runs), device_name(device), torch.get_num_threads()
    return rows


def once(model: SRModel, case: Case, device: torch.device) -> list[float]:
    """Seconds of encoder, latent, rendering and all of it."""
    kernel = {"fused": _KERNEL.get(device.type, "reference"), "reference": "reference"}.get(case.backend)
    image = cost.picture(case.lr, device)
    context = autocast(case.precision, device)
    with torch.inference_mode(), evaluating(model), context(), kernels.backend(kernel) if kernel else nullcontext():
        return cost.timed(model, image, target_size(case.lr, case.scale, None))


def floors(row: Row, flops: float, bandwidth: float) -> list[float]:
    """The least seconds of each stage at ``flops`` FLOPs and ``bandwidth`` bytes a second."""
    macs = (row.encoder_macs, row.latent_macs, row.render_macs)
    moved = (row.encoder_bytes, row.latent_bytes, row.render_bytes)
    return [max(2 * m / flops, n / bandwidth) for m, n in zip(macs, moved, strict=True)]


def traffic(model: SRModel, lr: Size, size: Size) -> dict[str, Any]:
    """`Row.encoder_bytes`, ``latent_bytes`` and ``render_bytes``."""
    meta = cost.on_meta(model)
    enlargement = meta.prepare(torch.empty(1, 3, *lr, device="meta"), size)
    feat = enlargement.features()
    latent = enlargement.latent(feat)
    maps = sum(t.nbytes for t in tensors(latent))
    encoder, decoder = (4 * cost.parameters(m) for m in (meta.encoder, meta.decoder))
    return {
        "encoder_bytes": enlargement.image.nbytes + encoder + feat.nbytes,
        "latent_bytes": feat.nbytes + decoder + maps,
        "render_bytes": maps + 12 * math.prod(size),
    }


def tensors(latent: Latent) -> list[Tensor]:
    return [value for f in fields(latent) if isinstance(value := getattr(latent, f.name), Tensor)]


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def label(row: Row) -> str:
    """How ``row`` computes, in words."""
    return row.backend if row.precision == "32-true" else f"{row.backend}, {row.precision}"


def save(rows: Sequence[Row], folder: Path) -> None:
    """Writes ``benchmark.csv`` and ``benchmark.json``, one row per case."""
    records = [asdict(row) for row in rows]
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**r, **{k: "x".join(map(str, r[k])) for k in ("lr", "size")}} for r in records)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "benchmark.csv", text.getvalue())
    write_text(folder / "benchmark.json", json.dumps(records, indent=1) + "\n")


def tables(rows: Sequence[Row]) -> list[Table]:
    """`rich` tables, one for each input size, one row per case."""
    return [table([r for r in rows if r.lr == size]) for size in dict.fromkeys(r.lr for r in rows)]


def table(rows: Sequence[Row]) -> Table:
    timed = rows[0].total_s is not None
    stages = (*cost.STAGES, "total")
    if timed:
        columns = [
            "backend",
            "scale",
            *(f"{s}\nms" for s in stages),
            "total\nGMAC",
            "GFLOP/s",
            "of its\nfloor",
            "peak\nMB",
        ]
    else:
        columns = ["scale", *(f"{s}\nGMAC" for s in stages), "encoder\nparameters", "decoder\nparameters"]
    title = f"one {rows[0].lr[1]}x{rows[0].lr[0]} picture on {rows[0].device}"
    out = Table(title=title, caption=cost.CONVENTION, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    out.padding = (0, 1, 0, 0)
    for column in ("model", *columns):
        out.add_column(column, justify="left" if column in ("model", "backend") else "right", no_wrap=True)
    for row in rows:
        if row.total_s is None or row.floor_s is None:
            macs = [f"{n / 1e9:.1f}" for n in (row.encoder_macs, row.latent_macs, row.render_macs, row.macs)]
            out.add_row(row.model, f"{row.scale:g}", *macs, f"{row.encoder_params:,}", f"{row.decoder_params:,}")
            continue
        times = [f"{1e3 * (t or 0):.0f}" for t in (row.encoder_s, row.latent_s, row.render_s, row.total_s)]
        peak = "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
        rates = [f"{row.macs / 1e9:.1f}", f"{row.gflops:.1f}", f"{row.total_s / row.floor_s:.1f}x", peak]
        out.add_row(row.model, label(row), f"{row.scale:g}", *times, *rates)
    return out
