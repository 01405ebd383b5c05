"""Small valid pictures of every readable format, from encoders other than `lmf.io`."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import tifffile
from PIL import Image, features
from PIL.TiffImagePlugin import IFDRational

ICC = struct.pack(">I4s4s4s4s4s", 132, b"none", b"\2\0\0\0", b"mntr", b"RGB ", b"XYZ ") + bytes(108)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'


def noise(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Return noise that compresses like a photograph: smooth, with a little grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    base = 0.5 + 0.35 * np.sin(y / 5 + x / 9)
    base = base[..., None] if len(shape) == 3 else base
    values = np.clip(base + rng.normal(0, 0.04, shape), 0, 1)
    return (values * np.iinfo(dtype).max).astype(dtype)


def exif(orientation: int = 1) -> bytes:
    block = Image.Exif()
    block[0x010F], block[0x0112], block[0x011A], block[0x011B] = "Maker", orientation, 72.0, 72.0
    block.get_ifd(0x8769).update({0xA002: 40, 0xA003: 30, 0x9003: "2020:01:02 03:04:05", 0x829A: IFDRational(1, 125)})
    block.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    return block.tobytes()


def by_pil(image: Image.Image | np.ndarray, name: str, **options: Any) -> bytes:
    file = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, name, **options)
    return file.getvalue()


def by_tifffile(*arrays: np.ndarray, byteorder: str = "<", bigtiff: bool = False, **options: Any) -> bytes:
    file = BytesIO()
    with tifffile.TiffWriter(file, byteorder=byteorder, bigtiff=bigtiff) as tiff:
        for array in arrays:
            tiff.write(array, metadata=None, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def by_hand(array: np.ndarray, depth: int = 16, colour: int | None = None, *chunks: bytes) -> bytes:
    """Return a PNG file without filters; ``array`` (H, W[, C]) holds packed bytes of rows if ``depth`` is below 8."""
    height, width = array.shape[0], array.shape[1] * (8 // depth if depth < 8 else 1)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[(*array.shape, 1)[2]] if colour is None else colour
    rows = array.astype(">u2") if depth == 16 else array
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *chunks, chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    )


def corpus() -> dict[str, bytes]:
    """Return the content of each file by its name."""
    rgb, deep = noise(30, 40, 3), noise(30, 40, 3, dtype="uint16")
    said: dict[str, Any] = {"exif": exif(), "icc_profile": ICC}
    image = Image.fromarray(rgb)
    files = {
        "rgb.png": by_pil(rgb, "PNG", dpi=(300, 300), **said),
        "grey.png": by_pil(rgb[..., 0], "PNG"),
        "alpha.png": by_pil(noise(30, 40, 4), "PNG"),
        "bits.png": by_pil(image.convert("1"), "PNG"),
        "palette.png": by_pil(image.quantize(17), "PNG", transparency=3),
        "deep.png": by_hand(deep),
        "keyed.png": by_hand(deep, 16, None, chunk(b"tRNS", deep[3, 4].astype(">u2").tobytes())),
        "baseline.jpg": by_pil(rgb, "JPEG", xmp=XMP, dpi=(300, 300), **said),
        "fine.jpg": by_pil(rgb, "JPEG", quality=95, subsampling=0),
        "progressive.jpg": by_pil(rgb, "JPEG", progressive=True),
        "restarts.jpg": by_pil(rgb, "JPEG", restart_marker_rows=1),
        "grey.jpg": by_pil(rgb[..., 0], "JPEG"),
        "inks.jpg": by_pil(image.convert("CMYK"), "JPEG"),
        "lossy.webp": by_pil(rgb, "WEBP", xmp=XMP, **said),
        "lossless.webp": by_pil(noise(30, 40, 4), "WEBP", lossless=True),
        "palette.gif": by_pil(image.quantize(64), "GIF"),
        "rgb.bmp": by_pil(rgb, "BMP"),
        "palette.bmp": by_pil(image.quantize(64), "BMP"),
        "rgb.ppm": by_pil(rgb, "PPM"),
        "deep.pgm": b"P5 # grey\n40 30\n65535\n" + deep[..., 0].astype(">u2").tobytes(),
        "text.ppm": b"P3\n40 30 255\n" + b"".join(b"%d\n" % value for value in rgb.flat),
        "bits.pbm": b"P4\n40 30\n" + np.packbits(rgb[..., 0] > 127, axis=1).tobytes(),
        "rgb.jp2": by_pil(rgb, "JPEG2000"),
    }  # fmt: skip
    if features.check("avif"):
        files["rgb.avif"] = by_pil(rgb, "AVIF", xmp=XMP, **said)
    tiffs: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "plain": (rgb, {"rowsperstrip": 7}),
        "motorola": (deep, {"byteorder": ">"}),
        "lzw": (deep, {"compression": "lzw", "predictor": True, "rowsperstrip": 7}),
        "deflate": (rgb, {"compression": "zlib", "predictor": True}),
        "packbits": (rgb, {"compression": "packbits", "rowsperstrip": 9}),
        "zstd": (deep, {"compression": "zstd"}),
        "lzma": (rgb, {"compression": "lzma"}),
        "jpeg": (rgb, {"compression": "jpeg"}),
        "tiles": (deep, {"tile": (16, 16), "compression": "zlib"}),
        "planes": (deep.transpose(2, 0, 1), {"planarconfig": "separate", "compression": "lzw"}),
        "inks": (noise(30, 40, 4), {"photometric": "separated"}),
        "palette": (rgb[..., 0], {"photometric": "palette", "colormap": noise(3, 256, dtype="uint16")}),
        "white": (rgb[..., 0], {"photometric": "miniswhite"}),
        "bits": (rgb[..., 0] > 127, {"photometric": "minisblack"}),
        "alpha": (noise(30, 40, 4), {"extrasamples": ["assocalpha"]}),
        "large": (deep, {"bigtiff": True}),
    }
    for name, (array, options) in tiffs.items():
        if "photometric" not in options:
            options = {"photometric": "rgb", **options}
        files[f"{name}.tif"] = by_tifffile(array, **options)
    files["pages.tif"] = by_tifffile(rgb[..., 0], deep[..., 0], noise(20, 11))
    files["pillow.tif"] = by_pil(rgb, "TIFF", dpi=(300, 300), **said)
    return files
