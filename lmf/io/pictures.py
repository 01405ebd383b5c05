"""Picture files: reading, writing, and what they say beside their pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from lmf.io import formats, netpbm, pil, png, tiff, tiff_writer, webp
from lmf.io.convert import check_array
from lmf.io.files import replacing
from lmf.io.formats import FORMATS, ImageError
from lmf.io.metadata import Metadata, orientation_of
from lmf.io.tiff_writer import Page

MAX_PIXELS = 2**31
"""The most pixels that a picture may have by default."""


@dataclass(frozen=True)
class Picture:
    """A picture as read from a file.

    Args:
        pixels: uint8 or uint16, upright, (H, W) grey, or (H, W, C) with C = 2 grey + alpha, 3 RGB, 4 RGBA.
        metadata: colour profile, EXIF, XMP and resolution, upright like the pixels.
    """

    pixels: np.ndarray
    metadata: Metadata


@dataclass(frozen=True)
class Header:
    """What a file says before its pixels.

    Args:
        format: "PNG", "JPEG", "TIFF", "WEBP", "AVIF", "HEIF", "BMP", "GIF", "PPM" or "JPEG2000", by its content.
        size: (height, width) of the first page, stored.
        orientation: EXIF orientation, 1 to 8.
        metadata: of the first page, as stored.
        pages: how many there are; 1 but for TIFF.
        deep: more than 8 bits a channel; known of PNG, TIFF and AVIF.
    """

    format: str
    size: tuple[int, int]
    orientation: int = 1
    metadata: Metadata = field(default_factory=Metadata)
    pages: int = 1
    deep: bool = False


def read(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads the picture in a file: uint8 or uint16, (H, W) grey, or (H, W, C) with C = 2 grey + alpha, 3 RGB, 4 RGBA.

    The content decides the format, not the suffix. 16-bit files keep their depth; EXIF orientation is applied;
    palettes become RGB(A), CMYK becomes RGB.

    Raises:
        ImageError: naming the file, if it is missing, truncated, damaged, has more than ``max_pixels`` pixels or
            several pages or frames, or is no 8- or 16-bit picture.
    """
    path = Path(path)
    header = read_header(path)
    if header.pages > 1:
        raise ImageError(f"cannot read image {path}: it has {header.pages} pages; split it into single pictures")
    return next(_pages(path, header, max_pixels)).pixels


def read_pages(path: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[Picture]:
    """Reads the pages of a TIFF file one after the other; other files have one.

    Raises:
        ImageError: see `read`.
    """
    path = Path(path)
    return _pages(path, read_header(path), max_pixels)


def read_size(path: str | Path) -> tuple[int, int]:
    """Reads the (height, width) of the picture that `read` would give, from the header of the file alone.

    Raises:
        ImageError: naming the file, if it is missing or has no readable header.
    """
    header = read_header(path)
    return header.size[::-1] if header.orientation in (5, 6, 7, 8) else header.size


def read_header(path: str | Path) -> Header:
    """Reads what a file says before its pixels.

    Raises:
        ImageError: naming the file, if it is missing, has no readable header or is an animation.
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
    """Writes uint8 or uint16 ``array`` (H, W[, C]), C = 1 .. 4, in the format named by the suffix of ``path``.

    The file appears complete or not at all.

    Args:
        quality: 1 to 100, of JPEG, WebP and AVIF.
        subsampling: resolution of colours in JPEG and AVIF, "4:4:4", "4:2:2" or "4:2:0"; by default "4:4:4" from
            quality 90 on, else "4:2:0".
        metadata: colour profile, EXIF, XMP and resolution.

    Raises:
        ImageError: see `check_writable`; a file that cannot be written.
    """
    check_array(array)
    page = Page([array], array.shape, array.dtype, metadata or Metadata())
    write_pages(path, [page], quality=quality, subsampling=subsampling)


def write_bands(
    path: str | Path, bands: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype, quality: int = 95
) -> None:
    """Writes a picture of ``shape`` that comes as ``bands`` of rows, top to bottom; see `write_pages`."""
    write_pages(path, [Page(bands, shape, np.dtype(dtype))], quality=quality)


def write_pages(
    path: str | Path, pages: Iterable[Page], count: int = 1, quality: int = 95, subsampling: str | None = None
) -> None:
    """Writes ``pages``, ``count`` of them, several only as TIFF.

    PNG and TIFF are written band by band, so that no page is ever whole in memory; other formats need all bands.

    Raises:
        ImageError: see `write`; several pages in another format than TIFF.
    """
    path = Path(path)
    formats.check_suffix(path)
    formats.check_options(quality, subsampling)
    name = FORMATS[path.suffix.lower()]
    if count > 1 and name != "TIFF":
        raise ImageError(f"cannot write {path}: only .tif holds {count} pages")

    def checked() -> Iterator[Page]:
        for page in pages:
            check_writable(path, page.shape, page.dtype, quality, subsampling)
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
                    array = np.concatenate(list(first.bands))
                    pil.encode(file, name, array, first.metadata, quality, subsampling)
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror or error}") from error


def check_writable(
    path: str | Path, shape: tuple[int, ...], dtype: np.dtype, quality: int = 95, subsampling: str | None = None
) -> None:
    """Refuses what `write` could not write, before there is a picture.

    Raises:
        ImageError: unknown suffix; alpha, 16 bits or sides that the format does not hold; settings out of range.
    """
    formats.check_writable(Path(path), shape, np.dtype(dtype), quality, subsampling)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Makes one kind of error of what decoders raise: OSError, SyntaxError, struct.error, Exception."""
    try:
        yield
    except FileNotFoundError:
        raise ImageError(f"no such image: {path}") from None
    except Exception as error:
        raise ImageError(f"cannot read image {path}: {error or type(error).__name__}") from error
