"""Tests of TIFF files of other programs and of files that lack data."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from lmf import io

from .corpus import by_pil, by_tifffile, noise

LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 7},
    "one strip": {},
    "tiles": {"tile": (16, 32)},
    "big-endian": {"byteorder": ">", "rowsperstrip": 7},
    "bigtiff": {"bigtiff": True},
}
COMPRESSIONS = [
    (None, False), ("lzw", False), ("lzw", True), ("zlib", False), ("zlib", True), ("packbits", False),
    ("zstd", True), ("lzma", False),
]  # fmt: skip


def read(path: Path, data: bytes) -> np.ndarray:
    (path / "a.tif").write_bytes(data)
    return io.read(path / "a.tif")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("compression", "predictor"), COMPRESSIONS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_layouts_and_compressions(
    tmp_path: Path, layout: str, compression: str | None, predictor: bool, dtype: str
) -> None:
    options = {**LAYOUTS[layout], "compression": compression, "predictor": predictor}
    for shape in ((30, 41), (30, 41, 3)):
        array = noise(*shape, dtype=dtype)
        kind = "rgb" if len(shape) == 3 else "minisblack"
        np.testing.assert_array_equal(read(tmp_path, by_tifffile(array, photometric=kind, **options)), array)
    planes = by_tifffile(array.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", **options)
    np.testing.assert_array_equal(read(tmp_path, planes), array)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "group4", "group3"])
def test_files_of_libtiff(tmp_path: Path, compression: str | None) -> None:
    rgb = Image.fromarray(noise(30, 41, 3))
    modes = ["1"] if compression in ("group3", "group4") else ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]
    for mode in modes:
        image = Image.fromarray(noise(30, 41, dtype="uint16")) if mode == "I;16" else rgb.convert(mode)
        got = read(tmp_path, by_pil(image, "TIFF", **({"compression": compression} if compression else {})))
        expected = image.convert({"1": "L", "P": "RGB", "CMYK": "RGB"}.get(mode, mode))
        atol = 1 if mode == "CMYK" else 0  # rounding
        np.testing.assert_allclose(got.astype(int), np.asarray(expected).astype(int), atol=atol)


@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw"])
def test_ycbcr(tmp_path: Path, compression: str) -> None:
    image = Image.fromarray(noise(32, 48, 3))
    got = read(tmp_path, by_pil(image.convert("YCbCr"), "TIFF", compression=compression))
    with Image.open(tmp_path / "a.tif") as stored:
        expected = np.asarray(stored.convert("RGB")).astype(int)
    assert np.abs(got - expected).max() <= 2


def directory(entries: dict[int, tuple[int, tuple[int, ...]]], pixels: bytes) -> bytes:
    """Return a little-endian TIFF file of one strip."""
    entries = {**entries, 273: (4, (8,)), 279: (4, (len(pixels),))}
    codes = {3: "H", 4: "I"}
    start = 8 + len(pixels) + len(pixels) % 2
    extra, body = b"", b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{codes[kind]}", *values)
        if len(packed) > 4:
            body += struct.pack("<HHII", tag, kind, len(values), after + len(extra))
            extra += packed
        else:
            body += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", start) + pixels.ljust(start - 8, b"\0")
    return head + struct.pack("<H", len(entries)) + body + bytes(4) + extra


def tags(width: int, height: int, bits: tuple[int, ...], photometric: int, **more: tuple[int, ...]) -> dict:
    found = {256: (4, (width,)), 257: (4, (height,)), 258: (3, bits), 259: (3, (1,)), 262: (3, (photometric,)),
             277: (3, (len(bits),)), 278: (4, (height,))}  # fmt: skip
    return found | {int(tag[1:]): (3, values) for tag, values in more.items()}


def test_interpretations_by_hand(tmp_path: Path) -> None:
    white = directory(tags(3, 1, (16,), 0), struct.pack("<3H", 0, 1, 65535))
    assert read(tmp_path, white).tolist() == [[65535, 65534, 0]]
    bits = directory(tags(4, 2, (1,), 0), b"\xa0\x50")
    assert read(tmp_path, bits).tolist() == [[0, 255, 0, 255], [255, 0, 255, 0]]
    nibbles = directory(tags(3, 1, (4,), 1), b"\x0f\x80")
    assert read(tmp_path, nibbles).tolist() == [[0, 255, 136]]
    inks = directory(tags(2, 1, (16,) * 4, 5), struct.pack("<8H", 0, 0, 0, 0, 65535, 0, 32768, 0))
    assert read(tmp_path, inks).tolist() == [[[65535, 65535, 65535], [0, 65535, 32767]]]
    colours = (*(257 * n for n in range(16)), *(257 * 2 * n for n in range(16)), *(0 for _ in range(16)))
    palette = directory(tags(2, 1, (4,), 3, t320=colours), b"\x1f")
    assert read(tmp_path, palette).tolist() == [[[1, 2, 0], [15, 30, 0]]]
    # Two rows and two columns share their chroma: Y Y Y Y Cb Cr.
    chroma = directory(tags(2, 2, (8, 8, 8), 6, t530=(2, 2)), bytes([0, 128, 255, 76, 128, 128]))
    assert read(tmp_path, chroma).tolist() == [[[0] * 3, [128] * 3], [[255] * 3, [76] * 3]]
    red = directory(tags(1, 1, (8, 8, 8), 6, t530=(1, 1)), bytes([76, 85, 255]))
    assert np.abs(read(tmp_path, red)[0, 0].astype(int) - (254, 0, 0)).max() <= 2


def test_alpha_by_hand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixel = struct.pack("<4H", 10000, 20000, 0, 32768)
    associated = directory(tags(1, 1, (16,) * 4, 2, t338=(1,)), pixel)
    assert read(tmp_path, associated).tolist() == [[[20000, 39999, 0, 32768]]]
    separate = directory(tags(1, 1, (16,) * 4, 2, t338=(2,)), pixel)
    assert read(tmp_path, separate).tolist() == [[[10000, 20000, 0, 32768]]]
    assert not caplog.text
    infrared = directory(tags(1, 1, (16,) * 4, 2, t338=(0,)), pixel)
    assert read(tmp_path, infrared).tolist() == [[[10000, 20000, 0]]]
    assert "1 extra channels that are not alpha" in caplog.text
    grey = directory(tags(1, 1, (8, 8), 1, t338=(1,)), b"\x20\x80")
    assert read(tmp_path, grey).tolist() == [[[64, 128]]]


def test_pages_of_any_kind(tmp_path: Path) -> None:
    pages = [noise(30, 40, 3), noise(20, 11, dtype="uint16"), noise(30, 40, seed=5)]
    path = tmp_path / "a.tif"
    path.write_bytes(by_tifffile(*pages))
    got = [page.pixels for page in io.read_pages(path)]
    assert io.read_header(path).pages == 3
    for mine, theirs in zip(got, pages, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(io.ImageError, match=f"{path}: it has 3 pages"):
        io.read(path)
    path.write_bytes(path.read_bytes()[: -len(pages[2].tobytes()) // 2])  # the last page is cut
    with pytest.raises(io.ImageError):
        list(io.read_pages(path))
    with tifffile.TiffWriter(path) as tiff:  # a smaller copy is no page
        tiff.write(pages[0])
        tiff.write(pages[0][::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(io.read(path), pages[0])


def test_pages_are_written(tmp_path: Path) -> None:
    pages = [noise(30, 40, 3), noise(20, 11, dtype="uint16"), noise(30, 40, 4)]
    io.write_pages(tmp_path / "a.tif", (io.Page([p], p.shape, p.dtype) for p in pages), count=3)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        for page, expected in zip(tiff.pages, pages, strict=True):
            np.testing.assert_array_equal(page.asarray(), expected)
    with pytest.raises(io.ImageError, match=r"only \.tif holds 3 pages"):
        io.write_pages(tmp_path / "a.png", (io.Page([p], p.shape, p.dtype) for p in pages), count=3)


def altered(data: bytes, code: int, value: int) -> bytes:
    """Return ``data`` with another value of a tag, or of the last of its values."""
    out = bytearray(data)
    with tifffile.TiffFile(BytesIO(data)) as tiff:
        tag = tiff.pages.first.tags[code]
        width = {3: 2, 4: 4}[int(tag.dtype)]
        at = tag.valueoffset + width * (tag.count - 1)
    out[at : at + width] = value.to_bytes(width, "little")
    return bytes(out)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("layout", ["strips", "tiles"])
def test_what_lacks_data_is_refused(tmp_path: Path, dtype: str, compression: str | None, layout: str) -> None:
    data = by_tifffile(noise(64, 48, 3, dtype=dtype), photometric="rgb", compression=compression, **LAYOUTS[layout])
    offsets, counts = (324, 325) if layout == "tiles" else (273, 279)
    damaged = {
        "count of zero": altered(data, counts, 0),
        "short count": altered(data, counts, 20),
        "beyond the end": altered(data, offsets, len(data) - 5),
        "twice as high": altered(data, 257, 128),
        "wider": altered(data, 256, 480),
        "cut": data[: len(data) * 2 // 3],
        "one byte": data[:-1] if compression is None and layout == "strips" else data[:-60],
    }
    np.testing.assert_array_equal(read(tmp_path, data), noise(64, 48, 3, dtype=dtype))
    for name, variant in damaged.items():
        (tmp_path / "a.tif").write_bytes(variant)
        with pytest.raises(io.ImageError) as caught:
            io.read(tmp_path / "a.tif")
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((4, 4), np.float32), {}, "floating-point"),
        (np.zeros((4, 4), np.int16), {}, "signed"),
        (np.zeros((4, 4), np.uint32), {}, "32 bits"),
        (np.zeros((4, 4, 3), np.uint8), {"photometric": "cielab"}, "CIELAB"),
    ],
)
def test_other_kinds_are_named(tmp_path: Path, array: np.ndarray, options: dict[str, Any], message: str) -> None:
    with pytest.raises(io.ImageError, match=message):
        read(tmp_path, by_tifffile(array, **options))
