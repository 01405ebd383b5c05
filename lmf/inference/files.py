"""Enlarges picture files and folders."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lmf import io
from lmf.errors import UserError, explain
from lmf.grid import Size
from lmf.inference import tiling
from lmf.inference.planning import check_request, plan
from lmf.io.colour import from_network, to_network
from lmf.memory import process_peak
from lmf.model import SRModel, evaluating, target_size
from lmf.renderers import Renderer, Stats

log = logging.getLogger(__name__)

Context = Callable[[], AbstractContextManager[Any]]


def upscale_files(
    model: SRModel,
    sources: str | Sequence[str],
    output: str = "upscaled",
    *,
    scale: float | None = None,
    size: Size | None = None,
    fmt: str | None = None,
    overwrite: bool = False,
    quality: int = 95,
    subsampling: str | None = None,
    max_pixels: int = io.MAX_PIXELS,
    tile: int = tiling.TILE,
    self_ensemble: bool = False,
    autocast: Context = nullcontext,
) -> list[Path]:
    """Enlarge picture files in bounded memory.

    Give one of ``scale`` and ``size``. Colour profile, EXIF, XMP and resolution are kept. If a picture fails, it is
    logged and the others are still enlarged.

    Args:
        model: the model to enlarge with.
        sources: a file, a folder or a glob, or several of them.
        output: a folder, or a file name if there is one input.
        scale: factor for both sides, any positive number.
        size: output (height, width) in pixels.
        fmt: format of the outputs, such as "png"; by default that of the input, or PNG if that cannot be written.
        overwrite: whether to replace existing outputs. Otherwise their inputs are skipped.
        quality: quality of JPEG, WebP and AVIF, 1 to 100.
        subsampling: chroma of JPEG and AVIF, see `lmf.io.write`.
        max_pixels: largest number of pixels of an input.
        tile: side of the encoder's tiles in input pixels; smaller tiles need less memory.
        self_ensemble: average over the eight flips and rotations, which takes eight times as long.
        autocast: creates the context to compute in, see `lmf.precision.autocast`.

    Returns:
        The files written.

    Raises:
        UserError: if an option is out of range, a source is not a picture, outputs would collide or replace an input,
            or a picture fails.
    """
    written: dict[str, Any] = {"quality": quality, "subsampling": subsampling, "max_pixels": max_pixels, "tile": tile}
    check_request(scale, size, fmt, **written)
    jobs = plan(sources, output, scale, size, fmt, overwrite)
    options = {**written, "self_ensemble": self_ensemble, "autocast": autocast}
    check_failed(run(model, jobs, scale=scale, size=size, **options), len(jobs))
    return [destination for _, destination in jobs]


def check_failed(failed: int, count: int) -> None:
    """Raise an error if ``failed`` of ``count`` pictures is not 0.

    Raises:
        UserError: if a picture failed.
    """
    if failed:
        raise UserError(f"{failed} of {count} pictures failed; the errors are listed above")


def run(
    model: SRModel,
    jobs: Sequence[tuple[Path, Path]],
    *,
    scale: float | None = None,
    size: Sequence[int] | None = None,
    quality: int = 95,
    subsampling: str | None = None,
    max_pixels: int = io.MAX_PIXELS,
    tile: int = tiling.TILE,
    self_ensemble: bool = False,
    autocast: Context = nullcontext,
    alone: bool = True,
) -> int:
    """Enlarge each (input, output) of ``jobs``, see `plan`; log the pictures that fail and continue.

    Pictures are written in bands while they are rendered (`lmf.inference.tiling`) and appear when they are complete.
    TIFF files are enlarged page by page. SIGTERM exits like Ctrl-C and leaves no partial file behind. The options are
    those of `upscale_files`; ``alone`` says whether to show progress and peak memory, which one of several processes
    does not.

    Returns:
        The number of pictures that failed.
    """
    failed = 0
    seen: list[Stats] = []
    renderer = model.renderer.watched(seen)
    wanted = (size[0], size[1]) if size else None
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    progress = Progress(*columns, transient=True, disable=not (alone and Console().is_terminal))
    with terminable(), progress, torch.inference_mode(), evaluating(model), autocast():
        bar = progress.add_task("enlarging", total=len(jobs))
        for done, (source, destination) in enumerate(jobs):
            progress.update(bar, description=source.name, completed=done)
            seen.clear()
            try:
                count = io.read_header(source).pages
                options = {"tile": tile, "renderer": renderer, "self_ensemble": self_ensemble}
                pages = enlarged_pages(model, source, destination, scale, wanted, max_pixels, **options)
                shown = watched(pages, progress, bar, count)
                io.write_pages(destination, shown, count, quality, subsampling)
            except Exception as error:
                message = explain(error)
                if message is None:  # a bug
                    raise
                failed += 1
                log.error(f"{source}: {message}")
            else:
                found = described(seen[0]) if seen else ""
                (h, w), (rows, cols) = io.read_size(source), io.read_size(destination)
                several = f", {count} pages" if count > 1 else ""
                log.info(f"{source} {w}x{h} -> {destination} {cols}x{rows}{several}{found}")
    if alone and (peak := process_peak()):
        log.info(f"peak memory {peak / 2**30:.2f} GiB")
    return failed


def described(stats: Stats) -> str:
    """Return what the statistics of a renderer say about a picture, to append to its line in the log."""
    if stats.dense is not None:
        return f", rendered densely: {stats.dense}"
    text = f", {stats.share:.0%} of the pixels rendered"
    if stats.precision_db is not None:
        text += f", {stats.precision_db:.1f} dB from dense rendering (sampled)"
    return text


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM raise SystemExit within the block, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def enlarged_pages(
    model: SRModel,
    source: Path,
    destination: Path,
    scale: float | None,
    size: Size | None,
    max_pixels: int,
    **options: Any,
) -> Iterator[io.Page]:
    """Enlarge the pages of ``source`` one by one, each when the caller asks for it; for options see `enlarged`."""
    for picture in io.read_pages(source, max_pixels):
        array, old = picture.pixels, (picture.pixels.shape[0], picture.pixels.shape[1])
        new = target_size(old, scale, size)
        destination.parent.mkdir(parents=True, exist_ok=True)
        bands = enlarged(model, array, new, **options)
        yield io.Page(bands, (*new, *array.shape[2:]), array.dtype, picture.metadata.enlarged(old, new))


def enlarged(
    model: SRModel,
    picture: np.ndarray,
    size: Size,
    tile: int,
    renderer: Renderer | None = None,
    self_ensemble: bool = False,
) -> Iterator[np.ndarray]:
    """Enlarge ``picture`` (h, w[, C]), uint8 or uint16, to ``size`` (H, W); for options see `lmf.inference.bands`.

    Yields:
        Bands (rows, W[, C]) of the same dtype, from top to bottom.
    """
    planes, compose = io.decompose(picture)
    lr = [to_network(plane.to(model.device)) for plane in planes]
    top = 0
    parts = (tiling.bands(model, plane, size, tile, renderer, self_ensemble) for plane in lr)
    for bands in zip(*parts, strict=True):
        yield compose([from_network(band) for band in bands], io.Window(top, 0, size))
        top += bands[0].shape[2]


def watched(pages: Iterable[io.Page], progress: Progress, bar: TaskID, count: int) -> Iterator[io.Page]:
    """Yield ``pages`` unchanged and advance ``bar`` after each band by its share of ``count`` pages."""

    def bands(page: io.Page) -> Iterator[np.ndarray]:
        for band in page.bands:
            yield band
            progress.advance(bar, len(band) / page.shape[0] / count)

    for page in pages:
        yield page._replace(bands=bands(page))
