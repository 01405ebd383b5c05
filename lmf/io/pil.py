"""Reads and writes files with Pillow, and converts its images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image as PIL

from lmf.io import jpeg, jpeg_writer
from lmf.io.formats import ImageError
from lmf.io.metadata import Metadata, from_info
from lmf.io.samples import full_range

# The largest number of pixels per byte, of formats whose files grow with their pictures.
_RATIO = {"JPEG": 1024, "GIF": 4096, "BMP": 256, "AVIF": 1 << 15}
_ANYWAY = {"AVIF": 1 << 26}  # accepted for files of any length, because flat pictures take few bytes
_EXIF_LONGEST, _XMP_LONGEST = 65527, 65502  # limits in bytes of a JPEG file
_FULL_CHROMA = 90  # the lowest quality at which chroma keeps its resolution


@contextmanager
def opened(source: Path | bytes, name: str) -> Iterator[PIL.Image]:
    """Open a file of the format ``name`` with Pillow.

    `PIL.Image.open` is not used because its limit on the size of pictures holds for the whole process.
    """
    PIL.init()
    factory, _ = PIL.OPEN[name]
    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file, factory(file, "") as image:
        yield image


def header(path: Path, name: str) -> tuple[tuple[int, int], Metadata, int]:
    """Return the stored (height, width), the metadata and the number of frames."""
    with opened(path, name) as image:
        # The other pictures of an MPO file are previews or other views of the first.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        size, ratio = (image.height, image.width), _RATIO.get(name)
        if ratio and size[0] * size[1] > max(ratio * path.stat().st_size, _ANYWAY.get(name, 0)):
            raise ImageError(f"the file lacks data: {path.stat().st_size} bytes cannot hold {size[1]} x {size[0]}")
        return size, from_info(image.info, image.mode), frames


def decode(path: Path, name: str) -> np.ndarray:
    """Decode a file to (H, W) or (H, W, C)."""
    if name == "JPEG":
        data = path.read_bytes()
        array = _decoded(data, name)
        if jpeg.lacks_data(data, array, lambda more: _decoded(more, name)):
            raise ImageError("the file is truncated")
        return array
    if name in ("JPEG2000", "AVIF"):  # Pillow reduces deeper ones to 8 bits
        bits = avif_depth(path) if name == "AVIF" else _jpeg2000_depth(path)
        if 8 < bits <= 16:
            reader = imagecodecs.avif_decode if name == "AVIF" else imagecodecs.jpeg2k_decode
            return full_range(reader(path.read_bytes()), 2**bits - 1)
    return _decoded(path, name)


def _decoded(source: Path | bytes, name: str) -> np.ndarray:
    with opened(source, name) as image:
        return from_pil(image)


def avif_depth(path: Path) -> int:
    """Return the bits per channel, 8, 10 or 12, from the configuration of the first picture."""
    data = path.read_bytes()
    at = data.find(b"av1C")
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _jpeg2000_depth(path: Path) -> int:
    """Return the bits per channel from the SIZ marker, or 0 if samples are signed."""
    data = path.read_bytes()
    at = data.find(b"\xff\x4f\xff\x51")
    value = data[at + 42] if 0 <= at < len(data) - 42 else 0
    return 0 if value & 0x80 else value + 1


def from_pil(image: PIL.Image) -> np.ndarray:
    """Convert a PIL image to (H, W) or (H, W, C) of uint8, uint16 or, for mode F, float32.

    Palettes and CMYK become RGB or RGBA.

    Raises:
        ImageError: if the mode is not supported, or mode I holds more than 16 bits.
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


def encode(
    file: BinaryIO,
    name: str,
    bands: Iterable[np.ndarray],
    shape: tuple[int, ...],
    metadata: Metadata,
    quality: int,
    subsampling: str | None,
) -> None:
    """Write a picture of uint8 in the format ``name``: JPEG band by band, WEBP, AVIF or HEIF as a whole.

    Args:
        file: the file.
        name: the format.
        bands: bands of rows from top to bottom.
        shape: (H, W[, C]).
        metadata: see `lmf.io.write`.
        quality: see `lmf.io.write`.
        subsampling: see `lmf.io.write`.
    """
    options: dict[str, object] = {"quality": quality, **_metadata(name, metadata)}
    if name != "WEBP":
        options["subsampling"] = subsampling or ("4:4:4" if quality >= _FULL_CHROMA else "4:2:0")
    if name == "JPEG":
        jpeg_writer.encode(file, bands, shape, options)
        return
    array = np.empty(shape, np.uint8)
    top = 0
    for band in bands:
        array[top : top + len(band)] = band
        top += len(band)
    PIL.fromarray(array[..., 0] if shape[2:] == (1,) else array).save(file, name, **options)


def _metadata(name: str, metadata: Metadata) -> dict[str, object]:
    """Return the options of Pillow that store ``metadata``, as far as the format ``name`` holds it."""
    exif, xmp = metadata.exif, metadata.xmp
    if name != "JPEG":
        exif = metadata.for_exif_alone()
    else:
        exif = exif if len(exif or b"") <= _EXIF_LONGEST else None
        xmp = xmp if len(xmp or b"") <= _XMP_LONGEST else None
    options: dict[str, object] = {"icc_profile": metadata.icc or b"", "exif": b"Exif\0\0" + exif if exif else b""}
    if xmp:
        options["xmp"] = xmp
    if name == "JPEG" and metadata.dpi:
        options["dpi"] = tuple(min(max(1, round(dpi)), 65535) for dpi in metadata.dpi)
    return options
