"""Decoding and encoding of image files, where PIL alone would lose bits: 16-bit colour PNG and TIFF."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import kornia_rs.io
import numpy as np
import tifffile
from PIL import Image as PIL

from lmf.errors import UserError

_ORIENTATION = 0x0112  # EXIF and TIFF tag
_LONGEST = {".jpg": 65535, ".jpeg": 65535, ".webp": 16383}  # pixels of a side
_CLASSIC_TIFF = 2**32 - 2**26  # bytes before compression, with room for tables
_PHOTOMETRIC = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)


class ImageError(UserError):
    """A picture that cannot be understood, read or written."""


def decode(path: Path) -> tuple[np.ndarray, int]:
    """The pixels of a file as they are stored, (H, W) or (H, W, C), and their EXIF orientation."""
    return _read_tiff(path) if _is_tiff(path) else _read_pil(path)


def decode_header(path: Path) -> tuple[tuple[int, int], int]:
    """The stored (height, width) and the EXIF orientation, without decoding pixels."""
    if _is_tiff(path):
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            return (page.imagelength, page.imagewidth), _tiff_orientation(page)
    with PIL.open(path) as image:
        return (image.height, image.width), _orientation(image)


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in (".tif", ".tiff")


def _read_pil(path: Path) -> tuple[np.ndarray, int]:
    with PIL.open(path) as image:
        layout = str(image.tile[0].args) if image.format == "PNG" and image.tile else ""
        orientation = _orientation(image)
        if layout == "LA;16B":
            return _read_png_grey_alpha_16(path), orientation
        if layout.endswith(";16B"):  # PIL would cut colours to 8 bits
            return kornia_rs.io.read_image(str(path)), orientation
        return from_pil(image), orientation


def _read_png_grey_alpha_16(path: Path) -> np.ndarray:
    """No decoder at hand reads 16-bit grey + alpha, but its bytes are laid out and filtered like 8-bit RGBA."""
    data = path.read_bytes()
    start = 12  # after the signature and the length of IHDR
    header = data[start : start + 12] + bytes([8, 6]) + data[start + 14 : start + 17]
    data = data[:start] + header + struct.pack(">I", zlib.crc32(header)) + data[start + 21 :]
    with PIL.open(BytesIO(data)) as image:
        return np.asarray(image).view(">u2").astype(np.uint16)


def _read_tiff(path: Path) -> tuple[np.ndarray, int]:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        if page.dtype == np.uint16 and page.photometric in _PHOTOMETRIC:
            array = page.asarray()
            separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and array.ndim == 3
            return np.moveaxis(array, 0, -1) if separate else array, _tiff_orientation(page)
    with PIL.open(path) as image:
        image.load()  # PIL turns TIFF pictures itself while loading
        return from_pil(image), _orientation(image)


def _orientation(image: PIL.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # getexif() would decode the whole picture to look behind it
    return int(image.getexif().get(_ORIENTATION, 1))


def _tiff_orientation(page: Any) -> int:
    return int(page.tags.valueof(_ORIENTATION, default=1))


def check_writable(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuses what the format that the suffix of ``path`` means cannot hold.

    Raises:
        ImageError: naming the file.
    """
    suffix, deep = path.suffix.lower(), dtype == np.uint16
    if suffix not in (".png", ".tif", ".tiff", *_LONGEST):
        raise ImageError(f"cannot write {path}: the suffix must be .png, .tif, .tiff, .jpg, .jpeg or .webp")
    if suffix not in _LONGEST:
        return
    if deep:
        raise ImageError(f"cannot write {path}: {suffix[1:]} holds 8 bits a channel, write 16 bits as .png or .tif")
    if shape[2:] in ((2,), (4,)) and suffix != ".webp":
        raise ImageError(f"cannot write {path}: JPEG has no alpha channel, write .png, .tif or .webp, or drop alpha")
    if max(shape[:2]) > _LONGEST[suffix]:
        size = f"{shape[1]} x {shape[0]}"
        raise ImageError(f"cannot write {path}: {suffix[1:]} holds {_LONGEST[suffix]} pixels a side, got {size}; "
                         f"write .png or .tif")  # fmt: skip


