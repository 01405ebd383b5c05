"""Picture files: reading, writing, and what a format can hold. Colour profiles are not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np

from lmf.io import codecs
from lmf.io.codecs import ImageError
from lmf.io.convert import check_array
from lmf.io.files import replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm")


def read(path: str | Path) -> np.ndarray:
    """The picture in a file: uint8 or uint16, (H, W) grey, or (H, W, C) with C = 2 grey + alpha, 3 RGB, 4 RGBA.

    16-bit PNG and TIFF keep their depth; EXIF orientation is applied; palettes become RGB(A), CMYK becomes RGB.

    Raises:
        ImageError: naming the file, if it is missing, truncated, damaged, or no 8- or 16-bit picture.
    """
    array, orientation = _reading(codecs.decode, Path(path))
    if array.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"cannot read image {path}: it holds {array.dtype}, expected 8 or 16 bits a channel")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return np.ascontiguousarray(_orient(array, orientation))


def read_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the picture `read` would give, from the header of the file alone.

    Raises:
        ImageError: naming the file, if it is missing or has no readable header.
    """
    (height, width), orientation = _reading(codecs.decode_header, Path(path))
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def write(path: str | Path, array: np.ndarray, quality: int = 95) -> None:
    """Writes uint8 or uint16 ``array`` (H, W[, C]), C = 1 .. 4, as PNG, TIFF, JPEG or WebP by the suffix of ``path``.

    The file appears complete or not at all. ``quality`` (1 to 100) is for JPEG and WebP.

    Raises:
        ImageError: see `check_writable`; a file that cannot be written.
    """
    check_array(array)
    write_bands(path, [array], array.shape, array.dtype, quality)


def write_bands(
    path: str | Path, bands: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype, quality: int = 95
) -> None:
    """`write` for a picture of ``shape`` that comes as ``bands`` of rows, top to bottom, and is never whole in memory;
    except as JPEG and WebP."""
    path = Path(path)
    check_writable(path, shape, dtype, quality)
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            codecs.encode(file, path.suffix.lower(), bands, shape, np.dtype(dtype), quality)
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror or error}") from error


def check_writable(path: str | Path, shape: tuple[int, ...], dtype: np.dtype, quality: int = 95) -> None:
    """Refuses what `write` could not write, before there is a picture.

    Raises:
        ImageError: unknown suffix; alpha, 16 bits or sides that the format does not hold; quality out of range.
    """
    codecs.check_writable(Path(path), shape, np.dtype(dtype))
    if not 1 <= quality <= 100:
        raise ImageError(f"quality must be between 1 and 100, got {quality}")


T = TypeVar("T")


def _reading(decoder: Callable[[Path], T], path: Path) -> T:
    try:
        return decoder(path)
    except FileNotFoundError:
        raise ImageError(f"no such image: {path}") from None
    except Exception as error:  # decoders raise all kinds: OSError, SyntaxError, struct.error, Exception
        raise ImageError(f"cannot read image {path}: {error or type(error).__name__}") from error


def _orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation (1 to 8; anything else means upright)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array
