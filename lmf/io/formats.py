"""Picture formats: how a file shows which it is, and what each can hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as PIL
from PIL import features

from lmf.errors import UserError

_AVIF = bool(features.check("avif"))
_HEIF = "HEIF" in PIL.OPEN  # where a plugin has registered it
_FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",) if _AVIF else (),
    "HEIF": (".heic", ".heif") if _HEIF else (),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k"),
}
FORMATS = {suffix: name for name, suffixes in _FORMATS.items() for suffix in suffixes}
SUFFIXES = tuple(FORMATS)
"""Suffixes of the files that `lmf.io.read` takes for pictures."""

WRITABLE = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", *_FORMATS["AVIF"], *_FORMATS["HEIF"])
"""Suffixes that `lmf.io.write` knows."""

_LOSSY = {"JPEG": 65535, "WEBP": 16383, "AVIF": 65535, "HEIF": 16384}  # with the most pixels a side
_SUBSAMPLING = ("4:4:4", "4:2:2", "4:2:0")


class ImageError(UserError):
    """A picture that cannot be understood, read or written."""


def sniff(path: Path) -> str:
    """The format of a file by its first bytes, whatever its suffix.

    Raises:
        ImageError: none that is known.
        OSError: a file that cannot be read.
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
        known = ", ".join(name for name, suffixes in _FORMATS.items() if suffixes)
        raise ImageError(f"it is none of {known}" if head else "the file is empty")
    if not _FORMATS[name]:
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
    """Whether pictures written with ``suffix`` lose detail."""
    return FORMATS.get(suffix.lower()) in _LOSSY


def check_writable(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, quality: int = 95, subsampling: str | None = None
) -> None:
    """Refuses what the format named by the suffix of ``path`` cannot hold.

    Raises:
        ImageError: naming the file.
    """
    suffix = path.suffix.lower()
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


def check_suffix(path: Path) -> None:
    """Refuses suffixes that are not in `WRITABLE`.

    Raises:
        ImageError: naming the file.
    """
    if path.suffix.lower() not in WRITABLE:
        raise ImageError(f"cannot write {path}: the suffix must be one of {', '.join(WRITABLE)}")


def check_options(quality: int, subsampling: str | None) -> None:
    """Refuses settings of lossy formats that do not exist.

    Raises:
        ImageError: quality out of range, unknown subsampling.
    """
    if not 1 <= quality <= 100:
        raise ImageError(f"quality must be between 1 and 100, got {quality}")
    if subsampling is not None and subsampling not in _SUBSAMPLING:
        raise ImageError(f"subsampling must be one of {', '.join(_SUBSAMPLING)}, got {subsampling!r}")
