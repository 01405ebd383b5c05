"""Measures the time of multi-scale rendering (CMSR) over that of dense rendering, by the size of the picture.

Run `python benchmarks/cmsr.py` in the repository, or give --folder with photographs. Both renderers take turns on the
same latent, and the least time of each counts. `--dense never` measures rendering in levels itself, whatever it costs.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import lmf
from lmf import data, io
from lmf.checkpoint import find
from lmf.data.degradations import resize_pil
from lmf.data.evaluation import to_float
from lmf.decoders.base import Latent
from lmf.io.colour import to_network
from lmf.model import SRModel
from lmf.renderers import CMSR, Dense, Stats
from lmf.renderers.cmsr.tables import beside

SECONDS = 0.4  # per picture


def crops(paths: Iterable[Path], side: int) -> Iterator[Tensor]:
    """Yield the central ``side`` x ``side`` pixels (3, side, side) in [0, 1] of each picture, reduced to a half."""
    for path in paths:
        pixels = data.folder.to_rgb(io.read(path))
        half = resize_pil(pixels, (pixels.shape[0] // 2, pixels.shape[1] // 2))
        top, left = ((n - side) // 2 for n in half.shape[:2])
        if min(top, left) >= 0:
            yield to_float(half[top : top + side, left : left + side].copy())


def fastest(calls: list[Callable[[], object]]) -> list[float]:
    """Return the least seconds of each call; they take turns."""
    least, start = [math.inf] * len(calls), time.perf_counter()
    while math.inf in least or time.perf_counter() - start < SECONDS:
        for i, call in enumerate(calls):
            before = time.perf_counter()
            call()
            least[i] = min(least[i], time.perf_counter() - before)
    return least


def compared(model: SRModel, cmsr: CMSR, latent: Latent, scale: int) -> tuple[Stats, float, float]:
    """Return what CMSR rendered of a picture, its milliseconds and those of dense rendering."""
    size = (latent.size[0] * scale, latent.size[1] * scale)
    target = model.target(latent.size, size)
    cell = model.decoder.cell(target, latent.size, 1, model.device)
    stats: list[Stats] = []
    watched, dense = cmsr.watched(stats), Dense()
    seconds = fastest(
        [lambda: watched(model.decoder, latent, target, cell), lambda: dense(model.decoder, latent, target, cell)]
    )
    return stats[-1], 1e3 * seconds[0], 1e3 * seconds[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="lm_liif_edsr")
    parser.add_argument("--folder", type=Path, help="photographs of at least 512 pixels per side for the crops")
    parser.add_argument(
        "--benchmark", type=Path, help="test pictures, reduced by each scale, e.g. data/benchmark/Set5/HR"
    )
    parser.add_argument("--scales", type=int, nargs="+", default=[8, 12])
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--mse-threshold", type=float, default=2e-5)
    parser.add_argument("--precision-db", type=float)
    parser.add_argument("--dense", default="measured", choices=["measured", "share", "never"])
    options = parser.parse_args()
    model = lmf.load(options.model).eval()
    asked = {"precision_db": options.precision_db} if options.precision_db else {"mse_threshold": options.mse_threshold}
    cmsr = CMSR(beside(find(options.model)), dense=options.dense, **asked)
    torch.set_grad_enabled(False)

    def latent(lr: Tensor) -> Latent:
        return model.prepare(to_network(lr[None]), (lr.shape[1] * 8, lr.shape[2] * 8)).latent()

    paths = sorted(p for p in (options.folder or Path(".")).glob("*") if p.suffix in (".jpg", ".png"))
    paths = paths[:: max(1, len(paths) // options.pictures)][: options.pictures]
    groups = [
        (f"{n}x{n}", scale, [*crops(paths, n)]) for n in options.sides for scale in options.scales if options.folder
    ]
    if options.benchmark:
        for scale in options.scales:
            pairs = data.EvalSet("set", data.Folder(options.benchmark), scale=scale, protocol="raw", lr="pil")
            groups.append((options.benchmark.parent.name, scale, [pair["lr"] for pair in pairs]))
    print(
        "| LR pictures | scale | rendered | in levels | CMSR / dense, mean | most | dense, ms |\n" + "| --- " * 7 + "|"
    )
    for label, scale, pictures in groups:
        rows = [compared(model, cmsr, latent(lr), scale) for lr in pictures]
        if rows:
            ratios = [cmsr_ms / dense_ms for _, cmsr_ms, dense_ms in rows]
            share = statistics.mean(stats.share for stats, *_ in rows)
            many = f"{sum(stats.dense is None for stats, *_ in rows)} of {len(rows)}"
            ms = statistics.mean(dense_ms for *_, dense_ms in rows)
            times = f"{statistics.mean(ratios):.2f} | {max(ratios):.2f} | {ms:.3g}"
            print(f"| {label} | x{scale} | {share:.0%} | {many} | {times} |", flush=True)


if __name__ == "__main__":
    main()
