"""Enlarging files: a picture, a folder or a glob."""

from __future__ import annotations

import glob
import logging
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lmf import io
from lmf.benchmark.cost import process_peak
from lmf.errors import UserError
from lmf.grid import Size
from lmf.inference import tiling
from lmf.io.colour import from_network, to_network
from lmf.model import SRModel, evaluating, target_size
from lmf.renderers import Renderer, Stats

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
FORMATS = ("png", "jpg", "jpeg", "webp", "tif", "tiff")


def check_request(scale: float | None, size: Sequence[int] | None, fmt: str | None, quality: int) -> None:
    """Refuses what cannot be asked for, before any work."""
    if (scale is None) == (size is None):
        raise UserError(f"give either scale=3.7 or size=[height,width], got scale={scale} size={size}")
    if scale is not None and not (isinstance(scale, int | float) and math.isfinite(scale) and scale > 0):
        raise UserError(f"scale must be a positive number, got {scale}")
    if size is not None and (len(size) != 2 or not all(isinstance(n, int) and n >= 1 for n in size)):
        raise UserError(f"size must be [height,width] in whole pixels, got {size}")
    if fmt is not None and fmt not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {fmt!r}")
    if not 1 <= quality <= 100:
        raise UserError(f"quality must be between 1 and 100, got {quality}")


def plan(
    source: str,
    output: str,
    scale: float | None,
    size: Sequence[int] | None,
    fmt: str | None = None,
    overwrite: bool = False,
) -> list[tuple[Path, Path]]:
    """Which file goes where: ``photo.jpg`` to ``output/photo_x3.7.jpg``, subfolders kept.

    Outputs that exist are left out unless ``overwrite``.

    Raises:
        UserError: ``source`` names no picture, two inputs would give the same output, or a file
            name is the output of several inputs.
    """
    root = Path(source).expanduser()
    if root.is_dir():
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    elif root.is_file():
        files, root = [root], root.parent
    else:
        files = sorted(p for p in map(Path, glob.glob(str(root), recursive=True)) if p.is_file())
        root = None  # type: ignore[assignment]
    if not files:
        raise UserError(f"input={source}: no such picture, folder or glob ({', '.join(SUFFIXES)})")
    target = Path(output).expanduser()
    single = target.suffix.lower() in SUFFIXES
    if single and len(files) > 1:
        raise UserError(f"output={output} is one file, input={source} are {len(files)}; give a folder")
    label = f"x{scale:g}" if scale is not None else "{}x{}".format(*(size or ()))
    jobs: dict[Path, Path] = {}
    for file in files:
        if single:
            destination = target
        else:
            inside = file.relative_to(root).parent if root else Path()
            destination = target / inside / f"{file.stem}_{label}{'.' + fmt if fmt else file.suffix}"
        if destination in jobs:
            raise UserError(f"{jobs[destination]} and {file} would both become {destination}; rename one")
        jobs[destination] = file
    kept = [d for d in jobs if d.exists() and not overwrite]
    for destination in kept:
        log.info(f"{destination} exists; kept (overwrite=true replaces it)")
    return [(file, destination) for destination, file in jobs.items() if destination not in kept]


def run(
    model: SRModel,
    jobs: Sequence[tuple[Path, Path]],
    *,
    scale: float | None = None,
    size: Sequence[int] | None = None,
    quality: int = 95,
    tile: int = tiling.TILE,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> int:
    """Enlarges each (input, output) of ``jobs``; names what failed and goes on. Returns how many failed.

    Pictures are written in strips as they are rendered (`lmf.inference.tiling`) and appear when they are complete.
    SIGTERM exits, like Ctrl-C, and leaves no partial file behind.
    """
    failed = 0
    seen: list[Stats] = []
    renderer = model.renderer.watched(seen)
    wanted = (size[0], size[1]) if size else None
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    progress = Progress(*columns, transient=True, disable=not Console().is_terminal)
    with terminable(), progress, torch.inference_mode(), evaluating(model), autocast():
        bar = progress.add_task("enlarging", total=len(jobs))
        for done, (source, destination) in enumerate(jobs):
            progress.update(bar, description=source.name, completed=done)
            try:
                picture = io.read(source)
                h, w = target_size((picture.shape[0], picture.shape[1]), scale, wanted)
                shape = (h, w, *picture.shape[2:])
                io.check_writable(destination, shape, picture.dtype, quality)
                destination.parent.mkdir(parents=True, exist_ok=True)
                bands = watched(enlarged(model, picture, (h, w), tile, renderer), progress, bar, h)
                io.write_bands(destination, bands, shape, picture.dtype, quality)
            except (ValueError, OSError) as error:
                failed += 1
                log.error(f"{source}: {error}")
            else:
                found = described(seen.pop()) if seen else ""
                log.info(f"{source} {picture.shape[1]}x{picture.shape[0]} -> {destination} {w}x{h}{found}")
    if peak := process_peak():
        log.info(f"peak memory {peak / 2**30:.2f} GiB")
    return failed


def described(stats: Stats) -> str:
    found = f", {stats.share:.0%} of the pixels rendered"
    return (
        found if stats.precision_db is None else f"{found}, {stats.precision_db:.1f} dB from dense rendering (sampled)"
    )


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block SIGTERM raises SystemExit, so that what cleans up gets to, instead of ending the process."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def enlarged(
    model: SRModel, picture: np.ndarray, size: Size, tile: int, renderer: Renderer | None = None
) -> Iterator[np.ndarray]:
    """``picture`` (h, w[, C]), uint8 or uint16, enlarged to ``size``: bands of rows of the same kind, top to bottom."""
    colour, restore = io.decompose(picture)
    top = 0
    for band in tiling.bands(model, to_network(colour.to(model.device)), size, tile, renderer):
        yield restore(from_network(band), top, size[0])
        top += band.shape[2]


def watched(bands: Iterable[np.ndarray], progress: Progress, bar: TaskID, rows: int) -> Iterator[np.ndarray]:
    """``bands``; when each is dealt with, ``bar`` advances by its share of ``rows``."""
    for band in bands:
        yield band
        progress.advance(bar, len(band) / rows)