def encode(
    file: BinaryIO, suffix: str, bands: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype, quality: int
) -> None:
    """Writes a picture of ``shape`` (H, W[, C]), uint8 or uint16, that comes as ``bands`` of rows, top to bottom.

    PNG and TIFF are written band by band, JPEG and WebP once all have come. ``quality`` is for these two.
    """
    if suffix == ".png":
        _encode_png(file, bands, shape, dtype)
    elif suffix in (".tif", ".tiff"):
        _encode_tiff(file, bands, shape, dtype)
    else:
        array = np.concatenate(list(bands))
        image = PIL.fromarray(array[..., 0] if shape[2:] == (1,) else array)
        image.save(file, "WEBP" if suffix == ".webp" else "JPEG", quality=quality)


def _encode_png(file: BinaryIO, bands: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Rows carry the filter "up": each holds its bytes less those of the row above."""

    def chunk(kind: bytes, data: bytes) -> None:
        file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))

    (height, width, channels), depth = (*shape, 1)[:3], 8 * dtype.itemsize
    file.write(b"\x89PNG\r\n\x1a\n")
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    deflate = zlib.compressobj(6)
    above = np.zeros((1, width * channels * dtype.itemsize), np.uint8)
    for band in bands:
        rows = np.ascontiguousarray(band, dtype.newbyteorder(">")).reshape(len(band), -1).view(np.uint8)
        coded = np.full((len(rows), 1 + rows.shape[1]), 2, np.uint8)  # each row begins with its filter, 2
        coded[:, 1:] = rows - np.concatenate([above, rows[:-1]])
        above = rows[-1:]
        chunk(b"IDAT", deflate.compress(coded.tobytes()))
    chunk(b"IDAT", deflate.flush())
    chunk(b"IEND", b"")


def _encode_tiff(file: BinaryIO, bands: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> None:
    (height, width, channels), native = (*shape, 1)[:3], dtype.newbyteorder("<")
    bytes_a_row = width * channels * dtype.itemsize
    rows = min(height, max(1, (1 << 20) // bytes_a_row))
    with tifffile.TiffWriter(file, byteorder="<", bigtiff=height * bytes_a_row > _CLASSIC_TIFF) as tiff:
        tiff.write(
            (zlib.compress(_predicted(strip, native).tobytes(), 6) for strip in _strips(bands, rows)),
            shape=(height, width, channels) if channels > 1 else (height, width),
            dtype=native,
            photometric="rgb" if channels > 2 else "minisblack",
            planarconfig="contig" if channels > 1 else None,
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
            compression="zlib",
            predictor=True,
            rowsperstrip=rows,
        )


def _predicted(strip: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """TIFF's horizontal differencing: every sample less that of the pixel to its left."""
    out = strip.astype(dtype)
    out[:, 1:] -= strip[:, :-1]
    return out


def _strips(bands: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """``bands`` cut anew into ``rows`` rows each, the last perhaps fewer."""
    rest: np.ndarray | None = None
    for band in bands:
        rest = band if rest is None else np.concatenate([rest, band])
        whole = len(rest) - len(rest) % rows
        yield from (rest[i : i + rows] for i in range(0, whole, rows))
        rest = rest[whole:]
    if rest is not None and len(rest):
        yield rest


def from_pil(image: PIL.Image) -> np.ndarray:
    """Pixels (H, W) or (H, W, C): uint8, uint16, or float32 of mode F; palettes and CMYK expanded.

    Raises:
        ImageError: another mode, or mode I with more than 16 bits.
    """
    mode = image.mode
    if mode in ("P", "PA") or (mode in ("L", "RGB") and "transparency" in image.info):
        image = image.convert("LA" if mode == "L" else "RGBA" if image.has_transparency_data else "RGB")
    elif mode in ("1", "CMYK", "YCbCr"):
        image = image.convert("L" if mode == "1" else "RGB")
    elif mode == "I":
        values = np.asarray(image)
        if values.size and not (values.min() >= 0 and values.max() <= 65535):
            raise ImageError(f"mode I images must be in 0 to 65535, got {values.min()} to {values.max()}")
        return values.astype(np.uint16)
    elif mode not in ("RGB", "RGBA", "L", "LA", "F") and not mode.startswith("I;16"):
        raise ImageError(f"images of mode {mode} are not supported; convert to RGB or L first")
    array = np.asarray(image)
    return array.astype(array.dtype.newbyteorder("="))
