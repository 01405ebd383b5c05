"""Decoding and encoding of image files, where PIL alone would lose bits: 16-bit colour PNG and TIFF."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import kornia_rs.io
import numpy as np
import tifffile
from PIL import Image as PIL

_ORIENTATION = 0x0112  # EXIF and TIFF tag
_PHOTOMETRIC = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)


class ImageError(ValueError):
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


def encode(path: Path, array: np.ndarray, quality: int) -> bytes:
    """The bytes of a file with the suffix of ``path``; ``array`` as in `lmf.image.write`."""
    suffix, deep = path.suffix.lower(), array.dtype == np.uint16
    channels = 1 if array.ndim == 2 else array.shape[2]
    buffer = BytesIO()
    if suffix in (".tif", ".tiff"):
        extra = ["unassalpha"] if channels in (2, 4) else None
        tifffile.imwrite(
            buffer,
            array[..., 0] if array.ndim == 3 and channels == 1 else array,
            photometric="rgb" if channels > 2 else "minisblack",
            planarconfig="contig" if channels > 1 else None,
            extrasamples=extra,
            compression="zlib",
            predictor=True,
        )
        return buffer.getvalue()
    if suffix == ".png" and deep:
        return _encode_png16(array.reshape(*array.shape[:2], channels))
    if suffix not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ImageError(f"cannot write {path}: the suffix must be .png, .tif, .tiff, .jpg, .jpeg or .webp")
    if deep:
        raise ImageError(f"cannot write {path}: {suffix[1:]} holds 8 bits a channel, write 16 bits as .png or .tif")
    if channels in (2, 4) and suffix in (".jpg", ".jpeg"):
        raise ImageError(f"cannot write {path}: JPEG has no alpha channel, write .png, .tif or .webp, or drop alpha")
    image = PIL.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)
    if suffix == ".png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "WEBP" if suffix == ".webp" else "JPEG", quality=quality)
    return buffer.getvalue()


def _encode_png16(array: np.ndarray) -> bytes:
    """PNG of uint16 (H, W, C), C = 1 .. 4: PIL writes only grey. Rows carry the "sub" filter."""
    height, width, channels = array.shape
    step = 2 * channels  # bytes a pixel
    rows = array.astype(">u2").view(np.uint8).reshape(height, width * step)
    coded = np.ones((height, 1 + width * step), np.uint8)  # each row starts with its filter type, 1
    coded[:, 1:] = rows
    coded[:, 1 + step :] -= rows[:, :-step]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(coded.tobytes(), 6)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


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
