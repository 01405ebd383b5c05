"""Checks a request and lists its inputs and outputs, before any picture is enlarged."""

from __future__ import annotations

import glob
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from lmf import io
from lmf.errors import UserError
from lmf.inference.tiling import TILE

log = logging.getLogger(__name__)


def check_request(
    scale: float | None,
    size: Sequence[int] | None,
    fmt: str | None = None,
    quality: int = 95,
    subsampling: str | None = None,
    max_pixels: int = io.MAX_PIXELS,
    tile: int = TILE,
) -> None:
    """Check the options of a request; see `lmf.inference.upscale_files`.

    Raises:
        UserError: if an option is out of range, or if neither or both of ``scale`` and ``size`` are given.
    """
    if (scale is None) == (size is None):
        raise UserError(f"give either scale or size, got scale={scale}, size={size}")
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if scale is not None and not (number and math.isfinite(scale) and scale > 0):
        raise UserError(f"scale must be a positive number, got {scale!r}")
    if size is not None and not (isinstance(size, Sequence) and len(size) == 2 and all(map(is_positive, size))):
        raise UserError(f"size must be [height,width] in whole pixels, got {size!r}")
    formats = [suffix[1:] for suffix in io.WRITABLE]
    if fmt is not None and fmt not in formats:
        raise UserError(f"format must be one of {', '.join(formats)}, got {fmt!r}")
    io.check_options(quality, subsampling)
    for name, value in (("max_pixels", max_pixels), ("tile", tile)):
        if not is_positive(value):
            raise UserError(f"{name} must be a positive whole number, got {value!r}")


def is_positive(value: object) -> bool:
    """Return whether ``value`` is a whole number of at least 1."""
    return type(value) is int and value >= 1


def plan(
    sources: str | Sequence[str],
    output: str,
    scale: float | None,
    size: Sequence[int] | None,
    fmt: str | None = None,
    overwrite: bool = False,
    share: tuple[int, int] = (0, 1),
) -> list[tuple[Path, Path]]:
    """List the inputs and their outputs: ``photo.jpg`` becomes ``output/photo_x3.7.jpg``, and subfolders are kept.

    Existing outputs are left out unless ``overwrite`` is set. Outputs are never listed as inputs: files below the
    output folder are left out if that lies inside the input folder, and so are files that are outputs of others.
    Without ``fmt`` an output keeps the suffix of its input if it can hold the content of that file; otherwise it
    becomes PNG.

    Args:
        sources: a file, a folder or a glob, or several of them.
        output: a folder, or a file name if there is one input.
        scale: factor for the names of the outputs.
        size: output (height, width) for their names, if ``scale`` is None. Names show width x height.
        fmt: suffix of the outputs without its dot.
        overwrite: whether to replace existing outputs.
        share: (r, R) lists every R-th picture from the r-th on, for one of R processes. A picture belongs to the same
            process whatever the others have written.

    Returns:
        (input, output) for each picture.

    Raises:
        UserError: if a source is not a picture, two inputs have the same output, ``output`` is a file but there are
            several inputs, its suffix cannot be written, or an output would replace an input.
    """
    if not output:
        raise UserError("the output is an empty name; give a folder or a file name")
    target = Path(output).expanduser()
    files = [
        found for source in ([sources] if isinstance(sources, str) else sources) for found in listed(source, target)
    ]
    label = f"x{scale:g}" if scale is not None else "{1}x{0}".format(*(size or ()))
    if target.suffix.lower() in io.SUFFIXES and not target.is_dir():
        io.check_suffix(target)
        if len(files) > 1:
            raise UserError(f"the output {output} is one file, but there are {len(files)} inputs; give a folder")
        named = [(file, target) for file, _ in files]
    else:
        named = [
            (file, target / inside / f"{file.stem}_{label}{'.' + fmt if fmt else output_suffix(file)}")
            for file, inside in files
        ]
    jobs: dict[Path, Path] = {}
    for file, destination in named:
        if jobs.setdefault(destination, file) != file:
            raise UserError(f"{jobs[destination]} and {file} would both become {destination}; rename one")
        if destination.exists() and destination.samefile(file):
            raise UserError(f"the output {destination} would replace its input; give another name")
    outputs = {destination.resolve() for destination in jobs}
    for destination, file in [*jobs.items()]:
        if file.resolve() in outputs:
            log.info(f"{file} is left out: it is the output of another input")
            del jobs[destination]
    rank, count = share
    jobs = dict([*jobs.items()][rank::count])
    kept = [destination for destination in jobs if not overwrite and destination.exists()]
    for destination in kept:
        log.info(f"{destination} exists and is kept; the option overwrite replaces it")
    return [(file, destination) for destination, file in jobs.items() if destination not in kept]


def listed(source: str, target: Path) -> list[tuple[Path, Path]]:
    """List the pictures of ``source`` without those below the output folder ``target``.

    Returns:
        (picture, its folder relative to ``source``) for each; globs have no subfolders.

    Raises:
        UserError: if there is none.
    """
    if not source:
        raise UserError("the input is an empty name; give a picture, a folder or a glob")
    root = Path(source).expanduser()
    if root.is_file():
        return [(root, Path())]
    if root.is_dir():
        files = [(file, file.relative_to(root).parent) for file in io.list_pictures(root)]
    else:
        files = [(file, Path()) for file in globbed(str(root))]
        root = Path(*root.parts[: next((i for i, part in enumerate(root.parts) if glob.has_magic(part)), None)])
    if not root.resolve().is_relative_to(target.resolve()):
        files = [(file, inside) for file, inside in files if not file.resolve().is_relative_to(target.resolve())]
    if not files:
        raise UserError(f"{source}: no such picture, folder or glob ({', '.join(io.SUFFIXES)})")
    return files


def globbed(pattern: str) -> list[Path]:
    """Return the files that ``pattern`` matches, each once even if links lead to its folder in a loop."""
    found: dict[tuple[Path, str], Path] = {}
    for path in sorted(map(Path, glob.glob(pattern, recursive=True)), key=lambda path: (len(path.parts), path)):
        if path.is_file():
            found.setdefault((path.parent.resolve(), path.name), path)
    return sorted(found.values())


def output_suffix(file: Path) -> str:
    """Return the suffix of the output for ``file``: the same, or .png if that could not hold the picture."""
    reason = None
    if file.suffix.lower() not in io.WRITABLE:
        reason = f"{file.suffix or 'no suffix'} cannot be written"
    elif io.is_lossy(file.suffix):
        try:
            header = io.read_header(file)
        except io.ImageError:
            return file.suffix  # reported when the picture is read
        if header.format != io.FORMATS[file.suffix.lower()]:
            reason = f"it holds {header.format}"
        elif header.deep:
            reason = "it holds more than 8 bits a channel"
    if reason is None:
        return file.suffix
    log.info(f"{file}: {reason}; the output becomes PNG (the option format chooses another)")
    return ".png"
