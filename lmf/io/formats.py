"""Picture formats: how to recognise them and what each can hold."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image as PIL
from PIL import features

from lmf.errors import UserError

_AVIF = bool(features.check("avif"))
_HEIF = "HEIF" in PIL.OPEN  # where a plugin has registered it
_FORMATS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # suffixes to read and write, and to read only
    "PNG": ((".png",), (".apng",)),
    "TIFF": ((".tif", ".tiff"), ()),
    "JPEG": ((".jpg", ".jpeg"), (".jfif", ".jpe")),
    "WEBP": ((".webp",), ()),
    "AVIF": ((".avif",) if _AVIF else (), ()),
    "HEIF": ((".heic", ".heif") if _HEIF else (), ()),
    "BMP": ((), (".bmp",)),
    "GIF": ((), (".gif",)),
    "PPM": ((), (".ppm", ".pgm", ".pbm", ".pnm")),
    "JPEG2000": ((), (".jp2", ".j2k")),
}
FORMATS = {suffix: name for name, suffixes in _FORMATS.items() for suffix in chain(*suffixes)}
"""The format that each suffix stands for."""

SUFFIXES = tuple(FORMATS)
"""Suffixes of the files that `list_pictures` lists."""

WRITABLE = tuple(suffix for written, _ in _FORMATS.values() for suffix in written)
"""Suffixes that `write` accepts."""

_LOSSY = {"JPEG": 65535, "WEBP": 16383, "AVIF": 65535, "HEIF": 16384}  # the largest side in pixels
_WHOLE = {"WEBP": 30, "AVIF": 50, "HEIF": 50}  # bytes a pixel in memory while a picture is compressed, measured
_SUBSAMPLING = ("4:4:4", "4:2:2", "4:2:0")


class ImageError(UserError):
    """Raised if a picture is damaged, not supported, or cannot be read or written."""


def sniff(path: Path) -> str:
    """Return the format of a file by its first bytes, whatever its suffix.

    Raises:
        ImageError: if the format is unknown, or the installed Pillow cannot read it.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(32)
    if head[4:8] == b"ftyp":
        name = _sniff_ftyp(head)
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        name = "WEBP"
    else:
        name = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
    if not name:
        known = ", ".join(dict.fromkeys(FORMATS.values()))
        raise ImageError(f"it is none of {known}" if head else "the file is empty")
    if name not in FORMATS.values():
        raise ImageError(f"the installed Pillow does not read {name}; convert it to PNG first")
    return name


_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    **{b"P%d" % n: "PPM" for n in range(1, 7)},
}


def _sniff_ftyp(head: bytes) -> str:
    brands = {head[8:12], *(head[i : i + 4] for i in range(16, 32, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"} else ""


def is_lossy(suffix: str) -> bool:
    """Return whether files with ``suffix`` are compressed with loss."""
    return FORMATS.get(suffix.lower()) in _LOSSY


def check_writable(
    path: str | Path, shape: tuple[int, ...], dtype: np.dtype, quality: int = 95, subsampling: str | None = None
) -> None:
    """Check that `write` can write a picture, before there is one.

    Args:
        path: the file. Its suffix decides the format.
        shape: (H, W[, C]).
        dtype: uint8 or uint16.
        quality: see `write`.
        subsampling: see `write`.

    Raises:
        ImageError: if the suffix or an option is unknown, or if the format holds no alpha, no 16 bits or no sides of
            this length. The message names the file.
    """
    suffix = Path(path).suffix.lower()
    check_suffix(path)
    check_options(quality, subsampling)
    name = FORMATS[suffix]
    if name not in _LOSSY:
        return
    if dtype == np.uint16:
        raise ImageError(f"cannot write {path}: {suffix[1:]} holds 8 bits a channel, write 16 bits as .png or .tif")
    if shape[2:] in ((2,), (4,)) and name == "JPEG":
        raise ImageError(f"cannot write {path}: JPEG has no alpha channel, write .png, .tif or .webp, or drop alpha")
    if max(shape[:2]) > _LOSSY[name]:
        size = f"{shape[1]} x {shape[0]}"
        raise ImageError(f"cannot write {path}: {suffix[1:]} holds {_LOSSY[name]} pixels a side, got {size}; "
                         f"write .png or .tif")  # fmt: skip


def memory_to_write(path: str | Path, shape: tuple[int, ...]) -> int:
    """Return the bytes that `write_pages` needs for a whole picture of ``shape`` (H, W[, C]).

    It is 0 for PNG, TIFF and JPEG, which are written in bands. WebP needs 30 bytes a pixel, AVIF and HEIF need 50.
    """
    return _WHOLE.get(FORMATS.get(Path(path).suffix.lower(), ""), 0) * shape[0] * shape[1]


def check_suffix(path: str | Path) -> None:
    """Check that the suffix of ``path`` is in `WRITABLE`.

    Raises:
        ImageError: if not. The message names the file.
    """
    if Path(path).suffix.lower() not in WRITABLE:
        raise ImageError(f"cannot write {path}: the suffix must be one of {', '.join(WRITABLE)}")


def check_options(quality: int, subsampling: str | None) -> None:
    """Check the options of lossy formats.

    Raises:
        ImageError: if ``quality`` is not a whole number from 1 to 100, or ``subsampling`` is unknown.
    """
    if type(quality) is not int or not 1 <= quality <= 100:
        raise ImageError(f"quality must be a whole number between 1 and 100, got {quality!r}")
    if subsampling is not None and subsampling not in _SUBSAMPLING:
        raise ImageError(f"subsampling must be one of {', '.join(_SUBSAMPLING)}, got {subsampling!r}")
