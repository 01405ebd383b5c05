"""Reads and writes picture files and their metadata."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from lmf.errors import reason
from lmf.io import formats, netpbm, pil, png, tiff, tiff_writer, webp
from lmf.io.convert import check_array
from lmf.io.files import replacing
from lmf.io.formats import FORMATS, ImageError
from lmf.io.metadata import Metadata, orientation_of
from lmf.io.tiff_writer import Page

MAX_PIXELS = 2**31
"""Default limit on the number of pixels of a picture."""


@dataclass(frozen=True)
class Picture:
    """A picture read from a file.

    Attributes:
        pixels: uint8 or uint16, upright; (H, W) grey, or (H, W, C) with C = 2 grey + alpha, 3 RGB, 4 RGBA.
        metadata: colour profile, EXIF, XMP and resolution, upright like the pixels.
    """

    pixels: np.ndarray
    metadata: Metadata


@dataclass(frozen=True)
class Header:
    """The header of a picture file.

    Attributes:
        format: "PNG", "JPEG", "TIFF", "WEBP", "AVIF", "HEIF", "BMP", "GIF", "PPM" or "JPEG2000", by its content.
        size: stored (height, width) of the first page.
        orientation: EXIF orientation, 1 to 8.
        metadata: stored metadata of the first page.
        pages: number of pages; always 1 except for TIFF.
        deep: whether it has more than 8 bits per channel; always False except for PNG, TIFF and AVIF.
    """

    format: str
    size: tuple[int, int]
    orientation: int = 1
    metadata: Metadata = field(default_factory=Metadata)
    pages: int = 1
    deep: bool = False


def read(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a picture file.

    The content decides the format, not the suffix. 16-bit files keep their depth. EXIF orientation is applied. Palettes
    become RGB or RGBA, CMYK becomes RGB.

    Args:
        path: the file.
        max_pixels: largest number of pixels to accept.

    Returns:
        uint8 or uint16; (H, W) grey, or (H, W, C) with C = 2 grey + alpha, 3 RGB, 4 RGBA.

    Raises:
        ImageError: if the file is missing, truncated or damaged, has more than ``max_pixels`` pixels or several pages
            or frames, or has neither 8 nor 16 bits per channel. The message names the file.
    """
    path = Path(path)
    header = read_header(path)
    if header.pages > 1:
        raise ImageError(f"cannot read image {path}: it has {header.pages} pages; split it into single pictures")
    return next(_pages(path, header, max_pixels)).pixels


def read_pages(path: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[Picture]:
    """Read the pages of a TIFF file one by one; files of other formats have one page.

    Raises:
        ImageError: as in `read`.
    """
    path = Path(path)
    return _pages(path, read_header(path), max_pixels)


def read_size(path: str | Path) -> tuple[int, int]:
    """Read the (height, width) of the picture that `read` returns, from the header alone.

    Raises:
        ImageError: if the file is missing or has no readable header. The message names the file.
    """
    header = read_header(path)
    return header.size[::-1] if header.orientation in (5, 6, 7, 8) else header.size


def read_header(path: str | Path) -> Header:
    """Read the header of a picture file.

    Raises:
        ImageError: if the file is missing, has no readable header or is an animation. The message names the file.
    """
    path = Path(path)
    with _translated(path):
        name = formats.sniff(path)
        if name == "TIFF":
            with tiff.opened(path) as pages:
                first = pages[0]
                deep = first.bitspersample not in range(9)
                return Header(name, tiff.size(first), tiff.orientation(first), tiff.metadata(first), len(pages), deep)
        if name == "PPM":
            return Header(name, netpbm.size(path))
        if name == "PNG":
            size, metadata, frames, depth = png.header(path)
        elif name == "WEBP":
            (size, metadata, frames), depth = webp.header(path), 8
        else:
            size, metadata, frames = pil.header(path, name)
            depth = pil.avif_depth(path) if name == "AVIF" else 8
        if frames > 1:
            raise ImageError(f"it is an animation of {frames} frames; split it into single pictures")
        return Header(name, size, orientation_of(metadata.exif), metadata, deep=depth > 8)


def _pages(path: Path, header: Header, max_pixels: int) -> Iterator[Picture]:
    def checked(size: tuple[int, int]) -> None:
        if size[0] * size[1] > max_pixels:
            raise ImageError(f"{size[1]} x {size[0]} pixels are more than max_pixels={max_pixels}")

    with _translated(path):
        if header.format == "TIFF":
            with tiff.opened(path) as pages:
                for page in pages:
                    checked(tiff.size(page))
                    array = tiff.decode(page)
                    yield _picture(array, tiff.orientation(page), tiff.metadata(page))
        else:
            checked(header.size)
            if header.format == "PNG":
                array = png.decode(path)
            elif header.format == "WEBP":
                array = webp.decode(path)
            elif header.format == "PPM":
                array = netpbm.decode(path)
            else:
                array = pil.decode(path, header.format)
            yield _picture(array, header.orientation, header.metadata)


def _picture(array: np.ndarray, orientation: int, metadata: Metadata) -> Picture:
    if array.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"it holds {array.dtype}, expected 8 or 16 bits a channel")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] > 4):
        raise ImageError(f"it holds {array.shape[2:]} channels, expected 1 to 4")
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
        metadata = metadata.transposed()
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return Picture(np.ascontiguousarray(array), metadata)


