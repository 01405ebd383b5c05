"""Tests that colour profile, EXIF, XMP and resolution are kept, as read by other programs."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from lmf import io
from lmf.io.metadata import Metadata

from . import corpus

SIZE = (30, 40)
FORMATS = ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"]
SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp", "AVIF": ".avif"}


def stored(name: str, orientation: int = 1) -> bytes:
    options: dict[str, Any] = {"exif": corpus.exif(orientation), "icc_profile": corpus.ICC}
    if name in ("PNG", "JPEG", "TIFF"):
        options["dpi"] = (300, 150)
    if name in ("JPEG", "WEBP", "AVIF"):
        options["xmp"] = corpus.XMP
    return corpus.by_pil(corpus.noise(*SIZE, 3), name, **options)


def enlarged(path: Path, out: Path) -> None:
    """Enlarge a file like the command, but by repeating pixels."""
    pages = list(io.read_pages(path))
    made = []
    for page in pages:
        array = page.pixels.repeat(2, axis=0).repeat(2, axis=1)
        said = page.metadata.enlarged(page.pixels.shape[:2], array.shape[:2])
        made.append(io.Page([array], array.shape, array.dtype, said))
    io.write_pages(out, made, len(made))


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_every_format_to_every_format(tmp_path: Path, source: str, target: str) -> None:
    path, out = tmp_path / f"a{SUFFIX[source]}", tmp_path / f"b{SUFFIX[target]}"
    path.write_bytes(stored(source))
    enlarged(path, out)
    with Image.open(out) as image:
        image.load()
        exif, info = image.getexif(), image.info
        assert info["icc_profile"] == corpus.ICC
        assert exif[0x010F] == "Maker"
        assert exif.get(0x0112, 1) == 1
        details = exif.get_ifd(0x8769)
        assert (details[0xA002], details[0xA003]) == (80, 60)
        assert details[0x9003] == "2020:01:02 03:04:05"
        assert float(details[0x829A]) == pytest.approx(1 / 125)
        assert exif.get_ifd(0x8825)[2] == (52.0, 31.0, 12.0)
        if source in ("PNG", "JPEG", "TIFF"):
            resolution = info["dpi"] if target in ("PNG", "JPEG", "TIFF") else (exif[0x011A], exif[0x011B])
            assert tuple(map(float, resolution)) == pytest.approx((600, 300), rel=1e-3)
        if source in ("JPEG", "WEBP", "AVIF"):
            xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
            xmp = xmp.encode() if isinstance(xmp, str) else xmp
            assert xmp == corpus.XMP.replace(b'"6"', b'"1"')  # upright


@pytest.mark.parametrize("name", FORMATS)
def test_orientation_is_applied_once(tmp_path: Path, name: str) -> None:
    path, out = tmp_path / f"a{SUFFIX[name]}", tmp_path / f"b{SUFFIX[name]}"
    path.write_bytes(stored(name, 6))
    enlarged(path, out)
    with Image.open(path) as image:
        expected = np.rot90(np.asarray(image.convert("RGB")), -1 if image.size == SIZE[::-1] else 0)
    with Image.open(out) as image:
        assert image.size == (60, 80)
        assert image.getexif().get(0x0112, 1) == 1
        if name in ("PNG", "JPEG", "TIFF"):
            assert tuple(map(float, image.info["dpi"])) == pytest.approx((300, 600), rel=1e-3)
        shrunk = np.asarray(image)[::2, ::2].astype(int)
    assert np.abs(shrunk - expected).mean() < 8


def second_directory(block: bytes) -> tuple[int, int]:
    """Return the position of the offset of the second directory, the thumbnail, in an EXIF block, and that offset."""
    order = "little" if block[:2] == b"II" else "big"
    first = int.from_bytes(block[4:8], order)
    link = first + 2 + 12 * int.from_bytes(block[first : first + 2], order)
    return link, int.from_bytes(block[link : link + 4], order)


def test_the_thumbnail_is_dropped(tmp_path: Path) -> None:
    thumbnail, block = corpus.by_pil(corpus.noise(8, 10, 3), "JPEG"), corpus.exif()[6:]
    order = "little" if block[:2] == b"II" else "big"
    link, _ = second_directory(block)
    second = (2).to_bytes(2, order)
    for tag, value in ((0x0201, len(block) + 2 + 24 + 4), (0x0202, len(thumbnail))):
        second += tag.to_bytes(2, order) + (4).to_bytes(2, order) + (1).to_bytes(4, order) + value.to_bytes(4, order)
    block = block[:link] + len(block).to_bytes(4, order) + block[link + 4 :] + second + bytes(4) + thumbnail
    path = tmp_path / "a.jpg"
    path.write_bytes(corpus.by_pil(corpus.noise(*SIZE, 3), "JPEG", exif=b"Exif\0\0" + block))
    assert thumbnail in path.read_bytes()
    enlarged(path, tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.getexif()[0x010F] == "Maker"
        assert second_directory(image.info["exif"][6:])[1] == 0
    assert thumbnail not in (tmp_path / "b.jpg").read_bytes()


def test_16_bit_tiff_keeps_everything(tmp_path: Path) -> None:
    data = corpus.by_tifffile(
        corpus.noise(30, 40, 3, dtype="uint16"),
        photometric="rgb",
        byteorder=">",
        iccprofile=corpus.ICC,
        resolution=(118.11, 59.055),
        resolutionunit="centimeter",
        extratags=[(700, 1, len(corpus.XMP), corpus.XMP, True), (271, 2, 6, b"Maker\0", True)],
    )
    (tmp_path / "a.tif").write_bytes(data)
    enlarged(tmp_path / "a.tif", tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        tags = tiff.pages.first.tags
        assert tags.valueof(34675) == corpus.ICC
        assert tags.valueof(700) == corpus.XMP.replace(b'"6"', b'"1"')
        assert tags.valueof(271) == "Maker"
        assert tags.valueof(282)[0] / tags.valueof(282)[1] == pytest.approx(600, rel=1e-3)
        assert tags.valueof(283)[0] / tags.valueof(283)[1] == pytest.approx(300, rel=1e-3)
        assert tags.valueof(296) == 2
        assert tags.valueof(305) == "tifffile.py"  # who wrote the source


def test_png_keeps_how_its_colours_are_meant(tmp_path: Path) -> None:
    chunks = [corpus.chunk(b"gAMA", (45455).to_bytes(4)), corpus.chunk(b"cICP", bytes([9, 16, 0, 1]))]
    (tmp_path / "a.png").write_bytes(corpus.by_hand(corpus.noise(*SIZE, 3), 8, 2, *chunks))
    enlarged(tmp_path / "a.png", tmp_path / "b.png")
    data = (tmp_path / "b.png").read_bytes()
    assert all(chunk in data for chunk in chunks)


def test_a_profile_of_inks_does_not_describe_rgb(tmp_path: Path) -> None:
    inks = corpus.ICC[:16] + b"CMYK" + corpus.ICC[20:]
    image = Image.fromarray(corpus.noise(*SIZE, 3)).convert("CMYK")
    for name in ("a.jpg", "a.tif"):
        image.save(tmp_path / name, icc_profile=inks)
        enlarged(tmp_path / name, tmp_path / "b.png")
        with Image.open(tmp_path / "b.png") as out:
            assert "icc_profile" not in out.info


@pytest.mark.parametrize("target", FORMATS)
def test_damaged_metadata_do_not_keep_a_picture_from_being_read(tmp_path: Path, target: str) -> None:
    rng = np.random.default_rng(0)
    for number in range(30):
        block = bytearray(corpus.exif()[6:])
        for place in rng.integers(8, len(block), 6):
            block[place] = rng.integers(256)
        (tmp_path / "a.jpg").write_bytes(corpus.by_pil(corpus.noise(*SIZE, 3), "JPEG", exif=b"Exif\0\0" + bytes(block)))
        out = tmp_path / f"b{number}{SUFFIX[target]}"
        enlarged(tmp_path / "a.jpg", out)
        assert io.read(out).shape == (60, 80, 3) or io.read(out).shape == (80, 60, 3)


def test_metadata_too_long_for_jpeg_are_left_out(tmp_path: Path) -> None:
    block = Image.Exif()
    block[0x010E] = "x" * 70000
    long = Metadata(exif=block.tobytes()[6:], xmp=b"y" * 70000)
    io.write(tmp_path / "a.jpg", corpus.noise(*SIZE, 3), metadata=long)
    assert io.read(tmp_path / "a.jpg").shape == (*SIZE, 3)
    io.write(tmp_path / "a.png", corpus.noise(*SIZE, 3), metadata=long)
    with Image.open(BytesIO((tmp_path / "a.png").read_bytes())) as image:
        assert len(image.getexif()[0x010E]) == 70000
