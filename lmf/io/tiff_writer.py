"""Writes TIFF files strip by strip and page by page."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PIL
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from lmf.io.metadata import EXIF_IFD, GPS_IFD, Metadata, parse_exif
from lmf.io.pieces import mapped, rows_of, strips

_CLASSIC = 2**32 - 2**26  # limit in bytes before compression, with room for tables
_TEXT = {0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298}  # tags of IFD 0 that hold text
_INTEROPERABILITY = 0xA005
_ASCII, _BYTE, _LONG, _LONG8 = 2, 1, 4, 16


class Page(NamedTuple):
    """A picture to write.

    Attributes:
        bands: bands of rows from top to bottom.
        shape: (H, W[, C]) with C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGB + alpha.
        dtype: uint8 or uint16.
        metadata: colour profile, EXIF, XMP and resolution.
    """

    bands: Iterable[np.ndarray]
    shape: tuple[int, ...]
    dtype: np.dtype
    metadata: Metadata = Metadata()


def write(path: Path, pages: Iterable[Page], size: int) -> None:
    """Write ``pages`` of ``size`` bytes before compression, as BigTIFF above 4 GiB."""
    large = size > _CLASSIC
    directories: list[dict[int, ImageFileDirectory_v2]] = []
    import tifffile  # takes long, and most pictures are not TIFF

    with tifffile.TiffWriter(path, byteorder="<", bigtiff=large) as tiff:
        for page in pages:
            directories.append(_directories(page.metadata, large))
            _write_page(tiff, page)
    if any(directories):
        _append(path, directories, large)


def _write_page(tiff: Any, page: Page) -> None:
    (height, width, channels), native = (*page.shape, 1)[:3], page.dtype.newbyteorder("<")
    rows = rows_of(page.shape, native.itemsize)

    def compressed(strip: np.ndarray) -> bytes:
        return zlib.compress(_predicted(strip, native).tobytes(), 6)

    metadata = page.metadata
    extra: list[tuple[int, int, int, Any, bool]] = []
    for tag, text in _texts(metadata):
        extra.append((tag, _ASCII, len(text) + 1, text + b"\0", True))
    if metadata.xmp:
        extra.append((700, _BYTE, len(metadata.xmp), metadata.xmp, True))
    tiff.write(
        mapped(compressed, strips(page.bands, rows)),
        shape=(height, width, channels) if channels > 1 else (height, width),
        dtype=native,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        predictor=True,
        rowsperstrip=rows,
        metadata=None,
        software=False,
        iccprofile=metadata.icc,
        resolution=metadata.dpi,
        resolutionunit="inch" if metadata.dpi else None,
        extratags=extra,
    )


def _texts(metadata: Metadata) -> Iterator[tuple[int, bytes]]:
    exif = (parse_exif(metadata.exif) if metadata.exif else None) or PIL.Exif()
    for tag in sorted(_TEXT.intersection(exif)):
        value = exif[tag]
        if text := value.encode("latin-1", "replace") if isinstance(value, str) else b"":
            yield tag, text


def _directories(metadata: Metadata, large: bool) -> dict[int, ImageFileDirectory_v2]:
    """Return the subdirectories of EXIF by the tag of IFD 0 that points to each."""
    exif = (parse_exif(metadata.exif) if metadata.exif else None) or PIL.Exif()
    found = {}
    for tag in (EXIF_IFD, GPS_IFD):
        entries = exif.get_ifd(tag)
        if not entries:
            continue
        head = b"II+\0\x08\0\0\0\0\0\0\0\0\0\0\0" if large else b"II*\0\0\0\0\0"
        found[tag] = ImageFileDirectory_v2(ifh=head, group=tag)
        for name, value in entries.items():
            if name != _INTEROPERABILITY:
                found[tag][name] = value
    return found


def _append(path: Path, directories: list[dict[int, ImageFileDirectory_v2]], large: bool) -> None:
    """Append the subdirectories of each page, and a copy of the page's directory that points to them."""
    start, number, entry, offset = (8, "<Q", "<HHQQ", "<Q") if large else (4, "<H", "<HHII", "<I")
    with path.open("r+b") as file:

        def unpacked(form: str) -> int:
            return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])

        def appended(data: Callable[[int], bytes]) -> int:
            end = file.seek(0, 2)
            file.write(bytes(end % 2))
            place = file.tell()
            file.write(data(place))
            return place

        link = start  # position of the offset of the next directory
        for part in directories:
            file.seek(link)
            place = unpacked(offset)
            file.seek(place)
            count, size = unpacked(number), struct.calcsize(entry)
            entries = [file.read(size) for _ in range(count)]
            following = file.read(struct.calcsize(offset))
            if part:
                kind = _LONG8 if large else _LONG
                entries += [struct.pack(entry, tag, kind, 1, appended(own.tobytes)) for tag, own in part.items()]
                entries.sort(key=lambda data: int.from_bytes(data[:2], "little"))
                whole = struct.pack(number, len(entries)) + b"".join(entries) + following
                place = appended(lambda _, whole=whole: whole)  # type: ignore[misc]
                file.seek(link)
                file.write(struct.pack(offset, place))
            link = place + struct.calcsize(number) + len(entries) * size


def _predicted(strip: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Apply TIFF's horizontal differencing: subtract the pixel to the left."""
    out = strip.astype(dtype)
    out[:, 1:] -= strip[:, :-1]
    return out