def write(
    path: str | Path,
    array: np.ndarray,
    quality: int = 95,
    subsampling: str | None = None,
    metadata: Metadata | None = None,
) -> None:
    """Write a picture file, which appears complete or not at all.

    Args:
        path: the file. Its suffix decides the format.
        array: uint8 or uint16 (H, W[, C]) with C = 1 to 4.
        quality: quality of JPEG, WebP and AVIF, 1 to 100.
        subsampling: resolution of the chroma of JPEG and AVIF, "4:4:4", "4:2:2" or "4:2:0". By default it is "4:4:4"
            from quality 90 on, else "4:2:0".
        metadata: colour profile, EXIF, XMP and resolution.

    Raises:
        ImageError: if the format cannot hold the picture, see `check_writable`, or the file cannot be written.
    """
    check_array(array)
    page = Page([array], array.shape, array.dtype, metadata or Metadata())
    write_pages(path, [page], quality=quality, subsampling=subsampling)


def write_pages(
    path: str | Path, pages: Iterable[Page], count: int = 1, quality: int = 95, subsampling: str | None = None
) -> None:
    """Write a picture file page by page; only TIFF holds several pages.

    PNG, TIFF and JPEG are written band by band, so that a page is never in memory as a whole. WebP, AVIF and HEIF need
    the whole picture, see `lmf.io.memory_to_write`.

    Args:
        path: the file. Its suffix decides the format.
        pages: the pages.
        count: number of ``pages``.
        quality: see `write`.
        subsampling: see `write`.

    Raises:
        ImageError: as in `write`, or if another format than TIFF should hold several pages.
    """
    path = Path(path)
    formats.check_suffix(path)
    formats.check_options(quality, subsampling)
    name = FORMATS[path.suffix.lower()]
    if count > 1 and name != "TIFF":
        raise ImageError(f"cannot write {path}: only .tif holds {count} pages")

    def checked() -> Iterator[Page]:
        for page in pages:
            formats.check_writable(path, page.shape, page.dtype, quality, subsampling)
            yield page

    rest = checked()
    first = next(rest)
    try:
        with replacing(path) as temporary:
            if name == "TIFF":
                size = math.prod(first.shape) * first.dtype.itemsize
                tiff_writer.write(temporary, chain([first], rest), count * size)
                return
            with temporary.open("wb") as file:
                if name == "PNG":
                    png.encode(file, first.bands, first.shape, first.dtype, first.metadata)
                else:
                    pil.encode(file, name, first.bands, first.shape, first.metadata, quality, subsampling)
    except OSError as error:
        raise ImageError(f"cannot write {path}: {reason(error)}") from error


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Convert the errors of decoders to `ImageError`; they raise OSError, SyntaxError, struct.error and others."""
    try:
        yield
    except FileNotFoundError:
        raise ImageError(f"no such image: {path}") from None
    except Exception as error:
        raise ImageError(f"cannot read image {path}: {error or type(error).__name__}") from error
