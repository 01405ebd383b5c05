"""Benchmarks of models, sizes, scales and backends, compared with the limits of the machine.

Every round measures the peak performance of the machine and runs every case once. Other load on the machine thus
affects all cases alike, and ratios of medians are reliable even if absolute times are not.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from lmf import kernels
from lmf.benchmark import cost
from lmf.benchmark.roofline import measure_peak
from lmf.errors import UserError
from lmf.grid import Size
from lmf.io.csv import csv_text
from lmf.io.files import write_text
from lmf.memory import peak_memory, process_peak
from lmf.model import SRModel, evaluating, target_size
from lmf.precision import autocast

BACKENDS = ("fused", "reference")
_KERNEL = {"cpu": "cpu", "cuda": "triton"}  # the kernel that "fused" selects, by device


@dataclass(frozen=True)
class Case:
    """One case of a benchmark.

    Attributes:
        model: name of the model.
        backend: one of `BACKENDS`, or ``"torch"`` for decoders without fused rendering.
        lr: (height, width) of the input.
        scale: factor of the enlargement.
        precision: see `lmf.precision.autocast`.
        self_ensemble: whether to average over the eight flips and rotations, see `SRModel.render`.
        encoder: what computes the encoder's convolutions on CPUs, one of `lmf.kernels.ENCODERS`; always ``"torch"`` for
            the backend ``"reference"``.
    """

    model: str
    backend: str
    lr: Size
    scale: float
    precision: str = "32-true"
    self_ensemble: bool = False
    encoder: str = kernels.ENCODERS[0]

    @property
    def name(self) -> str:
        """Name of the model, with a note if it is a self-ensemble."""
        return f"{self.model}, self-ensemble" if self.self_ensemble else self.model


@dataclass(frozen=True, kw_only=True)
class Row(cost.StageCosts, Case):
    """The cost of one case. All values that need timing are None without it.

    Attributes:
        macs: MACs of all stages, see `lmf.benchmark.cost.CONVENTION`.
        encoder_bytes, latent_bytes, render_bytes: bytes of the input, weights and result of each stage in float32, the
            minimum that must move between the stage and memory.
        encoder_s, latent_s, render_s, total_s: seconds, medians over ``repeats`` runs.
        floor_s: minimum seconds for the MACs and bytes of all stages at ``peak_gflops`` and ``peak_gbs``.
        gflops, render_gflops: achieved GFLOP/s of all stages and of rendering, with two FLOPs per MAC.
        peak_gflops: GFLOP/s of a large matrix product or convolution at this precision, whichever is faster.
        peak_gbs: GB/s read and written by a large copy.
        peak_bytes: peak memory of the case, see `lmf.memory.peak_memory`.
        process_bytes: peak memory of the whole process, including Python, torch and all models.
        repeats: number of timed runs.
        device: name of the device.
        threads: number of torch's CPU threads.
    """

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


def plan(
    models: Mapping[str, SRModel],
    sizes: Iterable[Size],
    scales: Iterable[float],
    backends: Sequence[str],
    precisions: Sequence[str] = ("32-true",),
    self_ensembles: Sequence[bool] = (False,),
    encoders: Sequence[str] = kernels.ENCODERS[:1],
) -> list[Case]:
    """Return a case for every combination; decoders without fused rendering use the backend ``"torch"`` only.

    Args:
        models: models by name.
        sizes: input sizes (h, w).
        scales: factors of the enlargement.
        backends: some of `BACKENDS`.
        precisions: see `lmf.precision.autocast`.
        self_ensembles: whether to measure single passes, self-ensembles or both.
        encoders: some of `lmf.kernels.ENCODERS`; the backend ``"reference"`` has one case, with ``"torch"``.

    Raises:
        UserError: if a backend is unknown or there is none.
    """
    if not backends or any(b not in BACKENDS for b in backends):
        raise UserError(f"backends must be some of {', '.join(BACKENDS)}, got {', '.join(backends) or 'none'}")
    if not encoders or any(e not in kernels.ENCODERS for e in encoders):
        known, got = ", ".join(kernels.ENCODERS), ", ".join(encoders) or "none"
        raise UserError(f"encoder backends must be some of {known}, got {got}")
    sizes, scales = list(sizes), list(scales)
    return [
        Case(name, backend, size, scale, precision, self_ensemble, encoder)
        for size in sizes
        for scale in scales
        for name, model in models.items()
        for backend in (backends if model.decoder.constant_memory else ("torch",))
        for precision in precisions
        for self_ensemble in self_ensembles
        for encoder in (("torch",) if backend == "reference" else encoders)
    ]


def count(models: Mapping[str, SRModel], cases: Sequence[Case]) -> list[Row]:
    """Return a row without timing for each case."""
    unique = {(c.name, c.lr, c.scale): c for c in cases}
    rows = {key: row_of(models[case.model], case) for key, case in unique.items()}
    found = [(rows[case.name, case.lr, case.scale], case) for case in cases]
    return [replace(row, backend=c.backend, precision=c.precision, encoder=c.encoder) for row, c in found]


def row_of(model: SRModel, case: Case) -> Row:
    """Return the row of ``case`` without timing."""
    counted = cost.count(model, case.lr, scale=case.scale, self_ensemble=case.self_ensemble)
    shared = {field.name: getattr(counted, field.name) for field in fields(cost.StageCosts)}
    passes = len(cost.ways(case.self_ensemble))
    moved = {name: passes * n for name, n in traffic(model, case.lr, counted.size).items()}
    return Row(**asdict(case), **shared, macs=counted.total_macs, **moved)


def measure(
    models: Mapping[str, SRModel],
    cases: Sequence[Case],
    *,
    device: torch.device | str = "cpu",
    repeats: int = 5,
    budget: float = 30.0,
    progress: Callable[[Iterable[Case]], Iterable[Case]] = lambda cases: cases,
) -> list[Row]:
    """Measure all cases in turns: one round for warm-up and memory, then ``repeats`` timed rounds.

    Args:
        models: models by name, on ``device``.
        cases: the cases, see `plan`.
        device: device to measure on.
        repeats: number of timed rounds, at least 1.
        budget: seconds per case after which it skips the remaining rounds. If the warm-up alone takes that long, it
            counts as the only run.
        progress: wraps the iterable of cases of all rounds, for a progress bar.

    Returns:
        A row with timing for each case.

    Raises:
        UserError: if ``repeats`` is smaller than 1.
    """
    if repeats < 1:
        raise UserError(f"repeats must be at least 1, got {repeats}")
    device = torch.device(device)
    rows = count(models, cases)
    times: list[list[list[float]]] = [[] for _ in cases]
    spent, peaks = [0.0] * len(cases), defaultdict[str, list[tuple[float, float]]](list)
    turns = ((n, i) for n in range(1 + repeats) for i in range(len(cases)))
    for (n, i), case in zip(turns, progress([*cases] * (1 + repeats)), strict=True):
        if i == 0:
            for precision in {c.precision: None for c in cases}:
                with torch.inference_mode(), autocast(precision, device)():
                    peaks[precision].append(measure_peak(device))
        if n and spent[i] >= budget:
            continue
        start = time.perf_counter()
        # Measuring memory returns free memory to the system. Allocating it again takes time, so timed rounds skip it.
        with peak_memory(device) if n == 0 else nullcontext() as peak:
            taken = once(models[case.model], case, device)
        if peak:
            rows[i] = replace(rows[i], peak_bytes=peak(), process_bytes=process_peak())
        spent[i] += time.perf_counter() - start
        if n or spent[i] >= budget:
            times[i].append(taken)
    return [timed_row(row, runs, peaks[row.precision][1:], device) for row, runs in zip(rows, times, strict=True)]


def timed_row(
    row: Row, runs: Sequence[Sequence[float]], peaks: Sequence[tuple[float, float]], device: torch.device
) -> Row:
    """Add the timing to a row.

    Args:
        row: a row without timing.
        runs: seconds of each run, see `once`.
        peaks: FLOP/s and bytes per second of the machine in each round.
        device: device of the runs.
    """
    encoder, latent, render, total = (statistics.median(column) for column in zip(*runs, strict=True))
    flops, bandwidth = (statistics.median(column) for column in zip(*peaks, strict=True))
    return replace(
        row,
        encoder_s=encoder,
        latent_s=latent,
        render_s=render,
        total_s=total,
        floor_s=sum(floors(row, flops, bandwidth)),
        gflops=2e-9 * row.macs / total,
        render_gflops=2e-9 * row.render_macs / render,
        peak_gflops=flops / 1e9,
        peak_gbs=bandwidth / 1e9,
        repeats=len(runs),
        device=device_name(device),
        threads=torch.get_num_threads(),
    )


def once(model: SRModel, case: Case, device: torch.device) -> list[float]:
    """Run ``case`` once and return the seconds of encoder, latent, rendering and all of them."""
    kernel = {"fused": _KERNEL.get(device.type, "reference"), "reference": "reference"}.get(case.backend)
    image = cost.picture(case.lr, device)
    forced = kernels.backend(kernel) if kernel else nullcontext()
    precision = autocast(case.precision, device)()
    with torch.inference_mode(), evaluating(model), precision, kernels.encoder(case.encoder), forced:
        return cost.stage_times(model, image, target_size(case.lr, case.scale, None), case.self_ensemble)


def floors(row: Row, flops: float, bandwidth: float) -> list[float]:
    """Return the minimum seconds of each stage at ``flops`` FLOP/s and ``bandwidth`` bytes per second."""
    macs = (row.encoder_macs, row.latent_macs, row.render_macs)
    moved = (row.encoder_bytes, row.latent_bytes, row.render_bytes)
    return [max(2 * m / flops, n / bandwidth) for m, n in zip(macs, moved, strict=True)]


def traffic(model: SRModel, lr: Size, size: Size) -> dict[str, Any]:
    """Return ``encoder_bytes``, ``latent_bytes`` and ``render_bytes`` as in `Row`."""
    meta = cost.on_meta(model)
    enlargement = meta.prepare(torch.empty(1, 3, *lr, device="meta"), size)
    feat = enlargement.features()
    latent = enlargement.latent(feat)
    maps = sum(t.nbytes for t in latent.tensors().values())
    encoder, decoder = (4 * cost.parameters(m) for m in (meta.encoder, meta.decoder))
    return {
        "encoder_bytes": enlargement.image.nbytes + encoder + feat.nbytes,
        "latent_bytes": feat.nbytes + decoder + maps,
        "render_bytes": maps + 12 * math.prod(size),
    }


def device_name(device: torch.device) -> str:
    """Return the product name of a CUDA device, or the type of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def label(row: Row) -> str:
    """Return the backend of ``row``, with precision and encoder unless these are the default or implied."""
    parts = [row.backend]
    if row.precision != "32-true":
        parts.append(row.precision)
    if row.encoder != kernels.ENCODERS[0] and row.backend != "reference":
        parts.append(f"{row.encoder} encoder")
    return ", ".join(parts)


def save(rows: Sequence[Row], folder: Path) -> None:
    """Write ``benchmark.csv`` and ``benchmark.json`` with one row per case."""
    records = [asdict(row) for row in rows]
    flat = [{**r, **{k: "x".join(map(str, r[k])) for k in ("lr", "size")}} for r in records]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "benchmark.csv", csv_text(flat))
    write_text(folder / "benchmark.json", json.dumps(records, indent=1) + "\n")
