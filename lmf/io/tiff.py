"""Reads TIFF files of any layout and compression; refuses incomplete files."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PIL

from lmf.io.formats import ImageError
from lmf.io.metadata import EXIF_IFD, GPS_IFD, ORIENTATION, Metadata, checked_dpi, descriptive, fitting_icc
from lmf.io.tiff_colour import from_ycbcr, to_rgb

if TYPE_CHECKING:
    import tifffile  # imported where it is used: it takes long, and most pictures are not TIFF

log = logging.getLogger(__name__)

_YCBCR = 6
_JPEG = (6, 7, 34892, 33007)
# The highest ratio of each compression; that of zstandard is the limit for all others.
_RATIO = {1: 1, 5: 4096, 8: 1032, 32773: 64, 32946: 1032}
_ANY_RATIO = 1 << 16


@contextmanager
def opened(path: Path) -> Iterator[list[Any]]:
    """Yield the pages of a TIFF file, without reduced copies and masks.

    Raises:
        ImageError: if pages are missing, or the file holds raw camera data.
    """
    import tifffile

    tifffile.logger().setLevel(logging.CRITICAL)  # its warnings are errors here or do not matter
    with tifffile.TiffFile(path) as tiff:
        pages: list[Any] = list(tiff.pages)
        if len(pages) != _directories(path, tiff):
            raise ImageError("the file is truncated or its list of pages is damaged")
        if any(not isinstance(page, tifffile.TiffPage) for page in pages):
            raise ImageError("it has pages without a description")
        first = pages[0]
        if first.is_reduced and first.tags.get(330):
            raise ImageError("it holds raw camera data; develop it first")
        stack = (tiff.imagej_metadata or {}).get("images", 1)
        if isinstance(stack, int) and stack > len(pages):
            raise ImageError(f"it is an ImageJ stack of {stack} pictures without pages; save it as an image sequence")
        yield [page for page in pages if not (page.is_reduced or page.is_mask)] or pages[:1]


def size(page: Any) -> tuple[int, int]:
    """Return the stored (height, width) of a page."""
    if page.imagedepth != 1 or page.imagelength < 1 or page.imagewidth < 1:
        raise ImageError(f"it has {page.imagewidth} x {page.imagelength} x {page.imagedepth} pixels")
    return page.imagelength, page.imagewidth


def orientation(page: Any) -> int:
    """Return the orientation of a page, 1 to 8."""
    value = page.tags.valueof(ORIENTATION, default=1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def decode(page: Any) -> np.ndarray:
    """Decode a page to (H, W) or (H, W, C): grey or RGB, uint8 or uint16, colours not multiplied with alpha."""
    size(page)
    bits = page.bitspersample
    if page.sampleformat != 1 or not isinstance(bits, int) or not 1 <= bits <= 16:
        kind = {2: "signed ", 3: "floating-point ", 5: "complex "}.get(page.sampleformat, "")
        raise ImageError(f"it holds {bits} {kind}bits a channel, expected 1 to 16 unsigned bits")
    jpeg = page.compression in _JPEG
    if page.photometric == _YCBCR and not jpeg:
        return from_ycbcr(page, _subsampled(page))
    planes = list(_planes(page))
    return to_rgb(page, planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2), rgb=jpeg)


def metadata(page: Any) -> Metadata:
    """Return the metadata of a page."""
    tags = page.tags
    icc, xmp, unit = (tags.valueof(code) for code in (34675, 700, 296))
    dpi = None
    if unit in (2, 3):
        try:
            x, y = (tags.valueof(code)[0] / tags.valueof(code)[1] for code in (282, 283))
            dpi = checked_dpi((x, y) if unit == 2 else (2.54 * x, 2.54 * y))
        except (TypeError, IndexError, ZeroDivisionError):
            dpi = None
    return Metadata(
        icc=fitting_icc(icc, "CMYK" if page.photometric == 5 else "") if isinstance(icc, bytes) else None,
        exif=_exif(page),
        xmp=xmp if isinstance(xmp, bytes) else None,
        dpi=dpi,
    )


def _exif(page: Any) -> bytes | None:
    exif, tiff = PIL.Exif(), page.parent
    exif.endian, exif.bigtiff = tiff.byteorder, tiff.is_bigtiff
    with open(tiff.filehandle.path, "rb") as file:
        try:
            exif.load_from_fp(file, page.offset)
            for ifd in (EXIF_IFD, GPS_IFD):
                exif.get_ifd(ifd)
            return descriptive(exif)
        except Exception:  # PIL raises SyntaxError, struct.error and others
            log.warning(f"{tiff.filehandle.name}: the EXIF data is damaged and is left out")
            return None


def _directories(path: Path, tiff: tifffile.TiffFile) -> int:
    """Return the number of directories that a file lists, plus one if the list leads out of the file."""
    order = "little" if tiff.byteorder == "<" else "big"
    start, pointer, count, entry = (8, 8, 8, 20) if tiff.is_bigtiff else (4, 4, 2, 12)
    seen: set[int] = set()
    with path.open("rb") as file:
        file.seek(start)
        offset = int.from_bytes(file.read(pointer), order)  # type: ignore[arg-type]
        while offset and offset not in seen:
            seen.add(offset)
            file.seek(offset)
            entries = int.from_bytes(file.read(count), order)  # type: ignore[arg-type]
            file.seek(offset + count + entries * entry)
            following = file.read(pointer)
            if not entries or len(following) < pointer:
                return len(seen) + 1
            offset = int.from_bytes(following, order)  # type: ignore[arg-type]
    return len(seen) + bool(offset)


def _planes(page: Any) -> Iterator[np.ndarray]:
    """Yield planes (H, W, C) in native byte order: one with all samples, or one for each sample."""
    planes, _, height, width, samples = page.shaped
    segments = _Segments(page)
    tables = page.tags.valueof(347)
    for plane in range(planes):
        out = np.empty((height, width, samples), np.dtype(page._dtype).newbyteorder("="))
        for index in range(plane * segments.count, (plane + 1) * segments.count):
            data, (_, _, y, x, _), _ = page.decode(segments.read(index), index, jpegtables=tables)
            part = out[y : y + data.shape[1], x : x + data.shape[2]]
            rows, cols = min(data.shape[1], height - y), min(data.shape[2], width - x)
            if rows < min(segments.rows, height - y) or cols < min(segments.cols, width - x):
                raise ImageError("the file lacks data")
            part[:] = data[0, :rows, :cols]
        yield out


def _subsampled(page: Any) -> Iterator[tuple[bytes, int, int]]:
    """Yield the bytes, rows and columns of each strip or tile of a page with subsampled chroma."""
    import tifffile

    segments = _Segments(page)
    decompress = None if page.compression == 1 else tifffile.TIFF.DECOMPRESSORS[page.compression]
    across = math.ceil(page.imagewidth / segments.cols)
    for index in range(segments.count * page.shaped[0]):
        below = page.imagelength - index // across * segments.rows
        rows = segments.rows if page.is_tiled else min(segments.rows, below)
        data = segments.read(index)
        yield (decompress(data) if decompress else data), rows, segments.cols


class _Segments:
    """Positions of the strips or tiles of a page; they are checked to lie in the file and to hold enough bytes."""

    def __init__(self, page: Any) -> None:
        planes, _, height, width, samples = page.shaped
        self.rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, height)
        self.cols = page.tilewidth if page.is_tiled else width
        if self.rows < 1 or self.cols < 1 or (page.is_tiled and page.tiledepth != 1):
            raise ImageError(f"its strips or tiles have {self.cols} x {self.rows} pixels")
        self.count = math.ceil(height / self.rows) * math.ceil(width / self.cols)
        self.file, self.jpeg = page.parent.filehandle, page.compression in _JPEG
        self.offsets = _numbers(page, 324 if page.is_tiled else 273)
        self.lengths = _numbers(page, 325 if page.is_tiled else 279)
        plain = page.compression == 1 and not self.lengths
        piece = self.rows * self.cols * samples * page.bitspersample // 8
        total = self.count * planes
        if plain and total == len(self.offsets) == 1:  # the count may be left out
            self.lengths = [math.ceil(width * samples * page.bitspersample / 8) * height]
        if min(len(self.offsets), len(self.lengths)) < total:
            raise ImageError(f"the file lacks data: {len(self.lengths)} of {total} strips or tiles")
        for offset, length in zip(self.offsets[:total], self.lengths[:total], strict=True):
            if length < 1 or offset + length > self.file.size:
                raise ImageError(f"the file lacks data: {length} bytes at {offset} of {self.file.size}")
        subsampled = page.photometric == _YCBCR and not self.jpeg
        needed = height * width * samples * planes * page.bitspersample // 8
        limit = sum(self.lengths[:total]) * _RATIO.get(page.compression, _ANY_RATIO)
        if needed > limit * (3 if subsampled else 1) or piece > max(limit, 4 * needed, 1 << 26):
            raise ImageError(f"the file lacks data: {sum(self.lengths[:total])} bytes cannot hold {width} x {height}")

    def read(self, index: int) -> bytes:
        self.file.seek(self.offsets[index])
        data: bytes = self.file.read(self.lengths[index])
        if self.jpeg and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise ImageError("the file lacks data: a JPEG strip or tile has no end")
        return data


def _numbers(page: Any, code: int) -> list[int]:
    value = page.tags.valueof(code, default=())
    return [value] if isinstance(value, int) else [int(n) for n in value]
