"""Metadata of pictures: colour profile, EXIF, XMP and resolution."""

from __future__ import annotations

import logging
import re
import struct
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image as PIL

log = logging.getLogger(__name__)

ORIENTATION, MAKE, MODEL = 0x0112, 0x010F, 0x0110
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
_EXIF_WIDTH, _EXIF_HEIGHT = 0xA002, 0xA003
_INCH = 2

# Tags of IFD 0 that describe the picture. TIFF files keep the layout of their pixels in the same directory, and some
# programs copy those tags as well.
_DESCRIPTIVE = {0x010D, 0x010E, MAKE, MODEL, ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, 0x0131, 0x0132,
                0x013B, 0x013C, 0x0213, 0x4746, 0x4749, 0x8298, EXIF_IFD, GPS_IFD, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E,
                0x9C9F}  # fmt: skip
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))[2-8]")


@dataclass(frozen=True)
class Metadata:
    """Metadata of a picture.

    Attributes:
        icc: ICC colour profile.
        exif: EXIF block, a TIFF structure without the "Exif" prefix.
        xmp: XMP packet.
        dpi: pixels per inch, (horizontal, vertical).
        chunks: (name, data) of PNG chunks about colours, which other formats cannot hold.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    chunks: tuple[tuple[bytes, bytes], ...] = ()

    def enlarged(self, old: tuple[int, int], new: tuple[int, int], upright: bool = True) -> Metadata:
        """Return the metadata after an enlargement from ``old`` (height, width) to ``new``.

        The resolution changes so that the printed size stays the same. EXIF loses its thumbnail and gets the new size.

        Args:
            old: (height, width) before.
            new: (height, width) after.
            upright: whether the pixels have been rotated upright; the orientation then becomes 1.
        """
        dpi = self.dpi and (self.dpi[0] * new[1] / old[1], self.dpi[1] * new[0] / old[0])
        exif = self.exif and _enlarged_exif(self.exif, new, dpi, upright)
        xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", self.xmp) if self.xmp and upright else self.xmp
        return replace(self, dpi=dpi, exif=exif, xmp=xmp)

    def transposed(self) -> Metadata:
        """Return the metadata after swapping rows and columns."""
        return replace(self, dpi=self.dpi and self.dpi[::-1])

    def for_exif_alone(self) -> bytes | None:
        """Return the EXIF block with the resolution, for formats that hold the resolution nowhere else."""
        if self.dpi is None:
            return self.exif
        exif = parse_exif(self.exif or b"") or PIL.Exif()
        _set_dpi(exif, self.dpi)
        return _bytes(exif)


def fitting_icc(profile: bytes | None, mode: str = "") -> bytes | None:
    """Return ``profile`` if it describes RGB or grey pixels, which all pictures are converted to; None otherwise."""
    return profile if profile and profile[16:20] in (b"RGB ", b"GRAY") and mode not in ("CMYK", "LAB") else None


def from_info(info: dict[Any, Any], mode: str) -> Metadata:
    """Return the metadata in the ``info`` of a PIL image in ``mode``."""
    exif, xmp, dpi = info.get("exif"), info.get("xmp"), info.get("dpi")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return Metadata(
        icc=fitting_icc(info.get("icc_profile"), mode),
        exif=exif.removeprefix(b"Exif\0\0") if exif else None,
        xmp=xmp or None,
        dpi=checked_dpi(dpi),
    )


def of_pil(image: PIL.Image) -> Metadata:
    """Return the metadata of a PIL image."""
    found = from_info(image.info, image.mode)
    if found.exif is None and len(exif := image.getexif()):
        found = replace(found, exif=descriptive(exif))
    return found


def to_info(metadata: Metadata) -> dict[str, Any]:
    """Return ``metadata`` as the ``info`` of a PIL image, with the keys that PIL uses."""
    exif = metadata.exif and b"Exif\0\0" + metadata.exif
    found = {"icc_profile": metadata.icc, "exif": exif, "xmp": metadata.xmp, "dpi": metadata.dpi}
    return {name: value for name, value in found.items() if value}


def checked_dpi(dpi: Any) -> tuple[float, float] | None:
    """Return ``dpi`` as two positive numbers, or None if it is not valid."""
    try:
        x, y = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e9 and 0 < y < 1e9 else None


def parse_exif(data: bytes) -> PIL.Exif | None:
    """Parse an EXIF block; return None if it is damaged."""
    exif = PIL.Exif()
    try:
        exif.load(b"Exif\0\0" + data)
        for ifd in (EXIF_IFD, GPS_IFD):
            exif.get_ifd(ifd)
        dict(exif)
    except Exception:  # PIL raises SyntaxError, struct.error, KeyError, TypeError and others
        return None
    return exif


def orientation_of(exif: bytes | None) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none."""
    parsed = parse_exif(exif) if exif else None
    value = parsed.get(ORIENTATION, 1) if parsed is not None else 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def descriptive(exif: PIL.Exif) -> bytes | None:
    """Return the first directory of a TIFF file as an EXIF block, without the layout of its pixels."""
    for tag in set(exif) - _DESCRIPTIVE:
        del exif[tag]
    exif.bigtiff = False
    return _bytes(exif) if len(exif) else None


def _enlarged_exif(data: bytes, size: tuple[int, int], dpi: tuple[float, float] | None, upright: bool) -> bytes | None:
    exif = parse_exif(data)
    if exif is None:
        log.warning("the EXIF data is damaged and is left out")
        return None
    if upright and ORIENTATION in exif:
        exif[ORIENTATION] = 1
    if dpi and X_RESOLUTION in exif:
        _set_dpi(exif, dpi)
    for tag in set(exif) - _DESCRIPTIVE:
        del exif[tag]
    ifd = exif.get_ifd(EXIF_IFD)
    for tag, length in ((_EXIF_WIDTH, size[1]), (_EXIF_HEIGHT, size[0])):
        if tag in ifd:
            ifd[tag] = length
    return _bytes(exif)


def _set_dpi(exif: PIL.Exif, dpi: tuple[float, float]) -> None:
    exif[X_RESOLUTION], exif[Y_RESOLUTION] = dpi
    exif[RESOLUTION_UNIT] = _INCH


def _bytes(exif: PIL.Exif) -> bytes | None:
    """Return ``exif`` as a TIFF structure, without the thumbnail in its second directory."""
    try:
        return exif.tobytes().removeprefix(b"Exif\0\0")
    except (struct.error, TypeError, ValueError, KeyError, AttributeError, OverflowError, ZeroDivisionError) as error:
        log.warning(f"the EXIF data cannot be written and is left out: {error}")
        return None
