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
from lmf.errors import UserError
from lmf.grid import Size
from lmf.inference import tiling
from lmf.io.colour import from_network, to_network
from lmf.memory import process_peak
from lmf.model import SRModel, evaluating, target_size
from lmf.renderers import Renderer, Stats

log = logging.getLogger(__name__)


def check_request(
    scale: float | None,
    size: Sequence[int] | None,
    fmt: str | None,
    quality: int,
    subsampling: str | None = None,
    max_pixels: int = io.MAX_PIXELS,
) -> None:
    """Refuses what cannot be asked for, before any work.

    Raises:
        UserError: a setting that is out of range, or both or neither of ``scale`` and ``size``.
    """
    if (scale is None) == (size is None):
        raise UserError(f"give either scale=3.7 or size=[height,width], got scale={scale} size={size}")
    if scale is not None and not (isinstance(scale, int | float) and math.isfinite(scale) and scale > 0):
        raise UserError(f"scale must be a positive number, got {scale}")
    if size is not None and (len(size) != 2 or not all(isinstance(n, int) and n >= 1 for n in size)):
        raise UserError(f"size must be [height,width] in whole pixels, got {size}")
    formats = [suffix[1:] for suffix in io.WRITABLE]
    if fmt is not None and fmt not in formats:
        raise UserError(f"format must be one of {', '.join(formats)}, got {fmt!r}")
    io.check_options(quality, subsampling)
    if not isinstance(max_pixels, int) or max_pixels < 1:
        raise UserError(f"max_pixels must be a positive whole number, got {max_pixels}")


def plan(
    source: str,
    output: str,
    scale: float | None,
    size: Sequence[int] | None,
    fmt: str | None = None,
    overwrite: bool = False,
) -> list[tuple[Path, Path]]:
    """Lists which file goes where: ``photo.jpg`` to ``output/photo_x3.7.jpg``, subfolders kept.

    Outputs that exist are left out unless ``overwrite``. Without ``fmt`` outputs keep the suffix of their inputs where
    that can hold what the file holds, and become PNG elsewhere.

    Raises:
        UserError: ``source`` names no picture, two inputs would give the same output, a file name is the output of
            several inputs, or it has a suffix that cannot be written.
    """
    root = Path(source).expanduser()
    if root.is_dir():
        files = io.list_pictures(root)
    elif root.is_file():
        files, root = [root], root.parent
    else:
        files = globbed(str(root))
        root = None  # type: ignore[assignment]
    if not files:
        raise UserError(f"input={source}: no such picture, folder or glob ({', '.join(io.SUFFIXES)})")
    target = Path(output).expanduser()
    single = target.suffix.lower() in io.SUFFIXES and not target.is_dir()
    if single:
        io.check_suffix(target)
        if len(files) > 1:
            raise UserError(f"output={output} is one file, input={source} are {len(files)}; give a folder")
    label = f"x{scale:g}" if scale is not None else "{}x{}".format(*(size or ()))
    jobs: dict[Path, Path] = {}
    for file in files:
        if single:
            destination = target
        else:
            inside = file.relative_to(root).parent if root else Path()
            destination = target / inside / f"{file.stem}_{label}{'.' + fmt if fmt else output_suffix(file)}"
        if destination in jobs:
            raise UserError(f"{jobs[destination]} and {file} would both become {destination}; rename one")
        jobs[destination] = file
    kept = [d for d in jobs if d.exists() and not overwrite]
    for destination in kept:
        log.info(f"{destination} exists; kept (overwrite=true replaces it)")
    return [(file, destination) for destination, file in jobs.items() if destination not in kept]


def globbed(pattern: str) -> list[Path]:
    """Lists the files that ``pattern`` matches, each once although links may lead to its folder in a loop."""
    found: dict[tuple[Path, str], Path] = {}
    for path in sorted(map(Path, glob.glob(pattern, recursive=True)), key=lambda path: (len(path.parts), path)):
        if path.is_file():
            found.setdefault((path.parent.resolve(), path.name), path)
    return sorted(found.values())


def output_suffix(file: Path) -> str:
    """Chooses the suffix of an output by its input: the same, or .png where that could not hold the picture."""
    reason = None
    if file.suffix.lower() not in io.WRITABLE:
        reason = f"{file.suffix or 'no suffix'} cannot be written"
    elif io.is_lossy(file.suffix):
        try:
            header = io.read_header(file)
        except io.ImageError:
            return file.suffix  # named when it is read
        if header.format != io.FORMATS[file.suffix.lower()]:
            reason = f"it holds {header.format}"
        elif header.deep:
            reason = "it holds more than 8 bits a channel"
    if reason is None:
        return file.suffix
    log.info(f"{file}: {reason}; the output becomes PNG (format=... chooses another)")
    return ".png"


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
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> int:
    """Enlarges each (input, output) of ``jobs``, names what failed and goes on.

    Pictures are written in strips as they are rendered (`lmf.inference.tiling`) and appear when they are complete.
    TIFF files are enlarged page by page. Colour profile, EXIF, XMP and resolution are kept. SIGTERM exits, like
    Ctrl-C, and leaves no partial file behind.

    Returns:
        How many failed.
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
            seen.clear()
            try:
                count = io.read_header(source).pages
                pages = enlarged_pages(model, source, destination, scale, wanted, max_pixels, tile, renderer)
                shown = watched(pages, progress, bar, count)
                io.write_pages(destination, shown, count, quality, subsampling)
            except (ValueError, OSError) as error:
                failed += 1
                log.error(f"{source}: {error}")
            else:
                found = described(seen[0]) if seen else ""
                (h, w), (rows, cols) = io.read_size(source), io.read_size(destination)
                several = f", {count} pages" if count > 1 else ""
                log.info(f"{source} {w}x{h} -> {destination} {cols}x{rows}{several}{found}")
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


def enlarged_pages(
    model: SRModel,
    source: Path,
    destination: Path,
    scale: float | None,
    size: Size | None,
    max_pixels: int,
    tile: int,
    renderer: Renderer,
) -> Iterator[io.Page]:
    """Enlarges the pages of ``source``, each when it is asked for."""
    for picture in io.read_pages(source, max_pixels):
        array, old = picture.pixels, (picture.pixels.shape[0], picture.pixels.shape[1])
        new = target_size(old, scale, size)
        destination.parent.mkdir(parents=True, exist_ok=True)
        bands = enlarged(model, array, new, tile, renderer)
        yield io.Page(bands, (*new, *array.shape[2:]), array.dtype, picture.metadata.enlarged(old, new))


def enlarged(
    model: SRModel, picture: np.ndarray, size: Size, tile: int, renderer: Renderer | None = None
) -> Iterator[np.ndarray]:
    """Enlarges ``picture`` (h, w[, C]), uint8 or uint16, to ``size``: bands of rows of its kind, top to bottom."""
    planes, compose = io.decompose(picture)
    lr = [to_network(plane.to(model.device)) for plane in planes]
    for bands in zip(*(tiling.bands(model, plane, size, tile, renderer) for plane in lr), strict=True):
        yield compose([from_network(band) for band in bands])


def watched(pages: Iterable[io.Page], progress: Progress, bar: TaskID, count: int) -> Iterator[io.Page]:
    """Passes ``pages`` on; when each band is dealt with, ``bar`` advances by its share of ``count`` pages."""

    def bands(page: io.Page) -> Iterator[np.ndarray]:
        for band in page.bands:
            yield band
            progress.advance(bar, len(band) / page.shape[0] / count)

    for page in pages:
        yield page._replace(bands=bands(page))
